"""The whole contract of a layer, as checks of one example on one backend.

`own_layers` runs them on the layers of a file. A check is a function of a `_Case` that
yields rows, as in `checks`; CHECKS names them all. It works on a fresh copy of the layer, so
that a layer that breaks one part of the contract fails the check of that part only.
"""

import copy
import math
import pickle
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from minigan import backends
from minigan.backends import Array
from minigan.checking import gradcheck
from minigan.checking.derivatives import EXACT, TOLERANCE, WHOLE
from minigan.checking.rows import Row, compare, fact
from minigan.layers import Layer

WARM_UP = 10  # passes that move the running statistics away from 0 and 1


@dataclass(frozen=True)
class Result:
    """The result of one check of one example on one backend."""

    check: str
    backend: str
    passed: bool
    details: str


# ---------------------------------------------------------------- an example on a backend


@dataclass(frozen=True)
class _Case:
    """A layer in float64 on a backend, and what its forward pass gets."""

    layer: Layer
    shape: tuple[int, ...]
    train: bool
    labels: np.ndarray | None

    @property
    def backend(self):
        return self.layer.backend

    @property
    def how(self) -> dict:
        """The arguments of forward besides x. Only a layer with `takes_labels` gets labels."""
        labels = self.labels if self.layer.takes_labels else None
        return {"train": self.train} | ({} if labels is None else {"labels": self.backend.asarray(labels)})

    def fresh(self, dtype=np.float64) -> Layer:
        """A copy of the layer, so that no check sees what another one did to it."""
        return _on(self.layer, self.backend, dtype)

    def numbers(self, shape, seed: int, dtype=np.float64):
        return self.backend.asarray(np.random.default_rng(seed).standard_normal(shape), dtype=dtype)

    def same(self, a: Array, b: Array) -> bool:
        """Whether two arrays of the backend hold the same bits."""
        return np.array_equal(self.backend.to_numpy(a), self.backend.to_numpy(b), equal_nan=True)

    def passes(self, layer: Layer, seed: int = 0, dtype=np.float64) -> "_Passes":
        """One forward and one backward pass. The layer gets copies, because it may write to them."""
        x = self.numbers(self.shape, seed, dtype)
        y, cache = forward(layer, x.copy(), **self.how)
        dy = self.numbers(y.shape, seed + 1000, dtype)
        return _Passes(x, y, cache, dy, *backward(layer, dy.copy(), cache))


@dataclass(frozen=True)
class _Passes:
    """What went into a forward and a backward pass, and what came out."""

    x: Array
    y: Array
    cache: Any
    dy: Array
    dx: Array
    grads: dict[str, Array]

    def gradients(self) -> dict[str, Array]:
        return {"x": self.dx, **self.grads}


def forward(layer: Layer, x, train=True, track=True, **labels) -> tuple:
    """(y, cache), called as `Sequential` calls it. Raises TypeError for anything else."""
    returned = layer.forward(x, train, track, **labels)
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise TypeError(f"forward returns a {type(returned).__name__}: expected the pair (y, cache)")
    if not isinstance(returned[0], layer.backend.xp.ndarray):
        raise TypeError(f"y is a {kind_of(returned[0])}: expected an array of the backend {layer.backend.name}")
    return returned


def backward(layer: Layer, dy, cache, need_dx=True, need_grads=True) -> tuple:
    """(dx, grads), called as `Sequential` calls it. Raises TypeError for anything else."""
    returned = layer.backward(dy, cache, need_dx, need_grads)
    if not isinstance(returned, tuple) or len(returned) != 2 or not isinstance(returned[1], dict | None):
        raise TypeError(
            f"backward returns {kind_of(returned)}: expected the pair (dx, grads), with a dict of gradients"
        )
    for name, gradient in {"dx": returned[0], **(returned[1] or {})}.items():
        if not isinstance(gradient, layer.backend.xp.ndarray | None):
            raise TypeError(f"{name} is a {kind_of(gradient)}: expected an array of the backend {layer.backend.name}")
    return returned


def kind_of(value) -> str:
    """The name of the value's type; of a tuple, those of its items."""
    if isinstance(value, tuple):
        return f"({', '.join(map(kind_of, value))})"
    return type(value).__name__


