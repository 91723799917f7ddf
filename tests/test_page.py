"""The page of a run: one file that loads nothing, when it is written, and what any text and any picture do to it.

Browsers open the pages in test_pages_in_browser.py.
"""

import base64
import hashlib
import io
import itertools
import json
import re
import shutil
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import minigan
from minigan import datasets, runs
from minigan.cli import main
from minigan.errors import UserError
from minigan.report import plots
from minigan.report.page import charts, pictures
from minigan.report.page import html as pages
from minigan.report.page.html import Html, data, document, html, join, user
from minigan.report.page.report import Report, page
from minigan.runs import compared
from minigan.runs import page as page_module
from minigan.runs import run as run_module
from minigan.training import Config, Training

EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&amp; 🐧 עברית \u202e\x00\ud800"


def images(count: int = 60, names: list[str] | None = None) -> datasets.Images:
    values = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)
    names = names or ["0", "1", "2"]
    return datasets.Images(values, np.arange(count) % len(names), "few", class_names=names)


def begin(out: Path | None, preset: str = "digits", data=None, **options) -> Training:
    config = Config.of(preset, **{"batch": 8, "epochs": 2, "backend": "numpy"} | options)
    return runs.begin(config, out, data=images() if data is None else data)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of a finished run."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    runs.play(begin(out), out, quiet=True)
    return out


class Elements(HTMLParser):
    """The elements of a page, as (name, attributes), and its text outside of scripts and styles."""

    def __init__(self, content: bytes):
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.text, self.inside = "", ""
        self.feed(content.decode("utf-8"))

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside not in ("script", "style"):
            self.text += data

    def of(self, *names: str) -> list[dict]:
        return [attributes for name, attributes in self.found if name in names]


def state_of(out: Path) -> str:
    return re.search(r'data-state="(\w*)"', (out / "report.html").read_text(encoding="utf-8"))[1]


# ---------------------------------------------------------------- any text


def test_text_is_escaped_in_elements_and_attributes():
    assert html("p", "<b>&\"'", title='"><script>') == (
        '<p title="&quot;&gt;&lt;script&gt;">&lt;b&gt;&amp;&quot;&#x27;</p>'
    )
    assert (
        html("input", value=1, disabled=True, hidden=False, for_="x", data_y=None)
        == '<input value="1" disabled for="x">'
    )
    assert join("<", Html("<br>"), None) == "&lt;<br>" and user("a\x00b\ud800") == "<bdi>a\ufffdb\ufffd</bdi>"


def test_data_for_the_script_cannot_end_its_element():
    text = data("x", {"a": "</script><!--<script>", "b": [float("nan"), float("inf"), 1.5]})
    assert text.count("<") == 2 and text.endswith("</script>")
    inside = text[text.index(">") + 1 : text.rindex("<")]
    assert json.loads(inside) == {"a": "</script><!--<script>", "b": [None, None, 1.5]}


def test_names_of_other_people_are_shown_and_never_executed(tmp_path):
    """Names of the run, of classes, and in warnings. The only elements are those of a page with plain names."""
    out = tmp_path / EVIL.replace("/", "_").replace("\x00", "").replace("\ud800", "")
    plain = tmp_path / "plain"
    for place, names in ((out, [EVIL, "b", "c"]), (plain, ["a", "b", "c"])):
        training = begin(place, data=images(names=names), epochs=1)
        runs.play(training, place, quiet=True)
        written = page_module.Page(training, place, run_module.CONTENTS)
        written.alarms = [EVIL if place is out else "a"]
        written.write("stopped", complete=True)
    own, other = (Elements((place / "report.html").read_bytes()) for place in (out, plain))
    assert [name for name, _ in own.found] == [name for name, _ in other.found]
    assert len(own.of("script")) == 3 and sum("type" not in attributes for attributes in own.of("script")) == 1
    assert not [name for attributes in own.found for name in attributes[1] if name.startswith("on")]
    for text in ("<script>alert(1)</script>", "🐧", "עברית"):
        assert text in own.text


