"""The reference backend: NumPy only, and each operation reads like its equation (see `minigan.backends`).

Every convolution is one matrix product over the windows of x ("im2col"): a window is the (K, K, C) block of pixels
under the kernel, and `windows` shows them all without copying.
"""

import numpy as np
import threadpoolctl

from minigan.backends import GOLDEN, conv_size, cores, pads

NAME = "numpy"
xp = np
STEPS_AHEAD = 1  # the step is over when its losses are there


def asarray(x, dtype=None) -> np.ndarray:
    return np.asarray(x, dtype=dtype)


def to_numpy(x) -> np.ndarray:
    return np.asarray(x)


def synchronize() -> None:
    """NumPy returns when the work is done."""


def set_threads(n: int | None) -> None:
    """Limits the threads of the BLAS library, in which NumPy's matrix products run."""
    threadpoolctl.threadpool_limits(n or cores(), user_api="blas")


def conv2d(x: np.ndarray, w: np.ndarray, stride: int, pad: int | tuple[int, int]) -> np.ndarray:
    """y[n,p,q,o] = sum_ijc window[n,p,q,i,j,c] * w[i,j,c,o]; (N,H,W,C), (K,K,C,O) -> (N,P,Q,O)"""
    return np.tensordot(windows(x, len(w), stride, pad), w, axes=3)


def conv2d_grad_w(
    dy: np.ndarray, x: np.ndarray, w_shape: tuple[int, ...], stride: int, pad: int | tuple[int, int]
) -> np.ndarray:
    """dw[i,j,c,o] = sum_npq window[n,p,q,i,j,c] * dy[n,p,q,o]; (N,P,Q,O), (N,H,W,C) -> (K,K,C,O)"""
    return np.tensordot(windows(x, w_shape[0], stride, pad), dy, axes=((0, 1, 2), (0, 1, 2)))


def conv2d_grad_x(
    dy: np.ndarray, w: np.ndarray, x_shape: tuple[int, ...], stride: int, pad: int | tuple[int, int]
) -> np.ndarray:
    """Each window of x gets back dwindow[n,p,q,i,j,c] = sum_o dy[n,p,q,o] * w[i,j,c,o]; where windows overlap they add.

    (N,P,Q,O), (K,K,C,O) -> (N,H,W,C)
    """
    (N, P, Q, _), (K, _, C, _), (_, H, W, _) = dy.shape, w.shape, x_shape
    before, after = pads(pad)
    dwindow = np.tensordot(dy, w, axes=((3,), (3,)))  # (N, P, Q, K, K, C)
    dx = np.zeros((N, before + H + after, before + W + after, C), dwindow.dtype)
    for i in range(K):
        for j in range(K):
            dx[:, i : i + stride * P : stride, j : j + stride * Q : stride] += dwindow[:, :, :, i, j]
    return np.ascontiguousarray(dx[:, before : before + H, before : before + W])


def windows(x: np.ndarray, kernel: int, stride: int, pad: int | tuple[int, int]) -> np.ndarray:
    """A view (N, P, Q, K, K, C) of x padded with zeros: [n,p,q,i,j,c] is xpad[n, p*stride+i, q*stride+j, c]."""
    P, Q = (conv_size(size, kernel, stride, pad) for size in x.shape[1:3])
    before, after = pads(pad)
    xpad = np.pad(x, ((0, 0), (before, after), (before, after), (0, 0)))
    view = np.lib.stride_tricks.sliding_window_view(xpad, (kernel, kernel), axis=(1, 2))  # (N, ., ., C, K, K)
    return view[:, ::stride, ::stride].transpose(0, 1, 2, 4, 5, 3)[:, :P, :Q]


def matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a @ b, (M,K), (K,N) -> (M,N)"""
    return a @ b


def sum_rows(dy: np.ndarray) -> np.ndarray:
    """The sum over all axes but the last; (..., C) -> (C,)"""
    return dy.sum(axis=tuple(range(dy.ndim - 1)))


def leaky_relu(x: np.ndarray, slope: float) -> np.ndarray:
    """y = x where x > 0, else slope * x."""
    return np.where(x.real > 0, x, slope * x)


def leaky_relu_grad(dy: np.ndarray, y: np.ndarray, slope: float) -> np.ndarray:
    """dx = dy where y > 0, else slope * dy; with slope >= 0 y is positive just where x was."""
    return np.where(y.real > 0, dy, slope * dy)


def add_bias(y: np.ndarray, b: np.ndarray, slope: float = 1.0) -> np.ndarray:
    """leaky_relu(y + b), in place of y where possible; b (C,) is the same for every row. Slope 1 is no activation."""
    y += b
    return y if slope == 1 else leaky_relu(y, slope)


def bias_grad(dy: np.ndarray, y: np.ndarray, slope: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """dy before the activation, and its sum over all rows (C,); without an activation y is not looked at."""
    dy = dy if slope == 1 else leaky_relu_grad(dy, y, slope)
    return dy, sum_rows(dy)


def batchnorm(
    x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, eps: float, slope: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """y = leaky_relu(gamma * (x - mean) / sqrt(var + eps) + beta), with the batch's mean and (biased) variance of each
    channel. Slope 1 is no activation."""
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axis=axes)  # (C,)
    centred = x - mean
    var = (centred * centred).mean(axis=axes)  # (C,)
    y = gamma / np.sqrt(var + eps) * centred + beta
    return y if slope == 1 else leaky_relu(y, slope), mean, var


def batchnorm_grad(
    dy: np.ndarray,
    x: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    mean: np.ndarray,
    var: np.ndarray,
    eps: float,
    slope: float = 1.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dx = gamma / std * (dy - mean of dy - xhat * mean of dy * xhat): mean and var are functions of x, and what they
    contribute is what is taken off. dgamma = sum of dy * xhat, dbeta = sum of dy. All of that with the dy that comes
    out of the activation, which went the way of the sign that x has in `batchnorm`."""
    centred = x - mean
    if slope != 1:
        dy = leaky_relu_grad(dy, gamma / np.sqrt(var + eps) * centred + beta, slope)
    M = dy.size // dy.shape[-1]
    inv_std = 1 / np.sqrt(var + eps)  # (C,)
    xhat = inv_std * centred  # y = gamma * xhat + beta
    dbeta, dgamma = sum_rows(dy), sum_rows(dy * xhat)
    dx = gamma * inv_std * (dy - dbeta / M - xhat * (dgamma / M))
    return dx, dgamma, dbeta


def dropout(x: np.ndarray, threshold: int, stream: int) -> np.ndarray:
    """y = x * mask, mask = 0 where the position's 16-bit number is below the threshold, else 1 / (the share kept)."""
    z = np.arange(1, -(-x.size // 4) + 1, dtype=np.uint64) * GOLDEN + stream  # mix64, four numbers from each
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    numbers = (z ^ (z >> 31)).astype("<u8", copy=False).view("<u2")[: x.size]
    mask = (numbers >= threshold) * x.real.dtype.type(65536 / (65536 - threshold))
    return x * mask.reshape(x.shape)


def track(running_mean, running_var, mean, var, momentum: float) -> None:
    """running = momentum * running + (1 - momentum) * batch, in place."""
    for running, batch in ((running_mean, mean), (running_var, var)):
        running[...] = momentum * running + (1 - momentum) * batch


def adam(w, dw, m, v, lr: float, beta1: float, beta2: float, eps: float, t: int) -> None:
    """w -= lr * mhat / (sqrt(vhat) + eps), with mhat = m / (1 - beta1^t) and vhat = v / (1 - beta2^t), in place."""
    m *= beta1
    m += (1 - beta1) * dw
    v *= beta2
    v += (1 - beta2) * dw * dw
    w -= lr / (1 - beta1**t) * m / (np.sqrt(1 / (1 - beta2**t) * v) + eps)


def moving_average(average, now, share: float) -> None:
    """average += share * (now - average), in place."""
    average += share * (now - average)


def concatenate(arrays: list[np.ndarray]) -> np.ndarray:
    """The arrays end to end; any shapes -> (n,)"""
    return np.concatenate([a.ravel() for a in arrays])


def gather(images: np.ndarray, index: np.ndarray) -> np.ndarray:
    """x = images[index] / 127.5 - 1; uint8 (count, ...), int64 (N,) -> float32 (N, ...)"""
    return images[index].astype(np.float32) / 127.5 - 1
