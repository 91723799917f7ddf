"""The page explorer.html: a generator to play with, in one file that loads nothing.

    text = explorer.page(found, final, scrubber, facts)

`page.html` is the page, `page.css` its looks, `views.js` shows samples of each kind, and `page.js` does the rest. The
generator itself is the JavaScript of `minigan.export`.
"""

import html
import json
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np

from minigan.errors import UserError
from minigan.export import columns, javascript
from minigan.export.generator import Exported

VIEWS = ("grid", "scatter", "table", "series")  # of the codecs whose samples views.js shows
FOR_CHECKPOINTS = 1_000_000  # bytes of the page for the weights of earlier checkpoints
FOR_COLUMNS = 250_000  # bytes of the page for the columns of a table
KNOTS = 65  # values of a number in a table that the page stores, at most: others are interpolated

Arrays = dict[str, np.ndarray]


class Scrubber(NamedTuple):
    """The earlier checkpoints of a page: their arrays, with those of the generator's names, and what to call them."""

    checkpoints: Sequence[tuple[str, Arrays]] = ()
    last: str = ""  # what to call the final generator
    reason: str = ""  # why there is no scrubber, as a sentence


def room(found: Exported) -> int:
    """Return how many checkpoints of this generator fit into FOR_CHECKPOINTS, in half precision."""
    return FOR_CHECKPOINTS // len(javascript.in_16_bits(found.arrays()))


def page(found: Exported, name: str, line: str, scrubber: Scrubber) -> str:
    """Return the page of a generator. `name` is that of the run, and `line` says in short what was trained.

    Texts of users, such as the names of classes, are in the page as JSON, and become text, never elements. Raises
    UserError if the page cannot show such samples.
    """
    view = found.codec.view
    if view not in VIEWS or (view == "scatter" and found.sample_shape != (2,)):
        what = " x ".join(map(str, found.sample_shape))
        raise UserError(
            f"the explorer shows images, points in the plane, rows of a table and series, got samples of {what}: use "
            "`minigan export`"
        )
    facts = {
        "name": name,
        "line": line,
        "view": view,
        "noise": int(np.prod(found.noise_shape)),
        "shape": found.sample_shape,
        "classes": found.class_names,
        "uniform": found.uniform,
        "arrays": javascript.sizes(found),
        **(found.decoding() | ({"columns": table_columns(found)} if view == "table" else {})),
        "checkpoints": [text for text, _ in scrubber.checkpoints],
        "last": scrubber.last,
        "noScrubber": scrubber.reason,
    }
    weights = {"weights": javascript.in_24_bits(found.arrays())}
    for i, (_, arrays) in enumerate(scrubber.checkpoints):
        weights[f"weights-{i}"] = javascript.in_16_bits(arrays)
    parts = {
        "title": html.escape(f"Explore {name}"),
        "facts": _json(facts),
        "weights": "\n".join(f'<script type="text/plain" id="{key}">{text}</script>' for key, text in weights.items()),
        "network": javascript.program(found),
        **{part: _file(f"{name}") for part, name in (("css", "page.css"), ("views", "views.js"), ("page", "page.js"))},
    }
    return re.sub(r"@@(\w+)@@", lambda match: parts[match[1]], _file("page.html"))


def _json(value: Any) -> str:
    """Return JSON that can stand in an element: no `<`, so that no text ends the element or starts a comment."""
    return json.dumps(value).replace("<", "\\u003c")


def _file(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8").rstrip("\n")


def table_columns(found: Exported) -> list[dict[str, Any]]:
    """Return the columns of a table for the page, in about FOR_COLUMNS bytes.

    Numbers keep some of their values: see KNOTS. If the texts of a category need more than its share, only the first
    ones are kept, and the page calls the others by their number.
    """
    share = FOR_COLUMNS // max(1, len(found.codec.parts))  # type: ignore[attr-defined]  # the codec of a table
    facts = columns.plain(found.codec, max(2, min(KNOTS, share // 60)))
    for column in facts:
        if rare := column.pop("rare", None):
            column["choices"][rare[0]] = "a rare value"
        ends = np.cumsum([len(json.dumps(text)) + 2 for text in column.get("choices", [])])
        if len(ends) and ends[-1] > share:
            column["choices"] = column["choices"][: int(np.searchsorted(ends, share))]
    return facts
