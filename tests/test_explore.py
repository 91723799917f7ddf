"""The page of `minigan explore` shows in a browser what the generator computes in Python, and all its controls work."""

import itertools
import json
import re
from pathlib import Path

import browser
import numpy as np
import pytest
from generators import IMAGES, generator_of, noise, translated

import minigan
from minigan import export
from minigan.cli import main
from minigan.errors import UserError
from minigan.report import explorer
from minigan.runs.latent import spherical
from minigan.training import checkpoint

LATENTS = 20
END_OF_TITLE = "</title><img src=x onerror=throw(1)>&lt;"
NASTY = [
    '<script>throw "x"</script>',
    '"><img src=x onerror=throw(1)>',
    "\u202e\N{HEBREW LETTER SHIN}\N{HEBREW LETTER LAMED}\N{SMILING FACE WITH SUNGLASSES}'&amp;",
]


END = explorer.Scrubber(last="the end")


def write_page(folder: Path, found: export.Exported, scrubber=END, name="a run") -> Path:
    """Write the page of a generator, and return its path."""
    path = folder / "explorer.html"
    path.write_text(explorer.page(found, name, "a line", scrubber), encoding="utf-8")
    return path


def settled(page) -> None:
    """Wait until all pictures of the page are drawn."""
    page.wait_for_selector("main[aria-busy=false]")


def weights_of(found: export.Exported) -> int:
    """The bytes of the weights in memory."""
    return sum(value.nbytes for value in found.arrays().values())


# ---------------------------------------------------------------- what the generator computes


@pytest.mark.parametrize(("name", "classes"), [*((name, 3) for name in IMAGES if name != "upsample"), ("upsample", 0)])
def test_the_pixels_of_the_page_are_those_of_python(name, classes, chromium, tmp_path):
    G, found = translated(name, classes)
    z, labels = noise(G, LATENTS), np.arange(LATENTS) % classes if classes else None
    images = found.codec.decode(G.forward(z, train=False, **({"labels": labels} if classes else {}))[0])
    assert ((images > 5) & (images < 250)).mean() > 0.5 and images.std() > 15  # where an error would be seen
    path = write_page(tmp_path, found)
    assert path.stat().st_size <= 350_000 + weights_of(found)
    with browser.opened(chromium, path) as page:
        page.evaluate("tasks.clear()")  # the other pictures of the page need not be drawn
        code = "([z, label]) => Array.from(view.pixels(generate(Float32Array.from(z), label)))"
        for i in range(LATENTS):
            computed = page.evaluate(code, [z[i].tolist(), 0 if labels is None else int(labels[i])])
            assert np.abs(np.array(computed).reshape(found.sample_shape) - images[i].astype(int)).max() <= 1


@pytest.mark.parametrize(
    ("name", "classes"), [("others", 0), ("points", 3), ("table", 3), ("waves-gru", 3), ("waves-conv", 0)]
)
def test_other_generators_compute_in_the_page_what_they_compute_in_python(
    name, classes, chromium, tmp_path, monkeypatch
):
    _, found = translated(name, classes)
    if name == "table":  # rows of features alone have no page
        monkeypatch.setattr(type(found.codec), "view", "table")
        monkeypatch.setattr(explorer, "table_columns", lambda found: [])
    z = noise(generator_of(name, classes)[0], LATENTS)
    uniform = np.random.default_rng(5).uniform(0.1, 0.9, (LATENTS, found.uniform)).astype(np.float32)
    labels = np.arange(LATENTS) % classes if classes else None
    want = found.run(z, labels, uniform if found.uniform else None)
    program = export.javascript.program(found)
    (tmp_path / "page.html").write_text(f"<!doctype html><link rel=icon href=data:,><script>{program}</script>")
    arrays = {key: value.reshape(-1).tolist() for key, value in found.arrays().items()}
    code = """([arrays, zs, labels, uniforms]) => {
      const W = {};
      for (const key in arrays) W[key] = Float32Array.from(arrays[key]);
      const generate = network(W);
      return zs.map((z, i) => Array.from(generate(Float32Array.from(z), labels[i], Float32Array.from(uniforms[i]))));
    }"""
    with browser.opened(chromium, tmp_path / "page.html") as page:
        given = [arrays, z.tolist(), [0] * LATENTS if labels is None else labels.tolist(), uniform.tolist()]
        computed = np.array(page.evaluate(code, given)).reshape(want.shape)
    np.testing.assert_allclose(computed, want, rtol=0, atol=2e-5)


