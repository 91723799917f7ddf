"""Train a classifier as the row of an experiment, on images that may be few."""

from collections.abc import Callable, Iterator

import numpy as np

from minigan.lab.experiment import Row
from minigan.metrics import classifier

BATCH, EPOCHS = 64, 30  # of the classifier


def per_class(labels: np.ndarray, each: int, rng: np.random.Generator) -> np.ndarray:
    """Return the indices of `each` random images of every class, (classes * each,)."""
    return np.concatenate([rng.choice(np.flatnonzero(labels == k), each, replace=False) for k in np.unique(labels)])


def repeated(images: np.ndarray, labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return `count` images with labels: these, repeated in their order."""
    index = np.arange(count) % len(images)
    return images[index], labels[index]


def accuracy(
    row: Row,
    images: np.ndarray,
    labels: np.ndarray,
    test: tuple[np.ndarray, np.ndarray],
    steps: int,
    transform: Callable = classifier.shifts,
) -> float:
    """Train a classifier on uint8 images (N, H, W, C) for a number of steps; return the percentage right of `test`.

    Few images are repeated, because a classifier stops after EPOCHS passes over its images.
    `transform` is that of `classifier.train`.
    """
    images, labels = repeated(images, labels, max(len(images), BATCH * -(-steps // EPOCHS)))

    def progress(of: range) -> Iterator[int]:
        for step in of:
            yield step
            row.progress((step + 1) / steps)

    found = classifier.train(
        images, labels, row.backend, row.seed, steps, progress, test, transform=transform, watch=row.log
    )
    return 100 * found.accuracy
