"""Mixtures: samples follow the density, the density is correct, coverage counts modes and points, and the best D."""

import math

import numpy as np
import pytest
import scipy.stats

from minigan.datasets import DataError, mixtures
from minigan.datasets.mixtures import ring
from minigan.metrics.best_discriminator import best_discriminator, kernel_density

SHAPES = {"ring": mixtures.ring(), "ring of 5": mixtures.ring(5, radius=1.5, std=0.2), "grid": mixtures.grid(3)}


@pytest.mark.parametrize("data", SHAPES.values(), ids=SHAPES)
def test_samples_have_the_mean_and_variance_of_every_mode(data):
    x, k = data.labelled(40_000, np.random.default_rng(0))
    assert x.shape == (40_000, 2) and x.dtype == np.float32
    assert np.array_equal(x, data.sample(40_000, np.random.default_rng(0)))
    K = len(data.centres)
    assert np.allclose(np.bincount(k, minlength=K), 40_000 / K, atol=6 * np.sqrt(40_000 / K))
    for mode, centre in enumerate(data.centres):
        own = x[k == mode] - centre
        assert np.allclose(own.mean(axis=0), 0, atol=6 * data.std / np.sqrt(len(own)))
        assert np.allclose(np.cov(own.T), data.std**2 * np.eye(2), atol=0.12 * data.std**2)


@pytest.mark.parametrize("data", SHAPES.values(), ids=SHAPES)
def test_the_density_agrees_with_the_samples(data):
    side = np.linspace(-4, 4, 801)
    plane = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    cell = (side[1] - side[0]) ** 2
    p = data.density(plane)
    assert p.shape == (801 * 801,) and np.isclose(p.sum() * cell, 1, atol=1e-6)
    x = data.sample(40_000, np.random.default_rng(1))
    for half in (lambda t: t[:, 0] > 0.3, lambda t: t[:, 1] > 0.05, lambda t: np.hypot(*t.T) < 1.2):
        assert abs(half(x).mean() - (p * half(plane)).sum() * cell) < 0.015


def test_the_density_of_one_gaussian_at_its_centre():
    one = mixtures.Mixture(np.array([[1.0, -2.0]]), 0.5)
    assert np.isclose(one.density(np.array([[1.0, -2.0]]))[0], 1 / (2 * np.pi * 0.25))
    ratio = one.density(np.array([[1.5, -2.0]]))[0] / one.density(np.array([[1.0, -2.0]]))[0]
    assert np.isclose(ratio, np.exp(-0.5))


def test_the_centres_of_ring_and_grid():
    ring, grid = mixtures.ring(8, radius=2), mixtures.grid(5, spacing=1.5)
    assert np.allclose(np.hypot(*ring.centres.T), 2) and np.allclose(ring.centres[0], (2, 0))
    assert np.allclose(ring.centres[2], (0, 2))
    gaps = np.hypot(*(ring.centres - np.roll(ring.centres, 1, axis=0)).T)
    assert np.allclose(gaps, gaps[0])
    assert grid.centres.shape == (25, 2) and np.allclose(grid.centres.mean(axis=0), 0)
    assert sorted(set(grid.centres[:, 0].round(6))) == [-3, -1.5, 0, 1.5, 3]
    assert len({tuple(c) for c in grid.centres}) == 25


def test_coverage_of_the_data_itself_and_of_a_collapse():
    data, rng = mixtures.ring(), np.random.default_rng(2)
    modes, share = data.coverage(data.sample(20_000, rng))
    assert modes == 8 and abs(share - (1 - np.exp(-4.5))) < 0.004
    collapsed = data.centres[3] + 0.01 * rng.standard_normal((1000, 2))
    assert data.coverage(collapsed) == (1, 1.0)
    assert data.coverage(np.zeros((1000, 2))) == (0, 0.0)
    half = np.concatenate([data.centres[:4].repeat(100, axis=0), np.zeros((400, 2))])
    assert data.coverage(half) == (4, 0.5)
    # With equal shares, a mode has 125 of 1000 points. Ten points are less than a tenth of that, thirteen are more.
    few = np.concatenate([np.repeat(data.centres[:1], 990, axis=0), np.repeat(data.centres[1:2], 10, axis=0)])
    more = np.concatenate([np.repeat(data.centres[:1], 987, axis=0), np.repeat(data.centres[1:2], 13, axis=0)])
    assert data.coverage(few)[0] == 1 and data.coverage(more)[0] == 2


def test_the_nearest_centre_and_its_distance():
    data = mixtures.ring(4, radius=1, std=0.5)
    k, distance = data.nearest(np.array([[2.0, 0.0], [0.0, 1.25], [-1.0, 0.0]], np.float32))
    assert k.tolist() == [0, 1, 2] and np.allclose(distance, [2, 0.5, 0])


def test_an_invalid_mixture_is_refused():
    with pytest.raises(DataError, match=r"\(K, 2\)"):
        mixtures.Mixture(np.zeros((3, 3)), 0.1)
    with pytest.raises(DataError, match="positive"):
        mixtures.ring(std=0)


# ---------------------------------------------------------------- the best discriminator


def best_of(fakes: np.ndarray, x: np.ndarray, real_share: float = 0.5, width: float = 0.05) -> np.ndarray:
    return best_discriminator(x, lambda x, std: ring().blurred(std).density(x), fakes, width, real_share)


@pytest.mark.parametrize("real_share", [0.5, 0.2])
def test_the_best_discriminator_cannot_tell_samples_of_the_data_from_the_data(real_share):
    """q = p, so D* = r p / (r p + (1 - r) p) = r."""
    mixture, rng = ring(), np.random.default_rng(0)
    found = best_of(mixture.sample(100_000, rng), mixture.centres, real_share)
    np.testing.assert_allclose(found, real_share, atol=0.02)


def test_the_best_discriminator_finds_missing_modes_and_wrong_places():
    """The fakes are the first mode alone, with 8 times the density there, and a point between the modes."""
    mixture, rng = ring(), np.random.default_rng(0)
    fakes = np.concatenate([mixture.centres[:1] + mixture.std * rng.standard_normal((50_000, 2)), [[0.0, 0.0]] * 5_000])
    at_first, at_second, between, nowhere = best_of(fakes, np.array([[2.0, 0.0], mixture.centres[1], [0, 0], [9.0, 9]]))
    assert abs(at_first - 1 / (1 + 8 / 1.1)) < 0.01 and at_second > 0.999 and between < 0.001 and np.isnan(nowhere)


def test_kernel_density_is_the_mean_of_gaussians():
    rng = np.random.default_rng(0)
    x, points = rng.standard_normal((3, 2)), rng.standard_normal((4, 2))
    expected = [np.mean([scipy.stats.multivariate_normal(p, 0.3**2 * np.eye(2)).pdf(at) for p in points]) for at in x]
    np.testing.assert_allclose(kernel_density(x, points, 0.3), expected, rtol=1e-12)


def test_a_blurred_mixture_is_that_of_noisy_points():
    blurred = ring().blurred(0.2)
    assert math.isclose(blurred.std, math.sqrt(0.1**2 + 0.2**2)) and (blurred.centres == ring().centres).all()
