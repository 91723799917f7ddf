"""Checkpoints: named arrays and a few facts in one .npz, written atomically and read without unpickling anything."""

import io
import json
import zipfile
import zlib
from pathlib import Path

import numpy as np

from minigan.errors import UserError
from minigan.files import write_atomically

FORMAT = 1  # of the file; raised when an older minigan could not read it


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, or from other networks."""


def save(path: Path, arrays: dict[str, np.ndarray], facts: dict) -> None:
    """Writes arrays (NumPy, on the CPU) and facts (whatever JSON can say) atomically to `path`."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays, facts=np.array(json.dumps({"format": FORMAT} | facts)))
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


def restore(path: Path, saved: dict[str, np.ndarray], targets: dict, asarray) -> None:
    """Copies the saved arrays into the targets of the same names, in place; all of them or none.

    Raises CheckpointError, naming the first difference, where names, shapes or dtypes are not the same.
    """
    for name in sorted(saved.keys() | targets.keys()):
        have, want = (f"{a[name].dtype} {tuple(a[name].shape)}" if name in a else "nothing" for a in (saved, targets))
        if have != want:
            raise CheckpointError(
                f"{path} is from another architecture: for {name} it holds {have}, these networks need {want}"
            )
    for name, target in targets.items():
        target[...] = saved[name] if isinstance(target, np.ndarray) else asarray(saved[name])
