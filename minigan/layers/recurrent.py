"""Recurrent layers of sequences (N, T, F): GRU, LSTM, and two of them in both directions of time.

A recurrent layer reads a sequence step by step. It keeps a state h, computes the next one from the
state and the input x_t of this step, and uses the same weights in every step. With H units:

    GRU     v = x_t @ w_x + b_x,  q = h @ w_h + b_h                       three parts each: r, z, n
            r = sigmoid(v_r + q_r)                                        reset gate
            z = sigmoid(v_z + q_z)                                        update gate
            h = (1 - z) * tanh(v_n + r * q_n) + z * h

    LSTM    q = x_t @ w_x + b_x + h @ w_h + b_h                           four parts: i, f, g, o
            c = sigmoid(q_f) * c + sigmoid(q_i) * tanh(q_g)               forget and input gate
            h = sigmoid(q_o) * tanh(c)                                    output gate

x_t (N, F), h and c (N, H), w_x (F, G), w_h (H, G), b_x and b_h (G,) with G = 3 H or 4 H. Order of the
parts, gates and biases are those of PyTorch's nn.GRU and nn.LSTM (GRU: Cho et al. 2014, with the reset
gate after the product; LSTM: Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000).

The loop over time, and the way back through it, are operations of the backend, because a loop of layers
in Python would spend most of its time on calls. `minigan/backends/recurrence.py` is the one to read: it
has these equations, the loop, and the way back a few lines below.

Unequal lengths. With `masked=True`, x (N, T, F + 1) has the mask m as its last feature: 1 for a step
that counts, and 0 for one that is only padding. A step is h + m * (next h - h). So where m is 0, the
state is carried on unchanged, and so is the output y: after the end of a sequence, y repeats the last
state. m may be any number between 0 and 1 and has a gradient, so that a generator can learn lengths.
The mask is the last feature of y too, because the next layer may need it.

Initial state. It is zero. With `initial=True`, x (N, T + 1, F) has a row in front that is no step, for
example of noise, and the initial state is x_0 @ w_0 + b_0.

These layers have no second derivatives. `penalties.r1_fd` needs none.
"""

from typing import Any, Self

import numpy as np

from minigan.backends import Array, Backend, RecurrentGradients, RecurrentWeights
from minigan.layers.base import Backward, Cache, Forward, Layer, expect_input
from minigan.layers.init import Init, glorot_uniform
from minigan.layers.sequential import Sequential


