"""Networks for series (N, T, C): dense and convolutional ones, recurrent ones, and causal convolutions.

If the series have different lengths, the discriminators see no values after the end of a series, so that what a
generator draws there does not matter.
"""

from dataclasses import dataclass

import numpy as np

from minigan.errors import UserError
from minigan.layers import (
    GRU,
    BatchNorm,
    Bidirectional,
    Conv1d,
    Dense,
    Flatten,
    InEachStep,
    Layer,
    LeakyReLU,
    MaskEnds,
    MinibatchStdDev,
    ReLU,
    Reshape,
    Sequential,
    TanhOf,
)
from minigan.models.preset import Layout, Preset, head, label_input
from minigan.options import check, option

KERNEL = 5  # steps
LAST = 6  # steps, up to which the discriminator of preset waves halves the series
CAUSAL_KERNEL = 3  # steps, of dilated convolutions
MOST_LAYERS = 8  # of dilated convolutions, which then see 511 steps


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


@dataclass(frozen=True)
class StepNetworks:
    """Options of the networks of presets waves-gru and waves-conv."""

    noise_size: int = option(32, help="noise numbers that are the same in every step", low=1, high=4096)
    step_noise: int = option(4, help="noise numbers of each step", low=0, high=256)
    g_width: int = option(64, help="units or channels of the generator", low=1, high=1024)
    d_width: int = option(48, help="units of each direction, or channels, of the discriminator", low=1, high=1024)
    d_minibatch_std: float = option(
        0.0,
        help="the discriminator sees X times the minibatch standard deviation of each of its last features; 0: no",
        low=0,
    )

    def __post_init__(self):
        check(self)


# ---------------------------------------------------------------- preset waves


