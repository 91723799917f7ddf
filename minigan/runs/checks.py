"""Check a training now and then: draw fakes, compare them with real samples, and look at both networks.

    checks = Checks(training)
    figures = checks.when_due()           # {} if no check is due, else {"modes": 10, "modes_covered": 9, ...}

`metrics.collapse` describes the figures. A check changes no bit of the training: it draws from a
random stream of its own, which depends only on the seed and the step, and restores what it touches.
"""

import math
import time

import numpy as np

from minigan.backends import Array
from minigan.datasets import Data
from minigan.layers import Sequential
from minigan.metrics import collapse
from minigan.metrics.collapse import FAKES, MIN_REAL, REAL, Reference
from minigan.metrics.features import describe
from minigan.metrics.players import dead_units, draw_fakes, gradient_norms, logits_of, right_answers, unchanged
from minigan.training import Record, Training, draw_noise
from minigan.training.sampling import draw_samples

EVERY = 20.0  # seconds of training between two checks, at least
SHARE = 0.02  # of the training time, which all checks together take at most
STREAM = 6  # of the random numbers of the checks
SHOWN = 128  # samples of each sort that D is shown
PROBE = 64  # samples with which the time of the first check is estimated


class Checked(Record, total=False):
    """The record of a step, as callbacks of `play` get it."""

    figures: dict[str, float]  # the figures of the check after this step, if there was one
    alarms: list[str]  # what the alarm reports after this step, if anything


