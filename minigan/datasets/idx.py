"""Read IDX files, the format of MNIST and similar data sets.

    offset 0   two zero bytes
    offset 2   element type: 0x08 is unsigned bytes
    offset 3   number of dimensions: 3 for images (N, H, W), 1 for labels (N,)
    offset 4   each dimension, as 4 bytes, big-endian
    then       the elements, in row-major order

Every byte of the header is checked before the elements are read. Source: http://yann.lecun.com/exdb/mnist/
"""

import gzip
import math
import os
import re
from pathlib import Path

import numpy as np

from minigan.datasets.files import DataError, expect_room, open_file, read_bytes
from minigan.datasets.images import DEFAULTS, SPLITS, ImageOptions, Images, check_size, fitted
from minigan.datasets.labels import encode
from minigan.datasets.pixels import to_bytes

ELEMENT_TYPES = {0x08: "uint8", 0x09: "int8", 0x0B: "int16", 0x0C: "int32", 0x0D: "float32", 0x0E: "float64"}
CONTENTS = {1: "labels", 2: "labels", 3: "images"}

# train-images-idx3-ubyte, t10k-images.idx3-ubyte, emnist-letters-train-images-idx3-ubyte.gz
IMAGES_NAME = re.compile(r".*images[-.]idx3-ubyte(\.gz)?", re.IGNORECASE)

# The first two bytes of other kinds of files, and a hint for each.
HINTS = {
    b"\x1f\x8b": "is this file compressed twice?",
    b"\x93N": "is this a NumPy array, to be renamed to .npy?",
    b"PK": "is this a zip archive, to be unpacked, or renamed to .npz if NumPy wrote it?",
    b"\x89P": "is this a picture? give the folder that holds it",
    b"\xff\xd8": "is this a picture? give the folder that holds it",
    b"<!": "is this a web page, saved in place of the data? download it again",
    b"<h": "is this a web page, saved in place of the data? download it again",
}


def load(path: Path, options: ImageOptions = DEFAULTS) -> Images:
    """Load images (N, H, W, 1) from the IDX file `path`, with labels from the same folder, if any.

    EMNIST stores each image with rows and columns exchanged. A file whose name starts with "emnist"
    is therefore transposed, and a note says so. The content of a file does not show whether it is
    transposed, so files with other names are read as they are.

    Labels have the shape (N,), or (N, K) as in QMNIST, where the first column is the class.
    `find_labels` finds their file. Raises DataError if a file is damaged, or if the numbers of
    images and labels differ.
    """
    x = read(path, dims=(3,), options=options)  # (N, H, W)
    notes: list[str] = []
    if path.name.lower().startswith("emnist"):
        x = np.ascontiguousarray(x.transpose(0, 2, 1))
        notes.append("EMNIST: rows and columns are exchanged back")
    labels, names, origin = None, None, "" if options.labels else "not read"
    labels_path = find_labels(path) if options.labels else None
    if labels_path is not None:
        labels = read(labels_path, dims=(1, 2))
        origin = f"IDX file {labels_path.name}"
        if labels.ndim == 2:
            notes.append(f"labels have {labels.shape[1]} columns: the first is the class")
            labels = labels[:, 0]
        if len(labels) != len(x):
            raise DataError(
                f"{labels_path}: at offset 4, expected {len(x)} labels, one for each image of {path.name}, "
                f"got {len(labels)}: these two files do not belong together"
            )
        labels, names, more = encode(labels, str(labels_path))
        notes += more
    images = x[..., None]
    if options.limits or x.max() <= 1:
        images, more = to_bytes(images, str(path), options.limits)
        notes += more
    images, more = fitted(images, options)
    name = re.sub(r"[-.]?images[-.]idx3-ubyte$", "", path.name.removesuffix(".gz"), flags=re.IGNORECASE)
    return Images(images, labels, name or path.name, f"IDX file {path.name}", names, origin, (*notes, *more))


def find_images(folder: Path, split: str = "train") -> tuple[Path | None, list[str]]:
    """Return the IDX file of the images of the split in `folder`, or None, and notes on the choice.

    The result is None if the folder contains no IDX files of images. The name of a file shows its
    split. If no file is named after the training split, all files are training images. If a file
    exists both plain and as .gz, the plain one is used. Raises DataError, which lists the files, if
    the folder contains several files of the split, as that of EMNIST does, or only other splits.
    """
    every = sorted(path for path in folder.iterdir() if IMAGES_NAME.fullmatch(path.name) and path.is_file())
    every = [path for path in every if path.suffix != ".gz" or path.with_suffix("") not in every]
    words = [re.compile(rf"(?<![a-z]){word}(?![a-z])", re.IGNORECASE) for word in SPLITS[split]]
    files = [path for path in every if any(word.search(path.name) for word in words)]
    if not files and split == "train":
        files = every
    if every and not files:
        raise DataError(f"{folder}: found no IDX images of the split {split!r} among {_names(every)}")
    if len(files) > 1:
        raise DataError(
            f"{folder}: expected one file of {split} images, found {_names(files)}: give the path of one of them"
        )
    others = [path for path in every if path not in files]
    return (files[0] if files else None), ([f"{_names(others)} not read: see --split"] if others else [])


def _names(paths: list[Path]) -> str:
    """Return the names of the files as text."""
    return ", ".join(path.name for path in paths)


