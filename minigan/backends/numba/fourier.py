"""Fewer multiplications for small maps with many channels: a convolution through its spectrum, on the same tile.

The discrete Fourier transform turns a circular convolution into one product for each frequency. A stride of s makes
s * s "phases" of an image, (a, b) holding every s-th row from a and every s-th column from b: on each phase the taps
of the same phase act with stride 1, and what they give adds up. Written with real matrices only,

    y = A.T @ sum over phases of (B @ x) * (G @ w)
    dx = B.T @ ((A @ dy) * (G @ w))        dw = G.T @ ((B @ x) * (A @ dy))

where A, B and G act on the pixels of one channel. Only the product in the middle meets every pair of channels, so only
its length, the rank, counts when the channels are many: 121 for a 5x5 kernel on a 7x7 map, where the plain sum has
7*7*5*5 = 1225. `toomcook` has the same form along one axis, with numbers that lose digits the more the larger the
kernel; cos and sin lose none.
"""

import functools
import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from minigan.backends.numba import microkernel
from minigan.backends.numba.microkernel import Tables, offsets, panel_width, stacked, tasks, whole_tiles

MARGIN = 1.3  # how many multiplications of the plain sum cost as much as one here, for the tables and the memory


class Products(NamedTuple):
    """Many matrix products with the same tables."""

    tables: Tables
    tasks: np.ndarray

    def multiply(self, x: np.ndarray, w: np.ndarray, y: np.ndarray) -> np.ndarray:
        """y, filled with the products of x and w."""
        flat = [array.reshape(-1) for array in (x, w, y)]
        microkernel.products(self.tables, self.tasks, *flat, False)
        return y


@dataclass(frozen=True, eq=False)  # one object for each convolution, by which its tables are kept
class Side:
    """B, G or A above: it turns the pixels of x, the taps of w or the pixels of y into `rank` numbers."""

    matrix: np.ndarray  # (rank, pixels), phase after phase
    pixels: np.ndarray  # h*W + v, i*K + j or p*Q + q of each column
    starts: np.ndarray  # phase s has the columns starts[s] to starts[s+1]

    def forward(self, x_at, pixel_size, X_at, rank_size) -> Products:
        """X number r = sum over a phase's pixels of matrix[r, pixel] * x pixel, for the panels at x_at and X_at."""
        rank, columns = self.matrix.shape
        first, last = self.starts[:-1, None], self.starts[1:, None]
        tables = Tables(
            whole_tiles(np.arange(rank) * columns), np.arange(columns),
            self.pixels * pixel_size, whole_tiles(np.arange(rank) * rank_size),
        )  # fmt: skip
        return Products(tables, tasks(0, x_at, X_at, (0, rank), (first, last)))

    def backward(self, X_at, rank_size, x_at, pixel_size) -> Products:
        """x pixel = sum_r matrix[r, pixel] * X number r: the transposed matrix, and so `forward`'s gradient."""
        rank, columns = self.matrix.shape
        first, last, rows = stacked([np.arange(*ends) for ends in itertools.pairwise(self.starts)])
        r = np.arange(rank)
        tables = Tables(rows, r * columns, r * rank_size, self.pixels[rows] * pixel_size)
        return Products(tables, tasks(0, X_at, x_at, (first[:, None], last[:, None]), (0, rank)))


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


def work(x_shape: tuple[int, ...], w_shape: tuple[int, ...], stride: int, before: int, P: int, Q: int, dtype) -> float:
    """The cost of this way in multiplications of the plain sum; infinite where channels do not fill panels."""
    (N, H, W, C), (K, _, _, O), width = x_shape, w_shape, panel_width(dtype)
    if C % width or O % width:
        return np.inf
    rank = 3 * circle(H, K, stride, before, P).places * circle(W, K, stride, before, Q).places // 2
    return MARGIN * rank * (N * (stride**2 * C * O + H * W * C + P * Q * O) + K * K * C * O)


