"""A stand-in for the module cupy on a machine without a GPU.

Its arrays are in host memory but have a separate type, so that mixing host and device arrays is an error, as on a GPU.
Raw kernels are the real source, which cuda_emulation runs. All other functions call NumPy. If CuPy is installed, names
that it does not have and calls that do not fit its signatures raise an error. `counts` counts the work of a GPU. This
tests the Python code and the arithmetic, but not the driver, cuBLAS or speed.
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
    import cupy as installed  # only for its names and signatures; the import needs no driver
except ImportError:
    installed = None

counts = collections.Counter()  # launches, operations, synchronisations, bytes_in, bytes_out
driver = {"devices": 1, "version": 13020, "fails": {}}  # the machine; `fails`: the error that each part raises
PLAIN = (bool, int, float, complex, np.generic, str, type(None), type, np.dtype, slice, type(Ellipsis))
BINARY = "add sub mul truediv floordiv mod pow matmul and or xor".split()


def host(value):
    """Return the value with each array of the stand-in replaced by its memory. Raises TypeError for host arrays."""
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
    """Do one operation on the device. A view `of` an array, or of the first array argument, is not counted."""
    with np.errstate(all="ignore"):  # a GPU raises no floating point warnings
        result = function(*host(arguments), **host(named))
    if of is None:
        of = next((a for a in arguments if isinstance(a, ndarray)), None)
    if of is not None and isinstance(result, np.ndarray) and np.may_share_memory(result, of.memory):
        return ndarray(result, of if of.base is None else of.base)
    counts["operations"] += 1
    return type(result)(map(ndarray, result)) if isinstance(result, tuple | list) else ndarray(result)


def copy_to_host(array) -> np.ndarray:
    """Count a copy to the host, which waits for the device, and return the memory of the array."""
    counts["synchronisations"] += 1
    counts["bytes_out"] += array.nbytes
    return array.memory


class ndarray:
    """An array "on the device", which is stored in `memory`."""

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
        return copy_to_host(self).copy()

    def item(self):
        return copy_to_host(self).item()

    def tolist(self):
        return copy_to_host(self).tolist()

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
    return lambda self: kind(copy_to_host(self))


for _name in BINARY:
    for _prefix in ("", "r"):
        setattr(ndarray, f"__{_prefix}{_name}__", _operator(f"__{_prefix}{_name}__"))
    setattr(ndarray, f"__i{_name}__", _in_place(f"__i{_name}__"))
for _name in "neg pos abs invert eq ne lt le gt ge".split():
    setattr(ndarray, f"__{_name}__", _operator(f"__{_name}__"))
for _kind in (bool, int, float, complex):
    setattr(ndarray, f"__{_kind.__name__}__", _conversion(_kind))
ndarray.__repr__ = lambda self: repr(copy_to_host(self))
ndarray.__index__ = ndarray.__int__


def asarray(a, dtype=None, order=None, *, copy=None, blocking=False):
    """Copy an array or a number to the device."""
    if isinstance(a, ndarray):
        return a if dtype in (None, a.dtype) else a.astype(dtype)
    memory = np.array(a, dtype=dtype)
    counts["bytes_in"] += memory.nbytes
    return ndarray(memory)


def asnumpy(a, stream=None, order="C", out=None, *, blocking=True):
    """Copy an array to the host."""
    return a.get() if isinstance(a, ndarray) else np.asarray(a)


def empty(shape, dtype=float, order="C"):
    """Allocate an array filled with NaN, so that missing writes are noticed. Raises the error planted for memory."""
    planted("memory")
    a = np.empty(shape, dtype)
    np.frombuffer(a, np.uint8)[:] = 255 if a.size else 0
    return ndarray(a)


def ascontiguousarray(a, dtype=None):
    """Return the array in C order."""
    return a if a.flags.c_contiguous else operate(np.ascontiguousarray, a)


def concatenate(tup, axis=0, out=None, *, dtype=None, casting="same_kind"):
    """Count one copy per array for up to eight arrays, else one operation and a table of addresses from the host."""
    result = operate(np.concatenate, list(tup), axis)
    if len(tup) <= 8:
        counts["operations"] += len(tup) - 1
    else:
        counts["bytes_in"] += 8 * len(tup)
    return result


def stack(tup, axis=0, out=None, *, dtype=None, casting="same_kind"):
    """Join the arrays along a new axis."""
    return concatenate([ndarray(np.expand_dims(a.memory, axis)) for a in tup], axis)


def matmul(a, b):
    """Multiply matrices. Raises the error planted for cuBLAS."""
    planted("cublas")
    return operate(np.matmul, a, b)


ndarray.__matmul__ = matmul


def planted(what: str) -> None:
    """Raise the error that a test planted for this part of the machine."""
    if what in driver["fails"]:
        raise driver["fails"][what]


class RawModule:
    """The real source, compiled for the CPU."""

    def __init__(self, *, code, options=()):
        """Compile the source. Raises the error planted for NVRTC."""
        planted("nvrtc")
        real = next(o for o in options if o.startswith("-DREAL=")).removeprefix("-DREAL=")
        self.kernels = Kernels(code, real)

    def get_function(self, name):
        """Return a kernel by name."""
        return RawKernel(self.kernels[name])


class RawKernel:
    """A kernel that runs on the CPU."""

    def __init__(self, kernel):
        self.kernel = kernel

    def __call__(self, grid, block, args):
        """Run the kernel and count a launch. Raises TypeError for host arrays."""
        if any(isinstance(a, np.ndarray) for a in args):
            raise TypeError("Unsupported type <class 'numpy.ndarray'>")
        counts["launches"] += 1
        self.kernel(grid, block, tuple(host(a) for a in args))


class CUDARuntimeError(RuntimeError):
    """An error of the CUDA runtime."""


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
    """Return a pool that stores its limit in `driver`."""
    return types.SimpleNamespace(set_limit=lambda size: driver.__setitem__("limit", size))


def __getattr__(name):
    """Return any other function of CuPy, which checks its signature and calls NumPy."""
    if name.startswith("_") or not hasattr(installed or np, name):
        raise AttributeError(f"module 'cupy' has no attribute {name!r}")
    numpys = getattr(np, name)
    if isinstance(numpys, type) or not callable(numpys):
        return numpys  # dtypes and constants

    def function(*arguments, **named):
        if installed:
            with contextlib.suppress(ValueError):  # a ufunc has no signature
                inspect.signature(getattr(installed, name)).bind(*arguments, **named)
        return operate(numpys, *arguments, **named)

    return function


def load_backend(change=lambda source: source) -> types.ModuleType:
    """Load cupy/backend.py as a new module that uses this stand-in, with `change` applied to its source.

    sys.modules stays the same.
    """
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
