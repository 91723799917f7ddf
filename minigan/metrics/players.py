"""Measure the two networks of a training without changing them: D's answers, G's dead units, both gradients.

    with unchanged(G, D):
        d_gradient, g_gradient = gradient_norms(G, D, real, z, loss, labels)

The functions run the networks as a training step does, but update no running statistics
(`track=False`) and no weights. Dropout counts its draws in every pass; `unchanged` restores them.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from minigan.backends import Array
from minigan.layers import Concatenate, Layer, Sequential
from minigan.losses import Loss

DEAD = 1e-3  # a unit is dead if its value varies by less than this part of the largest value of its layer


@contextlib.contextmanager
def unchanged(*networks: Sequential) -> Iterator[None]:
    """A context at whose end the buffers of the networks are as at its start."""
    before = [{name: value.copy() for name, value in network.buffers.items()} for network in networks]
    try:
        yield
    finally:
        for network, buffers in zip(networks, before, strict=True):
            for name, value in network.buffers.items():
                value[...] = buffers[name]


def logits_of(D: Sequential, samples: Array, labels: Array | None, batch: int) -> np.ndarray:
    """Return D's logits (N // batch * batch,) of samples (N, ...), in batches of the size of the training.

    Layers such as batch norm depend on the batch. A D that judges several samples together returns
    fewer logits.
    """
    return D.backend.to_numpy(_in_batches(D, samples, labels, batch)).ravel().astype(np.float64)


def right_answers(train: np.ndarray, fakes: np.ndarray, held_out: np.ndarray | None = None) -> dict[str, float]:
    """Return the shares of training samples, fakes and held-out samples on whose side D is right.

    The arguments are logits. D takes a sample for real if its logit is above the middle between the
    mean logits of training samples and of fakes, because some losses give 0 no meaning. On the
    middle, half a sample is counted.
    """
    middle = (train.mean() + fakes.mean()) / 2
    real = {name: (of > middle) + 0.5 * (of == middle) for name, of in (("train", train), ("fakes", fakes))}
    found = {"d_right_train": float(real["train"].mean()), "d_right_fakes": 1 - float(real["fakes"].mean())}
    if held_out is not None:
        found["d_right_held_out"] = float(((held_out > middle) + 0.5 * (held_out == middle)).mean())
    return found


def draw_fakes(G: Sequential, z: Array, labels: Array | None, batch: int) -> Array:
    """Return fakes (N // batch * batch, ...) of noise z (N, ...) as D sees them: normalised with their batch."""
    return _in_batches(G, z, labels, batch)


def _in_batches(network: Sequential, x: Array, labels: Array | None, batch: int) -> Array:
    """Return the output of a network for whole batches of x (N, ...), as in a training step."""
    parts = [slice(i, i + batch) for i in range(0, len(x) // batch * batch, batch)]
    with network.backend.computing():
        outputs = [network.forward(x[p], track=False, labels=None if labels is None else labels[p])[0] for p in parts]
        return network.backend.xp.concatenate(outputs)


def gradient_norms(
    G: Sequential, D: Sequential, real: Array, z: Array, loss: Loss, labels: Array | None = None
) -> tuple[float, float]:
    """Return the Euclidean norms of the gradients of (D, G), for one batch of real samples and of noise.

    Both are computed with the current weights, and without a gradient penalty.
    """
    with D.backend.computing():
        fake, g_cache = G.forward(z, track=False, labels=labels)
        real_logits, real_cache = D.forward(real, track=False, labels=labels)
        fake_logits, fake_cache = D.forward(fake, track=False, labels=labels)
        _, d_real, d_fake = loss.discriminator(real_logits, fake_logits)
        _, dg_fake = loss.generator(fake_logits, real_logits)
        _, of_real = D.backward(d_real, real_cache, need_dx=False)
        _, of_fake = D.backward(d_fake, fake_cache, need_dx=False)
        dx, _ = D.backward(dg_fake, fake_cache, need_grads=False)
        _, of_g = G.backward(dx, g_cache, need_dx=False)
        d_square = sum((((d := of_real[name] + of_fake[name]) * d).sum() for name in of_real), D.backend.xp.zeros(()))
        g_square = sum(((d * d).sum() for d in of_g.values()), D.backend.xp.zeros(()))
    d_norm, g_norm = (float(np.sqrt(D.backend.to_numpy(square))) for square in (d_square, g_square))
    return d_norm, g_norm


def dead_units(G: Sequential, z: Array, labels: Array | None = None) -> float | None:
    """Return the share of hidden units of G whose value does not depend on the noise z (N, ...), or None without units.

    The hidden units are the inputs of all layers with weights, except the first. Layers after a block
    `Concatenate` see its input a second time, which counts once. A unit is one channel, at all its
    positions. It is dead if its value varies by less than DEAD times the largest value of its layer.
    """
    dead: list[np.ndarray] = []
    with G.backend.computing():
        _observe(G, z, labels, None, dead, [])
    return float(np.concatenate(dead).mean()) if dead else None


def _observe(
    network: Sequential,
    x: Array,
    labels: Array | None,
    new: np.ndarray | None,
    dead: list[np.ndarray],
    seen: list[Layer],
) -> tuple[Array, np.ndarray | None]:
    """Run x (N, ..., C) through a network. Append to `dead` whether each unit before a layer with weights is dead.

    `new` (C,) says which channels no layer with weights has seen, None that none of them has been seen. Returns the
    output and the same for its channels.
    """
    for layer in network.layers:
        if type(layer) is Sequential:
            x, new = _observe(layer, x, labels, new, dead, seen)
            continue
        if type(layer) is Concatenate:
            before = len(seen)
            f, of_f = _observe(layer.network, x, labels, new, dead, seen)
            of_x = np.zeros(x.shape[1], bool) if len(seen) > before else new
            parts = [np.ones(y.shape[1], bool) if of_y is None else of_y for y, of_y in ((f, of_f), (x, of_x))]
            x, new = network.backend.xp.concatenate([f, x], axis=1), np.concatenate(parts)
            continue
        if "w" in layer.params:
            if seen:
                dead.append(_constant(network.backend.to_numpy(x))[slice(None) if new is None else new])
            seen.append(layer)
            new = None
        given: dict[str, Any] = {"labels": labels} if layer.takes_labels else {}
        channels = x.shape[-1]
        x, _ = layer.forward(x, train=False, **given)
        if x.shape[-1] != channels:
            new = None
    return x, new


def _constant(x: np.ndarray) -> np.ndarray:
    """Return whether each channel of x (N, ..., C) is the same in all samples, bool (C,)."""
    spread = np.ptp(x, axis=0).reshape(-1, x.shape[-1]).max(axis=0)  # (C,)
    return spread <= DEAD * np.abs(x).max()
