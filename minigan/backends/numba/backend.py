"""The compiled CPU backend (see `minigan.backends` for the contract).

Four ways to the same sums, each the check of the next:

    *_loops        the plain loops: the specification, and the way of dtypes and machines that the tile does not serve
    microkernel    a register tile: the same products at the CPU's full speed
    toomcook       fewer products along the rows of an image, on the same tile
    fourier        fewer products still, for small maps with many channels

`numba_passes` has what only reads and writes, and `parallel` shares the work of all of them among the threads.

The results do not depend on the number of threads, to the bit: work is cut into pieces whose size never depends on it,
each output is summed by one thread in one order, and partial sums are added in a fixed order.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import sys
import warnings
from pathlib import Path

import numpy as np
import threadpoolctl

from minigan.backends import conv_size, cores, pads

# Numba fixes its largest number of threads when it is imported, from this variable: 16 or more, so that set_threads(n)
# may exceed the cores. The second variable tells a child process that the first was not the user's choice.
USER_THREADS = os.environ.get("NUMBA_NUM_THREADS")
if USER_THREADS == os.environ.get("MINIGAN_THREAD_POOL"):
    USER_THREADS = None
    if "numba" not in sys.modules:
        os.environ["NUMBA_NUM_THREADS"] = os.environ["MINIGAN_THREAD_POOL"] = str(max(cores(), 16))

# The threads of OpenMP wait for one another asleep or in a busy loop. Always busy, their default, is many times slower
# on a machine that has anything else to do: the one waiting takes the core from the one waited for. Always asleep, each
# of the hundred waits of a training step begins with being woken up. So: busy for about 0.2 ms, then asleep.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import numba  # noqa: E402
from numba import njit, prange  # noqa: E402

from minigan.backends.numba import fourier, microkernel, toomcook  # noqa: E402
from minigan.backends.numba.passes import (  # noqa: E402, F401
    adam,
    add_bias,
    batchnorm,
    batchnorm_grad,
    bias_grad,
    dropout,
    leaky_relu,
    leaky_relu_grad,
    sum_rows,
)
from minigan.backends.numpy_backend import STEPS_AHEAD, concatenate, gather, moving_average, track  # noqa: E402, F401

NAME = "numba"
xp = np


def asarray(x, dtype=None) -> np.ndarray:
    return np.asarray(x, dtype=dtype)


def to_numpy(x) -> np.ndarray:
    return np.asarray(x)


def synchronize() -> None:
    """Compiled loops return when the work is done."""


def set_threads(n: int | None) -> None:
    """The threads of compiled loops; None: one for each core, or NUMBA_NUM_THREADS.

    The BLAS library behind NumPy's own products gets one: its threads wait in a busy loop after each product, on the
    cores that the compiled loops need, and their number changes its bits.
    """
    if n is None:
        n = int(USER_THREADS or cores())
    numba.set_num_threads(min(n, numba.config.NUMBA_NUM_THREADS))
    threadpoolctl.threadpool_limits(1, user_api="blas")


def conv2d(x: np.ndarray, w: np.ndarray, stride: int, pad: int | tuple[int, int]) -> np.ndarray:
    """y[n,p,q,o] = sum_ijc xpad[n, p*stride+i, q*stride+j, c] * w[i,j,c,o]; (N,H,W,C), (K,K,C,O) -> (N,P,Q,O)"""
    x, w = contiguous(x, w)
    (_, H, W, C), K = x.shape, len(w)
    agree("x and w", C, w.shape[2])
    P, Q, before = conv_size(H, K, stride, pad), conv_size(W, K, stride, pad), pads(pad)[0]
    if not tiled(x, w):
        return conv2d_loops(x, w, stride, before, P, Q)
    return quickest(x.shape, w.shape, stride, before, P, Q, x.dtype).conv2d(x, w, stride, before, P, Q)


def conv2d_grad_x(
    dy: np.ndarray, w: np.ndarray, x_shape: tuple[int, ...], stride: int, pad: int | tuple[int, int]
) -> np.ndarray:
    """dx[n,h,v,c] = sum of dy[n,p,q,o] * w[i,j,c,o] where p*stride+i is row h and q*stride+j column v of xpad.

    (N,P,Q,O), (K,K,C,O) -> (N,H,W,C)
    """
    dy, w = contiguous(dy, w)
    (_, P, Q, O), (_, H, W, C), before = dy.shape, x_shape, pads(pad)[0]
    agree("dy and w", O, w.shape[3])
    agree("x and w", C, w.shape[2])
    if not tiled(dy, w):
        return conv2d_grad_x_loops(dy, w, H, W, stride, before)
    way = quickest(tuple(x_shape), w.shape, stride, before, P, Q, dy.dtype)
    return way.conv2d_grad_x(dy, w, H, W, stride, before)


def conv2d_grad_w(
    dy: np.ndarray, x: np.ndarray, w_shape: tuple[int, ...], stride: int, pad: int | tuple[int, int]
) -> np.ndarray:
    """dw[i,j,c,o] = sum_npq xpad[n, p*stride+i, q*stride+j, c] * dy[n,p,q,o]; (N,P,Q,O), (N,H,W,C) -> (K,K,C,O)"""
    dy, x = contiguous(dy, x)
    (N, P, Q, O), C, K, before = dy.shape, x.shape[3], w_shape[0], pads(pad)[0]
    agree("dy and x", N, len(x))
    agree("dy and w", O, w_shape[3])
    agree("x and w", C, w_shape[2])
    if not tiled(dy, x):
        return conv2d_grad_w_loops(dy, x, K, stride, before)
    way = quickest(x.shape, tuple(w_shape), stride, before, P, Q, dy.dtype)
    return way.conv2d_grad_w(dy, x, K, stride, before)


def matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a @ b, (M,K), (K,N) -> (M,N), with the same bits for any number of threads, which BLAS does not promise."""
    if a.shape[1] != b.shape[0]:
        raise ValueError(f"matmul: {a.shape} @ {b.shape} do not fit together")
    if a.shape[1] == 1:
        return a * b
    return microkernel.matmul(a, b) if tiled(a, b) and a.dtype == b.dtype else a @ b


