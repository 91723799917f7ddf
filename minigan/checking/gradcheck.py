"""Is a derivative right? Ask the function itself: move an input a little, and see how much the value moves.

    for row in gradcheck.check_layer(Tanh(), x):
        print(row)

`check` compares any gradient with numerical derivatives (see `derivatives`, which explains them); `check_layer`,
`check_network`, `check_loss`, `check_step` and `check_penalty` set it up for each part of a GAN. All work in float64,
on a copy, or put back what they move.

The value. A layer's y is an array, but a gradient belongs to a number: f = <c, y>, with a RANDOM cotangent c. With
c = 1 everywhere, f = sum(y), whole classes of mistakes pass: behind a batch norm sum(y) is constant, so that dx = 0 and
dx times 37 both look right, and a transposed or permuted gradient has the same sum.
"""

import copy
import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from minigan import backends, game
from minigan.checking.derivatives import WHOLE, check
from minigan.checking.rows import Row, compare, digest, table
from minigan.layers import Layer
from minigan.layers.base import Grads
from minigan.losses import Loss
from minigan.optim import Optimizer
from minigan.penalties import Penalty

L = TypeVar("L", bound=Layer)

__all__ = [
    "PLAYERS",
    "WHOLE",
    "Recorder",
    "Row",
    "check",
    "check_layer",
    "check_loss",
    "check_network",
    "check_penalty",
    "check_step",
    "compare",
    "digest",
    "keeper",
    "random_cotangent",
    "randomize",
    "run_step",
    "table",
]


def random_cotangent(rng, shape) -> np.ndarray:
    return rng.standard_normal(shape)


def check_layer(
    layer: Layer,
    x,
    *,
    train: bool = True,
    labels=None,
    method: str = "central",
    cotangent: Callable = random_cotangent,
    rng: np.random.Generator | None = None,
    subject: str | None = None,
    **options,
) -> list[Row]:
    """dx and the gradient of every parameter, against the derivatives of f = <c, layer.forward(x)>.

    Works on a float64 copy. Buffers are put back before each pass, so that batch norm's statistics stay and dropout
    draws the same mask. `options` are those of `check`.
    """
    rng = np.random.default_rng(0) if rng is None else rng
    backend = layer.backend
    exact = _copy(layer)
    x = backend.asarray(backend.to_numpy(x).astype(np.float64))
    put_back = keeper(exact)
    how = {"train": train} | ({} if labels is None else {"labels": labels})
    c = backend.asarray(cotangent(rng, exact.forward(x, **how)[0].shape))
    put_back()

    def gradient():
        put_back()
        _, cache = exact.forward(x, **how)
        dx, grads = exact.backward(c.copy(), cache)
        return {"x": dx, **grads}

    moving, moving_x, put_back_moving = exact, x, put_back
    if method == "complex":
        moving, moving_x = _copy(layer, np.complex128), backend.asarray(x, dtype=np.complex128)
        put_back_moving = keeper(moving)

    def value():
        put_back_moving()
        return c * moving.forward(moving_x, **how)[0]

    return check(
        value,
        gradient,
        {"x": moving_x, **moving.params},
        subject=subject or repr(layer),
        method=method,
        rng=rng,
        backend=backend,
        **options,
    )


def check_network(network: Layer, x, *, tolerance: float | None = None, subject: str | None = None, **options):
    """`check_layer` for a whole network, with a whole network's tolerance."""
    if tolerance is None and options.get("method") != "complex":
        tolerance = WHOLE
    return check_layer(network, x, tolerance=tolerance, subject=subject or "network", **options)


def check_loss(loss: Loss, real_logits, fake_logits, *, backend=None, **options) -> list[Row]:
    """Both players' gradients of the logits against the derivatives of their losses, on the backend."""
    backend = backend or backends.reference()
    loss, options = loss.to(backend), {"backend": backend, **options}
    real, fake = (backend.asarray(np.array(l, np.float64)) for l in (real_logits, fake_logits))
    name = options.pop("subject", loss.name)
    if options.get("method") == "complex":
        moving_real, moving_fake = real.astype(complex), fake.astype(complex)
    else:
        moving_real, moving_fake = real, fake
    rows = check(
        lambda: loss.discriminator(moving_real, moving_fake)[0],
        lambda: dict(zip(("real logits", "fake logits"), loss.discriminator(real, fake)[1:], strict=True)),
        {"real logits": moving_real, "fake logits": moving_fake},
        subject=f"{name}: discriminator",
        **options,
    )
    return rows + check(
        lambda: loss.generator(moving_fake)[0],
        lambda: {"fake logits": loss.generator(fake)[1]},
        {"fake logits": moving_fake},
        subject=f"{name}: generator",
        **options,
    )


def check_penalty(penalty: Callable, D: Layer, *, tolerance: float = WHOLE, subject: str = "penalty", **options):
    """The weight gradients of `penalty(D) -> (value, grads)` against the derivatives of its value."""
    D = _copy(D)
    put_back = keeper(D)

    def run(which):
        put_back()
        return penalty(D)[which]

    return check(
        lambda: run(0),
        lambda: run(1),
        D.params,
        subject=subject,
        tolerance=tolerance,
        backend=D.backend,
        **options,
    )


