"""Checks of the losses, the optimizers and the moving average."""

import math
from collections.abc import Iterator

import numpy as np

from minigan import losses, optim
from minigan.checking import gradcheck
from minigan.checking.derivatives import EXACT
from minigan.checking.rows import Row, compare, fact
from minigan.layers import BatchNorm, Dense, Dropout, Sequential

# The logits have both signs and are on both sides of the hinge margins, 1 for real and -1 for fake. The batch sizes
# differ.
REAL_LOGITS = np.array([[-2.6], [-0.4], [0.3], [1.7], [3.1]])
FAKE_LOGITS = np.array([[-3.2], [-1.4], [-0.6], [2.3]])


def loss_values(backend) -> Iterator[Row]:
    """Check the losses and their gradients.

    The values are compared with explicit formulas, the gradients with numerical derivatives, and the results at logits
    of +-100 with their limits.
    """
    rng = np.random.default_rng(8)
    real, fake = REAL_LOGITS, FAKE_LOGITS
    ours = [backend.asarray(l) for l in (real, fake)]
    first = real[: len(fake)]  # the real logits of losses that compare pairs

    def log1pexp(l):
        return np.logaddexp(0, l)

    # -log sigmoid(l) = log(1 + exp(-l)) and -log(1 - sigmoid(l)) = log(1 + exp(l)). Smoothed labels are 0.9 and 0.1.
    plain = {
        "non_saturating": (log1pexp(-real).mean() + log1pexp(fake).mean(), log1pexp(-fake).mean()),
        "minimax": (log1pexp(-real).mean() + log1pexp(fake).mean(), -log1pexp(fake).mean()),
        "smoothed": (
            (0.9 * log1pexp(-real) + 0.1 * log1pexp(real)).mean() + log1pexp(fake).mean(),
            log1pexp(-fake).mean(),
        ),
        "hinge": (np.maximum(0, 1 - real).mean() + np.maximum(0, 1 + fake).mean(), -fake.mean()),
        "least_squares": (((1 - real) ** 2).mean() / 2 + ((1 + fake) ** 2).mean() / 2, ((1 - fake) ** 2).mean() / 2),
        "smoothed squares": (  # the target of real logits is 0.8 instead of 1; t (1 - l)^2 + (1 - t) (1 + l)^2
            (0.9 * (1 - real) ** 2 + 0.1 * (1 + real) ** 2).mean() / 2 + ((1 + fake) ** 2).mean() / 2,
            ((1 - fake) ** 2).mean() / 2,
        ),
        "wasserstein": (fake.mean() - real.mean(), -fake.mean()),
        "relativistic": (log1pexp(fake - first).mean(), log1pexp(first - fake).mean()),
        "r3gan": (log1pexp(fake - first).mean(), log1pexp(first - fake).mean()),
        "weighted": (0.6 * log1pexp(-real).mean() + 1.4 * log1pexp(fake).mean(), log1pexp(-fake).mean()),
        "weighted equally": (fake.mean() - real.mean(), -fake.mean()),
        "weighted hinge": (
            1.5 * np.maximum(0, 1 - real).mean() + 0.5 * np.maximum(0, 1 + fake).mean(),
            -fake.mean(),
        ),
    }
    tested = {
        **losses.LOSSES,
        "smoothed": losses.smoothed(losses.non_saturating, 0.1),
        "smoothed squares": losses.smoothed(losses.least_squares, 0.1),
        "weighted": losses.weighted(losses.non_saturating, 0.3),
        "weighted equally": losses.weighted(losses.wasserstein, 0.5),
        "weighted hinge": losses.weighted(losses.hinge, 0.75),
    }
    for name, loss in tested.items():
        reals = first if loss.compares else real
        for method in ("central", "complex") if backend.takes_complex else ("central",):
            yield from gradcheck.check_loss(loss, reals, fake, backend=backend, method=method, subject=name)
        ours_real = backend.asarray(reals)
        got = [float(loss.discriminator(ours_real, ours[1])[0]), float(loss.generator(ours[1], ours_real)[0])]
        for player, value, expected in zip(("discriminator", "generator"), got, plain[name], strict=True):
            yield compare(f"{name}: {player}", "value", "formula", value, expected, EXACT)
        centre = (reals.mean() + fake.mean()) / 2 if loss.relative else 0.0
        for what, l, share in zip(("real", "fake"), (reals, fake), loss.probabilities(ours_real, ours[1]), strict=True):
            expected = (1 / (1 + np.exp(centre - l))).mean()
            yield compare(name, f"probability {what}", "formula", float(share), expected, EXACT)
    yield from matched_features(rng, backend)
    sigmoid, softplus = (backend.to_numpy(f(ours[0])) for f in (losses.sigmoid, losses.softplus))
    yield compare("sigmoid", "value", "formula", sigmoid, 1 / (1 + np.exp(-real)), EXACT)
    yield compare("softplus", "value", "formula", softplus, log1pexp(real), EXACT)
    yield from classifier_loss(rng, backend)
    far = backend.asarray(np.array([[-100.0], [100.0]], np.float32))
    value, d_real, d_fake = map(backend.to_numpy, losses.non_saturating.discriminator(far, far))
    yield compare("logits +-100 in float32", "loss", "formula", value, 100.0, 0.0)
    yield compare("logits +-100 in float32", "d real", "formula", d_real, np.array([[-0.5], [0.0]]), 1e-40)
    yield compare("logits +-100 in float32", "d fake", "formula", d_fake, np.array([[0.0], [0.5]]), 1e-40)
    value, d_fake = map(backend.to_numpy, losses.non_saturating.generator(far))
    yield compare("logits +-100 in float32", "G loss", "formula", value, 50.0, 0.0)
    yield compare("logits +-100 in float32", "G d fake", "formula", d_fake, np.array([[-0.5], [0.0]]), 1e-40)
    dtypes = {str(a.dtype) for a in (value, d_real, d_fake)}
    yield fact("logits +-100 in float32", "dtype", dtypes == {"float32"}, f"float32 in, {dtypes} out")


