"""Test the layers: results against SciPy and plain formulas, the interface, and the error messages.

test_gradcheck.py checks their gradients. test_shapes.py does so for many more shapes.
"""

import copy
import math

import numpy as np
import pytest
import scipy.signal
import scipy.stats

from minigan import backends, game, layers, losses, models
from minigan.checking import checks
from minigan.layers import (
    GRU,
    LSTM,
    BatchNorm,
    Bidirectional,
    Concatenate,
    Conv2d,
    ConvTranspose2d,
    Dense,
    Dropout,
    Flatten,
    GaussianNoise,
    Layer,
    LayerNorm,
    LeakyReLU,
    MinibatchStdDev,
    OneHot,
    Pack,
    Projection,
    ReLU,
    Reshape,
    Sequential,
    Sigmoid,
    Softplus,
    SpectralNorm,
    TableHead,
    Tanh,
    Upsample,
    WeightNorm,
    fuse,
    glorot_uniform,
    he_normal,
    normal,
)
from minigan.optim import Adam


@pytest.fixture(params=[case[0] for case in checks.layer_cases(backends.load("numpy"), np.random.default_rng(0))])
def case(request, backend):
    """Return (layer in float64, shape of x, arguments of forward), for every kind of layer and every backend."""
    cases = checks.layer_cases(backend, np.random.default_rng(0))
    return next((layer, shape, how) for what, layer, shape, how in cases if what == request.param)


def scipy_conv(x, w, stride, before, after):
    """Correlate each image and pair of channels with SciPy, then take every stride-th position."""
    xpad = np.pad(x, ((0, 0), (before, after), (before, after), (0, 0)))
    planes = [
        [
            sum(scipy.signal.correlate2d(image[..., c], w[..., c, o], "valid") for c in range(x.shape[3]))
            for image in xpad
        ]
        for o in range(w.shape[3])
    ]
    return np.moveaxis(np.array(planes), 0, -1)[:, ::stride, ::stride]


# ---------------------------------------------------------------- results


@pytest.mark.parametrize(
    ("kernel", "stride", "pad"), [(3, 1, 0), (3, 1, 1), (4, 2, 1), (5, 2, (1, 2)), (1, 1, 0), (3, 3, 2)]
)
def test_conv2d_is_scipys_correlation(kernel, stride, pad, backend, rng):
    layer = Conv2d(3, 5, kernel, stride=stride, pad=pad, rng=rng).to(backend, np.float64)
    layer.params["b"][...] = backend.asarray(rng.standard_normal(5))
    x = rng.standard_normal((2, 7, 6, 3))
    expected = scipy_conv(x, backend.to_numpy(layer.params["w"]), stride, *backends.pads(pad))
    y, _ = layer.forward(backend.asarray(x))
    np.testing.assert_allclose(backend.to_numpy(y), expected + backend.to_numpy(layer.params["b"]), atol=1e-12)


@pytest.mark.parametrize(
    ("kernel", "stride", "pad", "output_pad"),
    [(3, 1, 1, 0), (4, 2, 1, 0), (4, 2, 1, 1), (5, 2, (1, 2), 0), (5, 2, (1, 2), 1), (2, 3, 0, 0), (2, 3, 0, 2)],
)
def test_conv_transpose2d_is_a_convolution_of_the_zero_stuffed_image(kernel, stride, pad, output_pad, backend, rng):
    """The reference inserts stride - 1 zeros between the pixels and correlates with the flipped kernel."""
    layer = ConvTranspose2d(3, 2, kernel, stride=stride, pad=pad, output_pad=output_pad, rng=rng).to(
        backend, np.float64
    )
    layer.params["b"][...] = backend.asarray(rng.standard_normal(2))
    x = rng.standard_normal((2, 4, 3, 3))
    zero_stuffed = np.zeros((2, 3 * stride + 1, 2 * stride + 1, 3))
    zero_stuffed[:, ::stride, ::stride] = x
    w = backend.to_numpy(layer.params["w"])[::-1, ::-1].swapaxes(2, 3)
    before, after = backends.pads(pad)
    padded = np.pad(zero_stuffed, ((0, 0), (kernel, 2 * kernel), (kernel, 2 * kernel), (0, 0)))  # cropped below
    full = scipy_conv(padded, w, 1, 0, 0)[:, 1 + before :, 1 + before :]
    P, Q = (stride * (n - 1) + kernel - before - after + output_pad for n in (4, 3))
    y, _ = layer.forward(backend.asarray(x))
    assert y.shape == (2, P, Q, 2)
    np.testing.assert_allclose(backend.to_numpy(y), full[:, :P, :Q] + backend.to_numpy(layer.params["b"]), atol=1e-12)


@pytest.mark.parametrize("shape", [(6, 3), (4, 2, 5, 3)])
def test_batch_norm_in_training_has_mean_0_and_variance_1(shape, backend, rng):
    layer = BatchNorm(3, eps=1e-3).to(backend, np.float64)
    x = 5 + 3 * rng.standard_normal(shape)
    y = backend.to_numpy(layer.forward(backend.asarray(x))[0]).reshape(-1, 3)
    var = x.reshape(-1, 3).var(0)
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-14)
    np.testing.assert_allclose(y.var(0), var / (var + 1e-3), rtol=1e-12)


def test_batch_norms_running_statistics_converge_and_are_used_in_evaluation(backend, rng):
    layer = BatchNorm(2, momentum=0.9, eps=0.0).to(backend, np.float64)
    x = backend.asarray(rng.standard_normal((50, 2)) * [2.0, 0.5] + [3.0, -1.0])
    for _ in range(400):  # 0.9^400 is about 5e-19
        trained, _ = layer.forward(x)
    evaluated, _ = layer.forward(x, train=False)
    np.testing.assert_allclose(backend.to_numpy(evaluated), backend.to_numpy(trained), rtol=1e-12, atol=1e-12)
    one, _ = layer.forward(x[:1], train=False)  # no sample depends on another
    np.testing.assert_array_equal(backend.to_numpy(one), backend.to_numpy(evaluated)[:1])


def test_a_cache_keeps_the_running_statistics_of_its_forward_pass(backend, rng):
    """The running statistics may change between a forward pass in evaluation mode and its backward pass."""
    layer = BatchNorm(2).to(backend, np.float64)
    x, dy = (backend.asarray(rng.standard_normal((5, 2))) for _ in range(2))
    _, cache = layer.forward(x, train=False)
    dx, grads = layer.backward(dy, cache)
    _, cache = layer.forward(x, train=False)
    layer.forward(x + 3)
    dx_later, grads_later = layer.backward(dy, cache)
    np.testing.assert_array_equal(backend.to_numpy(dx), backend.to_numpy(dx_later))
    np.testing.assert_array_equal(backend.to_numpy(grads["gamma"]), backend.to_numpy(grads_later["gamma"]))


@pytest.mark.parametrize("shape", [(6, 3), (4, 2, 5, 3)])
def test_layer_norm_gives_each_sample_mean_0_and_variance_1(shape, backend, rng):
    layer = LayerNorm(3, eps=1e-3).to(backend, np.float64)
    x = 5 + 3 * rng.standard_normal(shape)
    y, _ = layer.forward(backend.asarray(x))
    samples, var = backend.to_numpy(y).reshape(len(x), -1), x.reshape(len(x), -1).var(1)
    np.testing.assert_allclose(samples.mean(1), 0, atol=1e-14)
    np.testing.assert_allclose(samples.var(1), var / (var + 1e-3), rtol=1e-12)


def test_layer_norm_of_a_sample_depends_on_no_other_sample_and_not_on_the_mode(backend, rng):
    layer = LayerNorm(3).to(backend, np.float64)
    x = backend.asarray(rng.standard_normal((4, 2, 2, 3)))
    y, _ = layer.forward(x)
    for one in (layer.forward(x[:1])[0], layer.forward(x[:1], train=False)[0]):
        np.testing.assert_array_equal(backend.to_numpy(one), backend.to_numpy(y)[:1])


