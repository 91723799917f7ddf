"""GRU and LSTM over all steps, forward and backward, for the Numba backend.

A step needs the state of the step before, so the steps cannot run at the same time. The sequences of a
batch can: a task is a block of BLOCK sequences, and goes through all of their steps without waiting for
other threads. In each step it multiplies its states with w, by the register tile of `microkernel`, and
computes the gates from the products while these are in the cache. w is packed into panels once.

The gradient of w is a sum over all sequences and steps, h' dq. A block would add a small product to all
of w in each step. Instead it writes h and dq of every step, and one large product follows.

exp. The gates of float32 use `expm1`, a polynomial that the compiler computes for a vector of numbers at
once. The function of the C library takes one number at a time, which took longer than the products.

The bits do not depend on the number of threads: BLOCK is a constant, one thread sums each number in a
fixed order, and the sums of the blocks are added in the order of the blocks.
"""

import functools
import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit, types
from numba.extending import overload

from minigan.backends.contract import RecurrentGradients
from minigan.backends.numba import microkernel
from minigan.backends.numba.microkernel import PANEL_BYTES, REGISTERS, Tables
from minigan.backends.numba.parallel import COMPILED, INNER, in_parallel

BLOCK = 16  # sequences of a task
ROWS = 8 if REGISTERS == 32 else 4  # of a tile; BLOCK is a multiple of it
GATES: dict[str, Any] = INNER | dict(fastmath={"contract"})  # products and sums may become FMAs
NO_MASK = np.zeros((0, 0))

block_tile = microkernel.tile_of(ROWS)


class Product(NamedTuple):
    """How a block (BLOCK, K) is multiplied with a matrix (K, N): the offsets of the tile, and the panels."""

    tables: Tables
    w: np.ndarray  # flat panels (panels, K, width), with zeros after the last column


def gru(a: np.ndarray, w: np.ndarray, b_x: np.ndarray, b_h: np.ndarray, start: np.ndarray, m: np.ndarray | None):
    """Compute the states y (N, T, H) of a GRU, and what `gru_grad` needs. Writes r, z and n over a."""
    a, b_x, b_h, start, m, masked = prepared(a, b_x, b_h, start, m)
    (N, T, _), H = a.shape, len(w)
    y, q_n = np.empty((N, T, H), a.dtype), np.empty((N, T, H), a.dtype)
    _gru(a, product_with(w), b_x, b_h, start, m, masked, y, q_n)
    return y, (start, y, a, q_n)


def gru_grad(dy: np.ndarray, saved: tuple[np.ndarray, ...], w: np.ndarray, m: np.ndarray | None, need_grads: bool):
    """Compute the gradients of the arguments of `gru`."""
    start, y, gates, q_n = saved
    dy, m, masked = np.ascontiguousarray(dy), *mask_of(m, y.dtype)
    (N, T, H), tasks = y.shape, tasks_of(y)
    da, dm, dh = np.empty_like(gates), np.empty(m.shape, y.dtype), np.empty_like(start)
    dq = np.empty_like(gates if need_grads else gates[:0])
    h = np.empty_like(y if need_grads else y[:0])
    sums = np.zeros((tasks, 4 * H))  # of dv_r, dv_z, dv_n and dq_n over the rows of a task
    _gru_grad(dy, start, y, gates, q_n, product_with(w.T), m, masked, da, dq, h, dh, dm, sums)
    weights: Any = (None, None, None)
    if need_grads:
        db = sums.sum(axis=0).astype(y.dtype)
        dw = microkernel.matmul(h.reshape(N * T, H).T, dq.reshape(N * T, 3 * H))
        weights = dw, db[: 3 * H].copy(), np.concatenate([db[: 2 * H], db[3 * H :]])
    return RecurrentGradients(da, weights, dh, dm if masked else None)


def lstm(a: np.ndarray, w: np.ndarray, b_x: np.ndarray, b_h: np.ndarray, start: np.ndarray, m: np.ndarray | None):
    """Compute the outputs y (N, T, H) of an LSTM, and what `lstm_grad` needs. Writes i, f, g and o over a."""
    a, b_x, b_h, start, m, masked = prepared(a, b_x, b_h, start, m)
    (N, T, _), H = a.shape, len(w)
    y, cells = np.empty((N, T, H), a.dtype), np.empty((N, T, H), a.dtype)
    _lstm(a, product_with(w), b_x + b_h, start, m, masked, y, cells)
    return y, (start, y, cells, a)


