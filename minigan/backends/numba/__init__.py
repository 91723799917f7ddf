"""The compiled CPU backend. `start` loads it; importing this package imports neither Numba nor a kernel."""

import contextlib
import ctypes
import os
import sys
from typing import TYPE_CHECKING

import platformdirs

from minigan.backends.contract import cores

if TYPE_CHECKING:
    from minigan.backends.numba.backend import NumbaBackend

_users_threads: str | None = None  # NUMBA_NUM_THREADS as the user set it


def start(threads: int | None = None) -> "NumbaBackend":
    """The backend whose compiled loops run on so many threads; None: NUMBA_NUM_THREADS, else one for each core.

    The first call sets up the process: variables that Numba and OpenMP read once, memory,
    and where compiled kernels are kept. BLAS gets one thread when the backend computes.
    """
    global _users_threads
    if "minigan.backends.numba.backend" not in sys.modules:
        _users_threads = _set_environment()
        _keep_freed_memory()
        with _kernels_kept_on_disk():
            from minigan.backends.numba import backend
        backend.forget_stale_kernels()
    from minigan.backends.numba.backend import NumbaBackend

    return NumbaBackend(threads=threads or (int(_users_threads) if _users_threads else None))


def _set_environment() -> str | None:
    """Sets what Numba and OpenMP read from the environment once. Returns the user's own NUMBA_NUM_THREADS, or None.

    Numba fixes its largest number of threads when it is imported, from NUMBA_NUM_THREADS: 16
    or more, so that a backend may ask for more threads than cores. MINIGAN_THREAD_POOL tells
    a child process that this was not the user's choice.

    The threads of OpenMP wait for one another asleep or in a busy loop. Always busy, their
    default, is many times slower on a machine that has anything else to do, because the
    waiting thread occupies a core that another one needs. Always asleep, each of the hundred
    waits of a training step begins with waking up. So they are busy for about 0.2 ms, then
    asleep.
    """
    users = os.environ.get("NUMBA_NUM_THREADS")
    if users == os.environ.get("MINIGAN_THREAD_POOL"):
        users = None
        if "numba" not in sys.modules:
            os.environ["NUMBA_NUM_THREADS"] = os.environ["MINIGAN_THREAD_POOL"] = str(max(cores(), 16))
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    return users


def _keep_freed_memory() -> None:
    """Tells glibc to keep the memory of freed arrays for the next ones (mallopt: M_MMAP_THRESHOLD, M_TRIM_THRESHOLD).

    A step frees and asks for the same large arrays again and again. If they are returned to
    the system each time, every page has to be cleared and mapped again, which takes as long
    as filling it. Without glibc nothing changes.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option in (-3, -1):
            mallopt(option, 2**30)


@contextlib.contextmanager
def _kernels_kept_on_disk():
    """Kernels defined in here are kept in the user's cache folder, where an installation that is read-only works too.

    A user's own NUMBA_CACHE_DIR wins. If the folder cannot be written, Numba takes another.
    Numba reads the setting where a kernel is defined, so the user's own kernels are not
    affected.
    """
    import numba

    before = numba.config.CACHE_DIR
    if not before:
        numba.config.CACHE_DIR = str(platformdirs.user_cache_path("minigan") / "kernels")
    try:
        yield
    finally:
        numba.config.CACHE_DIR = before
