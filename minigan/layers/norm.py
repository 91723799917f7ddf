"""Batch normalisation and spectral normalisation."""

import copy

import numpy as np

from minigan.backends import Array, Backend, Normalisation
from minigan.layers.base import Backward, Cache, Forward, Grads, Layer, TangentBackward, add, expect_input


class BatchNorm(Layer):
    """Batch normalisation of each channel (the last axis), y = gamma * xhat + beta.

    xhat = (x - mean) / sqrt(var + eps), x and y (N, ..., channels), all others (channels,). In
    training, mean and var (biased) are computed from the batch over all axes but the last, and
    the running statistics are updated: running = momentum * running + (1 - momentum) * batch.
    Otherwise the running statistics are used. (Ioffe and Szegedy 2015, algorithm 1. `momentum` is
    defined as in TensorFlow: one minus PyTorch's momentum.)
    """

    def __init__(self, channels: int, *, momentum: float = 0.9, eps: float = 1e-5):
        super().__init__(
            {"gamma": np.ones(channels, np.float32), "beta": np.zeros(channels, np.float32)},
            {"mean": np.zeros(channels, np.float32), "var": np.ones(channels, np.float32)},
        )
        self.channels, self.momentum, self.eps = channels, momentum, eps

    def expect(self, x: Array) -> None:
        """Raise ValueError unless x is (N, ..., channels) with the dtype of the weights."""
        channels = self.channels
        expect_input(self, x, (*"NHW"[: len(x.shape) - 1], channels), f"its last axis has {channels} channels")

    def forward(self, x: Array, train: bool = True, track: bool = True) -> Forward:
        """Return y and the cache (x, mean, var, train)."""
        self.expect(x)
        gamma, beta = self.params["gamma"], self.params["beta"]
        if train:
            y, mean, var = self.backend.batchnorm(x, gamma, beta, self.eps)
            if track:
                self.backend.track(self.buffers["mean"], self.buffers["var"], mean, var, self.momentum)
        else:
            mean, var = self.buffers["mean"].copy(), self.buffers["var"].copy()  # later passes may update them
            y = gamma / (var + self.eps) ** 0.5 * (x - mean) + beta
        return y, (x, mean, var, train)

    def backward(self, dy: Array, cache: Cache, need_dx: bool = True, need_grads: bool = True) -> Backward:
        """Return dx and the gradients of gamma and beta.

        In training, y depends on x in three ways, and dx is the sum of three terms (M rows,
        std = sqrt(var + eps)):

            directly                          gamma / std * dy
            through mean                      gamma / std * (- mean of dy)
            through var and std               gamma / std * (- xhat * mean of dy * xhat)

        The means appear because d mean / dx = 1/M and d std / dx = xhat / M, and because mean and
        std enter every row of y.
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

    def tangent(self, tx: Array, cache: Cache) -> Forward:
        """Return ty = gamma * txhat with txhat = inv_std * P tx, where P is `_remove_statistics`."""
        x, mean, var, train = cache
        inv_std = 1 / (var + self.eps) ** 0.5  # (channels,)
        xhat = inv_std * (x - mean)
        txhat = inv_std * (self._remove_statistics(tx, xhat) if train else tx)
        return self.params["gamma"] * txhat, (tx, txhat, xhat, inv_std)

    def tangent_backward(
        self, dy: Array | None, dty: Array, cache: Cache, tangent_cache: Cache, need_dx: bool = True
    ) -> TangentBackward:
        """Return (dx, dtx, grads) of the pair (y, ty).

        Let s = inv_std, P = `_remove_statistics` (its own transpose), u = gamma * dty, and let
        mean be over all axes but the last. <u, txhat> = s <u, P tx> depends on x through s and
        through the xhat in P. This gives the curvature term
        dx = - s^2 (xhat mean(u * P tx) + P(u mean(xhat * tx) + tx mean(xhat * u))).
        """
        (*_, train), (tx, txhat, xhat, inv_std) = cache, tangent_cache
        dgamma = self.backend.sum_rows(dty * txhat)  # ty = gamma * txhat
        grads = {"gamma": dgamma, "beta": self.backend.xp.zeros_like(dgamma)}
        dx = dtx = None
        if need_dx:
            u = self.params["gamma"] * dty
            dtx = inv_std * (self._remove_statistics(u, xhat) if train else u)  # txhat = s P tx
            if train:
                Ptx = self._remove_statistics(tx, xhat)
                inner = u * self._mean(xhat * tx) + tx * self._mean(xhat * u)
                dx = -(inv_std**2) * (xhat * self._mean(u * Ptx) + self._remove_statistics(inner, xhat))
        if dy is not None:  # y = gamma * xhat + beta
            linear_term, grads_y = self.backward(dy, cache, need_dx)
            dx = linear_term if dx is None else dx + linear_term
            grads = add(grads, grads_y)
        return dx, dtx, grads

    def _remove_statistics(self, t: Array, xhat: Array) -> Array:
        """Return P t = t - mean(t) - xhat mean(xhat * t).

        P removes the part of a change t of x that changes only the mean and variance of the
        batch, because normalisation cancels this part.
        """
        return t - self._mean(t) - xhat * self._mean(xhat * t)

    def _mean(self, t: Array) -> Array:
        """Return the mean over all axes but the last, (..., channels) -> (channels,)."""
        return self.backend.batch_mean(t, tuple(range(t.ndim - 1)))

    def __repr__(self) -> str:
        return f"BatchNorm({self.channels})"


class SpectralNorm(Layer):
    """Spectral normalisation: divide the weight of a layer by its largest singular value sigma (Miyato et al. 2018).

    A Dense layer with the weight w / sigma does not increase any distance. With w reshaped to a
    matrix (..., O), sigma = u' w v, where u and v are the first left and right singular vectors.
    They are buffers that approximate the singular vectors. Each forward pass with train and track
    updates them by one power iteration: u = w v / |w v|, v = w' u / |w' u|. The backward pass
    treats u and v as constants: d sigma / dw = u v', so dw = (dW - <dW, W> u v') / sigma for
    W = w / sigma.
    """

    def __init__(self, layer: Layer, *, rng: np.random.Generator):
        self.layer, self.takes_labels = layer, layer.takes_labels
        v = rng.standard_normal(layer.params["w"].shape[-1], dtype=np.float32)
        super().__init__(layer.params, {"u": np.zeros(layer.params["w"][..., 0].size, np.float32), "v": v})
        for _ in range(10):
            self._power_iteration()

    @property
    def backend(self) -> Backend:
        """The backend of the inner layer."""
        return self.layer.backend

    @backend.setter
    def backend(self, backend: Backend) -> None:
        self.layer.backend = backend

    def forward(self, x: Array, train: bool = True, track: bool = True, **labels: Array) -> Forward:
        """Return the inner layer's y with the weight w / sigma, and the cache (layer, its cache, u, v, sigma)."""
        if train and track:
            self._power_iteration()
        u, v = self.buffers["u"].copy(), self.buffers["v"].copy()  # later passes may update them
        w = self.params["w"]
        sigma = u @ (w.reshape(-1, w.shape[-1]) @ v)
        layer = copy.copy(self.layer)  # the same layer with the weight w / sigma
        layer.params = self.params | {"w": w / sigma}
        y, cache = layer.forward(x, train, track, **labels)
        return y, (layer, cache, u, v, sigma)

    def backward(self, dy: Array, cache: Cache, need_dx: bool = True, need_grads: bool = True) -> Backward:
        """Return dx and grads of the inner layer, with dw in place of dW."""
        layer, cache, u, v, sigma = cache
        dx, grads = layer.backward(dy, cache, need_dx, need_grads)
        return dx, self._through_sigma(grads, layer, u, v, sigma) if need_grads else None

    def _through_sigma(self, grads: Grads, layer: Layer, u: Array, v: Array, sigma: Array) -> Grads:
        """Replace the gradient dW of W = w / sigma by the gradient dw of w."""
        dW, W = grads["w"], layer.params["w"]
        sigma_term = (dW * W).sum() * (u[:, None] * v).reshape(W.shape)
        return grads | {"w": (dW - sigma_term) / sigma}

    def _power_iteration(self) -> None:
        """Update u and v in place by one power iteration."""
        w, u, v = self.params["w"], self.buffers["u"], self.buffers["v"]
        matrix = w.reshape(-1, w.shape[-1])  # (..., O)
        u[...] = _unit(matrix @ v)
        v[...] = _unit(matrix.T @ u)

    def inner(self) -> tuple[Layer, ...]:
        """Return the inner layer as a tuple."""
        return (self.layer,)

    def refresh_buffers(self) -> None:
        """Set u and v to the first singular vectors of w, where the formula of the gradient is exact."""
        w = self.backend.to_numpy(self.params["w"])
        left, _, right = np.linalg.svd(w.reshape(-1, w.shape[-1]), full_matrices=False)
        for name, vector in (("u", left[:, 0]), ("v", right[0])):
            self.buffers[name][...] = self.backend.asarray(vector, dtype=w.dtype)

    # ---- second derivatives

    def tangent(self, tx: Array, cache: Cache) -> Forward:
        """Return ty of the inner layer with the weight w / sigma."""
        layer: Layer = cache[0]
        return layer.tangent(tx, cache[1])

    def tangent_backward(
        self, dy: Array | None, dty: Array, cache: Cache, tangent_cache: Cache, need_dx: bool = True
    ) -> TangentBackward:
        """Return (dx, dtx, grads) of the inner layer, with dw in place of dW."""
        layer, cache, u, v, sigma = cache
        dx, dtx, grads = layer.tangent_backward(dy, dty, cache, tangent_cache, need_dx)
        return dx, dtx, self._through_sigma(grads, layer, u, v, sigma)

    def __repr__(self) -> str:
        return f"SpectralNorm({self.layer!r})"


def _unit(t: Array) -> Array:
    """Return t (n,) divided by its length |t|. A t of zeros stays zero."""
    return t / ((t @ t) ** 0.5 + 1e-30)
