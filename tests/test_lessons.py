"""Tests that the lessons run, that every claim in them is true, and that their links and tables are right.

Each lesson runs in a separate process with `--quick`, as a copy and without a display. In the copy, the exercises are
solved with the solutions that the lesson gives, and their checks are uncommented. So the tests also show that the
solutions are right.
"""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from minigan.cli import main
from minigan.lab import experiment

ROOT = Path(__file__).parents[1]
LESSONS = ROOT / "lessons"
NAMES = [path.stem for path in sorted(LESSONS.glob("[0-9]*.py"))]
PART_I = NAMES[:10]
NEEDS = {"21_tables": "pandas"}  # what a lesson needs that minigan does not install
TIME_LIMIT = 900  # seconds; much longer than a lesson takes, because a machine may be busy

spec = importlib.util.spec_from_file_location("lessons_contents", LESSONS / "_contents.py")
contents = sys.modules["lessons_contents"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(contents)


def solutions(text: str) -> list[str]:
    """Return the code of the solutions that a lesson gives, in order."""
    blocks = re.findall(r"(?m)^# ```python\n((?:# .*\n)+)# ```\n", text)
    return ["\n".join(line.removeprefix("# ") for line in block.splitlines()) for block in blocks]


def solved(text: str, answers: list[str]) -> str:
    """Return the lesson with uncommented exercises, in which the answers replace the lines with dots."""
    cells = re.split(r"(?m)^(?=# %%)", text)
    exercises = [k for k, cell in enumerate(cells) if cell.startswith("# %% Exercise")]
    assert len(exercises) == len(answers) >= 2
    for k, answer in zip(exercises, answers, strict=True):
        title, *lines = cells[k].rstrip("\n").split("\n")
        lines = [re.sub(r"^# ?", "", line) for line in lines]
        dots = [i for i, line in enumerate(lines) if "..." in line]
        assert len(dots) == 1, f"{title}: expected one line with dots"
        lines[dots[0]] = answer
        cells[k] = title + "\n" + "\n".join(lines) + "\n\n"
    return "".join(cells)


def run(folder: Path, name: str, text: str, *options: str) -> subprocess.CompletedProcess:
    """Run the text as the lesson of that name, in `folder` with a copy of the lessons' helper module."""
    shutil.copy(LESSONS / "_common.py", folder)
    lesson = folder / f"{name}.py"
    lesson.write_text(text, encoding="utf-8")
    environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY", "MPLBACKEND")}
    # One thread gives the same results. On a busy machine, threads that wait for one another take ten times as long.
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    command = [sys.executable, "-W", "error", lesson.name, *options]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIME_LIMIT)


def read(name: str) -> str:
    """Return the text of a lesson."""
    return (LESSONS / f"{name}.py").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_claim_of_the_lesson_is_true_and_its_solutions_are_right(name, tmp_path):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason=f"{NEEDS[name]} is not installed: pip install 'minigan[tables]'")
    text = read(name)
    result = run(tmp_path, name, solved(text, solutions(text)), "--quick")
    assert result.returncode == 0, f"{result.stdout[-2000:]}\n{result.stderr[-4000:]}"
    for file in figures_of(name):
        with Image.open(tmp_path / "runs" / file) as figure:
            assert figure.width >= 700 and len(figure.getcolors(figure.width * figure.height)) > 10


def test_a_lesson_writes_the_committed_figures_only_if_asked(tmp_path):
    result = run(tmp_path, "01_neuron", read("01_neuron"))
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["01_diagram.png", "01_neuron.png"]
    assert not (tmp_path / "figures").exists()
    result = run(tmp_path, "01_neuron", read("01_neuron"), "--figures", "figures")
    assert result.returncode == 0 and len(list((tmp_path / "figures").iterdir())) == 2
    assert "/lessons/runs/" in (ROOT / ".gitignore").read_text(encoding="utf-8").split()


@pytest.mark.parametrize("exercise", [0, 1])
def test_a_wrong_answer_fails(exercise, tmp_path):
    answers = solutions(read("01_neuron"))
    answers[exercise] = ["bias = 0", "w_square, b_square = np.zeros((2, 4)), np.zeros(4)"][exercise]
    result = run(tmp_path, "01_neuron", solved(read("01_neuron"), answers))
    assert result.returncode != 0 and "AssertionError" in result.stderr


def test_a_failed_claim_fails_the_lesson(tmp_path):
    text = read("02_nudging")
    broken = text.replace("weights[name] -= rate * slopes[name]", "weights[name] += rate * slopes[name]")
    assert broken != text
    result = run(tmp_path, "02_nudging", broken, "--quick")  # gradient ascent increases the loss
    assert result.returncode != 0 and "AssertionError: Gradient descent" in result.stderr


