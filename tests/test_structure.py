"""Test the structure of minigan/: imports, names of backends, sums over the batch, and the length of files."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import minigan

PACKAGE = Path(minigan.__file__).parent

# A module or package of minigan/ imports only those on lines below its own. Add new files and folders here.
LINES = [
    {"__main__"},
    {"cli", "web"},
    {"parser"},
    {"lab", "doctor"},
    {"gan"},
    {"runs"},
    {"report", "metrics", "training"},
    {"export", "models", "datasets", "checking"},
    {"game"},
    {"losses", "penalties", "optim", "layers"},
    {"backends"},
    {"errors", "files", "options", "terminal"},
    {"__init__"},  # the version
]
LINE = {part: number for number, parts in enumerate(LINES) for part in parts}
# Exceptions to the rule, as (importing, imported) pairs, and their reasons.
EXCEPTIONS = {
    ("checking", "models"): "whole steps of every preset are checked",
    ("checking", "datasets"): "each kind of data has its own shape of samples",
    ("export", "datasets"): "the columns of a table are exported with what decodes them",
    ("layers", "losses"): "layers and losses check labels with the same function",
    ("optim", "layers"): "an optimizer updates the parameters of a layer",
    ("penalties", "layers"): "a penalty differentiates layers and adds their gradients",
    ("options", "errors"): "an invalid value raises UserError",
    ("files", "errors"): "a folder in use raises UserError",
    ("terminal", "errors"): "output that cannot be written raises UserError",
    ("cli", "web"): "a command starts the server",
    ("__init__", "gan"): "the public API, which loads on first use",
    ("__init__", "errors"): "the public API",
}


def modules() -> Iterator[tuple[str, Path]]:
    """Yield (dotted name below minigan, path) of every module."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts), path


OUTSIDE = [path for name, path in modules() if name.split(".")[0] != "backends"]


def imported(tree: ast.AST) -> set[str]:
    """Return the parts of minigan that the tree imports, also inside functions."""
    parts = set()
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: {ast.unparse(node)}: use an absolute import"
            whole = node.module == "minigan"
            names = [f"minigan.{alias.name}" for alias in node.names] if whole else [node.module]
        for name in names:
            package, _, rest = name.partition(".")
            if package == "minigan" and rest:
                part = rest.split(".")[0]
                parts.add(part if part in LINE else "__init__" if part.startswith("__") else part)
    return parts


def violations(name: str, source: str) -> list[str]:
    """Return the imports of the module that violate the rule."""
    own = name.split(".")[0]
    wrong = []
    for part in imported(ast.parse(source)) - {own}:
        assert part in LINE, f"minigan.{part}, imported by {name}, has no place in LINES"
        if LINE[part] <= LINE[own] and (own, part) not in EXCEPTIONS:
            wrong.append(f"{name} imports {part}")
    return wrong


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=lambda value: value if isinstance(value, str) else "")
def test_a_module_imports_only_from_lines_below_its_own(name, path):
    assert name.split(".")[0] in LINE, f"{name} has no place in LINES"
    assert violations(name, path.read_text(encoding="utf-8")) == []


def test_every_exception_is_used():
    used = set()
    for name, path in modules():
        own = name.split(".")[0]
        used |= {(own, part) for part in imported(ast.parse(path.read_text(encoding="utf-8"))) if part != own}
    assert [pair for pair in EXCEPTIONS if pair not in used] == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("layers.dense", "def f():\n    from minigan import game"),
        ("metrics.scores", "import minigan.training.config"),
        ("report.plots", "from minigan.runs import sampler"),
        ("losses", "from minigan.optim import SGD"),
    ],
)
def test_an_import_against_the_rule_is_found(name, source):
    assert len(violations(name, source)) == 1


def test_a_relative_import_is_rejected():
    with pytest.raises(AssertionError, match="use an absolute import"):
        violations("layers.dense", "def f():\n    from .. import game")


# ---------------------------------------------------------------- the mathematics does not depend on the backend

CORE = [path for name, path in modules() if name.split(".")[0] in ("layers", "losses", "penalties", "optim", "game")]
MACHINE = re.compile(
    r"numba|cupy|cuda|gpu|thread|numpy_?backend|kernels?_on_disk|cache_(dir|folder)|blas|\bload\b", re.I
)


def words(source: str) -> list[str]:
    """Return the identifiers and strings of a module's code, without docstrings and comments."""
    tree = ast.parse(source)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and isinstance(node.body[0], ast.Expr)
        and isinstance(node.body[0].value, ast.Constant)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            found.append(node.id)
        elif isinstance(node, ast.Attribute):
            found.append(node.attr)
        elif isinstance(node, ast.arg | ast.keyword):
            found.append(node.arg or "")  # **rest has no name
        elif isinstance(node, ast.alias | ast.ClassDef | ast.FunctionDef):
            found.append(node.name)
        elif isinstance(node, ast.ImportFrom):
            found.append(node.module or "")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            found.append(node.value)
    return found


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.name)
def test_the_mathematics_names_no_backend_and_no_threads(path):
    """The only exception is `Layer.to`, which loads a backend by name."""
    found = [word for word in words(path.read_text(encoding="utf-8")) if MACHINE.search(word)]
    assert found == (["load"] if path.name == "base.py" else [])


