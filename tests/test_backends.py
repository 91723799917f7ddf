"""Tests of the backends: agreement with plain loops, the adjoint equations, bits, bounds of memory and errors.

The operations are compared with code in this file that shares nothing with them. The compiled backend is also tested
with code for other CPUs, with guard pages around its arrays, and with a broken tile.
"""

import concurrent.futures
import contextlib
import copy
import importlib
import inspect
import itertools
import math
import os
import pickle
import platform
import subprocess
import sys
import textwrap
import threading
import types

import numpy as np
import pytest
import scipy.signal
import threadpoolctl
from hypothesis import given, settings
from hypothesis import strategies as st

from minigan import backends
from minigan.backends import AdamStep, BackendUnavailable, Normalisation, RecurrentWeights, contract, conv_size, pads
from minigan.errors import UserError

NAMES = backends.available()  # first, because the import of Numba fixes its maximum number of threads
if "numba" not in NAMES:
    pytest.skip(str(backends.status()["numba"]), allow_module_level=True)
numpy_backend, numba_backend = backends.reference(), backends.load("numba")
compiled, fourier, microkernel, parallel, toomcook = (
    importlib.import_module(f"minigan.backends.numba.{name}")
    for name in ("backend", "fourier", "microkernel", "parallel", "toomcook")
)
njit, in_parallel = compiled.njit, parallel.in_parallel
get_thread_id = compiled.numba.get_thread_id

X86 = platform.machine().lower() in ("x86_64", "amd64")

# (N, H, W, C, O, K, stride, pad): layers of the presets with small batches, then unusual shapes.
PRESET_SHAPES = [
    (12, 7, 7, 64, 32, 5, 1, (2, 2)),  # many channels, small feature map: Fourier
    (12, 14, 14, 64, 128, 5, 2, (1, 2)),
    (16, 7, 7, 64, 32, 5, 1, (1, 3)),
    (3, 7, 7, 64, 96, 5, 1, (2, 2)),
    (5, 28, 28, 1, 64, 5, 2, (1, 2)),
    (9, 14, 14, 32, 64, 4, 2, 1),
    (5, 28, 28, 1, 32, 4, 2, 1),
    (3, 28, 28, 24, 1, 5, 1, 2),  # the last layer of an upsampling generator
]
AWKWARD_SHAPES = [
    (1, 1, 1, 1, 1, 1, 1, 0),
    (2, 6, 5, 3, 10, 3, 2, (0, 3)),
    (1, 9, 4, 48, 24, 7, 3, (5, 1)),
    (11, 5, 5, 33, 31, 2, 3, 1),  # the stride is longer than the kernel
    (2, 3, 3, 1, 3, 3, 1, 4),  # some windows are completely inside the padding
    (17, 4, 4, 2, 2, 3, 1, 1),
]


# ---------------------------------------------------------------- expected results


def padded(x, pad):
    """Pad height and width of x with zeros."""
    before, after = pads(pad)
    return np.pad(x, ((0, 0), (before, after), (before, after), (0, 0)))


def window_pairs(dy, K):
    """Return (p, q, i, j) for every output pixel and tap."""
    return itertools.product(range(dy.shape[1]), range(dy.shape[2]), range(K), range(K))


def naive_conv2d(x, w, stride, pad):
    """Compute `conv2d` by loops."""
    xpad, (P, Q) = padded(x, pad), (conv_size(size, len(w), stride, pad) for size in x.shape[1:3])
    y = np.zeros((len(x), P, Q, w.shape[3]), x.dtype)
    for p, q, i, j in window_pairs(y, len(w)):
        y[:, p, q] += xpad[:, p * stride + i, q * stride + j] @ w[i, j]
    return y


def naive_grad_x(dy, w, x_shape, stride, pad):
    """Compute `conv2d_grad_x` by loops."""
    dx = padded(np.zeros(x_shape, dy.dtype), pad)
    for p, q, i, j in window_pairs(dy, len(w)):
        dx[:, p * stride + i, q * stride + j] += dy[:, p, q] @ w[i, j].T
    before = pads(pad)[0]
    return dx[:, before : before + x_shape[1], before : before + x_shape[2]]


def naive_grad_w(dy, x, w_shape, stride, pad):
    """Compute `conv2d_grad_w` by loops."""
    dw, xpad = np.zeros(w_shape, dy.dtype), padded(x, pad)
    for p, q, i, j in window_pairs(dy, w_shape[0]):
        dw[i, j] += xpad[:, p * stride + i, q * stride + j].T @ dy[:, p, q]
    return dw


def operands(shape, dtype=np.float64, seed=0):
    """Return random x, w and dy of one convolution."""
    N, H, W, C, O, K, stride, pad = shape
    rng = np.random.default_rng(seed)
    P, Q = conv_size(H, K, stride, pad), conv_size(W, K, stride, pad)
    return [rng.standard_normal(s).astype(dtype) for s in ((N, H, W, C), (K, K, C, O), (N, P, Q, O))]


def results(backend, x, w, dy, stride, pad):
    """Compute the three convolutions with the backend, and return NumPy arrays."""
    x, w, dy = (backend.asarray(array) for array in (x, w, dy))
    return [
        backend.to_numpy(y)
        for y in (
            backend.conv2d(x, w, stride, pad),
            backend.conv2d_grad_x(dy, w, x.shape, stride, pad),
            backend.conv2d_grad_w(dy, x, w.shape, stride, pad),
        )
    ]


def expectations(x, w, dy, stride, pad):
    """Compute the three convolutions by loops in float64."""
    x, w, dy = (array.astype(np.float64) for array in (x, w, dy))
    return [
        naive_conv2d(x, w, stride, pad),
        naive_grad_x(dy, w, x.shape, stride, pad),
        naive_grad_w(dy, x, w.shape, stride, pad),
    ]


def assert_close(got, expected, bound):
    """Assert that the largest error, relative to the largest number, is at most `bound`."""
    for y, y0, name in zip(got, expected, ("conv2d", "conv2d_grad_x", "conv2d_grad_w"), strict=True):
        assert y.shape == y0.shape, name
        assert np.abs(y - y0).max() <= bound * np.abs(y0).max() + bound, name


def float32_bound(backend, shape):
    """Return 2e-6 of the largest number: about twenty rounding errors, for sums of up to 6400 products.

    Toom-Cook loses precision, as its docstring says, so its bound is larger.
    """
    return 5e-6 if backend.name == "numba" and algorithm_of(shape) is toomcook else 2e-6


def algorithm_of(shape):
    """Return the algorithm that the Numba backend uses for the convolution in float32."""
    N, H, W, C, O, K, stride, pad = shape
    P, Q = conv_size(H, K, stride, pad), conv_size(W, K, stride, pad)
    return compiled.choose_algorithm((N, H, W, C), (K, K, C, O), stride, pads(pad)[0], P, Q, np.dtype(np.float32))


# ---------------------------------------------------------------- the convolutions


