"""Draw noise, labels and samples. Noise is drawn on the CPU, so that all backends get the same numbers."""

import contextlib
import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from minigan.backends import Array
from minigan.datasets import Codec, index_of
from minigan.errors import UserError
from minigan.layers import Layer, Sequential, fuse

CHUNK = 256  # samples that are generated at once
AT_ONCE = 2000  # rows, at least, of which those are kept for which conditions hold
PATIENCE = 1000  # rows drawn for each one that is wanted, after which conditions are given up


def draw_noise(generator: Sequential, rng: np.random.Generator, count: int) -> Array:
    """Draw noise (count, *noise_shape) from N(0, 1)."""
    assert generator.noise_shape is not None  # `Training` checks this
    z = rng.standard_normal((count, *generator.noise_shape), dtype=np.float32)
    return generator.backend.asarray(z)


def draw_labels(generator: Sequential, rng: np.random.Generator, count: int, classes: int) -> Array | None:
    """Draw labels (count,) uniformly from 0 ... classes - 1. Returns None if there are no classes."""
    return generator.backend.asarray(rng.integers(classes, size=count)) if classes else None


def every_label(count: int, classes: int, codec: Codec) -> np.ndarray:
    """Return labels (count,) in which all classes occur: 0, 1, ..., classes - 1, 0, 1, ...

    If the codec knows the shares of the classes, because they are a column of the data, the labels
    have these shares: label k of the sequence is the class at the position k * golden ratio (modulo
    1) of the sorted data, so that every beginning of the sequence has nearly these shares, too.
    """
    shares = getattr(codec, "label_shares", None)
    if shares is None:
        return np.arange(count) % classes
    places = (0.5 + np.arange(count) * (math.sqrt(5) - 1) / 2) % 1
    return np.minimum(np.searchsorted(np.cumsum(shares), places, side="right"), classes - 1)


def draw_samples(generator: Sequential, z: Array, labels: Array | None = None) -> np.ndarray:
    """Generate float samples (N, *sample_shape) from noise (N, *noise_shape), with the running statistics.

    Layers that draw random numbers in evaluation too, such as the head of a table, get a stream that
    depends on z alone. So the same z gives the same samples, whatever was drawn before. The state of
    the generator does not change.
    """
    generator, parts = fuse(generator), []
    drawing = _drawing_layers(generator)
    with generator.backend.computing(), _restored(drawing):
        for part in (slice(i, i + CHUNK) for i in range(0, len(z), CHUNK)):
            if drawing:
                _set_stream(drawing, generator.backend.to_numpy(z[part.start]))
            x, _ = generator.forward(z[part], train=False, labels=None if labels is None else labels[part])
            parts.append(generator.backend.to_numpy(x))
    return np.concatenate(parts)


def _drawing_layers(layer: Layer) -> list[Layer]:
    """Return the layers inside a layer that draw random numbers with train=False."""
    return (
        [layer] if layer.draws_in_evaluation else [found for part in layer.inner() for found in _drawing_layers(part)]
    )


@contextlib.contextmanager
def _restored(layers: list[Layer]) -> Iterator[None]:
    """Give the layers their stream back on exit."""
    before = [(layer.buffers["key"].copy(), layer.buffers["draws"].copy()) for layer in layers]
    try:
        yield
    finally:
        for layer, (key, draws) in zip(layers, before, strict=True):
            layer.buffers["key"][...], layer.buffers["draws"][...] = key, draws


