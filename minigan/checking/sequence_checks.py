"""Checks of the layers of sequences: their cases, their formulas, and what they may see of other steps."""

import itertools
import math
from collections.abc import Iterator

import numpy as np

from minigan.checking import gradcheck
from minigan.checking.derivatives import EXACT
from minigan.checking.gradcheck import randomize
from minigan.checking.rows import Row, compare, fact
from minigan.layers import (
    GRU,
    LSTM,
    Bidirectional,
    Conv1d,
    InEachStep,
    Layer,
    LeakyReLU,
    MaskEnds,
    Sequential,
    SpectralNorm,
    TanhOf,
    WeightNorm,
)
from minigan.layers.recurrent import Recurrent


def sequence_cases(rng) -> Iterator[tuple[str, Layer, tuple, dict]]:
    """Yield (what, layer, shape of x, keyword arguments of forward) for the layers of sequences.

    The masks are random numbers, because the formulas hold for any mask.
    """
    for kind in (GRU, LSTM):
        name = kind.__name__
        yield name, kind(2, 3, rng=rng), (3, 4, 2), {}
        yield f"{name}, one step", kind(2, 3, rng=rng), (3, 1, 2), {}
        yield f"{name}, last state", kind(2, 3, last=True, rng=rng), (3, 4, 2), {}
        yield f"{name}, masked", kind(2, 3, masked=True, rng=rng), (3, 4, 3), {}
        yield f"{name}, masked, last state", kind(2, 3, last=True, masked=True, rng=rng), (3, 4, 3), {}
        yield f"{name}, initial state", kind(2, 3, initial=True, rng=rng), (3, 4, 2), {}
        both = Bidirectional(kind(2, 3, rng=rng), kind(2, 4, rng=rng))
        yield f"Bidirectional {name}", both, (3, 4, 2), {}
        both = Bidirectional(kind(2, 3, last=True, rng=rng), kind(2, 3, last=True, rng=rng))
        yield f"Bidirectional {name}, last state", both, (3, 4, 2), {}
        both = Bidirectional(kind(2, 3, masked=True, rng=rng), kind(2, 2, masked=True, rng=rng))
        yield f"Bidirectional {name}, masked", both, (3, 4, 3), {}
    yield "Conv1d", Conv1d(2, 3, 3, pad=1, rng=rng), (2, 5, 2), {}
    yield "Conv1d, causal", Conv1d(2, 3, 3, dilation=2, pad="causal", rng=rng), (2, 7, 2), {}
    yield "Conv1d 5 stride 2", Conv1d(3, 2, 5, stride=2, pad=(1, 2), bias=False, rng=rng), (2, 6, 3), {}
    yield "Conv1d without padding", Conv1d(2, 3, 2, stride=3, dilation=2, rng=rng), (2, 8, 2), {}
    yield "SpectralNorm of Conv1d", SpectralNorm(Conv1d(2, 3, 3, pad=1, rng=rng), rng=rng), (2, 5, 2), {}
    yield "WeightNorm of Conv1d", WeightNorm(Conv1d(2, 3, 3, pad=1, rng=rng)), (2, 5, 2), {}
    stacked = Sequential(GRU(2, 3, masked=True, rng=rng), LSTM(3, 2, masked=True, last=True, rng=rng), LeakyReLU(0.3))
    yield "masked layers in sequence", stacked, (3, 4, 3), {}
    yield "InEachStep", InEachStep(3, 2), (4, 9), {}
    yield "InEachStep, no numbers of their own", InEachStep(3, 0), (4, 2), {}
    yield "TanhOf", TanhOf([1, 2], 3), (3, 4, 3), {}
    yield "MaskEnds", MaskEnds([(0, 3)], 3), (6, 4, 3), {}
    yield "MaskEnds of two groups, mask appended", MaskEnds([(0, 2), (3, 5)], 6, append=True), (6, 4, 6), {}


# ---------------------------------------------------------------- formulas, one number at a time


def plain_sequence(layer: Layer, x: np.ndarray) -> np.ndarray | None:
    """Compute y of a layer of sequences one number at a time, or return None for other layers."""
    if isinstance(layer, Conv1d):
        return plain_conv1d(layer, x)
    if isinstance(layer, Bidirectional):
        forth, back = plain_sequence(layer.forth, x), plain_sequence(layer.back, np.flip(x, 1))
        assert forth is not None and back is not None
        if layer.forth.last:
            return np.hstack([forth, back])
        return np.dstack([forth[:, :, : layer.forth.n_units], np.flip(back, 1)])
    if isinstance(layer, InEachStep | TanhOf | MaskEnds):
        return np.array([plain_series(layer, series) for series in x.tolist()])
    if not isinstance(layer, Recurrent):
        return None
    p = {name: layer.backend.to_numpy(value) for name, value in layer.params.items()}
    ys = []
    for series in x:
        rows, masks, state = list(series), [1.0] * len(series), np.zeros(layer.states * layer.n_units)
        if layer.masked:
            rows, masks = [row[:-1] for row in series], [row[-1] for row in series]
        if layer.initial:
            first, masks = rows.pop(0), masks[1:]
            state = np.array([dot(first, p["w_0"][:, j]) + p["b_0"][j] for j in range(len(state))])
        out = []
        for row, mask in zip(rows, masks, strict=True):
            following = np.array(plain_step(layer, p, row, state))
            state = mask * following + (1 - mask) * state
            out.append([*state[: layer.n_units], *([mask] if layer.masked else [])])
        ys.append(out[-1][: layer.n_units] if layer.last else out)
    return np.array(ys)


