"""Build the networks of a run, and start them from networks that were trained before.

    layout = players.layout_of(data.codec)
    G, D = players.build(config, data.sample_shape, classes, rng, taken, layout=layout)

A run takes its networks from the preset. With the options `discriminator_from` and `generator_from`,
it starts from the weights of earlier runs, or of a classifier. `runs.sources` reads them. Instance
noise and packing are layers before the first layer of D.
"""

import copy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from minigan import backends, models
from minigan.datasets import Codec, Data
from minigan.errors import UserError
from minigan.layers import GaussianNoise, Layer, Pack, Sequential
from minigan.models import reuse
from minigan.training import checkpoint
from minigan.training.config import Config

OPTIONS = ("discriminator_from", "freeze", "projected", "generator_from")  # the fields of the config for this


@dataclass(frozen=True)
class Taken:
    """What a run takes from networks that were trained before.

    `discriminator` describes the discriminator, if it is not that of the preset (see
    `models.reuse`). A checkpoint stores it. `arrays` maps names such as G.0.w and D.2.gamma to the
    values at which a new run starts. They are empty for a run that is resumed, whose checkpoint has
    all arrays. `notes` are sentences for people.
    """

    discriminator: dict[str, Any] | None = None
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def without_arrays(self) -> "Taken":
        """Return the same networks, with their own random weights."""
        return replace(self, arrays={})


def number_of_classes(config: Config, data: Data) -> int:
    """Return the number of classes that the networks see: 0 if they see no labels."""
    return len(data.class_names) if config.conditional and data.class_names else 0


def layout_of(codec: Codec) -> models.Layout:
    """Return what the features of a sample mean, which the codecs of table rows and of series know."""
    groups, ends = (tuple((start, stop) for start, stop in getattr(codec, name, ())) for name in ("groups", "ended"))
    return models.Layout(groups, getattr(codec, "label_group", None), tuple(getattr(codec, "flags", ())), ends)


def build(
    config: Config,
    sample_shape: tuple[int, ...],
    classes: int,
    rng: np.random.Generator,
    taken: Taken | None = None,
    networks: tuple[Sequential, Sequential] | None = None,
    layout: models.Layout | None = None,
) -> tuple[Sequential, Sequential]:
    """Build (generator, discriminator) of a run on the CPU, with weights from `rng` and those that were taken.

    `layout` says what the features of a sample mean: see `layout_of`. If `networks` are given, they are
    used instead. With packing, their discriminator takes samples
    that are joined along their last axis. Raises UserError if the config names networks to start from
    and `taken` is not given, if both are given, or if the taken ones do not fit.
    """
    names_networks = bool(config.discriminator_from or config.generator_from)
    if networks is not None:
        if names_networks:
            raise UserError("networks of your own do not start from a run: leave discriminator_from and such out")
        return networks[0], _with_first_layers(config, networks[1])
    if names_networks and taken is None:
        raise UserError("discriminator_from and generator_from are read by runs.begin, and by minigan.GAN: use these")
    taken = Taken() if taken is None else taken
    G, D = models.build(
        config.preset,
        rng=rng,
        sample_shape=sample_shape,
        classes=classes,
        options=config.network,
        pack=config.pack,
        layout=layout,
    )
    if taken.discriminator is not None:
        D = reuse.from_facts(rng, tuple(sample_shape), classes, taken.discriminator)
    D = reuse.frozen(D, config.freeze)
    D.classes = classes
    own = {f"{owner}.{name}": a for owner, n in (("G", G), ("D", D)) for name, a in (n.params | n.buffers).items()}
    targets = {name: a for name, a in own.items() if name in taken.arrays}
    checkpoint.restore(config.discriminator_from or config.generator_from, taken.arrays, targets, np.asarray)
    return G, _with_first_layers(config, D)


def _with_first_layers(config: Config, D: Sequential) -> Sequential:
    """Return the discriminator with the layers of instance noise and packing before its first layer, if any."""
    first: list[Layer] = []
    if config.instance_noise:
        first.append(GaussianNoise(config.instance_noise, rng=np.random.default_rng([config.seed, 9])))
    if config.pack > 1:
        first.append(Pack(config.pack))
    if not first:
        return D
    extended = Sequential(*first, *D.layers)
    extended.classes = D.classes
    return extended


def without_first_layers(D: Sequential) -> Sequential:
    """Return the discriminator of a run without the layers of instance noise and packing."""
    return Sequential(*(layer for layer in D.layers if not isinstance(layer, GaussianNoise | Pack)))


def on_reference(network: Sequential) -> Sequential:
    """Return a copy of a network on the NumPy backend, which nothing that is done with it can change."""
    return copy.deepcopy(network).to(backends.reference())


def instance_noise(D: Sequential) -> GaussianNoise:
    """Return the layer of D that adds the instance noise."""
    layer = D.layers[0]
    assert isinstance(layer, GaussianNoise)
    return layer


def described(discriminator_from: str, freeze: str, projected: bool, generator_from: str) -> list[tuple[str, str]]:
    """Return where the networks of a run started from, given OPTIONS, as lines (topic, sentence) for people."""
    lines = []
    if discriminator_from:
        how = {"": "all of it learns", "all": "it is frozen", "features": "all but its last layer is frozen"}
        first = "its first layer is frozen" if freeze == "1" else f"its first {freeze} layers are frozen"
        how = {freeze: first} | how
        what = "small heads learn on projections of its frozen features" if projected else how[freeze]
        lines.append(("taken", f"discriminator from {discriminator_from}: {what}"))
    if generator_from:
        lines.append(("taken", f"generator from {generator_from}"))
    return lines
