"""Data of the kind points: drawn from a mixture of Gaussians in the plane, with a known density."""

import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from minigan.backends import Array, Backend
from minigan.datasets.data import Data, Kind, checksums
from minigan.datasets.files import DataError
from minigan.datasets.mixtures import Mixture, grid, ring
from minigan.files import write_array, write_atomically
from minigan.options import check, option

MIXTURES = {"ring": ring(), "grid": grid()}
HELD_OUT = 2000  # points that are drawn from the same mixture and not trained on
STREAM = 7  # of their random numbers


@dataclass(frozen=True)
class PointsOptions:
    """Options of data of the kind points."""

    points: int = option(
        20_000, help="points: the number drawn from the mixture (default {default})", low=2, metavar="N"
    )

    def __post_init__(self):
        check(self)


@dataclass(frozen=True, eq=False)
class Points:
    """N points in the plane. The label of a point is the mode from which it was drawn."""

    points: np.ndarray  # (N, 2) float32
    labels: np.ndarray  # (N,) int64
    mixture: str  # a key of MIXTURES
    placed: Array | None = None  # the points on a backend, for `batch`
    held_out: "Points | None" = None  # points that are not trained on

    kind = "points"

    @property
    def name(self) -> str:
        """The name of the mixture."""
        return self.mixture

    def __len__(self) -> int:
        """The number of points."""
        return len(self.points)

    @property
    def sample_shape(self) -> tuple[int, int]:
        """The shape (2,) of one point."""
        return self.points.shape[1:]

    @property
    def class_names(self) -> list[str]:
        """The indices of the modes, as text."""
        return [str(mode) for mode in range(len(MIXTURES[self.mixture].centres))]

    @property
    def codec(self) -> "PointsCodec":
        """The codec that decodes generated points."""
        return PointsCodec(self.mixture)

    def part(self, index: np.ndarray) -> "Points":
        """Return the points of index (N,), without `held_out`."""
        return replace(self, points=self.points[index], labels=self.labels[index], placed=None, held_out=None)

    def holding(self, held_out: Data, source: str) -> "Points":
        """Return the same points with these `held_out`."""
        assert isinstance(held_out, Points)
        return replace(self, held_out=held_out)

    def to(self, backend: Backend) -> "Points":
        """Return the points stored on the backend."""
        return replace(self, placed=backend.asarray(self.points))

    def batch(self, index: Array) -> Array:
        """Return the points (N, 2) of index (N,). They are not scaled, because their magnitude is about 1."""
        return (self.points if self.placed is None else self.placed)[index]

    def description(self) -> list[tuple[str, str]]:
        """Return the mixture and its modes, as lines (topic, sentence) for people."""
        return [
            ("read", f"{len(self):,} points drawn from the mixture {self.mixture}"),
            ("labels", f"{len(self.class_names)} classes, the modes: {', '.join(self.class_names)}"),
        ]

    def fingerprint(self) -> dict:
        """Return the shape, and checksums of points and labels."""
        return checksums(self.points, self.labels)


@dataclass(frozen=True)
class PointsCodec:
    """Decodes points, which are not scaled, and compares them with the mixture."""

    mixture: str
    view, key = "scatter", "points"
    suffixes = (".npy", ".csv")

    def decode(self, samples: np.ndarray) -> np.ndarray:
        """Convert samples (N, 2) to float32."""
        return np.asarray(samples, np.float32)

    def save(self, decoded: np.ndarray, path: Path) -> None:
        """Write a .npy file of float32 (N, 2), or a .csv file with the columns x and y."""
        if path.suffix == ".npy":
            return write_array(path, decoded)
        text = io.StringIO()
        np.savetxt(text, decoded, fmt="%.9g", delimiter=",", header="x,y", comments="")
        write_atomically(path, text.getvalue().encode())

    def density(self, x: np.ndarray) -> np.ndarray:
        """Return the density (N,) of the mixture at points (N, 2)."""
        return MIXTURES[self.mixture].density(x)

    def blurred_density(self, x: np.ndarray, std: float) -> np.ndarray:
        """Return the density (N,) at points (N, 2) of the mixture after adding noise of this standard deviation."""
        return MIXTURES[self.mixture].blurred(std).density(x)

    @property
    def resolution(self) -> float:
        """The standard deviation of noise that changes little: half of that of a mode."""
        return MIXTURES[self.mixture].std / 2

    def coverage(self, x: np.ndarray) -> tuple[int, float]:
        """Return (number of modes covered, share of points near a mode): see `Mixture.coverage`."""
        return MIXTURES[self.mixture].coverage(x)


def load(spec: str, options: PointsOptions, seed: int, labels: bool = True) -> Points:
    """Draw the points of "ring" (8 modes) or "grid" (5 x 5 modes) from the seed, and others as `held_out`.

    `labels` has no effect, because drawing a point determines its label. Raises DataError for other
    names.
    """
    if spec not in MIXTURES:
        raise DataError(f"points are drawn from {' or '.join(MIXTURES)}, got {spec!r}: give --data one of these")
    mixture: Mixture = MIXTURES[spec]
    points, modes = mixture.labelled(options.points, np.random.default_rng([seed, 5]))
    held_out = Points(*mixture.labelled(HELD_OUT, np.random.default_rng([seed, STREAM])), spec)
    return Points(points, modes, spec, held_out=held_out)


KIND = Kind(
    name="points",
    noun="point",
    load=load,
    codec=PointsCodec,
    default_preset="points",
    builtin=tuple(MIXTURES),
    example_shape=(2,),
    claims=lambda data: f"{data} is a mixture of Gaussians in the plane" if data in MIXTURES else None,
    options=PointsOptions,
)
