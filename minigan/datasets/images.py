"""What a set of images is: unsigned bytes, perhaps with labels; how images are read; the way to floats and back."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from minigan.backends import Array, Backend, reference
from minigan.datasets.data import checksums
from minigan.datasets.files import DataError
from minigan.datasets.labels import listing
from minigan.datasets.pixels import parse_range
from minigan.files import write_array
from minigan.options import check, option

MIN_SIDE = 4  # pixels: the smallest side that can be halved twice
FITS = ("crop", "pad", "stretch")
SPLITS = {  # what folders and keys call the parts of a data set
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "t10k", "eval"),
}


@dataclass(frozen=True)
class ImageOptions:
    """The options of data of the kind images: how they are read."""

    split: str = option(
        "train",
        help="images: the part to read, train, val or test, where the data are divided so (default {default})",
        metavar="NAME",
        choices=tuple(SPLITS),
    )
    keys: str = option(
        "", help="images: the arrays of an .npz file: the images' key, and the labels'", metavar="IMAGES,LABELS"
    )
    size: int = option(0, help="images: resize to N x N pixels", low=0, metavar="N")
    fit: str = option(
        "",
        help="images: make them square: crop the middle (default with --size), pad, or stretch",
        metavar="HOW",
        choices=("", *FITS),
    )
    range: str = option("", help="images: which values are black and white (default: recognised)", metavar="LOW,HIGH")
    background: str = option(
        "",
        help="images: behind transparent pixels: white, black or #rrggbb (default: where the drawing shows best)",
        metavar="COLOUR",
    )
    skip_bad: bool = option(False, help="images: leave out files that cannot be read")
    labels: bool = option(True, help="images: whether labels are read", flag=None)

    def __post_init__(self):
        check(self)
        if 0 < self.size < MIN_SIDE:
            raise DataError(f"--size is at least {MIN_SIDE}, got {self.size}")
        if self.range:
            parse_range(self.range)
        if self.background:
            colour_of(self.background)

    @property
    def limits(self) -> tuple[float, float] | None:
        """(black, white) as given by --range, or None."""
        return parse_range(self.range) if self.range else None


DEFAULTS = ImageOptions()


def colour_of(text: str) -> tuple[int, int, int]:
    """(red, green, blue) of a colour that Pillow knows by name, or of #rrggbb. Raises DataError for any other."""
    from PIL import ImageColor

    try:
        return ImageColor.getrgb(text)[:3]
    except ValueError:
        raise DataError(f"--background is a colour such as white, black or #ffcc00, got {text!r}") from None


@dataclass(frozen=True, eq=False)  # eq=False: arrays have no single truth value to compare by
class Images:
    """N images of one size, perhaps with labels, and how they were read."""

    images: np.ndarray  # (N, H, W, C) uint8, C-contiguous; C is 1 (grey) or 3 (RGB)
    labels: np.ndarray | None  # (N,) int64, the class of each image; None where there are none
    name: str  # short, for titles: "mnist-train"
    origin: str = ""  # what was read
    class_names: list[str] | None = None  # one for each class; by default the numbers 0, 1, ...
    labels_from: str = ""  # where the labels were found
    notes: Sequence[str] = ()  # everything that was assumed, changed or left out
    placed: tuple[Backend, Array] | None = None  # the images on a backend, for `batch`

    kind = "images"
    held_out = None

    def __post_init__(self):
        if self.labels is not None and self.class_names is None:
            object.__setattr__(self, "class_names", [str(label) for label in range(int(self.labels.max()) + 1)])

    def __len__(self) -> int:
        return len(self.images)

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """(H, W, C)"""
        return self.images.shape[1:]

    def without_labels(self) -> "Images":
        """The same images without labels."""
        return replace(self, labels=None, class_names=None, labels_from="not read")

    @property
    def codec(self) -> "ImageCodec":
        """Decodes floats as pixels."""
        return ImageCodec()

    def to(self, backend: Backend) -> "Images":
        """The same images on a backend. They stay uint8, also on a GPU: a batch is gathered and scaled there."""
        return replace(self, placed=(backend, backend.asarray(self.images)))

    def batch(self, index: Array) -> Array:
        """Images (N, H, W, C) in [-1, 1] of these indices (N,)."""
        backend, images = self.placed or (reference(), self.images)
        return backend.gather(images, index)

    def fingerprint(self) -> dict:
        """Shape and checksums of images and labels."""
        return checksums(self.images, self.labels)

    def description(self) -> list[tuple[str, str]]:
        """What was read, in lines of (topic, sentence), for people."""
        lines = [("read", self.origin or self.name)]
        if self.labels is None or self.class_names is None:
            lines.append(("labels", self.labels_from or "none were found"))
        else:
            counts = np.bincount(self.labels, minlength=len(self.class_names))
            sizes = f"{counts.min():,}" if counts.min() == counts.max() else f"{counts.min():,} to {counts.max():,}"
            origin = f", from {self.labels_from}" if self.labels_from else ""
            classes = f"{len(self.class_names)} {'class' if len(self.class_names) == 1 else 'classes'}"
            lines.append(("labels", f"{classes} of {sizes} images{origin}: {listing(self.class_names)}"))
        return [*lines, *(("note", note) for note in self.notes)]

    @property
    def source(self) -> str:
        """The description in one line."""
        return "; ".join(f"labels: {text}" if topic == "labels" else text for topic, text in self.description())


