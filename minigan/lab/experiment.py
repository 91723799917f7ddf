"""An experiment: a question, arms that differ in one thing, what is measured of each, and a verdict.

    EXPERIMENT = Experiment(
        question="Does a larger batch give better digits in the same time?",
        arms={"batch 64": {"preset": "digits", "batch": 64}, "batch 256": {"preset": "digits", "batch": 256}},
        run=gan(digits, minutes=1),
        columns={"frechet": Column("Frechet distance", "lower"), "coverage": Column("coverage", "higher")},
        minutes=5,
        seeds=3,
    )

`minigan experiment NAME` runs one of `lab/experiments/`, and `minigan experiment FILE.py` one of
your own: a file that defines EXPERIMENT. A row of its table is one arm with one seed. `lab.runner`
runs the rows, and `lab.results` has the tables and the verdicts.
"""

import importlib
import importlib.util
import json
import pkgutil
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from minigan import runs
from minigan.errors import UserError
from minigan.files import write_array, write_atomically
from minigan.lab.results import Column, Results, against_the_first
from minigan.training import Config

Arms = Mapping[str, Mapping[str, Any]]
EXPERIMENTS = "minigan.lab.experiments"  # every module of this package is an experiment
LOGGED = 10  # numbers of a row's first steps that are stored, so that its beginning can be repeated
FIRST = "first.json"  # these numbers, in the folder of a row
STOP = "stop"  # a file in the folder of an experiment, which ends its rows


@dataclass(frozen=True)
class Quick:
    """A short form of an experiment: other arms and settings, seeds, and a claim that its results must show.

    `claim` returns the claim as a sentence, and whether the results show it.
    """

    arms: Arms
    seeds: int
    claim: Callable[[Results], tuple[str, bool]]


@dataclass(frozen=True)
class Experiment:
    """A question, the arms that answer it, and what is measured.

        question    one or more sentences; the first one is listed
        arms        the settings of each arm, by name: values that JSON can store
        run         trains and measures one row, and returns its figures by name. Numbers are columns
                    of the table; lists, for example of moments, are stored for the picture
        columns     the figures of the table. The first one that is better lower or higher decides the verdict
        minutes     what all rows take together on two cores
        seeds       the number of seeds of each arm, or that of the arms named, or the seeds themselves;
                    others have one, 0
        alone       arms whose rows run one at a time with all cores, because their target is in minutes
        then        further arms, which depend on the results of the first ones
        verdict     sentences about the results; by default, each arm is compared with the first one
        picture     draws the results as one uint8 picture (height, width, C); by default, dots of the first column
        quick       the short form; by default, the beginning of a stored row is repeated

    A row of the table is one arm with one seed.
    """

    question: str
    arms: Arms
    run: Callable[["Row"], Mapping[str, Any]]
    columns: Mapping[str, Column]
    minutes: float
    seeds: int | Mapping[str, int | Sequence[int]] = 1
    alone: tuple[str, ...] = ()
    then: Callable[[Results], Arms] | None = None
    verdict: Callable[[Results], list[str]] = against_the_first
    picture: Callable[[Results], np.ndarray] | None = None
    quick: Quick | None = None

    def seeds_of(self, arm: str) -> Sequence[int]:
        """Return the seeds of an arm in the full form."""
        of = self.seeds if isinstance(self.seeds, int) else self.seeds.get(arm, 1)
        return range(of) if isinstance(of, int) else of

    @property
    def main(self) -> str:
        """The figure that decides the verdict: the first column that is better lower or higher."""
        return next((name for name, column in self.columns.items() if column.better), next(iter(self.columns)))


class Replayed(Exception):
    """Raised by `Row.log` when the beginning of a stored row was repeated."""


