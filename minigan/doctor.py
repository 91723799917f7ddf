"""Describe this installation: versions, processor, threads, data, backends, and what to do about each problem.

No section can fail: an error becomes a line that names it. Backends are first tried in another process,
because damaged libraries can end the process that loads them.
"""

import contextlib
import importlib.metadata
import os
import platform
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from minigan import __version__, backends
from minigan.backends import Finding
from minigan.errors import UserError

TRIAL_SECONDS = 120
FEATURES = ("sse4.2", "avx", "avx2", "fma", "avx512f", "neon", "sve")  # of processors, those that kernels profit from
VARIABLES = ("NUMBA_", "OMP_", "GOMP_", "KMP_", "OPENBLAS_", "MKL_", "MPLBACKEND", "MPLCONFIGDIR", "CUDA_VISIBLE")


def report() -> str:
    """Return the state of this installation as text, one line each. The last line counts the problems."""
    lines, problems = [], 0
    with warnings.catch_warnings(record=True) as caught:  # warnings are problems here
        warnings.simplefilter("always")
        for section in (versions, processor, ranks, cluster, variables, data, plots, running):
            for topic, text, fix in guarded(section):
                lines.append(f"{topic:<8} {text}")
                if fix:
                    problems += 1
                    lines.append(f"{'':<8} -> {fix}")
    for text in dict.fromkeys(" ".join(str(warning.message).split()) for warning in caught):
        problems += 1
        lines.append(f"{'warning':<8} {text}")
    count = "no problem" if not problems else "one problem" if problems == 1 else f"{problems} problems"
    return "\n".join([*lines, f"{'summary':<8} {count} found"])


