"""Draw the discriminator of a run on points next to the best one, which is known if the density of the data is."""

from typing import Any

import numpy as np

from minigan.layers import Sequential
from minigan.metrics.best_discriminator import best_discriminator
from minigan.report import plots
from minigan.training import Training, draw_noise, draw_samples

SIDE = 64  # the plane is divided into SIDE x SIDE places
FAKES = 4000
CONTEXT = 31  # other samples in the batch of each place


def draw_discriminator(training: Training) -> np.ndarray | None:
    """Return a picture (height, width, 3) with D at the left and the best D* at the right, and fakes as dots.

    Returns None if the density of the data is not known, or if D does not judge a sample by itself:
    with labels, and with packing.
    """
    codec: Any = training.data.codec
    if not hasattr(codec, "blurred_density") or training.classes or training.config.pack > 1:
        return None
    plane, G = plots.plane(SIDE), training.sampler.generator
    z = draw_noise(G, np.random.default_rng([training.config.seed, 8]), FAKES)
    fakes = draw_samples(G, z)
    best = best_discriminator(
        plane, codec.blurred_density, codec.decode(fakes), codec.resolution, training.config.real_share
    )
    with training.backend.computing():
        found = probabilities(training.D, plane, context(training, fakes))
    values = {"D": found.reshape(SIDE, SIDE), "the best D": best.reshape(SIDE, SIDE)}
    return plots.planes(values, codec.decode(fakes[:300]))


def context(training: Training, fakes: np.ndarray) -> np.ndarray:
    """Return CONTEXT samples (CONTEXT, 2), about half of them real, in turns."""
    data, backend = training.data, training.backend
    real = backend.to_numpy(data.batch(backend.asarray(np.arange(CONTEXT) % len(data))))
    return np.where((np.arange(CONTEXT) % 2 == 0)[:, None], real, fakes[:CONTEXT])


def probabilities(D: Sequential, x: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return s(l) (M,) for the points x (M, 2), each in a batch with the same `others`.

    The minibatch standard deviation sees the whole batch, so D has a value for a point only
    together with other samples. It treats samples with different labels as different batches, so
    each point and its companions get a label of their own, and many of these batches fit in one.
    """
    found, size = [], 1 + len(others)
    for part in np.array_split(x.astype(np.float32), -(-len(x) // 32)):
        batches = np.stack([np.concatenate([point[None], others]) for point in part]).astype(np.float32)
        labels = D.backend.asarray(np.repeat(np.arange(len(part)), size))
        logits, _ = D.forward(D.backend.asarray(batches.reshape(-1, 2)), train=False, track=False, labels=labels)
        found.append(D.backend.to_numpy(D.backend.sigmoid(logits)).reshape(-1, size)[:, 0].astype(np.float64))
    return np.concatenate(found)
