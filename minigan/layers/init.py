"""Initialisers for weights: functions of (rng, shape, fan_in, fan_out) that return float32 arrays.

fan_in is the number of inputs that contribute to one output. fan_out is the number of outputs
to which one input contributes.
"""

import math
from collections.abc import Callable

import numpy as np

Init = Callable[[np.random.Generator, tuple[int, ...], int, int], np.ndarray]


def normal(std: float) -> Init:
    """Return an initialiser that draws weights from N(0, std^2).

    DCGAN uses std = 0.02 (Radford et al. 2016, section 3).
    """
    return lambda rng, shape, fan_in, fan_out: std * rng.standard_normal(shape, dtype=np.float32)


def glorot_uniform(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int) -> np.ndarray:
    """Draw weights from U(-a, a) with a = sqrt(6 / (fan_in + fan_out)).

    With this bound, the variances of activations and of gradients are about the same in every
    layer (Glorot and Bengio 2010, section 4.2).
    """
    a = math.sqrt(6 / (fan_in + fan_out))
    return rng.uniform(-a, a, shape).astype(np.float32)


def he_normal(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int) -> np.ndarray:
    """Draw weights from N(0, 2 / fan_in).

    The factor 2 keeps the variance of activations about the same in every layer of a network with
    ReLU, because ReLU halves the mean square of a signal (He et al. 2015, section 2.2).
    """
    return math.sqrt(2 / fan_in) * rng.standard_normal(shape, dtype=np.float32)
