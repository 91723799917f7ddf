"""Checkpoints: what is saved comes back to the bit; what is damaged, foreign or executable does not come in."""

import os
import pickle

import numpy as np
import pytest

from minigan.training import checkpoint
from minigan.training.checkpoint import CheckpointError

ARRAYS = {"w": np.linspace(0, 1, 1000, dtype=np.float32), "t": np.array(7), "key": np.array(2**63 + 1, np.uint64)}
FACTS = {"step": 3, "noise": {"state": 2**127 + 5}, "history": [{"d_loss": 0.1}]}


def test_what_is_saved_comes_back(tmp_path):
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
def test_what_is_no_checkpoint_is_refused(tmp_path, content):
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


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "c.npz"
    checkpoint.save(path, ARRAYS, FACTS)

    def refuse(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(path, {"w": np.zeros(3)}, {})
    assert os.listdir(tmp_path) == ["c.npz"]
    assert checkpoint.load(path)[1] == FACTS


def test_restore_writes_in_place_and_all_or_nothing(tmp_path):
    targets = {"a": np.zeros(3, np.float32), "b": np.zeros((), np.int64)}
    a = targets["a"]
    checkpoint.restore(tmp_path, {"a": np.ones(3, np.float32), "b": np.array(5)}, targets, np.asarray)
    assert a.sum() == 3 and targets["b"] == 5
    for wrong, says in (
        ({"a": np.full(3, 9, np.float32)}, "for b it holds nothing, these networks need int64"),
        ({"a": np.full(3, 9.0), "b": np.array(5)}, "for a it holds float64"),
        ({"a": np.full(4, 9, np.float32), "b": np.array(5)}, r"for a it holds float32 \(4,\)"),
        ({"a": np.full(3, 9, np.float32), "b": np.array(5), "c": np.array(1)}, "for c it holds int64"),
    ):
        with pytest.raises(CheckpointError, match=says):
            checkpoint.restore(tmp_path, wrong, targets, np.asarray)
        assert a.sum() == 3
