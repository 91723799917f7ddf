"""Draw images of coloured shapes of eight kinds, with random colours, positions, sizes and angles.

A shape is a function of the coordinates x, y of points (arrays of one shape). It returns the
approximate distance of each point to the edge of the shape, negative inside and positive outside.
Within half a pixel of the edge, the colour of the shape is blended with that of the background.
"""

from collections.abc import Callable

import numpy as np

from minigan.datasets.files import DataError
from minigan.datasets.images import Images

SIDE = 64  # pixels
COUNTS = {"train": 20_000, "val": 2_000, "test": 2_000}
SEEDS = {"train": 1, "val": 2, "test": 3}
BLOCK = 500  # images drawn at a time


def circle(x, y):
    """Return the signed distance to a disc of radius 1."""
    return np.hypot(x, y) - 1


def ring(x, y):
    """Return the signed distance to a ring with the radii 0.5 and 1."""
    return np.abs(np.hypot(x, y) - 0.75) - 0.25


def half_disc(x, y):
    """Return the signed distance to half a disc of radius 1, with its middle near the origin."""
    return np.maximum(np.hypot(x, y - 0.45) - 1, y - 0.45)


def crescent(x, y):
    """Return the signed distance to a disc of radius 1 without a smaller disc that overlaps it."""
    return np.maximum(np.hypot(x, y) - 1, 0.85 - np.hypot(x - 0.6, y))


def square(x, y):
    """Return the signed distance to a square with the side 1.5."""
    return np.maximum(np.abs(x), np.abs(y)) - 0.75


def cross(x, y):
    """Return the signed distance to two bars at right angles, of length 2 and width 0.64."""
    x, y = np.abs(x), np.abs(y)
    return np.minimum(np.maximum(x - 1, y - 0.32), np.maximum(y - 1, x - 0.32))


def triangle(x, y):
    """Return the signed distance to an equilateral triangle, with corners 1 from the origin."""
    return np.maximum(np.maximum(0.866 * x - 0.5 * y, -0.866 * x - 0.5 * y), y) - 0.5


def star(x, y):
    """Return the signed distance to a star with five points, 1 from the origin."""
    angle = np.mod(np.arctan2(y, x), 2 * np.pi / 5) - np.pi / 5
    radius = np.hypot(x, y)
    x, y = radius * np.cos(angle), radius * np.abs(np.sin(angle))  # half of one point, with an inner corner at angle 0
    dx, dy = float(np.cos(np.pi / 5)) - 0.45, float(np.sin(np.pi / 5))  # from the inner corner (0.45, 0) to the point
    return ((x - 0.45) * dy - y * dx) / float(np.hypot(dx, dy))


KINDS: dict[str, Callable] = {
    "circle": circle,
    "ring": ring,
    "half disc": half_disc,
    "crescent": crescent,
    "square": square,
    "cross": cross,
    "triangle": triangle,
    "star": star,
}


def load(split: str = "train") -> Images:
    """Draw the images (N, 64, 64, 3) of a split. The kinds of shapes are their labels.

    N is 20,000 for "train", and 2,000 for "val" and "test". Every call returns the same images.
    Raises DataError for other splits.
    """
    if split not in COUNTS:
        raise DataError(f"shapes have no split {split!r}: ask for {', '.join(COUNTS)}")
    images, labels = draw(COUNTS[split], np.random.default_rng([SEEDS[split], 20261126]))
    source = f"{len(images):,} shapes, drawn by minigan"
    return Images(images, labels, f"shapes-{split}", source, list(KINDS), "what was drawn")


def draw(count: int, rng: np.random.Generator, side: int = SIDE) -> tuple[np.ndarray, np.ndarray]:
    """Draw images (count, side, side, 3) uint8. Returns them, and their kinds (count,).

    Image i shows the kind i % 8. Colours, positions, sizes (0.5 to 0.8 of the largest)
    and angles (up to 22.5 degrees to either side) are random.
    """
    labels = np.arange(count) % len(KINDS)
    size = rng.uniform(0.5, 0.8, count).astype(np.float32)  # relative to half the side
    place = rng.uniform(-1, 1, (count, 2)).astype(np.float32) * (1 - size)[:, None]  # the shape is inside the image
    angle = rng.uniform(-np.pi / 8, np.pi / 8, count).astype(np.float32)
    ink, ground = _colours(count, rng)
    grid = ((np.arange(side) + 0.5) / side * 2 - 1).astype(np.float32)
    images = np.empty((count, side, side, 3), np.uint8)
    for start in range(0, count, BLOCK):
        block = np.arange(start, min(start + BLOCK, count))
        x = grid[None, None, :] - place[block, 0, None, None]
        y = grid[None, :, None] - place[block, 1, None, None]
        c, s = np.cos(angle[block])[:, None, None], np.sin(angle[block])[:, None, None]
        x, y = (c * x + s * y) / size[block, None, None], (c * y - s * x) / size[block, None, None]
        for kind, shape in enumerate(KINDS.values()):
            mine = labels[block] == kind
            edge = shape(x[mine], y[mine]) * size[block[mine], None, None] * side / 2  # in pixels
            inside = np.clip(0.5 - edge, 0, 1)[..., None]
            colours = inside * ink[block[mine], None, None] + (1 - inside) * ground[block[mine], None, None]
            images[block[mine]] = np.rint(colours)
    return images, labels


def _colours(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw colours (count, 3) of shapes and of backgrounds, 0 to 255.

    The brightness of a shape and its background differs by at least 80.
    """
    ink, ground = np.empty((2, count, 3), np.float32)
    todo = np.arange(count)
    while len(todo):
        ink[todo], ground[todo] = rng.uniform(0, 255, (2, len(todo), 3))
        brightness = (ink[todo] - ground[todo]) @ [0.299, 0.587, 0.114]
        todo = todo[np.abs(brightness) < 80]
    return ink, ground