def _set_stream(layers: list[Layer], z: np.ndarray) -> None:
    """Give each layer a stream that depends only on its position and on z, the first noise vector of a chunk.

    The first one alone decides, so that the first 10 of 100 samples are those that are drawn if only
    10 are: the numbers that a layer draws depend on the stream and the position in the chunk.
    """
    for number, layer in enumerate(layers):
        digest = hashlib.blake2b(z.astype("<f4").tobytes(), digest_size=8, salt=number.to_bytes(8, "little")).digest()
        layer.buffers["key"][...], layer.buffers["draws"][...] = int.from_bytes(digest, "little"), 0


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

        They are all classes, see `every_label`, or the class named `label`, or, if `label` is a list
        or an array of `count` names, these. Raises UserError if the generator does not have a class.
        """
        if not self.classes:
            if label is not None:
                raise UserError(f"this generator was trained without labels, got label {label}: leave it out")
            return None
        if label is None:
            return every_label(count, self.classes, self.codec)
        several = isinstance(label, list | tuple | np.ndarray) and np.ndim(label) > 0
        asked = np.asarray(label, dtype=object).ravel().tolist() if several else [label]
        if several and len(asked) != count:
            raise UserError(f"expected one label or {count}, one for each sample, got {len(asked)}")
        classes = [index_of(_name(one), self.class_names) for one in asked]
        return np.array(classes, np.int64) if several else np.full(count, classes[0], np.int64)

    def draw(
        self, count: int, rng: np.random.Generator, label: Any = None, where: Mapping[str, Any] | None = None
    ) -> Any:
        """Draw `count` decoded samples, with the labels of `labels_for`.

        `where` maps columns of a table to values that every row has. The column of the labels is asked
        for; for other columns, rows are drawn until enough of them have the values. The noise comes
        from `rng`. Raises UserError if the generator does not have a class, a column or a value, or if
        rows with these values are too rare.
        """
        if where:
            return self._draw_where(count, rng, label, where)
        labels = self.labels_for(count, label)
        placed = None if labels is None else self.generator.backend.asarray(labels)
        return self.of(draw_noise(self.generator, rng, count), placed)

    def _draw_where(self, count: int, rng: np.random.Generator, label: Any, where: Mapping[str, Any]) -> Any:
        """Draw samples for which the conditions hold, as `draw` does."""
        codec: Any = self.codec
        if not hasattr(codec, "conditions"):
            raise UserError("conditions are for columns of tables, and these samples have none: leave them out")
        if np.ndim(label) > 0:
            raise UserError(f"with conditions, all rows have one label, got a list of {len(label)}: give one, or none")
        asked, conditions = codec.conditions(where)
        if asked is not None and label is not None and _name(label) != asked:
            raise UserError(f"the label is {label}, and the condition asks for {asked}: give one of them")
        if asked is not None and self.classes:
            label = asked
        elif asked is not None:
            conditions = codec.conditions(where, labels=False)[1]
        kept: list[np.ndarray] = []
        found = drawn = 0
        while found < count:
            labels = self.labels_for(max(count, AT_ONCE), label)
            z = draw_noise(self.generator, rng, max(count, AT_ONCE))
            samples = draw_samples(
                self.generator, z, None if labels is None else self.generator.backend.asarray(labels)
            )
            samples = samples[codec.hold(samples, conditions)]
            kept.append(samples)
            found, drawn = found + len(samples), drawn + len(z)
            if drawn >= PATIENCE * count and found < count:
                values = ", ".join(f"{name}={value}" for name, value in where.items())
                raise UserError(
                    f"only {found} of {drawn:,} rows have {values}, and {count} are wanted: ask for fewer rows or "
                    "fewer conditions, or train with the rarest of these columns as --label"
                )
        return codec.decode(np.concatenate(kept)[:count])

    def of(self, z: Array, labels: Array | None = None) -> Any:
        """Return the decoded samples for noise (N, *noise_shape) and labels (N,)."""
        return self.codec.decode(draw_samples(self.generator, z, labels))


def _name(label: Any) -> str:
    """Return the name of a class, as `labels.encode` names it: 7, 7.0 and "7" are the same class."""
    whole = isinstance(label, float | np.floating) and label == label // 1
    return label.decode("utf-8", "replace") if isinstance(label, bytes) else str(int(label) if whole else label)
