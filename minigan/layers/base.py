"""The interface of a layer.

A layer has no state apart from `params` (learned) and `buffers` (saved, but not learned)::

    y, cache  = layer.forward(x, train=True, track=True, labels=None)
    dx, grads = layer.backward(dy, cache, need_dx=True, need_grads=True)

The cache is returned and not stored in the layer, because a discriminator runs forward on a
real and on a fake batch before it runs backward on either. `grads` has the keys of `params`,
in the same order. A result that is not needed is None and is not computed. To freeze a
network, pass `need_grads=False`. To detach a network, discard its cache.

`train=True` normalises with the statistics of the batch and applies dropout and noise.
`train=False` uses the running statistics and applies neither. A layer that draws random numbers
there too says so by `draws_in_evaluation`. `track=False` does not update the running statistics,
because a training step must change only the network that it trains. Pass labels to
`network.forward(x, labels=labels)`. The network passes them to the layers whose `takes_labels` is
true.

Gradient penalties need second derivatives. They are computed from the linearisation of a
layer: `tangent` maps a change tx of x to the change ty = (dy/dx) tx of y, and
`tangent_backward` is the backward pass of the pair (y, ty)::

    ty, tangent_cache = layer.tangent(tx, cache)
    dx, dtx, grads    = layer.tangent_backward(dy, dty, cache, tangent_cache, need_dx=True)

Images are (N, H, W, C). All results have the dtype of x, which must be the dtype of the
weights. A layer class is either abstract or final: do not subclass a concrete layer to change
what it computes.
"""

from typing import Any, Self

import numpy as np

from minigan import backends
from minigan.backends import Array, Backend

# Types of arguments and results. In Backward, `Any` stands for None, so that a caller that needs gradients can use them
# without a test for None.
Grads = dict[str, Array]  # gradients, by the names of the parameters
Cache = Any  # what `forward` stores for `backward`: each layer has its own
Forward = tuple[Array, Cache]  # (y, cache), or (ty, tangent_cache)
Backward = tuple[Array | None, Grads | Any]  # (dx, grads)
TangentBackward = tuple[Array | None, Array | None, Grads]  # (dx, dtx, grads)


