"""The command line: help, error messages and `minigan doctor`. Training and sampling are tested in test_run.py."""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import minigan
from minigan import backends, cli, datasets
from minigan.cli import main


@pytest.mark.parametrize("command", [[], ["train"], ["sample"], ["gradcheck"], ["bench"], ["doctor"]])
def test_help_is_printed(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([*command, "--help"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("usage: minigan")


def parsers() -> dict:
    """Returns the parser of each command, and of minigan itself, by name."""
    parser = cli._parser()
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return {"": parser, **commands.choices}


@pytest.mark.parametrize("command", parsers())
def test_every_option_of_every_command_has_a_help_text(command):
    options = [a for a in parsers()[command]._actions if not isinstance(a, argparse._SubParsersAction)]
    for action in options:
        name = action.option_strings or action.dest
        assert action.help and len(action.help) > 7, name
        assert "None" not in action.help, name


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["paint"], "invalid choice: 'paint'"),
        (["train", "--epochs", "many"], "argument --epochs: invalid int value: 'many'"),
        (["train", "--colour", "red"], "unrecognized arguments: --colour red"),
        (["train", "--preset", "huge"], "unknown preset 'huge': choose digits, digits-unlabelled, digits-wide, small"),
        (["train", "--backend", "abacus"], "unknown backend 'abacus': choose auto, numpy, numba, cupy"),
        (["train", "--data", "nowhere"], "nowhere"),
        (["train", "--batch", "100000"], "a step takes 100,000 images and mnist-train has 60,000"),
        (["train", "--batch", "1"], "batch is at least 2"),
        (["train", "--lr", "-1"], "lr_g is above 0"),
        (["train", "--loss", "mse"], "unknown loss"),
        (["bench", "--preset", "huge"], "unknown preset 'huge'"),
        (["bench", "--batch", "1"], "--batch is at least 2"),
        (["sample", "none"], "none is not the folder of a run"),
        (["sample", "none", "--count", "0"], "--count is at least 1"),
        (["sample", "none", "--out", "x.bmp"], "none is not the folder of a run"),
    ],
)
def test_bad_input_ends_in_one_sentence(arguments, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert says in output.err and output.err.startswith("minigan: ") and output.err.count("\n") == 1
    assert output.out == "" and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], ""),
        (["--tf32"], "minigan: --tf32 has no effect on the numpy backend\n"),
        (
            ["--gpu-memory", "2", "--device", "0"],
            "minigan: --device and --gpu-memory have no effect on the numpy backend\n",
        ),
    ],
)
def test_gpu_options_without_a_gpu_are_reported(options, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["train", "--preset", "mlp", "--steps", "1", "--batch", "2", "--backend", "numpy", "--quiet"]
    assert main([*arguments, *options]) == 0
    assert capsys.readouterr().err == says


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_compilation_is_reported(backend, capsys, tmp_path, monkeypatch):
    """Sampling may compile, because it may run on another machine than the training."""
    numba, out = backends.load("numba"), tmp_path / "run"
    assert main(["train", "--preset", "mlp", "--steps", "1", "--batch", "2", "--quiet", "--out", str(out)]) == 0
    for on_disk in (True, False):
        monkeypatch.setattr(numba, "kernels_on_disk", lambda on_disk=on_disk: on_disk)
        capsys.readouterr()
        assert main(["sample", str(out), "--backend", backend, "--out", str(tmp_path / "x.png")]) == 0
        reported = backend == "numba" and not on_disk
        assert capsys.readouterr().err == "minigan: compiling the kernels, once on this machine ...\n" * reported


def test_train_lists_the_presets(capsys):
    assert main(["train", "--list"]) == 0
    text = capsys.readouterr().out
    assert "digits" in text and "TensorFlow's DCGAN tutorial" in text and "batch 256" in text
    assert "hinge loss, with labels\n" in text and "non_saturating loss, without labels\n" in text


@pytest.mark.slow
def test_bench_compares_the_backends(capsys):
    options = ["bench", "--batch", "4", "8", "--threads", "1", "--seconds", "0.01"]
    assert main([*options, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    rows = {(row["batch"], row["backend"]): row for row in report["results"]}
    assert rows.keys() == {(batch, name) for batch in (4, 8) for name in backends.available()}
    assert all(row["runs"] >= 3 and row["median_ms"] > 0 for row in rows.values())
    assert report["machine"]["versions"]["numpy"]
    assert main(options) == 0
    text = capsys.readouterr().out
    assert text.count("images/s") == len(rows) and "1.0 x numpy" in text


def test_bench_refuses_backends_that_differ(monkeypatch):
    """Backends are not timed if their first steps differ."""
    from minigan import losses
    from minigan.lab import bench

    calls = []

    class Drifting(losses.NonSaturating):
        def generator(self, fake_logits, real_logits=None):
            calls.append(0)
            loss, d_fake = super().generator(fake_logits)
            return loss + (len(calls) > 1), d_fake

    monkeypatch.setattr(losses, "non_saturating", Drifting())
    with pytest.raises(AssertionError, match="g_loss"):
        bench.compare_backends("small", [4], ["numpy", "numpy"], [1], 0.0)


@pytest.mark.slow
def test_bench_times_every_backend_with_every_number_of_threads(monkeypatch):
    from minigan import backends
    from minigan.lab import bench

    asked = []
    monkeypatch.setattr(backends, "put_in_force", lambda backend: asked.append(backend.settings["threads"]))
    rows = bench.compare_backends("mlp", [4, 8], ["numpy"], [1, 2], 0.0)
    assert [(row["batch"], row["threads"]) for row in rows] == [(4, 1), (4, 2), (8, 1), (8, 2)]
    assert asked == [1, 2] * 6  # three turns for each batch
    assert all(row["median_ms"] > 0 for row in rows)


@pytest.mark.parametrize(("gpu", "batch"), [([9, 5, 1], 64), ([1, 1, 1], 16), ([9, 9, 9], None), ([1, 9, 1], 256)])
def test_a_candidate_overtakes_where_it_stays_faster(gpu, batch):
    from minigan.lab.bench import overtakes

    times = {"cupy": gpu, "numba": [2, 6, 8]}
    rows = [
        {"batch": size, "backend": name, "median_ms": ms}
        for name in times
        for size, ms in zip((16, 64, 256), times[name], strict=True)
    ]
    assert overtakes(rows, "cupy", "numba") == batch


def test_the_doctor_reports_what_runs(capsys):
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert f"minigan  {minigan.__version__}" in text and "70,000 embedded MNIST images" in text
    for name, cause in backends.status().items():
        assert re.search(rf"backend +{name} +" + ("runs here" if cause is None else "does not run here: "), text)
        assert cause is None or cause in text


def test_a_closed_pipe_prints_no_error():
    command = f"{sys.executable} -m minigan train --list | head -c 1"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert result.stdout == "d" and result.stderr == ""


# ---------------------------------------------------------------- the package


def test_import_is_light():
    """`import minigan` and `minigan --help` do not import numba, matplotlib, cupy, PIL or scipy."""
    program = (
        "import sys, minigan, minigan.cli; minigan.cli._parser();"
        "heavy = {'numba', 'matplotlib', 'cupy', 'PIL', 'scipy'} & set(sys.modules); sys.exit(', '.join(heavy) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


def test_only_the_package_report_imports_matplotlib():
    package = Path(minigan.__file__).parent
    importers = {
        path.parent.name
        for path in package.rglob("*.py")
        if re.search(r"^\s*(import|from) matplotlib", path.read_text(), re.M)
    }
    assert importers == {"report"}


def test_the_package_contains_its_data():
    assert len(datasets.mnist("all").images) == 70_000
