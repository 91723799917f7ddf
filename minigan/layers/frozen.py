"""A layer, or a network, that does not learn."""

from typing import Any, Self

from minigan.backends import Array, Backend
from minigan.layers.base import Backward, Cache, Forward, Layer, TangentBackward


class Frozen(Layer):
    """Apply a layer, or a network, with fixed weights, y = layer(x).

    It has no parameters. The parameters and buffers of the layer are its buffers, under the same
    names. So checkpoints store them, and optimizers and moving averages of weights leave them
    alone. The layer always runs as with train=False: batch norm uses its running statistics,
    nothing is dropped, and no statistic changes. The gradient passes through the layer to x, and
    no gradient of a weight is computed. Nothing is computed at all if no earlier layer learns and
    the gradient of x is not needed, as in the step of a discriminator whose first layers are frozen.
    """

    def __init__(self, layer: Layer):
        self.layer = layer

    @property
    def takes_labels(self) -> bool:  # type: ignore[override]  # the layer's own, so not to be set
        """Whether the layer takes labels."""
        return self.layer.takes_labels

    @property
    def params(self) -> dict[str, Array]:  # type: ignore[override]  # the same
        """No parameters."""
        return {}

    @property
    def buffers(self) -> dict[str, Array]:  # type: ignore[override]  # the same
        """The parameters and buffers of the layer, by name."""
        return self.layer.params | self.layer.buffers

    @property
    def backend(self) -> Backend:  # type: ignore[override]  # the same
        """The backend of the layer."""
        return self.layer.backend

    def forward(self, x: Array, train: bool = True, track: bool = True, **labels: Array) -> Forward:
        """Return y = layer(x), computed as with train=False and track=False, and the layer's cache."""
        return self.layer.forward(x, False, False, **labels)

    def backward(self, dy: Array, cache: Cache, need_dx: bool = True, need_grads: bool = True) -> Backward:
        """Return the layer's dx, and no gradients."""
        dx = self.layer.backward(dy, cache, need_grads=False)[0] if need_dx else None
        return dx, {} if need_grads else None

    def inner(self) -> tuple[Layer, ...]:
        """Return the layer as a tuple."""
        return (self.layer,)

    def to(self, backend: Backend | str, dtype: Any = None) -> Self:
        """Move the layer to a backend, and return this layer."""
        self.layer.to(backend, dtype)
        return self

    # ---- second derivatives

    def tangent(self, tx: Array, cache: Cache) -> Forward:
        """Return ty of the layer."""
        return self.layer.tangent(tx, cache)

    def tangent_backward(
        self, dy: Array | None, dty: Array, cache: Cache, tangent_cache: Cache, need_dx: bool = True
    ) -> TangentBackward:
        """Return (dx, dtx, {}): dx and dtx of the layer, and no gradients."""
        if not need_dx:
            return None, None, {}
        dx, dtx, _ = self.layer.tangent_backward(dy, dty, cache, tangent_cache)
        return dx, dtx, {}

    def __repr__(self) -> str:
        return f"Frozen({self.layer!r})"
