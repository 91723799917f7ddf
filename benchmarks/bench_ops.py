"""Time every operation of the presets' training steps in several implementations, and in PyTorch if it is installed.

    python benchmarks/bench_ops.py [--presets tutorial small] [--batch N ...] [--threads N] [--json FILE] [--plot FILE]

The implementations are called rungs. From slow to fast, they are:

    loops    the equation as compiled loops, one number at a time (timed on 8 images)
    numpy    im2col and a BLAS matrix product: the reference backend
    tile     the register tile of `minigan.backends.numba.microkernel`
    numba    the numba backend: the tile, after a transform if that needs fewer products
    torch    PyTorch in its fastest memory layout, on an input that is padded before the timing

A transposed convolution is the input gradient of a convolution, so three operations cover generator and discriminator.
All results are compared with float64 results before anything is timed. The rungs take turns, so that other load on the
machine affects all of them equally. GFLOP/s count the multiplications and additions of the direct sum, including the
zeros of the padding. A rung that needs fewer operations can therefore exceed the peak. Batch norm with activation and
Adam are passes over memory and have the rungs numpy, numba and torch. Their GB/s count every number that must be read
or written once.
"""

import argparse
import importlib.util
import json
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np

from minigan import models
from minigan.backends import AdamStep, Normalisation, conv_size, cores, load, pads, put_in_force, reference
from minigan.lab import bench
from minigan.lab.bench import take_turns

# preset: {layer: (H, C, O, kernel, stride, pad)}, each as a convolution from the larger feature map to the smaller one
LAYERS = {
    "tutorial": {
        "7x7 128-256 5x5": (7, 128, 256, 5, 1, (2, 2)),
        "14x14 64-128 5x5/2": (14, 64, 128, 5, 2, (1, 2)),
        "28x28 1-64 5x5/2": (28, 1, 64, 5, 2, (1, 2)),
    },
    "small": {
        "14x14 32-64 4x4/2": (14, 32, 64, 4, 2, (1, 1)),
        "28x28 1-32 4x4/2": (28, 1, 32, 4, 2, (1, 1)),
    },
}
BATCHES = {"tutorial": (256, 128), "small": (128, 64)}
OPERATIONS = ("conv2d", "conv2d_grad_x", "conv2d_grad_w")
NORMS = {"tutorial": [(1, 12544), (7, 128), (14, 64)], "small": [(7, 64), (14, 32)]}  # (H, C), with leaky ReLU
RUNGS = ("loops", "numpy", "tile", "numba", "torch")
LOOP_IMAGES = 8


