"""Compute all figures of generated series and of real ones, and format them.

    discriminative    how well a GRU tells fakes from real series; 0 is best, 0.5 worst: see `networks`
    predictive        the error of a GRU on real series, trained on fakes; the smaller, the better
    autocorrelation   mean absolute difference of the autocorrelations, over lags and features; 0 is best
    spectrum          mean relative error of the power in the tenths of the band, over all features; 0 is best
    worst_tenth       the largest of these errors
    marginals         mean of 1 - KS of the values of the features; 1 is best
    gaps              mean absolute difference of the shares of missing values; 0 is best
    lengths           1 - KS of the lengths; 1 is best
    distance          median distance to the nearest training series, in standard deviations
    nearness          the same, as a part of that of real series; far below 1: memorised series
    known_spectrum    the largest relative error of a tenth of the band, compared with the process that drew the data

The sets are the fakes and "real": held-out series, whose figures show what a perfect generator would reach. Without
held-out series, the training series are divided at random: one half is the reference, and the other one is "real". The
distances of "real" are then those of each training series to the others. Both sets have the same size, if possible.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from minigan import backends
from minigan.backends import Backend
from minigan.datasets.sequence_codec import with_features
from minigan.errors import UserError
from minigan.files import plain
from minigan.metrics.sequences import nearest, networks, statistics

MIN_SERIES = 20  # of training series, of fakes and of held-out series
MOST = 10_000  # series of the reference
NEAR = 0.5  # a smaller `nearness` is reported
WIDTH = 58  # of the first column of the table

SCORES = {
    "discriminative": "discriminative score: fakes recognised by a GRU (0 is best)",
    "predictive": "predictive score: error of a GRU trained on them",
    "autocorrelation": "difference of the autocorrelations (0 is best)",
    "spectrum": "error of the spectrum, mean over tenths (0 is best)",
    "worst_tenth": "the same, in the worst tenth of the band",
    "known_spectrum": "the same, compared with the true spectrum",
    "marginals": "distributions of the values (1 is best)",
    "gaps": "difference of the shares of missing values (0 is best)",
    "lengths": "distribution of the lengths (1 is best)",
    "distance": "median distance to the nearest training series",
    "nearness": "the same, as a part of that of real series",
}
SETS = {"fakes": "fakes", "real": "real series"}


class Labels(NamedTuple):
    """The classes of the training series (N,), of the fakes (M,) and, if known, of the held-out series (H,)."""

    real: np.ndarray
    fakes: np.ndarray
    held_out: np.ndarray | None = None


class Known(NamedTuple):
    """What is known about the series."""

    names: Sequence[str] | None = None  # of the features (F,)
    labels: Labels | None = None
    class_names: Sequence[str] = ()
    expected: np.ndarray | None = None  # (T // 2,), the periodogram of the process that drew the series


def compare(
    real: np.ndarray,
    fakes: np.ndarray,
    held_out: np.ndarray | None = None,
    known: Known | None = None,
    seed: int = 0,
    backend: Backend | None = None,
    progress: Callable = iter,
) -> dict:
    """Compare fake series (N, T, F) with the training series `real` (M, T, F), and return a report for JSON.

    `held_out` are real series that were not trained on, or None. NaN is a missing value. With labels, each class is
    compared as well. GRUs are trained on `backend`, by default the reference; `progress` wraps the range of their
    steps, as tqdm does.

    The report contains {"fakes": figures, "real": figures} with the figures above, None where one is not defined.
    "features" has those of each feature: "autocorrelation", "marginal", and "errors", the relative error of each tenth
    of the band. "classes" has "discriminative", "autocorrelation", "spectrum" and "marginals" of each class.

    Raises UserError for fewer than MIN_SERIES series, and if the sets have other shapes.
    """
    real, fakes = with_features(real), with_features(fakes)
    held_out = None if held_out is None else with_features(held_out)
    for which, x in (("training", real), ("fake", fakes), ("held-out", held_out)):
        if x is not None and len(x) < MIN_SERIES:
            raise UserError(f"a comparison of series needs at least {MIN_SERIES} {which} series, got {len(x)}")
        if x is not None and x.shape[1:] != real.shape[1:]:
            raise UserError(f"all series have the shape {real.shape[1:]}, got {which} series of {x.shape[1:]}")
    rng, known = np.random.default_rng(seed), known or Known()
    absent = []
    chosen, others = _few(real, rng), held_out
    labels = None if known.labels is None else known.labels._asdict()
    if others is None:
        order = rng.permutation(len(real))
        chosen, rest = order[: len(real) // 2][:MOST], order[len(real) // 2 :]
        others = real[rest]
        if labels is not None:
            labels["held_out"] = labels["real"][rest]
        absent.append("there are no held-out series, so half of the training series are compared with the others")
    reference, backend = real[chosen], backend or backends.reference()
    report: dict[str, Any] = {
        "series": {"training": len(real), "fakes": len(fakes), "held_out": None if held_out is None else len(held_out)},
        "features": {},
    }
    names = list(known.names or [f"feature {i + 1}" for i in range(real.shape[2])])
    space, lags = nearest.Space(real), min(real.shape[1] - 1, statistics.MOST_LAGS)
    if labels is not None:
        report["classes"] = by_class(real, fakes, (labels["real"], labels["fakes"]), known.class_names, lags)
    for which, x in (("fakes", fakes[: len(others)] if len(others) >= MIN_SERIES else fakes), ("real", others)):
        found, by_feature = figures(reference, x, lags)
        if known.expected is not None:
            found["known_spectrum"] = from_known(x, known.expected)
        own = None if labels is None else labels["fakes" if which == "fakes" else "held_out"]
        given = None if own is None or labels is None else (labels["real"][chosen], own[: len(x)])
        detected = networks.discriminative(
            reference, x, backend, np.random.default_rng([seed, 1]), given, len(known.class_names), progress
        )
        found["discriminative"] = detected.score
        found["predictive"] = networks.predictive(x, reference, backend, np.random.default_rng([seed, 2]), progress)
        if which == "fakes" and detected.by_class is not None:
            for name, score in zip(known.class_names, detected.by_class.tolist(), strict=True):
                if str(name) in report["classes"]:
                    report["classes"][str(name)] = {"discriminative": score} | report["classes"][str(name)]
        series = None if which == "real" and held_out is None else x
        found["distance"] = float(np.median(nearest.to_training(space, series, real, rng).distance))
        report[which] = dict.fromkeys(SCORES, None) | found
        if which == "fakes":
            report["features"] = {
                name: {key: values[f].tolist() for key, values in by_feature.items()} for f, name in enumerate(names)
            }
    for which in SETS:
        report[which]["nearness"] = report[which]["distance"] / (report["real"]["distance"] or float("nan"))
    return plain(report | {"absent": absent, "warnings": warnings(report)})


def _few(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the indices of all series, or of MOST of them, chosen at random."""
    return np.arange(len(x)) if len(x) <= MOST else np.sort(rng.permutation(len(x))[:MOST])


