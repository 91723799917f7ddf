"""Encode the values of a column of a table as features of a row, and decode features to values.

A column has at most one number in [-1, 1] and at most one one-hot group:

    Category    a group: one feature for each value, one for rare values, one for missing values
    Number      a number, the rank of the value; and a group (ordinary, frequent values, missing) if there are such
    Constant    nothing, because every row has the same value

Every class is a dataclass whose fields JSON can represent, because checkpoints store them. Values come as `Values`,
without pandas; `column_kinds` converts a pandas Series to them and back.
"""

import base64
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from minigan.backends import mix64, reference
from minigan.datasets.labels import natural

FEW = 100  # numbers with at most so many different values are a category
EACH = 5  # but only if a value has so many rows on average; otherwise a table of 50 rows would have 50 categories
ALWAYS = 10  # this few different values are always a category
MOST = 1000  # the widest group, without the feature for missing values
FREQUENT = 0.05  # a value of a Number with a larger share of the rows has a feature in its group
AT_LEAST = 10  # and so many rows, because in a small table every value has a large share
KNOTS = 100_000  # different values up to which a Number stores all of them: 5 MB of a checkpoint for each column
LONG = 1000  # a longer list of numbers is stored as text
STORED = {"int64": np.int64, "uint64": np.uint64, "float64": np.float64, "bool": np.bool_, "text": object}


class Values(NamedTuple):
    """The values of a column: the value of row i is `different[codes[i]]`, or missing if codes[i] is -1."""

    different: np.ndarray  # (K,), sorted, without missing values; of a dtype in STORED
    codes: np.ndarray  # (N,) int64

    @property
    def counts(self) -> np.ndarray:
        """The number of rows (K,) of each value."""
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self.different))

    @property
    def missing(self) -> int:
        """The number of rows without a value."""
        return int((self.codes < 0).sum())


class Encoded(NamedTuple):
    """A column of N rows as features."""

    number: np.ndarray | None  # (N,) float32 in [-1, 1]
    choice: np.ndarray | None  # (N,) int64, the index of the 1 in the one-hot group


class Decoded(NamedTuple):
    """A column of N rows as values. The value of a missing one has no meaning."""

    values: np.ndarray  # (N,)
    missing: np.ndarray  # (N,) bool


def sort(different: np.ndarray, codes: np.ndarray) -> Values:
    """Return Values with the different values (K,) sorted: numbers by value, text in natural order."""
    if different.dtype == object:
        order = np.array(sorted(range(len(different)), key=lambda i: natural(str(different[i]))), np.int64)
    else:
        order = np.argsort(different, kind="stable")
    place = np.empty(len(order) + 1, np.int64)
    place[order] = np.arange(len(order))
    place[-1] = -1  # of codes -1
    return Values(different[order], place[codes])


def to_json(values: np.ndarray) -> list:
    """Convert values (K,) to a list that JSON can represent. Infinite numbers become text."""
    return [str(v) if isinstance(v, float) and np.isinf(v) else v for v in values.tolist()]


def from_json(values: list, stored: str) -> np.ndarray:
    """Convert the list of `to_json` to an array (K,) of the dtype STORED[stored]."""
    if stored == "float64":
        values = [float(v) for v in values]
    result: np.ndarray = np.empty(len(values), STORED[stored])
    result[:] = values
    return result


def packed(values: list) -> list | dict:
    """Return a list as it is, or a long list of numbers as base64, because a checkpoint needs much time for lists.

    The text has whole numbers of `size` bytes. They are the values as multiples of 10^-decimals, or the bits of float64
    if `decimals` is None, or from the second value on the differences (modulo 2^64) if these are smaller.
    """
    types = {type(value) for value in values}
    if len(values) <= LONG or types not in ({int}, {float}):
        return values
    is_float, negative = types == {float}, min(values) < 0
    array = np.array(values, np.float64 if is_float else np.int64 if negative else np.uint64)
    decimals = decimals_of(array, array.dtype) if is_float else 0
    if is_float and decimals is not None:
        whole = np.rint(array * 10.0**decimals).astype(np.int64).view(np.uint64)
    else:
        whole = array.view(np.uint64)
    steps = np.diff(whole)
    first = int(whole[0]) if steps.max() < whole.max() else None
    body = whole if first is None else steps
    size = next(size for size in (1, 2, 4, 8) if int(body.max()) < 256**size)
    text = base64.b64encode(body.astype(f"<u{size}").tobytes()).decode()
    return dict(packed=text, size=size, first=first, decimals=decimals, is_float=is_float, negative=negative)


