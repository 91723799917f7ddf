"""Pictures of what the generator of a run makes of planes, walks and distances in the latent space."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minigan import backends, runs
from minigan.errors import UserError
from minigan.metrics.comparison import to_nearest
from minigan.report import latent
from minigan.runs.export import write
from minigan.runs.saved import Saved
from minigan.training import Sampler

SIDE, REACH = 13, 3.0  # of the plane: images along a side, and how far it reaches from the origin in each direction
WALKS, STEPS = 5, 10  # pairs of samples, and images on the way from one to the other
DISTANCES = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)  # as multiples of the mean distance of noise
NEAREST = 10  # samples that are compared with the training images


class Space(NamedTuple):
    """The latent space of a run without its shape: `of(z, labels)` decodes the samples of noise z (N, n)."""

    of: Callable[[np.ndarray, np.ndarray | None], np.ndarray]
    size: int  # n
    sampler: Sampler
    rng: np.random.Generator

    def noise(self, count: int) -> np.ndarray:
        """Draw noise (count, n)."""
        return self.rng.standard_normal((count, self.size), dtype=np.float32)

    def labels(self, count: int, each: int = 1) -> np.ndarray | None:
        """Return labels (count * each,) of which `each` neighbours are equal, or None without labels."""
        classes = self.sampler.classes
        return np.repeat(np.arange(count) % classes, each) if classes else None


def pictures(run: Path, out: Path | None = None, seed: int = 0, data: str | None = None) -> dict[Path, str]:
    """Write pictures to a folder, by default RUN/explore, and return what each shows.

    The nearest training images are left out if the data cannot be read. Raises UserError if the run cannot be read, or
    if its samples are neither images nor points.
    """
    saved = runs.read(run)
    out = run / "explore" if out is None else out
    sampler = runs.sampler(saved, backends.reference())
    G = sampler.generator
    assert G.noise_shape is not None
    shape = G.noise_shape

    def of(z: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
        placed = None if labels is None else G.backend.asarray(labels)
        return sampler.of(G.backend.asarray(z.reshape(len(z), *shape).astype(np.float32)), placed)

    space = Space(of, int(np.prod(shape)), sampler, np.random.default_rng(seed))
    view = sampler.codec.view
    if view == "grid":
        drawn = _of_images(space) | _nearest(space, saved, data)
    elif view == "scatter":
        drawn = _of_points(space)
    else:
        raise UserError("pictures are drawn of images and of points, and these samples are neither: leave --png out")
    found = {}
    for name, (content, what) in drawn.items():
        write(out / name, content)
        found[out / name] = what
    return found


Drawn = dict[str, tuple[bytes, str]]  # for the name of a file: its content, and what it shows


def spherical(a: np.ndarray, b: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Return the points (T, n) at the shares t (T,) of the way from a (n,) to b along a great circle.

    sin((1 - t) w) / sin(w) * a + sin(t w) / sin(w) * b, with the angle w between a and b (Shoemake 1985).
    """
    w = np.arccos(np.clip(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)), -1, 1))
    if w < 1e-4:
        return (1 - t)[:, None] * a + t[:, None] * b
    return (np.sin((1 - t) * w)[:, None] * a + np.sin(t * w)[:, None] * b) / np.sin(w)


def directions(space: Space) -> np.ndarray:
    """Return two orthogonal directions (2, n) of length 1; only one, and zeros, in a space of one dimension."""
    if space.size < 3:
        return np.eye(2, space.size, dtype=np.float32)
    return np.linalg.qr(space.noise(2).T)[0].T


def _plane(space: Space, side: int) -> np.ndarray:
    """Return the noise (side * side, n) of a plane through the origin, row by row from above."""
    line = np.linspace(-REACH, REACH, side)
    u, v = directions(space)
    return np.array([a * u + b * v for b in line[::-1] for a in line], np.float32)


