"""Generators and discriminators: one file per kind of data, and one table of presets.

    G, D = models.build("small", rng=rng)                    # (generator, discriminator)
    print(models.table(G, G.noise_shape))                    # layers, shapes, parameter counts

If `classes` is not 0, both networks are conditional and take labels in the same way:
`forward(x, labels=labels)`. The first layer of the generator appends the one-hot label to the
noise. The last layer of the discriminator scores how well a sample matches its label. With
classes = 0 the networks take no labels.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from minigan.backends import Array
from minigan.errors import UserError
from minigan.layers import Concatenate, Frozen, Layer, MultiDepth, Pack, Sequential
from minigan.models import images, points, reuse, tables, waves
from minigan.models.preset import Layout, Preset, head, label_input

__all__ = [
    "PRESETS",
    "Layout",
    "Preset",
    "Row",
    "build",
    "frozen_weights",
    "head",
    "label_input",
    "reuse",
    "rows",
    "table",
]

PRESETS: dict[str, Preset] = images.PRESETS | points.PRESETS | tables.PRESETS | waves.PRESETS


def build(
    preset: str,
    *,
    rng: np.random.Generator,
    sample_shape: tuple[int, ...] = (28, 28, 1),
    classes: int = 0,
    options: dict[str, Any] | None = None,
    pack: int = 1,
    layout: Layout | None = None,
) -> tuple[Sequential, Sequential]:
    """Build (generator, discriminator) for samples of the given shape, on the CPU, in float32.

    The weights are drawn from `rng`. `classes` is the number of labels, 0 for networks without
    labels. `options` maps options that the preset declares to values. `generator.noise_shape` is
    the shape of one noise vector. The discriminator takes samples of which `pack` are joined along
    their last axis, as by the layer `Pack`. `layout` says what the features of table rows and of series mean
    (None: all are numbers). Networks for other data do not need it.

    Raises UserError for an unknown preset or option, and for a sample shape that the preset does
    not support.
    """
    if preset not in PRESETS:
        raise UserError(f"unknown preset {preset!r}: choose {', '.join(PRESETS)}")
    this, layout = PRESETS[preset], layout or Layout()
    chosen = this.parsed(preset, options or {})
    networks = this.build(rng, tuple(sample_shape), classes, chosen, *([layout] if this.takes_layout else []))
    if pack > 1:
        *sides, channels = sample_shape
        joined = [layout.packed(pack, channels)] if this.takes_layout else []
        networks = networks[0], this.build(rng, (*sides, pack * channels), classes, chosen, *joined)[1]
    for network in networks:
        network.classes = classes
    return networks


class Row(NamedTuple):
    """A line of the table of a network. `depth` is the number of layers that contain this one."""

    name: str
    shape: tuple[int, ...]  # of the output for one sample
    n_params: int | None  # None if the layer is only named, because its parts have lines of their own
    depth: int


def rows(network: Sequential, input_shape: tuple[int, ...]) -> list[Row]:
    """Return one row for each layer of a network: its name, its output shape and its number of parameters.

    The shapes are those of a forward pass for one sample.
    """
    weights = [a for a in [*network.params.values(), *network.buffers.values()] if a.dtype.kind == "f"]
    count = math.prod(layer.m for layer in network.layers if isinstance(layer, Pack))  # samples that are judged as one
    x = network.backend.asarray(np.zeros((count, *input_shape), weights[0].dtype))
    label = network.backend.asarray(np.zeros(count, np.int64))
    return _rows(network.layers, x, {"labels": label})[0]


def table(network: Sequential, input_shape: tuple[int, ...]) -> str:
    """Return `rows` as text, with the number of all parameters in the last line.

    If layers are frozen, the last line is the number of their weights, which do not learn.
    """
    lines = []
    for row in rows(network, input_shape):
        text = f"{'  ' * row.depth}  {row.name:<{max(0, 42 - 2 * row.depth)}}{' x '.join(map(str, row.shape)):>14}"
        lines.append(text if row.n_params is None else f"{text}{row.n_params:>11,}")
    lines.append(f"  {'parameters':<42}{'':>14}{network.n_params:>11,}")
    if count := frozen_weights(network):
        lines.append(f"  {'frozen':<42}{'':>14}{count:>11,}")
    return "\n".join(lines)


def _rows(layers: Iterable[Layer], x: Array, labels: dict[str, Array], depth: int = 0) -> tuple[list[Row], Array]:
    """Return the rows of the layers, and the output of the last one for x."""
    found = []
    for layer in layers:
        if isinstance(layer, MultiDepth):
            features = x
            for stage, on_it in zip(layer.stages, layer.heads, strict=True):
                of_stage, features = _rows(stage.layers, features, labels, depth)
                found += of_stage + _rows(on_it.layers, features, labels, depth + 1)[0]
        if isinstance(layer, Concatenate):
            found += _rows(layer.inner(), x, labels, depth + 1)[0]
        x, _ = layer.forward(x, train=False, **(labels if layer.takes_labels else {}))
        if isinstance(layer, Concatenate):
            found.append(Row("Concatenate with the input", x.shape[1:], None, depth))
        elif not isinstance(layer, MultiDepth):
            found.append(Row(repr(layer), x.shape[1:], layer.n_params, depth))
    return found, x


def frozen_weights(layer: Layer, inside: bool = False) -> int:
    """Return the number of weights of the frozen layers. `inside` says whether the layer is inside a frozen one."""
    inside = inside or isinstance(layer, Frozen)
    if parts := layer.inner():
        return sum(frozen_weights(part, inside) for part in parts)
    return layer.n_params if inside else 0
