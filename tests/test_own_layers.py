"""Tests of `minigan gradcheck FILE.py`: a correct layer passes, and each mistake fails the check of its part."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from minigan import backends, cli
from minigan.checking import layer_contract, own_layers
from minigan.checking.layer_checks import layer_cases
from minigan.errors import UserError
from minigan.layers import Layer, Pack


class Good(Layer):
    """y = g * tanh(x) + b; x (N, n), g (n,), b (n,)."""

    def __init__(self, n: int = 5):
        super().__init__({"g": np.ones(n, np.float32), "b": np.zeros(n, np.float32)})

    def forward(self, x, train=True, track=True):
        h = self.backend.xp.tanh(x)  # (N, n)
        return self.params["g"] * h + self.params["b"], h

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        h = cache
        dx = self.params["g"] * dy * (1 - h * h) if need_dx else None
        return dx, {"g": (dy * h).sum(0), "b": dy.sum(0)} if need_grads else None

    def tangent(self, tx, cache):
        return self.params["g"] * (1 - cache * cache) * tx, tx

    def tangent_backward(self, dy, dty, cache, tangent_cache, need_dx=True):
        h, tx, g = cache, tangent_cache, self.params["g"]
        slope = 1 - h * h
        dx, dtx = (-2 * dty * g * tx * h * slope, dty * g * slope) if need_dx else (None, None)
        grads = {"g": (dty * slope * tx).sum(0), "b": self.backend.xp.zeros_like(g)}
        if dy is not None:
            grads = {"g": grads["g"] + (dy * h).sum(0), "b": dy.sum(0)}
            dx = dx + g * dy * slope if need_dx else None
        return dx, dtx, grads


def broken(**methods) -> Layer:
    """Return a Good layer with replaced methods. Each replacement gets the original method as its first argument."""

    def method(name, other):
        return lambda self, *args, **options: other(getattr(Good, name).__get__(self), self, *args, **options)

    return type("Broken", (Good,), {name: method(name, other) for name, other in methods.items()})()


def twice_dx(good, self, dy, cache, need_dx=True, need_grads=True):
    dx, grads = good(dy, cache, need_dx, need_grads)
    return 2 * dx if need_dx else None, grads


def changed_grads(change):
    def backward(good, self, dy, cache, need_dx=True, need_grads=True):
        dx, grads = good(dy, cache, need_dx, need_grads)
        return dx, change(grads) if need_grads else None

    return backward


def forgets_g(good, self, dy, cache, need_dx=True, need_grads=True):
    """Return a gradient that is right only while g is 1, as in a new layer."""
    _, grads = good(dy, cache, need_dx, need_grads)
    return dy * (1 - cache * cache) if need_dx else None, grads


def stores_cache(good, self, x, train=True, track=True):
    y, self.h = good(x)
    return y, None


def reads_cache(good, self, dy, cache, need_dx=True, need_grads=True):
    return good(dy, self.h, need_dx, need_grads)


def stores_on_class(good, self, x, train=True, track=True):
    y, h = good(x)
    type(self).h = h
    return y, h


def counts(good, self, x, train=True, track=True):
    self.calls = [*getattr(self, "calls", []), len(x)]
    return good(x)


def learns_in_forward(good, self, x, train=True, track=True):
    result = good(x)
    self.params["b"] += self.backend.asarray(np.full(5, 1e-3), dtype=x.dtype)
    return result


def wide_forward(good, self, x, train=True, track=True):
    y, h = good(x)
    return y * np.float64(1), h


def writes_x(good, self, x, train=True, track=True):
    result = good(x)
    x[...] = 0
    return result


def writes_dy(good, self, dy, cache, need_dx=True, need_grads=True):
    result = good(dy, cache, need_dx, need_grads)
    dy[...] = 0
    return result


def writes_dty(good, self, dy, dty, cache, tangent_cache, need_dx=True):
    result = good(dy, dty, cache, tangent_cache, need_dx)
    dty[...] = 0
    return result


def always_dx(good, self, dy, cache, need_dx=True, need_grads=True):
    return good(dy, cache, True, need_grads)


def always_grads(good, self, dy, cache, need_dx=True, need_grads=True):
    return good(dy, cache, need_dx, True)


def grads_when_frozen(good, self, dy, cache, need_dx=True, need_grads=True):
    return good(dy if need_grads else 2 * dy, cache, need_dx, need_grads)


def uses_labels(good, self, x, train=True, track=True, labels=None):
    y, h = good(x)
    return (y if labels is None else y + labels[: len(x), None].astype(x.dtype)), h


def no_curvature(good, self, dy, dty, cache, tangent_cache, need_dx=True):
    dx, dtx, grads = good(dy, dty, cache, tangent_cache, need_dx)
    if need_dx:
        dx = self.backend.xp.zeros_like(dtx) if dy is None else self.backward(dy, cache)[0]
    return dx, dtx, grads


def needs_dy(good, self, dy, dty, cache, tangent_cache, need_dx=True):
    return good(dy + 0 * dty, dty, cache, tangent_cache, need_dx)


def ignores_dy(good, self, dy, dty, cache, tangent_cache, need_dx=True):
    return good(None, dty, cache, tangent_cache, need_dx)


def always_tangent_dx(good, self, dy, dty, cache, tangent_cache, need_dx=True):
    return good(dy, dty, cache, tangent_cache)


def tangent_grads_when_not_needed(good, self, dy, dty, cache, tangent_cache, need_dx=True):
    return good(dy, dty if need_dx else 2 * dty, cache, tangent_cache, need_dx)


def wrong_tangent_grads(good, self, dy, dty, cache, tangent_cache, need_dx=True):
    dx, dtx, grads = good(dy, dty, cache, tangent_cache, need_dx)
    return dx, dtx, {name: grads[name] for name in ("b", "g")}


def wide_tangent(good, self, tx, cache):
    ty, tangent_cache = good(tx, cache)
    return ty * np.float64(1), tangent_cache


def raises(good, self, *args, **options):
    raise ValueError("no   rule\nfor this")


class Statistic(Good):
    """Good with a running mean, which is also updated when `wrong` says so."""

    def __init__(self, wrong: str):
        super().__init__()
        self.buffers["mean"] = np.zeros(5, np.float32)
        self.wrong = wrong

    def forward(self, x, train=True, track=True):
        if (train and track) or (self.wrong == "eval" and not train) or (self.wrong == "untracked" and train):
            self.buffers["mean"] += x.mean(0)
        return super().forward(x)

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        if self.wrong == "backward":
            self.buffers["mean"] += dy.mean(0)
        return super().backward(dy, cache, need_dx, need_grads)


class Sum(Layer):
    """y (1, n) is the sum of the rows of x (N, n)."""

    def forward(self, x, train=True, track=True):
        return x.sum(0, keepdims=True), x.shape

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        return self.backend.xp.ones(cache, dy.dtype) * dy if need_dx else None, {} if need_grads else None


class HalfLinearised(Good):
    tangent = Layer.tangent


class OtherHalf(Good):
    tangent_backward = Layer.tangent_backward


class ForgetsMean(Layer):
    """y = g (x - mean) with the running mean. The gradient of g is right while the mean is 0, as in a new layer."""

    def __init__(self):
        super().__init__({"g": np.ones(5, np.float32)}, {"mean": np.zeros(5, np.float32)})

    def forward(self, x, train=True, track=True):
        y = self.params["g"] * (x - self.buffers["mean"])
        if train and track:
            self.buffers["mean"] += (x.mean(0) - self.buffers["mean"]) / 10
        return y, x

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        return dy * self.params["g"] if need_dx else None, {"g": (dy * cache).sum(0)} if need_grads else None


class Labelled(Good):
    takes_labels = True

    def forward(self, x, train=True, track=True, labels=None):
        return uses_labels(super().forward, self, x, labels=labels)


class Strict(Labelled):
    def forward(self, x, train=True, track=True, labels=None):
        if labels is not None and len(labels) != len(x):
            raise ValueError("one label for each row")
        return super().forward(x, labels=labels)


def failed(layer, options=None, backend=None, shape=(4, 5)) -> dict[str, str]:
    """Run all checks, and return those that fail with their details."""
    results = list(layer_contract.check_example(layer, shape, options or {}, backend or backends.reference()))
    return {result.check: result.details for result in results if not result.passed}


@pytest.mark.parametrize("name", ["numpy", "numba", "emulation"])
def test_a_good_layer_passes(name, request):
    backend = request.getfixturevalue("emulation") if name == "emulation" else backends.load(name)
    results = list(layer_contract.check_example(Good(), (4, 5), {}, backend))
    assert [result.check for result in results] == list(layer_contract.CHECKS)
    assert all(result.passed and result.backend == backend.name for result in results), results
    assert not failed(Strict(), {"labels": [0, 2, 1, 1]}, backend)
    assert not failed(Strict(), {}, backend)
    assert not failed(Statistic("right"), {"train": False}, backend)


@pytest.mark.parametrize(
    ("layer", "checks", "says"),
    [
        (broken(backward=twice_dx), {"gradients"}, "by the layer"),
        (broken(backward=forgets_g), {"gradients"}, "x at ["),
        (broken(backward=changed_grads(lambda g: g | {"b": g["b"] / 4})), {"gradients"}, "b at ["),
        (
            broken(backward=changed_grads(lambda g: g | {"b": np.nan * g["b"]})),
            {"gradients", "two passes"},
            "b at [0]: nan by the layer",
        ),
        (
            broken(backward=changed_grads(lambda g: {"g": g["g"]})),
            {"shapes", "gradients", "order of keys"},
            "b: no gradient for (5,)",
        ),
        (
            broken(backward=changed_grads(lambda g: {k: v[None] for k, v in g.items()})),
            {"shapes", "gradients"},
            "g: a gradient of shape (1, 5) for (5,) (and 1 more)",
        ),
        (
            broken(backward=changed_grads(lambda g: {k: g[k] for k in ("b", "g")})),
            {"order of keys"},
            "has the keys ['b', 'g']: expected ['g', 'b']",
        ),
        (
            broken(backward=changed_grads(lambda g: {k: v.astype(np.float64) for k, v in g.items()})),
            {"dtype"},
            "g: float32 in, float64 out",
        ),
        (broken(forward=wide_forward), {"dtype"}, "y: float32 in, float64 out"),
        (ForgetsMean(), {"gradients"}, "g at ["),
        (Sum(), {"shapes"}, "y: shape (1, 5) from x (4, 5): expected 4 samples"),
        (broken(forward=stores_on_class, backward=reads_cache), {"two passes"}, "first pass at"),
        (broken(forward=counts), {"nothing stored"}, "self.calls: is new after a pass"),
        (broken(forward=writes_x), {"inputs untouched"}, "x: forward wrote to it"),
        (broken(backward=writes_dy), {"inputs untouched"}, "dy: backward wrote to it"),
        (broken(backward=always_dx), {"not needed"}, "dx: not None with need_dx=False, need_grads=True"),
        (broken(backward=always_grads), {"not needed"}, "grads: not None with need_dx=True, need_grads=False"),
        (
            broken(backward=grads_when_frozen),
            {"not needed"},
            "x: has other values with need_dx=True, need_grads=False",
        ),
        (broken(forward=uses_labels), {"labels"}, "forward uses them: set takes_labels = True"),
        (Statistic("eval"), {"buffers"}, "mean: forward with train=False changes it"),
        (Statistic("untracked"), {"buffers"}, "mean: forward with train=True, track=False changes it"),
        (Statistic("backward"), {"buffers"}, "mean: backward changes it"),
        (broken(tangent_backward=no_curvature), {"second derivatives"}, "x at ["),
        (broken(tangent_backward=needs_dy), {"second derivatives"}, "TypeError: unsupported operand"),
        (broken(tangent_backward=ignores_dy), {"second derivatives"}, "x at ["),
        (
            broken(tangent_backward=always_tangent_dx),
            {"second derivatives"},
            "tangent_backward with need_dx=False: dx or dtx is not None",
        ),
        (
            broken(tangent_backward=tangent_grads_when_not_needed),
            {"second derivatives"},
            "g: tangent_backward has other values with need_dx=False",
        ),
        (broken(tangent_backward=wrong_tangent_grads), {"second derivatives"}, "tangent_backward has the keys"),
        (broken(tangent_backward=writes_dty), {"second derivatives"}, "dty: tangent_backward wrote to it"),
        (
            broken(tangent=lambda good, self, tx, cache: (2 * good(tx, cache)[0], tx)),
            {"second derivatives"},
            "ty at [0]:",
        ),
        (broken(tangent=wide_tangent), {"second derivatives"}, "ty: float32 in, float64 out"),
        (HalfLinearised(), {"second derivatives"}, "tangent_backward is defined and tangent is not"),
        (OtherHalf(), {"second derivatives"}, "has no rule for second derivatives"),
        (broken(backward=raises), {"forward, backward"}, "ValueError: no rule for this"),
        (broken(forward=lambda good, self, x, *a: good(x)[0]), {"forward, backward"}, "expected the pair (y, cache)"),
        (
            broken(backward=lambda good, self, dy, h, *a: (good(dy, h)[0], [1])),
            {"forward, backward"},
            "backward returns (ndarray, list): expected the pair (dx, grads)",
        ),
        (
            broken(forward=lambda good, self, x, *a: (good(x)[0].tolist(), good(x)[1])),
            {"forward, backward"},
            "y is a list: expected an array of the backend numpy",
        ),
        (
            broken(backward=changed_grads(lambda g: g | {"g": 1.0})),
            {"forward, backward"},
            "g is a float: expected an array",
        ),
    ],
)
def test_a_mistake_fails_the_check_of_its_part(layer, checks, says):
    found = failed(layer)
    assert found.keys() == checks, found
    assert any(says in details for details in found.values()), found


def test_a_cache_on_the_layer_fails_two_checks():
    """It changes an attribute, and it gives wrong gradients for two passes."""
    found = failed(broken(forward=stores_cache, backward=reads_cache))
    assert found.keys() >= {"nothing stored", "two passes"}
    assert "self.h: is new after a pass: return it in the cache" in found["nothing stored"]


def test_a_parameter_that_changes_is_found():
    assert "self.params['b']: has changed" in failed(broken(forward=learns_in_forward))["nothing stored"]


def test_the_state_of_a_random_generator_is_found():
    class Noisy(Good):
        def __init__(self):
            super().__init__()
            self.rng = np.random.default_rng(0)

        def forward(self, x, train=True, track=True):
            y, h = super().forward(x)
            return y + 0 * self.rng.standard_normal(), h

    assert "self.rng: has changed" in failed(Noisy())["nothing stored"]


def test_labels_need_a_layer_that_declares_them():
    assert "5 labels for 4 samples are accepted" in failed(Labelled(), {"labels": [0, 1, 2, 2]})["labels"]
    found = failed(Good(), {"labels": [0, 1, 2, 2]})
    assert found.keys() == {"labels"} and "the example has labels: set takes_labels = True" in found["labels"]
    ignores = broken(forward=lambda good, self, x, train=True, track=True, labels=None: good(x))
    assert not failed(ignores)


def test_a_backend_with_another_result_is_found():
    class Skewed(Good):
        def forward(self, x, train=True, track=True):
            factor = 2 if self.backend.name == "numba" else 1
            y, h = super().forward(x)
            return factor * y, (h, factor)

        def backward(self, dy, cache, need_dx=True, need_grads=True):
            return super().backward(dy * cache[1], cache[0], need_dx, need_grads)

        tangent, tangent_backward = Layer.tangent, Layer.tangent_backward

    assert not failed(Skewed())
    assert failed(Skewed(), backend=backends.load("numba")).keys() == {"backends agree"}


def test_minigans_layers_pass_the_contract():
    rng = np.random.default_rng(0)
    for what, layer, shape, how in layer_cases(backends.reference(), rng, np.float32):
        joins = isinstance(layer, Pack)  # the only layer that joins samples
        assert failed(layer, how, shape=shape).keys() == ({"shapes"} if joins else set()), what


# ---------------------------------------------------------------- files

GOOD = """
import numpy as np
from minigan.layers import Layer

