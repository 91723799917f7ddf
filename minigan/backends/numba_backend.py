"""The compiled CPU backend (see `minigan.backends` for the contract).

Three ways to the same sums, each the check of the next:

    *_loops      the plain loops: the specification, and the path of every machine and dtype that the tile does not serve
    the tile     `microkernel` does the arithmetic; here are the tables of offsets that make it a convolution
    fourier_*    fewer multiplications, for small maps with many channels

The results do not depend on the number of threads, to the bit: work is cut into pieces whose size never depends on it,
each output is summed by one thread in one order, and partial sums are added in a fixed order.
"""

import functools
import os
import warnings
from typing import NamedTuple

import numpy as np
import threadpoolctl

from minigan.backends import conv_size, pads


def cores() -> int:
    """The number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# Numba fixes its largest number of threads at import: 16 or more, so that set_threads(n) may exceed the cores.
USER_THREADS = os.environ.get("NUMBA_NUM_THREADS")
os.environ.setdefault("NUMBA_NUM_THREADS", str(max(cores(), 16)))

import numba  # noqa: E402
from numba import njit, prange  # noqa: E402

from minigan.backends import microkernel  # noqa: E402
from minigan.backends.microkernel import panel_width, panels, whole_columns, whole_panels, whole_tiles  # noqa: E402
from minigan.backends.numba_passes import (  # noqa: E402, F401
    adam,
    batchnorm,
    batchnorm_grad,
    dropout,
    leaky_relu,
    leaky_relu_grad,
    sum_rows,
)

NAME = "numba"
xp = np

CACHE_BYTES = 256 * 1024  # padded images for the tile: what half of a small second-level cache holds
CHUNKS = 8  # partial sums of a weight gradient; fixed, since the bits of the result depend on it


def asarray(x, dtype=None) -> np.ndarray:
    return np.asarray(x, dtype=dtype)


def to_numpy(x) -> np.ndarray:
    return np.asarray(x)


def synchronize() -> None:
    """Compiled loops return when the work is done."""


def set_threads(n: int | None) -> None:
    """The threads of compiled loops and of NumPy's matrix products; None: one for each core, or NUMBA_NUM_THREADS."""
    if n is None:
        n = int(USER_THREADS or cores())
    numba.set_num_threads(min(n, numba.config.NUMBA_NUM_THREADS))
    threadpoolctl.threadpool_limits(n, user_api="blas")


def conv2d(x: np.ndarray, w: np.ndarray, stride: int, pad: int | tuple[int, int]) -> np.ndarray:
    """y[n,p,q,o] = sum_ijc xpad[n, p*stride+i, q*stride+j, c] * w[i,j,c,o]; (N,H,W,C), (K,K,C,O) -> (N,P,Q,O)"""
    x, w = contiguous(x, w)
    (N, H, W, C), (K, _, _, O) = x.shape, w.shape
    agree("x and w", C, w.shape[2])
    P, Q, before = conv_size(H, K, stride, pad), conv_size(W, K, stride, pad), pads(pad)[0]
    if not tiled(x, w):
        return conv2d_loops(x, w, stride, before, P, Q)
    if few(O, x) and stride == 1 and before < K:  # as the input gradient that it also is
        return spread(x, mirrored(w), P, Q, 1, K - 1 - before)
    transform = fourier_transform(H, W, K, stride, before, P, Q, x.dtype)
    if transform.pays(N, C, O, x.dtype):
        return fourier_conv2d(x, w, (N, P, Q, O), transform)
    y = np.empty((N, P, Q, whole_columns(O, x.dtype)), x.dtype)
    return convolve(x, [w.reshape(K * K * C, O)], y, window_plan(N, H, W, C, K, stride, before, y.shape, x.itemsize))


