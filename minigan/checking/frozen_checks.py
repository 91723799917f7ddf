"""Checks of frozen layers: they run in evaluation mode, pass gradients on, and no step changes a bit of them."""

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np

from minigan import losses, optim, penalties
from minigan.checking import gradcheck
from minigan.checking.derivatives import EXACT
from minigan.checking.gradcheck import randomize
from minigan.checking.rows import Row, compare, fact
from minigan.layers import (
    BatchNorm,
    Conv2d,
    ConvTranspose2d,
    Dense,
    Dropout,
    Flatten,
    Frozen,
    Layer,
    LeakyReLU,
    MultiDepth,
    Projection,
    ReLU,
    Reshape,
    Sequential,
    SpectralNorm,
    Tanh,
    fuse,
)

FEW: dict[str, Any] = {"coordinates": 2, "directions": 1}


def frozen_cases(backend, rng) -> Iterator[tuple[str, Layer, tuple, dict]]:
    """Yield (what, layer, shape of x, keyword arguments of forward) for frozen layers, and layers that contain them.

    The keyword arguments ask for the mode of training, which a frozen layer ignores.
    """
    labels = backend.asarray(np.array([2, 0, 1, 1]))
    mixed = Sequential(
        Dense(5, 4, rng=rng), BatchNorm(4, eps=1e-3), Tanh(), Dropout(0.4, rng=rng), Dense(4, 2, rng=rng)
    )
    yield "Frozen Conv2d", Frozen(Conv2d(2, 3, 3, pad=1, rng=rng)), (2, 4, 3, 2), {}
    yield "Frozen BatchNorm", Frozen(BatchNorm(4, eps=1e-3)), (5, 4), {}
    yield "Frozen network", Frozen(mixed), (4, 5), {}
    score = SpectralNorm(Projection(5, 3, rng=rng), rng=rng)
    yield "Frozen layer with labels", Frozen(score), (4, 5), {"labels": labels}
    first = Sequential(Frozen(Dense(5, 4, rng=rng)), Frozen(BatchNorm(4)), Tanh())
    second, third = Sequential(Dense(4, 3, rng=rng), Tanh()), Sequential(BatchNorm(3), Tanh())
    heads = [Sequential(Dense(n, 1, rng=rng)) for n in (4, 3, 3)]
    yield "MultiDepth", MultiDepth([first, second, third], heads), (4, 5), {}
    yield "MultiDepth with labels", projected(rng, 3), (4, 6, 5, 2), {"labels": labels}


def projected(rng, classes: int) -> MultiDepth:
    """Return frozen stages with heads, as in a projected discriminator: x (N, 6, 5, 2) -> logits (N, 1)."""
    stages = [
        Sequential(Frozen(Conv2d(2, 3, 3, stride=2, pad=1, bias=False, rng=rng)), Frozen(BatchNorm(3)), Frozen(Tanh())),
        Sequential(Frozen(Sequential(Conv2d(3, 2, 3, stride=2, pad=1, rng=rng), BatchNorm(2), LeakyReLU(0.1)))),
    ]
    last = [Projection(n, classes, rng=rng) if classes else Dense(n, 1, rng=rng) for n in (16, 8)]
    heads = [
        Sequential(
            Frozen(Conv2d(3, 3, 1, bias=False, rng=rng)),
            SpectralNorm(Conv2d(3, 4, 3, stride=2, pad=1, rng=rng), rng=rng),
            LeakyReLU(0.2),
            Flatten(),
            last[0],
        ),
        Sequential(Flatten(), last[1]),
    ]
    return MultiDepth(stages, heads)


# ---------------------------------------------------------------- fused


def foldable(rng) -> Iterator[tuple[str, Sequential, tuple]]:
    """Yield (what, network, shape of x) for networks of frozen layers that `fuse` merges."""
    image, row, stage = (2, 4, 3, 2), (4, 5), [Conv2d(2, 3, 3, pad=1, bias=False, rng=rng), BatchNorm(3, eps=1e-3)]
    yield "frozen Conv2d + BatchNorm + LeakyReLU", Sequential(*map(Frozen, (*stage, LeakyReLU(0.3)))), image
    yield "frozen Dense + BatchNorm", Sequential(Frozen(Dense(5, 3, rng=rng)), Frozen(BatchNorm(3))), row
    dense = Sequential(Dense(5, 3, rng=rng), BatchNorm(3), ReLU(), Frozen(Tanh()), Dense(3, 4, rng=rng), ReLU())
    yield "frozen network", Sequential(Frozen(dense)), row
    normed = SpectralNorm(Conv2d(2, 3, 3, pad=1, rng=rng), rng=rng)
    yield "frozen SpectralNorm + ReLU", Sequential(Frozen(normed), Frozen(ReLU())), image
    yield "frozen heads at two depths", Sequential(projected(rng, 0)), (3, 6, 5, 2)
    yield "all frozen at two depths", Sequential(Frozen(projected(rng, 0))), (3, 6, 5, 2)


