"""Plant mistakes in minigan's own source, one at a time, and report whether the checks catch them.

A `Mistake` is a small change of the source. It is like the mistakes that popular from-scratch projects have published
although their tests passed. The files in `mistakes/` contain the mistakes, one file for each family. Edit these files
to add or change a mistake. A mistake is planted in memory: a second copy of the package is imported with one changed
module, the `checks` of the copy run, and the copy is discarded. `minigan gradcheck --planted` prints the results. The
`weak` checks, which such projects usually have, also run for comparison.

A mistake whose text does not occur exactly once in the source raises an error, so that outdated mistakes are noticed.

Code that a check does not run cannot change its result. `executed` therefore records once which functions each check
calls, and with each case of a layer, and `attempt_all` runs only the checks and cases that call the changed function.
"""

import ast
import concurrent.futures
import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import multiprocessing
import os
import sys
import threading
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minigan.checking import checks
from minigan.errors import UserError
from minigan.files import write_atomically


@dataclass(frozen=True)
class Mistake:
    """A mistake: `old` is replaced by `new` in the source of minigan.`module`.

    `imitates` says how people make this mistake.
    """

    family: str
    module: str
    title: str
    old: str
    new: str
    imitates: str
    file: str  # the name of the file that contains it


# ---------------------------------------------------------------- reading

PACKAGE = Path(__file__).parent.parent
FOLDER = Path(__file__).parent / "mistakes"
FILES = (  # in the order of the README's table
    "dense-and-convolutions.toml",
    "batch-norm.toml",
    "activations-dropout-shapes.toml",
    "frozen-layers.toml",
    "table-rows.toml",
    "sequences.toml",
    "losses.toml",
    "optimizers.toml",
    "game.toml",
    "second-derivatives.toml",
    "ranks.toml",
    "compiled-backend.toml",
)
KEYS = ("title", "where", "from", "to", "imitates")


def read(paths: Iterable[Path]) -> list[Mistake]:
    """Read the mistakes in these files, in order.

    Raises UserError, which names the file and the entry, if a file cannot be read, if a key is missing or unknown, if a
    value is not text, or if an earlier entry has the same title.
    """
    mistakes: dict[str, Mistake] = {}
    for path in paths:
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
            raise UserError(f"{path}: {error}: expected a file of planted mistakes in TOML") from error
        family, entries = content.get("family", ""), content.get("mistake", [])
        right = content.keys() == {"family", "mistake"} and isinstance(family, str) and isinstance(entries, list)
        if not right or not all(isinstance(entry, dict) for entry in entries):
            came = ", ".join(content) or "nothing"
            raise UserError(f"{path} contains {came}: expected the text `family` and [[mistake]] entries only")
        for number, entry in enumerate(entries, 1):
            what = f"{path}, mistake {number} ({entry.get('title', 'without a title')!r})"
            for key in KEYS:
                if not isinstance(entry.get(key), str):
                    raise UserError(f"{what} has no text `{key}`: each entry has {', '.join(KEYS)}")
            if unknown := entry.keys() - KEYS:
                raise UserError(f"{what} has the unknown key `{min(unknown)}`: each entry has {', '.join(KEYS)}")
            title = entry["title"]
            if title in mistakes:
                raise UserError(f"{what} has the title of an entry in {mistakes[title].file}: give it another one")
            mistakes[title] = Mistake(
                family, entry["where"], title, entry["from"], entry["to"], entry["imitates"], path.name
            )
    return list(mistakes.values())


MISTAKES = read(FOLDER / name for name in FILES)


# ---------------------------------------------------------------- planting


@contextlib.contextmanager
def planted(mistake: Mistake) -> Iterator:
    """Import a new copy of minigan with the mistake and return its `checks`; at the end, restore the real package."""
    changed(mistake)  # raises an error before anything is replaced
    planter = _Planter(mistake)
    originals = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "minigan"}
    for name in originals:
        del sys.modules[name]
    sys.meta_path.insert(0, planter)
    try:
        yield importlib.import_module("minigan.checking.checks")
    finally:
        sys.meta_path.remove(planter)
        for name in [name for name in sys.modules if name.split(".")[0] == "minigan"]:
            del sys.modules[name]
        sys.modules.update(originals)


