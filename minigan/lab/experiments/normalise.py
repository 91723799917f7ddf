"""What should the layers of a discriminator have: dropout, batch norm, spectral norm, or nothing?

The preset `small` without labels trains for 5,000 steps of 64 digits with each of them, everything
else being equal. The networks of TensorFlow's tutorial, whose recipe has dropout, train for one pass
over the digits in batches of 32, with one seed. Next to the distance stand the shares of real digits
that D gets right: training digits, and test digits, which it never sees. The limit between "real"
and "fake" is the middle between D's mean logits for training digits and for fakes. Both shares are
means over six moments of the second half of the run. D is asked as in training, so that dropout
drops units and batch norm uses the batch. A share of training digits far above that of test digits
means that D memorises its data. The rates of the recipe are the same for all: each norm may have a
better one.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from minigan.lab import Column, Experiment, Results, Row, compared, digits, moments_of, train
from minigan.lab.moments import answers, averaged
from minigan.lab.runner import dots
from minigan.training import Diverged

NORMS = ("nothing", "dropout", "batch norm", "spectral norm")
NAMES = {"nothing": "none", "dropout": "dropout", "batch norm": "batch", "spectral norm": "spectral"}
MOMENTS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
RECIPES: dict[str, dict[str, Any]] = {
    "small": {"preset": "small", "batch": 64, "steps": 5000},
    "tutorial": {"preset": "tutorial", "batch": 32, "epochs": 1},
}


def run(row: Row) -> Mapping[str, Any]:
    """Train one arm, and ask D at the moments."""
    try:
        training = train(row, row.settings, moments=MOMENTS, measure=answers)
    except Diverged as error:
        return {"diverged": str(error)}
    moments = moments_of(row.folder / "run")
    figures = averaged(moments, ("d_right_held_out", "d_right_train", "d_right_fakes"))
    return digits(training) | figures | {"moments": moments}


def verdict(results: Results) -> list[str]:
    """Compare each norm with none, by the distance and by D's answers to test digits."""
    found = []
    for preset in RECIPES:
        base = f"{preset}, nothing"
        arms = [arm for arm in results.arms if arm.startswith(f"{preset}, ") and arm != base]
        found += [compared(results, arm, base, "frechet") for arm in arms]
        for arm in [base, *arms] if len(results.values(base, "d_right_train")) else arms:
            train_, test = results.mean(arm, "d_right_train"), results.mean(arm, "d_right_held_out")
            found.append(f"{arm}: D is right on {train_:.1%} of training digits and {test:.1%} of test digits")
    return found


def picture(results: Results) -> np.ndarray:
    """Draw the distance and D's answers of every row."""
    return dots(results, "frechet", "d_right_held_out", "d_right_train")


EXPERIMENT = Experiment(
    question=__doc__,
    arms={
        f"{preset}, {norm}": recipe | {"network": {"d_norm": NAMES[norm]}}
        for preset, recipe in RECIPES.items()
        for norm in NORMS
    },
    run=run,
    columns={
        "frechet": Column("Frechet distance", "lower", 2),
        "coverage": Column("coverage", "higher"),
        "d_right_held_out": Column("test digits right"),
        "d_right_train": Column("training digits right"),
        "d_right_fakes": Column("fakes right"),
    },
    minutes=25,
    seeds={f"small, {norm}": 3 for norm in NORMS},
    verdict=verdict,
    picture=picture,
)
