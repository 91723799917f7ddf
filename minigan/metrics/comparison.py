"""Compare generated images of any kind with the training images of their generator.

    report = compare(samples, real, backend)
    print(table(report))

    frechet       Frechet distance in the standardised features of `RandomFeatures`; 0 is best.
                  It is not Inception FID, which uses the features of another network
    kernel        kernel distance in the same features; a value near 0 is best
    density       mean number of neighbourhoods of reference images that contain an image,
                  divided by k; 1 is expected for real images
    coverage      share of these neighbourhoods that contain an image; 1 is best
    diversity     mean distance between two images: the root mean square of the differences
                  of their pixels, which are 0 to 255
    to_training   median distance of an image to the nearest image of the reference, in the same
                  unit. A value far below that of real images indicates memorised images

The real images are divided into two halves. The first half is the reference. Each score is
computed for the samples and for the second half, whose scores show what a perfect generator would
reach.
"""

from collections.abc import Callable

import numpy as np

from minigan.metrics import classifier
from minigan.metrics.distances import Neighbourhoods, frechet_distance, kernel_distance, nearest
from minigan.metrics.features import NAME, RandomFeatures, Standardiser

MIN_REAL = 20  # minimum number of real images
MAX_REFERENCE = 10_000  # maximum number of images in each half
NEAREST = 100  # maximum number of images for `to_training`

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
    """Compare uint8 samples (N, H, W, C) with real images (M, H, W, C), and return a report.

    The report contains {"samples": scores, "real": scores}. `labels` (N,) are the classes that the
    samples were asked to show, and `real_labels` (M,) those of the real images. If both are given,
    a small classifier is trained on the real images. "agreement" is then the share of samples that
    are classified as asked, "classifier" the accuracy on held-out real images, and "classes" the
    number of samples in each predicted class. `progress` wraps the training steps, as tqdm does.

    Raises ValueError for fewer than MIN_REAL real images or fewer than 2 samples.
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
        images = images[: len(other)] if len(images) > len(other) else images  # the same number of both, if possible
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
    report["samples"]["to_training"] = float(np.median(to_nearest(samples[:NEAREST], reference)[1]))
    if labels is not None and real_labels is not None:
        judge = classifier.train(real, real_labels, backend, seed, progress=progress)
        found = judge(samples)
        report["classifier"] = judge.accuracy
        report["agreement"] = float((found == labels).mean())
        report["classes"] = np.bincount(found, minlength=int(real_labels.max()) + 1).tolist()
    return report


def diversity(images: np.ndarray, rng: np.random.Generator, pairs: int = 2000) -> float:
    """Return the mean root-mean-square distance of random pairs of images (N, H, W, C)."""
    N = len(images)
    first = rng.integers(N, size=pairs)
    second = (first + rng.integers(1, N, size=pairs)) % N
    total = 0.0
    for i in range(0, pairs, 200):
        a, b = (images[index[i : i + 200]].reshape(-1, images[0].size).astype(np.float32) for index in (first, second))
        total += float(np.sqrt(((a - b) ** 2).mean(axis=1)).sum())
    return total / pairs


def to_nearest(images: np.ndarray, training: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the training image (M, H, W, C) that is nearest to each image (N, H, W, C).

    Returns its index (N,), and the root-mean-square distance (N,) of the pixels, from 0 to 255.
    """
    flat = images.reshape(len(images), -1).astype(np.float32)
    best, index = np.full(len(images), np.inf), np.zeros(len(images), np.int64)
    for i in range(0, len(training), 2000):  # in blocks, to limit the memory for floats
        block = training[i : i + 2000].reshape(-1, flat.shape[1]).astype(np.float32)
        found, distances = nearest(flat, block)
        closer = distances < best
        best[closer], index[closer] = distances[closer], found[closer] + i
    return index, best / np.sqrt(flat.shape[1])


def table(report: dict) -> str:
    """Format a report as lines of text."""
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
