"""How many of a thousand modes does a GAN find, with a full and with a small discriminator, and does packing help?

Three MNIST digits are the channels of one image (`--data stacked-mnist`), which gives 1,000 modes.
The judge reads each channel of 26,000 samples. `modes` is the number of triples that occur, and KL
compares the shares of the triples with those of the data, as in PacGAN (Lin et al. 2018, section
4.2). The small discriminator has a quarter of the channels. The minibatch standard deviation, which
also shows D a collapse, is left out where it is not named.
"""

from typing import Any

import numpy as np

from minigan import datasets
from minigan.datasets import stacked
from minigan.lab import Column, Experiment, Results, Row, compared, moments_of, target, train
from minigan.metrics.judge import Judge
from minigan.report import experiments as pictures
from minigan.runs.evaluate import draw
from minigan.training import Training

COUNT = 26_000
MOMENTS = (0.2, 0.4, 0.6, 0.8, 1.0)  # parts of the training after which the samples are measured
SURE = 0.9  # probability from which on the judge is sure of a digit
BASE: dict[str, Any] = {"preset": "digits-unlabelled", "data": "stacked-mnist"}
TARGET, REAL = "full D, best recipe", "training images"
PAIRS = [  # arms that are compared, with what they are compared
    ("full D, packs of 2", "full D"),
    ("quarter D, packs of 2", "quarter D"),
    ("quarter D, minibatch std", "quarter D"),
    ("quarter D", "full D"),
]


def run(row: Row) -> dict[str, Any]:
    """Train a GAN and measure its samples, or measure training images."""
    if "preset" not in row.settings:
        return measured(datasets.stacked_mnist().images[:COUNT], row.backend)
    train(row, row.settings, moments=MOMENTS, measure=of_samples)
    moments = moments_of(row.folder / "run")
    last = {name: value for name, value in moments[-1].items() if name != "moment"}
    return last | {"moments": moments}


def of_samples(training: Training) -> dict[str, Any]:
    """Return the figures of COUNT samples."""
    return measured(draw(training.sampler, COUNT)[0], training.backend)


def measured(images: np.ndarray, backend: Any) -> dict[str, Any]:
    """Read the digits of images (N, 28, 28, 3), and return `modes`, `kl`, and `sure`.

    `sure` is the share of images of which the judge is sure of all three digits.
    """
    judge = Judge(backend)
    read = [judge.features_and_probabilities(np.ascontiguousarray(images[..., c, None]))[1] for c in range(3)]
    digits = np.stack([probabilities.argmax(axis=1) for probabilities in read], axis=1)  # (N, 3)
    sure = np.min([probabilities.max(axis=1) for probabilities in read], axis=0) >= SURE
    labels = datasets.mnist().labels
    assert labels is not None
    modes, kl = modes_and_kl(digits, stacked.shares(labels))
    return {"modes": modes, "kl": round(kl, 5), "sure": round(float(sure.mean()), 4)}


def modes_and_kl(digits: np.ndarray, p: np.ndarray) -> tuple[int, float]:
    """Return the number of triples (N, 3) of digits that occur, and KL(q || p) in nats.

    q are the shares of the triples, and p (1000,) those of the data. For N samples of the data
    themselves, KL is about 999 / 2 N.
    """
    q = np.bincount(digits @ [100, 10, 1], minlength=stacked.CLASSES) / len(digits)
    there = q > 0
    return int(there.sum()), float((q[there] * np.log(q[there] / p[there])).sum())


def verdict(results: Results) -> list[str]:
    """Compare with the targets, packing with none, and the small discriminator with the full one."""
    small = [arm for arm in results.arms if arm.startswith("quarter D")]
    said = []
    if TARGET in results.arms:
        said.append(target(f"modes with {TARGET}", results.mean(TARGET, "modes"), ">=", 1000, 1))
        said.append(target(f"KL with {TARGET}", results.mean(TARGET, "kl"), "<=", 0.05))
    if small:
        best = results.best(small, "modes")
        said.append(target(f"modes with {best}", results.mean(best, "modes"), ">", 667, 0))
    if REAL in results.arms:
        said.append(f"{REAL}: KL {results.mean(REAL, 'kl'):.3f}, which is the KL that a perfect generator would have")
    for arm, base in PAIRS:
        if {arm, base} <= set(results.arms):
            said += [compared(results, arm, base, figure) for figure in ("modes", "kl")]
    return said


def picture(results: Results) -> np.ndarray:
    """Draw the modes and the KL over the seconds of training."""
    panels: dict[str, Any] = {"modes": {}, "KL (nats)": {}}
    for arm in (arm for arm in results.arms if arm != REAL):
        moments = [row["figures"]["moments"] for row in results.of(arm)]
        for panel, name in zip(panels.values(), ("modes", "kl"), strict=True):
            panel[arm] = [tuple(np.array([[m["seconds"], m[name]] for m in one]).T) for one in moments]
    return pictures.lines(panels, "seconds of training", log_y=True)


EXPERIMENT = Experiment(
    question=__doc__,
    arms={
        TARGET: BASE | {"steps": 60_000, "network": {"g_width": 2}},
        "full D": BASE | {"steps": 30_000, "network": {"d_minibatch_std": 0.0}},
        "full D, packs of 2": BASE | {"steps": 30_000, "network": {"d_minibatch_std": 0.0}, "pack": 2},
        "quarter D": BASE | {"steps": 30_000, "network": {"d_minibatch_std": 0.0, "d_width": 0.25}},
        "quarter D, packs of 2": BASE
        | {"steps": 30_000, "network": {"d_minibatch_std": 0.0, "d_width": 0.25}, "pack": 2},
        "quarter D, minibatch std": BASE | {"steps": 30_000, "network": {"d_width": 0.25}},
        REAL: {},
    },
    run=run,
    columns={
        "modes": Column("modes of 1,000", "higher", 1),
        "kl": Column("KL (nats)", "lower"),
        "sure": Column("three digits that the judge is sure of"),
    },
    minutes=70,
    seeds={TARGET: 3},
    alone=(TARGET,),
    verdict=verdict,
    picture=picture,
)
