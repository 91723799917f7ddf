"""How many labels does a classifier need if a GAN shows it the digits without labels?

A network classifies digits, and learns from 2, 5, 10 or 50 labelled ones of each class. Alone, it sees only these. With
a GAN, the same network is also the discriminator of a generator, and sees all 60,000 training digits without their
labels: see `minigan.lab.semi` (Salimans et al. 2016, sections 3.1 and 5). Nothing shifts or changes the digits, apart
from the Gaussian noise on every layer, in both arms. The labelled digits are drawn from the seed, equally many of each
class. The figure is the number of errors on the 10,000 test digits, which nothing else depends on.

The target is at most 150 errors with 10 labels per class, the median of five draws, after at most ten minutes with two
threads. With much longer training, the paper has 93 +- 6.5 errors.
"""

from typing import Any

import numpy as np

from minigan import datasets
from minigan.lab import Column, Experiment, Results, Row, compared, semi, target
from minigan.lab.classify import per_class
from minigan.report import experiments as pictures

LABELS = (10, 2, 5, 50)
STEPS, SHORT, ALONE = 16_000, 6_000, 1_500
TARGET = "10 labels per class, with the GAN"
MOMENTS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def run(row: Row) -> dict[str, Any]:
    """Train with a few labels, and count the errors on the test digits."""
    data, test = datasets.mnist("train"), datasets.mnist("test")
    assert data.labels is not None
    chosen = per_class(data.labels, row.settings["labels"], row.rng())
    recipe = semi.Recipe(row.settings["steps"], row.settings["gan"])
    learner = semi.Learner(data.images, chosen, data.labels[chosen], recipe, row.seed, row.backend)
    found = semi.train(
        row, learner, MOMENTS, lambda learner: {"errors": int((learner.predict(test.images) != test.labels).sum())}
    )
    return {"errors": found[-1]["errors"], "steps": learner.step, "seconds": found[-1]["seconds"], "found": found}


def verdict(results: Results) -> list[str]:
    """Compare with the target, and for each number of labels both ways of training."""
    values = results.values(TARGET, "errors")
    lines = []
    if len(values):
        text = f"{TARGET}: errors on the test digits, the median of {len(values)} draws:"
        lines.append(target(text, float(np.median(values)), "<=", 150, 0))
        seconds = results.values(TARGET, "seconds")
        lines.append(f"{TARGET}: the training took {seconds.min() / 60:.1f} to {seconds.max() / 60:.1f} minutes")
    for labels in sorted(LABELS):
        lines.append(compared(results, name(labels, True), name(labels, False), "errors"))
    return lines


def picture(results: Results) -> np.ndarray:
    """Draw the errors during the training."""
    curves = {}
    for arm in results.arms:
        of = [row["figures"]["found"] for row in results.of(arm)]
        curves[arm] = [
            (np.array([one["step"] for one in found]), np.array([one["errors"] for one in found])) for found in of
        ]
    return pictures.lines({"errors on 10,000 test digits": curves}, "step", log_x=True, log_y=True, level=150)


def name(labels: int, gan: bool) -> str:
    """Return the name of an arm."""
    return f"{labels} labels per class, {'with the GAN' if gan else 'alone'}"


EXPERIMENT = Experiment(
    question=__doc__,
    arms={
        name(labels, gan): {"labels": labels, "gan": gan, "steps": steps}
        for gan in (False, True)
        for labels in LABELS
        for steps in [ALONE if not gan else STEPS if labels == 10 else SHORT]
    },
    run=run,
    columns={
        "errors": Column("errors on 10,000 test digits", "lower", 0),
        "steps": Column("steps", "", 0),
        "seconds": Column("seconds", "", 0),
    },
    minutes=58,
    seeds={TARGET: 5, name(10, False): 5},
    alone=(TARGET,),
    verdict=verdict,
    picture=picture,
)