class Recurrent(Layer):
    """Base class of GRU and LSTM: all that does not depend on the equations of a step.

    x (N, T, n_in) -> y (N, T, n_units), the states after all steps, or with `last=True` the state
    after the last step, y (N, n_units). `masked` and `initial` are explained above.
    """

    gates: int  # G / H
    states: int  # arrays of a state: h, or h and c

    def __init__(
        self,
        n_in: int,
        n_units: int,
        *,
        last: bool = False,
        masked: bool = False,
        initial: bool = False,
        rng: np.random.Generator,
        init: Init = glorot_uniform,
    ):
        if masked and initial:
            raise ValueError("a masked layer starts from zero, because the first row of x has no mask: leave one out")
        G, S = self.gates * n_units, self.states * n_units
        params = {
            "w_x": init(rng, (n_in, G), n_in, n_units),  # the fans of one gate
            "w_h": init(rng, (n_units, G), n_units, n_units),
            "b_x": np.zeros(G, np.float32),
            "b_h": np.zeros(G, np.float32),
        }
        if initial:
            params |= {"w_0": init(rng, (n_in, S), n_in, n_units), "b_0": np.zeros(S, np.float32)}
        super().__init__(params)
        self.n_in, self.n_units, self.last, self.masked, self.initial = n_in, n_units, last, masked, initial

    def run(self, x: Array, start: Array, m: Array | None) -> tuple[Array, tuple[Array, ...]]:
        """Return y (N, T, H) and what `run_back` needs. The arguments are those of the backend's operations."""
        raise NotImplementedError

    def run_back(
        self, dy: Array, saved: tuple[Array, ...], m: Array | None, need_dx: bool, need_grads: bool
    ) -> RecurrentGradients:
        """Return the gradients of x, the weights, the initial state and the mask."""
        raise NotImplementedError

    def forward(self, x: Array, train: bool = True, track: bool = True) -> Forward:
        """Return y, and the cache (shape of the steps, mask or None, first row or None, what `run_back` needs)."""
        expect_input(self, x, ("N", "T", self.n_in + self.masked), self._advice())
        if x.shape[1] <= self.initial:
            raise ValueError(f"{type(self).__name__} expects at least one step, got x {tuple(x.shape)}: see initial")
        xp, p = self.backend.xp, self.params
        m, first = x[:, :, -1] if self.masked else None, x[:, 0] if self.initial else None
        steps = x[:, 1:] if self.initial else x[:, :, : self.n_in]  # (N, T, n_in)
        if first is None:
            start = xp.zeros((len(x), self.states * self.n_units), x.dtype)
        else:
            start = self.backend.matmul(first, p["w_0"]) + p["b_0"]  # x_0 @ w_0 + b_0
        y, saved = self.run(steps, start, m)
        cache = steps.shape, m, first, saved
        if self.last:
            return y[:, -1], cache
        return y if m is None else xp.concatenate([y, m[:, :, None]], axis=2), cache

    def backward(self, dy: Array, cache: Cache, need_dx: bool = True, need_grads: bool = True) -> Backward:
        """Return dx, and in grads those of the weights, which are sums over all steps, because these share them."""
        ((N, T, _), m, first, saved), xp, grads = cache, self.backend.xp, None
        if self.last:  # no other state is used
            dy_t = xp.zeros((N, T, self.n_units), dy.dtype)
            dy_t[:, -1] = dy
        else:
            dy_t = dy[:, :, : self.n_units]
        d = self.run_back(dy_t, saved, m, need_dx, need_grads)
        dx = d.x  # None if it is not needed
        if need_dx and first is not None:  # start = x_0 @ w_0 + b_0
            dx_0 = self.backend.matmul(d.start, self.params["w_0"].T)
            dx = xp.concatenate([dx_0[:, None], dx], axis=1)
        if need_dx and m is not None:  # y has the mask as its last feature, unless it is the last state
            dm = d.m if self.last else d.m + dy[:, :, -1]
            dx = xp.concatenate([dx, dm[:, :, None]], axis=2)
        if need_grads:
            assert d.weights is not None
            grads = d.weights._asdict()
            if first is not None:
                grads |= {"w_0": self.backend.matmul(first.T, d.start), "b_0": self.backend.sum_rows(d.start)}
        return dx, grads

    def weights(self) -> RecurrentWeights:
        """Return the weights of a step."""
        return RecurrentWeights(*(self.params[name] for name in RecurrentWeights._fields))

    def _advice(self) -> str:
        """Return the end of the message about a wrong shape."""
        mask = ", and the mask as the last feature" if self.masked else ""
        return f"a sequence has {self.n_in} features in each step{mask}"

    def __repr__(self) -> str:
        options = [name for name in ("last", "masked", "initial") if getattr(self, name)]
        return f"{type(self).__name__}({', '.join([f'{self.n_in} -> {self.n_units}', *options])})"


class GRU(Recurrent):
    """Gated recurrent unit, h = (1 - z) * n + z * h. The equations are at the top of this file.

    The update gate z keeps a unit of the state for many steps if it is close to 1, and the gradient of
    this unit then comes back through all of them.
    """

    gates, states = 3, 1

    def run(self, x: Array, start: Array, m: Array | None) -> tuple[Array, tuple[Array, ...]]:
        """Return y (N, T, H) and what `run_back` needs."""
        return self.backend.gru(x, self.weights(), start, m)

    def run_back(
        self, dy: Array, saved: tuple[Array, ...], m: Array | None, need_dx: bool, need_grads: bool
    ) -> RecurrentGradients:
        """Return the gradients of x, the weights, the initial state and the mask."""
        return self.backend.gru_grad(dy, saved, self.weights(), m, need_dx, need_grads)


class LSTM(Recurrent):
    """Long short-term memory, c = f * c + i * g and h = o * tanh(c). The equations are at the top of this file.

    y are the h of all steps. The initial state has h in its first half and c in its second one. b_x of
    the forget gate starts at 1 (Jozefowicz et al. 2015, section 3), so that a new layer remembers.
    """

    gates, states = 4, 2

    def __init__(self, n_in: int, n_units: int, **options: Any):
        super().__init__(n_in, n_units, **options)
        self.params["b_x"][n_units : 2 * n_units] = 1

    def run(self, x: Array, start: Array, m: Array | None) -> tuple[Array, tuple[Array, ...]]:
        """Return y (N, T, H) and what `run_back` needs."""
        return self.backend.lstm(x, self.weights(), start, m)

    def run_back(
        self, dy: Array, saved: tuple[Array, ...], m: Array | None, need_dx: bool, need_grads: bool
    ) -> RecurrentGradients:
        """Return the gradients of x, the weights, the initial state and the mask."""
        return self.backend.lstm_grad(dy, saved, self.weights(), m, need_dx, need_grads)