class Case:
    """One layer with one batch: its arrays, and the functions of each rung for each operation."""

    def __init__(self, N: int, H: int, C: int, O: int, K: int, stride: int, pad: tuple[int, int]):
        rng = np.random.default_rng(0)
        P = conv_size(H, K, stride, pad)
        self.x, self.w, self.dy = (
            rng.standard_normal(shape, np.float32) for shape in ((N, H, H, C), (K, K, C, O), (N, P, P, O))
        )
        self.stride, self.pad = stride, pad
        self.gflop = 2e-9 * self.dy.size * K * K * C

    def backend(self, backend) -> dict:
        """Return the operations of a backend by name."""
        x, w, dy, stride, pad = self.x, self.w, self.dy, self.stride, self.pad
        return {
            "conv2d": lambda: backend.conv2d(x, w, stride, pad),
            "conv2d_grad_x": lambda: backend.conv2d_grad_x(dy, w, x.shape, stride, pad),
            "conv2d_grad_w": lambda: backend.conv2d_grad_w(dy, x, w.shape, stride, pad),
        }

    def direct(self, module, suffix: str, N: int) -> dict:
        """Return the functions of `microkernel` or of the plain loops, which take sizes instead of shapes and pads."""
        x, w, dy, stride, before = self.x[:N], self.w, self.dy[:N], self.stride, pads(self.pad)[0]
        conv2d, grad_x, grad_w = (getattr(module, name + suffix) for name in OPERATIONS)
        return {
            "conv2d": lambda: conv2d(x, w, stride, before, *dy.shape[1:3]),
            "conv2d_grad_x": lambda: grad_x(dy, w, *x.shape[1:3], stride, before),
            "conv2d_grad_w": lambda: grad_w(dy, x, len(w), stride, before),
        }

    def torch(self, channels_last: bool) -> dict:
        """Return PyTorch's operations by name, in one of two memory layouts."""
        import torch

        before, after = self.pad
        xpad = np.pad(self.x, ((0, 0), (before, after), (before, after), (0, 0)))
        kind = torch.channels_last if channels_last else torch.contiguous_format
        x, dy = (
            torch.from_numpy(array).permute(0, 3, 1, 2).contiguous(memory_format=kind) for array in (xpad, self.dy)
        )
        w = torch.from_numpy(self.w).permute(3, 2, 0, 1).contiguous(memory_format=kind)
        crop = slice(before, before + self.x.shape[1])

        def back(y):
            return y.permute(0, 2, 3, 1)

        def weight(dw):
            return dw.permute(2, 3, 1, 0)

        return {
            "conv2d": lambda: back(torch.nn.functional.conv2d(x, w, stride=self.stride)),
            "conv2d_grad_x": lambda: back(torch.nn.grad.conv2d_input(x.shape, w, dy, self.stride))[:, crop, crop],
            "conv2d_grad_w": lambda: weight(torch.nn.grad.conv2d_weight(x, w.shape, dy, self.stride)),
        }

    def rungs(self, chosen: list[str], threads: int) -> dict[str, list[dict]]:
        """Return for each rung a list of variants, each a dict of functions. The fastest variant counts."""
        variants = {}
        for rung in chosen:
            if rung == "numpy":
                variants[rung] = [self.backend(load("numpy", threads=threads))]
            elif rung == "numba":
                variants[rung] = [self.backend(load("numba", threads=threads))]
            elif rung == "torch":
                variants[rung] = [self.torch(channels_last) for channels_last in (False, True)]
            else:
                from minigan.backends.numba import backend as numba_backend
                from minigan.backends.numba import microkernel

                tile = self.direct(microkernel, "", len(self.x))
                variants[rung] = [tile if rung == "tile" else self.direct(numba_backend, "_loops", LOOP_IMAGES)]
        return variants

    def check(self, operation: str, rung: str, y) -> None:
        """Compare y with the reference backend in float64, a few images at a time. Ends the program if they differ."""
        N = LOOP_IMAGES if rung == "loops" else len(self.x)
        images = range(0, N, LOOP_IMAGES) if operation == "conv2d_grad_w" else range(0, LOOP_IMAGES, LOOP_IMAGES)
        x, w, dy = (array.astype(np.float64) for array in (self.x, self.w, self.dy))
        parts = [slice(n, min(n + LOOP_IMAGES, N)) for n in images]
        if operation == "conv2d":
            expected = reference().conv2d(x[parts[0]], w, self.stride, self.pad)
        elif operation == "conv2d_grad_x":
            expected = reference().conv2d_grad_x(dy[parts[0]], w, x[parts[0]].shape, self.stride, self.pad)
        else:
            expected = sum(reference().conv2d_grad_w(dy[p], x[p], w.shape, self.stride, self.pad) for p in parts)
        error = np.abs(np.asarray(y)[: len(expected)] - expected).max() / np.abs(expected).max()
        if not error < 1e-5:
            sys.exit(f"{rung} {operation} is wrong: off by {error:.1e} of the largest number")


