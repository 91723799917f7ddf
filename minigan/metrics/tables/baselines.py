"""Two simple ways to make fakes, as baselines: a Gaussian copula for each class, and SMOTE.

Both return a data frame with the columns and types of the training rows. All values are observed
ones, except numbers of SMOTE, which are between two observed ones. Classes have their shares of the
training rows. If the target is no category, all rows are one class.
"""

from collections.abc import Mapping
from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from minigan.datasets.table_values import codes, is_number, numbers
from minigan.metrics.tables.nearest import Space, squares

if TYPE_CHECKING:
    import pandas as pd

NEIGHBOURS = 5
SMOTE_ROWS = 50_000  # of more training rows, so many at random


def classes_of(training: "pd.DataFrame", kinds: Mapping[Any, str], target: Any) -> np.ndarray:
    """Return the class of each training row, int (N,). A missing target is a class, too."""
    if target is None or is_number(kinds[target]):
        return np.zeros(len(training), int)
    return np.unique(codes([training[target]])[0], return_inverse=True)[1]


def gaussian_copula(
    training: "pd.DataFrame", count: int, kinds: Mapping[Any, str], target: Any, rng: np.random.Generator
) -> "pd.DataFrame":
    """Draw `count` rows whose columns have the observed distributions and, within a class, correlated ranks.

    The values of a column in a class become ranks, with equal values in random order and categories
    ordered by their frequency, and the ranks become quantiles of a normal distribution. A column with missing
    values has another one that says which are missing. A new row is a sample of a normal distribution with the
    correlations of all these columns, each over the rows in which both have a value. The quantiles of the
    sample lead back to observed values. This is the copula of Patki, Wedge and Veeramachaneni 2016,
    "The synthetic data vault", section 3, with the observed distributions in place of fitted ones.
    """
    import pandas as pd

    label = classes_of(training, kinds, target)
    drawn = label[rng.integers(len(label), size=count)]
    chosen = {name: np.zeros(count, int) for name in kinds}  # the training row whose value a new row has
    keys = {name: sort_key(training[name], kind) for name, kind in kinds.items()}
    for c in np.unique(drawn):
        rows, new = np.flatnonzero(label == c), np.flatnonzero(drawn == c)
        values = [ranks(keys[name][rows], rng) for name in kinds]
        presence = [ranks(np.where(np.isnan(z).any(), np.isfinite(z), -1), rng) for _, z in values]
        root = root_of_correlations(np.stack([z for _, z in (*values, *presence)], axis=1))
        sample = rng.standard_normal((len(new), len(root))) @ root.T
        for k, name in enumerate(kinds):
            row = of_quantiles(values[k][0], sample[:, k])
            if len(presence[k][0]):  # some values are missing
                as_row = of_quantiles(presence[k][0], sample[:, len(kinds) + k])
                row = np.where((keys[name][rows] < 0)[as_row], as_row, row)
            chosen[name][new] = rows[row]
    return pd.DataFrame({name: training[name].take(chosen[name]).reset_index(drop=True) for name in kinds})


