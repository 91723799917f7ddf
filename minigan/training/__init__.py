"""Training a generator against a discriminator, and keeping the whole state in checkpoints."""

from minigan.training.training import (
    RECIPES,
    TOTALS,
    Config,
    Diverged,
    Training,
    draw_images,
    draw_labels,
    draw_noise,
    fingerprint,
    labels_in_turn,
)

__all__ = [
    "RECIPES",
    "TOTALS",
    "Config",
    "Diverged",
    "Training",
    "draw_images",
    "draw_labels",
    "draw_noise",
    "fingerprint",
    "labels_in_turn",
]