class Pass:
    """Batch norm with leaky ReLU on x (N, H, H, C), forward and backward, or Adam on all weights of a network."""

    SLOPE, EPS, LR = 0.2, 1e-3, 1e-3

    def __init__(self, *shape: int):
        rng = np.random.default_rng(0)
        self.x, self.dy = (rng.standard_normal(shape, np.float32) for _ in range(2))
        self.gamma, self.beta = (rng.standard_normal(shape[-1], np.float32) for _ in range(2))
        if self.x.ndim > 1:
            self._normalise()
            while (near_zero := np.abs(self.y) < 1e-5).any():  # here rounding decides the sign
                self.x[near_zero] += 1
                self._normalise()

    def _normalise(self) -> None:
        """Compute y and the statistics of the batch."""
        self.y, self.mean, self.var = reference().batchnorm(self.x, self.gamma, self.beta, self.EPS, self.SLOPE)

    def backend(self, backend) -> dict:
        """Return the operations of a backend by name."""
        x, dy, gamma, beta = self.x, self.dy, self.gamma, self.beta
        if x.ndim == 1:
            w, m, v = x.copy(), np.zeros_like(x), np.zeros_like(x)
            t = iter(range(1, 10**9))

            def adam():
                backend.adam(w, dy, m, v, AdamStep(self.LR, 0.5, 0.999, 1e-8, next(t)))
                return [w]

            return {"adam": adam}
        norm = Normalisation(gamma, beta, self.mean, self.var, self.EPS)
        return {
            "batchnorm": lambda: backend.batchnorm(x, gamma, beta, self.EPS, self.SLOPE),
            "batchnorm_grad": lambda: backend.batchnorm_grad(dy, x, norm, self.SLOPE),
        }

    def torch(self, channels_last: bool) -> dict:
        """Return PyTorch's operations by name, in one of two memory layouts."""
        import torch

        if self.x.ndim == 1:
            w = torch.nn.Parameter(torch.from_numpy(self.x.copy()))
            w.grad = torch.from_numpy(self.dy)
            optimizer = torch.optim.Adam([w], lr=self.LR, betas=(0.5, 0.999), eps=1e-8, fused=True)

            def adam():
                optimizer.step()
                return [w.detach()]

            return {"adam": adam}
        kind = torch.channels_last if channels_last else torch.contiguous_format
        x, dy, y = (
            torch.from_numpy(a).permute(0, 3, 1, 2).contiguous(memory_format=kind) for a in (self.x, self.dy, self.y)
        )
        gamma, beta = torch.from_numpy(self.gamma), torch.from_numpy(self.beta)

        def forward():
            z, mean, inv_std = torch.native_batch_norm(x, gamma, beta, None, None, True, 0.1, self.EPS)
            return torch.nn.functional.leaky_relu(z, self.SLOPE, inplace=True), mean, inv_std

        _, mean, inv_std = forward()

        def backward():
            dz = torch.ops.aten.leaky_relu_backward(dy, y, self.SLOPE, True)
            batch = dz, x, gamma, None, None, mean, inv_std, True, self.EPS, [True, True, True]
            dx, *grads = torch.ops.aten.native_batch_norm_backward(*batch)
            return dx.permute(0, 2, 3, 1), *grads

        return {"batchnorm": lambda: [forward()[0].permute(0, 2, 3, 1)], "batchnorm_grad": backward}

    def gigabytes(self, operation: str) -> float:
        """Return the gigabytes that the operation must read and write."""
        arrays = {"batchnorm": 2, "batchnorm_grad": 3, "adam": 7}[operation]  # x, y; dy, x, dx; 2 (w, m, v), dw
        return 1e-9 * arrays * self.x.nbytes


def measure_passes(presets, batches, rungs, threads: int, seconds: float) -> list[dict]:
    """Check and time the passes over memory: batch norm with activation, and Adam."""
    rows = []
    cases = [
        (preset, batch, f"{H}x{H} {C}", (batch, H, H, C))
        for preset in presets
        for batch in batches or BATCHES[preset]
        for H, C in NORMS[preset]
    ]
    for preset in presets:
        networks = models.build(preset, rng=np.random.default_rng(0))
        cases += [(preset, None, f"{n.n_params:,} weights", (n.n_params,)) for n in networks]
    for preset, batch, layer, shape in cases:
        print(f"\n{preset}{f', batch {batch}' if batch else ''}: {layer}")
        case = Pass(*shape)
        variants = [(rung, case.backend(load(rung, threads=threads))) for rung in rungs if rung in ("numpy", "numba")]
        if "torch" in rungs:
            variants += [("torch", case.torch(channels_last)) for channels_last in (False, True)]
        for operation in variants[0][1]:
            exact = [np.asarray(part) for part in variants[0][1][operation]()]
            for rung, functions in variants[1:]:
                for part, expected in zip(functions[operation](), exact, strict=False):
                    error = np.abs(np.asarray(part) - expected).max() / np.abs(expected).max()
                    if not error < 1e-4:
                        sys.exit(f"{rung} {operation} is wrong: off by {error:.1e} of the largest number")
            results = fastest_variants([(rung, fs[operation]) for rung, fs in variants], threads, seconds)
            what = {"preset": preset, "batch": batch, "layer": layer, "operation": operation}
            for row in rows_of(what, results):
                rows.append(row | {"gigabytes_per_second": case.gigabytes(operation) / row["median_ms"] * 1e3})
                print(line(rows[-1]))
    return rows


