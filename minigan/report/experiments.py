"""Draw the results of experiments: dots, lines, tables of pictures or numbers, and paths in the plane.

Each function returns one uint8 picture (height, width, 3).
"""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from minigan.report.plots import drawing, grid

Interval = tuple[float, float] | None
DASHES = ("-", "--", ":", "-.")  # with the ten colours, lines of up to forty arms differ
FAR = 10  # an axis of values whose largest is more than so many times the smallest is logarithmic
COLOURS = [f"C{k}" for k in range(10)]
LABEL = 26  # characters in a line of the name of a row of pictures


def dots(panels: Mapping[str, Mapping[str, tuple[np.ndarray, Interval]]]) -> np.ndarray:
    """Draw panels side by side: for each arm, its values (seeds,) as dots, the mean as a line, and its interval.

    `panels` maps a heading to {arm: (values, interval or None)}. All panels have the same arms. If the
    values of a panel are positive and far apart, its axis is logarithmic.
    """
    names = list(next(iter(panels.values())))
    with drawing():
        figure = _figure(_inches(names) + 3.4 * len(panels), 1.0 + 0.36 * len(names))
        for axis, (heading, arms) in zip(
            figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels.items(), strict=True
        ):
            for y, (values, interval) in enumerate(arms.values()):
                if interval is not None:
                    axis.plot(interval, (y, y), color="tab:blue", alpha=0.35, linewidth=7, solid_capstyle="butt")
                if len(values):
                    axis.plot([values.mean()] * 2, (y - 0.25, y + 0.25), color="tab:blue", linewidth=2)
                axis.plot(values, [y] * len(values), "o", color="black", markersize=4, alpha=0.7)
            axis.set(xlabel=heading, yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.4, -0.6))
            every = np.concatenate([values for values, _ in arms.values()])
            if len(every) and 0 < every.min() < every.max() / FAR:
                axis.set_xscale("log")
            axis.grid(axis="x", alpha=0.3, which="both")
        return _pixels(figure)


