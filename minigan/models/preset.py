"""The class Preset, and the layers that networks for all kinds of data share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from minigan.layers import Dense, Layer, OneHot, Projection, Sequential
from minigan.options import NoOptions, parsed


class Layout(NamedTuple):
    """What the features of a sample mean, for networks of table rows (n,) and of series (T, n).

    In rows, `groups` are pairs (start, stop), sorted and apart: the one-hot features of a category.
    Features outside the groups are numbers in [-1, 1]. `label_group` is the index of the label's group,
    or None. In series, `flags` are the features that are 1 or -1, and `ends` are pairs (start, stop) of
    features that end together, the last of which is the flag of the end.
    """

    groups: tuple[tuple[int, int], ...] = ()
    label_group: int | None = None
    flags: tuple[int, ...] = ()
    ends: tuple[tuple[int, int], ...] = ()

    def packed(self, m: int, n: int) -> "Layout":
        """Return the layout of m samples of n features that are joined. The label is that of the first one."""
        groups, ends = (
            tuple((i * n + start, i * n + stop) for i in range(m) for start, stop in pairs)
            for pairs in (self.groups, self.ends)
        )
        return Layout(groups, self.label_group, tuple(i * n + j for i in range(m) for j in self.flags), ends)


@dataclass(frozen=True)
class Preset:
    """A pair of networks and the recipe to train them.

    `build(rng, sample_shape, classes, options)` returns (generator, discriminator) and sets
    `generator.noise_shape`. If `takes_layout` is true, it takes a `Layout` as well. `recipe` maps the
    fields of Config that differ from the defaults to their values.
    """

    build: Callable[..., tuple[Sequential, Sequential]]
    recipe: dict[str, Any]
    kind: str  # the kind of data
    summary: str
    options: type = NoOptions  # a dataclass of `option` fields: the options of the networks
    takes_layout: bool = False  # whether `build` takes a layout
    labels_in_samples: bool = False  # whether the samples contain the labels, so that D takes none

    def parsed(self, name: str, given: dict[str, Any]) -> Any:
        """Return the options, given names and values. Raises UserError for an option that the preset does not have."""
        return parsed(self.options, given, f"the networks of preset {name}")


def label_input(classes: int) -> list[Layer]:
    """Return the generator's layers that take the label: one layer, or none if there are no labels."""
    return [OneHot(classes)] if classes else []


def head(n_in: int, classes: int, **kwargs: Any) -> Layer:
    """Return the discriminator's last layer. It computes a logit, which depends on the label if there are labels."""
    return Projection(n_in, classes, **kwargs) if classes else Dense(n_in, 1, **kwargs)
