"""How should the two players be balanced: the share of real samples, and the steps of D for each step of G?

The preset `small` without labels trains for an equal number of generator steps, with updates one
after the other. In one comparison, D sees 64 real digits and 192, 64 or 21 fakes in a step, and the
loss weights each sample equally (real_share 0.25, 0.5 and 0.75). In the other, D makes 1, 2 or 5
steps, each on new digits, before each step of G. The figures of D are the shares of training digits
and of fakes that it gets right, averaged over the second half of the run. The limit is the middle
between its mean logits for both, so that the share itself does not move it. D's lead is the mean of
both minus one half: 0 if D only guesses, 0.5 if it is always right.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from minigan.lab import Column, Experiment, Results, Row, compared, digits, distance, moments_of, train
from minigan.lab.moments import answers, averaged, curves
from minigan.report.experiments import lines
from minigan.training import Diverged, Training

EVEN = "share 0.5, 1 step of D"
STEPS = 2000  # of the generator
MOMENTS = tuple(k / 10 for k in range(1, 11))


def options(real_share: float, d_steps: int) -> dict[str, Any]:
    """Return the options of an arm."""
    return {"preset": "small", "batch": 64, "steps": STEPS, "real_share": real_share, "d_steps": d_steps}


def measure(training: Training) -> dict[str, float]:
    """Return D's answers and the distance of the samples."""
    return answers(training) | {"frechet": distance(training)}


def lead(of: Mapping[str, float]) -> float:
    """Return how far D's accuracy is above one half, if half of the samples are real."""
    return (of["d_right_train"] + of["d_right_fakes"]) / 2 - 0.5


def run(row: Row) -> Mapping[str, Any]:
    """Train one arm, and look at both players at the moments."""
    try:
        training = train(row, row.settings, moments=MOMENTS, measure=measure)
    except Diverged as error:
        return {"diverged": str(error)}
    moments = [moment | {"lead": round(lead(moment), 5)} for moment in moments_of(row.folder / "run")]
    last = [moment for moment in moments if moment["moment"] > 0.5]
    figures = averaged(last, ("d_right_train", "d_right_fakes", "lead"))
    return digits(training) | figures | {"moments": moments}


def verdict(results: Results) -> list[str]:
    """Compare the arms with equal shares and steps."""
    arms = [arm for arm in results.arms if arm != EVEN]
    found = [f"after {STEPS} steps of G: {compared(results, arm, EVEN, 'frechet')}" for arm in arms]
    return found + [compared(results, arm, EVEN, "lead") for arm in arms]


def picture(results: Results) -> np.ndarray:
    """Draw the distance and D's lead against the steps of G."""
    by_step = {
        label: {arm: of for arm in results.arms if (of := curves(results, arm, "step", figure))}
        for figure, label in (("frechet", "Frechet distance"), ("lead", "D's accuracy above one half"))
    }
    return lines(by_step, "steps of G")


EXPERIMENT = Experiment(
    question=__doc__,
    arms={
        EVEN: options(0.5, 1),
        "share 0.25": options(0.25, 1),
        "share 0.75": options(0.75, 1),
        "5 steps of D": options(0.5, 5),
        "2 steps of D": options(0.5, 2),
    },
    run=run,
    columns={
        "frechet": Column("Frechet distance", "lower", 2),
        "coverage": Column("coverage", "higher"),
        "lead": Column("D's lead"),
        "d_right_train": Column("real digits right"),
        "d_right_fakes": Column("fakes right"),
    },
    minutes=13,
    seeds={EVEN: 3, "share 0.25": 3, "share 0.75": 3, "5 steps of D": 3},
    verdict=verdict,
    picture=picture,
)
