"""Compare generated series with real ones: see `comparison`."""

from minigan.metrics.sequences.comparison import SCORES, compare, table

__all__ = ["SCORES", "compare", "table"]
