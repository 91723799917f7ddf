"""Checks of the layers for rows of a table: their cases, their formulas, and the categories that a head draws."""

import math
from collections.abc import Iterator

import numpy as np

from minigan.checking.derivatives import EXACT
from minigan.checking.gradcheck import save_buffers
from minigan.checking.random_checks import plain_uniform
from minigan.checking.rows import Row, compare, fact
from minigan.layers import (
    BatchNorm,
    Concatenate,
    Dense,
    Embedding,
    Layer,
    LeakyReLU,
    OneHot,
    ReLU,
    Sequential,
    Softmax,
    TableHead,
    Tanh,
)

GROUPS = ((1, 4), (4, 6), (7, 10))  # of 11 features


def table_cases(backend, rng) -> Iterator[tuple[str, Layer, tuple, dict]]:
    """Yield (what, layer, shape of x, keyword arguments of forward) for the layers of tables.

    A TableHead that is hard, or in evaluation, is not among them, because its backward pass is not the derivative of
    its y: `drawn_categories` checks it.
    """
    labels = backend.asarray(np.array([2, 0, 1, 1]))
    yield "Softmax", Softmax(GROUPS, 11), (4, 11), {}
    yield "Softmax, only groups", Softmax(((0, 2), (2, 5)), 5), (4, 5), {}
    yield "TableHead", TableHead(GROUPS, 11, temperature=0.6, rng=rng), (4, 11), {}
    label = TableHead(GROUPS, 11, temperature=0.6, label_group=2, rng=rng)
    yield "TableHead with labels", label, (4, 11), {"labels": labels}
    yield "Embedding", Embedding(GROUPS[:2], 11, 3, rng=rng), (4, 11), {}
    block = Concatenate(Dense(5, 3, rng=rng), Tanh(), BatchNorm(3, eps=1e-3))
    yield "Concatenate", block, (4, 5), {}
    yield "Concatenate, running statistics", block, (4, 5), {"train": False}
    linear = Concatenate(OneHot(3), Dense(8, 4, rng=rng))
    yield "Concatenate with labels", linear, (4, 5), {"labels": labels}
    inside = Concatenate(Dense(5, 3, bias=False, rng=rng), BatchNorm(3, eps=1e-3), ReLU())
    yield "fused Concatenate", Sequential(inside, Dense(8, 2, rng=rng), LeakyReLU(0.3)), (6, 5), {}


def plain_table(layer: Layer, x: np.ndarray, labels=None) -> np.ndarray | None:
    """Compute y of a Softmax, a TableHead or an Embedding one number at a time, or return None for other layers."""
    if isinstance(layer, Embedding):
        rows = []
        for row in x:
            out, at = [], 0
            while at < layer.n:
                k = next((k for k, (start, _) in enumerate(layer.groups) if start == at), None)
                if k is None:
                    out.append(row[at])
                    at += 1
                else:
                    e = layer.backend.to_numpy(layer.params[f"e{k}"])
                    out += [sum(row[at + i] * e[i, j] for i in range(len(e))) for j in range(layer.width)]
                    at += len(e)
            rows.append(out)
        return np.array(rows)
    if not isinstance(layer, Softmax | TableHead):
        return None
    head = layer if isinstance(layer, TableHead) else None
    y = x.copy() if head is None else np.sinh(x) / np.cosh(x)
    chosen = None if labels is None else layer.backend.to_numpy(labels)
    for n in range(len(x)):
        for k, (start, stop) in enumerate(layer.groups):
            l = [float(x[n, i]) for i in range(start, stop)]
            if head is not None:
                g = [-math.log(-math.log(plain_uniform(layer, n * layer.n + i))) for i in range(start, stop)]
                l = [(a + b) / head.temperature for a, b in zip(l, g, strict=True)]
            y[n, start:stop] = [math.exp(a) / sum(map(math.exp, l)) for a in l]
            if head is not None and k == head.label_group and chosen is not None:
                y[n, start:stop] = [float(i == chosen[n]) for i in range(stop - start)]
    return y


