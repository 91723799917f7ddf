"""Test experiments: rows, resuming, failures, tables, intervals, verdicts, and the repetition of stored rows."""

import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from minigan import runs
from minigan.cli import main
from minigan.errors import UserError
from minigan.lab import Column, compared, runner, target
from minigan.lab.experiment import LOGGED, listed, load, names
from minigan.lab.results import Results, bootstrap, cells, markdown, table

RESULTS = Path(runner.__file__).parent / "results"  # of the experiments that were run in full

OWN = '''
"""Does more help?"""

import os

from minigan.lab import Column, Experiment


def run(row):
    with open(row.folder / "attempts", "a") as file:
        file.write(f"{os.getpid()} {row.threads}\\n")
    for step in range(30):
        row.log(row.settings["more"] + step)
    if row.settings["more"] == 13:
        raise ValueError("thirteen")
    return {"loss": 5.0 - row.settings["more"] + 0.1 * row.seed, "other": row.seed}


EXPERIMENT = Experiment(
    question=__doc__,
    arms={"none": {"more": 0}, "some": {"more": 1}, "much": {"more": 2}},
    run=run,
    columns={"loss": Column("loss", "lower", 2), "other": Column("other")},
    minutes=1,
    seeds={"none": 3, "some": 3},
    alone=("much",),
)
'''
THEN = """
def then(results):
    return {"best": {"more": 10 * results.of(results.best(results.arms, "loss"))[0]["settings"]["more"]}}


"""
POINTS = '''
"""Does the loss change how many modes are covered?"""

from minigan.lab import Column, Experiment, gan, mixture

EXPERIMENT = Experiment(
    question=__doc__,
    arms={"non-saturating": {"preset": "points"}, "hinge": {"preset": "points", "loss": "hinge"}},
    run=gan(mixture, steps=60, batch=32),
    columns={"reverse_kl": Column("reverse KL", "lower"), "modes": Column("modes", "higher", 0)},
    minutes=1,
)
'''


@pytest.fixture
def own(tmp_path) -> Path:
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path


def attempts(folder: Path) -> int:
    """Return how many rows were run in a folder so far."""
    return sum(len(path.read_text().splitlines()) for path in folder.glob("rows/*/attempts"))


def results(values: dict[str, list[float]], better: str = "lower") -> Results:
    rows = [
        {"arm": arm, "seed": seed, "settings": {}, "figures": {"loss": value}}
        for arm, its in values.items()
        for seed, value in enumerate(its)
    ]
    return Results(rows, {"loss": Column("loss", better, 2)}, next(iter(values)))


# ---------------------------------------------------------------- results and verdicts


def test_the_interval_contains_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    draws = rng.normal(3.0, 2.0, (400, 30))
    held = np.mean([low <= 3.0 <= high for low, high in map(bootstrap, draws)])
    assert 0.90 < held < 0.98


def test_the_interval_of_a_difference_is_that_of_two_samples():
    rng = np.random.default_rng(1)
    a, b = rng.normal(5, 1, 200), rng.normal(3, 2, 200)
    low, high = bootstrap(a, b)
    error = np.sqrt(a.var() / 200 + b.var() / 200)
    assert np.isclose(low, a.mean() - b.mean() - 1.96 * error, atol=0.05)
    assert np.isclose(high, a.mean() - b.mean() + 1.96 * error, atol=0.05)


@pytest.mark.parametrize(
    ("values", "better", "said"),
    [
        ([1.0, 1.1, 1.2], "lower", "it helps"),
        ([1.0, 1.1, 1.2], "higher", "it does not help"),
        ([9.0, 9.1, 9.2], "lower", "it does not help, it harms"),
        ([4.8, 5.0, 5.3], "lower", "no difference is shown"),
        ([4.0], "lower", "one seed, no interval"),
        ([4.0, 4.1], "lower", "2 seeds, no interval"),
    ],
)
def test_a_verdict_says_what_the_seeds_show(values, better, said):
    found = compared(results({"base": [5.0, 5.1, 4.9], "other": values}, better), "other", "base", "loss")
    assert said in found
    assert ("interval +" in found or "interval -" in found) == (len(values) >= 3)


