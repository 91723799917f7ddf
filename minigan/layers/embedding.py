"""Embeddings of wide categories in a row of a table."""

from collections.abc import Sequence

import numpy as np

from minigan.backends import Array
from minigan.layers.base import (
    Backward,
    Cache,
    Forward,
    Grads,
    Layer,
    TangentBackward,
    affine_tangent_backward,
    expect_input,
)
from minigan.layers.heads import expect_groups, numbers_of
from minigan.layers.init import Init, glorot_uniform


class Embedding(Layer):
    """Replace each of some groups of features by its product with a matrix, y_k = x_k @ e_k.

    x (N, n), x_k (N, K) the features of group k, e_k (K, width). For a one-hot group, y_k is the row of
    e_k for its value: `width` numbers that describe the value. y has the features of x in their order,
    with `width` numbers in place of each group. Features outside the groups are passed on.

    A discriminator sees real rows, whose groups are one-hot, generated rows, whose groups may be soft,
    and points between them. So x_k is multiplied, and not looked up, and has a gradient.
    """

    def __init__(
        self,
        groups: Sequence[tuple[int, int]],
        n: int,
        width: int,
        *,
        rng: np.random.Generator,
        init: Init = glorot_uniform,
    ):
        if width < 1:
            raise ValueError(f"the width of an embedding is at least 1, got {width}")
        self.groups, self.n, self.width = expect_groups(groups, n), n, width
        # One number of a one-hot group contributes to an output, so the fan in is 1.
        super().__init__({f"e{k}": init(rng, (b - a, width), 1, width) for k, (a, b) in enumerate(self.groups)})
        names = {group: f"e{k}" for k, group in enumerate(self.groups)}
        # Each part is (columns of x, columns of y, name of the matrix or None), in the order of the columns.
        self.parts: list[tuple[slice, slice, str | None]] = []
        self.n_out = 0
        for start, stop in sorted((*self.groups, *numbers_of(self.groups, n))):
            name = names.get((start, stop))
            end = self.n_out + (stop - start if name is None else width)
            self.parts.append((slice(start, stop), slice(self.n_out, end), name))
            self.n_out = end

    def forward(self, x: Array, train: bool = True, track: bool = True) -> Forward:
        """Return y, with y_k = x_k @ e_k, and the cache x."""
        expect_input(self, x, ("N", self.n), "its groups are those of rows with so many features")
        return self._embed(x), x

    def _embed(self, x: Array) -> Array:
        """Return y, (N, n) -> (N, n_out)."""
        matmul, e = self.backend.matmul, self.params
        parts = [x[:, of_x] if name is None else matmul(x[:, of_x], e[name]) for of_x, _, name in self.parts]
        return self.backend.xp.concatenate(parts, axis=1)

    def backward(self, dy: Array, cache: Cache, need_dx: bool = True, need_grads: bool = True) -> Backward:
        """Return dx with dx_k = dy_k @ e_k.T, and de_k = x_k.T @ dy_k in grads."""
        x, dx, matmul = cache, None, self.backend.matmul
        if need_dx:
            parts = [
                dy[:, of_y] if name is None else matmul(dy[:, of_y], self.params[name].T)
                for _, of_y, name in self.parts
            ]
            dx = self.backend.xp.concatenate(parts, axis=1)
        grads: Grads | None = None
        if need_grads:
            grads = {name: matmul(x[:, of_x].T, dy[:, of_y]) for of_x, of_y, name in self.parts if name is not None}
        return dx, grads

    # ---- second derivatives

    def tangent(self, tx: Array, cache: Cache) -> Forward:
        """Return ty, with ty_k = tx_k @ e_k."""
        return self._embed(tx), tx

    def tangent_backward(
        self, dy: Array | None, dty: Array, cache: Cache, tangent_cache: Cache, need_dx: bool = True
    ) -> TangentBackward:
        """Return (dx, dtx, grads) of the pair (y, ty)."""
        return affine_tangent_backward(self, dy, dty, cache, tangent_cache, need_dx)

    def __repr__(self) -> str:
        return f"Embedding({self.n} -> {self.n_out}, {len(self.groups)} groups x {self.width})"
