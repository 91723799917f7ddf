"""Layers of sequences: shapes, masks, both directions of time, causality, long sequences, and bits on any threads."""

import numpy as np
import pytest

from minigan import backends, penalties
from minigan.backends import RecurrentWeights
from minigan.checking import gradcheck
from minigan.checking.gradcheck import randomize
from minigan.errors import UserError
from minigan.layers import (
    GRU,
    LSTM,
    Bidirectional,
    Conv1d,
    Dense,
    Dropout,
    Flatten,
    LeakyReLU,
    Sequential,
    SpectralNorm,
    fuse,
)

KINDS = [GRU, LSTM]


def made(layer, backend, rng, dtype=np.float64):
    """Return the layer on the backend with random parameters."""
    return randomize(layer.to(backend, dtype), rng)


def passed(layer, x, dy=None, seed=0):
    """Return y, dx and the gradients of a pass as NumPy arrays, for random gradients of y if none are given."""
    backend = layer.backend
    y, cache = layer.forward(backend.asarray(x))
    if dy is None:
        dy = np.random.default_rng(seed).standard_normal(y.shape).astype(x.dtype)
    dx, grads = layer.backward(backend.asarray(dy), cache)
    return [backend.to_numpy(a) for a in (y, dx, *grads.values())]


# ---------------------------------------------------------------- shapes and messages


@pytest.mark.parametrize("kind", KINDS)
def test_the_shapes_are_those_of_the_docstring(kind, backend, rng):
    x = rng.standard_normal((5, 7, 3)).astype(np.float32)
    for options, of_x, shape in (
        ({}, x, (5, 7, 4)),
        ({"last": True}, x, (5, 4)),
        ({"masked": True}, np.dstack([x, x[:, :, :1]]), (5, 7, 5)),
        ({"masked": True, "last": True}, np.dstack([x, x[:, :, :1]]), (5, 4)),
        ({"initial": True}, x, (5, 6, 4)),
        ({"initial": True, "last": True}, x[:, :2], (5, 4)),
    ):
        layer = kind(3, 4, **options, rng=rng).to(backend)
        y, dx, *_ = passed(layer, of_x)
        assert y.shape == shape and dx.shape == of_x.shape and y.dtype == dx.dtype == np.float32, options
    both = Bidirectional(kind(3, 4, rng=rng), kind(3, 2, rng=rng)).to(backend)
    assert passed(both, x)[0].shape == (5, 7, 6)
    gates = {GRU: 3, LSTM: 4}[kind]
    assert {name: p.shape for name, p in kind(3, 4, rng=rng).params.items()} == {
        "w_x": (3, 4 * gates),
        "w_h": (4, 4 * gates),
        "b_x": (4 * gates,),
        "b_h": (4 * gates,),
    }


@pytest.mark.parametrize(
    ("shape", "options", "shape_y"),
    [
        ((4, 9, 3), dict(kernel=5, stride=2, pad=2), (4, 5, 6)),
        ((4, 24, 3), dict(kernel=5, stride=2, pad=(1, 2)), (4, 12, 6)),
        ((4, 9, 3), dict(kernel=2, dilation=8, pad="causal"), (4, 9, 6)),
        ((4, 9, 3), dict(kernel=1), (4, 9, 6)),
        ((4, 1, 3), dict(kernel=3, pad=1), (4, 1, 6)),
    ],
)
def test_a_convolution_over_time_has_the_size_of_the_docstring(shape, options, shape_y, backend, rng):
    x = rng.standard_normal(shape).astype(np.float32)
    y, dx, *_ = passed(Conv1d(3, 6, **options, rng=rng).to(backend), x)
    assert y.shape == shape_y and dx.shape == shape and y.dtype == np.float32


