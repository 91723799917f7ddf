"""Read image arrays saved by NumPy: .npy (one array) and .npz (a zip archive of .npy files)."""

import math
import os
import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from minigan.datasets.files import DAMAGED, DataError, expect_room, explain, open_file, read_bytes
from minigan.datasets.images import DEFAULTS, SPLITS, ImageOptions, Images, check_size, fitted
from minigan.datasets.labels import encode
from minigan.datasets.pictures import background, on_background
from minigan.datasets.pixels import to_bytes

# Keys of images in archives, each with the keys of the labels that belong to them. The first key that is found is used,
# and its case is ignored. {split} stands for every name of the split in SPLITS.
KEYS = [
    ("images", ("labels", "label", "targets", "y")),
    ("image", ("label", "labels", "target")),
    ("{split}_images", ("{split}_labels", "{split}_label", "{split}_targets")),
    ("images_{split}", ("labels_{split}",)),
    ("x_{split}", ("y_{split}", "labels_{split}")),
    ("{split}_x", ("{split}_y", "{split}_labels")),
    ("{split}x", ("{split}y",)),
    ("x", ("y", "labels", "label", "target")),
    ("xs", ("ys",)),
    ("imgs", ("lbls", "labels", "lbl")),
    ("img", ("lbl", "label", "labels")),
    ("{split}_imgs", ("{split}_lbls", "{split}_labels")),
    ("data", ("target", "targets", "labels", "label", "y")),
    ("{split}_data", ("{split}_labels", "{split}_target", "{split}_targets")),
    ("inputs", ("targets", "labels")),
    ("features", ("labels", "targets")),
    ("pixels", ("labels", "label")),
    ("arr_0", ("arr_1",)),
]
# A word in the name of a file of images, and the words that replace it in the name of the file of labels.
SIBLINGS = [
    (re.compile(images, re.I), labels)
    for images, labels in (
        (r"(?<![a-z])images?(?![a-z])", ("labels", "label")),
        (r"(?<![a-z])imgs?(?![a-z])", ("labels", "lbls", "label", "lbl")),
        (r"(?<![a-z])x(?![a-z])", ("y", "labels")),
        (r"(?<![a-z])data(?![a-z])", ("target", "targets", "labels", "label")),
    )
]


def load(path: Path, options: ImageOptions = DEFAULTS) -> Images:
    """Load images from a .npy file or from an array of a .npz archive, with labels, if any.

    The array has the shape (N, H, W), (N, H, W, C), (N, C, H, W) or (N, H*W). C is 1 or 3, or with
    an alpha channel 2 or 4. Rows (N, H*W) are square grey images. `pixels.to_bytes` converts the
    values to uint8.

    Labels are read from the same archive (see KEYS, or the option `keys`), or from a file in the
    same folder whose name differs in one word (see SIBLINGS). `labels.encode` converts them to
    classes.

    Nothing is unpickled. Raises DataError for damaged files and for arrays that are not images or
    labels. The message gives the index of a wrong value.
    """
    where, notes, labels, origin = str(path), [], None, ""
    if not options.keys and (other := images_of(path)):
        raise DataError(f"{path}: these are the labels of {other.name}: give that file, and they are found")
    with open_file(path) as file:
        zipped = read_bytes(file, 2, path) == b"PK"
        file.seek(0)
        if not zipped:
            x, source = read(file, os.fstat(file.fileno()).st_size, path), f"array {path.name}"
        else:
            entry = _read_archive(file, path, options)
            x, where, source = entry.images, f"{path}: array {entry.key!r}", f"array {entry.key!r} of {path.name}"
            labels, origin, notes = entry.labels, entry.labels_from, [*entry.notes]
    if not options.labels:
        labels, origin = None, "not read"
    elif labels is None:
        labels, origin = _labels_of_sibling(path, x.shape[0] if x.ndim else 0)
    found = _Read(x, labels, where, f"{path}: {origin}", path.stem, source, origin)
    return _images(found, options, notes)


