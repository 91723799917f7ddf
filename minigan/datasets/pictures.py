"""Read a folder of pictures (.png, .jpg and others). Pillow is imported only when the first picture is opened."""

import os
from pathlib import Path

import numpy as np

from minigan.datasets.files import DataError, explain
from minigan.datasets.images import Images, check_size

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pbm", ".pgm", ".ppm")
# Pillow is limited to these formats, because it chooses by content and opens PostScript with an external program.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")


def find(folder: Path) -> list[Path]:
    """Returns the pictures in `folder` and all its subfolders, by suffix, sorted by path, without hidden files."""
    files = []

    def raise_error(error: OSError) -> None:
        raise explain(folder, error)  # by default, os.walk skips folders that it cannot read

    for parent, folders, names in os.walk(folder, onerror=raise_error):
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        files += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(file for file in files if file.suffix.lower() in SUFFIXES)


def load(folder: Path) -> Images:
    """Loads images (N, H, W, C) from the pictures in `folder` and its subfolders, in the order of their paths.

    C is 1 if every pixel of every picture is grey, independent of the mode of the file, else 3. Transparent pixels are
    blended with black, the background of MNIST. Pixels of 16 bits are rounded to 8. Of an animation, the first frame
    is loaded. The EXIF orientation is applied.

    If all pictures are in two or more subfolders, each subfolder is a class. The label is the index of the subfolder in
    sorted order, and `source` lists the names. Otherwise there are no labels.

    All pictures must have the same square size. Raises DataError, which names the first picture that differs.
    """
    files = find(folder)
    if not files:
        raise DataError(f"{folder}: expected pictures ({', '.join(SUFFIXES)}), found none: is this the right folder?")
    x = np.empty((0, 0, 0, 1), np.uint8)
    for i, file in enumerate(files):
        picture = read(file, x.shape[1:3] if i else None, files[0])  # (H, W, 3)
        if i == 0:
            x = np.empty((len(files), *picture.shape[:2], 1), np.uint8)
        grey = (picture == picture[..., :1]).all()
        if not grey and x.shape[3] == 1:  # first colour picture: repeat the channel of those before it
            x = np.repeat(x, 3, axis=3)
        x[i] = picture[..., : x.shape[3]]

    labels, source = None, f"{len(files)} pictures in {folder}"
    parts = [file.relative_to(folder).parts for file in files]
    classes = sorted({part[0] for part in parts})
    if len(classes) > 1 and all(len(part) > 1 for part in parts):
        labels = np.array([classes.index(part[0]) for part in parts], np.int64)
        source += ", labels " + ", ".join(f"{i} {name}" for i, name in enumerate(classes))
    return Images(x, labels, name=folder.resolve().name, source=source)


def read(path: Path, size: tuple[int, int] | None, first: Path) -> np.ndarray:
    """Reads the pixels (H, W, 3) uint8 of one picture.

    Raises DataError unless the picture has the `size` (H, W) of the picture `first`, or is square if `size` is None.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path, formats=FORMATS) as image:
            # Check the size before decoding, because decoding allocates memory for the declared size.
            H, W = image.height, image.width
            if size is None:
                check_size(str(path), 1, H, W)
            elif (H, W) != size:
                raise DataError(
                    f"{path}: this picture has {H} rows x {W} columns, but {first} has {size[0]} x {size[1]}: "
                    "bring all pictures to the same square size"
                )
            return _pixels(ImageOps.exif_transpose(image), path)
    except (DataError, MemoryError):
        raise
    except OSError as error:
        if error.errno is not None:  # from the operating system; errors of a codec have no number
            raise explain(path, error) from None
        reason = str(error)
    except Exception as error:  # damage can make a codec raise any error
        reason = f"{type(error).__name__}: {error}"
    reason = reason.replace(f" {str(path)!r}", " this file")
    raise DataError(f"{path}: cannot be read as a picture ({reason}): replace it, or take it out of the folder")


def _pixels(image, path: Path) -> np.ndarray:
    """Converts a Pillow image to (H, W, 3) uint8. Transparent pixels are blended with black."""
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits per pixel, which Pillow's conversion would clip at 255
        pixels = np.asarray(image)
        if pixels.min() < 0 or pixels.max() > 65535:
            raise DataError(f"{path}: expected 8 or 16 bits per pixel, got 32: save it with 8")
        grey = np.rint(pixels / 257).astype(np.uint8)  # 65535 = 257 * 255
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode == "F":
        raise DataError(f"{path}: expected 8 or 16 bits per pixel, got floats: save it with 8, or save all as .npy")
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    return np.asarray(image.convert("RGB"))