def figures(reference: np.ndarray, x: np.ndarray, lags: int) -> tuple[dict, dict[str, np.ndarray]]:
    """Return the figures of series x (N, T, F) compared with reference series, and those of each feature (F, ...)."""
    r, s = (statistics.autocorrelation(each, lags) for each in (reference, x))
    powers = statistics.band_power(x), statistics.band_power(reference)
    errors = statistics.spectrum_distance(*powers, statistics.ranges(reference))
    same = statistics.marginals(reference, x)
    found: dict[str, float] = {
        "autocorrelation": statistics.autocorrelation_distance(r, s),
        "spectrum": float(np.nanmean(errors)),
        "worst_tenth": float(np.nanmax(errors)),
        "marginals": float(np.nanmean(same)) if np.isfinite(same).any() else math.nan,
    }
    ends = [statistics.lengths(each) for each in (reference, x)]
    if len(np.unique(np.concatenate(ends))) > 1:
        found["lengths"] = float(statistics.marginals(*(e[:, None, None] for e in ends))[0])
    gaps = [statistics.missing(each) for each in (reference, x)]
    if max(gap.max() for gap in gaps) > 0:
        found["gaps"] = float(np.abs(gaps[0] - gaps[1]).mean())
    return found, {
        "autocorrelation": np.nanmean(np.where(np.isnan(r - s), 0, np.abs(r - s)), axis=1),
        "marginal": same,
        "errors": statistics.band_errors(*powers),
    }


def from_known(x: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest relative error of a tenth of the band, given the expected periodogram (T // 2,)."""
    true = statistics.of_periodogram(expected, x.shape[1])
    power = statistics.band_power(x)
    return float(
        np.nanmax(statistics.spectrum_distance(power, np.broadcast_to(true, power.shape), np.ones(len(power))))
    )


def by_class(
    real: np.ndarray,
    fakes: np.ndarray,
    labels: tuple[np.ndarray, np.ndarray],
    class_names: Sequence[str],
    lags: int,
) -> dict[str, dict]:
    """Return the figures of the fakes of each class, compared with the training series of that class."""
    found = {}
    for label, name in enumerate(class_names):
        own, theirs = real[labels[0] == label][:MOST], fakes[labels[1] == label]
        if len(own) >= MIN_SERIES and len(theirs) >= MIN_SERIES:
            all_figures, _ = figures(own, theirs, lags)
            found[str(name)] = {key: all_figures[key] for key in ("autocorrelation", "spectrum", "marginals")}
    return found


def warnings(report: dict) -> list[str]:
    """Return sentences that warn if the fakes are too close to training series."""
    nearness = report["fakes"]["nearness"]
    if not nearness < NEAR:
        return []
    return [
        f"the fakes are closer to training series than real series are, at {100 * nearness:.0f}% of the median "
        "distance: the generator has memorised series, so train it for a shorter time or on more series"
    ]


def table(report: dict) -> str:
    """Format a report as lines of text."""
    lines = [" " * WIDTH + "".join(f"{heading:>13}" for heading in SETS.values())]
    for name, text in SCORES.items():
        values = [report[which][name] for which in SETS]
        if any(value is not None for value in values):
            cells = "".join(f"{'-' if value is None else format(value, '.3f'):>13}" for value in values)
            lines.append(f"{text:{WIDTH}}{cells}")
    if report["series"]["held_out"]:
        lines.append(f"real series: {report['series']['held_out']:,} held-out series, which were not trained on")
    for name, found in report.get("classes", {}).items():
        texts = [f"{key} {'-' if v is None else format(v, '.3f')}" for key, v in found.items()]
        lines.append(f"class {name}: {', '.join(texts)}")
    return "\n".join([*lines, *report["absent"], *(f"warning: {text}" for text in report["warnings"])])