@pytest.mark.parametrize("shape", PRESET_SHAPES + AWKWARD_SHAPES, ids=str)
def test_convolutions_are_the_sums_of_the_contract(shape, backend):
    x, w, dy = operands(shape)
    assert_close(results(backend, x, w, dy, *shape[6:]), expectations(x, w, dy, *shape[6:]), 1e-13)


@pytest.mark.parametrize("shape", PRESET_SHAPES + AWKWARD_SHAPES, ids=str)
def test_float32_stays_float32_and_exact_to_a_few_units(shape, backend):
    x, w, dy = operands(shape, np.float32)
    got = results(backend, x, w, dy, *shape[6:])
    assert [y.dtype for y in got] == [np.float32] * 3
    assert all(y.flags.c_contiguous for y in got) or backend.name == "numpy"
    assert_close(got, expectations(x, w, dy, *shape[6:]), float32_bound(backend, shape))


@pytest.mark.parametrize("shape", PRESET_SHAPES + AWKWARD_SHAPES, ids=str)
@pytest.mark.parametrize(("dtype", "bound"), [(np.float64, 1e-12), (np.float32, 3e-6)], ids=["float64", "float32"])
def test_each_convolution_is_the_others_adjoint(shape, dtype, bound, backend):
    """<conv(x), dy> = <x, grad_x(dy)> = <w, grad_w(dy)>, relative to the norms."""
    x, w, dy = operands(shape, dtype)
    y, dx, dw = (array.astype(np.float64) for array in results(backend, x, w, dy, *shape[6:]))
    size = np.linalg.norm(y) * np.linalg.norm(dy) + 1e-30
    assert abs(np.vdot(y, dy) - np.vdot(x, dx)) <= bound * size
    assert abs(np.vdot(y, dy) - np.vdot(w, dw)) <= bound * size


def test_the_loops_agree_with_scipys_correlation():
    for shape in AWKWARD_SHAPES:
        (x, w, _), (stride, pad) = operands(shape), shape[6:]
        y = naive_conv2d(x, w, stride, pad)
        for n, o in np.ndindex(len(x), w.shape[3]):
            plane = scipy.signal.correlate(padded(x, pad)[n], w[..., o], "valid", method="direct")[
                ::stride, ::stride, 0
            ]
            np.testing.assert_allclose(y[n, ..., o], plane, rtol=1e-10, atol=1e-12)


def test_the_presets_use_all_three_algorithms():
    """Otherwise the tests in this file would not run some of them."""
    algorithms = [algorithm_of(shape) for shape in PRESET_SHAPES]
    rest = [microkernel, microkernel, toomcook, microkernel, microkernel]
    assert algorithms == [fourier, fourier, fourier, *rest]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("algorithm", [fourier, toomcook], ids=["fourier", "toomcook"])
