"""The command line: one function for each subcommand. A UserError prints its message and ends with exit code 2."""

import argparse
import contextlib
import sys
import warnings
from functools import partial
from pathlib import Path

from minigan.errors import UserError
from minigan.terminal import Output, print_json, tolerant


def main(argv: list[str] | None = None) -> int:
    """Run one command, and return the exit code."""
    with tolerant() as output, warnings.catch_warnings():
        warnings.showwarning = _show_warning
        return _main(argv, output)


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    """Print a warning as one sentence, instead of with the place in the code that raised it."""
    print(f"minigan: {message}", file=sys.stderr)


def _main(argv: list[str] | None, output: Output) -> int:
    try:
        arguments = _parser().parse_args(argv)
        output.needed = arguments.command is not train  # a training has more to lose than its output
        with _of_ranks(arguments.command):
            code = arguments.command(arguments) or 0
        sys.stdout.flush()  # while an error can be reported
        return code
    except BrokenPipeError:  # for example `minigan doctor | head`
        return 0
    except UserError as error:
        print(f"minigan: {error}", file=sys.stderr)
        return 2
    except MemoryError:
        print("minigan: out of memory: choose a smaller --batch, or a smaller --count", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("minigan: interrupted", file=sys.stderr)
        return 130


@contextlib.contextmanager
def _of_ranks(command):
    """Context of a command. Of several processes that mpirun started, all end together, and only `train` is allowed."""
    from minigan.backends import ranks

    if not ranks.started():
        yield
        return
    from minigan.runs.ranks import ending_together, expect_one_rank

    with ending_together():
        if command is not train:
            expect_one_rank()
        yield


def _parser() -> argparse.ArgumentParser:
    from minigan.parser import parser

    return parser(
        {
            "train": train,
            "sample": sample,
            "evaluate": evaluate,
            "explain": explain,
            "trace": trace,
            "web": web,
            "export": export,
            "explore": explore,
            "classify": classify,
            "experiment": experiment,
            "sweep": sweep,
            "gradcheck": gradcheck,
            "bench": bench,
            "info": info,
            "doctor": doctor,
        }
    )


def _load_backend(arguments):
    """Load the backend according to the options that `parser` adds for it."""
    from minigan import runs
    from minigan.runs.train import warn_unused
    from minigan.training import Config
    from minigan.training.config import BACKEND

    given = {name: getattr(arguments, name) for name in BACKEND if getattr(arguments, name) is not None}
    backend = runs.load_backend(Config(**given))
    warn_unused(given, backend)
    if not backend.kernels_on_disk():
        print("minigan: compiling the kernels, once on this machine ...", file=sys.stderr)
    return backend


# ---------------------------------------------------------------- train


def train(arguments) -> int:
    """Train a new run, or resume one. Returns the exit code, which is 1 if a collapse stopped the run."""
    from minigan import runs  # commands import what they need when they run, so that `minigan --help` is fast

    if arguments.list:
        print(runs.presets())
        return 0
    from minigan.runs.train import train

    return train(_choices(arguments), arguments.out, arguments.resume, arguments.extend, arguments.quiet)


def _choices(arguments) -> dict:
    """Return the given options, as arguments of `Config.of`."""
    from minigan.training.config import arguments as as_arguments

    return as_arguments({name: value for name, value in vars(arguments).items() if value is not None})


# ---------------------------------------------------------------- sample


def sample(arguments) -> int:
    """Draw samples of a run, and write them to a file. Returns the exit code."""
    import numpy as np

    from minigan import runs
    from minigan.datasets import conditions
    from minigan.runs import samples

    out = arguments.out or arguments.run / "sample.png"
    if arguments.count < 1 or arguments.seed < 0:
        raise UserError(f"--count is at least 1 and --seed at least 0, got {arguments.count} and {arguments.seed}")
    saved = runs.read(arguments.run)  # raises UserError before compiling if this is not a run
    sampler = runs.sampler(saved, _load_backend(arguments))
    samples.expect_form(out, sampler)
    where = conditions.parsed(arguments.where)
    drawn = sampler.draw(arguments.count, np.random.default_rng(arguments.seed), arguments.label, where)
    labels = None if where else sampler.labels_for(arguments.count, arguments.label)
    samples.write(out, drawn, labels, sampler, one_class=arguments.label is not None)
    print(f"{arguments.count} {'sample' if arguments.count == 1 else 'samples'} in {out}")
    return 0


# ---------------------------------------------------------------- info


def info(arguments) -> int:
    """Print the data, classes, preset, progress and files of a run. Returns the exit code."""
    from minigan import runs

    facts = runs.info(arguments.run)
    if arguments.json:
        print_json(facts)
        return 0
    for topic, text in runs.described(facts):
        print(runs.wrapped(topic, text))
    return 0


# ---------------------------------------------------------------- evaluate


def evaluate(arguments) -> int:
    """Evaluate the samples of a run, and print the report. Returns the exit code."""
    import json

    from minigan.runs.evaluate import evaluate_run

    if (arguments.count is not None and arguments.count < 100) or arguments.seed < 0:
        raise UserError(f"--count is at least 100 and --seed at least 0, got {arguments.count} and {arguments.seed}")
    backend = _load_backend(arguments)
    report, show = evaluate_run(
        arguments.run,
        backend,
        arguments.count,
        arguments.seed,
        arguments.data,
        target=arguments.target,
        held_out=arguments.held_out,
    )
    if arguments.json:
        print(json.dumps(report, indent=1))
    else:
        print(f"{show(report)}\nas a picture: {arguments.run / 'evaluate.png'}")
    return 0


# ---------------------------------------------------------------- explain


def explain(arguments) -> int:
    """Print what happened in a run. Returns the exit code."""
    from minigan.runs.explain import explain_run

    chosen = _choices(arguments)
    explanation = explain_run(arguments.run, chosen.pop("data", None), **chosen)
    if arguments.json:
        print_json(explanation.facts())
    else:
        print(explanation)
    return 0


# ---------------------------------------------------------------- pages and exported generators


def trace(arguments) -> int:
    """Write one batch of a run, step by step, as a page. Returns the exit code."""
    from minigan.runs.trace import trace_run

    out = arguments.out or arguments.run / "trace.html"
    chosen = _choices(arguments)
    trace_run(arguments.run, out, chosen.pop("data", None), **chosen)
    print(f"{out}: one batch, step by step; open it in a browser")
    return 0


def web(arguments) -> int:
    """Serve a page with all runs of a folder until it is interrupted. Returns the exit code."""
    from minigan.web import serve

    serve(arguments.folder, arguments.port)
    return 0


def export(arguments) -> int:
    """Write the generator of a run to a file. Returns the exit code."""
    from minigan.runs.export import export_run

    print(f"the generator: {export_run(arguments.run, arguments.format, arguments.out)}")
    return 0


def explore(arguments) -> int:
    """Write the page, or the pictures, on which to explore a run. Returns the exit code."""
    from minigan.runs import explore, latent

    if arguments.png:
        if arguments.seed < 0:
            raise UserError(f"--seed is at least 0, got {arguments.seed}")
        paths = latent.pictures(arguments.run, arguments.out, arguments.seed, arguments.data)
        print("\n".join(f"{path}: {what}" for path, what in paths.items()))
    else:
        print(f"open it in a browser: {explore.page(arguments.run, arguments.out).resolve().as_uri()}")
    return 0


# ---------------------------------------------------------------- classify


def classify(arguments) -> int:
    """Train a classifier, print its accuracy, and write it to a file. Returns the exit code."""
    from minigan import runs
    from minigan.datasets import KINDS
    from minigan.options import options
    from minigan.runs import classify
    from minigan.terminal import tqdm

    known = options(KINDS["images"].options)
    given = {name: value for name, value in vars(arguments).items() if name in known and value is not None}
    data = classify.read(arguments.data, None, given)
    for topic, text in data.description():
        print(runs.wrapped(topic, text))
    backend = partial(_load_backend, arguments)
    trained = classify.train(data, arguments.out, arguments.seed, arguments.steps, backend, tqdm)
    print(f"{classify.described(trained)}\n{arguments.out}: the classifier")
    print(f"Next: minigan train --discriminator-from {arguments.out} --projected --data {arguments.data}")
    return 0


# ---------------------------------------------------------------- experiment


def experiment(arguments) -> int:
    """Run an experiment, or list all. Returns the exit code, which is 1 if a row failed or a claim does not hold."""
    from minigan.lab import runner
    from minigan.lab.experiment import listed, names

    if arguments.list:
        print(listed())
        return 0
    if arguments.quick:
        return max(_claim(name) for name in ([arguments.name] if arguments.name else names()))
    if arguments.name is None:
        raise UserError("name an experiment: `minigan experiment --list` lists them, and FILE.py is one of your own")
    given = {name: getattr(arguments, name) for name in ("seeds", "minutes", "jobs", "only", "quiet", "scheduler")}
    return _reported(lambda: runner.run(arguments.name, arguments.out, **given), arguments.json, "the same command")


def _reported(run, json: Path | None, command: str) -> int:
    """Run rows, and print their report. `command` continues after an interruption. Returns 1 if a row failed."""
    from minigan import runs
    from minigan.files import write_atomically

    try:
        report = run()
    except runs.Stopped as stopped:
        print(f"minigan: stopped; {command} continues", file=sys.stderr)
        return 128 + stopped.signal
    print(f"{report}\n\nIn {report.out}: results.json, table.md, figure.png, and the runs of all rows in rows/")
    if json:
        with _name_in_errors(json):
            write_atomically(json, report.json())
    return int(bool(report.failed))


def _claim(name: str) -> int:
    """Check the claim of an experiment in its short form, and print what was found.

    Returns 0 if it holds, 1 if not, and 2 if there is no short form.
    """
    from minigan.lab import runner

    try:
        says, holds = runner.quick(name)
    except UserError as error:  # the other experiments go on
        print(f"minigan: {error}", file=sys.stderr)
        return 2
    print(says if holds else f"FAILED {says}", flush=True)
    return int(not holds)


# ---------------------------------------------------------------- sweep


def sweep(arguments) -> int:
    """Run the rows of a sweep. Returns the exit code, which is 1 if a row failed."""
    from minigan.lab import sweep
    from minigan.runs.train import preset_of
    from minigan.training.config import option_names

    chosen = {name: getattr(arguments, name, None) for name in ("preset", *option_names())}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    out = arguments.out or Path("sweeps") / preset_of(chosen)
    given = {name: getattr(arguments, name) for name in ("resume", "jobs", "only", "scheduler", "quiet")}
    return _reported(
        lambda: sweep.run_sweep(out, chosen, arguments.grid, **given),
        arguments.json,
        f"`minigan sweep --resume --out {out}`",
    )


# ---------------------------------------------------------------- gradcheck


def gradcheck(arguments) -> int:
    """Check gradients, planted mistakes, or layers of the reader. Returns the exit code."""
    if arguments.update and not arguments.planted:
        raise UserError("--update writes the table of planted mistakes: add --planted")
    if arguments.files and (arguments.planted or arguments.all):
        raise UserError("FILE.py cannot be combined with other checks: leave --planted and --all out")
    if arguments.planted:
        return _check_planted(arguments)
    if arguments.files:
        return _check_files(arguments)
    import dataclasses
    import time

    from minigan import backends
    from minigan.checking import checks
    from minigan.checking.gradcheck import digest, table

    reports = []
    for name in dict.fromkeys(arguments.backend or backends.available()):
        backend = checks.load(name)
        start = time.perf_counter()
        rows = checks.report(backend)
        seconds, wrong = time.perf_counter() - start, sum(not row.ok for row in rows)
        reports.append({"backend": backend.name, "seconds": seconds, "wrong": wrong, "rows": rows})
        if not arguments.json:
            print(table(rows if arguments.all else digest(rows)))
            count = sum(row.compared for row in rows)
            end = f"{wrong} wrong" if wrong else "all right"
            print(f"{backend.name}: {count:,} numbers of {len(rows)} tensors and facts in {seconds:.1f} s, {end}\n")
    if arguments.json:
        print_json([r | {"rows": [dataclasses.asdict(row) for row in r["rows"]]} for r in reports])
    return int(any(r["wrong"] for r in reports))


def _check_files(arguments) -> int:
    """Check the layers in files of the reader. After an error in one file, the next is still checked."""
    import dataclasses

    from minigan.checking import own_layers

    code = 0
    reports: list[dict] = []
    for path in arguments.files:
        try:
            examples = own_layers.check_file(path, arguments.backend)
        except UserError as error:
            print(f"minigan: {error}", file=sys.stderr)
            reports.append({"file": str(path), "error": str(error), "examples": []})
            code = 2
            continue
        code = max(code, int(not all(example.passed for example in examples)))
        reports.append({"file": str(path), "error": None, "examples": [dataclasses.asdict(e) for e in examples]})
        if not arguments.json:
            print(own_layers.table(str(path), examples))
    if arguments.json:
        print_json(reports)
    return code


def _check_planted(arguments) -> int:
    from minigan.checking import planted

    if arguments.backend:
        raise UserError("planted mistakes are checked on the numpy backend only: leave --backend out")
    if arguments.update:
        with _name_in_errors(arguments.update):
            planted.block(arguments.update.read_text(encoding="utf-8"))
    outcomes = planted.attempt_all()
    if arguments.json:
        print_json([outcome.facts() for outcome in outcomes])
    else:
        print(f"{planted.details(outcomes)}\n\n{planted.summary(outcomes)}")
    if arguments.update:
        planted.update(arguments.update, outcomes)
    return int(not all(o.caught_by for o in outcomes))


@contextlib.contextmanager
def _name_in_errors(path: Path):
    """Convert an OSError into a UserError that names the file."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: give a file that can be read and written") from error


# ---------------------------------------------------------------- bench


def bench(arguments) -> int:
    """Time a training step on every backend. Returns the exit code."""
    from minigan import backends, models
    from minigan.lab import bench as lab_bench

    if min(arguments.batch) < 2 or not 0 < arguments.seconds <= 600:
        raise UserError(
            f"--batch is at least 2 and --seconds from 0 to 600, got {arguments.batch}, {arguments.seconds}"
        )
    if arguments.preset not in models.PRESETS:
        raise UserError(f"unknown preset {arguments.preset!r}: choose {', '.join(models.PRESETS)}")
    names, threads = backends.available(), arguments.threads or backends.cores()
    machine = lab_bench.machine()
    rows = lab_bench.compare_backends(arguments.preset, sorted(arguments.batch), names, [threads], arguments.seconds)
    if arguments.json:
        print_json({"machine": machine, "threads": threads, "results": rows})
        return 0
    print(f"{machine['cpu']}, {threads} threads; a complete training step of {arguments.preset}")
    print("\n".join(lab_bench.described(rows)))
    return 0


def doctor(arguments) -> int:
    """Print versions, backends and the state of the data. Returns the exit code."""
    from minigan.doctor import report

    print(report())
    return 0
