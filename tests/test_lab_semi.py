"""Test the experiments semi-supervised, augment and fakes-only: losses, resuming, transformations, verdicts."""

from types import SimpleNamespace

import numpy as np
import pytest

from minigan import backends, datasets
from minigan.lab import Results, Row, classify, semi
from minigan.lab.experiments import augment, fakes_only, semi_supervised
from minigan.layers import Dense
from minigan.metrics import classifier

# ---------------------------------------------------------------- the losses of D


def of_all_classes(real: np.ndarray, fake: np.ndarray) -> float:
    """Return the loss with K + 1 probabilities: -mean log(1 - p(fake class)) - mean log p(fake class)."""
    probabilities = []
    for logits in (real, fake):
        p = np.exp(np.concatenate([logits, np.zeros((len(logits), 1))], axis=1))
        probabilities.append(p[:, -1] / p.sum(axis=1))
    return float(-np.log(1 - probabilities[0]).mean() - np.log(probabilities[1]).mean())


def test_the_loss_is_that_of_a_softmax_with_a_class_for_fakes():
    rng = np.random.default_rng(0)
    real, fake = 2 * rng.standard_normal((5, 10)), 2 * rng.standard_normal((3, 10))
    assert np.isclose(semi.real_or_fake(real, fake)[0], of_all_classes(real, fake), rtol=1e-12)


def test_the_gradients_of_the_loss_are_numerical_derivatives():
    rng = np.random.default_rng(1)
    logits = {"real": 2 * rng.standard_normal((4, 10)), "fake": 2 * rng.standard_normal((3, 10))}
    _, d_real, d_fake = semi.real_or_fake(**logits)
    for name, gradient in (("real", d_real), ("fake", d_fake)):
        for index in np.ndindex(gradient.shape):
            values = []
            for step in (1e-5, -1e-5):
                moved = {key: value.copy() for key, value in logits.items()}
                moved[name][index] += step
                values.append(float(semi.real_or_fake(**moved)[0]))
            assert np.isclose(gradient[index], (values[0] - values[1]) / 2e-5, rtol=1e-6, atol=1e-10)


def test_large_logits_do_not_overflow():
    logits = np.array([[800.0, 0.0], [-800.0, -900.0]])
    Z, softmax = semi.log_sum_exp(logits)
    assert Z.ravel().tolist() == [800.0, -800.0] and np.allclose(softmax, [[1.0, 0.0], [1.0, 0.0]])


# ---------------------------------------------------------------- the learner


def learner(steps: int = 6, **how) -> semi.Learner:
    data = datasets.mnist("test").part(np.arange(600))
    chosen = classify.per_class(data.labels, 2, np.random.default_rng(0))
    recipe = semi.Recipe(steps, **how)
    return semi.Learner(data.images, chosen, data.labels[chosen], recipe, 3, backends.load("auto", threads=1))


def test_every_unit_starts_with_mean_0_and_variance_1_and_keeps_its_length():
    found = learner()
    x = found.batch(np.random.default_rng([3, 1]).integers(600, size=500))
    for layer in found.D.layers:
        x, _ = layer.forward(x)
        if isinstance(layer, Dense):
            assert np.abs(x.mean(axis=0)).mean() < 0.08 and np.abs(x.std(axis=0) - 1).mean() < 0.08  # the noise differs
    before = [layer.params["w"].copy() for layer in found.hidden]
    found.train_step()
    for w, layer, length in zip(before, found.hidden, found.lengths, strict=True):
        assert np.abs(layer.params["w"] - w).max() > 1e-4
        assert np.allclose(np.linalg.norm(layer.params["w"], axis=0), length, rtol=1e-5)


def test_g_learns_the_features_of_digits_if_d_stands_still():
    found = learner(steps=1000, lr_d=1e-12)
    matching = [found.train_step()[2] for _ in range(12)]
    assert np.mean(matching[-3:]) < 0.5 * np.mean(matching[:3])


def test_without_a_gan_d_learns_the_labelled_digits_alone():
    found = learner(steps=100, gan=False)
    generator = found.G.pack().copy()
    losses = [found.train_step() for _ in range(30)]
    assert len(losses[0]) == 1 and losses[-1][0] < 0.3 * losses[0][0] and (found.G.pack() == generator).all()
    few = datasets.mnist("test").images[found.chosen]
    assert (found.predict(few) == found.labels).mean() > 0.9


def row(folder, **settings) -> Row:
    folder.mkdir(exist_ok=True, parents=True)
    return Row("own", "one", 3, settings, folder)


