"""Test stacked digits, the networks with a small discriminator, and the experiments stacked, modes and circle."""

import math
from pathlib import Path

import numpy as np
import pytest

from minigan import backends, datasets, models
from minigan.cli import main
from minigan.datasets import stacked
from minigan.errors import UserError
from minigan.lab import Results, Row
from minigan.lab.experiments import circle
from minigan.lab.experiments import stacked as experiment
from minigan.metrics.collapse import CELLS, Reference
from minigan.metrics.features import describe

# ---------------------------------------------------------------- the data


@pytest.fixture(scope="module")
def splits():
    return {split: datasets.load("stacked-mnist", datasets.ImageOptions(split=split)) for split in stacked.COUNTS}


@pytest.mark.parametrize(("split", "digits"), [("train", "train"), ("val", "test"), ("test", "test")])
def test_each_channel_is_a_digit_of_the_split_and_the_class_is_their_number(splits, split, digits):
    data, mnist = splits[split], datasets.mnist(digits)
    label_of = {image.tobytes(): label for image, label in zip(mnist.images, mnist.labels, strict=True)}
    assert data.images.shape == (stacked.COUNTS[split], 28, 28, 3) and data.images.flags.c_contiguous
    for i in range(0, len(data), len(data) // 50):
        digits_of = [label_of[data.images[i, ..., c].tobytes()] for c in range(3)]
        assert data.labels[i] == 100 * digits_of[0] + 10 * digits_of[1] + digits_of[2]
        assert data.class_names[data.labels[i]] == "".join(map(str, digits_of))


def test_stacked_digits_are_the_same_on_every_call_and_differ_between_splits(splits):
    again = datasets.stacked_mnist("val")
    assert again.fingerprint() == splits["val"].fingerprint() != splits["test"].fingerprint()
    assert len(np.unique(splits["train"].labels)) == 1000 == len(splits["train"].class_names)
    with pytest.raises(datasets.DataError, match="no split 'all': ask for train, val, test"):
        datasets.stacked_mnist("all")


def test_the_channels_are_independent_and_their_shares_are_those_of_the_digits(splits):
    labels = splits["train"].labels
    p = stacked.shares(datasets.mnist().labels)
    assert p.sum() == pytest.approx(1) and p[111] > p[555], "there are more ones than fives"
    expected = len(labels) * p
    chi_square = ((np.bincount(labels, minlength=1000) - expected) ** 2 / expected).sum()
    assert abs(chi_square - 999) < 5 * math.sqrt(2 * 999), "five standard deviations"


def test_a_check_of_a_thousand_classes_compares_cells(splits):
    """The features of a check do not tell a thousand classes apart, so that cells of k-means are the modes."""
    data, rng = splits["val"], np.random.default_rng(0)
    reference = Reference(describe(data.batch(np.arange(1600))), data.labels[:1600], rng)
    assert not reference.known and len(reference.modes.centres) == CELLS
    real = reference.compare(describe(data.batch(np.arange(2000, 2320))))
    same = reference.compare(describe(data.batch(np.full(320, 2000))))
    assert real["modes_covered"] >= 0.75 * CELLS and real["evenness"] > 0.8, "some cells have few samples"
    assert same["modes_covered"] <= 1 and same["evenness"] < 0.2


@pytest.mark.parametrize(("labels", "said"), [("unconditional", "not read"), ("conditional", "028, 029, ... (1,000")])
def test_train_takes_stacked_digits(labels, said, tmp_path, capsys):
    words = [f"--{labels}", "--preset", "mlp", "--steps", "1", "--batch", "4", "--backend", "numpy"]
    assert main(["train", "--data", "stacked-mnist", *words, "--out", str(tmp_path / "run")]) == 0
    assert said in capsys.readouterr().out
    assert main(["info", str(tmp_path / "run")]) == 0
    assert "stacked-mnist" in capsys.readouterr().out


# ---------------------------------------------------------------- the networks


def test_the_discriminator_has_a_part_of_the_channels():
    rng, shape = np.random.default_rng(0), (28, 28, 3)
    (G, D), (small_G, small_D) = (
        models.build("digits", rng=rng, sample_shape=shape, options={"d_width": width}) for width in (1, "0.25")
    )
    assert [layer.layer.params["w"].shape[-1] for layer in small_D.layers[:6:2]] == [4, 8, 16]
    assert [layer.layer.params["w"].shape[-1] for layer in D.layers[:6:2]] == [16, 32, 64]
    assert G.n_params == small_G.n_params
    with pytest.raises(UserError, match=r"d_width is at least 0\.125 and at most 8, got 0"):
        models.build("digits", rng=rng, options={"d_width": 0.0})


# ---------------------------------------------------------------- stacked


def test_modes_and_kl_of_known_triples():
    p = np.full(1000, 1e-3)
    every = np.array(np.unravel_index(np.arange(1000), (10, 10, 10))).T
    assert experiment.modes_and_kl(every, p) == (1000, pytest.approx(0, abs=1e-12))
    assert experiment.modes_and_kl(every[:500], p) == (500, pytest.approx(math.log(2)))
    assert experiment.modes_and_kl(np.full((7, 3), 4), p) == (1, pytest.approx(math.log(1000)))
    p[456], p[457] = 0.0019, 0.0001  # a share that is not equal
    assert experiment.modes_and_kl(np.array([[4, 5, 6]]), p) == (1, pytest.approx(-math.log(0.0019)))


def test_the_judge_reads_the_channels_in_their_order(splits):
    images, labels = splits["test"].images[:200], splits["test"].labels[:200]
    found = experiment.measured(images, backends.load("numpy", threads=1))
    assert abs(found["modes"] - len(np.unique(labels))) <= 5 and found["sure"] > 0.9
    digits = np.stack([labels // 100, labels // 10 % 10, labels % 10], axis=1)
    kl = experiment.modes_and_kl(digits, stacked.shares(datasets.mnist().labels))[1]
    assert found["kl"] == pytest.approx(kl, abs=0.03)


# ---------------------------------------------------------------- circle


def dirac(way: str, order: str, steps: int = 500, seed: int = 0, **options) -> np.ndarray:
    """Return the path (theta, psi) of a Dirac GAN, (steps + 1, 2) with steps at most 500."""
    settings = circle.DIRAC[f"Dirac GAN, {way}, {order}"] | {"steps": steps} | options
    return np.array(circle.dirac(Row("circle", "", seed, settings, Path()))["path"])


@pytest.mark.parametrize("order", circle.ORDERS)
@pytest.mark.parametrize("way", circle.WAYS)
def test_the_dirac_gan_follows_the_equations_of_the_paper(way, order):
    """The same steps, written as the gradients of the losses of psi * theta (Mescheder et al. 2018, section 2)."""
    found = dirac(way, order)
    (theta, psi), lr = found[0], circle.LR
    assert math.hypot(theta, psi) == pytest.approx(1, abs=1e-3)

    def s(x):
        return 1 / (1 + math.exp(-x))

    for expected in found[1:40]:
        before = psi
        slope = 1 if way == "WGAN-GP" else s(psi * theta)
        penalty = {"R1": psi, "WGAN-GP": 2 * 0.25 * (abs(psi) - 1) * np.sign(psi)}.get(way, 0)
        psi -= lr * (slope * theta + penalty)
        if order == "alternating":
            before = psi
        push = {"WGAN-GP": 1, "non-saturating": s(-before * theta)}.get(way, s(before * theta))
        theta += lr * before * push
        assert (theta, psi) == pytest.approx(tuple(expected), abs=2e-3)


def test_a_heavy_penalty_of_wgan_gp_brings_theta_to_twice_its_weight():
    theta, psi = dirac("WGAN-GP", "simultaneous", steps=2000, penalty_weight=3.0)[-1]
    assert abs(theta) == pytest.approx(6, abs=0.2) and psi == pytest.approx(0, abs=0.05)


def test_the_short_form_of_circle_fails_without_the_penalty(monkeypatch):
    rows = [
        {"arm": arm, "seed": seed, "settings": {}, "figures": {"distance": 1.2 if "plain" in arm else 1e-9}}
        for arm in circle.EXPERIMENT.quick.arms
        for seed in range(3)
    ]
    results = Results(rows, circle.EXPERIMENT.columns, circle.EXPERIMENT.arms.__iter__().__next__())
    assert circle.claim(results)[1]
    rows[-1]["figures"]["distance"] = 0.5  # one start of R1 did not converge
    assert not circle.claim(results)[1]
    rows[-1]["figures"]["distance"], rows[0]["figures"]["distance"] = 1e-9, 0.5
    assert not circle.claim(results)[1], "a plain one came closer"
