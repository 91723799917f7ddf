"""Run the tests on an NVIDIA GPU, time a training step on the GPU and on the CPU, and write a result file.

    python benchmarks/bench_gpu.py [--out FILE] [--device N] [--seconds X]

The tests marked `gpu` run first. Then full steps of the GPU and the CPU are timed in turns. The results are compared
before anything is timed, and each step ends with a synchronisation. The GPU is timed without TF32 and then with TF32.
Please send the file to the project, which has no GPU to measure on.
"""

import argparse
import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from minigan import backends
from minigan.errors import UserError
from minigan.lab import bench

ROOT = Path(__file__).parent.parent
CASES = {"small": [16, 64, 256, 1024], "tutorial": [64, 256]}


def main() -> int:
    """Run the tests and the measurement; return 2 without a GPU, 1 if a test failed, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "gpu.json", metavar="FILE")
    parser.add_argument("--device", type=int, default=0, metavar="N")
    parser.add_argument(
        "--seconds", type=float, default=3.0, metavar="X", help="seconds for each backend in each case (default 3)"
    )
    options = parser.parse_args()
    try:
        gpu = backends.load("cupy", device=options.device)
    except UserError as error:
        print(f"no GPU to measure: {error}", file=sys.stderr)
        return 2
    print(gpu.describe())
    report = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "gpu": gpu.describe(),
        "machine": bench.machine(),
        "tests": run_tests(),
        "results": [*compare(options.seconds, tf32=False), *compare(options.seconds, tf32=True)],
    }
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written to {options.out}")
    return int(report["tests"]["failed"])


def run_tests() -> dict:
    """Run the tests on the GPU; return the last line of pytest and whether any test failed."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE)
    print(done.stdout)
    last = [line for line in done.stdout.splitlines() if re.search(r"\d+ (passed|failed|skipped|error)", line)]
    return {
        "summary": last[-1] if last else f"pytest ended with code {done.returncode}",
        "failed": done.returncode != 0,
    }


def compare(seconds: float, tf32: bool) -> list[dict]:
    """Time steps as `minigan bench` does, on the GPU and the fastest CPU backend. With TF32, time only the GPU."""
    names = ["cupy"] if tf32 else [*[n for n in backends.available() if n == "numba"], "cupy"]
    rows = []
    for preset, batches in CASES.items():
        for row in bench.compare_backends(preset, batches, names, [backends.cores()], seconds, tf32=tf32):
            rows.append(row | {"tf32": tf32})
            print(
                f"{preset:9s} batch {row['batch']:4d}  {row['backend']:6s} {row['median_ms']:9.2f} ms" + " TF32" * tf32
            )
    return rows


if __name__ == "__main__":
    sys.exit(main())
