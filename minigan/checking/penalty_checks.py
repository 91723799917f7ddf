"""Checks of the penalties on the discriminator: values, weight gradients, and what they leave unchanged."""

from collections.abc import Iterator

import numpy as np

from minigan import penalties
from minigan.checking import gradcheck
from minigan.checking.derivatives import EXACT
from minigan.checking.game_checks import FEW, bits
from minigan.checking.gradcheck import randomize
from minigan.checking.random_checks import plain_normal
from minigan.checking.rows import Row, compare, fact
from minigan.layers import (
    GRU,
    BatchNorm,
    Conv2d,
    ConvTranspose2d,
    Dense,
    Dropout,
    Flatten,
    LeakyReLU,
    MinibatchStdDev,
    Projection,
    ReLU,
    Reshape,
    Sequential,
    Sigmoid,
    SpectralNorm,
    Tanh,
    Upsample,
    fuse,
)


def smooth_critic(backend, rng) -> Sequential:
    """Return a discriminator whose second derivatives include those of batch norm, spectral norm and activations."""
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
    """Check the values and weight gradients of R1, R2 and WGAN-GP, and WGAN-GP at gradient norm zero.

    The weight gradients of a penalty are second derivatives of D.
    """
    rng = np.random.default_rng(14)
    D = smooth_critic(backend, rng)
    real, fake = (backend.asarray(rng.standard_normal((3, 4, 4, 1))) for _ in range(2))

    def gp(D, train):
        return penalties.wgan_gp(D, real, fake, rng=np.random.default_rng(15), weight=7.0, train=train)

    before = bits(D)
    restore = gradcheck.save_buffers(D)
    value, grads = penalties.r1(D, real)
    restore()  # the same dropout mask
    fused_value, fused_grads = penalties.r1(fuse(D), real)
    yield compare("R1 of a fused D", "value", "plain D", float(fused_value), float(value), 1e-12)
    for name, g in grads.items():
        yield compare(
            "R1 of a fused D", name, "plain D", backend.to_numpy(fused_grads[name]), backend.to_numpy(g), 1e-12
        )
    for what, penalty in (
        ("R1", lambda D: penalties.r1(D, real, weight=3.0)),
        ("R2, running statistics", lambda D: penalties.r2(D, fake, weight=3.0, train=False)),
        ("WGAN-GP", lambda D: gp(D, True)),
    ):
        yield from gradcheck.check_penalty(penalty, D, subject=what, **FEW)
        penalty(D)
        yield fact(what, "statistics", bits(D) == before, "the penalty changes D's parameters or running statistics")
    # Values: the image gradient of each sample by central differences. Running statistics keep the samples independent.
    share = backend.asarray(np.random.default_rng(15).random((3, 1, 1, 1)))
    for what, x, value, function in (
        ("R1", real, penalties.r1(D, real, weight=3.0, train=False)[0], lambda norm: 1.5 * norm**2),
        ("R2", fake, penalties.r2(D, fake, weight=3.0, train=False)[0], lambda norm: 1.5 * norm**2),
        ("WGAN-GP", share * real + (1 - share) * fake, gp(D, False)[0], lambda norm: 7 * (norm - 1) ** 2),
    ):
        norms = np.linalg.norm(numeric_input_gradient(D, backend, x).reshape(3, -1), axis=1)
        yield compare(what, "value", "central", float(value), function(norms).mean(), gradcheck.NETWORK_TOLERANCE)
    # R1 with labels, and R1 of a D that begins with the minibatch standard deviation.
    labels = backend.asarray(np.array([1, 0, 1]))
    conditional = Sequential(
        Tanh(),
        BatchNorm(1),
        Conv2d(1, 2, 3, stride=2, pad=1, rng=rng),
        Flatten(),
        MinibatchStdDev(2, strength=2.0),
        Dense(10, 6, rng=rng),
        Tanh(),
        MinibatchStdDev(strength=2.0),
        Dense(7, 4, rng=rng),
        BatchNorm(4),
        LeakyReLU(0.2),
        SpectralNorm(Projection(4, 2, rng=rng), rng=rng),
    )
    randomize(conditional.to(backend, np.float64), rng)
    yield from gradcheck.check_penalty(
        lambda D: penalties.r1(D, real, weight=3.0, labels=labels), conditional, subject="R1 with labels", **FEW
    )
    early = Sequential(MinibatchStdDev(2), Dense(6, 4, rng=rng), Tanh(), Dense(4, 1, rng=rng))
    randomize(early.to(backend, np.float64), rng)
    rows = backend.asarray(rng.standard_normal((3, 4)))
    yield from gradcheck.check_penalty(
        lambda D: penalties.r1(D, rows, weight=3.0), early, subject="R1 of the minibatch standard deviation", **FEW
    )
    penalties.expect_second_derivatives(fuse(D))  # raises if a layer has no second derivative
    # The penalties by name, as a training step calls them.
    plain = Sequential(*D.layers[:2], Tanh(), Flatten(), Dense(8, 1, rng=rng)).to(backend, np.float64)
    on_real, on_fake = (float(penalties.r1(plain, x, weight=3.0)[0]) for x in (real, fake))
    points = float(penalties.wgan_gp(plain, real, fake, rng=np.random.default_rng(15), weight=3.0)[0])
    near = float(penalties.r1_fd(plain, real, rng=np.random.default_rng(15), weight=3.0)[0])
    for name, value in (
        ("r1", on_real),
        ("r2", on_fake),
        ("r1+r2", on_real + on_fake),
        ("wgan-gp", points),
        ("r1-fd", near),
    ):
        by_name = penalties.named(name, weight=3.0, rng=np.random.default_rng(15))
        yield compare(f"{name} by name", "value", "formula", float(by_name(plain, real, fake, None)[0]), value, EXACT)
    yield from flat_discriminators(backend, rng)
    yield from finite_differences(backend)


