"""Images as unsigned bytes, with or without labels: options, sizes, and conversion to floats."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from minigan.backends import Array, Backend, reference
from minigan.datasets.data import Data, checksums
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
    """Options of data of the kind images: which images are read, and how."""

    split: str = option(
        "train",
        help="images: the part of divided data to read: train, val or test (default {default})",
        metavar="NAME",
        choices=tuple(SPLITS),
    )
    keys: str = option(
        "",
        help="images and sequences: the keys of the images or series, and of the labels, in a .npz file",
        metavar="IMAGES,LABELS",
    )
    size: int = option(0, help="images: resize to N x N pixels", low=0, metavar="N")
    fit: str = option(
        "",
        help="images: how to make them square: crop (default with --size), pad or stretch",
        metavar="HOW",
        choices=("", *FITS),
    )
    channels: str = option(
        "",
        help="images: where arrays have the colour channels, first or last (default: first only if not last)",
        metavar="WHERE",
        choices=("", "first", "last"),
    )
    range: str = option("", help="images: the values of black and white (default: recognised)", metavar="LOW,HIGH")
    background: str = option(
        "",
        help="images: colour behind transparency, such as #ffcc00 (default: white behind dark drawings, else black)",
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
        """The values (black, white) given by --range, or None."""
        return parse_range(self.range) if self.range else None


DEFAULTS = ImageOptions()


def colour_of(text: str) -> tuple[int, int, int]:
    """Return (red, green, blue) of #rrggbb, or of a colour name that Pillow knows.

    Raises DataError for other texts.
    """
    from PIL import ImageColor

    try:
        return ImageColor.getrgb(text)[:3]
    except ValueError:
        raise DataError(f"--background is a colour such as white, black or #ffcc00, got {text!r}") from None


@dataclass(frozen=True, eq=False)  # eq=False: arrays have no single truth value to compare by
class Images:
    """N images of one size, with or without labels, and notes on how they were read."""

    images: np.ndarray  # (N, H, W, C) uint8, C-contiguous; C is 1 (grey) or 3 (RGB)
    labels: np.ndarray | None  # (N,) int64, the class of each image; None without labels
    name: str  # a short name for titles, such as "mnist-train"
    origin: str = ""  # what was read, as text for people
    class_names: list[str] | None = None  # a name for each class, by default 0, 1, ...
    labels_from: str = ""  # where the labels were found
    notes: Sequence[str] = ()  # what was assumed, changed or left out
    placed: tuple[Backend, Array] | None = None  # the images on a backend, for `batch`
    held_out: "Images | None" = None  # images that are not trained on
    held_out_from: str = ""  # what they are

    kind = "images"

    def __post_init__(self):
        if self.labels is not None and self.class_names is None:
            object.__setattr__(self, "class_names", [str(label) for label in range(int(self.labels.max()) + 1)])

    def __len__(self) -> int:
        """The number of images."""
        return len(self.images)

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """The shape (H, W, C) of one image."""
        return self.images.shape[1:]

    def without_labels(self) -> "Images":
        """Return the same images without labels."""
        return replace(self, labels=None, class_names=None, labels_from="not read")

    def part(self, index: np.ndarray) -> "Images":
        """Return the images of index (N,), without `held_out`. The classes stay the same."""
        labels = None if self.labels is None else self.labels[index]
        return replace(self, images=self.images[index], labels=labels, placed=None, held_out=None, held_out_from="")

    def holding(self, held_out: Data, source: str) -> "Images":
        """Return the same images with these `held_out`. `source` says what they are."""
        assert isinstance(held_out, Images)
        return replace(self, held_out=held_out, held_out_from=source)

    @property
    def codec(self) -> "ImageCodec":
        """The codec that converts generated floats to pixels."""
        return ImageCodec()

    def to(self, backend: Backend) -> "Images":
        """Return the images stored on the backend. They stay uint8; `batch` scales them there."""
        return replace(self, placed=(backend, backend.asarray(self.images)))

    def batch(self, index: Array) -> Array:
        """Return the images (N, H, W, C) of index (N,), scaled to [-1, 1]."""
        backend, images = self.placed or (reference(), self.images)
        return backend.gather(images, index)

    def fingerprint(self) -> dict:
        """Return the shape, and checksums of images and labels."""
        return checksums(self.images, self.labels)

    def description(self) -> list[tuple[str, str]]:
        """Return what was read, as lines (topic, sentence) for people."""
        lines = [("read", self.origin or self.name)]
        if self.labels is None or self.class_names is None:
            lines.append(("labels", self.labels_from or "none were found"))
        else:
            counts = np.bincount(self.labels, minlength=len(self.class_names))
            sizes = f"{counts.min():,}" if counts.min() == counts.max() else f"{counts.min():,} to {counts.max():,}"
            origin = f", from {self.labels_from}" if self.labels_from else ""
            classes = f"{len(self.class_names)} {'class' if len(self.class_names) == 1 else 'classes'}"
            lines.append(("labels", f"{classes} of {sizes} images{origin}: {listing(self.class_names)}"))
        if self.held_out is not None:
            lines.append(("held out", f"{len(self.held_out):,} images {self.held_out_from}, for the checks"))
        return [*lines, *(("note", note) for note in self.notes)]

    @property
    def source(self) -> str:
        """The description as one line."""
        return "; ".join(f"labels: {text}" if topic == "labels" else text for topic, text in self.description())


@dataclass(frozen=True)
class ImageCodec:
    """Converts floats in [-1, 1] to pixels, and saves them."""

    view, key = "grid", "images"
    suffixes = (".npy",)

    def decode(self, samples: np.ndarray) -> np.ndarray:
        """Convert float samples (N, H, W, C) in [-1, 1] to uint8."""
        return unscale(samples)

    def save(self, decoded: np.ndarray, path: Path) -> None:
        """Write a .npy file of uint8: (N, H, W) for grey images, (N, H, W, 3) for coloured ones."""
        write_array(path, decoded[..., 0] if decoded.shape[-1] == 1 else decoded)


def scale(x: np.ndarray, dtype: type = np.float32) -> np.ndarray:
    """Return x / 127.5 - 1: uint8 of any shape -> `dtype` in [-1, 1], the range of tanh.

    0 -> -1 and 255 -> 1 exactly. Raises DataError if x is not uint8, because it may be scaled
    already, and if `dtype` is not a float type.
    """
    if x.dtype != np.uint8:
        raise DataError(f"scale expects uint8 pixels, got {x.dtype}: were these scaled already?")
    if not np.issubdtype(dtype, np.floating):
        raise DataError(f"scale gives floats in [-1, 1], it cannot give {np.dtype(dtype)}: ask for float32 or float64")
    return x.astype(dtype) / 127.5 - 1  # Python numbers do not change the dtype


def unscale(x: np.ndarray) -> np.ndarray:
    """Return round((x + 1) * 127.5): floats of any shape -> uint8, the exact inverse of `scale`.

    Values outside [-1, 1] are clipped. Raises DataError if x is not a float array or contains NaN.
    """
    if not np.issubdtype(x.dtype, np.floating):
        raise DataError(f"unscale expects floats in [-1, 1], got {x.dtype}: are these pixels already?")
    if np.isnan(x).any():
        raise DataError("unscale expects floats in [-1, 1], got NaN: look for where the numbers first went wrong")
    return np.rint((np.clip(x, -1, 1) + 1) * 127.5).astype(np.uint8)


# ---------------------------------------------------------------- size


def check_size(where: str, shape: tuple[int, ...], options: ImageOptions = DEFAULTS) -> None:
    """Raise DataError if there are no images in the shape (N, H, W, ...), or if a side is smaller than MIN_SIDE.

    With the option --size, images of any size are accepted. The message starts with `where`.
    """
    count, height, width = shape[:3]
    if count == 0:
        raise DataError(f"{where}: expected at least one image, got 0: is this the right file?")
    if min(height, width) < (1 if options.size else MIN_SIDE):
        raise DataError(
            f"{where}: expected images of at least {MIN_SIDE} x {MIN_SIDE} pixels, got {height} x {width}: "
            f"use larger ones, or enlarge these with --size {2 * MIN_SIDE}"
        )


def fitted(images: np.ndarray, options: ImageOptions) -> tuple[np.ndarray, list[str]]:
    """Resize images (N, H, W, C) uint8 to the square size that the options ask for, if they do.

    Returns the images, and notes on what was done.
    """
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
    """Return the side to which images of size (H, W) are resized, or None if they are not."""
    if options.size:
        return options.size
    return min(size) if options.fit else None


def fit_picture(picture, side: int, options: ImageOptions):
    """Resize a Pillow picture to side x side pixels, with antialiasing.

    The option `fit` says how to make it square. By default, the middle is cropped.
    """
    from PIL import Image, ImageOps

    how, filter = options.fit or "crop", Image.Resampling.LANCZOS
    if picture.size == (side, side):
        return picture
    if how == "stretch":
        return picture.resize((side, side), filter)
    if how == "crop":
        return ImageOps.fit(picture, (side, side), filter)
    fill = colour_of(options.background or "black")
    grey = round(sum(fill) / 3)
    colours = {"RGB": fill, "RGBA": (*fill, 255), "LA": (grey, 255)}
    return ImageOps.pad(picture, (side, side), filter, color=colours.get(picture.mode, grey))


def fit_values(values: np.ndarray, side: int, options: ImageOptions) -> np.ndarray:
    """Resize a grey picture (H, W) of 16 or 32 bits to side x side, as `fit_picture` does. The dtype stays.

    With --fit pad, the smallest value of the picture counts as black and the largest as white.
    """
    from PIL import Image

    low, high = float(values.min()), float(values.max())
    unit = (values.astype(np.float64) - low) * (255 / (high - low) if high > low else 0)  # 0 to 255, as `grey` above
    picture = fit_picture(Image.fromarray(unit.astype(np.float32)), side, options)
    x = low + np.clip(np.asarray(picture, np.float64), 0, 255) * ((high - low) / 255)
    return (np.rint(x) if values.dtype.kind in "iu" else x).astype(values.dtype)


def said_fit(size: tuple[int, int], side: int, options: ImageOptions) -> str:
    """Return a note on what `fit_picture` does to images of size (H, W)."""
    H, W = size
    how = {"crop": "the middle was cropped", "pad": "they were padded", "stretch": "they were stretched"}
    square = "" if H == W else f"{how[options.fit or 'crop']} to a square, then "
    return f"images of {H} x {W} (rows x columns): {square}resized to {side} x {side}"
