"""Checkpoints: the whole state of a training in one .npz, written atomically and read without unpickling anything.

Format 2. The arrays, by name:

    G.NAME, D.NAME            parameters and buffers of both networks: G.0.w, D.2.mean, ...
    opt_g.NAME, opt_d.NAME    the optimizers' moments and counts: opt_g.m.0.w, opt_g.t, ...
    average.NAME              the moving average of G: its parameters, "buffer." and its buffers, and its count t
    curves                    (steps, 4) the losses and mean probabilities of every step, flat

The entry `facts` is JSON:

    format                    this number
    step, epoch, cursor       where the training is: generator updates, epochs, samples used of this epoch
    seconds                   of training so far
    horizon                   the totals for which the run was started: where a decaying learning rate reaches 0
    history                   a row for each epoch
    noise, penalty            the states of the random streams of noise, and of the points of wgan-gp
    classes, sample_shape     what the networks were built for
    data                      name and fingerprint of the data
    kind, codec               how samples are decoded

Format 1 has another fingerprint (`fingerprint_1`) and no horizon, penalty, sample_shape, kind
and codec; `load` adds what follows from the rest, and the horizon is in the run's config.json.
"""

import array
import dataclasses
import io
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from minigan import datasets
from minigan.datasets.data import crc32
from minigan.errors import UserError
from minigan.files import write_atomically

FORMAT = 2  # of the file; raised when an older minigan could not read it


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, or from other networks."""


# ---------------------------------------------------------------- a training's state


def tensors(training: Any) -> dict[str, Any]:
    """Every array of the training that decides what follows, by name: the very arrays, to read or to write into."""
    t = training
    owners = {
        "G": t.G.params | t.G.buffers,
        "D": t.D.params | t.D.buffers,
        "opt_g": t.opt_g.state,
        "opt_d": t.opt_d.state,
        "average": t.average.state if t.average else {},
    }
    return {f"{owner}.{name}": value for owner, values in owners.items() for name, value in values.items()}


def pack(training: Any) -> tuple[dict[str, np.ndarray], dict]:
    """(arrays, facts) of a training, for `save`."""
    t = training
    arrays = {name: t.backend.to_numpy(value) for name, value in tensors(t).items()}
    arrays["curves"] = np.array(t.curves, dtype=np.float32)
    facts = {
        "data": {"name": t.data.name, **t.data.fingerprint()},
        "kind": t.data.kind,
        "codec": dataclasses.asdict(t.data.codec),
        "sample_shape": list(t.data.sample_shape),
        "classes": t.classes,
        "noise": t.noise.bit_generator.state,
        "penalty": t.penalty_points.bit_generator.state,
        "history": t.history,
        **{name: getattr(t, name) for name in ("step", "epoch", "cursor", "seconds", "horizon")},
    }
    return arrays, facts


def unpack(training: Any, path: str | Path, arrays: dict[str, np.ndarray], facts: dict) -> None:
    """Puts the state that was read from `path` into a training of the same config.

    Raises UserError if the data are others, CheckpointError if the networks are.
    """
    t, saved = training, facts["data"]
    now = fingerprint_1(t.data) if "crc32" in saved else t.data.fingerprint()
    if {**saved, "name": ""} != {**now, "name": ""} or ("crc32" in saved and saved["name"] != t.data.name):
        raise UserError(
            f"{path} was trained on {saved['name']}, {saved['shape']}, with other contents than "
            f"{t.config.data} has now: restore the data, or start a new run"
        )
    arrays = dict(arrays)
    curves = arrays.pop("curves", np.zeros(0, np.float32))
    restore(path, arrays, tensors(t), t.backend.asarray)
    t.curves = array.array("f", curves.tobytes())
    t.noise.bit_generator.state = facts["noise"]
    if "penalty" in facts:
        t.penalty_points.bit_generator.state = facts["penalty"]
    t.history = facts["history"]
    for name in ("step", "epoch", "cursor", "seconds"):
        setattr(t, name, facts[name])
    t.horizon = facts.get("horizon") or t.horizon
    t.forget_order()


def fingerprint_1(data: Any) -> dict:
    """What told images from others in format 1: name, shape, and a checksum of every pixel."""
    if not isinstance(data, datasets.Images):
        return {}
    return {"name": data.name, "shape": list(data.images.shape), "crc32": crc32(data.images)}


def generator_arrays(arrays: dict[str, np.ndarray], network: Any) -> tuple[dict, dict]:
    """(saved, targets) for `restore`: the generator that samples are drawn from, the moving average if there is one."""
    averaged = any(name.startswith("average.") for name in arrays)
    params, buffers = ("average.", "average.buffer.") if averaged else ("G.", "G.")
    targets = {params + name: value for name, value in network.params.items()}
    targets |= {buffers + name: value for name, value in network.buffers.items()}
    return {name: arrays[name] for name in targets if name in arrays}, targets


# ---------------------------------------------------------------- the file


def save(path: Path, arrays: dict[str, np.ndarray], facts: dict) -> None:
    """Writes arrays (NumPy, on the CPU) and facts (whatever JSON can say) atomically to `path`."""
    buffer = io.BytesIO()
    entries: dict[str, Any] = {**arrays, "facts": np.array(json.dumps({"format": FORMAT} | facts))}
    np.savez(buffer, **entries)
    write_atomically(Path(path), buffer.getvalue())


def load(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """(arrays, facts) as `save` wrote them; every byte is checked against the file's checksums.

    Raises CheckpointError for a file that is missing, damaged or of a newer format.
    """
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        facts = json.loads(str(arrays.pop("facts")))
        version = facts.pop("format")
        if version == 1:
            facts = {"kind": "images", "codec": {}, "sample_shape": facts["data"]["shape"][1:]} | facts
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist: is this the folder of a run?") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is not a checkpoint, or is damaged ({str(error) or type(error).__name__})"
        ) from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from None
    if version > FORMAT:
        raise CheckpointError(f"{path} was written by a newer minigan (format {version}): upgrade minigan to read it")
    return arrays, facts


def restore(path: str | Path, saved: dict[str, np.ndarray], targets: dict, asarray: Any) -> None:
    """Copies the saved arrays into the targets of the same names, in place; all of them or none.

    Raises CheckpointError, naming the first difference, unless names, shapes and dtypes are the same.
    """
    for name in sorted(saved.keys() | targets.keys()):
        have, want = (f"{a[name].dtype} {tuple(a[name].shape)}" if name in a else "nothing" for a in (saved, targets))
        if have != want:
            raise CheckpointError(
                f"{path} is from another architecture: for {name} it holds {have}, these networks need {want}"
            )
    for name, target in targets.items():
        target[...] = saved[name] if isinstance(target, np.ndarray) else asarray(saved[name])
