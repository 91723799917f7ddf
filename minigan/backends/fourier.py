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
from typing import NamedTuple

import numpy as np

from minigan.backends import microkernel
from minigan.backends.microkernel import offsets, panel_width, stacked, tasks, whole_tiles

MARGIN = 1.3  # how many multiplications of the plain sum cost as much as one here, for the tables and the memory


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
            tasks(0, x_at, X_at, (0, rank), (first, last)), False,
        )  # fmt: skip

    def backward(self, X, X_at, rank_size, x, x_at, pixel_size) -> None:
        """x pixel = sum_r matrix[r, pixel] * X number r: the transposed matrix, and so `forward`'s gradient."""
        rank, columns = self.matrix.shape
        first, last, rows = stacked([np.arange(*ends) for ends in itertools.pairwise(self.starts)])
        microkernel.products(
            self.matrix.ravel(), rows, np.arange(rank) * columns,
            X.ravel(), np.arange(rank) * rank_size, x.ravel(), self.pixels[rows] * pixel_size,
            tasks(0, X_at, x_at, (first[:, None], last[:, None]), (0, rank)), False,
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


def work(x_shape: tuple[int, ...], w_shape: tuple[int, ...], stride: int, before: int, P: int, Q: int, dtype) -> float:
    """The cost of this way in multiplications of the plain sum; infinite where channels do not fill panels."""
    (N, H, W, C), (K, _, _, O), width = x_shape, w_shape, panel_width(dtype)
    if C % width or O % width:
        return np.inf
    rank = 3 * circle(H, K, stride, before, P).places * circle(W, K, stride, before, Q).places // 2
    return MARGIN * rank * (N * (stride**2 * C * O + H * W * C + P * Q * O) + K * K * C * O)


@functools.lru_cache(maxsize=256)
def transform_of(H: int, W: int, K: int, stride: int, before: int, P: int, Q: int, dtype) -> Transform:
    """The matrices of a convolution.

    Along one axis of M places, with phi = 2 pi f / M for the frequency f, and in two dimensions likewise:

        Y = X * conj(W),  X = sum_m x[m] exp(-i phi m),  W = sum_t w[t] exp(-i phi t),  y[p] = 1/M sum_f Y exp(i phi p)

    x, w and y are real, so of f and -f one is enough. Three real products make a complex one (Gauss): with
    k1 = wr*(xr+xi), k2 = xr*(wi-wr) and k3 = xi*(wr+wi), (xr + i xi) * (wr + i wi) = (k1 - k3) + i (k1 + k2).
    """
    rows, columns = circle(H, K, stride, before, P), circle(W, K, stride, before, Q)
    places, phases = rows.places * columns.places, stride * stride
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
        False,
    )  # fmt: skip
    return Y


def panel_starts(columns: int, dtype) -> np.ndarray:
    return np.arange(0, columns, panel_width(dtype))


# The operations, as `numba_backend` has them --------------------------------------------------------------------------


def conv2d(x: np.ndarray, w: np.ndarray, stride: int, before: int, P: int, Q: int) -> np.ndarray:
    (N, H, W, C), (K, _, _, O) = x.shape, w.shape
    transform = transform_of(H, W, K, stride, before, P, Q, x.dtype)
    S = transform.phases
    X = spectrum(transform.x, x)  # (N, rank, S*C)
    G_w = weight_panels(transform.w, w, S * C, C * panel_width(w.dtype))  # (rank, panels, S*C, PANEL)
    return from_spectrum(transform.y, spectral_product(X, G_w), (N, P, Q, O))


def conv2d_grad_x(dy: np.ndarray, w: np.ndarray, H: int, W: int, stride: int, before: int) -> np.ndarray:
    (N, P, Q, _), (K, _, C, O) = dy.shape, w.shape
    transform = transform_of(H, W, K, stride, before, P, Q, dy.dtype)
    dY = spectrum(transform.y, dy)  # (N, rank, O)
    G_w = weight_panels(transform.w, w.transpose(0, 1, 3, 2), O, C * O)  # (rank, panels of S*C, O, PANEL)
    return from_spectrum(transform.x, spectral_product(dY, G_w), (N, H, W, C))


def conv2d_grad_w(dy: np.ndarray, x: np.ndarray, K: int, stride: int, before: int) -> np.ndarray:
    (_, P, Q, O), (_, H, W, C) = dy.shape, x.shape
    transform = transform_of(H, W, K, stride, before, P, Q, dy.dtype)
    rank, S = transform.rank, transform.phases
    X = spectrum(transform.x, x)  # (N, rank, S*C)
    dY = spectrum(transform.y, dy)  # (N, rank, O)
    dW = np.empty((rank, S * C, O), x.dtype)
    n, r, c = np.arange(len(x)), np.arange(rank)[:, None], np.arange(S * C)
    o = panel_starts(O, x.dtype)
    microkernel.products(
        X.ravel(), whole_tiles(c), n * X[0].size, dY.ravel(), n * dY[0].size, dW.ravel(), whole_tiles(c * O),
        tasks(r * S * C, r * O + o, r * S * C * O + o, (0, S * C), (0, len(x))), False,
    )  # fmt: skip
    dw = np.empty((K, K, C, O), x.dtype)
    w_at = offsets(np.arange(C) * O, o)
    transform.w.backward(dW, w_at + np.arange(S)[:, None] * C * O, dW[0].size, dw, w_at, C * O)
    return dw
