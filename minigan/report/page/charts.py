"""Curves of a page: which values are drawn together, and few enough points of each.

A chart is a dictionary for the script of the page, which draws it with uPlot: title, x, series and text.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from minigan.report.page.html import Html, details, html, join, table, user

POINTS = 240  # of a curve, at most
ROWS = 24  # of a table of a curve, at most
CHECKED = {
    "coverage": "coverage",
    "variety": "variety within modes",
    "nearest_fake": "distance between fakes",
    "evenness": "evenness over modes",
}


def thinned(x: np.ndarray, y: np.ndarray, points: int = POINTS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the last x, the mean of y, and (low, high) of y, (2, n), for at most `points` blocks of neighbours."""
    parts = np.array_split(np.arange(len(y)), min(points, len(y))) if len(y) else []
    ends = np.array([x[part[-1]] for part in parts], float)
    means = np.array([y[part].mean(dtype=np.float64) for part in parts])
    edges = np.array([(y[part].min(), y[part].max()) for part in parts], float).reshape(-1, 2).T
    return ends, means, edges


def of_steps(curves: Mapping[str, np.ndarray], steps_per_epoch: int, equilibrium: Sequence[float] | None) -> list[dict]:
    """Return the charts of the losses, and of what D answers, from the values (steps,) of every step."""
    x = np.arange(1, len(curves["d_loss"]) + 1) / steps_per_epoch
    loss = f" At the equilibrium, they are {equilibrium[0]:.3g} and {equilibrium[1]:.3g}." if equilibrium else ""
    half = " At the equilibrium, both are 0.5." if equilibrium else ""
    return [
        _chart("losses", "Losses", "loss", f"Losses of both networks over the epochs.{loss}", x, curves,
               {"d_loss": "discriminator", "g_loss": "generator"}, equilibrium),
        _chart("answers", "What D answers", 'probability "real"',
               f'Mean probability "real" that D gives to real samples and to fakes.{half}', x, curves,
               {"d_real": "D(real)", "d_fake": "D(fake)"}, equilibrium and (0.5, 0.5), (0, 1)),
    ]  # fmt: skip


def _chart(
    name: str,
    title: str,
    unit: str,
    text: str,
    x: np.ndarray,
    curves: Mapping[str, np.ndarray],
    names: Mapping[str, str],
    levels: Sequence[float] | None,
    limits: tuple[float, float] | None = None,
) -> dict[str, Any]:
    series, at = [], np.zeros(0)
    for k, (key, label) in enumerate(names.items()):
        at, mean, (low, high) = thinned(x, np.asarray(curves[key], np.float64))
        level = None if levels is None else float(levels[k])
        series.append({"label": label, "y": _short(mean), "low": _short(low), "high": _short(high), "level": level})
    return {
        "name": name,
        "title": title,
        "unit": unit,
        "text": text,
        "x": _short(at),
        "series": series,
        "limits": limits,
    }


def of_epochs(history: Sequence[Mapping[str, Any]], noun: str) -> list[dict]:
    """Return the charts of the checks and of the time, from the rows of the history. Figures may be missing."""
    checked = [row for row in history if any(_number(row.get(name)) is not None for name in CHECKED)]
    charts = []
    if checked:
        x, columns = _columns(checked, CHECKED)
        covered = [_ratio(row.get("modes_covered"), row.get("modes")) for row in _few(checked)]
        columns["modes covered"] = covered
        text = "Distance and variety: the samples compared with real ones in the checks. 1: as real samples are."
        charts.append(_of_columns("checks", "Distance and variety", "1: as real", text, x, columns) | {"dots": True})
    if history:
        x, columns = _columns(
            history, {"epoch_seconds": "seconds per epoch", "images_per_second": f"{noun} per second"}
        )
        seconds, speed = columns
        text = f"Seconds of training in each epoch, and {noun} per second."
        charts.append(
            _of_columns("time", "Time", seconds, text, x, {seconds: columns[seconds], speed: columns[speed]})
            | {"right": speed, "dots": True}
        )
    return charts


