"""Infer the kind of each column of a table, and convert pandas Series to the values of `columns` and back.

A column is continuous, integer, category, boolean or date, which are modelled; constant, which is not, because every
row has the same value; or an identifier or free text, which are left out, because nothing of them can be learned.
"""

import datetime
import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from minigan.datasets import column_text as text
from minigan.datasets import columns
from minigan.datasets.columns import Category, Constant, Decoded, Encoded, Number, Values, sort
from minigan.datasets.files import DataError

if TYPE_CHECKING:
    import pandas

MODELLED = ("continuous", "integer", "category", "boolean", "date")
LEFT_OUT = ("identifier", "text", "drop")
KINDS = (*MODELLED, *LEFT_OUT)  # what a column can be set to
IDENTIFIER = re.compile(r"(^|[^a-z])(id|ids|uuid|guid|key|index|nr|no|number|row|rownames|unnamed)($|[^a-z])", re.I)
CAMEL = re.compile(r"[a-z](Id|ID|Key|Nr|No)$")  # customerID
ENOUGH = 10  # a column with fewer values is no identifier, because every value may be different by chance
NEARLY = 0.95  # texts of which a larger share is different are identifiers
LONG = 30  # texts of several words are free text if they are longer on average, and more than half are different


class Texts(NamedTuple):
    """How texts are read."""

    from_file: bool = False  # each may be a number, a date or a missing value
    decimal_comma: bool = False  # columns of the file have decimal commas


IN_FRAME = Texts()


class Read(NamedTuple):
    """A pandas Series as values, and what is needed to make a Series of them again."""

    values: Values
    stored: str  # a key of STORED
    kind: str  # continuous, integer, category, boolean or date
    series: dict  # see `Column.series`
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Column:
    """A column of a table that is modelled or constant."""

    name: Any  # a text, or an integer
    kind: str  # one of MODELLED, or constant
    encoding: Category | Number | Constant
    # dtype: of the Series; categories and ordered: of a categorical dtype; unit, zone and format: of dates
    series: dict

    @property
    def width(self) -> int:
        """The number of features."""
        return self.encoding.has_number + self.encoding.choices

    def decode(self, features: Encoded, draws: np.ndarray) -> "pandas.Series":
        """Return the Series of N rows. `draws` (N,), in [0, 1), decides between rare values."""
        return self.to_series(self.encoding.decode(features, draws))

    def to_series(self, decoded: Decoded) -> "pandas.Series":
        """Return values as a Series with the dtype of the original one."""
        return to_series(decoded, self.series).rename(self.name)

    def to_json(self) -> dict:
        """Return the column as a dictionary that JSON can represent."""
        fields = {field: getattr(self.encoding, field) for field in self.encoding.__dataclass_fields__}
        fields = {name: columns.packed(value) if isinstance(value, list) else value for name, value in fields.items()}
        return {
            "name": self.name,
            "kind": self.kind,
            "how": self.encoding.how,
            "encoding": fields,
            "series": self.series,
        }

    @classmethod
    def from_json(cls, fields: dict) -> "Column":
        """Return the column of `to_json`."""
        own = {k: columns.unpacked(v) if isinstance(v, list | dict) else v for k, v in fields["encoding"].items()}
        return cls(fields["name"], fields["kind"], columns.ENCODINGS[fields["how"]](**own), fields["series"])

    def description(self) -> str:
        """Return what was found, as a text for people."""
        found = self.encoding.description(lambda v: f"{v:g}" if isinstance(v, float) else self._show(v))
        return f"{self.kind}, {found}" if self.kind in MODELLED else found

    def value_names(self) -> list[str]:
        """Return the values of a category as texts."""
        return [self._show(value) for value in self.encoding.values]

    def _show(self, value: Any) -> str:
        unit = self.series.get("unit")
        return str(value) if unit is None else str(np.datetime64(int(value), unit))


@dataclass(frozen=True)
class LeftOut:
    """A column that is not in the samples."""

    name: Any
    kind: str  # one of LEFT_OUT
    reason: str


class Found(NamedTuple):
    """What was found out about a column, and its values if it is not left out."""

    column: Column | LeftOut
    values: Values | None
    notes: tuple[str, ...]  # how the values were read