def _on(layer: Layer, backend, dtype) -> Layer:
    """A copy of the layer on that backend, in that dtype."""
    return copy.deepcopy(layer).to(backend, dtype)


def _case(layer: Layer, shape, options: dict, backend) -> _Case:
    """The case of an example on a backend, where no number is special.

    Fresh parameters hide mistakes, because biases are 0 and scales are 1: so each one is
    moved a little. Fresh buffers do as well: so a few passes over data with another mean
    and variance move the running statistics.
    """
    labels = None if options.get("labels") is None else np.asarray(options["labels"])
    case = _Case(_on(layer, backend, np.float64), shape, options.get("train", True), labels)
    rng = np.random.default_rng(0)
    for p in case.layer.params.values():
        p[...] = p + backend.asarray(0.1 * rng.standard_normal(p.shape))
    if any(b.dtype.kind == "f" for b in case.layer.buffers.values()):
        x = 2 * case.numbers(shape, seed=1) + 1
        for _ in range(WARM_UP):
            forward(case.layer, x, **case.how | {"train": True})
    case.layer.refresh_buffers()
    return case


# ---------------------------------------------------------------- the checks


def shapes(case: _Case) -> Iterator[Row]:
    """y has a row for each sample; each gradient has the shape of what it belongs to."""
    layer = case.fresh()
    run = case.passes(layer)
    same = run.y.ndim > 0 and len(run.y) == len(run.x)
    yield fact("", "y", same, f"shape {run.y.shape} from x {run.x.shape}: expected {len(run.x)} samples, as in x")
    for name, value in {"x": run.x, **layer.params}.items():
        gradient = run.gradients().get(name)
        came = "no gradient" if gradient is None else f"a gradient of shape {gradient.shape}"
        yield fact("", name, gradient is not None and gradient.shape == value.shape, f"{came} for {value.shape}")


def dtypes(case: _Case) -> Iterator[Row]:
    """float32 in, float32 out, and the same for float64."""
    for dtype in ("float32", "float64"):
        run = case.passes(case.fresh(dtype), dtype=dtype)
        for name, value in {"y": run.y, "dx": run.dx, **run.grads}.items():
            yield fact("", name, value.dtype == dtype, f"{dtype} in, {value.dtype} out")


def gradients(case: _Case) -> Iterator[Row]:
    """Each gradient equals the numerical derivative, with a random cotangent."""
    rng = np.random.default_rng(2)
    x = case.numbers(case.shape, seed=2)
    yield from gradcheck.check_layer(case.fresh(), x, **case.how, coordinates=24, rng=rng)


def keys(case: _Case) -> Iterator[Row]:
    """The gradients have the names of the parameters, in the same order."""
    layer = case.fresh()
    names, expected = list(case.passes(layer).grads), list(layer.params)
    yield fact("", "grads", names == expected, f"has the keys {names}: expected {expected}, as in params")


def nothing_stored(case: _Case) -> Iterator[Row]:
    """No pass changes an attribute or a parameter: what backward needs is in the cache."""
    layer = case.fresh()
    before = _state(layer)
    case.passes(layer)
    after = _state(layer)
    for name in {**before, **after}:
        change = "is new" if name not in before else "is gone" if name not in after else "has changed"
        yield fact("", name, before.get(name) == after.get(name), f"{change} after a pass: return it in the cache")


def _state(value, at: str = "self") -> dict[str, object]:
    """All that a value holds, by name, in a form that == compares.

    The numbers in `buffers` are left out, because forward may move them.
    """
    if isinstance(value, Layer):
        held = {name: v for name, v in vars(value).items() if name not in ("backend", "buffers")}
        result: dict[str, object] = {
            f"{at}.buffers": {name: (b.shape, str(b.dtype)) for name, b in value.buffers.items()}
        }
        for name, v in held.items():
            result |= _state(v, f"{at}.{name}")
        return result
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        result = {at: (type(value), len(value))}
        for key, v in items:
            result |= _state(v, f"{at}[{key!r}]")
        return result
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return {at: (value.shape, str(value.dtype), backends.of(value).to_numpy(value).tobytes())}
    try:
        return {at: pickle.dumps(value)}  # a random generator's state, for example
    except Exception:
        return {at: id(value)}


