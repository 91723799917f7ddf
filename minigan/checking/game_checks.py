"""Checks of whole training steps of both players."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from minigan import datasets, losses, models, optim, penalties
from minigan import game as step
from minigan.checking import gradcheck
from minigan.checking.derivatives import EXACT
from minigan.checking.gradcheck import randomize
from minigan.checking.rows import Row, compare, fact
from minigan.errors import UserError
from minigan.layers import (
    BatchNorm,
    Conv2d,
    ConvTranspose2d,
    Dense,
    Dropout,
    Flatten,
    GaussianNoise,
    LeakyReLU,
    MinibatchStdDev,
    OneHot,
    Pack,
    Projection,
    ReLU,
    Reshape,
    Sequential,
    Sigmoid,
    Tanh,
    Upsample,
    fuse,
)

# One random direction is enough to find a mistake; `preset_steps` uses more.
FEW: dict[str, Any] = {"coordinates": 2, "directions": 1}


def small_game(backend, rng) -> tuple:
    """Return (G, D, real, z): small networks with most kinds of layers, 5 real images, and 4 noise vectors.

    Both networks have batch norm.
    """
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
    real, z = backend.asarray(rng.standard_normal((5, 8, 8, 1))), backend.asarray(rng.standard_normal((4, 3)))
    restore = gradcheck.save_buffers(G, D)
    D.forward(real)  # uses dropout's first mask, as a step does
    fake_logits = backend.to_numpy(D.forward(G.forward(z)[0])[0])
    restore()
    D.params["9.b"] -= np.median(fake_logits)  # so that the logits of the fakes have both signs
    return G, D, real, z


def whole_steps(backend) -> Iterator[Row]:
    """Check the gradients of whole steps, with batch norm in both modes and a fixed dropout mask."""
    smoothed = losses.smoothed(losses.minimax, 0.1)
    for which, loss, train in (
        ("discriminator", losses.non_saturating, True),
        ("discriminator", smoothed, False),
        ("generator", losses.non_saturating, True),
        ("generator", losses.minimax, False),
        ("simultaneous", losses.non_saturating, True),
    ):
        G, D, real, z = small_game(backend, np.random.default_rng(55))
        # With train=True both batches have the same size, so that a step that uses the cache of the wrong batch returns
        # a wrong gradient instead of failing with a shape error.
        game = G, D, real[: len(z)] if train else real, z
        name = f"{which} step" if train else f"{which} step, running statistics"
        yield from gradcheck.check_step(which, *game, loss, train=train, subject=name, **FEW)
    for which, loss, matching, fused in (
        ("discriminator", losses.relativistic, 0.0, False),
        ("generator", losses.relativistic, 0.4, False),
        ("simultaneous", losses.relativistic, 0.0, True),
        ("simultaneous", losses.least_squares, 1.0, True),
    ):
        G, D, real, z = small_game(backend, np.random.default_rng(58))
        G, D = (fuse(G), fuse(D)) if fused else (G, D)
        name = f"{which} step, {loss.name}" + f", {matching} of feature matching" * bool(matching)
        yield from gradcheck.check_step(which, G, D, real[: len(z)], z, loss, matching=matching, subject=name, **FEW)
    yield from packed_steps(backend, penalised=False)


def packed_steps(backend, penalised: bool) -> Iterator[Row]:
    """Check steps of a D with instance noise and packing, and steps with more fakes than real samples.

    The networks take labels if there is no packing. `penalised` selects the steps with a penalty.
    """
    rng = np.random.default_rng(57)

    def networks(classes, pack):
        G = Sequential(OneHot(classes), Dense(3 + classes, 4, rng=rng), Tanh(), Reshape(2, 2, 1))
        body = Conv2d(pack, 2, 2, rng=rng), Tanh(), Flatten(), MinibatchStdDev(2), Dense(4, 3, rng=rng), Tanh()
        if classes:
            return G, Sequential(*body, Projection(3, classes, rng=rng))
        noise = GaussianNoise(0.1, rng=np.random.default_rng(2))
        return Sequential(*G.layers[1:]), Sequential(noise, Pack(pack), *body, Dense(3, 1, rng=rng))

    for which, classes, pack, name in (
        ("discriminator", 2, 1, None),
        ("simultaneous", 2, 1, "r2"),
        ("discriminator", 2, 1, "wgan-gp"),
        ("discriminator", 0, 2, "r1"),
        ("discriminator", 0, 2, "wgan-gp"),
        ("generator", 0, 2, None),
    ):
        if bool(name) != penalised:
            continue
        G, D = networks(classes, pack)
        for network in (G, D):
            randomize(network.to(backend, np.float64), rng)
        real, z = (backend.asarray(rng.standard_normal(shape)) for shape in ((4, 2, 2, 1), (6, 3)))
        labels = backend.asarray(np.array([1, 0, 0, 1])) if classes else None

        def drawn_again(*batch, name=name):  # uses the same random points in every evaluation
            return penalties.named(str(name), weight=3.0, rng=np.random.default_rng(20))(*batch)

        subject = (
            f"{which} step, " + (f"packs of {pack}" if pack > 1 else "4 real and 6 fake") + f", {name}" * bool(name)
        )
        loss = losses.weighted(losses.non_saturating, 0.4)
        how: dict[str, Any] = dict(labels=labels, penalty=drawn_again if name else None, subject=subject, **FEW)
        yield from gradcheck.check_step(which, G, D, real, z, loss, **how)
    if not penalised:
        return
    # The gradient of a linear D is its weight, for every pack of samples.
    linear = Sequential(Pack(2), Flatten(), Dense(8, 1, rng=rng)).to(backend, np.float64)
    square = float((linear.params["2.w"] ** 2).sum())
    batch = [backend.asarray(rng.standard_normal((4, 2, 2, 1))) for _ in range(2)]
    for name, expected in (("r1", 1.5 * square), ("wgan-gp", 3 * (math.sqrt(square) - 1) ** 2)):
        penalty = penalties.named(name, weight=3.0, rng=np.random.default_rng(20))
        value = float(penalty(linear, batch[0], batch[1], None)[0])
        yield compare(f"{name}, packs of 2", "value", "formula", value, expected, EXACT)


def penalised_steps(backend) -> Iterator[Row]:
    """Check the gradients of whole steps with each penalty, with plain and with fused networks."""
    for which, name, train, fused in (
        ("discriminator", "r1", True, False),
        ("discriminator", "wgan-gp", False, True),
        ("simultaneous", "r2", False, False),
        ("simultaneous", "r1+r2", True, True),
        ("discriminator", "r1-fd", True, True),
        ("simultaneous", "r1-fd", False, False),
    ):
        G, D, real, z = small_game(backend, np.random.default_rng(38))
        G, D = (fuse(G), fuse(D)) if fused else (G, D)

        def penalty(*batch, name=name):  # uses the same random points in every evaluation
            return penalties.named(name, weight=3.0, rng=np.random.default_rng(20))(*batch)

        subject = f"{which} step with {name}" + ", fused" * fused + ", running statistics" * (not train)
        batch = real[: len(z)], z
        loss = losses.non_saturating
        yield from gradcheck.check_step(which, G, D, *batch, loss, train=train, penalty=penalty, subject=subject, **FEW)
        optimizers = optim.SGD(G, lr=0.1), optim.SGD(D, lr=0.1)
        result = gradcheck.run_step(which, G, D, *optimizers, *batch, loss, penalty=penalty)
        reported = float(result["penalty"]) > 0
        yield fact(subject, "reported", reported, "the value of the penalty is not in the step's report")
    yield from packed_steps(backend, penalised=True)


def isolation(backend) -> Iterator[Row]:
    """Check that each step changes all parameters of its own player and no bit of the other's, and check its report."""
    for which in ("discriminator", "generator", "simultaneous"):
        G, D, real, z = small_game(backend, np.random.default_rng(38))
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
            text = f"changed by mistake: {sorted(moved - should)}, not changed: {sorted(should - moved)}"
            yield fact(f"{which} step", f"changes {player}" if own else f"leaves {player}", moved == should, text)
            for name, value in expected[player].items():
                got = backend.to_numpy(network.buffers[name])
                yield compare(f"{which} step", f"{player} {name}", "formula", got, value, EXACT)
    yield from compared_logits(backend)


