"""How good are the digits? A classifier, trained by minigan itself, looks at many of them.

    judge = Judge()
    images, labels = draw(generator, 10_000)
    report = evaluate(judge, images, labels)

The judge is a small convolutional network that reads the 10,000 MNIST test digits; benchmarks/train_judge.py makes its
weights from a seed. The 64 numbers before its last layer are the features in which images are compared:

    frechet     |m - m'|^2 + tr(S + S' - 2 (S S')^(1/2)), between the means and covariances of the features of the
                samples and of the test images: 0 for equal distributions (Heusel et al. 2017, who took the features of
                another network, Inception: this is NOT Inception FID, and only figures of one judge compare)
    density     how many test images, of the k nearest neighbourhoods that hold it, a sample lies close to, divided by k
    coverage    the share of test images in whose neighbourhood a sample lies (Naeem et al. 2020, with k = 5)
    confident   the share of samples that the judge reads with a probability above 0.9
    divergence  sum p log(p / (1/10)) of the classes p as read: 0 when every digit is as frequent as any other
    agreement   for samples asked for by label, the share that is read as that label

What real images reach is computed alongside: the mean over lots of as many training images, which the judge compares
with the test images. So that images are compared and not the luck of a draw, every lot holds each digit in exactly its
share of all training images, and a conditional generator is asked for the digits in these shares.
"""

import math
import zlib
from pathlib import Path

import numpy as np

from minigan import backends, datasets, losses, models, training
from minigan.errors import UserError
from minigan.layers import BatchNorm, Conv2d, Dense, Dropout, Flatten, LeakyReLU, Sequential

WEIGHTS = Path(__file__).parent / "judge.npz"
NEIGHBOURS = 5
CLASSES = 10
LOTS = 6  # of real images, at most: of 10,000 each they are all training images


def judge_network(rng: np.random.Generator) -> Sequential:
    """The judge's network: (N, 28, 28, 1) in [-1, 1] -> logits (N, 10). Its features enter the last two layers."""
    return Sequential(
        Conv2d(1, 24, 3, pad=1, bias=False, rng=rng),
        BatchNorm(24),
        LeakyReLU(0.1),
        Conv2d(24, 24, 4, stride=2, pad=1, bias=False, rng=rng),
        BatchNorm(24),
        LeakyReLU(0.1),
        Conv2d(24, 48, 3, pad=1, bias=False, rng=rng),
        BatchNorm(48),
        LeakyReLU(0.1),
        Conv2d(48, 48, 4, stride=2, pad=1, bias=False, rng=rng),
        BatchNorm(48),
        LeakyReLU(0.1),
        Flatten(),
        Dense(7 * 7 * 48, 64, bias=False, rng=rng),
        BatchNorm(64),
        LeakyReLU(0.1),
        Dropout(0.3, rng=rng),
        Dense(64, CLASSES, rng=rng),
    )


