"""The register tile: a small matrix product whose sums stay in CPU registers. All compiled convolutions use it.

A convolution as sums of products
---------------------------------
For any stride, padding and direction, a convolution is a sum of products. One factor is read at offsets from tables,
and the other is read in whole vectors. All arrays are flat:

    y[out[m] + o]  =  sum_k  x[rows[m] + steps[k]]  *  w[w_steps[k] + o]

In `conv2d`, row m is an output pixel and step k is a tap (i, j, c) of the kernel. rows[m] is the offset of the pixel's
window in the padded image, and steps[k] is the offset of the tap from there. No im2col matrix is needed, because the
window is read from the image. If rows and steps are exchanged (row = tap, step = pixel), the sum is the gradient of w.
Other tables give the gradient of x or a plain matrix product.

The tile
--------
A CPU core multiplies two vectors and adds a third in one instruction (fused multiply-add, FMA). It can start one or two
FMAs per cycle, but their operands must be in registers, and the first-level cache delivers only about two numbers or
vectors per cycle. So each value that is loaded must be used several times. The tile computes ROWS x 2 vectors of y at
once and keeps them in registers during the whole sum. For AVX-512 (32 registers of 16 floats), one step k is

                                  w[k, 0:16]      w[k, 16:32]            2 loads
                                +--------------+--------------+
        x[rows[0]  + steps[k]]  |  y[0, 0:16]  |  y[0, 16:32] |         14 loads, each copied into all 16 lanes
        x[rows[1]  + steps[k]]  |  y[1, 0:16]  |  y[1, 16:32] |            ("broadcast") and used twice
               ...              |     ...      |     ...      |
        x[rows[13] + steps[k]]  |  y[13, 0:16] | y[13, 16:32] |         28 FMAs = 28 * 16 * 2 = 896 operations
                                +--------------+--------------+

The reasons for this shape:

    28 registers   for the sums y, which are written to memory once, at the end; w[k] needs 2 more, x needs 1: 31 of 32
    16 loads       and two loads of offsets for 28 FMAs: few enough to execute two FMAs per cycle without waiting
    28 sums        that are independent: an FMA takes 4 cycles, so two FMA units need at least 8 independent sums
    2 vectors      with 1, every FMA would need a load; with 3, only 9 rows fit, and few layers fill 48 columns
    14 rows        the most that fit; feature maps of 7x7 and 14x14 fill them: 49 and 196 are 3.5 and 14 times 14

A CPU with 16 registers has tiles of 6 rows (12 + 2 + 1 = 15 registers), with 8 lanes for AVX2 and 4 for SSE. float64
has half as many lanes; nothing else changes.

w is stored in "panels" of 2 vectors, so that a tile reads contiguous memory. Columns that do not fill a panel are
padded with zeros, or are computed by narrow tiles of one vector if that is enough. Rows that do not fill a tile are
computed by low tiles of 2 rows, or the tables repeat the last row (the same number is then computed and stored again).
So the tile itself needs no bounds checks. One thread computes each sum over k in a fixed order, so no result depends on
the number of threads.

This file contains the tile as LLVM instructions, the compiled loops that call it, and the tables that turn these loops
into the three convolutions and the matrix product.
"""

import functools
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from minigan.backends import numba as package
from minigan.backends.numba.parallel import COMPILED, INNER, in_parallel

# The CPU that Numba compiles for, which NUMBA_CPU_NAME and NUMBA_CPU_FEATURES can change.
TRIPLE, _, FEATURES = cpu_target.target_context.codegen().magic_tuple()
AVX512, AVX, SSE = (f"+{name}," in f"{FEATURES}," for name in ("avx512f", "avx", "sse2"))
ARM = TRIPLE.startswith(("aarch64", "arm64"))
VECTOR_BYTES = 64 if AVX512 else 32 if AVX else 16
REGISTERS = 32 if AVX512 or ARM else 16
REGISTER_LETTER = "w" if ARM else "v" if AVX512 else "x" if SSE else None  # LLVM's name for "any vector register"
VECTORS = 2
ROWS = (REGISTERS - VECTORS - 1) // VECTORS  # 14 or 6
LOW_ROWS = 2
PANEL_BYTES = VECTORS * VECTOR_BYTES

CACHE_BYTES = 256 * 1024  # size of the padded images of a thread: half of a small second-level cache
PACKED_FROM = 300  # products with more rows are faster if their second factor is first packed into panels
HIGH = 4 * ROWS  # rows of one task of a large product
CHUNKS = 8  # partial sums of a weight gradient; a constant, because the bits of the result depend on it