def convert(x: Any, labels: Any = None, options: ImageOptions = DEFAULTS) -> Images:
    """Convert an array of images, and labels, to `Images`, exactly as `load` does with the arrays of a file.

    `x` is an array, a list, or any object that NumPy converts to an array. `labels` has one entry
    for each image, of any type: see `labels.encode`. Neither is changed, and later changes of
    them have no effect. Raises DataError for arrays that are not images or labels.
    """
    x = _as_array(x, "images")
    if x.dtype.kind not in "biuf" or x.ndim < 2:
        raise DataError(f"expected an array of images, such as (N, H, W) of uint8, got {x.dtype} {x.shape}")
    origin = "not read" if not options.labels else "" if labels is None else "the given array"
    labels = None if labels is None or not options.labels else _as_array(labels, "labels")
    found = _Read(x, labels, "the array of images", "the labels", "array", f"array {x.dtype} {x.shape}", origin)
    data = _images(found, options, [])
    return replace(data, images=data.images.copy()) if np.shares_memory(data.images, x) else data


def _as_array(x: Any, what: str) -> np.ndarray:
    """Convert x to an array. Raises DataError, which names `what` x is, if that is not possible."""
    try:
        return np.asarray(x)
    except Exception as error:  # `__array__` of other libraries can raise any error
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"the {what} cannot be converted to one array ({reason}): give a NumPy array") from None


@dataclass(frozen=True)
class _Read:
    """Arrays of images and labels as they were read, and where from."""

    x: np.ndarray
    labels: np.ndarray | None
    where: str  # for messages about the images
    where_labels: str
    name: str
    source: str
    labels_from: str


def _images(found: _Read, options: ImageOptions, notes: list[str]) -> Images:
    """Interpret shape, values and labels of the arrays. `notes` on how they were read come first."""
    x, more = channels_last(found.x, found.where, options)
    notes += more
    plain = x.dtype == np.uint8 and x.max() > 1 and options.limits is None
    colours, more = to_bytes(x[..., : 1 if x.shape[3] < 3 else 3], found.where, options.limits)
    notes += [] if plain else more
    images, more = _opaque(colours, x, found.where, options)
    notes += more
    images, more = fitted(images, options)
    notes += more
    labels, names = found.labels, None
    if labels is not None:
        labels, names, more = encode(labels, found.where_labels)
        notes += more
        expect_one_each(labels, len(images), found.where_labels)
    images = np.ascontiguousarray(images)
    return Images(images, labels, found.name, found.source, names, found.labels_from, tuple(notes))


def expect_one_each(labels: np.ndarray, count: int, where: str) -> None:
    """Raise DataError if there is not one label for each of `count` images."""
    if len(labels) != count:
        raise DataError(
            f"{where}: expected {count:,} labels, one for each image, got {len(labels):,}: save those that belong "
            "together"
        )


def images_of(path: Path) -> Path | None:
    """Return the file of images in the same folder whose labels are in `path`, or None.

    Only the names of the files are compared: see SIBLINGS.
    """
    for other in sorted(path.parent.iterdir()) if path.exists() else ():
        for pattern, words in SIBLINGS:
            if other != path and other.suffix.lower() in (".npy", ".npz") and pattern.search(other.stem):
                if path.stem.casefold() in (pattern.sub(word, other.stem).casefold() for word in words):
                    return other
    return None


