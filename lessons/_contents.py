"""Writes the tables of lessons/README.md from the lessons: the contents, and the claims that the lessons assert.

    python lessons/_contents.py            writes the tables
    python lessons/_contents.py --check    ends with exit code 1 if the tables or reading times are out of date

A claim is an assertion with a message: `assert loss < 0.1, "The network learns the disc."` If the assertion fails,
Python prints the claim, so a reader sees which sentence is wrong.
"""

import argparse
import ast
import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
README = HERE / "README.md"
PARTS = {"I": range(10), "II": range(10, 14), "III": range(14, 27)}  # the numbers of the lessons in each part
PROSE, CODE, EXERCISE = 100, 10, 5  # words of prose and lines of code in a minute; minutes for an exercise


@dataclass(frozen=True)
class Lesson:
    """What the tables say about a lesson. Its file name begins with its number."""

    name: str
    title: str
    question: str
    builds_on: tuple[str, ...]  # the names of the lessons that it builds on
    minutes: int  # to read, as the lesson states
    seconds: str  # to run, as the lesson states: "7; 6" with the time of --quick
    claims: tuple[str, ...]
    assertions: int
    reading_time: int  # minutes to read, computed from the text

    @property
    def number(self) -> int:
        """The number of the lesson."""
        return int(self.name[:2])


def cells(text: str) -> list[tuple[bool, str]]:
    """Returns the cells of a lesson: whether each is Markdown, and its text without comment signs or the title line."""
    found = []
    for cell in re.split(r"(?m)^# %%", text)[1:]:
        title, _, body = cell.partition("\n")
        markdown = "[markdown]" in title
        found.append((markdown, re.sub(r"(?m)^# ?", "", body) if markdown else body))
    return found


def reading_time(text: str) -> int:
    """Returns the minutes to read a lesson and solve its exercises, rounded up to a multiple of five."""
    words = sum(len(body.split()) for markdown, body in cells(text) if markdown)
    lines = sum(bool(line.strip()) for markdown, body in cells(text) if not markdown for line in body.split("\n"))
    exercises = text.count("\n# %% Exercise")
    return 5 * math.ceil((words / PROSE + lines / CODE + EXERCISE * exercises) / 5)


def read(path: Path) -> Lesson:
    """Reads what the tables need from a lesson."""
    text = path.read_text(encoding="utf-8")
    head = cells(text)[0][1].replace("\n", " ")
    title = re.match(r"# (\d+)\. (.*?) +\*\*Question", head)
    question = re.search(r"\*\*Question\.\*\* (.*?) +\*\*You will know\*\*", head)
    builds_on = re.search(r"\*\*Builds on\*\* (.*?)\*\*Takes\*\*", head)
    takes = re.search(r"\*\*Takes\*\* (\d+) minutes to read, (\d+) seconds to run(?:, (\d+) with `--quick`)?[.,]", head)
    if not (title and question and builds_on and takes):
        raise ValueError(
            f"{path.name}: its first cell needs a title, a question, what it builds on and how long it takes"
        )
    asserts = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Assert)]
    asserts.sort(key=lambda node: node.lineno)
    claims = [node.msg.value for node in asserts if isinstance(node.msg, ast.Constant)]
    return Lesson(
        name=path.stem,
        title=title[2],
        question=question[1],
        builds_on=tuple(re.findall(r"\]\((\w+)\.py\)", builds_on[1])),
        minutes=int(takes[1]),
        seconds=takes[2] + (f"; {takes[3]}" if takes[3] else ""),
        claims=tuple(dict.fromkeys(claims)),
        assertions=len(asserts),
        reading_time=reading_time(text),
    )


def lessons() -> list[Lesson]:
    """Returns all lessons in the order of their numbers."""
    return [read(path) for path in sorted(HERE.glob("[0-9][0-9]_*.py"))]


def contents(part: list[Lesson]) -> str:
    """Returns the table of contents of a part."""
    rows = ["| | Lesson | Question | Figure | Read | Run |", "|--:|---|---|---|--:|--:|"]
    for lesson in part:
        figure = f'[<img src="figures/{lesson.name}.png" width="220" alt="{lesson.title}">](figures/{lesson.name}.png)'
        link = f"[{lesson.title}]({lesson.name}.py)"
        rows.append(
            f"| {lesson.number} | {link} | {lesson.question} | {figure} | {lesson.minutes} min | {lesson.seconds} s |"
        )
    return "\n".join(rows)


def claims(all_lessons: list[Lesson]) -> str:
    """Returns the table of claims."""
    rows = ["| Lesson | Claim |", "|---|---|"]
    for lesson in all_lessons:
        for k, claim in enumerate(lesson.claims):
            rows.append(f"| {'' if k else f'[{lesson.number}]({lesson.name}.py)'} | {claim} |")
    total = sum(len(lesson.claims) for lesson in all_lessons)
    assertions = sum(lesson.assertions for lesson in all_lessons)
    return f"{total} claims, from {assertions} assertions:\n\n" + "\n".join(rows)


def written(text: str, all_lessons: list[Lesson]) -> str:
    """Returns the text of README.md with new tables between the markers."""
    tables = {
        f"contents {part}": contents([lesson for lesson in all_lessons if lesson.number in numbers])
        for part, numbers in PARTS.items()
    }
    for name, table in (tables | {"claims": claims(all_lessons)}).items():
        begin, end = f"<!-- {name}: written by _contents.py -->", f"<!-- end of {name} -->"
        before, rest = text.split(begin)
        text = f"{before}{begin}\n\n{table}\n\n{end}{rest.split(end)[1]}"
    return text


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Writes the tables of lessons/README.md from the lessons.")
    parser.add_argument("--check", action="store_true", help="only check whether the tables are up to date")
    check = parser.parse_args().check
    current = lessons()
    old = README.read_text(encoding="utf-8")
    new = written(old, current)
    wrong = [
        f"{each.name} takes {each.reading_time} minutes to read"
        for each in current
        if each.minutes != each.reading_time
    ]
    print("\n".join(wrong) or "reading times: up to date")
    if check:
        sys.exit(bool(wrong) or new != old)
    README.write_text(new, encoding="utf-8")
