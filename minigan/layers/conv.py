"""Convolution and its adjoint, transposed convolution. Images are (N, H, W, C)."""

import math

import numpy as np

from minigan.backends import Array, pads
from minigan.layers.base import Backward, Cache, Forward, Layer, TangentBackward, affine_tangent_backward, expect_input
from minigan.layers.init import Init, glorot_uniform


class Conv2d(Layer):
    """2D convolution, y[n,p,q,o] = sum_ijc xpad[n, p*stride+i, q*stride+j, c] w[i,j,c,o] + b[o].

    x (N, H, W, c_in), w (kernel, kernel, c_in, c_out), b (c_out,), y (N, P, Q, c_out) with
    P = (H + before + after - kernel) // stride + 1. `pad` is an int or the pair
    (before, after). TensorFlow's "same" padding for a 5x5 kernel, stride 2 and an even size is
    (1, 2). As in other deep learning libraries, the kernel is not flipped.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int,
        *,
        stride: int = 1,
        pad: int | tuple[int, int] = 0,
        bias: bool = True,
        rng: np.random.Generator,
        init: Init = glorot_uniform,
    ):
        params = {"w": init(rng, (kernel, kernel, c_in, c_out), kernel**2 * c_in, kernel**2 * c_out)}
        if bias:
            params["b"] = np.zeros(c_out, np.float32)
        super().__init__(params)
        self.c_in, self.c_out, self.kernel, self.stride, self.pad = c_in, c_out, kernel, stride, pads(pad)

    def forward(self, x: Array, train: bool = True, track: bool = True) -> Forward:
        """Return y = conv2d(x, w) + b, (N, P, Q, c_out), and the cache x."""
        expect_input(self, x, ("N", "H", "W", self.c_in), image_advice(x, self.c_in))
        y = self.backend.conv2d(x, self.params["w"], self.stride, self.pad)  # (N, P, Q, c_out)
        if "b" in self.params:
            y = self.backend.add_bias(y, self.params["b"])
        return y, x

    def backward(self, dy: Array, cache: Cache, need_dx: bool = True, need_grads: bool = True) -> Backward:
        """Return dx and the gradients of w and b, where y = conv2d(x, w) + b."""
        x, w, dx, grads = cache, self.params["w"], None, None
        if need_dx:  # each pixel of the window of y[n,p,q,o] receives dy[n,p,q,o] times its weight
            dx = self.backend.conv2d_grad_x(dy, w, x.shape, self.stride, self.pad)  # (N, H, W, c_in)
        if need_grads:  # w[i,j,c,o] is multiplied by pixel (i, j) of every window
            grads = {"w": self.backend.conv2d_grad_w(dy, x, w.shape, self.stride, self.pad)}
            if "b" in self.params:
                grads["b"] = self.backend.sum_rows(dy)  # (c_out,)
        return dx, grads

    # ---- second derivatives

    def tangent(self, tx: Array, cache: Cache) -> Forward:
        """Return ty = conv2d(tx, w), (N, P, Q, c_out)."""
        return self.backend.conv2d(tx, self.params["w"], self.stride, self.pad), tx

    def tangent_backward(
        self, dy: Array | None, dty: Array, cache: Cache, tangent_cache: Cache, need_dx: bool = True
    ) -> TangentBackward:
        """Return (dx, dtx, grads) of the pair (y, ty)."""
        return affine_tangent_backward(self, dy, dty, cache, tangent_cache, need_dx)

    def __repr__(self) -> str:
        return f"Conv2d({self.c_in} -> {self.c_out}, {self.kernel}x{self.kernel}, stride {self.stride})"


class ConvTranspose2d(Layer):
    """2D transposed convolution, the adjoint of a convolution from y to x: y = conv2d_grad_x(x, w) + b.

    x (N, H, W, c_in) -> y (N, P, Q, c_out) with P = stride*(H-1) + kernel - before - after +
    output_pad. The weight (kernel, kernel, c_out, c_in) is the weight of the convolution from y
    to x, so that <conv(y), x> = <y, conv_transpose(x)>. This convolution maps several sizes P to
    the same H. `output_pad` (less than stride) selects one of them.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int,
        *,
        stride: int = 1,
        pad: int | tuple[int, int] = 0,
        output_pad: int = 0,
        bias: bool = True,
        rng: np.random.Generator,
        init: Init = glorot_uniform,
    ):
        if not 0 <= output_pad < stride:
            raise ValueError(f"output_pad is at least 0 and below the stride {stride}, got {output_pad}")
        params = {"w": init(rng, (kernel, kernel, c_out, c_in), kernel**2 * c_in, kernel**2 * c_out)}
        if bias:
            params["b"] = np.zeros(c_out, np.float32)
        super().__init__(params)
        self.c_in, self.c_out, self.kernel, self.stride = c_in, c_out, kernel, stride
        self.pad, self.output_pad = pads(pad), output_pad

    def forward(self, x: Array, train: bool = True, track: bool = True) -> Forward:
        """Return y = conv2d_grad_x(x, w) + b, (N, P, Q, c_out), and the cache x."""
        expect_input(self, x, ("N", "H", "W", self.c_in), image_advice(x, self.c_in))
        y = self._transposed(x)  # (N, P, Q, c_out)
        if "b" in self.params:
            y = self.backend.add_bias(y, self.params["b"])
        return y, x

    def _transposed(self, x: Array) -> Array:
        """(N, H, W, c_in) -> (N, P, Q, c_out), without the bias."""
        N, H, W, _ = x.shape
        P, Q = (self.stride * (size - 1) + self.kernel - sum(self.pad) + self.output_pad for size in (H, W))
        if min(P, Q) < 1:
            raise ValueError(f"{self!r} with pad {self.pad} has no output pixels for x {tuple(x.shape)}: reduce pad")
        return self.backend.conv2d_grad_x(x, self.params["w"], (N, P, Q, self.c_out), self.stride, self.pad)

    def backward(self, dy: Array, cache: Cache, need_dx: bool = True, need_grads: bool = True) -> Backward:
        """Return dx and the gradients of w and b, where y = conv2d_grad_x(x, w) + b."""
        x, w, dx, grads = cache, self.params["w"], None, None
        if need_dx:  # the adjoint of a transposed convolution is the convolution
            dx = self.backend.conv2d(dy, w, self.stride, self.pad)  # (N, H, W, c_in)
        if need_grads:  # <y, dy> = <x, conv2d(dy, w)>, so dy is the input of conv2d and x the gradient of its output
            grads = {"w": self.backend.conv2d_grad_w(x, dy, w.shape, self.stride, self.pad)}
            if "b" in self.params:
                grads["b"] = self.backend.sum_rows(dy)  # (c_out,)
        return dx, grads

    # ---- second derivatives

    def tangent(self, tx: Array, cache: Cache) -> Forward:
        """Return ty = conv2d_grad_x(tx, w), (N, P, Q, c_out)."""
        return self._transposed(tx), tx

    def tangent_backward(
        self, dy: Array | None, dty: Array, cache: Cache, tangent_cache: Cache, need_dx: bool = True
    ) -> TangentBackward:
        """Return (dx, dtx, grads) of the pair (y, ty)."""
        return affine_tangent_backward(self, dy, dty, cache, tangent_cache, need_dx)

    def __repr__(self) -> str:
        return f"ConvTranspose2d({self.c_in} -> {self.c_out}, {self.kernel}x{self.kernel}, stride {self.stride})"


def image_advice(x: Array, channels: int) -> str:
    """Return the end of the error message for an x that is not a batch of images with this number of channels."""
    if len(x.shape) == 2:
        side = math.isqrt(x.shape[1] // channels)
        if side * side * channels == x.shape[1]:
            return f"put Reshape({side}, {side}, {channels}) before it"
    return f"images are (N, H, W, C), here with C = {channels}"
