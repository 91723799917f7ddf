"""Read columns of data frames as arrays, by the kinds of the columns.

`kinds` maps the name of a column to its kind: a key of KINDS. Columns that are not in `kinds` are ignored.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np

from minigan.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

KINDS = {  # what the values of a column are to all figures
    "continuous": "number",
    "integer": "number",
    "date": "number",
    "category": "category",
    "boolean": "category",
}
LARGEST = 1e307  # larger finite numbers count as this one, so that a difference is never infinite


def is_number(kind: str) -> bool:
    """Return whether columns of this kind are numbers or dates, and not categories."""
    return KINDS[kind] == "number"


def check(kinds: Mapping[Any, str], frames: Mapping[str, "pd.DataFrame | None"]) -> None:
    """Raise UserError if `kinds` is empty or has an unknown kind, or if a frame lacks a column.

    The key of a frame says which rows it has. None is no frame.
    """
    if not kinds:
        raise UserError("a comparison of tables needs at least one column, and kinds names none")
    for name, kind in kinds.items():
        if kind not in KINDS:
            raise UserError(f"column {name!r} has the kind {kind!r}: expected {', '.join(KINDS)}, or leave it out")
        for which, frame in frames.items():
            if frame is not None and name not in frame.columns:
                near = get_close_matches(str(name), map(str, frame.columns), 3)
                hint = f"its nearest names are {', '.join(near)}" if near else "it must have the columns of kinds"
                raise UserError(f"the {which} rows have no column {name!r}: {hint}")


def numbers(column: "pd.Series | np.ndarray", kind: str) -> np.ndarray:
    """Return a column of numbers or dates as float64 (N,), dates in microseconds. NaN is a missing value."""
    if isinstance(column, np.ndarray):  # of numbers, for which pandas is not needed
        return column.astype(np.float64)
    import pandas as pd

    if kind == "date":
        dates = pd.to_datetime(column)
        missing = dates.isna().to_numpy()
        x = dates.to_numpy(dtype="datetime64[us]").astype(np.int64).astype(np.float64)  # UTC, if it has a time zone
    else:
        values = pd.to_numeric(column, errors="coerce")
        missing = values.isna().to_numpy()
        x = values.to_numpy(dtype=np.float64, na_value=np.nan)
    finite = np.isfinite(x)
    x = np.where(finite, np.clip(x, -LARGEST, LARGEST), x)
    x[missing] = np.nan
    return x


def codes(columns: Sequence["pd.Series"]) -> list[np.ndarray]:
    """Return int64 codes (N,) for the values of each column. Equal values of all columns have equal codes.

    Missing values, of whatever type, have the code -1.
    """
    import pandas as pd

    every = pd.concat([column.astype(object) for column in columns], ignore_index=True)
    found = pd.factorize(every)[0].astype(np.int64)
    return np.split(found, np.cumsum([len(column) for column in columns])[:-1])


def row_keys(frames: Sequence["pd.DataFrame"], kinds: Mapping[Any, str]) -> list[np.ndarray]:
    """Return an int64 key (N,) for each row of each frame. Rows of all frames have equal keys if all values are equal.

    Missing values are equal to each other.
    """
    import pandas as pd

    lengths = [len(frame) for frame in frames]
    keys = np.zeros(sum(lengths), np.int64)
    for name, kind in kinds.items():
        if is_number(kind):
            values = pd.factorize(np.concatenate([numbers(frame[name], kind) for frame in frames]))[0]
        else:
            values = np.concatenate(codes([frame[name] for frame in frames]))
        # The product fits in int64: keys and values are both below the number of rows.
        keys = pd.factorize(keys * (values.max(initial=0) + 2) + values + 1)[0].astype(np.int64)
    return np.split(keys, np.cumsum(lengths)[:-1])
