"""What an exported generator consists of: operations, and the steps that apply them one after another.

An `Operation` is one kind of layer in evaluation (train=False), written in every format. A `Step` is an operation
with the arrays and settings of one layer. `layers.py` has the operations, and the table RULES from the class of a
layer to its steps.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

Settings = dict[str, Any]  # numbers, texts, booleans, and tuples of these


class Graph(Protocol):
    """An ONNX graph that is being built. Tensors are named by texts."""

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output, and return the name of the output."""
        ...

    def constant(self, value: Any, name: str = "") -> str:
        """Store an array, and return its name."""
        ...


class Operation(NamedTuple):
    """One kind of layer, in every format. x is the output of the step before, (N, ...).

    `numpy` is a function of (x, *inputs, **arrays, **settings) that returns y. It uses nothing but NumPy as `np`,
    because exported Python files contain its source. `javascript` is the source of a function with the same name in
    camelCase. It takes an object with the arrays, the settings, and the shapes `from` and `to` of x and y without the
    batch, and returns the function (x, input) -> y of one sample, a Float32Array. The arrays are row-major. `onnx`
    is a function of (graph, x, inputs, arrays, settings), all names of tensors except the settings, that adds nodes
    and returns the name of y. `takes` are the inputs besides x: "labels" (N,), "uniform", numbers from (0, 1) in the
    shape of x, and "kept", the x that was kept last by an operation with `keeps`.
    """

    numpy: Callable[..., np.ndarray]
    javascript: str
    onnx: Callable[[Graph, str, list[str], dict[str, str], Settings], str]
    takes: tuple[str, ...] = ()
    keeps: bool = False

    @property
    def name(self) -> str:
        """The name of the function, for example conv_transpose."""
        return self.numpy.__name__


class Step(NamedTuple):
    """An operation with the arrays and settings of one layer.

    `arrays` maps the names of arguments to the arrays, and `names` to their names in files, which are those of the
    layer's parameters and buffers by position: "3.w".
    """

    operation: Operation
    arrays: dict[str, np.ndarray]
    names: dict[str, str]
    settings: Settings


def step(operation: Operation, arrays: dict[str, np.ndarray] | None = None, **settings: Any) -> Step:
    """Return a step whose arrays have the names of the arguments."""
    arrays = arrays or {}
    return Step(operation, arrays, {name: name for name in arrays}, settings)


def within(place: str, steps: Sequence[Step]) -> list[Step]:
    """Return the steps with the names of their arrays as those of the layer at a place: "w" becomes "3.w"."""
    return [each._replace(names={key: f"{place}.{name}" for key, name in each.names.items()}) for each in steps]
