"""Prepare series for training: lengths, windows, gaps, constant features, scales and grids.

A reader returns `Series`, whatever the file was like. `prepared` checks them, cuts windows, deals with gaps, and
returns the steps as the networks see them. Each of these decisions is printed as a note, or refused in one sentence.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np

from minigan.datasets.columns import decimals_of
from minigan.datasets.files import DataError, expect_room
from minigan.datasets.labels import listing
from minigan.datasets.sequence_codec import Feature, SequenceCodec

MIN_STEPS = 2  # of a series
PROBED = 1000  # values that are tried first when the grid is searched
SPREAD = 3.0  # standard deviations that become 1 with --scale deviation
FAR = 0.1  # 99% of the values in a smaller part of the range are reported
SHOWN = 20  # features that the description names


class Series(NamedTuple):
    """Series as they were read: all steps of the first one, then those of the second one, and so on."""

    values: np.ndarray  # (M, F) float64 or integers, the features of every step; NaN is missing
    lengths: np.ndarray  # (N,) int64, the number of steps of each series
    names: list[str]  # of the features (F,)
    labels: np.ndarray | None = None  # (N,), of any type
    ids: Sequence[Any] | None = None  # (N,), the name of each series; by default its number
    dtype: str = "float64"  # of decoded samples
    flat: bool = False  # whether the data had the shape (N, T)
    wide: bool = False  # whether the file has a row for each series
    times: list | None = None  # names of the steps (T,), if all series have the same
    scales: tuple[float, float] | None = None  # of whole numbers: the smallest and the largest value of every feature
    process: str = ""  # the name of the built-in process that drew the data
    origin: str = ""  # what was read, for people
    labels_from: str = ""
    notes: tuple[str, ...] = ()  # what was assumed, changed or left out
    kept: np.ndarray = np.zeros(0, np.int64)  # the series that were kept, as indices of those that were read

    def name_of(self, n: int) -> str:
        """Return what a message calls series n of those that were kept."""
        place = int(self.kept[n]) if len(self.kept) else n
        return f"series {place if self.ids is None else self.ids[place]}"


class Prepared(NamedTuple):
    """Series as the networks see them. Sample n is `steps[starts[n] : starts[n] + T]`."""

    steps: np.ndarray  # (M, C) float32
    starts: np.ndarray  # (N,) int64
    owners: np.ndarray  # (N,) int64, the series from which each sample comes, of those that were kept
    kept: np.ndarray  # (K,) int64, the series that were kept, as indices of those that were read
    codec: SequenceCodec
    lines: list[tuple[str, str]]  # what was assumed, changed or left out


def prepared(found: Series, window: int, stride: int, pad: bool, missing: str, scale: str) -> Prepared:
    """Return the samples of series.

    `window` and `stride` cut windows (0: none). `pad` allows series of different lengths. `missing` says what is done
    about missing values: "" refuses them, "fill" interpolates, and "keep" makes them part of the samples. `scale` is
    "range" or "deviation".

    Raises DataError, which says in one sentence what is wrong, where, and what to do.
    """
    lines: list[tuple[str, str]] = []
    _expect_numbers(found)
    found = found._replace(kept=np.arange(len(found.lengths)))
    found = _without_ends(found, lines)
    if window:
        found = _long_enough(found, window, lines)
        starts, owners = _windows(found, window, stride, lines)
        steps, ends = window, False
    else:
        steps = _longest(found, pad, lines)
        starts, owners = np.arange(len(found.lengths)) * steps, np.arange(len(found.lengths))
        ends = bool((found.lengths < steps).any())
    absent = _absent(found.values)
    values = _complete(found, absent, missing, lines)
    features = _features(found, absent, missing == "keep", scale, lines)
    codec = SequenceCodec(
        [asdict(feature) for feature in features],
        steps,
        ends,
        int(found.lengths.min()) if ends else steps,
        _dtype(found, ends or any(feature.gaps for feature in features)),
        found.flat,
        found.wide,
        None if window or found.times is None or len(found.times) != steps else found.times,
        found.process,
    )
    encoded = codec.encode(values, absent)
    if ends:
        encoded = _padded(encoded, found.lengths, steps)
    return Prepared(encoded, starts, owners, found.kept, codec, lines)


# ---------------------------------------------------------------- lengths and windows


def _absent(values: np.ndarray) -> np.ndarray:
    """Return where values (M, F) are missing."""
    return np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)


def _place(found: Series, row: int) -> str:
    """Return what a message calls the series and the step of a row of the values."""
    ends = np.cumsum(found.lengths)
    n = int(np.searchsorted(ends, row, side="right"))
    return f"{found.name_of(n)}, step {row - int(ends[n] - found.lengths[n])}"


def _expect_numbers(found: Series) -> None:
    """Raise DataError if there are no values, or if one is infinite."""
    if not len(found.lengths) or not found.values.size:
        raise DataError("expected at least one series with a value, got none: is this the right file?")
    if found.values.dtype.kind == "f" and np.isinf(found.values).any():
        row, column = np.argwhere(np.isinf(found.values))[0]
        raise DataError(
            f"expected finite numbers, got {found.values[row, column]} in {_place(found, row)}, feature "
            f"{found.names[column]}: replace it, or write nan where a value is missing"
        )


def _without_ends(found: Series, lines: list[tuple[str, str]]) -> Series:
    """Return the series without the steps at their ends at which every value is missing, and without empty series."""
    empty = np.logical_and.reduce(_absent(found.values), axis=1)
    if not empty.any():
        return found
    ends = np.cumsum(found.lengths)
    firsts = ends - found.lengths
    last = np.where(empty, -1, np.arange(len(empty)))
    # the last step with a value, from the first one of each series on
    lengths = np.maximum(np.maximum.reduceat(last, firsts) - firsts + 1, 0)
    if not lengths.any():
        raise DataError("every value is missing: is this the right file?")
    keep = np.arange(len(empty)) - np.repeat(firsts, found.lengths) < np.repeat(lengths, found.lengths)
    kept = lengths > 0
    if not kept.all():
        lines.append(("note", f"left out: {int((~kept).sum()):,} series without any value"))
    if (short := int((lengths[kept] < found.lengths[kept]).sum())) > 0:
        lines.append(("note", f"shorter: {short:,} series that end with missing values"))
    return _chosen(found._replace(values=found.values[keep], lengths=lengths), kept)


def _chosen(found: Series, kept: np.ndarray) -> Series:
    """Return the series for which `kept` (N,) holds. The others must be empty."""
    return found._replace(lengths=found.lengths[kept], kept=found.kept[kept])


def _long_enough(found: Series, window: int, lines: list[tuple[str, str]]) -> Series:
    """Return the series of at least `window` steps. Raises DataError if there are none."""
    kept: np.ndarray = found.lengths >= window
    if not kept.any():
        longest = f"{int(found.lengths.max()):,} steps"
        what = f"the series has {longest}" if len(kept) == 1 else f"the longest series has {longest}"
        raise DataError(f"a window of {window:,} steps is longer than the data, because {what}: choose a smaller one")
    if kept.all():
        return found
    lines.append(("note", f"left out: {int((~kept).sum()):,} series shorter than a window"))
    return _chosen(found._replace(values=found.values[np.repeat(kept, found.lengths)]), kept)


def _windows(found: Series, window: int, stride: int, lines: list[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the first row of each window (N,), and the series from which it is cut (N,)."""
    firsts = np.cumsum(found.lengths) - found.lengths
    counts = (found.lengths - window) // stride + 1
    owners = np.repeat(np.arange(len(counts)), counts)
    number = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
    of = f"{len(counts):,} series" if len(counts) > 1 else f"one series of {int(found.lengths[0]):,} steps"
    every = f", one every {stride} steps" if stride > 1 else ""
    lines.append(("windows", f"{len(owners):,} of {window:,} steps{every}, from {of}"))
    return firsts[owners] + number * stride, owners