def plain_step(layer: Recurrent, p: dict, x, state) -> list[float]:
    """Compute the next state of one sequence: h, or h and then c, one unit at a time."""
    H, h = layer.n_units, state[: layer.n_units]
    of_x, of_h = (
        [dot(values, p[w][:, j]) + p[b][j] for j in range(layer.gates * H)]
        for values, w, b in ((x, "w_x", "b_x"), (h, "w_h", "b_h"))
    )
    next_h, next_c = [], []
    for j in range(H):
        if isinstance(layer, GRU):
            r, z = (logistic(of_x[k * H + j] + of_h[k * H + j]) for k in (0, 1))
            n = math.tanh(of_x[2 * H + j] + r * of_h[2 * H + j])
            next_h.append((1 - z) * n + z * h[j])
        else:
            i, f, g, o = (of_x[k * H + j] + of_h[k * H + j] for k in range(4))
            next_c.append(logistic(f) * state[H + j] + logistic(i) * math.tanh(g))
            next_h.append(logistic(o) * math.tanh(next_c[-1]))
    return next_h + next_c


def plain_series(layer: Layer, x: list) -> list:
    """Compute y of one sample by a layer of `layers.series`, one number at a time."""
    if isinstance(layer, InEachStep):
        of_step = [x[t * layer.own : (t + 1) * layer.own] for t in range(layer.steps)]
        return [[*own, *x[layer.steps * layer.own :]] for own in of_step]
    y = [list(row) for row in x]
    if isinstance(layer, TanhOf):
        for t, j in itertools.product(range(len(x)), layer.features):
            y[t][j] = math.tanh(x[t][j])
        return y
    assert isinstance(layer, MaskEnds)
    lengths = []
    for start, stop in layer.ends:
        lengths.append(next((t for t, row in enumerate(x) if row[stop - 1] < 0), len(x)))
        for t, j in itertools.product(range(lengths[-1], len(x)), range(start, stop - 1)):
            y[t][j] = 0.0
    return [[*row, float(t < max(lengths))] if layer.append else row for t, row in enumerate(y)]


def plain_conv1d(layer: Conv1d, x: np.ndarray) -> np.ndarray:
    """Compute the convolution of the docstring of Conv1d, one product at a time."""
    p, (before, after) = {name: layer.backend.to_numpy(value) for name, value in layer.params.items()}, layer.pad
    (N, T, _), (K, _, O) = x.shape, p["w"].shape
    P = (T + before + after - (K - 1) * layer.dilation - 1) // layer.stride + 1
    y = np.zeros((N, P, O)) + p.get("b", 0.0)
    for n, place, k in np.ndindex(N, P, K):
        t = place * layer.stride + k * layer.dilation - before
        if 0 <= t < T:
            y[n, place] += [dot(x[n, t], p["w"][k, :, o]) for o in range(O)]
    return y


def dot(a, b) -> float:
    """Return the sum of the products."""
    return sum(float(s) * float(t) for s, t in zip(a, b, strict=True))


def logistic(l: float) -> float:
    """Return 1 / (1 + exp(-l))."""
    return 1 / (1 + math.exp(-l))


# ---------------------------------------------------------------- steps, masks and directions


def sequences(backend) -> Iterator[Row]:
    """Check what a step may depend on, unequal lengths, both directions, long sequences, and new layers."""
    rng = np.random.default_rng(24)
    for layer, reaches in (
        (GRU(2, 3, rng=rng), lambda t, s: s <= t),
        (LSTM(2, 3, rng=rng), lambda t, s: s <= t),
        (Bidirectional(GRU(2, 3, rng=rng), GRU(2, 3, rng=rng)), lambda t, s: True),
        (Conv1d(2, 3, 3, dilation=2, pad="causal", rng=rng), lambda t, s: t - s in (0, 2, 4)),
        (Conv1d(2, 3, 3, pad=1, rng=rng), lambda t, s: abs(t - s) <= 1),
        (Conv1d(2, 3, 3, stride=2, pad="causal", rng=rng), lambda t, s: 0 <= 2 * t - s <= 2),
    ):
        yield from dependence(randomize(layer.to(backend, np.float64), rng), reaches, rng)
    for layer in (
        GRU(2, 3, masked=True, rng=rng),
        LSTM(2, 3, masked=True, rng=rng),
        Bidirectional(LSTM(2, 3, masked=True, rng=rng), LSTM(2, 4, masked=True, rng=rng)),
    ):
        yield from unequal_lengths(randomize(layer.to(backend, np.float64), rng), rng)
    for kind in (GRU, LSTM):
        layer = randomize(kind(2, 3, initial=True, rng=rng).to(backend, np.float64), rng)
        layer.params["w_h"][...] *= 2  # so that the gradient of the first row does not vanish
        x = rng.standard_normal((2, 61, 2))
        rows = gradcheck.check_layer(layer, x, subject=f"{layer!r}, 60 steps", coordinates=6, directions=2, rng=rng)
        yield from rows
        new = kind(5, 4, rng=rng)
        expected = [0.0] * 4 + [1.0] * 4 + [0.0] * 8 if kind is LSTM else [0.0] * 12
        fair = new.params["b_x"].tolist() == expected and not new.params["b_h"].any()
        yield fact(repr(new), "new biases", fair, "they are not 0, or the forget gate of an LSTM does not start at 1")
    yield from fans(rng)


