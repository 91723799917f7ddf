"""Does a discriminator that was trained before make a GAN faster?

The preset `small` without labels, in batches of 64, trains for three minutes on two threads. Its
discriminator starts from random weights (scratch), from that of an earlier run with another seed,
which goes on learning or is frozen up to its last layer, or from the convolutions of a classifier of
the training digits, which go on learning or are frozen and seen by small heads on random projections
(projected). The time of the earlier run (90 s) and of the classifier is not counted. All
discriminators end with the minibatch standard deviation, except the projected one. Those from the
classifier have its batch norm and its channels, so that they differ from scratch in more than the
weights. The judge has another architecture than the classifier, and was trained with another seed
and in another way: the network that scores the samples is one that no arm has seen. It is a
classifier of digits as well, so its features may resemble those of the classifier.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from minigan import datasets
from minigan.lab import Column, Experiment, Results, Row, compared, digits, distance, moments_of, shared, target, train
from minigan.lab.gans import waiting
from minigan.lab.moments import curves, mean_curve, packed, reached, unpacked
from minigan.report.experiments import lines, pictures, stacked
from minigan.runs import classify
from minigan.training import Diverged, Training

RECIPE: dict[str, Any] = {"preset": "small", "batch": 64, "network": {"d_minibatch_std": 5.0}}
MINUTES = 3.0
MOMENTS = (10, 20, 30, 45, 60, 90, 120, 180)  # seconds
SHOWN = (10, 30, 90, 180)  # of them, those with pictures
EARLIER = RECIPE | {"minutes": 1.5, "seed": 1000}
SOURCES: dict[str, dict[str, Any]] = {
    "scratch": {},
    "projected": {"source": "classifier", "projected": True},
    "classifier": {"source": "classifier"},
    "earlier run": {"source": "run"},
    "frozen": {"source": "run", "freeze": "features"},
}


def options_for(row: Row) -> dict[str, Any]:
    """Return the options of the row's run, after what it starts from was trained."""
    options = dict(row.settings)
    source = options.pop("source", None)
    if source == "run":
        folder = row.folder.parent.parent / "shared" / "earlier"
        shared(row, "earlier", EARLIER)
        options["discriminator_from"] = str(folder / "run")
    if source == "classifier":
        options["discriminator_from"] = str(classifier_for(row))
    return options


def classifier_for(row: Row) -> Any:
    """Return the file of the classifier of MNIST's training digits. The first row that needs it trains it."""
    folder = row.folder.parent.parent / "shared" / "classifier"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "classifier.npz"
    with waiting(folder):
        if not path.exists():
            classify.train(datasets.mnist(), path, 1, 2500, lambda: row.backend, iter)
    return path


def measure(training: Training) -> dict[str, Any]:
    """Return the distance at a moment, and pictures of the fixed noise."""
    return {"frechet": distance(training), "samples": packed(training.samples(20))}


def run(row: Row) -> Mapping[str, Any]:
    """Train one arm, and look at its samples at the moments."""
    total = MINUTES if row.minutes is None else row.minutes
    parts = [second / 60 / MINUTES for second in MOMENTS]  # of the total, which another number of minutes scales
    try:
        training = train(row, options_for(row) | {"minutes": total}, moments=parts, measure=measure)
    except Diverged as error:
        return {"diverged": str(error)}
    return digits(training) | {"steps": training.step, "moments": moments_of(row.folder / "run")}


def seconds_until(results: Results, arm: str, level: float) -> float:
    """Return the seconds at which the mean distance of an arm reaches a level, NaN if it never does."""
    return reached(*mean_curve(results, arm, "seconds", "frechet"), level)


def verdict(results: Results) -> list[str]:
    """Say when each arm reaches the last distance of scratch, and how the arms compare at the end."""
    x, y = mean_curve(results, "scratch", "seconds", "frechet")
    arms = [arm for arm in results.arms if arm != "scratch"]
    if not len(x) or not arms:
        return []
    level, end = y[-1], x[-1]
    seconds = {arm: seconds_until(results, arm, level) for arm in arms}
    best = min(arms, key=lambda arm: (np.isnan(seconds[arm]), seconds[arm]))
    what = f"seconds until {best} reaches the distance {level:.2f} that scratch has after {end:.0f} s"
    found = [target(what, seconds[best], "<=", end / 2, 0)]
    for arm in arms:
        when = "never reaches it" if np.isnan(seconds[arm]) else f"reaches it after {seconds[arm]:.0f} s"
        found.append(f"{arm} {when} (mean of {len(results.of(arm))} seed{'s' * (len(results.of(arm)) > 1)})")
    return found + [f"after {end:.0f} s: {compared(results, arm, 'scratch', 'frechet')}" for arm in arms]


def picture(results: Results) -> np.ndarray:
    """Draw the samples of every arm with seed 0 at four moments, and the distance against the seconds."""
    grids = {}
    for arm in results.arms:
        moments = results.of(arm)[0]["figures"].get("moments", [])
        chosen = [m for m in moments if any(abs(m["moment"] * 60 * MINUTES - second) < 0.5 for second in SHOWN)]
        if chosen:
            grids[arm] = [unpacked(m["samples"]) for m in chosen]
    panel = {arm: curves(results, arm, "seconds", "frechet") for arm in results.arms}
    drawn = lines({"Frechet distance": panel}, "seconds of training", log_x=True, log_y=True)
    return stacked(pictures(grids, [f"{second} s" for second in SHOWN]), drawn) if grids else drawn


EXPERIMENT = Experiment(
    question=__doc__,
    arms={arm: RECIPE | source for arm, source in SOURCES.items()},
    run=run,
    columns={
        "frechet": Column("Frechet distance", "lower", 2),
        "coverage": Column("coverage", "higher"),
        "confident": Column("confident", "higher"),
        "steps": Column("steps", "", 0),
    },
    minutes=32,
    seeds={"scratch": 3, "projected": 3},
    alone=tuple(SOURCES),
    verdict=verdict,
    picture=picture,
)
