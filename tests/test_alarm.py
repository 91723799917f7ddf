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
    watch = alarm.Alarm()
    (text,) = watch.check(of, drawn, labels)
    assert says in text and "\n" not in text and "usually help" in text
    assert watch.check(of, drawn + (drawn.dtype.type(1) if drawn.ndim == 2 else 0), labels, decays=True) == []


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
        (["--lr-d", "0.5"], "absurd"),
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
