"""The register tile: one small matrix product, held in the CPU's registers, on which every compiled convolution runs.

What a convolution is to the CPU
--------------------------------
Whatever its stride, padding and direction, a convolution is a sum of products in which one factor is found through
offsets and the other is read in whole vectors:

    y[out[m] + o] = sum_k  x[rows[m] + steps[k]] * w[w_steps[k] + o]                 all arrays flat

For `conv2d`, row m is an output pixel, step k a tap (i, j, c) of the kernel: `rows[m]` is where that pixel's window
begins in the padded image, `steps[k]` how far the tap lies from there. Nothing is copied into an "im2col" matrix: the
window is read where it lies. Exchange rows and steps (row = tap, step = pixel) and it is the gradient of w; other
tables make it the gradient of x, or a plain matrix product.

The tile
--------
A core multiplies and adds two vectors of LANES numbers in one instruction (FMA). It can start one or two of them in
every cycle, but each needs its numbers in registers, and a load from the nearest cache feeds only about one of them.
So a number that was loaded must be used several times before it is dropped. The tile computes ROWS x 2 vectors of y
at once and keeps them in registers over the whole sum; one step k of it is, for AVX-512 (32 registers of 16 floats):

                                  w[k, 0:16]      w[k, 16:32]            2 loads
                                +--------------+--------------+
        x[rows[0]  + steps[k]]  |  y[0, 0:16]  |  y[0, 16:32] |         14 loads, each copied into all 16 lanes
        x[rows[1]  + steps[k]]  |  y[1, 0:16]  |  y[1, 16:32] |            ("broadcast") and used twice
               ...              |     ...      |     ...      |
        x[rows[13] + steps[k]]  |  y[13, 0:16] | y[13, 16:32] |         28 FMAs = 28 * 16 * 2 = 896 operations
                                +--------------+--------------+

What each number costs:

    28 registers   the sums y, never written to memory before the end; 2 hold w[k], 1 the broadcast x: 31 of 32
    16 loads       for 28 FMAs: the two load units keep pace with the two FMA units, and no cycle waits
    28 sums        independent of one another: an FMA takes 4 cycles, two start in each, so 8 would be enough to hide it
    2 vectors      with 1, every FMA would need a load of its own; with 3 (9 rows) fewer w would fit in a short batch
    14 rows        as many as fit; 7x7 and 14x14 maps have 49 and 196 pixels, whole tiles of 14 for every two images

A machine with 16 registers holds 6 x 2 (12 + 2 + 1 = 15): AVX2 with 8 lanes, SSE with 4. `ROWS` and `VECTOR_BYTES` below
say it in code. float64 halves the lanes and changes nothing else.

The vectors of w are stored in "panels" of PANEL = 2 * LANES columns, so that a tile reads w from front to back. Columns
that do not fill a panel are padded with zeros, rows that do not fill a tile repeat the last one (the same number is
computed and stored again), and so the tile itself has no edge cases.

The sum over k is taken in one order by one thread: no result depends on the number of threads.
"""

import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

_, _, CPU_FEATURES = cpu_target.target_context.codegen().magic_tuple()  # honours NUMBA_CPU_NAME and NUMBA_CPU_FEATURES
ARM = "+neon" in CPU_FEATURES
AVX512 = "+avx512f" in CPU_FEATURES
VECTOR_BYTES = 64 if AVX512 else 32 if "+avx" in CPU_FEATURES else 16
REGISTERS = 32 if AVX512 or ARM else 16
VECTORS = 2
PANEL_BYTES = VECTORS * VECTOR_BYTES
ROWS = (REGISTERS - VECTORS - 1) // VECTORS  # 14 or 6
REGISTER_CLASS = "w" if ARM else "v" if AVX512 else "x"  # LLVM's letter for "any vector register"


def panel_width(dtype) -> int:
    """The number of columns that a tile computes at once."""
    return PANEL_BYTES // np.dtype(dtype).itemsize


