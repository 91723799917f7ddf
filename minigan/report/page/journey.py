"""One batch, step by step, as a part of a page: each step is a layer, a loss or an optimizer at work.

`runs.trace` collects the steps. The script of the page shows one of them at a time. Without it, all are visible.
"""

import functools
import io
import keyword
import tokenize
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from minigan.report.page.html import Html, details, document, escape, html, join, table, user
from minigan.report.page.pictures import Picture
from minigan.report.page.report import image


@dataclass(frozen=True)
class Source:
    """The source text of a function, and where it is."""

    name: str
    file: str
    line: int  # the first
    text: str


@dataclass(frozen=True)
class Shown:
    """An array as a picture, or where it was drawn: the number of the step whose result it is."""

    name: str
    picture: Picture | None
    before: int | None = None


@dataclass(frozen=True)
class Numbers:
    """What is said about an array: shape, Euclidean norm, mean, standard deviation, least and largest value."""

    name: str
    shape: tuple[int, ...]
    norm: float
    mean: float
    std: float
    low: float
    high: float

    @classmethod
    def of(cls, name: str, array: np.ndarray) -> "Numbers":
        """Return the numbers of an array with at least one element."""
        a = np.asarray(array, np.float64)
        return cls(
            name, tuple(array.shape), float(np.linalg.norm(a)), *map(float, (a.mean(), a.std(), a.min(), a.max()))
        )


@dataclass
class Step:
    """A step: what runs, what its docstrings say, its sources, pictures and numbers, and the line of game.py."""

    chapter: str
    title: str
    kind: str  # forward, back or other
    where: str
    says: Sequence[str]
    sources: Sequence[Source]
    shown: Sequence[Shown] = ()
    numbers: Sequence[Numbers] = ()
    note: str = ""
    logits: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    size: float = 0.0  # the root mean square of the result
    game: tuple[str, int, int] = ("", 0, 0)  # the function of game.py, and the lines of the statement that runs


NAMES = {
    "x": "x, what comes in",
    "y": "y, what goes out",
    "dy": "dy, the gradient of what goes out",
    "dx": "dx, the gradient of what comes in",
}


def page(name: str, journey: Html, written: float) -> bytes:
    """Return a page with one batch alone, of the run with this name."""
    body = [
        html("header", html("p", "minigan", class_="brand"), html("h1", "One batch, step by step"),
             html("p", "of the run ", user(name))),
        html("main", html("h2", "Steps"), journey),
        html("footer", "Written by minigan trace. This page is one file and loads nothing else.", class_="note"),
    ]  # fmt: skip
    return document(f"{name}, one batch: minigan", *body, written=written)


def part(steps: Sequence[Step], game: Mapping[str, Source]) -> Html:
    """Return the steps as a part of a page, with the functions of game.py that occur in them."""
    starts = [k for k, step in enumerate(steps) if k == 0 or step.chapter != steps[k - 1].chapter]
    options = [html("option", f"{number}. {steps[k].chapter}", value=k) for number, k in enumerate(starts, 1)]
    used = dict.fromkeys(step.game[0] for step in steps)
    controls = html(
        "div",
        html("div", html("label", "Chapter ", html("select", *options, id="chapter"))),
        html("div", *(html("i", "", class_=_bar_kind(step), style=f"height:{h:.0f}%") for step, h in
                      zip(steps, heights(steps), strict=True)), class_="bar-of-steps", aria_hidden="true"),
        html(
            "div",
            html("button", "← Back", type="button", data_back=True),
            html("input", type="range", min=0, max=len(steps) - 1, value=0, step=1, aria_label="step"),
            html("button", "Next →", type="button", data_next=True),
            class_="stepper",
        ),
        html("p", "", id="said-step", class_="quiet", role="status"),
        class_="controls",
    )  # fmt: skip
    return html("div", _intro(), controls, *(_step(step, k, len(steps), steps) for k, step in enumerate(steps)),
                html("h3", "In game.py"), *(_game(game[name]) for name in used), class_="card journey")  # fmt: skip


def _intro() -> Html:
    return join(
        html("p", "A real batch goes through the trained game once: forward through the layers, into the loss, and "
             "back. The left and right arrow keys step through it. The bars show the root mean square of what each "
             "step computes, on a scale of logs."),
        html("p", html("span", "values", html("span", "", class_="ramp forward"), "low to high"),
             html("span", "gradients", html("span", "", class_="ramp backward"), "negative, 0, positive"),
             class_="note legend-of-colours"),
    )  # fmt: skip


def heights(steps: Sequence[Step]) -> list[float]:
    """Return the heights of the bars in percent, on one scale of logs for values, and one for gradients."""
    found = [8.0] * len(steps)
    for kind in ("forward", "back"):
        logs = {k: np.log10(step.size) for k, step in enumerate(steps) if step.kind == kind and 0 < step.size < np.inf}
        if logs:
            low, high = min(logs.values()), max(logs.values())
            for k, value in logs.items():
                found[k] = 15 + 85 * (float((value - low) / (high - low)) if high > low else 1.0)
    return found