def test_targets_are_met_or_missed():
    assert target("modes", 8, ">=", 8).startswith("target met")
    assert target("modes", 7.99, ">=", 8).startswith("target missed")
    assert target("KL", float("nan"), "<=", 0.05).startswith("target missed")
    assert target("modes", 667, ">", 667).startswith("target missed")


def test_one_seed_is_marked_in_the_table():
    found = results({"base": [5.0, 5.1, 4.9], "other": [4.0]})
    for text in (table(found), markdown(found)):
        line = next(line for line in text.splitlines() if "other" in line)
        assert "one seed, no interval" in line and "(" not in line
        assert "5.00 (4.90 to 5.10)" in text


def test_equal_seeds_have_no_interval_in_the_table():
    found = results({"base": [5.0, 5.0, 5.0], "other": [4.0, 5.0, 6.0]})
    assert found.text("base", "loss") == "5.00" and found.text("other", "loss") == "5.00 (4.00 to 6.00)"


def test_a_figure_that_is_missing_or_infinite_is_left_out():
    found = results({"base": [1.0, float("inf"), 3.0]})
    assert found.mean("base", "loss") == 2.0 and found.interval("base", "loss") is None
    assert np.isnan(found.mean("base", "absent")) and found.text("base", "loss") == "2.00"


# ---------------------------------------------------------------- the runner


def test_an_experiment_writes_table_picture_and_rows(own, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["experiment", str(own), "--out", str(out), "--jobs", "2", "--json", str(tmp_path / "r.json")]) == 0
    said = capsys.readouterr().out
    assert "Does more help?" in said and "some: loss 4.10, with none 5.10" in said and "it helps" in said
    assert "much: loss 3.00, with none 5.10 (one seed, no interval)" in said
    text = (out / "results.json").read_text()
    stored = json.loads(text)
    assert [json.loads(line.strip(" ,")) for line in text.splitlines() if '"arm"' in line] == stored["rows"]
    assert json.loads((tmp_path / "r.json").read_text())["rows"] == stored["rows"]
    assert [(row["arm"], row["seed"]) for row in stored["rows"]] == [
        *(("none", k) for k in range(3)), *(("some", k) for k in range(3)), ("much", 0),
    ]  # fmt: skip
    assert all(row["first"] == [row["settings"]["more"] + k for k in range(LOGGED)] for row in stored["rows"])
    assert stored["machine"]["cores"] == os.cpu_count()
    assert (out / "figure.png").read_bytes()[:4] == b"\x89PNG" and "| some |" in (out / "table.md").read_text()
    threads = {path.parent.name: path.read_text().split()[1] for path in out.glob("rows/*/attempts")}
    assert threads.pop("much-seed-0") == str(len(os.sched_getaffinity(0))) and set(threads.values()) == {"1"}


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_the_committed_results_are_complete_and_have_their_verdict(path):
    stored = json.loads(path.read_text())
    experiment = load(path.stem)
    assert stored["experiment"] == path.stem and not stored["failed"] and path.with_suffix(".png").exists()
    found = Results(stored["rows"], experiment.columns, next(iter(experiment.arms)))
    assert experiment.verdict(found) == stored["verdict"]
    for arm in experiment.arms:
        assert [row["seed"] for row in found.of(arm)] == list(experiment.seeds_of(arm)), arm


def test_the_table_of_the_readme_has_a_line_for_each_result_with_its_figures():
    readme = (RESULTS.parents[2] / "README.md").read_text(encoding="utf-8")
    section = readme[readme.index("## What the laboratory found") :]
    lines = re.findall(r"^\| `([a-z-]+)` \| (.*) \| \[figure\]\((.*)\) \|$", section[: section.index("\n## ")], re.M)
    assert [name for name, _, _ in lines] == sorted(path.stem for path in RESULTS.glob("*.json"))
    for name, found, figure in lines:
        assert figure == f"minigan/lab/results/{name}.png"
        experiment, stored = load(name), json.loads((RESULTS / f"{name}.json").read_text())
        results = Results(stored["rows"], experiment.columns, next(iter(experiment.arms)))
        known = " ".join([*itertools.chain(*cells(results)), *stored["verdict"]])
        numbers = re.findall(r"\d+\.\d+", found)
        assert numbers and set(numbers) <= set(re.findall(r"\d+\.\d+", known)), name


