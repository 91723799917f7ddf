"""Tests that the checks catch every planted mistake by a wrong number, and not only by a crash."""

import dataclasses
import json
import pathlib
import sys

import numpy as np
import pytest

from minigan import cli, layers
from minigan.checking import planted
from minigan.checking.planted import MISTAKES, Mistake, changed
from minigan.errors import UserError

README = pathlib.Path(__file__).parent / "README.md"

HARMLESS = Mistake(
    "none", "game", "a word", "Update D once", "Change D once", "Nothing: it changes a comment.", "none.toml"
)
ENTRY = 'title = "t"\nwhere = "losses"\nfrom = "a"\nto = "b"\nimitates = "Somebody slips."\n'


def identifier(mistake):
    return f"{mistake.module}: {mistake.title}"


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES, ids=identifier)
def test_a_planted_mistake_is_caught(mistake, outcomes):
    outcome = outcomes[mistake]
    assert outcome.wrong, f"no check finds a wrong number; these crash: {outcome.crashed}"


def test_there_are_enough_mistakes_and_all_differ():
    assert len(MISTAKES) >= 134
    assert len({(m.module, m.old, m.new) for m in MISTAKES}) == len({m.title for m in MISTAKES}) == len(MISTAKES)
    places = {m.module.split(".")[0] for m in MISTAKES}
    assert places == {"layers", "losses", "optim", "game", "penalties", "backends"}


@pytest.mark.slow
def test_the_weak_checks_miss_most(outcomes):
    """A cotangent of ones and a loose tolerance miss more than half of the mistakes."""
    assert sum(outcome.weak for outcome in outcomes.values()) < len(outcomes) / 2


def test_a_changed_comment_is_not_caught():
    """No check fails, not even a weak one."""
    outcome = planted.attempt(HARMLESS)
    assert outcome.caught_by == () and not outcome.weak


# ---------------------------------------------------------------- which checks run


@pytest.fixture(scope="module")
def calls():
    """What each check calls."""
    return planted.executed()


def found(title):
    return next(mistake for mistake in MISTAKES if mistake.title == title)


@pytest.mark.slow
def test_only_the_checks_and_cases_that_call_a_changed_function_run(calls):
    selection = planted.select(calls, planted.changed_functions(found("Tanh: 1 - y instead of 1 - y^2")))
    assert selection["layer gradients"] >= {"Tanh", "Sequential"} and "Dense" not in selection["layer gradients"]
    assert {"whole steps", "frozen layers"} <= selection.keys() and selection["whole steps"] is None
    assert not {"optimizers", "losses", "batch statistics"} & selection.keys()


@pytest.mark.slow
def test_what_a_check_calls_in_threads_of_its_own_is_known(calls):
    title = "ranks: the rest of an uneven batch is left out"
    assert planted.select(calls, planted.changed_functions(found(title))) == {"ranks": None}


@pytest.mark.slow
@pytest.mark.parametrize("number", range(0, len(MISTAKES), len(MISTAKES) // 8))
def test_the_checks_and_cases_that_are_left_out_would_find_nothing(calls, number):
    mistake = MISTAKES[number]
    selection = planted.select(calls, planted.changed_functions(mistake))
    assert planted.attempt(mistake, selection) == planted.attempt(mistake)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("x + 1", "x + 2", 5),
        ("return x\n", "return -x\n", 10),  # inside another function
        ("y * 2", "y * 3", 14),  # in a method with a decorator
        ("x=0", "x=1", None),  # a default value
        ("N = 3", "N = 4", None),
        ("class C", "class D", None),
        ("# why", "# how", ()),
    ],
)
def test_the_changed_function_is_the_outermost_one_whose_body_differs(old, new, line, tmp_path, monkeypatch):
    source = """
import functools
N = 3

def f(x=0):  # why
    return x + 1

class C:

    def g(self):
        def inner(x):
            return x
        return inner
    @functools.wraps(f)
    def h(self, y):
        return y * 2
"""
    (tmp_path / "module.py").write_text(source, encoding="utf-8")
    monkeypatch.setattr(planted, "PACKAGE", tmp_path)
    changed = planted.changed_functions(dataclasses.replace(HARMLESS, module="module", old=old, new=new))
    places = () if line == () else ((str(tmp_path / "module.py"), line),)
    assert changed == (None if line is None else set(places))


