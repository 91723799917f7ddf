"""Output layers for rows of a table: softmax over groups of features, and a generator's head that draws categories.

A row has n features. A group is a pair (start, stop): the features of one category, one for each
of its values. Groups are sorted, do not overlap, and have at least two features. All features
outside the groups are numbers in [-1, 1].
"""

import itertools
from collections.abc import Sequence

import numpy as np

from minigan.backends import GOLDEN, Array, Backend, Shape, mix64
from minigan.layers.activations import Elementwise
from minigan.layers.base import Backward, Cache, Forward, Layer, expect_input
from minigan.layers.conditional import one_hot

Groups = tuple[tuple[int, int], ...]


class Softmax(Elementwise):
    """Softmax over each group of features, y_j = exp(x_j) / sum of exp(x_i) over the group of j.

    x (N, n) -> y (N, n). Features outside the groups are passed on, y = x.
    """

    def __init__(self, groups: Sequence[tuple[int, int]], n: int):
        super().__init__()
        self.groups, self.n = expect_groups(groups, n), n
        self.starts, self.numbers = starts_of(self.groups, n), numbers_of(self.groups, n)

    def forward(self, x: Array, train: bool = True, track: bool = True) -> Forward:
        """Return y and the cache y."""
        expect_input(self, x, ("N", self.n), "its groups are those of rows with so many features")
        y = self.backend.softmax_groups(x, self.starts)
        for start, stop in self.numbers:
            y[:, start:stop] = x[:, start:stop]
        return y, y

    def gradient(self, dy: Array, y: Array) -> Array:
        """Return dx_j = y_j * (dy_j - sum of dy_i * y_i over the group), because dy_i/dx_j = y_i * ((i = j) - y_j)."""
        dx = self.backend.softmax_groups_grad(dy, y, self.starts)
        for start, stop in self.numbers:
            dx[:, start:stop] = dy[:, start:stop]
        return dx

    def curvature(self, dty: Array, tx: Array, y: Array) -> Array:
        """Return the gradient of <dty, ty> with respect to x, where ty = y * (tx - <y, tx>).

        With <a, b> the sum of a * b over the group, the gradient with respect to y is
        dty * (tx - <y, tx>) - tx * <y, dty>. It passes through the softmax as every gradient of y.
        """
        dy = dty * (tx - self._sums(y * tx)) - tx * self._sums(y * dty)
        dx = self.backend.softmax_groups_grad(dy, y, self.starts)
        for start, stop in self.numbers:
            dx[:, start:stop] = 0  # y = x
        return dx

    def _sums(self, t: Array) -> Array:
        """Return the sum of t over the group of each feature, (N, n) -> (N, n). For y = 1, dx is dy minus this sum."""
        return t - self.backend.softmax_groups_grad(t, self.backend.xp.ones_like(t), self.starts)

    def __repr__(self) -> str:
        return f"Softmax({len(self.groups)} groups of {self.n} features)"


