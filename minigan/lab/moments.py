"""What rows measure at their moments, and what a curve over the moments says.

    curve = mean_curve(results, "projected", "seconds", "frechet")
    reached(*curve, level)                             # the seconds at which the distance is first that low

A row stores the moments of its run as the figure `moments`, a list with a dictionary for each moment.
Pictures are stored as text, so that results.json stays small.
"""

import base64
import math
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from minigan.lab.results import Results
from minigan.runs.checks import Checks
from minigan.training import Training

SHOWN = 1000  # samples of each sort on which D's answers are counted


def answers(training: Training, count: int = SHOWN) -> dict[str, float]:
    """Return the shares of training samples, held-out samples and fakes on which D is right.

    They are d_right_train, d_right_held_out (if there are held-out samples) and d_right_fakes of
    `metrics.collapse`, for `count` samples of each sort. The limit between "real" and "fake" is the
    middle between the mean logits of training samples and of fakes. A constant that is added to all
    logits changes nothing, and neither does the share of real samples that D is trained on, as far
    as it only moves the logits.
    """
    checks = Checks(training)
    checks.shown = count
    found = checks.measure()
    return {name: value for name, value in found.items() if name.startswith("d_right")}


def averaged(moments: Iterable[Mapping[str, Any]], names: Iterable[str]) -> dict[str, float]:
    """Return the means of these figures over the moments that have them. A figure that none has is absent."""
    moments = list(moments)
    found = {name: [m[name] for m in moments if name in m] for name in names}
    return {name: round(float(np.mean(values)), 5) for name, values in found.items() if values}


# ---------------------------------------------------------------- curves


def curves(results: Results, arm: str, x: str, y: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return a curve (x, y) of the moments of every row of an arm that has moments with both figures."""
    found = []
    for row in results.of(arm):
        points = [(m[x], m[y]) for m in row["figures"].get("moments", []) if x in m and y in m]
        if points:
            found.append((np.array([a for a, _ in points], float), np.array([b for _, b in points], float)))
    return found


def mean_curve(results: Results, arm: str, x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean over the seeds of an arm's curves (x, y), at the moments that all rows have."""
    of = curves(results, arm, x, y)
    count = min((len(xs) for xs, _ in of), default=0)
    if not count:
        return np.zeros(0), np.zeros(0)
    return np.mean([xs[:count] for xs, _ in of], axis=0), np.mean([ys[:count] for _, ys in of], axis=0)


def reached(x: np.ndarray, y: np.ndarray, level: float) -> float:
    """Return the first x at which a curve of positive values y is at most `level`, NaN if it never is.

    Between two moments, log y is a straight line. Before the first moment, nothing is known, so the
    first moment is the earliest answer.
    """
    low = np.flatnonzero(y <= level)
    if not len(low):
        return math.nan
    k = int(low[0])
    if k == 0:
        return float(x[0])
    (a, b), (before, after) = x[k - 1 : k + 1], np.log(np.maximum(y[k - 1 : k + 1], 1e-12))
    return float(a + (b - a) * (before - math.log(max(level, 1e-12))) / (before - after))


def at(x: np.ndarray, y: np.ndarray, where: float) -> float:
    """Return the value of a curve of positive values y at x = `where`, NaN outside the curve. See `reached`."""
    if not len(x) or not x[0] <= where <= x[-1]:
        return math.nan
    return float(np.exp(np.interp(where, x, np.log(np.maximum(y, 1e-12)))))


# ---------------------------------------------------------------- pictures


def packed(images: np.ndarray) -> str:
    """Return uint8 images (N, H, W, C) as text, for the figures of a row: see `unpacked`."""
    images = np.asarray(images, np.uint8)
    shape = "x".join(map(str, images.shape))
    return f"{shape}:{base64.b64encode(zlib.compress(images.tobytes(), 9)).decode()}"


def unpacked(text: str) -> np.ndarray:
    """Return the uint8 images (N, H, W, C) of a text that `packed` returned."""
    shape, _, data = text.partition(":")
    values = np.frombuffer(zlib.decompress(base64.b64decode(data)), np.uint8)
    return values.reshape([int(n) for n in shape.split("x")])
