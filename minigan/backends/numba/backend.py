"""The compiled CPU backend; README.md in this folder explains the kernels.

Four ways to the same sums, each the check of the next:

    *_loops        the plain loops: the specification, and the way of dtypes and machines that the tile does not serve
    microkernel    a register tile: the same products at the CPU's full speed
    toomcook       fewer products along the rows of an image, on the same tile
    fourier        fewer products still, for small maps with many channels

`passes` has what only reads and writes, and `parallel` shares the work of all of them
among the threads.

The results do not depend on the number of threads, to the bit: work is cut into pieces
whose size never depends on it, each output is summed by one thread in one order, and
partial sums are added in a fixed order.
"""

import contextlib
import functools
import gc
import hashlib
import pickle
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numba
import numpy as np
from numba import njit, prange

from minigan.backends import contract
from minigan.backends.contract import AdamStep, Array, Backend, Normalisation, Pad, Shape, conv_size, in_force, pads
from minigan.backends.numba import fourier, microkernel, passes, toomcook
from minigan.backends.numpy_backend import NumpyBackend, limit_blas


class NumbaBackend(NumpyBackend):
    """The operations that take time, compiled; the others are the reference's."""

    name = "numba"
    takes_complex = False
    compiles = True

    def activate(self) -> None:
        """BLAS gets one thread: its threads wait in a busy loop after each product, on the cores that the compiled
        loops need, and their number changes its bits."""
        threads = self.settings["threads"] or contract.cores()
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
        limit_blas(1)

    def describe(self) -> str:
        return f"Numba {numba.__version__} on {self.settings['threads'] or contract.cores()} threads"

    # ---- compiling ahead

    def kernels_on_disk(self) -> bool:
        """Whether kernels have been compiled on this machine before."""
        return any(kernel_folder().glob("*.nbi"))

    def prepare(self, play: Callable[[Backend], object]) -> None:
        """If nothing is compiled yet, a second process compiles what a step needs last, while this one begins it.

        Each finds on disk what the other has compiled. If the second process fails, for
        whatever reason, this one does all the work.
        """
        second = None
        if not self.kernels_on_disk() and contract.cores() > 1:
            code = "from minigan.backends import numba; numba.start(); from minigan.backends.numba import backend; "
            second = subprocess.Popen(
                [sys.executable, "-c", code + "backend.compile_gradients()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            threading.Thread(target=_hand_over, args=(play, second.stdin), daemon=True).start()
        try:
            with _no_garbage_collection():
                play(self)
        finally:
            if second:
                second.kill()
                second.wait()

    # ---- matrix products and convolutions

    @in_force
    def conv2d(self, x: Array, w: Array, stride: int, pad: Pad) -> Array:
        """y[n,p,q,o] = sum_ijc xpad[n, p*stride+i, q*stride+j, c] * w[i,j,c,o]; (N,H,W,C), (K,K,C,O) -> (N,P,Q,O)"""
        x, w = contiguous(x, w)
        (_, H, W, C), K = x.shape, len(w)
        agree("x and w", C, w.shape[2])
        P, Q, before = conv_size(H, K, stride, pad), conv_size(W, K, stride, pad), pads(pad)[0]
        if not tiled(x, w):
            return conv2d_loops(x, w, stride, before, P, Q)
        return quickest(x.shape, w.shape, stride, before, P, Q, x.dtype).conv2d(x, w, stride, before, P, Q)

    @in_force
    def conv2d_grad_x(self, dy: Array, w: Array, x_shape: Shape, stride: int, pad: Pad) -> Array:
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

    @in_force
    def conv2d_grad_w(self, dy: Array, x: Array, w_shape: Shape, stride: int, pad: Pad) -> Array:
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

    @in_force
    def matmul(self, a: Array, b: Array) -> Array:
        """a @ b, (M,K), (K,N) -> (M,N), with the same bits for any number of threads, which BLAS does not promise."""
        if a.shape[1] != b.shape[0]:
            raise ValueError(f"matmul: {a.shape} @ {b.shape} do not fit together")
        if a.shape[1] == 1:
            return a * b
        return microkernel.matmul(a, b) if tiled(a, b) and a.dtype == b.dtype else a @ b

    # ---- passes over memory

    @in_force
    def sum_rows(self, dy: Array) -> Array:
        return passes.sum_rows(dy)

    @in_force
    def leaky_relu(self, x: Array, slope: float) -> Array:
        return passes.leaky_relu(x, slope)

    @in_force
    def leaky_relu_grad(self, dy: Array, y: Array, slope: float) -> Array:
        return passes.leaky_relu_grad(dy, y, slope)

    @in_force
    def add_bias(self, y: Array, b: Array, slope: float = 1.0) -> Array:
        return passes.add_bias(y, b, slope)

    @in_force
    def bias_grad(self, dy: Array, y: Array, slope: float = 1.0) -> tuple[Array, Array]:
        return passes.bias_grad(dy, y, slope)

    @in_force
    def batchnorm(
        self, x: Array, gamma: Array, beta: Array, eps: float, slope: float = 1.0
    ) -> tuple[Array, Array, Array]:
        return passes.batchnorm(x, gamma, beta, eps, slope, self.batch_sum)

    @in_force
    def batchnorm_grad(
        self, dy: Array, x: Array, norm: Normalisation, slope: float = 1.0
    ) -> tuple[Array, Array, Array]:
        return passes.batchnorm_grad(dy, x, norm, slope, self.batch_sum)

    @in_force
    def dropout(self, x: Array, threshold: int, stream: int) -> Array:
        return passes.dropout(x, threshold, stream)

    # ---- updates in place

    @in_force
    def adam(self, w: Array, dw: Array, m: Array, v: Array, step: AdamStep) -> None:
        if w.flags.c_contiguous and m.flags.c_contiguous and v.flags.c_contiguous:
            passes.adam(w, dw, m, v, step)
        else:  # reshape would give a copy, and the update would be lost
            super().adam(w, dw, m, v, step)


def _hand_over(play: Callable[[Backend], object], pipe: IO[bytes]) -> None:
    """Writes `play` to the second process, which may read it late, or never if it ended or `play` cannot be pickled."""
    with contextlib.suppress(OSError, ValueError, pickle.PicklingError, AttributeError, TypeError), pipe:
        pickle.dump(play, pipe)


class GradientCompiler(NumpyBackend):
    """The reference, with the four compiled operations that a training step needs last."""

    def __init__(self, compiled: NumbaBackend):
        super().__init__()
        self.bias_grad, self.conv2d_grad_w = compiled.bias_grad, compiled.conv2d_grad_w  # type: ignore[method-assign]
        self.batchnorm_grad, self.adam = compiled.batchnorm_grad, compiled.adam  # type: ignore[method-assign]


def compile_gradients() -> None:
    """The part of the second process: `play` from the standard input, run so that only the gradients are compiled."""
    play = pickle.load(sys.stdin.buffer)
    with _no_garbage_collection():
        play(GradientCompiler(NumbaBackend(threads=None)))


@contextlib.contextmanager
def _no_garbage_collection():
    """Turns off the garbage collector, because a compiler makes many objects that live on, and repeated collections
    are slow."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


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


def kernel_folder() -> Path:
    return Path(microkernel.products.stats.cache_path)


def forget_stale_kernels() -> None:
    """Deletes kernels that were compiled from other sources than today's.

    Numba compiles a kernel again when the kernel's own file has changed. But the tile, and
    how loops share their tasks, are in other files and are compiled into it. (Indices are
    deleted first, then what they point to: a process that comes between finds nothing, and
    no new index, written before its kernel, can point to an old one.)
    """
    folder = kernel_folder()
    sources = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    stamp, now = folder / "minigan-sources", hashlib.sha256(sources).hexdigest()
    with contextlib.suppress(OSError):
        if not stamp.exists() or stamp.read_text() != now:
            for file in [*folder.glob("*.nbi"), *folder.glob("*.nbc")]:
                file.unlink(missing_ok=True)
            stamp.write_text(now)
