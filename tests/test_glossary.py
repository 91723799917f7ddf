"""Tests that the lessons explain each term of the glossary before they use it, and that all its links resolve.

`lessons/GLOSSARY.md` has a heading for each term, and its last line names the lesson and the section that explain it.
"Also:" gives other forms of the term. The lessons link each term to the glossary where they first use it.
"""

import importlib.util
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

LESSONS = Path(__file__).parents[1] / "lessons"
TEXTS = {path.stem: path.read_text(encoding="utf-8") for path in sorted(LESSONS.glob("[0-9]*.py"))}
GLOSSARY = (LESSONS / "GLOSSARY.md").read_text(encoding="utf-8")

spec = importlib.util.spec_from_file_location("glossary_contents", LESSONS / "_contents.py")
contents = sys.modules["glossary_contents"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(contents)


@dataclass(frozen=True)
class Term:
    """An entry of the glossary."""

    name: str
    lesson: str
    section: str
    forms: tuple[str, ...]  # the name and the other forms

    @property
    def slug(self) -> str:
        """The anchor of the heading, as GitHub writes it."""
        return slug(self.name)


def slug(heading: str) -> str:
    """Return the anchor of a heading: lower case, hyphens for spaces, and no other signs."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def terms(glossary: str) -> list[Term]:
    """Return the entries of a glossary. Raises ValueError for an entry without a lesson and a section."""
    found = []
    for entry in re.split(r"(?m)^### ", glossary)[1:]:
        name, _, body = entry.partition("\n")
        source = re.search(r"(?m)^\[Lesson \d+\]\((\w+)\.py\), \*(.+?)\*\.(?: Also: (.*)\.)?$", body)
        if not source:
            raise ValueError(f"{name}: expected a line such as [Lesson 1](01_neuron.py), *A neuron*.")
        also = tuple(source[3].split(", ")) if source[3] else ()
        found.append(Term(name, source[1], source[2], (name, *also)))
    return found


def sections(text: str) -> dict[str, str]:
    """Return the sections of a lesson: heading (of the lesson without its number) -> text with its code blocks."""
    markdown = "\n".join(body for is_markdown, body in contents.cells(text) if is_markdown)
    parts = re.split(r"(?m)^##? (.*)$", markdown)
    return {re.sub(r"^\d+\. ", "", heading): body for heading, body in zip(parts[1::2], parts[2::2], strict=True)}


def paragraphs(text: str) -> list[str]:
    """Return the paragraphs of a lesson in order, each as one line, without headings and blocks of code."""
    markdown = "\n\n".join(body for is_markdown, body in contents.cells(text) if is_markdown)
    found = []
    for paragraph in markdown.split("\n\n"):
        lines = [line for line in paragraph.split("\n") if not line.startswith(("    ", "#", "```", "<"))]
        found.append(" ".join(" ".join(lines).split()))
    return [paragraph for paragraph in found if paragraph]


def announces(paragraph: str) -> bool:
    """Return whether a paragraph of the first cell says what the lesson will explain."""
    return paragraph.startswith(("**Question.**", "**You will know**", "**Builds on**"))


def pattern(all_terms: list[Term]) -> re.Pattern:
    """Return the pattern that finds all terms in a text. Of two terms that fit, it takes the longer one."""
    forms = sorted({form for term in all_terms for form in term.forms}, key=len, reverse=True)
    either = "|".join(f"[{form[0].lower()}{form[0].upper()}]{re.escape(form[1:])}" for form in forms)
    return re.compile(rf"(?<![\w-])({either})(?:s|es)?(?![\w-])")


def term_of(all_terms: list[Term]) -> dict[str, Term]:
    """Return the term of each form, in lower case."""
    return {form.lower(): term for term in all_terms for form in term.forms}


def prose(paragraph: str) -> str:
    """Return a paragraph in which code, formulas and links to other places than the glossary are blank.

    The text keeps its length, so that positions stay.
    """
    for hidden in (r"`[^`]*`", r"\[[^\]\[]*\]\((?!GLOSSARY)[^)]*\)", r"\]\(GLOSSARY[^)]*\)"):
        paragraph = re.sub(hidden, lambda match: " " * len(match[0]), paragraph)
    return paragraph


def known(name: str, lessons: dict[str, contents.Lesson]) -> set[str]:
    """Return the lessons whose terms a lesson may use.

    These are itself, all lessons of part I, and all lessons that it builds on, directly or through others. In parts I
    and II, which are read in order, they are all lessons before it.
    """
    if lessons[name].number not in contents.PARTS["III"]:
        return {other for other in lessons if other <= name}
    found = {name} | {other for other, lesson in lessons.items() if lesson.number in contents.PARTS["I"]}
    return found.union(*(known(other, lessons) for other in lessons[name].builds_on if other not in found))


def used_too_early(texts: dict[str, str], all_terms: list[Term]) -> list[str]:
    """Return the uses of a term in a lesson whose reader does not know the lesson that explains it.

    The first use in a lesson is allowed in a paragraph with a link to the lesson that explains the term.
    """
    find, of = pattern(all_terms), term_of(all_terms)
    lessons = {lesson.name: lesson for lesson in contents.lessons()}
    found = []
    for name, text in texts.items():
        seen, before = set(), known(name, lessons)
        for paragraph in paragraphs(text):
            for match in find.finditer(prose(paragraph)):
                term = of[match[1].lower()]
                if term.lesson not in before and term not in seen and f"({term.lesson}.py)" not in paragraph:
                    found.append(f"{name} uses {match[0]!r}, which {term.lesson} explains: {paragraph[:100]}")
                seen.add(term)
    return found


def not_linked(texts: dict[str, str], all_terms: list[Term]) -> list[str]:
    """Return the terms whose first use in the lessons is no link to the glossary, and links to other entries."""
    find, of = pattern(all_terms), term_of(all_terms)
    found, seen = [], set()
    for name, text in texts.items():
        for paragraph in paragraphs(text):
            for match in () if announces(paragraph) else find.finditer(prose(paragraph)):
                term = of[match[1].lower()]
                rest = re.match(r"[\w*]*\]\(GLOSSARY\.md#([\w-]+)\)", paragraph[match.end(1) :])
                if term not in seen and not (rest and rest[1] == term.slug):
                    found.append(f"{name}: {match[0]!r} does not link to #{term.slug}: {paragraph[:100]}")
                seen.add(term)
    return found + [f"no lesson uses {term.name!r}" for term in all_terms if term not in seen]


def wrong_sources(texts: dict[str, str], all_terms: list[Term]) -> list[str]:
    """Return the terms whose lesson or section does not exist, or whose section does not contain the term."""
    found = []
    for term in all_terms:
        if term.section not in sections(texts.get(term.lesson, "")):
            found.append(f"{term.name}: there is no section {term.section!r} in {term.lesson}")
            continue
        body = " ".join([term.section, *sections(texts[term.lesson])[term.section].replace("`", "").split()])
        if not any(form.lower() in re.sub(r"\]\([^)]*\)|[\[\]*]", "", body).lower() for form in term.forms):
            found.append(f"{term.name}: the section {term.section!r} does not contain it")
    return found


def broken_links(text: str) -> list[str]:
    """Return the links of a text in the folder of the lessons whose file or heading does not exist."""
    found = []
    for target in re.findall(r"\]\(([^)]+)\)", text):
        file, _, anchor = target.partition("#")
        if file.startswith("http"):
            continue
        path = LESSONS / file
        if file and not path.exists():
            found.append(target)
        elif anchor:
            whole = path.read_text(encoding="utf-8") if file else text
            if anchor not in {slug(heading) for heading in re.findall(r"(?m)^#+ (.*)$", whole)}:
                found.append(target)
    return found


def test_no_term_is_used_before_it_is_explained():
    assert used_too_early(TEXTS, terms(GLOSSARY)) == []


def test_the_lessons_link_each_term_where_they_first_use_it():
    assert not_linked(TEXTS, terms(GLOSSARY)) == []


def test_the_sections_that_explain_the_terms_exist_and_contain_them():
    assert wrong_sources(TEXTS, terms(GLOSSARY)) == []


def test_terms_are_sorted_and_unique():
    forms = [form.lower() for term in terms(GLOSSARY) for form in term.forms]
    names = [term.name.lower() for term in terms(GLOSSARY)]
    assert len(names) >= 60 and names == sorted(names) and len(set(forms)) == len(forms)


PAGES = [path.name for path in LESSONS.glob("*.md")]


@pytest.mark.parametrize("name", [*sorted(PAGES), *(f"{name}.py" for name in TEXTS)])
def test_links_in_the_folder_of_the_lessons_resolve(name):
    text = (LESSONS / name).read_text(encoding="utf-8")
    assert broken_links(text if name in PAGES else "\n".join(paragraphs(text))) == []


def sections_named(text: str) -> list[tuple[str, str]]:
    """Return (lesson, section) of each link to a lesson that is followed by a section in italics."""
    return re.findall(r"\]\((\d\d_\w+)\.py\), \*(.+?)\*", " ".join(text.split()))


def missing_sections(text: str) -> list[tuple[str, str]]:
    """Return those of them that do not exist."""
    return [(name, section) for name, section in sections_named(text) if section not in sections(TEXTS.get(name, ""))]


@pytest.mark.parametrize("name", ["TEACHING.md", "README.md"])
def test_the_sections_that_a_page_names_exist(name):
    text = (LESSONS / name).read_text(encoding="utf-8")
    assert len(sections_named(text)) >= 20
    assert missing_sections(text) == []


def test_a_section_that_does_not_exist_is_found():
    text = "[1](01_neuron.py), *A\nneuron*, [lesson 1](01_neuron.py), *A neurone*, and [1](01_neurons.py), *A neuron*"
    assert missing_sections(text) == [("01_neuron", "A neurone"), ("01_neurons", "A neuron")]


@pytest.mark.parametrize("old, new, check", [
    ("(04_reading_digits.py), *Ten", "(18_labels.py), *Ten", used_too_early),
    ("*Ten classes: softmax*", "*Ten classes*", wrong_sources),
    ("*Ten classes: softmax*", "*The network*", wrong_sources),
    ("(04_reading_digits.py), *Ten", "(04_reading.py), *Ten", wrong_sources),
    ("### Softmax", "### Softmaxx", not_linked),
])  # fmt: skip
def test_a_mistake_in_the_glossary_is_found(old, new, check):
    assert GLOSSARY.count(old) == 1
    assert any("oftmax" in problem for problem in check(TEXTS, terms(GLOSSARY.replace(old, new))))


def test_a_mistake_in_a_lesson_is_found():
    early = TEXTS | {"00_numpy": TEXTS["00_numpy"].replace("# ## Selecting", "# ## Selecting\n#\n# Take softmax.")}
    assert len(used_too_early(early, terms(GLOSSARY))) == len(not_linked(early, terms(GLOSSARY))) == 1
    linked = early["00_numpy"].replace("Take softmax.", "Take softmax ([lesson 4](04_reading_digits.py)).")
    assert used_too_early(TEXTS | {"00_numpy": linked}, terms(GLOSSARY)) == []


def test_part_three_may_be_read_in_another_order():
    """Lesson 18 comes after lesson 17 and does not build on it, so it must not use its terms."""
    text = TEXTS["18_labels"].replace("# ## Digits to order", "# ## Digits to order\n#\n# No dropout here.")
    assert len(used_too_early({"18_labels": text}, terms(GLOSSARY))) == 1


def test_a_broken_link_is_found():
    assert broken_links("[a](01_neuron.py) [b](GLOSSARY.md#softmax) [c](#here)\n# Here") == []
    wrong = ["01_neurons.py", "GLOSSARY.md#softmaxx", "#there"]
    assert broken_links("\n".join(f"[x]({target})" for target in wrong)) == wrong


def test_an_entry_without_a_section_is_refused():
    with pytest.raises(ValueError, match=r"Loss: expected a line such as"):
        terms("### Loss\n\nA number.\n\n[Lesson 2](02_nudging.py)\n")
