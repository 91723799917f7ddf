"""Draw noise, labels and samples. Noise is drawn on the CPU, so that all backends get the same numbers."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from minigan.backends import Array
from minigan.datasets import Codec, index_of
from minigan.errors import UserError
from minigan.layers import Sequential, fuse


def draw_noise(generator: Sequential, rng: np.random.Generator, count: int) -> Array:
    """Draw noise (count, *noise_shape) from N(0, 1)."""
    assert generator.noise_shape is not None  # `Training` checks this
    z = rng.standard_normal((count, *generator.noise_shape), dtype=np.float32)
    return generator.backend.asarray(z)


def draw_labels(generator: Sequential, rng: np.random.Generator, count: int, classes: int) -> Array | None:
    """Draw labels (count,) uniformly from 0 ... classes - 1. Returns None if there are no classes."""
    return generator.backend.asarray(rng.integers(classes, size=count)) if classes else None


def cyclic_labels(generator: Sequential, count: int, classes: int) -> Array | None:
    """Return the labels (count,) 0, 1, ..., classes - 1, 0, 1, ..., or None if there are no classes."""
    return generator.backend.asarray(np.arange(count) % classes) if classes else None


def draw_samples(generator: Sequential, z: Array, labels: Array | None = None) -> np.ndarray:
    """Generate float samples (N, *sample_shape) from noise (N, *noise_shape), with the running statistics.

    The state of the generator does not change.
    """
    generator, parts = fuse(generator), []
    with generator.backend.computing():
        for part in (slice(i, i + 256) for i in range(0, len(z), 256)):
            x, _ = generator.forward(z[part], train=False, labels=None if labels is None else labels[part])
            parts.append(generator.backend.to_numpy(x))
    return np.concatenate(parts)


@dataclass(frozen=True)
class Sampler:
    """A trained generator, and the codec that decodes its output."""

    generator: Sequential
    codec: Codec
    names: list[str] | None = None  # names of the classes, by default 0, 1, ...

    @property
    def classes(self) -> int:
        """The number of classes of the generator; 0 without labels."""
        return self.generator.classes

    @property
    def class_names(self) -> list[str]:
        """The names of the classes of the generator; an empty list without labels."""
        return (self.names or [str(label) for label in range(self.classes)])[: self.classes]

    def labels_for(self, count: int, label: Any = None) -> np.ndarray | None:
        """Return the labels (count,), int64, of `count` samples, or None for a generator without labels.

        They are all classes in cyclic order, or the class named `label`, or, if `label` is a list
        or an array of `count` names, these. Raises UserError if the generator does not have a class.
        """
        if not self.classes:
            if label is not None:
                raise UserError(f"this generator was trained without labels, got label {label}: leave it out")
            return None
        if label is None:
            return np.arange(count) % self.classes
        several = isinstance(label, list | tuple | np.ndarray) and np.ndim(label) > 0
        asked = np.asarray(label, dtype=object).ravel().tolist() if several else [label]
        if several and len(asked) != count:
            raise UserError(f"expected one label or {count}, one for each sample, got {len(asked)}")
        classes = [index_of(_name(one), self.class_names) for one in asked]
        return np.array(classes, np.int64) if several else np.full(count, classes[0], np.int64)

    def draw(self, count: int, rng: np.random.Generator, label: Any = None) -> Any:
        """Draw `count` decoded samples, with the labels of `labels_for`.

        The noise comes from `rng`. Raises UserError if the generator does not have a class.
        """
        labels = self.labels_for(count, label)
        placed = None if labels is None else self.generator.backend.asarray(labels)
        return self.of(draw_noise(self.generator, rng, count), placed)

    def of(self, z: Array, labels: Array | None = None) -> Any:
        """Return the decoded samples for noise (N, *noise_shape) and labels (N,)."""
        return self.codec.decode(draw_samples(self.generator, z, labels))


def _name(label: Any) -> str:
    """Return the name of a class, as `labels.encode` names it: 7, 7.0 and "7" are the same class."""
    whole = isinstance(label, float | np.floating) and label == label // 1
    return label.decode("utf-8", "replace") if isinstance(label, bytes) else str(int(label) if whole else label)
