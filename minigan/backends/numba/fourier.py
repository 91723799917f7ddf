"""Convolution by discrete Fourier transform (DFT): fewer products for small feature maps with many channels.

The DFT turns a circular convolution into one product for each frequency. A stride of s divides an image into s * s
"phases". Phase (a, b) consists of every s-th row from row a and every s-th column from column b. The taps of the same
phase act on it with stride 1, and the results of all phases are added. With real matrices only,

    y = A.T @ sum over phases of (B @ x) * (G @ w)
    dx = B.T @ ((A @ dy) * (G @ w))        dw = G.T @ ((B @ x) * (A @ dy))

where A, B and G act on the pixels of one channel. Only the product in the middle is computed for every pair of input
and output channels, by the register tile. So with many channels the cost is proportional to the length of this product,
the rank. It is 121 for a 5x5 kernel on a 7x7 map, where the plain sum has 7*7*5*5 = 1225 products. `toomcook` has the
same form along one axis. The rounding errors of its matrices grow with the size of the kernel, and those of the DFT do
not.
"""

import functools
import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from minigan.backends.numba import microkernel
from minigan.backends.numba.microkernel import Tables, offsets, panel_width, stacked, tasks, whole_tiles

MARGIN = 1.3  # cost of one multiplication here, in multiplications of the plain sum: includes tables and memory


