"""The networks, each a table that reads from noise to image and from image to logit.

`build(preset, rng=rng)` makes a (generator, discriminator) pair; `table` prints one with shapes and parameter counts.
A generator takes noise (N, noise_size) to images (N, H, W, C) in [-1, 1], a discriminator images to logits (N, 1).

With `classes` labels both networks are conditional by one mechanism: `forward(x, labels=labels)`. The generator's first
layer puts the one-hot label beside the noise, the discriminator's last one asks whether image and label fit. With
classes = 0 neither is there.
"""

import math

import numpy as np

from minigan.errors import UserError
from minigan.layers import (
    BatchNorm,
    Conv2d,
    ConvTranspose2d,
    Dense,
    Dropout,
    Flatten,
    LeakyReLU,
    MinibatchStdDev,
    OneHot,
    Projection,
    Reshape,
    Sequential,
    SpectralNorm,
    Tanh,
    Upsample,
    normal,
)


def digits(rng, H, W, C, classes, g_width=1):
    """For the best digits a minute on two CPU cores: three narrow stages up in G and down in D, whose spectral norm
    (Miyato et al. 2018) lets both learn fast.

    Of 64, 32 and 16 channels, G's times `g_width`; from 4x4, since shape is made and judged there, where it costs
    little: 4 -> 7 -> 14 -> 28 pixels and back. D sees how far the batch spreads in each of its last channels, or else
    G's digits end up more regular than people's.
    """
    dcgan = dict(rng=rng, init=normal(0.02))
    h, w = _quarter("digits", H, W)
    m, n = (h + 1) // 2, (w + 1) // 2  # half of it, rounded up: 7 -> 4, and output_pad says from which size it came
    c64, c32, c16 = (c * g_width for c in (64, 32, 16))
    generator = Sequential(
        *label_input(classes),
        Dense(64 + classes, m * n * c64, bias=False, **dcgan),
        Reshape(m, n, c64),
        BatchNorm(c64),
        LeakyReLU(0.2),
        ConvTranspose2d(c64, c32, 3, stride=2, pad=1, output_pad=1 - h % 2, bias=False, **dcgan),
        BatchNorm(c32),
        LeakyReLU(0.2),
        ConvTranspose2d(c32, c16, 4, stride=2, pad=1, bias=False, **dcgan),
        BatchNorm(c16),
        LeakyReLU(0.2),
        ConvTranspose2d(c16, C, 4, stride=2, pad=1, **dcgan),
        Tanh(),
    )
    last = head((m * n + 1) * 64, classes, rng=rng)
    discriminator = Sequential(
        SpectralNorm(Conv2d(C, 16, 4, stride=2, pad=1, rng=rng), rng=rng),
        LeakyReLU(0.2),
        SpectralNorm(Conv2d(16, 32, 4, stride=2, pad=1, rng=rng), rng=rng),
        LeakyReLU(0.2),
        SpectralNorm(Conv2d(32, 64, 3, stride=2, pad=1, rng=rng), rng=rng),
        LeakyReLU(0.2),
        Flatten(),
        MinibatchStdDev(64, strength=5),
        SpectralNorm(last, rng=rng) if classes else last,  # of w: e, what labels add, stays free; without e it starves
    )
    return generator, discriminator


def digits_wide(rng, H, W, C, classes):
    """The networks of `digits` with a generator twice as wide: for the best digits in ten minutes."""
    return digits(rng, H, W, C, classes, g_width=2)


def small(rng, H, W, C, classes):
    """The field's common small DCGAN (after Radford et al. 2016): the yardstick."""
    dcgan = dict(rng=rng, init=normal(0.02))
    h, w = _quarter("small", H, W)
    generator = Sequential(
        *label_input(classes),
        Dense(64 + classes, h * w * 64, bias=False, **dcgan),
        Reshape(h, w, 64),
        BatchNorm(64),
        LeakyReLU(0.2),
        ConvTranspose2d(64, 32, 4, stride=2, pad=1, bias=False, **dcgan),
        BatchNorm(32),
        LeakyReLU(0.2),
        ConvTranspose2d(32, C, 4, stride=2, pad=1, **dcgan),
        Tanh(),
    )
    discriminator = Sequential(
        Conv2d(C, 32, 4, stride=2, pad=1, **dcgan),
        LeakyReLU(0.2),
        Conv2d(32, 64, 4, stride=2, pad=1, **dcgan),
        LeakyReLU(0.2),
        Flatten(),
        head(h * w * 64, classes, **dcgan),
    )
    return generator, discriminator


