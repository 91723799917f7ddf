"""The compiled CPU backend. `start` loads it. Importing this package imports neither Numba nor any kernel."""

import contextlib
import ctypes
import os
import sys
from typing import TYPE_CHECKING

import platformdirs

from minigan.backends.contract import BackendUnavailable, cores

if TYPE_CHECKING:
    from minigan.backends.numba.backend import NumbaBackend

_users_threads: str | None = None  # the value of NUMBA_NUM_THREADS that the user set


def start(threads: int | None = None) -> "NumbaBackend":
    """Return the Numba backend with this number of threads (None: NUMBA_NUM_THREADS, else one per core).

    The first call sets up the process: the environment variables that Numba and OpenMP
    read once, the memory allocator, and the folder of compiled kernels. BLAS is limited to
    one thread when the backend is activated.
    """
    global _users_threads
    expect_threads()
    if "minigan.backends.numba.backend" not in sys.modules:
        _users_threads = _set_environment()
        _keep_freed_memory()
        with _kernels_cached_on_disk():
            from minigan.backends.numba import backend
        backend.delete_stale_kernels()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_lose_threads)
    from minigan.backends.numba.backend import NumbaBackend

    return NumbaBackend(threads=threads or (int(_users_threads) if _users_threads else None))


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


def _set_environment() -> str | None:
    """Set the environment variables that Numba and OpenMP read once.

    Returns the value of NUMBA_NUM_THREADS that the user set, or None.

    When Numba is imported, it takes its maximum number of threads from NUMBA_NUM_THREADS.
    The value set here is at least 16, so that a backend can use more threads than cores.
    MINIGAN_THREAD_POOL tells a child process that the user did not set NUMBA_NUM_THREADS.

    A waiting OpenMP thread either sleeps or spins in a busy loop. Spinning is the default. It
    is many times slower if other programs run, because a waiting thread occupies a core that
    another thread needs. If the threads sleep at once, each of about a hundred waits in a
    training step starts with waking them up. So they spin for about 0.2 ms, then sleep.
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
def _kernels_cached_on_disk():
    """Cache the kernels that are defined in this context in the user's cache folder.

    So they are cached even if the installation is read-only. NUMBA_CACHE_DIR takes
    precedence if the user set it. If the folder cannot be written, Numba uses another one.
    Numba reads the setting when a kernel is defined, so kernels that the user defines are
    not affected.
    """
    import numba

    before = numba.config.CACHE_DIR
    if not before:
        numba.config.CACHE_DIR = str(platformdirs.user_cache_path("minigan") / "kernels")
    try:
        yield
    finally:
        numba.config.CACHE_DIR = before