def test_checks_are_selected_by_what_they_call():
    f, g = ("layers.py", 3), ("layers.py", 9)
    calls = {"values": {None: {g}, "ReLU": {f}}, "gradients": {None: set(), "Tanh": {f, g}, "Dense": set()}}
    assert planted.select(calls, {f}) == {"values": {"ReLU"}, "gradients": {"Tanh"}}
    assert planted.select(calls, {g}) == {"values": None, "gradients": {"Tanh"}}
    for functions in (None, set(), {("layers.py", 4)}):  # no function is known to matter: all checks run
        assert planted.select(calls, functions) is None


# ---------------------------------------------------------------- files and tables


def test_text_that_does_not_occur_exactly_once_is_an_error(monkeypatch):
    monkeypatch.setattr(planted.concurrent.futures, "ProcessPoolExecutor", None)  # no mistake may run
    source = (planted.PACKAGE / "losses.py").read_text(encoding="utf-8")
    for old, count in (("return", source.count("return")), ("no such text", 0)):
        wrong = dataclasses.replace(HARMLESS, module="losses", old=old)
        says = f"'a word' in mistakes/none.toml expects its text once in minigan.losses, found it {count} times"
        for run in (changed, planted.attempt, lambda mistake: planted.attempt_all([HARMLESS, mistake])):
            with pytest.raises(UserError, match=says):
                run(wrong)
    with pytest.raises(
        UserError, match=r"'a word' in mistakes/none.toml changes minigan.losings, which does not exist"
    ):
        planted.attempt(dataclasses.replace(HARMLESS, module="losings"))


def test_every_mistake_compiles():
    """A mistake that does not compile would be caught without showing anything about the checks."""
    for mistake in MISTAKES:
        compile(changed(mistake), mistake.module, "exec")


def test_the_files_contain_all_mistakes():
    """Each file of the folder is read, each family has one file, and each mistake says what it imitates."""
    assert {path.name for path in planted.FOLDER.iterdir()} == set(planted.FILES)
    families = list(dict.fromkeys((mistake.file, mistake.family) for mistake in MISTAKES))
    assert [file for file, _ in families] == list(planted.FILES)
    assert len({family for _, family in families}) == len(families)
    assert all(mistake.imitates.endswith(".") for mistake in MISTAKES)


