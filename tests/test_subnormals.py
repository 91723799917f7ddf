"""Test that backends treat subnormal numbers as zero on every thread, and that the mode of the caller is restored.

The tests look at the bits of results, because a thread that flushes sees a subnormal number as zero.
"""

import os
import subprocess
import sys
import textwrap
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from minigan import backends, datasets
from minigan.backends import AdamStep, numpy_backend, subnormals
from minigan.backends.numba import backend as compiled
from minigan.training import Config, Training

pytestmark = pytest.mark.skipif(not subnormals.supported(), reason="this machine cannot treat subnormals as zero")

TINY, ONE = np.float32(1e-40), np.float32(1)
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def flushing() -> bool:
    """Return whether the calling thread treats subnormal numbers as zero. `==` would not tell."""
    return (TINY * ONE).view(np.uint32) == 0


def subnormal_numbers(array: np.ndarray) -> int:
    """Return how many numbers of a float32 array are subnormal."""
    bits = np.ascontiguousarray(array).view(np.uint32) & 0x7FFFFFFF
    return int(((0 < bits) & (bits < 1 << 23)).sum())


@pytest.fixture(params=["numpy", "numba"])
def name(request):
    """The name of a backend that can flush."""
    return request.param


# ---------------------------------------------------------------- the mode of the caller


def test_a_context_changes_the_mode_and_restores_it():
    assert not flushing()
    with subnormals.flushed():
        assert flushing()
        with subnormals.flushed():
            assert flushing()
        assert flushing()
    assert not flushing()


def test_an_exception_restores_the_mode():
    with pytest.raises(ZeroDivisionError), subnormals.flushed():
        raise ZeroDivisionError
    assert not flushing()


def test_a_caller_that_flushes_goes_on_flushing():
    environment = subnormals.Environment()
    subnormals._flush(environment)
    try:
        with subnormals.flushed():
            assert flushing()
        assert flushing()
        backends.load("numba", threads=2).leaky_relu(np.ones(50_000, np.float32), 0.5)
        assert flushing()
    finally:
        subnormals._write(environment)
    assert not flushing()


def test_other_threads_keep_their_mode():
    seen = []
    with ThreadPoolExecutor(1) as pool:
        pool.submit(flushing).result()  # starts the thread, because a new one inherits the mode
        with subnormals.flushed():
            seen.append(pool.submit(flushing).result())
    assert seen == [False]


def test_two_threads_enter_and_leave_in_any_order():
    entered, leave = threading.Event(), threading.Event()

    def other():
        with subnormals.flushed():
            entered.set()
            leave.wait(10)
            inside = flushing()
        return inside, flushing()

    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(other)
        entered.wait(10)
        with subnormals.flushed():
            pass
        assert not flushing()
        leave.set()
        assert found.result() == (True, False)


def test_an_unknown_layout_changes_nothing(monkeypatch):
    """The word at this place is not a control word, so it is not changed."""
    monkeypatch.setattr(subnormals, "WORD", 10)
    subnormals.supported.cache_clear()
    try:
        assert not subnormals.supported()
        with subnormals.flushed():
            assert not flushing()
    finally:
        monkeypatch.undo()
        subnormals.supported.cache_clear()


def test_numpy_gives_no_warning_about_its_limits():
    code = """
        import warnings
        warnings.simplefilter("error")
        from minigan.backends import subnormals
        import numpy as np
        with subnormals.flushed():
            for dtype in (np.float16, np.float32, np.float64):
                np.finfo(dtype).smallest_subnormal
        print(np.finfo(np.float32).smallest_subnormal, np.finfo(np.float64).smallest_subnormal)
    """
    assert run(code) == "1e-45 5e-324\n"


