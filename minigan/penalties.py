"""Gradient penalties on the discriminator, with their exact weight gradients, by hand and without a tape.

    value, grads = penalties.r1(D, real, weight=10.0)

A penalty R(g) is a function of g = dS/dx, the gradient of the logits' sum S with respect to the input. Its weight
gradient is a second derivative. With v = dR/dg held fixed,

    dR/dw = d<v, g>/dw,   and <v, g> = <v, dS/dx> is how fast S moves when x moves along v:

so push v forward through the linearised network (`layer.tangent`), which ends in numbers whose sum is <v, g>, and run
the ordinary weight gradient back through that computation (`layer.tangent_backward`). In the linearised network the
biases have no part and the slopes of leaky units are frozen; smooth activations and batch norm have slopes that move
with x, and add a term each. The cost is about that of one more forward and backward pass.

With batch norm the gradient of each image includes what it does to the others' logits; where a batch norm stands right
before the last layer S does not depend on x at all, and the penalty is zero: take train=False there, or no batch norm.

A penalty leaves the running statistics as they are. The value is a 0-d array, `grads` has
the keys of `D.params`. `named` gives a penalty in the form that a step of the game takes:
`penalty(D, real, fake, labels)`.
"""

from collections.abc import Callable

import numpy as np

from minigan.backends import Array
from minigan.errors import UserError
from minigan.layers.base import Layer, add

Penalty = Callable[[Layer, Array, Array, Array | None], tuple[Array, dict]]  # (D, real, fake, labels) -> value, grads
NAMES = ("r1", "r2", "r1+r2", "wgan-gp")


def named(name: str, *, weight: float, rng: np.random.Generator) -> Penalty:
    """The penalty of that name. `rng` draws the random points of wgan-gp, which a checkpoint must keep."""
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
    raise UserError(f"a penalty is {', '.join(NAMES)}, got {name!r}")


def _sum(a: tuple[Array, dict], b: tuple[Array, dict]) -> tuple[Array, dict]:
    return a[0] + b[0], add(a[1], b[1])


def expect_second_derivatives(D: Layer) -> None:
    """Raises UserError, which names the layer, unless every layer of D has second derivatives."""
    for layer in D.inner():
        expect_second_derivatives(layer)
    if not D.inner() and type(D).tangent is Layer.tangent:
        raise UserError(
            f"a gradient penalty needs second derivatives, which {D!r} does not have: "
            f"train without a penalty, or give the layer `tangent` and `tangent_backward`"
        )


def r1(D, real, *, weight: float = 10.0, train: bool = True, labels=None):
    """weight/2 * mean |g_n|^2 on real images (N, H, W, C): D is to be flat where the data are (Mescheder et al. 2018,
    section 4.1)."""
    g, cache = _input_gradient(D, real, train, labels)  # (N, H, W, C)
    N = D.backend.batch_sum(len(g))
    value = weight / 2 * D.backend.batch_mean(_square_norms(g))
    return value, _weight_gradient(D, cache, weight / N * g)


def r2(D, fake, *, weight: float = 10.0, train: bool = True, labels=None):
    """The same on G's images: D is to be flat where the fakes are (Mescheder et al. 2018, section 4.1)."""
    return r1(D, fake, weight=weight, train=train, labels=labels)


def wgan_gp(D, real, fake, *, rng, weight: float = 10.0, train: bool = True, labels=None):
    """weight * mean (|g_n| - 1)^2 at random points between real and fake images, one point on the line of each pair.

    At g_n = 0 the norm has a kink, and sqrt's derivative there is infinite: the root of many a NaN. Of the slopes that
    the kink allows, 0 is taken. (Gulrajani et al. 2017, algorithm 1.)
    """
    xp = D.backend.xp
    share = D.backend.asarray(rng.random((len(real),) + (1,) * (real.ndim - 1)), dtype=real.dtype)  # (N, 1, 1, 1)
    x = share * real + (1 - share) * fake
    g, cache = _input_gradient(D, x, train, labels)  # (N, H, W, C)
    norm = xp.sqrt(_square_norms(g))  # (N,)
    N = D.backend.batch_sum(len(g))
    value = weight * D.backend.batch_mean((norm - 1) ** 2)
    slope = 2 * weight / N * (norm - 1) / xp.where(norm > 0, norm, 1)  # d value / d norm / norm; times g = 0 below
    return value, _weight_gradient(D, cache, slope.reshape(share.shape) * g)


def _input_gradient(D, x, train, labels):
    """g = dS/dx, the input gradient of the sum of all logits, and the cache of the forward pass."""
    logits, cache = D.forward(x, train=train, track=False, labels=labels)  # (N, 1)
    g, _ = D.backward(D.backend.xp.ones_like(logits), cache, need_grads=False)
    return g, cache


def _weight_gradient(D, cache, v):
    """d<v, dS/dx>/dw for every weight w, with v (N, H, W, C) held fixed."""
    tlogits, tangent_cache = D.tangent(v, cache)  # (N, 1), the sum of which is <v, g>
    _, _, grads = D.tangent_backward(None, D.backend.xp.ones_like(tlogits), cache, tangent_cache, need_dx=False)
    return grads


def _square_norms(g):
    """|g_n|^2 of each sample, (N,)."""
    return (g * g).reshape(len(g), -1).sum(axis=1)