class _Planter(importlib.abc.MetaPathFinder):
    """An import hook that loads one module from its changed source."""

    def __init__(self, mistake: Mistake):
        self.name, self.mistake = f"minigan.{mistake.module}", mistake

    def find_spec(self, name, path, target=None):
        """Return a spec with the changed source for the module of the mistake, and None for every other module."""
        if name != self.name:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        spec.loader = _ChangedSource(name, spec.origin, self.mistake)
        return spec


class _ChangedSource(importlib.machinery.SourceFileLoader):
    """A loader that compiles the changed source."""

    def __init__(self, name, path, mistake):
        super().__init__(name, path)
        self.mistake = mistake

    def get_code(self, name):
        """Compile the changed source, without writing bytecode to disk."""
        return compile(changed(self.mistake), self.path, "exec", dont_inherit=True)


def source_file(mistake: Mistake) -> Path:
    """Return the file that contains the module of the mistake."""
    path = PACKAGE.joinpath(*mistake.module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def changed(mistake: Mistake) -> str:
    """Return the source of the module with the mistake. Raises UserError unless the old text occurs exactly once."""
    path = source_file(mistake)
    what = f"the planted mistake {mistake.title!r} in {FOLDER.name}/{mistake.file}"
    if not path.is_file():
        raise UserError(f"{what} changes minigan.{mistake.module}, which does not exist: correct its `where`")
    source = path.read_text(encoding="utf-8")
    count = source.count(mistake.old)
    if count != 1:
        raise UserError(
            f"{what} expects its text once in minigan.{mistake.module}, found it {count} times: "
            f"update its `from` to the source; the text is {mistake.old!r}"
        )
    return source.replace(mistake.old, mistake.new)


# ---------------------------------------------------------------- running the checks


@dataclass(frozen=True)
class Outcome:
    """The result for one mistake.

    `wrong` names the checks with a wrong row, `crashed` the checks that raised an exception. `weak` says whether the
    weak checks caught the mistake.
    """

    mistake: Mistake
    wrong: tuple[str, ...]
    crashed: tuple[str, ...]
    weak: bool

    def facts(self) -> dict:
        """Return what happened, as JSON values."""
        m = self.mistake
        facts = {"family": m.family, "title": m.title, "imitates": m.imitates}
        return facts | {"caught_by": self.caught_by, "weak": self.weak}

    @property
    def caught_by(self) -> tuple[str, ...]:
        """The names of all checks that caught the mistake."""
        return self.wrong + self.crashed


WEAK = "weak"  # the name of the weak checks, next to those of CHECKS
Function = tuple[str, int]  # a function: its file and the number of its first line
Calls = dict[str, dict[str | None, set[Function]]]  # what each check calls, by case of a layer
Selection = dict[str, frozenset[str] | None]  # which cases of layers each check runs; None means all


def attempt(mistake: Mistake, selection: Selection | None = None) -> Outcome:
    """Plant the mistake and run every check, or those of the selection."""
    wrong, crashed = [], []
    with planted(mistake) as copied, np.errstate(all="ignore"):
        backend = copied.load("numba" if "numba" in mistake.module else "numpy")
        for name, check in {**copied.CHECKS, WEAK: copied.weak}.items():
            if selection is not None and name not in selection:
                continue
            copied.CASES.chosen = None if selection is None else selection[name]
            try:
                if not all(row.ok for row in check(backend)):
                    wrong.append(name)
            except Exception:
                crashed.append(name)
    strong_wrong, strong_crashed = (tuple(name for name in names if name != WEAK) for names in (wrong, crashed))
    return Outcome(mistake, strong_wrong, strong_crashed, weak=WEAK in wrong + crashed)


def attempt_all(mistakes: list[Mistake] | None = None) -> list[Outcome]:
    """Try all mistakes, in one process for each core, but at most four."""
    mistakes = MISTAKES if mistakes is None else mistakes
    functions = [changed_functions(mistake) for mistake in mistakes]  # raises an error for an outdated entry first
    calls = executed()
    selections = [select(calls, which) for which in functions]
    context = multiprocessing.get_context("spawn")
    workers = min(os.cpu_count() or 1, 4)
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
        return list(pool.map(attempt, mistakes, selections, chunksize=4))


# ---------------------------------------------------------------- which checks a mistake can change


def changed_functions(mistake: Mistake) -> set[Function] | None:
    """Return the functions and methods whose bodies differ, or None if anything else differs or they are compiled."""
    path = source_file(mistake)
    before, after = (_Bodies(text) for text in (path.read_text(encoding="utf-8"), changed(mistake)))
    if "numba" in mistake.module or before.rest != after.rest:
        return None
    pairs = zip(before.bodies, after.bodies, strict=True)
    return {(str(path), line) for (line, body), (_, other) in pairs if body != other}


class _Bodies(ast.NodeTransformer):
    """The bodies of the functions and methods of a source, with the line where each begins, and the rest of it."""

    def __init__(self, source: str):
        self.bodies: list[tuple[int, str]] = []
        self.rest = ast.dump(self.visit(ast.parse(source)))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        """Note the body, which includes all functions inside it, and remove it."""
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        self.bodies.append((first, ast.dump(ast.Module(node.body, []))))
        node.body = []
        return node


def executed() -> Calls:
    """Run every check on the reference backend; return the functions of minigan that each calls, by case of a layer.

    The case None stands for what a check does before the first and after the last case.
    """
    calls: Calls = {}

    def note(frame, event, _):
        if event == "call" and (code := frame.f_code).co_filename.startswith(folder):
            by_case.setdefault(checks.CASES.current, set()).add((code.co_filename, code.co_firstlineno))

    folder, backend = str(PACKAGE) + os.sep, checks.load("numpy")
    for name, check in {**checks.CHECKS, WEAK: checks.weak}.items():
        by_case = calls.setdefault(name, {})
        sys.setprofile(note)
        threading.setprofile(note)  # of threads that the check starts
        try:
            for _ in check(backend):
                pass
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
    return calls


def select(calls: Calls, functions: set[Function] | None) -> Selection | None:
    """Return the checks and cases that call one of the functions, or None, which means all, if none does."""
    selection: Selection = {}
    for name, by_case in calls.items():
        cases = {case for case, called in by_case.items() if functions and functions & called}
        if cases:
            selection[name] = None if None in cases else frozenset(case for case in cases if case is not None)
    return selection or None


# ---------------------------------------------------------------- reporting


def details(outcomes: list[Outcome]) -> str:
    """Format one line for each mistake: the checks that caught it, and whether the weak checks caught it."""
    titles = [f"{o.mistake.family}: {o.mistake.title}" for o in outcomes]
    width = max(map(len, titles), default=0)
    lines = [f"{'planted mistake':<{width}}  {'weak checks':<13}caught by"]
    for o, title in zip(outcomes, titles, strict=True):
        lines.append(f"{title:<{width}}  {'caught' if o.weak else 'missed':<13}{', '.join(o.caught_by) or 'NOTHING'}")
    return "\n".join(lines)


def summary(outcomes: list[Outcome]) -> str:
    """Format a Markdown table with the number of planted and caught mistakes of each family."""
    lines = [
        "| where the mistake is | planted | caught | by one check only | caught by weak checks |",
        "|---|---:|---:|---:|---:|",
    ]
    families = list(dict.fromkeys(o.mistake.family for o in outcomes))
    for family in [*families, None]:
        of = [o for o in outcomes if family in (o.mistake.family, None)]
        caught, weak = sum(bool(o.caught_by) for o in of), sum(o.weak for o in of)
        single = sum(len(o.caught_by) == 1 for o in of)
        lines.append(f"| {family or '**all**'} | {len(of)} | {caught} | {single} | {weak} |")
    return "\n".join(lines)


BEGIN, END = "<!-- planted:begin -->", "<!-- planted:end -->"


def block(text: str) -> str:
    """Return the text between the markers. Raises UserError unless each marker occurs once, in this order."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise UserError(f"expected one {BEGIN} and after it one {END}: add these two lines where the table belongs")
    return text.split(BEGIN)[1].split(END)[0].strip()


def update(path: Path, outcomes: list[Outcome]) -> None:
    """Write the summary between the markers of the file."""
    text = path.read_text(encoding="utf-8")
    block(text)
    head, tail = text.split(BEGIN)[0], text.split(END)[1]
    write_atomically(path, f"{head}{BEGIN}\n{summary(outcomes)}\n{END}{tail}".encode())
