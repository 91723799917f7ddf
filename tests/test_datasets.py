"""Datasets: the embedded MNIST, every file format that can be loaded, and damaged files of each format."""

import contextlib
import gzip
import hashlib
import io
import os
import pickle
import re
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from minigan import datasets
from minigan.datasets import DataError, arrays, pictures, pixels
from minigan.errors import UserError

RNG = np.random.default_rng(7)
X = RNG.integers(0, 256, (5, 6, 6), dtype=np.uint8)  # the images of most tests; random, so that no two axes look alike
Y = np.array([3, 1, 4, 1, 5], np.uint8)


def idx_bytes(x, kind=0x08):
    return bytes([0, 0, kind, x.ndim]) + b"".join(n.to_bytes(4, "big") for n in x.shape) + x.tobytes()


def write(path, data, compressed=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if compressed else data)
    return path


def error_of(path):
    """Returns the message of the DataError that loading `path` raises, which is one line."""
    with pytest.raises(DataError) as caught:
        datasets.load(str(path))
    text = str(caught.value)
    assert "\n" not in text
    return text


def same(data, x, labels):
    """Asserts that `data` has the images `x` and the labels, by the names of their classes."""
    x = x if x.ndim == 4 else x[..., None]
    assert data.images.dtype == np.uint8 and data.images.flags.c_contiguous and data.images.flags.writeable
    np.testing.assert_array_equal(data.images, x, strict=True)
    if labels is None:
        assert data.labels is None
    else:
        assert data.labels.dtype == np.int64
        assert [data.class_names[label] for label in data.labels] == [str(label) for label in labels]


# MNIST ------------------------------------------------------------------------------------------------------------


def test_mnist_files_are_the_originals():
    sums = [
        hashlib.md5(gzip.decompress((datasets.MNIST_FOLDER / name).read_bytes())).hexdigest()
        for name in (
            "train-images-idx3-ubyte.gz",
            "train-labels-idx1-ubyte.gz",
            "t10k-images-idx3-ubyte.gz",
            "t10k-labels-idx1-ubyte.gz",
        )
    ]
    assert sums == [
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    ]


def test_mnist_is_credited():
    for text in (datasets.mnist.__doc__, datasets.MNIST_SOURCE, (datasets.MNIST_FOLDER / "README").read_text()):
        assert "Yann LeCun and Corinna Cortes" in text
    assert "CC BY-SA 3.0" in datasets.MNIST_SOURCE and datasets.mnist("test").origin == datasets.MNIST_SOURCE


def test_mnist_splits():
    train, test, both = (datasets.mnist(split) for split in ("train", "test", "all"))
    assert train.images.shape == (60_000, 28, 28, 1) and test.images.shape == (10_000, 28, 28, 1)
    assert len(train) == 60_000 and train.sample_shape == (28, 28, 1)
    assert [d.name for d in (train, test, both)] == ["mnist-train", "mnist-test", "mnist-all"]
    # This does not use the reader: the elements follow headers of 16 and 8 bytes.
    raw = gzip.decompress((datasets.MNIST_FOLDER / "train-images-idx3-ubyte.gz").read_bytes())
    assert train.images.tobytes() == raw[16:]
    raw = gzip.decompress((datasets.MNIST_FOLDER / "t10k-labels-idx1-ubyte.gz").read_bytes())
    assert test.labels.tolist() == list(raw[8:])
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    same(both, np.concatenate([train.images, test.images]), np.concatenate([train.labels, test.labels]))
    same(datasets.load("mnist"), train.images, train.labels)


def test_mnist_loads_in_under_a_second():
    seconds = []
    for _ in range(3):  # the best of three, because other processes may share the machine
        start = time.perf_counter()
        datasets.mnist("all")
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1


def test_mnist_refuses_other_splits():
    with pytest.raises(DataError, match=r"no split 'valid'.*\"all\""):
        datasets.mnist("valid")


def test_each_call_returns_new_arrays():
    first = datasets.mnist("test")
    before = first.images[0].copy()
    first.images[0] = 255 - before
    np.testing.assert_array_equal(datasets.mnist("test").images[0], before)


def test_import_loads_no_heavy_package():
    code = "import sys, minigan.datasets; print([m for m in ('PIL', 'matplotlib', 'numba') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_data_error_is_a_user_error():
    assert issubclass(DataError, UserError)


# Scale ------------------------------------------------------------------------------------------------------------

EVERY = np.arange(256, dtype=np.uint8).reshape(4, 8, 8, 1)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_scale_and_back(dtype):
    x = datasets.scale(EVERY, dtype)
    assert x.dtype == dtype and x.shape == EVERY.shape
    assert x.min() == -1 and x.max() == 1
    np.testing.assert_allclose(x, EVERY / 127.5 - 1, rtol=0, atol=2 * np.finfo(dtype).eps)
    back = datasets.unscale(x)
    np.testing.assert_array_equal(back, EVERY, strict=True)


def test_scale_is_float32_by_default():
    assert datasets.scale(EVERY).dtype == np.float32


