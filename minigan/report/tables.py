"""Draw tables: fakes next to real rows, with what gives the fakes away, and the view of samples alone.

Columns are drawn by their kinds: numbers and dates as histograms, categories as bars. All functions
take data frames of pandas.
"""

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minigan.datasets.table_values import is_number, numbers
from minigan.files import write_atomically
from minigan.report import plots

if TYPE_CHECKING:
    import pandas as pd

REAL, FAKE = "tab:blue", "tab:orange"
MARGINALS = 12  # columns of which the evaluation draws the distribution
ACROSS = 4  # of them side by side
VALUES = 8  # of a category that have bars of their own
BINS = 30
BLAMED = 15  # columns in the panel of what gives the fakes away
LABELLED = 40  # columns, up to which the axes of the pair matrices have their names
MICROSECONDS = 86_400e6  # in a day


@contextmanager
def drawing() -> Iterator[None]:
    """A context for drawing names and values of other people, which may contain $ or letters that the font lacks."""
    with plots.drawing(), warnings.catch_warnings():
        import matplotlib

        matplotlib.rcParams["text.parse_math"] = False
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


def save_evaluation(
    path: Path, real: "pd.DataFrame", fakes: "pd.DataFrame", kinds: Mapping[Any, str], report: dict
) -> None:
    """Write a PNG file of fakes and real rows: distributions of columns, pairs of columns, and what gives fakes away.

    `report` is a result of `metrics.tables.compare` for the same rows and kinds. Of more than MARGINALS
    columns, those with the worst shapes are drawn.
    """
    from matplotlib.figure import Figure

    columns = report["columns"]
    names = list(kinds)
    worst = sorted(names, key=lambda name: -1.0 if (shape := columns[str(name)]["shape"]) is None else shape)
    chosen = [name for name in names if name in worst[:MARGINALS]]
    rows = -(-len(chosen) // ACROSS)
    with drawing():
        figure = Figure(figsize=(14, 0.5 + 2.3 * rows + 4.4), layout="constrained", facecolor="white")
        parts: Any = figure.subfigures(2, 1, height_ratios=[0.5 + 2.3 * rows, 4.4])
        above, below = parts
        axes = above.subplots(rows, ACROSS, squeeze=False).ravel()
        for axis, name in zip(axes, chosen, strict=False):
            shape = columns[str(name)]["shape"]
            draw_column(axis, [real[name], fakes[name]], kinds[name])
            axis.set_title(f"{short(name, 24)}   {'' if shape is None else f'{shape:.3f}'}", fontsize=9)
        for axis in axes[len(chosen) :]:
            axis.set_axis_off()
        axes[0].legend(handles=_legend(), fontsize=8)
        which = "all" if len(chosen) == len(names) else f"the worst {len(chosen)} of {len(names)}"
        above.suptitle(f"{which} columns, with their shapes: 1 is best", fontsize=11)
        panels = below.subplots(1, 4, width_ratios=[1, 1, 1, 1.1])
        _draw_pairs(below, panels[:3], report)
        _draw_blame(panels[3], report)
        write_atomically(Path(path), plots.png(figure))


def _legend() -> list:
    """Return the legend of real rows and fakes."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    return [Patch(color=REAL, alpha=0.45, label="real"), Line2D([], [], color=FAKE, label="fakes")]


def draw_column(axis: Any, columns: Sequence["pd.Series"], kind: str, colours: tuple[str, str] = (REAL, FAKE)) -> None:
    """Draw the distribution of a column: of the real rows and the fakes, or of the fakes alone, as shares.

    `colours` are those of real rows and of fakes.
    """
    axis.tick_params(labelsize=7)
    if is_number(kind):
        _draw_histogram(axis, [numbers(column, kind) for column in columns], kind, *colours)
    else:
        _draw_bars(axis, columns, *colours)


def column_as_svg(columns: Sequence["pd.Series"], kind: str, colours: tuple[str, str], ink: str, salt: str) -> str:
    """Return the drawing of `draw_column` as an element of SVG without a background, whose text is text.

    `ink` is the colour of lines and text. `salt` makes the names of its parts differ from those of other
    drawings of one page.
    """
    with drawing():
        import matplotlib
        from matplotlib.figure import Figure

        lines = dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), ink)
        spines = {"axes.spines.top": False, "axes.spines.right": False}
        settings: Any = {"svg.fonttype": "none", "svg.hashsalt": salt, "font.size": 9} | lines | spines
        matplotlib.rcParams.update(settings)
        figure, left = Figure(figsize=(3.4, 2.1)), 0.13 if is_number(kind) else 0.34
        axis = figure.add_axes((left, 0.16, 0.96 - left, 0.8))
        for patch in (figure.patch, axis.patch):
            patch.set_alpha(0)
        draw_column(axis, columns, kind, colours)
        axis.tick_params(labelsize=8)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg ") :], flags=re.S)


def _draw_histogram(axis: Any, values: list[np.ndarray], kind: str, real: str, fake: str) -> None:
    """Draw histograms of numbers (N,). The outer bins also contain what is beyond 99% of the real numbers."""
    from matplotlib.ticker import MaxNLocator

    notes: list[str] = []
    finite = [x[np.isfinite(x)] / (MICROSECONDS if kind == "date" else 1) for x in values]
    if len(finite[0]):
        low, high = np.quantile(finite[0], (0.005, 0.995))
        low, high = (low, high) if low < high else (finite[0].min(), finite[0].max())
        if kind == "integer" and high - low < BINS:
            edges = np.arange(np.floor(low), np.ceil(high) + 2) - 0.5  # a bin for each number
        else:
            edges = np.histogram_bin_edges([low, high], BINS if len(finite[0]) > 300 else BINS // 2)
        shares = [
            np.histogram(np.clip(x, edges[0], edges[-1]), edges)[0] / max(1, len(whole))
            for x, whole in zip(finite, values, strict=True)
        ]
        filled = dict(fill=True, alpha=0.45, color=real if len(values) == 2 else fake)
        axis.stairs(shares[0], edges, **filled)
        if len(values) == 2:
            axis.stairs(shares[1], edges, color=fake, linewidth=1.4)
        if shares[0].max() > 0.6 and (shares[0] > 0).sum() > 4:  # other bins would not be visible
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter("{x:g}")
            notes.append("log scale")
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.xaxis.set_major_formatter("{x:g}")
        if kind == "date":
            days = edges[-1] - edges[0]
            unit = "m" if days < 4 else "D" if days < 400 else "M"  # as precise as the ticks are apart
            axis.xaxis.set_major_locator(MaxNLocator(3))
            axis.xaxis.set_major_formatter(
                lambda day, _: str(np.datetime64(round(day * 86_400), "s").astype(f"M8[{unit}]"))
            )
    for what, found in (("missing", np.isnan), ("infinite", np.isinf)):
        absent = [found(x).sum() / max(1, len(x)) for x in values]
        if any(absent):
            notes.append(f"{what}: " + ", ".join(f"{100 * share:.1f}%" for share in absent))
    style = dict(transform=axis.transAxes, ha="right", va="top", fontsize=7)
    axis.text(0.98, 0.96, "\n".join(notes), **style)


def _draw_bars(axis: Any, columns: Sequence["pd.Series"], real: str, fake: str) -> None:
    """Draw the shares of the most frequent values of a category, from above, and of the others together."""
    from matplotlib.ticker import MaxNLocator

    counts = [column.astype(object).value_counts(normalize=True, dropna=True) for column in columns]
    absent = [column.isna().sum() / max(1, len(column)) for column in columns]
    order = sorted(counts[0].items(), key=lambda item: (-item[1], str(item[0])))
    values = [value for value, _ in order]
    new = [value for value in counts[-1].index if value not in counts[0].index]
    known = values[:VALUES] if len(values) + len(new) > VALUES + 1 else values + new
    bars = {
        short(value, 15): [float(count.get(value, 0)) * (1 - gone) for count, gone in zip(counts, absent, strict=True)]
        for value in known
    }
    rest = len(values) + len(new) - len(known)
    if rest:
        bars[f"{rest:,} others"] = [
            float(count[~count.index.isin(known)].sum()) * (1 - gone)
            for count, gone in zip(counts, absent, strict=True)
        ]
    if any(absent):
        bars["missing"] = absent
    y, shares = np.arange(len(bars)), np.array(list(bars.values())).reshape(len(bars), len(columns))
    if len(bars):
        axis.barh(y, shares[:, 0], 0.8, color=real if len(columns) == 2 else fake, alpha=0.45)
    if len(columns) == 2:
        for place, share in zip(y, shares[:, 1], strict=True):
            axis.plot([share, share], [place - 0.45, place + 0.45], color=fake, linewidth=2.2, solid_capstyle="butt")
    axis.xaxis.set_major_locator(MaxNLocator(4))
    axis.set(yticks=y, yticklabels=list(bars), ylim=(max(len(bars), 3) - 0.4, -0.6), xlim=(0, None))


def _draw_pairs(figure: Any, panels: Sequence[Any], report: dict) -> None:
    """Draw the matrices of the real pairs of columns, of the fake ones, and of how different they are."""
    pairs = report["pairs"]
    names = [short(name, 14) for name in pairs["names"]]
    arrays = {
        key: np.array(pairs[key], float).reshape(len(names), len(names)) for key in ("real", "fakes", "similarity")
    }
    titles = ("real: correlation or Cramer's V", "fakes: the same", "difference: 1 - similarity of the pair")
    size = float(np.clip(200 / max(1, len(names)), 3, 7))
    for panel, title, array in zip(
        panels, titles, (arrays["real"], arrays["fakes"], 1 - arrays["similarity"]), strict=True
    ):
        last = panel is panels[-1]
        largest = max(0.1, float(np.nanmax(array, initial=0))) if last else 1
        style = dict(cmap="Reds", vmin=0, vmax=largest) if last else dict(cmap="RdBu_r", vmin=-1, vmax=1)
        image = panel.imshow(array, **style)
        panel.set_facecolor("lightgrey")  # of pairs that are not defined
        panel.set_title(title, fontsize=9)
        ticks = range(len(names)) if len(names) <= LABELLED else []
        panel.set_xticks(ticks, names[: len(ticks)], rotation=90, fontsize=size)
        panel.set_yticks(ticks, names[: len(ticks)] if panel is panels[0] else [], fontsize=size)
        figure.colorbar(image, ax=panel, shrink=0.6, location="bottom").ax.tick_params(labelsize=7)


def _draw_blame(axis: Any, report: dict) -> None:
    """Draw by how much the detector depends on each column, the most at the top."""
    found = {name: figures["detector"] for name, figures in report["columns"].items()}
    losses = sorted(((loss, name) for name, loss in found.items() if loss is not None), reverse=True)[:BLAMED]
    if not losses:
        axis.set_axis_off()
        return
    y = np.arange(len(losses))
    axis.barh(y, [max(0.0, loss) for loss, _ in losses], 0.7, color=FAKE)
    axis.set(yticks=y, ylim=(len(losses) - 0.4, -0.6), xlim=(0, max(0.02, 1.05 * losses[0][0])))
    axis.set_yticklabels([short(name, 18) for _, name in losses])
    axis.tick_params(labelsize=7)
    axis.set_xlabel("decrease of the detector's AUC without the column", fontsize=8)
    axis.set_title(f"what gives the fakes away: AUC {report['fakes']['detector']:.3f}", fontsize=9)


def view(frame: "pd.DataFrame", scale: int = 2) -> np.ndarray:
    """Draw samples of a table as one uint8 picture (height, width, 3): distributions of columns, and the first rows.

    It has the size 960 x 720 for scale 2, whatever the samples are, so that pictures make an animation.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    kinds = {name: kind_of(frame[name]) for name in frame.columns}
    shown = spread(list(kinds), 2 * ACROSS)
    with drawing():
        # All places are fixed, because a layout that depends on the labels takes as long as the drawing.
        figure = Figure(figsize=(9.6, 7.2), dpi=50 * scale, facecolor="white")
        for k, name in enumerate(shown):
            row, column = divmod(k, ACROSS)
            axis = figure.add_axes((0.015 + 0.248 * column, 0.665 - 0.33 * row, 0.226, 0.25))
            draw_column(axis, [frame[name]], kinds[name])
            if not is_number(kinds[name]):  # the names of the bars
                for place, label in zip(axis.get_yticks(), axis.get_yticklabels(), strict=True):
                    where = axis.get_yaxis_transform()
                    axis.text(0.02, place, label.get_text(), transform=where, va="center", fontsize=7)
            axis.minorticks_off()
            axis.set_yticks([])
            axis.set_title(short(name, 24), fontsize=9)
        part = "" if len(shown) == len(kinds) else f", {len(shown)} of {len(kinds)} columns"
        figure.text(0.5, 0.975, f"{len(frame):,} samples{part}", fontsize=10, ha="center", va="center")
        figure.text(0.015, 0.28, rows_as_text(frame), family="monospace", fontsize=7.5, va="top")
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def kind_of(column: "pd.Series") -> str:
    """Return the kind by which a column of samples is drawn, from its type."""
    import pandas as pd

    if pd.api.types.is_datetime64_any_dtype(column):
        return "date"
    if pd.api.types.is_bool_dtype(column) or not pd.api.types.is_numeric_dtype(column):
        return "category"
    return "integer" if pd.api.types.is_integer_dtype(column) else "continuous"


def spread(names: list, count: int) -> list:
    """Return at most `count` of the names: the first and the last one, and others evenly spaced between them."""
    if len(names) <= count:
        return names
    return [names[i * (len(names) - 1) // max(1, count - 1)] for i in range(count)]


def rows_as_text(frame: "pd.DataFrame", count: int = 14, width: int = 148) -> str:
    """Return the first rows as text in aligned columns, without some of the columns if not all fit in `width`."""
    names = list(frame.columns)
    for number, widest in [(len(names), 24), *((number, 10) for number in range(len(names), 0, -1))]:
        cells = [
            [short(name, widest), *(short(_text(value), widest) for value in frame[name].iloc[:count])]
            for name in spread(names, number)
        ]
        sizes = [max(map(len, column)) for column in cells]
        if sum(sizes) + 2 * (number - 1) <= width:
            break
    lines = zip(*cells, strict=True)
    return "\n".join("  ".join(cell.rjust(size) for cell, size in zip(line, sizes, strict=True)) for line in lines)


def _text(value: Any) -> str:
    """Return a value as text: numbers with 6 digits, dates without a time that is midnight, missing values empty."""
    import pandas as pd

    if pd.isna(value):
        return ""
    return f"{value:.6g}" if isinstance(value, float | np.floating) else str(value).removesuffix(" 00:00:00")


def short(value: Any, size: int) -> str:
    """Return a name or a value as text on one line, with at most `size` letters."""
    text = " ".join(str(value).split())
    return text if len(text) <= size else text[: size - 2] + ".."
