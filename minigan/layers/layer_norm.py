"""Layer normalisation."""

from typing import Any

import numpy as np

from minigan.backends import Array
from minigan.layers.base import Grads, Layer, add, expect_input


class LayerNorm(Layer):
    """Layer normalisation of each sample, y = gamma * xhat + beta.

    xhat = (x - mean) / sqrt(var + eps), x and y (N, ..., channels), gamma and beta (channels,).
    mean and var (biased) are computed for each sample over all axes but the first, (N, 1, ..., 1).
    No sample depends on another, so training and evaluation compute the same, and there are no
    running statistics. (Ba et al. 2016, section 3. For images gamma and beta have one number per
    channel, as in PyTorch's GroupNorm(1, channels); PyTorch's LayerNorm has one per pixel.)
    """

    def __init__(self, channels: int, *, eps: float = 1e-5):
        super().__init__({"gamma": np.ones(channels, np.float32), "beta": np.zeros(channels, np.float32)})
        self.channels, self.eps = channels, eps

    def expect(self, x: Array) -> None:
        """Raise ValueError unless x is (N, ..., channels) with the dtype of the weights."""
        axes = "NHW"[: max(1, len(x.shape) - 1)]  # a single axis would be no batch
        expect_input(self, x, (*axes, self.channels), f"its last axis has {self.channels} channels")

    def forward(self, x: Array, train: bool = True, track: bool = True) -> tuple[Array, Any]:
        """Return y and the cache (xhat, inv_std)."""
        self.expect(x)
        centred = x - self._mean(x)
        inv_std = 1 / (self._mean(centred * centred) + self.eps) ** 0.5  # (N, 1, ..., 1)
        xhat = inv_std * centred
        return self.params["gamma"] * xhat + self.params["beta"], (xhat, inv_std)

    def backward(
        self, dy: Array, cache: Any, need_dx: bool = True, need_grads: bool = True
    ) -> tuple[Array | None, Grads | None]:
        """Return dx and the gradients of gamma and beta.

        The gradient of xhat is dxhat = gamma * dy. xhat depends on x in three ways, and dx is the
        sum of three terms (std = sqrt(var + eps), means over the sample):

            directly                          1 / std * dxhat
            through mean                      1 / std * (- mean of dxhat)
            through var and std               1 / std * (- xhat * mean of dxhat * xhat)

        gamma stands inside the means, because it differs between the channels of a sample.
        """
        (xhat, inv_std), dx, grads = cache, None, None
        if need_dx:
            dxhat = self.params["gamma"] * dy
            dx = inv_std * (dxhat - self._mean(dxhat) - xhat * self._mean(dxhat * xhat))
        if need_grads:
            grads = {"gamma": self.backend.sum_rows(dy * xhat), "beta": self.backend.sum_rows(dy)}
        return dx, grads

    # ---- second derivatives

    def tangent(self, tx: Array, cache: Any) -> tuple[Array, Any]:
        """Return ty = gamma * txhat with txhat = inv_std * P tx, where P is `_remove_statistics`."""
        xhat, inv_std = cache
        txhat = inv_std * self._remove_statistics(tx, xhat)
        return self.params["gamma"] * txhat, (tx, txhat)

    def tangent_backward(
        self, dy: Array | None, dty: Array, cache: Any, tangent_cache: Any, need_dx: bool = True
    ) -> tuple[Array | None, Array | None, Grads]:
        """Return (dx, dtx, grads) of the pair (y, ty).

        Let s = inv_std, P = `_remove_statistics` (its own transpose), u = gamma * dty, and let
        mean be over each sample. <u, txhat> = s <u, P tx> depends on x through s and through the
        xhat in P. This gives the curvature term
        dx = - s (xhat mean(u * txhat) + s P(u mean(xhat * tx) + tx mean(xhat * u))).
        """
        (xhat, inv_std), (tx, txhat) = cache, tangent_cache
        dgamma = self.backend.sum_rows(dty * txhat)  # ty = gamma * txhat
        grads: Grads = {"gamma": dgamma, "beta": self.backend.xp.zeros_like(dgamma)}
        dx = dtx = None
        if need_dx:
            u = self.params["gamma"] * dty
            dtx = inv_std * self._remove_statistics(u, xhat)  # txhat = s P tx
            inner = u * self._mean(xhat * tx) + tx * self._mean(xhat * u)
            dx = -inv_std * (xhat * self._mean(u * txhat) + inv_std * self._remove_statistics(inner, xhat))
        if dy is not None:  # y = gamma * xhat + beta
            linear_term, grads_y = self.backward(dy, cache, need_dx)
            dx = linear_term if dx is None else dx + linear_term
            grads = add(grads, grads_y)
        return dx, dtx, grads

    def _remove_statistics(self, t: Array, xhat: Array) -> Array:
        """Return P t = t - mean(t) - xhat mean(xhat * t).

        P removes the part of a change t of x that changes only the mean and variance of each
        sample, because normalisation cancels this part.
        """
        return t - self._mean(t) - xhat * self._mean(xhat * t)

    def _mean(self, t: Array) -> Array:
        """Return the mean of each sample, over all axes but the first, (N, ..., channels) -> (N, 1, ..., 1)."""
        return t.mean(axis=tuple(range(1, t.ndim)), keepdims=True)

    def __repr__(self) -> str:
        return f"LayerNorm({self.channels})"
