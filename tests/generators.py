"""Generators of every preset for tests of exports, with weights and statistics that are not those of a start."""

from typing import Any

import numpy as np
from table_rows import RowsCodec

from minigan import export, models
from minigan.datasets.images import ImageCodec
from minigan.datasets.points import KIND as POINTS
from minigan.datasets.sequence_codec import SequenceCodec
from minigan.layers import (
    BatchNorm,
    Concatenate,
    Conv2d,
    ConvTranspose2d,
    Dense,
    Dropout,
    Frozen,
    GaussianNoise,
    Identity,
    LeakyReLU,
    ReLU,
    Reshape,
    Sequential,
    Sigmoid,
    Softplus,
    Tanh,
    Upsample,
)
from minigan.models import Layout

IMAGES = [name for name, preset in models.PRESETS.items() if preset.kind == "images"]
SERIES = [name for name, preset in models.PRESETS.items() if preset.kind == "sequences"]
FEATURES = [
    {"name": "<level>", "low": -2.0, "high": 3.0, "centre": 0.5, "half": 2.0, "decimals": 2, "gaps": True},
    {"name": "always", "low": 4.0, "high": 4.0},
    {"name": "speed", "low": -1.0, "high": 1.0, "half": 1.5},
]
GROUPS = ((1, 4), (4, 6), (9, 12))  # of the rows of 14 features; the last group is the label


def others(rng: np.random.Generator) -> Sequential:
    """Every layer that can be exported and that no preset has, and settings that no preset has."""
    G = Sequential(
        Dense(5, 12, rng=rng),
        Sigmoid(),
        Concatenate(Dense(12, 6, rng=rng), Concatenate(Dense(6, 4, rng=rng), Softplus()), ReLU()),
        Dropout(0.5, rng=rng),
        GaussianNoise(0.3, rng=rng),
        Frozen(Dense(22, 5 * 4 * 3, rng=rng)),
        Identity(),
        Reshape(5, 4, 3),
        Conv2d(3, 5, 3, stride=2, pad=(2, 1), rng=rng),  # (3, 3, 5)
        LeakyReLU(0.1),
        Upsample(3),  # (9, 9, 5)
        ConvTranspose2d(5, 3, 4, stride=3, pad=(0, 2), output_pad=1, rng=rng),  # (27, 27, 3)
        BatchNorm(3, eps=1e-2),
        Tanh(),
    )
    G.noise_shape = (5,)
    return G


def generator_of(name: str, classes: int = 0, seed: int = 0) -> tuple[Sequential, Any]:
    """Return (generator, codec) of a preset, or of `others`, with statistics as after a training."""
    rng, codec = np.random.default_rng(seed), ImageCodec()
    if name == "others":
        G = others(rng)
    elif name in IMAGES:
        shape = (64, 64, 3) if name == "pictures" else (28, 28, 1)
        G, _ = models.build(name, rng=rng, sample_shape=shape, classes=classes)
    elif name == "points":
        G, _ = models.build(name, rng=rng, sample_shape=(2,), classes=classes)
        codec = POINTS.codec("ring")
    elif name in SERIES:
        codec = SequenceCodec(FEATURES, 7, ends=True, shortest=2, dtype="float64")
        layout = Layout(flags=tuple(codec.flags), ends=tuple(codec.ended))
        G, _ = models.build(name, rng=rng, sample_shape=(7, codec.width), classes=classes, layout=layout)
    else:
        layout = Layout(GROUPS, 2 if classes else None)
        G, _ = models.build(name, rng=rng, sample_shape=(14,), classes=classes, layout=layout)
        codec = RowsCodec(GROUPS, 2 if classes else None)
    for key, value in G.buffers.items():
        if key.endswith(("mean", "var")):
            value[...] = rng.uniform(0.1, 0.6, value.shape)
    for key, value in G.params.items():
        if not key.endswith("w"):
            value[...] = rng.normal(1 if key.endswith("gamma") else 0, 0.3, value.shape)
    _make_alive(G, classes)
    return G, codec


def _make_alive(G: Sequential, classes: int) -> None:
    """Scale the weights of each layer so that its outputs vary, from sample to sample and within one."""
    z, labels = noise(G, 8), {"labels": np.arange(8) % classes} if classes else {}
    for i, layer in enumerate(G.layers):
        for key, w in layer.params.items():
            if key.endswith("w"):
                x, _ = Sequential(*G.layers[: i + 1]).forward(z, train=False, **labels)
                w[...] /= np.sqrt((x * x).mean())


def noise(G: Sequential, count: int, seed: int = 1) -> np.ndarray:
    """Draw noise (count, *noise_shape)."""
    assert G.noise_shape is not None
    return np.random.default_rng(seed).standard_normal((count, *G.noise_shape), dtype=np.float32)


def translated(name: str, classes: int = 0) -> tuple[Sequential, export.Exported]:
    """Return (generator, its translation)."""
    G, codec = generator_of(name, classes)
    names = [f"class {k}" for k in range(classes)]
    return G, export.exported(G, codec, names, {"minigan": "2", "preset": name})