def panel_width(dtype) -> int:
    """Return the number of columns that a tile computes at once."""
    return PANEL_BYTES // np.dtype(dtype).itemsize


class Tables(NamedTuple):
    """The offsets at which products read and write, as in the sum above: flat arrays of int64."""

    rows: np.ndarray
    steps: np.ndarray
    w_steps: np.ndarray
    out: np.ndarray


def tile_of(height: int, vectors: int = VECTORS):
    """Return a tile with `height` rows as a Numba intrinsic.

    It computes rows m to m + height of the sum above, for one panel of columns (or `vectors` vectors), over the steps
    first to first + count:

        y[y_at + out[m+r] + o]  =  sum_k  x[x_at + rows[m+r] + steps[first+k]]  *  w[w_at + w_steps[first+k] + o]

    With `add`, the sum is added to y. x, w and y are flat arrays of one float type. Bounds are not checked, so the
    tables must be correct.

    The parameters are separate numbers, because with structures LLVM generates slower code for `fill` and `products`.
    """

    @intrinsic
    def tile(typing_context, x, x_at, rows, m, steps, first, count, w, w_at, w_steps, y, y_at, out, add):
        signature = types.void(x, x_at, rows, m, steps, first, count, w, w_at, w_steps, y, y_at, out, add)
        names = ("x", "x_at", "rows", "m", "steps", "first", "count", "w", "w_at", "w_steps", "y", "y_at", "out", "add")
        size = x.dtype.bitwidth // 8
        lanes = VECTOR_BYTES // size

        def codegen(context, builder, signature, args):
            kinds, values = dict(zip(names, signature.args, strict=True)), dict(zip(names, args, strict=True))
            vector = ir.VectorType(context.get_value_type(x.dtype), lanes)

            def constant(number):
                return ir.Constant(ir.IntType(64), number)

            def integer(name):
                return context.cast(builder, values[name], kinds[name], types.int64)

            def pointer_to(array, at=None):
                """Return a pointer to the first number of the array, or to number `at`."""
                data = context.make_array(kinds[array])(context, builder, values[array]).data
                return data if at is None else advance(data, at)

            def advance(pointer, distance):
                return builder.gep(pointer, [distance])

            def vector_pointer(pointer, v):
                return builder.bitcast(advance(pointer, constant(v * lanes)), vector.as_pointer())

            def load_vector(pointer, v):
                return builder.load(vector_pointer(pointer, v), align=size)

            def prefetch_for_writing(pointer):
                """Prefetch the memory of y, so that the stores at the end do not wait for it."""
                kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), *[ir.IntType(32)] * 3])
                prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
                for_writing, keep, data = (ir.Constant(ir.IntType(32), number) for number in (1, 3, 1))
                builder.call(prefetch, [builder.bitcast(pointer, ir.IntType(8).as_pointer()), for_writing, keep, data])

            def load_broadcast(pointer):
                undefined, zero = ir.Constant(vector, ir.Undefined), ir.Constant(ir.IntType(32), 0)
                first_lane = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
                return builder.shuffle_vector(
                    builder.insert_element(undefined, builder.load(pointer), zero), undefined, first_lane
                )

            def multiply_add(a, b, total):
                """Compute total + a * b: one FMA if the CPU has it, else a multiplication and an addition.

                The empty inline assembly forces LLVM to compute the sum at this point. Without it, LLVM's scheduler
                first loads all broadcasts of a step and runs out of registers, and the tile is three times slower.
                """
                kind = ir.FunctionType(vector, [vector] * 3)
                fmuladd = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{lanes}f{8 * size}")
                total = builder.call(fmuladd, [a, b, total])
                if REGISTER_LETTER is None:
                    return total
                return builder.asm(
                    ir.FunctionType(vector, [vector]), "", f"={REGISTER_LETTER},0", [total], side_effect=True
                )

            row_numbers = [builder.add(integer("m"), constant(r)) for r in range(height)]
            x_rows = [
                advance(pointer_to("x", integer("x_at")), builder.load(pointer_to("rows", row))) for row in row_numbers
            ]
            y_rows = [
                advance(pointer_to("y", integer("y_at")), builder.load(pointer_to("out", row))) for row in row_numbers
            ]
            w_start = pointer_to("w", integer("w_at"))
            steps, w_steps = pointer_to("steps", integer("first")), pointer_to("w_steps", integer("first"))
            zero = ir.Constant(vector, [0.0] * lanes)
            sums = [[cgutils.alloca_once_value(builder, zero) for _ in range(vectors)] for _ in range(height)]

            for y_row in y_rows:
                for v in range(vectors):
                    prefetch_for_writing(vector_pointer(y_row, v))

            with builder.if_then(context.cast(builder, values["add"], kinds["add"], types.boolean)):
                for y_row, row_sums in zip(y_rows, sums, strict=True):
                    for v, total in enumerate(row_sums):
                        builder.store(load_vector(y_row, v), total)

            with cgutils.for_range(builder, integer("count")) as loop:
                w_k = advance(w_start, builder.load(advance(w_steps, loop.index)))
                w_vectors = [load_vector(w_k, v) for v in range(vectors)]
                step = builder.load(advance(steps, loop.index))
                for x_row, row_sums in zip(x_rows, sums, strict=True):
                    x_vector = load_broadcast(advance(x_row, step))
                    for w_vector, total in zip(w_vectors, row_sums, strict=True):
                        builder.store(multiply_add(x_vector, w_vector, builder.load(total)), total)

            for y_row, row_sums in zip(y_rows, sums, strict=True):
                for v, total in enumerate(row_sums):
                    builder.store(builder.load(total), vector_pointer(y_row, v), align=size)
            return context.get_dummy_value()

        return signature, codegen

    return tile


