"""Conditions on columns of a table: rows that have given values in columns of categories.

    income=>50K        as --where takes it: the first = separates the column and its value

A condition names a column that is a category and one of its values. Only equality is possible,
because a generator of categories is asked for a value or its rows are sorted out.
"""

import datetime
import difflib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from minigan.datasets.column_kinds import Column
from minigan.datasets.column_text import dates
from minigan.datasets.columns import Category
from minigan.datasets.files import DataError
from minigan.datasets.labels import listing

MISSING = "missing"  # the name of the value of rows whose value is missing


def nearest(name: str, names: list[str], what: str = "columns") -> str:
    """Return the most similar of the names as text, or the first ones if none is similar."""
    folded = {other.casefold(): other for other in reversed(names)}
    near = [folded[other] for other in difflib.get_close_matches(name.casefold(), folded, 3, 0.6)]
    return f"did you mean {' or '.join(near)}?" if near else f"the {what} are {listing(names, 10)}"


class Condition(NamedTuple):
    """The features (start, stop) of a group, and the one that must be the largest."""

    start: int
    stop: int
    choice: int


def parsed(texts: Sequence[str]) -> dict[str, str]:
    """Return the columns and values of texts COLUMN=VALUE. Raises DataError for another text, or a column twice."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise DataError(f"a condition is COLUMN=VALUE, where the first = separates them, got {text!r}")
        if name in found and found[name] != value:
            raise DataError(f"two conditions on the column {name!r} cannot both hold: leave one out")
        found[name] = value
    return found


def choices_of(column: Column) -> list[str]:
    """Return the names of the values of a category that have a feature of their own, in the order of the group."""
    assert isinstance(column.encoding, Category)
    names = column.value_names()[: column.encoding.kept]
    if column.encoding.rare:
        names.append("")  # stands for several values, so it cannot be asked for
    if column.encoding.missing:
        names.append(MISSING if MISSING not in names else f"({MISSING})")
    return names


def condition(parts: Sequence[tuple[Column, int]], name: Any, value: Any) -> Condition:
    """Return the condition that a column has a value. `parts` are the columns with their first features.

    Raises DataError if there is no such column or value, and for columns that are no categories.
    """
    columns = {str(column.name): (column, start) for column, start in parts}
    if str(name) not in columns:
        raise DataError(f"there is no column {str(name)!r}: {nearest(str(name), list(columns))}")
    column, start = columns[str(name)]
    usable = [str(each.name) for each, _ in parts if isinstance(each.encoding, Category)]
    if not isinstance(column.encoding, Category):
        others = f"such columns are {listing(usable, 10)}" if usable else "this table has no such column"
        raise DataError(f"a condition is on a column of categories, and {name} is {column.description()}: {others}")
    kept, last = column.value_names()[: column.encoding.kept], choices_of(column)[-1]
    wanted = last if column.encoding.missing and is_missing(value) else _text(value, column)
    if wanted in kept:
        return Condition(start, start + column.width, kept.index(wanted))
    if column.encoding.missing and wanted == last:
        return Condition(start, start + column.width, column.width - 1)
    if wanted in column.value_names():
        raise DataError(
            f"{wanted!r} is one of the rare values of {name}, which share a feature: it cannot be asked for"
        )
    names = [*kept, last] if column.encoding.missing else kept
    raise DataError(f"the column {name} has no value {wanted!r}: {nearest(wanted, names, 'values')}")


def hold(samples: np.ndarray, conditions: Sequence[Condition]) -> np.ndarray:
    """Return for each row of features (N, F) whether all conditions hold, bool (N,)."""
    held = np.ones(len(samples), bool)
    for start, stop, choice in conditions:
        held &= samples[:, start:stop].argmax(axis=1) == choice
    return held


def is_missing(value: Any) -> bool:
    """Return whether a value is None, NaN, NaT or pandas.NA."""
    try:
        return value is None or bool(value != value)
    except TypeError:  # pandas.NA is neither equal to itself nor not
        return True


def _text(value: Any, column: Column) -> str:
    """Return a value as the text that names it: 7, 7.0 and "7" are the same, and so are True and "True".

    A date may be written as in the file that was read, or as ISO 8601.
    """
    if is_missing(value):
        return MISSING
    if isinstance(value, bool | np.bool_):
        return str(bool(value))
    if isinstance(value, float | np.floating) and value == value // 1:
        return str(int(value))
    if (unit := column.series.get("unit")) is None:
        return str(value)
    written = value.isoformat() if hasattr(value, "isoformat") else str(value)
    try:
        moment = datetime.datetime.strptime(written, column.series["format"] or "")
    except ValueError:
        found = dates([written])
        return written if found is None else str(found.values.astype(f"datetime64[{unit}]")[0])
    return str(np.datetime64(moment).astype(f"datetime64[{unit}]"))
