"""Functions and errors that the readers of all file formats share."""

import functools
import gzip
import os
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
    """Convert an error of the operating system at `path` to a DataError that says what to do."""
    path = error.filename or path  # `path` may be a folder, and the error about a file in it
    if isinstance(error, FileNotFoundError):
        return DataError(f"{path}: there is no such file or folder: check the name, or give the full path")
    if isinstance(error, PermissionError):
        return DataError(f"{path}: permission denied: make it readable, for example with chmod -R u+rX")
    if isinstance(error, IsADirectoryError):
        return DataError(f"{path}: expected a file, got a directory: give a file inside it, or rename the directory")
    return DataError(f"{path}: cannot be read ({error.strerror or error}): check the path and the disk")


def open_file(path: Path) -> BinaryIO:
    """Open `path` for reading bytes. Raises DataError if the operating system refuses."""
    try:
        return open(path, "rb")
    except OSError as error:
        raise explain(path, error) from None


def read_bytes(stream: IO[bytes] | gzip.GzipFile, count: int, path: str | Path, at: int = 0) -> bytearray:
    """Read the next `count` bytes of `stream`, or fewer if it ends before. `at` is its current offset, for errors.

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


MEMORY_SHARE = 0.5  # largest share of the memory that decoded data may take


@functools.cache  # the readers ask for every picture
def memory() -> int | None:
    """Return the memory that this process may use, in bytes, or None if it is unknown.

    It is the memory of the machine, or the limit of the container if that is smaller.
    """
    limits = []
    try:
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):  # Windows
        pass
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path(path).read_text()))
        except (OSError, ValueError):  # there is no such file, or the limit is "max"
            pass
    return min(limits, default=None)


def expect_room(size: int, where: str, advice: str) -> None:
    """Raise DataError if decoded data of `size` bytes take more than MEMORY_SHARE of the memory.

    The message starts with `where` and ends with `advice`.
    """
    have = memory()
    if have is not None and size > MEMORY_SHARE * have:
        raise DataError(
            f"{where} would take {size / 2**30:.1f} GiB, more than {MEMORY_SHARE:.0%} of this machine's "
            f"{have / 2**30:.1f} GiB of memory: {advice}"
        )