@pytest.mark.parametrize(
    "code",
    [
        "x = backend.name == 'cupy'",
        "def f(threads): pass",
        "from minigan.backends import numba",
        "from minigan.backends.numba import parallel",
        "a.numpy_backend",
        "isinstance(b, NumpyBackend)",
        "start(num_threads=2)",
        "def on_gpu(): pass",
        "os.environ['NUMBA_CACHE_DIR']",
    ],
)
def test_a_named_backend_is_found(code):
    assert any(MACHINE.search(word) for word in words(code))


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda p: p.name)
def test_no_code_compares_the_name_of_a_backend(path):
    """Code must test properties of a backend instead: `takes_complex`, `compiles`, `settings`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Compare):
            text = ast.unparse(node)
            assert not re.search(r"backend\.name|\bNAME\b", text), f"{path.name}, line {node.lineno}: {text}"


# ---------------------------------------------------------------- statistics of the batch

# Sums and means in the mathematics that need not go through batch_sum, each with the reason.
LOCAL = {
    ("conditional.py", "(x * (onehot @ self.params['e'])).sum(axis=1, keepdims=True)"): "of each sample",
    ("conditional.py", "dy.sum(axis=0)"): "a weight gradient",
    (
        "conditional.py",
        "same_label.sum(axis=1, keepdims=True)",
    ): "the samples are gathered, see the comment there",
    ("conditional.py", "t.reshape(len(t), -1, self.channels).mean(axis=1)"): "of each sample",
    ("layer_norm.py", "t.mean(axis=tuple(range(1, t.ndim)), keepdims=True)"): "of each sample",
    ("norm.py", "(dW * W).sum()"): "over weights",
    (
        "weight_norm.py",
        "t.sum(axis=tuple((axis for axis in range(t.ndim) if axis != self.outputs)), keepdims=True)",
    ): "over weights",
    ("shape.py", "dy.reshape(N, H, self.factor, W, self.factor, C).sum(axis=(2, 4))"): "of each sample",
    ("series.py", "rest.sum(axis=1)"): "of each sample",
    ("losses.py", "xp.exp(shifted).sum(axis=1, keepdims=True)"): "of each sample",
    ("losses.py", "(log_p * one_hot).sum()"): "goes through batch_sum",
    ("losses.py", "(difference * difference).sum()"): "of a mean over the batch",
    ("penalties.py", "(g * g).sum(axis=1)"): "of each sample",
    ("numpy_backend.py", "dy.sum(axis=tuple(range(dy.ndim - 1)))"): "sum_rows: weight gradients",
    ("recurrence.py", "(dh * (1 - z) * (n - h)).sum(axis=1)"): "of each sample",
    ("recurrence.py", "(dh * (o * tanh_c - h) + dc * (next_c - c)).sum(axis=1)"): "of each sample",
    ("contract.py", "x.sum(axis=axis)"): "goes through batch_sum",
}


def sums(source: str) -> list[str]:
    """Return the source text of every call of a sum, mean, variance, standard deviation or einsum."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    names = {"sum", "mean", "var", "std", "average", "einsum"}
    return [
        ast.unparse(call)
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and call.func.attr in names
        and not ast.unparse(call.func.value).endswith("backend")
    ]


BACKEND = [PACKAGE / "backends" / name for name in ("numpy_backend.py", "recurrence.py", "contract.py")]


@pytest.mark.parametrize("path", [*CORE, *BACKEND], ids=lambda path: path.name)
def test_every_statistic_of_the_batch_goes_through_batch_sum(path):
    """Ranks that share a batch add their sums in `batch_sum`. A direct sum or mean needs an entry in LOCAL."""
    found = {(path.name, text) for text in sums(path.read_text(encoding="utf-8"))}
    assert found <= LOCAL.keys(), found - LOCAL.keys()


def test_every_entry_of_local_is_used():
    found = {(path.name, text) for path in [*CORE, *BACKEND] for text in sums(path.read_text(encoding="utf-8"))}
    assert found == LOCAL.keys()


def test_a_direct_mean_is_found():
    assert sums("loss = softplus(-real).mean() + backend.batch_mean(x)") == ["softplus(-real).mean()"]
    assert sums("y = xp.mean(x, axis=0)") == ["xp.mean(x, axis=0)"]


# ---------------------------------------------------------------- the length of files


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda p: p.name)
def test_a_file_has_at_most_500_lines(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500