@pytest.mark.parametrize("name", NAMES)
def test_the_lesson_has_all_its_parts(name):
    text = read(name)
    assert text.startswith(f"# %% [markdown]\n# # {int(name[:2])}. ")
    for part in ("# **Question.** ", "# **You will know** ", "# **Builds on** ", "**Takes** ", "# ## Exercises"):
        assert part in text, part
    assert text.count("<details><summary>Hint</summary>") == text.count("<details><summary>Solution</summary>") == 2
    assert text.count("# </details></details>\n") == len(solutions(text)) == text.count("\n# %% Exercise ") == 2
    assert (name not in PART_I) or text.count("# ## Worked by hand") >= 1  # an example with numbers
    assert text.count("\nassert ") + text.count(" assert ") >= 6
    assert f'save(figure, "{name}.png")' in text
    after = NAMES[NAMES.index(name) + 1 :]
    last_cell = text[text.rindex("# %%") :]
    assert f"({after[0]}.py)" in last_cell if after else "(README.md)" in last_cell


@pytest.mark.parametrize("name", NAMES)
def test_an_assertion_follows_each_bold_claim(name):
    """The next cell with code has an assertion whose message is the claim in the words of the table of claims."""
    cells = contents.cells(read(name))
    for k, (markdown, body) in enumerate(cells):
        bold = re.findall(r"\*\*(.+?)\*\*", body, re.S) if markdown else []
        claims = [b for b in bold if not re.match(r"Question\.|You will know|Builds on|Takes|Exercise \d", b)]
        if claims:
            code = next(body for markdown, body in cells[k + 1 :] if not markdown)
            assert any(isinstance(node, ast.Assert) and node.msg for node in ast.walk(ast.parse(code))), claims


def questions(text: str) -> list[str]:
    """Return the text of each exercise of a lesson, up to its hint."""
    return re.findall(r"(?m)^# \*\*Exercise \d\.\*\* ((?:# .+\n|.+\n)+?)#\n# <details>", text)


@pytest.mark.parametrize("name", NAMES)
def test_the_text_of_an_exercise_ends_with_its_sentence(name):
    found = questions(read(name))
    assert len(found) == 2
    assert [question for question in found if not re.search(r"[.?)`]$", question.strip())] == []


def test_numbers_follow_one_another():
    """Parts I and II are complete, and no number occurs twice. In part III, numbers of later lessons may be missing."""
    numbers = [int(name[:2]) for name in NAMES]
    assert numbers[:14] == list(range(14)) and numbers == sorted(set(numbers))
    assert set(numbers) <= {number for part in contents.PARTS.values() for number in part}


def test_a_lesson_that_needs_more_than_minigan_says_so_in_its_first_cell():
    assert NEEDS.keys() <= set(NAMES)
    for name in NAMES:
        assert ("pip install" in contents.cells(read(name))[0][1]) == (name in NEEDS)
        assert NEEDS.get(name, "") in contents.cells(read(name))[0][1]


def mentions(text: str) -> list[tuple[str, str]]:
    """Return (words, name of a lesson) of the links, and ("", name) of other mentions, in a text of any folder."""
    links = re.findall(r"\[([^\]\[]*)\]\((?:[\w./]*/)?(\d\d_\w+)\.py\)", text)
    return links + [("", name) for name in re.findall(r"\b(\d\d_\w+)\.py\b", text)]


@pytest.mark.parametrize("path", [*LESSONS.glob("*.py"), *LESSONS.glob("*.md")], ids=lambda path: path.name)
def test_links_between_lessons_resolve(path):
    text = re.sub(r"\s*\n# ?", " ", path.read_text(encoding="utf-8"))
    for words, name in mentions(text):
        assert name in NAMES, f"there is no lesson {name}"
        number = re.match(r"(?:[Ll]essons? )?(\d+)\b", words)
        assert number is None or int(number[1]) == int(name[:2]), f"{words} links to {name}"
    if path.stem in NAMES:
        title = f"# {int(path.stem[:2])}. "
        bare = re.findall(r"(?<!\[)\b[Ll]essons? \d+", text.replace(title, ""))
        assert bare == [], "write a link with the file name"


@pytest.mark.parametrize("folder", [".", "minigan", "tests", "benchmarks"])
def test_other_texts_name_lessons_that_exist(folder):
    paths = ROOT.glob("*.md") if folder == "." else (ROOT / folder).rglob("*.md")
    for path in paths:
        for name in re.findall(r"lessons/(\d\d_\w+)", path.read_text(encoding="utf-8")):
            assert name in NAMES, f"{path.name} names {name}"


