"""Networks for images, written as tables of layers from noise to image and from image to logit.

A generator maps noise (N, noise_size) to images (N, H, W, C) in [-1, 1]. A discriminator maps
images to logits (N, 1). Each function draws the weights from rng in the order of its tables.
PRESETS, at the end, adds the recipe of each preset.
"""

from dataclasses import dataclass
from typing import Any

from minigan.errors import UserError
from minigan.layers import (
    BatchNorm,
    Conv2d,
    ConvTranspose2d,
    Dense,
    Dropout,
    Flatten,
    Layer,
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
from minigan.options import check, option, options

NORMS = ("spectral", "batch", "dropout", "none")


@dataclass(frozen=True)
class ImageNetworks:
    """Options of the networks of every preset for images."""

    d_norm: str = option(
        "none", help="what the discriminator's layers have: spectral or batch norm, dropout, or none", choices=NORMS
    )
    d_minibatch_std: float = option(
        0.0,
        help="the discriminator sees X times the minibatch standard deviation of each of its last features; 0: no",
        low=0,
    )

    def __post_init__(self):
        check(self)


@dataclass(frozen=True)
class DropoutNetworks(ImageNetworks):
    """Options of networks that have dropout in the discriminator."""

    d_norm: str = option("dropout", help=options(ImageNetworks)["d_norm"].help, choices=NORMS)


@dataclass(frozen=True)
class DigitsNetworks(ImageNetworks):
    """Options of the networks of preset digits."""

    g_width: int = option(1, help="multiplier of the generator's channels", low=1, high=8)
    d_width: float = option(1.0, help="multiplier of the discriminator's channels", low=0.125, high=8)
    noise_size: int = option(64, help="noise numbers of the generator", low=1, high=4096)
    d_norm: str = option("spectral", help=options(ImageNetworks)["d_norm"].help, choices=NORMS)
    d_minibatch_std: float = option(5.0, help=options(ImageNetworks)["d_minibatch_std"].help, low=0)


@dataclass(frozen=True)
class WideNetworks(DigitsNetworks):
    """Options of the networks of preset digits-wide."""

    g_width: int = option(2, help="multiplier of the generator's channels", low=1, high=8)


def digits(rng, shape, classes, options):
    """Build networks with stages of few channels, with spectral norm in D (Miyato et al. 2018).

    Spectral norm allows a high learning rate for both networks. For 28x28 pixels, the stages have
    64, 32 and 16 channels, in G times `g_width` and in D times `d_width`. Larger images have further
    stages, each with twice as many channels. G starts at a side of 4 to 7 pixels (less for images
    below 16 pixels) and D ends there, because the shape of a digit is formed and recognised at this
    resolution, where layers are cheap: 4 -> 7 -> 14 -> 28 pixels in G and back in D. D uses the
    minibatch standard deviation of each of its last channels, because G's digits vary less than
    real digits without it.
    """
    (H, W, C), g_width = shape, options.g_width
    dcgan = dict(rng=rng, init=normal(0.02))
    sides = stages("digits", H, W, smallest=4, least=3 if min(H, W) < 16 else 2)
    m, n = sides[-1]
    first = 16 if len(sides) > 3 else 32
    channels = [first << stage for stage in range(len(sides) - 1)]  # 16, 32, 64
    widths = [c * g_width for c in reversed(channels)]  # of G: 64, 32, 16
    channels = [round(c * options.d_width) for c in channels]  # of D
    generator = Sequential(
        *label_input(classes),
        Dense(options.noise_size + classes, m * n * widths[0], bias=False, **dcgan),
        Reshape(m, n, widths[0]),
        BatchNorm(widths[0]),
        LeakyReLU(0.2),
        *ups(sides, [*widths, C], inner_kernel=3, **dcgan),
        Tanh(),
    )
    *spread, last = ending(m * n, channels[-1], classes, options, rng=rng)
    # Spectral norm applies to w of the head, not to the label embedding e. A head without labels is not normalised,
    # because training then stalls.
    normalise_last = classes and options.d_norm == "spectral"
    discriminator = Sequential(
        *downs(sides, [C, *channels], [options.d_norm] * len(channels), inner_kernel=3, rng=rng),
        Flatten(),
        *spread,
        SpectralNorm(last, rng=rng) if normalise_last else last,
    )
    generator.noise_shape = (options.noise_size,)
    return generator, discriminator


def stages(preset: str, H: int, W: int, smallest: int, least: int) -> list[tuple[int, int]]:
    """Return the sizes of all stages: (H, W), and then half of the size before, rounded up.

    The size is halved at least `least` times, and further as long as no side becomes smaller than
    `smallest`. Raises UserError unless both sides are multiples of 4 and at least 8, and are both
    even or both odd whenever they are halved.
    """
    expect_multiples_of_4(preset, H, W)
    sides = [(H, W)]
    while len(sides) <= least or min(half(sides[-1])) >= smallest:
        sides.append(half(sides[-1]))
    if any(h % 2 != w % 2 for h, w in sides[:-1]):
        raise UserError(f"preset {preset} makes images whose sides are halved evenly, got {H} x {W} pixels: {FITTING}")
    return sides


def half(size: tuple[int, int]) -> tuple[int, int]:
    """Return half of (height, width), rounded up."""
    return (size[0] + 1) // 2, (size[1] + 1) // 2


def ups(sides: list[tuple[int, int]], channels: list[int], inner_kernel: int, **how: Any) -> list[Layer]:
    """Return transposed convolutions of stride 2 that lead from the last of `sides` to the first.

    `channels` are those at each size, in this order. The kernel is 3x3 if the output has an odd
    side, otherwise `inner_kernel` in the first layer and 4x4 in the others. Batch norm and
    LeakyReLU follow every layer except the last. Each convolution takes the options `how`.
    """
    layers: list[Layer] = []
    last = len(sides) - 2
    for stage, (side, _) in enumerate(reversed(sides[:-1])):
        kernel = 3 if side % 2 else inner_kernel if stage == 0 else 4
        output_pad = 1 if kernel == 3 and side % 2 == 0 else 0
        c_in, c_out = channels[stage : stage + 2]
        bias = stage == last
        layers.append(ConvTranspose2d(c_in, c_out, kernel, stride=2, pad=1, output_pad=output_pad, bias=bias, **how))
        if stage < last:
            layers += [BatchNorm(c_out), LeakyReLU(0.2)]
    return layers


def downs(sides: list[tuple[int, int]], channels: list[int], norms: list[str], inner_kernel: int, rng, **how) -> list:
    """Return convolutions of stride 2, each with LeakyReLU, from the first of `sides` to the last.

    `channels` are those at each size, in this order. The kernels are those of `ups`, in reverse
    order. `norms` has one of NORMS for each layer.
    """
    layers = []
    for stage, (side, _) in enumerate(sides[:-1]):
        kernel = 3 if side % 2 else inner_kernel if stage == len(sides) - 2 else 4
        c_in, c_out = channels[stage : stage + 2]
        layer = Conv2d(c_in, c_out, kernel, stride=2, pad=1, rng=rng, **how)
        layers += normalised(layer, LeakyReLU(0.2), c_out, norms[stage], rng)
    return layers


def normalised(layer: Layer, activation: Layer, channels: int, norm: str, rng, rate: float = 0.3) -> list[Layer]:
    """Return the layer, which has this number of output channels, and the activation, with one of NORMS."""
    match norm:
        case "spectral":
            return [SpectralNorm(layer, rng=rng), activation]
        case "batch":
            return [layer, BatchNorm(channels), activation]
        case "dropout":
            return [layer, activation, Dropout(rate, rng=rng)]
    return [layer, activation]


def first_norm(norm: str) -> str:
    """Return the norm of a discriminator's first layer, which has no batch norm (Radford et al. 2016, section 3)."""
    return "none" if norm == "batch" else norm


def ending(pixels: int, channels: int, classes: int, options: ImageNetworks, **how: Any) -> list[Layer]:
    """Return the last layers of a discriminator, for rows of `pixels` * `channels` features, channels last.

    They are the minibatch standard deviation of each channel, if the options ask for it, and the head.
    """
    strength = options.d_minibatch_std
    spread: list[Layer] = [MinibatchStdDev(channels, strength=strength)] if strength else []
    return [*spread, head((pixels + len(spread)) * channels, classes, **how)]


def small(rng, shape, classes, options):
    """Build a common small DCGAN (after Radford et al. 2016), the baseline.

    For 28x28 pixels, G has two stages, 7 -> 14 -> 28. Larger images have more stages, so that G
    starts at a side of at most 8 pixels. Each stage of G has twice as many channels as the next.
    """
    H, W, C = shape
    dcgan = dict(rng=rng, init=normal(0.02))
    sides = stages("small", H, W, smallest=5, least=2)
    channels = [32 << stage for stage in range(len(sides) - 1)]  # of D: 32, 64
    h, w = sides[-1]
    generator = Sequential(
        *label_input(classes),
        Dense(64 + classes, h * w * channels[-1], bias=False, **dcgan),
        Reshape(h, w, channels[-1]),
        BatchNorm(channels[-1]),
        LeakyReLU(0.2),
        *ups(sides, [*reversed(channels), C], inner_kernel=4, **dcgan),
        Tanh(),
    )
    first = "dropout" if options.d_norm == "dropout" else "none"
    discriminator = Sequential(
        *downs(sides, [C, *channels], [first, *[options.d_norm] * (len(channels) - 1)], inner_kernel=4, **dcgan),
        Flatten(),
        *ending(h * w, channels[-1], classes, options, **dcgan),
    )
    generator.noise_shape = (64,)
    return generator, discriminator


def tutorial(rng, shape, classes, options):
    """Build the networks of TensorFlow's DCGAN tutorial.

    Values that the tutorial does not set are Keras's defaults (batch norm, Glorot, biases in D). TensorFlow's "same"
    padding of a 5x5 kernel on an even size is 1 before and 2 after for stride 2, and 2 before and 2 after for stride 1.
    """
    H, W, C = shape
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
        *normalised(
            Conv2d(C, 64, 5, stride=2, pad=(1, 2), rng=rng), LeakyReLU(0.3), 64, first_norm(options.d_norm), rng
        ),
        *normalised(Conv2d(64, 128, 5, stride=2, pad=(1, 2), rng=rng), LeakyReLU(0.3), 128, options.d_norm, rng),
        Flatten(),
        *ending(h * w, 128, classes, options, rng=rng),
    )
    generator.noise_shape = (100,)
    return generator, discriminator


