"""Is a derivative right? Ask the function itself: move an input a little, and see how much the value moves.

    for row in gradcheck.check_layer(Tanh(), x):
        print(row)

`check` compares any gradient with numerical derivatives; `check_layer`, `check_network`, `check_loss`, `check_step` and
`check_penalty` set it up for each part of a GAN. All work in float64, on a copy, or put back what they move.

The value. A layer's y is an array, but a gradient belongs to a number: f = <c, y>, with a RANDOM cotangent c. With
c = 1 everywhere, f = sum(y), whole classes of mistakes pass: behind a batch norm sum(y) is constant, so that dx = 0 and
dx times 37 both look right, and a transposed or permuted gradient has the same sum.

Two numerical derivatives along a direction d:

    central    (f(T + h d) - f(T - h d)) / 2h      error about h^2 f'''/6 + eps |f|/h
    complex    Im f(T + i h d) / h                 error about eps: nothing is subtracted

h = 1e-5 balances the two errors of the first (its best h is about eps^(1/3) = 6e-6) and leaves about 1e-10; the
tolerance of 1e-7 for a layer and 1e-6 for a whole step stand well above that and far below any mistake. The complex
step (Squire and Trapp 1998) has h = 1e-20 and a tolerance of 1e-12, but it needs a function that is analytic and a
backend that takes complex128: the reference. Where y is an array, f(T + h d) - f(T - h d) is summed after the
subtraction, which keeps the terms that did not move out of the rounding.

The directions. Each coordinate by itself in a small tensor; in a large one random directions: an error e in the
gradient shows as <e, d>, in proportion to |e|, against <gradient, d>, in proportion to |gradient|, wherever the error
may be. All directions have the same length, lest h d grow with the tensor and the quotient's error with it.

The relative error of a tensor is max |analytic - numeric| / scale, where scale is the largest derivative of that tensor
(element by element would divide rounding by rounding wherever a derivative is about 0), but at least what numerical
derivatives can resolve to the tolerance: (rounding of f) / h / tolerance. A gradient that is exactly zero, as that of a
bias in front of a batch norm, passes if the numerical one vanishes to rounding, and nothing else does.

Kinks. Where a leaky unit's input is within h of 0, the difference quotient mixes two slopes; a smaller h mends that,
and so h/10 and h/100 are tried before a derivative is called wrong. Where it is exactly 0 there is no derivative: the
one-sided quotients (f(T + hd) - f(T)) / h and (f(T) - f(T - hd)) / h differ and go on differing. That is a "kink", and
not a failure, but only if the same gradient proves right at a point nearby: kinks are isolated, mistakes are not.
"""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from minigan import backends, game
from minigan.layers import Layer
from minigan.losses import Loss

STEP = {"central": 1e-5, "complex": 1e-20}
TOLERANCE = {"central": 1e-7, "complex": 1e-12}
WHOLE = 1e-6  # the tolerance of networks and steps: roundings add up along the way
EPS = 2.0**-52
LENGTH = 8.0  # of a random direction


@dataclass(frozen=True)
class Row:
    """What one comparison found. `analytic` is the value under test, `numeric` what it is measured against."""

    subject: str
    tensor: str
    method: str
    compared: int  # how many numbers
    error: float  # the worst relative one
    where: str
    analytic: float
    numeric: float
    verdict: str  # "right", "wrong" or "kink"
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return self.verdict != "wrong"

    def __str__(self) -> str:
        text = f"{self.subject}, {self.tensor}: {self.verdict}, worst relative error {self.error:.1e}"
        if self.verdict == "right":
            return text
        return f"{text} at {self.where}: {self.analytic:.9g} by hand, {self.numeric:.9g} by {self.method}"


# ---------------------------------------------------------------- any function


