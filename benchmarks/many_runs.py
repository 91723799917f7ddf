"""Run many trainings in processes of their own, and keep the results in one JSON file.

`alarm.py`, `explain.py` and `bench_tables.py` use it. The file has a line for each run, in the order of the list, so
that a diff shows which runs are new. It is written after every run, and a repeated command skips the runs that it
contains.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from minigan.files import write_atomically
from minigan.lab import bench


class Results:
    """The results of runs by name, and their file, if there is one. `facts` are stored with them."""

    def __init__(self, names: Sequence[str], file: Path | None, facts: dict[str, Any]):
        self.names, self.file, self.facts = names, file, facts
        stored = json.loads(file.read_text())["runs"] if file and file.exists() else []
        self.by_name = {result["name"]: result for result in stored}

    @property
    def runs(self) -> list[dict]:
        """The results so far, in the order of the names."""
        return [self.by_name[name] for name in self.names if name in self.by_name]

    def add(self, result: dict) -> None:
        """Add a result, and write the file."""
        self.by_name[result["name"]] = rounded(result)
        if self.file:
            head = {"machine": bench.machine(), "when": datetime.now(UTC).isoformat()[:19], **self.facts}
            lines = ",\n  ".join(json.dumps(run) for run in self.runs)
            write_atomically(self.file, f'{json.dumps(head)[:-1]}, "runs": [\n  {lines}\n]}}\n'.encode())


def rounded(value: Any) -> Any:
    """Return a value for JSON, with five significant digits of every float."""
    if isinstance(value, dict):
        return {name: rounded(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def place(name: str, work: Path) -> Path:
    """Return the file in which the process of a run writes its result."""
    return work / f"{re.sub(r'[^A-Za-z0-9.,=; -]+', '_', name)}.json"


def run_all(script: str, chosen: Sequence[str], results: Results, work: Path, jobs: int, threads: int = 1) -> None:
    """Call `script --one NAME --work FOLDER` for each run that is missing, `jobs` at a time with `threads` each."""

    def start(name: str) -> None:
        if name in results.by_name:
            return
        environment = os.environ | dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), str(threads))
        command = [sys.executable, script, "--one", name, "--work", str(work)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode == 0:
            results.add(json.loads(place(name, work).read_text()))
        said = "done" if done.returncode == 0 else f"failed: {done.stderr.strip().splitlines()[-1:]}"
        print(f"{datetime.now():%H:%M:%S} {name}: {said}", flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(start, chosen))