def two_passes(case: _Case) -> Iterator[Row]:
    """Two forward and then two backward passes give the gradients of one after the other."""
    layer = case.fresh()
    put_back = gradcheck.keeper(layer)
    apart = [case.passes(layer, seed) for seed in (3, 4)]
    put_back()
    caches = [forward(layer, run.x.copy(), **case.how)[1] for run in apart]
    for which, run, cache in zip(("first", "second"), apart, caches, strict=True):
        dx, grads = backward(layer, run.dy.copy(), cache)
        for name, gradient in {"x": dx, **grads}.items():
            got, expected = map(case.backend.to_numpy, (gradient, run.gradients()[name]))
            yield compare("", f"{name}, {which} pass", "a pass by itself", got, expected, EXACT)


def inputs_untouched(case: _Case) -> Iterator[Row]:
    """No pass writes to x or to the labels, and backward does not write to dy or y."""
    layer, how = case.fresh(), case.how
    given = {"x": case.numbers(case.shape, seed=5)} | {k: v for k, v in how.items() if k == "labels"}
    before = {name: case.backend.to_numpy(value).copy() for name, value in given.items()}
    y, cache = forward(layer, given["x"], **how)
    yield from _untouched(case, given, before, "forward")
    given |= {"y": y, "dy": case.numbers(y.shape, seed=6)}
    before = {name: case.backend.to_numpy(value).copy() for name, value in given.items()}
    backward(layer, given["dy"], cache)
    yield from _untouched(case, given, before, "backward")


def _untouched(case: _Case, given: dict, before: dict, by: str) -> Iterator[Row]:
    for name, value in given.items():
        same = np.array_equal(case.backend.to_numpy(value), before[name], equal_nan=True)
        yield fact("", name, same, f"{by} wrote to it: work on a copy")


def not_needed(case: _Case) -> Iterator[Row]:
    """What is not needed is None, and the rest keeps its bits."""
    layer = case.fresh()
    run = case.passes(layer, seed=7)
    for need_dx, need_grads in ((False, True), (True, False), (False, False)):
        asked = f"with need_dx={need_dx}, need_grads={need_grads}"
        dx, grads = backward(layer, run.dy.copy(), run.cache, need_dx, need_grads)
        yield fact("", "dx", (dx is not None) == need_dx, f"{'None' if dx is None else 'not None'} {asked}")
        yield fact("", "grads", (grads is not None) == need_grads, f"{'None' if grads is None else 'not None'} {asked}")
        kept = ({"x": dx} if need_dx else {}) | ((grads or {}) if need_grads else {})
        for name, gradient in kept.items():
            pair = (gradient, run.gradients().get(name))
            same = all(a is not None for a in pair) and case.same(*pair)
            yield fact("", name, same, f"has other numbers {asked}")


def labels(case: _Case) -> Iterator[Row]:
    """A layer with `takes_labels` uses labels, and refuses a wrong number of them.

    Another one refuses all labels or ignores them.
    """
    N, x = case.shape[0], case.numbers(case.shape, seed=8)
    put_back = gradcheck.keeper(layer := case.fresh())
    if layer.takes_labels:
        if case.labels is not None:
            too_many = case.backend.asarray(np.concatenate([case.labels, case.labels[:1]]))
            try:
                forward(layer, x, case.train, labels=too_many)
                refused = False
            except Exception:
                refused = True
            yield fact("", "labels", refused, f"{N + 1} labels for {N} samples are accepted: raise a ValueError")
        put_back()
        forward(layer, x, **{"labels": None} | case.how)
        yield fact("", "labels", True, "")
        return
    declare = "set takes_labels = True, or no network hands labels to this layer"
    yield fact("", "labels", case.labels is None, f"the example has some: {declare}")
    y, _ = forward(layer, x, **case.how)
    put_back()
    try:
        some, _ = forward(layer, x, case.train, labels=case.backend.asarray(np.arange(N)))
    except Exception:  # refused
        return
    yield fact("", "labels", case.same(y, some), f"forward uses them: {declare}")


