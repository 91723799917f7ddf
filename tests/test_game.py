"""Test the training steps: which network changes, what stays bit-identical, what is returned, and each update.

test_gradcheck.py checks the gradients of whole steps ("whole steps", "presets").
"""

import numpy as np
import pytest

from minigan import datasets, game, losses, models
from minigan.checking import checks
from minigan.checking.game_checks import LAYOUTS
from minigan.checking.gradcheck import Recorder, run_step
from minigan.layers import BatchNorm, Dense, Dropout, LeakyReLU, Sequential, Tanh
from minigan.optim import SGD, Adam

STEPS = ("discriminator", "generator", "simultaneous")
MOVERS = {"discriminator": {"D"}, "generator": {"G"}, "simultaneous": {"G", "D"}}


def players(preset, backend, rng, classes=0):
    """Return (networks, real, z, labels) of a preset for small samples, in float32 as in training."""
    kind = models.PRESETS[preset].kind
    shape = datasets.KINDS[kind].example_shape
    G, D = models.build(preset, rng=rng, sample_shape=shape, classes=classes, layout=LAYOUTS.get((kind, bool(classes))))
    networks = {"G": G.to(backend), "D": D.to(backend)}
    real = backend.asarray(rng.uniform(-1, 1, (6, *shape)), dtype=np.float32)
    z = backend.asarray(rng.standard_normal((6, *G.noise_shape)), dtype=np.float32)
    labels = backend.asarray(np.array([0, 1, 2, 0, 1, 2])) if classes else None
    return networks, real, z, labels


def step(which, networks, real, z, labels=None, loss=losses.non_saturating, lr=1e-3):
    """Run one step with new Adam optimizers and return what it reports."""
    optimizers = {player: Adam(network, lr=lr) for player, network in networks.items()}
    return run_step(which, networks["G"], networks["D"], optimizers["G"], optimizers["D"], real, z, loss, labels)


# ---------------------------------------------------------------- which network changes


@pytest.mark.parametrize("which", STEPS)
@pytest.mark.parametrize("preset", models.PRESETS)
def test_each_step_changes_every_parameter_of_its_network_and_no_bit_of_the_other(preset, which, backend, rng):
    networks, real, z, _ = players(preset, backend, rng)
    before = {player: checks.bits(network) for player, network in networks.items()}
    step(which, networks, real, z)
    for player, network in networks.items():
        after = checks.bits(network)
        if player in MOVERS[which]:
            unmoved = {name for name in network.params if after[name] == before[player][name]}
            assert not unmoved, f"{player} does not change {unmoved}"
        else:
            assert after == before[player], f"{player} is not bit-identical"


@pytest.mark.parametrize("which", STEPS)
def test_each_step_changes_only_its_network_with_labels(which, backend, rng):
    networks, real, z, labels = players("small", backend, rng, classes=3)
    before = {player: checks.bits(network) for player, network in networks.items()}
    step(which, networks, real, z, labels)
    for player, network in networks.items():
        moved = {name for name, value in checks.bits(network).items() if value != before[player][name]}
        assert moved >= set(network.params) if player in MOVERS[which] else not moved


def test_labels_reach_both_networks(backend, rng):
    """Other labels change the generator's loss and the discriminator's mean probabilities."""
    reports = []
    for labels in ([0, 1, 2, 0, 1, 2], [1, 2, 0, 1, 2, 0]):
        networks, real, z, _ = players("small", backend, np.random.default_rng(7), classes=3)
        labels = backend.asarray(np.array(labels))
        d = step("discriminator", networks, real, z, labels)
        g = step("generator", networks, real, z, labels)
        reports.append([float(v) for v in (d["d_real"], d["d_fake"], g["g_loss"])])
    assert all(a != b for a, b in zip(*reports, strict=True))


