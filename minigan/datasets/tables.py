"""Data of the kind tables: rows of columns with different kinds, encoded as features."""

import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minigan.backends import GOLDEN, Array, Backend, reference
from minigan.datasets.column_kinds import IN_FRAME, KINDS, Column, LeftOut, column_of, escaped
from minigan.datasets.columns import Category, Decoded, Encoded
from minigan.datasets.conditions import Condition, choices_of, condition, hold, nearest
from minigan.datasets.data import Data, Kind, crc32
from minigan.datasets.files import DataError
from minigan.datasets.labels import listing
from minigan.datasets.table_files import COMPRESSED, Frame, import_pandas, is_table, read
from minigan.files import write_atomically
from minigan.options import check, option

if TYPE_CHECKING:
    import pandas

PENGUINS = Path(__file__).parent / "penguins" / "penguins.csv"
PENGUINS_SOURCE = "palmerpenguins by Allison Horst, Alison Hill and Kristen Gorman, CC0"
SHOWN = 40  # columns that the description names if nothing was assumed about them
CHUNK = 4096  # rows that are hashed at a time


@dataclass(frozen=True)
class TableOptions:
    """Options of data of the kind tables: what the columns are."""

    columns: str = option(
        "",
        help=f"tables: the kinds of columns, where they are not those inferred: {', '.join(KINDS)}. A backslash goes "
        "before a comma or colon in a name",
        metavar="NAME:KIND,...",
    )
    label: str = option("", help="tables and sequences: the column of the classes", metavar="COLUMN")

    def __post_init__(self):
        if isinstance(self.columns, dict):  # in Python, also {"age": "integer"}
            pairs = [f"{escaped(str(name))}:{kind}" for name, kind in self.columns.items()]
            object.__setattr__(self, "columns", ",".join(pairs))
        check(self)
        asked_kinds(self.columns)


def asked_kinds(columns: str) -> dict[str, str]:
    """Return the kind of each column that the option `columns` names. Raises DataError if it is not NAME:KIND,..."""
    asked = {}
    for entry in re.findall(r"(?:\\.|[^\\,])+|\\", columns):
        match = re.fullmatch(r"((?:\\.|[^\\:])+):([^:]*)", entry)
        if not match:
            raise DataError(f"--columns is NAME:KIND,... with a backslash before , and : in a name, got {entry!r}")
        name, kind = re.sub(r"\\(.)", r"\1", match[1]), match[2].strip()
        if kind not in KINDS:
            raise DataError(f"unknown kind {kind!r} of column {name!r}: choose {', '.join(KINDS)}")
        asked[name] = kind
    return asked


DEFAULTS = TableOptions()


# ---------------------------------------------------------------- the codec


