"""What did each ingredient of the recipe `digits` buy? The recipe, and the recipe with one thing changed.

    python benchmarks/ablation.py --json FILE [--markdown FILE] [--epochs 3] [--seeds 0 1] [--only NAME ...]

Every run sees the same number of real images, and the judge of `minigan.metrics` looks at 10,000 samples of its end.
Counted in images and not in seconds, so that every machine gives the same table; beside it stands how long a step
takes, per image and next to the recipe's, measured at the end, in turns. Every finished run is written to the JSON at
once and is not repeated when the command is; several commands, each with --only some, may fill one file.
"""

import argparse
import json
import os
import statistics
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from time_to_quality import COUNT, Scales, expect_same
from tqdm import tqdm

from minigan import backends, datasets, models, optim
from minigan.files import write_atomically
from minigan.lab import bench
from minigan.layers import MinibatchStdDev, Sequential, SpectralNorm, fuse
from minigan.runs.evaluate import draw
from minigan.training import Config, Training


def replace_d(training: Training, *layers) -> None:
    """Another D and its optimizer, before their first step."""
    c = training.config
    training.D = Sequential(*layers).to(training.backend)
    training.players = fuse(training.G), fuse(training.D)
    training.opt_d = optim.Adam(training.D, lr=c.lr_d, beta1=c.beta1, beta2=c.beta2, eps=c.eps)


def without_spectral_norm(training: Training) -> None:
    """D with the same layers, bare."""
    replace_d(training, *(getattr(layer, "layer", layer) for layer in training.D.layers))


def with_one_spread(training: Training) -> None:
    """D told one number for all channels, the mean of theirs, at the strength that served best."""
    *body, spread, last = training.D.layers
    rng = np.random.default_rng(training.config.seed)
    head = models.head(last.layer.n_in - spread.channels + 1, training.classes, rng=rng)
    replace_d(training, *body, MinibatchStdDev(strength=8), SpectralNorm(head, rng=rng))


def without_spread(training: Training) -> None:
    """D told a spread of 0, whatever the batch."""
    for layer in training.D.layers:
        if isinstance(layer, MinibatchStdDev):
            layer.strength = 0.0


# What is changed: choices of Config, or a function of the Training before its first step.
CHANGES = {
    "the recipe": {},
    "no labels": dict(conditional=False),
    "networks of `small`: two stages, twice as wide": dict(preset="small"),
    "no spectral norm": without_spectral_norm,
    "D does not see the batch's spread": without_spread,
    "D sees one spread, not one a channel": with_one_spread,
    "non-saturating loss": dict(loss="non_saturating"),
    "learning rates 1e-3": dict(lr_g=1e-3, lr_d=1e-3),
    "learning rates 2e-4, beta1 0.5": dict(lr_g=2e-4, lr_d=2e-4, beta1=0.5),
    "constant learning rates": dict(decay=False),
    "no moving average": dict(average=0.0),
    "batch 128": dict(batch=128),
    "players in turn": dict(simultaneous=False),
}
FIGURES = {"frechet": "Frechet distance", "coverage": "coverage", "confident": "confident", "agreement": "agreement"}


def begin(name: str, seed: int, epochs: int, threads: int) -> Training:
    """The recipe with this change, before its first step."""
    backend = backends.load("numba", threads=threads)
    change = CHANGES[name]
    config = Config.of("digits", seed=seed, epochs=epochs)
    config = replace(config, **change) if isinstance(change, dict) else config
    training = Training(config, datasets.load("mnist"), backend)
    if callable(change):
        change(training)
    training.warm_up()
    return training


def play(training: Training, name: str, scales: Scales) -> dict:
    """One run, and its scores at the end."""
    total, seed = training.steps_in_all(), training.config.seed
    for _ in tqdm(training.records(), total=total, desc=f"{name}, seed {seed}", unit="step", mininterval=10):
        pass
    found = scales.scores(*draw(training.sampler, COUNT, seed))
    return {"change": name, "seed": seed, "steps": training.step, "figures": found}


def cost(trainings: list[Training], seconds: float) -> list[float]:
    """The milliseconds that a step takes, for each image, of trainings that take turns."""
    times = bench.take_turns([training.records().__next__ for training in trainings], seconds)
    return [
        round(1e3 * statistics.median(t) / training.config.batch, 4)
        for t, training in zip(times, trainings, strict=True)
    ]


def table(report: dict) -> str:
    """Markdown: a row for each change with the median of its seeds, and in brackets the least and the most."""

    def cell(values: list[float], digits: int) -> str:
        median, low, high = (f"{f(values):.{digits}f}" for f in (statistics.median, min, max))
        return f"{median} ({low}-{high})" if len(values) > 1 else median

    def rows(name: str) -> list[dict]:
        return [run for run in report["runs"] if run["change"] == name]

    lines = [
        "| " + " | ".join(["with one change", *FIGURES.values(), "cost an image"]) + " |",
        "| --- " + "| ---: " * (len(FIGURES) + 1) + "|",
    ]
    took = report["ms an image"]
    for name in (name for name in CHANGES if rows(name)):
        cells = []
        for key in FIGURES:
            values = [run["figures"][key] for run in rows(name) if key in run["figures"]]
            cells.append(cell(values, 3) if values else "")
        cells.append(f"{took[name] / took['the recipe']:.2f}" if "the recipe" in took else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    real = [f"{report['real'][key]:.3f}" if key in report["real"] else "" for key in FIGURES]
    return "\n".join([*lines, "| real training images | " + " | ".join([*real, ""]) + " |", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], metavar="N")
    parser.add_argument("--only", nargs="+", default=list(CHANGES), choices=list(CHANGES), metavar="NAME")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", metavar="FILE", required=True, type=Path)
    parser.add_argument("--markdown", metavar="FILE", type=Path)
    options = parser.parse_args()

    scales = Scales(options.threads)
    asked = {"epochs": options.epochs, "count": COUNT, "judge": scales.judge.crc32}
    report = {**asked, "machine": bench.machine(), "real": scales.real, "runs": []}

    def runs_so_far() -> list[dict]:
        if not options.json.exists():
            return []
        before = json.loads(options.json.read_text())
        expect_same(asked, before, options.json)
        return before["runs"]

    for seed in options.seeds:
        for name in options.only:
            if not any((run["change"], run["seed"]) == (name, seed) for run in runs_so_far()):
                run = play(begin(name, seed, options.epochs, options.threads), name, scales)
                report["runs"] = [*runs_so_far(), run]
                write_atomically(options.json, (json.dumps(report, indent=1) + "\n").encode())
    report["runs"] = runs_so_far()
    names = list(dict.fromkeys(run["change"] for run in report["runs"]))
    took = cost([begin(name, 0, 100, options.threads) for name in names], seconds=4.0)  # epochs that do not run out
    report["ms an image"] = dict(zip(names, took, strict=True))
    report["when"] = datetime.now(UTC).isoformat(timespec="seconds")
    write_atomically(options.json, (json.dumps(report, indent=1) + "\n").encode())
    if options.markdown:
        write_atomically(options.markdown, table(report).encode())
    print(table(report))


if __name__ == "__main__":
    main()
