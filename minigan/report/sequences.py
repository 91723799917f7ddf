"""Draw series: the view of samples alone, and fakes next to real series, with spectra and an embedding in the plane.

Series are arrays (N, T, F) or (N, T). A missing value is NaN, and lines have a gap there.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minigan.datasets.sequence_codec import with_features
from minigan.files import write_atomically
from minigan.report import plots
from minigan.report.tables import spread

REAL, FAKE = "tab:blue", "tab:orange"
COLOURS = ("tab:orange", "tab:blue", "tab:green", "tab:red", "tab:purple", "tab:brown", "tab:pink", "tab:olive")
LINES = len(COLOURS)  # more features than this are drawn as a picture of brightness
ROWS = {1: 8, 2: 8, 3: 7, 4: 6, 5: 6}  # of cells in the view, for each number of columns; others have 6
MOST_COLUMNS = 12
ALIKE = 12  # series of each sort that the evaluation draws
LONG = 40  # steps, above which STACKED series are drawn, each below the one before
STACKED = 4
SHOWN = 4  # features that the evaluation draws
POINTS = 1000  # series of each sort in the plane
BINS = 40


def view(series: np.ndarray, codec: Any, columns: int = 10, scale: int = 2) -> np.ndarray:
    """Draw samples as one uint8 picture (height, width, C): a cell for each, row by row.

    All cells have the same axes: the time to the right, and each feature from its smallest to its largest value in the
    data. Series of many features are drawn as pictures of brightness, the time downwards and the features to the right.
    """
    x = with_features(series)
    low, high = (np.array([getattr(part, end) for part in codec.parts]) for end in ("low", "high"))
    unit = (x - low) / np.where(high > low, high - low, 1)  # (N, T, F) in [0, 1]
    if x.shape[2] > LINES:
        grey = np.rint(255 * np.clip(np.nan_to_num(unit, nan=0.0), 0, 1)).astype(np.uint8)
        return plots.grid(grey[..., None], columns, scale)
    return _cells(unit, min(columns, MOST_COLUMNS) if columns != 10 else 5, scale)


@plots.drawing()
def _cells(unit: np.ndarray, columns: int, scale: int) -> np.ndarray:
    """Draw series (N, T, F) with values in [0, 1] in cells of equal size, as one uint8 picture (height, width, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

    rows = ROWS.get(columns, 6)
    figure = Figure(figsize=(9.6, 7.2), dpi=50 * scale, facecolor="white")
    axis = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    x = unit[: rows * columns]
    t = 0.04 + 0.92 * np.arange(x.shape[1]) / max(1, x.shape[1] - 1)
    for f in range(x.shape[2]):
        lines = [
            np.stack([n % columns + t, rows - 1 - n // columns + 0.08 + 0.84 * series], axis=1)
            for n, series in enumerate(x[:, :, f])
        ]
        axis.add_collection(LineCollection(lines, colors=COLOURS[f], linewidths=0.9 if x.shape[2] == 1 else 0.7))
    for edge in range(columns + 1):
        axis.axvline(edge, color="lightgrey", linewidth=0.6)
    for edge in range(rows + 1):
        axis.axhline(edge, color="lightgrey", linewidth=0.6)
    axis.set(xlim=(0, columns), ylim=(0, rows))
    axis.set_axis_off()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


@plots.drawing()
def save_evaluation(
    path: Path,
    real: np.ndarray,
    fakes: np.ndarray,
    names: Sequence[str],
    report: dict,
    curves: Mapping[str, Any],
    nearest: np.ndarray,
) -> None:
    """Write a PNG file of fakes and real series.

    For some features: series of both sorts on equal axes, spectra, autocorrelations and distributions of the values.
    Below: the errors of the tenths of the band, both sorts in the plane, and fakes with the nearest training series.
    `report` is a result of `metrics.sequences.compare`. `curves` has for "real" and "fakes" the "spectrum", frequencies
    (K,) and power (F, K), and the "autocorrelation" (F, L); "expected" (K,) if the spectrum is known; "points", a pair
    of arrays (N, 2), and "share", how much of the variance the plane shows. `nearest` are pairs (P, 2, T, F) of a fake
    and a training series.
    """
    from matplotlib.figure import Figure

    real, fakes = with_features(real), with_features(fakes)
    shown = spread(list(range(len(names))), SHOWN)
    figure = Figure(figsize=(3.6 * max(3, len(shown)), 13.5), layout="constrained", facecolor="white")
    parts: Any = figure.subfigures(2, 1, height_ratios=[10.2, 3.3])
    panels = parts[0].subplots(5, len(shown), squeeze=False, height_ratios=[1.5, 1.5, 1, 1, 1])
    for column, f in enumerate(shown):
        _draw_feature(panels[:, column], real[..., f], fakes[..., f], curves, f, report)
        panels[0, column].set_title(_short(names[f], 30), fontsize=10)
    for row, text in zip(
        panels[:, 0],
        ("real series", "fakes", "spectrum", "autocorrelation", "values"),
        strict=True,
    ):
        row.set_ylabel(text)
    below = parts[1].subplots(1, 3)
    _draw_tenths(below[0], [names[f] for f in shown], report)
    _draw_plane(below[1], curves)
    _draw_nearest(below[2], nearest[..., shown[0]], _short(names[shown[0]], 20))
    write_atomically(Path(path), plots.png(figure))


def _draw_feature(
    panels: Sequence[Any], real: np.ndarray, fakes: np.ndarray, curves: Mapping[str, Any], f: int, report: dict
) -> None:
    """Draw one feature (N, T) of real series and fakes in five panels."""
    finite = real[np.isfinite(real)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    margin = 0.05 * (high - low) or 1.0
    long = real.shape[1] > LONG
    for panel, x, colour in ((panels[0], real, REAL), (panels[1], fakes, FAKE)):
        for k, series in enumerate(x[: STACKED if long else ALIKE]):
            panel.plot(
                series - k * (high - low) * long, color=colour, linewidth=0.9, alpha=0.9 if long or k < 3 else 0.35
            )
        below = (STACKED - 1) * (high - low) * long
        panel.set(ylim=(low - below - margin, high + margin), xlim=(0, x.shape[1] - 1))
        if long:
            panel.set_yticks([])
    panels[1].set_xlabel("step", fontsize=8)
    styles = {"real": dict(color=REAL, linewidth=2.4, alpha=0.5), "fakes": dict(color=FAKE, linewidth=1.2)}
    for who, style in styles.items():
        frequencies, power = curves[who]["spectrum"]
        panels[2].plot(frequencies, power[f], label=who, **style)
        lags = np.arange(1, curves[who]["autocorrelation"].shape[1] + 1)
        panels[3].plot(lags, curves[who]["autocorrelation"][f], **style)
    if curves.get("expected") is not None:
        panels[2].plot(frequencies, curves["expected"], ":", color="black", linewidth=1, label="true")
    panels[2].set_yscale("log")
    panels[2].set_xlabel("cycles per step", fontsize=8)
    panels[2].legend(fontsize=8)
    panels[3].axhline(0, color="grey", linewidth=0.6)
    panels[3].set_xlabel("lag in steps", fontsize=8)
    _draw_values(panels[4], finite, fakes[np.isfinite(fakes)], low, high)
    found = list(report["features"].values())[f]
    panels[4].set_xlabel("" if found["marginal"] is None else f"1 - KS = {found['marginal']:.3f}", fontsize=8)
    for panel in panels:
        panel.tick_params(labelsize=7)


def _draw_values(panel: Any, real: np.ndarray, fakes: np.ndarray, low: float, high: float) -> None:
    """Draw histograms of the values of real series and fakes, as shares."""
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    for values, style in ((real, dict(fill=True, alpha=0.45, color=REAL)), (fakes, dict(color=FAKE, linewidth=1.3))):
        shares = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0] / max(1, len(values))
        panel.stairs(shares, edges, **style)


def _draw_tenths(panel: Any, names: Sequence[str], report: dict) -> None:
    """Draw the relative error of the power in each tenth of the band, for some features."""
    width = 0.8 / len(names)
    for k, name in enumerate(names):
        errors = np.array([np.nan if e is None else 100 * e for e in report["features"][name]["errors"]])
        colour = FAKE if len(names) == 1 else COLOURS[k]
        place = np.arange(1, len(errors) + 1) + (k - (len(names) - 1) / 2) * width
        panel.bar(place, np.clip(errors, -100, 100), width, color=colour, label=_short(name, 14))
    panel.axhline(0, color="black", linewidth=0.6)
    for level in (-5, 5):
        panel.axhline(level, color="grey", linestyle=":", linewidth=0.8)
    panel.set_xticks(range(1, 11))
    panel.set_title("error of the spectrum in %, by tenth of the band", fontsize=9)
    if len(names) > 1:
        panel.legend(fontsize=7)
    panel.tick_params(labelsize=7)


def _draw_plane(panel: Any, curves: Mapping[str, Any]) -> None:
    """Draw real series and fakes as points in the plane."""
    for points, colour, label in zip(curves["points"], (REAL, FAKE), ("real", "fakes"), strict=True):
        some = points[:POINTS]
        panel.plot(some[:, 0], some[:, 1], ".", color=colour, markersize=3, alpha=0.5, markeredgewidth=0, label=label)
    panel.set_title(f"first two principal components ({100 * curves['share']:.0f}% of the variance)", fontsize=9)
    panel.legend(fontsize=8, markerscale=3)
    panel.tick_params(labelsize=7)


def _draw_nearest(panel: Any, pairs: np.ndarray, name: str) -> None:
    """Draw pairs (P, 2, T) of a fake and the nearest training series above each other."""
    finite = pairs[np.isfinite(pairs)]
    step = 1.1 * (float(np.ptp(finite)) if len(finite) else 1.0) or 1.0
    for k, (fake, training) in enumerate(pairs):
        panel.plot(training - k * step, color=REAL, linewidth=2, alpha=0.5)
        panel.plot(fake - k * step, color=FAKE, linewidth=1.2)
    panel.set_yticks([])
    panel.set_title(f"fakes and the nearest training series, {name}", fontsize=9)
    panel.tick_params(labelsize=7)


def _short(value: Any, size: int) -> str:
    """Return a name as text on one line, with at most `size` letters, in which a $ begins no formula."""
    text = " ".join(str(value).split()).replace("$", r"\$")
    return text if len(text) <= size else text[: size - 2] + ".."
