"""Several ranks train one GAN: the same steps as one process, and what happens if one of them ends."""

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from minigan import backends, runs
from minigan.backends import ranks as backend_ranks
from minigan.checking import rank_checks
from minigan.cli import main
from minigan.errors import UserError
from minigan.files import locked
from minigan.runs import ranks as runs_ranks
from minigan.training import Config, checkpoint

MPIRUN = shutil.which("mpirun", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
FLOAT32 = 5e-6  # the largest difference of float32 weights after STEPS steps, in units of the largest weight
STEPS = 3


@pytest.fixture
def mpirun():
    """Returns a function that gives the command line of `count` ranks of minigan."""
    pytest.importorskip("mpi4py", reason="several ranks need MPI: pip install 'minigan[mpi]'")
    if MPIRUN is None:
        pytest.skip("several ranks need MPI: pip install 'minigan[mpi]'")

    def command(count: int, *words: str) -> list[str]:
        return [MPIRUN, "-n", str(count), "--oversubscribe", sys.executable, "-m", *words]

    return command


def environment() -> dict[str, str]:
    """Open MPI does not run as root unless these are set, as in the containers that test this."""
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return {**os.environ, **(root if hasattr(os, "geteuid") and os.geteuid() == 0 else {})}


def run(command: list[str], seconds: float = 240) -> subprocess.CompletedProcess:
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=seconds)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "x.npz"
    images = np.random.default_rng(0).integers(0, 256, (96, 8, 8), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(96) % 3)
    return path


def train(data: Path, out: Path, *options: str) -> list[str]:
    """A small GAN with everything that depends on the whole batch. A batch of 26 is not a multiple of 3 or 4."""
    networks = (
        "--preset small --network d_norm=spectral --network d_minibatch_std=1 --conditional --simultaneous".split()
    )
    rest = f"--batch 26 --penalty r1 --backend numpy --data {data} --out {out} --quiet".split()
    return ["minigan", "train", *networks, *rest, *options]


def weights(out: Path) -> dict[str, np.ndarray]:
    arrays, _ = checkpoint.load(out / "checkpoint.npz")
    return {name: value for name, value in arrays.items() if name.startswith(("G.", "D."))}


def differences(a: dict, b: dict) -> dict[str, float]:
    """Return the largest difference of each tensor in units of the largest weight of its network.

    Not of the tensor: a bias begins at 0, and Adam takes steps of one size for slopes that are next to 0, whose sign
    may be a matter of rounding.
    """
    largest = {player: max(np.abs(a[name]).max() for name in a if name.startswith(player)) for player in ("G.", "D.")}
    return {name: float(np.abs(a[name] - b[name]).max() / largest[name[:2]]) for name in a}


# ---- steps


@pytest.mark.parametrize("size", rank_checks.SIZES)
def test_steps_of_ranks_in_emulation_are_those_of_one_process(size, gpu):
    """The sums that kernels compute in one process are those of the reference here."""
    for case in rank_checks.CASES[:3]:
        alone = rank_checks.play(case, gpu)
        found = rank_checks.on_threads(size, lambda ranks, case=case: rank_checks.play(case, gpu, ranks))
        rows = list(rank_checks.compared(case, alone, found))
        assert [str(row) for row in rows if not row.ok] == []


@pytest.mark.parametrize("name", ["numba", pytest.param("numpy", marks=pytest.mark.slow)])
def test_steps_of_processes_are_those_of_one(name, mpirun):
    done = run(mpirun(4, "minigan.checking.rank_checks", name))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" ranks: ") == len(rank_checks.SIZES) * len(rank_checks.CASES)


def test_a_row_of_ranks_with_a_difference_is_wrong():
    case = rank_checks.CASES[0]
    alone = {"w": np.ones(3)}
    wrong = [{"w": np.ones(3)}, {"w": np.array([1, 1, 1 + 1e-15])}]
    assert [row.ok for row in rank_checks.compared(case, alone, wrong)] == [True, False]
    wrong = [{"w": np.array([1, 1, 1 + 1e-11])}] * 2
    assert [row.ok for row in rank_checks.compared(case, alone, wrong)] == [False, True]


