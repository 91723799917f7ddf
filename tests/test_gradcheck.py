"""Tests of the gradient checker, and minigan's own checks on every backend.

The checker must pass right gradients, fail slightly wrong gradients, and not report a wrong gradient as a kink.
"""

import importlib
import json
import math
import pkgutil

import branches
import numpy as np
import pytest

from minigan import backends, cli, layers, losses, models, penalties
from minigan.checking import checks, gradcheck, loss_optim_checks, planted
from minigan.checking.gradcheck import (
    check,
    check_layer,
    check_loss,
    check_network,
    check_penalty,
    check_step,
    randomize,
)
from minigan.layers import BatchNorm, Dense, Flatten, Layer, LeakyReLU, ReLU, Sequential, SpectralNorm, Tanh


def cubic(scale=1.0):
    """Check f(t) = sum of t^3, with the gradient multiplied by `scale`."""
    t = np.array([0.5, -1.2, 2.0])
    return check(lambda: (t**3).sum(), lambda: {"t": scale * 3 * t**2}, {"t": t})


class Wrong(LeakyReLU):
    """A leaky ReLU whose gradient is wrong by a factor everywhere."""

    def gradient(self, dy, cache):
        return 1.001 * super().gradient(dy, cache)


# ---------------------------------------------------------------- any function


def test_a_right_gradient_is_right_and_names_its_worst_entry():
    (row,) = cubic()
    assert row.verdict == "right" and row.ok and row.error < 1e-9 and row.compared == 3
    assert row.where in ("[0]", "[1]", "[2]") and math.isclose(row.analytic, row.numeric, rel_tol=1e-8)


@pytest.mark.parametrize("scale", [1 + 1e-6, 0.999, 0.5, 0.0, -1.0, math.nan, math.inf])
def test_a_gradient_wrong_by_a_factor_is_wrong(scale):
    (row,) = cubic(scale)
    assert row.verdict == "wrong" and not row.ok
    assert ("wrong" in str(row) and "got" in str(row) and "[2]" in str(row)) or not math.isfinite(scale)


def test_one_wrong_entry_among_many_is_found_by_random_directions(rng):
    t = rng.standard_normal(5000)
    for wrong, verdict in ((0.0, "right"), (0.05, "wrong")):
        grad = np.cos(t)
        grad[1234] += wrong
        (row,) = check(lambda: np.sin(t), lambda grad=grad: {"t": grad}, {"t": t}, rng=rng)
        assert row.verdict == verdict and row.where.startswith("direction") and row.compared == 4


@pytest.mark.parametrize(
    ("gradient", "complaint"),
    [
        ({}, "no gradient"),
        ({"t": np.ones((3, 1))}, "shape (3, 1)"),
        ({"t": np.ones(3, np.float32)}, "float32"),
    ],
)
def test_a_gradient_that_cannot_be_compared_is_wrong_and_says_why(gradient, complaint):
    t = np.ones(3)
    (row,) = check(lambda: t.sum(), lambda: gradient, {"t": t})
    assert row.verdict == "wrong" and complaint in row.where


def test_tensors_are_restored_bit_for_bit_even_after_an_error(rng):
    t = rng.standard_normal(7)
    before = t.tobytes()
    check(lambda: np.sin(t), lambda: {"t": np.cos(t)}, {"t": t})
    assert t.tobytes() == before
    calls = []

    def fails():
        calls.append(1)
        if len(calls) > 3:
            raise RuntimeError("no")
        return np.sin(t)

    with pytest.raises(RuntimeError):
        check(fails, lambda: {"t": np.cos(t)}, {"t": t})
    assert t.tobytes() == before


def test_a_gradient_of_zero_passes_only_if_the_function_is_constant(rng):
    t, offset = rng.standard_normal(5), 1e3
    flat = check(lambda: offset + 0 * t.sum(), lambda: {"t": np.zeros(5)}, {"t": t})
    assert flat[0].verdict == "right"
    tiny = check(lambda: offset + 1e-4 * t.sum(), lambda: {"t": np.zeros(5)}, {"t": t})
    assert tiny[0].verdict == "wrong"


