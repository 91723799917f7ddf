"""Adversarial losses, computed from logits l (the discriminator's output before the sigmoid s(l)).

    loss, d_real, d_fake = losses.non_saturating.discriminator(real_logits, fake_logits)
    loss, d_fake         = losses.non_saturating.generator(fake_logits)

Each loss is a mean over the batch and is returned with its gradient with respect to the logits.
The losses take logits instead of probabilities, because s(l) rounds to 0 or 1 for large |l| and
the gradient is then lost. log(s(l)) = -softplus(-l) has no such limit: it is accurate in float32
at l = +-100.

    loss             discriminator minimises                                  generator minimises
    non_saturating   mean softplus(-l_real) + mean softplus(l_fake)           mean softplus(-l_fake)
    minimax          the same                                                 -mean softplus(l_fake)
    hinge            mean max(0, 1 - l_real) + mean max(0, 1 + l_fake)        -mean l_fake

The backend computes each loss in one operation, because every operation on a GPU costs a kernel
launch. The formulas are in `backends/numpy_backend.py`.
"""

import copy
import math
from typing import Any

import numpy as np

from minigan import backends

Array = backends.Array


def sigmoid(l: Array) -> Array:
    """Return s(l) = 1 / (1 + exp(-l)), with full relative precision also for very negative l."""
    return backends.of(l).sigmoid(l)


def softplus(l: Array) -> Array:
    """Return log(1 + exp(l)), computed without overflow. The derivative is sigmoid(l)."""
    return backends.of(l).softplus(l)


class Loss:
    """Base class of adversarial losses.

    `equilibrium` is the pair (discriminator's loss, generator's loss) at the equilibrium of the
    game, where D cannot distinguish real from fake images and returns the logit 0 for every image.
    """

    name: str
    equilibrium: tuple[float, float]
    smoothing = 0.0  # one-sided label smoothing, see `smoothed`
    compares = False  # whether the generator's loss needs the real logits
    backend: backends.Backend | None = None  # None: the backend of the logits

    def to(self, backend: backends.Backend) -> "Loss":
        """Return a copy of the loss that is computed by the given backend."""
        copied = copy.copy(self)
        copied.backend = backend
        return copied

    def discriminator(self, real_logits: Array, fake_logits: Array) -> tuple[Array, Array, Array]:
        """Return the discriminator's loss (a 0-d array) and the gradients of the real and fake logits (N, 1)."""
        raise NotImplementedError

    def generator(self, fake_logits: Array, real_logits: Array | None = None) -> tuple[Array, Array]:
        """Return the generator's loss (a 0-d array) and the gradient of the fake logits (N, 1).

        Losses with `compares = True` also need `real_logits`. The losses in this module ignore it.
        """
        raise NotImplementedError

    def _backend(self, **logits: Array) -> backends.Backend:
        """Return the backend of these logits. Raises ValueError unless their shape is (N, 1) or (N,).

        Other shapes would broadcast: logits (N, 1, 1, 1) and labels (N,) give (N, 1, 1, N).
        """
        for name, l in logits.items():
            if l.size == 0 or l.shape not in ((l.size,), (l.size, 1)):
                raise ValueError(
                    f"{name} are one number per sample, (N, 1), got {tuple(l.shape)}: end D with Dense(n, 1)"
                )
        return self.backend or backends.of(next(iter(logits.values())))

    def __repr__(self) -> str:
        return f"<loss {self.name}>"


class NonSaturating(Loss):
    """Non-saturating loss: -log s(l_real) - log(1 - s(l_fake)) for D and -log s(l_fake) for G.

    The gradient of G is largest where D is sure that an image is fake (Goodfellow et al. 2014,
    section 3).
    """

    name = "non_saturating"
    equilibrium = 2 * math.log(2), math.log(2)

    def discriminator(self, real_logits: Array, fake_logits: Array) -> tuple[Array, Array, Array]:
        """Return (loss, d_real, d_fake), where loss = mean softplus(-l_real) + mean softplus(l_fake).

        Logits and gradients have the shape (N, 1) or (N,). d_real = (s(l_real) - 1) / N (without label smoothing) and
        d_fake = s(l_fake) / N. Raises ValueError for logits of another shape.
        """
        backend = self._backend(real_logits=real_logits, fake_logits=fake_logits)
        return backend.discriminator_loss("softplus", real_logits, fake_logits, self.smoothing)

    def generator(self, fake_logits: Array, real_logits: Array | None = None) -> tuple[Array, Array]:
        """Return (loss, d_fake), where loss = mean softplus(-l_fake) and d_fake = (s(l_fake) - 1) / N."""
        return self._backend(fake_logits=fake_logits).generator_loss("softplus", fake_logits, sign=-1, weight=1)


