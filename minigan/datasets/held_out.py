"""Held-out data: samples that are not trained on, with which a check sees whether D memorises its data.

Data that are divided into splits have them already: the test images of MNIST, a folder val, an
array x_test. `hold_out` takes a part of other data out of the training. Windows of a long series overlap, so
`hold_out` keeps those apart that have a step in common: see `Sequences.apart`.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from minigan.datasets.data import Data, Divisible
from minigan.datasets.files import DataError
from minigan.datasets.images import ImageOptions, Images
from minigan.datasets.sequences import Sequences

MOST = 2000  # held-out samples that are kept; a check uses fewer
STREAM = 7  # of the random numbers that choose the samples


def hold_out(data: Data, share: float, seed: int) -> Data:
    """Return the data without a random part, which becomes their `held_out`. Labels stay what they are.

    `share` is this part, at least one sample. Data that have held-out samples already are returned
    unchanged, and so are all data if `share` is 0. Raises DataError if no sample would be left, or
    if data of this kind cannot be divided.
    """
    if not share or data.held_out is not None:
        return data
    if not isinstance(data, Divisible):
        raise DataError(f"data of the kind {data.kind} cannot be divided: leave --hold-out out")
    count = max(1, round(share * len(data)))
    if count >= len(data):
        raise DataError(f"--hold-out {share:g} leaves no samples of {len(data)} to train on: choose a smaller part")
    rng = np.random.default_rng([seed, STREAM])
    parts = data.apart(share, rng) if isinstance(data, Sequences) else None
    if parts is None:
        order = rng.permutation(len(data))
        rest, held = np.sort(order[count:]), np.sort(order[:count])
    else:  # windows that overlap
        rest, held = parts
        count = len(held)
        if not len(rest):
            raise DataError(f"--hold-out {share:g} leaves no windows without the steps of held-out ones: leave it out")
    return data.part(rest).holding(data.part(held[evenly(len(held))]), f"of the {count:,} that hold_out takes out")


def of_other_split(data: Images, spec: str, options: ImageOptions, load: Callable[..., Images]) -> Images:
    """Return the training images with those of the split val or test as `held_out`, if there are any.

    `load(spec, options, most=MOST)` reads the images of a split. A split that cannot be read, or
    has images of another size, is ignored, because the training does not need it.
    """
    if options.split != "train" or options.keys:
        return data
    for split in ("val", "test"):
        try:
            found = load(spec, replace(options, split=split), most=MOST)
        except (DataError, MemoryError):
            continue
        if (found.name, found.origin) == (data.name, data.origin):  # the same images: data without splits
            return data
        fitting = as_in(found, data)
        if fitting is not None:
            return data.holding(fitting, f"of the split {split}")
    return data


def as_in(held: Images, data: Images) -> Images | None:
    """Return at most MOST of the held-out images, with labels as in the data.

    Images of a class that the data do not have are left out. Returns None if no image is left, if
    the images have another size than the data, or if only one of the two has labels.
    """
    if held.sample_shape != data.sample_shape or (held.labels is None) != (data.labels is None):
        return None
    index, labels = np.arange(len(held)), held.labels
    if labels is not None:
        place = {name: label for label, name in enumerate(data.class_names or ())}
        of = np.array([place.get(name, -1) for name in held.class_names or ()])
        labels = of[labels]
        index = np.flatnonzero(labels >= 0)
    index = index[evenly(len(index))]
    if not len(index):
        return None
    given: dict[str, Any] = {} if labels is None else dict(labels=labels[index], class_names=data.class_names)
    return replace(held, images=held.images[index], **given)


def evenly(count: int) -> np.ndarray:
    """Return evenly spaced indices from 0 to count - 1: all of them, or MOST."""
    return np.arange(count) if count <= MOST else np.arange(MOST) * count // MOST