@pytest.mark.parametrize(
    ("layer", "function"),
    [
        (Tanh(), math.tanh),
        (Sigmoid(), lambda x: 1 / (1 + math.exp(-x)) if x > -700 else 0.0),
        (Softplus(), lambda x: x + math.log1p(math.exp(-x)) if x > 0 else math.log1p(math.exp(x))),
        (ReLU(), lambda x: max(x, 0.0)),
        (LeakyReLU(0.3), lambda x: x if x > 0 else 0.3 * x),
    ],
    ids=["Tanh", "Sigmoid", "Softplus", "ReLU", "LeakyReLU"],
)
def test_activations_match_their_formulas(layer, function, backend):
    x = np.array([[-1000.0, -20.0, -1.5, -1e-9, 0.0, 1e-9, 0.3, 2.0, 30.0, 1000.0]])
    y, _ = layer.to(backend).forward(backend.asarray(x))
    np.testing.assert_allclose(backend.to_numpy(y), [[function(v) for v in x[0]]], rtol=1e-15, atol=1e-16)


def test_the_derivative_of_leaky_relu_at_0_is_the_slope(backend):
    for layer in (LeakyReLU(0.2), ReLU()):
        _, cache = layer.to(backend).forward(backend.asarray(np.zeros((1, 1))))
        assert float(layer.backward(backend.asarray(np.ones((1, 1))), cache)[0][0, 0]) == layer.slope


def test_upsample_repeats_each_pixel(backend):
    x = np.arange(4.0).reshape(1, 2, 2, 1)
    y, _ = Upsample(2).to(backend).forward(backend.asarray(x))
    assert backend.to_numpy(y)[0, ..., 0].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]


def test_default_arguments_of_layers(rng):
    assert LeakyReLU().slope == 0.2
    for layer, shape in ((Conv2d, (1, 2, 2, 1)), (ConvTranspose2d, (1, 6, 6, 1))):  # stride 1, no padding, a bias
        made = layer(1, 1, 3, rng=rng)
        assert made.forward(np.ones((1, 4, 4, 1), np.float32))[0].shape == shape and "b" in made.params


def test_smallest_allowed_factor_and_image(backend, rng):
    x = backend.asarray(rng.standard_normal((1, 1, 1, 2)), dtype=np.float32)
    np.testing.assert_array_equal(backend.to_numpy(Upsample(1).to(backend).forward(x)[0]), backend.to_numpy(x))
    assert ConvTranspose2d(2, 3, 3, pad=1, rng=rng).to(backend).forward(x)[0].shape == (1, 1, 1, 3)


def test_reshape_inverts_flatten(backend, rng):
    x = rng.standard_normal((3, 2, 4, 5))
    flat, _ = Flatten().to(backend).forward(backend.asarray(x))
    reshaped, _ = Reshape(2, 4, 5).to(backend).forward(flat)
    assert flat.shape == (3, 40)
    np.testing.assert_array_equal(backend.to_numpy(reshaped), x)


# ---------------------------------------------------------------- dropout


def splitmix64(z: int) -> int:
    """Compute SplitMix64's finaliser with Python integers (Steele et al. 2014, figure 17)."""
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


