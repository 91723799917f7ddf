"""Train boosted trees on rows of a table: how useful fakes are, and how well they can be told from real rows.

    utility     trained on some rows to predict the target from the other columns, and tested on
                others: the macro F1 of a category (the mean of F1 over the classes, 1 is best), or R2
                of a number (1 is best, 0: no better than the mean)
    detector    trained to tell fakes from as many real rows, and tested on the others of them
                (cross-validation): the area under the ROC curve, which is the share of pairs of a
                fake and a real row in which the fake gets the higher score. 0.5 is best, 1 worst

The trees are those of scikit-learn's histogram gradient boosting, with its defaults: 100 rounds,
without rows that are held out to stop early. A split of a category chooses a subset of its values.
Beyond the CATEGORIES most frequent values, all others are one value. Missing values, and values
that do not occur in the rows trained on, take the better side of each split.
"""

import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minigan.backends import cores
from minigan.datasets.table_values import is_number, numbers
from minigan.errors import UserError
from minigan.metrics.tables.nearest import mean_and_deviation

if TYPE_CHECKING:
    import pandas as pd

CATEGORIES = 254  # the trees take 255 values of a category
CLASSES = 20  # of a target. Each class has its own trees, so the rarer classes count as one
TRAINED = 100_000  # maximum number of rows to train on
DETECTED = 10_000  # maximum number of fakes, and of real rows, for the detector
FOLDS = 3
EXPLAINED = 2_000  # maximum number of rows of a fold in which the values of a column are exchanged


class MissingPackage(UserError):
    """Raised if scikit-learn is not installed. The other figures do not need it."""


def load() -> tuple[type, type]:
    """Return scikit-learn's classes of boosted trees: the classifier and the regressor.

    Raises MissingPackage if scikit-learn cannot be imported.
    """
    try:
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    except ImportError as error:
        raise MissingPackage(
            f"boosted trees need scikit-learn, which cannot be imported ({error}): pip install 'minigan[tables]'"
        ) from None
    return HistGradientBoostingClassifier, HistGradientBoostingRegressor


class Trees:
    """Boosted trees that are trained on features x (N, F) and targets y (N,).

    y are integer classes, or numbers if not `classes`. `categorical` bool (F,) says which features are
    codes of categories. A feature that is constant is left out. If none is left, or y is constant, the
    most frequent class or the mean is predicted. Raises MissingPackage if scikit-learn cannot be imported.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, categorical: np.ndarray, classes: bool, seed: int):
        self.classes = classes
        self.used = np.array([len(np.unique(x[:, j])) > 1 for j in range(x.shape[1])], bool)
        self.mean, self.deviation = (0.0, 1.0) if classes else mean_and_deviation(y)
        self.default = np.bincount(y).argmax() if classes else self.mean
        self.model: Any = None
        if self.used.any() and (y != y[0]).any():
            model = load()[0 if classes else 1]
            options = {"categorical_features": categorical[self.used], "early_stopping": False, "random_state": seed}
            # Gradients are float32, which cannot represent those of large numbers. R2 does not depend on the scale.
            with few_threads():
                self.model = model(**options).fit(x[:, self.used], y if classes else (y - self.mean) / self.deviation)

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return the predicted class or number (M,) for features x (M, F)."""
        if self.model is None:
            return np.full(len(x), self.default)
        with few_threads():
            found = self.model.predict(x[:, self.used])
        return found if self.classes else found * self.deviation + self.mean

    def score(self, x: np.ndarray) -> np.ndarray:
        """Return a score (M,) of two classes, which is higher for class 1."""
        if self.model is None:
            return np.zeros(len(x))
        with few_threads():
            return self.model.decision_function(x[:, self.used])


def few_threads() -> contextlib.AbstractContextManager[Any]:
    """Return a context in which the trees compute with OMP_NUM_THREADS threads, or as many as there are cores.

    Otherwise they may start many more, which wait for each other: where another package has loaded
    OpenMP for the whole process, as PyTorch does, the trees have as many threads as Numba has asked for.
    """
    import threadpoolctl

    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    threads = min(int(asked), cores()) if asked.isdigit() and int(asked) else cores()
    return threadpoolctl.threadpool_limits(threads, user_api="openmp")


