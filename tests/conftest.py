"""What all tests share: each test that takes `backend` runs on every backend of this machine.

The GPU backend comes twice: "emulation" is the real Python and the real kernels over a stand-in for CuPy, on the CPU;
"cupy" is the GPU itself, marked `gpu` and skipped where there is none.
"""

import sys

import numpy as np
import pytest

from minigan import backends

BACKENDS = ["numpy", "numba", "emulation", pytest.param("cupy", marks=pytest.mark.gpu)]


@pytest.fixture(scope="session")
def emulated():
    """(the GPU backend over the stand-in, the stand-in)."""
    import cuda_emulation

    if not cuda_emulation.available:
        pytest.skip(cuda_emulation.MISSING)
    import cupy_standin

    return cupy_standin.load_backend(), cupy_standin


@pytest.fixture
def emulation(emulated, monkeypatch):
    """The GPU backend over the stand-in, in the place of the real one for as long as the test runs."""
    monkeypatch.setitem(sys.modules, "minigan.backends.cupy_backend", emulated[0])
    return backends.load("cupy")


@pytest.fixture(params=BACKENDS)
def backend(request):
    """A backend module: numpy, and the others that run here. On one thread: these arrays are small."""
    if request.param == "emulation":
        yield request.getfixturevalue("emulation")
        return
    try:
        backend = backends.load(request.param)
    except backends.BackendUnavailable as cause:
        pytest.skip(str(cause))
    backend.set_threads(1)
    yield backend
    backend.set_threads(None)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20140610)


@pytest.fixture(scope="session")
def outcomes():
    """Every planted mistake tried once, for all tests that ask what became of it."""
    from minigan import planted

    return {outcome.mistake: outcome for outcome in planted.attempt_all()}
