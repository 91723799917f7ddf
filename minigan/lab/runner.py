"""Run the rows of an experiment, in parallel, and continue an interrupted one.

    folder/rows/ARM-seed-0/row.json     what was measured, the settings, and how to repeat the row alone
    folder/rows/ARM-seed-0/run/         the run of a row that trains a GAN, as of `minigan train`
    folder/results.json                 all finished rows
    folder/table.md, figure.png         the table with the verdict, and the picture

`run` does this, and `quick` checks the claim of an experiment in seconds.
"""

import contextlib
import json
import shlex
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from minigan import backends, terminal
from minigan.errors import UserError
from minigan.files import locked, write_atomically
from minigan.lab import bench
from minigan.lab.experiment import STOP, Experiment, Replayed, Row, load
from minigan.lab.results import Results, markdown, place, table
from minigan.report import experiments as pictures
from minigan.report import plots
from minigan.runs import Stopped

STORED = Path(__file__).parent / "results"  # the results of the full forms
FORMAT = 1
TOLERANCE = 1e-3  # of a repeated number: other processors round differently, and steps amplify it


@dataclass(frozen=True)
class Task:
    """A row that is to run, in a form that another process can be given."""

    experiment: str
    arm: str
    seed: int
    settings: dict[str, Any]
    folder: Path
    threads: int
    minutes: float | None

    @property
    def name(self) -> str:
        """The name of the row."""
        return f"{self.arm}, seed {self.seed}"

    @property
    def place(self) -> Path:
        """The folder of the row."""
        return place(self.folder, self.arm, self.seed)

    def facts(self) -> dict[str, Any]:
        """Return what determines the results of the row."""
        return {"arm": self.arm, "seed": self.seed, "settings": self.settings, "minutes": self.minutes}

    def command(self) -> str:
        """Return the command that runs this row alone."""
        if self.experiment.endswith(".json"):
            return f"minigan sweep --resume --out {shlex.quote(str(self.folder))} --only {shlex.quote(self.name)}"
        minutes = "" if self.minutes is None else f" --minutes {self.minutes:g}"
        seeds = f" --seeds {self.seed + 1}" if self.seed else ""
        return f"minigan experiment {shlex.quote(self.experiment)} --only {shlex.quote(self.name)}{seeds}{minutes}"

    def finished(self) -> dict[str, Any] | None:
        """Return the stored row, or None. Raises UserError if it was made with other settings."""
        path = self.place / "row.json"
        if not path.exists():
            return None
        stored = json.loads(path.read_text(encoding="utf-8"))
        if {name: stored[name] for name in self.facts()} != json.loads(json.dumps(self.facts())):
            raise UserError(
                f"{path} was made with other settings: choose another folder with --out, or remove {self.place}"
            )
        return stored


def run_task(task: Task) -> dict[str, Any]:
    """Run a row, store and return it. A row that fails returns {"error": why} besides its name."""
    stored = task.finished()
    if stored is not None:
        return stored
    task.place.mkdir(parents=True, exist_ok=True)
    row = Row(task.experiment, task.arm, task.seed, dict(task.settings), task.place, task.threads, task.minutes)
    start = time.monotonic()
    spent = task.place / "spent"  # seconds of earlier attempts
    before = float(spent.read_text()) if spent.exists() else 0.0
    try:
        with locked(task.place):
            figures = dict(load(task.experiment).run(row))
    except Stopped as by:
        write_atomically(spent, str(before + time.monotonic() - start).encode())
        return stopped(task, by.signal)
    except KeyboardInterrupt:
        return stopped(task)
    except Exception as error:  # the other rows go on
        said = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        return task.facts() | {"error": said}
    result = task.facts() | {
        "threads": task.threads,
        "wall_seconds": round(before + time.monotonic() - start, 1),
        "again": task.command(),
        "first": row.logged,
        "figures": figures,
    }
    write_atomically(task.place / "row.json", (json.dumps(result, indent=1) + "\n").encode())
    (task.place / "progress").unlink(missing_ok=True)
    return result


