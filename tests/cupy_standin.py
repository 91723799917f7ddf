"""A stand-in for the module cupy on a machine without a GPU.

Its arrays live in host memory but are a type of their own, so that what mixes host and device fails here as it would
there. Raw kernels are the real source, run by cuda_emulation; everything else is NumPy's arithmetic under CuPy's name.
Where CuPy is installed, no name passes that it does not have, and no call that its signature does not take. `counts`
tells what a GPU would have been asked for. This proves glue and arithmetic, nothing about a driver, cuBLAS or speed.
"""

import collections
import contextlib
import importlib.util
import inspect
import sys
import types

import numpy as np
from cuda_emulation import Kernels

try:
    import cupy as installed  # looked at, never run: it imports without a driver
except ImportError:
    installed = None

counts = collections.Counter()  # launches, operations, synchronisations, bytes_in, bytes_out
driver = {"devices": 1, "version": 13020, "fails": {}}  # what the machine has; `fails`: an error by what is tried
PLAIN = (bool, int, float, complex, np.generic, str, type(None), type, np.dtype, slice, type(Ellipsis))
BINARY = "add sub mul truediv floordiv mod pow matmul and or xor".split()


def host(value):
    """The NumPy arrays inside of what goes into a call. Raises TypeError for an array of the host, as CuPy does."""
    if isinstance(value, ndarray):
        return value.memory
    if isinstance(value, tuple | list):
        return type(value)(map(host, value))
    if isinstance(value, dict):
        return {name: host(v) for name, v in value.items()}
    if isinstance(value, PLAIN):
        return value
    raise TypeError(f"Unsupported type {type(value)}")


def operate(function, *arguments, of=None, **named):
    """One operation on the device. A result that is a view `of` an array, or of the first argument, costs nothing."""
    with np.errstate(all="ignore"):  # a GPU raises no floating point warnings
        result = function(*host(arguments), **host(named))
    if of is None:
        of = next((a for a in arguments if isinstance(a, ndarray)), None)
    if of is not None and isinstance(result, np.ndarray) and np.may_share_memory(result, of.memory):
        return ndarray(result, of if of.base is None else of.base)
    counts["operations"] += 1
    return type(result)(map(ndarray, result)) if isinstance(result, tuple | list) else ndarray(result)


def fetch(array) -> np.ndarray:
    """What waits for the device: a copy to the host."""
    counts["synchronisations"] += 1
    counts["bytes_out"] += array.nbytes
    return array.memory


class ndarray:
    """An array "on the device": `memory` holds it."""

    __module__ = "cupy"
    __slots__ = ("__weakref__", "base", "memory")
    __hash__ = None
    __array_priority__ = 100

    def __init__(self, memory, base=None):
        self.memory, self.base = np.asarray(memory), base

    T = property(lambda self: ndarray(self.memory.T, self if self.base is None else self.base))
    real = property(lambda self: self if self.dtype.kind != "c" else ndarray(self.memory.real))

    def __getattr__(self, name):
        if name in ("shape", "dtype", "ndim", "size", "nbytes", "itemsize", "strides", "flags"):
            return getattr(self.memory, name)
        if name.startswith("_") or not hasattr(installed.ndarray if installed else np.ndarray, name):
            raise AttributeError(f"'cupy.ndarray' object has no attribute {name!r}")
        return lambda *arguments, **named: operate(getattr(self.memory, name), *arguments, of=self, **named)

    def get(self):
        return fetch(self).copy()

    def item(self):
        return fetch(self).item()

    def tolist(self):
        return fetch(self).tolist()

    def __deepcopy__(self, memo):
        return self.copy()

    def __array__(self, *_, **__):
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __array_ufunc__(self, ufunc, method, *arguments, **named):
        return operate(getattr(ufunc, method), *arguments, **named)

    def __len__(self):
        return len(self.memory)

    def __iter__(self):
        return (ndarray(row) for row in self.memory)

    def __getitem__(self, key):
        return operate(self.memory.__getitem__, key, of=self)

    def __setitem__(self, key, value):
        counts["operations"] += 1
        self.memory[host(key)] = host(value)


def _operator(name: str):
    def method(self, *others):
        return operate(getattr(self.memory, name), *others)

    return method


def _in_place(name: str):
    def method(self, other):
        counts["operations"] += 1
        with np.errstate(all="ignore"):
            getattr(self.memory, name)(host(other))
        return self

    return method


def _conversion(kind: type):
    return lambda self: kind(fetch(self))


for _name in BINARY:
    for _prefix in ("", "r"):
        setattr(ndarray, f"__{_prefix}{_name}__", _operator(f"__{_prefix}{_name}__"))
    setattr(ndarray, f"__i{_name}__", _in_place(f"__i{_name}__"))
for _name in "neg pos abs invert eq ne lt le gt ge".split():
    setattr(ndarray, f"__{_name}__", _operator(f"__{_name}__"))
for _kind in (bool, int, float, complex):
    setattr(ndarray, f"__{_kind.__name__}__", _conversion(_kind))
