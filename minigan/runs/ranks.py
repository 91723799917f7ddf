"""A run of several ranks: all of them compute, and rank 0 writes.

    mpirun -n 2 minigan train

A launcher of MPI programs ends all ranks when one of them ends, or when it is interrupted: it sends
them SIGTERM, and kills them a fraction of a second later. By then the step may not be complete, and
never will be if a rank is gone. So `Guard` keeps a state between two steps in a process of its own,
which the launcher does not know.
"""

import contextlib
import math
import os
import signal
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from minigan import __version__
from minigan.backends import ranks as backend_ranks
from minigan.backends.ranks import MpiRanks, Ranks
from minigan.errors import UserError
from minigan.training import Training, checkpoint
from minigan.training.config import BACKEND

Result = TypeVar("Result")
PATIENCE = 10.0  # seconds that a rank with an error waits for the others, which may have the same error


# ---------------------------------------------------------------- beginning


def together(ranks: Ranks | None, first: Callable[[], Result], others: Callable[[], Result] | None = None) -> Result:
    """Run `first` on rank 0 and `others` on the others, by default the same. Returns what this rank's function returns.

    Raises UserError on every rank if one of them raises it. If it is not rank 0, the message says which.
    """
    if ranks is None:
        return first()
    result, problem = None, ""
    try:
        result = first() if ranks.rank == 0 or others is None else others()
    except UserError as error:
        problem = str(error)
    problems = ranks.each(problem)
    for rank, found in enumerate(problems):
        if found:
            same = problems[0] == found
            raise UserError(found if rank == 0 or same else f"rank {rank}: {found}")
    return result  # type: ignore[return-value]  # there is a result if there is no problem


def from_first(ranks: Ranks, get: Callable[[], Result]) -> Result:
    """Return what `get` returns on rank 0, on every rank. Raises UserError on every rank if it raises one there."""
    return ranks.each(together(ranks, get, lambda: None))[0]  # type: ignore[arg-type,return-value]


def expect_same(training: Training) -> None:
    """Raise UserError unless all ranks have the same program and the same data, and a part of each batch.

    They would compute different networks, and nothing else would notice.
    """
    ranks = training.backend.ranks
    if ranks is None:
        return
    mine = {"minigan": __version__, "numpy": np.__version__, "backend": training.backend.name}
    fingerprint = training.data.fingerprint() | {"name": ""}
    mine["data"] = (
        f"{training.data.name} {fingerprint.get('shape', '')} (checksum {zlib.crc32(repr(fingerprint).encode())})"
    )
    own = (*BACKEND, "backend", "data", "data_moved_to", "kind_reason")  # which machines may have for themselves
    mine |= {name: repr(value) for name, value in vars(training.config).items() if name not in own}
    mine["state"] = f"with the checksum {checksum(training)}"
    every = ranks.each(mine)
    for rank, name in ((rank, name) for rank in range(ranks.size) for name in mine):
        if every[rank][name] != every[0][name]:
            raise UserError(
                f"rank 0 has {name} {every[0][name]}, and rank {rank} has {name} {every[rank][name]}: give all ranks "
                "the same installation, options and data"
            )

    def shares() -> None:
        with training.backend.sharing():
            for count in (training.config.batch, training.fakes_per_step):
                training.backend.batch_part(count)

    together(ranks, shares)


def checksum(training: Training) -> int:
    """Return a checksum of the state of a training: networks, optimizers and moving average."""
    total = 0
    for value in checkpoint.tensors(training).values():
        total = zlib.crc32(training.backend.to_numpy(value).tobytes(), total)
    return total


def expect_one_rank() -> None:
    """Raise UserError if mpirun started several processes: only a training shares its work."""
    if (ranks := backend_ranks.world()) is not None:
        raise UserError(f"only `minigan train` runs on several ranks, and there are {ranks.size}: leave mpirun out")


# ---------------------------------------------------------------- training


def follow(training: Training) -> bool:
    """Train with the others to the end, and write nothing: what every rank but rank 0 does in `play`.

    Returns whether a collapse stopped the training, as rank 0 says.
    """
    with Guard(training, None):
        for record in training.records():
            if record["end_of_epoch"]:
                agree(training)
            stop, collapsed = training.backend.ranks.each((False, False))[0]
            if stop:
                return collapsed
    return False


def agree(training: Training) -> None:
    """Give every rank the state of rank 0 if they differ. All ranks call this, after an epoch.

    They do not differ on equal processors. On others, the last bit of an update may.
    """
    ranks = training.backend.ranks
    if len(set(ranks.each(checksum(training)))) > 1:
        tensors = checkpoint.tensors(training)
        arrays = {name: training.backend.to_numpy(value) for name, value in tensors.items()}
        checkpoint.restore("rank 0", ranks.each(arrays)[0], tensors, training.backend.asarray)


