"""Convert pixels of any dtype to uint8. Their range is recognised from the dtype and all values."""

from dataclasses import dataclass

import numpy as np

from minigan.datasets.files import DataError

BLOCK = 1024  # images converted at a time, which limits the memory for temporary floats
TOLERANCE = 1e-3  # share of a range's width. Rounding and resizing exceed a range by less, other ranges by more


@dataclass(frozen=True)
class Range:
    """The values that are converted to 0 and 255, and the reason."""

    low: float
    high: float
    reason: str

    def __str__(self) -> str:
        return f"{self.reason} ({self.low:g} becomes 0 and {self.high:g} becomes 255)"


def to_bytes(x: np.ndarray, where: str, given: tuple[float, float] | None = None) -> tuple[np.ndarray, list[str]]:
    """Convert values (N, ...) of any numeric dtype to uint8, and return notes on what was assumed.

        round(255 * (x - low) / (high - low)), clipped to [0, 255]

    `given` is (low, high). If it is None, `find_range` chooses the range. Raises DataError for
    values that are not finite and for ranges that cannot be recognised.
    """
    if x.dtype.kind not in "biuf":
        raise DataError(f"{where}: expected numbers for pixels, got {x.dtype}: save plain uint8 or float arrays")
    _expect_finite(x, where)
    lowest, highest = x.min(), x.max()
    found = Range(*given, "as --range says") if given else find_range(x.dtype, lowest, highest, where)
    notes = [f"pixels are {x.dtype} from {lowest:g} to {highest:g}: read as {found}"]
    width = found.high - found.low
    outside = np.count_nonzero(x < found.low - TOLERANCE * width) + np.count_nonzero(x > found.high + TOLERANCE * width)
    if outside:
        notes.append(f"{outside:,} of {x.size:,} values lie outside of that range and are clipped")
    if x.dtype == np.uint8 and (found.low, found.high) == (0, 255):
        return np.ascontiguousarray(x), notes
    images = np.empty(x.shape, np.uint8)
    for i in range(0, len(x), BLOCK):
        block = x[i : i + BLOCK].astype(np.float64)
        block = (block - found.low) * (255 / width)
        images[i : i + BLOCK] = np.rint(np.clip(block, 0, 255))
    return images, notes


def find_range(dtype: np.dtype, lowest: float, highest: float, where: str) -> Range:
    """Return the range of pixels, given their dtype, smallest value and largest value.

    Booleans, and integers that are all 0 or 1, are black and white. Other integers from 0 to 255
    have the range 0 to 255, and other uint16 values the range 0 to 65535. Floats have the range
    0 to 1, -1 to 1 or 0 to 255, and may exceed it by TOLERANCE of its width. The range -1 to 1
    requires a value below -0.55, and the range 0 to 255 a value above 127, because pixels from -0.5
    to 0.5 and from 0 to 16 occur as well. Raises DataError, which names --range, for other values.
    """
    if dtype.kind == "b":
        return Range(0, 1, "black and white")
    if dtype.kind in "iu":
        if lowest >= 0 and highest <= 1:
            return Range(0, 1, "black and white")
        if lowest >= 0 and highest <= 255:
            return Range(0, 255, "0 to 255")
        if dtype == np.uint16:
            return Range(0, 65535, "16 bits")
    else:
        if _fits(lowest, highest, 0, 1):
            return Range(0, 1, "0 to 1")
        if _fits(lowest, highest, -1, 1) and lowest < -0.55:
            return Range(-1, 1, "-1 to 1")
        if _fits(lowest, highest, 0, 255) and highest > 127:
            return Range(0, 255, "0 to 255")
    raise DataError(
        f"{where}: expected pixels from 0 to 255, 0 to 1 or -1 to 1, got {dtype} from {lowest:g} to {highest:g}: say "
        f"which values are black and white, for example with --range {lowest:.4g},{highest:.4g}"
    )


def _fits(lowest: float, highest: float, low: float, high: float) -> bool:
    """Return whether the values are between low and high, up to TOLERANCE of the width."""
    slack = TOLERANCE * (high - low)
    return lowest >= low - slack and highest <= high + slack


def _expect_finite(x: np.ndarray, where: str) -> None:
    """Raise DataError, which gives the index of the value, if a value of x is not finite."""
    if x.dtype.kind != "f":
        return
    for i in range(0, len(x), BLOCK):
        wrong = ~np.isfinite(x[i : i + BLOCK])
        if wrong.any():
            first = np.unravel_index(wrong.argmax(), wrong.shape)
            index = (i + int(first[0]), *map(int, first[1:]))
            raise DataError(
                f"{where}: expected finite pixels, got {x[index]} at index {index}: repair that image or leave it out"
            )


def parse_range(text: str) -> tuple[float, float]:
    """Return (low, high) from the text "LOW,HIGH". Raises DataError unless low < high."""
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low = high = 0.0
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise DataError(f"--range takes two numbers, black and white, such as --range 0,255, got {text!r}")
    return low, high
