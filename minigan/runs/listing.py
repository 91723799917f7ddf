"""Find the runs in a folder, and read what a list of them shows. Nothing is written, and no checkpoint is read."""

import csv
import io
import json
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minigan.runs.page import NAME

DEPTH = 4  # folders below the first one in which runs are looked for
LARGEST = 64_000_000  # bytes of a file that is read
HEAD = 400  # bytes of a page that say what its run does
SILENT = 300.0  # seconds without news, after which a run that was running may have been killed
STATE = re.compile(r'<html[^>]* data-state="([a-z]+)"')


@dataclass(frozen=True)
class Entry:
    """A run in a list. What could not be read is empty."""

    name: str  # its path inside the folder, with /
    path: Path
    changed: float  # when its newest file was written, in seconds since 1970
    preset: str = ""
    kind: str = ""
    data: str = ""
    state: str = "unknown"  # as in `report.page.report.STATES`
    epochs: str = ""
    steps: str = ""
    seconds: str = ""
    picture: Path | None = None
    has_page: bool = False


def find(folder: Path) -> list[Entry]:
    """Return the runs in a folder, the newest first. Links are not followed."""
    found, root = [], folder.resolve()
    for place, folders, files in os.walk(root):
        path = Path(place)
        if "config.json" in files and path != root and (entry := read_entry(root, path)) is not None:
            found.append(entry)
            folders.clear()  # a run contains no runs
        elif len(path.relative_to(root).parts) >= DEPTH:
            folders.clear()
        folders[:] = [name for name in folders if not name.startswith(".")]
    return sorted(found, key=lambda entry: (-entry.changed, entry.name))


def named(folder: Path, name: str) -> Entry | None:
    """Return the run with this name in a folder, or None. No other place can be named, and links are not followed."""
    root, parts = folder.resolve(), name.split("/")
    if not 0 < len(parts) <= DEPTH + 1 or any(part in ("", ".", "..") or part[0] == "." for part in parts):
        return None
    path = root.joinpath(*parts)
    try:
        as_given = path.resolve(strict=True) == path
    except (OSError, RuntimeError, ValueError):  # see `inside`
        return None
    return read_entry(root, path) if as_given else None


def read_entry(root: Path, path: Path) -> Entry | None:
    """Return the run in a folder, or None if it is gone or has no config that can be read."""
    config = _json(content(root, path / "config.json"))
    if not isinstance(config, dict) or "preset" not in config:
        return None
    page, rows = content(root, path / NAME, HEAD), history(root, path)
    changed = max(_changed(path / name) for name in ("config.json", "history.csv", "checkpoint.npz", NAME))
    state = STATE.search((page or b"").decode("utf-8", "replace"))
    last = rows[-1] if rows else {}
    return Entry(
        name=path.relative_to(root).as_posix(),
        path=path,
        changed=changed,
        preset=str(config["preset"]),
        kind=str(config.get("kind", "")),
        data=str(config.get("data", "")),
        state=state[1] if state else "unknown",
        epochs=last.get("epoch", ""),
        steps=last.get("step", ""),
        seconds=last.get("seconds", ""),
        picture=newest_picture(root, path),
        has_page=page is not None,
    )


def newest_picture(root: Path, path: Path) -> Path | None:
    """Return the picture that shows a run best: that of its last epoch, or final.png if this is newer."""
    pictures = [path / "final.png", *sorted((path / "samples").glob("epoch-*.png"))[-1:]]
    there = [picture for picture in pictures if inside(root, picture)]
    return max(there, key=_changed, default=None)


def history(root: Path, path: Path) -> list[dict[str, str]]:
    """Return the rows of history.csv, or no rows."""
    text = (content(root, path / "history.csv") or b"").decode("utf-8", "replace")
    try:
        return [{str(key): str(value) for key, value in row.items()} for row in csv.DictReader(io.StringIO(text))]
    except csv.Error:
        return []


def inside(root: Path, path: Path) -> bool:
    """Return whether a path is a regular file in the folder `root`, with no link that leads out of it."""
    try:
        return path.resolve(strict=True).is_relative_to(root.resolve()) and stat.S_ISREG(path.stat().st_mode)
    except (OSError, RuntimeError, ValueError):  # RuntimeError: links in a circle; ValueError: a zero byte in the name
        return False


def content(root: Path, path: Path, most: int = LARGEST) -> bytes | None:
    """Return at most `most` bytes of a file in the folder `root`, or None if it is not there, or leads out of it."""
    if not inside(root, path):
        return None
    try:
        with open(path, "rb") as file:
            return file.read(most)
    except OSError:
        return None


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _json(text: bytes | None) -> Any:
    try:
        return json.loads(text or b"")
    except (ValueError, RecursionError):
        return None
