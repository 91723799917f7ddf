"""The adversarial losses, computed from logits l (the discriminator's output before the sigmoid s(l)).

    loss, d_real, d_fake = losses.non_saturating.discriminator(real_logits, fake_logits)
    loss, d_fake         = losses.non_saturating.generator(fake_logits)

Each value is a mean over the batch and comes with its gradient with respect to the logits. From logits and not from
probabilities, because log(s(l)) = -softplus(-l) holds for every l, where s(l) itself rounds to 0 or 1 and loses the
gradient: float32 is exact at l = +-100 here.

`non_saturating` and `minimax` are those of Goodfellow et al. 2014 (section 3 and algorithm 1). Their discriminator
maximises log s(l_real) + log(1 - s(l_fake)); at the equilibrium, where it cannot tell and answers l = 0, its loss is
2 ln 2. `hinge` has no probabilities: it wants l_real above 1 and l_fake below -1.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from minigan import backends


@dataclass(frozen=True)
class Loss:
    """The two players' losses under one name, and their values where D cannot tell and answers every image with 0."""

    name: str
    discriminator: Callable
    generator: Callable
    undecided: tuple[float, float]


def sigmoid(l):
    """s(l) = 1 / (1 + exp(-l)), to the last digits also where it is tiny: only exp(-|l|) is ever taken."""
    xp = _xp(l)
    positive = l.real > 0
    e = xp.exp(xp.where(positive, -l, l))  # exp(-|l|)
    return xp.where(positive, 1, e) / (1 + e)


def mean_sigmoid(l):
    """The mean of s(l) over all logits: the mean probability "real", a 0-d array."""
    if gpu := _gpu(l):
        return gpu.mean_sigmoid(l)
    return sigmoid(l).mean()


def softplus(l):
    """log(1 + exp(l)) = max(l, 0) + log1p(exp(-|l|)); its derivative is sigmoid(l)."""
    xp = _xp(l)
    positive = l.real > 0
    return xp.where(positive, l, 0 * l) + xp.log1p(xp.exp(xp.where(positive, -l, l)))


def _discriminator(real_logits, fake_logits, smoothing=0.0):
    """mean softplus(-l_real) + mean softplus(l_fake): -log s(l_real) - log(1 - s(l_fake)).

    With one-sided label smoothing the real images' target is t = 1 - smoothing instead of 1 (Salimans et al. 2016,
    section 3.4): t softplus(-l) + (1 - t) softplus(l) = softplus(-l) + smoothing * l.
    """
    _expect_logits(real_logits=real_logits, fake_logits=fake_logits)
    if gpu := _gpu(real_logits):
        return gpu.discriminator_loss("softplus", real_logits, fake_logits, smoothing)
    loss = (softplus(-real_logits) + smoothing * real_logits).mean() + softplus(fake_logits).mean()
    d_real = (smoothing - sigmoid(-real_logits)) / real_logits.size
    d_fake = sigmoid(fake_logits) / fake_logits.size
    return loss, d_real, d_fake


def _non_saturating_generator(fake_logits):
    """mean softplus(-l_fake): the generator maximises log s(l_fake); its gradient is largest where D is sure."""
    _expect_logits(fake_logits=fake_logits)
    if gpu := _gpu(fake_logits):
        return gpu.generator_loss("softplus", fake_logits, -1, 1)
    return softplus(-fake_logits).mean(), -sigmoid(-fake_logits) / fake_logits.size


def _minimax_generator(fake_logits):
    """-mean softplus(l_fake): the generator minimises log(1 - s(l_fake)); its gradient vanishes where D is sure."""
    _expect_logits(fake_logits=fake_logits)
    if gpu := _gpu(fake_logits):
        return gpu.generator_loss("softplus", fake_logits, 1, -1)
    return -softplus(fake_logits).mean(), -sigmoid(fake_logits) / fake_logits.size