@intrinsic
def tile(typing_context, x, x_at, rows, m, steps, first, count, w, w_at, w_steps, y, y_at, out, add):
    """The sum above for rows m to m + ROWS and one panel of columns, over steps first to first + count.

        y[y_at + out[m+r] + o] = sum_k x[x_at + rows[m+r] + steps[first+k]] * w[w_at + w_steps[k] + o]   (+= if `add`)

    x, w and y are flat float arrays of one dtype, the tables flat int64. Nothing is checked: the tables are the bounds.
    """
    signature = types.void(x, x_at, rows, m, steps, first, count, w, w_at, w_steps, y, y_at, out, add)

    def codegen(context, builder, signature, args):
        arguments = dict(
            zip("x x_at rows m steps first count w w_at w_steps y y_at out add".split(), args, strict=True)
        )
        kinds = dict(zip(arguments, signature.args, strict=True))

        def pointer(name):
            return context.make_array(kinds[name])(context, builder, arguments[name]).data

        def integer(name):
            return context.cast(builder, arguments[name], kinds[name], types.int64)

        def constant(value):
            return ir.Constant(ir.IntType(64), value)

        def offset(start, *amounts):
            for amount in amounts:
                start = builder.gep(start, [amount])
            return start

        number = context.get_value_type(kinds["x"].dtype)
        lanes = VECTOR_BYTES * 8 // kinds["x"].dtype.bitwidth
        vector = ir.VectorType(number, lanes)
        undefined = ir.Constant(vector, ir.Undefined)
        first_lane = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
        fmuladd = cgutils.get_or_insert_function(  # one FMA where the CPU has it, else a multiplication and an addition
            builder.module,
            ir.FunctionType(vector, [vector] * 3),
            f"llvm.fmuladd.v{lanes}f{kinds['x'].dtype.bitwidth}",
        )

        def vector_pointer(start, v):
            return builder.bitcast(offset(start, constant(v * lanes)), vector.as_pointer())

        def load_vector(start, v):
            return builder.load(vector_pointer(start, v), align=number_bytes)

        def broadcast(value):
            return builder.shuffle_vector(
                builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0)), undefined, first_lane
            )

        def pinned(value):
            """The same value, which LLVM must have computed here. Left to itself its scheduler loads all the
            broadcasts of a step first, runs out of registers, and the tile is three times slower."""
            passed_on = ir.FunctionType(vector, [vector])
            return builder.asm(passed_on, "", f"={REGISTER_CLASS},0", [value], True)

        number_bytes = kinds["x"].dtype.bitwidth // 8
        m = integer("m")
        row_numbers = [builder.add(m, constant(r)) for r in range(ROWS)]
        x_rows = [
            offset(pointer("x"), integer("x_at"), builder.load(offset(pointer("rows"), row))) for row in row_numbers
        ]
        y_rows = [
            offset(pointer("y"), integer("y_at"), builder.load(offset(pointer("out"), row))) for row in row_numbers
        ]
        w, w_steps = offset(pointer("w"), integer("w_at")), pointer("w_steps")
        steps = offset(pointer("steps"), integer("first"))
        zero = ir.Constant(vector, [0.0] * lanes)
        sums = [[cgutils.alloca_once_value(builder, zero) for _ in range(VECTORS)] for _ in range(ROWS)]

        with builder.if_then(context.cast(builder, arguments["add"], kinds["add"], types.boolean)):
            for y_row, row_sums in zip(y_rows, sums, strict=True):
                for v, total in enumerate(row_sums):
                    builder.store(load_vector(y_row, v), total)

        with cgutils.for_range(builder, integer("count")) as loop:
            w_k = offset(w, builder.load(offset(w_steps, loop.index)))
            w_vectors = [load_vector(w_k, v) for v in range(VECTORS)]
            step = builder.load(offset(steps, loop.index))
            for x_row, row_sums in zip(x_rows, sums, strict=True):
                x_vector = broadcast(builder.load(offset(x_row, step)))
                for w_vector, total in zip(w_vectors, row_sums, strict=True):
                    product = builder.call(fmuladd, [x_vector, w_vector, builder.load(total)])
                    builder.store(pinned(product), total)

        for y_row, row_sums in zip(y_rows, sums, strict=True):
            for v, total in enumerate(row_sums):
                builder.store(builder.load(total), vector_pointer(y_row, v), align=number_bytes)
        return context.get_dummy_value()

    return signature, codegen


# Tables and panels, made by NumPy before the compiled loops run.


def whole_tiles(offsets: np.ndarray) -> np.ndarray:
    """The offsets, and the last one again until they fill whole tiles."""
    return np.pad(offsets.ravel(), (0, -offsets.size % ROWS), mode="edge").astype(np.int64)


def whole_columns(columns: int, dtype) -> int:
    """The number of columns, rounded up to whole panels."""
    return columns + -columns % panel_width(dtype)


def whole_panels(x: np.ndarray) -> np.ndarray:
    """x with zeros behind its last axis, so that it fills whole panels; x itself where it does already."""
    missing = whole_columns(x.shape[-1], x.dtype) - x.shape[-1]
    return np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)]) if missing else np.ascontiguousarray(x)


def panels(w: np.ndarray) -> np.ndarray:
    """(k, columns) -> (panels, k, PANEL): the columns in panels, each stored from front to back."""
    w = whole_panels(w)
    return np.ascontiguousarray(w.reshape(len(w), -1, panel_width(w.dtype)).transpose(1, 0, 2))


# The loops around the tile. x, w and y are flat; numba caches them on disk with the tile inside.