def test_each_algorithm_supports_any_kernel_stride_and_pad(algorithm, dtype):
    """Also for shapes where it is not the fastest."""
    width, supported = microkernel.panel_width(dtype), 0
    for K, stride, pad in itertools.product((1, 2, 3, 4, 5, 6), (1, 2, 3), ((0, 0), (1, 2), (3, 0), (4, 5))):
        for N, H, W in ((2, 6, 7), (9, 12, 17)):
            shape = (N, H, W, width, 3 * width // 2 if algorithm is toomcook else 2 * width, K, stride, pad)
            x, w, dy = operands(shape, dtype)
            _, P, Q, _ = dy.shape
            if algorithm.work(x.shape, w.shape, stride, pad[0], P, Q, x.dtype) == np.inf:
                continue
            bound = (2e-5 if algorithm is toomcook else 3e-6) if dtype == np.float32 else 1e-13
            got = (
                algorithm.conv2d(x, w, stride, pad[0], P, Q),
                algorithm.conv2d_grad_x(dy, w, H, W, stride, pad[0]),
                algorithm.conv2d_grad_w(dy, x, K, stride, pad[0]),
            )
            reference = results(numpy_backend, *(array.astype(np.float64) for array in (x, w, dy)), stride, pad)
            assert_close(got, reference, bound)
            supported += 1
    assert supported > 40


@st.composite
def shapes(draw):
    """Draw (N, H, W, C, O, K, stride, pad) of a convolution."""
    K, stride = draw(st.integers(1, 7)), draw(st.integers(1, 3))
    pad = draw(st.tuples(st.integers(0, K), st.integers(0, K)))
    least = max(1, K - sum(pad))
    H, W = draw(st.integers(least, least + 8)), draw(st.integers(least, least + 8))
    C, O = (draw(st.sampled_from([1, 2, 3, 5, 8, 9, 10, 16, 24, 32, 33, 48, 64])) for _ in "CO")
    return draw(st.integers(1, 20)), H, W, C, O, K, stride, pad


@pytest.mark.parametrize("name", [name for name in NAMES if name != "numpy"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(shape=shapes(), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_any_shape_agrees_with_the_reference(name, dtype, shape, seed):
    x, w, dy = operands(shape, dtype, seed)
    reference = results(numpy_backend, *(array.astype(np.float64) for array in (x, w, dy)), *shape[6:])
    got = results(backends.load(name), x, w, dy, *shape[6:])
    assert [y.dtype for y in got] == [dtype] * 3
    bound = 8e-6 if algorithm_of(shape) is toomcook else 3e-6
    assert_close(got, reference, bound if dtype == np.float32 else 1e-13)


def test_inputs_need_not_be_contiguous(backend):
    shape = (4, 9, 8, 6, 5, 3, 2, 1)
    x, w, dy = operands(shape)
    expected = results(backend, x, w, dy, 2, 1)
    strided_x = backend.asarray(np.repeat(x, 2, axis=0))[::2]
    transposed_w = backend.asarray(np.ascontiguousarray(w.T)).T
    reversed_dy = backend.asarray(np.ascontiguousarray(dy[:, ::-1]))[:, ::-1]
    assert not (strided_x.flags.c_contiguous or transposed_w.flags.c_contiguous or reversed_dy.flags.c_contiguous)
    got = [
        backend.conv2d(strided_x, transposed_w, 2, 1),
        backend.conv2d_grad_x(reversed_dy, transposed_w, x.shape, 2, 1),
        backend.conv2d_grad_w(reversed_dy, strided_x, w.shape, 2, 1),
    ]
    for y, y0 in zip(got, expected, strict=True):
        np.testing.assert_array_equal(backend.to_numpy(y), y0)


@pytest.mark.parametrize("shape", PRESET_SHAPES[:6], ids=str)
def test_nan_comes_out_as_nan_and_stays_in_its_image(shape, backend):
    x, w, dy = operands(shape, np.float32)
    x[1, 3, 3, 0] = dy[1, 3, 3, 0] = np.nan
    y, dx, dw = results(backend, x, w, dy, *shape[6:])
    where = expectations(x, w, dy, *shape[6:])
    for got, expected in zip((y, dx, dw), where, strict=True):
        assert np.isnan(got[np.isnan(expected)]).all()
    for got in (y, dx):
        assert np.isfinite(np.delete(got, 1, axis=0)).all()


def test_infinity_is_not_lost(backend):
    x, w, dy = operands((2, 6, 6, 3, 4, 3, 1, 0), np.float32)
    x[0, 2, 2, 1] = np.inf
    with np.errstate(invalid="ignore"):  # NumPy's own warning about inf - inf in the gradients
        y = results(backend, x, np.abs(w), dy, 1, 0)[0]
    assert np.isposinf(y[0, :3, :3]).all()


@pytest.mark.slow
@pytest.mark.parametrize("N", [0, 1])
def test_the_smallest_batches(N, backend):
    x, w, dy = operands((N, 5, 5, 3, 4, 3, 2, 1))
    y, dx, dw = results(backend, x, w, dy, 2, 1)
    assert (y.shape, dx.shape, dw.shape) == ((N, 3, 3, 4), x.shape, w.shape)
    assert N or not dw.any()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "cupy"])
def test_channels_that_do_not_match_are_refused(name):
    backend = backends.load(name)
    x, w, dy = operands((2, 5, 5, 3, 4, 3, 1, 1))
    with pytest.raises(ValueError):
        backend.conv2d(x[..., :2], w, 1, 1)
    with pytest.raises(ValueError):
        backend.conv2d_grad_x(dy[..., :2], w, x.shape, 1, 1)
    with pytest.raises(ValueError):
        backend.conv2d_grad_w(dy[:1], x, w.shape, 1, 1)
    with pytest.raises(ValueError, match="does not fit"):
        backend.conv2d(x, np.zeros((9, 9, 3, 4)), 1, 1)


def test_the_reference_takes_complex_numbers():
    """Complex step: the imaginary part of conv(x + i h) / h is the derivative, without cancellation."""
    x, w, dy = operands((2, 6, 5, 3, 4, 3, 2, (0, 1)))
    direction = np.random.default_rng(1).standard_normal(x.shape)
    y = numpy_backend.conv2d(x + 1e-30j * direction, w.astype(complex), 2, (0, 1))
    assert y.dtype == np.complex128
    slope = np.vdot(y.imag / 1e-30, dy)
    assert slope == pytest.approx(np.vdot(direction, naive_grad_x(dy, w, x.shape, 2, (0, 1))), rel=1e-12)
    assert numpy_backend.conv2d_grad_x(dy + 0j, w, x.shape, 2, (0, 1)).dtype == np.complex128
    assert numpy_backend.conv2d_grad_w(dy + 0j, x, w.shape, 2, (0, 1)).dtype == np.complex128


# ---------------------------------------------------------------- the passes over memory


@pytest.mark.parametrize("name", [name for name in NAMES if name != "numpy"])
@pytest.mark.parametrize(("dtype", "bound"), [(np.float64, 1e-12), (np.float32, 2e-5)], ids=["float64", "float32"])
@pytest.mark.parametrize("shape", [(3, 4, 5, 6), (700, 33), (2, 1, 1, 1100)], ids=str)
def test_the_other_operations_agree_with_the_reference(name, dtype, bound, shape):
    rng = np.random.default_rng(0)
    x, dy, gamma, beta = (rng.standard_normal(s).astype(dtype) for s in (shape, shape, shape[-1], shape[-1]))
    x += 3

    def outputs(backend, dtype):
        a, b, c, d = (backend.asarray(array.astype(dtype)) for array in (x, dy, gamma, beta))
        y, mean, var = backend.batchnorm(a, c, d, 1e-3)
        state = [backend.asarray(array.astype(dtype)) for array in (x, np.abs(dy), np.abs(x))]
        backend.adam(state[0], b, *state[1:], AdamStep(1e-3, 0.5, 0.999, 1e-8, 3))
        all_outputs = [
            backend.sum_rows(b),
            backend.add_bias(b.copy(), d),
            backend.add_bias(b.copy(), d, 0.2),
            *backend.bias_grad(b, None),
            *backend.bias_grad(b, a - 3, 0.2),
            backend.leaky_relu(a - 3, 0.2),
            backend.leaky_relu_grad(b, a - 3, 0.2),
            *(y, mean, var),
            *backend.batchnorm_grad(b, a, Normalisation(c, d, mean, var, 1e-3)),
            *backend.batchnorm(a, c, d, 1e-3, 0.3),
            *backend.batchnorm_grad(b, a, Normalisation(c, d, mean, var, 1e-3), 0.3),
            backend.dropout(a, 20000, 12345),
            backend.uniform(shape, 12345, dtype),
            *state,
            *of_groups(backend, a, b),
        ]
        return [backend.to_numpy(array) for array in all_outputs]

    for got, expected in zip(outputs(backends.load(name), dtype), outputs(numpy_backend, np.float64), strict=True):
        assert got.dtype == dtype
        assert np.abs(got - expected).max() <= bound * (np.abs(expected).max() + 1)


def of_groups(backend, l, dy):
    """Return the results of the operations on groups of columns: a group of all, groups of one, and mixed ones."""
    found = []
    l, dy = l.reshape(-1, l.shape[-1]), dy.reshape(-1, l.shape[-1])
    for starts in ((0,), tuple(range(l.shape[1])), tuple(at for at in range(l.shape[1]) if at % 7 in (0, 1, 4))):
        y = backend.softmax_groups(l, starts)
        found += [y, backend.softmax_groups_grad(dy, y, starts), backend.argmax_groups(l, starts)]
    return found


GROUPS = [((2, 5), (0, 3)), ((4, 12), (0, 1, 5, 7)), ((130, 301), (0, 100, 101, 201)), ((3, 1), (0,)), ((0, 4), (0, 2))]


@pytest.mark.parametrize("shape,starts", GROUPS, ids=str)
def test_softmax_of_groups_is_the_formula(shape, starts, backend):
    """Each group is computed alone, in float64, without subtracting the maximum."""
    rng = np.random.default_rng(0)
    l, dy = 3 * rng.standard_normal(shape), rng.standard_normal(shape)
    expected, expected_dl, largest = np.empty(shape), np.empty(shape), np.zeros(shape)
    for start, stop in itertools.pairwise((*starts, shape[1])):
        group = slice(start, stop)
        for n in range(shape[0]):
            y = np.exp(l[n, group]) / np.exp(l[n, group]).sum()
            expected[n, group], expected_dl[n, group] = y, (np.diag(y) - np.outer(y, y)) @ dy[n, group]
            largest[n, start + l[n, group].argmax()] = 1
    for dtype, bound in ((np.float64, 1e-14), (np.float32, 2e-6)):
        a, b = (backend.asarray(array, dtype=dtype) for array in (l, dy))
        got = backend.softmax_groups(a, starts)
        results = (got, backend.softmax_groups_grad(b, got, starts), backend.argmax_groups(a, starts))
        for result, right in zip(results, (expected, expected_dl, largest), strict=True):
            result = backend.to_numpy(result)
            assert result.dtype == dtype and result.shape == shape
            assert np.abs(result - right).max(initial=0) <= bound


def test_softmax_of_groups_of_extreme_numbers(backend):
    """It does not overflow, and NaN and infinity are not lost, but stay in their group."""
    l = np.array([[1e30, -1e30, 0, 88.9, 90], [5, 5, np.nan, 1, 2], [-200, -200, np.inf, 0, -np.inf]], np.float32)
    with np.errstate(invalid="ignore"):
        y = backend.to_numpy(backend.softmax_groups(backend.asarray(l), (0, 2, 3)))
    np.testing.assert_allclose(y[0], [1, 0, 1, 1 / (1 + np.exp(1.1)), 1 / (1 + np.exp(-1.1))], rtol=1e-5)
    np.testing.assert_allclose(y[1], [0.5, 0.5, np.nan, 1 / (1 + np.e), np.e / (1 + np.e)], rtol=1e-6)
    np.testing.assert_allclose(y[2], [0.5, 0.5, np.nan, 1, 0])


def test_one_of_several_largest_numbers_is_chosen(backend):
    l = np.array([[1, 1, 1, 0, 2, 2], [0, 3, 3, -1, -2, -1]], np.float32)
    y = backend.to_numpy(backend.argmax_groups(backend.asarray(l), (0, 3)))
    assert y.tolist() == [[1, 0, 0, 0, 1, 0], [0, 1, 0, 1, 0, 0]]


def test_groups_of_an_array_that_is_not_contiguous(backend):
    l = np.random.default_rng(0).standard_normal((6, 10))
    strided = backend.asarray(l)[:, ::2]
    y = backend.asarray(np.ascontiguousarray(l[:, ::2]))
    for got, expected in zip(of_groups(backend, strided, strided), of_groups(backend, y, y), strict=True):
        np.testing.assert_array_equal(backend.to_numpy(got), backend.to_numpy(expected))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (7, 3), (2, 25_001)], ids=str)
