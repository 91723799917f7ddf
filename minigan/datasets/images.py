"""What a data set is: images as unsigned bytes, and perhaps their labels; and the way to floats and back."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from minigan.backends import Array, Backend, reference
from minigan.datasets.data import checksums
from minigan.datasets.files import DataError
from minigan.files import write_array

MIN_SIDE = 4  # pixels: the least that two halvings leave anything of


@dataclass(frozen=True, eq=False)  # eq=False: arrays have no single truth value to compare by
class Images:
    """N square images, and perhaps a label for each."""

    images: np.ndarray  # (N, H, W, C) uint8, C-contiguous; C is 1 (grey) or 3 (RGB)
    labels: np.ndarray | None  # (N,) int64, not negative; None where there are none
    name: str  # short, for titles: "mnist-train"
    source: str = ""  # what was read, and what was done to it, for the log
    placed: tuple[Backend, Array] | None = None  # the images on a backend, for `batch`

    kind = "images"
    held_out = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """(H, W, C)"""
        return self.images.shape[1:]

    @property
    def class_names(self) -> list[str] | None:
        return None if self.labels is None else [str(label) for label in range(int(self.labels.max()) + 1)]

    @property
    def codec(self) -> "ImageCodec":
        return ImageCodec()

    def to(self, backend: Backend) -> "Images":
        """The images stay uint8, also on a GPU: a batch is gathered and scaled there."""
        return replace(self, placed=(backend, backend.asarray(self.images)))

    def batch(self, index: Array) -> Array:
        """Images (N, H, W, C) in [-1, 1] of these indices (N,)."""
        backend, images = self.placed or (reference(), self.images)
        return backend.gather(images, index)

    def fingerprint(self) -> dict:
        return checksums(self.images, self.labels)


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

    A DataError refuses an `x` that is not uint8 (it may be scaled already) and a `dtype` that is no float.
    """
    if x.dtype != np.uint8:
        raise DataError(f"scale expects uint8 pixels, got {x.dtype}: were these scaled already?")
    if not np.issubdtype(dtype, np.floating):
        raise DataError(f"scale gives floats in [-1, 1], it cannot give {np.dtype(dtype)}: ask for float32 or float64")
    return x.astype(dtype) / 127.5 - 1  # Python's own numbers do not widen the dtype


def unscale(x: np.ndarray) -> np.ndarray:
    """round((x + 1) * 127.5): floats of any shape -> uint8, the exact inverse of `scale`; outside [-1, 1] is clipped.

    A DataError refuses an `x` that is not float, and NaN, which is no pixel.
    """
    if not np.issubdtype(x.dtype, np.floating):
        raise DataError(f"unscale expects floats in [-1, 1], got {x.dtype}: are these pixels already?")
    if np.isnan(x).any():
        raise DataError("unscale expects floats in [-1, 1], got NaN: look for where the numbers first went wrong")
    return np.rint((np.clip(x, -1, 1) + 1) * 127.5).astype(np.uint8)


def check_size(where: str, count: int, height: int, width: int) -> None:
    """DataError, opening with `where`, unless there are images and they are square and large enough to learn from."""
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