def test_lessons_build_on_earlier_lessons_and_the_paths_leave_out_none():
    builds_on = {lesson.name: lesson.builds_on for lesson in contents.lessons()}
    for name, needed in builds_on.items():
        assert all(other < name for other in needed) and (needed or name == NAMES[0])
    paths = (LESSONS / "README.md").read_text(encoding="utf-8").split("## Three paths")[1].split("\n## ")[0]
    entries = re.findall(r"- \*\*(.*?)\*\*: (.*?)(?=\n- |\Z)", paths, re.S)
    assert len(entries) == 3
    for title, entry in entries:
        seen = set()
        for words, name in re.findall(r"\[([^\]]*)\]\((\w+)\.py\)", entry.split(". ")[0]):
            if words.isdigit():  # not only a section of the lesson
                assert seen.issuperset(builds_on[name]), f"{title}: {name} builds on {builds_on[name]}"
            seen.add(name)


def plans(text: str) -> dict[int, list[tuple[int, str]]]:
    """Return hours -> (minutes, name of the lesson or "") of the rows of each plan for teachers."""
    found = {}
    for hours, table in re.findall(r"(?ms)^### (\d+) hours: (.*?)(?=^##)", text):
        rows = re.findall(r"(?m)^\| (\d+) \| (?:\[\d+\]\((\w+)\.py\))? ?\|", table)
        found[int(hours)] = [(int(minutes), name) for minutes, name in rows]
    return found


def wrong_plans(text: str) -> list[str]:
    """Return what is wrong with the plans for teachers: their time, the time of a lesson, a lesson that is missing."""
    lessons = {lesson.name: lesson for lesson in contents.lessons()}
    found = []
    for hours, rows in plans(text).items():
        total = sum(minutes for minutes, _ in rows)
        if total != 60 * hours:
            found.append(f"the plan of {hours} hours takes {total} minutes")
        seen = set()
        for minutes, name in rows:
            if name and minutes < lessons[name].minutes:
                found.append(f"{hours} hours: {name} takes {lessons[name].minutes} minutes")
            if name and not seen.issuperset(lessons[name].builds_on):
                found.append(f"{hours} hours: {name} builds on {lessons[name].builds_on}")
            seen.add(name)
    return found


def test_the_plans_for_teachers_have_the_time_and_the_lessons_that_they_need():
    text = (LESSONS / "TEACHING.md").read_text(encoding="utf-8")
    assert list(plans(text)) == [6, 12, 24] and wrong_plans(text) == []
    assert {name for _, name in plans(text)[24] if name} == set(NAMES)
    row = next(line for line in text.splitlines() if "(07_forger_and_critic.py) |" in line)
    problems = wrong_plans(text.replace(row + "\n", ""))
    assert any("minutes" in problem for problem in problems) and any("builds on" in problem for problem in problems)
    assert wrong_plans(text.replace("| 45 | [0]", "| 5 | [0]", 1))[1] == "6 hours: 00_numpy takes 35 minutes"


@pytest.mark.parametrize("path", sorted(LESSONS.glob("*.md")), ids=lambda path: path.name)
def test_the_commands_on_the_pages_exist(path, capsys):
    text = path.read_text(encoding="utf-8")
    assert {name for name in re.findall(r"minigan experiment ([a-z][\w-]+)", text)} <= set(experiment.names())
    for command in sorted(set(re.findall(r"`minigan ([a-z]\w*)", text))):
        with pytest.raises(SystemExit) as end:
            main([command, "--help"])
        assert end.value.code == 0, command
    assert set(re.findall(r"python lessons/([0-9]\w+)\.py", text)) <= set(NAMES)
    capsys.readouterr()


def figures_of(name: str) -> list[str]:
    """Return the files of the figures that a lesson saves."""
    return re.findall(r'save\(figure, "([\w.]+)"\)', read(name))


def test_the_committed_figures_are_those_that_the_lessons_save():
    saved = {file for name in NAMES for file in figures_of(name)} | {"09_dcgan.gif"}
    assert saved == {path.name for path in (LESSONS / "figures").iterdir()}


@pytest.mark.parametrize("path", sorted((LESSONS / "figures").glob("*.png")), ids=lambda path: path.name)
def test_the_committed_figure_is_small(path):
    with Image.open(path) as figure:
        assert figure.width <= 1100
    assert path.stat().st_size < 120_000


def test_the_animation_of_digits_has_frames_and_is_small():
    animation = LESSONS / "figures" / "09_dcgan.gif"
    assert animation.stat().st_size < 400_000
    with Image.open(animation) as opened:
        assert opened.n_frames >= 10


def test_the_contents_and_the_table_of_claims_are_up_to_date():
    """If this fails, run `python lessons/_contents.py`."""
    text = (LESSONS / "README.md").read_text(encoding="utf-8")
    lessons = contents.lessons()
    assert contents.written(text, lessons) == text
    for lesson in lessons:
        assert len(lesson.claims) >= 3 and lesson.minutes == lesson.reading_time, lesson.name
    for target in re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", text):
        path = target[0] or target[1]
        assert path.startswith("http") or (LESSONS / path).exists(), path