@functools.lru_cache(maxsize=256)
def transform_of(
    image: tuple[int, int], outputs: tuple[int, int], K: int, stride: int, before: int, dtype
) -> Transform:
    """The matrices of a convolution from an image (H, W) to outputs (P, Q).

    Along one axis of M places, with phi = 2 pi f / M for the frequency f, and in two dimensions likewise:

        Y = X * conj(W),  X = sum_m x[m] exp(-i phi m),  W = sum_t w[t] exp(-i phi t),  y[p] = 1/M sum_f Y exp(i phi p)

    x, w and y are real, so of f and -f one is enough. Three real products make a complex one (Gauss): with
    k1 = wr*(xr+xi), k2 = xr*(wi-wr) and k3 = xi*(wr+wi), (xr + i xi) * (wr + i wi) = (k1 - k3) + i (k1 + k2).
    """
    (H, W), (P, Q) = image, outputs
    rows, columns = circle(H, K, stride, before, P), circle(W, K, stride, before, Q)
    places, phases = rows.places * columns.places, stride * stride
    M = np.array([rows.places, columns.places])
    f = np.argwhere(np.ones(M))  # (frequencies, 2)
    number, opposite = f @ [M[1], 1], -f % M @ [M[1], 1]
    real, pairs = f[number == opposite], f[number < opposite]  # X is real where f is -f

    def side(rows, columns, width, blocks, scale=1.0) -> Side:
        """The matrix made of cos and sin of f1*m1/M1 + f2*m2/M2 turns."""
        matrix, pixels = [], []
        for h, m1 in rows:
            for v, m2 in columns:
                turns = 2 * np.pi * np.stack([np.repeat(m1, len(m2)), np.tile(m2, len(m1))]) / M[:, None]
                cos, sin = np.cos(pairs @ turns), np.sin(pairs @ turns)
                matrix.append(np.concatenate([np.cos(real @ turns), *blocks(cos, sin)]))
                pixels.append(offsets(h * width, v))
        starts = np.cumsum([0, *map(len, pixels)])
        matrix = scale * np.concatenate(matrix, axis=1)
        return Side(matrix.astype(dtype), np.concatenate(pixels), starts)

    p, q = np.arange(P), np.arange(Q)
    x = side(rows.pixels, columns.pixels, W, lambda cos, sin: (cos - sin, cos, -sin))  # xr+xi, xr, xi
    w = side(rows.taps, columns.taps, K, lambda cos, sin: (cos, sin - cos, cos + sin))  # wr, wi-wr, wr+wi
    y = side([(p, p)], [(q, q)], Q, lambda cos, sin: (2 * (cos - sin), -2 * sin, -2 * cos), 1 / places)  # of k1, k2, k3
    return Transform(x, w, y, len(x.matrix), phases)


def spectrum(side: Side, x: np.ndarray) -> np.ndarray:
    """(N,H,W,C) -> (N, rank, S*C), of S phases"""
    X = np.empty((len(x), len(side.matrix), (len(side.starts) - 1) * x.shape[3]), x.dtype)
    return spectrum_products(side, x.shape, X.shape, x.dtype).multiply(side.matrix, x, X)


def from_spectrum(side: Side, X: np.ndarray, x_shape: tuple[int, ...]) -> np.ndarray:
    """(N, rank, S*C) -> (N,H,W,C), by the transposed matrix"""
    x = np.empty(x_shape, X.dtype)
    return spectrum_products(side, x_shape, X.shape, X.dtype, back=True).multiply(side.matrix, X, x)


@functools.lru_cache(maxsize=256)
def spectrum_products(side: Side, x_shape, X_shape, dtype, back: bool = False) -> Products:
    """Each image begins somewhere in x, and each of its phases in X (phases, images), for every panel of channels."""
    (N, H, W, C), (_, rank, X_row) = x_shape, X_shape
    n, c, phase = np.arange(N), panel_starts(C, dtype), np.arange(0, X_row, C)[:, None]
    x_at, X_at = offsets(n * H * W * C, c), phase + offsets(n * rank * X_row, c)
    return side.backward(X_at, X_row, x_at, C) if back else side.forward(x_at, C, X_at, X_row)


