"""Weight normalisation."""

import copy

import numpy as np

from minigan.backends import Array, Backend
from minigan.layers.base import Backward, Cache, Forward, Grads, Layer, TangentBackward
from minigan.layers.conv import Conv2d, ConvTranspose2d
from minigan.layers.dense import Dense
from minigan.layers.temporal import Conv1d


class WeightNorm(Layer):
    """Weight normalisation: learn length and direction of the weight of each output (Salimans and Kingma 2016).

    w_o = g_o * vhat_o with vhat_o = v_o / |v_o| for each output o of a Dense, Conv1d, Conv2d or
    ConvTranspose2d layer. The learned parameters are g (O,), v with the shape of w, and the b of
    the inner layer. v starts as the weight of the inner layer, and g as the lengths |v_o|, so
    that a new layer computes the same as the inner layer.

    |v_o| = sqrt(sum of v^2 + eps), so that a v_o of zeros gives a w_o of zeros and finite
    gradients instead of NaN. The gradient of v_o is orthogonal to v_o, apart from eps. Its length
    |v_o| therefore grows in every step of plain gradient descent.
    """

    def __init__(self, layer: Layer, *, eps: float = 1e-12):
        if not isinstance(layer, Dense | Conv1d | Conv2d | ConvTranspose2d):
            raise ValueError(f"WeightNorm takes a Dense, Conv1d, Conv2d or ConvTranspose2d layer, got {layer!r}")
        self.layer, self.eps = copy.copy(layer), eps
        params = {name: np.array(layer.backend.to_numpy(value)) for name, value in layer.params.items()}
        v = params.pop("w")
        self.outputs = v.ndim - (2 if isinstance(layer, ConvTranspose2d) else 1)  # w is (..., c_out, c_in), or (..., O)
        super().__init__({"g": self.lengths(v).reshape(-1), "v": v, **params})
        self.layer.params = self.params  # the same dict: `forward` puts w in the place of g and v

    def lengths(self, v: Array) -> Array:
        """Return |v_o| of each output o, in the shape of v with size 1 for all other axes."""
        return (self._sum(v * v) + self.eps) ** 0.5

    def _sum(self, t: Array) -> Array:
        """Sum over all axes of a weight but that of the outputs, which keep their places with size 1."""
        return t.sum(axis=tuple(axis for axis in range(t.ndim) if axis != self.outputs), keepdims=True)

    @property
    def backend(self) -> Backend:
        """The backend of the inner layer."""
        return self.layer.backend

    @backend.setter
    def backend(self, backend: Backend) -> None:
        self.layer.backend = backend

    def forward(self, x: Array, train: bool = True, track: bool = True) -> Forward:
        """Return the inner layer's y with the weight g * v / |v|, and the cache (layer, its cache, vhat, g / |v|)."""
        g, v = self.params["g"], self.params["v"]
        length = self.lengths(v)  # (1, ..., O), or (1, 1, O, 1) for ConvTranspose2d
        vhat, scale = v / length, g.reshape(length.shape) / length
        layer = copy.copy(self.layer)  # the same layer with the weight g * vhat
        layer.params = {"w": scale * v} | {name: p for name, p in self.params.items() if name == "b"}
        y, cache = layer.forward(x, train, track)
        return y, (layer, cache, vhat, scale)

    def backward(self, dy: Array, cache: Cache, need_dx: bool = True, need_grads: bool = True) -> Backward:
        """Return dx and grads of the inner layer, with dg and dv in place of dw."""
        layer, cache, vhat, scale = cache
        dx, grads = layer.backward(dy, cache, need_dx, need_grads)
        return dx, self._through_length(grads, vhat, scale) if need_grads else None

    def _through_length(self, grads: Grads, vhat: Array, scale: Array) -> Grads:
        """Replace the gradient dw of w = g * vhat by dg = <dw, vhat> and dv = g / |v| * (dw - vhat * <dw, vhat>).

        The products <., .> are over the weights of each output. dv has no part along vhat,
        because d vhat = (dv - vhat * <vhat, dv>) / |v| for any change dv of v.
        """
        dw = grads.pop("w")
        dg = self._sum(dw * vhat)
        return {"g": dg.reshape(-1), "v": scale * (dw - vhat * dg), **grads}

    def inner(self) -> tuple[Layer, ...]:
        """Return the inner layer as a tuple."""
        return (self.layer,)

    # ---- second derivatives

    def tangent(self, tx: Array, cache: Cache) -> Forward:
        """Return ty of the inner layer with the weight g * vhat."""
        layer: Layer = cache[0]
        return layer.tangent(tx, cache[1])

    def tangent_backward(
        self, dy: Array | None, dty: Array, cache: Cache, tangent_cache: Cache, need_dx: bool = True
    ) -> TangentBackward:
        """Return (dx, dtx, grads) of the inner layer, with dg and dv in place of dw."""
        layer, cache, vhat, scale = cache
        dx, dtx, grads = layer.tangent_backward(dy, dty, cache, tangent_cache, need_dx)
        return dx, dtx, self._through_length(grads, vhat, scale)

    def __repr__(self) -> str:
        return f"WeightNorm({self.layer!r})"
