"""Measure how often the alarm of a training trips in healthy runs and in collapsed ones, and how soon.

    python benchmarks/alarm.py --part test --json benchmarks/results/alarm.json [--work FOLDER] [--jobs 1] [--only NAME]
    python benchmarks/alarm.py --table benchmarks/results/alarm.json      # the table of finished runs
    python benchmarks/alarm.py --part short --json FILE                   # a minute, on points: what CI runs
    python benchmarks/alarm.py --part test --time                         # milliseconds of a step of each family

RUNS lists the runs with their seeds: those of the parts `tune` and `second`, on which the thresholds of the alarm were
chosen, and those of the part `test`, which were listed before that and show what the alarm is worth. A run has MOMENTS
moments. At each, the alarm makes its check, and the generator is saved. A moment is a number of steps, about five
seconds of one thread, so that the results do not depend on what else the machine does. Each run has a process of its
own with one thread, and --jobs of them run at a time. A finished run is written to the file --json at once, and a
repeated command skips it.

A judge that shares nothing with the alarm scores the saved generators: for digits the judge of `minigan.metrics`, for
colour shapes a classifier that is trained once on 32 x 32 pixels, and for points the density of the mixture. `verdict`
decides by these scores alone which runs are healthy, collapsed, or ignore their labels. What a run was meant to be is
not used. The other runs are neither, and are listed.
"""

import argparse
import copy
import dataclasses
import json
import math
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import many_runs
import numpy as np

from minigan import backends, datasets, models
from minigan.datasets import ImageOptions
from minigan.files import write_atomically
from minigan.layers import BatchNorm, Dense, Flatten, LeakyReLU, Sequential
from minigan.metrics import alarm, classifier
from minigan.metrics.distances import Neighbourhoods
from minigan.metrics.judge import Judge, features_and_probabilities
from minigan.runs.checks import Checks
from minigan.training import Config, Diverged, Training, draw_noise, draw_samples

MOMENTS = 15  # checks of a run, five seconds apart
COUNT = 2000  # samples that the judge scores, and real samples with which it compares them
SIDE = 32  # pixels of the colour shapes that the judge sees

# The rule. Coverage and agreement are those of the judge.
COLLAPSED = 0.02  # a moment with less coverage is bad
HEALTHY = 0.05  # a healthy run has at least this coverage in its last third
FOLLOWED = 0.4  # and, with labels, at least this agreement
IGNORED = 0.3  # a run that covers the data, but has less agreement at its end, ignores its labels
START = 4  # a run that was never better is called collapsed from this moment on (20 s)
WITHIN = 2  # checks after the first moment at which the judge calls the run collapsed


# ---------------------------------------------------------------- what is run


class FrozenBatchNorm(BatchNorm):
    """Batch norm that was left in evaluation mode: it never normalises with the statistics of the batch."""

    def forward(self, x, train=True, track=True):
        """Return y, computed with the running statistics, which are never updated."""
        return super().forward(x, train=False)


def frozen_batch_norm(G: Sequential, D: Sequential, rng) -> tuple[Sequential, Sequential]:
    """Leave the batch norm of G in evaluation mode."""
    for layer in G.layers:
        if type(layer) is BatchNorm:
            layer.__class__ = FrozenBatchNorm
    return G, D


def two_numbers(G: Sequential, D: Sequential, rng) -> tuple[Sequential, Sequential]:
    """Give G noise of two numbers."""
    first = next(layer for layer in G.layers if isinstance(layer, Dense))
    (n,), w = G.noise_shape, first.params["w"]  # the rows of the noise, then those of the labels
    first.params["w"] = np.concatenate([w[:2] * np.float32(math.sqrt(n / 2)), w[n:]])
    first.n_in = len(first.params["w"])
    G.noise_shape = (2,)
    return G, D


def tiny_d(G: Sequential, D: Sequential, rng) -> tuple[Sequential, Sequential]:
    """Give G an opponent with two hidden units, which sees no labels."""
    shape = G_SHAPES[-1]
    return G, Sequential(Flatten(), Dense(math.prod(shape), 2, rng=rng), LeakyReLU(0.2), Dense(2, 1, rng=rng))


G_SHAPES: list[tuple[int, ...]] = []  # the shape of a sample of the run, for `tiny_d`