def test_a_digit_takes_at_most_8_ms(chromium, tmp_path):
    """The shortest of many times, because other programs may run."""
    _, found = translated("digits", 10)
    with browser.opened(chromium, write_page(tmp_path, found)) as page:
        settled(page)
        assert min(page.evaluate("Array.from({ length: 60 }, () => timed(2))")) <= 8


# ---------------------------------------------------------------- the controls


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """A page with labels and a scrubber."""
    _, found = translated("digits", 10)
    arrays = found.arrays()
    earlier = {key: 0.5 * value for key, value in arrays.items()}
    scrubber = explorer.Scrubber([("epoch 1", earlier), ("epoch 2", earlier)], "epoch 3")
    return write_page(tmp_path_factory.mktemp("digits"), found, scrubber, "digits")


def pixels(page, selector: str = "#sample > canvas") -> list[int]:
    """The pixels of a canvas."""
    return page.evaluate(
        "(s) => { const c = document.querySelector(s); "
        "return Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data) }",
        selector,
    )


def test_sliders_keys_dragging_and_buttons_move_the_sample(digits, chromium):
    with browser.opened(chromium, digits, viewport={"width": 1280, "height": 900}) as page:
        settled(page)
        seen = [pixels(page)]

        def changed(z: bool = True) -> list[float]:
            """The new place of the sample, whose picture must be another one."""
            now = pixels(page)
            assert now not in seen
            seen.append(now)
            settled(page)
            return page.evaluate("Array.from(state.z)")

        start = page.evaluate("Array.from(state.z)")
        slider = page.locator("#coordinates input").nth(3)
        slider.focus()
        for _ in range(100):
            page.keyboard.press("ArrowRight")
        moved = changed()
        assert moved[3] == pytest.approx(start[3] + 1, abs=0.02) and moved[:3] == start[:3] and moved[4:] == start[4:]

        box = page.locator("#pad").bounding_box()
        page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 0.25 * box["height"])
        page.mouse.down()
        changed()
        page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 0.6 * box["height"], steps=4)
        page.mouse.up()
        changed()
        place = page.evaluate("[dot(state.z, state.u), dot(state.z, state.v)]")
        assert place == pytest.approx([1.5, -0.6], abs=0.05)

        page.locator("#pad").focus()
        page.keyboard.press("Shift+ArrowUp")
        page.keyboard.press("ArrowLeft")
        changed()
        assert page.evaluate("[dot(state.z, state.u), dot(state.z, state.v)]") == pytest.approx([1.4, -0.1], abs=0.05)

        page.get_by_role("button", name="class 4", exact=True).click()
        changed()
        assert page.locator("#labels [aria-pressed=true]").inner_text() == "class 4"

        page.locator("#distance").focus()
        page.keyboard.press("Home")
        changed()
        assert page.evaluate("norm(state.z)") == pytest.approx(0, abs=0.01)
        page.get_by_role("button", name="New sample").click()
        changed()
        assert "Generated image of class 4" in page.locator("#sample > canvas").get_attribute("aria-label")

        page.locator("#scrubber").focus()
        page.keyboard.press("Home")
        changed()
        assert page.locator("#scrubber-text").inner_text() == "epoch 1"


def test_a_walk_leads_from_a_to_b(digits, chromium):
    with browser.opened(chromium, digits) as page:
        settled(page)
        page.get_by_role("button", name="Take the sample as A").click()
        a = page.evaluate("Array.from(state.z)")
        page.get_by_role("button", name="New sample").click()
        page.get_by_role("button", name="Take the sample as B").click()
        b = page.evaluate("Array.from(state.z)")
        at = {}
        for path in ("linear", "spherical"):
            page.get_by_label(path, exact=True).check()
            for share, name in ((0, "start"), (0.5, "middle"), (1, "end")):
                page.locator("#step").evaluate(
                    "(input, v) => { input.value = v; input.dispatchEvent(new Event('input')) }", share
                )
                at[path, name] = np.array(page.evaluate("Array.from(state.z)"))
            np.testing.assert_allclose(at[path, "start"], a, atol=1e-5)
            np.testing.assert_allclose(at[path, "end"], b, atol=1e-5)
        np.testing.assert_allclose(at["linear", "middle"], (np.array(a) + b) / 2, atol=1e-5)
        want = spherical(np.array(a), np.array(b), np.array([0.5]))[0]
        np.testing.assert_allclose(at["spherical", "middle"], want, atol=1e-5)
        assert np.linalg.norm(at["spherical", "middle"]) > 1.2 * np.linalg.norm(at["linear", "middle"])


