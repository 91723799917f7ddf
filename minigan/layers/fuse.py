"""Merge neighbouring layers of a network, so that one operation does the work of two passes over memory.

    fast = fuse(network)         # computes the same function in fewer passes

An affine layer reads and writes every number to add its bias, and the LeakyReLU after it reads
and writes every number a second time. The same is true of batch norm followed by LeakyReLU. The
backends have operations that do both in one pass. A fused network shares parameters and buffers
with the original network, under the same names, because `Identity` takes the place of a merged
activation and keeps the positions of later layers. Training one network trains the other. Move
a network to its backend before fusing it.
"""

import copy
import itertools

from minigan.backends import Array, Backend, Normalisation
from minigan.layers.activations import LeakyReLU, Rectifier, ReLU
from minigan.layers.base import Backward, Cache, Forward, Layer, TangentBackward
from minigan.layers.conv import Conv2d, ConvTranspose2d
from minigan.layers.dense import Dense
from minigan.layers.norm import BatchNorm, SpectralNorm
from minigan.layers.sequential import Sequential
from minigan.layers.shape import Identity
from minigan.layers.weight_norm import WeightNorm


def fuse(network: Sequential) -> Sequential:
    """Return an equivalent network in which neighbouring layers are merged. It shares the parameters.

    Print the result to see which layers were merged.
    """
    fused: list[Layer] = [fuse(layer) if type(layer) is Sequential else layer for layer in network.layers]
    for i, (layer, activation) in enumerate(itertools.pairwise(network.layers)):
        merged = fused_pair(layer, activation)
        if merged is not None:
            fused[i], fused[i + 1] = merged, Identity().to(network.backend)
    result = copy.copy(network)
    result.layers = tuple(fused)
    return result


def fused_pair(layer: Layer, activation: Layer) -> Layer | None:
    """Return both layers as one layer, or None if they cannot be merged.

    The types must match exactly, because a subclass may compute something else.
    """
    if not (type(activation) is LeakyReLU or type(activation) is ReLU):
        return None
    if type(layer) is SpectralNorm or type(layer) is WeightNorm:
        inner = fused_pair(layer.layer, activation)
        if inner is None:
            return None
        merged = copy.copy(layer)
        merged.layer = inner
        return merged
    kind = FUSABLE.get(type(layer))
    if kind is FusedBias and "b" not in layer.params:
        return None  # a layer without bias has no pass that could be merged
    return None if kind is None else kind(layer, activation)


class Fused(Layer):
    """Base class of merged layers: a layer and the activation after it.

    Parameters, buffers and backend are those of the layer. The cache is (cache of the layer, y),
    where y is also the cache of the activation.
    """

    def __init__(self, layer: Layer, activation: Rectifier):
        self.layer, self.activation = layer, activation

    @property
    def params(self) -> dict[str, Array]:
        """The parameters of the layer."""
        return self.layer.params

    @params.setter
    def params(self, params: dict[str, Array]) -> None:
        """Set the parameters of this object only. `SpectralNorm` and `WeightNorm` set w on a copy of an inner layer."""
        self.layer = copy.copy(self.layer)
        self.layer.params = params

    @property
    def buffers(self) -> dict[str, Array]:  # type: ignore[override]  # the layer's own, so not to be set
        """The buffers of the layer."""
        return self.layer.buffers

    @property
    def backend(self) -> Backend:
        """The backend of the layer."""
        return self.layer.backend

    @backend.setter
    def backend(self, backend: Backend) -> None:
        self.layer.backend = self.activation.backend = backend

    def inner(self) -> tuple[Layer, ...]:
        """Return the layer and the activation."""
        return (self.layer, self.activation)

    def leaves(self) -> list[Layer]:
        """Return the layers that store the parameters of the merged layer."""
        return self.layer.leaves()

    # ---- second derivatives, computed without merging

    def tangent(self, tx: Array, cache: Cache) -> Forward:
        """Return ty, computed by the layer and then the activation."""
        layer_cache, y = cache
        tz, layer_tangent = self.layer.tangent(tx, layer_cache)
        ty, activation_tangent = self.activation.tangent(tz, y)
        return ty, (layer_tangent, activation_tangent)

    def tangent_backward(
        self, dy: Array | None, dty: Array, cache: Cache, tangent_cache: Cache, need_dx: bool = True
    ) -> TangentBackward:
        """Return (dx, dtx, grads), computed by the activation and then the layer."""
        (layer_cache, y), (layer_tangent, activation_tangent) = cache, tangent_cache
        dz, dtz, _ = self.activation.tangent_backward(dy, dty, y, activation_tangent)
        return self.layer.tangent_backward(dz, dtz, layer_cache, layer_tangent, need_dx)

    def __repr__(self) -> str:
        return f"{self.layer!r} + {self.activation!r}"


