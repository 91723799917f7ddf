"""Compare the columns of two tables, and their pairs, by the definitions of SDMetrics.

    shapes    of a column of numbers or dates: 1 - the Kolmogorov-Smirnov statistic; of a category:
              1 - the total variation distance. Missing values are left out
    missing   1 - the difference of the shares of missing values of a column
    pairs     of two numbers or dates: 1 - half the difference of the Pearson correlations, over the
              rows in which both are finite. Of two categories: 1 - the total variation distance of
              their joint distributions, in which a missing value is a value. Of a number and a
              category: the same, with the number in BINS bins of equal width from the least to the
              largest real one; what is outside counts in the outer bins

1 is best, and 0 worst. They are KSComplement, TVComplement, MissingValueSimilarity,
CorrelationSimilarity and ContingencySimilarity of SDMetrics (https://docs.sdv.dev/sdmetrics), which
tests/test_table_metrics.py has as an oracle. Its QualityReport differs in two ways: its mean counts
only the pairs in which the real columns depend on each other (`strong` has these), and it divides the
range of the fakes into bins of their own, so that equal numbers may be in different bins.

A score that is not defined, such as the correlation with a constant column, is NaN here and does not
count in a mean, as in SDMetrics.
"""

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from minigan.datasets.table_values import codes, is_number, numbers

if TYPE_CHECKING:
    import pandas as pd

BINS = 10
STRONG_CORRELATION, STRONG_ASSOCIATION = 0.5, 0.3  # the limits of QualityReport


def shapes(real: "pd.DataFrame", fakes: "pd.DataFrame", kinds: Mapping[Any, str]) -> dict[Any, float]:
    """Return the similarity of each column's distribution. It is NaN if all values of either are missing."""
    found = {}
    for name, kind in kinds.items():
        if is_number(kind):
            a, b = numbers(real[name], kind), numbers(fakes[name], kind)
            found[name] = 1 - kolmogorov_smirnov(a[~np.isnan(a)], b[~np.isnan(b)])
        else:
            a, b = codes([real[name], fakes[name]])
            found[name] = 1 - total_variation(a[a >= 0], b[b >= 0])
    return found


def missing(real: "pd.DataFrame", fakes: "pd.DataFrame", kinds: Mapping[Any, str]) -> dict[Any, float]:
    """Return the similarity of the shares of missing values, for each column that has any in either table."""
    shares = {name: (float(real[name].isna().mean()), float(fakes[name].isna().mean())) for name in kinds}
    return {name: 1 - abs(a - b) for name, (a, b) in shares.items() if a or b}


def kolmogorov_smirnov(a: np.ndarray, b: np.ndarray) -> float:
    """Return the largest difference of the distribution functions of a (N,) and b (M,), NaN if one is empty."""
    if not len(a) or not len(b):
        return float("nan")
    a, b = np.sort(a), np.sort(b)
    x = np.concatenate([a, b])
    return float(np.abs(a.searchsorted(x, "right") / len(a) - b.searchsorted(x, "right") / len(b)).max())


def total_variation(a: np.ndarray, b: np.ndarray) -> float:
    """Return half the sum of |share in a - share in b| over the values of integers a (N,) and b (M,).

    It is NaN if one of the two is empty.
    """
    import pandas as pd

    if not len(a) or not len(b):
        return float("nan")
    cell, values = pd.factorize(np.concatenate([a, b]))
    p, q = (np.bincount(part, minlength=len(values)) / len(part) for part in (cell[: len(a)], cell[len(a) :]))
    return float(np.abs(p - q).sum() / 2)


class Pairs(NamedTuple):
    """What `pairs` returns: three symmetric arrays (K, K) for K columns, with 1 on the diagonal.

    `real` and `fakes` have the Pearson correlation of two numbers, and Cramer's V of other pairs.
    """

    names: list
    similarity: np.ndarray
    real: np.ndarray
    fakes: np.ndarray
    strong: np.ndarray  # bool (K, K): pairs of real columns that depend on each other

    def mean(self, strong: bool = False) -> float:
        """Return the mean similarity of the defined pairs, or only of the strong ones. It is NaN if there are none."""
        chosen = np.triu(np.isfinite(self.similarity), 1) & (self.strong | (not strong))
        return float(self.similarity[chosen].mean()) if chosen.any() else float("nan")


