"""Compare a gradient with numerical derivatives, for any function.

    rows = check(lambda: (t**3).sum(), lambda: {"t": 3 * t**2}, {"t": t})

There are two methods for the numerical derivative along a direction d:

    central    (f(T + h d) - f(T - h d)) / 2h      error about h^2 f'''/6 + eps |f|/h
    complex    Im f(T + i h d) / h                 error about eps, because nothing is subtracted

Central differences use h = 1e-5. This step balances the two errors (the best h is about eps^(1/3) = 6e-6) and leaves an
error of about 1e-10. The tolerances of 1e-7 for a layer and 1e-6 for a whole step are well above this error, and far
below the error that a mistake causes. If f has an array of terms, f(T - h d) is subtracted from f(T + h d) before the
terms are summed, so that terms that do not change add no rounding error.

The complex step (Squire and Trapp 1998) uses h = 1e-20 and a tolerance of 1e-12. It needs an analytic function and a
backend that supports complex128, which is the reference backend.

Directions. A small tensor is checked one coordinate at a time. A large tensor is checked along random directions d. An
error e in the gradient changes the derivative <gradient, d> by <e, d>. For a random d, the typical sizes of these two
numbers are proportional to |gradient| and |e|, so an error is found wherever it is in the tensor. All directions have
the same length, so that the step h d, and with it the error of the difference quotient, does not grow with the size of
the tensor.

Relative error. The error of a tensor is max |analytic - numeric| / scale. The scale is the largest derivative of the
tensor, because an elementwise quotient would only compare rounding errors where a derivative is about 0. The scale is
at least (rounding error of f) / h / tolerance, the smallest derivative that the method can resolve to the tolerance. A
gradient of exactly zero, such as that of a bias before a batch norm, passes only if the numerical derivative is zero up
to rounding.

Kinks. If the input of a leaky ReLU is within h of 0, the difference quotient mixes the two slopes. A smaller step
avoids this, so h/10 and h/100 are tried before a derivative is reported as wrong. If the input is exactly 0, the
derivative does not exist: the one-sided quotients (f(T + hd) - f(T)) / h and (f(T) - f(T - hd)) / h differ for every h.
The verdict is then "kink", which is not a failure, provided that all gradients are right at a nearby point. This
condition separates kinks from mistakes, because a kink is isolated and a mistake is not.
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
NETWORK_TOLERANCE = 1e-6  # tolerance of networks and whole steps, where rounding errors accumulate
EXACT = 1e-12  # tolerance of float64 results that are summed in another order
EPS = 2.0**-52
LENGTH = 8.0  # norm of a random direction


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
    """Check that `gradient()[name]` is the derivative of `value()` with respect to `tensors[name]`, for each name.

    Returns one row for each tensor.

    `value` returns a number, or an array of terms whose sum is differentiated. `gradient` returns a dict with the
    gradients of that sum. Both read the arrays in `tensors`. The check changes these arrays in place and restores them
    bit for bit. A tensor with at most `coordinates` entries is checked in each entry, a larger tensor along
    `directions` random directions. With method="complex" the arrays in `tensors` are complex128, and `value` computes
    with them.
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
    """The arguments of one call of `check`, and the steps of the comparison."""

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
        """Return the terms of f on the host."""
        return np.asarray(self.backend.to_numpy(self.value()))

    def rows(self, subject: str, grads: dict) -> list[Row]:
        """Return one row for each tensor."""
        base = self.terms()
        # The rounding error of f, which the central difference divides by h. The factors 8 and 64 allow for the errors
        # of the many operations in f.
        noise = np.linalg.norm(np.abs(base)) * EPS * (8 / self.step if self.method == "central" else 64)
        return [self.row(subject, name, grads.get(name), base, noise) for name in self.tensors]

    def row(self, subject, name, grad, base, noise) -> Row:
        """Compare one gradient with the numerical derivatives along all probes."""
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
        numeric = np.array([self.derivative(T, original, at, d, self.step) for _, at, d in probes])
        scale = max(np.abs(analytic).max(), np.abs(numeric).max(), noise / self.tolerance, 1e-300)
        kinks = []
        for k, (_, at, d) in enumerate(probes):
            if self.method == "central" and not self.agree(analytic[k], numeric[k], scale):
                for h in (self.step / 10, self.step / 100):
                    finer = self.derivative(T, original, at, d, h)
                    if self.agree(analytic[k], finer, scale):
                        numeric[k] = finer
                        break
                else:
                    left, right = self.one_sided(T, original, at, d, self.step / 100, base)
                    if abs(right - left) > 10 * self.tolerance * scale + 100 * noise:
                        kinks.append(k)
        errors = np.abs(analytic - numeric) / scale
        errors[np.isnan(errors)] = math.inf
        smooth = [k for k in range(len(probes)) if k not in kinks]
        worst = max(smooth or kinks, key=lambda k: errors[k])
        verdict = "right" if not kinks else "kink"
        if smooth and not errors[worst] <= self.tolerance:
            verdict = "wrong"
        elif kinks:
            worst = max(kinks, key=lambda k: errors[k])
        return row(
            float(errors[worst]), probes[worst][0], float(analytic[worst]), float(numeric[worst]), verdict, len(probes)
        )

    def agree(self, analytic, numeric, scale) -> bool:
        """Return whether two derivatives are equal to the tolerance."""
        return abs(analytic - numeric) <= self.tolerance * scale

    def probes(self, shape) -> list[tuple]:
        """Return tuples (name, index, d): the step h d is added to the entries at the index."""
        if math.prod(shape) <= self.coordinates:
            return [(str([int(i) for i in at]), at, 1.0) for at in np.ndindex(shape)]
        return [(f"direction {k}", ..., self.direction(shape)) for k in range(self.directions)]

    def direction(self, shape) -> np.ndarray:
        """Draw a random direction of norm LENGTH."""
        d = self.rng.standard_normal(shape)
        return d * (LENGTH / np.linalg.norm(d))

    def terms_at(self, T, original, at, change) -> np.ndarray:
        """Return the terms of f after `change` is added to T at the index `at`. T is restored."""
        changed = original.copy()
        changed[at] += change
        T[...] = self.backend.asarray(changed)
        try:
            return self.terms()
        finally:
            T[...] = self.backend.asarray(original)

    def derivative(self, T, original, at, d, h) -> float:
        """Return the numerical derivative of f along d with step h."""
        if self.method == "complex":
            return float(self.terms_at(T, original, at, 1j * h * d).imag.sum() / h)
        return float((self.terms_at(T, original, at, h * d) - self.terms_at(T, original, at, -h * d)).sum() / (2 * h))

    def one_sided(self, T, original, at, d, h, base) -> tuple[float, float]:
        """Return the left and the right difference quotient."""
        right = (self.terms_at(T, original, at, h * d) - base).sum() / h
        left = (base - self.terms_at(T, original, at, -h * d)).sum() / h
        return float(left), float(right)

    def right_nearby(self, gradient) -> bool:
        """Return whether all gradients are right, without kinks, at one of three random points near the tensors."""
        originals = {name: self.backend.to_numpy(T).copy() for name, T in self.tensors.items()}
        try:
            for _ in range(3):
                for name, T in self.tensors.items():
                    change = 0.01 * self.rng.standard_normal(T.shape)
                    T[...] = self.backend.asarray(originals[name] + change)
                if all(row.verdict == "right" for row in self.rows("", gradient())):
                    return True
            return False
        finally:
            for name, T in self.tensors.items():
                T[...] = self.backend.asarray(originals[name])
