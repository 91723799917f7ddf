"""The game, one batch at a time: noise -> G -> fakes -> D -> logits -> loss -> back through D -> back through G.

A network's parameters and its batch statistics move in its own step only. In the other
player's step it computes with the statistics of the batch in hand, but `track=False` keeps
the running ones as they were. (Counters of dropout draws are random state, not knowledge:
they move with every draw.)

If the images have labels, labels (N,) go with them: the fakes of a discriminator step are
asked for with the labels of its real images, those of a generator step with their own.
"""

from minigan.layers.base import add
from minigan.losses import Loss
from minigan.penalties import Penalty


def discriminator_step(G, D, opt_d, real, z, loss: Loss, labels=None, penalty: Penalty | None = None) -> dict:
    """D learns to tell: real images towards 1, G's fakes towards 0; the two gradients add to one update.

    real (N, H, W, C), z (N, noise). Returns d_loss, and d_real and d_fake: the mean
    probability "real" before the update, as 0-d arrays. With a gradient penalty, its gradient
    adds to the same update, and its value is returned as `penalty`.
    """
    fake = G.forward(z, track=False, labels=labels)[0]  # (N, H, W, C); no cache is kept: nothing flows back into G
    real_logits, real_cache = D.forward(real, labels=labels)  # (N, 1)
    fake_logits, fake_cache = D.forward(fake, labels=labels)
    d_loss, d_real_logits, d_fake_logits = loss.discriminator(real_logits, fake_logits)
    _, real_grads = D.backward(d_real_logits, real_cache, need_dx=False)
    _, fake_grads = D.backward(d_fake_logits, fake_cache, need_dx=False)
    d_grads, penalised = _with_penalty(add(real_grads, fake_grads), penalty, D, real, fake, labels)
    opt_d.step(d_grads)
    mean_sigmoid = D.backend.mean_sigmoid
    return {"d_loss": d_loss, "d_real": mean_sigmoid(real_logits), "d_fake": mean_sigmoid(fake_logits)} | penalised


def generator_step(G, D, opt_g, z, loss: Loss, labels=None, real=None) -> dict:
    """G learns to deceive the D of this moment. D passes the gradient on and computes none of its own.

    z (N, noise). `real` (N, H, W, C) is for a loss that compares fake logits with real ones.
    Returns g_loss as a 0-d array.
    """
    fake, fake_cache = G.forward(z, labels=labels)  # (N, H, W, C)
    logits, d_cache = D.forward(fake, track=False, labels=labels)  # (N, 1)
    real_logits = None if real is None else D.forward(real, track=False, labels=labels)[0]
    g_loss, d_logits = loss.generator(logits, real_logits)
    d_fake, _ = D.backward(d_logits, d_cache, need_grads=False)  # (N, H, W, C)
    _, grads = G.backward(d_fake, fake_cache, need_dx=False)
    opt_g.step(grads)
    return {"g_loss": g_loss}


def simultaneous_step(G, D, opt_d, opt_g, real, z, loss: Loss, labels=None, penalty: Penalty | None = None) -> dict:
    """Both players learn from one pass: G's gradient comes from D as it was before D's update.

    Cheaper than the two steps in turn by one pass through each network; TensorFlow's DCGAN
    tutorial does it. Returns what the two steps return.
    """
    fake, g_cache = G.forward(z, labels=labels)
    real_logits, real_cache = D.forward(real, labels=labels)
    fake_logits, fake_cache = D.forward(fake, labels=labels)
    d_loss, d_real_logits, d_fake_logits = loss.discriminator(real_logits, fake_logits)
    g_loss, dg_fake_logits = loss.generator(fake_logits, real_logits)
    _, real_grads = D.backward(d_real_logits, real_cache, need_dx=False)
    _, fake_grads = D.backward(d_fake_logits, fake_cache, need_dx=False)
    d_fake, _ = D.backward(dg_fake_logits, fake_cache, need_grads=False)
    _, g_grads = G.backward(d_fake, g_cache, need_dx=False)
    d_grads, penalised = _with_penalty(add(real_grads, fake_grads), penalty, D, real, fake, labels)
    opt_d.step(d_grads)
    opt_g.step(g_grads)
    mean_sigmoid = D.backend.mean_sigmoid
    return {
        "d_loss": d_loss,
        "g_loss": g_loss,
        "d_real": mean_sigmoid(real_logits),
        "d_fake": mean_sigmoid(fake_logits),
    } | penalised


def _with_penalty(grads: dict, penalty: Penalty | None, D, real, fake, labels) -> tuple[dict, dict]:
    """D's gradients with those of the penalty, and {"penalty": its value}; without a penalty, {}."""
    if penalty is None:
        return grads, {}
    value, penalty_grads = penalty(D, real, fake, labels)
    return add(grads, penalty_grads), {"penalty": value}