def test_text_is_read_literally(tmp_path):
    """Backslashes, quotes, leading spaces and line breaks are kept."""
    file = tmp_path / "f.toml"
    entry = ENTRY.replace('"a"', r"'a\n\'").replace('"b"', "'''\n  a\n    'b'\n'''")
    file.write_text(f'family = "f"\n[[mistake]]\n{entry}', encoding="utf-8")
    (mistake,) = planted.read([file])
    assert (mistake.old, mistake.new) == ("a\\n\\", "  a\n    'b'\n")
    assert (mistake.family, mistake.module, mistake.title, mistake.file) == ("f", "losses", "t", "f.toml")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"[[mistake]]\n{ENTRY}", "f.toml contains mistake: expected the text `family`"),
        ('family = "f"', "f.toml contains family: expected the text `family` and"),
        ("", "f.toml contains nothing: expected the text `family` and"),
        ('family = "f"\nmistake = 3', "f.toml contains family, mistake: expected the text `family` and"),
        ('family = "f"\nmistake = [3]', "f.toml contains family, mistake: expected the text `family` and"),
        (f'family = "f"\nfamilies = 1\n[[mistake]]\n{ENTRY}', "f.toml contains family, families, mistake: expected"),
        ('family = "f"\n[[mistake]]\ntitle = ', "f.toml: Invalid value"),
        (
            f'family = "f"\n[[mistake]]\n{ENTRY}[[mistake]]\n{ENTRY}',
            r"f.toml, mistake 2 \('t'\) has the title of an entry in f.toml",
        ),
        (f'family = "f"\n[[mistake]]\n{ENTRY}reason = "r"', r"f.toml, mistake 1 \('t'\) has the unknown key `reason`"),
        (f'family = "f"\n[[mistake]]\n{ENTRY.replace("imitates", "like")}', r"\('t'\) has no text `imitates`"),
        (f'family = "f"\n[[mistake]]\n{ENTRY.replace("title", "name")}', "mistake 1 .* has no text `title`"),
        (f'family = "f"\n[[mistake]]\n{ENTRY.replace(chr(34) + "b" + chr(34), "1")}', "has no text `to`"),
    ],
)
def test_a_file_that_is_wrong_is_named_with_its_entry(text, says, tmp_path):
    file = tmp_path / "f.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=says):
        planted.read([file])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none.toml: .*No such file"):
        planted.read([tmp_path / "none.toml"])
    (tmp_path / "other.toml").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"other.toml: .*can't decode"):
        planted.read([tmp_path / "other.toml"])


def test_the_package_is_restored_after_planting(rng):
    before = {name: module for name, module in sys.modules.items() if name.startswith("minigan")}
    mistake = found("Tanh: 1 - y instead of 1 - y^2")
    with planted.planted(mistake) as checks:
        assert sys.modules["minigan.layers"] is not layers
        y, cache = checks.layers.Tanh().forward(np.ones(1))
        assert checks.layers.Tanh().backward(np.ones(1), cache)[0] == 1 - y
    assert {name: module for name, module in sys.modules.items() if name.startswith("minigan")} == before
    y, cache = layers.Tanh().forward(np.ones(1))
    assert layers.Tanh().backward(np.ones(1), cache)[0] == 1 - y * y


@pytest.mark.slow
def test_the_tables_count_the_outcomes(outcomes):
    some = list(outcomes.values())
    details, summary = planted.details(some), planted.summary(some)
    assert len(details.splitlines()) == len(some) + 1 and "NOTHING" not in details
    last = [cell.strip() for cell in summary.splitlines()[-1].strip("|").split("|")]
    single = sum(len(o.caught_by) == 1 for o in some)
    assert last == ["**all**", *(str(n) for n in (len(some), len(some), single, sum(o.weak for o in some)))]


@pytest.mark.slow
def test_the_table_in_the_readme_is_generated(outcomes):
    """`minigan gradcheck --planted --update tests/README.md` writes it."""
    assert planted.block(README.read_text(encoding="utf-8")) == planted.summary(list(outcomes.values()))


def test_the_table_is_written_between_its_markers(tmp_path):
    outcome = planted.Outcome(MISTAKES[0], ("layer gradients",), (), True)
    file = tmp_path / "README.md"
    file.write_text(f"before\n{planted.BEGIN}\nold\n{planted.END}\nafter\n", encoding="utf-8")
    planted.update(file, [outcome])
    text = file.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert planted.block(text) == planted.summary([outcome])
    file.write_text("no markers", encoding="utf-8")
    with pytest.raises(UserError, match="expected one <!-- planted:begin -->"):
        planted.update(file, [outcome])


def test_the_json_output_says_what_is_imitated(monkeypatch, capsys):
    monkeypatch.setattr(planted, "attempt_all", lambda: [planted.Outcome(MISTAKES[0], ("layer gradients",), (), True)])
    assert cli.main(["gradcheck", "--planted", "--json"]) == 0
    (outcome,) = json.loads(capsys.readouterr().out)
    assert outcome["imitates"] == MISTAKES[0].imitates and outcome["caught_by"] == ["layer gradients"]
