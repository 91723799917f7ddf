"""Test that images from any source are read as intended, or refused with advice in one sentence."""

import gzip
import os

import numpy as np
import pytest
from PIL import Image

from minigan import datasets, models
from minigan.cli import main
from minigan.datasets import DataError, ImageOptions, labels, pictures, pixels, shapes
from minigan.datasets import files as reading
from minigan.errors import UserError

RNG = np.random.default_rng(7)
X = RNG.integers(0, 256, (12, 8, 8), dtype=np.uint8)


def draw(path, x, **options):
    """Write a picture, and create its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(x).save(path, **options)
    return path


def load(path, **options):
    """Load images with these options."""
    return datasets.load(path, ImageOptions(**options))


def refused(path, **options):
    """Return the message of the error that loading raises."""
    with pytest.raises(UserError) as caught:
        load(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def names_of(data):
    """Return the name of the class of each image."""
    return [data.class_names[label] for label in data.labels]


# Labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given, names",
    [
        (np.arange(12) % 3 + 1, ["1", "2", "3"]),
        (np.where(np.arange(12) % 2, 3, 8), ["3", "8"]),
        (np.where(np.arange(12) % 2, -1, 1), ["-1", "1"]),
        (np.array(["dog", "cat", "cow"] * 4), ["cat", "cow", "dog"]),
        (np.array([b"a10", b"a9"] * 6), ["a9", "a10"]),
        (np.arange(12) % 4 * 1.0, ["0", "1", "2", "3"]),
        (np.arange(12)[:, None] % 2, ["0", "1"]),
        (np.eye(3)[np.arange(12) % 3], ["0", "1", "2"]),
        (np.arange(12) % 2 == 0, ["False", "True"]),
        (np.array([2**63, 0] * 6, np.uint64), ["0", str(2**63)]),
    ],
    ids=str,
)
def test_labels_of_any_kind_keep_their_names(tmp_path, given, names):
    np.savez(tmp_path / "x.npz", images=X, labels=given)
    data = load(tmp_path / "x.npz")
    assert data.class_names == names and data.labels.dtype == np.int64
    plain = given.argmax(axis=1) if given.shape == (12, 3) else given.ravel()
    text = [v.decode() if isinstance(v, bytes) else str(v).removesuffix(".0") for v in plain]
    assert names_of(data) == text
    assert f"{len(names)} classes" in data.source and ", ".join(names) in data.source and "'labels'" in data.source


def test_names_sort_as_people_count():
    assert sorted(["10", "2", "1"], key=labels.natural) == ["1", "2", "10"]
    assert sorted(["b", "A", "a10", "a9"], key=labels.natural) == ["A", "a9", "a10", "b"]
    assert sorted(["img12", "img2", "12", "x"], key=labels.natural) == ["12", "img2", "img12", "x"]


def test_a_label_is_found_by_its_name():
    assert labels.index_of("7", ["3", "7"]) == labels.index_of(" 07 ", ["3", "7"]) == 1
    assert labels.index_of("CAT", ["cat", "dog"]) == 0
    with pytest.raises(DataError, match="there is no label '0': the labels are 3, 7"):
        labels.index_of("0", ["3", "7"])


@pytest.mark.parametrize("folder", ["0 1 2 10", "cats dogs", "a1 a2 a11"])
def test_class_folders_are_in_natural_order(tmp_path, folder):
    names = folder.split()
    for i, name in enumerate(names):
        draw(tmp_path / name / "x.png", np.full((8, 8), 20 * i + 5, np.uint8))
    data = load(tmp_path)
    assert data.class_names == names
    assert [names[(image[0, 0, 0] - 5) // 20] for image in data.images] == names_of(data)


def test_links_to_class_folders_count(tmp_path):
    for i, name in enumerate("ab"):
        draw(tmp_path / "elsewhere" / name / "x.png", X[i])
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / name).symlink_to(tmp_path / "elsewhere" / name)
    (tmp_path / "data" / "a" / "loop").symlink_to(tmp_path / "data")
    assert load(tmp_path / "data").class_names == ["a", "b"]


@pytest.mark.parametrize("train, test", [("train", "test"), ("Training", "valid"), ("trn", "val")])
def test_split_folders_are_splits(tmp_path, train, test):
    for part, count in ((train, 3), (test, 2)):
        for name in "01":
            for i in range(count):
                draw(tmp_path / part / name / f"{i}.png", X[i])
    data = load(tmp_path)
    assert len(data) == 6 and data.class_names == ["0", "1"] and f"{train} is read, {test} not" in data.source
    other = "test" if test == "test" else "val"
    assert len(load(tmp_path, split=other)) == 4
    assert "there is no folder for the split" in refused(tmp_path, split="val" if other == "test" else "test")


def test_a_folder_called_train_among_classes_is_a_class(tmp_path):
    for name in ("train", "bus", "car"):
        draw(tmp_path / name / "x.png", X[0])
    assert load(tmp_path).class_names == ["bus", "car", "train"]


def test_two_folders_of_one_split_are_not_guessed(tmp_path):
    for name in ("train", "val", "validation"):
        draw(tmp_path / name / "x.png", X[0])
    assert "2 folders for the split 'val'" in refused(tmp_path, split="val")
    draw(tmp_path / "cover.png", X[0])
    assert "pictures next to the folders of the splits are not read: cover.png" in load(tmp_path).source


def test_a_split_is_found_below_an_undivided_folder(tmp_path):
    for folder, save in (("a/raw", np.savez), ("b", np.savez)):
        (tmp_path / folder).mkdir(parents=True)
        save(tmp_path / folder / "all.npz", x_train=X, x_test=X[:5])
    assert [len(load(tmp_path / name, split="test")) for name in "ab"] == [5, 5]
    draw(tmp_path / "c" / "x.png", X[0])
    assert "--split val needs a folder of that name" in refused(tmp_path / "c", split="val")


def idx(x, kind=8, item="u1"):
    """Return the bytes of an IDX file."""
    dims = b"".join(n.to_bytes(4, "big") for n in x.shape)
    return bytes([0, 0, kind, x.ndim]) + dims + x.astype(item).tobytes()


def test_labels_of_qmnist_are_read(tmp_path):
    columns = np.column_stack([np.arange(12) % 5, np.arange(12), *[np.zeros(12)] * 6])
    (tmp_path / "qmnist-train-images-idx3-ubyte").write_bytes(idx(X))
    (tmp_path / "qmnist-train-labels-idx2-int.gz").write_bytes(gzip.compress(idx(columns, 0x0C, ">i4")))
    data = load(tmp_path)
    assert names_of(data) == [str(i % 5) for i in range(12)] and "8 columns: the first is the class" in data.source


@pytest.mark.parametrize("kind, item", [(0x0C, ">i4"), (0x0B, ">i2"), (0x09, "i1")])
def test_idx_labels_of_other_integers_are_read(tmp_path, kind, item):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(X))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.arange(12) % 3 - 1, kind, item))
    assert load(tmp_path).class_names == ["-1", "0", "1"]


@pytest.mark.parametrize("name, what", [("images-idx3-ubyte", "pixels"), ("labels-idx1-ubyte", "labels")])
def test_idx_files_of_floats_are_refused_with_the_right_hint(tmp_path, name, what):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(X))
    x = X if what == "pixels" else np.arange(12)
    (tmp_path / f"train-{name}").write_bytes(idx(x, 13, ">f4"))
    assert f"save the {what} as unsigned bytes" in refused(tmp_path)


@pytest.mark.parametrize(
    "keys",
    [
        "arr_0 arr_1", "X Y", "X y", "x_train y_train", "X_train y_train", "train_x train_y", "data target",
        "images labels", "image label", "imgs lbls", "train_images train_labels", "features labels",
    ],
)  # fmt: skip
def test_keys_of_npz_files_are_found(tmp_path, keys):
    image_key, label_key = keys.split()
    np.savez(tmp_path / "x.npz", **{image_key: X, label_key: np.arange(12) % 3})
    data = load(tmp_path / "x.npz")
    assert len(data) == 12 and data.class_names == ["0", "1", "2"] and repr(label_key) in data.source


@pytest.mark.parametrize("pattern", ["x_{}", "{}_images", "{}_x"])
def test_splits_of_npz_files_are_read(tmp_path, pattern):
    parts = {"train": X, "val": X[:3], "test": X[:2]}
    np.savez(tmp_path / "x.npz", **{pattern.format(name): x for name, x in parts.items()})
    for name, x in parts.items():
        assert len(load(tmp_path / "x.npz", split=name)) == len(x)


def test_other_keys_are_listed_and_given_by_keys(tmp_path):
    np.savez(tmp_path / "x.npz", left=X, right=X[::-1], kind=np.arange(12) % 2)
    text = refused(tmp_path / "x.npz")
    assert "left (12, 8, 8), right (12, 8, 8), kind (12,)" in text and "--keys IMAGES,LABELS" in text
    data = load(tmp_path / "x.npz", keys="right,kind")
    assert data.class_names == ["0", "1"] and np.array_equal(data.images[..., 0], X[::-1])
    assert load(tmp_path / "x.npz", keys="left").labels is None
    assert "there is no array 'up'" in refused(tmp_path / "x.npz", keys="up,kind")


@pytest.mark.parametrize(
    "images, other", [("kmnist-train-imgs", "kmnist-train-labels"), ("X_train", "y_train"), ("my-images", "my-labels")]
)
@pytest.mark.parametrize("save", [np.save, np.savez])
def test_labels_in_a_file_next_to_the_images_are_found(tmp_path, images, other, save):
    save(tmp_path / images, X)
    save(tmp_path / other, np.arange(12) % 4)
    suffix = ".npy" if save is np.save else ".npz"
    for path in (tmp_path / f"{images}{suffix}", tmp_path):
        data = load(path)
        assert data.class_names == ["0", "1", "2", "3"] and f"{other}{suffix}" in data.source
    assert f"these are the labels of {images}{suffix}" in refused(tmp_path / f"{other}{suffix}")


@pytest.mark.parametrize(
    "images, other", [("X_train.npy", "Y_train.npy"), ("X_Train.npy", "y_train.npy"), ("IMAGES.NPY", "Labels.npy")]
)
def test_the_case_of_a_label_file_is_ignored(tmp_path, images, other):
    for name, x in ((images, X), (other, np.arange(12) % 3)):
        with open(tmp_path / name, "wb") as file:
            np.save(file, x)
    assert load(tmp_path / images).class_names == ["0", "1", "2"]
    assert "give that file" in refused(tmp_path / other)


@pytest.mark.parametrize("name", ["._a.png", ".DS_Store", "Thumbs.db", "@eaDir/x.png", "__MACOSX/x.png", "desktop.ini"])
def test_system_files_are_passed_over_and_counted(tmp_path, name):
    draw(tmp_path / "a.png", X[0])
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"whatever")
    data = load(tmp_path)
    assert len(data) == 1 and "1 hidden and system files or folders were passed over" in data.source


def test_labels_are_not_read_if_they_are_not_wanted(tmp_path):
    np.savez(tmp_path / "x.npz", images=X, labels=np.arange(5))  # too few labels, but they are not read
    data = load(tmp_path / "x.npz", labels=False)
    assert data.labels is None and "labels: not read" in data.source
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(X))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(b"broken")
    assert load(tmp_path / "train-images-idx3-ubyte", labels=False).labels is None
    for name in "ab":
        draw(tmp_path / "p" / name / "x.png", X[0])
    assert load(tmp_path / "p", labels=False).labels is None


# Shapes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "x, same, said",
    [
        (X.reshape(12, 64), X[..., None], "rows of 64 numbers are read as grey images of 8 x 8"),
        (X[:, None], X[..., None], "channels first"),
        (np.stack([X, X[::-1], X], 1), np.stack([X, X[::-1], X], -1), "channels first"),
    ],
)
def test_other_layouts_of_arrays_are_read(tmp_path, x, same, said):
    np.save(tmp_path / "x.npy", x)
    data = load(tmp_path / "x.npy")
    assert np.array_equal(data.images, same) and said in data.source


def test_data_one_folder_further_down_are_read(tmp_path):
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(idx(X))
    data = load(tmp_path)
    assert len(data) == 12 and "the data are in the folder" in data.source
    (tmp_path / "a" / "b").mkdir(parents=True)
    np.save(tmp_path / "a" / "b" / "x.npy", X)
    assert len(load(tmp_path / "a")) == 12
    np.savez(tmp_path / "a" / "b" / "x.npz", images=X)
    (tmp_path / "a" / "b" / "x.npy").unlink()
    assert len(load(tmp_path / "a")) == 12


def test_previews_next_to_an_array_are_passed_over(tmp_path):
    np.savez(tmp_path / "train.npz", images=X)
    for i in range(3):
        draw(tmp_path / f"preview{i}.png", X[i])
    data = load(tmp_path)
    assert len(data) == 12 and "3 pictures in the folder are passed over" in data.source
    for i in range(3, 12):
        draw(tmp_path / f"{i}.png", X[i][:6])
    assert "expected pictures of one size" in refused(tmp_path)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("shape", [(30, 28), (20, 41), (28, 28)])
def test_size_and_fit(tmp_path, fit, shape):
    x = np.full((3, *shape), 200, np.uint8)
    np.save(tmp_path / "x.npy", x)
    for i in range(3):
        draw(tmp_path / "p" / f"{i}.png", x[i])
    for path in (tmp_path / "x.npy", tmp_path / "p"):
        data = load(path, size=16, fit=fit)
        assert data.images.shape == (3, 16, 16, 1) and "resized to 16 x 16" in data.source
        padded = fit == "pad" and shape[0] != shape[1]
        assert (int(data.images.min()) < 100) is padded and data.images.max() > 190
        assert load(path, fit=fit).images.shape[1:3] == (min(shape), min(shape))
    assert load(tmp_path / "x.npy").images.shape == (3, *shape, 1)  # not resized, because the presets check the size


def test_pictures_of_any_sizes_are_fitted(tmp_path):
    for i, shape in enumerate([(10, 20), (33, 8), (64, 64)]):
        draw(tmp_path / f"{i}.png", np.full(shape, 9 * i + 9, np.uint8))
    assert "--size 32 --fit crop" in refused(tmp_path)
    assert load(tmp_path, size=12).images.shape == (3, 12, 12, 1)
    assert load(tmp_path, fit="crop").images.shape == (3, 8, 8, 1)  # the shortest side of all pictures


def test_resizing_is_reported_if_the_first_picture_has_the_size(tmp_path):
    for i, side in enumerate((16, 20, 20)):
        draw(tmp_path / f"{i}.png", np.full((side, side), 9 * i + 9, np.uint8))
    assert (
        "20 x 20 (rows x columns): resized to 16 x 16 (1 pictures have other sizes)" in load(tmp_path, size=16).source
    )


@pytest.mark.parametrize("dtype, scale", [(np.uint16, 257), (np.int32, 257), (np.float32, 1 / 255)])
def test_deep_pictures_are_fitted(tmp_path, dtype, scale):
    ramp = np.tile(np.linspace(0, 255, 48)[:, None], (1, 32))  # rows of one value each
    suffix = "png" if dtype is np.uint16 else "tiff"
    for i, x in enumerate((ramp, ramp[:, :31], ramp[::2, ::2])):
        draw(tmp_path / f"{i}.{suffix}", (x * scale).astype(dtype))
    data = load(tmp_path, size=16, fit="stretch")
    assert data.images.shape == (3, 16, 16, 1) and np.ptp(data.images.astype(int), axis=2).max() <= 1
    np.testing.assert_allclose(data.images[:, :, 0, 0], np.tile(np.linspace(5, 250, 16), (3, 1)), atol=8)
    assert load(tmp_path, fit="pad").images.shape == (3, 16, 16, 1)
    assert "resized to 16 x 16" in data.source


def test_small_images_are_enlarged_by_size_only(tmp_path):
    np.save(tmp_path / "x.npy", X[:, :2, :2])
    (tmp_path / "i-images-idx3-ubyte").write_bytes(idx(X[:, :3, :3]))
    draw(tmp_path / "p" / "x.png", X[0, :2])
    for path in (tmp_path / "x.npy", tmp_path / "i-images-idx3-ubyte", tmp_path / "p"):
        assert load(path, size=8).images.shape[1:] == (8, 8, 1)
        assert "--size 8" in refused(path)
        assert "--size 8" in refused(path, fit="crop")


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_padding_is_opaque(tmp_path, mode):
    picture = Image.new(
        mode, (8, 4), {"L": 200, "LA": (200, 255), "RGB": (200,) * 3, "RGBA": (200, 200, 200, 255)}[mode]
    )
    (tmp_path / "p").mkdir()
    picture.save(tmp_path / "p" / "x.png")
    image = load(tmp_path / "p", size=8, fit="pad", background="white").images[0]
    assert (image[[0, -1]] == 255).all() and (image[3:5] == 200).all()
    picture.point(lambda value: 40 if value == 200 else value).save(tmp_path / "p" / "x.png")
    image = load(tmp_path / "p", size=8, fit="pad").images[0]
    assert (image[[0, -1]] == 0).all()  # black, because nothing is transparent; behind dark drawings it would be white


def test_resizing_has_antialiasing(tmp_path):
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    np.save(tmp_path / "x.npy", stripes[None])
    image = load(tmp_path / "x.npy", size=16).images[0, 2:-2, 2:-2]
    assert np.abs(image.astype(int) - 127).max() < 12  # without antialiasing, all pixels would be 0 or 255


@pytest.mark.parametrize("preset", ["digits", "digits-unlabelled", "small"])
@pytest.mark.parametrize("side", [8, 12, 16, 20, 28, 32, 36, 48, 64, 96, 128])
@pytest.mark.parametrize("channels", [1, 3])
def test_presets_make_the_sizes_that_people_have(preset, side, channels, rng):
    G, D = models.build(preset, rng=rng, sample_shape=(side, side, channels), classes=2)
    fakes, _ = G.forward(rng.standard_normal((2, *G.noise_shape), dtype=np.float32), labels=np.array([0, 1]))
    assert fakes.shape == (2, side, side, channels)
    assert D.forward(fakes, labels=np.array([0, 1]))[0].shape == (2, 1)
    start = next(layer.shape for layer in G.layers if hasattr(layer, "shape"))
    assert side < 16 or 4 <= start[0] <= 8


def test_presets_halve_and_round_up():
    assert [side for side, _ in models.images.stages("digits", 36, 36, smallest=4, least=2)] == [36, 18, 9, 5]
    assert [side for side, _ in models.images.stages("digits", 28, 28, smallest=4, least=2)] == [28, 14, 7, 4]
    assert [side for side, _ in models.images.stages("small", 28, 28, smallest=5, least=2)] == [28, 14, 7]


@pytest.mark.parametrize("shape", [(32, 48), (16, 32), (64, 32)])
def test_presets_make_images_that_are_not_square(shape, rng):
    for preset in ("digits", "small", "mlp"):
        G, D = models.build(preset, rng=rng, sample_shape=(*shape, 1))
        fakes, _ = G.forward(rng.standard_normal((2, *G.noise_shape), dtype=np.float32))
        assert fakes.shape == (2, *shape, 1) and D.forward(fakes)[0].shape == (2, 1)


@pytest.mark.parametrize("shape", [(28, 30), (218, 178), (10, 10), (4, 4)])
def test_presets_refuse_other_sizes_and_name_the_options(shape, rng):
    for preset in ("digits", "small", "tutorial"):
        with pytest.raises(UserError, match="--size and --fit, for example --size 32 --fit crop"):
            models.build(preset, rng=rng, sample_shape=(*shape, 3))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exif_rotation_is_applied(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    draw(tmp_path / "a.png", X[0], exif=exif)
    turns = {1: 0, 3: 2, 6: -1, 8: 1}[orientation]
    assert np.array_equal(load(tmp_path).images[0, ..., 0], np.rot90(X[0], turns))


def test_strange_exif_blocks_are_ignored(tmp_path):
    for i, block in enumerate((b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff")):
        draw(tmp_path / f"{i}.jpg", np.full((8, 8), 90, np.uint8), exif=block)
    assert len(load(tmp_path)) == 3


# Values -----------------------------------------------------------------------------------------------------------

BITS, BYTES = X % 2, X.copy()
BYTES[0, 0, :2] = 0, 255


@pytest.mark.parametrize(
    "x, same, said",
    [
        (BITS.astype(bool), BITS * 255, "black and white"),
        (BITS, BITS * 255, "black and white"),
        (BITS.astype(np.int64), BITS * 255, "black and white"),
        (BITS.astype(np.int8), BITS * 255, "black and white"),
        (BYTES.astype(np.int64), BYTES, "0 to 255"),
        (BYTES.astype(np.float32), BYTES, "0 to 255"),
        (BYTES.astype(np.uint16) * 257, BYTES, "16 bits"),
        (BYTES / 255, BYTES, "0 to 1"),
        (BYTES / 255 * 1.000001, BYTES, "0 to 1"),
        (np.where(BYTES == 0, -1e-9, BYTES / 255), BYTES, "0 to 1"),
        (BYTES / 127.5 - 1, BYTES, "-1 to 1"),
        (BYTES / 127.5 - 1 - 1e-6, BYTES, "-1 to 1"),
    ],
)
def test_the_range_of_values_is_recognised(tmp_path, x, same, said):
    np.save(tmp_path / "x.npy", x)
    data = load(tmp_path / "x.npy")
    assert np.array_equal(data.images[..., 0], same) and f"read as {said}" in data.source


@pytest.mark.parametrize(
    "x", [(X - 127.5) / 73, X / 255 - 0.5, X / 255 * 16, X.astype(np.int32) * 100, X.astype(np.int16) - 128]
)
def test_other_ranges_ask_for_range(tmp_path, x):
    np.save(tmp_path / "x.npy", x)
    assert "for example with --range" in refused(tmp_path / "x.npy")
    low, high = x.min(), x.max()
    data = load(tmp_path / "x.npy", range=f"{low},{high}")
    assert data.images.min() == 0 and data.images.max() == 255


def test_range_clips_and_says_so(tmp_path):
    np.save(tmp_path / "x.npy", np.array([[[0, 50, 100, 300]] * 4], np.int32))
    data = load(tmp_path / "x.npy", range="50,100")
    assert data.images[0, 0, :, 0].tolist() == [0, 0, 255, 255] and "8 of 16 values lie outside" in data.source
    for text in ("1", "a,b", "2,1", "0,inf", "1,1"):
        with pytest.raises(UserError, match="--range takes two numbers"):
            ImageOptions(range=text)


def test_the_range_is_applied_once(tmp_path):
    np.save(tmp_path / "x.npy", np.stack([X / 255 * 4, np.ones_like(X)], axis=-1))  # grey up to 4, opaque
    np.testing.assert_array_equal(load(tmp_path / "x.npy", range="0,4").images[..., 0], X)
    np.save(tmp_path / "u.npy", np.stack([X // 2, np.full_like(X, 255)], axis=-1))
    np.testing.assert_array_equal(load(tmp_path / "u.npy", range="0,127").images[..., 0], np.rint(X // 2 * (255 / 127)))
    draw(tmp_path / "p" / "a.png", X[0].astype(np.uint16))
    draw(tmp_path / "p" / "b.png", X[1] // 2)
    images = load(tmp_path / "p", range="0,127").images[..., 0]
    np.testing.assert_array_equal(images[1], np.rint(X[1] // 2 * (255 / 127)))
    np.testing.assert_array_equal(images[0], np.rint(np.minimum(X[0] * (255 / 127), 255)))


def test_pictures_of_one_depth_have_one_range(tmp_path):
    for i, x in enumerate((X[0].astype(np.uint16), X[1].astype(np.uint16) * 257, X[2])):  # the first one is dark
        draw(tmp_path / f"{i}.png", x)
    data = load(tmp_path)
    np.testing.assert_array_equal(data.images[..., 0], [np.rint(X[0] / 257), X[1], X[2]])
    assert "2 pictures are uint16" in data.source


@pytest.mark.parametrize("ink, background", [(0, "white"), (255, "black"), (60, "white")])
def test_drawings_on_transparency_stay_visible(tmp_path, ink, background):
    for i in range(3):
        x = np.zeros((8, 8, 4), np.uint8)
        x[i : i + 4, 2:5] = ink, ink, ink, 255
        draw(tmp_path / f"{i}.png", x)
    data = load(tmp_path)
    assert f"put on {background}" in data.source and data.images.shape[-1] == 1
    assert data.images[0, 7, 7, 0] == (255 if background == "white" else 0) and data.images[0, 1, 3, 0] == ink
    assert (
        load(tmp_path, background="black" if background == "white" else "white").images[0, 7, 7, 0]
        != (data.images[0, 7, 7, 0])
    )


def test_an_array_with_transparency_is_put_on_a_background(tmp_path):
    x = np.zeros((5, 8, 8, 4), np.uint8)
    x[:, 2:5, 2:5, 3] = 255
    np.save(tmp_path / "x.npy", x)
    images = load(tmp_path / "x.npy").images
    assert images.shape == (5, 8, 8, 3) and (images[:, 0, 0] == 255).all() and (images[:, 3, 3] == 0).all()


def test_an_opaque_alpha_channel_is_not_mentioned(tmp_path):
    draw(tmp_path / "p" / "x.png", np.dstack([X[0], X[1], X[2], np.full_like(X[0], 255)]))
    np.save(tmp_path / "x.npy", np.stack([X, np.full_like(X, 255)], axis=-1))
    for path, expected in ((tmp_path / "p", np.dstack([X[0], X[1], X[2]])[None]), (tmp_path / "x.npy", X[..., None])):
        data = load(path)
        np.testing.assert_array_equal(data.images, expected)
        assert "transparent" not in data.source


@pytest.mark.parametrize("value", [0, 7, 255])
def test_data_of_one_single_value_are_not_trained_on(tmp_path, value, capsys):
    np.save(tmp_path / "x.npy", np.full((20, 8, 8), value, np.uint8))
    code = main(["train", "--data", str(tmp_path / "x.npy"), "--out", str(tmp_path / "r"), "--backend", "numpy"])
    assert code == 2 and "every pixel of these 20 images is" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_modes_of_pictures(tmp_path):
    colour = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(colour).convert("CMYK").save(tmp_path / "a.tif")
    assert np.abs(load(tmp_path).images[0].astype(int) - colour).max() <= 2
    (tmp_path / "a.tif").unlink()
    draw(tmp_path / "b.tif", X[0].astype(np.float32))
    assert np.array_equal(load(tmp_path).images[0, ..., 0], X[0])
    (tmp_path / "b.tif").unlink()
    draw(tmp_path / "c.png", X[0].astype(np.uint16) * 257)
    assert np.array_equal(load(tmp_path).images[0, ..., 0], X[0])


# Bad files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [b"", b"<html>404</html>", None])
def test_all_unreadable_files_are_reported_at_once(tmp_path, bad):
    for i in range(20):
        draw(tmp_path / f"{i:02}.jpg", RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    for i in (3, 7, 11, 12, 13, 17):
        path = tmp_path / f"{i:02}.jpg"
        path.write_bytes(path.read_bytes()[:300] if bad is None else bad)
    text = refused(tmp_path)
    assert "6 of 20 pictures cannot be read (03.jpg: " in text and "and 1 more" in text and "--skip-bad" in text
    data = load(tmp_path, skip_bad=True)
    assert len(data) == 14 and "6 of 20 pictures cannot be read and are left out" in data.source


def test_every_suffix_of_pillow_is_read_and_others_are_counted(tmp_path):
    for suffix in (".png", ".jfif", ".bmp", ".tga", ".ppm", ".pcx"):
        draw(tmp_path / f"a{suffix}", np.full((8, 8), 50, np.uint8))
    for name in ("notes.txt", "labels.csv", "more.csv", "README"):
        (tmp_path / name).write_text("x")
    data = load(tmp_path)
    assert len(data) == 6
    assert "2 .csv" in data.source and "1 .txt" in data.source and "1 without a suffix" in data.source
    assert {".avif", ".webp", ".gif", ".jpe"} & set(pictures.suffixes()) and ".eps" not in pictures.suffixes()


def test_data_that_would_not_fit_in_memory_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "memory", lambda: 20_000)
    for i in range(200):
        draw(tmp_path / "p" / f"{i}.png", X[i % 12])
    np.save(tmp_path / "x.npy", np.zeros((200, 8, 8), np.uint8))
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(np.zeros((200, 8, 8), np.uint8)))
    for path in (tmp_path / "p", tmp_path / "x.npy", tmp_path / "train-images-idx3-ubyte"):
        assert "more than 50% of this machine's" in refused(path)


def test_the_memory_of_wide_numbers_and_of_a_folder_with_a_bad_first_file_is_known(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", X.astype(np.float64))
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "0.png").write_bytes(b"not a picture")
    for i in range(1, 12):
        draw(tmp_path / "p" / f"{i}.png", X[i])
    monkeypatch.setattr(reading, "memory", lambda: 4 * X.nbytes)  # enough for a byte per number
    assert "GiB" in refused(tmp_path / "x.npy")
    monkeypatch.setattr(reading, "memory", lambda: 2 * X.nbytes - 1)
    assert "GiB" in refused(tmp_path / "p", skip_bad=True)


def test_the_memory_of_this_machine_is_known():
    assert reading.memory() > 2**28


# Runs whose data were moved, and `minigan info` -------------------------------------------------------------------


@pytest.fixture
def moved(tmp_path, capsys):
    """Return (folder of a run whose data were moved, new path of the data)."""
    for i in range(16):
        draw(tmp_path / "one" / "pics" / f"{i:02}.png", np.full((8, 8), 9 * i, np.uint8))
    run = tmp_path / "one" / "run"
    options = ["--preset", "mlp", "--steps", 2, "--batch", 4, "--out", run, "--quiet"]
    assert command("train", "--data", tmp_path / "one" / "pics", *options) == 0
    os.rename(tmp_path / "one" / "pics", tmp_path / "renamed")
    capsys.readouterr()
    return run, tmp_path / "renamed"


def command(*words):
    """Run a command of minigan with the numpy backend and one thread."""
    return main([*map(str, words), "--backend", "numpy", "--threads", "1"])


def test_a_run_whose_data_moved_resumes(moved, capsys):
    run, new = moved
    resume = ["train", "--resume", "--out", run, "--quiet", "--steps"]
    assert command(*resume, 3) == 2
    text = capsys.readouterr().err
    assert "which does not exist any more" in text and "--data PATH" in text and "pics" in text
    assert command(*resume, 3, "--data", new) == 0
    assert command(*resume, 4) == 0  # the run stores the new path
    draw(new / "99.png", X[0])
    assert command(*resume, 5) == 2 and "has other contents" in capsys.readouterr().err


def test_a_wrong_new_place_is_refused(moved, capsys):
    run, new = moved
    os.rename(new, run.parent / "pics")  # the old place exists again
    for words in (("train", "--resume", "--steps", "3", "--quiet", "--out", run), ("evaluate", run, "--count", 100)):
        assert command(*words, "--data", run / "nowhere") == 2
        assert "nowhere" in capsys.readouterr().err
        assert command(*words, "--data", "shapes") == 2
        assert "has other contents" in capsys.readouterr().err


def test_the_home_folder_can_be_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for i in range(8):
        draw(tmp_path / "pics" / f"{i}.png", X[i])
    options = ["--preset", "mlp", "--steps", 1, "--batch", 4, "--quiet", "--out", tmp_path / "run"]
    assert command("train", "--data=~/pics", *options) == 0
    assert f'"data": "{tmp_path / "pics"}"' in (tmp_path / "run" / "config.json").read_text()


@pytest.mark.parametrize("labels, code", [(np.arange(40) % 2, 0), ((np.arange(40) + 1) % 2, 2), (None, 2)])
def test_evaluate_compares_the_labels_of_moved_data(tmp_path, labels, code, capsys):
    x = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=x, labels=np.arange(40) % 2)
    np.savez(tmp_path / "b.npz", images=x, **({} if labels is None else {"labels": labels}))
    options = ["--preset", "mlp", "--conditional", "--steps", 1, "--batch", 4, "--quiet", "--out", tmp_path / "run"]
    assert command("train", "--data", tmp_path / "a.npz", *options) == 0
    assert command("evaluate", tmp_path / "run", "--count", 100, "--data", tmp_path / "b.npz") == code
    assert ("has other contents" in capsys.readouterr().err) == (code == 2)


def test_few_training_images_are_compared_as_far_as_possible(moved, capsys):
    run, new = moved
    assert command("evaluate", run, "--count", 100, "--data", new) == 0
    assert "at least 20 real images, and there are 16" in capsys.readouterr().out


def test_sampling_needs_no_data_and_evaluating_says_what_is_missing(moved, capsys):
    run, new = moved
    assert command("sample", run, "--count", 4) == 0
    assert command("evaluate", run, "--count", 100) == 0
    text = capsys.readouterr().out
    assert "need the training data" in text and "--data PATH" in text and "distance between two images" in text
    draw(new / "16.png", np.full((8, 8), 3, np.uint8))
    assert command("evaluate", run, "--count", 100, "--data", new) == 2
    (new / "16.png").unlink()
    capsys.readouterr()
    assert (run / "evaluate.json").exists()


def test_info_shows_a_run(tmp_path, capsys):
    np.savez(tmp_path / "x.npz", images=X, labels=np.where(np.arange(12) % 2, 3, 8))
    run = tmp_path / "run"
    assert command("train", "--data", tmp_path / "x.npz", "--steps", 2, "--batch", 4, "--out", run) == 0
    header = capsys.readouterr().out
    assert "2 classes of 6 images, from array 'labels': 3, 8" in header
    assert main(["info", str(run)]) == 0
    text = capsys.readouterr().out
    assert "2 classes of 6 images, from array 'labels': 3, 8" in text and "2 steps" in text and "final.png" in text
    assert command("sample", run, "--label", 8, "--count", 4) == command("sample", run, "--digit", "3") == 0
    assert command("sample", run, "--label", 0) == 2
    assert "there is no label '0': the labels are 3, 8" in capsys.readouterr().err


def test_labels_that_the_user_asks_for_must_exist(tmp_path, capsys):
    np.save(tmp_path / "x.npy", X)
    start = ["train", "--data", tmp_path / "x.npy", "--steps", 1, "--batch", 4, "--quiet", "--out"]
    assert command(*start, tmp_path / "a", "--conditional") == 2
    assert "--conditional needs labels" in capsys.readouterr().err and not (tmp_path / "a").exists()
    assert command(*start, tmp_path / "b") == command(*start, tmp_path / "c", "--unconditional") == 0


# The data set `shapes` --------------------------------------------------------------------------------------------


def test_shapes_are_drawn_the_same_every_time():
    images, kinds = shapes.draw(24, np.random.default_rng(0))
    again, _ = shapes.draw(24, np.random.default_rng(0))
    assert images.shape == (24, 64, 64, 3) and images.dtype == np.uint8 and np.array_equal(images, again)
    assert kinds.tolist() == [*range(8)] * 3 and len(shapes.KINDS) == 8


@pytest.mark.parametrize("kind", shapes.KINDS)
def test_a_shape_is_inside_of_its_circle(kind):
    line = np.linspace(-1.5, 1.5, 301)
    x, y = np.meshgrid(line, line)
    inside = shapes.KINDS[kind](x, y) < 0
    assert inside.any() and np.hypot(x, y)[inside].max() < 1.1 and 0.1 < inside.mean() * 9 / np.pi < 1.01


def test_shapes_differ_from_their_background():
    images, _ = shapes.draw(80, np.random.default_rng(1))
    brightness = images @ [0.299, 0.587, 0.114]
    assert (np.ptp(brightness, axis=(1, 2)) > 75).all()
    with pytest.raises(DataError, match="no split 'all'"):
        shapes.load("all")


def test_find_range_is_decided_by_all_values():
    assert pixels.find_range(np.dtype("f4"), -1, 1, "x").low == -1
    assert pixels.find_range(np.dtype("f4"), 0, 0.2, "x").high == 1
    assert pixels.find_range(np.dtype("u2"), 0, 256, "x").high == 65535
