"""Tests of kernels.cu on a machine without a GPU: compile for every architecture, and run on the CPU.

The results are compared with NumPy in float64, with the threads of a block in three orders, and once more with
sanitizers. The mistakes at the end are planted in the real source and must be caught.
"""

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import cuda_emulation
import numpy as np
import pytest
from cuda_emulation import SOURCE, Fault, Kernels, functions, waiting

from minigan import backends
from minigan.backends import AdamStep, Normalisation, RecurrentWeights

numpy_backend = backends.reference()
TESTS = Path(__file__).parent
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)  # Turing, Ampere, Ampere, Ada, Hopper, Blackwell, Blackwell
emulated_only = pytest.mark.skipif(not cuda_emulation.available, reason=cuda_emulation.MISSING)


# ---------------------------------------------------------------- compiled for GPUs


def compiled(architecture: int, source: str = SOURCE, real: str = "float") -> tuple[str, str]:
    """Compile as CuPy does, and return (PTX, log of the assembler). This needs NVRTC, but neither driver nor GPU."""
    pytest.importorskip("cupy", reason="NVRTC is reached through CuPy: pip install cupy-cuda13x nvidia-cuda-nvrtc")
    from cupy.cuda import nvrtc

    try:
        program = nvrtc.createProgram(source, "kernels.cu", (), ())
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"NVRTC cannot be loaded ({str(error).splitlines()[0]}): pip install nvidia-cuda-nvrtc")
    try:
        options = ("--std=c++17", f"-DREAL={real}", "-ftz=true", f"-arch=sm_{architecture}", "-Xptxas", "-v")
        nvrtc.compileProgram(program, options)
        ptx = nvrtc.getPTX(program)
        return ptx.decode() if isinstance(ptx, bytes) else ptx, nvrtc.getProgramLog(program)
    except nvrtc.NVRTCError as error:
        raise AssertionError(nvrtc.getProgramLog(program)) from error
    finally:
        nvrtc.destroyProgram(program)


def in_double_precision(ptx: str) -> list[str]:
    """Return the instructions in double precision."""
    return re.findall(r"^\s*[\w.]+\.f64\b.*", ptx, re.M)


def spilled(log: str) -> list[str]:
    """Return the sizes of stack frame and spills for each kernel that has any."""
    found = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log)
    assert found, "the log of the assembler does not report spills"
    return [", ".join(numbers) for numbers in found if numbers != ("0", "0", "0")]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_kernels_compile_for_every_architecture(architecture):
    ptx, log = compiled(architecture)
    assert f".target sm_{architecture}" in ptx
    assert set(re.findall(r"\.entry (\w+)", ptx)) == {name for name in functions(SOURCE) if is_kernel(name)}
    assert in_double_precision(ptx) == [] and spilled(log) == []
    assert "warning" not in log


def is_kernel(name: str) -> bool:
    """Return whether the function is a kernel, not a device function."""
    return functions(SOURCE)[name].startswith('extern "C"')


def test_the_kernels_also_compile_in_double_precision():
    ptx, log = compiled(90, real="double")
    assert in_double_precision(ptx) and spilled(log) == []


@pytest.mark.parametrize(
    ("old", "new", "finds"),
    [
        ("/ real(127.5) - 1", "/ 127.5 - 1", lambda ptx, log: in_double_precision(ptx)),
        (
            "real f = s, slope = sign;",
            "real f = s, slope = sign; volatile real many[200]; for (int k = 0; k < 200; ++k) many[k] = f * k; "
            "for (int k = 0; k < 200; ++k) f += many[k * n % 200];",
            lambda ptx, log: spilled(log),
        ),
    ],
    ids=["a double constant", "a local array in each thread"],
)
def test_the_checks_of_the_compilation_can_fail(old, new, finds):
    assert finds(*compiled(90, changed(old, new)))


