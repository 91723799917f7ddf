"""Training data: digits, coloured shapes, stacked digits, your own image files, points, tables and series.

    data = datasets.load("mnist")              # or a path: IDX files, .npy, .npz, a folder of pictures
    x = datasets.scale(data.images[:128])      # (128, 28, 28, 1) uint8 -> float32 in [-1, 1]
    pixels = datasets.unscale(x)               # the exact inverse

Images are kept in memory as uint8, which takes a quarter of the space of float32. Each batch is
scaled when it is used.

The module `data` defines the protocol that training needs, and KINDS lists the kinds of data.
Images are defined in `images`. The modules `idx`, `arrays` and `pictures` read them from files, and
share the modules `files` (errors), `labels` (classes) and `pixels` (ranges of values). The module
`shapes` draws images, `stacked` stacks digits, and `held_out` keeps samples out of the training.
Points are defined in `points` and drawn from `mixtures`. Tables are defined in `tables`. The module
`table_files` reads them from files, `column_text` recognises numbers and dates, `column_kinds`
infers the kinds of columns, and `columns` encodes and decodes their values. Series are defined in
`sequences`. The modules `sequence_arrays` and `sequence_tables` read them, `processes` draws them,
`sequence_values` prepares them, and `sequence_codec` encodes and decodes their values.
"""

import importlib
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from minigan.datasets import arrays, idx, mixtures, pictures, shapes, stacked
from minigan.datasets.data import Codec, Data, Kind
from minigan.datasets.files import DataError, explain
from minigan.datasets.held_out import hold_out, of_other_split
from minigan.datasets.images import DEFAULTS, MIN_SIDE, ImageCodec, ImageOptions, Images, fitted, scale, unscale
from minigan.datasets.labels import encode, index_of, listing
from minigan.datasets.points import Points
from minigan.datasets.sequences import Sequences
from minigan.datasets.tables import Table

__all__ = [
    "BUILTIN",
    "IN_MEMORY",
    "KINDS",
    "MIN_SIDE",
    "Codec",
    "Data",
    "DataError",
    "ImageOptions",
    "Images",
    "Kind",
    "Points",
    "Sequences",
    "Table",
    "convert",
    "counted",
    "hold_out",
    "index_of",
    "kind_of",
    "kind_of_array",
    "listing",
    "load",
    "mixtures",
    "mnist",
    "plural",
    "scale",
    "stacked_mnist",
    "unscale",
    "with_labels",
]

IN_MEMORY = "(arrays in memory)"  # the value of the option `data` where arrays were given; no path of a file
MNIST_FOLDER = Path(__file__).parent / "mnist"
MNIST_SOURCE = "MNIST by Yann LeCun and Corinna Cortes, CC BY-SA 3.0"


def mnist(split: str = "train") -> Images:
    """Load the embedded MNIST digits: images (N, 28, 28, 1) uint8 and labels (N,) int64, 0 to 9.

    The digits are white on black. `split` is "train" (N = 60,000), "test" (10,000) or "all"
    (70,000: train, then test). Each call reads the files again, so that the caller may change the
    arrays. Raises DataError for other splits.

    MNIST is by Yann LeCun and Corinna Cortes, who license it under Creative Commons
    Attribution-Share Alike 3.0.
    """
    parts = {"train": ["train"], "test": ["t10k"], "all": ["train", "t10k"]}.get(split)
    if parts is None:
        raise DataError(f'MNIST has no split {split!r}: ask for "train", "test" or "all"')
    loaded = [idx.load(MNIST_FOLDER / f"{part}-images-idx3-ubyte.gz") for part in parts]
    if any(part.labels is None for part in loaded):
        raise DataError(f"{MNIST_FOLDER}: the label files of the package are missing: reinstall minigan")
    images = np.concatenate([part.images for part in loaded])
    labels = np.concatenate([part.labels for part in loaded])
    return Images(images, labels, f"mnist-{split}", MNIST_SOURCE, labels_from="MNIST")


def stacked_mnist(split: str = "train") -> Images:
    """Load images (N, 28, 28, 3) of three MNIST digits, one in each channel, with 1,000 classes: see `stacked`.

    `split` is "train" (N = 60,000), "val" or "test" (10,000, of the test digits). Raises DataError
    for other splits.
    """
    return stacked.stack(mnist(stacked.digits_for(split)), split)


FEW = 10  # next to a file of arrays, fewer pictures than these are previews, not the data
# Built-in images, as functions of the split.
BUILTIN = {"mnist": mnist, "shapes": shapes.load, "stacked-mnist": stacked_mnist}


