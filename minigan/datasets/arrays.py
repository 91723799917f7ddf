"""Read image arrays saved by NumPy: .npy (one array) and .npz (a zip archive of .npy files)."""

import math
import os
import warnings
import zipfile
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np
from numpy.lib import format as npy

from minigan.datasets.files import DAMAGED, DataError, explain, open_file, read_bytes
from minigan.datasets.images import Images, check_size, unscale

# Keys of images and their labels in archives, in the order of search. Keras's mnist.npz has x_train and y_train.
KEYS = {"images": "labels", "x_train": "y_train", "x": "y"}
BLOCK = 1024  # images converted at a time, to limit the size of temporary float arrays


def load(path: Path) -> Images:
    """Loads images from an array (N, H, W), (N, H, W, 1) or (N, H, W, 3) in a .npy file or a .npz archive.

    Pixels are uint8 or floats. Floats are in [-1, 1] if any value of the array is negative, else in [0, 1]; `source`
    records which. In an archive, the images are read from the key images, x_train or x, or else from the only array
    with 3 or 4 dimensions. Labels are non-negative integers (N,) or (N, 1). They are read from the key labels, y_train
    or y, if one exists.

    Nothing is unpickled. Raises DataError, which gives the index of the first invalid value if single values are wrong.
    """
    with open_file(path) as file:
        zipped = read_bytes(file, 2, path) == b"PK"
        file.seek(0)
        if not zipped:
            x, labels = read(file, os.fstat(file.fileno()).st_size, path), None
            where, source = str(path), f"array {path.name}"
        else:
            x, labels, key, labels_key = _read_archive(file, path)
            where, source = f"{path}: array {key!r}", f"array {key!r} of {path.name}"
    _check_shape(x, where)
    images, kind = _to_bytes(x, where)
    source += f" ({kind})"
    if labels is not None:
        labels = _check_labels(labels, len(x), f"{path}: array {labels_key!r}")
        source += f", labels {labels_key!r}"
    return Images(images, labels, name=path.stem, source=source)


