"""Functions of exported Python files that draw samples and write them. `python_file` copies their source.

In an exported file, the constants at the end and the function `generate` are those of the generator. The functions have
no type annotations, because they are written for the readers of that file.
"""

import argparse
import base64
import csv
import hashlib
import math

import numpy as np

from minigan.export.columns import decode

# ---------------------------------------------------------------- noise and labels


def sample(count, label=None, seed=0):
    """Return `count` samples as floats, those that `minigan sample` draws with this label and seed."""
    labels = every_label(count) if label is None else labels_named(count, label)
    z = np.random.default_rng(seed).standard_normal((count, *NOISE_SHAPE), dtype=np.float32)
    chunks = [slice(i, i + 256) for i in range(0, count, 256)]  # to limit the memory
    return np.concatenate([generate(z[chunk], labels[chunk]) for chunk in chunks])


def every_label(count):
    """Return labels (count,) in which all classes occur in turn."""
    return np.arange(count) % max(len(CLASSES), 1)


def every_label_in_shares(count):
    """Return labels (count,) in which the classes have their shares of the data, also in every beginning."""
    places = (0.5 + np.arange(count) * (math.sqrt(5) - 1) / 2) % 1
    return np.minimum(np.searchsorted(np.cumsum(SHARES), places, side="right"), len(CLASSES) - 1)


def labels_named(count, label):
    """Return labels (count,) of one class."""
    if str(label) not in CLASSES:
        names = f"the labels are {', '.join(CLASSES)}" if CLASSES else "this generator was trained without labels"
        raise ValueError(f"there is no label {label!r}: {names}")
    return np.full(count, CLASSES.index(str(label)))


def uniform_for(z, width):
    """Return numbers (N, width) from (0, 1) for a chunk of noise, which depend on its first vector alone.

    They are those of minigan: number i is computed from the hash of i and a hash of the vector.
    """
    digest = hashlib.blake2b(z[0].astype("<f4").tobytes(), digest_size=8, salt=bytes(8)).digest()
    count, key = len(z) * width, mixed(np.frombuffer(digest, "<u8"))
    numbers = mixed(np.arange(1, count // 2 + 2, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + key)
    bits = numbers.astype("<u8").view("<u4")[:count]
    return ((bits >> 8 | 1).astype(np.float32) * np.float32(2**-24)).reshape(len(z), width)


def mixed(a):
    """Hash each element of a, uint64, by SplitMix64's finaliser (Steele et al. 2014). Products are modulo 2^64."""
    a = (a ^ (a >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    a = (a ^ (a >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return a ^ (a >> np.uint64(31))


# ---------------------------------------------------------------- files


def pixels(x):
    """Return uint8 images for floats in [-1, 1]."""
    return np.rint((np.clip(x, -1, 1) + 1) * 127.5).astype(np.uint8)


def save_images(x, path, seed):
    """Write one picture of all samples (.png, with Pillow), or the images as uint8 (.npy)."""
    images = pixels(x)
    if not path.endswith(".png"):
        return np.save(path, images)
    try:
        from PIL import Image
    except ImportError:
        raise ValueError("PNG needs Pillow: pip install pillow, or give a .npy file") from None
    (N, H, W, C), across = images.shape, min(len(images), max(len(CLASSES), 10) if len(CLASSES) <= 20 else 10)
    picture = np.full((-(-N // across) * (H + 2) + 2, across * (W + 2) + 2, C), 48, np.uint8)
    for n, image in enumerate(images):
        top, left = n // across * (H + 2) + 2, n % across * (W + 2) + 2
        picture[top : top + H, left : left + W] = image
    Image.fromarray(picture[..., 0] if C == 1 else picture).save(path)


def save_floats(x, path, seed):
    """Write the samples as an array (.npy), or rows of numbers (.csv)."""
    if path.endswith(".csv"):
        return np.savetxt(path, x.reshape(len(x), -1), delimiter=",")
    np.save(path, x)


def save_rows(x, path, seed):
    """Write the rows of the table (.csv), or the features of each row as they are (.npy)."""
    if not path.endswith(".csv"):
        return np.save(path, x)
    with open(path, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow([column["name"] for column in COLUMNS])
        rows.writerows(decode(x, COLUMNS, np.random.default_rng(seed)))


def main():
    """Draw samples from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100, help="number of samples (default 100)")
    parser.add_argument("--label", help="draw only this class")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default 0)")
    parser.add_argument("--out", default=OUT, help="the file to write (default %(default)s)")
    chosen = parser.parse_args()
    if chosen.count < 1 or chosen.seed < 0:
        parser.error("--count is at least 1 and --seed at least 0")
    try:
        save(sample(chosen.count, chosen.label, chosen.seed), chosen.out, chosen.seed)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print(f"{chosen.count} samples in {chosen.out}")


def weights(text):
    """Return the arrays by name, which are stored one after another as base64 of float32."""
    numbers, found, at = np.frombuffer(base64.b64decode(text), "<f4"), {}, 0
    for name, shape in ARRAYS.items():
        found[name] = numbers[at : at + math.prod(shape)].reshape(shape)
        at += math.prod(shape)
    return found


# ---------------------------------------------------------------- replaced in an exported file

NOISE_SHAPE: tuple[int, ...] = (1,)
CLASSES: list[str] = []
SHARES: list[float] = []
COLUMNS: list[dict] = []
ARRAYS: dict[str, tuple[int, ...]] = {}
OUT, save = "samples.npy", save_floats


def generate(z, labels):
    """Return the samples for noise and labels."""
    return z
