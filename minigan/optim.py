"""Gradient-based optimizers and a moving average of weights, each one pass over all weights of a network.

    optimizer = Adam(network, lr=2e-4, beta1=0.5)
    optimizer.step(grads)                  # grads as `network.backward` returns them

A step updates the parameters in place, so every reference to a parameter sees the new value. `state` maps names to the
arrays that a checkpoint must store. `lr` may be changed between steps. With a `clip_norm`, all gradients together are
scaled down to this norm if theirs is larger. OPTIMIZERS lists the optimizers by name.
"""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minigan.backends import AdamStep, Array
from minigan.layers.base import Grads, Layer
from minigan.layers.sequential import Sequential


class Optimizer:
    """Base class of optimizers: the network, the number of steps t, and arrays of state for each parameter.

    `clip_norm` limits the norm |dw| of all gradients together: dw is multiplied by min(1, clip_norm / |dw|) before the
    update (Pascanu et al. 2013, algorithm 1). It is None for no limit.
    """

    clip_norm: float | None = None

    def __init__(self, network: Layer, lr: float, *moments: str):
        if not 0 < lr < math.inf:
            raise ValueError(f"a learning rate is positive and finite, got {lr}")
        self.network, self.lr = network, lr
        self.moments = [network.backend.xp.zeros_like(network.pack()) for _ in moments]  # flat, like the weights
        self.state, offset = {}, 0
        for name, p in network.params.items():
            for moment, flat in zip(moments, self.moments, strict=True):
                self.state[f"{moment}.{name}"] = flat[offset : offset + p.size].reshape(p.shape)
            offset += p.size
        self.state["t"] = np.zeros((), np.int64)

    def step(self, grads: Grads) -> None:
        """Update every parameter once. Raises ValueError unless grads has the names and shapes of the parameters."""
        params = self.network.params
        if grads.keys() != params.keys():
            raise ValueError(f"gradients and parameters differ in {sorted(grads.keys() ^ params.keys())}")
        self.state["t"] += 1
        for name, w in params.items():
            if grads[name].shape != w.shape:
                raise ValueError(f"the gradient of {name} is {grads[name].shape}, the parameter {w.shape}")
        if not params:  # all is frozen
            return
        dw = self.network.backend.batch_sum(self.network.backend.concatenate([grads[name] for name in params]))
        if self.clip_norm is not None:
            dw *= self.clip_norm / self.network.backend.xp.maximum((dw @ dw) ** 0.5, self.clip_norm)
        self._update(self.network.pack(), dw, *self.moments)

    def _update(self, w: Array, dw: Array, *moments: Array) -> None:
        """Update all parameters w (n,) in place, given the gradients dw (n,)."""
        raise NotImplementedError


class SGD(Optimizer):
    """Stochastic gradient descent with momentum (Polyak 1964): w -= lr * v, v = momentum * v + dw.

    With momentum 0 it is plain gradient descent.
    """

    def __init__(self, network: Layer, *, lr: float, momentum: float = 0.0):
        super().__init__(network, lr, "v")
        self.momentum = momentum

    def _update(self, w: Array, dw: Array, *moments: Array) -> None:
        (v,) = moments
        v *= self.momentum
        v += dw
        w -= self.lr * v


class RMSProp(Optimizer):
    """RMSProp (Tieleman and Hinton 2012, lecture 6e).

    w -= lr * dw / (sqrt(v) + eps) with v = decay * v + (1 - decay) * dw^2.
    """

    def __init__(self, network: Layer, *, lr: float, decay: float = 0.9, eps: float = 1e-8):
        super().__init__(network, lr, "v")
        self.decay, self.eps = decay, eps

    def _update(self, w: Array, dw: Array, *moments: Array) -> None:
        (v,) = moments
        v *= self.decay
        v += (1 - self.decay) * dw * dw
        w -= self.lr * dw / (v**0.5 + self.eps)


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015, algorithm 1).

    w -= lr * mhat / (sqrt(vhat) + eps) with m = beta1 m + (1-beta1) dw and v = beta2 v + (1-beta2) dw^2.
    mhat = m / (1 - beta1^t) and vhat = v / (1 - beta2^t) correct the bias that comes from starting m and v at 0.
    """

    def __init__(self, network: Layer, *, lr: float, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8):
        super().__init__(network, lr, "m", "v")
        self.beta1, self.beta2, self.eps = beta1, beta2, eps

    def _update(self, w: Array, dw: Array, *moments: Array) -> None:
        m, v = moments
        t = int(self.state["t"])
        self.network.backend.adam(w, dw, m, v, AdamStep(self.lr, self.beta1, self.beta2, self.eps, t))


# Functions of (network, lr, settings) that make an optimizer. `settings` has momentum, beta1, beta2 and eps.
OPTIMIZERS: dict[str, Callable[[Layer, float, dict[str, Any]], Optimizer]] = {
    "sgd": lambda network, lr, settings: SGD(network, lr=lr),
    "momentum": lambda network, lr, settings: SGD(network, lr=lr, momentum=settings["momentum"]),
    "rmsprop": lambda network, lr, settings: RMSProp(network, lr=lr, decay=settings["beta2"], eps=settings["eps"]),
    "adam": lambda network, lr, settings: Adam(
        network, lr=lr, beta1=settings["beta1"], beta2=settings["beta2"], eps=settings["eps"]
    ),
}
# Settings that replace the defaults of a recipe if the optimizer is chosen. RMSProp does not correct the bias of its
# mean square, so that a decay near 1 makes the first steps too large.
SETTINGS: dict[str, dict[str, float]] = {"rmsprop": {"beta2": 0.9}}


class MovingAverage:
    """A copy of a network whose parameters and buffers are an exponential moving average of the original's.

    average = d * average + (1 - d) * current with d = min(decay, (1 + t) / (10 + t)). d is small in the first steps, so
    that the average follows the network closely at the start. Samples of an averaged generator vary less from step to
    step (Yazici et al. 2019).
    """

    def __init__(self, network: Sequential, decay: float):
        if not 0 <= decay < 1:
            raise ValueError(f"the decay of a moving average is at least 0 and below 1, got {decay}")
        network.pack()
        self.source, self.decay = network, decay
        self.network = copy.deepcopy(network)
        self.t = np.zeros((), np.int64)

    @property
    def state(self) -> dict[str, Array]:
        """The arrays that a checkpoint must store, by name."""
        return {"t": self.t, **self.network.params, **{f"buffer.{k}": v for k, v in self.network.buffers.items()}}

    def update(self) -> None:
        """Update the average with the current parameters and buffers of the network."""
        t = int(self.t)
        d = min(self.decay, (1 + t) / (10 + t))
        self.t += 1
        self._average(self.network.pack(), self.source.pack(), d)
        current = self.source.buffers
        for name, average in self.network.buffers.items():
            self._average(average, current[name], d)

    def _average(self, average: Array, current: Array, d: float) -> None:
        """Update one array of the average in place. Counters are copied."""
        if average.dtype.kind == "u":  # a counter
            average[...] = current
        else:
            self.network.backend.moving_average(average, current, 1 - d)
