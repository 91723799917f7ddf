"""Data of the kind images: pixels as unsigned bytes, optional labels, and the conversion to floats and back."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from minigan.backends import Array, Backend, reference
from minigan.datasets.data import checksums
from minigan.datasets.files import DataError
from minigan.files import write_array

MIN_SIDE = 4  # pixels: the smallest side that can be halved twice


@dataclass(frozen=True, eq=False)  # eq=False, because == of arrays is elementwise
class Images:
    """N square images, with or without labels."""

    images: np.ndarray  # (N, H, W, C) uint8, C-contiguous; C is 1 (grey) or 3 (RGB)
    labels: np.ndarray | None  # (N,) int64, not negative; None if there are no labels
    name: str  # short, for titles: "mnist-train"
    source: str = ""  # what was read and how it was converted, for the log
    placed: tuple[Backend, Array] | None = None  # a backend and the images on it, for `batch`

    kind = "images"
    held_out = None

    def __len__(self) -> int:
        """The number of images."""
        return len(self.images)

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """The shape (H, W, C) of one image."""
        return self.images.shape[1:]

    @property
    def class_names(self) -> list[str] | None:
        """The labels 0, 1, ... as text, or None without labels."""
        return None if self.labels is None else [str(label) for label in range(int(self.labels.max()) + 1)]

    @property
    def codec(self) -> "ImageCodec":
        """The codec that decodes generated images."""
        return ImageCodec()

    def to(self, backend: Backend) -> "Images":
        """Returns the images stored on the backend. They stay uint8, and `batch` gathers and scales there."""
        return replace(self, placed=(backend, backend.asarray(self.images)))

    def batch(self, index: Array) -> Array:
        """Returns the images (N, H, W, C) of index (N,), as float32 in [-1, 1]."""
        backend, images = self.placed or (reference(), self.images)
        return backend.gather(images, index)

    def fingerprint(self) -> dict:
        """Returns the shape, and checksums of pixels and labels."""
        return checksums(self.images, self.labels)


@dataclass(frozen=True)
class ImageCodec:
    """Decodes floats in [-1, 1] into pixels."""

    view = "grid"
    suffixes = (".npy",)

    def decode(self, samples: np.ndarray) -> np.ndarray:
        """Converts float samples (N, H, W, C) in [-1, 1] to uint8."""
        return unscale(samples)

    def save(self, decoded: np.ndarray, path: Path) -> None:
        """Writes a .npy file of uint8: (N, H, W) for grey images, (N, H, W, 3) for RGB."""
        write_array(path, decoded[..., 0] if decoded.shape[-1] == 1 else decoded)


def scale(x: np.ndarray, dtype: type = np.float32) -> np.ndarray:
    """Scales pixels to the range of tanh: uint8 of any shape -> `dtype` in [-1, 1].

        x / 127.5 - 1        0 -> -1 and 255 -> 1, exactly

    Raises DataError if `x` is not uint8, because it may be scaled already, or if `dtype` is not a float type.
    """
    if x.dtype != np.uint8:
        raise DataError(f"scale expects uint8 pixels, got {x.dtype}: were these scaled already?")
    if not np.issubdtype(dtype, np.floating):
        raise DataError(f"scale returns floats in [-1, 1], got the dtype {np.dtype(dtype)}: use float32 or float64")
    return x.astype(dtype) / 127.5 - 1  # Python numbers keep the dtype of the array


def unscale(x: np.ndarray) -> np.ndarray:
    """Converts floats of any shape to pixels, uint8. This is the exact inverse of `scale`.

        round((x + 1) * 127.5)        x is clipped to [-1, 1] first

    Raises DataError if `x` is not a float array, or if it contains NaN.
    """
    if not np.issubdtype(x.dtype, np.floating):
        raise DataError(f"unscale expects floats in [-1, 1], got {x.dtype}: are these pixels already?")
    if np.isnan(x).any():
        raise DataError("unscale expects floats in [-1, 1], got NaN: find the computation that produced it")
    return np.rint((np.clip(x, -1, 1) + 1) * 127.5).astype(np.uint8)


def check_size(where: str, count: int, height: int, width: int) -> None:
    """Raises DataError, with `where` at its start, unless there are images, and they are square and large enough."""
    if count == 0:
        raise DataError(f"{where}: expected at least one image, got 0: is this the right file?")
    if height != width:
        raise DataError(
            f"{where}: expected square images, got {height} rows x {width} columns: crop or pad them to a square"
        )
    if height < MIN_SIDE:
        raise DataError(
            f"{where}: expected images of at least {MIN_SIDE} x {MIN_SIDE} pixels, got {height} x {width}: "
            "use larger ones"
        )