def test_the_grid_is_saved_as_png(digits, chromium, tmp_path):
    from PIL import Image

    with browser.opened(chromium, digits, accept_downloads=True) as page:
        settled(page)
        with page.expect_download() as download:
            page.get_by_role("region", name="Many samples").get_by_role("button", name="Save as PNG").click()
        download.value.save_as(tmp_path / "grid.png")
        with Image.open(tmp_path / "grid.png") as picture:
            assert picture.size == (10 * (3 * 28 + 2) + 2, 5 * (3 * 28 + 2) + 2)
            assert len(set(picture.convert("L").tobytes())) > 50


@pytest.fixture(scope="module")
def pages(digits, tmp_path_factory) -> dict[str, Path]:
    """A page of each kind of data."""
    found = {"digits": digits}
    folder = tmp_path_factory.mktemp("pages")
    gan = minigan.GAN(data="ring", steps=5, backend="numpy", verbose=0).fit()
    gan.explore(folder / "ring.html")
    found["points"] = folder / "ring.html"
    if table := table_of(folder):
        found["table"] = table
    rng = np.random.default_rng(0)
    series = rng.normal(size=(60, 9, 2)).cumsum(axis=1)
    gan = minigan.GAN("waves", steps=3, batch=16, backend="numpy", verbose=0).fit(series, np.repeat(NASTY, 20))
    gan.explore(folder / "series.html")
    found["series"] = folder / "series.html"
    return found


def table_of(folder: Path) -> Path | None:
    """The page of a table with texts that look like elements, or None without pandas."""
    try:
        import pandas as pd
    except ImportError:
        return None
    rng = np.random.default_rng(0)
    columns = {NASTY[0]: rng.choice(NASTY, 200), "n": np.where(rng.random(200) < 0.3, np.nan, rng.normal(size=200))}
    columns["when"] = pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 900, 200), unit="D")
    gan = minigan.GAN("table", label=NASTY[0], steps=3, batch=50, backend="numpy", verbose=0).fit(pd.DataFrame(columns))
    gan.explore(folder / "table.html")
    return folder / "table.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["digits", "points", "table", "series"])
