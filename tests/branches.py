"""Record which outcomes the conditions of a module had while checks ran.

    with branches.recorded([losses]) as record:
        record.run("losses", lambda: checks.loss_values(backend))
    record.missing()

A condition is a comparison, the test of an `if`, a `while`, a conditional expression or
a comprehension, an operand of `and`, `or` and `not`, or the comparison inside a call of
`where`, `min`, `max`, `minimum`, `maximum`, `clip` and `abs`. The functions of the
module are compiled again, with every condition passed through the recorder. Their
original code is restored afterwards, so the module does not have to be imported again.

Code that only checks arguments or writes text does not affect results and is skipped: a
branch that ends in `raise` and its test, an `assert`, a function whose name starts with
`expect`, a function that is annotated to return `str`, and a function without a body.
"""

import ast
import contextlib
import gc
import inspect
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

# The conditions inside a call: name of the function -> conditions on its arguments.
DECISIONS = {
    "where": {"condition": lambda condition, *_: condition},
    "min": {"first is less": lambda a, b: a < b},
    "max": {"first is greater": lambda a, b: a > b},
    "minimum": {"first is less": np.less},
    "maximum": {"first is greater": np.greater},
    "clip": {"below": lambda x, low, high: x < low, "above": lambda x, low, high: x > high},
    "abs": {"positive": lambda x: x > 0},
}
BOTH = frozenset({True, False})


@dataclass(frozen=True)
class Condition:
    """A condition in the source, and the outcomes that are required."""

    module: str
    function: str  # including its class: Unpaired.discriminator
    line: int
    text: str
    required: frozenset = BOTH


class Record:
    """The recorded outcomes of each condition, for each check and chain of callers."""

    def __init__(self, files: set[str]):
        """`files` are the source files whose functions are listed as callers."""
        self.files = files
        self.conditions: list[Condition] = []
        self.check = ""
        self.seen: dict[tuple, set] = {}  # (check, index of the condition, callers)

    def run(self, name: str, check: Callable[[], Iterable]) -> list:
        """Return the rows of a check, and record outcomes under its name."""
        self.check = name
        return list(check())

    def missing(self, without: str = "") -> dict[Condition, str]:
        """Return the conditions with missing outcomes, and which outcomes they had.

        Every condition must have both outcomes in all checks together. A comparison of
        arrays must have both outcomes in each check but `without`, and for each chain of callers.
        """
        result = {}
        for index, condition in enumerate(self.conditions):
            seen = set().union(*(outcomes for key, outcomes in self.seen.items() if key[1] == index))
            if not seen >= condition.required:
                where = "in all checks" if seen else ""
                result[condition] = f"{_only(seen)} {where}".strip()
        for (check, index, callers), outcomes in self.seen.items():
            if check != without and callers and not outcomes >= BOTH:
                where = f"in the check {check!r}, called through {' > '.join(callers)}"
                result.setdefault(self.conditions[index], f"{_only(outcomes)} {where}")
        return result

    def note(self, index: int, value):
        """Record the outcomes of a condition, and return its value."""
        if isinstance(value, np.ndarray) and value.ndim:
            outcomes, callers = set(np.unique(value != 0).tolist()), self._callers()
        else:
            outcomes, callers = {bool(value)}, ()
        self.seen.setdefault((self.check, index, callers), set()).update(outcomes)
        return value

    def call(self, index: int, name: str, function: Callable, *args, **options):
        """Record the conditions inside a call, and return the value of the call."""
        for offset, decide in enumerate(DECISIONS[name].values()):
            self.note(index + offset, decide(*args))
        return function(*args, **options)

    def _callers(self) -> tuple[str, ...]:
        callers, frame = [], sys._getframe(1)
        while frame is not None:
            if frame.f_code.co_filename in self.files:
                callers.append(f"{frame.f_code.co_qualname}:{frame.f_lineno}")
            frame = frame.f_back
        return tuple(reversed(callers))


def _only(outcomes: set) -> str:
    return f"only {next(iter(outcomes))}" if outcomes else "never reached"


@contextlib.contextmanager
def recorded(modules: list[types.ModuleType]) -> Iterator[Record]:
    """Record the outcomes of all conditions in these modules while the `with` block runs."""
    record, originals = Record({module.__file__ for module in modules}), []
    functions = [f for f in gc.get_objects() if type(f) is types.FunctionType]  # isinstance runs code of some objects
    for module in modules:
        tree = _Recording(module.__name__, record).visit(ast.parse(inspect.getsource(module)))
        code = compile(ast.fix_missing_locations(tree), module.__file__, "exec", dont_inherit=True)
        codes = {_key(inner): inner for inner in _inner_codes(code)}
        for function in functions:
            if function.__globals__ is vars(module) and _key(function.__code__) in codes:
                originals.append((function, function.__code__))
                function.__code__ = codes[_key(function.__code__)]
        module._record = record
    try:
        yield record
    finally:
        for function, code in originals:
            function.__code__ = code
        for module in modules:
            del module._record


