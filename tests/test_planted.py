"""The checks are shown to fail: every planted mistake is caught, by a wrong number and not only by a crash."""

import pathlib
import sys

import numpy as np
import pytest

from minigan import layers
from minigan.checking import planted
from minigan.checking.planted import MISTAKES, Mistake, changed
from minigan.errors import UserError

README = pathlib.Path(__file__).parent.parent / "README.md"


def identifier(mistake):
    return f"{mistake.module}: {mistake.title}"


@pytest.mark.parametrize("mistake", MISTAKES, ids=identifier)
def test_a_planted_mistake_is_caught(mistake, outcomes):
    outcome = outcomes[mistake]
    assert outcome.wrong, f"no check finds a wrong number; these crash: {outcome.crashed}"


def test_there_are_enough_of_them_and_no_two_alike():
    assert len(MISTAKES) >= 40
    assert len({(m.module, m.old, m.new) for m in MISTAKES}) == len({m.title for m in MISTAKES}) == len(MISTAKES)
    assert {m.module for m in MISTAKES} >= {"layers", "losses", "optim", "game", "penalties", "backends.numpy_backend"}


def test_the_weak_checks_miss_most(outcomes):
    """What the comparison is for: a cotangent of ones and a loose tolerance let more than half of them pass."""
    assert sum(outcome.weak for outcome in outcomes.values()) < len(outcomes) / 2


def test_nothing_planted_nothing_caught():
    """A change of a comment only: no check fails, the weak ones neither."""
    harmless = Mistake("none", "game", "a word", "D learns to tell", "D learns to see")
    outcome = planted.attempt(harmless)
    assert outcome.caught_by == () and not outcome.weak


def test_text_that_is_not_there_exactly_once_is_an_error():
    twice = Mistake("f", "losses", "t", "return", "pass")
    for mistake, source, count in ((twice, "return 1\nreturn 2", 2), (twice, "", 0)):
        with pytest.raises(
            UserError, match=f"planted mistake 't' expects its text once in losses, found it {count} times"
        ):
            changed(mistake, source)
    with pytest.raises(UserError, match="found it 0 times"):
        planted.attempt(Mistake("f", "losses", "t", "no such text in this module", ""))


def test_every_mistake_leaves_a_program(outcomes):
    """What does not compile, or has a name wrong, would be 'caught' without proving anything."""
    for mistake in MISTAKES:
        path = pathlib.Path(layers.__file__).parent / (mistake.module.replace(".", "/") + ".py")
        path = path if path.exists() else path.parent / mistake.module / "__init__.py"
        compile(changed(mistake, path.read_text(encoding="utf-8")), str(path), "exec")


def test_planting_leaves_no_trace(rng):
    before = {name: module for name, module in sys.modules.items() if name.startswith("minigan")}
    mistake = next(m for m in MISTAKES if m.title == "Tanh: 1 - y instead of 1 - y^2")
    with planted.planted(mistake) as checks:
        assert sys.modules["minigan.layers"] is not layers
        y, cache = checks.layers.Tanh().forward(np.ones(1))
        assert checks.layers.Tanh().backward(np.ones(1), cache)[0] == 1 - y
    assert {name: module for name, module in sys.modules.items() if name.startswith("minigan")} == before
    y, cache = layers.Tanh().forward(np.ones(1))
    assert layers.Tanh().backward(np.ones(1), cache)[0] == 1 - y * y


def test_the_tables_count_what_happened(outcomes):
    some = list(outcomes.values())
    details, summary = planted.details(some), planted.summary(some)
    assert len(details.splitlines()) == len(some) + 1 and "NOTHING" not in details
    last = [cell.strip() for cell in summary.splitlines()[-1].strip("|").split("|")]
    single = sum(len(o.caught_by) == 1 for o in some)
    assert last == ["**all**", *(str(n) for n in (len(some), len(some), single, sum(o.weak for o in some)))]


def test_the_readmes_table_is_the_generated_one(outcomes):
    """`minigan gradcheck --planted --update README.md` writes it."""
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