def weight_panels(side: Side, w: np.ndarray, length: int, phase_size: int) -> np.ndarray:
    """G @ w in panels: (K,K,rows,columns) -> (rank, panels, length, PANEL), each phase phase_size behind the last."""
    w = np.ascontiguousarray(w)
    (rows, columns), width, phases = w.shape[2:], panel_width(w.dtype), len(side.starts) - 1
    G_w = np.empty((len(side.matrix), phases * rows * columns // (length * width), length, width), w.dtype)
    return weight_products(side, rows, columns, length, phase_size, w.dtype).multiply(side.matrix, w, G_w)


@functools.lru_cache(maxsize=256)
def weight_products(side: Side, rows: int, columns: int, length: int, phase_size: int, dtype) -> Products:
    row, column, phases = np.arange(rows), panel_starts(columns, dtype), np.arange(len(side.starts) - 1)[:, None]
    G_at = phases * phase_size + offsets(row * panel_width(dtype), column * length)
    return side.forward(offsets(row * columns, column), rows * columns, G_at, phases.size * rows * columns)


def spectral_product(X: np.ndarray, G_w: np.ndarray) -> np.ndarray:
    """(N, rank, k), (rank, panels, k, PANEL) -> (N, rank, panels * PANEL): a matrix product for each row of rank"""
    (N, rank, length), (_, count, _, width) = X.shape, G_w.shape
    Y = np.empty((N, rank, count * width), X.dtype)
    return rank_products(N, rank, length, count, width).multiply(X, G_w, Y)


@functools.lru_cache(maxsize=256)
def rank_products(N: int, rank: int, length: int, count: int, width: int) -> Products:
    n, r, k, panel = np.arange(N), np.arange(rank)[:, None], np.arange(length), np.arange(count)
    return Products(
        Tables(whole_tiles(n * rank * length), k, k * width, whole_tiles(n * rank * count * width)),
        tasks(r * length, (r * count + panel) * length * width, (r * count + panel) * width, (0, N), (0, length)),
    )


@functools.lru_cache(maxsize=256)
def gradient_products(w: Side, N: int, rank: int, C: int, O: int, dtype) -> tuple[Products, Products]:
    """For dW = X' dY, a matrix product for each row of rank; and for dw, back from there.

    dW lies as (S*C, panels, rank, PANEL), so that `back`, which has few sums per number, reads one piece of memory.
    """
    S, width = len(w.starts) - 1, panel_width(dtype)
    n, r, c, o = np.arange(N), np.arange(rank)[:, None], np.arange(S * C), panel_starts(O, dtype)
    product = Products(
        Tables(whole_tiles(c), n * rank * S * C, n * rank * O, whole_tiles(c * O * rank)),
        tasks(r * S * C, r * O + o, r * width + o * rank, (0, S * C), (0, N)),
    )
    w_at = offsets(np.arange(C) * O, o)
    return product, w.backward((w_at + np.arange(S)[:, None] * C * O) * rank, width, w_at, C * O)


def panel_starts(columns: int, dtype) -> np.ndarray:
    return np.arange(0, columns, panel_width(dtype))


# The operations, as `numba_backend` has them --------------------------------------------------------------------------


def conv2d(x: np.ndarray, w: np.ndarray, stride: int, before: int, P: int, Q: int) -> np.ndarray:
    (N, H, W, C), (K, _, _, O) = x.shape, w.shape
    transform = transform_of((H, W), (P, Q), K, stride, before, x.dtype)
    S = transform.phases
    X = spectrum(transform.x, x)  # (N, rank, S*C)
    G_w = weight_panels(transform.w, w, S * C, C * panel_width(w.dtype))  # (rank, panels, S*C, PANEL)
    return from_spectrum(transform.y, spectral_product(X, G_w), (N, P, Q, O))


def conv2d_grad_x(dy: np.ndarray, w: np.ndarray, H: int, W: int, stride: int, before: int) -> np.ndarray:
    (N, P, Q, _), (K, _, C, O) = dy.shape, w.shape
    transform = transform_of((H, W), (P, Q), K, stride, before, dy.dtype)
    dY = spectrum(transform.y, dy)  # (N, rank, O)
    G_w = weight_panels(transform.w, w.transpose(0, 1, 3, 2), O, C * O)  # (rank, panels of S*C, O, PANEL)
    return from_spectrum(transform.x, spectral_product(dY, G_w), (N, H, W, C))


def conv2d_grad_w(dy: np.ndarray, x: np.ndarray, K: int, stride: int, before: int) -> np.ndarray:
    (_, P, Q, O), (_, H, W, C) = dy.shape, x.shape
    transform = transform_of((H, W), (P, Q), K, stride, before, dy.dtype)
    X = spectrum(transform.x, x)  # (N, rank, S*C)
    dY = spectrum(transform.y, dy)  # (N, rank, O)
    product, back = gradient_products(transform.w, len(x), transform.rank, C, O, x.dtype)
    dW = product.multiply(X, dY, np.empty(transform.phases * C * O * transform.rank, x.dtype))
    return back.multiply(transform.w.matrix, dW, np.empty((K, K, C, O), x.dtype))
