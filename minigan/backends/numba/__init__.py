"""The compiled CPU backend. `start` loads it. Importing this package imports neither Numba nor any kernel."""

import contextlib
import ctypes
import functools
import os
import stat
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs

from minigan.backends.contract import BackendUnavailable, cores, warn_once

if TYPE_CHECKING:
    from minigan.backends.numba.backend import NumbaBackend

_ready = False  # whether the process is set up, and a compiled test computation has succeeded
_users_threads: int | None = None  # the value of NUMBA_NUM_THREADS that the user set
cached = True  # whether compiled kernels are stored on disk, which needs a folder that can be written


def start(threads: int | None = None) -> "NumbaBackend":
    """Return the Numba backend with this number of threads (None: NUMBA_NUM_THREADS, else one per core).

    The first call sets up the process: the environment variables that Numba and OpenMP read
    once, the memory allocator, and the folder of compiled kernels. Then it runs a small compiled
    computation. The environment is afterwards as before. BLAS is limited to one thread when
    the backend is activated.

    What can be repaired is repaired, with a warning: see README.md in this folder. Raises
    BackendUnavailable, or the exception of Numba, if nothing can be compiled.
    """
    global _ready, _users_threads
    expect_threads()
    if not _ready:
        _users_threads = _threads_in_environment()
        _keep_freed_memory()
        with _environment(_users_threads):
            with _warnings_as_sentences():
                _import_numba()
            _ignore_unknown_processor()
            with _kernels_cached_on_disk(), _warnings_as_sentences():
                from minigan.backends.numba import backend
        backend.delete_stale_kernels()
        backend.expect_right_results()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_lose_threads)
        _ready = True
    from minigan.backends.numba.backend import NumbaBackend

    return NumbaBackend(threads=threads or _users_threads)


def _threads_in_environment() -> int | None:
    """Return the value of NUMBA_NUM_THREADS, or None if it is not set or not a number of threads, with a warning."""
    text = os.environ.get("NUMBA_NUM_THREADS")
    if text is None:
        return None
    try:
        if int(text) > 0:
            return int(text)
    except ValueError:
        pass
    warn_once(f"NUMBA_NUM_THREADS is {text!r}, not a whole number from 1, and is ignored: set it to one, or unset it")
    return None


@contextlib.contextmanager
def _environment(users_threads: int | None) -> Iterator[None]:
    """Set the environment variables that Numba and OpenMP read at import, and restore them afterwards.

    When Numba is imported, it takes its maximum number of threads from NUMBA_NUM_THREADS. The
    value set here is at least 16, so that a backend can use more threads than cores. It is not set
    if the user has imported Numba before.

    A waiting OpenMP thread either sleeps or spins in a busy loop. Spinning is the default. It
    is many times slower if other programs run, because a waiting thread occupies a core that
    another thread needs. If the threads sleep at once, each of about a hundred waits in a
    training step starts with waking them up. So they spin for about 0.2 ms, then sleep.
    """
    new = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "20000"}
    new = {name: value for name, value in new.items() if name not in os.environ}
    first = "numba" not in sys.modules
    if first:
        new["NUMBA_NUM_THREADS"] = str(max(cores(), 16, min(users_threads or 1, 256)))
    before = {name: os.environ.get(name) for name in new}
    os.environ.update(new)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if first:
            _expect_environment()


def _expect_environment() -> None:
    """Tell Numba that the environment has not changed. Otherwise it would read it again, with the first compilation."""
    with contextlib.suppress(ImportError, AttributeError):  # a private name of Numba
        from numba.core.config import _env_reloader

        known = {name: value for name, value in os.environ.items() if name.startswith("NUMBA_")}
        _env_reloader.old_environ = {**_env_reloader.old_environ, **known}
        if "NUMBA_NUM_THREADS" not in os.environ:
            _env_reloader.old_environ.pop("NUMBA_NUM_THREADS", None)


