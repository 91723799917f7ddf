"""What a training needs to know about data, and nothing more: the Data protocol, and what a kind of data declares."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from minigan.backends import Array, Backend
from minigan.options import NoOptions


class Codec(Protocol):
    """The way from what a generator makes to what people use. A checkpoint keeps its fields, so sampling never needs
    the data. A dataclass whose fields JSON can hold."""

    @property
    def view(self) -> str:
        """The picture that `report` draws of samples: "grid" or "scatter"."""
        ...

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Of the files that `save` writes."""
        ...

    def decode(self, samples: np.ndarray) -> Any:
        """What people use, from float samples (N, *sample_shape)."""
        ...

    def save(self, decoded: Any, path: Path) -> None:
        """Writes decoded samples to a file; its suffix is one of `suffixes`. Raises OSError if the disk refuses."""
        ...


class Data(Protocol):
    """Samples to learn from. Images, points and whatever else implement it; `Training` mentions none of them."""

    @property
    def kind(self) -> str:
        """A name of `datasets.KINDS`."""
        ...

    @property
    def name(self) -> str:
        """For titles and messages; no part of the fingerprint."""
        ...

    @property
    def labels(self) -> np.ndarray | None:
        """(N,) whole numbers from 0, or None."""
        ...

    @property
    def class_names(self) -> list[str] | None:
        """One for each label, or None."""
        ...

    @property
    def codec(self) -> Codec:
        """What decodes samples."""
        ...

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one sample in a batch."""
        ...

    @property
    def held_out(self) -> "Data | None":
        """Data that is never trained on, or None."""
        ...

    def __len__(self) -> int: ...

    def to(self, backend: Backend) -> "Data":
        """The same data, placed where `batch` computes."""
        ...

    def batch(self, index: Array) -> Array:
        """float32 (N, *sample_shape) of these samples, scaled; index (N,) int64. Both on the backend."""
        ...

    def fingerprint(self) -> dict:
        """What tells these data from others: shape and checksums of values and labels, not of names."""
        ...


@dataclass(frozen=True)
class Kind:
    """A kind of data: how it is loaded and decoded, and its defaults."""

    name: str
    load: Callable[[str, Any, int], Data]  # (--data, the kind's options, the run's seed)
    codec: Callable[..., Codec]  # from the fields that a checkpoint keeps
    default_preset: str
    builtin: tuple[str, ...]  # the names of --data that are no path, the default first
    example_shape: tuple[int, ...]  # of one small sample, for checks
    claims: Callable[[str], str | None] = lambda data: None  # why --data looks like this kind, or None
    options: type = NoOptions  # a dataclass of `option` fields


def checksums(values: np.ndarray, labels: np.ndarray | None) -> dict:
    """The fingerprint of values (N, ...) and labels (N,)."""
    found: dict = {"shape": list(values.shape), "dtype": str(values.dtype), "values": crc32(values)}
    return found | {"labels": None if labels is None else crc32(labels.astype(np.int64))}


def crc32(array: np.ndarray) -> int:
    """The checksum of an array's numbers in C order."""
    return zlib.crc32(np.ascontiguousarray(array).data)
