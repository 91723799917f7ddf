"""The GPU backend: matrix products of CuPy and the kernels of kernels.cu. README.md in this folder explains them.

Each convolution is one matrix product, as in the reference: im2col writes the windows of x
into a matrix, and col2im adds the gradients of the windows. Each other operation (batch norm
with its activation, dropout, losses, Adam, ...) is one or two kernels, because the time of an
operation on a small array is the time of its launches, about ten microseconds of the CPU each.

Only `to_numpy` and `synchronize` wait for the GPU. So the CPU can queue work ahead, which
keeps the GPU busy.
"""

import functools
import math
from collections.abc import Sequence
from importlib import resources
from typing import Any

import cupy
import numpy as np

from minigan.backends.contract import (
    AdamStep,
    Array,
    Backend,
    BackendUnavailable,
    Normalisation,
    Pad,
    RecurrentGradients,
    RecurrentWeights,
    Shape,
    conv_size,
    in_force,
    pads,
    put_in_force,
)

THREADS, LANES, ROWS = 256, 32, 8  # block sizes, as in kernels.cu
FEW_ROWS, CHUNKS = 1024, 512  # sum_rows: up to so many rows in one kernel, and chunks of more rows
LARGEST = 2**31 - 1  # elements of an array, because the kernels use 32-bit indices
REAL = {"f": "float", "d": "double"}  # float32 to train, float64 to check gradients
KINDS = {"softplus": 0, "hinge": 1, "linear": 2, "square": 3}  # kinds of loss


