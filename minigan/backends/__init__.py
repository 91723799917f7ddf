"""Where the arithmetic runs: `load("numpy" | "numba" | "cupy" | "auto")` gives a backend, which is a plain module.

The contract
------------
Every backend module has these names with these signatures; whoever holds a backend needs nothing else.

    NAME                                           "numpy", "numba", "cupy"
    xp                                             its array module: numpy or cupy
    asarray(x, dtype=None)                         an array of this backend holding x
    to_numpy(x)                                    the same numbers as a NumPy array
    synchronize()                                  returns when all work asked for is done
    set_threads(n)                                 the number of CPU threads that it may use; n is None: all
    STEPS_AHEAD                                    training steps that may be asked for before their losses are read

    conv2d(x, w, stride, pad)                      (N,H,W,C), (K,K,C,O) -> (N,P,Q,O)
    conv2d_grad_x(dy, w, x_shape, stride, pad)     (N,P,Q,O), (K,K,C,O) -> (N,H,W,C)
    conv2d_grad_w(dy, x, w_shape, stride, pad)     (N,P,Q,O), (N,H,W,C) -> (K,K,C,O)

    matmul(a, b)                                   (M,K), (K,N) -> (M,N), either of them perhaps transposed
    add_bias(y, b, slope=1)                        y + b (C,) after leaky_relu by the slope; y (..., C) may be used up
    bias_grad(dy, y, slope=1)                      dx before the bias, and b's gradient (C,)
    sum_rows(dy)                                   (..., C) -> (C,)
    leaky_relu(x, slope)                           y
    leaky_relu_grad(dy, y, slope)                  dx
    batchnorm(x, gamma, beta, eps, slope=1)        (..., C) -> y, mean (C,), var (C,); y after leaky_relu by the slope
    batchnorm_grad(dy, x, gamma, beta, mean, var, eps, slope=1)   dx, dgamma (C,), dbeta (C,)
    dropout(x, threshold, stream)                  y; on dy, the same call gives dx
    track(running_mean, running_var, mean, var, momentum)    running = momentum * running + (1 - momentum) * batch
    adam(w, dw, m, v, lr, beta1, beta2, eps, t)    updates w, m and v in place
    moving_average(average, now, share)            average += share * (now - average), in place
    concatenate(arrays)                            any shapes, end to end -> (n,)
    gather(images, index)                          uint8 (count, ...), int64 (N,) -> float32 (N, ...) in [-1, 1]

With `pad = (before, after)` zeros around height and width alike, and `P = (H + before + after - K) // stride + 1`:

    y[n,p,q,o]  = sum_ijc  xpad[n, p*stride+i, q*stride+j, c] * w[i,j,c,o]
    dx          = the sum of  dy[n,p,q,o] * w[i,j,c,o]  over all the places where y read that pixel of x
    dw[i,j,c,o] = sum_npq  xpad[n, p*stride+i, q*stride+j, c] * dy[n,p,q,o]

The other operations are passes over memory, which take a large share of a step where they are not compiled; what they
compute stands in the reference. Dropout keeps element i of x if the i-th 16-bit number of `stream` is at least
`threshold`: four such numbers, lowest first, from each of mix64(stream + GOLDEN), mix64(stream + 2 * GOLDEN), ...

A transposed convolution IS `conv2d_grad_x`, so three operations serve both layers. Every result has the dtype of its
inputs: float32 to train, float64 to check gradients (the reference takes complex128 too). `pad` may be an int.

`numpy_backend` is the reference: it reads like the equations. The others must give the same numbers up to rounding.
"""

import importlib
import operator
import os
import sys
from types import ModuleType

from minigan.errors import UserError

MODULES = {"numpy": "numpy_backend", "numba": "numba.backend", "cupy": "cupy.backend"}
NAMES = tuple(MODULES)


class BackendUnavailable(UserError):
    """A backend that cannot run on this machine; the text gives the cause and the command that mends it."""


