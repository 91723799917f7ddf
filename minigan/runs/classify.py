"""Train a classifier on labelled images, and write it to a file: `minigan classify`, and `minigan.classify`."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from minigan import backends, datasets
from minigan.errors import UserError
from minigan.metrics import classifier
from minigan.metrics.classifier import Classifier
from minigan.options import parsed
from minigan.runs.evaluate import is_mnist
from minigan.terminal import tqdm
from minigan.training.config import place_of


def classify(
    data: Any = "mnist",
    labels: Any = None,
    *,
    out: str | Path | None = None,
    seed: int = 0,
    steps: int = 2500,
    backend: Any = "auto",
    verbose: int = 1,
    **options: Any,
) -> Classifier:
    """Train a classifier on labelled images, test it, write it to the file `out`, and return it.

    `data`, `labels` and the `options` of images are those of `minigan.GAN` and its `fit`: an array of
    images with labels, a path, or "mnist". `backend` is a name or an object of `minigan.backends`.
    The training takes at most `steps` batches of 64. The classifier is tested on the test images of
    MNIST if it was trained on MNIST, and otherwise on a tenth of each class, which is held out. Its
    `accuracy` is the share that it classifies correctly.

        minigan.classify("photos/", out="photos.npz")
        minigan.GAN(discriminator_from="photos.npz", projected=True, data="photos/").fit()

    Raises UserError, before the training, if the data have no labels or only one class, or if the
    file exists.
    """
    progress = None if verbose else True
    with backends.borrowed():
        found = read(data, labels, options)
        return train(found, out, seed, steps, lambda: _backend(backend), lambda s: tqdm(s, disable=progress))


def _backend(backend: Any) -> Any:
    return backends.load(backend) if isinstance(backend, str) else backend


def read(data: Any, labels: Any, options: dict[str, Any]) -> datasets.Images:
    """Read images, given as an array or a path, with their labels. Raises UserError if they are not images."""
    images = datasets.KINDS["images"]
    chosen = parsed(images.options, options, "images")
    if isinstance(data, str | os.PathLike):
        kind, reason = datasets.kind_of(str(data))
        if kind != images.name and not images.reads(str(data)):
            raise UserError(f"a classifier takes images, and {reason}: give a file or a folder of images")
        found = images.load(place_of(data), chosen, 0, True)
    elif hasattr(data, "fingerprint"):
        found = data
    else:
        found, labels = datasets.convert(data, labels, images.name, chosen), None
    if not isinstance(found, datasets.Images):
        raise UserError(f"a classifier takes images, got {found.kind}: give a file, a folder or an array of images")
    labelled = found if labels is None else datasets.with_labels(found, labels)
    assert isinstance(labelled, datasets.Images)
    return labelled


def train(
    data: datasets.Images,
    out: str | Path | None,
    seed: int,
    steps: int,
    backend: Callable[[], Any],
    progress: Callable,
) -> Classifier:
    """Train a classifier on the data, on the backend that `backend` loads, and write it to `out`, if that is given.

    `progress` wraps the range of steps, as tqdm does. See `classify`.
    """
    if seed < 0 or steps < 1:
        raise UserError(f"seed is at least 0 and steps at least 1, got {seed} and {steps}")
    if data.labels is None:
        raise UserError(f"a classifier needs labels, and {data.name} has none: add labels")
    names = data.class_names or []
    if len(np.unique(data.labels)) < 2:
        raise UserError(f"a classifier tells classes apart, and {data.name} has only one, {names[0]}: add another")
    if out is not None:
        classifier.expect_new_file(Path(out))
    mnist = datasets.mnist("test") if is_mnist(data.fingerprint()) else None
    test = None if mnist is None or mnist.labels is None else (mnist.images, mnist.labels)
    trained = classifier.train(data.images, data.labels, backend(), seed, steps, progress, test)
    trained.facts |= {
        "class_names": list(names)[: int(data.labels.max()) + 1],
        "data": {"name": data.name, **data.fingerprint()},
    }
    if out is not None:
        trained.save(out)
    return trained


def described(trained: Classifier) -> str:
    """Return a sentence with the accuracy of a classifier."""
    facts = trained.facts
    if facts["accuracy"] is None:
        return "no image was held out, because each class has only one, so the accuracy is unknown"
    return f"{100 * facts['accuracy']:.1f}% of {facts['tested']:,} held-out images are classified correctly"
