"""Any sensible combination of objectives, regularisers and optimizers trains, and any other is refused with the reason.

Hypothesis draws combinations of the options of Config and takes three steps of each, on every backend of the CPU.
"""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minigan import backends, datasets, losses, optim, penalties, runs
from minigan.errors import UserError
from minigan.layers import BatchNorm, Dropout, GaussianNoise, MinibatchStdDev, Pack, SpectralNorm
from minigan.models import PRESETS
from minigan.models.images import NORMS
from minigan.training import Config, Training, checkpoint

RUNS_HERE = [name for name in backends.available() if name != "cupy"]
IMAGE_PRESETS = [name for name, preset in PRESETS.items() if preset.kind == "images"]
N = 24


def data_for(preset: str, labelled: bool = True):
    """Returns a few small samples of the preset's kind."""
    rng = np.random.default_rng(0)
    if PRESETS[preset].kind == "points":
        return datasets.KINDS["points"].load("ring", datasets.KINDS["points"].options(points=N), 0, labelled)
    if PRESETS[preset].kind == "tables":
        kind = datasets.KINDS["tables"]
        return kind.load("penguins", kind.options(label="species"), 0, labelled)
    shape = datasets.KINDS[PRESETS[preset].kind].example_shape
    if PRESETS[preset].kind == "sequences":
        options, labels = datasets.KINDS["sequences"].options(), np.arange(N) % 3 if labelled else None
        return datasets.convert(rng.standard_normal((N, *shape)), labels, "sequences", options)
    images = rng.integers(0, 256, (N, *shape), dtype=np.uint8)
    return datasets.Images(images, np.arange(N) % 3 if labelled else None, "noise")


@st.composite
def combinations(draw) -> dict:
    """Draws a preset and values of the options that this file is about. Each option keeps its default half of the time.

    Some combinations cannot work.
    """
    preset = draw(st.sampled_from(list(PRESETS)))
    values = {
        "loss": st.sampled_from(list(losses.LOSSES)),
        "penalty": st.sampled_from(["none", *penalties.NAMES]),
        "optimizer": st.sampled_from(list(optim.OPTIMIZERS)),
        "clip_norm": st.sampled_from([0.1, 1.0]),
        "label_smoothing": st.sampled_from([0.1, 0.3]),
        "real_share": st.sampled_from([0.1, 0.3, 0.8]),
        "feature_matching": st.sampled_from([0.5, 1.0]),
        "pack": st.sampled_from([2, 3, 4]),
        "instance_noise": st.sampled_from([0.1, 1.0]),
        "instance_noise_until": st.sampled_from([0.5, 1.0]),
        "penalty_every": st.just(2),
        "d_steps": st.just(2),
        "g_steps": st.just(2),
        "simultaneous": st.booleans(),
        "conditional": st.booleans(),
        "average": st.just(0.9),
        "decay": st.just(True),
    }
    chosen = {name: draw(options) for name, options in values.items() if draw(st.booleans())}
    network = {}
    if "d_norm" in {field.name for field in dataclasses.fields(PRESETS[preset].options)} and draw(st.booleans()):
        network["d_norm"] = draw(st.sampled_from(NORMS))
    if draw(st.booleans()):
        network["d_minibatch_std"] = draw(st.sampled_from([0.0, 2.0]))
    return dict(preset=preset, batch=draw(st.sampled_from([4, 8])), network=network, **chosen)


def reason(c: dict) -> str | None:
    """Returns a part of the sentence with which the combination must be refused, or None if it must train.

    These rules are written a second time on purpose, so that a rule that refuses too much is noticed.
    """
    full = PRESETS[c["preset"]].recipe | c
    loss = full.get("loss", "non_saturating")
    penalty = c.get("penalty", {"wasserstein": "wgan-gp", "r3gan": "r1+r2"}.get(c.get("loss"), "none"))
    spectral = c["network"].get("d_norm", "spectral" if PRESETS[c["preset"]].build.__name__ == "digits" else "none")
    if c.get("label_smoothing") and loss not in ("non_saturating", "minimax", "least_squares"):
        return "no targets to smooth"
    if loss == "wasserstein" and penalty == "none" and spectral != "spectral":
        return "has no minimum"
    if loss in ("relativistic", "r3gan") and "real_share" in c:
        return "pairs each real sample"
    if full.get("simultaneous") and ("d_steps" in c or "g_steps" in c):
        return "one step of each player"
    if c["batch"] % c.get("pack", 1) or c["batch"] < 2 * c.get("pack", 1):
        return "divides the batch"
    labels = full.get("conditional", False)
    if labels and c["preset"] == "upsample":
        return "takes no labels"
    if labels and "pack" in c and (c["preset"] != "table" or c["network"].get("d_minibatch_std")):
        return "packing joins samples of different classes"
    return None