class Products(NamedTuple):
    """Matrix products that use the same tables."""

    tables: Tables
    tasks: np.ndarray

    def multiply(self, x: np.ndarray, w: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Fill y with the products of x and w, and return it."""
        flat = [array.reshape(-1) for array in (x, w, y)]
        microkernel.products(self.tables, self.tasks, *flat, False)
        return y


@dataclass(frozen=True, eq=False)  # compared by identity, because it is a key of the caches below
class Dft:
    """One of the matrices B, G and A: it maps the pixels of x, the taps of w or the pixels of y to `rank` numbers."""

    matrix: np.ndarray  # (rank, pixels), with the phases one after the other
    pixels: np.ndarray  # the pixel of each column: h*W + v, i*K + j or p*Q + q
    starts: np.ndarray  # phase s has the columns starts[s] to starts[s+1]

    def forward(self, x_at, pixel_size, X_at, rank_size) -> Products:
        """Return the products X[r] = sum over the pixels of a phase of matrix[r,pixel] * x[pixel].

        x_at and X_at are the offsets of the panels. pixel_size and rank_size are the strides of pixel and r.
        """
        rank, columns = self.matrix.shape
        first, last = self.starts[:-1, None], self.starts[1:, None]
        tables = Tables(
            whole_tiles(np.arange(rank) * columns), np.arange(columns),
            self.pixels * pixel_size, whole_tiles(np.arange(rank) * rank_size),
        )  # fmt: skip
        return Products(tables, tasks(0, x_at, X_at, (0, rank), (first, last)))

    def adjoint(self, X_at, rank_size, x_at, pixel_size) -> Products:
        """Return the products x[pixel] = sum_r matrix[r,pixel] * X[r], which are the gradient of `forward`."""
        rank, columns = self.matrix.shape
        first, last, rows = stacked([np.arange(*ends) for ends in itertools.pairwise(self.starts)])
        r = np.arange(rank)
        tables = Tables(rows, r * columns, r * rank_size, self.pixels[rows] * pixel_size)
        return Products(tables, tasks(0, X_at, x_at, (first[:, None], last[:, None]), (0, rank)))


class Transforms(NamedTuple):
    """The matrices of one convolution: B for x, G for w and A for y."""

    x: Dft
    w: Dft
    y: Dft
    rank: int
    phases: int


class CircularAxis(NamedTuple):
    """One axis of an image as a circular convolution.

    For each phase, `pixels` has the pixels h of x with their coordinates m, and `taps` has the taps i of w with their
    coordinates t, so that y[p] = sum_t x[p+t] * w[t] in the phase. `length` is the period of the circular convolution.
    It is large enough that the index p+t does not wrap around to another pixel of x.
    """

    length: int
    pixels: list[tuple[np.ndarray, np.ndarray]]
    taps: list[tuple[np.ndarray, np.ndarray]]


def circular_axis(size: int, K: int, stride: int, before: int, outputs: int) -> CircularAxis:
    """Return the circular convolution along an axis with `size` pixels and `outputs` outputs."""
    length, pixels, taps = 1, [], []
    for a in range(stride):
        h, i = np.arange((a - before) % stride, size, stride), np.arange(a, K, stride)
        m, t = (h + before) // stride, i // stride
        pixels.append((h, m))
        taps.append((i, t))
        if len(m) and len(t):
            length = max(length, outputs + t[-1] - m[0], m[-1] + 1)
    return CircularAxis(int(length), pixels, taps)


def work(x_shape: tuple[int, ...], w_shape: tuple[int, ...], stride: int, before: int, P: int, Q: int, dtype) -> float:
    """Return the cost in multiplications of the plain sum. It is infinite if the channels do not fill whole panels."""
    (N, H, W, C), (K, _, _, O), width = x_shape, w_shape, panel_width(dtype)
    if C % width or O % width:
        return np.inf
    frequencies = circular_axis(H, K, stride, before, P).length * circular_axis(W, K, stride, before, Q).length
    rank = 3 * frequencies // 2
    return MARGIN * rank * (N * (stride**2 * C * O + H * W * C + P * Q * O) + K * K * C * O)


@functools.lru_cache(maxsize=256)
def transforms_of(
    image: tuple[int, int], outputs: tuple[int, int], K: int, stride: int, before: int, dtype
) -> Transforms:
    """Return the matrices of a convolution from an image (H, W) to outputs (P, Q).

    Along one axis of length M, with phi = 2 pi f / M for the frequency f (two dimensions are analogous):

        Y = X * conj(W),  X = sum_m x[m] exp(-i phi m),  W = sum_t w[t] exp(-i phi t),  y[p] = 1/M sum_f Y exp(i phi p)

    x, w and y are real, so only one of f and -f is needed. Three real products give the complex product Y (Gauss): with
    X = xr + i xi, conj(W) = wr + i wi, k1 = wr*(xr+xi), k2 = xr*(wi-wr) and k3 = xi*(wr+wi), it is
    Y = (k1 - k3) + i (k1 + k2).
    """
    (H, W), (P, Q) = image, outputs
    rows, columns = circular_axis(H, K, stride, before, P), circular_axis(W, K, stride, before, Q)
    size, phases = rows.length * columns.length, stride * stride
    M = np.array([rows.length, columns.length])
    f = np.argwhere(np.ones(M))  # (frequencies, 2)
    number, opposite = f @ [M[1], 1], -f % M @ [M[1], 1]
    real, pairs = f[number == opposite], f[number < opposite]  # X is real where f = -f modulo M

    def dft(rows, columns, width, blocks, scale=1.0) -> Dft:
        """Return the matrix of cos and sin of the angles 2 pi (f1*m1/M1 + f2*m2/M2)."""
        matrix, pixels = [], []
        for h, m1 in rows:
            for v, m2 in columns:
                angles = 2 * np.pi * np.stack([np.repeat(m1, len(m2)), np.tile(m2, len(m1))]) / M[:, None]
                cos, sin = np.cos(pairs @ angles), np.sin(pairs @ angles)
                matrix.append(np.concatenate([np.cos(real @ angles), *blocks(cos, sin)]))
                pixels.append(offsets(h * width, v))
        starts = np.cumsum([0, *map(len, pixels)])
        matrix = scale * np.concatenate(matrix, axis=1)
        return Dft(matrix.astype(dtype), np.concatenate(pixels), starts)

    p, q = np.arange(P), np.arange(Q)
    x = dft(rows.pixels, columns.pixels, W, lambda cos, sin: (cos - sin, cos, -sin))  # xr+xi, xr, xi
    w = dft(rows.taps, columns.taps, K, lambda cos, sin: (cos, sin - cos, cos + sin))  # wr, wi-wr, wr+wi
    y = dft([(p, p)], [(q, q)], Q, lambda cos, sin: (2 * (cos - sin), -2 * sin, -2 * cos), 1 / size)  # of k1, k2, k3
    return Transforms(x, w, y, len(x.matrix), phases)


def spectrum(dft: Dft, x: np.ndarray) -> np.ndarray:
    """Compute dft @ x: (N,H,W,C) -> (N, rank, S*C), with S phases."""
    X = np.empty((len(x), len(dft.matrix), (len(dft.starts) - 1) * x.shape[3]), x.dtype)
    return spectrum_products(dft, x.shape, X.shape, x.dtype).multiply(dft.matrix, x, X)


def from_spectrum(dft: Dft, X: np.ndarray, x_shape: tuple[int, ...]) -> np.ndarray:
    """Compute dft.T @ X: (N, rank, S*C) -> (N,H,W,C)."""
    x = np.empty(x_shape, X.dtype)
    return spectrum_products(dft, x_shape, X.shape, X.dtype, adjoint=True).multiply(dft.matrix, X, x)


@functools.lru_cache(maxsize=256)
def spectrum_products(dft: Dft, x_shape, X_shape, dtype, adjoint: bool = False) -> Products:
    """Return the products of `spectrum` or, with `adjoint`, of `from_spectrum`, for all images and panels."""
    (N, H, W, C), (_, rank, X_row) = x_shape, X_shape
    n, c, phase = np.arange(N), panel_starts(C, dtype), np.arange(0, X_row, C)[:, None]
    x_at, X_at = offsets(n * H * W * C, c), phase + offsets(n * rank * X_row, c)
    return dft.adjoint(X_at, X_row, x_at, C) if adjoint else dft.forward(x_at, C, X_at, X_row)


def weight_panels(dft: Dft, w: np.ndarray, length: int, phase_size: int) -> np.ndarray:
    """Compute G @ w in panels: (K,K,rows,columns) -> (rank, panels, length, PANEL).

    The offset between consecutive phases is phase_size.
    """
    w = np.ascontiguousarray(w)
    (rows, columns), width, phases = w.shape[2:], panel_width(w.dtype), len(dft.starts) - 1
    G_w = np.empty((len(dft.matrix), phases * rows * columns // (length * width), length, width), w.dtype)
    return weight_products(dft, rows, columns, length, phase_size, w.dtype).multiply(dft.matrix, w, G_w)


@functools.lru_cache(maxsize=256)
def weight_products(dft: Dft, rows: int, columns: int, length: int, phase_size: int, dtype) -> Products:
    """Return the products of `weight_panels`."""
    row, column, phases = np.arange(rows), panel_starts(columns, dtype), np.arange(len(dft.starts) - 1)[:, None]
    G_at = phases * phase_size + offsets(row * panel_width(dtype), column * length)
    return dft.forward(offsets(row * columns, column), rows * columns, G_at, phases.size * rows * columns)


def spectral_product(X: np.ndarray, G_w: np.ndarray) -> np.ndarray:
    """Compute a matrix product for each r < rank: (N, rank, k), (rank, panels, k, PANEL) -> (N, rank, panels*PANEL)."""
    (N, rank, length), (_, count, _, width) = X.shape, G_w.shape
    Y = np.empty((N, rank, count * width), X.dtype)
    return rank_products(N, rank, length, count, width).multiply(X, G_w, Y)


@functools.lru_cache(maxsize=256)
def rank_products(N: int, rank: int, length: int, count: int, width: int) -> Products:
    """Return the products of `spectral_product`, with `count` panels of `width` columns."""
    n, r, k, panel = np.arange(N), np.arange(rank)[:, None], np.arange(length), np.arange(count)
    return Products(
        Tables(whole_tiles(n * rank * length), k, k * width, whole_tiles(n * rank * count * width)),
        tasks(r * length, (r * count + panel) * length * width, (r * count + panel) * width, (0, N), (0, length)),
    )


@functools.lru_cache(maxsize=256)
def gradient_products(w: Dft, N: int, rank: int, C: int, O: int, dtype) -> tuple[Products, Products]:
    """Return the products dW = X.T @ dY, one for each r < rank, and the products dw = G.T @ dW.

    dW is stored as (S*C, panels, rank, PANEL), so that the second products read contiguous memory. They do only a few
    multiplications for each number that they read, so memory bandwidth limits their speed.
    """
    S, width = len(w.starts) - 1, panel_width(dtype)
    n, r, c, o = np.arange(N), np.arange(rank)[:, None], np.arange(S * C), panel_starts(O, dtype)
    product = Products(
        Tables(whole_tiles(c), n * rank * S * C, n * rank * O, whole_tiles(c * O * rank)),
        tasks(r * S * C, r * O + o, r * width + o * rank, (0, S * C), (0, N)),
    )
    w_at = offsets(np.arange(C) * O, o)
    return product, w.adjoint((w_at + np.arange(S)[:, None] * C * O) * rank, width, w_at, C * O)


def panel_starts(columns: int, dtype) -> np.ndarray:
    """Return the first column of each panel."""
    return np.arange(0, columns, panel_width(dtype))


# The operations that the backend calls --------------------------------------------------------------------------------


def conv2d(x: np.ndarray, w: np.ndarray, stride: int, before: int, P: int, Q: int) -> np.ndarray:
    """Compute the convolution: (N,H,W,C), (K,K,C,O) -> (N,P,Q,O)."""
    (N, H, W, C), (K, _, _, O) = x.shape, w.shape
    transforms = transforms_of((H, W), (P, Q), K, stride, before, x.dtype)
    S = transforms.phases
    X = spectrum(transforms.x, x)  # (N, rank, S*C)
    G_w = weight_panels(transforms.w, w, S * C, C * panel_width(w.dtype))  # (rank, panels, S*C, PANEL)
    return from_spectrum(transforms.y, spectral_product(X, G_w), (N, P, Q, O))


def conv2d_grad_x(dy: np.ndarray, w: np.ndarray, H: int, W: int, stride: int, before: int) -> np.ndarray:
    """Compute the input gradient: (N,P,Q,O), (K,K,C,O) -> (N,H,W,C)."""
    (N, P, Q, _), (K, _, C, O) = dy.shape, w.shape
    transforms = transforms_of((H, W), (P, Q), K, stride, before, dy.dtype)
    dY = spectrum(transforms.y, dy)  # (N, rank, O)
    G_w = weight_panels(transforms.w, w.transpose(0, 1, 3, 2), O, C * O)  # (rank, panels of S*C, O, PANEL)
    return from_spectrum(transforms.x, spectral_product(dY, G_w), (N, H, W, C))


def conv2d_grad_w(dy: np.ndarray, x: np.ndarray, K: int, stride: int, before: int) -> np.ndarray:
    """Compute the weight gradient: (N,P,Q,O), (N,H,W,C) -> (K,K,C,O)."""
    (_, P, Q, O), (_, H, W, C) = dy.shape, x.shape
    transforms = transforms_of((H, W), (P, Q), K, stride, before, dy.dtype)
    X = spectrum(transforms.x, x)  # (N, rank, S*C)
    dY = spectrum(transforms.y, dy)  # (N, rank, O)
    product, adjoint = gradient_products(transforms.w, len(x), transforms.rank, C, O, x.dtype)
    dW = product.multiply(X, dY, np.empty(transforms.phases * C * O * transforms.rank, x.dtype))
    return adjoint.multiply(transforms.w.matrix, dW, np.empty((K, K, C, O), x.dtype))