def test_uniform_numbers_have_the_documented_bits(name, shape):
    """For the top 23 bits b of each half of a hash, the number is exactly (2 b + 1) / 2^24, in float32 and float64."""
    backend, size, stream = backends.load(name), math.prod(shape), 2**64 - 5
    hashes = [backends.mix64(stream + (q + 1) * backends.GOLDEN) for q in range((size + 1) // 2)]
    bits = [half >> 9 for h in hashes for half in (h & 0xFFFFFFFF, h >> 32)][:size]
    expected = np.reshape([(2 * b + 1) / 2**24 for b in bits], shape)
    for dtype in (np.float32, np.float64):
        u = backend.to_numpy(backend.uniform(shape, stream, dtype))
        assert u.dtype == dtype
        np.testing.assert_array_equal(u, expected)


@pytest.mark.parametrize("name", NAMES)
def test_uniform_numbers_never_are_0_or_1(name, monkeypatch):
    """Even for hashes of only zeros and only ones, the logarithms of u and of 1 - u are finite in float32."""
    backend = backends.load(name)
    u = backend.to_numpy(backend.uniform((1 << 20,), 7, np.float32))
    assert 0 < u.min() < 1e-5 and 1 - 1e-5 < u.max() < 1 and abs(u.mean() - 0.5) < 4 / math.sqrt(12 << 20)
    if name == "numpy":
        monkeypatch.setattr(backends.numpy_backend, "hashes", lambda count, stream: np.array([0, 2**64 - 1], np.uint64))
        u = backend.uniform((4,), 7, np.float32)
        assert u.tolist() == [2**-24, 2**-24, 1 - 2**-24, 1 - 2**-24]
        assert np.isfinite(np.log(u)).all() and np.isfinite(np.log(-np.log(u))).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_of_batch_norm_takes_the_exact_mask_of_y(name):
    """The gradient recomputes the input of the activation with the same rounding, and so with the same sign.

    In this test the input is almost 0 in every third row.
    """
    backend, rng = backends.load(name), np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 90, 4000)).astype(np.float32)
    gamma = rng.standard_normal(4000).astype(np.float32)
    x[::3] = x[0]
    exact = x.astype(np.float64)
    beta = (-gamma / np.sqrt(exact.var(axis=0) + 1e-3) * (x[0] - exact.mean(axis=0))).astype(np.float32)
    x, dy, gamma, beta = map(backend.asarray, (x, dy, gamma, beta))
    y, mean, var = backend.batchnorm(x, gamma, beta, 1e-3, 0.3)
    almost_0 = backend.to_numpy(y)[0]
    assert np.abs(almost_0).max() < 1e-4 and 1000 < (almost_0 > 0).sum() < 3000
    norm = Normalisation(gamma, beta, mean, var, 1e-3)
    got = backend.batchnorm_grad(dy, x, norm, 0.3)
    masked_dy = backend.leaky_relu_grad(dy, y, 0.3)
    for a, b in zip(got, backend.batchnorm_grad(masked_dy, x, norm), strict=True):
        np.testing.assert_array_equal(backend.to_numpy(a), backend.to_numpy(b))


# ---------------------------------------------------------------- threads


def all_operations(backend):
    """Yield the results of all compiled operations, for shapes that use every algorithm."""
    for shape, dtype in itertools.product(PRESET_SHAPES + AWKWARD_SHAPES, (np.float32, np.float64)):
        yield from results(backend, *operands(shape, dtype), *shape[6:])
    rng = np.random.default_rng(0)
    for M, K, N in ((300, 100, 200), (64, 700, 1), (1, 5, 3), (256, 784, 512)):
        yield backend.matmul(
            rng.standard_normal((M, K)).astype(np.float32), rng.standard_normal((K, N)).astype(np.float32)
        )
    x = rng.standard_normal((3000, 40)).astype(np.float32)
    y, mean, var = backend.batchnorm(x, x[0], x[1], 1e-3)
    norm = Normalisation(x[0], x[1], mean, var, 1e-3)
    yield from (y, mean, var, backend.sum_rows(x), backend.dropout(x, 9, 9), backend.uniform(x.shape, 9, np.float32))
    yield from (backend.add_bias(y.copy(), x[0], 0.2), *backend.bias_grad(y, x, 0.2))
    yield from backend.batchnorm_grad(y, x, norm)
    yield from backend.batchnorm(x, x[0], x[1], 1e-3, 0.2)
    yield from backend.batchnorm_grad(y, x, norm, 0.2)
    yield from of_groups(backend, x, y)
    yield from of_sequences(backend, rng)