def features(
    frames: Sequence["pd.DataFrame"], kinds: Mapping[Any, str], known: int = 1
) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the features (N, F) of each frame, one for each column, and which are categories, bool (F,).

    Numbers stay as they are. Categories become their rank by frequency in the first `known` frames. NaN
    is a missing value, or one that these frames do not have.
    """
    import pandas as pd

    found: list[list[np.ndarray]] = [[] for _ in frames]
    for name, kind in kinds.items():
        rank: dict | None = None
        if not is_number(kind):
            rank = ranked(pd.concat([frame[name].astype(object) for frame in frames[:known]]))
        for columns, frame in zip(found, frames, strict=True):
            if rank is None:
                columns.append(numbers(frame[name], kind))
            else:
                columns.append(np.minimum(frame[name].astype(object).map(rank).to_numpy(float), CATEGORIES))
    x = [np.array(columns).reshape(len(kinds), len(frame)).T for columns, frame in zip(found, frames, strict=True)]
    return x, np.array([not is_number(kind) for kind in kinds.values()], bool)


def ranked(column: "pd.Series") -> dict[Any, int]:
    """Return the rank of each value of a column by its frequency, from 0. The order of the rows does not matter."""
    counts = column.value_counts()
    order = sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))
    return {value: rank for rank, (value, _) in enumerate(order)}


def utility(
    training: "pd.DataFrame", test: "pd.DataFrame", kinds: Mapping[Any, str], target: Any, seed: int = 0
) -> float:
    """Return how well the target of the rows `test` is predicted after training on the rows `training`.

    Rows whose target is missing or infinite are left out. Of the classes of `test`, all beyond the CLASSES
    most frequent ones count as one, together with those that `test` does not have. The result is NaN if there
    are no rows to train on or to test, and R2 also if the target of `test` is constant.
    """
    training, test = (with_target(frame, kinds, target) for frame in (training, test))
    if len(training) > TRAINED:
        training = training.iloc[np.random.default_rng(seed).permutation(len(training))[:TRAINED]]
    if not len(training) or not len(test):
        return float("nan")
    others = {name: kind for name, kind in kinds.items() if name != target}
    (x, x_test), categorical = features((training, test), others)
    if is_number(kinds[target]):
        y, truth = (numbers(frame[target], kinds[target]) for frame in (training, test))
        return r_squared(truth, Trees(x, y, categorical, False, seed).predict(x_test))
    known = {value: min(rank, CLASSES) for value, rank in ranked(test[target].astype(object)).items()}
    y, truth = (frame[target].astype(object).map(known).fillna(CLASSES).to_numpy(int) for frame in (training, test))
    return macro_f1(truth, Trees(x, y, categorical, True, seed).predict(x_test))


def with_target(frame: "pd.DataFrame", kinds: Mapping[Any, str], target: Any) -> "pd.DataFrame":
    """Return the rows whose target is neither missing nor infinite."""
    if is_number(kinds[target]):
        return frame[np.isfinite(numbers(frame[target], kinds[target]))]
    return frame[frame[target].notna()]


def macro_f1(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Return the mean over the classes of F1 = 2 TP / (2 TP + FP + FN), for integer classes (N,) and (N,).

    The classes are those that occur in either.
    """
    classes = max(truth.max(), predicted.max()) + 1
    right = np.bincount(truth[truth == predicted], minlength=classes)  # TP
    occur = np.bincount(truth, minlength=classes) + np.bincount(predicted, minlength=classes)  # 2 TP + FP + FN
    return float((2 * right[occur > 0] / occur[occur > 0]).mean())


def r_squared(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Return R2 = 1 - sum (y - prediction)^2 / sum (y - mean)^2 for numbers (N,), NaN if y is constant."""
    if truth.min() == truth.max():
        return float("nan")
    largest = max(np.abs(truth).max(), np.abs(predicted).max())
    truth, predicted = truth / largest, predicted / largest  # so that no square is infinite
    return float(1 - ((truth - predicted) ** 2).sum() / ((truth - truth.mean()) ** 2).sum())


def detector(
    real: "pd.DataFrame", fakes: "pd.DataFrame", kinds: Mapping[Any, str], seed: int = 0, explain: bool = True
) -> tuple[float, dict[Any, float]]:
    """Return how well boosted trees tell fakes from real rows, and by which columns.

    The first result is the mean area under the ROC curve of FOLDS models. Each is tested on rows that it was not
    trained on. If `explain`, the second one has for each column the decrease of this area after the
    values of the column were exchanged at random among rows tested. Both are NaN for fewer than
    2 * FOLDS rows of either.
    """
    rng = np.random.default_rng(seed)
    count = min(len(real), len(fakes), DETECTED)
    if count < 2 * FOLDS:
        return float("nan"), dict.fromkeys(kinds, float("nan"))
    chosen = [frame.iloc[rng.permutation(len(frame))[:count]] for frame in (real, fakes)]
    both, categorical = features(chosen, kinds, known=2)
    x, fake = np.concatenate(both), np.repeat([0, 1], count)
    fold = np.concatenate([rng.permutation(count) % FOLDS for _ in range(2)])  # equally many of both in each
    areas, losses = [], np.zeros((FOLDS, len(kinds)))
    for k in range(FOLDS):
        trees = Trees(x[fold != k], fake[fold != k], categorical, True, seed)
        test, truth = x[fold == k], fake[fold == k]
        score = trees.score(test)
        areas.append(area(truth, score))
        some = rng.permutation(len(test))[:EXPLAINED]
        for j in range(len(kinds) if explain else 0):
            exchanged = test[some]
            exchanged[:, j] = rng.permutation(exchanged[:, j])
            losses[k, j] = area(truth[some], score[some]) - area(truth[some], trees.score(exchanged))
    return float(np.mean(areas)), dict(zip(kinds, losses.mean(axis=0).tolist(), strict=True)) if explain else {}


def area(truth: np.ndarray, score: np.ndarray) -> float:
    """Return the area under the ROC curve: the share of pairs in which a 1 of truth (N,) has a higher score than a 0.

    Equal scores count half.
    """
    ones, zeros = score[truth == 1], np.sort(score[truth == 0])
    below = (zeros.searchsorted(ones, "left") + zeros.searchsorted(ones, "right")) / 2
    return float(below.mean() / len(zeros))
