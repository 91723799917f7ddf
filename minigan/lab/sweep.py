"""Train a GAN with every combination of some options, as the rows of one experiment.

    minigan sweep --grid lr=1e-3,2e-3 seed=0:5 --preset points --steps 2000

`sweep.json` in the folder of a sweep has its grids and its other options. It is an experiment, whose
arms are the combinations. `lab.runner` runs the rows, each of which is a usual run, and `lab.cluster`
sends them to other machines.
"""

import itertools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from minigan import runs
from minigan.datasets.points import MIXTURES
from minigan.errors import UserError
from minigan.files import write_atomically
from minigan.lab.experiment import Experiment, Row
from minigan.lab.gans import Figures, digits, gan, mixture
from minigan.lab.results import Column, Results, compared, place
from minigan.lab.runner import Report, dots
from minigan.lab.runner import run as run_experiment
from minigan.options import of_text, options
from minigan.report import experiments as pictures
from minigan.runs.checks import Checks
from minigan.training import Config, Training
from minigan.training.config import SHORTHANDS, arguments, option_names, place_of

FORMAT = 1
FILE = "sweep.json"
NETWORK = "network."  # before the name of an option of the networks
REFUSED = {
    "minutes": "minutes is no option of a grid, because what a run reaches in a time depends on the machine and on "
    "what else runs there: give epochs or steps",
    "threads": "threads is no option of a sweep, because a row has one thread: see --jobs",
}
GridValues = Mapping[str, Sequence[Any]]


# ---------------------------------------------------------------- figures


@dataclass(frozen=True)
class Measure:
    """What is measured of a row at its end, and the columns of the table. The first one is drawn."""

    of: Callable[[Training], Figures]
    columns: Mapping[str, Column]


def checked(training: Training) -> Figures:
    """Return the figures of a check of the training, as in its history: see `metrics.collapse`."""
    return dict(Checks(training).measure())


OF_CHECKS = {"coverage": Column("coverage", "higher")}
COUNTS = {"steps": Column("steps", "", 0), "seconds": Column("seconds", "", 0)}
MEASURES = {
    "digits": Measure(
        digits,
        {
            "frechet": Column("Frechet distance", "lower"),
            "coverage": Column("coverage", "higher"),
            "confident": Column("confident", "higher"),
            **COUNTS,
        },
    ),
    "mixture": Measure(
        lambda training: checked(training) | mixture(training),
        {
            **OF_CHECKS,
            "quality": Column("quality", "higher"),
            "modes": Column("modes", "higher", 1),
            **COUNTS,
        },
    ),
    "any": Measure(
        checked,
        {**OF_CHECKS, "near": Column("near real samples", "higher"), "variety": Column("variety"), **COUNTS},
    ),
}


def measure_of(configs: Iterable[Config]) -> str:
    """Return the name of the measure that all data of a sweep have."""
    data = {config.data for config in configs}
    return "digits" if data == {"mnist"} else "mixture" if data <= MIXTURES.keys() else "any"


def run(row: Row) -> Figures:
    """Train and measure one row."""
    settings = dict(row.settings)
    measure = MEASURES[settings.pop("measure")]
    return gan(measure.of)(replace(row, settings=settings))


# ---------------------------------------------------------------- the grid


def parsed(texts: Iterable[str]) -> dict[str, list[Any]]:
    """Return the values of each option of a grid: `lr=1e-3,2e-3`, `seed=0:5` (0 to 4), `network.noise=16,64`.

    Raises UserError for an option that is unknown, is given twice, or is none of a grid.
    """
    grid: dict[str, list[Any]] = {}
    known = ["preset", *option_names()]
    for text in texts:
        name, equals, values = text.partition("=")
        name = name.replace("-", "_")
        if not equals or not values.strip(", "):
            raise UserError(f"a grid has NAME=VALUE,VALUE or NAME=FIRST:END, got {text!r}")
        if name in REFUSED:
            raise UserError(REFUSED[name])
        if name not in known and not (name.startswith(NETWORK) and name != NETWORK):
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else "see `minigan train --help`, or network.NAME"
            raise UserError(f"unknown option {name!r} in the grid: {hint}")
        if name in grid:
            raise UserError(f"{name} is in the grid twice: write its values after one =")
        grid[name] = list(dict.fromkeys(_converted(name, value) for value in _values(values)))
    return grid


def _values(text: str) -> list[str]:
    """Return the values of a list `a,b` or of a range `first:end` or `first:end:step`."""
    if found := re.fullmatch(r"(-?\d+):(-?\d+)(?::([1-9]\d*))?", text):
        first, end, step = (int(part or 1) for part in found.groups())
        if end <= first:
            raise UserError(f"the range {text} is empty: the end is not part of it")
        return [str(value) for value in range(first, end, step)]
    return [value.strip() for value in text.split(",") if value.strip()]


