"""The options of every command of the command line."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from minigan import __version__
from minigan.datasets import KINDS
from minigan.export import FORMATS
from minigan.options import Parser, add_arguments
from minigan.training.config import BACKEND, Config, add_options


def parser(commands: Mapping[str, Callable]) -> argparse.ArgumentParser:
    """Return the parser of all commands. `commands` maps the name of each to the function that runs it."""
    parser = Parser(prog="minigan", description="Generative adversarial networks from scratch in NumPy.")
    parser.add_argument("--version", action="version", version=f"minigan {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)

    def add(name: str, summary: str) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        sub.set_defaults(command=commands[name])
        return sub

    sub = add("train", "Train a generator and a discriminator, and write pictures, curves and checkpoints.")
    sub.add_argument("--list", action="store_true", help="describe the presets and exit")
    add_options(sub)
    sub.add_argument("--out", type=Path, metavar="RUN", help="the run's folder (default: runs/PRESET)")
    sub.add_argument("--resume", action="store_true", help="resume the run in RUN, with bit-identical results")
    sub.add_argument(
        "--extend", action="store_true", help="with --resume: start a new decay of the learning rate, to the new total"
    )
    sub.add_argument("--quiet", action="store_true", help="print no progress bar and no tables")

    sub = add("sample", "Draw samples from a trained generator.")
    sub.add_argument("run", type=Path, metavar="RUN", help="the folder of a run")
    sub.add_argument("--count", type=int, default=100, metavar="N", help="number of samples (default 100)")
    sub.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the noise (default 0)")
    sub.add_argument("--label", "--digit", metavar="NAME", help="draw only this class (for a run with labels)")
    sub.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="COLUMN=VALUE",
        help="tables: every row has this value in this column of categories; may be repeated",
    )
    sub.add_argument(
        "--out",
        type=Path,
        metavar="PATH",
        help="a .png (one picture), .npz (samples and labels), .npy, .csv (points, series, tables), .csv.gz or "
        ".parquet (tables) file, or a folder for separate pictures (default: RUN/sample.png)",
    )
    _add_backend(sub)

    sub = add("evaluate", "Compare a run's samples with real ones.")
    sub.add_argument("run", type=Path, metavar="RUN", help="the folder of a run on images, series or a table")
    sub.add_argument(
        "--count", type=int, metavar="N", help="number of samples (default: 10,000, or the rows of the table)"
    )
    sub.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the noise and the bootstrap (default 0)")
    sub.add_argument("--json", action="store_true", help="print the results as JSON")
    sub.add_argument("--data", metavar="PATH", help="the path of the training data, if they were moved")
    sub.add_argument("--target", metavar="COLUMN", help="tables: the column that is predicted (default: the labels)")
    sub.add_argument("--held-out", metavar="PATH", help="tables: rows that were not trained on, with the same columns")
    _add_backend(sub)

    sub = add("explain", "Say in plain words what happened in a run, finished or not, and what usually helps.")
    sub.add_argument("run", type=Path, metavar="RUN", help="the folder of a run")
    sub.add_argument("--json", action="store_true", help="print the statements and their figures as JSON")
    sub.add_argument("--data", metavar="PATH", help="the path of the training data, if they were moved")
    _add_backend(sub)

    sub = add("trace", "Write one batch of a run as a page: what each layer computes, forward and back, step by step.")
    sub.add_argument("run", type=Path, metavar="RUN", help="the folder of a run")
    sub.add_argument("--out", type=Path, metavar="FILE", help="the page (default: RUN/trace.html)")
    sub.add_argument("--data", metavar="PATH", help="the path of the training data, if they were moved")
    _add_backend(sub)

    sub = add("web", "Serve a live page of many runs on this machine, until Ctrl-C.")
    sub.add_argument("folder", nargs="?", type=Path, default=Path("runs"), metavar="FOLDER", help="default: runs")
    sub.add_argument("--port", type=int, default=8111, metavar="N", help="default 8111; 0: any that is free")

    sub = add("export", "Write the generator of a run to a file of its own, for use without minigan.")
    sub.add_argument("run", type=Path, metavar="RUN", help="the folder of a run")
    formats = "; ".join(f"{name}: {form.what}" for name, form in FORMATS.items())
    sub.add_argument("--format", metavar="NAME", help=f"{formats} (default: that of the suffix of --out, or npz)")
    sub.add_argument("--out", type=Path, metavar="FILE", help="default: RUN/generator with the suffix of the format")

    sub = add("explore", "Write a page on which to explore what a generator makes; it opens without a network.")
    sub.add_argument("run", type=Path, metavar="RUN", help="the folder of a run")
    sub.add_argument("--out", type=Path, metavar="FILE.html", help="default: RUN/explorer.html; with --png, a folder")
    sub.add_argument(
        "--png", action="store_true", help="write pictures instead: planes, walks, distances, nearest training images"
    )
    sub.add_argument("--seed", type=int, default=0, metavar="N", help="with --png: seed of the noise (default 0)")
    sub.add_argument("--data", metavar="PATH", help="with --png: the path of the training data, if they were moved")

    sub = add("classify", "Train a classifier of images with labels, from which a discriminator can start.")
    sub.add_argument("--data", default="mnist", metavar="mnist|PATH", help="images with labels, as for `minigan train`")
    sub.add_argument(
        "--out", type=Path, default=Path("classifier.npz"), metavar="FILE.npz", help="default: classifier.npz"
    )
    sub.add_argument("--seed", type=int, default=0, metavar="N", help="seed of all random numbers (default 0)")
    sub.add_argument("--steps", type=int, default=2500, metavar="N", help="batches of 64 images (default 2500)")
    add_arguments(sub, KINDS["images"].options)
    _add_backend(sub)

    sub = add("experiment", "Run an experiment with many trainings: it gives a table, a verdict and a figure.")
    sub.add_argument("name", nargs="?", metavar="NAME|FILE.py", help="see --list, or a file that defines EXPERIMENT")
    sub.add_argument("--list", action="store_true", help="say what each experiment asks and how long it takes")
    sub.add_argument("--seeds", type=int, metavar="N", help="seeds of every arm (default: those of the experiment)")
    sub.add_argument("--minutes", type=float, metavar="M", help="training time of each row, instead of its own total")
    sub.add_argument("--jobs", type=int, metavar="N", help="rows at a time, one thread each (default: all cores)")
    _add_scheduler(sub)
    sub.add_argument("--only", default="", metavar="TEXT", help='rows whose name contains TEXT, such as "r1, seed 2"')
    sub.add_argument("--out", type=Path, metavar="FOLDER", help="default: experiments/NAME; finished rows are kept")
    sub.add_argument("--json", type=Path, metavar="FILE", help="write the results to this file as well")
    sub.add_argument(
        "--quick",
        action="store_true",
        help="check the main claim in less than half a minute; without a name, that of every experiment",
    )
    sub.add_argument("--quiet", action="store_true", help="print no progress bar")

    sub = add("sweep", "Train with every combination of some options, on this machine or on a Dask cluster.")
    sub.add_argument(
        "--grid",
        nargs="+",
        default=[],
        metavar="NAME=VALUES",
        help="the options that vary: lr=1e-3,2e-3 seed=0:5 (0 to 4) network.noise=16,64; names as of `minigan train`",
    )
    sub.add_argument("--jobs", type=int, metavar="N", help="rows at a time, one thread each (default: all cores)")
    _add_scheduler(sub)
    sub.add_argument("--only", default="", metavar="TEXT", help='rows whose name contains TEXT, such as "seed 2"')
    sub.add_argument("--out", type=Path, metavar="FOLDER", help="the folder of the sweep (default: sweeps/PRESET)")
    sub.add_argument(
        "--resume", action="store_true", help="run what is missing in the folder; a further --grid adds its rows"
    )
    sub.add_argument("--json", type=Path, metavar="FILE", help="write the results to this file as well")
    sub.add_argument("--quiet", action="store_true", help="print no progress bar")
    add_options(sub)

    sub = add("gradcheck", "Check every gradient, or layers of your own; exit code 1 if a check fails.")
    sub.add_argument("files", nargs="*", type=Path, metavar="FILE.py", help="defines layers and examples(rng)")
    sub.add_argument("--backend", metavar="NAME", action="append", help="may be repeated (default: all that run here)")
    sub.add_argument("--all", action="store_true", help="print a line for every tensor, not only the worst")
    sub.add_argument("--planted", action="store_true", help="check that planted mistakes are caught")
    sub.add_argument("--update", type=Path, metavar="FILE", help="with --planted: write the table into this README")
    sub.add_argument("--json", action="store_true", help="print all results as JSON")

    sub = add("bench", "Time a complete training step on every backend that runs here (about half a minute).")
    sub.add_argument("--preset", default="small", metavar="NAME", help="preset of the networks (default small)")
    sub.add_argument("--batch", type=int, nargs="+", default=[16, 64, 256], metavar="N", help="default 16 64 256")
    sub.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all cores)")
    sub.add_argument("--seconds", type=float, default=2.0, metavar="X", help="for each backend and batch (default 2)")
    sub.add_argument("--json", action="store_true", help="print the results as JSON")

    sub = add("info", "Show a run: its data and classes, preset, progress and files.")
    sub.add_argument("run", type=Path, metavar="RUN", help="the folder of a run")
    sub.add_argument("--json", action="store_true", help="print the facts as JSON")

    add("doctor", "Show which backends run here, and why the others do not.")
    return parser


def _add_scheduler(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="let the workers of this Dask scheduler run the rows (extra cluster); all must see the folder",
    )


def _add_backend(sub: argparse.ArgumentParser) -> None:
    add_arguments(sub, Config, BACKEND)