class Judge:
    """Reads digits. `look` gives the features and the probabilities of images; `crc32`, of the weights, tells judges
    apart."""

    def __init__(self, weights: Path = WEIGHTS, backend=None):
        self.network, self.crc32 = judge_network(np.random.default_rng(0)), 0
        with open(weights, "rb") as opened, np.load(opened, allow_pickle=False) as saved:
            for tensors in (self.network.params, self.network.buffers):
                for name, target in tensors.items():
                    if target.dtype.kind == "f":
                        target[...] = saved[name]
                        self.crc32 = zlib.crc32(saved[name], self.crc32)
        self.network.to(backend or backends.load("auto"))

    def look(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The features (N, 64) and the probabilities (N, 10) of images, see `look`."""
        return look(self.network, images)


def look(network: Sequential, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint8 images (N, 28, 28, 1), seen by a judge's network -> features (N, 64) and probabilities (N, 10), float64."""
    backend = network.backend
    body, head = Sequential(*network.layers[:-2]), network.layers[-1]
    features, probabilities = [], []
    for i in range(0, len(images), 500):
        f, _ = body.forward(backend.asarray(datasets.scale(images[i : i + 500])), train=False)
        l = backend.to_numpy(head.forward(f, train=False)[0]).astype(np.float64)
        p = np.exp(l - l.max(axis=1, keepdims=True))
        features.append(backend.to_numpy(f).astype(np.float64))
        probabilities.append(p / p.sum(axis=1, keepdims=True))
    return np.concatenate(features), np.concatenate(probabilities)


# ---------------------------------------------------------------- figures


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """The Frechet distance between Gaussians fitted to features a (N, F) and b (M, F), in float64.

    The root of S S' is taken by way of the symmetric matrix R S' R, R = S^(1/2), which has the same eigenvalues: all
    real and, but for rounding, not negative. So the distance is not negative either.
    """
    (mean_a, cov_a), (mean_b, cov_b) = ((x.mean(axis=0), np.cov(x, rowvar=False)) for x in (a, b))
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov_b @ root), 0)).sum()
    return max(0.0, float(((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * cross))


class Neighbourhoods:
    """Around each real image the ball that reaches to its k-th nearest real neighbour; features (N, F)."""

    def __init__(self, real: np.ndarray, k: int = NEIGHBOURS):
        self.real, self.k = real, min(k, len(real) - 1)
        self.radii = np.concatenate(  # squared; the nearest one, at distance 0, is the image itself
            [np.partition(square, self.k, axis=1)[:, self.k] for square in _square_distances(real, real)]
        )

    def holding(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(held (M,): in how many of the balls each sample lies, hit (N,): whether each ball holds a sample)."""
        held, hit = [], np.zeros(len(self.real), bool)
        for square in _square_distances(samples, self.real):
            inside = square <= self.radii
            held.append(inside.sum(axis=1))
            hit |= inside.any(axis=0)
        return np.concatenate(held), hit


def _square_distances(a: np.ndarray, b: np.ndarray, rows: int = 1000):
    """|a - b|^2 for all pairs, a thousand rows of a at a time: 80 MB for 10,000 of b."""
    lengths = (b * b).sum(axis=1)
    for i in range(0, len(a), rows):
        part = a[i : i + rows]
        yield np.maximum((part * part).sum(axis=1)[:, None] - 2 * part @ b.T + lengths, 0)


def figures(seen: tuple, reference: np.ndarray, balls: Neighbourhoods, labels, rng, rounds: int = 50) -> dict:
    """Every figure of images as the judge saw them, (features, probabilities), against the reference features (N, F).

    Each is {"value": ..., "low": ..., "high": ...} with a 95% interval from the spread of `rounds` bootstrap samples,
    which keep the number of images of each label: it was given, not drawn.
    """
    features, probabilities = seen
    N, read = len(features), probabilities.argmax(axis=1)
    held, hit = balls.holding(features)

    def of(chosen: np.ndarray, hits: np.ndarray) -> dict:
        share = np.bincount(read[chosen], minlength=CLASSES) / len(chosen)
        result = {
            "frechet": frechet(features[chosen], reference),
            "confident": (probabilities[chosen].max(axis=1) > 0.9).mean(),
            "density": held[chosen].mean() / balls.k,
            "coverage": hits.mean(),
            "divergence": sum(p * math.log(p * CLASSES) for p in share if p > 0),
        }
        if labels is not None:
            result["agreement"] = (read[chosen] == labels[chosen]).mean()
        return result

    whole = of(np.arange(N), hit)
    strata = np.zeros(N, int) if labels is None else labels
    drawn = [of(_again(strata, rng), hit[rng.integers(len(hit), size=len(hit))]) for _ in range(rounds)]
    result = {}
    for name, value in whole.items():
        # Drawn with replacement, images repeat, which moves a distance upwards: the spread is taken, not the place.
        low, high = value + np.quantile([d[name] for d in drawn], (0.025, 0.975)) - np.mean([d[name] for d in drawn])
        result[name] = {"value": float(value), "low": max(0.0, float(low)), "high": float(high)}
    return result | {"classes": np.bincount(read, minlength=CLASSES).tolist()}


def _again(labels: np.ndarray, rng) -> np.ndarray:
    """Indices (N,), drawn with replacement, that give every label as often as labels (N,) do."""
    order = np.argsort(labels, kind="stable")
    first, size = np.searchsorted(labels[order], labels), np.bincount(labels)[labels]
    return order[first + (rng.random(len(labels)) * size).astype(int)]


def _in_shares(count: int, N: int) -> np.ndarray:
    """Indices (count,) at even distances among N things in order: every kind of them has, to within one, its share."""
    return np.arange(count) * N // count


def _lots(labels: np.ndarray, count: int, rng) -> list[np.ndarray]:
    """Indices (count,) of up to LOTS lots that have no image in common, drawn so that each label has in every lot, to
    within one image, its share of all labels (N,)."""
    N = len(labels)
    by_label = np.lexsort((rng.random(N), labels))  # in any order among equals
    return [by_label[_in_shares(count, N) + i] for i in range(min(LOTS, N // count))]


def real_figures(
    judge: Judge, reference: np.ndarray, balls: Neighbourhoods, count: int, rng, rounds: int = 50, progress=iter
) -> dict:
    """The figures of `count` training images: means over several lots of them, of the intervals' bounds as well.

    `progress` wraps the list of lots, to show how far it is gone through.
    """
    known = datasets.mnist("train")
    found = [
        figures(judge.look(known.images[lot]), reference, balls, known.labels[lot], rng, rounds)
        for lot in progress(_lots(known.labels, min(count, len(known)), rng))
    ]
    means = {
        name: {key: float(np.mean([lot[name][key] for lot in found])) for key in first}
        for name, first in found[0].items()
        if name != "classes"
    }
    return means | {"classes": np.mean([lot["classes"] for lot in found], axis=0).round(1).tolist()}


def draw(generator: Sequential, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray | None]:
    """uint8 images (count, H, W, C), and the labels (count,) asked for, or None if the generator takes none.

    Ten labels are asked for in the shares of the digits among the training images, other numbers of them in turn.
    """
    rng, n, labels = np.random.default_rng(seed), models.classes(generator), None
    if n == CLASSES:
        known = np.sort(datasets.mnist("train").labels)
        labels = known[_in_shares(count, len(known))]
    elif n:
        labels = np.arange(count) % n
    asked = None if labels is None else generator.backend.asarray(labels)
    return training.draw_images(generator, training.draw_noise(generator, rng, count), asked), labels


def evaluate(judge: Judge, images: np.ndarray, labels: np.ndarray | None = None, seed: int = 0, progress=iter) -> dict:
    """{"judge", "count", "samples": figures, "real": figures}: uint8 images (N, 28, 28, 1), and lots of as many real
    training images, against the 10,000 test images. `labels` (N,) are the digits that the samples were asked to be, if
    any were; "judge" is the crc32 of the judge's weights, for the figures of two judges do not compare.

    Raises UserError for images that are not MNIST's size, or too few to compare, and for labels that are no digits.
    """
    if images.shape[1:] != (28, 28, 1) or len(images) < 100:
        raise UserError(
            f"the judge reads at least 100 grey images of 28 x 28, got {len(images)} of {images.shape[1:]}: "
            "only runs on MNIST-like data can be evaluated"
        )
    if labels is not None:
        try:
            losses.expect_labels(labels, CLASSES)
        except ValueError as error:
            raise UserError(f"agreement is with the digits 0 to 9 that the judge reads: {error}") from None
    rng = np.random.default_rng(seed)
    reference, _ = judge.look(datasets.mnist("test").images)
    balls = Neighbourhoods(reference)
    return {
        "judge": judge.crc32,
        "count": len(images),
        "samples": figures(judge.look(images), reference, balls, labels, rng),
        "real": real_figures(judge, reference, balls, len(images), rng, progress=progress),
    }


EXPLAINED = {
    "frechet": "Frechet distance in the judge's features (not Inception FID)",
    "confident": "share read with a probability above 0.9",
    "density": "density (k = 5)",
    "coverage": "coverage (k = 5)",
    "divergence": "divergence of the classes from uniform",
    "agreement": "share read as the label asked for",
}


def table(report: dict) -> str:
    """The report in lines, the samples' figures beside those of as many real images."""
    lines = [f"{'':58}{'samples':>22}{'real images':>22}"]
    for name in report["samples"]:
        if name in EXPLAINED:
            cells = "".join(
                f"{f['value']:9.3f} ({f['low']:.3f}-{f['high']:.3f})".rjust(22)
                for f in (report["samples"][name], report["real"][name])
            )
            lines.append(f"{EXPLAINED[name]:58}{cells}")
    shares = " ".join(
        f"{digit}: {100 * n / report['count']:.1f}%" for digit, n in enumerate(report["samples"]["classes"])
    )
    missing = [digit for digit, n in enumerate(report["samples"]["classes"]) if n < 0.01 * report["count"]]
    lines.append(f"digits as read   {shares}")
    if missing:
        lines.append(f"collapse: the digits {', '.join(map(str, missing))} hardly occur (less than 1% each)")
    return "\n".join(lines)