def test_unscale_rounds_and_clips():
    x = np.array([-np.inf, -7, -1, -1 + 0.6 / 127.5, -1 + 0.4 / 127.5, 1 - 0.6 / 127.5, 1 - 0.4 / 127.5, 1, 1.01, 9])
    assert datasets.unscale(x).tolist() == [0, 0, 0, 1, 0, 254, 255, 255, 255, 255]


def test_scale_refuses_wrong_dtypes_and_nan():
    with pytest.raises(DataError, match="scale expects uint8 pixels, got float32"):
        datasets.scale(datasets.scale(EVERY))
    with pytest.raises(DataError, match="it cannot give uint8"):
        datasets.scale(EVERY, np.uint8)
    with pytest.raises(DataError, match=r"unscale expects floats.*got uint8"):
        datasets.unscale(EVERY)
    with pytest.raises(DataError, match="got NaN"):
        datasets.unscale(np.array([0, np.nan]))


# IDX files --------------------------------------------------------------------------------------------------------

NAMES = {  # name of the images -> name of the labels, as distributed
    "train-images-idx3-ubyte": "train-labels-idx1-ubyte",
    "train-images.idx3-ubyte": "train-labels.idx1-ubyte",
    "kmnist-train-images-idx3-ubyte": "kmnist-train-labels-idx1-ubyte",
}


