"""The passes over memory of the Numba backend: batch norm, activations, dropout, Adam, each read and written once.

`numpy_backend` defines what they compute. Arrays are seen as rows (M, C) or flat. Work is cut into pieces of a fixed
size, and partial sums are added in a fixed order, so that the bits do not depend on the number of threads. Partial sums
run over at most 256 rows in the array's own precision and are added up in float64.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from minigan.backends.contract import GOLDEN, AdamStep, Normalisation
from minigan.backends.numba.parallel import COMPILED, INNER, in_parallel

PIECE = 16384  # numbers: 64 kB of float32, which stays in a core's own cache
ROWS, COLUMNS = 32, 512  # of a piece, where columns have sums; more rows where there are more columns

_GOLDEN, _MIX1, _MIX2 = np.uint64(GOLDEN), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_27, _30, _31, _16, _LOW16 = (np.uint64(k) for k in (27, 30, 31, 16, 0xFFFF))


# Compiled code names what belongs together. Python passes it as plain tuples, because Numba takes several times longer
# to unpack a named tuple, which small passes notice.


class Normal(NamedTuple):
    """A batch norm with its activation, leaky_relu(scale * (x - centre) + shift); (C,) each."""

    scale: np.ndarray
    centre: np.ndarray
    shift: np.ndarray
    slope: np.floating


class Backward(NamedTuple):
    """What the gradient of x takes in each column, (C,) each: see `_gradient`."""

    gamma_inv_std: np.ndarray
    mean_dy: np.ndarray
    mean_dy_xhat_inv_std: np.ndarray


def sum_rows(dy: np.ndarray) -> np.ndarray:
    dy = np.ascontiguousarray(dy)
    return _sum_rows(dy.reshape(-1, side_by_side(dy))).reshape(-1, dy.shape[-1]).sum(axis=0).astype(dy.dtype)


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


def add_bias(y: np.ndarray, b: np.ndarray, slope: float) -> np.ndarray:
    y = np.ascontiguousarray(y)
    M, wide, rows = pieces_of(y)
    _add_bias(y.reshape(M, wide), rows, b, y.dtype.type(slope))
    return y


def bias_grad(dy: np.ndarray, y: np.ndarray, slope: float) -> tuple[np.ndarray, np.ndarray]:
    """Reads dy and y once for both results."""
    if slope == 1:
        return dy, sum_rows(dy)
    dy, y = np.ascontiguousarray(dy), np.ascontiguousarray(y)
    dx, (M, wide, rows) = np.empty_like(dy), pieces_of(dy)
    sums = np.zeros((-(-M // rows), wide), dy.dtype)
    _bias_grad(*(array.reshape(M, wide) for array in (dy, y)), rows, dy.dtype.type(slope), dx.reshape(M, wide), sums)
    return dx, sums.reshape(-1, dy.shape[-1]).sum(axis=0, dtype=np.float64).astype(dy.dtype)


def batchnorm(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, eps: float, slope: float, batch_sum):
    """Reads x once for the statistics and once to write y."""
    x = np.ascontiguousarray(x)
    y, C, (M, wide, rows) = np.empty_like(x), x.shape[-1], pieces_of(x)
    means, squares = np.zeros((2, -(-M // rows), wide), x.dtype)
    _statistics(x.reshape(M, wide), rows, means, squares)
    total, square, count = np.zeros(C), np.zeros(C), batch_sum(x.size // C)
    _add_totals(means, M, rows, total)
    mean64 = batch_sum(total) / count
    _add_squares(means, squares, M, rows, mean64, square)
    mean, var = mean64.astype(x.dtype), (batch_sum(square) / count).astype(x.dtype)
    normal = gamma / np.sqrt(var + eps), mean, beta, x.dtype.type(slope)
    _normalise(x.reshape(M, wide), rows, normal, y.reshape(M, wide))
    return y, mean, var


def batchnorm_grad(dy: np.ndarray, x: np.ndarray, norm: Normalisation, slope: float, batch_sum):
    """Reads dy and x once for dgamma and dbeta and once to write dx.

    Each time the mask of the activation is computed from x, because reading y would take longer.
    """
    dy, x = np.ascontiguousarray(dy), np.ascontiguousarray(x)
    gamma, beta, mean, var, eps = norm
    dx, C, (M, wide, rows) = np.empty_like(dy), x.shape[-1], pieces_of(x)
    slope = x.dtype.type(slope)
    inv_std = (1 / np.sqrt(var + eps)).astype(x.dtype)
    sums = np.zeros((2, -(-M // rows), wide), x.dtype)
    dy, x = dy.reshape(M, wide), x.reshape(M, wide)
    normal = gamma / np.sqrt(var + eps), mean, beta, slope  # as `_normalise` took it
    _gradient_sums(dy, x, rows, normal, inv_std, tuple(sums))
    dgamma, dbeta = sums.reshape(2, -1, C).sum(axis=1, dtype=np.float64).astype(x.dtype)
    count = batch_sum(x.size // C)
    mean_dy, mean_dy_xhat_inv_std = batch_sum(dbeta) / count, batch_sum(dgamma) / count * inv_std
    backward = gamma * inv_std, mean_dy, mean_dy_xhat_inv_std
    _gradient(dy, x, rows, normal, backward, dx.reshape(M, wide))
    return dx, dgamma, dbeta


def pieces_of(x: np.ndarray) -> tuple[int, int, int]:
    """x as (M, wide), with several rows (..., C) side by side, each of which has sums of its own at first; and how many
    such rows make a piece."""
    wide = side_by_side(x)
    return x.size // wide, wide, ROWS * min(-(-wide // COLUMNS), 8)


def side_by_side(x: np.ndarray) -> int:
    """The numbers of as many rows (..., C) as fit into COLUMNS and divide their number: loops over a few channels at a
    time would take longer to begin than to run."""
    C = x.shape[-1]
    return C * (math.gcd(x.size // C, COLUMNS // C or 1) if x.size else 1)


def dropout(x: np.ndarray, threshold: int, stream: int) -> np.ndarray:
    x = np.ascontiguousarray(x)
    y = np.empty_like(x)
    scale = x.dtype.type(65536 / (65536 - threshold))
    _dropout(x.reshape(-1), np.uint64(threshold), np.uint64(stream), scale, y.reshape(-1))
    return y


def adam(w: np.ndarray, dw: np.ndarray, m: np.ndarray, v: np.ndarray, step: AdamStep) -> None:
    """w, m and v are contiguous."""
    lr, beta1, beta2, eps, t = step
    rate, unbias = lr / (1 - beta1**t), 1 / (1 - beta2**t)
    numbers = tuple(map(w.dtype.type, (beta1, 1 - beta1, beta2, 1 - beta2, rate, unbias, eps)))
    _adam(w.reshape(-1), np.ascontiguousarray(dw).reshape(-1), m.reshape(-1), v.reshape(-1), numbers)


# ---------------------------------------------------------------- compiled
#
# The inner loops are functions of their own over 1-D contiguous slices, counted from 0 to the size: in that form LLVM
# sees neither negative indices nor strides, and makes vector code of them.


@njit(**COMPILED)
def _leaky_relu_grad(dy, y, slope, dx):
    """dx = dy where y > 0, else slope * dy."""
    in_parallel(pieces(dy), _leaky_piece, (dy, y, slope, dx))


@njit(**INNER)
def pieces(x):
    """How many pieces a flat array has."""
    return (x.size + PIECE - 1) // PIECE


@njit(**INNER)
def of_piece(piece, x):
    return x[piece * PIECE : min((piece + 1) * PIECE, x.size)]


@njit(**INNER)
def _leaky_piece(piece, dy, y, slope, dx):
    dy, y, dx = of_piece(piece, dy), of_piece(piece, y), of_piece(piece, dx)
    for i in range(dy.size):
        leaked = slope * dy[i]
        dx[i] = dy[i] if y[i] > 0 else leaked


@njit(**COMPILED)
def _adam(w, dw, m, v, numbers):
    in_parallel(pieces(w), _adam_piece, (w, dw, m, v, numbers))


@njit(**INNER)
def _adam_piece(piece, w, dw, m, v, numbers):
    beta1, rest1, beta2, rest2, rate, unbias, eps = numbers
    w, dw, m, v = of_piece(piece, w), of_piece(piece, dw), of_piece(piece, m), of_piece(piece, v)
    for i in range(w.size):
        m[i] = beta1 * m[i] + rest1 * dw[i]
        v[i] = beta2 * v[i] + rest2 * dw[i] * dw[i]
        w[i] -= rate * m[i] / (np.sqrt(unbias * v[i]) + eps)


@njit(**COMPILED)
def _dropout(x, threshold, stream, scale, y):
    """y = x * mask; every whole group of four numbers takes its mask from one 64-bit hash."""
    in_parallel(pieces(x), _dropout_piece, (x, threshold, stream, scale, y))


@njit(**INNER)
def _dropout_piece(piece, x, threshold, stream, scale, y):
    x, y = of_piece(piece, x), of_piece(piece, y)
    hashes = np.empty(PIECE // 4, np.uint64)
    first = stream + np.uint64(piece * (PIECE // 4)) * _GOLDEN
    for q in range(hashes.size):
        z = first + np.uint64(q + 1) * _GOLDEN
        z = (z ^ (z >> _30)) * _MIX1
        z = (z ^ (z >> _27)) * _MIX2
        hashes[q] = z ^ (z >> _31)
    numbers, zero = hashes.view(np.uint16), scale - scale
    for i in range(x.size):
        y[i] = x[i] * (scale if numbers[i] >= threshold else zero)


@njit(**COMPILED)
def _sum_rows(x):
    """(M, C) -> (C,) float64; one thread, because reading takes all the time."""
    M, C = x.shape
    total = np.zeros(C, np.float64)
    for first in range(0, M, ROWS):
        part = np.zeros(C, x.dtype)
        for m in range(first, min(first + ROWS, M)):
            _add(x[m], part)
        _add(part, total)
    return total


@njit(**INNER)
def _repeated(x, size):
    """x (C,) again and again, for rows that lie side by side."""
    y = np.empty(size, x.dtype)
    for first in range(0, size, x.size):
        part = y[first : first + x.size]
        for c in range(x.size):
            part[c] = x[c]
    return y


@njit(**INNER)
def _add(x, total):
    for c in range(x.size):
        total[c] += x[c]


@njit(**INNER)
def blocks(x, rows):
    """How many blocks of `rows` rows and COLUMNS columns x (M, wide) has."""
    M, wide = x.shape
    return (M + rows - 1) // rows * ((wide + COLUMNS - 1) // COLUMNS)


@njit(**INNER)
def place(block, x, rows):
    """Where a block of x (M, wide) lies: the number of its rows among all pieces, its columns (from, to), and where its
    part of each of those rows begins in the flat x."""
    (M, wide), across = x.shape, (x.shape[1] + COLUMNS - 1) // COLUMNS
    piece, left = block // across, block % across * COLUMNS
    begins = range(piece * rows * wide + left, min((piece + 1) * rows, M) * wide + left, wide)
    return piece, left, min(left + COLUMNS, wide), begins


@njit(**COMPILED)
def _add_bias(y, rows, b, slope):
    """y = leaky_relu(y + b)"""
    in_parallel(blocks(y, rows), _add_bias_block, (y, rows, _repeated(b, y.shape[1]), slope))


@njit(**INNER)
def _add_bias_block(block, y, rows, b, slope):
    _, left, right, begins = place(block, y, rows)
    size, y = right - left, y.reshape(-1)
    b = b[left:right]
    for at in begins:
        y_m = y[at : at + size]
        for c in range(y_m.size):
            total = y_m[c] + b[c]
            leaked = slope * total
            y_m[c] = total if total > 0 else leaked


@njit(**COMPILED)
def _bias_grad(dy, y, rows, slope, dx, sums):
    """dx = dy where y > 0, else slope * dy; and each piece's sum of dx."""
    in_parallel(blocks(y, rows), _bias_grad_block, (dy, y, rows, slope, dx, sums))


