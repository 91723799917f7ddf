"""Run the rows of an experiment or a sweep on the workers of a Dask cluster.

    dask scheduler                                       # on one machine
    dask worker tcp://MACHINE:8786 --nthreads 1          # on each machine, once for each core
    minigan sweep --grid lr=1e-3,2e-3 seed=0:5 --scheduler tcp://MACHINE:8786

Every worker has minigan, and sees the folder of the experiment at the same path. So a row whose
worker dies goes on from its checkpoint on another one, and a row is in the hands of one worker at a
time, because its folder is locked. Dask gives up on a row after several workers have died with it
(its setting `distributed.scheduler.allowed-failures`, usually 3).
"""

import contextlib
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minigan import __version__, backends
from minigan.errors import UserError
from minigan.files import write_atomically
from minigan.lab.experiment import STOP
from minigan.lab.gans import waiting
from minigan.lab.runner import Task, run_task, stopped

CONNECT = 10.0  # seconds for which the scheduler may take to answer
WORKERS = 30.0  # seconds for which a worker is waited for
POLL = 0.1  # seconds between two looks at the rows
SAVING = 60.0  # seconds in which rows that were told to stop are saved
PROBE = ".seen"  # a file that workers must see


def run_rows(tasks: list[Task], address: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of the tasks, whose paths are absolute, as the workers of the scheduler at `address` finish them.

    If the generator is closed, or is interrupted by Ctrl-C, the workers save their rows first.
    Raises UserError if nothing answers there, if there are no workers, if one of them has another
    version of minigan or does not see the folder, or if the scheduler ends.
    """
    if not tasks:
        return
    folder, run = tasks[0].folder, uuid.uuid4().hex
    with _client(address) as client:
        _expect_workers(client, address, folder)
        waited = {client.submit(run_row, task, key=f"minigan-{run}-{k}"): task for k, task in enumerate(tasks)}
        try:
            while waited:
                for future in [future for future in waited if future.status != "pending"]:
                    yield _outcome(future, waited.pop(future), address)
                if client.status != "running":
                    raise _lost(address)
                time.sleep(POLL)
        finally:
            if waited and client.status == "running":
                _stop(waited, folder)


def run_row(task: Task) -> dict[str, Any]:
    """Run a row on a worker. If another worker still has it, wait for that one, and return its result."""
    if not task.folder.exists():
        raise UserError(f"this worker does not see {task.folder}: all workers need the same folder")
    if (task.folder / STOP).exists():
        return stopped(task)
    task.place.mkdir(parents=True, exist_ok=True)
    with waiting(task.place), backends.borrowed():
        return run_task(task)


def facts(probe: str) -> dict[str, Any]:
    """Return the version of minigan of a worker, and the content of a file that it should see, or None."""
    seen = None
    with contextlib.suppress(OSError):
        seen = Path(probe).read_text(encoding="utf-8")
    return {"version": __version__, "seen": seen}


def _client(address: str) -> Any:
    try:
        import distributed
    except ImportError as error:
        raise UserError(
            f"--scheduler needs the package distributed ({error}): pip install 'minigan[cluster]'"
        ) from None
    try:
        return distributed.Client(address, timeout=CONNECT, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"no Dask scheduler answers at {address} ({why}): start one with `dask scheduler`, and give its address"
        ) from None


def _expect_workers(client: Any, address: str, folder: Path) -> None:
    """Raise UserError unless there are workers, and all have this version of minigan and see the folder."""
    try:
        client.wait_for_workers(1, timeout=WORKERS)
    except TimeoutError:
        raise UserError(
            f"the scheduler at {address} has no workers: start some with `dask worker {address} --nthreads 1`"
        ) from None
    content, probe = uuid.uuid4().hex, folder / PROBE
    write_atomically(probe, content.encode())
    try:
        found = client.run(facts, str(probe), on_error="return")
    finally:
        probe.unlink(missing_ok=True)
    for worker, of in found.items():
        if isinstance(of, BaseException):
            raise UserError(f"the worker {worker} cannot use minigan ({type(of).__name__}: {of}): install it there")
        if of["version"] != __version__:
            raise UserError(f"the worker {worker} has minigan {of['version']}, and this is {__version__}: install one")
        if of["seen"] != content:
            raise UserError(
                f"the worker {worker} does not see {folder}: give --out a folder that all machines share, at one path"
            )


def _outcome(future: Any, task: Task, address: str) -> dict[str, Any]:
    """Return the row of a future that is not pending any more. Raises UserError if the scheduler has forgotten it."""
    if future.status == "finished":
        return future.result()
    if future.status == "error":
        error = future.exception()
        said = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        return task.facts() | {"error": " ".join(said.split())}
    raise _lost(address)


def _lost(address: str) -> UserError:
    return UserError(f"the scheduler at {address} has ended: start it again, and continue (a sweep with --resume)")


def _stop(waited: dict[Any, Task], folder: Path) -> None:
    """Tell the workers to save their rows, and wait for them. Rows that have not started do not start."""
    write_atomically(folder / STOP, b"")
    end = time.monotonic() + SAVING
    while time.monotonic() < end and any(future.status == "pending" for future in waited):
        time.sleep(POLL)
    for future in waited:
        future.cancel()
