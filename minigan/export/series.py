"""How the layers of generators of series are exported, and how an exported Python file decodes series."""

import csv
from typing import Any

import numpy as np

from minigan.errors import UserError
from minigan.export.operations import Graph, Operation, Settings, Step, step

# The functions for NumPy have no type annotations, because they are copied into files for readers.

# ---------------------------------------------------------------- noise in each step


def in_each_step(x, steps, own):
    """Give each step `own` numbers, and all other numbers to every step: (N, n) -> (N, steps, own + rest)."""
    first, rest = np.split(x, [steps * own], axis=1)
    return np.concatenate([first.reshape(len(x), steps, own), np.repeat(rest[:, None], steps, axis=1)], axis=2)


def _in_each_step_onnx(graph: Graph, x: str, inputs: list[str], arrays: dict[str, str], settings: Settings) -> str:
    steps, own = settings["steps"], settings["own"]
    rest = graph.node("Unsqueeze", _slice(graph, x, 1, steps * own), _whole(graph, 1))
    spread = graph.node("Expand", rest, _whole(graph, 1, steps, 1))
    if not own:
        return spread
    first = graph.node("Reshape", _slice(graph, x, 1, 0, steps * own), _whole(graph, 0, steps, own))  # 0: N stays
    return graph.node("Concat", first, spread, axis=2)


def _whole(graph: Graph, *numbers: int) -> str:
    """Store whole numbers."""
    return graph.constant(np.array(numbers, np.int64))


def _slice(graph: Graph, x: str, axis: int, start: int, stop: int = np.iinfo(np.int64).max) -> str:
    """Add x[..., start:stop, ...] along an axis."""
    return graph.node("Slice", x, *(_whole(graph, at) for at in (start, stop, axis)))


IN_EACH_STEP = Operation(
    in_each_step,
    """
function inEachStep({ from: [n], to: [T, m], own }) {
  const y = new Float32Array(T * m);
  return (x) => {
    const rest = x.subarray(T * own, n);
    for (let t = 0; t < T; t++) {
      y.set(x.subarray(t * own, (t + 1) * own), t * m);
      y.set(rest, t * m + own);
    }
    return y;
  };
}
""",
    _in_each_step_onnx,
)

# ---------------------------------------------------------------- convolution over time


def conv1d(x, w, b=0, stride=1, dilation=1, pad=(0, 0)):
    """Convolution over time, y[n,p,o] = sum of xpad[n, p*stride + k*dilation, c] w[k,c,o] over k and c."""
    xpad, K = np.pad(x, ((0, 0), pad, (0, 0))), len(w)
    reach = xpad.shape[1] - (K - 1) * dilation
    return sum(xpad[:, k * dilation : k * dilation + reach : stride] @ w[k] for k in range(K)) + b


def _conv1d_onnx(graph: Graph, x: str, inputs: list[str], arrays: dict[str, str], settings: Settings) -> str:
    """Add a convolution between two transpositions, because series are (N, C, T) in ONNX."""
    terms = [graph.node("Transpose", arrays["w"], perm=(2, 1, 0)), *([arrays["b"]] if "b" in arrays else [])]
    how = dict(strides=[settings["stride"]], dilations=[settings["dilation"]], pads=list(settings["pad"]))
    y = graph.node("Conv", graph.node("Transpose", x, perm=(0, 2, 1)), *terms, **how)
    return graph.node("Transpose", y, perm=(0, 2, 1))


CONV1D = Operation(
    conv1d,
    """
function conv1d({ from: [T, n], to: [P, m], w, b, stride, dilation, pad }) {
  const K = w.length / (n * m), y = new Float32Array(P * m);
  return (x) => {
    for (let p = 0; p < P; p++) {
      const sums = y.subarray(p * m, (p + 1) * m);
      if (b) sums.set(b);
      else sums.fill(0);
      for (let k = 0; k < K; k++) {
        const t = p * stride + k * dilation - pad[0];
        if (t < 0 || t >= T) continue;
        for (let i = 0, at = k * n * m; i < n; i++, at += m) {
          const xi = x[t * n + i];
          for (let o = 0; o < m; o++) sums[o] += xi * w[at + o];
        }
      }
    }
    return y;
  };
}
""",
    _conv1d_onnx,
)

