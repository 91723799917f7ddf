"""With how few training images does a GAN copy them, and does D learn them by heart?

The preset `small` without labels, trained for the same number of steps on 100 to 60,000 digits. A fake is a copy if it
is nearer to a training image, in the mean square of the pixels, than 95% of MNIST's test digits are. D's gap is the
share of training images that D takes for real, minus the same for test digits.
"""

from typing import Any

import numpy as np

from minigan import datasets
from minigan.datasets import Images
from minigan.lab import Column, Experiment, Results, Row, digits, train
from minigan.metrics.comparison import to_nearest
from minigan.report import experiments as pictures
from minigan.runs.checks import Checks

STEPS = 3000
COMPARED = 1000  # fakes, and test digits, whose nearest training image is found
SHOWN = 10


def images_of(size: int, rng: np.random.Generator) -> Images:
    """Return `size` training digits, and the test digits as `held_out`."""
    data, test = datasets.mnist("train"), datasets.mnist("test")
    chosen = np.sort(rng.choice(len(data), size, replace=False))
    assert data.labels is not None
    return Images(data.images[chosen], data.labels[chosen], f"{size:,} digits", held_out=test)


def compared(distance: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    """Return the share of copies and the relative distance, from the distances of fakes (N,) and test digits (M,)."""
    return {
        "copies": float((distance < np.quantile(expected, 0.05)).mean()),
        "nearest": float(np.median(distance) / np.median(expected)),
    }


def run(row: Row) -> dict[str, Any]:
    """Train on few images, and compare fakes, test digits and training images."""
    data = images_of(row.settings["images"], row.rng())
    training = train(row, {"preset": "small", "batch": 64, "steps": STEPS}, data=data)
    training_images, test = data.images, datasets.mnist("test").images
    fakes = training.sampler.draw(COMPARED, row.rng(1))
    index, distance = to_nearest(fakes, training_images)
    _, expected = to_nearest(test[row.rng(2).permutation(len(test))[:COMPARED]], training_images)
    row.keep("nearest", np.concatenate([fakes[:SHOWN], training_images[index[:SHOWN]]]))
    found = Checks(training).measure()
    gap = {"gap": found["d_right_train"] - found["d_right_held_out"]}
    return digits(training) | compared(distance, expected) | gap


def verdict(results: Results) -> list[str]:
    """Say for each number of images how many fakes are copies, and how far D's answers differ."""
    return [
        f"{arm}: {results.text(arm, 'copies')} of the fakes are copies (0.050 are expected of new digits), they are "
        f"{results.mean(arm, 'nearest'):.2f} times as far from the nearest training image as test digits are, and D's "
        f"gap is {results.text(arm, 'gap')}"
        for arm in results.arms
    ]


def picture(results: Results) -> np.ndarray:
    """Draw for each number of images some fakes, with the nearest training image below each."""
    panels = {}
    for figure in ("copies", "gap"):
        values = {arm: (results.values(arm, figure), results.interval(arm, figure)) for arm in results.arms}
        panels[results.columns[figure].label] = values
    drawn = [pictures.dots(panels)]
    kept = {arm: array for arm in results.arms if (array := results.kept(arm, "nearest")) is not None}
    if kept:
        drawn.append(pictures.pictures({arm: [array] for arm, array in kept.items()}, columns=SHOWN, width=5.0))
    return pictures.stacked(*drawn)


EXPERIMENT = Experiment(
    question=__doc__,
    arms={f"{size:,} images": {"images": size} for size in (60_000, 10_000, 1_000, 100)},
    run=run,
    columns={
        "copies": Column("share of copies", "lower"),
        "nearest": Column("distance to the nearest", "", 2),
        "gap": Column("D's gap", "lower"),
        "frechet": Column("Frechet distance", "lower"),
        "coverage": Column("coverage", "higher"),
    },
    minutes=7,
    seeds={"60,000 images": 3, "100 images": 3},
    verdict=verdict,
    picture=picture,
)