def fastest_variants(functions: list[tuple], threads: int, seconds: float) -> dict[str, list[float]]:
    """Time the functions, given as (rung, function). Return the durations of the fastest variant of each rung."""
    before = [partial(set_threads, rung, threads) for rung, _ in functions]
    results: dict[str, list[float]] = {}
    for (rung, _), times in zip(functions, take_turns([f for _, f in functions], seconds, before), strict=True):
        results[rung] = min(results.get(rung, times), times, key=np.median)
    return results


def rows_of(what: dict, results: dict[str, list[float]]) -> list[dict]:
    """Return a row for each rung with its durations and, if PyTorch was timed, their ratio to PyTorch's."""
    rows = []
    for rung, times in results.items():
        low, median, high = np.quantile(times, [0.25, 0.5, 0.75]) * 1e3
        row = {"rung": rung, "median_ms": median, "quartiles_ms": [low, high], "fastest_ms": min(times) * 1e3}
        if "torch" in results:
            row["over_torch"] = median / 1e3 / np.median(results["torch"])
        rows.append(what | row | {"runs": len(times)})
    return rows


def measured_peak(threads: int) -> float:
    """Measure the peak GFLOP/s: the faster of the tile on data in the first-level cache and a BLAS matrix product."""
    a = np.ones((1024, 1024), np.float32)
    best = [2e-9 * 1024**3 / min(take_turns([lambda: a @ a], 1.0)[0])]
    if importlib.util.find_spec("numba"):
        from minigan.backends.numba import microkernel

        set_threads("numba", threads)
        k, width = 128, microkernel.panel_width(np.float32)
        m, count = microkernel.ROWS, 2000 * threads
        x, w, y = np.ones(m * k, np.float32), np.ones(k * width, np.float32), np.empty(m * width * count, np.float32)
        task = microkernel.tasks(0, 0, np.arange(count) % threads * m * width, (0, m), (0, k))
        tables = microkernel.Tables(np.arange(m) * k, np.arange(k), np.arange(k) * width, np.arange(m) * width)
        durations = take_turns([lambda: microkernel.products(tables, task, x, w, y, False)], 1.0)[0]
        best.append(2e-9 * count * m * k * width / min(durations))
    return max(best)


def set_threads(rung: str, threads: int) -> None:
    """Set the number of threads before a rung is timed. NumPy uses all BLAS threads, Numba uses only one."""
    if rung != "torch":
        put_in_force(load("numpy" if rung == "numpy" else "numba", threads=threads))


def measure(
    presets: list[str], batches: list[int] | None, rungs: list[str], threads: int, seconds: float, peak: float
) -> list[dict]:
    """Check and time the convolutions of the presets."""
    rows = []
    for preset in presets:
        for batch in batches or BATCHES[preset]:
            for layer, (H, C, O, K, stride, pad) in LAYERS[preset].items():
                print(f"\n{preset}, batch {batch}: {layer}")
                case = Case(batch, H, C, O, K, stride, pad)
                variants = case.rungs(rungs, threads)
                for operation in OPERATIONS:
                    flat = [(rung, functions[operation]) for rung in rungs for functions in variants[rung]]
                    for rung, function in flat:
                        case.check(operation, rung, function())
                    timed = [(rung, function) for rung, function in flat if rung != "loops"]
                    results = fastest_variants(timed, threads, seconds)
                    if "loops" in rungs:
                        times = take_turns([dict(flat)["loops"]], 0)[0]
                        results["loops"] = [t * batch / LOOP_IMAGES for t in times]
                    what = {"preset": preset, "batch": batch, "layer": layer, "operation": operation}
                    for row in rows_of(what, {rung: results[rung] for rung in rungs}):
                        gflops = case.gflop / row["median_ms"] * 1e3
                        rows.append(row | {"gflops": gflops, "share_of_peak": gflops / peak})
                        print(line(rows[-1]))
    return rows


def line(row: dict) -> str:
    """Format a row as one line of text."""
    spread = "-".join(f"{ms:.2f}" for ms in row["quartiles_ms"])
    against = f"   {row['over_torch']:5.2f} of torch's time" if "over_torch" in row and row["rung"] != "torch" else ""
    if "gflops" in row:
        rate = f"{row['gflops']:6.0f} GFLOP/s {row['share_of_peak']:5.0%} of peak"
    else:
        rate = f"{row['gigabytes_per_second']:6.1f} GB/s"
    return f"  {row['operation']:14s} {row['rung']:6s} {row['median_ms']:9.2f} ms ({spread}) {rate}{against}"


