"""Draw samples, the animation of a training, and the curves of a history.

`picture` draws samples of any kind of data. The codec gives the name of the view, a key of VIEWS. Matplotlib is
imported only in this package, and only when a function needs it.
"""

import contextlib
import io
import logging
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from minigan.errors import UserError
from minigan.files import write_atomically

GAP = 2  # pixels between the images of a grid
GREY = 48  # brightness of the gaps


_DRAWING = threading.RLock()  # matplotlib is not made for several threads


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """A context for drawing with matplotlib, in one thread at a time and with matplotlib's default settings.

    So a picture does not depend on the settings of the user, which may even be impossible here, such as the text of
    LaTeX without LaTeX. Afterwards, the settings are as before.
    """
    with _DRAWING:
        _import_matplotlib()
        import matplotlib

        with matplotlib.rc_context():
            matplotlib.rcdefaults()  # keeps the backend
            yield


def _import_matplotlib() -> None:
    """Import matplotlib, whatever the environment says about its backend and its folders.

    minigan needs no backend. But at its import, matplotlib reads MPLBACKEND and raises ValueError
    if it does not know the name, for example that of a notebook whose packages are not installed.
    A valid name is applied afterwards, for code of the user that draws with pyplot. matplotlib also
    logs every folder that it cannot write, and uses a temporary folder instead.

    Raises UserError if matplotlib cannot be imported.
    """
    if "matplotlib" in sys.modules:
        return
    for name in [name for name in sys.modules if name.startswith("matplotlib.")]:
        del sys.modules[name]  # left by an import that failed, without which they do not work
    backend, logger = os.environ.pop("MPLBACKEND", None), logging.getLogger("matplotlib")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        import matplotlib
        import matplotlib.figure  # loads the fonts, and logs if it cannot store their list
    except Exception as error:  # a matplotlibrc that is no UTF-8, no folder that can be written, a broken installation
        cause = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(
            f"matplotlib, which draws the pictures, cannot be imported ({cause}): repair its settings file "
            "(matplotlibrc) or its installation; what was trained is saved, and --resume draws the pictures"
        ) from error
    finally:
        logger.setLevel(before)
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    if backend:
        with contextlib.suppress(ValueError):
            matplotlib.rcParams["backend"] = backend


def picture(samples: np.ndarray, codec, columns: int = 10, scale: int = 2) -> np.ndarray:
    """Draw decoded samples as one uint8 picture (height, width, C), in the view of their codec."""
    return VIEWS[codec.view](samples, codec, columns, scale)


def save_samples(path: Path, samples: np.ndarray, codec, columns: int = 10, scale: int = 2) -> None:
    """Write the picture of decoded samples as a PNG file."""
    _save(path, to_pillow(picture(samples, codec, columns, scale)), "PNG", optimize=True)


