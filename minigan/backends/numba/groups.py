"""Softmax over groups of neighbouring columns, and its gradient, for the Numba backend.

Each operation treats l (N, G) as rows, and a task is a fixed number of rows. One thread computes a row, so that the
bits do not depend on the number of threads. `contract.py` defines the groups.

exp is NumPy's, on the calling thread, between two compiled loops. NumPy computes several exponentials with one
instruction. The compiled loop computes them one by one and was slower on two threads (README.md).
"""

import functools
from typing import Any

import numpy as np
from numba import njit

from minigan.backends.contract import Shape
from minigan.backends.numba.parallel import COMPILED, INNER, in_parallel
from minigan.backends.numba.passes import PIECE

# The compiler may add the terms of a sum in another order, so that it adds several at once. The order depends on the
# size of the group only.
SUMS: dict[str, Any] = INNER | dict(fastmath={"reassoc"})


def softmax_groups(l: np.ndarray, starts: Shape) -> np.ndarray:
    """Compute y = e / (sum of e over the group) with e = exp(l - max of l over the group)."""
    l, bounds = np.ascontiguousarray(l), bounds_of(starts, l.shape[1])
    y, rows = np.empty_like(l), rows_of_task(l)
    _subtract_largest(l, bounds, rows, y)
    np.exp(y, out=y)
    _divide_by_sums(bounds, rows, y)
    return y


def softmax_groups_grad(dy: np.ndarray, y: np.ndarray, starts: Shape) -> np.ndarray:
    """Compute dl = y * (dy - sum of dy * y over the group)."""
    dy, y, bounds = np.ascontiguousarray(dy), np.ascontiguousarray(y), bounds_of(starts, y.shape[1])
    dl = np.empty_like(y)
    _softmax_grad(dy, y, bounds, rows_of_task(y), dl)
    return dl


def argmax_groups(l: np.ndarray, starts: Shape) -> np.ndarray:
    """Compute y = 1 at the largest number of each group, the first one if several are, else 0."""
    l = np.ascontiguousarray(l)
    y = np.zeros_like(l)
    _argmax(l, bounds_of(starts, l.shape[1]), rows_of_task(l), y)
    return y


@functools.lru_cache(maxsize=64)
def bounds_of(starts: Shape, G: int) -> np.ndarray:
    """Return (n + 1,): group k has the columns from bounds[k] to bounds[k + 1], exclusive."""
    return np.array([*starts, G], np.int64)


def rows_of_task(l: np.ndarray) -> int:
    """Return the number of rows of a task."""
    return max(1, PIECE // max(1, l.shape[1]))


# ---------------------------------------------------------------- compiled


@njit(**INNER)
def _tasks(l, rows):
    """Return the number of tasks for the rows of l (N, G)."""
    return (len(l) + rows - 1) // rows


@njit(**INNER)
def _rows(task, rows, l):
    """Return the range of the rows of a task."""
    return range(task * rows, min((task + 1) * rows, len(l)))


@njit(**COMPILED)
def _subtract_largest(l, bounds, rows, y):
    """Compute y = l - max of l over the group."""
    in_parallel(_tasks(l, rows), _subtract_rows, (l, bounds, rows, y))


@njit(**INNER)
def _subtract_rows(task, l, bounds, rows, y):
    for m in _rows(task, rows, l):
        l_m, y_m = l[m], y[m]
        for k in range(bounds.size - 1):
            l_k, y_k = l_m[bounds[k] : bounds[k + 1]], y_m[bounds[k] : bounds[k + 1]]
            top = l_k[0]
            for i in range(l_k.size):
                top = l_k[i] if l_k[i] > top else top
            for i in range(l_k.size):
                y_k[i] = l_k[i] - top


@njit(**COMPILED)
def _divide_by_sums(bounds, rows, y):
    """Divide y in place by its sum over the group."""
    in_parallel(_tasks(y, rows), _divide_rows, (bounds, rows, y))


@njit(**SUMS)
def _divide_rows(task, bounds, rows, y):
    for m in _rows(task, rows, y):
        y_m = y[m]
        for k in range(bounds.size - 1):
            y_k = y_m[bounds[k] : bounds[k + 1]]
            total = y_k[0]
            for i in range(1, y_k.size):
                total += y_k[i]
            share = 1 / total
            for i in range(y_k.size):
                y_k[i] *= share


@njit(**COMPILED)
def _softmax_grad(dy, y, bounds, rows, dl):
    """Compute dl = y * (dy - sum of dy * y over the group)."""
    in_parallel(_tasks(y, rows), _grad_rows, (dy, y, bounds, rows, dl))


@njit(**SUMS)
def _grad_rows(task, dy, y, bounds, rows, dl):
    for m in _rows(task, rows, y):
        dy_m, y_m, dl_m = dy[m], y[m], dl[m]
        for k in range(bounds.size - 1):
            first, last = bounds[k], bounds[k + 1]
            dy_k, y_k, dl_k = dy_m[first:last], y_m[first:last], dl_m[first:last]
            total = dy_k[0] * y_k[0]
            for i in range(1, y_k.size):
                total += dy_k[i] * y_k[i]
            for i in range(y_k.size):
                dl_k[i] = y_k[i] * (dy_k[i] - total)


@njit(**COMPILED)
def _argmax(l, bounds, rows, y):
    """Set y, which is 0, to 1 at the largest number of each group."""
    in_parallel(_tasks(l, rows), _argmax_rows, (l, bounds, rows, y))


@njit(**INNER)
def _argmax_rows(task, l, bounds, rows, y):
    for m in _rows(task, rows, l):
        l_m, y_m = l[m], y[m]
        for k in range(bounds.size - 1):
            at = bounds[k]
            for i in range(bounds[k] + 1, bounds[k + 1]):
                at = i if l_m[i] > l_m[at] else at
            y_m[at] = 1
