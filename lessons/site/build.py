"""Builds the notebooks and the site of the course from the lessons.

    python lessons/site/build.py              everything, into lessons/notebooks and lessons/site/_build/html
    python lessons/site/build.py --quick      the lessons train less; the site is in lessons/site/_build/quick/html
    python lessons/site/build.py 01 18        only these lessons; links to the others become plain text

Each lesson is executed once, in one kernel, and the notebook and the page of the site show the same outputs. Outputs
are kept and used again until the code of the lesson, `_common.py` or minigan changes. A change of the text costs
nothing. The site needs no network: no page loads a script, a font or a picture from elsewhere.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterable
from pathlib import Path

import jupytext
import nbclient
import nbformat

SITE = Path(__file__).resolve().parent
LESSONS = SITE.parent
ROOT = LESSONS.parent
sys.path.insert(0, str(LESSONS))
import _contents  # noqa: E402  (a module of the folder above)

NOTEBOOKS = LESSONS / "notebooks"  # git ignores this folder and the next
BUILD = SITE / "_build"
OWN_PAGES = ("*.md", "howto/*.md", "api/*.rst")  # in lessons/site
TEXTS = ("*.md", "lessons/*.md", "benchmarks/**/*.md", "minigan/**/*.md", "tests/README.md")  # pages from elsewhere
PLACE_OF_LESSONS = "<!-- toctrees of the lessons: build.py puts them here -->"
CELL_LIMIT = 1800  # seconds for one cell; much longer than any needs, because a machine may be busy
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")  # ![text](target) or [text](target)

SETUP = """\
# This cell installs minigan from {source}.
# To train less, remove the first # of the next line.
# %env MINIGAN_LESSON=--quick
import sys
from pathlib import Path

clone = next((folder for folder in Path.cwd().parents if (folder / "lessons/_common.py").exists()), None)
{otherwise}
%pip install -q -e "{{clone}}{extra}"
sys.path[:0] = [str(clone), str(clone / "lessons")]  # minigan, and _common.py, which the lessons share"""
NO_CLONE = (
    'assert clone, "Put this notebook into the folder lessons/notebooks of a clone of minigan, and open it there."'
)
CLONE = """\
if clone is None:
    !git clone -q --depth 1 {url} minigan
    clone = Path("minigan").resolve()"""


class BuildError(Exception):
    """What failed, in one sentence that names the place."""


def repository() -> str | None:
    """Returns the address of the repository that pyproject.toml states in `project.urls`, or None."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    urls = {name.lower(): url for name, url in project.get("urls", {}).items()}
    return urls.get("repository") or urls.get("source")


# ---- lessons become notebooks


def notebook(lesson: Path, url: str | None = None) -> nbformat.NotebookNode:
    """Returns a lesson as a notebook without outputs. Its first cell installs minigan.

    Links to files of the folder lessons/ become links from lessons/notebooks/, and names of files become titles. A cell
    that shows a figure gets the heading above it as the description of the figure, which screen readers read.
    """
    text = lesson.read_text(encoding="utf-8")
    book = jupytext.reads(text, fmt="py:percent")
    heading = ""
    for cell in book.cells:
        title = cell.metadata.get("title")
        cell.metadata = nbformat.NotebookNode({"title": title} if title else {})
        if cell.cell_type == "markdown":
            heading = (re.findall(r"(?m)^#+ (.*)$", cell.source) or [heading])[-1]
            cell.source = LINK.sub(lambda match: from_notebooks(lesson, match), cell.source)
        elif "save(figure" in cell.source:
            cell.metadata["mystnb"] = {"image": {"alt": f"The figure of: {heading}"}}
    needs = re.search(r"pip install '(?:\.|minigan)(\[\w+\])'", text)
    setup = SETUP.format(
        source=url or "the clone that contains this notebook",
        otherwise=CLONE.format(url=url) if url else NO_CLONE,
        extra=needs[1] if needs else "",
    )
    tags = {"tags": ["skip-execution", "remove-cell"]}  # nbclient knows the first, myst-nb the second
    book.cells.insert(0, nbformat.v4.new_code_cell(setup, metadata=tags))
    for number, cell in enumerate(book.cells):
        cell.id = f"cell-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    book.metadata = nbformat.NotebookNode(kernelspec=kernel, language_info={"name": "python"})
    book.metadata["minigan"] = {"sources": digest(sources(book))}
    nbformat.validate(book)
    return book


def from_notebooks(lesson: Path, match: re.Match) -> str:
    """Returns a link of a lesson as it must be in the folder lessons/notebooks."""
    path, hash_sign, anchor = match[3].partition("#")
    if not path or not (lesson.parent / path).exists():
        return match[0]
    sign, words = match[1], match[2]
    if is_lesson(lesson.parent / path):
        words = _contents.read(lesson.parent / path).title if words == path else words
        path = f"{Path(path).stem}.ipynb"
    else:
        path = f"../{path}"
    return f"{sign}[{words}]({path}{hash_sign}{anchor})"


def is_lesson(path: Path) -> bool:
    """Returns whether a file is a lesson: its name begins with two digits."""
    return re.fullmatch(r"\d\d_\w+\.py", path.name) is not None


def code_cells(book: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """Returns the cells with code of a notebook, without the one that installs minigan."""
    return [cell for cell in book.cells if cell.cell_type == "code"][1:]


def sources(book: nbformat.NotebookNode) -> list[str]:
    """Returns the texts of all cells."""
    return [cell.source for cell in book.cells]


def digest(parts: Iterable[str | bytes]) -> str:
    """Returns a short hash of texts and bytes."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part if isinstance(part, bytes) else part.encode())
        found.update(b"\0")
    return found.hexdigest()[:16]


