"""Data of the kind sequences: series of numbers over time.

Samples have the shape (T, C), T steps of C features: see `sequence_codec`. The module `sequence_arrays` reads arrays,
`sequence_tables` reads tables, `processes` draws what is built in, and `sequence_values` prepares all of them.
"""

import os
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from minigan.backends import Array, Backend, reference
from minigan.datasets import processes, sequence_arrays, sequence_tables, table_files
from minigan.datasets.column_kinds import IN_FRAME
from minigan.datasets.data import Data, Kind, crc32
from minigan.datasets.files import DataError, explain
from minigan.datasets.idx import load as load_idx
from minigan.datasets.images import ImageOptions
from minigan.datasets.labels import encode, listing
from minigan.datasets.sequence_codec import SequenceCodec
from minigan.datasets.sequence_tables import Columns
from minigan.datasets.sequence_values import Series, prepared
from minigan.datasets.table_files import Frame, import_pandas, is_table
from minigan.datasets.tables import TableOptions, is_frame
from minigan.options import check, option, options

BUILTIN = ("sines", "ar", "mnist-rows", "heartbeats")
MNIST = Path(__file__).parent / "mnist"
MNIST_SOURCE = "MNIST by Yann LeCun and Corinna Cortes, CC BY-SA 3.0"
MISSING, SCALES = ("fill", "keep"), ("range", "deviation")
APART = 20  # series from which on whole series are held out, and not the last windows of each
MOST_HELD_OUT = 2000  # series of the test digits


@dataclass(frozen=True)
class SequenceOptions:
    """Options of data of the kind sequences: how series are read, cut and scaled."""

    window: int = option(0, help="sequences: cut windows of N steps from long series", low=0, metavar="N")
    stride: int = option(
        1, help="sequences: the steps from one window to the next (default {default})", low=1, metavar="K"
    )
    pad: bool = option(False, help="sequences: pad shorter series; samples then have different lengths, too")
    missing: str = option(
        "",
        help="sequences: what to do about missing values: fill (interpolate) or keep (samples have gaps, too); without "
        "it, they are refused",
        metavar="HOW",
        choices=("", *MISSING),
    )
    scale: str = option(
        "range",
        help="sequences: what becomes -1 and 1: the smallest and the largest value of a feature (range), or 3 standard "
        "deviations (deviation)",
        metavar="HOW",
        choices=SCALES,
    )
    form: str = option(
        "",
        help="sequences: the form of a table: long (a row for each step) or wide (a row for each series; default: "
        "recognised)",
        metavar="FORM",
        choices=("", *sequence_tables.FORMS),
    )
    series: str = option("", help="sequences: in a table, the column that names the series", metavar="COLUMN")
    time: str = option("", help="sequences: in a table, the column of the times", metavar="COLUMN")
    values: str = option(
        "", help="sequences: in a table, the columns of the values (default: all others)", metavar="NAME,..."
    )
    label: str = option("", help=options(TableOptions)["label"].help, metavar="COLUMN")
    keys: str = option("", help=options(ImageOptions)["keys"].help, metavar="SERIES,LABELS")

    def __post_init__(self):
        check(self)
        if self.window == 1:
            raise DataError("--window is at least 2 steps, got 1")
        if self.stride > 1 and not self.window:
            raise DataError(f"--stride {self.stride} is the distance of windows: give --window N, too")
        if self.pad and self.window:
            raise DataError("windows have equal lengths, so there is nothing to pad: leave out --pad or --window")

    @property
    def columns(self) -> Columns:
        """The columns of a table that the options name."""
        values = tuple(name.strip() for name in self.values.split(",") if name.strip())
        return Columns(self.form, self.series, self.time, self.label, values)


DEFAULTS = SequenceOptions()