def test_axe_finds_nothing_and_nothing_is_wider_than_a_phone(kind, scheme, pages, chromium):
    if kind not in pages:
        pytest.skip("pandas is not installed: pip install 'minigan[tables]'")
    with browser.opened(chromium, pages[kind], viewport={"width": 390, "height": 800}, color_scheme=scheme) as page:
        settled(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert browser.violations(page) == []
        page.set_viewport_size({"width": 1300, "height": 900})
        assert browser.violations(page) == []


def test_rows_of_a_table_have_values_and_conditions(pages, chromium, tmp_path):
    if "table" not in pages:
        pytest.skip("pandas is not installed: pip install 'minigan[tables]'")
    with browser.opened(chromium, pages["table"], accept_downloads=True) as page:
        settled(page)
        for name in NASTY:  # shown as they are, and not executed
            page.locator("#labels button").filter(has_text=name).click()
            values = page.locator("#sample td").all_inner_texts()
            assert values[0] == name and re.fullmatch(r"missing|-?\d+\.\d+(e-\d+)?|0", values[1])
            assert re.fullmatch(r"202\d-\d\d-\d\d", values[2])
        with page.expect_download() as download:
            page.get_by_role("button", name="Save as CSV").click()
        assert len(download.value.path().read_text().splitlines()) == 21


def test_curves_have_the_values_lengths_and_gaps_of_the_series(chromium, tmp_path):
    G, found = translated("waves")
    z = noise(G, LATENTS)
    want = found.codec.decode(G.forward(z, train=False)[0])  # (N, T, 3)
    assert np.isnan(want).any(axis=(1, 2)).sum() > LATENTS / 2
    with browser.opened(chromium, write_page(tmp_path, found)) as page:
        settled(page)
        for i in range(LATENTS):
            values = page.evaluate("(z) => view.values(generate(Float32Array.from(z)))", z[i].tolist())
            np.testing.assert_allclose(np.array(values, float).T, want[i], rtol=0, atol=0.0101)  # one of 2 decimals
        page.get_by_role("button", name="New sample").click()
        label = page.locator("#sample canvas").get_attribute("aria-label")
        assert re.search(r"Generated series, .* [2-7] steps\. <level>: .*; speed: .* between", label)
        assert page.evaluate("new Set(view.main.getContext('2d').getImageData(0, 0, 800, 500).data).size") > 20


def test_texts_of_users_are_text(chromium, tmp_path):
    G, codec = generator_of("digits", 3)
    found = export.exported(G, codec, NASTY, {})
    with browser.opened(chromium, write_page(tmp_path, found, name=END_OF_TITLE)) as page:
        settled(page)
        assert page.locator("#labels button").all_inner_texts() == NASTY
        assert (
            page.locator("h1").inner_text() == f"Explore {END_OF_TITLE}" and page.title() == f"Explore {END_OF_TITLE}"
        )


# ---------------------------------------------------------------- the page of a run


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run whose kept checkpoints have the epochs 1 to 12, and weights of their own."""
    folder = tmp_path_factory.mktemp("runs") / "<i>mine"
    images = np.random.default_rng(0).integers(256, size=(64, 8, 8), dtype=np.uint8)
    gan = minigan.GAN("digits", epochs=1, batch=16, backend="numpy", verbose=0).fit(images, np.arange(64) % 3)
    gan.save(folder)
    arrays, facts = checkpoint.load(folder / "checkpoint.npz")
    for epoch in range(1, 13):
        changed = {name: value * epoch if name == "average.1.w" else value for name, value in arrays.items()}
        path = folder / "checkpoints" / f"epoch-{epoch:04d}.npz"
        checkpoint.save(path, changed, facts | {"epoch": epoch, "step": 4 * epoch})
    checkpoint.save(folder / "checkpoint.npz", arrays, facts | {"epoch": 12, "step": 48})
    return folder


def facts_of(path: Path) -> dict:
    """The facts in a page."""
    return json.loads(re.search(r'id="facts">(.*?)</script>', path.read_text(encoding="utf-8"))[1])


def halves(text: str, name: str, found: dict) -> np.ndarray:
    """The array of that name in the weights of a checkpoint in a page."""
    import base64

    numbers, at = np.frombuffer(base64.b64decode(text), "<f2"), 0
    for key, size in found["arrays"]:
        if key == name:
            return numbers[at : at + size].astype(np.float32)
        at += size
    raise KeyError(name)


def test_the_scrubber_has_evenly_spaced_checkpoints_that_fit(run, monkeypatch, capsys):
    path = run / "explorer.html"
    assert main(["explore", str(run)]) == 0
    assert path.resolve().as_uri() in capsys.readouterr().out
    epochs = [int(re.match(r"epoch (\d+)", text)[1]) for text in facts_of(path)["checkpoints"]]
    one = len(re.search(r'id="weights-0">(.*?)</script>', path.read_text())[1])
    assert len(epochs) == min(11, 1_000_000 // one) and epochs[0] == 1 and epochs[-1] == 11
    monkeypatch.setattr(explorer, "FOR_CHECKPOINTS", int(3.5 * one))
    assert main(["explore", str(run)]) == 0
    found = facts_of(path)
    assert found["checkpoints"] == ["epoch 1, step 4", "epoch 6, step 24", "epoch 11, step 44"]
    assert found["last"] == "epoch 12, step 48" and found["noScrubber"] == ""
    w = checkpoint.load(run / "checkpoint.npz")[0]["average.1.w"].reshape(-1)
    for i, epoch in enumerate((1, 6, 11)):
        text = re.search(rf'id="weights-{i}">(.*?)</script>', path.read_text())[1]
        np.testing.assert_allclose(halves(text, "1.w", found), epoch * w, rtol=1e-3, atol=1e-6)
    monkeypatch.setattr(explorer, "FOR_CHECKPOINTS", int(1.5 * one))
    assert main(["explore", str(run)]) == 0
    found = facts_of(path)
    assert found["checkpoints"] == [] and "fewer than two checkpoints of this size fit into 1 MB" in found["noScrubber"]


def test_a_page_without_a_scrubber_says_why(chromium, tmp_path):
    _, found = translated("digits", 3)
    with browser.opened(chromium, write_page(tmp_path, found, explorer.Scrubber((), "end", "Because of x."))) as page:
        settled(page)
        assert not page.locator("#scrubber").is_visible() and page.get_by_text("Because of x.").is_visible()


def test_a_damaged_checkpoint_is_left_out(run, monkeypatch):
    damaged = run / "checkpoints" / "epoch-0001.npz"
    before = damaged.read_bytes()
    damaged.write_bytes(before[: len(before) // 2])
    assert main(["explore", str(run)]) == 0
    damaged.write_bytes(before)
    assert facts_of(run / "explorer.html")["checkpoints"][0].startswith("epoch 2")


def test_pages_are_refused_where_they_show_nothing(run, tmp_path, capsys):
    assert main(["explore", str(run), "--out", str(tmp_path / "x.txt")]) == 2
    assert "the page is written to a .html file" in capsys.readouterr().err
    _, found = translated("table", 3)  # whose codec has no columns
    with pytest.raises(UserError, match="got samples of 14: use `minigan export`"):
        explorer.page(found, "x", "x", explorer.Scrubber())


def test_a_table_of_many_long_texts_fits_into_the_page():
    pd = pytest.importorskip("pandas")
    from minigan.datasets import convert
    from minigan.datasets.tables import TableOptions

    rng = np.random.default_rng(0)
    columns = {f"c{i}": [f"{'long ' * 30}{k}" for k in rng.integers(900, size=2000)] for i in range(12)}
    columns |= {f"n{i}": rng.normal(size=2000) for i in range(40)}
    data = convert(pd.DataFrame(columns), None, "tables", TableOptions(), False)
    found = export.Exported([], [], 0, [], 0, data.codec, {})
    facts = explorer.table_columns(found)
    assert len(facts) == 52 and len(json.dumps(facts)) <= 1.2 * explorer.FOR_COLUMNS
    assert 0 < len(facts[0]["choices"]) < 900


# ---------------------------------------------------------------- pictures


def test_pictures_show_planes_walks_distances_and_nearest_images(run, tmp_path, capsys):
    out = tmp_path / "pictures"
    assert main(["explore", str(run), "--png", "--out", str(out), "--seed", "3"]) == 0
    assert {path.name for path in out.iterdir()} == {
        "plane.png",
        "walks.png",
        "distances.png",
    }  # the data are not there
    images, labels = np.random.default_rng(0).integers(256, size=(64, 8, 8), dtype=np.uint8), np.arange(64) % 3
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    assert main(["explore", str(run), "--png", "--out", str(out), "--data", str(tmp_path / "data.npz")]) == 0
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in out.iterdir())
    assert "nearest.png" in capsys.readouterr().out and len(list(out.iterdir())) == 4
    assert main(["explore", str(run), "--png", "--out", str(out), "--data", str(tmp_path / "none.npz")]) == 2


def test_pictures_of_points(tmp_path):
    minigan.GAN(data="ring", steps=5, backend="numpy", verbose=0).fit().save(tmp_path / "ring")
    assert main(["explore", str(tmp_path / "ring"), "--png"]) == 0
    assert len(list((tmp_path / "ring" / "explore").glob("*.png"))) == 3


def test_a_spherical_walk_keeps_the_distance(rng):
    a, b = rng.standard_normal((2, 50))
    a, b = 7 * a / np.linalg.norm(a), 7 * b / np.linalg.norm(b)
    walk = spherical(a, b, np.linspace(0, 1, 9))
    np.testing.assert_allclose(np.linalg.norm(walk, axis=1), 7)
    angles = [np.arccos(np.clip(p @ q / 49, -1, 1)) for p, q in itertools.pairwise(walk)]
    np.testing.assert_allclose(angles, angles[0])
    np.testing.assert_allclose(walk[[0, -1]], [a, b])
    np.testing.assert_allclose(spherical(a, a, np.array([0.3])), [a])
