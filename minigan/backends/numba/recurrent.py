"""Run GRU and LSTM over all steps, forward and backward, for the Numba backend.

A step needs the state of the step before, so the steps cannot run at the same time. The sequences of a
batch can: a task is a block of BLOCK sequences, and goes through all of their steps without waiting for
other threads. In each step it multiplies its states with w_h by the register tile of `microkernel`, and
computes the gates from the products while these are in the cache.

The products that need no state are computed for CHUNK steps at once: the inputs with w_x before these
steps, and on the way back the gradients of x and of the weights after them. Their results are used, or
added to the gradients of the block, while they are in the cache. With one product for all T steps, they
would be written to memory and read again, which takes longer than the product (README.md).

exp. The gates of float32 use `expm1`, a polynomial that the compiler computes for a vector of numbers at
once. The function of the C library takes one number at a time, which took longer than the products.

The bits do not depend on the number of threads: BLOCK and CHUNK are constants, one thread sums each
number in a fixed order, and the sums of the blocks are added in the order of the blocks.
"""

import functools
import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit, types
from numba.extending import overload

from minigan.backends.contract import RecurrentGradients, RecurrentWeights
from minigan.backends.numba import microkernel
from minigan.backends.numba.microkernel import PANEL_BYTES, REGISTERS
from minigan.backends.numba.parallel import COMPILED, INNER, in_parallel

BLOCK = 16  # sequences of a task
CHUNK = 8  # steps whose products are computed at once
ROWS = 8 if REGISTERS == 32 else 4  # of a tile; BLOCK is a multiple of it
LINE = 64  # bytes: a line of the cache. Rows that are a power of two apart would all compete for a few lines
GATES: dict[str, Any] = INNER | dict(fastmath={"contract"})  # products and sums may become FMAs

block_tile = microkernel.tile_of(ROWS)


class Tables(NamedTuple):
    """Offsets for the tile: `microkernel` explains them. Row r = s * BLOCK + i of a chunk is step s of sequence i."""

    units: np.ndarray  # 0, 1, 2, ...: unit j of a state, or feature j of an input
    panels: np.ndarray  # step k of a factor in panels, k * width
    chunk_v: np.ndarray  # row r of the products of a chunk
    chunk_d: np.ndarray  # row r of the gradients of a chunk
    chunk_dx: np.ndarray  # row r of the dx of a chunk
    chunk_h: np.ndarray  # row r of the states of a chunk
    block_h: np.ndarray  # row i of the states of a block
    block_back: np.ndarray  # row i of the gradients of the states
    of_x: np.ndarray  # the columns of the gradients of a chunk that belong to w_x, in the order of w_x
    of_h: np.ndarray  # and those that belong to w_h
    rows_h: np.ndarray  # unit j of dw_h, whole tiles
    out_h: np.ndarray
    rows_x: np.ndarray  # feature j of dw_x, whole tiles
    out_x: np.ndarray


class Sizes(NamedTuple):
    """Lengths of rows, in whole panels of the tile where they are written by it."""

    v: int  # of the products of a chunk, at least G
    d: int  # of the gradients of a chunk
    dx: int  # at least F
    back: int  # at least H


def gru(x: np.ndarray, weights: RecurrentWeights, start: np.ndarray, m: np.ndarray | None):
    """Compute the states y (N, T, H) of a GRU, and what `gru_grad` needs."""
    x, start, m, masked = prepared(x, start, m)
    (N, T, F), H = x.shape, len(weights.w_h)
    y, gates = np.empty((N, T, H), x.dtype), np.empty((N, T, 4 * H), x.dtype)
    tables, sizes = plan(F, H, 3, x.dtype)
    buffers = scratch(y, CHUNK * BLOCK * sizes.v, BLOCK * sizes.v, BLOCK * H)
    b = np.concatenate([weights.b_x[: 2 * H] + weights.b_h[: 2 * H], weights.b_x[2 * H :], weights.b_h[2 * H :]])
    w = panels(weights.w_x), panels(weights.w_h)
    _gru((x, start, m, masked), w, b, (tables, tuple(sizes)), buffers, y, gates)
    return y, (x, start, y, gates)


