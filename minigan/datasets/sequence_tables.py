"""Read series from tables: CSV and Parquet files, and data frames. Needs pandas.

    long    a row for each step: the columns of the series, of the time, of the label, and the values
    wide    a row for each series, and a column for each step; perhaps a column with its name, and one with its label

Rows of a series are sorted by time. Where a time is missing between others that are evenly spaced, a step is missing.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from minigan.datasets import column_text
from minigan.datasets.conditions import nearest
from minigan.datasets.files import DataError
from minigan.datasets.labels import listing
from minigan.datasets.sequence_values import Series
from minigan.datasets.table_files import Frame, import_pandas

if TYPE_CHECKING:
    import pandas

FORMS = ("long", "wide")
SERIES = ("series", "series_id", "id", "unique_id", "sequence", "sequence_id", "seq", "item_id", "case_id", "subject")
TIMES = ("time", "timestamp", "datetime", "date", "ds", "t", "step", "timestep", "time_step", "time_idx")
LABELS = ("label", "class", "target_class")  # not read without --label, but not taken for values
MOST_INSERTED = 10  # missing steps for each row, above which the times do not count as evenly spaced
NEARLY = 1e-4  # how much the time between two steps may differ from a whole number of steps


class Columns(NamedTuple):
    """The names of columns of a table of series; "" for none."""

    form: str = ""  # long or wide; "" to recognise it
    series: str = ""
    time: str = ""
    label: str = ""
    values: tuple[str, ...] = ()  # () for all other columns


def series(found: Frame, asked: Columns, window: int, read_labels: bool = True) -> Series:
    """Return the series in a table. `asked` names columns; what it does not name is recognised by usual names.

    `window` says whether windows will be cut, so that rows without a series and without a time may be one long series.

    Raises DataError, which says in one sentence what is wrong, where, and what to do.
    """
    frame, notes = found.frame, list(found.notes)
    names = [str(name) for name in frame.columns]
    frame = frame.set_axis(names, axis=1)
    if twice := [name for name in names if names.count(name) > 1]:
        raise DataError(f"several columns are called {twice[0]!r}: give each its own name")
    for name in (asked.series, asked.time, asked.label, *asked.values):
        if name and name not in names:
            raise DataError(f"there is no column {name!r}: {nearest(name, names)}")
    if not len(frame):
        raise DataError("the table has no rows: is this the right one?")
    usual = asked._replace(
        series=asked.series or _usual(names, SERIES, asked), time=asked.time or _usual(names, TIMES, asked)
    )
    table = _Table(frame, found, notes)
    if not usual.time and asked.form != "wide":
        usual = usual._replace(time=_dated(table, [n for n in names if n not in (usual.series, asked.label)]))
    repeated = bool(usual.series) and bool(frame[usual.series].duplicated().any())
    is_long = bool(asked.values or window or usual.time or asked.series or repeated)
    form = asked.form or ("long" if is_long else "wide")
    result = _long(table, usual, window, read_labels) if form == "long" else _wide(table, usual._replace(time=""))
    how = "" if asked.form else f", read as {form}: " + _HOW[form]
    shape = f"{len(result.lengths):,} series, {len(frame):,} rows"
    result = result._replace(origin=f"{shape}, {found.origin}{how}", notes=tuple(notes))
    return result if read_labels else result._replace(labels=None, labels_from="not read" if asked.label else "")


_HOW = {"long": "a row for each step", "wide": "a row for each series"}


def _usual(names: list[str], usual: Sequence[str], asked: Columns) -> str:
    """Return the column with one of the usual names, ignoring case, that is not used for something else, or ""."""
    folded = {name.casefold().replace(" ", "_"): name for name in names}
    found = [folded[name] for name in usual if name in folded]
    return next((name for name in found if name not in (asked.series, asked.time, asked.label, *asked.values)), "")


def _dated(table: "_Table", names: list[str]) -> str:
    """Return the column whose values are dates, of those that are not used for something else, or "".

    If the names of the other columns are steps, such as 1, 2, 3 or h0, h1, h2, the dates name series, and are no times.
    """
    found = [name for name in names if table.has_dates(name)]
    others = {re.sub(r"\d+", "0", name) for name in names if name not in found}
    return found[0] if len(found) == 1 and (len(others) > 1 or len(names) == 2) else ""


class _Table:
    """The columns of a table, and notes on how they were read."""

    def __init__(self, frame: "pandas.DataFrame", found: Frame, notes: list[str]):
        self.frame, self.found, self.notes = frame, found, notes

    def __len__(self) -> int:
        return len(self.frame)

    def factorized(self, name: str) -> tuple[np.ndarray, list[str], np.ndarray]:
        """Return (the different texts of a column, whether each is missing, the text of each row (N,))."""
        column = self.frame[name]
        texts = column.astype(object).to_numpy()
        codes, different = import_pandas().factorize(texts, use_na_sentinel=False)
        plain = ["" if value is None or value != value else _as_text(value) for value in different.tolist()]
        return codes, plain, texts

    def numbers(self, name: str, advice: str) -> np.ndarray:
        """Return a column as numbers (N,), NaN where one is missing.

        Raises DataError if it has text or dates. The message ends with `advice`.
        """
        column = self.frame[name]
        if column.dtype.kind in "biuf":
            return column.to_numpy()
        if column.dtype.kind in "Mm":
            raise DataError(f"the column {name!r} has dates, and values are numbers: {advice}")
        codes, different, _ = self.factorized(name)
        known = [text for text in different if text not in column_text.MISSING]
        if not known:
            return np.full(len(column), np.nan)
        read = column_text.numbers(known, self.found.texts.decimal_comma)
        if read is None or len(read.values) != len(known):
            wrong = next(
                (t for t in known if column_text.numbers([t], self.found.texts.decimal_comma) is None), known[0]
            )
            row = int((codes == different.index(wrong)).argmax()) + 1
            raise DataError(
                f"the column {name!r} has text, such as {wrong[:40]!r} in row {row}, and values are numbers: repair "
                f"it, or {advice}"
            )
        if read.note:
            self.notes.append(f"{name}: numbers {read.note}")
        place = {text: i for i, text in enumerate(known)}
        if len(known) == len(different):
            return read.values[[place[text] for text in different]][codes]
        values = [float(read.values[place[text]]) if text in place else np.nan for text in different]
        return np.array(values)[codes]

    def has_dates(self, name: str) -> bool:
        """Return whether all values of a column are dates."""
        column = self.frame[name]
        if column.dtype.kind in "biuf":
            return False
        different = self.factorized(name)[1]
        return column.dtype.kind == "M" or (
            column_text.numbers(different) is None and column_text.dates(different) is not None
        )

    def names_rows(self, name: str) -> bool:
        """Return whether a column has a different text in each row."""
        _, different, _ = self.factorized(name)
        return len(different) == len(self) and all(column_text.numbers([text]) is None for text in different)

    def times(self, name: str) -> np.ndarray:
        """Return a column of times as numbers (N,): as they are, or dates in microseconds. Raises DataError."""
        column = self.frame[name]
        if column.dtype.kind == "M":
            values = column.to_numpy().astype("datetime64[us]")
        elif column.dtype.kind in "biuf":
            values = column.to_numpy()
        else:
            codes, different, _ = self.factorized(name)
            if lacking := [text for text in different if text in column_text.MISSING]:
                row = int((codes == different.index(lacking[0])).argmax()) + 1
                raise DataError(f"the time in row {row}, column {name!r}, is missing: fill it in, or leave the row out")
            read = column_text.numbers(different) or column_text.dates(different)
            if read is None:
                odd = next((t for t in different if not (column_text.numbers([t]) or column_text.dates([t]))), "")
                row = int((codes == different.index(odd)).argmax()) + 1 if odd else 1
                what = f"{odd[:40]!r} in row {row} is neither" if odd else "they are written in different ways"
                raise DataError(
                    f"times are numbers or dates, and in the column {name!r} {what}: write 2020-01-31 10:00"
                )
            if read.note:
                self.notes.append(f"{name}: dates are read {read.note}" if read.format else f"{name}: {read.note}")
            values = read.values[codes]
        if values.dtype.kind == "M":
            if np.isnat(values).any():
                raise DataError(f"the time in row {int(np.isnat(values).argmax()) + 1}, column {name!r}, is missing")
            return values.astype(np.int64)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            row = int((~np.isfinite(values)).argmax()) + 1
            raise DataError(f"the time in row {row}, column {name!r}, is {values[row - 1]}: give it a finite number")
        return values


CHOOSE = "choose the columns of the values with --values NAME,..."
TELL = "name it with --series or --label, or name the columns of series and time if each step has a row"


def _as_text(value: Any) -> str:
    """Return a value of a column as text: 3.0 as 3."""
    return str(int(value)) if isinstance(value, float) and value == value // 1 else str(value).strip()


# ---------------------------------------------------------------- long


def _long(table: _Table, columns: Columns, window: int, read_labels: bool) -> Series:
    """Return the series of a table with a row for each step."""
    used = {columns.series, columns.time, columns.label}
    names = list(columns.values) or [name for name in table.frame.columns if name not in used]
    if not names:
        raise DataError(f"no column of values is left: the table has only {listing(list(table.frame.columns), 10)}")
    if not columns.values and not columns.label and (odd := [n for n in names if n.casefold() in LABELS]):
        table.notes.append(f"column {odd[0]} is a value like the others: --label {odd[0]} makes it the class")
    ids: list[str] = ["0"]
    owners = np.zeros(len(table), np.int64)
    if columns.series:
        owners, ids, _ = table.factorized(columns.series)
        if any(each in column_text.MISSING for each in ids):
            row = int((owners == next(i for i, each in enumerate(ids) if each in column_text.MISSING)).argmax()) + 1
            raise DataError(f"row {row} does not say to which series it belongs, column {columns.series!r}: fill it in")
    elif not window:
        hint = f"name its column with --series ({listing(list(table.frame.columns), 10)})"
        raise DataError(f"the rows do not say to which series they belong: {hint}, or cut windows with --window N")
    values = [table.numbers(name, CHOOSE) for name in names]
    order = np.argsort(owners, kind="stable")
    times = None
    if columns.time:
        times = table.times(columns.time)
        sorted_by_time = np.lexsort((times, owners))
        if not np.array_equal(sorted_by_time, order):
            table.notes.append(f"rows were not in the order of {columns.time}, and were sorted")
        order, times = sorted_by_time, times[sorted_by_time]
    else:
        table.notes.append("there is no column of times: the steps of a series are its rows, in their order")
    lengths = np.bincount(owners, minlength=len(ids))
    dtype = np.result_type(*values)
    x = np.stack([value.astype(dtype)[order] for value in values], axis=1)
    common = None
    if times is not None:
        _expect_different(times, owners[order], order, ids, columns)
        common = _common(times, lengths)
        x, lengths = _with_gaps(x, times, lengths, table.notes, columns.time)
    labels = _labels(table, columns, owners, ids) if read_labels else None
    labels_from = f"column {columns.label}" if columns.label else ""
    return Series(x, lengths, names, labels, ids, dtype=_dtype(x), times=common, labels_from=labels_from, flat=False)


def _dtype(x: np.ndarray) -> str:
    """Return the dtype of decoded samples for values that were read as x."""
    return "int64" if x.dtype.kind in "biu" else "float64"


def _expect_different(
    times: np.ndarray, owners: np.ndarray, order: np.ndarray, ids: list[str], columns: Columns
) -> None:
    """Raise DataError if a series has a time twice. The arrays (M,) are sorted by series and time."""
    same = (times[1:] == times[:-1]) & (owners[1:] == owners[:-1])
    if not same.any():
        return
    at = int(same.argmax())
    rows = sorted((int(order[at]) + 1, int(order[at + 1]) + 1))
    which = f"series {ids[owners[at]]} has" if columns.series else "there is"
    hint = "leave one out" if columns.series else "name the column that tells series apart with --series"
    more = f", and {int(same.sum()) - 1:,} more times are repeated" if same.sum() > 1 else ""
    raise DataError(
        f"{which} the same time, column {columns.time!r}, in the rows {rows[0]} and {rows[1]}{more}: {hint}"
    )


def _common(times: np.ndarray, lengths: np.ndarray) -> list | None:
    """Return the times (T,) of a series if all have the same, as numbers. Dates, in microseconds, are left out."""
    if len(set(lengths.tolist())) != 1 or len(times) == 0:
        return None
    rows = times.reshape(len(lengths), -1)
    return rows[0].tolist() if (rows == rows[0]).all() and np.abs(times).max() < 1e12 else None


def _with_gaps(
    x: np.ndarray, times: np.ndarray, lengths: np.ndarray, notes: list[str], name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the values (M, F) with a row of NaN for each time that is missing, and the new lengths (N,).

    If the times are not evenly spaced apart from missing ones, nothing changes, and a note says so.
    """
    ends = np.cumsum(lengths)
    inside = np.ones(len(times), bool)
    inside[ends - lengths] = False  # the first row of each series has no step before it
    steps = (times[1:] - times[:-1])[inside[1:]].astype(np.float64)
    if not len(steps) or np.ptp(steps) <= NEARLY * steps.min():
        return x, lengths
    common, counts = np.unique(steps, return_counts=True)
    step = common[counts.argmax()]
    ratio = steps / step
    whole = np.rint(ratio)
    if (
        counts.max() * 2 < len(steps)
        or (np.abs(ratio - whole) > NEARLY * np.maximum(whole, 1)).any()
        or whole.min() < 1
    ):
        notes.append(
            f"the time between steps, column {name}, differs, and is not modelled: steps are taken in their order"
        )
        return x, lengths
    absent = int((whole - 1).sum())
    if absent > MOST_INSERTED * len(x):
        notes.append(f"the times, column {name}, have long pauses, which are not modelled")
        return x, lengths
    notes.append(f"missing: {absent:,} of the steps, because the column {name} leaves their times out")
    advance = np.ones(len(times), np.int64)
    advance[inside] = whole.astype(np.int64)
    place = np.cumsum(advance) - 1
    filled = np.full((int(place[-1]) + 1, x.shape[1]), np.nan)
    filled[place] = x
    last = place[ends - 1]
    return filled, np.diff(last, prepend=-1)


