"""Merge neighbouring layers of a network whose passes over memory one operation can do.

    fast = fuse(network)         # computes what `network` does, in fewer passes

An affine layer adds its bias to every number, and the LeakyReLU behind it then reads and
writes every number once more; batch norm with its LeakyReLU likewise. The backends have
operations that do both in one pass. A fused network shares parameters and buffers with the
plain one, under the same names: an emptied position holds `Identity`, so the positions
behind it stay. Training one trains the other. Move a network to its backend before fusing.
"""

import copy
import itertools

from minigan.backends import Normalisation
from minigan.layers.activations import LeakyReLU, ReLU
from minigan.layers.base import Layer
from minigan.layers.conv import Conv2d, ConvTranspose2d
from minigan.layers.dense import Dense
from minigan.layers.norm import BatchNorm, SpectralNorm
from minigan.layers.sequential import Sequential
from minigan.layers.shape import Identity


def fuse(network: Sequential) -> Sequential:
    """An equal network in which neighbouring passes are merged; it shares the parameters.

    `print` of the result shows what was merged.
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
    """The two as one layer, or None. Exact types only, because a subclass may compute something else."""
    if type(activation) not in (LeakyReLU, ReLU):
        return None
    if type(layer) is SpectralNorm:
        inner = fused_pair(layer.layer, activation)
        if inner is None:
            return None
        merged = copy.copy(layer)
        merged.layer = inner
        return merged
    kind = FUSABLE.get(type(layer))
    if kind is FusedBias and "b" not in layer.params:
        return None  # without a bias there is no pass to share
    return None if kind is None else kind(layer, activation)


class Fused(Layer):
    """A layer and the activation behind it. Parameters, buffers and backend are the layer's own.

    The cache is (cache of the layer, y): what the two have by themselves.
    """

    def __init__(self, layer: Layer, activation: Layer):
        self.layer, self.activation = layer, activation

    @property
    def params(self) -> dict:
        return self.layer.params

    @params.setter
    def params(self, params: dict) -> None:
        """On this object only: `SpectralNorm` sets the divided weight on a copy of its inner layer."""
        self.layer = copy.copy(self.layer)
        self.layer.params = params

    @property
    def buffers(self) -> dict:
        return self.layer.buffers

    @property
    def backend(self):
        return self.layer.backend

    @backend.setter
    def backend(self, backend) -> None:
        self.layer.backend = self.activation.backend = backend

    def inner(self) -> tuple[Layer, ...]:
        return (self.layer, self.activation)

    def leaves(self) -> list[Layer]:
        return self.layer.leaves()

    # ---- second derivatives, one layer after the other

    def tangent(self, tx, cache):
        layer_cache, y = cache
        tz, first = self.layer.tangent(tx, layer_cache)
        ty, second = self.activation.tangent(tz, y)
        return ty, (first, second)

    def tangent_backward(self, dy, dty, cache, tangent_cache, need_dx=True):
        (layer_cache, y), (first, second) = cache, tangent_cache
        dz, dtz, _ = self.activation.tangent_backward(dy, dty, y, second)
        return self.layer.tangent_backward(dz, dtz, layer_cache, first, need_dx)

    def __repr__(self) -> str:
        return f"{self.layer!r} + {self.activation!r}"


class FusedBias(Fused):
    """y = leaky_relu(A(w) x + b): the bias and the activation in one pass."""

    def _without_bias(self) -> Layer:
        """The same layer, z = A(w) x."""
        layer = copy.copy(self.layer)
        layer.params = {name: value for name, value in self.layer.params.items() if name != "b"}
        return layer

    def forward(self, x, train=True, track=True):
        z, cache = self._without_bias().forward(x, train, track)
        y = self.backend.add_bias(z, self.params["b"], self.activation.slope)
        return y, (cache, y)

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        cache, y = cache
        if need_grads:
            dz, db = self.backend.bias_grad(dy, y, self.activation.slope)
        else:
            dz = self.backend.leaky_relu_grad(dy, y, self.activation.slope)
        dx, grads = self._without_bias().backward(dz, cache, need_dx, need_grads)
        return dx, grads | {"b": db} if need_grads else None


class FusedBatchNorm(Fused):
    """y = leaky_relu(gamma * xhat + beta): batch norm writes y, and reads dy, with the activation."""

    def forward(self, x, train=True, track=True):
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

    def backward(self, dy, cache, need_dx=True, need_grads=True):
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
