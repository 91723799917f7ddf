"""Train a small classifier, which checks whether samples show the class that was asked for."""

from collections.abc import Callable

import numpy as np

from minigan import datasets, losses, optim
from minigan.layers import BatchNorm, Conv2d, Dense, Dropout, Flatten, LeakyReLU, Sequential, fuse

HELD_OUT = 0.1  # share of the images of each class on which the classifier is tested
WIDTHS = (24, 48, 96, 96, 96)  # channels of the convolutions
SHIFT = 1 / 20  # largest random shift of a training image, as a share of its side


def network(rng: np.random.Generator, shape: tuple[int, int, int], classes: int) -> Sequential:
    """Build the network: images (N, H, W, C) in [-1, 1] -> logits (N, classes).

    Each convolution halves the image. There are up to five, until a side is smaller than 8 pixels.
    """
    (H, W, c_in), layers = shape, []
    for c in WIDTHS:
        layers += [Conv2d(c_in, c, 3, stride=2, pad=1, bias=False, rng=rng), BatchNorm(c), LeakyReLU(0.1)]
        H, W, c_in = (H + 1) // 2, (W + 1) // 2, c
        if min(H, W) < 8:
            break
    layers += [Flatten(), Dense(H * W * c_in, 96, bias=False, rng=rng), BatchNorm(96), LeakyReLU(0.1)]
    return Sequential(*layers, Dropout(0.3, rng=rng), Dense(96, classes, rng=rng))


class Classifier:
    """A trained network. `accuracy` is the share of held-out images that it classifies correctly.

    Without held-out images, `accuracy` is NaN.
    """

    def __init__(self, trained: Sequential):
        self.network, self.accuracy = trained, float("nan")

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return the predicted class (N,) of each of the uint8 images (N, H, W, C)."""
        backend, found = self.network.backend, []
        with backend.computing():
            for i in range(0, len(images), 250):
                logits, _ = self.network.forward(backend.asarray(datasets.scale(images[i : i + 250])), train=False)
                found.append(backend.to_numpy(logits).argmax(axis=1))
        return np.concatenate(found)


def train(
    images: np.ndarray, labels: np.ndarray, backend, seed: int = 0, steps: int = 2500, progress: Callable = iter
) -> Classifier:
    """Train a classifier on uint8 images (N, H, W, C) with labels (N,), and test it.

    A tenth of each class is held out for the test. A class with only one image is not tested.
    The network is trained with the cross entropy and Adam, for at most `steps` batches of 64 and at
    most 30 epochs, on randomly shifted images. The learning rate decreases linearly to 0.
    `progress` wraps the range of steps, as tqdm does.
    """
    rng, classes = np.random.default_rng(seed), int(labels.max()) + 1
    test = _held_out(labels, rng)
    rest = np.setdiff1d(np.arange(len(labels)), test)
    model = network(rng, images.shape[1:], classes).to(backend)
    fused, adam, batch = fuse(model), optim.Adam(model, lr=2e-3), min(64, max(2, len(rest) // 2))
    steps = max(1, min(steps, 30 * (len(rest) // batch)))
    order = np.concatenate([rng.permutation(rest) for _ in range(-(-steps * batch // len(rest)))])
    for step in progress(range(steps)):
        chosen = order[step * batch : (step + 1) * batch]
        adam.lr = 2e-3 * (1 - step / steps)
        x = shifted(images[chosen], int(SHIFT * min(images.shape[1:3])), rng)
        with backend.computing():
            logits, cache = fused.forward(backend.asarray(datasets.scale(x)))
            _, dlogits = losses.cross_entropy(logits, backend.asarray(labels[chosen]))
            _, grads = fused.backward(dlogits, cache, need_dx=False)
            adam.step(grads)
    trained = Classifier(model)
    if len(test):
        trained.accuracy = float((trained(images[test]) == labels[test]).mean())
    return trained


def shifted(images: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Shift each image (N, H, W, C) by up to `most` random pixels along both axes, and repeat its edge pixels."""
    N, H, W, _ = images.shape
    padded = np.pad(images, ((0, 0), (most, most), (most, most), (0, 0)), mode="edge")
    offsets = rng.integers(2 * most + 1, size=(N, 2))
    return np.stack([image[i : i + H, j : j + W] for image, (i, j) in zip(padded, offsets, strict=True)])


def _held_out(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the indices of a tenth of each class, at least one if the class has two images."""
    parts = []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        parts.append(members[: max(int(len(members) > 1), int(HELD_OUT * len(members)))])
    return np.sort(np.concatenate(parts))