class CupyBackend(Backend):
    """The contract on one NVIDIA GPU.

    The kernels of batch norm and of the losses sum over the batch themselves and do not call
    `batch_sum`. If several processes share a batch, `ranks.SharedGpu` computes these operations
    with the formulas of the reference.
    """

    name = "cupy"
    xp = cupy
    steps_ahead = 50
    sums_in_kernels = True

    def __init__(self, device: int = 0, tf32: bool = False, memory: float = 0.0):
        """Test the device. Raises BackendUnavailable, with the cause and the fix, if a small computation fails."""
        self.settings = {"device": device, "tf32": tf32, "memory": memory}
        _expect_device(device)
        self._try()

    def activate(self) -> None:
        """Select the device, the precision of its matrix products and the limit of its memory pool."""
        cupy.cuda.Device(self.settings["device"]).use()
        linalg = cupy._core._routines_linalg
        kind = linalg.COMPUTE_TYPE_TF32 if self.settings["tf32"] else linalg.COMPUTE_TYPE_DEFAULT
        cupy._core.set_compute_type(np.dtype(np.float32), kind)
        cupy.get_default_memory_pool().set_limit(size=int(self.settings["memory"] * 2**30))  # 0: no limit

    def _try(self) -> None:
        """Test the setup, a kernel and a matrix product in each precision, and a copy to the host."""
        extra = f"pip install 'minigan[cuda{cupy.cuda.runtime.runtimeGetVersion() // 1000}]'"
        doing, fix = "be set up", "see `nvidia-smi`"
        try:
            put_in_force(self)
            for dtype in (np.float32, np.float64):
                x = self.asarray([[-1, 2], [3, 4]], dtype=dtype)
                doing, fix = "compile a kernel (NVRTC)", extra
                y = self.leaky_relu(x, 0.5)
                doing, fix = "multiply matrices (cuBLAS)", extra
                y = self.matmul(y, x)
                doing = "compute"
                if self.to_numpy(y).tolist() != [[6.5, 7.0], [9.0, 22.0]]:
                    raise RuntimeError("a product of 2 x 2 matrices is wrong")
        except MemoryError as error:
            raise BackendUnavailable(
                "the GPU's memory is full: end other programs on it (`nvidia-smi` lists them), or raise --gpu-memory"
            ) from error
        except Exception as error:  # a missing library raises errors of several types
            raise BackendUnavailable(f"the GPU cannot {doing}: {_line(error)}: {fix}") from error

    def describe(self) -> str:
        """Return the name, memory and compute capability of the GPU, and the versions of CUDA and driver."""
        runtime, device = cupy.cuda.runtime, self.settings["device"]
        p = runtime.getDeviceProperties(device)
        versions = (runtime.runtimeGetVersion(), runtime.driverGetVersion())
        cuda, driver = (f"{v // 1000}.{v % 1000 // 10}" for v in versions)
        return (
            f"{device}: {p['name'].decode()}, {p['totalGlobalMem'] / 2**30:.1f} GiB, compute capability "
            f"{p['major']}.{p['minor']}, CUDA {cuda} on a driver for {driver}"
        )

    # ---- arrays

    @in_force
    def asarray(self, x: Any, dtype: Any = None) -> Array:
        """Return x as an array on the GPU."""
        return cupy.asarray(x, dtype=dtype)

    def to_numpy(self, x: Array) -> np.ndarray:
        """Copy x to the host. This waits for the GPU."""
        return cupy.asnumpy(x)

    def synchronize(self) -> None:
        """Wait until the GPU has done all queued work."""
        cupy.cuda.get_current_stream().synchronize()

    @in_force
    def concatenate(self, arrays: Sequence[Array]) -> Array:
        """Flatten the arrays and join them in order. One launch copies eight arrays, but only one in CuPy's version."""
        arrays = _contiguous(*arrays)
        out = cupy.empty(sum(a.size for a in arrays), arrays[0].dtype)
        start = 0
        for i in range(0, len(arrays), 8):
            group = arrays[i : i + 8]
            n = sum(a.size for a in group)
            pairs = [(a, _int(a.size)) for a in group] + [(group[0], _int(0))] * (8 - len(group))
            grid = (-(-n // THREADS),)
            part = out[start : start + n]
            _launch("concatenate", out.dtype, grid, (THREADS,), part, _int(n), *(a for pair in pairs for a in pair))
            start += n
        return out

    @in_force
    def gather(self, images: Array, index: Array) -> Array:
        """Compute images[index] / 127.5 - 1: uint8 (count, ...), int64 (N,) -> float32 (N, ...) in [-1, 1]."""
        for a, dtype in ((images, np.uint8), (index, np.int64)):
            if not isinstance(a, cupy.ndarray) or a.dtype != dtype:
                raise TypeError(f"gather expects uint8 images and int64 indices on the GPU, got {type(a)} of {a.dtype}")
        images, index = cupy.ascontiguousarray(images), cupy.ascontiguousarray(index)
        x = cupy.empty((len(index), *images.shape[1:]), np.float32)
        size = math.prod(images.shape[1:])
        _each("gather", x.size, x.dtype, images, index, x, _int(size))
        return x

    # ---- matrix products and convolutions

    @in_force
    def matmul(self, a: Array, b: Array) -> Array:
        """Compute a @ b: (M, K), (K, N) -> (M, N)."""
        return a @ b

    @in_force
    def conv2d(self, x: Array, w: Array, stride: int, pad: Pad) -> Array:
        """Compute y = windows of x times w; (N,H,W,C), (K,K,C,O) -> (N,P,Q,O)"""
        x, w = _contiguous(x, w)
        K, _, C, O = w.shape
        _expect(x.shape[3] == C, "x", x.shape, "w", w.shape)
        col, (N, P, Q) = _im2col(x, K, stride, pad)
        return (col @ w.reshape(-1, O)).reshape(N, P, Q, O)

    @in_force
    def conv2d_grad_w(self, dy: Array, x: Array, w_shape: Shape, stride: int, pad: Pad) -> Array:
        """Compute dw = transposed windows of x times dy; (N,P,Q,O), (N,H,W,C) -> (K,K,C,O)"""
        dy, x = _contiguous(dy, x)
        K, _, C, O = w_shape
        _expect(x.shape[3] == C and dy.shape[3] == O, "x", x.shape, "dy", dy.shape, "w", w_shape)
        col, windows = _im2col(x, K, stride, pad)
        _expect(dy.shape[:3] == windows, "x", x.shape, "dy", dy.shape)
        return (col.T @ dy.reshape(-1, O)).reshape(w_shape)

    @in_force
    def conv2d_grad_x(self, dy: Array, w: Array, x_shape: Shape, stride: int, pad: Pad) -> Array:
        """Compute dwindows = dy times transposed w, and add overlapping windows; (N,P,Q,O), (K,K,C,O) -> (N,H,W,C)"""
        dy, w = _contiguous(dy, w)
        (K, _, C, O), (N, H, W, _) = w.shape, x_shape
        P, Q = (conv_size(size, K, stride, pad) for size in (H, W))
        _expect(dy.shape == (N, P, Q, O) and x_shape[3] == C, "x", x_shape, "dy", dy.shape, "w", w.shape)
        col = dy.reshape(-1, O) @ w.reshape(-1, O).T  # (N*P*Q, K*K*C)
        x = cupy.empty((N, H, W, C), dy.dtype)
        place = map(_int, (x.size, H, W, C, K, stride, pads(pad)[0], P, Q))
        _launch("col2im", x.dtype, (-(-x.size // THREADS),), (THREADS,), col, x, *place)
        return x

    # ---- passes over memory

    @in_force
    def sum_rows(self, dy: Array) -> Array:
        """Sum over all axes but the last: (..., C) -> (C,), in one kernel, or in two for many rows.

        The first one sums chunks of rows, so that enough blocks run. Narrow rows are joined, so that
        no lane of a block is idle: the sum of rows of k C numbers is k sums of C numbers.
        """
        (dy,) = _contiguous(dy)
        C = dy.shape[-1]
        M, joined = dy.size // C, max(1, LANES // C)
        if M <= FEW_ROWS:
            return _sum_chunks(dy, M, C, 1)[0]
        if M % joined:
            joined = 1
        sums = _sum_chunks(dy, M // joined, C * joined, CHUNKS)
        return _sum_chunks(sums, sums.size // C, C, 1)[0]

    @in_force
    def leaky_relu(self, x: Array, slope: float) -> Array:
        """Compute y = x where x > 0, else slope * x."""
        (x,) = _contiguous(x)
        y = cupy.empty(x.shape, x.dtype)
        _each("leaky_relu", x.size, x.dtype, x, y, x.dtype.type(slope))
        return y

    @in_force
    def leaky_relu_grad(self, dy: Array, y: Array, slope: float) -> Array:
        """Compute dx = dy where y > 0, else slope * dy."""
        dy, y = _contiguous(dy, y)
        dx = cupy.empty(dy.shape, dy.dtype)
        _each("leaky_relu_grad", dy.size, dy.dtype, dy, y, dx, dy.dtype.type(slope))
        return dx

    @in_force
    def add_bias(self, y: Array, b: Array, slope: float = 1.0) -> Array:
        """Compute leaky_relu(y + b): (..., C), (C,) -> (..., C). Overwrites y."""
        y += b
        return y if slope == 1 else self.leaky_relu(y, slope)

    @in_force
    def bias_grad(self, dy: Array, y: Array, slope: float = 1.0) -> tuple[Array, Array]:
        """Compute the gradients of y + b (..., C) and of b (C,) in leaky_relu(y + b)."""
        dy = dy if slope == 1 else self.leaky_relu_grad(dy, y, slope)
        return dy, self.sum_rows(dy)

    @in_force
    def batchnorm(
        self, x: Array, gamma: Array, beta: Array, eps: float, slope: float = 1.0
    ) -> tuple[Array, Array, Array]:
        """Compute leaky_relu(y) (..., C), and the mean (C,) and biased variance (C,) of x (..., C), in two kernels."""
        x, gamma, beta = _contiguous(x, gamma, beta)
        grid, sizes, partial = _chunks(x)
        y, mean, var = cupy.empty(x.shape, x.dtype), cupy.empty(gamma.shape, x.dtype), cupy.empty(gamma.shape, x.dtype)
        _launch("batchnorm_partial", x.dtype, grid, (LANES, ROWS), x, partial, *sizes)
        scalars = map(x.dtype.type, (eps, slope))
        arrays = x, gamma, beta, partial, y, mean, var
        _launch("batchnorm_apply", x.dtype, grid, (LANES, ROWS), *arrays, *scalars, *sizes)
        return y, mean, var

    @in_force
    def batchnorm_grad(
        self, dy: Array, x: Array, norm: Normalisation, slope: float = 1.0
    ) -> tuple[Array, Array, Array]:
        """Compute dx (..., C), dgamma (C,) and dbeta (C,) in two kernels."""
        gamma, beta, mean, var, eps = norm
        inputs = _contiguous(dy, x, gamma, beta, mean, var)
        _, x, gamma, *_ = inputs
        grid, sizes, partial = _chunks(x)
        dx, dgamma, dbeta = (cupy.empty(a.shape, x.dtype) for a in (x, gamma, gamma))
        scalars = tuple(map(x.dtype.type, (eps, slope)))
        _launch("batchnorm_grad_partial", x.dtype, grid, (LANES, ROWS), *inputs, partial, *scalars, *sizes)
        arrays = *inputs, partial, dx, dgamma, dbeta
        _launch("batchnorm_grad_apply", x.dtype, grid, (LANES, ROWS), *arrays, *scalars, *sizes)
        return dx, dgamma, dbeta

    @in_force
    def track(self, running_mean: Array, running_var: Array, mean: Array, var: Array, momentum: float) -> None:
        """Update in place: running = momentum * running + (1 - momentum) * batch."""
        _contiguous(running_mean, running_var, mean, var)
        real = mean.dtype.type
        arrays = running_mean, running_var, mean, var
        _each("track", mean.size, mean.dtype, *arrays, real(momentum), real(1 - momentum))

    @in_force
    def dropout(self, x: Array, threshold: int, stream: int) -> Array:
        """Compute y = x * mask * 65536 / (65536 - threshold). The mask is identical to that of the reference."""
        (x,) = _contiguous(x)
        y = cupy.empty(x.shape, x.dtype)
        kept = x.dtype.type(65536 / (65536 - threshold))
        _each("dropout", x.size, x.dtype, x, y, np.uint64(stream), _int(threshold), kept)
        return y

    @in_force
    def uniform(self, shape: Shape, stream: int, dtype: Any) -> Array:
        """Compute the random numbers between 0 and 1 of the reference, bit for bit."""
        (u,) = _contiguous(cupy.empty(shape, dtype))
        _each("uniform", u.size, u.dtype, u, np.uint64(stream))
        return u

    # ---- groups of columns

    @in_force
    def softmax_groups(self, l: Array, starts: Shape) -> Array:
        """Compute y = e / (sum of e over the group) with e = exp(l - max of l over the group): (N, G) -> (N, G)."""
        (l,) = _contiguous(l)
        y = cupy.empty(l.shape, l.dtype)
        self._each_group("softmax_groups", starts, l, y)
        return y

    @in_force
    def softmax_groups_grad(self, dy: Array, y: Array, starts: Shape) -> Array:
        """Compute dl = y * (dy - sum of dy * y over the group)."""
        dy, y = _contiguous(dy, y)
        dl = cupy.empty(y.shape, y.dtype)
        self._each_group("softmax_groups_grad", starts, dy, y, dl)
        return dl

    @in_force
    def argmax_groups(self, l: Array, starts: Shape) -> Array:
        """Compute y = 1 at the largest number of each group, else 0: (N, G) -> (N, G)."""
        (l,) = _contiguous(l)
        y = cupy.empty(l.shape, l.dtype)
        self._each_group("argmax_groups", starts, l, y)
        return y

    def _each_group(self, name: str, starts: Shape, *arrays: Array) -> None:
        """Queue a kernel with one thread for each group of each row of the arrays (N, G)."""
        N, G = arrays[0].shape
        bounds = _bounds(starts, G, self.settings["device"])
        _each(name, N * len(starts), arrays[0].dtype, *arrays, bounds, _int(G), _int(len(starts)))

    # ---- recurrent layers, whose loops over time are one kernel

    @in_force
    def gru(
        self, x: Array, weights: RecurrentWeights, start: Array, m: Array | None = None
    ) -> tuple[Array, tuple[Array, ...]]:
        """Compute the states y (N, T, H) of a GRU, and the arrays that `gru_grad` needs."""
        return self._steps("gru", 3, 1, x, weights, start, m)

    @in_force
    def gru_grad(
        self,
        dy: Array,
        saved: tuple[Array, ...],
        weights: RecurrentWeights,
        m: Array | None = None,
        need_dx: bool = True,
        need_grads: bool = True,
    ) -> RecurrentGradients:
        """Compute the gradients of the arguments of `gru` from dy (N, T, H)."""
        return self._steps_back("gru_grad", dy, saved, weights, m, (need_dx, need_grads))

    @in_force
    def lstm(
        self, x: Array, weights: RecurrentWeights, start: Array, m: Array | None = None
    ) -> tuple[Array, tuple[Array, ...]]:
        """Compute the outputs y (N, T, H) of an LSTM, and the arrays that `lstm_grad` needs."""
        return self._steps("lstm", 4, 2, x, weights, start, m)

    @in_force
    def lstm_grad(
        self,
        dy: Array,
        saved: tuple[Array, ...],
        weights: RecurrentWeights,
        m: Array | None = None,
        need_dx: bool = True,
        need_grads: bool = True,
    ) -> RecurrentGradients:
        """Compute the gradients of the arguments of `lstm` from dy (N, T, H)."""
        return self._steps_back("lstm_grad", dy, saved, weights, m, (need_dx, need_grads))

    def _steps(
        self, name: str, gates: int, states: int, x: Array, weights: RecurrentWeights, start: Array, m: Array | None
    ) -> tuple[Array, tuple[Array, ...]]:
        """Compute y and what the way back needs. One block computes all steps of a sequence."""
        x, w_x, w_h, b_x, b_h, start = _contiguous(x, *weights, start)
        (N, T, F), (H, G) = x.shape, w_h.shape
        fits = w_x.shape == (F, G) and G == gates * H == b_x.size == b_h.size and start.shape == (N, states * H)
        _expect(fits, "x", x.shape, "w_x", w_x.shape, "w_h", w_h.shape, "start", start.shape)
        a = self.matmul(x.reshape(N * T, F), w_x)
        kept = [cupy.empty((N, T, size), x.dtype) for size in (H,) * states + (4 * H,)]  # y, cells of an LSTM, gates
        mask = _mask(m, x)
        _launch(name, x.dtype, (N,), _units(H), a, w_h, b_x, b_h, start, *mask[:1], *kept, *mask[1:], _int(T), _int(H))
        return kept[0], (x, start, *kept)

    def _steps_back(
        self, name: str, dy: Array, saved: tuple[Array, ...], weights: RecurrentWeights, m: Array | None, needs
    ) -> RecurrentGradients:
        """Compute the gradients: one kernel goes back through all steps, and the other products follow."""
        (x, start, y, *others), (need_dx, need_grads) = saved, needs
        dy, wt = _contiguous(dy, weights.w_h.T)
        (N, T, F), (G, H) = x.shape, wt.shape
        da, dstart = cupy.empty((N, T, G), x.dtype), cupy.empty(start.shape, x.dtype)
        dq = cupy.empty((N, T, G), x.dtype) if name == "gru_grad" else da
        mask, masked = _mask(m, x)
        terms = cupy.empty((N, T, H) if m is not None else 1, x.dtype)
        results = (da, dq, dstart, terms) if name == "gru_grad" else (da, dstart, terms)
        _launch(
            name, x.dtype, (N,), _units(H), dy, y, *others, start, wt, mask, *results, masked, _int(T), _int(H)
        )  # fmt: skip
        da_rows, dx, dweights = da.reshape(N * T, G), None, None
        if need_dx:
            dx = self.matmul(da_rows, weights.w_x.T).reshape(N, T, F)
        if need_grads:
            h = cupy.concatenate([start[:, None, :H], y[:, :-1]], axis=1)  # the states before each step
            dw_h = self.matmul(h.reshape(N * T, H).T, dq.reshape(N * T, G))
            dw_x = self.matmul(x.reshape(N * T, F).T, da_rows)
            dweights = RecurrentWeights(dw_x, dw_h, self.sum_rows(da), self.sum_rows(dq))
        return RecurrentGradients(dx, dweights, dstart, None if m is None else terms.sum(axis=2))

    # ---- losses, each in one kernel

    @in_force
    def discriminator_loss(
        self,
        kind: str,
        real_logits: Array,
        fake_logits: Array,
        smoothing: float = 0.0,
        weights: tuple[float, float] = (1.0, 1.0),
    ) -> tuple[Array, Array, Array]:
        """Compute a mean f(-l_real) + a smoothing * mean l_real + b mean f(l_fake), and the gradients of both logits.

        (a, b) are `weights`.
        """
        a, b = _contiguous(real_logits, fake_logits)
        return _loss(kind, a, -1, smoothing, b, weights)

    @in_force
    def generator_loss(self, kind: str, fake_logits: Array, sign: int, weight: int) -> tuple[Array, Array]:
        """Compute weight * mean f(sign * l_fake), and the gradient of the logits."""
        (a,) = _contiguous(fake_logits)
        return _loss(kind, a, sign, 0.0, cupy.empty(0, a.dtype), (weight, 0))[:2]

    @in_force
    def mean_sigmoid(self, logits: Array) -> Array:
        """Compute the mean of 1 / (1 + exp(-l)), a 0-d array."""
        (l,) = _contiguous(logits)
        value = cupy.empty((), l.dtype)
        _launch("mean_sigmoid", l.dtype, (1,), (THREADS,), l, value, _int(l.size))
        return value

    # ---- updates in place

    @in_force
    def adam(self, w: Array, dw: Array, m: Array, v: Array, step: AdamStep) -> None:
        """Make one step of Adam: update w, m and v in place."""
        dw = _contiguous(dw, w, m, v)[0]
        lr, beta1, beta2, eps, t = step
        rate, unbias = lr / (1 - beta1**t), 1 / (1 - beta2**t)
        scalars = map(w.dtype.type, (rate, beta1, 1 - beta1, beta2, 1 - beta2, unbias, eps))
        _each("adam", w.size, w.dtype, w, dw, m, v, *scalars)

    @in_force
    def moving_average(self, average: Array, now: Array, share: float) -> None:
        """Update in place: average += share * (now - average)."""
        now = _contiguous(now, average)[0]
        _each("moving_average", average.size, average.dtype, average, now, average.dtype.type(share))


# ---------------------------------------------------------------- the device


def _expect_device(device: int) -> None:
    """Raise BackendUnavailable, with the cause and the fix, if the driver does not have this device."""
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        driver, wanted = cupy.cuda.runtime.driverGetVersion(), cupy.cuda.runtime.runtimeGetVersion()
        if driver == 0:
            cause = "no NVIDIA driver is installed: on Ubuntu `sudo ubuntu-drivers install`, then `nvidia-smi` shows it"
        elif driver // 1000 < wanted // 1000:
            older = f", or `pip uninstall cupy-cuda{wanted // 1000}x` and `pip install 'minigan[cuda12]'`"
            cause = (
                f"the NVIDIA driver is for CUDA {driver // 1000} and this CuPy for CUDA {wanted // 1000}: upgrade the "
                f"driver{older if driver >= 12000 else ''}"
            )
        else:
            cause = f"the NVIDIA driver finds no GPU ({_line(error)}): see `nvidia-smi` and CUDA_VISIBLE_DEVICES"
        raise BackendUnavailable(cause) from error
    if not 0 <= device < count:
        raise BackendUnavailable(f"there is no GPU {device}: --device must be 0" + f" to {count - 1}" * (count > 1))


def _line(error: Exception) -> str:
    """Return the first line of an error message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")


# ---------------------------------------------------------------- launching


@functools.cache
def _module(char: str) -> cupy.RawModule:
    """Compile kernels.cu for a precision, "f" or "d"."""
    code = resources.files("minigan.backends.cupy").joinpath("kernels.cu").read_text(encoding="utf-8")
    return cupy.RawModule(code=code, options=("--std=c++17", f"-DREAL={REAL[char]}"))


@functools.cache
def _kernel(name: str, char: str) -> cupy.RawKernel:
    return _module(char).get_function(name)


def _int(n: int) -> np.int32:
    """Return n as a 32-bit `int` of the kernels. Raises ValueError if it is too large."""
    if n > LARGEST:
        raise ValueError(f"got an array of {n:,} elements, expected at most {LARGEST:,}: choose a smaller batch")
    return np.int32(n)


def _launch(name: str, dtype: np.dtype, grid: tuple, block: tuple, *arguments) -> None:
    """Queue a kernel. Its arguments are contiguous arrays on the GPU and NumPy scalars.

    Scalars must have exactly the type of the parameter in kernels.cu, because a kernel reads their bytes without
    conversion.
    """
    for a in arguments:
        if isinstance(a, np.generic):
            continue
        if not isinstance(a, cupy.ndarray):
            raise TypeError(f"{name} expects GPU arrays, got {type(a).__name__}: pass it through backend.asarray")
        if a.dtype.kind == "f":
            _int(a.size)
        if not a.flags.c_contiguous:
            raise ValueError(f"{name} expects contiguous arrays, got a strided one: use cupy.ascontiguousarray")
    if all(grid):  # nothing to do for an empty batch
        _kernel(name, dtype.char)(grid, block, arguments)


def _each(name: str, n: int, dtype: np.dtype, *arguments) -> None:
    """Queue a kernel with one thread for each of n elements. Its last argument is n."""
    _launch(name, dtype, (-(-n // THREADS),), (THREADS,), *arguments, _int(n))


def _contiguous(*arrays) -> list[cupy.ndarray]:
    """Return the arrays in C order. Raises TypeError if they are not all float32 or all float64 arrays on the GPU."""
    for a in arrays:
        if not isinstance(a, cupy.ndarray):
            raise TypeError(f"expected arrays on the GPU, got {type(a).__name__}: pass it through backend.asarray")
        if a.dtype != arrays[0].dtype or a.dtype.char not in REAL:
            raise TypeError(f"expected float32 or float64 for all, got {', '.join(str(b.dtype) for b in arrays)}")
    return [cupy.ascontiguousarray(a) for a in arrays]


# ---------------------------------------------------------------- helpers of the operations


def _im2col(x: cupy.ndarray, K: int, stride: int, pad) -> tuple[cupy.ndarray, tuple[int, int, int]]:
    """Return the windows of x as a matrix (N*P*Q, K*K*C), and (N, P, Q)."""
    N, H, W, C = x.shape
    P, Q = (conv_size(size, K, stride, pad) for size in (H, W))
    windows = N * P * Q
    col = cupy.empty((windows, K * K * C), x.dtype)
    place = map(_int, (windows, H, W, C, K, stride, pads(pad)[0], P, Q))
    _launch("im2col", x.dtype, (-(-windows // ROWS),), (LANES, ROWS), x, col, *place)
    return col, (N, P, Q)


@functools.lru_cache(maxsize=64)
def _bounds(starts: Shape, G: int, device: int) -> cupy.ndarray:
    """Return (n + 1,) on the device: group k has the columns from bounds[k] to bounds[k + 1], exclusive.

    They are copied to the GPU once, and not in every step.
    """
    return cupy.asarray(np.array([*starts, G], np.int32))


def _mask(m: Array | None, x: cupy.ndarray) -> tuple[cupy.ndarray, np.int32]:
    """Return the mask, or an array that the kernel does not read, and whether there is a mask."""
    return (x, np.int32(0)) if m is None else (*_contiguous(m), np.int32(1))


def _units(H: int) -> tuple[int]:
    """Return the size of a block in which each thread computes one of H units, or several."""
    return (min(THREADS, -(-H // LANES) * LANES),)


def _expect(fits: bool, *shapes) -> None:
    """Raise ValueError, with names and shapes, unless the shapes fit together."""
    if not fits:
        named = ", ".join(f"{name} {tuple(shape)}" for name, shape in zip(shapes[::2], shapes[1::2], strict=True))
        raise ValueError(f"shapes do not fit together: {named}")


def _chunks(x: cupy.ndarray):
    """Divide the M rows and C channels of x for batch norm.

    Returns the grid, the kernel arguments (M, C, rows per chunk), and an array for the two partial sums of each chunk
    and channel. There are at most 64 chunks, because every block adds all of them.
    """
    C = x.shape[-1]
    M = x.size // C
    chunk = max(64, -(-M // 64))
    chunks = -(-M // chunk)
    return (-(-C // LANES), chunks), tuple(map(_int, (M, C, chunk))), cupy.empty((2, chunks, C), x.dtype)


def _sum_chunks(x: cupy.ndarray, M: int, C: int, chunks: int) -> cupy.ndarray:
    """Return the sums (at most `chunks`, C) of consecutive rows of x, taken as (M, C)."""
    rows = max(1, -(-M // chunks))
    used = max(1, -(-M // rows))
    sums = cupy.empty((used, C), x.dtype)
    _launch("sum_rows", x.dtype, (-(-C // LANES), used), (LANES, ROWS), x, sums, *map(_int, (M, C, rows)))
    return sums


def _loss(
    kind: str, a: Array, sign_a: int, smoothing: float, b: Array, weights: tuple[float, float]
) -> tuple[Array, Array, Array]:
    """Compute weights[0] * mean (f(sign_a * a) + smoothing * a) + weights[1] * mean f(b) and both gradients.

    All of it is one kernel.
    """
    real, value = a.dtype.type, cupy.empty((), a.dtype)
    da, db = cupy.empty(a.shape, a.dtype), cupy.empty(b.shape, a.dtype)
    term_a = a, da, _int(a.size), real(sign_a), real(smoothing), real(weights[0])
    term_b = b, db, _int(b.size), real(1), real(weights[1])
    _launch("loss", a.dtype, (1,), (THREADS,), _int(KINDS[kind]), *term_a, *term_b, value)
    return value, da, db
