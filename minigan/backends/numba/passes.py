"""The memory-bound operations of the Numba backend: batch norm, activations, random numbers and Adam.

Each operation reads and writes its arrays as few times as possible. `numpy_backend` defines what the operations
compute. Arrays are treated as rows (M, C) or as flat. Work is divided into pieces of a fixed size and partial sums are
added in a fixed order, so that the bits do not depend on the number of threads. A partial sum covers at most 256 rows
in the precision of the array, and partial sums are added in float64.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from minigan.backends.contract import GOLDEN, AdamStep, Normalisation, Shape
from minigan.backends.numba.parallel import COMPILED, INNER, in_parallel

PIECE = 16384  # numbers: 64 kB of float32, which fits in the private cache of a core
ROWS, COLUMNS = 32, 512  # size of a block if columns are summed; wider arrays have more rows in a block

_GOLDEN, _MIX1, _MIX2 = np.uint64(GOLDEN), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_27, _30, _31, _16, _LOW16 = (np.uint64(k) for k in (27, 30, 31, 16, 0xFFFF))
_1, _8 = np.uint32(1), np.uint32(8)


# Compiled code uses these named tuples. Python passes plain tuples, because Numba takes several times longer to unpack
# a named tuple, which is noticeable for small arrays.


class Forward(NamedTuple):
    """Batch norm and activation: y = leaky_relu(scale * (x - centre) + shift); arrays (C,)."""

    scale: np.ndarray
    centre: np.ndarray
    shift: np.ndarray
    slope: np.floating


class Backward(NamedTuple):
    """The coefficients of each column in the gradient of x, each (C,): see `_gradient`."""

    gamma_inv_std: np.ndarray
    mean_dy: np.ndarray
    mean_dy_xhat_inv_std: np.ndarray


def sum_rows(dy: np.ndarray) -> np.ndarray:
    """Sum over all axes but the last: (..., C) -> (C,)."""
    dy = np.ascontiguousarray(dy)
    return _sum_rows(dy.reshape(-1, wide_row_length(dy))).reshape(-1, dy.shape[-1]).sum(axis=0).astype(dy.dtype)


def leaky_relu(x: np.ndarray, slope: float) -> np.ndarray:
    """Compute y = x where x > 0, else slope * x."""
    x = np.ascontiguousarray(x)
    y = np.empty_like(x)
    _leaky_relu_grad(x.reshape(-1), x.reshape(-1), x.dtype.type(slope), y.reshape(-1))
    return y


def leaky_relu_grad(dy: np.ndarray, y: np.ndarray, slope: float) -> np.ndarray:
    """Compute dx = dy where y > 0, else slope * dy."""
    dy, y = np.ascontiguousarray(dy), np.ascontiguousarray(y)
    dx = np.empty_like(dy)
    _leaky_relu_grad(dy.reshape(-1), y.reshape(-1), dy.dtype.type(slope), dx.reshape(-1))
    return dx


def add_bias(y: np.ndarray, b: np.ndarray, slope: float) -> np.ndarray:
    """Compute leaky_relu(y + b): (..., C), (C,) -> (..., C). Overwrites y if it is contiguous."""
    y = np.ascontiguousarray(y)
    M, wide, rows = row_layout(y)
    _add_bias(y.reshape(M, wide), rows, b, y.dtype.type(slope))
    return y


def bias_grad(dy: np.ndarray, y: np.ndarray, slope: float) -> tuple[np.ndarray, np.ndarray]:
    """Compute the gradients of y + b (..., C) and of b (C,) in leaky_relu(y + b), in one pass over dy and y."""
    if slope == 1:
        return dy, sum_rows(dy)
    dy, y = np.ascontiguousarray(dy), np.ascontiguousarray(y)
    dx, (M, wide, rows) = np.empty_like(dy), row_layout(dy)
    sums = np.zeros((-(-M // rows), wide), dy.dtype)
    _bias_grad(*(array.reshape(M, wide) for array in (dy, y)), rows, dy.dtype.type(slope), dx.reshape(M, wide), sums)
    return dx, sums.reshape(-1, dy.shape[-1]).sum(axis=0, dtype=np.float64).astype(dy.dtype)


def batchnorm(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, eps: float, slope: float, batch_sum):
    """Compute leaky_relu(y), mean and biased variance. x is read twice: for the statistics, then to compute y."""
    x = np.ascontiguousarray(x)
    y, C, (M, wide, rows) = np.empty_like(x), x.shape[-1], row_layout(x)
    means, squares = np.zeros((2, -(-M // rows), wide), x.dtype)
    _statistics(x.reshape(M, wide), rows, means, squares)
    total, square, count = np.zeros(C), np.zeros(C), batch_sum(x.size // C)
    _add_totals(means, M, rows, total)
    mean64 = batch_sum(total) / count
    _add_squares(means, squares, M, rows, mean64, square)
    mean, var = mean64.astype(x.dtype), (batch_sum(square) / count).astype(x.dtype)
    forward = gamma / np.sqrt(var + eps), mean, beta, x.dtype.type(slope)
    _normalise(x.reshape(M, wide), rows, forward, y.reshape(M, wide))
    return y, mean, var


def batchnorm_grad(dy: np.ndarray, x: np.ndarray, norm: Normalisation, slope: float, batch_sum):
    """Compute dx, dgamma and dbeta. dy and x are read twice: for dgamma and dbeta, then for dx.

    Each time the activation mask is computed from x, because reading y would take longer.
    """
    dy, x = np.ascontiguousarray(dy), np.ascontiguousarray(x)
    gamma, beta, mean, var, eps = norm
    dx, C, (M, wide, rows) = np.empty_like(dy), x.shape[-1], row_layout(x)
    slope = x.dtype.type(slope)
    inv_std = (1 / np.sqrt(var + eps)).astype(x.dtype)
    sums = np.zeros((2, -(-M // rows), wide), x.dtype)
    dy, x = dy.reshape(M, wide), x.reshape(M, wide)
    forward = gamma / np.sqrt(var + eps), mean, beta, slope  # the same values as in `batchnorm`
    _gradient_sums(dy, x, rows, forward, inv_std, tuple(sums))
    dgamma, dbeta = sums.reshape(2, -1, C).sum(axis=1, dtype=np.float64).astype(x.dtype)
    count = batch_sum(x.size // C)
    mean_dy, mean_dy_xhat_inv_std = batch_sum(dbeta) / count, batch_sum(dgamma) / count * inv_std
    backward = gamma * inv_std, mean_dy, mean_dy_xhat_inv_std
    _gradient(dy, x, rows, forward, backward, dx.reshape(M, wide))
    return dx, dgamma, dbeta


def row_layout(x: np.ndarray) -> tuple[int, int, int]:
    """Return (M, wide, rows): x is treated as M rows of `wide` numbers, and a block has `rows` of them.

    A wide row consists of several rows (..., C). Each of these has separate partial sums.
    """
    wide = wide_row_length(x)
    return x.size // wide, wide, ROWS * min(-(-wide // COLUMNS), 8)


def wide_row_length(x: np.ndarray) -> int:
    """Return the length of a wide row, which consists of as many rows (..., C) as fit into COLUMNS.

    Their number must divide the number of rows. Loops over only a few channels would spend most of their time on
    starting.
    """
    C = x.shape[-1]
    return C * (math.gcd(x.size // C, COLUMNS // C or 1) if x.size else 1)


def dropout(x: np.ndarray, threshold: int, stream: int) -> np.ndarray:
    """Compute y = x * mask * 65536 / (65536 - threshold), with the mask of the reference."""
    x = np.ascontiguousarray(x)
    y = np.empty_like(x)
    scale = x.dtype.type(65536 / (65536 - threshold))
    _dropout(x.reshape(-1), np.uint64(threshold), np.uint64(stream), scale, y.reshape(-1))
    return y


def uniform(shape: Shape, stream: int, dtype: Any) -> np.ndarray:
    """Compute the random numbers between 0 and 1 of the reference: an array of `shape`."""
    u = np.empty(shape, dtype)
    _uniform(u.reshape(-1), np.uint64(stream), u.dtype.type(2**-24))
    return u


def adam(w: np.ndarray, dw: np.ndarray, m: np.ndarray, v: np.ndarray, step: AdamStep) -> None:
    """Make one step of Adam: update w, m and v in place. They must be contiguous."""
    lr, beta1, beta2, eps, t = step
    rate, unbias = lr / (1 - beta1**t), 1 / (1 - beta2**t)
    numbers = tuple(map(w.dtype.type, (beta1, 1 - beta1, beta2, 1 - beta2, rate, unbias, eps)))
    _adam(w.reshape(-1), np.ascontiguousarray(dw).reshape(-1), m.reshape(-1), v.reshape(-1), numbers)


# ---------------------------------------------------------------- compiled
#
# Each inner loop runs over 1-D contiguous slices, with an index from 0 to the size. In this form LLVM sees neither
# negative indices nor strides, so it vectorises the loop.


@njit(**COMPILED)
def _leaky_relu_grad(dy, y, slope, dx):
    """Compute dx = dy where y > 0, else slope * dy."""
    in_parallel(pieces(dy), _leaky_piece, (dy, y, slope, dx))


@njit(**INNER)
def pieces(x):
    """Return the number of pieces of a flat array."""
    return (x.size + PIECE - 1) // PIECE


@njit(**INNER)
def slice_of(piece, x):
    """Return a piece of a flat array as a view."""
    return x[piece * PIECE : min((piece + 1) * PIECE, x.size)]


@njit(**INNER)
def _leaky_piece(piece, dy, y, slope, dx):
    dy, y, dx = slice_of(piece, dy), slice_of(piece, y), slice_of(piece, dx)
    for i in range(dy.size):
        leaked = slope * dy[i]
        dx[i] = dy[i] if y[i] > 0 else leaked


@njit(**COMPILED)
def _adam(w, dw, m, v, numbers):
    """Update w, m and v; `numbers` are the constants that `_adam_piece` unpacks."""
    in_parallel(pieces(w), _adam_piece, (w, dw, m, v, numbers))


@njit(**INNER)
def _adam_piece(piece, w, dw, m, v, numbers):
    beta1, one_minus_beta1, beta2, one_minus_beta2, rate, unbias, eps = numbers
    w, dw, m, v = slice_of(piece, w), slice_of(piece, dw), slice_of(piece, m), slice_of(piece, v)
    for i in range(w.size):
        m[i] = beta1 * m[i] + one_minus_beta1 * dw[i]
        v[i] = beta2 * v[i] + one_minus_beta2 * dw[i] * dw[i]
        w[i] -= rate * m[i] / (np.sqrt(unbias * v[i]) + eps)


@njit(**COMPILED)
def _dropout(x, threshold, stream, scale, y):
    """Compute y = x * mask * scale. One 64-bit hash provides the mask of four consecutive numbers."""
    in_parallel(pieces(x), _dropout_piece, (x, threshold, stream, scale, y))


@njit(**INNER)
def _dropout_piece(piece, x, threshold, stream, scale, y):
    x, y = slice_of(piece, x), slice_of(piece, y)
    numbers, zero = _hashes(piece, PIECE // 4, stream).view(np.uint16), scale - scale
    for i in range(x.size):
        y[i] = x[i] * (scale if numbers[i] >= threshold else zero)


@njit(**INNER)
def _hashes(piece, count, stream):
    """Return the hashes of a piece of the stream, `count` in each piece: uint64 (count,)."""
    hashes = np.empty(count, np.uint64)
    first = stream + np.uint64(piece * count) * _GOLDEN
    for q in range(count):
        z = first + np.uint64(q + 1) * _GOLDEN
        z = (z ^ (z >> _30)) * _MIX1
        z = (z ^ (z >> _27)) * _MIX2
        hashes[q] = z ^ (z >> _31)
    return hashes


@njit(**COMPILED)
def _uniform(u, stream, scale):
    """Compute u = (2 * floor(b / 512) + 1) * scale. One 64-bit hash provides two consecutive 32-bit numbers b."""
    in_parallel(pieces(u), _uniform_piece, (u, stream, scale))


@njit(**INNER)
def _uniform_piece(piece, u, stream, scale):
    u = slice_of(piece, u)
    b = _hashes(piece, PIECE // 2, stream).view(np.uint32)
    for i in range(u.size):
        u[i] = np.int32(b[i] >> _8 | _1) * scale


@njit(**COMPILED)
def _sum_rows(x):
    """Sum rows: (M, C) -> (C,) in float64. One thread is enough, because the speed is limited by memory."""
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
    """Repeat x (C,) up to `size`, the length of a wide row."""
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
    """Return the number of blocks of `rows` rows and COLUMNS columns in x (M, wide)."""
    M, wide = x.shape
    return (M + rows - 1) // rows * ((wide + COLUMNS - 1) // COLUMNS)


@njit(**INNER)
def block_bounds(block, x, rows):
    """Return the bounds of a block of x (M, wide).

    They are the index of its group of rows, its first and last column (exclusive), and the offset in the flat x at
    which each row of the block starts.
    """
    (M, wide), across = x.shape, (x.shape[1] + COLUMNS - 1) // COLUMNS
    piece, left = block // across, block % across * COLUMNS
    starts = range(piece * rows * wide + left, min((piece + 1) * rows, M) * wide + left, wide)
    return piece, left, min(left + COLUMNS, wide), starts


@njit(**COMPILED)
def _add_bias(y, rows, b, slope):
    """Compute y = leaky_relu(y + b) in place."""
    in_parallel(blocks(y, rows), _add_bias_block, (y, rows, _repeated(b, y.shape[1]), slope))


@njit(**INNER)
def _add_bias_block(block, y, rows, b, slope):
    _, left, right, starts = block_bounds(block, y, rows)
    size, y = right - left, y.reshape(-1)
    b = b[left:right]
    for at in starts:
        y_m = y[at : at + size]
        for c in range(y_m.size):
            total = y_m[c] + b[c]
            leaked = slope * total
            y_m[c] = total if total > 0 else leaked


@njit(**COMPILED)
def _bias_grad(dy, y, rows, slope, dx, sums):
    """Compute dx = dy where y > 0, else slope * dy, and the sum of dx over each group of rows."""
    in_parallel(blocks(y, rows), _bias_grad_block, (dy, y, rows, slope, dx, sums))


@njit(**INNER)
def _bias_grad_block(block, dy, y, rows, slope, dx, sums):
    piece, left, right, starts = block_bounds(block, y, rows)
    size, dy, y, dx = right - left, dy.reshape(-1), y.reshape(-1), dx.reshape(-1)
    total = sums[piece, left:right]
    for at in starts:
        dy_m, y_m, dx_m = dy[at : at + size], y[at : at + size], dx[at : at + size]
        for c in range(dy_m.size):
            leaked = slope * dy_m[c]
            d = dy_m[c] if y_m[c] > 0 else leaked
            dx_m[c] = d
            total[c] += d


@njit(**COMPILED)
def _statistics(x, rows, means, squares):
    """Compute the mean of each group of rows and the sum of squared deviations from it."""
    in_parallel(blocks(x, rows), _statistics_block, (x, rows, means, squares))


@njit(**INNER)
def _statistics_block(block, x, rows, means, squares):
    piece, left, right, starts = block_bounds(block, x, rows)
    size, x = right - left, x.reshape(-1)
    mean, square = means[piece, left:right], squares[piece, left:right]
    for at in starts:
        _add(x[at : at + size], mean)
    _divide(mean, len(starts))
    for at in starts:
        x_m = x[at : at + size]
        for c in range(x_m.size):
            d = x_m[c] - mean[c]
            square[c] += d * d


@njit(**COMPILED)
def _add_totals(means, M, rows, total):
    """Add the sum of all rows to total (C,), computed from the means of the groups of rows."""
    C, (pieces, wide) = len(total), means.shape
    for piece in range(pieces):
        count = float(min(rows, M - piece * rows))
        for at in range(0, wide, C):
            for c in range(C):
                total[c] += means[piece, at + c] * count


@njit(**COMPILED)
def _add_squares(means, squares, M, rows, mean, square):
    """Add the squared deviations of all rows from `mean` to square (C,), computed from those of the groups of rows.

    Chan's formula adds, for each group, its sum of squared deviations and its number of rows times
    (mean of the group - mean)^2. All terms are positive, so no digits are lost by cancellation.
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
def _repeated_columns(forward, size):
    """Repeat the arrays of a `Forward` up to `size`, the length of a wide row."""
    scale, centre, shift, slope = forward
    return Forward(_repeated(scale, size), _repeated(centre, size), _repeated(shift, size), slope)