def run(code: str) -> str:
    """Run the code in a new process and return its output."""
    command = [sys.executable, "-c", textwrap.dedent(code)]
    root = os.pathsep.join([str(BENCHMARKS.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_an_operation_restores_the_mode_also_if_it_fails(name):
    backend = backends.load(name, threads=2)
    backend.matmul(np.ones((3, 4), np.float32), np.ones((4, 5), np.float32))
    assert not flushing()
    with pytest.raises(ValueError):
        backend.matmul(np.ones((3, 4), np.float32), np.ones((3, 5), np.float32))
    assert not flushing()


def test_the_consumer_of_records_has_its_own_mode(name):
    images = np.random.default_rng(0).integers(0, 256, (70, 8, 8, 1), dtype=np.uint8)
    training = Training(
        Config.of("mlp", steps=3, batch=8), datasets.Images(images, None, "x"), backends.load(name, threads=2)
    )
    seen, plain = [], training._train_step
    training._train_step = lambda: [seen.append(flushing()), plain()][1]
    for _ in training.records():
        assert not flushing()
        training.samples(2)
        assert not flushing()
    assert seen == [True] * 3 and not flushing()

    def fail():
        raise MemoryError

    again = Training(Config.of("mlp", steps=3, batch=8), datasets.Images(images, None, "x"), backends.load(name))
    again._train_step = fail
    with pytest.raises(MemoryError):
        list(again.records())
    assert not flushing()


def test_threads_that_a_flushing_caller_starts_do_not_inherit_its_mode():
    """Otherwise the user's own `prange` would run in this mode later."""
    code = """
        import numpy as np
        from minigan import backends
        backend = backends.load("numba", threads=4)
        with backend.computing():                            # the first loop starts the threads
            backend.leaky_relu(np.ones(10**6, np.float32), 0.5)
        import numba

        @numba.njit(parallel=True)
        def halve(x, y):
            for i in numba.prange(len(x)):
                y[i] = x[i] * np.float32(0.5)

        y = np.zeros(10**6, np.float32)
        halve(np.full(10**6, 1e-40, np.float32), y)
        print((y.view(np.uint32) == 0).sum())
    """
    assert run(code) == "0\n"


# ---------------------------------------------------------------- every thread flushes


def everything(backend) -> dict[str, np.ndarray]:
    """Return results by operation, large enough for several threads. Most numbers would be subnormal."""
    rng = np.random.default_rng(0)
    sign = rng.choice(np.array([-1, 1], np.float32), (64, 14, 14, 32))
    x, w = sign * TINY, np.full((4, 4, 32, 64), 1e-2, np.float32)  # subnormal operands
    small = np.full_like(x, 1e-25) * sign  # small * tap is subnormal
    tap = np.full_like(w, 1e-18)
    dy = np.full((64, 7, 7, 64), 1e-25, np.float32)
    a, b = rng.uniform(1, 2, (500, 383)) * 1e-25, rng.uniform(1, 2, (383, 256)) * 1e-17
    a, b = a.astype(np.float32), b.astype(np.float32)
    m, v = np.full((2, 70_000), TINY)
    weights = np.zeros_like(m)
    l = np.full((2000, 60), -95, np.float32)  # exp(-95) is subnormal
    l[:, ::20] = 0
    y, starts = np.full_like(l, 1e-25), (0, 20, 40)
    backend.adam(weights, np.zeros_like(m), m, v, AdamStep(1e-3, 0.9, 0.999, 1e-8, 900))
    found = {
        "matmul": backend.matmul(a, b),
        "matmul of subnormal numbers": backend.matmul(np.full((500, 383), TINY), b * np.float32(1e15)),
        "conv2d": backend.conv2d(small, tap, 2, 1),
        "conv2d of subnormal numbers": backend.conv2d(x, w, 2, 1),
        "conv2d_grad_x": backend.conv2d_grad_x(dy, tap, x.shape, 2, 1),
        "conv2d_grad_w": backend.conv2d_grad_w(dy, small * np.float32(1e10), w.shape, 2, 1),
        "add_bias": backend.add_bias(x.copy(), np.zeros(32, np.float32), 0.2),
        "leaky_relu": backend.leaky_relu(-np.abs(x), 0.5),
        "leaky_relu_grad": backend.leaky_relu_grad(x, np.full_like(x, -1), 0.5),
        "bias_grad": backend.bias_grad(x, np.full_like(x, -1), 0.5)[0],
        "sum_rows": backend.sum_rows(x),
        "dropout": backend.dropout(x, 1 << 15, 7),
        "softmax_groups": backend.softmax_groups(l, starts)[l < 0],
        "softmax_groups_grad": backend.softmax_groups_grad(np.full_like(l, 1e-18), y, starts),
        "m": m,
        "v": v,
    }
    if backend.compiles:
        found["conv2d_loops"] = compiled.conv2d_loops(small, tap, 2, 1, 7, 7)
        found["conv2d_grad_x_loops"] = compiled.conv2d_grad_x_loops(dy, tap, 14, 14, 2, 1)
        found["conv2d_grad_w_loops"] = compiled.conv2d_grad_w_loops(dy, small * np.float32(1e10), 4, 2, 1)
    return found


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_every_operation_treats_subnormal_numbers_as_zero_on_every_thread(name, threads):
    backend = backends.load(name, threads=threads)
    with backend.computing():
        found = everything(backend)
    assert {key: subnormal_numbers(array) for key, array in found.items()} == dict.fromkeys(found, 0)
    assert {key: np.count_nonzero(array) for key, array in found.items()} == dict.fromkeys(found, 0)
    assert not flushing()


@pytest.mark.parametrize("threads", [2, 4])
def test_compiled_operations_flush_without_a_context(threads):
    """Each task flushes on its own thread, so code that calls an operation directly is as fast."""
    found = everything(backends.load("numba", threads=threads))
    assert {key: subnormal_numbers(array) for key, array in found.items()} == dict.fromkeys(found, 0)


def test_the_operations_would_give_subnormal_numbers_without_flushing(monkeypatch):
    """So the tests above can fail."""
    monkeypatch.setattr(subnormals, "supported", lambda: False)
    found = everything(backends.reference())
    assert [key for key, array in found.items() if not subnormal_numbers(array)] == []


@pytest.mark.parametrize("threads", [2, 3])
def test_bits_near_the_smallest_numbers_do_not_depend_on_the_number_of_threads(name, threads, rng):
    def products(backend):
        x, dy = (rng.standard_normal(s, dtype=np.float32) for s in ((64, 14, 14, 32), (64, 7, 7, 64)))
        w = rng.standard_normal((4, 4, 32, 64), dtype=np.float32)
        a, b = rng.standard_normal((500, 383), np.float32), rng.standard_normal((383, 256), np.float32)
        scale = np.float32(1e-19)  # the results are around 1e-37: ordinary, subnormal or zero
        x, dy, w, a, b = (scale * array for array in (x, dy, w, a, b))
        return [
            backend.matmul(a, b),
            backend.matmul(b.T, a.T),
            backend.conv2d(x, w, 2, 1),
            backend.conv2d_grad_x(dy, w, x.shape, 2, 1),
            backend.conv2d_grad_w(dy, x, w.shape, 2, 1),
        ]

    state = rng.bit_generator.state
    expected = products(backends.load(name, threads=1))
    rng.bit_generator.state = state
    for y, y0 in zip(products(backends.load(name, threads=threads)), expected, strict=True):
        assert y.tobytes() == y0.tobytes() and subnormal_numbers(y) == 0


# ---------------------------------------------------------------- the cases of benchmarks/bench_subnormal.py


def test_the_moment_of_a_weight_without_gradient_becomes_zero(name):
    backend = backends.load(name, threads=2)
    w, m, v = np.zeros((3, 40_000), np.float32)
    backend.adam(w, np.full_like(w, 1e-3), m, v, AdamStep(1e-3, 0.9, 0.999, 1e-8, 1))
    for t in range(2, 902):
        with backend.computing():
            backend.adam(w, np.zeros_like(w), m, v, AdamStep(1e-3, 0.9, 0.999, 1e-8, t))
        if t == 500:
            assert (m > 0).all()
    assert not m.view(np.uint32).any() and (v > 0).all()


def test_the_cases_of_the_benchmark_have_no_subnormal_numbers(name, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import bench_subnormal

    for row in bench_subnormal.measure(name, 2, 0.0, ["D step", "operands", "results"]):
        assert row["subnormal numbers left"] == 0
        assert row["ratio"] > 0
        assert f"| {row['case']} | {name} | 2 |" in bench_subnormal.table([row])


def test_the_threads_of_products_flush_even_if_a_thread_that_does_not_starts_them():
    numpy_backend.workers.cache_clear()
    assert numpy_backend.workers(2).submit(flushing).result()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_process_starts_its_own_threads():
    code = """
        import os, signal
        import numpy as np
        from minigan import backends
        backend, a = backends.load("numpy", threads=2), np.ones((500, 383), np.float32)
        backend.matmul(a, a.T)
        child = os.fork()
        if not child:
            signal.alarm(20)                                 # ends the child if it waits for threads that do not exist
            backend.matmul(a, a.T)
            os._exit(0)
        print(os.waitpid(child, 0)[1])
    """
    assert run(code) == "0\n"


def test_errstate_of_the_caller_holds_on_the_threads_of_products():
    backend = backends.load("numpy", threads=2)
    a = np.full((500, 383), 1e38, np.float32)
    with np.errstate(over="ignore"), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isinf(backend.matmul(a, a.T[:, :256])).all()
