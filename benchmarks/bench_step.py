"""A full training step of the presets, on every backend, for several batches and numbers of threads.

    python benchmarks/bench_step.py [--presets small tutorial] [--threads 1 2] [--json FILE] [--plot FILE]

The backends' results are compared before anything is timed. They take turns; medians are quoted.
"""

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path

from minigan import backends, bench

BATCHES = {"small": [64, 128], "tutorial": [128, 256], "digits": [64], "mlp": [128], "mp-gan": [128], "upsample": [128]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", choices=BATCHES, default=["small", "tutorial", "digits"])
    parser.add_argument("--backends", nargs="+", choices=backends.available(), default=backends.available())
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--seconds", type=float, default=3.0, help="for each backend in each case (default 3)")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--plot", metavar="FILE")
    options = parser.parse_args()

    rows = []
    for preset in options.presets:
        for threads in options.threads:
            for row in bench.compare_backends(preset, BATCHES[preset], options.backends, threads, options.seconds):
                rows.append(row)
                print(
                    "{preset:9s} batch {batch:4d}  {backend:6s} {threads} threads {median_ms:9.1f} ms "
                    "({quartiles_ms[0]:.1f}-{quartiles_ms[1]:.1f}) {images_per_second:7,d} images/s".format(**row),
                    flush=True,
                )
    report = {"when": datetime.now(UTC).isoformat(timespec="seconds"), "machine": bench.machine(), "results": rows}
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n")
    if options.plot:
        plot(report, options.plot)


def plot(report: dict, file: str) -> None:
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
    axes.set(xlabel="images a second (and the median of a full training step)", title=report["machine"]["cpu"])
    axes.legend()
    figure.savefig(file, dpi=100)


if __name__ == "__main__":
    main()
