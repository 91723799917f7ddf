"""Run CUDA kernels on the CPU: build kernels.cu with g++ and cuda_cpu.h, and run its kernels on NumPy arrays.

    kernels = Kernels(SOURCE)                                       # float; Kernels(SOURCE, "double")
    kernels["leaky_relu"]((grid,), (block,), (x, y, np.float32(0.2), np.int32(n)))

Every argument must have exactly the type of its parameter. Each array is copied between two margins of NaN. A read out
of bounds gives NaN in the results, and a write out of bounds raises Fault.
"""

import ctypes
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
SOURCE = (HERE.parent / "minigan" / "backends" / "cupy" / "kernels.cu").read_text(encoding="utf-8")
SANITIZERS = ("-g", "-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
ORDERS = {"forward": 0, "reverse": 1, "shuffled": 2}
MARGIN = 1024  # bytes
LETTERS = {"f4": "f", "f8": "d", "i4": "i", "i8": "l", "u8": "l", "u1": "b"}
BLOCK_LIMITS, GRID_LIMITS = (1024, 1024, 64), (2**31 - 1, 65535, 65535)

available = platform.machine() == "x86_64" and sys.platform == "linux" and shutil.which("g++") is not None
MISSING = "the CUDA emulation needs g++ on x86-64 Linux: apt install g++"


class Fault(RuntimeError):
    """Raised if a kernel does something that is an error on a GPU."""


def functions(source: str) -> dict[str, str]:
    """Return the text of each kernel and device function by name."""
    pieces = re.split(r'(?=^(?:extern "C" __global__|__device__) )', source, flags=re.M)[1:]
    return {re.match(r"[^(]*?(\w+)\(", piece)[1]: piece for piece in pieces}


def waiting(source: str) -> set[str]:
    """Return the names of the functions that wait for other threads, directly or in functions that they call."""
    texts = functions(source)
    found = {name for name, text in texts.items() if re.search(r"__syncthreads|_sync\(", text)}
    while more := {n for n, text in texts.items() if n not in found and any(f"{f}(" in text for f in found)}:
        found |= more
    return found


class Kernels(dict):
    """The kernels of a source by name. They are called like CuPy's: kernel(grid, block, arguments)."""

    def __init__(self, source: str = SOURCE, real: str = "float", flags: tuple[str, ...] = ("-O2",)):
        """Build and load the kernels."""
        kernels = re.findall(r'extern "C" __global__ void (\w+)\(', source)
        library, fibers = ctypes.CDLL(str(build(source, real, flags))), waiting(source)
        super().__init__({name: Kernel(library, name, name in fibers) for name in kernels})


@functools.cache
def build(source: str, real: str, flags: tuple[str, ...]) -> Path:
    """Build the shared library. It is stored in __pycache__ and reused for the same source and flags."""
    entries = "".join(
        f"""
extern "C" const char* launch_{name}(const unsigned* grid, const unsigned* block, void** arguments, int fibers,
                                     int order, uint64_t seed) {{
    return emulation::launch({name}, grid, block, arguments, fibers, order, seed);
}}
extern "C" void signature_{name}(char* out) {{ emulation::signature({name}, out); }}"""
        for name in re.findall(r'extern "C" __global__ void (\w+)\(', source)
    )
    header = (HERE / "cuda_cpu.h").read_text(encoding="utf-8")
    text = f'{header}\n#line 1 "kernels.cu"\n{source}\n{entries}\n'.replace("#pragma once", "")
    command = f"g++ -std=c++17 -fPIC -shared -U_FORTIFY_SOURCE -DREAL={real} {' '.join(flags)} -x c++ -".split()
    tag = hashlib.sha256("\0".join([text, *command]).encode()).hexdigest()[:20]
    library = HERE / "__pycache__" / f"kernels-{tag}.so"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        temporary = library.with_suffix(f".{os.getpid()}")
        subprocess.run([*command, "-o", str(temporary)], input=text, text=True, check=True)
        temporary.replace(library)
    return library


class Kernel:
    """One kernel. `order` and `seed` are the order of the threads of a block in all following launches."""

    order, seed = "forward", 1

    def __init__(self, library, name: str, fibers: bool):
        """Find the kernel in the library. `fibers` says whether its threads wait for each other."""
        letters = ctypes.create_string_buffer(64)
        getattr(library, f"signature_{name}")(letters)
        self.name, self.fibers, self.signature = name, fibers, letters.value.decode()
        self._launch = getattr(library, f"launch_{name}")
        self._launch.restype = ctypes.c_char_p
        self._launch.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int, ctypes.c_int, ctypes.c_uint64]

    def __call__(self, grid: tuple, block: tuple, arguments: tuple) -> None:
        """Launch the kernel. Raises Fault for an invalid launch and for an error in the kernel."""
        grid, block = (tuple(map(int, sizes)) + (1,) * (3 - len(sizes)) for sizes in (grid, block))
        for sizes, limits in ((grid, GRID_LIMITS), (block, BLOCK_LIMITS)):
            if not all(0 < n <= limit for n, limit in zip(sizes, limits, strict=True)):
                raise Fault(f"{self.name}: grid {grid} or block {block} is beyond the limits of a GPU")
        if block[0] * block[1] * block[2] > 1024:
            raise Fault(f"{self.name}: more than 1024 threads in block {block}")
        if "".join(map(letter, arguments)) != self.signature:
            raise Fault(f"{self.name}({self.signature}) launched with ({''.join(map(letter, arguments))})")
        copies = [Guarded(a) if isinstance(a, np.ndarray) else np.array(a) for a in arguments]
        addresses = [ctypes.c_void_p(copy.address if isinstance(copy, Guarded) else 0) for copy in copies]
        pointers = (ctypes.c_void_p * len(copies))(
            *(
                ctypes.addressof(address) if isinstance(copy, Guarded) else copy.ctypes.data
                for copy, address in zip(copies, addresses, strict=True)
            )
        )
        sizes = [(ctypes.c_uint * 3)(*three) for three in (grid, block)]
        fault = self._launch(*sizes, pointers, self.fibers, ORDERS[self.order], self.seed)
        if fault:
            raise Fault(f"{self.name}: {fault.decode()}")
        for copy in copies:
            if isinstance(copy, Guarded) and not copy.copy_back():
                raise Fault(f"{self.name}: wrote out of the bounds of an array {copy.array.shape}")


