"""Layers that look at labels (N,), whole numbers from 0 to classes - 1, or at the batch as a whole."""

import numpy as np

from minigan.layers.base import Layer, affine_tangent_backward, expect_input
from minigan.layers.init import glorot_uniform
from minigan.losses import expect_labels


class OneHot(Layer):
    """y = [x, e_label]: the label as `classes` further numbers, one of them 1; (N, n) -> (N, n + classes)."""

    takes_labels = True

    def __init__(self, classes: int):
        super().__init__()
        self.classes = classes

    def forward(self, x, train=True, track=True, labels=None):
        expect_input(self, x, ("N", "n"), "put it before the first Dense")
        return self.backend.xp.concatenate([x, one_hot(self, labels, x)], axis=1), x.shape

    def backward(self, dy, cache, need_dx=True, need_grads=True):  # the label has no gradient
        return dy[:, : cache[1]] if need_dx else None, {} if need_grads else None

    def __repr__(self) -> str:
        return f"OneHot({self.classes})"


class Projection(Layer):
    """The projection discriminator's head: y = x w + b + <x, e_label>, a logit that may depend on the label.

    x (N, n_in), w (n_in, 1), b (1,), e (classes, n_in), y (N, 1). The second term asks "is
    this a good 7?", the first "is this a good image?" (Miyato and Koyama 2018, equation 3).
    """

    takes_labels = True

    def __init__(self, n_in: int, classes: int, *, rng, init=glorot_uniform):
        super().__init__(
            {
                "w": init(rng, (n_in, 1), n_in, 1),
                "b": np.zeros(1, np.float32),
                "e": init(rng, (classes, n_in), n_in, 1),
            }
        )
        self.n_in, self.classes = n_in, classes

    def forward(self, x, train=True, track=True, labels=None):
        expect_input(self, x, ("N", self.n_in), "put Flatten() before it")
        chosen = one_hot(self, labels, x)  # (N, classes)
        return self._linear(x, chosen) + self.params["b"], (x, chosen)

    def _linear(self, x, chosen):
        """x w + <x, chosen e>, (N, 1)"""
        return x @ self.params["w"] + (x * (chosen @ self.params["e"])).sum(axis=1, keepdims=True)

    def backward(self, dy, cache, need_dx=True, need_grads=True):  # y = x w + b + <x, chosen e>
        (x, chosen), dx, grads = cache, None, None
        if need_dx:
            dx = dy * (self.params["w"][:, 0] + chosen @ self.params["e"])  # (N, n_in)
        if need_grads:
            grads = {"w": x.T @ dy, "b": dy.sum(axis=0), "e": chosen.T @ (dy * x)}
        return dx, grads

    # ---- second derivatives

    def tangent(self, tx, cache):
        _, chosen = cache
        return self._linear(tx, chosen), (tx, chosen)

    def tangent_backward(self, dy, dty, cache, tangent_cache, need_dx=True):
        return affine_tangent_backward(self, dy, dty, cache, tangent_cache, need_dx)

    def __repr__(self) -> str:
        return f"Projection({self.n_in} -> 1, {self.classes} labels)"


class MinibatchStdDev(Layer):
    """y = [x, s]: appends the standard deviation over the samples of the same label, (N, n) -> (N, n + channels).

    A sample by itself does not show that all others are like it. A discriminator that sees
    how much a batch varies makes the generator vary as much as the data. Karras et al. 2018,
    section 3, append one number, the standard deviation over the whole batch. Here it is
    computed for each label by itself, because labels differ in any case (without labels: over
    the whole batch), and for each channel, because channels see different things.

    With x as (N, pixels, channels): s_nc = strength * mean_p sqrt(v_npc + eps), v_npc the mean
    of (x_mpc - xbar_npc)^2 over the samples m that have the label of n, and xbar_npc their
    mean. So v = A r^2 with r = x - A x, where A (N, N) averages over equal labels, A = A'.
    """

    takes_labels = True

    def __init__(self, channels: int = 1, strength: float = 8.0, eps: float = 1e-4):
        super().__init__()
        self.channels, self.strength, self.eps = channels, strength, eps

    def forward(self, x, train=True, track=True, labels=None):
        expect_input(self, x, ("N", "n"), "put Flatten() before it")
        if x.shape[1] % self.channels:
            raise ValueError(f"{self!r} expects whole pixels of {self.channels} channels, got x {tuple(x.shape)}")
        xp = self.backend.xp
        if labels is None:
            same = xp.ones((len(x), len(x)), bool)
        else:
            expect_one_label_per_row(self, labels, x)
            same = labels[:, None] == labels
        A = (same / same.sum(axis=1, keepdims=True)).astype(x.dtype)  # (N, N)
        # A statistic of the batch, by a matrix product over its samples: processes that share a
        # batch gather x and labels here, because `batch_sum` would change the bits.
        matmul = self.backend.matmul
        r = x - matmul(A, x)
        std = (matmul(A, r * r) + self.eps) ** 0.5  # (N, n)
        return xp.concatenate([x, self._mean_over_pixels(std)], axis=1), (A, r, std)

    def _mean_over_pixels(self, t):
        """strength * the mean over the pixels of each sample, (N, n) -> (N, channels)"""
        return self.strength * t.reshape(len(t), -1, self.channels).mean(axis=1)

    def _to_pixels(self, ds, std):
        """Twice the gradient of v, from that of s: (N, channels) -> (N, n). (The 2 is that of r^2, saved there.)"""
        std = std.reshape(len(std), -1, self.channels)
        return (self.strength / std.shape[1] * ds[:, None, :] / std).reshape(len(std), -1)

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        dx = None
        if need_dx:
            A, r, std = cache
            n = r.shape[1]
            dx = dy[:, :n] + r * self.backend.matmul(A, self._to_pixels(dy[:, n:], std))  # through xbar: A r = 0
        return dx, {} if need_grads else None

    # ---- second derivatives

    def tangent(self, tx, cache):
        A, r, std = cache
        tr = tx - A @ tx
        tstd = A @ (r * tr) / std  # (N, n)
        return self.backend.xp.concatenate([tx, self._mean_over_pixels(tstd)], axis=1), (tr, tstd)

    def tangent_backward(self, dy, dty, cache, tangent_cache, need_dx=True):
        if not need_dx:
            return None, None, {}
        (A, r, std), (tr, tstd) = cache, tangent_cache
        n = r.shape[1]
        d = self._to_pixels(dty[:, n:], std)  # of A (r tr), and times -tstd that of std
        dtx = dty[:, :n] + r * (A @ d)
        dx = tr * (A @ d) - r * (A @ (d * tstd / std))
        return dx if dy is None else dx + self.backward(dy, cache)[0], dtx, {}

    def __repr__(self) -> str:
        return f"MinibatchStdDev({self.channels}, strength {self.strength:g})"


def one_hot(layer: Layer, labels, x):
    """(N, classes), 1 in the column of each label, in the dtype of x. Raises ValueError for labels that do not fit."""
    expect_one_label_per_row(layer, labels, x)
    expect_labels(labels, layer.classes)
    return (labels[:, None] == layer.backend.xp.arange(layer.classes)).astype(x.dtype)


def expect_one_label_per_row(layer: Layer, labels, x) -> None:
    if labels is None or tuple(labels.shape) != (len(x),):
        came = "none" if labels is None else tuple(labels.shape)
        raise ValueError(f"{layer!r} expects labels ({len(x)},), one for each row of x, got {came}")
