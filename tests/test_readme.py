"""Tests that the README is true: its first two lines, and the files, commands and numbers that it names."""

import json
import math
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import minigan
from minigan.cli import main
from minigan.options import options, table
from minigan.training import Config

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")


def test_the_first_code_block_has_the_two_lines():
    block = re.search(r"(?:^    \S.*\n)+", README, re.M)[0]
    assert block.splitlines() == [
        "    python3 -m venv .venv && .venv/bin/pip install -e . && .venv/bin/minigan train",
        "    python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/python -m pytest",
    ]


DOCUMENTS = [path for path in ROOT.glob("**/README.md") if not {".venv", "_build"} & set(path.parts)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_every_link_leads_to_a_file(document):
    text = document.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)\)", text) + re.findall(r'src="([^":]+)"', text)
    assert links or document != ROOT / "README.md"
    for link in links:
        assert (document.parent / link).exists(), f"{document.name}: {link}"


def test_the_table_of_the_package_names_every_file_and_folder():
    package = ROOT / "minigan"
    text = (package / "README.md").read_text(encoding="utf-8")
    rows = text[text.index("## Where to find what") : text.index("## How to add things")]
    named = {name for row in re.findall(r"^\| (`[^|]+) \|", rows, re.M) for name in re.findall(r"`([^`]+)`", row)}
    found = {f"{path.name}/" if path.is_dir() else path.name for path in package.iterdir()}
    assert named == {n for n in found if n.endswith(("/", ".py")) and not n.startswith("__")}


@pytest.fixture
def own_data(tmp_path, monkeypatch) -> Path:
    """A folder with the files that the README's Python code reads, which is the current folder."""
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(256, size=(200, 8, 8, 1), dtype=np.uint8))
    np.save(tmp_path / "labels.npy", np.array(["cat", "dog"] * 100))
    monkeypatch.chdir(tmp_path)
    return tmp_path


PYTHON = re.search(r"^```python\n(.*?)^```", README, re.M | re.S)[1]


def expect_results(folder: Path) -> None:
    """Check what the README's Python code wrote and printed."""
    assert (folder / "samples.png").read_bytes().startswith(b"\x89PNG")
    assert minigan.load(folder / "runs" / "mine").n_epochs_ == 5


def test_the_python_code_runs_as_a_script(own_data):
    (own_data / "script.py").write_text(PYTHON)
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "['cat' 'dog']" in done.stdout and "epoch   6" in done.stdout + done.stderr
    expect_results(own_data)


def test_the_python_code_runs_in_a_thread(own_data):
    found: dict = {}
    thread = threading.Thread(target=exec, args=(PYTHON, found))
    thread.start()
    thread.join()
    assert found["gan"].n_epochs_ == 6 and found["new"].shape == (16, 8, 8, 1)
    expect_results(own_data)


def test_the_python_code_runs_in_a_notebook(own_data):
    """Each statement is a cell. The pictures of fit appear below its cell, and no warning is printed."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    cells = [nbformat.v4.new_code_cell(line) for line in PYTHON.splitlines() if line.strip()]
    cells.append(nbformat.v4.new_code_cell("gan.picture(10)"))
    book = nbformat.v4.new_notebook(cells=cells)
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbclient.NotebookClient(book, timeout=300, resources={"metadata": {"path": str(own_data)}}).execute()
    shown = {cell.source: [key for output in cell.outputs for key in output.get("data", {})] for cell in book.cells}
    fit = next(source for source in shown if source.startswith("gan.fit"))
    assert shown[fit].count("image/png") == 2 and "image/png" in shown["gan.picture(10)"]
    text = "".join(output.get("text", "") for cell in book.cells for output in cell.outputs)
    assert "epoch   6" in text and "Warning" not in text and "Traceback" not in text
    expect_results(own_data)


def test_the_table_of_tests_names_tests_that_exist():
    tests = ROOT / "tests"
    text = (tests / "README.md").read_text(encoding="utf-8")
    table = "\n".join(line for line in text.splitlines() if line.startswith("|"))
    named = re.findall(r"tests/(\w+\.py)(?:::(\w+))?", table)
    assert any(function for _, function in named)
    assert {file for file, _ in named} == {path.name for path in tests.glob("test_*.py")}
    for file, function in filter(all, named):
        assert f"def {function}(" in (tests / file).read_text(encoding="utf-8"), f"{file}::{function}"


def test_every_command_is_known(capsys):
    commands = set(re.findall(r"(?:^    |`)minigan (\w+)", README, re.M))
    assert {"train", "sample", "evaluate", "gradcheck", "bench", "doctor"} <= commands
    for command in sorted(commands):
        with pytest.raises(SystemExit) as end:
            main([command, "--help"])
        assert end.value.code == 0, command
    capsys.readouterr()


def result(name: str) -> dict:
    """Read a committed result of the benchmarks."""
    return json.loads((ROOT / "benchmarks" / "results" / name).read_text(encoding="utf-8"))


def significant(value: float, digits: int) -> str:
    """Format a number with at least this many significant digits."""
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(value)))}f}"


def test_the_quality_of_five_seeds_is_the_committed_one():
    reports = [result("default-run/evaluate.json"), *(result(f"seeds/digits-{seed}.json") for seed in (1, 2, 3, 4))]
    rows = {str(seed): report["samples"] for seed, report in enumerate(reports)}
    for name, f in (rows | {"real training images": reports[0]["real"]}).items():
        value = {key: figure["value"] for key, figure in f.items() if key != "classes"}
        parts = [f"{value['frechet']:.3f}", f"{value['coverage']:.3f}"]
        parts += [f"{100 * value[key]:.1f}%" for key in ("agreement", "confident")]
        assert f"| {' | '.join([name, *parts])} |\n" in RESULTS
    assert len({report["judge"] for report in reports}) == 1
    first, real = reports[0]["samples"], reports[0]["real"]
    text = " ".join(README.split())
    assert f"reads {100 * first['agreement']['value']:.1f}% of 10,000 samples as the requested digit" in text
    assert f"is {first['frechet']['value']:.3f}, compared with {real['frechet']['value']:.3f} for real" in text


def test_the_quality_after_minutes_is_the_committed_one():
    three, ten = result("time_to_quality.json"), result("time_to_quality_10.json")
    assert three["judge"] == ten["judge"] == result("default-run/evaluate.json")["judge"]
    for label, report, contender in (
        ("minigan, `digits`", three, "minigan digits"),
        ("minigan, `digits-wide`", ten, "minigan digits-wide"),
        ("minigan, `digits-unlabelled`", three, "minigan digits-unlabelled"),
        ("PyTorch's small DCGAN, without labels, fastest version", three, "torch small, best"),
        ("PyTorch's small DCGAN, without labels, plain version", three, "torch small, plain"),
    ):
        medians = report["medians"][contender]
        assert medians["seeds"] == 3
        row = (
            f"| {label} | {report['minutes']:.0f} | {significant(medians['frechet'], 3)} "
            f"| {significant(medians['frechet'] / report['real']['frechet'], 2)} | {medians['coverage']:.3f} "
            f"| {100 * medians['rarest digit']:.1f}% |\n"
        )
        assert row in README


def test_the_times_of_several_ranks_are_the_committed_ones(script):
    read, modelled = result("ranks.json"), script("bench_ranks").modelled
    seconds, model, ratios = read["seconds"], read["model"], sorted(read["ratios"])
    one, two = seconds["1 process, 2 threads"], seconds["2 ranks, 1 thread each"]
    times = f"{np.median(ratios):.2f} times as long"
    assert f"| {1000 * two:.1f} ms, {times} ({ratios[0]:.2f} to {ratios[-1]:.2f}) |" in RESULTS
    assert f"| one process, two threads | {1000 * one:.1f} ms |" in RESULTS
    claim = f"takes {1000 * two:.0f} ms with two ranks of one thread each, and {1000 * one:.0f} ms in one process"
    assert f"{claim} with two threads: {times}" in " ".join(README.split())
    for row in read["many"]:
        assert row["seconds"] == modelled(model, 256 * row["ranks"], row["ranks"])
        start = f"| {row['ranks']:,} | {1000 * row['seconds']:.1f} ms | {row['efficiency']:.3f} |"
        assert f"{start} {row['least batch']:,} |\n" in RESULTS
    shares = []
    for slower in (1, 10):
        network = model | {"bandwidth": model["bandwidth"] / slower}
        free = modelled(network | {"bytes": 0}, 256_000, 1000)
        shares.append(f"{100 * (1 - free / modelled(network, 256_000, 1000)):.1f}%")
    said = f"take {shares[0]} of a step of 1,000 ranks, and {shares[1]} of it with 1 Gbit/s"
    assert said in " ".join(RESULTS.split())
    lesson = (ROOT / "lessons" / "26_one_step_many_processes.py").read_text(encoding="utf-8")
    in_lesson = {
        name: float(value) for name, value in re.findall(r"(\w+)=([\d_.e-]+)", lesson.split("model = dict(")[1])
    }
    for name, value in model.items():
        assert in_lesson[name] == float(f"{value:.3g}") or in_lesson[name] == value, name


def test_the_times_of_all_frameworks_are_the_committed_ones():
    medians = {(r["preset"], r["batch"], r["contender"]): r["median_ms"] for r in result("peers.json")["results"]}
    for preset, batch in dict.fromkeys(key[:2] for key in medians):
        ours, plain, best, at_once, theirs = (
            medians[preset, batch, name]
            for name in ("minigan", "torch plain", "torch best", "minigan, at once", "tensorflow, at once")
        )
        cells = [f"{plain:.0f} ms", f"{best:.0f} ms", f"{ours / best:.2f}", f"{at_once:.0f} ms", f"{theirs:.0f} ms"]
        row = f"| `{preset}`, batch {batch} | {ours:.0f} ms | {' | '.join(cells)} | {at_once / theirs:.2f} |\n"
        assert row in README


def test_single_operations_and_two_threads_are_the_committed_ones():
    ops = result("ops.json")
    shares = {"convolutions": [r["over_torch"] for r in ops["results"] if r["rung"] == "numba"]}
    passes = [r for r in ops["passes"] if r["rung"] == "numba"]
    shares["batch norms"] = [r["over_torch"] for r in passes if r["operation"] != "adam"]
    assert max(r["over_torch"] for r in passes) < 1
    text = " ".join(RESULTS.split())
    for name, found in shares.items():
        claim = re.search(rf"{len(found)} {name}[^(]*\(([\d.]+) to ([\d.]+)", text)
        assert claim and claim.groups() == (f"{min(found):.2f}", f"{max(found):.2f}"), name
    threads = {(r["batch"], r["threads"]): r["median_ms"] for r in result("threads.json")["results"]}
    for batch in (128, 256):
        assert f"{threads[batch, 1] / threads[batch, 2]:.1f}" == "1.9"
    assert "With the preset `tutorial`, two threads are 1.9 times as fast as one" in text


def test_the_figures_of_the_shapes_are_the_committed_ones():
    report = result("shapes/evaluate.json")
    text = " ".join(README.split())
    assert f"{100 * report['agreement']:.1f}% of {report['count']:,} samples are classified as the shape" in text
    assert f"coverage is {report['samples']['coverage']:.3f}" in text
    assert report["classifier"] >= 0.98


def test_the_sizes_are_the_committed_ones():
    for row in result("sizes.json")["results"]:
        start = f"| {row['size'].replace('x', ' x ')} | `{row['preset']}` | {row['parameters']:,} |"
        assert f"{start} {row['median_ms']:.0f} ms | {row['MiB']} MiB |" in RESULTS


def test_the_times_with_subnormal_numbers_are_the_committed_ones():
    after, before = (result(f"subnormal{name}.json")["results"] for name in ("", "-before"))
    for row in after:
        times = " | ".join(f"{row[kind]['median_ms']:.2f} ms" for kind in ("ordinary", "subnormal"))
        start = f"| {row['case']} | {row['backend']} | {row['threads']} | "
        assert f"{start}{times} | {row['ratio']:.2f} |\n" in RESULTS
        assert row["ratio"] <= 1.4 and row["subnormal numbers left"] == 0
    left = [row["subnormal numbers left"] for row in before]
    text, ratios = " ".join(RESULTS.split()), [row["ratio"] for row in before]
    assert f"has ratios between {min(ratios)} and {max(ratios)} here" in text
    assert f"are 0, and {min(left):,} to {max(left):,} in the version before" in text
    kernels = " ".join((ROOT / "minigan/backends/numba/README.md").read_text(encoding="utf-8").split())
    ratios = [row["ratio"] for row in after]
    assert f"the times are between {min(ratios)} and {max(ratios)}, and" in kernels


def test_the_costs_of_options_are_the_committed_ones():
    rows = result("options.json")["results"]
    costs = ", ".join(f"{row['option']} {row['ratio']:.2f}" for row in rows[1:])
    assert rows[0]["option"] == "none" and costs in " ".join(RESULTS.split())


def test_the_table_of_options_agrees_with_config():
    """`python -m minigan.training` writes it."""
    text = (ROOT / "minigan" / "README.md").read_text(encoding="utf-8")
    found = text.split("<!-- options:begin -->\n")[1].split("\n<!-- options:end -->")[0]
    assert found == table(Config)
    assert all(this.flag is None or f"`{this.flag}`" in found for this in options(Config).values())


def test_the_number_of_planted_mistakes_is_that_of_the_table():
    """tests/test_planted.py compares the table with the outcomes."""
    table = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    planted, caught = re.search(r"^\| \*\*all\*\* \| (\d+) \| (\d+) \|", table, re.M).groups()
    assert f"They catch {caught} of {planted}" in README
