"""Train a classifier only on the samples of a run, and test it on real digits.

    python benchmarks/train_on_fakes.py RUN [--count 60000] [--epochs 10] [--json FILE]

The fakes of a conditional run, equally many of each digit, replace the 60,000 training digits. The network, the
training and the seed are those of train_judge.py, but the training runs in float32. The classifier sees no real image
before the test on the 10,000 real digits.
"""

import argparse
import json
import os
from pathlib import Path

import numpy as np
from train_judge import train

from minigan import backends, datasets, runs
from minigan.errors import UserError
from minigan.files import write_atomically
from minigan.lab.bench import machine
from minigan.metrics.judge import CLASSES, features_and_probabilities, judge_network


def main() -> None:
    """Draw the fakes, train and test the classifier, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a conditional run")
    parser.add_argument("--count", type=int, default=60_000, help="number of fakes (default 60000)")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise and of the classifier's weights")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", metavar="FILE", type=Path)
    options = parser.parse_args()
    backend = backends.load("auto", threads=options.threads)
    sampler = runs.sampler(options.run, backend)
    if sampler.classes != CLASSES:
        raise UserError(f"{options.run} has {sampler.classes} labels: expected a run with the labels 0 to 9")
    rng = np.random.default_rng(options.seed)
    images = sampler.draw(options.count, rng)
    fakes = datasets.Images(images, np.arange(options.count) % CLASSES, "fakes")

    network = judge_network(rng).to(backend)
    train(network, fakes, options.epochs, rng)
    test = datasets.mnist("test")
    right = int((features_and_probabilities(network, test.images)[1].argmax(axis=1) == test.labels).sum())
    config = runs.read_config(options.run)
    result = {
        "run": {"preset": config.preset, "seed": config.seed, "epochs": config.epochs, "steps": config.steps},
        "fakes": options.count,
        "epochs": options.epochs,
        "seed": options.seed,
        "test digits": len(test),
        "read right": right,
        "machine": machine(),
    }
    print(f"trained on {options.count:,} fakes only, the classifier reads {right:,} of {len(test):,} real test digits")
    if options.json:
        write_atomically(options.json, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
