"""A folder of pictures: .png, .jpg and the like. Pillow is imported when the first one is opened, not before."""

import os
from pathlib import Path

import numpy as np

from minigan.datasets.files import DataError, explain
from minigan.datasets.images import Images, check_size

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pbm", ".pgm", ".ppm")
# Named to Pillow, which else goes by the content: an Encapsulated PostScript file would be handed to a program.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")


def find(folder: Path) -> list[Path]:
    """The pictures in `folder` and all folders below it, known by suffix, sorted by name; hidden ones are left out."""
    files = []

    def refuse(error: OSError) -> None:
        raise explain(folder, error)  # os.walk would pass over a folder that it may not read

    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        files += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(file for file in files if file.suffix.lower() in SUFFIXES)


def load(folder: Path) -> Images:
    """Images (N, H, W, C) from the pictures in `folder` and below, in the order of their names.

    C is 1 if every pixel of every picture is grey, whatever the file calls itself, else 3. Transparent pixels are laid
    on black, the background of MNIST; 16 bits are rounded to 8; of an animation the first frame is taken; a camera's
    note on orientation is obeyed.

    Where two or more subfolders hold all the pictures, each is a class: the label is its index among them in sorted
    order, and `source` lists the names. Otherwise there are no labels.

    All pictures have the same square size; a DataError names the first that differs.
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
        if not grey and x.shape[3] == 1:  # the first picture in colour: those before it have three equal channels
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
    """The pixels (H, W, 3) uint8 of one picture; DataError unless they have the `size` (H, W) that picture `first` had,
    or, where `size` is None, are square."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path, formats=FORMATS) as image:
            # The size first: decoding a picture of absurd size takes the memory that it promises.
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
        if error.errno is not None:  # from the operating system; a codec's complaint has no number
            raise explain(path, error) from None
        reason = str(error)
    except Exception as error:  # codecs fail on damaged files in any way they like
        reason = f"{type(error).__name__}: {error}"
    reason = reason.replace(f" {str(path)!r}", " this file")
    raise DataError(f"{path}: cannot be read as a picture ({reason}): replace it, or take it out of the folder")


def _pixels(image, path: Path) -> np.ndarray:
    """A Pillow image as (H, W, 3) uint8, transparency on black."""
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits a pixel; Pillow's own conversion clips at 255
        wide = np.asarray(image)
        if wide.min() < 0 or wide.max() > 65535:
            raise DataError(f"{path}: expected 8 or 16 bits a pixel, got 32: save it with 8")
        grey = np.rint(wide / 257).astype(np.uint8)  # 65535 = 257 * 255
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode == "F":
        raise DataError(f"{path}: expected 8 or 16 bits a pixel, got floats: save it with 8, or all of them as .npy")
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    return np.asarray(image.convert("RGB"))