def lines(
    panels: Mapping[str, Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]]],
    x: str,
    *,
    log_x: bool = False,
    log_y: bool = False,
    level: float | None = None,
) -> np.ndarray:
    """Draw panels side by side: for each arm, a line (x, y) for each seed in one colour.

    `panels` maps the label of the y axis to {arm: [(x, y), ...]}. Arms of all panels share colours.
    `x` is the label of the x axis, and `level` a y at which a dotted line is drawn.
    """
    with drawing():
        figure = _figure(1.2 + 4.6 * len(panels), 4.2)
        order: dict[str, int] = {}
        for axis, (label, arms) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
            for arm, curves in arms.items():
                k = order.setdefault(arm, len(order))
                for n, (xs, ys) in enumerate(curves):
                    style = dict(color=COLOURS[k % 10], linestyle=DASHES[k // 10 % 4], alpha=0.85, linewidth=1.4)
                    axis.plot(xs, ys, label=arm if n == 0 else None, marker=".", markersize=4, **style)
            if level is not None:
                axis.axhline(level, color="black", linestyle=":", linewidth=1)
            axis.set(xlabel=x, ylabel=label)
            axis.set_xscale("log" if log_x else "linear")
            axis.set_yscale("log" if log_y else "linear")
            axis.grid(alpha=0.3)
        handles, labels = [], []
        for axis in figure.axes:
            for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
                if label not in labels:
                    handles.append(handle)
                    labels.append(label)
        figure.legend(handles, labels, loc="outside right upper", fontsize="small")
        return _pixels(figure)


def scattered(series: Mapping[str, np.ndarray], x: str, y: str, *, log_x: bool = False) -> np.ndarray:
    """Draw series of points (N, 2): dots, and for each series a line through the means of its points at each x."""
    with drawing():
        figure = _figure(5.6, 4.2)
        axis = figure.subplots()
        for k, (name, points) in enumerate(series.items()):
            style = dict(color=COLOURS[k % 10], alpha=0.85)
            at = np.unique(points[:, 0])
            means = [points[points[:, 0] == value, 1].mean() for value in at]
            axis.plot(at, means, linestyle=DASHES[k // 10 % 4], label=name, **style)
            axis.plot(*points.T, "o", markersize=4, **style)
        axis.set(xlabel=x, ylabel=y, xscale="log" if log_x else "linear")
        every = np.concatenate([points[:, 1] for points in series.values()])
        if 0 < every.min() < every.max() / FAR:
            axis.set_yscale("log")
        axis.grid(alpha=0.3, which="both")
        if len(series) > 1:
            axis.legend(fontsize="small")
        return _pixels(figure)


def pictures(
    rows: Mapping[str, Sequence[np.ndarray]], headings: Sequence[str] = (), columns: int = 5, width: float = 1.9
) -> np.ndarray:
    """Draw a table of pictures: for each row, its name and grids of uint8 images (N, H, W, C), `columns` wide.

    `width` is that of a grid in inches.

    `headings` stand over the grids. Rows may have fewer grids than there are headings.
    """
    count = max(len(grids) for grids in rows.values())
    labels = ["\n".join(textwrap.wrap(name, LABEL)) for name in rows]
    with drawing():
        firsts = [np.asarray(grids[0]) for grids in rows.values()]
        heights = [width * -(-len(first) // columns) / columns * first.shape[1] / first.shape[2] for first in firsts]
        figure = _figure(
            _inches("\n".join(labels).split("\n")) + width * count,
            0.4 + sum(heights) + 0.08 * len(rows),
        )
        axes = figure.subplots(len(rows), count, squeeze=False, height_ratios=heights)
        for line, label, grids in zip(axes, labels, rows.values(), strict=True):
            for k, axis in enumerate(line):
                axis.set(xticks=[], yticks=[], anchor="W")  # next to its name, for which there is room on the left
                axis.set_frame_on(False)
                if k < len(grids):
                    drawn = grid(np.asarray(grids[k], np.uint8), columns, 1)
                    axis.imshow(drawn.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            line[0].set_ylabel(label, rotation=0, ha="right", va="center")
        for axis, heading in zip(axes[0], headings, strict=False):
            axis.set_title(heading, fontsize="medium")
        return _pixels(figure)


def paths(
    panels: Mapping[str, Sequence[np.ndarray]], x: str, y: str, goal: tuple[float, float] | None = None
) -> np.ndarray:
    """Draw paths (N, 2) in the plane, in a panel for each name; a ring marks the start, and a cross the `goal`.

    All panels have the same scale.
    """
    across = min(3, len(panels))
    down = -(-len(panels) // across)
    every = [path[np.isfinite(path).all(axis=1)] for of in panels.values() for path in of]
    reach = min(4.0, 1.1 * max(float(np.abs(path).max()) for path in every if len(path)))
    with drawing():
        figure = _figure(3.2 * across, 3.3 * down)
        axes = figure.subplots(down, across, squeeze=False).ravel()
        for axis, (name, of) in zip(axes, panels.items(), strict=False):
            for k, path in enumerate(of):
                axis.plot(path[:, 0], path[:, 1], color=COLOURS[k % 10], linewidth=0.9, alpha=0.9)
                axis.plot(*path[0], "o", color=COLOURS[k % 10], fillstyle="none")
            if goal is not None:
                axis.plot(*goal, "x", color="black")
            axis.set(title=name, xlabel=x, ylabel=y, xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        for axis in axes[len(panels) :]:
            axis.set_axis_off()
        return _pixels(figure)


def matrices(
    panels: Mapping[str, tuple[np.ndarray, float, int]], rows: Sequence[str], columns: Sequence[str]
) -> np.ndarray:
    """Draw panels side by side: a table of numbers whose background shows how large they are.

    `panels` maps a heading to (values (rows, columns), the value of the brightest colour, decimals).
    The darkest colour is 0. A value that is NaN is a dash on white.
    """
    with drawing():
        figure = _figure(1.6 + (0.4 + 0.95 * len(columns)) * len(panels), 1.7 + 0.36 * len(rows))
        drawn = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axis, (heading, (values, highest, digits)) in zip(drawn, panels.items(), strict=True):
            axis.imshow(np.ma.masked_invalid(values), cmap="viridis", vmin=0, vmax=highest, aspect="auto")
            for (i, j), value in np.ndenumerate(values):
                text = "-" if np.isnan(value) else f"{value:.{digits}f}"
                dark = value < 0.6 * highest  # False for NaN
                axis.text(j, i, text, ha="center", va="center", color="white" if dark else "black", fontsize="small")
            axis.set(title=heading, xticks=range(len(columns)), yticks=range(len(rows)), yticklabels=rows)
            axis.set_xticklabels(columns, rotation=40, ha="right")
        return _pixels(figure)


def stacked(*parts: np.ndarray) -> np.ndarray:
    """Return pictures (height, width, 3) one below the other, on white, as one picture."""
    width = max(part.shape[1] for part in parts)
    padded = [np.pad(part, ((0, 0), (0, width - part.shape[1]), (0, 0)), constant_values=255) for part in parts]
    return np.concatenate(padded)


def _inches(names: Iterable[str]) -> float:
    """Return the width of the longest of these labels, and of what surrounds it."""
    return 0.4 + 0.1 * max(map(len, names))


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=100, facecolor="white", layout="constrained")


def _pixels(figure: Any) -> np.ndarray:
    """Return the figure as a picture (height, width, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
