"""Write files atomically, so that an interruption never leaves a partial file, and lock folders."""

import contextlib
import io
import json
import math
import os
import re
import threading
import time
import weakref
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from minigan.errors import UserError

LOCK = ".lock"  # the file in a locked folder
TEMPORARY = re.compile(r"\..+\.(\d+)(-\d+)?\.tmp")  # the name of a file that is being written, by process and thread
PATIENCE = 2.0  # seconds for which a file may be held open by another program, such as a viewer on Windows
_being_written: set[Path] = set()  # the temporary files of this process


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to `path`, so that the file has its old or its complete new content even after a power failure.

    The content is written to a temporary file in the same folder, which is flushed to disk and then renamed. If another
    program holds the file open, the rename is tried again for PATIENCE seconds. Raises OSError, with the name of the
    file, if the write fails, and removes the temporary file in that case.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    _being_written.add(temporary)
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        _replace(temporary, path)
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
        _being_written.discard(temporary)


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


def plain(value: Any) -> Any:
    """Return a report with None in place of NaN and infinite numbers, which JSON cannot represent."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an array to a .npy file atomically."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    write_atomically(path, buffer.getvalue())


def write_archive(path: Path, arrays: dict[str, np.ndarray], facts: dict) -> None:
    """Write NumPy arrays, and facts that JSON can represent, to a .npz file atomically."""
    buffer = io.BytesIO()
    entries: dict[str, Any] = {**arrays, "facts": np.array(json.dumps(facts))}
    np.savez(buffer, **entries)
    write_atomically(path, buffer.getvalue())


def read_archive(path: Path, what: str, missing: str, error: type[UserError] = UserError) -> tuple[dict, dict]:
    """Read (arrays, facts) that `write_archive` wrote. The checksums in the file cover every byte of the entries.

    Raises `error` if the file is missing, cannot be read, or is damaged. `what` names the content in
    the message ("a checkpoint"), and `missing` ends the message about a file that does not exist.
    """
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        facts = json.loads(str(arrays.pop("facts")))
        facts["format"]
    except FileNotFoundError:
        raise error(f"{path} does not exist: {missing}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, TypeError, AttributeError) as cause:
        raise error(f"{path} is not {what}, or is damaged ({str(cause) or type(cause).__name__})") from None
    except OSError as cause:
        raise error(f"cannot read {path}: {cause.strerror or cause}") from None
    return arrays, facts


_kept: weakref.WeakKeyDictionary[object, filelock.BaseFileLock] = weakref.WeakKeyDictionary()  # by owner
_lost: weakref.WeakKeyDictionary[object, str] = weakref.WeakKeyDictionary()  # owners, and the lock taken from them


@contextlib.contextmanager
def locked(folder: Path | None, owner: object = None) -> Iterator[Callable[[object], None]]:
    """Lock a folder, so that no other training writes to it, and remove what killed processes left in it.

    The lock ends with the process, however it ends. The context gives a function `keep(owner)`: after it was called,
    the lock lasts until the next `locked` of this owner, or until the owner is deleted. So no other process uses the
    folder between the two. This process may take over a kept lock, for example if a cell of a notebook runs again. Then
    the owner cannot lock the folder any more.

    File systems without locks are not locked. For None, this context does nothing. Raises UserError if another process,
    or another thread of this one, holds the lock.
    """
    if folder is None:
        yield lambda owner: None
        return
    place = os.path.realpath(folder / LOCK)
    if owner is not None and _lost.get(owner) == place:
        raise UserError(f"another training of this program has opened {folder} since: use that one, or resume again")
    lock = None if owner is None else _kept.get(owner)
    if lock is not None and lock.lock_file == place:
        del _kept[owner]
    else:
        lock = _lock(folder, place)
    owners: list[object] = []
    try:
        remove_leftovers(folder)
        yield owners.append
    except BaseException:
        owners.clear()
        raise
    finally:
        if lock is not None and owners:
            _kept[owners[0]] = lock
        elif lock is not None:
            lock.release()


def _lock(folder: Path, place: str) -> filelock.BaseFileLock | None:
    """Lock the file `place` of a folder. Returns None without locks in the file system. Raises UserError if it is used.

    A lock that this process keeps, but does not use yet, is taken from its owner.
    """
    lock = filelock.FileLock(place, timeout=0, thread_local=False)
    for owner, kept in list(_kept.items()):
        if kept.lock_file == place:
            _lost[owner] = place
            release(owner)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise UserError(
            f"{folder} is in use by another training: wait until it ends, or choose another folder with --out"
        ) from None
    except (OSError, NotImplementedError):  # no locks here; if the folder cannot be written, a later write says so
        return None
    return lock


def release(owner: object) -> None:
    """Release the lock that is kept for an owner, if there is one."""
    with contextlib.suppress(KeyError, TypeError):  # TypeError: None has no weak references
        _kept.pop(owner).release()


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of processes that no longer exist, from a folder and the folders in it.

    In a container, every process may have the number of this one. So its files are removed unless it writes them now.
    """
    for path in [*folder.glob(".*.tmp"), *folder.glob("*/.*.tmp")]:
        match = TEMPORARY.fullmatch(path.name)
        if not match or path in _being_written:
            continue
        if int(match[1]) == os.getpid() or not _exists(int(match[1])):
            with contextlib.suppress(OSError):
                path.unlink()


def _exists(process: int) -> bool:
    """Return whether the process may exist."""
    if os.name == "nt":  # os.kill would end it; and Windows does not remove a file that a process writes
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def is_empty(folder: Path) -> bool:
    """Return whether a folder has no files, except those of `locked` and of killed processes."""
    return all(path.name == LOCK or TEMPORARY.fullmatch(path.name) for path in folder.iterdir())
