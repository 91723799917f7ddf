"""How every layer of a generator is exported: one section for each operation, and RULES, the table of all layers.

To add a layer, write its operation here (see `Operation`) and add a line to RULES, or only the line if an operation
with other settings computes the same. `tests/test_export.py` then compares all formats with the layer.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from minigan import layers
from minigan.errors import UserError
from minigan.export.images import CONV, CONV_TRANSPOSE, UPSAMPLE
from minigan.export.operations import Graph, Operation, Settings, Step, step, within
from minigan.export.series import CONV1D, IN_EACH_STEP, gru_steps, tanh_of_steps
from minigan.layers import Layer

# The functions for NumPy have no type annotations, because they are copied into files for readers.

# ---------------------------------------------------------------- labels


def one_hot(x, labels, classes):
    """Append the one-hot label to the noise: (N, n) -> (N, n + classes)."""
    return np.concatenate([x, (labels[:, None] == np.arange(classes)).astype(x.dtype)], axis=1)


def _one_hot_onnx(graph: Graph, x: str, inputs: list[str], arrays: dict[str, str], settings: Settings) -> str:
    return graph.node("Concat", x, _one_hot_of(graph, inputs[0], settings["classes"]), axis=1)


def _one_hot_of(graph: Graph, index: str, width: int) -> str:
    """Add the one-hot encoding (N, width) of an index (N,)."""
    depth, values = graph.constant(np.array(width, np.int64)), graph.constant(np.array([0, 1], np.float32))
    return graph.node("OneHot", index, depth, values, axis=-1)


ONE_HOT = Operation(
    one_hot,
    """
function oneHot({ from: [n], to: [m] }) {
  const y = new Float32Array(m);
  return (x, label) => {
    y.set(x);
    y.fill(0, n);
    y[n + label] = 1;
    return y;
  };
}
""",
    _one_hot_onnx,
    takes=("labels",),
)

# ---------------------------------------------------------------- dense


def dense(x, w, b=0):
    """y = x w + b: (N, n) -> (N, m)."""
    return x @ w + b


def _dense_onnx(graph: Graph, x: str, inputs: list[str], arrays: dict[str, str], settings: Settings) -> str:
    return graph.node("Gemm", x, *arrays.values())


DENSE = Operation(
    dense,
    """
function dense({ from: [n], to: [m], w, b }) {
  const y = new Float32Array(m);
  return (x) => {
    if (b) y.set(b);
    else y.fill(0);
    for (let i = 0, at = 0; i < n; i++, at += m) {
      const xi = x[i];
      if (xi === 0) continue; // the zeros of a one-hot label
      for (let o = 0; o < m; o++) y[o] += xi * w[at + o];
    }
    return y;
  };
}
""",
    _dense_onnx,
)

# ---------------------------------------------------------------- batch norm, with the running statistics


def batch_norm(x, gamma, beta, mean, var, eps):
    """y = gamma (x - mean) / sqrt(var + eps) + beta for each channel, the last axis."""
    return gamma / np.sqrt(var + eps) * (x - mean) + beta


def _batch_norm_onnx(graph: Graph, x: str, inputs: list[str], arrays: dict[str, str], settings: Settings) -> str:
    eps = graph.constant(np.array(settings["eps"], np.float32))
    scale = graph.node("Div", arrays["gamma"], graph.node("Sqrt", graph.node("Add", arrays["var"], eps)))
    return graph.node("Add", graph.node("Mul", scale, graph.node("Sub", x, arrays["mean"])), arrays["beta"])


BATCH_NORM = Operation(
    batch_norm,
    """
function batchNorm({ to, gamma, beta, mean, var: variance, eps }) {
  const C = gamma.length, size = to.reduce((a, b) => a * b), y = new Float32Array(size);
  const scale = gamma.map((g, c) => g / Math.sqrt(variance[c] + eps));
  const shift = beta.map((b, c) => b - scale[c] * mean[c]);
  return (x) => {
    for (let i = 0; i < size; i += C) for (let c = 0; c < C; c++) y[i + c] = scale[c] * x[i + c] + shift[c];
    return y;
  };
}
""",
    _batch_norm_onnx,
)

# ---------------------------------------------------------------- activations

# A function of JavaScript that applies FORMULA to each number x[i].
EACH = """
function NAME({ to, slope }) {
  const size = to.reduce((a, b) => a * b), y = new Float32Array(size);
  return (x) => {
    for (let i = 0; i < size; i++) y[i] = FORMULA;
    return y;
  };
}
"""


def leaky_relu(x, slope):
    """y = x where x > 0, else slope * x."""
    return np.where(x > 0, x, slope * x)


def relu(x):
    """y = max(x, 0)."""
    return np.maximum(x, 0)


def tanh(x):
    """y = tanh(x)."""
    return np.tanh(x)


def sigmoid(x):
    """y = 1 / (1 + exp(-x)), computed so that it cannot overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))


