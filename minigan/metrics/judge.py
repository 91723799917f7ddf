"""The judge, a digit classifier trained with minigan. The metrics of generated samples use its features.

    judge = Judge(backend)
    features, probabilities = judge.features_and_probabilities(images)

It is a small convolutional network. It classifies 99.5% of the 10,000 MNIST test digits correctly.
benchmarks/train_judge.py trains it from a seed, and judge.npz contains the weights as float16.
"""

import zlib
from pathlib import Path

import numpy as np

from minigan import datasets
from minigan.layers import BatchNorm, Conv2d, Dense, Dropout, Flatten, LeakyReLU, Sequential

WEIGHTS = Path(__file__).parent / "judge.npz"
CLASSES = 10


def judge_network(rng: np.random.Generator) -> Sequential:
    """Builds the judge's network: images (N, 28, 28, 1) in [-1, 1] -> logits (N, 10).

    The input of its last two layers is the feature vector (N, 64).
    """
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
    """The classifier with weights from a file.

    `crc32` is the checksum of the weights. It identifies the judge in reports, because scores of
    different judges are not comparable.
    """

    def __init__(self, backend, weights: Path = WEIGHTS):
        self.network, self.crc32 = judge_network(np.random.default_rng(0)), 0
        with open(weights, "rb") as opened, np.load(opened, allow_pickle=False) as saved:
            for tensors in (self.network.params, self.network.buffers):
                for name, target in tensors.items():
                    if target.dtype.kind == "f":
                        target[...] = saved[name]
                        self.crc32 = zlib.crc32(saved[name], self.crc32)
        self.network.to(backend)

    def features_and_probabilities(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the features (N, 64) and the class probabilities (N, 10) of uint8 images (N, 28, 28, 1)."""
        return features_and_probabilities(self.network, images)


def features_and_probabilities(network: Sequential, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the features (N, 64) and the class probabilities (N, 10) of uint8 images (N, 28, 28, 1), as float64.

    `network` has the layers of `judge_network`, with any weights.
    """
    backend = network.backend
    body, head = Sequential(*network.layers[:-2]), network.layers[-1]  # without the Dropout between them
    features, probabilities = [], []
    for i in range(0, len(images), 500):
        with backend.computing():
            f, _ = body.forward(backend.asarray(datasets.scale(images[i : i + 500])), train=False)
            logits = backend.to_numpy(head.forward(f, train=False)[0]).astype(np.float64)
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        features.append(backend.to_numpy(f).astype(np.float64))
        probabilities.append(p / p.sum(axis=1, keepdims=True))
    return np.concatenate(features), np.concatenate(probabilities)