def stopped(task: Task, number: int = signal.SIGINT) -> dict[str, Any]:
    """Return a row that was stopped by this signal."""
    return task.facts() | {"error": "stopped", "signal": int(number)}


def run(
    name: str,
    out: Path | None = None,
    *,
    seeds: int | None = None,
    minutes: float | None = None,
    jobs: int | None = None,
    only: str = "",
    quiet: bool = False,
    scheduler: str | None = None,
) -> "Report":
    """Run an experiment, or continue it, and write its table and picture to the folder `out`.

    `name` is one of the package, or a file that defines EXPERIMENT. `out` is by default
    experiments/NAME. `seeds` is the number of seeds of every arm, `minutes` the training time of
    every row, instead of those of the experiment, and `jobs` the number of rows at a time (default:
    cores). `only` chooses the rows whose names contain it. `scheduler` is the address of a Dask
    scheduler, whose workers run the rows (see `lab.cluster`); those that need all cores run here.

    Rows that are finished are not repeated. Raises UserError before anything runs if an argument is
    not possible, and Stopped after Ctrl-C.
    """
    if scheduler is not None and jobs is not None:
        raise UserError("a cluster runs as many rows at a time as it has workers: leave out jobs, or the scheduler")
    experiment = load(name)
    jobs = backends.cores() if jobs is None else jobs
    for what, value, least in (("seeds", seeds, 1), ("jobs", jobs, 1)):
        if value is not None and value < least:
            raise UserError(f"{what} is at least {least}, got {value}")
    if minutes is not None and not minutes > 0:
        raise UserError(f"minutes is above 0, got {minutes:g}")
    out = Path("experiments") / Path(name).stem if out is None else out
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {out} ({error.strerror}): choose another folder with --out") from None

    if scheduler is not None:  # the workers may run in other folders
        out, name = out.absolute(), str(Path(name).absolute()) if Path(name).suffix else name

    def tasks(arms) -> list[Task]:
        found = []
        for arm, settings in arms.items():
            threads = backends.cores() if arm in experiment.alone else 1
            for seed in experiment.seeds_of(arm) if seeds is None else range(seeds):
                found.append(Task(name, arm, seed, dict(settings), out, threads, minutes))
        return found

    every = tasks(experiment.arms)
    chosen = [task for task in every if only in task.name]
    if not chosen and experiment.then is None:
        names = "; ".join(task.name for task in every)
        raise UserError(f"{name} has no row whose name contains {only!r}: the rows are {names}")
    with locked(out):
        (out / STOP).unlink(missing_ok=True)  # of an earlier interruption
        rows = run_tasks(chosen or every, jobs, quiet, scheduler)  # a row of the second stage needs all of the first
        if experiment.then is not None and (not only or not chosen):
            later = [task for task in tasks(experiment.then(results_of(experiment, rows, out))) if only in task.name]
            if only and not later:
                names = "; ".join(f"{row['arm']}, seed {row['seed']}" for row in rows)
                raise UserError(f"{name} has no row whose name contains {only!r}: the first rows are {names}")
            rows += run_tasks(later, jobs, quiet, scheduler)
        results = results_of(experiment, rows, out)
        report = Report(name, experiment, results, [row for row in rows if "error" in row], out)
        report.write()
    return report


def run_tasks(tasks: list[Task], jobs: int, quiet: bool, scheduler: str | None = None) -> list[dict[str, Any]]:
    """Run the tasks, `jobs` at a time with one thread each, and those with more threads one at a time at the end.

    With the address of a Dask scheduler, its workers run those with one thread.

    Returns the rows in the order of the tasks. Raises Stopped if a signal stopped a row, or after Ctrl-C.
    """
    found: dict[str, dict[str, Any]] = {}
    for task in tasks:  # before anything runs, which raises UserError for rows with other settings
        stored = task.finished()
        if stored is not None:
            found[task.name] = stored
    rest = [task for task in tasks if task.name not in found]
    single, others = ([task for task in rest if (task.threads == 1) == one] for one in (True, False))
    with progress(tasks, found, quiet):
        try:
            for rows in (
                _parallel(single, jobs) if scheduler is None else _on_cluster(single, scheduler),
                _parallel(others, 1),
            ):
                for row in rows:
                    found[f"{row['arm']}, seed {row['seed']}"] = row
                    if "signal" in row:
                        raise Stopped(row["signal"])
        except KeyboardInterrupt:
            raise Stopped(signal.SIGINT) from None
    return [found[task.name] for task in tasks]


