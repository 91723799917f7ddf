"""Compute all figures of a table of fakes, of two baselines and of real rows, and format them.

    shapes        mean similarity of the columns' distributions, from 0 to 1 (`scores`)
    pairs         mean similarity of the pairs of columns, from 0 to 1
    strong        the same for the pairs of real columns that depend on each other
    missing       mean similarity of the shares of missing values, of columns that have any
    utility       how well the target of held-out real rows is predicted after training on the rows
    detector      how well boosted trees tell the rows from training rows; 0.5 is best (`models`)
    distance      median distance to the closest training row (`nearest`)
    nearness      this distance as a part of that of held-out rows; far below 1: memorised rows
    copies        share of rows that are equal to a training row

There are four sets of rows: the fakes, as many of a Gaussian copula and of SMOTE (`baselines`), and
"real". These are the held-out rows, whose figures show what a perfect generator would reach, and for
`utility` the training rows. Without held-out rows, distance and copies of "real" are those of
each training row and the others.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from minigan.datasets.table_values import check, is_number
from minigan.errors import UserError
from minigan.files import plain
from minigan.metrics.tables import baselines, models, nearest, scores

if TYPE_CHECKING:
    import pandas as pd

MIN_ROWS = 20  # of training rows, of fakes and of held-out rows
NEAR = 0.5  # a smaller `nearness` is reported
COPIED = 0.01  # the fakes are reported if their share of copies exceeds that of real rows by more than this
NAMED = 5  # undefined scores that are named
WIDTH = 46  # of the first column of the table

SCORES = {
    "shapes": "column shapes (1 is best)",
    "pairs": "column pairs (1 is best)",
    "strong": "pairs that depend on each other (1 is best)",
    "missing": "shares of missing values (1 is best)",
    "utility": "prediction of the target (1 is best)",
    "detector": "told from real rows: AUC (0.5 is best)",
    "distance": "median distance to the closest training row",
    "nearness": "the same, as a part of that of real rows",
    "copies": "share of exact copies of training rows",
}
SETS = {"fakes": "fakes", "copula": "copula", "smote": "SMOTE", "real": "real rows"}
BASELINES = {"copula": baselines.gaussian_copula, "smote": baselines.smote}


def compare(
    real: "pd.DataFrame",
    fakes: "pd.DataFrame",
    held_out: "pd.DataFrame | None",
    kinds: Mapping[Any, str],
    target: Any = None,
    seed: int = 0,
    progress: Callable = iter,
) -> dict:
    """Compare fakes with the training rows `real`, and return a report that JSON can represent.

    `held_out` are real rows that were not trained on, or None. `kinds` maps the columns to compare to
    continuous, integer, date, category or boolean. `target` is the column that is predicted; a number is
    predicted as a number unless its kind is category. `progress` wraps the list of sets, as tqdm does.
    There should be as many fakes as training rows, because more rows to train on predict better.

    The report contains {"fakes": figures, "copula": figures, "smote": figures, "real": figures}, with
    the figures above, None if one is not defined. "columns" has the figures of each column: "shape",
    "missing" and "detector" (by how much the detector depends on it). "pairs" has "names", and
    "similarity", "real" and "fakes", each a list of rows (`scores.Pairs`). "warnings" are sentences for people who
    want to publish the fakes, and "absent" says which figures are not there, and why.

    Raises UserError for fewer than MIN_ROWS rows, and for columns that are not there.
    """
    given = {"training": real, "fake": fakes, "held-out": held_out}
    check(kinds, given)
    for which, frame in given.items():
        if frame is not None and len(frame) < MIN_ROWS:
            raise UserError(f"a comparison of tables needs at least {MIN_ROWS} {which} rows, got {len(frame)}")
    if target is not None and target not in kinds:
        raise UserError(f"the target {target!r} is none of the compared columns: {', '.join(map(str, kinds))}")
    absent, trees = [], True
    try:
        models.load()
    except models.MissingPackage as error:
        absent, trees = [str(error)], False
    predicts = trees and target is not None and held_out is not None and len(kinds) > 1
    if trees and target is not None and not predicts:
        reason = "there are no held-out rows" if held_out is None else "there is no other column"
        absent.append(f"{target} is not predicted, because {reason}")
    if held_out is None:
        absent.append("there are no held-out rows, with which the fakes could be compared")
    reference = Reference(real, held_out, kinds, target if predicts else None, trees, seed)
    rng = np.random.default_rng(seed)
    report: dict = {
        "rows": {"training": len(real), "fakes": len(fakes), "held_out": None if held_out is None else len(held_out)},
        "kinds": {str(name): kind for name, kind in kinds.items()},
        "target": None if target is None else str(target),
    }
    for which in progress(list(SETS)):
        rows = fakes if which == "fakes" else held_out
        if which in BASELINES:
            rows = BASELINES[which](real, len(fakes), kinds, target, rng)
        report[which], details = reference.figures(rows, explain=which == "fakes")
        if which == "fakes":
            report |= details
            absent += undefined(details)
    if predicts:
        report["real"]["utility"] = reference.utility(real)
    for which in SETS:
        report[which]["nearness"] = report[which]["distance"] / (report["real"]["distance"] or float("nan"))
    return plain(report | {"absent": absent, "warnings": warnings(report)})


class Reference:
    """The real rows with which sets of rows are compared. `target` is None if it is not predicted."""

    def __init__(
        self,
        real: "pd.DataFrame",
        held_out: "pd.DataFrame | None",
        kinds: Mapping[Any, str],
        target: Any,
        trees: bool,
        seed: int,
    ):
        self.real, self.held_out, self.kinds = real, held_out, kinds
        self.target, self.trees, self.seed = target, trees, seed
        self.space = nearest.Space(real, kinds)

    def figures(self, rows: "pd.DataFrame | None", explain: bool) -> tuple[dict, dict]:
        """Return the figures of a set of rows, and those of its columns and pairs. NaN is not defined.

        None stands for the training rows, each of which is compared with the others. If `explain`, the
        columns have the figure "detector".
        """
        rng = np.random.default_rng(self.seed)
        found = dict.fromkeys(SCORES, float("nan"))
        found["distance"] = nearest.median_distance(self.space, rows, self.real, rng)
        found["copies"] = nearest.copies(rows, self.real, self.kinds)
        if rows is None:
            return found, {}
        shapes = scores.shapes(self.real, rows, self.kinds)
        missing = scores.missing(self.real, rows, self.kinds)
        pairs = scores.pairs(self.real, rows, self.kinds)
        found |= {"shapes": mean(shapes.values()), "missing": mean(missing.values())}
        found |= {"pairs": pairs.mean(), "strong": pairs.mean(strong=True)}
        by_column: dict = {}
        if self.trees:
            found["detector"], by_column = models.detector(self.real, rows, self.kinds, self.seed, explain)
        if self.target is not None:
            found["utility"] = self.utility(rows)
        columns = {
            str(name): {"shape": shapes[name], "missing": missing.get(name), "detector": by_column.get(name)}
            for name in self.kinds
        }
        arrays = {"similarity": pairs.similarity, "real": pairs.real, "fakes": pairs.fakes}
        lists = {name: array.tolist() for name, array in arrays.items()}
        return found, {"columns": columns, "pairs": {"names": list(map(str, self.kinds)), **lists}}

    def utility(self, rows: "pd.DataFrame") -> float:
        """Return how well the target of the held-out rows is predicted after training on the rows."""
        assert self.held_out is not None  # because the target is predicted
        return models.utility(rows, self.held_out, self.kinds, self.target, self.seed)


def mean(values: Iterable[float]) -> float:
    """Return the mean of the values that are defined, NaN if there are none."""
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else float("nan")


def undefined(details: dict) -> list[str]:
    """Return a sentence that names the shapes and pairs that are not defined, if there are any."""
    found = [f"the shape of {name}" for name, figures in details["columns"].items() if math.isnan(figures["shape"])]
    names, similarity = details["pairs"]["names"], np.array(details["pairs"]["similarity"])
    found += [
        f"the pair {names[i]} and {names[j]}" for i, j in zip(*np.nonzero(np.isnan(np.triu(similarity))), strict=True)
    ]
    if not found:
        return []
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return [f"a column is constant or missing, so the means are without {', '.join(found[:NAMED])}{more}"]


def warnings(report: dict) -> list[str]:
    """Return sentences that warn if the fakes repeat training rows, or are too close to them."""
    found = []
    fakes, real, rows = report["fakes"], report["real"], report["rows"]
    whose = "held-out rows are" if rows["held_out"] else "training rows are copies of each other"
    counts = rows["fakes"], rows["held_out"] or rows["training"]
    both = (fakes["copies"] * counts[0] + real["copies"] * counts[1]) / sum(counts)
    error = math.sqrt(both * (1 - both) * (1 / counts[0] + 1 / counts[1]))  # of the difference, if they are equal
    if fakes["copies"] - real["copies"] > max(COPIED, 3 * error):
        found.append(
            f"{100 * fakes['copies']:.1f}% of the fakes are exact copies of training rows, but only "
            f"{100 * real['copies']:.1f}% of the {whose}: do not publish them as anonymous data"
        )
    if fakes["nearness"] < NEAR:
        found.append(
            f"the fakes are closer to training rows than real rows are, at {100 * fakes['nearness']:.0f}% of the "
            "median distance: the generator has memorised rows, so train it for a shorter time or on more rows"
        )
    return found


def table(report: dict) -> str:
    """Format a report as lines of text."""
    target = report["target"]
    utility = "R2" if target and is_number(report["kinds"][target]) else "macro F1"
    texts = SCORES | {"utility": f"{utility} of {target} (1 is best)"}
    lines = [" " * WIDTH + "".join(f"{heading:>10}" for heading in SETS.values())]
    for name, text in texts.items():
        values = [report[which][name] for which in SETS]
        if any(value is not None for value in values):
            cells = "".join(f"{'-' if value is None else format(value, '.3f'):>10}" for value in values)
            lines.append(f"{text:{WIDTH}}{cells}")
    rows = report["rows"]
    if rows["held_out"]:
        lines.append(f"real rows: {rows['held_out']:,} held-out rows, which were not trained on")
    if report["real"]["utility"] is not None:
        lines.append(f"{utility}: trained on these rows and tested on the held-out rows; ")
        lines[-1] += f"real rows: trained on the {rows['training']:,} training rows"
    return "\n".join([*lines, *report["absent"], *(f"warning: {text}" for text in report["warnings"])])
