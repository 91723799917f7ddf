"""What must be true of minigan, in checks small enough to run everywhere: `minigan gradcheck` runs them for a reader,
the tests for every change, and `planted` proves that they catch mistakes.

A check is a function of a backend that yields rows (see `gradcheck.Row`); CHECKS names them all. A gradient is compared
with numerical derivatives. That shows the backward pass to fit the forward pass, and no more: so the forward pass is
compared with plain loops or a closed formula, written here a second time and in another way.
"""

import copy
import math
from collections.abc import Callable, Iterator

import numpy as np

from minigan import backends, layers, losses, models, optim, penalties
from minigan.checking import gradcheck
from minigan.checking.gradcheck import Row, compare, randomize
from minigan.errors import UserError
from minigan.layers import (
    BatchNorm,
    Conv2d,
    ConvTranspose2d,
    Dense,
    Dropout,
    Flatten,
    LeakyReLU,
    OneHot,
    Projection,
    ReLU,
    Reshape,
    Sequential,
    Sigmoid,
    SpectralNorm,
    Spread,
    Tanh,
    Upsample,
)

EXACT = 1e-12  # float64 against another order of the same sums
FEW = {"coordinates": 2, "directions": 1}  # one random direction shows any mistake; `preset_steps` tries more


def report(backend, only: Callable[[str], bool] = lambda name: True) -> list[Row]:
    """All rows of all checks on that backend, and of the whole steps of every preset."""
    checks = {**CHECKS, "presets": preset_steps}
    return [row for name, check in checks.items() if only(name) for row in check(backend)]


def fact(subject: str, tensor: str, true: bool, otherwise: str) -> Row:
    """A row for what is either so or not."""
    error, verdict = (0.0, "right") if true else (math.inf, "wrong")
    return Row(subject, tensor, "exact", 1, error, "" if true else otherwise, math.nan, math.nan, verdict)


# ---------------------------------------------------------------- layers


def layer_cases(backend, rng, dtype=np.float64) -> Iterator[tuple[str, layers.Layer, tuple, dict]]:
    """(what, layer, shape of x, arguments of forward): every kind of layer in every mode, its numbers drawn anew."""
    labels = backend.asarray(np.array([2, 0, 1, 1]))
    for what, layer, shape, how in (
        ("Dense", Dense(5, 3, rng=rng), (4, 5), {}),
        ("Dense, no bias", Dense(5, 3, bias=False, rng=rng), (4, 5), {}),
        ("Conv2d 3x3", Conv2d(2, 3, 3, pad=1, rng=rng), (2, 4, 3, 2), {}),
        ("Conv2d 4x4 stride 2", Conv2d(3, 2, 4, stride=2, pad=1, rng=rng), (2, 5, 4, 3), {}),
        ('Conv2d 5x5 stride 2 "same"', Conv2d(1, 3, 5, stride=2, pad=(1, 2), bias=False, rng=rng), (2, 6, 4, 1), {}),
        ("ConvTranspose2d 4x4 stride 2", ConvTranspose2d(3, 2, 4, stride=2, pad=1, rng=rng), (2, 3, 2, 3), {}),
        (
            "ConvTranspose2d 3x3 stride 3",
            ConvTranspose2d(2, 3, 3, stride=3, pad=(0, 1), output_pad=2, rng=rng),
            (2, 2, 3, 2),
            {},
        ),
        ("SpectralNorm of Dense", SpectralNorm(Dense(5, 3, rng=rng), rng=rng), (4, 5), {}),
        ("SpectralNorm of Conv2d", SpectralNorm(Conv2d(2, 3, 3, pad=1, rng=rng), rng=rng), (2, 3, 3, 2), {}),
        ("SpectralNorm of Projection", SpectralNorm(Projection(5, 3, rng=rng), rng=rng), (4, 5), {"labels": labels}),
        ("BatchNorm of images", BatchNorm(3, eps=1e-3), (3, 2, 2, 3), {}),
        ("BatchNorm of rows", BatchNorm(4), (5, 4), {}),
        ("BatchNorm, running statistics", BatchNorm(4, eps=1e-3), (5, 4), {"train": False}),
        ("OneHot", OneHot(3), (4, 5), {"labels": labels}),
        ("Projection", Projection(5, 3, rng=rng), (4, 5), {"labels": labels}),
        ("Spread", Spread(3, strength=2.0), (4, 6), {"labels": labels}),
        ("Spread of the whole batch", Spread(strength=2.0), (4, 5), {}),
        ("LeakyReLU", LeakyReLU(0.3), (4, 5), {}),
        ("ReLU", ReLU(), (4, 5), {}),
        ("Tanh", Tanh(), (4, 5), {}),
        ("Sigmoid", Sigmoid(), (4, 5), {}),
        ("Dropout", Dropout(0.4, rng=rng), (4, 9), {}),
        ("Dropout, not training", Dropout(0.4, rng=rng), (4, 5), {"train": False}),
        ("Reshape", Reshape(2, 3, 2), (2, 12), {}),
        ("Flatten", Flatten(), (2, 3, 2, 2), {}),
        ("Upsample", Upsample(3), (2, 2, 3, 2), {}),
        (
            "Sequential",
            Sequential(Reshape(2, 2, 2), Conv2d(2, 3, 3, pad=1, rng=rng), Tanh(), Flatten(), Dense(12, 2, rng=rng)),
            (3, 8),
            {},
        ),
        (
            "Sequential with labels",
            Sequential(OneHot(3), Dense(8, 4, rng=rng), LeakyReLU(0.2), Projection(4, 3, rng=rng)),
            (4, 5),
            {"labels": labels},
        ),
    ):
        yield what, randomize(layer.to(backend, dtype), rng), shape, how