def drawn_categories(backend) -> Iterator[Row]:
    """Check which categories a TableHead draws, and when.

    Values have the probabilities of the softmax without noise (the Gumbel-max theorem), and groups and rows are
    independent. Evaluation draws one-hot groups with the noise of the next pass in training, and the counter decides
    the noise. With `hard`, y is one-hot, and the backward pass is that of the soft y.
    """
    n, p = 20_000, np.array([0.5, 0.3, 0.15, 0.05])
    groups = ((0, 4), (5, 9))
    layer, hard = (
        TableHead(groups, 9, hard=hard, rng=np.random.default_rng(6)).to(backend, np.float64) for hard in (False, True)
    )
    x = backend.asarray(np.tile([*np.log(p), 0.3, *(np.log(p) + 2)], (n, 1)))  # a shift of all values changes nothing
    drawn, again = (backend.to_numpy(layer.forward(x, train=False)[0]) for _ in range(2))
    yield fact("TableHead", "evaluation", np.array_equal(drawn, again), "two passes with train=False differ")
    yield fact("TableHead", "no draw", int(layer.buffers["draws"]) == 0, "train=False advances the counter")
    yield compare("TableHead", "number in evaluation", "formula", drawn[:, 4], np.full(n, math.tanh(0.3)), EXACT)
    values = {group: drawn[:, group[0] : group[1]] for group in groups}
    for group, y in values.items():
        one_hot = np.array_equal(np.sort(y, axis=1), np.tile([0.0, 0, 0, 1], (n, 1)))
        yield fact("TableHead", f"group {group} in evaluation", one_hot, "it is not exactly one-hot")
        for i in range(4):
            error = 4 * math.sqrt(p[i] * (1 - p[i]) / n)
            yield compare("TableHead", f"value {i} of {group}", "statistics", 1 + y[:, i].mean(), 1 + p[i], error)
    first, second = (y.argmax(axis=1) for y in values.values())
    for what, a, b in (("groups", first, second), ("neighbours", first[1:], first[:-1])):
        same, equal = (a == b).mean(), (p * p).sum()
        error = 4 * math.sqrt(equal * (1 - equal) / n)
        yield compare("TableHead", f"equal values, {what}", "statistics", 1 + same, 1 + equal, error)
    restore = save_buffers(layer, hard)
    soft, soft_cache = layer.forward(x)
    yield fact("TableHead", "draws", int(layer.buffers["draws"]) == 1, "the counter is not 1 after a pass in training")
    exact, hard_cache = hard.forward(x)
    yield fact("TableHead", "hard", np.array_equal(backend.to_numpy(exact), drawn), "y is not that of evaluation")
    soft = backend.to_numpy(soft)
    likeliest = all(np.array_equal(soft[:, a:b].argmax(axis=1), y.argmax(axis=1)) for (a, b), y in values.items())
    yield fact("TableHead", "same noise", likeliest, "evaluation draws other values than the soft y prefers")
    dy = backend.asarray(np.random.default_rng(7).standard_normal((n, 9)))
    dx, straight = layer.backward(dy, soft_cache)[0], hard.backward(dy, hard_cache)[0]
    yield compare("TableHead", "dx if hard", "soft y", backend.to_numpy(straight), backend.to_numpy(dx), EXACT)
    following = backend.to_numpy(layer.forward(x)[0])
    yield fact("TableHead", "next draw", not np.array_equal(following, soft), "two passes in training are equal")
    restore()
    repeated = backend.to_numpy(layer.forward(x)[0])
    yield fact("TableHead", "same counter", np.array_equal(repeated, soft), "the same count of draws gives other noise")
    labelled = TableHead(groups, 9, label_group=1, rng=np.random.default_rng(6)).to(backend, np.float64)
    labels = np.arange(n) % 4
    y, cache = labelled.forward(x, train=False, labels=backend.asarray(labels))
    written = np.array_equal(backend.to_numpy(y)[:, 5:], np.eye(4)[labels])
    yield fact("TableHead", "label in evaluation", written, "its group is not the label that was asked for")
    others = np.array_equal(backend.to_numpy(y)[:, :5], drawn[:, :5])
    yield fact("TableHead", "other groups", others, "the label changes the noise of other groups")
    dx = backend.to_numpy(labelled.backward(dy, cache)[0])
    yield fact(
        "TableHead", "dx of the label", not dx[:, 5:].any() and dx[:, :5].any(), "it is not 0, or the others are"
    )
