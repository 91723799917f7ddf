"""What is where in the space of the noise?

A generator without labels is trained once on digits. Noise of n numbers from N(0, I) has a length near sqrt(n). An arm
draws noise in another way, and the judge compares the digits with the test digits:

- radius r: noise of random direction and length r sqrt(n); radius 0 is one point, and 1 is what the generator knows;
- the middle of a linear walk between two noise vectors, (a + b) / 2, and of a spherical one (White 2016, section 2.1);
- class means: the mean of the noise vectors whose digit the judge reads as k, with the length of noise;
- arithmetic: noise vectors of a digit k plus the mean of the class k + 1 minus that of k, with the length of noise.

"as asked" is the share of the digits that the judge reads as the class of the mean, or as k + 1.
"""

import math
from typing import Any

import numpy as np

from minigan.lab import Column, Experiment, Results, Row, shared
from minigan.lab.gans import digits_judge
from minigan.metrics.scores import scores
from minigan.report import experiments as pictures
from minigan.training import Sampler, Training, draw_noise

COUNT = 10_000
SIDE = 10  # pictures in a row
CORNERS = (3, 8, 5)  # the digits between which the plane lies; the walks go from the first to the second
BASE = "radius 1"
PICTURES = (
    "plane",
    "linear walk",
    "spherical walk",
    "radius",
    "class means",
    "a digit of each class",
    "plus the mean of the next",
)


def unit(z: np.ndarray) -> np.ndarray:
    """Return rows of z (N, n) with the length sqrt(n)."""
    length = np.sqrt((z * z).sum(axis=1, keepdims=True))
    return (math.sqrt(z.shape[1]) * z / np.maximum(length, 1e-12)).astype(np.float32)


def linear(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    """Return the points (1 - t) a + t b of straight walks from a (N, n) to b."""
    return (1 - t) * a + t * b


def spherical(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    """Return the points of walks from a (N, n) to b that keep the length, on great circles.

    With the angle w between a and b, it is (sin((1 - t) w) a + sin(t w) b) / sin w.
    """
    cosine = (a * b).sum(axis=1, keepdims=True) / np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))[:, None]
    w = np.arccos(np.clip(cosine, -1, 1))
    return ((np.sin((1 - t) * w) * a + np.sin(t * w) * b) / np.maximum(np.sin(w), 1e-6)).astype(np.float32)


def class_means(z: np.ndarray, read: np.ndarray) -> np.ndarray:
    """Return the mean (10, n) of the noise vectors z (N, n) of each of the digits (N,), with the length of noise."""
    return unit(np.stack([z[read == k].mean(axis=0) for k in range(10)]))


def draw(training: Training, z: np.ndarray) -> np.ndarray:
    """Return the images of noise z (N, n)."""
    sampler: Sampler = training.sampler
    return sampler.of(sampler.generator.backend.asarray(np.ascontiguousarray(z, np.float32)))


def run(row: Row) -> dict[str, Any]:
    """Draw the noise of an arm, and judge the digits."""
    training = shared(row, "generator", {"preset": "digits-unlabelled", "epochs": 10, "seed": 0})
    judge, reference = digits_judge(training.backend)
    rng, backend = np.random.default_rng(1), training.backend
    z, other = (backend.to_numpy(draw_noise(training.sampler.generator, rng, COUNT)) for _ in range(2))
    read = judge.features_and_probabilities(draw(training, z))[1].argmax(axis=1)
    means, way, asked = class_means(z, read), row.settings["way"], None
    examples = z[[int(np.flatnonzero(read == k)[0]) for k in range(10)]]  # a noise of each digit
    if way == "radius":
        z = row.settings["radius"] * unit(z)
    elif way == "linear":
        z = linear(z, other, 0.5)
    elif way == "spherical":
        z = spherical(z, other, 0.5)
    elif way == "means":
        z, asked = means, np.arange(10)
    else:
        asked = (read + 1) % 10
        z = unit(z + means[asked] - means[read])
    images = draw(training, z)
    features, probabilities = judge.features_and_probabilities(images)
    found: dict[str, Any] = {"confident": float((probabilities.max(axis=1) > 0.9).mean())}
    if len(images) == COUNT:
        scored = scores(features, probabilities, reference, None, rng, rounds=1)
        found |= {name: scored[name]["value"] for name in ("frechet", "coverage")}
    if asked is not None:
        found["as asked"] = float((probabilities.argmax(axis=1) == asked).mean())
    if row.arm == BASE:
        keep_pictures(row, training, means, examples)
    return found