def _of_images(space: Space) -> Drawn:
    line = [f"{a:.1f}" if i % 3 == 0 else "" for i, a in enumerate(np.linspace(-REACH, REACH, SIDE))]
    z = _plane(space, SIDE)
    names = space.sampler.class_names
    of = f" of {names[0]}" if names else ""
    title = f"A plane through the origin{of}, along two random directions"
    first = None if space.labels(1) is None else np.zeros(len(z), np.int64)
    plane = latent.sheet(space.of(z, first), line[::-1], line, title, "along the first", "along the second")

    t, rows, walks = np.linspace(0, 1, STEPS), [], []
    labels = space.labels(WALKS, 2 * STEPS)
    for i, (a, b) in enumerate(space.noise(2 * WALKS).reshape(WALKS, 2, -1)):
        walks += [(1 - t)[:, None] * a + t[:, None] * b, spherical(a, b, t)]
        label = f" {names[i % len(names)]}" if names else ""
        rows += [f"{label} linear", f"{label} spherical"]
    title = "Walks between two samples"
    walked = latent.sheet(space.of(np.concatenate(walks), labels), rows, [f"{share:.0%}" for share in t], title)

    count = min(max(space.sampler.classes, 8), 10)
    z = space.noise(count)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    mean = np.sqrt(max(space.size - 0.5, 0.25))  # of the distance of noise
    z = (z[:, None] * (np.array(DISTANCES, np.float32) * mean)[:, None]).reshape(-1, space.size)
    labels = space.labels(count, len(DISTANCES))
    heads = [f"{d * mean:.1f}" for d in DISTANCES]
    title = f"Samples near and far from the origin (noise is around {mean:.1f})"
    rows = [names[i % len(names)] if names else "" for i in range(count)]
    distances = latent.sheet(space.of(z, labels), rows, heads, title, "distance from the origin")
    return {
        "plane.png": (plane, "a plane through the latent space"),
        "walks.png": (walked, "linear and spherical walks between two samples"),
        "distances.png": (distances, "samples near and far from the origin"),
    }


def _nearest(space: Space, saved: Saved, data: str | None) -> Drawn:
    """Draw samples above their nearest training images. Without the data, nothing is drawn, unless they were named."""
    try:
        training = runs.load_data(saved.config, data)
    except UserError:
        if data is not None:
            raise
        return {}
    samples = space.of(space.noise(NEAREST), space.labels(NEAREST))
    index, distance = to_nearest(samples, training.images)
    images = np.concatenate([samples, training.images[index]])
    heads = [f"{d:.0f}" for d in distance]
    title = f"Samples, and the nearest of {len(training):,} training images"
    picture = latent.sheet(
        images, ["sample", "nearest"], heads, title, "root-mean-square distance of the pixels, of 255"
    )
    return {"nearest.png": (picture, "samples, and the training images that are nearest to them")}


def _of_points(space: Space) -> Drawn:
    def points(z: np.ndarray, label: int = 0) -> np.ndarray:
        return space.of(z, None if not space.sampler.classes else np.full(len(z), label))

    everything = space.of(space.noise(2000), space.labels(2000))
    t = np.linspace(0, 1, 200)
    pairs = space.noise(6).reshape(3, 2, -1)
    walks = {
        "linear": [points((1 - t)[:, None] * a + t[:, None] * b) for a, b in pairs],
        "spherical": [points(spherical(a, b, t)) for a, b in pairs],
    }
    z = space.noise(600)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    mean = np.sqrt(max(space.size - 0.5, 0.25))
    far = {f"{d * mean:.1f} from the origin": points(d * mean * z) for d in DISTANCES[1::2]}
    line, (u, v) = np.linspace(-REACH, REACH, SIDE), directions(space)
    fine = np.linspace(-REACH, REACH, 200)
    lines = {
        "along the first direction": [points(fine[:, None] * u + b * v) for b in line],
        "along the second": [points(a * u + fine[:, None] * v) for a in line],
    }
    return {
        "plane.png": (
            latent.clouds({}, lines, "What becomes of a square grid of noise"),
            "a plane through the latent space",
        ),
        "walks.png": (
            latent.clouds({"_samples": everything}, walks, "Walks between two samples"),
            "linear and spherical walks between two samples",
        ),
        "distances.png": (
            latent.clouds(far, {}, "Samples near and far from the origin"),
            "samples near and far from the origin",
        ),
    }
