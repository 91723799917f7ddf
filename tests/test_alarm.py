"""What the numbers of an epoch mean, and the problems of a training that are reported once."""

import numpy as np
import pytest

from minigan.cli import main
from minigan.metrics import alarm


def row(d_loss=1.3, g_loss=0.8, d_real=0.6, d_fake=0.4, step=1000) -> dict:
    return dict(d_loss=d_loss, g_loss=g_loss, d_real=d_real, d_fake=d_fake, step=step)


def samples(n=20, shape=(8, 8, 1), seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


@pytest.mark.parametrize(
    ("d_real", "d_fake", "says"),
    [
        (0.4, 0.6, "D takes fakes for real"),
        (0.5, 0.5, "D cannot tell fakes from real"),
        (0.65, 0.35, "both learn"),
        (0.9, 0.1, "D is ahead"),
        (0.999, 0.001, "D is far ahead"),
    ],
)
def test_an_epoch_has_a_meaning(d_real, d_fake, says):
    assert alarm.meaning(row(d_real=d_real, d_fake=d_fake)) == says


SAME = np.repeat(samples(1), 20, axis=0)
CONSTANT = np.broadcast_to(samples(20, (1, 1, 1)), (20, 8, 8, 1))
COLOURED = np.broadcast_to(samples(20, (1, 1, 3)), (20, 8, 8, 3))
BY_CLASS = np.stack([samples(2)[i % 2] for i in range(20)])


@pytest.mark.parametrize(
    ("of", "drawn", "labels", "says"),
    [
        (row(d_loss=1e-9, g_loss=88), samples(), None, "absurd (D 1e-09, G 88"),
        (row(d_loss=-4e5, g_loss=3), samples(), None, "absurd (D -4e+05, G 3"),
        (row(d_loss=2e3), samples(), None, "absurd"),
        (row(d_real=0.999, d_fake=0.0001), samples(), None, "always wins (D(real) 0.999, D(fake) 0.000)"),
        (row(d_real=1, d_fake=0), samples(), None, "--lr-d"),
        (row(), CONSTANT, None, "constant pictures"),
        (row(), COLOURED, None, "constant pictures"),
        (row(), np.zeros((20, 8, 8, 1), np.uint8), None, "constant pictures"),
        (row(), SAME, None, "the same sample for every noise"),
        (row(), BY_CLASS, np.arange(20) % 2, "the same sample for every noise"),
        (row(), np.ones((20, 2), np.float32), None, "the same sample for every noise"),
    ],
)
def test_a_problem_is_reported_once_with_advice(of, drawn, labels, says):
    at_once, lasting = "always wins" in says or "--lr-d" in says, "absurd" in says
    least = 1 if at_once else alarm.PATIENCE if lasting else alarm.AGAIN
    watch = alarm.Alarm()
    found = [watch.check(of, drawn, labels, decays=True) for _ in range(least + alarm.PATIENCE)]
    assert [len(texts) for texts in found] == [0] * (least - 1) + [1] + [0] * alarm.PATIENCE
    (text,) = found[least - 1]
    assert says in text and "\n" not in text and "usually help" in text


@pytest.mark.parametrize(
    ("of", "drawn", "least"),
    [(row(d_loss=2e3), samples(), "PATIENCE"), (row(), CONSTANT, "AGAIN"), (row(), SAME, "AGAIN")],
)
def test_a_problem_that_does_not_last_is_not_reported(of, drawn, least):
    watch = alarm.Alarm()
    for _ in range(3):
        for _ in range(getattr(alarm, least) - 1):
            assert watch.check(of, drawn, decays=True) == []
        assert watch.check(row(), samples(), decays=True) == []


def test_constant_pictures_and_one_picture_are_one_problem():
    watch = alarm.Alarm()
    found = [watch.check(row(), drawn, decays=True) for drawn in (CONSTANT, SAME, CONSTANT, SAME)]
    assert [len(texts) for texts in found] == [0, 0, 1, 1] and watch.reported == {"pictures", "noise"}


@pytest.mark.parametrize("drawn", [samples(), samples(20, (8, 8, 3)), np.random.default_rng(0).normal(size=(20, 2))])
def test_a_generator_that_does_not_change_is_reported_once(drawn):
    watch = alarm.Alarm()
    assert watch.check(row(), drawn) == []
    (text,) = watch.check(row(), drawn)
    assert "no longer changes" in text and "--lr-g" in text
    assert watch.check(row(), drawn) == []
    assert alarm.Alarm().check(row(), drawn, decays=True) == []


def test_a_good_training_is_not_reported():
    watch = alarm.Alarm()
    mostly_empty = samples(20) * (np.arange(20) < 3)[:, None, None, None].astype(np.uint8)
    assert watch.check(row(), samples()) == []
    assert watch.check(row(d_real=0.98, d_fake=0.02, g_loss=4.5), samples(seed=1)) == []
    assert watch.check(row(), mostly_empty) == [], "some empty pictures are no alarm"
    decaying = alarm.Alarm()
    for _ in range(3):
        assert decaying.check(row(), samples(), decays=True) == []


def test_the_first_steps_are_not_judged_by_their_samples():
    assert alarm.Alarm().check(row(step=3), SAME) == []


# ---------------------------------------------------------------- the figures of a check

GOOD = dict(
    modes=20,
    modes_covered=17,
    evenness=0.8,
    near=0.95,
    variety=0.95,
    nearest_fake=1.0,
    copies=0.0,
    coverage=0.8,
    labels_followed=0.85,
    labels_known=0.9,
    d_right_train=0.7,
    d_right_held_out=0.65,
    d_right_fakes=0.7,
    dead_units=0.1,
    d_gradient=2.0,
    g_gradient=1.0,
)
COLLAPSES = {
    "far": (dict(near=0.03, modes_covered=0), "do not resemble the data (3% are as near"),
    "copies": (dict(copies=0.6), "60% of the samples are copies of others"),
    "variety": (dict(variety=0.11), "hardly differ (0.11 times"),
    "modes": (dict(modes_covered=4), "cover 4 of 20 modes of the data (mode collapse)"),
    "few": (dict(evenness=0.2), "cover 17 of 20 modes of the data, and nearly all are in few of them"),
    "fall": (dict(coverage=0.05), "near 5% of the real samples, and were near 80% before"),
}
OTHERS = {
    "memory": (dict(d_right_train=0.99, d_right_held_out=0.6), "right on 99% of training samples and 60% of held-out"),
    "dead": (dict(dead_units=0.7), "70% of the generator's units are dead"),
    "gradient": (dict(g_gradient=1e-7), "gets no gradient (norm 1.0e-07)"),
}


def checked(watch: alarm.Alarm, **figures) -> dict[str, str]:
    """Return what is reported after a check with these figures; the others are good ones."""
    return watch.kinds(row() | GOOD | figures, {})


@pytest.mark.parametrize("name", COLLAPSES)
def test_a_collapse_is_reported_once_after_some_checks(name):
    figures, says = COLLAPSES[name]
    watch = alarm.Alarm()
    assert checked(watch) == {}
    for _ in range(alarm.AGAIN - 1):
        assert checked(watch, **figures) == {} and not watch.collapsed
    ((kind, text),) = checked(watch, **figures).items()
    assert says in text and "\n" not in text and "usually helps" in text and kind in alarm.COLLAPSE and watch.collapsed
    for _ in range(5):
        assert checked(watch, **figures) == {}


@pytest.mark.parametrize("name", COLLAPSES)
def test_too_few_bad_checks_are_not_reported(name):
    watch = alarm.Alarm()
    for _ in range(6):
        assert checked(watch) == {}
        for _ in range(alarm.AGAIN - 1):
            assert checked(watch, **COLLAPSES[name][0]) == {}
    assert not watch.collapsed


def test_poor_samples_are_reported_if_they_last():
    poor = dict(coverage=0.12, variety=0.6)
    watch, late = alarm.Alarm(), alarm.Alarm()
    for _ in range(alarm.LASTING - 1):
        assert checked(watch, **poor) == {}
    ((kind, text),) = checked(watch, **poor).items()
    assert kind == "modes" and watch.collapsed
    assert "stay near 12% of the real samples, with 0.60 of their variety" in text and "usually helps" in text
    for figures in [dict(near=0.0, coverage=0.0)] * 3 + [poor] * (alarm.LASTING - 4):
        assert checked(late, **figures) == {}
    assert list(checked(late, **poor)) == ["modes"], "a start that resembles nothing counts"
    for one in (dict(coverage=0.12), dict(variety=0.6)):
        other = alarm.Alarm()
        for _ in range(2 * alarm.LASTING):
            assert checked(other, **one) == {}, "either alone is none"


@pytest.mark.parametrize("name", sorted(COLLAPSES.keys() - {"fall"}))
def test_a_run_that_was_never_good_has_more_time(name):
    watch = alarm.Alarm()
    for _ in range(alarm.PATIENCE - 1):
        assert checked(watch, **{"coverage": 0.0} | COLLAPSES[name][0]) == {}
    assert checked(watch, coverage=0.01) == {}, "a slow start is no collapse, and a low coverage alone is none"
    slow = alarm.Alarm()
    found = [checked(slow, **COLLAPSES[name][0]) for _ in range(alarm.PATIENCE + 1)]
    assert [bool(each) for each in found] == [False] * (alarm.PATIENCE - 1) + [True, False]


def test_only_one_kind_of_collapse_is_reported():
    watch = alarm.Alarm()
    found = [checked(watch, near=0.0, copies=1.0, modes_covered=0) for _ in range(alarm.PATIENCE)]
    assert list(found[-1]) == ["far"] and not any(found[:-1])
    assert checked(watch, copies=1.0) == {}, "the same collapse in another form"
    of_samples = alarm.Alarm()
    checked(of_samples)
    found = [of_samples.kinds(row() | GOOD | dict(near=0.0), {"noise": "one sample"}) for _ in range(alarm.AGAIN)]
    assert list(found[-1]) == ["noise"] and not any(found[:-1])


@pytest.mark.parametrize("name", OTHERS)
def test_other_problems_of_a_check_are_reported_once_and_are_no_collapse(name):
    figures, says = OTHERS[name]
    watch = alarm.Alarm()
    least = alarm.AGAIN - 1
    for now in [figures] * least + [{}] + [figures] * least:
        assert checked(watch, **now) == {}
    found = checked(watch, **figures)
    assert list(found) == [name] and says in found[name] and "usually help" in found[name]
    assert checked(watch, **figures) == {} and not watch.collapsed


def test_labels_that_are_ignored_are_reported_after_some_checks():
    watch = alarm.Alarm()
    for _ in range(alarm.SLOW - 1):
        assert checked(watch, labels_followed=0.02) == {}
    text = checked(watch, labels_followed=0.02)["labels"]
    assert "ignores its labels" in text and not watch.collapsed
    slow = alarm.Alarm()
    for followed in [*[0.0] * 9, 0.3, *[0.0] * 9]:
        assert checked(slow, labels_followed=followed) == {}


def test_labels_that_say_nothing_are_reported_at_once():
    watch = alarm.Alarm()
    text = checked(watch, labels_followed=0.0, labels_known=0.01)["labels"]
    assert "the labels say nothing" in text and "--unconditional" in text
    assert checked(watch, labels_followed=0.0, labels_known=0.01) == {}


def test_good_figures_and_absent_figures_are_not_reported():
    watch, few = alarm.Alarm(), alarm.Alarm()
    for _ in range(8):
        assert checked(watch) == {}
        assert checked(watch, labels_followed=0.3, copies=0.3, variety=0.5, evenness=0.4, modes_covered=8) == {}
        assert few.kinds(row() | dict(d_right_train=1.0, d_right_fakes=1.0, d_gradient=0.1, g_gradient=0.1), {}) == {}


def test_every_kind_of_problem_is_described():
    kinds = {line.split()[0] for line in alarm.__doc__.splitlines() if line.rstrip().endswith("  yes")}
    assert kinds == alarm.COLLAPSE


# ---------------------------------------------------------------- whole trainings


def train(tmp_path, capsys, *options) -> tuple[str, str]:
    images = np.random.default_rng(0).integers(0, 256, (64, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "x.npy", images)
    line = ["train", "--preset", "mlp", "--batch", "4", "--backend", "numpy", "--epochs", "8", "--seed", "0"]
    main([*line, "--data", str(tmp_path / "x.npy"), "--out", str(tmp_path / "r"), *options])
    captured = capsys.readouterr()
    return captured.out + captured.err, captured.err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--lr-g", "1e-12"], "no longer changes"),
        (["--lr-d", "0.5", "--epochs", "10"], "absurd"),
        (["--lr-d", "1e-3", "--lr-g", "1e-7", "--epochs", "30"], "always wins"),
    ],
)
def test_a_training_that_goes_wrong_says_so_once(options, says, tmp_path, capsys):
    text, _ = train(tmp_path, capsys, *options)
    assert text.count(says) == 1 and "warning: " in text
    assert text.count("D(fake) 0.") >= 8 or text.count("D is") + text.count("learn") >= 8


def test_a_good_training_prints_a_meaning_for_each_epoch_and_no_warning(tmp_path, capsys):
    text, _ = train(tmp_path, capsys)
    assert "warning" not in text
    lines = [line for line in text.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 8 and all(line.rpartition(": ")[2] for line in lines)


def test_quiet_prints_no_warning(tmp_path, capsys):
    text, _ = train(tmp_path, capsys, "--lr-g", "1e-12", "--quiet")
    assert text == ""