def _key(code: types.CodeType) -> tuple:
    return code.co_qualname, code.co_firstlineno


def _inner_codes(code: types.CodeType) -> Iterator[types.CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield constant
            yield from _inner_codes(constant)


class _Recording(ast.NodeTransformer):
    """Pass each condition of a module's functions through `_record`."""

    def __init__(self, module: str, record: Record):
        self.scopes, self.conditions = [module], record.conditions

    def visit_Assert(self, node):
        """Skip assertions."""
        return node

    def visit_FunctionDef(self, node):
        """Record that the function is called, unless it is skipped."""
        if _is_stub(node):
            return node
        writes_text = isinstance(node.returns, ast.Name) and node.returns.id == "str"
        if writes_text or node.name.lstrip("_").startswith("expect"):
            return node
        self.scopes.append(node.name)
        index = self._new(node, "is called", frozenset({True}))
        node.body = [ast.Expr(_recorder("note", index, ast.Constant(True))), *self._all(node.body)]
        self.scopes.pop()
        return node

    def visit_ClassDef(self, node):
        """Visit the methods."""
        self.scopes.append(node.name)
        node.body = self._all(node.body)
        self.scopes.pop()
        return node

    def visit_Raise(self, node):
        """Skip errors."""
        return node

    def visit_If(self, node):
        """Record the test, unless a branch raises."""
        raises = [bool(branch) and isinstance(branch[-1], ast.Raise) for branch in (node.body, node.orelse)]
        if not any(raises):
            node.test = self._condition(node.test)
        if not raises[0]:
            node.body = self._all(node.body)
        if not raises[1]:
            node.orelse = self._all(node.orelse)
        return node

    def visit_While(self, node):
        """Record the test."""
        node.test, node.body = self._condition(node.test), self._all(node.body)
        return node

    def visit_IfExp(self, node):
        """Record the test."""
        node.test = self._condition(node.test)
        node.body, node.orelse = self.visit(node.body), self.visit(node.orelse)
        return node

    def visit_comprehension(self, node):
        """Record the conditions."""
        node.iter, node.ifs = self.visit(node.iter), [self._condition(test) for test in node.ifs]
        return node

    def visit_BoolOp(self, node):
        """Record all operands but the last, which is a value: `params or {}` only tests params."""
        *operands, last = node.values
        node.values = [*map(self._condition, operands), self.visit(last)]
        return node

    def visit_UnaryOp(self, node):
        """Record the operand of `not`."""
        node.operand = self._condition(node.operand) if isinstance(node.op, ast.Not) else self.visit(node.operand)
        return node

    def visit_Compare(self, node):
        """Record the comparison."""
        index = self._new(node, ast.unparse(node))
        return _recorder("note", index, self.generic_visit(node))

    def visit_Call(self, node):
        """Record the conditions inside a call of the functions in DECISIONS."""
        name = getattr(node.func, "attr", getattr(node.func, "id", None))
        text = ast.unparse(node)
        self.generic_visit(node)
        reduction = name in ("min", "max") and (len(node.args) < 2 or isinstance(node.func, ast.Attribute))
        if name not in DECISIONS or reduction:
            return node
        index, *_ = [self._new(node, f"{text}, {condition}") for condition in DECISIONS[name]]
        call = _recorder("call", index, ast.Constant(name), node.func, *node.args)
        call.keywords = node.keywords
        return call

    def _condition(self, test):
        """Split a test into its smallest parts, and record each of them once."""
        if isinstance(test, ast.BoolOp):
            test.values = [self._condition(value) for value in test.values]
            return test
        if isinstance(test, ast.Compare) or (isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)):
            return self.visit(test)
        index = self._new(test, ast.unparse(test))
        return _recorder("note", index, self.visit(test))

    def _all(self, statements: list) -> list:
        return [self.visit(statement) for statement in statements]

    def _new(self, node, text: str, required: frozenset = BOTH) -> int:
        module, *scopes = self.scopes
        self.conditions.append(Condition(module, ".".join(scopes), node.lineno, text, required))
        return len(self.conditions) - 1


def _is_stub(node: ast.FunctionDef) -> bool:
    """Return whether a function has no body other than `...`, a docstring, or `raise NotImplementedError`."""
    rest = [s for s in node.body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
    return all(isinstance(s, ast.Raise) for s in rest)


def _recorder(method: str, index: int, *args):
    """Return the call `_record.method(index, *args)` as a syntax tree."""
    function = ast.Attribute(ast.Name("_record", ast.Load()), method, ast.Load())
    return ast.Call(function, [ast.Constant(index), *args], [])
