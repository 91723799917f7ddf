"""The contract between the layers and the hardware: every operation that a backend has.

Layers use these operations only, and do not depend on which backend they use.
`NumpyBackend` is the complete reference and reads like the equations. The other
backends implement the same operations and return the same numbers up to rounding.

Every result has the dtype of its inputs: float32 to train, float64 to check gradients
(the reference also supports complex128). The convolutions are defined as follows, where
`pad = (before, after)` zeros are added along both height and width (one int means both
sides) and `P = (H + before + after - K) // stride + 1`:

    y[n,p,q,o]  = sum_ijc  xpad[n, p*stride+i, q*stride+j, c] * w[i,j,c,o]
    dx[n,h,v,c] = sum of  dy[n,p,q,o] * w[i,j,c,o]  over all (p,q,i,j,o) for which y reads pixel (h,v) of x
    dw[i,j,c,o] = sum_npq  xpad[n, p*stride+i, q*stride+j, c] * dy[n,p,q,o]

A transposed convolution is `conv2d_grad_x`, so both layers use the same three operations.
"""

import contextlib
import functools
import math
import operator
import os
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar, cast

from minigan.backends.subnormals import NOTHING, THREAD
from minigan.errors import UserError

Array: TypeAlias = Any  # an array of the backend: numpy.ndarray or cupy.ndarray
Shape: TypeAlias = tuple[int, ...]
Pad: TypeAlias = int | tuple[int, int]
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class BackendUnavailable(UserError):
    """Raised if a backend cannot run on this machine. The message gives the cause and the fix."""


class Normalisation(NamedTuple):
    """The parameters of a batch norm of x (..., C): y = gamma * (x - mean) / sqrt(var + eps) + beta; arrays (C,)."""

    gamma: Array
    beta: Array
    mean: Array
    var: Array
    eps: float


class RecurrentWeights(NamedTuple):
    """The weights of a recurrent layer with F inputs and H units. G = 3 H for a GRU, and 4 H for an LSTM."""

    w_x: Array  # (F, G), of the input of a step
    w_h: Array  # (H, G), of the state
    b_x: Array  # (G,)
    b_h: Array  # (G,)


class RecurrentGradients(NamedTuple):
    """The gradients of the arguments of a recurrent operation. None: not needed, or there is no such argument."""

    x: Any  # (N, T, F)
    weights: RecurrentWeights | None
    start: Array  # (N, H), or (N, 2 H) of an LSTM
    m: Any  # (N, T)


class AdamStep(NamedTuple):
    """The hyperparameters of step t of Adam; t counts from 1."""

    lr: float
    beta1: float
    beta2: float
    eps: float
    t: int


class Finding(NamedTuple):
    """A line of `minigan doctor`. A problem has a `fix`, which says what to do."""

    topic: str
    text: str
    fix: str = ""


