"""The networks for images, each a table that reads from noise to image and from image to logit.

A generator takes noise (N, noise_size) to images (N, H, W, C) in [-1, 1], a discriminator
images to logits (N, 1). Each function draws the weights from rng in the order of its tables.
PRESETS, at the end, adds the recipe of each.
"""

from dataclasses import dataclass

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
    Reshape,
    Sequential,
    SpectralNorm,
    Tanh,
    Upsample,
    normal,
)
from minigan.models.preset import Preset, head, label_input
from minigan.options import check, option

NORMS = ("spectral", "batch", "none")


@dataclass(frozen=True)
class DigitsNetworks:
    """The options of the networks of digits."""

    g_width: int = option(1, help="the generator's channels, times the usual", low=1, high=8)
    d_norm: str = option("spectral", help="the discriminator's normalisation: spectral, batch or none", choices=NORMS)

    def __post_init__(self):
        check(self)


@dataclass(frozen=True)
class WideNetworks(DigitsNetworks):
    """The options of the networks of digits-wide."""

    g_width: int = option(2, help="the generator's channels, times the usual", low=1, high=8)


@dataclass(frozen=True)
class SmallNetworks:
    """The options of the networks of small."""

    d_norm: str = option("none", help="the discriminator's normalisation: spectral, batch or none", choices=NORMS)

    def __post_init__(self):
        check(self)


def digits(rng, shape, classes, options):
    """Three narrow stages up in G and down in D, whose spectral norm lets both learn fast (Miyato et al. 2018).

    They have 64, 32 and 16 channels, G's times `g_width`. They begin at 4x4, because shape is
    made and judged there, where it costs little: 4 -> 7 -> 14 -> 28 pixels and back. D sees
    how much the batch varies in each of its last channels; without that, G's digits vary
    less than real ones.
    """
    H, W, C = expect_square(shape)
    g_width, normed = options.g_width, NORMALISED[options.d_norm]
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
    # Of w only: the embedding e of the labels stays free. A head without labels is not normalised, because training
    # then stalls.
    normalise_last = classes and options.d_norm == "spectral"
    discriminator = Sequential(
        *normed(Conv2d(C, 16, 4, stride=2, pad=1, rng=rng), 16, rng),
        LeakyReLU(0.2),
        *normed(Conv2d(16, 32, 4, stride=2, pad=1, rng=rng), 32, rng),
        LeakyReLU(0.2),
        *normed(Conv2d(32, 64, 3, stride=2, pad=1, rng=rng), 64, rng),
        LeakyReLU(0.2),
        Flatten(),
        MinibatchStdDev(64, strength=5),
        SpectralNorm(last, rng=rng) if normalise_last else last,
    )
    generator.noise_shape = (64,)
    return generator, discriminator


def small(rng, shape, classes, options):
    """The field's common small DCGAN (after Radford et al. 2016): the baseline."""
    (H, W, C), normed = expect_square(shape), NORMALISED[options.d_norm]
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
        *normed(Conv2d(32, 64, 4, stride=2, pad=1, **dcgan), 64, rng),
        LeakyReLU(0.2),
        Flatten(),
        head(h * w * 64, classes, **dcgan),
    )
    generator.noise_shape = (64,)
    return generator, discriminator


def tutorial(rng, shape, classes, options):
    """TensorFlow's DCGAN tutorial, with Keras's defaults where it is silent (batch norm, Glorot, biases in D).

    TensorFlow's "same" on an even size: a 5x5 kernel of stride 2 pads 1 before and 2 after, of stride 1 2 and 2.
    """
    H, W, C = expect_square(shape)
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
    generator.noise_shape = (100,)
    return generator, discriminator


def mlp(rng, shape, classes, options):
    """Dense layers only, as in the first GAN (Goodfellow et al. 2014), with leaky units in place of maxout."""
    H, W, C = expect_square(shape)
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
    generator.noise_shape = (100,)
    return generator, discriminator


