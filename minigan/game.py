"""Training steps of a GAN: noise -> G -> fakes -> D -> logits -> loss -> back through D -> back through G.

The parameters and running statistics of a network change only in its own step. In the other
network's step it normalises with the statistics of the current batch, and `track=False` leaves
the running statistics unchanged. The counters of dropout layers change with every draw, because
they are the state of a random number generator.

For labelled images, pass labels (N,). A discriminator step generates its fakes with the labels
of the real images, repeated in this order if there are more fakes than real images. A generator
step generates its fakes with the labels passed to it.
"""

from typing import Any

from minigan.backends import Array
from minigan.layers.base import Grads, add
from minigan.layers.sequential import Sequential
from minigan.losses import Loss, feature_matching
from minigan.optim import Optimizer
from minigan.penalties import Penalty, labels_for

Labels = Array | None
Report = dict[str, Array]  # 0-d arrays, by name


def discriminator_step(
    G: Sequential,
    D: Sequential,
    opt_d: Optimizer,
    real: Array,
    z: Array,
    loss: Loss,
    labels: Labels = None,
    penalty: Penalty | None = None,
) -> Report:
    """Update D once, with target 1 for real images and target 0 for G's fakes. The two gradients are added.

    real (N, H, W, C), z (M, noise). Returns a dictionary of 0-d arrays: `d_loss`, and `d_real`
    and `d_fake`, the mean probability "real" of each batch before the update. The gradient of a
    penalty is added to the same update, and its value is returned as `penalty`.
    """
    fake_labels = labels_for(G.backend, z, labels)  # (M,)
    fake = G.forward(z, track=False, labels=fake_labels)[0]  # (M, H, W, C); the cache is not needed
    real_logits, real_cache = D.forward(real, labels=labels)  # (N, 1)
    fake_logits, fake_cache = D.forward(fake, labels=fake_labels)  # (M, 1)
    d_loss, d_real_logits, d_fake_logits = loss.discriminator(real_logits, fake_logits)
    _, real_grads = D.backward(d_real_logits, real_cache, need_dx=False)
    _, fake_grads = D.backward(d_fake_logits, fake_cache, need_dx=False)
    d_grads, penalty_report = _add_penalty(add(real_grads, fake_grads), penalty, D, real, fake, labels)
    opt_d.step(d_grads)
    d_real, d_fake = loss.probabilities(real_logits, fake_logits)
    return {"d_loss": d_loss, "d_real": d_real, "d_fake": d_fake} | penalty_report


def generator_step(
    G: Sequential,
    D: Sequential,
    opt_g: Optimizer,
    z: Array,
    loss: Loss,
    labels: Labels = None,
    real: Array | None = None,
    matching: float = 0.0,
) -> Report:
    """Update G once, with the current D. D computes dx, but no gradients of its parameters.

    z (N, noise). Pass `real` (N, H, W, C), with the same labels, for a loss that compares real and
    fake logits, and for feature matching: `matching` is its share of G's loss, see `_match`.
    Returns a dictionary with `g_loss`, a 0-d array.
    """
    fake, fake_cache = G.forward(z, labels=labels)  # (N, H, W, C)
    logits, d_cache = D.forward(fake, track=False, labels=labels)  # (N, 1)
    real_logits = D.forward(real, track=False, labels=labels)[0] if loss.compares else None
    g_loss, d_logits = loss.generator(logits, real_logits)
    d_fake, _ = D.backward(d_logits, d_cache, need_grads=False)  # (N, H, W, C)
    g_loss, d_fake = _match(g_loss, d_fake, matching, D, real, fake, labels)
    _, grads = G.backward(d_fake, fake_cache, need_dx=False)
    opt_g.step(grads)
    return {"g_loss": g_loss}


def simultaneous_step(
    G: Sequential,
    D: Sequential,
    opt_d: Optimizer,
    opt_g: Optimizer,
    real: Array,
    z: Array,
    loss: Loss,
    labels: Labels = None,
    penalty: Penalty | None = None,
    matching: float = 0.0,
) -> Report:
    """Update D and G once, from one forward pass. The gradient of G is computed with D before its update.

    This costs one forward pass through each network less than a discriminator step followed by a
    generator step. TensorFlow's DCGAN tutorial trains in this way. Returns the values that
    `discriminator_step` and `generator_step` return.
    """
    fake_labels = labels_for(G.backend, z, labels)
    fake, g_cache = G.forward(z, labels=fake_labels)
    real_logits, real_cache = D.forward(real, labels=labels)
    fake_logits, fake_cache = D.forward(fake, labels=fake_labels)
    d_loss, d_real_logits, d_fake_logits = loss.discriminator(real_logits, fake_logits)
    g_loss, dg_fake_logits = loss.generator(fake_logits, real_logits)
    _, real_grads = D.backward(d_real_logits, real_cache, need_dx=False)
    _, fake_grads = D.backward(d_fake_logits, fake_cache, need_dx=False)
    dg_fake, _ = D.backward(dg_fake_logits, fake_cache, need_grads=False)
    g_loss, dg_fake = _match(g_loss, dg_fake, matching, D, real, fake, labels)
    _, g_grads = G.backward(dg_fake, g_cache, need_dx=False)
    d_grads, penalty_report = _add_penalty(add(real_grads, fake_grads), penalty, D, real, fake, labels)
    opt_d.step(d_grads)
    opt_g.step(g_grads)
    d_real, d_fake = loss.probabilities(real_logits, fake_logits)
    return {"d_loss": d_loss, "g_loss": g_loss, "d_real": d_real, "d_fake": d_fake} | penalty_report


def _add_penalty(
    grads: Grads, penalty: Penalty | None, D: Sequential, real: Array, fake: Array, labels: Labels
) -> tuple[Grads, Report]:
    """Return D's gradients plus those of the penalty, and {"penalty": value}, or {} without a penalty."""
    if penalty is None:
        return grads, {}
    value, penalty_grads = penalty(D, real, fake, labels)
    return add(grads, penalty_grads), {"penalty": value}


def _match(
    g_loss: Array, d_fake: Any, share: float, D: Sequential, real: Array | None, fake: Array, labels: Labels
) -> tuple[Array, Any]:
    """Mix feature matching into G's loss and the gradient of the fakes: (1 - share) * loss + share * matching.

    The features are the input of D's last layer (Salimans et al. 2016, section 3.1). A share of 1
    trains G with feature matching alone, as that paper does.
    """
    if not share:
        return g_loss, d_fake
    body = Sequential(*D.layers[:-1])
    features, cache = body.forward(fake, track=False, labels=labels_for(D.backend, fake, labels))  # (N, F)
    real_features, _ = body.forward(real, track=False, labels=labels)
    distance, d_features = feature_matching(features, real_features, D.backend)
    d_matching: Any = body.backward(d_features, cache, need_grads=False)[0]  # (N, H, W, C)
    return (1 - share) * g_loss + share * distance, (1 - share) * d_fake + share * d_matching
