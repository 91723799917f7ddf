"""A trained generator on its own, without the discriminator, in several formats.

    found = export.exported(generator, codec, class_names, source)     # as steps that any format is written from
    content = export.FORMATS["onnx"].write(found)                      # the bytes of a file

`layers.py` has one place for each layer: what it computes in NumPy, in JavaScript and in ONNX.
"""

from collections.abc import Callable
from typing import NamedTuple

from minigan.export.containers import npz, safetensors
from minigan.export.generator import Exported, arrays_of, exported
from minigan.export.onnx_model import onnx
from minigan.export.python_file import python

__all__ = ["FORMATS", "Exported", "Format", "arrays_of", "exported"]


class Format(NamedTuple):
    """A format of exported files."""

    write: Callable[[Exported], bytes]
    suffix: str
    what: str  # what is in the file, for people


FORMATS = {
    "npz": Format(npz, ".npz", "arrays of NumPy by name, and facts as JSON"),
    "safetensors": Format(safetensors, ".safetensors", "arrays by name, and facts as JSON"),
    "onnx": Format(onnx, ".onnx", "a model for ONNX runtimes"),
    "python": Format(python, ".py", "one file that draws samples with NumPy only"),
}
