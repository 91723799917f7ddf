"""Exported generators as one Python file that needs NumPy only."""

import base64
import inspect
import json
import pprint
import textwrap
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from minigan.export import columns, series, standalone
from minigan.export.generator import Exported, lines
from minigan.export.operations import Step

LINE = 120  # characters
RULE = "# " + 64 * "-"


class Ending(NamedTuple):
    """How an exported file writes the samples of a view: its functions, of which the last one is `save`."""

    functions: tuple[Callable, ...]
    out: str  # the default file
    what: str  # a sentence about the samples
    modules: tuple[str, ...] = ()  # of the standard library


FLOATS = Ending((standalone.save_floats,), "samples.npy", "The samples are the floats that the generator computes.")
ENDINGS = {
    "grid": Ending(
        (standalone.pixels, standalone.save_images), "samples.png", "PNG files need Pillow; .npy files do not."
    ),
    "table": Ending(
        (columns.as_text, columns.number_of, columns.decode, standalone.save_rows),
        "samples.csv",
        "Values that were rare in the data are drawn by their shares, and so differ from those of minigan.",
        ("bisect", "csv", "json"),
    ),
    "series": Ending(
        (series.values_of, series.save_series),
        "samples.csv",
        "A .csv file has a row for each step, a .npy file the array of all values.",
        ("csv", "json"),
    ),
}


def python(found: Exported) -> bytes:
    """Return the content of a Python file: the functions of the layers, the generator, and its weights at the end."""
    ending = ENDINGS.get(found.codec.view, FLOATS)
    shares = getattr(found.codec, "label_shares", None)
    every = standalone.every_label if shares is None else standalone.every_label_in_shares
    drawn: list[Callable] = [standalone.uniform_for, standalone.mixed] if found.uniform else []
    operations = {each.operation.name: each.operation.numpy for each in found.steps if not each.operation.keeps}
    parts = [
        "\n\n".join([_docstring(found, ending), _imports(found, ending), _constants(found, ending, shares)]),
        *_section("the layers", [*operations.values()]),
        *_section("the generator", []),
        _generate(found),
        *_section("samples", [standalone.sample, every, standalone.labels_named, *drawn]),
        *_section("files", [*ending.functions, standalone.main, standalone.weights]),
        _data(found, ending),
    ]
    return ("\n\n\n".join(parts) + '\n\nif __name__ == "__main__":\n    main()\n').encode()


def _section(title: str, functions: list[Callable]) -> list[str]:
    """Return the title of a section, and the source of its functions."""
    sources = [inspect.getsource(function).rstrip().replace("_in_shares(", "(") for function in functions]
    return [f"{RULE} {title}", *sources]


def _docstring(found: Exported, ending: Ending) -> str:
    """Return the docstring of the file, without any text of users, which could end it."""
    label = " --label NAME" if found.classes else ""
    version, preset = (found.source.get(name, "") for name in ("minigan", "preset"))
    return f'''"""A generator that minigan {version} trained (preset {preset}). This file needs NumPy only.

    python FILE.py                                  draws 100 samples: {ending.out}
    python FILE.py --count 10{label} --seed 1 --out {ending.out}

In Python, `sample(10, seed=1)` returns the samples as an array. `generate` is the generator itself. The samples of a
seed are those of `minigan sample --seed`, up to rounding.

{ending.what}
"""'''


def _imports(found: Exported, ending: Ending) -> str:
    names = ["argparse", "base64", "math", *ending.modules, *(["hashlib"] if found.uniform else [])]
    return "\n".join(f"import {name}" for name in sorted(names)) + "\n\nimport numpy as np"


def _constants(found: Exported, ending: Ending, shares: np.ndarray | None) -> str:
    of = " x ".join(map(str, found.sample_shape))
    text = [
        f"NOISE_SHAPE = {found.noise_shape!r}  # for a sample of the shape {of}",
        f"CLASSES = {_literal(found.class_names)}  # the names of the labels 0, 1, ...",
        f"OUT = {ending.out!r}",
    ]
    if shares is not None:
        text.append(f"SHARES = {_literal(shares.tolist())}  # of the classes in the data")
    return "\n".join(text)


def _literal(value: Any) -> str:
    """Return a value as source, in several lines if it is long. Only ASCII, because texts may have any characters."""
    return ascii(value) if len(ascii(value)) < 80 else pprint.pformat(value, width=LINE - 4, compact=True)


def _generate(found: Exported) -> str:
    """Return the source of the function `generate`, one line for each step."""
    noise, shape = (", ".join(map(str, ("N", *shape))) for shape in (found.noise_shape, found.sample_shape))
    given = "noise z ({noise}) and labels (N,)" if found.classes else "noise z ({noise})"
    text = [
        "def generate(z, labels=None):",
        f'    """Return samples ({shape}) for {given.format(noise=noise)}."""',
        "    x = z",
    ]
    for each, _, after, depth in lines(found):
        code = "    " + _line(each, depth, found)
        comment = f"  # ({', '.join(map(str, ('N', *after)))})"
        text.append(code if each.operation.keeps or len(code) + len(comment) > LINE else code + comment)
    return "\n".join([*text, "    return x"])


def _line(each: Step, depth: int, found: Exported) -> str:
    """Return the statement of one step. `depth` is the number of outputs that are kept before it."""
    if each.operation.keeps:
        return f"kept{depth or ''} = x"
    inputs = {"labels": "labels", "uniform": f"uniform_for(z, {found.uniform})", "kept": f"kept{depth - 1 or ''}"}
    arguments = ["x", *(inputs[taken] for taken in each.operation.takes)]
    arguments += [f'{key}=W["{each.names[key]}"]' for key in each.arrays]
    arguments += [f"{key}={value!r}" for key, value in each.settings.items()]
    code = f"x = {each.operation.name}({', '.join(arguments)})"
    return code if len(code) < LINE - 4 else "\n".join(textwrap.wrap(code, LINE - 4, subsequent_indent=8 * " "))


def _data(found: Exported, ending: Ending) -> str:
    """Return the constants that are long: shapes of arrays, columns of tables, and the weights as base64."""
    arrays = found.arrays()
    shapes = ",\n    ".join(f'"{name}": {value.shape}' for name, value in arrays.items())
    text = [f"{RULE} the weights", "", f"save = {ending.functions[-1].__name__}"]
    for name, facts in found.decoding().items():
        if isinstance(facts, dict):
            entries = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in facts.items()]
        else:
            entries = [json.dumps(value) for value in facts]
        first, last = "{}" if isinstance(facts, dict) else "[]"
        body = ",\n".join(entries)
        text.append(f'{name.upper()} = json.loads(r"""{first}\n{body}\n{last}""")')  # JSON has no three quotes in a row
    text.append(f"ARRAYS = {{\n    {shapes},\n}}")
    packed = base64.b64encode(b"".join(value.astype("<f4").tobytes() for value in arrays.values())).decode()
    body = "\n".join(packed[i : i + LINE] for i in range(0, len(packed), LINE))
    return "\n".join([*text, f'W = weights("""\n{body}\n""")'])
