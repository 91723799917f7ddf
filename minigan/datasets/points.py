"""Points drawn from a mixture of Gaussians in the plane: data whose truth is known, and that train in seconds."""

import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from minigan.backends import Array, Backend
from minigan.datasets.data import Kind, checksums
from minigan.datasets.files import DataError
from minigan.datasets.mixtures import Mixture, grid, ring
from minigan.files import write_array, write_atomically
from minigan.options import check, option

MIXTURES = {"ring": ring(), "grid": grid()}


@dataclass(frozen=True)
class PointsOptions:
    """The options of data of the kind points."""

    points: int = option(
        20_000, help="points: how many are drawn from the mixture (default {default})", low=2, metavar="N"
    )

    def __post_init__(self):
        check(self)


@dataclass(frozen=True, eq=False)
class Points:
    """N points in the plane; a point's label is the mode from which it was drawn."""

    points: np.ndarray  # (N, 2) float32
    labels: np.ndarray  # (N,) int64
    mixture: str  # a name of MIXTURES
    placed: Array | None = None  # the points on a backend, for `batch`

    kind = "points"
    held_out = None

    @property
    def name(self) -> str:
        return self.mixture

    def __len__(self) -> int:
        return len(self.points)

    @property
    def sample_shape(self) -> tuple[int, int]:
        return self.points.shape[1:]

    @property
    def class_names(self) -> list[str]:
        return [str(mode) for mode in range(len(MIXTURES[self.mixture].centres))]

    @property
    def codec(self) -> "PointsCodec":
        return PointsCodec(self.mixture)

    def to(self, backend: Backend) -> "Points":
        return replace(self, placed=backend.asarray(self.points))

    def batch(self, index: Array) -> Array:
        """Points (N, 2), as they are: they are about as large as 1 already."""
        return (self.points if self.placed is None else self.placed)[index]

    def fingerprint(self) -> dict:
        return checksums(self.points, self.labels)


@dataclass(frozen=True)
class PointsCodec:
    """Points are used as they are; the mixture says where they should be."""

    mixture: str
    view = "scatter"
    suffixes = (".npy", ".csv")

    def decode(self, samples: np.ndarray) -> np.ndarray:
        """float32 (N, 2)"""
        return np.asarray(samples, np.float32)

    def save(self, decoded: np.ndarray, path: Path) -> None:
        """A .npy file of float32 (N, 2), or a .csv file with the columns x and y."""
        if path.suffix == ".npy":
            return write_array(path, decoded)
        text = io.StringIO()
        np.savetxt(text, decoded, fmt="%.9g", delimiter=",", header="x,y", comments="")
        write_atomically(path, text.getvalue().encode())

    def density(self, x: np.ndarray) -> np.ndarray:
        """The true density (N,) at points (N, 2)."""
        return MIXTURES[self.mixture].density(x)

    def coverage(self, x: np.ndarray) -> tuple[int, float]:
        """On how many modes the points lie, and which share of them lies well: see `Mixture.coverage`."""
        return MIXTURES[self.mixture].coverage(x)


def load(spec: str, options: PointsOptions, seed: int) -> Points:
    """The points of "ring" (8 modes) or "grid" (5 x 5 modes), which the seed decides. Raises DataError otherwise."""
    if spec not in MIXTURES:
        raise DataError(f"points are drawn from {' or '.join(MIXTURES)}, got {spec!r}: give --data one of these")
    mixture: Mixture = MIXTURES[spec]
    points, labels = mixture.labelled(options.points, np.random.default_rng([seed, 5]))
    return Points(points, labels, spec)


KIND = Kind(
    name="points",
    load=load,
    codec=PointsCodec,
    default_preset="points",
    builtin=tuple(MIXTURES),
    example_shape=(2,),
    claims=lambda data: f"{data} is a mixture of Gaussians in the plane" if data in MIXTURES else None,
    options=PointsOptions,
)
