"""The presets for series: shapes, labels, flags, values after the end, penalties, and the same bits after a resume."""

import re

import numpy as np
import pytest

from minigan import backends, datasets, models, penalties
from minigan.datasets.sequences import SequenceOptions, convert
from minigan.errors import UserError
from minigan.layers import GRU, BatchNorm, Bidirectional, Conv1d, InEachStep, MaskEnds, TanhOf
from minigan.models import Layout
from minigan.models.waves import _dilations
from minigan.training import Config, Training
from minigan.training.players import layout_of

PRESETS = [name for name, preset in models.PRESETS.items() if preset.kind == "sequences"]
SMALL = {"g_width": 8, "d_width": 4, "noise_size": 4}


def walks(count: int = 24, uneven: bool = True, gaps: bool = False):
    """Random walks of 9 steps, with labels. If `uneven`, they have 3 to 9 steps. If `gaps`, values are missing."""
    rng = np.random.default_rng(0)
    x = np.cumsum(rng.standard_normal((count, 9, 2)), axis=1)
    if gaps:
        x[:, 1, 0] = np.nan
    series = [w[: 3 + n % 7] if uneven else w for n, w in enumerate(x)]
    options = SequenceOptions(pad=uneven, missing="keep" if gaps else "")
    return convert(series if uneven else x, np.arange(count) % 3, options)


def built(preset: str, data, classes: int = 0, **options):
    layout = layout_of(data.codec)
    rng = np.random.default_rng(0)
    return models.build(
        preset, rng=rng, sample_shape=data.sample_shape, classes=classes, options=SMALL | options, layout=layout
    )


def training(preset: str, backend, data=None, **choices) -> Training:
    """A training of small networks on walks, or other data."""
    config = Config.of(preset, data="sines", network=SMALL, **dict(batch=8, steps=4) | choices)
    return Training(config, walks() if data is None else data, backend)


# ---------------------------------------------------------------- shapes


def test_waves_is_the_default_of_three_presets():
    assert PRESETS == ["waves", "waves-gru", "waves-conv"] and datasets.KINDS["sequences"].default_preset == "waves"
    assert all(models.PRESETS[name].recipe["penalty"] == "r1-fd" for name in PRESETS)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("classes", [0, 3])
def test_the_networks_take_any_shape(preset, classes):
    for shape in ((2, 1), (7, 3), (128, 1)):
        G, D = models.build(preset, rng=np.random.default_rng(0), sample_shape=shape, classes=classes, options=SMALL)
        labels = {"labels": np.arange(4) % 3} if classes else {}
        z = np.random.default_rng(1).standard_normal((4, *G.noise_shape), dtype=np.float32)
        x, _ = G.forward(z, **labels)
        assert x.shape == (4, *shape) and x.dtype == np.float32
        assert D.forward(x, **labels)[0].shape == (4, 1)
    with pytest.raises(
        UserError, match=f"preset {preset} needs series of steps and features, got samples of 8 x 8 x 1"
    ):
        models.build(preset, rng=np.random.default_rng(0), sample_shape=(8, 8, 1))


@pytest.mark.parametrize("preset", PRESETS)
def test_another_label_gives_another_series(preset):
    G, D = models.build(preset, rng=np.random.default_rng(0), sample_shape=(6, 2), classes=3, options=SMALL)
    z = np.repeat(np.random.default_rng(1).standard_normal((1, *G.noise_shape), dtype=np.float32), 3, axis=0)
    x, _ = G.forward(z, train=False, labels=np.arange(3))
    assert len(np.unique(x[:, 0, 0])) == 3
    logits, _ = D.forward(np.repeat(x[:1], 3, axis=0), train=False, labels=np.arange(3))
    assert len(np.unique(logits)) == 3