def _longest(found: Series, pad: bool, lines: list[tuple[str, str]]) -> int:
    """Return the length of the longest series. Raises DataError if the series cannot be trained on as they are."""
    shortest, longest = int(found.lengths.min()), int(found.lengths.max())
    if len(found.lengths) == 1 and longest >= MIN_STEPS:
        raise DataError(
            f"the data are one series of {longest:,} steps, and a GAN needs many: --window N cuts windows of N steps"
        )
    if shortest < MIN_STEPS:
        n = int(found.lengths.argmin())
        raise DataError(
            f"a series has at least {MIN_STEPS} steps, and {found.name_of(n)} has {shortest}: leave it out, or give "
            "rows without an order as a table (--kind tables)"
        )
    if shortest < longest and not pad:
        raise DataError(
            f"the series have different lengths, {shortest:,} to {longest:,} steps: --pad pads them, so that samples "
            "have lengths too, and --window N cuts windows of equal length"
        )
    if shortest < longest:
        lines.append(("lengths", f"{shortest:,} to {longest:,} steps; shorter series are padded, and samples too"))
    return longest


def _padded(encoded: np.ndarray, lengths: np.ndarray, steps: int) -> np.ndarray:
    """Return features (M, C) as (N * steps, C): after the end of a series, they are 0, and the last one is -1."""
    expect_room(len(lengths) * steps * encoded.shape[1] * 4, "the padded series", "use --window N, or fewer series")
    padded = np.zeros((len(lengths) * steps, encoded.shape[1]), np.float32)
    padded[:, -1] = -1
    padded[(np.arange(steps) < lengths[:, None]).ravel()] = encoded
    return padded


# ---------------------------------------------------------------- gaps


