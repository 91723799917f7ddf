"""Time a full training step of the presets on every backend, for several batch sizes and numbers of threads.

    python benchmarks/bench_step.py [--presets small tutorial] [--threads 1 2] [--json FILE] [--plot FILE]
    python benchmarks/bench_step.py --profile small:128 tutorial:128 [--backends numba] [--json FILE]
    python benchmarks/bench_step.py --options small:64 [--backends numba] [--json FILE]
    python benchmarks/bench_step.py --frozen small:64 digits:64 [--backends numba] [--json FILE]

The results of the backends are compared before anything is timed. Backends and numbers of threads take turns, and
medians are reported. --profile reports the time of each operation of the backend in a step, with the number of calls
and the shapes, and the time of everything else (losses, sums of gradients, Python). --options reports the time of a
step with each option of a run that changes it: losses, penalties and other regularisers, and optimizers. --frozen
reports the time of a step with a discriminator that learns, and with one that is frozen in part or completely.
"""

import argparse
import json
import time
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from minigan import backends
from minigan.lab import bench

BATCHES = {"small": [64, 128], "tutorial": [128, 256], "digits": [64], "mlp": [128], "mp-gan": [128], "upsample": [128]}


OPERATIONS = (
    "conv2d", "conv2d_grad_x", "conv2d_grad_w", "matmul", "add_bias", "bias_grad", "sum_rows", "leaky_relu",
    "leaky_relu_grad", "batchnorm", "batchnorm_grad", "dropout", "adam",
)  # fmt: skip


def profile(preset: str, batch: int, name: str, threads: int, seconds: float) -> list[dict]:
    """Return the milliseconds per step of each operation, longest first, then of the rest and of the whole step."""
    backend = backends.load(name, threads=threads)
    step = bench.Step(preset, batch, backend)
    step()
    times, plain = defaultdict(list), {operation: getattr(backend, operation) for operation in OPERATIONS}

    def timed(operation):
        def call(*arguments):
            backend.synchronize()
            start = time.perf_counter()
            result = plain[operation](*arguments)
            backend.synchronize()
            shapes = [list(x.shape) for x in arguments[:2] if hasattr(x, "shape")]
            times[operation, str(shapes)[1:-1]].append(time.perf_counter() - start)
            return result

        return call

    whole = []
    try:
        for operation in OPERATIONS:
            setattr(backend, operation, timed(operation))
        step()
        times.clear()
        end = time.perf_counter() + seconds
        while len(whole) < 5 or time.perf_counter() < end:
            start = time.perf_counter()
            step()
            whole.append(time.perf_counter() - start)
    finally:
        for operation in OPERATIONS:
            setattr(backend, operation, plain[operation])
    case = {"preset": preset, "batch": batch, "backend": name, "threads": threads}
    total = float(np.median(whole))
    rows = []
    for (operation, shapes), durations in times.items():
        calls = len(durations) // len(whole)
        rows.append((float(np.median(durations)) * calls, calls, operation, shapes))
    rows.sort(reverse=True)
    rows += [(total - sum(row[0] for row in rows), 1, "everything else", ""), (total, 1, "the step", "")]
    return [
        case
        | {"operation": operation, "shapes": shapes, "calls": calls, "ms": round(1e3 * seconds, 3)}
        | {"share": round(seconds / total, 4)}
        for seconds, calls, operation, shapes in rows
    ]


def main() -> None:
    """Measure what the options select, print the rows and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", choices=BATCHES, default=["small", "tutorial", "digits"])
    parser.add_argument("--backends", nargs="+", choices=backends.available(), default=backends.available())
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="seconds for each backend and number of threads (default 3)"
    )
    parser.add_argument("--profile", nargs="+", metavar="PRESET:BATCH", help="report the time of each operation")
    parser.add_argument("--options", nargs="+", metavar="PRESET:BATCH", help="report the cost of options of a run")
    parser.add_argument("--frozen", nargs="+", metavar="PRESET:BATCH", help="report the time with frozen layers in D")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--plot", metavar="FILE")
    options = parser.parse_args()

    rows = []
    for preset, batch in (case.split(":") for case in options.profile or []):
        options.presets = []
        for name in options.backends:
            case = preset, int(batch), name, max(options.threads)
            print("{}, batch {}, {}, {} threads".format(*case))
            rows += (found := profile(*case, options.seconds))
            for row in found:
                print("  {ms:8.2f} ms {share:6.1%}  {calls:2d} x {operation:16s}{shapes}".format(**row), flush=True)
    for preset, batch in (case.split(":") for case in options.options or []):
        options.presets = []
        for name in options.backends:
            for row in bench.compare_options(preset, int(batch), name, max(options.threads), options.seconds):
                rows.append(row)
                text = "{preset:9s} batch {batch:4d}  {backend:6s} {option:28s} {median_ms:8.1f} ms  {ratio:.2f} x none"
                print(text.format(**row), flush=True)
    for preset, batch in (case.split(":") for case in options.frozen or []):
        options.presets = []
        for name in options.backends:
            for row in bench.compare_frozen(preset, int(batch), name, max(options.threads), options.seconds):
                rows.append(row)
                text = "{preset:9s} batch {batch:4d}  {backend:6s} {discriminator:27s} {median_ms:8.1f} ms  {ratio:.2f}"
                print(text.format(**row), flush=True)
    for preset in options.presets:
        for row in bench.compare_backends(preset, BATCHES[preset], options.backends, options.threads, options.seconds):
            rows.append(row)
            print(
                "{preset:9s} batch {batch:4d}  {backend:6s} {threads} threads {median_ms:9.1f} ms "
                "({quartiles_ms[0]:.1f}-{quartiles_ms[1]:.1f}) {images_per_second:7,d} images/s".format(**row),
                flush=True,
            )
    report = {"when": datetime.now(UTC).isoformat(timespec="seconds"), "machine": bench.machine(), "results": rows}
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n")
    if options.plot and not (options.profile or options.options or options.frozen):
        plot(report, options.plot)


def plot(report: dict, file: str) -> None:
    """Plot the images per second of every backend."""
    from matplotlib.figure import Figure

    rows = report["results"]
    kinds = list(dict.fromkeys((row["backend"], row["threads"]) for row in rows))
    groups = list(dict.fromkeys((row["preset"], row["batch"]) for row in rows))
    figure = Figure(figsize=(9, 1 + 0.7 * len(groups)), layout="constrained")
    axes = figure.subplots()
    for k, (backend, threads) in enumerate(kinds):
        found = {(r["preset"], r["batch"]): r for r in rows if (r["backend"], r["threads"]) == (backend, threads)}
        places = [i + (k - (len(kinds) - 1) / 2) * 0.8 / len(kinds) for i in range(len(groups))]
        bars = axes.barh(
            places,
            [found[group]["images_per_second"] for group in groups],
            0.8 / len(kinds),
            label=f"{backend}, {threads} thread{'s' * (threads > 1)}",
        )
        axes.bar_label(bars, labels=[f" {found[group]['median_ms']:.0f} ms" for group in groups], fontsize=7)
    axes.set_yticks(range(len(groups)), [f"{preset}\nbatch {batch}" for preset, batch in groups])
    axes.invert_yaxis()
    axes.set(xlabel="images per second (and the median time of a full training step)", title=report["machine"]["cpu"])
    axes.legend()
    figure.savefig(file, dpi=100)


if __name__ == "__main__":
    main()
