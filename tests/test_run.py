"""Runs, used as from the command line: new processes, Ctrl-C, kill signals, full disks and damaged files.

Two runs are equal if the arrays and facts in their checkpoints have the same SHA-256 hash.
"""

import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from minigan import backends, datasets, runs
from minigan.cli import main
from minigan.errors import UserError
from minigan.files import LOCK
from minigan.runs import run as run_module
from minigan.training import Config, Diverged, checkpoint

RUNS_HERE = [name for name in backends.available() if name != "cupy"]
# Batch norm, dropout, Adam and a moving average are all the kinds of state. 70 images make 4 steps per epoch.
OPTIONS = ["--preset", "tutorial", "--batch", "16", "--average", "0.9", "--checkpoint-every", "2", "--quiet"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "tiny.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (70, 8, 8), dtype=np.uint8))
    return str(path)


def minigan(*arguments, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "minigan", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


def sha256(path) -> str:
    """Returns the hash of every array and every fact, except times and the horizon."""
    arrays, facts = checkpoint.load(path)
    del facts["seconds"], facts["horizon"]  # the horizon depends on the totals at the start
    for row in facts["history"]:
        for name in ("seconds", "epoch_seconds", "images_per_second"):
            del row[name]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, a in sorted(arrays.items()):
        digest.update(f"{name} {a.dtype} {a.shape}".encode() + a.tobytes())
    return digest.hexdigest()


@pytest.fixture(scope="module", params=RUNS_HERE)
def unbroken(request, data, tmp_path_factory):
    """Returns (backend, folder) of a run of three epochs."""
    out = tmp_path_factory.mktemp("unbroken") / "run"
    result = minigan("train", *OPTIONS, "--data", data, "--backend", request.param, "--epochs", 3, "--out", out)
    assert result.returncode == 0, result.stderr
    return request.param, out


# ---------------------------------------------------------------- many short epochs


def test_after_many_short_epochs_fewer_have_pictures_and_kept_checkpoints(tmp_path, monkeypatch):
    """Each of 345 epochs takes an eighth of a second of this clock. The history has a row for each of them."""
    now = [0.0]
    monkeypatch.setattr(run_module, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def tick(record) -> None:
        now[0] += 0.125

    images = datasets.Images(np.random.default_rng(0).integers(0, 256, (8, 8, 8, 1), dtype=np.uint8), None, "few")
    config = Config.of("small", batch=8, epochs=345, backend="numpy", checkpoint_every=5)
    out = tmp_path / "run"
    runs.play(runs.begin(config, out, data=images), out, quiet=True, callback=tick)
    pictured = sorted(int(path.stem.removeprefix("epoch-")) for path in (out / "samples").iterdir())
    assert pictured == [*range(101), *range(108, 341, 8), 345]
    kept = sorted(int(path.stem.removeprefix("epoch-")) for path in (out / "checkpoints").iterdir())
    assert kept == [*range(5, 101, 5), 180, 260, 340]
    with (out / "history.csv").open() as file:
        assert [int(row["epoch"]) for row in csv.DictReader(file)] == list(range(1, 346))
    assert checkpoint.load(out / "checkpoint.npz")[1]["epoch"] == 345


# ---------------------------------------------------------------- resuming


@pytest.mark.parametrize("broken_at", [["--epochs", 1], ["--steps", 6]])
def test_a_resumed_run_is_bit_identical(unbroken, data, tmp_path, broken_at):
    backend, whole = unbroken
    out = tmp_path / "run"
    first = minigan("train", *OPTIONS, "--data", data, "--backend", backend, *broken_at, "--out", out)
    assert first.returncode == 0, first.stderr
    assert sha256(out / "checkpoint.npz") != sha256(whole / "checkpoint.npz")
    second = minigan("train", "--resume", "--out", out, "--epochs", 3, "--threads", 1, "--quiet")
    assert second.returncode == 0, second.stderr
    assert sha256(out / "checkpoint.npz") == sha256(whole / "checkpoint.npz")
    for picture in ("final.png", "samples/epoch-0003.png"):
        assert (out / picture).read_bytes() == (whole / picture).read_bytes()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_stopped_or_killed_run_goes_on_to_the_same_bits(data, tmp_path, number, code):
    long = ["train", *OPTIONS[:-1], "--data", data, "--backend", "numpy", "--out", str(tmp_path / "run")]
    process = subprocess.Popen(
        [sys.executable, "-m", "minigan", *long, "--epochs", "100000"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    kept = tmp_path / "run" / "checkpoints" / "epoch-0002.npz"
    deadline = time.monotonic() + 60
    while not kept.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    _, facts = checkpoint.load(tmp_path / "run" / "checkpoint.npz")
    assert facts["step"] >= 8
    if number != signal.SIGKILL:
        assert f"stopped at step {facts['step']} and saved: resume with `minigan train --resume --out" in errors
        assert "Traceback" not in errors
    epochs = facts["epoch"] + 2
    assert main(["train", "--resume", "--out", str(tmp_path / "run"), "--epochs", str(epochs), "--quiet"]) == 0
    whole = tmp_path / "whole"
    assert main([*long[:-1], str(whole), "--epochs", str(epochs), "--quiet"]) == 0
    assert sha256(tmp_path / "run" / "checkpoint.npz") == sha256(whole / "checkpoint.npz")


def test_a_second_resume_has_nothing_to_do(unbroken, capsys):
    before = sha256(unbroken[1] / "checkpoint.npz")
    assert main(["train", "--resume", "--out", str(unbroken[1])]) == 0
    assert "has already reached its total" in capsys.readouterr().out
    assert sha256(unbroken[1] / "checkpoint.npz") == before


# ---------------------------------------------------------------- files and samples


def test_the_folder_contains_the_documented_files(unbroken):
    _, out = unbroken
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    samples = {f"samples/epoch-{n:04d}.png" for n in range(4)}
    of_other_runs = {"discriminator.png", runs.run.DIVERGED}
    assert names - {LOCK} == {*runs.CONTENTS, *samples, "checkpoints/epoch-0002.npz"} - of_other_runs
    with open(out / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"] and float(rows[2]["d_loss"]) > 0
    assert list(rows[0])[:3] == ["epoch", "step", "seconds"]
    with Image.open(out / "training.gif") as animation:
        assert animation.n_frames == 4
    with Image.open(out / "final.png") as picture:
        assert picture.size == (10 * (3 * 8 + 2) + 2,) * 2
    assert json.loads((out / "config.json").read_text())["preset"] == "tutorial"


def test_the_seed_determines_the_samples(unbroken, tmp_path):
    drawn = []
    for name, seed in (("a.npy", 1), ("b.npy", 1), ("c.npy", 2)):
        assert (
            main(["sample", str(unbroken[1]), "--count", "12", "--seed", str(seed), "--out", str(tmp_path / name)]) == 0
        )
        drawn.append(np.load(tmp_path / name))
        assert drawn[-1].shape == (12, 8, 8) and drawn[-1].dtype == np.uint8
    assert np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], drawn[2])
    assert main(["sample", str(unbroken[1]), "--count", "12", "--out", str(tmp_path / "grid.png")]) == 0
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.size == (10 * 18 + 2, 2 * 18 + 2)


def test_samples_are_drawn_with_the_moving_average(unbroken):
    arrays, _ = checkpoint.load(unbroken[1] / "checkpoint.npz")
    network = runs.sampler(unbroken[1], backends.load("numpy")).generator
    assert np.array_equal(network.params["0.w"], arrays["average.0.w"])
    assert np.array_equal(network.buffers["1.mean"], arrays["average.buffer.1.mean"])
    assert not np.array_equal(arrays["average.0.w"], arrays["G.0.w"])


def test_colour_images_are_trained_and_sampled(tmp_path):
    np.save(tmp_path / "rgb.npy", np.random.default_rng(0).integers(0, 256, (20, 12, 12, 3), dtype=np.uint8))
    out = str(tmp_path / "run")
    options = ["--preset", "small", "--data", str(tmp_path / "rgb.npy"), "--batch", "8", "--steps", "2", "--quiet"]
    assert main(["train", *options, "--backend", "numpy", "--out", out]) == 0
    assert main(["sample", out, "--count", "3", "--out", str(tmp_path / "s.npy")]) == 0
    assert np.load(tmp_path / "s.npy").shape == (3, 12, 12, 3)


# ---------------------------------------------------------------- errors


def refused(capsys, *arguments) -> str:
    """Runs a command that fails with exit code 2, and returns its message, which is one line."""
    capsys.readouterr()
    assert main(list(map(str, arguments))) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("minigan: ") and errors.count("\n") == 1
    return errors


def test_a_run_is_never_overwritten(unbroken, data, capsys):
    before = sha256(unbroken[1] / "checkpoint.npz")
    says = refused(capsys, "train", *OPTIONS, "--data", data, "--out", unbroken[1])
    assert "already exists" in says and f"minigan train --resume --out {unbroken[1]}" in says
    assert sha256(unbroken[1] / "checkpoint.npz") == before


def test_a_resumed_run_cannot_change_its_options(unbroken, capsys):
    says = refused(capsys, "train", "--resume", "--out", unbroken[1], "--batch", 32)
    assert "was started with batch 16" in says
    refused(capsys, "train", "--resume", "--out", unbroken[1], "--lr", 0.1)
    refused(capsys, "train", "--resume", "--out", unbroken[1], "--preset", "small")


def test_a_folder_without_a_run_is_refused(tmp_path, capsys):
    for command in (["train", "--resume", "--out", tmp_path], ["sample", tmp_path], ["sample", tmp_path / "none"]):
        assert "is not the folder of a run" in refused(capsys, *command)
    (tmp_path / "config.json").write_text("{}")
    assert "checkpoint.npz does not exist" in refused(capsys, "sample", tmp_path)


def test_the_error_of_a_damaged_checkpoint_gives_the_command_to_restore(unbroken, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(unbroken[1], out)
    content = bytearray((out / "checkpoint.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (out / "checkpoint.npz").write_bytes(content)
    says = refused(capsys, "train", "--resume", "--out", out, "--epochs", 4)
    assert "damaged" in says
    command = says[says.index("`cp ") + 1 : says.rindex("`")].split()
    subprocess.run(command, check=True)
    assert main(["train", "--resume", "--out", str(out), "--epochs", "3", "--quiet"]) == 0
    assert sha256(out / "checkpoint.npz") == sha256(unbroken[1] / "checkpoint.npz")


def test_a_checkpoint_of_another_architecture_is_refused(unbroken, data, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(unbroken[1], out)
    config = json.loads((out / "config.json").read_text()) | {"preset": "small"}
    (out / "config.json").write_text(json.dumps(config))
    assert "another architecture" in refused(capsys, "train", "--resume", "--out", out, "--epochs", 4)
    assert "another architecture" in refused(capsys, "sample", out)


def test_a_full_disk_keeps_the_last_checkpoint(unbroken, tmp_path):
    """A limit on the size of files simulates a full disk, because the write fails in the middle."""
    out = tmp_path / "run"
    shutil.copytree(unbroken[1], out)
    before = sha256(out / "checkpoint.npz")
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000));"
        f"from minigan.cli import main; sys.exit(main(['train', '--resume', '--out', {str(out)!r}, '--epochs', '5']))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert "cannot write to" in result.stderr and "File too large" in result.stderr
    assert sha256(out / "checkpoint.npz") == before
    assert not list(out.rglob("*.tmp"))


def test_divergence_keeps_the_last_good_checkpoint(data, tmp_path, capsys):
    out = tmp_path / "run"
    options = ["--data", data, "--backend", "numpy", "--lr", "1e30", "--epochs", "9", "--out", out]
    says = refused(capsys, "train", *OPTIONS, *options)
    assert "is no longer a finite number" in says
    arrays, _ = checkpoint.load(out / "checkpoint.npz")
    assert all(np.isfinite(a).all() for name, a in arrays.items() if a.dtype.kind == "f")


def test_samples_that_are_not_numbers_are_a_divergence(tmp_path):
    """Enormous weights can give samples that are not finite, from losses and weights that are."""
    images = np.random.default_rng(0).integers(0, 256, (32, 28, 28), np.uint8)
    data = datasets.Images(images[..., None], None, "random")
    out = tmp_path / "run"
    training = runs.begin(Config.of("tutorial", batch=16, epochs=3, backend="numpy"), out, data=data)

    def spoil(record):
        if record["step"] == 3:
            training.G.buffers["8.mean"][:] = np.nan  # no loss and no weight

    with pytest.raises(Diverged, match=r"step 4: a sample of G is no longer a finite number"):
        runs.play(training, out, quiet=True, callback=spoil)
    assert "a sample of G" in (out / run_module.DIVERGED).read_text()
    arrays, _ = checkpoint.load(out / "checkpoint.npz")
    assert all(np.isfinite(a).all() for name, a in arrays.items() if a.dtype.kind == "f")


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write to every folder")
def test_a_folder_without_write_permission_is_refused(data, tmp_path, capsys):
    tmp_path.chmod(0o500)
    assert "cannot write to" in refused(capsys, "train", *OPTIONS, "--data", data, "--out", tmp_path / "run")


def test_a_file_instead_of_a_folder_is_refused(data, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    says = refused(capsys, "train", *OPTIONS, "--data", data, "--out", tmp_path / "file" / "run")
    assert "cannot write to" in says and "Not a directory" in says


def test_a_refused_run_writes_nothing(data, tmp_path):

    for choices in ({"batch": 999, "data": data}, {"data": str(tmp_path / "none")}, {"backend": "abacus"}):
        with pytest.raises(UserError):
            runs.begin(Config.of("small", **choices), tmp_path / "run")
        assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- labels


def test_a_run_with_labels_draws_one_label_or_all(tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=pixels, labels=np.arange(40) % 4)
    out = tmp_path / "run"
    options = ["--data", tmp_path / "data.npz", "--batch", "8", "--steps", "30", "--backend", "numpy", "--out", out]
    assert main(["train", *map(str, options)]) == 0
    assert "labels     4 classes of 10 images" in capsys.readouterr().out
    with Image.open(out / "final.png") as picture:
        assert picture.width == 4 * 26 + 2  # one column per label
    drawn = {}
    for name, digit in (("all", []), ("twos", ["--digit", "2"])):
        file = str(tmp_path / f"{name}.npy")
        assert main(["sample", str(out), "--count", "8", *digit, "--backend", "numpy", "--out", file]) == 0
        drawn[name] = np.load(file)
    same_label = [bool((a == b).all()) for a, b in zip(drawn["all"], drawn["twos"], strict=True)]
    assert (
        same_label == [False, False, True, False] * 2
    )  # the noise is the same, and the label is the same for the twos only
    assert "there is no label '4': the labels are 0, 1, 2, 3" in refused(capsys, "sample", out, "--digit", 4)


def test_training_without_labels_is_reported(data, tmp_path, capsys):
    out = tmp_path / "run"
    options = ["--data", data, "--batch", "8", "--steps", "2", "--backend", "numpy", "--out", str(out)]
    assert main(["train", *options]) == 0
    assert "networks   the data have no labels, so the networks are unconditional" in capsys.readouterr().out
    assert "trained without labels" in refused(capsys, "sample", out, "--digit", 1)