def compared_logits(backend) -> Iterator[Row]:
    """Check that a generator step passes D's logits of the real batch to a loss that needs them."""
    G, D, real, z = small_game(backend, np.random.default_rng(21))
    seen = []

    class Comparing(losses.NonSaturating):
        compares = True

        def generator(self, fake_logits, real_logits=None):
            seen.append(real_logits)
            return super().generator(fake_logits)

    restore = gradcheck.save_buffers(G, D)
    D.forward(G.forward(z)[0])  # draws the dropout mask of the fakes
    expected = backend.to_numpy(D.forward(real)[0])
    restore()
    step.generator_step(G, D, gradcheck.Recorder(), z, Comparing(), real=real)
    yield compare("generator step", "real logits", "D", backend.to_numpy(seen[0]), expected, EXACT)


def bits(network) -> dict:
    """Return the bytes of every parameter and running statistic. Dropout's counters are left out."""
    arrays = {**network.params, **{name: b for name, b in network.buffers.items() if b.dtype.kind == "f"}}
    return {name: network.backend.to_numpy(a).tobytes() for name, a in arrays.items()}


def statistics(network) -> dict:
    """Return copies of batch norm's running statistics."""
    return {k: network.backend.to_numpy(b).copy() for k, b in network.buffers.items() if b.dtype.kind == "f"}