@pytest.mark.parametrize("gz", ["", ".gz"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("by", ["folder", "file"])
def test_idx(tmp_path, name, gz, by):
    file = write(tmp_path / (name + gz), idx_bytes(X), compressed=bool(gz))
    write(tmp_path / (NAMES[name] + gz), idx_bytes(Y), compressed=bool(gz))
    data = datasets.load(tmp_path if by == "folder" else str(file))
    same(data, X, Y)
    assert data.name == ("kmnist-train" if name.startswith("k") else "train")
    assert name in data.source and NAMES[name] in data.source and "exchanged" not in data.source


def test_idx_any_name_and_no_labels(tmp_path):
    same(datasets.load(write(tmp_path / "faces", idx_bytes(X))), X, None)
    same(datasets.load(write(tmp_path / "faces.idx", idx_bytes(X))), X, None)
    same(datasets.load(write(tmp_path / "train-images-idx3-ubyte", idx_bytes(X))), X, None)


def test_idx_labels_may_be_compressed_without_the_images(tmp_path):
    images = write(tmp_path / "my-images.gz", idx_bytes(X), compressed=True)
    labels = write(tmp_path / "my-labels", idx_bytes(Y))
    same(datasets.load(images), X, Y)
    labels.unlink()
    images.rename(tmp_path / "my-images")
    write(tmp_path / "my-labels.gz", idx_bytes(Y), compressed=True)
    same(datasets.load(tmp_path / "my-images"), X, Y)


def test_idx_compression_is_detected_from_the_bytes(tmp_path):
    same(datasets.load(write(tmp_path / "a.gz", idx_bytes(X))), X, None)  # as decompressed by a browser
    same(datasets.load(write(tmp_path / "b", idx_bytes(X), compressed=True)), X, None)


def test_idx_gzip_of_two_members(tmp_path):
    data = idx_bytes(X)
    same(datasets.load(write(tmp_path / "x.gz", gzip.compress(data[:50]) + gzip.compress(data[50:]))), X, None)


def test_idx_folder_prefers_training_images(tmp_path):
    write(tmp_path / "t10k-images-idx3-ubyte", idx_bytes(X[:2]))
    write(tmp_path / "t10k-labels-idx1-ubyte", idx_bytes(Y[:2]))
    write(tmp_path / "train-images-idx3-ubyte.sha256", b"something else")
    same(datasets.load(tmp_path), X[:2], Y[:2])
    write(tmp_path / "train-images-idx3-ubyte.gz", idx_bytes(X), compressed=True)
    write(tmp_path / "train-labels-idx1-ubyte.gz", idx_bytes(Y), compressed=True)
    same(datasets.load(tmp_path), X, Y)
    write(tmp_path / "train-images-idx3-ubyte", idx_bytes(255 - X))  # a plain file is preferred to its .gz
    same(datasets.load(tmp_path), 255 - X, Y)


def test_idx_folder_with_several_training_sets(tmp_path):
    for part in ("letters", "digits"):
        write(tmp_path / f"emnist-{part}-train-images-idx3-ubyte", idx_bytes(X))
    text = error_of(tmp_path)
    assert "emnist-digits-train-images-idx3-ubyte, emnist-letters-train-images-idx3-ubyte: give the path of one" in text


def test_emnist_is_transposed(tmp_path):
    write(tmp_path / "emnist-letters-train-images-idx3-ubyte.gz", idx_bytes(X), compressed=True)
    write(tmp_path / "emnist-letters-train-labels-idx1-ubyte.gz", idx_bytes(Y), compressed=True)
    data = datasets.load(tmp_path)
    same(data, X.transpose(0, 2, 1), Y)
    assert data.name == "emnist-letters-train" and "rows and columns are exchanged back" in data.source


def header(*dims, magic=b"\0\0\x08\x03"):
    return magic + b"".join(n.to_bytes(4, "big") for n in dims)


BODY = bytes(180)  # 5 images of 6 x 6
BROKEN_IDX = {  # case: (content, pattern of the message)
    "empty": (b"", "at offset 0, expected the IDX magic number 0x00000803 .*got an empty file"),
    "three bytes": (b"\0\0\x08", "at offset 3, expected .*got the end of the file"),
    "short header": (header(5, 6), "at offset 12, the file ends inside its header of 16 bytes"),
    "text": (b"label,pixel0\n", r"at offset 0, expected .*3 dimensions\), got 0x6c616265: minigan reads IDX"),
    "web page": (b"<!DOCTYPE html>", "web page"),
    "renamed array": (b"\x93NUMPY\1\0", "renamed to .npy"),
    "zip": (b"PK\3\4....", "zip archive"),
    "float32": (header(5, 6, 6, magic=b"\0\0\x0d\3") + BODY * 4, "at offset 2, expected element type 0x08.*is float32"),
    "int8": (header(5, 6, 6, magic=b"\0\0\x09\3") + BODY, "got 0x09, which is int8"),
    "unknown type": (header(5, 6, 6, magic=b"\0\0\x07\3") + BODY, "got 0x07, which IDX does not define"),
    "labels": (
        idx_bytes(Y),
        "at offset 3, expected 3 dimensions for images, got 1 dimension: is this a file of labels",
    ),
    "four dimensions": (idx_bytes(X[..., None]), "got 4 dimensions: save images of other shapes"),
    "no images": (header(0, 6, 6), "at offset 4: expected at least one image"),
    "no pixels": (header(5, 0, 0), "at offset 8: expected images of at least 4 x 4 pixels, got 0 x 0"),
    "too small": (header(20, 3, 3) + BODY, "at least 4 x 4 pixels, got 3 x 3"),
    "truncated": (header(5, 6, 6) + BODY[1:], "header declares 5 x 6 x 6 = 180 bytes of images, but only 179 follow"),
    "too long": (header(5, 6, 6) + BODY + b"!", "at offset 196, expected the end of the file .*got more"),
    "huge": (header(2**32 - 1, 2**32 - 1, 2**32 - 1) + BODY, "header declares .* but only 180 follow"),
}


@pytest.mark.parametrize("case", BROKEN_IDX)
def test_broken_idx(tmp_path, case):
    content, message = BROKEN_IDX[case]
    with pytest.raises(DataError, match=message):
        datasets.load(write(tmp_path / "plain", content))
    assert error_of(tmp_path / "plain").startswith(f"{tmp_path / 'plain'}: ")
    # In a compressed file the offset is the same, because it counts uncompressed bytes.
    with pytest.raises(DataError, match=message) if case not in ("truncated", "huge") else pytest.raises(DataError):
        datasets.load(write(tmp_path / "packed.gz", content, compressed=True))


def test_idx_sizes_are_checked_before_memory_is_allocated(tmp_path):
    # Zeros compress by a factor of about 1000. A larger declared size is refused before reading.
    content = header(10_000, 2**16, 2**16) + bytes(10**6)
    text = error_of(write(tmp_path / "x.gz", content, compressed=True))
    assert "but a compressed file of" in text
    content = header(1000, 100, 100) + bytes(9_999_999)
    text = error_of(write(tmp_path / "y.gz", content, compressed=True))
    assert "at offset 10000015, the file ends after 9999999 of the 1000 x 100 x 100 = 10000000 bytes" in text
    same(
        datasets.load(write(tmp_path / "z.gz", content + b"\0", compressed=True)),
        np.zeros((1000, 100, 100), "u1"),
        None,
    )


def test_broken_gzip(tmp_path):
    good = gzip.compress(idx_bytes(X))
    bad_crc = good[:-8] + bytes([good[-8] ^ 1]) + good[-7:]
    bad_length = good[:-1] + bytes([good[-1] ^ 1])
    for name, content, message in [
        ("crc", bad_crc, "compressed stream is damaged.*CRC"),
        ("length", bad_length, "compressed stream is damaged.*[Ll]ength"),
        ("truncated", good[: len(good) // 2], "compressed stream is damaged.*ended before"),
        ("deflate", good[:10] + b"\xff" * 40, "compressed stream is damaged"),
        ("garbage", good + b"garbage", "compressed stream is damaged"),
        ("twice", gzip.compress(good), "expected .*0x00000803 .*got 0x1f8b08..: is this file compressed twice"),
    ]:
        with pytest.raises(DataError, match=message):
            datasets.load(write(tmp_path / f"{name}.gz", content))


def test_broken_gzip_error_gives_the_offset(tmp_path):
    noise = idx_bytes(RNG.integers(0, 256, (4, 512, 512), dtype=np.uint8))  # noise does not compress
    text = error_of(write(tmp_path / "x.gz", gzip.compress(noise)[: 2**19]))
    offset = int(re.search(r"after offset (\d+) of its uncompressed bytes", text)[1])
    text_of_header = error_of(write(tmp_path / "y.gz", gzip.compress(noise[:4]) + b"garbage"))
    assert "after offset 4 of its uncompressed bytes" in text_of_header
    assert 2**18 < offset <= 2**19 and offset % 2**16 == 16  # complete chunks after a header of 16 bytes


def test_broken_labels(tmp_path):
    images = write(tmp_path / "a-images-idx3-ubyte", idx_bytes(X))
    labels = tmp_path / "a-labels-idx1-ubyte"
    for content, message in [
        (idx_bytes(Y[:4]), "at offset 4, expected 5 labels, one for each image of a-images-idx3-ubyte, got 4"),
        (idx_bytes(Y)[:-1], "the header declares 5 = 5 bytes of labels, but only 4 follow"),
        (idx_bytes(X), "at offset 3, expected 1 dimension for labels, got 3 dimensions: is this a file of images"),
        (b"", "expected the IDX magic number 0x00000801"),
    ]:
        write(labels, content)
        text = error_of(images)
        assert text.startswith(f"{labels}: ") and message in text
    labels.unlink()
    labels.mkdir()
    assert (
        error_of(images)
        == f"{labels}: expected a file, got a directory: give a file inside it, or rename the directory"
    )


def test_every_wrong_header_byte_is_caught(tmp_path):
    good = idx_bytes(X)
    for at in range(16):
        for value in set(range(256)) - {good[at]}:
            with pytest.raises(DataError):
                datasets.load(write(tmp_path / "x", good[:at] + bytes([value]) + good[at + 1 :]))


@pytest.mark.parametrize("compressed", [False, True])
def test_every_truncation_is_caught(tmp_path, compressed):
    good = gzip.compress(idx_bytes(X)) if compressed else idx_bytes(X)
    for length in range(len(good)):
        with pytest.raises(DataError):
            datasets.load(write(tmp_path / "x", good[:length]))


def broken_or_right(path, content, x):
    """Asserts that loading `content` raises DataError or returns exactly the images `x`."""
    path.write_bytes(content)
    try:
        data = datasets.load(path)
    except DataError as error:
        assert str(path) in str(error)
    else:
        np.testing.assert_array_equal(data.images[..., 0], x, strict=True)


DAMAGE = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=3)


def damage(content, places):
    """Returns `content` with the given bytes replaced."""
    content = bytearray(content)
    for at, value in places:
        content[at % len(content)] = value
    return bytes(content)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(places=DAMAGE)
def test_damaged_gzip_is_caught_or_harmless(tmp_path_factory, places):
    good = gzip.compress(idx_bytes(X), mtime=0)
    broken_or_right(tmp_path_factory.getbasetemp() / "damaged-idx.gz", damage(good, places), X)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    content=st.binary(max_size=64), start=st.sampled_from([b"", b"\0\0\x08\3", b"\x1f\x8b\x08\0", b"\0\0\x08\3\0\0"])
)
def test_random_bytes_are_refused_or_consistent(tmp_path_factory, content, start):
    path = tmp_path_factory.getbasetemp() / "noise"
    path.write_bytes(start + content)
    try:
        data = datasets.load(path)
    except DataError:
        return
    assert 16 + data.images.size == len(start + content)


# Arrays -----------------------------------------------------------------------------------------------------------

GREY, RGB = X, RNG.integers(0, 256, (3, 6, 6, 3), dtype=np.uint8)


@pytest.mark.parametrize("x", [GREY, GREY[..., None], RGB], ids=["NHW", "NHW1", "NHW3"])
def test_npy_uint8(tmp_path, x):
    np.save(tmp_path / "x.npy", x)
    data = datasets.load(tmp_path / "x.npy")
    same(data, x, None)
    assert data.name == "x" and "array x.npy" in data.source


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", "f4 fortran"])
def test_npy_floats(tmp_path, dtype):
    x = EVERY[..., 0].astype(np.float64)
    for values, span in [(x / 255, "0 to 1"), (x / 127.5 - 1, "-1 to 1"), (x, "0 to 255")]:
        values = np.asarray(values, dtype[:3].strip(), order="F" if "fortran" in dtype else "C")
        np.save(tmp_path / "x.npy", values)
        data = datasets.load(tmp_path / "x.npy")
        same(data, EVERY, None)
        assert span in data.source


def test_npy_fortran_order_uint8(tmp_path):
    np.save(tmp_path / "x.npy", np.asfortranarray(RGB))
    same(datasets.load(tmp_path / "x.npy"), RGB, None)


def test_npy_range_is_decided_on_the_whole_array(tmp_path):
    x = np.full((pixels.BLOCK + 2, 4, 4), 0.5, np.float32)
    np.save(tmp_path / "x.npy", x)
    assert (datasets.load(tmp_path / "x.npy").images == 128).all()  # 127.5, rounded to even
    x[-1, 3, 3] = -1.0  # in the last block, but it decides the range of all
    np.save(tmp_path / "x.npy", x)
    images = datasets.load(tmp_path / "x.npy").images
    assert (images[:-1] == 191).all() and images[-1, 3, 3, 0] == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_npy_names_the_first_value_that_is_not_finite(tmp_path, bad):
    x = np.full((9, 4, 4), 0.5)
    x[4, 2, 1] = x[7, 0, 0] = bad
    np.save(tmp_path / "x.npy", x)
    assert f"got {bad} at index (4, 2, 1, 0)" in error_of(tmp_path / "x.npy")


@pytest.mark.parametrize(
    "x, message",
    [
        (np.zeros((5, 6, 6), complex), "expected an array of numbers, got complex128"),
        (np.zeros((5, 6, 6), "U3"), "expected .*numbers"),
        (np.zeros((5, 6, 6), [("r", "u1")]), "expected an array of numbers"),
        (np.zeros((5, 35), np.uint8), r"got shape \(5, 35\): 35 is not a square number"),
        (np.zeros((5, 108), np.uint8), r"got shape \(5, 108\): if each row is an image in colours"),
        (np.zeros((), np.uint8), r"\(\)"),
        (np.zeros((2, 2, 6, 6, 3), np.uint8), r"\(2, 2, 6, 6, 3\)"),
        (np.zeros((5, 6, 6, 5), np.uint8), r"got shape \(5, 6, 6, 5\)"),
        (np.zeros((0, 6, 6), np.uint8), "expected at least one image, got 0"),
        (np.zeros((5, 3, 3), np.uint8), "at least 4 x 4 pixels, got 3 x 3"),
    ],
)
def test_npy_of_the_wrong_kind(tmp_path, x, message):
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(DataError, match=message):
        datasets.load(tmp_path / "x.npy")
    np.savez(tmp_path / "x.npz", images=x)
    with pytest.raises(DataError, match=message):
        datasets.load(tmp_path / "x.npz")


class Bomb:
    """Sets an environment variable when it is unpickled."""

    def __reduce__(self):
        return exec, ("import os; os.environ['MINIGAN_TEST_UNPICKLED'] = 'yes'",)


def test_nothing_is_unpickled(tmp_path):
    x = np.empty((5, 6, 6), object)
    x[:] = Bomb()
    np.save(tmp_path / "x.npy", x, allow_pickle=True)
    np.savez(tmp_path / "x.npz", images=x)
    np.savez(tmp_path / "y1.npz", images=X, labels=x)
    (tmp_path / "z.npy").write_bytes(pickle.dumps(Bomb()))
    for name in ("x.npy", "x.npz", "y1.npz"):
        assert "never unpickled" in error_of(tmp_path / name)
    assert "expected the header of a NumPy array" in error_of(tmp_path / "z.npy")
    assert "MINIGAN_TEST_UNPICKLED" not in os.environ


def npy_bytes(x):
    stream = io.BytesIO()
    np.save(stream, x)
    return stream.getvalue()


def test_broken_npy(tmp_path):
    good = npy_bytes(X)
    big = good.replace(b"(5, 6, 6), }" + b" " * 12, b"(50000000000, 6, 6), }  ")
    assert len(big) == len(good) and big != good
    for content, message in [
        (b"", "at offset 0, expected the header of a NumPy array"),
        (idx_bytes(X), "expected the header of a NumPy array"),
        (good[:60], "expected the header of a NumPy array"),
        (good[:-1], "declares (5, 6, 6) of uint8 = 180 bytes from offset 128, but there are 179: it is truncated"),
        (good + b"!", "but there are 181: it is damaged"),
        (big, "= 1800000000000 bytes from offset 128, but there are 180: it is truncated"),
        (good.replace(b"(5, 6, 6)", b"(5,-6,-6)"), "expected the header of a NumPy array"),
        (good.replace(b"\1\0", b"\3\0", 1), "expected the header of a NumPy array"),
    ]:
        assert message in error_of(write(tmp_path / "x.npy", content))


def test_npz_keys(tmp_path):
    file = tmp_path / "x.npz"
    other = X[:, ::-1]
    for save in (np.savez, np.savez_compressed):
        save(file, images=X, labels=Y)
        same(datasets.load(file), X, Y)
    np.savez(file, x_test=X[:2], y_test=Y[:2], x_train=X, y_train=Y)  # the keys of Keras
    data = datasets.load(file)
    same(data, X, Y)
    assert "'x_train'" in data.source and "'y_train'" in data.source
    np.savez(file, x=X, y=Y[:, None])
    same(datasets.load(file), X, Y)
    np.savez(file, x=other, x_train=other, images=X, y=Y[::-1], y_train=Y[::-1], labels=Y)  # images is preferred
    same(datasets.load(file), X, Y)
    np.savez(file, x=X, labels=Y[::-1], y=Y)  # y belongs to x
    same(datasets.load(file), X, Y)
    np.savez(file, images=X, y=Y)
    same(datasets.load(file), X, Y)
    np.savez(file, X)
    same(datasets.load(file), X, None)
    np.savez(file, faces=RGB, mean=RGB.mean(axis=0)[0], names=np.array(["a", None], object))
    same(datasets.load(file), RGB, None)


def test_npz_with_ambiguous_keys(tmp_path):
    file = tmp_path / "x.npz"
    np.savez(file, a=X, b=X, c=Y)
    assert "it has a (5, 6, 6), b (5, 6, 6), c (5,): name them with --keys IMAGES,LABELS" in error_of(file)
    np.savez(file, c=Y)
    assert "it has c (5,)" in error_of(file)
    np.savez(file)
    assert "it has no arrays" in error_of(file)


@pytest.mark.parametrize(
    "labels, message",
    [
        (Y[:4], "expected 5 labels, one for each image, got 4"),
        (np.ones((5, 3)), "rows are not one-hot"),
        (np.array([0, 1, 1.5, 0, 1]), "expected whole numbers or text for labels, got 1.5 at index 2"),
        (np.array([0, np.nan, 1, 0, 1]), "got nan at index 1"),
        (np.array(["a", "", "b", "a", "b"]), "got an empty text at index 1"),
    ],
)
def test_npz_wrong_labels(tmp_path, labels, message):
    np.savez(tmp_path / "x.npz", images=X, labels=labels)
    with pytest.raises(DataError, match=f"x.npz: array 'labels': .*{message}"):
        datasets.load(tmp_path / "x.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_broken_npz(tmp_path, save):
    file = tmp_path / "x.npz"
    save(file, images=X)
    good = file.read_bytes()
    assert "archive is damaged" in error_of(write(file, good[: len(good) // 2]))
    at = good.index(b"NUMPY") + 150 if save is np.savez else len(good) // 2  # within the pixels
    assert "damaged" in error_of(write(file, good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]))
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("images.npy", npy_bytes(X)[:-1])
    assert "array 'images': the header declares (5, 6, 6) of uint8 = 180 bytes" in error_of(file)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(places=DAMAGE, compressed=st.booleans())
def test_damaged_npz_is_caught_or_harmless(tmp_path_factory, places, compressed):
    stream = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(stream, images=X)
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    broken_or_right(path, damage(stream.getvalue(), places), X)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(places=DAMAGE)
def test_damaged_npy_header_raises_nothing_else(tmp_path_factory, places):
    content = npy_bytes(X)
    path = tmp_path_factory.getbasetemp() / "damaged.npy"
    path.write_bytes(damage(content[:128], places) + content[128:])
    try:
        data = datasets.load(path)
    except DataError as error:
        assert str(path) in str(error)
    else:  # a damaged header may be valid, for example with Fortran's order
        assert sorted(data.images.ravel()) == sorted(X.ravel())


# Pictures ---------------------------------------------------------------------------------------------------------


def draw(path, x, mode=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(x)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".gif", ".tif", ".pgm", ".PNG"])
def test_grey_pictures(tmp_path, suffix):
    for i in (2, 0, 1):
        draw(tmp_path / f"{i}{suffix}", X[i])
    data = datasets.load(tmp_path)
    same(data, X[:3], None)
    assert data.name == tmp_path.name and "3 pictures" in data.source


@pytest.mark.parametrize("suffix, options", [(".png", {}), (".bmp", {}), (".webp", {"lossless": True})])
def test_colour_pictures(tmp_path, suffix, options):
    for i in range(3):
        draw(tmp_path / f"{i}{suffix}", RGB[i], **options)
    same(datasets.load(tmp_path), RGB, None)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg"])
def test_jpeg(tmp_path, suffix):
    smooth = np.add.outer(np.arange(8), np.arange(8)).astype(np.uint8) * 10
    draw(tmp_path / f"a{suffix}", smooth, quality=95)
    images = datasets.load(tmp_path).images
    assert images.shape == (1, 8, 8, 1) and np.abs(images[0, ..., 0] - smooth.astype(int)).max() < 8


def test_grey_pixels_in_any_mode_are_grey(tmp_path):
    draw(tmp_path / "0.png", X[0], mode="RGB")
    draw(tmp_path / "1.png", X[1], mode="P")
    draw(tmp_path / "2.png", X[2], mode="LA")
    same(datasets.load(tmp_path), X[:3], None)


def test_one_picture_in_colour_makes_all_rgb(tmp_path):
    draw(tmp_path / "0.png", X[0])
    draw(tmp_path / "1.png", RGB[0])
    draw(tmp_path / "2.png", X[1])
    same(datasets.load(tmp_path), np.stack([np.stack([X[0]] * 3, -1), RGB[0], np.stack([X[1]] * 3, -1)]), None)


def test_transparent_pixels_are_blended_with_the_background(tmp_path):
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[...] = [200, 100, 150, 255]
    rgba[0, 0, 3], rgba[0, 1, 3] = 0, 128
    draw(tmp_path / "a.png", rgba)
    for options, behind in (({}, 0), ({"background": "white"}, 255), ({"background": "#0000ff"}, [0, 0, 255])):
        image = datasets.load(tmp_path, datasets.ImageOptions(**options)).images[0]
        behind = np.broadcast_to(behind, 3)
        assert image[0, 0].tolist() == behind.tolist() and image[1, 1].tolist() == [200, 100, 150]
        mixed = np.array([200, 100, 150]) * 128 / 255 + behind * 127 / 255
        np.testing.assert_allclose(image[0, 1], mixed, atol=1)


def test_a_transparent_palette_entry_shows_the_background(tmp_path):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([255, 255, 255, 90, 90, 90])
    image.putpixel((2, 1), 0)
    image.save(tmp_path / "a.gif", transparency=0)
    x = datasets.load(tmp_path).images[0, ..., 0]  # dark drawings are put on white
    assert x[1, 2] == 255 and (np.delete(x.ravel(), 6) == 90).all()


def test_bits(tmp_path):
    wide = X[0].astype(np.uint16) * 257
    wide[0, 0] = 300  # 1.17 of 255
    draw(tmp_path / "0.png", wide)
    x = X[0].copy()
    x[0, 0] = 1
    draw(tmp_path / "1.png", np.where(X[1] > 99, 255, 0).astype(np.uint8), mode="1")
    same(datasets.load(tmp_path), np.stack([x, np.where(X[1] > 99, 255, 0).astype(np.uint8)]), None)


def test_pictures_of_too_many_bits(tmp_path):
    draw(tmp_path / "0.tif", X[0].astype(np.int32) + 70_000)
    assert "say which values are black and white, for example with --range" in error_of(tmp_path)
    assert (
        datasets.load(tmp_path, datasets.ImageOptions(range="70000,70255")).images[0, ..., 0].tolist() == X[0].tolist()
    )
    draw(tmp_path / "0.tif", X[0].astype(np.float32) / 255)
    same(datasets.load(tmp_path), X[:1], None)


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.fromarray(x) for x in X[:3]]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    same(datasets.load(tmp_path), X[:1], None)


def test_orientation_of_a_camera(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be rotated by 90 degrees clockwise
    draw(tmp_path / "a.png", X[0], exif=exif)
    same(datasets.load(tmp_path), np.rot90(X[0], -1)[None], None)


def test_subfolders_are_classes(tmp_path):
    draw(tmp_path / "dogs" / "a.png", X[0])
    draw(tmp_path / "cats" / "deep" / "b.png", X[1])
    draw(tmp_path / "cats" / "a.png", X[2])
    (tmp_path / "aaa-empty").mkdir()
    draw(tmp_path / ".hidden" / "a.png", X[3, :5])
    draw(tmp_path / "__MACOSX" / "a.png", X[3, :5])
    write(tmp_path / "cats" / "._a.png", b"metadata of macOS")
    write(tmp_path / "notes.txt", b"not a picture")
    data = datasets.load(tmp_path)
    same(data, X[[2, 1, 0]], ["cats", "cats", "dogs"])
    assert data.class_names == ["cats", "dogs"]
    assert "cats, dogs" in data.source and "1 .txt" in data.source and "3 hidden and system files" in data.source


def test_one_subfolder_gives_no_labels(tmp_path):
    draw(tmp_path / "all" / "a.png", X[0])
    same(datasets.load(tmp_path), X[:1], None)
    draw(tmp_path / "b.png", X[2])
    same(datasets.load(tmp_path), X[[0, 2]], None)


def test_a_picture_next_to_class_folders_is_left_out_and_reported(tmp_path):
    draw(tmp_path / "all" / "a.png", X[0])
    draw(tmp_path / "z" / "a.png", X[1])
    draw(tmp_path / "b.png", X[2])
    data = datasets.load(tmp_path)
    same(data, X[:2], ["all", "z"])
    assert "1 picture next to the class folders (b.png) has no class and is left out" in data.source


def test_idx_files_are_preferred_to_pictures(tmp_path):
    draw(tmp_path / "preview.png", X[3])
    write(tmp_path / "train-images-idx3-ubyte", idx_bytes(X))
    same(datasets.load(tmp_path), X, None)


def test_pictures_of_different_sizes_are_refused_with_the_options_that_help(tmp_path):
    draw(tmp_path / "a.png", X[0])
    draw(tmp_path / "b.png", np.zeros((7, 6), np.uint8))
    draw(tmp_path / "c.png", np.zeros((9, 9), np.uint8))
    text = error_of(tmp_path)
    assert "got 3 sizes: 1 have 6 x 6 (rows x columns), b.png has 7 x 6" in text and "--size 32 --fit crop" in text


def test_pictures_too_small(tmp_path):
    draw(tmp_path / "a.png", np.zeros((3, 3), np.uint8))
    assert "expected images of at least 4 x 4 pixels, got 3 x 3" in error_of(tmp_path)


def test_broken_pictures(tmp_path):
    noise = RNG.integers(0, 256, (32, 32), dtype=np.uint8)
    for suffix in (".png", ".jpg", ".bmp", ".gif"):
        folder = tmp_path / suffix
        file = draw(folder / f"x{suffix}", noise)
        good = file.read_bytes()
        for content in (
            b"",
            b"hello",
            good[: len(good) // 2],
            good[:20],
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n",
        ):
            file.write_bytes(content)
            text = error_of(folder)
            assert text.startswith(f"{folder}: 1 of 1 pictures cannot be read (x{suffix}: ") and "--skip-bad" in text


def test_a_picture_of_huge_declared_size_is_not_decoded(tmp_path):
    good = draw(tmp_path / "b.png", X[0]).read_bytes()
    ihdr = b"IHDR" + (60_000).to_bytes(4, "big") * 2 + good[24:29]
    huge = good[:12] + ihdr + zlib.crc32(ihdr).to_bytes(4, "big") + good[33:]
    write(tmp_path / "b.png", huge)
    assert "b.png: DecompressionB" in error_of(tmp_path)


# Paths ------------------------------------------------------------------------------------------------------------


def test_missing_path(tmp_path):
    assert error_of(tmp_path / "nowhere") == (
        f"{tmp_path / 'nowhere'}: there is no such file or folder: check the name, or give the full path"
    )
    assert "no such file" in error_of(tmp_path / "x.npy")
    file = write(tmp_path / "file", b"")
    assert str(file / "below") in error_of(file / "below")
    assert "cannot be read (File name too long)" in error_of("x" * 5000)


def test_an_empty_or_invalid_path():
    assert "is not a path" in error_of("")
    assert "is not a path" in error_of("a\0b")


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    np.save(tmp_path / "x.npy", X)
    same(datasets.load("~/x.npy"), X, None)
    assert "no_such_user_here" in error_of("~no_such_user_here/x")


def test_a_folder_named_mnist_is_loaded_by_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "mnist" / "train-images-idx3-ubyte", idx_bytes(X))
    same(datasets.load("./mnist"), X, None)
    assert len(datasets.load("mnist")) == 60_000


def test_folder_without_images(tmp_path):
    assert "found an empty folder: is this the right folder?" in error_of(tmp_path)
    write(tmp_path / "notes.txt", b"hello")
    assert "found neither: is this the right folder?" in error_of(tmp_path)
    np.save(tmp_path / "a.npy", X)
    np.save(tmp_path / "b.npy", X)
    assert f"give the file itself, such as {tmp_path / 'a.npy'}" in error_of(tmp_path)


def test_directory_where_a_file_is_expected(tmp_path):
    for name in ("x.npy", "x.npz", "x.gz"):
        (tmp_path / name).mkdir()
        assert "expected a file, got a directory" in error_of(tmp_path / name)
    draw(tmp_path / "good" / "a.png", X[0])
    (tmp_path / "good" / "b.png").mkdir()  # not a file, so not a picture
    same(datasets.load(tmp_path / "good"), X[:1], None)


def test_one_picture_is_refused(tmp_path):
    file = draw(tmp_path / "a.png", X[0])
    assert f"{file}: expected many images, got one picture: give the folder" in error_of(file)


def test_a_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "got a device or pipe" in error_of(tmp_path / "pipe")


def test_picture_that_is_a_broken_link(tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    assert "a.png: No such file" in error_of(tmp_path)


@contextlib.contextmanager
def ordinary_user():
    """Drops root privileges, because root can read every file."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_permission_denied():
    with tempfile.TemporaryDirectory() as name:  # only the owner can read the parents of tmp_path
        top = Path(name)
        top.chmod(0o755)
        idx = write(top / "idx" / "train-images-idx3-ubyte", idx_bytes(X))
        labels = write(top / "idx" / "train-labels-idx1-ubyte", idx_bytes(Y))
        np.save(top / "x.npy", X)
        picture = draw(top / "pictures" / "a.png", X[0])
        closed = draw(top / "closed" / "a.png", X[0]).parent
        inner = draw(top / "outer" / "inner" / "a.png", X[0]).parent
        refused = (labels, top / "x.npy", picture, closed, inner)
        for path in refused:
            path.chmod(0)
        try:
            with ordinary_user():
                if not os.access(top, os.R_OK, effective_ids=True):
                    pytest.skip("an ordinary user cannot read the temporary folder")
                for path, named in [
                    (idx, labels),
                    (top / "x.npy", top / "x.npy"),
                    (closed, closed),
                    (closed / "a.png", closed / "a.png"),
                    (inner.parent, inner),
                ]:
                    assert error_of(path).startswith(f"{named}: permission denied: make it readable")
                assert "(a.png: Permission denied)" in error_of(top / "pictures")
        finally:
            for path in refused:
                path.chmod(0o755)


def test_out_of_memory_is_one_sentence(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", X)

    def no_memory(path, options):
        raise MemoryError

    monkeypatch.setattr(arrays, "load", no_memory)
    assert "the images do not fit in memory" in error_of(tmp_path / "x.npy")


def test_disk_error_is_one_sentence(tmp_path, monkeypatch):
    class Failing(io.BytesIO):
        def read(self, *args):
            raise OSError(5, "Input/output error")

    monkeypatch.setattr("minigan.datasets.idx.open_file", lambda path: Failing())
    text = error_of(write(tmp_path / "x", idx_bytes(X)))
    assert text == f"{tmp_path / 'x'}: cannot be read (Input/output error): check the path and the disk"


def test_suffixes_are_lower_case():
    assert all(suffix == suffix.lower() for suffix in pictures.suffixes())
