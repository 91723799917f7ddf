"""Build HTML from text that may contain anything, and put a page into one file.

    html("p", "5 < 6, written by ", user(name), class_="note")      # every text is escaped

A page runs only its own script and loads nothing: its content security policy names the SHA-256 hash
of the script and forbids all else, so text that looks like a script could not run even if it were not
escaped. uPlot (https://github.com/leeoniya/uPlot, MIT licence) draws the curves, and is part of the script.
"""

import base64
import functools
import hashlib
import html as standard
import json
import math
import re
from importlib import resources
from typing import Any

FORBIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # in HTML, and what UTF-8 cannot encode


class Html(str):
    """Text that is HTML already. All other text is escaped."""


def escape(value: Any) -> Html:
    """Return a value as HTML: escaped, unless it is `Html`. Characters that HTML forbids are replaced."""
    if isinstance(value, Html):
        return value
    return Html(standard.escape(_printable(str(value))))


def _printable(text: str) -> str:
    """Return the text with the replacement character for control characters, and for halves of a character."""
    return FORBIDDEN.sub("\ufffd", text)


def join(*parts: Any, between: str = "") -> Html:
    """Return the parts, escaped, as one piece of HTML. Parts that are None are left out."""
    return Html(between.join(escape(part) for part in parts if part is not None))


NOTHING = "'none'"  # where a page may read from
VOID = {"img", "input", "meta", "br", "hr", "link"}  # elements without an end


def html(name: str, /, *children: Any, **attributes: Any) -> Html:
    """Return an element. `class_` and `for_` are the attributes class and for, and `data_x` is data-x.

    An attribute that is True has no value, and one that is None or False is left out.
    """
    found = []
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            found.append(f" {key}")
        elif value is not None and value is not False:
            found.append(f' {key}="{escape(str(value))}"')
    start = f"<{name}{''.join(found)}>"
    return Html(start) if name in VOID else Html(f"{start}{join(*children)}</{name}>")


def user(text: Any) -> Html:
    """Return a name that somebody chose. Its direction of writing does not change that of the text around it."""
    return html("bdi", text)


def table(head: list[Any], rows: list[list[Any]], caption: str = "", **attributes: Any) -> Html:
    """Return a table. The first cell of each row is its heading."""
    named = html("caption", caption) if caption else None
    top = html("thead", html("tr", *(html("th", cell, scope="col") for cell in head)))
    body = [html("tr", html("th", first, scope="row"), *(html("td", cell) for cell in rest)) for first, *rest in rows]
    return html(
        "div",
        html("table", named, top, html("tbody", *body)),
        class_="scroll",
        tabindex=0,
        role="region",
        aria_label=caption or "table",
        **attributes,
    )


def details(summary: Any, *children: Any, **attributes: Any) -> Html:
    """Return a part that opens when its summary is chosen."""
    return html("details", html("summary", summary), *children, **attributes)


def data(name: str, value: Any) -> Html:
    """Return a value for the script of the page, as JSON in an element with this id. NaN becomes null."""
    text = json.dumps(_finite(value), separators=(",", ":"), ensure_ascii=True)
    # In a script element, "</script" and "<!--" would have a meaning.
    text = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return Html(f'<script type="application/json" id="{escape(name)}">{text}</script>')


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def picture(content: bytes, kind: str) -> str:
    """Return a picture as a URL that contains it. `kind` is png, jpeg or svg+xml."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


@functools.cache
def asset(name: str) -> str:
    """Return a file of this package as text."""
    return resources.files("minigan.report.page").joinpath(name).read_text(encoding="utf-8")


@functools.cache
def script() -> str:
    """Return the script of all pages."""
    return asset("uPlot.iife.min.js") + "\n" + asset("page.js")


@functools.cache
def policy(connect: str = NOTHING) -> str:
    """Return the content security policy of a page. `connect` is the source that its script may read from."""
    digest = base64.b64encode(hashlib.sha256(script().encode()).digest()).decode()
    pictures = "data:" if connect == NOTHING else f"data: {connect}"
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src {pictures}; "
        f"connect-src {connect}; base-uri 'none'; form-action 'self'"
    )


def document(title: str, *body: Any, state: str = "", written: float = 0.0, connect: str = NOTHING) -> bytes:
    """Return a page as one file. `state` says what the run does, and `written` when, in seconds since 1970.

    In the state "running", the page loads itself again from time to time.
    """
    again = html("noscript", html("meta", http_equiv="refresh", content="20")) if state == "running" else None
    head = html(
        "head",
        html("meta", charset="utf-8"),
        html("meta", http_equiv="Content-Security-Policy", content=policy(connect)),
        html("meta", name="viewport", content="width=device-width, initial-scale=1"),
        html("meta", name="color-scheme", content="light dark"),
        html("meta", name="minigan-state", content=state) if state else None,
        html("title", title),
        html("link", rel="icon", href="data:,"),
        again,
        Html(f"<style>{asset('uPlot.min.css')}{asset('page.css')}</style>"),
    )
    end = Html(f"<script>{script()}</script>")
    page = html("html", head, html("body", *body, end), lang="en", data_state=state, data_written=round(written, 3))
    return f"<!doctype html>\n{page}\n".encode()
