"""The judge reads digits, and its figures notice what they are for."""

import numpy as np
import pytest
from PIL import Image

from minigan import backends, datasets, losses, models
from minigan.cli import main
from minigan.errors import UserError
from minigan.metrics import evaluate as judging
from minigan.report import plots

COUNT = 2000


@pytest.fixture(scope="module")
def judge():
    return judging.Judge(backend=backends.load("auto"))


@pytest.fixture(scope="module")
def test_digits(judge):
    """(images, labels, features, probabilities) of the 10,000 test digits."""
    test = datasets.mnist("test")
    return test.images, test.labels, *judge.look(test.images)


@pytest.fixture(scope="module")
def measure(judge, test_digits):
    """Images -> their figures, as `evaluate` computes them, with few bootstrap rounds."""
    reference = test_digits[2]
    balls = judging.Neighbourhoods(reference)

    def figures(images, labels=None):
        result = judging.figures(judge.look(images), reference, balls, labels, np.random.default_rng(0), rounds=5)
        return {name: f["value"] if isinstance(f, dict) else f for name, f in result.items()}

    return figures


@pytest.fixture(scope="module")
def real(measure):
    train = datasets.mnist("train")
    images, labels = train.images[:COUNT], train.labels[:COUNT]
    return images, labels, measure(images, labels)


def test_the_judge_reads_992_of_1000_test_digits(test_digits):
    _, labels, features, probabilities = test_digits
    assert (probabilities.argmax(axis=1) == labels).mean() >= 0.992
    assert features.shape == (10_000, 64) and features.dtype == probabilities.dtype == np.float64
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert judging.WEIGHTS.stat().st_size < 1_000_000


def test_every_backend_sees_the_same(judge, test_digits):
    other = judging.Judge(backend=backends.load("numpy")).look(test_digits[0][:50])
    np.testing.assert_allclose(other[0], test_digits[2][:50], atol=1e-3)
    np.testing.assert_allclose(other[1], test_digits[3][:50], atol=1e-4)


# ---------------------------------------------------------------- the figures


def test_real_digits_are_near_the_floor(real, measure):
    figures = real[2]
    noise = np.random.default_rng(0).integers(0, 256, (COUNT, 28, 28, 1), dtype=np.uint8)
    assert figures["frechet"] < 0.02 * measure(noise)["frechet"]
    assert figures["confident"] > 0.97 and figures["agreement"] > 0.99 and figures["divergence"] < 0.01
    assert figures["coverage"] > 0.5 and 0.9 < figures["density"] < 1.1  # 2,000 images cannot reach 10,000 balls


def test_a_little_noise_makes_every_distance_worse(real, measure):
    images, labels, figures = real
    noise = np.random.default_rng(0).standard_normal(images.shape, dtype=np.float32)
    noisy = measure(datasets.unscale(datasets.scale(images) + 0.2 * noise), labels)  # 0.1 of the range of 2
    assert noisy["frechet"] > 2 * figures["frechet"]
    assert noisy["coverage"] < figures["coverage"] and noisy["density"] < figures["density"]


def test_a_missing_digit_is_noticed(measure, real):
    train = datasets.mnist("train")
    kept = train.images[train.labels != 4][:COUNT]
    figures = measure(kept)
    assert figures["classes"][4] < 0.01 * COUNT and figures["divergence"] > 0.09
    assert figures["frechet"] > 3 * real[2]["frechet"] and figures["coverage"] < real[2]["coverage"]
    report = {"count": COUNT, "samples": {"classes": figures["classes"]}, "real": {}}
    assert "collapse: the digits 4 hardly occur" in judging.table(report)


