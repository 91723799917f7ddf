"""Compare the gradients of layers, networks, losses, penalties and training steps with numerical derivatives.

    for row in gradcheck.check_layer(Tanh(), x):
        print(row)

`check` compares any gradient with numerical derivatives, which `derivatives` explains. `check_layer`, `check_network`,
`check_loss`, `check_step` and `check_penalty` call it for each part of a GAN. They compute in float64. They work on a
copy, or restore what they change.

The value of a layer. The output y is an array, but a gradient is defined for a number. The checks therefore
differentiate f = <c, y> with a RANDOM cotangent c. A cotangent of ones, which gives f = sum(y), misses whole classes of
mistakes. For example, the sum of a batch norm's output is constant, so dx = 0 and dx times 37 both pass, and a
transposed or permuted gradient has the same sum.
"""

import copy
import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from minigan import backends, game
from minigan.checking.derivatives import NETWORK_TOLERANCE, check
from minigan.checking.rows import Row, compare, digest, table
from minigan.layers import Layer
from minigan.layers.base import Grads
from minigan.losses import Loss
from minigan.optim import Optimizer
from minigan.penalties import Penalty

L = TypeVar("L", bound=Layer)

__all__ = [
    "NETWORK_TOLERANCE",
    "PLAYERS",
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
    "random_cotangent",
    "randomize",
    "run_step",
    "save_buffers",
    "table",
]


def random_cotangent(rng, shape) -> np.ndarray:
    """Draw a cotangent from the standard normal distribution."""
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
    """Compare dx and the gradient of every parameter with the derivatives of f = <c, layer.forward(x)>.

    Works on a float64 copy of the layer. Buffers are restored before each pass, so that batch norm keeps its running
    statistics and dropout draws the same mask. `options` are passed to `check`.
    """
    rng = np.random.default_rng(0) if rng is None else rng
    backend = layer.backend
    exact = _copy(layer)
    x = backend.asarray(backend.to_numpy(x).astype(np.float64))
    restore = save_buffers(exact)
    kwargs = {"train": train} | ({} if labels is None else {"labels": labels})
    c = backend.asarray(cotangent(rng, exact.forward(x, **kwargs)[0].shape))
    restore()

    def gradient():
        restore()
        _, cache = exact.forward(x, **kwargs)
        dx, grads = exact.backward(c.copy(), cache)
        return {"x": dx, **grads}

    moving, moving_x, restore_moving = exact, x, restore
    if method == "complex":
        moving, moving_x = _copy(layer, np.complex128), backend.asarray(x, dtype=np.complex128)
        restore_moving = save_buffers(moving)

    def value():
        restore_moving()
        return c * moving.forward(moving_x, **kwargs)[0]

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
    """Run `check_layer` on a network, with the tolerance of networks."""
    if tolerance is None and options.get("method") != "complex":
        tolerance = NETWORK_TOLERANCE
    return check_layer(network, x, tolerance=tolerance, subject=subject or "network", **options)


def check_loss(loss: Loss, real_logits, fake_logits, *, backend=None, **options) -> list[Row]:
    """Compare the logits' gradients of both players' losses with the derivatives of the losses."""
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
        lambda: loss.generator(moving_fake, moving_real)[0],
        lambda: {"fake logits": loss.generator(fake, real)[1]},
        {"fake logits": moving_fake},
        subject=f"{name}: generator",
        **options,
    )


