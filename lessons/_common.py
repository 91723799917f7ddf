"""What the lessons share, so that each is about its subject: where figures go, and `--quick`.

    python lessons/01_neuron.py            the figure is written to lessons/figures and its path printed
    python lessons/08_forger_and_critic.py --quick      less training; the figure goes to lessons/runs instead
    python lessons/01_neuron.py --figures DIR           the figure goes to DIR

In IPython, Jupyter, VS Code's or Spyder's cells the figures are shown as well.
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

_parser = argparse.ArgumentParser(description="A lesson of minigan: read its source; run, it checks what it says.")
_parser.add_argument("--quick", action="store_true", help="train less: the claims hold, the pictures are poorer")
_parser.add_argument("--figures", type=Path, metavar="DIR", help="where to write the figures")
_arguments = _parser.parse_args([] if NOTEBOOK else sys.argv[1:])  # in a notebook they are the kernel's, not ours

QUICK = _arguments.quick
RUNS = HERE / "runs"  # what lessons write besides figures; git ignores it
FIGURES = _arguments.figures or (RUNS if QUICK else HERE / "figures")

if not NOTEBOOK:
    matplotlib.use("Agg")  # draws into files, needs no display
matplotlib.rcParams |= {
    "figure.constrained_layout.use": True,
    "figure.dpi": 100,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "image.interpolation": "nearest",
}

BLUE, ORANGE, GREEN, GREY = "#1f6fb4", "#e8743b", "#2a9d5c", "#8a8a8a"  # told apart by every eye, and in print
NO_YES = LinearSegmentedColormap.from_list("no_yes", ["#f2a47d", "#fdf3ee", "#f0f5fa", "#78acd8"])  # paler


def path(name: str) -> Path:
    """Where the figure of that name goes; the folder exists afterwards."""
    FIGURES.mkdir(parents=True, exist_ok=True)
    return FIGURES / name


def save(figure, name: str) -> None:
    """Writes the figure as a PNG of at most 128 colours (small, for git), and shows it in a notebook."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    picture = Image.open(buffer).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    picture.save(path(name), optimize=True)
    print(f"figure {path(name)}, {time.perf_counter() - START:.1f} s after the start")
    if NOTEBOOK:
        import matplotlib.pyplot as plt

        plt.show()