def load(spec: str | Path, options: ImageOptions = DEFAULTS, most: int | None = None) -> Images:
    """Load images (N, H, W, C) uint8 of at least 4 x 4 pixels, with C = 1 (grey) or 3 (RGB).

    `spec` is "mnist", "shapes" or "stacked-mnist" (write ./mnist for a folder of that name), or a path to

    - a folder of IDX files, plain or .gz, as MNIST, Fashion-MNIST, KMNIST, EMNIST and QMNIST are
      distributed; labels in the same folder are read as well;
    - one IDX file of images, plain or .gz;
    - a .npy or .npz array of images: see `arrays.load`;
    - a folder of pictures: see `pictures.load`;
    - a folder that contains a single .npy or .npz file of images.

    If a folder contains both IDX files and pictures, the IDX files are read. If a folder contains
    no images, but exactly one subfolder, the subfolder is read. `options` select what is read and
    how pixels are converted. `Images.description` returns what was assumed, changed and left out.
    Of a folder of pictures, at most `most` are read, evenly spaced.

    Raises DataError, which says in one sentence which file is wrong, where and how, and what to do.
    """
    if str(spec) in BUILTIN:
        return _as_asked(BUILTIN[str(spec)](options.split), options)
    if not str(spec) or "\0" in str(spec):
        raise DataError(f'the name of the data, {str(spec)!r}, is not a path: give "mnist", or a file or folder')
    path = Path(os.path.expanduser(spec))  # because the shell does not expand ~ in --data=~/faces
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            return _load_file(path, options)
        if not stat.S_ISDIR(mode):
            raise DataError(f"{path}: expected a file or a folder, got a device or pipe: copy the data into a file")
        return _load_folder(path, options, most=most)
    except OSError as error:
        raise explain(path, error) from None
    except MemoryError:
        raise DataError(f"{path}: the images do not fit in memory: use fewer or smaller ones") from None


def _as_asked(data: Images, options: ImageOptions) -> Images:
    """Apply the options to built-in images: resize them, and remove labels that are not used."""
    images, notes = fitted(data.images, options)
    data = replace(data, images=images, notes=(*data.notes, *notes))
    return data if options.labels else data.without_labels()


def _load_file(path: Path, options: ImageOptions) -> Images:
    """Load one file, whose format is recognised by its suffix."""
    suffix = path.suffix.lower()
    if suffix in (".npy", ".npz"):
        return arrays.load(path, options)
    if suffix in pictures.suffixes():
        raise DataError(f"{path}: expected many images, got one picture: give the folder that holds the pictures")
    return idx.load(path, options)  # IDX files have no standard suffix; `idx.load` checks their first four bytes


def _load_folder(path: Path, options: ImageOptions, notes: tuple[str, ...] = (), most: int | None = None) -> Images:
    """Load the images in a folder. Their notes start with `notes`. See `load` for `most`."""
    if path.suffix.lower() in (".npy", ".npz", ".gz"):
        raise DataError(f"{path}: expected a file, got a directory: give a file inside it, or rename the directory")
    found, more = idx.find_images(path, options.split)
    if found is not None:
        data = idx.load(found, options)
        return replace(data, notes=(*notes, *more, *data.notes))
    divided, more = pictures.split_folder(path, options.split)
    count = len(pictures.find(divided or path).files)
    held = sorted(file for file in path.iterdir() if file.suffix.lower() in (".npy", ".npz"))
    images = [file for file in held if arrays.images_of(file) is None]
    if len(images) == 1 and count < FEW:
        data = arrays.load(images[0], options)
        said = f"{images[0].name} is the only file of images in the folder"
        passed = f", and {count} pictures in the folder are passed over" if count else ""
        return replace(data, notes=(*notes, said + passed, *data.notes))
    if count:
        if divided is None and options.split != "train":
            raise DataError(f"{path}: --split {options.split} needs a folder of that name, next to one called train")
        return pictures.load(divided or path, options, [*notes, *more], most)
    inner = [entry for entry in path.iterdir() if entry.is_dir() and not pictures.is_system(entry.name)]
    if len(inner) == 1 and not held:
        return _load_folder(inner[0], options, (*notes, f"the data are in the folder {inner[0]}"), most)
    content = "neither" if any(path.iterdir()) else "an empty folder"
    hint = f"give the file itself, such as {held[0]}" if held else "is this the right folder?"
    raise DataError(
        f"{path}: expected IDX image files (named like train-images-idx3-ubyte.gz) or pictures "
        f"({listing(sorted(pictures.suffixes()), 8)}) in this folder, found {content}: {hint}"
    )


