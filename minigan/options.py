"""Options: dataclass fields with a type, a default, a range, a help text and a command-line flag.

    @dataclass(frozen=True)
    class Choices:
        batch: int = option(128, help="samples in a batch", low=1, metavar="N")

These fields define the validation (`check`), the command line (`add_arguments`) and a table for
the documentation (`table`). `Config`, the networks of a preset and every kind of data declare
their options in this way, so that a new option is one entry.

The command line is parsed with argparse. Libraries that build a parser from a dataclass (tyro,
jsonargparse) print pages of usage for a bad value. Here a bad value gets one sentence.
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
    """Metadata of an option, in addition to its type and default.

    The help text may contain {default}. `low` and `high` are inclusive limits, `above` and `below`
    are exclusive limits. `choices` may be a function, because the table of choices may not exist
    yet when the field is defined.
    """

    help: str
    flag: str | None = None  # None: not on the command line
    off: str | None = None  # the flag that sets a boolean option to False
    metavar: str | None = None
    choices: tuple | Callable[[], Iterable] | None = None
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    resumable: bool = False  # whether a resumed run may change it


def option(default: Any, *, help: str, flag: str | None = "", **rest: Any) -> Any:
    """Return a dataclass field with the metadata of an `Option`.

    If `flag` is not given, it is "--" plus the name of the field, with "-" for "_".
    """
    kwargs = {"default": default} if not isinstance(default, dict) else {"default_factory": lambda: dict(default)}
    return dataclasses.field(**kwargs, metadata={"help": help, "flag": flag, **rest})


@dataclass(frozen=True)
class NoOptions:
    """The options of a preset or a kind of data without options."""


def options(kind: type) -> dict[str, Option]:
    """Return the options of a dataclass, by field name."""
    found = {}
    for field in dataclasses.fields(kind):
        metadata = dict(field.metadata)
        if metadata.get("flag") == "":
            metadata["flag"] = "--" + field.name.replace("_", "-")
        found[field.name] = Option(**metadata)
    return found


def _types(kind: type) -> dict[str, Any]:
    """Return the declared types of a dataclass, by field name. A type such as dict[str, Any] is returned as dict."""
    return {
        name: typing.get_origin(hint) if typing.get_origin(hint) is dict else hint
        for name, hint in typing.get_type_hints(kind).items()
    }


# ---------------------------------------------------------------- validation


def check(instance: Any) -> None:
    """Convert every field to its declared type: integral floats to int, and NumPy numbers to Python numbers.

    Call this function from `__post_init__`. Raises UserError if a value has another type or is
    out of range.
    """
    kind = type(instance)
    hints = _types(kind)
    for name, spec in options(kind).items():
        object.__setattr__(instance, name, checked(name, getattr(instance, name), hints[name], spec))


def checked(name: str, value: Any, hint: Any, spec: Option) -> Any:
    """Return the value converted to the declared type. Raises UserError if it has another type or is out of range."""
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
        pass  # NaN or infinity, rejected below
    elif not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise UserError(f"{name} is {TYPE_NAMES[wanted]}, got {value!r}")
    choices = tuple(spec.choices() if callable(spec.choices) else spec.choices or ())
    if choices and value not in choices:
        raise UserError(f"unknown {name} {value!r}: choose {', '.join(map(str, choices))}")
    limits = _limits(spec)
    if not all(compare(value, limit) for _, limit, compare in limits) or (wanted is float and not math.isfinite(value)):
        finite = ["finite"] if wanted is float and spec.high is None and spec.below is None else []
        raise UserError(f"{name} is {' and '.join([text for text, _, _ in limits] + finite)}, got {value}")
    return value


def _limits(spec: Option) -> list[tuple[str, float, Callable]]:
    """Return (text, limit, comparison that a valid value satisfies) for each limit of the option."""
    limits = [
        ("at least", spec.low, operator.ge),
        ("above", spec.above, operator.gt),
        ("at most", spec.high, operator.le),
        ("below", spec.below, operator.lt),
    ]
    return [(f"{text} {limit:g}", limit, compare) for text, limit, compare in limits if limit is not None]


TYPE_NAMES = {int: "a whole number", float: "a number", bool: "True or False", str: "a text", dict: "a dictionary"}


def parsed(kind: type, given: dict[str, Any], what: str) -> Any:
    """Return an instance of the dataclass, given names and values. Values may be strings from the command line.

    Raises UserError if a name is not a field. The message starts with `what`.
    """
    known, hints = options(kind), _types(kind)
    if unknown := sorted(given.keys() - known.keys()):
        offered = [name for name, spec in known.items() if spec.flag is not None]
        raise UserError(f"{what} have no option {unknown[0]}, only {', '.join(offered) or 'none'}")
    values = {name: from_text(value, hints[name]) if isinstance(value, str) else value for name, value in given.items()}
    return kind(**values)


def of_text(kind: type, name: str, text: str) -> Any:
    """Convert the text to the type of a field. Return the text unchanged if that fails; `check` then rejects it."""
    return from_text(text, _types(kind)[name])


def from_text(text: str, hint: Any) -> Any:
    """Convert the text to the declared type. Return the text unchanged if that fails; `check` then rejects it."""
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
    """Add the options of the dataclass to an argument parser. An option that is not given is None in the result."""
    hints, defaults = _types(kind), {f.name: f.default for f in dataclasses.fields(kind)}
    for name, spec in options(kind).items():
        if spec.flag is None or (only is not None and name not in only):
            continue
        help_text = spec.help.format(default=defaults[name])
        allowed = typing.get_args(hints[name]) or (hints[name],)
        if bool in allowed:
            parser.add_argument(spec.flag, dest=name, action="store_const", const=True, help=help_text)
            parser.add_argument(
                off_flag(spec), dest=name, action="store_const", const=False, help=f"the opposite of {spec.flag}"
            )
        else:
            (convert,) = (wanted for wanted in allowed if wanted is not type(None))
            kwargs = dict(type=named_value, action="append") if convert is dict else dict(type=convert)
            parser.add_argument(
                spec.flag, dest=name, metavar=spec.metavar or convert.__name__.upper(), help=help_text, **kwargs
            )


def named_value(text: str) -> tuple[str, str]:
    """Split the text NAME=VALUE into (NAME, VALUE), for options that are dictionaries and may be repeated."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    return name, value