def of_sequences(backend, rng):
    """Yield the results of the recurrent operations on a batch whose last block has fewer sequences."""

    def draw(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    for kind, gates, states in (("gru", 3, 1), ("lstm", 4, 2)):
        weights = RecurrentWeights(draw(5, gates * 24), draw(24, gates * 24) / 5, draw(gates * 24), draw(gates * 24))
        m = (draw(37, 11) > 0).astype(np.float32)
        y, saved = getattr(backend, kind)(draw(37, 11, 5), weights, draw(37, states * 24), m)
        d = getattr(backend, f"{kind}_grad")(draw(37, 11, 24), saved, weights, m)
        yield from (y, d.x, *d.weights, d.start, d.m)


def test_a_kernel_loaded_from_disk_has_its_threads_started(tmp_path):
    """Only the kernel that was compiled first contains the `prange`, which all kernels use."""
    first = "passes.leaky_relu(np.ones(9, np.float32), 0.2)"
    product = "microkernel.matmul(np.ones((40, 128), np.float32), np.ones((128, 64), np.float32))"
    for call in (first, product, product):  # compiled with the loop; compiled without it; read from disk
        program = f"import numpy as np; from minigan.backends.numba import microkernel, passes; print({call}.sum())"
        run = [sys.executable, "-c", program]
        done = subprocess.run(run, env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, "9.0\n" if call == first else "327680.0\n"), done.stderr


def test_the_bits_do_not_depend_on_the_number_of_threads():
    bits = []
    for threads in (1, 2, 3, 4):
        bits.append([array.tobytes() for array in all_operations(backends.load("numba", threads=threads))])
        assert compiled.numba.get_num_threads() == threads
    assert bits[0] == bits[1] == bits[2] == bits[3]


def test_a_result_does_not_depend_on_the_rest_of_the_batch():
    """The result for one image has the same bits if the other images change."""
    for shape in PRESET_SHAPES:
        x, w, dy = operands(shape, np.float32)
        y, dx, _ = results(numba_backend, x, w, dy, *shape[6:])
        others, other_dy = x[::-1].copy(), dy[::-1].copy()
        others[2], other_dy[2] = x[2], dy[2]
        y2, dx2, _ = results(numba_backend, others, w, other_dy, *shape[6:])
        np.testing.assert_array_equal(y[2], y2[2])
        np.testing.assert_array_equal(dx[2], dx2[2])


# ---------------------------------------------------------------- the matrix product


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("M", "K", "N"), [(1, 1, 1), (256, 100, 300), (33, 700, 1), (700, 33, 5), (5, 1, 300), (600, 7, 64), (40, 9, 64)]
)
def test_matmul_contiguous_transposed_or_sliced(M, K, N, dtype, rng):
    a, b = rng.standard_normal((M, K)).astype(dtype), rng.standard_normal((K, N)).astype(dtype)
    expected = a.astype(np.float64) @ b.astype(np.float64)
    layouts = (lambda m: m, lambda m: np.ascontiguousarray(m.T).T, lambda m: np.repeat(m, 2, axis=1)[:, ::2])
    for left, right in itertools.product(layouts, layouts):
        y = numba_backend.matmul(left(a), right(b))
        assert y.dtype == dtype and y.flags.c_contiguous
        assert np.abs(y - expected).max() <= (1e-6 if dtype == np.float32 else 1e-14) * K**0.5 * 10


def test_matmul_refuses_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="do not fit together"):
        numba_backend.matmul(np.zeros((2, 3)), np.zeros((4, 5)))


