"""Mixtures of Gaussians in the plane: data with a known density, with which samples of a GAN can be compared.

    data = ring()                                    # eight small Gaussians on a circle
    x = data.sample(256, np.random.default_rng(0))   # (256, 2) float32
    p = data.density(x)                              # (256,): the true density at those points
    modes, share = data.coverage(x)                  # the number of modes covered, and the share of points near a mode

Points are arrays (N, 2), one point per row. Unlike images, they are stored as floats and are not limited to [-1, 1].
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from minigan.datasets.files import DataError


@dataclass(frozen=True, eq=False)  # eq=False, because == of arrays is elementwise
class Mixture:
    """A mixture of K Gaussians with equal weights and equal standard deviations.

    p(x) = mean over k of N(x; centres[k], std^2 I)
    """

    centres: np.ndarray  # (K, 2)
    std: float  # standard deviation in each of the two directions
    name: str = "mixture"

    def __post_init__(self):
        if self.centres.ndim != 2 or self.centres.shape[1] != 2 or len(self.centres) == 0:
            raise DataError(f"the centres of a mixture are (K, 2) with K at least 1, got {self.centres.shape}")
        if not 0 < self.std < math.inf:
            raise DataError(f"the std of a mixture is positive and finite, got {self.std}")

    def sample(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Draws points x (count, 2) float32."""
        return self.labelled(count, rng)[0]

    def labelled(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draws points x (count, 2) float32. Also returns the index (count,) of the Gaussian of each point."""
        k = rng.integers(len(self.centres), size=count)
        x = self.centres[k] + self.std * rng.standard_normal((count, 2))
        return x.astype(np.float32), k

    def density(self, x: np.ndarray) -> np.ndarray:
        """Returns p(x) (N,) for x (N, 2): the mean over k of exp(-|x - centres[k]|^2 / 2 std^2) / (2 pi std^2)."""
        squares = self._squares(x) / (2 * self.std**2)  # (N, K)
        return np.exp(-squares).mean(axis=1) / (2 * math.pi * self.std**2)

    def blurred(self, std: float) -> "Mixture":
        """Returns the mixture of the same points after adding Gaussian noise of this standard deviation."""
        return replace(self, std=math.hypot(self.std, std))

    def nearest(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the index (N,) of the nearest centre for x (N, 2), and the distance (N,) to it in units of std."""
        squares = self._squares(x)
        k = squares.argmin(axis=1)
        return k, np.sqrt(squares[np.arange(len(x)), k]) / self.std

    def coverage(self, x: np.ndarray, within: float = 3.0, least: float = 0.1) -> tuple[int, float]:
        """Returns (number of modes that the points x (N, 2) cover, share of points near a mode).

        A point is near a mode if it is within `within` std of the centre. For samples of the mixture itself, the share
        is 1 - exp(-within^2 / 2). A mode is covered if at least `least` * N / K points are near it, where N / K is the
        number with equal shares.
        """
        k, distance = self.nearest(x)
        near = np.bincount(k[distance <= within], minlength=len(self.centres))  # (K,)
        return int((near >= least * len(x) / len(self.centres)).sum()), float(near.sum() / len(x))

    def _squares(self, x: np.ndarray) -> np.ndarray:
        """Returns |x - centres[k]|^2 (N, K), in float64."""
        offsets = np.asarray(x, np.float64)[:, None, :] - self.centres  # (N, K, 2)
        return (offsets * offsets).sum(axis=2)


def ring(modes: int = 8, radius: float = 2.0, std: float = 0.1) -> Mixture:
    """Returns a mixture of Gaussians at equal distances on a circle, the first at (radius, 0).

    It is the common first test for mode collapse (Metz et al. 2017, section 3.1, with 8 modes of std 0.02).
    """
    angles = 2 * math.pi * np.arange(modes) / modes
    return Mixture(radius * np.stack([np.cos(angles), np.sin(angles)], axis=1), std, f"ring of {modes}")


def grid(side: int = 5, spacing: float = 1.0, std: float = 0.05) -> Mixture:
    """Returns a mixture of side x side Gaussians on a square grid centred on the origin."""
    line = spacing * (np.arange(side) - (side - 1) / 2)
    return Mixture(np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2), std, f"grid of {side * side}")