def test_an_interrupted_learner_continues_to_the_same_numbers(tmp_path, monkeypatch):
    def measure(found: semi.Learner) -> dict:
        return {"first": int(found.predict(datasets.mnist("test").images[:500]).sum())}

    whole, whole_row = learner(), row(tmp_path / "whole")
    expected = semi.train(whole_row, whole, (0.5, 1.0), measure)
    assert [one["step"] for one in expected] == [3, 6]

    class Killed(Exception):
        pass

    def killed(found: semi.Learner) -> tuple[float, ...]:
        if found.step == 4:
            raise Killed
        return step(found)

    step = semi.Learner.train_step
    with monkeypatch.context() as patch:
        patch.setattr(semi.Learner, "train_step", killed)
        with pytest.raises(Killed):
            semi.train(row(tmp_path / "killed"), learner(), (0.5, 1.0), measure)
    again, again_row = learner(), row(tmp_path / "killed")
    found = semi.train(again_row, again, (0.5, 1.0), measure)
    without_time = [[{k: v for k, v in one.items() if k != "seconds"} for one in ones] for ones in (found, expected)]
    assert without_time[0] == without_time[1] and again_row.logged == whole_row.logged
    for name, value in semi.checkpoint.tensors(whole).items():
        assert (semi.checkpoint.tensors(again)[name] == value).all(), name


# ---------------------------------------------------------------- classifiers