def _hinge_discriminator(real_logits, fake_logits):
    """mean max(0, 1 - l_real) + mean max(0, 1 + l_fake): what is told apart by a margin teaches nothing more.

    (Lim and Ye 2017; Miyato et al. 2018, equation 16. The generator's side is -mean l_fake.)
    """
    _expect_logits(real_logits=real_logits, fake_logits=fake_logits)
    if gpu := _gpu(real_logits):
        return gpu.discriminator_loss("hinge", real_logits, fake_logits)
    real_gap, fake_gap = 1 - real_logits, 1 + fake_logits
    real_open, fake_open = real_gap.real > 0, fake_gap.real > 0
    loss = (real_gap * real_open).mean() + (fake_gap * fake_open).mean()
    d_real = real_open * real_logits.dtype.type(-1 / real_logits.size)
    d_fake = fake_open * fake_logits.dtype.type(1 / fake_logits.size)
    return loss, d_real, d_fake


def _hinge_generator(fake_logits):
    """-mean l_fake."""
    _expect_logits(fake_logits=fake_logits)
    if gpu := _gpu(fake_logits):
        return gpu.generator_loss("linear", fake_logits, -1, 1)
    return -fake_logits.mean(), _xp(fake_logits).full_like(fake_logits, -1 / fake_logits.size)


non_saturating = Loss("non_saturating", _discriminator, _non_saturating_generator, (2 * math.log(2), math.log(2)))
minimax = Loss("minimax", _discriminator, _minimax_generator, (2 * math.log(2), -math.log(2)))
hinge = Loss("hinge", _hinge_discriminator, _hinge_generator, (2.0, 0.0))
LOSSES = {loss.name: loss for loss in (non_saturating, minimax, hinge)}


def cross_entropy(logits, labels):
    """-mean log p[label] with p = softmax(l): the loss of a classifier, and its gradient (p - one_hot(label)) / N.

    logits (N, classes), labels (N,) from 0 to classes - 1. The row's largest logit is taken off before exp, which
    changes no p and keeps exp from overflowing.
    """
    xp = _xp(logits)
    if logits.ndim != 2 or tuple(labels.shape) != (len(logits),):
        raise ValueError(
            f"expected logits (N, classes) and labels (N,), got {tuple(logits.shape)} and {tuple(labels.shape)}"
        )
    expect_labels(labels, logits.shape[1])
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - xp.log(xp.exp(shifted).sum(axis=1, keepdims=True))  # (N, classes)
    one_hot = labels[:, None] == xp.arange(logits.shape[1])
    return -(log_p * one_hot).sum() / len(logits), (xp.exp(log_p) - one_hot) / len(logits)


def expect_labels(labels, classes: int) -> None:
    """Raises ValueError for labels that are not whole numbers from 0 to classes - 1.

    Only arrays on the CPU are looked into: a GPU would have to stop for the answer, and its labels came from a CPU.
    """
    if not isinstance(labels, np.ndarray) or not labels.size:
        return
    if labels.dtype.kind not in "iu":
        raise ValueError(f"labels are whole numbers, got {labels.dtype}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise ValueError(f"labels go from 0 to {classes - 1}, got {low if low < 0 else high}")


def smoothed(loss: Loss, smoothing: float) -> Loss:
    """The same game with one-sided label smoothing: real images count as 1 - smoothing."""
    if not 0 <= smoothing < 0.5:
        raise ValueError(f"label smoothing is at least 0 and below 0.5, got {smoothing}")
    if loss.discriminator is not _discriminator:
        raise ValueError(f"label smoothing moves the targets 0 and 1, which {loss.name} does not have")
    return replace(loss, discriminator=partial(_discriminator, smoothing=smoothing))


def _xp(x):
    return backends.of(x).xp


def _gpu(logits):
    """The GPU backend where the logits live there, else None. It has each loss as one kernel: on a few hundred numbers
    an operation costs a GPU its launch, and the formulas here are a dozen operations."""
    backend = backends.of(logits)
    return backend if backend.NAME == "cupy" else None


def _expect_logits(**logits) -> None:
    """One logit a sample, (N, 1) or (N,): logits (N, 1, 1, 1) against labels (N,) would broadcast to (N, 1, 1, N)."""
    for name, l in logits.items():
        if l.size == 0 or l.shape not in ((l.size,), (l.size, 1)):
            raise ValueError(f"{name} are one number a sample, (N, 1), got {tuple(l.shape)}: end D with Dense(n, 1)")
