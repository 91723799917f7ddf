"""Networks for rows of a table: dense layers, with a head that draws categories."""

from dataclasses import dataclass

import numpy as np

from minigan.errors import UserError
from minigan.layers import (
    BatchNorm,
    Concatenate,
    Dense,
    Embedding,
    Layer,
    LeakyReLU,
    MinibatchStdDev,
    ReLU,
    Sequential,
    TableHead,
)
from minigan.models.preset import Layout, Preset, label_input
from minigan.options import check, option

WIDE = 64  # values from which D sees a category through an embedding


@dataclass(frozen=True)
class TableNetworks:
    """Options of the networks of preset table."""

    noise_size: int = option(128, help="noise numbers of the generator", low=1, high=4096)
    g_width: int = option(256, help="units in each hidden layer of the generator", low=1, high=4096)
    d_width: int = option(256, help="units in each hidden layer of the discriminator", low=1, high=4096)
    d_embedding: int = option(
        16,
        help=f"the discriminator sees a category with {WIDE} values or more as N numbers; 0: as it is",
        low=0,
        high=4096,
    )
    d_minibatch_std: float = option(
        0.0,
        help="the discriminator sees X times the minibatch standard deviation of each of its last features; 0: no",
        low=0,
    )
    temperature: float = option(
        0.2, help="of the generator's categories: the smaller, the closer to one-hot", above=0, high=100
    )
    hard: bool = option(False, help="the generator's categories are exactly one-hot in training too")

    def __post_init__(self):
        check(self)


def table(rng: np.random.Generator, shape, classes: int, options: TableNetworks, layout: Layout):
    """Build networks for rows (N, n) with the groups of `layout`, after CTGAN (Xu et al. 2019, section 4.4).

    The generator has two residual blocks and a head, which writes the label that was asked for into
    the group of the label. The discriminator sees the label in the row, so it takes no labels.
    """
    if len(shape) != 1:
        raise UserError(f"preset table needs rows of features, got samples of {' x '.join(map(str, shape))}")
    (n,), width = shape, options.g_width
    label_group = _label_group(classes, layout)
    m = options.noise_size + classes
    generator = Sequential(
        *label_input(classes),
        # A bias before a batch norm has no effect.
        Concatenate(Dense(m, width, bias=False, rng=rng), BatchNorm(width), ReLU()),
        Concatenate(Dense(m + width, width, bias=False, rng=rng), BatchNorm(width), ReLU()),
        Dense(m + 2 * width, n, rng=rng),
        TableHead(
            layout.groups,
            n,
            temperature=options.temperature,
            hard=options.hard,
            label_group=label_group,
            rng=rng,
        ),
    )
    generator.noise_shape = (options.noise_size,)
    return generator, _discriminator(rng, n, options, layout)


def _label_group(classes: int, layout: Layout) -> int | None:
    """Return the index of the group of the label, or None without labels.

    Raises UserError if there are labels, and the row has no group for them with one feature for each class.
    """
    if not classes:
        return None
    if layout.label_group is None:
        raise UserError(f"preset table needs the column of the labels in the row, got {classes} classes: give --label")
    start, stop = layout.groups[layout.label_group]
    if stop - start != classes:
        raise UserError(f"the label's column has {stop - start} values, got {classes} classes: both must be the same")
    return layout.label_group


def _discriminator(rng: np.random.Generator, n: int, options: TableNetworks, layout: Layout) -> Sequential:
    """Build the discriminator: rows (N, n) -> logits (N, 1)."""
    width = options.d_width
    wide = [(start, stop) for start, stop in layout.groups if stop - start >= WIDE]
    first: list[Layer] = []
    if wide and options.d_embedding:
        embedding = Embedding(wide, n, options.d_embedding, rng=rng)
        first, n = [embedding], embedding.n_out
    strength = options.d_minibatch_std
    spread: list[Layer] = [MinibatchStdDev(width, strength=strength)] if strength else []
    return Sequential(
        *first,
        Dense(n, width, rng=rng),
        LeakyReLU(0.2),
        Dense(width, width, rng=rng),
        LeakyReLU(0.2),
        *spread,
        Dense((1 + len(spread)) * width, 1, rng=rng),
    )


PRESETS = {
    "table": Preset(
        table,
        dict(
            steps=20_000,
            batch=500,
            lr_g=1e-3,
            lr_d=1e-3,
            beta2=0.9,
            decay=True,
            decay_from=0.3,
            penalty="r1",
            penalty_weight=1.0,
            average=0.999,
            conditional=True,
        ),
        "tables",
        "Residual dense blocks for rows of a table, with a head that draws numbers and categories.",
        TableNetworks,
        takes_layout=True,
        labels_in_samples=True,
    ),
}