@functools.lru_cache(maxsize=256)
def quickest(x_shape, w_shape, stride: int, before: int, P: int, Q: int, dtype):
    """The module whose three operations have the least work for a convolution of these shapes."""
    ways = (fourier, toomcook, microkernel)
    return min(ways, key=lambda way: way.work(x_shape, w_shape, stride, before, P, Q, dtype))


def contiguous(*arrays: np.ndarray) -> list[np.ndarray]:
    """The arrays in C order and of one dtype."""
    dtype = np.result_type(*arrays)
    return [np.ascontiguousarray(array, dtype) for array in arrays]


def agree(names: str, a: int, b: int) -> None:
    """Compiled loops check no bounds, so sizes that must be equal are compared here."""
    if a != b:
        raise ValueError(f"{names} do not belong together: {a} against {b}")


# The plain loops ------------------------------------------------------------------------------------------------------


@njit(parallel=True, cache=True)
def conv2d_loops(x, w, stride, before, P, Q):
    N, H, W, C = x.shape
    K, O = w.shape[1], w.shape[3]
    y = np.zeros((N, P, Q, O), x.dtype)
    for n in prange(N):
        for p in range(P):
            for i in range(K):
                h = p * stride + i - before
                if 0 <= h < H:
                    for q in range(Q):
                        for j in range(K):
                            v = q * stride + j - before
                            if 0 <= v < W:
                                for c in range(C):
                                    for o in range(O):
                                        y[n, p, q, o] += x[n, h, v, c] * w[i, j, c, o]
    return y


@njit(parallel=True, cache=True)
def conv2d_grad_x_loops(dy, w, H, W, stride, before):
    N, P, Q, O = dy.shape
    K, C = w.shape[1], w.shape[2]
    dx = np.zeros((N, H, W, C), dy.dtype)
    for n in prange(N):
        for p in range(P):
            for i in range(K):
                h = p * stride + i - before
                if 0 <= h < H:
                    for q in range(Q):
                        for j in range(K):
                            v = q * stride + j - before
                            if 0 <= v < W:
                                for c in range(C):
                                    for o in range(O):
                                        dx[n, h, v, c] += dy[n, p, q, o] * w[i, j, c, o]
    return dx


@njit(parallel=True, cache=True)
def conv2d_grad_w_loops(dy, x, K, stride, before):
    N, P, Q, O = dy.shape
    _, H, W, C = x.shape
    dw = np.zeros((K, K, C, O), x.dtype)
    for tap in prange(K * K):  # each thread owns its taps: nothing is shared, nothing depends on their number
        i, j = tap // K, tap % K
        for n in range(N):
            for p in range(P):
                h = p * stride + i - before
                if 0 <= h < H:
                    for q in range(Q):
                        v = q * stride + j - before
                        if 0 <= v < W:
                            for c in range(C):
                                for o in range(O):
                                    dw[i, j, c, o] += x[n, h, v, c] * dy[n, p, q, o]
    return dw


# The tile -------------------------------------------------------------------------------------------------------------


def tiled(*arrays: np.ndarray) -> bool:
    """Whether the tile serves these arrays: float32 or float64, none of them empty."""
    return arrays[0].dtype in (np.float32, np.float64) and all(array.size for array in arrays) and tile_works()


@functools.cache
def tile_works() -> bool:
    """Compiles the tile on a small product; on a machine where that fails, says so once."""
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    try:
        if np.array_equal(microkernel.matmul(x, x.T), [[5, 14], [14, 50]]):
            return True
        cause = "its results are wrong"
    except Exception as error:  # whatever the compiler may say: the loops serve
        cause = f"{type(error).__name__}: {error}".splitlines()[0]
    warning = f"the fast convolutions do not run on this machine, plain loops take over ({cause})"
    warnings.warn(warning, RuntimeWarning, stacklevel=2)
    return False


def keep_freed_memory() -> None:
    """Tells glibc to keep the memory of freed arrays for the next ones (mallopt: M_MMAP_THRESHOLD, M_TRIM_THRESHOLD).

    A step frees and asks for the same large arrays again and again. Given back to the system each time, every page of
    them has to be cleared and mapped anew, which takes as long as filling it. Elsewhere than under glibc: no change.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option in (-3, -1):
            mallopt(option, 2**30)


def kernels_on_disk() -> bool:
    """Whether kernels have been compiled on this machine before."""
    return any(kernel_folder().glob("*.nbi"))


def kernel_folder() -> Path:
    return Path(microkernel.products.stats.cache_path)


def forget_stale_kernels() -> None:
    """Takes from disk the kernels that were compiled from other sources than today's.

    Numba compiles a kernel anew when the kernel's own file has changed; but the tile, and how loops share their tasks,
    stand in other files and are compiled into it. (Indices go first, then what they point to: a process that comes
    between finds nothing; and no new index, written before its kernel, can point to an old one.)
    """
    folder = kernel_folder()
    sources = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    stamp, now = folder / "minigan-sources", hashlib.sha256(sources).hexdigest()
    with contextlib.suppress(OSError):
        if not stamp.exists() or stamp.read_text() != now:
            for file in [*folder.glob("*.nbi"), *folder.glob("*.nbc")]:
                file.unlink(missing_ok=True)
            stamp.write_text(now)


forget_stale_kernels()
keep_freed_memory()
set_threads(None)
