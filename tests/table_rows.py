"""Small rows of a table for tests of networks and training: data and codec without files and without pandas."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from minigan.datasets.data import Kind, checksums


@dataclass(frozen=True)
class RowsCodec:
    """A codec of rows with known groups. Its fields can be stored in a checkpoint."""

    columns: tuple = ()
    label: int | None = None

    view, key, suffixes = "scatter", "rows", (".npy",)
    resolution = 100

    @property
    def groups(self):
        """The groups, as a codec of tables derives them from its columns."""
        return tuple((start, stop) for start, stop in self.columns)

    @property
    def label_group(self):
        """The index of the label's group."""
        return self.label

    def decode(self, samples):
        """Return the samples."""
        return samples

    def save(self, decoded, path):
        """Write the samples."""
        np.save(path, decoded)


@dataclass(frozen=True)
class Rows:
    """Rows (N, n) in memory."""

    samples: Any
    labels: np.ndarray | None
    codec: RowsCodec
    backend: Any = None

    kind, name, held_out = "tables", "rows", None

    @property
    def class_names(self):
        """The names of the classes."""
        return None if self.labels is None else [str(label) for label in np.unique(self.labels)]

    def __len__(self):
        return len(self.samples)

    @property
    def sample_shape(self):
        """The shape of a row."""
        return self.samples.shape[1:]

    def to(self, backend):
        """Return the rows on the backend."""
        return replace(self, samples=backend.asarray(self.samples), backend=backend)

    def batch(self, index):
        """Return rows."""
        return self.samples[index]

    def fingerprint(self):
        """Return the checksums."""
        return checksums(self.backend.to_numpy(self.samples) if self.backend else self.samples, self.labels)

    def description(self):
        """Return nothing."""
        return []


KIND = Kind("tables", "row", lambda *_: None, RowsCodec, "table", ("rows",), (6,))


def rows(count: int = 400, seed: int = 0, labels: bool = True, wide: int = 0) -> Rows:
    """Return rows of 2 numbers, a category of 3 values and a label of 2, which depend on each other.

    The label is 1 in 30% of the rows. The category is 0 or 1, as the label, in 90% of them, else 2. The first number
    is near -0.5 or 0.5, as the label, and the second one is uniform. If `wide` is not 0, a category with so many values
    follows, which is independent of the others.
    """
    rng = np.random.default_rng(seed)
    label = (rng.random(count) < 0.3).astype(np.int64)
    category = np.where(rng.random(count) < 0.9, label, 2)
    first = np.clip(label - 0.5 + 0.1 * rng.standard_normal(count), -1, 1)
    parts = [first[:, None], np.eye(3)[category], rng.uniform(-1, 1, (count, 1)), np.eye(2)[label]]
    groups = [(1, 4), (5, 7)]
    if wide:
        parts.append(np.eye(wide)[rng.integers(wide, size=count)])
        groups.append((7, 7 + wide))
    samples = np.concatenate(parts, axis=1).astype(np.float32)
    return Rows(samples, label if labels else None, RowsCodec(tuple(groups), 1 if labels else None))
