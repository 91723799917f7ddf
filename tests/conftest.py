"""Shared fixtures. Each test that takes `backend` runs on every backend of this machine.

The GPU backend is tested twice. "emulation" runs its Python code and its kernels on the CPU, with a replacement for
CuPy. "cupy" runs on the GPU. It has the mark `gpu` and is skipped without a GPU.
"""

import importlib
import os
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from minigan import backends

if "PYTEST_XDIST_WORKER" in os.environ:
    # Several processes share the cores. The threads of scikit-learn's trees wait for each other in busy loops, which
    # made the tests of tables 7 times slower (447 s, 64 s with one thread each, on two cores).
    os.environ.setdefault("OMP_NUM_THREADS", "1")

BACKENDS = ["numpy", "numba", "emulation", pytest.param("cupy", marks=pytest.mark.gpu)]


# Why a test may be skipped where all extras are installed: no GPU, no browser that can be had, or root runs the tests
# (--no-unexpected-skips).
EXPECTED_SKIPS = re.compile("GPU|CUDA|NVIDIA|root can write|no browser")


def pytest_addoption(parser) -> None:
    parser.addoption(
        "--no-unexpected-skips", action="store_true", help="fail if a test is skipped for another reason than a GPU"
    )


def pytest_terminal_summary(terminalreporter) -> None:
    """Reports when the CUDA kernels were tested in emulation only."""
    passed = terminalreporter.stats.get("passed", [])
    if any("emulation" in report.nodeid for report in passed) and backends.status()["cupy"] is not None:
        terminalreporter.write_line("CUDA kernels run on a CPU emulation; no GPU was used")
    if any("no browser" in report.longrepr[2] for report in terminalreporter.stats.get("skipped", [])):
        terminalreporter.write_line("pages were not opened in a browser: see tests/README.md")
    if terminalreporter.config.getoption("no_unexpected_skips"):
        for reason in sorted(unexpected_skips(terminalreporter.stats)):
            terminalreporter.write_line(f"unexpected skip: {reason}", red=True)


def unexpected_skips(stats: dict) -> set[str]:
    """The reasons of the skipped tests that are not in EXPECTED_SKIPS."""
    reasons = {report.longrepr[2] for report in stats.get("skipped", [])}
    return {reason for reason in reasons if not EXPECTED_SKIPS.search(reason)}


def pytest_sessionfinish(session, exitstatus) -> None:
    reporter = session.config.pluginmanager.getplugin("terminalreporter")
    if session.config.getoption("no_unexpected_skips") and unexpected_skips(reporter.stats) and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def emulated():
    """Returns (the module of the GPU backend with the replacement for CuPy, the replacement)."""
    import cuda_emulation

    if not cuda_emulation.available:
        pytest.skip(cuda_emulation.MISSING)
    import cupy_standin

    return cupy_standin.load_backend(), cupy_standin


@pytest.fixture
def emulation(emulated, monkeypatch):
    """Returns the GPU backend with the replacement for CuPy. During the test, it replaces the real one."""
    monkeypatch.setitem(sys.modules, "minigan.backends.cupy.backend", emulated[0])
    monkeypatch.setattr(backends, "_loaded", dict(backends._loaded))  # discards the backends that the test loads
    return backends.load("cupy")


def of_name(name: str, request):
    """Returns the backend of that name, with one CPU thread. Skips the test if it does not run here."""
    if name == "emulation":
        return request.getfixturevalue("emulation")
    try:
        return backends.load(name, threads=1)  # one, because the arrays are small
    except backends.BackendUnavailable as cause:
        pytest.skip(str(cause))


@pytest.fixture(params=BACKENDS)
def backend(request):
    """Each backend that runs here."""
    return of_name(request.param, request)


@pytest.fixture(params=BACKENDS[2:])
def gpu(request):
    """The GPU backend, in emulation and on the GPU."""
    return of_name(request.param, request)


@pytest.fixture
def rng() -> np.random.Generator:
    """A random generator with a fixed seed."""
    return np.random.default_rng(20140610)


@pytest.fixture
def script(monkeypatch):
    """Return a function that imports a script of benchmarks/ by its name."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return importlib.import_module


@pytest.fixture(scope="session")
def outcomes(tmp_path_factory):
    """The outcome of each planted mistake. Each is tried once for all tests, whatever number of processes run them.

    The process that asks first tries them all, the others wait for its file.
    """
    from minigan.checking import planted

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # the folder that the processes share
    file = folder / "outcomes.pickle"
    with FileLock(f"{file}.lock"):
        if not file.exists():
            file.write_bytes(pickle.dumps(planted.attempt_all()))
    return {outcome.mistake: outcome for outcome in pickle.loads(file.read_bytes())}


@pytest.fixture(scope="module")
def chromium():
    """A browser without a window. Skips the test where there is none."""
    import browser

    with browser.launched() as found:
        if found is None:
            pytest.skip(browser.MISSING)
        yield found