ndarray.__repr__ = lambda self: repr(fetch(self))
ndarray.__index__ = ndarray.__int__


def asarray(a, dtype=None, order=None, *, copy=None, blocking=False):
    if isinstance(a, ndarray):
        return a if dtype in (None, a.dtype) else a.astype(dtype)
    memory = np.array(a, dtype=dtype)
    counts["bytes_in"] += memory.nbytes
    return ndarray(memory)


def asnumpy(a, stream=None, order="C", out=None, *, blocking=True):
    return a.get() if isinstance(a, ndarray) else np.asarray(a)


def empty(shape, dtype=float, order="C"):
    """All NaN: what was not written shows. Raises the error planted for memory."""
    planted("memory")
    a = np.empty(shape, dtype)
    np.frombuffer(a, np.uint8)[:] = 255 if a.size else 0
    return ndarray(a)


def ascontiguousarray(a, dtype=None):
    return a if a.flags.c_contiguous else operate(np.ascontiguousarray, a)


def concatenate(tup, axis=0, out=None, *, dtype=None, casting="same_kind"):
    """Up to eight arrays are as many copies; more are one, by a table of addresses that comes from the host."""
    result = operate(np.concatenate, list(tup), axis)
    if len(tup) <= 8:
        counts["operations"] += len(tup) - 1
    else:
        counts["bytes_in"] += 8 * len(tup)
    return result


def stack(tup, axis=0, out=None, *, dtype=None, casting="same_kind"):
    return concatenate([ndarray(np.expand_dims(a.memory, axis)) for a in tup], axis)


def matmul(a, b):
    planted("cublas")
    return operate(np.matmul, a, b)


ndarray.__matmul__ = matmul


def planted(what: str) -> None:
    """Raises the error that a test planted for this part of the machine."""
    if what in driver["fails"]:
        raise driver["fails"][what]


class RawModule:
    """The real source, compiled for the CPU."""

    def __init__(self, *, code, options=()):
        planted("nvrtc")
        real = next(o for o in options if o.startswith("-DREAL=")).removeprefix("-DREAL=")
        self.kernels = Kernels(code, real)

    def get_function(self, name):
        return RawKernel(self.kernels[name])


class RawKernel:
    def __init__(self, kernel):
        self.kernel = kernel

    def __call__(self, grid, block, args):
        if any(isinstance(a, np.ndarray) for a in args):
            raise TypeError("Unsupported type <class 'numpy.ndarray'>")
        counts["launches"] += 1
        self.kernel(grid, block, tuple(host(a) for a in args))


class CUDARuntimeError(RuntimeError):
    pass


class _Device:
    def __init__(self, device=None):
        self.id = device

    def use(self):
        driver["used"] = self.id


class _Stream:
    def synchronize(self):
        counts["synchronisations"] += 1


def _device_count():
    planted("driver")
    return driver["devices"]


cuda = types.SimpleNamespace(
    Device=_Device,
    get_current_stream=_Stream,
    runtime=types.SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError,
        getDeviceCount=_device_count,
        driverGetVersion=lambda: driver["version"],
        runtimeGetVersion=lambda: 13020,
        getDeviceProperties=lambda device: {"name": b"a stand-in", "totalGlobalMem": 2**31, "major": 9, "minor": 0},
    ),
)
_core = types.SimpleNamespace(
    _routines_linalg=types.SimpleNamespace(COMPUTE_TYPE_DEFAULT=1, COMPUTE_TYPE_TF32=7),
    set_compute_type=lambda dtype, kind: driver.__setitem__("compute_type", kind),
)


def get_default_memory_pool():
    return types.SimpleNamespace(set_limit=lambda size: driver.__setitem__("limit", size))


def __getattr__(name):
    """Any other name of CuPy: its signature, NumPy's arithmetic."""
    if name.startswith("_") or not hasattr(installed or np, name):
        raise AttributeError(f"module 'cupy' has no attribute {name!r}")
    numpys = getattr(np, name)
    if isinstance(numpys, type) or not callable(numpys):
        return numpys  # dtypes and constants

    def function(*arguments, **named):
        if installed:
            with contextlib.suppress(ValueError):  # no signature: a ufunc
                inspect.signature(getattr(installed, name)).bind(*arguments, **named)
        return operate(numpys, *arguments, **named)

    return function


def load_backend(change=lambda source: source) -> types.ModuleType:
    """cupy/backend.py anew, its source changed, as a module of its own over this stand-in. What sys.modules holds stays
    as it is."""
    name = "minigan.backends.cupy.backend"
    spec = importlib.util.find_spec(name)
    backend, before = importlib.util.module_from_spec(spec), sys.modules.get("cupy")
    source = change(spec.loader.get_source(name))
    sys.modules["cupy"] = sys.modules[__name__]
    try:
        exec(compile(source, spec.origin, "exec"), backend.__dict__)
    finally:
        del sys.modules["cupy"]
        if before is not None:
            sys.modules["cupy"] = before
    return backend
