"""Checks of a training: they change no bit, stay within their time, and are written where they are promised."""

import csv
import functools
import json
import time

import numpy as np
import pytest

import minigan
from minigan import backends, datasets, models, runs
from minigan.cli import main
from minigan.layers import Dense, Flatten, Reshape, Sequential
from minigan.metrics import alarm
from minigan.metrics.collapse import FIGURES
from minigan.runs import checks as checks_module
from minigan.runs import run as run_module
from minigan.runs.checks import Checks
from minigan.training import Config, Training, checkpoint

reference = backends.reference()
ALWAYS = functools.partial(Checks, every=0, share=1e9)


def image_data(count: int = 300, side: int = 8, seed: int = 0) -> datasets.Images:
    images = np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return datasets.convert(images, np.arange(count) % 3, "images", datasets.ImageOptions())


def training_of(preset: str, backend, samples=None, **options) -> Training:
    config = Config.of(preset, **{"batch": 8, "epochs": 2, "seed": 1} | options)
    if samples is None:
        samples = runs.load_data(config) if models.PRESETS[preset].kind == "points" else image_data(60)
        samples = datasets.hold_out(samples, 0.2, 0)
    return Training(config, samples, backend)


CASES = {
    "spectral norm, a moving average and labels": ("digits", {}),
    "batch norm in both": ("digits", {"network": {"d_norm": "batch"}, "simultaneous": False, "d_steps": 2}),
    "dropout and a random penalty": ("mlp", {"penalty": "wgan-gp", "loss": "minimax"}),
    "points": ("points", {"data": "ring", "data_options": {"points": 60}}),
}


@pytest.mark.parametrize(("preset", "options"), CASES.values(), ids=CASES)
def test_a_run_with_checks_has_the_same_bits_as_one_without(preset, options, backend, monkeypatch):
    without, checked = (training_of(preset, backend, **options) for _ in range(2))
    runs.play(without, None, quiet=True)
    monkeypatch.setattr(run_module, "Checks", ALWAYS)
    runs.play(checked, None, quiet=True)
    assert all("d_gradient" in row for row in checked.history) and "d_gradient" not in without.history[0]
    own, other = (checkpoint.tensors(t) for t in (without, checked))
    for name in own:
        assert np.array_equal(backend.to_numpy(own[name]), backend.to_numpy(other[name])), name
    for t in ("noise", "penalty_rng"):
        assert getattr(without, t).bit_generator.state == getattr(checked, t).bit_generator.state
    assert without.curves == checked.curves and without.step == checked.step


@pytest.mark.parametrize(("preset", "options"), CASES.values(), ids=CASES)
def test_a_check_depends_on_the_seed_and_the_step_only(preset, options):
    training = training_of(preset, reference, **options)
    next(training.records())
    first, again, other = Checks(training).measure(), Checks(training), Checks(training)
    other.measure()
    for found in (again.measure(), other.measure()):
        assert {**found, "check_seconds": 0} == {**first, "check_seconds": 0}
    assert list(first) == [name for name in FIGURES if name in first]
    expected = {name for name in FIGURES if not name.startswith("labels") and name != "variety"}
    assert expected <= first.keys(), "every figure that these data allow"


def test_figures_that_the_data_do_not_allow_are_absent():
    training = training_of("mlp", reference, image_data(30))
    next(training.records())
    found = Checks(training).measure()
    assert "modes" not in found and "d_right_held_out" not in found and found["d_gradient"] > 0
    labelled, few = training_of("digits", reference), datasets.hold_out(image_data(), 0.01, 0)
    next(labelled.records())
    assert {"labels_followed", "labels_known"} <= Checks(labelled).measure().keys()
    training = training_of("mlp", reference, few)
    next(training.records())
    assert "d_right_held_out" in Checks(training).measure(), "fewer held-out samples than a batch"


