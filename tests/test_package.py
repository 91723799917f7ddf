"""Test the wheel: it contains all files that minigan needs, and it works outside the clone."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(*command, cwd: Path, **environment: str) -> str:
    """Run Python with these arguments and environment variables, and return its output."""
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Build the wheel from a copy of the clone, because a build leaves files in its folder."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("minigan", "lessons", "tests"):  # lessons and tests must not be in the wheel
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    (source / "minigan" / "__pycache__").mkdir()
    (source / "minigan" / "__pycache__" / "stale.pyc").write_bytes(b"must not be in the wheel")
    offline = ("--no-deps", "--no-build-isolation", "--no-index")  # setuptools is in `minigan[test]`
    run("-m", "pip", "wheel", "-q", *offline, "-w", out, source, cwd=out)
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_contains_every_file_of_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "minigan").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert held == files
    needed = ("mnist/train-images-idx3-ubyte.gz", "judge.npz", "kernels.cu", "mistakes/losses.toml")
    assert all(any(name.endswith(end) for name in held) for end in needed)


def test_the_licence_of_all_embedded_data_is_said_where_people_look():
    licences = {"mnist": "CC-BY-SA-3.0", "penguins": "CC0-1.0"}  # by SPDX
    assert {path.parent.name for path in (ROOT / "minigan" / "datasets").glob("*/README")} == set(licences)
    readme, license, project, citation = (
        (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "LICENSE", "pyproject.toml", "CITATION.cff")
    )
    section = readme[readme.index("## Data and licence") :]
    for name, spdx in licences.items():
        page = (
            "https://creativecommons.org/"
            + {"mnist": "licenses/by-sa/3.0/", "penguins": "publicdomain/zero/1.0/"}[name]
        )
        next_to = (ROOT / "minigan" / "datasets" / name / "README").read_text(encoding="utf-8")
        assert "Licence: " in next_to and all(page in text for text in (next_to, section, license))
        assert f"(minigan/datasets/{name}/README)" in section and f"minigan/datasets/{name}" in license
        assert spdx in project and spdx in citation


@pytest.mark.slow
def test_the_wheel_works_outside_the_clone(wheel, tmp_path):
    """Install the wheel outside the clone, and run train, doctor and gradcheck from an empty folder."""
    installed, here = tmp_path / "installed", tmp_path / "here"
    here.mkdir()
    run("-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", installed, wheel, cwd=here)
    path = {"PYTHONPATH": str(installed)}
    where = run("-c", "import minigan; print(minigan.__file__)", cwd=here, **path)
    assert where.strip() == str(installed / "minigan" / "__init__.py")
    options = ["--preset", "small", "--batch", "4", "--backend", "numpy", "--quiet", "--out", "run"]
    run("-m", "minigan", "train", "--steps", "2", *options, cwd=here, **path)
    assert (here / "run" / "final.png").exists()
    assert "70,000 embedded MNIST images, whole" in run("-m", "minigan", "doctor", cwd=here, **path)
    assert "numpy: " in run("-m", "minigan", "gradcheck", "--backend", "numpy", cwd=here, **path)
    mistakes = "from minigan.checking.planted import MISTAKES, changed; print(len([changed(m) for m in MISTAKES]))"
    assert int(run("-c", mistakes, cwd=here, **path)) >= 134
    judge = "from minigan.metrics.judge import WEIGHTS; print(WEIGHTS.exists())"
    assert run("-c", judge, cwd=here, **path) == "True\n"