def _complete(found: Series, absent: np.ndarray, missing: str, lines: list[tuple[str, str]]) -> np.ndarray:
    """Return values (M, F) without gaps. Raises DataError if there are some, and `missing` does not say what to do."""
    count = int(absent.sum())
    if not count:
        return found.values
    if not missing:
        row, column = np.argwhere(absent)[0]
        raise DataError(
            f"{count:,} of {absent.size:,} values are missing, the first one in {_place(found, row)}, feature "
            f"{found.names[column]}: --missing fill interpolates them, --missing keep makes gaps part of the samples"
        )
    values, firsts = found.values.copy(), np.cumsum(found.lengths) - found.lengths
    alone = 0
    for column in np.flatnonzero(absent.any(axis=0)):
        known = ~absent[:, column]
        mean = values[known, column].mean() if known.any() else 0.0
        owners = np.repeat(np.arange(len(firsts)), found.lengths)
        for n in np.unique(owners[~known]):
            part = slice(firsts[n], firsts[n] + found.lengths[n])
            here = np.flatnonzero(known[part])
            alone += not len(here)
            at = np.arange(found.lengths[n])
            values[part, column] = np.interp(at, here, values[part, column][here]) if len(here) else mean
    what = "was interpolated" if missing == "fill" else "is a gap, which samples have too"
    lines.append(("missing", f"{count:,} of {absent.size:,} values; each {what}"))
    if alone and missing == "fill":
        lines.append(("note", f"where a series has no value of a feature ({alone:,} times), the mean was taken"))
    return values


def _dtype(found: Series, has_nan: bool) -> str:
    """Return the dtype of decoded samples: that of the data, or float64 if integers may be missing."""
    return "float64" if has_nan and np.dtype(found.dtype).kind != "f" else found.dtype


# ---------------------------------------------------------------- features


def _features(found: Series, absent: np.ndarray, keep: bool, scale: str, lines: list[tuple[str, str]]) -> list[Feature]:
    """Return the scale and the grid of each feature. Raises DataError if all features are constant.

    `absent` (M, F) says which values are missing, and `keep` whether samples should have such gaps too.
    """
    features, far = [], []
    for i, name in enumerate(found.names):
        if found.scales is not None:
            low, high = found.scales
            features.append(Feature(name, low, high, low / 2 + high / 2, high / 2 - low / 2, 0))
            continue
        known = found.values[~absent[:, i], i].astype(np.float64)
        if not len(known):
            features.append(Feature(name, 0.0, 0.0))
            lines.append(("note", f"{name}: every value is missing, and 0 stands for it"))
            continue
        feature, outliers = _scaled(name, known, found, scale)
        if keep and len(known) < len(absent):
            if feature.constant:
                lines.append(("note", f"{name}: its values are all equal, so its gaps are not modelled"))
            else:
                feature = replace(feature, gaps=True)
        if outliers:
            far.append(name)
        features.append(feature)
    if all(feature.constant for feature in features):
        which = f"{found.names[0]} is" if len(features) == 1 else f"{listing(found.names, 5)} are"
        raise DataError(f"{which} constant, so there is nothing to learn: is this the right file?")
    for feature in features:
        if feature.constant or len(features) <= SHOWN:
            lines.append(("constant" if feature.constant else "feature", f"{feature.name}: {feature.description()}"))
    if len(features) > SHOWN:
        lines.append(("features", f"{len(features):,}: {listing(found.names, 5)}"))
    if far:
        lines.append(
            (
                "note",
                f"most values of {listing(far, 5)} are close to each other, because a few are far away: "
                "--scale deviation may help",
            )
        )
    return features


def _scaled(name: str, known: np.ndarray, found: Series, scale: str) -> tuple[Feature, bool]:
    """Return the feature with these values (K,), none of which is missing, and whether its range has outliers."""
    dtype = np.dtype(found.dtype)
    single = dtype.kind == "f" and dtype.itemsize < 8
    decimals = _grid(known, np.dtype("float32" if single else "float64")) if dtype.kind == "f" else 0
    low, high = float(known.min()), float(known.max())
    if low == high:
        return Feature(name, low, high, low), False
    centre, half = low / 2 + high / 2, high / 2 - low / 2
    z = (known - centre) / half
    far = scale == "range" and float(np.ptp(np.quantile(z, (0.005, 0.995)))) < 2 * FAR
    if scale == "deviation":
        centre, half = centre + float(z.mean()) * half, SPREAD * float(z.std()) * half
    return Feature(name, low, high, centre, half, decimals), far


def _grid(known: np.ndarray, precision: np.dtype) -> int | None:
    """Return the number of decimals of all values (K,), or None. A few values are tried first."""
    few = known[:: max(1, len(known) // PROBED)]
    return None if decimals_of(few, precision) is None else decimals_of(known, precision)