def tutorial(rng, H, W, C, classes):
    """TensorFlow's DCGAN tutorial, with Keras's defaults where it is silent (batch norm, Glorot, biases in D).

    TensorFlow's "same" on an even size: a 5x5 kernel of stride 2 pads 1 before and 2 after, of stride 1 2 and 2.
    """
    keras = dict(eps=1e-3, momentum=0.99)
    h, w = _quarter("tutorial", H, W)
    generator = Sequential(
        *label_input(classes),
        Dense(100 + classes, h * w * 256, bias=False, rng=rng),
        BatchNorm(h * w * 256, **keras),
        LeakyReLU(0.3),
        Reshape(h, w, 256),
        ConvTranspose2d(256, 128, 5, stride=1, pad=2, bias=False, rng=rng),
        BatchNorm(128, **keras),
        LeakyReLU(0.3),
        ConvTranspose2d(128, 64, 5, stride=2, pad=(1, 2), bias=False, rng=rng),
        BatchNorm(64, **keras),
        LeakyReLU(0.3),
        ConvTranspose2d(64, C, 5, stride=2, pad=(1, 2), bias=False, rng=rng),
        Tanh(),
    )
    discriminator = Sequential(
        Conv2d(C, 64, 5, stride=2, pad=(1, 2), rng=rng),
        LeakyReLU(0.3),
        Dropout(0.3, rng=rng),
        Conv2d(64, 128, 5, stride=2, pad=(1, 2), rng=rng),
        LeakyReLU(0.3),
        Dropout(0.3, rng=rng),
        Flatten(),
        head(h * w * 128, classes, rng=rng),
    )
    return generator, discriminator


def mlp(rng, H, W, C, classes):
    """Dense layers only, as in the first GAN (Goodfellow et al. 2014), with leaky units in place of maxout."""
    generator = Sequential(
        *label_input(classes),
        Dense(100 + classes, 256, rng=rng),
        LeakyReLU(0.2),
        Dense(256, 512, rng=rng),
        LeakyReLU(0.2),
        Dense(512, H * W * C, rng=rng),
        Tanh(),
        Reshape(H, W, C),
    )
    discriminator = Sequential(
        Flatten(),
        Dense(H * W * C, 512, rng=rng),
        LeakyReLU(0.2),
        Dropout(0.3, rng=rng),
        Dense(512, 256, rng=rng),
        LeakyReLU(0.2),
        Dropout(0.3, rng=rng),
        head(256, classes, rng=rng),
    )
    return generator, discriminator


def mp_gan(rng, H, W, C, classes):
    """Two convolutions with dropout between against transposed convolutions up to size and a last convolution.

    The discriminator's sigmoid head is Dense(n, 1) here and its sigmoid is in the loss, where it cannot saturate.
    """
    h, w = _quarter("mp-gan", H, W)
    generator = Sequential(
        *label_input(classes),
        Dense(100 + classes, h * w * 64, rng=rng),
        LeakyReLU(0.2),
        Reshape(h, w, 64),
        ConvTranspose2d(64, 64, 4, stride=2, pad=1, rng=rng),
        LeakyReLU(0.2),
        ConvTranspose2d(64, 64, 4, stride=2, pad=1, rng=rng),
        LeakyReLU(0.2),
        Conv2d(64, C, 7, pad=3, rng=rng),
        Tanh(),
    )
    discriminator = Sequential(
        Conv2d(C, 64, 3, stride=2, pad=(0, 1), rng=rng),
        LeakyReLU(0.2),
        Dropout(0.4, rng=rng),
        Conv2d(64, 64, 3, stride=2, pad=(0, 1), rng=rng),
        LeakyReLU(0.2),
        Dropout(0.4, rng=rng),
        Flatten(),
        head(h * w * 64, classes, rng=rng),
    )
    return generator, discriminator


