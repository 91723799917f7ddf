"""Build the networks of a run: those of its preset, with the layers that options of the run add to D."""

import numpy as np

from minigan import models
from minigan.layers import GaussianNoise, Layer, Pack, Sequential
from minigan.training.config import Config

Networks = tuple[Sequential, Sequential]  # (generator, discriminator)


def build_networks(
    config: Config, rng: np.random.Generator, sample_shape: tuple[int, ...], classes: int, own: Networks | None = None
) -> Networks:
    """Return (generator, discriminator) of a run, on the CPU, with weights drawn from `rng`.

    `own` are networks that replace those of the preset. With packing, the discriminator takes
    samples that are joined along their last axis: those of a preset are built for them, and your
    own must accept them. Instance noise is the first layer of D, and packing the next.
    """
    if own is None:
        G, D = models.build(
            config.preset,
            rng=rng,
            sample_shape=sample_shape,
            classes=classes,
            options=config.network,
            pack=config.pack,
        )
    else:
        G, D = own
    first: list[Layer] = []
    if config.instance_noise:
        first.append(GaussianNoise(config.instance_noise, rng=np.random.default_rng([config.seed, 7])))
    if config.pack > 1:
        first.append(Pack(config.pack))
    if first:
        extended = Sequential(*first, *D.layers)
        extended.classes = D.classes
        D = extended
    return G, D


def instance_noise(D: Sequential) -> GaussianNoise:
    """Return the layer of D that adds the instance noise."""
    layer = D.layers[0]
    assert isinstance(layer, GaussianNoise)
    return layer
