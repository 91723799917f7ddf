"""How layers of images are exported: convolution, its adjoint, and upsampling. Images are (N, H, W, C)."""

from typing import Any

import numpy as np

from minigan.export.operations import Graph, Operation, Settings

# ---------------------------------------------------------------- convolutions

# Both functions of JavaScript go through the taps (i, j) of the kernel. For each, `places` has the pixels of x and y
# that the tap connects. Their scalar products over the channels are computed for two pixels and four output channels at
# a time: eight sums are independent of each other, and share what they load. The weights of four channels stay in the
# first cache for all pixels.
TAPS = """
// For places [at, to, at, to, ...]: y[to + o] += sum of x[at + c] * w[wAt + o * n + c] over c < n, for all o < m.
function addTap(x, y, places, n, m, w, wAt) {
  let o = 0;
  for (; o + 4 <= m; o += 4, wAt += 4 * n) {
    const w1 = wAt + n, w2 = w1 + n, w3 = w2 + n;
    let k = 0;
    for (; k + 4 <= places.length; k += 4) {
      const at = places[k], to = places[k + 1] + o, at2 = places[k + 2], to2 = places[k + 3] + o;
      let s0 = 0, s1 = 0, s2 = 0, s3 = 0, t0 = 0, t1 = 0, t2 = 0, t3 = 0;
      for (let c = 0; c < n; c++) {
        const u = x[at + c], v = x[at2 + c], a = w[wAt + c], b = w[w1 + c], d = w[w2 + c], e = w[w3 + c];
        s0 += u * a; s1 += u * b; s2 += u * d; s3 += u * e;
        t0 += v * a; t1 += v * b; t2 += v * d; t3 += v * e;
      }
      y[to] += s0; y[to + 1] += s1; y[to + 2] += s2; y[to + 3] += s3;
      y[to2] += t0; y[to2 + 1] += t1; y[to2 + 2] += t2; y[to2 + 3] += t3;
    }
    if (k < places.length) addChannels(x, places[k], n, w, wAt, y, places[k + 1] + o, 4);
  }
  for (let k = 0; k < places.length; k += 2) addChannels(x, places[k], n, w, wAt, y, places[k + 1] + o, m - o);
}

function addChannels(x, at, n, w, wAt, y, to, count) {
  for (let o = 0; o < count; o++, wAt += n) {
    let c = 0, s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    for (; c + 4 <= n; c += 4) {
      s0 += x[at + c] * w[wAt + c];
      s1 += x[at + c + 1] * w[wAt + c + 1];
      s2 += x[at + c + 2] * w[wAt + c + 2];
      s3 += x[at + c + 3] * w[wAt + c + 3];
    }
    for (; c < n; c++) s0 += x[at + c] * w[wAt + c];
    y[to + o] += s0 + s1 + s2 + s3;
  }
}

// The places of each tap of a kernel K x K: the pixel h of the small image is at the pixel h * stride + tap - before of
// the large one. Pixels outside of it are left out.
function placesOf(K, stride, before, [H, W, C], [P, Q, O], fromSmall) {
  return Array.from({ length: K * K }, (_, tap) => {
    const places = [];
    for (let h = 0; h < H; h++)
      for (let v = 0; v < W; v++) {
        const p = h * stride + Math.floor(tap / K) - before, q = v * stride + (tap % K) - before;
        if (p < 0 || p >= P || q < 0 || q >= Q) continue;
        const small = (h * W + v) * C, large = (p * Q + q) * O;
        places.push(...(fromSmall ? [small, large] : [large, small]));
      }
    return Int32Array.from(places);
  });
}

function fillWithBias(y, b) {
  if (!b) y.fill(0);
  else for (let i = 0; i < y.length; i += b.length) y.set(b, i);
}
"""