def check(
    value: Callable,
    gradient: Callable,
    tensors: dict,
    *,
    subject: str = "function",
    method: str = "central",
    tolerance: float | None = None,
    step: float | None = None,
    coordinates: int = 64,
    directions: int = 4,
    rng: np.random.Generator | None = None,
    backend=None,
) -> list[Row]:
    """One row for each tensor: is `gradient()[name]` the derivative of `value()` with respect to `tensors[name]`?

    value() gives a number, or an array of the terms whose sum is meant; gradient() the dict of the sum's gradients.
    Both read the arrays in `tensors`, which are moved in place and put back bit for bit. A tensor of at most
    `coordinates` numbers is tried in each, a larger one along so many random `directions`. With method="complex" the
    tensors are complex128, and value() follows them.
    """
    probe = _Probe(
        value,
        tensors,
        method,
        tolerance=TOLERANCE[method] if tolerance is None else tolerance,
        step=STEP[method] if step is None else step,
        coordinates=coordinates,
        directions=directions,
        rng=np.random.default_rng(0) if rng is None else rng,
        backend=backends.load("numpy") if backend is None else backend,
    )
    rows = probe.rows(subject, gradient())
    if any(row.verdict == "kink" for row in rows) and not probe.right_nearby(gradient):
        rows = [replace(row, verdict="wrong") if row.verdict == "kink" else row for row in rows]
    return rows


@dataclass
class _Probe:
    """One check at work: how the value is moved and measured."""

    value: Callable
    tensors: dict
    method: str
    tolerance: float
    step: float
    coordinates: int
    directions: int
    rng: np.random.Generator
    backend: object

    def terms(self) -> np.ndarray:
        return np.asarray(self.backend.to_numpy(self.value()))

    def rows(self, subject: str, grads: dict) -> list[Row]:
        base = self.terms()
        # What f cannot resolve: its rounding, which the central difference divides by h. 8 and 64 stand for the many
        # operations that went into it.
        noise = np.linalg.norm(np.abs(base)) * EPS * (8 / self.step if self.method == "central" else 64)
        return [self.row(subject, name, grads.get(name), base, noise) for name in self.tensors]

    def row(self, subject, name, grad, base, noise) -> Row:
        start, T = time.perf_counter(), self.tensors[name]

        def row(error, where, analytic, numeric, verdict, compared=0):
            seconds = time.perf_counter() - start
            return Row(subject, name, self.method, compared, error, where, analytic, numeric, verdict, seconds)

        if grad is None or grad.shape != T.shape:
            came = "no gradient" if grad is None else f"a gradient of shape {grad.shape}"
            return row(math.inf, f"{came} for {T.shape}", math.nan, math.nan, "wrong")
        if grad.dtype != np.float64:
            return row(math.inf, f"a gradient of {grad.dtype}", math.nan, math.nan, "wrong")
        grad, original = self.backend.to_numpy(grad), self.backend.to_numpy(T).copy()
        if not np.isfinite(grad).all():
            at = np.argwhere(~np.isfinite(grad))[0]
            return row(math.inf, str([int(i) for i in at]), float(grad[tuple(at)]), math.nan, "wrong")
        probes = self.probes(T.shape)
        analytic = np.array([np.sum(grad[at] * d) for _, at, d in probes])
        numeric = np.array([self.slope(T, original, at, d, self.step) for _, at, d in probes])
        scale = max(np.abs(analytic).max(), np.abs(numeric).max(), noise / self.tolerance, 1e-300)
        kinks = []
        for k, (_, at, d) in enumerate(probes):
            if self.method == "central" and not self.agree(analytic[k], numeric[k], scale):
                for h in (self.step / 10, self.step / 100):
                    finer = self.slope(T, original, at, d, h)
                    if self.agree(analytic[k], finer, scale):
                        numeric[k] = finer
                        break
                else:
                    left, right = self.one_sided(T, original, at, d, self.step / 100, base)
                    if abs(right - left) > 10 * self.tolerance * scale + 100 * noise:
                        kinks.append(k)
        errors = np.abs(analytic - numeric) / scale
        errors[np.isnan(errors)] = math.inf
        sound = [k for k in range(len(probes)) if k not in kinks]
        worst = max(sound or kinks, key=lambda k: errors[k])
        verdict = "right" if not kinks else "kink"
        if sound and not errors[worst] <= self.tolerance:
            verdict = "wrong"
        elif kinks:
            worst = max(kinks, key=lambda k: errors[k])
        return row(
            float(errors[worst]), probes[worst][0], float(analytic[worst]), float(numeric[worst]), verdict, len(probes)
        )

    def agree(self, analytic, numeric, scale) -> bool:
        return abs(analytic - numeric) <= self.tolerance * scale

    def probes(self, shape) -> list[tuple]:
        """(name, index, d): the entry at that index moves by h, or all move by h d."""
        if math.prod(shape) <= self.coordinates:
            return [(str([int(i) for i in at]), at, 1.0) for at in np.ndindex(shape)]
        return [(f"direction {k}", ..., self.direction(shape)) for k in range(self.directions)]

    def direction(self, shape) -> np.ndarray:
        d = self.rng.standard_normal(shape)
        return d * (LENGTH / np.linalg.norm(d))

    def moved(self, T, original, at, change) -> np.ndarray:
        """The terms of f where T is moved by that much at that index; T itself is put back."""
        there = original.copy()
        there[at] += change
        T[...] = self.backend.asarray(there)
        try:
            return self.terms()
        finally:
            T[...] = self.backend.asarray(original)

    def slope(self, T, original, at, d, h) -> float:
        if self.method == "complex":
            return float(self.moved(T, original, at, 1j * h * d).imag.sum() / h)
        return float((self.moved(T, original, at, h * d) - self.moved(T, original, at, -h * d)).sum() / (2 * h))

    def one_sided(self, T, original, at, d, h, base) -> tuple[float, float]:
        right = (self.moved(T, original, at, h * d) - base).sum() / h
        left = (base - self.moved(T, original, at, -h * d)).sum() / h
        return float(left), float(right)

    def right_nearby(self, gradient) -> bool:
        """Is every gradient right, and no kink in sight, at a point near this one? Three points are tried."""
        originals = {name: self.backend.to_numpy(T).copy() for name, T in self.tensors.items()}
        try:
            for _ in range(3):
                for name, T in self.tensors.items():
                    nudge = 0.01 * self.rng.standard_normal(T.shape)
                    T[...] = self.backend.asarray(originals[name] + nudge)
                if all(row.verdict == "right" for row in self.rows("", gradient())):
                    return True
            return False
        finally:
            for name, T in self.tensors.items():
                T[...] = self.backend.asarray(originals[name])