@dataclass
class Row:
    """One arm with one seed, while it runs. `folder` is its own, and keeps what it has done so far."""

    experiment: str
    arm: str
    seed: int
    settings: dict[str, Any]
    folder: Path
    threads: int = 1
    minutes: float | None = None  # of training, instead of the total of the arm
    replay: bool = False  # end after LOGGED numbers
    logged: list[float] = field(default_factory=list)
    reported: float = 0.0  # when the progress was written last

    def __post_init__(self) -> None:
        if not self.replay and (self.folder / FIRST).exists():
            self.logged = json.loads((self.folder / FIRST).read_text(encoding="utf-8"))

    @property
    def name(self) -> str:
        """The name of the row."""
        return f"{self.arm}, seed {self.seed}"

    @cached_property
    def backend(self) -> Any:
        """The backend with the threads of the row."""
        return runs.load_backend(Config(threads=self.threads))

    def rng(self, stream: int = 0) -> np.random.Generator:
        """Return random numbers that depend on the seed of the row, and on the number of the stream."""
        return np.random.default_rng([self.seed, 100 + stream])

    def log(self, *values: float) -> None:
        """Store numbers of the first steps, such as losses, with which a repetition of the row is compared."""
        if len(self.logged) < LOGGED:
            self.logged += [float(value) for value in values][: LOGGED - len(self.logged)]
            if len(self.logged) == LOGGED and not self.replay:  # a row that continues does not see these steps again
                write_atomically(self.folder / FIRST, json.dumps(self.logged).encode())
        elif self.replay:
            raise Replayed

    def keep(self, name: str, array: np.ndarray) -> None:
        """Store an array in the folder of the row, for the picture: see `Results.kept`."""
        write_array(self.folder / f"{name}.npy", array)

    def progress(self, done: float) -> None:
        """Report the completed part of the row, 0 to 1, at most every second.

        Raises Stopped if the experiment is to end, which is how a worker of a cluster learns of a Ctrl-C.
        """
        if not self.replay and time.monotonic() > self.reported + 1:
            self.reported = time.monotonic()
            write_atomically(self.folder / "progress", f"{done:.4f}".encode())
            if (self.folder.parent.parent / STOP).exists():
                raise runs.Stopped(signal.SIGINT)


def names() -> list[str]:
    """Return the names of the experiments of the package."""
    package = importlib.import_module(EXPERIMENTS)
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(package.__path__))


def listed() -> str:
    """Return what each experiment of the package asks, and how long it takes, as text for people."""
    lines = []
    for name in names():
        experiment = load(name)
        question = experiment.question.strip().split("\n\n")[0].replace("\n", " ")
        text = f"{name:<17}{question} (about {experiment.minutes:g} minutes on two cores)"
        lines.append(textwrap.fill(text, 110, subsequent_indent=" " * 17, break_on_hyphens=False))
    return "\n".join(lines)


def load(name: str) -> Experiment:
    """Return the experiment of the package with this name, that of a file `FILE.py`, or that of a sweep's `sweep.json`.

    Raises UserError if there is none, or if the file cannot be run or defines no EXPERIMENT.
    """
    if name.endswith(".py"):
        return _of_file(Path(name))
    if name.endswith(".json"):
        from minigan.lab import sweep  # which is made of experiments

        return sweep.read(Path(name)).experiment()
    known = names()
    if name not in known:
        near = get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"choose {', '.join(known)}"
        raise UserError(f"unknown experiment {name!r}, and not a file that ends in .py: {hint}")
    module = importlib.import_module(f"{EXPERIMENTS}.{name.replace('-', '_')}")
    return module.EXPERIMENT


def _of_file(path: Path) -> Experiment:
    """Return the EXPERIMENT that a file defines."""
    if not path.is_file():
        raise UserError(f"{path} does not exist: give a file that defines EXPERIMENT, or a name of --list")
    spec = importlib.util.spec_from_file_location(f"experiment_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses in the file need it
    try:
        spec.loader.exec_module(module)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path} cannot be run ({type(error).__name__}: {error}): correct the file") from error
    found = getattr(module, "EXPERIMENT", None)
    if not isinstance(found, Experiment):
        raise UserError(f"{path} defines no EXPERIMENT: set it to a minigan.lab.Experiment")
    for arm, settings in found.arms.items():
        try:
            json.dumps(settings)
        except TypeError as error:
            raise UserError(
                f"{path}: the settings of {arm!r} cannot be stored ({error}): use numbers and text"
            ) from None
    return found
