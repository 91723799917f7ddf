"""The compiled CPU backend (see `minigan.backends` for the contract).

Three ways to the same sums, each the check of the next:

    *_loops        the plain loops: the specification, and the way of dtypes and machines that the tile does not serve
    microkernel    a register tile: the same products at the CPU's full speed
    fourier_*      fewer products, on the same tile, for small maps with many channels

The results do not depend on the number of threads, to the bit: work is cut into pieces whose size never depends on it,
each output is summed by one thread in one order, and partial sums are added in a fixed order.
"""

import contextlib
import ctypes
import functools
import itertools
import os
import sys
import warnings
from typing import NamedTuple

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

# The threads of OpenMP wait for one another asleep or in a busy loop. Busy is their default, and many times slower on a
# machine that has anything else to do: the one waiting takes the core from the one waited for.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numba  # noqa: E402
from numba import njit, prange  # noqa: E402

from minigan.backends import microkernel  # noqa: E402
from minigan.backends.microkernel import offsets, panel_width, stacked, tasks, whole_tiles  # noqa: E402
from minigan.backends.numba_passes import (  # noqa: E402, F401
    adam,
    batchnorm,
    batchnorm_grad,
    dropout,
    leaky_relu,
    leaky_relu_grad,
    sum_rows,
)
from minigan.backends.numpy_backend import STEPS_AHEAD, concatenate, gather, moving_average, track  # noqa: E402, F401

NAME = "numba"
xp = np

FOURIER_MARGIN = 1.5  # how many multiplications of the plain sum cost as much as one on the way through a spectrum


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
    (N, H, W, C), (K, _, _, O) = x.shape, w.shape
    agree("x and w", C, w.shape[2])
    P, Q, before = conv_size(H, K, stride, pad), conv_size(W, K, stride, pad), pads(pad)[0]
    if not tiled(x, w):
        return conv2d_loops(x, w, stride, before, P, Q)
    if transform := fourier_transform(N, H, W, C, K, O, stride, before, P, Q, x.dtype):
        return fourier_conv2d(x, w, (N, P, Q, O), transform)
    return microkernel.conv2d(x, w, stride, before, P, Q)


def conv2d_grad_x(
    dy: np.ndarray, w: np.ndarray, x_shape: tuple[int, ...], stride: int, pad: int | tuple[int, int]
) -> np.ndarray:
    """dx[n,h,v,c] = sum of dy[n,p,q,o] * w[i,j,c,o] where p*stride+i is row h and q*stride+j column v of xpad.

    (N,P,Q,O), (K,K,C,O) -> (N,H,W,C)
    """
    dy, w = contiguous(dy, w)
    (N, P, Q, O), (_, H, W, C), K, before = dy.shape, x_shape, len(w), pads(pad)[0]
    agree("dy and w", O, w.shape[3])
    agree("x and w", C, w.shape[2])
    if not tiled(dy, w):
        return conv2d_grad_x_loops(dy, w, H, W, stride, before)
    if transform := fourier_transform(N, H, W, C, K, O, stride, before, P, Q, dy.dtype):
        return fourier_grad_x(dy, w, x_shape, transform)
    return microkernel.conv2d_grad_x(dy, w, H, W, stride, before)


def conv2d_grad_w(
    dy: np.ndarray, x: np.ndarray, w_shape: tuple[int, ...], stride: int, pad: int | tuple[int, int]
) -> np.ndarray:
    """dw[i,j,c,o] = sum_npq xpad[n, p*stride+i, q*stride+j, c] * dy[n,p,q,o]; (N,P,Q,O), (N,H,W,C) -> (K,K,C,O)"""
    dy, x = contiguous(dy, x)
    (N, P, Q, O), (_, H, W, C), K, before = dy.shape, x.shape, w_shape[0], pads(pad)[0]
    agree("dy and x", N, len(x))
    agree("dy and w", O, w_shape[3])
    agree("x and w", C, w_shape[2])
    if not tiled(dy, x):
        return conv2d_grad_w_loops(dy, x, K, stride, before)
    if transform := fourier_transform(N, H, W, C, K, O, stride, before, P, Q, dy.dtype):
        return fourier_grad_w(dy, x, w_shape, transform)
    return microkernel.conv2d_grad_w(dy, x, K, stride, before)


def matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a @ b, (M,K), (K,N) -> (M,N), with the same bits for any number of threads, which BLAS does not promise."""
    if a.shape[1] != b.shape[0]:
        raise ValueError(f"matmul: {a.shape} @ {b.shape} do not fit together")
    return microkernel.matmul(a, b) if tiled(a, b) and a.dtype == b.dtype else a @ b


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


# Fewer products -------------------------------------------------------------------------------------------------------
#
# The discrete Fourier transform turns a circular convolution into one product for each frequency. A stride of s makes
# s * s "phases" of an image, (a, b) holding every s-th row from a and every s-th column from b: on each phase the taps
# of the same phase act with stride 1, and what they give adds up. Written with real matrices only,
#
#     y = A.T @ sum over phases of (B @ x) * (G @ w)
#     dx = B.T @ ((A @ dy) * (G @ w))        dw = G.T @ ((B @ x) * (A @ dy))
#
# where A, B and G act on the pixels of one channel. Only the product in the middle meets every pair of channels, so
# only its length, the rank, counts when the channels are many: 121 for a 5x5 kernel on a 7x7 map, where the plain sum
# has 7*7*5*5 = 1225. (Winograd's convolutions have the same form, but lose digits in float32, the more the larger the
# kernel; cos and sin lose none.)


class Side(NamedTuple):
    """B, G or A above: it turns the pixels of x, the taps of w or the pixels of y into `rank` numbers."""

    matrix: np.ndarray  # (rank, pixels), phase after phase
    pixels: np.ndarray  # h*W + v, i*K + j or p*Q + q of each column
    starts: np.ndarray  # phase s has the columns starts[s] to starts[s+1]

    def forward(self, x, x_at, pixel_size, X, X_at, rank_size) -> None:
        """X number r = sum over a phase's pixels of matrix[r, pixel] * x pixel, for the panels at x_at and X_at."""
        rank, columns = self.matrix.shape
        first, last = self.starts[:-1, None], self.starts[1:, None]
        microkernel.products(
            self.matrix.ravel(), whole_tiles(np.arange(rank) * columns), np.arange(columns),
            x.ravel(), self.pixels * pixel_size, X.ravel(), whole_tiles(np.arange(rank) * rank_size),
            tasks(0, x_at, X_at, (0, rank), (first, last)),
        )  # fmt: skip

    def backward(self, X, X_at, rank_size, x, x_at, pixel_size) -> None:
        """x pixel = sum_r matrix[r, pixel] * X number r: the transposed matrix, and so `forward`'s gradient."""
        rank, columns = self.matrix.shape
        first, last, rows = stacked([np.arange(*ends) for ends in itertools.pairwise(self.starts)])
        microkernel.products(
            self.matrix.ravel(), rows, np.arange(rank) * columns,
            X.ravel(), np.arange(rank) * rank_size, x.ravel(), self.pixels[rows] * pixel_size,
            tasks(0, X_at, x_at, (first[:, None], last[:, None]), (0, rank)),
        )  # fmt: skip


class Transform(NamedTuple):
    x: Side
    w: Side
    y: Side
    rank: int
    phases: int


class Circle(NamedTuple):
    """One axis of an image, wound around a circle: for each phase the pixels h of x with their coordinates m, and the
    taps i of w with their coordinates t, so that y[p] = sum_t x[p+t] * w[t] in the phase.

    The circle has so many places that no x[m] is taken for another x[p+t].
    """

    places: int
    pixels: list[tuple[np.ndarray, np.ndarray]]
    taps: list[tuple[np.ndarray, np.ndarray]]


def circle(size: int, K: int, stride: int, before: int, outputs: int) -> Circle:
    places, pixels, taps = 1, [], []
    for a in range(stride):
        h, i = np.arange((a - before) % stride, size, stride), np.arange(a, K, stride)
        m, t = (h + before) // stride, i // stride
        pixels.append((h, m))
        taps.append((i, t))
        if len(m) and len(t):
            places = max(places, outputs + t[-1] - m[0], m[-1] + 1)
    return Circle(int(places), pixels, taps)