class Checks:
    """Measures the figures of a training when a check is due.

    A check is due `every` seconds of training after the one before, and only if the time of all
    checks, this one included, stays within `share` of the training time since this object was
    created. The first check also prepares the reference, so it may come later.
    """

    def __init__(self, training: Training, every: float = EVERY, share: float = SHARE):
        self.training, self.every, self.share = training, every, share
        self.start = self.last = training.seconds
        self.spent = 0.0  # seconds
        self.shown = SHOWN
        self.expected: float | None = None  # seconds that the next check will take
        self.reference: Reference | None = None

    def when_due(self) -> dict[str, float]:
        """Return the figures of a check, or {} if no check is due."""
        seconds = self.training.seconds
        if seconds - self.last < self.every:
            return {}
        if self.expected is None:
            self.expected = self._estimate()
        if self.spent + self.expected > self.share * (seconds - self.start):
            return {}
        return self.measure()

    def measure(self) -> dict[str, float]:
        """Return the figures of a check now, in the order of `collapse.FIGURES`."""
        start, t = time.perf_counter(), self.training
        rng = np.random.default_rng([t.config.seed, STREAM, t.step])
        if self.reference is None:
            self._prepare()
        begin = time.perf_counter()
        with unchanged(t.G, t.D), np.errstate(over="ignore", invalid="ignore"):
            found = self._of_samples(rng) | self._of_players(rng)
        end = time.perf_counter()
        self.last, self.spent, self.expected = t.seconds, self.spent + end - start, end - begin
        found["check_seconds"] = round(end - start, 4)
        return {name: _rounded(found[name]) for name in collapse.FIGURES if math.isfinite(found.get(name, math.nan))}

    def _estimate(self) -> float:
        """Return the seconds that the first check will take, estimated from a few samples and the time of a step."""
        t, start = self.training, time.perf_counter()
        count = min(PROBE, len(t.data))
        describe(self.real(np.arange(2)))  # creates the network of the features
        begin = time.perf_counter()
        describe(self.real(np.arange(count)))
        end = time.perf_counter()
        self.spent += end - start
        steps = 1 + (FAKES + 3 * max(SHOWN, t.config.batch)) / t.config.batch / 4  # a pass is a quarter of a step
        return (min(REAL, len(t.data)) + FAKES) / count * (end - begin) + steps * t.seconds / max(t.step, 1)

    def _prepare(self) -> None:
        """Describe real samples, with which the fakes of every check are compared."""
        t = self.training
        rng = np.random.default_rng([t.config.seed, STREAM])
        if len(t.data) >= MIN_REAL:
            index = rng.choice(len(t.data), min(REAL, len(t.data)), replace=False)
            labels = None if t.data.labels is None else t.data.labels[index]
            self.reference = Reference(describe(self.real(index)), labels, rng)

    def real(self, index: np.ndarray) -> np.ndarray:
        """Return the training samples of index (N,), as the networks see them, on the CPU."""
        backend = self.training.backend
        parts = [backend.asarray(index[i : i + 500]) for i in range(0, len(index), 500)]
        return np.concatenate([backend.to_numpy(self.training.data.batch(part)) for part in parts])

    def _labels(self, rng: np.random.Generator, count: int) -> np.ndarray | None:
        """Return labels (count,) in the shares of the data, or None if the networks see none."""
        t = self.training
        return t.data.labels[rng.integers(len(t.data), size=count)] if t.classes and t.data.labels is not None else None

    def _of_samples(self, rng: np.random.Generator) -> dict[str, float]:
        """Return the figures of fakes, compared with real samples."""
        if self.reference is None:
            return {}
        labels = self._labels(rng, FAKES)
        return self.reference.compare(describe(self.fakes(rng, labels)), labels)

    def fakes(
        self, rng: np.random.Generator, labels: np.ndarray | None = None, generator: Sequential | None = None
    ) -> np.ndarray:
        """Return FAKES fakes as the generator draws them, with the labels, by default in the shares of the data."""
        backend = self.training.backend
        generator = self.training.sampler.generator if generator is None else generator
        labels = self._labels(rng, FAKES) if labels is None else labels
        z = draw_noise(generator, rng, FAKES)
        return draw_samples(generator, z, None if labels is None else backend.asarray(labels))

    def _of_players(self, rng: np.random.Generator) -> dict[str, float]:
        """Return the figures of both networks."""
        t, batch = self.training, self.training.config.batch
        (G, D), held_out = t.players, t.data.held_out
        together = t.config.pack  # samples that D judges together
        if held_out is not None and (len(held_out) < 2 * together or (t.classes and held_out.labels is None)):
            held_out = None
        # D sees batches of one size, because layers such as batch norm depend on it.
        size = batch if held_out is None else min(batch, len(held_out)) // together * together
        count = max(batch, self.shown // size * size)
        real, labels = self._drawn(t.data, rng, count)
        z = draw_noise(G, rng, len(real))
        found = dict(zip(("d_gradient", "g_gradient"), self._gradients(real, z, labels), strict=True))
        shown = [(real, labels), (draw_fakes(G, z, labels, size), labels)]
        shown += [] if held_out is None else [self._drawn(held_out, rng, count)]
        found |= right_answers(*(logits_of(D, samples, its, size) for samples, its in shown))
        dead = dead_units(G, z, labels)
        return found if dead is None else found | {"dead_units": dead}

    def _gradients(self, real: Array, z: Array, labels: Array | None) -> tuple[float, float]:
        """Return the norms of the gradients of (D, G) for the first batch of these samples and noise."""
        t, first = self.training, slice(self.training.config.batch)
        return gradient_norms(*t.players, real[first], z[first], t.loss, None if labels is None else labels[first])

    def _drawn(self, data: Data, rng: np.random.Generator, count: int) -> tuple[Array, Array | None]:
        """Return at most `count` samples for D, and their labels or None."""
        t = self.training
        index = rng.choice(len(data), min(count, len(data)), replace=False)
        labels = t.backend.asarray(data.labels[index]) if t.classes and data.labels is not None else None
        if data is t.data:
            return data.batch(t.backend.asarray(index)), labels
        return t.backend.asarray(data.batch(index)), labels  # held-out samples stay on the CPU


def _rounded(value: float) -> float:
    """Return the value with six significant digits, because it is written to history.csv."""
    return value if isinstance(value, int) else float(f"{value:.6g}")
