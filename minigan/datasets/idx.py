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

from minigan.datasets.files import DataError, open_file, read_bytes
from minigan.datasets.images import Images, check_size

ELEMENT_TYPES = {0x08: "uint8", 0x09: "int8", 0x0B: "int16", 0x0C: "int32", 0x0D: "float32", 0x0E: "float64"}
CONTENTS = {1: "labels", 3: "images"}

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


def load(path: Path) -> Images:
    """Loads the images (N, H, W, 1) in the IDX file `path`, and the labels (N,) of `find_labels`, if they exist.

    EMNIST stores each image with rows and columns exchanged. If the name of a file starts with "emnist", its images
    are transposed, and `source` records it. Only the name is used, because the content does not show the orientation.
    Labels are kept as stored: those of EMNIST's letters are 1 to 26.
    """
    x = read(path, dims=3)  # (N, H, W)
    source = f"IDX file {path.name}"
    if path.name.lower().startswith("emnist"):
        x = np.ascontiguousarray(x.transpose(0, 2, 1))
        source += " (EMNIST: rows and columns exchanged back)"

    labels, labels_path = None, find_labels(path)
    if labels_path is not None:
        labels = read(labels_path, dims=1).astype(np.int64)
        source += f", labels {labels_path.name}"
        if len(labels) != len(x):
            raise DataError(
                f"{labels_path}: at offset 4, expected {len(x)} labels, one for each image of {path.name}, "
                f"got {len(labels)}: these two files do not belong together"
            )
    name = re.sub(r"[-.]?images[-.]idx3-ubyte$", "", path.name.removesuffix(".gz"), flags=re.IGNORECASE)
    return Images(x[..., None], labels, name=name or path.name, source=source)


def find_images(folder: Path) -> Path | None:
    """Returns the IDX file of images in `folder`, or None. Training images are preferred to others.

    If a file exists both plain and as .gz, the plain one is returned. Raises DataError, which lists the files, if
    several files of training images are found, as in the folder of EMNIST.
    """
    files = sorted(path for path in folder.iterdir() if IMAGES_NAME.fullmatch(path.name) and path.is_file())
    files = [path for path in files if path.suffix != ".gz" or path.with_suffix("") not in files]
    files = [path for path in files if "train" in path.name.lower()] or files
    if len(files) > 1:
        names = ", ".join(path.name for path in files)
        raise DataError(f"{folder}: expected one file of training images, found {names}: give the path of one of them")
    return files[0] if files else None


def find_labels(path: Path) -> Path | None:
    """Returns the file of labels, plain or .gz, for the file of images `path`, or None if it does not exist.

    The labels of x-images-idx3-ubyte are in x-labels-idx1-ubyte in the same folder.
    """
    head, images, tail = path.name.rpartition("images")
    if not images:
        return None
    first = path.with_name(head + "labels" + tail.replace("idx3", "idx1"))
    other = first.with_suffix("") if first.suffix == ".gz" else first.with_name(first.name + ".gz")
    return next((candidate for candidate in (first, other) if candidate.exists()), None)


def read(path: Path, dims: int) -> np.ndarray:
    """Reads an IDX file of unsigned bytes, plain or gzip: images (N, H, W) if `dims` is 3, labels (N,) if it is 1.

    The first bytes show whether the file is compressed. The name does not, because browsers decompress some downloads
    and keep the suffix .gz. Raises DataError, which gives the offset of the first wrong byte. In a compressed file,
    offsets count uncompressed bytes.
    """
    with open_file(path) as file:
        compressed = read_bytes(file, 2, path) == b"\x1f\x8b"
        file.seek(0)
        stream = gzip.GzipFile(fileobj=file) if compressed else file
        size = os.fstat(file.fileno()).st_size

        magic = read_bytes(stream, 4, path)
        check_magic(magic, path, dims)
        start = 4 + 4 * dims
        header = read_bytes(stream, 4 * dims, path, at=4)
        if len(header) < 4 * dims:
            raise DataError(
                f"{path}: at offset {4 + len(header)}, the file ends inside its header of {start} bytes: it is "
                "truncated, download or copy it again"
            )
        shape = tuple(int.from_bytes(header[i : i + 4], "big") for i in range(0, 4 * dims, 4))
        if dims == 3:
            check_size(f"{path}: at offset {4 if shape[0] == 0 else 8}", *shape)

        expected = math.prod(shape)
        text = f"{' x '.join(map(str, shape))} = {expected} bytes of {CONTENTS[dims]}"
        # Check this before allocating memory. Deflate compresses by a factor of at most 1032.
        if expected > (1032 * size if compressed else size - start):
            have = f"only {size - start} follow it"
            if compressed:
                have = f"a compressed file of {size} bytes cannot contain them"
            raise DataError(
                f"{path}: at offset 4, the header declares {text}, but {have}: the file is "
                "truncated or its header is damaged, download or copy it again"
            )
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
    return np.frombuffer(data, np.uint8).reshape(shape)


def check_magic(magic: bytes | bytearray, path: Path, dims: int) -> None:
    """Raises DataError unless the first four bytes of the file declare unsigned bytes in `dims` dimensions."""
    expected = f"expected the IDX magic number 0x{0x0800 + dims:08x} (unsigned bytes, {_count(dims)})"
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
    if magic[2] != 0x08:
        kind = ELEMENT_TYPES.get(magic[2])
        element = f"0x{magic[2]:02x}, which is {kind or 'not an IDX type'}"
        raise DataError(
            f"{path}: at offset 2, expected element type 0x08 (unsigned bytes), got {element}: save the pixels "
            "as unsigned bytes, or as a .npy file"
        )
    if magic[3] != dims:
        other = CONTENTS.get(magic[3])
        hint = f"is this a file of {other}?" if other else "save images of other shapes, such as RGB, as a .npy file"
        raise DataError(
            f"{path}: at offset 3, expected {_count(dims)} for {CONTENTS[dims]}, got {_count(magic[3])}: {hint}"
        )


def _count(dims: int) -> str:
    return f"{dims} dimension{'' if dims == 1 else 's'}"
