"""Kernels on disk that are checked before they are run.

Numba stores compiled functions in two kinds of files: an index (.nbi) and machine code (.nbc). A file
that was cut short, by a full disk or a power failure, raises errors of the unpickler, and changed
machine code can end the process. So the files of minigan's kernels end with a checksum of their name and
content. A file without the right one is deleted and compiled again. Each machine code is also stored with
the key of the index that it belongs to, because two processes that write at once can leave an index that
points to the code of another signature.
"""

import contextlib
import hashlib
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.dispatcher import Dispatcher

from minigan.backends.contract import Finding, warn_once

MARK = b"minigan-sha256:"  # followed by the checksum, 32 bytes; the unpickler ignores what follows its data
ROOM = 16 * 2**20  # bytes, more than the kernels of all presets


def check_kernels(modules: list[Any]) -> None:
    """Check the cached files of all compiled functions that these modules define, from now on."""
    for module in modules:
        for function in vars(module).values():
            cache = getattr(function, "_cache", None)
            if isinstance(function, Dispatcher) and type(cache) is FunctionCache:
                cache.__class__, cache._cache_file.__class__ = KernelCache, KernelFile


def delete_damaged(paths: list[Path]) -> None:
    """Delete those of the files that are damaged, and say so once."""
    deleted = []
    for path in paths:
        if is_intact(path) is False:
            try:
                path.unlink()
                deleted.append(path)
            except OSError as error:
                text = f"the damaged kernel {path} cannot be deleted ({_reason(error)}): delete it"
                warn_once(text, "kernels cannot be stored")
    if deleted:
        folder, name = deleted[0].parent, deleted[0].name
        text = (
            f"a damaged kernel in {folder} was deleted ({name}), and is compiled again"
            if len(deleted) == 1
            else f"{len(deleted)} damaged kernels in {folder} were deleted (such as {name}), and are compiled again"
        )
        warn_once(text, "damaged kernels")


def files_in(folder: Path) -> list[Path]:
    """Return the files of the kernels in a folder."""
    return sorted([*folder.glob("*.nbi"), *folder.glob("*.nbc")])


class KernelCache(FunctionCache):
    """The cache of one kernel, whose errors do not stop the computation."""

    def load_overload(self, sig, target_context):
        """Return the kernel for a signature, or None if it is not on disk or cannot be read."""
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # the content has the right checksum, but does not fit to this Numba or CPU
            text = f"compiled kernels in {self.cache_path} cannot be used ({_reason(error)}): compiled again"
            warn_once(text, "kernels cannot be used")
            return None

    def save_overload(self, sig, data):
        """Store a kernel. If that fails, it is compiled again in the next process."""
        try:
            super().save_overload(sig, data)
        except OSError as error:
            warn_once(
                f"compiled kernels cannot be stored in {self.cache_path} ({_reason(error)}): make room there, or set "
                "NUMBA_CACHE_DIR to another folder",
                "kernels cannot be stored",
            )


class KernelFile(IndexDataCacheFile):
    """The index and the machine code of one kernel."""

    def save(self, key, data):
        """Store a kernel together with its key."""
        super().save(key, (key, data))

    def load(self, key):
        """Return the kernel of this key, or None if it is not on disk."""
        of_key, data = super().load(key) or (key, None)
        return data if of_key == key else None

    def _load_index(self):
        return super()._load_index() if self._check(self._index_path) else {}

    def _load_data(self, name):
        if not self._check(self._data_path(name)):
            raise FileNotFoundError(name)  # Numba then compiles
        return super()._load_data(name)

    def _check(self, path: str) -> bool:
        """Return whether a file is there and intact. Deletes it if it is damaged."""
        found = is_intact(Path(path))
        if found is False:
            delete_damaged([Path(path)])
        return bool(found)

    @contextlib.contextmanager
    def _open_for_write(self, filepath: str) -> Iterator[io.BytesIO]:
        content = io.BytesIO()
        with super()._open_for_write(filepath) as file:
            yield content
            file.write(content.getvalue() + ending(os.path.basename(filepath), content.getvalue()))


def ending(name: str, content: bytes) -> bytes:
    """Return what follows the content of a file with this name: a mark and the checksum."""
    return MARK + hashlib.sha256(name.encode() + b"\0" + content).digest()


def is_intact(path: Path) -> bool | None:
    """Return whether a file ends with its checksum, or None if it does not exist."""
    if not os.path.lexists(path):
        return None
    try:
        content = path.read_bytes() if path.is_file() else b""  # reading a pipe would wait forever
    except FileNotFoundError:  # another process has just deleted it
        return None
    except OSError:
        return False
    length = len(content) - len(MARK) - 32
    return length > 0 and content[length:] == ending(path.name, content[:length])


def state_of(folder: Path | None) -> Finding:
    """Return the state of the folder of compiled kernels; None: there is no folder that can be written."""
    if folder is None:
        fix = "set NUMBA_CACHE_DIR to a folder that can be written"
        return Finding("kernels", "are compiled again in every process, because no folder can be written", fix)
    files = files_in(folder)
    damaged = [path.name for path in files if is_intact(path) is False]
    size = sum(path.stat().st_size for path in files if path.exists()) / 2**20
    text = f"{len(files)} files, {size:.1f} MiB, in {folder}"
    if damaged:
        fix = "nothing: they are deleted and compiled again when they are needed"
        return Finding("kernels", f"{text}; {len(damaged)} damaged, such as {damaged[0]}", fix)
    free = shutil.disk_usage(folder).free if folder.is_dir() else ROOM
    if free < ROOM:
        fix = "delete files there, or set NUMBA_CACHE_DIR to a folder on another disk"
        return Finding("kernels", f"{text}; the disk has only {free / 2**20:.1f} MiB left", fix)
    if folder.is_dir() and not os.access(folder, os.W_OK):
        return Finding(
            "kernels", f"{text}; it cannot be written", "set NUMBA_CACHE_DIR to a folder that can be written"
        )
    return Finding("kernels", text)


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0][:200]
