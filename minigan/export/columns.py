"""What the features of an exported table mean, as facts that JSON can represent, and functions that decode them."""

import bisect
from typing import Any

import numpy as np

from minigan.datasets.column_kinds import Column
from minigan.datasets.columns import Category, Number

Facts = dict[str, Any]


def plain(codec: Any, knots: int = 0) -> list[Facts]:
    """Return the columns of a table, in their order, each as facts:

        name, kind              as minigan train prints them
        constant                the text of the only value, of a column without features
        group                   [start, stop) of the one-hot features, or null
        choices                 the text of each feature of the group; null where the row has an ordinary number
        rare                    [index, texts, shares] of the choice that stands for several rare values, or null
        number                  the index of the feature that is a number in [-1, 1], or null
        values, low, high, most for a number x: rank = (x + 1) * most / 2. From low[i] to high[i], the value is
                                values[i], and between high[i] and low[i + 1] it is interpolated
        decimals                to which numbers are rounded: 0 for whole numbers, null for no rounding
        unit, format            of dates, whose values are counted in this unit since 1970

    A missing value is the text "". With `knots`, at most so many values of a number are stored, and others are
    interpolated between them.
    """
    return [_plain(column, start, knots) for column, start in codec.parts]


def _plain(column: Column, start: int, knots: int) -> Facts:
    encoding, unit = column.encoding, column.series.get("unit")
    facts: Facts = {"name": str(column.name), "kind": column.kind, "constant": None, "group": None, "number": None}
    facts |= {"unit": unit, "format": column.series.get("format")}

    def text(value: Any) -> str:
        return as_text(value, unit, facts["format"])

    first = start + encoding.has_number
    if encoding.choices:
        facts |= {"group": [first, first + encoding.choices], "rare": None}
    if isinstance(encoding, Category):
        kept = [text(value) for value in encoding.values[: encoding.kept]]
        if encoding.rare:
            shares = np.array(encoding.counts[encoding.kept :], np.float64)
            texts = [text(value) for value in encoding.values[encoding.kept :]]
            facts["rare"] = [encoding.kept, texts, (shares / shares.sum()).tolist()]
            kept.append("")
        facts["choices"] = [*kept, *([""] if encoding.missing else [])]
    elif isinstance(encoding, Number):
        special = [text(value) for value in encoding.special]
        facts["choices"] = [None, *special, *([""] if encoding.missing else [])] if encoding.choices else []
        facts |= {"number": start, **_ranks(encoding, knots)}
    else:
        facts["constant"] = text(encoding.values[0]) if encoding.values else ""
    return facts


def _ranks(encoding: Number, knots: int) -> Facts:
    """Return the values of a number with their ranks. With `knots`, some quantiles of them."""
    low, high, _, most = encoding._ranks
    values = np.array(encoding.values, dtype=object)
    if 0 < knots < len(values):
        chosen = np.unique(np.searchsorted(high, np.linspace(0, high[-1], knots)).clip(0, len(values) - 1))
        low, high, values = low[chosen], high[chosen], values[chosen]
    decimals = 0 if encoding.stored in ("int64", "uint64") else encoding.decimals
    return {
        "values": [float(v) if encoding.stored == "float64" else int(v) for v in values],
        "low": low.tolist(),
        "high": high.tolist(),
        "most": most,
        "decimals": decimals,
    }


# ---------------------------------------------------------------- functions of the exported Python file


def as_text(value, unit, written):
    """Return a value as a text. Dates are counted in a unit since 1970, and written in a format, or as ISO 8601."""
    if unit is None:
        return str(value)
    moment = np.datetime64(value, unit)
    return moment.astype("datetime64[us]").item().strftime(written) if written else str(moment)


def number_of(x, column):
    """Return the value of a column of numbers for its feature x in [-1, 1]."""
    values, low, high = column["values"], column["low"], column["high"]
    rank = (x + 1) * (column["most"] / 2)
    i = max(bisect.bisect_right(low, rank) - 1, 0)
    j = min(i + 1, len(values) - 1)
    if rank <= high[i] or i == j:
        return values[i]
    share = min((rank - high[i]) / (low[j] - high[i]), 1)
    if isinstance(values[i], int):
        return values[i] + round(share * (values[j] - values[i]))
    y = (1 - share) * values[i] + share * values[j]
    if column["decimals"] is not None:
        y = round(y * 10.0 ** column["decimals"]) / 10.0 ** column["decimals"]
    return min(max(y, values[i]), values[j])


def decode(x, columns, rng):
    """Return rows of texts for features (N, F). A missing value is an empty text."""
    texts_of_columns = []
    for column in columns:
        texts = [column["constant"]] * len(x)
        if column["number"] is not None:
            numbers = [number_of(value, column) for value in x[:, column["number"]].tolist()]
            texts = [as_text(number, column["unit"], column["format"]) for number in numbers]
        if column["group"]:
            start, stop = column["group"]
            chosen, choices = x[:, start:stop].argmax(axis=1).tolist(), column["choices"]
            texts = [text if choices[k] is None else choices[k] for k, text in zip(chosen, texts, strict=True)]
            if column["rare"]:  # one of several values, which share a feature
                place, values, shares = column["rare"]
                texts = [
                    rng.choice(values, p=shares) if k == place else text for k, text in zip(chosen, texts, strict=True)
                ]
        texts_of_columns.append(texts)
    return list(zip(*texts_of_columns, strict=True))
