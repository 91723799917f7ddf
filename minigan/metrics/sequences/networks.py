"""Train GRUs on series: how well fakes can be told from real series, and how useful they are (Yoon et al. 2019).

    discriminative   |accuracy - 1/2| of a GRU that tells fakes from as many real series, on the TESTED
                     part of both, which it was not trained on; 0 is best, 0.5 worst
    predictive       mean absolute error of a GRU that was trained on fakes to predict the values of the
                     next step, on real series; values from 0 to 1. The smaller, the better

Both are those of section 5 of the TimeGAN paper, with minigan's own layers. Its published code differs in three
points. There the GRU of the discriminative score has F / 2 units, sees values from 0 to 1, and learns at a rate of
1e-3: it misses faults that anyone sees in a picture, such as rough sine waves. Here it has UNITS, its inputs are spread
to [-2, 2], and its rate is LR_DETECTOR. It notices more of them, but not with every seed, so a small score of a single
training proves little. `discriminative(..., published=True)` has the published settings, for comparisons with published
scores. There the predictive score is the error of the last feature, given the others of the same step; here it is that
of all features of the next step, as in the paper. And the learning rate decreases to 0 here. So scores can be compared
with those of others only roughly, but with each other exactly.

A missing value is NaN. The networks see 0 in its place, and a feature that says so. After the end of a shorter series
nothing is read, and nothing is predicted.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from minigan import optim
from minigan.backends import Array, Backend
from minigan.layers import GRU, Conv1d, Dense, Sequential, fuse
from minigan.losses import LOSSES
from minigan.metrics.sequences import statistics

UNITS = 24
BATCH = 128  # series of each sort in a batch
STEPS = 2000  # of each training, as in the published code; fewer if there are few series
EPOCHS = 160  # passes over the series, at most, but at least FEWEST steps
FEWEST = 100
LR = 3e-3  # of predictions
LR_DETECTOR = 1e-2  # of the discriminative score. At 3e-3, more trainings end where they started, at a score near 0
LR_PUBLISHED = 1e-3
SPREAD = 2  # its inputs are between -SPREAD and SPREAD
TESTED = 0.2  # of the series, on which the discriminative score is measured
MOST = 5000  # series of each sort


class Encoding:
    """Series (N, T, F) as the networks see them: values from 0 to 1, and if some are missing, what is there.

    With `spread`, values are from -SPREAD to SPREAD.
    """

    def __init__(self, *sets: np.ndarray, spread: bool = False):
        """The range of a feature is that in the first set. Gaps and lengths are those of all."""
        first = sets[0].reshape(-1, sets[0].shape[2]).astype(np.float64)
        self.low = np.array([0.0 if np.isnan(x).all() else np.nanmin(x) for x in first.T])
        self.width = statistics.ranges(sets[0])
        if spread:
            self.low, self.width = self.low + self.width / 2, self.width / (2 * SPREAD)
        self.gaps = any(np.isnan(x).any() for x in sets)
        self.features = first.shape[1]

    def values(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return values (N, T, F) float32, 0 where one is missing, and whether each is there (N, T, F)."""
        there = ~np.isnan(x)
        z = np.where(there, (x.astype(np.float64) - self.low) / self.width, 0)
        return z.astype(np.float32), there

    def inputs(self, x: np.ndarray, labels: np.ndarray | None = None, classes: int = 0) -> np.ndarray:
        """Return inputs (N, T, n) float32: the values, the one-hot label, and with gaps what is there, and a mask."""
        z, there = self.values(x)
        parts = [z]
        if labels is not None:
            parts.append(np.broadcast_to(np.eye(classes, dtype=np.float32)[labels][:, None], (*z.shape[:2], classes)))
        if self.gaps:
            lasts = np.arange(x.shape[1]) < statistics.lengths(x)[:, None]
            parts += [there.astype(np.float32), lasts[..., None].astype(np.float32)]
        return np.concatenate(parts, axis=2)

    def gru(self, inputs: np.ndarray, rng: np.random.Generator, last: bool, units: int = UNITS) -> GRU:
        """Return a GRU that takes such inputs. With gaps, their last feature is the mask."""
        return GRU(inputs.shape[2] - self.gaps, units, last=last, masked=self.gaps, rng=rng)


class Detected(NamedTuple):
    """How well a GRU tells fakes from real series."""

    score: float  # |accuracy - 1/2|
    by_class: np.ndarray | None  # (classes,), the same for each class, NaN for one that was not tested; None: no labels


