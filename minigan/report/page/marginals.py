"""Columns of tables, and features of series, in a page: how the values of samples and of real data are distributed.

They are drawn, and written as numbers.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from minigan.datasets.table_values import is_number, numbers
from minigan.report import tables
from minigan.report.page.html import Html, details, html, table, user
from minigan.report.page.report import key

Column = Any  # a pd.Series, or an array (N,) of numbers
Columns = Any  # a pd.DataFrame, or a mapping from names to such arrays

COLUMNS = 24  # at most, that a page shows
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
INK, REAL, FAKE = "#010203", "#010204", "#010205"  # colours that the style of the page replaces


def marginals(real: Columns, fakes: Columns, kinds: Mapping[Any, str], title: str, compared: str) -> Html:
    """Return the distributions of the columns of `kinds`: of fakes, and of real data.

    `real` and `fakes` are data frames, or map names to arrays (N,) of numbers, for which pandas is not needed.
    `compared` says how many of both there are, such as "2,000 samples and 2,000 real rows".
    """
    names = tables.spread(list(kinds), COLUMNS)
    figures = [
        html(
            "figure",
            html("h3", user(name)),
            drawing(real[name], fakes[name], kinds[name], number),
            details("as a table", _table(name, real[name], fakes[name], kinds[name])),
        )
        for number, name in enumerate(names)
    ]
    part = "" if len(names) == len(kinds) else f" {len(names)} of {len(kinds)} {title.lower()} are shown."
    about = f"The distribution of the values in {compared}.{part}"
    legend = html("p", key("fake"), "samples ", key("real"), "real", class_="note")
    return html("div", html("h3", title), html("p", about), legend, html("div", *figures, class_="marginals"),
                class_="card")  # fmt: skip


def drawing(real: Column, fakes: Column, kind: str, number: int) -> Html:
    """Return the distribution of a column as SVG, with the colours and the text of the page."""
    text = tables.column_as_svg([real, fakes], kind, (REAL, FAKE), INK, f"column {number}")
    for colour, name in ((INK, "currentColor"), (REAL, "var(--real)"), (FAKE, "var(--fake)")):
        text = text.replace(colour, name)
    return Html(text.replace("<svg ", '<svg aria-hidden="true" ', 1))


def _table(name: Any, real: Column, fakes: Column, kind: str) -> Html:
    """Return the shares of the most frequent values of a category, or quantiles of numbers and dates."""
    if is_number(kind):
        rows = [[f"{100 * q:.0f}%", *(_quantile(column, kind, q) for column in (fakes, real))] for q in QUANTILES]
        head = ["quantile", "samples", "real"]
        missing = [np.isnan(numbers(column, kind)).mean() for column in (fakes, real)]
    else:
        shares = [column.astype(object).value_counts(normalize=True, dropna=True) for column in (fakes, real)]
        values = shares[1].index[: tables.VALUES]
        rows = [[user(value), *(f"{100 * share.get(value, 0.0):.1f}%" for share in shares)] for value in values]
        head = ["value", "samples", "real"]
        missing = [column.isna().mean() for column in (fakes, real)]
    rows.append(["missing", *(f"{100 * share:.1f}%" for share in missing)])
    return table(head, rows, f"Column {name}")


def _quantile(column: Column, kind: str, q: float) -> str:
    values = numbers(column, kind)
    values = values[np.isfinite(values)]
    if not len(values):
        return ""
    found = float(np.quantile(values, q))
    if kind == "date":
        return str(np.datetime64(round(found), "us").astype("M8[s]")).replace("T", " ")
    return f"{found:.6g}"