def grid(images: np.ndarray, columns: int = 10, scale: int = 2) -> np.ndarray:
    """Arrange uint8 images (N, H, W, C), C = 1 or 3, row by row in one uint8 picture (height, width, C).

    Each pixel is enlarged to scale x scale pixels.
    """
    N, H, W, C = images.shape
    rows = -(-N // columns)
    H, W = scale * H, scale * W
    picture = np.full((rows * (H + GAP) + GAP, columns * (W + GAP) + GAP, C), GREY, np.uint8)
    for n, image in enumerate(images.repeat(scale, axis=1).repeat(scale, axis=2)):
        top, left = GAP + n // columns * (H + GAP), GAP + n % columns * (W + GAP)
        picture[top : top + H, left : left + W] = image
    return picture


@drawing()
def scatter(points: np.ndarray, codec, columns: int = 10, scale: int = 2) -> np.ndarray:
    """Draw points (N, 2) over the true density of the data, as one uint8 picture (height, width, 3).

    `codec.density` gives the density (M,) at points (M, 2). The picture is 160 * scale pixels
    wide and high.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.6 * scale, 1.6 * scale), dpi=100, facecolor="white")
    axis = figure.add_axes((0, 0, 1, 1))
    line = np.linspace(-REACH, REACH, 200)
    axis.pcolormesh(line, line, codec.density(plane(200)).reshape(200, 200) ** 0.5, cmap="Blues", rasterized=True)
    axis.plot(points[:, 0], points[:, 1], ".", color="tab:orange", markersize=2.5 * scale**0.5, markeredgewidth=0)
    axis.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH))
    axis.set_axis_off()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def plane(side: int) -> np.ndarray:
    """Return side x side points (side^2, 2) of the plane that the scatter shows, row by row from below."""
    line = np.linspace(-REACH, REACH, side)
    return np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)


@drawing()
def planes(values: dict[str, np.ndarray], points: np.ndarray) -> np.ndarray:
    """Draw probabilities (side, side) on the plane side by side, with points (N, 2), as one picture (height, width, 3).

    Places where a value is NaN are white.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(values) + 0.6, 4.2), dpi=100, facecolor="white", layout="constrained")
    panels = figure.subplots(1, len(values))
    for panel, (title, value) in zip(panels, values.items(), strict=True):
        line = np.linspace(-REACH, REACH, len(value))
        image = panel.pcolormesh(line, line, value, cmap="RdBu", vmin=0, vmax=1, rasterized=True)
        panel.plot(points[:, 0], points[:, 1], ".", color="black", markersize=2, markeredgewidth=0)
        panel.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), title=title, aspect="equal", xticks=[], yticks=[])
    figure.colorbar(image, ax=panels, label='probability "real"', shrink=0.8)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


REACH = 3.0  # the scatter shows the plane from -REACH to REACH in both directions


def rows(samples, codec, columns: int = 10, scale: int = 2) -> np.ndarray:
    """Draw rows of a table, a data frame, as one uint8 picture (height, width, 3): see `report.tables`."""
    from minigan.report import tables  # it imports this module

    return tables.view(samples, scale)


def series(samples: np.ndarray, codec, columns: int = 10, scale: int = 2) -> np.ndarray:
    """Draw series as one uint8 picture (height, width, C): see `report.sequences`."""
    from minigan.report import sequences  # it imports this module

    return sequences.view(samples, codec, columns, scale)


VIEWS = {
    "grid": lambda samples, codec, columns, scale: grid(samples, columns, scale),
    "scatter": scatter,
    "table": rows,
    "series": series,
}
# Seconds between the pictures of two epochs, at least. A picture of a table or of series takes half a second, and an
# epoch of few rows may take a tenth of that.
PAUSES = {"table": 15.0, "series": 15.0}


# Views in which one sample is a picture by itself, each with the function that draws it.
SINGLE = {"grid": lambda image: image}


def save_picture(path: Path, picture: np.ndarray) -> None:
    """Write one uint8 picture (height, width, C) as a PNG file."""
    _save(path, to_pillow(picture), "PNG", optimize=True)


def save_grid(path: Path, images: np.ndarray, columns: int = 10, scale: int = 2) -> None:
    """Write the grid of uint8 images (N, H, W, C) as a PNG file."""
    _save(path, to_pillow(grid(images, columns, scale)), "PNG", optimize=True)


def save_animation(path: Path, frames: list[Path], last: np.ndarray | None = None) -> None:
    """Write a GIF of PNG files at half their size, followed by the picture `last` (height, width, C), if given.

    The last frame is shown for two seconds.
    """
    pictures = [Image.open(frame) for frame in frames] + ([] if last is None else [to_pillow(last)])
    resized = [picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX) for picture in pictures]
    durations = [250] * (len(resized) - 1) + [2000]  # milliseconds
    _save(path, resized[0], "GIF", save_all=True, append_images=resized[1:], duration=durations, loop=0, optimize=True)


@drawing()
def save_curves(
    path: Path,
    curves: dict[str, np.ndarray],
    steps_per_epoch: int,
    equilibrium: tuple[float, float] | None,
    checks: Sequence[dict] = (),
) -> None:
    """Write the plot of `curves` and `checks` as a PNG file: see `_figure_of_curves`."""
    write_atomically(Path(path), png(_figure_of_curves(curves, steps_per_epoch, equilibrium, checks)))


