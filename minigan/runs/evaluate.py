"""Evaluate the samples of a run. The judge, a digit classifier, compares them with the MNIST test images.

Equally many training images are compared in the same way. Their scores show what a perfect
generator would reach. They are means over up to six disjoint subsets of the training images.
Every subset contains each digit in its share of all training images, and a conditional
generator is asked for the digits in the same shares, so that random differences of the labels
do not affect the comparison.
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from minigan import datasets, losses, runs
from minigan.errors import UserError
from minigan.files import write_atomically
from minigan.metrics.distances import Neighbourhoods
from minigan.metrics.judge import CLASSES, Judge
from minigan.metrics.scores import DESCRIPTIONS, evenly_spaced, mean_scores, scores, stratified_subsets
from minigan.report import plots
from minigan.training import Sampler, draw_noise


def evaluate_run(out: Path, backend, count: int = 10_000, seed: int = 0) -> dict:
    """Evaluates `count` samples of the run in `out`, and returns the report.

    Writes evaluate.json and evaluate.png. The report is the result of `evaluate_images`. For runs
    on other data than MNIST, it contains no agreement, because the labels may not be digits.
    """
    sampler, config = runs.sampler(out, backend), runs.read_config(out)
    if config.kind != "images":
        raise UserError(f"evaluate compares images with MNIST, but {out} generates {config.kind}: give a run on images")
    images, labels = draw(sampler, count, seed)
    judge = Judge(backend)
    n, data = sampler.classes, config.data
    if n and data != "mnist":
        print(f"the {n} labels of {data} may not be digits: no agreement is computed", file=sys.stderr)
        labels = None
    progress = partial(tqdm, desc="judging subsets of real images", leave=False, disable=None)
    report = evaluate_images(judge, images, labels, seed, progress)
    with runs.writing(out):
        write_atomically(out / "evaluate.json", (json.dumps(report, indent=1) + "\n").encode())
        shown = sampler.draw(100, np.random.default_rng(seed))
        plots.save_report(out / "evaluate.png", shown, runs.columns(n), report, DESCRIPTIONS)
    return report


def draw(sampler: Sampler, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray | None]:
    """Draws uint8 images (count, H, W, C), and returns them with the labels (count,) asked for.

    A generator with ten classes is asked for the labels in the shares of the digits in the
    training images, because the real images, with which its samples are compared, have these
    shares. A generator with another number of classes is asked for each label equally often.
    For a generator without labels, the second result is None.
    """
    rng, n, labels = np.random.default_rng(seed), sampler.classes, None
    if n == CLASSES:
        digits = datasets.mnist("train").labels
        assert digits is not None  # MNIST has labels
        digits = np.sort(digits)
        labels = digits[evenly_spaced(count, len(digits))]
    elif n:
        labels = np.arange(count) % n
    placed = None if labels is None else sampler.generator.backend.asarray(labels)
    return sampler.of(draw_noise(sampler.generator, rng, count), placed), labels


def evaluate_images(
    judge: Judge,
    images: np.ndarray,
    labels: np.ndarray | None = None,
    seed: int = 0,
    progress: Callable = iter,
) -> dict:
    """Scores uint8 images (N, 28, 28, 1), and subsets of N training images, against the 10,000 MNIST test images.

    `labels` (N,) are the digits that the generator was asked for. Without labels, there is no
    agreement. `progress` wraps the list of subsets, as tqdm does.

    Returns {"judge", "count", "samples": scores, "real": scores}. "judge" is the CRC-32 checksum
    of the judge's weights. It is part of the report because scores of different judges are not
    comparable.

    Raises UserError if the images do not have the size of MNIST, if there are fewer than 100,
    or if a label is not a digit.
    """
    if images.shape[1:] != (28, 28, 1) or len(images) < 100:
        raise UserError(
            f"the judge needs at least 100 grey images of 28 x 28, got {len(images)} of {images.shape[1:]}: "
            "only runs on MNIST-like data can be evaluated"
        )
    if labels is not None:
        try:
            losses.expect_labels(labels, CLASSES)
        except ValueError as error:
            raise UserError(f"agreement compares the labels with the digits 0 to 9: {error}") from None
    rng = np.random.default_rng(seed)
    features, _ = judge.features_and_probabilities(datasets.mnist("test").images)
    reference = Neighbourhoods(features)
    return {
        "judge": judge.crc32,
        "count": len(images),
        "samples": scores(*judge.features_and_probabilities(images), reference, labels, rng),
        "real": real_scores(judge, reference, len(images), rng, progress=progress),
    }


def real_scores(
    judge: Judge, reference: Neighbourhoods, count: int, rng, rounds: int = 50, progress: Callable = iter
) -> dict:
    """Returns the mean scores of disjoint subsets of `count` training images."""
    train = datasets.mnist("train")
    assert train.labels is not None  # MNIST has labels
    subsets = stratified_subsets(train.labels, min(count, len(train)), rng)
    return mean_scores(
        [
            scores(*judge.features_and_probabilities(train.images[i]), reference, train.labels[i], rng, rounds)
            for i in progress(subsets)
        ]
    )