def lstm_grad(dy: np.ndarray, saved: tuple[np.ndarray, ...], w: np.ndarray, m: np.ndarray | None, need_grads: bool):
    """Compute the gradients of the arguments of `lstm`."""
    start, y, cells, gates = saved
    dy, m, masked = np.ascontiguousarray(dy), *mask_of(m, y.dtype)
    (N, T, H), tasks = y.shape, tasks_of(y)
    da, dm, dstate = np.empty_like(gates), np.empty(m.shape, y.dtype), np.empty_like(start)
    h = np.empty_like(y if need_grads else y[:0])
    sums = np.zeros((tasks, 4 * H))
    _lstm_grad(dy, start, y, cells, gates, product_with(w.T), m, masked, da, h, dstate, dm, sums)
    weights: Any = (None, None, None)
    if need_grads:
        db = sums.sum(axis=0).astype(y.dtype)
        dw = microkernel.matmul(h.reshape(N * T, H).T, da.reshape(N * T, 4 * H))
        weights = dw, db, db.copy()
    return RecurrentGradients(da, weights, dstate, dm if masked else None)


def prepared(a, b_x, b_h, start, m):
    """Return the arguments in C order, the mask as an array, and whether there is one."""
    return (*map(np.ascontiguousarray, (a, b_x, b_h, start)), *mask_of(m, a.dtype))


def mask_of(m: np.ndarray | None, dtype) -> tuple[np.ndarray, bool]:
    """Return the mask in C order, or an empty array, and whether there is a mask."""
    return (NO_MASK.astype(dtype), False) if m is None else (np.ascontiguousarray(m), True)


