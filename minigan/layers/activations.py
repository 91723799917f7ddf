"""The activations, which act on each number by itself."""

from minigan.layers.base import Layer


class Elementwise(Layer):
    """A layer that learns nothing: its `backward` is `gradient(dy, cache)`, computed only if dx is needed.

    y[i] depends on x[i] alone, or y is x in another shape, so the linearisation is
    `ty = gradient(tx, cache)` as well: dy/dx is diagonal, its own transpose.
    """

    def gradient(self, dy, cache):
        """dx from dy."""
        raise NotImplementedError

    def curvature(self, dty, tx, cache):
        """What ty = f'(x) tx contributes to dx: dty * tx * f''(x). None if f is piecewise linear."""
        return None

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        return self.gradient(dy, cache) if need_dx else None, {} if need_grads else None

    # ---- second derivatives

    def tangent(self, tx, cache):
        return self.gradient(tx, cache), tx

    def tangent_backward(self, dy, dty, cache, tangent_cache, need_dx=True):
        if not need_dx:
            return None, None, {}
        dx = self.curvature(dty, tangent_cache, cache)
        if dy is not None:
            dx = self.gradient(dy, cache) if dx is None else dx + self.gradient(dy, cache)
        return dx, self.gradient(dty, cache), {}


class Rectifier(Elementwise):
    """y = x where x > 0, else slope * x: what LeakyReLU and ReLU share. At the kink x = 0 the slope is `slope`."""

    slope: float

    def forward(self, x, train=True, track=True):
        y = self.backend.leaky_relu(x, self.slope)
        return y, y

    def gradient(self, dy, y):  # y is positive exactly where x is
        return self.backend.leaky_relu_grad(dy, y, self.slope)


class LeakyReLU(Rectifier):
    """y = x where x > 0, else slope * x."""

    def __init__(self, slope: float = 0.2):
        if not slope >= 0:
            raise ValueError(f"a leaky slope is at least 0, got {slope}")
        super().__init__()
        self.slope = slope

    def __repr__(self) -> str:
        return f"LeakyReLU({self.slope})"


class ReLU(Rectifier):
    """y = max(x, 0)."""

    slope = 0.0


class Tanh(Elementwise):
    """y = tanh(x)."""

    def forward(self, x, train=True, track=True):
        y = self.backend.xp.tanh(x)
        return y, y

    def gradient(self, dy, y):  # tanh' = 1 - tanh^2
        return dy * (1 - y * y)

    def curvature(self, dty, tx, y):  # tanh'' = -2 tanh tanh'
        return -2 * dty * tx * y * (1 - y * y)


class Sigmoid(Elementwise):
    """y = 1 / (1 + exp(-x)), written as (1 + tanh(x/2)) / 2 so that no x overflows.

    A discriminator ends in logits, not in this layer: the losses include the sigmoid.
    """

    def forward(self, x, train=True, track=True):
        y = 0.5 * (1 + self.backend.xp.tanh(0.5 * x))
        return y, y

    def gradient(self, dy, y):  # sigmoid' = sigmoid (1 - sigmoid)
        return dy * (y * (1 - y))

    def curvature(self, dty, tx, y):  # sigmoid'' = sigmoid' (1 - 2 sigmoid)
        return dty * tx * (y * (1 - y)) * (1 - 2 * y)