# ---------------------------------------------------------------- the tile


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_tile_computes_the_sum_of_its_tables(dtype, rng):
    width, rows = microkernel.panel_width(dtype), 2 * microkernel.ROWS
    x, w = rng.standard_normal(500).astype(dtype), rng.standard_normal(30 * width + 3).astype(dtype)
    row, step, w_step = rng.integers(0, 200, rows), rng.integers(0, 200, 40), rng.integers(0, 29 * width, 40)
    y, out = np.full((2 * rows, width), np.nan, dtype), rng.permutation(2 * rows)[:rows] * width
    task = microkernel.tasks(50, 3, 0, (0, rows), (5, 33))
    tables = microkernel.Tables(row, step, w_step, out)
    for times in (1, 2):
        microkernel.products(tables, task, x, w, y.reshape(-1), times == 2)  # overwrites y, then adds to it
        for m in range(rows):
            for o in range(width):
                total = sum(float(x[50 + row[m] + step[k]]) * float(w[3 + w_step[k] + o]) for k in range(5, 33))
                assert y.reshape(-1)[out[m] + o] == pytest.approx(times * total, rel=1e-5, abs=1e-5)
    assert np.isnan(np.delete(y, out // width, axis=0)).all()  # nothing else is written


def test_a_weight_gradient_in_groups_of_images_equals_that_of_the_batch(rng, monkeypatch):
    x, dy = (rng.standard_normal(shape).astype(np.float32) for shape in ((7, 14, 14, 32), (7, 7, 7, 64)))
    case = x.shape, 4, 2, 1, x.dtype
    whole = toomcook.conv2d_grad_w(dy, x, 4, 2, 1)
    assert toomcook.gradient_plan(dy.shape, *case).group == 7
    try:
        monkeypatch.setattr(toomcook, "GROUP_BYTES", 115_000)
        toomcook.gradient_plan.cache_clear()
        assert toomcook.gradient_plan(dy.shape, *case).group == 3  # 3, 3 and 1
        np.testing.assert_array_equal(toomcook.conv2d_grad_w(dy, x, 4, 2, 1), whole)
    finally:
        toomcook.gradient_plan.cache_clear()


@njit(**parallel.INNER)
def add_to(task, times, numbers, number):
    buffer = np.empty(100, numbers.dtype)
    buffer[:] = number * numbers[task]
    times[task] += buffer[99]


@njit
def add_to_all(tasks, times, numbers, number):
    in_parallel(tasks, add_to, (times, numbers, number))


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_every_task_is_done_once_with_its_arguments(threads, rng):
    numbers = rng.standard_normal(1000)
    backends.put_in_force(backends.load("numba", threads=threads))
    for tasks in (0, 1, 2, 3, 7, 1000):
        times = np.zeros(1000)
        add_to_all(tasks, times, numbers, 2.5)
        np.testing.assert_array_equal(times, np.where(np.arange(1000) < tasks, 2.5 * numbers, 0))


@njit(**parallel.INNER)
def work(task, turns, done_by):
    total = 0.0
    for turn in range(turns[task]):
        total += np.sqrt(turn)
    done_by[task] = get_thread_id() if total >= 0 else -1


@njit
def work_all(turns, done_by):
    in_parallel(len(turns), work, (turns, done_by))


def test_the_tasks_of_a_slow_thread_are_done_by_the_others():
    turns, done_by = np.array([300_000_000] + [1000] * 99), np.zeros(100, np.int64)  # the first takes long
    backends.put_in_force(backends.load("numba", threads=2))
    work_all(turns, done_by)
    assert (done_by[1:50] != done_by[0]).all()  # these tasks are in the range of the slow thread


@njit(**parallel.INNER)
def allocate(task, sizes, found):
    found[task] = np.empty(sizes[task], np.float64).size


@njit
def allocate_all(sizes, found):
    in_parallel(len(sizes), allocate, (sizes, found))


def test_a_task_without_memory_raises_and_the_others_are_done():
    sizes, found = np.array([7, 2**55, 8, 9]), np.zeros(4, np.int64)
    with pytest.raises(MemoryError, match="no memory for the buffers of a compiled loop"):
        allocate_all(sizes, found)
    assert found.tolist() == [7, 0, 8, 9]
    sizes[1] = 5
    allocate_all(sizes, found)
    assert found.tolist() == [7, 5, 8, 9]


def run(code: str, **environment) -> str:
    """Run the code in a new process and return its output."""
    completed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **environment},
        cwd=os.path.dirname(__file__),
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, f"exit {completed.returncode}: {completed.stderr[-3000:]}"
    return completed.stdout


CHECK_SHAPES = """
    import numpy as np
    import test_backends as t
    for shape in t.PRESET_SHAPES + t.AWKWARD_SHAPES:
        for dtype, bound in ((np.float32, t.float32_bound(t.numba_backend, shape)), (np.float64, 1e-13)):
            x, w, dy = t.operands(shape, dtype)
            expected = t.results(t.numpy_backend, *(a.astype(np.float64) for a in (x, w, dy)), *shape[6:])
            t.assert_close(t.results(t.numba_backend, x, w, dy, *shape[6:]), expected, bound)
    print(t.microkernel.ROWS, t.microkernel.VECTOR_BYTES, t.compiled.tile_works())
"""


@pytest.mark.slow
@pytest.mark.skipif(not X86, reason="the CPUs of this test are x86 CPUs")
@pytest.mark.parametrize(
    ("cpu", "features", "tile"),
    [("haswell", "+avx,+avx2,+fma", "6 32 True"), ("generic", "", "6 16 True")],
    ids=["haswell", "generic"],
)
def test_other_cpus_use_their_own_tile(cpu, features, tile, pytestconfig):
    """Run code for another CPU, which this one also supports. It is compiled once and kept in pytest's cache."""
    folder = pytestconfig.cache.mkdir(f"numba-{cpu}")
    printed = run(CHECK_SHAPES, NUMBA_CPU_NAME=cpu, NUMBA_CPU_FEATURES=features, NUMBA_CACHE_DIR=str(folder))
    assert printed.strip() == tile


@pytest.mark.skipif(sys.platform != "linux", reason="guard pages need mprotect")
@pytest.mark.parametrize("side", ["after", "before"])
def test_nothing_is_read_or_written_out_of_bounds(side):
    """Every array, inputs and results, ends or starts next to a page. An access to this page ends the process."""
    run(
        f"""
        import ctypes, mmap
        import numpy as np
        import test_backends as t

        libc, page, kept, plain_empty = ctypes.CDLL(None), mmap.PAGESIZE, [], np.empty

        def guarded(shape, dtype=float, **_):
            dtype = np.dtype(dtype)
            size = int(np.prod(shape, dtype=int)) * dtype.itemsize
            room = -(-size // page) * page
            memory = mmap.mmap(-1, room + 2 * page)
            address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
            for guard in (address, address + page + room):
                assert libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(page), 0) == 0  # no access
            kept.append(memory)
            begin = page + (room - size if {side!r} == "after" else 0)
            array = np.frombuffer(memory, np.uint8, size, begin).view(dtype).reshape(shape)
            array.view(np.uint8).reshape(-1)[:] = 255  # NaN
            return array

        def copy(a):
            b = guarded(a.shape, a.dtype)
            b[...] = a
            return b

        for shape in t.PRESET_SHAPES + t.AWKWARD_SHAPES:
            for dtype in (np.float32, np.float64):
                x, w, dy = t.operands(shape, dtype)
                expected = t.results(t.numba_backend, x, w, dy, *shape[6:])
                a, b = x.reshape(len(x), -1), w.reshape(-1, w.shape[3])
                for left, right in ((a, a.T), (b.T, b)):  # compiled with NumPy's own np.empty
                    t.numba_backend.matmul(left, right)
                np.empty = guarded
                try:
                    got = t.results(t.numba_backend, *map(copy, (x, w, dy)), *shape[6:])
                    t.numba_backend.matmul(copy(a), copy(a).T)
                    t.numba_backend.matmul(copy(b).T, copy(b))
                finally:
                    np.empty = plain_empty
                for y, y0 in zip(got, expected):
                    assert y.tobytes() == y0.tobytes(), shape
                kept.clear()
        """
    )


def test_compiled_code_is_kept_on_disk():
    """A second process loads all kernels from disk and compiles none of them."""
    code = """
        import numpy as np
        import test_backends as t
        for shape in t.PRESET_SHAPES:
            t.results(t.numba_backend, *t.operands(shape, np.float32), *shape[6:])
        m = t.microkernel
        compiled = [m.products, m.convolve_groups, m.correlate_chunks, m.scatter_images]
        print(sum(sum(f.stats.cache_misses.values()) for f in compiled), sum(len(f.stats.cache_hits) for f in compiled))
    """
    run(code)
    assert run(code).split() == ["0", "4"]


def test_kernels_of_other_sources_are_deleted(tmp_path, monkeypatch):
    """Numba would keep a kernel if its own file has not changed, even if the tile in it has."""
    source, kernel = tmp_path / "numba_backend.py", tmp_path / "passes.products-1.nbi"
    code = kernel.with_suffix(".1.nbc")
    monkeypatch.setattr(compiled, "__file__", str(source))
    monkeypatch.setattr(compiled, "kernel_folder", lambda: tmp_path)
    for text, kept in (("a", False), ("a", True), ("b", False), ("b", True)):
        source.write_text("the same")
        (tmp_path / "microkernel.py").write_text(text)
        kernel.touch()
        code.touch()
        compiled.delete_stale_kernels()
        assert numba_backend.kernels_on_disk() is kernel.exists() is code.exists() is kept


def test_plain_loops_are_used_where_the_tile_does_not_compile(monkeypatch):
    def broken(a, b):
        raise RuntimeError("no such register\nand a long story")

    monkeypatch.setattr(microkernel, "matmul", broken)
    compiled.tile_works.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match=r"slower plain loops are used .*no such register\)$"):
            assert not compiled.tile_works()
        for shape in (PRESET_SHAPES[3], *AWKWARD_SHAPES):
            x, w, dy = operands(shape)
            assert_close(results(numba_backend, x, w, dy, *shape[6:]), expectations(x, w, dy, *shape[6:]), 1e-13)
        assert numba_backend.matmul(np.eye(2), np.ones((2, 3))).tolist() == [[1, 1, 1]] * 2
    finally:
        compiled.tile_works.cache_clear()


def test_a_tile_with_wrong_results_is_not_used(monkeypatch):
    monkeypatch.setattr(microkernel, "matmul", lambda a, b: 2 * (a @ b))
    compiled.tile_works.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="its results are wrong"):
            assert not compiled.tile_works()
    finally:
        compiled.tile_works.cache_clear()


THREADS = """
    import numpy as np
    from minigan import backends
    for n in (1, 4, None):
        backend, ones = backends.load("numba", threads=n), np.ones((9, 9))
        total = float(backend.matmul(ones, ones).sum())
        import numba
        print(numba.get_num_threads())
    print(backends.cores(), total)
"""


@pytest.mark.parametrize("before", ["", "import numba", "from minigan import backends; backends.load('numba')"])
def test_there_is_one_thread_per_core_whichever_module_imports_numba_first(before):
    code = f"""
        import os, subprocess, sys
        os.environ.pop("NUMBA_NUM_THREADS", None)
        {before}
        child = {textwrap.dedent(THREADS)!r}
    """
    same = run(textwrap.dedent(code) + "exec(child)")
    child = run(textwrap.dedent(code) + "subprocess.run([sys.executable, '-c', child], check=True)")
    for printed, most in ((same, backends.cores() if before == "import numba" else 16), (child, 16)):
        one, four, default, cores, total = printed.split()
        assert (one, default, total) == ("1", cores, "729.0")
        assert int(four) == min(4, most)


