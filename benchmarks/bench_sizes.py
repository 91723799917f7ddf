"""Measure a training step and the memory of the presets `digits` and `small` for images of several sizes.

    python benchmarks/bench_sizes.py [--sizes 28x28x1 64x64x3] [--seconds 5] [--json FILE] [--markdown FILE]

Each case runs in a process of its own, on the numba backend with one thread per core. The median time of a step of 64
images and the largest memory of the process are reported. The memory includes Python and the compiled kernels, and
not the data set, which takes H x W x C bytes per image.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from minigan import backends, datasets
from minigan.lab import bench
from minigan.training import Config, Training

PRESETS = ("digits", "small")
SIZES = ("28x28x1", "32x32x3", "48x48x3", "64x64x1", "64x64x3", "96x96x3", "128x128x3")
BATCH = 64


def measure(preset: str, size: str, seconds: float) -> dict:
    """Return the median milliseconds of a step, and the largest memory of this process in MiB."""
    shape = tuple(int(part) for part in size.split("x"))
    pixels = np.random.default_rng(0).integers(256, size=(4 * BATCH, *shape), dtype=np.uint8)
    data = datasets.Images(pixels, np.arange(len(pixels)) % 10, "noise")
    training = Training(Config.of(preset, batch=BATCH, epochs=10**6), data, backends.load("numba"))
    training.warm_up()
    times, steps = [], training.records()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        start = time.perf_counter()
        for _ in range(4):  # an epoch
            next(steps)
        times.append((time.perf_counter() - start) / 4)
    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss counts bytes on macOS, else KiB
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    parameters = sum(p.size for network in (training.G, training.D) for p in network.params.values())
    return {
        "preset": preset,
        "size": size,
        "parameters": parameters,
        "median_ms": round(1000 * float(np.median(times)), 1),
        "MiB": round(memory),
    }


def table(rows: list[dict]) -> str:
    """Format the results as a Markdown table."""
    lines = ["| image | preset | parameters | time of a step | memory |", "|---|---|--:|--:|--:|"]
    for row in rows:
        image = row["size"].replace("x", " x ")
        text = f"{row['median_ms']:.0f} ms | {row['MiB']} MiB"
        lines.append(f"| {image} | `{row['preset']}` | {row['parameters']:,} | {text} |")
    return "\n".join(lines)


def main() -> None:
    """Run every case in a process of its own, print the table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=PRESETS)
    parser.add_argument("--sizes", nargs="+", metavar="HxWxC", default=SIZES)
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds for each case (default 5)")
    parser.add_argument("--one", action="store_true", help="measure the only case in this process and print JSON")
    parser.add_argument("--json", metavar="FILE", type=Path)
    parser.add_argument("--markdown", metavar="FILE", type=Path)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.presets[0], options.sizes[0], options.seconds)))
        return
    rows = []
    for size in options.sizes:
        for preset in options.presets:
            command = [sys.executable, __file__, "--one", "--presets", preset, "--sizes", size]
            command += ["--seconds", str(options.seconds)]
            rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    print(table(rows))
    if options.markdown:
        options.markdown.write_text(table(rows) + "\n", encoding="utf-8")
    if options.json:
        report = {"when": datetime.now(UTC).isoformat(timespec="seconds"), "machine": bench.machine(), "results": rows}
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