class Minimax(Loss):
    """Minimax loss: -log s(l_real) - log(1 - s(l_fake)) for D and log(1 - s(l_fake)) for G.

    The gradient of G vanishes where D is sure that an image is fake (Goodfellow et al. 2014,
    algorithm 1).
    """

    name = "minimax"
    equilibrium = 2 * math.log(2), -math.log(2)

    def discriminator(self, real_logits: Array, fake_logits: Array) -> tuple[Array, Array, Array]:
        """Return (loss, d_real, d_fake) of the same loss as in `NonSaturating`."""
        backend = self._backend(real_logits=real_logits, fake_logits=fake_logits)
        return backend.discriminator_loss("softplus", real_logits, fake_logits, self.smoothing)

    def generator(self, fake_logits: Array, real_logits: Array | None = None) -> tuple[Array, Array]:
        """Return (loss, d_fake), where loss = -mean softplus(l_fake) and d_fake = -s(l_fake) / N."""
        return self._backend(fake_logits=fake_logits).generator_loss("softplus", fake_logits, sign=1, weight=-1)


class Hinge(Loss):
    """Hinge loss: max(0, 1 - l_real) + max(0, 1 + l_fake) for D and -l_fake for G.

    In D's loss, samples with l_real >= 1 or l_fake <= -1 have no gradient (Lim and Ye 2017;
    Miyato et al. 2018, equations 16 and 17).
    """

    name = "hinge"
    equilibrium = 2.0, 0.0

    def discriminator(self, real_logits: Array, fake_logits: Array) -> tuple[Array, Array, Array]:
        """Return (loss, d_real, d_fake), where loss = mean max(0, 1 - l_real) + mean max(0, 1 + l_fake).

        Logits and gradients have the shape (N, 1) or (N,). d_real is -1/N where l_real < 1, and
        d_fake is 1/N where l_fake > -1; both are 0 elsewhere. Raises ValueError for logits of another shape.
        """
        backend = self._backend(real_logits=real_logits, fake_logits=fake_logits)
        return backend.discriminator_loss("hinge", real_logits, fake_logits)

    def generator(self, fake_logits: Array, real_logits: Array | None = None) -> tuple[Array, Array]:
        """Return (loss, d_fake), where loss = -mean l_fake and d_fake = -1/N."""
        return self._backend(fake_logits=fake_logits).generator_loss("linear", fake_logits, sign=-1, weight=1)


non_saturating, minimax, hinge = NonSaturating(), Minimax(), Hinge()
LOSSES: dict[str, Loss] = {loss.name: loss for loss in (non_saturating, minimax, hinge)}


def smoothed(loss: Loss, smoothing: float) -> Loss:
    """Return the loss with one-sided label smoothing: the target of real images is t = 1 - smoothing instead of 1.

    t softplus(-l) + (1 - t) softplus(l) = softplus(-l) + smoothing * l (Salimans et al. 2016,
    section 3.4). Raises ValueError if `smoothing` is out of range or the loss has no targets.
    """
    if not 0 <= smoothing < 0.5:
        raise ValueError(f"label smoothing is at least 0 and below 0.5, got {smoothing}")
    if not isinstance(loss, NonSaturating | Minimax):
        raise ValueError(f"label smoothing needs a loss with targets, got {loss.name}: use non_saturating or minimax")
    copied = copy.copy(loss)
    copied.smoothing = smoothing
    return copied


def cross_entropy(logits: Array, labels: Array) -> tuple[Array, Array]:
    """Return the classification loss -mean log p[label] with p = softmax(l), and its gradient (p - one_hot(label)) / N.

    logits (N, classes), labels (N,) from 0 to classes - 1. The largest logit of each row is
    subtracted before exp. This does not change p and prevents overflow. Raises ValueError for
    other shapes and for labels that are out of range.
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
    """Raise ValueError unless all labels are integers from 0 to classes - 1.

    Only arrays on the CPU are checked. Checking an array on a GPU would require a
    synchronisation, and its labels were copied from the CPU.
    """
    if not isinstance(labels, np.ndarray) or not labels.size:
        return
    if labels.dtype.kind not in "iu":
        raise ValueError(f"labels are whole numbers, got {labels.dtype}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise ValueError(f"labels go from 0 to {classes - 1}, got {low if low < 0 else high}")
