"""A network of layers in sequence."""

from typing import Any, Self

from minigan.backends import Array, Backend
from minigan.layers.base import Backward, Cache, Forward, Grads, Layer, TangentBackward


class Sequential(Layer):
    """Apply layers in sequence, y = last(... second(first(x))).

    Parameters and buffers are named by position: "0.w", "0.b", "2.gamma", ...
    """

    noise_shape: tuple[int, ...] | None = None  # the shape of one noise vector, if the network is a generator
    classes: int = 0  # the number of labels, 0 if the network takes no labels

    def __init__(self, *layers: Layer):
        self.layers = layers
        self.backend = layers[0].backend

    @property
    def params(self) -> dict[str, Array]:  # type: ignore[override]  # the layers' own, so not to be set
        """The parameters of all layers, by name."""
        return self._named("params")

    @property
    def buffers(self) -> dict[str, Array]:  # type: ignore[override]  # the same
        """The buffers of all layers, by name."""
        return self._named("buffers")

    def _named(self, kind: str) -> dict[str, Array]:
        return by_position([getattr(layer, kind) for layer in self.layers])

    @property
    def takes_labels(self) -> bool:  # type: ignore[override]  # the same
        """Whether any layer takes labels."""
        return any(layer.takes_labels for layer in self.layers)

    def forward(self, x: Array, train: bool = True, track: bool = True, labels: Array | None = None) -> Forward:
        """Return y and the list of the layers' caches. Labels are passed to the layers that take them."""
        caches = []
        for layer in self.layers:
            kwargs = {"labels": labels} if layer.takes_labels else {}
            x, cache = layer.forward(x, train, track, **kwargs)
            caches.append(cache)
        return x, caches

    def backward(self, dy: Array, cache: Cache, need_dx: bool = True, need_grads: bool = True) -> Backward:
        """Return dx and the gradients of all layers, by name."""
        grads: list[Grads] = [{} for _ in self.layers]
        # No layer up to the first one with parameters needs to compute dx, unless the caller needs it.
        learning = [i for i, layer in enumerate(self.layers) if layer.params] if need_grads else []
        first = learning[0] if learning else len(self.layers)
        dx = dy
        for i in reversed(range(len(self.layers))):
            dx, grads[i] = self.layers[i].backward(dx, cache[i], need_dx or i > first, need_grads)
            if dx is None:
                break
        return dx, by_position(grads) if need_grads else None

    # ---- second derivatives

    def tangent(self, tx: Array, cache: Cache) -> Forward:
        """Return ty and the list of the layers' tangent caches."""
        tangent_caches = []
        for layer, layer_cache in zip(self.layers, cache, strict=True):
            tx, tangent_cache = layer.tangent(tx, layer_cache)
            tangent_caches.append(tangent_cache)
        return tx, tangent_caches

    def tangent_backward(
        self, dy: Array | None, dty: Array, cache: Cache, tangent_cache: Cache, need_dx: bool = True
    ) -> TangentBackward:
        """Return (dx, dtx, grads) of the pair (y, ty)."""
        grads: list[Grads] = [{} for _ in self.layers]
        for i in reversed(range(len(self.layers))):
            need = need_dx or any(layer.params for layer in self.layers[:i])
            dy, dty, grads[i] = self.layers[i].tangent_backward(dy, dty, cache[i], tangent_cache[i], need)
            if dty is None:
                break
        return dy, dty, by_position(grads)

    # ---- structure and backend

    def inner(self) -> tuple[Layer, ...]:
        """Return the layers of the network."""
        return self.layers

    def leaves(self) -> list[Layer]:
        """Return the layers, with nested networks replaced by their layers."""
        return [leaf for layer in self.layers for leaf in layer.leaves()]

    def to(self, backend: Backend | str, dtype: Any = None) -> Self:
        """Move all layers to a backend, pack the parameters and return the network."""
        for layer in self.layers:
            layer.to(backend, dtype)
        self.backend = self.layers[0].backend
        self.pack()
        return self

    def __repr__(self) -> str:
        return "Sequential(\n" + "".join(f"    {i}: {layer!r}\n" for i, layer in enumerate(self.layers)) + ")"


def by_position(tensors: list[dict[str, Array]]) -> dict[str, Array]:
    """Merge the layers' dictionaries, naming by position: [{"w": a}, {}, {"w": b}] -> {"0.w": a, "2.w": b}."""
    return {f"{i}.{name}": value for i, named in enumerate(tensors) for name, value in named.items()}
