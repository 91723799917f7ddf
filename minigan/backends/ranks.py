"""Several processes, called ranks, that share each batch: MPI between them, and NCCL between their GPUs.

    mpirun -n 4 minigan train --batch 256

Every rank has the whole networks and computes a part of each batch. A statistic of the batch is the
sum of the parts, and so are the gradients, so that every rank makes the same step: the step that one
process makes with the whole batch, up to rounding. `shared` gives a backend the operations of the
contract for this (`batch_sum`, `batch_start`, `batch_gather`, `batch_part`). Layers and losses know
nothing of ranks.

Random numbers of a layer depend on the position in the batch, so each rank computes those of its
part. What is drawn on the CPU (noise, labels, the order of the samples) every rank draws for the
whole batch.

What a rank waits for is polled, so that Python can handle a signal while another rank computes, or
no longer exists.
"""

import contextlib
import functools
import os
import time
import warnings
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from minigan.backends.contract import GOLDEN, Array, Backend, Shape, T, cores
from minigan.backends.numpy_backend import NumpyBackend
from minigan.errors import UserError

# What the starters of MPI programs tell each process: Open MPI, those with PMIx or PMI (MPICH, Intel, srun), MVAPICH
STARTED = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK")
AWAKE, NAP = 0.1, 0.0005  # seconds: how long a rank waits without sleeping, and how long it then sleeps at a time


class Ranks(Protocol):
    """What ranks can tell each other. Every rank calls the same methods in the same order."""

    rank: int  # the number of this process, from 0
    size: int  # the number of processes
    threads: int  # CPU threads of this process, if all of a machine are to use each core once

    def total(self, x: np.ndarray) -> np.ndarray:
        """Return the sum of the arrays x of all ranks, the same bits on each. The shapes are equal."""
        ...

    def each(self, x: Any) -> list[Any]:
        """Return the objects x of all ranks, in the order of the ranks."""
        ...

    def rows(self, x: np.ndarray) -> np.ndarray:
        """Return the arrays x (N_r, ...) of all ranks joined in the order of the ranks: (sum of N_r, ...)."""
        ...


# ---------------------------------------------------------------- MPI


