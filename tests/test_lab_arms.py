"""Test the experiments optimizers, pretrained, balance, normalise and collapse, and the measures that they share."""

import math

import numpy as np
import pytest

from minigan import backends, datasets, models
from minigan.lab import experiment, moments, runner
from minigan.lab.experiment import Row
from minigan.lab.experiments import balance, collapse, optimizers, pretrained
from minigan.lab.gans import config_for
from minigan.lab.results import Results
from minigan.layers import Dense, Flatten, Sequential
from minigan.report import experiments as drawings
from minigan.training import Config, Training

NAMES = ("optimizers", "pretrained", "balance", "normalise", "collapse")


def results(found: dict[str, list[dict]], columns) -> Results:
    """Return results with these figures: a list with one dictionary for each seed."""
    rows = [
        {"arm": arm, "seed": seed, "settings": {}, "figures": figures}
        for arm, of in found.items()
        for seed, figures in enumerate(of)
    ]
    return Results(rows, columns, next(iter(found)))


# ---------------------------------------------------------------- measures


def test_a_curve_reaches_a_level_where_its_logarithm_does():
    x, y = np.array([0.0, 10.0, 20.0]), np.array([100.0, 10.0, 1.0])
    assert moments.reached(x, y, 1.0) == 20
    assert moments.reached(x, y, 10**0.5) == pytest.approx(15)
    assert moments.reached(x, y, 1000) == 0
    assert math.isnan(moments.reached(x, y, 0.5))


def test_a_curve_that_rises_again_counts_from_its_first_moment():
    assert moments.reached(np.array([1.0, 2.0, 3.0]), np.array([4.0, 2.0, 8.0]), 3.0) < 2


def test_a_value_between_moments_is_that_of_a_line_in_the_logarithm():
    x, y = np.array([0.0, 10.0]), np.array([100.0, 1.0])
    assert moments.at(x, y, 5) == pytest.approx(10)
    assert math.isnan(moments.at(x, y, 11)) and math.isnan(moments.at(np.zeros(0), np.zeros(0), 1))


def test_a_mean_curve_ends_with_the_shortest_of_its_seeds():
    of = [{"moments": [{"s": 1.0, "d": 2.0}, {"s": 2.0, "d": 1.0}]}, {"moments": [{"s": 3.0, "d": 4.0}]}]
    x, y = moments.mean_curve(results({"a": of, "b": [{}]}, {}), "a", "s", "d")
    assert (x.tolist(), y.tolist()) == ([2.0], [3.0])
    assert len(moments.mean_curve(results({"b": [{}]}, {}), "b", "s", "d")[0]) == 0


def test_means_leave_out_moments_without_the_figure():
    assert moments.averaged([{"a": 1.0}, {"a": 2.0, "b": 5.0}, {}], ("a", "b", "c")) == {"a": 1.5, "b": 5.0}


def test_pictures_survive_as_text(rng):
    images = rng.integers(256, size=(3, 4, 5, 1)).astype(np.uint8)
    assert np.array_equal(moments.unpacked(moments.packed(images)), images)


def test_answers_are_those_of_a_discriminator_that_knows(rng):
    """D gives the mean brightness as its logit. The data are bright, new fakes grey, and held-out images dark."""
    shade = rng.integers(40, size=(300, 28, 28, 1), dtype=np.uint8)
    bright, dark = (datasets.Images(images, None, "shades") for images in (255 - shade, shade))
    G, _ = models.build("small", rng=rng)
    D = Sequential(Flatten(), Dense(28 * 28, 1, rng=rng))
    D.params["1.w"][...], D.params["1.b"][...] = 1 / 28**2, 0
    data = bright.holding(dark, "that are dark")
    training = Training(Config.of("small", batch=64, steps=1), data, backends.load("numpy"), (G, D))
    right = {"d_right_train": 1.0, "d_right_held_out": 0.0, "d_right_fakes": 1.0}
    assert moments.answers(training, 128) == right
    D.params["1.w"][...] *= -1
    assert moments.answers(training, 128)["d_right_fakes"] == 0.0
    D.params["1.w"][...] = 0
    assert set(moments.answers(training, 128).values()) == {0.5}


# ---------------------------------------------------------------- the experiments


@pytest.mark.parametrize("name", NAMES)
def test_every_arm_has_a_config(name, tmp_path):
    for arm, settings in experiment.load(name).arms.items():
        options = {key: value for key, value in settings.items() if key not in ("source", "projected", "freeze")}
        config_for(Row(name, arm, 0, {}, tmp_path), options)


def test_arms_of_one_experiment_differ():
    for name in NAMES:
        arms = experiment.load(name).arms
        assert len({str(settings) for settings in arms.values()}) == len(arms), name