@njit(**INNER)
def _bias_grad_block(block, dy, y, rows, slope, dx, sums):
    piece, left, right, begins = place(block, y, rows)
    size, dy, y, dx = right - left, dy.reshape(-1), y.reshape(-1), dx.reshape(-1)
    total = sums[piece, left:right]
    for at in begins:
        dy_m, y_m, dx_m = dy[at : at + size], y[at : at + size], dx[at : at + size]
        for c in range(dy_m.size):
            leaked = slope * dy_m[c]
            d = dy_m[c] if y_m[c] > 0 else leaked
            dx_m[c] = d
            total[c] += d


@njit(**COMPILED)
def _statistics(x, rows, means, squares):
    """Each piece's mean and sum of squared deviations from it."""
    in_parallel(blocks(x, rows), _statistics_block, (x, rows, means, squares))


@njit(**INNER)
def _statistics_block(block, x, rows, means, squares):
    piece, left, right, begins = place(block, x, rows)
    size, x = right - left, x.reshape(-1)
    mean, square = means[piece, left:right], squares[piece, left:right]
    for at in begins:
        _add(x[at : at + size], mean)
    _divide(mean, len(begins))
    for at in begins:
        x_m = x[at : at + size]
        for c in range(x_m.size):
            d = x_m[c] - mean[c]
            square[c] += d * d


