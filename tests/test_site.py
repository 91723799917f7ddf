"""Tests that the lessons become notebooks and a site: valid cells, right links, one execution, nothing from outside.

The fast tests convert each lesson, execute a short one, and build a small site of it. The whole site is built by a test
that is marked as slow, which uses the executions of `python lessons/site/build.py --quick` again if there are any.
"""

import ast
import importlib.util
import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import types
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

WHY = "the packages of the site are not installed: pip install 'minigan[docs]'"
nbformat, _, _ = (pytest.importorskip(name, reason=WHY) for name in ("nbformat", "jupytext", "myst_nb"))
import browser  # noqa: E402
from IPython.core.inputtransformer2 import TransformerManager  # noqa: E402

ROOT = Path(__file__).parents[1]
LESSONS = ROOT / "lessons"
NAMES = [path.stem for path in sorted(LESSONS.glob("[0-9]*.py"))]
INDEX = """# The course

<!-- toctrees of the lessons: build.py puts them here -->

```{toctree}
lessons/README
lessons/GLOSSARY
lessons/TEACHING
```
"""

spec = importlib.util.spec_from_file_location("site_build", LESSONS / "site" / "build.py")
site = sys.modules["site_build"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(site)


# ---- notebooks


def python(cell) -> ast.Module:
    """Return the syntax tree of a cell, in which IPython's own commands may stand."""
    return ast.parse(TransformerManager().transform_cell(cell.source))


@pytest.mark.parametrize("name", NAMES)
def test_a_lesson_becomes_a_notebook_whose_first_cell_installs_minigan(name):
    book = site.notebook(LESSONS / f"{name}.py")
    nbformat.validate(book)
    first, *others = book.cells
    assert re.search(r'(?m)^%pip install -q -e "\{clone\}(\[\w+\])?"$', first.source) and python(first)
    assert first.metadata.tags == ["skip-execution", "remove-cell"]
    assert others[0].cell_type == "markdown" and others[0].source.startswith(f"# {int(name[:2])}. ")
    text = (LESSONS / f"{name}.py").read_text(encoding="utf-8")
    expected = [ast.dump(ast.parse(body)) for markdown, body in site._contents.cells(text) if not markdown]
    assert [ast.dump(python(cell)) for cell in others if cell.cell_type == "code"] == expected
    figures = [cell for cell in others if cell.cell_type == "code" and "save(figure" in cell.source]
    assert figures and all(len(cell.metadata.mystnb.image.alt) > len("The figure of: ") for cell in figures)


@pytest.mark.parametrize("name", NAMES)
def test_the_links_of_a_notebook_lead_from_its_folder_to_files_that_exist(name):
    book, found = site.notebook(LESSONS / f"{name}.py"), 0
    for cell in book.cells:
        for _, words, target in site.LINK.findall(cell.source if cell.cell_type == "markdown" else ""):
            path = target.partition("#")[0]
            if path and ":" not in path:
                found += 1
                assert not path.endswith(".py") and not words.endswith(".py"), "the notebook, with its title"
                other = Path(path).stem if path.endswith(".ipynb") else ""
                assert other in NAMES if other else (LESSONS / "notebooks" / path).resolve().is_file(), target
    assert found > 0


def test_only_the_lesson_that_needs_more_installs_more():
    extras = {name: site.notebook(LESSONS / f"{name}.py").cells[0].source.count("[tables]") for name in NAMES}
    assert [name for name, count in extras.items() if count] == ["21_tables"]


def test_the_address_of_the_repository_comes_from_the_package_and_is_never_invented(tmp_path, monkeypatch):
    monkeypatch.setattr(site, "ROOT", tmp_path)
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "minigan"\n')
    assert site.repository() is None
    first = site.notebook(LESSONS / "01_neuron.py", None).cells[0]
    assert "git clone" not in first.source and "://" not in first.source
    (tmp_path / "pyproject.toml").write_text('[project.urls]\nRepository = "https://example.org/minigan"\n')
    first = site.notebook(LESSONS / "01_neuron.py", site.repository()).cells[0]
    assert "    !git clone -q --depth 1 https://example.org/minigan minigan\n" in first.source and python(first)


def test_the_first_cell_of_a_notebook_installs_the_clone_around_it(tmp_path):
    """pip only says what it would install, so the environment stays as it is."""
    for name in ("minigan", "lessons/_common.py", "pyproject.toml", "README.md", "LICENSE"):
        (tmp_path / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "clone" / name).symlink_to(ROOT / name)
    book = site.notebook(LESSONS / "01_neuron.py")
    first = book.cells[0].source.replace("# %env", "%env")
    first = first.replace(
        "%pip install -q -e", "%pip install --dry-run --no-deps --no-build-isolation --report p.json -e"
    )
    last = "import minigan, _common; print(minigan.__file__, _common.__file__, _common.QUICK)"
    book.cells = [nbformat.v4.new_code_cell(first), nbformat.v4.new_code_cell(last)]
    folder = tmp_path / "clone" / "lessons" / "notebooks"
    folder.mkdir()
    nbclient = pytest.importorskip("nbclient")
    nbclient.NotebookClient(book, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    would = json.loads((folder / "p.json").read_text())["install"]
    assert [each["metadata"]["name"] for each in would] == ["minigan"]
    assert would[0]["download_info"]["url"] == (tmp_path / "clone").as_uri()
    places = book.cells[1].outputs[-1].text.split()
    assert places == [str(tmp_path / "clone/minigan/__init__.py"), str(tmp_path / "clone/lessons/_common.py"), "True"]

    outside = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(first)], metadata=book.metadata)
    with pytest.raises(nbclient.exceptions.CellExecutionError, match=r"Put this notebook into .*lessons/notebooks"):
        nbclient.NotebookClient(outside, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()


def test_a_notebook_that_a_reader_changed_is_kept(tmp_path):
    book, path = site.notebook(LESSONS / "01_neuron.py"), tmp_path / "notebooks" / "01_neuron.ipynb"
    assert site.give(book, path) and site.give(book, path)
    read = nbformat.read(path, 4)
    read.cells[4].outputs = [nbformat.v4.new_output("stream", text="the reader only ran it")]
    nbformat.write(read, path)
    assert site.give(book, path) and nbformat.read(path, 4) == book
    read.cells[-2].source = "bias = -1  # my answer"
    nbformat.write(read, path)
    assert not site.give(book, path) and nbformat.read(path, 4).cells[-2].source == "bias = -1  # my answer"


# ---- execution


TINY = """# %% [markdown]
# # 1. Tiny
#
# Some words.

# %%
x = 1

# %%
print(x)
assert x == {number}, "The claim."
"""


@pytest.fixture
def tiny(tmp_path) -> Path:
    """A lesson that takes no time, and whose claim is true."""
    path = tmp_path / "01_tiny.py"
    path.write_text(TINY.format(number=1))
    return path


def test_a_lesson_is_executed_again_only_if_its_code_or_minigan_changed(tiny, tmp_path, monkeypatch):
    executions, execute = [], site.execute
    monkeypatch.setattr(site, "execute", lambda *args: (executions.append(args), execute(*args)))

    def run(quick=True, state="a"):
        book, done = site.executed(tiny, quick, tmp_path / "executed", state)
        assert book.cells[3].outputs[0].text == "1\n" and book.cells[3].execution_count == 2
        return done, len(executions), book

    assert run()[1] == 1 and re.fullmatch(r"[\d.]+ s", run(quick=False)[0])
    assert run(quick=False)[:2] == ("not changed", 2)
    tiny.write_text(tiny.read_text().replace("Some words", "Other words"))
    _, count, book = run(quick=False)
    assert count == 2 and "Other words" in book.cells[1].source
    tiny.write_text(tiny.read_text().replace("x = 1", "x = 2 - 1"))
    assert run(quick=False)[1] == 3 and run(quick=False, state="b")[1] == 4
    assert len(list((tmp_path / "executed").iterdir())) == 1  # nothing is left of earlier executions


@pytest.mark.parametrize("quick", [True, False])
def test_a_quick_build_trains_less(quick, tiny, tmp_path):
    tiny.write_text(TINY.format(number=1) + "\n# %%\nimport _common\n\nprint(_common.QUICK)\n")
    book, _ = site.executed(tiny, quick, tmp_path / "executed", "a")
    assert book.cells[-1].outputs[0].text == f"{quick}\n"


def test_a_claim_that_fails_names_the_lesson_the_cell_and_the_line(tiny, tmp_path):
    tiny.write_text(TINY.format(number=2))
    with pytest.raises(site.BuildError) as failed:
        site.executed(tiny, True, tmp_path / "executed", "a")
    assert str(failed.value).endswith("01_tiny.py, cell 4 (line 10 of the lesson): AssertionError: The claim.")
    assert not (tmp_path / "executed").exists()


def test_wrong_names_and_cells_that_take_too_long_end_in_one_sentence(tiny, tmp_path, monkeypatch, capsys):
    assert site.main(["77"]) == 1
    assert re.match(r"\nthere is no lesson 77: use one of 00_numpy, 01_neuron, ", capsys.readouterr().err)
    monkeypatch.setattr(site, "CELL_LIMIT", 5)
    tiny.write_text(tiny.read_text().replace("print(x)", "import time; time.sleep(600)"))
    with pytest.raises(site.BuildError, match=r"^01_tiny.py, cell 4 \(line 10 of the lesson\): took more than 5 s$"):
        site.executed(tiny, True, tmp_path / "executed", "a")


def test_the_state_of_the_package_contains_every_source(tmp_path, monkeypatch):
    shutil.copytree(LESSONS, tmp_path / "lessons", ignore=lambda folder, names: [n for n in names if n != "_common.py"])
    (tmp_path / "minigan" / "layers").mkdir(parents=True)
    (tmp_path / "minigan" / "layers" / "dense.py").write_text("y = x @ w")
    monkeypatch.setattr(site, "ROOT", tmp_path)
    monkeypatch.setattr(site, "LESSONS", tmp_path / "lessons")
    before = site.package_state()
    assert site.package_state() == before
    (tmp_path / "minigan" / "layers" / "dense.py").write_text("y = x @ w + b")
    changed = site.package_state()
    (tmp_path / "lessons" / "_common.py").write_text("QUICK = True")
    assert len({before, changed, site.package_state()}) == 3


# ---- the site


def test_everything_that_the_reference_names_exists():
    directives = [
        found for page in sorted((LESSONS / "site" / "api").glob("*.rst"))
        for found in re.findall(r"(?m)^\.\. auto(module|function|class|data):: (\S+)$", page.read_text())
    ]  # fmt: skip
    assert len(directives) == sum(
        page.read_text().count(".. auto") for page in (LESSONS / "site" / "api").glob("*.rst")
    )
    for kind, name in directives:
        assert pkgutil.resolve_name(name) is not None, name
        assert isinstance(pkgutil.resolve_name(name), types.ModuleType) == (kind == "module"), name


def test_the_pages_contain_every_section_of_the_readme_once():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    seen = []
    for page in [LESSONS / "site" / "index.md", *(LESSONS / "site" / "howto").glob("*.md")]:
        for options in re.findall(r"```{include} (?:\.\./)?README\.md\n(.*?)```", page.read_text(), re.S):
            start, end = (re.search(rf':{name}: "(.*)"', options) for name in ("start-after", "end-before"))
            part = readme.partition(start[1])[2]
            assert part and (end is None or end[1] in part), page.name
            seen.append(start[1] + (part if end is None else part.partition(end[1])[0]))
    of = {title: sum(f"\n{title}\n" in f"\n{text}" for text in seen) for title in re.findall(r"(?m)^## .*", readme)}
    assert of.pop("## Where to start reading") == 0  # index.md says it for the site
    assert set(of.values()) == {1}, of


@pytest.mark.parametrize(
    ("page", "target", "expected"),
    [
        ("lessons/README.md", "01_neuron.py", "/lessons/notebooks/01_neuron.ipynb"),
        ("lessons/README.md", "02_nudging.py", ""),  # not built
        ("lessons/notebooks/01_neuron.ipynb", "../GLOSSARY.md#weight", "/lessons/GLOSSARY.md#weight"),
        ("lessons/GLOSSARY.md", "../README.md", "/index.md"),
        ("lessons/GLOSSARY.md", "../minigan/game.py", "#minigan.game"),
        ("lessons/GLOSSARY.md", "../minigan", ""),  # a folder
        ("lessons/GLOSSARY.md", "../LICENSE", "/LICENSE"),
        ("lessons/GLOSSARY.md", "https://example.org/a.py", "https://example.org/a.py"),
        ("lessons/GLOSSARY.md", "#weight", "#weight"),
        ("lessons/GLOSSARY.md", "missing.md", "missing.md"),  # Sphinx refuses it
    ],
)
def test_a_link_leads_to_what_the_site_has(page, target, expected):
    pages = {name: ROOT / name for name in ("lessons/README.md", "lessons/GLOSSARY.md", "index.md")}
    pages["lessons/notebooks/01_neuron.ipynb"] = LESSONS / "notebooks" / "01_neuron.ipynb"
    made = site.Sources(pages, {"minigan.game"})
    assert made.target(page, target) == expected
    assert made.files == ({"LICENSE": (ROOT / "LICENSE").read_bytes()} if target == "../LICENSE" else {})
    picture = "../" * page.count("/") + "LICENSE"
    text = f"[*a* `b[0]`]({target}), [![picture]({picture})]({target})"
    kept = "*a* `b[0]`, ![picture](/LICENSE)"
    linked = f"[*a* `b[0]`]({expected}), [![picture](/LICENSE)]({expected})"
    assert made.linked(page, text) == (linked if expected else kept)


class Page(HTMLParser):
    """What a page has: the anchors, the links, what it loads, and the pictures without a description."""

    def __init__(self, path: Path):
        super().__init__()
        self.anchors: set[str] = {""}
        self.links: list[str] = []
        self.loads: list[str] = []
        self.undescribed: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        self.links += [values["href"]] if tag == "a" and "href" in values else []
        self.loads += [values[name] for name in ("src", "srcset", "poster") if name in values]
        self.loads += [values["href"]] if tag == "link" and "href" in values else []
        if tag == "img" and not values.get("alt"):
            self.undescribed.append(values.get("src", ""))


def problems(html: Path) -> Iterator[str]:
    """Yield links of the pages in a folder that lead nowhere, and everything that comes from the network."""
    pages = {path: Page(path) for path in sorted(html.rglob("*.html"))}
    for path, page in pages.items():
        for link in [*page.links, *page.loads]:
            target, _, anchor = link.partition("#")
            if re.match(r"[a-z]+:|//", link):
                if link in page.loads and not link.startswith("data:"):
                    yield f"{path.relative_to(html)} loads {link}"
                continue
            file = (path.parent / unquote(target.partition("?")[0])).resolve() if target else path
            if not file.is_file():
                yield f"{path.relative_to(html)}: {link} does not exist"
            elif anchor and file in pages and unquote(anchor) not in pages[file].anchors:
                yield f"{path.relative_to(html)}: {link} has no such place"
        yield from (f"{path.relative_to(html)}: {image} has no description" for image in page.undescribed)
    for path in html.rglob("*.css"):
        for link in re.findall(r"""(?:url\(|@import)\s*["']?(\w+:[^"')]+)""", path.read_text(encoding="utf-8")):
            if not link.startswith("data:"):
                yield f"{path.relative_to(html)} loads {link}"


def test_the_check_of_links_finds_each_problem(tmp_path):
    (tmp_path / "good.html").write_text('<a id="here"></a><a href="#here">x</a><img src="data:image/png;," alt="x">')
    assert list(problems(tmp_path)) == []
    (tmp_path / "bad.html").write_text(
        '<a href="good.html#there"></a><a href="none.html"></a><script src="https://example.org/a.js"></script>'
        '<img src="none.png"><link rel="stylesheet" href="//example.org/a.css">'
    )
    (tmp_path / "bad.css").write_text('@font-face { src: url("https://example.org/font.woff") }')
    found = list(problems(tmp_path))
    words = ["no such place", "none.html does", "none.png does", "a.js", "a.css", "no description", "font.woff"]
    assert len(found) == len(words) and all(sum(word in problem for problem in found) == 1 for word in words)


@pytest.fixture
def small(tmp_path, monkeypatch) -> Path:
    """The sources of a site with the pages of lessons/ only. Gives the folder to build in."""
    own = tmp_path / "site"
    shutil.copytree(LESSONS / "site" / "static", own / "static")
    shutil.copy(LESSONS / "site" / "conf.py", own)
    (own / "index.md").write_text(INDEX)
    monkeypatch.setattr(site, "SITE", own)
    monkeypatch.setattr(site, "TEXTS", ("lessons/*.md",))
    return tmp_path / "built"


def test_a_small_site_is_built_from_one_execution(small, tmp_path, monkeypatch, capfd):
    arguments = ["01", "--quick", "--folder", str(small), "--notebooks", str(tmp_path / "notebooks")]
    assert site.main(arguments) == 0, capfd.readouterr().err
    html = small / "html"
    assert list(problems(html)) == []
    page = (html / "lessons" / "notebooks" / "01_neuron.html").read_text(encoding="utf-8")
    assert page.count("<details") == 4 and page.count("</details>") == 4  # two hints and two solutions, folded
    assert "%pip" not in page and "01_neuron.ipynb" in page and "figure /" not in page
    assert page.count('alt="The figure of: ') == 2 and '="../GLOSSARY.html#weight"' in page
    assert "Part I: from a neuron to a GAN" in page and ">2. Learning by nudging<" not in page

    given = nbformat.read(tmp_path / "notebooks" / "01_neuron.ipynb", 4)
    downloaded = nbformat.read(html / "lessons" / "notebooks" / "01_neuron.ipynb", 4)
    assert given == downloaded and "%pip" in given.cells[0].source
    texts = [output.text.strip() for cell in given.cells for output in cell.get("outputs", []) if "text" in output]
    assert len(texts) >= 2 and all(text.splitlines()[0].split()[0] in page for text in texts)  # the same outputs
    pictures = [out.data["image/png"] for cell in given.cells for out in cell.get("outputs", []) if "data" in out]
    assert len(pictures) == 2

    monkeypatch.setattr(site, "execute", None)
    capfd.readouterr()
    assert site.main(arguments) == 0 and "not changed" in capfd.readouterr().out

    (small.parent / "site" / "more.md").write_text("# One more page\n")
    with (small.parent / "site" / "index.md").open("a") as index:
        index.write("\n```{toctree}\nmore\n```\n")
    assert site.main(arguments) == 0
    assert ">One more page</a>" in (html / "lessons" / "GLOSSARY.html").read_text(encoding="utf-8")  # all navigation

    with (small.parent / "site" / "index.md").open("a") as index:
        index.write("\n[nowhere](#none)\n")
    assert site.main(arguments) == 1
    assert "'none'" in (said := capfd.readouterr().err) and "Sphinx found the problems above." in said
    assert site.main(arguments) == 1  # the second time, too
    expect_it_fits(html, ["index.html", "lessons/notebooks/01_neuron.html", "lessons/README.html"])


def expect_it_fits(html: Path, pages: list[str]) -> None:
    """Fail if a page is wider than a phone or a screen, or loads anything from outside, or has errors.

    Where there is no browser, this checks nothing, and the end of the tests says so.
    """
    with browser.launched() as chromium:
        for width, scheme in ((390, "light"), (1280, "dark")) if chromium else ():
            with chromium.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme) as context:
                context.set_default_timeout(browser.PATIENCE)
                watched = browser.Watched(context)
                for name in pages:
                    watched.page.goto((html / name).as_uri())
                    assert watched.page.evaluate("document.documentElement.scrollWidth") <= width, (name, width)
                assert watched.problems == [] and watched.outside("file:") == []


@pytest.mark.slow
def test_the_whole_site_has_every_lesson_and_no_link_that_leads_nowhere():
    built = subprocess.run(
        [sys.executable, LESSONS / "site" / "build.py", "--quick"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-4000:]
    html = site.BUILD / "quick" / "html"
    assert list(problems(html)) == []
    front = (html / "index.html").read_text(encoding="utf-8")
    for name in NAMES:
        assert front.count(f'class="reference internal" href="lessons/notebooks/{name}.html"') >= 1, name
        assert (html / "lessons" / "notebooks" / f"{name}.ipynb").is_file()
        assert (html / "lessons" / "notebooks" / f"{name}.html").read_text(encoding="utf-8").count("<details") == 4
    assert (html / "searchindex.js").is_file()
    pages = sorted(path.relative_to(html).as_posix() for path in html.rglob("*.html"))
    expect_it_fits(html, [page for page in pages if not page.startswith("_modules/")])
