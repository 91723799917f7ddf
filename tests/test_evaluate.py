"""The judge classifies digits, and each score detects the fault for which it is used."""

import json

import numpy as np
import pytest
from PIL import Image

from minigan import backends, datasets, losses, models
from minigan.cli import main
from minigan.errors import UserError
from minigan.metrics import Judge, Neighbourhoods, scores, table
from minigan.metrics.judge import WEIGHTS
from minigan.metrics.scores import DESCRIPTIONS, stratified_subsets
from minigan.report import plots
from minigan.runs.evaluate import draw, evaluate_images, real_scores
from minigan.training import Sampler

COUNT = 2000


@pytest.fixture(scope="module")
def judge():
    return Judge(backends.load("auto"))


@pytest.fixture(scope="module")
def test_digits(judge):
    """Returns (images, labels, features, probabilities) of the 10,000 test digits."""
    test = datasets.mnist("test")
    return test.images, test.labels, *judge.features_and_probabilities(test.images)


@pytest.fixture(scope="module")
def measure(judge, test_digits):
    """Returns a function that computes the scores of images, with few bootstrap samples."""
    reference = Neighbourhoods(test_digits[2])

    def values(images, labels=None):
        outputs = judge.features_and_probabilities(images)
        result = scores(*outputs, reference, labels, np.random.default_rng(0), rounds=5)
        return {name: s["value"] if isinstance(s, dict) else s for name, s in result.items()}

    return values


@pytest.fixture(scope="module")
def real(measure):
    train = datasets.mnist("train")
    images, labels = train.images[:COUNT], train.labels[:COUNT]
    return images, labels, measure(images, labels)


def test_the_judge_classifies_992_of_1000_test_digits(test_digits):
    _, labels, features, probabilities = test_digits
    assert (probabilities.argmax(axis=1) == labels).mean() >= 0.992
    assert features.shape == (10_000, 64) and features.dtype == probabilities.dtype == np.float64
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert WEIGHTS.stat().st_size < 1_000_000


def test_every_backend_computes_the_same_features(judge, test_digits):
    other = Judge(backends.load("numpy")).features_and_probabilities(test_digits[0][:50])
    np.testing.assert_allclose(other[0], test_digits[2][:50], atol=1e-3)
    np.testing.assert_allclose(other[1], test_digits[3][:50], atol=1e-4)


# ---------------------------------------------------------------- the scores


def test_real_digits_have_good_scores(real, measure):
    values = real[2]
    noise = np.random.default_rng(0).integers(0, 256, (COUNT, 28, 28, 1), dtype=np.uint8)
    assert values["frechet"] < 0.02 * measure(noise)["frechet"]
    assert values["confident"] > 0.97 and values["agreement"] > 0.99 and values["divergence"] < 0.01
    assert (
        values["coverage"] > 0.5 and 0.9 < values["density"] < 1.1
    )  # 2,000 samples cannot cover all 10,000 neighbourhoods


def test_a_little_noise_makes_every_distance_worse(real, measure):
    images, labels, values = real
    noise = np.random.default_rng(0).standard_normal(images.shape, dtype=np.float32)
    noisy = measure(datasets.unscale(datasets.scale(images) + 0.2 * noise), labels)  # a tenth of the range
    assert noisy["frechet"] > 2 * values["frechet"]
    assert noisy["coverage"] < values["coverage"] and noisy["density"] < values["density"]


def test_a_missing_digit_is_detected(measure, real):
    train = datasets.mnist("train")
    kept = train.images[train.labels != 4][:COUNT]
    values = measure(kept)
    assert values["classes"][4] < 0.01 * COUNT and values["divergence"] > 0.09
    assert values["frechet"] > 3 * real[2]["frechet"] and values["coverage"] < real[2]["coverage"]
    report = {"count": COUNT, "samples": {"classes": values["classes"]}, "real": {}}
    assert "collapse: the digits 4 hardly occur" in table(report)


@pytest.mark.slow
def test_constant_images_have_finite_scores(judge, tmp_path):
    report = evaluate_images(judge, np.zeros((100, 28, 28, 1), np.uint8), np.arange(100) % 10)
    values = report["samples"]
    assert all(np.isfinite([s["value"], s["low"], s["high"]]).all() for k, s in values.items() if k != "classes")
    assert values["coverage"]["value"] < 0.01 and values["divergence"]["value"] == pytest.approx(np.log(10))
    assert values["frechet"]["value"] > 10 * report["real"]["frechet"]["value"]
    plots.save_report(tmp_path / "r.png", np.zeros((100, 28, 28, 1), np.uint8), 10, report, DESCRIPTIONS)
    with Image.open(tmp_path / "r.png") as picture:
        assert picture.size == (1100, 650)
    assert table(report).count("\n") >= 7


@pytest.mark.slow
def test_judges_are_identified_by_their_weights(judge, tmp_path):
    with np.load(WEIGHTS) as saved:
        weights = dict(saved)
    np.savez(tmp_path / "same.npz", **weights)  # another file, the same weights
    weights["17.b"][-1] += 1
    np.savez(tmp_path / "other.npz", **weights)
    assert Judge(judge.network.backend, tmp_path / "same.npz").crc32 == judge.crc32
    assert Judge(judge.network.backend, tmp_path / "other.npz").crc32 != judge.crc32
    assert evaluate_images(judge, datasets.mnist("test").images[:100])["judge"] == judge.crc32