def off_flag(spec: Option) -> str:
    """Return the flag that sets a boolean option to False."""
    return spec.off or str(spec.flag).replace("--", "--no-", 1)


# ---------------------------------------------------------------- the documentation


def table(kind: type) -> str:
    """Return the options as a Markdown table."""
    hints, lines = _types(kind), ["| option | takes | default | what it does |", "|---|---|---|---|"]
    for field in dataclasses.fields(kind):
        spec = options(kind)[field.name]
        if spec.flag is None:
            continue
        (wanted,) = set(typing.get_args(hints[field.name]) or (hints[field.name],)) - {type(None)}
        flags = f"`{spec.flag}`" if wanted is not bool else f"`{spec.flag}`, `{off_flag(spec)}`"
        takes = ", ".join(
            [{bool: "", dict: "NAME=VALUE"}.get(wanted, TYPE_NAMES[wanted]), *(t for t, _, _ in _limits(spec))]
        )
        default = "" if field.default in (None, dataclasses.MISSING) else f"`{field.default}`"
        text = spec.help.format(default=field.default) + (" (may change on `--resume`)" if spec.resumable else "")
        lines.append(f"| {flags} | {takes} | {default} | {text} |".replace("  ", " "))
    return "\n".join(lines)


def described(kind: type) -> list[str]:
    """Return the options as lines "name=default: help"."""
    lines = []
    for field in dataclasses.fields(kind):
        lines.append(f"{field.name}={field.default}: {options(kind)[field.name].help.format(default=field.default)}")
    return lines


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one sentence instead of a page of usage."""

    def error(self, message: str) -> typing.NoReturn:
        """Raise UserError with the message."""
        raise UserError(f"{message} (see `{self.prog} --help`)")