# ---------------------------------------------------------------- layers, networks, losses, steps


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


def check_loss(loss: Loss, real_logits, fake_logits, **options) -> list[Row]:
    """Both players' gradients of the logits against the derivatives of their losses."""
    real, fake = (np.array(l, np.float64) for l in (real_logits, fake_logits))
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
        run_step(which, as_asked(G), as_asked(D), opt_g, opt_d, real, z, loss, labels)
        grads = {}
        for player, optimizer in (("G", opt_g), ("D", opt_d)):
            grads |= {f"{player} {name}": grad for name, grad in (optimizer.grads or {}).items()}
        return grads

    def logits():
        put_back()
        fake = G.forward(z, train, labels=labels)[0]
        real_logits = None if which == "generator" else D.forward(real, train, labels=labels)[0]
        return real_logits, D.forward(fake, train, labels=labels)[0]

    rows = []
    for player, network, value in (
        ("D", D, lambda: loss.discriminator(*logits())[0]),
        ("G", G, lambda: loss.generator(logits()[1])[0]),
    ):
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


class Recorder:
    """An optimizer that keeps the gradients and moves nothing."""

    grads = None

    def step(self, grads: dict) -> None:
        self.grads = grads


def run_step(which: str, G, D, opt_g, opt_d, real, z, loss: Loss, labels=None) -> dict:
    """The step of that name in `game`."""
    if which == "discriminator":
        return game.discriminator_step(G, D, opt_d, real, z, loss, labels)
    if which == "generator":
        return game.generator_step(G, D, opt_g, z, loss, labels)
    return game.simultaneous_step(G, D, opt_d, opt_g, real, z, loss, labels)