def test_differences_of_weights_are_relative_to_the_largest_of_their_network():
    a = {"G.w": np.array([1.0, -4.0]), "G.b": np.zeros(2), "D.w": np.array([0.5])}
    b = {"G.w": np.array([1.0, -4.2]), "G.b": np.array([0.0, 0.1]), "D.w": np.array([0.6])}
    assert differences(a, b) == pytest.approx({"G.w": 0.05, "G.b": 0.025, "D.w": 0.2})


def test_a_command_of_ranks_trains_as_one_process_does_and_resumes_with_others(data, mpirun, tmp_path):
    assert main(train(data, tmp_path / "one", "--steps", str(STEPS))[1:]) == 0
    done = run(mpirun(3, *train(data, tmp_path / "three", "--steps", str(STEPS))))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    one, three = weights(tmp_path / "one"), weights(tmp_path / "three")
    assert 0 < max(differences(one, three).values()) < FLOAT32
    assert {path.name for path in (tmp_path / "three").iterdir()} == {
        path.name for path in (tmp_path / "one").iterdir()
    }
    resumed = ["minigan", "train", "--resume", "--quiet", "--steps", str(2 * STEPS), "--out"]
    assert main([*resumed[1:], str(tmp_path / "one")]) == 0
    done = run(mpirun(2, *resumed, str(tmp_path / "three")))
    assert (done.returncode, done.stderr) == (0, "")
    assert max(differences(weights(tmp_path / "one"), weights(tmp_path / "three")).values()) < 5 * FLOAT32


# ---- signals and lost ranks


# The first process of a terminal, as a shell is: if mpirun were it, the terminal would be closed when it ends.
SHELL = """
import signal, subprocess, sys, time
process = subprocess.Popen(sys.argv[1:])
signal.signal(signal.SIGINT, lambda *arguments: None)
print("ended with code", process.wait(), flush=True)
time.sleep(60)
"""


def started(data: Path, out: Path, mpirun, *options: str) -> tuple[subprocess.Popen, int]:
    """Starts a long run of two ranks in a terminal. Returns the shell and the terminal after the first epochs."""
    import fcntl
    import pty
    import termios

    command = mpirun(2, *train(data, out, "--epochs", "100000", "--no-report", *options))
    terminal, own = pty.openpty()
    shell = subprocess.Popen(
        [sys.executable, "-c", SHELL, *command],
        env=environment(),
        stdin=own,
        stdout=own,
        stderr=own,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(own, termios.TIOCSCTTY, 0),
    )
    os.close(own)
    end = time.monotonic() + 60
    while not list(out.glob("samples/epoch-0002.png")):
        assert shell.poll() is None and time.monotonic() < end
        time.sleep(0.1)
    return shell, terminal


def number_of(out: Path, what: str) -> int:
    """Returns the number of the process of the run in `out` with `what` in its variables."""
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            known = (folder / "environ").read_bytes().split(b"\0")
            waits = os.getsid(int(folder.name)) == int(folder.name)  # a copy of rank 0
            if str(out).encode() in words and what.encode() in known and not waits:
                return int(folder.name)
    raise AssertionError(f"{what} does not run")


