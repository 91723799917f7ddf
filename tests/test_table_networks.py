"""Test the networks of preset table, and their training on rows with groups of features."""

import math

import numpy as np
import pytest
from table_rows import KIND, RowsCodec, rows
from test_cuda_kernels import emulated_only

from minigan import backends, datasets, game, models, penalties, runs
from minigan.errors import UserError
from minigan.layers import Concatenate, Embedding, MinibatchStdDev, Pack, Softmax, TableHead
from minigan.models import Layout
from minigan.runs import sources
from minigan.training import Config, Training, draw_samples

RUNS_HERE = [name for name in backends.available() if name != "cupy"]
LAYOUT = Layout(((1, 4), (5, 7)), 1)
SMALL = {"noise_size": 4, "g_width": 16, "d_width": 16}


@pytest.fixture(autouse=True)
def of_tables(monkeypatch):
    """Let the kind of data be that of table_rows.py."""
    monkeypatch.setitem(datasets.KINDS, "tables", KIND)


def build(n=7, classes=0, layout=LAYOUT, seed=0, pack=1, **options):
    rng = np.random.default_rng(seed)
    return models.build("table", rng=rng, sample_shape=(n,), classes=classes, layout=layout, options=options, pack=pack)


def training(data=None, backend="numpy", network=SMALL, **choices) -> Training:
    config = Config.of(**{"preset": "table", "batch": 20, "steps": 6, "network": network} | choices)
    return Training(config, rows() if data is None else data, backends.load(backend))


# ---------------------------------------------------------------- networks


@pytest.mark.parametrize("classes", [0, 2])
def test_the_generator_maps_noise_to_rows_and_the_discriminator_rows_to_logits(classes, backend):
    G, D = (network.to(backend) for network in build(classes=classes))
    assert (G.noise_shape, G.classes, D.classes) == ((128,), classes, classes)
    assert G.takes_labels == bool(classes) and not D.takes_labels
    z = backend.asarray(np.random.default_rng(0).standard_normal((6, 128), dtype=np.float32))
    labels = backend.asarray(np.array([0, 1, 1, 0, 1, 0])) if classes else None
    for train in (True, False):
        x, _ = G.forward(z, train=train, labels=labels)
        assert D.forward(x, labels=labels)[0].shape == (6, 1)
        x = backend.to_numpy(x)
        assert x.shape == (6, 7) and x.dtype == np.float32 and np.abs(x).max() <= 1
        np.testing.assert_allclose(x[:, 1:4].sum(axis=1), 1, rtol=1e-6)
        if classes:
            np.testing.assert_array_equal(x[:, 5:7].argmax(axis=1), backend.to_numpy(labels))


def test_parameter_counts():
    """Counted by hand: blocks without biases, batch norm, a dense layer of 128 + 2 + 2 * 256 numbers."""
    G, D = build(classes=2)
    assert G.n_params == 130 * 256 + 512 + 386 * 256 + 512 + 642 * 7 + 7
    assert D.n_params == 7 * 256 + 256 + 256 * 256 + 256 + 256 + 1
    text = models.table(G, G.noise_shape)
    assert "    Dense(386 -> 256)" in text and "Concatenate with the input" in text and f"{G.n_params:,}" in text
    assert "TableHead(2 numbers, 2 groups, t=0.2)" in text
    counts = [int(line.split()[-1].replace(",", "")) for line in text.splitlines()[:-1] if "Conc" not in line]
    assert sum(counts) == G.n_params
    assert f"{D.n_params:,}" in models.table(D, (7,))


def test_the_options_reach_the_layers():
    G, D = build(noise_size="9", g_width=5, d_width=6, temperature=0.7, hard="true")
    assert G.noise_shape == (9,) and G.params["0.0.w"].shape == (9, 5) and D.params["0.w"].shape == (7, 6)
    head = G.layers[-1]
    assert (head.temperature, head.hard, head.label_group, head.groups) == (0.7, True, None, LAYOUT.groups)
    assert build()[0].layers[-1].temperature == 0.2
    _, spread = build(d_minibatch_std=2)
    assert isinstance(spread.layers[-2], MinibatchStdDev) and spread.layers[-2].strength == 2
    assert spread.forward(np.zeros((4, 7), np.float32))[0].shape == (4, 1)
    with pytest.raises(UserError, match="the networks of preset table have no option d_norm, only noise_size, g_width"):
        build(d_norm="spectral")
    with pytest.raises(UserError, match="temperature is above 0"):
        build(temperature=0)