def _converted(name: str, text: str) -> Any:
    """Return a value of an option of `Config` in its type. Other options keep their text, which is converted later."""
    field = SHORTHANDS.get(name, (name,))[0]
    value = of_text(Config, field, text) if field in options(Config) else text
    if name == "seed" and not isinstance(value, int):
        raise UserError(f"seed is a whole number, got {text!r}")
    return place_of(value) if name == "data" else value


def combined(grid: GridValues) -> dict[str, dict[str, Any]]:
    """Return the combinations of all options but the seed, by the name of their arm."""
    names = [name for name in grid if name != "seed"]
    found = {}
    for values in itertools.product(*(grid[name] for name in names)):
        chosen = dict(zip(names, values, strict=True))
        arm = ", ".join(f"{name} {shown(value)}" for name, value in chosen.items()) or "all"
        if arm in found:
            raise UserError(
                f"two combinations are called {arm!r}: give values that differ in six digits, or in the name"
            )
        found[arm] = chosen
    return found


def shown(value: Any) -> str:
    """Return a value as text: numbers in a short form, and the names of files without their folders."""
    if isinstance(value, float):
        return f"{value:g}"
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else str(value)


# ---------------------------------------------------------------- the sweep


@dataclass
class Sweep:
    """The grids of a sweep, and the options that all its rows share, as on the command line."""

    options: dict[str, Any]
    grids: list[dict[str, list[Any]]]

    def given(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of `Config.of` for one combination."""
        own = {name: value for name, value in chosen.items() if not name.startswith(NETWORK)}
        network = {name.removeprefix(NETWORK): v for name, v in chosen.items() if name.startswith(NETWORK)}
        given = self.options | own
        if network:
            given["network"] = dict(self.options.get("network", {})) | network
        return arguments(given) | ({"preset": given["preset"]} if "preset" in given else {})

    def arms(self) -> dict[str, tuple[dict[str, Any], list[int]]]:
        """Return the arguments of `Config.of`, and the seeds, of every arm."""
        found: dict[str, tuple[dict[str, Any], list[int]]] = {}
        for grid in self.grids:
            for name, chosen in combined(grid).items():
                settings, seeds = found.setdefault(name, (self.given(chosen), []))
                settings.pop("seed", None)
                seeds += [seed for seed in grid.get("seed", [self.options.get("seed", 0)]) if seed not in seeds]
        return found

    def experiment(self) -> Experiment:
        """Return the experiment. Raises UserError if an option is not possible."""
        arms = self.arms()
        configs = {}
        for name, (settings, _) in arms.items():
            try:
                configs[name] = Config.of(**settings)
            except UserError as error:
                raise UserError(f"{name}: {error}" if name != "all" else str(error)) from None
            if not configs[name].totals():
                raise UserError(f"{name}: nothing ends the training: give --epochs or --steps")
        measure = measure_of(configs.values())
        return Experiment(
            question=self.described(),
            arms={name: {"measure": measure, **settings} for name, (settings, _) in arms.items()},
            run=run,
            columns=MEASURES[measure].columns,
            minutes=0,
            seeds={name: tuple(seeds) for name, (_, seeds) in arms.items()},
            verdict=verdict,
            picture=self.picture,
        )

    def described(self) -> str:
        """Return what is compared, as one sentence for each grid."""
        lines = []
        for grid in self.grids:
            parts = [f"{name} {', '.join(map(shown, values))}" for name, values in grid.items()]
            lines.append(f"Every combination of {'; '.join(parts)}.")
        rest = ", ".join(f"{name} {shown(value)}" for name, value in self.options.items())
        return "\n".join([*lines, *([f"All with {rest}."] if rest else [])])

    def picture(self, results: Results) -> np.ndarray:
        """Draw the first figure over the option with the most numbers, with a line for each combination of the others.

        Without an option of three or more numbers, every arm has its own line of dots.
        """
        of = {name: chosen for grid in self.grids for name, chosen in combined(grid).items()}
        main, column = next(iter(results.columns.items()))
        numbers: dict[str, set[float]] = {}
        for chosen in of.values():
            for name, value in chosen.items():
                if isinstance(value, int | float) and not isinstance(value, bool):
                    numbers.setdefault(name, set()).add(value)
        across = max(numbers, key=lambda name: len(numbers[name]), default="")
        if not across or len(numbers[across]) < 3 or any(across not in chosen for chosen in of.values()):
            return dots(results, *[name for name, its in results.columns.items() if its.better])
        lines: dict[str, list[tuple[float, float]]] = {}
        for arm in results.arms:
            others = ", ".join(f"{name} {shown(value)}" for name, value in of[arm].items() if name != across)
            for value in results.values(arm, main):
                lines.setdefault(others or "each seed", []).append((of[arm][across], value))
        return pictures.scattered(
            {name: np.array(sorted(points)) for name, points in lines.items()},
            across,
            f"{column.label} ({column.better} is better)",
            log_x=min(numbers[across]) > 0 and max(numbers[across]) >= 5 * min(numbers[across]),
        )


def verdict(results: Results) -> list[str]:
    """Say which arm is best, and compare it with the one after it."""
    main, column = next(iter(results.columns.items()))
    sign = 1 if column.better == "lower" else -1
    order = sorted(
        (arm for arm in results.arms if len(results.values(arm, main))), key=lambda arm: sign * results.mean(arm, main)
    )
    if not order:
        return ["no row has a figure: all diverged"]
    said = [f"best: {order[0]}, with a {column.label} of {results.text(order[0], main)}"]
    return said + [compared(results, order[0], arm, main) for arm in order[1:2]]


def read(path: Path) -> Sweep:
    """Return the sweep that a file `sweep.json` describes. Raises UserError if it is missing or damaged."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        return Sweep(facts["options"], facts["grids"])
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: start a sweep with --grid") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not the description of a sweep ({error})") from None


