"""Test the optimizers: steps computed by hand, closed forms, state, and error messages."""

import math

import numpy as np
import pytest

from minigan import optim
from minigan.layers import BatchNorm, Dense, Dropout, Sequential
from minigan.optim import SGD, Adam, MovingAverage, RMSProp

MAKERS = {
    "SGD": lambda net: SGD(net, lr=0.1),
    "momentum": lambda net: SGD(net, lr=0.1, momentum=0.9),
    "RMSProp": lambda net: RMSProp(net, lr=0.1),
    "Adam": lambda net: Adam(net, lr=0.1),
}


def one_weight(backend, value=1.0, dtype=np.float64):
    """Return a network with one weight, and the array of the weight."""
    net = Dense(1, 1, bias=False, rng=np.random.default_rng(0)).to(backend, dtype)
    net.params["w"][...] = value
    net.pack()
    return net, net.params["w"]


def weights_after(optimizer, w, gradients):
    """Return the values of the weight after a step with each of these gradients."""
    path = []
    for dw in gradients:
        optimizer.step({"w": optimizer.network.backend.asarray(np.full((1, 1), dw), dtype=w.dtype)})
        path.append(float(w[0, 0]))
    return path


# ---------------------------------------------------------------- by hand


def test_sgd_by_hand(backend):
    net, w = one_weight(backend)
    assert weights_after(SGD(net, lr=0.5), w, [1.0, -2.0]) == [0.5, 1.5]


def test_momentum_by_hand(backend):
    net, w = one_weight(backend)  # v = 1, then 0.5 * 1 + 2 = 2.5, then 1.25
    assert weights_after(SGD(net, lr=0.25, momentum=0.5), w, [1.0, 2.0, 0.0]) == [0.75, 0.125, -0.1875]


def test_rmsprop_by_hand(backend):
    net, w = one_weight(backend)  # v = 0.25 * 4 = 1, then 0.75 * 1 + 0.25 * 16 = 4.75
    path = weights_after(RMSProp(net, lr=0.5, decay=0.75, eps=1.0), w, [2.0, 4.0])
    np.testing.assert_allclose(path, [1 - 0.5 * 2 / 2, 0.5 - 0.5 * 4 / (math.sqrt(4.75) + 1)], rtol=1e-15)


def test_adam_by_hand(backend):
    net, w = one_weight(backend)
    # t = 1: m = 0.5 * 2 = 1, v = 0.25 * 4 = 1; mhat = 1 / 0.5 = 2, vhat = 1 / 0.25 = 4.
    # t = 2: m = 0.5 + 0.5 * 4 = 2.5, v = 0.75 + 0.25 * 16 = 4.75; mhat = 2.5 / 0.75, vhat = 4.75 / (1 - 0.75^2).
    path = weights_after(Adam(net, lr=0.5, beta1=0.5, beta2=0.75, eps=1.0), w, [2.0, 4.0])
    first = 1 - 0.5 * 2 / (2 + 1)
    np.testing.assert_allclose(path, [first, first - 0.5 * (2.5 / 0.75) / (math.sqrt(4.75 / 0.4375) + 1)], rtol=1e-15)


# ---------------------------------------------------------------- closed forms


def test_adams_first_step_is_the_learning_rate_for_any_gradient(backend):
    """ML-From-Scratch's Adam corrects its moments with the wrong power, which gives 0.063 of this step."""
    for size in (1e-4, 1.0, 1e4):
        net, w = one_weight(backend, 0.0)
        assert math.isclose(weights_after(Adam(net, lr=0.01), w, [size])[0], -0.01, rel_tol=1e-3)


def test_adam_moves_by_the_learning_rate_under_a_constant_gradient(backend):
    net, w = one_weight(backend, 0.0)
    path = weights_after(Adam(net, lr=0.01, eps=0.0), w, [3.0] * 50)
    np.testing.assert_allclose(path, -0.01 * np.arange(1, 51), rtol=1e-12)


def test_momentum_reaches_lr_over_one_minus_momentum(backend):
    net, w = one_weight(backend, 0.0)
    path = weights_after(SGD(net, lr=0.01, momentum=0.8), w, [1.0] * 200)
    assert math.isclose(path[-1] - path[-2], -0.01 / (1 - 0.8), rel_tol=1e-9)


def test_rmsprop_converges_to_steps_of_the_learning_rate(backend):
    net, w = one_weight(backend, 0.0)
    path = weights_after(RMSProp(net, lr=0.01), w, [5.0] * 400)
    assert math.isclose(path[-1] - path[-2], -0.01, rel_tol=1e-6)


