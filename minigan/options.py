"""Options: the fields of a dataclass that carry type, default, range, help text and a name on the command line.

    @dataclass(frozen=True)
    class Choices:
        batch: int = option(128, help="samples in a batch", low=1, metavar="N")

From these fields alone come validation (`check`), the command line (`add_arguments`) and a
table for the documentation (`table`). The run's `Config`, the networks of a preset and every
kind of data declare their options this way, so that a new option is one entry.

Argparse reads the command line. Libraries that build one from a dataclass (tyro, jsonargparse)
print pages of usage for a bad value; here it gets one sentence.
"""

import argparse
import dataclasses
import math
import operator
import sys
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from minigan.errors import UserError


@dataclass(frozen=True)
class Option:
    """What a field carries besides its type and default.

    The help text may contain {default}. The values `low` and `high` are allowed, `above` and
    `below` are not. `choices` may be a function, because the table of choices may be complete
    only after the field is defined.
    """

    help: str
    flag: str | None = None  # None: not on the command line
    off: str | None = None  # the flag for False, of a yes-or-no option
    metavar: str | None = None
    choices: tuple | Callable[[], Iterable] | None = None
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    resumable: bool = False  # whether a resumed run may change it


def option(default: Any, *, help: str, flag: str | None = "", **rest: Any) -> Any:
    """A field of a dataclass with these metadata (see `Option`). The flag is --the-field's-name unless given."""
    shared = {"default": default} if not isinstance(default, dict) else {"default_factory": lambda: dict(default)}
    return dataclasses.field(**shared, metadata={"help": help, "flag": flag, **rest})


@dataclass(frozen=True)
class NoOptions:
    """The options of a preset or of a kind of data that has none."""


def options(kind: type) -> dict[str, Option]:
    """The options of a dataclass, by the name of their field."""
    found = {}
    for field in dataclasses.fields(kind):
        metadata = dict(field.metadata)
        if metadata.get("flag") == "":
            metadata["flag"] = "--" + field.name.replace("_", "-")
        found[field.name] = Option(**metadata)
    return found


# ---------------------------------------------------------------- validation


def check(instance: Any) -> None:
    """Makes every field what its type says: a whole float becomes an int, a number of NumPy's one of Python's.

    Call it from `__post_init__`. Raises UserError if a value has another type or is out of
    range.
    """
    kind = type(instance)
    hints = typing.get_type_hints(kind)
    for name, this in options(kind).items():
        object.__setattr__(instance, name, checked(name, getattr(instance, name), hints[name], this))


def checked(name: str, value: Any, hint: Any, this: Option) -> Any:
    """The value as that type. Raises UserError unless it is of the type and in the range."""
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in allowed:
        return None
    (wanted,) = (kind for kind in allowed if kind is not type(None))
    value = value.item() if isinstance(value, np.generic) else value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if wanted is int and is_number and value == value // 1:
        value = operator.index(int(value))
    elif wanted is float and is_number and abs(value) <= sys.float_info.max:
        value = float(value)
    elif wanted is float and isinstance(value, float):
        pass  # NaN or infinity, refused below
    elif not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise UserError(f"{name} is {KINDS[wanted]}, got {value!r}")
    choices = tuple(this.choices() if callable(this.choices) else this.choices or ())
    if choices and value not in choices:
        raise UserError(f"unknown {name} {value!r}: choose {', '.join(map(str, choices))}")
    limits = _limits(this)
    if not all(holds(value, limit) for _, limit, holds in limits) or (wanted is float and not math.isfinite(value)):
        finite = ["finite"] if wanted is float and this.high is None and this.below is None else []
        raise UserError(f"{name} is {' and '.join([text for text, _, _ in limits] + finite)}, got {value}")
    return value


def _limits(this: Option) -> list[tuple[str, float, Callable]]:
    """(the limit in words, the limit, the comparison that holds) for each limit of the option."""
    limits = [
        ("at least", this.low, operator.ge),
        ("above", this.above, operator.gt),
        ("at most", this.high, operator.le),
        ("below", this.below, operator.lt),
    ]
    return [(f"{text} {limit:g}", limit, holds) for text, limit, holds in limits if limit is not None]


KINDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a text", dict: "a table of names"}


def parsed(kind: type, given: dict[str, Any], what: str) -> Any:
    """An instance of the dataclass from a table of names and values, which may be texts as a shell gives them.

    Raises UserError, whose text begins with `what`, if a name is not a field.
    """
    known, hints = options(kind), typing.get_type_hints(kind)
    if unknown := sorted(given.keys() - known.keys()):
        raise UserError(f"{what} have no option {unknown[0]}, only {', '.join(known) or 'none'}")
    values = {name: from_text(value, hints[name]) if isinstance(value, str) else value for name, value in given.items()}
    return kind(**values)


def from_text(text: str, hint: Any) -> Any:
    """The text as that type if it reads as one, else the text itself, which `check` refuses."""
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    words = {"yes": True, "true": True, "no": False, "false": False}
    for wanted in allowed:
        try:
            if wanted is bool:
                return words[text.lower()]
            if wanted in (int, float):
                return wanted(text)
        except (ValueError, KeyError):
            continue
    return text


# ---------------------------------------------------------------- the command line


def add_arguments(parser: Any, kind: type, only: Iterable[str] | None = None) -> None:
    """The options of the dataclass as arguments of a parser; what is not given is None there."""
    hints, defaults = typing.get_type_hints(kind), {f.name: f.default for f in dataclasses.fields(kind)}
    for name, this in options(kind).items():
        if this.flag is None or (only is not None and name not in only):
            continue
        told = this.help.format(default=defaults[name])
        allowed = typing.get_args(hints[name]) or (hints[name],)
        if bool in allowed:
            parser.add_argument(this.flag, dest=name, action="store_const", const=True, help=told)
            parser.add_argument(_off(this), dest=name, action="store_const", const=False, help=f"undoes {this.flag}")
        else:
            (convert,) = (wanted for wanted in allowed if wanted is not type(None))
            how = dict(type=named_value, action="append") if convert is dict else dict(type=convert)
            parser.add_argument(
                this.flag, dest=name, metavar=this.metavar or convert.__name__.upper(), help=told, **how
            )


def named_value(text: str) -> tuple[str, str]:
    """(NAME, VALUE) of a text NAME=VALUE, for an option that is a table of names and may be repeated."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    return name, value


def _off(this: Option) -> str:
    """The flag that says no to a yes-or-no option."""
    return this.off or str(this.flag).replace("--", "--no-", 1)


# ---------------------------------------------------------------- the documentation


def table(kind: type) -> str:
    """The options as a Markdown table."""
    hints, lines = typing.get_type_hints(kind), ["| option | takes | default | what it does |", "|---|---|---|---|"]
    for field in dataclasses.fields(kind):
        this = options(kind)[field.name]
        if this.flag is None:
            continue
        (wanted,) = set(typing.get_args(hints[field.name]) or (hints[field.name],)) - {type(None)}
        flags = f"`{this.flag}`" if wanted is not bool else f"`{this.flag}`, `{_off(this)}`"
        takes = ", ".join(
            [{bool: "", dict: "NAME=VALUE"}.get(wanted, KINDS[wanted]), *(t for t, _, _ in _limits(this))]
        )
        default = "" if field.default in (None, dataclasses.MISSING) else f"`{field.default}`"
        text = this.help.format(default=field.default) + (" (may change on `--resume`)" if this.resumable else "")
        lines.append(f"| {flags} | {takes} | {default} | {text} |".replace("  ", " "))
    return "\n".join(lines)


def described(kind: type) -> list[str]:
    """The options as lines "name=default: help"."""
    lines = []
    for field in dataclasses.fields(kind):
        lines.append(f"{field.name}={field.default}: {options(kind)[field.name].help.format(default=field.default)}")
    return lines


class Parser(argparse.ArgumentParser):
    """Argparse, with one sentence instead of a page of usage."""

    def error(self, message: str) -> typing.NoReturn:
        raise UserError(f"{message} (see `{self.prog} --help`)")
