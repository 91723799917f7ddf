"""What every layer has in common.

A layer is stateless apart from `params` (learned) and `buffers` (kept, not learned)::

    y, cache  = layer.forward(x, train=True, track=True, labels=None)
    dx, grads = layer.backward(dy, cache, need_dx=True, need_grads=True)

The cache is returned and never stored, because a discriminator sees a real and a fake batch
before it goes back through either. `grads` has the keys of `params`, in the same order. What
is not needed is None and is not computed: to freeze a network, do not ask for its
gradients; to detach one, drop its cache.

`train=True` normalises by the batch's own statistics and drops units; `train=False` uses
the running statistics and drops nothing. `track=False` leaves the running statistics as
they are, because a player that only helps in the other's step must not change. Labels, if
there are any, are given to `network.forward(x, labels=labels)`, which hands them to the
layers that take them (`takes_labels`).

Second derivatives, which the gradient penalties need, go through a layer's linearisation:
`tangent` pushes a change tx of x forward to the change ty = (dy/dx) tx of y, and
`tangent_backward` goes back through the pair (y, ty)::

    ty, tangent_cache = layer.tangent(tx, cache)
    dx, dtx, grads    = layer.tangent_backward(dy, dty, cache, tangent_cache, need_dx=True)

Images are (N, H, W, C). Everything has the dtype of x, which must be the dtype of the
weights. Layer classes are abstract or final: a class that computes is not subclassed to
compute something else.
"""

from typing import Any

import numpy as np

from minigan import backends
from minigan.backends import Array, Backend

Grads = dict[str, Array]


class Layer:
    """Parameters, buffers, and the backend that computes. Layers are created on the CPU; `to` moves them."""

    takes_labels = False  # whether forward has an argument `labels`

    def __init__(self, params: dict[str, Array] | None = None, buffers: dict[str, Array] | None = None):
        self.params = params or {}
        self.buffers = buffers or {}
        self.backend: Backend = backends.reference()

    def forward(self, x: Array, train: bool = True, track: bool = True) -> tuple[Array, Any]:
        """y, and the cache that `backward` needs. A layer that takes labels has `labels=None` as well."""
        raise NotImplementedError

    def backward(
        self, dy: Array, cache: Any, need_dx: bool = True, need_grads: bool = True
    ) -> tuple[Array | None, Grads | None]:
        """dx, and the gradients of the parameters by name. What is not needed is None."""
        raise NotImplementedError

    def tangent(self, tx: Array, cache: Any) -> tuple[Array, Any]:
        """ty = (dy/dx) tx, how y changes if x changes by tx; and what `tangent_backward` needs of it."""
        raise NotImplementedError(f"{self!r} has no rule for second derivatives: a gradient penalty cannot pass it")

    def tangent_backward(
        self, dy: Array | None, dty: Array, cache: Any, tangent_cache: Any, need_dx: bool = True
    ) -> tuple[Array | None, Array | None, Grads]:
        """(dx, dtx, grads) from the gradients of y and of ty. A dy or dx of None is zero: linear layers return None."""
        raise NotImplementedError(f"{self!r} has no rule for second derivatives: a gradient penalty cannot pass it")

    # ---- where it computes, and its parameters as one array

    def to(self, backend: Backend | str, dtype: Any = None) -> "Layer":
        """Moves parameters and buffers to the backend (or to the one of that name) and, if a dtype is given, to that
        precision. Returns the layer. Whole-number buffers (counters) stay as they are."""
        backend = backends.load(backend) if isinstance(backend, str) else backend
        for tensors in (self.params, self.buffers):
            for name, value in tensors.items():
                if value.dtype.kind != "u":
                    tensors[name] = backend.asarray(self.backend.to_numpy(value), dtype=dtype or value.dtype)
        self.backend = backend
        self.pack()
        return self

    def inner(self) -> tuple["Layer", ...]:
        """The layers that this one is made of, if it is made of layers."""
        return ()

    def leaves(self) -> list["Layer"]:
        """The layers that hold the parameters themselves."""
        return [self]

    def pack(self) -> Array:
        """One flat array that holds all parameters, in the order of `params`, each of which is a view into it.

        An optimizer updates them all in one operation. `to` and the optimizers pack a network;
        one that is packed already stays as it is.
        """
        held = [(layer.params, name) for layer in self.leaves() for name in layer.params]
        if not held:
            return self.backend.xp.zeros(0, np.float32)
        flat = next(params[name].base for params, name in held)
        packed = flat is not None and flat.shape == (self.n_params,)
        if not packed or any(params[name].base is not flat for params, name in held):
            flat, at = self.backend.concatenate([params[name] for params, name in held]), 0
            for params, name in held:
                shape, size = params[name].shape, params[name].size
                params[name] = flat[at : at + size].reshape(shape)
                at += size
        return flat

    def refresh_buffers(self) -> None:
        """Recomputes the buffers that follow from the weights, after the weights were set from outside."""
        for layer in self.inner():
            layer.refresh_buffers()

    @property
    def n_params(self) -> int:
        """How many numbers this layer learns."""
        return sum(p.size for p in self.params.values())

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def expect_input(layer: Layer, x: Array, shape: tuple, advice: str) -> None:
    """Raises ValueError unless x has this shape ("N" stands for any size) and the dtype of the layer's weights."""
    if len(x.shape) != len(shape) or any(n != s for n, s in zip(x.shape, shape, strict=True) if isinstance(s, int)):
        expected = "(" + ", ".join(map(str, shape)) + ")"
        raise ValueError(f"{type(layer).__name__} expects x {expected}, got {tuple(x.shape)}: {advice}")
    for value in layer.params.values():
        if value.dtype != x.dtype and "c" not in (value.dtype.kind, x.dtype.kind):  # c: the complex step
            raise ValueError(
                f"{type(layer).__name__} has {value.dtype} weights, got x of {x.dtype}: "
                f"convert x, or the network with .to(backend, dtype={x.dtype})"
            )


def affine_tangent_backward(
    layer: Layer, dy: Array | None, dty: Array, cache: Any, tangent_cache: Any, need_dx: bool
) -> tuple[Array | None, Array | None, Grads]:
    """`tangent_backward` of a layer y = A(w) x + b with A linear in w, so that ty = A(w) tx.

    That is the same map without the bias, so `backward` serves both: from dty it gives dtx and
    the gradients by way of ty, from dy it gives dx and the gradients by way of y.
    """
    dx = None
    dtx, grads = layer.backward(dty, tangent_cache, need_dx)
    assert grads is not None
    if "b" in grads:
        grads["b"] = layer.backend.xp.zeros_like(grads["b"])  # ty has no bias
    if dy is not None:
        dx, more = layer.backward(dy, cache, need_dx)
        grads = add(grads, more)
    return dx, dtx, grads


def add(a: Grads, b: Grads | None) -> Grads:
    """The sum of two gradients, name by name; b may be None for none."""
    return a if b is None else {name: a[name] + b[name] for name in a}
