"""Train a generator and a discriminator, and save the complete state in checkpoints."""

from minigan.training.config import TOTALS, Config
from minigan.training.sampling import Sampler, cyclic_labels, draw_labels, draw_noise, draw_samples
from minigan.training.training import Diverged, Record, Training

__all__ = [
    "TOTALS",
    "Config",
    "Diverged",
    "Record",
    "Sampler",
    "Training",
    "cyclic_labels",
    "draw_labels",
    "draw_noise",
    "draw_samples",
]
