"""Training: the seed determines every bit, the state is complete, and totals and options are checked."""

import dataclasses
import functools
import gc
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from minigan import backends, datasets, losses, penalties
from minigan import options as options_module
from minigan.errors import UserError
from minigan.layers import Dense, Flatten, Layer, Reshape, Sequential, Tanh
from minigan.models import PRESETS
from minigan.options import options
from minigan.training import Config, Diverged, Training
from minigan.training import training as training_module
from minigan.training.config import RESUMABLE

RUNS_HERE = [name for name in backends.available() if name != "cupy"]
TINY = datasets.Images(np.random.default_rng(0).integers(0, 256, (70, 8, 8, 1), dtype=np.uint8), None, "tiny")


def training(backend="numpy", data=TINY, **choices) -> Training:
    config = Config.of(**{"preset": "tutorial", "batch": 16, "epochs": 2, "average": 0.9, **choices})
    return Training(config, data, backends.load(backend) if isinstance(backend, str) else backend)


def same(a: Training, b: Training) -> bool:
    """Returns whether two trainings are in the same state, to the bit."""
    (arrays, facts), (arrays_b, facts_b) = a.state(), b.state()
    assert arrays.keys() == arrays_b.keys()
    facts["seconds"] = facts_b["seconds"] = 0  # times differ
    for row in facts["history"] + facts_b["history"]:
        row.update(seconds=0, epoch_seconds=0, images_per_second=0)
    return facts == facts_b and all(arrays[k].tobytes() == arrays_b[k].tobytes() for k in arrays)


# ---------------------------------------------------------------- reproducibility


@pytest.mark.parametrize("backend", RUNS_HERE)
@pytest.mark.parametrize("choices", [{"simultaneous": False, "d_steps": 2}, {"simultaneous": True}])
def test_the_seed_decides_every_bit(backend, choices):
    a, b, c = (training(backend, seed=seed, **choices) for seed in (5, 5, 6))
    for t in (a, b, c):
        list(t.records())
    assert same(a, b) and not same(a, c)


@pytest.mark.slow
@pytest.mark.parametrize("backend", RUNS_HERE)
def test_the_number_of_threads_decides_no_bit(backend):
    results = []
    for threads in (1, 2, 3, 4):
        results.append(training(backends.load(backend, threads=threads)))
        list(results[-1].records())
    assert all(same(results[0], other) for other in results[1:])


def test_drawing_samples_changes_nothing():
    a, b = training(), training()
    for _ in a.records():
        a.sampler.of(a.fixed_noise)
        a.samples(3), a.state(), a.rows()
    list(b.records())
    assert same(a, b)


@pytest.mark.parametrize("backend", RUNS_HERE)
def test_a_miniature_training_reproduces_its_losses(backend):
    """Losses of four steps of `small` on fixed pixels. The expected values are those of the NumPy backend."""
    t = training(backend, preset="small", average=0.0, lr_g=2e-3, lr_d=2e-3)
    losses = [[record["d_loss"], record["g_loss"]] for record in t.records()][:4]
    np.testing.assert_allclose(losses, MINIATURE, rtol=2e-5)


MINIATURE = [[1.386106, 0.693525], [1.384614, 0.692029], [1.382402, 0.693617], [1.380173, 0.69536]]


@pytest.mark.parametrize("backend", RUNS_HERE)
def test_a_restored_state_continues_to_the_same_bits(backend):
    """The state is saved in the middle of an epoch and restored into a new Training."""
    whole, first = training(backend), training(backend)
    list(whole.records())
    for record in first.records():
        if record["step"] == 6:  # an epoch is 70 // 16 = 4 steps
            break
    second = training(backend)
    second.load_state("here", *first.state())
    assert (second.step, second.epoch, second.cursor) == (6, 1, 32)
    list(second.records())
    assert same(whole, second)


def test_each_epoch_uses_each_image_at_most_once():
    numbered = datasets.Images(np.repeat(np.arange(70, dtype=np.uint8), 64).reshape(70, 8, 8, 1), None, "numbered")
    t = training(data=numbered, epochs=None, steps=8)
    orders = []
    for epoch in range(2):
        t.epoch, t.cursor, t._order = epoch, 0, None
        seen = [datasets.unscale(t._next_batch()[0])[:, 0, 0, 0] for _ in range(4)]
        orders.append(np.concatenate(seen))
        assert len(set(orders[-1])) == 64
    assert not np.array_equal(*orders)