def machine() -> dict:
    """Describe the machine, Numba's target processor and the size of the register tile."""
    target = {}
    if importlib.util.find_spec("numba"):
        import llvmlite.binding

        from minigan.backends.numba import microkernel

        tile = f"{microkernel.ROWS} x {microkernel.VECTORS} vectors of {microkernel.VECTOR_BYTES} bytes"
        target = {"target": llvmlite.binding.get_host_cpu_name(), "tile": tile}
    return bench.machine() | target


def plot(report: dict, file: str) -> None:
    """Plot the GFLOP/s of every convolution on every rung."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows, rungs = report["results"], report["rungs"]
    groups = list(dict.fromkeys((row["preset"], row["batch"], row["layer"]) for row in rows))
    figure, panels = plt.subplots(1, 3, figsize=(15, 1.5 + 0.7 * len(groups)), sharey=True, layout="constrained")
    for axes, operation in zip(panels, OPERATIONS, strict=True):
        for k, rung in enumerate(rungs):
            found = {(row["preset"], row["batch"], row["layer"]): row for row in rows
                     if row["operation"] == operation and row["rung"] == rung}  # fmt: skip
            places = np.arange(len(groups)) + (k - (len(rungs) - 1) / 2) * 0.8 / len(rungs)
            axes.barh(places, [found[group]["gflops"] for group in groups], 0.8 / len(rungs), label=rung)
        axes.axvline(report["peak_gflops"], color="black", linewidth=0.8, linestyle=":")
        axes.set(title=operation, xlabel="GFLOP/s of the direct sum (dotted: measured peak)")
        axes.set_yticks(range(len(groups)), [f"{preset}, batch {batch}\n{layer}" for preset, batch, layer in groups])
    panels[0].invert_yaxis()
    panels[-1].legend(loc="lower right")
    figure.suptitle(f"{report['machine']['cpu']}, {report['threads']} threads, float32")
    figure.savefig(file, dpi=110)


def main() -> None:
    """Measure all operations, print the rows and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", choices=LAYERS, default=list(LAYERS))
    parser.add_argument("--batch", nargs="+", type=int, help="batch sizes; default: 256 and 128, small 128 and 64")
    parser.add_argument("--rungs", nargs="+", choices=RUNGS, default=list(RUNGS))
    parser.add_argument("--threads", type=int, help="CPU threads; default: one for each core")
    parser.add_argument(
        "--seconds", type=float, default=0.3, help="seconds for each operation on each rung (default 0.3)"
    )
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--plot", metavar="FILE")
    options = parser.parse_args()
    if options.batch and min(options.batch) < LOOP_IMAGES:
        parser.error(f"--batch is at least {LOOP_IMAGES}, got {min(options.batch)}")

    present = {"numba": "loops tile numba", "torch": "torch"}
    for package, rungs in present.items():
        if not importlib.util.find_spec(package):
            print(f"{package} is not installed: skipping {rungs}")
            options.rungs = [rung for rung in options.rungs if rung not in rungs.split()]
    threads = options.threads or cores()
    if "torch" in options.rungs:
        import torch

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)

    report = {"when": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine(), "threads": threads}
    report["rungs"], report["peak_gflops"] = options.rungs, measured_peak(threads)
    print(f"{report['machine']['cpu']}, {threads} threads, measured peak {report['peak_gflops']:.0f} GFLOP/s")
    report["results"] = measure(
        options.presets, options.batch, options.rungs, threads, options.seconds, report["peak_gflops"]
    )
    report["passes"] = measure_passes(options.presets, options.batch, options.rungs, threads, options.seconds)
    slower = [row for row in report["results"] + report["passes"] if row["rung"] == "numba"]
    slower = [row for row in slower if row.get("over_torch", 0) > 1]
    if "torch" in options.rungs:
        print(f"\n{len(slower)} operations are slower than PyTorch's", *map(line, slower), sep="\n")
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n")
    if options.plot:
        plot(report, options.plot)


if __name__ == "__main__":
    main()