def package_state() -> str:
    """Returns a hash of what the outputs of all lessons depend on: minigan, `_common.py`, and the version of Python."""
    files = [path for path in sorted((ROOT / "minigan").rglob("*")) if path.suffix in (".py", ".cu", ".npz", ".gz")]
    return digest([sys.version, *(path.read_bytes() for path in (LESSONS / "_common.py", *files))])


# ---- notebooks are executed


def executed(lesson: Path, quick: bool, folder: Path, state: str) -> tuple[nbformat.NotebookNode, str]:
    """Returns the notebook of a lesson with its outputs, and what was done for it: a time, or that it was kept.

    `folder` has the outputs of earlier executions, `state` comes from `package_state`. Raises BuildError if a cell
    fails.
    """
    book = notebook(lesson, repository())
    key = digest([state, str(quick), *(cell.source for cell in code_cells(book))])
    kept = folder / f"{lesson.stem}-{key}.ipynb"
    if kept.exists():
        for cell, old in zip(code_cells(book), code_cells(nbformat.read(kept, 4)), strict=True):
            cell.outputs, cell.execution_count = old.outputs, old.execution_count
        return book, "not changed"
    start = time.perf_counter()
    execute(book, lesson, quick)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{lesson.stem}-*.ipynb"):
        old.unlink()
    write(kept, nbformat.writes(book))
    return book, f"{time.perf_counter() - start:.1f} s"


def execute(book: nbformat.NotebookNode, lesson: Path, quick: bool) -> None:
    """Executes a notebook in place, in a kernel of this Python. Raises BuildError, which names the cell that failed."""
    places = [str(LESSONS), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places), "MINIGAN_LESSON": "--quick" if quick else ""}
    environment.pop("MPLBACKEND", None)  # the kernel selects the backend that shows figures in the notebook
    resources = {"metadata": {"path": str(LESSONS)}}
    client = nbclient.NotebookClient(
        book,
        timeout=CELL_LIMIT,
        resources=resources,
        record_timing=False,
        extra_arguments=["--log-level=ERROR"],  # else each kernel warns that it does not encrypt what it says
    )
    reached = []  # the numbers of the cells that have started
    client.on_cell_execute = lambda cell, cell_index: reached.append(cell_index)
    try:
        client.execute(env=environment)
    except nbclient.exceptions.CellExecutionError as error:
        trace = re.sub(r"\x1b\[[\d;]*m", "", error.traceback)
        raise BuildError(f"{trace}\n{place(lesson, book, reached)}: {error.ename}: {error.evalue}") from None
    except nbclient.exceptions.CellTimeoutError:
        raise BuildError(f"{place(lesson, book, reached)}: took more than {CELL_LIMIT} s") from None
    except nbclient.exceptions.DeadKernelError:
        raise BuildError(f"{place(lesson, book, reached)}: the kernel died. Is there enough memory?") from None


def place(lesson: Path, book: nbformat.NotebookNode, reached: list[int]) -> str:
    """Returns where the cell is that started last: the lesson, its number in the notebook, its line in the lesson."""
    text = lesson.read_text(encoding="utf-8")
    line = text[: text.find(book.cells[reached[-1]].source)].count("\n") + 1
    return f"{lesson.name}, cell {reached[-1] + 1} (line {line} of the lesson)"