def ended(shell: subprocess.Popen, terminal: int, out: Path) -> tuple[str, int]:
    """Waits for the end of a run, at most 30 s. Returns what it has printed, and the steps of its checkpoint."""
    end, printed = time.monotonic() + 30, b""
    while b"ended with code" not in printed:
        assert time.monotonic() < end, printed
        if select.select([terminal], [], [], 1)[0]:
            printed += os.read(terminal, 4096)
    while True:  # rank 0 saves in a process of its own, which holds the lock
        with contextlib.suppress(UserError), locked(out):
            break
        assert time.monotonic() < end
        time.sleep(0.1)
    time.sleep(0.2)
    while select.select([terminal], [], [], 0)[0]:
        printed += os.read(terminal, 4096)
    shell.kill()
    shell.wait()
    os.close(terminal)
    assert b"ended with code 0" not in printed
    return printed.decode().replace("\r\n", "\n"), checkpoint.load(out / "checkpoint.npz")[1]["step"]


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="Windows and macOS have no /proc")
@pytest.mark.parametrize("by", ["Ctrl-C", pytest.param("SIGTERM", marks=pytest.mark.slow)])
def test_ctrl_c_on_mpirun_saves_the_last_step(by, data, mpirun, tmp_path):
    out = tmp_path / "r"
    shell, terminal = started(data, out, mpirun, "--checkpoint-every", "50")
    if by == "Ctrl-C":
        os.write(terminal, b"\x03")
    else:
        of_rank = Path(f"/proc/{number_of(out, 'OMPI_COMM_WORLD_RANK=0')}/stat").read_text()
        os.kill(int(of_rank.rpartition(")")[2].split()[1]), signal.SIGTERM)  # mpirun is its parent
    text, steps = ended(shell, terminal, out)
    assert text.count("minigan: ") == 1
    assert f"minigan: stopped at step {steps} and saved: resume with `mpirun -n 2 minigan train --resume " in text
    done = run(mpirun(2, "minigan", "train", "--resume", "--quiet", "--steps", str(steps + 4), "--out", str(out)))
    assert (done.returncode, done.stderr) == (0, "")
    whole = tmp_path / "whole"
    options = "--checkpoint-every", "50", "--no-report", "--steps", str(steps + 4)
    assert run(mpirun(2, *train(data, whole, *options))).returncode == 0
    found, expected = weights(out), weights(whole)
    assert all((found[name] == expected[name]).all() for name in expected)  # not a bit was lost


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="Windows and macOS have no /proc")
@pytest.mark.parametrize("rank", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_rank_that_dies_ends_the_run_with_a_checkpoint(rank, data, mpirun, tmp_path):
    out = tmp_path / "r"
    shell, terminal = started(data, out, mpirun)
    saved = checkpoint.load(out / "checkpoint.npz")[1]["step"]
    os.kill(number_of(out, f"OMPI_COMM_WORLD_RANK={rank}"), signal.SIGKILL)
    text, steps = ended(shell, terminal, out)
    assert steps >= saved
    assert text.count("minigan: ") == 1 and f"minigan: stopped at step {steps} and saved" in text
    assert f"rank {rank}" in text  # mpirun says which one has died
    assert main(["train", "--resume", "--quiet", "--steps", str(steps + 1), "--out", str(out)]) == 0


def test_a_rank_that_cannot_write_ends_all(data, mpirun, tmp_path):
    (tmp_path / "r").write_text("a file")
    done = run(mpirun(2, *train(data, tmp_path / "r", "--steps", "1")))
    assert done.returncode == 2
    assert done.stderr.count("minigan: ") == 1 and f"minigan: {tmp_path / 'r'} already exists" in done.stderr


# ---- what is refused


def test_ranks_with_different_options_or_data_are_refused(data, mpirun, tmp_path):
    other = tmp_path / "other.npz"
    with np.load(data) as file:
        np.savez(other, images=255 - file["images"], labels=file["labels"])
    for words, what in (((other, "--steps", "9"), "data x "), ((data, "--steps", "9", "--lr", "0.1"), "lr_g ")):
        first = mpirun(1, *train(data, tmp_path / "r", "--steps", "9"))
        second = train(words[0], tmp_path / "r", *words[1:])
        done = run([*first, ":", "-n", "1", sys.executable, "-m", *second])
        assert done.returncode == 2
        assert done.stderr.count("minigan: ") == 1 and f"minigan: rank 0 has {what}" in done.stderr
        assert "rank 1 has" in done.stderr
        shutil.rmtree(tmp_path / "r")


def test_more_ranks_than_samples_and_other_commands_are_refused(data, mpirun, tmp_path):
    done = run(mpirun(3, *train(data, tmp_path / "r", "--batch", "2")))
    assert done.returncode == 2 and done.stderr.count("minigan: ") == 1
    assert "3 ranks cannot share 2 samples: choose a larger --batch, or fewer ranks" in done.stderr
    assert not (tmp_path / "r" / "samples" / "epoch-0000.png").exists()  # it was refused before it began
    done = run(mpirun(2, "minigan", "info", str(tmp_path / "r")))
    assert done.returncode == 2 and done.stderr.count("minigan: ") == 1
    assert "only `minigan train` runs on several ranks, and there are 2: leave mpirun out" in done.stderr


def test_without_mpi4py_a_sentence_says_how_to_install_it(data, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    backend_ranks.world.cache_clear()
    assert main(train(data, tmp_path / "r", "--steps", "1")[1:]) == 2
    assert capsys.readouterr().err == (
        "minigan: several ranks need mpi4py and an MPI library: pip install 'minigan[mpi]'\n"
    )
    assert not (tmp_path / "r").exists()


def test_a_process_that_mpirun_has_not_started_is_alone(monkeypatch):
    for name in backend_ranks.STARTED:
        monkeypatch.delenv(name, raising=False)
    backend_ranks.world.cache_clear()
    assert backend_ranks.world() is None and backend_ranks.leads()
    monkeypatch.setenv("PMI_RANK", "3")
    assert backend_ranks.started() and not backend_ranks.leads()


# ---- parts, with ranks that are threads


def trainings(data: Path, size: int, work, **options):
    """Calls work(training) for the trainings of ranks that are threads, and returns the results."""
    config = Config.of("mlp", data=str(data), batch=24, backend="numpy", steps=4, **options)

    def play(ranks):
        return work(runs.begin(config, None, ranks=ranks))

    return rank_checks.on_threads(size, play)


def test_an_error_of_one_rank_is_raised_on_all(data):
    def fail(ranks):
        def first():
            raise UserError("no")

        for action, others, expected in (
            (first, lambda: 1, "no"),
            (lambda: 1, first, "rank 1: no"),
            (first, None, "no"),
        ):
            with pytest.raises(UserError, match=f"^{expected}$"):
                runs_ranks.together(ranks, action, others)
        return runs_ranks.from_first(ranks, lambda: f"of rank {ranks.rank}")

    assert rank_checks.on_threads(2, fail) == ["of rank 0"] * 2


def test_ranks_that_differ_get_the_state_of_the_first(data):
    def drift(training):
        ranks = training.backend.ranks
        same = runs_ranks.checksum(training)
        runs_ranks.agree(training)
        assert runs_ranks.checksum(training) == same  # nothing to do
        if ranks.rank == 1:
            training.G.params["0.w"][0, 0] += 1
        changed = runs_ranks.checksum(training)
        runs_ranks.agree(training)
        return same, changed, runs_ranks.checksum(training)

    (same, first, after_first), (_, second, after_second) = trainings(data, 2, drift)
    assert first == after_first == after_second == same and second != same


class Later:
    """One rank, to which another says its time."""

    rank, size, threads = 0, 1, 1

    def each(self, x):
        return [1000.0]

    def total(self, x):
        return x


def test_ranks_with_other_weights_are_refused(data):
    def refuse(training):
        if training.backend.ranks.rank == 1:
            training.D.params["1.w"][0, 0] += 1
        with pytest.raises(UserError, match=r"rank 0 has state with the checksum .*, and rank 1 has state"):
            runs_ranks.expect_same(training)

    trainings(data, 2, refuse)


@pytest.mark.parametrize("name", ["minigan", "numpy", "backend", "loss"])
def test_ranks_with_another_version_or_option_are_refused(name, data):
    class Other(Later):
        size = 2

        def each(self, x):
            return [x, x | {name: "other"}]

    training = runs.begin(Config.of("mlp", data=str(data), batch=24, backend="numpy", steps=4), None, ranks=Other())
    with pytest.raises(UserError, match=f"^rank 0 has {name} .*, and rank 1 has {name} other: give all ranks the same"):
        runs_ranks.expect_same(training)


def test_each_rank_computes_its_part_and_draws_what_all_draw(data):
    def parts(training):
        with training.backend.sharing():
            real, labels = training._next_batch()
            z = training._draw_noise(10)
        return training.backend.to_numpy(real), labels, training.backend.to_numpy(z), training.cursor

    (whole,) = trainings(data, 1, parts, conditional=True)
    found = trainings(data, 5, parts, conditional=True)
    for k in range(3):
        np.testing.assert_array_equal(np.concatenate([part[k] for part in found]), whole[k])
    assert [len(part[0]) for part in found] == [4, 5, 5, 5, 5] and {part[3] for part in found} == {24}


def test_all_ranks_have_the_time_of_the_first(data):
    training = runs.begin(Config.of("mlp", data=str(data), batch=24, backend="numpy", steps=4), None, ranks=Later())
    next(training.records())
    assert training.seconds == 1000


def test_outside_a_step_a_rank_draws_samples_for_itself(data):
    def draw(training):
        return training.samples(10) if training.backend.ranks.rank == 0 else None

    images, nothing = trainings(data, 2, draw)
    assert images.shape == (10, 8, 8, 1) and nothing is None


def test_a_shared_backend_is_the_plain_one_for_everything_else():
    plain = backends.load("numpy", threads=1)
    (own,) = rank_checks.on_threads(1, lambda ranks: backend_ranks.shared(plain, ranks))
    assert own.plain is plain and plain.plain is plain and own.name == plain.name and own.settings == plain.settings
    assert isinstance(own, type(plain)) and own.ranks.size == 1 and plain.ranks is None


class Addressed(np.ndarray):
    """An array with the address of its memory where an array of CuPy has it."""

    @property
    def data(self):
        return SimpleNamespace(ptr=self.ctypes.data)


def test_nccl_sums_on_the_gpu(monkeypatch):
    """With a replacement for NCCL that reads and writes the memory it is given."""
    barrier, places, calls = threading.Barrier(2), {}, []

    class Communicator:
        def __init__(self, size, number, rank):
            assert (size, number) == (2, "a number of rank 0")
            self.rank = rank

        def allReduce(self, source, target, count, kind, operation, stream):
            assert (operation, stream) == ("sum", 7)
            calls.append(self.rank)
            of = {"float32": ctypes.c_float, "float64": ctypes.c_double}[kind]
            places[self.rank] = np.ctypeslib.as_array(ctypes.cast(source, ctypes.POINTER(of)), (count,))
            barrier.wait(30)
            total = places[0] + places[1]
            barrier.wait(30)
            np.ctypeslib.as_array(ctypes.cast(target, ctypes.POINTER(of)), (count,))[:] = total

    kinds = {"NCCL_FLOAT32": "float32", "NCCL_FLOAT64": "float64", "NCCL_INT64": "int64", "NCCL_SUM": "sum"}
    nccl = SimpleNamespace(get_unique_id=lambda: "a number of rank 0", NcclCommunicator=Communicator, **kinds)
    cuda = SimpleNamespace(nccl=nccl, get_current_stream=lambda: SimpleNamespace(ptr=7))
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=cuda))
    monkeypatch.setitem(sys.modules, "cupy.cuda", cuda)
    xp = SimpleNamespace(ascontiguousarray=lambda x: x, empty_like=np.empty_like, cuda=cuda)

    def total(ranks, device):
        own = object.__new__(backend_ranks.SharedGpu)
        own.__dict__.update(ranks=ranks, settings={"device": device}, on=True, xp=xp)
        own.to_numpy, own.asarray = np.asarray, np.asarray
        x = np.arange(4.0, dtype=np.float32).view(Addressed) + ranks.rank
        return np.array(own.batch_sum(x)), own._nccl is not False

    for devices, expected in (((0, 1), True), ((0, 0), False)):  # two ranks on one GPU need MPI
        found = rank_checks.on_threads(2, lambda ranks, devices=devices: total(ranks, devices[ranks.rank]))
        assert [used for _, used in found] == [expected] * 2 and sorted(calls) == [0, 1]  # only of the first case
        np.testing.assert_array_equal([summed for summed, _ in found], [[1, 3, 5, 7]] * 2)