def test_the_environment_of_a_numba_that_was_imported_before_is_left_alone():
    """Numba reads the environment again when it compiles, and raises an error if the number of threads has changed."""
    code = """
        import os
        os.environ.pop("NUMBA_NUM_THREADS", None)
        import numba
        from minigan import backends
        backends.load("numba", threads=2)
        print("NUMBA_NUM_THREADS" in os.environ, numba.njit(lambda x: x + 1)(1))
    """
    assert run(code).split() == ["False", "2"]


def test_the_number_of_threads_is_the_users_choice():
    """NUMBA_NUM_THREADS is the default, and `threads` takes precedence."""
    assert run(THREADS, NUMBA_NUM_THREADS="3").split()[:3] == ["1", "4", "3"]


# ---------------------------------------------------------------- loading


def test_an_unknown_backend_is_named_with_the_choices():
    with pytest.raises(UserError, match=r"'jax'.*auto, numpy, numba, cupy"):
        backends.load("jax")


@pytest.fixture
def cannot_import(monkeypatch):
    """Return a function that makes the import of backends fail with the given errors."""
    real = importlib.import_module

    def breaking(errors):
        def import_module(name, *rest):
            for backend, error in errors.items():
                if name.endswith(backends.MODULES[backend]):
                    raise error
            return real(name, *rest)

        monkeypatch.setattr(backends.importlib, "import_module", import_module)

    return breaking


MISSING = ModuleNotFoundError("No module named 'numba'", name="numba")


def test_a_backend_whose_package_is_missing_says_how_to_get_it(cannot_import):
    cannot_import({"numba": MISSING})
    with pytest.raises(BackendUnavailable, match="needs the package numba: pip install numba"):
        backends.load("numba")
    assert "numba" not in backends.available()
    assert "pip install numba" in backends.status()["numba"]


def test_a_backend_whose_package_is_broken_says_why(cannot_import):
    cannot_import({"numba": ImportError("Numba needs NumPy 2.3 or less")})
    with pytest.raises(BackendUnavailable, match=r"Numba needs NumPy 2\.3 or less.*pip install --upgrade numba"):
        backends.load("numba")


def test_auto_selects_the_fastest_backend_and_says_why_others_do_not_run(cannot_import):
    cannot_import({"cupy": BackendUnavailable("no GPU is visible")})
    backend, why = backends.choose()
    assert backend is numba_backend is backends.load("auto")
    assert why == "backend numba (cupy: no GPU is visible)"

    cannot_import({"cupy": BackendUnavailable("no GPU is visible"), "numba": MISSING})
    backend, why = backends.choose()
    assert backend is backends.load("numpy")
    assert "no GPU is visible" in why and "pip install numba" in why


def test_auto_selects_the_gpu_if_there_is_one(monkeypatch):
    module, gpu = types.ModuleType("cupy"), backends.reference()
    module.start = lambda: gpu
    real = importlib.import_module
    monkeypatch.setattr(backends, "_loaded", {})
    monkeypatch.setattr(
        backends.importlib,
        "import_module",
        lambda name, *rest: module if name.endswith("backends.cupy") else real(name, *rest),
    )
    assert backends.choose() == (gpu, "backend cupy")


def operations_of_the_contract() -> dict:
    """Return the signature of each operation by name."""
    return {
        name: inspect.signature(member)
        for name, member in vars(contract.Backend).items()
        if inspect.isfunction(member) and not name.startswith("_")
    }


def test_every_backend_takes_the_calls_of_the_contract(backend):
    """Every operation has the parameters of the contract, in the same order and with the same defaults."""
    operations = operations_of_the_contract()
    assert len(operations) > 25
    for name, signature in operations.items():
        expected = [(p.name, p.kind, p.default) for p in list(signature.parameters.values())[1:]]
        found = inspect.signature(getattr(backend, name)).parameters.values()
        assert [(p.name, p.kind, p.default) for p in found] == expected, name
    for name, kind in {"name": str, "settings": dict, "steps_ahead": int, "takes_complex": bool}.items():
        assert isinstance(getattr(backend, name), kind)


def test_arrays_are_converted_to_a_backend_and_back(backend):
    x = backend.asarray([1, 2], dtype=np.float32)
    assert x.dtype == np.float32 and backend.to_numpy(x).tolist() == [1, 2]
    assert isinstance(x, backend.xp.ndarray)
    assert backend.synchronize() is None


def test_a_statistic_of_the_batch_is_the_sum_over_all_processes(backend):
    """With one process `batch_sum` changes nothing, and the mean is NumPy's: bit for bit on the CPU.

    A GPU adds in another order, so the last bits differ.
    """
    x = np.random.default_rng(0).standard_normal((5, 4, 3)).astype(np.float32)
    ours = backend.asarray(x)
    assert backend.batch_sum(ours) is ours and backend.batch_sum(7) == 7
    for axis in (None, 0, (0, 1)):
        mean = backend.to_numpy(backend.batch_mean(ours, axis))
        exact = x.mean(axis=axis, dtype=np.float64)
        assert mean.dtype == np.float32 and np.abs(mean - exact).max() <= 2e-7  # the terms have a size of 1
        if backend.name != "cupy":
            assert mean.tobytes() == x.mean(axis=axis).tobytes()


def test_two_processes_together_compute_the_statistics_of_the_whole_batch(name):
    """Each of two backends has half of the batch, and `batch_sum` adds the sums of both halves."""
    rng = np.random.default_rng(1)
    x, dy = rng.standard_normal((2, 12, 5))
    gamma, beta = rng.standard_normal((2, 5))
    whole = backends.load(name, threads=1)
    y, mean, var = whole.batchnorm(x, gamma, beta, 1e-3)
    norm = Normalisation(gamma, beta, mean, var, 1e-3)
    dx, dgamma, dbeta = whole.batchnorm_grad(dy, x, norm)
    logits = rng.standard_normal((12, 1)) * 3
    loss, d_real, d_fake = whole.discriminator_loss("softplus", logits, logits + 1)
    halves = [slice(0, 5), slice(5, 12)]

    def together(compute):
        """Call compute(backend, rows) for both halves in parallel. `batch_sum` waits for the other half."""
        sums: list = []
        barrier = threading.Barrier(2, timeout=30)

        class Half(type(whole)):
            def computing(self):  # as in two processes: threads of one process would take turns
                return contextlib.nullcontext()

            def batch_sum(self, total):
                sums.append(total)
                barrier.wait()
                result = sum(sums)
                if barrier.wait() == 0:
                    sums.clear()
                barrier.wait()
                return result

        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            return list(pool.map(lambda rows: compute(Half(threads=1), rows), halves))

    parts = together(lambda half, rows: half.batchnorm(x[rows], gamma, beta, 1e-3))
    np.testing.assert_allclose(np.concatenate([part[0] for part in parts]), y, atol=1e-12)
    for part in parts:
        np.testing.assert_allclose(part[1:], (mean, var), atol=1e-12)
    parts = together(lambda half, rows: half.batchnorm_grad(dy[rows], x[rows], norm))
    np.testing.assert_allclose(np.concatenate([part[0] for part in parts]), dx, atol=1e-12)
    np.testing.assert_allclose(
        sum(part[1] for part in parts), dgamma, atol=1e-12
    )  # local sums, which are added later in one buffer
    np.testing.assert_allclose(sum(part[2] for part in parts), dbeta, atol=1e-12)
    parts = together(lambda half, rows: half.discriminator_loss("softplus", logits[rows], logits[rows] + 1))
    np.testing.assert_allclose([part[0] for part in parts], [loss, loss], atol=1e-12)
    np.testing.assert_allclose(np.concatenate([part[1] for part in parts]), d_real, atol=1e-12)
    np.testing.assert_allclose(np.concatenate([part[2] for part in parts]), d_fake, atol=1e-12)