def gru_grad(
    dy: np.ndarray, saved: tuple[np.ndarray, ...], weights: RecurrentWeights, m, need_dx: bool, need_grads: bool
):
    """Compute the gradients of the arguments of `gru`."""
    x, start, y, gates = saved
    H, back = y.shape[2], Back(dy, x, start, y, m, weights, 3, need_dx, need_grads)
    _gru_grad(gates, *back.arguments(1))
    dw_x, dw_h, sums = back.of_weights()
    dweights = None
    if need_grads:  # the columns of the chunks are in the order n, r, z of v, and n of q
        dw_x = np.concatenate([dw_x[:, H:], dw_x[:, :H]], axis=1)
        b_x = np.concatenate([sums[H : 3 * H], sums[:H]])
        dweights = RecurrentWeights(dw_x, dw_h, b_x, sums[H:].copy())
    return RecurrentGradients(back.dx if need_dx else None, dweights, back.dstart, back.dm if back.masked else None)


def lstm(x: np.ndarray, weights: RecurrentWeights, start: np.ndarray, m: np.ndarray | None):
    """Compute the outputs y (N, T, H) of an LSTM, and what `lstm_grad` needs."""
    x, start, m, masked = prepared(x, start, m)
    (N, T, F), H = x.shape, len(weights.w_h)
    y, cells, gates = (np.empty((N, T, size), x.dtype) for size in (H, H, 4 * H))
    tables, sizes = plan(F, H, 4, x.dtype)
    buffers = scratch(y, CHUNK * BLOCK * sizes.v, BLOCK * sizes.v, BLOCK * H, BLOCK * H)
    w = panels(weights.w_x), panels(weights.w_h)
    b = weights.b_x + weights.b_h
    _lstm((x, start, m, masked), w, b, (tables, tuple(sizes)), buffers, y, cells, gates)
    return y, (x, start, y, cells, gates)


def lstm_grad(
    dy: np.ndarray, saved: tuple[np.ndarray, ...], weights: RecurrentWeights, m, need_dx: bool, need_grads: bool
):
    """Compute the gradients of the arguments of `lstm`."""
    x, start, y, cells, gates = saved
    back = Back(dy, x, start, y, m, weights, 4, need_dx, need_grads)
    _lstm_grad(cells, gates, *back.arguments(4))
    dw_x, dw_h, db = back.of_weights()
    dweights = RecurrentWeights(dw_x, dw_h, db, db.copy()) if need_grads else None
    return RecurrentGradients(back.dx if need_dx else None, dweights, back.dstart, back.dm if back.masked else None)


