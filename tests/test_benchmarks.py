"""Tests of the benchmark scripts: medians, tables, verdicts, and the changes of the alarm."""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from minigan import backends, datasets, losses, optim, penalties
from minigan.lab import bench


def test_time_to_quality_takes_medians_over_seeds(script, tmp_path):
    quality = script("time_to_quality")
    runs = []
    for seed, distance in enumerate((3.0, 1.0, 2.0)):
        curve = [
            {"seconds": s + 0.1 * seed, "steps": 10 * s, "frechet": d} for s, d in ((1, 10 + distance), (2, distance))
        ]
        final = {"frechet": distance, "coverage": 0.5, "classes": [1000] * 9 + [1000 - seed]}
        runs.append({"contender": "torch small, best", "seed": seed, "curve": curve, "final": final})
    report = {"runs": runs, "real": {"frechet": 0.1}, "machine": {"cpu": "?"}, "threads": 2}
    report["medians"] = quality.summary(report)
    medians = report["medians"]["torch small, best"]
    assert (medians["seeds"], medians["steps"], medians["frechet"], medians["rarest digit"]) == (3, 20, 2.0, 0.0998)
    assert medians["curve"] == [[1.1, 12.0], [2.1, 2.0]]
    quality.plot(report, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_runs_of_another_judge_are_not_continued(script):
    expect_same = script("time_to_quality").expect_same
    asked = {"minutes": 3.0, "judge": 1}
    expect_same(asked, asked | {"runs": []}, "report.json")
    for before in ({"minutes": 3.0, "judge": 2}, {"minutes": 3.0}):
        with pytest.raises(SystemExit, match=r"report\.json contains runs with another choice of judge: "):
            expect_same(asked, before, "report.json")


def test_a_peak_can_be_measured(script):
    assert script("bench_ops").measured_peak(threads=1) > 0


def test_the_table_of_series_has_medians_floors_and_targets(script):
    bench_sequences = script("bench_sequences")
    results = [
        {"name": f"ar; waves; seed {seed}", "steps": 100 + seed, "minutes": 5}
        | {who: {"known spectrum": f + 0.01 * seed} for who, f in (("fakes", 0.04), ("floor", 0.01))}
        for seed in range(3)
    ]
    lines = bench_sequences.table(results).splitlines()
    assert lines[2:] == [
        "| ar | `waves` | 5 | 101 | known spectrum | 0.050 | 0.040 to 0.060 | 0.020 | 0.05 |",
    ]
    names = [case.name for case in bench_sequences.CASES]
    assert len(set(names)) == len(names) == 18


def test_series_are_measured_by_name(script, monkeypatch):
    """Real series in place of fakes are as good as the floor."""
    from minigan.metrics.sequences import networks

    bench_sequences = script("bench_sequences")
    monkeypatch.setattr(networks, "steps_for", lambda count: 1)
    monkeypatch.setattr(bench_sequences, "ROUNDS", 1)

    class Real:
        def sample(self, count, seed):
            """Series of the same process, in the classes in turn."""
            return datasets.processes.heartbeats(count, np.random.default_rng(5))[0]

    case = next(case for case in bench_sequences.CASES if case.data == "heartbeats")
    found = bench_sequences.measured(case, Real())
    assert found["fakes"].keys() == found["floor"].keys() == {"discriminative", "published", "by class", "predictive"}
    assert {target.figure for case in bench_sequences.CASES for target in case.targets} <= {
        *found["fakes"],
        "known spectrum",
        "times real",
    }


@pytest.mark.slow
def test_a_recurrent_layer_is_compared_with_that_of_pytorch_before_it_is_timed(script):
    pytest.importorskip("torch")
    bench_recurrent = script("bench_recurrent")
    for kind in ("GRU", "LSTM"):
        assert bench_recurrent.check((kind, 3, 4, 5), threads=1) < 1e-5


@pytest.mark.slow
def test_the_trained_judge_is_the_same_on_every_backend(script, capsys, tmp_path):
    train_judge = script("train_judge")
    train = datasets.mnist("train")
    few = datasets.Images(train.images[:1280], train.labels[:1280], "few")
    weights, other = (
        train_judge.rounded_weights(backends.load(name), few, epochs=2, seed=0) for name in ("numba", "numpy")
    )
    np.savez(tmp_path / "judge.npz", **other)
    assert train_judge.compare(weights, tmp_path / "judge.npz") == 0
    weights["0.w"].flat[:2] += 1
    assert train_judge.compare(weights, tmp_path / "judge.npz") == 2
    assert capsys.readouterr().out.splitlines()[-1].startswith("2 of 208,674 ")
    assert {w.dtype for w in weights.values()} == {np.dtype(np.float16)}


@pytest.mark.slow
def test_the_cost_of_options_is_relative_to_a_step_without():
    cases = {name: bench.OPTION_CASES[name] for name in ("none", "penalty r1", "packs of 2", "2 steps of D")}
    rows = bench.compare_options("mlp", 4, "numpy", 1, 0.0, cases)
    assert [row["option"] for row in rows] == list(cases)
    assert rows[0]["ratio"] == 1.0 and rows[0]["share"] == 0.0
    for row in rows:
        assert row["ratio"] == pytest.approx(row["median_ms"] / rows[0]["median_ms"], abs=0.01)
        assert row["share"] == pytest.approx(1 - 1 / row["ratio"], abs=0.01)


def test_the_cost_of_every_loss_penalty_and_optimizer_is_measured():
    assert {f"loss {name}" for name in losses.LOSSES} <= bench.OPTION_CASES.keys()
    assert {f"penalty {name}" for name in penalties.NAMES} <= bench.OPTION_CASES.keys()
    assert {f"optimizer {name}" for name in optim.OPTIMIZERS if name != "adam"} <= bench.OPTION_CASES.keys()


def test_the_time_of_frozen_discriminators_is_relative_to_one_that_learns():
    rows = bench.compare_frozen("small", 4, "numpy", 1, 0.0)
    assert [row["discriminator"] for row in rows] == list(bench.FROZEN) and rows[0]["ratio"] == 1.0
    learned = [
        bench.Step("small", 4, backends.load("numpy"), discriminator=make).D.n_params for make in bench.FROZEN.values()
    ]
    assert learned[0] > learned[1] > learned[2] > learned[3] == 0 and learned[4] > learned[5] > 0 and learned[6] > 0


def test_versions_are_compared_bit_for_bit(script):
    compare_versions = script("compare_versions")
    a = np.arange(6, dtype=np.float32)
    b = a.copy()
    b[2] = np.nextafter(b[2], 9)
    assert compare_versions.differences({"G.0.w": a, "curves": a}, {"G.0.w": a.copy(), "curves": a}) == []
    (line,) = compare_versions.differences({"G.0.w": a}, {"G.0.w": b})
    assert line.startswith("G.0.w: 1 of 6 differ, by up to 2.4e-07")
    lines = compare_versions.differences({"G.0.w": a, "other": a}, {"G.0.w": a.astype(np.float64), "D.1.b": a})
    assert lines == [
        "G.0.w: float32 (6,) against float64 (6,)",
        "other: only in the old checkpoint",
        "D.1.b: only in the new checkpoint",
    ]


def test_the_interval_of_a_ratio_contains_the_median(script):
    compare_versions = script("compare_versions")
    median, low, high = compare_versions.interval(np.random.default_rng(0).normal(1, 0.05, 40))
    assert 0.95 < low < median < high < 1.05


def test_only_bits_decide_whether_numbers_are_equal(script):
    differences = script("compare_versions").differences
    a, b = np.array([np.nan, 0.0, 0.0], np.float32), np.array([np.nan, -0.0, -0.0], np.float32)
    assert differences({"G.0.w": a}, {"G.0.w": a.copy()}) == []
    (line,) = differences({"G.0.w": a}, {"G.0.w": b})
    assert line.startswith("G.0.w: 2 of 3 differ")
    (line,) = differences({"opt_g.t": np.array(3)}, {"opt_g.t": np.array(5)})
    assert line == "opt_g.t: 1 of 1 differ, by up to 2.0e+00"


def test_two_old_names_do_not_share_a_new_one(script, monkeypatch):
    compare_versions = script("compare_versions")
    monkeypatch.setattr(compare_versions, "NAMES", {r"G\.(w|weights)": "G.w"})
    a = np.zeros(2)
    assert compare_versions.differences({"G.weights": a}, {"G.w": a}) == []
    lines = compare_versions.differences({"G.weights": a, "G.w": a}, {"G.w": a})
    assert lines == ["G.w: only in the old checkpoint"]


@pytest.fixture
def versions(script, monkeypatch):
    """Return (the script, a dict Python -> (seconds of its process, value of its weight)). No process is started."""
    compare_versions, plan = script("compare_versions"), {"old": (2.0, 1.0), "new": (1.0, 1.0)}
    monkeypatch.setattr(compare_versions.Version, "package", lambda version: version.python)

    def train(version, out, *options, cache=None):
        seconds, value = plan[Path(version.python).name]
        facts = np.array(json.dumps({"seconds": seconds / 4}))
        out.mkdir()
        np.savez(out / "checkpoint.npz", facts=facts, **{"G.0.w": np.full(3, value, np.float32)})
        return seconds

    monkeypatch.setattr(compare_versions, "train", train)
    return compare_versions, plan


def arguments(monkeypatch, *given: str) -> None:
    """Set the arguments of the script."""
    monkeypatch.setattr("sys.argv", ["compare_versions.py", *given])


def test_speeds_are_compared_in_pairs_new_over_old(versions, monkeypatch, tmp_path, capsys):
    compare_versions, _ = versions
    for new, ratio in (("new", 0.5), ("old", 1.0)):
        given = ["--presets", "mlp", "--pairs", "4", "--json", str(tmp_path / "speed.json")]
        arguments(monkeypatch, "speed", "--old", "old", "--new", new, *given)
        assert compare_versions.main() == 0
        report = json.loads((tmp_path / "speed.json").read_text())
        (row,) = report["rows"]
        assert row["pairs"] == 4 and row["wall"] == {"old_s": 2.0, "new_s": 2 * ratio, "ratio": ratio} | {
            "interval": [ratio, ratio]
        }
        assert row["training"]["old_s"] == 0.5 and row["training"]["ratio"] == ratio
        assert report["machine"]["cores"] > 0 and report["versions"]["new"].endswith(new)
    assert "ratio 0.500 [0.500, 0.500]" in capsys.readouterr().out


def test_the_same_version_twice_is_measured_twice(versions, monkeypatch):
    """Otherwise the measured noise would be zero."""
    compare_versions, _ = versions
    original, calls = compare_versions.train, []

    def train(version, out, *options, cache=None):
        calls.append(original(version, out))
        return float(len(calls))  # 1, 2, ...

    monkeypatch.setattr(compare_versions, "train", train)
    options = argparse.Namespace(old=compare_versions.Version("old"), new=compare_versions.Version("old"), pairs=1)
    row = compare_versions.pairs(options, "mlp", False)
    assert row["wall"]["ratio"] == 4 / 3 and len(calls) == 4  # including a pair to warm up


def test_a_bit_that_differs_gives_exit_code_1(versions, monkeypatch, capsys):
    compare_versions, plan = versions
    arguments(monkeypatch, "bits", "--old", "old", "--new", "new", "--presets", "mlp", "--backends", "numpy")
    assert compare_versions.main() == 0
    assert capsys.readouterr().out.endswith("no bit differs\n")
    plan["new"] = 1.0, 1.5
    assert compare_versions.main() == 1
    out = capsys.readouterr().out
    assert "1 of 1 arrays differ\n    G.0.w: 3 of 3 differ, by up to 5.0e-01\n" in out
    assert out.endswith("2 cases differ\n")  # with one thread and with two


def test_a_version_is_a_python_and_a_clone(script, monkeypatch, tmp_path):
    """The child process does not get PYTHONPATH and the variables that slow NumPy down."""
    compare_versions = script("compare_versions")
    (tmp_path / "clone" / "minigan").mkdir(parents=True)
    (tmp_path / "clone" / "minigan" / "__init__.py").write_text("__version__ = '7'")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Prescott")
    version = compare_versions.Version(sys.executable, str(tmp_path / "clone"))
    assert version.package() == f"7 {tmp_path / 'clone' / 'minigan'}"
    code = (
        "import os; print(*(os.environ.get(name) for name in ('OPENBLAS_CORETYPE', 'PYTHONPATH', 'NUMBA_CACHE_DIR')))"
    )
    out = compare_versions.Version(sys.executable).run("-c", code, cwd=tmp_path, NUMBA_CACHE_DIR="fresh")
    assert out == "None None fresh\n"
    with pytest.raises(SystemExit, match="ended with 3: broken"):
        version.run("-c", "import sys; print('broken', file=sys.stderr); sys.exit(3)", cwd=tmp_path)


@pytest.mark.slow
def test_sizes_are_measured_in_processes_of_their_own(script, monkeypatch, capsys, tmp_path):
    sizes = script("bench_sizes")
    options = ["--presets", "small", "--sizes", "16x16x1", "16x16x3", "--seconds", "0.1"]
    monkeypatch.setattr(sys, "argv", ["bench_sizes.py", *options, "--json", str(tmp_path / "sizes.json")])
    sizes.main()
    rows = json.loads((tmp_path / "sizes.json").read_text())["results"]
    assert capsys.readouterr().out.strip() == sizes.table(rows)
    grey, colour = rows
    assert grey["parameters"] < colour["parameters"] and min(row["median_ms"] for row in rows) > 0.5
    assert all(100 < row["MiB"] < 1500 for row in rows)


def moments(coverage: list[float], agreement: list[float] | None = None) -> list[dict]:
    """Return the judge's figures of the moments of a run."""
    found = [{"coverage": value} for value in coverage]
    return found if agreement is None else [m | {"agreement": a} for m, a in zip(found, agreement, strict=True)]


HIGH, LOW = [0.8] * 15, [0.01] * 15


@pytest.mark.parametrize(
    ("judged", "says"),
    [
        (moments(HIGH), ("healthy", None)),
        (moments([0.01] * 9 + [0.8] * 6, [0.1] * 9 + [0.95] * 6), ("healthy", None)),  # slow at the start
        (moments(HIGH, [0.95] * 15), ("healthy", None)),
        (moments(HIGH, [0.1] * 15), ("ignores labels", None)),
        (moments(LOW), ("collapsed", 4)),  # never better: from the fifth moment on
        (moments([0.8] * 7 + [0.01] * 8), ("collapsed", 7)),
        (moments([0.8] * 2 + [0.01] * 13), ("collapsed", 2)),  # earlier, because it was better before
        (moments([0.8] * 3 + [0.01] * 3 + [0.8] * 3 + [0.01] * 6), ("collapsed", 9)),  # it recovered once
        (moments([0.01] * 2), ("collapsed", 1)),  # a short run
        (moments([0.03] * 15), ("neither", None)),
        (moments([0.8] * 12 + [0.03] * 3), ("neither", None)),
        (moments([0.8] * 14 + [0.01]), ("collapsed", 14)),
    ],
)
def test_the_verdict_on_a_run_follows_the_rule(judged, says, script):
    assert script("alarm").verdict(judged) == says


def test_the_benchmark_of_the_alarm_counts_runs_alarms_and_those_in_time(script, monkeypatch):
    benchmark = script("alarm")

    def result(name: str, judged: list[dict], alarmed: dict[str, int]) -> dict:
        of = [{"row": {}, "problems": {k: "!" for k, m in alarmed.items() if m == i}} for i in range(15)]
        return {"name": name, "moments": [a | {"judge": b} for a, b in zip(of, judged, strict=True)]}

    class Watch:
        def kinds(self, row, problems):
            return problems

    monkeypatch.setattr(benchmark.alarm, "Alarm", Watch)
    falls = moments([0.8] * 7 + [0.01] * 8)
    results = [
        result("a", moments(HIGH), {}),
        result("b", moments(HIGH), {"discriminator": 3}),
        result("c", falls, {"noise": 9}),
        result("d", falls, {"noise": 10}),
        result("e", falls, {"losses": 7}),  # a warning, but not of a collapse
        result("f", falls, {}),
        result("g", moments(HIGH, [0.1] * 15), {"noise": 2}),
    ]
    counts = benchmark.summary(results)
    assert counts["healthy"] == {"runs": 2, "alarm": 1, "in time": 0}
    assert counts["collapsed"] == {"runs": 4, "alarm": 3, "in time": 1}
    assert counts["ignores labels"] == {"runs": 1, "alarm": 1, "in time": 0} and counts["neither"]["runs"] == 0
    text = benchmark.table(results)
    assert "| collapsed | 4 | 3 | 1 |" in text and "| d | collapsed | 8 | noise 11 | 0.01 |" in text
    assert "| g | ignores labels |  | noise 3 | 0.80, 0.10 |" in text


def test_the_runs_of_the_alarm_have_their_own_seeds(script):
    benchmark = script("alarm")
    seeds = {part: [run.seed for run in benchmark.RUNS if run.part == part] for part in ("tune", "test", "short")}
    every = [seed for part in seeds.values() for seed in part]
    assert len(set(every)) == len(every) and len(seeds["test"]) > 60 and len(seeds["tune"]) > 25
    for run in benchmark.RUNS:
        assert run.family in benchmark.FAMILIES and run.change in benchmark.CHANGES
    assert {run.family for run in benchmark.RUNS if run.part != "short"} >= {"digits", "mlp", "tutorial", "upsample"}


def test_the_odd_cases_of_the_alarm_are_what_they_say(script):
    benchmark = script("alarm")
    run = benchmark.Run("test", "digits", "2 noise numbers", 3)
    G = benchmark.create(run).G
    assert G.noise_shape == (2,) and G.layers[1].params["w"].shape == (2 + 10, 4 * 4 * 64)
    z = np.random.default_rng(0).normal(size=(400, 2)).astype(np.float32)
    first = G.layers[1].forward(np.concatenate([z, np.eye(10, dtype=np.float32)[np.arange(400) % 10]], axis=1))[0]
    usual = benchmark.create(benchmark.Run("test", "digits", "as it is", 3)).G.layers[1]
    z = np.random.default_rng(0).normal(size=(400, 64)).astype(np.float32)
    other = usual.forward(np.concatenate([z, np.eye(10, dtype=np.float32)[np.arange(400) % 10]], axis=1))[0]
    assert first.std() == pytest.approx(other.std(), rel=0.15), "as large as with 64 numbers"

    frozen = benchmark.create(benchmark.Run("test", "digits", "frozen batch norm", 3)).G.layers[3]
    x = np.random.default_rng(0).normal(5, 2, size=(8, 4, 4, 64)).astype(np.float32)
    assert abs(frozen.forward(x)[0].mean() - 5) < 0.1 and frozen.buffers["mean"].max() == 0
    shuffled = benchmark.create(benchmark.Run("test", "digits", "shuffled labels", 3)).data
    assert 0.05 < (shuffled.labels == datasets.mnist("train").labels).mean() < 0.15
    tiny = benchmark.create(benchmark.Run("test", "digits", "weak D: two units", 3)).D
    assert [layer.params["w"].shape for layer in tiny.layers if "w" in layer.params] == [(784, 2), (2, 1)]


@pytest.mark.slow
def test_a_short_form_of_the_benchmark_of_the_alarm(script, tmp_path, capsys, monkeypatch):
    benchmark = script("alarm")
    line = ["alarm.py", "--part", "short", "--work", str(tmp_path), "--json", str(tmp_path / "r.json"), "--jobs", "2"]
    monkeypatch.setattr(sys, "argv", line)
    benchmark.main()
    report = json.loads((tmp_path / "r.json").read_text())
    assert len(report["runs"]) == 6 and all(len(run["moments"]) == benchmark.MOMENTS for run in report["runs"])
    counts = benchmark.summary(report["runs"])
    assert counts["healthy"] == {"runs": 3, "alarm": 0, "in time": 0}
    assert counts["collapsed"] == {"runs": 3, "alarm": 3, "in time": 3}
    assert "| healthy | 3 | 0 | 0 |" in capsys.readouterr().out


def test_the_benchmark_of_tables_reads_its_data_and_takes_medians(script):
    pytest.importorskip("pandas", reason="pandas is not installed: pip install 'minigan[tables]'")
    tables = script("bench_tables")
    sizes = {data: tuple(map(len, tables.read(data))) for data in tables.TARGETS}
    assert sizes == {"adult": (32_561, 16_281), "diamonds": (43_000, 10_940)}
    training, held_out = tables.read("diamonds")
    assert not held_out.equals(training[: len(held_out)]) and list(training) == list(held_out)
    kinds = tables.kinds_of(training)
    assert (kinds["cut"], kinds["price"], kinds["carat"]) == ("category", "integer", "continuous")
    found = [{"data": "adult", "method": "real", "figures": dict.fromkeys(tables.SHOWN, 1.0) | {"distance": 2.0}}]
    for distance in (1.5, 3.0, 1.0):
        figures = dict.fromkeys(tables.SHOWN, distance / 10) | {"distance": distance}
        found.append({"data": "adult", "method": "minigan", "figures": figures})
    row = next(line for line in tables.table(tables.with_nearness(found)).splitlines() if line.startswith("| minigan"))
    cells = dict(zip(tables.SHOWN, row.strip("| ").split(" | ")[1:], strict=False))
    assert cells["utility"] == "0.150 [0.100, 0.300]" and cells["nearness"] == "0.750 [0.500, 1.500]"


def test_the_model_of_ranks_has_the_values_of_its_formula(script):
    ranks = script("bench_ranks")
    model = {"a": 0.1, "b": 0.01, "messages": 10, "latency": 0.001, "bytes": 4e6, "bandwidth": 1e8}
    assert ranks.modelled(model, 64, 1) == pytest.approx(0.1 + 0.64)
    assert ranks.modelled(model, 64, 4) == pytest.approx(0.1 + 0.16 + 10 * 2 * 0.001 + 2 * 3 / 4 * 0.04)
    least = ranks.least_batch(model, 4)
    efficiency = [
        ranks.modelled(model, batch, 1) / 4 / ranks.modelled(model, batch, 4) for batch in (least // 2, least)
    ]
    assert efficiency[0] < 0.5 <= efficiency[1]