def dependence(layer: Layer, reaches, rng) -> Iterator[Row]:
    """Check that y_t depends on x_s if and only if `reaches(t, s)`, and so does the gradient."""
    backend, x = layer.backend, rng.standard_normal((2, 7, 2))
    y, cache = layer.forward(backend.asarray(x))
    y = backend.to_numpy(y)
    expected = np.array([[bool(reaches(t, s)) for s in range(7)] for t in range(y.shape[1])])
    found, of_gradient = np.zeros_like(expected), np.zeros_like(expected)
    for s in range(7):
        changed = x.copy()
        changed[:, s] += 1
        found[:, s] = (backend.to_numpy(layer.forward(backend.asarray(changed))[0]) != y).any(axis=(0, 2))
    for t in range(y.shape[1]):
        dy = np.zeros_like(y)
        dy[:, t] = rng.standard_normal(dy[:, t].shape)
        dx = backend.to_numpy(layer.backward(backend.asarray(dy), cache)[0])
        of_gradient[t] = (dx != 0).any(axis=(0, 2))
    right = "y_t depends on other steps of x than it should"
    yield fact(repr(layer), "y depends on x", np.array_equal(found, expected), right)
    yield fact(repr(layer), "gradient of y", np.array_equal(of_gradient, expected), right)


def unequal_lengths(layer, rng) -> Iterator[Row]:
    """Check that each of several padded sequences gives the y and gradients that it gives alone, without padding."""
    backend, lengths, T = layer.backend, (6, 1, 4), 6
    x, dy = rng.standard_normal((3, T, 3)), None
    for n, length in enumerate(lengths):
        x[n, :, -1] = np.arange(T) < length
    y, cache = layer.forward(backend.asarray(x))
    y = backend.to_numpy(y)
    units = y.shape[2] - 1
    dy = rng.standard_normal(y.shape) * x[:, :, -1:]  # no gradient comes from padding
    dx, grads = layer.backward(backend.asarray(dy), cache)
    dx, total = backend.to_numpy(dx), {name: 0.0 for name in grads}
    for n, length in enumerate(lengths):
        alone, cache = layer.forward(backend.asarray(x[n : n + 1, :length]))
        dx_alone, grads_alone = layer.backward(backend.asarray(dy[n : n + 1, :length]), cache)
        what = f"{layer!r}, {length} of {T} steps"
        alone, dx_alone = backend.to_numpy(alone)[0], backend.to_numpy(dx_alone)[0]
        yield compare(what, "y", "alone", y[n, :length], alone, EXACT)
        yield compare(what, "dx", "alone", dx[n, :length, :-1], dx_alone[:, :-1], EXACT)
        nothing = not dx[n, length:, :-1].any()
        yield fact(what, "dx of padding", nothing, "the input of a step with mask 0 gets a gradient")
        carried = np.array_equal(y[n, length:, : min(units, 3)], np.tile(y[n, length - 1, :3], (T - length, 1)))
        yield fact(what, "carried state", carried, "y after the end of a sequence is not its last state")
        for name, g in grads_alone.items():
            total[name] = total[name] + backend.to_numpy(g)
    for name, g in grads.items():
        yield compare(repr(layer), name, "sum of each alone", backend.to_numpy(g), total[name], EXACT)


def fans(rng) -> Iterator[Row]:
    """Check the fans with which weights are drawn: for each gate of a recurrent layer, those of a dense layer."""
    seen = []

    def zeros(rng, shape, *fan):
        seen.append((shape, *fan))
        return np.zeros(shape, np.float32)

    GRU(5, 4, initial=True, rng=rng, init=zeros)
    Conv1d(5, 4, 3, dilation=2, rng=rng, init=zeros)
    right = [((5, 12), 5, 4), ((4, 12), 4, 4), ((5, 4), 5, 4), ((3, 5, 4), 15, 12)]
    yield fact("GRU, Conv1d", "fans", seen == right, f"shapes, fan in and fan out are {seen}, not {right}")
