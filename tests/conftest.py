"""What all tests share: each test that takes `backend` runs on every backend of this machine.

The GPU backend comes twice: "emulation" is the real Python and the real kernels over a stand-in for CuPy, on the CPU;
"cupy" is the GPU itself, marked `gpu` and skipped where there is none.
"""

import re
import sys

import numpy as np
import pytest

from minigan import backends

BACKENDS = ["numpy", "numba", "emulation", pytest.param("cupy", marks=pytest.mark.gpu)]


# Why a test may be skipped on a machine with every extra but without a GPU: `pytest --no-unexpected-skips`.
EXPECTED_SKIPS = re.compile("GPU|CUDA")


def pytest_addoption(parser) -> None:
    parser.addoption(
        "--no-unexpected-skips", action="store_true", help="fail if a test is skipped for another reason than a GPU"
    )


def pytest_terminal_summary(terminalreporter) -> None:
    if "cupy_standin" in sys.modules and backends.status()["cupy"] is not None:
        terminalreporter.write_line("CUDA kernels run on a CPU emulation; no GPU was used")
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
    """(the module of the GPU backend over the stand-in, the stand-in)."""
    import cuda_emulation

    if not cuda_emulation.available:
        pytest.skip(cuda_emulation.MISSING)
    import cupy_standin

    return cupy_standin.load_backend(), cupy_standin


@pytest.fixture
def emulation(emulated, monkeypatch):
    """The GPU backend over the stand-in, in the place of the real one for as long as the test runs."""
    monkeypatch.setitem(sys.modules, "minigan.backends.cupy.backend", emulated[0])
    monkeypatch.setattr(backends, "_loaded", dict(backends._loaded))  # what the test loads is forgotten after it
    return backends.load("cupy")


def of_name(name: str, request):
    """The backend of that name, on one CPU thread; skips, with the reason, where it does not run."""
    if name == "emulation":
        return request.getfixturevalue("emulation")
    try:
        return backends.load(name, threads=1)  # the arrays are small
    except backends.BackendUnavailable as cause:
        pytest.skip(str(cause))


@pytest.fixture(params=BACKENDS)
def backend(request):
    """A backend: numpy, and the others that run here."""
    return of_name(request.param, request)


@pytest.fixture(params=BACKENDS[2:])
def gpu(request):
    """The GPU backend, emulated and real."""
    return of_name(request.param, request)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20140610)


@pytest.fixture(scope="session")
def outcomes():
    """Every planted mistake tried once, for all tests that ask what became of it."""
    from minigan.checking import planted

    return {outcome.mistake: outcome for outcome in planted.attempt_all()}