@drawing()
def curves(
    values: dict[str, np.ndarray],
    steps_per_epoch: int,
    equilibrium: tuple[float, float] | None,
    checks: Sequence[dict] = (),
) -> Image.Image:
    """Return a plot of the losses and probabilities as a Pillow image: see `_figure_of_curves`."""
    picture = Image.open(io.BytesIO(png(_figure_of_curves(values, steps_per_epoch, equilibrium, checks))))
    picture.load()
    return picture


# Figures of the checks that are drawn, all from 0 to about 1. `metrics.collapse` describes them.
CHECKED = {
    "coverage": "coverage",
    "variety": "variety within modes",
    "nearest_fake": "distance between fakes",
    "d_right_held_out": "D right on held-out samples",
    "d_right_fakes": "D right on fakes",
    "dead_units": "dead units of G",
}


def _figure_of_curves(
    curves: dict[str, np.ndarray],
    steps_per_epoch: int,
    equilibrium: tuple[float, float] | None,
    checks: Sequence[dict] = (),
):
    """Plot the losses, and the mean probability "real" from D for real and fake samples, against the epochs.

    `curves` has an array (steps,) for each of d_loss, g_loss, d_real and d_fake. Faint lines show every step, and bold
    lines the mean of consecutive steps. Dotted lines show the equilibrium, at which D cannot distinguish real and fake
    samples: the losses `equilibrium` and the probability 1/2. They are left out if it is None.

    `checks` are the rows of the history that have figures of a check. If there are any, a third
    panel shows those in CHECKED, and the share of modes that are covered.
    """
    # Unlike pyplot, Figure needs no display and has no global state.
    from matplotlib.figure import Figure

    count = 3 if checks else 2
    figure = Figure(figsize=(8, 3 * count), layout="constrained")
    panels = figure.subplots(count, 1, sharex=True)
    for panel, names, levels in (
        (panels[0], {"d_loss": "discriminator", "g_loss": "generator"}, equilibrium),
        (panels[1], {"d_real": "D(real)", "d_fake": "D(fake)"}, equilibrium and (0.5, 0.5)),
    ):
        for colour, (name, label), level in zip(
            ("tab:blue", "tab:orange"), names.items(), levels or (None, None), strict=True
        ):
            y = curves[name]
            x = np.arange(1, len(y) + 1) / steps_per_epoch
            panel.plot(x, y, color=colour, alpha=0.2, linewidth=0.5)
            panel.plot(*_smooth(x, y), color=colour, label=label)
            if level is not None:
                panel.axhline(level, color=colour, linestyle=":", linewidth=1)
        panel.legend(loc="upper right")
    panels[0].set_ylabel("loss")
    panels[1].set(ylabel='probability "real"', ylim=(0, 1))
    panels[-1].set_xlabel("epoch")
    if checks:
        _draw_checks(panels[2], checks)
    if len(curves["d_loss"]):
        low, high = np.percentile(np.concatenate([curves["d_loss"], curves["g_loss"]]), (0.5, 99.5))
        panels[0].set_ylim(low - 0.1 * (high - low), high + 0.1 * (high - low) + 1e-6)
    return figure


def _draw_checks(panel, checks: Sequence[dict]) -> None:
    """Draw the figures of checks, rows of the history, against the epochs. A row may lack a figure."""
    values = {name: [(row["epoch"], row[name]) for row in checks if name in row] for name in CHECKED}
    lines = {"modes covered": [(row["epoch"], row["modes_covered"] / row["modes"]) for row in checks if "modes" in row]}
    lines |= {label: values[name] for name, label in CHECKED.items()}
    for label, points in lines.items():
        if points:
            panel.plot(*zip(*points, strict=True), ".-", label=label)
    panel.axhline(1, color="black", linestyle=":", linewidth=1)
    panel.set(ylabel="checks; 1: as real", ylim=(0, 1.5))
    panel.legend(loc="upper right", ncols=3, fontsize="small")