def give(book: nbformat.NotebookNode, path: Path) -> bool:
    """Writes a notebook for readers, but keeps a file in which a reader changed a cell. Returns whether it wrote."""
    if path.exists():
        old = nbformat.read(path, 4)
        if old.metadata.get("minigan", {}).get("sources") != digest(sources(old)):
            return False
    write(path, nbformat.writes(book))
    return True


# ---- the site


def documented() -> set[str]:
    """Returns the modules that the API reference describes."""
    pages = [path.read_text(encoding="utf-8") for path in (SITE / "api").glob("*.rst")]
    return set(re.findall(r"automodule:: ([\w.]+)", "\n".join(pages)))


class Sources:
    """The sources of the site, which have the layout of the repository: `add` takes a page, `write_to` writes all.

    Links start at the top (`/benchmarks/README.md`), so a page can include parts of another one. Links to modules lead
    to the API reference. Other files of the repository that a page names are added, so that readers can download them.
    A link to a folder, or to a lesson that is not built, becomes plain text.
    """

    def __init__(self, pages: dict[str, Path], modules: set[str]):
        self.pages, self.modules = pages, modules  # path of a page in the sources -> where its links start from
        self.files: dict[str, str | bytes] = {}  # path in the sources -> content

    def add(self, name: str, text: str) -> None:
        """Adds a page. A notebook is given as its JSON text."""
        if name.endswith(".ipynb"):
            book = nbformat.reads(text, 4)
            for cell in book.cells:
                cell.source = self.linked(name, cell.source) if cell.cell_type == "markdown" else cell.source
            text = nbformat.writes(book)
        elif name.endswith(".md"):
            if name == "lessons/README.md":  # a figure of the contents leads to its lesson, and not to a file
                text = re.sub(r"(<img src=\"figures/(\w+)\.png\"[^\n]*?>\])\(figures/\2\.png\)", r"\1(\2.py)", text)
            text = self.linked(name, text)
        self.files[name] = text

    def linked(self, page: str, text: str) -> str:
        """Returns the Markdown text of a page with links as the site needs them."""
        text = LINK.sub(lambda match: self.link(page, match), text)
        return re.sub(r'(<img [^>]*?src=")([^"]+)', lambda match: match[1] + self.target(page, match[2]), text)

    def link(self, page: str, match: re.Match) -> str:
        """Returns one link of a page; its text may contain a picture."""
        sign, words, target = match.groups()
        words = LINK.sub(lambda inner: self.link(page, inner), words)
        target = self.target(page, target)
        return f"{sign}[{words}]({target})" if target else words

    def target(self, page: str, target: str) -> str:
        """Returns what a link of a page leads to, or "" for what the site does not have."""
        path, hash_sign, anchor = target.partition("#")
        if not path or ":" in path or path.startswith("/"):
            return target
        file = Path(os.path.normpath(self.pages[page].parent / path))
        name = file.relative_to(ROOT).as_posix().removeprefix("lessons/site/")
        if is_lesson(file):
            name = f"lessons/notebooks/{file.stem}.ipynb"
        if name == "README.md":
            name = "index.md"  # which includes it
        if name in self.pages:
            return f"/{name}{hash_sign}{anchor}"
        if (module := re.sub(r"(/__init__)?\.py$", "", name).replace("/", ".")) in self.modules:
            return f"#{module}"
        if (ROOT / name).is_file() and not name.startswith("lessons/notebooks/"):
            self.files.setdefault(name, (ROOT / name).read_bytes())
            return f"/{name}"
        return "" if (ROOT / name).is_dir() or name.endswith(".ipynb") else target  # Sphinx says what is wrong

    def write_to(self, folder: Path) -> None:
        """Writes all sources into a folder, and removes what was there before and is no source any more."""
        for path in folder.rglob("*"):
            if path.is_file() and path.relative_to(folder).as_posix() not in self.files:
                path.unlink()
        for name, content in self.files.items():
            write(folder / name, content)


def write(path: Path, content: str | bytes) -> None:
    """Writes a file if its content changes, because Sphinx reads every file again that is newer than before."""
    content = content.encode() if isinstance(content, str) else content
    if not path.exists() or path.read_bytes() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def toctrees(names: list[str]) -> str:
    """Returns a table of contents for each part of the course. Its caption is the heading of the part in README.md."""
    captions = re.findall(r"(?m)^## (Part (\w+): .*)$", (LESSONS / "README.md").read_text(encoding="utf-8"))
    found = []
    for caption, part in captions:
        entries = [f"lessons/notebooks/{name}" for name in names if int(name[:2]) in _contents.PARTS[part]]
        if entries:
            head = ["```{toctree}", ":hidden:", ":titlesonly:", f':caption: "{caption}"', ""]
            found.append("\n".join([*head, *entries, "```"]))
    return "\n\n".join(found)


