"""Find the training rows that are nearest to other rows of a table, and copies of training rows.

The squared distance of two rows is the sum over their columns:

    numbers, dates   (x - x')^2 / s^2      s: the standard deviation of the training rows
    categories       0 if equal, otherwise 1
    missing          0 if both are missing, 1 if one of the two is (also of numbers)

So a number that differs by one standard deviation weighs as much as another category. An infinite
number differs by 1 from all others. A column of numbers that is constant in the training rows counts
as a category.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from minigan.datasets.table_values import is_number, numbers, row_keys

if TYPE_CHECKING:
    import pandas as pd

BLOCK = (
    100_000  # pairs of rows that are compared at a time. Their arrays fit in the L2 cache, and so take half the time
)
FARTHEST = 1e6  # standard deviations; larger numbers count as this one, so that float32 can represent the square
ROWS = 5_000  # maximum number of rows whose nearest training row is found
PAIRS = 500_000_000  # maximum number of pairs of rows that are compared for this


class Encoded(NamedTuple):
    """Rows of a table as `squares` compares them."""

    numbers: np.ndarray  # float32 (F, N), in standard deviations; NaN is missing or infinite
    codes: np.ndarray  # uint32 (C, N): categories, and for numbers what they are if they are not finite

    def rows(self, index: np.ndarray) -> "Encoded":
        """Return the rows of index (M,)."""
        return Encoded(self.numbers[:, index], self.codes[:, index])


class Space:
    """Encodes rows of tables, so that their distances to training rows can be computed."""

    def __init__(self, training: "pd.DataFrame", kinds: Mapping[Any, str]):
        import pandas as pd

        self.kinds = dict(kinds)
        self.scales: dict[Any, tuple[float, float]] = {}  # mean and standard deviation
        self.values: dict[Any, pd.Index] = {}  # of categories
        for name, kind in kinds.items():
            if is_number(kind):
                self.scales[name] = mean_and_deviation(numbers(training[name], kind))
            else:
                self.values[name] = pd.Index(training[name].astype(object).dropna().unique())

    def __call__(self, frame: "pd.DataFrame") -> Encoded:
        """Encode the rows of a frame."""
        scaled, found = [], []
        for name, kind in self.kinds.items():
            if is_number(kind):
                x, (mean, deviation) = numbers(frame[name], kind), self.scales[name]
                state = np.select([np.isnan(x), x == np.inf, x == -np.inf], [1, 2, 3], 0)
                if deviation > 0:
                    z = np.clip((x - mean) / deviation, -FARTHEST, FARTHEST)
                    scaled.append(np.where(state == 0, z, np.nan))
                else:
                    state[(state == 0) & (x != mean)] = 4
                found.append(state)
            else:
                code = self.values[name].get_indexer(frame[name].astype(object))  # -1: no training row has it
                found.append(np.where(frame[name].isna(), 0, code + 2))
        return Encoded(
            np.array(scaled, np.float32).reshape(len(scaled), len(frame)),
            np.array(found, np.uint32).reshape(len(found), len(frame)),
        )


def mean_and_deviation(x: np.ndarray) -> tuple[float, float]:
    """Return the mean and the standard deviation of the finite numbers among x (N,).

    The deviation is 0 if they are all equal, and both are 0 if there are none.
    """
    x = x[np.isfinite(x)]
    if not len(x) or x.min() == x.max():
        return (float(x[0]) if len(x) else 0.0), 0.0
    largest = np.abs(x).max()
    scaled = x / largest  # so that no square is infinite
    return float(scaled.mean() * largest), float(scaled.std() * largest)


def squares(a: Encoded, b: Encoded) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield the squared distances, float32 (rows, M), of blocks of rows of a to all M rows of b.

    Each comes with the slice of the block.
    """
    N, M = a.codes.shape[1], b.codes.shape[1]
    step = max(1, BLOCK // max(1, M))
    # A column in which all rows agree adds nothing. This saves time, because few numbers are missing.
    differ = [k for k in range(len(a.codes)) if len(np.unique(np.concatenate([a.codes[k], b.codes[k]]))) > 1]
    both = (a.codes[differ], b.codes[differ])
    if max(codes.max(initial=0) for codes in both) < 256:
        both = (both[0].astype(np.uint8), both[1].astype(np.uint8))  # compared four times as fast
    absent = np.isnan(a.numbers).any(axis=1) | np.isnan(b.numbers).any(axis=1)  # (F,)
    for start in range(0, N, step):
        rows = slice(start, min(start + step, N))
        total = np.zeros((rows.stop - start, M), np.float32)
        for k in range(len(a.numbers)):
            difference = a.numbers[k, rows, None] - b.numbers[k]
            if absent[k]:
                difference[np.isnan(difference)] = 0  # the codes count these
            difference *= difference
            total += difference
        different = np.zeros(total.shape, np.uint16)
        for x, y in zip(*both, strict=True):
            different += x[rows, None] != y
        total += different
        yield rows, total


def to_closest(a: Encoded, training: Encoded, own: np.ndarray | None = None) -> np.ndarray:
    """Return the distance (N,) of each row of `a` to the nearest training row.

    If the rows of `a` are training rows themselves, `own` (N,) are their indices, and each row is
    compared with the others.
    """
    found = np.zeros(a.codes.shape[1])
    for rows, block in squares(a, training):
        if own is not None:
            block[np.arange(len(block)), own[rows]] = np.inf
        found[rows] = np.sqrt(block.min(axis=1))
    return found


def median_distance(
    space: Space, rows: "pd.DataFrame | None", training: "pd.DataFrame", rng: np.random.Generator
) -> float:
    """Return the median distance of rows to the nearest training row.

    Of more than ROWS rows, or if there are more than PAIRS pairs, rows are chosen at random. Without
    `rows`, each training row is compared with the others, which estimates the distance of real rows that
    are not trained on. It is then NaN for fewer than 2 rows.
    """
    count = len(training if rows is None else rows)
    chosen = rng.permutation(count)[: max(1, min(ROWS, PAIRS // max(1, len(training))))]
    encoded = space(training)
    if rows is not None:
        return float(np.median(to_closest(space(rows.iloc[chosen]), encoded)))
    if count < 2:
        return float("nan")
    return float(np.median(to_closest(encoded.rows(chosen), encoded, own=chosen)))


def copies(rows: "pd.DataFrame | None", training: "pd.DataFrame", kinds: Mapping[Any, str]) -> float:
    """Return the share of rows that are equal to a training row in all columns.

    Without `rows`, it is the share of training rows that are equal to another one.
    """
    if rows is None:
        (keys,) = row_keys([training], kinds)
        return float((np.bincount(keys)[keys] > 1).mean())
    own, others = row_keys([rows, training], kinds)
    return float(np.isin(own, others).mean())