def conv2d_grad_x(
    dy: np.ndarray, w: np.ndarray, x_shape: tuple[int, ...], stride: int, pad: int | tuple[int, int]
) -> np.ndarray:
    """dx[n,h,v,c] = sum of dy[n,p,q,o] * w[i,j,c,o] where p*stride+i is row h and q*stride+j column v of xpad.

    (N,P,Q,O), (K,K,C,O) -> (N,H,W,C)
    """
    dy, w = contiguous(dy, w)
    (N, P, Q, O), (_, H, W, C), K, before = dy.shape, x_shape, len(w), pads(pad)[0]
    agree("dy and w", O, w.shape[3])
    agree("x and w", C, w.shape[2])
    if not tiled(dy, w):
        return conv2d_grad_x_loops(dy, w, H, W, stride, before)
    if few(C, dy):
        return spread(dy, w, H, W, stride, before)
    transform = fourier_transform(H, W, K, stride, before, P, Q, dy.dtype)
    if transform.pays(N, C, O, dy.dtype):
        return fourier_grad_x(dy, w, x_shape, transform)
    dx = np.empty((N, H, W, whole_columns(C, dy.dtype)), dy.dtype)
    taps = w.transpose(0, 1, 3, 2)  # (K,K,O,C)
    classes = [taps[a::stride, b::stride].reshape(-1, C) for a in range(stride) for b in range(stride)]
    return convolve(dy, classes, dx, residue_plan(dy.shape, K, stride, before, dx.shape, dy.itemsize))


def conv2d_grad_w(
    dy: np.ndarray, x: np.ndarray, w_shape: tuple[int, ...], stride: int, pad: int | tuple[int, int]
) -> np.ndarray:
    """dw[i,j,c,o] = sum_npq xpad[n, p*stride+i, q*stride+j, c] * dy[n,p,q,o]; (N,P,Q,O), (N,H,W,C) -> (K,K,C,O)"""
    dy, x = contiguous(dy, x)
    (N, P, Q, O), (_, H, W, C), K, before = dy.shape, x.shape, w_shape[0], pads(pad)[0]
    agree("dy and x", N, len(x))
    agree("dy and w", O, w_shape[3])
    agree("x and w", C, w_shape[2])
    if not tiled(dy, x):
        return conv2d_grad_w_loops(dy, x, K, stride, before)
    if few(O, dy) and not few(C, dy) and stride == 1 and before < K:  # x and dy change places
        return mirrored(conv2d_grad_w(x, dy, (K, K, O, C), 1, K - 1 - before))
    transform = fourier_transform(H, W, K, stride, before, P, Q, dy.dtype)
    if transform.pays(N, C, O, dy.dtype):
        return fourier_grad_w(dy, x, w_shape, transform)
    return correlate(dy, x, window_plan(N, H, W, C, K, stride, before, dy.shape, x.itemsize), K)


def contiguous(*arrays: np.ndarray) -> list[np.ndarray]:
    """The arrays in C order and of one dtype."""
    dtype = np.result_type(*arrays)
    return [np.ascontiguousarray(array, dtype) for array in arrays]


def agree(names: str, a: int, b: int) -> None:
    """Compiled loops check no bounds, so sizes that must be equal are compared here."""
    if a != b:
        raise ValueError(f"{names} do not belong together: {a} against {b}")


def mirrored(w: np.ndarray) -> np.ndarray:
    """(K,K,C,O) -> (K,K,O,C), turned by half a turn: the weight of the transposed convolution."""
    return np.ascontiguousarray(w[::-1, ::-1].transpose(0, 1, 3, 2))


# The plain loops ------------------------------------------------------------------------------------------------------


@njit(parallel=True, cache=True)
def conv2d_loops(x, w, stride, before, P, Q):
    N, H, W, C = x.shape
    K, O = w.shape[1], w.shape[3]
    y = np.zeros((N, P, Q, O), x.dtype)
    for n in prange(N):
        for p in range(P):
            for i in range(K):
                h = p * stride + i - before
                if 0 <= h < H:
                    for q in range(Q):
                        for j in range(K):
                            v = q * stride + j - before
                            if 0 <= v < W:
                                for c in range(C):
                                    for o in range(O):
                                        y[n, p, q, o] += x[n, h, v, c] * w[i, j, c, o]
    return y