def discriminative(
    real: np.ndarray,
    fakes: np.ndarray,
    backend: Backend,
    rng: np.random.Generator,
    labels: tuple[np.ndarray, np.ndarray] | None = None,
    classes: int = 0,
    progress: Callable = iter,
    published: bool = False,
) -> Detected:
    """Return how well a GRU tells fakes (M, T, F) from real series (N, T, F). As many of both are used, at most MOST.

    `labels` are the classes of both sets, which the GRU sees. So fakes that show another class than
    the one that was asked for are recognised, too. `progress` wraps the range of steps, as tqdm does. With
    `published`, the GRU is that of the published code of TimeGAN: smaller, and trained more slowly.
    """
    units, lr = (max(1, real.shape[2] // 2), LR_PUBLISHED) if published else (UNITS, LR_DETECTOR)
    encoding, count = Encoding(real, fakes, spread=not published), min(len(real), len(fakes), MOST)
    x, y, of = [], [], []
    for k, series in enumerate((real, fakes)):
        chosen = rng.permutation(len(series))[:count]
        own = None if labels is None else labels[k][chosen]
        x.append(encoding.inputs(series[chosen], own, classes))
        y.append(np.full((count, 1), k, np.float32))
        of.append(np.zeros(count, np.int64) if own is None else own)
    tested = max(1, round(TESTED * count))
    network = Sequential(encoding.gru(x[0], rng, last=True, units=units), Dense(units, 1, rng=rng)).to(backend)
    loss = LOSSES["non_saturating"].to(backend)

    def gradient(index: np.ndarray) -> dict[str, Array]:
        batch = [backend.asarray(part[tested:][index]) for part in x]
        (a, cache_a), (b, cache_b) = (fused.forward(part) for part in batch)
        _, d_real, d_fake = loss.discriminator(a, b)
        grads, others = (fused.backward(d, c, need_dx=False)[1] for d, c in ((d_real, cache_a), (d_fake, cache_b)))
        return {name: g + others[name] for name, g in grads.items()}

    fused = fuse(network)
    _train(network, gradient, count - tested, rng, progress, lr)
    right = [
        _in_parts(lambda part: fused.forward(backend.asarray(part), train=False)[0], part[:tested], backend)[:, 0] > 0
        for part in x
    ]
    right[1] = ~right[1]  # a positive logit means real
    accuracy = float(np.concatenate(right).mean())
    if labels is None:
        return Detected(abs(accuracy - 0.5), None)
    found = np.full(classes, np.nan)
    for label in range(classes):
        sides = [side[part[:tested] == label] for side, part in zip(right, of, strict=True)]
        if all(len(side) for side in sides):  # both sorts count as much, whatever their shares are
            found[label] = abs(float(np.mean([side.mean() for side in sides])) - 0.5)
    return Detected(abs(accuracy - 0.5), found)


def predictive(
    training: np.ndarray,
    real: np.ndarray,
    backend: Backend,
    rng: np.random.Generator,
    progress: Callable = iter,
) -> float:
    """Return the error of predictions on real series (N, T, F) by a GRU that was trained on others (M, T, F).

    It is the mean absolute error of the values of the next step, where the values of a feature in the real
    series go from 0 to 1. NaN if there is nothing to predict.
    """
    encoding = Encoding(real, training)
    sets = [x[rng.permutation(len(x))[:MOST]] for x in (training, real)]
    inputs, (z, there) = encoding.inputs(sets[0][:, :-1]), encoding.values(sets[0][:, 1:])
    if encoding.gaps:  # the ends of the whole series, and not of those without the last step
        inputs[..., -1] = encoding.inputs(sets[0])[:, :-1, -1]
    n = UNITS + encoding.gaps  # a masked layer passes on its mask
    network = Sequential(encoding.gru(inputs, rng, last=False), Conv1d(n, encoding.features, 1, rng=rng)).to(backend)
    fused = fuse(network)

    def gradient(index: np.ndarray) -> dict[str, Array]:
        y, cache = fused.forward(backend.asarray(inputs[index]))
        weight = backend.asarray(there[index].astype(np.float32))
        signs = backend.xp.sign(y - backend.asarray(z[index])) * weight
        return fused.backward(signs / max(1.0, float(weight.sum())), cache, need_dx=False)[1]  # of the mean error

    _train(network, gradient, len(inputs), rng, progress, LR)
    of_real, (z, there) = encoding.inputs(sets[1]), encoding.values(sets[1][:, 1:])
    found = _in_parts(
        lambda part: fused.forward(backend.asarray(part), train=False)[0],
        np.ascontiguousarray(of_real[:, :-1]),
        backend,
    )
    return float(np.abs(found - z)[there].mean()) if there.any() else float("nan")


def steps_for(count: int) -> int:
    """Return the number of steps of a training on so many series."""
    return int(np.clip(EPOCHS * count / BATCH, FEWEST, STEPS))


def _train(
    network: Sequential,
    gradient: Callable[[np.ndarray], dict[str, Array]],
    count: int,
    rng: np.random.Generator,
    progress: Callable,
    lr: float,
) -> None:
    """Train a network with Adam on the gradients of batches of indices below `count`."""
    adam, backend, steps = optim.Adam(network, lr=lr), network.backend, steps_for(count)
    for step in progress(range(steps)):
        adam.lr = lr * (1 - step / steps)
        index = rng.integers(count, size=min(BATCH, count))
        with backend.computing():
            adam.step(gradient(index))


def _in_parts(function: Callable[[np.ndarray], Array], x: np.ndarray, backend: Backend) -> np.ndarray:
    """Return the function of x (N, ...), computed for 500 samples at a time."""
    found = []
    for start in range(0, len(x), 500):
        with backend.computing():
            found.append(backend.to_numpy(function(x[start : start + 500])))
    return np.concatenate(found)
