"""Evaluate the samples of a run.

If the run was trained on MNIST, the judge, a digit classifier, compares the samples with the MNIST
test images. The samples of other runs are compared with their training images: see
`metrics.comparison`.

On MNIST, equally many training images are compared in the same way. Their scores show what a
perfect generator would reach. They are means over up to six disjoint subsets of the training
images. Every subset contains each digit in its share of all training images, and a conditional
generator is asked for the digits in the same shares, so that random differences of the labels
do not affect the comparison.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minigan import datasets, losses, runs
from minigan.errors import UserError
from minigan.files import write_atomically
from minigan.metrics import comparison
from minigan.metrics.distances import Neighbourhoods
from minigan.metrics.judge import CLASSES, Judge
from minigan.metrics.scores import DESCRIPTIONS, evenly_spaced, mean_scores, scores, stratified_subsets, table
from minigan.report import plots
from minigan.runs.evaluate_sequences import evaluate_series
from minigan.runs.evaluate_tables import evaluate_table
from minigan.terminal import tqdm
from minigan.training import Sampler, checkpoint, draw_noise


def evaluate_run(
    out: Path,
    backend,
    count: int | None = None,
    seed: int = 0,
    data: str | None = None,
    target: str | None = None,
    held_out: str | None = None,
) -> tuple[dict, Callable[[dict], str]]:
    """Evaluate `count` samples of the run in `out`. Returns a report, and a function to format it.

    If the run was trained on MNIST, which is recognised by the fingerprint of the data, the judge
    scores the samples: see `evaluate_images`. The samples of other runs are compared with the
    training images: see `metrics.comparison`. The training data are read from `data`, or by default
    from the path in the run. If images cannot be read, the report contains the reason, and only the
    scores that need no real images. Rows of a table are compared with the training rows: see
    `evaluate_tables`, also for `target` and `held_out`. For series, see `evaluate_sequences`.

    Writes evaluate.json and evaluate.png, and, if training images were read for the comparison,
    nearest.png with samples and the nearest training images. Raises UserError if the run does not
    generate images, or if the data differ from those of the run.
    """
    config, facts = runs.read_config(out), runs.info(out)
    sampler = runs.sampler(out, backend)

    def read() -> datasets.Data:
        try:
            return runs.load_data(config, data)
        except datasets.DataError as error:
            if data is not None:
                raise
            raise MissingData(f"{error}: give their place with --data PATH") from None

    evaluation = evaluate(sampler, facts["fingerprint"], read, count, seed, target=target, held_out=held_out)
    report = evaluation.report
    with runs.writing(out):
        write_atomically(out / "evaluate.json", (json.dumps(report, indent=1) + "\n").encode())
        shown = sampler.draw(100, np.random.default_rng(seed))
        evaluation.save(out / "evaluate.png", shown, runs.columns(sampler.classes), report)
        if evaluation.pairs is not None:
            plots.save_samples(out / "nearest.png", evaluation.pairs, sampler.codec, 20)
    return report, evaluation.show


class MissingData(UserError):
    """Raised if the training data cannot be read. The evaluation then does without them."""


class Evaluation(NamedTuple):
    """The result of `evaluate`."""

    report: dict
    show: Callable[[dict], str]  # formats the report as text
    save: Callable  # draws the report: (path, samples, columns, report)
    pairs: np.ndarray | None  # images: each sample is followed by the nearest training image


def evaluate(
    sampler: Sampler,
    fingerprint: dict,
    read: Callable[[], datasets.Data],
    count: int | None = None,
    seed: int = 0,
    quiet: bool = False,
    target: Any = None,
    held_out: Any = None,
) -> Evaluation:
    """Evaluate `count` samples of a generator of images, series, or rows of a table.

    By default, these are 10,000 images or series, or as many rows as were trained on, but at least 100.

    If the fingerprint is that of MNIST, the judge scores the samples: see `evaluate_images`. Other
    samples are compared with the training images, which `read` returns: see `metrics.comparison`. If
    it raises MissingData, the report contains the reason, and only the scores that need no real images.

    Shows progress bars in a terminal unless `quiet`.

    Raises UserError if the samples are not images, if `count` is less than 100, or if the data of
    `read` have another fingerprint.
    """
    kind = next(kind.name for kind in datasets.KINDS.values() if kind.codec is type(sampler.codec))
    if kind not in ("images", "tables", "sequences"):
        raise UserError(
            f"evaluate compares images, tables and series, but this generator draws {kind}: give such a run"
        )
    if kind != "tables" and (target is not None or held_out is not None):
        raise UserError(f"a target and a file of held-out rows are for tables, and this generator draws {kind}")
    if (count is not None and count < 100) or seed < 0:
        raise UserError(f"count is at least 100 and seed at least 0, got {count} and {seed}")
    progress = partial(tqdm, leave=False, disable=True if quiet else None)
    if kind == "tables":
        progress = partial(progress, desc="comparing tables")
        real = read()
        count = max(100, len(real)) if count is None else count
        return Evaluation(*evaluate_table(sampler, fingerprint, real, count, seed, progress, target, held_out), None)
    count = 10_000 if count is None else count
    if kind == "sequences":

        def judge(images: np.ndarray, labels: np.ndarray | None) -> dict:
            own = Judge(sampler.generator.backend)
            return evaluate_images(own, images, labels, seed, partial(progress, desc="judging subsets of real images"))

        found = evaluate_series(
            sampler, fingerprint, read(), count, seed, judge, partial(progress, desc="training GRUs")
        )
        return Evaluation(*found, None)
    if is_mnist(fingerprint):
        report = _evaluate_digits(sampler, count, seed, progress)
        return Evaluation(report, table, partial(plots.save_report, descriptions=DESCRIPTIONS), None)
    report = _evaluate_any(read, fingerprint, sampler, count, seed, progress)
    pairs = report.pop("pairs", None)
    return Evaluation(report, comparison.table, partial(plots.save_comparison, descriptions=comparison.SCORES), pairs)


def is_mnist(fingerprint: dict) -> bool:
    """Return whether the fingerprint is that of the embedded MNIST training images.

    Their labels may be missing.
    """
    mnist = datasets.mnist("train")
    if "crc32" in fingerprint:  # a fingerprint of format 1
        return fingerprint["crc32"] == checkpoint.fingerprint_1(mnist)["crc32"]
    theirs = mnist.fingerprint()
    return all(fingerprint[key] in (theirs[key], None) for key in theirs)


def _evaluate_digits(sampler: Sampler, count: int, seed: int, progress: Callable) -> dict:
    """Return the report of `evaluate_images` for `count` samples."""
    images, labels = draw(sampler, count, seed)
    progress = partial(progress, desc="judging subsets of real images")
    return evaluate_images(Judge(sampler.generator.backend), images, labels, seed, progress)


def _evaluate_any(
    read: Callable[[], datasets.Data], saved: dict, sampler: Sampler, count: int, seed: int, progress: Callable
) -> dict:
    """Return the report of `comparison.compare` for `count` samples.

    The entry "pairs" contains images: each sample is followed by the nearest training image. If the
    training images cannot be read, the entry "missing" contains the reason instead.
    """
    rng, backend = np.random.default_rng(seed), sampler.generator.backend
    labels = np.arange(count) % sampler.classes if sampler.classes else None
    placed = None if labels is None else backend.asarray(labels)
    samples = sampler.of(draw_noise(sampler.generator, rng, count), placed)
    report: dict = {"count": count, "samples": {"diversity": comparison.diversity(samples, rng)}}
    try:
        real = read()
    except MissingData as error:
        report["missing"] = [f"distances, coverage and nearest images need the training data: {error}"]
        return report
    assert isinstance(real, datasets.Images)  # because the samples are images
    checked = real.fingerprint()
    ignored = checkpoint.ignored_in_fingerprint(sampler.classes)
    if "crc32" not in saved and saved | ignored != checked | ignored:  # format 1 has another fingerprint
        raise UserError(f"{real.name} has other contents than the data of this run: give the original data")
    if len(real) < comparison.MIN_REAL:
        report["missing"] = [
            f"distances and coverage need at least {comparison.MIN_REAL} real images, and there are {len(real)}"
        ]
        return report
    progress = partial(progress, desc="training a classifier")
    own = real.labels if sampler.classes else None
    report |= comparison.compare(samples, real.images, backend, labels, own, seed, progress)
    shown = samples[:40]
    index, _ = comparison.to_nearest(shown, real.images)
    report["pairs"] = np.stack([shown, real.images[index]], axis=1).reshape(-1, *shown.shape[1:])
    return report


def draw(sampler: Sampler, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray | None]:
    """Draw uint8 images (count, H, W, C), and return them with the labels (count,) asked for.

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
    """Score uint8 images (N, 28, 28, 1), and subsets of N training images, against the 10,000 MNIST test images.

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
    """Return the mean scores of disjoint subsets of `count` training images."""
    train = datasets.mnist("train")
    assert train.labels is not None  # MNIST has labels
    subsets = stratified_subsets(train.labels, min(count, len(train)), rng)
    return mean_scores(
        [
            scores(*judge.features_and_probabilities(train.images[i]), reference, train.labels[i], rng, rounds)
            for i in progress(subsets)
        ]
    )