# ---------------------------------------------------------------- GRU


def gru(x, w_x, w_h, b_x, b_h, w_0, b_0, units):
    """The states of a GRU after each step: (N, 1 + T, n) -> (N, T, m). The first row of x gives the initial state."""
    h, states, gates = x[:, 0] @ w_0 + b_0, [], [units, 2 * units]
    for t in range(1, x.shape[1]):
        v_r, v_z, v_n = np.split(x[:, t] @ w_x + b_x, gates, axis=1)
        q_r, q_z, q_n = np.split(h @ w_h + b_h, gates, axis=1)
        r, z = (0.5 * (1 + np.tanh(0.5 * a)) for a in (v_r + q_r, v_z + q_z))  # sigmoid
        h = (1 - z) * np.tanh(v_n + r * q_n) + z * h
        states.append(h)
    return np.stack(states, axis=1)


def _gru_onnx(graph: Graph, x: str, inputs: list[str], arrays: dict[str, str], settings: Settings) -> str:
    """Add ONNX's GRU. It has the gates in the order z, r, n, weights (1, 3 m, n), and steps before samples."""
    m = settings["units"]

    def gates(name: str) -> str:
        """Return an array (..., 3 m) with the gates in ONNX's order, as (3 m, ...)."""
        parts = [_slice(graph, name, -1, k * m, (k + 1) * m) for k in (1, 0, 2)]
        return graph.node("Transpose", graph.node("Concat", *parts, axis=-1))

    zero = _whole(graph, 0)
    weights = [graph.node("Unsqueeze", gates(arrays[name]), zero) for name in ("w_x", "w_h")]
    biases = graph.node("Concat", gates(arrays["b_x"]), gates(arrays["b_h"]), axis=0)
    row = graph.node("Squeeze", _slice(graph, x, 1, 0, 1), _whole(graph, 1))
    start = graph.node("Unsqueeze", graph.node("Gemm", row, arrays["w_0"], arrays["b_0"]), zero)
    steps = graph.node("Transpose", _slice(graph, x, 1, 1), perm=(1, 0, 2))
    biases = graph.node("Unsqueeze", biases, zero)
    y = graph.node("GRU", steps, *weights, biases, "", start, hidden_size=m, linear_before_reset=1)  # (T, 1, N, m)
    return graph.node("Transpose", graph.node("Squeeze", y, _whole(graph, 1)), perm=(1, 0, 2))


GRU = Operation(
    gru,
    """
function gru({ from: [rows, n], to: [T, m], w_x: wX, w_h: wH, b_x: bX, b_h: bH, w_0: w0, b_0: b0 }) {
  const y = new Float32Array(T * m), v = new Float32Array(3 * m), q = new Float32Array(3 * m);
  const start = new Float32Array(m), sigmoid = (a) => 0.5 * (1 + Math.tanh(0.5 * a));
  const product = (x, w, b, sums) => {
    sums.set(b);
    for (let i = 0, at = 0; i < x.length; i++, at += sums.length)
      for (let o = 0; o < sums.length; o++) sums[o] += x[i] * w[at + o];
  };
  return (x) => {
    product(x.subarray(0, n), w0, b0, start);
    for (let t = 0, h = start; t < T; t++) {
      product(x.subarray((t + 1) * n, (t + 2) * n), wX, bX, v);
      product(h, wH, bH, q);
      const next = y.subarray(t * m, (t + 1) * m);
      for (let o = 0; o < m; o++) {
        const r = sigmoid(v[o] + q[o]), z = sigmoid(v[m + o] + q[m + o]);
        next[o] = (1 - z) * Math.tanh(v[2 * m + o] + r * q[2 * m + o]) + z * h[o];
      }
      h = next;
    }
    return y;
  };
}
""",
    _gru_onnx,
)


def gru_steps(layer: Any) -> list[Step]:
    """Return the step of a GRU, as generators have it."""
    if layer.last or layer.masked or not layer.initial:
        raise UserError(f"{layer!r} cannot be exported: only a GRU with all states and an initial state from its input")
    return [step(GRU, layer.params, units=layer.n_units)]


