"""Decode features of series to values: on the grid of the data, with gaps, and with lengths.

A sample has the shape (T, C). Its features are, in this order:

    values    one for each feature of the data that is not constant, (x - centre) / half
    gaps      one for each feature with missing values: 1 where there is a value, -1 where there is none
    end       one if the series have different lengths: 1 while the series lasts, -1 after its end

At a gap, the value is interpolated. After the end of a series, the values are 0.
"""

import csv
import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from minigan.datasets.files import DataError
from minigan.files import write_array, write_atomically

BLOCK = 16_384  # steps that are scaled at a time


@dataclass(frozen=True)
class Feature:
    """A number that is measured at each step. A constant one has no features in a sample."""

    name: str
    low: float  # the smallest and the largest value in the data
    high: float
    centre: float = 0.0  # a value x becomes (x - centre) / half
    half: float = 1.0
    decimals: int | None = None  # of the grid of the values; None for values without one
    gaps: bool = False  # whether values are missing

    @property
    def constant(self) -> bool:
        """Whether all values are equal."""
        return self.low == self.high

    def decode(self, z: np.ndarray) -> np.ndarray:
        """Scale features (...) back, and return float64 within the observed values, on the grid of the data."""
        x = np.clip(z.astype(np.float64) * self.half + self.centre, self.low, self.high)
        if self.decimals is not None:
            x = np.rint(x * 10.0**self.decimals) / 10.0**self.decimals
        return x

    def description(self) -> str:
        """Return a text for people."""
        if self.constant:
            return f"always {self.low:g}, not modelled"
        text = f"{self.low:g} to {self.high:g}"
        if self.decimals is not None:
            of = f"{self.decimals} decimal{'s' if self.decimals > 1 else ''}"
            text += f" with {of}" if self.decimals else ", whole numbers"
        return text + (", with gaps" if self.gaps else "")


@dataclass(frozen=True)
class SequenceCodec:
    """Decodes features (N, T, C) to series: (N, T, F), or (N, T) if the data had no axis of features.

    A value is NaN where the series has a gap, and after its end. `features` are the fields of each `Feature`.
    """

    features: list
    steps: int  # T
    ends: bool = False  # whether the series have different lengths
    shortest: int = 1  # the length of the shortest series
    dtype: str = "float32"
    flat: bool = False  # whether the data had the shape (N, T)
    wide: bool = False  # whether a .csv file has a row for each series
    times: list | None = None  # the name of each step (T,), if all series have the same
    process: str = ""  # the name of the built-in process that drew the data

    view, key = "series", "series"
    suffixes = (".npy", ".csv")

    @cached_property
    def parts(self) -> list[Feature]:
        """The features of the data."""
        return [Feature(**fields) for fields in self.features]

    @cached_property
    def modelled(self) -> list[int]:
        """The indices of the features that are not constant."""
        return [i for i, feature in enumerate(self.parts) if not feature.constant]

    @cached_property
    def gaps(self) -> list[int]:
        """The indices of the features with missing values."""
        return [i for i in self.modelled if self.parts[i].gaps]

    @property
    def width(self) -> int:
        """The number C of features of a sample."""
        return len(self.modelled) + len(self.gaps) + self.ends

    @property
    def flags(self) -> list[int]:
        """The features of a sample that are 1 or -1: gaps, and the end."""
        return list(range(len(self.modelled), self.width))

    @property
    def ended(self) -> list[tuple[int, int]]:
        """The features (start, stop) that end together, the last of which is the flag of the end; none without ends."""
        return [(0, self.width)] if self.ends else []

    @property
    def names(self) -> list[str]:
        """The names of the features of the data."""
        return [feature.name for feature in self.parts]

    def encode(self, values: np.ndarray, absent: np.ndarray) -> np.ndarray:
        """Convert values (M, F) of steps to features (M, C), float32, before the end of their series.

        `absent` (M, F) says which values are gaps, where `values` has what stands for them.
        """
        z = np.ones((len(values), self.width), np.float32)
        parts = [self.parts[i] for i in self.modelled]
        centre, half = np.array([part.centre for part in parts]), np.array([part.half for part in parts])
        for start in range(0, len(values), BLOCK):
            rows = slice(start, start + BLOCK)
            z[rows, : len(parts)] = (values[rows][:, self.modelled].astype(np.float64) - centre) / half
        for k, i in enumerate(self.gaps, len(self.modelled)):
            z[absent[:, i], k] = -1
        return z

    def lengths(self, samples: np.ndarray) -> np.ndarray:
        """Return the length (N,) of each of the samples (N, T, C): it ends at the first step whose feature says so."""
        if not self.ends:
            return np.full(len(samples), self.steps)
        over = samples[..., -1] < 0
        first = np.where(over.any(axis=1), over.argmax(axis=1), self.steps)
        return np.maximum(first, self.shortest)

    def decode(self, samples: np.ndarray) -> np.ndarray:
        """Convert float samples (N, T, C) to series (N, T, F) or (N, T).

        Raises DataError if samples have another shape, or contain NaN.
        """
        if samples.ndim != 3 or samples.shape[1:] != (self.steps, self.width):
            raise DataError(
                f"expected samples (N, {self.steps}, {self.width}), got {samples.shape}: are they of these series?"
            )
        if np.isnan(samples).any():
            raise DataError("expected finite features, got NaN: look for where the numbers first went wrong")
        x = np.empty((*samples.shape[:2], len(self.parts)))
        for i, feature in enumerate(self.parts):
            if feature.constant:
                x[..., i] = feature.low
        for k, i in enumerate(self.modelled):
            x[..., i] = self.parts[i].decode(samples[..., k])
        for k, i in enumerate(self.gaps, len(self.modelled)):
            x[..., i][samples[..., k] < 0] = np.nan
        if self.ends:
            x[np.arange(self.steps) >= self.lengths(samples)[:, None]] = np.nan
        x = x.astype(self.dtype)
        return x[..., 0] if self.flat else x

    def save(self, decoded: np.ndarray, path: Path) -> None:
        """Write a .npy file, or a .csv file.

        The .csv file has a row for each step, with the columns series, time and the features, or a row for each series
        if the data were read from such a file. A missing value is empty, and steps after the end are left out.
        """
        if path.suffix == ".npy":
            return write_array(path, decoded)
        x = with_features(decoded)
        times: list[Any] = list(range(self.steps)) if self.times is None else self.times
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if self.wide:
            writer.writerow(times)
            writer.writerows([_cell(value) for value in series] for series in x[..., 0])
        else:
            writer.writerow(["series", "time", *self.names])
            for n, series in enumerate(x):
                there = ~np.isnan(series).all(axis=1) if series.dtype.kind == "f" else np.ones(len(series), bool)
                end = int(np.flatnonzero(there)[-1]) + 1 if there.any() else 0
                writer.writerows([n, times[t], *map(_cell, series[t])] for t in range(end))
        write_atomically(path, text.getvalue().encode())


def with_features(x: np.ndarray) -> np.ndarray:
    """Return series (N, T) or (N, T, F) as (N, T, F)."""
    return x[..., None] if x.ndim == 2 else x


def _cell(value: Any) -> str:
    """Return a number as the shortest text from which it can be read exactly, and "" for NaN."""
    return "" if value != value else str(value.item() if value.dtype.itemsize == 8 else value)