def expected_report(which, G, D, real, z) -> dict:
    """Compute the losses and mean probabilities that a step must report, from formulas. The buffers are restored."""
    restore = gradcheck.save_buffers(G, D)
    fake = G.forward(z)[0]
    real_logits: Any = None if which == "generator" else D.backend.to_numpy(D.forward(real)[0])
    fake_logits = D.backend.to_numpy(D.forward(fake)[0])
    restore()
    report = {}
    if which != "generator":
        report["d_loss"] = np.log(1 + np.exp(-real_logits)).mean() + np.log(1 + np.exp(fake_logits)).mean()
        report["d_real"] = (1 / (1 + np.exp(-real_logits))).mean()
        report["d_fake"] = (1 / (1 + np.exp(-fake_logits))).mean()
    if which != "discriminator":
        report["g_loss"] = np.log(1 + np.exp(-fake_logits)).mean()
    return report


def expected_statistics(which, G, D, real, z) -> dict:
    """Compute the running statistics after a step. The buffers are restored.

    A player's statistics change in its own step only. D updates its statistics on the real batch and then on the fakes.
    """
    restore = gradcheck.save_buffers(G, D)
    before = {"G": statistics(G), "D": statistics(D)}
    fake = G.forward(z)[0]
    if which != "generator":
        D.forward(real)
    D.forward(fake)
    after = {"G": statistics(G), "D": statistics(D)}
    restore()
    return {p: after[p] if which in (gradcheck.PLAYERS[p], "simultaneous") else before[p] for p in before}


ROWS = models.Layout(((1, 3), (3, 6)), label_group=1)
# Of the example shape of a kind of data, without labels (False) and with them. Series end only with labels.
LAYOUTS = {
    ("tables", False): ROWS,
    ("tables", True): ROWS,
    ("sequences", True): models.Layout(flags=(1, 2), ends=((0, 2), (2, 3))),
}


def preset_steps(backend) -> Iterator[Row]:
    """Check whole steps of every architecture in `models`, fused, on small batches, with and without labels."""
    names = {preset.build: name for name, preset in models.PRESETS.items()}.values()  # one preset of each architecture
    for preset in names:
        kind = models.PRESETS[preset].kind
        shape = datasets.KINDS[kind].example_shape
        for which, train, classes in (
            ("discriminator", True, 0),
            ("discriminator", False, 3),
            ("generator", True, 3),
            ("generator", False, 0),
            ("simultaneous", True, 0),
        ):
            rng = np.random.default_rng(13)
            try:
                layout = LAYOUTS.get((kind, bool(classes)))
                G, D = models.build(preset, rng=rng, sample_shape=shape, classes=classes, layout=layout)
            except UserError:  # this architecture does not support labels
                classes = 0
                G, D = models.build(preset, rng=rng, sample_shape=shape)
            for network in (G, D):
                randomize(network.to(backend, np.float64), rng)
            real, z = rng.standard_normal((4, *shape)), rng.standard_normal((4, *(G.noise_shape or ())))
            if which == "generator" and any(layer.draws_in_evaluation for layer in G.layers):
                train = True  # in evaluation, the head passes on the gradient of another function than its own
            G, D = fuse(G), fuse(D)  # as in training; the networks of `small_game` are not fused
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
