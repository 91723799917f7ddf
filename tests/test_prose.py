"""Texts are plain English (stiff_words.toml lists words that are not used), and every public name has a docstring."""

import importlib
import inspect
import pkgutil
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import minigan

ROOT = Path(__file__).parent.parent
WORDS = tomllib.loads((ROOT / "tests" / "stiff_words.toml").read_text(encoding="utf-8"))["words"]
STIFF = re.compile("|".join(rf"(?<![^\W_])(?P<w{i}>{word})(?![^\W_])" for i, word in enumerate(WORDS)), re.I)
# CONTRIBUTING.md shows sentences before and after, CHANGELOG.md names what was renamed; this file and its list.
EXEMPT = {"CONTRIBUTING.md", "CHANGELOG.md", "test_prose.py"}
FOLDERS = ("minigan", "lessons", "tests", "benchmarks")
TEXTS = [
    path
    for folder in FOLDERS
    for kind in ("py", "md", "toml", "cu")
    for path in (ROOT / folder).rglob(f"*.{kind}")
    if "_build" not in path.parts  # what lessons/site/build.py writes
]
TEXTS = [path for path in [*ROOT.glob("*.md"), *sorted(TEXTS)] if path.name not in EXEMPT | {"stiff_words.toml"}]


def stiff(text: str) -> list[str]:
    """What is wrong with a text: line, word, replacement."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        for match in STIFF.finditer(line):
            found.append(f"line {number}: write {list(WORDS.values())[int(match.lastgroup[1:])]!r}, not {match[0]!r}")
    return found


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_text_has_no_stiff_words(path):
    assert stiff(path.read_text(encoding="utf-8")) == []


def test_stiff_words_are_found():
    assert stiff("a layer is born\nwith plain words") == ["line 1: write 'is created', not 'is born'"]
    assert stiff("images_a_step = 3; mended = True")
    assert stiff("amends, filmstrip, shallow, slots") == []


def test_texts_of_every_folder_are_read():
    assert {path.relative_to(ROOT).parts[0] for path in TEXTS} >= {*FOLDERS, "README.md"}


def public(module) -> Iterator[tuple[str, object]]:
    """(name, object) of a module and of the public functions, classes and methods that are defined in it."""
    yield module.__name__, module
    for name, this in vars(module).items():
        if name.startswith("_") or getattr(this, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(this) or inspect.isroutine(this) or hasattr(this, "py_func"):
            yield f"{module.__name__}.{name}", this
        if inspect.isclass(this):
            for method, function in vars(this).items():
                if method.startswith("_") or method in getattr(this, "__dataclass_fields__", {}):
                    continue
                if inspect.isroutine(function) or isinstance(function, property):
                    yield f"{module.__name__}.{name}.{method}", getattr(this, method)


def test_every_public_name_has_a_docstring():
    """Its own, or that of the method that it overrides."""
    names = [
        info.name for info in pkgutil.walk_packages(minigan.__path__, "minigan.") if "cupy.backend" not in info.name
    ]
    found = [each for name in names if not name.endswith("__main__") for each in public(importlib.import_module(name))]
    assert len(found) > 400
    assert [name for name, this in found if not inspect.getdoc(this)] == []
