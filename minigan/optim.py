"""Gradient descent and its descendants, and a moving average of weights: each one pass over all weights at once.

    optimizer = Adam(network, lr=2e-4, beta1=0.5)
    optimizer.step(grads)                  # grads as `network.backward` returns them

A step writes the parameters in place, so whoever holds a parameter sees the new value. `state` holds, by name, every
array that a checkpoint must keep. `lr` may be changed between steps.
"""

import copy
import math

import numpy as np

from minigan.backends import AdamStep


class Optimizer:
    """What the optimizers share: the network, the count of steps t, and per-parameter arrays of state."""

    def __init__(self, network, lr: float, *moments: str):
        if not 0 < lr < math.inf:
            raise ValueError(f"a learning rate is positive and finite, got {lr}")
        self.network, self.lr = network, lr
        self.moments = [network.backend.xp.zeros_like(network.pack()) for _ in moments]  # flat, as the weights are
        self.state, at = {}, 0
        for name, p in network.params.items():
            for moment, flat in zip(moments, self.moments, strict=True):
                self.state[f"{moment}.{name}"] = flat[at : at + p.size].reshape(p.shape)
            at += p.size
        self.state["t"] = np.zeros((), np.int64)

    def step(self, grads: dict) -> None:
        """One update of every parameter. Raises ValueError unless grads has exactly the network's parameters."""
        params = self.network.params
        if grads.keys() != params.keys():
            raise ValueError(f"gradients and parameters differ in {sorted(grads.keys() ^ params.keys())}")
        self.state["t"] += 1
        for name, w in params.items():
            if grads[name].shape != w.shape:
                raise ValueError(f"the gradient of {name} is {grads[name].shape}, the parameter {w.shape}")
        dw = self.network.backend.concatenate([grads[name] for name in params])
        self._update(self.network.pack(), dw, *self.moments)

    def _update(self, w, dw, *moments) -> None:
        """One update of all parameters w (n,) by the gradients dw (n,), in place."""
        raise NotImplementedError


class SGD(Optimizer):
    """w -= lr * v, v = momentum * v + dw (Polyak 1964); with momentum 0, plain gradient descent."""

    def __init__(self, network, *, lr: float, momentum: float = 0.0):
        super().__init__(network, lr, "v")
        self.momentum = momentum

    def _update(self, w, dw, v):
        v *= self.momentum
        v += dw
        w -= self.lr * v


class RMSProp(Optimizer):
    """w -= lr * dw / (sqrt(v) + eps), v = decay * v + (1 - decay) * dw^2 (Tieleman and Hinton 2012, lecture 6e)."""

    def __init__(self, network, *, lr: float, decay: float = 0.9, eps: float = 1e-8):
        super().__init__(network, lr, "v")
        self.decay, self.eps = decay, eps

    def _update(self, w, dw, v):
        v *= self.decay
        v += (1 - self.decay) * dw * dw
        w -= self.lr * dw / (v**0.5 + self.eps)


class Adam(Optimizer):
    """w -= lr * mhat / (sqrt(vhat) + eps) with m = beta1 m + (1-beta1) dw, v = beta2 v + (1-beta2) dw^2.

    mhat = m / (1 - beta1^t) and vhat = v / (1 - beta2^t) undo the start from zero (Kingma and Ba 2015, algorithm 1).
    """

    def __init__(self, network, *, lr: float, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8):
        super().__init__(network, lr, "m", "v")
        self.beta1, self.beta2, self.eps = beta1, beta2, eps

    def _update(self, w, dw, m, v):
        t = int(self.state["t"])
        self.network.backend.adam(w, dw, m, v, AdamStep(self.lr, self.beta1, self.beta2, self.eps, t))


class MovingAverage:
    """A copy of a network whose parameters and statistics are the exponential average of the original's.

    average = d * average + (1 - d) * current, with d = min(decay, (1 + t) / (10 + t)), so that the average is worth
    looking at from the first steps. Averaged generators draw steadier pictures (Yazici et al. 2019).
    """

    def __init__(self, network, decay: float):
        if not 0 <= decay < 1:
            raise ValueError(f"the decay of a moving average is at least 0 and below 1, got {decay}")
        network.pack()
        self.source, self.decay = network, decay
        self.network = copy.deepcopy(network)
        self.t = np.zeros((), np.int64)

    @property
    def state(self) -> dict:
        return {"t": self.t, **self.network.params, **{f"buffer.{k}": v for k, v in self.network.buffers.items()}}

    def update(self) -> None:
        """Takes in the network as it is now."""
        t = int(self.t)
        d = min(self.decay, (1 + t) / (10 + t))
        self.t += 1
        self._follow(self.network.pack(), self.source.pack(), d)
        now = self.source.buffers
        for name, a in self.network.buffers.items():
            self._follow(a, now[name], d)

    def _follow(self, a, now, d: float) -> None:
        if a.dtype.kind == "u":  # a counter
            a[...] = now
        else:
            self.network.backend.moving_average(a, now, 1 - d)