def column_of(
    series: "pandas.Series", name: Any, asked: str | None = None, texts: Texts = IN_FRAME, is_label: bool = False
) -> Found:
    """Return the column of a Series.

    `asked` is its kind if the user set it. A column of labels is a category if its numbers have few values.

    Raises DataError if the values do not fit the kind, or are of a type that cannot be modelled.
    """
    if asked in LEFT_OUT:
        return Found(LeftOut(name, asked, "as asked"), None, ())
    found = read(series, name, texts, asked)
    values, different = found.values, len(found.values.different)
    if different == 0 or (different == 1 and not values.missing):
        constant = Constant(found.stored, columns.to_json(values.different))
        return Found(Column(name, "constant", constant, found.series), values, found.notes)
    if asked is None and not is_label and (left := _left_out(found, name)):
        return Found(left, None, found.notes)
    encoding: Category | Number | None = None
    if found.kind in ("continuous", "integer", "date"):
        forced = asked == "continuous" and _finite(values.different).sum() > 1
        if forced or not columns.is_category(values, all_rows=is_label):
            decimals: int | None = 0
            if found.stored == "float64":
                decimals = columns.decimals_of(values.different, _precision(series))
                if decimals is not None:  # a number of float32 becomes the decimal number that it means
                    values = values._replace(different=np.round(values.different, decimals))
            encoding = Number.of(values, found.stored, decimals)
    encoding = encoding or Category.of(values, found.stored)
    return Found(Column(name, found.kind, encoding, found.series), values, found.notes)


def _finite(values: np.ndarray) -> np.ndarray:
    return np.isfinite(values) if values.dtype.kind == "f" else np.ones(len(values), bool)


def _precision(series: "pandas.Series") -> np.dtype:
    """Return the dtype whose precision decides what the decimals of a Series are."""
    dtype = getattr(series.dtype, "numpy_dtype", series.dtype)
    return dtype if isinstance(dtype, np.dtype) and dtype.kind == "f" and dtype.itemsize < 8 else np.dtype(float)


def _left_out(found: Read, name: Any) -> LeftOut | None:
    """Return why a column is not modelled, or None: identifiers, and free text."""
    values, shown = found.values, str(name)
    different, rows = len(values.different), len(values.codes) - values.missing
    if rows < ENOUGH or "categories" in found.series:
        return None
    keep = "keep it with --columns"
    if found.stored == "text":
        length = sum(map(len, values.different)) / different
        if length > LONG and different > rows / 2 and sum(" " in value for value in values.different) > different / 2:
            return LeftOut(
                name, "text", f"free text, {length:.0f} characters on average: {keep} {setting(name, 'category')}"
            )
        if different > NEARLY * rows:
            which = "all" if different == rows else f"{different:,} of {rows:,}"
            return LeftOut(
                name, "identifier", f"an identifier, {which} values are different: {keep} {setting(name, 'category')}"
            )
    floats = str(found.series["dtype"]).lower().startswith("float")
    if found.kind == "integer" and not floats and different == rows and not values.missing:
        low, high = int(values.different[0]), int(values.different[-1])
        counted = low in (0, 1) and high - low + 1 == rows
        if counted or IDENTIFIER.search(shown) or CAMEL.search(shown):
            return LeftOut(
                name, "identifier", f"an identifier, all values are different: {keep} {setting(name, 'integer')}"
            )
    return None


def escaped(name: str) -> str:
    """Return the name of a column as --columns takes it: a backslash before each comma, colon and backslash."""
    return re.sub(r"([,:\\])", r"\\\1", name)


def setting(name: Any, kind: str) -> str:
    """Return the value of --columns that sets the kind of one column, as a shell takes it."""
    return shlex.quote(f"{escaped(str(name))}:{kind}")


# ---------------------------------------------------------------- a Series as values


