"""Code that all lessons share: command-line options, plot style, and writing figures.

    python lessons/01_neuron.py                     writes the figure to lessons/figures and prints its path
    python lessons/08_forger_and_critic.py --quick  trains less and writes the figure to lessons/runs
    python lessons/01_neuron.py --figures DIR       writes the figure to DIR

In IPython, Jupyter, VS Code and Spyder, the figures are also shown.
"""

import argparse
import builtins
import io
import sys
import time
from pathlib import Path

import matplotlib
from matplotlib.colors import LinearSegmentedColormap
from PIL import Image

HERE = Path(__file__).resolve().parent
NOTEBOOK = hasattr(builtins, "get_ipython") or hasattr(builtins, "__IPYTHON__")
START = time.perf_counter()

_parser = argparse.ArgumentParser(description="A lesson of minigan. Running it checks its claims.")
_parser.add_argument("--quick", action="store_true", help="train less; the pictures are worse")
_parser.add_argument("--figures", type=Path, metavar="DIR", help="the folder to write the figures to")
_arguments = _parser.parse_args([] if NOTEBOOK else sys.argv[1:])  # in a notebook, sys.argv belongs to the kernel

QUICK = _arguments.quick
RUNS = HERE / "runs"  # other files that lessons write; git ignores this folder
FIGURES = _arguments.figures or (RUNS if QUICK else HERE / "figures")

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


def path(name: str) -> Path:
    """Returns the path of the figure with this name, and creates the folder."""
    FIGURES.mkdir(parents=True, exist_ok=True)
    return FIGURES / name


def save(figure, name: str) -> None:
    """Writes the figure as a PNG with at most 128 colours, so that the file is small. In a notebook, also shows it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    picture = Image.open(buffer).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    picture.save(path(name), optimize=True)
    print(f"figure {path(name)}, {time.perf_counter() - START:.1f} s after the start")
    if NOTEBOOK:
        import matplotlib.pyplot as plt

        plt.show()
