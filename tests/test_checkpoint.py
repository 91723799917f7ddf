"""Checkpoints: a saved state is restored exactly, and damaged, foreign or pickled files are refused."""

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from minigan import backends, datasets, runs
from minigan.cli import main
from minigan.errors import UserError
from minigan.training import Config, Training, checkpoint
from minigan.training.checkpoint import CheckpointError

ARRAYS = {"w": np.linspace(0, 1, 1000, dtype=np.float32), "t": np.array(7), "key": np.array(2**63 + 1, np.uint64)}
FACTS = {"step": 3, "noise": {"state": 2**127 + 5}, "history": [{"d_loss": 0.1}]}


def test_a_saved_state_is_loaded_exactly(tmp_path):
    checkpoint.save(tmp_path / "c.npz", ARRAYS, FACTS)
    arrays, facts = checkpoint.load(tmp_path / "c.npz")
    assert facts == FACTS and arrays.keys() == ARRAYS.keys()
    for name, a in ARRAYS.items():
        assert arrays[name].dtype == a.dtype and arrays[name].tobytes() == a.tobytes()
    assert os.listdir(tmp_path) == ["c.npz"]


@pytest.mark.parametrize("place", [0.05, 0.3, 0.6, 0.9])
def test_any_damage_is_noticed(tmp_path, place):
    path = tmp_path / "c.npz"
    checkpoint.save(path, ARRAYS, FACTS)
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.load(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"hello", pickle.dumps({"w": 1})])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    (tmp_path / "c.npz").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"c\.npz is not a checkpoint, or is damaged"):
        checkpoint.load(tmp_path / "c.npz")


def test_a_truncated_file_is_refused(tmp_path):
    path = tmp_path / "c.npz"
    checkpoint.save(path, ARRAYS, FACTS)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.load(path)


def test_nothing_is_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "exploded"),))

    np.savez(tmp_path / "c.npz", w=np.array([Bomb()], dtype=object))
    with pytest.raises(CheckpointError):
        checkpoint.load(tmp_path / "c.npz")
    assert not (tmp_path / "exploded").exists()


def test_missing_and_newer_files_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        checkpoint.load(tmp_path / "none.npz")
    checkpoint.save(tmp_path / "c.npz", {}, {"format": checkpoint.FORMAT + 1})
    with pytest.raises(CheckpointError, match="newer minigan"):
        checkpoint.load(tmp_path / "c.npz")


