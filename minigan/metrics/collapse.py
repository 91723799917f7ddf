"""Measure how much of the data a generator covers, and how much its samples vary. The figures of a check.

    reference = Reference(describe(real), labels, rng)            # once for each training
    reference.compare(describe(fakes), labels_asked_for)           # {"modes": 10, "modes_covered": 9, ...}

A check of a training gives these figures. They are columns of history.csv, empty in epochs without
a check. A figure that the data do not allow is absent.

    name               range      meaning
    modes              from 1     number of modes of the data: the classes, if the features tell real
                                  classes apart (see KNOWN), otherwise cells of real samples (k-means)
    modes_covered      0 to modes number of modes in which the fakes have at least a tenth of the share
                                  of real samples. Only fakes near the mode count
    evenness           0 to 1     1 - half the sum of |share of fakes - share of real samples| over all
                                  modes; 1: the fakes are distributed as real samples are
    near               0 to 1     share of fakes that are as near to the centre of a mode as real
                                  samples are; 0: the fakes do not resemble the data
    variety            from 0     standard deviation of the fakes within a mode, divided by that of
                                  real samples; 1: as much as real samples, 0: one sample for each
                                  mode; absent if no mode has two fakes near it
    nearest_fake       from 0     median distance of a fake to the nearest other fake, divided by the
                                  same for equally many real samples; 0: copies of each other
    copies             0 to 1     share of fakes of which another fake is a copy: nearer than a hundredth
                                  of the standard deviation of real samples within a mode
    coverage           0 to 1     share of real samples in whose neighbourhood a fake is (see
                                  `distances.Neighbourhoods`), in the features of the check
    labels_followed    to 1       share of fakes that the features assign to the class asked for, as a
                                  part of what exceeds chance: 1: all, 0: as many as at random;
                                  absent if the networks see no labels
    labels_known       to 1       the same for real samples, which is the most that can be expected
    d_right_train      0 to 1     share of training samples that D takes for real. The limit is the
                                  middle between the mean logits of training samples and of fakes
    d_right_held_out   0 to 1     the same for samples that are not trained on; absent if there are
                                  none. If it is far below d_right_train, D has memorised its data
    d_right_fakes      0 to 1     share of fakes that D takes for fakes; 0.5 of all three: D cannot tell
    dead_units         0 to 1     share of hidden units of G that have the same value for every noise
    d_gradient         from 0     Euclidean norm of D's gradient on one batch, without a penalty
    g_gradient         from 0     the same of G's gradient
    check_seconds      from 0     time of the check, which is not part of `seconds`

The features are those of `features.describe`, standardised with the mean and standard deviation of
real samples. `players` measures the figures of the networks. All figures of samples use the
generator from which samples are drawn, and FAKES fakes with labels in the shares of the data.
"""

import numpy as np

from minigan.metrics.distances import Neighbourhoods
from minigan.metrics.features import Standardiser

FIGURES = (
    "modes",
    "modes_covered",
    "evenness",
    "near",
    "variety",
    "nearest_fake",
    "copies",
    "coverage",
    "labels_followed",
    "labels_known",
    "d_right_train",
    "d_right_held_out",
    "d_right_fakes",
    "dead_units",
    "d_gradient",
    "g_gradient",
    "check_seconds",
)
REAL = 1600  # real samples in the reference
FAKES = 320  # fakes in a check
COMPARED = 320  # of the real samples, at most so many are compared with the others, as fakes are
MIN_REAL = 40  # with fewer real samples, there is no reference
CELLS = 20  # cells of k-means
IN_CELL = 10  # a cell has at least so many real samples on average
KNOWN = 0.8  # share of real samples assigned to their class, from which the classes are the modes
LEAST = 0.1  # a mode is covered if it has at least this part of its share
SLACK = 1.25  # a fake is near a mode within this multiple of the distance of 99% of real samples
COPY = 0.01  # a copy is nearer than this part of the standard deviation within modes
FLOOR = 0.2  # of the mean standard deviation, by which a feature is at least divided
SHRINKAGE = 0.01  # part of the mean variance that is added to each variance within classes