def test_values_of_tables_are_escaped(tmp_path):
    pd = pytest.importorskip("pandas")
    evil = EVIL.replace("\x00", "").replace("\ud800", "")
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({evil: rng.choice([evil, "b"], 60), "$x$": rng.normal(size=60)})
    out = tmp_path / "table"
    minigan.GAN("table", out=out, batch=16, steps=2, backend="numpy", verbose=0).fit(frame)
    found = Elements((out / "report.html").read_bytes())
    assert "<script>alert(1)</script>" in found.text and "$x$" in found.text
    assert sum("type" not in attributes for attributes in found.of("script")) == 1
    assert len(found.of("svg")) > 2 and not [name for _, each in found.found for name in each if name.startswith("on")]


def test_series_are_shown_with_their_distributions(tmp_path, monkeypatch):
    """Gaps and the steps after an end count as missing, and pandas is not needed."""
    monkeypatch.setitem(sys.modules, "pandas", None)
    rng = np.random.default_rng(0)
    series = [np.where(rng.random((t, 2)) < [0, 0.25], np.nan, rng.normal(size=(t, 2)) + 9) for t in [4, 8] * 30]
    options = {"pad": True, "missing": "keep", "steps": 2, "batch": 16, "backend": "numpy", "verbose": 0}
    minigan.GAN("waves", out=tmp_path / "series", **options).fit(series)
    found = Elements((tmp_path / "series" / "report.html").read_bytes())
    assert "Features" in found.text and "all steps of 60 samples and 60 real series" in found.text
    _, real = re.findall(r"missing\D*?([\d.]+)%\D*?([\d.]+)%", found.text)[-1]  # of the second feature
    assert float(real) == pytest.approx(100 * (0.25 + 0.75 * 0.25), abs=6)  # after the end, and gaps


# ---------------------------------------------------------------- one file that loads nothing


def references(content: bytes) -> list[str]:
    """All addresses in a page from which a browser might load something."""
    page = Elements(content)
    found = [
        each[name] for _, each in page.found for name in ("src", "srcset", "poster", "data", "action") if name in each
    ]
    found += [each["href"] for name, each in page.found if name in ("link", "use", "image") and each.get("href")]
    style = re.search(r"<style>(.*?)</style>", content.decode(), re.S)[1]
    return found + re.findall(r"@import|url\(([^)]*)\)", style)