def folded_equals_plain(backend) -> Iterator[Row]:
    """Check that fused frozen layers give the same results as the plain ones, to 1e-12, and keep their arrays.

    The results are y, dx, the gradients of what learns, and the second derivatives.
    """
    rng = np.random.default_rng(31)
    for what, plain, shape in foldable(rng):
        randomize(plain.to(backend, np.float64), rng)
        fused = fuse(plain)
        kept = all(getattr(fused, kind).keys() == getattr(plain, kind).keys() for kind in ("params", "buffers"))
        yield fact(what, "names", kept, "a parameter or buffer has another name")
        shared = all(fused.buffers[name] is value for name, value in plain.buffers.items())
        yield fact(what, "arrays", shared, "a buffer is a copy")
        yield fact(what, "merged", repr(fused).count(" + ") > 0, "no layers were merged")
        x, tx = (backend.asarray(rng.standard_normal(shape)) for _ in range(2))
        results = []
        for network in (plain, fused):
            draw = np.random.default_rng(18)
            y, cache = network.forward(x, track=False)
            dy, dty = (backend.asarray(draw.standard_normal(y.shape)) for _ in range(2))
            dx, grads = network.backward(dy, cache)
            ty, tangent_cache = network.tangent(tx, cache)
            second = network.tangent_backward(dy, dty, cache, tangent_cache)
            found = {"y": y, "dx": dx, "ty": ty, "tangent dx": second[0], "dtx": second[1]}
            found |= {f"d{name}": g for name, g in grads.items()}
            results.append({name: backend.to_numpy(a) for name, a in found.items()})
        for name, expected in results[0].items():
            yield compare(what, name, "plain layers", results[1][name], expected, 1e-12)
    yield from not_folded(backend, rng)


def not_folded(backend, rng) -> Iterator[Row]:
    """Check that a batch norm is folded only if both it and the layer before it are frozen, and only into some."""
    dense, deconv = Dense(4, 3, rng=rng), ConvTranspose2d(4, 3, 3, rng=rng)
    for what, layers in (
        ("a batch norm that learns", (Frozen(dense), BatchNorm(3))),
        ("a layer that learns", (dense, Frozen(BatchNorm(3)))),
        ("a transposed convolution", (Frozen(deconv), Frozen(BatchNorm(3)))),
        ("an activation that is not frozen", (Frozen(dense), LeakyReLU(0.2))),
        ("two frozen layers", (Frozen(dense), Frozen(Dropout(0.2, rng=rng)))),
    ):
        network = Sequential(*layers).to(backend)
        yield fact(f"not merged: {what}", "layers", fuse(network).layers == network.layers, "layers were merged")


# ---------------------------------------------------------------- steps


def frozen_discriminators(backend, rng) -> Iterator[tuple[str, Sequential, Any]]:
    """Yield (what, D, labels): discriminators for images (N, 6, 5, 2) with frozen parts."""
    features = [
        SpectralNorm(Conv2d(2, 3, 3, stride=2, pad=1, rng=rng), rng=rng),
        LeakyReLU(0.2),
        Dropout(0.3, rng=rng),
        Conv2d(3, 2, 3, stride=2, pad=1, bias=False, rng=rng),
        BatchNorm(2),
        Tanh(),
        Flatten(),
    ]
    tail = [Dense(8, 3, rng=rng), Tanh(), Dense(3, 1, rng=rng)]
    labels = backend.asarray(np.array([1, 0, 2, 1]))
    yield "first layers frozen", Sequential(*map(Frozen, features), *copy.deepcopy(tail)), None
    yield "projected", Sequential(projected(rng, 3)), labels
    yield "all frozen", Sequential(*map(Frozen, [*features, *tail])), None