def test_records_and_history_agree_with_the_steps():
    t = training()
    records = list(t.records())
    assert [r["step"] for r in records] == list(range(1, 9))
    assert [r["end_of_epoch"] for r in records] == [False, False, False, True] * 2
    assert [(row["epoch"], row["step"]) for row in t.history] == [(1, 4), (2, 8)]
    for name in Training.CURVES:
        assert np.isclose(t.history[1][name], np.mean([r[name] for r in records[4:]]), atol=1e-5)
    assert 0 < t.history[0]["seconds"] < t.history[1]["seconds"]


def test_an_incomplete_epoch_has_a_row():
    t = training(epochs=None, steps=6)
    list(t.records())
    assert [(row["epoch"], row["step"]) for row in t.rows()] == [(1, 4), (2, 6)] and len(t.history) == 1


# ---------------------------------------------------------------- labels


def labelled(varied: int = 0, **choices) -> Training:
    """Returns a training on images whose pixels are 25 times the label, plus up to `varied` for each image.

    The brightness of a generated image shows its label. Without `varied`, D could detect fakes by the minibatch
    standard deviation alone, because it is 0 for real images of one label.
    """
    labels = np.arange(70) % 10
    grey = 25 * labels + np.random.default_rng(0).integers(0, varied, 70, endpoint=True)
    images = np.repeat(grey.astype(np.uint8), 64).reshape(70, 8, 8, 1)
    data = datasets.Images(images, labels, "numbered")
    return training(data=data, **{"preset": "digits", "average": 0.0, "batch": 32} | choices)


def test_a_conditional_generator_depends_on_its_labels():
    t = labelled(varied=25, epochs=None, steps=400, lr_g=3e-3, lr_d=3e-3)
    list(t.records())
    means = t.samples(100).mean(axis=(1, 2, 3)).reshape(10, 10).mean(axis=0)  # one column per label
    assert np.corrcoef(means, np.arange(10))[0, 1] > 0.9


def test_batches_contain_the_labels_of_their_images():
    real, labels = labelled()._next_batch()
    assert np.array_equal(datasets.unscale(real)[:, 0, 0, 0], 25 * labels)


def test_without_labels_the_networks_are_unconditional():
    assert training(preset="digits").classes == 0  # the data have none
    assert labelled(conditional=False).classes == 0  # the option is off
    t = labelled()
    assert t.classes == 10 and t.fixed_labels.tolist() == list(range(10)) * 10


def test_labels_and_spectral_norm_continue_to_the_same_bits():
    whole, first, second = (labelled(epochs=3, average=0.9) for _ in range(3))
    list(whole.records())
    for record in first.records():
        if record["step"] == 3:
            break
    second.load_state("here", *first.state())
    list(second.records())
    assert same(whole, second)


# ---------------------------------------------------------------- the learning rate


def test_the_learning_rate_decreases_to_zero_at_the_horizon():
    t = training(epochs=None, steps=8, decay=True, lr_g=4e-3, lr_d=8e-3)
    rates = [(t.opt_g.lr, t.opt_d.lr) for _ in t.records()]
    np.testing.assert_allclose(rates, [(4e-3 * (1 - i / 8), 8e-3 * (1 - i / 8)) for i in range(8)])
    with pytest.raises(UserError, match="decay needs a total"):
        Config(decay=True)


def test_the_decrease_of_the_learning_rate_can_start_later():
    t = training(epochs=None, steps=8, decay=True, decay_from=0.25, lr_g=4e-3, lr_d=8e-3)
    shares = [t.opt_g.lr / 4e-3 for _ in t.records()]
    np.testing.assert_allclose(shares, [1, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])
    assert t.opt_d.lr == 2 * t.opt_g.lr
    t.continue_to({"steps": 16})
    assert t.decay_is_over()
    t.extend()  # a new decay starts with its own constant part
    shares = [t.opt_g.lr / 4e-3 for _ in t.records()]
    np.testing.assert_allclose(shares, [1, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])


def test_a_larger_total_keeps_the_horizon():
    t = training(epochs=3, decay=True)
    further = training(epochs=9, decay=True)
    assert (t.horizon, further.horizon) == ({"epochs": 3}, {"epochs": 9})
    further.load_state("here", *t.state())
    assert further.horizon == {"epochs": 3} and further.config.epochs == 9


# ---------------------------------------------------------------- totals


