"""The pages in a real browser: no error, no request, keys and sliders work, and axe-core finds no violation."""

import importlib.util
import re
import threading
import time
from pathlib import Path

import browser
import numpy as np
import pytest

from minigan import datasets, runs
from minigan.cli import main
from minigan.runs import page as page_module
from minigan.runs import run as run_module
from minigan.training import Config

pytestmark = browser.needed
EVIL = "<img src=x onerror=alert(1)> \"'& 🐧 עברית"
SCHEMES = ["light", "dark"]


@pytest.fixture(scope="module")
def chromium():
    """The browser, for all tests of this file."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser.program, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def opened(chromium):
    """A function that opens an address, and returns a watched page."""
    contexts = []

    def open_page(
        address: str, scheme: str = "light", width: int = 1200, height: int = 900, **options
    ) -> browser.Watched:
        context = chromium.new_context(color_scheme=scheme, viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        watched = browser.Watched(context)
        watched.page.goto(address)
        return watched

    yield open_page
    for context in contexts:
        context.close()


def begin(out: Path, preset: str, **options):
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1), dtype=np.uint8)
    data = (
        datasets.Images(images, np.arange(60) % 3, "few", class_names=[EVIL, "b", "c"]) if preset == "digits" else None
    )
    return runs.begin(Config.of(preset, **{"batch": 8, "epochs": 3, "backend": "numpy"} | options), out, data=data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with runs of images, points and, where pandas is, a table, and one that still runs."""
    root = tmp_path_factory.mktemp("runs")
    runs.play(begin(root / EVIL, "digits"), root / EVIL, quiet=True)
    points = dict(data="ring", data_options={"points": 200}, batch=64)
    runs.play(begin(root / "points", "points", **points), root / "points", quiet=True)
    if importlib.util.find_spec("pandas"):
        runs.play(begin(root / "table", "table", data="penguins", batch=64), root / "table", quiet=True)
    running = begin(root / "running", "digits")
    page_module.Page(running, root / "running", run_module.CONTENTS).write("running")
    assert main(["trace", str(root / "points"), "--backend", "numpy"]) == 0
    return root


def address(folder: Path, name: str = EVIL, file: str = "report.html") -> str:
    return (folder / name / file).as_uri()


FILES = [(EVIL, "report.html"), ("points", "report.html"), ("table", "report.html"), ("running", "report.html"),
         ("points", "trace.html")]  # fmt: skip
IDS = ["images", "points", "table", "running", "trace"]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("name", "file"), FILES, ids=IDS)
def test_a_page_has_no_error_makes_no_request_and_axe_finds_no_violation(opened, folder, name, file, scheme):
    if not (folder / name).exists():
        pytest.skip("no pandas")
    watched = opened(address(folder, name, file), scheme)
    watched.page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    watched.page.wait_for_timeout(300)
    assert browser.violations(watched.page) == []
    assert watched.problems == [] and watched.outside(address(folder, name, file)) == []
    assert watched.page.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")


def test_axe_finds_a_violation(opened, tmp_path):
    (tmp_path / "x.html").write_text('<html><title>x</title><img src="data:,"><p style="color:#aaa">pale</p></html>')
    found = browser.violations(opened((tmp_path / "x.html").as_uri()).page)
    assert {rule.partition(" ")[0] for rule in found} >= {"image-alt", "color-contrast", "html-has-lang"}


def test_a_script_in_a_page_cannot_run_even_if_it_is_not_escaped(opened, folder, tmp_path):
    content = (folder / EVIL / "report.html").read_text(encoding="utf-8")
    evil = '<script>document.title = "run"</script><img alt="x" src="data:," onerror="document.title = \'run\'">'
    (tmp_path / "x.html").write_text(content.replace("</footer>", f"</footer>{evil}"), encoding="utf-8")
    watched = opened((tmp_path / "x.html").as_uri())
    watched.page.wait_for_timeout(200)
    assert watched.page.title() != "run" and any("Content Security Policy" in text for text in watched.problems)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_phone_scrolls_in_one_direction(opened, folder, scheme):
    for name, file in FILES:
        if (folder / name).exists():
            watched = opened(address(folder, name, file), scheme, 360, 740, has_touch=True)
            assert watched.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (name, file)


def test_the_slider_shows_the_epochs(opened, folder):
    page = opened(address(folder)).page
    image, slider = page.locator("#grid"), page.locator("#epoch")
    newest = image.get_attribute("src")
    assert page.locator("#when").inner_text() == "newest"
    seen = []
    slider.focus()
    for _ in range(4):
        page.keyboard.press("ArrowLeft")
        seen.append((page.locator("#when").inner_text(), image.get_attribute("src")))
    assert [text for text, _ in seen] == ["epoch 3", "epoch 2", "epoch 1", "epoch 0"]
    assert len({source for _, source in seen} | {newest}) == 5
    assert image.get_attribute("alt") == "samples after epoch 0" and slider.get_attribute("aria-valuetext") == "epoch 0"
    page.keyboard.press("End")
    assert image.get_attribute("src") == newest
    page.get_by_role("button", name="Play").click()
    page.locator("#when", has_text="epoch 2").wait_for()
    page.locator("#when", has_text="newest").wait_for()