def test_images_of_other_shapes_are_refused(judge):
    for shape in ((200, 32, 32, 1), (200, 28, 28, 3), (99, 28, 28, 1)):
        with pytest.raises(UserError, match="at least 100 grey images of 28 x 28"):
            evaluate_images(judge, np.zeros(shape, np.uint8))


def test_labels_that_are_not_digits_are_refused(judge):
    with pytest.raises(
        UserError, match=r"agreement compares the labels with the digits 0 to 9: labels go from 0 to 9, got 25"
    ):
        evaluate_images(judge, np.zeros((100, 28, 28, 1), np.uint8), np.arange(100) % 26)


def test_digits_are_requested_in_their_share_of_the_training_images():
    codec = datasets.mnist("test").codec
    generator, _ = models.build("digits", rng=np.random.default_rng(0), classes=10)
    sampler = Sampler(generator, codec)
    images, labels = draw(sampler, 3000, seed=1)
    assert images.shape == (3000, 28, 28, 1) and images.dtype == np.uint8
    shares = np.bincount(datasets.mnist("train").labels) / 60_000
    np.testing.assert_allclose(
        np.bincount(labels), 3000 * shares, atol=1
    )  # to within one image, because the labels are not random
    again, other = draw(sampler, 100, seed=1), draw(sampler, 100, seed=2)
    assert np.array_equal(again[0], draw(sampler, 100, seed=1)[0]) and not np.array_equal(again[0], other[0])
    unlabelled, _ = models.build("digits", rng=np.random.default_rng(0))
    assert draw(Sampler(unlabelled, codec), 100)[1] is None


@pytest.mark.slow
def test_the_real_row_is_the_mean_of_subsets(judge, test_digits, measure):
    """This includes every score and the predicted classes."""
    reference = Neighbourhoods(test_digits[2])
    train = datasets.mnist("train")
    shown, rng = [], np.random.default_rng(3)
    found = real_scores(judge, reference, 2000, rng, rounds=2, progress=lambda parts: shown.extend(parts) or parts)
    subsets = stratified_subsets(train.labels, 2000, np.random.default_rng(3))
    assert np.array_equal(shown, subsets)
    each = [measure(train.images[subset], train.labels[subset]) for subset in subsets]
    for name in each[0]:
        mean = found[name] if name == "classes" else found[name]["value"]
        atol = 0.05 if name == "classes" else 1e-9
        np.testing.assert_allclose(mean, np.mean([values[name] for values in each], axis=0), rtol=0, atol=atol)
        assert name == "classes" or found[name]["low"] <= mean <= found[name]["high"]


def test_the_bootstrap_of_labelled_samples_keeps_the_labels(test_digits):
    """All samples are classified correctly, so that every bootstrap sample has the same class shares."""
    labels, features = test_digits[1][:500], test_digits[2][:500]
    reference = Neighbourhoods(features)
    for asked in (labels, None):
        rng = np.random.default_rng(0)
        found = scores(features, np.eye(10)[labels], reference, asked, rng, rounds=5)["divergence"]
        assert (found["high"] - found["low"] < 1e-12) is (asked is not None)


@pytest.mark.slow
def test_images_that_are_not_digits_are_compared_with_their_own_training_images(tmp_path, capsys):
    """Ten classes with labels 0 to 9 need not be digits: a classifier is trained on them."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "x.npz", images=rng.integers(0, 256, (80, 28, 28), dtype=np.uint8), labels=np.arange(80) % 10)
    options = ["--data", str(tmp_path / "x.npz"), "--steps", "1", "--quiet", "--out", str(tmp_path / "run")]
    assert main(["train", *options]) == 0
    assert main(["evaluate", str(tmp_path / "run"), "--count", "100"]) == 0
    output = capsys.readouterr()
    assert "digits 0 to 9" not in output.out + output.err and "held-out real images" in output.out
    report = json.loads((tmp_path / "run" / "evaluate.json").read_text())
    assert 0 <= report["agreement"] <= 1 and report["real"]["frechet"] < report["samples"]["frechet"]
    for name in ("evaluate.png", "nearest.png"):
        with Image.open(tmp_path / "run" / name) as picture:
            assert min(picture.size) > 50


def test_cross_entropy_and_its_gradient():
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((6, 4)), rng.integers(4, size=6)
    loss, dlogits = losses.cross_entropy(logits, labels)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert loss == pytest.approx(-np.log(p[np.arange(6), labels]).mean())
    d = rng.standard_normal(logits.shape)
    numeric = (
        losses.cross_entropy(logits + 1e-6 * d, labels)[0] - losses.cross_entropy(logits - 1e-6 * d, labels)[0]
    ) / 2e-6
    assert (dlogits * d).sum() == pytest.approx(numeric, rel=1e-7)
    huge = losses.cross_entropy(np.array([[1e4, 0.0]], np.float32), np.array([1]))
    assert huge[0] == 1e4 and huge[1].dtype == np.float32 and np.array_equal(huge[1], [[1, -1]])
    with pytest.raises(ValueError, match="expected logits"):
        losses.cross_entropy(logits, labels[:3])