def test_the_page_is_one_file_without_references(finished):
    content = (finished / "report.html").read_bytes()
    found = references(content)
    assert len(found) > 50 and {each[:5] for each in found} <= {"data:"}
    assert {each["href"][0] for each in Elements(content).of("a")} == {"#"}
    (policy,) = (e["content"] for e in Elements(content).of("meta") if e.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "connect-src 'none'" in policy and "img-src data:;" in policy


def test_a_reference_is_found():
    content = document("t", html("img", src="https://example.com/x.png"))
    assert sorted(references(content)) == ["data:,", "https://example.com/x.png"]


def test_the_policy_allows_this_script_only(finished):
    content = (finished / "report.html").read_text(encoding="utf-8")
    script = content[content.rindex("<script>") + 8 : content.rindex("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src &#x27;sha256-{digest}&#x27;;" in content


def test_the_licence_of_the_embedded_library_is_said():
    license = (Path(__file__).parent.parent / "LICENSE").read_text(encoding="utf-8")
    assert "uPlot" in license and "Leon Sorokin" in license
    assert "leeoniya/uPlot (v" in pages.asset("uPlot.iife.min.js")[:80]


def test_the_page_is_small(finished):
    assert len((finished / "report.html").read_bytes()) < 3e6


def test_the_pictures_of_a_long_run_stay_within_their_size(tmp_path):
    """300 epochs of pictures of 120 kB, which would be 36 MB. Those that are left are evenly spaced."""
    training = begin(tmp_path / "long", preset="small", epochs=1)
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    plots.save_picture(tmp_path / "one.png", noise)
    for epoch in range(301):
        (tmp_path / "long" / "samples" / f"epoch-{epoch:04d}.png").hardlink_to(tmp_path / "one.png")
    found = page_module.Page(training, tmp_path / "long", run_module.CONTENTS)._pictures()
    epochs = [int(text.removeprefix("epoch ")) for text, _ in found]
    assert 4 <= len(epochs) <= page_module.FRAMES and epochs[0] == 0 and epochs[-1] == 300
    assert sum(len(picture[0]) for _, picture in found) <= page_module.BYTES
    assert len({b - a for a, b in itertools.pairwise(epochs[:-1])}) == 1


# ---------------------------------------------------------------- when it is written


def test_the_page_is_written_at_the_start_now_and_then_and_at_the_end(tmp_path, monkeypatch):
    now, states = [0.0], []
    clock = SimpleNamespace(monotonic=lambda: now[0], time=time.time)
    monkeypatch.setattr(page_module, "time", clock)
    write = page_module.Page.write

    def noted(self, state, complete=False):
        states.append((now[0], state, complete))
        write(self, state, complete)

    monkeypatch.setattr(page_module.Page, "write", noted)

    def tick(record) -> None:
        now[0] += 6.0

    out = tmp_path / "run"
    runs.play(begin(out), out, quiet=True, callback=tick)  # 14 steps
    assert states[0] == (0.0, "running", False) and states[-1] == (84.0, "finished", True)
    assert [when for when, state, _ in states[1:-1]] == [24.0, 48.0, 72.0]
    assert state_of(out) == "finished"


def test_a_reader_never_sees_half_a_page(tmp_path, monkeypatch):
    """If writing fails, the page before is complete, and no other file is left."""
    out = tmp_path / "run"
    training = begin(out)
    written = page_module.Page(training, out, run_module.CONTENTS)
    written.write("running")
    before = (out / "report.html").read_bytes()

    def full(*arguments) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("minigan.files.os.fsync", full)
    with pytest.raises(OSError):
        written.write("finished")
    assert (out / "report.html").read_bytes() == before and before.endswith(b"</html>\n")
    assert not list(out.glob(".*.tmp"))


def test_the_page_says_how_the_run_ended(tmp_path):
    out = tmp_path / "stopped"
    runs.play(begin(out), out, quiet=True, callback=lambda record: record["step"] == 3)
    assert state_of(out) == "stopped" and b"3 steps" in (out / "report.html").read_bytes()
    out = tmp_path / "diverged"
    with pytest.raises(UserError, match="no longer a finite number"), np.errstate(all="ignore"):
        runs.play(begin(out, preset="mlp", lr_g=1e30, lr_d=1e30), out, quiet=True)
    assert state_of(out) == "diverged" and b"no longer a finite number" in (out / "report.html").read_bytes()
    out = tmp_path / "failed"

    def fail(record) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        runs.play(begin(out), out, quiet=True, callback=fail)
    assert state_of(out) == "failed"


def test_without_report_there_is_no_page_and_the_bits_are_the_same(tmp_path):
    states = []
    for name, report in (("with", True), ("without", False)):
        training = begin(tmp_path / name, report=report)
        runs.play(training, tmp_path / name, quiet=True)
        states.append(training)
    assert (tmp_path / "with" / "report.html").exists() and not (tmp_path / "without" / "report.html").exists()
    a, b = (training.state()[0] for training in states)
    assert a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_the_command_line_and_python_write_it_too(tmp_path, capsys):
    np.save(tmp_path / "x.npy", images().images)
    common = [
        "--data",
        str(tmp_path / "x.npy"),
        "--preset",
        "small",
        "--batch",
        "8",
        "--steps",
        "2",
        "--backend",
        "numpy",
    ]
    assert main(["train", *common, "--quiet", "--out", str(tmp_path / "a")]) == 0
    assert main(["train", *common, "--quiet", "--no-report", "--out", str(tmp_path / "b")]) == 0
    assert (tmp_path / "a" / "report.html").exists() and not (tmp_path / "b" / "report.html").exists()
    gan = minigan.GAN("small", batch=8, steps=2, backend="numpy", verbose=0)
    gan.fit(images().images).save(tmp_path / "c")
    content = (tmp_path / "c" / "report.html").read_text(encoding="utf-8")
    assert state_of(tmp_path / "c") == "finished" and "minigan.GAN(&#x27;small&#x27;" in content


# ---------------------------------------------------------------- missing and damaged pictures


@pytest.mark.parametrize("damage", ["missing", "half", "text", "empty", "folder"])
def test_a_damaged_picture_never_breaks_the_page(damage, finished, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    training = runs.restore(runs.read(out), data=images())
    path = out / "samples" / "epoch-0001.png"
    content = path.read_bytes()
    path.unlink()
    match damage:
        case "half":
            path.write_bytes(content[: len(content) // 2])
        case "text":
            path.write_text("no picture")
        case "empty":
            path.touch()
        case "folder":
            path.mkdir()
    written = page_module.Page(training, out, run_module.CONTENTS)
    assert [text for text, _ in written._pictures()] == ["epoch 0", "epoch 2"]
    written.write("running")
    assert "epoch 2" in Elements((out / "report.html").read_bytes()).text


def test_a_run_without_any_picture_has_a_page():
    content = page(Report("none", "running", 0.0, 0.0, "0 steps", []))
    assert "There is no picture yet." in Elements(content).text and content.endswith(b"</html>\n")


# ---------------------------------------------------------------- what it shows


def test_every_part_that_is_promised_is_there(finished):
    found = Elements((finished / "report.html").read_bytes())
    sections = {attributes.get("id") for attributes in found.of("section")}
    assert {"samples", "curves", "explanation", "data", "networks", "journey", "repeat"} <= sections
    for text in (
        "Losses",
        "What D answers",
        "Time",
        "Verdict",
        "Nearest training images",
        "Generator",
        "Machine",
        "seed",
    ):
        assert text in found.text, text
    training = begin(None)
    assert f"{training.G.n_params:,} parameters" in found.text and f"{training.D.n_params:,} parameters" in found.text
    assert "minigan train --preset digits" in found.text and f"--out {finished}" in found.text
    assert all(attributes["alt"] for attributes in found.of("img"))


def test_every_curve_is_also_a_table(finished):
    content = (finished / "report.html").read_text(encoding="utf-8")
    curves = json.loads(re.search(r'id="charts">(.*?)</script>', content)[1])
    assert [chart["name"] for chart in curves][:2] == ["losses", "answers"]
    for chart in curves:
        assert f"<caption>{chart['title']}, at most 24 points</caption>" in content
        assert all(len(series["y"]) == len(chart["x"]) for series in chart["series"])
    steps = runs.read(finished).arrays["curves"].reshape(-1, 4)
    assert curves[0]["series"][0]["y"] == pytest.approx(steps[:, 0], rel=1e-4)


def test_a_long_curve_is_thinned_to_means_and_limits():
    x, y = np.arange(10_000) / 100, np.sin(np.arange(10_000) / 50)
    ends, means, (low, high) = charts.thinned(x, y, 100)
    assert len(ends) == 100 and ends[-1] == x[-1]
    assert means == pytest.approx(y.reshape(100, 100).mean(axis=1)) and (low <= means).all() and (means <= high).all()
    assert low[0] == y[:100].min() and high[0] == y[:100].max()
    assert charts.thinned(np.zeros(0), np.zeros(0))[2].shape == (2, 0)


def test_the_nearest_training_image_of_a_copy_is_the_copy(finished, monkeypatch):
    training = begin(None)
    real = training.data.batch(np.arange(60))
    monkeypatch.setattr(training, "encoded_samples", lambda count: real[5 : 5 + count])
    pairs, usual, searched = compared.nearest(training)
    assert [pair.distance for pair in pairs] == pytest.approx(
        [0] * 10, abs=1e-3
    ) and searched == "the 60 training images"
    assert all(pair.sample[0] == pair.real[0] for pair in pairs)
    flat = real.reshape(60, -1).astype(np.float64) / 2
    apart = np.sqrt(((flat[:, None] - flat) ** 2).mean(axis=-1)) + np.diag([9.0] * 60)
    assert usual == pytest.approx(np.median(apart.min(axis=1)), rel=0.1)


def test_a_heat_map_has_zero_in_white_and_every_channel():
    array = np.zeros((2, 4, 4, 9), np.float32)
    array[0, 1, 2, 0], array[0, 0, 0, 8] = 5.0, -5.0
    content, kind, size = pictures.heat_map(array, signed=True)
    assert (kind, size) == ("png", (14, 14))
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)
    assert pixels[0, 0].tolist() == [247, 247, 247] and pixels[4, 4].tolist() == [128, 128, 128]
    assert pixels[1, 2].tolist() == [103, 0, 31] and pixels[10, 10].tolist() == [5, 48, 97]
    flat = pictures.heat_map(np.full((3, 5), np.nan), signed=False)
    assert flat[2] == (5, 3)
