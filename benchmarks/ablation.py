"""Measure the effect of each ingredient of the preset `digits` by changing one ingredient at a time.

    python benchmarks/ablation.py --json FILE [--markdown FILE] [--epochs 3] [--seeds 0 1] [--only NAME ...]

Every run trains on the same number of real images, so that every machine gives the same scores. At its end, the judge
of `minigan.metrics` scores 10,000 samples. The last column of the table is the time of a step per image, relative to
that of the unchanged recipe. It is measured after all runs, with the variants in turns. Each finished run is written to
the JSON file at once, and a repeated command skips it. Several commands with different --only may fill one file.
"""

import argparse
import json
import os
import statistics
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from time_to_quality import COUNT, Evaluator, expect_same
from tqdm import tqdm

from minigan import backends, datasets, models, optim
from minigan.files import write_atomically
from minigan.lab import bench
from minigan.layers import MinibatchStdDev, Sequential, SpectralNorm, fuse
from minigan.runs.evaluate import draw
from minigan.training import Config, Training


def replace_d(training: Training, *layers) -> None:
    """Replace D and its optimizer, before the first step."""
    c = training.config
    training.D = Sequential(*layers).to(training.backend)
    training.players = fuse(training.G), fuse(training.D)
    training.opt_d = optim.Adam(training.D, lr=c.lr_d, beta1=c.beta1, beta2=c.beta2, eps=c.eps)


def without_spectral_norm(training: Training) -> None:
    """Replace the layers of D by the same layers without spectral norm."""
    replace_d(training, *(getattr(layer, "layer", layer) for layer in training.D.layers))


def with_one_std(training: Training) -> None:
    """Give D one minibatch standard deviation, the mean over all channels, with the strength that worked best."""
    *body, std, last = training.D.layers
    rng = np.random.default_rng(training.config.seed)
    head = models.head(last.layer.n_in - std.channels + 1, training.classes, rng=rng)
    replace_d(training, *body, MinibatchStdDev(strength=8), SpectralNorm(head, rng=rng))


def without_batch_std(training: Training) -> None:
    """Give D a minibatch standard deviation of 0 for every batch."""
    for layer in training.D.layers:
        if isinstance(layer, MinibatchStdDev):
            layer.strength = 0.0


# name -> changed fields of Config, or a function that changes the Training before its first step. The names are stored
# in the results.
CHANGES = {
    "the recipe": {},
    "no labels": dict(conditional=False),
    "networks of `small`: two stages, twice as wide": dict(preset="small"),
    "no spectral norm": without_spectral_norm,
    "D does not see the batch's spread": without_batch_std,
    "D sees one spread, not one a channel": with_one_std,
    "non-saturating loss": dict(loss="non_saturating"),
    "learning rates 1e-3": dict(lr_g=1e-3, lr_d=1e-3),
    "learning rates 2e-4, beta1 0.5": dict(lr_g=2e-4, lr_d=2e-4, beta1=0.5),
    "constant learning rates": dict(decay=False),
    "no moving average": dict(average=0.0),
    "batch 128": dict(batch=128),
    "players in turn": dict(simultaneous=False),
}
METRICS = {"frechet": "Frechet distance", "coverage": "coverage", "confident": "confident", "agreement": "agreement"}


def create_training(name: str, seed: int, epochs: int, threads: int) -> Training:
    """Create the training of the recipe with this change, before its first step."""
    backend = backends.load("numba", threads=threads)
    change = CHANGES[name]
    config = Config.of("digits", seed=seed, epochs=epochs)
    config = replace(config, **change) if isinstance(change, dict) else config
    training = Training(config, datasets.load("mnist"), backend)
    if callable(change):
        change(training)
    training.warm_up()
    return training


def train_and_score(training: Training, name: str, evaluator: Evaluator) -> dict:
    """Train one run to its end, and return its scores."""
    total, seed = training.steps_in_all(), training.config.seed
    for _ in tqdm(training.records(), total=total, desc=f"{name}, seed {seed}", unit="step", mininterval=10):
        pass
    found = evaluator.scores(*draw(training.sampler, COUNT, seed))
    return {"change": name, "seed": seed, "steps": training.step, "figures": found}


def cost(trainings: list[Training], seconds: float) -> list[float]:
    """Measure the milliseconds of a step per image for each training; the trainings take turns."""
    times = bench.take_turns([training.records().__next__ for training in trainings], seconds)
    return [
        round(1e3 * statistics.median(t) / training.config.batch, 4)
        for t, training in zip(times, trainings, strict=True)
    ]


def table(report: dict) -> str:
    """Format a Markdown table: for each change the median over the seeds, with minimum and maximum in brackets."""

    def cell(values: list[float], digits: int) -> str:
        median, low, high = (f"{f(values):.{digits}f}" for f in (statistics.median, min, max))
        return f"{median} ({low}-{high})" if len(values) > 1 else median

    def rows(name: str) -> list[dict]:
        return [run for run in report["runs"] if run["change"] == name]

    lines = [
        "| " + " | ".join(["with one change", *METRICS.values(), "cost per image"]) + " |",
        "| --- " + "| ---: " * (len(METRICS) + 1) + "|",
    ]
    times = report["ms an image"]
    for name in (name for name in CHANGES if rows(name)):
        cells = []
        for key in METRICS:
            values = [run["figures"][key] for run in rows(name) if key in run["figures"]]
            cells.append(cell(values, 3) if values else "")
        cells.append(f"{times[name] / times['the recipe']:.2f}" if "the recipe" in times else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    real = [f"{report['real'][key]:.3f}" if key in report["real"] else "" for key in METRICS]
    return "\n".join([*lines, "| real training images | " + " | ".join([*real, ""]) + " |", ""])


def main() -> None:
    """Run the missing runs, measure the costs, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], metavar="N")
    parser.add_argument("--only", nargs="+", default=list(CHANGES), choices=list(CHANGES), metavar="NAME")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", metavar="FILE", required=True, type=Path)
    parser.add_argument("--markdown", metavar="FILE", type=Path)
    options = parser.parse_args()

    evaluator = Evaluator(options.threads)
    asked = {"epochs": options.epochs, "count": COUNT, "judge": evaluator.judge.crc32}
    report = {**asked, "machine": bench.machine(), "real": evaluator.real, "runs": []}

    def runs_so_far() -> list[dict]:
        if not options.json.exists():
            return []
        before = json.loads(options.json.read_text())
        expect_same(asked, before, options.json)
        return before["runs"]

    for seed in options.seeds:
        for name in options.only:
            if not any((run["change"], run["seed"]) == (name, seed) for run in runs_so_far()):
                training = create_training(name, seed, options.epochs, options.threads)
                run = train_and_score(training, name, evaluator)
                report["runs"] = [*runs_so_far(), run]
                write_atomically(options.json, (json.dumps(report, indent=1) + "\n").encode())
    report["runs"] = runs_so_far()
    names = list(dict.fromkeys(run["change"] for run in report["runs"]))
    trainings = [create_training(name, 0, 100, options.threads) for name in names]  # more epochs than the time allows
    times = cost(trainings, seconds=4.0)
    report["ms an image"] = dict(zip(names, times, strict=True))
    report["when"] = datetime.now(UTC).isoformat(timespec="seconds")
    write_atomically(options.json, (json.dumps(report, indent=1) + "\n").encode())
    if options.markdown:
        write_atomically(options.markdown, table(report).encode())
    print(table(report))


if __name__ == "__main__":
    main()