class Bidirectional(Layer):
    """Two recurrent layers for both directions of time, y = [forth(x), reversed(back(reversed(x)))].

    x (N, T, n_in) -> y (N, T, H1 + H2). y_t has the state of `forth` after the steps 0 ... t, and that of
    `back` after the steps T - 1 ... t. With `last`, y (N, H1 + H2) has the state of each layer after its
    last step, which is t = T - 1 and t = 0. With `masked`, x and y have the mask as their last feature.
    Both layers have the same n_in and options. The names of the parameters are those in
    `Sequential(forth, back)`. A discriminator may look at all steps at once, so that it can use this
    layer (Schuster and Paliwal 1997). A generator of one step after the other cannot.
    """

    def __init__(self, forth: Recurrent, back: Recurrent):
        options = [(layer.n_in, layer.last, layer.masked, layer.initial) for layer in (forth, back)]
        if options[0] != options[1] or forth.initial:
            raise ValueError(
                f"Bidirectional expects two recurrent layers with the same inputs and options, and without initial, "
                f"got {forth!r} and {back!r}"
            )
        self.forth, self.back, self.pair = forth, back, Sequential(forth, back)

    @property
    def params(self) -> dict[str, Array]:  # type: ignore[override]  # the layers' own, so not to be set
        """The parameters of both layers, by name."""
        return self.pair.params

    @property
    def buffers(self) -> dict[str, Array]:  # type: ignore[override]  # the same
        """The buffers of both layers, of which there are none."""
        return self.pair.buffers

    @property
    def backend(self) -> Backend:  # type: ignore[override]  # the same
        """The backend of both layers."""
        return self.pair.backend

    def forward(self, x: Array, train: bool = True, track: bool = True) -> Forward:
        """Return y and the caches of both layers."""
        y, cache = self.forth.forward(x, train, track)
        y_back, cache_back = self.back.forward(reversed_in_time(x), train, track)
        if self.forth.last:
            return self.backend.xp.concatenate([y, y_back], axis=1), (cache, cache_back)
        H = self.forth.n_units  # behind them is the mask, if there is one, which `back` returns too
        y = self.backend.xp.concatenate([y[:, :, :H], reversed_in_time(y_back)], axis=2)
        return y, (cache, cache_back)

    def backward(self, dy: Array, cache: Cache, need_dx: bool = True, need_grads: bool = True) -> Backward:
        """Return dx, the sum of those of both layers, and the gradients of both layers."""
        (cache, cache_back), H, xp = cache, self.forth.n_units, self.backend.xp
        dy_forth, dy_back = dy[..., :H], dy[..., H:]
        if not self.forth.last:
            dy_back = reversed_in_time(dy_back)
            if self.forth.masked:  # the mask of y is that of `back`
                dy_forth = xp.concatenate([dy_forth, xp.zeros_like(dy[:, :, -1:])], axis=2)
        dx, grads = self.forth.backward(dy_forth, cache, need_dx, need_grads)
        dx_back, grads_back = self.back.backward(dy_back, cache_back, need_dx, need_grads)
        if need_dx:
            assert dx is not None and dx_back is not None
            dx = dx + reversed_in_time(dx_back)
        if need_grads:
            grads = {f"{i}.{name}": g for i, of in enumerate((grads, grads_back)) for name, g in of.items()}
        return dx, grads

    def inner(self) -> tuple[Layer, ...]:
        """Return both layers."""
        return (self.forth, self.back)

    def leaves(self) -> list[Layer]:
        """Return the layers that store the parameters."""
        return self.pair.leaves()

    def to(self, backend: Backend | str, dtype: Any = None) -> Self:
        """Move both layers to a backend, pack the parameters and return this layer."""
        self.pair.to(backend, dtype)
        return self

    def __repr__(self) -> str:
        return f"Bidirectional({self.forth!r}, {self.back!r})"


def reversed_in_time(x: Array) -> Array:
    """Return the steps of x (N, T, F) in reverse order."""
    return x[:, ::-1]
