"""The contract between the layers and the hardware: every operation that a backend has.

Whoever holds a backend needs nothing else, and never asks which one it is.
`NumpyBackend` is the complete reference and reads like the equations; the others
override its operations and give the same numbers up to rounding.

Every result has the dtype of its inputs: float32 to train, float64 to check gradients
(the reference takes complex128 too). The convolutions, with
`pad = (before, after)` zeros around height and width alike (or one int for both) and
`P = (H + before + after - K) // stride + 1`:

    y[n,p,q,o]  = sum_ijc  xpad[n, p*stride+i, q*stride+j, c] * w[i,j,c,o]
    dx          = the sum of  dy[n,p,q,o] * w[i,j,c,o]  over all places where y read that pixel of x
    dw[i,j,c,o] = sum_npq  xpad[n, p*stride+i, q*stride+j, c] * dy[n,p,q,o]

A transposed convolution is `conv2d_grad_x`, so three operations serve both layers.
"""

import functools
import operator
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar, cast

from minigan.errors import UserError

Array: TypeAlias = Any  # an array of the backend: numpy.ndarray or cupy.ndarray
Shape: TypeAlias = tuple[int, ...]
Pad: TypeAlias = int | tuple[int, int]
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class BackendUnavailable(UserError):
    """A backend that cannot run on this machine; the text gives the cause and the fix."""


class Normalisation(NamedTuple):
    """What batch norm did to x (..., C): y = gamma * (x - mean) / sqrt(var + eps) + beta, each (C,)."""

    gamma: Array
    beta: Array
    mean: Array
    var: Array
    eps: float


class AdamStep(NamedTuple):
    """The numbers of step t of Adam; t counts from 1."""

    lr: float
    beta1: float
    beta2: float
    eps: float
    t: int