def _convert_for_training(x: Any, labels: Any, options: ImageOptions, shown: bool = True) -> Images:
    """Convert arrays for training. Raises DataError if all pixels have the same value.

    Labels that no network sees are kept too, because they are no part of the images.
    """
    return _not_constant(arrays.convert(x, labels, options), "the array of images", options)


def _load_for_training(spec: str, options: ImageOptions, seed: int, labels: bool = True) -> Images:
    """Load images for training, and those of another split as `held_out`, if there are any.

    Raises DataError if all pixels have the same value.
    """
    data = _not_constant(load(spec, replace(options, labels=labels)), spec, options)
    return of_other_split(data, spec, replace(options, labels=labels), load)


def _not_constant(data: Images, where: str, options: ImageOptions) -> Images:
    """Return the data. Raises DataError if all pixels of all images have the same value.

    Such images are accepted if options are given, because the user then decided how they are read.
    """
    if data.images.min() == data.images.max() and options == DEFAULTS:
        H, W = data.images.shape[1:3]
        also = "" if H == W else f"; they are {H} x {W} pixels, which --size 32 --fit crop makes square"
        raise DataError(
            f"{where}: every pixel of these {len(data):,} images is {data.images.flat[0]}: are they the right ones? "
            f"--range says which values are black and white, --background what is behind transparent pixels{also}"
        )
    return data


IMAGES = Kind(
    name="images",
    noun="image",
    load=_load_for_training,
    codec=ImageCodec,
    default_preset="digits",
    builtin=tuple(BUILTIN),
    example_shape=(8, 8, 1),
    claims=lambda data: f"{data} is a set of images" if data in BUILTIN else None,
    options=ImageOptions,
    convert=_convert_for_training,
    reads=lambda data: Path(data).suffix.lower() in (".npy", ".npz"),
)
OTHER_KINDS = ("points", "tables", "sequences")  # modules of this folder, each with a KIND
_others = [importlib.import_module(f"minigan.datasets.{name}").KIND for name in OTHER_KINDS]
KINDS: dict[str, Kind] = {kind.name: kind for kind in (IMAGES, *_others)}


def kind_of(spec: str, otherwise: str = "images") -> tuple[str, str]:
    """Return (the kind of data that the value of --data indicates, the reason). If nothing does: `otherwise`."""
    for kind in KINDS.values():
        if reason := kind.claims(spec):
            return kind.name, reason
    return otherwise, f"{spec} is a file or folder"


def kind_of_array(x: Any) -> tuple[str, str]:
    """Return (the kind of data that an array holds, the reason). An object of this package has its own kind."""
    shape = getattr(x, "shape", None)
    if isinstance(getattr(x, "kind", None), str) and x.kind in KINDS:  # a data frame may have a column called kind
        return x.kind, f"{x.kind} were given"
    for kind in KINDS.values():
        if what := kind.takes(x):
            return kind.name, f"{what} was given"
    return IMAGES.name, f"an array{'' if shape is None else f' {tuple(shape)}'} was given"


def counted(count: int, kind: str) -> str:
    """Return a number of samples of a kind as text: 2,000 images, 2,000 series."""
    return f"{count:,} {KINDS[kind].noun if count == 1 else plural(kind)}"


def plural(kind: str) -> str:
    """Return what several samples of a kind are called: images, points, rows or series."""
    noun = KINDS[kind].noun
    return noun if noun.endswith("s") else f"{noun}s"


def convert(x: Any, labels: Any, kind: str, options: Any, shown: bool = True) -> Data:
    """Convert an array and labels to data of this kind. `shown` says whether networks will see the labels.

    Raises DataError if the kind has no arrays.
    """
    own = KINDS[kind].convert
    if own is None:
        names = " or ".join(map(repr, KINDS[kind].builtin))
        raise DataError(f"data of the kind {kind} are not arrays: give {names}")
    return own(x, labels, options, shown)


def with_labels(data: Data, labels: Any) -> Data:
    """Return the images or series with these labels, one for each, of any type. Raises DataError if they do not fit."""
    if isinstance(data, Sequences):
        return data.with_labels(labels)
    if not isinstance(data, Images):
        raise DataError(f"data of the kind {data.kind} have their own labels: leave the labels out")
    codes, names, notes = encode(np.asarray(labels), "the labels")
    arrays.expect_one_each(codes, len(data), "the labels")
    held_out = data.held_out and data.held_out.without_labels()  # their labels were not given
    data = replace(data, labels_from="the given array", notes=(*data.notes, *notes), held_out=held_out)
    return replace(data, labels=codes, class_names=names)
