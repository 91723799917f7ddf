"""Say what the numbers of an epoch mean, and recognise a training that goes wrong.

The functions take a row of the history and samples, and return sentences. `Alarm` reports each
problem once. A row may contain the figures of a check, which `metrics.collapse` describes.

kind             problem                                                  a collapse
losses           the losses are absurd
discriminator    D is sure of every sample
generator        G no longer changes
pictures         every picture has a single colour                        yes
noise            one sample for every noise                               yes
far              the samples do not resemble the data                     yes
copies           most samples are copies of others                        yes
variety          the samples of a mode hardly differ                      yes
modes            the samples cover few modes, or few real samples         yes
labels           G ignores its labels, or the labels say nothing
memory           D has memorised its data
dead             most units of G are dead
gradient         G gets no gradient

One check says little: the samples of a check are few, a training starts with samples that resemble
nothing, and some recover from anything. So most kinds are reported only after several checks in a
row: see AGAIN, PATIENCE, LASTING and SLOW below. The others (`discriminator`, `generator`, and
`labels` that say nothing) are reported at once. The limits were chosen on the runs of the parts
`tune` and `second` of benchmarks/alarm.py.
"""

import numpy as np

ABSURD = 30.0  # |loss|: log(1 + exp(30)) means that D is wrong with a probability of 1 - 1e-13
SURE = 0.99  # mean probability of an epoch from which D "always wins"
MIN_STEPS = 50  # before, the samples of a good training may still all look alike
MIN_SAMPLES = 4
COLLAPSE = {"pictures", "noise", "far", "copies", "variety", "modes"}  # the kinds of problems that are a collapse
AGAIN = 3  # checks in a row with a problem, after which it is reported
PATIENCE = 5  # the same for absurd losses, and for a collapse if no check was good so far
LASTING = 8  # the same for poor samples, with which a training may start
SLOW = 10  # the same for labels that are ignored, because a generator may learn them late
NEAR = 0.1  # share of fakes near a mode, below which they do not resemble the data
COPIES = 0.5  # share of copies, above which most samples are copies
VARIETY = 0.2  # of that of real samples, below which the samples of a mode hardly differ
FEW = 0.25  # share of modes, up to which few are covered
EVENNESS = 0.3  # below which nearly all fakes are in few modes
FALL = 0.1  # of the best coverage so far, below which the coverage has fallen
BEST = 0.2  # coverage from which a fall counts
POOR = 0.2  # coverage below which samples are poor, if their variety is below HALF
HALF = 0.75
FOLLOWED = 0.25  # of what is possible, below which G ignores its labels
KNOWN = 0.05  # labels_known, below which the labels say nothing
MEMORY = 0.3  # difference of d_right_train and d_right_held_out from which D has memorised its data
DEAD = 0.5  # share of dead units from which most are dead
GRADIENT = 1e-5  # norm below which G gets no gradient


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
        self.in_a_row: dict[str, int] = {}  # checks in a row with each problem; "collapse" for all kinds of collapse
        self.good = False  # whether a check showed no collapse
        self.best = 0.0  # coverage

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
        losses, same = absurd_losses(row), {kind: problems.get(kind) for kind in ("pictures", "noise")}
        found = {"discriminator": always_wins(row), "generator": problems.get("generator")}
        found["losses"] = losses if self._repeated("losses", bool(losses), PATIENCE) else None
        if self._repeated("same", any(same.values()), AGAIN):
            found |= same
        if "d_gradient" in row:
            known = COLLAPSE & ({kind for kind, text in found.items() if text} | self.reported)
            found |= {kind: text for kind, text in self._of_check(row).items() if not (known and kind in COLLAPSE)}
        new = {kind: text for kind, text in found.items() if text and kind not in self.reported}
        self.reported |= new.keys()
        return new

    def _of_check(self, row: dict) -> dict[str, str]:
        """Return the problems that the figures of this check show, if enough checks before showed them too."""
        self.best = max(self.best, row.get("coverage", 0.0))
        collapse = of_figures(row, self.best)
        self.good = self.good or ("near" in row and not collapse)
        found: dict[str, str] = {}
        if self._repeated("collapse", bool(collapse), AGAIN if self.good else PATIENCE):
            found |= collapse
        poor = {} if collapse else poor_samples(row)
        if self._repeated("poor", bool(collapse or poor), LASTING):
            found |= poor
        for kind, text, least in (
            ("labels", ignores_labels(row), SLOW),
            ("memory", memorises(row), AGAIN),
            ("dead", dead_generator_units(row), AGAIN),
            ("gradient", no_gradient(row), AGAIN),
        ):
            if self._repeated(kind, bool(text) and not collapse, least) and text:
                found[kind] = text
        return found | ({} if collapse else empty_labels(row))

    def _repeated(self, kind: str, now: bool, least: int) -> bool:
        """Count the checks in a row with a problem. Return whether they are at least `least`."""
        self.in_a_row[kind] = self.in_a_row.get(kind, 0) + 1 if now else 0
        return self.in_a_row[kind] >= least


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


