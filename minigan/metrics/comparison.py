"""Compare generated images of any kind with the real ones that they imitate.

    report = compare(samples, real, backend)
    print(table(report))

    frechet       Frechet distance in the features of `RandomFeatures`, standardised; 0 is best.
                  It is not Inception FID, whose features come from another network
    kernel        kernel distance in the same features; about 0 is best
    density       how often samples are close to real images, relative to real ones; 1 is best
    coverage      the share of real images that have a sample nearby; 1 is best
    diversity     the mean distance of two images, pixel by pixel: root mean square, of 0 to 255
    to_training   the median distance of an image to the nearest training image, in the same
                  unit. Far below the value of real images, it is a sign of memorised images

Each score is computed for the samples and for real images. The real images are divided into two
halves: the first is the reference, and the second shows what a perfect generator would reach.
"""

from collections.abc import Callable

import numpy as np

from minigan.metrics import classifier
from minigan.metrics.distances import Neighbourhoods, frechet_distance, kernel_distance, nearest
from minigan.metrics.features import NAME, RandomFeatures, Standardiser

MIN_REAL = 20  # images, in both halves together
MAX_REFERENCE = 10_000
NEAREST = 100  # samples whose nearest training image is looked up

SCORES = {
    "frechet": "Frechet distance (0 is best; not Inception FID)",
    "kernel": "kernel distance (0 is best)",
    "density": "density (k = 5; 1 is best)",
    "coverage": "coverage (k = 5; 1 is best)",
    "diversity": "distance between two images (of 0 to 255)",
    "to_training": "distance to the nearest training image",
}


def compare(
    samples: np.ndarray,
    real: np.ndarray,
    backend,
    labels: np.ndarray | None = None,
    real_labels: np.ndarray | None = None,
    seed: int = 0,
    progress: Callable = iter,
) -> dict:
    """Compares uint8 samples (N, H, W, C) with real images (M, H, W, C); returns {"samples": scores, "real": scores}.

    With the labels (N,) that the samples were asked to show, and those (M,) of the real images, a
    small classifier is trained on real images; "agreement" is the share of samples that it
    classifies as asked, "classifier" its accuracy on real images that it was not trained on.
    Raises ValueError for fewer than MIN_REAL real images.
    """
    if len(real) < MIN_REAL or len(samples) < 2:
        raise ValueError(f"a comparison needs {MIN_REAL} real images and 2 samples, got {len(real)} and {len(samples)}")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(real))[: 2 * min(MAX_REFERENCE, len(real) // 2)]
    reference, other = real[order[: len(order) // 2]], real[order[len(order) // 2 :]]
    network = RandomFeatures(backend, real.shape[3])
    features = network(reference)
    scaled = Standardiser(features)
    neighbours = Neighbourhoods(scaled(features))
    report: dict = {"features": NAME, "reference": len(reference), "count": len(samples)}
    for who, images in (("samples", samples), ("real", other)):
        images = images[: len(other)] if len(images) > len(other) else images  # as many of each, so that they compare
        f = scaled(network(images))
        counts, covered = neighbours.memberships(f)
        report[who] = {
            "frechet": frechet_distance(f, neighbours.real),
            "kernel": kernel_distance(f, neighbours.real),
            "density": float(counts.mean() / neighbours.k),
            "coverage": float(covered.mean()),
            "diversity": diversity(images, rng),
        }
    chosen = rng.permutation(len(other))[:NEAREST]
    report["real"]["to_training"] = float(np.median(to_nearest(other[chosen], reference)[1]))
    report["samples"]["to_training"] = float(np.median(to_nearest(samples[:NEAREST], real)[1]))
    if labels is not None and real_labels is not None:
        judge = classifier.train(real, real_labels, backend, seed, progress=progress)
        found = judge(samples)
        report["classifier"] = judge.accuracy
        report["agreement"] = float((found == labels).mean())
        report["classes"] = np.bincount(found, minlength=int(real_labels.max()) + 1).tolist()
    return report


def diversity(images: np.ndarray, rng: np.random.Generator, pairs: int = 2000) -> float:
    """The mean root-mean-square distance of two different images (N, H, W, C), over random pairs."""
    N = len(images)
    first = rng.integers(N, size=pairs)
    second = (first + rng.integers(1, N, size=pairs)) % N
    total = 0.0
    for i in range(0, pairs, 200):
        a, b = (images[index[i : i + 200]].reshape(-1, images[0].size).astype(np.float32) for index in (first, second))
        total += float(np.sqrt(((a - b) ** 2).mean(axis=1)).sum())
    return total / pairs


def to_nearest(images: np.ndarray, training: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns, for each image (N, H, W, C), the index of the nearest training image, and their root-mean-square
    distance (N,), of 0 to 255."""
    flat = images.reshape(len(images), -1).astype(np.float32)
    best, index = np.full(len(images), np.inf), np.zeros(len(images), np.int64)
    for i in range(0, len(training), 2000):  # so that the floats stay small
        block = training[i : i + 2000].reshape(-1, flat.shape[1]).astype(np.float32)
        found, distances = nearest(flat, block)
        closer = distances < best
        best[closer], index[closer] = distances[closer], found[closer] + i
    return index, best / np.sqrt(flat.shape[1])


def table(report: dict) -> str:
    """Formats a report as lines of text."""
    lines = []
    if "real" in report:
        lines.append(f"{'':50}{'samples':>12}{'real images':>14}")
        for name, text in SCORES.items():
            lines.append(f"{text:50}{report['samples'][name]:12.3f}{report['real'][name]:14.3f}")
        lines.append(f"features: {report['features']}")
    else:
        lines.append(f"{SCORES['diversity']:50}{report['samples']['diversity']:12.3f}")
    if "agreement" in report:
        lines.append(
            f"{100 * report['agreement']:.1f}% of the samples are classified as the class that was asked for, by a"
        )
        lines.append(f"classifier that classifies {100 * report['classifier']:.1f}% of held-out real images correctly")
    return "\n".join([*lines, *report.get("missing", [])])
