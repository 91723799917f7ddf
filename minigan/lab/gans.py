"""Train a GAN as the row of an experiment, and measure its samples.

    EXPERIMENT = Experiment(..., run=gan(digits, minutes=2))         # the settings of an arm are options of Config

or, if a row does more than that:

    def run(row):
        training = train(row, row.settings)
        return digits(training)

The run is a usual run folder, `run` in the folder of the row: `minigan sample`, `explain` and the
other commands work on it. A row that was interrupted continues from its newest checkpoint.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from minigan import datasets, runs
from minigan.datasets import Data
from minigan.errors import UserError
from minigan.files import write_atomically
from minigan.lab.experiment import Row
from minigan.layers import Sequential
from minigan.metrics.distances import Neighbourhoods, frechet_distance
from minigan.metrics.judge import CLASSES, Judge
from minigan.metrics.scores import scores
from minigan.runs import sources
from minigan.runs.evaluate import draw
from minigan.training import TOTALS, Config, Diverged, Training

Figures = dict[str, Any]
Networks = Callable[[Config, Data], tuple[Sequential, Sequential]]
COUNT = 10_000  # samples that are scored at the end of a row
FEW = 5_000  # and at moments before


def gan(measure: Callable[[Training], Figures], **totals: Any) -> Callable[[Row], Figures]:
    """Return a function that trains a GAN with the settings of a row as options, and measures it at its end.

    `totals` are options for all arms, such as steps=2000. A run that diverges has the figure "diverged".
    """
    return partial(_gan, measure=measure, totals=totals)


def _gan(row: Row, measure: Callable[[Training], Figures], totals: dict[str, Any]) -> Figures:
    try:
        training = train(row, totals | row.settings)
    except Diverged as error:
        return {"diverged": str(error)}
    return measure(training) | {"seconds": round(training.seconds, 2), "steps": training.step}


def config_for(row: Row, options: Mapping[str, Any]) -> Config:
    """Return the config for these options, with the seed, the threads and the minutes of the row."""
    given = dict(options)
    if row.minutes is not None:
        given |= dict.fromkeys(TOTALS) | {"minutes": row.minutes}
    given.setdefault("seed", row.seed)
    unknown = given.keys() - {field.name for field in fields(Config)}
    if unknown:
        raise UserError(f"{row.name}: unknown option {min(unknown)} of a GAN: see `minigan train --help`")
    return Config.of(given.pop("preset", None), **given, threads=row.threads)


def train(
    row: Row,
    options: Mapping[str, Any],
    *,
    data: Data | None = None,
    networks: Networks | None = None,
    moments: Sequence[float] = (),
    measure: Callable[[Training], Figures] | None = None,
    folder: Path | None = None,
) -> Training:
    """Train a GAN to its total, or continue it, and return the training.

        data       instead of those of the options
        networks   builds (generator, discriminator) instead of those of the preset
        moments    parts of the total, 0 to 1, at which `measure` is called. The results, with step and
                   seconds, are in `moments_of`
        folder     of the run, by default `run` in the folder of the row

    Raises Diverged if the training diverges.
    """
    out = row.folder / "run" if folder is None else folder
    config = config_for(row, options)
    data = runs.load_data(config) if data is None else data
    own = networks(config, data) if networks else None
    training = Training(config, data, runs.load_backend(config), own, sources.taken(config, data))
    if row.replay:
        return _replay(row, training)
    if (out / "checkpoint.npz").exists():
        saved = runs.read(out)
        training.load_state(out / "checkpoint.npz", saved.arrays, saved.facts)
        if training.finished():
            return training
    else:
        runs.write_new(training, out)
    training.warm_up()
    found = [one for one in moments_of(out) if one["step"] <= training.step]
    due = sorted(moments)[len(found) :]

    def after(record: runs.Checked) -> None:
        row.log(*(record[name] for name in Training.CURVES))  # type: ignore[literal-required]
        try:
            row.progress(training.progress())
        except runs.Stopped:
            runs.save(training, out)
            raise
        while due and training.progress() >= due[0] - 1e-9:
            figures = {"moment": due.pop(0), "step": training.step, "seconds": round(training.seconds, 2)}
            found.append(figures | (measure(training) if measure else {}))
            write_atomically(out / MOMENTS, json.dumps(found, indent=1).encode())
            runs.save(training, out)

    runs.play(training, out, quiet=True, callback=after)
    return training


MOMENTS = "moments.json"  # in the folder of a run


def moments_of(out: Path) -> list[Figures]:
    """Return what was measured at the moments of a run so far."""
    path = out / MOMENTS
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def _replay(row: Row, training: Training) -> Training:
    """Train until the first numbers of the row were logged, which ends the row."""
    for record in training.records():
        row.log(*(record[name] for name in Training.CURVES))  # type: ignore[literal-required]
    return training


def shared(row: Row, name: str, options: Mapping[str, Any], **arguments: Any) -> Training:
    """Return a trained GAN that several rows use. The first row that needs it trains it, and others wait.

    `name` is its folder next to those of the rows. `arguments` are those of `train`.
    """
    if row.replay:
        return train(row, options, **arguments)
    folder = shared_folder(row, name)
    with waiting(folder):
        return train(row, options, folder=folder / "run", **arguments)


def shared_folder(row: Row, name: str) -> Path:
    """Return a folder, which exists, for what several rows of an experiment use."""
    folder = row.folder.parent.parent / "shared" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def waiting(folder: Path):
    """Return a lock of a folder, which waits until other rows are finished with it."""
    import filelock

    return filelock.FileLock(folder / ".shared.lock")


# ---------------------------------------------------------------- measures


def digits_judge(backend: Any) -> tuple[Judge, Neighbourhoods]:
    """Return the judge, and the features of MNIST's test images, with which samples are compared.

    Both are computed once for a backend.
    """
    return _digits_judge(backend)


@cache
def _digits_judge(backend: Any) -> tuple[Judge, Neighbourhoods]:
    judge = Judge(backend)
    return judge, Neighbourhoods(judge.features_and_probabilities(datasets.mnist("test").images)[0])


def digits(training: Training, count: int = COUNT) -> Figures:
    """Score samples of digits, as `minigan evaluate` does, against MNIST's test images.

    frechet, density, coverage, confident and agreement are those of `metrics.scores`, and `classes`
    is the number of digits of which at least a tenth of the expected number was drawn.
    """
    judge, reference = digits_judge(training.backend)
    images, labels = draw(training.sampler, count)
    seen = judge.features_and_probabilities(images)
    found = scores(*seen, reference, labels, np.random.default_rng(0), rounds=1)
    shares = np.array(found.pop("classes")) / count
    values = {name: round(value["value"], 5) for name, value in found.items()}
    return values | {"classes": int((shares >= 0.1 / CLASSES).sum())}


def distance(training: Training, real: np.ndarray | None = None, count: int = FEW) -> float:
    """Return the Frechet distance in the judge's features of samples to uint8 images, by default the test digits."""
    judge, reference = digits_judge(training.backend)
    features, _ = judge.features_and_probabilities(draw(training.sampler, count)[0])
    other = reference.real if real is None else judge.features_and_probabilities(real)[0]
    return round(frechet_distance(features, other), 5)


def mixture(training: Training, count: int = 2500, seed: int = 0) -> Figures:
    """Compare points with the mixture they should come from, by the protocol of PacGAN (Lin et al. 2018, section 4.1).

        modes        number of modes with at least one of the points within three standard deviations
        quality      share of points within three standard deviations of a mode
        reverse_kl   KL(q || p) in nats, where q are the shares of the points at each mode (all points, by
                     the nearest mode), and p those of the data

    `seed` is that of the noise.
    """
    codec: Any = training.data.codec
    of = datasets.points.MIXTURES[codec.mixture]
    points = training.sampler.draw(count, np.random.default_rng([seed, 1]))
    mode, distances = of.nearest(points)
    near, K = distances <= 3, len(of.centres)
    share = np.bincount(mode, minlength=K) / count
    there = share > 0
    return {
        "modes": int((np.bincount(mode[near], minlength=K) > 0).sum()),
        "quality": round(float(near.mean()), 4),
        "reverse_kl": round(float((share[there] * np.log(share[there] * K)).sum()), 5),
    }
