"""Run the tests on an NVIDIA GPU, time a training step on the GPU and on the CPU, and write a result file.

    python benchmarks/bench_gpu.py [--out FILE] [--device N] [--seconds X]

The tests marked `gpu` run first (--no-tests leaves them out). Then full steps of the GPU and the CPU are timed in
turns, and, if PyTorch with CUDA is installed, those of minigan and PyTorch on the GPU. The results are compared before
anything is timed, and each step ends with a synchronisation. The GPU is timed without TF32 and then with TF32.
"""

import argparse
import importlib.util
import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

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
    parser.add_argument("--no-tests", action="store_true", help="only measure")
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
        "tests": {"summary": "left out", "failed": False} if options.no_tests else run_tests(),
        "results": [*compare(options.seconds, tf32=False), *compare(options.seconds, tf32=True)],
        "pytorch": [row for tf32 in (False, True) for row in compare_torch(options.seconds, tf32, options.device)],
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


def compare_torch(seconds: float, tf32: bool, device: int) -> list[dict]:
    """Time steps of minigan and of PyTorch (see bench_peers.py) on the GPU in turns. Returns [] without PyTorch's CUDA.

    Before, the images of both generators are compared.
    """
    if not importlib.util.find_spec("torch"):
        return []
    import torch
    from bench_peers import TorchStep

    if not torch.cuda.is_available():
        return []
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True
    rows = []
    for preset, batches in CASES.items():
        for batch in batches:
            ours = bench.Step(preset, batch, backends.load("cupy", device=device, tf32=tf32))
            peers = {
                "torch plain": TorchStep(preset, batch, best=False, device=f"cuda:{device}"),
                "torch best": TorchStep(preset, batch, best=True, device=f"cuda:{device}"),
            }
            images = ours.backend.to_numpy(ours.G.forward(ours.z_g, track=False)[0])
            with torch.no_grad():
                theirs = peers["torch plain"].G(peers["torch plain"].z_g).permute(0, 2, 3, 1).cpu().numpy()
            difference = float(np.abs(images - theirs).max())
            assert difference < (2e-2 if tf32 else 1e-3), f"{preset}, batch {batch}: images differ by {difference}"

            def waiting(peer):
                def step():
                    peer()
                    torch.cuda.synchronize()

                return step

            steps = {"minigan": ours} | {name: waiting(peer) for name, peer in peers.items()}
            for name, times in zip(steps, bench.take_turns(list(steps.values()), seconds), strict=True):
                row = {"preset": preset, "batch": batch, "contender": name, "tf32": tf32} | bench.summary(times)
                rows.append(row | {"torch": torch.__version__})
                print(f"{preset:9s} batch {batch:4d}  {name:12s} {row['median_ms']:9.2f} ms" + " TF32" * tf32)
    return rows


if __name__ == "__main__":
    sys.exit(main())