def read(series: "pandas.Series", name: Any, texts: Texts = IN_FRAME, kind: str | None = None) -> Read:
    """Return a Series as values, and its kind, or the one asked for. See `column_of` for errors."""
    import pandas as pd

    if isinstance(series.dtype, pd.SparseDtype):
        series = series.sparse.to_dense()
    dtype, is_a = series.dtype, pd.api.types
    if isinstance(dtype, pd.CategoricalDtype):
        found = _categorical(series)
    elif is_a.is_bool_dtype(dtype):
        found = Read(_factorized(series, "bool"), "bool", "boolean", {"dtype": str(dtype)})
    elif is_a.is_integer_dtype(dtype):
        stored = "uint64" if is_a.is_unsigned_integer_dtype(dtype) else "int64"
        found = Read(_factorized(series, stored), stored, "integer", {"dtype": str(dtype)})
    elif is_a.is_float_dtype(dtype):
        found = _floats(series)
    elif is_a.is_datetime64_any_dtype(dtype):
        found = _dates(series)
    elif is_a.is_timedelta64_dtype(dtype) or is_a.is_complex_dtype(dtype):
        how = "" if is_a.is_complex_dtype(dtype) else ", for example with .dt.total_seconds()"
        raise DataError(_refused(name, f"of type {dtype}", how))
    else:
        found = _objects(series, name, texts, kind)
    return _as_asked(found, name, kind)


def _refused(name: Any, what: str, how: str = "") -> str:
    return (
        f"column {name!r} has values {what}, which cannot be modelled: convert it to numbers or text{how}, or leave it "
        f"out with --columns {setting(name, 'drop')}"
    )


def _factorized(values: Any, dtype: Any = None, ordered: bool = True) -> Values:
    """Return the values of an array or Series, sorted if `ordered`. NaN, None, NaT and pandas.NA are missing."""
    import pandas as pd

    if dtype is object:  # because pandas.factorize reads texts only up to a zero character
        place: dict[Any, int] = {}
        missing = pd.isna(values)
        codes = [-1 if no else place.setdefault(value, len(place)) for value, no in zip(values, missing, strict=True)]
        different = np.empty(len(place), object)
        different[:] = list(place)
        found = Values(different, np.array(codes, np.int64))
    else:
        codes, different = pd.factorize(values)
        found = Values(np.asarray(different, dtype), codes.astype(np.int64))
    return sort(*found) if ordered else found


def _floats(series: "pandas.Series") -> Read:
    """Return a Series of floats. It is of integers if all are whole, so that samples are whole as well."""
    values = _factorized(series.to_numpy(np.float64, na_value=np.nan) + 0.0, np.float64)  # -0.0 becomes 0.0
    info, different = {"dtype": str(series.dtype)}, values.different
    if (np.abs(different) < 2**53).all() and (different == np.rint(different)).all():
        return Read(values._replace(different=different.astype(np.int64)), "int64", "integer", info)
    return Read(values, "float64", "continuous", info)


def _dates(series: "pandas.Series") -> Read:
    """Return a Series of dates as integers, in the coarsest unit that represents all of them."""
    dtype: Any = series.dtype
    if hasattr(dtype, "pyarrow_dtype"):
        zone = dtype.pyarrow_dtype.tz
        series = series.astype(f"datetime64[{dtype.pyarrow_dtype.unit}{', ' + zone if zone else ''}]")
    zone = getattr(series.dtype, "tz", None)
    if zone is not None:
        series = series.dt.tz_convert("UTC").dt.tz_localize(None)
    values = _factorized(series)
    moments = values.different  # datetime64
    unit = next(unit for unit in text.UNITS if (moments.astype(f"datetime64[{unit}]") == moments).all())
    whole = moments.astype(f"datetime64[{unit}]").astype(np.int64)
    info = {"dtype": str(series.dtype), "unit": unit, "zone": None if zone is None else str(zone), "format": None}
    return Read(values._replace(different=whole), "int64", "date", info)


def _categorical(series: "pandas.Series") -> Read:
    """Return a categorical Series. Categories that are no numbers or booleans become text."""
    categories, codes = series.cat.categories, series.cat.codes.to_numpy(np.int64)
    stored = {"i": "int64", "u": "uint64", "f": "float64", "b": "bool"}.get(
        getattr(categories.dtype, "kind", ""), "text"
    )
    plain = categories.tolist() if stored != "text" else [str(category) for category in categories]
    info = {"dtype": "category", "categories": plain, "ordered": bool(series.cat.ordered)}
    different: np.ndarray = np.empty(len(plain), columns.STORED[stored])
    different[:] = plain
    return Read(_used(sort(different, codes)), stored, "category", info)


def _used(values: Values, unwanted: tuple[int, ...] = ()) -> Values:
    """Return the values without those that no row has, and without the unwanted ones, whose rows become missing."""
    kept = np.setdiff1d(np.flatnonzero(values.counts), unwanted)
    place = np.full(len(values.different) + 1, -1)
    place[kept] = np.arange(len(kept))
    return Values(values.different[kept], place[values.codes])