def test_constant_images_end_in_a_result(judge, tmp_path):
    report = judging.evaluate(judge, np.zeros((100, 28, 28, 1), np.uint8), np.arange(100) % 10)
    figures = report["samples"]
    assert all(np.isfinite([f["value"], f["low"], f["high"]]).all() for k, f in figures.items() if k != "classes")
    assert figures["coverage"]["value"] < 0.01 and figures["divergence"]["value"] == pytest.approx(np.log(10))
    assert figures["frechet"]["value"] > 10 * report["real"]["frechet"]["value"]
    plots.save_report(tmp_path / "r.png", np.zeros((100, 28, 28, 1), np.uint8), 10, report, judging.EXPLAINED)
    with Image.open(tmp_path / "r.png") as picture:
        assert picture.size == (1100, 650)
    assert judging.table(report).count("\n") >= 7


def test_judges_are_told_apart(judge, tmp_path):
    with np.load(judging.WEIGHTS) as saved:
        weights = dict(saved)
    np.savez(tmp_path / "same.npz", **weights)  # another file, the same weights
    weights["17.b"][-1] += 1
    np.savez(tmp_path / "other.npz", **weights)
    assert judging.Judge(tmp_path / "same.npz").crc32 == judge.crc32 != judging.Judge(tmp_path / "other.npz").crc32
    assert judging.evaluate(judge, datasets.mnist("test").images[:100])["judge"] == judge.crc32


def test_what_is_no_digit_is_refused(judge):
    for shape in ((200, 32, 32, 1), (200, 28, 28, 3), (99, 28, 28, 1)):
        with pytest.raises(UserError, match="at least 100 grey images of 28 x 28"):
            judging.evaluate(judge, np.zeros(shape, np.uint8))


def test_labels_that_are_no_digits_are_refused(judge):
    with pytest.raises(UserError, match=r"agreement is with the digits 0 to 9 .* labels go from 0 to 9, got 25"):
        judging.evaluate(judge, np.zeros((100, 28, 28, 1), np.uint8), np.arange(100) % 26)


def test_digits_are_asked_for_as_often_as_they_occur():
    generator, _ = models.build("digits", rng=np.random.default_rng(0), classes=10)
    images, labels = judging.draw(generator, 3000, seed=1)
    assert images.shape == (3000, 28, 28, 1) and images.dtype == np.uint8
    shares = np.bincount(datasets.mnist("train").labels) / 60_000
    np.testing.assert_allclose(np.bincount(labels), 3000 * shares, atol=1)  # to one image, no lot is drawn
    again, other = judging.draw(generator, 100, seed=1), judging.draw(generator, 100, seed=2)
    assert np.array_equal(again[0], judging.draw(generator, 100, seed=1)[0]) and not np.array_equal(again[0], other[0])
    unlabelled, _ = models.build("digits", rng=np.random.default_rng(0))
    assert judging.draw(unlabelled, 100)[1] is None


def test_lots_of_real_images_share_none_and_hold_each_digit_in_its_share():
    labels = datasets.mnist("train").labels
    for count, lots in ((10_000, 6), (7000, 6), (25_000, 2), (60_000, 1)):
        found = judging._lots(labels, count, np.random.default_rng(0))
        assert [len(lot) for lot in found] == [count] * lots
        assert len(np.unique(np.concatenate(found))) == count * lots
        for lot in found:
            np.testing.assert_allclose(np.bincount(labels[lot]), np.bincount(labels) * count / 60_000, atol=1)
    one, other = (judging._lots(labels, 10_000, np.random.default_rng(seed))[0] for seed in (0, 1))
    assert 0.1 < np.isin(one, other).mean() < 0.25  # a sixth, by chance: which images, the seed decides