class Scale(Layer):
    def __init__(self, n, factor=1):
        super().__init__({"g": np.ones(n, np.float32)})
        self.factor = factor
    def forward(self, x, train=True, track=True):
        return x * self.params["g"], x
    def backward(self, dy, cache, need_dx=True, need_grads=True):
        dx = self.factor * dy * self.params["g"] if need_dx else None
        return dx, {"g": (dy * cache).sum(0)} if need_grads else None
    def __repr__(self):
        return f"Scale(by {self.factor})"

"""
EXAMPLES = "def examples(rng):\n    print('noise on standard output')\n    "


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Return a function that writes a file of layers. Changes by importing the file are undone."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setitem(sys.modules, "__own_layers__", None)

    def write(text: str, name: str = "own.py"):
        file = tmp_path / name
        file.write_text(text, encoding="utf-8")
        return file

    return write


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a b", "own.py cannot be imported, SyntaxError: invalid syntax (line 1): correct the file"),
        ("\0", "cannot contain null bytes: correct the file"),
        ("x = 1\n1 / 0", "own.py cannot be imported, ZeroDivisionError: division by zero (line 2): correct the file"),
        ("raise SystemExit(3)", "own.py cannot be imported, SystemExit: 3 (line 1)"),
        (GOOD, "own.py defines no function examples: expected that examples(rng) yields (layer, shape of x, options)"),
        ("examples = 3", "own.py defines no function examples"),
        ("def examples(rng): return []", "own.py: examples(rng) yields nothing"),
        ("def examples(rng): pass", "own.py: examples(rng) ended in TypeError: 'NoneType' object is not iterable"),
        ("def examples(): pass", "own.py: examples(rng) ended in TypeError: examples() takes 0 positional arguments"),
        (GOOD + EXAMPLES + "yield Scale()", "TypeError: Scale.__init__() missing 1 required positional argument: 'n'"),
        (GOOD + EXAMPLES + "yield Scale(5)", "own.py, example 1: got Scale: expected that"),
        (GOOD + EXAMPLES + "yield 1, 2", "own.py, example 1: got (int, int): expected that"),
        (GOOD + EXAMPLES + "yield Scale, (4, 5), {}", "type is not a subclass of minigan.layers.Layer"),
        (GOOD + EXAMPLES + "yield Scale(5), 5, {}", "the shape of x is 5, not a tuple of positive whole numbers"),
        (GOOD + EXAMPLES + "yield Scale(5), (0, 5), {}", "the shape of x is (0, 5), not a tuple"),
        (GOOD + EXAMPLES + "yield Scale(5), (4.5, 5), {}", "the shape of x is (4.5, 5), not a tuple"),
        (GOOD + EXAMPLES + "yield Scale(5), (4, 5), {'slope': 1}", "the options are {'slope': 1}, not a dict of"),
        (GOOD + EXAMPLES + "yield Scale(5), (4, 5), None", "the options are None, not a dict of"),
    ],
)
def test_a_file_without_examples_gets_one_sentence(text, says, write):
    with pytest.raises(UserError) as error:
        list(own_layers._examples(str(write(text))))
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_file_may_import_files_of_its_folder(write):
    write("WIDTH = 7", "neighbour_of_own.py")
    file = write(
        GOOD + "from neighbour_of_own import WIDTH\n" + EXAMPLES + "yield Scale(WIDTH), [np.int64(4), WIDTH], {}"
    )
    ((layer, shape, options),) = own_layers._examples(str(file))
    assert shape == (4, 7) and options == {} and layer.params["g"].shape == (7,)
    sys.modules.pop("neighbour_of_own")


def minigan(*arguments, **options):
    """Run the command in a new process."""
    command = [sys.executable, "-m", "minigan", "gradcheck", *map(str, arguments), "--backend", "numpy"]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, **options)


def test_the_command_prints_a_table_for_each_example(write):
    good = write(GOOD + EXAMPLES + "yield Scale(5), (4, 5), {}\n    yield Scale(3), (2, 3), {'train': False}")
    wrong = write(GOOD + EXAMPLES + "yield Scale(5, factor=2), (4, 5), {}", "wrong.py")
    done = minigan(good)
    assert done.returncode == 0 and done.stderr == "noise on standard output\n"
    lines = done.stdout.splitlines()
    assert lines[0] == f"{good}, example 1: Scale(by 1), x (4, 5), on numpy"
    assert lines[1].split() == ["check", "passed", "details"]
    assert [line[:20].strip() for line in lines[2:14]] == list(layer_contract.CHECKS)
    assert f"{good}, example 2: Scale(by 1), x (2, 3), train=False, on numpy" in lines
    assert lines[-1] == f"{good}: 24 checks of 2 examples, all passed"

    done = minigan(wrong, good)
    assert done.returncode == 1
    (failure,) = [line for line in done.stdout.splitlines() if line[20:22] == "no"]
    assert failure.startswith("gradients           no      x at [")
    assert f"{wrong}: 12 checks of 1 examples, 1 failed" in done.stdout
    assert done.stdout.endswith("all passed\n")

    missing = good.parent / "missing.py"
    done = minigan(missing, wrong, "--json")
    assert done.returncode == 2
    assert done.stderr.startswith(f"minigan: {missing}: there is no such file")
    nothing, report = json.loads(done.stdout)
    assert nothing["file"] == str(missing) and "no such file" in nothing["error"] and nothing["examples"] == []
    (example,) = report["examples"]
    assert report["error"] is None and example["layer"] == "Scale(by 2)" and example["shape"] == [4, 5]
    assert {r["check"] for r in example["results"] if not r["passed"]} == {"gradients"}
    assert example["results"][0] == {"check": "shapes", "backend": "numpy", "passed": True, "details": ""}


def test_an_exception_in_the_layer_is_a_failed_check_with_its_line(write):
    text = GOOD.replace("return x * self", "return np.linalg.inv(x) * self")  # numpy raises an exception here
    file = write(text + EXAMPLES + "yield Scale(5), (4, 5), {}")
    line = 1 + text[: text.index("np.linalg")].count("\n")
    (example,) = own_layers.check_file(file, ["numpy"])
    (result,) = example.results
    assert (result.check, result.passed) == ("forward, backward", False)
    assert result.details.startswith("LinAlgError: Last 2 dimensions") and result.details.endswith(f" (line {line})")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("while True: pass", ", before its first example: the checks did not end within 2 s: look for an endless loop"),
        (
            GOOD.replace("return x * self", "\n        while x.dtype == np.float32: pass\n        return x * self")
            + EXAMPLES
            + "yield Scale(5), (4, 5), {}",
            ", example 1 (Scale(by 1)) after the check 'shapes': the checks did not end within 2 s",
        ),
        (
            GOOD + EXAMPLES + "\n    while True: yield Scale(5), (4, 5), {}",
            ": the checks did not end within 2 s",
        ),
        (
            "import os\n" + GOOD + EXAMPLES + "yield Scale(5), (4, 5), {}\n    os._exit(7)",
            ", example 1 (Scale(by 1)) after the check 'backends agree': the process ended with exit code 7",
        ),
    ],
)
def test_checks_that_do_not_end_are_stopped(text, says, write, monkeypatch, capsys):
    monkeypatch.setattr(own_layers, "LIMIT", 2.0)
    pids = write("", "pids")
    file = write(f"import os\nopen({str(pids)!r}, 'w').write(str(os.getpid()))\n{text}")
    start = time.monotonic()
    assert cli.main(["gradcheck", str(file), "--backend", "numpy"]) == 2
    assert time.monotonic() - start < 30
    out, err = capsys.readouterr()
    assert says in err and err.count("\n") == 1 and out == ""
    with pytest.raises(ProcessLookupError):
        os.kill(int(pids.read_text()), 0)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["no.py"], "no.py: there is no such file: give a Python file"),
        (["."], ".: there is no such file"),
        (["no.py", "--planted"], "leave --planted and --all out"),
        (["no.py", "--all"], "leave --planted and --all out"),
        ([__file__, "--backend", "abacus"], "unknown backend 'abacus'"),
        ([os.devnull], "there is no such file"),
    ],
)
def test_the_command_refuses_what_it_cannot_do(arguments, says, capsys):
    assert cli.main(["gradcheck", *arguments]) == 2
    assert says in capsys.readouterr().err