@drawing()
def save_report(path: Path, images: np.ndarray, columns: int, report: dict, descriptions: dict[str, str]) -> None:
    """Write a PNG file with a grid of samples (N, H, W, C), the frequency of each digit, and a table of the scores."""
    figure, right = _samples_and_axes(images, columns, report["count"])
    histogram = right.inset_axes([0, 0.62, 1, 0.33])
    for k, (who, colour) in enumerate((("samples", "tab:orange"), ("real", "tab:blue"))):
        share = np.array(report[who]["classes"]) / sum(report[who]["classes"])
        histogram.bar(np.arange(len(share)) + 0.4 * k - 0.2, 100 * share, 0.4, color=colour, label=who)
    histogram.set_xticks(range(len(share)))
    histogram.set(ylabel="% predicted as this digit", ylim=(0, None))
    histogram.legend(ncols=2, loc="lower center")
    rows = [
        [text, *(f"{report[who][name]['value']:.3f}" for who in ("samples", "real"))]
        for name, text in descriptions.items()
        if name in report["samples"]
    ]
    text = right.table(
        rows, colLabels=["", "samples", "real"], colWidths=[0.72, 0.14, 0.14], cellLoc="left", bbox=[0, 0, 1, 0.5]
    )
    text.auto_set_font_size(False)
    text.set_fontsize(8)
    _save_figure(path, figure)


@drawing()
def save_comparison(path: Path, images: np.ndarray, columns: int, report: dict, descriptions: dict[str, str]) -> None:
    """Write a PNG file with a grid of samples (N, H, W, C) and a table of the scores in a report.

    `report` is a result of `metrics.comparison.compare`, and `descriptions` names its scores.
    """
    figure, right = _samples_and_axes(images, columns, report["count"])
    who = [name for name in ("samples", "real") if name in report]
    rows = [
        [text, *(f"{report[name][key]:.3f}" for name in who)]
        for key, text in descriptions.items()
        if key in report["samples"]
    ]
    if "agreement" in report:
        percent = f"{100 * report['agreement']:.1f}%", f"{100 * report['classifier']:.1f}%"
        rows.append(["classified as the class asked for", *percent[: len(who)]])
    widths = [0.9 - 0.16 * len(who), *[0.16] * len(who)]
    text = right.table(rows, colLabels=["", *who], colWidths=widths, cellLoc="left", bbox=[0, 0.3, 1, 0.5])
    text.auto_set_font_size(False)
    text.set_fontsize(9)
    _save_figure(path, figure)


def _samples_and_axes(images: np.ndarray, columns: int, count: int):
    """Return a figure with a grid of samples (N, H, W, C) on the left, and its empty axes on the right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.15])
    left.imshow(grid(images, columns, scale=1).squeeze(), cmap="gray", vmin=0, vmax=255)
    left.set_axis_off()
    left.set_title(f"samples, of {count:,}")
    right.set_axis_off()
    return figure, right


def _save_figure(path: Path, figure) -> None:
    """Write a figure of matplotlib to a PNG file."""
    write_atomically(Path(path), png(figure))


def png(figure) -> bytes:
    """Return a figure of matplotlib as the content of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100, format="png")
    return buffer.getvalue()


def _smooth(x: np.ndarray, y: np.ndarray, points: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Return the means of about `points` blocks of consecutive values of x and y."""
    width = max(1, len(y) // points)
    n = len(y) // width * width
    return x[:n].reshape(-1, width).mean(axis=1), y[:n].reshape(-1, width).mean(axis=1)


def to_pillow(picture: np.ndarray) -> Image.Image:
    """Convert a picture (height, width, C) to a Pillow image, which is grey for C = 1."""
    return Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)


def _save(path: Path, image: Image.Image, kind: str, **options) -> None:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    write_atomically(Path(path), buffer.getvalue())