class MpiRanks:
    """The ranks of an MPI communicator of mpi4py."""

    def __init__(self, communicator: Any):
        self.communicator = communicator
        self.rank, self.size = communicator.Get_rank(), communicator.Get_size()
        self.threads = threads_each(self)
        self._ending = communicator.Dup()  # of its own, because `end` may come while others wait for something else

    def end(self, seconds: float) -> bool:
        """Wait until every rank has called this. Returns whether they have, after at most so many seconds."""
        request, start = self._ending.Ibarrier(), time.monotonic()
        while not request.Test():
            if time.monotonic() > start + seconds:
                return False
            time.sleep(NAP)
        return True

    def abort(self, code: int) -> None:
        """End all ranks at once."""
        self.communicator.Abort(code)

    def total(self, x: np.ndarray) -> np.ndarray:
        """Return the sum of the arrays x of all ranks."""
        result = np.empty_like(x, order="C")
        self._wait(self.communicator.Iallreduce(np.ascontiguousarray(x), result))
        return result

    def each(self, x: Any) -> list[Any]:
        """Return the objects x of all ranks. They travel as bytes, first their number and then they."""
        import pickle

        mine = np.frombuffer(pickle.dumps(x), np.uint8)
        together, lengths = self._joined(mine)
        ends = np.cumsum(lengths)
        return [pickle.loads(together[end - n : end].tobytes()) for end, n in zip(ends, lengths, strict=True)]

    def rows(self, x: np.ndarray) -> np.ndarray:
        """Return the arrays x (N_r, ...) of all ranks joined."""
        return self._joined(np.ascontiguousarray(x))[0]

    def _joined(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the arrays of all ranks joined, and the lengths of their first axes."""
        lengths = np.zeros(self.size, np.int64)
        self._wait(self.communicator.Iallgather(np.array([len(x)]), lengths))
        result = np.empty((int(lengths.sum()), *x.shape[1:]), x.dtype)
        row = x[:1].size if len(x) else int(np.prod(x.shape[1:]))
        self._wait(self.communicator.Iallgatherv(x, [result, (lengths * row).tolist()]))
        return result, lengths

    def _wait(self, request: Any) -> None:
        """Wait until a request is complete. Between the tests, Python handles signals.

        MPI sends and receives only during a test, so a large sum would take long with naps between them.
        """
        start = time.monotonic()
        while not request.Test():
            if time.monotonic() > start + AWAKE:
                time.sleep(NAP)
            elif hasattr(os, "sched_yield"):
                os.sched_yield()  # another rank may need the core


def started() -> bool:
    """Return whether this process was started by mpirun, or by another starter of MPI programs."""
    return any(name in os.environ for name in STARTED)


def leads() -> bool:
    """Return whether this process is rank 0, or alone. Needs no MPI."""
    return all(os.environ.get(name, "0") == "0" for name in STARTED)


@functools.cache
def world() -> MpiRanks | None:
    """Return all ranks of this program, or None if it has one process.

    Raises UserError if mpirun started it, and mpi4py is missing or does not find its MPI.
    """
    if not started():
        return None
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        why = "" if isinstance(error, ModuleNotFoundError) else f" ({str(error).splitlines()[0]})"
        raise UserError(f"several ranks need mpi4py and an MPI library{why}: pip install 'minigan[mpi]'") from error
    ranks = MpiRanks(MPI.COMM_WORLD)
    return ranks if ranks.size > 1 else None


def threads_each(ranks: Ranks) -> int:
    """Return the number of threads of each rank, if all of a machine together are to use each of its cores once."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    place = (os.uname().nodename if hasattr(os, "uname") else "", allowed)
    together = sum(other == place for other in ranks.each(place))
    return max(1, cores() // together)


# ---------------------------------------------------------------- backends of several ranks


def shared(backend: Backend, ranks: Ranks, multiple: int = 1) -> Backend:
    """Return a copy of the backend whose batches are shared between ranks.

    Each rank computes a multiple of `multiple` samples, which packing needs.
    """
    kind = type(backend)
    bases = SharedGpu if kind.sums_in_kernels else Shared, kind
    result: Any = object.__new__(type(f"Shared{kind.__name__}", bases, {}))
    result.__dict__.update(backend.__dict__)
    result._plain, result.ranks, result.multiple, result.on = backend, ranks, multiple, False
    return result


class Shared(Backend):
    """The operations of the contract that let ranks share a batch. `shared` puts this class before a backend's own."""

    _plain: Backend
    ranks: Ranks
    multiple: int
    on: bool  # whether the ranks share the batch now, see `sharing`

    @property
    def plain(self) -> Backend:
        """The backend of one process, from which `shared` made this one."""
        return self._plain

    @contextlib.contextmanager
    def sharing(self) -> Iterator[None]:
        """Return a context in which the ranks share each batch. Outside, a rank may compute what the others do not."""
        before, self.on = self.on, True
        try:
            yield
        finally:
            self.on = before

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Return a context inside `sharing` in which this rank computes for itself."""
        self.on = False
        try:
            yield
        finally:
            self.on = True

    def batch_sum(self, total: T) -> T:
        """Sum `total` over all ranks: a number, or an array."""
        if not self.on:
            return total
        if isinstance(total, int | float | np.generic):
            return type(total)(self.ranks.total(np.asarray(total)))  # type: ignore[return-value,call-arg]
        return self._sum(total)

    def _sum(self, total: Any) -> Any:
        """Sum an array over all ranks."""
        return self.asarray(self.ranks.total(self.to_numpy(total)))

    def batch_start(self, size: int) -> int:
        """Return the number of elements that the ranks before this one have."""
        if not self.on:
            return 0
        sizes = np.zeros(self.ranks.size, np.int64)
        sizes[self.ranks.rank] = size
        return int(self.ranks.total(sizes)[: self.ranks.rank].sum())

    def batch_gather(self, x: Array) -> tuple[Array, slice]:
        """Return the rows of all ranks, and the place of those of this rank."""
        if not self.on:
            return x, slice(0, len(x))
        start = self.batch_start(len(x))
        return self.asarray(self.ranks.rows(self.to_numpy(x))), slice(start, start + len(x))

    def batch_part(self, count: int) -> slice:
        """Return the samples of this rank. Raises UserError if there are not enough for all ranks."""
        if not self.on:
            return slice(0, count)
        units, (rank, size) = count // self.multiple, (self.ranks.rank, self.ranks.size)
        if units < size:
            of = f" in packs of {self.multiple}" if self.multiple > 1 else ""
            raise UserError(f"{size} ranks cannot share {count} samples{of}: choose a larger --batch, or fewer ranks")
        return slice(rank * units // size * self.multiple, (rank + 1) * units // size * self.multiple)

    # ---- random numbers of a part of the batch. A stream has a state for every four or two numbers, so the stream of a
    # ---- part begins at such a place, and the first numbers may be left over.

    def dropout(self, x: Array, threshold: int, stream: int) -> Array:
        """Compute dropout with the part of the mask that belongs to these samples."""
        before, skipped = divmod(self.batch_start(x.size), 4)
        stream = (stream + before * GOLDEN) % 2**64
        if not skipped:
            return super().dropout(x, threshold, stream)  # type: ignore[safe-super]
        padded = self.concatenate([self.xp.zeros(skipped, x.dtype), x])
        dropped = super().dropout(padded, threshold, stream)  # type: ignore[safe-super]
        return dropped[skipped:].reshape(x.shape)

    def uniform(self, shape: Shape, stream: int, dtype: Any) -> Array:
        """Compute the part of the random numbers that belongs to these samples."""
        return self._part_of_stream(super().uniform, shape, stream, dtype)  # type: ignore[safe-super]

    def normal(self, shape: Shape, stream: int, dtype: Any) -> Array:
        """Compute the part of the normal numbers that belongs to these samples."""
        return self._part_of_stream(super().normal, shape, stream, dtype)

    def _part_of_stream(self, draw: Any, shape: Shape, stream: int, dtype: Any) -> Array:
        if not self.on:
            return draw(shape, stream, dtype)
        size = int(np.prod(shape))
        before, skipped = divmod(self.batch_start(size), 2)
        with self._alone():
            return draw((skipped + size,), (stream + before * GOLDEN) % 2**64, dtype)[skipped:].reshape(shape)


class SharedGpu(Shared):
    """The same for GPUs, where batch norm and losses are computed by kernels that sum over the batch themselves.

    Inside `sharing`, they are the formulas of the reference instead, whose sums are those of all ranks.
    Arrays are summed by NCCL if it connects the GPUs, else by MPI after a copy to the host.
    """

    _nccl: Any = None  # NCCL's communicator of all ranks, or False if there is no NCCL, or two ranks have the same GPU

    def _connect(self) -> Any:
        """Return NCCL's communicator, or False: see `_nccl`. Each rank tells the others whether it has NCCL."""
        number = None
        with contextlib.suppress(ImportError, AttributeError), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # CuPy warns if the library of NCCL is missing
            from cupy.cuda import nccl

            number = nccl.get_unique_id()
        place = os.uname().nodename, self.settings["device"]
        everyone = self.ranks.each((number, place))
        if any(number is None for number, _ in everyone) or len({place for _, place in everyone}) < self.ranks.size:
            return False
        return nccl.NcclCommunicator(self.ranks.size, everyone[0][0], self.ranks.rank)

    def _sum(self, total: Any) -> Any:
        """Sum an array over all ranks. NCCL queues the sum on the GPU, without waiting for it."""
        if self._nccl is None:
            self._nccl = self._connect()
        if self._nccl is False:
            return super()._sum(total)
        from cupy.cuda import nccl

        x = self.xp.ascontiguousarray(total)
        result = self.xp.empty_like(x)
        kind = {"f": nccl.NCCL_FLOAT32, "d": nccl.NCCL_FLOAT64, "l": nccl.NCCL_INT64}[x.dtype.char]
        stream = self.xp.cuda.get_current_stream().ptr
        self._nccl.allReduce(x.data.ptr, result.data.ptr, x.size, kind, nccl.NCCL_SUM, stream)
        return result


def _as_reference(name: str) -> Any:
    """Return a method that computes with the reference's formula inside `sharing`, else with the GPU's kernel."""

    @functools.wraps(getattr(NumpyBackend, name))
    def compute(self: SharedGpu, *arguments: Any, **named: Any) -> Any:
        if self.on:
            return getattr(NumpyBackend, name)(self, *arguments, **named)
        return getattr(super(SharedGpu, self), name)(*arguments, **named)

    return compute


for _name in ("batchnorm", "batchnorm_grad", "discriminator_loss", "generator_loss", "mean_sigmoid"):
    setattr(SharedGpu, _name, _as_reference(_name))
SharedGpu.loss_function = NumpyBackend.loss_function  # type: ignore[attr-defined]  # which the losses call