def mp_gan(rng, shape, classes, options):
    """Two convolutions with dropout between against transposed convolutions up to size and a last convolution.

    The discriminator's sigmoid head is Dense(n, 1) here and its sigmoid is in the loss, where it cannot saturate.
    """
    H, W, C = expect_square(shape)
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
    generator.noise_shape = (100,)
    return generator, discriminator


def upsample(rng, shape, classes, options):
    """A small noise image grows by nearest-neighbour upsampling ("reverse pooling") and convolution: no checkerboard
    (Odena et al. 2016)."""
    if classes:
        raise UserError("preset upsample begins with a noise image, which takes no labels: add --unconditional")
    H, W, C = expect_square(shape)
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
    _, discriminator = small(rng, shape, classes, SmallNetworks())
    generator.noise_shape = (h * w * 2,)
    return generator, discriminator


# How a discriminator's layer is normalised; each takes (layer, its channels, rng) and gives the layers to put there.
NORMALISED = {
    "spectral": lambda layer, channels, rng: [SpectralNorm(layer, rng=rng)],
    "batch": lambda layer, channels, rng: [layer, BatchNorm(channels)],
    "none": lambda layer, channels, rng: [layer],
}


def expect_square(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(H, W, C). Raises UserError unless images of that shape are square."""
    if len(shape) != 3 or shape[0] != shape[1]:
        raise UserError(f"images are square, got {' x '.join(map(str, shape))}: crop or pad them")
    return shape


def _quarter(preset: str, H: int, W: int) -> tuple[int, int]:
    """The size at which a generator that doubles twice begins."""
    if H % 4 or H < 8:
        raise UserError(
            f"preset {preset} makes images whose side is a multiple of 4, from 8 up, got {H}: resize them, or take "
            "--preset mlp"
        )
    return H // 4, W // 4


DIGITS = dict(
    conditional=True,
    epochs=15,
    batch=64,
    loss="hinge",
    lr_g=4e-3,
    lr_d=4e-3,
    beta1=0.0,
    decay=True,
    simultaneous=True,
    average=0.999,
)
FOR_DIGITS = (
    "For the best digits a minute on two CPU cores: three narrow stages up in G and down in D, whose spectral norm "
    "(Miyato et al. 2018) lets both learn fast."
)
PRESETS = {
    "digits": Preset(digits, DIGITS, "images", FOR_DIGITS, DigitsNetworks),
    "digits-unlabelled": Preset(digits, DIGITS | dict(conditional=False), "images", FOR_DIGITS, DigitsNetworks),
    "digits-wide": Preset(
        digits,
        DIGITS | dict(epochs=40, batch=128),
        "images",
        "The networks of `digits` with a generator twice as wide: for the best digits in ten minutes.",
        WideNetworks,
    ),
    "small": Preset(
        small,
        dict(epochs=20),
        "images",
        "The field's common small DCGAN (after Radford et al. 2016): the baseline.",
        SmallNetworks,
    ),
    "tutorial": Preset(
        tutorial,
        dict(epochs=50, batch=256, lr_g=1e-4, lr_d=1e-4, beta1=0.9, eps=1e-7, simultaneous=True),
        "images",
        "TensorFlow's DCGAN tutorial, with Keras's defaults where it is silent (batch norm, Glorot, biases in D).",
    ),
    "mlp": Preset(
        mlp,
        dict(epochs=30),
        "images",
        "Dense layers only, as in the first GAN (Goodfellow et al. 2014), with leaky units in place of maxout.",
    ),
    "mp-gan": Preset(
        mp_gan,
        dict(epochs=10),
        "images",
        "Two convolutions with dropout between against transposed convolutions up to size and a last convolution.",
    ),
    "upsample": Preset(
        upsample,
        dict(epochs=5),
        "images",
        'A small noise image grows by nearest-neighbour upsampling ("reverse pooling") and convolution: no '
        "checkerboard (Odena et al. 2016).",
    ),
}
