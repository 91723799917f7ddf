"""Merge neighbouring layers of a network, so that one operation does the work of two passes over memory.

    fast = fuse(network)         # computes the same function in fewer passes

An affine layer reads and writes every number to add its bias, and the LeakyReLU after it reads
and writes every number a second time. The same is true of batch norm followed by LeakyReLU. The
backends have operations that do both in one pass. A fused network shares parameters and buffers
with the original network, under the same names, because `Identity` takes the place of a merged
activation and keeps the positions of later layers. Training one network trains the other. Move
a network to its backend before fusing it.

A frozen batch norm multiplies and shifts each channel by fixed numbers. These become part of the
weights of the frozen layer before it, so that the batch norm takes no pass at all.
"""

import copy
import itertools

from minigan.backends import Array, Backend, Normalisation
from minigan.layers.activations import LeakyReLU, Rectifier, ReLU
from minigan.layers.base import Backward, Cache, Forward, Layer, TangentBackward
from minigan.layers.conv import Conv2d, ConvTranspose2d
from minigan.layers.dense import Dense
from minigan.layers.depths import MultiDepth
from minigan.layers.frozen import Frozen
from minigan.layers.norm import BatchNorm, SpectralNorm
from minigan.layers.residual import Concatenate
from minigan.layers.sequential import Sequential
from minigan.layers.shape import Identity
from minigan.layers.temporal import Conv1d
from minigan.layers.weight_norm import WeightNorm


def fuse(network: Sequential) -> Sequential:
    """Return an equivalent network in which neighbouring layers are merged. It shares the parameters.

    Print the result to see which layers were merged.
    """
    fused = [fused_inside(layer) for layer in network.layers]
    for i, (layer, norm) in enumerate(itertools.pairwise(fused)):
        folded = folded_pair(layer, norm)
        if folded is not None:
            fused[i : i + 2] = folded
    for i, (layer, activation) in enumerate(itertools.pairwise(fused)):
        merged = fused_pair(layer, activation)
        if merged is not None:
            fused[i], fused[i + 1] = merged, Identity().to(network.backend)
    result = copy.copy(network)
    result.layers = tuple(fused)
    return result


def fused_inside(layer: Layer) -> Layer:
    """Return an equivalent layer in which the networks inside are fused.

    A frozen network becomes a network of frozen layers, whose names are the same.
    """
    if type(layer) is Sequential:
        return fuse(layer)
    if type(layer) is Concatenate:
        return Concatenate(*fuse(layer.network).layers)
    if type(layer) is MultiDepth:
        return MultiDepth([fuse(stage) for stage in layer.stages], [fuse(head) for head in layer.heads])
    if type(layer) is Frozen:
        inner = layer.layer
        if type(inner) is Frozen:
            return fused_inside(inner)
        if type(inner) is Sequential:
            return fuse(frozen_layers(inner))
        if type(inner) is MultiDepth:
            return fused_inside(MultiDepth(*([frozen_layers(n) for n in part] for part in (inner.stages, inner.heads))))
    return layer


def frozen_layers(network: Sequential) -> Sequential:
    """Return the network with each of its layers frozen."""
    return Sequential(*map(Frozen, network.layers))


def folded_pair(layer: Layer, norm: Layer) -> list[Layer] | None:
    """Return a frozen layer and the frozen batch norm after it as two other layers, or None if they cannot be merged.

    The first one does nothing and keeps the arrays of the layer. The second one does the work of both.
    """
    if not (type(layer) is Frozen and type(norm) is Frozen and type(norm.layer) is BatchNorm):
        return None
    affine = layer.layer
    if not (type(affine) is Conv2d or type(affine) is Dense):
        return None
    emptied = Identity().to(affine.backend)
    emptied.params = affine.params
    return [Frozen(emptied), Frozen(FoldedBatchNorm(affine, norm.layer))]


def fused_pair(layer: Layer, activation: Layer) -> Layer | None:
    """Return both layers as one layer, or None if they cannot be merged.

    The types must match exactly, because a subclass may compute something else.
    """
    if type(layer) is Frozen and type(activation) is Frozen:
        inner = fused_pair(layer.layer, activation.layer)
        return None if inner is None else Frozen(inner)
    if not (type(activation) is LeakyReLU or type(activation) is ReLU):
        return None
    if type(layer) is FoldedBatchNorm:
        return FoldedBatchNorm(layer.layer, layer.norm, activation)
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


class FoldedBatchNorm(Layer):
    """An affine layer, the batch norm after it and perhaps an activation, all frozen: y = activation(A(v) x + c).

    With s = gamma / sqrt(var + eps) of the running statistics, s * (A(w) x + b - mean) + beta is the
    affine function with the weight v = s * w (s multiplies the last axis, the channels of the output)
    and the bias c = s * (b - mean) + beta. The parameters and buffers are those of the batch norm.
    Only `Frozen` contains this layer, so there are no gradients of parameters.
    """

    def __init__(self, layer: Conv2d | Dense, norm: BatchNorm, activation: Rectifier | None = None):
        self.layer, self.norm, self.activation = layer, norm, activation
        self.params, self.buffers, self.backend = norm.params, norm.buffers, norm.backend

    def _folded(self) -> Layer:
        """Return the affine layer with v and c, and the activation. Its weights are few, so this takes little time."""
        params, norm = self.layer.params, self.norm
        s = norm.params["gamma"] / (norm.buffers["var"] + norm.eps) ** 0.5  # (channels,)
        b = params["b"] if "b" in params else 0
        layer = copy.copy(self.layer)
        layer.params = {"w": params["w"] * s, "b": s * (b - norm.buffers["mean"]) + norm.params["beta"]}
        return layer if self.activation is None else FusedBias(layer, self.activation)

    def forward(self, x: Array, train: bool = True, track: bool = True) -> Forward:
        """Return y and the cache (affine layer, its cache)."""
        layer = self._folded()
        y, cache = layer.forward(x, train, track)
        return y, (layer, cache)

    def backward(self, dy: Array, cache: Cache, need_dx: bool = True, need_grads: bool = True) -> Backward:
        """Return dx of the affine layer, and no gradients."""
        layer: Layer = cache[0]
        return layer.backward(dy, cache[1], need_dx, need_grads=False)

    def inner(self) -> tuple[Layer, ...]:
        """Return the merged layers."""
        return (self.layer, self.norm) if self.activation is None else (self.layer, self.norm, self.activation)

    # ---- second derivatives

    def tangent(self, tx: Array, cache: Cache) -> Forward:
        """Return ty of the affine layer."""
        layer: Layer = cache[0]
        return layer.tangent(tx, cache[1])

    def tangent_backward(
        self, dy: Array | None, dty: Array, cache: Cache, tangent_cache: Cache, need_dx: bool = True
    ) -> TangentBackward:
        """Return (dx, dtx, {}): dx and dtx of the affine layer, and no gradients."""
        layer, layer_cache = cache
        dx, dtx, _ = layer.tangent_backward(dy, dty, layer_cache, tangent_cache, need_dx)
        return dx, dtx, {}

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.inner()))


FUSABLE: dict[type[Layer], type[Fused]] = {
    Dense: FusedBias,
    Conv1d: FusedBias,
    Conv2d: FusedBias,
    ConvTranspose2d: FusedBias,
    BatchNorm: FusedBatchNorm,
}
