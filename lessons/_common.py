"""Code that all lessons share: command-line options, plot style, diagrams, and writing figures.

    python lessons/01_neuron.py                     writes the figures to lessons/runs and prints their paths
    python lessons/07_forger_and_critic.py --quick  trains less
    python lessons/01_neuron.py --figures DIR       writes the figures to DIR

Git ignores lessons/runs. The committed figures are in lessons/figures, and only --figures lessons/figures replaces
them. In IPython, Jupyter, VS Code and Spyder, the figures are shown too. A notebook has no command line: it takes the
same options from the environment variable MINIGAN_LESSON (in a cell above the others: %env MINIGAN_LESSON=--quick).
"""

import argparse
import builtins
import io
import os
import shlex
import sys
import time
from pathlib import Path

import matplotlib
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle
from PIL import Image

HERE = Path(__file__).resolve().parent
NOTEBOOK = hasattr(builtins, "get_ipython") or hasattr(builtins, "__IPYTHON__")
START = time.perf_counter()

_parser = argparse.ArgumentParser(description="A lesson of minigan. Running it checks its claims.")
_parser.add_argument("--quick", action="store_true", help="train less; the pictures are worse")
_parser.add_argument("--figures", type=Path, metavar="DIR", help="write the figures to DIR, not to lessons/runs")
_words = shlex.split(os.environ.get("MINIGAN_LESSON", "")) if NOTEBOOK else sys.argv[1:]  # there, argv is the kernel's
_arguments = _parser.parse_args(_words)

QUICK = _arguments.quick
RUNS = HERE / "runs"  # the files that lessons write; git ignores this folder
FIGURES = _arguments.figures or RUNS

if not NOTEBOOK:
    matplotlib.use("Agg")  # draws to files and needs no display
matplotlib.rcParams |= {
    "figure.constrained_layout.use": True,
    "figure.dpi": 100,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "image.interpolation": "nearest",
}

BLUE, ORANGE, GREEN, GREY = "#1f6fb4", "#e8743b", "#2a9d5c", "#8a8a8a"  # safe for colour-blind readers and for print
NO_YES = LinearSegmentedColormap.from_list("no_yes", ["#f2a47d", "#fdf3ee", "#f0f5fa", "#78acd8"])


def blank(axis, width: float, height: float) -> None:
    """Prepares an axis for a diagram: x from 0 to width, y from 0 to height, equal units, no frame."""
    axis.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    axis.axis("off")


def circle(axis, x: float, y: float, text: str, colour: str = BLUE, radius: float = 0.45, size: float = 11) -> None:
    """Draws a circle with a text, for one number or one operation."""
    axis.add_patch(Circle((x, y), radius, facecolor="white", edgecolor=colour, linewidth=1.8, zorder=2))
    axis.text(x, y, text, ha="center", va="center", fontsize=size, zorder=3)


def box(axis, x: float, y: float, text: str, colour: str = BLUE, width: float = 1.6, height: float = 0.9) -> None:
    """Draws a box with a text around the point (x, y)."""
    corner = (x - width / 2, y - height / 2)
    axis.add_patch(FancyBboxPatch(corner, width, height, "round,pad=0.05", fc="white", ec=colour, lw=1.8, zorder=2))
    axis.text(x, y, text, ha="center", va="center", fontsize=10, zorder=3)


def arrow(
    axis, start: tuple, end: tuple, text: str = "", colour: str = "black", shift: tuple = (0, 0.2), **style
) -> None:
    """Draws an arrow from start to end, with a text near its middle."""
    style = {"arrowstyle": "-|>", "color": colour, "lw": 1.3, "shrinkA": 0, "shrinkB": 0} | style
    axis.annotate("", end, start, arrowprops=style, zorder=1)
    middle = ((start[0] + end[0]) / 2 + shift[0], (start[1] + end[1]) / 2 + shift[1])
    axis.text(*middle, text, color=colour, ha="center", va="center", fontsize=10, zorder=3)


def cells(axis, x: float, y: float, values, colours=None, size: float = 10) -> None:
    """Draws numbers (H, W) as a grid of unit squares. (x, y) is the upper left corner; colours are (H, W), or one."""
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            colour = "white" if colours is None else colours if isinstance(colours, str) else colours[i][j]
            axis.add_patch(Rectangle((x + j, y - i - 1), 1, 1, facecolor=colour, edgecolor=GREY, linewidth=0.8))
            axis.text(x + j + 0.5, y - i - 0.5, f"{value:g}", ha="center", va="center", fontsize=size)


def path(name: str) -> Path:
    """Returns the path of the figure with this name, and creates the folder."""
    FIGURES.mkdir(parents=True, exist_ok=True)
    return FIGURES / name


def save(figure, name: str) -> None:
    """Writes the figure as a PNG with at most 128 colours, so that the file is small. A notebook shows the file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    picture = Image.open(buffer).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    picture.save(path(name), optimize=True)
    if NOTEBOOK:
        import matplotlib.pyplot as plt
        from IPython.display import Image as Shown
        from IPython.display import display

        display(Shown(filename=path(name)))
        plt.close(figure)  # else the notebook shows it once more
    else:
        print(f"figure {path(name)}, {time.perf_counter() - START:.1f} s after the start")