def _bar_kind(step: Step) -> str | None:
    return {"forward": None, "back": "back"}.get(step.kind, "other")


def _step(step: Step, number: int, count: int, steps: Sequence[Step]) -> Html:
    function, first, last = step.game
    says = [text for text in dict.fromkeys(step.says) if text]
    left = [
        html("pre", "\n\n".join(says), class_="equation", tabindex=0) if says else None,
        html("div", *(_shown(shown, steps) for shown in step.shown), class_="maps") if step.shown else None,
        _logits(step),
        html("p", step.note, class_="note") if step.note else None,
    ]
    rows = [
        [
            html("code", n.name),
            " x ".join(map(str, n.shape)) or "1",
            *(f"{v:.3g}" for v in (n.norm, n.mean, n.std, n.low, n.high)),
        ]
        for n in step.numbers
    ]
    numbers = table(
        ["array", "shape", "norm", "mean", "std", "least", "largest"], rows, f"Numbers of step {number + 1}"
    )
    right = [join(html("p", f"{source.file}, line {source.line}: {source.name}", class_="where"), _code(source))
             for source in step.sources]  # fmt: skip
    return html(
        "section",
        html("p", f"Step {number + 1} of {count}: {step.chapter}", class_="where"),
        html("h3", step.title),
        html("p", step.where, class_="where"),
        html("div", html("div", *left, numbers), html("div", *right), class_="two"),
        class_=f"step {step.kind}",
        data_game=function,
        data_lines=f"{first}-{last}",
        aria_label=f"Step {number + 1}: {step.title}",
    )


def _shown(shown: Shown, steps: Sequence[Step]) -> Html | None:
    """Return an array as a figure. An array of an earlier step is drawn once, and shown again."""
    picture, before = shown.picture, shown.before
    while picture is None and before is not None:  # the result of an earlier step may itself be an earlier one
        again = steps[before].shown[-1]
        picture, before = again.picture, again.before
    if picture is None:
        return None
    kind = "heat map" if shown.name.startswith("d") or "gradient" in shown.name else "picture"
    title = NAMES.get(shown.name, shown.name)
    width, height = picture[2]
    return html("figure", image(picture, f"{kind} of {title}", class_="pixels"),
                html("figcaption", html("b", title)), class_="wide" if width > 3 * height else None)  # fmt: skip


def _logits(step: Step) -> Html | None:
    """Return the logits of a few samples, and their gradients."""
    if not step.logits:
        return None
    parts = []
    for what, pairs in step.logits.items():
        rows = [[k, f"{logit:.3f}", f"{gradient:.4f}"] for k, (logit, gradient) in enumerate(pairs, 1)]
        parts.append(details(f"logits of {what}", table(["sample", "logit", "gradient"], rows, f"Logits of {what}")))
    return join(*parts)


def _game(source: Source) -> Html:
    """Return a function of game.py, with the numbers of its lines, which the script marks."""
    lines = [html("span", line, class_="line", data_line=source.line + k, data_game=source.name)
             for k, line in enumerate(highlighted(source.text))]  # fmt: skip
    return html("pre", html("code", *lines), class_="source", tabindex=0, data_function=source.name,
                aria_label=f"source of {source.name}")  # fmt: skip


@functools.cache
def _code(source: Source) -> Html:
    lines = join(*highlighted(source.text), between="\n")
    return html("pre", html("code", lines), class_="source", tabindex=0, aria_label=f"source of {source.name}")


def highlighted(text: str) -> list[Html]:
    """Return the lines of Python source as HTML, in which keywords, strings and comments are marked."""
    marks: dict[int, list[tuple[int, int, str]]] = {}
    lines = text.splitlines()
    try:
        for token in tokenize.generate_tokens(io.StringIO(text + "\n").readline):
            kind = {tokenize.COMMENT: "c", tokenize.STRING: "s"}.get(token.type)
            if keyword.iskeyword(token.string):
                kind = "k"
            if kind is None:
                continue
            for row in range(token.start[0], token.end[0] + 1):
                start = token.start[1] if row == token.start[0] else 0
                end = token.end[1] if row == token.end[0] else len(lines[row - 1])
                marks.setdefault(row, []).append((start, end, kind))
    except (tokenize.TokenError, SyntaxError):
        pass  # a part of a file that is no Python by itself is shown without marks
    found = []
    for row, line in enumerate(lines, 1):
        parts, at = [], 0
        for start, end, kind in marks.get(row, []):
            parts += [escape(line[at:start]), html("span", line[start:end], class_=kind)]
            at = end
        found.append(join(*parts, line[at:]))
    return found
