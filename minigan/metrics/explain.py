"""Explain a training: rules that read its figures and say in plain words what happened.

    for statement in explain(figures, names):
        print(statement.verdict, statement.text, statement.helps)

RULES is the whole of it: each rule has a verdict, conditions on figures, the sentence with its
evidence, and what usually helps, in this order: changes of the options of the run, or whole
commands. The first rule that holds is the verdict of the run, and each further one that holds is
said as well. A figure that was not measured
makes no condition true. `of_history` computes figures from records, and `runs.explain` adds those
of the newest checkpoint, which `metrics.collapse` describes.

    name               meaning
    diverged           1 if the run stopped because a number was no longer finite, else 0
    done               completed fraction of the total, 1 for a finished run
    epochs             passes over the data
    samples            number of training samples
    lead               mean of D(real) - D(fake) over the last tenth of the steps
    d_real, d_fake     the same means of D(real) and D(fake)
    swing              how far the lead swings slowly: in the second half, the range from the 10% to
                       the 90% quantile of its means over a fortieth of the run each
    turns              how often these means change between the outer thirds of their range
    moved              share of the samples that are in another mode in the next kept checkpoint of the
                       second half of the run: half the sum of |change of a mode's share|, mean over
                       checkpoints; a random draw alone gives about 0.05
    missing            number of modes in which there are nearly no fakes
    memory             share of training samples that D takes for real, minus that of held-out ones
    copied             share of fakes that are nearer to a training sample than nearly all real
                       samples are to another one
    followed           labels_followed / labels_known: agreement with the labels asked for, relative
                       to real samples
    told               mean of d_right_train and d_right_fakes: how often D is right about training
                       samples and fakes; 0.5: it cannot tell them apart
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from minigan.metrics.alarm import KNOWN
from minigan.metrics.collapse import FIGURES

UNCLEAR = "unclear"  # the verdict if no rule holds
Condition = tuple[str, str, float]  # (figure, "<" or ">", limit)


@dataclass(frozen=True)
class Rule:
    """A verdict, the conditions that must all hold, the sentence, and changes or commands that usually help."""

    verdict: str
    when: tuple[Condition, ...]
    says: str
    helps: tuple[str, ...] = ()

    def holds(self, figures: dict[str, float]) -> bool:
        """Return whether every condition holds. A figure that is absent makes its condition false."""
        return all(
            name in figures and (figures[name] < limit if sign == "<" else figures[name] > limit)
            for name, sign, limit in self.when
        )


RULES = (
    Rule(
        "diverged",
        (("diverged", ">", 0.5),),
        "The run diverged: {reason}",
        (
            "--lr-g {lr_g_small:.2g} --lr-d {lr_d_small:.2g}",
            "--clip-norm 1",
            "--penalty r1",
        ),
    ),
    Rule(
        "G copies training images",
        (("copied", ">", 0.5),),
        "The generator copies training samples: {copied:.0%} of its samples are nearer to one than real samples are "
        "to each other, of which there are {samples:,.0f}",
        ("--data MORE-DATA", "--epochs {fewer_epochs:.0f}"),
    ),
    Rule(
        "labels ignored",
        (("labels_known", "<", KNOWN), ("coverage", ">", 0.2)),
        "The labels say nothing about the samples that a simple classifier can see: real samples show their class "
        "hardly more often than chance, so the generator cannot learn what is asked for",
        (
            "minigan info {run}  # are the labels those of the samples?",
            "--unconditional",
        ),
    ),
    Rule(
        "too little data",
        (("samples", "<", 1000), ("memory", ">", 0.1)),
        "There are too few data: D has learned the {samples:,.0f} training samples by heart. It takes "
        "{d_right_train:.0%} of them for real, and {d_right_held_out:.0%} of the held-out ones",
        (
            "--data MORE-DATA",
            "--network d_norm=dropout",
            "--instance-noise 0.2",
            "--epochs {fewer_epochs:.0f}",
        ),
    ),
    Rule(
        "D memorises",
        (("memory", ">", 0.15),),
        "D memorises its training samples: it takes {d_right_train:.0%} of them for real, and "
        "{d_right_held_out:.0%} of the held-out ones",
        (
            "--penalty r1",
            "--network d_norm=dropout",
            "--instance-noise 0.2",
            "--data MORE-DATA",
        ),
    ),
    Rule(
        "oscillating",
        (("moved", ">", 0.4), ("told", "<", 0.7), ("coverage", ">", 0.1)),
        "The training oscillates: from one kept checkpoint to the next, {moved:.0%} of the samples move to other "
        "{modes_are}",
        (
            "--lr-g {lr_g_small:.2g}",
            "--average 0.999",
            "--penalty r1",
            "--network d_minibatch_std=2",
        ),
    ),
    Rule(
        "oscillating",
        (("swing", ">", 0.3), ("turns", ">", 3)),
        "The training oscillates: in its second half, D(real) - D(fake) turned {turns:.0f} times, in a range of "
        "{swing:.2f}",
        (
            "--penalty r1",
            "--beta1 0",
            "--lr-g {lr_g_small:.2g} --lr-d {lr_d_small:.2g}",
            "--average 0.999",
        ),
    ),
    Rule(
        "G won",
        (("told", "<", 0.53), ("coverage", "<", 0.9)),
        "The generator won: D cannot tell its samples from real ones (it is right about {told:.0%}; D(real) "
        "{d_real:.2f}, D(fake) {d_fake:.2f}), although they cover only {coverage:.0%} of the data",
        (
            "--lr-d {lr_d_large:.2g}",
            "--no-simultaneous --d-steps 2",
            "--lr-g {lr_g_small:.2g}",
        ),
    ),
    Rule(
        "collapsed",
        (("coverage", "<", 0.2), ("near", "<", 0.1)),
        "The generator collapsed: its samples do not resemble the data ({near:.0%} do), and cover {coverage:.0%} of "
        "them, {modes_covered:.0f} of {modes:.0f} {modes_are}{missing_names}",
        (
            "--lr-g {lr_g_small:.2g}",
            "--network d_minibatch_std=2",
            "--unconditional --pack 2",
            "--penalty r1",
            "--loss r3gan",
        ),
    ),
    Rule(
        "collapsed",
        (("coverage", "<", 0.2), ("variety", "<", 0.3)),
        "The generator collapsed: its samples cover {coverage:.0%} of the data, {modes_covered:.0f} of {modes:.0f} "
        "{modes_are}{with_variety}{missing_names}",
        (
            "--lr-g {lr_g_small:.2g}",
            "--network d_minibatch_std=2",
            "--unconditional --pack 2",
            "--penalty r1",
            "--loss r3gan",
        ),
    ),
    Rule(
        "D won",
        (("told", ">", 0.96), ("coverage", "<", 0.9)),
        "The discriminator won: it is right about {told:.0%} of the samples (D(real) {d_real:.2f}, D(fake) "
        "{d_fake:.2f}), so the generator learns little, and covers {coverage:.0%} of the data",
        (
            "--lr-d {lr_d_small:.2g}",
            "--penalty r1",
            "--label-smoothing 0.1",
            "--no-simultaneous --g-steps 2",
        ),
    ),
    Rule(
        "collapsed",
        (("coverage", "<", 0.2),),
        "The generator collapsed: its samples cover {coverage:.0%} of the data, {modes_covered:.0f} of {modes:.0f} "
        "{modes_are}{with_variety}{missing_names}",
        (
            "--lr-g {lr_g_small:.2g}",
            "--network d_minibatch_std=2",
            "--unconditional --pack 2",
            "--penalty r1",
            "--loss r3gan",
        ),
    ),
    Rule(
        "collapsed",
        (("missing", ">", 0.5), ("coverage", "<", 0.4)),
        "The generator collapsed in part: {modes_covered:.0f} of {modes:.0f} {modes_are} are covered"
        "{missing_names}, and {coverage:.0%} of the data",
        (
            "--network d_minibatch_std=2",
            "--unconditional --pack 2",
            "--lr-g {lr_g_small:.2g}",
        ),
    ),
    Rule(
        "labels ignored",
        (("followed", "<", 0.6), ("coverage", ">", 0.2)),
        "The labels are ignored: {labels_followed:.0%} of the samples show the class asked for, and {labels_known:.0%} "
        "of real samples do by the same measure",
        (
            "minigan info {run}  # are the labels those of the samples?",
            "--preset digits",
            "--epochs {more_epochs:.0f}",
        ),
    ),
    Rule(
        "unfinished",
        (("done", "<", 0.999), ("coverage", "<", 0.9)),
        "The run is not finished: {done:.0%} of its total is done. The samples cover {coverage:.0%} of the data",
        ("minigan train --resume --out {run}",),
    ),
    Rule(
        "unfinished",
        (("coverage", "<", 0.9),),
        "The training can go on: its samples cover only {coverage:.0%} of the data, {modes_covered:.0f} of {modes:.0f} "
        "{modes_are}, and nothing else is wrong",
        ("minigan train --resume --extend --out {run} --epochs {more_epochs:.0f}",),
    ),
    Rule(
        "healthy",
        (("done", "<", 0.999), ("coverage", ">", 0.5)),
        "The run is healthy, {done:.0%} of its total is done: its samples cover {coverage:.0%} of the data, "
        "{modes_covered:.0f} of {modes:.0f} {modes_are}{with_variety}",
        ("minigan train --resume --out {run}", "minigan sample {run}"),
    ),
    Rule(
        "healthy",
        (("coverage", ">", 0.3),),
        "The run is healthy: its samples cover {coverage:.0%} of the data, {modes_covered:.0f} of {modes:.0f} "
        "{modes_are}{with_variety}",
        ("minigan evaluate {run}", "minigan sample {run}"),
    ),
)


@dataclass(frozen=True)
class Statement:
    """What a rule says about a run."""

    verdict: str
    text: str
    helps: tuple[str, ...]


def explain(figures: dict[str, float], words: dict[str, Any], train: Callable[[str], str | None]) -> list[Statement]:
    """Return what the rules say, the verdict first.

    `words` has what the sentences and commands name apart from figures: `run`, `reason`,
    `modes_are`, `missing_names`, and numbers for the commands. `train(changes)` returns the command
    that starts the run again with other options, or None if that is not possible. "healthy" and
    "unfinished" are said only if no rule before them holds. If no rule holds, the only statement is
    "unclear".
    """
    held = [rule for rule in RULES if rule.holds(figures)]
    said: dict[str, Rule] = {}
    for rule in held:
        quiet = rule.verdict in ("healthy", "unfinished") and bool(said)
        if not quiet:
            said.setdefault(rule.verdict, rule)
    if not said:
        known = ", ".join(f"{name} {value:.3g}" for name, value in figures.items() if name in SHOWN) or "nothing"
        return [Statement(UNCLEAR, f"No rule fits. Measured: {known}", (f"minigan evaluate {words['run']}",))]
    variety = f", with {figures['variety']:.0%} of the variety of real samples" if "variety" in figures else ""
    every = _Missing(words | figures | {"with_variety": variety})
    statements = []
    for verdict, rule in said.items():
        helps = (text.format_map(every) for text in rule.helps)
        commands = [train(text) if text.startswith("--") else text for text in helps]
        statements.append(Statement(verdict, rule.says.format_map(every), tuple(filter(None, commands))))
    return statements


SHOWN = ("lead", "coverage", "evenness", "variety", "done", "epochs")  # the figures of a run that no rule explains


class _Missing(dict):
    """Figures for a sentence. One that was not measured is shown as nan."""

    def __missing__(self, name: str) -> float:
        return float("nan")


def of_history(history: list[dict], curves: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the figures that records give: of the last check, and of the curves (steps,) of every step.

    `history` has a row for each epoch. Columns of checks may be missing or empty.
    """
    figures = {}
    checked = [row for row in history if row.get("coverage") not in (None, "")]
    if checked:
        figures = {name: float(checked[-1][name]) for name in FIGURES if checked[-1].get(name) not in (None, "")}
    lead = np.asarray(curves["d_real"], np.float64) - np.asarray(curves["d_fake"], np.float64)
    if not len(lead):
        return figures
    end = slice(-max(1, len(lead) // 10), None)
    figures |= {"lead": float(lead[end].mean())}
    figures |= {name: float(np.asarray(curves[name][end], np.float64).mean()) for name in ("d_real", "d_fake")}
    if len(lead) >= 80:
        means = np.array([part.mean() for part in np.array_split(lead, 40)])[20:]
        low, high = np.quantile(means, (0.1, 0.9))
        figures |= {"swing": float(high - low), "turns": float(turns(means))}
    return figures


def turns(values: np.ndarray) -> int:
    """Return how often the values (N,) change from the lowest third of their range to the highest, or back."""
    low, high = float(values.min()), float(values.max())
    third = (high - low) / 3
    outer = [side for value in values.tolist() if (side := (value > high - third) - (value < low + third))]
    return sum(a != b for a, b in itertools.pairwise(outer)) if third > 0 else 0
