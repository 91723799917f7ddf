"""Distances and scores of arrays, compared with closed forms and plain loops."""

import numpy as np
import pytest

from minigan import datasets
from minigan.metrics import Neighbourhoods, class_divergence, frechet_distance, scores, table
from minigan.metrics.scores import mean_scores, stratified_bootstrap, stratified_subsets


def test_frechet_distance_of_gaussians_is_its_closed_form():
    """The samples have exactly the given means and covariances. The covariances commute, so the root is elementwise."""
    rng = np.random.default_rng(0)
    white = rng.standard_normal((500, 4))
    white = (white - white.mean(axis=0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(white, rowvar=False))).T
    turn = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    a, b = np.array([1.0, 2.0, 3.0, 0.0]), np.array([2.0, 2.0, 0.5, 0.0])  # standard deviations
    shift = np.array([1.0, 0.0, -2.0, 0.5])
    expected = (shift**2).sum() + ((a - b) ** 2).sum()
    x, y = white * a @ turn.T, white * b @ turn.T + shift
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-6) and frechet_distance(x, x) >= 0


def test_neighbourhoods_agree_with_plain_loops():
    rng = np.random.default_rng(0)
    real, samples = rng.standard_normal((40, 3)), rng.standard_normal((30, 3))
    counts, covered = Neighbourhoods(real, k=5).memberships(samples)
    radii = [sorted(np.linalg.norm(real - r, axis=1))[5] for r in real]  # index 0 is the distance 0 to itself
    inside = np.array(
        [[np.linalg.norm(s - r) <= radius for r, radius in zip(real, radii, strict=True)] for s in samples]
    )
    assert np.array_equal(counts, inside.sum(axis=1)) and np.array_equal(covered, inside.any(axis=0))


def test_subsets_are_disjoint_and_contain_each_digit_in_its_share():
    labels = datasets.mnist("train").labels
    for count, subsets in ((10_000, 6), (7000, 6), (25_000, 2), (60_000, 1)):
        found = stratified_subsets(labels, count, np.random.default_rng(0))
        assert [len(subset) for subset in found] == [count] * subsets
        assert len(np.unique(np.concatenate(found))) == count * subsets
        for subset in found:
            np.testing.assert_allclose(np.bincount(labels[subset]), np.bincount(labels) * count / 60_000, atol=1)
    one, other = (stratified_subsets(labels, 10_000, np.random.default_rng(seed))[0] for seed in (0, 1))
    assert 0.1 < np.isin(one, other).mean() < 0.25  # a sixth on average, because the seed selects the images


def test_bootstrap_keeps_the_number_of_each_label():
    labels = np.array([3, 1, 3, 3, 0, 1, 3])
    drawn = np.array([stratified_bootstrap(labels, np.random.default_rng(seed)) for seed in range(200)])
    assert (np.sort(labels[drawn]) == np.sort(labels)).all()
    assert (np.bincount(drawn.ravel(), minlength=7) / 200 > 0.7).all()  # each index is drawn, once on average


def test_class_divergence_of_known_shares():
    assert class_divergence(np.full(4, 0.25)) == pytest.approx(0)
    assert class_divergence(np.array([0.0, 1.0, 0.0])) == pytest.approx(np.log(3))
    assert class_divergence(np.array([0.5, 0.25, 0.25])) == pytest.approx(np.log(3) - 1.5 * np.log(2))  # minus entropy


def test_scores_agree_with_values_computed_by_hand():
    """Three classes, eight samples, and reference points at 0, 1, ..., 9 on a line, with k = 2."""
    reference = Neighbourhoods(np.stack([np.arange(10.0), np.zeros(10)], axis=1), k=2)
    # The squared radii are 1, and 4 at both ends. The sample (5, 0.1) is in one neighbourhood, and (0.5, 0) in two.
    features = np.array([[5, 0.1]] * 2 + [[0.5, 0]] * 2 + [[50, 0]] * 4)
    predicted = np.array([0, 0, 1, 1, 1, 1, 1, 1])
    probabilities = np.where(np.eye(3)[predicted] == 1, 0.92, 0.04)
    probabilities[:2] = 0.8, 0.1, 0.1
    labels = np.array([0, 1, 1, 1, 1, 1, 2, 2])
    found = scores(features, probabilities, reference, labels, np.random.default_rng(0), rounds=20)
    values = {name: score["value"] for name, score in found.items() if name != "classes"}
    assert values == pytest.approx(
        {
            "frechet": frechet_distance(features, reference.real),
            "confident": 6 / 8,
            "density": (2 * 1 + 2 * 2) / 8 / 2,
            "coverage": 3 / 10,  # the neighbourhoods of 0, 1 and 5
            "divergence": class_divergence(np.array([0.25, 0.75, 0])),
            "agreement": 5 / 8,
        }
    )
    assert found["classes"] == [2, 6, 0]
    assert all(found[name]["low"] < values[name] < found[name]["high"] for name in values)
    unlabelled = scores(features, probabilities, reference, None, np.random.default_rng(0), rounds=2)
    assert unlabelled.keys() == found.keys() - {"agreement"}


def test_the_mean_of_scores_averages_bounds_and_counts():
    one = {"frechet": {"value": 1.0, "low": 0.0, "high": 2.0}, "classes": [3, 0]}
    two = {"frechet": {"value": 2.0, "low": 1.5, "high": 5.0}, "classes": [1, 1]}
    expected = {"frechet": {"value": 1.5, "low": 0.75, "high": 3.5}, "classes": [2.0, 0.5]}
    assert mean_scores([one, two]) == expected


def test_the_table_shows_both_columns_and_what_is_missing():
    score = {"value": 0.5, "low": 0.25, "high": 0.75}
    report = {"count": 200, "samples": {"coverage": score, "classes": [199, 1]}, "real": {"coverage": score}}
    _, row, digits, collapse = table(report).splitlines()
    assert row.startswith("coverage (k = 5)") and row.count("0.500 (0.250-0.750)") == 2
    assert digits.endswith(" 0: 99.5% 1: 0.5%")
    assert collapse == "collapse: the digits 1 hardly occur (less than 1% each)"
    assert "collapse" not in table(report | {"samples": {"classes": [198, 2]}})