# ---------------------------------------------------------------- flags


def tanh_of(x, chosen):
    """y = tanh(x) for some features, and y = x for the others. `chosen` says which."""
    return np.where(chosen, np.tanh(x), x)


def _tanh_of_onnx(graph: Graph, x: str, inputs: list[str], arrays: dict[str, str], settings: Settings) -> str:
    return graph.node("Where", graph.constant(np.array(settings["chosen"])), graph.node("Tanh", x), x)


TANH_OF = Operation(
    tanh_of,
    """
function tanhOf({ to: [T, n], chosen }) {
  const y = new Float32Array(T * n);
  return (x) => {
    for (let i = 0; i < T * n; i++) y[i] = chosen[i % n] ? Math.tanh(x[i]) : x[i];
    return y;
  };
}
""",
    _tanh_of_onnx,
)


def tanh_of_steps(layer: Any) -> list[Step]:
    """Return the step of a tanh of some features."""
    return [step(TANH_OF, chosen=tuple(i in layer.features for i in range(layer.n)))]


# ---------------------------------------------------------------- from features to values


def plain(codec: Any) -> dict[str, Any]:
    """Return what the features of a series mean, as facts that JSON can represent.

    - features: for each feature of the data its `name`; `value`, the place of its value in a sample, or null if it is
      constant; `gap`, the place of the number that is negative where the value is missing, or null; `low`, `high`,
      `centre` and `half`: the value of x is x * half + centre, and between low and high; and the `decimals` to which it
      is rounded, or null
    - end: the place of the number that is negative after the end of the series, or null
    - shortest: the length that a series has at least
    - times: the names of the steps
    - dtype: of the values in the data
    """
    places = {i: k for k, i in enumerate([*codec.modelled, *(("gap", i) for i in codec.gaps)])}
    features = [
        {
            "name": str(part.name),
            "value": places.get(i),
            "gap": places.get(("gap", i)),
            **{key: getattr(part, key) for key in ("low", "high", "centre", "half", "decimals")},
        }
        for i, part in enumerate(codec.parts)
    ]
    times = [str(time) for time in codec.times or range(codec.steps)]
    end = codec.width - 1 if codec.ends else None
    return {"features": features, "end": end, "shortest": codec.shortest, "times": times, "dtype": codec.dtype}


def values_of(x, series):
    """Return values (N, T, features) for samples (N, T, C). A value that is missing, or after the end, is NaN."""
    values = np.empty((*x.shape[:2], len(series["features"])))
    for i, feature in enumerate(series["features"]):
        if feature["value"] is None:
            values[..., i] = feature["low"]
            continue
        y = x[..., feature["value"]].astype(np.float64) * feature["half"] + feature["centre"]
        y = np.clip(y, feature["low"], feature["high"])
        if feature["decimals"] is not None:
            y = np.rint(y * 10.0 ** feature["decimals"]) / 10.0 ** feature["decimals"]
        values[..., i] = y
        if feature["gap"] is not None:
            values[..., i][x[..., feature["gap"]] < 0] = np.nan
    if series["end"] is not None:
        over = np.logical_or.accumulate(x[..., series["end"]] < 0, axis=1)
        over[:, : series["shortest"]] = False
        values[over] = np.nan
    return values.astype(series["dtype"])


def save_series(x, path, seed):
    """Write the values of each step (.csv), or an array of them (.npy)."""
    values = values_of(x, SERIES)
    if not path.endswith(".csv"):
        return np.save(path, values[..., 0] if values.shape[2] == 1 else values)
    with open(path, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["series", "time", *(feature["name"] for feature in SERIES["features"])])
        for n, one in enumerate(values):
            there = np.flatnonzero((one == one).any(axis=1))  # NaN differs from itself
            for t in range(there[-1] + 1 if len(there) else 0):
                rows.writerow([n, SERIES["times"][t], *("" if y != y else str(y) for y in one[t])])


SERIES: dict[str, Any] = {}  # replaced in an exported file
