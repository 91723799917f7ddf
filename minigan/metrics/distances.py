"""Compute distances between two sets of feature vectors: Frechet distance, density, coverage, class divergence.

All functions take arrays and compute in float64. A feature vector is a row: N images with F
features each are an array (N, F).
"""

import math
from collections.abc import Iterator

import numpy as np


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Frechet distance between Gaussians fitted to features a (N, F) and b (M, F).

        |m - m'|^2 + tr(S + S' - 2 (S S')^(1/2))      m, m' (F,) the means, S, S' (F, F) the covariances

    It is 0 for equal means and covariances (Heusel et al. 2017, "GANs trained by a two time-scale
    update rule", equation 6). The trace of (S S')^(1/2) is computed from the symmetric matrix
    R S' R with R = S^(1/2), which has the same eigenvalues as S S'. They are real and, except for
    rounding errors, not negative. Negative ones are set to 0, so that the result is real and not
    negative.
    """
    (mean_a, cov_a), (mean_b, cov_b) = ((x.mean(axis=0), np.cov(x, rowvar=False)) for x in (a, b))
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T  # R (F, F)
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov_b @ root), 0)).sum()  # tr (S S')^(1/2)
    return max(0.0, float(((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * cross))


def kernel_distance(a: np.ndarray, b: np.ndarray, block: int = 1000) -> float:
    """Return the kernel distance of features a (N, F) and b (M, F).

        mean k(a_i, a_j) + mean k(b_i, b_j) - 2 mean k(a_i, b_j)      with k(x, y) = (x.y / F + 1)^3

    The first two means are over pairs i != j. This is the unbiased estimate of the squared maximum
    mean discrepancy, averaged over blocks of `block` rows (Binkowski et al. 2018, "Demystifying MMD
    GANs", section 3.1). If a and b have the same distribution, it is about 0 and may be negative.
    """

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / x.shape[1] + 1) ** 3

    size, found = min(block, len(a), len(b)), []
    for i in range(min(len(a), len(b)) // size):
        x, y = a[i * size : (i + 1) * size], b[i * size : (i + 1) * size]
        own = sum((k.sum() - np.trace(k)) / (size * (size - 1)) for k in (kernel(x, x), kernel(y, y)))
        found.append(own - 2 * kernel(x, y).mean())
    return float(np.mean(found))


def nearest(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the row of b (M, F) that is nearest to each row of a (N, F).

    Returns its index (N,), and the distance (N,).
    """
    index, squares = [], []
    for block in _square_distances(a, b):
        index.append(block.argmin(axis=1))
        squares.append(block.min(axis=1))
    return np.concatenate(index), np.sqrt(np.concatenate(squares))


class Neighbourhoods:
    """The k-nearest-neighbour neighbourhoods of real features (N, F), which define density and coverage.

    The neighbourhood of a real feature vector is a sphere. Its radius is the distance to the k-th
    nearest real feature vector (Naeem et al. 2020, "Reliable fidelity and diversity metrics for
    generative models", with k = 5):

        density     the mean number of neighbourhoods that contain a sample, divided by k
        coverage    the share of neighbourhoods that contain at least one sample
    """

    def __init__(self, real: np.ndarray, k: int = 5):
        self.real, self.k = real, min(k, len(real) - 1)
        self.square_radii = np.concatenate(  # (N,); index 0 is the distance 0 of the vector to itself
            [np.partition(squares, self.k, axis=1)[:, self.k] for squares in _square_distances(real, real)]
        )

    def memberships(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Count the neighbourhoods that contain each of the samples (M, F).

        Returns the counts, int (M,), and whether each neighbourhood contains a sample, bool (N,).
        """
        counts, covered = [], np.zeros(len(self.real), bool)
        for squares in _square_distances(samples, self.real):
            inside = squares <= self.square_radii  # (rows, N)
            counts.append(inside.sum(axis=1))
            covered |= inside.any(axis=0)
        return np.concatenate(counts), covered


def _square_distances(a: np.ndarray, b: np.ndarray, rows: int = 1000) -> Iterator[np.ndarray]:
    """Yield |a - b|^2 for all pairs of rows of a (N, F) and b (M, F), in blocks (rows, M).

    A block of 1,000 rows takes 80 MB for M = 10,000. All pairs at once would take 800 MB.
    """
    lengths = (b * b).sum(axis=1)
    for i in range(0, len(a), rows):
        part = a[i : i + rows]
        yield np.maximum((part * part).sum(axis=1)[:, None] - 2 * part @ b.T + lengths, 0)


def class_divergence(shares: np.ndarray) -> float:
    """Return the Kullback-Leibler divergence of the class shares p (K,) from uniform: sum p log(p K).

    It is 0 if all classes are equally frequent, and log K if only one class occurs.
    """
    return float(sum(p * math.log(p * len(shares)) for p in shares if p > 0))