def mlp(rng, shape, classes, options):
    """Build networks of dense layers, as in the first GAN (Goodfellow et al. 2014), with LeakyReLU for maxout."""
    H, W, C = shape
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
        *normalised(Dense(H * W * C, 512, rng=rng), LeakyReLU(0.2), 512, first_norm(options.d_norm), rng),
        *normalised(Dense(512, 256, rng=rng), LeakyReLU(0.2), 256, options.d_norm, rng),
        *ending(1, 256, classes, options, rng=rng),
    )
    generator.noise_shape = (100,)
    return generator, discriminator


def mp_gan(rng, shape, classes, options):
    """Build a discriminator of two convolutions with dropout and a generator of two transposed convolutions.

    The generator ends in a convolution. The discriminator ends in Dense(n, 1) instead of a layer with a sigmoid,
    because the loss includes the sigmoid and computes it without saturation.
    """
    H, W, C = shape
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
        *normalised(
            Conv2d(C, 64, 3, stride=2, pad=(0, 1), rng=rng), LeakyReLU(0.2), 64, first_norm(options.d_norm), rng, 0.4
        ),
        *normalised(Conv2d(64, 64, 3, stride=2, pad=(0, 1), rng=rng), LeakyReLU(0.2), 64, options.d_norm, rng, 0.4),
        Flatten(),
        *ending(h * w, 64, classes, options, rng=rng),
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
    H, W, C = shape
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
    _, discriminator = small(rng, shape, classes, options)
    generator.noise_shape = (h * w * 2,)
    return generator, discriminator


