"""Layers that use the labels (N,), integers from 0 to classes - 1, or statistics of the batch."""

from typing import Any

import numpy as np

from minigan.backends import Array
from minigan.layers.base import Backward, Cache, Forward, Layer, TangentBackward, affine_tangent_backward, expect_input
from minigan.layers.init import Init, glorot_uniform
from minigan.losses import expect_labels


class OneHot(Layer):
    """Append the one-hot label to x: y = [x, e_label], (N, n) -> (N, n + classes)."""

    takes_labels = True

    def __init__(self, classes: int):
        super().__init__()
        self.classes = classes

    def forward(self, x: Array, train: bool = True, track: bool = True, labels: Array | None = None) -> Forward:
        """Return y = [x, one_hot(labels)] and the shape of x as cache."""
        expect_input(self, x, ("N", "n"), "put it before the first Dense")
        return self.backend.xp.concatenate([x, one_hot(self, self.classes, labels, x)], axis=1), x.shape

    def backward(self, dy: Array, cache: Cache, need_dx: bool = True, need_grads: bool = True) -> Backward:
        """Return dx, the first n columns of dy, and no gradients."""
        return dy[:, : cache[1]] if need_dx else None, {} if need_grads else None

    def __repr__(self) -> str:
        return f"OneHot({self.classes})"


class Projection(Layer):
    """Last layer of a projection discriminator, y = x w + b + <x, e_label> (Miyato and Koyama 2018, equation 3).

    x (N, n_in), w (n_in, 1), b (1,), e (classes, n_in), y (N, 1). The first term scores the
    image without its label. The last term scores how well the image matches its label.
    """

    takes_labels = True

    def __init__(self, n_in: int, classes: int, *, rng: np.random.Generator, init: Init = glorot_uniform):
        super().__init__(
            {
                "w": init(rng, (n_in, 1), n_in, 1),
                "b": np.zeros(1, np.float32),
                "e": init(rng, (classes, n_in), n_in, 1),
            }
        )
        self.n_in, self.classes = n_in, classes

    def forward(self, x: Array, train: bool = True, track: bool = True, labels: Array | None = None) -> Forward:
        """Return y = x w + b + <x, onehot e>, (N, 1), and the cache (x, onehot)."""
        expect_input(self, x, ("N", self.n_in), "put Flatten() before it")
        onehot = one_hot(self, self.classes, labels, x)  # (N, classes)
        return self._linear(x, onehot) + self.params["b"], (x, onehot)

    def _linear(self, x: Array, onehot: Array) -> Array:
        """Return x w + <x, onehot e>, (N, 1)."""
        return x @ self.params["w"] + (x * (onehot @ self.params["e"])).sum(axis=1, keepdims=True)

    def backward(self, dy: Array, cache: Cache, need_dx: bool = True, need_grads: bool = True) -> Backward:
        """Return dx and the gradients of w, b and e, where y = x w + b + <x, onehot e>."""
        (x, onehot), dx, grads = cache, None, None
        if need_dx:
            dx = dy * (self.params["w"][:, 0] + onehot @ self.params["e"])  # (N, n_in)
        if need_grads:
            grads = {"w": x.T @ dy, "b": dy.sum(axis=0), "e": onehot.T @ (dy * x)}
        return dx, grads

    # ---- second derivatives

    def tangent(self, tx: Array, cache: Cache) -> Forward:
        """Return ty = tx w + <tx, onehot e>, (N, 1)."""
        _, onehot = cache
        return self._linear(tx, onehot), (tx, onehot)

    def tangent_backward(
        self, dy: Array | None, dty: Array, cache: Cache, tangent_cache: Cache, need_dx: bool = True
    ) -> TangentBackward:
        """Return (dx, dtx, grads) of the pair (y, ty)."""
        return affine_tangent_backward(self, dy, dty, cache, tangent_cache, need_dx)

    def __repr__(self) -> str:
        return f"Projection({self.n_in} -> 1, {self.classes} labels)"