@njit(parallel=True, cache=True)
def products(x, x_at, rows, steps, w, w_at, w_steps, y, y_at, out):
    """Many products with the same tables: number t begins at x_at[t], w_at[t] and y_at[t] and fills one panel of y."""
    for t in prange(len(x_at)):
        for m in range(0, len(rows), ROWS):
            tile(x, x_at[t], rows, m, steps, 0, len(steps), w, w_at[t], w_steps, y, y_at[t], out, False)


@njit(cache=True)
def copy_padded(x, n, images, H, W, C, before, xpad, Hp, Wp):
    """Images n to n + images of x (N,H,W,C), each into the middle of its place in xpad (images,Hp,Wp,C)."""
    for image in range(images):
        for h in range(H):
            source = ((n + image) * H + h) * W * C
            target = ((image * Hp + h + before) * Wp + before) * C
            for t in range(W * C):
                xpad[target + t] = x[source + t]


@njit(parallel=True, cache=True)
def convolve(x, before, Hp, Wp, group, rows, row_starts, steps, step_starts, w, w_steps, y, out):
    """y = the windows of padded x, times w. One class or several: class a has rows, steps and panels of w of its own.

    A thread pads a group of images into a buffer that stays in its cache, and computes all of y that belongs to them.
    The last group begins early enough to be whole; what two groups share, both compute alike.
    """
    N, H, W, C = x.shape
    columns, image_size = y.shape[3], y.shape[1] * y.shape[2] * y.shape[3]
    width = PANEL_BYTES // x.itemsize
    x, y = x.reshape(-1), y.reshape(-1)
    for g in prange((N + group - 1) // group):
        n = min(g * group, N - group)
        xpad = np.zeros(group * Hp * Wp * C, x.dtype)
        copy_padded(x, n, group, H, W, C, before, xpad, Hp, Wp)
        for a in range(len(row_starts) - 1):
            first, count = step_starts[a], step_starts[a + 1] - step_starts[a]
            for o in range(0, columns, width):
                for m in range(row_starts[a], row_starts[a + 1], ROWS):
                    w_at = first * columns + count * o
                    tile(xpad, 0, rows, m, steps, first, count, w, w_at, w_steps, y, n * image_size + o, out, False)


@njit(parallel=True, cache=True)
def correlate(x, before, Hp, Wp, group, rows, steps, dy, w_steps, parts, out):
    """parts[chunk] = windows of padded x, times dy, summed over the chunk's images: row = tap, step = pixel.

    The number of chunks is fixed by the batch, whatever the number of threads, and so is the order of every sum.
    """
    N, H, W, C = x.shape
    columns, pixels = dy.shape[3], dy.shape[1] * dy.shape[2]
    chunks, part_size = parts.shape[0], parts.shape[1] * parts.shape[2]
    width = PANEL_BYTES // x.itemsize
    x, dy, parts = x.reshape(-1), dy.reshape(-1), parts.reshape(-1)
    for chunk in prange(chunks):
        start, stop = chunk * N // chunks, (chunk + 1) * N // chunks
        xpad = np.zeros(group * Hp * Wp * C, x.dtype)
        for n in range(start, stop, group):
            images = min(group, stop - n)
            copy_padded(x, n, images, H, W, C, before, xpad, Hp, Wp)
            for o in range(0, columns, width):
                for m in range(0, len(rows), ROWS):
                    tile(
                        xpad,
                        0,
                        rows,
                        m,
                        steps,
                        0,
                        images * pixels,
                        dy,
                        n * pixels * columns + o,
                        w_steps,
                        parts,
                        chunk * part_size + o,
                        out,
                        n > start,
                    )


@njit(parallel=True, cache=True)
def spread(dy, w, rows, steps, w_steps, out, dx, K, stride, before):
    """dx for few channels: all K*K*C products of every pixel of dy at once, then each is added where it belongs."""
    N, H, W, C = dx.shape
    P, Q, O = dy.shape[1:]
    columns, width = len(w) // O, PANEL_BYTES // dy.itemsize
    dy = dy.reshape(-1)
    for n in prange(N):
        dwindow = np.empty(len(rows) * columns, dx.dtype)
        for o in range(0, columns, width):
            for m in range(0, len(rows), ROWS):
                tile(dy, n * P * Q * O, rows, m, steps, 0, O, w, o * O, w_steps, dwindow, o, out, False)
        dx[n] = 0
        for p in range(P):
            for i in range(max(0, before - p * stride), min(K, H + before - p * stride)):
                for q in range(Q):
                    for j in range(max(0, before - q * stride), min(K, W + before - q * stride)):
                        for c in range(C):
                            product = dwindow[(p * Q + q) * columns + (i * K + j) * C + c]
                            dx[n, p * stride + i - before, q * stride + j - before, c] += product
