"""Tests of sweeps: grids, what is missing, and the rows on a Dask cluster whose workers are killed.

Every row is compared, bit for bit, with the same training by `minigan train`, or with that of a sweep in one process.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import minigan
from minigan import runs
from minigan.cli import main
from minigan.errors import UserError
from minigan.lab import cluster, runner, sweep
from minigan.lab.experiment import STOP
from minigan.lab.results import Results

WITH_DASK = pytest.mark.skipif(
    __import__("importlib.util").util.find_spec("distributed") is None,
    reason="the package distributed is not installed: pip install 'minigan[cluster]'",
)
POINTS = {"preset": "points", "steps": 40, "batch": 32, "backend": "numpy", "report": False}
GRID = ["lr=1e-3,2e-3", "seed=0:2"]


def rows(out: Path) -> dict[str, dict]:
    """Return the stored rows of a sweep by the name of their folder."""
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(out.glob("rows/*/row.json"))}


def figures(out: Path) -> dict[str, dict]:
    """Return the figures of all rows but the time."""
    return {name: {k: v for k, v in row["figures"].items() if "seconds" not in k} for name, row in rows(out).items()}


def weights(run: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a run's checkpoint: weights, the state of the optimizers, and of the random numbers."""
    return runs.read(run).arrays


def expect_same_bits(a: Path, b: Path) -> None:
    """Compare the checkpoints of two runs."""
    one, two = weights(a), weights(b)
    assert one.keys() == two.keys()
    for name in one:
        if name != "curves":
            np.testing.assert_array_equal(one[name], two[name], err_msg=name)


@pytest.fixture(scope="module")
def serial(tmp_path_factory) -> Path:
    """Return the folder of a sweep whose rows ran one after the other in this process."""
    out = tmp_path_factory.mktemp("serial") / "out"
    assert not sweep.run_sweep(out, POINTS, GRID, jobs=1, quiet=True).failed
    return out


# ---------------------------------------------------------------- the grid


@pytest.mark.parametrize(
    ("texts", "grid"),
    [
        (["lr=1e-3,2e-3"], {"lr": [0.001, 0.002]}),
        (["seed=0:3"], {"seed": [0, 1, 2]}),
        (["batch=16:64:16"], {"batch": [16, 32, 48]}),
        (["loss=hinge, minimax"], {"loss": ["hinge", "minimax"]}),
        (["decay=yes,no"], {"decay": [True, False]}),
        (["network.noise=8,16", "d-steps=1"], {"network.noise": ["8", "16"], "d_steps": [1]}),
        (["lr_g=1e-3,0.001,2e-3"], {"lr_g": [0.001, 0.002]}),  # the same number twice
        (["data=ring,grid"], {"data": ["ring", "grid"]}),
        (["clip_norm=1"], {"clip_norm": [1.0]}),
        (["window=24,48"], {"window": ["24", "48"]}),  # an option of the data
    ],
)
def test_a_grid_is_read(texts, grid):
    found = sweep.parsed(texts)
    assert found == grid and [list(map(type, its)) for its in found.values()] == [
        list(map(type, its)) for its in grid.values()
    ]


@pytest.mark.parametrize(
    ("grid", "given", "said"),
    [
        (["minutes=1,2"], {}, "minutes is no option of a grid, because what a run reaches in a time depends"),
        (["threads=1,2"], {}, "a row has one thread"),
        (["lr=1e-3"], {"threads": 2}, "a row has one thread"),
        (["lrr=1e-3"], {}, "unknown option 'lrr' in the grid: did you mean lr?"),
        (["lr"], {}, "a grid has NAME=VALUE,VALUE"),
        (["lr="], {}, "a grid has NAME=VALUE,VALUE"),
        (["seed=3:3"], {}, "the range 3:3 is empty"),
        (["seed=1,two"], {}, "seed is a whole number, got 'two'"),
        (["lr=1e-3", "lr=2e-3"], {}, "lr is in the grid twice"),
        (["lr=1e-3,fast"], {}, "lr fast: lr_g is a number, got 'fast'"),
        (["loss=hinge,hing"], {}, "loss hing: unknown loss 'hing'"),
        (["network.nois=8"], {}, "have no option nois"),
        (["lr=1e-3"], {"lr_g": 2e-3}, "lr_g is in the grid, and an option of all rows"),
        (["seed=0:2"], {"seed": 5}, "seed is in the grid, and an option of all rows"),
        (["data=nowhere.npz"], {}, "nowhere.npz"),
        (["loss=wasserstein", "penalty=none"], {}, "wasserstein without a penalty"),
        ([], {}, "a sweep needs a grid"),
        (["network.noise=2,4"], {"network": [("noise", "8")]}, "network.noise is in the grid, and an option of all"),
        (["data=/a/x.npz,/b/x.npz"], {}, "two combinations are called 'data x.npz'"),
        (["lr=0.12345671,0.12345672"], {}, "two combinations are called 'lr 0.123457'"),
        (["data=a-b.npz,a_b.npz"], {}, "'data a-b.npz' and 'data a_b.npz' would have the same folder"),
    ],
)
def test_a_sweep_that_is_not_possible_is_refused_before_anything_is_written(grid, given, said, tmp_path):
    with pytest.raises(UserError) as raised:
        sweep.run_sweep(tmp_path / "out", {"preset": "points", "steps": 5} | given, grid)
    assert said in str(raised.value) and not (tmp_path / "out").exists()


