"""The adversarial losses, computed from logits l (the discriminator's output before the sigmoid s(l)).

    loss, d_real, d_fake = losses.non_saturating.discriminator(real_logits, fake_logits)
    loss, d_fake         = losses.non_saturating.generator(fake_logits)

Each value is a mean over the batch and comes with its gradient with respect to the logits.
Logits are used instead of probabilities because log(s(l)) = -softplus(-l) holds for every
l, whereas s(l) itself rounds to 0 or 1 and loses the gradient: float32 is exact at
l = +-100 here.

    loss             discriminator minimises                                  generator minimises
    non_saturating   mean softplus(-l_real) + mean softplus(l_fake)           mean softplus(-l_fake)
    minimax          the same                                                 -mean softplus(l_fake)
    hinge            mean max(0, 1 - l_real) + mean max(0, 1 + l_fake)        -mean l_fake

The backend computes each of them in one operation, because on a GPU every operation costs
its launch. `backends/numpy_backend.py` has the formulas.
"""

import copy
import math
from typing import Any

import numpy as np

from minigan import backends

Array = backends.Array


def sigmoid(l: Array) -> Array:
    """s(l) = 1 / (1 + exp(-l)), exact to the last digits also where it is tiny."""
    return backends.of(l).sigmoid(l)


def softplus(l: Array) -> Array:
    """log(1 + exp(l)), which never overflows. Its derivative is sigmoid(l)."""
    return backends.of(l).softplus(l)


class Loss:
    """What the two players minimise.

    `equilibrium` has the two losses at the equilibrium of the game, where D cannot tell real
    from fake and gives every image the logit 0.
    """

    name: str
    equilibrium: tuple[float, float]
    smoothing = 0.0  # one-sided label smoothing, see `smoothed`
    compares = False  # whether the generator's loss needs the real logits
    backend: backends.Backend | None = None  # None: the one that the logits belong to

    def to(self, backend: backends.Backend) -> "Loss":
        """The same loss, computed by this backend."""
        moved = copy.copy(self)
        moved.backend = backend
        return moved

    def discriminator(self, real_logits: Array, fake_logits: Array) -> tuple[Array, Array, Array]:
        """The discriminator's loss (a 0-d array), and the gradients of both logits (N, 1)."""
        raise NotImplementedError

    def generator(self, fake_logits: Array, real_logits: Array | None = None) -> tuple[Array, Array]:
        """The generator's loss (a 0-d array), and the gradient of the fake logits (N, 1).

        `real_logits` is for losses that compare real and fake (`compares`); those in this file
        ignore it.
        """
        raise NotImplementedError

    def _backend(self, **logits: Array) -> backends.Backend:
        """The backend for these logits. Raises ValueError unless they are (N, 1) or (N,).

        Logits (N, 1, 1, 1) against labels (N,) would broadcast to (N, 1, 1, N).
        """
        for name, l in logits.items():
            if l.size == 0 or l.shape not in ((l.size,), (l.size, 1)):
                raise ValueError(
                    f"{name} are one number a sample, (N, 1), got {tuple(l.shape)}: end D with Dense(n, 1)"
                )
        return self.backend or backends.of(next(iter(logits.values())))

    def __repr__(self) -> str:
        return f"<loss {self.name}>"


class NonSaturating(Loss):
    """-log s(l_real) - log(1 - s(l_fake)) for D and -log s(l_fake) for G, whose gradient is largest where D is sure.

    (Goodfellow et al. 2014, section 3.)
    """

    name = "non_saturating"
    equilibrium = 2 * math.log(2), math.log(2)

    def discriminator(self, real_logits, fake_logits):
        backend = self._backend(real_logits=real_logits, fake_logits=fake_logits)
        return backend.discriminator_loss("softplus", real_logits, fake_logits, self.smoothing)

    def generator(self, fake_logits, real_logits=None):
        return self._backend(fake_logits=fake_logits).generator_loss("softplus", fake_logits, sign=-1, weight=1)