def _objects(series: "pandas.Series", name: Any, texts: Texts, kind: str | None) -> Read:
    """Return a Series of Python objects: texts, or numbers, booleans and dates."""
    import pandas as pd

    what = pd.api.types.infer_dtype(series, skipna=True)
    typed: pd.Series | None = None
    try:
        if what in ("integer", "floating", "mixed-integer-float", "decimal"):
            typed = series.astype("float64" if what != "integer" else "Int64" if series.isna().any() else "int64")
        elif what == "boolean":
            typed = series.astype("boolean" if series.isna().any() else "bool")
        elif what in ("datetime", "date", "datetime64"):
            moments = [np.datetime64("NaT") if pd.isna(value) else _moment(value) for value in series]
            typed = pd.Series(_narrow(np.array(moments, "datetime64[us]")))
    except (OverflowError, TypeError, ValueError):  # larger than 64 bits: it is read as text
        pass
    if typed is not None:
        return read(typed, name)
    try:
        different = list(pd.unique(series.dropna()))
    except TypeError:  # lists have no hash
        different = list(series)
    odd = [v for v in different if not pd.api.types.is_scalar(v) or isinstance(v, bytes | complex)]
    if odd or what in ("timedelta", "timedelta64"):
        raise DataError(_refused(name, f"such as {str((odd or different)[0])[:40]}"))
    if what in ("string", "empty"):
        return _texts(_factorized(series, object, ordered=False), str(series.dtype), name, texts, kind)
    values = _factorized(series.map(str, na_action="ignore"), object)
    return Read(values, "text", "category", {"dtype": None}, ("converted to text",))


def _moment(value: Any) -> datetime.datetime:
    """Return a date or datetime as a datetime without a zone."""
    if not isinstance(value, datetime.datetime):
        return datetime.datetime(value.year, value.month, value.day)
    return value.astimezone(datetime.UTC).replace(tzinfo=None) if value.tzinfo else value


def _narrow(moments: np.ndarray) -> np.ndarray:
    """Return dates in nanoseconds, as pandas usually has them, or in microseconds outside the years 1678 to 2261."""
    years = moments[~np.isnat(moments)].astype("datetime64[Y]").astype(np.int64) + 1970
    return moments.astype("datetime64[ns]") if ((years >= 1678) & (years <= 2261)).all() else moments


# ---------------------------------------------------------------- texts


def _texts(values: Values, dtype: str, name: Any, texts: Texts, kind: str | None) -> Read:
    """Return texts as numbers, booleans or dates if all are, or else as a category.

    The texts of MISSING count as missing in a file, and elsewhere only among numbers, booleans and dates.
    """
    tokens = [i for i, value in enumerate(values.different) if value.strip() in text.MISSING]
    there = _used(values, tuple(tokens))
    shown = {values.different[i].strip(): count for i, count in enumerate(values.counts) if i in tokens}
    notes = [f"{token} in {_rows(count)} means missing" for token, count in shown.items() if token]
    plain, counts = [value.strip() for value in there.different], there.counts
    found = _recognised(plain, texts.decimal_comma, kind)
    if found is None and kind not in ("category", "boolean"):
        mostly = text.mostly(plain, counts, lambda rest: _recognised(rest, texts.decimal_comma, kind))
        if mostly is not None:
            found, words = mostly
            rest = "dates" if found.values.dtype.kind == "M" else "numbers"
            notes += [
                f"{plain[i]!r} in {_rows(counts[i])} counts as missing, because the rest are {rest}" for i in words
            ]
            notes.append(f"keep such words with --columns {setting(name, 'category')}")
            there, plain = _used(there, tuple(words)), [value for i, value in enumerate(plain) if i not in words]
            found = found._replace(values=np.delete(found.values, words))
    if found is None:
        if texts.from_file:
            return Read(sort(*there), "text", "category", {"dtype": None}, tuple(notes))
        return Read(sort(*values), "text", "category", {"dtype": dtype})
    if not texts.from_file:
        notes.append("they are stored as text")
    if found.note:
        notes.append(f"read {found.note}")
    return _converted(found, there.codes)._replace(notes=tuple(notes))


def _rows(count: int) -> str:
    """Return a number of rows as text."""
    return f"{count:,} row{'s' if count != 1 else ''}"