def shuffled_labels(data):
    """Return the images with the labels of others."""
    order = np.random.default_rng(0).permutation(len(data))
    return replace(data, labels=data.labels[order], held_out=None)


@dataclass(frozen=True)
class Change:
    """What is changed in a recipe: options of Config, multiples of learning rates, networks, or data."""

    options: dict[str, Any] = field(default_factory=dict)
    lr_g: float = 1.0
    lr_d: float = 1.0
    networks: Callable | None = None
    data: Callable | None = None
    cost: int = 1  # how much longer a step takes, so that the run has fewer of them


ALTERNATE = dict(simultaneous=False)
CHANGES = {
    "as it is": Change(),
    "half lr": Change(lr_g=0.5, lr_d=0.5),
    "r1": Change(dict(penalty="r1", penalty_weight=1.0)),
    "lr G x 10": Change(lr_g=10),
    "lr G x 30": Change(lr_g=30),
    "lr G x 100": Change(lr_g=100),
    "lr D x 30": Change(lr_d=30),
    "lr D x 100": Change(lr_d=100),
    "lr x 30": Change(lr_g=30, lr_d=30),
    "lr x 100": Change(lr_g=100, lr_d=100),
    "lr G / 1000": Change(lr_g=1e-3),
    "weak D: lr / 100": Change(lr_d=0.01),
    "weak D: lr / 1000": Change(lr_d=1e-3),
    "weak D: two units": Change(networks=tiny_d),
    "many G steps": Change(ALTERNATE | dict(g_steps=10), cost=5),
    "minimax": Change(dict(loss="minimax")),
    "minimax, D x 10": Change(dict(loss="minimax"), lr_d=10),
    "minimax, 5 D steps": Change(ALTERNATE | dict(loss="minimax", d_steps=5), cost=3),
    "2 noise numbers": Change(networks=two_numbers),
    "frozen batch norm": Change(networks=frozen_batch_norm),
    "shuffled labels": Change(data=shuffled_labels),
    "momentum 0.99": Change(dict(beta1=0.99)),
}


@dataclass(frozen=True)
class Family:
    """A recipe and its data. `every` is the number of steps between two moments, about five seconds of one thread."""

    preset: str
    data: str
    every: int
    options: dict[str, Any] = field(default_factory=dict)


def shapes(side: int) -> dict[str, Any]:
    """Return the options of colour shapes with this side."""
    return {"data_options": {"size": side}}


FAMILIES = {
    "digits": Family("digits", "mnist", 330),
    "digits-unlabelled": Family("digits-unlabelled", "mnist", 345),
    "digits-wide": Family("digits-wide", "mnist", 200, dict(batch=64)),
    "small": Family("small", "mnist", 200, dict(batch=64)),
    "small, labels": Family("small", "mnist", 200, dict(batch=64, conditional=True)),
    "small, spectral": Family("small", "mnist", 200, dict(batch=64, network={"d_norm": "spectral"})),
    "mlp": Family("mlp", "mnist", 220),
    "mp-gan": Family("mp-gan", "mnist", 80, dict(batch=32)),
    "upsample": Family("upsample", "mnist", 90, dict(batch=32)),
    "tutorial": Family("tutorial", "mnist", 42, dict(batch=32)),
    "pictures, digits": Family("pictures", "mnist", 355),
    "digits, shapes": Family("digits", "shapes", 230, shapes(32)),
    "digits-unlabelled, shapes": Family("digits-unlabelled", "shapes", 230, shapes(32)),
    "pictures, shapes": Family("pictures", "shapes", 270, shapes(32)),
    "small, shapes": Family("small", "shapes", 150, shapes(32) | dict(batch=64)),
    "mlp, shapes": Family("mlp", "shapes", 160, shapes(32) | dict(batch=64)),
    "pictures, large shapes": Family("pictures", "shapes", 90),
    "ring": Family("points", "ring", 300),
    "grid": Family("points", "grid", 300),
}


@dataclass(frozen=True)
class Run:
    """One run of the list."""

    part: str  # "tune", "second", "test" or "short"
    family: str
    change: str
    seed: int

    @property
    def name(self) -> str:
        """A name for files and tables."""
        return f"{self.family}; {self.change}; seed {self.seed}"


