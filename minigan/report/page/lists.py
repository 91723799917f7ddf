"""The pages of `minigan web`: the list of runs, and the curves of two runs side by side."""

import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from minigan.report.page import charts
from minigan.report.page.html import Html, data, document, html, join, user
from minigan.report.page.report import STATES, badge

LIVE = "'self'"  # the script reads the page again from its own server


def list_page(entries: Sequence[Any], everything: Sequence[Any], chosen: Mapping[str, str], now: float) -> bytes:
    """Return the list of the `entries`, which the filters `chosen` (q, kind, state) leave of `everything`."""
    count = f"{len(entries)} of {len(everything)} runs" if len(entries) < len(everything) else f"{len(everything)} runs"
    hint = "minigan train writes runs into this folder" if not everything else "no run has what the filters ask for"
    cards = html("ul", *(_card(entry, now) for entry in entries), class_="runs") if entries else html("p", hint)
    body = [
        html("header", html("p", "minigan", class_="brand"), html("h1", "Runs")),
        html(
            "main",
            _filters(everything, chosen),
            html(
                "form",
                html("p", html("button", "Compare the two chosen runs", type="submit", data_compare=True)),
                html("div", html("p", count, class_="note", role="status"), cards, data_live=True),
                action="/compare",
            ),
        ),
    ]
    return document("Runs: minigan", *body, connect=LIVE)


def _filters(entries: Sequence[Any], chosen: Mapping[str, str]) -> Html:
    def select(name: str, title: str, values: Mapping[str, str]) -> Html:
        now = chosen.get(name, "")
        options = [html("option", text, value=value, selected=value == now) for value, text in values.items()]
        return html("label", title, html("select", html("option", "all", value=""), *options, name=name))

    kinds = {kind: kind for kind in sorted({entry.kind for entry in entries} - {""})}
    states = {state: STATES.get(state, state) for state in sorted({entry.state for entry in entries})}
    return html(
        "form",
        html("label", "Name, preset or data", html("input", type="search", name="q", value=chosen.get("q", ""))),
        select("kind", "Kind of data", kinds),
        select("state", "State", states),
        html("button", "Filter", type="submit"),
        class_="filters",
        action="/",
        role="search",
    )


def _card(entry: Any, now: float) -> Html:
    address = quote(entry.name)
    name: Any = user(entry.name)
    title = html("a", name, href=f"/page/{address}/report.html") if entry.has_page else name
    seen = [text for text in (entry.epochs and f"epoch {entry.epochs}", _counted(entry.steps, "step")) if text]
    picture = html("div", "", class_="thumb")
    if entry.picture is not None:
        source = f"/thumbnail/{address}/picture?{entry.changed:.0f}"
        picture = html("img", src=source, alt=f"newest samples of {entry.name}", class_="thumb", loading="lazy")
    return html(
        "li",
        picture,
        html(
            "div",
            html("h2", title),
            html("p", badge(entry.state), " ", ago(now - entry.changed), class_="note"),
            html("p", user(f"{entry.preset}, {entry.data.rpartition('/')[2] or entry.data}"), class_="note"),
            html("p", ", ".join(seen), class_="note"),
            html(
                "label",
                html("input", type="checkbox", name="run", value=entry.name),
                "compare",
                html("span", f" {entry.name}", class_="quiet"),
            ),
            class_="text",
        ),
        class_="card",
    )


def _counted(number: str, noun: str) -> str:
    return f"{int(number):,} {noun}{'' if number == '1' else 's'}" if number.isascii() and number.isdigit() else ""


def ago(seconds: float) -> str:
    """Return how long ago something was, in the largest fitting unit."""
    for size, unit in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'' if count == 1 else 's'} ago"
    return "now" if seconds < 10 else f"{int(seconds)} seconds ago"


def comparison(names: Sequence[str], histories: Sequence[Sequence[Mapping[str, str]]]) -> bytes:
    """Return a page with the curves of runs, whose histories are given, side by side on the same scales."""
    all_charts = charts.side_by_side(names, histories)
    rows = [
        html("section", html("h2", title), html("div", charts.figures(row), class_="columns"))
        for title, row in all_charts
    ]
    nothing = None if all_charts else html("p", "These runs have no history yet.")
    body = [
        html("header", html("p", html("a", "All runs", href="/"), class_="brand"), html("h1", "Two runs")),
        html("main", html("p", user(names[0]), " and ", user(names[1])), nothing, *rows),
        data("charts", [chart for _, row in all_charts for chart in row]),
    ]
    return document("Two runs: minigan", *body, written=time.time())


def problem(title: str, text: str) -> bytes:
    """Return a page that says what is wrong."""
    body = html("main", html("h1", title), html("p", text), html("p", html("a", "All runs", href="/")))
    return document(title, join(body))