def test_complex_step_has_no_cancellation(rng):
    t = rng.standard_normal(6)
    z = t.astype(complex)
    (row,) = check(lambda: np.exp(z) * np.sin(z), lambda: {"t": np.exp(t) * (np.sin(t) + np.cos(t))}, {"t": z},
                   method="complex")  # fmt: skip
    assert row.verdict == "right" and row.error < 1e-15
    (row,) = check(lambda: np.exp(z), lambda: {"t": np.exp(t) * (1 + 1e-11)}, {"t": z}, method="complex")
    assert row.verdict == "wrong", "the complex step must detect an error of 1e-11"


# ---------------------------------------------------------------- kinks


def test_relu_at_zero_is_a_kink_and_not_a_failure():
    x = np.array([[0.0, 1.0, -1.0, 0.0]])
    (row,) = check_layer(ReLU(), x)
    assert row.verdict == "kink" and row.ok and row.where in ("[0, 0]", "[0, 3]")


def test_a_wrong_gradient_away_from_kinks_stays_wrong_next_to_one():
    x = np.array([[0.0, 1.0, -1.0, 0.0]])
    (row,) = check_layer(Wrong(0.2), x)
    assert row.verdict == "wrong"


def test_a_wrong_gradient_cannot_hide_where_everything_is_a_kink():
    """With all inputs at the kink, all one-sided slopes differ. Only a nearby point shows the mistake."""
    x = np.zeros((3, 4))
    (row,) = check_layer(LeakyReLU(0.2), x)
    assert row.verdict == "kink"
    (row,) = check_layer(Wrong(0.2), x)
    assert row.verdict == "wrong"


def test_many_kinks_that_depend_on_one_weight_are_still_a_kink(rng):
    """Initial biases and black pixels are 0, so all inputs of a layer can be exactly 0 and depend on one weight."""
    net = Sequential(Dense(4, 6, rng=rng), ReLU(), Dense(6, 2, rng=rng))
    x = np.zeros((3, 4))
    rows = check_network(net, x)
    assert {row.verdict for row in rows} == {"right", "kink"}
    net.layers[2].backward = lambda dy, cache, *needs: (3 * dy @ net.layers[2].params["w"].T, {})
    assert not all(row.ok for row in check_network(net, x))


def test_a_kink_within_the_step_but_not_at_the_point_needs_a_smaller_step():
    x = np.array([[3e-6, -2e-6, 1.0]])
    (row,) = check_layer(LeakyReLU(0.2), x)
    assert row.verdict == "right"


def test_a_steep_but_smooth_function_is_not_a_kink():
    t = np.array([0.01])
    value, gradient = (lambda: np.tanh(50 * t)), (lambda: {"t": 50 * (1 - np.tanh(50 * t) ** 2)})
    assert check(value, gradient, {"t": t})[0].verdict == "right"
    assert check(value, lambda: {"t": 1.01 * gradient()["t"]}, {"t": t})[0].verdict == "wrong"


# ---------------------------------------------------------------- why the cotangent is random


@pytest.mark.parametrize("factor", [0.0, 37.0])
def test_a_cotangent_of_ones_misses_mistakes_of_batch_norm(factor, rng):
    """DeZero's gradient_check differentiates sum(y). The sum is constant for batch norm, so dx = 0 and dx * 37 pass."""

    class Scaled(BatchNorm):
        def backward(self, dy, cache, need_dx=True, need_grads=True):
            dx, grads = super().backward(dy, cache, need_dx, need_grads)
            return factor * dx, grads

    x = rng.standard_normal((6, 3))
    with_ones = check_layer(Scaled(3), x, cotangent=lambda rng, shape: np.ones(shape))
    assert all(row.ok for row in with_ones)
    assert [row.tensor for row in check_layer(Scaled(3), x) if not row.ok] == ["x"]


# ---------------------------------------------------------------- layers, networks, losses, steps, penalties


def test_check_layer_does_not_change_the_layer(backend, rng):
    net = Sequential(BatchNorm(4), layers.Dropout(0.5, rng=rng), Dense(4, 2, rng=rng)).to(backend)
    before = {k: backend.to_numpy(v).tobytes() for k, v in {**net.params, **net.buffers}.items()}
    check_layer(net, rng.standard_normal((5, 4)))
    assert {k: backend.to_numpy(v).tobytes() for k, v in {**net.params, **net.buffers}.items()} == before
    assert net.params["2.w"].dtype == np.float32


