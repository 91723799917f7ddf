"""A small convolutional network that classifies images: its stages, and a discriminator's use of them.

    network = classifier.network(rng, (28, 28, 1), classes=10)     # images (N, 28, 28, 1) -> logits (N, 10)

`metrics.classifier` trains it. `models.reuse` makes a discriminator from its convolutions.
"""

from collections.abc import Sequence

import numpy as np

from minigan.layers import BatchNorm, Conv2d, Dense, Dropout, Flatten, LeakyReLU, Sequential

WIDTHS = (24, 48, 96, 96, 96)  # channels of the convolutions
HIDDEN = 96  # units of the hidden layer
SMALLEST = 8  # no convolution follows an output with a side below this number of pixels


def widths_for(shape: tuple[int, int, int]) -> tuple[int, ...]:
    """Return the channels of the convolutions for images (H, W, C): up to five, each of which halves the image."""
    (H, W, _), count = shape, 0
    while count < len(WIDTHS) and (count == 0 or min(H, W) >= SMALLEST):
        H, W, count = (H + 1) // 2, (W + 1) // 2, count + 1
    return WIDTHS[:count]


def stages(rng: np.random.Generator, shape: tuple[int, int, int], widths: Sequence[int]) -> list[Sequential]:
    """Build the stages: a convolution that halves the image, batch norm and LeakyReLU, for each of `widths`."""
    found, c_in = [], shape[2]
    for c in widths:
        convolution = Conv2d(c_in, c, 3, stride=2, pad=1, bias=False, rng=rng)
        found.append(Sequential(convolution, BatchNorm(c), LeakyReLU(0.1)))
        c_in = c
    return found


def shapes(shape: tuple[int, int, int], widths: Sequence[int]) -> list[tuple[int, int, int]]:
    """Return the shape (h, w, c) of the output of each stage."""
    (H, W, _), found = shape, []
    for c in widths:
        H, W = (H + 1) // 2, (W + 1) // 2
        found.append((H, W, c))
    return found


def network(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    classes: int,
    widths: Sequence[int] | None = None,
    hidden: int = HIDDEN,
) -> Sequential:
    """Build the network: images (N, H, W, C) in [-1, 1] -> logits (N, classes).

    The stages come first, then a hidden layer of `hidden` units. `widths` are by default those of
    `widths_for`.
    """
    widths = widths_for(shape) if widths is None else widths
    convolutions = [layer for stage in stages(rng, shape, widths) for layer in stage.layers]
    h, w, c = shapes(shape, widths)[-1]
    layers = [Flatten(), Dense(h * w * c, hidden, bias=False, rng=rng), BatchNorm(hidden), LeakyReLU(0.1)]
    return Sequential(*convolutions, *layers, Dropout(0.3, rng=rng), Dense(hidden, classes, rng=rng))
