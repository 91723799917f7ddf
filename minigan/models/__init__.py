"""The networks: one file per kind of data, and one table of presets.

    G, D = models.build("small", rng=rng)                    # (generator, discriminator)
    print(models.table(G, G.noise_shape))                    # layers, shapes, parameter counts

With `classes` labels both networks are conditional by one mechanism:
`forward(x, labels=labels)`. The generator's first layer appends the one-hot label to the
noise, the discriminator's last one asks whether sample and label fit. With classes = 0
neither is there.
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
) -> tuple[Sequential, Sequential]:
    """(generator, discriminator) on the CPU, in float32, for samples of that shape, with weights drawn from rng.

    `classes` is the number of labels, 0 for networks without labels. `options` are those that
    the preset declares. `generator.noise_shape` is the shape of one noise vector.

    Raises UserError for an unknown preset or option, and for samples that it cannot make.
    """
    if preset not in PRESETS:
        raise UserError(f"unknown preset {preset!r}: choose {', '.join(PRESETS)}")
    chosen = PRESETS[preset].parsed(preset, options or {})
    networks = PRESETS[preset].build(rng, tuple(sample_shape), classes, chosen)
    for network in networks:
        network.classes = classes
    return networks


def table(network: Sequential, input_shape: tuple[int, ...]) -> str:
    """One line a layer: what it is, the shape that leaves it, and how many numbers it learns."""
    x = network.backend.asarray(np.zeros((1, *input_shape), next(iter(network.params.values())).dtype))
    label = network.backend.asarray(np.zeros(1, np.int64))
    lines = []
    for layer in network.layers:
        given: dict[str, Any] = {"labels": label} if layer.takes_labels else {}
        x, _ = layer.forward(x, train=False, **given)
        lines.append(_line(layer, " x ".join(map(str, x.shape[1:]))))
    total = sum(layer.n_params for layer in network.layers)
    return "\n".join([*lines, f"  {'parameters':<42}{'':>14}{total:>11,}"])


def _line(layer: Layer, shape: str) -> str:
    return f"  {layer!r:<42}{shape:>14}{layer.n_params:>11,}"