def find_labels(path: Path) -> Path | None:
    """Return the file, plain or .gz, with the labels of the images in `path`, or None.

    The labels of x-images-idx3-ubyte are in x-labels-idx1-ubyte, or in x-labels-idx2-int in QMNIST.
    """
    head, images, tail = path.name.rpartition("images")
    if not images:
        return None
    tail = tail.removesuffix(".gz")
    for ending in (tail.replace("idx3", "idx1"), tail.replace("idx3-ubyte", "idx2-int")):
        plain = path.with_name(head + "labels" + ending)
        packed = plain.with_name(plain.name + ".gz")
        for candidate in (packed, plain) if path.suffix == ".gz" else (plain, packed):
            if candidate.exists():
                return candidate
    return None


def read(path: Path, dims: tuple[int, ...], options: ImageOptions = DEFAULTS) -> np.ndarray:
    """Read the elements of an IDX file, plain or gzip, whose number of dimensions is in `dims`.

    Images are unsigned bytes (N, H, W), with dims (3,). Labels are unsigned bytes or other integers
    (N,) or (N, K), with dims (1, 2).

    The first bytes show whether the file is compressed. The name does not, because browsers
    decompress some downloads and keep the suffix .gz. Raises DataError, which gives the offset of
    the first wrong byte. In a compressed file, offsets count uncompressed bytes.
    """
    with open_file(path) as file:
        compressed = read_bytes(file, 2, path) == b"\x1f\x8b"
        file.seek(0)
        stream = gzip.GzipFile(fileobj=file) if compressed else file
        size = os.fstat(file.fileno()).st_size

        magic = read_bytes(stream, 4, path)
        dtype, axes = check_magic(magic, path, dims)
        start = 4 + 4 * axes
        header = read_bytes(stream, 4 * axes, path, at=4)
        if len(header) < 4 * axes:
            raise DataError(
                f"{path}: at offset {4 + len(header)}, the file ends inside its header of {start} bytes: it is "
                "truncated, download or copy it again"
            )
        shape = tuple(int.from_bytes(header[i : i + 4], "big") for i in range(0, 4 * axes, 4))
        if axes == 3:
            check_size(f"{path}: at offset {4 if shape[0] == 0 else 8}", shape, options)

        expected = math.prod(shape) * dtype.itemsize
        each = f" x {dtype.itemsize}" if dtype.itemsize > 1 else ""
        text = f"{' x '.join(map(str, shape))}{each} = {expected} bytes of {CONTENTS[axes]}"
        # Before anything is allocated: deflate cannot shrink its input by more than a factor of 1032.
        if expected > (1032 * size if compressed else size - start):
            have = (
                f"a compressed file of {size} bytes cannot hold them"
                if compressed
                else f"only {size - start} follow it"
            )
            raise DataError(
                f"{path}: at offset 4, the header declares {text}, but {have}: the file is "
                "truncated or its header is damaged, download or copy it again"
            )
        expect_room(expected, str(path), "use fewer or smaller images")
        data = read_bytes(stream, expected, path, at=start)
        if len(data) < expected:
            raise DataError(
                f"{path}: at offset {start + len(data)}, the file ends after {len(data)} of the {text} that its "
                "header declares: it is truncated, download or copy it again"
            )
        # Reading to the end also makes gzip verify its checksum.
        if read_bytes(stream, 1, path, at=start + expected):
            raise DataError(
                f"{path}: at offset {start + expected}, expected the end of the file after {text}, got more bytes: "
                "the header or the file is damaged, download or copy it again"
            )
    return np.frombuffer(data, dtype).reshape(shape)


def check_magic(magic: bytes | bytearray, path: Path, dims: tuple[int, ...]) -> tuple[np.dtype, int]:
    """Return the element type and the number of dimensions, from the first four bytes of the file.

    Raises DataError if the number is not in `dims`, or if the elements are not unsigned bytes.
    Labels may also be other integers.
    """
    expected = f"expected the IDX magic number 0x{0x0800 + dims[0]:08x} (unsigned bytes, {_count(dims[0])})"
    if not magic:
        raise DataError(f"{path}: at offset 0, {expected}, got an empty file: download or copy it again")
    if len(magic) < 4:
        raise DataError(
            f"{path}: at offset {len(magic)}, {expected}, got the end of the file: download or copy it again"
        )
    got = f"got 0x{magic.hex()}"
    if magic[:2] != b"\0\0":
        hint = HINTS.get(bytes(magic[:2]), "minigan reads IDX, .npy and .npz files and folders of pictures")
        raise DataError(f"{path}: at offset 0, {expected}, {got}: {hint}")
    name = ELEMENT_TYPES.get(magic[2], "")
    if name != "uint8" and not (dims != (3,) and "int" in name):
        element = f"0x{magic[2]:02x}, which is {name}" if name else f"0x{magic[2]:02x}, which IDX does not define"
        what = "pixels" if dims == (3,) else "labels"
        raise DataError(
            f"{path}: at offset 2, expected element type 0x08 (unsigned bytes), got {element}: save the {what} "
            "as unsigned bytes, or as a .npy file"
        )
    if magic[3] not in dims:
        other = CONTENTS.get(magic[3])
        hint = f"is this a file of {other}?" if other else "save images of other shapes, such as RGB, as a .npy file"
        raise DataError(
            f"{path}: at offset 3, expected {_count(dims[0])} for {CONTENTS[dims[0]]}, got {_count(magic[3])}: {hint}"
        )
    return np.dtype(name).newbyteorder(">"), magic[3]


def _count(dims: int) -> str:
    """Return "1 dimension", "2 dimensions", and so on."""
    return f"{dims} dimension{'' if dims == 1 else 's'}"
