"""Pictures of the latent space: planes, walks, samples at several distances, and their nearest training images."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from minigan.report.plots import drawing, grid, png


@drawing()
def sheet(
    images: np.ndarray, rows: Sequence[str], columns: Sequence[str], title: str, across: str = "", up: str = ""
) -> bytes:
    """Draw images (R * C, H, W, channels), row by row, with the names of R rows and C columns, as a PNG file.

    `across` and `up` name the axes.
    """
    from matplotlib.figure import Figure

    picture = grid(images, len(columns), scale=max(1, 56 // images.shape[2]))
    height, width = picture.shape[:2]
    shown_width = max(6.0, width / 110)
    figure = Figure(figsize=(shown_width, shown_width * height / width + 0.9), dpi=110, layout="constrained")
    axis = figure.add_subplot()
    axis.imshow(picture[..., 0] if picture.shape[2] == 1 else picture, cmap="gray", vmin=0, vmax=255)
    for names, size, ticks in ((columns, width, axis.set_xticks), (rows, height, axis.set_yticks)):
        middles = (np.arange(len(names)) + 0.5) * (size / len(names))
        ticks([at for at, name in zip(middles, names, strict=True) if name], [name for name in names if name])
    axis.tick_params(length=0, labelsize=9)
    axis.set(xlabel=across, ylabel=up)
    axis.set_title(title, fontsize=11)
    for spine in axis.spines.values():
        spine.set_visible(False)
    return png(figure)


@drawing()
def clouds(clouds: dict[str, np.ndarray], lines: dict[str, list[np.ndarray]], title: str) -> bytes:
    """Draw sets of points (N, 2) and sets of curves (T, 2) through points, each in its own colour, as a PNG file.

    A name that begins with an underscore is not in the legend.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 6), dpi=110, layout="constrained")
    axis: Any = figure.add_subplot()
    for name, points in clouds.items():
        axis.plot(points[:, 0], points[:, 1], ".", markersize=3, label=name, alpha=0.7, markeredgewidth=0)
    for i, (name, curves) in enumerate(lines.items(), len(clouds)):
        for number, curve in enumerate(curves):
            label = "_" if number else name
            axis.plot(curve[:, 0], curve[:, 1], "-", linewidth=1.1, label=label, color=f"C{i}", alpha=0.85)
    axis.set_aspect("equal")
    axis.set_title(title, fontsize=11)
    if any(not name.startswith("_") for name in (*clouds, *lines)):
        axis.legend(fontsize=8, loc="upper right")
    return png(figure)