@pytest.mark.parametrize(("values", "embedded"), [(63, False), (64, True)])
def test_the_discriminator_embeds_categories_with_many_values(values, embedded):
    layout = Layout(((1, 4), (4, 4 + values)))
    _, D = build(6 + values, layout=layout)
    first = D.layers[0]
    assert isinstance(first, Embedding) == embedded
    if embedded:
        assert first.groups == ((4, 68),) and first.width == 16 and D.params["1.w"].shape == (6 + 16, 256)
        _, plain = build(6 + values, layout=layout, d_embedding=0)
        assert plain.params["0.w"].shape == (70, 256)
    assert D.forward(np.zeros((3, 6 + values), np.float32))[0].shape == (3, 1)


def test_the_discriminator_of_packs_sees_the_groups_of_each_row():
    assert LAYOUT.packed(3, 7).groups == ((1, 4), (5, 7), (8, 11), (12, 14), (15, 18), (19, 21))
    _, D = build(70, layout=Layout(((1, 65), (66, 70)), 1), classes=4, pack=2)
    embedding = D.layers[0]
    assert embedding.groups == ((1, 65), (71, 135)) and embedding.n == 140
    assert D.forward(np.zeros((3, 140), np.float32))[0].shape == (3, 1)


def test_without_a_layout_all_features_are_numbers():
    G, _ = build(layout=None)
    assert G.layers[-1].groups == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": (8, 8, 1)}, "preset table needs rows of features, got samples of 8 x 8 x 1"),
        ({"layout": Layout(LAYOUT.groups), "classes": 2}, "needs the column of the labels in the row, got 2 classes"),
        ({"classes": 3}, "the label's column has 2 values, got 3 classes: both must be the same"),
    ],
)
def test_samples_that_do_not_fit_are_refused(change, message):
    n = change.pop("n", (7,))
    with pytest.raises(UserError, match=message):
        models.build("table", rng=np.random.default_rng(0), sample_shape=n, **{"layout": LAYOUT} | change)


def test_the_seed_decides_the_weights_and_the_noise():
    def state(seed):
        return {**(G := build(seed=seed)[0]).params, **G.buffers}

    a, b, c = state(1), state(1), state(2)
    assert all(np.array_equal(a[name], b[name]) for name in a)
    assert not np.array_equal(a["0.0.w"], c["0.0.w"]) and a["3.key"] != c["3.key"]


# ---------------------------------------------------------------- training


@pytest.mark.parametrize("backend", RUNS_HERE)
@pytest.mark.parametrize("choices", [{}, {"simultaneous": True, "pack": 2, "network": SMALL | {"hard": True}}], ids=str)
def test_the_seed_decides_every_bit_and_a_run_resumes_to_the_same_bits(backend, choices):
    data = rows(wide=70)
    whole, again, other = (training(data, backend, seed=seed, **choices) for seed in (3, 3, 4))
    for t in (whole, again, other):
        assert all(math.isfinite(record["g_loss"]) for record in t.records())
    first, second = (training(data, backend, seed=3, **choices) for _ in range(2))
    for record in first.records():
        if record["step"] == 2:
            break
        first.samples(10)  # drawing samples changes nothing
    second.load_state("here", *first.state())
    list(second.records())
    arrays, expected, others = (t.state()[0] for t in (second, whole, other))
    assert arrays["G.3.draws" if "G.3.draws" in arrays else "G.4.draws"] > 0
    for name, value in expected.items():
        assert arrays[name].tobytes() == value.tobytes() == again.state()[0][name].tobytes(), name
    assert not all(np.array_equal(others[name], value) for name, value in expected.items())
    np.testing.assert_array_equal(second.samples(50), whole.samples(50))


def test_the_recipe_of_the_preset():
    config = Config.of("table")
    assert (config.penalty, config.penalty_weight, config.batch) == ("r1", 1.0, 500)
    assert (config.decay, config.decay_from, config.average, config.conditional) == (True, 0.3, 0.999, True)
    assert config.loss == "non_saturating" and (config.lr_g, config.lr_d) == (1e-3, 1e-3)
    assert (config.beta1, config.beta2) == (0.5, 0.9)
    assert Config.of("table", epochs=3).totals() == {"epochs": 3}
    assert Config.of("table").totals() == {"steps": config.steps}


def test_the_labels_of_both_steps_occur_as_often_as_in_the_data(monkeypatch):
    seen = {}
    for step in ("discriminator_step", "generator_step"):
        real = getattr(game, step)

        def spy(G, *rest, real=real, step=step, **named):
            labels = rest[5] if step == "discriminator_step" else rest[4]
            seen.setdefault(step, []).extend(labels.tolist())
            return real(G, *rest, **named)

        monkeypatch.setattr(game, step, spy)
    t = training(steps=40)
    list(t.records())
    assert len(seen["generator_step"]) == 800 and seen["generator_step"] == seen["discriminator_step"]
    assert abs(np.mean(seen["generator_step"]) - t.data.labels.mean()) < 0.01