def test_the_time_of_a_check_is_not_training_time(monkeypatch):
    training, clock, passed = training_of("mlp", reference), time.perf_counter, [0.0]

    def describe(samples):
        passed[0] += 1000
        return samples.reshape(len(samples), -1).astype(np.float64)

    monkeypatch.setattr(time, "perf_counter", lambda: clock() + passed[0])
    monkeypatch.setattr(checks_module, "describe", describe)
    monkeypatch.setattr(run_module, "Checks", ALWAYS)
    runs.play(training, None, quiet=True)
    assert all(row["check_seconds"] >= 1000 for row in training.history)
    assert training.seconds < 1000


class Clock:
    """A training of which only the seconds matter."""

    def __init__(self, step_seconds: float):
        self.seconds, self.step, self.of_step = 0.0, 0, step_seconds
        self.config = Config(batch=64)
        self.data = range(10_000)

    def epoch(self, seconds: float) -> None:
        self.seconds, self.step = self.seconds + seconds, self.step + round(seconds / self.of_step)


@pytest.mark.parametrize(
    ("epoch", "first", "each"),
    [(3.0, 0.3, 0.1), (25.0, 5.0, 2.0), (0.5, 0.05, 0.02), (300.0, 0.3, 0.1), (40.0, 3.0, 3.0)],
)
def test_checks_stay_within_their_share_and_their_distance(epoch, first, each, monkeypatch):
    clock = Clock(0.02)
    checks, moments = Checks(clock), []
    monkeypatch.setattr(checks, "_estimate", lambda: first)

    def measure():
        took = each if moments else first
        checks.last, checks.spent, checks.expected = clock.seconds, checks.spent + took, each
        moments.append(clock.seconds)
        assert checks.spent <= 0.02 * clock.seconds
        return {"modes": 1}

    monkeypatch.setattr(checks, "measure", measure)
    for _ in range(round(2000 / epoch)):
        clock.epoch(epoch)
        assert bool(checks.when_due()) == (bool(moments) and moments[-1] == clock.seconds)
    distances = np.diff([0, *moments])
    assert distances.min() >= 20
    least = max(20, each / 0.02, epoch)
    assert len(moments) >= 0.8 * (2000 - first / 0.02) / (least + epoch), "checks that the share allows take place"


def test_the_time_of_the_first_check_is_estimated_from_what_it_does():
    training = training_of("small", reference, image_data(2500, 16))
    next(training.records())
    checks = Checks(training)
    checks.measure()  # what is loaded on first use
    ratios = [Checks(training)._estimate() / Checks(training).measure()["check_seconds"] for _ in range(5)]
    assert 1 / 4 < np.median(ratios) < 4


# ---------------------------------------------------------------- where the figures are written


@pytest.fixture
def always(monkeypatch):
    monkeypatch.setattr(run_module, "Checks", ALWAYS)


LINE = ["train", "--preset", "mlp", "--batch", "16", "--backend", "numpy", "--seed", "0"]


def write_data(tmp_path, count: int = 120) -> str:
    np.save(tmp_path / "x.npy", image_data(count).images)
    return str(tmp_path / "x.npy")


