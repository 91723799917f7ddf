"""Stack three MNIST digits as the red, green and blue channel of an image: 1,000 classes for tests of mode collapse.

The class of an image is the number that its digits form: 100 red + 10 green + blue. The choice of
digits is that of Metz et al. (2017, "Unrolled generative adversarial networks", section 3.3.1):
every channel shows an image that is drawn at random from all of MNIST. The classes of a digit have
nearly equal shares, and so have those of the triples (see `shares`).
"""

import numpy as np

from minigan.datasets.files import DataError
from minigan.datasets.images import Images

COUNTS = {"train": 60_000, "val": 10_000, "test": 10_000}
SEEDS = {"train": 1, "val": 2, "test": 3}
DIGITS = {"train": "train", "val": "test", "test": "test"}  # the split of MNIST from which the digits are drawn
CLASSES = 1000


def stack(digits: Images, split: str) -> Images:
    """Return the images (N, 28, 28, 3) of a split, whose channels are random ones of the digits (M, 28, 28, 1).

    N is 60,000 for "train", and 10,000 for "val" and "test". Every call with the same digits
    returns the same images.
    """
    assert digits.labels is not None
    rng = np.random.default_rng([SEEDS[split], 20180101])
    chosen = rng.integers(len(digits), size=(COUNTS[split], 3))
    images = np.stack([digits.images[column, ..., 0] for column in chosen.T], axis=-1)  # (N, 28, 28, 3)
    labels = digits.labels[chosen] @ [100, 10, 1]
    source = f"{len(images):,} triples of digits; {digits.origin}"
    names = [f"{label:03d}" for label in range(CLASSES)]
    return Images(images, labels, f"stacked-mnist-{split}", source, names, "the digits of the channels")


def digits_for(split: str) -> str:
    """Return the split of MNIST whose digits are stacked. Raises DataError for a split that does not exist."""
    if split not in DIGITS:
        raise DataError(f"stacked-mnist has no split {split!r}: ask for {', '.join(DIGITS)}")
    return DIGITS[split]


def shares(labels: np.ndarray) -> np.ndarray:
    """Return the probability (1000,) of each class, given the labels (M,) of the digits that are stacked.

    The channels are independent, so it is the product of the shares of three digits.
    """
    p = np.bincount(labels, minlength=10) / len(labels)  # (10,)
    return (p[:, None, None] * p[:, None] * p).reshape(CLASSES)
