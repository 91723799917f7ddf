"""The GPU backend. `start` loads it; importing this package imports neither CuPy nor a kernel."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minigan.backends.cupy.backend import CupyBackend


def start(device: int = 0, tf32: bool = False, memory: float = 0.0) -> "CupyBackend":
    """The backend on the GPU of this number, after a small computation on it to see that everything is there.

    `tf32` lets matrix products round their float32 inputs to 10 bits, which is several times
    faster on tensor cores. `memory` limits, in GiB, how much of the GPU's memory is kept; 0
    is no limit. Raises BackendUnavailable with the cause and the fix.
    """
    return importlib.import_module("minigan.backends.cupy.backend").CupyBackend(device, tf32, memory)