def test_wrong_inputs_are_refused_with_what_was_expected(rng):
    x = np.zeros((2, 5, 3), np.float32)
    with pytest.raises(ValueError, match=r"GRU expects x \(N, T, 2\), got \(2, 5, 3\): a sequence has 2 features in"):
        GRU(2, 4, rng=rng).forward(x)
    with pytest.raises(ValueError, match=r"LSTM expects x \(N, T, 4\), .*3 features in each step, and the mask as the"):
        LSTM(3, 4, masked=True, rng=rng).forward(x)
    with pytest.raises(ValueError, match=r"GRU expects at least one step, got x \(2, 1, 3\)"):
        GRU(3, 4, initial=True, rng=rng).forward(x[:, :1])
    with pytest.raises(ValueError, match="leave one out"):
        GRU(3, 4, masked=True, initial=True, rng=rng)
    for forth, back in (
        (GRU(3, 4, rng=rng), GRU(2, 4, rng=rng)),
        (GRU(3, 4, rng=rng), GRU(3, 4, last=True, rng=rng)),
        (GRU(3, 4, initial=True, rng=rng), GRU(3, 4, initial=True, rng=rng)),
    ):
        with pytest.raises(ValueError, match="Bidirectional expects two recurrent layers with the same"):
            Bidirectional(forth, back)
    with pytest.raises(ValueError, match=r"Conv1d expects x \(N, T, 2\)"):
        Conv1d(2, 4, 3, rng=rng).forward(x)
    with pytest.raises(ValueError, match=r"reaches over 9 steps, got x \(2, 5, 3\): choose a larger pad"):
        Conv1d(3, 4, 3, dilation=4, rng=rng).forward(x)
    for wrong in (dict(stride=0), dict(dilation=0), dict(pad="same"), dict(pad=-1)):
        with pytest.raises(ValueError, match=r"pad|at least 1"):
            Conv1d(3, 4, 3, **wrong, rng=rng)
    with pytest.raises(ValueError, match="float64"):
        GRU(3, 4, rng=rng).forward(x.astype(np.float64))


def test_a_layer_says_what_it_is(rng):
    assert repr(GRU(3, 4, last=True, masked=True, rng=rng)) == "GRU(3 -> 4, last, masked)"
    both = Bidirectional(LSTM(3, 4, rng=rng), LSTM(3, 4, rng=rng))
    assert repr(both) == "Bidirectional(LSTM(3 -> 4), LSTM(3 -> 4))" and both.buffers == {}
    assert repr(Conv1d(3, 4, 5, stride=2, dilation=2, rng=rng)) == "Conv1d(3 -> 4, 5, stride 2, dilation 2)"


# ---------------------------------------------------------------- steps


