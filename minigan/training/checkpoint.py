"""Save and load checkpoints: the complete training state in one .npz file, written atomically, without pickle.

Format 2. The arrays, by name:

    G.NAME, D.NAME            parameters and buffers of both networks: G.0.w, D.2.mean, ...
    opt_g.NAME, opt_d.NAME    moments and step counts of the optimizers: opt_g.m.0.w, opt_g.t, ...
    average.NAME              the moving average of G: parameters, buffers with the prefix "buffer.", step count t
    curves                    the losses and mean probabilities of every step, (steps, 4), flattened

The entry `facts` is JSON:

    format                    the number of the format
    step, epoch, cursor       steps, completed epochs, and samples of the current epoch that were used
    seconds                   training time so far
    horizon                   the totals with which the run was started, at which a decaying learning rate reaches 0
    decay_start               the (step, seconds) at which this decay began
    history                   a row for each epoch
    noise, penalty            states of the random generators of the noise and of the penalty
    classes, sample_shape     number of classes and sample shape with which the networks were built
    data                      name and fingerprint of the data
    class_names               the names of the classes, or null if the data have no labels
    description               what was read and assumed, as lines (topic, sentence)
    discriminator             the architecture of the discriminator if it is not that of the preset, else null
    kind, codec               kind of data and fields of its codec, which decode samples

Format 1 has a different fingerprint (`fingerprint_1`) and no horizon, penalty, sample_shape, kind
or codec. `load` derives kind, codec and sample_shape, and the horizon is in the run's config.json.
Early files of format 2 have no class_names, description, decay_start and discriminator.
"""

import array
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from minigan import datasets
from minigan.datasets.data import crc32
from minigan.errors import UserError
from minigan.files import read_archive, write_archive

FORMAT = 2  # number of the file format; increased when older versions of minigan cannot read the file


class CheckpointError(UserError):
    """Raised for a checkpoint that is missing, damaged, or from other networks."""


# ---------------------------------------------------------------- training state


def tensors(training: Any) -> dict[str, Any]:
    """Return every array of the training state by name, without copying: writing into one changes the training."""
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
    """Return (arrays, facts) of a training, for `save`."""
    t = training
    arrays = {name: t.backend.to_numpy(value) for name, value in tensors(t).items()}
    arrays["curves"] = np.array(t.curves, dtype=np.float32)
    facts = {
        "data": {"name": t.data.name, **t.data.fingerprint()},
        "kind": t.data.kind,
        "codec": dataclasses.asdict(t.data.codec),
        "sample_shape": list(t.data.sample_shape),
        "classes": t.classes,
        "class_names": t.data.class_names,
        "discriminator": t.taken.discriminator if t.taken else None,
        "description": t.data.description(),
        "noise": t.noise.bit_generator.state,
        "penalty": t.penalty_rng.bit_generator.state,
        "history": t.history,
        **{name: getattr(t, name) for name in ("step", "epoch", "cursor", "seconds", "horizon", "decay_start")},
    }
    return arrays, facts


def ignored_in_fingerprint(classes: int) -> dict:
    """Return the entries of a fingerprint that are not compared: the name, and without classes the labels."""
    return {"name": ""} if classes else {"name": "", "labels": None}


def unpack(training: Any, path: str | Path, arrays: dict[str, np.ndarray], facts: dict) -> None:
    """Copy the state that was read from `path` into a training with the same config.

    Raises UserError if the data differ, and CheckpointError if the networks differ.
    """
    t, saved = training, facts["data"]
    current = fingerprint_1(t.data) if "crc32" in saved else t.data.fingerprint()
    ignored = ignored_in_fingerprint(t.classes)
    if saved | ignored != current | ignored or ("crc32" in saved and saved["name"] != t.data.name):
        raise UserError(
            f"{path} was trained on {saved['name']}, {saved['shape']}, but {t.config.place_of_data()} has other "
            f"contents, {current.get('shape')}: give the place of the original data with --data, or start a new run"
        )
    arrays = dict(arrays)
    curves = arrays.pop("curves", np.zeros(0, np.float32))
    restore(path, arrays, tensors(t), t.backend.asarray)
    t.curves = array.array("f", curves.tobytes())
    t.noise.bit_generator.state = facts["noise"]
    if "penalty" in facts:
        t.penalty_rng.bit_generator.state = facts["penalty"]
    t.history = facts["history"]
    for name in ("step", "epoch", "cursor", "seconds"):
        setattr(t, name, facts[name])
    t.horizon = facts.get("horizon") or t.horizon
    t.decay_start = tuple(facts.get("decay_start", (0, 0.0)))
    t.reset_order()


def fingerprint_1(data: Any) -> dict:
    """Return the fingerprint of format 1: name, shape and checksum of the images. It is empty for other data."""
    if not isinstance(data, datasets.Images):
        return {}
    return {"name": data.name, "shape": list(data.images.shape), "crc32": crc32(data.images)}


def generator_arrays(arrays: dict[str, np.ndarray], network: Any) -> tuple[dict, dict]:
    """Return (saved, targets) for `restore`: the moving average of the generator, or G if there is no average."""
    averaged = any(name.startswith("average.") for name in arrays)
    params, buffers = ("average.", "average.buffer.") if averaged else ("G.", "G.")
    targets = {params + name: value for name, value in network.params.items()}
    targets |= {buffers + name: value for name, value in network.buffers.items()}
    return {name: arrays[name] for name in targets if name in arrays}, targets


# ---------------------------------------------------------------- the file


def save(path: Path, arrays: dict[str, np.ndarray], facts: dict) -> None:
    """Write NumPy arrays, and facts that JSON can represent, atomically to `path`."""
    write_archive(Path(path), arrays, {"format": FORMAT} | facts)


def load(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """Read (arrays, facts) that `save` wrote. The checksums in the file cover every byte of the entries.

    Raises CheckpointError if the file is missing, damaged or of a newer format.
    """
    arrays, facts = read_archive(path, "a checkpoint", "is this the folder of a run?", CheckpointError)
    version = facts.pop("format")
    if version == 1:
        facts = {"kind": "images", "codec": {}, "sample_shape": facts["data"]["shape"][1:]} | facts
    if version > FORMAT:
        raise CheckpointError(f"{path} was written by a newer minigan (format {version}): upgrade minigan to read it")
    return arrays, facts


def restore(path: str | Path, saved: dict[str, np.ndarray], targets: dict, asarray: Any) -> None:
    """Copy the saved arrays in place into the targets with the same names.

    Raises CheckpointError, which gives the first difference, if names, shapes or dtypes differ. Then no target is
    changed.
    """
    for name in sorted(saved.keys() | targets.keys()):
        have, want = (f"{a[name].dtype} {tuple(a[name].shape)}" if name in a else "missing" for a in (saved, targets))
        if have != want:
            raise CheckpointError(
                f"{path} is from another architecture: {name} is {have} in the file, but the networks need {want}"
            )
    for name, target in targets.items():
        target[...] = saved[name] if isinstance(target, np.ndarray) else asarray(saved[name])
