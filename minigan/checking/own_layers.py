"""Check user-defined layers against the complete layer contract: `minigan gradcheck FILE.py`.

The file defines subclasses of `minigan.layers.Layer` and a function `examples(rng)`, which
yields (layer, shape of x, options). The options are keyword arguments of forward: `train`,
and `labels` for a layer with `takes_labels`::

    def examples(rng):
        yield Scale(5), (4, 5), {}
        yield Scale(5), (4, 5), {"train": False}
        yield Embedding(3, 5, rng=rng), (4, 5), {"labels": [0, 2, 1, 1]}

`check_file` runs every check of `layer_contract` on every example and backend. The checks run
in a separate process, which is killed after LIMIT seconds, because an unfinished layer may
loop forever or crash the interpreter.
"""

import importlib.machinery
import multiprocessing
import operator
import os
import signal
import sys
import time
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from minigan import backends
from minigan.checking.checks import load
from minigan.checking.layer_contract import Result, as_arguments, check_example, kind_of, sentence
from minigan.errors import UserError
from minigan.layers import Layer

LIMIT = 60.0  # seconds that the checks of one file may take


@dataclass(frozen=True)
class Example:
    """One example of a file, as text, with the results of its checks."""

    layer: str
    shape: tuple[int, ...]
    options: str
    results: list[Result] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(result.passed for result in self.results)


def table(path: str, examples: list[Example]) -> str:
    """Format a table for each example, with one line for each check and the first failure of the check."""
    lines = []
    for number, example in enumerate(examples, 1):
        options = f", {example.options}" if example.options else ""
        names = list(dict.fromkeys(result.backend for result in example.results))
        lines.append(f"{path}, example {number}: {example.layer}, x {example.shape}{options}, on {', '.join(names)}")
        lines.append(f"{'check':<20}{'passed':<8}details")
        for check in dict.fromkeys(result.check for result in example.results):
            results = [result for result in example.results if result.check == check]
            failed = [result for result in results if not result.passed]
            on = f" [{', '.join(result.backend for result in failed)}]" if 0 < len(failed) < len(names) else ""
            details = (failed or results)[0].details
            lines.append(f"{check:<20}{'no' if failed else 'yes':<8}{details}{on}".rstrip())
        lines.append("")
    results = [result for example in examples for result in example.results]
    failures = sum(not result.passed for result in results)
    end = f"{failures} failed" if failures else "all passed"
    lines.append(f"{path}: {len(results)} checks of {len(examples)} examples, {end}")
    return "\n".join(lines)


# ---------------------------------------------------------------- a file


def check_file(path: Path, names: list[str] | None = None) -> list[Example]:
    """Check all examples of a file, and return them with their results.

    The checks run on the named backends, or on all available backends. Raises UserError if
    the file is missing, is not Python or raises an exception on import, if `examples` is
    missing or yields examples of another form, if the checks do not end within LIMIT seconds,
    or if the process dies.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file: give a Python file that defines layers and examples(rng)")
    context = multiprocessing.get_context("spawn")  # a fork would not copy the threads of Numba and BLAS
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(str(path), names, sender), daemon=True)
    process.start()
    sender.close()  # so that the pipe closes when the process ends
    examples: list[Example] = []
    deadline = time.monotonic() + LIMIT
    try:
        while (left := deadline - time.monotonic()) > 0 and receiver.poll(left):
            try:
                kind, *content = receiver.recv()
            except EOFError:
                process.join()
                raise UserError(
                    f"{path}{_during(examples)}: the process ended with exit code {process.exitcode}: "
                    "a layer that fails must raise an exception"
                ) from None
            if kind == "started":
                deadline = time.monotonic() + LIMIT
            elif kind == "example":
                examples.append(Example(*content))
            elif kind == "result":
                examples[-1].results.append(*content)
            elif kind == "error":
                raise UserError(*content)
            else:
                return examples
        raise UserError(
            f"{path}{_during(examples)}: the checks did not end within {LIMIT:g} s: "
            "look for an endless loop, or give smaller examples"
        )
    finally:
        process.kill()
        process.join()
        receiver.close()


def _during(examples: list[Example]) -> str:
    """Return the words that say which example and check came last."""
    if not examples:
        return ", before its first example"
    example = examples[-1]
    after = f" after the check {example.results[-1].check!r}" if example.results else ""
    return f", example {len(examples)} ({example.layer}){after}"


def _work(path: str, names: list[str] | None, sender) -> None:
    """Run the checks in the separate process, and send each result when it is ready."""
    os.dup2(2, 1)  # standard output is for the results, so the output of the file goes to standard error
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C the command ends and kills this process
    sys.dont_write_bytecode = True
    try:
        loaded = [load(name) for name in dict.fromkeys(names or backends.available())]
        sender.send(("started",))
        for layer, shape, options in _examples(path):
            sender.send(("example", _name(layer), shape, as_arguments(options)))
            for backend in loaded:
                for result in check_example(layer, shape, options, backend, path):
                    sender.send(("result", result))
    except UserError as error:
        sender.send(("error", str(error)))
    else:
        sender.send(("end",))


def _name(layer: Layer) -> str:
    """Return the repr of the layer in one line, or the name of its class if repr fails."""
    try:
        return " ".join(repr(layer).split())
    except Exception:
        return type(layer).__name__


def _examples(path: str) -> Iterator[tuple[Layer, tuple[int, ...], dict]]:
    """Yield the examples of a file. Raises UserError with one sentence if the file has no valid examples."""
    sys.path.insert(0, str(Path(path).resolve().parent))  # as `python FILE.py` does
    loader = importlib.machinery.SourceFileLoader("__own_layers__", path)
    module = types.ModuleType(loader.name)
    module.__file__ = path
    sys.modules[loader.name] = module
    try:
        loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise UserError(f"{path} cannot be imported, {sentence(error, path)}: correct the file") from error
    form = "examples(rng) yields (layer, shape of x, options), such as (Scale(5), (4, 5), {'train': True})"
    if not callable(getattr(module, "examples", None)):
        raise UserError(f"{path} defines no function examples: expected that {form}")
    number = 0
    try:
        for example in module.examples(np.random.default_rng(0)):
            number += 1
            yield _validated(example)
    except _InvalidExample as cause:
        raise UserError(f"{path}, example {number}: {cause}: expected that {form}") from cause
    except (Exception, SystemExit) as error:
        raise UserError(f"{path}: examples(rng) ended in {sentence(error, path)}: expected that {form}") from error
    if number == 0:
        raise UserError(f"{path}: examples(rng) yields nothing: expected that {form}")


class _InvalidExample(Exception):
    """An example is not (layer, shape of x, options)."""


def _validated(example) -> tuple[Layer, tuple[int, ...], dict]:
    """Return the example. Raises _InvalidExample if it has another form."""
    if not isinstance(example, tuple | list) or len(example) != 3:
        raise _InvalidExample(f"got {kind_of(example)}")
    layer, shape, options = example
    if not isinstance(layer, Layer):
        raise _InvalidExample(f"{kind_of(layer)} is not a subclass of minigan.layers.Layer")
    try:
        shape = tuple(map(operator.index, shape))
    except TypeError:
        shape = ()
    if not shape or min(shape) < 1:
        raise _InvalidExample(f"the shape of x is {example[1]!r}, not a tuple of positive whole numbers")
    if not isinstance(options, dict) or not options.keys() <= {"labels", "train"}:
        raise _InvalidExample(f"the options are {options!r}, not a dict of `labels` and `train`")
    return layer, shape, options
