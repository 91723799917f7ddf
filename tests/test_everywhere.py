"""Training wherever Python runs: pipes, terminals, signals, threads, forks, notebooks, viewers and shared folders."""

import hashlib
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import minigan
from minigan import backends, files, runs, terminal
from minigan.backends import numpy_backend
from minigan.cli import main
from minigan.errors import UserError
from minigan.runs.interrupt import Interrupt
from minigan.training import Config, checkpoint

POSIX = pytest.mark.skipif(os.name != "posix", reason="Windows has neither these signals nor forks")


def slow(*values):
    """A case of a test that runs with the slow tests only, because other cases are of the same kind."""
    return pytest.param(*values, marks=pytest.mark.slow)


PICTURES = {"final.png", "losses.png", "training.gif"}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A file of 64 images whose labels are not in ASCII."""
    path = tmp_path_factory.mktemp("data") / "x.npz"
    images = np.random.default_rng(0).integers(0, 256, (64, 8, 8), dtype=np.uint8)
    np.savez(path, images=images, labels=np.array(["Käfer", "猫"] * 32))
    return path


def line(data: Path, out: Path, *options: str) -> list[str]:
    small = "--preset mlp --batch 16 --backend numpy --threads 1 --conditional".split()
    return [sys.executable, "-m", "minigan", "train", "--data", str(data), *small, "--out", str(out), *options]


def steps(out: Path) -> int:
    return checkpoint.load(out / "checkpoint.npz")[1]["step"]


def environment(**values: str | None) -> dict[str, str]:
    return {name: value for name, value in ({**os.environ} | values).items() if value is not None}


# ---- pipes and full disks


@POSIX
@pytest.mark.parametrize(
    "redirection",
    ["| head -n 0", "2>&1 | head -c 10", ">&- 2>&-", "> /dev/full"]
    + [slow(words) for words in ("| head -n 2", ">&-", "2>&-", "2> /dev/full")],
)
def test_training_goes_on_when_nobody_reads_its_output(redirection, data, tmp_path):
    if "/dev/full" in redirection and not Path("/dev/full").exists():
        pytest.skip("no /dev/full, which root can write and which is always full")
    command = " ".join(f"'{word}'" for word in line(data, tmp_path / "r", "--epochs", "30"))
    script = f"( {command}; echo $? > {tmp_path}/rc ) {redirection}"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=120)
    assert (tmp_path / "rc").read_text().strip() == "0", done.stderr
    assert steps(tmp_path / "r") == 30 * 4 and set(os.listdir(tmp_path / "r")) >= PICTURES
    assert "Error" not in done.stderr and "Exception" not in done.stderr


@POSIX
@pytest.mark.parametrize("command", ["train --list", slow("doctor"), slow("gradcheck --backend numpy")])
def test_other_commands_end_quietly_too(command):
    whole = f"{sys.executable} -m minigan {command}"
    done = subprocess.run(["sh", "-c", f"( {whole}; echo rc $? >&2 ) | head -n 1"], capture_output=True, text=True)
    assert done.stderr.strip().splitlines()[-1] == "rc 0" and "Error" not in done.stderr


@POSIX
@pytest.mark.parametrize(
    "command", ["info r", "train --list", slow("sample r --backend numpy"), slow("gradcheck --help")]
)
def test_output_that_a_command_is_for_is_not_lost_silently(command, data, tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full, which root can write and which is always full")
    fitted(data, out=tmp_path / "r")
    whole = f"{sys.executable} -m minigan {command} > /dev/full"
    done = subprocess.run(["sh", "-c", whole], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    if command.startswith(("info", "sample")):
        assert done.returncode == 2
        assert done.stderr.startswith("minigan: cannot write the output (No space left on device)")
    else:
        assert (done.returncode, done.stderr) == (0, "")


def test_streams_are_restored_after_a_command(capsys):
    before = sys.stdout, sys.stderr
    assert main(["train", "--list"]) == 0 and main(["train", "--steps", "0"]) == 2
    assert (sys.stdout, sys.stderr) == before


# ---- terminals with few characters


@pytest.mark.parametrize(
    "settings",
    [
        slow({"PYTHONIOENCODING": "ascii"}),
        {"PYTHONIOENCODING": "cp1252"},
        slow({"PYTHONIOENCODING": "latin-1"}),
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=lambda settings: next(iter(settings.values())),
)
def test_a_terminal_without_the_characters_shows_escapes(settings, data, tmp_path):
    usual = {"PYTHONIOENCODING": None, "PYTHONUTF8": None} | settings
    done = subprocess.run(
        line(data, tmp_path / "r", "--epochs", "1"), env=environment(**usual), capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    encoding = settings.get("PYTHONIOENCODING", "ascii")
    text = done.stdout.decode(encoding)
    assert "\\u732b" in text and ("K\\xe4fer" if encoding == "ascii" else "Käfer") in text
    sample = [sys.executable, "-m", "minigan", "sample", str(tmp_path / "r"), "--label", "Hund", "--backend", "numpy"]
    done = subprocess.run(sample, env=environment(**usual), capture_output=True, timeout=120)
    assert done.returncode == 2 and b"\\u732b" in done.stderr and b"Traceback" not in done.stderr
    script = f"import minigan; minigan.GAN('mlp', batch=16, steps=1, conditional=True).fit({str(data)!r})"
    done = subprocess.run([sys.executable, "-c", script], env=environment(**usual), capture_output=True, timeout=120)
    assert done.returncode == 0 and b"\\u732b" in done.stdout, done.stderr


@POSIX
def test_class_folders_have_the_same_names_in_every_locale(tmp_path):
    for name in ("Käfer", "猫", "owl"):
        (tmp_path / "x" / name).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(np.full((8, 8), 50 * i, np.uint8)).save(tmp_path / "x" / name / f"ä{i}.png")
    plain, utf8 = ({"LC_ALL": "C", "PYTHONUTF8": n, "PYTHONCOERCECLOCALE": "0"} for n in ("0", "1"))
    small = "--preset mlp --batch 4 --steps 1 --backend numpy --conditional --quiet".split()
    os.mkdir(tmp_path / "Ü")
    for number, (train, sample) in enumerate([(plain, utf8), (utf8, plain)]):
        out = str(tmp_path / "Ü" / str(number))
        minigan_ = [sys.executable, "-m", "minigan"]
        command = [*minigan_, "train", "--data", str(tmp_path / "x"), *small, "--out", out]
        done = subprocess.run(command, env=environment(**train), capture_output=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, b"")
        command = [*minigan_, "sample", out, "--label", "Käfer", "--backend", "numpy", "--count", "1"]
        done = subprocess.run(command, env=environment(**sample), capture_output=True, timeout=60)
        assert done.returncode == 0 and "Ü".encode() in done.stdout, done.stderr
        assert minigan.load(out).classes_.tolist() == ["Käfer", "owl", "猫"]


class Console:
    """A stream as of a window: it has no number and cannot be configured."""

    encoding = "cp1252"

    def __init__(self):
        self.text = ""

    def write(self, text: str) -> None:
        text.encode(self.encoding)
        self.text += text

    def flush(self) -> None:
        pass


def test_a_console_that_cannot_be_configured_shows_escapes(monkeypatch):
    console = Console()
    monkeypatch.setattr(sys, "stdout", console)
    with terminal.tolerant():
        print("ä, 猫, \x80")
        sys.stdout.writelines(["and ", "more"])
    assert console.text == "ä, \\u732b, \\x80\nand more" and sys.stdout is console


def test_a_full_pipe_loses_only_what_does_not_fit(monkeypatch):
    console, full = Console(), [True]

    def write(text: str) -> None:
        if full[0]:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        console.text += text

    console.write = write
    monkeypatch.setattr(sys, "stdout", console)
    with terminal.tolerant():
        print("lost")
        full[0] = False
        print("shown")
    assert console.text == "shown\n"


def test_the_last_of_several_threads_restores_the_streams():
    before, entered, go = (sys.stdout, sys.stderr), threading.Event(), threading.Event()

    def first() -> None:
        with terminal.tolerant():
            entered.set()
            go.wait()

    thread = threading.Thread(target=first)
    thread.start()
    entered.wait()
    with terminal.tolerant():
        go.set()
        thread.join()
        assert isinstance(sys.stdout, terminal._Tolerant) and isinstance(sys.stderr, terminal._Tolerant)
    assert (sys.stdout, sys.stderr) == before


def test_a_program_without_streams_trains(data, monkeypatch):
    """As with pythonw on Windows."""
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    for verbose in (0, 1):
        assert minigan.GAN("mlp", batch=16, steps=2, backend="numpy", verbose=verbose).fit(data).n_steps_ == 2
    assert main(["train", "--list"]) == 0
    with terminal.tqdm([1, 2]) as bar:
        assert list(bar) == [1, 2]
    assert sys.stdout is None and sys.stderr is None


# ---- signals


def _heed() -> None:
    """Undo, in a new process, that these tests may themselves run under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def start(data: Path, out: Path, *before: str) -> subprocess.Popen:
    """Start a long training, and wait until it has made steps."""
    command = [*before, *line(data, out, "--minutes", "5")]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=None if before else _heed
    )
    end = time.monotonic() + 60
    while not (out / "samples" / "epoch-0002.png").exists():
        assert process.poll() is None and time.monotonic() < end, process.stderr.read()
        time.sleep(0.05)
    return process