def buffers(case: _Case) -> Iterator[Row]:
    """Buffers stay with train=False and in backward, and statistics stay with track=False.

    Counters (whole numbers) may count with track=False, as those of dropout do.
    """
    layer = case.fresh()
    x, how = case.numbers(case.shape, seed=9), {k: v for k, v in case.how.items() if k == "labels"}

    def held():
        return {name: case.backend.to_numpy(b).copy() for name, b in layer.buffers.items()}

    for mode in ({"train": False}, {"train": True, "track": False}):
        start = held()
        y, cache = forward(layer, x, **mode, **how)
        middle = held()
        backward(layer, case.numbers(y.shape, seed=10), cache)
        end = held()
        for name, b in layer.buffers.items():
            if not mode["train"] or b.dtype.kind == "f":
                same = np.array_equal(start[name], middle[name], equal_nan=True)
                yield fact("", name, same, f"forward with {as_arguments(mode)} moves it")
            same = np.array_equal(middle[name], end[name], equal_nan=True)
            yield fact("", name, same, "backward moves it")


def second_derivatives(case: _Case) -> Iterator[Row]:
    """`tangent` and `tangent_backward`, where they are defined, equal numerical derivatives.

    ty is d/dt y(x + t tx) at t = 0, and tangent_backward gives the gradients of
    <c, y> + <c2, ty>. A dy of None counts as zero, and so does a dx of None.
    """
    layer, backend = case.fresh(), case.backend
    put_back = gradcheck.keeper(layer)
    x, tx = (case.numbers(case.shape, seed) for seed in (11, 12))

    def linearised(at):
        put_back()
        y, cache = forward(layer, at, **case.how)
        return y, cache, *layer.tangent(tx, cache)

    try:
        y, _, ty, _ = linearised(x)
    except NotImplementedError as undefined:
        kind = type(layer)
        half = kind.tangent is Layer.tangent and kind.tangent_backward is not Layer.tangent_backward
        yield fact("", "tangent", not half, "tangent_backward is defined and tangent is not: define both, or neither")
        yield Row("", "tangent", "exact", 1, 0.0, str(undefined), math.nan, math.nan, "right")
        return
    yield fact("", "ty", ty.shape == y.shape, f"shape {ty.shape}: expected that of y, {y.shape}")
    c, c2 = (case.numbers(y.shape, seed) for seed in (13, 14))
    how = {"backend": backend, "tolerance": WHOLE, "coordinates": 24, "rng": np.random.default_rng(15), "subject": ""}

    def y_along(t):
        put_back()
        return forward(layer, x + t * tx, **case.how)[0]

    t = backend.asarray(np.zeros(1))
    yield from gradcheck.check(
        lambda: c2 * y_along(t),
        lambda: {"ty": (c2 * linearised(x + t * tx)[2]).sum().reshape(1)},
        {"ty": t},
        **how,
    )

    def gradient(dy):
        _, cache, _, tangent_cache = linearised(x)
        dx, dtx, grads = layer.tangent_backward(dy, c2.copy(), cache, tangent_cache)
        return {"x": backend.xp.zeros_like(x) if dx is None else dx, "tx": dtx, **grads}

    def value(c):
        y, _, ty, _ = linearised(x)
        return backend.xp.stack([c * y, c2 * ty])

    tensors = {"x": x, "tx": tx, **layer.params}
    yield from gradcheck.check(lambda: value(c), lambda: gradient(c.copy()), tensors, **how)
    yield from gradcheck.check(lambda: value(0 * c), lambda: gradient(None), tensors, **how)
    for dtype in ("float32", "float64"):
        yield from _tangent_contract(case, dtype)


