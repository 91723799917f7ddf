"""Adversarial losses, computed from logits l (the discriminator's output before the sigmoid s(l)).

    loss, d_real, d_fake = losses.non_saturating.discriminator(real_logits, fake_logits)
    loss, d_fake         = losses.non_saturating.generator(fake_logits, real_logits)

Each loss is a mean over the batch and is returned with its gradient with respect to the logits.
The losses take logits instead of probabilities, because s(l) rounds to 0 or 1 for large |l| and
the gradient is then lost. log(s(l)) = -softplus(-l) has no such limit: it is accurate in float32
at l = +-100.

    loss             discriminator minimises                                  generator minimises
    non_saturating   mean softplus(-l_real) + mean softplus(l_fake)           mean softplus(-l_fake)
    minimax          the same                                                 -mean softplus(l_fake)
    hinge            mean max(0, 1 - l_real) + mean max(0, 1 + l_fake)        -mean l_fake
    least_squares    mean (1 - l_real)^2 / 2 + mean (1 + l_fake)^2 / 2        mean (1 - l_fake)^2 / 2
    wasserstein      -mean l_real + mean l_fake                               -mean l_fake
    relativistic     mean softplus(l_fake - l_real)                           mean softplus(l_real - l_fake)
    r3gan            the same, trained with the penalties R1 and R2           the same

In all of them a larger logit means "real", and 0 means "cannot tell". The backend computes each
loss in one operation, because every operation on a GPU costs a kernel launch. The formulas are in
`backends/numpy_backend.py`.
"""

import copy
import math
from collections.abc import Mapping
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
    It is None if it is not known. `recipe` maps fields of Config to the values that the source of
    the loss trains with.
    """

    name: str
    equilibrium: tuple[float, float] | None
    compares = False  # whether each loss needs the logits of both batches, and pairs them
    relative = False  # whether adding a constant to all logits changes no loss of D
    has_targets = False  # whether the labels "real" and "fake" can be smoothed
    recipe: Mapping[str, Any] = {}
    smoothing = 0.0  # one-sided label smoothing, see `smoothed`
    real_share = 0.5  # see `weighted`
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

        Losses with `compares = True` also need `real_logits`. The others ignore it.
        """
        raise NotImplementedError

    def probabilities(self, real_logits: Array, fake_logits: Array) -> tuple[Array, Array]:
        """Return the mean probability "real" of each batch, s(l - centre), as two 0-d arrays.

        The centre is 0. If `relative`, only differences of logits have a meaning, and the centre is
        the middle between the means of both batches.
        """
        backend = self._backend(real_logits=real_logits, fake_logits=fake_logits)
        if self.relative:
            centre = (backend.batch_mean(real_logits) + backend.batch_mean(fake_logits)) / 2
            real_logits, fake_logits = real_logits - centre, fake_logits - centre
        return backend.mean_sigmoid(real_logits), backend.mean_sigmoid(fake_logits)

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


class Unpaired(Loss):
    """Base class of losses that are a sum over the logits: no term contains a real and a fake logit.

    With the function f named `kind`, D minimises mean f(-l_real) + mean f(l_fake), and G minimises
    weight * mean f(sign * l_fake), where (kind, sign, weight) is `generator_term`.
    """

    kind: str
    generator_term: tuple[str, int, int]
    smoothing_scale = 1  # f(l) - f(-l) = smoothing_scale * l, if the loss has targets

    def discriminator(self, real_logits: Array, fake_logits: Array) -> tuple[Array, Array, Array]:
        """Return (loss, d_real, d_fake), where loss = mean f(-l_real) + mean f(l_fake).

        Logits and gradients have the shape (N, 1) or (N,), and the two batches may differ in N:
        d_real = -f'(-l_real) / N and d_fake = f'(l_fake) / N. `smoothed` and `weighted` change the
        formula. Raises ValueError for logits of another shape.
        """
        backend = self._backend(real_logits=real_logits, fake_logits=fake_logits)
        weights = 2 * self.real_share, 2 * (1 - self.real_share)
        smoothing = self.smoothing * self.smoothing_scale
        return backend.discriminator_loss(self.kind, real_logits, fake_logits, smoothing, weights)

    def generator(self, fake_logits: Array, real_logits: Array | None = None) -> tuple[Array, Array]:
        """Return (loss, d_fake), where loss = weight * mean f(sign * l_fake)."""
        kind, sign, weight = self.generator_term
        return self._backend(fake_logits=fake_logits).generator_loss(kind, fake_logits, sign, weight)


