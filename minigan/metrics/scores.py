"""Scores of images that a classifier has seen, with bootstrap intervals, and the table that shows them.

    found = scores(features, probabilities, Neighbourhoods(reference), labels, rng)
    found["frechet"]          # {"value": 0.127, "low": 0.121, "high": 0.133}

    frechet       Frechet distance between the features and the reference features; 0 is
                  best. It is NOT Inception FID (Heusel et al. 2017), which takes the
                  features of another network
    density       how often the samples lie close to reference images, divided by what is
                  expected of real images; 1 is best
    coverage      share of the reference images that have a sample nearby; 1 is best
    confident     share of samples that the classifier reads with a probability above 0.9
    divergence    Kullback-Leibler divergence of the classes as read from uniform: 0 when
                  every class is as frequent as any other
    agreement     share of samples that are read as the label they were asked for
    classes       how many samples are read as each class, without an interval

The functions take arrays: features (N, F), class probabilities (N, K) and labels (N,).
"""

import numpy as np

from minigan.metrics.distances import Neighbourhoods, class_divergence, frechet_distance

MAX_SUBSETS = 6  # six disjoint subsets of 10,000 cover the 60,000 training images

DESCRIPTIONS = {
    "frechet": "Frechet distance in the judge's features (not Inception FID)",
    "confident": "share read with a probability above 0.9",
    "density": "density (k = 5)",
    "coverage": "coverage (k = 5)",
    "divergence": "divergence of the classes from uniform",
    "agreement": "share read as the label asked for",
}


def scores(
    features: np.ndarray,
    probabilities: np.ndarray,
    reference: Neighbourhoods,
    labels: np.ndarray | None,
    rng: np.random.Generator,
    rounds: int = 50,
) -> dict:
    """Computes every score of features (N, F) and probabilities (N, K) against the reference features.

    Returns {name: {"value", "low", "high"}}, where low and high bound a 95% interval from
    `rounds` bootstrap samples, and "classes", a list of K counts. With labels (N,), the
    bootstrap keeps the number of images of each label, because the labels were chosen,
    not drawn. Without labels there is no "agreement".
    """
    N, K = probabilities.shape
    read = probabilities.argmax(axis=1)  # (N,) the class of each image as read
    counts, covered = reference.memberships(features)

    def of(chosen: np.ndarray, covered: np.ndarray) -> dict:
        shares = np.bincount(read[chosen], minlength=K) / len(chosen)
        result = {
            "frechet": frechet_distance(features[chosen], reference.real),
            "confident": (probabilities[chosen].max(axis=1) > 0.9).mean(),
            "density": counts[chosen].mean() / reference.k,
            "coverage": covered.mean(),
            "divergence": class_divergence(shares),
        }
        if labels is not None:
            result["agreement"] = (read[chosen] == labels[chosen]).mean()
        return result

    whole = of(np.arange(N), covered)
    strata = np.zeros(N, int) if labels is None else labels
    drawn = [
        of(stratified_bootstrap(strata, rng), covered[rng.integers(len(covered), size=len(covered))])
        for _ in range(rounds)
    ]
    result = {}
    for name, value in whole.items():
        # A bootstrap sample repeats images, which increases the Frechet distance. So use
        # the interval's width, centred on the estimate.
        samples = [d[name] for d in drawn]
        low, high = value + np.quantile(samples, (0.025, 0.975)) - np.mean(samples)
        result[name] = {"value": float(value), "low": max(0.0, float(low)), "high": float(high)}
    return result | {"classes": np.bincount(read, minlength=K).tolist()}


def mean_scores(parts: list[dict]) -> dict:
    """Averages several results of `scores`: values, bounds of the intervals, and class counts."""
    means = {
        name: {key: float(np.mean([part[name][key] for part in parts])) for key in first}
        for name, first in parts[0].items()
        if name != "classes"
    }
    return means | {"classes": np.mean([part["classes"] for part in parts], axis=0).round(1).tolist()}


def stratified_bootstrap(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws indices (N,) with replacement, so that every label is as frequent as in labels (N,)."""
    order = np.argsort(labels, kind="stable")
    first, size = np.searchsorted(labels[order], labels), np.bincount(labels)[labels]
    return order[first + (rng.random(len(labels)) * size).astype(int)]


def stratified_subsets(labels: np.ndarray, count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Draws up to MAX_SUBSETS disjoint subsets, each as indices (count,) into labels (N,).

    In every subset each label has its share of all labels, to within one image.
    """
    N = len(labels)
    by_label = np.lexsort((rng.random(N), labels))  # (N,) sorted by label, shuffled within a label
    return [by_label[evenly_spaced(count, N) + i] for i in range(min(MAX_SUBSETS, N // count))]


def evenly_spaced(count: int, N: int) -> np.ndarray:
    """Returns indices (count,) at even distances among N.

    Taken from sorted labels, they give each label its share, to within one.
    """
    return np.arange(count) * N // count


def table(report: dict) -> str:
    """Formats a report as lines of text: the samples' scores next to those of as many real images.

    `report` has the keys "count", "samples" and "real"; the last two are results of `scores`.
    """
    lines = [f"{'':58}{'samples':>22}{'real images':>22}"]
    for name in report["samples"]:
        if name in DESCRIPTIONS:
            cells = "".join(
                f"{score['value']:9.3f} ({score['low']:.3f}-{score['high']:.3f})".rjust(22)
                for score in (report["samples"][name], report["real"][name])
            )
            lines.append(f"{DESCRIPTIONS[name]:58}{cells}")
    count, classes = report["count"], report["samples"]["classes"]
    lines.append("digits as read   " + " ".join(f"{digit}: {100 * n / count:.1f}%" for digit, n in enumerate(classes)))
    missing = [str(digit) for digit, n in enumerate(classes) if n < 0.01 * count]
    if missing:
        lines.append(f"collapse: the digits {', '.join(missing)} hardly occur (less than 1% each)")
    return "\n".join(lines)
