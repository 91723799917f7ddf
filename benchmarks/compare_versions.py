"""Compare the results and the speed of two versions of minigan.

    python benchmarks/compare_versions.py bits --old OLD/bin/python --new NEW/bin/python [--presets NAME ...]
    python benchmarks/compare_versions.py resume --old OLD/bin/python --new NEW/bin/python
    python benchmarks/compare_versions.py speed --old OLD/bin/python --new NEW/bin/python [--pairs 20] [--json FILE]
    python benchmarks/compare_versions.py compile --old OLD/bin/python --new NEW/bin/python [--pairs 5]

A version is given by the Python of an environment in which it is installed. --old-path and
--new-path name a clone to import minigan from instead. Each run is a separate process.

`bits` trains with both versions and compares all arrays of the two checkpoints bit for bit,
matched by NAMES. `resume` trains with the old version and resumes the run with both. `speed`
runs whole processes in turns (old, new, new, old, ...) with cached kernels. It reports the
median ratio new/old of the wall times and of the seconds of training, each with a 95%
confidence interval (bootstrap over the pairs). `compile` does the same with an empty kernel
cache. The exit code is 1 if any bit differs. Run nothing else during the measurement. Pass
the same version twice to measure the noise.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from minigan.lab import bench

# Pattern of an old array name in a checkpoint -> the new name. Format 2 has the same names as format 1.
NAMES = {r"(G|D|opt_g|opt_d|average)\.(.+)": r"\1.\2", r"curves": "curves"}
PRESETS = ("digits", "digits-unlabelled", "digits-wide", "small", "tutorial", "mlp", "mp-gan", "upsample")
SPEED_STEPS = {"digits": 250, "small": 60, "tutorial": 8}  # two to four seconds of training on two cores


@dataclass(frozen=True)
class Version:
    """A Python, and the clone that it imports minigan from. Without a path, it imports the installed minigan."""

    python: str
    path: str | None = None

    def run(self, *arguments: str, cwd: Path | str, **environment: str) -> str:
        """Run this Python and return its standard output. Ends the program if the process fails."""
        for name, value in os.environ.items():
            if name not in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "PYTHONPATH"):
                environment.setdefault(name, value)
        if self.path is not None:
            environment["PYTHONPATH"] = self.path
        command = [self.python, *arguments]
        done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
        return done.stdout

    def package(self) -> str:
        """Return the version and the folder of minigan, which are printed with the results."""
        code = "import minigan; print(minigan.__version__, *minigan.__path__)"
        with tempfile.TemporaryDirectory() as folder:  # because Python imports from its working folder
            return self.run("-c", code, cwd=folder).strip()


def train(version: Version, out: Path, *options: str, cache: Path | None = None) -> float:
    """Run `minigan train` and return the seconds of the whole process."""
    environment = {} if cache is None else {"NUMBA_CACHE_DIR": str(cache)}
    start = time.perf_counter()
    version.run("-m", "minigan", "train", "--quiet", "--out", str(out), *options, cwd=out.parent, **environment)
    return time.perf_counter() - start


def read(out: Path) -> tuple[dict[str, np.ndarray], dict]:
    """Return (arrays, facts) of the run's checkpoint."""
    with np.load(out / "checkpoint.npz", allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    return arrays, json.loads(str(arrays.pop("facts")))


def renamed(name: str) -> str | None:
    """Return the new name of an old array name by NAMES, or None."""
    for pattern, now in NAMES.items():
        if match := re.fullmatch(pattern, name):
            return match.expand(now)
    return None


def differences(old: dict[str, np.ndarray], new: dict[str, np.ndarray]) -> list[str]:
    """Return a line for each array that is missing in one checkpoint or differs in any bit."""
    lines, left = [], set(new)
    for name, a in old.items():
        now = renamed(name)
        if now not in left:  # missing, or already matched by another old name
            lines.append(f"{name}: only in the old checkpoint")
            continue
        left.discard(now)
        b = new[now]
        if a.dtype != b.dtype or a.shape != b.shape:
            lines.append(f"{name}: {a.dtype} {a.shape} against {b.dtype} {b.shape}")
        elif a.tobytes() != b.tobytes():
            p, q = (np.ascontiguousarray(x).reshape(-1, 1).view(np.uint8) for x in (a, b))  # (elements, bytes of one)
            differ = (p != q).any(axis=1)  # compares bytes, so that NaN equals itself and -0.0 differs from 0.0
            largest = np.abs(a.astype(np.float64) - b.astype(np.float64)).max()
            lines.append(f"{name}: {differ.sum():,} of {a.size:,} differ, by up to {largest:.1e}")
    return lines + [f"{name}: only in the new checkpoint" for name in sorted(left)]


def bits(options) -> int:
    """Train every case with both versions; return the number of cases that differ."""
    wrong = 0
    for preset in options.presets or PRESETS:
        for backend in options.backends:
            for threads in options.threads:
                with tempfile.TemporaryDirectory() as folder:
                    given = ["--preset", preset, "--backend", backend, "--threads", str(threads), "--seed", "0"]
                    runs = []
                    for version in (options.old, options.new):
                        out = Path(folder) / f"run{len(runs)}"
                        train(version, out, *given, "--steps", str(options.steps))
                        runs.append(read(out)[0])
                wrong += report(f"{preset:18s} {backend:6s} {threads} threads", *runs)
    return wrong


def resume(options) -> int:
    """Resume runs of the old version with both versions; return the number of cases that differ."""
    wrong = 0
    for preset in options.presets or ("digits", "small", "tutorial"):
        for backend in options.backends:
            with tempfile.TemporaryDirectory() as folder:
                given = ["--preset", preset, "--backend", backend, "--seed", "0", "--steps", str(options.steps)]
                runs = []
                for version in (options.old, options.new):
                    out = Path(folder) / f"run{len(runs)}"
                    train(options.old, out, *given)
                    train(version, out, "--resume", "--steps", str(2 * options.steps))
                    runs.append(read(out)[0])
            wrong += report(f"{preset:18s} {backend:6s} resumed", *runs)
    return wrong


def report(what: str, old: dict[str, np.ndarray], new: dict[str, np.ndarray]) -> int:
    """Print the differences; return 1 if there are any, else 0."""
    lines = differences(old, new)
    print(f"{what}: {f'{len(lines)} of {len(old)} arrays differ' if lines else f'all {len(old)} arrays are equal'}")
    for line in lines[:5] + ([f"and {len(lines) - 5} more"] if len(lines) > 5 else []):
        print(f"    {line}")
    sys.stdout.flush()
    return bool(lines)


def interval(ratios: np.ndarray) -> tuple[float, float, float]:
    """Return the median and the ends of its 95% bootstrap interval."""
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(ratios, (10_000, len(ratios))), axis=1)
    return float(np.median(ratios)), *map(float, np.quantile(medians, (0.025, 0.975)))


