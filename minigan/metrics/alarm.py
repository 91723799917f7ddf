"""Say what the numbers of an epoch mean, and recognise a training that goes wrong.

The functions take a row of the history and samples, and return sentences. `Alarm` reports each
problem once.
"""

import numpy as np

ABSURD = 30.0  # |loss|: log(1 + exp(30)) means that D is wrong with a probability of 1 - 1e-13
SURE = 0.99  # mean probability of an epoch from which D "always wins"
MIN_STEPS = 50  # before, the samples of a good training may still all look alike
MIN_SAMPLES = 4
COLLAPSE = {"pictures", "noise"}  # the kinds of problems that are a collapse


def meaning(row: dict) -> str:
    """Return in a few words what the mean probabilities of an epoch say about the two networks.

    D(real) - D(fake) is 1 if D recognises every sample, and 0 if it cannot tell real and fake apart.
    """
    lead = row["d_real"] - row["d_fake"]
    if lead < -0.05:
        return "D takes fakes for real"
    for limit, text in ((0.05, "D cannot tell fakes from real"), (0.6, "both learn"), (0.9, "D is ahead")):
        if lead < limit:
            return text
    return "D is far ahead"


class Alarm:
    """Recognise the usual ways in which a training goes wrong. Each is reported once."""

    def __init__(self) -> None:
        self.reported: set[str] = set()
        self.before: np.ndarray | None = None  # the samples of the epoch before

    @property
    def collapsed(self) -> bool:
        """Whether a problem was reported that is a collapse."""
        return bool(self.reported & COLLAPSE)

    def check(
        self, row: dict, samples: np.ndarray, labels: np.ndarray | None = None, decays: bool = False
    ) -> list[str]:
        """Return a sentence for each problem that this epoch shows for the first time.

        `row` is the row of the epoch in the history. `samples` (N, ...) are decoded samples of the
        same noise in every epoch, and `labels` (N,) their labels. `decays` says that the learning
        rate decays, so that samples may stop to change.
        """
        samples = np.asarray(samples, np.float64)
        problems = of_samples(row["step"], self.before, samples, labels, decays)
        self.before = samples
        return list(self.kinds(row, problems).values())

    def kinds(self, row: dict, problems: dict[str, str]) -> dict[str, str]:
        """Return the problems that are reported for the first time, as {kind: sentence}.

        `problems` are those of the samples of this epoch: see `of_samples`.
        """
        found = {"losses": absurd_losses(row), "discriminator": always_wins(row), **problems}
        new = {kind: text for kind, text in found.items() if text and kind not in self.reported}
        self.reported |= new.keys()
        return new


def of_samples(
    step: int, before: np.ndarray | None, samples: np.ndarray, labels: np.ndarray | None, decays: bool
) -> dict[str, str]:
    """Return the problems that samples (N, ...) of the same noise in every epoch show, as {kind: sentence}.

    `before` are the samples of the epoch before. See `Alarm.check` for the other arguments.
    """
    samples = np.asarray(samples, np.float64)
    if step < MIN_STEPS or len(samples) < MIN_SAMPLES:
        return {}
    found = {"pictures": constant_pictures(samples)}
    found["noise"] = None if found["pictures"] else ignores_noise(samples, labels)
    if not decays and before is not None and before.shape == samples.shape:
        found["generator"] = dead_generator(np.asarray(before, np.float64), samples)
    return {kind: text for kind, text in found.items() if text}


def absurd_losses(row: dict) -> str | None:
    """Return a sentence if a mean loss is so large that no training recovers from it, else None."""
    if max(abs(row["d_loss"]), abs(row["g_loss"])) < ABSURD:
        return None
    return (
        f"the losses are absurd (D {row['d_loss']:.3g}, G {row['g_loss']:.3g}; usual are 0 to 10): a smaller --lr "
        "usually helps, or --penalty r1, which keeps the logits small"
    )


def always_wins(row: dict) -> str | None:
    """Return a sentence if the discriminator was sure of nearly every sample of the epoch, else None."""
    if row["d_real"] < SURE or row["d_fake"] > 1 - SURE:
        return None
    return (
        f"the discriminator always wins (D(real) {row['d_real']:.3f}, D(fake) {row['d_fake']:.3f}), so the generator "
        "learns little: a smaller --lr-d usually helps, or --label-smoothing 0.1, --penalty r1, or more data"
    )


def constant_pictures(samples: np.ndarray) -> str | None:
    """Return a sentence if nearly every sample (N, H, W, ...) is one constant colour, else None."""
    if samples.ndim < 3:
        return None  # a point has no other values to compare with
    spread = samples.std(axis=(1, 2)).reshape(len(samples), -1).max(axis=1)
    if np.mean(spread < 1) < 0.9:  # 1 of 255 levels of brightness
        return None
    return (
        "the generator draws constant pictures, each of a single colour: a smaller --lr-g usually helps; if the data "
        "are mostly empty, look at them too (`minigan info`)"
    )


def ignores_noise(samples: np.ndarray, labels: np.ndarray | None = None) -> str | None:
    """Return a sentence if samples (N, ...) of one class do not depend on the noise, else None."""
    groups = [samples] if labels is None else [samples[labels == label] for label in np.unique(labels)]
    groups = [group.reshape(len(group), -1) for group in groups if len(group) > 1]
    size = np.ptp(samples) or 1.0
    if not groups or max(group.std(axis=0).max() for group in groups) > size / 255:
        return None
    return (
        "the generator draws the same sample for every noise (mode collapse): a smaller --lr-g usually helps, or a "
        "larger --batch, or a preset with minibatch standard deviation"
    )


def dead_generator(before: np.ndarray, now: np.ndarray) -> str | None:
    """Return a sentence if the samples (N, ...) of the same noise did not change in an epoch, else None."""
    if np.abs(now - before).max() > 0:
        return None
    return (
        "the generator no longer changes: it draws exactly the samples of the epoch before. A larger --lr-g usually "
        "helps, or a smaller --lr-d: if D is sure of everything, its gradient for G is 0"
    )