def test_check_network_fails_for_a_broken_layer_inside(rng):
    good = Sequential(Dense(3, 4, rng=rng), Tanh(), Dense(4, 2, rng=rng))
    bad = Sequential(Dense(3, 4, rng=rng), Wrong(0.2), Dense(4, 2, rng=rng))
    x = rng.standard_normal((5, 3))
    assert all(row.ok for row in check_network(good, x))
    assert {row.tensor for row in check_network(bad, x) if not row.ok} == {"x", "0.w", "0.b"}
    assert all(row.error < 1e-14 for row in check_network(good, x, method="complex"))


def test_check_loss_fails_for_a_wrong_loss(rng):
    class Mixed(losses.NonSaturating):
        """The value of one loss and the gradient of the other."""

        def generator(self, fake_logits, real_logits=None):
            return super().generator(fake_logits)[0], losses.minimax.generator(fake_logits)[1]

    logits = rng.standard_normal((4, 1))
    assert all(row.ok for row in check_loss(losses.minimax, logits, logits)), "a loss and its own gradient"
    assert [row.ok for row in check_loss(Mixed(), logits, logits)] == [True, True, False]


def test_check_step_names_the_tensors_of_the_trained_player(rng):
    G, D, real, z = checks.small_game(layers.Layer().backend, rng)
    for which, players in (("discriminator", "D"), ("generator", "G"), ("simultaneous", "DG")):
        rows = check_step(which, G, D, real, z, losses.non_saturating, coordinates=4, directions=1)
        names = {f"{p} {name}" for p in players for name in {"D": D, "G": G}[p].params}
        assert {row.tensor for row in rows} == names and all(row.ok for row in rows)
    with pytest.raises(ValueError, match="discriminator, generator or simultaneous, got 'both'"):
        check_step("both", G, D, real, z, losses.non_saturating)


def test_check_step_finds_a_generator_that_gets_no_gradient(rng, monkeypatch):
    """In numpy-ml's WGAN-GP the loop over the layers was empty, and every generator weight changed by exactly 0."""
    G, D, real, z = checks.small_game(layers.Layer().backend, rng)

    def zero_step(G, D, opt_g, *rest):
        opt_g.step({name: 0 * p for name, p in G.params.items()})

    monkeypatch.setattr(gradcheck.game, "generator_step", zero_step)
    rows = check_step("generator", G, D, real, z, losses.non_saturating, coordinates=4, directions=1)
    assert all(row.verdict == "wrong" for row in rows)


@pytest.mark.parametrize("labels", [None, np.array([1, 0, 1, 1])])
def test_check_penalty_passes_through_the_minibatch_standard_deviation(labels, rng):
    D = randomize(Sequential(Dense(3, 4, rng=rng), layers.Tanh(), layers.MinibatchStdDev(2), Dense(6, 1, rng=rng)), rng)
    D.to("numpy", np.float64)
    x = rng.standard_normal((4, 3))
    assert all(row.ok for row in check_penalty(lambda D: penalties.r1(D, x, labels=labels), D))


def test_check_penalty_fails_for_a_wrong_penalty(rng):
    D = randomize(Sequential(Flatten(), Dense(4, 3, rng=rng), Tanh(), Dense(3, 1, rng=rng)), rng)
    x = rng.standard_normal((3, 4))

    def halved(D):
        value, grads = penalties.r1(D, x)
        return value, {name: g / 2 for name, g in grads.items()}

    assert all(row.ok for row in check_penalty(lambda D: penalties.r1(D, x), D))
    assert {row.tensor for row in check_penalty(halved, D) if not row.ok} == {"1.w", "1.b", "3.w"}


def test_randomize_leaves_no_zeros_and_ones(rng):
    G, _ = models.build("small", rng=rng, sample_shape=(8, 8, 1))
    randomize(G, rng)
    assert not any((p == 0).any() or (p == 1).any() for p in {**G.params, **G.buffers}.values())
    assert all(0.1 < p.std() for name, p in G.params.items() if name.endswith(("gamma", "beta", "b")) and p.size > 3)


def test_randomize_recognises_singular_vectors_by_their_layer_and_not_by_name(rng):
    """A user-defined layer may have buffers named u and v with any content."""
    own = Layer({"w": np.zeros((200, 100), np.float32)}, {"u": np.zeros(200, np.float32), "v": np.zeros(7, np.float32)})
    normed = SpectralNorm(Dense(6, 4, rng=rng), rng=rng)
    randomize(Sequential(own, normed), rng)
    np.testing.assert_allclose(own.buffers["u"].std(), 0.3, rtol=0.3)  # that of a unit vector (200,) is 0.07
    w, u, v = normed.params["w"], *normed.buffers.values()
    np.testing.assert_allclose(w @ v, np.linalg.svd(w, compute_uv=False)[0] * u, atol=1e-6)


