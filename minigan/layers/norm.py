"""Batch normalisation and spectral normalisation."""

import copy

import numpy as np

from minigan.backends import Normalisation
from minigan.layers.base import Layer, add, expect_input


class BatchNorm(Layer):
    """y = gamma * xhat + beta, xhat = (x - mean) / sqrt(var + eps), for each channel (the last axis) by itself.

    x and y (N, ..., channels), all others (channels,). In training, mean and var (the biased
    one) are the batch's, over all axes but the last, and the running ones follow:
    running = momentum * running + (1 - momentum) * batch. Otherwise the running ones are
    used. (Ioffe and Szegedy 2015, algorithm 1; TensorFlow's momentum, which is one minus
    PyTorch's.)
    """

    def __init__(self, channels: int, *, momentum: float = 0.9, eps: float = 1e-5):
        super().__init__(
            {"gamma": np.ones(channels, np.float32), "beta": np.zeros(channels, np.float32)},
            {"mean": np.zeros(channels, np.float32), "var": np.ones(channels, np.float32)},
        )
        self.channels, self.momentum, self.eps = channels, momentum, eps

    def expect(self, x) -> None:
        channels = self.channels
        expect_input(self, x, (*"NHW"[: len(x.shape) - 1], channels), f"its last axis holds {channels} channels")

    def forward(self, x, train=True, track=True):
        self.expect(x)
        gamma, beta = self.params["gamma"], self.params["beta"]
        if train:
            y, mean, var = self.backend.batchnorm(x, gamma, beta, self.eps)
            if track:
                self.backend.track(self.buffers["mean"], self.buffers["var"], mean, var, self.momentum)
        else:
            mean, var = self.buffers["mean"].copy(), self.buffers["var"].copy()  # as they are in this pass
            y = gamma / (var + self.eps) ** 0.5 * (x - mean) + beta
        return y, (x, mean, var, train)

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        """In training, x moves y in three ways, whose sum is dx (M rows, std = sqrt(var + eps)):

            through x itself                  gamma / std * dy
            through mean = mean of x          gamma / std * (- mean of dy)
            through var, and so through std   gamma / std * (- xhat * mean of dy * xhat)

        because d mean / dx = 1/M, d std / dx = xhat / M, and both act on every row.
        """
        x, mean, var, train = cache
        gamma, beta = self.params["gamma"], self.params["beta"]
        if train:
            norm = Normalisation(gamma, beta, mean, var, self.eps)
            dx, dgamma, dbeta = self.backend.batchnorm_grad(dy, x, norm)
        else:  # y = gamma * xhat + beta with a fixed mean and var
            inv_std = 1 / (var + self.eps) ** 0.5  # (channels,)
            dx = gamma * inv_std * dy
            dgamma = self.backend.sum_rows(dy * (inv_std * (x - mean)))
            dbeta = self.backend.sum_rows(dy)
        return dx if need_dx else None, {"gamma": dgamma, "beta": dbeta} if need_grads else None

    # ---- second derivatives

    def tangent(self, tx, cache):
        """ty = gamma * txhat, txhat = inv_std * P tx, where P removes what the batch's statistics absorb."""
        x, mean, var, train = cache
        inv_std = 1 / (var + self.eps) ** 0.5  # (channels,)
        xhat = inv_std * (x - mean)
        txhat = inv_std * (self._off_statistics(tx, xhat) if train else tx)
        return self.params["gamma"] * txhat, (tx, txhat, xhat, inv_std)

    def tangent_backward(self, dy, dty, cache, tangent_cache, need_dx=True):
        """With s = inv_std, P = off_statistics (its own transpose), u = gamma * dty, mean over all axes but the last:

        <u, txhat> = s <u, P tx> depends on x through s and through the xhat in P, hence the
        curvature term dx = - s^2 (xhat mean(u * P tx) + P(u mean(xhat * tx) + tx mean(xhat * u))).
        """
        (*_, train), (tx, txhat, xhat, inv_std) = cache, tangent_cache
        dgamma = self.backend.sum_rows(dty * txhat)  # ty = gamma * txhat
        grads = {"gamma": dgamma, "beta": self.backend.xp.zeros_like(dgamma)}
        dx = dtx = None
        if need_dx:
            u = self.params["gamma"] * dty
            dtx = inv_std * (self._off_statistics(u, xhat) if train else u)  # txhat = s P tx
            if train:
                Ptx = self._off_statistics(tx, xhat)
                inner = u * self._mean(xhat * tx) + tx * self._mean(xhat * u)
                dx = -(inv_std**2) * (xhat * self._mean(u * Ptx) + self._off_statistics(inner, xhat))
        if dy is not None:  # y = gamma * xhat + beta
            linear_term, more = self.backward(dy, cache, need_dx)
            dx = linear_term if dx is None else dx + linear_term
            grads = add(grads, more)
        return dx, dtx, grads

    def _off_statistics(self, t, xhat):
        """P t = t - mean(t) - xhat mean(xhat * t): t without what the batch's mean and variance absorb."""
        return t - self._mean(t) - xhat * self._mean(xhat * t)

    def _mean(self, t):
        """(..., channels) -> (channels,)"""
        return self.backend.batch_mean(t, tuple(range(t.ndim - 1)))

    def __repr__(self) -> str:
        return f"BatchNorm({self.channels})"


