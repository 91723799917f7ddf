"""Check that ranks which share a batch make the step that one process makes with the whole batch.

Here, ranks are threads of this process. Numba's kernels run in one thread of Python at a time, so for them the
ranks must be processes:

    mpirun -n 4 python -m minigan.checking.rank_checks numba
"""

import functools
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from minigan import losses, optim, penalties
from minigan.backends import Backend
from minigan.backends.ranks import MpiRanks, Ranks, shared
from minigan.checking import gradcheck
from minigan.checking.derivatives import EXACT
from minigan.checking.rows import Row, compare, fact
from minigan.layers import (
    BatchNorm,
    Conv2d,
    ConvTranspose2d,
    Dense,
    Dropout,
    Flatten,
    GaussianNoise,
    LeakyReLU,
    MinibatchStdDev,
    OneHot,
    Pack,
    Projection,
    Reshape,
    Sequential,
    SpectralNorm,
    TableHead,
    Tanh,
    fuse,
)

SIZES = (1, 2, 3, 4)  # numbers of ranks


class Case(NamedTuple):
    """A game whose step is compared: `real` real samples and `fake` fakes, neither a multiple of all SIZES."""

    which: str  # the step, as in `gradcheck.run_step`
    loss: losses.Loss
    penalty: str = ""
    matching: float = 0.0
    classes: int = 0
    pack: int = 1
    real: int = 7
    fake: int = 7

    def __str__(self) -> str:
        parts = [f"{self.which} step", self.loss.name, self.penalty, f"{self.matching} matching" * bool(self.matching)]
        parts += [f"{self.classes} classes" * bool(self.classes), f"packs of {self.pack}" * (self.pack > 1)]
        return ", ".join([*filter(None, parts), f"{self.real} real and {self.fake} fake"])


CASES = (
    Case("discriminator", losses.non_saturating, "r1", classes=2),
    Case("discriminator", losses.weighted(losses.least_squares, 0.4), "wgan-gp", classes=2, real=5, fake=8),
    Case("discriminator", losses.weighted(losses.non_saturating, 0.6), "wgan-gp", pack=2, real=14, fake=10),
    Case("simultaneous", losses.relativistic, "r1+r2", matching=0.3, real=9, fake=9),
    Case("simultaneous", losses.hinge, "r1-fd", classes=2),
    Case("generator", losses.wasserstein, matching=0.4, classes=2),
    Case("generator", losses.relativistic, real=6, fake=6),
)


def same_steps(backend: Backend) -> Iterator[Row]:
    """Check steps of 1 to 4 ranks, which are threads. There are no rows if only one thread may sum at a time."""
    if backend.sums_alone:
        return
    for case in CASES:
        alone = play(case, backend)
        for size in SIZES:
            yield from compared(case, alone, on_threads(size, functools.partial(play, case, backend)))
    yield from passed_on(backend)


def compared(case: Case, alone: dict[str, np.ndarray], of_ranks: list[dict[str, np.ndarray]]) -> Iterator[Row]:
    """Compare the state after the steps of each rank with that of one process, up to rounding, and with each other."""
    subject = f"{case}, {len(of_ranks)} ranks"
    for name, expected in alone.items():
        yield compare(subject, name, "one process", of_ranks[0][name], expected, EXACT)
    same = all(found[name].tobytes() == of_ranks[0][name].tobytes() for found in of_ranks for name in alone)
    yield fact(subject, "all ranks", same, "the ranks have different bits")


def play(case: Case, backend: Backend, ranks: Ranks | None = None) -> dict[str, np.ndarray]:
    """Make two steps of the case, and return the state of both networks and optimizers, and the reports.

    If `ranks` are given, this process computes with its part of the batches.
    """
    backend = backend if ranks is None else shared(backend, ranks, case.pack)
    G, D = networks(case)
    rng = np.random.default_rng(61)
    for network in (G, D):
        gradcheck.randomize(network.to(backend, np.float64), rng)
    players = fuse(G), fuse(D)
    # Adam divides by the size of the gradient. So it would make large steps of the rounding errors of gradients that
    # are zero, such as that of a bias before batch norm.
    opt_g, opt_d = (optim.SGD(network, lr=0.05, momentum=0.5) for network in (G, D))
    opt_g.clip_norm = opt_d.clip_norm = 0.7
    drawn = np.random.default_rng(62)
    penalty = penalties.named(case.penalty, weight=2.0, rng=np.random.default_rng(63)) if case.penalty else None
    result: dict[str, np.ndarray] = {}
    with backend.sharing():
        loss = case.loss.to(backend)
        for step in (1, 2):
            real, z = drawn.standard_normal((case.real, 3, 3, 1)), drawn.standard_normal((case.fake, 3))
            labels = drawn.integers(case.classes, size=case.real) if case.classes else None
            mine = backend.batch_part(case.real)
            report = gradcheck.run_step(
                case.which,
                *players,
                opt_g,
                opt_d,
                backend.asarray(real[mine]),
                backend.asarray(z[backend.batch_part(case.fake)]),
                loss,
                None if labels is None else backend.asarray(labels[mine]),
                penalty,
                case.matching,
            )
            result |= {f"{name} of step {step}": np.array(float(value)) for name, value in report.items()}
    for owner, network, optimizer in (("G", G, opt_g), ("D", D, opt_d)):
        for kind, tensors in (("", network.params), ("", network.buffers), ("v.", {"all": optimizer.moments[0]})):
            for name, value in tensors.items():
                result[f"{owner}.{kind}{name}"] = np.array(backend.to_numpy(value)).astype(np.float64)
    return result