def finite_differences(backend) -> Iterator[Row]:
    """Check the value and weight gradients of R1 by finite differences, and that both passes have the same masks."""
    rng = np.random.default_rng(25)
    real = backend.asarray(rng.standard_normal((3, 4, 4, 1)))
    critic = smooth_critic(backend, rng)
    sequence = Sequential(Reshape(4, 4), GRU(4, 3, last=True, rng=rng), Dropout(0.3, rng=rng), Dense(3, 1, rng=rng))
    for what, D, s, train in (
        ("r1-fd of a smooth D", critic, 0.5, True),
        ("r1-fd, running statistics", critic, 0.5, False),
        ("r1-fd through a GRU", randomize(sequence.to(backend, np.float64), rng), 0.1, True),
    ):
        _, grads = penalties.r1_fd(D, real, rng=rng, train=train)
        last = list(D.params)[-1]
        free = not backend.to_numpy(grads[last]).any()
        yield fact(what, last, free, "the last bias gets a gradient, although it cancels in the difference")
        # Its numerical derivative is a rounding error of the logits, divided by s^2. So it is left out below.
        D = Sequential(
            *D.layers[:-1], Dense(len(D.layers[-1].params["w"]), 1, bias=False, rng=rng).to(backend, np.float64)
        )

        def penalty(D, s=s, train=train):
            return penalties.r1_fd(D, real, rng=np.random.default_rng(26), weight=3.0, std=s, train=train)

        yield from gradcheck.check_penalty(penalty, D, subject=what, **FEW)
        before, restore = bits(D), gradcheck.save_buffers(D)
        value = float(penalty(D)[0])
        yield fact(what, "statistics", bits(D) == before, "the penalty changes D's parameters or running statistics")
        counts = [int(b) for name, b in D.buffers.items() if name.endswith("draws")]
        restore()
        n = plain_normal(int(np.random.default_rng(26).integers(2**64, dtype=np.uint64)), np.arange(real.size))
        noisy, logits = real + backend.asarray(s * n.reshape(real.shape)), []
        for x in (noisy, real):
            restore()  # the same masks
            logits.append(backend.to_numpy(D.forward(x, train=train, track=False)[0]))
        expected = 3 * ((logits[0] - logits[1]) ** 2 / s**2).mean()
        yield compare(what, "value", "formula", value, expected, 1e-9)
        once = [int(b) for name, b in D.buffers.items() if name.endswith("draws")]
        yield fact(what, "draws", counts == once, "the counters of random numbers are not those after one pass")
        restore()


def flat_discriminators(backend, rng) -> Iterator[Row]:
    """Check WGAN-GP if D is constant around some or all samples.

    The gradient norm of such a sample is 0, and the derivative of the norm is defined as 0.
    """
    D = Sequential(Flatten(), Dense(4, 3, bias=False, rng=rng), ReLU(), Dense(3, 1, rng=rng))
    randomize(D.to(backend, np.float64), rng)
    D.params["1.w"][...] = abs(D.params["1.w"])
    sign = np.array([1.0, -1.0, 1.0]).reshape(3, 1, 1, 1)  # all hidden units are on, off, on in the three samples
    real, fake = (backend.asarray(sign * rng.uniform(0.5, 2, (3, 2, 2, 1))) for _ in range(2))
    value, _ = penalties.wgan_gp(D, real, fake, rng=np.random.default_rng(15), weight=7.0)
    norm = np.linalg.norm(backend.to_numpy(D.params["1.w"] @ D.params["3.w"]))
    expected = 7 * (2 * (norm - 1) ** 2 + 1) / 3
    yield compare("WGAN-GP, D flat at a sample", "value", "formula", float(value), expected, EXACT)
    yield from gradcheck.check_penalty(
        lambda D: penalties.named("wgan-gp", weight=7.0, rng=np.random.default_rng(15))(D, real, fake, None),
        D,
        subject="WGAN-GP, D flat at a sample",
        **FEW,
    )
    flat = Sequential(Flatten(), Dense(4, 1, rng=rng)).to(backend, np.float64)
    flat.params["1.w"][...] = 0
    value, grads = penalties.wgan_gp(flat, real, fake, rng=rng, weight=7.0)
    yield compare("WGAN-GP at zero norm", "value", "formula", float(value), 7.0, EXACT)
    zero = all(not backend.to_numpy(g).any() for g in grads.values())
    yield fact("WGAN-GP at zero norm", "gradients", zero, "a gradient is not 0")


def numeric_input_gradient(D, backend, x, h=1e-5) -> np.ndarray:
    """Compute d(sum of logits)/dx by central differences."""
    x = backend.to_numpy(x)
    g = np.zeros_like(x)
    for at in np.ndindex(x.shape[1:]):  # changes one pixel of all samples at once, because samples are independent
        step = np.zeros_like(x)
        step[:, *at] = h
        up, down = (backend.to_numpy(D.forward(backend.asarray(x + s), train=False)[0]) for s in (step, -step))
        g[:, *at] = (up - down)[:, 0] / (2 * h)
    return g