def conv(x, w, b=0, stride=1, pad=(0, 0)):
    """Convolution, y[n,p,q,o] = sum of xpad[n, p*stride+i, q*stride+j, c] w[i,j,c,o] over i, j and c."""
    xpad = np.pad(x, ((0, 0), pad, pad, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(xpad, w.shape[:2], axis=(1, 2))  # (N, P, Q, C, K, K)
    return np.tensordot(windows[:, ::stride, ::stride], w, axes=([4, 5, 3], [0, 1, 2])) + b  # (N, P, Q, O)


def _conv_onnx(graph: Graph, x: str, inputs: list[str], arrays: dict[str, str], settings: Settings) -> str:
    return _images_onnx(graph, "Conv", x, arrays, settings)


def _images_onnx(graph: Graph, kind: str, x: str, arrays: dict[str, str], settings: Settings, **more: Any) -> str:
    """Add a convolution between two transpositions, because images are (N, C, H, W) in ONNX."""
    before, after = settings["pad"]
    inputs = [graph.node("Transpose", arrays["w"], perm=(3, 2, 0, 1)), *([arrays["b"]] if "b" in arrays else [])]
    how = dict(strides=[settings["stride"]] * 2, pads=[before, before, after, after], **more)
    y = graph.node(kind, graph.node("Transpose", x, perm=(0, 3, 1, 2)), *inputs, **how)
    return graph.node("Transpose", y, perm=(0, 2, 3, 1))


CONV = Operation(
    conv,
    TAPS
    + """
function conv({ from: [H, W, C], to: [P, Q, O], w, b, stride, pad }) {
  const K = Math.round(Math.sqrt(w.length / (C * O)));
  const packed = new Float32Array(w.length); // (K, K, O, C): the channels of x are neighbours
  for (let tap = 0; tap < K * K; tap++)
    for (let c = 0; c < C; c++) for (let o = 0; o < O; o++) packed[(tap * O + o) * C + c] = w[(tap * C + c) * O + o];
  const places = placesOf(K, stride, pad[0], [P, Q, O], [H, W, C], false), y = new Float32Array(P * Q * O);
  return (x) => {
    fillWithBias(y, b);
    for (let tap = 0; tap < K * K; tap++) addTap(x, y, places[tap], C, O, packed, tap * O * C);
    return y;
  };
}
""",
    _conv_onnx,
)


def conv_transpose(x, w, b=0, stride=1, pad=(0, 0), output_pad=0):
    """Transposed convolution: x[n,h,w] w[i,j]' is added to the pixel (h*stride+i, w*stride+j) of y, cropped by pad."""
    (N, H, W, _), (K, _, O, _), (before, after) = x.shape, w.shape, pad
    full = np.zeros((N, stride * (H - 1) + K + output_pad, stride * (W - 1) + K + output_pad, O), x.dtype)
    for i in range(K):
        for j in range(K):
            full[:, i : i + stride * H : stride, j : j + stride * W : stride][:, :H, :W] += x @ w[i, j].T
    return full[:, before : full.shape[1] - after, before : full.shape[2] - after] + b


def _conv_transpose_onnx(graph: Graph, x: str, inputs: list[str], arrays: dict[str, str], settings: Settings) -> str:
    more = dict(output_padding=[settings["output_pad"]] * 2)
    return _images_onnx(graph, "ConvTranspose", x, arrays, settings, **more)


CONV_TRANSPOSE = Operation(
    conv_transpose,
    TAPS
    + """
function convTranspose({ from: [H, W, C], to: [P, Q, O], w, b, stride, pad }) {
  const K = Math.round(Math.sqrt(w.length / (C * O))); // w is (K, K, O, C)
  const places = placesOf(K, stride, pad[0], [H, W, C], [P, Q, O], true), y = new Float32Array(P * Q * O);
  return (x) => {
    fillWithBias(y, b);
    for (let tap = 0; tap < K * K; tap++) addTap(x, y, places[tap], C, O, w, tap * O * C);
    return y;
  };
}
""",
    _conv_transpose_onnx,
)

# ---------------------------------------------------------------- upsampling


def upsample(x, factor):
    """Repeat each pixel in a block: (N, H, W, C) -> (N, factor*H, factor*W, C)."""
    return x.repeat(factor, axis=1).repeat(factor, axis=2)


def _upsample_onnx(graph: Graph, x: str, inputs: list[str], arrays: dict[str, str], settings: Settings) -> str:
    scales = graph.constant(np.array([1, settings["factor"], settings["factor"], 1], np.float32))
    how = dict(mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    return graph.node("Resize", x, "", scales, **how)


UPSAMPLE = Operation(
    upsample,
    """
function upsample({ from: [, W, C], to: [P, Q], factor }) {
  const y = new Float32Array(P * Q * C);
  return (x) => {
    for (let p = 0; p < P; p++)
      for (let q = 0; q < Q; q++) {
        const at = (Math.floor(p / factor) * W + Math.floor(q / factor)) * C, to = (p * Q + q) * C;
        for (let c = 0; c < C; c++) y[to + c] = x[at + c];
      }
    return y;
  };
}
""",
    _upsample_onnx,
)