def listed(part: str, first_seed: int, families: dict[str, list[str]]) -> list[Run]:
    """Return the runs of a part. Every run has a seed of its own, counted from the first."""
    pairs = [(family, change) for family, changes in families.items() for change in changes]
    return [Run(part, *pair, first_seed + i) for i, pair in enumerate(pairs)]


TUNE = {
    "small": ["as it is", "minimax, D x 10", "weak D: lr / 100", "lr G x 30"],
    "mlp": ["as it is", "many G steps", "lr x 30"],
    "digits": ["as it is", "lr G x 30", "lr x 30", "many G steps", "frozen batch norm", "shuffled labels"],
    "digits, shapes": ["as it is", "lr G x 30", "minimax"],
    "digits-unlabelled": ["as it is", "2 noise numbers", "weak D: two units", "lr D x 30"],
    "small, labels": ["as it is", "shuffled labels"],
    "upsample": ["as it is"],
    "pictures, shapes": ["as it is", "many G steps"],
    "small, shapes": ["as it is", "lr x 30"],
    "mp-gan": ["as it is"],
    "tutorial": ["as it is"],
    "digits-wide": ["as it is"],
    "pictures, digits": ["as it is", "minimax, 5 D steps"],
}
SECOND = {
    "digits": [
        "as it is",
        "as it is",
        "half lr",
        "r1",
        "lr G x 100",
        "lr G x 10",
        "lr D x 30",
        "lr x 100",
        "many G steps",
        "weak D: two units",
        "weak D: lr / 1000",
        "minimax, 5 D steps",
        "2 noise numbers",
        "frozen batch norm",
        "shuffled labels",
        "momentum 0.99",
    ],
    "digits-unlabelled": [
        "as it is",
        "as it is",
        "half lr",
        "lr G x 30",
        "lr x 30",
        "many G steps",
        "weak D: lr / 100",
        "minimax, D x 10",
        "2 noise numbers",
        "lr G / 1000",
    ],
    "digits-wide": ["as it is", "half lr", "r1", "lr D x 100", "shuffled labels"],
    "small": [
        "as it is",
        "half lr",
        "r1",
        "lr G x 100",
        "lr D x 100",
        "many G steps",
        "minimax, 5 D steps",
        "minimax, D x 10",
        "weak D: two units",
    ],
    "small, labels": ["as it is", "shuffled labels", "weak D: lr / 1000"],
    "small, spectral": ["as it is", "minimax", "lr x 100"],
    "mlp": ["as it is", "r1", "lr G x 30", "lr x 30", "minimax, D x 10", "weak D: two units", "many G steps"],
    "mp-gan": ["as it is", "r1", "many G steps"],
    "upsample": ["as it is", "half lr", "lr G x 30"],
    "tutorial": ["as it is", "half lr", "lr G x 30"],
    "pictures, digits": ["as it is", "half lr", "many G steps", "lr G x 100", "weak D: lr / 1000"],
    "digits, shapes": ["as it is", "half lr", "lr x 30", "lr G x 100", "shuffled labels", "many G steps"],
    "digits-unlabelled, shapes": ["as it is", "half lr", "lr G x 30", "weak D: two units"],
    "pictures, shapes": ["as it is", "half lr", "minimax, 5 D steps", "lr G x 30"],
    "small, shapes": ["as it is", "many G steps", "lr D x 100"],
    "mlp, shapes": ["as it is", "lr G x 30"],
    "pictures, large shapes": ["as it is", "lr G x 30"],
}
TEST = {
    "digits": ["as it is", "half lr", "r1", "lr G x 100", "weak D: two units", "weak D: lr / 1000", "momentum 0.99"],
    "digits-unlabelled": ["as it is", "half lr", "2 noise numbers", "weak D: lr / 100", "lr G / 1000", "lr G x 100"],
    "digits-wide": ["as it is", "half lr", "weak D: two units", "shuffled labels"],
    "small": ["as it is", "half lr", "r1", "minimax, D x 10", "weak D: two units", "many G steps"],
    "small, labels": ["as it is", "weak D: lr / 1000", "shuffled labels"],
    "small, spectral": ["as it is", "minimax", "weak D: lr / 1000"],
    "mlp": ["r1", "lr G x 30", "lr x 30", "weak D: two units", "many G steps", "minimax, D x 10"],
    "mp-gan": ["r1", "many G steps"],
    "upsample": ["half lr", "lr G x 30"],
    "tutorial": ["half lr", "lr G x 30"],
    "pictures, digits": ["as it is", "half lr", "lr G x 100", "weak D: lr / 1000"],
    "digits, shapes": ["as it is", "half lr", "lr G x 100", "many G steps"],
    "digits-unlabelled, shapes": ["half lr", "lr G x 30"],
    "pictures, shapes": ["half lr", "many G steps"],
    "small, shapes": ["as it is", "many G steps"],
    "mlp, shapes": ["as it is", "lr G x 30"],
    "pictures, large shapes": ["as it is", "lr G x 30", "half lr", "many G steps"],
}
SHORT = {"ring": ["as it is", "half lr", "lr G x 100", "weak D: two units"], "grid": ["lr x 100", "as it is"]}
RUNS = [
    *listed("tune", 100, TUNE),
    *listed("second", 1000, SECOND),
    *listed("test", 2000, TEST),
    *listed("short", 10, SHORT),
]


