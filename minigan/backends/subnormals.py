"""Treat subnormal numbers as zero on the calling thread: `with flushed(): ...`.

A float32 is subnormal if it is not zero and smaller than 1.2e-38 (float64: 2.2e-308). Many processors compute with such
numbers in microcode, which takes many times as long. Two bits of the control word of a thread replace them by zero: FTZ
(flush to zero) in results, and DAZ (denormals are zero) in operands. ARM has one bit for both.

Python has no function for these bits. The C library has `fegetenv` and `fesetenv`, which copy the control word to and
from memory. LAYOUTS says where the word is in that memory. Windows has `_controlfp_s` instead.
"""

import contextlib
import ctypes
import functools
import platform
import struct
import sys
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

TINY = struct.unpack("<d", struct.pack("<q", 1))[0]  # the smallest subnormal float64; a literal depends on the mode
NOTHING: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
Environment = ctypes.c_uint32 * 16  # larger than fenv_t of every system below


class Layout(NamedTuple):
    """Where the control word is in the environment, in words of 4 bytes, the bits that flush, and a mask of them."""

    word: int
    bits: int
    mask: int


FTZ_DAZ, FZ, DN_FLUSH = 0x8040, 1 << 24, 1 << 24  # in mxcsr of x86, in fpcr of ARM, for _controlfp_s
_X86, _ARM, _WINDOWS = (FTZ_DAZ, FTZ_DAZ), (FZ, FZ), (DN_FLUSH, 3 << 24)
LAYOUTS = {
    ("linux", "x86_64"): Layout(7, *_X86),  # glibc and musl: 28 bytes of x87, then mxcsr
    ("linux", "aarch64"): Layout(0, *_ARM),  # fpcr, fpsr
    ("darwin", "x86_64"): Layout(1, *_X86),  # two numbers of 2 bytes, then mxcsr
    ("darwin", "arm64"): Layout(2, *_ARM),  # fpsr and fpcr, of 8 bytes each
    ("win32", "AMD64"): Layout(0, *_WINDOWS),  # the environment is the one word of _controlfp_s
    ("win32", "ARM64"): Layout(0, *_WINDOWS),
}

# NumPy computes the limits of a dtype when they are first used, and warns if subnormal numbers are zero then.
LIMITS = [np.finfo(dtype) for dtype in (np.float32, np.float64)]


def flushed() -> contextlib.AbstractContextManager[Any]:
    """Return a context in which the calling thread treats subnormal numbers as zero.

    On exit, also by an exception, the thread gets back its previous mode. Contexts may be nested. Other threads are not
    changed. On a machine on which `supported` is False, the context does nothing.
    """
    return FLUSHED if supported() else NOTHING


def flush_for_good() -> None:
    """Let the calling thread treat subnormal numbers as zero until it ends. Only for threads that minigan starts."""
    flushed().__enter__()


class _Thread(threading.local):
    """The state of the calling thread."""

    def __init__(self) -> None:
        self.depth = 0  # how many contexts it is in
        self.environment = Environment()  # with the control word that it had before the first one


class _Flushed:
    """The context of all threads. Its state is in `THREAD`, so that entering it again takes little time."""

    def __enter__(self) -> None:
        if not THREAD.depth:
            _flush(THREAD.environment)
        THREAD.depth += 1

    def __exit__(self, *error: object) -> None:
        THREAD.depth -= 1
        if not THREAD.depth:
            _write(THREAD.environment)


THREAD, FLUSHED = _Thread(), _Flushed()


def _flush(environment: Any) -> None:
    """Read the environment of the calling thread into `environment`, and change the mode of the thread."""
    _read(environment)
    word = environment[WORD]
    environment[WORD] = (word & ~MASK) | BITS
    _write(environment)
    environment[WORD] = word


def _find() -> tuple[Callable[[Any], Any], Callable[[Any], Any]] | None:
    """Return the functions that read and write the environment of the calling thread, or None without them."""
    if not BITS:
        return None
    try:
        if sys.platform == "win32":
            control = ctypes.CDLL("ucrtbase")._controlfp_s
            control.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32]
            unused = ctypes.c_uint32()
            return (
                lambda environment: control(environment, 0, 0),
                lambda environment: control(ctypes.byref(unused), environment[0], MASK),
            )
        library = ctypes.CDLL(None)
        if not hasattr(library, "fegetenv"):  # some versions of glibc have it in libm only
            library = ctypes.CDLL("libm.so.6")
        library.fegetenv.argtypes = library.fesetenv.argtypes = [ctypes.c_void_p]
        return library.fegetenv, library.fesetenv
    except (OSError, AttributeError):
        return None


WORD, BITS, MASK = LAYOUTS.get((sys.platform, platform.machine()), Layout(0, 0, 0))
_FUNCTIONS = _find()
_read, _write = _FUNCTIONS or (lambda environment: None,) * 2


@functools.cache
def supported() -> bool:
    """Return whether this machine can flush: whether a subnormal number times 1 is zero inside the context.

    The control word is first read, and is not changed unless it looks like one. So an unknown layout does no damage.
    """
    if _FUNCTIONS is None:
        return False
    environment, one = Environment(), 1.0
    _read(environment)
    masked = 0x1F80 if BITS == FTZ_DAZ else 0  # x86: by default, all exceptions are masked; ARM: all bits are 0
    if sys.platform != "win32" and environment[WORD] & ~BITS & ~0x3F != masked:  # 0x3F: the exceptions so far
        return False
    _flush(environment)
    product = TINY * one
    _write(environment)
    return struct.pack("<d", product) == bytes(8)  # `==` treats a subnormal number as zero if the caller flushes
