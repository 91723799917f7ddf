"""Compare a gradient with numerical derivatives, for any function.

    rows = check(lambda: (t**3).sum(), lambda: {"t": 3 * t**2}, {"t": t})

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

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from minigan import backends
from minigan.backends import Backend
from minigan.checking.rows import Row

STEP = {"central": 1e-5, "complex": 1e-20}
TOLERANCE = {"central": 1e-7, "complex": 1e-12}
WHOLE = 1e-6  # the tolerance of networks and steps: roundings add up along the way
EXACT = 1e-12  # float64 against another order of the same sums
EPS = 2.0**-52
LENGTH = 8.0  # of a random direction


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
        backend=backends.reference() if backend is None else backend,
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
    backend: Backend

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