class Guard:
    """Saves a run of several ranks that ends without warning. With one process, this class does nothing.

    `remember` is called after each step, and every EVERY seconds it starts a copy of this process (a fork, which
    shares its memory until one of them writes), which waits. If rank 0 is then killed, the copy writes the state
    that it has. The copy has a session of its own, so that the launcher does not kill it. Signals end all ranks
    at once.
    """

    EVERY = 0.5
    SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")

    def __init__(self, training: Training, out: Path | None):
        self.training, self.ranks = training, training.backend.ranks
        self.out = out if self.ranks is not None and hasattr(os, "fork") else None
        self._copy: tuple[int, int] | None = None  # the process, and the pipe to it
        self._copied = -math.inf
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Guard":
        if self.ranks is not None and threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in self.SIGNALS if hasattr(signal, name)):
                self._before[number] = signal.signal(number, signal.SIG_DFL)
        self.remember()
        return self

    def __exit__(self, *error: Any) -> None:
        self._dismiss()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def remember(self) -> None:
        """Start a copy of this process if EVERY seconds have passed, and dismiss the one before it."""
        if self.out is None or time.monotonic() < self._copied + self.EVERY:
            return
        state = *self.training.state(), self.training.rows()  # before the fork, because a copy has no GPU
        read, write = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of forks with threads: the copy only writes files
            process = os.fork()
        if process == 0:
            try:
                self._wait(read, write, state)
            finally:
                os._exit(0)
        os.close(read)
        self._dismiss()
        self._copy, self._copied = (process, write), time.monotonic()

    def _dismiss(self) -> None:
        """End the copy that waits."""
        if self._copy is not None:
            process, write = self._copy
            with contextlib.suppress(OSError):  # it was killed
                os.write(write, b"x")
                os.waitpid(process, 0)
            os.close(write)
            self._copy = None

    def _wait(self, read: int, write: int, state: tuple[dict[str, np.ndarray], dict, list[dict]]) -> None:
        """Wait until this copy is dismissed, or until rank 0 has ended. Then write the state, and say so."""
        from minigan.runs.run import write_state  # it imports this module

        os.close(write)
        if self._copy is not None:
            os.close(self._copy[1])  # only rank 0 is to hold it
        terminal = 2
        with contextlib.suppress(OSError):
            # After Ctrl-C, launchers pass on nothing more of what the ranks print.
            terminal = os.open("/dev/tty", os.O_WRONLY)
        os.setsid()
        for number in self._before:
            signal.signal(number, signal.SIG_IGN)
        if os.read(read, 1):
            return
        assert self.out is not None
        try:
            step = checkpoint.load(self.out / "checkpoint.npz")[1]["step"]
            if state[1]["step"] > step:  # not if the run was saved after this copy was made
                write_state(self.out, *state)
            text = (
                f"stopped at step {max(step, state[1]['step'])} and saved: resume with "
                f"`mpirun -n {self.ranks.size} minigan train --resume --out {self.out}`, or on other ranks"
            )
        except (OSError, UserError) as error:
            text = f"stopped, and the last steps could not be saved ({error}): use the newest file in checkpoints/"
        os.write(terminal, f"\nminigan: {text}\n".encode())


# ---------------------------------------------------------------- ending


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Context of a whole program: a rank with an error ends when the others do, or ends them.

    A launcher kills all ranks when one of them ends with an error. If all have the same error, rank 0
    must first have said so; the others say nothing. If the error is that of one rank, the others wait
    for it and cannot go on.
    """
    try:
        yield
    except BaseException as error:
        if (ranks := _known()) is not None:
            if ranks.rank == 0:
                _print(error)
            if not ranks.end(PATIENCE):
                if ranks.rank:
                    _print(error, f"rank {ranks.rank}: ")
                sys.stderr.flush()
                ranks.abort(2)
            raise SystemExit(2) from error
        raise
    else:
        if (ranks := _known()) is not None:
            ranks.end(float("inf"))


def _known() -> MpiRanks | None:
    """Return the ranks of this program if it has asked for them."""
    return backend_ranks.world() if backend_ranks.world.cache_info().currsize else None


def _print(error: BaseException, who: str = "") -> None:
    """Print an error: a UserError as one sentence, others with their place in the code."""
    if isinstance(error, UserError):
        print(f"minigan: {who}{error}", file=sys.stderr)
    else:
        import traceback

        traceback.print_exception(error)