def test_the_kinds_of_layers_are_those_of_the_names():
    data = walks(uneven=False)
    G, D = built("waves-gru", data)
    assert [type(layer) for layer in G.layers[:2]] == [InEachStep, GRU] and G.layers[1].initial
    assert isinstance(D.layers[0], Bidirectional)
    G, D = built("waves-conv", data)
    for network, count in ((G, 3), (D, 3)):
        causal = [layer for layer in network.layers if isinstance(layer, Conv1d) and layer.kernel == 3]
        assert [layer.dilation for layer in causal] == [1, 2, 4] and len(causal) == count
        assert all(layer.pad == (layer.reach - 1, 0) for layer in causal)
    assert sum(isinstance(layer, BatchNorm) for layer in D.layers) == 0


def test_dilated_layers_see_the_whole_series_up_to_a_limit():
    for steps, layers in ((2, 1), (3, 1), (4, 2), (24, 4), (128, 7), (511, 8), (5000, 8)):
        dilations = _dilations(steps)
        assert len(dilations) == layers and dilations == [2**k for k in range(layers)]
        reach = 1 + 2 * sum(dilations)
        assert layers == 8 or (reach >= steps and (layers == 1 or 1 + 2 * sum(dilations[:-1]) < steps))


@pytest.mark.parametrize("preset", ["waves-gru", "waves-conv"])
def test_a_step_depends_on_no_later_noise(preset):
    """The generators of one step after the other are causal: noise of step t changes nothing before t."""
    data = walks(uneven=False)
    G, _ = built(preset, data, step_noise=2)
    first = preset == "waves-gru"  # the noise of the initial state comes first
    z = np.random.default_rng(1).standard_normal((3, *G.noise_shape), dtype=np.float32)
    x, _ = G.forward(z, train=False)
    for t in (0, 4, 8):
        other = z.copy()
        other[:, 2 * (t + first) : 2 * (t + first + 1)] += 1
        changed = (G.forward(other, train=False)[0] != x).any(axis=(0, 2))
        assert not changed[:t].any() and changed[t]


# ---------------------------------------------------------------- flags and ends


def test_the_layout_of_series_names_flags_and_ends():
    assert layout_of(walks(uneven=False).codec) == Layout()
    assert layout_of(walks().codec) == Layout(flags=(2,), ends=((0, 3),))
    gaps = layout_of(walks(gaps=True).codec)
    assert gaps == Layout(flags=(2, 3), ends=((0, 4),))
    assert gaps.packed(2, 4) == Layout(flags=(2, 3, 6, 7), ends=((0, 4), (4, 8)))


@pytest.mark.parametrize("preset", PRESETS)
def test_flags_of_samples_are_between_minus_one_and_one(preset):
    G, _ = built(preset, walks(gaps=True))
    G.params[list(G.params)[-1]][...] = 30  # the bias of the last layer
    x, _ = G.forward(np.zeros((4, *G.noise_shape), np.float32))
    assert np.abs(x[..., 2:]).max() <= 1 < np.abs(x[..., :2]).min()
    assert isinstance(G.layers[-1], TanhOf) and not any(
        isinstance(layer, TanhOf) for layer in built(preset, walks(uneven=False))[0].layers
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_values_after_the_end_do_not_matter(preset, backend):
    """Neither for the logits nor for any gradient, and they get none; those before the end do."""
    data = walks()
    D = built(preset, data)[1].to(backend, np.float64)
    x = data.batch(np.arange(24)).astype(np.float64)
    after = np.arange(9) >= data.codec.lengths(x)[:, None]
    assert after.any()
    found = []
    for content in (0.0, 7.0):
        x[after, :-1] = content
        logits, cache = D.forward(backend.asarray(x))
        dx, grads = D.backward(backend.asarray(np.ones((24, 1))), cache)
        dx = backend.to_numpy(dx)
        assert not dx[after][:, :-1].any() and dx[~after].any(axis=1).all()
        found.append([backend.to_numpy(a) for a in (logits, dx, *grads.values())])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)
    assert backend.to_numpy(D.backward(backend.asarray(np.ones((24, 1))), cache)[0])[..., -1].any(), (
        "lengths are learned"
    )


