"""Backends, which run the arithmetic: `load("numpy" | "numba" | "cupy" | "auto")` returns one.

`contract.py` lists every operation. `numpy_backend.py` is the reference and reads like
the equations. `numba/` and `cupy/` implement the same operations for CPU and GPU.

Importing a backend's package changes nothing in the process. `load` calls its
`start(**settings)`, which sets up the process and returns the backend.
"""

import contextlib
import importlib
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minigan.backends import contract
from minigan.backends.contract import (
    GOLDEN,
    AdamStep,
    Array,
    Backend,
    BackendUnavailable,
    Finding,
    Normalisation,
    Pad,
    RecurrentGradients,
    RecurrentWeights,
    Shape,
    conv_size,
    cores,
    mix64,
    pads,
    put_in_force,
)
from minigan.errors import UserError

__all__ = [
    "GOLDEN",
    "NAMES",
    "AdamStep",
    "Array",
    "Backend",
    "BackendUnavailable",
    "Finding",
    "Normalisation",
    "Pad",
    "RecurrentGradients",
    "RecurrentWeights",
    "Shape",
    "available",
    "borrowed",
    "choose",
    "conv_size",
    "cores",
    "load",
    "mix64",
    "of",
    "pads",
    "put_in_force",
    "reference",
    "status",
]

MODULES = {"numpy": "numpy_backend", "numba": "numba", "cupy": "cupy"}  # each has `start(**settings)`
NAMES = tuple(MODULES)
SETTINGS = ("threads", "device", "tf32", "memory")  # a backend ignores those that its `start` does not take

_loaded: dict[tuple, Backend] = {}


def load(name: str = "auto", **settings: Any) -> Backend:
    """Return the backend called `name`.

    "auto" selects the GPU if a test computation on it succeeds, else Numba, else NumPy.
    `settings` are `threads`, the number of CPU threads (None: one per core), and the GPU
    settings `device`, `tf32` and `memory` (see `backends.cupy.start`). The same name and
    settings return the same object.

    Raises BackendUnavailable, with the cause and the fix, if the backend does not run on
    this machine, and UserError for an unknown name.
    """
    if unknown := settings.keys() - set(SETTINGS):
        raise TypeError(f"unknown backend setting {min(unknown)!r}: choose from {', '.join(SETTINGS)}")
    if name == "auto":
        return choose(**settings)[0]
    if name not in NAMES:
        raise UserError(f"unknown backend {name!r}: choose auto, {', '.join(NAMES)}")
    try:
        start = importlib.import_module(f"minigan.backends.{MODULES[name]}").start
        own = {key: parameter.default for key, parameter in inspect.signature(start).parameters.items()}
        own |= {key: value for key, value in settings.items() if key in own and value is not None}
        key = (name, *sorted(own.items()))
        with contract.ALONE:  # two threads may load a backend at once, and `start` sets up the process
            if key not in _loaded:
                _loaded[key] = start(**own)
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name and "." not in error.name:
            package = "'minigan[cuda13]'" if error.name == "cupy" else error.name
            raise BackendUnavailable(
                f"the {name} backend needs the package {error.name}: pip install {package}"
            ) from error
        # installed but broken: a part of it is missing, or it refuses this NumPy
        package = "'minigan[cuda13]'" if name == "cupy" else name
        raise BackendUnavailable(
            f"the {name} backend does not import ({_first_line(error)}): pip install --upgrade {package} numpy"
        ) from error
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # whatever a package, its compiler or its drivers do where they do not fit
        cause = f"{type(error).__name__}: {_first_line(error)}"
        raise BackendUnavailable(
            f"the {name} backend does not start here ({cause}): see `minigan doctor`, or use the numpy backend"
        ) from error
    return _loaded[key]


def _first_line(error: BaseException) -> str:
    """Return the first line of an error message that says something."""
    return next((line.strip("= .:") for line in str(error).splitlines() if line.strip("= .:")), "no cause given")


def forget(name: str) -> None:
    """Forget the backends of this name that were loaded, so that the next `load` starts them again."""
    contract.forget_active()
    for key in [key for key in _loaded if key[0] == name]:
        del _loaded[key]


def reload(name: str, settings: dict) -> Backend:
    """Return the backend that was pickled with this name and these settings."""
    return load(name, **settings) if settings else reference()


def reference() -> Backend:
    """Return the NumPy backend that leaves the number of BLAS threads unchanged. Layers are created on it."""
    key = ("numpy", "reference")
    if key not in _loaded:
        from minigan.backends.numpy_backend import NumpyBackend

        _loaded[key] = NumpyBackend()
    return _loaded[key]


def of(x: Any) -> Backend:
    """Return the backend of the array x: for a GPU array the GPU backend that was loaded last, else the reference."""
    if not isinstance(x, np.ndarray | np.generic):
        for backend in reversed(_loaded.values()):
            if isinstance(x, backend.xp.ndarray):
                return backend
    return reference()


_borrowers, _borrowing = 0, threading.Lock()
_give_back: list[Callable[[], object]] = []


@contextlib.contextmanager
def borrowed() -> Iterator[None]:
    """Restore the numbers of threads of BLAS and Numba at the end.

    Backends change them for the whole process. If several threads of the process are in such a
    context, the last one restores what the first one found.
    """
    global _borrowers
    from minigan.backends.numpy_backend import restorers

    with _borrowing:
        if not _borrowers:
            _give_back[:] = restorers()
        _borrowers += 1
    try:
        yield
    finally:
        with _borrowing:
            _borrowers -= 1
            if not _borrowers:
                contract.forget_active()
                for give_back in _give_back:
                    give_back()


def choose(**settings: Any) -> tuple[Backend, str]:
    """Return the fastest backend that runs on this machine, and a line with its name and why faster ones do not run."""
    skipped = []
    for name in ("cupy", "numba", "numpy"):
        try:
            backend = load(name, **settings)
        except BackendUnavailable as cause:
            skipped.append(f"{name}: {cause}")
        else:
            why = f" ({'; '.join(skipped)})" if skipped else ""
            return backend, f"backend {name}{why}"
    raise AssertionError("the numpy backend always runs")


def available() -> list[str]:
    """Return the names of the backends that run on this machine, with the reference first."""
    return [name for name, cause in status().items() if cause is None]


def status() -> dict[str, str | None]:
    """Return None for each backend that runs on this machine, else a sentence with the cause and the fix."""
    result: dict[str, str | None] = {}
    for name in NAMES:
        try:
            load(name)
            result[name] = None
        except BackendUnavailable as cause:
            result[name] = str(cause)
    return result