@njit(parallel=True, cache=True)
def conv2d_grad_x_loops(dy, w, H, W, stride, before):
    N, P, Q, O = dy.shape
    K, C = w.shape[1], w.shape[2]
    dx = np.zeros((N, H, W, C), dy.dtype)
    for n in prange(N):
        for p in range(P):
            for i in range(K):
                h = p * stride + i - before
                if 0 <= h < H:
                    for q in range(Q):
                        for j in range(K):
                            v = q * stride + j - before
                            if 0 <= v < W:
                                for c in range(C):
                                    for o in range(O):
                                        dx[n, h, v, c] += dy[n, p, q, o] * w[i, j, c, o]
    return dx


@njit(parallel=True, cache=True)
def conv2d_grad_w_loops(dy, x, K, stride, before):
    N, P, Q, O = dy.shape
    _, H, W, C = x.shape
    dw = np.zeros((K, K, C, O), x.dtype)
    for tap in prange(K * K):  # each thread owns its taps: nothing is shared, nothing depends on their number
        i, j = tap // K, tap % K
        for n in range(N):
            for p in range(P):
                h = p * stride + i - before
                if 0 <= h < H:
                    for q in range(Q):
                        v = q * stride + j - before
                        if 0 <= v < W:
                            for c in range(C):
                                for o in range(O):
                                    dw[i, j, c, o] += x[n, h, v, c] * dy[n, p, q, o]
    return dw


# The tile -------------------------------------------------------------------------------------------------------------


def tiled(*arrays: np.ndarray) -> bool:
    """Whether the tile serves these arrays: float32 or float64, none of them empty."""
    return arrays[0].dtype in (np.float32, np.float64) and all(array.size for array in arrays) and tile_works()


@functools.cache
def tile_works() -> bool:
    """Compiles the tile on a small product; on a machine where that fails, says so once."""
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    try:
        works, cause = np.array_equal(matmul(x, x.T), np.array([[5, 14], [14, 50]])), "its result is wrong"
    except Exception as error:  # whatever the compiler may say: the loops serve
        works, cause = False, str(error)
    if not works:
        warnings.warn(f"the fast convolutions do not run here ({cause}): plain loops take their place", stacklevel=2)
    return works


def few(channels: int, x: np.ndarray) -> bool:
    """Whether so few channels would leave most of a panel empty."""
    return 4 * channels <= panel_width(x.dtype)


class Plan(NamedTuple):
    """Where the tile reads and writes: offsets of rows (pixels) and steps (taps) for a group of padded images.

    Class a has rows row_starts[a] to row_starts[a+1] and steps step_starts[a] to step_starts[a+1].
    """

    padded: tuple[int, int, int]  # zeros before the image; height and width with the zeros
    group: int
    rows: np.ndarray
    row_starts: np.ndarray
    steps: np.ndarray
    step_starts: np.ndarray
    out: np.ndarray


def offsets(*axes: np.ndarray) -> np.ndarray:
    """Every sum of one number from each axis, the last axis fastest."""
    return functools.reduce(np.add.outer, axes).ravel()