FITTING = "bring them to one with --size and --fit, for example --size 32 --fit crop, or take --preset mlp"


def _quarter(preset: str, H: int, W: int) -> tuple[int, int]:
    """Return (H // 4, W // 4), the size at which a generator that doubles the size twice starts."""
    expect_multiples_of_4(preset, H, W)
    return H // 4, W // 4


def expect_multiples_of_4(preset: str, H: int, W: int) -> None:
    """Raise UserError unless both sides are multiples of 4 and at least 8."""
    if H % 4 or W % 4 or min(H, W) < 8:
        raise UserError(
            f"preset {preset} makes images whose sides are multiples of 4, from 8 up, got {H} x {W} pixels: {FITTING}"
        )


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
        ImageNetworks,
    ),
    "tutorial": Preset(
        tutorial,
        dict(epochs=50, batch=256, lr_g=1e-4, lr_d=1e-4, beta1=0.9, eps=1e-7, simultaneous=True),
        "images",
        "TensorFlow's DCGAN tutorial, with Keras's defaults where it sets nothing (batch norm, Glorot, biases in D).",
        DropoutNetworks,
    ),
    "mlp": Preset(
        mlp,
        dict(epochs=30),
        "images",
        "Dense layers only, as in the first GAN (Goodfellow et al. 2014), with LeakyReLU instead of maxout.",
        DropoutNetworks,
    ),
    "mp-gan": Preset(
        mp_gan,
        dict(epochs=10),
        "images",
        "Two convolutions with dropout in D; two transposed convolutions and a convolution in G.",
        DropoutNetworks,
    ),
    "upsample": Preset(
        upsample,
        dict(epochs=5),
        "images",
        'Nearest-neighbour upsampling ("reverse pooling") and convolution instead of transposed convolution in G, '
        "which avoids checkerboard artefacts (Odena et al. 2016).",
        ImageNetworks,
    ),
    "pictures": Preset(
        digits,
        DIGITS | dict(epochs=20, batch=32, lr_g=2e-3, lr_d=5e-4),
        "images",
        "Colour images of 64 x 64 pixels after ten minutes: the networks of `digits-wide`, with lower learning rates. "
        "That of D is the lowest, because D would win otherwise.",
        WideNetworks,
    ),
}
