"""Explain a run: read its records, check its newest checkpoint, and apply the rules of `metrics.explain`."""

import itertools
import shlex
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from minigan.datasets import listing
from minigan.errors import UserError
from minigan.layers import Sequential
from minigan.metrics import explain as rules
from minigan.metrics.alarm import KNOWN
from minigan.metrics.collapse import FIGURES, FLOOR, Reference, nearest_other
from minigan.metrics.explain import Statement
from minigan.metrics.features import Standardiser, describe
from minigan.runs.checks import Checks
from minigan.runs.run import DIVERGED, restore
from minigan.runs.saved import Saved, generator, read
from minigan.training import Config, Training, checkpoint
from minigan.training.config import command_line, from_command_line

SHOWN = 1024  # samples of each sort that D is shown, more than in a check during the training
FEWEST, COMPARED = 10, 5000  # with fewer or more training samples, copies of them are not looked for
MOMENTS, DRAWS = 3, 3  # earlier generators whose samples are compared, and draws of each
RARE = 0.05  # quantile of the distances between real samples below which a fake is a copy


@dataclass(frozen=True)
class Explanation:
    """What happened in a run: its statements, the verdict first, the figures, and what could not be measured."""

    statements: list[Statement]
    figures: dict[str, float]
    notes: list[str]

    @property
    def verdict(self) -> str:
        """The verdict: the first statement's."""
        return self.statements[0].verdict

    def facts(self) -> dict[str, Any]:
        """Return everything as a dictionary for JSON."""
        return {"verdict": self.verdict, **asdict(self)}

    def __str__(self) -> str:
        """Return the explanation for people."""
        lines = [f"verdict: {self.verdict}"]
        for statement in self.statements:
            lines += ["", f"{statement.text}."]
            if statement.helps:
                what = "next" if statement.verdict in ("healthy", "unfinished") else "what usually helps, in this order"
                lines += [f"  {what}:", *(f"    {command}" for command in statement.helps)]
        return "\n".join([*lines, *([""] if self.notes else []), *(f"note: {note}" for note in self.notes)])


def explain_run(out: Path, data: str | None = None, **backend: Any) -> Explanation:
    """Explain the run in `out`, finished or not. Nothing in its folder changes.

    `data` is the new path of data that were moved, and `backend` changes options such as `threads`.
    Without the data, only the records are used, which is noted. Raises UserError if `out` is not
    the folder of a run.
    """
    saved, notes = read(out), []
    training: Training | None = None
    try:
        training = restore(saved, data, **backend)
    except UserError as error:
        notes.append(f"only the records of the run were used, because {error}")
    return _explain(saved, training, notes)


def explain_training(training: Training, out: Path | str, checks: Checks | None = None) -> Explanation:
    """Explain a training in its present state. `out` is the name of its run in commands.

    `checks` of the same training, if there are any, need not be prepared again.
    """
    return _explain(Saved(Path(out), training.config, *training.state()), training, [], checks)


def explain_records(training: Training, out: Path | str) -> Explanation:
    """Explain a training from its records and its last check alone. Nothing is measured, so this takes no time."""
    curves = {"curves": np.array(training.curves)}
    facts = {"history": training.history, "data": {"shape": [len(training.data)]}, "epoch": training.epoch}
    return _explain(Saved(Path(out), training.config, curves, facts), None, [], done=training.progress())