def layer_gradients(backend) -> Iterator[Row]:
    """dx and every parameter's gradient; on the reference by complex step too."""
    rng = np.random.default_rng(1)
    for what, layer, shape, how in layer_cases(backend, rng):
        x = rng.standard_normal(shape)
        for method in ("central", "complex") if backend.NAME == "numpy" else ("central",):
            yield from gradcheck.check_layer(layer, x, **how, method=method, subject=what, coordinates=24, rng=rng)


def layer_contract(backend) -> Iterator[Row]:
    """float32 in, float32 out; a gradient that is not needed is None and changes no other; inputs stay as they are."""
    rng = np.random.default_rng(2)
    for what, layer, shape, how in layer_cases(backend, rng, np.float32):
        x = backend.asarray(rng.standard_normal(shape), dtype=np.float32)
        y, cache = layer.forward(x, **how)
        dy = backend.asarray(rng.standard_normal(y.shape), dtype=np.float32)
        x_before, dy_before = backend.to_numpy(x).copy(), backend.to_numpy(dy).copy()
        dx, grads = layer.backward(dy, cache)
        dtypes = {str(a.dtype) for a in (y, dx, *grads.values())}
        yield fact(what, "dtype", dtypes == {"float32"}, f"float32 in, {', '.join(sorted(dtypes))} out")
        untouched = np.array_equal(backend.to_numpy(x), x_before) and np.array_equal(backend.to_numpy(dy), dy_before)
        yield fact(what, "inputs", untouched, "x or dy was written to")
        dx_only, no_grads = layer.backward(dy, cache, need_grads=False)
        no_dx, grads_only = layer.backward(dy, cache, need_dx=False)
        spared = no_grads is None and no_dx is None and grads_only.keys() == grads.keys() == layer.params.keys()
        yield fact(what, "not needed", spared, "what was not asked for is not None")
        same = [(dx, dx_only), *((grads[name], grads_only[name]) for name in grads)]
        alike = all(np.array_equal(*map(backend.to_numpy, pair)) for pair in same)
        yield fact(what, "frozen", alike, "a gradient depends on what else was asked for")


def forward_values(backend) -> Iterator[Row]:
    """What each layer computes, against plain loops and formulas."""
    rng = np.random.default_rng(3)
    for what, layer, shape, how in layer_cases(backend, rng):
        if isinstance(layer, Dropout | Sequential):
            continue
        x = rng.standard_normal(shape)
        expected = plain_forward(layer, x, **how)
        y, _ = layer.forward(backend.asarray(x), **how)
        # Spectral norm adds 1e-12 under its root.
        tolerance = 10 * EXACT if isinstance(layer, SpectralNorm) else EXACT
        yield compare(what, "y", "plain loops", backend.to_numpy(y), expected, tolerance)


