"""Convert labels of any kind to classes 0, 1, ... Every class is named after its original label."""

import re

import numpy as np

from minigan.datasets.files import DataError

MAX_CLASSES = 10_000


def encode(labels: np.ndarray, where: str, one: str = "image") -> tuple[np.ndarray, list[str], list[str]]:
    """Convert labels (N,), (N, 1) or one-hot (N, K) to classes.

    Returns (the class of each sample, (N,) int64; the name of each class; notes on what was
    assumed). Each value that occurs is a class. Integers, whole floats and booleans are sorted by
    value, and text in natural order (2 before 10). Other objects count as their text.

    Raises DataError for missing labels, fractions, other shapes, and more than MAX_CLASSES classes.
    The message starts with `where`, and calls a sample `one`.
    """
    labels, notes = np.asarray(labels), []
    if labels.dtype.kind in "OMm":
        labels = _as_text(labels, where, one)
    if labels.dtype.kind == "S":
        labels = np.char.decode(labels, "utf-8", "replace")
    if labels.ndim == 2 and labels.shape[1] > 1:
        labels, notes = _from_one_hot(labels, where, one), [f"labels are one-hot rows of {labels.shape[1]}"]
    elif labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "biufU":
        raise DataError(
            f"{where}: expected one label for each {one}, (N,), (N, 1) or one-hot (N, K), got {labels.dtype} "
            f"{labels.shape}: save numbers or text (dtype str)"
        )
    if labels.dtype.kind == "f":
        labels = _whole(labels, where)
    values, codes = np.unique(labels, return_inverse=True)
    if len(values) > MAX_CLASSES:
        raise DataError(f"{where}: got {len(values):,} different labels: are these really classes?")
    names = [readable(str(value)) for value in values]
    order = (
        sorted(range(len(names)), key=lambda i: natural(names[i])) if labels.dtype.kind == "U" else range(len(names))
    )
    rank = np.empty(len(names), np.int64)
    rank[list(order)] = np.arange(len(names))
    names = [names[i] for i in order]
    empty = [i for i, name in enumerate(names) if not name.strip()]
    if empty:
        missing = int(np.flatnonzero(rank[codes] == empty[0])[0])
        raise DataError(f"{where}: expected a label for each {one}, got an empty text at index {missing}: fill it in")
    return rank[codes.reshape(-1)], names, notes


def natural(text: str) -> list[tuple[int, int, str]]:
    """Return a sort key for natural order: digits compare as numbers, and case is ignored."""
    parts = re.split(r"(\d+)", text)
    key = [(0, int(part), "") if i % 2 else (1, 0, part.casefold()) for i, part in enumerate(parts) if part]
    return [*key, (-1, 0, text)]


def index_of(asked: str, names: list[str]) -> int:
    """Return the index of the class that the user asked for. Raises DataError if there is none.

    Spaces around the name, leading zeros of a number, and upper and lower case are ignored if the
    class is unambiguous. The error message lists the classes.
    """
    asked = readable(asked)
    for candidate in (asked, asked.strip(), str(int(asked)) if re.fullmatch(r"\s*[+-]?\d+\s*", asked) else asked):
        if candidate in names:
            return names.index(candidate)
    folded = [name.casefold() for name in names]
    if folded.count(asked.casefold()) == 1:
        return folded.index(asked.casefold())
    raise DataError(f"there is no label {asked!r}: the labels are {listing(names)}")


def readable(name: str) -> str:
    """Return the name of a folder, or a word of the command line, as text.

    In a locale without UTF-8, such as LC_ALL=C, Python replaces each byte that is not ASCII by a surrogate. So a class
    would have other names in other locales.
    """
    try:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # other surrogates
        return name


def listing(names: list[str], most: int = 30) -> str:
    """Return the names as one line. Only the first `most` names are listed."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, ... ({len(names):,} in all)"


def _as_text(labels: np.ndarray, where: str, one: str) -> np.ndarray:
    """Convert objects (N,) or (N, 1) to numbers if all are, else to text. Raises DataError if one is missing."""
    values = labels.reshape(-1).tolist()
    for i, value in enumerate(values):
        if value is None or value != value or str(value) in ("NaT", "<NA>"):  # NaN differs from itself
            raise DataError(f"{where}: expected a label for each {one}, got {value} at index {i}: fill it in")
    if all(isinstance(value, int | float | np.number | np.bool_) for value in values):
        return np.array(values).reshape(labels.shape)
    return np.array([str(value) for value in values]).reshape(labels.shape)


def _from_one_hot(labels: np.ndarray, where: str, one: str) -> np.ndarray:
    """Convert one-hot rows (N, K) to classes (N,). Raises DataError if a row is not one-hot."""
    right = labels.dtype.kind in "biuf" and ((labels == 0) | (labels == 1)).all() and (labels.sum(axis=1) == 1).all()
    if not right:
        raise DataError(
            f"{where}: expected one label for each {one}, got {labels.dtype} {labels.shape} whose rows are not one-hot "
            "(one 1, else 0): save class numbers or names (N,)"
        )
    return labels.argmax(axis=1)


def _whole(labels: np.ndarray, where: str) -> np.ndarray:
    """Convert float labels to int64. Raises DataError if a label is not a whole number."""
    wrong = ~np.isfinite(labels) | (labels != np.rint(labels)) | (np.abs(labels) > 2**53)
    if wrong.any():
        i = int(wrong.argmax())
        raise DataError(f"{where}: expected whole numbers or text for labels, got {labels[i]} at index {i}: repair it")
    return labels.astype(np.int64)