def images_in_cache(N: int, image_bytes: int, pixels: int) -> int:
    """How many images a thread pads at once: they fit in its cache, and their pixels fill whole tiles, or nearly."""
    most = max(1, min(CACHE_BYTES // image_bytes, N // CHUNKS))
    return max(range(1, most + 1), key=lambda n: (round(n * pixels / len(whole_tiles(np.arange(n * pixels))), 2), n))


@functools.lru_cache(maxsize=256)
def window_plan(N, H, W, C, K, stride, before, y_shape, itemsize) -> Plan:
    """conv2d: row = output pixel (p,q), step = tap (i,j,c)."""
    _, P, Q, O = y_shape
    Hp, Wp = max(H + before, (P - 1) * stride + K), max(W + before, (Q - 1) * stride + K)
    group = images_in_cache(N, Hp * Wp * C * itemsize, P * Q)
    images, p, q, k = (np.arange(n) for n in (group, P, Q, K))
    rows = whole_tiles(offsets(images * Hp * Wp * C, p * stride * Wp * C, q * stride * C))
    steps = offsets(k * Wp * C, k * C, np.arange(C))
    out = whole_tiles(np.arange(group * P * Q) * O)
    return Plan((before, Hp, Wp), group, rows, np.array([0, len(rows)]), steps, np.array([0, len(steps)]), out)


@functools.lru_cache(maxsize=256)
def residue_plan(dy_shape, K, stride, before, dx_shape, itemsize) -> Plan:
    """conv2d_grad_x: pixel h of x was read by the taps i with p*stride + i = h + before.

    So all pixels with the same (h + before) % stride = a have the same taps a, a+stride, a+2*stride, ... and read
    dy at p, p-1, p-2, ...: they are one class, with a small stride-1 convolution of its own.
    """
    (N, P, Q, O), (_, H, W, C) = dy_shape, dx_shape
    reach = (K - 1) // stride  # how far before p the last tap reads
    Pp, Qp = (reach + max(size, (pixels - 1 + before) // stride + 1) for size, pixels in ((P, H), (Q, W)))
    group = images_in_cache(N, Pp * Qp * O * itemsize, H * W)
    images, o = np.arange(group), np.arange(O)
    rows, steps, out = [], [], []
    for a in range(stride):
        for b in range(stride):
            h, v = (np.arange((residue - before) % stride, size, stride) for residue, size in ((a, H), (b, W)))
            p, q = reach + (h + before) // stride, reach + (v + before) // stride
            i, j = np.arange(len(range(a, K, stride))), np.arange(len(range(b, K, stride)))
            rows.append(whole_tiles(offsets(images * Pp * Qp * O, p * Qp * O, q * O)))
            steps.append(offsets(-i * Qp * O, -j * O, o))
            out.append(whole_tiles(offsets(images * H * W * C, h * W * C, v * C)))
    starts = [np.cumsum([0, *map(len, tables)]) for tables in (rows, steps)]
    return Plan(
        (reach, Pp, Qp), group, np.concatenate(rows), starts[0], np.concatenate(steps), starts[1], np.concatenate(out)
    )


def convolve(x: np.ndarray, classes: list[np.ndarray], y: np.ndarray, plan: Plan) -> np.ndarray:
    """Fills y, whose channels are whole panels, and returns those that belong to w; classes: (taps, columns) each."""
    columns = classes[0].shape[1]
    w = np.concatenate([panels(part).ravel() for part in classes])
    w_steps = np.arange(len(plan.steps)) * panel_width(x.dtype)
    microkernel.convolve(
        x, *plan.padded, plan.group, plan.rows, plan.row_starts, plan.steps, plan.step_starts, w, w_steps, y, plan.out
    )
    return np.ascontiguousarray(y[..., :columns])


def correlate(dy: np.ndarray, x: np.ndarray, plan: Plan, K: int) -> np.ndarray:
    """conv2d_grad_w: conv2d's plan with rows and steps exchanged."""
    (N, _, _, O), C = dy.shape, x.shape[3]
    dy = whole_panels(dy)
    columns = dy.shape[3]
    taps, pixels = whole_tiles(plan.steps), plan.rows
    parts = np.empty((min(CHUNKS, N), K * K * C, columns), dy.dtype)
    dy_steps, out = np.arange(len(pixels)) * columns, whole_tiles(np.arange(K * K * C) * columns)
    microkernel.correlate(x, *plan.padded, plan.group, taps, pixels, dy, dy_steps, parts, out)
    return np.ascontiguousarray(parts.sum(axis=0)[:, :O]).reshape(K, K, C, O)


def spread(dy: np.ndarray, w: np.ndarray, H: int, W: int, stride: int, before: int) -> np.ndarray:
    """conv2d_grad_x for few channels: all K*K*C products of a pixel of dy fill a panel where its C would not."""
    (N, P, Q, O), (K, _, C, _) = dy.shape, w.shape
    w = panels(w.reshape(K * K * C, O).T)
    rows, out = (whole_tiles(np.arange(P * Q) * size) for size in (O, w.shape[0] * w.shape[2]))
    steps = np.arange(O)
    dx = np.empty((N, H, W, C), dy.dtype)
    microkernel.spread(dy, w.ravel(), rows, steps, steps * w.shape[2], out, dx, K, stride, before)
    return dx


def matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a @ b for matrices (M,K), (K,N), contiguous or transposed; the same bits for any number of threads."""
    a, b = (x if x.flags.c_contiguous or x.T.flags.c_contiguous else np.ascontiguousarray(x) for x in (a, b))
    (M, K), N = a.shape, b.shape[1]
    w = panels(b)
    a_row, a_step = (stride // a.itemsize for stride in a.strides)
    count, _, width = w.shape
    y = np.empty((M, count * width), a.dtype)
    block = min(M, 256)  # rows of one task; the last block begins early enough to be whole
    block_starts = np.minimum(np.arange(0, M, block), M - block)
    first_row, panel = (offset.ravel() for offset in np.meshgrid(block_starts, np.arange(count), indexing="ij"))
    rows, steps = np.arange(block), np.arange(K)
    products(
        a.ravel(order="K"), first_row * a_row, rows * a_row, steps * a_step,
        w, panel * K * width, steps * width,
        y, first_row * count * width + panel * width, rows * count * width,
    )  # fmt: skip
    return np.ascontiguousarray(y[:, :N])


# Fewer multiplications ------------------------------------------------------------------------------------------------
#
# The discrete Fourier transform turns a circular convolution into one product for each frequency. A stride of s makes
# s * s "phases" of every image, (a, b) holding every s-th row from a and every s-th column from b: on each the kernel's
# taps of the same phase act with stride 1, and the results add up. Written with real matrices only,
#
#     y = A.T @ sum over phases of (B @ x) * (G @ w)
#     dx = B.T @ ((A @ dy) * (G @ w))        dw = G.T @ ((B @ x) * (A @ dy))
#
# where A, B and G act on the pixels of one channel. Only the product in the middle meets every pair of channels, so only
# the number of its rows, the rank, counts when the channels are many: 121 for a 5x5 kernel on a 7x7 map, where the plain
# sum has 7*7*5*5 = 1225. (Winograd's convolutions have the same form and fewer rows, but lose digits in float32, and the
# more the larger the kernel. A Fourier transform loses none.)


class Phase(NamedTuple):
    """One of the stride*stride sub-images."""

    B: np.ndarray  # (rank, pixels of x in this phase)
    pixels: np.ndarray  # h*W + v of each
    G: np.ndarray  # (rank, taps of w in this phase)
    taps: np.ndarray  # i*K + j of each


class Transform(NamedTuple):
    A: np.ndarray  # (rank, P*Q)
    phases: list[Phase]

    @property
    def inputs(self) -> list[tuple[np.ndarray, np.ndarray]]:
        return [(phase.B, phase.pixels) for phase in self.phases]

    @property
    def outputs(self) -> list[tuple[np.ndarray, np.ndarray]]:
        return [(self.A, np.arange(self.A.shape[1]))]

    def pays(self, N: int, C: int, O: int, dtype) -> bool:
        """Whether this is faster than the plain sum: counted in multiplications, with a margin for the extra memory."""
        rank, outputs = self.A.shape
        inputs, taps = (sum(len(phase[k]) for phase in self.phases) for k in (1, 3))
        plain = N * outputs * taps * C * O
        fourier = rank * (N * len(self.phases) * C * O + N * inputs * C + N * outputs * O + taps * C * O)
        return C % panel_width(dtype) == 0 and O % panel_width(dtype) == 0 and 1.5 * fourier < plain


@functools.lru_cache(maxsize=64)
def fourier_transform(H: int, W: int, K: int, stride: int, before: int, P: int, Q: int, dtype) -> Transform:
    """The matrices, from float64.

    With phase coordinates m of x, t of w and p of y, all of them along one axis: y[p] = sum_t x[p+t] * w[t]. A circle of
    M places is long enough when no x[m] is taken for another x[p+t]. Then, with f the frequency and phi = 2 pi f / M,

        Y = X * conj(W),  X = sum_m x[m] exp(-i phi m),  W = sum_t w[t] exp(-i phi t),  y[p] = 1/M sum_f Y exp(i phi p)

    in two dimensions likewise. Of the frequencies f and -f one is enough, since x, w and y are real, and three real
    products make a complex one (Gauss): with k1 = wr*(xr+xi), k2 = xr*(wi-wr), k3 = xi*(wr+wi),
    (xr + i xi) * (wr + i wi) = (k1 - k3) + i (k1 + k2).
    """
    M1, row_phases = circle(H, K, stride, before, P)
    M2, column_phases = circle(W, K, stride, before, Q)
    f = np.argwhere(np.ones((M1, M2)))
    place, opposite = f @ [M2, 1], (-f % [M1, M2]) @ [M2, 1]
    real, pairs = f[place == opposite], f[place < opposite]  # X is real at f = -f

    def waves(f, m1, m2):
        """cos and sin of f1*m1 + f2*m2 turns: (frequencies, places)"""
        angle = 2 * np.pi * (np.outer(f[:, 0], m1)[:, :, None] / M1 + np.outer(f[:, 1], m2)[:, None, :] / M2)
        angle = angle.reshape(len(f), len(m1) * len(m2))
        return np.cos(angle), np.sin(angle)

    def matrix(*blocks):
        return np.concatenate(blocks).astype(dtype)

    p, q = np.arange(P), np.arange(Q)
    one, (cos, sin) = waves(real, p, q)[0], waves(pairs, p, q)
    A = matrix(one, 2 * (cos - sin), -2 * sin, -2 * cos) / dtype.type(M1 * M2)
    phases = []
    for h, m1, i, t1 in row_phases:
        for v, m2, j, t2 in column_phases:
            one, (cos, sin) = waves(real, m1, m2)[0], waves(pairs, m1, m2)
            B = matrix(one, cos - sin, cos, -sin)
            one, (cos, sin) = waves(real, t1, t2)[0], waves(pairs, t1, t2)
            G = matrix(one, cos, sin - cos, cos + sin)
            phases.append(Phase(B, offsets(h * W, v), G, offsets(i * K, j)))
    return Transform(A, phases)


def circle(size: int, K: int, stride: int, before: int, outputs: int) -> tuple[int, list[tuple[np.ndarray, ...]]]:
    """Along one axis: the places M of a circle that is long enough, and for each phase its pixels h at the coordinates
    m and its taps i at the coordinates t."""
    phases, M = [], 1
    for a in range(stride):
        h, i = np.arange((a - before) % stride, size, stride), np.arange(a, K, stride)
        m, t = (h + before) // stride, i // stride
        phases.append((h, m, i, t))
        if len(m) and len(t):
            M = max(M, outputs + t[-1] - m[0], m[-1] + 1)
    return M, phases


def fourier_conv2d(x: np.ndarray, w: np.ndarray, y_shape: tuple[int, ...], transform: Transform) -> np.ndarray:
    C, S = x.shape[3], len(transform.phases)
    X = spectrum(x, transform.inputs)  # (rank, N, S*C)
    G_w = weight_panels(w, transform.phases, S * C, C * panel_width(w.dtype))
    return from_spectrum(spectral_product(X, G_w), transform.outputs, y_shape)


def fourier_grad_x(dy: np.ndarray, w: np.ndarray, x_shape: tuple[int, ...], transform: Transform) -> np.ndarray:
    C, O = w.shape[2:]
    dY = spectrum(dy, transform.outputs)  # (rank, N, O)
    G_w = weight_panels(np.ascontiguousarray(w.transpose(0, 1, 3, 2)), transform.phases, O, C * O)
    return from_spectrum(spectral_product(dY, G_w), transform.inputs, x_shape)


def fourier_grad_w(dy: np.ndarray, x: np.ndarray, w_shape: tuple[int, ...], transform: Transform) -> np.ndarray:
    _, _, C, O = w_shape
    X, dY = spectrum(x, transform.inputs), spectrum(dy, transform.outputs)
    rank, N, SC = X.shape
    r, o = np.arange(rank), panel_starts(O, x.dtype)
    dW = np.empty((rank, SC, O), x.dtype)
    products(
        X, offsets(r * N * SC, 0 * o), np.arange(SC), np.arange(N) * SC,
        dY, offsets(r * N * O, o), np.arange(N) * O,
        dW, offsets(r * SC * O, o), np.arange(SC) * O,
    )  # fmt: skip
    dw = np.empty(w_shape, x.dtype)
    at = offsets(np.arange(C) * O, o)
    for s, (_, _, G, taps) in enumerate(transform.phases):
        apply(G.T, dW, s * C * O + at, r * SC * O, dw, at, taps * C * O)
    return dw


def spectrum(x: np.ndarray, matrices: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """(N,H,W,C) -> (rank, N, S*C): one matrix (rank, pixels) and the numbers of its pixels for each of S phases."""
    N, C, S, rank = len(x), x.shape[3], len(matrices), len(matrices[0][0])
    X = np.empty((rank, N, S * C), x.dtype)
    n, c = np.arange(N), panel_starts(C, x.dtype)
    for s, (matrix, pixels) in enumerate(matrices):
        x_at, X_at = offsets(n * x[0].size, c), offsets(n * S * C, s * C + c)
        apply(matrix, x, x_at, pixels * C, X, X_at, np.arange(rank) * X[0].size)
    return X


def from_spectrum(X: np.ndarray, matrices: list[tuple[np.ndarray, np.ndarray]], x_shape: tuple[int, ...]) -> np.ndarray:
    """(rank, N, S*C) -> (N,H,W,C) by the transposed matrices."""
    x = np.empty(x_shape, X.dtype)
    N, C, S, rank = len(x), x.shape[3], len(matrices), len(X)
    n, c = np.arange(N), panel_starts(C, x.dtype)
    for s, (matrix, pixels) in enumerate(matrices):
        x_at, X_at = offsets(n * x[0].size, c), offsets(n * S * C, s * C + c)
        apply(matrix.T, X, X_at, np.arange(rank) * X[0].size, x, x_at, pixels * C)
    return x


def weight_panels(w: np.ndarray, phases: list[Phase], length: int, phase_size: int) -> np.ndarray:
    """G @ w in panels: (K,K,rows,columns) -> (rank, panels, length, PANEL); phase s begins s * phase_size behind."""
    (rows, columns), (rank, _) = w.shape[2:], phases[0].G.shape
    width = panel_width(w.dtype)
    G_w = np.empty((rank, len(phases) * rows * columns // (length * width), length, width), w.dtype)
    row, column = np.arange(rows), panel_starts(columns, w.dtype)
    for s, (_, _, G, taps) in enumerate(phases):
        w_at, G_at = offsets(row * columns, column), offsets(row * width, s * phase_size + column * length)
        apply(G, w, w_at, taps * rows * columns, G_w, G_at, np.arange(rank) * G_w[0].size)
    return G_w


def spectral_product(X: np.ndarray, G_w: np.ndarray) -> np.ndarray:
    """(rank, N, k), (rank, panels, k, PANEL) -> (rank, N, panels * PANEL): a matrix product for each row of the rank."""
    (rank, N, length), (_, count, _, width) = X.shape, G_w.shape
    Y = np.empty((rank, N, count * width), X.dtype)
    r, panel = np.arange(rank), np.arange(count)
    products(
        X, offsets(r * N * length, 0 * panel), np.arange(N) * length, np.arange(length),
        G_w, offsets(r * count * length * width, panel * length * width), np.arange(length) * width,
        Y, offsets(r * N * count * width, panel * width), np.arange(N) * count * width,
    )  # fmt: skip
    return Y


def apply(matrix, source, source_at, source_steps, target, target_at, target_rows) -> None:
    """target row r = sum_k matrix[r,k] * source step k, for the panel of channels at each of the places *_at."""
    count, length = matrix.shape
    matrix = np.ascontiguousarray(matrix)
    rows, steps = np.arange(count) * length, np.arange(length)
    products(matrix, 0 * source_at, rows, steps, source, source_at, source_steps, target, target_at, target_rows)


def products(x, x_at, rows, steps, w, w_at, w_steps, y, y_at, out) -> None:
    """`microkernel.products` on contiguous arrays of any shape."""
    x, w, y = (array.reshape(-1) for array in (x, w, y))
    microkernel.products(x, x_at, whole_tiles(rows), steps, w, w_at, w_steps, y, y_at, whole_tiles(out))


def panel_starts(columns: int, dtype) -> np.ndarray:
    return np.arange(0, columns, panel_width(dtype))


set_threads(None)