class Back:
    """The arguments and results that both backward passes share."""

    def __init__(self, dy, x, start, y, m, weights: RecurrentWeights, gates: int, need_dx: bool, need_grads: bool):
        (N, T, F), H, dtype = x.shape, y.shape[2], y.dtype
        self.given, self.y, self.weights, self.H, self.gates = (
            (np.ascontiguousarray(dy), x, start),
            y,
            weights,
            H,
            gates,
        )
        self.m, self.masked = mask_of(m, dtype)
        self.tables, self.sizes = plan(F, H, gates, dtype)
        self.dx = np.empty((N, T, F) if need_dx else (0, T, F), dtype)
        self.dstart, self.dm = np.empty_like(start), np.empty(self.m.shape, dtype)
        tasks = tasks_of(y) if need_grads else 0
        self.dw_x, self.dw_h = (np.zeros((tasks, size * self.sizes.v), dtype) for size in (F, H))
        self.sums = np.zeros((tasks_of(y), 4 * H))  # of the rows of a chunk; partial sums are added in float64

    def arguments(self, states: int) -> tuple:
        """Return the last arguments of the compiled loops: inputs, factors in panels, plan, results, scratch buffers.

        The buffers are d, dx and h of a chunk, the gradients of the states, sums, and `states` others like the states.
        """
        inputs = *self.given, self.y, self.m, self.masked
        w = panels(self.weights.w_x.T), panels(self.weights.w_h.T)
        results = self.dx, self.dstart, self.dm, self.dw_x, self.dw_h, self.sums
        rows, sizes, H = CHUNK * BLOCK, self.sizes, self.H
        others = [BLOCK * H] * states
        buffers = scratch(self.y, rows * sizes.d, rows * sizes.dx, rows * H, BLOCK * sizes.back, 4 * H, *others)
        return inputs, w, (self.tables, tuple(sizes)), results, buffers

    def of_weights(self) -> tuple[Any, Any, np.ndarray]:
        """Return dw_x (F, G), dw_h (H, G) and the sums (4 H,) of all tasks, added in the order of the tasks."""
        G, F, H = self.gates * self.H, self.given[1].shape[2], self.H
        dw_x, dw_h = (
            dw.sum(axis=0).reshape(size, -1)[:, :G].copy() if len(dw) else None
            for dw, size in ((self.dw_x, F), (self.dw_h, H))
        )
        return dw_x, dw_h, self.sums.sum(axis=0).astype(self.y.dtype)


def prepared(x, start, m) -> tuple[np.ndarray, np.ndarray, np.ndarray, bool]:
    """Return x and the initial state in C order, the mask as an array, and whether there is one."""
    return (np.ascontiguousarray(x), np.ascontiguousarray(start), *mask_of(m, x.dtype))


def mask_of(m: np.ndarray | None, dtype) -> tuple[np.ndarray, bool]:
    """Return the mask in C order, or an empty array, and whether there is a mask."""
    return (np.zeros((0, 0), dtype), False) if m is None else (np.ascontiguousarray(m), True)


