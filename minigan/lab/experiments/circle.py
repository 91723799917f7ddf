"""Does a GAN converge to its equilibrium, or does it circle around it?

The Dirac GAN (Mescheder et al. 2018, section 2) is the smallest GAN: all data are the number 0, the
generator draws the number theta, and D(x) = psi x. Its only equilibrium is theta = psi = 0. It
starts at distance 1, and both players use plain gradient descent: with the minimax loss (plain) or
the non-saturating loss, with R1, and as WGAN-GP. Either the players take turns (alternating), or both
step from the same point (simultaneous). The gradient of D(x) = psi x is psi at every x, so it does
not matter at which points a penalty is computed. WGAN-GP asks for |psi| = 1, which is not the
equilibrium; with the weight 10 instead of 0.25, theta comes to rest at 20, twice the weight. Then the
preset `points` learns a ring of eight Gaussians in the same eight ways, at a constant learning rate.
At its equilibrium, D answers 1/2 for every sample.
"""

import math
from typing import Any

import numpy as np

from minigan import game, losses, optim, penalties
from minigan.lab import Column, Experiment, Quick, Results, Row, compared, mixture, moments_of, train
from minigan.layers import Dense, Sequential
from minigan.metrics.players import logits_of
from minigan.report import experiments as pictures
from minigan.training import Training, draw_noise

WAYS: dict[str, dict[str, Any]] = {
    "plain": {"loss": "minimax"},
    "non-saturating": {"loss": "non_saturating"},
    "R1": {"loss": "minimax", "penalty": "r1", "penalty_weight": 1.0},
    "WGAN-GP": {"loss": "wasserstein", "penalty": "wgan-gp", "penalty_weight": 0.25},
}
ORDERS = {"alternating": False, "simultaneous": True}
STEPS, LR = 1000, 0.1  # of the Dirac GAN
RING = {"preset": "points", "data": "ring", "steps": 6000, "decay": False, "average": 0.0}
SHOWN = 2560  # samples of each sort that D is shown


def run(row: Row) -> dict[str, Any]:
    """Train and measure a Dirac GAN, or a GAN on the ring."""
    return ring(row) if "preset" in row.settings else dirac(row)