@dataclass(frozen=True)
class TableCodec:
    """Decodes features to a data frame with the names, order and dtypes of the original columns.

    The fields of `Column.to_json` of each column, and the name of the column of labels, are all it needs.
    """

    columns: list
    label: Any = None

    view, key = "table", ""  # no key: a data frame is not an array
    suffixes = (".csv", ".csv.gz", ".parquet")

    @cached_property
    def parts(self) -> list[tuple[Column, int]]:
        """Each column, and the index of its first feature."""
        columns = [Column.from_json(fields) for fields in self.columns]
        starts = np.cumsum([0, *(column.width for column in columns)]).tolist()
        return list(zip(columns, starts, strict=False))

    @cached_property
    def width(self) -> int:
        """The number F of features of a row."""
        column, start = self.parts[-1]
        return start + column.width

    @cached_property
    def groups(self) -> tuple[tuple[int, int], ...]:
        """The one-hot groups, as (start, stop) of their features, sorted. Other features are numbers in [-1, 1]."""
        return tuple(
            (start + column.encoding.has_number, start + column.width)
            for column, start in self.parts
            if column.encoding.choices
        )

    @cached_property
    def label_group(self) -> int | None:
        """The index in `groups` of the column of the labels, or None."""
        names = [column.name for column, _ in self.parts if column.encoding.choices]
        return None if self.label is None else names.index(self.label)

    @cached_property
    def label_shares(self) -> np.ndarray | None:
        """The share (K,) of the rows of each class, or None without labels."""
        if self.label is None:
            return None
        encoding = next(column.encoding for column, _ in self.parts if column.name == self.label)
        assert isinstance(encoding, Category)
        counts = np.array([*encoding.counts, *([encoding.missing] if encoding.missing else [])], np.float64)
        return counts / counts.sum()

    def conditions(self, where: Mapping[str, Any], labels: bool = True) -> tuple[str | None, list[Condition]]:
        """Return the class that the conditions {column: value} ask for, or None, and those on other columns.

        Without `labels`, the column of the labels is one of the others. Raises DataError for a column or a value that
        the table does not have, and for columns that are no categories.
        """
        asked, others = None, []
        for name, value in where.items():
            found = condition(self.parts, name, value)
            if labels and str(name) == str(self.label):
                asked = choices_of(next(column for column, _ in self.parts if column.name == self.label))[found.choice]
            else:
                others.append(found)
        return asked, others

    def hold(self, samples: np.ndarray, conditions: Sequence[Condition]) -> np.ndarray:
        """Return for each row of features (N, F) whether all conditions hold, bool (N,)."""
        return hold(samples, conditions)

    @property
    def kinds(self) -> dict[Any, str]:
        """The kind of each column that is modelled: continuous, integer, category, boolean or date."""
        return {column.name: column.kind for column, _ in self.parts if column.width}

    @cached_property
    def numbers(self) -> list[int]:
        """The features that are numbers."""
        return [start for column, start in self.parts if column.encoding.has_number]

    def decode(self, samples: np.ndarray) -> "pandas.DataFrame":
        """Convert float samples (N, F) to a data frame of N rows.

        In each group, the largest feature counts. Numbers outside [-1, 1] are clipped. If a group says "one of the
        rare values", a hash of the row decides which one, so that equal samples give equal data frames. Equal rows in
        one call give different ones. Raises DataError if samples have another shape, or contain NaN.
        """
        pd = import_pandas()
        if samples.ndim != 2 or samples.shape[1] != self.width:
            raise DataError(f"expected samples (N, {self.width}), got {samples.shape}: are they of this table?")
        if np.isnan(samples).any():
            raise DataError("expected finite features, got NaN: look for where the numbers first went wrong")
        hashes = None
        if any(isinstance(column.encoding, Category) and column.encoding.rare for column, _ in self.parts):
            hashes = row_hashes(samples)
        decoded = []
        for i, (column, start) in enumerate(self.parts):
            number = samples[:, start] if column.encoding.has_number else None
            group = samples[:, start + column.encoding.has_number : start + column.width]
            choice = group.argmax(axis=1) if column.encoding.choices else None
            draws: np.ndarray = np.zeros(len(samples))
            if hashes is not None:
                draws = (mixed(hashes + np.uint64(GOLDEN * (i + 1) % 2**64)) >> np.uint64(11)) * 2.0**-53
            decoded.append(column.decode(Encoded(number, choice), draws))
        return pd.concat(decoded, axis=1)

    def save(self, decoded: "pandas.DataFrame", path: Path) -> None:
        """Write a data frame as .csv, .csv.gz or .parquet. Dates are written as they were in the file that was read.

        Raises DataError if pyarrow is missing, which .parquet needs.
        """
        if path.suffix == ".parquet":
            content = io.BytesIO()
            try:
                decoded.rename(columns=str).to_parquet(content, index=False)
            except ImportError:
                raise DataError(
                    "Parquet needs pyarrow, which is not installed: pip install 'minigan[tables]'"
                ) from None
            return write_atomically(path, content.getvalue())
        decoded = decoded.copy()
        for column, _ in self.parts:
            if column.series.get("format"):
                decoded[column.name] = decoded[column.name].dt.strftime(column.series["format"])
        text = decoded.to_csv(index=False, lineterminator="\n").encode("utf-8", "surrogatepass")
        write_atomically(path, gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)