def _explain(
    saved: Saved, training: Training | None, notes: list[str], checks: Checks | None = None, done: float | None = None
) -> Explanation:
    """Explain a run, from its records and, if there is a training, from the state of its networks."""
    out = saved.out
    curves = np.asarray(saved.arrays.get("curves", []), np.float32).reshape(-1, len(Training.CURVES))
    of_steps = {name: curves[:, i] for i, name in enumerate(Training.CURVES)}
    figures = rules.of_history(saved.facts["history"], of_steps)
    figures |= {"samples": float(saved.facts["data"]["shape"][0]), "epochs": float(saved.facts["epoch"])}
    reason = (out / DIVERGED).read_text(encoding="utf-8").strip() if (out / DIVERGED).exists() else ""
    figures["diverged"] = float(bool(reason))
    words: dict[str, Any] = {"modes_are": "modes", "missing_names": ""}
    if done is not None:
        figures["done"] = done
    if training is not None:
        figures["done"] = training.progress()
        figures = {name: value for name, value in figures.items() if name not in FIGURES}  # of an earlier check
        figures |= measured(training, words, kept_generators(saved), checks)
    figures.pop("check_seconds", None)  # says nothing of the run
    if "d_right_held_out" in figures:
        figures["memory"] = figures["d_right_train"] - figures["d_right_held_out"]
    else:
        notes.append("no data are held out (--hold-out 0.05), so whether D memorises its training data is not known")
    if "d_right_fakes" in figures:
        figures["told"] = (figures["d_right_train"] + figures["d_right_fakes"]) / 2
    if figures.get("labels_known", 0) > KNOWN:
        figures["followed"] = figures["labels_followed"] / figures["labels_known"]
    c = saved.config
    words |= {
        "run": shlex.quote(str(out)),
        "reason": reason,
        "lr_g_small": c.lr_g / 3,
        "lr_d_small": c.lr_d / 3,
        "lr_d_large": c.lr_d * 3,
        "fewer_epochs": max(1, saved.facts["epoch"] // 2),
        "more_epochs": max(2, 2 * saved.facts["epoch"]),
    }
    statements = rules.explain(figures, words, lambda changes: command_again(c, changes, out))
    return Explanation(statements, figures, notes)


def command_again(config: Config, changes: str, out: Path | str) -> str | None:
    """Return the command that trains the run in `out` again with other options.

    Returns None if they are not possible in this run, or change nothing.
    """
    try:
        text = command_line(config, changes)
        configs = (from_command_line(options) for options in (command_line(config), text))
        now, changed = (replace(one, kind_reason="") for one in configs)
    except UserError:
        return None
    return None if now == changed else f"minigan train {text} --out {shlex.quote(f'{out}-again')}"


def kept_generators(saved: Saved) -> list[Sequential]:
    """Return the generators of the last MOMENTS kept checkpoints of the second half of a run, the oldest first."""
    found = []
    epochs = sorted(int(path.stem.removeprefix("epoch-")) for path in (saved.out / "checkpoints").glob("epoch-*.npz"))
    for epoch in epochs[::-1][: MOMENTS + 1]:
        try:
            arrays, facts = checkpoint.load(saved.out / "checkpoints" / f"epoch-{epoch:04d}.npz")
        except checkpoint.CheckpointError:
            continue
        if saved.facts["step"] / 2 <= facts["step"] < saved.facts["step"]:
            found.append(generator(saved._replace(arrays=arrays)))
    return found[:MOMENTS][::-1]


def measured(
    training: Training, words: dict[str, Any], earlier: list[Sequential], checks: Checks | None = None
) -> dict[str, float]:
    """Return the figures of the newest checkpoint, and of `earlier` generators. Names of modes are added to `words`."""
    checks = Checks(training) if checks is None else checks
    checks.shown = SHOWN
    found = checks.measure()
    features = describe(checks.fakes(np.random.default_rng(0)))
    if FEWEST <= len(training.data) <= COMPARED:
        real = describe(checks.real(np.arange(len(training.data))))
        standardise = Standardiser(real, FLOOR)
        found["copied"] = copied(standardise(features), standardise(real))
    if checks.reference is None:
        return found
    missing = checks.reference.missing(features)
    found["missing"] = float(len(missing))
    names = training.data.class_names
    if checks.reference.known and names:
        words["modes_are"] = "classes"
        if missing:
            words["missing_names"] = f", without {listing([names[k] for k in missing])}"
    else:
        words["modes_are"] = "groups of similar samples"
    if earlier:
        moments = [generator.to(training.backend) for generator in earlier] + [training.sampler.generator]
        shares = [mean_shares(checks, checks.reference, one) for one in moments]
        found["moved"] = float(np.mean([np.abs(a - b).sum() / 2 for a, b in itertools.pairwise(shares)]))
    return found


def mean_shares(checks: Checks, reference: Reference, generator: Sequential) -> np.ndarray:
    """Return the share (K,) of a generator's samples in each mode, the mean over DRAWS draws of equal noise."""
    draws = (checks.fakes(np.random.default_rng(i), generator=generator) for i in range(DRAWS))
    return np.mean([reference.shares(describe(fakes)) for fakes in draws], axis=0)


def copied(fakes: np.ndarray, real: np.ndarray) -> float:
    """Return the share of fakes (M, F) that are nearer to a real sample (N, F) than RARE of the real ones to another.

    It is RARE if the fakes are other samples of the same data.
    """
    limit = np.quantile(nearest_other(real), RARE)
    nearest = [np.sqrt(((real - fake) ** 2).sum(axis=1).min()) for fake in fakes]
    return float((np.array(nearest) < limit).mean())
