"""What must be true of minigan, in checks small enough to run everywhere: `minigan gradcheck` runs them for a reader,
the tests for every change, and `planted` proves that they catch mistakes.

A check is a function of a backend that yields rows (see `gradcheck.Row`); CHECKS names them all. A gradient is compared
with numerical derivatives. That shows the backward pass to fit the forward pass, and no more: so the forward pass is
compared with plain loops or a closed formula, written here a second time and in another way.
"""

from collections.abc import Callable, Iterator

import numpy as np

from minigan import backends, layers, losses, optim
from minigan.checking import gradcheck
from minigan.checking.game_checks import (
    bits,
    expected_statistics,
    isolation,
    penalised_steps,
    penalty_gradients,
    preset_steps,
    small_game,
    smooth_critic,
    statistics,
    whole_steps,
)
from minigan.checking.layer_checks import (
    adjointness,
    batch_statistics,
    dropped_units,
    forward_values,
    fused_equals_plain,
    initial_weights,
    layer_cases,
    layer_contract,
    layer_gradients,
    plain_conv,
    plain_conv_transpose,
    second_derivative_contract,
)
from minigan.checking.loss_optim_checks import loss_values, moving_average, optimizer_steps
from minigan.checking.rows import Row, fact
from minigan.layers import BatchNorm, LayerNorm

__all__ = [
    "CHECKS",
    "bits",
    "expected_statistics",
    "layer_cases",
    "layers",
    "load",
    "plain_conv",
    "plain_conv_transpose",
    "report",
    "small_game",
    "smooth_critic",
    "statistics",
    "weak",
]


CHECKS: dict[str, Callable] = {
    "layer gradients": layer_gradients,
    "forward values": forward_values,
    "layer contract": layer_contract,
    "fused layers": fused_equals_plain,
    "second derivatives": second_derivative_contract,
    "adjointness": adjointness,
    "batch statistics": batch_statistics,
    "dropout": dropped_units,
    "initial weights": initial_weights,
    "losses": loss_values,
    "optimizers": optimizer_steps,
    "moving average": moving_average,
    "whole steps": whole_steps,
    "penalised steps": penalised_steps,
    "isolation": isolation,
    "penalties": penalty_gradients,
}


def report(backend, only: Callable[[str], bool] = lambda name: True) -> list[Row]:
    """All rows of all checks on that backend, and of the whole steps of every preset."""
    checks = {**CHECKS, "presets": preset_steps}
    return [row for name, check in checks.items() if only(name) for row in check(backend)]


def load(name: str):
    """The backend of that name on one thread, because the arrays are small.

    It is loaded here so that `planted` gets that of its own copy of minigan.
    """
    return backends.load(name, threads=1)


def weak(backend) -> Iterator[Row]:
    """For comparison: what from-scratch projects usually test with. Freshly initialised layers, the gradient of sum(y)
    (a cotangent of ones), a tolerance of 0.1, the losses likewise, and one step of each player that gives numbers."""
    rng = np.random.default_rng(16)
    for what, layer, shape, how in layer_cases(backend, rng):
        if isinstance(layer, BatchNorm | LayerNorm):
            layer = type(layer)(layer.channels, eps=layer.eps).to(backend, np.float64)
        x = rng.standard_normal(shape)
        yield from gradcheck.check_layer(
            layer, x, **how, cotangent=lambda rng, shape: np.ones(shape), tolerance=0.1, subject=what, coordinates=12
        )
        y, _ = layer.forward(backend.asarray(x), **how)
        yield fact(what, "y", bool(np.isfinite(backend.to_numpy(y)).all()), "not finite")
    for loss in losses.LOSSES.values():
        yield from gradcheck.check_loss(loss, rng.standard_normal((5, 1)), rng.standard_normal((5, 1)), tolerance=0.1)
    G, D, real, z = small_game(backend, rng)
    opt_g, opt_d = optim.Adam(G, lr=1e-3), optim.Adam(D, lr=1e-3)
    for which in ("discriminator", "generator", "simultaneous"):
        result = gradcheck.run_step(which, G, D, opt_g, opt_d, real[: len(z)], z, losses.non_saturating)
        yield fact(f"{which} step", "losses", all(np.isfinite(float(v)) for v in result.values()), "not finite")
