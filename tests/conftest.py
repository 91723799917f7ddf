"""What all tests share: each test that takes `backend` runs on every backend of this machine."""

import numpy as np
import pytest

from minigan import backends


@pytest.fixture(params=backends.available())
def backend(request):
    """A backend module: numpy, and the others that run here. On one thread: these arrays are small."""
    backend = backends.load(request.param)
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
