"""A residual block for rows: the output of some layers, joined with their input."""

from typing import Any, Self

from minigan.backends import Array, Backend
from minigan.layers.base import Backward, Cache, Forward, Layer, TangentBackward
from minigan.layers.sequential import Sequential


class Concatenate(Layer):
    """Join the output of layers with their input, y = [f(x), x], (N, n) -> (N, m + n).

    f applies the layers in sequence, (N, n) -> (N, m). The layers after it see x as well, so that f
    need not preserve it. CTGAN's generator has such blocks, with a dense layer, batch norm and ReLU
    as f (Xu et al. 2019, section 4.4). Parameters and buffers have the names that they have in
    `Sequential(*layers)`.
    """

    def __init__(self, *layers: Layer):
        self.network = Sequential(*layers)

    @property
    def params(self) -> dict[str, Array]:  # type: ignore[override]  # the layers' own, so not to be set
        """The parameters of the layers, by name."""
        return self.network.params

    @property
    def buffers(self) -> dict[str, Array]:  # type: ignore[override]  # the same
        """The buffers of the layers, by name."""
        return self.network.buffers

    @property
    def takes_labels(self) -> bool:  # type: ignore[override]  # the same
        """Whether any of the layers takes labels."""
        return self.network.takes_labels

    @property
    def backend(self) -> Backend:  # type: ignore[override]  # the same
        """The backend of the layers."""
        return self.network.backend

    def forward(self, x: Array, train: bool = True, track: bool = True, labels: Array | None = None) -> Forward:
        """Return y = [f(x), x] and the cache (cache of f, m)."""
        f, cache = self.network.forward(x, train, track, labels)
        return self.backend.xp.concatenate([f, x], axis=1), (cache, f.shape[1])

    def backward(self, dy: Array, cache: Cache, need_dx: bool = True, need_grads: bool = True) -> Backward:
        """Return dx and the gradients of the layers. x has two uses in y = [f(x), x], so dx is the sum of two."""
        cache, m = cache
        dx, grads = self.network.backward(dy[:, :m], cache, need_dx, need_grads)
        return dx + dy[:, m:] if need_dx else None, grads

    def inner(self) -> tuple[Layer, ...]:
        """Return the layers."""
        return self.network.layers

    def leaves(self) -> list[Layer]:
        """Return the layers that store the parameters."""
        return self.network.leaves()

    def to(self, backend: Backend | str, dtype: Any = None) -> Self:
        """Move the layers to a backend, pack the parameters and return this layer."""
        self.network.to(backend, dtype)
        return self

    # ---- second derivatives

    def tangent(self, tx: Array, cache: Cache) -> Forward:
        """Return ty = [tf, tx], where tf is the tangent of f."""
        tf, tangent_cache = self.network.tangent(tx, cache[0])
        return self.backend.xp.concatenate([tf, tx], axis=1), tangent_cache

    def tangent_backward(
        self, dy: Array | None, dty: Array, cache: Cache, tangent_cache: Cache, need_dx: bool = True
    ) -> TangentBackward:
        """Return (dx, dtx, grads) of the pair (y, ty)."""
        cache, m = cache
        df = None if dy is None else dy[:, :m]
        dx, dtx, grads = self.network.tangent_backward(df, dty[:, :m], cache, tangent_cache, need_dx)
        if not need_dx:
            return None, None, grads
        if dy is not None:
            assert dx is not None  # every layer has a dx for this dy
            dx = dx + dy[:, m:]
        return dx, dtx + dty[:, m:], grads

    def __repr__(self) -> str:
        return f"Concatenate({', '.join(map(repr, self.network.layers))})"