def test_rows_that_are_finished_are_not_repeated(own, tmp_path):
    out = tmp_path / "out"
    runner.run(str(own), out, only="none", jobs=1, quiet=True)
    assert attempts(out) == 3
    report = runner.run(str(own), out, jobs=1, quiet=True)
    assert attempts(out) == 7 and len(report.results.rows) == 7
    runner.run(str(own), out, seeds=4, jobs=1, quiet=True)
    assert attempts(out) == 7 + 5


def test_a_row_can_be_repeated_alone(own, tmp_path):
    first = runner.run(str(own), tmp_path / "a", jobs=1, quiet=True)
    row = first.results.rows[4]
    command = shlex.split(row["again"])
    assert main([*command[1:], "--out", str(tmp_path / "b"), "--jobs", "1", "--quiet"]) == 0
    stored = json.loads((tmp_path / "b" / "results.json").read_text())["rows"]
    assert [(found["arm"], found["seed"], found["figures"]) for found in stored] == [("some", 1, row["figures"])]


def test_a_row_that_fails_says_why_and_the_others_go_on(own, tmp_path, capsys):
    own.write_text(OWN.replace('"some": {"more": 1}', '"some": {"more": 13}'))
    assert main(["experiment", str(own), "--out", str(tmp_path / "out"), "--jobs", "1"]) == 1
    said = capsys.readouterr().out
    assert "failed: some, seed 2: ValueError: thirteen" in said and "much" in said
    own.write_text(OWN)  # corrected
    with pytest.raises(UserError, match="no row whose name contains 'thirteen'"):
        runner.run(str(own), tmp_path / "out", only="thirteen")
    assert not runner.run(str(own), tmp_path / "out", jobs=1, quiet=True).failed


def test_the_second_stage_follows_from_the_first_and_one_of_its_rows_can_be_repeated_alone(own, tmp_path):
    text = OWN.replace('    alone=("much",),\n', "    then=then,\n").replace("EXPERIMENT =", THEN + "EXPERIMENT =")
    own.write_text(text)
    report = runner.run(str(own), tmp_path / "a", jobs=1, quiet=True)
    assert [row["settings"]["more"] for row in report.results.of("best")] == [20]
    alone = runner.run(str(own), tmp_path / "b", only="best, seed 0", jobs=1, quiet=True)
    assert alone.results.of("best")[0]["figures"] == report.results.of("best")[0]["figures"]
    runner.run(str(own), tmp_path / "c", only="some", jobs=1, quiet=True)
    assert attempts(tmp_path / "c") == 3, "rows of the first stage alone do not start the second"
    with pytest.raises(UserError, match="no row whose name contains 'worst'"):
        runner.run(str(own), tmp_path / "a", only="worst", jobs=1, quiet=True)


def test_a_row_that_fails_does_not_stop_the_second_stage(own, tmp_path):
    text = OWN.replace('    alone=("much",),\n', "    then=then,\n").replace("EXPERIMENT =", THEN + "EXPERIMENT =")
    own.write_text(text.replace('"some": {"more": 1}', '"some": {"more": 13}'))
    report = runner.run(str(own), tmp_path / "out", jobs=1, quiet=True)
    assert len(report.failed) == 3 and len(report.results.of("best")) == 1