# ---------------------------------------------------------------- minigan itself


@pytest.mark.parametrize("name", [*checks.CHECKS, pytest.param("presets", marks=pytest.mark.slow)])
def test_every_check_holds(name, backend):
    rows = checks.report(backend, only=lambda check: check == name)
    if name == "ranks" and backend.sums_alone:  # test_ranks.py runs these in processes
        assert not rows
        return
    assert len(rows) > 3
    assert not [str(row) for row in rows if row.verdict != "right"]
    worst = {m: max((row.error for row in rows if row.method == m), default=0.0) for m in ("central", "complex")}
    if name == "presets":
        built = {models.PRESETS[row.subject.split(":")[0]].build for row in rows}
        assert built == {preset.build for preset in models.PRESETS.values()}, "every architecture is checked"
    whole = ("whole steps", "penalised steps", "presets", "penalties")
    assert worst["central"] < (1e-6 if name in whole else 1e-7) and worst["complex"] < 1e-12


def test_every_kind_of_layer_is_checked():
    public = {kind for kind in vars(layers).values() if isinstance(kind, type)} - {layers.Layer}
    cases = {type(layer) for _, layer, _, _ in checks.layer_cases(backends.reference(), np.random.default_rng(0))}
    assert len(public) > 10 and cases >= public


def test_the_table_shows_what_is_wrong():
    text = gradcheck.table([*cubic(), *cubic(2.0)])
    lines = text.splitlines()
    assert len(lines) == 4 and "verdict" in lines[0] and " right " in lines[1] and " wrong " in lines[2]
    assert lines[3].startswith("function, t: wrong, worst relative error 5.0e-01 at [2]: got 24, expected 12")


def test_the_digest_keeps_the_worst_row_of_each_subject():
    good, bad = cubic()[0], cubic(2.0)[0]
    for rows in ([good, bad, good], [bad, good, good]):
        (row,) = gradcheck.digest(rows)
        assert (row.verdict, row.compared, row.error) == ("wrong", 9, bad.error)


# ---------------------------------------------------------------- the command


@pytest.fixture
def few_checks(monkeypatch):
    monkeypatch.setattr(checks, "CHECKS", {"losses": checks.loss_values})
    monkeypatch.setattr(checks, "preset_steps", lambda backend: [])


def test_the_command_prints_a_table_for_each_backend_and_succeeds(few_checks, capsys):
    assert cli.main(["gradcheck"]) == 0
    out = capsys.readouterr().out
    for name in backends.available():
        assert f"\n{name}: " in out
    assert out.count("all right") == len(backends.available()) and "non_saturating: discriminator" in out


def test_the_command_fails_and_says_what_is_wrong(few_checks, monkeypatch, capsys):
    class Wrong(losses.Minimax):
        generator_term = "softplus", -1, 1  # the generator's loss of non_saturating

    monkeypatch.setitem(losses.LOSSES, "minimax", Wrong())
    assert cli.main(["gradcheck", "--backend", "numpy"]) == 1
    out = capsys.readouterr().out
    assert "numpy: " in out and "1 wrong" in out and "minimax: generator, value: wrong" in out


