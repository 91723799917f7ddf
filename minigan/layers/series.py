"""Layers for series (N, T, C): noise for each step, and flags that say where values are missing and where series end.

A flag is a feature that is 1 or -1 in real series. The flag of an end is 1 while a series lasts, and -1 after its end.
"""

from collections.abc import Sequence

from minigan.backends import Array
from minigan.layers.activations import Elementwise
from minigan.layers.base import Cache, Forward, expect_input

Ends = tuple[tuple[int, int], ...]


class InEachStep(Elementwise):
    """Give each step numbers of its own, and all other numbers to every step: y_t = [x_t, rest].

    x (N, steps * own + rest) -> y (N, steps, own + rest). The first `own` numbers of x are those of
    step 0, and so on. This is how a generator of one step after the other sees its noise: numbers
    that stay the same decide what is the same in the whole series, such as a frequency or the label.
    """

    def __init__(self, steps: int, own: int):
        if steps < 1 or own < 0:
            raise ValueError(f"there is at least 1 step with at least 0 numbers of its own, got {steps} and {own}")
        super().__init__()
        self.steps, self.own = steps, own

    def forward(self, x: Array, train: bool = True, track: bool = True) -> Forward:
        """Return y and no cache."""
        expect_input(self, x, ("N", "n"), "put it before the first layer of series")
        if x.shape[1] < self.steps * self.own:
            raise ValueError(
                f"{self!r} expects at least {self.steps * self.own} numbers for each sample, got x {tuple(x.shape)}"
            )
        return self._spread(x), None

    def _spread(self, x: Array) -> Array:
        """Return y (N, steps, own + rest)."""
        N, numbers, xp = len(x), self.steps * self.own, self.backend.xp
        own, rest = x[:, :numbers].reshape(N, self.steps, self.own), x[:, None, numbers:]
        return xp.concatenate([own, xp.broadcast_to(rest, (N, self.steps, rest.shape[2]))], axis=2)

    def gradient(self, dy: Array, cache: Cache) -> Array:
        """Return dx: dy of the numbers of each step, and the sum over the steps for the others, which all steps use."""
        own, rest = dy[:, :, : self.own], dy[:, :, self.own :]
        return self.backend.xp.concatenate([own.reshape(len(dy), -1), rest.sum(axis=1)], axis=1)

    def tangent(self, tx: Array, cache: Cache) -> Forward:
        """Return ty, which is tx in the steps."""
        return self._spread(tx), tx

    def __repr__(self) -> str:
        return f"InEachStep({self.steps} steps, {self.own} of their own)"


class TanhOf(Elementwise):
    """Hyperbolic tangent of some features, y_j = tanh(x_j), and y_j = x_j for the others. x (N, T, n) -> y (N, T, n).

    A generator's flags end with it, so that they are between -1 and 1, as in real series.
    """

    def __init__(self, features: Sequence[int], n: int):
        if not all(0 <= j < n for j in features):
            raise ValueError(f"features are numbers below {n}, got {list(features)}")
        super().__init__()
        self.features, self.n = list(features), n

    def forward(self, x: Array, train: bool = True, track: bool = True) -> Forward:
        """Return y and the cache y."""
        expect_input(self, x, ("N", "T", self.n), f"a series has {self.n} features in each step")
        y = x.copy()
        for j in self.features:
            y[:, :, j] = self.backend.xp.tanh(x[:, :, j])
        return y, y

    def gradient(self, dy: Array, y: Array) -> Array:
        """Return dx = dy * (1 - y^2) for these features, and dy for the others."""
        dx = dy.copy()
        for j in self.features:
            dx[:, :, j] *= 1 - y[:, :, j] * y[:, :, j]
        return dx

    def curvature(self, dty: Array, tx: Array, y: Array) -> Array:
        """Return dty * tx * tanh''(x) for these features, where tanh'' = -2 tanh (1 - tanh^2), and 0 for the others."""
        dx = self.backend.xp.zeros_like(dty)
        for j in self.features:
            y_j = y[:, :, j]
            dx[:, :, j] = -2 * dty[:, :, j] * tx[:, :, j] * y_j * (1 - y_j * y_j)
        return dx

    def __repr__(self) -> str:
        return f"TanhOf({len(self.features)} of {self.n} features)"


class MaskEnds(Elementwise):
    """Set all values after the end of a series to 0, so that they do not matter: y_t = m_t * x_t.

    x (N, T, n) -> y (N, T, n). `ends` are groups (start, stop) of features that end together: the
    last feature of a group is their flag. m_t is 1 before the first step whose flag is negative, and 0
    from there on. The flag itself is passed on, so that lengths can be learned: m has no gradient,
    because it does not change if x changes a little.

    With `append`, y (N, T, n + 1) has a mask as its last feature, as recurrent layers with
    `masked=True` expect it. If there are several groups, which `Pack` has joined, it is 1 as long as
    one of them lasts.
    """

    def __init__(self, ends: Sequence[tuple[int, int]], n: int, *, append: bool = False):
        if not ends or not all(0 <= start < stop <= n for start, stop in ends):
            raise ValueError(f"groups (start, stop) are among {n} features, got {list(ends)}")
        super().__init__()
        self.ends: Ends = tuple((start, stop) for start, stop in ends)
        self.n, self.append = n, append

    def forward(self, x: Array, train: bool = True, track: bool = True) -> Forward:
        """Return y, and the cache m (N, T, n), which is 1 for the flags too."""
        expect_input(self, x, ("N", "T", self.n), f"a series has {self.n} features in each step")
        xp = self.backend.xp
        m, longest = xp.ones_like(x), xp.zeros_like(x[:, :, :1])
        for start, stop in self.ends:
            over = x[:, :, stop - 1].real < 0  # the complex step changes the imaginary part only
            lasts = (xp.cumsum(over, axis=1) == 0).astype(x.dtype)[:, :, None]  # (N, T, 1)
            m[:, :, start : stop - 1] = lasts
            longest = xp.maximum(longest, lasts)
        y = m * x
        return xp.concatenate([y, longest], axis=2) if self.append else y, m

    def gradient(self, dy: Array, m: Array) -> Array:
        """Return dx = m * dy. The appended mask does not depend on x."""
        return m * dy[:, :, : self.n]

    def tangent(self, tx: Array, m: Array) -> Forward:
        """Return ty = m * tx, and 0 for the appended mask."""
        ty = m * tx
        xp = self.backend.xp
        return xp.concatenate([ty, xp.zeros_like(ty[:, :, :1])], axis=2) if self.append else ty, tx

    def __repr__(self) -> str:
        groups = f", {len(self.ends)} groups" if len(self.ends) > 1 else ""
        return f"MaskEnds({self.n} features{groups}{', mask appended' if self.append else ''})"
