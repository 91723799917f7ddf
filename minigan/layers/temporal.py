"""Convolution over time, for sequences (N, T, F)."""

import numpy as np

from minigan.backends import Array, pads
from minigan.layers.base import Backward, Cache, Forward, Layer, TangentBackward, affine_tangent_backward, expect_input
from minigan.layers.init import Init, glorot_uniform


class Conv1d(Layer):
    """Convolution over time, y[n,p,o] = sum_kc xpad[n, p*stride + k*dilation, c] w[k,c,o] + b[o].

    x (N, T, c_in), w (kernel, c_in, c_out), b (c_out,), y (N, P, c_out) with
    P = (T + before + after - reach) // stride + 1. Its windows reach over
    reach = (kernel - 1) * dilation + 1 steps. `pad` is an int or the pair (before, after), or
    "causal": reach - 1 zeros before and none after, so that y_p depends on no step after p * stride.
    Layers with kernel 2 and dilations 1, 2, 4, ... together see 2^layers steps (van den Oord et al.
    2016, section 2.1). A kernel of 1 is a dense layer of each step.

    All windows together are a matrix (N P, kernel * c_in), so that the convolution is one matrix
    product. Two-dimensional convolutions would multiply the zeros above and below a sequence too.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        pad: int | tuple[int, int] | str = 0,
        bias: bool = True,
        rng: np.random.Generator,
        init: Init = glorot_uniform,
    ):
        if kernel < 1 or stride < 1 or dilation < 1:
            raise ValueError(f"kernel, stride and dilation are at least 1, got {kernel}, {stride} and {dilation}")
        if isinstance(pad, str) and pad != "causal":
            raise ValueError(f'pad is a number, a pair (before, after) or "causal", got {pad!r}')
        params = {"w": init(rng, (kernel, c_in, c_out), kernel * c_in, kernel * c_out)}
        if bias:
            params["b"] = np.zeros(c_out, np.float32)
        super().__init__(params)
        self.c_in, self.c_out, self.kernel, self.stride, self.dilation = c_in, c_out, kernel, stride, dilation
        self.reach = (kernel - 1) * dilation + 1
        self.pad = (self.reach - 1, 0) if isinstance(pad, str) else pads(pad)

    def forward(self, x: Array, train: bool = True, track: bool = True) -> Forward:
        """Return y = windows @ w + b, (N, P, c_out), and the cache (windows, T)."""
        expect_input(self, x, ("N", "T", self.c_in), f"a sequence has {self.c_in} features in each step")
        windows = self._windows(x)  # (N, P, kernel * c_in)
        y = self._product(windows)
        if "b" in self.params:
            y = self.backend.add_bias(y, self.params["b"])
        return y, (windows, x.shape[1])

    def backward(self, dy: Array, cache: Cache, need_dx: bool = True, need_grads: bool = True) -> Backward:
        """Return dx, and dw = windows.T @ dy, db = dy.sum((0, 1)) in grads."""
        (windows, T), w, dx, grads = cache, self.params["w"], None, None
        dy_rows = dy.reshape(-1, self.c_out)  # (N P, c_out)
        if need_dx:
            dwindows = self.backend.matmul(dy_rows, w.reshape(-1, self.c_out).T)  # windows @ w
            dx = self._add_windows(dwindows.reshape(windows.shape), T)
        if need_grads:
            grads = {"w": self.backend.matmul(windows.reshape(len(dy_rows), -1).T, dy_rows).reshape(w.shape)}
            if "b" in self.params:
                grads["b"] = self.backend.sum_rows(dy)  # (c_out,)
        return dx, grads

    def _product(self, windows: Array) -> Array:
        """Return windows @ w, (N, P, kernel * c_in) -> (N, P, c_out)."""
        N, P, _ = windows.shape
        w = self.params["w"].reshape(-1, self.c_out)
        return self.backend.matmul(windows.reshape(N * P, -1), w).reshape(N, P, self.c_out)

    def _windows(self, x: Array) -> Array:
        """Return windows (N, P, kernel * c_in) with windows[n,p,k] = xpad[n, p*stride + k*dilation], (c_in,)."""
        (N, T, C), (before, after), xp = x.shape, self.pad, self.backend.xp
        P = (T + before + after - self.reach) // self.stride + 1
        if T + before + after < self.reach:
            raise ValueError(f"{self!r} reaches over {self.reach} steps, got x {tuple(x.shape)}: choose a larger pad")
        xpad = x
        if self.pad != (0, 0):
            xpad = xp.zeros((N, before + T + after, C), x.dtype)
            xpad[:, before : before + T] = x
        return xp.concatenate([xpad[:, steps] for steps in self._taps(P)], axis=2)

    def _add_windows(self, dwindows: Array, T: int) -> Array:
        """Return dx: the sum of what each window gives to the step of x that it reads. The inverse of `_windows`."""
        (N, P, _), (before, after), C = dwindows.shape, self.pad, self.c_in
        dxpad = self.backend.xp.zeros((N, before + T + after, C), dwindows.dtype)
        for k, steps in enumerate(self._taps(P)):
            dxpad[:, steps] += dwindows[:, :, k * C : (k + 1) * C]
        return dxpad[:, before : before + T]

    def _taps(self, P: int) -> list[slice]:
        """Return the steps of xpad that the k-th tap of the P windows reads, for each k."""
        first = [k * self.dilation for k in range(self.kernel)]
        return [slice(k, k + (P - 1) * self.stride + 1, self.stride) for k in first]

    # ---- second derivatives

    def tangent(self, tx: Array, cache: Cache) -> Forward:
        """Return ty, the convolution of tx without the bias, (N, P, c_out)."""
        windows = self._windows(tx)
        return self._product(windows), (windows, tx.shape[1])

    def tangent_backward(
        self, dy: Array | None, dty: Array, cache: Cache, tangent_cache: Cache, need_dx: bool = True
    ) -> TangentBackward:
        """Return (dx, dtx, grads) of the pair (y, ty)."""
        return affine_tangent_backward(self, dy, dty, cache, tangent_cache, need_dx)

    def __repr__(self) -> str:
        dilation = f", dilation {self.dilation}" if self.dilation > 1 else ""
        return f"Conv1d({self.c_in} -> {self.c_out}, {self.kernel}, stride {self.stride}{dilation})"