@njit(**COMPILED)
def _normalise(x, rows, forward, y):
    """Compute y = leaky_relu(scale * (x - centre) + shift)."""
    in_parallel(blocks(x, rows), _normalise_block, (x, rows, _repeated_columns(forward, x.shape[1]), y))


@njit(**INNER)
def _normalise_block(block, x, rows, forward, y):
    _, left, right, starts = block_bounds(block, x, rows)
    size, x, y, slope = right - left, x.reshape(-1), y.reshape(-1), forward.slope
    scale, centre, shift = forward.scale[left:right], forward.centre[left:right], forward.shift[left:right]
    for at in starts:
        x_m, y_m = x[at : at + size], y[at : at + size]
        for c in range(x_m.size):
            z = scale[c] * (x_m[c] - centre[c]) + shift[c]
            leaked = slope * z
            y_m[c] = z if z > 0 else leaked


@njit(**COMPILED)
def _gradient_sums(dy, x, rows, forward, inv_std, sums):
    """Compute dgamma and dbeta of each group of rows, and store them in the two arrays of `sums`."""
    wide = x.shape[1]
    forward, inv_std = _repeated_columns(forward, wide), _repeated(inv_std, wide)
    in_parallel(blocks(x, rows), _sums_block, (dy, x, rows, forward, inv_std, sums))