class SpectralNorm(Layer):
    """A layer whose weight is divided by its largest singular value sigma (Miyato et al. 2018).

    With w / sigma a Dense layer changes no distance by more than a factor of 1. With w as a
    matrix (..., O), sigma = u' w v where u and v are the singular vectors. They are buffers,
    and each tracked training pass brings them closer by one power iteration:
    u = w v / |w v|, v = w' u / |w' u|. The gradient takes them as fixed: d sigma / dw = u v',
    hence dw = (dW - <dW, W> u v') / sigma for W = w / sigma.
    """

    def __init__(self, layer: Layer, *, rng):
        self.layer, self.takes_labels = layer, layer.takes_labels
        v = rng.standard_normal(layer.params["w"].shape[-1], dtype=np.float32)
        super().__init__(layer.params, {"u": np.zeros(layer.params["w"][..., 0].size, np.float32), "v": v})
        for _ in range(10):
            self._power_iteration()

    @property
    def backend(self):
        """The inner layer's."""
        return self.layer.backend

    @backend.setter
    def backend(self, backend) -> None:
        self.layer.backend = backend

    def forward(self, x, train=True, track=True, **labels):
        if train and track:
            self._power_iteration()
        u, v = self.buffers["u"].copy(), self.buffers["v"].copy()  # as they are in this pass
        w = self.params["w"]
        sigma = u @ (w.reshape(-1, w.shape[-1]) @ v)
        layer = copy.copy(self.layer)  # the same layer with the other weight
        layer.params = self.params | {"w": w / sigma}
        y, cache = layer.forward(x, train, track, **labels)
        return y, (layer, cache, u, v, sigma)

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        layer, cache, u, v, sigma = cache
        dx, grads = layer.backward(dy, cache, need_dx, need_grads)
        return dx, self._through_sigma(grads, layer, u, v, sigma) if need_grads else None

    def _through_sigma(self, grads, layer, u, v, sigma):
        """The gradient of w from that of W = w / sigma."""
        dW, W = grads["w"], layer.params["w"]
        shrinks = (dW * W).sum() * (u[:, None] * v).reshape(W.shape)
        return grads | {"w": (dW - shrinks) / sigma}

    def _power_iteration(self) -> None:
        w, u, v = self.params["w"], self.buffers["u"], self.buffers["v"]
        matrix = w.reshape(-1, w.shape[-1])  # (..., O)
        for vector, image in ((u, lambda: matrix @ v), (v, lambda: matrix.T @ u)):
            longer = image()
            vector[...] = longer / ((longer @ longer) ** 0.5 + 1e-30)

    def inner(self) -> tuple[Layer, ...]:
        return (self.layer,)

    def refresh_buffers(self) -> None:
        """Sets u and v to the singular vectors of w, for which the gradient holds."""
        w = self.backend.to_numpy(self.params["w"])
        left, _, right = np.linalg.svd(w.reshape(-1, w.shape[-1]), full_matrices=False)
        for name, vector in (("u", left[:, 0]), ("v", right[0])):
            self.buffers[name][...] = self.backend.asarray(vector, dtype=w.dtype)

    # ---- second derivatives

    def tangent(self, tx, cache):
        layer, layer_cache, *_ = cache
        return layer.tangent(tx, layer_cache)

    def tangent_backward(self, dy, dty, cache, tangent_cache, need_dx=True):
        layer, cache, u, v, sigma = cache
        dx, dtx, grads = layer.tangent_backward(dy, dty, cache, tangent_cache, need_dx)
        return dx, dtx, self._through_sigma(grads, layer, u, v, sigma)

    def __repr__(self) -> str:
        return f"SpectralNorm({self.layer!r})"