tile, low_tile, narrow_tile = tile_of(ROWS), tile_of(LOW_ROWS), tile_of(ROWS, vectors=1)


# Compiled loops that call the tile, on flat arrays --------------------------------------------------------------------


ZERO, NO = np.int64(0), np.bool_(False)  # for the literals 0 and False Numba would compile a function once more


@njit(**INNER)
def fill(x, x_at, rows, m, last_row, steps, first, count, w, w_at, w_steps, y, y_at, out, add):
    """Compute rows m to last_row with tiles of ROWS rows, then with low tiles if few rows are left."""
    while last_row - m > ROWS // 2:
        tile(x, x_at, rows, m, steps, first, count, w, w_at, w_steps, y, y_at, out, add)
        m += ROWS
    while m < last_row:
        low_tile(x, x_at, rows, m, steps, first, count, w, w_at, w_steps, y, y_at, out, add)
        m += LOW_ROWS


@njit(**COMPILED)
def products(tables, tasks, x, w, y, add):
    """Compute many products with the same tables, and write them to y or, with `add`, add them to y.

    A task is (x_at, w_at, y_at, first row, last row, first step, last step).
    """
    rows, steps, w_steps, out = tables
    in_parallel(len(tasks), product, (tasks, x, rows, steps, w, w_steps, y, out, add))


@njit(**INNER)
def product(task, tasks, x, rows, steps, w, w_steps, y, out, add):
    """Compute one task of `products`."""
    x_at, w_at, y_at, first_row, last_row, first, last = tasks[task]
    fill(x, x_at, rows, first_row, last_row, steps, first, last - first, w, w_at, w_steps, y, y_at, out, add)


@njit(**INNER)
def copy_padded(x, n, images, padding, xpad):
    """Copy images n to n + images of x (N,H,W,C) into xpad, a flat (images,height,width,C), inside the zero padding."""
    H, W, C = x.shape[1:]
    x, size, top = x.reshape(-1), W * C, padding.before
    for image in range(images):
        for h in range(H):
            source = x[((n + image) * H + h) * size :][:size]
            target = xpad[((image * padding.height + h + top) * padding.width + top) * C :][:size]
            for t in range(size):
                target[t] = source[t]


@njit(**COMPILED)
def convolve_groups(x, plan, w, y):
    """Compute y, the windows of padded x times w.

    A class of pixels is (first row, last row, first step, last step, first step of w, last step of w). Its pixels have
    the same taps, which are a range of the steps that are stored in the panels of w.

    A thread pads a group of images in a scratch buffer that stays in its cache, and computes y for these images. All
    groups have the same size, so the last two may overlap. Both then compute the same values for the shared images.
    """
    groups = (len(x) + plan.padding.group - 1) // plan.padding.group
    in_parallel(groups, convolve_group, (x, plan, w, y))