def test_rows_with_other_settings_are_refused(own, tmp_path):
    runner.run(str(own), tmp_path, only="much", jobs=1, quiet=True)
    own.write_text(OWN.replace('"much": {"more": 2}', '"much": {"more": 3}'))
    with pytest.raises(UserError, match="made with other settings"):
        runner.run(str(own), tmp_path, only="much", jobs=1, quiet=True)
    own.write_text(OWN)
    with pytest.raises(UserError, match="made with other settings"):
        runner.run(str(own), tmp_path, only="much", minutes=0.5, jobs=1, quiet=True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["optimisers"], "unknown experiment 'optimisers', and not a file that ends in .py"),
        (["none.py"], "none.py does not exist"),
        ([], "name an experiment"),
        (["ablation", "--seeds", "0"], "seeds is at least 1, got 0"),
        (["ablation", "--jobs", "0"], "jobs is at least 1, got 0"),
        (["ablation", "--minutes", "0"], "minutes is above 0, got 0"),
        (["ablation", "--only", "nothing"], "no row whose name contains 'nothing'"),
    ],
)
def test_bad_arguments_get_one_sentence(arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["experiment", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import nothing_like_this", "cannot be run .ModuleNotFoundError"),
        ("x = 1", "defines no EXPERIMENT"),
        (OWN.replace('{"more": 0}', '{"more": {1}}'), "the settings of 'none' cannot be stored"),
    ],
)
def test_a_file_that_is_no_experiment_gets_one_sentence(text, said, tmp_path):
    (tmp_path / "bad.py").write_text(text)
    with pytest.raises(UserError, match=said):
        load(str(tmp_path / "bad.py"))


def test_unknown_options_of_a_gan_are_named(tmp_path):
    (tmp_path / "bad.py").write_text(POINTS.replace('"loss": "hinge"', '"losss": "hinge"'))
    report = runner.run(str(tmp_path / "bad.py"), tmp_path / "out", jobs=1, quiet=True)
    assert "unknown option losss" in report.failed[0]["error"] and len(report.results.rows) == 1


# ---------------------------------------------------------------- rows that train a GAN


def test_a_row_is_a_run_that_other_commands_read(tmp_path, capsys):
    (tmp_path / "points.py").write_text(POINTS)
    report = runner.run(str(tmp_path / "points.py"), tmp_path / "out", jobs=1, quiet=True)
    assert {row["figures"]["steps"] for row in report.results.rows} == {60}
    folder = tmp_path / "out" / "rows" / "hinge-seed-0" / "run"
    assert runs.read_config(folder).loss == "hinge"
    assert main(["info", str(folder)]) == 0 and "60 steps" in capsys.readouterr().out


MOMENTS = '''
"""What happens at moments?"""

import time

from minigan.lab import Column, Experiment, mixture, moments_of, train


def run(row):
    def measure(training):
        if SLOW and training.step > 150:
            time.sleep(5)
        return mixture(training)

    training = train(row, {"preset": "points", "steps": 400, "batch": 32}, moments=(0.25, 0.5, 1.0), measure=measure)
    found = [(one["step"], one["modes"], one["reverse_kl"]) for one in moments_of(row.folder / "run")]
    return mixture(training) | {"found": found}


SLOW = False
EXPERIMENT = Experiment(__doc__, {"one": {}}, run, {"modes": Column("modes", "higher")}, 1)
'''


@pytest.mark.slow
def test_a_killed_row_continues_to_the_same_figures(tmp_path):
    path = tmp_path / "moments.py"
    path.write_text(MOMENTS)
    whole = runner.run(str(path), tmp_path / "whole", jobs=1, quiet=True).results.rows[0]
    assert [found[0] for found in whole["figures"]["found"]] == [100, 200, 400]
    path.write_text(MOMENTS.replace("SLOW = False", "SLOW = True"))
    command = [
        sys.executable,
        "-m",
        "minigan",
        "experiment",
        str(path),
        "--out",
        str(tmp_path / "killed"),
        "--jobs",
        "1",
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    moments = tmp_path / "killed" / "rows" / "one-seed-0" / "run" / "moments.json"
    end = time.monotonic() + 200
    while not moments.exists() and time.monotonic() < end:
        time.sleep(0.1)
    time.sleep(1)  # somewhere after the first moment
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert json.loads(moments.read_text()) and not (tmp_path / "killed" / "results.json").exists()
    path.write_text(MOMENTS)
    again = runner.run(str(path), tmp_path / "killed", jobs=1, quiet=True).results.rows[0]
    assert again["figures"] == whole["figures"]
    assert again["first"] == whole["first"] and len(whole["first"]) == LOGGED


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_ctrl_c_saves_the_rows_and_the_same_command_continues(jobs, tmp_path):
    path = tmp_path / "moments.py"
    two = MOMENTS.replace('{"one": {}}', '{"one": {}, "two": {}}')  # two rows, so that two jobs are used
    path.write_text(two.replace("SLOW = False", "SLOW = True"))
    command = [sys.executable, "-m", "minigan", "experiment", str(path), "--out", str(tmp_path / "out"), "--jobs", jobs]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
    )
    moments = tmp_path / "out" / "rows" / "one-seed-0" / "run" / "moments.json"
    end = time.monotonic() + 200
    while not moments.exists() and time.monotonic() < end:
        time.sleep(0.1)
    time.sleep(4)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "stopped; the same command continues" in said and "Traceback" not in said
    step = runs.info(tmp_path / "out" / "rows" / "one-seed-0" / "run")["step"]
    assert 100 <= step < 400
    path.write_text(two)
    figures = runner.run(str(path), tmp_path / "out", jobs=1, quiet=True).results.rows[0]["figures"]
    assert [found[0] for found in figures["found"]] == [100, 200, 400]


