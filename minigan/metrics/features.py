"""Compute features of images of any kind with a small convolutional network of random weights.

    network = RandomFeatures(backend, channels=3)
    features = network(images)                   # uint8 (N, H, W, 3) -> float64 (N, F)

`describe` computes features of samples of any kind, as the networks see them: of images those of
the network and a small grid of pixels, of other samples their numbers.

The weights are drawn from a fixed seed. Random features distinguish sets of images by texture,
colour and shape at several scales, and need no training data. Naeem et al. (2020, "Reliable
fidelity and diversity metrics for generative models", section 4.2) propose them for images that
differ from those on which common networks were trained.
"""

import functools

import numpy as np

from minigan import backends, datasets
from minigan.layers import Conv2d, LeakyReLU, Sequential, he_normal

SEED = 20200221
STAGES = (16, 32, 32, 32)  # channels of the stages; each stage halves the image
NAME = f"a convolutional network with random weights (seed {SEED})"


class RandomFeatures:
    """A convolutional network with random weights, whose features are statistics of its channels.

    It has up to four stages. No stage follows an output with a side of less than 4 pixels.
    """

    def __init__(self, backend, channels: int):
        rng, c_in = np.random.default_rng(SEED), channels
        self.stages = []
        for c in STAGES:
            layers = Conv2d(c_in, c, 3, stride=2, pad=1, rng=rng, init=he_normal), LeakyReLU(0.2)
            self.stages.append(Sequential(*layers).to(backend))
            c_in = c

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return the features, float64 (N, F), of uint8 images (N, H, W, C).

        They are the mean and the standard deviation of each channel of each stage, over all pixels.
        """
        return np.concatenate([self.of(datasets.scale(images[i : i + 250])) for i in range(0, len(images), 250)])

    def of(self, samples: np.ndarray) -> np.ndarray:
        """Return the features, float64 (N, F), of float32 images (N, H, W, C) in [-1, 1]."""
        parts = []
        for i in range(0, len(samples), 250):
            x = self.stages[0].backend.asarray(samples[i : i + 250])
            found = []
            for stage in self.stages:
                with stage.backend.computing():
                    x, _ = stage.forward(x, train=False)
                maps = stage.backend.to_numpy(x).astype(np.float64)  # (N, h, w, c)
                found += [maps.mean(axis=(1, 2)), maps.std(axis=(1, 2))]
                if min(x.shape[1:3]) < 4:
                    break
            parts.append(np.concatenate(found, axis=1))
        return np.concatenate(parts)


class Standardiser:
    """Subtracts the mean of real features (N, F) and divides by their standard deviation.

    Every feature then has the same weight in a distance. Constant features become 0. With `floor`,
    no feature is divided by less than `floor` times the mean standard deviation, so that a feature
    that is nearly constant in real samples does not dominate the distances of others.
    """

    def __init__(self, real: np.ndarray, floor: float = 0.0):
        self.mean, std = real.mean(axis=0), real.std(axis=0)
        std = np.maximum(std, floor * std.mean())
        self.std = np.where(std > 1e-6 * max(std.max(), 1e-12), std, np.inf)  # dividing by inf gives 0

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return the standardised features (M, F)."""
        return (features - self.mean) / self.std


GRID = 7  # pixels on each side of the small picture that `describe` adds to the features of an image


def describe(samples: np.ndarray) -> np.ndarray:
    """Return features, float64 (N, F), of float samples (N, ...) as the networks see them.

    Images (N, H, W, C) are described by `RandomFeatures` and by the means of GRID x GRID parts of
    the image. Other samples, such as points (N, 2), are described by their numbers.
    """
    if samples.ndim != 4:
        return samples.reshape(len(samples), -1).astype(np.float64)
    return np.concatenate([_random_features(samples.shape[3]).of(samples), shrunk(samples, GRID)], axis=1)


@functools.lru_cache(maxsize=4)
def _random_features(channels: int) -> RandomFeatures:
    """Return the network on the reference backend, which has no kernels to compile and no device to fill."""
    return RandomFeatures(backends.reference(), channels)


def shrunk(images: np.ndarray, side: int) -> np.ndarray:
    """Return images (N, H, W, C) as rows (N, h*w*C) of means over h x w rectangular parts.

    h and w are `side`, or H and W if these are smaller.
    """
    N, *size, _ = images.shape
    means = images.astype(np.float64)
    for axis, n in enumerate(size, 1):
        edges = np.arange(min(side, n) + 1) * n // min(side, n)
        widths = np.diff(edges).reshape([-1 if i == axis else 1 for i in range(4)])
        means = np.add.reduceat(means, edges[:-1], axis=axis) / widths
    return means.reshape(N, -1)