class Backend(Protocol):
    """The operations that a backend has. They take and return arrays of the backend's own type."""

    name: str
    xp: Any  # the array module: numpy or cupy
    settings: dict[str, Any]  # the settings of `load` for this backend: threads, or device, tf32 and memory
    steps_ahead: int = 1  # training steps that may be queued before their losses are read
    takes_complex: bool = False  # whether operations accept complex128, which the complex step needs
    compiles: bool = False  # whether operations are compiled when they are first used
    sums_in_kernels: bool = False  # whether batch norm and losses sum over the batch without `batch_sum`
    sums_alone: bool = False  # whether `batch_sum` is called inside `computing`, where no other thread computes
    ranks: Any = None  # the processes that share each batch, see ranks.py; None: this process computes alone

    @property
    def plain(self) -> "Backend":
        """The backend that computes alone."""
        return self

    # ---- settings, compilation and pickling

    def activate(self) -> None:
        """Apply the settings of this object to the process.

        Threads, device and memory limit are settings of the object, but BLAS, Numba and CUDA
        store them for the whole process. So each operation that depends on them is decorated
        with `@in_force`, which calls this method if another backend was active.
        """
        ...

    def computing(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context for computations with this backend: alone, and with subnormal numbers as zero if it can.

        No other thread of the process computes at the same time, because threads and memory
        limits are settings of the whole process. So two trainings in two threads take turns,
        step by step, and each has the bits that it would have alone.

        A float32 is subnormal if it is smaller than 1.2e-38. Many processors need many
        times as long for such numbers. The CPU backends change the mode of the calling thread
        inside the context, and give it back on exit. Contexts may be nested. Each operation
        with `@in_force` has a context of its own. Use this one around whole steps, so that
        NumPy's own passes run in it as well, and leave it before other code runs: not around a
        `yield`, for example.
        """
        return ALONE

    def describe(self) -> str:
        """Return one line that describes the hardware in use."""
        ...

    def health(self) -> list["Finding"]:
        """Return what `minigan doctor` shows of this backend, such as caches and drivers."""
        return []

    def kernels_on_disk(self) -> bool:
        """Return True if no long compilation is needed, because nothing is compiled or the kernels are on disk."""
        return True

    def prepare(self, run_step: Callable[["Backend"], object]) -> None:
        """Compile what `run_step(backend)` needs, so that a measured step includes no compilation.

        `run_step` runs one training step on a few samples and has no side effects. It must be
        picklable, because a backend may also run it in a second process.
        """
        return None

    def __copy__(self) -> "Backend":
        """Return the backend itself, as `__deepcopy__` does."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "Backend":
        """Return the backend itself, so that a copied network uses the same backend."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the name and the settings. Unpickling loads the backend again."""
        from minigan.backends import reload

        return reload, (self.name, self.settings)

    def __repr__(self) -> str:
        """Return the name and the settings."""
        settings = "".join(f", {name}={value}" for name, value in self.settings.items())
        return f"<backend {self.name}{settings}>"

    # ---- arrays

    def asarray(self, x: Any, dtype: Any = None) -> Array:
        """Return x as an array of this backend."""
        ...

    def to_numpy(self, x: Array) -> Any:
        """Return x as a NumPy array."""
        ...

    def synchronize(self) -> None:
        """Wait until all queued work is done."""
        ...

    def concatenate(self, arrays: Sequence[Array]) -> Array:
        """Flatten the arrays and join them in order: any shapes -> (n,)."""
        ...

    def gather(self, images: Array, index: Array) -> Array:
        """Compute images[index] / 127.5 - 1: uint8 (count, ...), int64 (N,) -> float32 (N, ...) in [-1, 1]."""
        ...

    # ---- statistics of the batch, which several processes may share: see ranks.py. With one process, these operations
    # ---- change nothing.

    def batch_sum(self, total: T) -> T:
        """Sum `total` over all processes that share the batch.

        `total` is a sum over the samples of this process. Every statistic of the batch goes
        through this operation, and so does the number of samples that divides it: the mean
        and the variance of batch norm, the sums in its input gradient, and the means of
        losses and penalties. The gradients of the weights do so once in a step, in the
        optimizer. With one process the result is `total` itself.
        """
        return total

    def batch_start(self, size: int) -> int:
        """Return how many elements of an array over the whole batch come before the part of this process.

        `size` is the number of elements of this part.
        """
        return 0

    def batch_gather(self, x: Array) -> tuple[Array, slice]:
        """Return x (N, ...) of the whole batch, and the rows of it that are those of this process."""
        return x, slice(0, len(x))

    def batch_part(self, count: int) -> slice:
        """Return which samples of a batch of `count` this process computes."""
        return slice(0, count)

    def sharing(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which the processes share each batch. Outside, each of them computes for itself."""
        return NOTHING

    def batch_mean(self, x: Array, axis: int | Shape | None = None) -> Array:
        """Compute the mean over `axis` (as in NumPy), which must include the axis of the samples."""
        total = x.sum(axis=axis)
        return self.batch_sum(total) / self.batch_sum(x.size // max(total.size, 1))

    # ---- matrix products and convolutions

    def matmul(self, a: Array, b: Array) -> Array:
        """Compute a @ b: (M, K), (K, N) -> (M, N). Either may be a transposed view."""
        ...

    def conv2d(self, x: Array, w: Array, stride: int, pad: Pad) -> Array:
        """Compute y, the convolution of x with w: (N,H,W,C), (K,K,C,O) -> (N,P,Q,O)."""
        ...

    def conv2d_grad_x(self, dy: Array, w: Array, x_shape: Shape, stride: int, pad: Pad) -> Array:
        """Compute dx, the input gradient of `conv2d`: (N,P,Q,O), (K,K,C,O) -> (N,H,W,C)."""
        ...

    def conv2d_grad_w(self, dy: Array, x: Array, w_shape: Shape, stride: int, pad: Pad) -> Array:
        """Compute dw, the weight gradient of `conv2d`: (N,P,Q,O), (N,H,W,C) -> (K,K,C,O)."""
        ...

    # ---- passes over memory; a slope other than 1 adds a leaky ReLU of this slope to the same pass

    def sum_rows(self, dy: Array) -> Array:
        """Sum over all axes but the last: (..., C) -> (C,)."""
        ...

    def add_bias(self, y: Array, b: Array, slope: float = 1.0) -> Array:
        """Compute leaky_relu(y + b): (..., C), (C,) -> (..., C). May overwrite y."""
        ...

    def bias_grad(self, dy: Array, y: Array, slope: float = 1.0) -> tuple[Array, Array]:
        """Compute the gradients of y + b (..., C) and of b (C,) in leaky_relu(y + b).

        `dy` and `y` are the gradient and the value of the output, both (..., C). y is read
        only if the slope is not 1, and its sign selects the branch of the leaky ReLU.
        """
        ...

    def leaky_relu(self, x: Array, slope: float) -> Array:
        """Compute y = x where x > 0, else slope * x."""
        ...

    def leaky_relu_grad(self, dy: Array, y: Array, slope: float) -> Array:
        """Compute dx = dy where y > 0, else slope * dy."""
        ...

    def batchnorm(
        self, x: Array, gamma: Array, beta: Array, eps: float, slope: float = 1.0
    ) -> tuple[Array, Array, Array]:
        """Normalise x (..., C). Return leaky_relu(y) (..., C), and the mean (C,) and biased variance (C,) of x."""
        ...

    def batchnorm_grad(
        self, dy: Array, x: Array, norm: "Normalisation", slope: float = 1.0
    ) -> tuple[Array, Array, Array]:
        """Compute dx (..., C), dgamma (C,) and dbeta (C,) from dy (..., C) and the x (..., C) of the forward pass."""
        ...

    def track(self, running_mean: Array, running_var: Array, mean: Array, var: Array, momentum: float) -> None:
        """Update in place: running = momentum * running + (1 - momentum) * batch."""
        ...

    def dropout(self, x: Array, threshold: int, stream: int) -> Array:
        """Compute y = x * mask * 65536 / (65536 - threshold). The same call on dy computes dx.

        Element i is kept if the i-th 16-bit number of `stream` is at least `threshold`. Each
        of mix64(stream + GOLDEN), mix64(stream + 2 * GOLDEN), ... provides four such numbers,
        the lowest bits first.
        """
        ...

    def uniform(self, shape: Shape, stream: int, dtype: Any) -> Array:
        """Compute an array of `shape` with random numbers between 0 and 1, in float32 or float64.

        Element i, in C order, is (2 * floor(b_i / 512) + 1) / 2^24, where b_i is the i-th 32-bit
        number of `stream`. Each of mix64(stream + GOLDEN), mix64(stream + 2 * GOLDEN), ...
        provides two such numbers, the lowest bits first. So the result depends only on `stream`
        and the position, and is the same on every backend and for both dtypes. No rounding
        occurs. The smallest number is 2^-24 and the largest 1 - 2^-24, so that log(u) and
        log(1 - u) are finite.
        """
        ...

    def normal(self, shape: Shape, stream: int, dtype: Any) -> Array:
        """Compute an array of `shape` with standard normal numbers n, which depend only on `stream` and the position.

        Elements 2q and 2q + 1, in C order, are computed from elements 2q and 2q + 1 of
        u = uniform(..., stream), by the transform of Box and Muller (1958):

            n[2q]     = r cos(a)      with r = sqrt(-2 log u[2q])
            n[2q + 1] = r sin(a)      and  a = 2 pi u[2q + 1]

        u is at least 2^-24, so that |n| is at most 5.8. Of true normal numbers, one in 10^8 is larger.
        """
        xp, size = self.xp, math.prod(shape)
        u = self.uniform((-(-size // 2), 2), stream, dtype)
        r, a = (-2 * xp.log(u[:, 0])) ** 0.5, 2 * math.pi * u[:, 1]
        return xp.stack([r * xp.cos(a), r * xp.sin(a)], axis=1).reshape(-1)[:size].reshape(shape)

    # ---- groups of columns of x (N, G). `starts` is a tuple (n,) that begins with 0 and increases: group k has the
    # ---- columns from starts[k] up to the next start, or up to G. A group may have one column.

    def softmax_groups(self, l: Array, starts: Shape) -> Array:
        """Compute y_j = exp(l_j) / (sum of exp(l_i) over the group of j): (N, G) -> (N, G).

        The largest number of each group is subtracted first, so that exp cannot overflow.
        """
        ...

    def softmax_groups_grad(self, dy: Array, y: Array, starts: Shape) -> Array:
        """Compute dl_j = y_j * (dy_j - sum of dy_i * y_i over the group of j): (N, G), (N, G) -> (N, G)."""
        ...

    def argmax_groups(self, l: Array, starts: Shape) -> Array:
        """Compute y (N, G): 1 at the largest number of each group of l (N, G), the first one if several are, else 0."""
        ...

    # ---- recurrent layers: x (N, T, F) has T steps, m (N, T) is a mask or None, and `start` is the state before the
    # ---- first step. A step of the state s is s + m_t * (next s - s), so that a mask of 0 keeps the state.

    def gru(
        self, x: Array, weights: "RecurrentWeights", start: Array, m: Array | None = None
    ) -> tuple[Array, tuple[Array, ...]]:
        """Compute the states y (N, T, H) of a GRU, and the arrays that `gru_grad` needs.

        The state is h, which is `start` (N, H) at first. v and q have three parts r, z, n. A step is

            v = x_t @ w_x + b_x,  q = h @ w_h + b_h,  r = sigmoid(v_r + q_r),  z = sigmoid(v_z + q_z)
            n = tanh(v_n + r * q_n),  next h = (1 - z) * n + z * h
        """
        ...

    def gru_grad(
        self,
        dy: Array,
        saved: tuple[Array, ...],
        weights: "RecurrentWeights",
        m: Array | None = None,
        need_dx: bool = True,
        need_grads: bool = True,
    ) -> "RecurrentGradients":
        """Compute the gradients of the arguments of `gru` from dy (N, T, H), those of x and the weights if needed."""
        ...

    def lstm(
        self, x: Array, weights: "RecurrentWeights", start: Array, m: Array | None = None
    ) -> tuple[Array, tuple[Array, ...]]:
        """Compute the outputs y (N, T, H) of an LSTM, and the arrays that `lstm_grad` needs.

        The state is h and c, which are the halves of `start` (N, 2 H) at first. q has four parts
        i, f, g, o. A step is

            q = x_t @ w_x + b_x + h @ w_h + b_h
            next c = sigmoid(q_f) * c + sigmoid(q_i) * tanh(q_g),  next h = sigmoid(q_o) * tanh(next c)
        """
        ...

    def lstm_grad(
        self,
        dy: Array,
        saved: tuple[Array, ...],
        weights: "RecurrentWeights",
        m: Array | None = None,
        need_dx: bool = True,
        need_grads: bool = True,
    ) -> "RecurrentGradients":
        """Compute the gradients of the arguments of `lstm` from dy (N, T, H), those of x and the weights if needed."""
        ...

    # ---- losses of logits (N, 1) or (N,); f is softplus(l), hinge: max(0, 1 + l),
    # ---- square: (1 + l)^2 / 2, or linear: l

    def sigmoid(self, l: Array) -> Array:
        """Compute 1 / (1 + exp(-l)). It is accurate where the result is tiny, because only exp(-|l|) is evaluated."""
        positive = l.real > 0
        e = self.xp.exp(self.xp.where(positive, -l, l))  # exp(-|l|)
        return self.xp.where(positive, 1, e) / (1 + e)

    def softplus(self, l: Array) -> Array:
        """Compute log(1 + exp(l)) = max(l, 0) + log1p(exp(-|l|)). Its derivative is sigmoid(l)."""
        positive = l.real > 0
        e = self.xp.exp(self.xp.where(positive, -l, l))  # exp(-|l|)
        return self.xp.where(positive, l, 0 * l) + self.xp.log1p(e)

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
        ...

    def generator_loss(self, kind: str, fake_logits: Array, sign: int, weight: int) -> tuple[Array, Array]:
        """Compute weight * mean f(sign * l_fake), and the gradient of the logits."""
        ...

    def mean_sigmoid(self, logits: Array) -> Array:
        """Compute the mean of 1 / (1 + exp(-l)), a 0-d array."""
        ...

    # ---- updates in place

    def adam(self, w: Array, dw: Array, m: Array, v: Array, step: "AdamStep") -> None:
        """Make one step of Adam: update w, m and v in place."""
        ...

    def moving_average(self, average: Array, now: Array, share: float) -> None:
        """Update in place: average += share * (now - average)."""
        ...


# The active backend ---------------------------------------------------------------------------------------------------

# The settings in force are those of the whole process, and some threading layers of Numba crash if two threads call
# them at once. So one thread of the process computes at a time, a whole step if the step is inside `computing`.
_ALONE = threading.RLock()
_active: tuple[Backend, int] | None = None  # the active backend, and the thread, because Numba has settings for each


class Alone:
    """A context in which no other thread of this process computes. `inner` is entered inside it."""

    def __init__(self, inner: contextlib.AbstractContextManager[Any] = NOTHING):
        self.inner = inner

    def __enter__(self) -> None:
        _ALONE.acquire()
        self.inner.__enter__()

    def __exit__(self, *error: Any) -> None:
        self.inner.__exit__(*error)
        _ALONE.release()


ALONE = Alone()


def _after_fork() -> None:
    """Replace the lock in a forked process, because the thread that holds it may not exist there."""
    global _ALONE
    _ALONE = threading.RLock()
    forget_active()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def in_force(operation: F) -> F:
    """Decorate an operation so that it runs with the settings of its backend, and inside `computing`."""

    @functools.wraps(operation)
    def run(self: Backend, *arguments: Any, **named: Any) -> Any:
        if THREAD.depth:  # already inside `computing`: entering it again would take longer than this test
            _expect_active(self)
            return operation(self, *arguments, **named)
        with self.computing():
            _expect_active(self)
            return operation(self, *arguments, **named)

    return cast(F, run)


def _expect_active(backend: Backend) -> None:
    """Activate the backend, unless it is active in this thread."""
    if _active is None or _active[0] is not backend or _active[1] != threading.get_ident():
        put_in_force(backend)


def put_in_force(backend: Backend) -> None:
    """Activate the backend and record that it is active."""
    global _active
    _active = None  # if `activate` fails, no backend is active
    backend.activate()
    _active = backend, threading.get_ident()


def forget_active() -> None:
    """Record that no backend is active, so that the next operation applies its settings again."""
    global _active
    _active = None


_said: set[str] = set()


def warn_once(text: str, kind: str = "") -> None:
    """Warn of something that was repaired or ignored, once in a process. Texts of one `kind` count as the same."""
    if (kind or text) not in _said:
        _said.add(kind or text)
        warnings.warn(text, RuntimeWarning, stacklevel=2)


# Helpers shared by layers and backends --------------------------------------------------------------------------------

GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / the golden ratio: its multiples modulo 2**64 are evenly distributed


def mix64(z: int) -> int:
    """Hash z with SplitMix64's finaliser (Steele et al. 2014). Each bit of the result depends on every bit of z."""
    z &= 2**64 - 1
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return z ^ (z >> 31)


def pads(pad: Pad) -> tuple[int, int]:
    """Return (before, after), the numbers of zeros on the two sides of height and of width."""
    before, after = (pad, pad) if isinstance(pad, int) else pad
    before, after = operator.index(before), operator.index(after)
    if before < 0 or after < 0:
        raise ValueError(f"pad must be an int >= 0 or a pair of them, got {pad!r}")
    return before, after


def conv_size(size: int, kernel: int, stride: int, pad: Pad) -> int:
    """Return the output size of a convolution along one axis: `(size + before + after - kernel) // stride + 1`.

    Raises ValueError if the kernel does not fit.
    """
    before, after = pads(pad)
    if kernel < 1 or stride < 1:
        raise ValueError(f"kernel and stride must be at least 1, got {kernel} and {stride}")
    if size + before + after < kernel:
        raise ValueError(f"a kernel of {kernel} does not fit into {size} pixels padded by {before} and {after}")
    return (size + before + after - kernel) // stride + 1


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
