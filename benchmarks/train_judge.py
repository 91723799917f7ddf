"""Train the judge of `minigan.metrics.judge`, and write its weights into the package as float16.

    python benchmarks/train_judge.py [--epochs 10] [--seed 0] [--out minigan/metrics/judge.npz]
    python benchmarks/train_judge.py --check

The judge is trained on the training digits, shifted by up to two pixels in each direction, with cross entropy and Adam.
The learning rate decreases linearly to 0. At the end, the script prints how many of the 10,000 test digits the judge
with the weights in the file reads correctly.

The weights in the package are those of seed 0. --check trains them again and compares them instead of writing them. The
training runs in float64, so that other kernels, which round differently, give the same weights: the rounding errors
stay far below the resolution of float16. In float32 they do not. The numpy backend, which adds in a different order
everywhere, gives the same 208,674 weights: `--check --backend numpy`, 38 minutes on one core.
"""

import argparse
import io
from pathlib import Path

import numpy as np
from tqdm import tqdm

from minigan import backends, datasets, losses, optim
from minigan.files import write_atomically
from minigan.layers import fuse
from minigan.metrics.judge import WEIGHTS, Judge, judge_network


def main() -> None:
    """Train the judge, write or compare its weights, and count the test digits that it reads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backend", default="auto", choices=["auto", *backends.NAMES])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--check", action="store_true", help="compare with the weights in --out instead of writing")
    options = parser.parse_args()
    backend = backends.load(options.backend, threads=options.threads)
    weights = rounded_weights(backend, datasets.mnist("train"), options.epochs, options.seed)
    differ = 0
    if options.check:
        differ = compare(weights, options.out)
    else:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **weights)
        write_atomically(options.out, buffer.getvalue())
    judge = Judge(backend, options.out)
    test = datasets.mnist("test")
    right = (judge.features_and_probabilities(test.images)[1].argmax(axis=1) == test.labels).sum()
    print(f"{options.out}: {options.out.stat().st_size / 1024:.0f} KiB, reads {right:,} of {len(test):,} test digits")
    raise SystemExit(int(differ > 0))


def rounded_weights(backend, data: datasets.Images, epochs: int, seed: int) -> dict[str, np.ndarray]:
    """Train a judge in float64; return its weights and running statistics by name, as float16."""
    rng = np.random.default_rng(seed)
    network = judge_network(rng).to(backend, np.float64)
    train(network, data, epochs, rng)
    tensors = network.params | {name: b for name, b in network.buffers.items() if b.dtype.kind == "f"}
    return {name: backend.to_numpy(t).astype(np.float16) for name, t in tensors.items()}


def compare(weights: dict[str, np.ndarray], file: Path) -> int:
    """Print and return the number of weights that differ from those in the file."""
    with np.load(file, allow_pickle=False) as saved:
        differ = sum(int((saved[name] != w).sum()) for name, w in weights.items())
    print(f"{differ:,} of {sum(w.size for w in weights.values()):,} weights differ from those in {file}")
    return differ


def train(network, data: datasets.Images, epochs: int, rng, batch: int = 128, lr: float = 2e-3, shift: int = 2) -> None:
    """Train a classifier in place, in the precision of its weights."""
    backend, adam = network.backend, optim.Adam(network, lr=lr)
    dtype = next(iter(network.params.values())).dtype
    fused = fuse(network)
    steps, total = len(data) // batch, epochs * (len(data) // batch)
    padded = np.pad(data.images, ((0, 0), (shift, shift), (shift, shift), (0, 0)))
    side = data.images.shape[1]
    bar = tqdm(total=total, unit="step")
    for _ in range(epochs):
        order = rng.permutation(len(data))
        for k in range(steps):
            chosen = order[k * batch : (k + 1) * batch]
            down, right = rng.integers(2 * shift + 1, size=2)  # one shift for each batch
            x = datasets.scale(padded[chosen, down : down + side, right : right + side])
            adam.lr = lr * (1 - bar.n / total)
            with backend.computing():
                logits, cache = fused.forward(backend.asarray(x, dtype=dtype))
                loss, dlogits = losses.cross_entropy(logits, backend.asarray(data.labels[chosen]))
                _, grads = fused.backward(dlogits, cache, need_dx=False)
                adam.step(grads)
            bar.update()
        bar.set_postfix_str(f"loss {float(loss):.4f}")
    bar.close()


if __name__ == "__main__":
    main()