@POSIX
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_ends_the_training_with_its_state_saved(number, data, tmp_path):
    process = start(data, tmp_path / "r")
    process.send_signal(number)
    _, text = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert f"stopped at step {steps(tmp_path / 'r')} and saved: resume with" in text


@POSIX
def test_a_closed_terminal_may_send_several_signals(monkeypatch):
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_DFL)
    with Interrupt() as interrupt:
        for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGHUP):
            signal.raise_signal(number)
        assert interrupt.signal == signal.SIGHUP
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@POSIX
def test_a_terminal_that_is_closed_ends_the_training_with_its_state_saved(data, tmp_path):
    import pty

    ours, theirs = pty.openpty()
    out = tmp_path / "r"
    process = subprocess.Popen(
        [sys.executable, "-c", "import fcntl, termios, os, sys; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
         "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])", *line(data, out, "--minutes", "5")[1:]],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    _read_and_close(ours, out / "samples" / "epoch-0002.png")
    assert process.wait(timeout=60) == 128 + signal.SIGHUP
    assert steps(out) >= 8


def _read_and_close(terminal: int, until: Path) -> None:
    """Read what is written to a terminal, and close it when a file exists."""
    end = time.monotonic() + 60
    while not until.exists() and time.monotonic() < end:
        if select.select([terminal], [], [], 0.1)[0]:
            os.read(terminal, 4096)
    os.close(terminal)


@POSIX
def test_nohup_ignores_the_end_of_the_terminal(data, tmp_path):
    process = start(data, tmp_path / "r", "nohup")
    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert process.poll() is None
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM


@POSIX
def test_handlers_of_the_program_are_restored(data):
    mine = {number: (lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    before = {number: signal.signal(number, handler) for number, handler in mine.items()}
    try:
        minigan.GAN("mlp", batch=16, steps=2, backend="numpy", verbose=0).fit(data)
        assert {number: signal.getsignal(number) for number in mine} == mine
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ---- threads, forks and new processes


def bits(of: minigan.GAN) -> str:
    arrays, _ = of._training.state()
    return hashlib.sha256(b"".join(arrays[name].tobytes() for name in sorted(arrays))).hexdigest()


def fitted(data: Path, backend: str = "numpy", **options) -> minigan.GAN:
    usual = dict(batch=16, epochs=2, backend=backend, verbose=0, conditional=True)
    return minigan.GAN("mlp", **usual | options).fit(data)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_the_command_line_runs_in_a_thread(backend, data, tmp_path):
    codes: list[int] = []
    command = [*line(data, tmp_path / "r", "--epochs", "2")[3:], "--backend", backend]
    thread = threading.Thread(target=lambda: codes.append(main(command)))
    thread.start()
    thread.join()
    assert codes == [0] and steps(tmp_path / "r") == 8


@pytest.mark.parametrize("layer", [None, "workqueue"])
def test_trainings_in_two_threads_have_the_bits_of_one(layer, data):
    """The number of threads, the backend and the seed differ, so a mix-up would change bits or end the process."""
    if layer is not None:
        code = "import sys, pathlib, test_everywhere as t; "
        code += "t.test_trainings_in_two_threads_have_the_bits_of_one(None, pathlib.Path(sys.argv[1]))"
        environ = environment(NUMBA_THREADING_LAYER=layer, PYTHONPATH=os.path.dirname(__file__))
        done = subprocess.run(
            [sys.executable, "-c", code, str(data)], env=environ, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        return
    cases = [("numpy", 2, 0), ("numba", 1, 0), ("numba", 2, 1), ("numpy", 1, 1)]
    alone = [bits(fitted(data, backend, threads=n, seed=seed)) for backend, n, seed in cases]
    together: dict[int, str] = {}

    def work(i: int) -> None:
        backend, n, seed = cases[i]
        together[i] = bits(fitted(data, backend, threads=n, seed=seed))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(cases))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[i] for i in range(len(cases))] == alone


def test_two_threads_that_load_a_backend_start_it_once(monkeypatch):
    started: list[int] = []

    def start(threads=None):
        started.append(threads)
        time.sleep(0.2)
        return numpy_backend.NumpyBackend(threads=threads)

    monkeypatch.setattr(numpy_backend, "start", start)
    monkeypatch.setattr(backends, "_loaded", {})
    loaded: list[backends.Backend] = []
    threads = [threading.Thread(target=lambda: loaded.append(backends.load("numpy", threads=3))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert started == [3] and len({id(backend) for backend in loaded}) == 1


FORK = """
    import os, sys, pathlib
    sys.path.insert(0, {tests!r})
    import test_everywhere as t
    from minigan import backends, UserError
    data = pathlib.Path({data!r})
    before = t.bits(t.fitted(data, {parent!r}))
    child = os.fork()
    if not child:
        try:
            of = t.fitted(data, {child!r})
            of.sample(2)
            print("same" if t.bits(of) == before else "other", of._training.backend.name, flush=True)
        except UserError as error:
            print(error, flush=True)
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert t.bits(t.fitted(data, {parent!r})) == before
"""


@POSIX
@pytest.mark.parametrize(
    ("parent", "child", "says"),
    [
        ("numpy", "numpy", "same numpy"),
        slow("numpy", "numba", "other numba"),
        slow("numba", "numpy", "other numpy"),
        ("numba", "numba", "same numba|this process was forked from one that used Numba"),
        ("numba", "auto", "same numba|other numpy"),
    ],
)
def test_a_fork_after_training_works_or_gets_one_sentence(parent, child, says, data):
    code = textwrap.dedent(FORK).format(tests=os.path.dirname(__file__), data=str(data), parent=parent, child=child)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert any(said in done.stdout for said in says.split("|")), done.stdout
    assert len(done.stdout.splitlines()) == 1 and "Terminating" not in done.stderr


def _in_new_process(arguments: tuple[Path, str]) -> str:
    return bits(fitted(*arguments))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_spawned_process_has_the_same_bits(backend, data):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert set(pool.map(_in_new_process, [(data, backend)] * 2)) == {bits(fitted(data, backend))}


# ---- matplotlib and folders that cannot be written


@pytest.mark.parametrize(
    "settings",
    [
        slow({"MPLBACKEND": ""}),
        slow({"MPLBACKEND": "TkAgg", "DISPLAY": None}),
        {"MPLBACKEND": "module://matplotlib_inline.backend_inline"},
        {"MPLBACKEND": "module://not.installed"},
        {"MPLBACKEND": "nonsense"},
        {
            "HOME": "/proc/none",
            "XDG_CONFIG_HOME": "/proc/none",
            "XDG_CACHE_HOME": "/dev/null/x",
            "MPLCONFIGDIR": "/proc",
        },
        slow({"HOME": None, "XDG_CONFIG_HOME": None}),
        slow({"MATPLOTLIBRC": "wrong"}),
        {"MATPLOTLIBRC": "latex"},
    ],
    ids=lambda settings: " ".join(f"{name}={value}" for name, value in settings.items())[:40],
)
def test_pictures_are_drawn_whatever_matplotlib_is_told(settings, data, tmp_path):
    (tmp_path / "matplotlibrc").write_text("backend: nonsense\nfigure.dpi: many\nnot a setting\n")
    (tmp_path / "latex").mkdir()
    (tmp_path / "latex" / "matplotlibrc").write_text("text.usetex: True\nfont.family: Nowhere\n")
    folder = {"wrong": tmp_path, "latex": tmp_path / "latex"}
    known = {name: str(folder[v]) if name == "MATPLOTLIBRC" else v for name, v in settings.items()}
    cwd = folder.get(settings.get("MATPLOTLIBRC"), tmp_path)  # its matplotlibrc has precedence
    done = subprocess.run(
        line(data, tmp_path / "r", "--steps", "2", "--quiet"),
        env=environment(**known), capture_output=True, text=True, timeout=120, cwd=cwd,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert set(os.listdir(tmp_path / "r")) >= PICTURES


def test_settings_that_are_no_text_end_in_one_sentence(data, tmp_path):
    (tmp_path / "matplotlibrc").write_bytes(b"# \xe4\n")
    done = subprocess.run(
        line(data, tmp_path / "r", "--steps", "2", "--quiet"),
        env=environment(MATPLOTLIBRC=str(tmp_path)), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "matplotlibrc" in done.stderr
    assert steps(tmp_path / "r") == 2
    assert main(["train", "--resume", "--out", str(tmp_path / "r"), "--quiet"]) == 0
    assert set(os.listdir(tmp_path / "r")) >= PICTURES


def test_pictures_are_drawn_after_an_import_of_matplotlib_failed(data, tmp_path):
    code = (
        "import sys\ntry: import matplotlib\nexcept ValueError: pass\nelse: sys.exit('imported')\nimport minigan\n"
        f"minigan.GAN('mlp', batch=16, steps=2, backend='numpy', verbose=0, out=sys.argv[1]).fit({str(data)!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "r")], env=environment(MPLBACKEND="nonsense"),
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "") and set(os.listdir(tmp_path / "r")) >= PICTURES


def test_curves_do_not_depend_on_settings_or_threads():
    import matplotlib

    from minigan.report import plots

    values = {name: np.linspace(0, 1, 50, dtype=np.float32) for name in ("d_loss", "g_loss", "d_real", "d_fake")}
    plain = plots.curves(values, 10, (0.5, 0.5)).tobytes()
    with matplotlib.rc_context({"lines.linewidth": 9, "text.usetex": True, "figure.facecolor": "red"}):
        assert plots.curves(values, 10, (0.5, 0.5)).tobytes() == plain
        assert matplotlib.rcParams["lines.linewidth"] == 9
    drawn: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: drawn.append(plots.curves(values, 10, (0.5, 0.5)).tobytes())) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert drawn == [plain] * 4


def test_the_users_own_backend_of_matplotlib_stays_in_force():
    code = "from minigan.report import plots; plots._import_matplotlib(); import matplotlib, os; "
    code += "print(matplotlib.rcParams['backend'], os.environ['MPLBACKEND'])"
    for name in ("svg", "pdf", "agg"):
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment(MPLBACKEND=name), capture_output=True, text=True
        )
        assert done.stdout.split() == [name, name], done.stderr


# ---- folders and files


@pytest.mark.parametrize("second", [slow("new"), "resume", "python"])
def test_a_folder_in_use_is_refused_until_its_process_ends(second, data, tmp_path):
    out = tmp_path / "r"
    process = start(data, out)
    try:
        if second == "python":
            with pytest.raises(UserError, match="is in use by another training: wait until it ends"):
                of = minigan.load(out)
                of.out = out
                of.fit(data, steps=10_000_000, verbose=0)
        else:
            command = line(data, out, "--epochs", "2") if second == "new" else line(data, out)[:4]
            command += ["--resume", "--out", str(out)] if second == "resume" else []
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
            assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
            assert ("is in use by another training" if second == "resume" else "already exists") in done.stderr
        assert main(["info", str(out)]) == 0, "reading is allowed"
    finally:
        process.kill()
        process.communicate()
    assert main(["train", "--resume", "--out", str(out), "--steps", str(steps(out) + 1), "--quiet"]) == 0


def test_one_of_two_runs_that_begin_at_once_wins(data, tmp_path):
    many = [subprocess.Popen(line(data, tmp_path / "r", "--epochs", "60", "--quiet"), stderr=subprocess.PIPE, text=True)
            for _ in range(3)]  # fmt: skip
    ends = [(process.communicate(timeout=120)[1], process.returncode) for process in many]
    assert sorted(code for _, code in ends) == [0, 2, 2], ends
    assert all("already exists" in text or "is in use" in text for text, code in ends if code)
    assert steps(tmp_path / "r") == 240


def opened(data: Path, out: Path, how: str):
    """Return a training that was created or resumed, and has not started."""
    config = Config.of("mlp", data=str(data), batch=16, backend="numpy", threads=1, steps=4)
    training = runs.begin(config, out)
    if how == "resume":
        runs.play(training, out, quiet=True)
        training = runs.resume(out, steps=8)
    return training


@pytest.mark.parametrize("how", [slow("begin"), "resume"])
def test_a_folder_is_locked_before_the_first_step_too(how, data, tmp_path):
    """Between the two, kernels are compiled, which may take a minute."""
    out = tmp_path / "r"
    training = opened(data, out, how)
    command = [*line(data, out)[:4], "--resume", "--out", str(out), "--steps", "9", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "is in use by another training" in done.stderr
    runs.play(training, out, quiet=True)
    assert subprocess.run(command, timeout=60).returncode == 0 and steps(out) == 9


@pytest.mark.parametrize("how", ["begin", slow("resume")])
def test_a_training_that_never_starts_leaves_no_lock(how, data, tmp_path):
    out = tmp_path / "r"
    training = opened(data, out, how)
    other = runs.resume(out, steps=9)  # for example a cell of a notebook that runs again
    with pytest.raises(UserError, match="another training of this program has opened"):
        runs.play(training, out, quiet=True)
    with files.locked(tmp_path, training):  # any other folder
        pass
    del training, other
    command = [*line(data, out)[:4], "--resume", "--out", str(out), "--steps", "9", "--quiet"]
    assert subprocess.run(command, timeout=60).returncode == 0 and steps(out) == 9


def test_a_fit_that_fails_before_its_first_step_leaves_no_lock(data, tmp_path, monkeypatch):
    of = fitted(data, out=tmp_path / "r")
    monkeypatch.setattr(runs, "play", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        of.fit(epochs=3)
    assert not files._kept
    monkeypatch.undo()
    assert of.fit(epochs=3).n_epochs_ == 3


@POSIX
def test_a_lock_ends_with_its_process_and_not_with_a_fork_of_it(data, tmp_path):
    code = (
        "import os, sys, time, minigan\n"
        "def call(record):\n"
        "    if record['step'] == 2 and not os.fork(): time.sleep(20); os._exit(0)\n"
        "    if record['step'] == 3: os.kill(os.getpid(), 9)\n"
        f"minigan.GAN('mlp', batch=16, backend='numpy', verbose=0, out=sys.argv[1]).fit({str(data)!r}, callback=call)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "r")], timeout=15)
    assert done.returncode == -signal.SIGKILL
    assert main(["train", "--resume", "--out", str(tmp_path / "r"), "--steps", "1", "--quiet"]) == 0


def test_two_threads_do_not_train_in_one_folder(data, tmp_path):
    of = fitted(data, out=tmp_path / "r")
    other = minigan.load(tmp_path / "r")
    other.out = tmp_path / "r"
    with pytest.raises(UserError, match="is in use by another training"):
        of.fit(epochs=3, callback=lambda record: other.fit(data, epochs=4, verbose=0))
    assert of.fit(epochs=4).n_epochs_ == 4


@pytest.mark.parametrize("folder", [".", "samples", "checkpoints"])
def test_leftovers_of_killed_runs_are_removed(folder, data, tmp_path):
    out = tmp_path / "r"
    fitted(data, out=out)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    living = {f".final.png.{os.getppid()}-7.tmp", ".mine.tmp", "x.1.tmp"}
    own = f".final.png.{os.getpid()}-7.tmp"  # of an earlier process, such as the first one of another container
    for name in (f".checkpoint.npz.{gone.pid}.tmp", f".final.png.{gone.pid}-{os.getppid()}.tmp", own, *living):
        (out / folder / name).write_bytes(b"half")
    assert main(["train", "--resume", "--out", str(out), "--epochs", "3", "--quiet"]) == 0
    assert {path.name for path in (out / folder).iterdir() if path.suffix == ".tmp"} == living


@POSIX
@pytest.mark.parametrize("kept", ["checkpoint.npz", slow("final.png"), slow("epoch-0001.png")])
def test_what_a_kill_in_the_middle_of_a_write_leaves_is_removed(kept, data, tmp_path):
    code = (
        "import os, sys, minigan; replace = os.replace\n"
        f"def end(a, b): os.kill(os.getpid(), 9) if str(b).endswith({kept!r}) and os.path.exists(sys.argv[2]) else "
        "replace(a, b)\n"
        "os.replace = end; minigan.GAN('mlp', batch=16, epochs=1, backend='numpy', verbose=0, out=sys.argv[1])"
        f".fit({str(data)!r})"
    )
    out = tmp_path / "r"
    arguments = [str(out), str(out / "samples" / "epoch-0000.png")]  # a kill before this file leaves no run
    done = subprocess.run([sys.executable, "-c", code, *arguments], timeout=60)
    assert done.returncode == -signal.SIGKILL and len(list(out.rglob(".*.tmp"))) == 1
    assert main(["train", "--resume", "--out", str(out), "--quiet"]) == 0
    assert not list(out.rglob(".*.tmp")) and set(os.listdir(out)) >= PICTURES


def test_a_run_may_begin_in_a_folder_that_has_only_leftovers(data, tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / ".config.json.1.tmp").write_bytes(b"")
    (tmp_path / "r" / files.LOCK).write_bytes(b"")
    assert fitted(data, out=tmp_path / "r").n_epochs_ == 2


@pytest.mark.parametrize("failures", [1, 3])
def test_a_file_that_a_viewer_holds_open_is_replaced_later(failures, monkeypatch, tmp_path):
    calls, replace = [], os.replace

    def held(source, target):
        calls.append(target)
        if len(calls) <= failures:
            raise PermissionError(13, "The process cannot access the file because it is being used by another process")
        replace(source, target)

    monkeypatch.setattr(os, "replace", held)
    files.write_atomically(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"new" and len(calls) == failures + 1
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_file_that_stays_open_is_an_error_after_a_while(monkeypatch, tmp_path):
    monkeypatch.setattr(files, "PATIENCE", 0.2)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(PermissionError(13, "in use")))
    (tmp_path / "x").write_bytes(b"old")
    with pytest.raises(PermissionError) as error:
        files.write_atomically(tmp_path / "x", b"new")
    assert error.value.filename == str(tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_a_folder_without_locks_is_used_without_one(monkeypatch, tmp_path):
    import filelock

    for error in (NotImplementedError("no flock"), OSError(95, "not supported"), OSError(37, "no locks available")):
        monkeypatch.setattr(filelock.FileLock, "acquire", lambda *_, error=error, **__: (_ for _ in ()).throw(error))
        with files.locked(tmp_path):
            files.write_atomically(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"new"


def test_progress_bars_do_not_warn_without_widgets():
    code = "from minigan.terminal import tqdm; print(sum(tqdm([1, 2], disable=True)))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("3", "")
    assert not terminal.in_notebook()