@pytest.mark.parametrize("which", STEPS)
def test_running_statistics_change_only_in_the_step_of_their_network(which, backend, rng):
    G, D, real, z = checks.small_game(backend, rng)
    expected = checks.expected_statistics(which, G, D, real, z)
    before = {"G": checks.statistics(G), "D": checks.statistics(D)}
    step(which, {"G": G, "D": D}, real, z)
    for player, network in (("G", G), ("D", D)):
        for name, value in checks.statistics(network).items():
            np.testing.assert_allclose(value, expected[player][name], rtol=1e-12)
            moved = not np.array_equal(value, before[player][name])
            assert moved == (player in MOVERS[which]), f"{player} {name}"


@pytest.mark.parametrize("which", STEPS)
def test_a_step_draws_each_dropout_once_for_each_batch(which, backend, rng):
    """The masks of real and fake batches differ, and the counter lets a resumed run continue."""
    D = Sequential(Dense(2, 8, rng=rng), Dropout(0.5, rng=rng), Dense(8, 1, rng=rng)).to(backend)
    G = Sequential(Dense(3, 2, rng=rng)).to(backend)
    real, z = (backend.asarray(rng.standard_normal((4, n)), dtype=np.float32) for n in (2, 3))
    step(which, {"G": G, "D": D}, real, z)
    assert int(D.buffers["1.draws"]) == (1 if which == "generator" else 2)


# ---------------------------------------------------------------- the updates


def linear_players(rng):
    """Return G(z) = z a, D(x) = x w, real samples and noise. The gradients have short formulas."""
    G, D = (Sequential(Dense(1, 1, bias=False, rng=rng)).to("numpy", np.float64) for _ in range(2))
    G.params["0.w"][...], D.params["0.w"][...] = 2.0, 0.5
    return G, D, np.array([[1.0], [3.0]]), np.array([[-1.0], [0.5]])


def s(l):
    """Return the sigmoid of l."""
    return 1 / (1 + np.exp(-l))


def test_a_discriminator_step_by_hand(rng):
    """dL/dw = mean -s(-w x) x over the real x, plus mean s(w f) f over the fakes f = 2 z."""
    G, D, real, z = linear_players(rng)
    result = game.discriminator_step(G, D, SGD(D, lr=0.1), real, z, losses.non_saturating)
    fake = 2 * z
    dw = (-s(-0.5 * real) * real).mean() + (s(0.5 * fake) * fake).mean()
    np.testing.assert_allclose(D.params["0.w"], 0.5 - 0.1 * dw, rtol=1e-14)
    np.testing.assert_allclose(result["d_loss"], -np.log(s(0.5 * real)).mean() - np.log(1 - s(0.5 * fake)).mean())
    np.testing.assert_allclose([result["d_real"], result["d_fake"]], [s(0.5 * real).mean(), s(0.5 * fake).mean()])


def test_a_generator_step_by_hand(rng):
    """dL/da = mean -s(-w a z) w z."""
    G, D, _, z = linear_players(rng)
    result = game.generator_step(G, D, SGD(G, lr=0.1), z, losses.non_saturating)
    da = (-s(-0.5 * 2 * z) * 0.5 * z).mean()
    np.testing.assert_allclose(G.params["0.w"], 2 - 0.1 * da, rtol=1e-14)
    np.testing.assert_allclose(result["g_loss"], -np.log(s(0.5 * 2 * z)).mean())


def test_a_simultaneous_step_equals_both_steps_from_the_same_networks(rng):
    G, D, real, z = linear_players(rng)
    result = game.simultaneous_step(G, D, SGD(D, lr=0.1), SGD(G, lr=0.1), real, z, losses.minimax)
    for which, name, network in (("discriminator", "D", D), ("generator", "G", G)):
        other_G, other_D, _, _ = linear_players(rng)
        alone = {"G": other_G, "D": other_D}
        optimizers = {player: SGD(net, lr=0.1) for player, net in alone.items()}
        reported = run_step(which, other_G, other_D, optimizers["G"], optimizers["D"], real, z, losses.minimax)
        np.testing.assert_allclose(network.params["0.w"], alone[name].params["0.w"], rtol=1e-14)
        assert all(result[key] == value for key, value in reported.items())
    assert result.keys() == {"d_loss", "g_loss", "d_real", "d_fake"}


