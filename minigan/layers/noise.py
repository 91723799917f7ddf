"""Gaussian noise that is the same on every backend."""

import math

import numpy as np

from minigan.backends import GOLDEN, Array, mix64
from minigan.layers.activations import Elementwise
from minigan.layers.base import Cache, Forward


class GaussianNoise(Elementwise):
    """Add Gaussian noise in training, y = x + std * n with n standard normal. Otherwise y = x.

    Noise on the inputs of D, whose std decreases to 0 during training, keeps the distributions of
    real and generated samples overlapping (Sonderby et al. 2017, section 3.1; Arjovsky and Bottou
    2017, section 3). `std` is a plain attribute and may be changed between steps. A std of 0 gives
    y = x and draws nothing.

    n is computed as a hash of (key, draws, position), as the masks of `Dropout` are: see
    `Backend.normal`. It is therefore the same on every backend, up to rounding, and for any
    number of threads, and a checkpoint restores it from the two buffers. The key is drawn from
    `rng`. Every forward pass in training adds 1 to `draws`, also in the other network's step.
    """

    def __init__(self, std: float, *, rng: np.random.Generator):
        if not 0 <= std < math.inf:
            raise ValueError(f"the std of noise is a finite number of at least 0, got {std}")
        key = rng.integers(2**64, dtype=np.uint64)
        super().__init__(buffers={"key": np.array(key), "draws": np.zeros((), np.uint64)})
        self.std = std

    def forward(self, x: Array, train: bool = True, track: bool = True) -> Forward:
        """Return y = x + std * n and no cache."""
        std = float(self.std)  # a NumPy number of float64 would convert y to float64
        if not train or std == 0:
            return x, None
        stream = mix64(int(self.buffers["key"]) + GOLDEN * int(self.buffers["draws"]))
        self.buffers["draws"] += np.uint64(1)
        return x + std * self.backend.normal(x.shape, stream, x.real.dtype), None

    def gradient(self, dy: Array, cache: Cache) -> Array:
        """Return dx = dy, because the noise does not depend on x."""
        return dy

    def __repr__(self) -> str:
        return f"GaussianNoise({self.std})"