@pytest.mark.parametrize("rate", [0.3, 0.9, 0.999999])
def test_dropout_masks_are_the_documented_hash_on_every_backend(rate, backend):
    """A unit is kept if its 16 bits of splitmix64(stream + golden * (position // 4 + 1)) are at least the threshold."""
    golden = 0x9E3779B97F4A7C15
    layer = Dropout(rate, rng=np.random.default_rng(1)).to(backend)
    key = int(np.random.default_rng(1).integers(2**64, dtype=np.uint64))
    assert int(layer.buffers["key"]) == key
    x = backend.asarray(np.ones((3, 21), np.float32))
    for draw in range(3):
        stream = splitmix64((key + golden * draw) % 2**64)
        numbers = [splitmix64((stream + golden * (i // 4 + 1)) % 2**64) >> 16 * (i % 4) & 0xFFFF for i in range(63)]
        kept = [number >= min(round(65536 * rate), 65535) for number in numbers]
        y = backend.to_numpy(layer.forward(x)[0]).ravel()
        assert (y > 0).tolist() == kept
        assert y[y > 0].tolist() == [np.float32(65536 / (65536 - min(round(65536 * rate), 65535)))] * sum(kept)


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5, 0.9])
def test_dropout_drops_units_at_its_rate_and_preserves_the_mean(rate, backend):
    n = 200_000
    layer = Dropout(rate, rng=np.random.default_rng(2)).to(backend)
    y = backend.to_numpy(layer.forward(backend.asarray(np.ones((4, n // 4), np.float32)))[0]).astype(np.float64)
    assert abs((y == 0).mean() - rate) < 4 * math.sqrt(rate * (1 - rate) / n)
    assert abs(y.mean() - 1) < 4 * math.sqrt(rate / (1 - rate) / n)
    np.testing.assert_allclose(np.unique(y), [0, 1 / (1 - rate)], rtol=2e-4)  # the rate is a multiple of 1/65536


def test_dropout_is_the_identity_at_rate_0_and_in_evaluation(backend, rng):
    x = backend.asarray(rng.standard_normal((3, 4)))
    for layer, train in ((Dropout(0.0, rng=rng), True), (Dropout(0.7, rng=rng), False)):
        y, cache = layer.to(backend).forward(x, train)
        dx, _ = layer.backward(x, cache)
        np.testing.assert_array_equal(backend.to_numpy(y), backend.to_numpy(x))
        np.testing.assert_array_equal(backend.to_numpy(dx), backend.to_numpy(x))
        assert int(layer.buffers["draws"]) == 0


def test_dropout_resumes_from_its_two_buffers(backend):
    """The buffers are all that a checkpoint needs."""
    first, second = (Dropout(0.5, rng=np.random.default_rng(seed)).to(backend) for seed in (3, 4))
    x = backend.asarray(np.ones((1, 64)))
    for _ in range(3):
        first.forward(x)
    for name, buffer in first.buffers.items():
        second.buffers[name][...] = buffer
    np.testing.assert_array_equal(*(backend.to_numpy(layer.forward(x)[0]) for layer in (first, second)))


def test_layers_and_samples_have_different_dropout_masks(rng):
    a, b = (Dropout(0.5, rng=rng).forward(np.ones((2, 64)))[0] for _ in range(2))
    assert not np.array_equal(a, b) and not np.array_equal(a[0], a[1])


# ---------------------------------------------------------------- noise


def documented_noise(key: int, draw: int, size: int) -> list[float]:
    """Compute the noise of one draw with Python numbers, as the docstrings of `GaussianNoise` and `uniform` say."""
    golden = 0x9E3779B97F4A7C15
    stream = splitmix64((key + golden * draw) % 2**64)
    bits = [splitmix64((stream + golden * (i // 2 + 1)) % 2**64) >> 32 * (i % 2) & 0xFFFFFFFF for i in range(size + 1)]
    u = [(2 * (b // 512) + 1) / 2**24 for b in bits]
    pairs = [(math.sqrt(-2 * math.log(u[i])), 2 * math.pi * u[i + 1]) for i in range(0, size, 2)]
    return [n for r, a in pairs for n in (r * math.cos(a), r * math.sin(a))][:size]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_noise_is_the_documented_hash_on_every_backend(dtype, backend):
    layer = GaussianNoise(0.3, rng=np.random.default_rng(1)).to(backend)
    key = int(np.random.default_rng(1).integers(2**64, dtype=np.uint64))
    assert int(layer.buffers["key"]) == key and repr(layer) == "GaussianNoise(0.3)"
    x = np.ones((3, 21), dtype)
    for draw in range(3):
        y = backend.to_numpy(layer.forward(backend.asarray(x))[0])
        assert y.dtype == dtype
        expected = 1 + 0.3 * np.array(documented_noise(key, draw, 63)).reshape(3, 21)
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-6 if dtype == np.float32 else 1e-14)


def test_noise_is_normal_and_independent(backend):
    """SciPy's tests of the distribution and of correlations do not reject it, nor does the spread of its powers."""
    layer = GaussianNoise(1, rng=np.random.default_rng(2)).to(backend)
    zeros = backend.asarray(np.zeros((200, 1000), np.float32))
    first, second = (backend.to_numpy(layer.forward(zeros)[0]).astype(np.float64) for _ in range(2))
    assert scipy.stats.kstest(first.ravel(), "norm").pvalue > 0.01
    assert scipy.stats.normaltest(first.ravel()).pvalue > 0.01  # skewness and kurtosis
    assert abs(first.mean()) < 4 / math.sqrt(first.size) and abs(first.var() - 1) < 4 * math.sqrt(2 / first.size)
    for a, b in ((first, second), (first[:, 1:], first[:, :-1]), (first[1:], first[:-1])):
        for f in (np.positive, np.square, np.abs):
            assert abs(scipy.stats.pearsonr(f(a).ravel(), f(b).ravel()).statistic) < 4 / math.sqrt(a.size)


def test_the_std_of_noise_can_change_between_passes(backend):
    layer = GaussianNoise(0.5, rng=np.random.default_rng(3)).to(backend)
    zeros = backend.asarray(np.zeros((2, 8), np.float32))
    passes = []
    for std in (0.5, np.float64(0.25)):  # a float64 of NumPy must not convert y
        layer.std, layer.buffers["draws"][...] = std, 0
        passes.append(backend.to_numpy(layer.forward(zeros)[0]))
    assert {y.dtype for y in passes} == {np.dtype(np.float32)}
    np.testing.assert_allclose(passes[0], 2 * passes[1], rtol=1e-6)


def test_noise_is_the_identity_at_std_0_and_in_evaluation(backend, rng):
    x = backend.asarray(rng.standard_normal((3, 4)))
    for std, train in ((0.0, True), (0.7, False)):
        layer = GaussianNoise(std, rng=rng).to(backend)
        y, cache = layer.forward(x, train)
        np.testing.assert_array_equal(backend.to_numpy(y), backend.to_numpy(x))
        np.testing.assert_array_equal(backend.to_numpy(layer.backward(x, cache)[0]), backend.to_numpy(x))
        assert int(layer.buffers["draws"]) == 0


def test_noise_resumes_from_its_two_buffers(backend):
    first, second = (GaussianNoise(0.5, rng=np.random.default_rng(seed)).to(backend) for seed in (3, 4))
    x = backend.asarray(np.ones((1, 64)))
    for _ in range(3):
        first.forward(x)
    for name, buffer in first.buffers.items():
        second.buffers[name][...] = buffer
    np.testing.assert_array_equal(*(backend.to_numpy(layer.forward(x)[0]) for layer in (first, second)))


def test_noise_of_no_sample_and_of_one_number(backend):
    layer = GaussianNoise(0.5, rng=np.random.default_rng(3)).to(backend)
    assert layer.forward(backend.asarray(np.zeros((0, 3), np.float32)))[0].shape == (0, 3)
    assert np.isfinite(backend.to_numpy(layer.forward(backend.asarray(np.zeros((1, 1), np.float32)))[0])).all()


# ---------------------------------------------------------------- packing


@pytest.mark.parametrize("shape", [(6, 5), (6, 4, 2), (6, 2, 3, 4)])
@pytest.mark.parametrize("m", [1, 2, 3, 6])
def test_pack_joins_consecutive_samples_along_the_last_axis(m, shape, backend, rng):
    x = rng.standard_normal(shape)
    layer = Pack(m).to(backend)
    y, cache = layer.forward(backend.asarray(x))
    expected = [np.concatenate(x[n : n + m], axis=-1) for n in range(0, 6, m)]
    np.testing.assert_array_equal(backend.to_numpy(y), expected)
    dx, _ = layer.backward(y, cache)
    np.testing.assert_array_equal(backend.to_numpy(dx), x)
    assert y.shape == (6 // m, *shape[1:-1], m * shape[-1]) and repr(layer) == f"Pack({m})"


# ---------------------------------------------------------------- weight norm, softplus

NORMED = [
    (lambda r: Dense(5, 3, rng=r), (4, 5), 1),
    (lambda r: Dense(5, 3, bias=False, rng=r), (4, 5), 1),
    (lambda r: Conv2d(5, 3, 2, rng=r), (2, 3, 4, 5), 3),
    (lambda r: ConvTranspose2d(5, 3, 2, stride=2, rng=r), (2, 3, 4, 5), 2),
]


@pytest.mark.parametrize(("inner", "shape", "outputs"), NORMED)
def test_a_new_weight_norm_computes_what_the_inner_layer_does(inner, shape, outputs, backend, rng):
    plain = inner(rng)
    layer = WeightNorm(plain)
    w = plain.params["w"].copy()
    assert list(layer.params) == ["g", "v", *(["b"] if "b" in plain.params else [])]
    assert {p.dtype for p in layer.params.values()} == {np.dtype(np.float32)}
    assert layer.params["g"].shape == (3,) and repr(layer) == f"WeightNorm({plain!r})" and not layer.takes_labels
    np.testing.assert_allclose(layer.params["g"], np.linalg.norm(np.moveaxis(w, outputs, 0).reshape(3, -1), axis=1))
    np.testing.assert_array_equal(layer.params["v"], w)
    x = rng.standard_normal(shape).astype(np.float32)
    expected, _ = plain.forward(x)
    y, _ = layer.to(backend).forward(backend.asarray(x))
    np.testing.assert_allclose(backend.to_numpy(y), expected, rtol=1e-5, atol=1e-6)
    layer.params["v"] *= 2  # only the direction of v matters, and y is proportional to g
    layer.params["g"] *= 3
    (doubled, _), b = layer.forward(backend.asarray(x)), plain.params.get("b", 0)
    np.testing.assert_allclose(backend.to_numpy(doubled) - b, 3 * (expected - b), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(plain.params["w"], w)  # the layer that was given is unchanged


@pytest.mark.parametrize(("inner", "shape", "outputs"), NORMED)
def test_the_gradient_of_the_direction_is_orthogonal_to_it(inner, shape, outputs, backend, rng):
    layer = WeightNorm(inner(rng)).to(backend, np.float64)
    y, cache = layer.forward(backend.asarray(rng.standard_normal(shape)))
    _, grads = layer.backward(backend.asarray(rng.standard_normal(y.shape)), cache)
    v, dv = (np.moveaxis(backend.to_numpy(a), outputs, 0).reshape(3, -1) for a in (layer.params["v"], grads["v"]))
    cosines = (v * dv).sum(1) / np.linalg.norm(v, axis=1) / np.linalg.norm(dv, axis=1)
    np.testing.assert_allclose(cosines, 0, atol=1e-10)


@pytest.mark.parametrize("g", [0.0, 1.0])
def test_a_direction_of_zeros_gives_finite_results(g, backend, rng):
    plain = Dense(4, 2, rng=rng)
    plain.params["w"][:, 1] = 0
    layer = WeightNorm(plain).to(backend)
    x = backend.asarray(rng.standard_normal((3, 4)), dtype=np.float32)
    dy = backend.asarray(np.ones((3, 2)), dtype=np.float32)
    new = layer.backward(dy, layer.forward(x)[1])[1]
    expected = plain.backward(np.ones((3, 2), np.float32), backend.to_numpy(x))[1]["w"][:, 1]
    np.testing.assert_allclose(backend.to_numpy(new["v"])[:, 1], expected, rtol=1e-5)  # a new layer learns as w would
    layer.params["g"][...] = g
    y, cache = layer.forward(x)
    dx, grads = layer.backward(dy, cache)
    assert not backend.to_numpy(y)[:, 1].any()
    assert all(np.isfinite(backend.to_numpy(a)).all() for a in (dx, *grads.values()))


def test_weight_norm_follows_its_parameters_after_packing_copying_and_moving(backend, rng):
    """The inner layer has no weights of its own that could become outdated."""
    network = Sequential(WeightNorm(Dense(3, 4, rng=rng)), LeakyReLU(), WeightNorm(Dense(4, 2, rng=rng)))
    network.to(backend, np.float64)
    x = backend.asarray(rng.standard_normal((5, 3)))
    for net in (network, fuse(network), copy.deepcopy(network), fuse(copy.deepcopy(network))):
        y = backend.to_numpy(net.forward(x)[0])
        flat = net.pack()
        flat *= 2  # doubles g of both layers; the biases are 0, and the lengths of v do not matter
        np.testing.assert_allclose(backend.to_numpy(net.forward(x)[0]), 4 * y, rtol=1e-9)
        flat /= 2


def test_weight_norm_takes_only_layers_with_one_weight(rng):
    for layer in (BatchNorm(3), Projection(3, 2, rng=rng), SpectralNorm(Dense(3, 2, rng=rng), rng=rng)):
        with pytest.raises(ValueError, match="WeightNorm takes a Dense, Conv1d, Conv2d or ConvTranspose2d layer, got "):
            WeightNorm(layer)


def test_softplus_has_no_overflow_in_float32(backend):
    x = backend.asarray(np.array([[-3e38, -1000, -90, 0, 90, 1000, 3e38]], np.float32))
    layer = Softplus().to(backend)
    y, cache = layer.forward(x)
    dx, _ = layer.backward(backend.xp.ones_like(x), cache)
    assert y.dtype == dx.dtype == np.float32
    np.testing.assert_allclose(backend.to_numpy(y)[0], [0, 0, math.exp(-90), math.log(2), 90, 1000, 3e38], atol=1e-37)
    np.testing.assert_allclose(backend.to_numpy(dx)[0], [0, 0, math.exp(-90), 0.5, 1, 1, 1], atol=1e-37)


# ---------------------------------------------------------------- spectral norm, labels


def singular_values(w):
    return np.linalg.svd(w.reshape(-1, w.shape[-1]), compute_uv=False)


@pytest.mark.parametrize(
    "inner", [lambda r: Dense(7, 4, rng=r), lambda r: Dense(7, 1, rng=r), lambda r: Conv2d(2, 6, 3, pad=1, rng=r)]
)
def test_spectral_norm_divides_the_weight_by_its_largest_singular_value(inner, backend, rng):
    plain = inner(rng)
    layer = SpectralNorm(plain, rng=rng).to(backend, np.float64)
    assert list(layer.params) == ["w", "b"] and layer.params["w"] is plain.params["w"], "the inner layer's own weight"
    assert not layer.takes_labels and repr(layer) == f"SpectralNorm({plain!r})"
    x = backend.asarray(rng.standard_normal((3, 7) if isinstance(plain, Dense) else (3, 4, 4, 2)))
    for _ in range(200):
        layer.forward(x)
    w = backend.to_numpy(layer.params["w"])
    u, v = (backend.to_numpy(layer.buffers[name]) for name in "uv")
    np.testing.assert_allclose([np.linalg.norm(u), np.linalg.norm(v)], 1, rtol=1e-9)
    np.testing.assert_allclose(u @ w.reshape(-1, w.shape[-1]) @ v, singular_values(w)[0], rtol=1e-9)
    y, _ = layer.forward(x)
    plain.params["w"][...] = backend.asarray(w / singular_values(w)[0])
    np.testing.assert_allclose(backend.to_numpy(y), backend.to_numpy(plain.forward(x)[0]), rtol=1e-8, atol=1e-9)


def test_a_new_spectral_norm_is_close_to_the_largest_singular_value(rng):
    for seed in range(5):
        layer = SpectralNorm(Dense(30, 20, rng=rng), rng=np.random.default_rng(seed))
        assert {b.dtype for b in layer.buffers.values()} == {np.dtype(np.float32)}
        y, cache = layer.forward(np.eye(30, dtype=np.float32), train=False)
        assert y.dtype == np.float32 and 0.98 < singular_values(layer.params["w"])[0] / cache[-1] < 1.1


@pytest.mark.parametrize("merge", [lambda network: network, fuse], ids=["plain", "fused"])
def test_refresh_buffers_sets_the_singular_vectors_of_nested_layers(merge, backend, rng):
    conv, dense = SpectralNorm(Conv2d(2, 6, 3, pad=1, rng=rng), rng=rng), SpectralNorm(Dense(96, 3, rng=rng), rng=rng)
    network = Sequential(Sequential(conv, LeakyReLU()), Flatten(), dense, LeakyReLU()).to(backend, np.float64)
    for layer in (conv, dense):
        w = layer.params["w"]
        w[...] = backend.asarray(rng.standard_normal(w.shape))
    merge(network).refresh_buffers()
    for layer in (conv, dense):
        w, u, v = map(backend.to_numpy, (layer.params["w"], *layer.buffers.values()))
        sigma = singular_values(w)[0]
        matrix = w.reshape(-1, w.shape[-1])
        np.testing.assert_allclose(matrix @ v, sigma * u, rtol=0, atol=1e-12)
        np.testing.assert_allclose(matrix.T @ u, sigma * v, rtol=0, atol=1e-12)
        np.testing.assert_allclose([u @ u, v @ v], 1, rtol=1e-12)


@pytest.mark.parametrize(("how", "moves"), [({}, True), ({"train": False}, False), ({"track": False}, False)])
def test_spectral_norm_updates_its_vectors_only_with_train_and_track(how, moves, backend, rng):
    layer = SpectralNorm(Dense(5, 3, rng=rng), rng=rng).to(backend, np.float64)
    layer.params["w"][...] = backend.asarray(rng.standard_normal((5, 3)))
    before = {name: backend.to_numpy(b).copy() for name, b in layer.buffers.items()}
    layer.forward(backend.asarray(rng.standard_normal((2, 5))), **how)
    for name, b in layer.buffers.items():
        assert np.array_equal(backend.to_numpy(b), before[name]) != moves


def test_a_cache_keeps_the_singular_vectors_of_its_forward_pass(backend, rng):
    """A discriminator runs forward on the real and then on the fake batch, and each pass updates the vectors."""
    layer = SpectralNorm(Dense(5, 3, rng=rng), rng=rng).to(backend, np.float64)
    layer.params["w"][...] = backend.asarray(rng.standard_normal((5, 3)))
    x, dy = (backend.asarray(rng.standard_normal((2, n))) for n in (5, 3))
    _, cache = layer.forward(x)
    dx, grads = layer.backward(dy, cache)
    layer.forward(x)
    dx_later, grads_later = layer.backward(dy, cache)
    np.testing.assert_array_equal(backend.to_numpy(dx), backend.to_numpy(dx_later))
    np.testing.assert_array_equal(backend.to_numpy(grads["w"]), backend.to_numpy(grads_later["w"]))


def test_spectral_norm_passes_its_arguments_to_the_inner_layer(rng):
    """The inner layer receives train, track and labels."""
    asked = []

    class Spy(Dense):
        takes_labels = True

        def forward(self, x, train=True, track=True, **labels):
            asked.append((train, track, labels))
            return super().forward(x, train, track)

    layer = SpectralNorm(Spy(2, 2, rng=rng), rng=rng)
    assert layer.takes_labels
    x = np.ones((1, 2), np.float32)
    layer.forward(x, False, True, labels=3)
    layer.forward(x, True, False)
    y, cache = layer.forward(x)
    assert asked == [(False, True, {"labels": 3}), (True, False, {}), (True, True, {})]
    inner, spared = cache[0], []
    inner.backward = lambda dy, cache, need_dx, need_grads: spared.append((need_dx, need_grads)) or (dy, None)
    layer.backward(y, cache, need_grads=False)
    assert spared == [(True, False)]


def test_one_hot_appends_the_label_to_x(backend, rng):
    x = rng.standard_normal((3, 2)).astype(np.float32)
    layer = OneHot(4).to(backend)
    y, cache = layer.forward(backend.asarray(x), labels=backend.asarray(np.array([2, 0, 3])))
    expected = np.hstack([x, np.eye(4, dtype=np.float32)[[2, 0, 3]]])
    np.testing.assert_array_equal(backend.to_numpy(y), expected)
    dx, grads = layer.backward(y, cache)
    np.testing.assert_array_equal(backend.to_numpy(dx), x)
    assert grads == {} and y.dtype == np.float32


@pytest.mark.parametrize("wrong", [[0, 4], [-1, 0]])
def test_labels_out_of_range_are_rejected(wrong, rng):
    x = np.zeros((2, 3), np.float32)
    for layer in (OneHot(4), Projection(3, 4, rng=rng)):
        with pytest.raises(ValueError, match=rf"labels go from 0 to 3, got ({wrong[0]}|{wrong[1]})"):
            layer.forward(x, labels=np.array(wrong))


def test_projection_adds_the_embedding_of_the_label(backend, rng):
    layer = Projection(3, 2, rng=rng).to(backend, np.float64)
    x = rng.standard_normal((4, 3))
    labels = np.array([1, 0, 0, 1])
    w, b, e = (backend.to_numpy(layer.params[name]) for name in "wbe")
    assert (w.shape, b.shape, e.shape) == ((3, 1), (1,), (2, 3)) and b[0] == 0 and w.any() and e.any()
    layer.params["b"][...] = 0.5
    y, _ = layer.forward(backend.asarray(x), labels=backend.asarray(labels))
    expected = [x[n] @ w[:, 0] + 0.5 + x[n] @ e[labels[n]] for n in range(4)]
    np.testing.assert_allclose(backend.to_numpy(y)[:, 0], expected, rtol=1e-13)


def test_minibatch_stddev_is_over_the_samples_with_the_same_label(backend, rng):
    x = np.array([[0.0, 5.0], [2.0, 5.0], [7.0, 1.0], [7.0, 1.0]])
    layer = MinibatchStdDev(strength=3.0, eps=0.0).to(backend)
    y, _ = layer.forward(backend.asarray(x), labels=backend.asarray(np.array([1, 1, 0, 2])))
    np.testing.assert_allclose(backend.to_numpy(y), np.column_stack([x, 3 * np.array([0.5, 0.5, 0, 0])]))  # (1 + 0) / 2
    y, _ = layer.forward(backend.asarray(x))  # without labels: over all samples
    np.testing.assert_allclose(backend.to_numpy(y)[:, -1], 3 * x.std(axis=0).mean())
    with pytest.raises(
        ValueError, match=r"MinibatchStdDev\(1, strength 3\) expects labels \(4,\), one for each row of x, got \(3,\)"
    ):
        layer.forward(backend.asarray(x), labels=backend.asarray(np.zeros(3, int)))


def test_minibatch_stddev_of_each_channel_is_a_mean_over_pixels(backend, rng):
    maps = rng.standard_normal((5, 2, 3, 4))  # (N, H, W, C)
    layer = MinibatchStdDev(4, strength=3.0, eps=0.0).to(backend)
    y, _ = layer.forward(backend.asarray(maps.reshape(5, -1)))
    s = backend.to_numpy(y)[:, 24:]
    assert s.shape == (5, 4)
    np.testing.assert_allclose(s, np.tile(3 * maps.std(axis=0).mean(axis=(0, 1)), (5, 1)))
    with pytest.raises(ValueError, match=r"expects x \(N, n\), n a multiple of 4, got x \(5, 6\)"):
        layer.forward(backend.asarray(np.zeros((5, 6))))


@pytest.mark.parametrize("layer", [OneHot(3), Projection(2, 3, rng=np.random.default_rng(0))], ids=repr)
@pytest.mark.parametrize(
    ("labels", "came"), [(None, "none"), (np.zeros(3, int), r"\(3,\)"), (np.zeros((4, 1), int), r"\(4, 1\)")]
)
def test_labels_of_the_wrong_shape_are_rejected(layer, labels, came, rng):
    with pytest.raises(ValueError, match=rf"expects labels \(4,\), one for each row of x, got {came}"):
        layer.forward(np.ones((4, 2), np.float32), labels=labels)


def test_fan_in_and_fan_out_of_projection(rng):
    asked = []

    def init(rng, shape, fan_in, fan_out):
        asked.append((shape, fan_in, fan_out))
        return np.ones(shape, np.float32)

    params = Projection(5, 3, rng=rng, init=init).params
    assert asked == [((5, 1), 5, 1), ((3, 5), 5, 1)] and {p.dtype for p in params.values()} == {np.dtype(np.float32)}


def test_sequential_passes_labels_to_the_layers_that_take_them(rng):
    labels = np.array([0, 2])
    with_labels = Sequential(OneHot(3), Dense(5, 4, rng=rng), Tanh(), Projection(4, 3, rng=rng))
    without = Sequential(Dense(2, 1, rng=rng))
    x = rng.standard_normal((2, 2)).astype(np.float32)
    assert with_labels.takes_labels and not without.takes_labels
    np.testing.assert_array_equal(without.forward(x, labels=labels)[0], without.forward(x)[0])
    y = x
    for layer in with_labels.layers:
        y, _ = layer.forward(y, labels=labels) if layer.takes_labels else layer.forward(y)
    np.testing.assert_array_equal(with_labels.forward(x, labels=labels)[0], y)
    with pytest.raises(ValueError, match=r"OneHot\(3\) expects labels \(2,\), one for each row of x, got none"):
        with_labels.forward(x)


def test_sequential_passes_train_and_track_to_its_layers(rng):
    net = Sequential(BatchNorm(2), Dropout(0.5, rng=rng), Sequential(BatchNorm(2)))
    x = rng.standard_normal((6, 2)).astype(np.float32)
    fresh = [b.copy() for b in net.buffers.values()]

    def moved():
        return [name for (name, b), f in zip(net.buffers.items(), fresh, strict=True) if not np.array_equal(b, f)]

    net.forward(x, False)
    assert moved() == []
    net.forward(x, True, False)
    assert moved() == ["1.draws"]
    net.forward(x)
    assert moved() == ["0.mean", "0.var", "1.draws", "2.0.mean", "2.0.var"]


# ---------------------------------------------------------------- the interface


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_results_have_the_dtype_of_x(case, dtype, backend, rng):
    layer, shape, how = case
    layer.to(backend, dtype)
    y, cache = layer.forward(backend.asarray(rng.standard_normal(shape), dtype=dtype), **how)
    dx, grads = layer.backward(backend.asarray(rng.standard_normal(y.shape), dtype=dtype), cache)
    assert y.dtype == dx.dtype == dtype
    assert {name: g.dtype for name, g in grads.items()} == {name: dtype for name in layer.params}
    floats = [b for b in layer.buffers.values() if b.dtype.kind == "f"]
    assert all(b.dtype == dtype for b in floats)


def test_gradients_have_the_shapes_of_x_and_of_the_parameters(case, backend, rng):
    layer, shape, how = case
    y, cache = layer.forward(backend.asarray(rng.standard_normal(shape)), **how)
    dx, grads = layer.backward(backend.asarray(np.ones(y.shape)), cache)
    assert dx.shape == shape and {k: g.shape for k, g in grads.items()} == {k: p.shape for k, p in layer.params.items()}


def test_float32_agrees_with_float64(case, backend, rng):
    layer, shape, how = case
    if "draws" in layer.buffers:
        layer.buffers["draws"][...] = 0
    x, results = rng.standard_normal(shape), []
    for dtype in (np.float32, np.float64):
        layer.to(backend, np.float32).to(backend, dtype)
        y, cache = layer.forward(backend.asarray(x, dtype=dtype), track=False, **how)
        if "draws" in layer.buffers:
            layer.buffers["draws"][...] = 0
        dx, grads = layer.backward(backend.asarray(np.cos(np.arange(y.size)).reshape(y.shape), dtype=dtype), cache)
        results.append([backend.to_numpy(a) for a in (y, dx, *grads.values())])
    for single, double in zip(*results, strict=True):
        np.testing.assert_allclose(single, double, rtol=1e-4, atol=1e-4 * max(abs(double).max(), 1e-3))


def test_two_caches_are_independent(backend, rng):
    """A discriminator runs forward on the real and the fake batch before it runs backward on either."""
    net = Sequential(Dense(3, 4, rng=rng), BatchNorm(4), LeakyReLU(0.2), Dropout(0.3, rng=rng), Dense(4, 1, rng=rng))
    net.to(backend, np.float64)
    a, b = (backend.asarray(rng.standard_normal((5, 3))) for _ in range(2))
    dy = backend.asarray(rng.standard_normal((5, 1)))

    def alone(x, draws):
        net.buffers["3.draws"][...] = draws
        return net.backward(dy, net.forward(x, track=False)[1])

    expected = alone(a, 0), alone(b, 1)
    net.buffers["3.draws"][...] = 0
    cache_a, cache_b = net.forward(a, track=False)[1], net.forward(b, track=False)[1]
    for cache, (dx, grads) in ((cache_b, expected[1]), (cache_a, expected[0])):
        got_dx, got = net.backward(dy, cache)
        np.testing.assert_array_equal(backend.to_numpy(got_dx), backend.to_numpy(dx))
        for name in grads:
            np.testing.assert_array_equal(backend.to_numpy(got[name]), backend.to_numpy(grads[name]))


def test_sequential_names_by_position_and_shares_its_arrays(rng):
    net = Sequential(
        Flatten(), Dense(4, 3, rng=rng), BatchNorm(3), Sequential(Tanh(), Dense(3, 1, bias=False, rng=rng))
    )
    assert list(net.params) == ["1.w", "1.b", "2.gamma", "2.beta", "3.1.w"]
    assert list(net.buffers) == ["2.mean", "2.var"]
    assert net.params["1.w"] is net.layers[1].params["w"] and net.params["3.1.w"] is net.layers[3].layers[1].params["w"]
    assert net.n_params == 4 * 3 + 3 + 3 + 3 + 3


def test_sequential_requests_only_the_gradients_that_are_needed(rng, monkeypatch):
    """Layers before the first one with parameters compute no dx, and need_grads=False computes no gradients."""
    net = Sequential(Reshape(4), Dense(4, 3, rng=rng), Tanh(), Dense(3, 1, rng=rng))
    asked = []
    for i, layer in enumerate(net.layers):

        def backward(dy, cache, need_dx=True, need_grads=True, i=i, original=layer.backward):
            asked.append((i, need_dx, need_grads))
            return original(dy, cache, need_dx, need_grads)

        monkeypatch.setattr(layer, "backward", backward)
    y, cache = net.forward(rng.standard_normal((2, 4)).astype(np.float32))
    dx, grads = net.backward(np.ones_like(y), cache, need_dx=False)
    assert dx is None and grads.keys() == net.params.keys()
    assert asked == [(3, True, True), (2, True, True), (1, False, True)]
    asked.clear()
    dx, grads = net.backward(np.ones_like(y), cache, need_grads=False)
    assert dx is not None and grads is None and asked == [(i, True, False) for i in (3, 2, 1, 0)]
    asked.clear()
    assert net.backward(np.ones_like(y), cache, need_dx=False, need_grads=False) == (None, None)
    assert asked == [(3, False, False)]


def test_a_network_without_parameters_has_no_gradients(rng):
    net = Sequential(Flatten(), Tanh())
    y, cache = net.forward(rng.standard_normal((2, 3, 1)))
    assert net.backward(y, cache, need_dx=False) == (None, {})


def test_complex_x_with_real_weights(rng):
    """The complex-step derivative in x needs this."""
    layer = Dense(3, 2, rng=rng).to("numpy", np.float64)
    x = rng.standard_normal((2, 3)) + 1j
    np.testing.assert_allclose(layer.forward(x)[0], x @ layer.params["w"])


def test_results_that_are_not_needed_are_none(case, backend, rng):
    layer, shape, how = case
    y, cache = layer.forward(backend.asarray(rng.standard_normal(shape)), **how)
    assert layer.backward(backend.xp.ones_like(y), cache, need_dx=False, need_grads=False) == (None, None)


def test_to_moves_parameters_and_buffers_but_not_counters(backend, rng):
    net = Sequential(Dense(2, 2, rng=rng), BatchNorm(2), Dropout(0.5, rng=rng))
    before = {k: v.copy() for k, v in {**net.params, **net.buffers}.items()}
    assert net.to(backend, np.float64) is net and net.backend is net.layers[2].backend is backend
    for name, value in {**net.params, **net.buffers}.items():
        assert value.dtype == (np.uint64 if "2." in name else np.float64)
        np.testing.assert_array_equal(backend.to_numpy(value), before[name])
    assert net.to("numpy").backend.name == "numpy" and net.params["0.w"].dtype == np.float64


def test_repr_of_a_network_lists_its_layers(rng):
    net = Sequential(
        Conv2d(1, 8, 5, stride=2, rng=rng), ConvTranspose2d(8, 2, 4, rng=rng), BatchNorm(2), ReLU(), LeakyReLU(0.1),
        Tanh(), Sigmoid(), Dropout(0.3, rng=rng), Upsample(2), Flatten(), Reshape(3, 4), Dense(4, 1, rng=rng),
    )  # fmt: skip
    assert repr(net) == (
        "Sequential(\n    0: Conv2d(1 -> 8, 5x5, stride 2)\n    1: ConvTranspose2d(8 -> 2, 4x4, stride 1)\n"
        "    2: BatchNorm(2)\n    3: ReLU()\n    4: LeakyReLU(0.1)\n    5: Tanh()\n    6: Sigmoid()\n"
        "    7: Dropout(0.3)\n    8: Upsample(2)\n    9: Flatten()\n    10: Reshape(3, 4)\n    11: Dense(4 -> 1)\n)"
    )


# ---------------------------------------------------------------- initial weights


def test_initialisers_have_the_documented_standard_deviation(rng):
    w = Dense(400, 300, init=normal(0.02), rng=rng).params["w"]
    assert w.dtype == np.float32 and abs(w.std() - 0.02) < 2e-4 and abs(w.mean()) < 2e-4
    w = Dense(400, 300, init=glorot_uniform, rng=rng).params["w"]
    a = math.sqrt(6 / 700)
    assert w.dtype == np.float32 and 0.999 * a < abs(w).max() <= a and abs(w.std() - a / math.sqrt(3)) < 3e-4
    w = Dense(400, 300, init=he_normal, rng=rng).params["w"]
    assert w.dtype == np.float32 and abs(w.std() - math.sqrt(2 / 400)) < 6e-4


@pytest.mark.parametrize(
    ("layer", "shapes", "fans"),
    [
        (lambda **k: Dense(4, 6, **k), {"w": (4, 6), "b": (6,)}, (4, 6)),
        (lambda **k: Conv2d(2, 3, 5, **k), {"w": (5, 5, 2, 3), "b": (3,)}, (50, 75)),
        (lambda **k: ConvTranspose2d(2, 3, 5, **k), {"w": (5, 5, 3, 2), "b": (3,)}, (50, 75)),
        (lambda **k: Conv2d(2, 3, 5, bias=False, **k), {"w": (5, 5, 2, 3)}, (50, 75)),
    ],
)
def test_shapes_and_initialisers_of_parameters(layer, shapes, fans, rng):
    asked = []

    def init(rng, shape, fan_in, fan_out):
        asked.append((fan_in, fan_out))
        return np.ones(shape, np.float32)

    params = layer(rng=rng, init=init).params
    assert {k: p.shape for k, p in params.items()} == shapes and asked == [fans]
    assert all((p == (k == "w")).all() and p.dtype == np.float32 for k, p in params.items()), "biases start at 0"


def test_a_new_batch_norm_is_the_identity():
    layer = BatchNorm(3)
    tensors = {**layer.params, **layer.buffers}
    assert {k: v.tolist() for k, v in tensors.items()} == {
        "gamma": [1.0] * 3, "beta": [0.0] * 3, "mean": [0.0] * 3, "var": [1.0] * 3,
    }  # fmt: skip
    assert (layer.momentum, layer.eps) == (0.9, 1e-5)


def test_a_new_layer_norm_has_gamma_1_and_beta_0():
    layer = LayerNorm(3)
    assert {k: v.tolist() for k, v in layer.params.items()} == {"gamma": [1.0] * 3, "beta": [0.0] * 3}
    assert layer.eps == 1e-5 and not layer.buffers and repr(layer) == "LayerNorm(3)"
    assert {p.dtype for p in layer.params.values()} == {np.dtype(np.float32)}


# ---------------------------------------------------------------- error messages


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (lambda r: Dense(5, 2, rng=r), (3, 4), r"Dense expects x \(N, 5\), got \(3, 4\): put Flatten\(\) before it"),
        (lambda r: Dense(5, 2, rng=r), (3, 1, 1, 5), r"Dense expects x \(N, 5\), got \(3, 1, 1, 5\): put Flatten"),
        (
            lambda r: Conv2d(1, 2, 3, rng=r),
            (64, 784),
            r"Conv2d expects x \(N, H, W, 1\), got \(64, 784\): put Reshape\(28, 28, 1\) before it",
        ),
        (
            lambda r: Conv2d(3, 2, 3, rng=r),
            (64, 3072),
            r"Conv2d expects x \(N, H, W, 3\), got \(64, 3072\): put Reshape\(32, 32, 3\) before it",
        ),
        (lambda r: Conv2d(3, 2, 3, rng=r), (64, 100), r"images are \(N, H, W, C\), here with C = 3"),
        (lambda r: Conv2d(3, 2, 3, rng=r), (2, 8, 8, 1), r"\(N, H, W, 3\), got \(2, 8, 8, 1\): images are .* C = 3"),
        (
            lambda r: ConvTranspose2d(4, 2, 3, rng=r),
            (9, 64),
            r"ConvTranspose2d expects x \(N, H, W, 4\), got \(9, 64\): put Reshape\(4, 4, 4\) before it",
        ),
        (
            lambda r: OneHot(3),
            (5, 2, 2, 1),
            r"OneHot expects x \(N, n\), got \(5, 2, 2, 1\): put it before the first Dense$",
        ),
        (
            lambda r: Projection(5, 2, rng=r),
            (3, 4),
            r"Projection expects x \(N, 5\), got \(3, 4\): put Flatten\(\) before it$",
        ),
        (lambda r: BatchNorm(3), (5, 4), r"BatchNorm expects x \(N, 3\), got \(5, 4\): its last axis has 3 channels"),
        (lambda r: BatchNorm(3), (5, 2, 2, 4), r"BatchNorm expects x \(N, H, W, 3\), got \(5, 2, 2, 4\)"),
        (lambda r: LayerNorm(3), (5, 4), r"LayerNorm expects x \(N, 3\), got \(5, 4\): its last axis has 3 channels"),
        (lambda r: LayerNorm(3), (3,), r"LayerNorm expects x \(N, 3\), got \(3,\)"),
        (
            lambda r: Reshape(2, 3),
            (5, 7),
            r"Reshape\(2, 3\) expects 6 numbers for each sample, got x \(5, 7\)",
        ),
        (
            lambda r: Pack(2),
            (5, 4),
            r"Pack\(2\) expects x \(N, ..., C\) with N a multiple of 2, got x \(5, 4\): choose a batch size that is a "
            "multiple of 2",
        ),
        (lambda r: Pack(2), (4,), r"Pack\(2\) expects x \(N, ..., C\) with N a multiple of 2, got x \(4,\)"),
        (lambda r: Upsample(2), (5, 4), r"Upsample expects x \(N, H, W, C\), got \(5, 4\): images have four axes"),
        (
            lambda r: Conv2d(1, 1, 5, rng=r),
            (1, 3, 3, 1),
            "a kernel of 5 does not fit into 3 pixels padded by 0 and 0",
        ),
        (
            lambda r: ConvTranspose2d(1, 1, 2, pad=2, rng=r),
            (1, 2, 2, 1),
            r"with pad \(2, 2\) has no output pixels for x \(1, 2, 2, 1\): reduce pad",
        ),
    ],
)
def test_a_wrong_x_is_rejected_with_a_remedy(layer, shape, message, rng):
    with pytest.raises(ValueError, match=message):
        layer(rng).forward(np.ones(shape, np.float32))


def test_x_with_another_dtype_than_the_weights_is_rejected(rng):
    message = (
        r"Dense has float32 weights, got x of float64: convert x, or the network with .to\(backend, dtype=float64\)"
    )
    with pytest.raises(ValueError, match=message):
        Dense(2, 2, rng=rng).forward(np.ones((1, 2)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda r: ConvTranspose2d(1, 1, 3, stride=2, output_pad=2, rng=r), "at least 0 and below the stride 2, got 2"),
        (lambda r: ConvTranspose2d(1, 1, 3, stride=2, output_pad=-1, rng=r), "below the stride 2, got -1"),
        (lambda r: Dropout(1.0, rng=r), "a dropout rate is at least 0 and below 1, got 1.0"),
        (lambda r: Dropout(-0.1, rng=r), "a dropout rate is at least 0 and below 1, got -0.1"),
        (lambda r: GaussianNoise(-0.1, rng=r), "the std of noise is a finite number of at least 0, got -0.1"),
        (lambda r: GaussianNoise(math.nan, rng=r), "the std of noise is a finite number of at least 0, got nan"),
        (lambda r: Pack(0), "a pack has at least 1 sample, got 0"),
        (lambda r: Upsample(0), "an upsampling factor is at least 1, got 0"),
        (lambda r: Conv2d(1, 1, 3, pad=-1, rng=r), "pad must be an int >= 0 or a pair of them, got -1"),
        (lambda r: LeakyReLU(-0.1), "the slope of a LeakyReLU is at least 0, got -0.1"),
    ],
)
def test_invalid_arguments_of_layers_are_rejected(make, message, rng):
    with pytest.raises(ValueError, match=message):
        make(rng)


# ---------------------------------------------------------------- tangents


def test_tangent_is_the_directional_derivative_and_its_backward_the_transpose(case, backend, rng):
    """ty = (y(x + h tx) - y(x - h tx)) / 2h, and <ty, c> = <tx, dtx> for the dtx of c."""
    layer, shape, how = case

    def forward(x):
        if "draws" in layer.buffers:
            layer.buffers["draws"][...] = 0
        y, cache = layer.forward(backend.asarray(x), track=False, **how)
        return backend.to_numpy(y), cache

    x, tx = rng.standard_normal(shape), rng.standard_normal(shape)
    y, cache = forward(x)
    recurrent = any(isinstance(inner, GRU | LSTM | Bidirectional) for inner in (layer, *layer.inner()))
    if (
        recurrent
        or isinstance(layer, OneHot | TableHead)
        or (isinstance(layer, Sequential | Concatenate) and layer.takes_labels)
    ):  # the others are the first or last layer of a generator, to which no penalty applies
        with pytest.raises(NotImplementedError, match=r"\w+\(.*\) has no rule for second derivatives"):
            layer.tangent(backend.asarray(tx), cache)
        return
    ty, tangent_cache = layer.tangent(backend.asarray(tx), cache)
    h = 1e-6
    quotient = (forward(x + h * tx)[0] - forward(x - h * tx)[0]) / (2 * h)
    np.testing.assert_allclose(backend.to_numpy(ty), quotient, atol=1e-7)
    c = rng.standard_normal(y.shape)
    _, dtx, grads = layer.tangent_backward(None, backend.asarray(c), cache, tangent_cache)
    assert math.isclose((backend.to_numpy(ty) * c).sum(), (tx * backend.to_numpy(dtx)).sum(), rel_tol=1e-10)
    assert grads.keys() == layer.params.keys()
    for dy in (None, backend.asarray(c)):
        dx, dtx, spared = layer.tangent_backward(dy, backend.asarray(c), cache, tangent_cache, need_dx=False)
        assert dx is None and dtx is None and spared.keys() == grads.keys()


def test_a_layer_without_second_derivatives_raises():
    class Mine(Layer):
        pass

    for call in (lambda: Mine().tangent(None, None), lambda: Mine().tangent_backward(None, None, None, None)):
        with pytest.raises(NotImplementedError, match=r"Mine\(\) has no rule for second derivatives"):
            call()


# ---------------------------------------------------------------- layers followed by an activation, and packing


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("slope", [0.0, 0.2, 1.0])
def test_batch_norm_followed_by_an_activation(backend, rng, train, slope):
    norm, leaky, alone = BatchNorm(5), LeakyReLU(slope), BatchNorm(5)
    for name in ("gamma", "beta"):
        norm.params[name][...] = alone.params[name][...] = rng.uniform(-1, 1, 5)
    norm.buffers["mean"][...] = alone.buffers["mean"][...] = rng.uniform(-1, 1, 5)
    norm.buffers["var"][...] = alone.buffers["var"][...] = rng.uniform(0.5, 2, 5)
    apart, together = (Sequential(*layers).to(backend, np.float64) for layers in ((alone,), (norm, leaky)))
    x, dy = (backend.asarray(rng.standard_normal((4, 3, 3, 5))) for _ in range(2))

    y, caches = together.forward(x, train=train)
    dx, grads = together.backward(dy, caches)
    before, norm_cache = apart.forward(x, train=train)
    expected, leaky_cache = leaky.forward(before)
    dx_expected, grads_expected = apart.backward(leaky.backward(dy, leaky_cache)[0], norm_cache)

    for got, right in [(y, expected), (dx, dx_expected), *((grads[k], grads_expected[k]) for k in grads_expected)]:
        np.testing.assert_allclose(backend.to_numpy(got), backend.to_numpy(right), rtol=1e-12, atol=1e-13)
    assert [len(cache) for cache in caches[:1]] == [4] and caches[1] is y
    for k in together.buffers:
        np.testing.assert_allclose(*(backend.to_numpy(layer.buffers[k]) for layer in (together, apart)), rtol=1e-14)


WEIGHTED = {
    "dense": (lambda r: Dense(5, 7, rng=r), (4, 5)),
    "dense without bias": (lambda r: Dense(5, 7, bias=False, rng=r), (4, 5)),
    "conv": (lambda r: Conv2d(2, 3, 3, stride=2, pad=1, rng=r), (4, 6, 6, 2)),
    "transposed conv": (lambda r: ConvTranspose2d(2, 3, 4, stride=2, pad=1, rng=r), (4, 3, 3, 2)),
    "weight-normed conv": (lambda r: WeightNorm(Conv2d(2, 3, 3, pad=1, rng=r)), (4, 6, 6, 2)),
    "normed conv": (lambda r: SpectralNorm(Conv2d(2, 3, 3, pad=1, rng=r), rng=r), (4, 6, 6, 2)),
}


@pytest.mark.parametrize("kind", WEIGHTED)
@pytest.mark.parametrize("slope", [0.0, 0.2, 1.0])
def test_a_layer_followed_by_an_activation(backend, rng, kind, slope):
    make, shape = WEIGHTED[kind]
    layer, leaky = make(rng), LeakyReLU(slope)
    if "b" in layer.params:
        layer.params["b"][...] = rng.uniform(-1, 1, layer.params["b"].shape)
    together = Sequential(layer, leaky).to(backend, np.float64)
    x = backend.asarray(rng.standard_normal(shape))
    y, caches = together.forward(x, track=False)
    before, cache = layer.forward(x, track=False)
    expected, mask = leaky.forward(before)
    dy = backend.asarray(rng.standard_normal(y.shape))
    given = backend.to_numpy(x).copy(), backend.to_numpy(dy).copy()
    dx_expected, grads_expected = layer.backward(leaky.backward(dy, mask)[0], cache)

    def compare(got, right):
        np.testing.assert_allclose(backend.to_numpy(got), backend.to_numpy(right), rtol=1e-12, atol=1e-13)

    compare(y, expected)
    dx, grads = together.backward(dy, caches)
    compare(dx, dx_expected)
    assert {f"0.{name}" for name in grads_expected} == set(grads)
    for name, right in grads_expected.items():
        compare(grads[f"0.{name}"], right)
    compare(together.backward(dy, caches, need_grads=False)[0], dx_expected)
    none, grads = together.backward(dy, caches, need_dx=False)
    assert none is None
    for name, right in grads_expected.items():
        compare(grads[f"0.{name}"], right)
    for array, copied in zip((x, dy), given, strict=True):  # the inputs are unchanged
        np.testing.assert_array_equal(backend.to_numpy(array), copied)


def test_a_packed_network_stores_its_parameters_in_one_array(backend, rng):
    net = Sequential(SpectralNorm(Dense(3, 4, rng=rng), rng=rng), BatchNorm(4), LeakyReLU(), Dense(4, 2, rng=rng))
    net.to(backend)
    before = {name: backend.to_numpy(p).copy() for name, p in net.params.items()}
    flat = net.pack()
    assert flat.shape == (net.n_params,) and net.pack() is flat
    for name, p in net.params.items():
        np.testing.assert_array_equal(backend.to_numpy(p), before[name])
    x = backend.asarray(rng.standard_normal((5, 3)).astype(np.float32))
    y, _ = net.forward(x, train=False)
    flat *= 2
    assert all(np.array_equal(backend.to_numpy(p), 2 * before[name]) for name, p in net.params.items())
    assert not np.allclose(backend.to_numpy(net.forward(x, train=False)[0]), backend.to_numpy(y))

    net.layers[3].params["b"] = net.layers[3].params["b"] + 1  # this parameter is no longer a view of the flat array
    assert net.pack() is not flat
    assert net.pack()[-1] == net.params["3.b"][-1] == 1
    twin = copy.deepcopy(net)
    twin.pack()[...] = 0
    assert all(np.any(backend.to_numpy(p)) for name, p in net.params.items() if name.endswith("w"))


def test_a_single_layer_can_be_packed(backend, rng):
    net = Dense(3, 2, bias=False, rng=rng).to(backend)
    assert net.pack().shape == (6,) and net.params["w"].shape == (3, 2)


# ---------------------------------------------------------------- fused networks


@pytest.mark.parametrize("preset", ["digits", "small", "tutorial", "mlp"])
def test_fused_and_plain_training_agree_in_float32(preset, backend):
    """After ten Adam steps of each network, no parameter or statistic differs by more than 1e-5 of the largest value
    of its tensor. (The merged pass rounds like the two separate passes, so that the bits agree on most backends.)"""
    results = []
    for fused in (False, True):
        rng = np.random.default_rng(0)
        networks = models.build(preset, rng=rng, sample_shape=(8, 8, 1))
        G, D = (network.to(backend) for network in networks)
        trained = (layers.fuse(G), layers.fuse(D)) if fused else (G, D)
        optimizers = Adam(D, lr=1e-3), Adam(G, lr=1e-3)
        for _ in range(10):
            real = backend.asarray(rng.uniform(-1, 1, (8, 8, 8, 1)).astype(np.float32))
            z = backend.asarray(rng.standard_normal((8, *G.noise_shape), dtype=np.float32))
            game.simultaneous_step(*trained, *optimizers, real, z, losses.non_saturating)
        results.append(
            {f"{n}.{k}": backend.to_numpy(v) for n, N in enumerate((G, D)) for k, v in (N.params | N.buffers).items()}
        )
    for name, plain in results[0].items():
        difference = np.abs(results[1][name].astype(np.float64) - plain).max()
        assert difference <= 1e-5 * max(np.abs(plain).max(), 1e-3), name


def test_repr_of_a_fused_network_shows_what_was_merged(rng):
    network = Sequential(Dense(3, 4, rng=rng), LeakyReLU(0.1), BatchNorm(4), layers.ReLU(), Dense(4, 1, rng=rng))
    assert repr(layers.fuse(network)).splitlines()[1:-1] == [
        "    0: Dense(3 -> 4) + LeakyReLU(0.1)",
        "    1: Identity()",
        "    2: BatchNorm(4) + ReLU()",
        "    3: Identity()",
        "    4: Dense(4 -> 1)",
    ]
    assert repr(network).count("+") == 0 and layers.fuse(network).params.keys() == network.params.keys()