def keep_pictures(row: Row, training: Training, means: np.ndarray, examples: np.ndarray) -> None:
    """Store the pictures of the figure, SIDE images in a row. `examples` (10, n) is a noise of each digit."""
    a, b, c = (examples[digit : digit + 1] for digit in CORNERS)
    along = np.linspace(0, 1, SIDE)
    plane = [a + 2 * (u - 0.5) * (b - a) + 2 * (v - 0.5) * (c - a) for v in np.linspace(0, 1, 5) for u in along]
    rows = {
        "plane": np.concatenate(plane),
        "linear walk": np.concatenate([linear(a, b, t) for t in along]),
        "spherical walk": np.concatenate([spherical(a, b, t) for t in along]),
        "radius": np.concatenate([r * a for r in np.linspace(0, 4, SIDE)]),
        "class means": means,
        "a digit of each class": examples,
        "plus the mean of the next": unit(examples + np.roll(means, -1, axis=0) - means),
    }
    for name, z in rows.items():
        row.keep(name, draw(training, z))


def verdict(results: Results) -> list[str]:
    """Say what the radius, the way of walking and the class means change."""
    radii = [arm for arm in results.arms if arm.startswith("radius")]
    lines = []
    if radii:
        best = results.best(radii, "frechet")
        lines.append(
            "the distance is smallest at "
            + f"{best} ({results.text(best, 'frechet')}); "
            + "; ".join(f"{arm}: {results.text(arm, 'frechet')}" for arm in radii if arm != best)
        )
    linear_way, spherical_way = "linear walk, middle", "spherical walk, middle"
    if {linear_way, spherical_way} <= set(results.arms):
        nearer = results.best((linear_way, spherical_way), "frechet")
        lines.append(
            f"the middle of a linear walk has the distance {results.text(linear_way, 'frechet')} and coverage "
            f"{results.text(linear_way, 'coverage')}, that of a spherical one {results.text(spherical_way, 'frechet')} "
            f"and {results.text(spherical_way, 'coverage')}: the {nearer.split()[0]} walk stays nearer to the data"
        )
    if {"class means", "arithmetic"} <= set(results.arms):
        lines.append(
            f"{results.mean('class means', 'as asked'):.0%} of the class means show their digit, and "
            f"{results.mean('arithmetic', 'as asked'):.0%} of the digits become the next one by adding a difference of "
            "class means (10% by chance)"
        )
    return lines


def picture(results: Results) -> np.ndarray:
    """Draw distance, coverage and confidence against the radius, and pictures of planes, walks and class means."""
    radii = sorted((row["settings"]["radius"], row["figures"]) for row in results.rows if "radius" in row["settings"])
    parts = []
    if radii:
        x = np.array([radius for radius, _ in radii])
        values = {
            name: np.array([figures[name] for _, figures in radii]) for name in ("frechet", "coverage", "confident")
        }
        panels = {
            "Frechet distance": {"distance": [(x, values["frechet"])]},
            "share": {name: [(x, values[name])] for name in ("coverage", "confident")},
        }
        parts.append(pictures.lines(panels, "radius"))
    kept = {name: array for name in PICTURES if (array := results.kept(BASE, name)) is not None}
    if kept:
        parts.append(pictures.pictures({name: [array] for name, array in kept.items()}, columns=SIDE, width=5.0))
    return pictures.stacked(*parts)


RADII = (1.0, 0.0, 0.25, 0.5, 0.75, 1.25, 1.5, 2.0, 3.0, 4.0)
EXPERIMENT = Experiment(
    question=__doc__,
    arms={f"radius {r:g}": {"way": "radius", "radius": r} for r in RADII}
    | {
        "linear walk, middle": {"way": "linear"},
        "spherical walk, middle": {"way": "spherical"},
        "class means": {"way": "means"},
        "arithmetic": {"way": "arithmetic"},
    },
    run=run,
    columns={
        "frechet": Column("Frechet distance", "lower"),
        "coverage": Column("coverage", "higher"),
        "confident": Column("confident", "higher"),
        "as asked": Column("as asked", "higher"),
    },
    minutes=6,
    verdict=verdict,
    picture=picture,
)
