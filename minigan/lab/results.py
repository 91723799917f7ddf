"""The results of an experiment: means over seeds, bootstrap intervals, tables and verdicts."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SEEDS = 3  # from so many seeds on, there is an interval
ROUNDS = 10_000  # bootstrap samples


@dataclass(frozen=True)
class Column:
    """A figure of the table: its heading, whether it is better "lower" or "higher" ("" for neither), and decimals."""

    label: str
    better: str = ""
    digits: int = 3


@dataclass(frozen=True)
class Results:
    """The finished rows of an experiment. Each is a dictionary with `arm`, `seed`, `settings` and `figures`."""

    rows: list[dict[str, Any]]
    columns: Mapping[str, Column]
    first: str  # the first arm of the experiment, with which others are compared
    folder: Path | None = None  # of the experiment; None for results that come with the package

    @property
    def arms(self) -> list[str]:
        """The names of the arms with a finished row, in their order."""
        return list(dict.fromkeys(row["arm"] for row in self.rows))

    def of(self, arm: str) -> list[dict[str, Any]]:
        """Return the rows of an arm, by seed."""
        return sorted((row for row in self.rows if row["arm"] == arm), key=lambda row: row["seed"])

    def values(self, arm: str, figure: str) -> np.ndarray:
        """Return the figure (seeds,) of every row of an arm that has it and where it is finite."""
        found = [row["figures"].get(figure) for row in self.of(arm)]
        return np.array([value for value in found if value is not None and math.isfinite(value)], float)

    def kept(self, arm: str, name: str, seed: int = 0) -> np.ndarray | None:
        """Return an array that a row stored with `Row.keep`, or None if it is not there, as in stored results."""
        path = None if self.folder is None else place(self.folder, arm, seed) / f"{name}.npy"
        return np.load(path) if path is not None and path.exists() else None

    def mean(self, arm: str, figure: str) -> float:
        """Return the mean of a figure over the seeds, NaN if no row has it."""
        values = self.values(arm, figure)
        return float(values.mean()) if len(values) else math.nan

    def interval(self, arm: str, figure: str) -> tuple[float, float] | None:
        """Return the 95% bootstrap interval of the mean, or None with fewer than SEEDS seeds: see `bootstrap`."""
        values = self.values(arm, figure)
        return bootstrap(values) if len(values) >= SEEDS else None

    def difference(self, arm: str, base: str, figure: str) -> tuple[float, tuple[float, float] | None]:
        """Return how much larger the mean is than that of another arm, and its 95% interval or None."""
        a, b = self.values(arm, figure), self.values(base, figure)
        found = float(a.mean() - b.mean()) if len(a) and len(b) else math.nan
        return found, bootstrap(a, b) if min(len(a), len(b)) >= SEEDS else None

    def best(self, arms: Iterable[str], figure: str) -> str:
        """Return the arm with the best mean of a figure, as its column says. Arms without it are never the best."""
        sign = -1 if self.columns[figure].better == "higher" else 1
        return min(arms, key=lambda arm: math.inf if math.isnan(m := self.mean(arm, figure)) else sign * m)

    def text(self, arm: str, figure: str) -> str:
        """Return the mean of a figure as text, with its interval if there is one and the seeds differ."""
        values, digits = self.values(arm, figure), self.columns[figure].digits
        if not len(values):
            return ""
        interval = self.interval(arm, figure) if np.ptp(values) else None
        span = "" if interval is None else f" ({interval[0]:.{digits}f} to {interval[1]:.{digits}f})"
        return f"{values.mean():.{digits}f}{span}"


def place(folder: Path, arm: str, seed: int) -> Path:
    """Return the folder of a row in the folder of its experiment."""
    words = re.sub(r"[^a-z0-9.]+", "-", arm.lower()).strip("-")
    return folder / "rows" / f"{words}-seed-{seed}"


def bootstrap(a: np.ndarray, b: np.ndarray | None = None) -> tuple[float, float]:
    """Return the 95% percentile interval of the mean of a (N,), or of the mean of a minus that of b (M,).

    The seeds are drawn with replacement, separately for both arms (Efron and Tibshirani 1993, "An
    introduction to the bootstrap", chapter 13). With three seeds, the interval is about their
    range. It says how much seeds differ, and nothing about other data.
    """
    rng = np.random.default_rng(0)
    means = a[rng.integers(len(a), size=(ROUNDS, len(a)))].mean(axis=1)
    if b is not None:
        means = means - b[rng.integers(len(b), size=(ROUNDS, len(b)))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


# ---------------------------------------------------------------- verdicts


def against_the_first(results: Results) -> list[str]:
    """Compare each arm with the first one, by the first column that is better lower or higher."""
    figure = next(name for name, column in results.columns.items() if column.better)
    return [compared(results, arm, results.first, figure) for arm in results.arms if arm != results.first]


def compared(results: Results, arm: str, base: str, figure: str) -> str:
    """Return a sentence that compares a figure of two arms, and says whether the first one helps."""
    column = results.columns[figure]
    value, interval = results.difference(arm, base, figure)
    digits = column.digits
    if math.isnan(value):
        measured = len(results.values(arm, figure))
        return f"{arm}: {column.label} {results.text(arm, figure)}" if measured else f"{arm}: no {column.label}"
    sentence = f"{arm}: {column.label} {results.mean(arm, figure):.{digits}f}"
    sentence += f", with {base} {results.mean(base, figure):.{digits}f}"
    count = min(len(results.values(arm, figure)), len(results.values(base, figure)))
    if interval is None:
        return f"{sentence} ({'one seed' if count == 1 else f'{count} seeds'}, no interval)"
    sentence += f" (difference {value:+.{digits}f}, 95% interval {interval[0]:+.{digits}f} to {interval[1]:+.{digits}f}"
    sentence += f", {count} seeds): "
    if interval[0] <= 0 <= interval[1]:
        return sentence + "no difference is shown"
    if not column.better:
        return sentence + ("larger" if value > 0 else "smaller")
    return sentence + ("it helps" if (value < 0) == (column.better == "lower") else "it does not help, it harms")


SIGNS: dict[str, Callable[[float, float], bool]] = {
    ">=": lambda value, limit: value >= limit,
    ">": lambda value, limit: value > limit,
    "<=": lambda value, limit: value <= limit,
}


def target(text: str, value: float, sign: str, limit: float, digits: int = 3) -> str:
    """Return the sentence that says whether a figure has reached its target."""
    met = SIGNS[sign](value, limit)  # False for NaN
    return f"target {'met' if met else 'missed'}: {text} {value:.{digits}f}, and the target is {sign} {limit:g}"


# ---------------------------------------------------------------- tables


def cells(results: Results) -> list[list[str]]:
    """Return the table as text: the headings, and a line for each arm."""
    lines = [["", *(column.label for column in results.columns.values()), "seeds"]]
    for arm in results.arms:
        count = len(results.of(arm))
        seeds = "one seed, no interval" if count == 1 else str(count)
        lines.append([arm, *(results.text(arm, figure) for figure in results.columns), seeds])
    return lines


def table(results: Results) -> str:
    """Return the table for a terminal."""
    lines = cells(results)
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            text.ljust(width) if not k else text.rjust(width)
            for k, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def markdown(results: Results) -> str:
    """Return the table as Markdown."""
    head, *rest = (f"| {' | '.join(line)} |" for line in cells(results))
    return "\n".join([head, f"|---|{'---:|' * (len(results.columns) + 1)}", *rest])
