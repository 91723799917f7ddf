"""What a preset is, and what the networks of all kinds of data share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from minigan.layers import Dense, Layer, OneHot, Projection, Sequential
from minigan.options import NoOptions, parsed


@dataclass(frozen=True)
class Preset:
    """Networks and the recipe that trains them.

    `build(rng, sample_shape, classes, options)` gives (generator, discriminator) and sets
    `generator.noise_shape`. `recipe` has the fields of Config that differ from its defaults.
    """

    build: Callable[..., tuple[Sequential, Sequential]]
    recipe: dict[str, Any]
    kind: str  # of data
    summary: str
    options: type = NoOptions  # a dataclass of `option` fields: what may be chosen of the networks

    def parsed(self, name: str, given: dict[str, Any]) -> Any:
        """The options from names and values. Raises UserError for one that this preset does not have."""
        return parsed(self.options, given, f"the networks of preset {name}")


def label_input(classes: int) -> list[Layer]:
    """The generator's layer for the label, if there are labels."""
    return [OneHot(classes)] if classes else []


def head(n_in: int, classes: int, **how: Any) -> Layer:
    """The discriminator's last layer: a logit, which depends on the label if there are labels."""
    return Projection(n_in, classes, **how) if classes else Dense(n_in, 1, **how)
