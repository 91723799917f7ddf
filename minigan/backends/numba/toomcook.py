"""Convolution with fewer multiplications along the rows of an image (Toom 1963, Cook 1966, Winograd 1980).

A convolution along a row is a product of two polynomials: m outputs of r taps need m * r products if each one is
computed as a sum. But a polynomial with m + r - 1 coefficients is determined by its values at m + r - 1 points, and the
value of a product at a point needs one multiplication. With matrices A, B and G, which evaluate polynomials at the
points and interpolate, a row of one channel is

    y = A.T @ ((B @ x) * (G @ w))                                     7 outputs of 2 taps: 8 multiplications, not 14
    dx = B.T @ ((A @ dy) * (G @ w))        dw = G.T @ ((B @ x) * (A @ dy))

At each point, the products are summed over the channels and over the K rows of the kernel. This sum is a matrix
product, which the register tile computes. It is the only step that is computed for every pair of input and output
channels. A stride of s divides a row into s "phases", each with every s-th pixel. On a phase, every s-th tap acts with
stride 1. The same matrix product also sums over the phases.

If a phase of a column has two taps, as in a 4x4 kernel with stride 2, two rows of y need three products instead of
four: see `Plan`. The extra additions take little time.

The drawback is lower precision, because the powers of the points span a range that grows with the number of points. So
at most eight points are used, spaced to minimise the error, and longer rows are divided into blocks of outputs that are
computed separately. In float32 the largest error is then a few times that of the plain sum: tests/test_backends.py
bounds it by 5e-6 of the largest output, and that of the plain sum by 2e-6.
"""

import functools
import itertools
from typing import NamedTuple

import numpy as np
from numba import njit

from minigan.backends import numba as package
from minigan.backends.numba.microkernel import (
    CACHE_BYTES,
    CHUNKS,
    HIGH,
    PANEL_BYTES,
    ROWS,
    VECTOR_BYTES,
    ZERO,
    Tables,
    fill,
    offsets,
    panel_width,
    products,
    stacked,
    tasks,
    tile_of,
    whole_columns,
    whole_tiles,
)
from minigan.backends.numba.parallel import COMPILED, INNER, in_parallel

POINTS = (0, 1, -1, 1.75, -1.75, 1 / 1.75, -1 / 1.75)  # and infinity
HEIGHT = len(POINTS) + 1  # rows of the tile that evaluates and interpolates
GROUP_BYTES = 4 * 1024 * 1024  # of evaluated images in a weight gradient: they fit into a third-level cache
MARGIN = 1.3  # cost of one multiplication here, in multiplications of the plain sum: includes tables and memory
MOST_TAPS = 3  # with more taps, a block has too few outputs to be faster


# Matrices -------------------------------------------------------------------------------------------------------------