def softplus(x):
    """y = log(1 + exp(x)), computed so that it cannot overflow."""
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _each(function: Callable[..., np.ndarray], name: str, formula: str, kind: str) -> Operation:
    """Return the operation that applies a function to each number. `kind` is the operator of ONNX."""

    def onnx(graph: Graph, x: str, inputs: list[str], arrays: dict[str, str], settings: Settings) -> str:
        return graph.node(kind, x, **({"alpha": float(settings["slope"])} if settings else {}))

    return Operation(function, EACH.replace("NAME", name).replace("FORMULA", formula), onnx)


LEAKY_RELU = _each(leaky_relu, "leakyRelu", "x[i] > 0 ? x[i] : slope * x[i]", "LeakyRelu")
RELU = _each(relu, "relu", "Math.max(x[i], 0)", "Relu")
TANH = _each(tanh, "tanh", "Math.tanh(x[i])", "Tanh")
SIGMOID = _each(sigmoid, "sigmoid", "0.5 * (1 + Math.tanh(0.5 * x[i]))", "Sigmoid")
SOFTPLUS = _each(softplus, "softplus", "Math.max(x[i], 0) + Math.log1p(Math.exp(-Math.abs(x[i])))", "Softplus")

# ---------------------------------------------------------------- shapes


def reshape(x, shape):
    """(N, ...) -> (N, *shape)."""
    return x.reshape(len(x), *shape)


def _reshape_onnx(graph: Graph, x: str, inputs: list[str], arrays: dict[str, str], settings: Settings) -> str:
    return graph.node("Reshape", x, graph.constant(np.array([0, *settings["shape"]], np.int64)))  # 0: N stays


RESHAPE = Operation(
    reshape,
    """
function reshape() {
  return (x) => x; // the numbers keep their order
}
""",
    _reshape_onnx,
)


def keep(x):
    """Store x for the next `join`."""
    return x


def join(x, kept):
    """Join the output of layers with their input: (N, m), (N, n) -> (N, m + n)."""
    return np.concatenate([x, kept], axis=1)


def _join_onnx(graph: Graph, x: str, inputs: list[str], arrays: dict[str, str], settings: Settings) -> str:
    return graph.node("Concat", x, *inputs, axis=1)


KEEP = Operation(
    keep,
    """
function keep() {
  return (x) => x;
}
""",
    lambda graph, x, inputs, arrays, settings: x,
    keeps=True,
)
JOIN = Operation(
    join,
    """
function join({ from: [m], to: [size] }) {
  const y = new Float32Array(size);
  return (x, kept) => {
    y.set(x);
    y.set(kept, m);
    return y;
  };
}
""",
    _join_onnx,
    takes=("kept",),
)

# ---------------------------------------------------------------- rows of tables


def table_head(x, uniform, groups, numbers):
    """Numbers by tanh, and one-hot groups: in each, the largest x + g gets 1, with g = -log(-log uniform)."""
    y, scores, rows = np.zeros_like(x), x - np.log(-np.log(uniform)), np.arange(len(x))
    for start, stop in numbers:
        y[:, start:stop] = np.tanh(x[:, start:stop])
    for start, stop in groups:
        y[rows, start + scores[:, start:stop].argmax(axis=1)] = 1
    return y


def _table_head_onnx(graph: Graph, x: str, inputs: list[str], arrays: dict[str, str], settings: Settings) -> str:
    numbers = graph.node("Tanh", x)
    minus_log = graph.node("Neg", graph.node("Log", *inputs))
    scores = graph.node("Sub", x, graph.node("Log", minus_log))
    parts = []
    for start, stop in sorted((*settings["groups"], *settings["numbers"])):
        if (start, stop) in settings["numbers"]:
            parts.append(_features(graph, numbers, start, stop))
        else:
            best = graph.node("ArgMax", _features(graph, scores, start, stop), axis=1, keepdims=0)
            parts.append(_one_hot_of(graph, best, stop - start))
    return graph.node("Concat", *parts, axis=1)


def _features(graph: Graph, x: str, start: int, stop: int) -> str:
    """Add x[:, start:stop]."""
    return graph.node("Slice", x, *(graph.constant(np.array([at], np.int64)) for at in (start, stop, 1)))