@njit(**COMPILED)
def _add_totals(means, M, rows, total):
    """total (C,) += the sum of all rows, from the means of the pieces."""
    C, (pieces, wide) = len(total), means.shape
    for piece in range(pieces):
        count = float(min(rows, M - piece * rows))
        for at in range(0, wide, C):
            for c in range(C):
                total[c] += means[piece, at + c] * count


@njit(**COMPILED)
def _add_squares(means, squares, M, rows, mean, square):
    """square (C,) += the squared deviations of all rows from mean, from those of the pieces.

    By Chan's formula: each piece's own sum of squares, and its rows times the square of its
    mean's distance from mean. Nothing cancels.
    """
    C, (pieces, wide) = len(mean), means.shape
    for piece in range(pieces):
        count = float(min(rows, M - piece * rows))
        for at in range(0, wide, C):
            for c in range(C):
                d = means[piece, at + c] - mean[c]
                square[c] += squares[piece, at + c] + d * d * count


@njit(**INNER)
def _divide(total, n):
    for c in range(total.size):
        total[c] /= n


@njit(**INNER)
def _widened(normal, size):
    """A `Normal` whose columns are repeated, for rows that lie side by side."""
    scale, centre, shift, slope = normal
    return Normal(_repeated(scale, size), _repeated(centre, size), _repeated(shift, size), slope)


