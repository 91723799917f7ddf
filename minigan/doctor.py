"""Describe this installation: versions, cores, data, and which backends run."""

import importlib.metadata
import platform

from minigan import __version__, backends, datasets


def report() -> str:
    """Return versions, backends and the state of the data as text, one line each."""
    lines = [f"minigan {__version__}, Python {platform.python_version()}, {platform.platform()}"]
    distributions = importlib.metadata.packages_distributions()  # for CuPy, cupy-cuda13x or another name
    for package in ("numpy", "numba", "cupy"):
        found = [f"{importlib.metadata.version(d)} ({d})" for d in dict.fromkeys(distributions.get(package, []))]
        lines.append(f"{package:<8} {', '.join(found) or 'not installed'}")
    lines.append(f"cores    {backends.cores()} that this process may use")
    lines.append(f"data     {datasets.mnist('all').images.shape[0]:,} embedded MNIST images, whole")
    status = backends.status()
    for name, cause in status.items():
        lines.append(f"backend  {name:<6} {'runs here' if cause is None else 'does not run here: ' + cause}")
    if status["cupy"] is None:
        lines.append(f"gpu      {backends.load('cupy').describe()}")
    lines.append(f"auto     takes {backends.choose()[1].removeprefix('backend ')}")
    return "\n".join(lines)
