"""Evaluate a generator of series: see `metrics.sequences.comparison`.

Real series that were not trained on are those of the option `hold_out` of the run, or those that built-in data have.
Without them, the training series are divided.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from minigan import datasets
from minigan.datasets.processes import PERIODOGRAMS
from minigan.datasets.sequence_codec import with_features
from minigan.errors import UserError
from minigan.metrics.scores import table as table_of_digits
from minigan.metrics.sequences import Known, Labels, compare, statistics, table
from minigan.metrics.sequences.nearest import Space, embedding, to_training
from minigan.report.sequences import save_evaluation
from minigan.training import Sampler, checkpoint, draw_noise

DIGITS = "mnist-rows"
MOST = 20_000  # training series that are compared; of more, so many are chosen at random
PAIRS = 5  # fakes that are drawn with the nearest training series
DRAWN = 2000  # series of each sort in the picture


def evaluate_series(
    sampler: Sampler,
    fingerprint: dict,
    real: datasets.Data,
    count: int,
    seed: int,
    judge: Callable,
    progress: Callable = iter,
) -> tuple[dict, Callable[[dict], str], Callable]:
    """Compare `count` series of a generator with the training series `real`, and those that were not trained on.

    A generator with labels is asked for the classes in their shares of the training series. `judge` returns the
    scores of uint8 images (N, 28, 28, 1) and their labels or None: if the series are the rows of MNIST, the entry
    "digits" of the report contains them. `progress` wraps the range of steps of each training. Returns the report, a
    function that formats it, and one that draws it: (path, samples, columns, report).

    Raises UserError if the data have another fingerprint.
    """
    assert isinstance(real, datasets.Sequences)
    ignored = checkpoint.ignored_in_fingerprint(sampler.classes)
    if real.fingerprint() | ignored != fingerprint | ignored:
        raise UserError(f"{real.name} has other contents than the data of this run: give the original data")
    rng, codec = np.random.default_rng(seed), real.codec
    chosen = np.sort(rng.permutation(len(real))[:MOST])
    labels = None
    if sampler.classes:
        assert real.labels is not None  # because the networks see them
        labels = real.labels[rng.integers(len(real), size=count)]
    placed = None if labels is None else sampler.generator.backend.asarray(labels)
    fakes = with_features(sampler.of(draw_noise(sampler.generator, rng, count), placed))
    training = with_features(real.series(chosen))
    held_out = with_features(real.held_out.series()) if isinstance(real.held_out, datasets.Sequences) else None
    own = real.held_out.labels if isinstance(real.held_out, datasets.Sequences) else None
    expected = PERIODOGRAMS[codec.process](codec.steps) if codec.process in PERIODOGRAMS else None
    given = None if labels is None or real.labels is None else Labels(real.labels[chosen], labels, own)
    known = Known(codec.names, given, sampler.class_names or (), expected)
    report = compare(training, fakes, held_out, known, seed, sampler.generator.backend, progress)
    if codec.process == DIGITS:
        images = fakes.astype(np.uint8)[..., None]  # (N, 28, 28, 1)
        report["digits"] = judge(images, labels)

    def save(path, samples, columns, report) -> None:
        others = training[:DRAWN] if held_out is None else held_out[:DRAWN]
        curves = curves_of(others, fakes[:DRAWN], expected)
        found = to_training(Space(training), fakes[:PAIRS], training, np.random.default_rng(seed))
        pairs = np.stack([fakes[found.chosen], training[found.closest]], axis=1)
        save_evaluation(path, others, fakes, codec.names, report, curves, pairs)

    return report, table_of_all, save


def table_of_all(report: dict) -> str:
    """Format a report as lines of text, with the scores of the judge if the series are the rows of digits."""
    digits = [f"the series as images of digits\n{table_of_digits(report['digits'])}"] if "digits" in report else []
    return "\n".join([table(report), *digits])


def curves_of(real: np.ndarray, fakes: np.ndarray, expected: np.ndarray | None) -> dict[str, Any]:
    """Return the curves and the points that `report.sequences.save_evaluation` draws, for series (N, T, F)."""
    lags = min(real.shape[1] - 1, statistics.MOST_LAGS)
    sets = {"real": real, "fakes": fakes}
    curves: dict[str, Any] = {
        who: {"spectrum": statistics.mean_periodogram(x), "autocorrelation": statistics.autocorrelation(x, lags)}
        for who, x in sets.items()
    }
    points, share = embedding(Space(real), real, fakes)
    return curves | {"expected": expected, "points": points, "share": share}