def test_an_error_in_a_kernel_fails_the_compilation():
    with pytest.raises(AssertionError, match="no_such_name"):
        compiled(90, changed("real f = s", "real f = no_such_name"))


def changed(old: str, new: str, source: str = SOURCE) -> str:
    """Return the source with `old`, which must occur exactly once, replaced by `new`."""
    assert source.count(old) == 1, f"{source.count(old)} places with {old!r}, expected one"
    return source.replace(old, new)


# ---------------------------------------------------------------- run on the CPU


class Emulated:
    """The GPU backend with the stand-in for CuPy and kernels from `source`, which are built when first used."""

    def __init__(self, source: str, *flags: str):
        import cupy_standin

        self.module = cupy_standin.load_backend()
        self.backend = self.module.CupyBackend()  # this tests the unchanged kernels
        self.module._kernel = lambda name, char: cupy_standin.RawKernel(self.kernel(name, char))
        self.source, self.flags, self.used, self.order, self.seed = source, flags, set(), "forward", 1

    def kernel(self, name: str, char: str):
        """Return a kernel, and record that it was used."""
        self.used.add(name)
        kernel = kernels_of(self.source, self.module.REAL[char], self.flags)[name]
        kernel.order, kernel.seed = self.order, self.seed
        return kernel

    def error(self, dtype, order: str) -> float:
        """Return the largest difference from NumPy in float64, relative to the largest number of the array.

        `order` is the order of the threads.
        """
        self.order, worst = order, 0.0
        pairs = zip(operations(self.backend, dtype), operations(numpy_backend, np.float64), strict=True)
        for (name, a), (_, b) in pairs:
            a = self.backend.to_numpy(a)
            assert a.dtype == (np.float32 if name == "gather" else dtype) and a.shape == b.shape, name
            worst = max(worst, largest(a - b) / (np.abs(b).max() + 1))
        l = np.linspace(-3, 3, 600)
        mean = self.backend.mean_sigmoid(self.backend.asarray(l, dtype=dtype)).get()
        return max(worst, largest(mean - (1 / (1 + np.exp(-l))).mean()))


@functools.cache
def kernels_of(source: str, real: str, flags: tuple[str, ...]) -> Kernels:
    """Build the kernels, once for the same arguments."""
    return Kernels(source, real, flags) if flags else Kernels(source, real)


def largest(differences) -> float:
    """Return the largest absolute difference, which is infinite if there is a NaN."""
    worst = float(np.abs(differences).max())
    return np.inf if np.isnan(worst) else worst