@pytest.mark.parametrize(
    ("totals", "steps"),
    [({"epochs": 1}, 4), ({"steps": 3}, 3), ({"epochs": 1, "steps": 9}, 4), ({"minutes": 1e-9, "epochs": None}, 1)],
)
def test_the_first_total_reached_ends_the_run(totals, steps):
    t = training(**{"epochs": None, **totals})
    assert len(list(t.records())) == steps and t.finished()
    assert t.steps_in_all() == (None if "minutes" in totals else steps)


def test_a_total_replaces_the_recipes_epochs():
    assert Config.of("small").epochs == PRESETS["small"].recipe["epochs"]
    assert Config.of("small", steps=5).epochs is None
    assert Config.of("small", steps=5, epochs=2).epochs == 2


# ---------------------------------------------------------------- config


@pytest.mark.parametrize("preset", PRESETS)
def test_a_config_is_rebuilt_from_its_json(preset):
    config = Config.of(preset, seed=3, minutes=1.5)
    assert Config.from_json(config.to_json()) == config
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 4


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not the config"),
        ("[]", "not the config"),
        ('{"colour": 1}', "colour"),
        ('{"batch": "x"}', "not the config"),
    ],
)
def test_a_wrong_config_is_refused(text, says):
    with pytest.raises(UserError, match=says):
        Config.from_json(text)


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ({"preset": "big"}, "unknown preset"),
        ({"loss": "mse"}, "unknown loss 'mse': choose non_saturating, minimax, hinge"),
        ({"batch": 1}, "batch is at least 2"),
        ({"batch": 0}, "batch is at least 2, got 0"),
        ({"epochs": 0}, "epochs is at least 1"),
        ({"threads": 0}, "threads is at least 1"),
        ({"seed": -1}, "seed is at least 0, got -1"),
        ({"minutes": 0.0}, "minutes is above 0 and finite, got 0.0"),
        ({"minutes": float("nan")}, "minutes is above 0 and finite, got nan"),
        ({"lr_g": 0.0}, "lr_g is above 0"),
        ({"lr_d": float("inf")}, "lr_d is above 0 and finite"),
        ({"beta1": 1.0}, "beta1 is at least 0 and below 1"),
        ({"average": -0.1}, "average is at least 0"),
        ({"label_smoothing": 0.5}, "label_smoothing is at least 0 and below 0.5"),
        ({"label_smoothing": 0.1}, "hinge has no targets to smooth"),
        ({"simultaneous": True, "d_steps": 2}, "simultaneous updates are one step of each player"),
        ({"batch": 64.5}, "batch is a whole number, got 64.5"),
        ({"seed": 1.5}, "seed is a whole number, got 1.5"),
        ({"conditional": "no"}, "conditional is True or False, got 'no'"),
        ({"conditional": 1}, "conditional is True or False, got 1"),
        ({"batch": "64"}, "batch is a whole number, got '64'"),
        ({"batch": True}, "batch is a whole number, got True"),
        ({"batch": None}, "batch is a whole number, got None"),
        ({"average": "0.9"}, "average is a number, got '0.9'"),
        ({"seed": float("nan")}, "seed is a whole number, got nan"),
        ({"lr_g": 10**400}, "lr_g is a number"),
        ({"loss": 3}, "loss is a text, got 3"),
        ({"network": ["d_norm"]}, "network is a dictionary"),
        (
            {"network": {"width": 2}},
            "the networks of preset digits have no option width, only d_norm, d_minibatch_std, g_width",
        ),
        ({"network": {"g_width": 0}}, "g_width is at least 1 and at most 8, got 0"),
        ({"network": {"d_norm": "layer"}}, "unknown d_norm 'layer': choose spectral, batch, dropout, none"),
        ({"data_options": {"points": 9}}, "data of the kind images have no option points"),
        ({"penalty": "r3"}, "unknown penalty 'r3': choose none, r1, r2, "),
        ({"penalty_every": 0}, "penalty_every is at least 1"),
        ({"optimizer": "adagrad"}, "unknown optimizer 'adagrad': choose sgd, momentum, rmsprop, adam"),
        ({"momentum": 1.0}, "momentum is at least 0 and below 1"),
        ({"clip_norm": 0.0}, "clip_norm is above 0"),
        ({"g_steps": 0}, "g_steps is at least 1"),
        ({"g_steps": 2}, "simultaneous updates are one step of each player: leave out d_steps and g_steps, or choose"),
        ({"real_share": 1.0}, "real_share is above 0 and below 1"),
        ({"loss": "r3gan", "real_share": 0.3}, "r3gan pairs each real sample with a fake one: leave out real_share"),
        ({"feature_matching": 1.5}, "feature_matching is at least 0 and at most 1"),
        ({"pack": 0}, "pack is at least 1"),
        ({"pack": 3}, "choose a batch that is a multiple of 3, at least 6, got 64"),
        ({"instance_noise": -0.1}, "instance_noise is at least 0"),
        (
            {"preset": "small", "instance_noise": 0.1, "epochs": None},
            "instance noise decreases over the run, so it needs a total",
        ),
        ({"decay_from": 1.0}, "decay_from is at least 0 and below 1"),
        ({"instance_noise_until": 0.0}, "instance_noise_until is above 0 and at most 1"),
        ({"preset": "small", "loss": "wasserstein", "penalty": "none"}, "wasserstein without a penalty has no minimum"),
        ({"network": {"d_minibatch_std": -1}}, "d_minibatch_std is at least 0 and finite, got -1"),
        ({"preset": "points", "kind": "images"}, "preset points is for points, got --kind images"),
        ({"preset": "points", "data": "ring", "network": {"g_width": 2}}, "preset points have no option g_width"),
        ({"kind": "videos"}, "unknown kind 'videos': choose images, points, tables"),
        ({"colour": 1}, "unknown option colour: choose from preset, kind, "),
    ],
)
def test_a_choice_out_of_range_is_refused(choice, says):
    with pytest.raises(UserError, match=says):
        Config.of(**choice)


