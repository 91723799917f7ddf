"""The fully connected layer."""

import numpy as np

from minigan.backends import Array
from minigan.layers.base import Backward, Cache, Forward, Layer, TangentBackward, affine_tangent_backward, expect_input
from minigan.layers.init import Init, glorot_uniform


class Dense(Layer):
    """Fully connected layer, y = x @ w + b.

    x (N, n_in), w (n_in, n_out), b (n_out,), y (N, n_out). `bias=False` leaves out b.
    """

    def __init__(
        self, n_in: int, n_out: int, *, bias: bool = True, rng: np.random.Generator, init: Init = glorot_uniform
    ):
        params = {"w": init(rng, (n_in, n_out), n_in, n_out)}
        if bias:
            params["b"] = np.zeros(n_out, np.float32)
        super().__init__(params)
        self.n_in, self.n_out = n_in, n_out

    def forward(self, x: Array, train: bool = True, track: bool = True) -> Forward:
        """Return y = x @ w + b, (N, n_out), and the cache x."""
        expect_input(self, x, ("N", self.n_in), "put Flatten() before it")
        y = self.backend.matmul(x, self.params["w"])  # x @ w, (N, n_out)
        if "b" in self.params:
            y = self.backend.add_bias(y, self.params["b"])  # + b
        return y, x

    def backward(self, dy: Array, cache: Cache, need_dx: bool = True, need_grads: bool = True) -> Backward:
        """Return dx = dy @ w.T, and dw = x.T @ dy, db = dy.sum(0) in grads."""
        x, w, dx, grads = cache, self.params["w"], None, None
        if need_dx:
            dx = self.backend.matmul(dy, w.T)  # dy @ w.T, (N, n_in)
        if need_grads:
            grads = {"w": self.backend.matmul(x.T, dy)}  # x.T @ dy, (n_in, n_out)
            if "b" in self.params:
                grads["b"] = self.backend.sum_rows(dy)  # dy.sum(0), (n_out,)
        return dx, grads

    # ---- second derivatives

    def tangent(self, tx: Array, cache: Cache) -> Forward:
        """Return ty = tx @ w, (N, n_out)."""
        return self.backend.matmul(tx, self.params["w"]), tx

    def tangent_backward(
        self, dy: Array | None, dty: Array, cache: Cache, tangent_cache: Cache, need_dx: bool = True
    ) -> TangentBackward:
        """Return (dx, dtx, grads) of the pair (y, ty)."""
        return affine_tangent_backward(self, dy, dty, cache, tangent_cache, need_dx)

    def __repr__(self) -> str:
        return f"Dense({self.n_in} -> {self.n_out})"
