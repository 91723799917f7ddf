"""CUDA kernels on the CPU: builds kernels.cu with g++ and cuda_cpu.h, and runs its kernels on NumPy arrays.

    kernels = Kernels(SOURCE)                                       # float; Kernels(SOURCE, "double")
    kernels["leaky_relu"]((grid,), (block,), (x, y, np.float32(0.2), np.int32(n)))

Every argument must have the very type of its parameter. Each array is copied between two margins of NaN: what is read
out of bounds shows in the results, what is written there is a fault.
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
    """A kernel that did what no kernel may do."""


def functions(source: str) -> dict[str, str]:
    """The text of each kernel and device function, by name."""
    pieces = re.split(r'(?=^(?:extern "C" __global__|__device__) )', source, flags=re.M)[1:]
    return {re.match(r"[^(]*?(\w+)\(", piece)[1]: piece for piece in pieces}


def waiting(source: str) -> set[str]:
    """The names of the functions in which threads wait for each other, here or in what they call."""
    texts = functions(source)
    found = {name for name, text in texts.items() if re.search(r"__syncthreads|_sync\(", text)}
    while more := {n for n, text in texts.items() if n not in found and any(f"{f}(" in text for f in found)}:
        found |= more
    return found


class Kernels(dict):
    """The kernels of a source by name, each callable as CuPy's are: kernel(grid, block, arguments)."""

    def __init__(self, source: str = SOURCE, real: str = "float", flags: tuple[str, ...] = ("-O2",)):
        kernels = re.findall(r'extern "C" __global__ void (\w+)\(', source)
        library, fibers = ctypes.CDLL(str(build(source, real, flags))), waiting(source)
        super().__init__({name: Kernel(library, name, name in fibers) for name in kernels})


@functools.cache
def build(source: str, real: str, flags: tuple[str, ...]) -> Path:
    """The shared library, made once for each source and flags and kept with what Python compiles."""
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
        beside = library.with_suffix(f".{os.getpid()}")
        subprocess.run([*command, "-o", str(beside)], input=text, text=True, check=True)
        beside.replace(library)
    return library


class Kernel:
    """One kernel. `order` and `seed` say how the threads of a block take turns, for every launch that follows."""

    order, seed = "forward", 1

    def __init__(self, library, name: str, fibers: bool):
        letters = ctypes.create_string_buffer(64)
        getattr(library, f"signature_{name}")(letters)
        self.name, self.fibers, self.signature = name, fibers, letters.value.decode()
        self._launch = getattr(library, f"launch_{name}")
        self._launch.restype = ctypes.c_char_p
        self._launch.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int, ctypes.c_int, ctypes.c_uint64]

    def __call__(self, grid: tuple, block: tuple, arguments: tuple) -> None:
        grid, block = (tuple(map(int, sizes)) + (1,) * (3 - len(sizes)) for sizes in (grid, block))
        for sizes, limits in ((grid, GRID_LIMITS), (block, BLOCK_LIMITS)):
            if not all(0 < n <= limit for n, limit in zip(sizes, limits, strict=True)):
                raise Fault(f"{self.name}: no GPU launches grid {grid}, block {block}")
        if block[0] * block[1] * block[2] > 1024:
            raise Fault(f"{self.name}: more than 1024 threads in block {block}")
        if "".join(map(letter, arguments)) != self.signature:
            raise Fault(f"{self.name}({self.signature}) launched with ({''.join(map(letter, arguments))})")
        rooms = [Room(a) if isinstance(a, np.ndarray) else np.array(a) for a in arguments]
        places = [ctypes.c_void_p(room.address if isinstance(room, Room) else 0) for room in rooms]
        pointers = (ctypes.c_void_p * len(rooms))(
            *(
                ctypes.addressof(place) if isinstance(room, Room) else room.ctypes.data
                for room, place in zip(rooms, places, strict=True)
            )
        )
        sizes = [(ctypes.c_uint * 3)(*three) for three in (grid, block)]
        fault = self._launch(*sizes, pointers, self.fibers, ORDERS[self.order], self.seed)
        if fault:
            raise Fault(f"{self.name}: {fault.decode()}")
        for room in rooms:
            if isinstance(room, Room) and not room.leave():
                raise Fault(f"{self.name}: wrote out of the bounds of an array {room.array.shape}")


def letter(argument) -> str:
    """How an argument goes to a kernel: see `signature` in cuda_cpu.h. A plain Python number is what CuPy makes of it,
    8 bytes."""
    if isinstance(argument, np.ndarray | np.generic):
        kind = LETTERS.get(argument.dtype.str[1:], "?")
        return kind.upper() if isinstance(argument, np.ndarray) else kind
    return {int: "l", float: "d"}.get(type(argument), "?")


class Room:
    """An array's place while a kernel runs: a copy between two margins, in memory of its own."""

    def __init__(self, array: np.ndarray):
        assert array.flags.c_contiguous, "a kernel reads what lies at the address, whatever the strides"
        self.array = array
        self.memory = np.full(array.nbytes + 2 * MARGIN, 0xFF, np.uint8)
        self.inside = self.memory[MARGIN : MARGIN + array.nbytes]
        self.inside[:] = np.frombuffer(array, np.uint8) if array.nbytes else 0
        self.address = self.memory.ctypes.data + MARGIN

    def leave(self) -> bool:
        """Copies back; whether the margins are as they were."""
        if self.array.flags.writeable and self.array.nbytes:
            np.frombuffer(self.array, np.uint8)[:] = self.inside
        return (self.memory[:MARGIN] == 0xFF).all() and (self.memory[MARGIN + self.array.nbytes :] == 0xFF).all()