def operations(backend, dtype, seed=0):
    """Yield (name, result) of all operations that use kernels. The sizes are no multiples of blocks or chunks."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return backend.asarray(rng.standard_normal(shape).astype(dtype))

    for N, H, W, C, O, K, stride, pad in (
        (3, 6, 5, 3, 4, 3, 2, (0, 3)),
        (2, 7, 9, 33, 2, 4, 3, 1),
        (1, 5, 4, 1, 1, 5, 1, 2),
    ):
        x, w = draw(N, H, W, C), draw(K, K, C, O)
        y = backend.conv2d(x, w, stride, pad)
        dy = draw(*y.shape)
        yield "conv2d", y
        yield "conv2d_grad_w", backend.conv2d_grad_w(dy, x, w.shape, stride, pad)
        yield "conv2d_grad_x", backend.conv2d_grad_x(dy, w, x.shape, stride, pad)
    for shape, slope in (((5, 3, 7, 6), 0.2), ((301, 33), 1.0), ((2, 40), 0.0), ((5000, 2), 0.3)):
        C = shape[-1]
        x, dy, gamma, beta = draw(*shape) + 3, draw(*shape), draw(C), draw(C)
        y, mean, var = backend.batchnorm(x, gamma, beta, 1e-3, slope)
        norm = Normalisation(gamma, beta, mean, var, 1e-3)
        yield from (("batchnorm", y), ("batch mean", mean), ("batch var", var))
        for name, d in zip(("dx", "dgamma", "dbeta"), backend.batchnorm_grad(dy, x, norm, slope), strict=True):
            yield f"batchnorm {name}", d
        running = draw(C), draw(C)
        backend.track(*running, mean, var, 0.9)
        yield from zip(("running mean", "running var"), running, strict=True)
    for shape in ((1, 1), (700, 33), (3, 1024, 1), (2051, 5), (1030, 64), (4, 9, 60, 3), (0, 4)):
        yield f"sum_rows {shape}", backend.sum_rows(draw(*shape))
    x, y, dy = draw(7, 123), draw(7, 123), draw(7, 123)
    yield "leaky_relu", backend.leaky_relu(x, 0.2)
    yield "leaky_relu_grad", backend.leaky_relu_grad(dy, y, 0.2)
    yield "add_bias", backend.add_bias(draw(7, 123), x[0], 0.2)
    yield from zip(("bias dx", "db"), backend.bias_grad(dy, y, 0.2), strict=True)
    yield "leaky_relu of an array that is not contiguous", backend.leaky_relu(x[:, ::2], 0.2)
    yield "dropout", backend.dropout(x, 20000, 0xFEDCBA9876543210)
    yield "uniform", backend.uniform((7, 123), 0xFEDCBA9876543210, dtype)
    for shape, starts in (((7, 123), (0, 1, 2, 40, 41, 100)), ((90, 5), (0, 3)), ((300, 1), (0,))):
        l, dy = 3 * draw(*shape), draw(*shape)
        y = backend.softmax_groups(l, starts)
        yield f"softmax_groups {shape}", y
        yield f"softmax_groups_grad {shape}", backend.softmax_groups_grad(dy, y, starts)
        yield f"argmax_groups {shape}", backend.argmax_groups(l, starts)
    for kind, gates, states in (("gru", 3, 1), ("lstm", 4, 2)):
        for N, T, F, H, masked in ((3, 5, 4, 40, False), (2, 4, 3, 7, True), (1, 1, 2, 300, True)):
            G = gates * H
            weights = RecurrentWeights(draw(F, G), draw(H, G) / H**0.5, draw(G), draw(G))
            m = draw(N, T) if masked else None
            y, saved = getattr(backend, kind)(draw(N, T, F), weights, draw(N, states * H), m)
            d = getattr(backend, f"{kind}_grad")(draw(N, T, H), saved, weights, m)
            yield f"{kind} {H}", y
            yield from zip(
                (f"{kind} dx", "dw_x", "dw_h", "db_x", "db_h", "dstart"), (d.x, *d.weights, d.start), strict=True
            )
            yield f"{kind} dm", d.start if m is None else d.m
    w, m, v = draw(861), draw(861), abs(draw(861))
    backend.adam(w, draw(861), m, v, AdamStep(1e-2, 0.5, 0.999, 1e-8, 3))
    yield from zip("wmv", (w, m, v), strict=True)
    average = draw(333)
    backend.moving_average(average, draw(333), 0.3)
    yield "moving_average", average
    parts = [
        draw(*shape) for shape in ((2, 3), (5,), (1, 1, 4), (300,), (1,), (2, 2), (7,), (1,), (600,), (3, 3), (8,))
    ]
    yield "concatenate", backend.concatenate(parts)
    images = rng.integers(0, 256, (9, 5, 4, 3), dtype=np.uint8)
    yield "gather", backend.gather(backend.asarray(images), backend.asarray(np.array([8, 0, 3, 3])))


@emulated_only
@pytest.mark.parametrize("order", cuda_emulation.ORDERS)
@pytest.mark.parametrize(("dtype", "bound"), [(np.float32, 3e-6), (np.float64, 1e-13)], ids=["float32", "float64"])
def test_the_kernels_compute_what_numpy_does_in_any_order_of_threads(order, dtype, bound):
    emulated = Emulated(SOURCE)
    assert emulated.error(dtype, order) <= bound
    assert emulated.used == set(filter(is_kernel, functions(SOURCE))) - {"loss"}


@emulated_only
@pytest.mark.parametrize("order", cuda_emulation.ORDERS)
@pytest.mark.parametrize("n", [1, 31, 32, 33, 257, 1000])
def test_the_losses_are_those_of_the_formulas(order, n, emulation, rng):
    """Compare with the reference in float64, for float32 logits up to 100."""
    from minigan import losses

    emulated = Emulated(SOURCE)
    backend, emulated.order, emulated.seed = emulated.backend, order, n
    a, b = (rng.uniform(-100, 100, (size, 1)).astype(np.float32) for size in (n, n + 1))
    real, fake = backend.asarray(a), backend.asarray(b)
    for loss, ours in (
        (losses.smoothed(losses.non_saturating, 0.1), backend.discriminator_loss("softplus", real, fake, 0.1)),
        (losses.hinge, backend.discriminator_loss("hinge", real, fake)),
    ):
        close(ours, loss.discriminator(a.astype(np.float64), b.astype(np.float64)))
    for loss, ours in (
        (losses.non_saturating, backend.generator_loss("softplus", fake, -1, 1)),
        (losses.minimax, backend.generator_loss("softplus", fake, 1, -1)),
        (losses.hinge, backend.generator_loss("linear", fake, -1, 1)),
    ):
        close(ours, loss.generator(b.astype(np.float64)))
    close([backend.mean_sigmoid(fake)], [numpy_backend.mean_sigmoid(b.astype(np.float64))])


def close(got, expected):
    """Assert that GPU arrays agree with NumPy arrays up to float32 rounding."""
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a.get(), b, rtol=5e-6, atol=1e-30)


@emulated_only
def test_dropout_drops_the_same_units_as_the_reference(emulation, rng):
    x = rng.standard_normal((17, 1001)).astype(np.float32)
    for threshold, stream in ((1, 0), (20000, 2**64 - 1), (65535, 12345)):
        y = emulation.to_numpy(emulation.dropout(emulation.asarray(x), threshold, stream))
        np.testing.assert_array_equal(y, numpy_backend.dropout(x, threshold, stream))


@emulated_only
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_uniform_numbers_have_the_bits_of_the_reference(dtype, emulation):
    for shape, stream in (((3, 1001), 0), ((257,), 2**64 - 1), ((), 12345), ((0, 4), 12345)):
        u = emulation.to_numpy(emulation.uniform(shape, stream, dtype))
        np.testing.assert_array_equal(u, numpy_backend.uniform(shape, stream, dtype))


@emulated_only
def test_pixels_are_scaled_to_the_same_bits_as_the_reference(emulation):
    pixels = np.arange(256, dtype=np.uint8).reshape(2, 128, 1, 1)
    index = np.array([1, 0, 1])
    x = emulation.gather(emulation.asarray(pixels), emulation.asarray(index))
    np.testing.assert_array_equal(emulation.to_numpy(x), numpy_backend.gather(pixels, index))


def test_the_functions_in_which_threads_wait_are_found():
    assert waiting(SOURCE) >= {"column_sum", "block_sum", "batchnorm_apply", "loss", "mean_sigmoid"}
    assert not waiting(SOURCE) & {"im2col", "adam", "sigmoid", "activation_grad"}


# ---------------------------------------------------------------- sanitizers


def sanitized(source: str) -> subprocess.CompletedProcess:
    """Run all operations in a new process, with kernels built with AddressSanitizer and UBSan.

    The arrays have no margins there, so that AddressSanitizer detects accesses out of bounds.
    """
    program = """
        import sys
        import numpy as np
        import cuda_emulation
        cuda_emulation.MARGIN = 0
        import test_cuda_kernels as t
        assert t.Emulated(sys.stdin.read(), *cuda_emulation.SANITIZERS).error(np.float32, "shuffled") < 3e-6
    """
    libraries = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    if not all(os.path.isabs(path) for path in libraries):
        pytest.skip("g++ has no sanitizers here: apt install libasan8 libubsan1, or the versions of this g++")
    environment = os.environ | {
        "LD_PRELOAD": ":".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "UBSAN_OPTIONS": "print_stacktrace=0",
        "PYTHONMALLOC": "malloc",
    }
    lines = "\n".join(line[8:] for line in program.splitlines())
    command = [sys.executable, "-c", lines]
    return subprocess.run(
        command, input=source, capture_output=True, text=True, cwd=TESTS, env=environment, timeout=300
    )


@pytest.mark.slow
@emulated_only
def test_the_sanitizers_find_nothing():
    result = sanitized(SOURCE)
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.mark.slow
@emulated_only
@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("    if (i >= (n)) return;", "    if (i > (n)) return;", "heap-buffer-overflow"),
        ("row < ROWS; ++row) sum", "row <= ROWS; ++row) sum", "out of bounds"),
    ],
    ids=["one element beyond the end", "one row of shared memory too many"],
)
def test_the_sanitizers_find_what_is_planted(old, new, says):
    result = sanitized(changed(old, new))
    assert result.returncode != 0 and says in result.stderr, result.stderr[-3000:]
    assert "kernels.cu" in result.stderr  # the file and line of the fault


# ---------------------------------------------------------------- planted mistakes

MISTAKES = {
    "every chunk written to the first": ("sums[blockIdx.y * C + c] = sum;", "sums[c] = sum;"),
    "a sum read before all have written": (
        "= v;\n    __syncthreads();\n    real sum = 0;\n    for (int row",
        "= v;\n    real sum = 0;\n    for (int row",
    ),
    "the next sum written before all have read": (
        "sum += part[row][threadIdx.x];\n    __syncthreads();",
        "sum += part[row][threadIdx.x];",
    ),
    "warps that do not wait for one another": (
        "= v;\n    __syncthreads();\n    real sum = 0;\n    for (int warp",
        "= v;\n    real sum = 0;\n    for (int warp",
    ),
    "a barrier in a branch": (
        "    const real mean = column_sum(sum) / real(end - begin);",
        "    const real mean = c < C ? column_sum(sum) / real(end - begin) : sum;",
    ),
    "a shuffle in a branch": (
        "v += __shfl_down_sync(FULL, v, offset);",
        "if (threadIdx.x % 32 < 16) v += __shfl_down_sync(FULL, v, offset);",
    ),
    "shared memory that is not written": ("if (threadIdx.x % 32 == 0) part", "if (threadIdx.x == 0) part"),
    "strides swapped in im2col": ("x[(n * H + h) * WC + v]", "x[(n * W + h) * H * C + v]"),
    "rows and columns swapped in im2col": ("const int q = m % Q, p = m / Q % P", "const int p = m % P, q = m / P % Q"),
    "strides swapped in col2im": ("((((n * P + p) * Q + q)", "((((n * Q + q) * P + p)"),
    "the padding forgotten in im2col": ("h >= 0 && h < H && v >= 0 && v < WC", "h >= 0 && h < H && v < WC"),
    "the lower padding forgotten in col2im": ("if (p >= P) continue;", ""),
    "no bounds check of the element": ("    if (i >= (n)) return;", ""),
    "no bounds check of the window": ("    if (m >= windows) return;\n", ""),
    "no bounds check of the channel": (
        "    if (c >= C) return;\n    if (blockIdx.y == 0 && threadIdx.y == 0) {\n        mean_out",
        "    if (blockIdx.y == 0 && threadIdx.y == 0) {\n        mean_out",
    ),
    "the last chunk counted as a full one": ("sum += real(min(chunk, M - k * chunk))", "sum += real(chunk)"),
    "the means of the chunks taken as equal": ("+ real(min(chunk, M - k * chunk)) * d * d", "+ 0 * d"),
    "the slope where y > 0": ("+ shift > 0 ? dy : slope", "+ shift <= 0 ? dy : slope"),
    "the shift forgotten before the activation": ("return scale * centred + shift > 0", "return scale * centred > 0"),
    "both numbers of a hash are the lower one": ("hash(stream, i / 2) >> (i % 2 * 32)", "hash(stream, i / 2)"),
    "random numbers with a bit too few": ("(int)(b >> 8 | 1)", "(int)(b >> 9 | 1)"),
    "a group that ends with the next row's": (
        "const int end = e_ / (groups) * (G) + (bounds)[e_ % (groups) + 1];",
        "const int end = begin + (bounds)[e_ % (groups) + 1];",
    ),
    "rows and groups exchanged": (
        "e_ / (groups) * (G) + (bounds)[e_ % (groups)]; ",
        "e_ % (groups) * (G) + (bounds)[e_ / (groups)]; ",
    ),
    "the largest number not subtracted": ("exp(l[i] - top)", "exp(l[i] - 100)"),
    "the first number left out of the sum": (
        "for (int i = begin; i < end; ++i) sum += dy[i] * y[i];",
        "for (int i = begin + 1; i < end; ++i) sum += dy[i] * y[i];",
    ),
    "the smallest number chosen": ("l[i] > l[at]", "l[i] < l[at]"),
    "a state read before all have written it": (
        "            gate[3 * H + j] = q_n;\n        }\n        __syncthreads();",
        "            gate[3 * H + j] = q_n;\n        }",
    ),
    "a gradient read before all have written it": (
        "            dh[n * H + j] = (1 - mask) * d + z * dnext;\n        }\n        __syncthreads();",
        "            dh[n * H + j] = (1 - mask) * d + z * dnext;\n        }",
    ),
    "the state of the sequence before": (
        "y + (row - 1) * H : start + n * H;\n        const real* v",
        "y + (row - 1) * H : start;\n        const real* v",
    ),
    "units beyond the size of a block left out": (
        "j += (int)blockDim.x) {\n            const real r = sigmoid(",
        "j += H) {\n            const real r = sigmoid(",
    ),
    "the cell read where the state is": (
        "start + n * 2 * H + H;\n        const real mask",
        "start + n * 2 * H;\n        const real mask",
    ),
    "the mask of another step": ("m[row] * change", "m[n] * change"),
    "an index of 64 bits read as one of 32": ("const long long* __restrict__ index", "const int* __restrict__ index"),
}


@pytest.mark.slow
@emulated_only
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_kernel_is_caught(mistake):
    """It causes a fault, or wrong numbers in at least one order of threads."""
    emulated, errors = Emulated(changed(*MISTAKES[mistake]), "-O0"), []
    for order in cuda_emulation.ORDERS:
        try:
            errors.append(emulated.error(np.float32, order))
        except Fault:
            return
    assert max(errors) > 1e-3


@emulated_only
@pytest.mark.parametrize("scalar", [0.2, np.float64(0.2), np.int32(1)], ids=["a Python float", "a double", "an int"])
def test_a_scalar_of_another_type_is_caught(scalar):
    x = np.ones(3, np.float32)
    with pytest.raises(Fault, match=r"leaky_relu\(FFfi\) launched with"):
        Kernels()["leaky_relu"]((1,), (256,), (x, x.copy(), scalar, np.int32(3)))


@emulated_only
@pytest.mark.parametrize(("grid", "block"), [((0,), (256,)), ((1,), (2048,)), ((1, 70000), (32, 8)), ((1,), (64, 32))])
def test_a_launch_beyond_the_limits_of_a_gpu_is_caught(grid, block):
    x = np.ones(3, np.float32)
    with pytest.raises(Fault, match=r"beyond the limits|more than 1024"):
        Kernels()["leaky_relu"](grid, block, (x, x.copy(), np.float32(1), np.int32(3)))