def test_numbers_are_converted_to_the_type_of_the_field():
    """Whole floats become int, whole numbers become float, and NumPy numbers become Python numbers."""
    config = Config.of(
        "small", batch=64.0, seed=np.int64(3), minutes=2, lr_g=np.float32(0.5), network={"d_norm": "batch"}
    )
    found = [config.batch, config.seed, config.minutes, config.lr_g]
    assert found == [64, 3, 2.0, 0.5] and [type(value) for value in found] == [int, int, float, float]
    assert config.network_options().d_norm == "batch"


def test_a_field_that_a_newer_version_added_takes_its_default():
    text = Config.of("small").to_json()
    older = {name: value for name, value in json.loads(text).items() if name not in ("penalty", "kind", "network")}
    assert Config.from_json(json.dumps(older)) == Config.of("small", kind="images")


@pytest.mark.parametrize(
    ("choices", "preset", "kind", "reason"),
    [
        ({}, "digits", "images", "mnist is a set of images"),
        ({"data": "ring"}, "points", "points", "ring is a mixture of Gaussians in the plane"),
        ({"data": "/tmp/faces"}, "digits", "images", "/tmp/faces is a file or folder"),
        ({"kind": "points"}, "points", "points", "--kind was given"),
        ({"preset": "mlp"}, "mlp", "images", "preset mlp is for images"),
    ],
)
def test_the_kind_of_data_is_inferred_from_preset_or_kind_or_data(choices, preset, kind, reason):
    config = Config.of(**choices)
    assert (config.preset, config.kind, config.kind_reason) == (preset, kind, reason)


@pytest.mark.parametrize(
    "kind", [Config, *(k.options for k in datasets.KINDS.values()), *(p.options for p in PRESETS.values())]
)
def test_every_option_has_help(kind):
    for name, this in options(kind).items():
        assert len(this.help) > 10, name


def test_the_table_of_options_lists_types_and_defaults():
    table = options_module.table(Config)
    assert "| `--batch` | a whole number, at least 2 | `128` | samples in a batch |" in table
    assert "| `--decay`, `--no-decay` | | `False` |" in table and "| `--conditional`, `--unconditional` |" in table
    assert "| `--network` | NAME=VALUE | |" in table
    resumable = [line for line in table.splitlines() if "may change on `--resume`" in line]
    assert len(resumable) == len(RESUMABLE) == 11


def test_the_config_contains_the_defaults_of_network_and_data_options():
    """A resumed run keeps these values, also if a new version changes a default."""
    config = Config.of("digits", network={"g_width": "2"})
    own = {"g_width": 2, "d_width": 1.0, "noise_size": 64}
    assert config.network == own | {"d_norm": "spectral", "d_minibatch_std": 5.0}
    assert (
        config.data_options == dataclasses.asdict(datasets.ImageOptions()) and config.data_options["split"] == "train"
    )
    assert Config.of("points").data_options == {"points": 20_000}
    assert Config.from_json(config.to_json()) == config


def test_every_recipe_names_fields_of_config():
    for name, preset in PRESETS.items():
        assert preset.recipe.keys() <= {field.name for field in dataclasses.fields(Config)} and preset.summary, name
        assert Config.of(name).kind == preset.kind in datasets.KINDS


