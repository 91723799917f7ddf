"""Measuring: functions that take turns, so that a noisy neighbour disturbs all of them alike; and what was measured on.

`minigan bench` is the short version for a reader's own machine; the scripts in benchmarks/ use the same two functions.
"""

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np

from minigan import backends, losses, models, penalties
from minigan.game import discriminator_step, generator_step, simultaneous_step
from minigan.layers import fuse
from minigan.optim import Adam

PAUSE, BURST = 0.05, 0.2  # seconds


def take_turns(
    functions: list[Callable[[], object]], seconds: float, before: list[Callable[[], object]] | None = None
) -> list[list[float]]:
    """The functions in turn, until each had its seconds, three times at least: every duration of each, in seconds.

    A turn begins with the function's own `before`, with a pause, in which the BLAS threads of the one before give up
    their busy waiting, and with one run to warm up, none of which is timed; then it runs for 0.2 s, once at least.
    """
    before = before or [lambda: None] * len(functions)
    durations: list[list[float]] = [[] for _ in functions]
    deadline, turns = time.perf_counter() + seconds * len(functions), 0
    while turns < 3 or time.perf_counter() < deadline:
        for prepare, function, times in zip(before, functions, durations, strict=True):
            prepare()
            time.sleep(PAUSE)
            function()
            end = time.perf_counter() + BURST
            while True:
                start = time.perf_counter()
                function()
                times.append(time.perf_counter() - start)
                if time.perf_counter() > end:
                    break
        turns += 1
    return durations


def summary(times: list[float]) -> dict:
    """Median and quartiles in milliseconds, and how many runs they are of."""
    low, median, high = np.quantile(times, [0.25, 0.5, 0.75]) * 1e3
    return {"median_ms": round(median, 3), "quartiles_ms": [round(low, 3), round(high, 3)], "runs": len(times)}


def machine() -> dict:
    """What a figure was measured on: processor, cores, system, and the versions of what took part."""
    versions = {"python": platform.python_version()}
    for name in ("numpy", "numba", "llvmlite", "cupy", "torch", "tensorflow", "tensorflow-cpu"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].split(":")[1].strip() if names else cpu
    return {"cpu": cpu, "cores": os.cpu_count(), "system": platform.system(), "versions": versions}


class Step:
    """One full training step, D on real and on fake, then G through D, ready to be called again and again.

    Simultaneous: both players learn from one pass (`game.simultaneous_step`).
    """

    def __init__(
        self,
        preset: str,
        batch: int,
        backend,
        seed: int = 0,
        simultaneous: bool = False,
        penalty: penalties.Penalty | None = None,
    ):
        rng = np.random.default_rng(seed)
        self.G, self.D = models.build(preset, rng=rng)
        self.G.to(backend)
        self.D.to(backend)
        self.players = fuse(self.G), fuse(self.D)
        self.opt_g, self.opt_d = (Adam(network, lr=2e-4, beta1=0.5) for network in (self.G, self.D))
        noise = (batch, self.G.noise_shape[0])
        self.real = backend.asarray(rng.uniform(-1, 1, (batch, 28, 28, 1)).astype(np.float32))
        self.z_d, self.z_g = (backend.asarray(rng.standard_normal(noise, dtype=np.float32)) for _ in range(2))
        self.backend, self.simultaneous, self.penalty = backend, simultaneous, penalty

    def __call__(self) -> dict:
        if self.simultaneous:
            players = *self.players, self.opt_d, self.opt_g
            batch = self.real, self.z_g, losses.non_saturating
            record = simultaneous_step(*players, *batch, penalty=self.penalty)
            self.backend.synchronize()
            return record
        batch = self.real, self.z_d, losses.non_saturating
        record = discriminator_step(*self.players, self.opt_d, *batch, penalty=self.penalty)
        record |= generator_step(*self.players, self.opt_g, self.z_g, losses.non_saturating)
        self.backend.synchronize()
        return record


def compare_backends(
    preset: str, batches: list[int], names: list[str], threads: list[int], seconds: float, **settings
) -> list[dict]:
    """A row for each batch, number of threads and backend: the time of a full step. They take turns. The first step of
    each backend is checked, not timed. `settings` are further ones of `backends.load`, for example tf32.

    Before each step its backend sets its threads, because those of BLAS are shared: NumPy uses them, Numba does not.

    Raises AssertionError where two backends play different games.
    """
    rows = []
    for batch in batches:
        cases = list(product(threads, names))
        steps = [Step(preset, batch, backends.load(name, threads=count, **settings)) for count, name in cases]
        first = [{key: float(value) for key, value in step().items()} for step in steps]
        for (_, name), record in zip(cases, first, strict=True):
            for key, value in record.items():
                expected = first[0][key]
                assert abs(value - expected) < 1e-3 * max(1, abs(expected)), f"{name} {key}: {value}, not {expected}"
        before = [partial(backends.put_in_force, step.backend) for step in steps]
        for (count, name), times in zip(cases, take_turns(steps, seconds, before), strict=True):
            row = {"preset": preset, "batch": batch, "backend": name, "threads": count, **summary(times)}
            rows.append(row | {"images_per_second": round(1e3 * batch / row["median_ms"])})
    return rows


def compare_penalties(preset: str, batch: int, name: str, threads: int, seconds: float) -> list[dict]:
    """A row for a full step without a penalty and with each: they take turns. `ratio` is to the step without."""
    backend, steps = backends.load(name, threads=threads), {}
    for kind in ("none", *penalties.NAMES):
        rng = np.random.default_rng(0)
        penalty = None if kind == "none" else penalties.named(kind, weight=10.0, rng=rng)
        steps[kind] = Step(preset, batch, backend, penalty=penalty)
        steps[kind]()
    rows = []
    for kind, times in zip(steps, take_turns(list(steps.values()), seconds), strict=True):
        row = {"preset": preset, "batch": batch, "backend": name, "threads": threads, "penalty": kind}
        rows.append(row | summary(times))
    return [row | {"ratio": round(row["median_ms"] / rows[0]["median_ms"], 3)} for row in rows]


def overtakes(rows: list[dict], challenger: str, champion: str) -> int | None:
    """The smallest batch from which on the challenger is the faster one; None if it never is."""
    times = {(row["batch"], row["backend"]): row["median_ms"] for row in rows}
    batches = sorted({row["batch"] for row in rows})
    faster = [times[batch, challenger] < times[batch, champion] for batch in batches]
    return next((batch for i, batch in enumerate(batches) if all(faster[i:])), None)
