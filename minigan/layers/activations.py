"""Elementwise activations."""

from minigan.backends import Array
from minigan.layers.base import Backward, Cache, Forward, Layer, TangentBackward


class Elementwise(Layer):
    """Base class of elementwise functions, y[i] = f(x[i]), and of other layers without parameters.

    Subclasses implement `forward` and `gradient`, and `curvature` if f is not piecewise linear.
    dy/dx of an elementwise function is diagonal and therefore its own transpose, so that the
    linearisation is ty = gradient(tx, cache). Layers that change the shape override `tangent`.
    """

    def gradient(self, dy: Array, cache: Cache) -> Array:
        """Return dx, computed from dy."""
        raise NotImplementedError

    def curvature(self, dty: Array, tx: Array, cache: Cache) -> Array | None:
        """Return the contribution of ty = f'(x) tx to dx, dty * tx * f''(x), or None if f is piecewise linear."""
        return None

    def backward(self, dy: Array, cache: Cache, need_dx: bool = True, need_grads: bool = True) -> Backward:
        """Return (dx, {}). dx is computed only if it is needed."""
        return self.gradient(dy, cache) if need_dx else None, {} if need_grads else None

    # ---- second derivatives

    def tangent(self, tx: Array, cache: Cache) -> Forward:
        """Return ty = f'(x) tx."""
        return self.gradient(tx, cache), tx

    def tangent_backward(
        self, dy: Array | None, dty: Array, cache: Cache, tangent_cache: Cache, need_dx: bool = True
    ) -> TangentBackward:
        """Return dx = f'(x) dy + dty * tx * f''(x) and dtx = f'(x) dty."""
        if not need_dx:
            return None, None, {}
        dx = self.curvature(dty, tangent_cache, cache)
        if dy is not None:
            dx = self.gradient(dy, cache) if dx is None else dx + self.gradient(dy, cache)
        return dx, self.gradient(dty, cache), {}


class Rectifier(Elementwise):
    """Base class of LeakyReLU and ReLU: y = x where x > 0, else slope * x. At x = 0 the derivative is `slope`."""

    slope: float

    def forward(self, x: Array, train: bool = True, track: bool = True) -> Forward:
        """Return y and the cache y."""
        y = self.backend.leaky_relu(x, self.slope)
        return y, y

    def gradient(self, dy: Array, y: Array) -> Array:
        """Return dx = dy where y > 0, else slope * dy. y is positive exactly where x is."""
        return self.backend.leaky_relu_grad(dy, y, self.slope)


class LeakyReLU(Rectifier):
    """Leaky rectified linear unit, y = x where x > 0, else slope * x."""

    def __init__(self, slope: float = 0.2):
        if not slope >= 0:
            raise ValueError(f"the slope of a LeakyReLU is at least 0, got {slope}")
        super().__init__()
        self.slope = slope

    def __repr__(self) -> str:
        return f"LeakyReLU({self.slope})"


class ReLU(Rectifier):
    """Rectified linear unit, y = max(x, 0)."""

    slope = 0.0


class Tanh(Elementwise):
    """Hyperbolic tangent, y = tanh(x)."""

    def forward(self, x: Array, train: bool = True, track: bool = True) -> Forward:
        """Return y = tanh(x) and the cache y."""
        y = self.backend.xp.tanh(x)
        return y, y

    def gradient(self, dy: Array, y: Array) -> Array:
        """Return dx = dy * tanh'(x), where tanh' = 1 - tanh^2."""
        return dy * (1 - y * y)

    def curvature(self, dty: Array, tx: Array, y: Array) -> Array:
        """Return dty * tx * tanh''(x), where tanh'' = -2 tanh tanh'."""
        return -2 * dty * tx * y * (1 - y * y)


class Sigmoid(Elementwise):
    """Sigmoid, y = 1 / (1 + exp(-x)), computed as (1 + tanh(x/2)) / 2 so that it cannot overflow.

    Do not use it as the last layer of a discriminator, because the losses take logits and
    include the sigmoid.
    """

    def forward(self, x: Array, train: bool = True, track: bool = True) -> Forward:
        """Return y = (1 + tanh(x/2)) / 2 and the cache y."""
        y = 0.5 * (1 + self.backend.xp.tanh(0.5 * x))
        return y, y

    def gradient(self, dy: Array, y: Array) -> Array:
        """Return dx = dy * sigmoid'(x), where sigmoid' = sigmoid (1 - sigmoid)."""
        return dy * (y * (1 - y))

    def curvature(self, dty: Array, tx: Array, y: Array) -> Array:
        """Return dty * tx * sigmoid''(x), where sigmoid'' = sigmoid' (1 - 2 sigmoid)."""
        return dty * tx * (y * (1 - y)) * (1 - 2 * y)


class Softplus(Elementwise):
    """Softplus, y = log(1 + exp(x)), a smooth version of ReLU (Dugas et al. 2001).

    It is computed as max(x, 0) + log1p(exp(-|x|)), which cannot overflow.
    """

    def forward(self, x: Array, train: bool = True, track: bool = True) -> Forward:
        """Return y = log(1 + exp(x)) and the cache x."""
        return self.backend.softplus(x), x

    def gradient(self, dy: Array, x: Array) -> Array:
        """Return dx = dy * sigmoid(x), because softplus' = exp(x) / (1 + exp(x)) = sigmoid."""
        return dy * self.backend.sigmoid(x)

    def curvature(self, dty: Array, tx: Array, x: Array) -> Array:
        """Return dty * tx * softplus''(x), where softplus'' = sigmoid' = sigmoid (1 - sigmoid)."""
        slope = self.backend.sigmoid(x)
        return dty * tx * (slope * (1 - slope))
