"""Layers that reshape, repeat or join their input."""

import math

from minigan.backends import Array, Shape
from minigan.layers.activations import Elementwise
from minigan.layers.base import Cache, Forward, expect_input


class Identity(Elementwise):
    """Identity, y = x. `fuse` replaces a merged layer by it, so that later layers keep their position."""

    def forward(self, x: Array, train: bool = True, track: bool = True) -> Forward:
        """Return x and no cache."""
        return x, None

    def gradient(self, dy: Array, cache: Cache) -> Array:
        """Return dx = dy."""
        return dy


class Reshape(Elementwise):
    """Reshape x (N, ...) to y (N, *shape)."""

    def __init__(self, *shape: int):
        super().__init__()
        self.shape = shape

    def forward(self, x: Array, train: bool = True, track: bool = True) -> Forward:
        """Return y (N, *shape) and the shape of x as cache."""
        if math.prod(x.shape[1:]) != math.prod(self.shape):
            raise ValueError(
                f"{self!r} expects {math.prod(self.shape)} numbers for each sample, got x {tuple(x.shape)}"
            )
        return x.reshape(len(x), *self.shape), x.shape

    def gradient(self, dy: Array, x_shape: Shape) -> Array:
        """Return dx, which is dy in the shape of x."""
        return dy.reshape(x_shape)

    def tangent(self, tx: Array, x_shape: Shape) -> Forward:
        """Return ty, which is tx in the shape of y."""
        return tx.reshape(len(tx), *self.shape), tx

    def __repr__(self) -> str:
        return f"Reshape({', '.join(map(str, self.shape))})"


class Flatten(Elementwise):
    """Flatten each sample to a row, x (N, H, W, C) -> y (N, H*W*C)."""

    def forward(self, x: Array, train: bool = True, track: bool = True) -> Forward:
        """Return y (N, H*W*C) and the shape of x as cache."""
        return x.reshape(len(x), -1), x.shape

    def gradient(self, dy: Array, x_shape: Shape) -> Array:
        """Return dx, which is dy in the shape of x."""
        return dy.reshape(x_shape)

    def tangent(self, tx: Array, x_shape: Shape) -> Forward:
        """Return ty, which is tx in the shape of y."""
        return tx.reshape(len(tx), -1), tx


class Upsample(Elementwise):
    """Nearest-neighbour upsampling ("reverse pooling"): repeat each pixel in a block of factor x factor pixels.

    x (N, H, W, C) -> y (N, factor*H, factor*W, C).
    """

    def __init__(self, factor: int):
        if factor < 1:
            raise ValueError(f"an upsampling factor is at least 1, got {factor}")
        super().__init__()
        self.factor = factor

    def forward(self, x: Array, train: bool = True, track: bool = True) -> Forward:
        """Return y (N, factor*H, factor*W, C) and the shape of x as cache."""
        expect_input(self, x, ("N", "H", "W", "C"), "images have four axes")
        return self._repeat(x), x.shape

    def _repeat(self, x: Array) -> Array:
        """Repeat each pixel. `broadcast_to` is used because CuPy's `repeat` launches one copy for each row."""
        N, H, W, C = x.shape
        blocks = self.backend.xp.broadcast_to(x[:, :, None, :, None], (N, H, self.factor, W, self.factor, C))
        return blocks.reshape(N, H * self.factor, W * self.factor, C)

    def gradient(self, dy: Array, x_shape: Shape) -> Array:
        """Return dx, the sum of dy over each block, because y[n, f*h+i, f*w+j, c] = x[n,h,w,c]."""
        N, H, W, C = x_shape
        return dy.reshape(N, H, self.factor, W, self.factor, C).sum(axis=(2, 4))

    def tangent(self, tx: Array, x_shape: Shape) -> Forward:
        """Return ty, which is tx with repeated pixels."""
        return self._repeat(tx), tx

    def __repr__(self) -> str:
        return f"Upsample({self.factor})"


class Pack(Elementwise):
    """Pack m consecutive samples into one, so that D judges m samples together: PacGAN (Lin et al. 2018, section 3).

    x (N, ..., C) -> y (N/m, ..., m*C) with y[i, ..., j*C + c] = x[i*m + j, ..., c]. So images
    (N, H, W, C) have m times as many channels, and rows (N, n) are joined. A generator that
    produces few different samples makes packs with repetitions, which D recognises.
    """

    def __init__(self, m: int):
        if m < 1:
            raise ValueError(f"a pack has at least 1 sample, got {m}")
        super().__init__()
        self.m = m

    def forward(self, x: Array, train: bool = True, track: bool = True) -> Forward:
        """Return y (N/m, ..., m*C) and the shape of x as cache."""
        if len(x.shape) < 2 or len(x) % self.m:
            raise ValueError(
                f"{self!r} expects x (N, ..., C) with N a multiple of {self.m}, got x {tuple(x.shape)}: "
                f"choose a batch size that is a multiple of {self.m}"
            )
        return self._pack(x), x.shape

    def _pack(self, x: Array) -> Array:
        """(N, ..., C) -> (N/m, m, ..., C) -> (N/m, ..., m, C) -> (N/m, ..., m*C)."""
        (N, *middle, C), m, xp = x.shape, self.m, self.backend.xp
        return xp.moveaxis(x.reshape(N // m, m, *middle, C), 1, -2).reshape(N // m, *middle, m * C)

    def gradient(self, dy: Array, x_shape: Shape) -> Array:
        """Return dx (N, ..., C), which is dy in the order of x: dx[i*m + j, ..., c] = dy[i, ..., j*C + c]."""
        (N, *middle, C), m, xp = x_shape, self.m, self.backend.xp
        return xp.moveaxis(dy.reshape(N // m, *middle, m, C), -2, 1).reshape(x_shape)

    def tangent(self, tx: Array, x_shape: Shape) -> Forward:
        """Return ty, which is tx packed as x."""
        return self._pack(tx), tx

    def __repr__(self) -> str:
        return f"Pack({self.m})"
