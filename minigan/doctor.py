"""Describe this installation: versions, processor, threads, data, backends, and what to do about each problem.

No section can fail: an error becomes a line that names it. Numba is first tried in another process,
because damaged libraries can end the process that loads them.
"""

import importlib.metadata
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator

import numpy as np

from minigan import __version__, backends
from minigan.backends import Finding

TRIAL_SECONDS = 120
FEATURES = ("sse4.2", "avx", "avx2", "fma", "avx512f", "neon", "sve")  # of processors, those that kernels profit from
VARIABLES = ("NUMBA_", "OMP_", "GOMP_", "KMP_", "OPENBLAS_", "MKL_", "MPLBACKEND", "MPLCONFIGDIR", "CUDA_VISIBLE")


def report() -> str:
    """Return the state of this installation as text, one line each. The last line counts the problems."""
    lines, problems = [], 0
    with warnings.catch_warnings(record=True) as caught:  # repairs are findings here
        warnings.simplefilter("always")
        for section in (versions, processor, variables, data, plots, running):
            for topic, text, fix in guarded(section):
                lines.append(f"{topic:<8} {text}")
                if fix:
                    problems += 1
                    lines.append(f"{'':<8} -> {fix}")
    for warning in caught:
        problems += 1
        lines.append(
            f"{'repaired' if issubclass(warning.category, RuntimeWarning) else 'warning':<8} {warning.message}"
        )
    count = "no problem" if not problems else "one problem" if problems == 1 else f"{problems} problems"
    return "\n".join([*lines, f"{'summary':<8} {count} found"])


def guarded(section: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Yield what a section yields. An exception becomes a problem, and ends the section only."""
    try:
        yield from section()
    except Exception as error:  # whatever a damaged package raises
        text = " ".join(str(error).split())[:300]
        yield Finding(section.__name__, f"cannot be shown ({type(error).__name__}: {text})", "reinstall minigan")


def versions() -> Iterator[Finding]:
    """Yield the versions of minigan, Python and the packages that compute."""
    yield Finding("minigan", f"{__version__}, Python {platform.python_version()}, {platform.platform()}")
    distributions = importlib.metadata.packages_distributions()  # for CuPy, cupy-cuda13x or another name
    for package in ("numpy", "numba", "llvmlite", "cupy"):
        found = [f"{importlib.metadata.version(d)} ({d})" for d in dict.fromkeys(distributions.get(package, []))]
        yield Finding(package, ", ".join(found) or "not installed")


def processor() -> Iterator[Finding]:
    """Yield the processor, its cores, the units that kernels use, and the BLAS library."""
    yield Finding("cores", f"{backends.cores()} that this process may use, of {os.cpu_count()}")
    name, units = platform.processor() or platform.machine(), "unknown, because llvmlite is missing"
    try:
        import llvmlite.binding as llvm

        known = llvm.get_host_cpu_features()
        name = llvm.get_host_cpu_name()
        units = ", ".join(feature for feature in FEATURES if known.get(feature)) or "none of the usual ones"
    except Exception as error:  # llvmlite may be missing or broken; the backend numba then says so
        units = f"unknown ({type(error).__name__})"
    yield Finding("cpu", f"{name}; vector units: {units}")
    from minigan.backends.numpy_backend import blas

    for library in blas():
        yield Finding("blas", f"{library['internal_api']} {library['version']}, {library['num_threads']} threads")


def variables() -> Iterator[Finding]:
    """Yield the environment variables that change how the packages compute."""
    found = {name: value for name, value in sorted(os.environ.items()) if name.startswith(VARIABLES)}
    yield Finding("settings", " ".join(f"{name}={value!r}" for name, value in found.items()) or "no variables are set")


def data() -> Iterator[Finding]:
    """Yield the state of the embedded data."""
    from minigan import datasets

    try:
        yield Finding("data", f"{datasets.mnist('all').images.shape[0]:,} embedded MNIST images, whole")
    except datasets.DataError as error:
        yield Finding("data", f"the embedded MNIST images cannot be read: {error}", "reinstall minigan")


def plots() -> Iterator[Finding]:
    """Yield whether curves can be drawn."""
    from minigan.report import plots

    plots.curves({name: np.ones(3) for name in ("d_loss", "g_loss", "d_real", "d_fake")}, 1, (1.0, 1.0))
    yield Finding("plots", f"matplotlib {importlib.metadata.version('matplotlib')} draws")


def running() -> Iterator[Finding]:
    """Yield which backends run, the state of each, and which one `auto` takes."""
    crash = end_of_trial()
    if crash:
        yield Finding(
            "backend", f"numba  {crash}", "use --backend numpy, delete the folder of kernels, or reinstall numba"
        )
        yield Finding("auto", "is not tried here, for the same reason: give --backend numpy")
        return
    for name, cause in backends.status().items():
        if cause is None:
            yield Finding("backend", f"{name:<6} runs here")
            for topic, text, fix in backends.load(name).health():
                yield Finding("", f"{topic}: {text}", fix)
        else:
            missing = name == "cupy"  # an optional extra: its absence is no problem
            yield Finding(
                "backend", f"{name:<6} does not run here: {cause}", "" if missing else "the line above says what to do"
            )
    chosen, line = backends.choose()
    if chosen.name == "cupy" or backends.status()["cupy"] is None:
        yield Finding("gpu", backends.load("cupy").describe())
    yield Finding("auto", f"takes {line.removeprefix('backend ')}")


def end_of_trial() -> str | None:
    """Start Numba in another process. Returns how the process crashed, or None if it ended in a usual way."""
    code = "from minigan import backends; backends.status()"
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code], capture_output=True, timeout=TRIAL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"does not start within {TRIAL_SECONDS} s"
    except OSError:
        return None  # no other process can be started here
    return f"ends the process with code {done.returncode}" if done.returncode not in (0, 1) else None