TABLE_HEAD = Operation(
    table_head,
    """
function tableHead({ to: [m], groups, numbers }) {
  const y = new Float32Array(m);
  return (x, uniform) => {
    y.fill(0);
    for (const [start, stop] of numbers) for (let i = start; i < stop; i++) y[i] = Math.tanh(x[i]);
    for (const [start, stop] of groups) {
      let best = start, most = -Infinity;
      for (let i = start; i < stop; i++) {
        const score = x[i] - Math.log(-Math.log(uniform[i]));
        if (score > most) [best, most] = [i, score];
      }
      y[best] = 1;
    }
    return y;
  };
}
""",
    _table_head_onnx,
    takes=("uniform",),
)


def write_label(x, labels, start, stop):
    """Write the one-hot label that was asked for into its group of features."""
    one_hot_label = labels[:, None] == np.arange(stop - start)
    return np.concatenate([x[:, :start], one_hot_label.astype(x.dtype), x[:, stop:]], axis=1)


def _write_label_onnx(graph: Graph, x: str, inputs: list[str], arrays: dict[str, str], settings: Settings) -> str:
    start, stop = settings["start"], settings["stop"]
    label = _one_hot_of(graph, inputs[0], stop - start)
    before = [_features(graph, x, 0, start)] if start else []  # "after" may be empty, which Concat allows
    return graph.node("Concat", *before, label, _features(graph, x, stop, np.iinfo(np.int64).max), axis=1)


WRITE_LABEL = Operation(
    write_label,
    """
function writeLabel({ to: [m], start, stop }) {
  const y = new Float32Array(m);
  return (x, label) => {
    y.set(x);
    y.fill(0, start, stop);
    y[start + label] = 1;
    return y;
  };
}
""",
    _write_label_onnx,
    takes=("labels",),
)

# ---------------------------------------------------------------- the table


def steps_of(layer: Layer) -> list[Step]:
    """Return what a layer, or a network, computes in evaluation, as steps.

    Raises UserError for a layer that has no line in RULES.
    """
    if type(layer) not in RULES:
        raise UserError(
            f"the layer {layer!r} cannot be exported: add {type(layer).__name__} to RULES in minigan/export/layers.py"
        )
    return RULES[type(layer)](layer)


def _nothing(layer: Any) -> list[Step]:
    """A layer that passes x on in evaluation."""
    return []


def _in_sequence(layer: Any) -> list[Step]:
    return [each for i, part in enumerate(layer.layers) for each in within(str(i), steps_of(part))]


def _concatenate(layer: Any) -> list[Step]:
    return [step(KEEP), *_in_sequence(layer.network), step(JOIN)]


def _table_head(layer: Any) -> list[Step]:
    steps = [step(TABLE_HEAD, groups=layer.groups, numbers=layer.numbers)]
    if layer.label_group is not None:
        start, stop = layer.groups[layer.label_group]
        steps.append(step(WRITE_LABEL, start=start, stop=stop))
    return steps


RULES: dict[type[Layer], Callable[[Any], list[Step]]] = {
    layers.BatchNorm: lambda layer: [step(BATCH_NORM, layer.params | layer.buffers, eps=layer.eps)],
    layers.Concatenate: _concatenate,
    layers.Conv1d: lambda layer: [
        step(CONV1D, layer.params, stride=layer.stride, dilation=layer.dilation, pad=layer.pad)
    ],
    layers.Conv2d: lambda layer: [step(CONV, layer.params, stride=layer.stride, pad=layer.pad)],
    layers.ConvTranspose2d: lambda layer: [
        step(CONV_TRANSPOSE, layer.params, stride=layer.stride, pad=layer.pad, output_pad=layer.output_pad)
    ],
    layers.Dense: lambda layer: [step(DENSE, layer.params)],
    layers.Dropout: _nothing,
    layers.Frozen: lambda layer: steps_of(layer.layer),
    layers.GRU: gru_steps,
    layers.GaussianNoise: _nothing,
    layers.Identity: _nothing,
    layers.InEachStep: lambda layer: [step(IN_EACH_STEP, steps=layer.steps, own=layer.own)],
    layers.LeakyReLU: lambda layer: [step(LEAKY_RELU, slope=layer.slope)],
    layers.OneHot: lambda layer: [step(ONE_HOT, classes=layer.classes)],
    layers.ReLU: lambda layer: [step(RELU)],
    layers.Reshape: lambda layer: [step(RESHAPE, shape=layer.shape)],
    layers.Sequential: _in_sequence,
    layers.Sigmoid: lambda layer: [step(SIGMOID)],
    layers.Softplus: lambda layer: [step(SOFTPLUS)],
    layers.TableHead: _table_head,
    layers.Tanh: lambda layer: [step(TANH)],
    layers.TanhOf: tanh_of_steps,
    layers.Upsample: lambda layer: [step(UPSAMPLE, factor=layer.factor)],
}
