"""Do fakes help a classifier that has few labelled images, and do they help more than shifts and rotations?

A small classifier learns from 10 to 500 labelled images of each class: digits, or shapes in colour of 32 x 32 pixels.
It sees them as they are, or shifted by up to two pixels and rotated by up to 15 degrees, again in every batch, or
together with as many fakes, or both. The fakes come from a conditional GAN, the preset `digits` trained for 2,000
steps on the same labelled images, so that no arm knows more than these. Every classifier takes 600 steps of 64 images.
"""

import functools
from typing import Any

import numpy as np

from minigan import datasets
from minigan.datasets import ImageOptions, Images
from minigan.lab import Column, Experiment, Quick, Results, Row, compared, shared
from minigan.lab.classify import accuracy, per_class, repeated
from minigan.report import experiments as pictures

STEPS, GAN_STEPS = 600, 2000
COUNT = 9600  # images of a classifier, each of which it sees about four times; half of them are fakes, if there are any
PIXELS, DEGREES = 2, 15.0  # largest shift and largest rotation
SIZES = (10, 50, 100, 500)
NOTHING, MOVED, FAKES, BOTH = "nothing", "shifts and rotations", "fakes", "both"
METHODS = (NOTHING, MOVED, FAKES, BOTH)
DATA = {"digits": "mnist", "shapes": "shapes"}
SIDE = {"mnist": 0, "shapes": 32}  # pixels; 0: as they are


@functools.cache
def images_of(name: str, split: str) -> Images:
    """Return a part of the built-in data of this name."""
    return datasets.load(name, ImageOptions(size=SIDE[name], split=split))


def unchanged(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the images as they are."""
    return images


def moved(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rotate each image (N, H, W, C) about its centre and shift it, by random amounts up to DEGREES and PIXELS.

    The value of a pixel is interpolated between the four pixels around the point that it comes from
    (bilinear). Beyond the edge, the pixels of the edge are repeated.
    """
    N, H, W, _ = images.shape
    angle = np.deg2rad(rng.uniform(-DEGREES, DEGREES, N))[:, None, None]
    down, right = rng.uniform(-PIXELS, PIXELS, (2, N, 1, 1))
    y, x = np.arange(H)[:, None] - (H - 1) / 2 - down, np.arange(W) - (W - 1) / 2 - right  # from the new centre
    y, x = np.cos(angle) * y - np.sin(angle) * x, np.sin(angle) * y + np.cos(angle) * x  # (N, H, W)
    y, x = np.clip(y + (H - 1) / 2, 0, H - 1), np.clip(x + (W - 1) / 2, 0, W - 1)
    top, left = np.minimum(y.astype(int), H - 2), np.minimum(x.astype(int), W - 2)
    dy, dx, n = (y - top)[..., None], (x - left)[..., None], np.arange(N)[:, None, None]
    upper = (1 - dx) * images[n, top, left] + dx * images[n, top, left + 1]
    lower = (1 - dx) * images[n, top + 1, left] + dx * images[n, top + 1, left + 1]
    return np.rint((1 - dy) * upper + dy * lower).astype(np.uint8)


def run(row: Row) -> dict[str, Any]:
    """Train the classifier, after the GAN if the row has fakes, and test it."""
    name, each, method = row.settings["data"], row.settings["each"], row.settings["method"]
    data, test = images_of(name, "train"), images_of(name, "test")
    assert data.labels is not None and test.labels is not None
    few = data.part(per_class(data.labels, each, row.rng()))
    assert few.labels is not None
    images, labels = repeated(few.images, few.labels, COUNT)
    if method in (FAKES, BOTH):
        options = {"preset": "digits", "steps": GAN_STEPS, "data": name, "data_options": {"size": SIDE[name]}}
        sampler = shared(row, f"{name}-{each}-seed-{row.seed}", options, data=few).sampler
        fakes = sampler.draw(COUNT // 2, row.rng(1))
        images = np.concatenate([images[: COUNT // 2], fakes])
        labels = np.concatenate([labels[: COUNT // 2], np.arange(COUNT // 2) % sampler.classes])
        if row.seed == 0:
            row.keep("fakes", fakes[:10])
    transform = moved if method in (MOVED, BOTH) else unchanged
    return {"accuracy": accuracy(row, images, labels, (test.images, test.labels), STEPS, transform)}


def arm(data: str, each: int, method: str) -> str:
    """Return the name of an arm."""
    return f"{data}, {each} per class, {method}"


def verdict(results: Results) -> list[str]:
    """Say for each size whether fakes help, alone and with shifts and rotations, and count the cases."""
    lines, counts = [], {NOTHING: [0, 0, 0], MOVED: [0, 0, 0]}  # helps, harms, no difference is shown
    for data in DATA:
        for each in SIZES:
            for base, method in ((NOTHING, FAKES), (MOVED, BOTH)):
                pair = arm(data, each, method), arm(data, each, base)
                lines.append(compared(results, *pair, "accuracy"))
                _, interval = results.difference(*pair, "accuracy")
                if interval is not None:
                    counts[base][0 if interval[0] > 0 else 1 if interval[1] < 0 else 2] += 1
    summary = []
    for base, text in ((NOTHING, "Fakes alone"), (MOVED, "Fakes besides shifts and rotations")):
        helps, harms, neither = counts[base]
        if helps + harms + neither:
            summary.append(
                f"{text} help in {helps} of {helps + harms + neither} cases, harm in {harms}, and show no difference "
                f"in {neither}"
            )
    return summary + lines


def picture(results: Results) -> np.ndarray:
    """Draw the accuracy by the number of images, and fakes from each of these numbers."""
    panels, grids = {}, {}
    for data in DATA:
        curves = {}
        for method in METHODS:
            means = [results.mean(arm(data, each, method), "accuracy") for each in SIZES]
            curves[method] = [(np.array(SIZES), np.array(means))]
        panels[f"{data}: test accuracy in %, mean of the seeds"] = curves
        for each in SIZES:
            if (kept := results.kept(arm(data, each, FAKES), "fakes")) is not None:
                grids[f"{data}, {each} per class"] = [kept]
    drawn = [pictures.lines(panels, "labelled images per class", log_x=True)]
    if grids:
        drawn.append(pictures.pictures(grids, ["fakes"], columns=10, width=5.0))
    return pictures.stacked(*drawn)


def claim(results: Results) -> tuple[str, bool]:
    """Say whether shifts and rotations help with ten images of each class."""
    difference, _ = results.difference(arm("digits", 10, MOVED), arm("digits", 10, NOTHING), "accuracy")
    text = "with 10 labelled digits per class, shifts and rotations change the test accuracy by"
    return f"{text} {difference:+.2f} percentage points", difference > 0


def settings(data: str, each: int, method: str) -> dict[str, Any]:
    """Return the settings of an arm."""
    return {"data": DATA[data], "each": each, "method": method}


EXPERIMENT = Experiment(
    question=__doc__,
    arms={
        arm(data, each, method): settings(data, each, method) for data in DATA for each in SIZES for method in METHODS
    },
    run=run,
    columns={"accuracy": Column("test accuracy, %", "higher", 2)},
    minutes=35,
    seeds=10,
    verdict=verdict,
    picture=picture,
    quick=Quick({arm("digits", 10, method): settings("digits", 10, method) for method in (NOTHING, MOVED)}, 3, claim),
)
