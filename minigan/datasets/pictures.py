"""Read a folder of pictures in any format of Pillow, which is imported when it is first needed."""

import os
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np

from minigan.backends import cores
from minigan.datasets.files import DataError, expect_room, explain
from minigan.datasets.images import (
    DEFAULTS,
    SPLITS,
    ImageOptions,
    Images,
    check_size,
    colour_of,
    fit_picture,
    fit_values,
    said_fit,
)
from minigan.datasets.labels import listing, natural, readable
from minigan.datasets.pixels import find_range, to_bytes
from minigan.terminal import tqdm

# Formats that are not read: documents, and formats that Pillow only identifies or passes to other programs.
LEFT_OUT = {"EPS", "WMF", "MPEG", "HDF5", "GRIB", "BUFR", "FITS", "PDF", "PALM"}
SYSTEM = {"thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "icon\r"}  # of operating systems
NO_PIXELS = np.empty((0, 0, 1), np.uint8)
CHUNK = 64  # pictures that a thread reads in one task
FIRST = 5  # maximum number of files that a message names


@cache
def suffixes() -> dict[str, str]:
    """Return the suffixes that Pillow reads here, with their formats: {".png": "PNG", ...}."""
    from PIL import Image

    Image.init()
    known = Image.registered_extensions().items()
    return {suffix: name for suffix, name in known if name in Image.OPEN and name not in LEFT_OUT}


@cache
def _formats(suffix: str) -> list[str]:
    """Return the formats that Pillow should try for a file with this suffix: its own first, then all others."""
    return list(dict.fromkeys([*filter(None, [suffixes().get(suffix)]), *suffixes().values()]))


# ---------------------------------------------------------------- finding


@dataclass
class Folder:
    """The pictures in a folder and its subfolders, and the number of files that were skipped."""

    path: Path
    files: list[Path] = field(default_factory=list)
    system: int = 0  # number of hidden files and folders, and of those of operating systems
    others: Counter = field(default_factory=Counter)  # number of other files, by suffix

    def notes(self) -> list[str]:
        """Return notes on the files that were skipped."""
        lines = []
        if self.others:
            named = ", ".join(
                f"{count:,} {suffix or 'without a suffix'}" for suffix, count in self.others.most_common(8)
            )
            lines.append(f"files that are not pictures were passed over: {named}")
        if self.system:
            lines.append(f"{self.system:,} hidden and system files or folders were passed over")
        return lines


def is_system(name: str) -> bool:
    """Return whether a file or folder of this name is hidden or part of the operating system."""
    return name.startswith(".") or name.casefold() in SYSTEM


def find(path: Path) -> Folder:
    """Find the pictures in a folder and its subfolders by their suffixes, and sort them by path.

    Symbolic links are followed, but every folder is read only once. Raises DataError if a folder
    cannot be read.
    """
    found, seen = Folder(path), set()

    def refuse(error: OSError) -> None:
        raise explain(path, error)  # otherwise os.walk skips folders that it cannot read

    for parent, folders, names in os.walk(path, onerror=refuse, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a link to a folder that was already read
            folders.clear()
            continue
        seen.add(real)
        found.system += sum(map(is_system, [*folders, *names]))
        folders[:] = [name for name in folders if not is_system(name)]
        for name in (name for name in names if not is_system(name)):
            suffix = os.path.splitext(name)[1].lower()
            if suffix in suffixes():
                found.files.append(Path(parent, name))
            else:
                found.others[suffix] += 1
    found.files.sort()
    return found


def split_folder(path: Path, split: str) -> tuple[Path | None, list[str]]:
    """Return the subfolder of the split, or None if the folder is not divided into splits, and notes.

    A folder is divided into splits if one subfolder has a name of the training split in SPLITS, and
    the other subfolders that contain pictures have names of the other splits. Raises DataError if
    there is no folder for the split, or more than one.
    """
    splits: dict[str, list[Path]] = {name: [] for name in SPLITS}
    folders = sorted((entry for entry in path.iterdir() if entry.is_dir() and not is_system(entry.name)), key=str)
    others: list[Path] = []  # folders that are not splits
    for folder in folders:
        name = next((name for name, words in SPLITS.items() if folder.name.casefold() in words), None)
        (others if name is None else splits[name]).append(folder)
    if not splits["train"] or any(find(folder).files for folder in others):
        return None, []
    if len(splits[split]) != 1:
        count = "no folder" if not splits[split] else f"{len(splits[split])} folders"
        raise DataError(
            f"{path}: there is {count} for the split {split!r}: the folders are "
            f"{', '.join(folder.name for folder in folders)}: give the path of one of them"
        )
    chosen = splits[split][0]
    skipped = [folder.name for folder in folders if folder != chosen]
    notes = [
        f"the folder is divided into splits: {chosen.name} is read" + (f", {listing(skipped)} not" if skipped else "")
    ]
    stray = [file.name for file in find(path).files if file.parent == path]
    if stray:
        notes.append(f"pictures next to the folders of the splits are not read: {listing(stray, FIRST)}")
    return chosen, notes


def classes_of(found: Folder) -> tuple[np.ndarray | None, list[str] | None, list[str]]:
    """Return (labels (N,), class names, notes), or (None, None, []) if there are no classes.

    Each subfolder with pictures is a class if there are at least two. Pictures outside these
    subfolders have no class. They are removed from `found`, and a note says how many they are.
    """
    parts = [file.relative_to(found.path).parts for file in found.files]
    names = sorted({readable(part[0]) for part in parts if len(part) > 1}, key=natural)
    if len(names) < 2:
        return None, None, []
    stray = [file for file, part in zip(found.files, parts, strict=True) if len(part) == 1]
    notes = []
    if stray:
        notes.append(
            f"{len(stray):,} {'picture' if len(stray) == 1 else 'pictures'} next to the class folders "
            f"({listing([file.name for file in stray], FIRST)}) {'has' if len(stray) == 1 else 'have'} no class and "
            f"{'is' if len(stray) == 1 else 'are'} left out"
        )
        found.files = [file for file, part in zip(found.files, parts, strict=True) if len(part) > 1]
        parts = [part for part in parts if len(part) > 1]
    index = {name: i for i, name in enumerate(names)}
    return np.array([index[readable(part[0])] for part in parts], np.int64), names, notes


# ---------------------------------------------------------------- loading


@dataclass(frozen=True)
class Picture:
    """A decoded picture, or the reason why it cannot be read."""

    pixels: np.ndarray  # (H, W, C); C is 1, 2 (grey, alpha), 3 or 4 (RGB, alpha); empty after an error
    error: str = ""
    size: tuple[int, int] = (0, 0)  # (H, W) before resizing
    frames: int = 1


def load(
    path: Path, options: ImageOptions = DEFAULTS, folder_notes: list[str] | None = None, most: int | None = None
) -> Images:
    """Load images (N, H, W, C) from the pictures in a folder and its subfolders, sorted by path.

    C is 1 if every pixel of every picture is grey, else 3. Pictures are rotated as their EXIF data
    say, and 16 bits are rounded to 8. The first frame of an animation is used. Transparent pixels
    are blended with one background for all pictures: the colour in the options, or by default white
    behind dark drawings and black behind light ones. If two or more subfolders contain pictures,
    each of them is a class with its name. The notes of the result start with `folder_notes` and say
    what was assumed, changed and left out. With `most`, at most so many pictures are read, evenly
    spaced.

    Raises DataError for pictures of different sizes (the options --size and --fit make them equal),
    for files that cannot be read (--skip-bad leaves them out), and for a data set that does not fit
    in memory.
    """
    found = find(path)
    if not found.files:
        raise DataError(f"{path}: expected pictures ({listing(sorted(suffixes()), 8)}), found none: is this the right "
                        "folder?")  # fmt: skip
    labels, names, notes = classes_of(found) if options.labels else (None, None, [])
    if most is not None and len(found.files) > most:
        some = np.arange(most) * len(found.files) // most
        found.files, labels = [found.files[i] for i in some], None if labels is None else labels[some]
    notes = [*(folder_notes or []), *notes, *found.notes()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of damaged EXIF data, which are ignored
        pictures = list(decoded(found.files, options))
    bad = [(file, each.error) for file, each in zip(found.files, pictures, strict=True) if each.error]
    if bad:
        said = f"{len(bad):,} of {len(pictures):,} pictures cannot be read"
        first = "; ".join(f"{file.relative_to(path)}: {error}" for file, error in bad[:FIRST])
        first += f"; and {len(bad) - FIRST:,} more" if len(bad) > FIRST else ""
        if not options.skip_bad:
            raise DataError(f"{path}: {said} ({first}): repair or remove them, or leave them out with --skip-bad")
        if len(bad) == len(pictures):
            raise DataError(f"{path}: {said} ({first}): is this the right folder?")
        notes.append(f"{said} and are left out ({first})")
    kept = [i for i, each in enumerate(pictures) if not each.error]
    files, pictures = [found.files[i] for i in kept], [pictures[i] for i in kept]
    if labels is not None:
        labels = labels[kept]
        empty = [name for i, name in enumerate(names or ()) if not (labels == i).any()]
        if empty and most is None:
            raise DataError(f"{path}: no picture of the classes {listing(empty)} can be read: remove these folders")
    _expect_equal_sizes(path, files, pictures)
    if any(each.pixels.shape[:2] != each.size for each in pictures):
        sizes = Counter(each.size for each in pictures)
        size, count = sizes.most_common(1)[0]
        notes.append(
            said_fit(size, pictures[0].pixels.shape[0], options)
            + (f" ({len(pictures) - count:,} pictures have other sizes)" if count < len(pictures) else "")
        )
    moving = sum(each.frames > 1 for each in pictures)
    if moving:
        notes.append(
            f"{moving:,} {'files contain' if moving > 1 else 'file contains'} several frames: the first is used"
        )
    images, more = _assembled([each.pixels for each in pictures], str(path), options)
    origin = f"the {len(names)} folders in {path}" if names else "" if options.labels else "not read"
    return Images(
        images, labels, path.resolve().name, f"{len(files):,} pictures in {path}", names, origin, (*notes, *more)
    )  # fmt: skip


def decoded(files: list[Path], options: ImageOptions) -> Iterator[Picture]:
    """Yield the decoded pictures in the order of the files. Several threads decode them.

    A progress bar is shown for more than 500 files. Raises DataError if the pictures would not fit
    in memory, which is estimated from the first one that can be read.
    """
    chunks = [files[i : i + CHUNK] for i in range(0, len(files), CHUNK)]
    stop, side = threading.Event(), target_side(files, options)
    first = (read(file, options, side).pixels.nbytes for file in files[:CHUNK])
    room = next((size for size in first if size), 0) * len(files)
    expect_room(room, f"{files[0].parent}: {len(files):,} pictures", "use fewer pictures, or a smaller --size")

    def read_chunk(chunk: list[Path]) -> list[Picture]:
        return [] if stop.is_set() else [read(file, options, side) for file in chunk]

    bar = tqdm(
        total=len(files), desc="reading pictures", unit="", leave=False, disable=None if len(files) > 500 else True
    )
    with ThreadPoolExecutor(cores()) as pool, bar:
        try:
            # At most two chunks per thread are in progress, which bounds the memory if the consumer is slow.
            waiting, rest = [], iter(chunks)
            for chunk in islice(rest, 2 * cores()):
                waiting.append(pool.submit(read_chunk, chunk))
            while waiting:
                done = waiting.pop(0).result()
                for chunk in islice(rest, 1):
                    waiting.append(pool.submit(read_chunk, chunk))
                bar.update(len(done))
                yield from done
        finally:
            stop.set()


def target_side(files: list[Path], options: ImageOptions) -> int | None:
    """Return the side to which every picture is resized, or None if pictures are not resized.

    It is the option --size, or the shortest side of all pictures if only --fit is given. Raises
    DataError if a picture is too small for --fit alone.
    """
    if options.size or not options.fit:
        return options.size or None
    sides = {file: min(size) for file in files if (size := _size_of(file)) is not None}
    if not sides:
        return None
    smallest = min(sides, key=lambda file: sides[file])
    check_size(str(smallest), (1, sides[smallest], sides[smallest]))
    return sides[smallest]


def _size_of(file: Path) -> tuple[int, int] | None:
    """Return (width, height) from the header of a picture, or None if it cannot be read."""
    from PIL import Image

    try:
        with Image.open(file, formats=_formats(file.suffix.lower())) as image:
            return image.size
    except Exception:  # `read` reports the error
        return None


def read(path: Path, options: ImageOptions = DEFAULTS, side: int | None = None) -> Picture:
    """Decode one picture, rotate it as its EXIF data say, and resize it to side x side pixels.

    The picture keeps its size if `side` is None. If the file cannot be read, no exception is
    raised, and `error` of the result contains the reason.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path, formats=_formats(path.suffix.lower())) as image:
            # Check the size before decoding, because decoding allocates the memory for the declared size.
            check_size("it", (1, image.height, image.width)) if side is None else None
            expect_room(image.height * image.width * 4, "it", "make it smaller")
            frames = getattr(image, "n_frames", 1)
            image.load()
            try:
                upright = ImageOps.exif_transpose(image)
            except Exception:  # damaged EXIF data contain no orientation
                upright = image
            plain = _plain(upright)
            size = (plain.height, plain.width)
            if side is None or plain.size == (side, side):
                pixels = np.asarray(plain)
            elif plain.mode in ("L", "LA", "RGB", "RGBA"):
                pixels = np.asarray(fit_picture(plain, side, options))
            else:
                pixels = fit_values(np.asarray(plain), side, options)
            return Picture(pixels if pixels.ndim == 3 else pixels[..., None], "", size, frames)
    except MemoryError:
        raise
    except DataError as error:
        reason = str(error).removeprefix("it: ")
    except OSError as error:
        # Errors of the operating system have a number, and errors of decoders have none.
        reason = str(error.strerror) if error.errno is not None else str(error)
    except Exception as error:  # damaged files raise many kinds of errors in decoders
        reason = f"{type(error).__name__}: {error}"
    reason = str(reason).replace(repr(str(path)), "this file").replace(str(path), "this file")
    if os.path.exists(path) and os.path.getsize(path) == 0:
        reason = "the file is empty"
    return Picture(NO_PIXELS, " ".join(reason.split())[:120] or "it cannot be decoded")


def _plain(image):
    """Convert a Pillow picture to mode L, LA, RGB or RGBA. 16 and 32 bits per pixel are kept."""
    if image.mode.startswith("I") or image.mode == "F":
        return image
    transparent = "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info
    if image.mode in ("1", "L", "LA", "La") or (image.mode == "P" and _is_grey(image)):
        return image.convert("LA" if transparent else "L")
    return image.convert("RGBA" if transparent else "RGB")


def _is_grey(image) -> bool:
    """Return whether the palette contains only greys."""
    colours = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    return bool(colours.size) and bool((colours == colours[:, :1]).all())


def _expect_equal_sizes(path: Path, files: list[Path], pictures: list[Picture]) -> None:
    """Raise DataError, which names a picture that differs, unless all pictures have one size."""
    sizes = Counter(each.pixels.shape[:2] for each in pictures)
    if len(sizes) > 1:
        (H, W), count = sizes.most_common(1)[0]
        other = next(i for i, each in enumerate(pictures) if each.pixels.shape[:2] != (H, W))
        h, w = pictures[other].pixels.shape[:2]
        raise DataError(
            f"{path}: expected pictures of one size, got {len(sizes):,} sizes: {count:,} have {H} x {W} (rows x "
            f"columns), {files[other].relative_to(path)} has {h} x {w}: bring them to one size, for example with "
            "--size 32 --fit crop"
        )


def _assembled(pictures: list[np.ndarray], where: str, options: ImageOptions) -> tuple[np.ndarray, list[str]]:
    """Copy all pictures into one array (N, H, W, C) uint8 with C = 1 or 3. Returns it, and notes.

    The elements of the list are replaced by empty arrays, which frees their memory.
    """
    notes = []
    if any(each.shape[2] in (2, 4) for each in pictures):
        colour, more = background(pictures, options)
        notes += more
        for i, each in enumerate(pictures):
            if each.shape[2] in (2, 4):
                pictures[i] = on_background(each, colour)
    mixed = len({each.dtype for each in pictures}) > 1
    if mixed:
        notes += _to_8_bits(pictures, where, options)
    colours = any(each.shape[2] == 3 and (each != each[..., :1]).any() for each in pictures)
    shape = (len(pictures), *pictures[0].shape[:2], 3 if colours else 1)
    x = np.empty(shape, pictures[0].dtype)
    for i, each in enumerate(pictures):
        x[i] = each[..., :1] if not colours else each  # a grey picture is broadcast to three channels
        pictures[i] = NO_PIXELS
    if x.dtype in (np.int32, np.uint32):  # Pillow reads 16 bits of some formats as 32
        x = _as_16_bits(x)
    if not mixed and (x.dtype != np.uint8 or options.limits or x.max() <= 1):
        x, more = to_bytes(x, where, options.limits)
        notes += more
    return x, notes


def _to_8_bits(pictures: list[np.ndarray], where: str, options: ImageOptions) -> list[str]:
    """Convert pictures of different dtypes to uint8, in place. Returns notes.

    All pictures of one dtype have one range: that of --range, or the one that `pixels.find_range`
    finds for all their values together. Without --range, pictures of 8 bits stay as they are.
    """
    pictures[:] = [each if each.dtype == np.uint8 else _as_16_bits(each) for each in pictures]
    notes, dtypes = [], [each.dtype for each in pictures]
    for dtype in sorted(set(dtypes), key=str):
        chosen = [i for i in range(len(pictures)) if dtypes[i] == dtype]
        if dtype == np.uint8 and not options.limits:
            continue
        values = np.array([[pictures[i].min(), pictures[i].max()] for i in chosen], dtype)
        limits = options.limits
        if limits is None and np.isfinite(values).all():
            found = find_range(dtype, values.min(), values.max(), where)
            limits = found.low, found.high
            notes.append(f"{len(chosen):,} pictures are {dtype}, with values read as {found}")
        for i in chosen:
            pictures[i] = to_bytes(pictures[i], where, limits)[0]
    return notes


def _as_16_bits(x: np.ndarray) -> np.ndarray:
    """Convert integers from 0 to 65535 to uint16. Other arrays are returned unchanged."""
    return x.astype(np.uint16) if x.dtype.kind in "iu" and x.min() >= 0 and x.max() <= 65535 else x


def background(pictures: list[np.ndarray], options: ImageOptions) -> tuple[tuple[int, int, int], list[str]]:
    """Return the colour (red, green, blue) behind transparent pixels, and notes.

    The colour is that of --background. By default it is white if the mean brightness of the visible
    pixels of all pictures (H, W, C) is below 127.5, else black.
    """
    count = sum(each.shape[2] in (2, 4) and bool((each[..., -1] < 255).any()) for each in pictures)
    if not count:
        return (0, 0, 0), []
    said = f"{count:,} of {len(pictures):,} pictures have transparent pixels, which are put on"
    if options.background:
        return colour_of(options.background), [f"{said} {options.background}"]
    total = weight = 0.0
    for each in pictures:
        if each.shape[2] in (2, 4):
            opaque = each[..., -1].astype(np.float64)
            total += (each[..., :-1].mean(axis=2) * opaque).sum()
            weight += opaque.sum()
    mean = total / max(weight, 1.0)  # mean brightness, weighted with alpha
    name = "white" if mean < 127.5 else "black"
    return colour_of(name), [f"{said} {name}, because the drawings are {'dark' if name == 'white' else 'light'}"]


def on_background(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Return alpha * picture + (1 - alpha) * colour: uint8 (H, W, 2 or 4) -> uint8 (H, W, 1 or 3).

    A grey picture stays grey if the colour is a grey.
    """
    alpha = picture[..., -1:].astype(np.float32) / 255
    behind = np.array(colour, np.float32)
    front = picture[..., :-1]
    if front.shape[2] == 1 and len(set(colour)) > 1:
        front = np.repeat(front, 3, axis=2)
    if front.shape[2] == 1:
        behind = behind[:1]
    return np.rint(alpha * front + (1 - alpha) * behind).astype(np.uint8)
