"""Experiments, and a short benchmark of the training step.

A file of your own defines EXPERIMENT with the names of this module; `minigan experiment FILE.py` runs it.
"""

from minigan.lab.experiment import Column, Experiment, Quick, Results, Row
from minigan.lab.gans import digits, distance, gan, mixture, moments_of, shared, train
from minigan.lab.results import compared, target
from minigan.lab.runner import Report, run

__all__ = [
    "Column",
    "Experiment",
    "Quick",
    "Report",
    "Results",
    "Row",
    "compared",
    "digits",
    "distance",
    "gan",
    "mixture",
    "moments_of",
    "run",
    "shared",
    "target",
    "train",
]