@njit(**INNER)
def convolve_group(g, x, plan, w, y):
    """Compute y for group g of images: one task of `convolve_groups`."""
    padding, (rows, steps, w_steps, out), classes = plan  # unpacked once, because reading fields in loops takes time
    group = padding.group
    columns, image_size = y.shape[3], y.shape[1] * y.shape[2] * y.shape[3]
    width, y = PANEL_BYTES // x.itemsize, y.reshape(-1)
    n = min(g * group, len(x) - group)
    xpad = np.zeros(group * padding.height * padding.width * x.shape[3], x.dtype)
    copy_padded(x, n, group, padding, xpad)
    for a in range(len(classes)):
        first_row, last_row, first, last, w_first, w_last = classes[a]
        count = last - first
        if columns < width:
            for m in range(first_row, last_row, ROWS):
                narrow_tile(xpad, 0, rows, m, steps, first, count, w, 0, w_steps, y, n * image_size, out, False)
        for o in range(0, columns - width + 1, width):
            w_at, y_at = w_first * (columns - width) + (w_last - w_first) * o, n * image_size + o
            fill(xpad, ZERO, rows, first_row, last_row, steps, first, count, w, w_at, w_steps, y, y_at, out, NO)


@njit(**COMPILED)
def correlate_chunks(x, plan, dy, parts):
    """Compute parts[chunk]: windows of padded x times dy, summed over the images of a chunk; row = tap, step = pixel.

    The number of chunks depends on the batch size only. So the order of every sum does not depend on the number of
    threads.
    """
    in_parallel(len(parts), correlate_chunk, (x, plan, dy, parts))


@njit(**INNER)
def correlate_chunk(chunk, x, plan, dy, parts):
    """Compute parts[chunk]: one task of `correlate_chunks`."""
    padding, (rows, steps, dy_steps, out) = plan
    N, group = len(x), padding.group
    columns, pixels = dy.shape[3], dy.shape[1] * dy.shape[2]
    chunks, taps, part_size = parts.shape[0], parts.shape[1], parts.shape[1] * parts.shape[2]
    width = PANEL_BYTES // x.itemsize
    dy, parts = dy.reshape(-1), parts.reshape(-1)
    start, stop = chunk * N // chunks, (chunk + 1) * N // chunks
    xpad = np.zeros(group * padding.height * padding.width * x.shape[3], x.dtype)
    for n in range(start, stop, group):
        images, add = min(group, stop - n), n > start
        copy_padded(x, n, images, padding, xpad)
        dy_at, part_at, count = n * pixels * columns, chunk * part_size, images * pixels
        if columns < width:
            for m in range(0, taps, ROWS):
                narrow_tile(xpad, 0, rows, m, steps, 0, count, dy, dy_at, dy_steps, parts, part_at, out, add)
        for o in range(0, columns - width + 1, width):
            at = part_at + o
            fill(xpad, ZERO, rows, ZERO, taps, steps, ZERO, count, dy, dy_at + o, dy_steps, parts, at, out, add)


@njit(**COMPILED)
def scatter_images(dy, tables, w, window, dx):
    """Compute dx for few channels: multiply each pixel of dy by w, then add the K*K*C products to dx (col2im)."""
    in_parallel(len(dx), scatter_image, (dy, tables, w, window, dx))


@njit(**INNER)
def scatter_image(n, dy, tables, w, window, dx):
    """Compute dx[n]: one task of `scatter_images`."""
    (rows, steps, w_steps, out), (K, stride, before) = tables, window
    H, W, C = dx.shape[1:]
    P, Q, O = dy.shape[1:]
    columns, width = len(w) // O, PANEL_BYTES // dy.itemsize
    dy = dy.reshape(-1)
    dwindow = np.empty(len(rows) * columns, dx.dtype)
    if K * K * C <= width // VECTORS:
        for m in range(0, len(rows), ROWS):
            narrow_tile(dy, n * P * Q * O, rows, m, steps, 0, O, w, 0, w_steps, dwindow, 0, out, False)
    else:
        for o in range(0, columns, width):
            fill(dy, n * P * Q * O, rows, ZERO, P * Q, steps, ZERO, O, w, o * O, w_steps, dwindow, o, out, NO)
    dx_image = dx[n].reshape(-1)
    dx_image[:] = 0
    for p in range(P):
        for q in range(Q):
            top, left = p * stride - before, q * stride - before
            j = max(0, -left)
            length = (min(K, W - left) - j) * C  # of the part of a window's row that is inside the image
            for i in range(max(0, -top), min(K, H - top)):
                source = dwindow[(p * Q + q) * columns + (i * K + j) * C :][:length]
                target = dx_image[((top + i) * W + left + j) * C :][:length]
                if length == 4:  # the most common length; compiled to one instruction because it is constant
                    for t in range(4):
                        target[t] += source[t]
                else:
                    for t in range(length):
                        target[t] += source[t]