@pytest.mark.parametrize("backend", RUNS_HERE)
def test_a_combination_trains_or_is_refused_with_the_reason(backend):
    tried = {"trained": 0, "refused": 0}

    @settings(max_examples=250, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(combinations())
    def take_three_steps(c):
        expected = reason(c)
        try:
            training = Training(Config.of(**c, steps=3, lr_g=1e-3, lr_d=1e-3), data_for(c["preset"]), load(backend))
        except UserError as error:
            assert expected and expected in str(error) and "\n" not in str(error), (c, expected, str(error))
            tried["refused"] += 1
            return
        assert expected is None, (c, expected)
        before = {name: value.copy() for name, value in checkpoint.tensors(training).items()}
        records = list(training.records())
        assert [record["step"] for record in records] == [1, 2, 3]
        numbers = [record[name] for record in records for name in Training.CURVES]
        assert np.isfinite(numbers).all()
        for owner, network in (("G", training.G), ("D", training.D)):
            assert any((before[f"{owner}.{name}"] != value).any() for name, value in network.params.items()), owner
        assert int(training.opt_g.state["t"]) == 3 * training.config.g_steps
        assert int(training.opt_d.state["t"]) == 3 * training.config.d_steps
        tried["trained"] += 1

    take_three_steps()
    assert tried["trained"] >= 60 and tried["refused"] >= 60, tried


def load(name: str):
    """Loads the backend with one thread, because the arrays are small."""
    return backends.load(name, threads=1)


def short_run(backend="numpy", steps=3, preset="small", **choices) -> Training:
    config = Config.of(preset, **{"batch": 4, "steps": steps, "conditional": False} | choices)
    return Training(config, data_for(preset), load(backend))


# ---------------------------------------------------------------- what each option does


@pytest.mark.parametrize("preset", IMAGE_PRESETS)
@pytest.mark.parametrize("norm", NORMS)
def test_one_option_chooses_the_norm_of_d_on_every_preset_for_images(preset, norm):
    D = short_run(preset=preset, network={"d_norm": norm}).D
    kinds = {"spectral": SpectralNorm, "batch": BatchNorm, "dropout": Dropout}
    found = {name for name, kind in kinds.items() if any(isinstance(layer, kind) for layer in D.layers)}
    assert found == ({norm} if norm != "none" else set())


@pytest.mark.parametrize("preset", list(PRESETS))
@pytest.mark.parametrize("strength", [0.0, 2.0])
def test_one_option_adds_the_minibatch_standard_deviation_on_every_preset(preset, strength):
    D = short_run(preset=preset, network={"d_minibatch_std": strength}).D
    assert [layer.strength for layer in D.layers if isinstance(layer, MinibatchStdDev)] == [strength] * (strength > 0)


def test_a_loss_and_an_optimizer_bring_the_options_that_they_need():
    assert Config.of("small", loss="wasserstein").penalty == "wgan-gp"
    r3gan = Config.of("small", loss="r3gan")
    assert (r3gan.penalty, r3gan.penalty_weight) == ("r1+r2", losses.r3gan.recipe["penalty_weight"])
    assert Config.of("small", loss="r3gan", penalty="r1", penalty_weight=3).penalty_weight == 3
    assert Config.of("small", optimizer="rmsprop").beta2 == 0.9
    assert Config.of("small", optimizer="rmsprop", beta2=0.99).beta2 == 0.99
    assert Config.of("small", loss="relativistic").penalty == "none"


@pytest.mark.parametrize(
    ("share", "batch", "pack", "fakes"),
    [(0.5, 8, 1, 8), (0.2, 4, 1, 16), (0.8, 8, 1, 2), (0.9, 8, 1, 2), (0.9, 8, 4, 8), (0.4, 8, 4, 12)],
)
def test_the_share_of_real_samples_decides_the_number_of_fakes(share, batch, pack, fakes):
    config = Config.of("small", batch=batch, steps=1, conditional=False, real_share=share, pack=pack)
    assert Training(config, data_for("small"), load("numpy")).fakes_per_step == fakes


def test_both_optimizers_get_the_limit_of_the_gradients():
    for limit in (None, 0.5):
        training = short_run(clip_norm=limit)
        assert training.opt_g.clip_norm == training.opt_d.clip_norm == limit


def test_instance_noise_decreases_linearly_to_0():
    training = short_run(steps=8, instance_noise=0.4, instance_noise_until=0.5)
    layer = training.D.layers[0]
    assert isinstance(layer, GaussianNoise)
    levels = [layer.std for _ in training.records()]
    np.testing.assert_allclose(levels, [0.4, 0.3, 0.2, 0.1, 0, 0, 0, 0], atol=1e-12)


def test_no_new_instance_noise_after_the_learning_rate_decays_again():
    training = short_run(steps=2, instance_noise=0.4, decay=True)
    list(training.records())
    training.continue_to({"steps": 4})
    training.extend()
    next(iter(training.records()))
    assert training.D.layers[0].std == 0 and training.opt_g.lr > 0


def test_the_networks_of_a_run_with_packing_and_noise_are_shown():
    text = runs.header(short_run(pack=3, instance_noise=0.1, batch=6), None, resumed=False)
    assert "GaussianNoise(0.1)" in text and "Pack(3)" in text and "adam 0.0002" in text


def test_packing_joins_the_samples_that_d_judges():
    D = short_run(pack=2).D
    assert isinstance(D.layers[0], Pack)
    x = np.random.default_rng(0).standard_normal((4, *datasets.KINDS["images"].example_shape)).astype(np.float32)
    assert D.forward(x)[0].shape == (2, 1)


@pytest.mark.parametrize("backend", RUNS_HERE)
def test_a_run_with_every_option_resumes_to_the_same_bits(backend):
    def begin():
        return short_run(backend, steps=6, loss="least_squares", label_smoothing=0.1, optimizer="momentum", pack=2,
                         instance_noise=0.3, real_share=0.4, feature_matching=0.3, g_steps=2, d_steps=2, clip_norm=1.0,
                         penalty="wgan-gp", average=0.9, network={"d_norm": "dropout"})  # fmt: skip

    whole = begin()
    list(whole.records())
    half, again = begin(), begin()
    list(itertools.islice(half.records(), 3))
    arrays, facts = half.state()
    again.load_state("memory", {name: value.copy() for name, value in arrays.items()}, facts)
    list(again.records())
    expected, found = checkpoint.tensors(whole), checkpoint.tensors(again)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert np.asarray(found[name]).tobytes() == np.asarray(value).tobytes(), name


EVERYTHING = [
    {"loss": "wasserstein", "optimizer": "rmsprop", "instance_noise": 0.2, "network": {"d_minibatch_std": 2.0}},
    {"loss": "r3gan", "pack": 2, "g_steps": 2, "clip_norm": 0.5, "network": {"d_norm": "spectral"}},
    {"loss": "least_squares", "label_smoothing": 0.1, "real_share": 0.4, "optimizer": "momentum"},
    {"loss": "relativistic", "feature_matching": 0.5, "simultaneous": True, "average": 0.9, "optimizer": "sgd"},
    {"loss": "hinge", "conditional": True, "feature_matching": 1.0, "d_steps": 2, "network": {"d_norm": "dropout"}},
]


@pytest.mark.parametrize("choices", EVERYTHING, ids=lambda choices: choices["loss"])
def test_every_backend_trains_to_the_same_numbers(backend, choices):
    """On every backend, the CUDA kernels included, with the reference."""
    config = Config.of("small", **{"batch": 4, "steps": 3, "conditional": False} | choices)
    curves = []
    for one in (backends.load("numpy", threads=1), backend):
        training = Training(config, data_for("small"), one)
        curves.append([[record[name] for name in Training.CURVES] for record in training.records()])
    np.testing.assert_allclose(curves[1], curves[0], rtol=2e-3, atol=2e-4)