def unpacked(fields: list | dict) -> list:
    """Return the list that `packed` was given."""
    if isinstance(fields, list):
        return fields
    whole = np.frombuffer(base64.b64decode(fields["packed"]), f"<u{fields['size']}").astype(np.uint64)
    if fields["first"] is not None:
        whole = np.cumsum(np.append(np.uint64(fields["first"]), whole), dtype=np.uint64)
    if not fields["is_float"]:
        return (whole.view(np.int64) if fields["negative"] else whole).tolist()
    decimals = fields["decimals"]
    return (whole.view(np.float64) if decimals is None else whole.view(np.int64) / 10.0**decimals).tolist()


def positions(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return the index (K,) in `known` of each of the values (K,), or -1."""
    place = {value: i for i, value in enumerate(known.tolist())}
    return np.array([place.get(value, -1) for value in values.tolist()], np.int64)


def as_rows(of_values: np.ndarray, codes: np.ndarray, of_missing: int) -> np.ndarray:
    """Return the entry for each row (N,), given that of each different value (K,) and that of a missing one."""
    return np.append(of_values, of_missing)[codes]  # code -1 takes the last entry


# ---------------------------------------------------------------- constant


@dataclass(frozen=True)
class Constant:
    """A column whose rows all have the same value, or all miss it. It has no features."""

    stored: str
    values: list  # the value, or nothing if it is missing

    how = "constant"
    has_number, choices = False, 0

    def encode(self, values: Values) -> Encoded:
        """Return no features."""
        return Encoded(None, None)

    def decode(self, features: Encoded, draws: np.ndarray) -> Decoded:
        """Return the value of N rows, given draws (N,)."""
        value = from_json(self.values or [{"text": ""}.get(self.stored, 0)], self.stored)
        return Decoded(np.repeat(value, len(draws)), np.full(len(draws), not self.values))

    def description(self, show: Callable[[Any], str] = str) -> str:
        """Return a text for people. `show` converts a value."""
        return f"always {show(self.values[0])}, not modelled" if self.values else "always missing, not modelled"


# ---------------------------------------------------------------- category


@dataclass(frozen=True)
class Category:
    """A column of values without a distance. Its group has one feature for each value.

    The last `rare` values share one feature. Which of them a sample gets is drawn in their shares, by a number that
    is computed from the features of the row. If rows miss the value, the last feature of the group says so.
    """

    stored: str
    values: list
    counts: list  # the number of rows of each value
    missing: int  # the number of rows without a value
    rare: int = 0

    how = "category"
    has_number = False

    @classmethod
    def of(cls, values: Values, stored: str, most: int = MOST) -> "Category":
        """Return the category of these values. If there are more than `most`, the least frequent are rare."""
        order, rare = np.arange(len(values.different)), 0
        if len(order) > most:
            frequent = np.argsort(-values.counts, kind="stable")[: most - 1]
            rare = len(order) - len(frequent)
            order = np.concatenate([np.sort(frequent), np.setdiff1d(order, frequent)])
        counts = values.counts[order].tolist()
        return cls(stored, to_json(values.different[order]), counts, values.missing, rare)

    @property
    def kept(self) -> int:
        """The number of values with a feature of their own."""
        return len(self.values) - self.rare

    @property
    def repeated(self) -> bool:
        """Whether a value has at least two rows on average."""
        return sum(self.counts) >= 2 * len(self.values)

    @property
    def choices(self) -> int:
        """The width of the group."""
        return self.kept + (self.rare > 0) + (self.missing > 0)

    @cached_property
    def _array(self) -> np.ndarray:
        return from_json(self.values, self.stored)

    def encode(self, values: Values) -> Encoded:
        """Return the index of each value in the group."""
        found = positions(values.different, self._array)
        return Encoded(None, as_rows(np.minimum(found, self.kept), values.codes, self.choices - 1))

    def decode(self, features: Encoded, draws: np.ndarray) -> Decoded:
        """Return the value of each row. `draws` (N,), in [0, 1), decides between rare values."""
        assert features.choice is not None
        index, missing = features.choice.copy(), np.zeros(len(draws), bool)
        if self.missing:
            missing = index == self.choices - 1
            index[missing] = 0
        if self.rare:
            rare = ~missing & (index == self.kept)
            shares = np.cumsum(self.counts[self.kept :])
            index[rare] = self.kept + np.searchsorted(shares, draws[rare] * shares[-1], side="right")
        return Decoded(self._array[index], missing)

    def description(self, show: Callable[[Any], str] = str) -> str:
        """Return a text for people. `show` converts a value."""
        text = f"{len(self.values):,} value{'s' if len(self.values) > 1 else ''}"
        if self.stored in ("int64", "uint64", "float64"):
            text += f" from {show(self.values[0])} to {show(self.values[-1])}"
        if self.rare:
            text += f", of which the {self.rare:,} rarest share one feature and are drawn by their shares"
        return text + (f", {self.missing:,} missing" if self.missing else "")


# ---------------------------------------------------------------- number


@dataclass(frozen=True)
class Number:
    """A column of ordered values: its rank among the ordinary values, scaled to [-1, 1], is a number.

    Equal values share an interval of ranks, as long as the number of their rows. Encoding spreads them over it, except
    the outermost quarter of a rank on each side, so that the ranks of all rows are uniform. Decoding gives exactly the
    value inside the interval. In the gap between two intervals, it interpolates and rounds to the grid of the column:
    whole numbers, or a number of decimals. So it stays within the values that were observed.

    A value with a large share of the rows, an infinite or a missing one has a feature in a group, whose first feature
    says that the value is an ordinary one. The number of a row that has no ordinary value is drawn uniformly, because
    a generator can then make both independently.

    Up to KNOTS different values are all stored. Of more, so many quantiles are stored, and the ranks of other values
    are interpolated between them, which is exact up to the precision of float32.
    """

    stored: str
    values: list  # the stored values (K,), sorted
    counts: list  # the number of rows of each
    between: list  # the number of rows between neighbouring stored values (K - 1,), or nothing if all values are stored
    special: list  # the values with a feature in the group, sorted
    missing: int  # the number of rows without a value
    decimals: int | None  # of the grid; None for a column without one

    how = "number"
    has_number = True

    @classmethod
    def of(cls, values: Values, stored: str, decimals: int | None, knots: int = KNOTS) -> "Number":
        """Return the encoding of these values, of which at least two are finite."""
        counts, finite = values.counts, np.ones(len(values.different), bool)
        if stored == "float64":
            finite = np.isfinite(values.different)
        frequent = (counts > FREQUENT * len(values.codes)) & (counts >= AT_LEAST)
        if (finite & ~frequent).sum() < 2:
            frequent[:] = False
        ordinary = finite & ~frequent
        kept, counts = values.different[ordinary], counts[ordinary]
        between: list = []
        if len(kept) > knots:
            total = np.cumsum(counts)  # the value at rank r is the first with a total above r
            ranks = np.linspace(0, total[-1] - 1, knots).astype(np.int64)
            index = np.unique(np.searchsorted(total, ranks, side="right"))
            between = (total[index[1:]] - counts[index[1:]] - total[index[:-1]]).tolist()
            kept, counts = kept[index], counts[index]
        special = to_json(values.different[~ordinary])
        return cls(stored, to_json(kept), counts.tolist(), between, special, values.missing, decimals)

    @property
    def choices(self) -> int:
        """The width of the group, 0 without one."""
        more = len(self.special) + (self.missing > 0)
        return more + 1 if more else 0

    @cached_property
    def _array(self) -> np.ndarray:
        return from_json(self.values, self.stored)

    @cached_property
    def _special(self) -> np.ndarray:
        return from_json(self.special, self.stored)

    @cached_property
    def _ranks(self) -> tuple[np.ndarray, np.ndarray, float, float]:
        """(Start (K,) and end (K,) of the interval that decodes to each value, the margin, the largest rank).

        The interval of a rare value is at least 2^-20 of all, so that float32 can represent numbers inside.
        """
        counts = np.array(self.counts, np.float64)
        between = np.array(self.between or [0] * (len(counts) - 1), np.float64)
        least = np.ceil((counts.sum() + between.sum()) / 2**20)
        widths = np.maximum(counts, least)
        end = np.cumsum(widths + np.append(0, between))
        return end - widths + least / 4, end - least / 4, least / 16, float(end[-1])

    def encode(self, values: Values) -> Encoded:
        """Return the scaled rank of each value, and its index in the group.

        Equal values are spread by numbers that depend only on the values of the column and the row, so that the same
        data always have the same features.
        """
        array, (start, end, margin, most) = self._array, self._ranks
        special = positions(values.different, self._special) + 1  # the index in the group; 0 is an ordinary value
        at = np.clip(np.searchsorted(array, values.different, side="right") - 1, 0, len(array) - 1)
        exact = array[at] == values.different
        low, high = start[at] + margin, end[at] - margin
        if not exact.all():
            upper = np.minimum(at + 1, len(array) - 1)
            share = _share(values.different, array[at], array[upper])
            low = np.where(exact, low, end[at] + share * (start[upper] - end[at]))
            high = np.where(exact, high, low)
        choice = as_rows(special, values.codes, self.choices - 1)
        low = np.where(choice == 0, as_rows(low, values.codes, 0), 0)
        high = np.where(choice == 0, as_rows(high, values.codes, 0), most)
        stream = mix64(zlib.crc32(np.ascontiguousarray(values.codes).data))
        u = reference().uniform((len(choice),), stream, np.float64)
        number = ((low + u * (high - low)) * (2 / most) - 1).astype(np.float32)
        return Encoded(number, choice if self.choices else None)

    def decode(self, features: Encoded, draws: np.ndarray) -> Decoded:
        """Return the value of each row, on the grid of the column. Numbers outside [-1, 1] give the extremes."""
        assert features.number is not None
        array, (start, end, _, most) = self._array, self._ranks
        rank = (features.number.astype(np.float64) + 1) * (most / 2)
        at = np.clip(np.searchsorted(start, rank, side="right") - 1, 0, len(array) - 1)
        upper = np.minimum(at + 1, len(array) - 1)
        gap = np.where(upper > at, start[upper] - end[at], 1)
        result = _between(array[at], array[upper], np.clip((rank - end[at]) / gap, 0, 1), self.decimals)
        missing = np.zeros(len(rank), bool)
        if features.choice is not None:
            if self.missing:
                missing = features.choice == self.choices - 1
            chosen = (features.choice > 0) & ~missing
            result[chosen] = self._special[features.choice[chosen] - 1]
        return Decoded(result, missing)

    def description(self, show: Callable[[Any], str] = str) -> str:
        """Return a text for people. `show` converts a value."""
        text = f"{show(self.values[0])} to {show(self.values[-1])}"
        if self.decimals:
            text += f" with {self.decimals} decimal{'s' if self.decimals > 1 else ''}"
        if self.special:
            shown = ", ".join(map(show, self.special))
            text += f", and {shown} with {'a feature' if len(self.special) == 1 else 'features'} of their own"
        return text + (f", {self.missing:,} missing" if self.missing else "")


def _share(x: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return (x - low) / (high - low), clipped to [0, 1], without overflow. It is 0 where low = high."""
    above: np.ndarray
    width: np.ndarray
    if x.dtype.kind in "iu":  # the difference of 64-bit integers fits into 64 bits without sign
        above = x.astype(np.uint64) - low.astype(np.uint64)
        width = high.astype(np.uint64) - low.astype(np.uint64)
    else:
        with np.errstate(invalid="ignore"):  # of infinite values, which are special
            above, width = x / 2 - low / 2, high / 2 - low / 2
    with np.errstate(invalid="ignore"):
        share = above.astype(np.float64) / np.where(width == 0, 1, width).astype(np.float64)
    return np.clip(np.nan_to_num(share), 0, 1)


def _between(low: np.ndarray, high: np.ndarray, share: np.ndarray, decimals: int | None) -> np.ndarray:
    """Return low + share * (high - low) on the grid of the column: integers, or floats with so many decimals."""
    if low.dtype.kind in "iu":
        width = high.astype(np.uint64) - low.astype(np.uint64)
        step = np.minimum(np.rint(share * width.astype(np.float64)), np.nextafter(2.0**64, 0))
        return (low.astype(np.uint64) + np.minimum(step.astype(np.uint64), width)).astype(low.dtype)
    result: np.ndarray = (1 - share) * low + share * high
    if decimals is not None:
        result = np.rint(result * 10.0**decimals) / 10.0**decimals
    return np.clip(result, low, high)


def decimals_of(values: np.ndarray, dtype: np.dtype) -> int | None:
    """Return the smallest number of decimals that represents all finite values (K,) exactly, or None.

    Only decimals that the dtype can represent count: 15 significant digits in float64, 6 in float32.
    """
    finite = values[np.isfinite(values)]
    for decimals in range(23):  # 10^22 is the largest power of 10 that float64 represents exactly
        with np.errstate(over="ignore"):
            scaled = np.rint(finite * 10.0**decimals)
        if len(finite) and np.abs(scaled).max() >= 10.0 ** np.finfo(dtype).precision:
            return None
        if ((scaled / 10.0**decimals).astype(dtype) == finite.astype(dtype)).all():
            return decimals
    return None


def is_category(values: Values, most: int = FEW, all_rows: bool = False) -> bool:
    """Return whether ordered values are encoded as a category: see FEW, EACH and ALWAYS. `all_rows` ignores EACH."""
    different = len(values.different)
    return different <= ALWAYS or (different <= most and (all_rows or len(values.codes) >= EACH * different))


ENCODINGS: dict[str, Any] = {kind.how: kind for kind in (Constant, Category, Number)}
