"""Which way out of a collapse helps against which way into it?

The preset `digits-unlabelled` without its minibatch standard deviation learns all ten digits. Seven
changes, the ways in, are meant to make it collapse, and each is trained again with each of five ways
out: packing of four samples (Lin et al. 2018), the minibatch standard deviation (Karras et al. 2018),
the gradient penalty R1, a tenth of the generator's rate, and the relativistic loss. A loss replaces
that of the way in. The judge counts the digits that are drawn, of ten, and how much of the test
digits the samples cover. The alarm of a training looks at the samples after every fifteenth of a
run, here called an epoch. The first epoch at which it reports a collapse is in the table, if there
is one. A run that diverges counts as covering nothing. All runs with the same way in have equally
many steps. A way out counts as a help if the coverage is at least 0.1 higher with it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from minigan.lab import Column, Experiment, Results, Row, compared, digits, moments_of, train
from minigan.lab.moments import packed, unpacked
from minigan.metrics import alarm
from minigan.report.experiments import matrices, pictures, stacked
from minigan.runs.checks import Checks
from minigan.training import Diverged, Training

RATE = 4e-3  # of the recipe, for both players
STEPS = 1200
EPOCHS = 15
CLEAR = 0.1  # difference in coverage
ALTERNATE = {"simultaneous": False}
HEALTHY = "the recipe"
WAYS_IN: dict[str, dict[str, Any]] = {
    "many G steps": ALTERNATE | {"g_steps": 10, "steps": 300},
    "G's rate x 30": {"lr_g": 30 * RATE},
    "both rates x 30": {"lr_g": 30 * RATE, "lr_d": 30 * RATE},
    "D's rate / 100": {"lr_d": RATE / 100},
    "minimax, D x 10": {"loss": "minimax", "lr_d": 10 * RATE},
    "no spectral norm": {"network": {"d_norm": "none"}},
    "beta1 0.9": {"beta1": 0.9},
}
NOTHING = "nothing"
WAYS_OUT: dict[str, dict[str, Any]] = {
    NOTHING: {},
    "packing": {"pack": 4},
    "minibatch std": {"network": {"d_minibatch_std": 5.0}},
    "R1": {"penalty": "r1", "penalty_weight": 1.0},
    "lower G rate": {"lr_g": 0.1},
    "another loss": {"loss": "relativistic"},
}
HEADLINE = "many G steps"  # with three seeds


def settings(way_in: Mapping[str, Any], way_out: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a run. The `lr_g` of a way out is a multiple of that of the way in."""
    options: dict[str, Any] = {"preset": "digits-unlabelled", "steps": STEPS, "lr_g": RATE} | dict(way_in)
    network = {"d_minibatch_std": 0.0} | options.get("network", {}) | way_out.get("network", {})
    return options | dict(way_out) | {"lr_g": options["lr_g"] * way_out.get("lr_g", 1.0), "network": network}


