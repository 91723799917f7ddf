"""The benchmark scripts' own reckoning: medians, tables, and the changes that the ablation makes."""

import importlib
from pathlib import Path

import numpy as np
import pytest

from minigan import backends, datasets
from minigan.lab import bench
from minigan.layers import MinibatchStdDev, SpectralNorm
from minigan.training import Config, Training


@pytest.fixture
def script(monkeypatch):
    """Imports a script of benchmarks/ by its name."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return importlib.import_module


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
        with pytest.raises(SystemExit, match=r"report\.json holds runs with another choice of judge: "):
            expect_same(asked, before, "report.json")


def test_ablation_sets_the_rows_beside_the_recipe(script):
    ablation = script("ablation")
    runs = [
        {
            "change": name,
            "seed": seed,
            "figures": {"frechet": f + 0.1 * seed, "coverage": 0.8} | more,
        }
        for name, f, more in (("no labels", 0.5, {}), ("the recipe", 0.2, {"agreement": 0.99}))
        for seed in range(3)
    ]
    report = {"runs": runs, "real": {"frechet": 0.07, "agreement": 1.0}}
    lines = ablation.table(report | {"ms an image": {"no labels": 0.2, "the recipe": 0.4}}).splitlines()
    assert lines[2] == "| the recipe | 0.300 (0.200-0.400) | 0.800 (0.800-0.800) |  | 0.990 (0.990-0.990) | 1.00 |"
    assert lines[3] == "| no labels | 0.600 (0.500-0.700) | 0.800 (0.800-0.800) |  |  | 0.50 |"
    assert lines[4] == "| real training images | 0.070 |  |  | 1.000 |  |"


def test_ablation_reckons_the_cost_of_an_image(script, monkeypatch):
    ablation = script("ablation")
    images = np.random.default_rng(0).integers(0, 256, (70, 8, 8, 1), dtype=np.uint8)
    data = datasets.Images(images, None, "x")
    trainings = [Training(Config.of("mlp", steps=3, batch=b), data, backends.load("numpy")) for b in (2, 64)]

    def take_turns(functions, seconds):
        return [[float(function()["step"]) for _ in range(3)] for function in functions]  # 1, 2 and 3 seconds

    monkeypatch.setattr(ablation.bench, "take_turns", take_turns)
    assert ablation.cost(trainings, seconds=0.2) == [1000.0, 31.25]
    assert [training.step for training in trainings] == [3, 3]


def test_ablation_bares_the_discriminator(script):
    ablation = script("ablation")
    images = np.random.default_rng(0).integers(0, 256, (70, 8, 8, 1), dtype=np.uint8)
    data = datasets.Images(images, np.arange(70) % 10, "x")
    training = Training(Config.of("digits", steps=2, batch=16), data, backends.load("numpy"))
    normed = training.D
    ablation.without_spectral_norm(training)
    assert any(isinstance(layer, SpectralNorm) for layer in normed.layers)
    assert not any(isinstance(layer, SpectralNorm) for layer in training.D.layers)
    assert training.D.params.keys() == normed.params.keys() and training.opt_d.network is training.D
    assert len(list(training.records())) == 2


def test_ablation_hides_the_spread(script):
    ablation = script("ablation")
    images = np.random.default_rng(0).integers(0, 256, (70, 8, 8, 1), dtype=np.uint8)
    training = Training(
        Config.of("digits", steps=1, batch=16), datasets.Images(images, None, "x"), backends.load("numpy")
    )
    ablation.without_spread(training)
    i = next(i for i, layer in enumerate(training.D.layers) if isinstance(layer, MinibatchStdDev))
    x = np.random.default_rng(0).standard_normal((4, 128)).astype(np.float32)
    assert not training.D.layers[i].forward(x)[0][:, 128:].any()


def test_ablation_gives_one_spread_for_all_channels(script):
    ablation = script("ablation")
    images = np.random.default_rng(0).integers(0, 256, (70, 8, 8, 1), dtype=np.uint8)
    data = datasets.Images(images, np.arange(70) % 10, "x")
    training = Training(Config.of("digits", steps=2, batch=16), data, backends.load("numpy"))
    ablation.with_one_spread(training)
    spread, last = training.D.layers[-2:]
    assert spread.channels == 1 and last.layer.n_in == 65  # 1 pixel of 64 channels, and the spread
    assert training.opt_d.network is training.D
    assert len(list(training.records())) == 2


def test_a_peak_can_be_measured(script):
    assert script("bench_ops").measured_peak(threads=1) > 0


def test_the_judge_comes_out_the_same_on_every_backend(script, capsys, tmp_path):
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


def test_the_cost_of_penalties_is_relative_to_a_step_without():
    rows = bench.compare_penalties("mlp", 4, "numpy", 1, 0.0)
    assert [row["penalty"] for row in rows] == ["none", "r1", "r2", "r1+r2", "wgan-gp"]
    assert rows[0]["ratio"] == 1.0 and all(row["median_ms"] > 0 for row in rows)


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


def test_the_interval_of_a_ratio_holds_the_median(script):
    compare_versions = script("compare_versions")
    median, low, high = compare_versions.interval(np.random.default_rng(0).normal(1, 0.05, 40))
    assert 0.95 < low < median < high < 1.05