@functools.lru_cache(maxsize=256)
def fourier_transform(N, H, W, C, K, O, stride, before, P, Q, dtype) -> Transform | None:
    """The matrices of a convolution; None where the plain sum is faster, or where channels do not fill panels.

    Along one axis of M places, with phi = 2 pi f / M for the frequency f, and in two dimensions likewise:

        Y = X * conj(W),  X = sum_m x[m] exp(-i phi m),  W = sum_t w[t] exp(-i phi t),  y[p] = 1/M sum_f Y exp(i phi p)

    x, w and y are real, so of f and -f one is enough. Three real products make a complex one (Gauss): with
    k1 = wr*(xr+xi), k2 = xr*(wi-wr) and k3 = xi*(wr+wi), (xr + i xi) * (wr + i wi) = (k1 - k3) + i (k1 + k2).
    """
    rows, columns = circle(H, K, stride, before, P), circle(W, K, stride, before, Q)
    places, phases = rows.places * columns.places, stride * stride
    rank = 3 * places // 2  # half of the frequencies, three products each
    plain = N * P * Q * K * K * C * O
    fourier = rank * (N * (phases * C * O + H * W * C + P * Q * O) + K * K * C * O)
    width = panel_width(dtype)
    if C % width or O % width or FOURIER_MARGIN * fourier > plain:
        return None

    M = np.array([rows.places, columns.places])
    f = np.argwhere(np.ones(M))  # (frequencies, 2)
    number, opposite = f @ [M[1], 1], -f % M @ [M[1], 1]
    real, pairs = f[number == opposite], f[number < opposite]  # X is real where f is -f

    def side(rows, columns, width, blocks) -> Side:
        """The matrix made of cos and sin of f1*m1/M1 + f2*m2/M2 turns."""
        matrix, pixels = [], []
        for h, m1 in rows:
            for v, m2 in columns:
                turns = 2 * np.pi * np.stack([np.repeat(m1, len(m2)), np.tile(m2, len(m1))]) / M[:, None]
                cos, sin = np.cos(pairs @ turns), np.sin(pairs @ turns)
                matrix.append(np.concatenate([np.cos(real @ turns), *blocks(cos, sin)]))
                pixels.append(offsets(h * width, v))
        starts = np.cumsum([0, *map(len, pixels)])
        return Side(np.concatenate(matrix, axis=1).astype(dtype), np.concatenate(pixels), starts)

    p, q = np.arange(P), np.arange(Q)
    x = side(rows.pixels, columns.pixels, W, lambda cos, sin: (cos - sin, cos, -sin))  # xr+xi, xr, xi
    w = side(rows.taps, columns.taps, K, lambda cos, sin: (cos, sin - cos, cos + sin))  # wr, wi-wr, wr+wi
    y = side([(p, p)], [(q, q)], Q, lambda cos, sin: (2 * (cos - sin), -2 * sin, -2 * cos))  # of k1, k2, k3
    y = y._replace(matrix=y.matrix / dtype.type(places))
    return Transform(x, w, y, len(x.matrix), phases)


def fourier_conv2d(x: np.ndarray, w: np.ndarray, y_shape: tuple[int, ...], transform: Transform) -> np.ndarray:
    C, S = w.shape[2], transform.phases
    X = spectrum(transform.x, x)  # (N, rank, S*C)
    G_w = weight_panels(transform.w, w, S * C, C * panel_width(w.dtype))  # (rank, panels, S*C, PANEL)
    return from_spectrum(transform.y, spectral_product(X, G_w), y_shape)


def fourier_grad_x(dy: np.ndarray, w: np.ndarray, x_shape: tuple[int, ...], transform: Transform) -> np.ndarray:
    C, O = w.shape[2:]
    dY = spectrum(transform.y, dy)  # (N, rank, O)
    G_w = weight_panels(transform.w, w.transpose(0, 1, 3, 2), O, C * O)  # (rank, panels of S*C, O, PANEL)
    return from_spectrum(transform.x, spectral_product(dY, G_w), x_shape)


