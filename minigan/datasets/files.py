"""Functions and errors that the readers of all file formats share."""

import gzip
import zipfile
import zlib
from pathlib import Path
from typing import IO, BinaryIO

from minigan.errors import UserError

CHUNK = 1 << 16  # bytes read at a time; errors in a compressed stream are located to within one chunk
DAMAGED = (gzip.BadGzipFile, zipfile.BadZipFile, zlib.error, EOFError)  # errors of decompression


class DataError(UserError):
    """Raised for data that cannot be used. The message is one sentence: what is wrong, where, and what to do."""


def explain(path: str | Path, error: OSError) -> DataError:
    """Converts an error of the operating system while reading `path` into a DataError that says what to do."""
    path = error.filename or path  # `path` may be a folder, and the error about a file in it
    if isinstance(error, FileNotFoundError):
        return DataError(f"{path}: there is no such file or folder: check the name, or give the full path")
    if isinstance(error, PermissionError):
        return DataError(f"{path}: permission denied: make it readable, for example with chmod -R u+rX")
    if isinstance(error, IsADirectoryError):
        return DataError(f"{path}: expected a file, got a directory: give a file inside it, or rename the directory")
    return DataError(f"{path}: cannot be read ({error.strerror or error}): check the path and the disk")


def open_file(path: Path) -> BinaryIO:
    """Opens `path` for reading bytes. Raises DataError if the operating system refuses."""
    try:
        return open(path, "rb")
    except OSError as error:
        raise explain(path, error) from None


def read_bytes(stream: IO[bytes] | gzip.GzipFile, count: int, path: str | Path, at: int = 0) -> bytearray:
    """Reads the next `count` bytes of `stream`, or fewer if it ends before. `at` is its current offset, for errors.

    The bytes are read in chunks, because `count` may come from a damaged header: the memory used grows with the bytes
    that exist, not with `count`. Raises DataError if a gzip or zip stream is damaged.
    """
    data = bytearray()
    try:
        while len(data) < count:
            chunk = stream.read(min(CHUNK, count - len(data)))
            if not chunk:
                break
            data += chunk
    except DAMAGED as error:
        raise DataError(
            f"{path}: the compressed stream is damaged, somewhere after offset {at + len(data)} of its uncompressed "
            f"bytes ({error}): download or copy the file again"
        ) from None
    except OSError as error:
        raise explain(path, error) from None
    return data