# ---------------------------------------------------------------- quick forms


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """Return the file of the stored results of an experiment on points."""
    path = tmp_path / "points.py"
    path.write_text(POINTS)
    report = runner.run(str(path), tmp_path / "out", jobs=1, quiet=True)
    monkeypatch.setattr(runner, "STORED", tmp_path)
    monkeypatch.setattr(runner, "load", lambda name: load(str(path)))
    file = tmp_path / "points.json"
    file.write_text(json.dumps(report.facts()))
    return file


def test_the_beginning_of_a_stored_row_is_repeated(stored):
    says, holds = runner.quick("points")
    assert holds and "the first 10 numbers of non-saturating, seed 0 are the same" in says and "hinge" in says


def test_another_number_or_verdict_is_noticed(stored):
    facts = json.loads(stored.read_text())
    first = facts["rows"][0]["first"]
    stored.write_text(json.dumps(facts | {"rows": [facts["rows"][0] | {"first": [*first[:-1], first[-1] + 0.01]}]}))
    assert not runner.quick("points")[1]
    stored.write_text(json.dumps(facts | {"verdict": ["hinge helps"]}))
    says, holds = runner.quick("points")
    assert not holds and "another verdict" in says


# ---------------------------------------------------------------- the experiments of the package


def test_every_experiment_is_listed_with_its_question_and_time():
    entries = re.split(r"\n(?! )", listed())  # further lines of an entry are indented
    assert [entry.split()[0] for entry in entries] == names()
    assert all("?" in entry and re.search(r"\(about\s+\d+\s+minutes\s+on\s+two\s+cores\)", entry) for entry in entries)


@pytest.mark.parametrize("name", names())
def test_an_experiment_is_complete(name):
    experiment = load(name)
    assert experiment.question.strip().splitlines()[0].endswith("?"), "the first line is the question"
    json.dumps(dict(experiment.arms))
    assert experiment.main in experiment.columns
    if not isinstance(experiment.seeds, int):
        known = set(experiment.arms)
        assert experiment.then is not None or set(experiment.seeds) <= known, set(experiment.seeds) - known
    assert set(experiment.alone) <= set(experiment.arms)


def test_all_experiments_together_take_at_most_six_hours():
    assert sum(load(name).minutes for name in names()) <= 360


@pytest.mark.slow
def test_the_example_of_the_how_to_runs(tmp_path):
    text = (Path(__file__).parent.parent / "minigan" / "README.md").read_text(encoding="utf-8")
    blocks = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    path = tmp_path / "my_question.py"
    path.write_text(next(block for block in blocks if "EXPERIMENT" in block), encoding="utf-8")
    report = runner.run(str(path), tmp_path / "out", seeds=1, minutes=0.02, jobs=1, quiet=True)
    assert not report.failed and len(report.results.rows) == 3
    assert all("Frechet distance" in line for line in report.verdict) and len(report.verdict) == 2
