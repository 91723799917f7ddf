"""Dropout with masks that are the same on every backend."""

import numpy as np

from minigan.backends import GOLDEN, Array, mix64
from minigan.layers.activations import Elementwise
from minigan.layers.base import Cache, Forward


class Dropout(Elementwise):
    """Dropout, y = x * mask with mask = 0 with probability `rate`, else 1 / (1 - rate) (Srivastava 2014).

    The factor 1 / (1 - rate) preserves the mean. The mask is computed as a hash of (key, draws,
    position) and not drawn from a sequential generator. It is therefore the same on every backend
    and for any number of threads, and a checkpoint restores it from two numbers. The key is drawn
    from `rng`. Every forward pass in training adds 1 to `draws`, also in the other network's step.
    The rate is rounded to a multiple of 1/65536.
    """

    def __init__(self, rate: float, *, rng: np.random.Generator):
        if not 0 <= rate < 1:
            raise ValueError(f"a dropout rate is at least 0 and below 1, got {rate}")
        key = rng.integers(2**64, dtype=np.uint64)
        super().__init__(buffers={"key": np.array(key), "draws": np.zeros((), np.uint64)})
        self.rate = rate

    def forward(self, x: Array, train: bool = True, track: bool = True) -> Forward:
        """Return y = x * mask and the cache (threshold, stream), or x and None if no unit is dropped."""
        threshold = min(round(65536 * self.rate), 65535)
        if not train or threshold == 0:
            return x, None
        stream = mix64(int(self.buffers["key"]) + GOLDEN * int(self.buffers["draws"]))
        self.buffers["draws"] += np.uint64(1)
        return self.backend.dropout(x, threshold, stream), (threshold, stream)

    def gradient(self, dy: Array, cache: Cache) -> Array:
        """Return dx = dy * mask. The mask is recomputed, so that it need not be stored."""
        return dy if cache is None else self.backend.dropout(dy, *cache)

    def __repr__(self) -> str:
        return f"Dropout({self.rate})"