def test_the_command_prints_json(few_checks, capsys):
    assert cli.main(["gradcheck", "--backend", "numpy", "--backend", "numpy", "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)
    assert report["backend"] == "numpy" and report["wrong"] == 0 and report["seconds"] > 0
    row = report["rows"][0]
    assert row.keys() >= {"subject", "tensor", "error", "method", "verdict", "seconds"} and row["verdict"] == "right"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backend", "abacus"], "unknown backend 'abacus'"),
        (["--update", "README.md"], "add --planted"),
        (["--planted", "--backend", "numpy"], "leave --backend out"),
        (["--planted", "--update", "no/such/file"], "no/such/file: No such file"),
    ],
)
def test_the_command_refuses_what_it_cannot_do(arguments, message, capsys):
    assert cli.main(["gradcheck", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_command_prints_the_outcomes_of_planted_mistakes(monkeypatch, capsys, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"{planted.BEGIN}\n{planted.END}\n", encoding="utf-8")
    caught = planted.Outcome(planted.MISTAKES[0], ("layer gradients",), (), True)
    missed = planted.Outcome(planted.MISTAKES[1], (), (), False)
    for outcomes, code in (([caught], 0), ([caught, missed], 1)):
        monkeypatch.setattr(planted, "attempt_all", lambda outcomes=outcomes: outcomes)
        assert cli.main(["gradcheck", "--planted", "--update", str(readme)]) == code
        out = capsys.readouterr().out
        assert caught.mistake.title in out and ("NOTHING" in out) == bool(code)
        assert planted.block(readme.read_text(encoding="utf-8")) == planted.summary(outcomes)
        assert cli.main(["gradcheck", "--planted", "--json"]) == code
        assert [o["caught_by"] for o in json.loads(capsys.readouterr().out)] == [["layer gradients"], []][
            : len(outcomes)
        ]


# ---------------------------------------------------------------- the inputs reach every branch

MATHEMATICS = [
    importlib.import_module(f"minigan.{name}")
    for name in (
        *("backends.contract", "backends.numpy_backend", "backends.recurrence", "losses", "penalties", "optim", "game"),
        *(f"layers.{module.name}" for module in pkgutil.iter_modules(layers.__path__)),
    )
]
# Functions that start and configure a backend, which are not mathematics. Some run before the first check, or never.
SETUP = set(
    "start in_force in_force.run put_in_force cores limit_blas _blas NumpyBackend.__init__ NumpyBackend.activate "
    "Backend.computing Backend.health NumpyBackend.computing Alone.__init__ Alone.__enter__ Alone.__exit__ _after_fork "
    "forget_active warn_once blas restorers NumpyBackend.in_pieces on_threads on_threads.work workers "
    "Relativistic.__init__ Backend.prepare Backend.kernels_on_disk "
    "Backend.__copy__ Backend.__deepcopy__ Backend.__reduce__".split()
)
# What the checks need not reach: (function, text of the condition, or "" for the whole function) -> reason.
NOT_REACHED = {
    ("", "hasattr(os, 'register_at_fork')"): "tests/test_everywhere.py: forks",
    ("Backend.plain", ""): "tests/test_ranks.py: the backend under one that shares batches",
    ("NumpyBackend.gather", ""): "tests/test_points.py: data",
    ("NumpyBackend.bias_grad", "slope == 1"): "tests/test_backends.py: plain layers sum the rows",
    ("MovingAverage.state", ""): "tests/test_train.py: checkpoints",
    ("Layer.to", "isinstance(backend, str)"): "tests/test_layers.py: a backend given by name",
    ("Layer.pack", "any((params[name].base is not flat for params, name in held))"): "tests/test_optim.py: packing",
    ("Layer.pack", "params[name].base is not flat"): "tests/test_optim.py: packing",
    ("add", "b is None"): "for networks that return no gradients",
}


def missing(names=(*checks.CHECKS, "presets")) -> tuple[dict, set]:
    """Return the conditions with outcomes that the checks do not reach, and the exemptions that were used."""
    backend = checks.load("numpy")
    with branches.recorded(MATHEMATICS) as record, np.errstate(all="ignore"):
        for name in names:
            record.run(name, lambda name=name: checks.report(backend, only=lambda check: check == name))
    assert SETUP <= {condition.function for condition in record.conditions}, "a function does not exist"
    found, used = {}, set()
    # The check of ranks compares steps with those of one process, and the other checks compare these with derivatives.
    for condition, why in record.missing(without="ranks").items():
        exempt = {(condition.function, condition.text), (condition.function, "")} & NOT_REACHED.keys()
        used |= exempt
        if not exempt and condition.function not in SETUP:
            found[condition] = why
    return found, used


@pytest.mark.slow
def test_the_inputs_of_the_checks_reach_every_branch():
    """Array conditions reach both outcomes in each check and for each caller, other conditions in any check."""
    found, used = missing()
    assert found == {}
    assert used == NOT_REACHED.keys(), "an exemption is not needed"


def test_inputs_on_one_side_of_a_margin_are_noticed(monkeypatch):
    """If all logits of the real samples are negative, the checks cannot notice a missing hinge mask."""
    monkeypatch.setattr(loss_optim_checks, "REAL_LOGITS", -abs(loss_optim_checks.REAL_LOGITS))
    found, _ = missing(["losses"])
    assert any("margin.real > 0" in c.text and "Unpaired.discriminator" in why for c, why in found.items())