class Reference:
    """What real samples look like, with which fakes are compared.

    `features` (N, F) describe real samples in random order, and `labels` (N,) are their classes,
    if they have any. A fifth of the samples, at most COMPARED, are compared with the rest as fakes
    will be. Raises ValueError for fewer than MIN_REAL samples.
    """

    def __init__(self, features: np.ndarray, labels: np.ndarray | None, rng: np.random.Generator):
        if len(features) < MIN_REAL:
            raise ValueError(f"a reference needs at least {MIN_REAL} real samples, got {len(features)}")
        size = min(COMPARED, len(features) // 5)
        self.standardise = Standardiser(features[size:], FLOOR)
        self.rest, self.other = self.standardise(features[size:]), self.standardise(features[:size])
        self.neighbours = Neighbourhoods(self.other)
        self.classes = None if labels is None else Classes(self.rest, labels[size:])
        if self.classes is not None:
            assert labels is not None
            right = float((self.classes(self.other)[0] == labels[:size]).mean())
            self.known = right >= KNOWN
            self.chance = float(((np.bincount(labels) / len(labels)) ** 2).sum())
            self.labels_known = self._above_chance(right)
        else:
            self.known = False
        self.modes: Classes | Cells
        self.modes = self.classes if self.known and self.classes else Cells(self.rest, rng)
        # Distances are relative to the median of the mode, so that the quantile is of all modes together.
        mode, distance = self.modes(self.rest)
        count = len(self.modes.centres)
        self.median = np.array([np.median(distance[mode == k]) if (mode == k).any() else 0.0 for k in range(count)])
        self.median = np.maximum(self.median, 1e-3 * self.median.max() + 1e-12)
        other_mode, other_distance = self.modes(self.other)
        self.reach = SLACK * float(np.quantile(other_distance / self.median[other_mode], 0.99))
        every = np.concatenate([mode, other_mode])
        self.share = np.bincount(every, minlength=count) / len(every)
        within_reach = distance <= self.reach * self.median[mode]
        self.variance = within(self.rest[within_reach], mode[within_reach], count)[1]
        self.spread = float(np.sqrt((self.share * self.variance).sum()))
        self.distance = float(np.median(nearest_other(self.other)))

    def missing(self, features: np.ndarray) -> list[int]:
        """Return the modes in which fakes (M, F) have less than LEAST of the share of real samples."""
        near, mode = self._near(self.standardise(features))
        return np.flatnonzero(~self._covered(mode[near], len(features)) & (self.share > 0)).tolist()

    def shares(self, features: np.ndarray) -> np.ndarray:
        """Return the share (K,) of the fakes (M, F) that is nearest to each mode."""
        mode, _ = self.modes(self.standardise(features))
        return np.bincount(mode, minlength=len(self.share)) / len(features)

    def _near(self, fakes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return whether each of the standardised fakes (M, F) is near a mode, bool (M,), and the nearest mode (M,)."""
        mode, distance = self.modes(fakes)
        return distance <= self.reach * self.median[mode], mode

    def _covered(self, mode: np.ndarray, count: int) -> np.ndarray:
        """Return whether each mode is covered, bool (K,), by the modes of the fakes near one, of `count` in all."""
        found = np.bincount(mode, minlength=len(self.share))
        return (found >= np.maximum(1, LEAST * self.share * count)) & (self.share > 0)

    def compare(self, features: np.ndarray, labels: np.ndarray | None = None) -> dict[str, float]:
        """Return the figures of fakes (M, F), which were asked for the classes `labels` (M,), if there are any."""
        fakes = self.standardise(features)
        count = len(self.modes.centres)
        near, mode = self._near(fakes)
        found = np.bincount(mode[near], minlength=count)
        covered = self._covered(mode[near], len(fakes))
        shares = found / max(1, found.sum())
        size, variance = within(fakes[near], mode[near], count)
        several = (size > 1) & (self.variance > 0)
        expected = (size * self.variance)[several].sum()
        pairs = nearest_other(fakes[: len(self.other)])
        figures = {
            "modes": int((self.share > 0).sum()),
            "modes_covered": int(covered.sum()),
            "evenness": float(1 - np.abs(shares - self.share).sum() / 2) if found.any() else 0.0,
            "near": float(near.mean()),
            "nearest_fake": float(np.median(pairs)) / max(self.distance, 1e-12),
            "copies": float((pairs < COPY * self.spread).mean()),
            "coverage": float(self.neighbours.memberships(fakes)[1].mean()),
        }
        if expected > 0:
            figures["variety"] = float(np.sqrt((size * variance)[several].sum() / expected))
        if self.classes is not None and labels is not None:
            figures["labels_followed"] = self._above_chance(float((self.classes(fakes)[0] == labels).mean()))
            figures["labels_known"] = self.labels_known
        return figures

    def _above_chance(self, right: float) -> float:
        """Return which part of the samples that chance gets wrong are right. With one class, it is `right`."""
        return (right - self.chance) / (1 - self.chance) if self.chance < 1 else right


class Classes:
    """Assigns samples to the class with the nearest mean. Distances are relative to the variance within classes.

    This is linear discriminant analysis (Hastie, Tibshirani and Friedman 2009, "The elements of
    statistical learning", section 4.3) with equal shares. It needs no training steps.
    """

    def __init__(self, features: np.ndarray, labels: np.ndarray):
        counts = np.bincount(labels)
        means = np.stack([features[labels == k].mean(axis=0) if n else np.zeros_like(features[0])
                          for k, n in enumerate(counts)])  # fmt: skip
        rest = features - means[labels]
        covariance = rest.T @ rest / len(rest)  # (F, F)
        covariance += (SHRINKAGE * np.trace(covariance) / len(covariance) + 1e-12) * np.eye(len(covariance))
        values, vectors = np.linalg.eigh(covariance)
        self.whiten = vectors / np.sqrt(values)  # (F, F)
        self.centres = means @ self.whiten  # (K, F)
        self.centres[counts == 0] = np.inf  # a class without samples is never the nearest

    def __call__(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the class (M,) of features (M, F), and the distance (M,) to its mean."""
        return nearest_centre(features @ self.whiten, self.centres)


class Cells:
    """Assigns samples to cells of real samples: k-means with up to CELLS centres.

    The centres start at real samples that are far apart (Arthur and Vassilvitskii 2007, "k-means++"),
    and move to the mean of their cell (Lloyd 1982).
    """

    def __init__(self, features: np.ndarray, rng: np.random.Generator, steps: int = 20):
        count = max(1, min(CELLS, len(features) // IN_CELL))
        chosen = [int(rng.integers(len(features)))]
        squares = ((features - features[chosen[0]]) ** 2).sum(axis=1)
        while len(chosen) < count and squares.sum() > 0:
            chosen.append(int(rng.choice(len(features), p=squares / squares.sum())))
            squares = np.minimum(squares, ((features - features[chosen[-1]]) ** 2).sum(axis=1))
        self.centres = features[chosen].copy()  # (K, F)
        before: np.ndarray | None = None
        for _ in range(steps):
            cell = nearest_centre(features, self.centres)[0]
            if before is not None and np.array_equal(cell, before):
                break
            for k in np.unique(cell):
                self.centres[k] = features[cell == k].mean(axis=0)
            before = cell

    def __call__(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the cell (M,) of features (M, F), and the distance (M,) to its centre."""
        return nearest_centre(features, self.centres)


def nearest_centre(x: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the index (M,) of the centre (K, F) that is nearest to each row of x (M, F), and the distance (M,)."""
    valid = np.flatnonzero(np.isfinite(centres).all(axis=1))
    index = valid[_squares(x, centres[valid]).argmin(axis=1)]
    return index, np.sqrt(((x - centres[index]) ** 2).sum(axis=1))


def nearest_other(x: np.ndarray) -> np.ndarray:
    """Return the distance (M,) of each row of x (M, F) to the nearest other row."""
    squares = _squares(x, x)
    np.fill_diagonal(squares, np.inf)
    index = squares.argmin(axis=1)
    return np.sqrt(((x - x[index]) ** 2).sum(axis=1))  # exact, because the differences of squares above round


def within(x: np.ndarray, mode: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of rows of x (M, F) in each mode, and their variance (K,): the sum over the features.

    The variance of a mode with fewer than two rows is 0.
    """
    size = np.bincount(mode, minlength=count)
    variance = np.zeros(count)
    for k in np.flatnonzero(size > 1):
        variance[k] = x[mode == k].var(axis=0, ddof=1).sum()
    return size, variance


def _squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return |a - b|^2 (M, K) for all pairs of rows of a (M, F) and b (K, F)."""
    return np.maximum((a * a).sum(axis=1)[:, None] - 2 * a @ b.T + (b * b).sum(axis=1), 0)