def plain_forward(layer, x: np.ndarray, train: bool = True, labels=None) -> np.ndarray:
    """The layer's y as its definition says it, slowly."""
    if isinstance(layer, SpectralNorm):
        inner = copy.copy(layer.layer)
        w = layer.backend.to_numpy(layer.params["w"])
        sigma = np.linalg.svd(w.reshape(-1, w.shape[-1]), compute_uv=False)[0]
        inner.params = layer.params | {"w": layer.params["w"] / sigma}
        return plain_forward(inner, x, train, labels)
    if isinstance(layer, OneHot):
        chosen = layer.backend.to_numpy(labels)
        return np.array(
            [[*row, *(float(c == label) for c in range(layer.classes))] for row, label in zip(x, chosen, strict=True)]
        )
    p, buffers = ({k: layer.backend.to_numpy(v) for k, v in d.items()} for d in (layer.params, layer.buffers))
    if isinstance(layer, Dense):
        y = [
            [sum(x[n, i] * p["w"][i, o] for i in range(layer.n_in)) for o in range(layer.n_out)] for n in range(len(x))
        ]
        return np.array(y) + p.get("b", 0.0)
    if isinstance(layer, Projection):
        chosen = [int(label) for label in labels]
        return x @ p["w"] + p["b"] + np.array([[row @ p["e"][c]] for row, c in zip(x, chosen, strict=True)])
    if isinstance(layer, Spread):
        chosen = np.zeros(len(x)) if labels is None else layer.backend.to_numpy(labels)
        std = np.array([np.sqrt(np.var(x[chosen == label], axis=0) + layer.eps) for label in chosen])
        means = [std[:, c :: layer.channels].mean(axis=1) for c in range(layer.channels)]
        return np.column_stack([x, *(layer.strength * mean for mean in means)])
    if isinstance(layer, Conv2d):
        return plain_conv(x, p["w"], layer.stride, layer.pad) + p.get("b", 0.0)
    if isinstance(layer, ConvTranspose2d):
        return plain_conv_transpose(x, p["w"], layer.stride, layer.pad, layer.output_pad) + p.get("b", 0.0)
    if isinstance(layer, BatchNorm):
        rows = x.reshape(-1, layer.channels)
        mean, var = (np.mean(rows, 0), np.var(rows, 0)) if train else (buffers["mean"], buffers["var"])
        return p["gamma"] * (x - mean) / np.sqrt(var + layer.eps) + p["beta"]
    if isinstance(layer, LeakyReLU):
        return np.maximum(x, 0) + layer.slope * np.minimum(x, 0)
    if isinstance(layer, Tanh):
        return np.sinh(x) / np.cosh(x)
    if isinstance(layer, Sigmoid):
        return 1 / (1 + np.exp(-x))
    if isinstance(layer, Upsample):
        return np.kron(x, np.ones((1, layer.factor, layer.factor, 1)))
    if isinstance(layer, Dropout):
        return x
    shape = layer.shape if isinstance(layer, Reshape) else (-1,)
    return np.stack([np.array(list(sample.flat)).reshape(shape) for sample in x])


