"""Compare generated tables with the real rows that their generator was trained on.

    report = compare(real, fakes, held_out, kinds, target="income")
    print(table(report))

`compare` explains the figures. `scores` has column shapes and pairs, `models` the usefulness of fakes
and the detector, `nearest` the distances to training rows, and `baselines` two simple generators.
Rows are data frames of pandas, and `kinds` maps the columns to be compared to their kinds (`datasets.table_values`).
"""

from minigan.metrics.tables.comparison import SCORES, compare, table

__all__ = ["SCORES", "compare", "table"]
