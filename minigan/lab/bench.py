"""Time functions in alternation, so that other load on the machine affects all of them equally.

`minigan bench` is a short benchmark for any machine. The scripts in benchmarks/ use the same functions.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from minigan import backends, datasets, losses, models, penalties
from minigan.game import discriminator_step, generator_step, simultaneous_step
from minigan.layers import Sequential, fuse
from minigan.models import classifier, reuse
from minigan.optim import Adam
from minigan.runs.describe import machine as machine  # benchmarks take it from here
from minigan.training import Config, Training

PAUSE, BURST = 0.05, 0.2  # seconds


def take_turns(
    functions: Sequence[Callable[[], object]], seconds: float, before: Sequence[Callable[[], object]] | None = None
) -> list[list[float]]:
    """Times functions in alternation until `seconds` per function have passed, in at least three turns each.

    Returns a list for each function, with the duration of every timed call in seconds.

    A turn starts with the `before` of the function, a pause and a warm-up call, which are not timed. During the pause,
    the BLAS threads of the previous function stop their busy waiting. Then the function is called for 0.2 s, and at
    least once.
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
    """Returns the median and the quartiles in milliseconds, and the number of durations."""
    low, median, high = np.quantile(times, [0.25, 0.5, 0.75]) * 1e3
    return {"median_ms": round(median, 3), "quartiles_ms": [round(low, 3), round(high, 3)], "runs": len(times)}


class Step:
    """A complete training step as a callable: a discriminator step, then a generator step.

    With `simultaneous`, both networks are updated from one forward pass (`game.simultaneous_step`).
    `discriminator` maps the discriminator of the preset to the one that is used.
    """

    def __init__(
        self,
        preset: str,
        batch: int,
        backend,
        seed: int = 0,
        simultaneous: bool = False,
        penalty: penalties.Penalty | None = None,
        discriminator: Callable[[Sequential], Sequential] = lambda D: D,
    ):
        rng = np.random.default_rng(seed)
        self.G, D = models.build(preset, rng=rng)
        self.D = discriminator(D)
        self.G.to(backend)
        self.D.to(backend)
        self.players = fuse(self.G), fuse(self.D)
        self.opt_g, self.opt_d = (Adam(network, lr=2e-4, beta1=0.5) for network in (self.G, self.D))
        assert self.G.noise_shape is not None  # every preset's generator has one
        noise = (batch, self.G.noise_shape[0])
        self.real = backend.asarray(rng.uniform(-1, 1, (batch, 28, 28, 1)).astype(np.float32))
        self.z_d, self.z_g = (backend.asarray(rng.standard_normal(noise, dtype=np.float32)) for _ in range(2))
        self.backend, self.simultaneous, self.penalty = backend, simultaneous, penalty

    def __call__(self) -> dict:
        """Runs one step, synchronises the backend, and returns the record of the step."""
        with self.backend.computing():
            return self._run()

    def _run(self) -> dict:
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
    """Times a complete step on each backend, in alternation.

    Returns a row for each batch, number of threads and backend.

    The first step of each backend is not timed. Its losses and probabilities are compared with those of the first
    backend. `settings` are further arguments of `backends.load`, for example tf32.

    Before each turn, the backend sets its number of threads, because BLAS has one setting for all backends, and only
    NumPy uses it.

    Raises AssertionError if the first steps of two backends differ.
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


# Options of a run whose cost `compare_options` measures, by a name for the table. "none" is the step to compare with.
OPTION_CASES: dict[str, dict[str, Any]] = {
    "none": {},
    "simultaneous": {"simultaneous": True},
    **{f"penalty {name}": {"penalty": name} for name in penalties.NAMES},
    "penalty r1 every 8": {"penalty": "r1", "penalty_every": 8},
    **{
        f"loss {name}": {"loss": name, "penalty": "none"}
        for name in losses.LOSSES
        if name not in ("wasserstein", "r3gan")
    },
    "loss wasserstein": {"loss": "wasserstein"},
    "loss r3gan": {"loss": "r3gan"},
    "label smoothing": {"label_smoothing": 0.1},
    "real share 1/3": {"real_share": 1 / 3},
    "feature matching": {"feature_matching": 0.5},
    "packs of 2": {"pack": 2},
    "instance noise": {"instance_noise": 0.1},
    **{f"d_norm {norm}": {"network": {"d_norm": norm}} for norm in ("spectral", "batch", "dropout")},
    "minibatch standard deviation": {"network": {"d_minibatch_std": 2.0}},
    "2 steps of D": {"d_steps": 2},
    "2 steps of G": {"g_steps": 2},
    "moving average": {"average": 0.999},
    "clipping": {"clip_norm": 1.0},
    **{f"optimizer {name}": {"optimizer": name} for name in ("sgd", "momentum", "rmsprop")},
}


def compare_options(
    preset: str, batch: int, name: str, threads: int, seconds: float, cases: dict[str, dict[str, Any]] | None = None
) -> list[dict]:
    """Times a step of the training with each of OPTION_CASES, in alternation. Returns a row for each.

    `ratio` is relative to the step without any of these options, and `share` is the part of the step that the option
    takes: 1 - 1 / ratio.
    """
    backend, steps = backends.load(name, threads=threads), {}
    images = np.random.default_rng(0).integers(0, 256, (4 * batch, 28, 28, 1), dtype=np.uint8)
    for option, choices in (OPTION_CASES if cases is None else cases).items():
        config = Config.of(preset, batch=batch, steps=10**9, conditional=False, **choices)
        training = Training(config, datasets.Images(images, None, "noise"), backend)
        steps[option] = partial(next, training.records())
        steps[option]()
    rows = []
    for option, times in zip(steps, take_turns(list(steps.values()), seconds), strict=True):
        row = {"preset": preset, "batch": batch, "backend": name, "threads": threads, "option": option}
        rows.append(row | summary(times))
    ratios = [row["median_ms"] / rows[0]["median_ms"] for row in rows]
    return [row | {"ratio": round(r, 3), "share": round(1 - 1 / r, 3)} for row, r in zip(rows, ratios, strict=True)]


FROZEN: dict[str, Callable[[Sequential], Sequential]] = {
    "all learns": lambda D: D,
    "first layer frozen": lambda D: reuse.frozen(D, "1"),
    "features frozen": lambda D: reuse.frozen(D, "features"),
    "all frozen": lambda D: reuse.frozen(D, "all"),
    "classifier, all learns": lambda D: _from_classifier(False),
    "classifier, features frozen": lambda D: reuse.frozen(_from_classifier(False), "features"),
    "classifier, projected": lambda D: _from_classifier(True),
}


def _from_classifier(projected: bool) -> Sequential:
    """Returns a discriminator for MNIST with the architecture of a classifier's convolutions."""
    rng, shape = np.random.default_rng(0), (28, 28, 1)
    facts = {"widths": classifier.widths_for(shape), "projected": projected}
    return reuse.from_facts(rng, shape, 0, facts)