def pairs(options, what: str, cold: bool, *given: str) -> dict:
    """Time whole processes of both versions in turns; return the ratios of their times."""
    walls, trained = [], []
    with tempfile.TemporaryDirectory() as folder:
        for pair in range(-1, options.pairs):  # the first pair warms up and is not counted
            wall, seconds = [0.0, 0.0], [0.0, 0.0]  # old version, new version
            for k in (0, 1) if pair % 2 == 0 else (1, 0):
                out = Path(folder) / f"{pair}-{k}"
                cache = Path(folder) / f"cache-{pair}-{k}" if cold else None
                wall[k] = train((options.old, options.new)[k], out, *given, cache=cache)
                seconds[k] = read(out)[1]["seconds"]
            if pair >= 0:
                walls.append(wall)
                trained.append(seconds)
    row = {"what": what, "pairs": options.pairs}
    for name, times in (("wall", np.array(walls)), ("training", np.array(trained))):
        median, low, high = interval(times[:, 1] / times[:, 0])
        old, new = np.median(times, axis=0)
        row[name] = {"old_s": old, "new_s": new, "ratio": median, "interval": [low, high]}
        print(f"{what:12s} {name:9s} old {old:6.2f} s  new {new:6.2f} s  ratio {median:.3f} [{low:.3f}, {high:.3f}]")
    sys.stdout.flush()
    return row


def main() -> int:
    """Run the comparison; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["bits", "resume", "speed", "compile"])
    parser.add_argument("--old", required=True, metavar="PYTHON")
    parser.add_argument("--new", required=True, metavar="PYTHON")
    parser.add_argument("--old-path", metavar="FOLDER", help="a clone to import the old version from")
    parser.add_argument("--new-path", metavar="FOLDER", help="a clone to import the new version from")
    parser.add_argument("--presets", nargs="+", metavar="NAME")
    parser.add_argument("--backends", nargs="+", default=["numpy", "numba"], metavar="NAME")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], metavar="N")
    parser.add_argument(
        "--steps", type=int, default=20, metavar="N", help="steps of each run of bits and resume (default 20)"
    )
    parser.add_argument(
        "--pairs", type=int, default=20, metavar="N", help="pairs of runs of speed and compile (default 20)"
    )
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    for side in ("old", "new"):
        python, clone = getattr(options, side), getattr(options, f"{side}_path")
        version = Version(str(Path(python).absolute()), clone and str(Path(clone).absolute()))
        setattr(options, side, version)
        print(f"{side}: minigan {version.package()}")
    if options.what in ("bits", "resume"):
        wrong = (bits if options.what == "bits" else resume)(options)
        print(f"{wrong} cases differ" if wrong else "no bit differs")
        return int(bool(wrong))
    cold = options.what == "compile"
    rows = []
    for preset in options.presets or (("digits",) if cold else SPEED_STEPS):
        steps = 1 if cold else SPEED_STEPS.get(preset, 20)
        rows.append(pairs(options, preset, cold, "--preset", preset, "--backend", "numba", "--steps", str(steps)))
    if options.json:
        packages = {"old": options.old.package(), "new": options.new.package()}
        about = {"what": options.what, "when": datetime.now(UTC).isoformat(timespec="seconds")}
        about |= {"machine": bench.machine(), "versions": packages}
        Path(options.json).write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
