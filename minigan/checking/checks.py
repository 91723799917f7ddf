"""The checks of minigan's own layers, losses, optimizers and training steps.

`minigan gradcheck` and the tests run them, and `planted` shows that they catch mistakes. They are small enough to run
on any machine.

A check is a function that takes a backend and yields rows (see `gradcheck.Row`). CHECKS lists all checks by name. Each
gradient is compared with numerical derivatives. This comparison only shows that the backward pass agrees with the
forward pass. The forward pass is therefore compared with an independent implementation: plain loops or a closed
formula.
"""

from collections.abc import Callable, Iterator

import numpy as np

from minigan import backends, layers, losses, optim
from minigan.checking import gradcheck
from minigan.checking.frozen_checks import frozen_parts
from minigan.checking.game_checks import (
    bits,
    expected_statistics,
    isolation,
    penalised_steps,
    preset_steps,
    small_game,
    statistics,
    whole_steps,
)
from minigan.checking.layer_checks import (
    CASES,
    adjointness,
    batch_statistics,
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
from minigan.checking.penalty_checks import penalty_gradients, smooth_critic
from minigan.checking.random_checks import added_noise, dropped_units
from minigan.checking.rank_checks import same_steps
from minigan.checking.rows import Row, fact
from minigan.checking.sequence_checks import sequences
from minigan.checking.table_checks import drawn_categories
from minigan.layers import BatchNorm, LayerNorm, WeightNorm

__all__ = [
    "CASES",
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
    "frozen layers": frozen_parts,
    "adjointness": adjointness,
    "batch statistics": batch_statistics,
    "dropout": dropped_units,
    "noise": added_noise,
    "categories": drawn_categories,
    "sequences": sequences,
    "initial weights": initial_weights,
    "losses": loss_values,
    "optimizers": optimizer_steps,
    "moving average": moving_average,
    "whole steps": whole_steps,
    "penalised steps": penalised_steps,
    "isolation": isolation,
    "penalties": penalty_gradients,
    "ranks": same_steps,
}


def report(backend, only: Callable[[str], bool] = lambda name: True) -> list[Row]:
    """Return the rows of all checks on the backend, including whole steps of every preset.

    `only` selects the checks by name; "presets" is the name of the whole steps of the presets.
    """
    checks = {**CHECKS, "presets": preset_steps}
    return [row for name, check in checks.items() if only(name) for row in check(backend)]


def load(name: str):
    """Load the backend of that name with one thread, because the arrays are small.

    `planted` calls this function in its own copy of minigan, so that it gets the backend of that copy.
    """
    return backends.load(name, threads=1)


def weak(backend) -> Iterator[Row]:
    """Run the weak checks that from-scratch projects usually have; `planted` compares them with CHECKS.

    They check freshly initialised layers with the gradient of sum(y) (a cotangent of ones) and a tolerance of 0.1. They
    check the losses with the same tolerance, and that one step of each kind returns finite losses.
    """
    rng = np.random.default_rng(16)
    for what, layer, shape, kwargs in layer_cases(backend, rng):
        if isinstance(layer, BatchNorm | LayerNorm):
            layer = type(layer)(layer.channels, eps=layer.eps).to(backend, np.float64)
        if isinstance(layer, WeightNorm):
            layer.params["g"][...] = layer.lengths(layer.params["v"]).reshape(-1)  # as in a new layer
        x = rng.standard_normal(shape)
        yield from gradcheck.check_layer(
            layer, x, **kwargs, cotangent=lambda rng, shape: np.ones(shape), tolerance=0.1, subject=what, coordinates=12
        )
        y, _ = layer.forward(backend.asarray(x), **kwargs)
        yield fact(what, "y", bool(np.isfinite(backend.to_numpy(y)).all()), "not finite")
    for loss in losses.LOSSES.values():
        yield from gradcheck.check_loss(loss, rng.standard_normal((5, 1)), rng.standard_normal((5, 1)), tolerance=0.1)
    G, D, real, z = small_game(backend, rng)
    opt_g, opt_d = optim.Adam(G, lr=1e-3), optim.Adam(D, lr=1e-3)
    for which in ("discriminator", "generator", "simultaneous"):
        result = gradcheck.run_step(which, G, D, opt_g, opt_d, real[: len(z)], z, losses.non_saturating)
        yield fact(f"{which} step", "losses", all(np.isfinite(float(v)) for v in result.values()), "not finite")