def few_digits(count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    data = datasets.mnist("test")
    return data.images[:count], data.labels[:count]


def test_a_classifier_shifts_its_images_by_default():
    images, labels = few_digits()
    backend, test = backends.load("numpy"), few_digits(10)

    def weights(**how) -> np.ndarray:
        return classifier.train(images, labels, backend, steps=3, test=test, **how).network.pack().copy()

    def as_before(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return classifier.shifted(images, int(classifier.SHIFT * min(images.shape[1:3])), rng)

    losses: list[float] = []
    assert (weights(watch=losses.append) == weights(transform=as_before)).all()
    assert (weights() != weights(transform=augment.unchanged)).any() and len(losses) == 3 and losses[0] > 1


def test_images_per_class_are_balanced_and_differ():
    labels = datasets.mnist("test").labels
    index = classify.per_class(labels, 7, np.random.default_rng(0))
    assert np.bincount(labels[index]).tolist() == [7] * 10 and len(set(index.tolist())) == 70


def test_few_images_get_all_steps(tmp_path, monkeypatch):
    images, labels = few_digits(20)
    steps = []
    own = row(tmp_path)
    monkeypatch.setattr(own, "log", steps.append)
    found = classify.accuracy(own, images, labels, (images, labels), 40)
    assert len(steps) == 40 and found > 80


def always_the_largest(low: float, high: float, size) -> np.ndarray:
    return np.full(size, high)


@pytest.mark.parametrize(
    ("degrees", "pixels", "expected"),
    [
        (0, 0, lambda x: x),
        (90, 0, lambda x: np.rot90(x, -1, axes=(1, 2))),
        (0, 2, lambda x: np.pad(x, ((0, 0), (2, 0), (2, 0), (0, 0)), mode="edge")[:, :-2, :-2]),
    ],
)
def test_images_are_rotated_and_shifted(degrees, pixels, expected, monkeypatch):
    monkeypatch.setattr(augment, "DEGREES", degrees)
    monkeypatch.setattr(augment, "PIXELS", pixels)
    images = np.random.default_rng(0).integers(256, size=(3, 9, 9, 3), dtype=np.uint8)
    found = augment.moved(images, SimpleNamespace(uniform=always_the_largest))
    assert found.dtype == np.uint8 and (found == expected(images)).all()


def test_half_a_pixel_is_the_mean_of_two(monkeypatch):
    monkeypatch.setattr(augment, "DEGREES", 0)
    monkeypatch.setattr(augment, "PIXELS", 0.5)
    image = np.zeros((1, 6, 6, 1), np.uint8)
    image[0, 2, 2] = 100
    found = augment.moved(image, SimpleNamespace(uniform=always_the_largest))[0, :, :, 0]
    assert found[2:4, 2:4].tolist() == [[25, 25], [25, 25]] and found.sum() == 100


# ---------------------------------------------------------------- augment


def test_all_methods_get_the_same_labelled_images_and_the_gan_gets_only_these(tmp_path, monkeypatch):
    seen, trained = {}, []

    def accuracy(row, images, labels, test, steps, transform):
        seen[row.settings["method"]] = images, labels, transform
        return 50.0

    def shared(row, name, options, data):
        trained.append(data)
        sampler = SimpleNamespace(classes=10, draw=lambda count, rng: np.full((count, 28, 28, 1), 7, np.uint8))
        return SimpleNamespace(sampler=sampler)

    monkeypatch.setattr(augment, "accuracy", accuracy)
    monkeypatch.setattr(augment, "shared", shared)
    for method in augment.METHODS:
        assert augment.run(row(tmp_path / method, data="mnist", each=10, method=method)) == {"accuracy": 50.0}
    few = np.unique(seen["nothing"][0].reshape(-1, 784), axis=0)
    assert len(few) == 100 and len(trained) == 2
    for data in trained:
        assert (np.unique(data.images.reshape(-1, 784), axis=0) == few).all()
    for images, labels, _ in seen.values():
        assert len(images) == len(labels) == augment.COUNT
        real = images[: augment.COUNT // 2]
        assert (np.unique(real.reshape(-1, 784), axis=0) == few).all()
    assert {method: found[2].__name__ for method, found in seen.items()} == {
        "nothing": "unchanged", "shifts and rotations": "moved", "fakes": "unchanged", "both": "moved"
    }  # fmt: skip
    for method in ("fakes", "both"):
        images, labels, _ = seen[method]
        assert (images[augment.COUNT // 2 :] == 7).all()
        assert (labels[augment.COUNT // 2 :] == np.arange(augment.COUNT // 2) % 10).all()


def results(module, values: dict[str, list[float]], figure: str) -> Results:
    rows = [
        {"arm": arm, "seed": seed, "settings": {}, "figures": {figure: value, "seconds": 300.0}}
        for arm, its in values.items()
        for seed, value in enumerate(its)
    ]
    return Results(rows, module.EXPERIMENT.columns, next(iter(module.EXPERIMENT.arms)))


def test_the_verdict_of_augment_counts_where_fakes_help():
    values = {}
    for each, fakes in ((10, [90.0, 91.0, 92.0]), (50, [70.0, 71.0, 72.0]), (100, [79.0, 80.5, 81.0])):
        values[augment.arm("digits", each, "nothing")] = [80.0, 80.1, 80.2]
        values[augment.arm("digits", each, "fakes")] = fakes
    lines = augment.verdict(results(augment, values, "accuracy"))
    assert lines[0] == "Fakes alone help in 1 of 3 cases, harm in 1, and show no difference in 1"
    assert any("digits, 10 per class, fakes" in line and line.endswith("it helps") for line in lines)
    assert any("digits, 50 per class, fakes" in line and line.endswith("it harms") for line in lines)


def test_the_short_form_of_augment_claims_that_shifts_and_rotations_help():
    def found(moved: float) -> tuple[str, bool]:
        arms = {
            augment.arm("digits", 10, "nothing"): [74.0],
            augment.arm("digits", 10, "shifts and rotations"): [moved],
        }
        return augment.EXPERIMENT.quick.claim(results(augment, arms, "accuracy"))

    assert found(94.0)[1] and "+20.00" in found(94.0)[0] and not found(73.0)[1]


# ---------------------------------------------------------------- fakes-only and semi-supervised


@pytest.mark.parametrize(
    ("fakes", "said"),
    [
        (98.5, "worth more than 1,000 real digits, and at most 10,000"),
        (99.5, "60,000 fakes are worth more than 60,000 real digits"),
    ],
)
def test_the_verdict_of_fakes_only_names_the_real_digits_that_are_worth_as_much(fakes, said):
    real = {
        fakes_only.arm("real digits", count): [value]
        for count, value in zip(fakes_only.COUNTS, (80, 95, 98.6, 99.4), strict=True)
    }
    lines = fakes_only.verdict(results(fakes_only, real | {fakes_only.arm("fakes", 60_000): [fakes]}, "accuracy"))
    assert f"only reads {fakes:.2f}% of the real test digits" in lines[0] and said in lines[1]


@pytest.mark.parametrize(("draws", "met"), [([100, 149, 150, 900, 800], True), ([100, 149, 151, 900, 800], False)])
def test_the_target_of_semi_supervised_is_the_median_of_the_draws(draws, met):
    lines = semi_supervised.verdict(results(semi_supervised, {semi_supervised.TARGET: draws}, "errors"))
    assert lines[0].startswith("target met" if met else "target missed") and "5 draws" in lines[0]
    assert semi_supervised.TARGET in semi_supervised.EXPERIMENT.arms
