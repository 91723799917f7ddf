"""The reference backend: NumPy only, and each operation reads like its equation (see `minigan.backends`).

Every convolution is one matrix product over the windows of x ("im2col"): a window is the (K, K, C) block of pixels
under the kernel, and `windows` shows them all without copying.
"""

import numpy as np
import threadpoolctl

from minigan.backends import conv_size, pads

NAME = "numpy"
xp = np


def asarray(x, dtype=None) -> np.ndarray:
    return np.asarray(x, dtype=dtype)


def to_numpy(x) -> np.ndarray:
    return np.asarray(x)


def synchronize() -> None:
    """NumPy returns when the work is done."""


def set_threads(n: int | None) -> None:
    """Limits the threads of the BLAS library, in which NumPy's matrix products run."""
    threadpoolctl.threadpool_limits(n, user_api="blas")


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
