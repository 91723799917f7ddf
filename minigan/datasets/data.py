"""The Data protocol, which is all that training knows about data, and Kind, which describes one kind of data."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from minigan.backends import Array, Backend
from minigan.options import NoOptions


class Codec(Protocol):
    """Decodes the output of a generator into images or points, and saves them.

    A codec is a dataclass with fields that JSON can represent. Checkpoints store the fields, so that drawing samples
    does not need the data.
    """

    @property
    def view(self) -> str:
        """The way that `report` draws samples: "grid", "scatter", "table" or "series"."""
        ...

    @property
    def key(self) -> str:
        """The key of the samples in a .npz file."""
        ...

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The suffixes of the files that `save` can write."""
        ...

    def decode(self, samples: np.ndarray) -> Any:
        """Decode float samples (N, *sample_shape)."""
        ...

    def save(self, decoded: Any, path: Path) -> None:
        """Write decoded samples to a file with one of the `suffixes`. Raises OSError if writing fails."""
        ...


class Data(Protocol):
    """Samples to train on. `Training` uses only this protocol, which every kind of data implements."""

    @property
    def kind(self) -> str:
        """The name of this kind of data in `datasets.KINDS`."""
        ...

    @property
    def name(self) -> str:
        """A name for titles and messages. It is not part of the fingerprint."""
        ...

    @property
    def labels(self) -> np.ndarray | None:
        """The labels (N,), integers from 0, or None."""
        ...

    @property
    def class_names(self) -> list[str] | None:
        """A name for each class, or None without labels."""
        ...

    @property
    def codec(self) -> Codec:
        """The codec that decodes generated samples."""
        ...

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one sample in a batch."""
        ...

    @property
    def held_out(self) -> "Data | None":
        """Data that are not used in training, or None."""
        ...

    def __len__(self) -> int:
        """The number of samples."""
        ...

    def to(self, backend: Backend) -> "Data":
        """Return the same data, stored on the backend, so that `batch` computes there."""
        ...

    def batch(self, index: Array) -> Array:
        """Return scaled samples, float32 (N, *sample_shape), for index (N,) int64. Both arrays are on the backend."""
        ...

    def fingerprint(self) -> dict:
        """Return the shape, and checksums of values and labels, which identify the data. The name is not included."""
        ...

    def description(self) -> list[tuple[str, str]]:
        """Return what was read, as lines (topic, sentence) for people.

        The lines name the source and the labels, and say what was assumed, changed and left out.
        """
        ...


@runtime_checkable
class Divisible(Data, Protocol):
    """Data of which a part can be held out: see `held_out.hold_out`. The training itself does not need this."""

    def part(self, index: np.ndarray) -> "Divisible":
        """Return the samples of index (N,), without `held_out`. Classes and codec stay the same."""
        ...

    def holding(self, held_out: Data, source: str) -> Data:
        """Return the same data with these `held_out`. `source` says what they are, for `description`."""
        ...


@dataclass(frozen=True)
class Kind:
    """Describes a kind of data: how it is loaded and decoded, and its defaults."""

    name: str
    noun: str  # one sample
    load: Callable[[str, Any, int, bool], Data]  # (--data, the kind's options, the run's seed, whether to read labels)
    codec: Callable[..., Codec]  # takes the fields stored in a checkpoint
    default_preset: str
    builtin: tuple[str, ...]  # values of --data that are not paths, the default first
    example_shape: tuple[int, ...]  # shape of one small sample, for checks
    claims: Callable[[str], str | None] = lambda data: None  # the reason if this --data is of this kind, else None
    reads: Callable[[str], bool] = lambda data: False  # whether it can read this --data, which another kind may claim
    takes: Callable[[Any], str | None] = lambda x: None  # what an object in memory is if it is of this kind, else None
    options: type = NoOptions  # a dataclass with `option` fields
    # if it takes arrays: (array, labels, the kind's options, whether networks will see the labels)
    convert: Callable[[Any, Any, Any, bool], Data] | None = None


def checksums(values: np.ndarray, labels: np.ndarray | None) -> dict:
    """Return the fingerprint of values (N, ...) and labels (N,)."""
    found: dict = {"shape": list(values.shape), "dtype": str(values.dtype), "values": crc32(values)}
    return found | {"labels": None if labels is None else crc32(labels.astype(np.int64))}


def crc32(array: np.ndarray) -> int:
    """Return the CRC-32 checksum of the elements of an array in C order."""
    return zlib.crc32(np.ascontiguousarray(array).data)
