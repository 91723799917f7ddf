"""Networks for points in the plane: dense layers, small enough to train in seconds."""

from dataclasses import dataclass

from minigan.errors import UserError
from minigan.layers import Dense, MinibatchStdDev, ReLU, Sequential
from minigan.models.preset import Preset, head, label_input
from minigan.options import check, option


@dataclass(frozen=True)
class PointsNetworks:
    """Options of the networks of preset points."""

    d_minibatch_std: float = option(
        1.0, help="the discriminator sees X times the minibatch standard deviation of the points; 0: no", low=0
    )

    def __post_init__(self):
        check(self)


def points(rng, shape, classes, options):
    """Build networks with three hidden layers of 128 units and noise of two numbers.

    The discriminator uses minibatch standard deviation, because the generator then covers more
    modes of the grid. ReLU places more samples on a mode than LeakyReLU.
    """
    if len(shape) != 1:
        raise UserError(f"preset points needs rows of numbers, got samples of {' x '.join(map(str, shape))}")
    (n,) = shape
    generator = Sequential(
        *label_input(classes),
        Dense(2 + classes, 128, rng=rng),
        ReLU(),
        Dense(128, 128, rng=rng),
        ReLU(),
        Dense(128, 128, rng=rng),
        ReLU(),
        Dense(128, n, rng=rng),
    )
    strength = options.d_minibatch_std
    spread = [MinibatchStdDev(n, strength=strength)] if strength else []
    discriminator = Sequential(
        *spread,
        Dense((1 + len(spread)) * n, 128, rng=rng),
        ReLU(),
        Dense(128, 128, rng=rng),
        ReLU(),
        Dense(128, 128, rng=rng),
        ReLU(),
        head(128, classes, rng=rng),
    )
    generator.noise_shape = (2,)
    return generator, discriminator


PRESETS = {
    "points": Preset(
        points,
        dict(epochs=20, batch=64, lr_g=2e-3, lr_d=1e-3, decay=True, simultaneous=True, average=0.99),
        "points",
        "Dense layers for points in the plane: covers the ring of 8 modes and most of the grid of 25 in half a minute.",
        PointsNetworks,
    ),
}