class Minimax(Loss):
    """The same for D, and log(1 - s(l_fake)) for G, whose gradient vanishes where D is sure.

    (Goodfellow et al. 2014, algorithm 1.)
    """

    name = "minimax"
    equilibrium = 2 * math.log(2), -math.log(2)

    def discriminator(self, real_logits, fake_logits):
        backend = self._backend(real_logits=real_logits, fake_logits=fake_logits)
        return backend.discriminator_loss("softplus", real_logits, fake_logits, self.smoothing)

    def generator(self, fake_logits, real_logits=None):
        return self._backend(fake_logits=fake_logits).generator_loss("softplus", fake_logits, sign=1, weight=-1)


class Hinge(Loss):
    """max(0, 1 - l_real) + max(0, 1 + l_fake) for D and -l_fake for G.

    Samples that D separates by the margin 1 have no gradient. (Lim and Ye 2017; Miyato et al.
    2018, equations 16 and 17.)
    """

    name = "hinge"
    equilibrium = 2.0, 0.0

    def discriminator(self, real_logits, fake_logits):
        backend = self._backend(real_logits=real_logits, fake_logits=fake_logits)
        return backend.discriminator_loss("hinge", real_logits, fake_logits)

    def generator(self, fake_logits, real_logits=None):
        return self._backend(fake_logits=fake_logits).generator_loss("linear", fake_logits, sign=-1, weight=1)


non_saturating, minimax, hinge = NonSaturating(), Minimax(), Hinge()
LOSSES: dict[str, Loss] = {loss.name: loss for loss in (non_saturating, minimax, hinge)}


def smoothed(loss: Loss, smoothing: float) -> Loss:
    """The same game with one-sided label smoothing: the target of real images is t = 1 - smoothing instead of 1.

    t softplus(-l) + (1 - t) softplus(l) = softplus(-l) + smoothing * l (Salimans et al. 2016,
    section 3.4).
    """
    if not 0 <= smoothing < 0.5:
        raise ValueError(f"label smoothing is at least 0 and below 0.5, got {smoothing}")
    if not isinstance(loss, NonSaturating | Minimax):
        raise ValueError(f"label smoothing moves the targets 0 and 1, which {loss.name} does not have")
    moved = copy.copy(loss)
    moved.smoothing = smoothing
    return moved


def cross_entropy(logits: Array, labels: Array) -> tuple[Array, Array]:
    """-mean log p[label] with p = softmax(l): the loss of a classifier, and its gradient (p - one_hot(label)) / N.

    logits (N, classes), labels (N,) from 0 to classes - 1. The largest logit of each row is
    subtracted before exp, which changes no p and keeps exp from overflowing.
    """
    if logits.ndim != 2 or tuple(labels.shape) != (len(logits),):
        raise ValueError(
            f"expected logits (N, classes) and labels (N,), got {tuple(logits.shape)} and {tuple(labels.shape)}"
        )
    expect_labels(labels, logits.shape[1])
    backend = backends.of(logits)
    xp, N = backend.xp, backend.batch_sum(len(logits))
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - xp.log(xp.exp(shifted).sum(axis=1, keepdims=True))  # (N, classes)
    one_hot = labels[:, None] == xp.arange(logits.shape[1])
    return -backend.batch_sum((log_p * one_hot).sum()) / N, (xp.exp(log_p) - one_hot) / N


def expect_labels(labels: Any, classes: int) -> None:
    """Raises ValueError for labels that are not whole numbers from 0 to classes - 1.

    Only arrays on the CPU are checked. A GPU would have to stop for the answer, and its labels
    came from a CPU.
    """
    if not isinstance(labels, np.ndarray) or not labels.size:
        return
    if labels.dtype.kind not in "iu":
        raise ValueError(f"labels are whole numbers, got {labels.dtype}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise ValueError(f"labels go from 0 to {classes - 1}, got {low if low < 0 else high}")