@pytest.mark.parametrize("name", MAKERS)
def test_every_optimizer_minimises_a_quadratic(name, backend):
    net, w = one_weight(backend, 3.0)
    optimizer = MAKERS[name](net)
    for step in range(800):
        optimizer.lr = 0.1 * 0.99**step  # the learning rate may be changed between steps
        optimizer.step({"w": w - 2.0})
    assert abs(float(w[0, 0]) - 2) < 1e-3


# ---------------------------------------------------------------- state and side effects


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_step_updates_in_place_and_preserves_dtypes_and_gradients(name, dtype, backend, rng):
    net = Sequential(Dense(3, 4, rng=rng), BatchNorm(4)).to(backend, dtype)
    optimizer = MAKERS[name](net)
    arrays = {k: (p, backend.to_numpy(p).copy()) for k, p in net.params.items()}
    buffers = {k: backend.to_numpy(b).copy() for k, b in net.buffers.items()}
    grads = {k: backend.asarray(rng.standard_normal(p.shape), dtype=dtype) for k, p in net.params.items()}
    kept = {k: backend.to_numpy(g).copy() for k, g in grads.items()}
    for _ in range(2):
        optimizer.step(grads)
    for k, (p, before) in arrays.items():
        assert net.params[k] is p and p.dtype == dtype and (backend.to_numpy(p) != before).all()
        np.testing.assert_array_equal(backend.to_numpy(grads[k]), kept[k])
    for k, b in net.buffers.items():
        np.testing.assert_array_equal(backend.to_numpy(b), buffers[k])
    assert all(s.dtype in (dtype, np.int64) for s in optimizer.state.values())


@pytest.mark.parametrize("name", MAKERS)
def test_a_non_contiguous_parameter_is_updated(name, backend, rng):
    """Weights that are set by the user may be a transposed view."""
    moved = []
    for order in ("C", "F"):
        net = Dense(3, 4, bias=False, rng=np.random.default_rng(6)).to(backend)
        w = net.params["w"] = backend.asarray(np.array(backend.to_numpy(net.params["w"]), order=order))
        optimizer = MAKERS[name](net)
        for _ in range(2):
            optimizer.step({"w": backend.asarray(np.arange(12, dtype=np.float32).reshape(3, 4) - 5.5)})
        moved.append(backend.to_numpy(w))
    np.testing.assert_allclose(moved[0], moved[1], rtol=1e-6)


@pytest.mark.parametrize(("name", "moments"), [("SGD", "v"), ("momentum", "v"), ("RMSProp", "v"), ("Adam", "mv")])
def test_a_step_depends_only_on_the_state(name, moments, backend, rng):
    """An optimizer with a copied state takes the same next step, bit for bit. A checkpoint needs nothing else."""
    first, second = (Dense(3, 2, rng=np.random.default_rng(5)).to(backend) for _ in range(2))
    one, other = MAKERS[name](first), MAKERS[name](second)
    assert one.state.keys() == {f"{m}.{k}" for m in moments for k in ("w", "b")} | {"t"}

    def grads():
        return {k: backend.asarray(rng.standard_normal(p.shape), dtype=np.float32) for k, p in first.params.items()}

    for _ in range(3):
        one.step(grads())
    for k, p in second.params.items():
        p[...] = first.params[k]
    for k, s in other.state.items():
        s[...] = one.state[k]
    last = grads()
    one.step(last)
    other.step(last)
    for k, p in first.params.items():
        np.testing.assert_array_equal(backend.to_numpy(p), backend.to_numpy(second.params[k]))
    assert int(one.state["t"]) == int(other.state["t"]) == 4


def test_defaults_are_those_of_the_papers(rng):
    net = Dense(1, 1, rng=rng)
    adam, rmsprop = Adam(net, lr=0.1), RMSProp(net, lr=0.1)
    assert (adam.beta1, adam.beta2, adam.eps) == (0.9, 0.999, 1e-8)
    assert (rmsprop.decay, rmsprop.eps, SGD(net, lr=0.1).momentum) == (0.9, 1e-8, 0.0)


# ---------------------------------------------------------------- error messages


