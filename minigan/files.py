"""Write files so that an interruption never leaves half of one."""

import contextlib
import io
import os
from pathlib import Path

import numpy as np


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that the file holds its old content or all of the new, even after a power failure.

    A temporary file in the same folder is filled, flushed to the disk and renamed. Raises OSError if the disk
    refuses, and removes the temporary file then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def write_array(path: Path, array: np.ndarray) -> None:
    """Writes a .npy file atomically."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    write_atomically(path, buffer.getvalue())