def test_custom_networks_are_trained(rng):
    G = Sequential(Dense(5, 64, rng=rng), Tanh(), Reshape(8, 8, 1))
    D = Sequential(Flatten(), Dense(64, 1, rng=rng))
    with pytest.raises(UserError, match=r"set generator\.noise_shape, for example to \(64,\)"):
        Training(Config.of("small", batch=16, steps=2), TINY, backends.reference(), (G, D))
    G.noise_shape = (5,)
    before = D.params["1.w"].copy()
    t = Training(Config.of("small", batch=16, steps=2), TINY, backends.reference(), (G, D))
    list(t.records())
    assert t.G is G and not np.array_equal(D.params["1.w"], before) and t.samples(3).shape == (3, 8, 8, 1)


# ---------------------------------------------------------------- losses that compare real and fake logits


@pytest.mark.parametrize("compares", [False, True])
def test_a_loss_that_compares_gets_the_real_logits_and_fakes_of_the_same_labels(compares, monkeypatch):
    seen = []

    class Comparing(losses.NonSaturating):
        def generator(self, fake_logits, real_logits=None):
            seen.append(real_logits)
            return super().generator(fake_logits)

    Comparing.compares = compares
    monkeypatch.setitem(losses.LOSSES, "hinge", Comparing())
    requested, step = [], training_module.game.generator_step
    monkeypatch.setattr(
        training_module.game, "generator_step", lambda *batch: requested.append(batch[5]) or step(*batch)
    )
    t = labelled(epochs=None, steps=2, simultaneous=False)
    batches, next_batch = [], t._next_batch
    monkeypatch.setattr(t, "_next_batch", lambda: batches.append(next_batch()) or batches[-1])
    list(t.records())
    assert [logits is not None for logits in seen] == [compares] * 2
    same = [np.array_equal(labels, batch[1]) for labels, batch in zip(requested, batches, strict=True)]
    assert same == [compares] * 2


# ---------------------------------------------------------------- penalties


@pytest.mark.parametrize("penalty", ["r1", "r2", "r1+r2", "wgan-gp", "r1-fd"])
@pytest.mark.parametrize("choices", [{"simultaneous": True}, {"simultaneous": False, "d_steps": 2}])
def test_a_training_with_a_penalty_continues_to_the_same_bits(penalty, choices):
    """This includes the random points of WGAN-GP, because the state of their generator is in the checkpoint."""
    choices |= {"preset": "mlp", "penalty": penalty, "penalty_weight": 0.1, "penalty_every": 2}
    whole, first, second, other = (training(**choices) for _ in range(4))
    list(whole.records())
    for record in first.records():
        if record["step"] == 3:
            break
    second.load_state("here", *first.state())
    list(second.records())
    assert same(whole, second)
    other.penalty = None
    list(other.records())
    assert not same(whole, other)  # the penalty has an effect


def test_a_lazy_penalty_is_applied_every_kth_step_with_k_times_the_weight(monkeypatch):
    weights, calls = [], []
    real = penalties.named

    def named(name, *, weight, rng):
        weights.append(weight)
        penalty = real(name, weight=weight, rng=rng)
        return lambda *batch: calls.append(t.step) or penalty(*batch)

    monkeypatch.setattr(penalties, "named", named)
    t = training(preset="mlp", penalty="r1", penalty_weight=2.0, penalty_every=3, epochs=None, steps=7)
    list(t.records())
    assert weights == [6.0] and calls == [0, 3, 6]


def test_a_penalty_on_a_layer_without_second_derivatives_is_refused_by_name(rng):
    class Square(Layer):
        def forward(self, x, train=True, track=True):
            return x * x, x

        def backward(self, dy, cache, need_dx=True, need_grads=True):
            return (2 * cache * dy if need_dx else None), ({} if need_grads else None)

    G = Sequential(Dense(5, 64, rng=rng), Tanh(), Reshape(8, 8, 1))
    G.noise_shape = (5,)
    D = Sequential(Flatten(), Sequential(Square()), Dense(64, 1, rng=rng))
    config = Config.of("small", batch=16, steps=1)
    list(Training(config, TINY, backends.reference(), (G, D)).records())
    with pytest.raises(UserError, match=r"a gradient penalty needs second derivatives, which Square\(\) does not have"):
        Training(dataclasses.replace(config, penalty="r1"), TINY, backends.reference(), (G, D))


# ---------------------------------------------------------------- errors


