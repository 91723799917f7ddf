"""A trained generator on its own, as steps that any format can be written from."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from minigan import __version__
from minigan.datasets import Codec
from minigan.errors import UserError
from minigan.export import columns, series
from minigan.export.layers import steps_of
from minigan.export.operations import Step
from minigan.layers import Sequential

FORMAT = 1  # number of the format of `Exported.facts`
CHECKED = 16  # samples with which a translation is compared with the generator
DECODING: dict[str, tuple[str, Callable[[Any], Any]]] = {  # by view: the name of the facts that decode samples
    "table": ("columns", columns.plain),
    "series": ("series", series.plain),
}
CLOSE = 1e-4  # how far the two may be apart, because sums are added in another order


class Exported(NamedTuple):
    """A generator in evaluation: noise (N, *noise_shape) -> samples (N, *sample_shape).

    `steps` are applied one after another. `shapes` are those of x before the first step and after every step, without
    the batch. `uniform` is the number n of random numbers in (0, 1) that a sample needs besides the noise, which the
    head of a table draws, or 0. `codec` decodes samples.
    """

    steps: list[Step]
    shapes: list[tuple[int, ...]]
    classes: int
    class_names: list[str]
    uniform: int
    codec: Codec
    source: dict[str, Any]  # where it comes from: the run, the preset and the options of its networks

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """The shape of one noise vector."""
        return self.shapes[0]

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return self.shapes[-1]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all arrays by name, in the order of the steps."""
        return _named(self.steps)

    def run(self, z: np.ndarray, labels: np.ndarray | None = None, uniform: np.ndarray | None = None) -> np.ndarray:
        """Compute the samples with the functions of the exported Python file."""
        return run(self.steps, z, labels, uniform)[-1]

    def layers(self) -> list[dict[str, Any]]:
        """Return the steps as facts that JSON can represent: operation, arrays by argument, settings and shape of y."""
        return [
            {
                "operation": each.operation.name,
                "arrays": each.names,
                "settings": each.settings,
                "shape": list(shape),
            }
            for each, shape in zip(self.steps, self.shapes[1:], strict=True)
        ]

    def facts(self) -> dict[str, Any]:
        """Return all but the arrays, as JSON can represent it."""
        return {
            "format": FORMAT,
            "minigan": __version__,
            **self.source,
            "noise_shape": list(self.noise_shape),
            "sample_shape": list(self.sample_shape),
            "classes": self.classes,
            "class_names": self.class_names,
            "uniform": self.uniform,
            "layers": self.layers(),
            **self.decoding(),
        }

    def decoding(self) -> dict[str, Any]:
        """Return the facts that decode samples, under their name; none for images and points."""
        if self.codec.view not in DECODING:
            return {}
        name, facts = DECODING[self.codec.view]
        return {name: facts(self.codec)}


def arrays_of(generator: Sequential) -> dict[str, np.ndarray]:
    """Return the arrays of a generator as `Exported.arrays` does."""
    return _named([_as_arrays(each) for each in steps_of(generator)])


def _named(steps: list[Step]) -> dict[str, np.ndarray]:
    return {each.names[key]: value for each in steps for key, value in each.arrays.items()}


def run(
    steps: list[Step], z: np.ndarray, labels: np.ndarray | None = None, uniform: np.ndarray | None = None
) -> list[np.ndarray]:
    """Apply the steps to noise (N, *noise_shape), and return z and the output of every step."""
    outputs, kept = [z], []
    for each in steps:
        x = outputs[-1]
        if each.operation.keeps:
            kept.append(x)
        given: dict[str, Any] = {"labels": labels, "uniform": uniform}
        inputs = [kept.pop() if name == "kept" else given[name] for name in each.operation.takes]
        outputs.append(each.operation.numpy(x, *inputs, **each.arrays, **each.settings))
    return outputs


def exported(
    generator: Sequential, codec: Codec, class_names: list[str] | None = None, source: dict[str, Any] | None = None
) -> Exported:
    """Translate a generator on the CPU, and compare the translation with it.

    Raises UserError if a layer cannot be translated, or if both compute different samples.
    """
    assert generator.noise_shape is not None
    steps = [_as_arrays(each) for each in steps_of(generator)]
    rng = np.random.default_rng(0)
    z = rng.standard_normal((CHECKED, *generator.noise_shape), dtype=np.float32)
    classes = generator.classes
    labels = np.arange(CHECKED) % classes if classes else None
    # The shapes of all steps, with random numbers of any width in the steps that take some.
    width = _uniform_width(steps, z, labels)
    uniform = rng.uniform(0.25, 0.75, size=(CHECKED, width)).astype(np.float32) if width else None
    outputs = run(steps, z, labels, uniform)
    names = (class_names or [str(label) for label in range(classes)])[:classes]
    shapes = [tuple(output.shape[1:]) for output in outputs]
    found = Exported(steps, shapes, classes, names, width, codec, source or {})
    _expect_equal(found, generator, outputs[-1], z, labels)
    return found


def _as_arrays(each: Step) -> Step:
    """Return the step with arrays of float32 in memory."""
    arrays = {key: np.ascontiguousarray(value, np.float32) for key, value in each.arrays.items()}
    return each._replace(arrays=arrays)


def _uniform_width(steps: list[Step], z: np.ndarray, labels: np.ndarray | None) -> int:
    """Return the number of random numbers in (0, 1) that a sample needs, which is the width of x before they are used.

    A generator has at most one layer that takes them.
    """
    for i, each in enumerate(steps):
        if "uniform" in each.operation.takes:
            return run(steps[:i], z[:1], None if labels is None else labels[:1])[-1].shape[1]
    return 0


def _expect_equal(found: Exported, generator: Sequential, y: np.ndarray, z: np.ndarray, labels: Any) -> None:
    """Raise UserError unless the generator computes the same samples y. Groups that are drawn differ, so not these."""
    expected, _ = generator.forward(z, train=False, **({} if labels is None else {"labels": labels}))
    expected = np.asarray(expected)
    drawn = [each.settings["groups"] for each in found.steps if each.operation.name == "table_head"]
    same: np.ndarray = np.ones(y.shape[1:], bool)
    for start, stop in (group for groups in drawn for group in groups):
        same[start:stop] = False
    if y.shape != expected.shape or not np.allclose(y[:, same], expected[:, same], rtol=0, atol=CLOSE):
        raise UserError(
            "the exported generator computes other samples than the original one: compare the operations of its layers "
            "in minigan/export/layers.py with their forward passes"
        )


def lines(found: Exported) -> Iterator[tuple[Step, tuple[int, ...], tuple[int, ...], int]]:
    """Yield each step with the shapes before and after it, and how many outputs are kept before it."""
    depth = 0
    for each, before, after in zip(found.steps, found.shapes, found.shapes[1:], strict=False):
        yield each, before, after, depth
        depth += each.operation.keeps - ("kept" in each.operation.takes)
