"""Networks for series: a dense generator, and a discriminator of strided convolutions over time."""

from dataclasses import dataclass

import numpy as np

from minigan.errors import UserError
from minigan.layers import (
    BatchNorm,
    Conv2d,
    Dense,
    Flatten,
    Layer,
    LeakyReLU,
    MinibatchStdDev,
    ReLU,
    Reshape,
    Sequential,
    glorot_uniform,
)
from minigan.models.preset import Preset, head, label_input
from minigan.options import check, option

KERNEL = 5  # steps
LAST = 6  # steps, up to which the discriminator halves the series


@dataclass(frozen=True)
class WavesNetworks:
    """Options of the networks of preset waves."""

    noise_size: int = option(64, help="noise numbers of the generator", low=1, high=4096)
    g_width: int = option(256, help="units in each hidden layer of the generator", low=1, high=4096)
    d_width: int = option(64, help="channels of the discriminator's first convolution", low=1, high=1024)
    d_minibatch_std: float = option(
        0.0,
        help="the discriminator sees X times the minibatch standard deviation of each of its last channels; 0: no",
        low=0,
    )

    def __post_init__(self):
        check(self)


def waves(rng: np.random.Generator, shape, classes: int, options: WavesNetworks):
    """Build networks for series (N, T, C): two hidden layers in G, and convolutions of stride 2 over time in D.

    A convolution over time is one of an image with a height of 1, whose kernel has one row inside the image. The
    number of channels doubles with the second convolution.
    """
    if len(shape) != 2:
        raise UserError(
            f"preset waves needs series of steps and features, got samples of {' x '.join(map(str, shape))}"
        )
    (T, C), width = shape, options.g_width
    generator = Sequential(
        *label_input(classes),
        Dense(options.noise_size + classes, width, bias=False, rng=rng),  # a bias before a batch norm has no effect
        BatchNorm(width),
        ReLU(),
        Dense(width, width, bias=False, rng=rng),
        BatchNorm(width),
        ReLU(),
        Dense(width, T * C, rng=rng),
        Reshape(T, C),
    )
    generator.noise_shape = (options.noise_size,)
    return generator, _discriminator(rng, T, C, classes, options)


def _discriminator(rng: np.random.Generator, T: int, C: int, classes: int, options: WavesNetworks) -> Sequential:
    """Build the discriminator: series (N, T, C) -> logits (N, 1)."""
    layers: list[Layer] = [Reshape(1, T, C)]
    channels, width = C, options.d_width
    while True:
        conv = Conv2d(channels, width, KERNEL, stride=2, pad=KERNEL // 2, rng=rng, init=_one_row)
        layers += [conv, LeakyReLU(0.2)]
        channels, width, T = width, 2 * options.d_width, (T + 1) // 2
        if T <= LAST:
            break
    strength = options.d_minibatch_std
    spread: list[Layer] = [MinibatchStdDev(channels, strength=strength)] if strength else []
    return Sequential(*layers, Flatten(), *spread, head((T + len(spread)) * channels, classes, rng=rng))


def _one_row(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int) -> np.ndarray:
    """Draw the weights of a convolution of which only one row of the kernel meets the input."""
    return glorot_uniform(rng, shape, fan_in // KERNEL, fan_out // KERNEL)


PRESETS = {
    "waves": Preset(
        waves,
        dict(
            steps=6000,
            batch=128,
            lr_g=1e-3,
            lr_d=1e-3,
            beta1=0.0,
            penalty="r1",
            penalty_weight=1.0,
            average=0.999,
            conditional=True,
        ),
        "sequences",
        "Dense generator and discriminator of convolutions over time, for series.",
        WavesNetworks,
    ),
}