@njit(**INNER)
def _sums_block(block, dy, x, rows, forward, inv_std, sums):
    piece, left, right, starts = block_bounds(block, x, rows)
    size, dy, x, slope = right - left, dy.reshape(-1), x.reshape(-1), forward.slope
    scale, centre, shift = forward.scale[left:right], forward.centre[left:right], forward.shift[left:right]
    inv_std, dgamma, dbeta = inv_std[left:right], sums[0][piece, left:right], sums[1][piece, left:right]
    for at in starts:
        dy_m, x_m = dy[at : at + size], x[at : at + size]
        for c in range(x_m.size):
            centred = x_m[c] - centre[c]
            leaked = slope * dy_m[c]
            d = dy_m[c] if scale[c] * centred + shift[c] > 0 else leaked
            dgamma[c] += d * (centred * inv_std[c])
            dbeta[c] += d


@njit(**COMPILED)
def _gradient(dy, x, rows, forward, backward, dx):
    """Compute dx = gamma_inv_std * (d - mean_dy - (x - centre) * mean_dy_xhat_inv_std).

    d is dy multiplied by the derivative of the leaky ReLU, whose mask is computed from scale, centre and shift.
    """
    wide = x.shape[1]
    gamma_inv_std, mean_dy, mean_dy_xhat_inv_std = backward
    backward = Backward(
        _repeated(gamma_inv_std, wide), _repeated(mean_dy, wide), _repeated(mean_dy_xhat_inv_std, wide)
    )  # fmt: skip
    in_parallel(blocks(x, rows), _gradient_block, (dy, x, rows, _repeated_columns(forward, wide), backward, dx))


@njit(**INNER)
def _gradient_block(block, dy, x, rows, forward, backward, dx):
    _, left, right, starts = block_bounds(block, x, rows)
    size, dy, x, dx, slope = right - left, dy.reshape(-1), x.reshape(-1), dx.reshape(-1), forward.slope
    scale, centre, shift = forward.scale[left:right], forward.centre[left:right], forward.shift[left:right]
    gamma_inv_std, mean_dy = backward.gamma_inv_std[left:right], backward.mean_dy[left:right]
    mean_dy_xhat_inv_std = backward.mean_dy_xhat_inv_std[left:right]
    for at in starts:
        dy_m, x_m, dx_m = dy[at : at + size], x[at : at + size], dx[at : at + size]
        for c in range(x_m.size):
            centred = x_m[c] - centre[c]
            leaked = slope * dy_m[c]
            d = dy_m[c] if scale[c] * centred + shift[c] > 0 else leaked
            dx_m[c] = gamma_inv_std[c] * (d - mean_dy[c] - centred * mean_dy_xhat_inv_std[c])