def test_a_failed_write_keeps_the_old_file_and_removes_the_temporary_file(tmp_path, monkeypatch):
    path = tmp_path / "c.npz"
    checkpoint.save(path, ARRAYS, FACTS)

    def refuse(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(path, {"w": np.zeros(3)}, {})
    assert os.listdir(tmp_path) == ["c.npz"]
    assert checkpoint.load(path)[1] == FACTS


def test_restore_writes_in_place_and_only_if_all_arrays_fit(tmp_path):
    targets = {"a": np.zeros(3, np.float32), "b": np.zeros((), np.int64)}
    a = targets["a"]
    checkpoint.restore(tmp_path, {"a": np.ones(3, np.float32), "b": np.array(5)}, targets, np.asarray)
    assert a.sum() == 3 and targets["b"] == 5
    for wrong, says in (
        ({"a": np.full(3, 9, np.float32)}, "b is missing in the file, but the networks need int64"),
        ({"a": np.full(3, 9.0), "b": np.array(5)}, "a is float64"),
        ({"a": np.full(4, 9, np.float32), "b": np.array(5)}, r"a is float32 \(4,\)"),
        ({"a": np.full(3, 9, np.float32), "b": np.array(5), "c": np.array(1)}, "c is int64"),
    ):
        with pytest.raises(CheckpointError, match=says):
            checkpoint.restore(tmp_path, wrong, targets, np.asarray)
        assert a.sum() == 3


# ---------------------------------------------------------------- format 1

OLD = Path(__file__).parent / "data" / "format-1"
# d_loss and g_loss of steps 5 to 12, computed by the old version from this checkpoint.
EXPECTED_LOSSES = [
    [1.5876, -0.3086],
    [1.455, -0.311],
    [1.4527, -0.1366],
    [1.5089, -0.2859],
    [1.2964, -0.2483],
    [1.4206, -0.1086],
    [1.418, -0.2507],
    [1.4155, -0.134],
]


@pytest.fixture
def old_run(tmp_path) -> Path:
    """Returns the folder of a run of format 1, after the first of three epochs."""
    out = shutil.copytree(OLD, tmp_path / "run")
    for folder in ("checkpoints", "samples"):
        (out / folder).mkdir()
    config = (out / "config.json").read_text().replace("DATA", str(out / "tiny.npz"))
    (out / "config.json").write_text(config)
    return out


def test_a_run_of_format_1_is_resumed_as_the_old_version_did(old_run):
    """This includes the learning rate, which decreases to 0 at the horizon. In format 1 it is in config.json."""
    arrays, facts = checkpoint.load(old_run / "checkpoint.npz")
    assert (facts["kind"], facts["codec"], facts["sample_shape"]) == ("images", {}, [8, 8, 1])
    t = runs.resume(old_run)
    assert (t.step, t.epoch, t.classes, t.horizon) == (4, 1, 3, {"epochs": 3})
    for name, array in t.state()[0].items():
        assert array.dtype == arrays[name].dtype and array.tobytes() == arrays[name].tobytes()
    losses = [[record["d_loss"], record["g_loss"]] for record in t.records()]
    # Matrix products are rounded differently on other CPUs. On one machine, the results are
    # bit-identical (benchmarks/compare_versions.py).
    np.testing.assert_allclose(losses, EXPECTED_LOSSES, rtol=1e-3, atol=1e-3)
    assert "horizon" not in json.loads((old_run / "config.json").read_text())


def test_a_resumed_run_of_format_1_is_saved_in_format_2(old_run, capsys):
    assert main(["train", "--resume", "--out", str(old_run), "--epochs", "2", "--quiet"]) == 0
    with np.load(old_run / "checkpoint.npz") as file:
        facts = json.loads(str(file["facts"]))
    assert (facts["format"], facts["step"], facts["horizon"]) == (2, 8, {"epochs": 3})
    assert main(["train", "--resume", "--out", str(old_run), "--epochs", "3", "--quiet"]) == 0


def test_a_resumed_run_keeps_its_networks(old_run, capsys):
    """An option may be repeated with the same value, also if it is the default."""
    resume = ["train", "--resume", "--out", str(old_run), "--epochs", "1", "--quiet"]
    assert main([*resume, "--network", "g_width=2"]) == 2
    said = capsys.readouterr().err
    assert "was started with network {'d_norm': 'spectral', 'd_minibatch_std': 5.0, 'g_width': 1," in said
    assert main([*resume, "--network", "g_width=1"]) == 0
    wide = ["--quiet", "--out", str(old_run / "wide"), "--steps", "1"]
    start = ["--data", str(old_run / "tiny.npz"), "--batch", "6", "--backend", "numpy", "--network", "g_width=2"]
    assert main(["train", *wide, *start]) == 0
    assert main(["train", "--resume", *wide, "--network", "d_norm=spectral"]) == 0


def test_samples_are_drawn_from_a_run_of_format_1(old_run):
    assert main(["sample", str(old_run), "--count", "6", "--out", str(old_run / "s.npy"), "--backend", "numpy"]) == 0
    assert np.load(old_run / "s.npy").shape == (6, 8, 8)


def test_format_1_identifies_the_data_by_name_and_pixels(old_run):
    with np.load(old_run / "tiny.npz") as file:
        images, labels = file["images"], file["labels"]
    np.savez(old_run / "tiny.npz", images=255 - images, labels=labels)
    with pytest.raises(UserError, match=r"trained on tiny, \[24, 8, 8, 1\], but .* has other contents"):
        runs.resume(old_run)
    np.savez(old_run / "other.npz", images=images, labels=labels)
    config = (old_run / "config.json").read_text().replace("tiny.npz", "other.npz")
    (old_run / "config.json").write_text(config)
    with pytest.raises(UserError, match="has other contents"):
        runs.resume(old_run)


# ---------------------------------------------------------------- format 2


def test_data_are_identified_by_values_and_labels_not_by_name():
    """A run can be resumed with a renamed file, but not with other pixels or labels."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (24, 8, 8, 1), dtype=np.uint8), np.arange(24) % 3

    def training(images, labels, name) -> Training:
        data = datasets.Images(images, labels, name)
        return Training(Config.of("digits", batch=6, steps=2), data, backends.reference())

    state = training(images, labels, "one").state()
    training(images, labels, "renamed").load_state("there", *state)
    for other in ((255 - images, labels), (images, (labels + 1) % 3), (images[::-1].copy(), labels)):
        with pytest.raises(UserError, match=r"trained on one, \[24, 8, 8, 1\], but .* has other contents"):
            training(*other, "one").load_state("there", *state)


def test_the_docstring_lists_every_array_and_fact():
    data = datasets.Images(np.zeros((24, 8, 8, 1), np.uint8), np.arange(24) % 3, "zeros")
    t = Training(Config.of("digits", batch=6, steps=2), data, backends.reference())
    arrays, facts = t.state()
    assert {name.split(".")[0] for name in arrays} == {"G", "D", "opt_g", "opt_d", "average", "curves"}
    assert arrays.keys() - {"curves"} == checkpoint.tensors(t).keys()
    for name in facts:
        assert name in checkpoint.__doc__, name


def test_a_newer_format_is_refused_by_name(tmp_path):
    checkpoint.save(tmp_path / "c.npz", ARRAYS, FACTS | {"format": 3})
    with pytest.raises(CheckpointError, match=r"written by a newer minigan \(format 3\): upgrade minigan"):
        checkpoint.load(tmp_path / "c.npz")