def guarded(section: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """Yield what a section yields. An exception becomes a problem, and ends the section only."""
    try:
        yield from section()
    except (Exception, SystemExit) as error:  # whatever a damaged package raises
        text = " ".join(str(error).split())[:600]
        fix = "the line above says what to do" if isinstance(error, UserError) else "reinstall minigan"
        yield Finding(section.__name__, f"cannot be shown ({type(error).__name__}: {text})", fix)


def versions() -> Iterator[Finding]:
    """Yield the versions of minigan, Python and the packages that compute."""
    yield Finding("minigan", f"{__version__}, Python {platform.python_version()}, {platform.platform()}")
    distributions = importlib.metadata.packages_distributions()  # for CuPy, cupy-cuda13x or another name
    for package in ("numpy", "numba", "llvmlite", "cupy"):
        found = [f"{importlib.metadata.version(d)} ({d})" for d in dict.fromkeys(distributions.get(package, []))]
        yield Finding(package, ", ".join(found) or "not installed")


def ranks() -> Iterator[Finding]:
    """Yield the versions of mpi4py and its MPI library, which several ranks need."""
    try:
        import mpi4py

        mpi4py.rc.initialize = False  # this process is alone
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        why = "" if isinstance(error, ModuleNotFoundError) else f": {' '.join(str(error).split())[:200]}"
        yield Finding("mpi", f"one process only, because mpi4py is missing or finds no MPI{why}")
        return
    library = MPI.Get_library_version().splitlines()[0].partition(",")[0].strip()
    yield Finding("mpi", f"mpi4py {mpi4py.__version__}, {library}: `mpirun -n N minigan train` uses N processes")


def cluster() -> Iterator[Finding]:
    """Yield the version of the package that sends rows of experiments to a Dask cluster."""
    try:
        import distributed
    except Exception as error:
        why = "" if isinstance(error, ModuleNotFoundError) else f" ({type(error).__name__}: {error})"
        yield Finding("dask", f"this machine only, because the package distributed is missing{why}")
    else:
        what = "`minigan sweep --scheduler ADDRESS` sends rows to a cluster"
        yield Finding("dask", f"distributed {distributed.__version__}: {what}")


def processor() -> Iterator[Finding]:
    """Yield the processor, its cores, the units that kernels use, and the BLAS library."""
    yield Finding("cores", f"{backends.cores()} that this process may use, of {os.cpu_count()}")
    limit = group_limit()
    if limit and limit < backends.cores():
        yield Finding(
            "limit", f"{limit:g} cores for the control group of this process", f"give --threads {max(int(limit), 1)}"
        )
    name, units = platform.processor() or platform.machine(), "unknown, because llvmlite is missing"
    try:
        import llvmlite.binding as llvm

        known = llvm.get_host_cpu_features()
        name = llvm.get_host_cpu_name()
        units = ", ".join(feature for feature in FEATURES if known.get(feature)) or "none of the usual ones"
    except (Exception, SystemExit) as error:  # llvmlite may be missing or broken; the backend that needs it says so
        units = f"unknown ({type(error).__name__})"
    yield Finding("cpu", f"{name}; vector units: {units}")
    from minigan.backends.numpy_backend import blas

    for library in blas():
        yield Finding("blas", f"{library['internal_api']} {library['version']}, {library['num_threads']} threads")


def group_limit(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Return the number of cores that the control group of a Linux container may use, or None if it is not limited."""
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        if (root / "cpu.max").exists():
            quota, period = (root / "cpu.max").read_text().split()
        else:
            quota, period = ((root / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else None
    return None


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
    crashes, warned = trial(backends.NAMES)
    for text in warned:
        warnings.warn(text, RuntimeWarning, stacklevel=1)
    for name in backends.NAMES:
        if name in crashes:
            fix = f"give another --backend, unset the variables shown above, or reinstall {name}"
            yield Finding("backend", f"{name:<6} {crashes[name]}", fix)
            continue
        try:
            backend = backends.load(name)
        except backends.BackendUnavailable as cause:
            yield Finding("backend", f"{name:<6} does not run here: {cause}", advice(name, str(cause)))
        else:
            yield Finding("backend", f"{name:<6} runs here")
            for topic, text, fix in guarded(backend.health):
                yield Finding("", f"{topic}: {text}", fix)
    if crashes:
        yield Finding("auto", f"is not tried here, because {min(crashes)} ends the process: give another --backend")
        return
    chosen, line = backends.choose()
    if chosen.name == "cupy" or backends.status()["cupy"] is None:
        yield Finding("gpu", backends.load("cupy").describe())
    yield Finding("auto", f"takes {line.removeprefix('backend ')}")


def advice(name: str, cause: str) -> str:
    """Return what to do about a backend that does not run, or "" if that is no problem."""
    if name == "cupy":
        return ""  # an optional extra
    if "minigan doctor" not in cause:
        return "the line above says what to do"
    return f"unset the variables shown above, `pip install --upgrade {name}`, or give --backend numpy"


TRIAL = """
import sys, warnings
def show(message, category, *place, **more):
    if issubclass(category, RuntimeWarning):
        print("warning", " ".join(str(message).split()), flush=True)
warnings.showwarning = show
warnings.simplefilter("always")
from minigan import backends
for name in sys.argv[1:]:
    print("backend", name, flush=True)
    try:
        backends.load(name)
    except backends.BackendUnavailable:
        pass
"""


def trial(names: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Start these backends in another process. Returns how the process crashed, by backend, and its warnings.

    A backend that crashes ends the process, so that the ones after it are tried in a new one.
    """
    crashes: dict[str, str] = {}
    warned: list[str] = []
    while names:
        command = [sys.executable or "python", "-c", TRIAL, *names]
        try:
            done = subprocess.run(command, capture_output=True, timeout=TRIAL_SECONDS, check=False)
            output, code = done.stdout, done.returncode
            how = f"ends the process with code {code}{signal_name(code)}"
        except subprocess.TimeoutExpired as late:
            output, code, how = late.stdout or b"", None, f"does not start within {TRIAL_SECONDS} s"
        except OSError:  # no other process can be started here
            break
        lines = [line.partition(" ") for line in output.decode(errors="replace").splitlines()]
        warned += [text for kind, _, text in lines if kind == "warning"]
        tried = [name for kind, _, name in lines if kind == "backend" and name in names]
        if code in (0, 1) or not tried:  # 1: an error of Python, which this process will meet, too
            break
        crashes[tried[-1]] = how
        names = names[names.index(tried[-1]) + 1 :]
    return crashes, warned


def signal_name(code: int) -> str:
    """Return the name of the signal that gives a process this exit code, in brackets, or ""."""
    return f" ({signal.Signals(-code).name})" if -code in set(signal.Signals) else ""