class Backend(Protocol):
    """Where the arithmetic runs. Arrays that go in and come out are the backend's own."""

    name: str
    xp: Any  # the array module: numpy or cupy
    settings: dict[str, Any]  # what `load` takes for this backend: threads, or device, tf32 and memory
    steps_ahead: int = 1  # training steps that may be queued before their losses are read
    takes_complex: bool = False  # whether operations accept complex128, which the complex step needs
    compiles: bool = False  # whether operations are compiled when they are first used

    # ---- the life of a backend

    def activate(self) -> None:
        """Puts the settings of this object into force in the process.

        Threads, device and memory belong to the object, but BLAS, Numba and CUDA keep them
        for the whole process. So each operation that they concern carries `@in_force`, which
        calls this when another backend computed last.
        """
        ...

    def describe(self) -> str:
        """The hardware in use, in one line."""
        ...

    def kernels_on_disk(self) -> bool:
        """Whether no long compilation is ahead: nothing is compiled, or it was compiled on this machine before."""
        return True

    def prepare(self, play: Callable[["Backend"], object]) -> None:
        """Compiles what `play(backend)` needs, so that no compilation falls into a measured step.

        `play` runs one training step on a few samples and leaves nothing behind. It can be
        pickled, because a backend may run it in a second process as well.
        """
        return None

    def __copy__(self) -> "Backend":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "Backend":
        """A backend copies to itself, so that a copy of a network computes where the network does."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """A backend is pickled by its name and settings, and loaded again where it is unpickled."""
        from minigan.backends import reload

        return reload, (self.name, self.settings)

    def __repr__(self) -> str:
        settings = "".join(f", {name}={value}" for name, value in self.settings.items())
        return f"<backend {self.name}{settings}>"

    # ---- arrays

    def asarray(self, x: Any, dtype: Any = None) -> Array:
        """An array of this backend that holds x."""
        ...

    def to_numpy(self, x: Array) -> Any:
        """The same numbers as a NumPy array."""
        ...

    def synchronize(self) -> None:
        """Returns when all queued work is done."""
        ...

    def concatenate(self, arrays: Sequence[Array]) -> Array:
        """The arrays end to end: any shapes -> (n,)."""
        ...

    def gather(self, images: Array, index: Array) -> Array:
        """images[index] / 127.5 - 1: uint8 (count, ...), int64 (N,) -> float32 (N, ...) in [-1, 1]."""
        ...

    # ---- statistics of the batch

    def batch_sum(self, total: T) -> T:
        """`total`, which this process summed over its own samples, added up over all processes that share the batch.

        Every statistic of the batch goes through this operation, and so does the number of
        samples that it is divided by: the mean and the variance of batch norm, the sums in
        its input gradient, the means of losses and penalties. With one process it returns
        `total` itself. Weight gradients do not go through it.
        """
        return total

    def batch_mean(self, x: Array, axis: int | Shape | None = None) -> Array:
        """The mean over `axis` (as in NumPy), which includes the axis of the samples."""
        total = x.sum(axis=axis)
        return self.batch_sum(total) / self.batch_sum(x.size // max(total.size, 1))

    # ---- matrix products and convolutions

    def matmul(self, a: Array, b: Array) -> Array:
        """a @ b: (M, K), (K, N) -> (M, N); either may be transposed."""
        ...

    def conv2d(self, x: Array, w: Array, stride: int, pad: Pad) -> Array:
        """(N,H,W,C), (K,K,C,O) -> (N,P,Q,O)"""
        ...

    def conv2d_grad_x(self, dy: Array, w: Array, x_shape: Shape, stride: int, pad: Pad) -> Array:
        """(N,P,Q,O), (K,K,C,O) -> (N,H,W,C)"""
        ...

    def conv2d_grad_w(self, dy: Array, x: Array, w_shape: Shape, stride: int, pad: Pad) -> Array:
        """(N,P,Q,O), (N,H,W,C) -> (K,K,C,O)"""
        ...

    # ---- passes over memory; a slope other than 1 is that of a leaky ReLU computed in the same pass

    def sum_rows(self, dy: Array) -> Array:
        """The sum over all axes but the last: (..., C) -> (C,)."""
        ...

    def add_bias(self, y: Array, b: Array, slope: float = 1.0) -> Array:
        """leaky_relu(y + b): (..., C), (C,) -> (..., C). May overwrite y."""
        ...

    def bias_grad(self, dy: Array, y: Array, slope: float = 1.0) -> tuple[Array, Array]:
        """dy (..., C) in front of the leaky ReLU, and the gradient of b (C,). Reads y only if the slope is not 1."""
        ...

    def leaky_relu(self, x: Array, slope: float) -> Array:
        """y = x where x > 0, else slope * x."""
        ...

    def leaky_relu_grad(self, dy: Array, y: Array, slope: float) -> Array:
        """dx = dy where y > 0, else slope * dy."""
        ...

    def batchnorm(
        self, x: Array, gamma: Array, beta: Array, eps: float, slope: float = 1.0
    ) -> tuple[Array, Array, Array]:
        """y (..., C), mean (C,) and biased variance (C,) of x (..., C); y after the leaky ReLU."""
        ...

    def batchnorm_grad(
        self, dy: Array, x: Array, norm: "Normalisation", slope: float = 1.0
    ) -> tuple[Array, Array, Array]:
        """dx (..., C), dgamma (C,), dbeta (C,) from dy (..., C) and the x of the forward pass."""
        ...

    def track(self, running_mean: Array, running_var: Array, mean: Array, var: Array, momentum: float) -> None:
        """running = momentum * running + (1 - momentum) * batch, in place."""
        ...

    def dropout(self, x: Array, threshold: int, stream: int) -> Array:
        """y = x * mask * 65536 / (65536 - threshold); the same call on dy gives dx.

        Element i is kept if the i-th 16-bit number of `stream` is at least `threshold`. Four
        numbers, lowest first, come from each of mix64(stream + GOLDEN),
        mix64(stream + 2 * GOLDEN), ...
        """
        ...

    # ---- losses, from logits (N, 1) or (N,); f is softplus, hinge: max(0, 1 + l), or linear: l

    def sigmoid(self, l: Array) -> Array:
        """1 / (1 + exp(-l)), exact to the last digits also where it is tiny: only exp(-|l|) is computed."""
        positive = l.real > 0
        e = self.xp.exp(self.xp.where(positive, -l, l))  # exp(-|l|)
        return self.xp.where(positive, 1, e) / (1 + e)

    def softplus(self, l: Array) -> Array:
        """log(1 + exp(l)) = max(l, 0) + log1p(exp(-|l|)). Its derivative is sigmoid(l)."""
        positive = l.real > 0
        e = self.xp.exp(self.xp.where(positive, -l, l))  # exp(-|l|)
        return self.xp.where(positive, l, 0 * l) + self.xp.log1p(e)

    def discriminator_loss(
        self, kind: str, real_logits: Array, fake_logits: Array, smoothing: float = 0.0
    ) -> tuple[Array, Array, Array]:
        """mean f(-l_real) + smoothing * mean l_real + mean f(l_fake), and the gradients of both logits."""
        ...

    def generator_loss(self, kind: str, fake_logits: Array, sign: int, weight: int) -> tuple[Array, Array]:
        """weight * mean f(sign * l_fake), and the gradient of the logits."""
        ...

    def mean_sigmoid(self, logits: Array) -> Array:
        """The mean of 1 / (1 + exp(-l)), a 0-d array."""
        ...

    # ---- updates in place

    def adam(self, w: Array, dw: Array, m: Array, v: Array, step: "AdamStep") -> None:
        """One step of Adam: updates w, m and v."""
        ...

    def moving_average(self, average: Array, now: Array, share: float) -> None:
        """average += share * (now - average)"""
        ...


# The settings in force ------------------------------------------------------------------------------------------------

_active: Backend | None = None


def in_force(operation: F) -> F:
    """The operation, run with the settings of its own backend in force."""

    @functools.wraps(operation)
    def run(self: Backend, *arguments: Any, **named: Any) -> Any:
        if _active is not self:
            put_in_force(self)
        return operation(self, *arguments, **named)

    return cast(F, run)


def put_in_force(backend: Backend) -> None:
    """Activates the backend, and remembers that it is active."""
    global _active
    _active = None  # if activation fails, the settings are nobody's
    backend.activate()
    _active = backend


# What the two sides of the contract compute alike ---------------------------------------------------------------------

GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / the golden ratio: its multiples spread evenly


def mix64(z: int) -> int:
    """SplitMix64's finaliser (Steele et al. 2014): every bit of the result depends on every bit of z."""
    z &= 2**64 - 1
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return z ^ (z >> 31)


def pads(pad: Pad) -> tuple[int, int]:
    """(before, after): the zeros on each side of height and of width."""
    before, after = (pad, pad) if isinstance(pad, int) else pad
    before, after = operator.index(before), operator.index(after)
    if before < 0 or after < 0:
        raise ValueError(f"pad is an int >= 0 or a pair of them, got {pad!r}")
    return before, after


def conv_size(size: int, kernel: int, stride: int, pad: Pad) -> int:
    """The output size of a convolution along one axis: `(size + before + after - kernel) // stride + 1`.

    Raises ValueError if the kernel does not fit.
    """
    before, after = pads(pad)
    if kernel < 1 or stride < 1:
        raise ValueError(f"kernel and stride are at least 1, got {kernel} and {stride}")
    if size + before + after < kernel:
        raise ValueError(f"a kernel of {kernel} does not fit into {size} pixels padded by {before} and {after}")
    return (size + before + after - kernel) // stride + 1


def cores() -> int:
    """The number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
