"""Check one example of a layer against the complete layer contract on one backend.

`own_layers` runs these checks on the layers of a file. A check is a function that takes a
`_Case` and yields rows, as in `checks`. CHECKS lists all checks by name. Each check works on
a new copy of the layer, so that a layer that breaks one part of the contract fails only the
check of that part.
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
from minigan.checking.derivatives import EXACT, NETWORK_TOLERANCE, TOLERANCE
from minigan.checking.rows import Row, compare, fact
from minigan.layers import Layer

WARM_UP = 10  # forward passes that move the running statistics away from 0 and 1


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
    """A float64 layer on a backend, with the shape of x, the mode and the labels of its forward pass."""

    layer: Layer
    shape: tuple[int, ...]
    train: bool
    labels: np.ndarray | None

    @property
    def backend(self):
        """The backend of the layer."""
        return self.layer.backend

    @property
    def kwargs(self) -> dict:
        """The keyword arguments of forward. Only a layer with `takes_labels` gets labels."""
        labels = self.labels if self.layer.takes_labels else None
        return {"train": self.train} | ({} if labels is None else {"labels": self.backend.asarray(labels)})

    def fresh(self, dtype=np.float64) -> Layer:
        """Return a copy of the layer, so that the checks do not affect one another."""
        return _on(self.layer, self.backend, dtype)

    def random(self, shape, seed: int, dtype=np.float64):
        """Return an array of standard normal numbers on the backend."""
        return self.backend.asarray(np.random.default_rng(seed).standard_normal(shape), dtype=dtype)

    def same(self, a: Array, b: Array) -> bool:
        """Return whether two arrays of the backend are equal, with NaN equal to NaN."""
        return np.array_equal(self.backend.to_numpy(a), self.backend.to_numpy(b), equal_nan=True)

    def passes(self, layer: Layer, seed: int = 0, dtype=np.float64) -> "_Passes":
        """Run one forward and one backward pass on copies of x and dy, because the layer may write to them."""
        x = self.random(self.shape, seed, dtype)
        y, cache = forward(layer, x.copy(), **self.kwargs)
        dy = self.random(y.shape, seed + 1000, dtype)
        return _Passes(x, y, cache, dy, *backward(layer, dy.copy(), cache))


@dataclass(frozen=True)
class _Passes:
    """The inputs and results of a forward and a backward pass."""

    x: Array
    y: Array
    cache: Any
    dy: Array
    dx: Array
    grads: dict[str, Array]

    def gradients(self) -> dict[str, Array]:
        """Return all gradients by name; dx is named x."""
        return {"x": self.dx, **self.grads}


def forward(layer: Layer, x, train=True, track=True, **labels) -> tuple:
    """Call forward as `Sequential` does; return (y, cache). Raises TypeError if the result has another form."""
    returned = layer.forward(x, train, track, **labels)
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise TypeError(f"forward returns a {type(returned).__name__}: expected the pair (y, cache)")
    if not isinstance(returned[0], layer.backend.xp.ndarray):
        raise TypeError(f"y is a {kind_of(returned[0])}: expected an array of the backend {layer.backend.name}")
    return returned


def backward(layer: Layer, dy, cache, need_dx=True, need_grads=True) -> tuple:
    """Call backward as `Sequential` does; return (dx, grads). Raises TypeError if the result has another form."""
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
    """Return the name of the value's type. For a tuple, return the names of its items' types."""
    if isinstance(value, tuple):
        return f"({', '.join(map(kind_of, value))})"
    return type(value).__name__


def _on(layer: Layer, backend, dtype) -> Layer:
    """Return a copy of the layer on the backend, with the dtype."""
    return copy.deepcopy(layer).to(backend, dtype)


def _case(layer: Layer, shape, options: dict, backend) -> _Case:
    """Create the case of an example on a backend, with parameters and buffers unlike those of a new layer.

    New layers hide mistakes, because their biases are 0 and their scales are 1. Small random
    numbers are therefore added to each parameter. A few forward passes on data with another
    mean and variance change the running statistics.
    """
    labels = None if options.get("labels") is None else np.asarray(options["labels"])
    case = _Case(_on(layer, backend, np.float64), shape, options.get("train", True), labels)
    rng = np.random.default_rng(0)
    for p in case.layer.params.values():
        p[...] = p + backend.asarray(0.1 * rng.standard_normal(p.shape))
    if any(b.dtype.kind == "f" for b in case.layer.buffers.values()):
        x = 2 * case.random(shape, seed=1) + 1
        for _ in range(WARM_UP):
            forward(case.layer, x, **case.kwargs | {"train": True})
    case.layer.refresh_buffers()
    return case


# ---------------------------------------------------------------- the checks


def shapes(case: _Case) -> Iterator[Row]:
    """Check that y has one row for each sample, and that each gradient has the shape of its tensor."""
    layer = case.fresh()
    run = case.passes(layer)
    same = run.y.ndim > 0 and len(run.y) == len(run.x)
    yield fact("", "y", same, f"shape {run.y.shape} from x {run.x.shape}: expected {len(run.x)} samples, as in x")
    for name, value in {"x": run.x, **layer.params}.items():
        gradient = run.gradients().get(name)
        came = "no gradient" if gradient is None else f"a gradient of shape {gradient.shape}"
        yield fact("", name, gradient is not None and gradient.shape == value.shape, f"{came} for {value.shape}")


def dtypes(case: _Case) -> Iterator[Row]:
    """Check that float32 inputs give float32 results, and float64 inputs float64 results."""
    for dtype in ("float32", "float64"):
        run = case.passes(case.fresh(dtype), dtype=dtype)
        for name, value in {"y": run.y, "dx": run.dx, **run.grads}.items():
            yield fact("", name, value.dtype == dtype, f"{dtype} in, {value.dtype} out")


def gradients(case: _Case) -> Iterator[Row]:
    """Compare each gradient with the numerical derivative, using a random cotangent."""
    rng = np.random.default_rng(2)
    x = case.random(case.shape, seed=2)
    yield from gradcheck.check_layer(case.fresh(), x, **case.kwargs, coordinates=24, rng=rng)


def keys(case: _Case) -> Iterator[Row]:
    """Check that the gradients have the names of the parameters, in the same order."""
    layer = case.fresh()
    names, expected = list(case.passes(layer).grads), list(layer.params)
    yield fact("", "grads", names == expected, f"has the keys {names}: expected {expected}, as in params")


def nothing_stored(case: _Case) -> Iterator[Row]:
    """Check that no pass changes an attribute or a parameter. What backward needs belongs in the cache."""
    layer = case.fresh()
    before = _state(layer)
    case.passes(layer)
    after = _state(layer)
    for name in {**before, **after}:
        change = "is new" if name not in before else "is gone" if name not in after else "has changed"
        yield fact("", name, before.get(name) == after.get(name), f"{change} after a pass: return it in the cache")


def _state(value, at: str = "self") -> dict[str, object]:
    """Return everything that a value contains, by name, in a form that == can compare.

    The contents of `buffers` are left out, because forward may change them.
    """
    if isinstance(value, Layer):
        attributes = {name: v for name, v in vars(value).items() if name not in ("backend", "buffers")}
        result: dict[str, object] = {
            f"{at}.buffers": {name: (b.shape, str(b.dtype)) for name, b in value.buffers.items()}
        }
        for name, v in attributes.items():
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
        return {at: pickle.dumps(value)}  # for example the state of a random generator
    except Exception:
        return {at: id(value)}


def two_passes(case: _Case) -> Iterator[Row]:
    """Check that two forward passes followed by two backward passes give the same gradients as separate passes."""
    layer = case.fresh()
    restore = gradcheck.save_buffers(layer)
    separate = [case.passes(layer, seed) for seed in (3, 4)]
    restore()
    caches = [forward(layer, run.x.copy(), **case.kwargs)[1] for run in separate]
    for which, run, cache in zip(("first", "second"), separate, caches, strict=True):
        dx, grads = backward(layer, run.dy.copy(), cache)
        for name, gradient in {"x": dx, **grads}.items():
            got, expected = map(case.backend.to_numpy, (gradient, run.gradients()[name]))
            yield compare("", f"{name}, {which} pass", "a separate pass", got, expected, EXACT)


def inputs_untouched(case: _Case) -> Iterator[Row]:
    """Check that no pass writes to x or the labels, and that backward does not write to dy or y."""
    layer, kwargs = case.fresh(), case.kwargs
    given = {"x": case.random(case.shape, seed=5)} | {k: v for k, v in kwargs.items() if k == "labels"}
    before = {name: case.backend.to_numpy(value).copy() for name, value in given.items()}
    y, cache = forward(layer, given["x"], **kwargs)
    yield from _untouched(case, given, before, "forward")
    given |= {"y": y, "dy": case.random(y.shape, seed=6)}
    before = {name: case.backend.to_numpy(value).copy() for name, value in given.items()}
    backward(layer, given["dy"], cache)
    yield from _untouched(case, given, before, "backward")


def _untouched(case: _Case, given: dict, before: dict, by: str) -> Iterator[Row]:
    """Yield a row for each given array: does it still have its values of `before`?"""
    for name, value in given.items():
        same = np.array_equal(case.backend.to_numpy(value), before[name], equal_nan=True)
        yield fact("", name, same, f"{by} wrote to it: work on a copy")


def not_needed(case: _Case) -> Iterator[Row]:
    """Check that gradients that are not needed are None, and that the others do not change."""
    layer = case.fresh()
    run = case.passes(layer, seed=7)
    for need_dx, need_grads in ((False, True), (True, False), (False, False)):
        needs = f"with need_dx={need_dx}, need_grads={need_grads}"
        dx, grads = backward(layer, run.dy.copy(), run.cache, need_dx, need_grads)
        yield fact("", "dx", (dx is not None) == need_dx, f"{'None' if dx is None else 'not None'} {needs}")
        yield fact("", "grads", (grads is not None) == need_grads, f"{'None' if grads is None else 'not None'} {needs}")
        returned = ({"x": dx} if need_dx else {}) | ((grads or {}) if need_grads else {})
        for name, gradient in returned.items():
            pair = (gradient, run.gradients().get(name))
            same = all(a is not None for a in pair) and case.same(*pair)
            yield fact("", name, same, f"has other values {needs}")


def labels(case: _Case) -> Iterator[Row]:
    """Check that a layer with `takes_labels` accepts labels, and raises an exception for a wrong number of them.

    Another layer must raise an exception for labels, or ignore them.
    """
    N, x = case.shape[0], case.random(case.shape, seed=8)
    restore = gradcheck.save_buffers(layer := case.fresh())
    if layer.takes_labels:
        if case.labels is not None:
            too_many = case.backend.asarray(np.concatenate([case.labels, case.labels[:1]]))
            try:
                forward(layer, x, case.train, labels=too_many)
                refused = False
            except Exception:
                refused = True
            yield fact("", "labels", refused, f"{N + 1} labels for {N} samples are accepted: raise a ValueError")
        restore()
        forward(layer, x, **{"labels": None} | case.kwargs)
        yield fact("", "labels", True, "")
        return
    declare = "set takes_labels = True, because otherwise no network passes labels to this layer"
    yield fact("", "labels", case.labels is None, f"the example has labels: {declare}")
    y, _ = forward(layer, x, **case.kwargs)
    restore()
    try:
        y_labels, _ = forward(layer, x, case.train, labels=case.backend.asarray(np.arange(N)))
    except Exception:  # the layer refuses labels
        return
    yield fact("", "labels", case.same(y, y_labels), f"forward uses them: {declare}")


def buffers(case: _Case) -> Iterator[Row]:
    """Check that train=False and backward change no buffer, and that track=False changes no running statistic.

    Integer counters may change with track=False, as those of dropout do.
    """
    layer = case.fresh()
    x, kwargs = case.random(case.shape, seed=9), {k: v for k, v in case.kwargs.items() if k == "labels"}

    def copies():
        return {name: case.backend.to_numpy(b).copy() for name, b in layer.buffers.items()}

    for mode in ({"train": False}, {"train": True, "track": False}):
        start = copies()
        y, cache = forward(layer, x, **mode, **kwargs)
        middle = copies()
        backward(layer, case.random(y.shape, seed=10), cache)
        end = copies()
        for name, b in layer.buffers.items():
            if not mode["train"] or b.dtype.kind == "f":
                same = np.array_equal(start[name], middle[name], equal_nan=True)
                yield fact("", name, same, f"forward with {as_arguments(mode)} changes it")
            same = np.array_equal(middle[name], end[name], equal_nan=True)
            yield fact("", name, same, "backward changes it")


def second_derivatives(case: _Case) -> Iterator[Row]:
    """Compare `tangent` and `tangent_backward`, if they are defined, with numerical derivatives.

    ty is d/dt y(x + t tx) at t = 0, and tangent_backward returns the gradients of
    <c, y> + <c2, ty>. A dy of None counts as zero, and so does a dx of None.
    """
    layer, backend = case.fresh(), case.backend
    restore = gradcheck.save_buffers(layer)
    x, tx = (case.random(case.shape, seed) for seed in (11, 12))

    def linearised(at):
        restore()
        y, cache = forward(layer, at, **case.kwargs)
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
    c, c2 = (case.random(y.shape, seed) for seed in (13, 14))
    rng = np.random.default_rng(15)
    options = {"backend": backend, "tolerance": NETWORK_TOLERANCE, "coordinates": 24, "rng": rng, "subject": ""}

    def y_along(t):
        restore()
        return forward(layer, x + t * tx, **case.kwargs)[0]

    t = backend.asarray(np.zeros(1))
    yield from gradcheck.check(
        lambda: c2 * y_along(t),
        lambda: {"ty": (c2 * linearised(x + t * tx)[2]).sum().reshape(1)},
        {"ty": t},
        **options,
    )

    def gradient(dy):
        _, cache, _, tangent_cache = linearised(x)
        dx, dtx, grads = layer.tangent_backward(dy, c2.copy(), cache, tangent_cache)
        return {"x": backend.xp.zeros_like(x) if dx is None else dx, "tx": dtx, **grads}

    def value(c):
        y, _, ty, _ = linearised(x)
        return backend.xp.stack([c * y, c2 * ty])

    tensors = {"x": x, "tx": tx, **layer.params}
    yield from gradcheck.check(lambda: value(c), lambda: gradient(c.copy()), tensors, **options)
    yield from gradcheck.check(lambda: value(0 * c), lambda: gradient(None), tensors, **options)
    for dtype in ("float32", "float64"):
        yield from _tangent_contract(case, dtype)


def _tangent_contract(case: _Case, dtype: str) -> Iterator[Row]:
    """Check of the tangent what `dtypes`, `keys`, `inputs_untouched` and `not_needed` check of the backward pass."""
    layer = case.fresh(dtype)
    x, tx = (case.random(case.shape, seed, dtype) for seed in (11, 12))
    y, cache = forward(layer, x, **case.kwargs)
    ty, tangent_cache = layer.tangent(tx, cache)
    given = {"tx": tx} | {name: case.random(y.shape, seed, dtype) for name, seed in (("dy", 13), ("dty", 14))}
    before = {name: case.backend.to_numpy(a).copy() for name, a in given.items()}
    dx, dtx, grads = layer.tangent_backward(given["dy"], given["dty"], cache, tangent_cache)
    yield from _untouched(case, given, before, "tangent_backward")
    for name, value in {"ty": ty, "dx": dx, "dtx": dtx, **grads}.items():
        if value is not None:
            yield fact("", name, value.dtype == dtype, f"{dtype} in, {value.dtype} out")
    names, expected = list(grads), list(layer.params)
    yield fact("", "grads", names == expected, f"tangent_backward has the keys {names}: expected {expected}")
    dx, dtx, grads_only = layer.tangent_backward(given["dy"], given["dty"], cache, tangent_cache, False)
    yield fact("", "dx", dx is None and dtx is None, "tangent_backward with need_dx=False: dx or dtx is not None")
    for name, gradient in grads.items():
        same = case.same(gradient, grads_only[name])
        yield fact("", name, same, "tangent_backward has other values with need_dx=False")


def backends_agree(case: _Case) -> Iterator[Row]:
    """Compare y with the result of the reference backend."""
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
    """Yield the results of all checks of one example on one backend.

    An exception inside the layer is a failed check, and its details have the message and the
    line in the file `path`. If the layer cannot run at all, that is the only result.
    """

    def failed(check: str, error: BaseException) -> Result:
        return Result(check, backend.name, False, sentence(error, path))

    with np.errstate(all="ignore"):  # the checks report results that are not finite as wrong
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
    """Return one line that says what is wrong, or the largest relative error."""
    wrong = [row for row in rows if not row.ok]
    if not wrong:
        errors = [row.error for row in rows if row.method != "exact"]
        return f"worst relative error {max(errors):.1e}" if errors else next((r.where for r in rows if r.where), "")
    row, more = wrong[0], f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    if math.isnan(row.analytic) and not row.where.startswith("["):  # `where` is a sentence, not a position in an array
        return f"{row.tensor}: {row.where}{more}"
    return f"{row.tensor} at {row.where}: {row.analytic:.6g} by the layer, {row.numeric:.6g} by {row.method}{more}"


def sentence(error: BaseException, path: str) -> str:
    """Format an exception in one line, with the line number of the innermost frame in the file `path`."""
    text = " ".join(str(error).split())
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    if isinstance(error, SyntaxError):
        text, lines = error.msg, [error.lineno]
    at = f" (line {lines[-1]})" if lines and lines[-1] else ""
    return f"{type(error).__name__}: {text}{at}" if text else f"{type(error).__name__}{at}"


def as_arguments(options: dict) -> str:
    """Format a dict as keyword arguments."""
    return ", ".join(f"{name}={value}" for name, value in options.items())