@njit(cache=package.cached)
def pack(b, b_row, b_column, K, N, packed):
    """Copy b (K,N), with any strides, into panels (panels, K, PANEL). Columns that b does not have are zeros."""
    width = PANEL_BYTES // b.itemsize
    for p in range(len(packed)):
        at, columns = p * width * b_column, min(width, N - p * width)
        panel = packed[p].reshape(-1)
        if columns < width:
            panel[:] = 0
        for first in range(0, K, 64):  # 64 rows of a panel stay in the first-level cache
            rows = range(first, min(first + 64, K))
            if b_column == 1:
                for k in rows:
                    source, target = b[at + k * b_row :][:columns], panel[k * width :][:columns]
                    for o in range(columns):
                        target[o] = source[o]
            else:
                for o in range(columns):
                    source, target = b[at + o * b_column :], panel[o:]
                    for k in rows:
                        target[k * width] = source[k * b_row]


@njit(cache=package.cached, fastmath={"reassoc", "contract"})
def dot_rows(a, b):
    """Compute a @ b.T for few rows of b. The order of each sum is fixed by the compiler."""
    y = np.empty((len(a), len(b)), a.dtype)
    for m in range(len(a)):
        for n in range(len(b)):
            total = a.dtype.type(0)
            for k in range(a.shape[1]):
                total += a[m, k] * b[n, k]
            y[m, n] = total
    return y


@njit(cache=package.cached)
def add_rows(a, b):
    """Compute (a.T @ b).T for few columns of b, as weighted sums of rows of a."""
    y = np.zeros((b.shape[1], a.shape[1]), a.dtype)
    for k in range(len(a)):
        for n in range(len(y)):
            for m in range(a.shape[1]):
                y[n, m] += b[k, n] * a[k, m]
    return y


# Tables ---------------------------------------------------------------------------------------------------------------


def whole_tiles(offsets: np.ndarray) -> np.ndarray:
    """Return the offsets, with the last one repeated until their number is a multiple of ROWS."""
    places = np.arange(offsets.size + -offsets.size % ROWS)
    return offsets.ravel()[np.minimum(places, offsets.size - 1)].astype(np.int64)


