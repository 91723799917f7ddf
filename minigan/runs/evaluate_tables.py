"""Evaluate a generator of table rows: see `metrics.tables.comparison`.

Real rows that were not trained on are those of the option `hold_out` of the run, or a file with the
same columns. Without them, some figures are absent.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from minigan import datasets
from minigan.datasets import conditions, table_files, tables
from minigan.datasets.column_kinds import escaped
from minigan.errors import UserError
from minigan.metrics.tables import compare, table
from minigan.report.tables import save_evaluation
from minigan.training import Sampler, checkpoint


def evaluate_table(
    sampler: Sampler,
    fingerprint: dict,
    real: datasets.Data,
    count: int,
    seed: int,
    progress: Callable,
    target: Any = None,
    held_out: Any = None,
) -> tuple[dict, Callable[[dict], str], Callable]:
    """Compare `count` rows of a generator with the training rows `real`, and those that were not trained on.

    `target` is the column that is predicted, by default that of the labels. `held_out` is a file or
    a data frame of rows that were not trained on. Returns the report, a function that formats it, and one that draws
    it: (path, samples, columns, report).

    Raises UserError if the data have another fingerprint, if there is no such column, or if the file
    has other columns.
    """
    codec: Any = sampler.codec
    assert isinstance(real, tables.Table)
    ignored = checkpoint.ignored_in_fingerprint(sampler.classes)
    if real.fingerprint() | ignored != fingerprint | ignored:
        raise UserError(f"{real.name} has other contents than the data of this run: give the original data")
    others = real.held_out.frame if isinstance(real.held_out, tables.Table) else None
    if held_out is not None:
        others = read_held_out(held_out, codec.kinds)
    target = codec.label if target is None else column_named(target, codec.kinds)
    fakes = sampler.draw(count, np.random.default_rng(seed))
    report = compare(real.frame, fakes, others, codec.kinds, target, seed, progress)

    def save(path, samples, columns, report) -> None:
        save_evaluation(path, real.frame, fakes, codec.kinds, report)

    return report, table, save


def read_held_out(given: Any, kinds: dict[Any, str]) -> Any:
    """Return the data frame of a file, or of another object, with the columns of `kinds`, read as these kinds.

    Raises UserError if it has not all of the columns, or if values do not fit.
    """
    of_file = isinstance(given, str | os.PathLike)
    found = table_files.read(Path(given).expanduser()) if of_file else tables.frame_of(given)
    place = given if of_file else "held_out"
    names = [str(name) for name in found.frame.columns]
    if lacking := [str(name) for name in kinds if str(name) not in names]:
        hint = conditions.nearest(lacking[0], names)
        raise UserError(f"{place} has no column {lacking[0]!r}, which the training data have: {hint}")
    columns = ",".join(f"{escaped(str(name))}:{kind}" for name, kind in kinds.items())
    return tables.table(found, str(place), tables.TableOptions(columns=columns)).frame


def column_named(name: Any, kinds: dict[Any, str]) -> Any:
    """Return the column whose name is this text. Raises UserError if there is none."""
    found = {str(column): column for column in kinds}
    if str(name) not in found:
        raise UserError(f"there is no column {str(name)!r} to predict: {conditions.nearest(str(name), list(found))}")
    return found[str(name)]
