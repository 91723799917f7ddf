"""`minigan explain`: the rules, their evidence, and commands that can be run as they are."""

import json
import shlex
import shutil

import numpy as np
import pytest

from minigan import datasets, runs
from minigan.cli import _parser, main
from minigan.metrics import explain as rules
from minigan.metrics.explain import RULES, explain, of_history, turns
from minigan.runs.explain import command_again, copied, explain_run, kept_generators, measured
from minigan.runs.saved import generator as saved_generator
from minigan.runs.saved import read
from minigan.training import Config, Diverged
from minigan.training.config import arguments, command_line

VERDICTS = {
    "diverged", "collapsed", "G copies training images", "too little data", "D memorises", "labels ignored",
    "oscillating", "D won", "G won", "unfinished", "healthy",
}  # fmt: skip
WORDS = {
    "run": "runs/r", "reason": "step 7: d_loss", "modes_are": "classes", "missing_names": ", without 3 and 5",
    "lr_g_small": 1e-4, "lr_d_small": 1e-4, "lr_d_large": 1e-3, "fewer_epochs": 3, "more_epochs": 12,
}  # fmt: skip
GOOD = dict(coverage=0.9, modes=10, modes_covered=10, missing=0, variety=0.95, lead=0.3, d_real=0.65, d_fake=0.35,
            swing=0.02, turns=1, done=1, diverged=0, samples=60_000, memory=0.02, d_right_train=0.8,
            d_right_held_out=0.78, d_right_fakes=0.8, told=0.8, near=0.98, followed=1, labels_followed=0.99,
            labels_known=0.99, copied=0.05)  # fmt: skip
SICK = {
    "diverged": dict(diverged=1),
    "collapsed": dict(coverage=0.05, modes_covered=2, missing=8, variety=0.1),
    "G copies training images": dict(copied=0.9, samples=100),
    "too little data": dict(samples=300, memory=0.3),
    "D memorises": dict(memory=0.4),
    "labels ignored": dict(followed=0.1, labels_followed=0.1),
    "oscillating": dict(moved=0.5, told=0.6),
    "D won": dict(told=0.99, d_real=1.0, d_fake=0.01, coverage=0.3),
    "G won": dict(told=0.5, coverage=0.3),
    "unfinished": dict(done=0.4, coverage=0.6),
    "healthy": {},
}


def again(changes: str) -> str:
    return f"minigan train {changes}"


# ---------------------------------------------------------------- the rules


def test_every_verdict_has_a_rule():
    assert {rule.verdict for rule in RULES} == VERDICTS == SICK.keys()


@pytest.mark.parametrize("verdict", SICK)
def test_the_first_rule_that_holds_is_the_verdict(verdict):
    first, *others = explain(GOOD | SICK[verdict], WORDS, again)
    assert first.verdict == verdict and not any(other.verdict in ("healthy", "unfinished") for other in others)
    assert "nan" not in first.text and "{" not in first.text


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.verdict}: {rule.when[0][0]}")
def test_every_condition_of_a_rule_matters(rule):
    """With figures on the other side of one limit the rule does not hold, and neither without the figure."""
    holding = {name: limit - 1 if sign == "<" else limit + 1 for name, sign, limit in rule.when}
    assert rule.holds(holding)
    for name, _, limit in rule.when:
        assert not rule.holds(holding | {name: limit})
        assert not rule.holds({other: value for other, value in holding.items() if other != name})


def test_a_statement_cites_its_evidence():
    (statement, *_) = explain(GOOD | SICK["collapsed"], WORDS, again)
    assert "5% of the data, 2 of 10 classes, with 10% of the variety" in statement.text
    assert statement.text.endswith(", without 3 and 5")


def test_a_run_that_no_rule_fits_is_unclear():
    (statement,) = explain({"evenness": 0.25, "lead": 0.5}, WORDS, again)
    assert statement.verdict == "unclear" and "evenness 0.25, lead 0.5" in statement.text


