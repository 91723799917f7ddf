"""Gradient penalties on the discriminator, with exact, hand-written weight gradients.

    value, grads = penalties.r1(D, real, weight=10.0)

    r1, r2     the square of the gradient of D at real samples, or at fakes
    wgan-gp    how far the length of the gradient is from 1, between real samples and fakes
    r1-fd      r1 by finite differences, for any layers: the others need second derivatives

A penalty R(g) is a function of g = dS/dx, the gradient of the sum S of the logits with respect to the input. Its
gradient with respect to the weights is a second derivative. With v = dR/dg held constant,

    dR/dw = d<v, g>/dw,   where <v, g> = <v, dS/dx> is the directional derivative of S along v.

`layer.tangent` pushes v forward through the linearised network. The result is an array whose sum is <v, g>.
`layer.tangent_backward` then computes the weight gradient of that sum. In the linearised network the biases vanish and
the slopes of leaky units are constant. The slopes of smooth activations and of batch norm depend on x, and each adds a
term. The cost is about that of one additional forward and backward pass.

With batch norm, the gradient of an image includes its effect on the logits of the other images. If batch norm comes
directly before the last layer, S does not depend on x, and the penalty is zero. Then use train=False or remove the
batch norm.

`r1_fd` needs no second derivatives, because its value is computed from logits only: those of real samples
and of the same samples with a little noise.

A penalty does not update the running statistics. The value is a 0-d array, and `grads` has the keys of `D.params`.
`named` returns a penalty as a function `penalty(D, real, fake, labels)`, which the steps of the game accept.
"""

from collections.abc import Callable

import numpy as np

from minigan.backends import Array, Backend
from minigan.errors import UserError
from minigan.layers.base import Cache, Grads, Layer, add
from minigan.layers.sequential import Sequential

Value = tuple[Array, Grads]  # (value, grads)
Penalty = Callable[[Sequential, Array, Array, Array | None], Value]  # of (D, real, fake, labels)
NAMES = ("r1", "r2", "r1+r2", "wgan-gp", "r1-fd")


def named(name: str, *, weight: float, rng: np.random.Generator) -> Penalty:
    """Return the penalty with the given name.

    `rng` draws the random points of wgan-gp and the noise of r1-fd, so a checkpoint must store its
    state. Raises UserError for an unknown name.
    """
    match name:
        case "r1":
            return lambda D, real, fake, labels: r1(D, real, weight=weight, labels=labels)
        case "r2":
            return lambda D, real, fake, labels: r2(D, fake, weight=weight, labels=labels)
        case "r1+r2":
            return lambda D, real, fake, labels: _sum(
                r1(D, real, weight=weight, labels=labels), r2(D, fake, weight=weight, labels=labels)
            )
        case "wgan-gp":
            return lambda D, real, fake, labels: wgan_gp(D, real, fake, rng=rng, weight=weight, labels=labels)
        case "r1-fd":
            return lambda D, real, fake, labels: r1_fd(D, real, rng=rng, weight=weight, labels=labels)
    raise UserError(f"a penalty is {', '.join(NAMES)}, got {name!r}")


def _sum(a: Value, b: Value) -> Value:
    """Add the values and the gradients of two penalties."""
    return a[0] + b[0], add(a[1], b[1])


def expect_possible(name: str, D: Layer) -> None:
    """Raise UserError unless D has the derivatives that the penalty with this name needs."""
    if name != "r1-fd":
        expect_second_derivatives(D)


def expect_second_derivatives(D: Layer) -> None:
    """Raise UserError, which names the layer, unless every layer of D has second derivatives."""
    for layer in D.inner():
        expect_second_derivatives(layer)
    if not D.inner() and type(D).tangent is Layer.tangent:
        raise UserError(
            f"a gradient penalty needs second derivatives, which {D!r} does not have: "
            f"choose the penalty r1-fd, which needs none, or give the layer `tangent` and `tangent_backward`"
        )


def r1(D: Sequential, real: Array, *, weight: float = 10.0, train: bool = True, labels: Array | None = None) -> Value:
    """Compute the R1 penalty weight/2 * mean |g_n|^2 on real images (N, H, W, C), and its gradients.

    It penalises the input gradient of D at the data (Mescheder et al. 2018, section 4.1).
    """
    g, cache = _input_gradient(D, real, train, labels)  # (N, H*W*C)
    N = D.backend.batch_sum(len(g))
    value = weight / 2 * D.backend.batch_mean(_square_norms(g))
    return value, _weight_gradient(D, cache, (weight / N * g).reshape(real.shape))


def r2(D: Sequential, fake: Array, *, weight: float = 10.0, train: bool = True, labels: Array | None = None) -> Value:
    """Compute the R2 penalty weight/2 * mean |g_n|^2 on fake images (N, H, W, C), and its gradients.

    It penalises the input gradient of D at the fakes (Mescheder et al. 2018, section 4.1).
    """
    return r1(D, fake, weight=weight, train=train, labels=labels_for(D.backend, fake, labels))


def labels_for(backend: Backend, x: Array, labels: Array | None) -> Array | None:
    """Return a label for each row of x: `labels`, repeated in this order or cut if there are more or fewer rows."""
    if labels is None or backend.batch_sum(len(labels)) == backend.batch_sum(len(x)):
        return labels
    labels, _ = backend.batch_gather(labels)
    return labels[(backend.batch_start(len(x)) + backend.xp.arange(len(x))) % len(labels)]


