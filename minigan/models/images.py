"""Networks for images, written as tables of layers from noise to image and from image to logit.

A generator maps noise (N, noise_size) to images (N, H, W, C) in [-1, 1]. A discriminator maps
images to logits (N, 1). Each function draws the weights from rng in the order of its tables.
PRESETS, at the end, adds the recipe of each preset.
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
    """Options of the networks of preset digits."""

    g_width: int = option(1, help="multiplier of the generator's channels", low=1, high=8)
    d_norm: str = option("spectral", help="the discriminator's normalisation: spectral, batch or none", choices=NORMS)

    def __post_init__(self):
        check(self)


@dataclass(frozen=True)
class WideNetworks(DigitsNetworks):
    """Options of the networks of preset digits-wide."""

    g_width: int = option(2, help="multiplier of the generator's channels", low=1, high=8)


@dataclass(frozen=True)
class SmallNetworks:
    """Options of the networks of preset small."""

    d_norm: str = option("none", help="the discriminator's normalisation: spectral, batch or none", choices=NORMS)

    def __post_init__(self):
        check(self)


def digits(rng, shape, classes, options):
    """Build networks with three stages of few channels, with spectral norm in D (Miyato et al. 2018).

    Spectral norm allows a high learning rate for both networks. The stages have 64, 32 and 16
    channels, in G times `g_width`. G starts at 4x4 pixels and D ends there, because the shape of
    a digit is formed and recognised at this resolution, where layers are cheap: 4 -> 7 -> 14 -> 28
    pixels in G and back in D. D uses the minibatch standard deviation of each of its last
    channels, because G's digits vary less than real digits without it.
    """
    H, W, C = expect_square(shape)
    g_width, normalise = options.g_width, NORMALISATIONS[options.d_norm]
    dcgan = dict(rng=rng, init=normal(0.02))
    h, w = _quarter("digits", H, W)
    m, n = (h + 1) // 2, (w + 1) // 2  # half, rounded up: 7 -> 4; output_pad below restores the size
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
    # Spectral norm applies to w of the head, not to the label embedding e. A head without labels is not normalised,
    # because training then stalls.
    normalise_last = classes and options.d_norm == "spectral"
    discriminator = Sequential(
        *normalise(Conv2d(C, 16, 4, stride=2, pad=1, rng=rng), 16, rng),
        LeakyReLU(0.2),
        *normalise(Conv2d(16, 32, 4, stride=2, pad=1, rng=rng), 32, rng),
        LeakyReLU(0.2),
        *normalise(Conv2d(32, 64, 3, stride=2, pad=1, rng=rng), 64, rng),
        LeakyReLU(0.2),
        Flatten(),
        MinibatchStdDev(64, strength=5),
        SpectralNorm(last, rng=rng) if normalise_last else last,
    )
    generator.noise_shape = (64,)
    return generator, discriminator


def small(rng, shape, classes, options):
    """Build a common small DCGAN (after Radford et al. 2016), the baseline."""
    (H, W, C), normalise = expect_square(shape), NORMALISATIONS[options.d_norm]
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
        *normalise(Conv2d(32, 64, 4, stride=2, pad=1, **dcgan), 64, rng),
        LeakyReLU(0.2),
        Flatten(),
        head(h * w * 64, classes, **dcgan),
    )
    generator.noise_shape = (64,)
    return generator, discriminator


def tutorial(rng, shape, classes, options):
    """Build the networks of TensorFlow's DCGAN tutorial.

    Values that the tutorial does not set are Keras's defaults (batch norm, Glorot, biases in D). TensorFlow's "same"
    padding of a 5x5 kernel on an even size is 1 before and 2 after for stride 2, and 2 before and 2 after for stride 1.
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
    """Build networks of dense layers, as in the first GAN (Goodfellow et al. 2014), with LeakyReLU for maxout."""
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
    """Build a discriminator of two convolutions with dropout and a generator of two transposed convolutions.

    The generator ends in a convolution. The discriminator ends in Dense(n, 1) instead of a layer with a sigmoid,
    because the loss includes the sigmoid and computes it without saturation.
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
    """Build a generator that enlarges a small noise image by nearest-neighbour upsampling and convolution.

    Upsampling ("reverse pooling") avoids the checkerboard artefacts of transposed convolution (Odena et al. 2016). The
    discriminator is that of `small`.
    """
    if classes:
        raise UserError("preset upsample starts from a noise image, which takes no labels: add --unconditional")
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


# Normalisations of a discriminator's layer: functions of (layer, channels, rng) that return the layers to use.
NORMALISATIONS = {
    "spectral": lambda layer, channels, rng: [SpectralNorm(layer, rng=rng)],
    "batch": lambda layer, channels, rng: [layer, BatchNorm(channels)],
    "none": lambda layer, channels, rng: [layer],
}


def expect_square(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return the shape as (H, W, C). Raises UserError unless it is that of a square image."""
    if len(shape) != 3 or shape[0] != shape[1]:
        raise UserError(f"images are square, got {' x '.join(map(str, shape))}: crop or pad them")
    return shape


def _quarter(preset: str, H: int, W: int) -> tuple[int, int]:
    """Return (H // 4, W // 4), the size at which a generator that doubles the size twice starts."""
    if H % 4 or H < 8:
        raise UserError(
            f"preset {preset} needs images whose side is a multiple of 4 and at least 8, got {H}: resize them, or use "
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
DIGITS_SUMMARY = (
    "Best digits after a minute on two CPU cores: three stages of few channels, with spectral norm in D "
    "(Miyato et al. 2018), which allows a high learning rate."
)
PRESETS = {
    "digits": Preset(digits, DIGITS, "images", DIGITS_SUMMARY, DigitsNetworks),
    "digits-unlabelled": Preset(digits, DIGITS | dict(conditional=False), "images", DIGITS_SUMMARY, DigitsNetworks),
    "digits-wide": Preset(
        digits,
        DIGITS | dict(epochs=40, batch=128),
        "images",
        "Best digits after ten minutes: the networks of `digits` with twice as many channels in the generator.",
        WideNetworks,
    ),
    "small": Preset(
        small,
        dict(epochs=20),
        "images",
        "The baseline: a common small DCGAN (after Radford et al. 2016).",
        SmallNetworks,
    ),
    "tutorial": Preset(
        tutorial,
        dict(epochs=50, batch=256, lr_g=1e-4, lr_d=1e-4, beta1=0.9, eps=1e-7, simultaneous=True),
        "images",
        "TensorFlow's DCGAN tutorial, with Keras's defaults where it sets nothing (batch norm, Glorot, biases in D).",
    ),
    "mlp": Preset(
        mlp,
        dict(epochs=30),
        "images",
        "Dense layers only, as in the first GAN (Goodfellow et al. 2014), with LeakyReLU instead of maxout.",
    ),
    "mp-gan": Preset(
        mp_gan,
        dict(epochs=10),
        "images",
        "Two convolutions with dropout in D; two transposed convolutions and a convolution in G.",
    ),
    "upsample": Preset(
        upsample,
        dict(epochs=5),
        "images",
        'Nearest-neighbour upsampling ("reverse pooling") and convolution instead of transposed convolution in G, '
        "which avoids checkerboard artefacts (Odena et al. 2016).",
    ),
}