def fourier_grad_w(dy: np.ndarray, x: np.ndarray, w_shape: tuple[int, ...], transform: Transform) -> np.ndarray:
    (_, _, C, O), rank, S = w_shape, transform.rank, transform.phases
    X = spectrum(transform.x, x)  # (N, rank, S*C)
    dY = spectrum(transform.y, dy)  # (N, rank, O)
    dW = np.empty((rank, S * C, O), x.dtype)
    n, r, c = np.arange(len(x)), np.arange(rank)[:, None], np.arange(S * C)
    o = panel_starts(O, x.dtype)
    microkernel.products(
        X.ravel(), whole_tiles(c), n * X[0].size, dY.ravel(), n * dY[0].size, dW.ravel(), whole_tiles(c * O),
        tasks(r * S * C, r * O + o, r * S * C * O + o, (0, S * C), (0, len(x))),
    )  # fmt: skip
    dw = np.empty(w_shape, x.dtype)
    w_at = offsets(np.arange(C) * O, o)
    transform.w.backward(dW, w_at + np.arange(S)[:, None] * C * O, dW[0].size, dw, w_at, C * O)
    return dw


def spectrum(side: Side, x: np.ndarray) -> np.ndarray:
    """(N,H,W,C) -> (N, rank, S*C), of S phases"""
    X = np.empty((len(x), len(side.matrix), (len(side.starts) - 1) * x.shape[3]), x.dtype)
    x_at, X_at = image_places(x, X)
    side.forward(x, x_at, x.shape[3], X, X_at, X.shape[2])
    return X


def from_spectrum(side: Side, X: np.ndarray, x_shape: tuple[int, ...]) -> np.ndarray:
    """(N, rank, S*C) -> (N,H,W,C), by the transposed matrix"""
    x = np.empty(x_shape, X.dtype)
    x_at, X_at = image_places(x, X)
    side.backward(X, X_at, X.shape[2], x, x_at, x.shape[3])
    return x


def image_places(x: np.ndarray, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each image begins in x, and each of its phases in X (phases, images), for every panel of channels."""
    n, c = np.arange(len(x)), panel_starts(x.shape[3], x.dtype)
    phase = np.arange(0, X.shape[2], x.shape[3])[:, None]
    return offsets(n * x[0].size, c), phase + offsets(n * X[0].size, c)


def weight_panels(side: Side, w: np.ndarray, length: int, phase_size: int) -> np.ndarray:
    """G @ w in panels: (K,K,rows,columns) -> (rank, panels, length, PANEL), each phase phase_size behind the last."""
    w = np.ascontiguousarray(w)
    (rows, columns), width = w.shape[2:], panel_width(w.dtype)
    rank, phases = len(side.matrix), np.arange(len(side.starts) - 1)[:, None]
    G_w = np.empty((rank, phases.size * rows * columns // (length * width), length, width), w.dtype)
    row, column = np.arange(rows), panel_starts(columns, w.dtype)
    G_at = phases * phase_size + offsets(row * width, column * length)
    side.forward(w, offsets(row * columns, column), rows * columns, G_w, G_at, G_w[0].size)
    return G_w


def spectral_product(X: np.ndarray, G_w: np.ndarray) -> np.ndarray:
    """(N, rank, k), (rank, panels, k, PANEL) -> (N, rank, panels * PANEL): a matrix product for each row of rank"""
    (N, rank, length), (_, count, _, width) = X.shape, G_w.shape
    Y = np.empty((N, rank, count * width), X.dtype)
    n, r, k, panel = np.arange(N), np.arange(rank)[:, None], np.arange(length), np.arange(count)
    microkernel.products(
        X.ravel(), whole_tiles(n * X[0].size), k, G_w.ravel(), k * width, Y.ravel(), whole_tiles(n * Y[0].size),
        tasks(r * length, (r * count + panel) * length * width, (r * count + panel) * width, (0, N), (0, length)),
    )  # fmt: skip
    return Y


def panel_starts(columns: int, dtype) -> np.ndarray:
    return np.arange(0, columns, panel_width(dtype))


def keep_freed_memory() -> None:
    """Tells glibc to keep the memory of freed arrays for the next ones (mallopt: M_MMAP_THRESHOLD, M_TRIM_THRESHOLD).

    A step frees and asks for the same large arrays again and again. Given back to the system each time, every page of
    them has to be cleared and mapped anew, which takes as long as filling it. Elsewhere than under glibc: no change.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option in (-3, -1):
            mallopt(option, 2**30)


keep_freed_memory()
set_threads(None)