@contextlib.contextmanager
def _warnings_as_sentences() -> Iterator[None]:
    """Replace the warnings of Numba in this context, such as those of bad variables, by one sentence each."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        text = " ".join(str(warning.message).split())
        warn_once(f"Numba: {text.split(' The parse failed')[0][:300]}")


def _import_numba() -> None:
    """Import Numba. Raises BackendUnavailable if it does not compile because NUMBA_DISABLE_JIT is set."""
    import numba

    if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
        raise BackendUnavailable(
            "NUMBA_DISABLE_JIT is set, so that Numba compiles nothing: unset it, or use the numpy backend"
        )


def _ignore_unknown_processor() -> None:
    """Ignore a NUMBA_CPU_NAME or NUMBA_CPU_FEATURES that LLVM does not know, with a warning.

    LLVM itself would print a line whenever it is used, and compile for the plainest processor.
    """
    import numba

    config: Any = numba.config  # type: ignore[attr-defined]
    if not (config.CPU_NAME or config.CPU_FEATURES):
        return
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    for variable, option in (("CPU_NAME", "cpu"), ("CPU_FEATURES", "features")):
        if value := getattr(config, variable):
            target = llvm.Target.from_default_triple()
            if "is not a recognized" in _printed_by(functools.partial(target.create_target_machine, **{option: value})):
                setattr(config, variable, None)
                warn_once(
                    f"NUMBA_{variable} is {value!r}, which LLVM does not know, and is ignored: correct or unset it"
                )


def _printed_by(call: Callable[[], object]) -> str:
    """Return what native code prints to standard error during a call."""
    try:
        kept = os.dup(2)
    except OSError:  # standard error is closed
        call()
        return ""
    reading, writing = os.pipe()
    try:
        os.dup2(writing, 2)
        try:
            call()
        finally:
            os.dup2(kept, 2)
            os.close(writing)  # so that reading ends
        with open(reading, errors="replace", closefd=False) as pipe:
            return pipe.read()
    finally:
        os.close(kept)
        os.close(reading)


def _keep_freed_memory() -> None:
    """Tell glibc to reuse the memory of freed arrays (mallopt: M_MMAP_THRESHOLD, M_TRIM_THRESHOLD).

    Every step allocates and frees the same large arrays. If they are returned to the system
    each time, every page has to be cleared and mapped again, which takes as long as filling
    it. Without glibc this function does nothing.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option in (-3, -1):
            mallopt(option, 2**30)


@contextlib.contextmanager
def _kernels_cached_on_disk() -> Iterator[None]:
    """Cache the kernels that are defined in this context in the user's cache folder.

    So they are cached even if the installation is read-only. NUMBA_CACHE_DIR takes
    precedence if the user set it. If the folder cannot be written, another one is used, with a
    warning. Numba reads the setting when a kernel is defined, so kernels that the user defines
    are not affected.
    """
    global cached
    import numba

    before = numba.config.CACHE_DIR  # type: ignore[attr-defined]
    wanted = Path(before) if before else platformdirs.user_cache_path("minigan") / "kernels"
    folder = cache_folder(wanted)
    cached = folder is not None
    numba.config.CACHE_DIR = str(folder or "")  # type: ignore[attr-defined]
    try:
        yield
    finally:
        numba.config.CACHE_DIR = before  # type: ignore[attr-defined]


def cache_folder(wanted: Path) -> Path | None:
    """Return the folder for compiled kernels: `wanted` if it can be written, else one for temporary files, else None.

    Other users must not be able to write to the folder, because kernels are run. So a folder for
    temporary files that exists is used only if it belongs to this user alone.
    """
    try:
        _expect_writable(wanted)
        return wanted
    except OSError as error:
        cause = f"compiled kernels cannot be stored in {wanted} ({error.strerror or error})"
    try:
        folder = Path(tempfile.gettempdir()) / f"minigan-kernels-{getattr(os, 'getuid', lambda: 0)()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        state = folder.lstat()
        own = not hasattr(os, "getuid") or (state.st_uid == os.getuid() and not state.st_mode & 0o077)
        if not stat.S_ISDIR(state.st_mode) or not own:
            folder = Path(tempfile.mkdtemp(prefix="minigan-kernels-"))
        _expect_writable(folder)
    except OSError:
        warn_once(f"{cause}, nor anywhere else, so they are compiled again in every process: set NUMBA_CACHE_DIR")
        return None
    warn_once(f"{cause}, and are stored in {folder}: set NUMBA_CACHE_DIR to a folder that can be written")
    return folder


def _expect_writable(folder: Path) -> None:
    """Create the folder and a file in it. Raises OSError if that is not possible."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


_lost_threads = False  # whether this process was forked from one whose threads it does not have


def _lose_threads() -> None:
    """Note, in a process that was just forked, that Numba's threads exist in its parent only.

    With OpenMP, the next compiled loop would end the process. Other threading layers start again.
    """
    global _lost_threads
    import numba

    from minigan import backends

    with contextlib.suppress(ValueError):  # no loop has run yet
        _lost_threads = _lost_threads or numba.threading_layer() == "omp"
    if _lost_threads:
        backends.forget("numba")


def expect_threads() -> None:
    """Raise BackendUnavailable if Numba's threads were lost when this process was forked."""
    if _lost_threads:
        raise BackendUnavailable(
            "this process was forked from one that used Numba, whose threads do not survive that: start it with "
            'multiprocessing.get_context("spawn"), or use the numpy backend'
        )