def waves(rng: np.random.Generator, shape, classes: int, options: WavesNetworks, layout: Layout):
    """Build networks with two hidden dense layers in G, and convolutions of stride 2 over time in D.

    The number of D's channels doubles with the second convolution.
    """
    T, C = expect_series("waves", shape)
    width = options.g_width
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
        *_flags(C, layout),
    )
    generator.noise_shape = (options.noise_size,)
    layers: list[Layer] = _mask(C, layout)
    steps, channels, width = T, C, options.d_width
    while True:
        layers += [Conv1d(channels, width, KERNEL, stride=2, pad=KERNEL // 2, rng=rng), LeakyReLU(0.2)]
        channels, width, steps = width, 2 * options.d_width, (steps + 1) // 2
        if steps <= LAST:
            break
    discriminator = Sequential(*layers, Flatten(), *_judged(rng, steps * channels, channels, classes, options))
    return generator, discriminator


# ---------------------------------------------------------------- presets of one step after the other


def waves_gru(rng: np.random.Generator, shape, classes: int, options: StepNetworks, layout: Layout):
    """Build a GRU that draws one step after the other, and a discriminator of GRUs in both directions of time.

    The initial state and every step of G get the noise that is the same in the whole series, and the label. A dense
    layer, which is a convolution with kernel 1, makes the values of a step from the state. D judges the last states.
    """
    T, C = expect_series("waves-gru", shape)
    width, n_in = options.g_width, options.step_noise + options.noise_size + classes
    generator = Sequential(
        *label_input(classes),
        InEachStep(T + 1, options.step_noise),  # the first row becomes the initial state
        GRU(n_in, width, initial=True, rng=rng),
        Conv1d(width, width, 1, rng=rng),
        LeakyReLU(0.2),
        Conv1d(width, C, 1, rng=rng),
        *_flags(C, layout),
    )
    generator.noise_shape = ((T + 1) * options.step_noise + options.noise_size,)
    width, masked = options.d_width, bool(layout.ends)
    forth, back = (GRU(C, width, last=True, masked=masked, rng=rng) for _ in range(2))
    discriminator = Sequential(
        *_mask(C, layout, append=True),
        Bidirectional(forth, back),
        Dense(2 * width, width, rng=rng),
        LeakyReLU(0.2),
        *_judged(rng, width, width, classes, options),
    )
    return generator, discriminator


def waves_conv(rng: np.random.Generator, shape, classes: int, options: StepNetworks, layout: Layout):
    """Build networks of causal convolutions with dilations 1, 2, 4, ... (van den Oord et al. 2016, section 2.1).

    There are as many layers as it takes to see the whole series, but at most MOST_LAYERS. A generator of temporal
    convolutions is that of Wiese et al. 2020 (Quant GANs). D judges the features of every second step.
    """
    T, C = expect_series("waves-conv", shape)
    width, n_in = options.g_width, options.step_noise + options.noise_size + classes
    dilations = _dilations(T)
    layers: list[Layer] = [*label_input(classes), InEachStep(T, options.step_noise)]
    for channels, dilation in zip([n_in, *[width] * (len(dilations) - 1)], dilations, strict=True):
        causal = Conv1d(channels, width, CAUSAL_KERNEL, dilation=dilation, pad="causal", bias=False, rng=rng)
        layers += [causal, BatchNorm(width), ReLU()]
    generator = Sequential(*layers, Conv1d(width, C, 1, rng=rng), *_flags(C, layout))
    generator.noise_shape = (T * options.step_noise + options.noise_size,)
    width, layers = options.d_width, _mask(C, layout)
    for channels, dilation in zip([C, *[width] * (len(dilations) - 1)], dilations, strict=True):
        layers += [
            Conv1d(channels, width, CAUSAL_KERNEL, dilation=dilation, pad="causal", rng=rng),
            LeakyReLU(0.2),
        ]
    layers += [Conv1d(width, width, 2, stride=2, pad=(T % 2, 0), rng=rng), LeakyReLU(0.2)]
    judged = _judged(rng, (T + 1) // 2 * width, width, classes, options)
    return generator, Sequential(*layers, Flatten(), *judged)


def _dilations(T: int) -> list[int]:
    """Return the dilations 1, 2, 4, ... of layers that together see T steps, or as many as MOST_LAYERS see."""
    found, reach = [1], CAUSAL_KERNEL
    while reach < T and len(found) < MOST_LAYERS:
        found.append(2 * found[-1])
        reach += (CAUSAL_KERNEL - 1) * found[-1]
    return found


# ---------------------------------------------------------------- parts


def expect_series(preset: str, shape) -> tuple[int, int]:
    """Return the shape (T, C) of a series. Raises UserError for samples of another shape."""
    if len(shape) != 2:
        raise UserError(
            f"preset {preset} needs series of steps and features, got samples of {' x '.join(map(str, shape))}"
        )
    return shape


def _flags(C: int, layout: Layout) -> list[Layer]:
    """Return the last layer of a generator, which makes flags between -1 and 1, or none if there are no flags."""
    return [TanhOf(layout.flags, C)] if layout.flags else []


def _mask(C: int, layout: Layout, append: bool = False) -> list[Layer]:
    """Return the first layer of a discriminator, which hides values after the end, or none if all lengths are equal."""
    return [MaskEnds(layout.ends, C, append=append)] if layout.ends else []


def _judged(rng: np.random.Generator, n: int, channels: int, classes: int, options) -> list[Layer]:
    """Return the last layers of a discriminator of rows (N, n), which have so many channels."""
    strength = options.d_minibatch_std
    spread: list[Layer] = [MinibatchStdDev(channels, strength=strength)] if strength else []
    return [*spread, head(n + len(spread) * channels, classes, rng=rng)]


RECIPE = dict(
    steps=6000,
    batch=128,
    lr_g=1e-3,
    lr_d=1e-3,
    beta1=0.0,
    penalty="r1-fd",
    penalty_weight=1.0,
    average=0.999,
    conditional=True,
)

PRESETS = {
    "waves": Preset(
        waves,
        RECIPE,
        "sequences",
        "Dense generator and discriminator of convolutions over time, for series.",
        WavesNetworks,
        takes_layout=True,
    ),
    "waves-gru": Preset(
        waves_gru,
        RECIPE,
        "sequences",
        "Recurrent generator and discriminator (GRU), for series.",
        StepNetworks,
        takes_layout=True,
    ),
    "waves-conv": Preset(
        waves_conv,
        RECIPE,
        "sequences",
        "Causal dilated convolutions over time in both networks, for series.",
        StepNetworks,
        takes_layout=True,
    ),
}