def channels_last(x: np.ndarray, where: str, options: ImageOptions = DEFAULTS) -> tuple[np.ndarray, list[str]]:
    """Return the array with the shape (N, H, W, C), and notes on how its shape was interpreted.

    x has the shape (N, H, W), (N, H, W, C), (N, C, H, W) or (N, H*W), with C from 1 to 4. The option
    `channels` says where C is; by default it is first only if it cannot be last. Raises DataError
    for other shapes, for N = 0, and for images of less than MIN_SIDE pixels a side without --size.
    """
    notes = []
    if x.ndim == 2 and x.shape[1] and math.isqrt(x.shape[1]) ** 2 == x.shape[1]:
        side = math.isqrt(x.shape[1])
        notes.append(f"rows of {x.shape[1]} numbers are read as grey images of {side} x {side}")
        x = x.reshape(len(x), side, side)
    may_be_first = x.ndim == 4 and x.shape[1] in (1, 2, 3, 4)
    if may_be_first and (options.channels == "first" or (not options.channels and x.shape[3] not in (1, 2, 3, 4))):
        notes.append(f"shape {x.shape} is read as (N, C, H, W), channels first")
        x = x.transpose(0, 2, 3, 1)
    elif x.ndim == 4 and options.channels == "first":
        raise DataError(f"{where}: with channels first, the shape is (N, C, H, W) with C from 1 to 4, got {x.shape}")
    hint = "save an array (N, H, W), (N, H, W, 1) or (N, H, W, 3)"
    if x.ndim == 2 and x.shape[1] % 3 == 0 and math.isqrt(x.shape[1] // 3) ** 2 == x.shape[1] // 3:
        side = math.isqrt(x.shape[1] // 3)
        hint = f"if each row is an image in colours, save x.reshape(-1, 3, {side}, {side}), or (-1, {side}, {side}, 3)"
    elif x.ndim == 2:
        hint = f"{x.shape[1]} is not a square number: give each image its rows and columns with x.reshape(-1, H, W)"
    if x.ndim not in (3, 4) or (x.ndim == 4 and x.shape[3] not in (1, 2, 3, 4)):
        raise DataError(f"{where}: expected images (N, H, W), grey, or (N, H, W, 3), RGB, got shape {x.shape}: {hint}")
    check_size(where, x.shape, options)
    return x if x.ndim == 4 else x[..., None], notes


def _opaque(colours: np.ndarray, x: np.ndarray, where: str, options: ImageOptions) -> tuple[np.ndarray, list[str]]:
    """Blend uint8 colours (N, H, W, 1 or 3) with a background if x (N, H, W, 2 or 4) has an alpha channel.

    The range of the alpha channel is recognised, and --range does not apply to it. Returns images
    (N, H, W, 1 or 3) uint8, and notes.
    """
    if x.shape[3] not in (2, 4):
        return colours, []
    alpha, _ = to_bytes(x[..., -1:], f"{where}: alpha channel")
    both = np.concatenate([colours, alpha], axis=3)
    colour, notes = background(list(both), options)
    return np.stack([on_background(image, colour) for image in both]), notes


def _labels_of_sibling(path: Path, count: int) -> tuple[np.ndarray | None, str]:
    """Return labels from another file of the same folder, and their source, or (None, "").

    The labels of x-images.npz are in x-labels.npy or x-labels.npz, for example: see SIBLINGS. In an
    archive, they are the only array with the length `count`.
    """
    files = {file.name.casefold(): file for file in path.parent.iterdir()}
    for pattern, words in SIBLINGS:
        if not pattern.search(path.stem):
            continue
        for word in words:
            for suffix in dict.fromkeys((path.suffix, ".npy", ".npz")):
                other = files.get((pattern.sub(word, path.stem) + suffix).casefold())
                if other is None or other == path or not other.is_file():
                    continue
                with open_file(other) as file:
                    if read_bytes(file, 2, other) != b"PK":
                        file.seek(0)
                        return read(file, os.fstat(file.fileno()).st_size, other, text=True), f"file {other.name}"
                    file.seek(0)
                    with archive(file, other) as members:
                        keys = [key for key in members.shapes() if members.shapes()[key][:1] == (count,)]
                        if len(keys) == 1:
                            return members.array(keys[0]), f"array {keys[0]!r} of {other.name}"
    return None, ""


def read(stream: IO[bytes], size: int, where: str | Path, text: bool = False) -> np.ndarray:
    """Read the array of a .npy stream of `size` bytes.

    Unlike `np.load`, this function checks the size before it allocates memory. Arrays of text are
    accepted if `text` is True. Raises DataError for arrays of other types and for damaged streams.
    """
    shape, fortran, dtype, start = read_header(stream, where)
    if dtype.kind not in ("biufUS" if text else "biuf"):
        raise DataError(
            f"{where}: expected an array of numbers, got {dtype} elements, which are never unpickled or converted: "
            "save plain uint8 or float arrays"
        )
    promised = math.prod(shape) * dtype.itemsize
    if size - start != promised:
        shorter = size - start < promised
        raise DataError(
            f"{where}: the header declares {shape} of {dtype} = {promised} bytes from offset {start}, but there are "
            f"{size - start}: it is {'truncated' if shorter else 'damaged'}, copy or save it again"
        )
    expect_room(promised, str(where), "use fewer or smaller images")
    data = read_bytes(stream, promised, where, at=start)
    if len(data) < promised:
        raise DataError(
            f"{where}: ends at offset {start + len(data)} of {size}: it is truncated, copy or save it again"
        )
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def read_header(stream: IO[bytes], where: str | Path) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Return (shape, whether the order is Fortran's, dtype, offset of the first element).

    Raises DataError if the stream does not start with the header of a .npy file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # arrays that Python 2 saved are read nevertheless
            version = npy.read_magic(stream)
            parse = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
            shape, fortran, dtype = parse(stream)
        if min(shape, default=0) < 0:
            raise ValueError(f"shape {shape}")
    except DAMAGED:
        raise  # an error of decompression, which `archive` converts to a DataError
    except OSError as error:
        raise explain(where, error) from None
    except Exception as error:  # Python's parser reads the header, and a damaged one can raise any error
        reason = " ".join(str(error).split())[:100]
        raise DataError(
            f"{where}: at offset 0, expected the header of a NumPy array, got something else ({reason}): "
            "save it again with np.save or np.savez"
        ) from None
    return shape, fortran, dtype, stream.tell()


class Members:
    """The arrays of an open .npz archive, by key."""

    def __init__(self, archive: zipfile.ZipFile, path: Path):
        self.archive, self.path = archive, path
        self.infos = {info.filename[:-4]: info for info in archive.infolist() if info.filename.endswith(".npy")}

    def array(self, key: str) -> np.ndarray:
        """Read the array with this key."""
        with self.archive.open(self.infos[key]) as stream:
            return read(stream, self.infos[key].file_size, f"{self.path}: array {key!r}", text=True)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each array. Only the headers are read."""
        return {key: shape for key, (shape, _) in self.headers().items()}

    def headers(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Return (shape, dtype) of each array. Only the headers are read."""
        found = {}
        for key, info in self.infos.items():
            with self.archive.open(info) as stream:
                shape, _, dtype, _ = read_header(stream, f"{self.path}: array {key!r}")
                found[key] = shape, dtype
        return found


@contextmanager
def archive(file: BinaryIO, path: Path) -> Iterator[Members]:
    """Yield the members of a .npz archive. Raises DataError if the archive is damaged."""
    try:
        with zipfile.ZipFile(file) as opened:
            yield Members(opened, path)
    except (DataError, MemoryError):
        raise
    except OSError as error:
        raise explain(path, error) from None
    except Exception as error:  # a damaged archive can raise many kinds of errors in zipfile
        reason = f"{type(error).__name__}: {error}"[:100]
        raise DataError(f"{path}: the .npz archive is damaged ({reason}): copy or save it again") from None


@dataclass(frozen=True)
class Found:
    """The images and labels that were found in an archive, their keys, and notes on the choice."""

    images: np.ndarray
    key: str
    labels: np.ndarray | None
    labels_from: str
    notes: list[str]


def _read_archive(file: BinaryIO, path: Path, options: ImageOptions) -> Found:
    """Read the images of an archive, and the labels if any are found."""
    with archive(file, path) as members:
        shapes = members.shapes()
        key, labels_key, notes = (
            _given_keys(path, shapes, options) if options.keys else _usual_keys(path, shapes, options)
        )
        labels = None if labels_key is None or not options.labels else members.array(labels_key)
        return Found(members.array(key), key, labels, f"array {labels_key!r}" if labels_key else "", notes)


def _given_keys(path: Path, shapes: dict, options: ImageOptions) -> tuple[str, str | None, list[str]]:
    """Return (key of the images, key of the labels or None, notes) from the option --keys.

    `shapes` contains the shape of each array, by key. Raises DataError if there is no such key.
    """
    names = [part.strip() for part in options.keys.split(",")]
    if not 1 <= len(names) <= 2 or not names[0]:
        raise DataError(f"--keys takes the images' key and the labels', such as --keys x,y, got {options.keys!r}")
    missing = [name for name in names if name and name not in shapes]
    if missing:
        raise DataError(f"{path}: there is no array {missing[0]!r}: it has {_listed(shapes)}")
    return names[0], names[1] if len(names) == 2 and names[1] else None, []


def _usual_keys(path: Path, shapes: dict, options: ImageOptions) -> tuple[str, str | None, list[str]]:
    """Return (key of the images, key of the labels or None, notes), without the option --keys.

    The keys of KEYS come first. If none is found, the images are the only array with three or four
    dimensions, and the labels are the only array with one value for each image. Raises DataError if
    there is no such array of images.
    """
    by_name = {key.casefold(): key for key in shapes}

    def under(names: tuple[str, ...], split: str) -> str | None:
        candidates = (name.format(split=word) for name in names for word in SPLITS[split])
        return next((by_name[name] for name in candidates if name in by_name), None)

    divided = any(under((name,), split) for name, _ in KEYS if "{" in name for split in ("val", "test"))
    for name, label_names in KEYS:
        if options.split != "train" and "{" not in name:
            continue
        key = under((name,), options.split)
        if key is None or not 2 <= len(shapes[key]) <= 4:
            continue
        labels = under(label_names, options.split)
        notes = [f"the archive is divided into splits: {key} is read"] if divided and "{" in name else []
        if labels is None:  # an array with the key of any labels in KEYS
            wanted = dict.fromkeys(other for _, names in KEYS for other in names)
            labels = next((by_name[w] for w in wanted if w in by_name and by_name[w] != key), None)
        if labels is not None and (shapes[labels][:1] != shapes[key][:1] or len(shapes[labels]) > 2):
            if labels.casefold() in ("arr_1", "x", "data"):  # these keys are not only used for labels
                notes.append(f"array {labels!r} {shapes[labels]} is not one label for each image, and is not read")
                labels = None
        return key, labels, notes
    if options.split != "train":
        raise DataError(f"{path}: found no images of the split {options.split!r}: it has {_listed(shapes)}")
    likely = [key for key in shapes if len(shapes[key]) in (3, 4)]
    if len(likely) != 1:
        raise DataError(
            f"{path}: cannot tell which array has the images: it has {_listed(shapes)}: name them with "
            "--keys IMAGES,LABELS"
        )
    count = shapes[likely[0]][0]
    candidates = [key for key, shape in shapes.items() if key != likely[0] and shape in ((count,), (count, 1))]
    notes = [f"array {likely[0]!r} is the only one that can be images"]
    if len(candidates) == 1:
        notes.append(f"array {candidates[0]!r} has one value for each image: its labels")
    elif candidates:
        notes.append(f"arrays {', '.join(candidates)} have one value for each image: name the labels with --keys")
    return likely[0], candidates[0] if len(candidates) == 1 else None, notes


def _listed(shapes: dict) -> str:
    """Return the keys and shapes of all arrays as text."""
    return ", ".join(f"{key} {shape}" for key, shape in shapes.items()) or "no arrays"