@pytest.mark.parametrize("lr", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize("optimizer", [SGD, RMSProp, Adam])
def test_an_invalid_learning_rate_is_rejected(optimizer, lr, rng):
    with pytest.raises(ValueError, match=f"a learning rate is positive and finite, got {lr}"):
        optimizer(Dense(1, 1, rng=rng), lr=lr)


def test_gradients_of_another_network_are_rejected_and_change_nothing(rng):
    net = Dense(3, 2, rng=rng)
    optimizer = Adam(net, lr=0.1)
    w, b = (np.ones_like(p) for p in net.params.values())
    before = {k: p.copy() for k, p in net.params.items()}
    for grads, message in (
        ({"w": w}, r"gradients and parameters differ in \['b'\]"),
        ({"w": w, "b": b, "c": b}, r"gradients and parameters differ in \['c'\]"),
        ({}, r"gradients and parameters differ in \['b', 'w'\]"),
        ({"w": w[:1], "b": b}, r"the gradient of w is \(1, 2\), the parameter \(3, 2\)"),
    ):
        with pytest.raises(ValueError, match=message):
            optimizer.step(grads)
    for k, p in net.params.items():
        np.testing.assert_array_equal(p, before[k])


# ---------------------------------------------------------------- the moving average


def test_moving_average_by_hand(backend):
    """d is 1/10, 2/11, 3/12, and then the decay 0.25."""
    net, w = one_weight(backend, 0.0)
    average = MovingAverage(net, 0.25)
    expected = 0.0
    for t, value in enumerate((1.0, 2.0, -1.0, 4.0, 0.5)):
        w[...] = value
        average.update()
        d = (1 / 10, 2 / 11, 3 / 12, 0.25, 0.25)[t]
        expected = d * expected + (1 - d) * value
        assert math.isclose(float(average.network.params["w"][0, 0]), expected, rel_tol=1e-14)
    assert float(w[0, 0]) == 0.5, "the original is unchanged"


def test_with_decay_0_the_average_is_the_current_network(backend, rng):
    net = Sequential(Dense(3, 2, rng=rng), BatchNorm(2)).to(backend)
    average = MovingAverage(net, 0.0)
    net.params["0.w"][...] = 7
    net.buffers["1.mean"][...] = 5
    average.update()
    np.testing.assert_allclose(backend.to_numpy(average.network.params["0.w"]), 7, rtol=1e-6)
    np.testing.assert_allclose(backend.to_numpy(average.network.buffers["1.mean"]), 5, rtol=1e-6)


def test_the_average_starts_as_a_copy_and_can_generate(backend, rng):
    net = Sequential(Dense(3, 2, rng=rng), Dropout(0.5, rng=rng)).to(backend)
    average = MovingAverage(net, 0.9)
    x = backend.asarray(np.ones((2, 3), np.float32))
    np.testing.assert_array_equal(*(backend.to_numpy(n.forward(x, train=False)[0]) for n in (net, average.network)))
    assert average.network.backend is backend
    net.params["0.w"][...] = 0
    assert (backend.to_numpy(average.network.params["0.w"]) != 0).any(), "a copy, not the same arrays"


def test_the_average_depends_only_on_its_state(backend, rng):
    nets = [Sequential(Dense(3, 2, rng=rng), BatchNorm(2), Dropout(0.5, rng=rng)).to(backend) for _ in range(2)]
    one, other = (MovingAverage(net, 0.9) for net in nets)
    assert one.state.keys() == {
        "t", "0.w", "0.b", "1.gamma", "1.beta", "buffer.1.mean", "buffer.1.var", "buffer.2.key", "buffer.2.draws",
    }  # fmt: skip
    nets[0].forward(backend.asarray(np.ones((4, 3), np.float32)))
    one.update()
    for k, value in other.state.items():
        value[...] = one.state[k]
    other.source = one.source
    for average in (one, other):
        average.update()
    for a, b in zip(one.state.values(), other.state.values(), strict=True):
        np.testing.assert_array_equal(backend.to_numpy(a), backend.to_numpy(b))
    assert one.state["t"].dtype == np.int64 and int(one.state["t"]) == 2 and int(one.state["buffer.2.draws"]) == 1, (
        "counters are copied, not averaged"
    )


@pytest.mark.parametrize("decay", [-0.1, 1.0, math.nan])
def test_a_decay_out_of_range_is_rejected(decay, rng):
    with pytest.raises(ValueError, match=f"the decay of a moving average is at least 0 and below 1, got {decay}"):
        MovingAverage(Dense(1, 1, rng=rng), decay)


def test_the_base_class_has_no_update_rule(rng):
    with pytest.raises(NotImplementedError):
        optim.Optimizer(Dense(1, 1, rng=rng), 0.1).step({"w": np.ones((1, 1)), "b": np.ones(1)})
