"""Which optimizer trains a GAN best, if each has its best learning rate?

Plain SGD, SGD with momentum 0.9, RMSProp (decay 0.9) and Adam (beta1 0.5) train the preset `small`
without labels, in batches of 64. Both players have the same learning rate. First, short runs with
one seed choose the rate: they train on 50,000 digits, and the Frechet distance of their samples to
the other 10,000 training digits decides. No test digit has a say. Then each optimizer trains
longer, with the chosen rate, and its samples are compared with the test digits. A short run may
prefer a higher rate than a long one needs. Two rows run at a time, with one thread each, so the
seconds are those of a machine of which each row has a half.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from minigan import runs
from minigan.datasets import Images
from minigan.lab import Column, Experiment, Results, Row, compared, distance, moments_of, train
from minigan.lab.gans import config_for
from minigan.lab.moments import at, curves, mean_curve
from minigan.report.experiments import lines
from minigan.training import Diverged

RATES = {
    "SGD": ("sgd", (0.01, 0.03, 0.1, 0.3)),
    "momentum": ("momentum", (0.001, 0.003, 0.01, 0.03)),
    "RMSProp": ("rmsprop", (3e-5, 1e-4, 3e-4, 1e-3)),
    "Adam": ("adam", (1e-4, 3e-4, 1e-3, 3e-3)),
}
SHORT, LONG = 800, 4000  # steps: about one pass over the 50,000 digits, and five
HELD_OUT = 10_000  # digits that choose the rates


def arm(optimizer: str, rate: float) -> str:
    """Return the name of a short run."""
    return f"{optimizer}, rate {rate:g}"


def settings(optimizer: str, rate: float, steps: int) -> dict[str, Any]:
    """Return the settings of a run."""
    name = RATES[optimizer][0]
    return {"preset": "small", "batch": 64, "optimizer": name, "lr_g": rate, "lr_d": rate, "steps": steps}


def divided(data: Any) -> tuple[Images, np.ndarray]:
    """Return the digits to train on, and HELD_OUT others (N, H, W, C) that choose the rates: the same for all rows."""
    order = np.random.default_rng(0).permutation(len(data))
    return data.part(np.sort(order[HELD_OUT:])), data.images[np.sort(order[:HELD_OUT])]


def run(row: Row) -> Mapping[str, Any]:
    """Train on the 50,000 digits. A short run has the figure `validation`, a long one `frechet` and moments."""
    data, held_out = divided(runs.load_data(config_for(row, row.settings)))
    short = row.settings["steps"] == SHORT
    moments = () if short else (0.025, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
    try:
        training = train(row, row.settings, data=data, moments=moments, measure=lambda t: {"frechet": distance(t)})
    except Diverged as error:
        return {"diverged": str(error)}
    if short:
        return {"validation": distance(training, held_out)}
    found = moments_of(row.folder / "run")
    speed = {"ms": round(1000 * training.seconds / max(1, training.step), 2), "moments": found}
    return {"frechet": distance(training, count=10_000)} | speed


def chosen(results: Results) -> dict[str, float]:
    """Return the rate with the lowest validation distance of each optimizer. A run that diverged is not chosen."""
    found = {}
    for optimizer, (_, rates) in RATES.items():
        arms = {arm(optimizer, rate): rate for rate in rates if len(results.values(arm(optimizer, rate), "validation"))}
        if arms:
            found[optimizer] = arms[results.best(arms, "validation")]
    return found


def then(results: Results) -> dict[str, dict[str, Any]]:
    """Return the long runs with the chosen rates."""
    return {optimizer: settings(optimizer, rate, LONG) for optimizer, rate in chosen(results).items()}


def verdict(results: Results) -> list[str]:
    """Say which rates were chosen, and compare the optimizers with Adam, at equal steps and in equal time."""
    found = []
    for optimizer, rate in chosen(results).items():
        rates = RATES[optimizer][1]
        edge = ", which is the edge of the grid, so that a better rate may lie outside" if rate in rates[::3] else ""
        grid = ", ".join(f"{r:g}" for r in rates)
        found.append(f"{optimizer}: of the rates {grid}, {rate:g} is best on the validation digits{edge}")
    for name in RATES:
        rows = [row for row in results.rows if row["arm"] == name]
        if lost := sum("diverged" in row["figures"] for row in rows):
            found.append(f"{name}: with the chosen rate, {lost} of {len(rows)} long runs diverged")
    others = [name for name in RATES if name != "Adam" and len(results.values(name, "frechet"))]
    if not len(results.values("Adam", "frechet")):
        return found
    found += [f"after equal steps: {compared(results, name, 'Adam', 'frechet')}" for name in others]
    adam = mean_curve(results, "Adam", "seconds", "frechet")
    for name in others:
        own = mean_curve(results, name, "seconds", "frechet")
        until = min(adam[0][-1], own[0][-1])
        found.append(
            f"after {until:.0f} s of training: {name} {at(*own, until):.2f}, Adam {at(*adam, until):.2f} (a step takes "
            f"{results.mean(name, 'ms'):.1f} ms and {results.mean('Adam', 'ms'):.1f} ms)"
        )
    return found


def picture(results: Results) -> np.ndarray:
    """Draw the validation distance against the rate, and the distance against steps and against seconds."""
    grid: dict[str, Any] = {}
    for optimizer, (_, rates) in RATES.items():
        points = [(rate, results.mean(arm(optimizer, rate), "validation")) for rate in rates]
        grid[optimizer] = [(np.array([r for r, _ in points]), np.array([d for _, d in points]))]
    drawn = [lines({"Frechet distance to held-out digits": grid}, "learning rate", log_x=True, log_y=True)]
    for x, label in (("step", "steps"), ("seconds", "seconds of training")):
        panel = {name: of for name in RATES if (of := curves(results, name, x, "frechet"))}
        if panel:
            drawn.append(lines({"Frechet distance to test digits": panel}, label, log_x=True, log_y=True))
    return np.concatenate(drawn, axis=1)


EXPERIMENT = Experiment(
    question=__doc__,
    arms={arm(name, rate): settings(name, rate, SHORT) for name, (_, rates) in RATES.items() for rate in rates},
    run=run,
    columns={
        "frechet": Column("Frechet distance to test digits", "lower", 2),
        "validation": Column("to held-out digits, short run", "lower", 2),
        "ms": Column("ms per step", "", 1),
    },
    minutes=20,
    seeds=dict.fromkeys(RATES, 3),
    then=then,
    verdict=verdict,
    picture=picture,
)
