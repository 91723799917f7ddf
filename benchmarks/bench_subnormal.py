"""Time computations with subnormal numbers, and the same computations with ordinary numbers.

    python benchmarks/bench_subnormal.py [--backends numpy numba] [--threads 1 2] [--seconds X] [--json FILE]
    PYTHONPATH=OLD python benchmarks/bench_subnormal.py ...                 # the same with the clone OLD of minigan

A float32 is subnormal if it is not zero and smaller than 1.2e-38. The cases are:

    D step       a discriminator step of `small` at batch 128. D is sure of everything: all logits are between 85 and
                 95, or -85 and -95, so its gradients are subnormal. In the ordinary step, they are 90 times smaller.
    Adam         an update of the generator of `tutorial` with beta1 = 0.9, after 900 updates with gradients of zero.
                 Without flushing, the first moments are subnormal then. The ordinary update has ordinary gradients.
    operands     a product of 500 x 383 by 383 x 256. The numbers of the first matrix are subnormal.
    results      the same with ordinary numbers whose products are subnormal.

Each pair takes turns, and the ratio of the two medians is reported. The number of subnormal numbers in the results is
counted before anything is timed.
"""

import argparse
import contextlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np

from minigan import backends, losses, models
from minigan.backends import AdamStep
from minigan.game import discriminator_step
from minigan.lab import bench
from minigan.layers import Sequential, fuse
from minigan.optim import Adam

Pair = tuple[Callable[[], list[np.ndarray]], Callable[[], list[np.ndarray]]]  # ordinary, subnormal; return the results


def d_step(backend, batch: int = 128) -> Pair:
    """Return a discriminator step of `small` with ordinary logits and one with large logits."""
    rng = np.random.default_rng(0)
    real = rng.uniform(-1, 1, (batch, 28, 28, 1)).astype(np.float32)
    z = rng.standard_normal((batch, 64), dtype=np.float32)

    def case(scale: float):
        G, D = models.build("small", rng=np.random.default_rng(0))
        G.to(backend)
        D.to(backend)
        body, head = Sequential(*D.layers[:-1]), D.layers[-1]
        images = real, G.forward(z, track=False)[0]
        features = np.concatenate([body.forward(x, track=False)[0] for x in images]).astype(np.float64)
        sure = np.repeat([[1.0], [-1.0]], batch, axis=0) * np.random.default_rng(1).uniform(85, 95, (2 * batch, 1))
        head.params["w"][...] = np.linalg.lstsq(features, scale * sure)[0]  # there are more features than images
        head.params["b"][...] = 0
        adam = Adam(D, lr=1e-30, beta1=0.5)  # D keeps its weights
        players = fuse(G), fuse(D)

        def step():
            discriminator_step(*players, adam, real, z, losses.non_saturating)
            return [array for array in adam.state.values() if array.ndim]

        return step

    return case(1 / 90), case(1.0)


def adam(backend, updates: int = 900) -> Pair:
    """Return an update with ordinary gradients, and one after this number of updates with gradients of zero."""
    G, _ = models.build("tutorial", rng=np.random.default_rng(0))
    rng = np.random.default_rng(1)
    gradient = rng.standard_normal(G.n_params, dtype=np.float32) * np.float32(1e-3)

    def case(dw: np.ndarray):
        w, m, v = G.pack().copy(), np.zeros_like(gradient), np.zeros_like(gradient)
        backend.adam(w, gradient, m, v, AdamStep(1e-4, 0.9, 0.999, 1e-8, 1))

        def update():
            backend.adam(w, dw, m, v, AdamStep(1e-4, 0.9, 0.999, 1e-8, 1000))
            return [m, v]

        return update

    ordinary, subnormal = case(gradient), case(np.zeros_like(gradient))
    for _ in range(updates):
        subnormal()
    return ordinary, subnormal


def product(backend, scale_a: float, scale_b: float = 1.0) -> Pair:
    """Return a product of ordinary matrices, and one of matrices that are scaled by these numbers."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((500, 383), np.float32), rng.standard_normal((383, 256), np.float32)
    small = a * np.float32(scale_a), b * np.float32(scale_b)
    return lambda: [backend.matmul(a, b)], lambda: [backend.matmul(*small)]


CASES: dict[str, Callable[[backends.Backend], Pair]] = {
    "D step": d_step,
    "Adam": adam,
    "operands": partial(product, scale_a=1e-40),
    "results": partial(product, scale_a=1e-30, scale_b=1e-10),
}


def subnormal_numbers(arrays: list[np.ndarray]) -> int:
    """Return how many of the float32 numbers are subnormal. It looks at the bits, because flushing hides the values."""
    magnitudes = (np.ascontiguousarray(array).view(np.uint32) & 0x7FFFFFFF for array in arrays)
    return sum(int(((0 < bits) & (bits < 1 << 23)).sum()) for bits in magnitudes)


def inside(backend, function: Callable[[], list[np.ndarray]]) -> list[np.ndarray]:
    """Call the function inside `backend.computing()`, which older versions do not have."""
    with getattr(backend, "computing", contextlib.nullcontext)():
        return function()


def measure(name: str, threads: int, seconds: float, cases: list[str]) -> list[dict]:
    """Return a row for each case, with the summaries of both times."""
    backend, rows = backends.load(name, threads=threads), []
    for case in cases:
        pair = [partial(inside, backend, function) for function in inside(backend, partial(CASES[case], backend))]
        left = subnormal_numbers(pair[1]())
        times = bench.take_turns(pair, seconds, [partial(backends.put_in_force, backend)] * 2)
        ordinary, subnormal = map(bench.summary, times)
        ratio = round(subnormal["median_ms"] / ordinary["median_ms"], 2)
        row = {"case": case, "backend": name, "threads": threads, "ordinary": ordinary, "subnormal": subnormal}
        rows.append(row | {"ratio": ratio, "subnormal numbers left": left})
    return rows


def table(rows: list[dict]) -> str:
    """Return the rows as a table in Markdown."""
    lines = ["| case | backend | threads | ordinary | subnormal | ratio |", "|---|---|--:|--:|--:|--:|"]
    for row in rows:
        times = " | ".join(f"{row[kind]['median_ms']:.2f} ms" for kind in ("ordinary", "subnormal"))
        lines.append(f"| {row['case']} | {row['backend']} | {row['threads']} | {times} | {row['ratio']:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure what the options select, print the table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [name for name in backends.available() if name in ("numpy", "numba")]
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--backends", nargs="+", choices=names, default=names)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds for each function of a pair (default 2)")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    rows = []
    for name in options.backends:
        for threads in options.threads:
            rows += measure(name, threads, options.seconds, options.cases)
    print(table(rows))
    if options.json:
        when = datetime.now(UTC).isoformat(timespec="seconds")
        report = {"when": when, "machine": bench.machine(), "results": rows}
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
