"""Time GRU and LSTM, forward and backward, in minigan and in PyTorch with the same weights.

    pip install torch
    python benchmarks/bench_recurrent.py [--steps 24 100 500] [--batch 64] [--units 64] [--json FILE]

A pass computes the outputs of all steps of a batch (N, T, F), and then the gradients of the inputs and of all weights
from random gradients of the outputs. Everything is computed in float32, and F is the number of units. PyTorch runs
nn.GRU and nn.LSTM in two layouts: `batch first` takes (N, T, F) as minigan does, and `time first` takes (T, N, F),
which it uses inside. The faster one is its best. Each contender runs in a separate process, so that its threads do not
disturb the others, and the contenders take turns. In each turn, a pause and one pass to warm up come before the timed
passes. Before anything is timed, the outputs and all gradients of a pass are compared.
"""

import argparse
import importlib.util
import json
import multiprocessing
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

CONTENDERS = ("minigan", "torch batch first", "torch time first")


class Arrays:
    """The inputs, the gradients of the outputs, and the layer of one case, the same for all contenders."""

    def __init__(self, kind: str, batch: int, steps: int, units: int):
        from minigan import layers

        rng = np.random.default_rng(0)
        self.kind, self.layer = kind, getattr(layers, kind)(units, units, rng=rng)
        for b in ("b_x", "b_h"):
            self.layer.params[b][...] = 0.1 * rng.standard_normal(self.layer.params[b].shape)
        self.x, self.dy = (rng.standard_normal((batch, steps, units), dtype=np.float32) for _ in range(2))


class Minigan:
    """A pass of minigan's layer on the numba backend."""

    def __init__(self, arrays: Arrays, threads: int):
        from minigan import backends

        self.backend = backends.load("numba", threads=threads)
        self.layer, self.x, self.dy = arrays.layer.to(self.backend), arrays.x, arrays.dy

    def __call__(self) -> list[np.ndarray]:
        """Run one pass. Returns y, dx and the gradients of w_x, w_h, b_x and b_h."""
        with self.backend.computing():
            y, cache = self.layer.forward(self.x)
            dx, grads = self.layer.backward(self.dy, cache)
        return [y, dx, *grads.values()]


class Torch:
    """A pass of nn.GRU or nn.LSTM with the same weights."""

    def __init__(self, arrays: Arrays, threads: int, batch_first: bool):
        import torch

        torch.set_num_threads(threads)
        p, units = arrays.layer.params, arrays.layer.n_units
        self.module = getattr(torch.nn, arrays.kind)(units, units, batch_first=batch_first)
        weights = {
            "weight_ih_l0": p["w_x"].T,
            "weight_hh_l0": p["w_h"].T,
            "bias_ih_l0": p["b_x"],
            "bias_hh_l0": p["b_h"],
        }
        self.module.load_state_dict({name: torch.tensor(w) for name, w in weights.items()})
        self.batch_first, self.order = batch_first, (0, 1, 2) if batch_first else (1, 0, 2)
        self.x = torch.tensor(arrays.x.transpose(self.order)).contiguous().requires_grad_()
        self.dy = torch.tensor(arrays.dy.transpose(self.order)).contiguous()

    def __call__(self) -> list[np.ndarray]:
        """Run one pass. Returns the same results as minigan, as views."""
        self.x.grad = None
        self.module.zero_grad()
        y, _ = self.module(self.x)
        y.backward(self.dy)
        w_x, w_h, b_x, b_h = (p.grad.numpy() for p in self.module.parameters())
        outside = [a.numpy().transpose(self.order) for a in (y.detach(), self.x.grad)]
        return [*outside, w_x.T, w_h.T, b_x, b_h]


def make(name: str, case: tuple, threads: int):
    """Return the pass of a contender."""
    arrays = Arrays(*case)
    return Minigan(arrays, threads) if name == "minigan" else Torch(arrays, threads, name.endswith("batch first"))


def results(name: str, case: tuple, threads: int) -> list[np.ndarray]:
    """Return the results of one pass of a contender."""
    return [np.ascontiguousarray(array) for array in make(name, case, threads)()]


def contender(name: str, case: tuple, threads: int, pipe) -> None:
    """Run passes for a short time on each "go" from the pipe, and send back the seconds of each pass."""
    from minigan.lab import bench

    run = make(name, case, threads)
    for _ in range(3):
        run()  # compilation, memory allocation
    pipe.send("ready")
    while pipe.recv() == "go":
        time.sleep(bench.PAUSE)  # until the threads of the previous contender stop busy waiting
        run()
        times, end = [], time.perf_counter() + bench.BURST
        while not times or time.perf_counter() < end:
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        pipe.send(times)


def check(case: tuple, threads: int) -> float:
    """Return the largest difference of any result, relative to the largest number of its array."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        ours, *theirs = (pool.apply(results, (name, case, threads)) for name in CONTENDERS)
    pairs = [pair for peer in theirs for pair in zip(ours, peer, strict=True)]
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


def measure(case: tuple, threads: int, seconds: float) -> list[dict]:
    """Time all contenders in turns, and return a row for each."""
    from minigan.lab import bench

    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for name in CONTENDERS:
        ours, theirs = context.Pipe()
        processes.append(context.Process(target=contender, args=(name, case, threads, theirs), daemon=True))
        processes[-1].start()
        assert ours.recv() == "ready"
        pipes.append(ours)
    times = {name: [] for name in CONTENDERS}
    deadline = time.perf_counter() + seconds * len(CONTENDERS)
    while time.perf_counter() < deadline or len(times[CONTENDERS[0]]) < 5:
        for name, pipe in zip(CONTENDERS, pipes, strict=True):
            pipe.send("go")
            times[name] += pipe.recv()
    for pipe, process in zip(pipes, processes, strict=True):
        pipe.send("stop")
        process.join()
    best = min(float(np.median(times[name])) for name in CONTENDERS[1:])
    rows = []
    for name in CONTENDERS:
        kind, batch, steps, units = case
        row = {"layer": kind, "batch": batch, "steps": steps, "units": units, "threads": threads, "contender": name}
        rows.append(row | bench.summary(times[name]) | {"share": round(float(np.median(times[name])) / best, 3)})
        print(
            "{layer:4s} T {steps:4d}  {contender:18s} {median_ms:8.2f} ms "
            "({quartiles_ms[0]:.2f}-{quartiles_ms[1]:.2f})   {share:.2f} of PyTorch's best".format(**rows[-1]),
            flush=True,
        )
    return rows


def main() -> None:
    """Check that the contenders are equal, time them and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", nargs="+", default=["GRU", "LSTM"], choices=["GRU", "LSTM"])
    parser.add_argument("--steps", nargs="+", type=int, default=[24, 100, 500], metavar="T")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--units", type=int, default=64)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="seconds for each contender in each case (default 10)"
    )
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()

    from minigan.lab import bench

    if not importlib.util.find_spec("torch"):
        raise SystemExit("PyTorch is not installed, and minigan is compared with it: pip install torch")
    cases = [(kind, options.batch, steps, options.units) for kind in options.layers for steps in options.steps]
    for case in cases:
        differ = check(case, options.threads)
        if not differ < 1e-4:
            raise SystemExit(f"{case}: minigan and PyTorch differ by {differ:.1e}: nothing was timed")
        print(f"{case}: minigan and PyTorch agree to {differ:.0e}", flush=True)
    rows = [row for case in cases for row in measure(case, options.threads, options.seconds)]
    report = {"when": datetime.now(UTC).isoformat(timespec="seconds"), "machine": bench.machine(), "results": rows}
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
