"""A real browser for the tests of pages: Debian's chromium, driven by playwright.

The fixture `chromium` of conftest.py gives the browser, and skips the test where there is none. `opened` opens a page
and notes what must not happen; `violations` are those that axe-core finds.
"""

import contextlib
import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MISSING = "no browser: install chromium (apt-get install chromium) and pip install 'minigan[browser]'"
PATIENCE = 180_000  # milliseconds that a page may take for anything, because the machine may be busy


@contextlib.contextmanager
def launched() -> Iterator[Any]:
    """Start chromium without a window. Gives None if chromium, playwright or axe-core is missing."""
    program = shutil.which("chromium")
    if program is None or not all(importlib.util.find_spec(name) for name in ("playwright", "axe_playwright_python")):
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


def violations(page: Any) -> list[str]:
    """Return the rules of axe-core that the page breaks, each with the first element that does."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [f"{each['id']}: {each['nodes'][0]['html'][:200]}" for each in found]