@dataclass(frozen=True)
class ImageCodec:
    """Floats in [-1, 1] are pixels."""

    view = "grid"
    suffixes = (".npy",)

    def decode(self, samples: np.ndarray) -> np.ndarray:
        """uint8 (N, H, W, C)"""
        return unscale(samples)

    def save(self, decoded: np.ndarray, path: Path) -> None:
        """A .npy file of uint8 (N, H, W), or (N, H, W, 3) for colours."""
        write_array(path, decoded[..., 0] if decoded.shape[-1] == 1 else decoded)


def scale(x: np.ndarray, dtype: type = np.float32) -> np.ndarray:
    """x / 127.5 - 1: uint8 of any shape -> `dtype` in [-1, 1], the range of tanh; 0 -> -1 and 255 -> 1, exactly.

    A DataError refuses an `x` that is not uint8 (it may be scaled already) and a `dtype` that is not a float type.
    """
    if x.dtype != np.uint8:
        raise DataError(f"scale expects uint8 pixels, got {x.dtype}: were these scaled already?")
    if not np.issubdtype(dtype, np.floating):
        raise DataError(f"scale gives floats in [-1, 1], it cannot give {np.dtype(dtype)}: ask for float32 or float64")
    return x.astype(dtype) / 127.5 - 1  # Python's own numbers do not widen the dtype


def unscale(x: np.ndarray) -> np.ndarray:
    """round((x + 1) * 127.5): floats of any shape -> uint8, the exact inverse of `scale`; outside [-1, 1] is clipped.

    A DataError refuses an `x` that is not float, and NaN, which is not a pixel.
    """
    if not np.issubdtype(x.dtype, np.floating):
        raise DataError(f"unscale expects floats in [-1, 1], got {x.dtype}: are these pixels already?")
    if np.isnan(x).any():
        raise DataError("unscale expects floats in [-1, 1], got NaN: look for where the numbers first went wrong")
    return np.rint((np.clip(x, -1, 1) + 1) * 127.5).astype(np.uint8)


# ---------------------------------------------------------------- size


def check_size(where: str, count: int, height: int, width: int) -> None:
    """Raises DataError, which starts with `where`, unless there are images and they are large enough to learn from."""
    if count == 0:
        raise DataError(f"{where}: expected at least one image, got 0: is this the right file?")
    if min(height, width) < MIN_SIDE:
        raise DataError(
            f"{where}: expected images of at least {MIN_SIDE} x {MIN_SIDE} pixels, got {height} x {width}: "
            f"use larger ones, or enlarge these with --size {2 * MIN_SIDE}"
        )


def fitted(images: np.ndarray, options: ImageOptions) -> tuple[np.ndarray, list[str]]:
    """Makes images (N, H, W, C) uint8 square and of the size that the options ask for; says what was done."""
    target = target_side(images.shape[1:3], options)
    if target is None or images.shape[1:3] == (target, target):
        return images, []
    from PIL import Image

    result = np.empty((len(images), target, target, images.shape[3]), np.uint8)
    for i, image in enumerate(images):
        picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        result[i] = np.asarray(fit_picture(picture, target, options)).reshape(result.shape[1:])
    return result, [said_fit(images.shape[1:3], target, options)]


def target_side(size: tuple[int, int], options: ImageOptions) -> int | None:
    """The side that images of this size (H, W) are brought to; None if they stay as they are."""
    if options.size:
        return options.size
    return min(size) if options.fit else None


def fit_picture(picture, side: int, options: ImageOptions):
    """A Pillow picture as side x side pixels, by the options' --fit and with antialiasing."""
    from PIL import Image, ImageOps

    how, filter = options.fit or "crop", Image.Resampling.LANCZOS
    if picture.size == (side, side):
        return picture
    if how == "stretch":
        return picture.resize((side, side), filter)
    if how == "crop":
        return ImageOps.fit(picture, (side, side), filter)
    fill = colour_of(options.background or "black")
    colour = fill if picture.mode == "RGB" else (*fill, 255) if picture.mode == "RGBA" else round(sum(fill) / 3)
    return ImageOps.pad(picture, (side, side), filter, color=colour)


def said_fit(size: tuple[int, int], side: int, options: ImageOptions) -> str:
    """What `fit_picture` does, in words."""
    H, W = size
    how = {"crop": "the middle was cropped", "pad": "they were padded", "stretch": "they were stretched"}
    square = "" if H == W else f"{how[options.fit or 'crop']} to a square, then "
    return f"images of {H} x {W} (rows x columns): {square}resized to {side} x {side}"