def test_a_step_larger_than_the_data_is_refused():
    with pytest.raises(UserError, match="a step takes 80 images and tiny has 70: choose a smaller --batch"):
        training(batch=40, d_steps=2, simultaneous=False)


# ---------------------------------------------------------------- divergence


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("player", ["G", "D"])
def test_a_weight_that_is_not_finite_stops_the_run(player, value):
    t = training()
    with pytest.raises(Diverged, match=rf"step 3: .*{player}\.0\.w"):
        for record in t.records():
            if record["step"] == 2:
                getattr(t, player).params["0.w"].flat[5] = value


def test_a_learning_rate_that_is_too_large_raises_diverged():
    with pytest.raises(Diverged, match=r"step \d+: .* is no longer a finite number.*smaller --lr"):
        list(training(lr_g=1e30, lr_d=1e30, epochs=20).records())


def test_other_data_and_other_networks_are_refused():
    t = training()
    state = t.state()
    other = datasets.Images(255 - TINY.images, None, "tiny")
    with pytest.raises(UserError, match="other contents"):
        training(data=other).load_state("there", *state)
    with pytest.raises(UserError, match="another architecture"):
        training(preset="small").load_state("there", *state)


def test_warming_up_changes_nothing():
    t, fresh = training(), training()
    assert t.warm_up() > 0
    assert same(t, fresh)
    assert gc.isenabled()


def in_a_fresh_process(code: str, cache, given: bytes = b"") -> str:
    command = [sys.executable, "-c", code]
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache)}
    return subprocess.run(command, input=given, env=environment, check=True, capture_output=True).stdout.decode()


@pytest.mark.slow
def test_compilation_happens_only_in_the_warm_up(tmp_path):
    """In a first run, only the trial at the start is compiled before the line that reports the compilation."""
    code = f"""
from minigan import cli, training
from numba.core import event

compiled, counts = [], []

class Listener(event.Listener):
    def on_start(self, happening):
        compiled.append(happening.data["dispatcher"].py_func.__name__)

    def on_end(self, happening):
        pass

event.register("numba:compile", Listener())
warm_up = training.Training.warm_up

def counted(self):
    counts.append(len(compiled))
    seconds = warm_up(self)
    counts.append(len(compiled))
    return seconds

training.Training.warm_up = counted
cli.main(["train", "--backend", "numba", "--steps", "2", "--out", {str(tmp_path / "run")!r}])
print(*counts, len(compiled))
"""
    before, after_warm_up, at_end = map(int, in_a_fresh_process(code, tmp_path / "cache").splitlines()[-1].split())
    assert before <= 5, "the trial: a loop, its task, share_tasks, and what they call"
    assert at_end == after_warm_up > 5 + before


@pytest.mark.slow
def test_a_second_process_compiles_what_a_step_needs_last(tmp_path):
    """The second process of a first run caches the kernels of these operations on disk, and no others."""
    data = datasets.Images(np.zeros((2, 28, 28, 1), np.uint8), np.array([3, 7]), "two")
    step = functools.partial(training_module._train_once, Config.of("digits", batch=2, steps=1), data, None, None)
    code = "from minigan.backends import numba; numba.start(); "
    code += "from minigan.backends.numba import backend; backend.compile_second()"
    assert in_a_fresh_process(code, tmp_path, pickle.dumps(step)) == ""
    found = {path.name.split("-")[0] for path in tmp_path.rglob("*.nbi")}
    late = {"_adam", "_add_bias", "_bias_grad", "_gradient", "_gradient_sums", "_leaky_relu_grad", "_sum_rows"}
    assert {f"passes.{name}" for name in late} | {"toomcook.gather_taps"} <= found
    assert not {"passes._normalise", "toomcook.convolve_points", "microkernel.scatter_images"} & found


def test_a_second_process_runs_only_without_cached_kernels(monkeypatch):
    numba, started = backends.load("numba"), []

    class Process(subprocess.Popen):
        def __init__(self, command, **how):
            started.append(self)
            super().__init__([sys.executable, "-c", "import time; time.sleep(1000)"], **how)

    monkeypatch.setattr(subprocess, "Popen", Process)
    for cold, cores, helpers in ((False, 2, 0), (True, 1, 0), (True, 2, 1)):
        monkeypatch.setattr(numba, "kernels_on_disk", lambda cold=cold: not cold)
        monkeypatch.setattr(backends.contract, "cores", lambda cores=cores: cores)
        assert training("numba").warm_up() > 0
        assert len(started) == helpers
    assert started[0].returncode is not None  # the process has ended