@pytest.mark.parametrize("preset", ["digits", "small", "digits-unlabelled", "points"])
def test_the_commands_can_be_run_as_they_are(preset):
    """Each of them is parsed, and gives another valid config. Only MORE-DATA is to be replaced."""
    config = Config.of(preset, lr_g=0.02, steps=500, network={"d_minibatch_std": 0.0}, batch=30)
    for verdict, figures in SICK.items():
        for statement in explain(GOOD | figures, WORDS, lambda changes: command_again(config, changes, "runs/r")):
            for command in statement.helps:
                words = shlex.split(command, comments=True)
                assert words[0] == "minigan", command
                parsed = vars(_parser().parse_args(words[1:]))
                if words[1] == "train" and not parsed["resume"]:
                    given = arguments({k: v for k, v in parsed.items() if v is not None and v != "MORE-DATA"})
                    changed = Config.of(**given)
                    assert changed != config or "MORE-DATA" in words, (verdict, command)


def test_the_options_of_a_run_start_it_again():
    config = Config.of("small", lr_g=0.02, steps=500, network={"d_norm": "batch"}, average=0.9, simultaneous=True,
                       data="shapes", data_options={"size": 32})  # fmt: skip
    again = vars(_parser().parse_args(["train", *shlex.split(command_line(config))]))
    rebuilt = Config.of(**arguments({name: value for name, value in again.items() if value is not None}))
    assert rebuilt.to_json().replace(rebuilt.kind_reason, "") == config.to_json().replace(config.kind_reason, "")


def test_a_change_replaces_the_option_of_the_run():
    config = Config.of("digits", lr_g=0.02, steps=500, network={"d_norm": "batch", "g_width": 2})
    changed = command_line(config, "--lr-g 0.01 --epochs 3 --network d_norm=none --no-simultaneous")
    assert changed == (
        "--preset digits --network g_width=2 --lr-g 0.01 --epochs 3 --network d_norm=none --no-simultaneous"
    )


def test_a_change_takes_an_option_back():
    config = Config.of("small", simultaneous=True, steps=500)
    assert command_line(config, "--no-simultaneous") == "--preset small --steps 500 --no-simultaneous"


# ---------------------------------------------------------------- figures of records


def test_turns_count_changes_between_the_outer_thirds():
    assert turns(np.array([0, 1, 0, 1, 0.5, 0.5, 1, 0])) == 4
    assert turns(np.array([0, 0.5, 1, 0.5, 0.9])) == 1 and turns(np.ones(5)) == 0


def test_figures_of_records():
    steps = np.arange(400)
    d_real = 0.5 + 0.4 * np.sign(np.sin(2 * np.pi * steps / 100))  # a square wave: four periods
    curves = {"d_real": d_real, "d_fake": np.full(400, 0.1)}
    history = [
        {"step": 100, "coverage": 0.2, "evenness": 0.4},
        {"step": 200, "coverage": ""},
        {"step": 300, "coverage": 0.7},
    ]
    figures = of_history(history, curves)
    assert figures["coverage"] == 0.7 and "evenness" not in figures
    assert figures["d_fake"] == pytest.approx(0.1) and figures["lead"] == pytest.approx(d_real[-40:].mean() - 0.1)
    assert figures["swing"] == pytest.approx(0.8, abs=0.05) and figures["turns"] == 3


def test_few_records_give_few_figures():
    assert of_history([], {"d_real": np.zeros(0), "d_fake": np.zeros(0)}) == {}
    assert of_history([], {"d_real": np.ones(3), "d_fake": np.zeros(3)}) == {"lead": 1, "d_real": 1, "d_fake": 0}


def test_copies_are_counted():
    rng = np.random.default_rng(0)
    real = rng.standard_normal((1000, 4))
    others = rng.standard_normal((1000, 4))
    assert copied(real[:50] + 1e-4, real) == 1 and abs(copied(others, real) - 0.05) < 0.03


# ---------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A short run on 80 small images with held-out ones."""
    folder = tmp_path_factory.mktemp("explain")
    images = np.random.default_rng(0).integers(0, 256, (80, 8, 8, 1), dtype=np.uint8)
    np.savez(folder / "tiny.npz", images=images, labels=np.arange(80) % 4)
    options = ["--preset", "small", "--backend", "numpy", "--batch", "8", "--hold-out", "0.2", "--quiet"]
    assert (
        main(["train", "--data", str(folder / "tiny.npz"), "--steps", "100", "--out", str(folder / "run"), *options])
        == 0
    )
    return folder / "run"