def write_sources(books: dict[str, nbformat.NotebookNode], folder: Path) -> str:
    """Writes the sources of the site: the pages of lessons/site, the texts of the repository, and the lessons.

    Returns a hash of what decides how every page looks: the settings, and the names and headings of all pages.
    """
    pages = {path.relative_to(ROOT).as_posix(): path for pattern in TEXTS for path in sorted(ROOT.glob(pattern))}
    pages |= {path.relative_to(SITE).as_posix(): path for pattern in OWN_PAGES for path in sorted(SITE.glob(pattern))}
    texts = {name: path.read_text(encoding="utf-8") for name, path in pages.items()}
    for name, book in books.items():
        pages[f"lessons/notebooks/{name}.ipynb"] = NOTEBOOKS / f"{name}.ipynb"
        texts[f"lessons/notebooks/{name}.ipynb"] = nbformat.writes(book)
    texts["index.md"] = texts["index.md"].replace(PLACE_OF_LESSONS, toctrees(list(books)))
    sources = Sources(pages, documented())
    for name, text in texts.items():
        sources.add(name, text)
    sources.write_to(folder)
    headings = [part for name in sorted(texts) for part in (name, *re.findall(r"(?m)^\W*# .*$", texts[name]))]
    return digest([(SITE / "conf.py").read_bytes(), *headings])


def sphinx(source: Path, html: Path) -> None:
    """Runs Sphinx on the sources. Every warning is an error. Raises BuildError."""
    trees = html.parent / "doctrees"
    places = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-c", SITE, "-d", trees, source, html]
    if subprocess.run(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(places)}).returncode:
        shutil.rmtree(trees, ignore_errors=True)  # else the next build would not repeat the warnings
        raise BuildError("Sphinx found the problems above.")


def build(chosen: list[Path], quick: bool, folder: Path, notebooks: Path) -> Path:
    """Builds the notebooks and the site of the chosen lessons, and returns the front page. Raises BuildError."""
    state, books = package_state(), {}
    for lesson in chosen:
        print(f"{lesson.stem:<28}", end="", flush=True)
        books[lesson.stem], done = executed(lesson, quick, folder / "executed", state)
        given = give(books[lesson.stem], notebooks / f"{lesson.stem}.ipynb")
        print(done + ("" if given else f"; {lesson.stem}.ipynb has changes of yours and stays as it is"))
    start = time.perf_counter()
    print(f"{'site':<28}", end="", flush=True)
    contents, written = write_sources(books, folder / "source"), folder / "contents.txt"
    if not written.exists() or written.read_text() != contents:
        shutil.rmtree(folder / "html", ignore_errors=True)  # all pages are written again: each has the navigation
    write(written, contents)
    sphinx(folder / "source", folder / "html")
    for name, book in books.items():  # for readers who download it; the page of the site links it
        write(folder / "html" / "lessons" / "notebooks" / f"{name}.ipynb", nbformat.writes(book))
    print(f"{time.perf_counter() - start:.1f} s")
    return folder / "html" / "index.html"


def lessons(names: list[str]) -> list[Path]:
    """Returns the lessons with these names or numbers, or all. Raises BuildError for one that does not exist."""
    found = [path for path in sorted(LESSONS.glob("[0-9][0-9]_*.py"))]
    for name in names:
        if not any(path.stem.startswith(name) for path in found):
            raise BuildError(f"there is no lesson {name}: use one of {', '.join(path.stem for path in found)}")
    return [path for path in found if not names or path.stem.startswith(tuple(names))]


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    parser = argparse.ArgumentParser(description="Builds the notebooks and the site of the course from the lessons.")
    parser.add_argument("lessons", nargs="*", help="names or numbers of lessons, such as 07 (default: all)")
    parser.add_argument("--quick", action="store_true", help="let the lessons train less")
    parser.add_argument("--folder", type=Path, help="where to build (default: lessons/site/_build, or its quick/)")
    parser.add_argument(
        "--notebooks", type=Path, default=NOTEBOOKS, help="where to write notebooks (lessons/notebooks)"
    )
    chosen = parser.parse_args(arguments)
    folder = chosen.folder or (BUILD / "quick" if chosen.quick else BUILD)
    try:
        page = build(lessons(chosen.lessons), chosen.quick, folder.resolve(), chosen.notebooks.resolve())
    except BuildError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    print(f"notebooks: {chosen.notebooks}\nsite: {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