def networks(case: Case) -> tuple[Sequential, Sequential]:
    """Return (G, D) with every kind of layer whose result depends on the batch or on the position in it.

    No sample has a multiple of 2 or 4 numbers, so that the random numbers of a rank begin inside a group.
    """
    rng, classes, pack = np.random.default_rng(60), case.classes, case.pack
    first = [OneHot(classes)] if classes else []
    G = Sequential(
        *first,
        Dense(3 + classes, 9, rng=rng),
        BatchNorm(9),
        TableHead(((1, 4),), 9, rng=rng),
        Reshape(1, 1, 9),
        ConvTranspose2d(9, 3, 3, rng=rng),
        BatchNorm(3),
        LeakyReLU(0.2),
        Conv2d(3, 1, 3, pad=1, rng=rng),
        Tanh(),
    )
    D = Sequential(
        *([] if classes else [GaussianNoise(0.1, rng=rng)]),
        Pack(pack),
        SpectralNorm(Conv2d(pack, 3, 2, rng=rng), rng=rng),
        BatchNorm(3, momentum=0.8),
        LeakyReLU(0.2),
        Conv2d(3, 5, 2, rng=rng),
        Tanh(),
        Flatten(),
        Dropout(0.3, rng=rng),
        MinibatchStdDev(5),
        Projection(10, classes, rng=rng) if classes else Dense(10, 1, rng=rng),
    )
    return G, D


def passed_on(backend: Backend) -> Iterator[Row]:
    """Check the operations of shared backends that steps use only in part."""
    x = np.arange(15.0).reshape(5, 3)

    def gathered(ranks: Ranks) -> tuple:
        own = shared(backend, ranks)
        with own.sharing():
            part = own.batch_part(5)
            whole, mine = own.batch_gather(own.asarray(x[part]))
            start = own.batch_start(own.asarray(x[part]).size)
        outside = own.batch_sum(7), own.batch_start(7), own.batch_part(5), len(own.batch_gather(own.asarray(x))[0])
        return own.to_numpy(whole), mine == part, start == 3 * part.start, outside

    for rank, (whole, mine, start, outside) in enumerate(on_threads(2, gathered)):
        yield compare(f"rank {rank} of 2", "batch_gather", "one process", whole, x, 0.0)
        yield fact(f"rank {rank} of 2", "own rows", mine, "batch_gather does not find the rows of this rank")
        yield fact(f"rank {rank} of 2", "batch_start", start, "not the number of elements before")
        alone = outside == (7, 0, slice(0, 5), 5)
        yield fact(f"rank {rank} of 2", "outside", alone, "ranks talk to each other outside `sharing`")


# ---------------------------------------------------------------- ranks that are threads


class ThreadRanks:
    """Ranks that are threads of one process."""

    threads = 1

    def __init__(self, rank: int, size: int, barrier: threading.Barrier, said: list[Any]):
        self.rank, self.size, self._barrier, self._said = rank, size, barrier, said

    def each(self, x: Any) -> list[Any]:
        """Return the objects x of all ranks."""
        self._said[self.rank] = x
        self._barrier.wait(60)
        everything = list(self._said)
        self._barrier.wait(60)  # nobody may say the next thing before all have heard this one
        return everything

    def total(self, x: np.ndarray) -> np.ndarray:
        """Return the sum of the arrays x of all ranks."""
        parts = self.each(x)
        return np.asarray(sum(parts[1:], start=parts[0]))

    def rows(self, x: np.ndarray) -> np.ndarray:
        """Return the arrays x of all ranks joined."""
        return np.concatenate(self.each(x))


def on_threads(size: int, work: Callable[[Ranks], Any]) -> list[Any]:
    """Call `work` with each of `size` ranks, in threads, and return the results. Raises the first error."""
    barrier, said = threading.Barrier(size), [None] * size
    results: list[Any] = [None] * size
    errors: list[BaseException] = []

    def run(rank: int) -> None:
        try:
            results[rank] = work(ThreadRanks(rank, size, barrier, said))
        except BaseException as error:
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise next((error for error in errors if not isinstance(error, threading.BrokenBarrierError)), errors[0])
    return results


# ---------------------------------------------------------------- ranks of MPI


def main(names: list[str]) -> int:
    """Compare the steps of 1 to 4 ranks of MPI on the backends with these names. Returns 1 if a row is wrong."""
    from mpi4py import MPI

    from minigan.checking.checks import load

    world, wrong = MPI.COMM_WORLD, 0
    for backend in map(load, names):
        for size in SIZES[: world.size]:
            together = world.Split(0 if world.rank < size else MPI.UNDEFINED)
            if together == MPI.COMM_NULL:
                continue
            ranks = MpiRanks(together)
            for case in CASES:
                found = ranks.each(play(case, backend, ranks))
                if ranks.rank == 0:
                    rows = list(compared(case, play(case, backend), found))
                    wrong += sum(not row.ok for row in rows)
                    print(*(row for row in rows if not row.ok), sep="\n", end="", flush=True)
                    compared_numbers = sum(row.compared for row in rows)
                    print(f"{backend.name}: {case}, {size} ranks: {compared_numbers} numbers", flush=True)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
