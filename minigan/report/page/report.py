"""The page of a run: samples, curves, what happened, classes, networks, and how to repeat it.

`runs.page` collects what it shows. A part whose content is missing is left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from minigan.report.page import charts
from minigan.report.page.html import Html, data, details, document, html, join, picture, table, user
from minigan.report.page.networks import Network, diagram
from minigan.report.page.pictures import Picture

STATES = {
    "running": "running",
    "finished": "finished",
    "stopped": "stopped",
    "collapsed": "stopped: collapse",
    "diverged": "diverged",
    "failed": "failed",
}


@dataclass(frozen=True)
class Nearest:
    """A sample, the training image that is most similar to it, and how far they are apart."""

    sample: Picture
    real: Picture
    distance: float


@dataclass(frozen=True)
class Report:
    """What the page of a run shows. Empty parts are left out."""

    name: str
    state: str  # a key of STATES
    written: float  # seconds since 1970
    done: float | None  # the completed fraction, None without a total
    progress: str  # steps, epochs and time in words
    summary: Sequence[tuple[str, str]]  # (topic, text)
    noun: str = "sample"
    view: str = "grid"  # how samples are drawn, as codecs name it
    newest: tuple[str, Picture] | None = None
    frames: Sequence[tuple[str, Picture]] = ()
    curves: Sequence[dict] = ()
    alarms: Sequence[str] = ()
    verdict: str = ""
    statements: Sequence[Any] = ()  # each with verdict, text and helps
    notes: Sequence[str] = ()
    modes: tuple[str, Sequence[tuple[str, float, float]]] | None = None  # what they are, (name, samples, real)
    nearest: Sequence[Nearest] = ()
    usual_distance: float | None = None  # of a real image to the nearest other one
    searched: str = ""  # among which images the nearest ones are
    distributions: Html | None = None  # for other views than images
    networks: Sequence[Network] = ()
    journey: Html | None = None
    config: Sequence[tuple[str, str, bool]] = ()  # (name, value, whether it differs from the preset)
    command: str = ""
    files: Sequence[tuple[str, str]] = ()
    machine: Sequence[tuple[str, str]] = ()
    extra: Sequence[tuple[str, str, Picture]] = field(default=())  # (title, text, picture)


def page(report: Report) -> bytes:
    """Return the page of a run as one file."""
    parts = [
        ("samples", "Samples", _samples(report)),
        ("curves", "Curves", _curves(report)),
        ("explanation", "What happened", _explanation(report)),
        ("data", "Compared with the data", _compared(report)),
        ("networks", "Networks", _networks(report)),
        ("journey", "One batch, step by step", report.journey),
        ("repeat", "Repeat this run", _repeat(report)),
    ]
    shown = [(key, title, part) for key, title, part in parts if part]
    links = [html("li", html("a", title, href=f"#{key}")) for key, title, _ in shown]
    body = [
        html("a", "Skip to the samples", href="#samples", class_="skip"),
        _header(report),
        html("nav", html("ul", *links), aria_label="Parts of this page"),
        html("main", *(html("section", html("h2", title), part, id=key) for key, title, part in shown)),
        html("footer", "Written by minigan. This page is one file and loads nothing else.", class_="note"),
        data("charts", list(report.curves)),
    ]
    title = f"{report.name}: minigan"
    return document(title, *body, state=report.state, written=report.written)


def _header(report: Report) -> Html:
    percent = None if report.done is None else min(100.0, 100 * report.done)
    bar = None
    if percent is not None and report.state != "finished":
        bar = html(
            "progress", f"{percent:.0f}%", max=100, value=f"{percent:.1f}", aria_label="part of the run that is done"
        )
    return html(
        "header",
        html("p", "minigan", class_="brand"),
        html("h1", user(report.name), dir="auto"),
        html("p", badge(report.state), " ", html("span", report.progress), id="state"),
        bar,
        html("p", "", id="stale", class_="note", role="status"),
        html("dl", *(html("div", html("dt", topic), html("dd", user(text))) for topic, text in report.summary)),
    )


def badge(state: str) -> Html:
    """Return the state of a run as a coloured word."""
    return html("span", STATES.get(state, state), class_=f"badge {state}")


def image(found: Picture, alt: str, **attributes: Any) -> Html:
    """Return a picture as an element. Its size is known, so that the page does not move when it appears."""
    content, kind, (width, height) = found
    return html("img", src=picture(content, kind), alt=alt, width=width, height=height, **attributes)


def _samples(report: Report) -> Html | None:
    if report.newest is None:
        return html("p", "There is no picture yet.", class_="card note") if not report.frames else None
    text, newest = report.newest
    pixels = "pixels" if report.view == "grid" else None
    large = image(newest, f"{text}: {report.noun}s drawn by the generator", id="grid", class_=pixels)
    slider = None
    if len(report.frames) > 1:
        last = len(report.frames)
        slider = html(
            "div",
            html("label", "Epochs, drawn from one fixed noise", for_="epoch"),
            html("button", "Play", type="button", data_play=True),
            html("input", id="epoch", type="range", min=0, max=last, value=last, step=1, aria_valuetext=text),
            html("output", text, id="when", for_="epoch"),
            class_="slider",
        )
    frames = [{"text": label, "src": picture(*found[:2]), "width": found[2][0], "height": found[2][1]}
              for label, found in report.frames]  # fmt: skip
    return html("div", html("figure", large), slider, data("frames", frames), class_="card samples")


def _curves(report: Report) -> Html | None:
    return html("div", charts.figures(report.curves), class_="columns") if report.curves else None


def _explanation(report: Report) -> Html | None:
    parts = []
    if report.verdict:
        parts.append(html("p", "Verdict: ", html("strong", report.verdict), class_="verdict"))
    for statement in report.statements:
        parts.append(html("p", user(statement.text), "."))
        if statement.helps:
            commands = (html("li", html("code", command)) for command in statement.helps)
            well = statement.verdict in ("healthy", "unfinished")
            what = "Next:" if well else "What usually helps, in this order:"
            parts.append(html("div", html("p", what, class_="note"), html("ol", *commands)))
    if report.alarms:
        parts.append(html("h3", "Warnings during the training"))
        parts.append(html("ul", *(html("li", user(alarm)) for alarm in report.alarms)))
    parts += [html("p", f"Note: {note}.", class_="note") for note in report.notes]
    return html("div", *parts, class_="card") if parts else None


def _compared(report: Report) -> Html | None:
    parts = [part for part in (_modes(report), _nearest(report), report.distributions) if part]
    for title, text, found in report.extra:
        parts.append(html("figure", html("h3", title), image(found, text), html("figcaption", text), class_="card"))
    return join(*parts) if parts else None


def _modes(report: Report) -> Html | None:
    """Return the share of the samples in each class, or in each group of similar samples, next to the real share."""
    if not report.modes:
        return None
    what, shares = report.modes
    largest = max(max(fake, real) for _, fake, real in shares) or 1.0
    rows = [
        html(
            "tr",
            html("th", user(name), scope="row"),
            html("td", _bars(fake / largest, real / largest), aria_hidden="true", class_="bars"),
            html("td", f"{100 * fake:.1f}%"),
            html("td", f"{100 * real:.1f}%"),
        )
        for name, fake, real in shares
    ]
    groups = "classes" if what == "class" else "groups of similar samples"
    head = html(
        "tr",
        html("th", what, scope="col"),
        html("td", "", aria_hidden="true"),
        html("th", key("fake"), "samples", scope="col"),
        html("th", key("real"), "real", scope="col"),
    )
    return html(
        "figure",
        html("h3", f"Shares of the {groups}"),
        html("div", html("table", html("thead", head), html("tbody", *rows), class_="shares"),
             class_="scroll", tabindex=0, role="region", aria_label="shares"),
        html("figcaption", "A simple classifier, which was fitted to real samples, assigns the samples."),
        class_="card",
    )  # fmt: skip


def key(kind: str) -> Html:
    """Return the mark of a colour: of samples (fake) or of real ones."""
    return html("span", "", class_=f"key {kind}", aria_hidden="true")


def _bars(fake: float, real: float) -> Html:
    return join(*(html("span", "", class_=f"bar {kind}", style=f"width:{100 * share:.1f}%")
                  for kind, share in (("fake", fake), ("real", real))))  # fmt: skip


def _nearest(report: Report) -> Html | None:
    if not report.nearest:
        return None
    pairs = [
        html(
            "li",
            image(pair.sample, f"sample {number}", class_="pixels"),
            image(pair.real, f"the training image nearest to sample {number}", class_="pixels"),
            html("span", f"{pair.distance:.3f}"),
        )
        for number, pair in enumerate(report.nearest, 1)
    ]
    usual = report.usual_distance
    about = f"Above, a sample; below, the most similar of {report.searched}; and the mean square difference of their "
    about += "pixels as a root, where 1 is the difference of black and white. "
    about += "" if usual is None else f"Real images have {usual:.3f} to the nearest other one (median): "
    about += "" if usual is None else "far smaller numbers would be copies."
    return html("figure", html("h3", "Nearest training images"), html("ul", *pairs, class_="pairs"),
                html("figcaption", about), class_="card")  # fmt: skip


def _networks(report: Report) -> Html | None:
    return html("div", *map(diagram, report.networks), class_="columns") if report.networks else None


def _repeat(report: Report) -> Html:
    options = [
        [join(html("code", name), " ", html("small", "changed") if changed else None), html("code", value)]
        for name, value, changed in report.config
    ]
    parts = []
    if report.command:
        copy = html("button", "Copy", type="button", data_copy="command")
        parts.append(
            html("div", html("pre", html("code", report.command, id="command"), tabindex=0), copy, class_="command")
        )
    if report.machine:
        parts.append(html("h3", "Machine and versions"))
        parts.append(html("dl", *(html("div", html("dt", k), html("dd", v)) for k, v in report.machine)))
    if options:
        parts.append(details("All options", table(["option", "value"], options, "Options of this run")))
    if report.files:
        files = [[html("code", name), text] for name, text in report.files]
        parts.append(details("Files of the run", table(["file", "content"], files, "Files in the folder of the run")))
    return html("div", *parts, class_="card")
