"""Find the training series that are nearest to others, and draw sets of series in the plane.

Two series are compared step by step. Their distance is the root mean square of the differences of their values, each
in standard deviations of its feature over all training series. So a distance of 1 is as far as a series is from its
feature's mean, on average. A value that is missing in one of two series counts as a difference of 1.
"""

from typing import NamedTuple

import numpy as np

from minigan.metrics.distances import nearest

MOST = 2000  # series whose nearest training series is found
PAIRS = 40_000_000  # maximum number of pairs that are compared


class Space:
    """Represents series (N, T, F) as rows, so that distances of rows are distances of series."""

    def __init__(self, training: np.ndarray):
        x = training.astype(np.float64)
        self.mean = np.array([_or(np.nanmean, x[..., f], 0.0) for f in range(x.shape[2])])
        std = np.array([_or(np.nanstd, x[..., f], 1.0) for f in range(x.shape[2])])
        self.std = np.where(std > 0, std, 1.0)
        self.gaps = bool(np.isnan(x).any())

    def __call__(self, series: np.ndarray) -> np.ndarray:
        """Return rows (N, n) float64, whose distances are those of the series."""
        z = (series.astype(np.float64) - self.mean) / self.std
        absent = np.isnan(z)
        size = np.sqrt(z.shape[1] * z.shape[2])
        rows = np.where(absent, 0, z).reshape(len(z), -1) / size
        return np.concatenate([rows, absent.reshape(len(z), -1) / size], axis=1) if self.gaps else rows


def _or(statistic, values: np.ndarray, otherwise: float) -> float:
    """Return the statistic of the values, or `otherwise` if all of them are missing."""
    return otherwise if np.isnan(values).all() else float(statistic(values))


class Nearest(NamedTuple):
    """The training series that are nearest to some series."""

    chosen: np.ndarray  # (M,), the indices of the series that were compared
    closest: np.ndarray  # (M,), the training series nearest to each
    distance: np.ndarray  # (M,)


def to_training(space: Space, series: np.ndarray | None, training: np.ndarray, rng: np.random.Generator) -> Nearest:
    """Return the training series that are nearest to series, or, without them, each training series and the others.

    Of many, MOST are chosen at random. Raises ValueError for fewer than 2 training series.
    """
    if len(training) < 2:
        raise ValueError(f"distances need at least 2 training series, got {len(training)}")
    count = len(training if series is None else series)
    chosen = rng.permutation(count)[: max(1, min(MOST, PAIRS // len(training)))]
    rows = space(training)
    if series is not None:
        return Nearest(chosen, *nearest(space(series[chosen]), rows))
    return Nearest(chosen, *_to_others(rows, chosen))


def _to_others(rows: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the index and the distance (M,) of the other row that is nearest to each of the chosen ones."""
    squares = (rows**2).sum(axis=1)
    index, distance = np.empty(len(chosen), np.int64), np.empty(len(chosen))
    for start in range(0, len(chosen), 500):
        own = chosen[start : start + 500]
        block = np.maximum(squares[own, None] - 2 * rows[own] @ rows.T + squares, 0)
        block[np.arange(len(own)), own] = np.inf
        index[start : start + 500] = block.argmin(axis=1)
        distance[start : start + 500] = np.sqrt(block.min(axis=1))
    return index, distance


def embedding(space: Space, real: np.ndarray, *others: np.ndarray) -> tuple[list[np.ndarray], float]:
    """Return each set of series as points (N, 2) in the plane in which the real ones differ the most, and its share.

    The plane is that of the first two principal components of the real series. The share is the part of their
    variance that it shows.
    """
    rows = space(real)
    mean = rows.mean(axis=0)
    _, singular, axes = np.linalg.svd(rows - mean, full_matrices=False)
    axes = np.concatenate([axes, np.zeros((2, axes.shape[1]))])[:2]
    signs = np.where(axes[np.arange(2), np.abs(axes).argmax(axis=1)] < 0, -1.0, 1.0)  # so that the picture is the same
    axes = axes * signs[:, None]
    share = float((singular[:2] ** 2).sum() / max((singular**2).sum(), 1e-300))
    return [(space(each) - mean) @ axes.T for each in (real, *others)], share
