"""Checks of the layers that draw random numbers: scale, independence, and which passes draw."""

import math
from collections.abc import Iterator

import numpy as np

from minigan.backends import GOLDEN, mix64
from minigan.checking.derivatives import EXACT
from minigan.checking.rows import Row, compare, fact
from minigan.layers import Dropout, GaussianNoise, Layer


def dropped_units(backend) -> Iterator[Row]:
    """Check dropout's scaling, rates and draws.

    Kept units are scaled so that the mean is unchanged, each pass draws another mask, and the counter of draws decides
    the mask.
    """
    rate, n = 0.25, 40_000
    layer = Dropout(rate, rng=np.random.default_rng(6)).to(backend, np.float64)
    ones = backend.asarray(np.ones((4, n // 4)))
    first, second = (backend.to_numpy(layer.forward(ones)[0]) for _ in range(2))
    yield compare("Dropout", "values", "formula", np.unique(first), np.array([0.0, 1 / (1 - rate)]), EXACT)
    sigma = math.sqrt(rate / (1 - rate) / n)  # standard deviation of the mean of n units
    yield compare("Dropout", "mean of y", "statistics", first.mean(), 1.0, 4 * sigma)
    both = ((first > 0) & (second > 0)).mean()
    yield compare("Dropout", "kept twice", "statistics", both, (1 - rate) ** 2, 4 * sigma)
    neighbours = ((first[:, 1:] > 0) & (first[:, :-1] > 0)).mean()
    yield compare("Dropout", "neighbours kept", "statistics", neighbours, (1 - rate) ** 2, 4 * sigma)
    yield fact("Dropout", "draws", int(layer.buffers["draws"]) == 2, "the counter of draws is not 2 after 2 passes")
    layer.buffers["draws"][...] = 0
    repeated = backend.to_numpy(layer.forward(ones)[0])
    yield fact("Dropout", "same counter", np.array_equal(first, repeated), "the same count of draws gives another mask")
    kept, _ = Dropout(0.0, rng=np.random.default_rng(6)).to(backend).forward(ones)
    yield fact("Dropout", "rate 0", np.array_equal(backend.to_numpy(kept), np.ones((4, n // 4))), "it drops units")
    few, _ = Dropout(1 - 1e-9, rng=np.random.default_rng(6)).to(backend).forward(ones)  # the rate is rounded
    yield fact("Dropout", "rate near 1", np.isfinite(backend.to_numpy(few)).all(), "a unit is infinite")
    layer.forward(ones, train=False)
    yield fact("Dropout", "no draw", int(layer.buffers["draws"]) == 1, "a pass with train=False advances the counter")


def added_noise(backend) -> Iterator[Row]:
    """Check the distribution and the draws of Gaussian noise.

    The numbers are normal, neighbours and draws are independent, each pass draws other noise, and the counter of draws
    decides it. All numbers are finite.
    """
    n, std = 40_001, 0.5
    layer = GaussianNoise(std, rng=np.random.default_rng(6)).to(backend, np.float64)
    zeros = backend.asarray(np.zeros((1, n)))
    at = np.array([0, 1, 2, 16_383, 16_384, 16_385, 33_000, n - 1])  # a kernel computes pieces of 16,384 numbers
    expected = plain_noise(layer, at)
    first, second = (backend.to_numpy(layer.forward(zeros)[0])[0] / std for _ in range(2))
    yield compare("GaussianNoise", "far positions", "formula", first[at], expected, EXACT)
    yield from normality(first)
    # The products of independent normal numbers have mean 0 and variance 1, and those of their squares 1 and 8.
    for what, a, b in (("neighbours", first[1:], first[:-1]), ("two draws", first, second)):
        yield compare("GaussianNoise", f"{what}, product", "statistics", 1 + (a * b).mean(), 1.0, 4 / math.sqrt(n))
        yield compare(
            "GaussianNoise", f"{what}, squares", "statistics", (a * b * a * b).mean(), 1.0, 4 * math.sqrt(8 / n)
        )
    yield fact("GaussianNoise", "draws", int(layer.buffers["draws"]) == 2, "the counter is not 2 after 2 passes")
    layer.buffers["draws"][...] = 0
    repeated = backend.to_numpy(layer.forward(zeros)[0])[0] / std
    yield fact("GaussianNoise", "same counter", np.array_equal(first, repeated), "the same count gives other noise")
    single, _ = layer.to(backend, np.float32).forward(backend.asarray(np.zeros((1, n), np.float32)))
    yield fact("GaussianNoise", "float32", np.isfinite(backend.to_numpy(single)).all(), "a number is not finite")
    layer.forward(zeros, train=False)
    layer.std = 0.0  # as the trainer changes it
    silent, _ = layer.forward(zeros)
    yield fact("GaussianNoise", "std 0", not backend.to_numpy(silent).any(), "a std of 0 adds noise")
    yield fact("GaussianNoise", "no draw", int(layer.buffers["draws"]) == 2, "train=False or a std of 0 draws")


def normality(x: np.ndarray) -> Iterator[Row]:
    """Compare moments and distribution of independent numbers x (n,) with those of the standard normal distribution.

    The bounds are 4 standard deviations of each moment. The distance of Kolmogorov and Smirnov exceeds 2 / sqrt(n) with
    probability 7e-4.
    """
    n = len(x)
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        error = 4 * math.sqrt(variance / n)
        yield compare("GaussianNoise", f"moment {power}", "statistics", 1 + (x**power).mean(), 1.0 + moment, error)
    below = 0.5 + 0.5 * np.array([math.erf(v / math.sqrt(2)) for v in np.sort(x)])  # the normal distribution function
    distance = max((np.arange(1, n + 1) / n - below).max(), (below - np.arange(n) / n).max())
    yield compare("GaussianNoise", "distribution", "statistics", 1 + distance, 1.0, 2 / math.sqrt(n))


def plain_noise(layer: GaussianNoise, at: np.ndarray) -> np.ndarray:
    """Compute the noise n of the layer's next pass at the positions `at` (k,), one number at a time."""
    return plain_normal(stream_of(layer), at)


def plain_normal(stream: int, at: np.ndarray) -> np.ndarray:
    """Compute the standard normal numbers of a stream at the positions `at` (k,), one number at a time."""
    result = []
    for i in map(int, at):
        first, second = uniform_of(stream, i // 2 * 2), uniform_of(stream, i // 2 * 2 + 1)
        wave = math.sin if i % 2 else math.cos
        result.append(math.sqrt(-2 * math.log(first)) * wave(2 * math.pi * second))
    return np.array(result)


def plain_uniform(layer: Layer, i: int) -> float:
    """Compute the uniform number at position i of the next pass of a layer with the buffers `key` and `draws`."""
    return uniform_of(stream_of(layer), i)


def stream_of(layer: Layer) -> int:
    """Return the stream of random numbers of the next pass of a layer with the buffers `key` and `draws`."""
    return mix64(int(layer.buffers["key"]) + GOLDEN * int(layer.buffers["draws"]))


def uniform_of(stream: int, i: int) -> float:
    """Compute the uniform number at position i of a stream."""
    z = mix64(stream + GOLDEN * (i // 2 + 1))
    b = z // 2**32 if i % 2 else z % 2**32
    return (2 * (b // 512) + 1) / 2**24