def stacked(tables: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Concatenate tables, each padded to whole tiles. Return where each one starts and ends, and the result."""
    padded = [whole_tiles(table) for table in tables]
    starts = np.cumsum([0, *map(len, padded)])[:-1]
    return starts, starts + [len(table) for table in tables], np.concatenate(padded)


def whole_columns(columns: int, dtype) -> int:
    """Round a number of columns up to whole panels."""
    return columns + -columns % panel_width(dtype)


def tiled_columns(columns: int, dtype) -> int:
    """Round a number of columns up to what the tiles of a convolution compute: one vector, or whole panels."""
    lanes = panel_width(dtype) // VECTORS
    return lanes if columns <= lanes else whole_columns(columns, dtype)


def whole_panels(x: np.ndarray, count=whole_columns) -> np.ndarray:
    """Pad the last axis of x with zeros to `count(columns, dtype)` columns. x is not copied if it has as many."""
    columns = count(x.shape[-1], x.dtype)
    if columns == x.shape[-1]:
        return np.ascontiguousarray(x)
    padded = np.zeros((*x.shape[:-1], columns), x.dtype)
    padded[..., : x.shape[-1]] = x
    return padded


def panels(w: np.ndarray) -> np.ndarray:
    """Store the columns of w in panels, each of them contiguous: (k, columns) -> (panels, k, PANEL)."""
    w, width = whole_panels(w), panel_width(w.dtype)
    return np.ascontiguousarray(w.reshape(len(w), w.shape[1] // width, width).transpose(1, 0, 2))


def offsets(*axes: np.ndarray) -> np.ndarray:
    """Return all sums of one number from each axis, flat, with the last axis varying fastest."""
    return functools.reduce(np.add.outer, axes).ravel()


def tasks(x_at, w_at, y_at, rows: tuple, steps: tuple) -> np.ndarray:
    """Return the tasks of `products`: (x_at, w_at, y_at, first row, last row, first step, last step), broadcast."""
    return np.stack(np.broadcast_arrays(x_at, w_at, y_at, *rows, *steps), axis=-1).reshape(-1, 7)


class Padding(NamedTuple):
    """The layout of padded images in the scratch buffer of a thread."""

    group: int  # images that are padded at a time
    before: int  # rows above the image and columns to its left
    height: int  # including the zeros
    width: int


class Window(NamedTuple):
    """The receptive field of output (p, q): K x K pixels of x that start at (p*stride - before, q*stride - before)."""

    K: int
    stride: int
    before: int


class Plan(NamedTuple):
    """The offsets at which the tile reads and writes for a group of padded images."""

    padding: Padding
    tables: Tables  # rows: pixels; steps: taps
    classes: np.ndarray  # classes of pixels with the same taps: see `convolve_groups`


def images_in_cache(N: int, image_bytes: int, pixels: int) -> int:
    """Return how many images a thread pads at once: they fit in its cache, and their pixels almost fill whole tiles."""
    most = max(1, min(CACHE_BYTES // image_bytes, N // CHUNKS))
    filled = [n * pixels / len(whole_tiles(np.arange(n * pixels))) for n in range(1, most + 1)]
    return max(range(1, most + 1), key=lambda n: (round(filled[n - 1], 2), n))


@functools.lru_cache(maxsize=256)
def window_plan(x_shape, K, stride, before, y_shape, itemsize) -> Plan:
    """Return the plan of `conv2d`: row = output pixel (p,q), step = tap (i,j,c).

    Rows of taps that are in the padding above or below the image are skipped.
    """
    (N, H, W, C), (_, P, Q, O) = x_shape, y_shape
    Hp, Wp = (before + max(size, (out - 1) * stride + K - before) for size, out in ((H, P), (W, Q)))
    group = images_in_cache(N, Hp * Wp * C * itemsize, Q)
    images, q, k = (np.arange(n) for n in (group, Q, K))
    inside = [(max(0, before - p * stride), min(K, H + before - p * stride)) for p in range(P)]
    rows, classes, out = [], [], []
    for first, last in dict.fromkeys(inside):  # range of the K rows of taps
        p = np.array([p for p in range(P) if inside[p] == (first, last)])
        rows.append(offsets(p * stride * Wp * C, images * Hp * Wp * C, q * stride * C))
        out.append(offsets(p * Q * O, images * P * Q * O, q * O))
        classes.append((first * K * C, max(first, last) * K * C, 0, K * K * C))
    steps = offsets(k * Wp * C, k * C, np.arange(C))
    return Plan(Padding(group, before, Hp, Wp), *joined(rows, classes, out, steps, itemsize))


@functools.lru_cache(maxsize=256)
def residue_plan(dy_shape, K, stride, before, dx_shape, itemsize) -> Plan:
    """Return the plan of `conv2d_grad_x`. Row h of x was read by the taps i with p*stride + i = h + before.

    So all pixels with the same (h + before) % stride = a have the same taps a, a+stride, a+2*stride, ... and read dy
    at p, p-1, p-2, ... They form a class, whose gradient is a small convolution with stride 1.
    """
    (N, P, Q, O), (_, H, W, C) = dy_shape, dx_shape
    reach = (K - 1) // stride  # how far before p the last tap reads
    Pp, Qp = (reach + max(size, (pixels - 1 + before) // stride + 1) for size, pixels in ((P, H), (Q, W)))
    group = images_in_cache(N, Pp * Qp * O * itemsize, H * W)
    images, o = np.arange(group), np.arange(O)
    rows, steps, classes, out = [], [], [], []
    for a in range(stride):
        for b in range(stride):
            h, v = (np.arange((residue - before) % stride, size, stride) for residue, size in ((a, H), (b, W)))
            p, q = reach + (h + before) // stride, reach + (v + before) // stride
            i, j = (np.arange(len(range(residue, K, stride))) for residue in (a, b))
            first = sum(map(len, steps))
            rows.append(offsets(images * Pp * Qp * O, p * Qp * O, q * O))
            steps.append(offsets(-i * Qp * O, -j * O, o))
            out.append(offsets(images * H * W * C, h * W * C, v * C))
            classes.append((first, first + len(steps[-1])) * 2)
    return Plan(Padding(group, reach, Pp, Qp), *joined(rows, classes, out, np.concatenate(steps), itemsize))


class TapPlan(NamedTuple):
    """The offsets for a weight gradient: rows are taps, and steps are the pixels of a group of images."""

    padding: Padding
    tables: Tables


@functools.lru_cache(maxsize=256)
def tap_plan(x_shape, K, stride, before, dy_shape, dtype) -> TapPlan:
    """Return the plan of `conv2d_grad_w`."""
    (_, _, _, C), (_, P, Q, columns) = x_shape, dy_shape
    plan = window_plan(x_shape, K, stride, before, dy_shape, dtype.itemsize)
    group, _, Hp, Wp = plan.padding
    images, p, q = (np.arange(n) for n in (group, P, Q))
    pixels = offsets(images * Hp * Wp * C, p * stride * Wp * C, q * stride * C)
    taps, out = whole_tiles(plan.tables.steps), whole_tiles(np.arange(K * K * C) * columns)
    return TapPlan(plan.padding, Tables(taps, pixels, np.arange(len(pixels)) * columns, out))


def joined(rows: list, classes: list, out: list, steps: np.ndarray, itemsize: int) -> tuple[Tables, np.ndarray]:
    """Return the tables and classes of a plan from the rows of each class. w is stored in panels."""
    starts, ends, rows = stacked(rows)
    w_steps = np.arange(len(steps)) * (PANEL_BYTES // itemsize)
    return Tables(rows, steps, w_steps, stacked(out)[2]), np.column_stack([starts, ends, np.array(classes)])


# The operations that the backend calls --------------------------------------------------------------------------------


def work(x_shape: tuple[int, ...], w_shape: tuple[int, ...], stride: int, before: int, P: int, Q: int, dtype) -> float:
    """Return the number of multiplications of a convolution, with which `choose_algorithm` compares the algorithms."""
    (N, *_), (K, _, C, O) = x_shape, w_shape
    return N * P * Q * K * K * C * O


def conv2d(x: np.ndarray, w: np.ndarray, stride: int, before: int, P: int, Q: int) -> np.ndarray:
    """Compute the convolution: (N,H,W,C), (K,K,C,O) -> (N,P,Q,O)."""
    (N, _, _, C), (K, _, _, O) = x.shape, w.shape
    if few_channels(O, x.dtype) and stride == 1 and before < K:  # the same sum as an input gradient: use `scatter`
        return scatter(x, flipped(w), P, Q, 1, K - 1 - before)
    y = np.empty((N, P, Q, tiled_columns(O, x.dtype)), x.dtype)
    return convolve(x, [w.reshape(K * K * C, O)], y, window_plan(x.shape, K, stride, before, y.shape, x.itemsize))


def conv2d_grad_x(dy: np.ndarray, w: np.ndarray, H: int, W: int, stride: int, before: int) -> np.ndarray:
    """Compute the input gradient: (N,P,Q,O), (K,K,C,O) -> (N,H,W,C)."""
    K, C = w.shape[1:3]
    if few_channels(C, dy.dtype):
        return scatter(dy, w, H, W, stride, before)
    dx = np.empty((len(dy), H, W, tiled_columns(C, dy.dtype)), dy.dtype)
    taps = w.transpose(0, 1, 3, 2)  # (K,K,O,C)
    classes = [taps[a::stride, b::stride].reshape(-1, C) for a in range(stride) for b in range(stride)]
    return convolve(dy, classes, dx, residue_plan(dy.shape, K, stride, before, dx.shape, dy.itemsize))


def conv2d_grad_w(dy: np.ndarray, x: np.ndarray, K: int, stride: int, before: int) -> np.ndarray:
    """Compute the weight gradient: (N,P,Q,O), (N,H,W,C) -> (K,K,C,O)."""
    (N, _, _, O), C = dy.shape, x.shape[3]
    if few_channels(O, dy.dtype) and not few_channels(C, dy.dtype) and stride == 1 and before < K:  # exchange x and dy
        return flipped(conv2d_grad_w(x, dy, K, 1, K - 1 - before))
    dy = whole_panels(dy, tiled_columns)
    plan = tap_plan(x.shape, K, stride, before, dy.shape, dy.dtype)
    parts = np.empty((min(CHUNKS, N), K * K * C, dy.shape[3]), dy.dtype)
    correlate_chunks(x, plan, dy, parts)
    return np.ascontiguousarray(parts.sum(axis=0)[:, :O]).reshape(K, K, C, O)


def few_channels(channels: int, dtype) -> bool:
    """Return whether this number of channels fills at most a quarter of a panel."""
    return 4 * channels <= panel_width(dtype)


def flipped(w: np.ndarray) -> np.ndarray:
    """Flip both kernel axes and exchange the channels: (K,K,C,O) -> (K,K,O,C)."""
    return np.ascontiguousarray(w[::-1, ::-1].transpose(0, 1, 3, 2))


def convolve(x: np.ndarray, classes: list[np.ndarray], y: np.ndarray, plan: Plan) -> np.ndarray:
    """Fill y, which has `tiled_columns` columns, and return the columns that w has. Each class is (taps, columns)."""
    columns = classes[0].shape[1]
    w = np.concatenate([panels(part).ravel() for part in classes])
    convolve_groups(x, plan, w, y)
    return np.ascontiguousarray(y[..., :columns])


def scatter(dy: np.ndarray, w: np.ndarray, H: int, W: int, stride: int, before: int) -> np.ndarray:
    """Compute `conv2d_grad_x` for few channels, which do not fill a panel. The K*K*C products of a pixel fill it."""
    (N, P, Q, O), (K, _, C, _) = dy.shape, w.shape
    w = panels(w.reshape(K * K * C, O).T)
    count, _, width = w.shape
    rows, out = (whole_tiles(np.arange(P * Q) * size) for size in (O, count * width))
    tables, dx = Tables(rows, np.arange(O), np.arange(O) * width, out), np.empty((N, H, W, C), dy.dtype)
    scatter_images(dy, tables, w.ravel(), Window(K, stride, before), dx)
    return dx


def matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Compute a @ b: (M,K), (K,N) -> (M,N), for one dtype. Contiguous and transposed matrices are not copied."""
    a, b = (x if x.flags.c_contiguous or x.T.flags.c_contiguous else np.ascontiguousarray(x) for x in (a, b))
    (M, K), N = a.shape, b.shape[1]
    if few_channels(N, a.dtype):
        if a.flags.c_contiguous:
            return dot_rows(a, np.ascontiguousarray(b.T))
        return np.ascontiguousarray(add_rows(a.T, b).T)
    a_strides, b_strides = (tuple(stride // x.itemsize for stride in x.strides) for x in (a, b))
    plan = product_plan((M, K, N), a_strides, b_strides, a.dtype)
    y, b = np.empty((M, plan.columns), a.dtype), b.ravel(order="K")
    if plan.packed:
        packed = np.empty(plan.packed, a.dtype)
        pack(b, *b_strides, K, N, packed)
        b = packed.ravel()
    products(plan.tables, plan.tasks, a.ravel(order="K"), b, y.ravel(), False)
    return y if plan.columns == N else np.ascontiguousarray(y[:, :N])


class ProductPlan(NamedTuple):
    """The offsets at which the tile reads and writes for a matrix product."""

    columns: int  # of y, in whole panels
    packed: tuple[int, int, int] | None  # shape of the second factor in panels; None: it is not copied
    tables: Tables
    tasks: np.ndarray


@functools.cache
def compile_pack(dtype: np.dtype) -> None:
    """Compile `pack` for a dtype with its first product, although small batches do not need it.

    Otherwise, the first check of a run would compile it, long after the run has said that it is compiled.
    """
    pack(np.zeros(1, dtype), 1, 1, 1, 1, np.zeros((1, 1, panel_width(dtype)), dtype))


@functools.lru_cache(maxsize=256)
def product_plan(sizes: tuple[int, int, int], a_strides, b_strides, dtype) -> ProductPlan:
    """Return the plan of (M,K) times (K,N). sizes = M, K, N; strides are in numbers, not in bytes."""
    (M, K, N), (a_row, a_step), (b_row, b_column) = sizes, a_strides, b_strides
    columns, width = whole_columns(N, dtype), panel_width(dtype)
    in_place = b_column == 1 and columns == N and M <= PACKED_FROM  # packing would take longer
    compile_pack(np.dtype(dtype))
    row_size, panel_size = (b_row, width) if in_place else (width, K * width)
    o = np.arange(0, columns, width)[:, None]
    first = np.arange(0, M, HIGH)
    tables = Tables(
        whole_tiles(np.arange(M) * a_row), np.arange(K) * a_step, np.arange(K) * row_size,
        whole_tiles(np.arange(M) * columns),
    )  # fmt: skip
    each = tasks(0, o // width * panel_size, o, (first, np.minimum(first + HIGH, M)), (0, K))
    return ProductPlan(columns, None if in_place else (columns // width, K, width), tables, each)