def tasks_of(y: np.ndarray) -> int:
    """Return the number of blocks of y (N, T, H)."""
    return -(-len(y) // BLOCK)


def scratch(y: np.ndarray, *sizes: int) -> tuple[np.ndarray, ...]:
    """Return a scratch buffer (tasks, size) for each size, filled with zeros.

    They are arguments of the compiled loops, and not allocated there, because the compiler knows only of arguments that
    they do not overlap. It computes loops over many arrays with vectors only if it knows that.
    """
    tasks, line, buffers = tasks_of(y), LINE // y.itemsize, []
    lengths = [tasks * size + 5 * line for size in sizes]
    flat, start = np.zeros(sum(lengths), y.dtype), 0
    for size, length in zip(sizes, lengths, strict=True):
        buffers.append(flat[start : start + tasks * size].reshape(tasks, size))
        start += length
    return tuple(buffers)


def panels(w: np.ndarray) -> np.ndarray:
    """Return w (K, N), which may be transposed, as flat panels (panels, K, width) with zeros after the last column."""
    (K, N), width = w.shape, microkernel.panel_width(w.dtype)
    packed = np.empty((-(-N // width), K, width), w.dtype)
    w = w if w.flags.c_contiguous or w.T.flags.c_contiguous else np.ascontiguousarray(w)
    row, column = (stride // w.itemsize for stride in w.strides)
    microkernel.pack(w.ravel(order="K"), row, column, K, N, packed)
    return packed.ravel()


@functools.lru_cache(maxsize=64)
def plan(F: int, H: int, gates: int, dtype) -> tuple[tuple[np.ndarray, ...], Sizes]:
    """Return the fields of Tables as a plain tuple, which compiled functions unpack faster, and the sizes.

    The gradients of a row of a chunk are those of the four parts of q for an LSTM. For a GRU they are those of v_n, r,
    z and q_n. So the first three parts belong to w_x, and the last three to w_h, in its order.
    """
    whole, G = functools.partial(microkernel.whole_columns, dtype=dtype), gates * H
    v, dx, back = whole(G), whole(F), whole(H)
    d = v + (H if gates == 3 else 0) + LINE // np.dtype(dtype).itemsize
    chunk, block = np.arange(CHUNK * BLOCK), np.arange(BLOCK)
    of_x = np.roll(np.arange(G), -H) if gates == 3 else np.arange(G)
    rows_h, rows_x = (np.minimum(np.arange(-(-size // ROWS) * ROWS), size - 1) for size in (H, F))
    offsets = (
        np.arange(max(H, F)), np.arange(max(G, F)) * microkernel.panel_width(dtype),
        chunk * v, chunk * d, chunk * dx, chunk * H, block * H, block * back,
        of_x, np.arange(G) + (H if gates == 3 else 0), rows_h, rows_h * v, rows_x, rows_x * v,
    )  # fmt: skip
    return tuple(Tables(*offsets)), Sizes(v, d, dx, back)


# ---------------------------------------------------------------- compiled: functions

LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(math.log(2) - 0.693359375)  # the first one has 9 bits
LOG2_E, ONE, LARGEST = np.float32(1 / math.log(2)), np.float32(1), np.float32(87)
C2, C3, C4, C5, C6, C7 = (np.float32(1 / math.factorial(n)) for n in range(2, 8))
ROUNDING = np.float32(1.5 * 2**23)  # a number to which this was added has no bits for fractions
BIAS, SHIFT = np.int32(127), np.int32(23)  # of the exponent of a float32


def expm1(x):
    """Compute exp(x) - 1 for one number, which is first limited to +-87, so that nothing overflows."""
    raise NotImplementedError  # compiled code uses the functions below


@overload(expm1, jit_options=dict(error_model="numpy", fastmath={"contract"}))
def _expm1_for(x):
    """Return the function for the type of x.

    In float32, exp(x) = 2^k exp(r) with an integer k and |r| <= log(2) / 2. The Taylor polynomial of exp(r) - 1 up to
    r^7 has a relative error of 2e-8. 2^k is computed by writing its exponent. The 1 is subtracted before anything is
    rounded, so that a small x keeps all digits.
    """
    if x != types.float32:
        return lambda x: math.expm1(min(max(x, -87.0), 87.0))

    def compute(x):
        x = min(max(x, -LARGEST), LARGEST)
        k = (x * LOG2_E + ROUNDING) - ROUNDING  # rounds to an integer
        r = x - k * LN2_HIGH - k * LN2_LOW
        p = r + r * r * (C2 + r * (C3 + r * (C4 + r * (C5 + r * (C6 + r * C7)))))  # exp(r) - 1
        power = np.int32((np.int32(k) + BIAS) << SHIFT).view(np.float32)  # 2^k
        return power * p + (power - ONE)

    return compute


@njit(**GATES)
def sigmoid(x, one):
    """Compute 1 / (1 + exp(-x)). `one` is the 1 of the type of x."""
    return one / (expm1(-x) + one + one)


@njit(**GATES)
def tanh(x, one):
    """Compute tanh(x) = e / (e + 2) with e = exp(2 x) - 1."""
    e = expm1(x + x)
    return e / (e + one + one)


@njit(**INNER)
def multiply(x, x_at, rows, count, steps, w, w_steps, columns, y, out):
    """Compute y[out[r], o] = sum_k x[x_at + rows[r] + steps[k]] w[k, o] for the first `count` rows, in whole tiles.

    x and y are flat, and w is in panels.
    """
    K, width = steps.size, PANEL_BYTES // x.itemsize
    for o in range(0, columns, width):
        for r in range(0, count, ROWS):
            block_tile(x, x_at, rows, r, steps, 0, K, w, o * K, w_steps, y, o, out, False)


@njit(**INNER)
def add_products(x, x_at, rows, steps, K, d, d_at, d_steps, columns, dw, out):
    """Add the weight gradient of K rows of a chunk to dw: dw[out[j], o] += sum_r x[x_at + rows[j] + steps[r]] d[r, o].

    All arrays are flat. Columns of d start at d_at.
    """
    width = PANEL_BYTES // x.itemsize
    for o in range(0, columns, width):
        for j in range(0, rows.size, ROWS):
            block_tile(x, x_at, rows, j, steps, 0, K, d, d_at + o, d_steps, dw, o, out, True)


@njit(**INNER)
def rows_of_chunk(count, along, across, rows):
    """Fill rows with the offsets of a chunk in an array (N, T, ...): row s * BLOCK + i is step s of sequence i.

    Steps are `along` numbers apart, and sequences `across`. Rows of sequences that do not exist are those of the last.
    """
    for s in range(CHUNK):
        for i in range(BLOCK):
            rows[s * BLOCK + i] = min(i, count - 1) * across + s * along


# ---------------------------------------------------------------- compiled: loops over time


@njit(**COMPILED)
def _gru(inputs, w, b, plan, buffers, y, gates):
    """Compute y and the gates r, z, n and q_n of all steps."""
    in_parallel(len(buffers[0]), _gru_block, (inputs, w, b, plan, buffers, y, gates))


@njit(**GATES)
def _gru_block(task, inputs, w, b, plan, buffers, y, gates):
    (x, start, m, masked), (tables, sizes), (v, q, h) = inputs, plan, buffers
    (N, T, H), F, one, first = y.shape, x.shape[2], x.dtype.type(1), task * BLOCK
    (w_x, w_h), units, w_steps, chunk_v, block_h, V = w, tables[0], tables[1], tables[2], tables[6], sizes[0]
    v, q, h, x, count = v[task], q[task], h[task], x.reshape(-1), min(BLOCK, N - first)
    x_rows = np.empty(CHUNK * BLOCK, np.int64)
    rows_of_chunk(count, F, T * F, x_rows)
    for i in range(count):
        h[i * H : (i + 1) * H] = start[first + i]
    for t_0 in range(0, T, CHUNK):
        steps = min(CHUNK, T - t_0)
        multiply(x, (first * T + t_0) * F, x_rows, steps * BLOCK, units[:F], w_x, w_steps, V, v, chunk_v)
        for s in range(steps):
            multiply(h, 0, block_h, BLOCK, units[:H], w_h, w_steps, V, q, chunk_v)
            for i in range(count):
                n, t = first + i, t_0 + s
                v_i, q_i, h_i = v[(s * BLOCK + i) * V :][: 3 * H], q[i * V :][: 3 * H], h[i * H :][:H]
                gates_t, y_t = gates[n, t], y[n, t]
                for j in range(2 * H):
                    gates_t[j] = sigmoid(v_i[j] + q_i[j] + b[j], one)
                r, z, new, q_n = gates_t[:H], gates_t[H : 2 * H], gates_t[2 * H : 3 * H], gates_t[3 * H :]
                v_n, q_in, b_v, b_q = v_i[2 * H :], q_i[2 * H :], b[2 * H : 3 * H], b[3 * H :]
                for j in range(H):
                    q_n[j] = q_in[j] + b_q[j]
                for j in range(H):
                    new[j] = tanh(v_n[j] + b_v[j] + r[j] * q_n[j], one)
                if masked:
                    mask = m[n, t]
                    for j in range(H):
                        h_i[j] += mask * (one - z[j]) * (new[j] - h_i[j])
                else:
                    for j in range(H):
                        h_i[j] = new[j] + z[j] * (h_i[j] - new[j])
                for j in range(H):
                    y_t[j] = h_i[j]


@njit(**COMPILED)
def _gru_grad(gates, inputs, w, plan, results, buffers):
    """Compute dx, dstart and dm, and add the gradients of the weights and the sums of each task."""
    in_parallel(len(buffers[0]), _gru_grad_block, (gates, inputs, w, plan, results, buffers))


@njit(**GATES)
def _gru_grad_block(task, gates, inputs, w, plan, results, buffers):
    (dy, x, start, y, m, masked), (_, sizes), (_, dstart, dm, _, _, _) = inputs, plan, results
    d, _, hs, back, part, kept = buffers
    (N, T, H), one, first = y.shape, y.dtype.type(1), task * BLOCK
    d, hs, back, part, kept = d[task], hs[task], back[task], part[task], kept[task]
    D, B, count = sizes[1], sizes[3], min(BLOCK, N - first)
    for last in range(T, 0, -CHUNK):
        steps = min(CHUNK, last)
        part[:] = 0
        for s in range(steps):
            t = last - 1 - s
            for i in range(count):
                n, row = first + i, s * BLOCK + i
                h = y[n, t - 1] if t > 0 else start[n]
                gates_t, dy_t, d_i, h_out = gates[n, t], dy[n, t], d[row * D :][: 4 * H], hs[row * H :][:H]
                back_i, kept_i = back[i * B :][:H], kept[i * H :][:H]
                r, z, new, q_n = gates_t[:H], gates_t[H : 2 * H], gates_t[2 * H : 3 * H], gates_t[3 * H :]
                dv_n, d_r, d_z, dq_n = d_i[:H], d_i[H : 2 * H], d_i[2 * H : 3 * H], d_i[3 * H :]
                for j in range(H):
                    kept_i[j] += dy_t[j] + back_i[j]  # the gradient of the state after step t
                mask = one
                if masked:
                    mask, dmask = m[n, t], one - one
                    for j in range(H):
                        dmask += kept_i[j] * (one - z[j]) * (new[j] - h[j])
                    dm[n, t] = dmask
                for j in range(H):
                    dnew = (one - z[j]) * mask * kept_i[j]
                    d_z[j] = (h[j] - new[j]) * dnew * z[j]
                    dv_n[j] = dnew * (one - new[j] * new[j])
                for j in range(H):
                    dq_n[j] = r[j] * dv_n[j]
                    d_r[j] = q_n[j] * dv_n[j] * r[j] * (one - r[j])
                for j in range(H):
                    kept_i[j] *= one - mask + mask * z[j]
                    h_out[j] = h[j]
                for j in range(4 * H):
                    part[j] += d_i[j]
            multiply_back(s, w, plan, d, back)
        end_of_chunk(task, last, steps, x, w, plan, results, buffers)
    for i in range(count):
        dh_i, back_i, kept_i = dstart[first + i], back[i * B :], kept[i * H :]
        for j in range(H):
            dh_i[j] = back_i[j] + kept_i[j]


@njit(**INNER)
def multiply_back(s, w, plan, d, back):
    """Compute back = dq @ w_h.T for step s of a chunk."""
    tables, sizes = plan
    w_steps, chunk_d, block_back, of_h, (_, D, _, B) = tables[1], tables[3], tables[7], tables[9], sizes
    multiply(d, s * BLOCK * D, chunk_d, BLOCK, of_h, w[1], w_steps, B, back, block_back)


@njit(**INNER)
def end_of_chunk(task, last, steps, x, w, plan, results, buffers):
    """Compute dx of a chunk, and add the gradients of the weights. Row s of the chunk is step last - 1 - s."""
    (tables, sizes), (dx, _, _, dw_x, dw_h, sums) = plan, results
    (_, w_steps, _, chunk_d, chunk_dx, chunk_h, _, _, of_x, of_h, rows_h, out_h, rows_x, out_x) = tables
    (V, _, X, _), (N, T, F), first, K = sizes, x.shape, task * BLOCK, steps * BLOCK
    d, dx_rows, hs, part = buffers[0][task], buffers[1][task], buffers[2][task], buffers[4][task]
    total, count = sums[task], min(BLOCK, N - first)
    for j in range(part.size):
        total[j] += part[j]
    if len(dx) > 0:
        multiply(d, 0, chunk_d, K, of_x, w[0], w_steps, X, dx_rows, chunk_dx)
        for s in range(steps):
            for i in range(count):
                target, source = dx[first + i, last - 1 - s], dx_rows[(s * BLOCK + i) * X :]
                for f in range(F):
                    target[f] = source[f]
    if len(dw_x) > 0:
        x_rows = np.empty(CHUNK * BLOCK, np.int64)
        rows_of_chunk(count, -F, T * F, x_rows)
        at = (first * T + last - 1) * F
        add_products(x.reshape(-1), at, rows_x, x_rows, K, d, 0, chunk_d, V, dw_x[task], out_x)
        add_products(hs, 0, rows_h, chunk_h, K, d, of_h[0], chunk_d, V, dw_h[task], out_h)


@njit(**COMPILED)
def _lstm(inputs, w, b, plan, buffers, y, cells, gates):
    """Compute y, the cells and the gates i, f, g and o of all steps."""
    in_parallel(len(buffers[0]), _lstm_block, (inputs, w, b, plan, buffers, y, cells, gates))


@njit(**GATES)
def _lstm_block(task, inputs, w, b, plan, buffers, y, cells, gates):
    (x, start, m, masked), (tables, sizes), (v, q, h, c) = inputs, plan, buffers
    (N, T, H), F, one, first = y.shape, x.shape[2], x.dtype.type(1), task * BLOCK
    (w_x, w_h), units, w_steps, chunk_v, block_h, V = w, tables[0], tables[1], tables[2], tables[6], sizes[0]
    v, q, h, c, x, count = v[task], q[task], h[task], c[task], x.reshape(-1), min(BLOCK, N - first)
    x_rows = np.empty(CHUNK * BLOCK, np.int64)
    rows_of_chunk(count, F, T * F, x_rows)
    for i in range(count):
        h[i * H : (i + 1) * H], c[i * H : (i + 1) * H] = start[first + i, :H], start[first + i, H:]
    for t_0 in range(0, T, CHUNK):
        steps = min(CHUNK, T - t_0)
        multiply(x, (first * T + t_0) * F, x_rows, steps * BLOCK, units[:F], w_x, w_steps, V, v, chunk_v)
        for s in range(steps):
            multiply(h, 0, block_h, BLOCK, units[:H], w_h, w_steps, V, q, chunk_v)
            for i in range(count):
                n, t = first + i, t_0 + s
                v_i, q_i = v[(s * BLOCK + i) * V :][: 4 * H], q[i * V :][: 4 * H]
                h_i, c_i, gates_t, y_t, c_t = h[i * H :][:H], c[i * H :][:H], gates[n, t], y[n, t], cells[n, t]
                for j in range(2 * H):
                    gates_t[j] = sigmoid(q_i[j] + v_i[j] + b[j], one)
                a_i, a_f, a_g, a_o = gates_t[:H], gates_t[H : 2 * H], gates_t[2 * H : 3 * H], gates_t[3 * H :]
                q_g, v_g, b_g = q_i[2 * H : 3 * H], v_i[2 * H : 3 * H], b[2 * H : 3 * H]
                q_o, v_o, b_o = q_i[3 * H :], v_i[3 * H :], b[3 * H :]
                for j in range(H):
                    a_g[j] = tanh(q_g[j] + v_g[j] + b_g[j], one)
                for j in range(H):
                    a_o[j] = sigmoid(q_o[j] + v_o[j] + b_o[j], one)
                if masked:
                    mask = m[n, t]
                    for j in range(H):
                        next_c = a_f[j] * c_i[j] + a_i[j] * a_g[j]
                        h_i[j] += mask * (a_o[j] * tanh(next_c, one) - h_i[j])
                        c_i[j] += mask * (next_c - c_i[j])
                else:
                    for j in range(H):
                        next_c = a_f[j] * c_i[j] + a_i[j] * a_g[j]
                        h_i[j] = a_o[j] * tanh(next_c, one)
                        c_i[j] = next_c
                for j in range(H):
                    y_t[j], c_t[j] = h_i[j], c_i[j]


@njit(**COMPILED)
def _lstm_grad(cells, gates, inputs, w, plan, results, buffers):
    """Compute dx, dstart and dm, and add the gradients of the weights and the sums of each task."""
    in_parallel(len(buffers[0]), _lstm_grad_block, (cells, gates, inputs, w, plan, results, buffers))


@njit(**GATES)
def _lstm_grad_block(task, cells, gates, inputs, w, plan, results, buffers):
    (dy, x, start, y, m, masked), (_, sizes), (_, dstart, dm, _, _, _) = inputs, plan, results
    d, _, hs, back, part, kept, dcs, tanh_c, dnext_c = buffers
    (N, T, H), one, first = y.shape, y.dtype.type(1), task * BLOCK
    d, hs, back, part, kept = d[task], hs[task], back[task], part[task], kept[task]
    dcs, tanh_c, dnext_c = dcs[task], tanh_c[task], dnext_c[task]
    D, B, count = sizes[1], sizes[3], min(BLOCK, N - first)
    for last in range(T, 0, -CHUNK):
        steps = min(CHUNK, last)
        part[:] = 0
        for s in range(steps):
            t = last - 1 - s
            for i in range(count):
                n, row = first + i, s * BLOCK + i
                h, c = (y[n, t - 1], cells[n, t - 1]) if t > 0 else (start[n, :H], start[n, H:])
                gates_t, dy_t, d_i, h_out = gates[n, t], dy[n, t], d[row * D :][: 4 * H], hs[row * H :][:H]
                back_i, kept_i, dc_i = back[i * B :][:H], kept[i * H :][:H], dcs[i * H :][:H]
                a_i, a_f, a_g, a_o = gates_t[:H], gates_t[H : 2 * H], gates_t[2 * H : 3 * H], gates_t[3 * H :]
                d_in, d_f, d_g, d_o = d_i[:H], d_i[H : 2 * H], d_i[2 * H : 3 * H], d_i[3 * H :]
                for j in range(H):
                    kept_i[j] += dy_t[j] + back_i[j]  # the gradient of h after step t
                for j in range(H):
                    tanh_c[j] = tanh(a_f[j] * c[j] + a_i[j] * a_g[j], one)
                mask = one
                if masked:
                    mask, dmask = m[n, t], one - one
                    for j in range(H):
                        next_c = a_f[j] * c[j] + a_i[j] * a_g[j]
                        dmask += kept_i[j] * (a_o[j] * tanh_c[j] - h[j]) + dc_i[j] * (next_c - c[j])
                    dm[n, t] = dmask
                keep = one - mask
                for j in range(H):
                    dnext_c[j] = mask * (dc_i[j] + a_o[j] * (one - tanh_c[j] * tanh_c[j]) * kept_i[j])
                for j in range(H):
                    d_in[j] = a_g[j] * dnext_c[j] * a_i[j] * (one - a_i[j])
                    d_g[j] = a_i[j] * dnext_c[j] * (one - a_g[j] * a_g[j])
                for j in range(H):
                    d_f[j] = c[j] * dnext_c[j] * a_f[j] * (one - a_f[j])
                    d_o[j] = mask * tanh_c[j] * kept_i[j] * a_o[j] * (one - a_o[j])
                for j in range(H):
                    dc_i[j] = keep * dc_i[j] + a_f[j] * dnext_c[j]
                    kept_i[j] *= keep
                    h_out[j] = h[j]
                for j in range(4 * H):
                    part[j] += d_i[j]
            multiply_back(s, w, plan, d, back)
        end_of_chunk(task, last, steps, x, w, plan, results, buffers)
    for i in range(count):
        dh_i, dc_out, back_i = dstart[first + i, :H], dstart[first + i, H:], back[i * B :]
        kept_i, dc_i = kept[i * H :], dcs[i * H :]
        for j in range(H):
            dh_i[j] = back_i[j] + kept_i[j]
        for j in range(H):
            dc_out[j] = dc_i[j]