class NonSaturating(Unpaired):
    """Non-saturating loss: -log s(l_real) - log(1 - s(l_fake)) for D and -log s(l_fake) for G.

    The gradient of G is largest where D is sure that an image is fake (Goodfellow et al. 2014,
    section 3).
    """

    name, kind, generator_term = "non_saturating", "softplus", ("softplus", -1, 1)
    equilibrium, has_targets = (2 * math.log(2), math.log(2)), True


class Minimax(Unpaired):
    """Minimax loss: -log s(l_real) - log(1 - s(l_fake)) for D and log(1 - s(l_fake)) for G.

    The gradient of G vanishes where D is sure that an image is fake (Goodfellow et al. 2014,
    algorithm 1).
    """

    name, kind, generator_term = "minimax", "softplus", ("softplus", 1, -1)
    equilibrium, has_targets = (2 * math.log(2), -math.log(2)), True


class Hinge(Unpaired):
    """Hinge loss: max(0, 1 - l_real) + max(0, 1 + l_fake) for D and -l_fake for G.

    In D's loss, samples with l_real >= 1 or l_fake <= -1 have no gradient (Lim and Ye 2017;
    Miyato et al. 2018, equations 16 and 17).
    """

    name, kind, generator_term = "hinge", "hinge", ("linear", -1, 1)
    equilibrium = 2.0, 0.0


class LeastSquares(Unpaired):
    """Least-squares loss: (1 - l_real)^2 / 2 + (1 + l_fake)^2 / 2 for D and (1 - l_fake)^2 / 2 for G.

    The gradient does not vanish for samples that D classifies well but that are far from their
    target. It is the loss of Mao et al. (2017, equation 9, with targets 1 for real and 0 for fake)
    for the output (1 + l) / 2, times 4, so that 0 means "cannot tell" as in the other losses.
    """

    name, kind, generator_term = "least_squares", "square", ("square", -1, 1)
    equilibrium, has_targets, smoothing_scale = (1.0, 0.5), True, 2


class Wasserstein(Unpaired):
    """Wasserstein loss: -l_real + l_fake for D and -l_fake for G (Arjovsky et al. 2017, algorithm 1).

    With a D of Lipschitz constant 1, the largest mean l_real - mean l_fake is the Wasserstein
    distance of the two distributions. A gradient penalty (Gulrajani et al. 2017) or spectral norm
    limits the constant. Without a limit, D's loss has no minimum.
    """

    name, kind, generator_term = "wasserstein", "linear", ("linear", -1, 1)
    equilibrium, relative, recipe = (0.0, 0.0), True, {"penalty": "wgan-gp"}


class Relativistic(Loss):
    """Relativistic pairing loss: softplus(l_fake - l_real) for D and softplus(l_real - l_fake) for G.

    The logits are compared in pairs: sample n of the real batch and sample n of the fakes. D
    learns that the real one has the larger logit, and G that the fake one has (Jolicoeur-Martineau
    2019, section 4.1). A generator that covers only some modes cannot win all pairs, which removes
    bad local minima (Sun et al. 2020). Huang et al. (2024) train this loss with R1 and R2.
    """

    equilibrium, compares, relative = (math.log(2), math.log(2)), True, True

    def __init__(self, name: str, recipe: Mapping[str, Any]):
        self.name, self.recipe = name, recipe

    def discriminator(self, real_logits: Array, fake_logits: Array) -> tuple[Array, Array, Array]:
        """Return (loss, d_real, d_fake), where loss = mean softplus(l_fake - l_real).

        Logits and gradients have the shape (N, 1) or (N,), the same for both batches:
        d_fake = s(l_fake - l_real) / N and d_real = -d_fake. Raises ValueError for other shapes.
        """
        loss, d_fake = self._pairs(fake_logits, real_logits, sign=1)
        return loss, -d_fake, d_fake

    def generator(self, fake_logits: Array, real_logits: Array | None = None) -> tuple[Array, Array]:
        """Return (loss, d_fake), where loss = mean softplus(l_real - l_fake) and d_fake = -s(l_real - l_fake) / N.

        Raises ValueError if `real_logits` is missing or of another shape.
        """
        if real_logits is None:
            raise ValueError(f"{self.name} compares with the real logits, got none: pass real= to the generator's step")
        return self._pairs(fake_logits, real_logits, sign=-1)

    def _pairs(self, fake_logits: Array, real_logits: Array, sign: int) -> tuple[Array, Array]:
        """Return mean softplus(sign * (l_fake - l_real)) and its gradient with respect to l_fake."""
        backend = self._backend(real_logits=real_logits, fake_logits=fake_logits)
        if real_logits.shape != fake_logits.shape:
            raise ValueError(
                f"{self.name} compares pairs, got {tuple(real_logits.shape)} real and {tuple(fake_logits.shape)} fake "
                "logits: use batches of the same size"
            )
        return backend.generator_loss("softplus", fake_logits - real_logits, sign, 1)