def test_rates_are_chosen_by_held_out_digits_alone():
    found = {
        optimizers.arm("SGD", rate): [{"validation": value, "frechet": 100 - value}]
        for rate, value in zip(optimizers.RATES["SGD"][1], (5.0, 3.0, 4.0, math.nan), strict=True)
    }
    found[optimizers.arm("Adam", 1e-4)] = [{"diverged": "step 3"}]
    of = results(found, experiment.load("optimizers").columns)
    rate = optimizers.RATES["SGD"][1][1]
    assert optimizers.chosen(of) == {"SGD": rate}
    assert optimizers.then(of) == {"SGD": optimizers.settings("SGD", rate, optimizers.LONG)}
    assert "edge" not in optimizers.verdict(of)[0]


def test_a_rate_at_the_edge_of_the_grid_is_named():
    rates = optimizers.RATES["Adam"][1]
    of = results(
        {optimizers.arm("Adam", rate): [{"validation": rate}] for rate in rates}, experiment.load("optimizers").columns
    )
    assert "edge of the grid" in optimizers.verdict(of)[0]


def test_the_digits_that_choose_are_not_trained_on():
    data, held_out = optimizers.divided(datasets.mnist())
    assert (len(data), len(held_out)) == (50_000, 10_000) and data.held_out is None
    seen = {image.tobytes() for image in data.images[::50]}
    assert not seen & {image.tobytes() for image in held_out}
    again, _ = optimizers.divided(datasets.mnist())
    assert again.fingerprint() == data.fingerprint()


def curve(*distances: float) -> dict:
    """Return the figures of a row of `pretrained` with these distances at its moments."""
    of = zip(pretrained.MOMENTS[-len(distances) :], distances, strict=True)
    return {"frechet": distances[-1], "moments": [{"moment": s / 180, "seconds": s, "frechet": d} for s, d in of]}


def test_the_best_arm_is_the_one_that_reaches_the_distance_of_scratch_first():
    of = results(
        {
            "scratch": [curve(9, 8, 7), curve(11, 8, 5), curve(10, 8, 6)],
            "projected": [curve(8, 6, 3)] * 3,
            "frozen": [curve(9, 9, 9)],
        },
        experiment.load("pretrained").columns,
    )
    first, *rest = pretrained.verdict(of)
    assert first.startswith("target missed: seconds until projected reaches the distance 6.00") and " 120," in first
    assert any("frozen never reaches it" in line for line in rest)
    sooner = results({"scratch": [curve(9, 8, 6)], "projected": [curve(5, 4, 3)]}, of.columns)
    assert pretrained.verdict(sooner)[0].startswith("target met")


def test_a_lead_of_zero_is_guessing():
    assert balance.lead({"d_right_train": 0.9, "d_right_fakes": 0.1}) == pytest.approx(0)
    assert balance.lead({"d_right_train": 1.0, "d_right_fakes": 1.0}) == 0.5


def test_a_way_out_adds_to_the_way_in():
    way_in = collapse.WAYS_IN["no spectral norm"]
    assert collapse.settings(way_in, collapse.WAYS_OUT["minibatch std"])["network"] == {
        "d_norm": "none",
        "d_minibatch_std": 5.0,
    }
    lower = collapse.settings(collapse.WAYS_IN["G's rate x 30"], collapse.WAYS_OUT["lower G rate"])
    assert lower["lr_g"] == pytest.approx(3 * collapse.RATE)


def looks(*near: float) -> list[dict]:
    """Return what the alarm sees in epochs in which this share of the samples resembles the data."""
    row = {"d_loss": 1.0, "g_loss": 1.0, "d_real": 0.6, "d_fake": 0.4, "d_gradient": 1.0, "g_gradient": 1.0}
    row |= {"copies": 0.0, "modes": 10, "modes_covered": 10, "evenness": 1.0, "coverage": 0.5}
    row |= {"d_right_train": 0.6}
    return [{"row": row | {"near": n, "step": 100 * k}, "problems": {}} for k, n in enumerate(near, 1)]


def test_the_epoch_of_the_alarm_is_the_first_that_it_reports():
    assert collapse.alarmed(looks(1, 1, 1)) is None
    assert collapse.alarmed(looks(1, 1, 0, 0, 0)) == 5  # after three checks in a row
    assert collapse.alarmed(looks(0, 0, 0, 0, 0, 0)) == 5


def test_matrices_show_larger_numbers_brighter():
    values = np.array([[0.0, 10.0], [np.nan, 5.0]])
    picture = drawings.matrices({"digits": (values, 10, 0)}, ["a", "b"], ["c", "d"])
    other = drawings.matrices({"digits": (values.T, 10, 0)}, ["a", "b"], ["c", "d"])
    assert picture.dtype == np.uint8 and picture.shape == other.shape and not np.array_equal(picture, other)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "arm"), [("balance", balance.EVEN), ("normalise", "small, spectral norm")])
def test_a_short_row_has_every_column(name, arm, tmp_path):
    report = runner.run(name, tmp_path, seeds=1, minutes=0.05, jobs=1, only=arm, quiet=True)
    assert not report.failed
    (row,) = report.results.rows
    assert report.results.columns.keys() - {"ms"} <= row["figures"].keys()
    assert (tmp_path / "figure.png").exists()
