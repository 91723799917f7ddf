"""A real browser for the tests of pages: Debian's chromium, driven by playwright, with axe-core from its package.

The fixture `chromium` of conftest.py gives the browser, and skips the test where there is none. `opened` opens a page
and fails on exit if something happened that must not; `Watched` notes it.
"""

import contextlib
import importlib.util
import shutil
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
program = next(filter(None, map(shutil.which, PROGRAMS)), None)
lacking = [name for name in ("playwright", "axe_playwright_python") if importlib.util.find_spec(name) is None]
MISSING = (
    "no browser: apt-get install chromium, and pip install 'minigan[browser]'" if program is None or lacking else ""
)
needed = pytest.mark.skipif(bool(MISSING), reason=MISSING)

PATIENCE = 180_000  # milliseconds that a page may take for anything, because the machine may be busy


@contextlib.contextmanager
def launched() -> Iterator[Any]:
    """Start chromium without a window. Gives None if chromium, playwright or axe-core is missing."""
    if MISSING:
        yield None
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def opened(browser: Any, path: Path, **context: Any) -> Iterator[Any]:
    """Open a file. On exit, fail if the console had an error, or if a request left the file.

    `context` are options of playwright's `new_context`, such as viewport and color_scheme.
    """
    with browser.new_context(**context) as made:
        made.set_default_timeout(PATIENCE)
        page, problems = made.new_page(), []
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: problems.append(request.url) if not own(request.url, path) else None)
        page.goto(path.as_uri())
        yield page
        assert problems == []


def own(url: str, path: Path) -> bool:
    """Return whether a request stays in the file."""
    return url.split("#")[0] == path.as_uri() or url.startswith(("data:", "blob:"))


def axe() -> str:
    """Return the source of axe-core."""
    return resources.files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")


def violations(page) -> list[str]:
    """Return what axe-core finds in an open page: rule, place, and why, one line each."""
    page.evaluate(axe())
    found = page.evaluate("axe.run()")
    return [
        f"{rule['id']} at {' '.join(map(str, node['target']))}: {node['failureSummary']}"
        for rule in found["violations"]
        for node in rule["nodes"]
    ]


class Watched:
    """A page of a browser, with what went wrong in it and what it asked for."""

    def __init__(self, context):
        self.page = context.new_page()
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda said: self.problems.append(f"{said.type}: {said.text}"))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.problems.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("requestfailed", lambda request: self.problems.append(f"failed: {request.url}"))

    def outside(self, *allowed: str) -> list[str]:
        """Return the addresses that were asked for and do not begin with one of these, or with data:."""
        return [url for url in self.requests if not url.startswith(("data:", *allowed))]