def _tangent_contract(case: _Case, dtype: str) -> Iterator[Row]:
    """What `dtypes`, `keys`, `inputs_untouched` and `not_needed` check, checked of the tangent."""
    layer = case.fresh(dtype)
    x, tx = (case.numbers(case.shape, seed, dtype) for seed in (11, 12))
    y, cache = forward(layer, x, **case.how)
    ty, tangent_cache = layer.tangent(tx, cache)
    given = {"tx": tx} | {name: case.numbers(y.shape, seed, dtype) for name, seed in (("dy", 13), ("dty", 14))}
    before = {name: case.backend.to_numpy(a).copy() for name, a in given.items()}
    dx, dtx, grads = layer.tangent_backward(given["dy"], given["dty"], cache, tangent_cache)
    yield from _untouched(case, given, before, "tangent_backward")
    for name, value in {"ty": ty, "dx": dx, "dtx": dtx, **grads}.items():
        if value is not None:
            yield fact("", name, value.dtype == dtype, f"{dtype} in, {value.dtype} out")
    names, expected = list(grads), list(layer.params)
    yield fact("", "grads", names == expected, f"tangent_backward has the keys {names}: expected {expected}")
    dx, dtx, spared = layer.tangent_backward(given["dy"], given["dty"], cache, tangent_cache, False)
    yield fact("", "dx", dx is None and dtx is None, "tangent_backward with need_dx=False: dx or dtx is not None")
    for name, gradient in grads.items():
        same = case.same(gradient, spared[name])
        yield fact("", name, same, "tangent_backward has other numbers with need_dx=False")


def backends_agree(case: _Case) -> Iterator[Row]:
    """y is that of the reference backend."""
    reference = _Case(_on(case.layer, backends.reference(), np.float64), case.shape, case.train, case.labels)
    expected = reference.passes(reference.fresh()).y
    y = case.backend.to_numpy(case.passes(case.fresh()).y)
    yield compare("", "y", "the numpy backend", y, expected, TOLERANCE["central"])


CHECKS: dict[str, Callable[[_Case], Iterator[Row]]] = {
    "shapes": shapes,
    "dtype": dtypes,
    "gradients": gradients,
    "order of keys": keys,
    "nothing stored": nothing_stored,
    "two passes": two_passes,
    "inputs untouched": inputs_untouched,
    "not needed": not_needed,
    "labels": labels,
    "buffers": buffers,
    "second derivatives": second_derivatives,
    "backends agree": backends_agree,
}


def check_example(layer: Layer, shape: tuple[int, ...], options: dict, backend, path: str = "") -> Iterator[Result]:
    """The results of all checks of one example on one backend.

    An exception inside the layer is a failed check, and its details have its text and its
    line in the file `path`. If the layer cannot be run at all, that is the only result.
    """

    def failed(check: str, error: BaseException) -> Result:
        return Result(check, backend.name, False, sentence(error, path))

    with np.errstate(all="ignore"):  # what is not finite is found to be wrong
        try:
            case = _case(layer, shape, options, backend)
            case.passes(case.fresh())
        except (Exception, SystemExit) as error:
            yield failed("forward, backward", error)
            return
        for name, check in CHECKS.items():
            try:
                rows = list(check(case))
            except (Exception, SystemExit) as error:
                yield failed(name, error)
            else:
                yield Result(name, backend.name, all(row.ok for row in rows), _details(rows))


def _details(rows: list[Row]) -> str:
    """What is wrong, in one line, or how exact it is."""
    wrong = [row for row in rows if not row.ok]
    if not wrong:
        errors = [row.error for row in rows if row.method != "exact"]
        return f"worst relative error {max(errors):.1e}" if errors else next((r.where for r in rows if r.where), "")
    row, more = wrong[0], f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    if math.isnan(row.analytic) and not row.where.startswith("["):  # a sentence, and no place in an array
        return f"{row.tensor}: {row.where}{more}"
    return f"{row.tensor} at {row.where}: {row.analytic:.6g} by the layer, {row.numeric:.6g} by {row.method}{more}"


def sentence(error: BaseException, path: str) -> str:
    """An exception in one line, with the last line of the file `path` that took part in it."""
    text = " ".join(str(error).split())
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    if isinstance(error, SyntaxError):
        text, lines = error.msg, [error.lineno]
    at = f" (line {lines[-1]})" if lines and lines[-1] else ""
    return f"{type(error).__name__}: {text}{at}" if text else f"{type(error).__name__}{at}"


def as_arguments(options: dict) -> str:
    return ", ".join(f"{name}={value}" for name, value in options.items())
