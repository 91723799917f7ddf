"""Exported generators as ONNX models."""

import json
from typing import Any

import numpy as np

from minigan.errors import UserError
from minigan.export.generator import Exported

OPSET = 17  # onnxruntime 1.12 and later
IR_VERSION = 8  # the version of the file format for this opset
MISSING = "ONNX needs the package onnx, which is not installed: pip install 'minigan[export]'"


class Graph:
    """An ONNX graph that is being built: see `operations.Graph`."""

    def __init__(self) -> None:
        import onnx.helper
        import onnx.numpy_helper

        self.onnx: Any = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output, and return the name of the output."""
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def constant(self, value: Any, name: str = "") -> str:
        """Store an array, and return its name."""
        name = name or f"constant_{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(np.asarray(value), name))
        return name


def onnx(found: Exported) -> bytes:
    """Return the content of an ONNX file with the inputs `z`, `labels` and `uniform`, and the output `samples`.

    z is float32 (N, *noise_shape) for any N, and labels int64 (N,), only with labels. The head of a table also takes
    float32 `uniform` (N, n), numbers from (0, 1): ONNX has random numbers of its own, but with those, the same inputs
    would give different samples. The metadata have the JSON text `facts`. Raises UserError if onnx is not installed.
    """
    try:
        graph = Graph()
    except ImportError:
        raise UserError(MISSING) from None
    helper, float32, int64 = graph.onnx.helper, graph.onnx.TensorProto.FLOAT, graph.onnx.TensorProto.INT64
    inputs = [helper.make_tensor_value_info("z", float32, ["N", *found.noise_shape])]
    if found.classes:
        inputs.append(helper.make_tensor_value_info("labels", int64, ["N"]))
    if found.uniform:
        inputs.append(helper.make_tensor_value_info("uniform", float32, ["N", found.uniform]))
    x = "z"
    kept: list[str] = []
    for each in found.steps:
        taken = [kept.pop() if name == "kept" else name for name in each.operation.takes]
        arrays = {key: graph.constant(value, each.names[key]) for key, value in each.arrays.items()}
        if each.operation.keeps:
            kept.append(x)
        x = each.operation.onnx(graph, x, taken, arrays, each.settings)
    graph.nodes.append(helper.make_node("Identity", [x], ["samples"], name="samples"))
    outputs = [helper.make_tensor_value_info("samples", float32, ["N", *found.sample_shape])]
    model = helper.make_model(
        helper.make_graph(graph.nodes, "generator", inputs, outputs, graph.constants),
        producer_name="minigan",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    helper.set_model_props(model, {"facts": json.dumps(found.facts())})
    graph.onnx.checker.check_model(model)
    return model.SerializeToString()
