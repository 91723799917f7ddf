"""Training data: the embedded MNIST digits, image files of your own, and points from mixtures of Gaussians.

    data = datasets.load("mnist")              # or a path: IDX files, .npy, .npz, a folder of pictures
    x = datasets.scale(data.images[:128])      # (128, 28, 28, 1) uint8 -> float32 in [-1, 1]
    pixels = datasets.unscale(x)               # the exact inverse

Images are kept in memory as uint8, which takes a quarter of the space of float32. Each batch is scaled when it is used.

The module `data` defines the protocol that training needs, and KINDS lists the kinds of data. The kind in `images` is
read from files by `idx`, `arrays` and `pictures`, which share the functions in `files`. The kind in `points` is drawn
from `mixtures`.
"""

import os
import stat
from pathlib import Path

import numpy as np

from minigan.datasets import arrays, idx, mixtures, pictures, points
from minigan.datasets.data import Codec, Data, Kind
from minigan.datasets.files import DataError, explain
from minigan.datasets.images import MIN_SIDE, ImageCodec, Images, scale, unscale
from minigan.datasets.points import Points

__all__ = [
    "KINDS",
    "MIN_SIDE",
    "Codec",
    "Data",
    "DataError",
    "Images",
    "Kind",
    "Points",
    "kind_of",
    "load",
    "mixtures",
    "mnist",
    "scale",
    "unscale",
]

MNIST_FOLDER = Path(__file__).parent / "mnist"
MNIST_SOURCE = "MNIST by Yann LeCun and Corinna Cortes, CC BY-SA 3.0"


def mnist(split: str = "train") -> Images:
    """Loads the embedded MNIST digits: images (N, 28, 28, 1) uint8, white on black, and labels (N,) int64 from 0 to 9.

    `split` is "train" (N = 60,000), "test" (10,000) or "all" (70,000: train, then test). Each call reads the files
    again, so the caller may change the arrays. Raises DataError for any other split.

    MNIST is by Yann LeCun and Corinna Cortes, who license it under Creative Commons Attribution-Share Alike 3.0.
    """
    parts = {"train": ["train"], "test": ["t10k"], "all": ["train", "t10k"]}.get(split)
    if parts is None:
        raise DataError(f'MNIST has no split {split!r}: ask for "train", "test" or "all"')
    loaded = [idx.load(MNIST_FOLDER / f"{part}-images-idx3-ubyte.gz") for part in parts]
    if any(part.labels is None for part in loaded):
        raise DataError(f"{MNIST_FOLDER}: the label files of the package are missing: reinstall minigan")
    images = np.concatenate([part.images for part in loaded])
    labels = np.concatenate([part.labels for part in loaded])
    return Images(images, labels, name=f"mnist-{split}", source=MNIST_SOURCE)


def load(spec: str | Path) -> Images:
    """Loads images (N, H, W, C) uint8. They are square, at least 4 x 4 pixels, with C = 1 (grey) or 3 (RGB).

    `spec` is "mnist", which means the embedded training images (write ./mnist for a folder of that name), or a path to

    - a folder of IDX files, plain or .gz, as MNIST, Fashion-MNIST, KMNIST and EMNIST are distributed; if it contains
      several files of images, the training images are loaded, with the labels in the same folder;
    - one IDX file of images, plain or .gz;
    - a .npy or .npz array of images: see `arrays.load`;
    - a folder of pictures: see `pictures.load`.

    If a folder contains both IDX files and pictures, the IDX files are loaded.

    Raises DataError, which says in one sentence which file is wrong, where and how, and what to do.
    """
    if str(spec) == "mnist":
        return mnist()
    if not str(spec) or "\0" in str(spec):
        raise DataError(f'the name of the data, {str(spec)!r}, is not a path: give "mnist", or a file or folder')
    path = Path(os.path.expanduser(spec))  # because the shell does not expand ~ in --data=~/faces
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            return _load_file(path)
        if not stat.S_ISDIR(mode):
            raise DataError(f"{path}: expected a file or a folder, got a device or pipe: copy the data into a file")
        return _load_folder(path)
    except OSError as error:
        raise explain(path, error) from None
    except MemoryError:
        raise DataError(f"{path}: the images do not fit in memory: use fewer or smaller ones") from None


def _load_file(path: Path) -> Images:
    suffix = path.suffix.lower()
    if suffix in (".npy", ".npz"):
        return arrays.load(path)
    if suffix in pictures.SUFFIXES:
        raise DataError(f"{path}: expected many images, got one picture: give the folder that holds the pictures")
    return idx.load(path)  # IDX files have no standard suffix; `idx.load` checks their first four bytes


def _load_folder(path: Path) -> Images:
    if path.suffix.lower() in (".npy", ".npz", ".gz"):
        raise DataError(f"{path}: expected a file, got a directory: give a file inside it, or rename the directory")
    found = idx.find_images(path)
    if found is not None:
        return idx.load(found)
    if pictures.find(path):
        return pictures.load(path)
    arrays_found = sorted(file.name for file in path.iterdir() if file.suffix.lower() in (".npy", ".npz"))
    content = "neither" if any(path.iterdir()) else "an empty folder"
    hint = f"give the file itself, such as {path / arrays_found[0]}" if arrays_found else "is this the right folder?"
    raise DataError(
        f"{path}: expected IDX image files (named like train-images-idx3-ubyte.gz) or pictures "
        f"({', '.join(pictures.SUFFIXES)}) in this folder, found {content}: {hint}"
    )


IMAGES = Kind(
    name="images",
    load=lambda spec, options, seed: load(spec),
    codec=ImageCodec,
    default_preset="digits",
    builtin=("mnist",),
    example_shape=(8, 8, 1),
    claims=lambda data: "mnist is a set of images" if data == "mnist" else None,
)
KINDS = {kind.name: kind for kind in (IMAGES, points.KIND)}


def kind_of(spec: str) -> tuple[str, str]:
    """Returns (the kind of data that the value of --data indicates, the reason)."""
    for kind in KINDS.values():
        if reason := kind.claims(spec):
            return kind.name, reason
    return IMAGES.name, f"{spec} is a file or folder"
