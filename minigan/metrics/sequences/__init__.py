"""Compare generated series with real ones: see `comparison`."""

from minigan.metrics.sequences.comparison import SCORES, Known, Labels, compare, table

__all__ = ["SCORES", "Known", "Labels", "compare", "table"]
