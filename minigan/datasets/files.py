"""What reading any kind of file shares: its error, and reading no more bytes than there are."""

import gzip
import os
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

from minigan.errors import UserError

PIECE = 1 << 16  # bytes: as closely as an error in a compressed stream is placed
DAMAGED = (gzip.BadGzipFile, zipfile.BadZipFile, zlib.error, EOFError)  # how unpacking fails


class DataError(UserError):
    """A file, folder or array that cannot be used as images; its sentence says which, where, how, and what to do."""


def explain(path: str | Path, error: OSError) -> DataError:
    """The operating system's refusal to read `path`, as a DataError with the remedy."""
    # An error met inside a folder names its own file.
    path = error.filename or path
    if isinstance(error, FileNotFoundError):
        return DataError(f"{path}: there is no such file or folder: check the name, or give the full path")
    if isinstance(error, PermissionError):
        return DataError(f"{path}: permission denied: make it readable, for example with chmod -R u+rX")
    if isinstance(error, IsADirectoryError):
        return DataError(f"{path}: expected a file, got a directory: give a file inside it, or rename the directory")
    return DataError(f"{path}: cannot be read ({error.strerror or error}): check the path and the disk")


def open_file(path: Path) -> BinaryIO:
    """`path` opened to read bytes; what the operating system refuses becomes a DataError."""
    try:
        return open(path, "rb")
    except OSError as error:
        raise explain(path, error) from None


def read_bytes(stream: BinaryIO, count: int, path: str | Path, at: int = 0) -> bytearray:
    """The next `count` bytes of `stream`, fewer only if it ends before; `at` is its offset now, for the error.

    Piece by piece, since `count` comes from a header that may lie: memory grows with the bytes that are really there,
    not with those that were promised. A damaged gzip or zip stream is a DataError.
    """
    data = bytearray()
    try:
        while len(data) < count:
            piece = stream.read(min(PIECE, count - len(data)))
            if not piece:
                break
            data += piece
    except DAMAGED as error:
        raise DataError(
            f"{path}: the compressed stream is damaged, somewhere after offset {at + len(data)} of its unpacked bytes "
            f"({error}): download or copy the file again"
        ) from None
    except OSError as error:
        raise explain(path, error) from None
    return data


MEMORY_SHARE = 0.5  # of this machine's memory: the largest decoded data set that is read


def memory() -> int | None:
    """Bytes of memory that this process may use: the machine's, or its container's limit. None if nothing says it."""
    limits = []
    try:
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):  # Windows
        pass
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path(path).read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            pass
    return min(limits, default=None)


def expect_room(size: int, where: str, advice: str) -> None:
    """Raises DataError if decoded data of `size` bytes would take more than MEMORY_SHARE of the memory."""
    have = memory()
    if have is not None and size > MEMORY_SHARE * have:
        raise DataError(
            f"{where} would take {size / 2**30:.1f} GiB, more than {MEMORY_SHARE:.0%} of this machine's "
            f"{have / 2**30:.1f} GiB of memory: {advice}"
        )
