"""The networks for points in the plane: dense layers, small enough to train in seconds."""

from minigan.errors import UserError
from minigan.layers import Dense, LeakyReLU, MinibatchStdDev, Sequential
from minigan.models.preset import Preset, head, label_input


def points(rng, shape, classes, options):
    """Two hidden layers of 128 in each network. D sees how much the batch varies, so that G covers every mode."""
    if len(shape) != 1:
        raise UserError(f"preset points makes rows of numbers, got samples of {' x '.join(map(str, shape))}")
    (n,) = shape
    generator = Sequential(
        *label_input(classes),
        Dense(16 + classes, 128, rng=rng),
        LeakyReLU(0.2),
        Dense(128, 128, rng=rng),
        LeakyReLU(0.2),
        Dense(128, n, rng=rng),
    )
    discriminator = Sequential(
        MinibatchStdDev(n, strength=1),
        Dense(2 * n, 128, rng=rng),
        LeakyReLU(0.2),
        Dense(128, 128, rng=rng),
        LeakyReLU(0.2),
        head(128, classes, rng=rng),
    )
    generator.noise_shape = (16,)
    return generator, discriminator


PRESETS = {
    "points": Preset(
        points,
        dict(epochs=30, batch=256, lr_g=1e-3, lr_d=1e-3, beta1=0.5, decay=True, average=0.99),
        "points",
        "Dense layers for points in the plane: the ring of 8 and the grid of 25 Gaussians, in seconds.",
    ),
}
