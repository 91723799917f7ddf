"""Exported generators as files of arrays: .npz of NumPy, and safetensors."""

import io
import json
from typing import Any

import numpy as np

from minigan.export.generator import Exported


def npz(found: Exported) -> bytes:
    """Return the content of a .npz file: every array under its name, and the text `facts`, which is JSON."""
    buffer = io.BytesIO()
    entries: dict[str, Any] = {**found.arrays(), "facts": np.array(json.dumps(found.facts()))}
    np.savez(buffer, **entries)
    return buffer.getvalue()


def safetensors(found: Exported) -> bytes:
    """Return the content of a safetensors file, with the JSON text `facts` in its metadata.

    The format: the length of a header in 8 bytes, the header in JSON, which gives dtype, shape and place of every
    array, and then the arrays, row-major, the lowest bytes first (github.com/huggingface/safetensors, "Format"). It
    is written here because these few lines need no installation. tests/test_export.py reads them with the package.
    """
    header: dict = {"__metadata__": {"format": "np", "facts": json.dumps(found.facts())}}
    parts, at = [], 0
    for name, value in found.arrays().items():
        part = value.astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [at, at + len(part)]}
        parts.append(part)
        at += len(part)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the arrays start at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text + b"".join(parts)