def ranks(key: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of the keys (N,) that are not negative, in their order, and their quantiles (N,), others NaN.

    Equal keys are in random order.
    """
    order = np.lexsort((rng.random(len(key)), key))[(key < 0).sum() :]
    z = np.full(len(key), np.nan)
    z[order] = quantiles(len(order))[0]
    return order, z


def of_quantiles(order: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Return the places (M,) of the values that quantiles z (M,) lead to. `order` (n,) are the places by value.

    Without values, it is the first place, whose value is missing.
    """
    return order[quantiles(len(order))[1].searchsorted(z)] if len(order) else np.zeros(len(z), int)


@lru_cache(maxsize=64)
def quantiles(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the middles (n,) of n equally likely intervals of a normal distribution, and their limits (n - 1,)."""
    middles, limits = ([NormalDist().inv_cdf(i / n) for i in x] for x in (np.arange(n) + 0.5, np.arange(1, n)))
    return np.array(middles), np.array(limits)


def root_of_correlations(z: np.ndarray) -> np.ndarray:
    """Return R (L, L) such that R R' has the correlations of the columns of z (N, L), whose means are 0.

    Each is over the rows in which both columns have a value, and 0 if there are none. The matrix of such correlations
    may have negative eigenvalues, which become 0.
    """
    there = np.isfinite(z).astype(float)
    z = np.nan_to_num(z)
    squares = (z**2).T @ there  # (L, L): of column i, over the rows in which column j has a value
    scale = np.sqrt(squares * squares.T)
    correlations = np.divide(z.T @ z, scale, out=np.zeros_like(scale), where=scale > 0)
    np.fill_diagonal(correlations, 1)
    values, vectors = np.linalg.eigh(correlations)
    root = vectors * np.sqrt(np.maximum(values, 0))
    return root / np.linalg.norm(root, axis=1, keepdims=True)


def sort_key(column: "pd.Series", kind: str) -> np.ndarray:
    """Return a key (N,) that orders the values, from 0: categories by their frequency. -1 is missing."""
    import pandas as pd

    if is_number(kind):
        return pd.factorize(numbers(column, kind), sort=True)[0]
    (code,) = codes([column])
    counts = np.bincount(code[code >= 0])
    rank = np.append((-counts).argsort(kind="stable").argsort(), -1)  # the last one is that of code -1
    return rank[code]


def smote(
    training: "pd.DataFrame", count: int, kinds: Mapping[Any, str], target: Any, rng: np.random.Generator
) -> "pd.DataFrame":
    """Draw `count` rows, each between a training row and one of its nearest neighbours of the same class.

    Numbers are interpolated at a place that is random for each row, and rounded as those of the column are.
    If one of the two is missing or infinite, the nearer one is taken. Categories are the most frequent
    ones among the neighbours. This is SMOTE-NC (Chawla et al. 2002, "SMOTE: synthetic minority
    over-sampling technique", section 6.1) with the distance of `nearest`, applied to all classes.
    """
    import pandas as pd

    training = training.iloc[rng.permutation(len(training))[:SMOTE_ROWS]].reset_index(drop=True)
    label, encoded = classes_of(training, kinds, target), Space(training, kinds)(training)
    base = np.resize(rng.permutation(len(training)), count)
    neighbours = np.zeros((len(training), NEIGHBOURS), int)
    for c in np.unique(label[base]):
        rows, asked = np.flatnonzero(label == c), np.unique(base[label[base] == c])
        number = min(NEIGHBOURS, len(rows) - 1)
        if number == 0:
            neighbours[rows] = rows[:, None]  # a class of one row is repeated
            continue
        others = encoded.rows(rows)
        for block, distances in squares(encoded.rows(asked), others):
            distances[np.arange(len(distances)), np.searchsorted(rows, asked[block])] = np.inf
            nearest = np.empty((len(distances), number), int)
            for k in range(number):  # several minima of a row take less time than to sort it in part
                nearest[:, k] = distances.argmin(axis=1)
                distances[np.arange(len(distances)), nearest[:, k]] = np.inf
            neighbours[asked[block]] = np.take(rows[nearest], np.arange(NEIGHBOURS) % number, axis=1)
    around = neighbours[base]  # (count, NEIGHBOURS), from the nearest
    partner = around[np.arange(count), rng.integers(NEIGHBOURS, size=count)]
    share = rng.random(count)
    result = {}
    for name, kind in kinds.items():
        if is_number(kind):
            result[name] = interpolated(training[name], kind, base, partner, share)
        else:
            (code,) = codes([training[name]])
            votes = (code[around][:, :, None] == code[around][:, None, :]).sum(axis=2)
            winner = around[np.arange(count), votes.argmax(axis=1)]  # of equal numbers of votes, the nearest
            result[name] = training[name].take(winner).reset_index(drop=True)
    return pd.DataFrame(result)


def interpolated(
    column: "pd.Series", kind: str, base: np.ndarray, partner: np.ndarray, share: np.ndarray
) -> "pd.Series":
    """Return (1 - share) x + share x' for values x of the rows `base` (M,) and x' of the rows `partner` (M,).

    It is rounded to the grid of the column: whole numbers, its decimals, or whole days, hours and so on.
    """
    import pandas as pd

    x = numbers(column, kind)
    finite = x[np.isfinite(x)]
    new = np.where(share < 0.5, x[base], x[partner])
    both = np.isfinite(x[base]) & np.isfinite(x[partner])
    between = x[base[both]] * (1 - share[both]) + x[partner[both]] * share[both]
    if kind != "date":
        new[both] = rounded(between, 0 if kind == "integer" else decimals(finite))
        return pd.Series(new).astype(column.dtype)
    if len(finite):
        least = finite.min()
        step = max(1, int(np.gcd.reduce((finite - least).astype(np.int64))))  # microseconds
        new[both] = np.rint((between - least) / step) * step + least
    dates = pd.Series(np.where(np.isnan(new), np.datetime64("NaT"), np.nan_to_num(new).astype("datetime64[us]")))
    zone = getattr(column.dtype, "tz", None)
    return (dates if zone is None else dates.dt.tz_localize("UTC")).astype(column.dtype)


def decimals(x: np.ndarray) -> int:
    """Return the smallest number of decimals, at most 15, with which all numbers of x (N,) can be written."""
    return next((d for d in range(15) if np.array_equal(rounded(x, d), x)), 15)


def rounded(x: np.ndarray, decimals: int) -> np.ndarray:
    """Return numbers (N,) rounded to so many decimals. Those that float64 cannot round so finely stay as they are."""
    coarse = np.abs(x) >= 1e15 / 10**decimals
    return np.where(coarse, x, np.round(np.where(coarse, 0, x), decimals))