def tasks_of(y: np.ndarray) -> int:
    """Return the number of blocks of y (N, T, H)."""
    return -(-len(y) // BLOCK)


def product_with(w: np.ndarray) -> Product:
    """Return the product of blocks with w (K, N), whose panels are copied here."""
    K, N = w.shape
    columns, width = microkernel.whole_columns(N, w.dtype), microkernel.panel_width(w.dtype)
    packed = np.empty((columns // width, K, width), w.dtype)
    flat = w if w.flags.c_contiguous or w.T.flags.c_contiguous else np.ascontiguousarray(w)
    microkernel.pack(flat.ravel(order="K"), *(stride // w.itemsize for stride in flat.strides), K, N, packed)
    return Product(block_tables(K, columns, width), packed.ravel())


@functools.lru_cache(maxsize=64)
def block_tables(K: int, columns: int, width: int) -> Tables:
    """Return the offsets at which the tile reads a block (BLOCK, K) and panels, and writes (BLOCK, columns)."""
    rows, steps = np.arange(BLOCK), np.arange(K)
    return Tables(rows * K, steps, steps * width, rows * columns)


# ---------------------------------------------------------------- compiled: functions


LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(math.log(2) - 0.693359375)  # the first has 9 bits
LOG2_E, HALF, ONE, TWO = np.float32(1 / math.log(2)), np.float32(0.5), np.float32(1), np.float32(2)
TAYLOR = tuple(np.float32(1 / math.factorial(n)) for n in range(2, 8))
C2, C3, C4, C5, C6, C7 = TAYLOR
LARGEST, ROUNDING = np.float32(87), np.float32(1.5 * 2**23)  # adding ROUNDING leaves no bits for fractions
BIAS, SHIFT = np.int32(127), np.int32(23)  # of the exponent of a float32


def expm1(x):
    """Compute exp(x) - 1 for one number. x is limited to +-87, so that nothing overflows."""
    raise NotImplementedError  # compiled code uses the functions below


@overload(expm1, jit_options=dict(error_model="numpy", fastmath={"contract"}))
def _expm1_for(x):
    """Return the function for the type of x.

    In float32, exp(x) = 2^k exp(r) with an integer k and |r| <= log(2) / 2. The Taylor polynomial of exp(r) - 1 up to
    r^7 has a relative error of 2e-8. 2^k is computed by writing its exponent. The 1 is subtracted before anything is
    rounded, so that small x keep all digits.
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


# ---------------------------------------------------------------- compiled: loops over time


@njit(**INNER)
def multiply(x, product, columns, y):
    """Compute y (BLOCK, columns) = x (BLOCK, K) @ w. Both are flat."""
    (rows, steps, w_steps, out), w = product
    K, width = steps.size, PANEL_BYTES // x.itemsize
    for o in range(0, columns, width):
        for m in range(0, BLOCK, ROWS):
            block_tile(x, 0, rows, m, steps, 0, K, w, o * K, w_steps, y, o, out, False)


@njit(**INNER)
def columns_of(product):
    """Return the number of columns of the product, in whole panels."""
    return product.tables.out[1]


@njit(**COMPILED)
def _gru(a, product, b_x, b_h, start, m, masked, y, q_n):
    """Compute y, write r, z and n over a, and write the q_n of all steps."""
    in_parallel((len(a) + BLOCK - 1) // BLOCK, _gru_block, (a, product, b_x, b_h, start, m, masked, y, q_n))


@njit(**GATES)
def _gru_block(task, a, product, b_x, b_h, start, m, masked, y, q_n):
    (N, T, H), first, one = y.shape, task * BLOCK, a.dtype.type(1)
    count, columns = min(BLOCK, N - first), columns_of(product)
    h, q = np.zeros(BLOCK * H, a.dtype), np.empty(BLOCK * columns, a.dtype)
    h[: count * H] = start.reshape(-1)[first * H : (first + count) * H]
    b_rz, b_n = b_x[: 2 * H] + b_h[: 2 * H], b_x[2 * H :]
    b_qn, gates, b_qn_size = b_h[2 * H :], np.empty(2 * H, a.dtype), H
    for t in range(T):
        multiply(h, product, columns, q)
        for i in range(count):
            a_t, h_i, y_t, qn_t = a[first + i, t], h[i * H :][:H], y[first + i, t], q_n[first + i, t]
            q_i = q[i * columns :]
            for j in range(2 * H):
                gates[j] = sigmoid(a_t[j] + q_i[j] + b_rz[j], one)
            q_in, a_n, r, z = q_i[2 * H :], a_t[2 * H :], gates[:H], gates[H:]
            for j in range(b_qn_size):
                qn_t[j] = q_in[j] + b_qn[j]
                a_n[j] = tanh(a_n[j] + b_n[j] + r[j] * qn_t[j], one)
            if masked:
                mask = m[first + i, t]
                for j in range(H):
                    h_i[j] += mask * (one - z[j]) * (a_n[j] - h_i[j])
            else:
                for j in range(H):
                    h_i[j] = a_n[j] + z[j] * (h_i[j] - a_n[j])
            for j in range(H):
                y_t[j] = h_i[j]
            for j in range(2 * H):
                a_t[j] = gates[j]


@njit(**COMPILED)
def _gru_grad(dy, start, y, gates, q_n, product, m, masked, da, dq, h, dh, dm, sums):
    """Compute da, dq and h of all steps, the gradient dh of the initial state, dm, and the sums of each task."""
    arguments = (dy, start, y, gates, q_n, product, m, masked, da, dq, h, dh, dm, sums)
    in_parallel(len(sums), _gru_grad_block, arguments)


@njit(**GATES)
def _gru_grad_block(task, dy, start, y, gates, q_n, product, m, masked, da, dq, h, dh, dm, sums):
    (N, T, H), first, one = y.shape, task * BLOCK, y.dtype.type(1)
    count, columns, total = min(BLOCK, N - first), columns_of(product), sums[task]
    back, carried = np.zeros(BLOCK * columns, y.dtype), np.zeros(BLOCK * H, y.dtype)
    dq_t, part = np.zeros(BLOCK * 3 * H, y.dtype), np.empty(4 * H, y.dtype)
    for t in range(T - 1, -1, -1):
        part[:] = 0
        for i in range(count):
            n = first + i
            previous = y[n, t - 1] if t > 0 else start[n]
            gates_t, q_t, dy_t, da_t = gates[n, t], q_n[n, t], dy[n, t], da[n, t]
            back_i, carried_i, dq_i = back[i * columns :], carried[i * H :][:H], dq_t[i * 3 * H :][: 3 * H]
            r, z, new = gates_t[:H], gates_t[H : 2 * H], gates_t[2 * H :]
            da_r, da_z, da_n, dq_r, dq_z, dq_n = (
                da_t[:H], da_t[H : 2 * H], da_t[2 * H :], dq_i[:H], dq_i[H : 2 * H], dq_i[2 * H :]
            )  # fmt: skip
            mask, dmask = one, one - one
            if masked:
                mask = m[n, t]
                for j in range(H):
                    d = dy_t[j] + back_i[j] + carried_i[j]
                    dmask += d * (one - z[j]) * (new[j] - previous[j])
                dm[n, t] = dmask
            keep = one - mask
            for j in range(H):
                d = dy_t[j] + back_i[j] + carried_i[j]
                dnext = mask * d
                carried_i[j] = keep * d + z[j] * dnext
                dnew = (one - z[j]) * dnext
                dv_z = (previous[j] - new[j]) * dnew * z[j]
                dv_n = dnew * (one - new[j] * new[j])
                dv_r = q_t[j] * dv_n * r[j] * (one - r[j])
                da_r[j], da_z[j], da_n[j] = dv_r, dv_z, dv_n
                dq_r[j], dq_z[j], dq_n[j] = dv_r, dv_z, r[j] * dv_n
            part_x, part_n = part[: 3 * H], part[3 * H :]
            for j in range(3 * H):
                part_x[j] += da_t[j]
            for j in range(H):
                part_n[j] += dq_n[j]
            if len(h) > 0:
                h_t, dq_out = h[n, t], dq[n, t]
                for j in range(H):
                    h_t[j] = previous[j]
                for j in range(3 * H):
                    dq_out[j] = dq_i[j]
        for j in range(4 * H):
            total[j] += part[j]
        multiply(dq_t, product, columns, back)
    for i in range(count):
        dh_i, back_i, carried_i = dh[first + i], back[i * columns :], carried[i * H :]
        for j in range(H):
            dh_i[j] = back_i[j] + carried_i[j]


@njit(**COMPILED)
def _lstm(a, product, b, start, m, masked, y, cells):
    """Compute y and the cells of all steps, and write i, f, g and o over a."""
    in_parallel((len(a) + BLOCK - 1) // BLOCK, _lstm_block, (a, product, b, start, m, masked, y, cells))


@njit(**GATES)
def _lstm_block(task, a, product, b, start, m, masked, y, cells):
    (N, T, H), first, one = y.shape, task * BLOCK, a.dtype.type(1)
    count, columns = min(BLOCK, N - first), columns_of(product)
    h, c, q = np.zeros(BLOCK * H, a.dtype), np.zeros(BLOCK * H, a.dtype), np.empty(BLOCK * columns, a.dtype)
    for i in range(count):
        h[i * H : (i + 1) * H], c[i * H : (i + 1) * H] = start[first + i, :H], start[first + i, H:]
    for t in range(T):
        multiply(h, product, columns, q)
        for i in range(count):
            a_t, q_i, y_t, c_t = a[first + i, t], q[i * columns :], y[first + i, t], cells[first + i, t]
            h_i, c_i = h[i * H :][:H], c[i * H :][:H]
            for j in range(4 * H):
                q_i[j] += a_t[j] + b[j]
            a_if, a_g, a_o, q_g, q_o = a_t[: 2 * H], a_t[2 * H : 3 * H], a_t[3 * H :], q_i[2 * H :], q_i[3 * H :]
            for j in range(2 * H):
                a_if[j] = sigmoid(q_i[j], one)
            for j in range(H):
                a_g[j] = tanh(q_g[j], one)
            for j in range(H):
                a_o[j] = sigmoid(q_o[j], one)
            a_f, mask = a_t[H : 2 * H], one
            if masked:
                mask = m[first + i, t]
                for j in range(H):
                    next_c = a_f[j] * c_i[j] + a_if[j] * a_g[j]
                    c_i[j] += mask * (next_c - c_i[j])
                    h_i[j] += mask * (a_o[j] * tanh(next_c, one) - h_i[j])
            else:
                for j in range(H):
                    c_i[j] = a_f[j] * c_i[j] + a_if[j] * a_g[j]
                    h_i[j] = a_o[j] * tanh(c_i[j], one)
            for j in range(H):
                y_t[j], c_t[j] = h_i[j], c_i[j]


@njit(**COMPILED)
def _lstm_grad(dy, start, y, cells, gates, product, m, masked, da, h, dstate, dm, sums):
    """Compute da and h of all steps, the gradient of the initial state, dm, and the sums of each task."""
    arguments = (dy, start, y, cells, gates, product, m, masked, da, h, dstate, dm, sums)
    in_parallel(len(sums), _lstm_grad_block, arguments)


@njit(**GATES)
def _lstm_grad_block(task, dy, start, y, cells, gates, product, m, masked, da, h, dstate, dm, sums):
    (N, T, H), first, one = y.shape, task * BLOCK, y.dtype.type(1)
    count, columns, total = min(BLOCK, N - first), columns_of(product), sums[task]
    back, kept, dc = np.zeros(BLOCK * columns, y.dtype), np.zeros(BLOCK * H, y.dtype), np.zeros(BLOCK * H, y.dtype)
    dq_t, part, shown = np.zeros(BLOCK * 4 * H, y.dtype), np.empty(4 * H, y.dtype), np.empty(H, y.dtype)
    for t in range(T - 1, -1, -1):
        part[:] = 0
        for i in range(count):
            n = first + i
            h_t, c_t = (y[n, t - 1], cells[n, t - 1]) if t > 0 else (start[n, :H], start[n, H:])
            gates_t, dy_t, da_t, dq_i = gates[n, t], dy[n, t], da[n, t], dq_t[i * 4 * H :][: 4 * H]
            back_i, kept_i, dc_i = back[i * columns :], kept[i * H :][:H], dc[i * H :][:H]
            a_i, a_f, a_g, a_o = gates_t[:H], gates_t[H : 2 * H], gates_t[2 * H : 3 * H], gates_t[3 * H :]
            dq_in, dq_f, dq_g, dq_o = dq_i[:H], dq_i[H : 2 * H], dq_i[2 * H : 3 * H], dq_i[3 * H :]
            for j in range(H):
                shown[j] = tanh(a_f[j] * c_t[j] + a_i[j] * a_g[j], one)
            mask, dmask = one, one - one
            if masked:
                mask = m[n, t]
                for j in range(H):
                    next_c, dh = a_f[j] * c_t[j] + a_i[j] * a_g[j], dy_t[j] + back_i[j] + kept_i[j]
                    dmask += dh * (a_o[j] * shown[j] - h_t[j]) + dc_i[j] * (next_c - c_t[j])
                dm[n, t] = dmask
            keep = one - mask
            for j in range(H):
                dh = dy_t[j] + back_i[j] + kept_i[j]
                dnext_h = mask * dh
                dnext_c = mask * dc_i[j] + a_o[j] * (one - shown[j] * shown[j]) * dnext_h
                dq_o[j] = shown[j] * dnext_h * a_o[j] * (one - a_o[j])
                dq_in[j] = a_g[j] * dnext_c * a_i[j] * (one - a_i[j])
                dq_f[j] = c_t[j] * dnext_c * a_f[j] * (one - a_f[j])
                dq_g[j] = a_i[j] * dnext_c * (one - a_g[j] * a_g[j])
                kept_i[j] = keep * dh
                dc_i[j] = keep * dc_i[j] + a_f[j] * dnext_c
            for j in range(4 * H):
                part[j] += dq_i[j]
            for j in range(4 * H):
                da_t[j] = dq_i[j]
            if len(h) > 0:
                h_out = h[n, t]
                for j in range(H):
                    h_out[j] = h_t[j]
        for j in range(4 * H):
            total[j] += part[j]
        multiply(dq_t, product, columns, back)
    for i in range(count):
        dh_i, dc_out = dstate[first + i, :H], dstate[first + i, H:]
        back_i, kept_i, dc_i = back[i * columns :], kept[i * H :], dc[i * H :]
        for j in range(H):
            dh_i[j] = back_i[j] + kept_i[j]
            dc_out[j] = dc_i[j]