def test_the_real_row_is_the_mean_of_lots(judge, test_digits, measure):
    """Every figure, and the classes as read."""
    balls = judging.Neighbourhoods(test_digits[2])
    train = datasets.mnist("train")
    shown, rng = [], np.random.default_rng(3)
    found = judging.real_figures(
        judge, test_digits[2], balls, 2000, rng, rounds=2, progress=lambda lots: shown.extend(lots) or lots
    )
    lots = judging._lots(train.labels, 2000, np.random.default_rng(3))
    assert np.array_equal(shown, lots)
    each = [measure(train.images[lot], train.labels[lot]) for lot in lots]
    for name in each[0]:
        have = found[name] if name == "classes" else found[name]["value"]
        atol = 0.05 if name == "classes" else 1e-9
        np.testing.assert_allclose(have, np.mean([figures[name] for figures in each], axis=0), rtol=0, atol=atol)
        assert name == "classes" or found[name]["low"] <= have <= found[name]["high"]


def test_bootstrap_keeps_the_number_of_each_label():
    labels = np.array([3, 1, 3, 3, 0, 1, 3])
    drawn = np.array([judging._again(labels, np.random.default_rng(seed)) for seed in range(200)])
    assert (np.sort(labels[drawn]) == np.sort(labels)).all()
    assert (np.bincount(drawn.ravel(), minlength=7) / 200 > 0.7).all()  # each of them is drawn, once on average


def test_the_interval_of_labelled_samples_is_that_for_these_labels(test_digits):
    """Read without a mistake, they are as often of each class in every bootstrap sample."""
    labels, features = test_digits[1][:500], test_digits[2][:500]
    balls = judging.Neighbourhoods(features)
    for asked in (labels, None):
        rng = np.random.default_rng(0)
        found = judging.figures((features, np.eye(10)[labels]), features, balls, asked, rng, rounds=5)["divergence"]
        assert (found["high"] - found["low"] < 1e-12) is (asked is not None)


def test_labels_of_other_data_get_no_agreement(tmp_path, capsys):
    """Ten classes that happen to be numbered like the digits are no digits."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "x.npz", images=rng.integers(0, 256, (80, 28, 28), dtype=np.uint8), labels=np.arange(80) % 10)
    options = ["--data", str(tmp_path / "x.npz"), "--steps", "1", "--quiet", "--out", str(tmp_path / "run")]
    assert main(["train", *options]) == 0
    assert main(["evaluate", str(tmp_path / "run"), "--count", "100"]) == 0
    output = capsys.readouterr()
    assert "the 10 labels of" in output.err and "no agreement" in output.err and "asked for" not in output.out
    assert (tmp_path / "run" / "evaluate.png").exists()


# ---------------------------------------------------------------- what they are made of


def test_frechet_of_gaussians_is_its_closed_form():
    """Samples with exactly the means and covariances wanted; commuting covariances, where the root is elementwise."""
    rng = np.random.default_rng(0)
    white = rng.standard_normal((500, 4))
    white = (white - white.mean(axis=0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(white, rowvar=False))).T
    turn = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    a, b = np.array([1.0, 2.0, 3.0, 0.0]), np.array([2.0, 2.0, 0.5, 0.0])  # standard deviations
    shift = np.array([1.0, 0.0, -2.0, 0.5])
    expected = (shift**2).sum() + ((a - b) ** 2).sum()
    x, y = white * a @ turn.T, white * b @ turn.T + shift
    assert judging.frechet(x, y) == pytest.approx(expected, rel=1e-9)
    assert judging.frechet(x, x) == pytest.approx(0, abs=1e-6) and judging.frechet(x, x) >= 0


def test_neighbourhoods_are_those_of_plain_loops():
    rng = np.random.default_rng(0)
    real, samples = rng.standard_normal((40, 3)), rng.standard_normal((30, 3))
    held, hit = judging.Neighbourhoods(real, k=5).holding(samples)
    radii = [sorted(np.linalg.norm(real - r, axis=1))[5] for r in real]  # place 0 is the image itself
    inside = np.array(
        [[np.linalg.norm(s - r) <= radius for r, radius in zip(real, radii, strict=True)] for s in samples]
    )
    assert np.array_equal(held, inside.sum(axis=1)) and np.array_equal(hit, inside.any(axis=0))


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