def test_the_keys_step_through_the_batch(opened, folder):
    page = opened(address(folder)).page
    shown = page.locator(".step:visible")
    count = page.locator(".step").count()
    assert shown.count() == 1 and "Step 1 of" in shown.inner_text() and count > 60
    assert page.get_by_role("button", name="Back").is_disabled()
    titles = []
    for _ in range(5):
        page.keyboard.press("ArrowRight")
        titles.append(shown.locator("h3").inner_text())
    assert f"Step 6 of {count}" in shown.inner_text() and len(set(titles)) > 3
    page.keyboard.press("ArrowLeft")
    assert f"Step 5 of {count}" in shown.inner_text()
    page.get_by_role("button", name="Next").click()
    page.locator(".journey input[type=range]").fill(str(count - 1))
    assert f"Step {count} of {count}" in shown.inner_text() and "optimizer" in shown.inner_text()
    assert page.get_by_role("button", name="Next").is_disabled()
    page.locator("#chapter").select_option(label="3. D judges fakes")
    assert "D judges fakes" in shown.inner_text()
    marked = page.locator(".line.now")
    assert marked.count() == 1 and "fake_logits, fake_cache = D.forward(fake" in marked.inner_text()
    page.locator(".bar-of-steps i").nth(1).click()
    assert f"Step 2 of {count}" in shown.inner_text()


def test_without_a_script_every_step_and_every_table_is_there(opened, folder):
    page = opened(address(folder), java_script_enabled=False).page
    assert page.locator(".step:visible").count() == page.locator(".step").count() > 60
    assert page.locator("#grid").is_visible() and page.locator("figure.chart table").count() >= 3


def test_the_arrow_keys_read_a_curve(opened, folder):
    page = opened(address(folder)).page
    plot = page.locator(".plot").first
    plot.focus()
    page.keyboard.press("Home")
    said = page.locator(".said").first
    assert re.match(r"epoch 0\.\d+: discriminator [-\d.]+, generator [-\d.]+$", said.inner_text())
    before = said.inner_text()
    page.keyboard.press("ArrowRight")
    assert said.inner_text() != before
    assert "Step 1 of" in page.locator(".step:visible").inner_text()  # these keys are those of the curve
    plot.hover()
    assert re.search(r"discriminator:?\s*[-\d.]+", plot.locator(".u-legend").inner_text())


def test_a_page_of_a_running_training_loads_itself_again_and_stops_at_the_end(opened, tmp_path):
    out = tmp_path / "run"
    training = begin(out, "digits")
    written = page_module.Page(training, out, run_module.CONTENTS)
    written.write("running")
    page = opened(address(tmp_path, "run")).page
    page.clock.install()
    page.reload()
    page.locator("details summary").first.click()
    page.evaluate("scrollTo(0, 150)")
    assert page.locator(".badge.running").is_visible()
    list(training.records())
    written.write("finished")
    page.clock.fast_forward(15_000)
    page.locator(".badge.finished").wait_for()
    assert page.evaluate("scrollY") > 50
    loads = []
    page.on("load", lambda _: loads.append(1))
    page.clock.fast_forward(60_000)
    page.wait_for_timeout(200)
    assert loads == []


def test_a_page_whose_training_was_killed_says_so(opened, tmp_path, monkeypatch):
    out = tmp_path / "run"
    written = page_module.Page(begin(out, "digits"), out, run_module.CONTENTS)
    monkeypatch.setattr(page_module.time, "time", lambda: 1e9)
    written.write("running")
    page = opened(address(tmp_path, "run")).page
    page.clock.install()
    page.reload()
    page.clock.fast_forward(11_000)
    page.locator("#stale", has_text="may have been interrupted").wait_for()


# ---------------------------------------------------------------- minigan web


@pytest.fixture(scope="module")
def server(folder):
    """The address of `minigan web` for the folder."""
    uvicorn = pytest.importorskip("uvicorn", reason="minigan web needs the extra web: pip install -e '.[web]'")
    from minigan.web import app

    server = uvicorn.Server(uvicorn.Config(app(folder), port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    server.should_exit = True
    thread.join(10)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("path", ["", "compare?run=points&run=running", "?q=nothing"])
def test_the_live_page_has_no_error_and_axe_finds_no_violation(opened, server, path, scheme):
    watched = opened(server + path, scheme)
    watched.page.wait_for_load_state("networkidle")
    assert browser.violations(watched.page) == []
    assert watched.problems == [] and watched.outside(server) == []


def test_runs_are_filtered_opened_and_compared(opened, server, folder):
    watched = opened(server)
    page = watched.page
    assert page.locator(".runs li").count() == len(list(folder.iterdir()))
    assert page.get_by_text("<img src=x onerror").first.is_visible()
    compare = page.get_by_role("button", name="Compare")
    assert compare.is_disabled()
    page.get_by_label("compare points").check()
    page.get_by_label(f"compare {EVIL}").check()
    assert page.get_by_label("compare running").is_disabled()
    compare.click()
    page.wait_for_selector(".plot canvas")
    assert page.locator(".plot canvas").count() == page.locator(".plot").count() >= 6
    page.go_back()
    page.get_by_label("Name, preset or data").fill("points")
    page.get_by_role("button", name="Filter").click()
    page.wait_for_url("**q=points**")
    assert page.locator(".runs li").count() == 1
    page.get_by_role("link", name="points").click()
    page.wait_for_selector(".plot canvas")
    assert "points" in page.title() and watched.problems == []


def test_the_list_is_live(opened, server, folder):
    page = opened(server).page
    page.clock.install()
    page.reload()
    (folder / "new").mkdir()
    (folder / "new" / "config.json").write_text('{"preset": "new", "kind": "images", "data": "mnist"}')
    try:
        page.clock.fast_forward(6000)
        page.get_by_label("compare new").wait_for()
    finally:
        (folder / "new" / "config.json").unlink()
        (folder / "new").rmdir()
