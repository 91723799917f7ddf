"""The GPU backend. `start` loads it. Importing this package imports neither CuPy nor any kernel."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minigan.backends.cupy.backend import CupyBackend


def start(device: int = 0, tf32: bool = False, memory: float = 0.0) -> "CupyBackend":
    """Return the backend on the GPU with the number `device`, after a small test computation.

    `tf32` allows matrix products to round their float32 inputs to 10 bits, which is several
    times faster on tensor cores. `memory` is the limit of the memory pool in GiB; 0 means no
    limit. Raises BackendUnavailable, with the cause and the fix, if the test fails.
    """
    return importlib.import_module("minigan.backends.cupy.backend").CupyBackend(device, tf32, memory)
