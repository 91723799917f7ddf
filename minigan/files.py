"""Write files atomically, so that an interruption never leaves a partial file, and lock folders."""

import contextlib
import io
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import filelock
import numpy as np

from minigan.errors import UserError

LOCK = ".lock"  # the file in a locked folder
TEMPORARY = re.compile(r"\..+\.(\d+)(\.\d+)?\.tmp")  # the name of a file that is being written, by process and thread
PATIENCE = 2.0  # seconds for which a file may be held open by another program, such as a viewer on Windows


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to `path`, so that the file has its old or its complete new content even after a power failure.

    The content is written to a temporary file in the same folder, which is flushed to disk and then renamed. If another
    program holds the file open, the rename is tried again for PATIENCE seconds. Raises OSError if the write fails, and
    removes the temporary file in that case.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        _replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _replace(temporary: Path, path: Path) -> None:
    """Rename a file. Tries again if that is not permitted, because another program has opened the target."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return os.replace(temporary, path)
        except PermissionError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an array to a .npy file atomically."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    write_atomically(path, buffer.getvalue())


@contextlib.contextmanager
def locked(folder: Path | None) -> Iterator[None]:
    """Lock a folder, so that no other training writes to it, and remove what killed processes left in it.

    The lock ends with the process, however it ends. File systems without locks are not locked. For None, this context
    does nothing. Raises UserError if another process, or another thread of this one, holds the lock.
    """
    if folder is None:
        yield
        return
    lock = filelock.FileLock(folder / LOCK, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise UserError(
            f"{folder} is in use by another training: wait until it ends, or choose another folder with --out"
        ) from None
    except (OSError, NotImplementedError):  # no locks here; if the folder cannot be written, a later write says so
        yield
        return
    try:
        remove_leftovers(folder)
        yield
    finally:
        lock.release()


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of processes that no longer exist, from a folder and the folders in it."""
    for path in [*folder.glob(".*.tmp"), *folder.glob("*/.*.tmp")]:
        match = TEMPORARY.fullmatch(path.name)
        if match and not _exists(int(match[1])):
            with contextlib.suppress(OSError):
                path.unlink()


def _exists(process: int) -> bool:
    """Return whether the process may exist."""
    if os.name == "nt":  # os.kill would end it; and Windows does not remove a file that a process writes
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def is_empty(folder: Path) -> bool:
    """Return whether a folder has no files, except those of `locked` and of killed processes."""
    return all(path.name == LOCK or TEMPORARY.fullmatch(path.name) for path in folder.iterdir())