def begin(out: Path, given: Mapping[str, Any], grid: dict[str, list[Any]], resume: bool) -> Sweep:
    """Return the sweep with these options, and write it to its folder. A resumed one gets a further grid, if any.

    Raises UserError, before anything is written, if the sweep is not possible.
    """
    chosen = dict(given)
    if "network" in chosen:
        chosen["network"] = dict(chosen["network"])
    if "data" in chosen:
        chosen["data"] = place_of(chosen["data"])
    for name in REFUSED.keys() - {"minutes"}:
        if name in chosen:
            raise UserError(REFUSED[name])
    if resume:
        sweep = read(out / FILE)
        for name, value in chosen.items():
            if sweep.options.get(name) != value:
                before = sweep.options.get(name, "not given")
                raise UserError(f"{out} was started with {name} {before}, got {value}: leave it out, or start another")
        sweep.grids += [grid] if grid and grid not in sweep.grids else []
    elif (out / "rows").exists():
        raise UserError(f"{out} has a sweep: add what is missing with --resume, or choose another folder with --out")
    elif not grid:
        raise UserError("a sweep needs a grid, such as --grid lr=1e-3,2e-3 seed=0:5")
    else:
        sweep = Sweep(chosen, [grid])
    fields = [field for name in sweep.options for field in SHORTHANDS.get(name, (name,))]
    fields += [f"{NETWORK}{name}" for name in sweep.options.get("network", {})]
    for name in grid:
        twice = [field for field in SHORTHANDS.get(name, (name,)) if field in fields]
        if twice:
            raise UserError(f"{twice[0]} is in the grid, and an option of all rows: give it once")
    _expect_possible(sweep)
    with runs.writing(out):
        out.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"format": FORMAT, "options": sweep.options, "grids": sweep.grids}, indent=1)
        write_atomically(out / FILE, (text + "\n").encode())
    return sweep


def _expect_possible(sweep: Sweep) -> None:
    """Raise UserError if an arm has an option that is not possible, if data cannot be read, or if two folders agree."""
    arms = sweep.experiment().arms
    folders: dict[Path, str] = {}
    for arm in arms:
        other = folders.setdefault(place(Path(), arm, 0), arm)
        if other != arm:
            raise UserError(f"{other!r} and {arm!r} would have the same folder: give names that differ in letters")
    seen = set()
    for settings in arms.values():
        config = Config.of(**{name: value for name, value in settings.items() if name != "measure"})
        what = (config.data, json.dumps(config.data_options, sort_keys=True), config.conditional)
        if what not in seen:
            runs.load_data(config)
            seen.add(what)


def run_sweep(
    out: Path,
    given: Mapping[str, Any],
    grid: Iterable[str],
    *,
    resume: bool = False,
    jobs: int | None = None,
    only: str = "",
    scheduler: str | None = None,
    quiet: bool = False,
) -> Report:
    """Run a sweep in the folder `out`, or with `resume` what is missing of it. The table has all finished rows.

    `given` are the options of all rows, and `grid` texts such as "lr=1e-3,2e-3". See `runner.run` for
    the rest, and for the errors.
    """
    begin(out, given, parsed(grid), resume)
    return run_experiment(str(out / FILE), out, jobs=jobs, only=only, scheduler=scheduler, quiet=quiet)
