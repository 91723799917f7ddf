"""Other people's machines: what keeps Numba from starting is repaired or said, and `minigan doctor` names it."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from minigan import backends, doctor
from minigan.backends.contract import BackendUnavailable
from minigan.errors import UserError

pytest.importorskip("numba")

from minigan.backends import numba as package
from minigan.backends.numba import kernel_cache

OPTIONS = "--preset mlp --batch 4 --steps 1 --threads 2".split()
UNSET = ("NUMBA_CACHE_DIR", "NUMBA_NUM_THREADS", "NUMBA_DISABLE_JIT", "NUMBA_THREADING_LAYER", "XDG_CACHE_HOME")


def first_quick(cases, quick: int = 1) -> list:
    """Mark all cases but the first ones as slow, because each of them starts several processes."""
    cases = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [*cases[:quick], *(pytest.param(*case, marks=pytest.mark.slow) for case in cases[quick:])]


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """A folder with data and compiled kernels."""
    folder = tmp_path_factory.mktemp("machine")
    np.save(folder / "x.npy", np.random.default_rng(0).integers(0, 256, (32, 8, 8), dtype=np.uint8))
    done = train(folder, folder / "first", NUMBA_CACHE_DIR=str(folder / "kernels"))
    assert (done.returncode, done.stderr) == (0, "")
    return folder


def run(*command: str, **variables: str | None) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name not in UNSET}
    environment |= {name: value for name, value in variables.items() if value is not None}
    for name in [name for name, value in variables.items() if value is None]:
        environment.pop(name, None)
    command = (sys.executable, "-m", "minigan", *command)
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def train(machine: Path, out: Path, *options: str, **variables: str | None) -> subprocess.CompletedProcess:
    backend = () if "--backend" in options else ("--backend", "numba", "--quiet")
    return run("train", "--data", str(machine / "x.npy"), *OPTIONS, *backend, "--out", str(out), *options, **variables)


def expect_doctor(says: str, problems: int | None = None, **variables: str | None) -> str:
    """Run `minigan doctor`, which must not fail, and return its text, which says something."""
    done = run("doctor", **variables)
    assert done.returncode == 0 and "Traceback" not in done.stdout + done.stderr, done.stderr
    assert re.search(says, done.stdout, re.M), done.stdout
    found = re.search(r"^summary  (.*) found$", done.stdout, re.M)[1]
    assert problems is None or found == {0: "no problem", 1: "one problem"}.get(problems, f"{problems} problems")
    return done.stdout


# ---- damaged kernels


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def change(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": cut,
    "changed": change,
    "text": lambda path: path.write_text("not a kernel"),
    "foreign": lambda path: path.write_bytes(
        path.read_bytes()[: -len(kernel_cache.MARK) - 32]
    ),  # written by plain Numba
    "other": lambda path: shutil.copyfile(max(path.parent.glob(f"passes._bias_grad*{path.suffix}")), path),  # a kernel
}


SHOWN = [("changed", ".nbc"), ("cut", ".nbc"), ("empty", ".nbi")]  # where the doctor is asked, too
OTHERS = [pair for pair in ((damage, suffix) for damage in DAMAGE for suffix in (".nbi", ".nbc")) if pair not in SHOWN]


@pytest.mark.parametrize(("damage", "suffix"), first_quick(SHOWN + OTHERS))
def test_a_damaged_kernel_is_compiled_again_and_said_once(damage, suffix, machine, tmp_path):
    kernels = tmp_path / "kernels"
    shutil.copytree(machine / "kernels", kernels)
    files = [path for path in kernels.rglob(f"*{suffix}") if "share_tasks" in path.name or "_adam" in path.name]
    assert len(files) >= 2
    for path in files:
        DAMAGE[damage](path)
    done = train(machine, tmp_path / "r", NUMBA_CACHE_DIR=str(kernels))
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    says = f"{len(files)} damaged kernels in .* were deleted \\(such as .*\\{suffix}\\), and are compiled again"
    assert re.fullmatch(f"minigan: {says}", line)
    assert train(machine, tmp_path / "again", NUMBA_CACHE_DIR=str(kernels)).stderr == "", "it is repaired"
    if (damage, suffix) in SHOWN:
        for path in files:
            DAMAGE[damage](path)
        expect_doctor(f"^warning  {says}", problems=1, NUMBA_CACHE_DIR=str(kernels))


def test_an_index_that_points_to_the_code_of_another_signature_is_not_used(tmp_path):
    file = kernel_cache.KernelFile(str(tmp_path), "kernel", "stamp of the source")
    file.save("float32", ("code of float32",))
    assert file.load("float32") == ("code of float32",)
    file._save_index({"float64": file._load_index()["float32"]})  # as two processes that write at once can leave it
    assert file.load("float64") is None
    file.save("float64", ("code of float64",))
    assert file.load("float64") == ("code of float64",)


@pytest.mark.parametrize("kind", ["folder", "link to itself", "pipe"])
def test_what_is_no_file_is_damaged(kind, tmp_path):
    path, names = tmp_path / "kernel.nbi", {"folder": "cannot be deleted"}
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe" and hasattr(os, "mkfifo"):
        os.mkfifo(path)
    else:
        path.symlink_to(path)
    assert kernel_cache.is_intact(path) is False and kernel_cache.is_intact(tmp_path / "none") is None
    with pytest.warns(RuntimeWarning, match=names.get(kind, "was deleted")):
        backends.contract._said.clear()
        assert kernel_cache.KernelFile(str(tmp_path), "kernel", "stamp")._load_index() == {}


def test_the_doctor_names_damage_that_its_own_trial_repairs(machine, tmp_path):
    shutil.copytree(machine / "kernels", tmp_path / "kernels")
    for path in (tmp_path / "kernels").rglob("backend.double-*.nbc"):
        path.write_bytes(b"")
    known = dict(NUMBA_CACHE_DIR=str(tmp_path / "kernels"))
    expect_doctor("^warning  a damaged kernel in .* was deleted .*, and is compiled again", problems=1, **known)


@pytest.mark.parametrize("stamp", ["damaged", "folder", "full folder", "missing", "right"])
def test_kernels_of_other_sources_are_deleted_with_any_damage_of_the_stamp(stamp, tmp_path, monkeypatch, recwarn):
    from minigan.backends.numba import backend

    monkeypatch.setattr(backend, "kernel_folder", lambda: tmp_path)
    backend.delete_stale_kernels()
    path, right = tmp_path / "minigan-sources", (tmp_path / "minigan-sources").read_bytes()
    (tmp_path / "a.nbi").write_bytes(b"of other sources")
    (tmp_path / "b.nbc").mkdir()  # cannot be deleted like a file
    if stamp != "right":
        path.unlink()
    if stamp == "damaged":
        path.write_bytes(b"\xff\xfe")
    elif "folder" in stamp:
        (path / "file" if stamp == "full folder" else path).mkdir(parents=True)
    backends.contract._said.clear()
    backend.delete_stale_kernels()
    assert (tmp_path / "a.nbi").exists() == (stamp == "right")
    assert path.is_dir() if stamp == "full folder" else path.read_bytes() == right
    assert [str(w.message)[-30:] for w in recwarn] == ["process: make room, or delete it"[-30:]] * (
        stamp == "full folder"
    )


@pytest.mark.slow
@pytest.mark.parametrize("stamp", ["damaged", "folder", "missing"])
def test_a_damaged_stamp_of_the_sources_is_no_obstacle(stamp, machine, tmp_path):
    kernels = tmp_path / "kernels"
    shutil.copytree(machine / "kernels", kernels)
    (path,) = kernels.rglob("minigan-sources")
    path.unlink()
    if stamp == "damaged":
        path.write_bytes(b"\xff\xfe")
    elif stamp == "folder":
        path.mkdir()
    done = train(machine, tmp_path / "r", NUMBA_CACHE_DIR=str(kernels))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_files_of_other_programs_stay(machine, tmp_path):
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "theirs.nbi").write_bytes(b"other")
    assert train(machine, tmp_path / "r", NUMBA_CACHE_DIR=str(tmp_path / "kernels")).returncode == 0
    assert (tmp_path / "kernels" / "theirs.nbi").read_bytes() == b"other"


def test_a_full_disk_does_not_stop_a_training():
    code = """
        import contextlib, warnings
        import numpy as np
        from minigan import backends
        from minigan.backends.numba import kernel_cache
        def full(self, path):
            raise OSError(28, "No space left on device")
        kernel_cache.KernelFile._open_for_write = full
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            backend = backends.load("numba")
            x = np.arange(6, dtype=np.float32).reshape(2, 3)
            backend.matmul(x, x.T), backend.sum_rows(x)
        print([str(w.message) for w in caught])
    """
    done = python(code, NUMBA_CACHE_DIR=None, XDG_CACHE_HOME="/dev/null/none", TMPDIR=None)
    assert done.stdout.count("No space left on device") == 1 and done.returncode == 0, done.stderr


@pytest.mark.parametrize(("free", "says"), [(0, "only 0.0 MiB left"), (2**20, "only 1.0 MiB left"), (2**40, "files")])
def test_the_doctor_names_a_full_disk(free, says, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(2**40, 2**40 - free, free))
    found = kernel_cache.state_of(tmp_path)
    assert says in found.text and bool(found.fix) == (free < 2**40)


def python(code: str, **variables: str | None) -> subprocess.CompletedProcess:
    environment = {**os.environ, **{name: value for name, value in variables.items() if value is not None}}
    code = textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=200)


# ---- folders that cannot be written


@pytest.mark.parametrize(
    ("variables", "place"),
    first_quick(
        [
            ({"NUMBA_CACHE_DIR": "FILE"}, "FILE"),
            ({"NUMBA_CACHE_DIR": "/dev/null/x"}, "/dev/null/x"),
            ({"NUMBA_CACHE_DIR": None, "XDG_CACHE_HOME": "FILE"}, "FILE/minigan"),
            ({"NUMBA_CACHE_DIR": None, "XDG_CACHE_HOME": None, "HOME": "/proc/none"}, "/proc/none/.cache/minigan"),
        ]
    ),
    ids=["a file", "no folder", "no cache folder", "no home"],
)
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc, where root can write nothing")
def test_kernels_go_elsewhere_where_they_cannot_be_written(variables, place, machine, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "tmp").mkdir()
    known = {name: v and v.replace("FILE", str(tmp_path / "file")) for name, v in variables.items()}
    known["TMPDIR"] = str(tmp_path / "tmp")
    folder = tmp_path / "tmp" / f"minigan-kernels-{os.getuid()}"
    shutil.copytree(machine / "kernels", folder)  # as an earlier run left it; otherwise each case compiles for seconds
    folder.chmod(0o700)
    done = train(machine, tmp_path / "r", **known)
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert place.replace("FILE", str(tmp_path / "file")) in line and f"and are stored in {folder}" in line
    expect_doctor("warning  compiled kernels cannot be stored in", **known)


@pytest.mark.slow
def test_without_any_folder_kernels_are_compiled_in_memory(machine, tmp_path):
    code = """
        import sys, tempfile
        def nowhere(*_, **__):
            raise OSError(30, "Read-only file system")
        tempfile.gettempdir = tempfile.mkdtemp = tempfile.TemporaryFile = nowhere
        from minigan.cli import main
        sys.exit(main(sys.argv[1:]))
    """
    command = ["train", "--data", str(machine / "x.npy"), *OPTIONS, "--backend", "numba", "--quiet"]
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), *command, "--out", str(tmp_path / "r")],
                          capture_output=True, text=True, timeout=300)  # fmt: skip
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert "nor anywhere else, so they are compiled again in every process: set NUMBA_CACHE_DIR" in line


@pytest.mark.skipif(os.name != "posix", reason="Windows has its own permissions")
@pytest.mark.parametrize("state", ["of everyone", "a link", "a file"])
def test_a_temporary_folder_that_others_can_write_is_not_used(state, tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr(package.tempfile, "tempdir", str(tmp_path))
    usual = tmp_path / f"minigan-kernels-{os.getuid()}"
    if state == "of everyone":
        usual.mkdir()
        usual.chmod(0o777)
    elif state == "a link":
        (tmp_path / "theirs").mkdir()
        usual.symlink_to(tmp_path / "theirs")
    else:
        usual.write_text("")
    found = package.cache_folder(Path("/dev/null/x"))
    assert found is None if state == "a file" else found.name.startswith("minigan-kernels-") and found != usual


# ---- variables


@pytest.mark.parametrize(("value",), first_quick(["four", "", "0", "-1", "2.5", " "], 2))
def test_a_bad_number_of_threads_is_ignored_with_one_sentence(value, machine, tmp_path):
    known = dict(NUMBA_CACHE_DIR=str(machine / "kernels"), NUMBA_NUM_THREADS=value)
    done = train(machine, tmp_path / "r", **known)
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"minigan: NUMBA_NUM_THREADS is {value!r}, not a whole number from 1, and is ignored")
    if value in ("", "four"):
        expect_doctor("warning  NUMBA_NUM_THREADS is", problems=1, **known)


@pytest.mark.parametrize(
    ("value", "threads"),
    first_quick([("64", "1000"), ("1", "2"), ("100000", "1"), ("1", "1000"), ("64", "2"), ("100000", "1000")]),
)
def test_a_good_number_of_threads_works_with_every_option(value, threads, machine, tmp_path):
    known = dict(NUMBA_CACHE_DIR=str(machine / "kernels"), NUMBA_NUM_THREADS=value)
    done = train(machine, tmp_path / "r", "--threads", threads, **known)
    assert (done.returncode, done.stderr) == (0, "")


SETTINGS = [
    ({"NUMBA_DISABLE_JIT": "1"}, "NUMBA_DISABLE_JIT is set, so that Numba compiles nothing: unset it"),
    ({"NUMBA_THREADING_LAYER": "nonsense"}, "The threading layer requested 'nonsense' is unknown"),
    ({"NUMBA_THREADING_LAYER": "tbb"}, "No threading layer could be loaded"),
]


@pytest.mark.parametrize(
    ("variables", "says"), first_quick(SETTINGS), ids=["no compiler", "unknown layer", "missing layer"]
)
def test_what_cannot_be_repaired_gets_one_sentence_and_auto_goes_on(variables, says, machine, tmp_path):
    if "tbb" in variables.values():
        try:
            from numba.np.ufunc import tbbpool  # noqa: F401
        except ImportError:
            pass
        else:
            pytest.skip("root can write, but this machine has tbb, so that this layer works")
    known = dict(NUMBA_CACHE_DIR=str(machine / "kernels"), **variables)
    done = train(machine, tmp_path / "r", **known)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("minigan: ") and says in done.stderr and "numpy backend" in done.stderr
    done = train(machine, tmp_path / "r", "--backend", "auto", **known)
    assert done.returncode == 0 and re.search(r"^backend    numpy \(.*" + re.escape(says), done.stdout, re.M)
    expect_doctor(rf"backend  numba  does not run here: .*{re.escape(says)}", problems=1, **known)


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_every_threading_layer_that_is_here_works(layer, machine, tmp_path):
    known = dict(NUMBA_CACHE_DIR=str(machine / "kernels"), NUMBA_THREADING_LAYER=layer)
    done = train(machine, tmp_path / "r", **known)
    if done.returncode:
        pytest.skip(f"root can write, but {layer} is not here")
    assert done.stderr == ""
    expect_doctor(f"threads: {layer}, at most", problems=0, **known)


def test_a_variable_that_numba_cannot_read_is_named_in_one_sentence(machine, tmp_path):
    done = train(machine, tmp_path / "r", NUMBA_CACHE_DIR=str(machine / "kernels"), NUMBA_OPT="x")
    (line,) = done.stderr.splitlines()
    assert done.returncode == 0 and "NUMBA_OPT" in line and "could not be parsed" in line


@pytest.mark.parametrize(
    ("name", "value"),
    first_quick([("NUMBA_CPU_NAME", "nonsense"), ("NUMBA_CPU_FEATURES", "+rubbish"), ("NUMBA_CPU_NAME", "host")]),
)
def test_a_processor_that_llvm_does_not_know_is_ignored_with_one_sentence(name, value, machine, tmp_path):
    known = {"NUMBA_CACHE_DIR": str(machine / "kernels"), name: value}
    done = train(machine, tmp_path / "r", **known)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 0
    assert line == f"minigan: {name} is {value!r}, which LLVM does not know, and is ignored: correct or unset it"
    expect_doctor(f"^warning  {re.escape(line[9:])}", problems=1, **known)


@pytest.mark.slow
def test_a_processor_that_llvm_knows_is_used(machine, tmp_path):
    shutil.copytree(machine / "kernels", tmp_path / "kernels")
    known = dict(NUMBA_CACHE_DIR=str(tmp_path / "kernels"), NUMBA_CPU_NAME="generic")
    done = train(machine, tmp_path / "r", **known)
    assert (done.returncode, done.stderr) == (0, "")


def test_warnings_of_numba_become_one_line_each(recwarn):
    with package._warnings_as_sentences():
        package.warnings.warn("no lock\nA likely cause is\n  /dev/shm", stacklevel=1)
    assert [str(w.message) for w in recwarn] == ["Numba: no lock A likely cause is /dev/shm"]


# ---- a broken Numba


@pytest.mark.parametrize(
    ("error",),
    first_quick(
        [
            "ImportError('libLLVM.so: undefined symbol')",
            "RuntimeError('LLVM 99 is incompatible')",
            "OSError('cannot open shared object file')",
            "AttributeError('module has no attribute')",
            "SystemError('initialization failed')",
            "SystemExit('this Python is too new')",
            "ModuleNotFoundError('a part is missing')",
            "ModuleNotFoundError('a part is missing', name='numba._dispatcher')",
        ]
    ),
)
def test_a_numba_that_does_not_import_gets_one_sentence(error, machine, tmp_path):
    (tmp_path / "numba").mkdir()
    (tmp_path / "numba" / "__init__.py").write_text(f"raise {error}\n")
    text = re.search(r"'(.*?)'", error)[1]
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = train(machine, tmp_path / "r", PYTHONPATH=path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and text in done.stderr
    done = train(machine, tmp_path / "r", "--backend", "auto", PYTHONPATH=path)
    assert done.returncode == 0 and re.search(rf"^backend    numpy \(.*{text}", done.stdout, re.M)
    expect_doctor(f"backend  numba  does not run here: .*{text}", problems=1, PYTHONPATH=path)
    assert "pip install None" not in done.stdout and "pip install numba." not in done.stdout


@pytest.mark.parametrize(("end",), first_quick(["os.kill(os.getpid(), 11)", "os.abort()", "os._exit(3)"]))
def test_the_doctor_survives_a_numba_that_ends_the_process(end, tmp_path):
    (tmp_path / "numba").mkdir()
    (tmp_path / "numba" / "__init__.py").write_text(f"import os\n{end}\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    text = expect_doctor("backend  numba  ends the process with code", problems=1, PYTHONPATH=path)
    assert "backend  numpy  runs here" in text and "backend  cupy   does not run here" in text
    assert "auto     is not tried here, because numba ends the process" in text


def test_the_doctor_blames_the_backend_that_ends_the_process(machine, tmp_path):
    (tmp_path / "cupy").mkdir()
    (tmp_path / "cupy" / "__init__.py").write_text("import os\nos.abort()\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    text = expect_doctor("backend  cupy   ends the process with code", problems=1, PYTHONPATH=path,
                         NUMBA_CACHE_DIR=str(machine / "kernels"))  # fmt: skip
    assert "backend  numba  runs here" in text


def test_the_doctor_does_not_wait_forever(tmp_path, monkeypatch):
    (tmp_path / "numba").mkdir()
    (tmp_path / "numba" / "__init__.py").write_text("import time\ntime.sleep(1000)\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr(doctor, "TRIAL_SECONDS", 4)
    start = time.monotonic()
    crashes, warned = doctor.trial(("numpy", "numba"))
    assert time.monotonic() - start < 30
    assert (crashes, warned) == ({"numba": "does not start within 4 s"}, [])


@pytest.mark.parametrize("error", [RuntimeError("no such register\nand more"), TypeError(), OSError(12, "no memory")])
def test_a_compiler_that_fails_gets_one_sentence(error, monkeypatch):
    from minigan.backends.numba import backend

    def broken(x):
        raise error

    monkeypatch.setattr(backend, "double", broken)
    monkeypatch.setattr(package, "_ready", False)
    monkeypatch.setattr(backends, "_loaded", {})
    with pytest.raises(BackendUnavailable, match="the numba backend does not start here") as caught:
        backends.load("numba", threads=1)
    assert "\n" not in str(caught.value)
    chosen, line = backends.choose()
    assert chosen.name == "numpy" and "the numba backend does not start here" in line


def test_wrong_numbers_are_noticed(monkeypatch):
    from minigan.backends.numba import backend

    monkeypatch.setattr(backend, "double", lambda x: x.fill(3))
    monkeypatch.setattr(package, "_ready", False)
    monkeypatch.setattr(backends, "_loaded", {})
    with pytest.raises(BackendUnavailable, match="gives wrong numbers: upgrade numba"):
        backends.load("numba", threads=1)


# ---- the doctor itself


def test_a_section_that_fails_becomes_a_line(monkeypatch):
    monkeypatch.setattr(doctor, "trial", lambda names: ({}, []))
    for name in ("versions", "processor", "variables", "data", "plots", "running"):

        def broken():
            raise RuntimeError("this is broken\nwith details")
            yield

        broken.__name__ = name
        with monkeypatch.context() as patch:
            patch.setattr(doctor, name, broken)
            text = doctor.report()
        assert f"{name:<8} cannot be shown (RuntimeError: this is broken with details)" in text
        assert "summary  one problem found" in text


def test_advice_in_an_error_is_not_replaced():
    def broken():
        raise UserError("set MPLCONFIGDIR to a folder")
        yield

    (found,) = doctor.guarded(broken)
    assert "set MPLCONFIGDIR to a folder" in found.text and found.fix == "the line above says what to do"


def test_damaged_data_of_the_package_are_named(monkeypatch, tmp_path):
    from minigan import datasets

    monkeypatch.setattr(doctor, "trial", lambda names: ({}, []))
    monkeypatch.setattr(datasets, "MNIST_FOLDER", tmp_path)
    text = doctor.report()
    assert "the embedded MNIST images cannot be read" in text and "reinstall minigan" in text


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu.max": ""}, None),
        ({}, None),
    ],
)
def test_the_limit_of_a_container_is_read(files, limit, tmp_path):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert doctor.group_limit(tmp_path) == limit


def test_the_doctor_shows_versions_units_threads_and_folders():
    text = expect_doctor("summary  ")
    for topic in ("minigan", "numpy", "numba", "llvmlite", "cores", "cpu", "blas", "settings", "data", "plots", "auto"):
        assert re.search(rf"^{topic:<8} \S", text, re.M), topic
    assert "vector units: " in text and re.search(r"kernels: \d+ files, [\d.]+ MiB, in ", text)