def mixed(z: np.ndarray) -> np.ndarray:
    """Hash each element of z, uint64, as `mix64` does."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def row_hashes(samples: np.ndarray) -> np.ndarray:
    """Return a hash (N,) uint64 of each row (N, F), and of how many equal rows there are before it.

    Features are rounded to thousandths, because they differ in the last bits between backends.
    """
    import pandas as pd

    factors = mixed(np.arange(1, samples.shape[1] + 1, dtype=np.uint64) * np.uint64(GOLDEN)) | np.uint64(1)
    hashes = np.empty(len(samples), np.uint64)
    for start in range(0, len(samples), CHUNK):
        part = np.rint(np.clip(samples[start : start + CHUNK], -1, 1) * 1000).astype(np.int64).view(np.uint64)
        hashes[start : start + CHUNK] = mixed((part * factors).sum(axis=1, dtype=np.uint64))
    before = pd.Series(hashes).groupby(hashes).cumcount().to_numpy().astype(np.uint64)
    return mixed(hashes + before * np.uint64(GOLDEN))


# ---------------------------------------------------------------- the data


@dataclass(frozen=True, eq=False)
class Table:
    """N rows of a table. The features of a row are stored in a compact form, and `batch` writes them out."""

    numbers: np.ndarray  # (N, A) float32, the features that are numbers
    ones: np.ndarray  # (N, G) int32, the feature of each group that is 1
    frame: "pandas.DataFrame"  # the rows with the columns and dtypes of decoded samples
    codec: TableCodec
    labels: np.ndarray | None  # (N,) int64, the index in the group of the column of labels
    class_names: list[str] | None
    name: str
    lines: tuple[tuple[str, str], ...]  # what was read, as lines (topic, sentence)
    placed: tuple[Backend, Array, Array, Array] | None = None  # numbers, their features, and ones, for `batch`
    held_out: "Table | None" = None  # rows that are not trained on
    held_out_from: str = ""  # what they are

    kind = "tables"

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.ones)

    @property
    def sample_shape(self) -> tuple[int]:
        """The shape (F,) of the features of one row."""
        return (self.codec.width,)

    def part(self, index: np.ndarray) -> "Table":
        """Return the rows of index (N,), without `held_out`. Columns and classes stay the same."""
        labels = None if self.labels is None else self.labels[index]
        frame = self.frame.iloc[index].reset_index(drop=True)
        rest: dict[str, Any] = dict(placed=None, held_out=None, held_out_from="")
        return replace(self, numbers=self.numbers[index], ones=self.ones[index], frame=frame, labels=labels, **rest)

    def holding(self, held_out: Data, source: str) -> "Table":
        """Return the same rows with these `held_out`. `source` says what they are."""
        assert isinstance(held_out, Table)
        return replace(self, held_out=held_out, held_out_from=source)

    def to(self, backend: Backend) -> "Table":
        """Return the rows stored on the backend, in the compact form."""
        at = backend.asarray(np.array(self.codec.numbers, np.int64))
        return replace(self, placed=(backend, backend.asarray(self.numbers), at, backend.asarray(self.ones)))

    def batch(self, index: Array) -> Array:
        """Return the features (N, F) of the rows of index (N,): numbers in [-1, 1], and one-hot groups."""
        own = (reference(), self.numbers, np.array(self.codec.numbers, np.int64), self.ones)
        backend, numbers, at, ones = self.placed or own
        xp = backend.xp
        x = xp.zeros((len(index), self.codec.width), np.float32)
        x[:, at] = numbers[index]
        x[xp.arange(len(index))[:, None], ones[index]] = 1
        return x

    def fingerprint(self) -> dict:
        """Return the shape, and checksums of values and labels. Names and dtypes of the columns are not included."""
        encodings = [fields["encoding"] | {"stored": "", "how": fields["how"]} for fields in self.codec.columns]
        values = zlib.crc32(json.dumps(encodings).encode())
        values = zlib.crc32(self.ones.tobytes(), zlib.crc32(self.numbers.tobytes(), values))
        labels = None if self.labels is None else crc32(self.labels)
        return {"shape": [len(self), self.codec.width], "dtype": "float32", "values": values, "labels": labels}

    def description(self) -> list[tuple[str, str]]:
        """Return what was read, as lines (topic, sentence) for people."""
        held = [("held out", f"{len(self.held_out):,} rows {self.held_out_from}")] if self.held_out is not None else []
        return [*self.lines, *held]


def table(found: Frame, name: str, options: TableOptions = DEFAULTS, labels: bool = True) -> Table:
    """Return the columns of a file or data frame as data.

    `labels` says whether the networks will see labels; if not, the column of the option `label` is one like the
    others. Raises DataError if no column can be modelled, if the options name a column that does not exist, or if
    values do not fit their kind.
    """
    frame, label = found.frame, None
    names = [str(each) for each in frame.columns]
    if twice := [each for each in names if names.count(each) > 1]:
        raise DataError(f"several columns are called {twice[0]!r}: give each its own name")
    asked = asked_kinds(options.columns)
    for each in [*asked, *([options.label] if options.label else [])]:
        if each not in names:
            raise DataError(f"there is no column {each!r}: {nearest(each, names)}")
    if options.label and labels:
        label = next(each for each in frame.columns if str(each) == options.label)
    if not len(frame):
        raise DataError(f"{name}: the table has no rows: is this the right one?")
    columns: list[Column] = []
    encoded: list[Encoded] = []
    series: list[Any] = []
    about: dict[str, list[tuple[str, str]]] = {"column": [], "constant": [], "left out": []}
    plain = 0  # columns without notes
    for each in frame.columns:
        title = each if isinstance(each, str | int) else str(each)
        one = column_of(frame[each].reset_index(drop=True), title, asked.get(str(each)), found.texts, each == label)
        noted = f" ({'; '.join(one.notes)})" if one.notes else ""
        if isinstance(one.column, LeftOut) or one.values is None:
            assert isinstance(one.column, LeftOut)
            about["left out"].append(("left out", f"{title}: {one.column.reason}{noted}"))
            continue
        columns.append(one.column)
        encoded.append(one.column.encoding.encode(one.values))
        values = np.append(one.values.different, one.values.different[:1] if len(one.values.different) else 0)
        series.append(one.column.to_series(Decoded(values[one.values.codes], one.values.codes < 0)))
        topic = "column" if one.column.width else "constant"
        plain += topic == "column" and not noted
        if topic == "constant" or noted or plain <= SHOWN:
            about[topic].append((topic, f"{title}: {one.column.description()}{noted}"))
    if not any(column.width for column in columns):
        raise DataError(f"{name}: no column can be modelled: {_why(about, len(frame))}")
    codec = TableCodec(
        [column.to_json() for column in columns], None if label is None else _label(label, columns, about)
    )
    if plain > SHOWN:
        about["column"].append(("column", f"and {plain - SHOWN:,} more"))
    pd = import_pandas()
    index = np.arange(len(frame))
    numbers = [one.number for one in encoded if one.number is not None]
    choices = [one.choice for one in encoded if one.choice is not None]
    ones = [start + choice for (start, _), choice in zip(codec.groups, choices, strict=True)]
    classes, class_names = (None, None) if codec.label_group is None else _classes(codec, encoded)
    shape = [
        f"{count:,} {what}{'s' if count > 1 else ''}" for count, what in ((len(frame), "row"), (len(names), "column"))
    ]
    lines = [("read", f"{' of '.join(shape)}, {found.origin}")]
    if classes is not None and class_names is not None:
        counts = np.bincount(classes, minlength=len(class_names))
        sizes = f"{counts.min():,}" if counts.min() == counts.max() else f"{counts.min():,} to {counts.max():,}"
        lines.append(("labels", f"{len(class_names)} classes of {sizes} rows, column {label}: {listing(class_names)}"))
    elif options.label:
        lines.append(("labels", f"the networks do not see labels, so {options.label} is a column like the others"))
    return Table(
        numbers=np.stack(numbers, axis=1) if numbers else np.zeros((len(index), 0), np.float32),
        ones=np.stack(ones, axis=1).astype(np.int32) if ones else np.zeros((len(index), 0), np.int32),
        frame=pd.concat(series, axis=1),
        codec=codec,
        labels=classes,
        class_names=class_names,
        name=name,
        lines=(*lines, *about["column"], *about["constant"], *about["left out"], *(("note", n) for n in found.notes)),
    )


def _why(about: dict[str, list[tuple[str, str]]], rows: int) -> str:
    """Return why no column is modelled, and what to do."""
    if rows == 1:
        return "it has one row, and a column needs at least two different values"
    texts = [text for _, text in [*about["left out"], *about["constant"]]]
    return f"{'; '.join(texts[:3])}{' ...' if len(texts) > 3 else ''}"


def _label(label: Any, columns: list[Column], about: dict[str, list[tuple[str, str]]]) -> Any:
    """Return the name of the column of labels. Raises DataError if it is no category."""
    usable = [
        str(column.name)
        for column in columns
        if isinstance(column.encoding, Category) and not column.encoding.rare and column.encoding.repeated
    ]
    title = label if isinstance(label, str | int) else str(label)
    if str(title) in usable:
        return title
    texts = [text for lines in about.values() for _, text in lines]
    found = next((text for text in texts if text.startswith(f"{title}: ")), f"{title}: a number with many values")
    choose = f"choose one of {listing(usable, 10)}" if usable else "no column of this table can be one"
    raise DataError(f"a label is a column with few different values, but {found}: {choose}")


def _classes(codec: TableCodec, encoded: list[Encoded]) -> tuple[np.ndarray, list[str]]:
    """Return the class of each row (N,), and the names of the classes, in the order of the group."""
    place = next(i for i, (column, _) in enumerate(codec.parts) if column.name == codec.label)
    column, choice = codec.parts[place][0], encoded[place].choice
    assert isinstance(column.encoding, Category) and choice is not None
    return choice.astype(np.int64), choices_of(column)


# ---------------------------------------------------------------- loading


def load(spec: str, options: TableOptions, seed: int, labels: bool = True) -> Table:
    """Load "penguins", or the CSV or Parquet file at a path. The seed has no effect.

    Raises DataError, which says in one sentence what is wrong, where, and what to do.
    """
    if spec == "penguins":
        found = read(PENGUINS)._replace(origin=PENGUINS_SOURCE)
        return table(found, "penguins", options, labels)
    if not spec or "\0" in spec:
        raise DataError(f"the name of the data, {spec!r}, is not a path: give a CSV or Parquet file, or penguins")
    path = Path(os.path.expanduser(spec))
    stem = path.name
    while Path(stem).suffix.lower() in COMPRESSED or (is_table(stem) and Path(stem).suffix):
        stem = Path(stem).stem
    try:
        return table(read(path), stem, options, labels)
    except DataError as error:
        raise DataError(str(error) if str(path) in str(error) else f"{path}: {error}") from None


def is_frame(x: Any) -> str | None:
    """Return what kind of table an object is, or None: a data frame, a dictionary of columns, a structured array."""
    if isinstance(x, dict):
        return "a dictionary of columns"
    if isinstance(x, np.ndarray) and x.dtype.names:
        return "a structured array"
    if type(x).__name__ == "DataFrame" or hasattr(x, "to_pandas"):
        return "a data frame"
    return None


def convert(x: Any, labels: Any, options: TableOptions, shown: bool = True) -> Table:
    """Convert a data frame of pandas or polars, a dictionary of columns, or a structured array.

    `labels` is None, or the name of the column of labels. If networks will not see them (`shown`), it is a column
    like the others. Raises DataError for other objects.
    """
    if labels is not None:
        if not isinstance(labels, str):
            raise DataError(
                "the labels of a table are one of its columns: add them to it, and give the name, label=NAME"
            )
        options = replace(options, label=labels)
    return table(frame_of(x), "table", options, shown)


def frame_of(x: Any) -> Frame:
    """Return the columns of a data frame, a dictionary or a structured array. Raises DataError for other objects."""
    pd = import_pandas()
    if is_frame(x) is None:
        raise DataError(
            f"expected a data frame, a dictionary of columns or a structured array, got {type(x).__name__}: convert it "
            "with pandas.DataFrame(x, columns=[...])"
        )
    try:
        frame = x.to_pandas() if hasattr(x, "to_pandas") else pd.DataFrame(x)
    except (ValueError, TypeError) as error:
        raise DataError(f"the columns do not form a table ({error}): give columns of the same length") from None
    notes = []
    if not isinstance(frame.index, pd.RangeIndex):
        notes.append("the index of the data frame was left out: reset_index() makes it a column")
    if frame.columns.nlevels > 1:
        frame = frame.set_axis([" ".join(map(str, parts)) for parts in frame.columns], axis=1)
        notes.append("names of columns with several levels were joined")
    return Frame(frame, IN_FRAME, is_frame(x) or "", tuple(notes))


def claims(data: str) -> str | None:
    """Return the reason why this value of --data is a table, or None."""
    if data == "penguins":
        return "penguins is a table"
    what = is_table(data)
    return None if what is None else f"{data} is {what}"


KIND = Kind(
    name="tables",
    noun="row",
    load=load,
    codec=TableCodec,
    default_preset="table",
    builtin=("penguins",),
    example_shape=(6,),
    claims=claims,
    takes=is_frame,
    options=TableOptions,
    convert=convert,
)
