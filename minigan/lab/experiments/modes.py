"""Which loss covers all modes of a ring of 8 and a grid of 25 Gaussians, with samples of high quality?

The protocol is that of PacGAN (Lin et al. 2018, section 4.1), with minigan's own ring and grid: of
2,500 samples, a mode is covered if at least one is within three standard deviations of it, and the
quality is the share of samples within three standard deviations of any mode. Of the data
themselves, 98.9% are. The reverse KL compares the shares of the modes with equal shares. All losses
have the same recipe: a batch of 256, R1 with a small weight, and instance noise in the first part of
the training, so that the generator spreads before it sees separate modes. WGAN-GP and R3GAN keep
their own kind of penalty. For comparison, the preset `points` is trained as it is, as long.
"""

from typing import Any

from minigan import losses
from minigan.lab import Column, Experiment, Results, gan, mixture, target
from minigan.lab.runner import dots

STEPS = 20_000
RECIPE: dict[str, Any] = {
    "preset": "points",
    "batch": 256,
    "instance_noise": 0.4,
    "instance_noise_until": 0.15,
    "penalty": "r1",
    "penalty_weight": 0.02,
    "penalty_every": 2,
    "average": 0.999,
}
OWN: dict[str, dict[str, Any]] = {
    "wasserstein": {"penalty": "wgan-gp", "penalty_weight": 1.0},
    "r3gan": {"penalty": "r1+r2"},
}
BEST = "relativistic"
LOSSES = [BEST, *(loss for loss in losses.LOSSES if loss != BEST)]
MODES = {"ring": 8, "grid": 25}
TARGETS = tuple(f"{data}, {BEST}" for data in MODES)


def verdict(results: Results) -> list[str]:
    """Compare the best loss with the targets, and say which losses reach the same."""
    said = []
    for data, count in MODES.items():
        arm = f"{data}, {BEST}"
        if arm in results.arms:
            fewest = min(results.values(arm, "modes"), default=0.0)
            said.append(target(f"modes of the {data}, fewest of the seeds, with {BEST}", fewest, ">=", count, 0))
            said.append(target(f"quality on the {data} with {BEST}", results.mean(arm, "quality"), ">=", 0.97))
        others = [arm for arm in results.arms if arm.startswith(data) and arm not in TARGETS]
        for other in others:
            said.append(described(results, other, count))
    return said


def described(results: Results, arm: str, count: int) -> str:
    """Return a sentence on an arm of one seed."""
    modes, quality, kl = (results.mean(arm, figure) for figure in results.columns)
    if not modes >= 0:
        return f"{arm}: it diverged"
    every = "all" if modes == count else f"{modes:.0f} of"
    return f"{arm}: {every} {count} modes, quality {quality:.3f}, reverse KL {kl:.3f} (one seed, no interval)"


EXPERIMENT = Experiment(
    question=__doc__,
    arms={f"{data}, {loss}": {**RECIPE, **OWN.get(loss, {}), "data": data, "loss": loss}
          for loss in LOSSES for data in MODES}
    | {f"{data}, preset points": {"preset": "points", "data": data} for data in MODES},
    run=gan(mixture, steps=STEPS),
    columns={
        "modes": Column("modes", "higher", 1),
        "quality": Column("quality", "higher"),
        "reverse_kl": Column("reverse KL", "lower"),
    },
    minutes=25,
    seeds=dict.fromkeys(TARGETS, 3),
    alone=TARGETS,
    verdict=verdict,
    picture=lambda results: dots(results, "modes", "quality", "reverse_kl"),
)  # fmt: skip
