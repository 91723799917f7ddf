"""Write files atomically, so that an interruption never leaves a partial file."""

import contextlib
import io
import os
from pathlib import Path

import numpy as np


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to `path`, so that the file has its old or its complete new content even after a power failure.

    The content is written to a temporary file in the same folder, which is flushed to disk and then renamed. Raises
    OSError if the write fails, and removes the temporary file in that case.
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
    """Write an array to a .npy file atomically."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    write_atomically(path, buffer.getvalue())
