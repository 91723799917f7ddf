"""Compute scores from the output of a classifier, with bootstrap intervals, and format them as a table.

    found = scores(features, probabilities, Neighbourhoods(reference), labels, rng)
    found["frechet"]          # {"value": 0.127, "low": 0.121, "high": 0.133}

    frechet       Frechet distance between the features and the reference features; 0 is
                  best. It is NOT Inception FID (Heusel et al. 2017), which uses the
                  features of another network
    density       mean number of reference neighbourhoods that contain a sample, divided by
                  k; 1 is expected for real images
    coverage      share of the reference neighbourhoods that contain a sample; 1 is best
    confident     share of samples for which the classifier's largest probability is above 0.9
    divergence    Kullback-Leibler divergence of the predicted classes from uniform; 0 if all
                  classes are equally frequent
    agreement     share of samples whose predicted class is the label asked for
    classes       number of samples of each predicted class, without an interval

The functions take arrays: features (N, F), class probabilities (N, K) and labels (N,).
"""

import numpy as np

from minigan.metrics.distances import Neighbourhoods, class_divergence, frechet_distance

MAX_SUBSETS = 6  # six disjoint subsets of 10,000 cover the 60,000 training images

DESCRIPTIONS = {
    "frechet": "Frechet distance in the judge's features (not Inception FID)",
    "confident": "share classified with a probability above 0.9",
    "density": "density (k = 5)",
    "coverage": "coverage (k = 5)",
    "divergence": "divergence of the classes from uniform",
    "agreement": "share classified as the label asked for",
}


def scores(
    features: np.ndarray,
    probabilities: np.ndarray,
    reference: Neighbourhoods,
    labels: np.ndarray | None,
    rng: np.random.Generator,
    rounds: int = 50,
) -> dict:
    """Computes all scores of features (N, F) and probabilities (N, K), compared with the reference features.

    Returns {name: {"value", "low", "high"}}, where low and high are the bounds of a 95% interval
    from `rounds` bootstrap samples, and "classes", a list of K counts. With labels (N,), the
    bootstrap keeps the number of images of each label, because the labels were not random.
    Without labels, there is no "agreement".
    """
    N, K = probabilities.shape
    predicted = probabilities.argmax(axis=1)  # (N,)
    counts, covered = reference.memberships(features)

    def compute(chosen: np.ndarray, covered: np.ndarray) -> dict:
        shares = np.bincount(predicted[chosen], minlength=K) / len(chosen)
        result = {
            "frechet": frechet_distance(features[chosen], reference.real),
            "confident": (probabilities[chosen].max(axis=1) > 0.9).mean(),
            "density": counts[chosen].mean() / reference.k,
            "coverage": covered.mean(),
            "divergence": class_divergence(shares),
        }
        if labels is not None:
            result["agreement"] = (predicted[chosen] == labels[chosen]).mean()
        return result

    estimates = compute(np.arange(N), covered)
    strata = np.zeros(N, int) if labels is None else labels
    drawn = [
        compute(stratified_bootstrap(strata, rng), covered[rng.integers(len(covered), size=len(covered))])
        for _ in range(rounds)
    ]
    result = {}
    for name, value in estimates.items():
        # A bootstrap sample repeats images, which increases the Frechet distance. Therefore
        # the interval is shifted so that the mean of the samples is at the estimate.
        samples = [d[name] for d in drawn]
        low, high = value + np.quantile(samples, (0.025, 0.975)) - np.mean(samples)
        result[name] = {"value": float(value), "low": max(0.0, float(low)), "high": float(high)}
    return result | {"classes": np.bincount(predicted, minlength=K).tolist()}


def mean_scores(parts: list[dict]) -> dict:
    """Returns the means of several results of `scores`: values, bounds of the intervals, and class counts."""
    means = {
        name: {key: float(np.mean([part[name][key] for part in parts])) for key in first}
        for name, first in parts[0].items()
        if name != "classes"
    }
    return means | {"classes": np.mean([part["classes"] for part in parts], axis=0).round(1).tolist()}


def stratified_bootstrap(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws indices (N,) with replacement. Every label is as frequent among them as in labels (N,)."""
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
    """Returns `count` evenly spaced indices from 0 to N - 1.

    Indexing sorted labels with them gives each label its share, to within one.
    """
    return np.arange(count) * N // count


def table(report: dict) -> str:
    """Formats a report as text: the scores of the samples and of equally many real images, in two columns.

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
    shares = " ".join(f"{digit}: {100 * n / count:.1f}%" for digit, n in enumerate(classes))
    lines.append(f"predicted digits   {shares}")
    missing = [str(digit) for digit, n in enumerate(classes) if n < 0.01 * count]
    if missing:
        lines.append(f"collapse: the digits {', '.join(missing)} hardly occur (less than 1% each)")
    return "\n".join(lines)
