"""Test convolutions and image layers with generated shapes: kernels 1-7, strides 1-3, pads, odd channel counts, batches
of one, and non-contiguous arrays."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minigan import backends
from minigan.checking import checks
from minigan.checking.gradcheck import check_layer
from minigan.layers import BatchNorm, Conv2d, ConvTranspose2d, Upsample

# The function-scoped fixture returns a backend, which no example changes.
thorough = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
# Bound for adjointness in float32, relative to the product of the norms. The inner products are sums of up to
# K * K * C * N * P * Q products, each rounded to 6e-8.
FLOAT32 = 1e-5

channels = st.sampled_from([1, 2, 3, 5, 7, 9, 13, 17])


@st.composite
def convolutions(draw):
    """Draw (x shape, w shape, stride, pad, seed) of a convolution whose kernel fits into the padded image."""
    K, stride = draw(st.integers(1, 7)), draw(st.integers(1, 3))
    pad = draw(st.one_of(st.integers(0, 3), st.tuples(st.integers(0, 3), st.integers(0, 3))))
    smallest = max(1, K - sum(backends.pads(pad)))
    H, W = (draw(st.integers(smallest, smallest + 8)) for _ in range(2))
    N, C, O = draw(st.integers(1, 3)), draw(channels), draw(channels)
    return (N, H, W, C), (K, K, C, O), stride, pad, draw(st.integers(0, 999))


def scattered(a):
    """Return a non-contiguous copy of a: every second number of a larger array with reversed memory order."""
    larger = np.zeros([2 * n for n in a.shape[::-1]], a.dtype).T
    view = larger[tuple(slice(None, None, 2) for _ in a.shape)]
    view[...] = a
    assert view.size < 2 or not view.flags.c_contiguous
    return view


@thorough
@given(convolutions(), st.booleans())
def test_convolution_and_its_gradients_match_plain_loops(backend, convolution, in_pieces):
    x_shape, w_shape, stride, pad, seed = convolution
    rng = np.random.default_rng(seed)
    x, w = rng.standard_normal(x_shape), rng.standard_normal(w_shape)
    expected = checks.plain_conv(x, w, stride, backends.pads(pad))
    dy = rng.standard_normal(expected.shape)
    X, W, DY = (backend.asarray(scattered(a) if in_pieces else a) for a in (x, w, dy))
    y = backend.to_numpy(backend.conv2d(X, W, stride, pad))
    scale = np.sqrt(np.prod(w_shape[:3]))  # standard deviation of a sum of K * K * C products of normal numbers
    np.testing.assert_allclose(y, expected, atol=1e-13 * scale * 10)
    dx = backend.to_numpy(backend.conv2d_grad_x(DY, W, x_shape, stride, pad))
    dw = backend.to_numpy(backend.conv2d_grad_w(DY, X, w_shape, stride, pad))
    # y is linear in x and in w, so the gradients give its exact change along any direction.
    tx, tw = rng.standard_normal(x_shape), rng.standard_normal(w_shape)
    for t, grad, moved in (
        (tx, dx, checks.plain_conv(tx, w, stride, backends.pads(pad))),
        (tw, dw, checks.plain_conv(x, tw, stride, backends.pads(pad))),
    ):
        assert grad.shape == t.shape
        assert abs((grad * t).sum() - (moved * dy).sum()) <= 1e-12 * np.linalg.norm(moved) * np.linalg.norm(dy)


@thorough
@given(convolutions(), st.booleans())
def test_adjointness(backend, convolution, single):
    """<conv(x), y> = <x, conv_transpose(y)>: to 1e-12 in float64, and to the bound stated above in float32."""
    x_shape, w_shape, stride, pad, seed = convolution
    dtype, bound = (np.float32, FLOAT32) if single else (np.float64, 1e-12)
    rng = np.random.default_rng(seed)
    (K, _, C, O), (_, H, W, _) = w_shape, x_shape
    conv = Conv2d(C, O, K, stride=stride, pad=pad, bias=False, rng=rng).to(backend, dtype)
    x = rng.standard_normal(x_shape).astype(dtype)
    conv_x = backend.to_numpy(conv.forward(backend.asarray(x))[0])
    y = rng.standard_normal(conv_x.shape).astype(dtype)
    # The layer has one output_pad for both axes, so it applies only if both axes need the same value.
    over = [(size + sum(backends.pads(pad)) - K) % stride for size in (H, W)]
    if over[0] == over[1]:
        back = ConvTranspose2d(O, C, K, stride=stride, pad=pad, output_pad=over[0], bias=False, rng=rng).to(
            backend, dtype
        )
        back.params["w"] = conv.params["w"]
        back_y = backend.to_numpy(back.forward(backend.asarray(y))[0])
    else:
        back_y = backend.to_numpy(backend.conv2d_grad_x(backend.asarray(y), conv.params["w"], x_shape, stride, pad))
    assert conv_x.dtype == back_y.dtype == dtype and back_y.shape == x_shape
    left = (conv_x.astype(np.float64) * y).sum()
    right = (x.astype(np.float64) * back_y).sum()
    size = max(np.linalg.norm(conv_x.astype(np.float64)) * np.linalg.norm(y.astype(np.float64)), 1e-30)
    assert abs(left - right) <= bound * size


@thorough
@given(convolutions())
def test_float32_agrees_with_float64(backend, convolution):
    x_shape, w_shape, stride, pad, seed = convolution
    rng = np.random.default_rng(seed)
    x, w = rng.standard_normal(x_shape), rng.standard_normal(w_shape)
    single, double = (
        backend.to_numpy(backend.conv2d(*(backend.asarray(a, dtype=dtype) for a in (x, w)), stride, pad))
        for dtype in (np.float32, np.float64)
    )
    np.testing.assert_allclose(single, double, atol=2e-6 * np.sqrt(np.prod(w_shape[:3])) * 3)


@st.composite
def image_layers(draw):
    """Draw (layer, shape of x): an image layer with few numbers and any geometry that it allows."""
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    kind = draw(st.sampled_from(["conv", "transposed", "norm", "upsample"]))
    N, H, W, C = draw(st.integers(1, 2)), draw(st.integers(1, 4)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    if kind == "norm":
        # At least 3 values per channel: with two, xhat is +-1 for any x, and dx consists only of rounding errors.
        return BatchNorm(C, eps=1e-3), (N + 1, H + 1, W + 1, C)
    if kind == "upsample":
        return Upsample(draw(st.integers(1, 4))), (N, H, W, C)
    K, stride = draw(st.integers(1, 7)), draw(st.integers(1, 3))
    kwargs = dict(stride=stride, bias=draw(st.booleans()), rng=rng)
    if kind == "conv":
        least = max(0, K - min(H, W))
        before = draw(st.integers(0, least + 1))
        pad = before, max(0, least - before) + draw(st.integers(0, 1))
        return Conv2d(C, draw(st.integers(1, 3)), K, pad=pad, **kwargs), (N, H, W, C)
    output_pad = draw(st.integers(0, stride - 1))
    largest = stride * (min(H, W) - 1) + K + output_pad - 1  # the largest total pad that leaves a pixel
    before = draw(st.integers(0, min(3, largest)))
    pad = before, draw(st.integers(0, min(3, largest - before)))
    return ConvTranspose2d(C, draw(st.integers(1, 3)), K, pad=pad, output_pad=output_pad, **kwargs), (N, H, W, C)


@thorough
@given(image_layers())
def test_gradients_of_image_layers_of_any_geometry(backend, layer_and_shape):
    layer, shape = layer_and_shape
    rng = np.random.default_rng(1)
    rows = check_layer(layer.to(backend), rng.standard_normal(shape), coordinates=16, directions=2)
    assert not [str(row) for row in rows if row.verdict != "right"]


@pytest.mark.parametrize("shape", [(1, 5), (7, 1), (1, 1, 1, 3), (3, 5, 2, 1)])
def test_batch_norm_of_few_values(shape, backend, rng):
    """A single value per channel has variance 0, so that y is beta and dx is 0, without a division by zero."""
    layer = BatchNorm(shape[-1]).to(backend, np.float64)
    x = backend.asarray(rng.standard_normal(shape))
    y, cache = layer.forward(x)
    dx, _ = layer.backward(backend.asarray(rng.standard_normal(shape)), cache)
    if np.prod(shape[:-1]) == 1:
        assert not backend.to_numpy(y).any() and not backend.to_numpy(dx).any()
    assert np.isfinite(backend.to_numpy(y)).all() and np.isfinite(backend.to_numpy(dx)).all()


def test_every_layer_accepts_non_contiguous_arrays(backend, rng):
    for what, layer, shape, how in checks.layer_cases(backend, rng):
        x = rng.standard_normal(shape)
        results = []
        for a in (x, scattered(x)):
            for name, buffer in layer.buffers.items():
                if name.endswith("draws"):
                    buffer[...] = 0
            y, cache = layer.forward(backend.asarray(a), track=False, **how)
            dy = np.cos(np.arange(y.size)).reshape(y.shape)
            dx, grads = layer.backward(backend.asarray(dy if a is x else scattered(dy)), cache)
            results.append([backend.to_numpy(r) for r in (y, dx, *grads.values())])
        for one, other in zip(*results, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-13, err_msg=what)
