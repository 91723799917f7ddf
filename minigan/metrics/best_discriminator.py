"""Compute the best discriminator D* = r p / (r p + (1 - r) q), where the density p of the data is known.

q is the density of the generator and r the share of real samples in what D sees. D* minimises the
discriminator's loss for a fixed generator (Goodfellow et al. 2014, proposition 1, with r = 1/2). It
is 1/2 everywhere if q = p.
"""

from collections.abc import Callable

import numpy as np

NOWHERE = 1e-3  # D* is not computed where p + q is less than this part of its maximum


def best_discriminator(
    x: np.ndarray,
    density: Callable[[np.ndarray, float], np.ndarray],
    fakes: np.ndarray,
    width: float,
    real_share: float,
) -> np.ndarray:
    """Return D* (M,) at the points x (M, 2), and NaN where there are neither data nor fakes.

    `density(x, width)` is p after blurring with a Gaussian of this standard deviation. The density
    q is estimated from fakes (N, 2) as a sum of such Gaussians, so that both are blurred alike:
    the result is the best discriminator for samples with this much noise.
    """
    p, q = real_share * density(x, width), (1 - real_share) * kernel_density(x, fakes, width)
    total = p + q
    return np.where(total > NOWHERE * total.max(), p / np.where(total > 0, total, 1), np.nan)


def kernel_density(x: np.ndarray, points: np.ndarray, width: float) -> np.ndarray:
    """Return the mean over the points (N, 2) of a Gaussian of standard deviation `width` around each, at x (M, 2)."""
    x, points = np.asarray(x, np.float64), np.asarray(points, np.float64)
    found = []
    for part in np.array_split(x, max(1, x.size * len(points) // 10**7)):  # at most 80 MB at once
        squares = sum((part[:, None, i] - points[None, :, i]) ** 2 for i in range(2)) / (2 * width**2)
        found.append(np.exp(-squares).mean(axis=1) / (2 * np.pi * width**2))
    return np.concatenate(found)