class Layer:
    """Base class of all layers: parameters, buffers and a backend. A new layer is on the CPU; `to` moves it."""

    takes_labels = False  # whether forward has an argument `labels`
    draws_in_evaluation = False  # whether train=False draws random numbers too, from the buffers `key` and `draws`

    def __init__(self, params: dict[str, Array] | None = None, buffers: dict[str, Array] | None = None):
        self.params = params or {}
        self.buffers = buffers or {}
        self.backend: Backend = backends.reference()

    def forward(self, x: Array, train: bool = True, track: bool = True) -> Forward:
        """Return (y, cache). `backward` needs the cache. A layer that takes labels also has an argument `labels`."""
        raise NotImplementedError

    def backward(self, dy: Array, cache: Cache, need_dx: bool = True, need_grads: bool = True) -> Backward:
        """Return (dx, grads), where grads maps parameter names to gradients. A result that is not needed is None."""
        raise NotImplementedError

    def tangent(self, tx: Array, cache: Cache) -> Forward:
        """Return (ty, tangent_cache) with ty = (dy/dx) tx, the change of y when x changes by tx."""
        raise NotImplementedError(f"{self!r} has no rule for second derivatives: give it `tangent`")

    def tangent_backward(
        self, dy: Array | None, dty: Array, cache: Cache, tangent_cache: Cache, need_dx: bool = True
    ) -> TangentBackward:
        """Return (dx, dtx, grads) from the gradients dy of y and dty of ty.

        A dy or dx of None means zero. Linear layers return a dx of None if dy is None.
        """
        raise NotImplementedError(f"{self!r} has no rule for second derivatives: give it `tangent_backward`")

    # ---- backend, and the parameters as one array

    def to(self, backend: Backend | str, dtype: Any = None) -> Self:
        """Move parameters and buffers to a backend, given as an object or by name, and return the layer.

        If a dtype is given, convert them to it. Integer buffers (counters) are neither moved nor converted.
        """
        backend = backends.load(backend) if isinstance(backend, str) else backend
        for tensors in (self.params, self.buffers):
            for name, value in tensors.items():
                if value.dtype.kind != "u":
                    tensors[name] = backend.asarray(self.backend.to_numpy(value), dtype=dtype or value.dtype)
        self.backend = backend
        self.pack()
        return self

    def inner(self) -> tuple["Layer", ...]:
        """Return the layers that this layer contains directly."""
        return ()

    def leaves(self) -> list["Layer"]:
        """Return the layers whose `params` store the arrays themselves."""
        return [self]

    def pack(self) -> Array:
        """Return one flat array that stores all parameters, in the order of `params`; each parameter is a view into it.

        Optimizers use it to update all parameters in one operation. `to` and the optimizers call
        `pack`. If the network is already packed, the existing array is returned.
        """
        held = [(layer.params, name) for layer in self.leaves() for name in layer.params]
        if not held:
            return self.backend.xp.zeros(0, np.float32)
        flat = next(params[name].base for params, name in held)
        packed = flat is not None and flat.shape == (self.n_params,)
        if not packed or any(params[name].base is not flat for params, name in held):
            flat, offset = self.backend.concatenate([params[name] for params, name in held]), 0
            for params, name in held:
                shape, size = params[name].shape, params[name].size
                params[name] = flat[offset : offset + size].reshape(shape)
                offset += size
        return flat

    def refresh_buffers(self) -> None:
        """Recompute the buffers that are derived from the weights. Call this after setting the weights directly."""
        for layer in self.inner():
            layer.refresh_buffers()

    @property
    def n_params(self) -> int:
        """The number of learned parameters."""
        return sum(p.size for p in self.params.values())

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def expect_input(layer: Layer, x: Array, shape: tuple[int | str, ...], advice: str) -> None:
    """Raise ValueError unless x has this shape and the dtype of the layer's weights.

    Strings such as "N" in `shape` match any size. `advice` ends the message about a wrong shape.
    """
    if len(x.shape) != len(shape) or any(n != s for n, s in zip(x.shape, shape, strict=True) if isinstance(s, int)):
        expected = "(" + ", ".join(map(str, shape)) + ")"
        raise ValueError(f"{type(layer).__name__} expects x {expected}, got {tuple(x.shape)}: {advice}")
    for value in layer.params.values():
        if value.dtype != x.dtype and "c" not in (value.dtype.kind, x.dtype.kind):  # c: complex step
            raise ValueError(
                f"{type(layer).__name__} has {value.dtype} weights, got x of {x.dtype}: "
                f"convert x, or the network with .to(backend, dtype={x.dtype})"
            )


def affine_tangent_backward(
    layer: Layer, dy: Array | None, dty: Array, cache: Cache, tangent_cache: Cache, need_dx: bool
) -> TangentBackward:
    """Compute `tangent_backward` of a layer y = A(w) x + b with A linear in w, so that ty = A(w) tx.

    ty is the same map without the bias, so `backward` applies to both outputs. From dty it
    computes dtx and the gradients through ty. From dy it computes dx and the gradients through y.
    """
    dx = None
    dtx, grads = layer.backward(dty, tangent_cache, need_dx)
    assert grads is not None
    if "b" in grads:
        grads["b"] = layer.backend.xp.zeros_like(grads["b"])  # ty has no bias
    if dy is not None:
        dx, grads_y = layer.backward(dy, cache, need_dx)
        grads = add(grads, grads_y)
    return dx, dtx, grads


def add(a: Grads, b: Grads | None) -> Grads:
    """Add two dictionaries of gradients by name. A b of None means no gradients to add."""
    return a if b is None else {name: a[name] + b[name] for name in a}