SIDE = (  # what two runs are compared in: name, title, columns of the history with their labels, limits
    ("losses", "Losses", {"d_loss": "discriminator", "g_loss": "generator"}, None),
    ("answers", "What D answers", {"d_real": "D(real)", "d_fake": "D(fake)"}, (0.0, 1.0)),
    ("checks", "Distance and variety", CHECKED, None),
    ("time", "Seconds per epoch", {"epoch_seconds": "seconds per epoch"}, None),
)


def side_by_side(
    names: Sequence[str], histories: Sequence[Sequence[Mapping[str, Any]]]
) -> list[tuple[str, list[dict]]]:
    """Return for each kind of curve its title, and a chart for each run, from its history, all on the same scale."""
    found = []
    for kind, title, labels, limits in SIDE:
        row = []
        for number, (name, history) in enumerate(zip(names, histories, strict=True)):
            x, columns = _columns([row for row in history if _number(row.get("epoch")) is not None], labels)
            epochs = [float(epoch) for epoch in x]
            chart = _of_columns(f"{kind}-{number}", name, "", "Means of epochs.", epochs, columns)
            row.append(chart | {"dots": True, "limits": limits})
        values = [v for chart in row for each in chart["series"] for v in each["y"] if v is not None]
        if not values:
            continue
        if limits is None:
            low, high = min(values), max(values)
            room = 0.05 * (high - low) or 0.5
            for chart in row:
                chart["limits"] = [low - room, high + room]
        found.append((title, row))
    return found


def _of_columns(name: str, title: str, unit: str, text: str, x: list, columns: Mapping[str, list]) -> dict[str, Any]:
    series = [{"label": label, "y": y} for label, y in columns.items() if any(value is not None for value in y)]
    return {"name": name, "title": title, "unit": unit, "text": text, "x": x, "series": series, "limits": None}


def _columns(rows: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> tuple[list, dict[str, list]]:
    """Return the epochs, and for each label the values, of at most POINTS rows."""
    few = _few(rows)
    return [row["epoch"] for row in few], {
        label: [_number(row.get(name)) for row in few] for name, label in names.items()
    }


def _few(rows: Sequence[Any], count: int = POINTS) -> list[Any]:
    """Return at most `count` of the rows, evenly spaced, with the first and the last one."""
    if len(rows) <= count:
        return list(rows)
    return [rows[i] for i in np.linspace(0, len(rows) - 1, count).round().astype(int)]


def _number(value: Any) -> float | None:
    """Return a finite number, or None for what is none, such as an empty cell."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


def _ratio(a: Any, b: Any) -> float | None:
    x, y = _number(a), _number(b)
    return None if x is None or not y else x / y


def _short(values: np.ndarray) -> list[float | None]:
    """Return numbers with five significant digits, which is more than a pixel. What is not finite becomes None."""
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in values]


def figures(charts: Sequence[Mapping[str, Any]]) -> Html:
    """Return the places in which the script draws the charts, each with its values as a table."""
    found = []
    for chart in charts:
        if not chart["series"]:
            found.append(html("div", html("h3", user(chart["title"])), html("p", "Not measured."), class_="card"))
            continue
        rows = _few(list(zip(chart["x"], *(series["y"] for series in chart["series"]), strict=True)), ROWS)
        cells = [["" if value is None else f"{value:.4g}" for value in row] for row in rows]
        head = ["epoch", *(series["label"] for series in chart["series"])]
        plot = html("div", class_="plot", tabindex=0, role="img", data_chart=chart["name"],
                    aria_label=f"{chart['title']}. {chart['text']} The arrow keys read the values.")  # fmt: skip
        found.append(
            html(
                "figure",
                html("h3", user(chart["title"])),
                plot,
                html("p", class_="said", role="status", data_said=chart["name"]),
                html("figcaption", chart["text"]),
                details("as a table", table(head, cells, f"{chart['title']}, at most {ROWS} points")),
                class_="card chart",
            )
        )
    return join(*found)