class FusedBias(Fused):
    """An affine layer and its activation, y = leaky_relu(A(w) x + b). The bias and the activation take one pass."""

    def _without_bias(self) -> Layer:
        """Return the layer without its bias, z = A(w) x."""
        layer = copy.copy(self.layer)
        layer.params = {name: value for name, value in self.layer.params.items() if name != "b"}
        return layer

    def forward(self, x: Array, train: bool = True, track: bool = True) -> Forward:
        """Return y = leaky_relu(A(w) x + b) and the cache (cache of the layer, y)."""
        z, cache = self._without_bias().forward(x, train, track)
        y = self.backend.add_bias(z, self.params["b"], self.activation.slope)
        return y, (cache, y)

    def backward(self, dy: Array, cache: Cache, need_dx: bool = True, need_grads: bool = True) -> Backward:
        """Return dx and the gradients of w and b."""
        cache, y = cache
        if need_grads:
            dz, db = self.backend.bias_grad(dy, y, self.activation.slope)
        else:
            dz = self.backend.leaky_relu_grad(dy, y, self.activation.slope)
        dx, grads = self._without_bias().backward(dz, cache, need_dx, need_grads)
        return dx, grads | {"b": db} if need_grads else None


class FusedBatchNorm(Fused):
    """Batch norm and its activation in one pass, y = leaky_relu(gamma * xhat + beta)."""

    layer: BatchNorm

    def forward(self, x: Array, train: bool = True, track: bool = True) -> Forward:
        """Return y = leaky_relu(gamma * xhat + beta) and the cache (cache of the layer, y)."""
        norm = self.layer
        if not train:
            z, cache = norm.forward(x, train, track)
            y = self.backend.leaky_relu(z, self.activation.slope)
            return y, (cache, y)
        norm.expect(x)
        y, mean, var = self.backend.batchnorm(
            x, self.params["gamma"], self.params["beta"], norm.eps, self.activation.slope
        )
        if track:
            self.backend.track(self.buffers["mean"], self.buffers["var"], mean, var, norm.momentum)
        return y, ((x, mean, var, train), y)

    def backward(self, dy: Array, cache: Cache, need_dx: bool = True, need_grads: bool = True) -> Backward:
        """Return dx and the gradients of gamma and beta."""
        (x, mean, var, train), y = cache
        if not train:
            dz = self.backend.leaky_relu_grad(dy, y, self.activation.slope)
            return self.layer.backward(dz, cache[0], need_dx, need_grads)
        norm = Normalisation(self.params["gamma"], self.params["beta"], mean, var, self.layer.eps)
        dx, dgamma, dbeta = self.backend.batchnorm_grad(dy, x, norm, self.activation.slope)
        return dx if need_dx else None, {"gamma": dgamma, "beta": dbeta} if need_grads else None


FUSABLE: dict[type[Layer], type[Fused]] = {
    Dense: FusedBias,
    Conv2d: FusedBias,
    ConvTranspose2d: FusedBias,
    BatchNorm: FusedBatchNorm,
}