class TableHead(Layer):
    """Last layer of a generator of table rows: numbers by tanh, categories by Gumbel-softmax.

    x (N, n) -> y (N, n). For a number, y = tanh(x). For a group,

        y_j = exp((x_j + g_j) / t) / sum of exp((x_i + g_i) / t) over the group,   g = -log(-log u),

    with u uniform between 0 and 1 and the temperature t (Jang et al. 2017, section 2; Maddison et
    al. 2017). The value j with the largest y_j has the probability exp(x_j) / sum of exp(x_i): the
    noise draws a category, and the gradient with respect to x is defined. The smaller t, the closer
    is y to 1 for this value and 0 for the others.

    With `hard=True`, y is exactly one-hot, as in real rows, and the backward pass is that of the soft
    y (straight-through, Jang et al. 2017, section 2.2). In evaluation (train=False) y is one-hot in
    any case. A category must be drawn there too, so the noise does not stop.

    If `label_group` is the index of a group, this group is the one-hot label that was asked for, and
    x gets no gradient from it. Other columns that depend on the label then see the right one.

    u is computed as a hash of (key, draws, position), as the masks of `Dropout` are. It is the same on
    every backend and for any number of threads, and a checkpoint restores it from the two buffers.
    The key is drawn from `rng`. Every forward pass in training adds 1 to `draws`; a pass in evaluation
    does not, so that it has the noise of the next pass in training.
    """

    draws_in_evaluation = True

    def __init__(
        self,
        groups: Sequence[tuple[int, int]],
        n: int,
        *,
        temperature: float = 0.2,
        hard: bool = False,
        label_group: int | None = None,
        rng: np.random.Generator,
    ):
        if not 0 < temperature < np.inf:
            raise ValueError(f"the temperature of a TableHead is a finite number above 0, got {temperature}")
        self.groups, self.n = expect_groups(groups, n), n
        if label_group is not None and label_group not in range(len(self.groups)):
            raise ValueError(f"label_group is the index of one of {len(self.groups)} groups, got {label_group}")
        key = rng.integers(2**64, dtype=np.uint64)
        super().__init__(buffers={"key": np.array(key), "draws": np.zeros((), np.uint64)})
        self.temperature, self.hard, self.label_group = temperature, hard, label_group
        self.takes_labels = label_group is not None
        self.starts, self.numbers = starts_of(self.groups, n), numbers_of(self.groups, n)

    def forward(self, x: Array, train: bool = True, track: bool = True, labels: Array | None = None) -> Forward:
        """Return y, and as cache the soft y, whose label is one-hot as well."""
        expect_input(self, x, ("N", self.n), "its groups are those of rows with so many features")
        stream = mix64(int(self.buffers["key"]) + GOLDEN * int(self.buffers["draws"]))
        if train:
            self.buffers["draws"] += np.uint64(1)
        l = x + gumbel(self.backend, x.shape, stream, x.real.dtype)
        soft = self.backend.softmax_groups(l / float(self.temperature), self.starts)
        for start, stop in self.numbers:
            soft[:, start:stop] = self.backend.xp.tanh(x[:, start:stop])
        if self.label_group is not None:
            start, stop = self.groups[self.label_group]
            soft[:, start:stop] = one_hot(self, stop - start, labels, x)
        if train and not self.hard:
            return soft, soft
        y = self.backend.argmax_groups(l, self.starts)
        for start, stop in self.numbers if self.label_group is None else (*self.numbers, self.groups[self.label_group]):
            y[:, start:stop] = soft[:, start:stop]
        return y, soft

    def backward(self, dy: Array, cache: Cache, need_dx: bool = True, need_grads: bool = True) -> Backward:
        """Return dx, and no gradients: softmax' / t for groups, and tanh' = 1 - tanh^2 for numbers.

        dx is exactly 0 for the label, because y * (dy - <dy, y>) is 0 for every one-hot y.
        """
        soft, dx = cache, None
        if need_dx:
            dx = self.backend.softmax_groups_grad(dy, soft, self.starts) / float(self.temperature)
            for start, stop in self.numbers:
                y = soft[:, start:stop]
                dx[:, start:stop] = dy[:, start:stop] * (1 - y * y)
        return dx, {} if need_grads else None

    def __repr__(self) -> str:
        numbers, hard = sum(stop - start for start, stop in self.numbers), ", hard" if self.hard else ""
        return f"TableHead({numbers} numbers, {len(self.groups)} groups, t={self.temperature:g}{hard})"


def gumbel(backend: Backend, shape: Shape, stream: int, dtype: np.dtype) -> Array:
    """Return numbers g = -log(-log u) of the Gumbel distribution, which depend only on `stream` and the position.

    u = backend.uniform(shape, stream, dtype) is a multiple of 2^-24, so that g is between -2.9 and 16.7.
    """
    log = backend.xp.log
    return -log(-log(backend.uniform(shape, stream, dtype)))


# ---------------------------------------------------------------- groups


def expect_groups(groups: Sequence[tuple[int, int]], n: int) -> Groups:
    """Return the groups as tuples. Raises ValueError unless they are sorted, apart, and within n features."""
    found, free = tuple((int(start), int(stop)) for start, stop in groups), 0
    for start, stop in found:
        if start < free or stop - start < 2 or stop > n:
            raise ValueError(
                f"groups are sorted pairs (start, stop) of at least two of {n} features that do not overlap, "
                f"got {(start, stop)} where the features from {free} on are free"
            )
        free = stop
    return found


def starts_of(groups: Groups, n: int) -> Shape:
    """Return the starts with which the operations of the backends divide n features: each number is its own group."""
    inside = {at for start, stop in groups for at in range(start + 1, stop)}
    return tuple(at for at in range(n) if at not in inside)


def numbers_of(groups: Groups, n: int) -> Groups:
    """Return the ranges (start, stop) of neighbouring features that are outside the groups."""
    edges = [0, *itertools.chain.from_iterable(groups), n]
    return tuple((a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b)