class _Evaluating:
    """A network that computes with train=False, whatever it is asked."""

    def __init__(self, network):
        self.network = network

    def forward(self, x, train=True, track=True, labels=None):
        return self.network.forward(x, train=False, track=False, labels=labels)

    def __getattr__(self, name):
        return getattr(self.network, name)


def randomize(network: Layer, rng: np.random.Generator) -> Layer:
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
        if kind in ("u", "v"):  # spectral norm's gradient holds where these are the singular vectors
            w = network.backend.to_numpy(network.params[name[:-1] + "w"])
            left, _, right = np.linalg.svd(w.reshape(-1, w.shape[-1]), full_matrices=False)
            return left[:, 0] if kind == "u" else right[0]
        return (kind == "gamma") + 0.3 * rng.standard_normal(shape)

    for tensors in (network.params, network.buffers):
        for name, value in tensors.items():
            if value.dtype.kind == "f":
                value[...] = network.backend.asarray(draw(name, value.shape), dtype=value.dtype)
    return network


def _copy(layer: Layer, dtype=np.float64) -> Layer:
    backend = layer.backend
    return copy.deepcopy(layer, {id(backend): backend}).to(backend, dtype)  # a module is shared, not copied


def keeper(*networks: Layer) -> Callable:
    """A function that puts every buffer back to what it is now."""
    kept = [(b, net.backend.to_numpy(b).copy(), net.backend) for net in networks for b in net.buffers.values()]

    def put_back():
        for buffer, value, backend in kept:
            buffer[...] = value if isinstance(buffer, np.ndarray) else backend.asarray(value)  # counters: on the host

    return put_back


# ---------------------------------------------------------------- comparisons with a known value, and the table


def compare(subject: str, tensor: str, method: str, got, expected, tolerance: float) -> Row:
    """A row for numbers whose right values are known: the worst |got - expected| / max |expected|."""
    got, expected = np.asarray(got), np.asarray(expected)
    if got.shape != expected.shape:
        where = f"shape {got.shape} for {expected.shape}"
        return Row(subject, tensor, method, 0, math.inf, where, math.nan, math.nan, "wrong")
    differences = np.abs(got.astype(np.float64) - expected) / max(np.abs(expected).max(), 1e-300)
    differences = np.where(np.isnan(differences), math.inf, differences)
    at = np.unravel_index(differences.argmax(), got.shape)
    error = float(differences[at])
    verdict = "right" if error <= tolerance else "wrong"
    where = str([int(i) for i in at])
    return Row(subject, tensor, method, got.size, error, where, float(got[at]), float(expected[at]), verdict)


def table(rows: list[Row]) -> str:
    """The rows as aligned text, and below it what was found wrong, with both values."""
    lines = [f"{'subject':<44}{'tensor':<16}{'compared':>8}{'worst error':>13}  {'method':<12}{'verdict':<9}     time"]
    for row in rows:
        lines.append(
            f"{row.subject[:43]:<44}{row.tensor[:15]:<16}{row.compared:>8}{row.error:>13.1e}  {row.method:<12}"
            f"{row.verdict:<9}{1000 * row.seconds:>6.0f} ms"
        )
    return "\n".join([*lines, *(str(row) for row in rows if not row.ok)])


def digest(rows: list[Row]) -> list[Row]:
    """The rows of one subject and method as one: its worst tensor, with the numbers and the time of all."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault((row.subject, row.method), []).append(row)
    result = []
    for group in groups.values():
        worst = max(group, key=lambda row: (not row.ok, row.verdict == "kink", row.error))
        compared, seconds = sum(row.compared for row in group), sum(row.seconds for row in group)
        result.append(replace(worst, compared=compared, seconds=seconds))
    return result
