"""Metrics of generated samples, and the classifier that computes the features of images."""

from minigan.metrics.distances import Neighbourhoods, class_divergence, frechet_distance
from minigan.metrics.judge import Judge
from minigan.metrics.scores import scores, table

__all__ = ["Judge", "Neighbourhoods", "class_divergence", "frechet_distance", "scores", "table"]
