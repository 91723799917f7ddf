"""Mixtures of Gaussians in the plane: data whose truth is known, to watch a GAN learn.

    data = ring()                                    # eight small Gaussians on a circle
    x = data.sample(256, np.random.default_rng(0))   # (256, 2) float32
    p = data.density(x)                              # (256,): the true density at those points
    modes, share = data.coverage(x)                  # on how many modes do the points lie, and which share of them?

Points are (N, 2), one a row; unlike images they are floats from the start, and not confined to [-1, 1].
"""

import math
from dataclasses import dataclass

import numpy as np

from minigan.datasets.files import DataError


@dataclass(frozen=True, eq=False)  # eq=False: arrays have no single truth value to compare by
class Mixture:
    """p(x) = mean over k of N(x; centres[k], std^2 I): one of the centres by chance, all alike, and noise about it."""

    centres: np.ndarray  # (K, 2)
    std: float  # of the noise, in each of the two directions
    name: str = "mixture"

    def __post_init__(self):
        if self.centres.ndim != 2 or self.centres.shape[1] != 2 or len(self.centres) == 0:
            raise DataError(f"the centres of a mixture are (K, 2) with K at least 1, got {self.centres.shape}")
        if not 0 < self.std < math.inf:
            raise DataError(f"the std of a mixture is positive and finite, got {self.std}")

    def sample(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """x (count, 2) float32."""
        return self.labelled(count, rng)[0]

    def labelled(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """x (count, 2) float32 and, for each point, the index (count,) of the centre from which it was drawn."""
        k = rng.integers(len(self.centres), size=count)
        x = self.centres[k] + self.std * rng.standard_normal((count, 2))
        return x.astype(np.float32), k

    def density(self, x: np.ndarray) -> np.ndarray:
        """p(x) (N,) for x (N, 2): mean over k of exp(-|x - centres[k]|^2 / 2 std^2) / (2 pi std^2)."""
        squares = self._squares(x) / (2 * self.std**2)  # (N, K)
        return np.exp(-squares).mean(axis=1) / (2 * math.pi * self.std**2)

    def nearest(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each x (N, 2) the index of the nearest centre, and the distance to it in units of std; both (N,)."""
        squares = self._squares(x)
        k = squares.argmin(axis=1)
        return k, np.sqrt(squares[np.arange(len(x)), k]) / self.std

    def coverage(self, x: np.ndarray, within: float = 3.0, least: float = 0.1) -> tuple[int, float]:
        """(modes, share): how many of the K modes the points x (N, 2) cover, and the share of points that lie well.

        A point lies well within `within` std of a centre (of the data itself, a share of 1 - exp(-within^2 / 2) does).
        A mode is covered if it has at least `least` times its fair number of them, N / K.
        """
        k, distance = self.nearest(x)
        good = np.bincount(k[distance <= within], minlength=len(self.centres))  # (K,)
        return int((good >= least * len(x) / len(self.centres)).sum()), float(good.sum() / len(x))

    def _squares(self, x: np.ndarray) -> np.ndarray:
        """|x - centres[k]|^2, (N, K), in float64."""
        offsets = np.asarray(x, np.float64)[:, None, :] - self.centres  # (N, K, 2)
        return (offsets * offsets).sum(axis=2)


def ring(modes: int = 8, radius: float = 2.0, std: float = 0.1) -> Mixture:
    """Gaussians in even steps on a circle, the first at (radius, 0): the usual first test for collapse to few modes
    (Metz et al. 2017, section 3.1, has 8 of std 0.02)."""
    angles = 2 * math.pi * np.arange(modes) / modes
    return Mixture(radius * np.stack([np.cos(angles), np.sin(angles)], axis=1), std, f"ring of {modes}")


def grid(side: int = 5, spacing: float = 1.0, std: float = 0.05) -> Mixture:
    """side x side Gaussians on a square grid about the origin."""
    line = spacing * (np.arange(side) - (side - 1) / 2)
    return Mixture(np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2), std, f"grid of {side * side}")
