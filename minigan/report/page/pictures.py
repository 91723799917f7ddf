"""Pictures for pages: PNG and JPEG files as bytes, small versions of pictures on disk, and heat maps of arrays."""

import io
import math
from pathlib import Path

import numpy as np
from PIL import Image

from minigan.report.plots import to_pillow

Picture = tuple[bytes, str, tuple[int, int]]  # the file, its kind (png or jpeg), and its (width, height)
PHOTO = 60_000  # bytes of a PNG file, above which a picture of a page is stored as JPEG
# Colours from low to high, as (position, red, green, blue), with equal steps of brightness.
FORWARD = ((0.0, 13, 8, 40), (0.25, 74, 24, 110), (0.5, 165, 44, 96), (0.75, 242, 113, 60), (1.0, 252, 250, 190))
BACKWARD = ((0.0, 5, 48, 97), (0.25, 67, 147, 195), (0.5, 247, 247, 247), (0.75, 214, 96, 77), (1.0, 103, 0, 31))
PIXELS = 14_000  # of a heat map, at most
CHANNELS = 64  # of an image, at most, that a heat map shows
SAMPLES, FEATURES = 16, 160  # of rows, at most, that a heat map shows
SEVERAL = 8  # samples of images with few channels that a heat map shows


def encoded(image: Image.Image) -> Picture:
    """Return a picture as a file, its kind (png or jpeg), and its (width, height)."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=image.width * image.height < 1_000_000)
    if buffer.tell() > PHOTO and image.mode in ("RGB", "L"):
        photo = io.BytesIO()
        image.save(photo, "JPEG", quality=88, subsampling=0, optimize=True)
        if photo.tell() < buffer.tell():
            return photo.getvalue(), "jpeg", image.size
    return buffer.getvalue(), "png", image.size


def of_file(path: Path, shrink: int = 1, most: int | None = None) -> Picture | None:
    """Return a picture on disk as `encoded` does, `shrink` times smaller, or None if it is missing or damaged.

    A picture whose pixels were repeated, as `plots.grid` does, loses nothing if it is shrunk as much. The
    result is at most `most` pixels wide and high.
    """
    try:
        with Image.open(path) as opened:
            opened.load()
            image: Image.Image = opened
            if shrink > 1:
                image = image.resize((image.width // shrink, image.height // shrink), Image.Resampling.NEAREST)
            if most is not None:
                image.thumbnail((most, most))
            return encoded(image)
    # Pillow raises these for files that are missing, half written, no pictures, or absurdly large.
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError):
        return None


def of_array(array: np.ndarray) -> Picture:
    """Return a picture (height, width, C) of uint8 as `encoded` does."""
    return encoded(to_pillow(array))


def _palette(anchors: tuple[tuple[float, int, int, int], ...]) -> list[int]:
    """Return the 256 colours between the anchors, red, green and blue in turn. The last one is the gap's grey."""
    at, *colours = np.array(anchors).T
    line = np.stack([np.interp(np.linspace(0, 1, 255), at, colour) for colour in colours], axis=1)
    return [*np.round(line).astype(int).ravel().tolist(), 128, 128, 128]


def heat_map(array: np.ndarray, signed: bool) -> Picture:
    """Draw an array (N, H, W, C) or (N, n) as a picture, in which colours stand for values.

    Images show the channels of the first sample side by side, or several samples if there are at most
    three channels. Rows show samples below each other. If `signed`, zero is white, and colours reach
    to the largest absolute value, otherwise they reach from the smallest value to the largest.
    """
    tiles = _tiles(np.asarray(array, np.float64))
    finite = tiles[np.isfinite(tiles)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if signed:
        high = max(abs(low), abs(high))
        low = -high
    scaled = (tiles - low) / (high - low) if high > low else np.full(tiles.shape, 0.5 if signed else 0.0)
    index = np.round(254 * np.nan_to_num(scaled, nan=0.5, posinf=1.0, neginf=0.0)).clip(0, 254).astype(np.uint8)
    image = Image.fromarray(_arranged(index), "P")
    image.putpalette(_palette(BACKWARD if signed else FORWARD))
    return encoded(image)


def _tiles(array: np.ndarray) -> np.ndarray:
    """Return what a heat map shows of an array, as tiles (T, height, width)."""
    if array.ndim == 4:
        _, H, W, C = array.shape
        if C <= 3:
            tiles = array[:SEVERAL].mean(axis=-1)
        else:
            tiles = np.moveaxis(array[0, :, :, :CHANNELS], -1, 0)
        return tiles[: max(1, PIXELS // (H * W))]
    rows = array.reshape(len(array), -1)
    return rows[None, :SAMPLES, :FEATURES]


def _arranged(tiles: np.ndarray) -> np.ndarray:
    """Return tiles (T, H, W) as one picture, in a grid that is about as wide as high, with gaps of one pixel."""
    T, H, W = tiles.shape
    columns = T if T <= SEVERAL else math.ceil(math.sqrt(T * H / W))
    rows = -(-T // columns)
    picture = np.full((rows * (H + 1) - 1, columns * (W + 1) - 1), 255, np.uint8)
    for t, tile in enumerate(tiles):
        top, left = t // columns * (H + 1), t % columns * (W + 1)
        picture[top : top + H, left : left + W] = tile
    return picture