def check_step(
    which: str,
    G: Layer,
    D: Layer,
    real,
    z,
    loss: Loss,
    *,
    train: bool = True,
    labels=None,
    penalty: Penalty | None = None,
    tolerance: float = WHOLE,
    subject: str | None = None,
    **options,
) -> list[Row]:
    """The gradients that a whole step hands to its optimizers, against the derivatives of the player's true loss.

    `which` is "discriminator", "generator" or "simultaneous": the functions of `game`, run as they are, with optimizers
    that record instead of moving anything. The true loss is the plain sentence: noise, fakes, logits, loss. Dropout has
    the same masks in both, since the networks are called in the same order and its counters are put back. With
    train=False both players compute with their running statistics and drop nothing.
    """
    if which not in (*PLAYERS.values(), "simultaneous"):
        raise ValueError(f"a step is discriminator, generator or simultaneous, got {which!r}")
    backend = G.backend
    G, D = _copy(G), _copy(D)
    real, z = (backend.asarray(backend.to_numpy(a).astype(np.float64)) for a in (real, z))
    put_back = keeper(G, D)
    as_asked = (lambda network: network) if train else _Evaluating

    def gradient():
        put_back()
        opt_g, opt_d = Recorder(), Recorder()
        run_step(which, as_asked(G), as_asked(D), opt_g, opt_d, real, z, loss, labels, penalty)
        grads = {}
        for player, optimizer in (("G", opt_g), ("D", opt_d)):
            grads |= {f"{player} {name}": grad for name, grad in (optimizer.grads or {}).items()}
        return grads

    def play():
        put_back()
        fake = G.forward(z, train, labels=labels)[0]
        real_logits = None if which == "generator" else D.forward(real, train, labels=labels)[0]
        return fake, real_logits, D.forward(fake, train, labels=labels)[0]

    def d_value():
        fake, *logits = play()
        value = loss.discriminator(*logits)[0]
        return value if penalty is None else value + penalty(as_asked(D), real, fake, labels)[0]

    rows = []
    for player, network, value in (("D", D, d_value), ("G", G, lambda: loss.generator(play()[2])[0])):
        if which in (PLAYERS[player], "simultaneous"):
            rows += check(
                value,
                gradient,
                {f"{player} {name}": p for name, p in network.params.items()},
                subject=subject or f"{which} step",
                tolerance=tolerance,
                backend=backend,
                **options,
            )
    return rows


PLAYERS = {"D": "discriminator", "G": "generator"}


class Recorder(Optimizer):
    """An optimizer that keeps the gradients and moves nothing."""

    grads: Grads | None = None

    def __init__(self):
        """Needs no network, because nothing moves."""

    def step(self, grads: Grads) -> None:
        self.grads = grads


def run_step(which: str, G, D, opt_g, opt_d, real, z, loss: Loss, labels=None, penalty: Penalty | None = None) -> dict:
    """The step of that name in `game`."""
    if which == "discriminator":
        return game.discriminator_step(G, D, opt_d, real, z, loss, labels, penalty)
    if which == "generator":
        return game.generator_step(G, D, opt_g, z, loss, labels)
    return game.simultaneous_step(G, D, opt_d, opt_g, real, z, loss, labels, penalty)


class _Evaluating:
    """A network that computes with train=False, whatever it is asked."""

    def __init__(self, network):
        self.network = network

    def forward(self, x, train=True, track=True, labels=None):
        return self.network.forward(x, train=False, track=False, labels=labels)

    def __getattr__(self, name):
        return getattr(self.network, name)


def randomize(network: L, rng: np.random.Generator) -> L:
    """The network with every parameter and statistic drawn anew, in place; returns it.

    A fresh network hides mistakes: biases are 0, gammas 1, running means 0, and DCGAN's weights are so small that all
    derivatives are. Here no number is special: weights keep signals at about their size, the others are near their
    usual values.
    """

    def draw(name, shape):
        kind = name.rpartition(".")[2]
        if kind == "w":
            return rng.standard_normal(shape) / math.sqrt(math.prod(shape[:-1]))
        if kind == "var":
            return rng.uniform(0.5, 2, shape)
        return (kind == "gamma") + 0.3 * rng.standard_normal(shape)

    for tensors in (network.params, network.buffers):
        for name, value in tensors.items():
            if value.dtype.kind == "f":
                value[...] = network.backend.asarray(draw(name, value.shape), dtype=value.dtype)
    network.refresh_buffers()
    return network


def _copy(layer: L, dtype=np.float64) -> L:
    return copy.deepcopy(layer).to(layer.backend, dtype)


def keeper(*networks: Layer) -> Callable:
    """A function that puts every buffer back to what it is now."""
    kept = [(b, net.backend.to_numpy(b).copy(), net.backend) for net in networks for b in net.buffers.values()]

    def put_back():
        for buffer, value, backend in kept:
            buffer[...] = value if isinstance(buffer, np.ndarray) else backend.asarray(value)  # counters: on the host

    return put_back
