"""Discriminators from networks that were trained before: with frozen layers, or from a classifier's convolutions.

A discriminator that is not that of a preset is described by facts that JSON can represent. They are stored in
checkpoints, so that its networks can be built again without the file of the classifier:

    {"widths": [24, 48], "projected": false}         the channels of the classifier's convolutions
"""

from typing import Any

import numpy as np

from minigan.errors import UserError
from minigan.layers import (
    Conv2d,
    Flatten,
    Frozen,
    LeakyReLU,
    MinibatchStdDev,
    MultiDepth,
    Sequential,
    SpectralNorm,
    he_normal,
)
from minigan.models import classifier
from minigan.models.preset import head

Facts = dict[str, Any]
FREEZE = "a number of layers (1, 2, ...), features (all layers but the last) or all"
HEAD_WIDTH = 32  # channels of the convolution in each head of a projected discriminator


def from_facts(rng: np.random.Generator, shape: tuple[int, ...], classes: int, facts: Facts) -> Sequential:
    """Build the discriminator that the facts describe, for images (H, W, C) and `classes` labels (0: no labels)."""
    build = projected if facts["projected"] else from_classifier
    return build(rng, shape, classes, facts["widths"])


def from_classifier(rng: np.random.Generator, shape, classes: int, widths) -> Sequential:
    """Build a discriminator: the stages of a classifier, and a new head, images (N, H, W, C) -> logits (N, 1).

    The hidden layer of the classifier and its last layer are not used. The layers have the positions
    that they have in the classifier. The head sees the minibatch standard deviation of each channel
    as well. Without it, a linear layer on frozen features does not notice that all samples of a class
    are alike.
    """
    layers = [layer for stage in classifier.stages(rng, shape, widths) for layer in stage.layers]
    h, w, c = classifier.shapes(shape, widths)[-1]
    varies = MinibatchStdDev(c, strength=5)
    return Sequential(*layers, Flatten(), varies, head((h * w + 1) * c, classes, rng=rng))


def projected(rng: np.random.Generator, shape, classes: int, widths) -> Sequential:
    """Build a projected discriminator (after Sauer et al. 2021, "Projected GANs Converge Faster").

    The stages of a classifier are frozen. At each depth, a frozen 1x1 convolution with random
    weights mixes the channels of the stage's features. A small head, which learns, computes a logit
    from the mixed features: a convolution of stride 2 with spectral norm, LeakyReLU, and the usual
    last layer. The logits of all depths are added, images (N, H, W, C) -> logits (N, 1).

    It differs from the paper in four ways. The features are those of a small classifier, not of an
    EfficientNet that was trained on ImageNet. Channels are mixed, but not the depths with each other
    (sections 3.2 and 4 of the paper mix both). A head gives one logit for each image, not one for
    each patch. And the loss is computed from the sum of the logits, where the paper adds the losses
    of the heads, so that every loss of minigan can be used as it is.
    """
    stages = [Sequential(*map(Frozen, stage.layers)) for stage in classifier.stages(rng, shape, widths)]
    heads = []
    for h, w, c in classifier.shapes(shape, widths):
        heads.append(
            Sequential(
                Frozen(Conv2d(c, c, 1, bias=False, rng=rng, init=he_normal)),
                SpectralNorm(Conv2d(c, HEAD_WIDTH, 3, stride=2, pad=1, rng=rng), rng=rng),
                LeakyReLU(0.2),
                Flatten(),
                head((h + 1) // 2 * ((w + 1) // 2) * HEAD_WIDTH, classes, rng=rng),
            )
        )
    return Sequential(MultiDepth(stages, heads))


def taken_from_classifier(arrays: dict[str, np.ndarray], facts: Facts) -> dict[str, np.ndarray]:
    """Return the arrays of a classifier's network that the discriminator takes, by their names in the discriminator."""
    found = {}
    for name, value in arrays.items():
        position, _, rest = name.partition(".")
        stage, inside = divmod(int(position), 3)  # a stage has three layers
        if stage < len(facts["widths"]):
            found[f"0.{stage}.stage.{inside}.{rest}" if facts["projected"] else name] = value
    return found


# ---------------------------------------------------------------- frozen layers


def frozen(D: Sequential, part: str) -> Sequential:
    """Return the discriminator with frozen layers.

    `part` is the number of the first layers that are frozen, "features" for all but the last one,
    "all", or "" for none. The layers keep their positions and their arrays keep their names. Raises
    UserError if D does not have so many layers.
    """
    if not part:
        return D
    count, total = {"all": len(D.layers), "features": len(D.layers) - 1}.get(part), len(D.layers)
    count = int(part) if count is None else count
    if count < 1 or (count >= total and part != "all"):
        only = "freeze is all, or left out" if total == 1 else f"freeze is 1 to {total - 1}, features or all"
        raise UserError(f"this discriminator has {total} layer{'s' * (total > 1)}, so {only}, got {part}")
    return Sequential(*map(Frozen, D.layers[:count]), *D.layers[count:])


def expect_options(discriminator_from: str, freeze: str, projected: bool, penalty: str) -> None:
    """Raise UserError if these options of a run contradict each other."""
    number = freeze.isascii() and freeze.isdigit() and int(freeze) > 0
    for valid, message in (
        (freeze in ("", "features", "all") or number, f"freeze is {FREEZE}, got {freeze!r}"),
        (
            discriminator_from or not freeze,
            f"freeze needs a discriminator that was trained before: give discriminator_from, got freeze {freeze}",
        ),
        (
            discriminator_from or not projected,
            "projected needs the features of a classifier: give its file as discriminator_from (`minigan classify` "
            "writes it)",
        ),
        (
            not (projected and freeze),
            f"projected freezes all features and trains only the heads: leave freeze out, got freeze {freeze}",
        ),
        (
            not (freeze == "all" and penalty != "none"),
            f"a discriminator of which all is frozen cannot be penalised: leave penalty out, got penalty {penalty}",
        ),
    ):
        if not valid:
            raise UserError(message)