@pytest.fixture(params=[name for name in NAMES if name != "cupy"])
def name(request):
    """The name of a backend that supports batches shared by processes."""
    return request.param


def test_a_backend_copies_to_itself_and_is_pickled_by_name_and_settings(backend):
    assert copy.deepcopy({"backend": backend})["backend"] is backend is copy.copy(backend)
    assert pickle.loads(pickle.dumps(backend)) is backend


def test_the_reference_is_pickled_as_the_reference():
    assert pickle.loads(pickle.dumps(backends.reference())) is backends.reference()


def test_the_same_settings_give_the_same_backend():
    assert backends.load("numba", threads=2) is backends.load("numba", threads=2) is not backends.load("numba")
    assert backends.load("numba", device=None, threads=None) is backends.load("numba", tf32=True)
    with pytest.raises(TypeError, match="unknown backend setting 'thread'"):
        backends.load("numba", thread=2)


def test_the_number_of_threads_is_a_setting_of_the_backend():
    a = np.ones((64, 64), np.float32)
    one, two = backends.load("numba", threads=1), backends.load("numba", threads=2)
    for backend, threads in ((one, 1), (two, 2), (backends.load("numpy", threads=2), 2), (one, 1)):
        backend.matmul(a, a)
        assert compiled.numba.get_num_threads() == threads
        found = {library["num_threads"] for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"}
        assert found == {1}  # NumPy's products are computed by threads of the backend
    backends.reference().matmul(a, a)  # the reference does not change the number of threads
    assert compiled.numba.get_num_threads() == 1


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_numpy_computes_large_products_in_pieces_on_any_number_of_threads(threads, rng, monkeypatch):
    """The shapes do not divide evenly, and the products are large enough for several pieces."""
    joined, plain = [], np.concatenate
    monkeypatch.setattr(np, "concatenate", lambda arrays, *axis: joined.append(len(arrays)) or plain(arrays, *axis))
    pieces, whole = backends.load("numpy", threads=threads), backends.reference()
    x, w = rng.standard_normal((67, 13, 13, 32)), rng.standard_normal((5, 5, 32, 48))
    dy = whole.conv2d(x, w, 2, (1, 2))
    a, b = rng.standard_normal((501, 383)), rng.standard_normal((383, 257))
    for operation, *arguments in (
        ("matmul", a, b),
        ("matmul", b.T, a.T),
        ("conv2d", x, w, 2, (1, 2)),
        ("conv2d_grad_x", dy, w, x.shape, 2, (1, 2)),
        ("conv2d_grad_w", dy, x, w.shape, 2, (1, 2)),
    ):
        joined.clear()
        found = getattr(pieces, operation)(*arguments)
        assert joined and joined[0] > 1, operation
        np.testing.assert_allclose(found, getattr(whole, operation)(*arguments), rtol=1e-10, atol=1e-10)


IMPORTED = """
    import os, sys
    import numpy, threadpoolctl
    numpy.ones((9, 9)) @ numpy.ones((9, 9))
    def state():
        return dict(os.environ), threadpoolctl.threadpool_info()
    before = state()
    import minigan.backends.numba, minigan.backends.cupy, minigan.backends.numpy_backend
    import minigan.layers, minigan.losses, minigan.optim, minigan.game
    print(state() == before, "numba" in sys.modules, "cupy" in sys.modules)
    from minigan import backends
    backends.load("numba", threads=1)
    print(state()[0] == before[0], "numba" in sys.modules)
"""


def test_importing_the_backends_changes_nothing_in_the_process():
    """The environment and the settings of BLAS stay the same, and `load` leaves the environment as it was."""
    names = ("NUMBA_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    code = "import os\n" + "".join(f"os.environ.pop({name!r}, None)\n" for name in names)
    assert run(code + textwrap.dedent(IMPORTED)).split() == ["True", "False", "False", "True", "True"]


CACHE = """
    from minigan import backends
    from minigan.backends import numba as package
    backends.load("numba")
    from minigan.backends.numba import backend
    import numba
    print(backend.kernel_folder(), numba.config.CACHE_DIR, sep="|")
"""


def test_kernels_are_cached_in_the_users_folder_unless_numba_cache_dir_is_set(tmp_path):
    if "NUMBA_CACHE_DIR" not in os.environ:
        folder, left = run(CACHE, XDG_CACHE_HOME=str(tmp_path / "home")).strip().split("|")
        assert sys.platform != "linux" or folder.startswith(str(tmp_path / "home" / "minigan" / "kernels"))
        assert left == ""  # kernels that the user defines are cached where they were before
    folder, left = run(CACHE, NUMBA_CACHE_DIR=str(tmp_path / "mine")).strip().split("|")
    assert folder.startswith(str(tmp_path / "mine")) and left == str(tmp_path / "mine")


@pytest.mark.parametrize(("pad", "expected"), [(0, (0, 0)), (2, (2, 2)), ((1, 2), (1, 2)), ((np.int64(3), 0), (3, 0))])
def test_a_pad_is_a_number_or_a_pair(pad, expected):
    assert pads(pad) == expected


@pytest.mark.parametrize("pad", [-1, (0, -2)])
def test_a_negative_pad_is_refused(pad):
    with pytest.raises(ValueError, match="pad"):
        pads(pad)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pad", "expected"),
    [
        (28, 5, 2, (1, 2), 14),
        (14, 5, 2, (1, 2), 7),
        (7, 5, 1, 2, 7),
        (28, 4, 2, 1, 14),
        (5, 5, 3, 0, 1),
        (6, 2, 3, 0, 2),
    ],
)
def test_the_size_of_an_output(size, kernel, stride, pad, expected):
    assert conv_size(size, kernel, stride, pad) == expected


@pytest.mark.parametrize(("size", "kernel", "stride", "pad"), [(4, 5, 1, 0), (4, 0, 1, 0), (4, 3, 0, 0)])
def test_impossible_sizes_are_refused(size, kernel, stride, pad):
    with pytest.raises(ValueError):
        conv_size(size, kernel, stride, pad)