def test_the_history_has_the_figures_and_the_same_columns_from_the_start(tmp_path, monkeypatch):
    class Second(Checks):
        def when_due(self):
            return self.measure() if self.training.epoch == 2 else {}

    monkeypatch.setattr(run_module, "Checks", Second)
    out, headers = tmp_path / "r", []

    def callback(record):
        if (out / "history.csv").exists():
            headers.append((out / "history.csv").read_text().splitlines()[0])

    gan = minigan.GAN("mlp", batch=16, backend="numpy", epochs=3, verbose=0, out=out, callback=callback)
    gan.fit(image_data(120).images)
    assert len(set(headers)) == 1
    with open(out / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[-len(FIGURES) :] == list(FIGURES)
    assert [bool(row["modes"]) for row in rows] == [False, True, False]
    assert [("modes" in row) for row in gan.history_] == [False, True, False]
    assert float(rows[1]["d_gradient"]) == gan.history_[1]["d_gradient"]
    assert rows[1]["d_right_held_out"] == "" and "d_right_held_out" not in gan.history_[1]
    assert minigan.load(out).history_ == gan.history_
    facts = json.dumps(checkpoint.load(out / "checkpoint.npz")[1])
    assert "NaN" not in facts and "Infinity" not in facts


def test_a_callback_gets_the_figures_and_the_warnings(always):
    seen = []
    gan = minigan.GAN("mlp", batch=16, backend="numpy", epochs=6, verbose=0, lr_d=0.5, callback=seen.append)
    gan.fit(image_data(120).images)
    with_figures = [record for record in seen if "figures" in record]
    assert [record["end_of_epoch"] for record in seen] == ["figures" in record for record in seen]
    assert with_figures[1]["figures"]["modes"] == gan.history_[1]["modes"]
    warned = [text for record in seen for text in record.get("alarms", ())]
    assert sum("absurd" in text for text in warned) == 1


def test_a_run_of_an_earlier_version_is_read_resumed_and_drawn(tmp_path, capsys, monkeypatch):
    data, out = write_data(tmp_path), tmp_path / "r"
    assert main([*LINE, "--data", data, "--out", str(out), "--epochs", "2", "--quiet"]) == 0
    config = json.loads((out / "config.json").read_text())
    del config["hold_out"], config["stop_on"]
    (out / "config.json").write_text(json.dumps(config))
    rows = (out / "history.csv").read_text().splitlines()
    (out / "history.csv").write_text("\n".join(",".join(row.split(",")[: -len(FIGURES)]) for row in rows) + "\n")
    monkeypatch.setattr(run_module, "Checks", ALWAYS)
    assert main(["train", "--resume", "--out", str(out), "--epochs", "4", "--quiet"]) == 0
    with open(out / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [bool(row["modes"]) for row in rows] == [False, False, True, True]
    assert (out / "losses.png").exists() and len(minigan.load(out).history_) == 4


def test_a_collapse_stops_the_run_that_asks_for_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(alarm, "ignores_noise", lambda samples, labels: "the same sample for every noise")
    monkeypatch.setattr(alarm, "MIN_STEPS", 1)
    data, out = write_data(tmp_path), tmp_path / "r"
    line = [*LINE, "--data", data, "--out", str(out), "--epochs", "5"]
    assert main([*line, "--stop-on", "collapse"]) == 1
    assert "stopped at step 21, because stop_on is collapse" in capsys.readouterr().err
    assert checkpoint.load(out / "checkpoint.npz")[1]["epoch"] == 3 and (out / "final.png").exists()
    assert main(["train", "--resume", "--out", str(out), "--stop-on", "none"]) == 0
    assert checkpoint.load(out / "checkpoint.npz")[1]["epoch"] == 5
    unbroken = tmp_path / "unbroken"
    assert main([*line[:-3], str(unbroken), "--epochs", "5", "--quiet"]) == 0
    arrays, others = (checkpoint.load(run / "checkpoint.npz")[0] for run in (out, unbroken))
    assert all(np.array_equal(arrays[name], others[name]) for name in arrays), "the same bits as without a stop"


def test_a_healthy_run_is_not_stopped(tmp_path, always):
    data = write_data(tmp_path)
    assert main([*LINE, "--data", data, "--out", str(tmp_path / "r"), "--epochs", "2", "--stop-on", "collapse"]) == 0


def test_d_is_asked_about_training_samples_held_out_samples_and_fakes():
    """D takes bright samples for real; the training samples are bright, the held-out ones dark, half of the fakes."""
    rng = np.random.default_rng(0)
    G, D = Sequential(Dense(1, 16, rng=rng), Reshape(4, 4, 1)), Sequential(Flatten(), Dense(16, 1, rng=rng))
    D.params["1.w"][...] = G.params["0.w"][...] = 1
    G.noise_shape = (1,)
    bright, dark = (datasets.convert(np.full((40, 4, 4), v, np.uint8), None, "images", EVERY_VALUE) for v in (250, 5))
    data = bright.holding(dark, "")
    training = Training(Config.of("mlp", batch=16, steps=1), data, reference, networks=(G, D))
    found = Checks(training).measure()
    assert found["d_right_train"] == 1 and found["d_right_held_out"] == 0
    assert 0.55 < found["d_right_fakes"] < 0.8  # the middle is half of a standard deviation above the mean
    assert "dead_units" not in found


EVERY_VALUE = datasets.ImageOptions(range="0,255")
