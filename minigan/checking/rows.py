"""Rows, which hold the results of comparisons, and the table that prints them."""

import math
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Row:
    """The result of one comparison. `analytic` is the value under test and `numeric` the expected value."""

    subject: str
    tensor: str
    method: str
    compared: int  # number of values compared
    error: float  # the largest relative error
    where: str
    analytic: float
    numeric: float
    verdict: str  # "right", "wrong" or "kink"
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the verdict is "right" or "kink"."""
        return self.verdict != "wrong"

    def __str__(self) -> str:
        text = f"{self.subject}, {self.tensor}: {self.verdict}, worst relative error {self.error:.1e}"
        if self.verdict == "right":
            return text
        return f"{text} at {self.where}: got {self.analytic:.9g}, expected {self.numeric:.9g} ({self.method})"


def compare(subject: str, tensor: str, method: str, got, expected, tolerance: float) -> Row:
    """Return a row that compares `got` with `expected`. The error is max |got - expected| / max |expected|."""
    got, expected = np.asarray(got), np.asarray(expected)
    if got.shape != expected.shape:
        where = f"shape {got.shape} for {expected.shape}"
        return Row(subject, tensor, method, 0, math.inf, where, math.nan, math.nan, "wrong")
    differences = np.abs(got.astype(np.float64) - expected) / max(np.abs(expected).max(), 1e-300)
    differences = np.where(np.isnan(differences), math.inf, differences)
    at = np.unravel_index(differences.argmax(), got.shape)
    error = float(differences[at])
    verdict = "right" if error <= tolerance else "wrong"
    where = str([int(i) for i in at])
    return Row(subject, tensor, method, got.size, error, where, float(got[at]), float(expected[at]), verdict)


def fact(subject: str, tensor: str, true: bool, otherwise: str) -> Row:
    """Return a row for a condition. `otherwise` says what is wrong if the condition is not true."""
    error, verdict = (0.0, "right") if true else (math.inf, "wrong")
    return Row(subject, tensor, "exact", 1, error, "" if true else otherwise, math.nan, math.nan, verdict)


def table(rows: list[Row]) -> str:
    """Format the rows as aligned text, followed by a line with both values for each row that is wrong."""
    lines = [f"{'subject':<44}{'tensor':<16}{'compared':>8}{'worst error':>13}  {'method':<12}{'verdict':<9}     time"]
    for row in rows:
        lines.append(
            f"{row.subject[:43]:<44}{row.tensor[:15]:<16}{row.compared:>8}{row.error:>13.1e}  {row.method:<12}"
            f"{row.verdict:<9}{1000 * row.seconds:>6.0f} ms"
        )
    return "\n".join([*lines, *(str(row) for row in rows if not row.ok)])


def digest(rows: list[Row]) -> list[Row]:
    """Merge the rows of each subject and method into one row.

    The merged row is that of the worst tensor, with the number of compared values and the time of all tensors.
    """
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault((row.subject, row.method), []).append(row)
    result = []
    for group in groups.values():
        worst = max(group, key=lambda row: (not row.ok, row.verdict == "kink", row.error))
        compared, seconds = sum(row.compared for row in group), sum(row.seconds for row in group)
        result.append(replace(worst, compared=compared, seconds=seconds))
    return result