def matched_features(rng, backend) -> Iterator[Row]:
    """Check the distance of feature matching, |mean of fake - mean of real|^2, and its gradient."""
    plain_fake, plain_real = rng.standard_normal((4, 2, 3)), rng.standard_normal((5, 2, 3))
    fake, real = backend.asarray(plain_fake), backend.asarray(plain_real)
    yield from gradcheck.check(
        lambda: losses.feature_matching(fake, real)[0],
        lambda: {"fake features": losses.feature_matching(fake, real)[1]},
        {"fake features": fake},
        subject="feature matching",
        backend=backend,
    )
    expected = sum((plain_fake[:, i, j].mean() - plain_real[:, i, j].mean()) ** 2 for i in range(2) for j in range(3))
    yield compare(
        "feature matching", "value", "formula", float(losses.feature_matching(fake, real)[0]), expected, EXACT
    )


def classifier_loss(rng, backend) -> Iterator[Row]:
    """Check the cross entropy, its gradient and its dtype, and that it does not overflow.

    The cross entropy is the mean over the samples of -log softmax(logits)[label].
    """
    plain, labels = rng.standard_normal((5, 4)), np.array([3, 0, 1, 1, 2])
    logits, ours = backend.asarray(plain), backend.asarray(labels)
    for method in ("central", "complex") if backend.takes_complex else ("central",):
        moving = logits.astype(complex) if method == "complex" else logits
        yield from gradcheck.check(
            lambda moving=moving: losses.cross_entropy(moving, ours)[0],
            lambda: {"logits": losses.cross_entropy(logits, ours)[1]},
            {"logits": moving},
            subject="cross_entropy",
            method=method,
            backend=backend,
        )
    shares = np.exp(plain) / np.exp(plain).sum(1, keepdims=True)
    expected = -np.mean([np.log(shares[n, label]) for n, label in enumerate(labels)])
    yield compare("cross_entropy", "value", "formula", float(losses.cross_entropy(logits, ours)[0]), expected, EXACT)
    far = backend.asarray(np.array([[-100.0, 100.0], [100.0, -100.0]], np.float32))
    value, d_logits = map(backend.to_numpy, losses.cross_entropy(far, backend.asarray(np.array([0, 0]))))
    yield compare("cross_entropy at +-100 in float32", "value", "formula", value, 100.0, 0.0)
    expected = np.array([[-0.5, 0.5], [0.0, 0.0]])
    yield compare("cross_entropy at +-100 in float32", "d logits", "formula", d_logits, expected, 1e-40)
    dtypes = {str(value.dtype), str(d_logits.dtype)}
    yield fact("cross_entropy at +-100 in float32", "dtype", dtypes == {"float32"}, f"float32 in, {dtypes} out")