def upsample(rng, H, W, C, classes):
    """A small noise image grows by nearest-neighbour upsampling ("reverse pooling") and convolution: no checkerboard
    (Odena et al. 2016)."""
    if classes:
        raise UserError("preset upsample begins with a noise image, which takes no labels: add --unconditional")
    dcgan = dict(rng=rng, init=normal(0.02))
    h, w = _quarter("upsample", H, W)
    generator = Sequential(
        Reshape(h, w, 2),
        Conv2d(2, 64, 3, pad=1, bias=False, **dcgan),
        BatchNorm(64),
        LeakyReLU(0.2),
        Upsample(2),
        Conv2d(64, 64, 3, pad=1, bias=False, **dcgan),
        BatchNorm(64),
        LeakyReLU(0.2),
        Upsample(2),
        Conv2d(64, 32, 3, pad=1, bias=False, **dcgan),
        BatchNorm(32),
        LeakyReLU(0.2),
        Conv2d(32, C, 3, pad=1, **dcgan),
        Tanh(),
    )
    _, discriminator = small(rng, H, W, C, classes)
    return generator, discriminator


def label_input(classes: int) -> list:
    """The generator's layer for the label, if there are labels."""
    return [OneHot(classes)] if classes else []


def head(n_in: int, classes: int, **how):
    """The discriminator's last layer: a logit, which depends on the label if there are labels."""
    return Projection(n_in, classes, **how) if classes else Dense(n_in, 1, **how)


PRESETS = {
    "digits": digits,
    "digits-unlabelled": digits,
    "digits-wide": digits_wide,
    "small": small,
    "tutorial": tutorial,
    "mlp": mlp,
    "mp-gan": mp_gan,
    "upsample": upsample,
}


def build(
    preset: str, *, rng: np.random.Generator, image_shape: tuple[int, int, int] = (28, 28, 1), classes: int = 0
) -> tuple[Sequential, Sequential]:
    """(generator, discriminator) on the CPU, in float32, for square images (H, W, C), with weights drawn from rng.

    `classes` is the number of labels, 0 for networks without labels.

    Raises UserError for an unknown preset and for an image that it cannot make.
    """
    if preset not in PRESETS:
        raise UserError(f"unknown preset {preset!r}: choose {', '.join(PRESETS)}")
    H, W, C = image_shape
    if H != W:
        raise UserError(f"images are square, got {H} x {W}: crop or pad them")
    return PRESETS[preset](rng, H, W, C, classes)


def noise_size(generator: Sequential) -> int:
    """How many numbers of noise the generator takes for an image."""
    first = next(layer for layer in generator.layers if not isinstance(layer, OneHot))
    return first.n_in - classes(generator) if isinstance(first, Dense) else math.prod(first.shape)


def classes(generator: Sequential) -> int:
    """How many labels the generator takes; 0: it takes none."""
    first = generator.layers[0]
    return first.classes if isinstance(first, OneHot) else 0


def table(network: Sequential, input_shape: tuple[int, ...]) -> str:
    """One line a layer: what it is, the shape that leaves it, and how many numbers it learns."""
    x = network.backend.asarray(np.zeros((1, *input_shape), next(iter(network.params.values())).dtype))
    label = network.backend.asarray(np.zeros(1, np.int64))
    lines = []
    for layer in network.layers:
        x, _ = layer.forward(x, train=False, **({"labels": label} if layer.takes_labels else {}))
        shape = " x ".join(map(str, x.shape[1:]))
        lines.append(f"  {layer!r:<42}{shape:>14}{layer.n_params:>11,}")
    total = sum(layer.n_params for layer in network.layers)
    return "\n".join([*lines, f"  {'parameters':<42}{'':>14}{total:>11,}"])


def _quarter(preset: str, H: int, W: int) -> tuple[int, int]:
    """The size at which a generator that doubles twice begins."""
    if H % 4 or H < 8:
        raise UserError(
            f"preset {preset} makes images whose side is a multiple of 4, from 8 up, got {H}: resize them, or take "
            "--preset mlp"
        )
    return H // 4, W // 4
