"""Trains the judge of `minigan.evaluate` and writes its weights, as float16, into the package.

    python benchmarks/train_judge.py [--epochs 10] [--seed 0] [--out minigan/judge.npz]

Training digits shifted by up to two pixels each way, cross entropy, Adam with a rate that falls in a straight line to
0. At the end it prints how many of the 10,000 test digits the rounded weights read.

The same seed gives the same weights as long as kernels and processor round alike. Those in the package are of an
earlier day's kernels: with today's, the script comes to others, which read 9,949. A new judge makes every figure of the
old one incomparable, so they stay until all are measured again.
"""

import argparse
import io

import numpy as np
from tqdm import tqdm

from minigan import backends, datasets, evaluate, losses, optim
from minigan.checkpoint import write_atomically


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=evaluate.Path, default=evaluate.WEIGHTS)
    options = parser.parse_args()
    backend = backends.load("auto")
    backend.set_threads(options.threads)
    rng = np.random.default_rng(options.seed)
    network = evaluate.judge_network(rng).to(backend)
    train(network, datasets.mnist("train"), options.epochs, rng)

    tensors = network.params | {name: b for name, b in network.buffers.items() if b.dtype.kind == "f"}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: backend.to_numpy(t).astype(np.float16) for name, t in tensors.items()})
    write_atomically(options.out, buffer.getvalue())

    judge = evaluate.Judge(options.out)
    test = datasets.mnist("test")
    right = (judge.look(test.images)[1].argmax(axis=1) == test.labels).sum()
    print(f"{options.out}: {options.out.stat().st_size / 1024:.0f} KiB, reads {right:,} of {len(test):,} test digits")


def train(network, data: datasets.Images, epochs: int, rng, batch: int = 128, lr: float = 2e-3, shift: int = 2) -> None:
    """Trains a classifier in place."""
    backend, adam = network.backend, optim.Adam(network, lr=lr)
    steps, total = len(data) // batch, epochs * (len(data) // batch)
    padded = np.pad(data.images, ((0, 0), (shift, shift), (shift, shift), (0, 0)))
    side = data.images.shape[1]
    bar = tqdm(total=total, unit="step")
    for _ in range(epochs):
        order = rng.permutation(len(data))
        for k in range(steps):
            chosen = order[k * batch : (k + 1) * batch]
            down, right = rng.integers(2 * shift + 1, size=2)  # one shift a batch
            x = datasets.scale(padded[chosen, down : down + side, right : right + side])
            adam.lr = lr * (1 - bar.n / total)
            logits, cache = network.forward(backend.asarray(x))
            loss, dlogits = losses.cross_entropy(logits, backend.asarray(data.labels[chosen]))
            _, grads = network.backward(dlogits, cache, need_dx=False)
            adam.step(grads)
            bar.update()
        bar.set_postfix_str(f"loss {float(loss):.4f}")
    bar.close()


if __name__ == "__main__":
    main()
