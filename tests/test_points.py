"""Data of the kind points: training, sampling and resuming, and the Data protocol for every kind of data."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from minigan import backends, datasets, runs
from minigan.cli import main
from minigan.datasets import points
from minigan.runs.discriminator import context, draw_discriminator, probabilities
from minigan.training import Config, Training


def images(count: int, seed: int) -> datasets.Images:
    rng = np.random.default_rng(seed)
    return datasets.Images(rng.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8), np.arange(count) % 2, "random")


def ring(count: int, seed: int) -> datasets.Points:
    return points.load("ring", points.PointsOptions(points=count), seed)


def people(count: int, seed: int) -> datasets.Table:
    pytest.importorskip("pandas", reason="needs minigan[tables]")
    rng = np.random.default_rng(seed)
    columns = {"age": rng.integers(18, 80, count), "size": rng.random(count) * 100, "city": ["Bern", "Oslo"] * count}
    columns = {name: list(values)[:count] for name, values in columns.items()}
    return datasets.tables.convert(columns, "city", datasets.tables.TableOptions(columns="age:integer"))


def walks(count: int, seed: int) -> datasets.Sequences:
    x = np.cumsum(np.random.default_rng(seed).integers(-3, 4, (count, 6, 2)), axis=1)
    return datasets.sequences.convert(x, None, datasets.sequences.SequenceOptions())


@pytest.mark.parametrize("make", [images, ring, people, walks])
@given(count=st.integers(4, 40), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_decoding_inverts_a_batch(make, count, seed):
    data = make(count, seed)
    index = np.random.default_rng(seed).permutation(count)
    x = data.to(backends.reference()).batch(index)
    assert x.dtype == np.float32 and x.shape == (count, *data.sample_shape) and len(data) == count
    original = {images: "images", ring: "points", people: "frame"}.get(make)
    expected = data.series() if original is None else np.asarray(getattr(data, original))
    np.testing.assert_array_equal(data.codec.decode(x), expected[index])
    assert data.labels is None or len(data.class_names) == data.labels.max() + 1 or make is ring


@pytest.mark.parametrize("make", [images, ring, people, walks])
def test_a_codec_is_rebuilt_from_its_fields_in_a_checkpoint(make):
    import dataclasses

    codec = make(9, 0).codec
    kept = json.loads(json.dumps(dataclasses.asdict(codec)))
    assert datasets.KINDS[make(9, 0).kind].codec(**kept) == codec


@pytest.mark.parametrize("make", [images, ring, people, walks])
def test_a_batch_is_on_the_backend(make, backend):
    data = make(9, 0).to(backend)
    x = data.batch(backend.asarray(np.array([3, 1, 3])))
    assert isinstance(x, backend.xp.ndarray)
    np.testing.assert_array_equal(backend.to_numpy(x), make(9, 0).batch(np.array([3, 1, 3])))


def test_the_seed_determines_the_points():
    assert ring(9, 1).fingerprint() == ring(9, 1).fingerprint() != ring(9, 2).fingerprint()
    assert ring(9, 1).fingerprint() != ring(8, 1).fingerprint()


@pytest.mark.parametrize(("data", "epochs", "least"), [("ring", 4, 8), ("grid", 1, 0)])
def test_points_are_learned_from_the_command_line(data, epochs, least, tmp_path, capsys):
    """All modes of the ring are covered after a few epochs. For the grid, the test only shows that training runs."""
    out = tmp_path / data
    options = ["--epochs", str(epochs), "--backend", "numpy", "--threads", "1", "--out", str(out)]
    assert main(["train", "--data", data, *options]) == 0
    text = capsys.readouterr().out
    assert (
        f"data       {data}: 20,000 points of 2" in text and f"kind       points, because {data} is a mixture" in text
    )
    assert main(["sample", str(out), "--count", "2000", "--out", str(out / "s.npy"), "--backend", "numpy"]) == 0
    covered, share = (
        datasets.mixtures.ring().coverage(np.load(out / "s.npy"))
        if data == "ring"
        else (datasets.mixtures.grid().coverage(np.load(out / "s.npy")))
    )
    assert covered >= least and share >= (0.8 if least else 0)
    for picture in ("final.png", "training.gif", "losses.png"):
        with Image.open(out / picture) as opened:
            assert min(opened.size) > 100
    assert main(["sample", str(out), "--count", "5", "--out", str(out / "s.csv"), "--backend", "numpy"]) == 0
    lines = (out / "s.csv").read_text().splitlines()
    assert lines[0] == "x,y" and len(lines) == 6
    assert main(["evaluate", str(out)]) == 2
    assert "evaluate compares images, tables and series, but" in capsys.readouterr().err


def test_a_resumed_run_draws_the_same_points(tmp_path, capsys):
    """The option --points is in config.json. The result is bit-identical to that of an uninterrupted run."""
    quick = ["--data", "ring", "--points", "600", "--batch", "64", "--backend", "numpy", "--threads", "1", "--quiet"]
    for name, epochs in (("whole", 4), ("run", 2)):
        assert main(["train", *quick, "--epochs", str(epochs), "--no-decay", "--out", str(tmp_path / name)]) == 0
    config = runs.read_config(tmp_path / "run")
    assert (config.preset, config.kind, config.data, config.data_options) == (
        "points",
        "points",
        "ring",
        {"points": 600},
    )
    assert (
        main(["train", "--resume", "--epochs", "4", "--points", "600", "--quiet", "--out", str(tmp_path / "run")]) == 0
    )
    a, b = (runs.resume(tmp_path / name).state()[0] for name in ("whole", "run"))
    assert all(np.array_equal(a[name], b[name]) for name in a) and len(a["curves"]) == 4 * 9 * 4
    assert main(["train", "--resume", "--network", "width=2", "--out", str(tmp_path / "run")]) == 2
    assert "the networks of preset points have no option width" in capsys.readouterr().err
    assert main(["train", "--resume", "--points", "700", "--out", str(tmp_path / "run")]) == 2
    assert "was started with data_options {'points': 600}" in capsys.readouterr().err


def test_conditional_points_are_near_the_requested_mode():
    t = Training(Config.of("points", conditional=True, epochs=20), ring(4000, 0), backends.reference())
    list(t.records())
    samples = t.sampler.draw(400, np.random.default_rng(0), label=3)
    nearest, _ = datasets.mixtures.ring().nearest(samples)
    assert (nearest == 3).mean() > 0.8


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["--data", "mnist", "--points", "9"],
            "data of the kind images have no option points, only split, keys, size, fit, channels, range, ",
        ),
        (["--preset", "points", "--data", "mnist"], "preset points is for points, and mnist is a set of images: "),
        (["--preset", "digits", "--kind", "points"], "preset digits is for images, got --kind points"),
        (
            ["--data", "ring", "--preset", "small"],
            "preset small is for images, and ring is a mixture of Gaussians in the plane",
        ),
        (["--data", "ring", "--points", "1"], "points is at least 2, got 1"),
        (["--network", "d_norm"], "argument --network: expected NAME=VALUE, got 'd_norm'"),
        (
            ["--network", "width=2"],
            "the networks of preset digits have no option width, only d_norm, d_minibatch_std, g_width",
        ),
    ],
)
def test_incompatible_options_are_refused(arguments, says, tmp_path, capsys):
    assert main(["train", *arguments, "--backend", "numpy", "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- the discriminator next to the best one


def trained(**choices) -> Training:
    choices = {"data": "ring", "steps": 3, "batch": 8, "backend": "numpy", "data_options": {"points": 200}} | choices
    training = runs.begin(Config.of("points", **choices), None)
    list(training.records())
    return training


def test_the_discriminator_is_drawn_next_to_the_best_one():
    picture = draw_discriminator(trained())
    height, width, _ = picture.shape
    assert picture.dtype == np.uint8 and width > 2 * height * 0.9
    assert not (picture[:, : width // 2] == picture[:, -(width // 2) :]).all()


@pytest.mark.parametrize(
    "choices", [{"conditional": True}, {"pack": 2}, {"preset": "small", "data": "mnist", "data_options": {}}]
)
def test_no_best_discriminator_where_d_does_not_judge_single_points_of_a_known_density(choices):
    if choices.get("data") == "mnist":
        images = datasets.Images(np.zeros((20, 8, 8, 1), np.uint8), None, "black")
        training = Training(Config.of("small", batch=4, steps=1, conditional=False), images, backends.load("numpy"))
        assert draw_discriminator(training) is None
    else:
        assert draw_discriminator(trained(**choices)) is None


def test_the_probability_of_a_point_is_that_in_a_batch_with_its_companions():
    """D has the minibatch standard deviation, so that the batch decides."""
    training = trained()
    D, rng = training.D, np.random.default_rng(0)
    x, others = rng.standard_normal((70, 2)).astype(np.float32), rng.standard_normal((5, 2)).astype(np.float32)
    found = probabilities(D, x, others)
    for i in (0, 31, 69):
        logits, _ = D.forward(np.concatenate([x[i : i + 1], others]), train=False)
        assert math.isclose(found[i], 1 / (1 + math.exp(-float(logits[0, 0]))), rel_tol=1e-5)


def test_half_of_the_companions_are_real():
    training = trained()
    fakes = np.full((40, 2), 7, np.float32)
    companions = context(training, fakes)
    assert (companions[1::2] == 7).all() and (companions[::2] == training.data.points[:31:2]).all()
