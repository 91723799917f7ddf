"""Layers that only move numbers."""

import math

from minigan.layers.activations import Elementwise
from minigan.layers.base import expect_input


class Identity(Elementwise):
    """y = x. `fuse` puts it where a layer was, so that the layers behind keep their numbers."""

    def forward(self, x, train=True, track=True):
        return x, None

    def gradient(self, dy, cache):
        return dy


class Reshape(Elementwise):
    """y is x (N, ...) in the shape (N, *shape)."""

    def __init__(self, *shape: int):
        super().__init__()
        self.shape = shape

    def forward(self, x, train=True, track=True):
        if math.prod(x.shape[1:]) != math.prod(self.shape):
            raise ValueError(
                f"{self!r} expects {math.prod(self.shape)} numbers for each sample, got x {tuple(x.shape)}"
            )
        return x.reshape(len(x), *self.shape), x.shape

    def gradient(self, dy, x_shape):
        return dy.reshape(x_shape)

    def tangent(self, tx, x_shape):
        return tx.reshape(len(tx), *self.shape), tx

    def __repr__(self) -> str:
        return f"Reshape({', '.join(map(str, self.shape))})"


class Flatten(Elementwise):
    """y (N, H*W*C) is x (N, H, W, C) with each sample in one row."""

    def forward(self, x, train=True, track=True):
        return x.reshape(len(x), -1), x.shape

    def gradient(self, dy, x_shape):
        return dy.reshape(x_shape)

    def tangent(self, tx, x_shape):
        return tx.reshape(len(tx), -1), tx


class Upsample(Elementwise):
    """Nearest-neighbour upsampling ("reverse pooling"): each pixel becomes a block of factor x factor equal ones.

    x (N, H, W, C) -> y (N, factor*H, factor*W, C).
    """

    def __init__(self, factor: int):
        if factor < 1:
            raise ValueError(f"an upsampling factor is at least 1, got {factor}")
        super().__init__()
        self.factor = factor

    def forward(self, x, train=True, track=True):
        expect_input(self, x, ("N", "H", "W", "C"), "images have four axes")
        return self._repeat(x), x.shape

    def _repeat(self, x):
        N, H, W, C = x.shape  # (CuPy's `repeat` would launch a copy for each row)
        blocks = self.backend.xp.broadcast_to(x[:, :, None, :, None], (N, H, self.factor, W, self.factor, C))
        return blocks.reshape(N, H * self.factor, W * self.factor, C)

    def gradient(self, dy, x_shape):  # y[n, f*h+i, f*w+j, c] = x[n,h,w,c]: the block's gradients add
        N, H, W, C = x_shape
        return dy.reshape(N, H, self.factor, W, self.factor, C).sum(axis=(2, 4))

    def tangent(self, tx, x_shape):
        return self._repeat(tx), tx

    def __repr__(self) -> str:
        return f"Upsample({self.factor})"