def pairs(real: "pd.DataFrame", fakes: "pd.DataFrame", kinds: Mapping[Any, str]) -> Pairs:
    """Compare all pairs of columns."""
    names = list(kinds)
    values, cells = {}, {}
    for name, kind in kinds.items():
        if is_number(kind):
            values[name] = [numbers(frame[name], kind) for frame in (real, fakes)]
            cells[name] = binned(*values[name])
        else:
            cells[name] = [found + 1 for found in codes([real[name], fakes[name]])]  # 0 is missing
    similarity, of_real, of_fakes = (np.eye(len(names)) for _ in range(3))
    strong = np.zeros((len(names), len(names)), bool)
    for i, j in itertools.combinations(range(len(names)), 2):
        both = names[i], names[j]
        if both[0] in values and both[1] in values:
            r, s = (correlation(values[both[0]][k], values[both[1]][k]) for k in range(2))
            score, limit = 1 - abs(r - s) / 2, STRONG_CORRELATION
        else:
            width = max(int(found.max(initial=0)) for found in cells[both[1]]) + 1
            joint = [cells[both[0]][k] * width + cells[both[1]][k] for k in range(2)]
            r, s = (association(cells[both[0]][k], cells[both[1]][k], joint[k]) for k in range(2))
            score, limit = 1 - total_variation(*joint), STRONG_ASSOCIATION
        for array, value in ((similarity, score), (of_real, r), (of_fakes, s), (strong, abs(r) > limit)):
            array[i, j] = array[j, i] = value
    return Pairs(names, similarity, of_real, of_fakes, strong)


def binned(real: np.ndarray, fakes: np.ndarray) -> list[np.ndarray]:
    """Return the bins of numbers (N,) and (M,): 1 to BINS, as divides the range of the real ones; 0 is missing."""
    edges = np.histogram_bin_edges(real[np.isfinite(real)], BINS)[1:-1]
    return [np.where(np.isnan(x), 0, np.digitize(x, edges) + 1) for x in (real, fakes)]


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Return the Pearson correlation of x (N,) and y (N,) over the rows in which both are finite.

    It is NaN if x or y is constant.
    """
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    if not len(x) or x.min() == x.max() or y.min() == y.max():
        return float("nan")
    x, y = (v / np.abs(v).max() for v in (x, y))  # so that no square is infinite or subnormal
    x, y = (v - v.mean() for v in (x, y))
    length = np.sqrt((x @ x) * (y @ y))
    return float(np.clip(x @ y / length, -1, 1)) if length else float("nan")


def association(a: np.ndarray, b: np.ndarray, joint: np.ndarray) -> float:
    """Return Cramer's V of the values a (N,) and b (N,), which `joint` (N,) numbers together.

        V^2 = (sum_ij n_ij^2 / (n_i n_j) - 1) / (min(I, J) - 1)      n_ij rows have values i and j

    It is 0 for independent values, and 1 if one of the two follows from the other. It is NaN if a
    or b is constant. Only values that occur are counted, because all pairs may be too many.
    """
    import pandas as pd

    (a_cell, a_values), (b_cell, b_values), (cell, cells) = (pd.factorize(x) for x in (a, b, joint))
    least = min(len(a_values), len(b_values))
    if least < 2:
        return float("nan")
    first = np.zeros(len(cells), np.int64)
    first[cell] = np.arange(len(cell))  # a row of each cell
    count, n_a, n_b = np.bincount(cell), np.bincount(a_cell), np.bincount(b_cell)
    total = (count.astype(float) ** 2 / (n_a[a_cell[first]].astype(float) * n_b[b_cell[first]])).sum() - 1
    return float(np.sqrt(np.clip(total / (least - 1), 0, 1)))