@pytest.mark.parametrize("kind", KINDS)
def test_a_sequence_can_be_read_in_two_parts(kind, backend, rng):
    """The state after the first part is the initial state of the second one."""
    layer = made(kind(2, 3, rng=rng), backend, rng)
    operation = backend.gru if kind is GRU else backend.lstm
    x, states = backend.asarray(rng.standard_normal((4, 9, 2))), layer.states
    zero = backend.asarray(np.zeros((4, 3 * states)))
    whole, saved = operation(x, layer.weights(), zero)
    first, saved = operation(x[:, :5], layer.weights(), zero)
    state = first[:, -1] if kind is GRU else backend.xp.concatenate([first[:, -1], saved[3][:, -1]], axis=1)
    second, _ = operation(x[:, 5:], layer.weights(), state)
    joined = np.concatenate([backend.to_numpy(first), backend.to_numpy(second)], axis=1)
    np.testing.assert_allclose(joined, backend.to_numpy(whole), atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("T", [1, 200])
def test_short_and_long_sequences_have_the_right_gradients(kind, T, rng):
    """Through 200 steps, the gradient of the initial state is small and still right."""
    layer = kind(2, 3, initial=True, rng=rng)
    layer.params["w_h"] *= 2
    x = rng.standard_normal((2, T + 1, 2))
    rows = gradcheck.check_layer(layer, x, coordinates=6, directions=2, rng=rng, method="complex")
    assert not [str(row) for row in rows if row.verdict != "right"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [name for name in backends.available() if name != "numpy"])
def test_a_long_sequence_agrees_with_the_reference_in_float32(kind, name, rng):
    x = rng.standard_normal((19, 200, 5)).astype(np.float32)
    layer = kind(5, 33, rng=rng)
    got = passed(layer.to(backends.load(name, threads=1)), x)
    expected = passed(layer.to(backends.reference(), np.float64), x.astype(np.float64))
    for a, b in zip(got, expected, strict=True):
        assert np.abs(a - b).max() <= 2e-5 * np.abs(b).max()


@pytest.mark.parametrize("kind", KINDS)
def test_large_and_small_inputs_of_gates_stay_finite_and_exact(kind, rng):
    """Gates that are fully open or closed, and inputs so small that tanh(x) is x, in float32."""
    if "numba" not in backends.available():
        pytest.skip(str(backends.status()["numba"]))
    for scale in (1e-6, 1.0, 300.0):
        x = (scale * rng.standard_normal((3, 4, 8))).astype(np.float32)
        layer = kind(8, 40, rng=rng)
        layer.params["b_x"][...] = 0
        got = passed(layer.to(backends.load("numba", threads=1)), x)
        expected = passed(layer.to(backends.reference(), np.float64), x.astype(np.float64))
        for a, b in zip(got, expected, strict=True):
            assert np.isfinite(a).all()
            if (
                scale <= 1
            ):  # rounding x @ w changes gates that are half open, and with them all gradients, if x is large
                assert np.abs(a - b).max() <= 1e-5 * np.abs(b).max(), scale
        assert np.abs(got[0] - expected[0]).max() <= 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_the_bits_do_not_depend_on_the_number_of_threads(kind, rng):
    """For a batch of several blocks, the last of which is not full, with a mask."""
    if "numba" not in backends.available():
        pytest.skip(str(backends.status()["numba"]))
    x = rng.standard_normal((53, 11, 7)).astype(np.float32)
    x[:, :, -1] = x[:, :, -1] > 0
    layer, found = kind(6, 20, masked=True, rng=rng), []
    for threads in (1, 2, 3):
        found.append([a.tobytes() for a in passed(layer.to(backends.load("numba", threads=threads)), x)])
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("kind", KINDS)
def test_the_result_of_a_sequence_does_not_depend_on_the_rest_of_the_batch(kind, backend, rng):
    layer = made(kind(3, 5, rng=rng), backend, rng)
    x = rng.standard_normal((18, 4, 3))
    whole = passed(layer, x)[0]
    np.testing.assert_allclose(passed(layer, x[17:])[0][0], whole[17], atol=1e-13)


# ---------------------------------------------------------------- masks


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing(kind, backend, rng):
    """Whatever the padding contains, the last state and all gradients are the same, and padding gets none."""
    layer, results = made(kind(2, 3, masked=True, last=True, rng=rng), backend, rng), []
    x = rng.standard_normal((3, 6, 3))
    lengths = np.array([2, 6, 4])
    x[:, :, -1] = np.arange(6) < lengths[:, None]
    padding = x[:, :, -1] == 0
    for content in (0.0, 5.0):
        x[padding, :2] = content
        y, dx, *grads = passed(layer, x)
        assert not dx[padding, :2].any()
        results.append([y, dx[~padding], *grads])
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_of_ones_is_no_mask(kind, backend, rng):
    masked, plain = kind(2, 3, masked=True, rng=rng), kind(2, 3, rng=rng)
    randomize(plain.to(backend, np.float64), rng)
    masked.to(backend, np.float64)
    for name, p in plain.params.items():
        masked.params[name][...] = p
    x, dy = rng.standard_normal((3, 6, 2)), rng.standard_normal((3, 6, 3))
    ones = np.ones((3, 6, 1))
    y, dx, *grads = passed(masked, np.dstack([x, ones]), np.dstack([dy, 0 * ones]))
    for a, b in zip((y[:, :, :3], dx[:, :, :2], *grads), passed(plain, x, dy), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-13)


def test_a_masked_step_keeps_the_state_in_a_network_of_masked_layers(backend, rng):
    """The mask reaches the second layer, and the state passes over a gap in the middle."""
    network = Sequential(GRU(2, 3, masked=True, rng=rng), LSTM(3, 4, masked=True, rng=rng))
    made(network, backend, rng)
    x = rng.standard_normal((2, 6, 3))
    x[:, :, -1] = [1, 1, 0, 0, 1, 1]
    y = passed(network, x)[0]
    without_gap = passed(network, x[:, [0, 1, 4, 5]])[0]
    np.testing.assert_allclose(y[:, [0, 1, 4, 5]], without_gap, atol=1e-13)
    np.testing.assert_array_equal(y[:, 2, :4], y[:, 1, :4])
    np.testing.assert_array_equal(y[:, 3, :4], y[:, 1, :4])


# ---------------------------------------------------------------- both directions


@pytest.mark.parametrize("kind", KINDS)
def test_a_reversed_sequence_gives_the_reversed_outputs_of_the_exchanged_layers(kind, backend, rng):
    a, b = (made(kind(2, 3, rng=rng), backend, rng) for _ in range(2))
    x, dy = rng.standard_normal((4, 6, 2)), rng.standard_normal((4, 6, 6))
    y, dx, *grads = passed(Bidirectional(a, b), x, dy)
    swapped = np.concatenate([dy[:, ::-1, 3:], dy[:, ::-1, :3]], axis=2)
    z, dz, *other = passed(Bidirectional(b, a), x[:, ::-1].copy(), swapped)
    np.testing.assert_allclose(np.concatenate([z[:, ::-1, 3:], z[:, ::-1, :3]], axis=2), y, atol=1e-13)
    np.testing.assert_allclose(dz[:, ::-1], dx, atol=1e-13)
    for one, two in zip(grads, [*other[4:], *other[:4]], strict=True):
        np.testing.assert_allclose(one, two, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_states_are_those_after_the_last_step_of_each_direction(kind, backend, rng):
    a, b = kind(2, 3, rng=rng), kind(2, 4, rng=rng)
    whole, last = Bidirectional(a, b), Bidirectional(kind(2, 3, last=True, rng=rng), kind(2, 4, last=True, rng=rng))
    made(whole, backend, rng)
    last.to(backend, np.float64)
    for name, p in whole.params.items():
        last.params[name][...] = p
    x = rng.standard_normal((4, 6, 2))
    y, of_last = passed(whole, x)[0], passed(last, x)[0]
    np.testing.assert_array_equal(of_last, np.hstack([y[:, -1, :3], y[:, 0, 3:]]))


# ---------------------------------------------------------------- convolutions


def test_dilated_causal_layers_see_exactly_their_past(backend, rng):
    """Three layers with kernel 2 and dilations 1, 2 and 4 see 8 steps."""
    network = Sequential(*(Conv1d(2, 2, 2, dilation=d, pad="causal", rng=rng) for d in (1, 2, 4)))
    made(network, backend, rng)
    x = rng.standard_normal((1, 20, 2))
    dy = np.zeros((1, 20, 2))
    dy[:, 15] = 1
    dx = passed(network, x, dy)[1]
    assert np.flatnonzero(dx[0].any(axis=1)).tolist() == list(range(8, 16))


def test_a_convolution_over_time_is_that_over_images_of_height_one(backend, rng):
    layer = made(Conv1d(3, 4, 5, stride=2, pad=2, rng=rng), backend, rng)
    x = rng.standard_normal((2, 9, 3))
    w = np.zeros((5, 5, 3, 4))
    w[2] = backend.to_numpy(layer.params["w"])
    y = backend.conv2d(backend.asarray(x[:, None]), backend.asarray(w), 2, 2)
    expected = backend.to_numpy(y)[:, 0] + backend.to_numpy(layer.params["b"])
    np.testing.assert_allclose(passed(layer, x)[0], expected, atol=1e-13)


def test_fuse_merges_a_convolution_over_time_with_its_activation(backend, rng):
    network = Sequential(SpectralNorm(Conv1d(3, 4, 5, stride=2, pad=2, rng=rng), rng=rng), LeakyReLU(0.2), Flatten())
    made(network, backend, rng)
    assert "+ LeakyReLU(0.2)" in repr(fuse(network))
    x = rng.standard_normal((2, 9, 3))
    for a, b in zip(passed(network, x), passed(fuse(network), x), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-13)


# ---------------------------------------------------------------- penalties


def test_a_recurrent_discriminator_is_refused_by_penalties_with_second_derivatives(rng):
    D = Sequential(Bidirectional(GRU(2, 3, last=True, rng=rng), GRU(2, 3, last=True, rng=rng)), Dense(6, 1, rng=rng))
    for name in penalties.NAMES:
        if name == "r1-fd":
            penalties.expect_possible(name, D)
            continue
        with pytest.raises(UserError, match=r"second derivatives, which GRU\(2 -> 3, last\) does .*penalty r1-fd"):
            penalties.expect_possible(name, D)
    with pytest.raises(NotImplementedError, match=r"GRU\(2 -> 3\) has no rule for second derivatives"):
        GRU(2, 3, rng=rng).tangent(np.zeros((1, 1, 2)), None)


def test_r1_by_finite_differences_is_twice_r1_for_a_linear_discriminator(backend, rng):
    """On average over the noise, because the mean of <n, g>^2 is |g|^2."""
    D = made(Sequential(Flatten(), Dense(12, 1, rng=rng)), backend, rng)
    real = backend.asarray(rng.standard_normal((4000, 4, 3)))
    exact = float(penalties.r1(D, real, weight=2.0)[0])
    for std in (0.05, 1.0):
        value = float(penalties.r1_fd(D, real, rng=np.random.default_rng(1), weight=2.0, std=std)[0])
        assert value == pytest.approx(2 * exact, rel=5 * (2 / 4000) ** 0.5)  # the deviation of chi-squared


def test_dropout_alone_gives_no_penalty(rng):
    """Without the same masks in both passes, a discriminator that ignores x would be penalised for its dropout."""
    D = Sequential(Flatten(), Dense(12, 8, rng=rng), Dropout(0.5, rng=rng), Dense(8, 1, rng=rng)).to(
        "numpy", np.float64
    )
    D.params["1.w"][...] = 0
    D.params["1.b"][...] = 1
    real = rng.standard_normal((5, 4, 3))
    value, grads = penalties.r1_fd(D, real, rng=rng)
    assert value == 0 and not any(g.any() for g in grads.values())


# ---------------------------------------------------------------- the operations of the backends


@pytest.mark.parametrize("name", [name for name in backends.available() if name != "numpy"])
def test_weights_that_do_not_fit_are_refused(name):
    backend = backends.load(name)
    f = lambda *shape: backend.asarray(np.zeros(shape, np.float32))  # noqa: E731
    right = RecurrentWeights(f(2, 9), f(3, 9), f(9), f(9))
    backend.gru(f(4, 5, 2), right, f(4, 3))
    for x, weights, start in (
        (f(4, 5, 3), right, f(4, 3)),
        (f(4, 5, 2), right._replace(w_h=f(4, 9)), f(4, 3)),
        (f(4, 5, 2), right._replace(b_x=f(8)), f(4, 3)),
        (f(4, 5, 2), right, f(3, 3)),
        (f(4, 5, 2), right, f(4, 6)),
    ):
        with pytest.raises(ValueError, match=r"do not (match|fit)"):
            backend.gru(x, weights, start)