def _labels(table: _Table, columns: Columns, owners: np.ndarray, ids: list[str]) -> np.ndarray | None:
    """Return the label (N,) of each series. Raises DataError if one has several."""
    if not columns.label:
        return None
    codes, different, _ = table.factorized(columns.label)
    first = np.full(len(ids), -1)
    rows = np.arange(len(owners))[::-1]
    first[owners[rows]] = codes[rows]
    if (wrong := codes != first[owners]).any():
        row = int(wrong.argmax())
        raise DataError(
            f"a series has one label, and series {ids[owners[row]]} has {different[first[owners[row]]]!r} and "
            f"{different[codes[row]]!r} in the column {columns.label!r}: choose another column, or another --series"
        )
    return np.array(different, dtype=object)[first]


# ---------------------------------------------------------------- wide


def _wide(table: _Table, columns: Columns) -> Series:
    """Return the series of a table with a row for each series."""
    used = {columns.series, columns.label}
    names = list(columns.values) or [name for name in table.frame.columns if name not in used]
    if not columns.label and not columns.values and (odd := [n for n in names if n.casefold() in LABELS]):
        table.notes.append(f"column {odd[0]} is not a step, and was left out: --label {odd[0]} makes it the class")
        names = [name for name in names if name not in odd]
    if not columns.series and not columns.values and len(names) > 1 and table.names_rows(names[0]):
        columns, names = columns._replace(series=names[0]), names[1:]
    if len(names) < 2:
        raise DataError(
            f"a row for each series needs a column for each of at least 2 steps, got {listing(names, 5) or 'none'}: "
            "name the column of the series with --series if each step has a row"
        )
    if columns.series:
        table.notes.append(f"column {columns.series} names the series, and was left out")
    values = [table.numbers(name, TELL) for name in names]
    dtype = np.result_type(*values)
    x = np.stack([value.astype(dtype) for value in values], axis=1)
    ids = None
    if columns.series:
        codes, different, _ = table.factorized(columns.series)
        ids = [different[code] for code in codes]
    labels = None
    if columns.label:
        codes, different, _ = table.factorized(columns.label)
        labels = np.array(different, dtype=object)[codes]
    return Series(
        x.reshape(-1, 1),
        np.full(len(x), x.shape[1], np.int64),
        ["value"],
        labels,
        ids,
        dtype=_dtype(x),
        flat=True,
        wide=True,
        times=names,
        labels_from=f"column {columns.label}" if columns.label else "",
    )