def frozen_steps(backend) -> Iterator[Row]:
    """Check the gradients of whole steps with frozen parts of D, and that no step changes a bit of them."""
    rng = np.random.default_rng(32)
    for what, D, labels in frozen_discriminators(backend, rng):
        G = Sequential(Dense(3, 6, rng=rng), Tanh(), Dense(6, 60, rng=rng), Tanh(), Reshape(6, 5, 2))
        for network in (G, D):
            randomize(network.to(backend, np.float64), rng)
        for name, value in D.params.items():
            value *= 0.2 if name.endswith(".b") else 1  # so that the inputs of activations have both signs
        real, z = (backend.asarray(rng.standard_normal(shape)) for shape in ((4, 6, 5, 2), (4, 3)))
        for which, fused, penalty in (
            ("discriminator", False, penalties.named("r1", weight=3.0, rng=rng)),
            ("generator", True, None),
            ("simultaneous", True, None),
        ):
            players = (fuse(G), fuse(D)) if fused else (G, D)
            subject = f"{which} step, {what}" + ", fused" * fused
            how: dict[str, Any] = dict(labels=labels, penalty=penalty, subject=subject)
            D.refresh_buffers()  # the step before changed the weights of layers with spectral norm
            centre(D, G.forward(z)[0], labels)
            yield from gradcheck.check_step(which, *players, real, z, losses.non_saturating, **how | FEW)
            yield from unchanged(subject, which, players, real, z, labels, penalty)


def centre(D: Sequential, fake, labels) -> None:
    """Change the bias of the last layer, so that the logits of the fakes have both signs."""
    *_, bias = (value for name, value in (D.params or D.buffers).items() if name.endswith(".b"))
    bias -= np.median(D.backend.to_numpy(D.forward(fake, track=False, labels=labels)[0]))


def unchanged(subject: str, which: str, players: tuple, real, z, labels, penalty) -> Iterator[Row]:
    """Check that a step moves every parameter of its own player, and no other number of the discriminator."""
    G, D = players
    frozen = set(D.buffers) - {name for name in D.buffers if name.endswith((".u", ".v")) and ".head." in name}
    before = {name: D.backend.to_numpy(a).tobytes() for name, a in (D.params | D.buffers).items()}
    gradcheck.run_step(
        which, G, D, optim.SGD(G, lr=0.1), optim.SGD(D, lr=0.1), real, z, losses.non_saturating, labels, penalty
    )
    moved = {n for n, a in (D.params | D.buffers).items() if D.backend.to_numpy(a).tobytes() != before[n]}
    yield fact(subject, "frozen arrays", not moved & frozen, f"changed by mistake: {sorted(moved & frozen)}")
    learns = set() if which == "generator" else set(D.params)
    yield fact(subject, "learns", moved - frozen >= learns, f"not changed: {sorted(learns - moved)}")


def evaluation_mode(backend) -> Iterator[Row]:
    """Check that a frozen layer computes what the layer computes with train=False, whatever it is asked for."""
    rng = np.random.default_rng(33)
    for what, layer, shape, kwargs in frozen_cases(backend, rng):
        if not isinstance(layer, Frozen):
            continue
        randomize(layer.to(backend, np.float64), rng)
        x = backend.asarray(rng.standard_normal(shape))
        expected = backend.to_numpy(layer.layer.forward(x, train=False, **kwargs)[0])
        yield fact(what, "params", not layer.params and layer.n_params == 0, "a frozen layer has parameters")
        held = layer.layer.params | layer.layer.buffers
        same = layer.buffers.keys() == held.keys() and all(layer.buffers[n] is a for n, a in held.items())
        yield fact(what, "buffers", same, "the arrays of the layer are not its buffers")
        before = {n: backend.to_numpy(a).tobytes() for n, a in held.items()}
        for mode in ({}, {"track": False}, {"train": False}):
            y, cache = layer.forward(x, **mode, **kwargs)
            yield compare(what, f"y {mode or 'training'}", "evaluation", backend.to_numpy(y), expected, EXACT)
            dx, grads = layer.backward(backend.xp.ones_like(y), cache)
            yield fact(what, "gradients", grads == {} and dx is not None, "a frozen layer returns gradients, or no dx")
        kept = all(backend.to_numpy(a).tobytes() == before[n] for n, a in held.items())
        yield fact(what, "arrays", kept, "a pass changes a frozen array")


def frozen_parts(backend) -> Iterator[Row]:
    """Run all checks of frozen layers."""
    yield from evaluation_mode(backend)
    yield from folded_equals_plain(backend)
    yield from frozen_steps(backend)
