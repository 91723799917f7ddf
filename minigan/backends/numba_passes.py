"""The passes over memory of the Numba backend: batch norm, activations, dropout, Adam, each read and written once.

What they compute stands in `numpy_backend`. Arrays are seen as rows (M, C) or flat. Work is cut into pieces of a fixed
size, and partial sums are added in a fixed order, so that the bits do not depend on the number of threads. Partial sums
run over at most ROWS rows in the array's own precision and are added up in float64.
"""

import math

import numpy as np
from numba import njit, prange

from minigan.backends import GOLDEN, numpy_backend

PIECE = 16384  # numbers: 64 kB of float32, which stays in a core's own cache
ROWS, COLUMNS = 256, 512  # of a piece, where columns have sums
COMPILED = dict(cache=True, error_model="numpy")  # x / 0 is inf as in NumPy, not an exception in every loop

_GOLDEN, _MIX1, _MIX2 = np.uint64(GOLDEN), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_27, _30, _31, _16, _LOW16 = (np.uint64(k) for k in (27, 30, 31, 16, 0xFFFF))


def sum_rows(dy: np.ndarray) -> np.ndarray:
    dy, C = np.ascontiguousarray(dy), dy.shape[-1]
    at_once = math.gcd(dy.size // C, 64 // C or 1) if dy.size else 1  # few columns: several rows side by side
    return _sum_rows(dy.reshape(-1, at_once * C)).reshape(at_once, C).sum(axis=0).astype(dy.dtype)


def leaky_relu(x: np.ndarray, slope: float) -> np.ndarray:
    x = np.ascontiguousarray(x)
    y = np.empty_like(x)
    _leaky_relu_grad(x.reshape(-1), x.reshape(-1), x.dtype.type(slope), y.reshape(-1))
    return y


def leaky_relu_grad(dy: np.ndarray, y: np.ndarray, slope: float) -> np.ndarray:
    dy, y = np.ascontiguousarray(dy), np.ascontiguousarray(y)
    dx = np.empty_like(dy)
    _leaky_relu_grad(dy.reshape(-1), y.reshape(-1), dy.dtype.type(slope), dx.reshape(-1))
    return dx


def batchnorm(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, eps: float, slope: float = 1.0):
    x = np.ascontiguousarray(x)
    y, C = np.empty_like(x), x.shape[-1]
    mean, var = _batchnorm(x.reshape(-1, C), gamma, beta, eps, x.dtype.type(slope), y.reshape(-1, C))
    return y, mean, var


def batchnorm_grad(dy, y, x, gamma, mean, var, eps: float, slope: float = 1.0):
    y = x if slope == 1 else y  # then y makes no difference, and may not be there
    dy, y, x = (np.ascontiguousarray(array) for array in (dy, y, x))
    dx, C = np.empty_like(dy), x.shape[-1]
    inv_std = (1 / np.sqrt(var + eps)).astype(x.dtype)
    dgamma, dbeta = _batchnorm_grad(
        dy.reshape(-1, C), y.reshape(-1, C), x.reshape(-1, C), gamma, mean, inv_std, x.dtype.type(slope),
        dx.reshape(-1, C),
    )  # fmt: skip
    return dx, dgamma, dbeta


def dropout(x: np.ndarray, threshold: int, stream: int) -> np.ndarray:
    x = np.ascontiguousarray(x)
    y = np.empty_like(x)
    scale = x.dtype.type(65536 / (65536 - threshold))
    _dropout(x.reshape(-1), np.uint64(threshold), np.uint64(stream), scale, y.reshape(-1))
    return y


def adam(w, dw, m, v, lr: float, beta1: float, beta2: float, eps: float, t: int) -> None:
    if not (w.flags.c_contiguous and m.flags.c_contiguous and v.flags.c_contiguous):  # reshape would move a copy
        return numpy_backend.adam(w, dw, m, v, lr, beta1, beta2, eps, t)
    step, unbias = lr / (1 - beta1**t), 1 / (1 - beta2**t)
    numbers = [w.dtype.type(number) for number in (beta1, 1 - beta1, beta2, 1 - beta2, step, unbias, eps)]
    _adam(w.reshape(-1), np.ascontiguousarray(dw).reshape(-1), m.reshape(-1), v.reshape(-1), *numbers)


# ---------------------------------------------------------------- compiled
#
# The inner loops are functions of their own over 1-D contiguous slices, counted from 0 to the size: in that form LLVM
# sees neither negative indices nor strides, and makes vector code of them.


@njit(parallel=True, **COMPILED)
def _leaky_relu_grad(dy, y, slope, dx):
    """dx = dy where y > 0, else slope * dy."""
    for piece in prange((dy.size + PIECE - 1) // PIECE):
        p = slice(piece * PIECE, min((piece + 1) * PIECE, dy.size))
        _leaky_piece(dy[p], y[p], slope, dx[p])


@njit(**COMPILED)
def _leaky_piece(dy, y, slope, dx):
    for i in range(dy.size):
        leaked = slope * dy[i]
        dx[i] = dy[i] if y[i] > 0 else leaked


@njit(parallel=True, **COMPILED)
def _adam(w, dw, m, v, beta1, rest1, beta2, rest2, step, unbias, eps):
    for piece in prange((w.size + PIECE - 1) // PIECE):
        p = slice(piece * PIECE, min((piece + 1) * PIECE, w.size))
        _adam_piece(w[p], dw[p], m[p], v[p], beta1, rest1, beta2, rest2, step, unbias, eps)


@njit(**COMPILED)
def _adam_piece(w, dw, m, v, beta1, rest1, beta2, rest2, step, unbias, eps):
    for i in range(w.size):
        m[i] = beta1 * m[i] + rest1 * dw[i]
        v[i] = beta2 * v[i] + rest2 * dw[i] * dw[i]
        w[i] -= step * m[i] / (np.sqrt(unbias * v[i]) + eps)


@njit(parallel=True, **COMPILED)
def _dropout(x, threshold, stream, scale, y):
    """y = x * mask; every whole group of four numbers takes its mask from one 64-bit hash."""
    for piece in prange((x.size + PIECE - 1) // PIECE):
        p = slice(piece * PIECE, min((piece + 1) * PIECE, x.size))
        hashes = np.empty(PIECE // 4, np.uint64)
        _hash_piece(stream + np.uint64(piece * (PIECE // 4)) * _GOLDEN, hashes)
        _mask_piece(x[p], hashes.view(np.uint16), threshold, scale, y[p])


@njit(**COMPILED)
def _hash_piece(stream, hashes):
    for q in range(hashes.size):
        z = stream + np.uint64(q + 1) * _GOLDEN
        z = (z ^ (z >> _30)) * _MIX1
        z = (z ^ (z >> _27)) * _MIX2
        hashes[q] = z ^ (z >> _31)


@njit(**COMPILED)
def _mask_piece(x, numbers, threshold, scale, y):
    zero = scale - scale
    for i in range(x.size):
        y[i] = x[i] * (scale if numbers[i] >= threshold else zero)


@njit(**COMPILED)
def _sum_rows(x):
    """(M, C) -> (C,) float64; one thread, for reading is all it does."""
    M, C = x.shape
    total = np.zeros(C, np.float64)
    for first in range(0, M, ROWS):
        part = np.zeros(C, x.dtype)
        for m in range(first, min(first + ROWS, M)):
            _add(x[m], part)
        _add(part, total)
    return total


@njit(**COMPILED)
def _add(x, total):
    for c in range(x.size):
        total[c] += x[c]


@njit(parallel=True, **COMPILED)
def _batchnorm(x, gamma, beta, eps, slope, y):
    """Reads x once for the statistics (each piece's own mean and squared deviations, then Chan's formula for their
    union: no cancellation) and once to write y. Returns mean and var (C,) in x's dtype."""
    M, C = x.shape
    pieces, blocks = (M + ROWS - 1) // ROWS, (C + COLUMNS - 1) // COLUMNS
    x, y = x.reshape(-1), y.reshape(-1)
    means, squares = np.zeros((pieces, C), x.dtype), np.zeros((pieces, C), x.dtype)
    for task in prange(pieces * blocks):
        piece, left = task // blocks, task % blocks * COLUMNS
        right = min(left + COLUMNS, C)
        rows = range(piece * ROWS, min((piece + 1) * ROWS, M))
        mean_, square_ = means[piece, left:right], squares[piece, left:right]
        for m in rows:
            _add(x[m * C + left : m * C + right], mean_)
        _divide(mean_, len(rows))
        for m in rows:
            _add_square(x[m * C + left : m * C + right], mean_, square_)

    mean, var, scale = np.empty(C, x.dtype), np.empty(C, x.dtype), np.empty(C, x.dtype)
    for c in range(C):
        total, square = 0.0, 0.0  # float64
        for piece in range(pieces):
            total += means[piece, c] * float(min(ROWS, M - piece * ROWS))
        for piece in range(pieces):
            d = means[piece, c] - total / M
            square += squares[piece, c] + d * d * float(min(ROWS, M - piece * ROWS))
        mean[c], var[c] = total / M, square / M
        scale[c] = gamma[c] / np.sqrt(square / M + eps)

    for task in prange(pieces * blocks):
        piece, left = task // blocks, task % blocks * COLUMNS
        right = min(left + COLUMNS, C)
        scale_, mean_, beta_ = scale[left:right], mean[left:right], beta[left:right]
        for m in range(piece * ROWS, min((piece + 1) * ROWS, M)):
            _normalise(x[m * C + left : m * C + right], scale_, mean_, beta_, slope, y[m * C + left : m * C + right])
    return mean, var


@njit(**COMPILED)
def _divide(total, n):
    for c in range(total.size):
        total[c] /= n


@njit(**COMPILED)
def _add_square(x, mean, square):
    for c in range(x.size):
        d = x[c] - mean[c]
        square[c] += d * d


@njit(**COMPILED)
def _normalise(x, scale, mean, beta, slope, y):
    for c in range(x.size):
        normal = scale[c] * (x[c] - mean[c]) + beta[c]
        leaked = slope * normal
        y[c] = normal if normal > 0 else leaked


@njit(parallel=True, **COMPILED)
def _batchnorm_grad(dy, y, x, gamma, mean, inv_std, slope, dx):
    """Reads dy, y and x once for dgamma and dbeta and once to write dx. Returns dgamma and dbeta (C,) in x's dtype."""
    M, C = x.shape
    pieces, blocks = (M + ROWS - 1) // ROWS, (C + COLUMNS - 1) // COLUMNS
    x, y, dy, dx = x.reshape(-1), y.reshape(-1), dy.reshape(-1), dx.reshape(-1)
    dgammas, dbetas = np.zeros((pieces, C), x.dtype), np.zeros((pieces, C), x.dtype)
    for task in prange(pieces * blocks):
        piece, left = task // blocks, task % blocks * COLUMNS
        right = min(left + COLUMNS, C)
        mean_, inv_std_ = mean[left:right], inv_std[left:right]
        dgamma_, dbeta_ = dgammas[piece, left:right], dbetas[piece, left:right]
        for m in range(piece * ROWS, min((piece + 1) * ROWS, M)):
            p = slice(m * C + left, m * C + right)
            _add_grads(dy[p], y[p], x[p], mean_, inv_std_, slope, dgamma_, dbeta_)

    dgamma, dbeta = np.empty(C, x.dtype), np.empty(C, x.dtype)
    shift, tilt, scale = np.empty(C, x.dtype), np.empty(C, x.dtype), np.empty(C, x.dtype)
    for c in range(C):
        total_gamma, total_beta = 0.0, 0.0  # float64
        for piece in range(pieces):
            total_gamma += dgammas[piece, c]
            total_beta += dbetas[piece, c]
        dgamma[c], dbeta[c] = total_gamma, total_beta
        shift[c], tilt[c] = total_beta / M, total_gamma / M * inv_std[c]
        scale[c] = gamma[c] * inv_std[c]

    for task in prange(pieces * blocks):
        piece, left = task // blocks, task % blocks * COLUMNS
        right = min(left + COLUMNS, C)
        mean_, shift_, tilt_, scale_ = mean[left:right], shift[left:right], tilt[left:right], scale[left:right]
        for m in range(piece * ROWS, min((piece + 1) * ROWS, M)):
            p = slice(m * C + left, m * C + right)
            _batchnorm_dx(dy[p], y[p], x[p], mean_, shift_, tilt_, scale_, slope, dx[p])
    return dgamma, dbeta


@njit(**COMPILED)
def _add_grads(dy, y, x, mean, inv_std, slope, dgamma, dbeta):
    for c in range(x.size):
        leaked = slope * dy[c]
        d = dy[c] if y[c] > 0 else leaked
        dgamma[c] += d * ((x[c] - mean[c]) * inv_std[c])
        dbeta[c] += d


@njit(**COMPILED)
def _batchnorm_dx(dy, y, x, mean, shift, tilt, scale, slope, dx):
    for c in range(x.size):
        leaked = slope * dy[c]
        d = dy[c] if y[c] > 0 else leaked
        dx[c] = scale[c] * (d - shift[c] - (x[c] - mean[c]) * tilt[c])
