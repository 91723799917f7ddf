"""The networks, as architecture tables."""

from minigan.models.images import PRESETS, build, classes, head, label_input, noise_size, table

__all__ = ["PRESETS", "build", "classes", "head", "label_input", "noise_size", "table"]