def load(name: str = "auto", **gpu) -> ModuleType:
    """The backend called `name`; "auto" takes the GPU if a real computation on it succeeds, else Numba, else NumPy.

    `gpu` are settings for the cupy backend: see `cupy_backend.start`. Raises BackendUnavailable with the cause and its
    remedy, UserError for an unknown name.
    """
    if name == "auto":
        return choose(**gpu)[0]
    if name not in NAMES:
        raise UserError(f"unknown backend {name!r}: choose auto, {', '.join(NAMES)}")
    try:
        backend = importlib.import_module(f"minigan.backends.{MODULES[name]}")
    except ModuleNotFoundError as error:
        package = "'minigan[cuda13]'" if error.name == "cupy" else error.name
        raise BackendUnavailable(f"the {name} backend needs the package {error.name}: pip install {package}") from error
    except ImportError as error:  # installed but broken: numba that refuses this NumPy, for one
        package = "'minigan[cuda13]'" if name == "cupy" else name
        cause = next((line.strip("= .:") for line in str(error).splitlines() if line.strip("= .:")), "no cause given")
        raise BackendUnavailable(
            f"the {name} backend does not import ({cause}): pip install --upgrade {package} numpy"
        ) from error
    if name == "cupy":  # it imports on machines without a GPU too
        backend.start(**gpu)
    return backend


def of(x) -> ModuleType:
    """The backend that computes with arrays like x: the GPU's for an array that lives there, else the reference."""
    on_gpu = type(x).__module__.partition(".")[0] == "cupy"
    return sys.modules["minigan.backends.cupy.backend"] if on_gpu else load("numpy")


def choose(**gpu) -> tuple[ModuleType, str]:
    """The best backend that runs here, and one line that says which it is and why the faster ones were passed over."""
    passed_over = []
    for name in ("cupy", "numba", "numpy"):
        try:
            backend = load(name, **gpu)
        except BackendUnavailable as cause:
            passed_over.append(f"{name}: {cause}")
        else:
            why = f" ({'; '.join(passed_over)})" if passed_over else ""
            return backend, f"backend {name}{why}"
    raise AssertionError("the numpy backend always runs")


def available() -> list[str]:
    """The names of the backends that run on this machine, the reference first."""
    return [name for name, cause in status().items() if cause is None]


def status() -> dict[str, str | None]:
    """For each backend None if it runs here, else the sentence that says why not and what mends it."""
    result: dict[str, str | None] = {}
    for name in NAMES:
        try:
            load(name)
            result[name] = None
        except BackendUnavailable as cause:
            result[name] = str(cause)
    return result


def cores() -> int:
    """The number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / the golden ratio: multiples of it spread evenly


def mix64(z: int) -> int:
    """SplitMix64's finaliser (Steele et al. 2014): every bit of the result depends on every bit of z."""
    z &= 2**64 - 1
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return z ^ (z >> 31)


def pads(pad: int | tuple[int, int]) -> tuple[int, int]:
    """(before, after): the zeros on each side of height and of width."""
    before, after = (pad, pad) if isinstance(pad, int) else pad
    before, after = operator.index(before), operator.index(after)
    if before < 0 or after < 0:
        raise ValueError(f"pad is an int >= 0 or a pair of them, got {pad!r}")
    return before, after


def conv_size(size: int, kernel: int, stride: int, pad: int | tuple[int, int]) -> int:
    """The output size of a convolution along one axis: `(size + before + after - kernel) // stride + 1`.

    Raises ValueError where the kernel does not fit in once.
    """
    before, after = pads(pad)
    if kernel < 1 or stride < 1:
        raise ValueError(f"kernel and stride are at least 1, got {kernel} and {stride}")
    if size + before + after < kernel:
        raise ValueError(f"a kernel of {kernel} does not fit into {size} pixels padded by {before} and {after}")
    return (size + before + after - kernel) // stride + 1