def test_the_gradient_of_each_batch_uses_its_own_cache(rng):
    """gan_numpy uses the fake batch's activations for the real batch's gradient (cosine with the true one: 0.17)."""
    G, D, real, z = checks.small_game(checks.load("numpy"), rng)
    recorder = Recorder()
    buffers = {name: b.copy() for name, b in D.buffers.items()}
    game.discriminator_step(G, D, recorder, real, z, losses.non_saturating)
    for name, b in buffers.items():
        D.buffers[name][...] = b
    fake = G.forward(z, track=False)[0]
    logits, cache = D.forward(real)  # each batch forward and backward separately
    alone = D.backward(-s(-logits) / len(real), cache)[1]
    logits, cache = D.forward(fake)
    for name, g in D.backward(s(logits) / len(fake), cache)[1].items():
        np.testing.assert_allclose(recorder.grads[name], alone[name] + g, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("which", STEPS)
def test_a_step_computes_no_gradient_that_is_not_needed(which, rng, monkeypatch):
    G = Sequential(Dense(3, 4, rng=rng), Tanh(), Dense(4, 2, rng=rng))
    D = Sequential(Dense(2, 4, rng=rng), LeakyReLU(0.2), Dense(4, 1, rng=rng))
    asked = []
    for player, network in (("G", G), ("D", D)):

        def backward(dy, cache, need_dx=True, need_grads=True, player=player, original=network.backward):
            asked.append((player, "dx" * need_dx + "grads" * need_grads))
            return original(dy, cache, need_dx, need_grads)

        monkeypatch.setattr(network, "backward", backward)
    real, z = (rng.standard_normal((4, n)).astype(np.float32) for n in (2, 3))
    step(which, {"G": G, "D": D}, real, z)
    d_part, g_part = [("D", "grads"), ("D", "grads")], [("D", "dx"), ("G", "grads")]
    assert asked == {"discriminator": d_part, "generator": g_part, "simultaneous": d_part + g_part}[which]


@pytest.mark.parametrize("which", STEPS)
def test_everything_stays_float32(which, backend, rng):
    networks, real, z, _ = players("tutorial", backend, rng)
    result = step(which, networks, real, z)
    assert {str(value.dtype) for value in result.values()} == {"float32"}
    floats = [
        a for net in networks.values() for a in (*net.params.values(), *net.buffers.values()) if a.dtype.kind == "f"
    ]
    assert {str(a.dtype) for a in floats} == {"float32"}


def test_real_and_fake_batches_may_differ_in_size(backend, rng):
    networks, real, z, _ = players("small", backend, rng)
    step("discriminator", networks, real, z[:2])
    step("simultaneous", networks, real[:3], z)


# ---------------------------------------------------------------- training


@pytest.mark.parametrize("loss", losses.LOSSES.values(), ids=lambda loss: loss.name)
def test_training_moves_the_fakes_to_the_data(loss, backend):
    """The data are around (2, -1) and the first fakes around 0. The mean of the fakes approaches that of the data."""
    rng = np.random.default_rng(1)
    G = Sequential(Dense(2, 16, rng=rng), BatchNorm(16), LeakyReLU(0.2), Dense(16, 2, rng=rng)).to(backend)
    D = Sequential(Dense(2, 16, rng=rng), LeakyReLU(0.2), Dense(16, 1, rng=rng)).to(backend)
    opt_g, opt_d = (Adam(net, lr=5e-3, beta1=0.5) for net in (G, D))
    centre = np.array([2.0, -1.0], np.float32)

    def noise(n):
        return backend.asarray(rng.standard_normal((n, 2)), dtype=np.float32)

    def distance():
        return np.linalg.norm(backend.to_numpy(G.forward(noise(256), train=False)[0]).mean(0) - centre)

    before = distance()
    for _ in range(300):
        real = backend.asarray(centre + 0.5 * rng.standard_normal((64, 2)), dtype=np.float32)
        game.discriminator_step(G, D, opt_d, real, noise(64), loss)
        game.generator_step(G, D, opt_g, noise(64), loss, real=real)
    assert before > 1.5 and distance() < before / 2, "the mean of the fakes stays near the data"
