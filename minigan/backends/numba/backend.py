"""The compiled CPU backend. README.md in this folder explains the kernels.

Four algorithms compute the same convolutions. The tests compare each one with NumPy in float64:

    *_loops        plain loops: the specification, and the fallback if the tile does not support the dtype or the CPU
    microkernel    a register tile: the same products at the full speed of the CPU
    toomcook       fewer products along the rows of an image, computed by the same tile
    fourier        even fewer products, for small feature maps with many channels

`passes` contains the operations that are limited by memory bandwidth, such as batch norm.
`parallel` distributes the work of all kernels over the threads.

The bits of the results do not depend on the number of threads: the size of the pieces of work
depends only on the shapes, one thread sums each output in a fixed order, and partial sums are
added in a fixed order.
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
from typing import IO, Any

import numba
import numpy as np
from numba import njit

from minigan.backends import contract
from minigan.backends.contract import (
    AdamStep,
    Array,
    Backend,
    Finding,
    Normalisation,
    Pad,
    RecurrentGradients,
    RecurrentWeights,
    Shape,
    conv_size,
    in_force,
    pads,
)
from minigan.backends.numba import (
    expect_threads,
    fourier,
    groups,
    kernel_cache,
    microkernel,
    parallel,
    passes,
    recurrent,
    toomcook,
)
from minigan.backends.numba.parallel import COMPILED, INNER, in_parallel
from minigan.backends.numpy_backend import NumpyBackend, limit_blas


class NumbaBackend(NumpyBackend):
    """The reference backend with compiled versions of the operations that take most of the time."""

    name = "numba"
    takes_complex = False
    compiles = True
    sums_alone = True

    def activate(self) -> None:
        """Set the number of Numba threads, and limit BLAS to one thread.

        BLAS threads spin after each product, on cores that the compiled loops need. The bits of
        a BLAS product also depend on its number of threads.
        """
        expect_threads()
        threads = self.settings["threads"] or contract.cores()
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
        limit_blas(1)

    def describe(self) -> str:
        """Return the version of Numba and the number of threads."""
        return f"Numba {numba.__version__} on {self.settings['threads'] or contract.cores()} threads"

    # ---- compilation ahead of time

    def kernels_on_disk(self) -> bool:
        """Return whether Numba's cache folder contains the kernels of a training step."""
        folder = kernel_folder()
        return folder is not None and any(folder.glob("passes.*.nbi"))

    def health(self) -> list[Finding]:
        """Return the state of Numba's threads and of the folder of compiled kernels."""
        return [
            Finding("threads", f"{numba.threading_layer()}, at most {numba.config.NUMBA_NUM_THREADS}"),  # type: ignore[attr-defined]
            kernel_cache.state_of(kernel_folder()),
        ]

    def prepare(self, run_step: Callable[[Backend], object]) -> None:
        """Compile the kernels of a training step by running one.

        If nothing is compiled yet, a second process compiles the kernels that a step needs last
        while this process compiles the first ones. Each process loads from disk what the other
        one has compiled. If the second process fails, this process compiles everything.
        """
        second = None
        if not self.kernels_on_disk() and kernel_folder() and contract.cores() > 1:
            code = "from minigan.backends import numba; numba.start(); from minigan.backends.numba import backend; "
            second = subprocess.Popen(
                [sys.executable, "-c", code + "backend.compile_second()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            threading.Thread(target=_send, args=(run_step, second.stdin), daemon=True).start()
        try:
            with _no_garbage_collection():
                run_step(self)
        finally:
            if second:
                second.kill()
                second.wait()

    # ---- matrix products and convolutions

    @in_force
    def conv2d(self, x: Array, w: Array, stride: int, pad: Pad) -> Array:
        """Compute y[n,p,q,o] = sum_ijc xpad[n, p*stride+i, q*stride+j, c] * w[i,j,c,o].

        (N,H,W,C), (K,K,C,O) -> (N,P,Q,O)
        """
        x, w = contiguous(x, w)
        (_, H, W, C), K = x.shape, len(w)
        expect_equal("x and w", C, w.shape[2])
        P, Q, before = conv_size(H, K, stride, pad), conv_size(W, K, stride, pad), pads(pad)[0]
        if not tile_supports(x, w):
            return conv2d_loops(x, w, stride, before, P, Q)
        return choose_algorithm(x.shape, w.shape, stride, before, P, Q, x.dtype).conv2d(x, w, stride, before, P, Q)

    @in_force
    def conv2d_grad_x(self, dy: Array, w: Array, x_shape: Shape, stride: int, pad: Pad) -> Array:
        """Compute dx[n,h,v,c] = sum of dy[n,p,q,o] * w[i,j,c,o] where p*stride+i = h+before and q*stride+j = v+before.

        (N,P,Q,O), (K,K,C,O) -> (N,H,W,C)
        """
        dy, w = contiguous(dy, w)
        (_, P, Q, O), (_, H, W, C), before = dy.shape, x_shape, pads(pad)[0]
        expect_equal("dy and w", O, w.shape[3])
        expect_equal("x and w", C, w.shape[2])
        if not tile_supports(dy, w):
            return conv2d_grad_x_loops(dy, w, H, W, stride, before)
        algorithm = choose_algorithm(tuple(x_shape), w.shape, stride, before, P, Q, dy.dtype)
        return algorithm.conv2d_grad_x(dy, w, H, W, stride, before)

    @in_force
    def conv2d_grad_w(self, dy: Array, x: Array, w_shape: Shape, stride: int, pad: Pad) -> Array:
        """Compute dw[i,j,c,o] = sum_npq xpad[n, p*stride+i, q*stride+j, c] * dy[n,p,q,o].

        (N,P,Q,O), (N,H,W,C) -> (K,K,C,O)
        """
        dy, x = contiguous(dy, x)
        (N, P, Q, O), C, K, before = dy.shape, x.shape[3], w_shape[0], pads(pad)[0]
        expect_equal("dy and x", N, len(x))
        expect_equal("dy and w", O, w_shape[3])
        expect_equal("x and w", C, w_shape[2])
        if not tile_supports(dy, x):
            return conv2d_grad_w_loops(dy, x, K, stride, before)
        algorithm = choose_algorithm(x.shape, tuple(w_shape), stride, before, P, Q, dy.dtype)
        return algorithm.conv2d_grad_w(dy, x, K, stride, before)

    @in_force
    def matmul(self, a: Array, b: Array) -> Array:
        """Compute a @ b: (M,K), (K,N) -> (M,N). Unlike with BLAS, the bits do not depend on the number of threads."""
        if a.shape[1] != b.shape[0]:
            raise ValueError(f"matmul: {a.shape} @ {b.shape} do not fit together")
        if a.shape[1] == 1:
            return a * b
        return microkernel.matmul(a, b) if tile_supports(a, b) and a.dtype == b.dtype else a @ b

    # ---- passes over memory

    @in_force
    def sum_rows(self, dy: Array) -> Array:
        """Sum over all axes but the last: (..., C) -> (C,)."""
        return passes.sum_rows(dy)

    @in_force
    def leaky_relu(self, x: Array, slope: float) -> Array:
        """Compute y = x where x > 0, else slope * x."""
        return passes.leaky_relu(x, slope)

    @in_force
    def leaky_relu_grad(self, dy: Array, y: Array, slope: float) -> Array:
        """Compute dx = dy where y > 0, else slope * dy."""
        return passes.leaky_relu_grad(dy, y, slope)

    @in_force
    def add_bias(self, y: Array, b: Array, slope: float = 1.0) -> Array:
        """Compute leaky_relu(y + b) in one pass: (..., C), (C,) -> (..., C). May overwrite y."""
        return passes.add_bias(y, b, slope)

    @in_force
    def bias_grad(self, dy: Array, y: Array, slope: float = 1.0) -> tuple[Array, Array]:
        """Compute the gradients of z (..., C) and of b (C,), where y = leaky_relu(z + b) and dy is its gradient."""
        return passes.bias_grad(dy, y, slope)

    @in_force
    def batchnorm(
        self, x: Array, gamma: Array, beta: Array, eps: float, slope: float = 1.0
    ) -> tuple[Array, Array, Array]:
        """Normalise x (..., C), apply leaky_relu, and return the result with the mean and biased variance (C,) of x."""
        return passes.batchnorm(x, gamma, beta, eps, slope, self.batch_sum)

    @in_force
    def batchnorm_grad(
        self, dy: Array, x: Array, norm: Normalisation, slope: float = 1.0
    ) -> tuple[Array, Array, Array]:
        """Compute dx (..., C), dgamma (C,) and dbeta (C,)."""
        return passes.batchnorm_grad(dy, x, norm, slope, self.batch_sum)

    @in_force
    def dropout(self, x: Array, threshold: int, stream: int) -> Array:
        """Compute y = x * mask * 65536 / (65536 - threshold), with the mask of the reference."""
        return passes.dropout(x, threshold, stream)

    @in_force
    def uniform(self, shape: Shape, stream: int, dtype: Any) -> Array:
        """Compute the random numbers between 0 and 1 of the reference."""
        return passes.uniform(shape, stream, dtype)

    # ---- groups of columns

    @in_force
    def softmax_groups(self, l: Array, starts: Shape) -> Array:
        """Compute y = e / (sum of e over the group) with e = exp(l - max of l over the group): (N, G) -> (N, G)."""
        return groups.softmax_groups(l, starts)

    @in_force
    def softmax_groups_grad(self, dy: Array, y: Array, starts: Shape) -> Array:
        """Compute dl = y * (dy - sum of dy * y over the group)."""
        return groups.softmax_groups_grad(dy, y, starts)

    @in_force
    def argmax_groups(self, l: Array, starts: Shape) -> Array:
        """Compute y = 1 at the largest number of each group, else 0: (N, G) -> (N, G)."""
        return groups.argmax_groups(l, starts)

    # ---- recurrent layers

    @in_force
    def gru(
        self, x: Array, weights: RecurrentWeights, start: Array, m: Array | None = None
    ) -> tuple[Array, tuple[Array, ...]]:
        """Compute the states y (N, T, H) of a GRU, and the arrays that `gru_grad` needs."""
        expect_weights(x, weights, start, 3, 1)
        if not tile_supports(x, weights.w_h):
            return super().gru(x, weights, start, m)
        return recurrent.gru(x, weights, start, m)

    @in_force
    def gru_grad(
        self,
        dy: Array,
        saved: tuple[Array, ...],
        weights: RecurrentWeights,
        m: Array | None = None,
        need_dx: bool = True,
        need_grads: bool = True,
    ) -> RecurrentGradients:
        """Compute the gradients of the arguments of `gru` from dy (N, T, H)."""
        if not tile_supports(dy, weights.w_h):
            return super().gru_grad(dy, saved, weights, m, need_dx, need_grads)
        return recurrent.gru_grad(dy, saved, weights, m, need_dx, need_grads)

    @in_force
    def lstm(
        self, x: Array, weights: RecurrentWeights, start: Array, m: Array | None = None
    ) -> tuple[Array, tuple[Array, ...]]:
        """Compute the outputs y (N, T, H) of an LSTM, and the arrays that `lstm_grad` needs."""
        expect_weights(x, weights, start, 4, 2)
        if not tile_supports(x, weights.w_h):
            return super().lstm(x, weights, start, m)
        return recurrent.lstm(x, weights, start, m)

    @in_force
    def lstm_grad(
        self,
        dy: Array,
        saved: tuple[Array, ...],
        weights: RecurrentWeights,
        m: Array | None = None,
        need_dx: bool = True,
        need_grads: bool = True,
    ) -> RecurrentGradients:
        """Compute the gradients of the arguments of `lstm` from dy (N, T, H)."""
        if not tile_supports(dy, weights.w_h):
            return super().lstm_grad(dy, saved, weights, m, need_dx, need_grads)
        return recurrent.lstm_grad(dy, saved, weights, m, need_dx, need_grads)

    # ---- updates in place

    @in_force
    def adam(self, w: Array, dw: Array, m: Array, v: Array, step: AdamStep) -> None:
        """Make one step of Adam: update w, m and v in place."""
        if w.flags.c_contiguous and m.flags.c_contiguous and v.flags.c_contiguous:
            passes.adam(w, dw, m, v, step)
        else:  # reshape would return a copy, and the update would be lost
            super().adam(w, dw, m, v, step)


def _send(run_step: Callable[[Backend], object], pipe: IO[bytes]) -> None:
    """Send `run_step` to the second process. Ignore errors, because `prepare` also works without that process."""
    with contextlib.suppress(OSError, ValueError, pickle.PicklingError, AttributeError, TypeError), pipe:
        pickle.dump(run_step, pipe)


class SecondCompiler(NumpyBackend):
    """The reference backend with the compiled operations that a training step needs last.

    To compile OPERATIONS is about half of the work, so that both processes finish at about the same time.
    """

    OPERATIONS = (
        *("add_bias", "bias_grad", "conv2d_grad_w", "batchnorm_grad", "leaky_relu_grad", "sum_rows", "adam"),
        *("gru_grad", "lstm_grad"),
    )

    def __init__(self, compiled: NumbaBackend):
        """Take the operations from `compiled`."""
        super().__init__()
        for operation in self.OPERATIONS:
            setattr(self, operation, getattr(compiled, operation))


def compile_second() -> None:
    """Compile these operations: the entry point of the second process, which reads `run_step` from stdin."""
    run_step = pickle.load(sys.stdin.buffer)
    with _no_garbage_collection():
        run_step(SecondCompiler(NumbaBackend(threads=None)))


@contextlib.contextmanager
def _no_garbage_collection():
    """Disable the garbage collector. Compilation creates many long-lived objects, and each collection scans them."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@functools.lru_cache(maxsize=256)
def choose_algorithm(x_shape, w_shape, stride: int, before: int, P: int, Q: int, dtype):
    """Return the module whose `work` is least for a convolution of these shapes. Ties go to the first one."""
    algorithms = (fourier, toomcook, microkernel)
    return min(algorithms, key=lambda algorithm: algorithm.work(x_shape, w_shape, stride, before, P, Q, dtype))


def contiguous(*arrays: np.ndarray) -> list[np.ndarray]:
    """Return the arrays in C order, converted to one dtype."""
    dtype = np.result_type(*arrays)
    return [np.ascontiguousarray(array, dtype) for array in arrays]


def expect_equal(names: str, a: int, b: int) -> None:
    """Raise ValueError if two sizes differ. Compiled loops do not check bounds, so sizes are checked first."""
    if a != b:
        raise ValueError(f"sizes of {names} do not match: got {a} and {b}, expected them to be equal")


def expect_weights(x: np.ndarray, weights: RecurrentWeights, start: np.ndarray, gates: int, states: int) -> None:
    """Raise ValueError unless x (N, T, F), the weights and the initial state fit together."""
    (F, G), H = weights.w_x.shape, len(weights.w_h)
    expect_equal("x and w_x", x.shape[2], F)
    expect_equal("w_x and w_h", G, weights.w_h.shape[1])
    expect_equal("w_h", gates * H, G)
    expect_equal("w_x and b_x", G, len(weights.b_x))
    expect_equal("w_h and b_h", G, len(weights.b_h))
    expect_equal("x and the initial state", len(x), len(start))
    expect_equal("w_h and the initial state", states * H, start.shape[1])


# The plain loops ------------------------------------------------------------------------------------------------------


@njit(**COMPILED)
def conv2d_loops(x, w, stride, before, P, Q):
    """Compute `conv2d` with plain loops: (N,H,W,C), (K,K,C,O) -> (N,P,Q,O)."""
    y = np.zeros((len(x), P, Q, w.shape[3]), x.dtype)
    in_parallel(len(x), _conv2d_image, (x, w, stride, before, y))
    return y


@njit(**INNER)
def _conv2d_image(n, x, w, stride, before, y):
    (_, H, W, C), (_, P, Q, O), K = x.shape, y.shape, len(w)
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


@njit(**COMPILED)
def conv2d_grad_x_loops(dy, w, H, W, stride, before):
    """Compute `conv2d_grad_x` with plain loops: (N,P,Q,O), (K,K,C,O) -> (N,H,W,C)."""
    dx = np.zeros((len(dy), H, W, w.shape[2]), dy.dtype)
    in_parallel(len(dy), _conv2d_grad_x_image, (dy, w, stride, before, dx))
    return dx


@njit(**INNER)
def _conv2d_grad_x_image(n, dy, w, stride, before, dx):
    (_, H, W, C), (_, P, Q, O), K = dx.shape, dy.shape, len(w)
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


@njit(**COMPILED)
def conv2d_grad_w_loops(dy, x, K, stride, before):
    """Compute `conv2d_grad_w` with plain loops: (N,P,Q,O), (N,H,W,C) -> (K,K,C,O)."""
    dw = np.zeros((K, K, x.shape[3], dy.shape[3]), x.dtype)
    in_parallel(K * K, _conv2d_grad_w_tap, (dy, x, stride, before, dw))
    return dw


@njit(**INNER)
def _conv2d_grad_w_tap(tap, dy, x, stride, before, dw):
    """Compute dw[i, j]. One thread computes it, so the bits do not depend on the number of threads."""
    (N, P, Q, O), (_, H, W, C) = dy.shape, x.shape
    i, j = tap // len(dw), tap % len(dw)
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


# The tile and its compiled kernels ------------------------------------------------------------------------------------


def tile_supports(*arrays: np.ndarray) -> bool:
    """Return whether the tile works on this machine, and the arrays are float32 or float64 and not empty."""
    return arrays[0].dtype in (np.float32, np.float64) and all(array.size for array in arrays) and tile_works()


@functools.cache
def tile_works() -> bool:
    """Compile the tile and test it on a small product. If that fails, warn once and return False."""
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    try:
        if np.array_equal(microkernel.matmul(x, x.T), [[5, 14], [14, 50]]):
            return True
        cause = "its results are wrong"
    except Exception as error:  # any error of the compiler: the loops are used instead
        cause = f"{type(error).__name__}: {error}".splitlines()[0]
    warning = f"the fast convolutions do not run on this machine, so slower plain loops are used ({cause})"
    warnings.warn(warning, RuntimeWarning, stacklevel=2)
    return False


def kernel_folder() -> Path | None:
    """Return the folder in which Numba caches the compiled kernels, or None if no folder can be written."""
    folder = microkernel.products.stats.cache_path
    return None if folder is None else Path(folder)


@njit(**COMPILED)
def double(x):
    """Compute x = 2 * x, (N,), which shows whether compiled loops work.

    It returns nothing: a loop that allocates its result takes 0.18 s to compile, and this one 0.12 s.
    """
    in_parallel(len(x), _double, (x,))


@njit(**INNER)
def _double(i, x):
    x[i] = 2 * x[i]


def expect_right_results() -> None:
    """Check the stored kernels, now and when they are loaded, and run a small compiled loop on several threads.

    Raises BackendUnavailable if its result is wrong, and the exception of Numba if it does not compile.
    """
    kernel_cache.check_kernels(
        [parallel, passes, groups, recurrent, microkernel, toomcook, fourier, sys.modules[__name__]]
    )
    if folder := kernel_folder():
        kernel_cache.delete_damaged(kernel_cache.files_in(folder))
    numbers = np.arange(8, dtype=np.float32)
    expected = numbers + numbers
    double(numbers)
    if not np.array_equal(numbers, expected):
        raise contract.BackendUnavailable(
            f"a loop compiled by Numba {numba.__version__} gives wrong numbers: upgrade numba, or use the numpy backend"
        )


def delete_stale_kernels() -> None:
    """Delete the kernels that were compiled from other versions of the source files.

    Numba compiles a kernel again only if the file of the kernel has changed. But the code of
    the tile and of `in_parallel`, which is compiled into the kernel, is in other files. Index
    files are deleted before the kernel files that they point to, so that a process that starts
    in between finds no index. The kernel files are deleted too: Numba writes a new index before
    its kernel, and until then the index could point to an old kernel file of the same name.
    """
    folder = kernel_folder()
    if folder is None:
        return
    sources = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    stamp, now = folder / "minigan-sources", hashlib.sha256(sources).hexdigest()
    with contextlib.suppress(OSError):
        if stamp.read_bytes() == now.encode():
            return
    for file in [*folder.glob("*.nbi"), *folder.glob("*.nbc")]:  # in this order
        with contextlib.suppress(OSError):  # the checksum of a file that is no file is wrong, too
            file.unlink(missing_ok=True)
    try:
        if stamp.is_dir():
            stamp.rmdir()
        stamp.write_text(now)
    except OSError as error:
        text = f"{stamp} cannot be written ({error.strerror or error}), so kernels are compiled again in every process"
        contract.warn_once(f"{text}: make room, or delete it", "kernels cannot be stored")
