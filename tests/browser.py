"""A browser for the tests: Debian's chromium, driven by playwright, with axe-core from its package."""

import importlib.util
import shutil
from importlib import resources

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
program = next(filter(None, map(shutil.which, PROGRAMS)), None)
lacking = [name for name in ("playwright", "axe_playwright_python") if importlib.util.find_spec(name) is None]
MISSING = "no browser: apt-get install chromium, and pip install -e '.[dev]'" if program is None or lacking else ""
needed = pytest.mark.skipif(bool(MISSING), reason=MISSING)


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