def test_the_end_is_where_the_codec_sees_it():
    """A flag that turns positive again changes nothing: both take the first negative one."""
    codec = walks().codec
    x = np.random.default_rng(0).standard_normal((50, 9, 3)).astype(np.float32)
    x[:, :3, 2] = 1  # the shortest series has 3 steps
    y, _ = MaskEnds(layout_of(codec).ends, 3).forward(x)
    assert ((y[..., 0] != 0).sum(axis=1) == codec.lengths(x)).all()


def test_joined_series_are_masked_each_by_its_own_end():
    x = np.ones((1, 4, 6), np.float32)
    x[0, 1:, 2], x[0, 3:, 5] = -1, -1
    y, _ = MaskEnds(walks_packed().ends, 6, append=True).forward(x)
    assert y[0, :, 0].tolist() == [1, 0, 0, 0] and y[0, :, 3].tolist() == [1, 1, 1, 0]
    assert y[0, :, -1].tolist() == [1, 1, 1, 0] and y[0, :, 2].tolist() == [1, -1, -1, -1]


def walks_packed() -> Layout:
    return layout_of(walks().codec).packed(2, 3)


@pytest.mark.parametrize("preset", PRESETS)
def test_packing_joins_series_of_different_lengths(preset):
    t = training(preset, backends.load("numpy"), pack=2, conditional=False)
    for _ in t.records():
        pass
    assert t.step == 4 and all(np.isfinite(p).all() for p in t.G.params.values())


def test_wrong_layers_are_refused():
    x = np.zeros((2, 5), np.float32)
    with pytest.raises(ValueError, match=r"InEachStep\(4 steps, 2 of their own\) expects at least 8 numbers for each"):
        InEachStep(4, 2).forward(x)
    with pytest.raises(ValueError, match="at least 1 step with at least 0 numbers of its own, got 0 and 1"):
        InEachStep(0, 1)
    with pytest.raises(ValueError, match=r"features are numbers below 3, got \[3\]"):
        TanhOf([3], 3)
    for ends in ((), ((0, 4),), ((2, 2),)):
        with pytest.raises(ValueError, match=re.escape(f"groups (start, stop) are among 3 features, got {list(ends)}")):
            MaskEnds(ends, 3)
    with pytest.raises(ValueError, match="a series has 3 features in each step"):
        MaskEnds([(0, 3)], 3).forward(np.zeros((2, 5, 4), np.float32))


# ---------------------------------------------------------------- training


@pytest.mark.parametrize("preset", PRESETS)
def test_every_backend_trains_alike(preset, backend):
    """The same steps in float32, with labels, gaps and lengths, as on the reference."""
    data, found = walks(gaps=True), []
    for own in (backend, backends.reference()):
        t = training(preset, own, data, lr_g=1e-4, lr_d=1e-4)
        for _ in t.records():
            pass
        found.append([own.to_numpy(p) for n in (t.G, t.D) for p in n.params.values()])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, atol=5e-5)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_resumed_run_has_the_same_bits_on_any_number_of_threads(preset):
    name = "numba" if "numba" in backends.available() else "numpy"

    def states(steps: list[int], threads: list[int]):
        state = None
        for total, n in zip(steps, threads, strict=True):
            t = training(preset, backends.load(name, threads=n), steps=total)
            if state is not None:
                t.load_state("x", *state)
            for _ in t.records():
                pass
            state = t.state()
        return {key: np.asarray(value) for key, value in state[0].items()}

    whole, parts = states([6], [1]), states([2, 6], [2, 1])
    assert whole.keys() == parts.keys()
    for key, value in whole.items():
        assert value.tobytes() == parts[key].tobytes(), key


@pytest.mark.parametrize("penalty", penalties.NAMES)
def test_penalties_without_a_rule_are_refused_with_the_one_that_needs_none(penalty):
    backend = backends.load("numpy")
    for preset in PRESETS:
        if preset == "waves-gru" and penalty != "r1-fd":
            with pytest.raises(UserError, match=r"GRU\(.*choose the penalty r1-fd, which needs none"):
                training(preset, backend, penalty=penalty)
        else:
            next(training(preset, backend, penalty=penalty).records())