def letter(argument) -> str:
    """Return the letter of the type of an argument: see `signature` in cuda_cpu.h.

    CuPy passes a Python number as 8 bytes.
    """
    if isinstance(argument, np.ndarray | np.generic):
        kind = LETTERS.get(argument.dtype.str[1:], "?")
        return kind.upper() if isinstance(argument, np.ndarray) else kind
    return {int: "l", float: "d"}.get(type(argument), "?")


class Guarded:
    """A copy of an array between two margins, which is used while a kernel runs."""

    def __init__(self, array: np.ndarray):
        """Copy the array."""
        assert array.flags.c_contiguous, "a kernel ignores the strides of an array"
        self.array = array
        self.memory = np.full(array.nbytes + 2 * MARGIN, 0xFF, np.uint8)
        self.inside = self.memory[MARGIN : MARGIN + array.nbytes]
        self.inside[:] = np.frombuffer(array, np.uint8) if array.nbytes else 0
        self.address = self.memory.ctypes.data + MARGIN

    def copy_back(self) -> bool:
        """Copy the results back to the array. Return whether the margins are unchanged."""
        if self.array.flags.writeable and self.array.nbytes:
            np.frombuffer(self.array, np.uint8)[:] = self.inside
        return (self.memory[:MARGIN] == 0xFF).all() and (self.memory[MARGIN + self.array.nbytes :] == 0xFF).all()
