"""Can a fresh classifier spot fakes, and does it recognise those of other generators?

A classifier learns to tell digits from the fakes of one generator. It is then shown test digits and new fakes: of the
same generator, of the same training at other times, of a training with another seed, and of another recipe (`mlp`,
without convolutions). The accuracy is the mean of that on real and on fake digits, so 0.5 is guessing.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from minigan import datasets
from minigan.lab import Column, Experiment, Results, Row, moments_of, shared
from minigan.lab.gans import shared_folder
from minigan.metrics import classifier
from minigan.report.experiments import matrices
from minigan.training import Training

GENERATORS: dict[str, dict[str, Any]] = {
    "digits": {"preset": "digits", "seed": 0},
    "digits, another seed": {"preset": "digits", "seed": 1},
    "mlp": {"preset": "mlp", "seed": 0},
}
EPOCHS = 20
MOMENTS = {1: 1 / EPOCHS, 5: 5 / EPOCHS, 20: 1.0}
TRAINED, TESTED = 20_000, 2_000  # fakes, and as many real digits
SETS = {
    "1 epoch": ("digits", 1),
    "5 epochs": ("digits", 5),
    "20 epochs": ("digits", 20),
    "another seed": ("digits, another seed", 20),
    "mlp": ("mlp", 20),
}


def fakes(row: Row, generator: str, epochs: int) -> np.ndarray:
    """Return fakes of a generator after some epochs. It is trained once for all rows."""
    slug = generator.replace(", ", "-").replace(" ", "-")
    folder = shared_folder(row, slug)

    def store(training: Training) -> dict[str, Any]:
        epoch = min(MOMENTS, key=lambda epoch: abs(MOMENTS[epoch] - training.progress()))
        np.save(folder / f"{epoch}.npy", training.sampler.draw(TRAINED + TESTED, np.random.default_rng(0)))
        return {}

    shared(row, slug, GENERATORS[generator] | {"epochs": EPOCHS}, moments=tuple(MOMENTS.values()), measure=store)
    assert len(moments_of(folder / "run")) == len(MOMENTS)
    return np.load(folder / f"{epochs}.npy")


def accuracy(says_fake: Callable[[np.ndarray], np.ndarray], real: np.ndarray, fakes: np.ndarray) -> float:
    """Return the mean of the shares of real (N, ...) and of fake images (M, ...) of which a detector is right."""
    return float((says_fake(real) == 0).mean() + (says_fake(fakes) == 1).mean()) / 2


def run(row: Row) -> dict[str, Any]:
    """Train a classifier to spot the fakes of one generator, and test it on those of all."""
    own = fakes(row, *SETS[row.settings["fakes"]])[:TRAINED]
    real, test = datasets.mnist("train").images, datasets.mnist("test").images
    real = real[row.rng().permutation(len(real))[:TRAINED]]
    labels = np.repeat([0, 1], TRAINED)
    detector = classifier.train(np.concatenate([real, own]), labels, row.backend, row.seed, steps=2000)
    found = {name: accuracy(detector, test[:TESTED], fakes(row, *which)[TRAINED:]) for name, which in SETS.items()}
    return found | {"real": float((detector(test[:TESTED]) == 0).mean())}


def verdict(results: Results) -> list[str]:
    """Say how well each detector spots the fakes it knows, and how well it transfers."""
    lines = []
    for arm in results.arms:
        name = arm.removeprefix("trained on: ")
        others = [results.mean(arm, other) for other in SETS if other != name]
        lines.append(
            f"{arm}: accuracy {results.text(arm, name)} on new fakes of the same generator, and "
            f"{min(others):.3f} to {max(others):.3f} on those of others"
        )
    return lines


def picture(results: Results) -> np.ndarray:
    """Draw the accuracies as a table: a row for each detector, a column for each set of fakes."""
    values = np.array([[results.mean(arm, name) for name in SETS] for arm in results.arms])
    return matrices({"accuracy on fakes of": (values, 1.0, 2)}, list(results.arms), list(SETS))


EXPERIMENT = Experiment(
    question=__doc__,
    arms={
        f"trained on: {name}": {"fakes": name} for name in ("20 epochs", "5 epochs", "1 epoch", "another seed", "mlp")
    },
    run=run,
    columns={name: Column(name, "higher") for name in SETS} | {"real": Column("real digits", "higher")},
    minutes=14,
    seeds={"trained on: 20 epochs": 3},
    verdict=verdict,
    picture=picture,
)
