"""Test the comparison of images of any kind: closed forms, and samples with one fault each."""

import numpy as np
import pytest

from minigan import backends
from minigan.datasets import shapes
from minigan.metrics import classifier, comparison, features
from minigan.metrics.distances import kernel_distance, nearest

RNG = np.random.default_rng(20)


@pytest.fixture(scope="module")
def backend():
    """Return the fastest backend of this machine, because a classifier is trained."""
    return backends.load("auto", threads=1)


def stripes(rng, count, side=16):
    """Return grey stripes (count, side, side, 1) uint8 and their classes: 0 horizontal, 1 vertical, 2 diagonal."""
    labels = np.arange(count) % 3
    y, x = np.mgrid[:side, :side]
    axis = np.stack([y, x, (x + y) / np.sqrt(2)])[labels]  # (count, side, side)
    phase, length = rng.uniform(0, 2 * np.pi, (count, 1, 1)), rng.uniform(4, 7, (count, 1, 1))
    return (127.5 + 100 * np.sin(2 * np.pi * axis / length + phase)).astype(np.uint8)[..., None], labels


def small_shapes(rng, count):
    """Return coloured shapes (count, 24, 24, 3)."""
    return shapes.draw(count, rng, side=24)


def gradients(rng, count):
    """Return colour gradients (count, 12, 20, 3), which are not square, and their classes: which end is brighter."""
    labels = np.arange(count) % 2
    ramp = np.linspace(-1, 1, 20) * np.where(labels, 1, -1)[:, None]  # (count, 20)
    base = rng.uniform(100, 150, (count, 1, 1, 3))
    return np.clip(base + 60 * ramp[:, None, :, None] + rng.normal(0, 5, (count, 12, 20, 3)), 0, 255).astype(
        np.uint8
    ), labels


KINDS = [stripes, small_shapes, gradients]


# Distances ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count, block", [(6, 1000), (7, 3), (12, 4)])
def test_the_kernel_distance_is_its_formula(count, block):
    a, b = RNG.standard_normal((2, count, 5))
    expected = []
    size = min(block, count)
    for start in range(0, count - size + 1, size):
        rows = range(start, start + size)

        def mean(u, v, pairs):
            return np.mean([(u[i] @ v[j] / 5 + 1) ** 3 for i, j in pairs])

        different = [(i, j) for i in rows for j in rows if i != j]
        every = [(i, j) for i in rows for j in rows]
        expected.append(mean(a, a, different) + mean(b, b, different) - 2 * mean(a, b, every))
    assert kernel_distance(a, b, block) == pytest.approx(np.mean(expected), rel=1e-12)


def test_the_kernel_distance_of_equal_distributions_is_about_0_and_grows():
    a, b = RNG.standard_normal((2, 3000, 8))
    found = [kernel_distance(a, b + shift) for shift in (0, 0.3, 1)]
    assert abs(found[0]) < 0.02 and found[0] < found[1] < found[2]


@pytest.mark.parametrize("rows", [1, 5, 1003])  # more than one block of `_square_distances`
def test_nearest_is_the_smallest_distance(rows):
    a, b = RNG.standard_normal((rows, 4)), RNG.standard_normal((9, 4))
    distances = np.linalg.norm(a[:, None] - b, axis=2)
    index, found = nearest(a, b)
    np.testing.assert_array_equal(index, distances.argmin(axis=1))
    np.testing.assert_allclose(found, distances.min(axis=1), rtol=1e-6)


@pytest.mark.parametrize("shape", [(3, 4, 4, 1), (4, 6, 5, 3), (2, 8, 8, 1)])
def test_nearest_images_in_grey_levels(shape, monkeypatch):
    training = RNG.integers(0, 256, (2005, *shape[1:]), dtype=np.uint8)  # more than one block
    chosen = [2003, 7, 1500, 2][: shape[0]]
    index, distance = comparison.to_nearest(training[chosen] ^ 1, training)  # each number differs by 1
    np.testing.assert_array_equal(index, chosen)
    np.testing.assert_allclose(distance, 1, rtol=1e-3)


