"""Train a generator and a discriminator, and save the complete state in checkpoints."""

from minigan.training.config import TOTALS, Config
from minigan.training.sampling import Sampler, draw_labels, draw_noise, draw_samples, every_label
from minigan.training.training import Diverged, Record, Training

__all__ = [
    "TOTALS",
    "Config",
    "Diverged",
    "Record",
    "Sampler",
    "Training",
    "draw_labels",
    "draw_noise",
    "draw_samples",
    "every_label",
]
