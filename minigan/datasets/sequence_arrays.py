"""Read series from arrays: .npy and .npz files, arrays in memory, and lists of arrays of different lengths.

    (N, T)        N series of T steps, each with one number
    (N, T, F)     N series of T steps, each with F features
    (T,), (T, F)  with the option --window: one long series

Integers, booleans and floats are accepted. NaN is a missing value. Series of different lengths end with NaN in an
array, or have their lengths in an array `lengths` of the archive.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minigan.datasets import arrays
from minigan.datasets.files import DataError, open_file, read_bytes
from minigan.datasets.sequence_values import Series

KEYS = ("series", "sequences", "sequence", "timeseries", "time_series", "x", "x_train", "train_x", "data", "arr_0")
LABELS = ("labels", "label", "y", "y_train", "train_y", "targets", "target", "classes", "arr_1")
LENGTHS = ("lengths", "length", "lens", "seq_lengths")
RAGGED = "save series of different lengths as one array (N, T, F) with nan after their ends, and add --pad"
Header = tuple[tuple[int, ...], np.dtype]


def load(path: Path, window: int, keys: str, labels: bool) -> Series:
    """Read the series of a .npy or .npz file. `labels` says whether to read labels, if there are any.

    Nothing is unpickled. Raises DataError, which says in one sentence what is wrong, where, and what to do.
    """
    with open_file(path) as file:
        zipped = read_bytes(file, 2, path) == b"PK"
        file.seek(0)
        if not zipped:
            header = arrays.read_header(file, path)
            _expect_plain(header[2], str(path))
            file.seek(0)
            x = arrays.read(file, os.fstat(file.fileno()).st_size, path)
            return of_array(x, window, str(path), f"array {path.name}")
        with arrays.archive(file, path) as members:
            headers = members.headers()
            key, label_key, notes = _keys(path, headers, keys)
            _expect_plain(headers[key][1], f"{path}: array {key!r}")
            length_key = _first(headers, LENGTHS)
            found = of_array(members.array(key), window, f"{path}: array {key!r}", f"array {key!r} of {path.name}")
            found = found._replace(notes=(*notes, *found.notes))
            if length_key is not None and not window:
                found = _cut(found, members.array(length_key), f"{path}: array {length_key!r}")
            if label_key is None or not labels:
                return found._replace(labels_from="not read" if label_key is not None else "")
            given = members.array(label_key)
            expect_one_each(given, len(found.lengths), f"{path}: array {label_key!r}")
            return found._replace(labels=given, labels_from=f"array {label_key!r}")


def expect_one_each(labels: np.ndarray, count: int, where: str) -> None:
    """Raise DataError if there is not one label for each of `count` series. The message starts with `where`."""
    if not labels.ndim or len(labels) != count:
        came = len(labels) if labels.ndim else 1
        raise DataError(
            f"{where}: expected {count:,} labels, one for each series, got {came:,}: save those that belong"
        )


def _expect_plain(dtype: np.dtype, where: str) -> None:
    """Raise DataError if the elements are objects."""
    if dtype.kind == "O":
        raise DataError(
            f"{where}: expected an array of numbers, got Python objects, which are never unpickled: {RAGGED}"
        )


def _first(headers: Mapping[str, Header], names: tuple[str, ...]) -> str | None:
    """Return the first of the names that is a key, ignoring case, or None."""
    folded = {key.casefold(): key for key in headers}
    return next((folded[name] for name in names if name in folded), None)


def _keys(path: Path, headers: Mapping[str, Header], asked: str) -> tuple[str, str | None, list[str]]:
    """Return (key of the series, key of the labels or None, notes). Raises DataError if it is not clear."""
    listed = ", ".join(f"{key} {shape}" for key, (shape, _) in headers.items()) or "no arrays"
    if asked:
        names = [part.strip() for part in asked.split(",")]
        if len(names) > 2 or not names[0]:
            raise DataError(f"--keys takes the series' key and the labels', such as --keys x,y, got {asked!r}")
        if lacking := [name for name in names if name and name not in headers]:
            raise DataError(f"{path}: there is no array {lacking[0]!r}: it has {listed}")
        return names[0], names[1] if len(names) == 2 and names[1] else None, []
    key, notes = _first(headers, KEYS), []
    if key is None or headers[key][1].kind not in "biufO" or not headers[key][0]:
        numbers = {key: shape for key, (shape, dtype) in headers.items() if dtype.kind in "biufO"}
        most = max((len(shape) for shape in numbers.values()), default=0)
        likely = [key for key, shape in numbers.items() if len(shape) == most and most >= 1]
        if len(likely) != 1:
            raise DataError(
                f"{path}: cannot tell which array has the series: it has {listed}: name it with --keys SERIES,LABELS"
            )
        key = likely[0]
        notes.append(f"array {key!r} is the only one that can be series")
    label_key = _first({k: v for k, v in headers.items() if k != key}, LABELS)
    if label_key is not None and headers[label_key][0][:1] != headers[key][0][:1]:
        notes.append(f"array {label_key!r} {headers[label_key][0]} is not one label for each series, and is not read")
        label_key = None
    return key, label_key, notes


def of_array(x: np.ndarray, window: int, where: str, origin: str) -> Series:
    """Return the series in an array. With `window`, an array of one or two axes is one long series.

    Raises DataError, whose message starts with `where`, for other shapes and for elements that are no numbers.
    """
    notes: tuple[str, ...] = ()
    if x.dtype.kind not in "biuf" or x.ndim not in (1, 2, 3):
        raise DataError(f"{where}: expected numbers (N, T) or (N, T, F), series of T steps, got {x.dtype} {x.shape}")
    if not x.size:
        raise DataError(
            f"{where}: expected at least one series with a value, got shape {x.shape}: is this the right file?"
        )
    x = x.astype(np.uint8) if x.dtype.kind == "b" else x.astype(x.dtype.newbyteorder("="), copy=False)
    flat, dtype = x.ndim == 1 or (x.ndim == 2 and not window), str(x.dtype)
    shape = f"{origin}, {dtype} {x.shape}"
    if x.ndim == 2 and window:
        notes = (f"with --window, an array {x.shape} is one series of {len(x):,} steps and {x.shape[1]} features",)
    if x.ndim == 1 or (x.ndim == 2 and window):
        x = x[None]
    x = x[..., None] if flat else x
    names = ["value"] if x.shape[2] == 1 else [f"feature {i + 1}" for i in range(x.shape[2])]
    lengths = np.full(len(x), x.shape[1], np.int64)
    return Series(x.reshape(-1, x.shape[2]), lengths, names, dtype=dtype, flat=flat, origin=shape, notes=notes)


def _cut(found: Series, lengths: np.ndarray, where: str) -> Series:
    """Return the series without the steps after these lengths (N,). Raises DataError if they do not fit."""
    steps = int(found.lengths.max())
    good = lengths.shape == found.lengths.shape and lengths.dtype.kind in "iu"
    if not good or lengths.min() < 1 or lengths.max() > steps:
        raise DataError(
            f"{where}: expected {len(found.lengths):,} whole numbers from 1 to {steps:,}, the length of each series, "
            f"got {lengths.dtype} {lengths.shape}"
            + (f" from {lengths.min()} to {lengths.max()}" if good else "")
            + ": save them again"
        )
    kept = (np.arange(steps) < lengths[:, None]).ravel()
    return found._replace(values=found.values[kept], lengths=lengths.astype(np.int64))


# ---------------------------------------------------------------- in memory


def of_list(series: list, where: str = "the series") -> Series:
    """Return a list of arrays (T,) or (T, F), whose lengths T may differ. Raises DataError if they do not fit."""
    parts = []
    for n, each in enumerate(series):
        try:
            part = np.asarray(each)
        except Exception as error:  # `__array__` of other libraries can raise any error
            raise DataError(f"{where}: number {n} cannot be converted to an array ({error}): give arrays") from None
        if part.dtype.kind not in "biuf" or part.ndim not in (1, 2) or not part.size:
            raise DataError(f"{where}: expected arrays (T,) or (T, F), got {part.dtype} {part.shape} as number {n}")
        parts.append(part[:, None] if part.ndim == 1 else part)
    widths = sorted({part.shape[1] for part in parts})
    if len(widths) > 1:
        raise DataError(f"{where}: all have the same features, got some with {widths[0]} and some with {widths[-1]}")
    x = np.concatenate(parts)
    found = of_array(x[None], 0, where, f"a list of {len(parts):,} arrays")
    lengths = np.array([len(part) for part in parts], np.int64)
    return found._replace(lengths=lengths, flat=all(np.ndim(each) == 1 for each in series))


def is_ragged(x: Any) -> bool:
    """Return whether an object is a list, or an array of objects, of arrays whose lengths differ."""
    if isinstance(x, np.ndarray) and x.dtype == object and x.ndim == 1:
        x = list(x)
    if (
        not isinstance(x, list | tuple)
        or not x
        or any(not hasattr(each, "__len__") or isinstance(each, str) for each in x)
    ):
        return False
    dims = {
        np.ndim(each) if hasattr(each, "ndim") else 1 + hasattr(each[0], "__len__") if len(each) else 0 for each in x
    }
    return dims <= {1, 2} and len({len(each) for each in x}) > 1


def looks_like_series(shape: tuple[int, ...], dtype: Any) -> str | None:
    """Return what an array of this shape and type is if it is series, or None: it is taken for images.

    Series are floats (N, A, B) with A different from B, floats (N, T) where T is no square number, and all arrays (T,).
    """
    if len(shape) == 1 and shape[0] > 1 and "float" in str(dtype):
        return f"an array {shape} of floats, one series,"
    if "float" not in str(dtype) or len(shape) not in (2, 3) or 0 in shape:
        return None
    if len(shape) == 3:
        return None if shape[1] == shape[2] else f"an array {shape} of floats, (series, steps, features),"
    square = round(shape[1] ** 0.5) ** 2 == shape[1]
    return None if square else f"an array {shape} of floats, (series, steps),"


def claimed(path: Path) -> str | None:
    """Return what the array in a .npy or .npz file is if it is series, or None: see `looks_like_series`.

    Only the headers are read. A file that cannot be read is not series; its reader says what is wrong.
    """
    try:
        if path.suffix.lower() not in (".npy", ".npz") or not path.is_file():
            return None
        with open_file(path) as file:
            zipped = read_bytes(file, 2, path) == b"PK"
            file.seek(0)
            if not zipped:
                shape, _, dtype, _ = arrays.read_header(file, path)
                return looks_like_series(shape, dtype)
            with arrays.archive(file, path) as members:
                headers = members.headers()
                if _first(headers, ("images", "image", "imgs", "img", "pixels")) is not None:
                    return None
                return looks_like_series(*headers[_keys(path, headers, "")[0]])
    except (DataError, OSError):
        return None