class MinibatchStdDev(Layer):
    """Minibatch standard deviation: append the standard deviation over the samples with the same label.

    y = [x, s], (N, n) -> (N, n + channels). A single sample does not show whether all samples of
    the batch are alike. With s, the discriminator can detect a generator that varies less than
    the data. Karras et al. 2018, section 3, append one number, the standard deviation over the
    whole batch. Here it is computed separately for each label, because samples of different
    labels differ in any case, and for each channel, because channels are different features.
    Without labels it is computed over the whole batch.

    With x reshaped to (N, pixels, channels), s_nc = strength * mean_p sqrt(v_npc + eps), where
    v_npc is the mean of (x_mpc - xbar_npc)^2 over the samples m with the same label as n, and
    xbar_npc is their mean. In matrix form, v = A r^2 and r = x - A x, where the symmetric matrix
    A (N, N) averages over the samples with the same label.
    """

    takes_labels = True

    def __init__(self, channels: int = 1, strength: float = 8.0, eps: float = 1e-4):
        super().__init__()
        self.channels, self.strength, self.eps = channels, strength, eps

    def forward(self, x: Array, train: bool = True, track: bool = True, labels: Array | None = None) -> Forward:
        """Return y = [x, s] and the cache (A, r, std)."""
        expect_input(self, x, ("N", "n"), "put Flatten() before it")
        if x.shape[1] % self.channels:
            raise ValueError(f"{self!r} expects x (N, n), n a multiple of {self.channels}, got x {tuple(x.shape)}")
        xp = self.backend.xp
        if labels is not None:
            expect_one_label_per_row(self, labels, x)
            labels, _ = self.backend.batch_gather(labels)
        # This statistic is a matrix product over the samples, so each process computes it for the whole batch.
        whole, mine = self.backend.batch_gather(x)
        same_label = xp.ones((len(whole), len(whole)), bool) if labels is None else labels[:, None] == labels
        A = (same_label / same_label.sum(axis=1, keepdims=True)).astype(x.dtype)  # (N, N)
        matmul = self.backend.matmul
        r = whole - matmul(A, whole)
        std = (matmul(A, r * r) + self.eps) ** 0.5  # (N, n)
        return xp.concatenate([x, self._mean_over_pixels(std)[mine]], axis=1), (A, r, std)

    def _mean_over_pixels(self, t: Array) -> Array:
        """Return strength * the mean over the pixels of each sample, (N, n) -> (N, channels)."""
        return self.strength * t.reshape(len(t), -1, self.channels).mean(axis=1)

    def _to_pixels(self, ds: Array, std: Array) -> Array:
        """Return twice the gradient of v, computed from the gradient of s: (N, channels) -> (N, n).

        The factor 2 is the derivative of r^2, which the callers then leave out.
        """
        std = std.reshape(len(std), -1, self.channels)
        return (self.strength / std.shape[1] * ds[:, None, :] / std).reshape(len(std), -1)

    def backward(self, dy: Array, cache: Cache, need_dx: bool = True, need_grads: bool = True) -> Backward:
        """Return dx and no gradients. The mean xbar contributes nothing to dx, because A r = 0."""
        dx = None
        if need_dx:
            A, r, std = cache
            n = r.shape[1]
            ds, mine = self.backend.batch_gather(dy[:, n:])
            dx = dy[:, :n] + (r * self.backend.matmul(A, self._to_pixels(ds, std)))[mine]
        return dx, {} if need_grads else None

    # ---- second derivatives

    def tangent(self, tx: Array, cache: Cache) -> Forward:
        """Return ty = [tx, ts], where ts is the mean over pixels of the tangent of std."""
        A, r, std = cache
        whole, mine = self.backend.batch_gather(tx)
        tr = whole - A @ whole
        tstd = A @ (r * tr) / std  # (N, n)
        return self.backend.xp.concatenate([tx, self._mean_over_pixels(tstd)[mine]], axis=1), (tr, tstd)

    def tangent_backward(
        self, dy: Array | None, dty: Array, cache: Cache, tangent_cache: Cache, need_dx: bool = True
    ) -> TangentBackward:
        """Return (dx, dtx, {}) of the pair (y, ty)."""
        if not need_dx:
            return None, None, {}
        (A, r, std), (tr, tstd) = cache, tangent_cache
        n = r.shape[1]
        dts, mine = self.backend.batch_gather(dty[:, n:])
        d = self._to_pixels(dts, std)  # the gradient of A (r tr); the gradient of std is -tstd * d
        dtx = dty[:, :n] + (r * (A @ d))[mine]
        dx = (tr * (A @ d) - r * (A @ (d * tstd / std)))[mine]
        return dx if dy is None else dx + self.backward(dy, cache)[0], dtx, {}

    def __repr__(self) -> str:
        return f"MinibatchStdDev({self.channels}, strength {self.strength:g})"


def one_hot(layer: Layer, classes: int, labels: Any, x: Array) -> Array:
    """Return the one-hot encoding of the labels, (N, classes), in the dtype of x. `layer` is named in messages.

    Raises ValueError if there is not one label for each row of x, or if a label is out of range.
    """
    expect_one_label_per_row(layer, labels, x)
    expect_labels(labels, classes)
    return (labels[:, None] == layer.backend.xp.arange(classes)).astype(x.dtype)


def expect_one_label_per_row(layer: Layer, labels: Array | None, x: Array) -> None:
    """Raise ValueError unless labels has shape (N,) for x (N, n)."""
    if labels is None or tuple(labels.shape) != (len(x),):
        came = "none" if labels is None else tuple(labels.shape)
        raise ValueError(f"{layer!r} expects labels ({len(x)},), one for each row of x, got {came}")