@pytest.mark.parametrize("levels", [(0, 255), (10, 14), (100, 103)])
def test_diversity_is_the_mean_distance_of_two_different_images(levels):
    images = np.array(levels, np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    assert comparison.diversity(images, RNG) == pytest.approx(
        levels[1] - levels[0]
    )  # an image is never paired with itself
    assert comparison.diversity(np.repeat(images[:1], 5, axis=0), RNG) == 0


# Features -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape, length", [((28, 28, 1), 224), ((64, 64, 3), 224), ((8, 12, 3), 96)])
def test_features_are_those_of_the_reference_for_any_batch(shape, length, backend):
    images = RNG.integers(0, 256, (260, *shape), dtype=np.uint8)  # more than one batch
    found = features.RandomFeatures(backend, shape[2])(images)
    again = features.RandomFeatures(backends.reference(), shape[2])(images[[0, 259]])
    assert found.dtype == np.float64 and found.shape == (260, found.shape[1]) and found.shape[1] == length
    np.testing.assert_allclose(found[[0, 259]], again, rtol=1e-4, atol=1e-5)


def test_features_are_standardised_and_a_constant_feature_does_not_count():
    x = RNG.normal([3, -100, 7], [1, 50, 0], (500, 3))
    scaled = features.Standardiser(x)
    np.testing.assert_allclose(scaled(x).mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(scaled(x).std(axis=0), [1, 1, 0], atol=1e-12)
    assert (scaled(x + 5)[:, 2] == 0).all()


# Scores ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.__name__)
def real(request):
    """Return 600 training images, their labels, and 300 others of the same distribution."""
    draw = request.param
    images, labels = draw(np.random.default_rng(1), 600)
    return images, labels, draw(np.random.default_rng(2), 300)[0]


def test_samples_of_the_same_distribution_are_as_good_as_real_images(real, backend):
    images, _, others = real
    report = comparison.compare(others, images, backend)
    ours, theirs = report["samples"], report["real"]
    assert ours["coverage"] > theirs["coverage"] - 0.1 and abs(ours["density"] - theirs["density"]) < 0.25
    assert ours["frechet"] < 2 * theirs["frechet"] and abs(ours["kernel"]) < 0.1
    for name in ("diversity", "to_training"):
        assert ours[name] == pytest.approx(theirs[name], rel=0.2)
    text = comparison.table(report)
    assert all(description in text for description in comparison.SCORES.values()) and str(features.SEED) in text


def test_every_fault_is_detected(real, backend):
    images, _, others = real
    clean = comparison.compare(others, images, backend)["samples"]
    noisy = np.clip(others + RNG.normal(0, 40, others.shape), 0, 255).astype(np.uint8)
    few = others[np.arange(len(others)) % 4]
    for broken in (noisy, few, 255 - others // 4):
        report = comparison.compare(broken, images, backend)["samples"]
        assert report["frechet"] > 2 * clean["frechet"] and report["kernel"] > clean["kernel"] + 0.02
        assert report["coverage"] < 0.8 * clean["coverage"]
    assert comparison.compare(few, images, backend)["samples"]["diversity"] < clean["diversity"]
    copies = comparison.compare(images[:300], images, backend)  # half of them are in the reference
    assert copies["samples"]["to_training"] < 0.5 * copies["real"]["to_training"]


@pytest.mark.parametrize("count", [0, 5, comparison.MIN_REAL - 1])
def test_too_few_real_images_are_refused(count, backend):
    images = stripes(RNG, 30)[0]
    with pytest.raises(ValueError, match=f"20 real images and 2 samples, got {count} and 30"):
        comparison.compare(images, images[:count], backend)


# The classifier -------------------------------------------------------------------------------------------------------


def test_agreement_is_high_for_the_labels_asked_for_and_low_for_others(real, backend):
    images, labels, others = real
    classes = int(labels.max()) + 1
    asked = np.arange(300) % classes
    judge = classifier.train(images, labels, backend, steps=250)
    least = 1 / classes + 0.35  # far above chance
    assert (judge(others) == asked).mean() > least and judge.accuracy > least
    assert (judge(others) == (asked + 1) % classes).mean() < 0.2


def test_the_report_of_a_comparison_with_labels(backend):
    images, labels = stripes(np.random.default_rng(3), 300)
    samples, asked = stripes(np.random.default_rng(4), 90)
    report = comparison.compare(samples, images, backend, asked, labels)
    assert report["agreement"] > 0.9 and report["classifier"] > 0.9 and sum(report["classes"]) == 90
    assert f"{100 * report['agreement']:.1f}% of the samples are classified as" in comparison.table(report)


@pytest.mark.parametrize("sizes", [(100, 50, 1), (2, 2, 2), (30, 30)])
def test_a_tenth_of_each_class_is_held_out(sizes):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    held = classifier._held_out(labels, np.random.default_rng(0))
    assert len(set(held)) == len(held)
    np.testing.assert_array_equal(
        np.bincount(labels[held], minlength=len(sizes)), [0 if n == 1 else max(1, n // 10) for n in sizes]
    )


@pytest.mark.parametrize("most", [0, 1, 3])
def test_images_are_shifted_and_edges_repeated(most):
    images = RNG.integers(0, 256, (200, 7, 9, 2), dtype=np.uint8)
    found, seen = classifier.shifted(images, most, np.random.default_rng(0)), set()
    rows, columns = np.arange(7), np.arange(9)
    for image, shifted in zip(images, found, strict=True):
        offsets = [
            (i, j)
            for i in range(-most, most + 1)
            for j in range(-most, most + 1)
            if np.array_equal(shifted, image[np.clip(rows + i, 0, 6)][:, np.clip(columns + j, 0, 8)])
        ]
        assert len(offsets) == 1
        seen.update(offsets)
    assert len(seen) == (2 * most + 1) ** 2
