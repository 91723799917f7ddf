"""How fresh weights are drawn: each function takes (rng, shape, fan_in, fan_out) and gives float32 weights.

fan_in is the number of inputs that one output adds up, fan_out the number of outputs that
one input goes to.
"""

import math
from collections.abc import Callable

import numpy as np

Init = Callable[[np.random.Generator, tuple[int, ...], int, int], np.ndarray]


def normal(std: float) -> Init:
    """Weights from N(0, std^2); DCGAN takes std = 0.02 (Radford et al. 2016, section 3)."""
    return lambda rng, shape, fan_in, fan_out: std * rng.standard_normal(shape, dtype=np.float32)


def glorot_uniform(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int) -> np.ndarray:
    """Weights from U(-a, a), a = sqrt(6 / (fan_in + fan_out)): keeps the variance of signals and of gradients about
    the same from layer to layer (Glorot and Bengio 2010, section 4.2)."""
    a = math.sqrt(6 / (fan_in + fan_out))
    return rng.uniform(-a, a, shape).astype(np.float32)


def he_normal(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int) -> np.ndarray:
    """Weights from N(0, 2 / fan_in): the same for ReLU, which halves the signal (He et al. 2015, section 2.2)."""
    return math.sqrt(2 / fan_in) * rng.standard_normal(shape, dtype=np.float32)
