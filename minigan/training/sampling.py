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

    def draw(self, count: int, rng: np.random.Generator, label: int | str | None = None) -> Any:
        """Draw `count` decoded samples, of all classes in cyclic order, or of the class named `label`.

        The noise comes from `rng`. Raises UserError if the generator does not have this class.
        """
        if label is not None and not self.classes:
            raise UserError(f"this run has no labels, got {label}")
        labels = cyclic_labels(self.generator, count, self.classes)
        if label is not None:
            labels = self.generator.backend.xp.full_like(labels, index_of(str(label), self.class_names))
        return self.of(draw_noise(self.generator, rng, count), labels)

    def of(self, z: Array, labels: Array | None = None) -> Any:
        """Return the decoded samples for noise (N, *noise_shape) and labels (N,)."""
        return self.codec.decode(draw_samples(self.generator, z, labels))