def optimizer_steps(backend) -> Iterator[Row]:
    """Compare five steps of each optimizer with explicit sums over the past gradients."""
    rng = np.random.default_rng(9)
    T = 5
    dws = rng.standard_normal((T, 3, 2))

    def weighted(decay, values):  # for each step t: the sum over s <= t of decay^(t-s) values[s]
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
        optimizer, untouched = make(net), True
        for dw in dws:
            grad = backend.asarray(dw)
            optimizer.step({"w": grad, "b": grad[0]})
            untouched = untouched and np.array_equal(backend.to_numpy(grad), dw)
        yield compare(what, "w after 5 steps", "formula", start - backend.to_numpy(w), 0.1 * moved, EXACT)
        yield compare(what, "b after 5 steps", "formula", -backend.to_numpy(b), 0.1 * moved[0], EXACT)
        yield fact(what, "t", int(optimizer.state["t"]) == T, "t is not the number of steps")
        yield fact(what, "gradients", untouched, "the gradient was written to")
        net = Dense(3, 2, rng=rng).to(backend)
        make(net).step({name: backend.asarray(np.ones(p.shape), dtype=p.dtype) for name, p in net.params.items()})
        yield fact(what, "dtype", str(net.params["w"].dtype) == "float32", "a float32 parameter changed its dtype")
    yield from optimizers_by_name(backend, rng)
    yield from clipped_gradients(backend, rng)


def optimizers_by_name(backend, rng) -> Iterator[Row]:
    """Check that each name makes an optimizer with its settings."""
    settings = dict(momentum=0.7, beta1=0.6, beta2=0.95, eps=0.02)
    dws = [backend.asarray(rng.standard_normal((3, 2))) for _ in range(2)]
    for name, same in (
        ("sgd", lambda net: optim.SGD(net, lr=0.1)),
        ("momentum", lambda net: optim.SGD(net, lr=0.1, momentum=0.7)),
        ("rmsprop", lambda net: optim.RMSProp(net, lr=0.1, decay=0.95, eps=0.02)),
        ("adam", lambda net: optim.Adam(net, lr=0.1, beta1=0.6, beta2=0.95, eps=0.02)),
    ):
        moved = []
        for make in (same, lambda net, name=name: optim.OPTIMIZERS[name](net, 0.1, settings)):
            net = Dense(3, 2, rng=np.random.default_rng(0)).to(backend, np.float64)
            optimizer = make(net)
            for dw in dws:
                optimizer.step({"w": dw, "b": dw[0]})
            moved.append(backend.to_numpy(net.params["w"]))
        yield compare(f"optimizer {name}", "w after 2 steps", "its class", moved[1], moved[0], EXACT)


def clipped_gradients(backend, rng) -> Iterator[Row]:
    """Check that gradients above the limit are scaled to it, all by one factor, and that others are not changed."""
    dw, db = rng.standard_normal((3, 2)), rng.standard_normal(2)
    norm = math.sqrt((dw**2).sum() + (db**2).sum())
    for what, limit in (("above the limit", 0.6 * norm), ("below the limit", 1.5 * norm)):
        net = Dense(3, 2, rng=rng).to(backend, np.float64)
        start = {name: backend.to_numpy(value).copy() for name, value in net.params.items()}
        optimizer = optim.SGD(net, lr=1.0)
        optimizer.clip_norm = limit
        optimizer.step({"w": backend.asarray(dw), "b": backend.asarray(db)})
        for name, gradient in (("w", dw), ("b", db)):
            moved = start[name] - backend.to_numpy(net.params[name])
            expected = gradient * min(1, limit / norm)
            yield compare(f"clipping, {what}", f"{name} after a step", "formula", moved, expected, EXACT)
    still = Dense(3, 2, rng=rng).to(backend, np.float64)
    optimizer = optim.SGD(still, lr=1.0)
    optimizer.clip_norm = 1.0
    optimizer.step({name: backend.xp.zeros_like(value) for name, value in still.params.items()})
    finite = all(np.isfinite(backend.to_numpy(value)).all() for value in still.params.values())
    yield fact("clipping, gradients of 0", "w", finite, "a weight is not finite")


def moving_average(backend) -> Iterator[Row]:
    """Check that average_t = d_0 ... d_t start + sum over s <= t of (1 - d_s) d_(s+1) ... d_t value_s.

    start is the initial value, and value_s the value at update s. The decay of update t = 0, 1, ... is
    d_t = min(decay, (1 + t) / (10 + t)).
    """
    rng = np.random.default_rng(10)
    decay, T = 0.3, 6
    net = Sequential(Dense(3, 2, rng=rng), BatchNorm(2), Dropout(0.5, rng=rng)).to(backend, np.float64)
    average = optim.MovingAverage(net, decay)
    tracked = [net.params["0.w"], net.buffers["1.mean"]]
    history = [[backend.to_numpy(a).copy() for a in tracked]]
    for _ in range(T):
        for a in tracked:
            a[...] = backend.asarray(rng.standard_normal(a.shape))
        net.forward(backend.asarray(rng.standard_normal((4, 3))), track=False)  # advances the counter of dropout
        history.append([backend.to_numpy(a).copy() for a in tracked])
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