non_saturating, minimax, hinge = NonSaturating(), Minimax(), Hinge()
least_squares, wasserstein = LeastSquares(), Wasserstein()
relativistic = Relativistic("relativistic", {})
r3gan = Relativistic("r3gan", {"penalty": "r1+r2", "penalty_weight": 1.0})
LOSSES: dict[str, Loss] = {
    loss.name: loss for loss in (non_saturating, minimax, hinge, least_squares, wasserstein, relativistic, r3gan)
}


def smoothed(loss: Loss, smoothing: float) -> Loss:
    """Return the loss with one-sided label smoothing: the target of real images is t = 1 - smoothing instead of 1.

    The term of a real image is t f(-l) + (1 - t) f(l), which is f(-l) + smoothing * l for
    softplus and f(-l) + smoothing * 2 l for squares (Salimans et al. 2016, section 3.4). Raises
    ValueError if `smoothing` is out of range or the loss has no targets.
    """
    if not 0 <= smoothing < 0.5:
        raise ValueError(f"label smoothing is at least 0 and below 0.5, got {smoothing}")
    if not loss.has_targets:
        able = ", ".join(name for name, other in LOSSES.items() if other.has_targets)
        raise ValueError(f"label smoothing needs a loss with targets, got {loss.name}: use one of {able}")
    copied = copy.copy(loss)
    copied.smoothing = smoothing
    return copied


def weighted(loss: Loss, real_share: float) -> Loss:
    """Return the loss for a D that sees real images with the share r = `real_share`, and fakes with 1 - r.

    D minimises 2 r mean f(-l_real) + 2 (1 - r) mean f(l_fake), which is twice the mean over a
    batch with these shares. The best D of the non-saturating loss is then r p / (r p + (1 - r) q).
    Raises ValueError if the share is out of range, or if the loss compares pairs.
    """
    if not 0 < real_share < 1:
        raise ValueError(f"the share of real samples is above 0 and below 1, got {real_share}")
    if loss.compares:
        raise ValueError(f"{loss.name} pairs each real sample with a fake one, so their share is 0.5, got {real_share}")
    copied = copy.copy(loss)
    copied.real_share = real_share
    if real_share != 0.5:
        copied.equilibrium = None
    return copied


def feature_matching(fake: Array, real: Array, backend: backends.Backend | None = None) -> tuple[Array, Array]:
    """Return the distance |mean of fake - mean of real|^2 of features, and its gradient with respect to `fake`.

    fake (N, F) and real (M, F) are outputs of a layer of D, of any shape after the first axis. The
    gradient is 2 (mean of fake - mean of real) / N for every sample (Salimans et al. 2016, section
    3.1). Raises ValueError if the shapes differ.
    """
    if fake.shape[1:] != real.shape[1:]:
        raise ValueError(f"expected features of one shape, got {tuple(fake.shape)} and {tuple(real.shape)}")
    backend = backend or backends.of(fake)
    difference = backend.batch_mean(fake, 0) - backend.batch_mean(real, 0)  # (F,)
    gradient = 2 / backend.batch_sum(len(fake)) * difference  # (F,)
    return (difference * difference).sum(), backend.xp.zeros_like(fake) + gradient


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
