"""A network: layers one after the other."""

from minigan.layers.base import Layer


class Sequential(Layer):
    """y = last(... second(first(x))). Parameters and buffers are named by position: "0.w", "0.b", "2.gamma", ..."""

    noise_shape: tuple[int, ...] | None = None  # of a generator: the shape of one noise vector
    classes: int = 0  # how many labels the network knows, 0 without labels

    def __init__(self, *layers: Layer):
        self.layers = layers
        self.backend = layers[0].backend

    @property
    def params(self) -> dict:
        return self._named("params")

    @property
    def buffers(self) -> dict:
        return self._named("buffers")

    def _named(self, kind: str) -> dict:
        return by_position([getattr(layer, kind) for layer in self.layers])

    @property
    def takes_labels(self) -> bool:
        return any(layer.takes_labels for layer in self.layers)

    def forward(self, x, train=True, track=True, labels=None):
        caches = []
        for layer in self.layers:
            given = {"labels": labels} if layer.takes_labels else {}
            x, cache = layer.forward(x, train, track, **given)
            caches.append(cache)
        return x, caches

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        grads = [{} for _ in self.layers]
        # Below the first layer that learns, nobody needs dx unless the caller does.
        first = next((i for i, layer in enumerate(self.layers) if layer.params), 0) if need_grads else len(self.layers)
        dx = dy
        for i in reversed(range(len(self.layers))):
            dx, grads[i] = self.layers[i].backward(dx, cache[i], need_dx or i > first, need_grads)
            if dx is None:
                break
        return dx, by_position(grads) if need_grads else None

    # ---- second derivatives

    def tangent(self, tx, cache):
        tangent_caches = []
        for layer, layer_cache in zip(self.layers, cache, strict=True):
            tx, tangent_cache = layer.tangent(tx, layer_cache)
            tangent_caches.append(tangent_cache)
        return tx, tangent_caches

    def tangent_backward(self, dy, dty, cache, tangent_cache, need_dx=True):
        grads = [{} for _ in self.layers]
        for i in reversed(range(len(self.layers))):
            need = need_dx or any(layer.params for layer in self.layers[:i])
            dy, dty, grads[i] = self.layers[i].tangent_backward(dy, dty, cache[i], tangent_cache[i], need)
            if dty is None:
                break
        return dy, dty, by_position(grads)

    # ---- where it computes

    def inner(self) -> tuple[Layer, ...]:
        return self.layers

    def leaves(self) -> list[Layer]:
        return [leaf for layer in self.layers for leaf in layer.leaves()]

    def to(self, backend, dtype=None) -> "Sequential":
        for layer in self.layers:
            layer.to(backend, dtype)
        self.backend = self.layers[0].backend
        self.pack()
        return self

    def __repr__(self) -> str:
        return "Sequential(\n" + "".join(f"    {i}: {layer!r}\n" for i, layer in enumerate(self.layers)) + ")"


def by_position(tensors: list[dict]) -> dict:
    """The tensors of all layers, named by the layer's position: [{"w": a}, {}, {"w": b}] -> {"0.w": a, "2.w": b}."""
    return {f"{i}.{name}": value for i, named in enumerate(tensors) for name, value in named.items()}