def _recognised(plain: list[str], decimal_comma: bool, kind: str | None) -> text.Found | None:
    """Return texts as booleans, numbers or dates, or None. A kind that was asked for decides."""
    if kind == "category":  # only numbers that are written as Python writes them
        found = text.numbers(plain)
        same = found is not None and [str(value) for value in found.values.tolist()] == plain
        return found if same else None
    if kind in ("boolean", "date"):
        return text.booleans(plain, more=True) if kind == "boolean" else text.dates(plain, more=True)
    found = text.numbers(plain, decimal_comma)
    if found is None and kind is None:
        found = text.booleans(plain) or text.dates(plain)
    return found


def _converted(found: text.Found, codes: np.ndarray) -> Read:
    """Return the values of texts, given the index of the text of each row (N,), as a typed Series has them."""
    import pandas as pd

    values, missing = found.values, codes < 0
    if values.dtype.kind == "M":
        series = pd.Series(_narrow(np.append(values, np.datetime64("NaT"))[codes]))
        series = series if found.zone is None else series.dt.tz_localize(found.zone)
    elif values.dtype.kind == "f":
        series = pd.Series(np.append(values, np.nan)[codes])
    else:
        rows = np.append(values, values[:1])[codes]
        nullable = pd.arrays.BooleanArray if values.dtype.kind == "b" else pd.arrays.IntegerArray
        series = pd.Series(nullable(rows, missing) if missing.any() else rows)
    result = read(series, "")
    if found.format is not None:
        result.series["format"] = found.format
    return result


# ---------------------------------------------------------------- the kind that was asked for, and back to a Series


def _as_asked(found: Read, name: Any, kind: str | None) -> Read:
    """Return the values as the kind that was asked for. Raises DataError if they do not fit."""
    values, different = found.values, found.values.different
    if kind is None or found.kind == kind or not len(different):
        return found
    if kind == "category" or (kind == "continuous" and found.kind == "integer"):
        return found._replace(kind=kind)
    if kind == "boolean" and found.kind == "integer" and set(different.tolist()) <= {0, 1}:
        info = {"dtype": "boolean" if values.missing else "bool"}
        return Read(Values(different.astype(bool), values.codes), "bool", kind, info, found.notes)
    reads = {"date": lambda value: text.dates([value.strip()], more=True)}.get(
        kind, lambda value: text.numbers([value.strip()])
    )
    wrong: np.ndarray = np.ones(len(different), bool)
    if kind == "integer" and found.stored == "float64":
        wrong = different != np.rint(different)
    elif kind in ("integer", "continuous", "date") and found.stored == "text":
        wrong = np.array([reads(value) is None for value in different])
    if not wrong.any():  # each is right alone, but not all are written in the same way
        wrong[:] = True
    row = int(np.flatnonzero(np.append(wrong, False)[values.codes])[0])
    value = str(different[values.codes[row]])
    raise DataError(
        f"column {name!r} is set to {kind}, but row {row + 1} has {value!r}: choose one of {', '.join(KINDS)}, or "
        "repair the value"
    )


def to_series(decoded: Decoded, info: dict) -> "pandas.Series":
    """Return values (N,) as a Series of the dtype in `info`, which `read` returned as `Read.series`."""
    import pandas as pd

    values, missing = decoded
    dtype = info["dtype"]
    if "categories" in info:
        plain = values.astype(object)
        plain[missing] = None
        return pd.Series(pd.Categorical(plain, categories=info["categories"], ordered=info["ordered"]))
    if "unit" in info:
        moments = values.astype(f"datetime64[{info['unit']}]")
        moments[missing] = np.datetime64("NaT")
        series = pd.Series(moments.astype(dtype))
        return series if info["zone"] is None else series.dt.tz_localize("UTC").dt.tz_convert(info["zone"])
    if values.dtype == object:
        values = values.copy()
        values[missing] = np.nan
        return pd.Series(values, dtype=dtype)
    if dtype.lower().startswith(("float", "double")):
        values = values.astype(np.float64)
        values[missing] = np.nan
        return pd.Series(values).astype(dtype)
    if not missing.any():
        return pd.Series(values).astype(dtype)
    nullable = pd.arrays.BooleanArray if values.dtype.kind == "b" else pd.arrays.IntegerArray
    return pd.Series(nullable(values, missing)).astype(dtype)
