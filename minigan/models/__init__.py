"""Generators and discriminators: one file per kind of data, and one table of presets.

    G, D = models.build("small", rng=rng)                    # (generator, discriminator)
    print(models.table(G, G.noise_shape))                    # layers, shapes, parameter counts

If `classes` is not 0, both networks are conditional and take labels in the same way:
`forward(x, labels=labels)`. The first layer of the generator appends the one-hot label to the
noise. The last layer of the discriminator scores how well a sample matches its label. With
classes = 0 the networks take no labels.
"""

from typing import Any

import numpy as np

from minigan.errors import UserError
from minigan.layers import Layer, Sequential
from minigan.models import images, points
from minigan.models.preset import Preset, head, label_input

__all__ = ["PRESETS", "Preset", "build", "head", "label_input", "table"]

PRESETS: dict[str, Preset] = images.PRESETS | points.PRESETS


def build(
    preset: str,
    *,
    rng: np.random.Generator,
    sample_shape: tuple[int, ...] = (28, 28, 1),
    classes: int = 0,
    options: dict[str, Any] | None = None,
    pack: int = 1,
) -> tuple[Sequential, Sequential]:
    """Build (generator, discriminator) for samples of the given shape, on the CPU, in float32.

    The weights are drawn from `rng`. `classes` is the number of labels, 0 for networks without
    labels. `options` maps options that the preset declares to values. `generator.noise_shape` is
    the shape of one noise vector. The discriminator takes samples of which `pack` are joined along
    their last axis, as by the layer `Pack`.

    Raises UserError for an unknown preset or option, and for a sample shape that the preset does
    not support.
    """
    if preset not in PRESETS:
        raise UserError(f"unknown preset {preset!r}: choose {', '.join(PRESETS)}")
    chosen = PRESETS[preset].parsed(preset, options or {})
    networks = PRESETS[preset].build(rng, tuple(sample_shape), classes, chosen)
    if pack > 1:
        *sides, channels = sample_shape
        networks = networks[0], PRESETS[preset].build(rng, (*sides, pack * channels), classes, chosen)[1]
    for network in networks:
        network.classes = classes
    return networks


def table(network: Sequential, input_shape: tuple[int, ...]) -> str:
    """Return a table with one line per layer: its name, its output shape and its number of parameters."""
    x = network.backend.asarray(np.zeros((1, *input_shape), next(iter(network.params.values())).dtype))
    label = network.backend.asarray(np.zeros(1, np.int64))
    lines = []
    for layer in network.layers:
        kwargs: dict[str, Any] = {"labels": label} if layer.takes_labels else {}
        x, _ = layer.forward(x, train=False, **kwargs)
        lines.append(_line(layer, " x ".join(map(str, x.shape[1:]))))
    total = sum(layer.n_params for layer in network.layers)
    return "\n".join([*lines, f"  {'parameters':<42}{'':>14}{total:>11,}"])


def _line(layer: Layer, shape: str) -> str:
    """Return the line of one layer."""
    return f"  {layer!r:<42}{shape:>14}{layer.n_params:>11,}"