def look(training: Training, checks: Checks) -> dict[str, Any]:
    """Return what the alarm sees at the end of an epoch: mean losses, the figures of a check, and problems."""
    steps = max(1, (training.config.steps or training.step) // EPOCHS)
    curves = np.array(training.curves).reshape(-1, len(training.CURVES))[-steps:].mean(axis=0, dtype=np.float64)
    row = dict(zip(training.CURVES, curves.tolist(), strict=True)) | {"step": training.step} | checks.measure()
    return {"row": row, "problems": alarm.of_samples(training.step, None, training.samples(60), None, True)}


def alarmed(epochs: list[dict[str, Any]]) -> int | None:
    """Return the first epoch, from 1, at which the alarm reports a collapse, or None."""
    watch = alarm.Alarm()
    for number, epoch in enumerate(epochs, 1):
        watch.kinds(epoch["row"], epoch["problems"])
        if watch.collapsed:
            return number
    return None


def run(row: Row) -> Mapping[str, Any]:
    """Train one arm, and give the alarm a look after every epoch."""
    checks: list[Checks] = []

    def measure(training: Training) -> dict[str, Any]:
        checks[:] = checks or [Checks(training)]
        return look(training, checks[0])

    parts = [(k + 1) / EPOCHS for k in range(EPOCHS)]
    figures: dict[str, Any] = {}
    try:
        training = train(row, row.settings, moments=parts, measure=measure)
        figures = {**digits(training, 5000), "samples": packed(training.samples(25))}
    except Diverged as error:
        figures = {"diverged": str(error), "classes": 0, "coverage": 0.0}
    epochs = moments_of(row.folder / "run")
    if epochs and "variety" in epochs[-1]["row"]:
        figures["variety"] = epochs[-1]["row"]["variety"]
    number = alarmed(epochs)
    return figures | ({} if number is None else {"alarm": number})


def name(way_in: str, way_out: str) -> str:
    """Return the name of an arm."""
    return f"{way_in}; {way_out}"


def verdict(results: Results) -> list[str]:
    """Say how many ways in collapse, against how many of them each way out helps, and how it does with three seeds."""
    healthy = results.mean(HEALTHY, "coverage")
    bare = {way: results.mean(name(way, NOTHING), "coverage") for way in WAYS_IN}
    found = [f"{HEALTHY} covers {healthy:.2f} of the test digits"] if healthy > 0 else []
    lost = [way for way, value in bare.items() if value < healthy - CLEAR]
    found.append(
        f"{len(lost)} of {len(WAYS_IN)} ways in lose coverage: "
        + ", ".join(
            f"{way} ({bare[way]:.2f}, {results.mean(name(way, NOTHING), 'classes'):.0f} digits)" for way in lost
        )
    )
    for out in list(WAYS_OUT)[1:]:
        gain = {way: results.mean(name(way, out), "coverage") - bare[way] for way in WAYS_IN}
        helps = [way for way in WAYS_IN if gain[way] >= CLEAR]
        harms = [way for way in WAYS_IN if gain[way] <= -CLEAR]
        sentence = f"{out} helps against {len(helps)} of {len(WAYS_IN)} ways in"
        sentence += f" ({', '.join(helps)})" if helps else ""
        found.append(sentence + (f", and harms with {', '.join(harms)}" if harms else ""))
    base = name(HEADLINE, NOTHING)
    return found + [compared(results, name(HEADLINE, out), base, "coverage") for out in list(WAYS_OUT)[1:]]


def picture(results: Results) -> np.ndarray:
    """Draw samples of every way in, and tables of ways in and ways out."""
    bare = {way: results.of(name(way, NOTHING)) for way in WAYS_IN}
    grids = {way: unpacked(rows[0]["figures"]["samples"]) for way, rows in bare.items() if rows and "samples" in
             rows[0]["figures"]}  # fmt: skip
    panels = {
        heading: (np.array([[results.mean(name(i, o), figure) for o in WAYS_OUT] for i in WAYS_IN]), most, decimals)
        for heading, figure, most, decimals in (
            ("digits drawn, of 10", "classes", 10, 0),
            ("coverage", "coverage", 1, 2),
            (f"epoch of the alarm, of {EPOCHS}", "alarm", EPOCHS, 0),
        )
    }
    tables = matrices(panels, list(WAYS_IN), list(WAYS_OUT))
    return stacked(pictures({"samples": list(grids.values())}, list(grids)), tables) if grids else tables


EXPERIMENT = Experiment(
    question=__doc__,
    arms={HEALTHY: settings({}, {})}
    | {name(i, o): settings(way_in, out) for i, way_in in WAYS_IN.items() for o, out in WAYS_OUT.items()},
    run=run,
    columns={
        "coverage": Column("coverage", "higher"),
        "classes": Column("digits drawn", "higher", 1),
        "variety": Column("variety", "higher", 2),
        "alarm": Column("epoch of the alarm", "", 1),
    },
    minutes=22,
    seeds={name(HEADLINE, out): 3 for out in WAYS_OUT},
    verdict=verdict,
    picture=picture,
)
