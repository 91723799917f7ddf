"""Estimate the time of a training step on a GPU. This is an ESTIMATE on paper; bench_gpu.py measures.

    python benchmarks/gpu_on_paper.py [--json FILE]

A step launches LAUNCHES kernels and matrix products, and the tests check these numbers. The CPU needs about HOST
seconds for each launch. At the same time the GPU computes products and moves bytes, at the shares PRODUCTS and MEMORY
of its peak rates. The time of a step is the longer of the two: below a certain batch size it is the time of the
launches, above it the time of the GPU. The floating point operations and bytes are counted in a step of the reference
backend. Not counted are the few elementwise operations of the layers that do not use the backend, the caches, and the
latency of small kernels.
"""

import argparse
import json

import numpy as np

from minigan import backends
from minigan.lab import bench

LAUNCHES = {"small": 120, "tutorial": 144}
HOST = 34e-6  # CPU seconds for one launch with the code around it, measured next to an H100 (results/gpu.json)
PRODUCTS, MEMORY = 0.6, 0.7  # the usual shares of the peak rates
GPUS = {  # (float32 FLOP/s without tensor cores, bytes/s), as given by the manufacturer
    "Tesla T4": (8.1e12, 0.32e12),
    "RTX 3060": (12.7e12, 0.36e12),
    "RTX 4090": (82.6e12, 1.01e12),
    "H100 SXM": (66.9e12, 3.35e12),
}
BATCHES = (64, 256, 1024)
CONVOLUTIONS = ("conv2d", "conv2d_grad_x", "conv2d_grad_w")
COUNTED = (
    *CONVOLUTIONS, "matmul", "sum_rows", "leaky_relu", "leaky_relu_grad", "add_bias", "bias_grad", "batchnorm",
    "batchnorm_grad", "track", "dropout", "adam", "moving_average", "concatenate", "gather",
)  # fmt: skip
PASSES = {"batchnorm": 1.5, "batchnorm_grad": 1.5}  # a second kernel reads the input again


class Ledger:
    """The reference backend, counting the floating point operations and bytes that a GPU would need."""

    def __init__(self):
        self.flops = self.bytes = 0.0

    def __getattr__(self, name: str):
        value = getattr(backends.reference(), name)
        if name not in COUNTED:
            return value

        def operation(*arguments):
            result = value(*arguments)
            self.count(name, arguments, result)
            return result

        return operation

    def count(self, name: str, arguments: tuple, result) -> None:
        """Add the work of one operation."""
        results = result if isinstance(result, tuple) else (result,)
        arrays = [a for a in (*arguments, *results) if isinstance(a, np.ndarray)]
        moved = sum(a.nbytes for a in arrays)
        if name in CONVOLUTIONS:  # w (K, K, C, O); the im2col matrix is (N*P*Q, K*K*C)
            w = result if name == "conv2d_grad_w" else arguments[1]
            y = result if name == "conv2d" else arguments[0]
            K, _, C, O = w.shape
            windows = y.size // O
            self.flops += 2.0 * windows * K * K * C * O
            moved += 2 * windows * K * K * C * y.itemsize  # written by one kernel, read by the next
        elif name == "matmul":
            self.flops += 2.0 * result.size * arguments[0].shape[1]
        self.bytes += moved * PASSES.get(name, 1)


def work(preset: str) -> dict[str, tuple[float, float]]:
    """Return for the flops and the bytes of a step the pair (value at batch 0, increase per image)."""
    counted = []
    for batch in (4, 8):
        ledger = Ledger()
        step = bench.Step(preset, batch, ledger)
        ledger.flops = ledger.bytes = 0.0
        step()
        counted.append((ledger.flops, ledger.bytes))
    fits = {}
    for name, at_4, at_8 in zip(("flops", "bytes"), *counted, strict=True):
        fits[name] = (2 * at_4 - at_8, (at_8 - at_4) / 4)
    return fits


def estimates() -> list[dict]:
    """Return a row for each preset and GPU."""
    rows = []
    for preset, launches in LAUNCHES.items():
        flops, moved = work(preset).values()
        host = launches * HOST
        for gpu, (peak, bandwidth) in GPUS.items():
            fixed, each = (f / (PRODUCTS * peak) + b / (MEMORY * bandwidth) for f, b in zip(flops, moved, strict=True))
            steps = {batch: round(1e3 * max(host, fixed + each * batch), 2) for batch in BATCHES}
            below = max(0, int((host - fixed) / each))
            rows.append({"preset": preset, "gpu": gpu, "launch_bound_below_batch": below, "step_ms": steps})
    return rows


def main() -> None:
    """Print the estimates and write them to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    rows = estimates()
    print("ESTIMATE on paper, not measured:")
    print(f"{'preset':<10}{'GPU':<12}{'launch-bound':>18}" + "".join(f"{f'batch {b}':>14}" for b in BATCHES))
    for row in rows:
        times = "".join(f"{ms:>11.2f} ms" for ms in row["step_ms"].values())
        bound = f"below batch {row['launch_bound_below_batch']}"
        print(f"{row['preset']:<10}{row['gpu']:<12}{bound:>18}{times}")
    if options.json:
        assumptions = {"launches": LAUNCHES, "host_seconds": HOST, "products": PRODUCTS, "memory": MEMORY, "gpus": GPUS}
        report = {"estimate": "on paper, never measured", "assumptions": assumptions, "rows": rows}
        with open(options.json, "w") as file:
            file.write(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
