"""Which ingredients of the preset `digits` matter?

The recipe, trained for three epochs, with one ingredient changed at a time. All arms see the same number of real
images, so that the scores do not depend on the speed.
"""

from typing import Any

import numpy as np

from minigan import models
from minigan.datasets import Data
from minigan.lab import Column, Experiment, Row, digits, train
from minigan.layers import MinibatchStdDev, Sequential, SpectralNorm
from minigan.models.preset import head
from minigan.training import Config

RECIPE: dict[str, Any] = {"preset": "digits", "epochs": 3}
CHANGES: dict[str, dict[str, Any]] = {
    "the recipe": {},
    "no labels": {"preset": "digits-unlabelled"},
    "networks of small: two stages, twice as wide": {"networks": "small"},
    "no spectral norm": {"network": {"d_norm": "none"}},
    "D does not see the spread of the batch": {"network": {"d_minibatch_std": 0.0}},
    "D sees one spread, not one a channel": {"networks": "one spread"},
    "non-saturating loss": {"loss": "non_saturating"},
    "learning rates 1e-3": {"lr_g": 1e-3, "lr_d": 1e-3},
    "learning rates 2e-4, beta1 0.5": {"lr_g": 2e-4, "lr_d": 2e-4, "beta1": 0.5},
    "constant learning rates": {"decay": False},
    "no moving average": {"average": 0.0},
    "batch 128": {"batch": 128},
    "players in turn": {"simultaneous": False},
}


def small(config: Config, data: Data) -> tuple[Sequential, Sequential]:
    """Build the networks of the preset small."""
    return models.build("small", rng=np.random.default_rng([config.seed, 0]), classes=10)


def one_spread(config: Config, data: Data) -> tuple[Sequential, Sequential]:
    """Build the networks of digits with the mean spread over all channels, with the strength that worked best."""
    rng = np.random.default_rng([config.seed, 0])
    G, D = models.build("digits", rng=rng, classes=10)
    *body, spread, last = D.layers
    assert isinstance(spread, MinibatchStdDev) and isinstance(last, SpectralNorm)
    features = last.layer.params["w"].shape[0] - spread.channels + 1
    D = Sequential(*body, MinibatchStdDev(strength=8), SpectralNorm(head(features, 10, rng=rng), rng=rng))
    D.classes = 10
    return G, D


NETWORKS = {"small": small, "one spread": one_spread}


def run(row: Row) -> dict[str, Any]:
    """Train with the changed ingredient, and score 10,000 samples."""
    settings = RECIPE | row.settings
    networks = NETWORKS.get(settings.pop("networks", ""))
    training = train(row, settings, networks=networks)
    return digits(training)


EXPERIMENT = Experiment(
    question=__doc__,
    arms=CHANGES,
    run=run,
    columns={
        "frechet": Column("Frechet distance", "lower"),
        "coverage": Column("coverage", "higher"),
        "confident": Column("confident", "higher"),
        "agreement": Column("agreement", "higher"),
    },
    minutes=9,
    seeds=dict.fromkeys(("the recipe", "no labels", "no spectral norm", "D does not see the spread of the batch"), 3),
)
