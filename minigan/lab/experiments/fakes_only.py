"""How well does a classifier that was trained on fakes only read real digits?

A classifier is trained on 100 to 60,000 digits, either real ones or fakes of the preset `digits`, equally many of each
class (of the 60,000 real digits, as many as there are), and tested on the 10,000 test digits. The generator has seen
all 60,000 training digits, and is the same in all rows. Every classifier takes 5,000 steps of 64 digits, which are
shifted by up to one pixel.
"""

from typing import Any

import numpy as np

from minigan import datasets
from minigan.lab import Column, Experiment, Results, Row, compared, shared
from minigan.lab.classify import accuracy, per_class
from minigan.report import experiments as pictures

STEPS, EPOCHS = 5000, 15
COUNTS = (100, 1_000, 10_000, 60_000)
ALL = COUNTS[-1]
CLASSES = 10


def arm(source: str, count: int) -> str:
    """Return the name of an arm."""
    return f"{count:,} {source}"


def run(row: Row) -> dict[str, Any]:
    """Train the classifier, after the generator if there is none, and test it."""
    count, test = row.settings["count"], datasets.mnist("test")
    assert test.labels is not None
    if row.settings["source"] == "fakes":
        sampler = shared(row, "digits", {"preset": "digits", "epochs": EPOCHS, "seed": 0}).sampler
        images, labels = sampler.draw(count, row.rng()), np.arange(count) % CLASSES
    else:
        data = datasets.mnist("train")
        assert data.labels is not None
        every = count == len(data)
        chosen = np.arange(count) if every else per_class(data.labels, count // CLASSES, row.rng())
        images, labels = data.images[chosen], data.labels[chosen]
    right = accuracy(row, images, labels, (test.images, test.labels), STEPS)
    return {"accuracy": right, "errors": round(len(test) * (1 - right / 100))}


def verdict(results: Results) -> list[str]:
    """Compare fakes with real digits, and say how many real digits are worth as much as all fakes."""
    fakes = results.mean(arm("fakes", ALL), "accuracy")
    lines = [
        f"A classifier that saw {ALL:,} fakes only reads {results.text(arm('fakes', ALL), 'accuracy')}% of the real "
        f"test digits"
    ]
    worse = [count for count in COUNTS if results.mean(arm("real digits", count), "accuracy") < fakes]
    better = [count for count in COUNTS if results.mean(arm("real digits", count), "accuracy") >= fakes]
    if worse and better:
        lines.append(f"{ALL:,} fakes are worth more than {max(worse):,} real digits, and at most {min(better):,}")
    elif worse:
        lines.append(f"{ALL:,} fakes are worth more than {max(worse):,} real digits")
    lines += [
        compared(results, arm("fakes", count), arm("real digits", count), "accuracy") for count in reversed(COUNTS)
    ]
    return lines


def picture(results: Results) -> np.ndarray:
    """Draw the errors by the number of images."""
    curves = {}
    for source in ("real digits", "fakes"):
        errors = [results.mean(arm(source, count), "errors") for count in COUNTS]
        curves[source] = [(np.array(COUNTS), np.array(errors))]
    return pictures.lines(
        {"errors on 10,000 test digits": curves}, "images that the classifier saw", log_x=True, log_y=True
    )


EXPERIMENT = Experiment(
    question=__doc__,
    arms={
        arm(source, count): {"source": source, "count": count}
        for source in ("real digits", "fakes")
        for count in COUNTS
    },
    run=run,
    columns={
        "accuracy": Column("test accuracy, %", "higher", 2),
        "errors": Column("errors on 10,000 test digits", "lower", 0),
    },
    minutes=8,
    seeds={arm(source, ALL): 3 for source in ("real digits", "fakes")},
    verdict=verdict,
    picture=picture,
)