def test_packing_is_possible_with_labels_because_they_are_in_the_row():
    t = training(pack=2)
    assert t.classes == 2 and isinstance(t.D.layers[0], Pack)
    assert len(list(t.records())) == 6
    with pytest.raises(UserError, match="packing joins samples of different classes, so D cannot take a label"):
        training(pack=2, network=SMALL | {"d_minibatch_std": 2})  # which is computed for each label


def test_a_run_rebuilds_its_networks_from_its_codec(tmp_path):
    """Its folder contains the groups, and samples can be drawn without the data."""
    data, out = rows(wide=66), tmp_path / "run"
    config = Config.of("table", batch=20, steps=3, network=SMALL, backend="numpy")
    t = runs.begin(config, out, data=data)
    list(t.records())
    with runs.writing(out):
        runs.save(t, out)
    G, D = runs.networks(runs.read(out))
    for network, trained in ((G, t.G), (D, t.D)):
        assert repr(network) == repr(trained)
        assert all(np.array_equal(network.params[name], value) for name, value in trained.params.items())
    assert isinstance(D.layers[0], Embedding) and G.layers[-1].label_group == 1
    sampler = runs.sampler(out, backends.load("numpy"))
    samples = sampler.draw(30, np.random.default_rng(0), label="1")
    assert isinstance(sampler.codec, RowsCodec) and samples[:, 5:7].tolist() == [[0, 1]] * 30
    np.testing.assert_array_equal(samples, sampler.draw(30, np.random.default_rng(0), label="1"))
    assert "Embedding(73 -> 23, 1 groups x 16)" in runs.header(t)
    # A run on other columns does not start from it.
    more = Config.of("table", batch=20, steps=3, network=SMALL, backend="numpy", generator_from=str(out))
    assert sources.taken(more, data).arrays
    changed = RowsCodec(((0, 3), (5, 7), (7, 73)), 1)
    with pytest.raises(UserError, match=r"the columns of .* have other kinds or values than those of rows"):
        sources.taken(more, type(data)(data.samples, data.labels, changed))


def test_the_columns_learn_to_depend_on_the_label():
    """A few hundred steps are enough for the shares of the values and the means of a number in each class.

    With labels of equal shares in the generator's steps, the shares were 0.98 and 0.83 instead of 0.9.
    """
    network = {"noise_size": 8, "g_width": 32, "d_width": 32}
    t = training(rows(2000), "numba" if "numba" in RUNS_HERE else "numpy", network, steps=800, batch=100, average=0.98)
    list(t.records())
    G = t.sampler.generator
    z = G.backend.asarray(np.random.default_rng(0).standard_normal((1000, 8), dtype=np.float32))
    for label in (0, 1):
        x = draw_samples(G, z, G.backend.asarray(np.full(1000, label)))
        shares = x[:, 1:4].mean(axis=0)
        assert abs(shares[label] - 0.9) < 0.06 and abs(shares[2] - 0.1) < 0.06, shares
        assert abs(x[:, 0].mean() - (label - 0.5)) < 0.1
        assert 0.4 < x[:, 4].std() < 0.75  # 0.58 for uniform numbers


def test_penalties_pass_through_the_layers_of_the_discriminator():
    """Also with a softmax before them. A head has no second derivative."""
    data = rows(wide=70)
    t = training(data, penalty="wgan-gp", loss="wasserstein")
    assert all(np.isfinite(list(record.values())).all() for record in t.records())
    penalties.expect_second_derivatives(Concatenate(Softmax(((0, 2),), 3)))
    with pytest.raises(UserError, match="a gradient penalty needs second derivatives, which TableHead"):
        penalties.expect_second_derivatives(TableHead(((0, 2),), 3, rng=np.random.default_rng(0)))


@emulated_only
def test_a_step_on_a_gpu_launches_few_kernels_and_never_waits(emulated, emulation):
    """The bounds of the groups are copied to the device once. A step copies only indices, labels and noise."""
    counts, t = emulated[1].counts, training(rows(wide=70), "cupy", batch=10)
    t._train_step()  # the first step compiles
    counts.clear()
    t._train_step()
    assert counts["launches"] + counts["operations"] <= 235
    assert counts["synchronisations"] == counts["bytes_out"] == 0
    assert counts["bytes_in"] == 2 * 10 * 4 * 4 + 10 * 8  # noise of two steps, and the indices of the rows