def dirac(row: Row) -> dict[str, Any]:
    """Train a Dirac GAN from a random point at distance 1, and return its path and its last distance to (0, 0)."""
    of = row.settings
    G, D = (Sequential(Dense(1, 1, bias=False, rng=row.rng())).to(row.backend, np.float64) for _ in "GD")
    opt_g, opt_d = optim.SGD(G, lr=LR), optim.SGD(D, lr=LR)
    theta, psi = G.params["0.w"], D.params["0.w"]  # (1, 1); the optimizers change them in place
    angle = row.rng(1).uniform(0, 2 * math.pi)
    theta[...], psi[...] = math.cos(angle), math.sin(angle)
    loss, penalty = losses.LOSSES[of["loss"]], None
    if "penalty" in of:
        penalty = penalties.named(of["penalty"], weight=of["penalty_weight"], rng=row.rng(2))
    real, z = np.zeros((1, 1)), np.ones((1, 1))
    path = [(theta.item(), psi.item())]
    for _ in range(of["steps"]):
        if of["simultaneous"]:
            game.simultaneous_step(G, D, opt_d, opt_g, real, z, loss, penalty=penalty)
        else:
            game.discriminator_step(G, D, opt_d, real, z, loss, penalty=penalty)
            game.generator_step(G, D, opt_g, z, loss)
        path.append((theta.item(), psi.item()))
        row.log(*path[-1])
    distance = float(f"{math.hypot(*path[-1]):.4g}")
    return {"distance": distance, "path": np.round(path[:: of["steps"] // 500], 4).tolist()}


def ring(row: Row) -> dict[str, Any]:
    """Train points on the ring, and return how far D is from 1/2, and where the samples are, over the steps."""
    training = train(row, row.settings, moments=np.linspace(0, 1, 41)[1:].tolist(), measure=state)
    moments = moments_of(row.folder / "run")
    late = moments[-len(moments) // 4 :]
    found = {name: round(float(np.mean([one[name] for one in late])), 5) for name in ("answers", "reverse_kl")}
    return found | {"modes": mixture(training)["modes"], "moments": moments}


def state(training: Training) -> dict[str, Any]:
    """Return the mean distance of D's answers from 1/2, the reverse KL of samples, and their mean (x, y)."""
    (G, D), batch, rng = training.players, training.config.batch, np.random.default_rng(0)
    assert training.data.held_out is not None
    real = training.backend.asarray(training.data.held_out.batch(rng.integers(len(training.data.held_out), size=SHOWN)))
    fake = G.forward(draw_noise(G, rng, SHOWN), track=False)[0]
    logits = [logits_of(D, samples, None, batch) for samples in (real, fake)]
    centre = (logits[0].mean() + logits[1].mean()) / 2 if training.loss.relative else 0.0
    answers = 1 / (1 + np.exp(centre - np.concatenate(logits)))
    mean = training.backend.to_numpy(fake).mean(axis=0)
    found = {"answers": round(float(np.abs(answers - 0.5).mean()), 5), "mean": np.round(mean, 4).tolist()}
    return found | {"reverse_kl": mixture(training)["reverse_kl"]}


def verdict(results: Results) -> list[str]:
    """Say where each Dirac GAN ends, and compare the GANs on the ring with plain ones."""
    said = [described(results, arm) for arm in results.arms if arm.startswith("Dirac")]
    for arm in (arm for arm in results.arms if arm.startswith("ring")):
        base = f"ring, plain, {arm.rpartition(', ')[2]}"
        if arm != base:
            said += [compared(results, arm, base, figure) for figure in ("answers", "reverse_kl")]
    return said


def described(results: Results, arm: str) -> str:
    """Return a sentence on how the distance to the equilibrium changes, from 1 at the start."""
    distance, steps = results.mean(arm, "distance"), results.of(arm)[0]["settings"]["steps"]
    how = "moves away" if distance > 1.1 else "stays at its distance" if distance > 0.9 else "comes closer slowly"
    how = "converges" if distance < 0.05 else how
    return (
        f"{arm}: it {how}: the distance to the equilibrium is {distance:.3f} after {steps} steps, from 1 at the start"
    )


def picture(results: Results) -> np.ndarray:
    """Draw the paths of the Dirac GANs, and D's answers and the reverse KL on the ring over the steps."""
    of_dirac = {
        arm.removeprefix("Dirac GAN, "): [np.array(row["figures"]["path"]) for row in results.of(arm)]
        for arm in results.arms
        if arm.startswith("Dirac")
    }
    parts = [pictures.paths(of_dirac, "theta", "psi", goal=(0.0, 0.0))] if of_dirac else []
    panels: dict[str, Any] = {"mean distance of D's answers from 1/2": {}, "reverse KL (nats)": {}}
    for arm in (arm for arm in results.arms if arm.startswith("ring")):
        moments = [row["figures"]["moments"] for row in results.of(arm)]
        for panel, name in zip(panels.values(), ("answers", "reverse_kl"), strict=True):
            panel[arm] = [tuple(np.array([[m["step"], m[name]] for m in one]).T) for one in moments]
    parts += [pictures.lines(panels, "step")] if panels["reverse KL (nats)"] else []
    return pictures.stacked(*parts)


def claim(results: Results) -> tuple[str, bool]:
    """Say that R1 brings the Dirac GAN to its equilibrium, and that it does not come closer without."""
    plain = min(results.values(arm, "distance").min() for arm in results.arms if "plain" in arm)
    r1 = max(results.values(arm, "distance").max() for arm in results.arms if "R1" in arm)
    says = (
        f"the Dirac GAN starts at distance 1 from its equilibrium; after {STEPS} steps, the distance is at least "
        f"{plain:.2f} without a penalty and at most {r1:.1g} with R1 (three starts, both step orders)"
    )
    return says, bool(plain > 0.9 and r1 < 0.01)


DIRAC = {
    f"Dirac GAN, {way}, {order}": {**options, "simultaneous": at_once, "steps": STEPS}
    for way, options in WAYS.items()
    for order, at_once in ORDERS.items()
}
EXPERIMENT = Experiment(
    question=__doc__,
    arms=DIRAC
    | {
        f"ring, {way}, {order}": {**RING, **options, "simultaneous": at_once}
        for way, options in WAYS.items()
        for order, at_once in ORDERS.items()
    },
    run=run,
    columns={
        "distance": Column("distance to (0, 0)", "lower"),
        "answers": Column("D's distance from 1/2", "lower"),
        "reverse_kl": Column("reverse KL, ring", "lower"),
        "modes": Column("modes of 8", "higher", 1),
    },
    minutes=3,
    seeds=3,
    verdict=verdict,
    picture=picture,
    quick=Quick({arm: of for arm, of in DIRAC.items() if "plain" in arm or "R1" in arm}, 3, claim),
)