def block(m: int, r: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return A (T, m), G (T, r) and B (T, T) for m outputs of r taps, T = m + r - 1: y[q] = sum_t x[q+t] * w[t]."""
    T = m + r - 1

    def values(n: int) -> np.ndarray:
        """Return z^0 ... z^(n-1) at the points. At infinity the highest power has the value 1, and the others 0."""
        return np.concatenate([np.vander(POINTS[: T - 1], n, increasing=True), np.eye(n)[-1:]])

    B = np.linalg.inv(values(T)).T
    size = np.abs(B).sum(axis=1, keepdims=True)  # is multiplied into G, so that B x has about the magnitude of x
    return values(m), values(r) * size, B / size


class Combinations(NamedTuple):
    """Linear combinations of vectors: out[target[r]] = sum_s weight[r,s] * in[source[r,s]].

    A tile computes HEIGHT rows r, which all read the same sources. The last row is repeated
    to fill the last tile.
    """

    size: int  # of each vector
    tiles: np.ndarray  # for each tile: first row, first source, number of sources
    weights: np.ndarray  # flat
    tables: Tables  # rows and steps: of the weights; w_steps: the sources; out: the targets

    @classmethod
    def of(cls, matrix: np.ndarray, target: np.ndarray, source: np.ndarray, size: int, dtype) -> "Combinations":
        """Return y = matrix @ x for the vectors at `source` and `target`. Zeros of the matrix (R, S) are skipped."""
        rows = np.minimum(np.arange(len(matrix) + -len(matrix) % HEIGHT), len(matrix) - 1).reshape(-1, HEIGHT)
        tiles, weights, weight_rows, weight_steps, sources = [], [], [], [], []
        for tile, r in enumerate(rows):
            nonzero = np.flatnonzero(matrix[r].any(axis=0))
            tiles.append((tile * HEIGHT, sum(map(len, sources)), len(nonzero)))
            weight_rows.append(sum(map(np.size, weights)) + np.arange(HEIGHT) * len(nonzero))
            weights.append(matrix[np.ix_(r, nonzero)])
            weight_steps.append(np.arange(len(nonzero)))
            sources.append(source[nonzero])
        flat = [
            np.concatenate([part.ravel() for part in parts]) for parts in (weights, weight_rows, weight_steps, sources)
        ]
        return cls(size, np.array(tiles), flat[0].astype(dtype), Tables(*flat[1:], target[rows.ravel()]))


class Row(NamedTuple):
    """The matrices for one row of an image, for all blocks."""

    A: np.ndarray  # (T, Q)
    B: np.ndarray  # (T, phases, pixels)
    G: np.ndarray  # (T, taps)


@functools.cache
def row(pixels: int, K: int, stride: int, before: int, Q: int) -> Row:
    """Return the matrices for a row of `pixels` pixels and Q outputs."""
    r = -(-K // stride)  # taps of a phase; a phase with fewer taps is padded with zeros
    cuts = np.linspace(0, Q, -(-Q // (HEIGHT + 1 - r)) + 1).round().astype(int)
    blocks = [block(last - first, r) for first, last in itertools.pairwise(cuts)]
    T = sum(len(A) for A, _, _ in blocks)
    A, B, t = np.zeros((T, Q)), np.zeros((T, stride, pixels)), 0
    for first, (A_, _, B_) in zip(cuts, blocks, strict=False):
        at = slice(t, t + len(A_))
        A[at, first : first + A_.shape[1]] = A_
        for phase in range(stride):
            for u in range(len(B_)):
                pixel = stride * (first + u) + phase - before
                if 0 <= pixel < pixels:
                    B[at, phase, pixel] = B_[:, u]
        t += len(A_)
    return Row(A, B, np.concatenate([G for _, G, _ in blocks]))


# Compiled loops -------------------------------------------------------------------------------------------------------


combination_tile, narrow_combination_tile = tile_of(HEIGHT), tile_of(HEIGHT, vectors=1)


@njit(**INNER)
def combine(combinations, x, x_at, y, y_at):
    """Compute `Combinations` of x at x_at, and write them to y at y_at. Their size is a multiple of a CPU vector."""
    size, tiles, weights, (rows, steps, sources, targets) = combinations
    panel = PANEL_BYTES // x.itemsize
    for tile in range(len(tiles)):
        m, first, count = tiles[tile]
        for c in range(0, size - panel + 1, panel):
            combination_tile(
                weights, 0, rows, m, steps, first, count, x, x_at + c, sources, y, y_at + c, targets, False
            )
        c = size // panel * panel
        if c < size:
            narrow_combination_tile(
                weights, 0, rows, m, steps, first, count, x, x_at + c, sources, y, y_at + c, targets, False
            )


@njit(**INNER)
def evaluate(combinations, x, X, X_at, X_row):
    """Evaluate the rows of an image x (rows, numbers) at the points. Consecutive rows of X are X_row numbers apart."""
    for h in range(len(x)):
        combine(combinations, x[h], ZERO, X, X_at + h * X_row)


@njit(**INNER)
def differences(X, X_at, D_at, images, triples, sizes):
    """Compute before - middle and after - middle for each triple of cells (before, middle, after) of each image.

    The results are stored one after the other, starting at D_at.
    """
    size = sizes.cell
    for image in range(images):
        for triple in range(len(triples)):
            before, middle, after = triples[triple]
            for other in (before, after):
                at = X_at + image * sizes.X_image
                x, m, d = X[at + other :][:size], X[at + middle :][:size], X[D_at:][:size]
                for c in range(size):
                    d[c] = x[c] - m[c]
                D_at += size


@njit(**INNER)
def add_shared(Y, Y_at, images, Y_image, Y_row, pairs):
    """Add the first row of each pair, which is only the shared product so far, to the second row."""
    for image in range(images):
        for pair in range(len(pairs)):
            first, second = pairs[pair]
            at = Y_at + image * Y_image
            source, target = Y[at + first :][:Y_row], Y[at + second :][:Y_row]
            for c in range(Y_row):
                target[c] += source[c]


@njit(**COMPILED)
def convolve_points(x, plan, w, y):
    """Compute y (N,rows,numbers): evaluate x (N,rows,numbers) at the points, multiply by w (points,.), and interpolate.

    A thread does all steps for a group of images, in scratch buffers that stay in its cache. A class of rows is (first
    row, last row, first step, last step, whether it reads differences, whether it is added): see `Plan`.
    """
    in_parallel((len(x) + plan.group - 1) // plan.group, convolve_group_at_points, (x, plan, w, y))


@njit(**INNER)
def convolve_group_at_points(g, x, plan, w, y):
    """Compute y for group g of images: one task of `convolve_points`."""
    evaluation, interpolation, sizes, group, (rows, steps, w_steps, out), classes, triples, pairs = plan
    N, points, panel = len(x), len(w), PANEL_BYTES // x.itemsize
    X_row, X_image, Y_row, cell = sizes
    Y_image = y.shape[1] * Y_row
    n, D_at = min(g * group, N - group), points * group * X_image
    X = np.empty(D_at + group * len(triples) * 2 * cell, x.dtype)
    Y = np.empty(points * group * Y_image, x.dtype)
    for image in range(group):
        evaluate(evaluation, x[n + image], X, image * X_image, X_row)
        for t in range(points):
            end = (t * group + image) * X_image
            X[end + x.shape[1] * X_row : end + X_image] = 0
    for t in range(points):
        X_at, Y_at = t * group * X_image, t * group * Y_image
        differences(X, X_at, D_at, group, triples, sizes)
        for a in range(len(classes)):
            first_row, last_row, first, last, of_differences, added = classes[a]
            if added and not classes[a - 1, 5]:  # the first added class: the shared products are complete
                add_shared(Y, Y_at, group, Y_image, Y_row, pairs)
            at = D_at if of_differences else X_at
            for o in range(0, Y_row, panel):
                fill(
                    X, at, rows, first_row, last_row, steps, first, last - first,
                    w[t], o, w_steps, Y, Y_at + o, out, added > 0,
                )  # fmt: skip
    for image in range(group):
        for p in range(y.shape[1]):
            combine(interpolation, Y, image * Y_image + p * Y_row, y[n + image, p], ZERO)


@njit(**COMPILED)
def evaluate_images(combinations, x, X, above, X_row, X_image):
    """Evaluate the rows of x (N,rows,numbers) at the points. X has `above` rows of zeros above each image, and others
    below it."""
    in_parallel(len(x), evaluate_image, (combinations, x, X, above, X_row, X_image))


@njit(**INNER)
def evaluate_image(n, combinations, x, X, above, X_row, X_image):
    """Evaluate image n: one task of `evaluate_images`."""
    for h in range(X_image // X_row):
        if not above <= h < above + x.shape[1]:
            for target in combinations.tables.out:
                X[n * X_image + h * X_row + target :][: combinations.size] = 0
    evaluate(combinations, x[n], X, n * X_image + above * X_row, X_row)


@njit(**COMPILED)
def evaluate_taps(taps, w, W):
    """Fill W (points, numbers) from w (K,K,A,size). `Taps` defines its layout."""
    in_parallel(len(W), evaluate_taps_at_point, (taps, w, W))


@njit(**INNER)
def evaluate_taps_at_point(t, taps, w, W):
    """Fill W[t]: one task of `evaluate_taps`."""
    K, _, A, size = w.shape
    stride, sum_size = len(taps.phase_at), taps.sum_size
    for i in range(K):
        for j in range(K):
            g, at = taps.G[t, j // stride], taps.i_at[i] + taps.phase_at[j % stride]
            for a in range(A):
                source, target = w[i, j, a], W[t, at + a * taps.row_at :][:size]
                for c in range(size):
                    target[c] = g * source[c] if j < stride else target[c] + g * source[c]
    for k in range(len(taps.sums)):
        at, first, second = taps.sums[k]
        target, one, other = W[t, at:][:sum_size], W[t, first:][:sum_size], W[t, second:][:sum_size]
        for c in range(sum_size):
            target[c] = one[c] + other[c]


@njit(cache=package.cached)
def gather_taps(W, G, w):
    """Compute w[i,j] = sum_t G[t, j // stride] * W[t, i, j % stride], each (C, O). W may have more columns than w."""
    K, _, C, O = w.shape
    for tap in range(K * K):
        i, j = tap // K, tap % K
        phase, j_G = j % W.shape[2], j // W.shape[2]
        for c in range(C):
            target = w[i, j, c]
            for t in range(len(W)):
                g, source = G[t, j_G], W[t, i, phase, c][:O]
                for o in range(O):
                    target[o] = g * source[o] if t == 0 else target[o] + g * source[o]


# Tables ---------------------------------------------------------------------------------------------------------------


class Taps(NamedTuple):
    """The layout of the evaluated taps W: W[t] = sum_j G[t,j] * w[i, stride*j + phase, a, :].

    The offset in W[t] is i_at[i] + phase_at[phase] + a * row_at. Then, for each row of `sums`, sum_size numbers of W[t]
    at sums[.,0] are set to the sum of those at sums[.,1] and those at sums[.,2].
    """

    G: np.ndarray
    i_at: np.ndarray
    phase_at: np.ndarray
    row_at: int
    sums: np.ndarray  # offsets of w0 + w1, w0 and w1 in W: see `Plan`
    sum_size: int
    filled: bool  # whether the columns of all phases fill whole panels


class Sizes(NamedTuple):
    """The number of elements at one point."""

    X_row: int
    X_image: int
    Y_row: int
    cell: int


class Plan(NamedTuple):
    """The offsets at which `convolve_points` reads and writes for a group of images.

    At a point, row v of Y is the sum of all taps times a window of X. If a phase of a column has two taps, the row is
    the sum of two products, y[v] = w0 d[v] + w1 d[v+1], with cells d of X that neighbouring rows share. Then two rows
    need three products (Winograd 1980):

        shared = (w0 + w1) d[v+1]    y[v] = shared + w0 (d[v] - d[v+1])    y[v+1] = shared + w1 (d[v+2] - d[v+1])

    `classes` are computed in this order: rows that are in no pair; for each pair, `shared` in the first row and the
    rest of the sum in the second row; then `shared` is added to the second rows, and the rest of the sum to the first
    rows.
    """

    evaluation: Combinations
    interpolation: Combinations
    sizes: Sizes
    group: int
    tables: Tables
    classes: np.ndarray
    triples: np.ndarray  # offsets of the cells d[v], d[v+1], d[v+2] of the pairs of an image
    pairs: np.ndarray  # offsets of the two rows of Y of each pair


class RowWindow(NamedTuple):
    """The window of a row of Y that is in no pair: its offset in an image of X, and its steps (first, last)."""

    at: int
    steps: tuple[int, int]


class Rows(NamedTuple):
    """A class of rows of Y: their indices in an image, the offset of each window, and the steps (first, last).

    The windows are in X or, with `of_differences`, in the differences of cells.
    """

    rows: list[int]
    windows: list[int]
    steps: tuple[int, int]
    of_differences: bool = False
    added: bool = False


class Pair(NamedTuple):
    """Two rows of Y that share a product, their three cells in X, and the first steps of w0, w1 and w0 + w1."""

    rows: tuple[int, int]
    cells: tuple[int, int, int]
    steps: tuple[int, int, int]


def images_in_group(N: int, image_bytes: int, classes: list[Rows]) -> int:
    """Return how many images to compute at once: they fit in the cache, and the work for the whole batch is least.

    The work is counted in tiles for an even number of groups, so that two threads share them equally.
    """
    most = max(1, min(3 * CACHE_BYTES // image_bytes, 2 * N // CHUNKS))

    def work(n: int) -> float:
        counts = [n * len(each.rows) for each in classes]
        tiles = [count // ROWS + min(1, count % ROWS / (ROWS // 2)) for count in counts]
        steps = sum(tile * (each.steps[1] - each.steps[0]) for tile, each in zip(tiles, classes, strict=True))
        return 2 * -(-N // (2 * n)) * steps

    return min(range(1, most + 1), key=lambda n: (work(n), -n))


def plan(N: int, T: int, sizes: Sizes, windows: list[RowWindow], pairs: list[Pair], steps, dtype) -> tuple:
    """Return the offsets of the points in X and in Y, and the fields of a `Plan` from `sizes` on.

    `steps` are the offsets of all taps, followed by those of the sums of taps.
    """
    unpaired = sorted(set(range(len(windows))).difference(*(pair.rows for pair in pairs)))
    triples, cell = [], sizes.cell
    classes, last = [], []
    for each in dict.fromkeys(windows[p].steps for p in unpaired):
        rows = [p for p in unpaired if windows[p].steps == each]
        classes.append(Rows(rows, [windows[p].at for p in rows], each))
    for w0, w1, shared in dict.fromkeys(pair.steps for pair in pairs):
        same_steps = [pair for pair in pairs if pair.steps == (w0, w1, shared)]
        triples = list(dict.fromkeys([*triples, *(pair.cells for pair in same_steps)]))
        D = [2 * cell * triples.index(pair.cells) for pair in same_steps]
        first, second = map(list, zip(*(pair.rows for pair in same_steps), strict=True))
        classes.append(Rows(first, [pair.cells[1] - steps[shared] for pair in same_steps], (shared, shared + cell)))
        classes.append(Rows(second, [at + cell - steps[w1] for at in D], (w1, w1 + cell), of_differences=True))
        last.append(Rows(first, [at - steps[w0] for at in D], (w0, w0 + cell), of_differences=True, added=True))
    classes += last

    X_image, Y_row = sizes.X_image, sizes.Y_row
    Y_image, D_image = len(windows) * Y_row, 2 * cell * len(triples)
    group = images_in_group(N, (T * (X_image + Y_image) + D_image) * dtype.itemsize, classes)
    images, t = np.arange(group), np.arange(T) * group
    starts, ends, rows = stacked(
        [offsets(np.array(c.windows), images * (D_image if c.of_differences else X_image)) for c in classes]
    )
    out = stacked([offsets(np.array(c.rows) * Y_row, images * Y_image) for c in classes])[2]
    table = [(*ends_, *c.steps, c.of_differences, c.added) for *ends_, c in zip(starts, ends, classes, strict=True)]
    return t * X_image, t * Y_image, (
        sizes, group, Tables(rows, steps, np.arange(len(steps)) * Y_row, out), np.array(table),
        np.array(triples, int).reshape(-1, 3), np.array([pair.rows for pair in pairs], int).reshape(-1, 2) * Y_row,
    )  # fmt: skip


@functools.lru_cache(maxsize=256)
def window_plan(x_shape, K, stride, before, y_shape, dtype) -> tuple[Taps, Plan]:
    """Return the layout of the taps and the plan of `conv2d`.

    At each point an image is one pixel wide and has stride * C channels (phase, c). A cell consists of `stride` rows,
    on which one row of taps of each phase acts.
    """
    (N, H, W, C), (_, P, Q, O) = x_shape, y_shape
    matrices, X_row, Y_row = row(W, K, stride, before, Q), stride * C, whole_columns(O, dtype)
    windows = []
    for p in range(P):
        first, end = max(0, before - p * stride), min(K, H + before - p * stride)  # taps inside the image
        windows.append(RowWindow((p * stride - before) * X_row, (first * X_row, max(first, end) * X_row)))
    cell, pairs = stride * X_row, []
    if two_taps(K, stride):
        for p in range(-(-before // stride), P - 1, 2):
            at = windows[p].at
            pairs.append(Pair((p, p + 1), (at, at + cell, at + 2 * cell), (0, cell, 2 * cell)))
    X_image = max([H * X_row, *(pair.cells[2] + cell for pair in pairs)])  # the image is followed by zeros
    steps = np.arange(K * X_row + (cell if pairs else 0))
    sizes = Sizes(X_row, X_image, Y_row, cell)
    X_at, Y_at, rest = plan(N, len(matrices.A), sizes, windows, pairs, steps, dtype)
    B = matrices.B.transpose(1, 0, 2).reshape(-1, W)  # (phases * T, W): the rows of a phase read the same pixels
    evaluation = Combinations.of(B, offsets(np.arange(stride) * C, X_at), np.arange(W) * C, C, dtype)
    interpolation = Combinations.of(matrices.A.T, np.arange(Q) * O, Y_at, O, dtype)
    sums = np.array([[2, 0, 1]] if pairs else [], int).reshape(-1, 3) * cell * Y_row
    i_at, phase_at = np.arange(K) * X_row * Y_row, np.arange(stride) * C * Y_row
    taps = Taps(matrices.G.astype(dtype), i_at, phase_at, Y_row, sums, cell * Y_row, Y_row == O)
    return taps, Plan(evaluation, interpolation, *rest)


@functools.lru_cache(maxsize=256)
def residue_plan(dy_shape, K, stride, before, dx_shape, dtype) -> tuple[Taps, Plan]:
    """Return the layout of the taps and the plan of `conv2d_grad_x`.

    Row h of dx has the taps i with p*stride + i = h + before for a row p of dy, as in `microkernel.residue_plan`. Taps
    with the same residue are stored consecutively. The channels of Y are (phase, c). A cell is a row of dy.
    """
    (N, P, Q, O), (_, H, W, C) = dy_shape, dx_shape
    matrices, Y_row = row(W, K, stride, before, Q), whole_columns(stride * C, dtype)
    positions, windows, pairs = tap_positions(K, stride), [], []
    for h in range(H):
        taps = [i for i in range((h + before) % stride, K, stride) if 0 <= (h + before - i) // stride < P]
        used = (positions[taps[0]] * O, (positions[taps[-1]] + 1) * O) if taps else (0, 0)
        windows.append(RowWindow((h + before) // stride * O, used))
    steps = [offsets(-np.arange(len(range(a, K, stride))) * O, np.arange(O)) for a in range(stride)]
    if two_taps(K, stride):
        for a in range(stride):
            for p in range(1, P - 1, 2):
                h = p * stride + a - before
                if h >= 0 and h + stride < H:
                    cells, first = ((p - 1) * O, p * O, (p + 1) * O), (positions[a + stride], positions[a], K + a)
                    pairs.append(Pair((h, h + stride), cells, tuple(int(place) * O for place in first)))
        steps += [np.arange(O)] * stride
    sizes = Sizes(O, P * O, Y_row, O)
    X_at, Y_at, rest = plan(N, len(matrices.A), sizes, windows, pairs, np.concatenate(steps), dtype)
    phases, v = np.arange(stride), np.argsort((np.arange(W) + before) % stride, kind="stable")
    B = matrices.B.transpose(2, 0, 1).reshape(W, -1)[v]  # (W, T * phases): the pixels of a phase read the same points
    interpolation = Combinations.of(B, v * C, offsets(Y_at, phases * C), C, dtype)
    evaluation = Combinations.of(matrices.A, X_at, np.arange(Q) * O, O, dtype)
    sums = [(shared, w0, w1) for w0, w1, shared in dict.fromkeys(pair.steps for pair in pairs)]
    sums = np.array(sums, int).reshape(-1, 3) * Y_row
    taps = Taps(
        matrices.G.astype(dtype), positions * O * Y_row, phases * C, Y_row, sums, O * Y_row, Y_row == stride * C
    )
    return taps, Plan(evaluation, interpolation, *rest)


def two_taps(K: int, stride: int) -> bool:
    """Return whether each phase of a column has two taps, so that rows of Y are computed in pairs: see `Plan`."""
    return K == 2 * stride


class GradientPlan(NamedTuple):
    """The offsets at which `conv2d_grad_w` reads and writes.

    At each point these are X (image, row, phase, c) and dY (image, p, o) of a group of images, and dW (i, phase, c, o).
    The rows of dW are taps, and its sums are over the pixels of the batch.
    """

    group: int
    G: np.ndarray
    evaluate_X: Combinations
    evaluate_dY: Combinations
    X_row: int
    X_image: int
    X_size: int
    dY_row: int
    dY_size: int
    tables: Tables  # rows: taps; steps: pixels
    tasks: np.ndarray


@functools.lru_cache(maxsize=256)
def gradient_plan(dy_shape, x_shape, K, stride, before, dtype) -> GradientPlan:
    """Return the plan of `conv2d_grad_w`."""
    (N, P, Q, O), (_, H, W, C) = dy_shape, x_shape
    matrices = row(W, K, stride, before, Q)
    T, X_row, dY_row = len(matrices.A), stride * C, whole_columns(O, dtype)
    X_image = (before + max(H, (P - 1) * stride + K - before)) * X_row
    group = -(-N // -(-N * T * (X_image + P * dY_row) * dtype.itemsize // GROUP_BYTES))  # sizes of groups hardly differ
    t, n, p, taps = np.arange(T), np.arange(group), np.arange(P), K * X_row
    B = matrices.B.transpose(1, 0, 2).reshape(-1, W)  # (phases * T, W)
    evaluate_X = Combinations.of(B, offsets(np.arange(stride) * C, t * group * X_image), np.arange(W) * C, C, dtype)
    evaluate_dY = Combinations.of(matrices.A, t * group * P * dY_row, np.arange(Q) * O, O, dtype)
    t, first, o = t[:, None, None], np.arange(0, taps, HIGH)[:, None], np.arange(0, dY_row, panel_width(dtype))
    tables = Tables(
        whole_tiles(np.arange(taps)), offsets(n * X_image, p * stride * X_row),
        offsets(n * P * dY_row, p * dY_row), whole_tiles(np.arange(taps) * dY_row),
    )  # fmt: skip
    return GradientPlan(
        group, matrices.G.astype(dtype), evaluate_X, evaluate_dY,
        X_row, X_image, T * group * X_image, dY_row, T * group * P * dY_row, tables,
        tasks(t * group * X_image, t * group * P * dY_row + o, t * taps * dY_row + o,
              (first, np.minimum(first + HIGH, taps)), (0, group * P)),
    )  # fmt: skip


def tap_positions(K: int, stride: int) -> np.ndarray:
    """Return the position of each tap if taps with the same residue modulo the stride are stored consecutively."""
    order = [i for a in range(stride) for i in range(a, K, stride)]
    return np.argsort(order)


# The operations that the backend calls --------------------------------------------------------------------------------


def work(x_shape: tuple[int, ...], w_shape: tuple[int, ...], stride: int, before: int, P: int, Q: int, dtype) -> float:
    """Return the cost in multiplications of the plain sum, which is infinite for shapes that are not supported."""
    (N, H, W, C), (K, _, _, O), lanes = x_shape, w_shape, VECTOR_BYTES // dtype.itemsize
    if not stride < K <= MOST_TAPS * stride or C % lanes or O % lanes:
        return np.inf
    T = len(row(W, K, stride, before, Q).A)
    combinations = HEIGHT * (H * stride * T * C + P * Q * O)
    rows = 3 / 4 * K if two_taps(K, stride) else K
    return MARGIN * N * (P * rows * stride * T * C * O + 2 * combinations)


def conv2d(x: np.ndarray, w: np.ndarray, stride: int, before: int, P: int, Q: int) -> np.ndarray:
    """Compute the convolution: (N,H,W,C), (K,K,C,O) -> (N,P,Q,O)."""
    y = np.empty((len(x), P, Q, w.shape[3]), x.dtype)
    plans = window_plan(x.shape, w.shape[0], stride, before, y.shape, x.dtype)
    return convolve(x, w, y, *plans)


def conv2d_grad_x(dy: np.ndarray, w: np.ndarray, H: int, W: int, stride: int, before: int) -> np.ndarray:
    """Compute the input gradient: (N,P,Q,O), (K,K,C,O) -> (N,H,W,C)."""
    dx = np.empty((len(dy), H, W, w.shape[2]), dy.dtype)
    plans = residue_plan(dy.shape, w.shape[0], stride, before, dx.shape, dy.dtype)
    taps = np.ascontiguousarray(w.transpose(0, 1, 3, 2))  # (K,K,O,C)
    return convolve(dy, taps, dx, *plans)


def allocate(shape, filled: bool, dtype) -> np.ndarray:
    """Allocate an array. It is set to zero only if its columns do not fill whole panels, because zeroing takes time."""
    return np.empty(shape, dtype) if filled else np.zeros(shape, dtype)


def convolve(x: np.ndarray, w: np.ndarray, y: np.ndarray, taps: Taps, plan: Plan) -> np.ndarray:
    """Evaluate w and x at the points, and fill y with their convolution."""
    w_points = allocate((len(taps.G), len(plan.tables.steps) * taps.row_at), taps.filled, x.dtype)
    evaluate_taps(taps, w, w_points)
    convolve_points(x.reshape(*x.shape[:2], -1), plan, w_points, y.reshape(*y.shape[:2], -1))
    return y


def conv2d_grad_w(dy: np.ndarray, x: np.ndarray, K: int, stride: int, before: int) -> np.ndarray:
    """Compute the weight gradient: (N,P,Q,O), (N,H,W,C) -> (K,K,C,O)."""
    (N, P, _, O), (_, H, _, C) = dy.shape, x.shape
    p = gradient_plan(dy.shape, x.shape, K, stride, before, x.dtype)
    X, dY = np.empty(p.X_size, x.dtype), allocate(p.dY_size, p.dY_row == O, x.dtype)
    dW, dw = np.empty((len(p.G), K, stride, C, p.dY_row), x.dtype), np.empty((K, K, C, O), x.dtype)
    x, dy = x.reshape(N, H, -1), dy.reshape(N, P, -1)
    for n in range(0, N, p.group):
        x_, dy_, tasks = x[n : n + p.group], dy[n : n + p.group], p.tasks
        if len(x_) < p.group:
            tasks = tasks.copy()
            tasks[:, -1] = len(x_) * P
        evaluate_images(p.evaluate_X, x_, X, before, p.X_row, p.X_image)
        evaluate_images(p.evaluate_dY, dy_, dY, 0, p.dY_row, P * p.dY_row)
        products(p.tables, tasks, X, dY, dW.reshape(-1), n > 0)
    gather_taps(dW, p.G, dw)
    return dw