def _on_cluster(tasks: list[Task], scheduler: str) -> Iterator[dict[str, Any]]:
    from minigan.lab import cluster  # needs Dask

    return cluster.run_rows(tasks, scheduler)


def _parallel(tasks: list[Task], jobs: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of the tasks as they are finished."""
    if min(jobs, len(tasks)) <= 1:
        with backends.borrowed():
            for task in tasks:
                yield run_task(task)
        return
    import joblib

    with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
        yield from joblib.Parallel(n_jobs=min(jobs, len(tasks)), return_as="generator_unordered", batch_size=1)(
            joblib.delayed(run_task)(task) for task in tasks
        )


@contextlib.contextmanager
def progress(tasks: list[Task], found: dict[str, Any], quiet: bool) -> Iterator[None]:
    """Show a bar for all rows, with the parts of those that run."""
    watched = terminal.is_watched()
    layout = "{percentage:3.0f}%|{bar:24}| {elapsed} elapsed, {remaining} left{postfix}"
    bar = terminal.tqdm(total=len(tasks), bar_format=layout, disable=quiet, mininterval=0.5 if watched else 60)
    over = threading.Event()

    def show() -> None:
        while not over.wait(1.0):
            running = [part for task in tasks if task.name not in found and (part := _part(task)) is not None]
            bar.set_postfix_str(f"{len(found)} of {len(tasks)} rows", refresh=False)
            bar.update(max(0.0, len(found) + sum(running) - bar.n))

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        bar.set_postfix_str(f"{len(found)} of {len(tasks)} rows", refresh=False)
        bar.update(len(found) - bar.n)
        bar.close()


def _part(task: Task) -> float | None:
    """Return the completed part of a row that was started."""
    with contextlib.suppress(OSError, ValueError):
        return float((task.place / "progress").read_text())
    return None


# ---------------------------------------------------------------- report


@dataclass(frozen=True)
class Report:
    """The results of an experiment, and the rows that failed."""

    name: str
    experiment: Experiment
    results: Results
    failed: list[dict[str, Any]]
    out: Path | None = None

    @property
    def verdict(self) -> list[str]:
        """The sentences of the verdict; empty if no row is finished."""
        return self.experiment.verdict(self.results) if self.results.rows else []

    def facts(self) -> dict[str, Any]:
        """Return everything for JSON."""
        return {
            "format": FORMAT,
            "experiment": self.name,
            "question": self.experiment.question,
            "machine": bench.machine(),
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "verdict": self.verdict,
            "failed": self.failed,
            "rows": self.results.rows,
        }

    def json(self) -> bytes:
        """Return `facts` as JSON, with one line for each row, so that a change of the file shows which rows are new."""
        facts = self.facts()
        rows = ",\n  ".join(json.dumps(row) for row in facts.pop("rows"))
        return f'{json.dumps(facts, indent=1)[:-2]},\n "rows": [\n  {rows}\n ]\n}}\n'.encode()

    def __str__(self) -> str:
        """Return the question, the table and the verdict for a terminal."""
        lines = [self.experiment.question.strip(), "", table(self.results), "", *(f"- {line}" for line in self.verdict)]
        lines += [f"failed: {row['arm']}, seed {row['seed']}: {row['error']}" for row in self.failed]
        return "\n".join(lines)

    def markdown(self) -> str:
        """Return the question, the table and the verdict as Markdown."""
        return "\n".join(
            [
                self.experiment.question.strip(),
                "",
                markdown(self.results),
                "",
                *(f"- {line}" for line in self.verdict),
                "",
            ]
        )

    def write(self) -> None:
        """Write results.json, table.md and figure.png to the folder of the experiment."""
        out = self.out
        assert out is not None
        write_atomically(out / "results.json", self.json())
        if self.results.rows:
            write_atomically(out / "table.md", self.markdown().encode())
            plots.save_picture(out / "figure.png", self.picture())

    def picture(self) -> np.ndarray:
        """Return the picture of the results."""
        if self.experiment.picture is not None:
            return self.experiment.picture(self.results)
        return dots(self.results, self.experiment.main)


def dots(results: Results, *figures: str) -> np.ndarray:
    """Draw figures of every arm: a dot for each seed, and a line for the interval of the mean."""
    panels = {}
    for figure in figures:
        column = results.columns[figure]
        better = f" ({column.better} is better)" if column.better else ""
        panels[column.label + better] = {
            arm: (results.values(arm, figure), results.interval(arm, figure)) for arm in results.arms
        }
    return pictures.dots(panels)


def results_of(experiment: Experiment, rows: list[dict[str, Any]], folder: Path | None) -> Results:
    """Return the results of the rows that did not fail."""
    done = [row for row in rows if "error" not in row]
    return Results(done, experiment.columns, next(iter(experiment.arms)), folder)


def stored(name: str) -> Report | None:
    """Return the results of the full form that come with the package, or None if there are none."""
    path = STORED / f"{name}.json"
    if not path.exists():
        return None
    facts = json.loads(path.read_text(encoding="utf-8"))
    experiment = load(name)
    return Report(name, experiment, results_of(experiment, facts["rows"], None), facts["failed"])


def stored_verdict(name: str) -> list[str]:
    """Return the sentences of the verdict in the file of the stored results."""
    return json.loads((STORED / f"{name}.json").read_text(encoding="utf-8"))["verdict"]


# ---------------------------------------------------------------- quick forms


def quick(name: str) -> tuple[str, bool]:
    """Run the short form of an experiment. Returns what it shows as a sentence, and whether it is as it should be.

    An experiment with a short form of its own runs its rows and looks at its claim. For others, the
    beginning of the first stored row is repeated, which must give the same numbers, and the verdict
    is derived again from the stored rows. Raises UserError if there are no stored results.
    """
    experiment = load(name)
    if experiment.quick is not None:
        short = experiment.quick
        with tempfile.TemporaryDirectory() as folder:
            tasks = [
                Task(name, arm, seed, dict(settings), Path(folder), 1, None)
                for arm, settings in short.arms.items()
                for seed in range(short.seeds)
            ]
            rows = run_tasks(tasks, backends.cores(), quiet=True)
            failed = [f"{row['arm']}, seed {row['seed']}: {row['error']}" for row in rows if "error" in row]
            if failed:
                return f"{name}: {'; '.join(failed)}", False
            says, holds = short.claim(results_of(experiment, rows, Path(folder)))
            return f"{name}: {says}", holds
    report = stored(name)
    if report is None:
        raise UserError(f"{name} has no short form, because its full form was not run: leave out --quick")
    row = report.results.rows[0]
    found = repeated(name, row)
    same = len(found) == len(row["first"]) and np.allclose(found, row["first"], rtol=TOLERANCE, atol=TOLERANCE)
    verdict = report.verdict == stored_verdict(name)
    numbers = "the same" if same else f"not the same: {found}, stored {row['first']}"
    says = f"{name}: the first {len(found)} numbers of {row['arm']}, seed {row['seed']} are {numbers}"
    if verdict:
        says += f", and the verdict follows from the stored rows: {report.verdict[0]}"
    else:
        says += f", and the stored rows give another verdict: {report.verdict}"
    return says, same and verdict


def repeated(name: str, row: dict[str, Any]) -> list[float]:
    """Run the beginning of a stored row again, and return its first numbers."""
    with tempfile.TemporaryDirectory() as folder, backends.borrowed():
        own = place(Path(folder), row["arm"], row["seed"])
        own.mkdir(parents=True)
        again = Row(name, row["arm"], row["seed"], dict(row["settings"]), own, 1, row["minutes"], replay=True)
        with contextlib.suppress(Replayed):
            load(name).run(again)
    return again.logged
