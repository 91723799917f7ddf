"""Dropout, with masks that do not depend on the backend."""

import numpy as np

from minigan.backends import GOLDEN, mix64
from minigan.layers.activations import Elementwise


class Dropout(Elementwise):
    """y = x * mask, mask = 0 with probability `rate`, else 1 / (1 - rate), so that the mean stays (Srivastava 2014).

    The mask is a hash of (key, draws, position), not a sequence: it is the same on every
    backend and for any number of threads, and a checkpoint keeps it by keeping two numbers.
    `rng` gives the key; every training pass counts one draw, in whichever player's step. The
    rate is rounded to a multiple of 1/65536.
    """

    def __init__(self, rate: float, *, rng):
        if not 0 <= rate < 1:
            raise ValueError(f"a dropout rate is at least 0 and below 1, got {rate}")
        key = rng.integers(2**64, dtype=np.uint64)
        super().__init__(buffers={"key": np.array(key), "draws": np.zeros((), np.uint64)})
        self.rate = rate

    def forward(self, x, train=True, track=True):
        threshold = min(round(65536 * self.rate), 65535)
        if not train or threshold == 0:
            return x, None
        stream = mix64(int(self.buffers["key"]) + GOLDEN * int(self.buffers["draws"]))
        self.buffers["draws"] += np.uint64(1)
        return self.backend.dropout(x, threshold, stream), (threshold, stream)

    def gradient(self, dy, cache):  # y = x * mask; the mask is computed again instead of kept
        return dy if cache is None else self.backend.dropout(dy, *cache)

    def __repr__(self) -> str:
        return f"Dropout({self.rate})"