@njit(**COMPILED)
def _normalise(x, rows, normal, y):
    """y = leaky_relu(scale * (x - centre) + shift)"""
    in_parallel(blocks(x, rows), _normalise_block, (x, rows, _widened(normal, x.shape[1]), y))


@njit(**INNER)
def _normalise_block(block, x, rows, normal, y):
    _, left, right, begins = place(block, x, rows)
    size, x, y, slope = right - left, x.reshape(-1), y.reshape(-1), normal.slope
    scale, centre, shift = normal.scale[left:right], normal.centre[left:right], normal.shift[left:right]
    for at in begins:
        x_m, y_m = x[at : at + size], y[at : at + size]
        for c in range(x_m.size):
            z = scale[c] * (x_m[c] - centre[c]) + shift[c]
            leaked = slope * z
            y_m[c] = z if z > 0 else leaked


@njit(**COMPILED)
def _gradient_sums(dy, x, rows, normal, inv_std, sums):
    """Each piece's dgamma and dbeta, in the two arrays of sums."""
    wide = x.shape[1]
    normal, inv_std = _widened(normal, wide), _repeated(inv_std, wide)
    in_parallel(blocks(x, rows), _sums_block, (dy, x, rows, normal, inv_std, sums))


@njit(**INNER)
def _sums_block(block, dy, x, rows, normal, inv_std, sums):
    piece, left, right, begins = place(block, x, rows)
    size, dy, x, slope = right - left, dy.reshape(-1), x.reshape(-1), normal.slope
    scale, centre, shift = normal.scale[left:right], normal.centre[left:right], normal.shift[left:right]
    inv_std, dgamma, dbeta = inv_std[left:right], sums[0][piece, left:right], sums[1][piece, left:right]
    for at in begins:
        dy_m, x_m = dy[at : at + size], x[at : at + size]
        for c in range(x_m.size):
            off = x_m[c] - centre[c]
            leaked = slope * dy_m[c]
            d = dy_m[c] if scale[c] * off + shift[c] > 0 else leaked
            dgamma[c] += d * (off * inv_std[c])
            dbeta[c] += d


@njit(**COMPILED)
def _gradient(dy, x, rows, normal, backward, dx):
    """dx = gamma_inv_std * (d - mean_dy - (x - centre) * mean_dy_xhat_inv_std), d the gradient behind the leaky ReLU.

    scale, centre and shift decide the mask of the activation.
    """
    wide = x.shape[1]
    gamma_inv_std, mean_dy, mean_dy_xhat_inv_std = backward
    backward = Backward(
        _repeated(gamma_inv_std, wide), _repeated(mean_dy, wide), _repeated(mean_dy_xhat_inv_std, wide)
    )  # fmt: skip
    in_parallel(blocks(x, rows), _gradient_block, (dy, x, rows, _widened(normal, wide), backward, dx))


@njit(**INNER)
def _gradient_block(block, dy, x, rows, normal, backward, dx):
    _, left, right, begins = place(block, x, rows)
    size, dy, x, dx, slope = right - left, dy.reshape(-1), x.reshape(-1), dx.reshape(-1), normal.slope
    scale, centre, shift = normal.scale[left:right], normal.centre[left:right], normal.shift[left:right]
    gamma_inv_std, mean_dy = backward.gamma_inv_std[left:right], backward.mean_dy[left:right]
    mean_dy_xhat_inv_std = backward.mean_dy_xhat_inv_std[left:right]
    for at in begins:
        dy_m, x_m, dx_m = dy[at : at + size], x[at : at + size], dx[at : at + size]
        for c in range(x_m.size):
            off = x_m[c] - centre[c]
            leaked = slope * dy_m[c]
            d = dy_m[c] if scale[c] * off + shift[c] > 0 else leaked
            dx_m[c] = gamma_inv_std[c] * (d - mean_dy[c] - off * mean_dy_xhat_inv_std[c])