def test_an_error_on_the_command_line_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", "--grid", "minutes=1,2"]) == 2
    error = capsys.readouterr().err
    assert "minutes is no option of a grid" in error and len(error.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_options_of_networks_and_data_reach_their_rows():
    arms = sweep.Sweep(
        {"preset": "points", "network": {"width": "32"}}, [{"network.noise": ["2", "4"], "lr": [0.5], "seed": [3]}]
    ).arms()
    assert arms == {
        "network.noise 2, lr 0.5": (
            {"preset": "points", "lr_g": 0.5, "lr_d": 0.5, "network": {"width": "32", "noise": "2"}},
            [3],
        ),
        "network.noise 4, lr 0.5": (
            {"preset": "points", "lr_g": 0.5, "lr_d": 0.5, "network": {"width": "32", "noise": "4"}},
            [3],
        ),
    }


@pytest.mark.parametrize(
    ("options", "grid", "first"),
    [
        ({"preset": "digits-unlabelled"}, {"lr": [1e-3]}, "frechet"),
        ({"preset": "points"}, {"data": ["ring", "grid"]}, "coverage"),
        ({"preset": "mlp"}, {"data": ["mnist", "shapes"]}, "coverage"),
    ],
)
def test_the_figures_are_those_of_the_data(options, grid, first):
    experiment = sweep.Sweep(options, [grid]).experiment()
    assert next(iter(experiment.columns)) == first == experiment.main


# ---------------------------------------------------------------- rows on this machine


def test_a_row_is_the_run_that_train_makes(serial, tmp_path):
    command = (
        "train --quiet --preset points --steps 40 --batch 32 --backend numpy --lr 2e-3 --seed 1 --threads 1 --no-report"
    )
    assert main([*command.split(), "--out", str(tmp_path / "run")]) == 0
    expect_same_bits(serial / "rows" / "lr-0.002-seed-1" / "run", tmp_path / "run")
    assert list(rows(serial)) == [f"lr-{lr}-seed-{seed}" for lr in ("0.001", "0.002") for seed in (0, 1)]


def test_the_table_and_the_verdict_name_every_arm(serial):
    text = (serial / "table.md").read_text()
    assert "Every combination of lr 0.001, 0.002; seed 0, 1." in text and "All with preset points, steps 40" in text
    values = {
        lr: [rows(serial)[f"lr-{lr}-seed-{s}"]["figures"]["coverage"] for s in (0, 1)] for lr in ("0.001", "0.002")
    }
    for lr, of in values.items():
        assert f"| lr {lr} | {np.mean(of):.3f} |" in text
    best = max(values, key=lambda lr: np.mean(values[lr]))
    assert f"- best: lr {best}, with a coverage of {np.mean(values[best]):.3f}" in text
    assert (serial / "figure.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_rows_in_parallel_have_the_same_bits(serial, tmp_path):
    sweep.run_sweep(tmp_path / "out", POINTS, GRID, jobs=2, quiet=True)
    assert figures(tmp_path / "out") == figures(serial)
    for name in rows(serial):
        expect_same_bits(serial / "rows" / name / "run", tmp_path / "out" / "rows" / name / "run")


def test_resume_adds_only_what_is_missing(serial, tmp_path, capsys):
    out = tmp_path / "out"
    with pytest.raises(UserError, match="does not exist: start a sweep with --grid"):
        sweep.run_sweep(out, {}, [], resume=True)
    sweep.run_sweep(out, POINTS, ["lr=1e-3", "seed=0:2"], jobs=1, quiet=True, only="seed 0")
    written = (out / "rows" / "lr-0.001-seed-0" / "row.json").stat().st_mtime_ns
    with pytest.raises(UserError, match="has a sweep: add what is missing with --resume"):
        sweep.run_sweep(out, POINTS, GRID)
    with pytest.raises(UserError, match="was started with batch 32, got 64"):
        sweep.run_sweep(out, {"batch": 64}, [], resume=True)
    with pytest.raises(UserError, match=r"was started with lr_g not given, got 0\.1"):
        sweep.run_sweep(out, {"lr_g": 0.1}, [], resume=True)
    arguments = ["sweep", "--resume", "--out", str(out), "--jobs", "1", "--quiet"]
    assert main([*arguments, "--grid", "lr=2e-3", "seed=0:2", "--batch", "32", "--json", str(out / "r.json")]) == 0
    said = capsys.readouterr().out
    assert "lr 0.001" in said and "lr 0.002" in said
    assert (out / "rows" / "lr-0.001-seed-0" / "row.json").stat().st_mtime_ns == written
    assert figures(out) == figures(serial)
    assert len(json.loads((out / "r.json").read_text())["rows"]) == 4


def test_a_row_says_how_it_is_repeated_alone(serial, tmp_path):
    again = rows(serial)["lr-0.002-seed-1"]["again"]
    assert again == f"minigan sweep --resume --out {serial} --only 'lr 0.002, seed 1'"


def test_a_row_that_fails_or_diverges_does_not_stop_the_others(tmp_path, monkeypatch):
    def of(training):
        if training.config.lr_g == 1e-3 and training.config.seed == 1:
            raise ValueError("thirteen")
        return sweep.mixture(training) | {"coverage": 0.5}

    monkeypatch.setitem(sweep.MEASURES, "mixture", sweep.Measure(of, sweep.MEASURES["mixture"].columns))
    report = sweep.run_sweep(tmp_path / "out", POINTS, ["lr_g=1e-3,1e30", "seed=0:2"], jobs=1, quiet=True)
    assert [(row["arm"], row["seed"], row["error"]) for row in report.failed] == [
        ("lr_g 0.001", 1, "ValueError: thirteen")
    ]
    assert ["diverged" in row["figures"] for row in report.results.rows] == [False, True, True]
    assert report.verdict == ["best: lr_g 0.001, with a coverage of 0.500"]


def made_up(values: dict[str, list[float]], of: sweep.Sweep) -> Results:
    experiment = of.experiment()
    made = [
        {"arm": arm, "seed": seed, "settings": {}, "figures": {experiment.main: value}}
        for arm, its in values.items()
        for seed, value in enumerate(its)
    ]
    return Results(made, experiment.columns, next(iter(values)))


def test_the_picture_has_an_axis_for_three_numbers(monkeypatch):
    drawn = {}
    monkeypatch.setattr(sweep.pictures, "scattered", lambda series, x, y, log_x: drawn.update(locals()))
    grid = {"lr": [0.001, 0.01, 0.1], "loss": ["hinge", "minimax"]}
    of = sweep.Sweep({"preset": "points"}, [grid])
    of.picture(made_up({arm: [k, k + 1] for k, arm in enumerate(of.arms())}, of))
    assert drawn["x"] == "lr" and drawn["log_x"] and list(drawn["series"]) == ["loss hinge", "loss minimax"]
    np.testing.assert_array_equal(
        drawn["series"]["loss minimax"], [[0.001, 1], [0.001, 2], [0.01, 3], [0.01, 4], [0.1, 5], [0.1, 6]]
    )
    monkeypatch.setattr(sweep, "dots", lambda results, *names: names)
    two = sweep.Sweep({"preset": "points"}, [{"lr": [0.001, 0.01]}])
    assert two.picture(made_up({arm: [1.0] for arm in two.arms()}, two)) == ("coverage", "quality", "modes")


# ---------------------------------------------------------------- a cluster


@contextlib.contextmanager
def workers(count: int, **options):
    """Context with the address of a scheduler that has this many workers of one thread."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=count, threads_per_worker=1, dashboard_address=None, **options) as made:
        yield made


@pytest.fixture
def near():
    """Return a cluster in this process, which starts fast."""
    with workers(1, processes=False) as made:
        yield made


@WITH_DASK
@pytest.mark.filterwarnings("ignore")  # of Dask, about its own sockets
def test_rows_on_a_cluster_have_the_bits_of_one_process(near, serial, tmp_path):
    out = tmp_path / "out"
    sweep.run_sweep(out, POINTS, ["lr=1e-3", "seed=0:2"], quiet=True, scheduler=near.scheduler_address)
    assert list(rows(out)) == ["lr-0.001-seed-0", "lr-0.001-seed-1"]
    written = (out / "rows" / "lr-0.001-seed-0" / "row.json").stat().st_mtime_ns
    sweep.run_sweep(out, {}, ["lr=2e-3", "seed=0:2"], resume=True, quiet=True, scheduler=near.scheduler_address)
    assert (out / "rows" / "lr-0.001-seed-0" / "row.json").stat().st_mtime_ns == written
    assert figures(out) == figures(serial)
    for name in rows(serial):
        expect_same_bits(serial / "rows" / name / "run", out / "rows" / name / "run")


EXPERIMENT = '''
"""Does more help?"""

import threading

from minigan.lab import Column, Experiment


def run(row):
    return {"loss": 5.0 - row.settings["more"], "here": int(threading.current_thread() is threading.main_thread())}


EXPERIMENT = Experiment(
    __doc__, {"none": {"more": 0}, "some": {"more": 1}}, run, {"loss": Column("loss", "lower")}, 1, alone=("some",)
)
'''


@WITH_DASK
@pytest.mark.filterwarnings("ignore")
def test_rows_of_an_experiment_run_on_a_cluster_and_those_that_need_all_cores_here(near, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(EXPERIMENT)
    monkeypatch.setattr(cluster, "run_row", lambda task, run=cluster.run_row: run(task) | {"on": str(task.folder)})
    report = runner.run("own.py", Path("out"), quiet=True, scheduler=near.scheduler_address)
    (none,), (some,) = report.results.of("none"), report.results.of("some")
    assert (none["figures"], none["on"]) == ({"loss": 5.0, "here": 0}, str(tmp_path / "out"))
    assert some["figures"] == {"loss": 4.0, "here": 1} and "on" not in some


@WITH_DASK
@pytest.mark.filterwarnings("ignore")
def test_workers_that_cannot_run_the_rows_are_refused(near, tmp_path, monkeypatch):
    options = dict(quiet=True, scheduler=near.scheduler_address)
    monkeypatch.setattr(cluster, "facts", lambda probe: {"version": "0.0.1", "seen": Path(probe).read_text()})
    with pytest.raises(UserError, match=r"has minigan 0\.0\.1, and this is"):
        sweep.run_sweep(tmp_path / "a", POINTS, GRID, **options)
    monkeypatch.setattr(cluster, "facts", lambda probe: {"version": minigan.__version__, "seen": None})
    with pytest.raises(UserError, match=r"does not see .*: give --out a folder that all machines share"):
        sweep.run_sweep(tmp_path / "b", POINTS, GRID, **options)
    monkeypatch.setattr(cluster, "facts", lambda probe: 1 / 0)
    with pytest.raises(UserError, match=r"cannot use minigan \(ZeroDivisionError"):
        sweep.run_sweep(tmp_path / "c", POINTS, GRID, **options)
    with pytest.raises(UserError, match="leave out jobs, or the scheduler"):
        sweep.run_sweep(tmp_path / "d", POINTS, GRID, jobs=2, scheduler="tcp://x")
    assert not list(tmp_path.glob("*/.seen")) and not list(tmp_path.glob("*/rows"))


@WITH_DASK
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_without_scheduler_or_workers_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT", 1)
    monkeypatch.setattr(cluster, "WORKERS", 1)
    for address in ("tcp://127.0.0.1:9", "nonsense:"):
        with pytest.raises(UserError, match="no Dask scheduler answers at"):
            sweep.run_sweep(tmp_path / "a", POINTS, GRID, scheduler=address, quiet=True)
    with workers(0, processes=False) as made, pytest.raises(UserError, match="has no workers: start some with"):
        sweep.run_sweep(tmp_path / "b", POINTS, GRID, scheduler=made.scheduler_address, quiet=True)


def test_without_the_package_one_sentence_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match=r"pip install 'minigan\[cluster\]'"):
        sweep.run_sweep(tmp_path / "a", POINTS, GRID, scheduler="tcp://127.0.0.1:9", quiet=True)


def task(folder: Path) -> runner.Task:
    settings = {"measure": "mixture", **POINTS}
    folder.mkdir()
    (folder / sweep.FILE).write_text(json.dumps({"format": 1, "options": POINTS, "grids": [{"seed": [0]}]}))
    return runner.Task(str(folder / sweep.FILE), "all", 0, settings, folder, 1, None)


def test_a_row_waits_for_a_worker_that_still_has_it_and_is_not_done_twice(tmp_path, monkeypatch):
    one = task(tmp_path / "out")
    one.place.mkdir(parents=True)
    ran = []
    monkeypatch.setattr(cluster, "run_task", lambda task: ran.append(task) or runner.run_task(task))
    with cluster.waiting(one.place):  # another worker, which was taken for dead
        thread = threading.Thread(target=lambda: ran.append(cluster.run_row(one)))
        thread.start()
        time.sleep(0.5)
        assert not ran
        finished = one.facts() | {"figures": {"coverage": 1.0}}
        (one.place / "row.json").write_text(json.dumps(finished))
    thread.join()
    assert ran == [one, finished]


def test_rows_that_were_not_started_end_after_a_stop(tmp_path):
    one = task(tmp_path / "out")
    (one.folder / STOP).touch()
    assert cluster.run_row(one)["signal"] == signal.SIGINT and not one.place.exists()
    (one.folder / STOP).unlink()
    (one.folder / sweep.FILE).unlink()
    one.folder.rmdir()
    with pytest.raises(UserError, match="does not see"):
        cluster.run_row(one)


LONG = {"preset": "points", "steps": 1500, "batch": 64, "backend": "numpy", "report": False}
OF_LONG = ["seed=0:3"]


@pytest.fixture(scope="module")
def long(tmp_path_factory) -> Path:
    """Return the folder of a sweep whose rows take long enough to be killed, and ran in this process."""
    out = tmp_path_factory.mktemp("long") / "out"
    assert not sweep.run_sweep(out, LONG, OF_LONG, jobs=1, quiet=True).failed
    return out


def options_of(given: dict) -> list[str]:
    """Return these options as on the command line."""
    return [
        word
        for name, value in given.items()
        for word in (["--no-report"] if value is False else [f"--{name}", str(value)])
    ]


def on_cluster(out: Path, address: str) -> list[str]:
    """Return the command of the sweep of `long` on the workers of a scheduler."""
    command = [sys.executable, "-m", "minigan", "sweep", "--grid", *OF_LONG, "--out", str(out), "--quiet"]
    return [*command, *options_of(LONG), "--scheduler", address]


def started(out: Path, seconds: float = 120) -> list[Path]:
    """Wait until a row that is not finished has a checkpoint after its first step, and return the folders of such."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = []
        for path in out.glob("rows/*/run/checkpoint.npz"):
            with contextlib.suppress(UserError):
                if not (path.parents[1] / "row.json").exists() and runs.info(path.parent)["step"] > 0:
                    found.append(path.parent)
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError("no row was saved")


@WITH_DASK
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_rows_of_killed_workers_continue_and_none_is_lost_or_done_twice(long, tmp_path):
    out = tmp_path / "out"
    with workers(2, processes=True) as made:
        from distributed import Client

        process = subprocess.Popen(on_cluster(out, made.scheduler_address), stdout=subprocess.PIPE, text=True)
        steps, finished = {}, {}
        for _ in range(2):  # kill all workers, twice
            for run in started(out):
                steps[run] = max(steps.get(run, 0), runs.info(run)["step"])
            for row in out.glob("rows/*/row.json"):
                finished[row] = row.stat().st_mtime_ns
            with Client(made.scheduler_address, set_as_default=False) as client:
                pids = client.run(os.getpid).values()
                for pid in pids:
                    os.kill(pid, signal.SIGKILL)
                client.wait_for_workers(2, timeout=60)
                while set(client.run(os.getpid, on_error="ignore").values()) & set(pids):
                    time.sleep(0.2)
        assert process.wait(timeout=300) == 0 and "best: " in process.stdout.read()
    assert steps and figures(out) == figures(long) and len(figures(out)) == 3
    for path, at in finished.items():
        assert path.stat().st_mtime_ns == at, "a finished row was done again"
    for name in rows(long):
        expect_same_bits(long / "rows" / name / "run", out / "rows" / name / "run")
        epochs = np.loadtxt(out / "rows" / name / "run" / "history.csv", delimiter=",", skiprows=1, usecols=0)
        assert (np.diff(epochs) > 0).all()


@WITH_DASK
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ctrl_c_saves_the_rows_of_the_workers_and_resume_continues(long, tmp_path):
    out = tmp_path / "out"
    with workers(1, processes=True) as made:
        process = subprocess.Popen(
            on_cluster(out, made.scheduler_address),
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # in the background, shells ignore it
        )
        (run,) = started(out)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1]
        assert process.returncode == 130 and f"`minigan sweep --resume --out {out}` continues" in said
        assert "Traceback" not in said
        before = runs.info(run)["step"]
        assert 0 < before < LONG["steps"] and len(list(out.glob("rows/*"))) == 1
        assert not sweep.run_sweep(out, {}, [], resume=True, quiet=True, scheduler=made.scheduler_address).failed
    assert figures(out) == figures(long)
    for name in rows(long):
        expect_same_bits(long / "rows" / name / "run", out / "rows" / name / "run")