def compare_frozen(preset: str, batch: int, name: str, threads: int, seconds: float) -> list[dict]:
    """Times a complete step with each discriminator of FROZEN, in alternation. Returns a row for each.

    `ratio` is relative to the step with the discriminator of the preset, all of which learns.
    """
    backend = backends.load(name, threads=threads)
    steps = [Step(preset, batch, backend, discriminator=make) for make in FROZEN.values()]
    for step in steps:
        step()
    rows = []
    for kind, times in zip(FROZEN, take_turns(steps, seconds), strict=True):
        row = {"preset": preset, "batch": batch, "backend": name, "threads": threads, "discriminator": kind}
        rows.append(row | summary(times))
    return [row | {"ratio": round(row["median_ms"] / rows[0]["median_ms"], 3)} for row in rows]


def described(rows: list[dict]) -> list[str]:
    """Returns the rows of `compare_backends` as lines for people, and from which batch on a GPU is the faster one."""
    reference = {row["batch"]: row["median_ms"] for row in rows if row["backend"] == "numpy"}
    text = (
        "batch {batch:4d}  {backend:6s} {median_ms:9.1f} ms ({quartiles_ms[0]:.1f}-{quartiles_ms[1]:.1f}) "
        "{images_per_second:8,d} images/s  {:5.1f} x numpy"
    )
    lines = [text.format(reference[row["batch"]] / row["median_ms"], **row) for row in rows]
    names = {row["backend"] for row in rows}
    if "cupy" in names:
        batch = overtakes(rows, "cupy", "numba" if "numba" in names else "numpy")
        lines.append(f"the GPU is faster from batch {batch} on" if batch else "the GPU is slower at the largest batch")
    return lines


def overtakes(rows: list[dict], candidate: str, baseline: str) -> int | None:
    """Returns the batch from which on the candidate is faster, or None if it is not at the largest batch."""
    times = {(row["batch"], row["backend"]): row["median_ms"] for row in rows}
    batches = sorted({row["batch"] for row in rows})
    faster = [times[batch, candidate] < times[batch, baseline] for batch in batches]
    return next((batch for i, batch in enumerate(batches) if all(faster[i:])), None)