def every(run: Run) -> int:
    """Return the number of steps between two moments of a run."""
    return max(1, FAMILIES[run.family].every // CHANGES[run.change].cost)


def create(run: Run) -> Training:
    """Create the training of a run, before its first step, on one thread."""
    family, change = FAMILIES[run.family], CHANGES[run.change]
    recipe = Config.of(family.preset)
    rates = dict(lr_g=recipe.lr_g * change.lr_g, lr_d=recipe.lr_d * change.lr_d)
    total = dict(steps=MOMENTS * every(run), backend="numba", threads=1, seed=run.seed)
    config = Config.of(family.preset, data=family.data, **family.options | rates | total | change.options)
    kind = datasets.KINDS[config.kind]
    data = kind.load(config.data, config.kind_options(), config.seed, config.conditional)
    data = change.data(data) if change.data else data
    networks = None
    if change.networks:
        rng = np.random.default_rng([run.seed, 0])
        classes = len(data.class_names) if config.conditional else 0
        shape = dict(sample_shape=data.sample_shape, classes=classes, options=config.network)
        G_SHAPES.append(data.sample_shape)
        networks = change.networks(*models.build(family.preset, rng=rng, **shape), rng)
    return Training(config, data, backends.load("numba", threads=1), networks)


def train(run: Run) -> tuple[list[dict], list[dict]]:
    """Train a run to its end. Returns what the alarm sees at each moment, and the generators of these moments.

    A run that diverges ends earlier.
    """
    training = create(run)
    training.warm_up()
    checks, steps, seen, generators = Checks(training), every(run), [], []
    before: np.ndarray | None = None
    try:
        for record in training.records():
            if record["step"] % steps:
                continue
            curves = np.array(training.curves).reshape(-1, len(training.CURVES))[-steps:]
            row = dict(zip(training.CURVES, curves.mean(axis=0, dtype=np.float64).tolist(), strict=True))
            row |= {"step": training.step, "seconds": round(training.seconds, 2)} | checks.measure()
            samples = training.samples(60)
            labels = np.arange(len(samples)) % training.classes if training.classes else None
            problems = alarm.of_samples(row["step"], before, samples, labels, training.config.decay)
            seen.append({"row": row, "problems": problems})
            before = samples
            generators.append(copy.deepcopy(training.sampler))
    except Diverged:
        pass
    return seen, generators


# ---------------------------------------------------------------- the judge


class DigitsOrShapes:
    """Judges images by the features of a classifier that the alarm does not use."""

    def __init__(self, real, network):
        order = np.random.default_rng(0).permutation(len(real))[:COUNT]
        self.network, self.real = network, real.images[order]
        self.reference = Neighbourhoods(self.seen(self.real)[0])

    def seen(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (features, probabilities) of images."""
        return features_and_probabilities(self.network, reduced(images) if images.shape[3] == 3 else images)

    def __call__(self, images: np.ndarray, labels: np.ndarray | None) -> dict[str, float]:
        """Return the coverage of the real images, and the agreement with the labels asked for, if there are any."""
        features, probabilities = self.seen(images)
        found = {"coverage": float(self.reference.memberships(features)[1].mean())}
        if labels is not None:
            found["agreement"] = float((probabilities.argmax(axis=1) == labels).mean())
        return found


class OfPoints:
    """Judges points by the density from which the data were drawn."""

    def __init__(self, mixture: str):
        self.mixture = datasets.points.MIXTURES[mixture]

    def __call__(self, points: np.ndarray, labels: np.ndarray | None) -> dict[str, float]:
        """Return the share of modes that are covered, times the share of points near a mode."""
        modes, share = self.mixture.coverage(points)
        return {"coverage": modes / len(self.mixture.centres) * share}


def reduced(images: np.ndarray) -> np.ndarray:
    """Return images (N, H, W, 3) as (N, SIDE, SIDE, 3), by averaging. H and W are multiples of SIDE."""
    N, H, W, C = images.shape
    parts = images.reshape(N, SIDE, H // SIDE, SIDE, W // SIDE, C)
    return np.rint(parts.mean(axis=(2, 4))).astype(np.uint8)


@cache
def judge_of(family: str, work: Path):
    """Return the judge for the data of a family."""
    of, backend = FAMILIES[family], backends.load("numba", threads=1)
    if of.preset == "points":
        return OfPoints(of.data)
    if of.data == "mnist":
        return DigitsOrShapes(datasets.mnist("test"), Judge(backend).network)
    size = of.options.get("data_options", {}).get("size", 0)
    real = datasets.load("shapes", ImageOptions(split="val", size=size))
    return DigitsOrShapes(real, judge_of_shapes(work, backend))


def judge_of_shapes(work: Path, backend) -> Sequential:
    """Return a classifier of colour shapes. It is trained once, in some minutes, and stored in the folder `work`."""
    path = work / "judge-of-shapes.npz"
    network = classifier.network(np.random.default_rng(0), (SIDE, SIDE, 3), len(datasets.shapes.KINDS))
    if not path.exists():
        data = datasets.load("shapes")
        trained = classifier.train(reduced(data.images), data.labels, backend, steps=6000)
        arrays = {k: backend.to_numpy(v) for k, v in (trained.network.params | trained.network.buffers).items()}
        np.savez(path.with_name("part.npz"), accuracy=trained.accuracy, **arrays)
        os.replace(path.with_name("part.npz"), path)
    with np.load(path) as saved:
        for name, value in (network.params | network.buffers).items():
            value[...] = saved[name]
    return network.to(backend)


def judged(run: Run, sampler, work: Path) -> dict[str, float]:
    """Return the judge's figures for the generator of one moment, from COUNT samples of fixed noise."""
    rng, classes = np.random.default_rng(0), sampler.generator.classes or sampler.classes
    labels = np.arange(COUNT) % classes if classes else None
    z = draw_noise(sampler.generator, rng, COUNT)
    placed = None if labels is None else sampler.generator.backend.asarray(labels)
    samples = sampler.codec.decode(draw_samples(sampler.generator, z, placed))
    return judge_of(run.family, work)(samples, labels)


# ---------------------------------------------------------------- verdict and table


def verdict(moments: list[dict]) -> tuple[str, int | None]:
    """Return what the judge's figures of all moments say, and the first moment at which it calls the run collapsed.

    healthy           coverage and agreement are high in the last third
    collapsed         the coverage is low from a moment on until the end. This moment counts if the
                      run was better before, or from START on
    ignores labels    the coverage is not low at the end, but the agreement is
    neither           everything else
    """
    coverage = [moment["coverage"] for moment in moments]
    agreement = [moment.get("agreement", 1.0) for moment in moments]
    last = slice(-max(1, len(moments) // 3), None)
    if min(coverage[last]) >= HEALTHY and min(agreement[last]) >= FOLLOWED:
        return "healthy", None
    bad = [value < COLLAPSED for value in coverage]
    if bad[-1]:
        first = next(m for m in range(len(bad)) if all(bad[m:]))
        first = first if not all(bad[:first]) else max(first, min(START, len(bad) - 1))
        return "collapsed", first
    return ("ignores labels" if agreement[-1] < IGNORED else "neither"), None


def alarms(result: dict) -> dict[str, int]:
    """Return the moment at which the alarm reports each kind of problem, from the stored rows of a run."""
    watch, found = alarm.Alarm(), {}
    for m, moment in enumerate(result["moments"]):
        for kind in watch.kinds(moment["row"], moment["problems"]):
            found[kind] = m
    return found


def summary(results: list[dict]) -> dict:
    """Count, for each verdict, the runs, those with an alarm, and those with an alarm in time."""
    counts = {
        name: {"runs": 0, "alarm": 0, "in time": 0} for name in ("healthy", "collapsed", "ignores labels", "neither")
    }
    for result in results:
        judged, first = verdict([moment["judge"] for moment in result["moments"]])
        found = alarms(result)
        collapse = [m for kind, m in found.items() if kind in alarm.COLLAPSE]
        count = counts[judged]
        count["runs"] += 1
        count["alarm"] += bool(found)
        count["in time"] += bool(collapse) and first is not None and min(collapse) <= first + WITHIN
    return counts


def table(results: list[dict]) -> str:
    """Format the results as Markdown: the counts, and a row for each run."""
    lines = ["| the judge says | runs | with an alarm | with an alarm of a collapse in time |", "|---|--:|--:|--:|"]
    lines += [f"| {name} | {n['runs']} | {n['alarm']} | {n['in time']} |" for name, n in summary(results).items()]
    lines += ["", "| run | the judge says | from | alarms | coverage at the end |", "|---|---|--:|---|--:|"]
    for result in sorted(results, key=lambda r: verdict([m["judge"] for m in r["moments"]])[0]):
        moments = [moment["judge"] for moment in result["moments"]]
        judged, first = verdict(moments)
        found = ", ".join(f"{kind} {m + 1}" for kind, m in alarms(result).items())
        end = f"{moments[-1]['coverage']:.2f}" + (
            f", {moments[-1]['agreement']:.2f}" if "agreement" in moments[-1] else ""
        )
        lines.append(f"| {result['name']} | {judged} | {'' if first is None else first + 1} | {found} | {end} |")
    return "\n".join([*lines, ""])


# ---------------------------------------------------------------- the program


def finish(run: Run, work: Path) -> None:
    """Train and judge one run, and write its result to the folder `work`."""
    start = time.perf_counter()
    seen, generators = train(run)
    trained = time.perf_counter()
    moments = [moment | {"judge": judged(run, of, work)} for moment, of in zip(seen, generators, strict=True)]
    seconds = {"seconds": round(trained - start, 1), "judging": round(time.perf_counter() - trained, 1)}
    result = {"name": run.name, **dataclasses.asdict(run), **seconds, "moments": moments}
    write_atomically(many_runs.place(run.name, work), (json.dumps(result) + "\n").encode())


def time_of_step(family: str) -> float:
    """Measure the milliseconds of a step of a family on one thread."""
    training = create(Run("tune", family, "as it is", 0))
    training.warm_up()
    steps = training.records()
    next(steps)
    seconds, step = training.seconds, training.step
    while training.seconds - seconds < 2:
        next(steps)
    return 1e3 * (training.seconds - seconds) / (training.step - step)


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("tune", "second", "test", "short"))
    parser.add_argument("--only", default="", metavar="TEXT", help="runs whose name contains this text")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "minigan-alarm", metavar="FOLDER")
    parser.add_argument("--jobs", type=int, default=1, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the table of these results")
    parser.add_argument("--time", action="store_true", help="measure the time of a step of each family")
    parser.add_argument("--one", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.table:
        print(table(json.loads(options.table.read_text())["runs"]))
        return
    if options.one:
        finish(next(run for run in RUNS if run.name == options.one), options.work)
        return
    chosen = [run for run in RUNS if run.part == options.part and options.only in run.name]
    if options.time:
        for family in dict.fromkeys(run.family for run in chosen):
            print(f"{family:28s} {time_of_step(family):7.1f} ms, every {FAMILIES[family].every} steps", flush=True)
        return
    if any(FAMILIES[run.family].data == "shapes" for run in chosen):
        judge_of_shapes(options.work, backends.load("numba", threads=1))
    rule = dict(collapsed=COLLAPSED, healthy=HEALTHY, followed=FOLLOWED, ignored=IGNORED, start=START)
    names = [run.name for run in RUNS if run.part == options.part]
    results = many_runs.Results(names, options.json, {"part": options.part, "rule": rule})
    many_runs.run_all(__file__, [run.name for run in chosen], results, options.work, options.jobs)
    print(table([result for result in results.runs if options.only in result["name"]]))


if __name__ == "__main__":
    main()