def of_figures(row: dict, best: float = 0.0) -> dict[str, str]:
    """Return the kind of collapse that the figures of a check show, the plainest one, as {kind: sentence}, or {}.

    `best` is the largest coverage of the checks so far.
    """
    if "near" not in row:
        return {}
    advice = "a smaller --lr-g usually helps, or a larger --batch, or a preset with minibatch standard deviation"
    if row["near"] < NEAR:
        text = f"the samples do not resemble the data ({row['near']:.0%} are as near to a mode as real samples are)"
        return {"far": f"{text}: a smaller --lr usually helps, or --penalty r1; if D always wins, a smaller --lr-d"}
    if row["copies"] > COPIES:
        return {"copies": f"{row['copies']:.0%} of the samples are copies of others (mode collapse): {advice}"}
    if row.get("variety", 1.0) < VARIETY:
        text = f"the samples of a mode hardly differ ({row['variety']:.2f} times as much as real ones; mode collapse)"
        return {"variety": f"{text}: {advice}"}
    covered = f"the samples cover {row['modes_covered']} of {row['modes']} modes of the data"
    if row["modes_covered"] <= FEW * row["modes"]:
        return {"modes": f"{covered} (mode collapse): {advice}"}
    if row["evenness"] < EVENNESS:
        return {"modes": f"{covered}, and nearly all are in few of them (mode collapse): {advice}"}
    if best >= BEST and row["coverage"] < FALL * best:
        text = f"the samples are near {row['coverage']:.0%} of the real samples, and were near {best:.0%} before"
        return {"modes": f"{text} (mode collapse): {advice}"}
    return {}


def poor_samples(row: dict) -> dict[str, str]:
    """Return {"modes": sentence} if fakes are near few real samples and vary little, else {}.

    A training may start like this, so it says something only if it lasts.
    """
    if row.get("coverage", 1.0) >= POOR or row.get("variety", 1.0) >= HALF:
        return {}
    text = (
        f"the samples stay near {row['coverage']:.0%} of the real samples, with {row['variety']:.2f} of their variety"
    )
    return {"modes": f"{text} (mode collapse): a larger --lr-d usually helps, or a smaller --lr-g"}


def ignores_labels(row: dict) -> str | None:
    """Return a sentence if the fakes do not show the classes asked for, and real samples show theirs, else None."""
    followed, known = row.get("labels_followed"), row.get("labels_known", 0.0)
    if followed is None or known < 2 * KNOWN or followed >= FOLLOWED * known:
        return None
    return (
        f"the generator ignores its labels (labels_followed {followed:.2f}; real samples have {known:.2f}): a smaller "
        "--lr-g usually helps, or more training"
    )


def empty_labels(row: dict) -> dict[str, str]:
    """Return {"labels": sentence} if the labels do not say anything about real samples, else {}."""
    if row.get("labels_known", 1.0) >= KNOWN:
        return {}
    text = (
        f"the labels say nothing about the samples that a simple classifier can see (labels_known "
        f"{row['labels_known']:.2f}): look whether they belong to their samples (`minigan info`), or leave them out "
        "with --unconditional, which usually helps"
    )
    return {"labels": text}


def memorises(row: dict) -> str | None:
    """Return a sentence if D recognises training samples, but not equal samples that were held out, else None."""
    if row["d_right_train"] - row.get("d_right_held_out", row["d_right_train"]) < MEMORY:
        return None
    return (
        f"the discriminator memorises its data (right on {row['d_right_train']:.0%} of training samples and "
        f"{row['d_right_held_out']:.0%} of held-out ones): more data usually help, or --penalty r1, or a smaller --lr-d"
    )


def dead_generator_units(row: dict) -> str | None:
    """Return a sentence if most hidden units of G have the same value for every noise, else None."""
    if row.get("dead_units", 0.0) < DEAD:
        return None
    return f"{row['dead_units']:.0%} of the generator's units are dead: a smaller --lr-g usually helps"


def no_gradient(row: dict) -> str | None:
    """Return a sentence if G's gradient is nearly 0, else None."""
    if row.get("g_gradient", 1.0) >= GRADIENT:
        return None
    return (
        f"the generator gets no gradient (norm {row['g_gradient']:.1e}): a smaller --lr-d usually helps, or another "
        "--loss than minimax"
    )


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