def read(stream: IO[bytes], size: int, where: str | Path) -> np.ndarray:
    """Reads the array of a .npy stream of `size` bytes. Unlike `np.load`, checks the size before allocating memory."""
    shape, fortran, dtype, start = read_header(stream, where)
    if dtype.kind not in "biuf":
        raise DataError(
            f"{where}: expected an array of numbers, got {dtype} elements, which are never unpickled or converted: "
            "save plain uint8 or float arrays"
        )
    expected = math.prod(shape) * dtype.itemsize
    if size - start != expected:
        shorter = size - start < expected
        raise DataError(
            f"{where}: the header declares {shape} of {dtype} = {expected} bytes from offset {start}, but there are "
            f"{size - start}: it is {'truncated' if shorter else 'damaged'}, copy or save it again"
        )
    data = read_bytes(stream, expected, where, at=start)
    if len(data) < expected:
        raise DataError(
            f"{where}: ends at offset {start + len(data)} of {size}: it is truncated, copy or save it again"
        )
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def read_header(stream: IO[bytes], where: str | Path) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Returns (shape, whether the order is Fortran's, dtype, offset of the first element) of a .npy stream."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy warns about headers written by Python 2, but reads them
            version = npy.read_magic(stream)
            parse = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
            shape, fortran, dtype = parse(stream)
        if min(shape, default=0) < 0:
            raise ValueError(f"shape {shape}")
    except DAMAGED:
        raise  # an error of the archive, which `_read_archive` reports
    except OSError as error:
        raise explain(where, error) from None
    except Exception as error:  # NumPy evaluates the header as a Python literal, so damage can raise any error
        reason = " ".join(str(error).split())[:100]
        raise DataError(
            f"{where}: at offset 0, expected the header of a NumPy array, got something else ({reason}): "
            "save it again with np.save or np.savez"
        ) from None
    return shape, fortran, dtype, stream.tell()


def _read_archive(file: BinaryIO, path: Path) -> tuple[np.ndarray, np.ndarray | None, str, str | None]:
    """Returns (images, labels or None, key of the images, key of the labels or None) of a .npz archive."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = {info.filename[:-4]: info for info in archive.infolist() if info.filename.endswith(".npy")}

            def array(key: str) -> np.ndarray:
                with archive.open(members[key]) as stream:
                    return read(stream, members[key].file_size, f"{path}: array {key!r}")

            def shape(key: str) -> tuple[int, ...]:
                with archive.open(members[key]) as stream:
                    return read_header(stream, f"{path}: array {key!r}")[0]

            key = next((key for key in KEYS if key in members), None)
            if key is None:
                shapes = {key: shape(key) for key in members}
                likely = [key for key in shapes if len(shapes[key]) in (3, 4)]
                if len(likely) != 1:
                    contents = ", ".join(f"{key} {shapes[key]}" for key in shapes) or "no arrays"
                    raise DataError(
                        f"{path}: expected images under {', '.join(KEYS)}, or one array with 3 or 4 dimensions, "
                        f"found {contents}: save the images under the key images"
                    )
                key = likely[0]
            # Prefer the labels that belong to this key.
            names = [KEYS.get(key), *KEYS.values()]
            labels_key = next((name for name in names if name in members), None)
            return array(key), array(labels_key) if labels_key else None, key, labels_key
    except DataError:
        raise
    except OSError as error:
        raise explain(path, error) from None
    except MemoryError:
        raise
    except Exception as error:  # a damaged directory can make zipfile raise any error
        reason = f"{type(error).__name__}: {error}"[:100]
        raise DataError(f"{path}: the .npz archive is damaged ({reason}): copy or save it again") from None


def _check_shape(x: np.ndarray, where: str) -> None:
    """Raises DataError unless `x` is (N, H, W), (N, H, W, 1) or (N, H, W, 3), square and large enough."""
    hint = "save an array (N, H, W), (N, H, W, 1) or (N, H, W, 3)"
    if x.ndim == 4 and x.shape[1] in (1, 3) and x.shape[3] not in (1, 3):
        hint = "put the channels last with x.transpose(0, 2, 3, 1)"
    if x.ndim == 2:
        hint = "give each image its rows and columns, such as x.reshape(-1, 28, 28)"
    if x.ndim not in (3, 4) or x.shape[3:] not in ((), (1,), (3,)):
        raise DataError(f"{where}: expected images (N, H, W), grey, or (N, H, W, 3), RGB, got shape {x.shape}: {hint}")
    check_size(where, *x.shape[:3])


def _to_bytes(x: np.ndarray, where: str) -> tuple[np.ndarray, str]:
    """Returns `x` as C-contiguous uint8 (N, H, W, C), and a description of its original dtype and range."""
    shape = x.shape if x.ndim == 4 else (*x.shape, 1)
    if x.dtype == np.uint8:
        return np.ascontiguousarray(x).reshape(shape), "uint8"
    if x.dtype.kind != "f":
        raise DataError(
            f"{where}: expected uint8 pixels, or floats in [0, 1] or [-1, 1], got {x.dtype}: "
            "save x.astype(np.uint8) if the pixels run from 0 to 255"
        )
    low, high = x.min(), x.max()  # over the whole array, because a part may have no negative value
    if not (low >= -1 and high <= 1):  # in this form the condition is also true for NaN
        index = np.unravel_index(np.argmin((x >= -1) & (x <= 1)), x.shape)
        hint = "save x.astype(np.uint8) if the pixels run from 0 to 255" if high > 1 else "correct or remove that image"
        raise DataError(
            f"{where}: expected floats in [0, 1] or [-1, 1], got {x[index]} at index {tuple(map(int, index))}: {hint}"
        )
    images = np.empty(shape, np.uint8)
    for i in range(0, len(x), BLOCK):
        block = x[i : i + BLOCK].reshape(-1, *shape[1:])
        images[i : i + BLOCK] = unscale(block) if low < 0 else np.rint(block * 255)
    return images, f"{x.dtype} in [-1, 1]" if low < 0 else f"{x.dtype} in [0, 1]"


def _check_labels(labels: np.ndarray, count: int, where: str) -> np.ndarray:
    """Returns `labels` as int64 (N,). Raises DataError unless there is one non-negative integer for each image."""
    if labels.ndim == 2 and labels.shape[1] == 1:  # as in Keras's CIFAR
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(
            f"{where}: expected integer labels (N,), got {labels.dtype} {labels.shape}: save class numbers, "
            "such as y.argmax(axis=1) of one-hot rows"
        )
    if len(labels) != count:
        raise DataError(
            f"{where}: expected {count} labels, one for each image, got {len(labels)}: save those that belong together"
        )
    wrong = (labels < 0) | (labels > np.iinfo(np.int64).max)
    if wrong.any():
        i = int(wrong.argmax())
        raise DataError(f"{where}: expected labels from 0 up, got {labels[i]} at index {i}: number the classes from 0")
    return labels.astype(np.int64)