def state(folder):
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_a_run_is_explained_and_not_changed(finished, capsys):
    before = state(finished)
    assert main(["explain", str(finished), "--backend", "numpy"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("verdict: ") and "minigan" in out
    assert state(finished) == before
    assert main(["explain", str(finished), "--backend", "numpy", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["verdict"] in VERDICTS | {"unclear"} and facts["verdict"] == facts["statements"][0]["verdict"]
    assert facts["figures"]["done"] == 1 and facts["figures"]["samples"] == 64 and "memory" in facts["figures"]
    assert 0 <= facts["figures"]["copied"] <= 1


def test_samples_of_earlier_generators_are_compared(finished):
    """Kept are the epochs 5 and 10 of 12.5. Equal generators draw equal samples, one without weights one image."""
    saved = read(finished)
    assert saved.facts["step"] == 100 and len(kept_generators(saved)) == 1
    assert 0 <= explain_run(finished, backend="numpy").figures["moved"] <= 1
    training = runs.restore(saved, backend="numpy")
    now, blank = training.sampler.generator, saved_generator(saved)
    for value in blank.params.values():
        value[...] = 0
    assert measured(training, {}, [now, now])["moved"] == 0
    assert measured(training, {}, [blank])["moved"] > 0.5 and "moved" not in measured(training, {}, [])


def test_copies_are_counted_with_few_samples(tmp_path):
    """With 10 samples, from which no modes are known."""
    images = datasets.Images(np.random.default_rng(0).integers(0, 256, (10, 8, 8, 1), dtype=np.uint8), None, "few")
    training = runs.begin(Config.of("small", batch=5, steps=2, backend="numpy"), None, data=images)
    found = measured(training, {}, [])
    assert "coverage" not in found and 0 <= found["copied"] <= 1


def test_labels_that_say_nothing_are_not_followed():
    """The ratio of two agreements near zero says nothing."""
    figures = GOOD | dict(labels_known=0.01, labels_followed=-0.02)
    first, *_ = explain(figures, WORDS, again)
    assert first.verdict == "labels ignored" and "say nothing" in first.text


def test_without_the_data_the_records_are_used(finished, tmp_path, capsys):
    moved = tmp_path / "run"
    shutil.copytree(finished, moved)
    config = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps(config | {"data": str(tmp_path / "gone.npz")}))
    explanation = explain_run(moved, backend="numpy")
    assert "only the records of the run were used" in explanation.notes[0] and "gone.npz" in explanation.notes[0]
    assert "lead" in explanation.figures and "copied" not in explanation.figures
    again = explain_run(moved, str(finished.parent / "tiny.npz"), backend="numpy")
    assert "copied" in again.figures


def test_a_run_that_diverged_says_why(tmp_path):
    images = datasets.Images(np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), dtype=np.uint8), None, "noise")
    config = Config.of("small", batch=8, steps=50, lr_g=1e12, lr_d=1e12, backend="numpy")
    training = runs.begin(config, tmp_path / "run", data=images)
    with pytest.raises(Diverged, match="no longer a finite number"):
        runs.play(training, tmp_path / "run", quiet=True)
    explanation = explain_run(tmp_path / "run", backend="numpy")
    assert explanation.verdict == "diverged" and "no longer a finite number" in str(explanation)


def test_what_is_no_run_is_refused(tmp_path, capsys):
    assert main(["explain", str(tmp_path)]) == 2
    assert "is not the folder of a run" in capsys.readouterr().err


def test_figures_that_the_rules_name_are_described():
    """Each figure of a condition is in the table of this module or in that of `metrics.collapse`."""
    described = rules.__doc__ + "".join(rules.FIGURES)
    for rule in RULES:
        for name, _, _ in rule.when:
            assert name in described, name


def test_python_explains_a_training_as_the_command_line_does(finished):
    """In memory, loaded, and before `fit`."""
    import minigan

    loaded = minigan.load(finished).explain()
    assert loaded == explain_run(finished, backend="numpy") and str(loaded).startswith(f"verdict: {loaded.verdict}")
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1), dtype=np.uint8)
    gan = minigan.GAN("small", steps=4, batch=8, backend="numpy", verbose=0)
    with pytest.raises(minigan.gan.NotFittedError):
        gan.explain()
    assert gan.fit(images).explain().figures["done"] == 1
