"""Write the page, or the pictures, on which to explore what the generator of a run makes."""

import contextlib
from pathlib import Path

import numpy as np

from minigan import export
from minigan.errors import UserError
from minigan.export import Exported
from minigan.report import explorer
from minigan.runs.export import translated, write
from minigan.runs.saved import Saved, generator, read
from minigan.training import checkpoint

# ---------------------------------------------------------------- the page


def page(run: Path, out: Path | None = None) -> Path:
    """Write the page of a run, by default RUN/explorer.html, and return its path. See `write_page`."""
    saved = read(run)
    out = run / "explorer.html" if out is None else out
    write_page(saved, out)
    return out


def write_page(saved: Saved, out: Path) -> None:
    """Write the page of a generator, with the checkpoints in the folder of its run, if there is one.

    Raises UserError if the page cannot show its samples, or if the file cannot be written.
    """
    if out.suffix != ".html":
        raise UserError(f"the page is written to a .html file, got {out}: give another --out")
    found, facts = translated(saved), saved.facts
    weights = sum(value.size for value in found.arrays().values())
    data = f"trained on {facts['data']['name']}: {facts['step']:,} steps"
    line = f"Generator of preset {saved.config.preset}, {weights:,} weights, {data}"
    name = saved.out.resolve().name
    write(out, explorer.page(found, name, line, _scrubber(saved, found)).encode("utf-8"))


def _scrubber(saved: Saved, found: Exported) -> explorer.Scrubber:
    """Return the earlier checkpoints of a run, evenly spaced, as many as fit into the page."""
    facts, fit = saved.facts, explorer.room(found)
    last = f"epoch {facts['epoch']}, step {facts['step']:,}"
    if fit < 2:
        reason = "fewer than two checkpoints of this size fit into 1 MB"
        return explorer.Scrubber((), last, f"There is no slider for the training, because {reason}.")
    kept = {path.stem.removeprefix("epoch-"): path for path in (saved.out / "checkpoints").glob("epoch-*.npz")}
    epochs = {int(number): path for number, path in kept.items() if number.isdecimal()}
    earlier = sorted(epoch for epoch in epochs if epoch < facts["epoch"] or facts["cursor"])
    places = np.linspace(0, len(earlier) - 1, min(fit, len(earlier))).round().astype(int)
    checkpoints = []
    for epoch in (earlier[place] for place in places):
        with contextlib.suppress(checkpoint.CheckpointError):  # a damaged one is left out
            arrays, at = checkpoint.load(epochs[epoch])
            then = generator(saved._replace(arrays=arrays))
            checkpoints.append((f"epoch {epoch}, step {at['step']:,}", export.arrays_of(then)))
    if not checkpoints:
        reason = "the run kept no earlier checkpoint that can be read"
        return explorer.Scrubber((), last, f"There is no slider for the training, because {reason}.")
    return explorer.Scrubber(checkpoints, last)
