"""The work of `minigan train`: begin a run or resume one, on one process or on several ranks, and train it."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from minigan.backends import Backend
from minigan.backends import ranks as backend_ranks
from minigan.backends.ranks import Ranks
from minigan.errors import UserError
from minigan.runs import ranks as runs_ranks
from minigan.runs.describe import header
from minigan.runs.interrupt import Stopped
from minigan.runs.run import CONTENTS, DECAYED, begin, play, restore, resume
from minigan.runs.saved import read, read_config
from minigan.training import Config, Training
from minigan.training.config import RESUMABLE


def train(given: dict[str, Any], out: Path | None, resuming: bool, extend: bool, quiet: bool) -> int:
    """Train a new run, or resume one. Returns the exit code, which is 1 if a collapse stopped the run.

    `given` are the options of the command line. If mpirun started several processes, they train
    together, and rank 0 prints and writes. Raises UserError if that is not possible.
    """
    if extend and not resuming:
        raise UserError("--extend continues a run: add --resume")
    ranks = backend_ranks.world()
    leads = ranks is None or ranks.rank == 0
    quiet = quiet or not leads
    echo = (lambda *words, **options: None) if quiet else print
    out = out or Path("runs") / preset_of(given)
    training = (_resume if resuming else _begin)(given, out, extend, ranks)
    runs_ranks.expect_same(training)
    if leads:
        warn_unused(given, training.backend)
    echo(header(training, out, resuming))
    if training.decay_is_over() and not training.finished():
        echo(DECAYED)
    if training.finished():
        echo(f"{out} has already reached its total: to continue, give a larger --epochs, --steps or --minutes")
    elif training.backend.compiles:
        echo("preparing the kernels (compiled once on each machine, then cached on disk) ...", end=" ", flush=True)
        # The other ranks find the kernels that rank 0 has compiled.
        seconds = runs_ranks.together(ranks, training.warm_up, lambda: 0.0)
        runs_ranks.together(ranks, lambda: 0.0, training.warm_up)
        echo(f"{seconds:.1f} s")
    try:
        collapsed = play(training, out, quiet)
    except Stopped as stopped:
        print(
            f"minigan: stopped at step {training.step} and saved: resume with `minigan train --resume --out {out}`",
            file=sys.stderr,
        )
        return 128 + stopped.signal
    echo(_summary(training, out))
    return int(collapsed)


def preset_of(given: dict[str, Any]) -> str:
    """Return the name of the preset for these options."""
    return Config.of(**{name: given[name] for name in ("preset", "kind", "data") if name in given}).preset


def _begin(given: dict[str, Any], out: Path, extend: bool, ranks: Ranks | None) -> Training:
    """Create a new run. Only rank 0 creates its folder."""
    config, labels = Config.of(**given), given.get("conditional", False)
    return runs_ranks.together(
        ranks,
        lambda: begin(config, out, expect_labels=labels, ranks=ranks),
        lambda: begin(config, None, expect_labels=labels, ranks=ranks),
    )


def _resume(given: dict[str, Any], out: Path, extend: bool, ranks: Ranks | None) -> Training:
    """Resume a run. Rank 0 reads its files, and tells the others what is in them."""
    if ranks is None:
        return resume(out, extend=extend, **_changes(given, read_config(out), out))
    saved = runs_ranks.from_first(ranks, lambda: read(out))
    changes = _changes(given, saved.config, out)
    return runs_ranks.together(
        ranks,
        lambda: resume(out, extend=extend, ranks=ranks, **changes),
        lambda: restore(saved, extend=extend, ranks=ranks, **changes),
    )


def _changes(given: dict[str, Any], config: Config, out: Path) -> dict[str, Any]:
    """Return the options that a resumed run changes. Raises UserError if it cannot change one of those given."""
    for name, value in given.items():
        before = getattr(config, name)
        if isinstance(before, dict):  # convert text from the command line to numbers
            value = getattr(replace(config, **{name: before | value}), name)
        if name not in RESUMABLE and value != before:
            raise UserError(
                f"{out} was started with {name} {before}, got {name} {value}, which a resumed run cannot change: "
                f"leave out {name}, or start a new run"
            )
    return {name: value for name, value in given.items() if name in RESUMABLE}


def warn_unused(given: dict[str, Any], backend: Backend) -> None:
    """Print which GPU options have no effect because the backend does not use a GPU."""
    options = {"device": "device", "tf32": "tf32", "gpu_memory": "memory"}
    unused = [
        "--" + option.replace("_", "-")
        for option, setting in options.items()
        if given.get(option) is not None and setting not in backend.settings
    ]
    if unused:
        has = "has" if len(unused) == 1 else "have"
        print(f"minigan: {' and '.join(unused)} {has} no effect on the {backend.name} backend", file=sys.stderr)


def _summary(training: Training, out: Path) -> str:
    lines = [f"\n{training.step:,} steps, {training.seconds:.0f} s of training. In {out}:"]
    lines += [f"  {name:<16} {meaning}" for name, meaning in CONTENTS.items() if (out / name).exists()]
    readable = next((suffix for suffix in training.data.codec.suffixes if suffix != ".npy"), ".png")
    lines.append(f"Next: minigan sample {out} --count 100 --seed 1 --out more{readable}")
    return "\n".join(lines)