def plain_conv(x, w, stride, pad) -> np.ndarray:
    """The sum of `minigan.backends`, one product at a time."""
    (N, H, W, _), (K, _, _, O), (before, after) = x.shape, w.shape, pad
    P, Q = ((size + before + after - K) // stride + 1 for size in (H, W))
    y = np.zeros((N, P, Q, O), x.dtype)
    for n, p, q, i, j in np.ndindex(N, P, Q, K, K):
        h, v = p * stride + i - before, q * stride + j - before
        if 0 <= h < H and 0 <= v < W:
            y[n, p, q] += x[n, h, v] @ w[i, j]
    return y


def plain_conv_transpose(x, w, stride, pad, output_pad) -> np.ndarray:
    """Each pixel of x paints its multiple of the kernel onto y."""
    (N, H, W, _), (K, _, O, _), (before, after) = x.shape, w.shape, pad
    P, Q = (stride * (size - 1) + K - before - after + output_pad for size in (H, W))
    y = np.zeros((N, P, Q, O), x.dtype)
    for n, h, v, i, j in np.ndindex(N, H, W, K, K):
        p, q = h * stride + i - before, v * stride + j - before
        if 0 <= p < P and 0 <= q < Q:
            y[n, p, q] += w[i, j] @ x[n, h, v]
    return y


def adjointness(backend) -> Iterator[Row]:
    """<conv(x), y> = <x, conv_transpose(y)> with one weight in both layers."""
    rng = np.random.default_rng(4)
    for K, stride, pad, H in ((3, 1, 1, 5), (4, 2, 1, 6), (5, 2, (1, 2), 6), (5, 3, 0, 9)):
        conv = Conv2d(3, 5, K, stride=stride, pad=pad, bias=False, rng=rng).to(backend, np.float64)
        output_pad = (H + sum(conv.pad) - K) % stride  # the pixels that the last window does not reach
        back = ConvTranspose2d(5, 3, K, stride=stride, pad=pad, output_pad=output_pad, bias=False, rng=rng)
        back.to(backend, np.float64)
        back.params["w"] = conv.params["w"]
        x = rng.standard_normal((2, H, H, 3))
        conv_x = backend.to_numpy(conv.forward(backend.asarray(x))[0])
        y = rng.standard_normal(conv_x.shape)
        back_y = backend.to_numpy(back.forward(backend.asarray(y))[0])
        left, right = (conv_x * y).sum(), (x * back_y).sum()
        yield compare(f"{conv!r}", "<Cx,y>=<x,C'y>", "adjoint", left, right, EXACT)


def batch_statistics(backend) -> Iterator[Row]:
    """running = momentum * running + (1 - momentum) * batch, when training and tracking, else unmoved."""
    rng = np.random.default_rng(5)
    layer = randomize(BatchNorm(3, momentum=0.8).to(backend, np.float64), rng)
    x = rng.standard_normal((6, 2, 2, 3))
    before = {name: backend.to_numpy(b).copy() for name, b in layer.buffers.items()}
    after = {
        "mean": 0.8 * before["mean"] + 0.2 * x.mean((0, 1, 2)),
        "var": 0.8 * before["var"] + 0.2 * x.var((0, 1, 2)),
    }
    for mode, expected in (({"train": False}, before), ({"track": False}, before), ({}, after)):
        layer.forward(backend.asarray(x), **mode)
        for name, b in layer.buffers.items():
            yield compare(
                f"BatchNorm {mode or 'training'}",
                f"running {name}",
                "formula",
                backend.to_numpy(b),
                expected[name],
                EXACT,
            )


def dropped_units(backend) -> Iterator[Row]:
    """Kept units are scaled to keep the mean, draws differ, the counter counts, and 4 draws are the known bits."""
    rate, n = 0.25, 40_000
    layer = Dropout(rate, rng=np.random.default_rng(6)).to(backend, np.float64)
    ones = backend.asarray(np.ones((4, n // 4)))
    first, second = (backend.to_numpy(layer.forward(ones)[0]) for _ in range(2))
    yield compare("Dropout", "values", "formula", np.unique(first), np.array([0.0, 1 / (1 - rate)]), EXACT)
    sigma = math.sqrt(rate / (1 - rate) / n)  # of the mean of n units
    yield compare("Dropout", "mean of y", "statistics", first.mean(), 1.0, 4 * sigma)
    both = ((first > 0) & (second > 0)).mean()
    yield compare("Dropout", "kept twice", "statistics", both, (1 - rate) ** 2, 4 * sigma)
    neighbours = ((first[:, 1:] > 0) & (first[:, :-1] > 0)).mean()
    yield compare("Dropout", "neighbours kept", "statistics", neighbours, (1 - rate) ** 2, 4 * sigma)
    yield fact("Dropout", "draws", int(layer.buffers["draws"]) == 2, "the counter of draws is not 2 after 2 passes")
    layer.buffers["draws"][...] = 0
    again = backend.to_numpy(layer.forward(ones)[0])
    yield fact("Dropout", "same again", np.array_equal(first, again), "the same count of draws gives another mask")
    layer.forward(ones, train=False)
    yield fact("Dropout", "no draw", int(layer.buffers["draws"]) == 1, "a pass that does not train took a draw")


def initial_weights(backend) -> Iterator[Row]:
    """The spread of fresh weights."""
    n, n_in, n_out = 300 * 200, 300, 200
    for what, init, std in (
        ("normal(0.02)", layers.normal(0.02), 0.02),
        ("glorot_uniform", layers.glorot_uniform, math.sqrt(2 / (n_in + n_out))),
        ("he_normal", layers.he_normal, math.sqrt(2 / n_in)),
    ):
        w = Dense(n_in, n_out, rng=np.random.default_rng(7), init=init).params["w"].astype(np.float64)
        yield compare(what, "std of w", "statistics", w.std(), std, 4 / math.sqrt(2 * n))
        yield compare(what, "mean of w", "statistics", 1 + w.mean() / std, 1.0, 4 / math.sqrt(n))
    fans = []
    for layer in (Conv2d, ConvTranspose2d):
        layer(2, 3, 5, rng=np.random.default_rng(7), init=lambda rng, shape, *fan: fans.append(fan) or np.zeros(shape))
    yield fact("Conv2d, ConvTranspose2d", "fans", fans == [(50, 75)] * 2, f"fan in and out are {fans}, not (50, 75)")


# ---------------------------------------------------------------- losses, optimizers


def loss_values(backend) -> Iterator[Row]:
    """The players' losses against log(1 + exp) written out, their gradients against derivatives, and the extremes."""
    rng = np.random.default_rng(8)
    real, fake = 3 * rng.standard_normal((5, 1)), 3 * rng.standard_normal((4, 1))

    def log1pexp(l):
        return np.logaddexp(0, l)

    plain = {  # -log sigmoid(l) = log(1 + exp(-l)), -log(1 - sigmoid(l)) = log(1 + exp(l)); 0.9 and 0.1: smoothing
        "non_saturating": (log1pexp(-real).mean() + log1pexp(fake).mean(), log1pexp(-fake).mean()),
        "minimax": (log1pexp(-real).mean() + log1pexp(fake).mean(), -log1pexp(fake).mean()),
        "smoothed": (
            (0.9 * log1pexp(-real) + 0.1 * log1pexp(real)).mean() + log1pexp(fake).mean(),
            log1pexp(-fake).mean(),
        ),
        "hinge": (np.maximum(0, 1 - real).mean() + np.maximum(0, 1 + fake).mean(), -fake.mean()),
    }
    tried = {**losses.LOSSES, "smoothed": losses.smoothed(losses.non_saturating, 0.1)}
    for name, loss in tried.items():
        for method in ("central", "complex"):
            yield from gradcheck.check_loss(loss, real, fake, method=method, subject=name)
        got = loss.discriminator(real, fake)[0], loss.generator(fake)[0]
        for player, value, expected in zip(("discriminator", "generator"), got, plain[name], strict=True):
            yield compare(f"{name}: {player}", "value", "formula", value, expected, EXACT)
    yield from classifier_loss(rng)
    far = np.array([[-100.0], [100.0]], np.float32)
    value, d_real, d_fake = losses.non_saturating.discriminator(far, far)
    yield compare("logits +-100 in float32", "loss", "formula", value, 100.0, 0.0)
    yield compare("logits +-100 in float32", "d real", "formula", d_real, np.array([[-0.5], [0.0]]), 1e-40)
    yield compare("logits +-100 in float32", "d fake", "formula", d_fake, np.array([[0.0], [0.5]]), 1e-40)
    value, d_fake = losses.non_saturating.generator(far)
    yield compare("logits +-100 in float32", "G loss", "formula", value, 50.0, 0.0)
    yield compare("logits +-100 in float32", "G d fake", "formula", d_fake, np.array([[-0.5], [0.0]]), 1e-40)
    dtypes = {str(a.dtype) for a in (value, d_real, d_fake)}
    yield fact("logits +-100 in float32", "dtype", dtypes == {"float32"}, f"float32 in, {dtypes} out")


def classifier_loss(rng) -> Iterator[Row]:
    """-log of the label's share of exp(logit), and that it neither overflows nor changes its dtype."""
    logits, labels = rng.standard_normal((5, 4)), np.array([3, 0, 1, 1, 2])
    for method, moving in (("central", logits), ("complex", logits.astype(complex))):
        yield from gradcheck.check(
            lambda moving=moving: losses.cross_entropy(moving, labels)[0],
            lambda: {"logits": losses.cross_entropy(logits, labels)[1]},
            {"logits": moving},
            subject="cross_entropy",
            method=method,
        )
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = -np.mean([np.log(shares[n, label]) for n, label in enumerate(labels)])
    yield compare("cross_entropy", "value", "formula", losses.cross_entropy(logits, labels)[0], expected, EXACT)
    far = np.array([[-100.0, 100.0], [100.0, -100.0]], np.float32)
    value, d_logits = losses.cross_entropy(far, np.array([0, 0]))
    yield compare("cross_entropy at +-100 in float32", "value", "formula", value, 100.0, 0.0)
    expected = np.array([[-0.5, 0.5], [0.0, 0.0]])
    yield compare("cross_entropy at +-100 in float32", "d logits", "formula", d_logits, expected, 1e-40)
    dtypes = {str(value.dtype), str(d_logits.dtype)}
    yield fact("cross_entropy at +-100 in float32", "dtype", dtypes == {"float32"}, f"float32 in, {dtypes} out")


def optimizer_steps(backend) -> Iterator[Row]:
    """Five steps against the sums that the recursions stand for."""
    rng = np.random.default_rng(9)
    T = 5
    dws = rng.standard_normal((T, 3, 2))

    def weighted(decay, values):  # sum_t decay^(T-t) values[t], for each T
        return np.array([sum(decay ** (t - s) * values[s] for s in range(t + 1)) for t in range(T)])

    def adam(b1, b2, eps):
        m, v = (1 - b1) * weighted(b1, dws), (1 - b2) * weighted(b2, dws**2)
        return sum(m[t] / (1 - b1 ** (t + 1)) / (np.sqrt(v[t] / (1 - b2 ** (t + 1))) + eps) for t in range(T))

    for what, make, moved in (
        ("SGD", lambda net: optim.SGD(net, lr=0.1), dws.sum(0)),
        ("SGD, momentum", lambda net: optim.SGD(net, lr=0.1, momentum=0.7), weighted(0.7, dws).sum(0)),
        (
            "RMSProp",
            lambda net: optim.RMSProp(net, lr=0.1, decay=0.8, eps=0.02),
            (dws / (np.sqrt(0.2 * weighted(0.8, dws**2)) + 0.02)).sum(0),
        ),
        ("Adam", lambda net: optim.Adam(net, lr=0.1, beta1=0.6, beta2=0.95, eps=0.02), adam(0.6, 0.95, 0.02)),
        ("Adam, defaults", lambda net: optim.Adam(net, lr=0.1), adam(0.9, 0.999, 1e-8)),
    ):
        net = Dense(3, 2, rng=rng).to(backend, np.float64)
        w, b = net.params["w"], net.params["b"]
        start = backend.to_numpy(w).copy()
        optimizer = make(net)
        for dw in dws:
            grad = backend.asarray(dw)
            optimizer.step({"w": grad, "b": grad[0]})
            untouched = np.array_equal(backend.to_numpy(grad), dw)
        yield compare(what, "w after 5 steps", "formula", start - backend.to_numpy(w), 0.1 * moved, EXACT)
        yield compare(what, "b after 5 steps", "formula", -backend.to_numpy(b), 0.1 * moved[0], EXACT)
        yield fact(what, "t", int(optimizer.state["t"]) == T, "t does not count the steps")
        yield fact(what, "gradients", untouched, "the gradient was written to")
        net = Dense(3, 2, rng=rng).to(backend)
        make(net).step({name: backend.asarray(np.ones(p.shape), dtype=p.dtype) for name, p in net.params.items()})
        yield fact(what, "dtype", str(net.params["w"].dtype) == "float32", "a float32 parameter changed its dtype")


def moving_average(backend) -> Iterator[Row]:
    """average = the sum over the past of (1 - d_s) d_(s+1) ... d_t value_s; d_t = min(decay, (1 + t) / (10 + t))."""
    rng = np.random.default_rng(10)
    decay, T = 0.3, 6
    net = Sequential(Dense(3, 2, rng=rng), BatchNorm(2), Dropout(0.5, rng=rng)).to(backend, np.float64)
    average = optim.MovingAverage(net, decay)
    kept = [net.params["0.w"], net.buffers["1.mean"]]
    history = [[backend.to_numpy(a).copy() for a in kept]]
    for _ in range(T):
        for a in kept:
            a[...] = backend.asarray(rng.standard_normal(a.shape))
        net.forward(backend.asarray(rng.standard_normal((4, 3))), track=False)  # one draw of the dropout
        history.append([backend.to_numpy(a).copy() for a in kept])
        average.update()
    d = [min(decay, (1 + t) / (10 + t)) for t in range(T)]
    weights = [math.prod(d), *((1 - d[t]) * math.prod(d[t + 1 :]) for t in range(T))]
    for i, (what, got) in enumerate(
        (("w", average.network.params["0.w"]), ("running mean", average.network.buffers["1.mean"]))
    ):
        expected = sum(weight * values[i] for weight, values in zip(weights, history, strict=True))
        yield compare("MovingAverage", what, "formula", backend.to_numpy(got), expected, EXACT)
    yield fact("MovingAverage", "draws", int(average.network.buffers["2.draws"]) == T, "a counter was averaged")
    own = average.network.params["0.w"] is not net.params["0.w"]
    yield fact("MovingAverage", "a copy", own, "the average shares its arrays with the network")


# ---------------------------------------------------------------- the game


def small_game(backend, rng) -> tuple:
    """(G, D, real, z): every kind of layer in both players, batch norm in D too, and unequal batches."""
    G = Sequential(
        Dense(3, 8, bias=False, rng=rng),
        BatchNorm(8),
        LeakyReLU(0.3),
        Reshape(2, 2, 2),
        ConvTranspose2d(2, 2, 4, stride=2, pad=1, bias=False, rng=rng),
        BatchNorm(2),
        Sigmoid(),
        Upsample(2),
        Conv2d(2, 1, 3, pad=1, rng=rng),
        Tanh(),
    )
    D = Sequential(
        Conv2d(1, 2, 3, stride=2, pad=(0, 1), rng=rng),
        LeakyReLU(0.2),
        Dropout(0.2, rng=rng),
        Conv2d(2, 3, 3, stride=2, pad=1, bias=False, rng=rng),
        BatchNorm(3, momentum=0.8),
        ReLU(),
        Flatten(),
        Dense(12, 3, rng=rng),
        Tanh(),
        Dense(3, 1, rng=rng),
    )
    for network in (G, D):
        randomize(network.to(backend, np.float64), rng)
    return G, D, backend.asarray(rng.standard_normal((5, 8, 8, 1))), backend.asarray(rng.standard_normal((4, 3)))


def whole_steps(backend) -> Iterator[Row]:
    """The gradients of whole steps, batch norm in both modes, dropout's mask held."""
    smoothed = losses.smoothed(losses.minimax, 0.1)
    for which, loss, train in (
        ("discriminator", losses.non_saturating, True),
        ("discriminator", smoothed, False),
        ("generator", losses.non_saturating, True),
        ("generator", losses.minimax, False),
        ("simultaneous", losses.non_saturating, True),
    ):
        G, D, real, z = small_game(backend, np.random.default_rng(11))
        # Equal batches once, or a cache of the wrong batch would only be a shape error.
        game = G, D, real[: len(z)] if train else real, z
        name = f"{which} step" if train else f"{which} step, running statistics"
        yield from gradcheck.check_step(which, *game, loss, train=train, subject=name, **FEW)


def isolation(backend) -> Iterator[Row]:
    """Each step moves every parameter of its own player, and leaves every bit of the other's; and what it reports."""
    for which in ("discriminator", "generator", "simultaneous"):
        G, D, real, z = small_game(backend, np.random.default_rng(12))
        networks = {"G": G, "D": D}
        optimizers = {player: optim.SGD(network, lr=0.1) for player, network in networks.items()}
        report = expected_report(which, G, D, real, z)
        before = {player: bits(network) for player, network in networks.items()}
        expected = expected_statistics(which, G, D, real, z)
        result = gradcheck.run_step(which, G, D, optimizers["G"], optimizers["D"], real, z, losses.non_saturating)
        for name, value in report.items():
            yield compare(f"{which} step", name, "formula", float(result.get(name, math.nan)), value, EXACT)
        yield fact(f"{which} step", "report", result.keys() == report.keys(), f"it reports {sorted(result)}")
        for player, network in networks.items():
            own = which in (gradcheck.PLAYERS[player], "simultaneous")
            moved = {name for name, value in bits(network).items() if value != before[player][name]}
            should = (
                set(network.params) | {n for n in network.buffers if n.endswith((".mean", ".var"))} if own else set()
            )
            wrong = sorted(moved ^ should)
            text = f"it moves {wrong} of {player}" if set(wrong) & moved else f"it does not move {wrong} of {player}"
            yield fact(f"{which} step", f"moves {player}" if own else f"leaves {player}", not wrong, text)
            for name, value in expected[player].items():
                got = backend.to_numpy(network.buffers[name])
                yield compare(f"{which} step", f"{player} {name}", "formula", got, value, EXACT)


def bits(network) -> dict:
    """Every parameter and statistic, to the bit. (Counters of dropout draws move with every draw.)"""
    kept = {**network.params, **{name: b for name, b in network.buffers.items() if b.dtype.kind == "f"}}
    return {name: network.backend.to_numpy(a).tobytes() for name, a in kept.items()}


def statistics(network) -> dict:
    """Batch norm's running statistics, as copies."""
    return {k: network.backend.to_numpy(b).copy() for k, b in network.buffers.items() if b.dtype.kind == "f"}


def expected_report(which, G, D, real, z) -> dict:
    """The losses and mean probabilities that the step must report, from plain formulas; leaves everything as it was."""
    put_back = gradcheck.keeper(G, D)
    fake = G.forward(z)[0]
    real_logits = None if which == "generator" else D.backend.to_numpy(D.forward(real)[0])
    fake_logits = D.backend.to_numpy(D.forward(fake)[0])
    put_back()
    report = {}
    if which != "generator":
        report["d_loss"] = np.log(1 + np.exp(-real_logits)).mean() + np.log(1 + np.exp(fake_logits)).mean()
        report["d_real"] = (1 / (1 + np.exp(-real_logits))).mean()
        report["d_fake"] = (1 / (1 + np.exp(-fake_logits))).mean()
    if which != "discriminator":
        report["g_loss"] = np.log(1 + np.exp(-fake_logits)).mean()
    return report


def expected_statistics(which, G, D, real, z) -> dict:
    """The running statistics after the step: a player's move in its own step only, D's on real, then on fakes."""
    put_back = gradcheck.keeper(G, D)
    before = {"G": statistics(G), "D": statistics(D)}
    fake = G.forward(z)[0]
    if which != "generator":
        D.forward(real)
    D.forward(fake)
    after = {"G": statistics(G), "D": statistics(D)}
    put_back()
    return {p: after[p] if which in (gradcheck.PLAYERS[p], "simultaneous") else before[p] for p in before}


def preset_steps(backend) -> Iterator[Row]:
    """Whole steps of every architecture in `models`, at 8 x 8 pixels, without labels and with them."""
    names = {build: name for name, build in models.PRESETS.items()}.values()  # one name for each table
    for preset in names:
        for which, train, classes in (
            ("discriminator", True, 0),
            ("discriminator", False, 3),
            ("generator", True, 3),
            ("generator", False, 0),
            ("simultaneous", True, 0),
        ):
            rng = np.random.default_rng(13)
            try:
                G, D = models.build(preset, rng=rng, image_shape=(8, 8, 1), classes=classes)
            except UserError:  # this architecture takes no labels
                classes = 0
                G, D = models.build(preset, rng=rng, image_shape=(8, 8, 1))
            for network in (G, D):
                randomize(network.to(backend, np.float64), rng)
            real, z = rng.standard_normal((4, 8, 8, 1)), rng.standard_normal((4, models.noise_size(G)))
            subject = f"{preset}: {which}" + ("" if train else ", running statistics")
            yield from gradcheck.check_step(
                which,
                G,
                D,
                real,
                z,
                losses.non_saturating,
                train=train,
                labels=backend.asarray(np.array([1, 0, 2, 1])) if classes else None,
                subject=subject + (", labels" if classes else ""),
                coordinates=8,
                directions=2,
                rng=rng,
            )


# ---------------------------------------------------------------- penalties


def smooth_critic(backend, rng) -> Sequential:
    """A discriminator through which all the terms of second derivatives pass."""
    D = Sequential(
        SpectralNorm(Conv2d(1, 2, 3, stride=2, pad=1, rng=rng), rng=rng),
        BatchNorm(2),
        Tanh(),
        Upsample(2),
        ConvTranspose2d(2, 2, 3, stride=1, pad=1, rng=rng),
        LeakyReLU(0.2),
        Dropout(0.2, rng=rng),
        Sequential(Flatten(), Reshape(8, 4), Flatten()),
        Dense(32, 4, rng=rng),
        Sigmoid(),
        Dense(4, 1, rng=rng),
    )
    return randomize(D.to(backend, np.float64), rng)


def penalty_gradients(backend) -> Iterator[Row]:
    """Weight gradients of R1, R2 and WGAN-GP, i.e. second derivatives; their values; and the zero norm."""
    rng = np.random.default_rng(14)
    D = smooth_critic(backend, rng)
    real, fake = (backend.asarray(rng.standard_normal((3, 4, 4, 1))) for _ in range(2))

    def gp(D, train):
        return penalties.wgan_gp(D, real, fake, rng=np.random.default_rng(15), weight=7.0, train=train)

    before = bits(D)
    for what, penalty in (
        ("R1", lambda D: penalties.r1(D, real, weight=3.0)),
        ("R2, running statistics", lambda D: penalties.r2(D, fake, weight=3.0, train=False)),
        ("WGAN-GP", lambda D: gp(D, True)),
    ):
        yield from gradcheck.check_penalty(penalty, D, subject=what, **FEW)
        penalty(D)
        yield fact(what, "statistics", bits(D) == before, "the penalty moves D's parameters or running statistics")
    # Values: the gradients of the images by central differences, sample by sample (running statistics: no crosstalk).
    share = backend.asarray(np.random.default_rng(15).random((3, 1, 1, 1)))
    for what, x, value, function in (
        ("R1", real, penalties.r1(D, real, weight=3.0, train=False)[0], lambda norm: 1.5 * norm**2),
        ("R2", fake, penalties.r2(D, fake, weight=3.0, train=False)[0], lambda norm: 1.5 * norm**2),
        ("WGAN-GP", share * real + (1 - share) * fake, gp(D, False)[0], lambda norm: 7 * (norm - 1) ** 2),
    ):
        norms = np.linalg.norm(numeric_input_gradient(D, backend, x).reshape(3, -1), axis=1)
        yield compare(what, "value", "central", float(value), function(norms).mean(), gradcheck.WHOLE)
    # A discriminator that is flat everywhere has norm 0: the value is weight, the slope is taken as 0.
    flat = Sequential(Flatten(), Dense(16, 1, rng=rng)).to(backend, np.float64)
    flat.params["1.w"][...] = 0
    value, grads = penalties.wgan_gp(flat, real, fake, rng=rng, weight=7.0)
    yield compare("WGAN-GP at zero norm", "value", "formula", float(value), 7.0, EXACT)
    finite = all(not backend.to_numpy(g).any() for g in grads.values())
    yield fact("WGAN-GP at zero norm", "gradients", finite, "not 0")


def numeric_input_gradient(D, backend, x, h=1e-5) -> np.ndarray:
    """d(sum of logits)/dx by central differences."""
    x = backend.to_numpy(x)
    g = np.zeros_like(x)
    for at in np.ndindex(x.shape[1:]):  # the same pixel of all samples at once: samples do not mix
        step = np.zeros_like(x)
        step[:, *at] = h
        up, down = (backend.to_numpy(D.forward(backend.asarray(x + s), train=False)[0]) for s in (step, -step))
        g[:, *at] = (up - down)[:, 0] / (2 * h)
    return g


CHECKS: dict[str, Callable] = {
    "layer gradients": layer_gradients,
    "forward values": forward_values,
    "layer contract": layer_contract,
    "adjointness": adjointness,
    "batch statistics": batch_statistics,
    "dropout": dropped_units,
    "initial weights": initial_weights,
    "losses": loss_values,
    "optimizers": optimizer_steps,
    "moving average": moving_average,
    "whole steps": whole_steps,
    "isolation": isolation,
    "penalties": penalty_gradients,
}


def load(name: str):
    """The backend of that name (here, so that `planted` takes the one of its own copy of minigan)."""
    return backends.load(name)


def weak(backend) -> Iterator[Row]:
    """For comparison: what from-scratch projects usually test with. Freshly initialised layers, the gradient of sum(y)
    (a cotangent of ones), a tolerance of 0.1, the losses likewise, and one step of each player that gives numbers."""
    rng = np.random.default_rng(16)
    for what, layer, shape, how in layer_cases(backend, rng):
        if isinstance(layer, BatchNorm):
            layer = BatchNorm(layer.channels, eps=layer.eps).to(backend, np.float64)
        x = rng.standard_normal(shape)
        yield from gradcheck.check_layer(
            layer, x, **how, cotangent=lambda rng, shape: np.ones(shape), tolerance=0.1, subject=what, coordinates=12
        )
        y, _ = layer.forward(backend.asarray(x), **how)
        yield fact(what, "y", bool(np.isfinite(backend.to_numpy(y)).all()), "not finite")
    for loss in losses.LOSSES.values():
        yield from gradcheck.check_loss(loss, rng.standard_normal((5, 1)), rng.standard_normal((5, 1)), tolerance=0.1)
    G, D, real, z = small_game(backend, rng)
    opt_g, opt_d = optim.Adam(G, lr=1e-3), optim.Adam(D, lr=1e-3)
    for which in ("discriminator", "generator", "simultaneous"):
        result = gradcheck.run_step(which, G, D, opt_g, opt_d, real[: len(z)], z, losses.non_saturating)
        yield fact(f"{which} step", "losses", all(np.isfinite(float(v)) for v in result.values()), "not finite")
