"""Train a small classifier of images, and save it.

It checks whether samples show the class that was asked for. `minigan classify` writes one to a file,
from which a discriminator can start (`Config.discriminator_from`). The network is in `models.classifier`.

The file is a .npz file with the arrays of the network and the entry `facts`, which is JSON:

    format, kind              the number of the format, and "classifier"
    sample_shape, widths      shape of an image, and channels of the convolutions
    hidden, class_names       units of the hidden layer, and a name for each class
    data                      name and fingerprint of the data
    accuracy, tested          share of held-out images that are classified correctly (null: none were
                              held out), and their number
    seed, steps               seed of the training, and number of its steps
"""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from minigan import datasets, losses, optim
from minigan.errors import UserError
from minigan.files import read_archive, write_archive
from minigan.layers import Sequential, fuse
from minigan.models.classifier import HIDDEN, network, widths_for

FORMAT = 1  # number of the file format; increased when older versions of minigan cannot read the file
HELD_OUT = 0.1  # share of the images of each class on which the classifier is tested
SHIFT = 1 / 20  # largest random shift of a training image, as a share of its side


class Classifier:
    """A trained network. `accuracy` is the share of held-out images that it classifies correctly.

    Without held-out images, `accuracy` is NaN. `facts` describe the network and its training, as in
    a file.
    """

    def __init__(self, trained: Sequential, facts: dict | None = None):
        self.network, self.accuracy, self.facts = trained, float("nan"), facts or {}

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return the predicted class (N,) of each of the uint8 images (N, H, W, C)."""
        backend, found = self.network.backend, []
        with backend.computing():
            for i in range(0, len(images), 250):
                logits, _ = self.network.forward(backend.asarray(datasets.scale(images[i : i + 250])), train=False)
                found.append(backend.to_numpy(logits).argmax(axis=1))
        return np.concatenate(found)

    def save(self, path: str | Path) -> None:
        """Write the classifier to a .npz file atomically. Raises UserError if the file exists or cannot be written."""
        path, backend = Path(path), self.network.backend
        expect_new_file(path)
        arrays = self.network.params | self.network.buffers
        facts = {"format": FORMAT, "kind": "classifier", **self.facts}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_archive(path, {name: backend.to_numpy(value) for name, value in arrays.items()}, facts)
        except OSError as error:
            where = error.filename or path
            raise UserError(f"cannot write {where} ({error.strerror or error}): choose another place") from None

    @classmethod
    def load(cls, path: str | Path) -> "Classifier":
        """Return the classifier in a file that `save` wrote, on the CPU. Raises UserError if there is none."""
        path = Path(path)
        arrays, facts = read_archive(path, "a classifier", "give a file that `minigan classify` wrote")
        if facts.pop("kind", None) != "classifier":
            raise UserError(f"{path} is not a classifier: give a file that `minigan classify` wrote")
        if facts.pop("format") > FORMAT:
            raise UserError(f"{path} was written by a newer minigan: upgrade minigan to read it")
        try:
            shape, classes = tuple(facts["sample_shape"]), len(facts["class_names"])
            built = network(np.random.default_rng(0), shape, classes, facts["widths"], facts["hidden"])
            accuracy = facts["accuracy"]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} does not describe its network ({error}): write it again") from None
        targets = built.params | built.buffers
        if {k: v.shape for k, v in targets.items()} != {k: v.shape for k, v in arrays.items()}:
            raise UserError(f"{path} has other arrays than its network needs: write it again with `minigan classify`")
        for name, target in targets.items():
            target[...] = arrays[name]
        loaded = cls(built, facts)
        loaded.accuracy = math.nan if accuracy is None else accuracy
        return loaded


def expect_new_file(path: Path) -> None:
    """Raise UserError unless `path` is a .npz file that does not exist yet."""
    if path.suffix != ".npz":
        raise UserError(f"a classifier is written to a .npz file, got {path}")
    if path.exists():
        raise UserError(f"{path} already exists: choose another file with --out, or remove it first")


def shifts(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shift each image (N, H, W, C) randomly by up to SHIFT of its side."""
    return shifted(images, int(SHIFT * min(images.shape[1:3])), rng)


def train(
    images: np.ndarray,
    labels: np.ndarray,
    backend,
    seed: int = 0,
    steps: int = 2500,
    progress: Callable = iter,
    test: tuple[np.ndarray, np.ndarray] | None = None,
    *,
    transform: Callable[[np.ndarray, np.random.Generator], np.ndarray] = shifts,
    watch: Callable[[float], None] | None = None,
) -> Classifier:
    """Train a classifier on uint8 images (N, H, W, C) with labels (N,), and test it.

    It is tested on `test`, other (images, labels). Without them, a tenth of each class is held out
    for the test. A class with only one image is not tested.
    The network is trained with the cross entropy and Adam, for at most `steps` batches of 64 and at
    most 30 epochs. The learning rate decreases linearly to 0. `transform` changes the uint8 images
    (N, H, W, C) of each batch, given the random numbers; by default, it shifts them. `progress` wraps
    the range of steps, as tqdm does, and `watch` is called with the loss of every step.
    """
    rng, classes = np.random.default_rng(seed), int(labels.max()) + 1
    held_out = _held_out(labels, rng) if test is None else np.zeros(0, np.int64)
    rest = np.setdiff1d(np.arange(len(labels)), held_out)
    test = (images[held_out], labels[held_out]) if test is None else test
    model = network(rng, images.shape[1:], classes).to(backend)
    fused, adam, batch = fuse(model), optim.Adam(model, lr=2e-3), min(64, max(2, len(rest) // 2))
    steps = max(1, min(steps, 30 * (len(rest) // batch)))
    order = np.concatenate([rng.permutation(rest) for _ in range(-(-steps * batch // len(rest)))])
    for step in progress(range(steps)):
        chosen = order[step * batch : (step + 1) * batch]
        adam.lr = 2e-3 * (1 - step / steps)
        x = transform(images[chosen], rng)
        with backend.computing():
            logits, cache = fused.forward(backend.asarray(datasets.scale(x)))
            loss, dlogits = losses.cross_entropy(logits, backend.asarray(labels[chosen]))
            _, grads = fused.backward(dlogits, cache, need_dx=False)
            adam.step(grads)
        if watch is not None:
            watch(float(loss))
    trained = Classifier(model)
    if len(test[0]):
        trained.accuracy = float((trained(test[0]) == test[1]).mean())
    shape = images.shape[1:]
    trained.facts = {"sample_shape": list(shape), "widths": list(widths_for(shape)), "hidden": HIDDEN}
    trained.facts |= {"class_names": [str(label) for label in range(classes)]}
    trained.facts |= {"accuracy": None if math.isnan(trained.accuracy) else trained.accuracy, "tested": len(test[0])}
    trained.facts |= {"seed": seed, "steps": steps}
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
