"""Compare two ranks with one thread each with one process with two threads, and extend this to many machines.

    python benchmarks/bench_ranks.py --json benchmarks/results/ranks.json

Every measurement is a training in processes of its own, without pictures and checkpoints, and they take turns. The
time of a step is the median of the times between steps after the first ones. The model is fitted to the time of one
process with one thread at several batch sizes, t = a + b * samples, and adds the time of communication:

    t(n ranks) = a + b * batch / n + messages * log2(n) * latency + 2 * (n - 1) / n * bytes / bandwidth

The first term of communication is for the small sums, of statistics, and the second is for the sum of the gradients,
for which each rank sends and receives nearly twice their size in any good algorithm (Thakur et al. 2005, section 4).
It assumes that ranks are equally fast, that nothing overlaps, and that the network is not shared.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from minigan.files import write_atomically
from minigan.lab.bench import machine

STEPS, FIRST = 14, 4  # steps of a run, and how many of them are left out
PROBE = """
import json, sys, time
from minigan import runs
from minigan.backends import ranks
from minigan.runs.ranks import together
from minigan.training import Config
preset, batch, threads, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
config = Config.of(preset, batch=batch, threads=threads, backend="numba", steps=steps, report=False)
world = ranks.world()
training = runs.begin(config, None, ranks=world)
sums = {"small": 0, "bytes": 0}
together(world, training.warm_up)
if world is not None:
    whole = world.total
    def counted(x):
        sums["small" if x.nbytes < 65536 else "bytes"] += 1 if x.nbytes < 65536 else x.nbytes
        return whole(x)
    world.total = counted
times, before = [], time.perf_counter()
for record in training.records():
    times.append(time.perf_counter() - before)
    before = time.perf_counter()
if world is None or world.rank == 0:
    print(json.dumps({"times": times, **{name: value / steps for name, value in sums.items()}}))
"""


def measure(preset: str, batch: int, ranks: int, threads: int) -> dict:
    """Return the median time of a step in seconds, and the small sums and bytes of a step."""
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    launcher = [str(Path(sys.executable).parent / "mpirun"), "-n", str(ranks), "--oversubscribe"] if ranks > 1 else []
    command = [*launcher, sys.executable, "-c", PROBE, preset, str(batch), str(threads), str(STEPS)]
    done = subprocess.run(command, env={**os.environ, **root}, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return found | {"seconds": statistics.median(found.pop("times")[FIRST:])}


def modelled(model: dict, batch: int, ranks: int) -> float:
    """Return the time of a step in seconds according to the model."""
    compute = model["a"] + model["b"] * batch / ranks
    if ranks == 1:
        return compute
    small = model["messages"] * math.log2(ranks) * model["latency"]
    return compute + small + 2 * (ranks - 1) / ranks * model["bytes"] / model["bandwidth"]


def least_batch(model: dict, ranks: int, share: float = 0.5) -> int:
    """Return the smallest batch, a power of 2, at which each rank works at `share` of the speed of one alone."""
    batch = ranks
    while modelled(model, batch, 1) / ranks / modelled(model, batch, ranks) < share and batch < 2**40:
        batch *= 2
    return batch


def main() -> None:
    """Measure, fit the model, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="tutorial")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--latency", type=float, default=20e-6, help="of a message between machines, in seconds")
    parser.add_argument("--bandwidth", type=float, default=1.25e9, help="of the network, bytes in a second (10 Gbit/s)")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    kinds = {"1 process, 2 threads": (1, 2), "2 ranks, 1 thread each": (2, 1), "1 process, 1 thread": (1, 1)}
    found: dict[str, list[dict]] = {name: [] for name in kinds}
    place = given.json and given.json.resolve()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for _ in range(given.rounds):
            for name, (ranks, threads) in kinds.items():
                found[name].append(measure(given.preset, given.batch, ranks, threads))
        halves = [(given.batch // k, measure(given.preset, given.batch // k, 1, 1)["seconds"]) for k in (2, 4, 8)]
        others = {ranks: measure(given.preset, given.batch, ranks, 1)["seconds"] for ranks in (3, 4)}
    seconds = {name: statistics.median(one["seconds"] for one in of) for name, of in found.items()}
    pairs = zip(found["2 ranks, 1 thread each"], found["1 process, 2 threads"], strict=True)
    ratios = [a["seconds"] / b["seconds"] for a, b in pairs]
    batches, times = zip((given.batch, seconds["1 process, 1 thread"]), *halves, strict=True)
    b, a = map(float, np.polyfit(batches, times, 1))
    two = found["2 ranks, 1 thread each"][0]
    model = {"a": a, "b": b, "messages": two["small"], "bytes": two["bytes"]}
    here = model | {"latency": 0.0, "bandwidth": math.inf}
    network = model | {"latency": given.latency, "bandwidth": given.bandwidth}
    many = [
        {
            "ranks": n,
            "seconds": modelled(network, given.batch * n, n),
            "efficiency": modelled(network, given.batch * n, 1) / n / modelled(network, given.batch * n, n),
            "least batch": least_batch(network, n),
        }
        for n in (2, 4, 10, 100, 1000)
    ]
    report = {
        "machine": machine(), "preset": given.preset, "batch": given.batch, "seconds": seconds, "ratios": ratios,
        "model": network, "two ranks by the model": modelled(here, given.batch, 2), "ranks on two cores": others,
        "many": many,
    }  # fmt: skip
    print(f"{given.preset}, batch {given.batch}")
    for name, value in seconds.items():
        print(f"{name:<24}{1000 * value:8.1f} ms a step")
    print(
        f"2 ranks / 1 process with 2 threads: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
    )
    print(f"2 ranks by the model, without communication: {1000 * report['two ranks by the model']:.1f} ms")
    print(f"3 and 4 ranks on these cores: {1000 * others[3]:.1f} and {1000 * others[4]:.1f} ms")
    print(f"a step has {model['messages']:.0f} small sums and sums {model['bytes'] / 1e6:.2f} MB of gradients")
    print(f"\n{'ranks':>6}{'ms, batch ' + str(given.batch) + ' each':>22}{'efficiency':>12}{'batch for 0.5':>15}")
    for row in many:
        print(f"{row['ranks']:>6}{1000 * row['seconds']:>22.1f}{row['efficiency']:>12.3f}{row['least batch']:>15,}")
    if place:
        write_atomically(place, (json.dumps(report, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