def wgan_gp(
    D: Sequential,
    real: Array,
    fake: Array,
    *,
    rng: np.random.Generator,
    weight: float = 10.0,
    train: bool = True,
    labels: Array | None = None,
) -> Value:
    """Compute the WGAN-GP penalty weight * mean (|g_n| - 1)^2, and its gradients (Gulrajani et al. 2017, algorithm 1).

    g_n is taken at a random point on the line between the real image n and the fake image n. If one batch is larger,
    its last images are not used. The norm is not differentiable at g_n = 0, and the derivative of sqrt is infinite
    there, which would give NaN. The subgradient 0 is used instead.
    """
    xp = D.backend.xp
    real, fake, labels = _pairs(D.backend, real, fake, labels)
    drawn = rng.random((D.backend.batch_sum(len(real)),) + (1,) * (real.ndim - 1))  # for the whole batch
    start = D.backend.batch_start(len(real))
    alpha = D.backend.asarray(drawn[start : start + len(real)], dtype=real.dtype)  # (N, 1, 1, 1)
    x = alpha * real + (1 - alpha) * fake
    g, cache = _input_gradient(D, x, train, labels)  # (N, H*W*C)
    norm = xp.sqrt(_square_norms(g))  # (N,)
    N = D.backend.batch_sum(len(g))
    value = weight * D.backend.batch_mean((norm - 1) ** 2)
    slope = 2 * weight / N * (norm - 1) / xp.where(norm > 0, norm, 1)  # (d value / d norm) / norm
    return value, _weight_gradient(D, cache, (slope[:, None] * g).reshape(x.shape))


def _pairs(backend: Backend, real: Array, fake: Array, labels: Array | None) -> tuple[Array, Array, Array | None]:
    """Return as many real images, with their labels, as fakes: without the last ones if one batch is larger."""
    if backend.batch_sum(len(real)) == backend.batch_sum(len(fake)):
        return real, fake, labels
    # The parts of two batches of unequal size, which several processes have, are not those of the pairs.
    (real, _), (fake, _) = backend.batch_gather(real), backend.batch_gather(fake)
    part = backend.batch_part(min(len(real), len(fake)))
    return real[part], fake[part], None if labels is None else backend.batch_gather(labels)[0][part]


def r1_fd(
    D: Sequential,
    real: Array,
    *,
    rng: np.random.Generator,
    weight: float = 10.0,
    std: float = 0.05,
    train: bool = True,
    labels: Array | None = None,
) -> Value:
    """Compute the penalty weight * mean (D(x + s n) - D(x))^2 / s^2 on real samples x, and its gradients.

    n is standard normal, and s is `std`. For a small s, the difference is s <n, g> with the gradient
    g of D at x, and the mean of <n, g>^2 over n is |g|^2. So this is twice R1 of the same weight, without
    second derivatives. A larger s also looks at D at some distance from the data.

    A 64-bit number drawn from `rng` decides n, as in `GaussianNoise`. Both passes have the same dropout
    masks and other random numbers, because the penalty would otherwise measure those.
    """
    n = D.backend.normal(real.shape, int(rng.integers(2**64, dtype=np.uint64)), real.dtype)
    draws = {name: b.copy() for name, b in D.buffers.items() if b.dtype.kind == "u"}  # counters of random numbers
    logits, cache = D.forward(real, train=train, track=False, labels=labels)  # (N, 1)
    for name, count in draws.items():
        D.buffers[name][...] = count
    noisy_logits, noisy_cache = D.forward(real + float(std) * n, train=train, track=False, labels=labels)
    difference, scale = noisy_logits - logits, weight / std**2
    value = scale * D.backend.batch_mean(difference * difference)
    d_difference = 2 * scale / D.backend.batch_sum(len(difference)) * difference
    _, noisy_grads = D.backward(d_difference, noisy_cache, need_dx=False)
    _, grads = D.backward(-d_difference, cache, need_dx=False)  # difference = noisy_logits - logits
    return value, add(noisy_grads, grads)


def _input_gradient(D: Sequential, x: Array, train: bool, labels: Array | None) -> tuple[Array, Cache]:
    """Return g = dS/dx, the input gradient of the sum S of all logits, and the cache of the forward pass.

    g has one row for each logit: with packing, several samples share a logit and have one gradient.
    """
    logits, cache = D.forward(x, train=train, track=False, labels=labels)  # (N, 1)
    g, _ = D.backward(D.backend.xp.ones_like(logits), cache, need_grads=False)
    assert g is not None
    return g.reshape(len(logits), -1), cache


def _weight_gradient(D: Sequential, cache: Cache, v: Array) -> Grads:
    """Return d<v, dS/dx>/dw for every weight w, with v (N, H, W, C) held constant."""
    tlogits, tangent_cache = D.tangent(v, cache)  # (N, 1), with the sum <v, g>
    _, _, grads = D.tangent_backward(None, D.backend.xp.ones_like(tlogits), cache, tangent_cache, need_dx=False)
    return grads


def _square_norms(g: Array) -> Array:
    """Return |g_n|^2 of each row of g (N, n), (N,)."""
    return (g * g).sum(axis=1)
