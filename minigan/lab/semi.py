"""Semi-supervised learning with a GAN: D classifies, and learns from few labels and many images without labels.

D has K logits l, one for each class. A further class "fake" has the logit 0, because a softmax does
not change when the same number is added to all logits. With Z = sum of exp l, the probability that
an image is real is Z / (Z + 1), so log Z is D's logit in the usual sense (Salimans et al. 2016,
section 5). D minimises the cross entropy of the labelled images plus

    0.5 * (mean softplus(-log Z(unlabelled)) + mean softplus(log Z(fake)))

and G minimises the feature matching of D's last hidden layer (section 3.1). Of a learner without a
GAN, D is trained with the cross entropy alone.

The noise on every layer of D is relative to numbers that have the variance 1 at the start: see
`initialise`. The weights of each hidden unit keep the length that they have then. That is weight
normalisation with a constant g (Salimans and Kingma 2016), written as a projection: it scales the
weights back after every step, which takes one pass over the weights instead of several in every
forward and backward pass.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minigan import backends, datasets, losses, optim
from minigan.backends import Array, Backend
from minigan.files import read_archive, write_archive
from minigan.lab.experiment import Row
from minigan.layers import (
    BatchNorm,
    Dense,
    GaussianNoise,
    Layer,
    ReLU,
    Sequential,
    Sigmoid,
    Softplus,
    fuse,
    normal,
)
from minigan.layers.base import Grads
from minigan.training import checkpoint

CLASSES, PIXELS, NOISE = 10, 784, 100
WIDTHS = (PIXELS, 1000, 500, 250, 250, 250)  # of D, without the logits
BATCH, LABELLED = 100, 50  # images of each kind in a step, and labelled ones
UNLABELLED_WEIGHT = 0.5
AVERAGED = 10  # steps between two updates of the moving average of D
DECAY = 0.95  # of the moving average, in every update
FORMAT = 1
SAVE_SECONDS = 30  # of training between two checkpoints


def networks(rng: np.random.Generator) -> tuple[Sequential, Sequential]:
    """Build G, noise (N, 100) -> images (N, 784) in [0, 1], and D, images -> logits (N, 10)."""
    layers: list[Layer] = [GaussianNoise(0.3, rng=rng)]
    for n_in, n_out in itertools.pairwise(WIDTHS):
        layers += [Dense(n_in, n_out, rng=rng, init=normal(0.1)), ReLU(), GaussianNoise(0.5, rng=rng)]
    D = Sequential(*layers, Dense(WIDTHS[-1], CLASSES, rng=rng, init=normal(0.1)))
    hidden = [Dense(NOISE, 500, bias=False, rng=rng), BatchNorm(500), Softplus()]
    hidden += [Dense(500, 500, bias=False, rng=rng), BatchNorm(500), Softplus()]
    return Sequential(*hidden, Dense(500, PIXELS, rng=rng), Sigmoid()), D


def initialise(D: Sequential, x: Array) -> None:
    """Scale and shift every Dense layer, so that each of its outputs for x (N, 784) has mean 0 and variance 1.

    (Salimans and Kingma 2016, section 3.)
    """
    for layer in D.layers:
        y, _ = layer.forward(x)
        if isinstance(layer, Dense):
            mean, std = y.mean(axis=0), y.std(axis=0) + 1e-6  # (n_out,)
            layer.params["w"] /= std
            layer.params["b"][...] = -mean / std
            y, _ = layer.forward(x)
        x = y


def lengths(w: Array) -> Array:
    """Return the length of the weights of each unit, (n_in, n_out) -> (n_out,)."""
    return backends.of(w).xp.einsum("ij,ij->j", w, w) ** 0.5


# ---------------------------------------------------------------- the losses of D


def log_sum_exp(logits: Array) -> tuple[Array, Array]:
    """Return log Z (N, 1) of logits (N, K), and its gradient with respect to them, softmax(l) (N, K)."""
    xp = backends.of(logits).xp
    highest = logits.max(axis=1, keepdims=True)  # subtracted, so that exp does not overflow
    e = xp.exp(logits - highest)
    Z = e.sum(axis=1, keepdims=True)
    return highest + xp.log(Z), e / Z


def real_or_fake(real: Array, fake: Array) -> tuple[Array, Array, Array]:
    """Return mean softplus(-log Z(real)) + mean softplus(log Z(fake)), and the gradients of both logits (N, K)."""
    (real_logit, of_real), (fake_logit, of_fake) = log_sum_exp(real), log_sum_exp(fake)
    loss, d_real, d_fake = losses.non_saturating.discriminator(real_logit, fake_logit)
    return loss, d_real * of_real, d_fake * of_fake


# ---------------------------------------------------------------- the training


@dataclass(frozen=True)
class Recipe:
    """What a learner does: steps, whether there is a GAN, and the learning rates of Adam.

    They fall linearly to 0 in the second half.
    """

    steps: int
    gan: bool = True
    lr_d: float = 1e-3
    lr_g: float = 1e-3


class Learner:
    """A training: the networks, the optimizers and the number of steps. The seed and the step decide all that is drawn.

    `images` (M, 28, 28, 1) uint8 are all that there are, and `chosen` (L,) are the indices of those
    with `labels` (L,).
    """

    def __init__(
        self,
        images: np.ndarray,
        chosen: np.ndarray,
        labels: np.ndarray,
        recipe: Recipe,
        seed: int,
        backend: Backend,
    ):
        self.recipe, self.seed, self.backend, self.step = recipe, seed, backend, 0
        self.G, self.D = networks(np.random.default_rng([seed, 0]))
        self.G.to(backend)
        self.D.to(backend)
        self.images = backend.asarray(images.reshape(len(images), -1))  # (M, 784)
        self.chosen, self.labels = backend.asarray(chosen), backend.asarray(labels)
        with backend.computing():
            initialise(self.D, self.batch(np.random.default_rng([seed, 1]).integers(len(images), size=500)))
        self.opt_g = optim.Adam(self.G, lr=recipe.lr_g, beta1=0.5)
        self.opt_d = optim.Adam(self.D, lr=recipe.lr_d, beta1=0.5)
        self.average = optim.MovingAverage(self.D, DECAY)
        self.players = fuse(self.G), fuse(self.D)
        self.hidden = [layer for layer in self.D.layers if isinstance(layer, Dense)][:-1]
        self.lengths = [lengths(layer.params["w"]) for layer in self.hidden]

    def batch(self, index: np.ndarray) -> Array:
        """Return the images (N, 784) of index (N,), scaled to [0, 1]."""
        return self.backend.gather(self.images, self.backend.asarray(index)) * 0.5 + 0.5

    def train_step(self) -> tuple[float, ...]:
        """Make one step of D and one of G. Returns the losses of D, on labelled and on other images, and of G."""
        rng = np.random.default_rng([self.seed, 2, self.step])
        rate = min(1.0, 2 * (1 - self.step / self.recipe.steps))
        self.opt_d.lr, self.opt_g.lr = self.recipe.lr_d * rate, self.recipe.lr_g * rate
        self.step += 1
        with self.backend.computing():
            found = self._together(rng) if self.recipe.gan else self._alone(rng)
            if self.step % AVERAGED == 0:
                self.average.update()
        return tuple(float(value) for value in found)

    def _alone(self, rng: np.random.Generator) -> tuple[Array, ...]:
        """Make a step of D with labelled images alone."""
        _, D = self.players
        few, labels = self._labelled(rng)
        logits, cache = D.forward(few)
        loss, d_logits = losses.cross_entropy(logits, labels)
        self._update(D.backward(d_logits, cache, need_dx=False)[1])
        return (loss,)

    def _together(self, rng: np.random.Generator) -> tuple[Array, ...]:
        """Make a step of D, and a step of G with the same fakes."""
        (G, D), backend = self.players, self.backend
        few, labels = self._labelled(rng)
        real = self.batch(rng.integers(len(self.images), size=BATCH))
        fake, fake_cache = G.forward(backend.asarray(rng.standard_normal((BATCH, NOISE), dtype=np.float32)))

        logits, cache = D.forward(backend.xp.concatenate([few, real, fake]))  # (LABELLED + 2 * BATCH, K)
        of_few, of_real, of_fake = logits[:LABELLED], logits[LABELLED:-BATCH], logits[-BATCH:]
        known, d_few = losses.cross_entropy(of_few, labels)
        other, d_real, d_fake = real_or_fake(of_real, of_fake)
        weight = UNLABELLED_WEIGHT
        d_logits = backend.xp.concatenate([d_few, weight * d_real, weight * d_fake])
        self._update(D.backward(d_logits, cache, need_dx=False)[1])

        body = Sequential(*D.layers[:-1])  # without the logits
        features, cache = body.forward(fake, train=False)  # without noise
        real_features, _ = body.forward(self.batch(rng.integers(len(self.images), size=BATCH)), train=False)
        matching, d_features = losses.feature_matching(features, real_features)
        d_fake, _ = body.backward(d_features, cache, need_grads=False)
        _, grads = G.backward(d_fake, fake_cache, need_dx=False)
        self.opt_g.step(grads)
        return known, other, matching

    def _labelled(self, rng: np.random.Generator) -> tuple[Array, Array]:
        """Draw labelled images (LABELLED, 784) with their labels (LABELLED,)."""
        drawn = self.backend.asarray(rng.integers(len(self.chosen), size=LABELLED))
        return self.batch(self.chosen[drawn]), self.labels[drawn]

    def _update(self, grads: Grads) -> None:
        """Update D, and scale the weights of each hidden unit back to their length."""
        self.opt_d.step(grads)
        for layer, length in zip(self.hidden, self.lengths, strict=True):
            w = layer.params["w"]
            w *= length / lengths(w)

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Return the classes (N,) that the moving average of D gives uint8 images (N, 28, 28, 1)."""
        D, found = fuse(self.average.network), []
        for i in range(0, len(images), 500):
            x = self.backend.asarray(datasets.scale(images[i : i + 500].reshape(-1, PIXELS)) * 0.5 + 0.5)
            with self.backend.computing():
                found.append(self.backend.to_numpy(D.forward(x, train=False)[0]).argmax(axis=1))
        return np.concatenate(found)

    # ---- checkpoints

    def save(self, path: Path, facts: dict) -> None:
        """Write the state, and facts that JSON can represent, to a file."""
        arrays = {name: self.backend.to_numpy(value) for name, value in checkpoint.tensors(self).items()}
        write_archive(path, arrays, {"format": FORMAT, "step": self.step} | facts)

    def load(self, path: Path) -> dict:
        """Restore the state from a file, and return the facts."""
        arrays, facts = read_archive(path, "the state of a learner", "start again")
        checkpoint.restore(path, arrays, checkpoint.tensors(self), self.backend.asarray)
        self.step = facts["step"]
        return facts


def train(
    row: Row, learner: Learner, moments: Sequence[float], measure: Callable[[Learner], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Train to the last step, or continue, and return what was measured at moments, which are parts of all steps.

    The state is stored in the folder of the row every SAVE_SECONDS, and at each moment.
    """
    path, steps = row.folder / "state.npz", learner.recipe.steps
    facts: dict[str, Any] = {"seconds": 0.0, "found": []}
    if path.exists():
        facts = learner.load(path)
    found, due = facts["found"], [round(moment * steps) for moment in moments]
    start = saved = time.perf_counter()
    start -= facts["seconds"]
    while learner.step < steps:
        row.log(*learner.train_step())
        row.progress(learner.step / steps)
        now = time.perf_counter()
        over = row.minutes is not None and now - start > 60 * row.minutes
        if learner.step in due or over:
            found.append({"step": learner.step, "seconds": round(now - start, 1)} | measure(learner))
        if now > saved + SAVE_SECONDS or learner.step in due:
            learner.save(path, {"seconds": now - start, "found": found})
            saved = time.perf_counter()
            start += saved - now  # the time of the measurement and of the file does not count
        if over:
            break
    return found
