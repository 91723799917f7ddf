"""Compare the samples of a run with its data, for its page: shares of classes, nearest images, and distributions.

What is compared depends on how the samples are drawn, as the codec names it (`view`). A new kind of data adds a
function to DISTRIBUTIONS.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from minigan.metrics.features import describe
from minigan.report.page import pictures
from minigan.report.page.html import Html
from minigan.report.page.marginals import marginals
from minigan.report.page.report import Nearest
from minigan.runs.checks import Checks
from minigan.training import Training

PAIRS = 10  # samples of which the nearest training image is shown
SEARCHED = 20_000  # training images, at most, among which the nearest are
STREAM = 11  # of the random numbers of a page
CHUNK = 500  # images at a time
ROWS = 2000  # of a table, at most, that are compared


def shares(checks: Checks, names: list[str] | None) -> tuple[str, list[tuple[str, float, float]]] | None:
    """Return what the modes are, and (name, share of samples, share of real samples) of each mode.

    The modes are the classes if a simple classifier can tell them apart, otherwise groups of similar
    real samples. Returns None if there are too few data for a reference.
    """
    if checks.reference is None:
        return None
    found = checks.reference.shares(
        describe(checks.fakes(np.random.default_rng([checks.training.config.seed, STREAM])))
    )
    known = checks.reference.known and names
    rows = [
        (names[k] if known and names else f"group {k + 1}", float(fake), float(real))
        for k, (fake, real) in enumerate(zip(found, checks.reference.share, strict=True))
    ]
    return ("class" if known else "group"), rows


def nearest(training: Training) -> tuple[list[Nearest], float | None, str]:
    """Return samples with the nearest training images, and the usual distance between real images.

    The distance is the root of the mean square difference of pixels from 0 to 1. The last value says
    among which images the nearest were looked for.
    """
    data, rng = training.data, np.random.default_rng([training.config.seed, STREAM])
    count = min(len(data), SEARCHED)
    index = np.arange(len(data)) if count == len(data) else np.sort(rng.choice(len(data), count, replace=False))
    fakes = training.encoded_samples(PAIRS)
    real = _batch(training, index[rng.permutation(count)[:PAIRS]])
    asked = np.concatenate([fakes, real]).reshape(len(fakes) + len(real), -1)
    distances = np.concatenate(
        [_distances(asked, _batch(training, index[i : i + CHUNK])) for i in range(0, count, CHUNK)], axis=1
    )
    of_fakes, of_real = distances[: len(fakes)], distances[len(fakes) :]
    best = of_fakes.argmin(axis=1)
    others = np.partition(of_real, 1, axis=1)[:, 1] if count > 1 else np.zeros(0)  # the first is the image itself
    decode: Callable[[np.ndarray], Any] = data.codec.decode
    samples, found = decode(fakes), decode(_batch(training, index[best]))
    pairs = [
        Nearest(pictures.of_array(samples[k]), pictures.of_array(found[k]), float(of_fakes[k, best[k]]))
        for k in range(len(samples))
    ]
    searched = f"the {count:,} training images" if count == len(data) else f"{count:,} of {len(data):,} training images"
    return pairs, float(np.median(others)) if len(others) else None, searched


def _batch(training: Training, index: np.ndarray) -> np.ndarray:
    """Return training samples (N, ...), as the networks see them, on the CPU."""
    return training.backend.to_numpy(training.data.batch(training.backend.asarray(index)))


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the root mean square distances (M, N) of rows a (M, n) and b (N, ...), halved: pixels are in [-1, 1]."""
    b = b.reshape(len(b), -1)
    square = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1) - 2 * a @ b.T
    return np.sqrt(np.maximum(square, 0) / a.shape[1]) / 2


def of_table(training: Training) -> Html:
    """Return the distributions of the columns of a table, of samples and of real rows."""
    rng, codec = np.random.default_rng([training.config.seed, STREAM]), training.data.codec
    frame = training.data.frame  # type: ignore[attr-defined]  # only tables have this view
    real = frame.iloc[np.sort(rng.choice(len(frame), min(len(frame), ROWS), replace=False))]
    fakes = training.sampler.draw(len(real), rng)
    compared = f"{len(fakes):,} samples and {len(real):,} real rows"
    return marginals(real, fakes, codec.kinds, "Columns", compared)  # type: ignore[attr-defined]  # the same


def of_series(training: Training) -> Html:
    """Return the distributions of the values of series, of samples and of real ones."""
    rng, codec, data = np.random.default_rng([training.config.seed, STREAM]), training.data.codec, training.data
    index = np.sort(rng.choice(len(data), min(len(data), ROWS), replace=False))
    real, fakes = codec.decode(_batch(training, index)), training.sampler.draw(len(index), rng)
    names = codec.names  # type: ignore[attr-defined]  # only series have this view

    def columns(x: np.ndarray) -> dict[str, np.ndarray]:
        """Return the values of each feature in all steps, for series (N, T, F) or (N, T)."""
        return dict(zip(names, np.asarray(x).reshape(-1, len(names)).T, strict=True))

    compared = f"all steps of {len(index):,} samples and {len(index):,} real series"
    return marginals(columns(real), columns(fakes), dict.fromkeys(names, "continuous"), "Features", compared)


# The distributions that a page shows, by the view of the codec.
DISTRIBUTIONS: dict[str, Callable[[Training], Html]] = {"table": of_table, "series": of_series}
