"""The reference backend: it uses only NumPy, and each operation reads like its equation.

Every convolution is one matrix product over the windows of x (im2col). A window is the
(K, K, C) block of pixels under the kernel. `windows` returns a view of all windows.
"""

import concurrent.futures
import contextlib
import contextvars
import functools
import itertools
import math
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minigan.backends import recurrence, subnormals
from minigan.backends.contract import (
    ALONE,
    GOLDEN,
    AdamStep,
    Alone,
    Array,
    Backend,
    Normalisation,
    Pad,
    RecurrentGradients,
    RecurrentWeights,
    Shape,
    conv_size,
    cores,
    in_force,
    pads,
)


def start(threads: int | None = None) -> "NumpyBackend":
    """Return the NumPy backend, whose matrix products use this number of threads (None: one per core)."""
    return NumpyBackend(threads=threads)


ALONE_FLUSHED = Alone(subnormals.FLUSHED)


class NumpyBackend(Backend):
    """The complete contract in NumPy. Without settings it does not change the number of BLAS threads."""

    name = "numpy"
    xp = np
    takes_complex = True

    def __init__(self, **settings: Any):
        """Store the settings: `threads`, or none."""
        self.settings = settings

    def activate(self) -> None:
        """Limit BLAS to one thread, if the number of threads is a setting. `in_pieces` then uses threads of its own.

        The threads of BLAS would compute with subnormal numbers, because they do not take over
        the mode of the calling thread.
        """
        if "threads" in self.settings:
            limit_blas(1)

    def computing(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which the calling thread treats subnormal numbers as zero."""
        return ALONE_FLUSHED if subnormals.supported() else ALONE

    def describe(self) -> str:
        """Return the version of NumPy and the number of threads."""
        return f"NumPy {np.__version__} on {self.settings.get('threads') or cores()} threads"

    # ---- arrays

    def asarray(self, x: Any, dtype: Any = None) -> Array:
        """Return x as a NumPy array."""
        return np.asarray(x, dtype=dtype)

    def to_numpy(self, x: Array) -> np.ndarray:
        """Return x as a NumPy array."""
        return np.asarray(x)

    def synchronize(self) -> None:
        """Do nothing, because NumPy queues no work."""

    def concatenate(self, arrays: Sequence[Array]) -> Array:
        """Flatten the arrays and join them in order: any shapes -> (n,)."""
        return np.concatenate([a.ravel() for a in arrays])

    def gather(self, images: Array, index: Array) -> Array:
        """Compute images[index] / 127.5 - 1: uint8 (count, ...), int64 (N,) -> float32 (N, ...) in [-1, 1]."""
        return images[index].astype(np.float32) / 127.5 - 1

    # ---- matrix products and convolutions

    @in_force
    def matmul(self, a: Array, b: Array) -> Array:
        """Compute a @ b: (M, K), (K, N) -> (M, N)."""
        work = len(a) * b.size
        if b.shape[1] > len(a):
            return self.in_pieces(lambda columns: a @ b[:, columns], b.shape[1], work, axis=1)
        return self.in_pieces(lambda rows: a[rows] @ b, len(a), work)

    @in_force
    def conv2d(self, x: Array, w: Array, stride: int, pad: Pad) -> Array:
        """Compute y[n,p,q,o] = sum_ijc window[n,p,q,i,j,c] * w[i,j,c,o]; (N,H,W,C), (K,K,C,O) -> (N,P,Q,O)"""
        view = windows(x, len(w), stride, pad)
        return self.in_pieces(lambda n: np.tensordot(view[n], w, axes=3), len(x), view.size * w.shape[3])

    @in_force
    def conv2d_grad_w(self, dy: Array, x: Array, w_shape: Shape, stride: int, pad: Pad) -> Array:
        """Compute dw[i,j,c,o] = sum_npq window[n,p,q,i,j,c] * dy[n,p,q,o]; (N,P,Q,O), (N,H,W,C) -> (K,K,C,O)"""
        view, axes = windows(x, w_shape[0], stride, pad), ((0, 1, 2), (0, 1, 2))
        return self.in_pieces(
            lambda i: np.tensordot(view[:, :, :, i], dy, axes), w_shape[0], view.size * w_shape[3], at_most=w_shape[0]
        )

    @in_force
    def conv2d_grad_x(self, dy: Array, w: Array, x_shape: Shape, stride: int, pad: Pad) -> Array:
        """Compute the gradient of each window of x, and add the gradients of overlapping windows.

        dwindow[n,p,q,i,j,c] = sum_o dy[n,p,q,o] * w[i,j,c,o]; (N,P,Q,O), (K,K,C,O) -> (N,H,W,C)
        """
        (_, P, Q, _), (K, _, C, _), (_, H, W, _) = dy.shape, w.shape, x_shape
        before, after = pads(pad)

        def of_images(n: slice) -> np.ndarray:
            dwindow = np.tensordot(dy[n], w, axes=((3,), (3,)))  # (n, P, Q, K, K, C)
            dx = np.zeros((len(dwindow), before + H + after, before + W + after, C), dwindow.dtype)
            for i in range(K):
                for j in range(K):
                    dx[:, i : i + stride * P : stride, j : j + stride * Q : stride] += dwindow[:, :, :, i, j]
            return np.ascontiguousarray(dx[:, before : before + H, before : before + W])

        return self.in_pieces(of_images, len(dy), dy.size * K * K * C)

    def in_pieces(
        self, compute: Callable[[slice], Array], size: int, work: int, axis: int = 0, at_most: int = 16
    ) -> Array:
        """Compute a result in pieces of one axis on all threads, and join them: `compute(slice)` returns a piece.

        `size` is the length of the axis, and `work` the number of multiplications, which decides
        the number of pieces. It does not depend on the number of threads, so the bits do not
        either. Without the setting `threads`, there is one piece, and BLAS chooses its threads.
        """
        enough = work >> 24  # one piece takes about half a millisecond, and starting a thread 0.1
        if "threads" not in self.settings or enough < 2 or size < 2:
            return compute(slice(None))
        pieces = at_most if at_most < 16 else min(16, 2 ** (enough.bit_length() - 1), size)
        bounds = [size * piece // pieces for piece in range(pieces + 1)]
        parts = [slice(*pair) for pair in itertools.pairwise(bounds)]
        return np.concatenate(on_threads(compute, parts, self.settings["threads"] or cores()), axis)

    # ---- passes over memory

    def sum_rows(self, dy: Array) -> Array:
        """Sum over all axes but the last: (..., C) -> (C,)."""
        return dy.sum(axis=tuple(range(dy.ndim - 1)))

    def leaky_relu(self, x: Array, slope: float) -> Array:
        """Compute y = x where x > 0, else slope * x."""
        return np.where(x.real > 0, x, slope * x)

    def leaky_relu_grad(self, dy: Array, y: Array, slope: float) -> Array:
        """Compute dx = dy where y > 0, else slope * dy. With slope >= 0, y is positive exactly where x is."""
        return np.where(y.real > 0, dy, slope * dy)

    def add_bias(self, y: Array, b: Array, slope: float = 1.0) -> Array:
        """Compute leaky_relu(y + b): (..., C), (C,) -> (..., C). Overwrites y."""
        y += b
        return y if slope == 1 else self.leaky_relu(y, slope)

    def bias_grad(self, dy: Array, y: Array, slope: float = 1.0) -> tuple[Array, Array]:
        """Compute the gradients of y + b (..., C) and of b (C,) in leaky_relu(y + b)."""
        dy = dy if slope == 1 else self.leaky_relu_grad(dy, y, slope)
        return dy, self.sum_rows(dy)

    def batchnorm(
        self, x: Array, gamma: Array, beta: Array, eps: float, slope: float = 1.0
    ) -> tuple[Array, Array, Array]:
        """Compute y = leaky_relu(gamma * (x - mean) / sqrt(var + eps) + beta)."""
        axes = tuple(range(x.ndim - 1))
        mean = self.batch_mean(x, axes)  # (C,)
        centred = x - mean
        var = self.batch_mean(centred * centred, axes)  # (C,)
        y = gamma / np.sqrt(var + eps) * centred + beta
        return y if slope == 1 else self.leaky_relu(y, slope), mean, var

    def batchnorm_grad(
        self, dy: Array, x: Array, norm: Normalisation, slope: float = 1.0
    ) -> tuple[Array, Array, Array]:
        """Compute the gradients of y = gamma * xhat + beta, where xhat = (x - mean) / std.

        dy is first multiplied by the derivative of the leaky ReLU. Then dbeta = sum of dy and
        dgamma = sum of dy * xhat over all rows. y depends on x in three ways:

            through x itself                  gamma / std * dy
            through mean = mean of x          gamma / std * (- mean of dy)
            through var, and so through std   gamma / std * (- xhat * mean of dy * xhat)

        because d mean / dx = 1/M, d std / dx = xhat / M, and every row is divided by std. The sum
        of the three is dx.
        """
        gamma, beta, mean, var, eps = norm
        centred = x - mean
        if slope != 1:
            dy = self.leaky_relu_grad(dy, gamma / np.sqrt(var + eps) * centred + beta, slope)
        M = self.batch_sum(dy.size // dy.shape[-1])  # rows
        inv_std = 1 / np.sqrt(var + eps)  # (C,)
        xhat = inv_std * centred  # y = gamma * xhat + beta
        dbeta, dgamma = self.sum_rows(dy), self.sum_rows(dy * xhat)
        mean_dy, mean_dy_xhat = self.batch_sum(dbeta) / M, self.batch_sum(dgamma) / M
        dx = gamma * inv_std * (dy - mean_dy - xhat * mean_dy_xhat)
        return dx, dgamma, dbeta

    def track(self, running_mean: Array, running_var: Array, mean: Array, var: Array, momentum: float) -> None:
        """Update in place: running = momentum * running + (1 - momentum) * batch."""
        for running, batch in ((running_mean, mean), (running_var, var)):
            running[...] = momentum * running + (1 - momentum) * batch

    def dropout(self, x: Array, threshold: int, stream: int) -> Array:
        """Compute y = x * mask * 65536 / (65536 - threshold), with the mask of `Backend.dropout`."""
        numbers = hashes(-(-x.size // 4), stream).view("<u2")[: x.size]
        mask = (numbers >= threshold) * x.real.dtype.type(65536 / (65536 - threshold))
        return x * mask.reshape(x.shape)

    def uniform(self, shape: Shape, stream: int, dtype: Any) -> Array:
        """Compute u = (2 * floor(b / 512) + 1) / 2^24 for the 32-bit numbers b of the stream."""
        size = math.prod(shape)
        b = hashes(-(-size // 2), stream).view("<u4")[:size]
        odd = b >> 8 | 1  # 2 * floor(b / 512) + 1
        return (odd.astype(dtype) * np.dtype(dtype).type(2**-24)).reshape(shape)

    # ---- groups of columns

    @in_force
    def softmax_groups(self, l: Array, starts: Shape) -> Array:
        """Compute y = e / (sum of e over the group) with e = exp(l - max of l over the group): (N, G) -> (N, G)."""
        widths = np.diff(starts, append=l.shape[1])  # (n,)
        e = np.exp(l - np.repeat(np.maximum.reduceat(l.real, starts, axis=1), widths, axis=1))
        return e / np.repeat(np.add.reduceat(e, starts, axis=1), widths, axis=1)

    @in_force
    def softmax_groups_grad(self, dy: Array, y: Array, starts: Shape) -> Array:
        """Compute dl = y * (dy - sum of dy * y over the group), because dy_i/dl_j = y_i * ((i = j) - y_j)."""
        widths = np.diff(starts, append=y.shape[1])  # (n,)
        return y * (dy - np.repeat(np.add.reduceat(dy * y, starts, axis=1), widths, axis=1))

    def argmax_groups(self, l: Array, starts: Shape) -> Array:
        """Compute y = 1 at the largest number of each group, else 0: (N, G) -> (N, G)."""
        y, rows = np.zeros(l.shape, l.dtype), np.arange(len(l))
        for start, stop in itertools.pairwise((*starts, l.shape[1])):
            y[rows, start + l[:, start:stop].real.argmax(axis=1)] = 1
        return y

    # ---- recurrent layers: recurrence.py has the loops over time

    @in_force
    def gru(
        self, x: Array, weights: RecurrentWeights, start: Array, m: Array | None = None
    ) -> tuple[Array, tuple[Array, ...]]:
        """Compute the states y (N, T, H) of a GRU, and the arrays that `gru_grad` needs."""
        return recurrence.gru(self, x, weights, start, m)

    @in_force
    def gru_grad(
        self,
        dy: Array,
        saved: tuple[Array, ...],
        weights: RecurrentWeights,
        m: Array | None = None,
        need_dx: bool = True,
        need_grads: bool = True,
    ) -> RecurrentGradients:
        """Compute the gradients of the arguments of `gru` from dy (N, T, H)."""
        return recurrence.gru_grad(self, dy, saved, weights, m, (need_dx, need_grads))

    @in_force
    def lstm(
        self, x: Array, weights: RecurrentWeights, start: Array, m: Array | None = None
    ) -> tuple[Array, tuple[Array, ...]]:
        """Compute the outputs y (N, T, H) of an LSTM, and the arrays that `lstm_grad` needs."""
        return recurrence.lstm(self, x, weights, start, m)

    @in_force
    def lstm_grad(
        self,
        dy: Array,
        saved: tuple[Array, ...],
        weights: RecurrentWeights,
        m: Array | None = None,
        need_dx: bool = True,
        need_grads: bool = True,
    ) -> RecurrentGradients:
        """Compute the gradients of the arguments of `lstm` from dy (N, T, H)."""
        return recurrence.lstm_grad(self, dy, saved, weights, m, (need_dx, need_grads))

    # ---- losses

    def loss_function(self, kind: str, l: Array) -> tuple[Array, Array]:
        """Compute f(l) and its derivative f'(l), both with the shape of l."""
        if kind not in ("softplus", "hinge", "square", "linear"):
            raise ValueError(f"unknown kind of loss {kind!r}: choose softplus, hinge, square or linear")
        if kind == "softplus":  # log(1 + exp(l))
            return self.softplus(l), self.sigmoid(l)
        if kind == "hinge":  # max(0, 1 + l)
            margin = 1 + l
            mask = (margin.real > 0).astype(l.dtype)
            return margin * mask, mask
        if kind == "square":  # (1 + l)^2 / 2
            return 0.5 * (1 + l) * (1 + l), 1 + l
        return l, self.xp.ones_like(l)  # linear: l

    def discriminator_loss(
        self,
        kind: str,
        real_logits: Array,
        fake_logits: Array,
        smoothing: float = 0.0,
        weights: tuple[float, float] = (1.0, 1.0),
    ) -> tuple[Array, Array, Array]:
        """Compute loss = a mean (f(-l_real) + smoothing * l_real) + b mean f(l_fake), and the gradients of both logits.

        (a, b) are `weights`.
        """
        a, b = weights
        f_real, slope_real = self.loss_function(kind, -real_logits)
        f_fake, slope_fake = self.loss_function(kind, fake_logits)
        loss = a * self.batch_mean(f_real + smoothing * real_logits) + b * self.batch_mean(f_fake)
        d_real = a * (smoothing - slope_real) / self.batch_sum(real_logits.size)
        d_fake = b * slope_fake / self.batch_sum(fake_logits.size)
        return loss, d_real, d_fake

    def generator_loss(self, kind: str, fake_logits: Array, sign: int, weight: int) -> tuple[Array, Array]:
        """Compute loss = weight * mean f(sign * l_fake), and the gradient of the logits."""
        f, slope = self.loss_function(kind, sign * fake_logits)
        return weight * self.batch_mean(f), weight * sign * slope / self.batch_sum(fake_logits.size)

    def mean_sigmoid(self, logits: Array) -> Array:
        """Compute the mean of 1 / (1 + exp(-l)), a 0-d array."""
        return self.batch_mean(self.sigmoid(logits))

    # ---- updates in place

    def adam(self, w: Array, dw: Array, m: Array, v: Array, step: AdamStep) -> None:
        """Update w -= lr * mhat / (sqrt(vhat) + eps), with mhat = m / (1 - beta1^t) and vhat = v / (1 - beta2^t)."""
        lr, beta1, beta2, eps, t = step
        m *= beta1
        m += (1 - beta1) * dw
        v *= beta2
        v += (1 - beta2) * dw * dw
        w -= lr / (1 - beta1**t) * m / (np.sqrt(1 / (1 - beta2**t) * v) + eps)

    def moving_average(self, average: Array, now: Array, share: float) -> None:
        """Update in place: average += share * (now - average)."""
        average += share * (now - average)


def hashes(count: int, stream: int) -> np.ndarray:
    """Return mix64(stream + q * GOLDEN) for q = 1, ..., count: uint64 (count,), the lowest bytes first."""
    z: np.ndarray = np.arange(1, count + 1, dtype=np.uint64) * GOLDEN + stream
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    return (z ^ (z >> 31)).astype("<u8", copy=False)


def windows(x: np.ndarray, kernel: int, stride: int, pad: Pad) -> np.ndarray:
    """Return a view (N, P, Q, K, K, C) of x padded with zeros: [n,p,q,i,j,c] is xpad[n, p*stride+i, q*stride+j, c]."""
    P, Q = (conv_size(size, kernel, stride, pad) for size in x.shape[1:3])
    before, after = pads(pad)
    xpad = np.pad(x, ((0, 0), (before, after), (before, after), (0, 0)))
    view = np.lib.stride_tricks.sliding_window_view(xpad, (kernel, kernel), axis=(1, 2))  # (N, ., ., C, K, K)
    return view[:, ::stride, ::stride].transpose(0, 1, 2, 4, 5, 3)[:, :P, :Q]


def on_threads(compute: Callable[[slice], Array], parts: list[slice], threads: int) -> list[Array]:
    """Return [compute(part) for part in parts]. The calling thread computes the first part, and others the rest."""
    if threads == 1:
        return [compute(part) for part in parts]
    left, results = iter(range(len(parts))), [None] * len(parts)

    def work() -> None:
        for i in left:  # `next` is atomic, so each thread gets other parts
            results[i] = compute(parts[i])

    # a copy of the context, because it contains the settings of np.errstate
    helpers = [workers(threads).submit(contextvars.copy_context().run, work) for _ in range(threads - 1)]
    try:
        work()
    finally:
        concurrent.futures.wait(helpers)
    for helper in helpers:
        helper.result()
    return results


@functools.cache
def workers(threads: int) -> concurrent.futures.ThreadPoolExecutor:
    """Return the threads that help the calling thread. They treat subnormal numbers as zero."""
    return concurrent.futures.ThreadPoolExecutor(threads - 1, "minigan", initializer=subnormals.flush_for_good)


with contextlib.suppress(AttributeError):  # Windows has no fork
    os.register_at_fork(after_in_child=workers.cache_clear)  # a forked process has none of these threads


def limit_blas(threads: int) -> None:
    """Limit the number of threads of the BLAS library, which computes NumPy's matrix products."""
    _blas().limit(limits=threads)


def restorers() -> list[Callable[[], object]]:
    """Return functions that restore the present numbers of threads of BLAS, and of Numba if it is loaded."""
    found: list[Callable[[], object]] = []
    for library in _blas().lib_controllers:
        found.append(functools.partial(library.set_num_threads, library.num_threads))
    if numba := sys.modules.get("numba"):
        found.append(functools.partial(numba.set_num_threads, numba.get_num_threads()))
    return found


def blas() -> list[dict[str, Any]]:
    """Return a description of each BLAS library that NumPy has loaded."""
    return _blas().info()


@functools.cache
def _blas() -> Any:
    """Find the BLAS library. One search is enough, because NumPy has loaded BLAS before any backend starts."""
    unset = "KMP_DUPLICATE_LIB_OK" not in os.environ
    import threadpoolctl  # here, because its import sets this variable

    if unset:
        os.environ.pop("KMP_DUPLICATE_LIB_OK", None)
    return threadpoolctl.ThreadpoolController().select(user_api="blas")