def check_penalty(
    penalty: Callable, D: Layer, *, tolerance: float = NETWORK_TOLERANCE, subject: str = "penalty", **options
) -> list[Row]:
    """Compare the weight gradients of `penalty(D) -> (value, grads)` with the derivatives of its value."""
    D = _copy(D)
    restore = save_buffers(D)

    def run(which):
        restore()
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
    matching: float = 0.0,
    tolerance: float = NETWORK_TOLERANCE,
    subject: str | None = None,
    **options,
) -> list[Row]:
    """Compare the gradients that a whole step passes to its optimizers with the derivatives of the player's loss.

    `which` is "discriminator", "generator" or "simultaneous". It selects a function of `game`, which runs unchanged
    with optimizers that record the gradients and change no weight. The expected loss is computed from its definition:
    noise, fakes, logits, loss. Dropout has the same masks in both computations, because the networks are called in the
    same order and the counters are restored. With train=False both players use their running statistics and no dropout.
    Feature matching, with the share `matching`, is computed from its definition as well, for train=True. Raises
    ValueError if `which` has another value.
    """
    if which not in (*PLAYERS.values(), "simultaneous"):
        raise ValueError(f"a step is discriminator, generator or simultaneous, got {which!r}")
    backend = G.backend
    G, D = _copy(G), _copy(D)
    real, z = (backend.asarray(backend.to_numpy(a).astype(np.float64)) for a in (real, z))
    restore = save_buffers(G, D)
    in_mode = (lambda network: network) if train else _EvalMode

    def gradient():
        restore()
        opt_g, opt_d = Recorder(), Recorder()
        run_step(which, in_mode(G), in_mode(D), opt_g, opt_d, real, z, loss, labels, penalty, matching)
        grads = {}
        for player, optimizer in (("G", opt_g), ("D", opt_d)):
            grads |= {f"{player} {name}": grad for name, grad in (optimizer.grads or {}).items()}
        return grads

    fake_labels = None if labels is None else backend.asarray(np.resize(backend.to_numpy(labels), len(z)))

    def forward_passes():
        restore()
        fake = G.forward(z, train, labels=fake_labels)[0]
        if which == "generator":  # D sees the fakes first, and the real batch only if the loss needs it
            fake_logits = D.forward(fake, train, labels=fake_labels)[0]
            return fake, D.forward(real, train, labels=labels)[0] if loss.compares else None, fake_logits
        real_logits = D.forward(real, train, labels=labels)[0]
        return fake, real_logits, D.forward(fake, train, labels=fake_labels)[0]

    def d_value():
        fake, *logits = forward_passes()
        value = loss.discriminator(*logits)[0]
        return value if penalty is None else value + penalty(in_mode(D), real, fake, labels)[0]

    def g_value():
        fake, real_logits, fake_logits = forward_passes()
        value = loss.generator(fake_logits, real_logits)[0]
        if not matching:
            return value
        features = []
        for x, its_labels in ((fake, fake_labels), (real, labels)):
            for layer in D.layers[:-1]:  # the input of the last layer
                x = layer.forward(x, train, **({"labels": its_labels} if layer.takes_labels else {}))[0]
            features.append(x.sum(axis=0) / len(x))
        return (1 - matching) * value + matching * ((features[0] - features[1]) ** 2).sum()

    rows = []
    for player, network, value in (("D", D, d_value), ("G", G, g_value)):
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
    """An optimizer that records the gradients and changes no weight."""

    grads: Grads | None = None

    def __init__(self):
        """Create the recorder. It needs no network."""

    def step(self, grads: Grads) -> None:
        """Record the gradients."""
        self.grads = grads


def run_step(
    which: str, G, D, opt_g, opt_d, real, z, loss: Loss, labels=None, penalty: Penalty | None = None, matching=0.0
) -> dict:
    """Run the step of `game` that `which` names, and return its report."""
    if which == "discriminator":
        return game.discriminator_step(G, D, opt_d, real, z, loss, labels, penalty)
    if which == "generator":
        return game.generator_step(G, D, opt_g, z, loss, labels, real, matching)
    return game.simultaneous_step(G, D, opt_d, opt_g, real, z, loss, labels, penalty, matching)


class _EvalMode:
    """A wrapper that always runs the network with train=False."""

    def __init__(self, network):
        self.network = network

    def forward(self, x, train=True, track=True, labels=None):
        return self.network.forward(x, train=False, track=False, labels=labels)

    def __getattr__(self, name):
        return getattr(self.network, name)


def randomize(network: L, rng: np.random.Generator) -> L:
    """Draw new random values for every parameter and running statistic, in place; return the network.

    A fresh network hides mistakes, because its biases and running means are 0, its scales are 1, and the weights of
    DCGAN are so small that all derivatives are small too. The random weights keep the scale of the signal, and the
    other tensors are close to their usual values.
    """

    def draw(name, shape):
        kind = name.rpartition(".")[2]
        if kind == "w":
            return rng.standard_normal(shape) / math.sqrt(math.prod(shape[:-1]))
        if kind == "var":
            return rng.uniform(0.5, 2, shape)
        return (kind in ("gamma", "g")) + 0.3 * rng.standard_normal(shape)

    for tensors in (network.params, network.buffers):
        for name, value in tensors.items():
            if value.dtype.kind == "f":
                value[...] = network.backend.asarray(draw(name, value.shape), dtype=value.dtype)
    network.refresh_buffers()
    return network


def _copy(layer: L, dtype=np.float64) -> L:
    return copy.deepcopy(layer).to(layer.backend, dtype)


def save_buffers(*networks: Layer) -> Callable:
    """Save the values of all buffers; return a function that restores them."""
    saved = [(b, net.backend.to_numpy(b).copy(), net.backend) for net in networks for b in net.buffers.values()]

    def restore():
        for buffer, value, backend in saved:  # counters are NumPy arrays on every backend
            buffer[...] = value if isinstance(buffer, np.ndarray) else backend.asarray(value)

    return restore