@dataclass(frozen=True, eq=False)
class Sequences:
    """N series of T steps. Windows of one long series share its steps, so that each step is stored once."""

    steps: np.ndarray  # (M, C) float32, the features of all steps
    starts: np.ndarray  # (N,) int64: sample n is steps[starts[n] : starts[n] + T]
    owners: np.ndarray  # (N,) int64, the series from which each sample comes
    codec: SequenceCodec
    labels: np.ndarray | None  # (N,) int64
    class_names: list[str] | None
    name: str
    lines: tuple[tuple[str, str], ...]  # what was read, as lines (topic, sentence)
    labels_from: str = ""
    placed: tuple[Backend, Array, Array] | None = None  # steps and starts, for `batch`
    held_out: "Sequences | None" = None  # series that are not trained on
    held_out_from: str = ""  # what they are

    kind = "sequences"

    def __len__(self) -> int:
        """The number of series."""
        return len(self.starts)

    @property
    def sample_shape(self) -> tuple[int, int]:
        """The shape (T, C) of one sample."""
        return (self.codec.steps, self.codec.width)

    def part(self, index: np.ndarray) -> "Sequences":
        """Return the series of index (N,), without `held_out`. Scales and classes stay the same."""
        labels = None if self.labels is None else self.labels[index]
        rest: dict[str, Any] = dict(placed=None, held_out=None, held_out_from="")
        return replace(self, starts=self.starts[index], owners=self.owners[index], labels=labels, **rest)

    def holding(self, held_out: Data, source: str) -> "Sequences":
        """Return the same series with these `held_out`. `source` says what they are."""
        assert isinstance(held_out, Sequences)
        return replace(self, held_out=held_out, held_out_from=source)

    def apart(self, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the indices of (windows to train on, windows to hold out) that have no step in common.

        Whole series are held out if there are enough, otherwise the last windows of each, and those to train on end
        before the first of them begins. Returns None if no two samples have a step in common.
        """
        if len(np.unique(self.owners)) == len(self):
            return None
        series = np.unique(self.owners)
        if len(series) >= APART:
            chosen = rng.permutation(series)[: max(1, round(share * len(series)))]
            held = np.isin(self.owners, chosen)
            return np.flatnonzero(~held), np.flatnonzero(held)
        train, apart = [], []
        for n in series:
            own = np.flatnonzero(self.owners == n)
            last = own[len(own) - max(1, round(share * len(own))) :]
            apart.append(last)
            train.append(own[self.starts[own] + self.codec.steps <= self.starts[last[0]]])
        return np.concatenate(train), np.concatenate(apart)

    def to(self, backend: Backend) -> "Sequences":
        """Return the series stored on the backend. Each step is stored once."""
        return replace(self, placed=(backend, backend.asarray(self.steps), backend.asarray(self.starts)))

    def batch(self, index: Array) -> Array:
        """Return the features (N, T, C) of the series of index (N,)."""
        backend, steps, starts = self.placed or (reference(), self.steps, self.starts)
        return steps[starts[index][:, None] + backend.xp.arange(self.codec.steps)]

    def series(self, index: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Return the series of an index as people use them: (N, T, F) or (N, T), with NaN for missing values."""
        return self.codec.decode(replace(self, placed=None).batch(np.arange(len(self))[index]))

    def fingerprint(self) -> dict:
        """Return the shape, and checksums of values and labels. Names of features and series are not included."""
        fields = [asdict(feature) | {"name": ""} for feature in self.codec.parts]
        values = zlib.crc32(repr((fields, self.codec.steps, self.codec.ends, self.codec.dtype)).encode())
        values = zlib.crc32(np.ascontiguousarray(self.steps).data, zlib.crc32(self.starts.tobytes(), values))
        labels = None if self.labels is None else crc32(self.labels)
        return {"shape": [len(self), *self.sample_shape], "dtype": "float32", "values": values, "labels": labels}

    def description(self) -> list[tuple[str, str]]:
        """Return what was read, as lines (topic, sentence) for people."""
        lines = [*self.lines]
        if self.labels is None or self.class_names is None:
            lines.insert(1, ("labels", self.labels_from or "none were found"))
        else:
            counts = np.bincount(self.labels, minlength=len(self.class_names))
            sizes = f"{counts.min():,}" if counts.min() == counts.max() else f"{counts.min():,} to {counts.max():,}"
            classes = f"{len(self.class_names)} {'class' if len(self.class_names) == 1 else 'classes'}"
            text = f"{classes} of {sizes} series, {self.labels_from}: {listing(self.class_names)}"
            lines.insert(1, ("labels", text))
        if self.held_out is not None:
            lines.append(("held out", f"{len(self.held_out):,} series {self.held_out_from}"))
        return lines

    def with_labels(self, labels: Any) -> "Sequences":
        """Return the series with these labels, one for each, of any type. Raises DataError if they do not fit."""
        given = np.asarray(labels)
        sequence_arrays.expect_one_each(given, len(self), "the labels")
        codes, names, notes = encode(given, "the labels", "series")
        held_out = self.held_out and replace(self.held_out, labels=None, class_names=None)
        lines = (*self.lines, *(("note", note) for note in notes))
        rest: dict[str, Any] = dict(labels_from="the given array", lines=lines, held_out=held_out)
        return replace(self, labels=codes, class_names=names, **rest)


def sequences(found: Series, name: str, chosen: SequenceOptions = DEFAULTS) -> Sequences:
    """Return series as data: checked, cut, scaled and with classes. Raises DataError if they cannot be used."""
    ready = prepared(found, chosen.window, chosen.stride, chosen.pad, chosen.missing, chosen.scale)
    labels, names, notes = None, None, list(found.notes)
    if found.labels is not None:
        codes, names, more = encode(found.labels, "the labels", "series")
        notes += more
        kept = ready.kept  # series that were left out have no labels
        labels = codes[kept][ready.owners]
    lines = [("read", found.origin), *ready.lines, *(("note", note) for note in notes)]
    return Sequences(
        ready.steps, ready.starts, ready.owners, ready.codec, labels, names, name, tuple(lines), found.labels_from
    )


# ---------------------------------------------------------------- loading


def load(spec: str, chosen: SequenceOptions, seed: int, labels: bool = True) -> Sequences:
    """Load the series at a path, or those that are built in: BUILTIN. The seed decides what processes draw.

    Raises DataError, which says in one sentence what is wrong, where, and what to do.
    """
    if spec == "mnist-rows":
        data = _digits("train", chosen, labels)
        held_out = _digits("t10k", chosen, labels)
        few = held_out.part(np.arange(MOST_HELD_OUT) * len(held_out) // MOST_HELD_OUT)
        return data.holding(few, "of the test digits")
    if spec in BUILTIN:
        drawn = processes.draw(spec, seed)
        name = "synthetic heartbeats" if spec == "heartbeats" else spec
        data = sequences(_seen(drawn.training, labels), name, chosen)
        held_out = sequences(_seen(drawn.held_out, labels), name, chosen)
        return data.holding(_as_in(held_out, data), "of the same process")
    if not spec or "\0" in spec:
        raise DataError(f"the name of the data, {spec!r}, is not a path: give a file of series, or {BUILTIN[0]}")
    path = Path(os.path.expanduser(spec))
    try:
        if path.is_dir():
            raise DataError(f"{path}: expected a file of series, got a folder: give a .npy, .npz or CSV file inside it")
        if is_table(spec):
            found = sequence_tables.series(table_files.read(path), chosen.columns, chosen.window, labels)
        else:
            found = sequence_arrays.load(path, chosen.window, chosen.keys, labels)
        return sequences(found, path.stem, chosen)
    except OSError as error:
        raise explain(path, error) from None
    except MemoryError:
        raise DataError(f"{path}: the series do not fit in memory: use fewer, or shorter ones") from None
    except DataError as error:
        raise DataError(str(error) if str(path) in str(error) else f"{path}: {error}") from None


def _seen(found: Series, labels: bool) -> Series:
    """Return the series, without their labels if the networks will not see them."""
    if labels or found.labels is None:
        return found
    return found._replace(labels=None, labels_from="not read")


def _digits(split: str, chosen: SequenceOptions, labels: bool) -> Sequences:
    """Return the digits of a split of MNIST as series of 28 steps, the rows from above, with 28 features each."""
    images = load_idx(MNIST / f"{split}-images-idx3-ubyte.gz")
    x = images.images[..., 0]
    names = [f"column {i + 1}" for i in range(x.shape[2])]
    found = processes.as_series(x, MNIST_SOURCE, names, images.labels, "MNIST", "mnist-rows")
    return sequences(_seen(found._replace(scales=(0.0, 255.0)), labels), "mnist-rows", chosen)


def _as_in(held_out: Sequences, data: Sequences) -> Sequences:
    """Return held-out series, scaled as the data are. Values beyond those of the data are clipped in `series`."""
    own, codec = [held_out.codec.parts[i] for i in data.codec.modelled], data.codec
    values = held_out.steps * np.array([part.half for part in own]) + np.array([part.centre for part in own])
    everything = np.zeros((len(values), len(codec.parts)))
    everything[:, codec.modelled] = values
    return replace(held_out, steps=codec.encode(everything, np.zeros(everything.shape, bool)), codec=codec)


def convert(x: Any, labels: Any, chosen: SequenceOptions, shown: bool = True) -> Sequences:
    """Convert an array (N, T) or (N, T, F), a list of arrays of different lengths, or a data frame.

    With the option `window`, an array (T,) or (T, F) is one long series. `labels` has one entry for each series, of any
    type; for a data frame it is the name of a column. Raises DataError for other objects.
    """
    if is_frame(x):
        if labels is not None and not isinstance(labels, str):
            raise DataError(
                "the labels of a table are one of its columns: add them to it, and give the name, label=NAME"
            )
        columns = chosen.columns if labels is None else chosen.columns._replace(label=labels)
        frame = x.to_pandas() if hasattr(x, "to_pandas") else import_pandas().DataFrame(x)
        found = sequence_tables.series(Frame(frame, IN_FRAME, is_frame(x) or "", ()), columns, chosen.window, shown)
        return sequences(found, "table", chosen)
    if sequence_arrays.is_ragged(x):
        found = sequence_arrays.of_list(list(x))
    else:
        try:
            array = np.asarray(x)
        except Exception as error:  # `__array__` of other libraries can raise any error
            reason = " ".join(str(error).split())[:200]
            raise DataError(f"the series cannot be converted to one array ({reason}): give a NumPy array") from None
        found = sequence_arrays.of_array(array, chosen.window, "the array of series", "array")
    if labels is not None:
        given = np.asarray(labels)
        sequence_arrays.expect_one_each(given, len(found.lengths), "the labels")
        found = found._replace(labels=given, labels_from="the given array")
    return sequences(found, "array", chosen)


def claims(data: str) -> str | None:
    """Return the reason why this value of --data is series, or None."""
    if data in BUILTIN:
        return f"{data} is a set of series"
    if not data or "\0" in data:
        return None
    what = sequence_arrays.claimed(Path(os.path.expanduser(data)))
    return None if what is None else f"{data} has {what} which is read as series (--kind images for images)"


def takes(x: Any) -> str | None:
    """Return what an object in memory is if it is series, or None."""
    if sequence_arrays.is_ragged(x):
        return "a list of arrays of different lengths"
    shape, dtype = getattr(x, "shape", None), getattr(x, "dtype", None)
    if shape is None or dtype is None or not isinstance(shape, Sequence):
        return None
    return sequence_arrays.looks_like_series(tuple(shape), dtype)


def reads(data: str) -> bool:
    """Return whether the value of --data may be series if the user says so: built in, or a file of a known format."""
    return data in BUILTIN or bool(is_table(data)) or Path(data).suffix.lower() in (".npy", ".npz")


KIND = Kind(
    name="sequences",
    noun="series",
    load=load,
    codec=SequenceCodec,
    default_preset="waves",
    builtin=BUILTIN,
    example_shape=(8, 3),
    claims=claims,
    takes=takes,
    reads=reads,
    options=SequenceOptions,
    convert=convert,
)
