"""Held-out data: those of another split, or a part that the option hold_out takes out of the training."""

import json

import numpy as np
import pytest
from PIL import Image

import minigan
from minigan import datasets, runs
from minigan.cli import main
from minigan.datasets.held_out import MOST, as_in, hold_out
from minigan.errors import UserError
from minigan.training import Config


def images(count: int, seed: int = 0, side: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side), dtype=np.uint8)


def loaded(data: str, **options) -> datasets.Images:
    config = Config.of("mlp", data=data, steps=1, conditional=True, **options)
    return runs.load_data(config)


def test_mnist_holds_out_its_test_images():
    data, test = loaded("mnist"), datasets.mnist("test")
    chosen = np.arange(MOST) * len(test) // MOST
    assert np.array_equal(data.held_out.images, test.images[chosen])
    assert np.array_equal(data.held_out.labels, test.labels[chosen])
    assert ("held out", "2,000 images of the split test, for the checks") in data.description()
    assert len(data) == 60_000 and data.fingerprint() == datasets.mnist("train").fingerprint()


def test_the_test_images_hold_out_none():
    assert loaded("mnist", data_options={"split": "test"}).held_out is None


def test_without_labels_the_held_out_images_have_none():
    data = runs.load_data(Config.of("mlp", steps=1))
    assert data.labels is None and data.held_out.labels is None


def test_shapes_hold_out_their_split_val():
    data = loaded("shapes", data_options={"size": 16})
    assert data.held_out.images.shape == (2000, 16, 16, 3) and data.held_out.class_names == data.class_names


def test_an_archive_holds_out_its_other_arrays(tmp_path):
    labels = np.arange(40) % 4
    arrays = dict(x_train=images(40), y_train=labels, x_test=images(9, 1), y_test=np.arange(9) % 4)
    np.savez(tmp_path / "a.npz", **arrays)
    data = loaded(str(tmp_path / "a.npz"))
    assert np.array_equal(data.held_out.images[..., 0], arrays["x_test"])
    assert np.array_equal(data.held_out.labels, arrays["y_test"])
    np.savez(tmp_path / "b.npz", x_val=images(5, 2), y_val=np.arange(5) % 4, **arrays)
    assert np.array_equal(loaded(str(tmp_path / "b.npz")).held_out.images[..., 0], images(5, 2)), "val comes first"


@pytest.mark.parametrize("arrays", [dict(images=images(40)), dict(x_train=images(40), x_test=images(9, side=12))])
def test_data_without_a_fitting_split_hold_out_none(arrays, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    data = loaded(str(tmp_path / "a.npz"))
    assert data.held_out is None and all(topic != "held out" for topic, _ in data.description())


def test_a_file_without_splits_does_not_hold_out_itself(tmp_path):
    np.save(tmp_path / "a.npy", images(40))
    assert loaded(str(tmp_path / "a.npy")).held_out is None
    assert loaded(str(tmp_path)).held_out is None


def folder(path, counts: dict[str, int]) -> None:
    """Write pictures, as many as given into each subfolder. The brightness of a picture is its number."""
    for place, count in counts.items():
        (path / place).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(np.full((8, 8), 10 + i, np.uint8)).save(path / place / f"{i:04d}.png")


def test_a_folder_holds_out_the_pictures_of_its_split_with_the_labels_of_the_training(tmp_path):
    folder(tmp_path, {"train/a": 4, "train/b": 4, "train/c": 4, "val/c": 2, "val/b": 1, "val/x": 3})
    held = loaded(str(tmp_path)).held_out
    assert held.class_names == ["a", "b", "c"]
    assert sorted(zip(held.labels.tolist(), held.images[:, 0, 0, 0].tolist(), strict=True)) == [
        (1, 10),
        (2, 10),
        (2, 11),
    ]


def test_a_broken_split_does_not_stop_the_training(tmp_path):
    folder(tmp_path, {"train": 12, "val": 3})
    (tmp_path / "val" / "0001.png").write_bytes(b"no picture")
    assert loaded(str(tmp_path)).held_out is None
    (tmp_path / "val" / "0001.png").unlink()
    assert len(loaded(str(tmp_path)).held_out) == 2


def test_of_many_pictures_only_some_are_read(tmp_path, monkeypatch):
    folder(tmp_path, {"train": 12, "val": 50})
    monkeypatch.setattr("minigan.datasets.held_out.MOST", 5)
    held = loaded(str(tmp_path)).held_out
    assert held.images[:, 0, 0, 0].tolist() == [10, 20, 30, 40, 50]


def test_more_held_out_images_than_needed_are_thinned_evenly():
    data = datasets.convert(images(20), None, "images", datasets.ImageOptions())
    many = datasets.convert(images(3 * MOST, 1), None, "images", datasets.ImageOptions())
    assert np.array_equal(as_in(many, data).images, many.images[::3])


# ---------------------------------------------------------------- the option


def test_a_part_is_held_out_at_random_and_never_trained_on():
    x, labels = images(200), np.arange(200) % 3
    data = datasets.convert(x, labels, "images", datasets.ImageOptions())
    divided = hold_out(data, 0.25, seed=3)
    assert (len(divided), len(divided.held_out)) == (150, 50) and divided.held_out.held_out is None
    both = np.concatenate([divided.images, divided.held_out.images])
    assert sorted(image.tobytes() for image in both) == sorted(image.tobytes() for image in data.images)
    where = {image.tobytes(): label for image, label in zip(data.images, labels, strict=True)}
    for part in (divided, divided.held_out):
        assert [where[image.tobytes()] for image in part.images] == part.labels.tolist()
        assert part.class_names == ["0", "1", "2"]
    again, other = hold_out(data, 0.25, seed=3), hold_out(data, 0.25, seed=4)
    assert again.fingerprint() == divided.fingerprint() != other.fingerprint()
    assert hold_out(data, 0.0, seed=3) is data
    assert divided.description()[-1] == ("held out", "50 images of the 50 that hold_out takes out, for the checks")


def test_data_that_have_held_out_samples_are_not_divided():
    ring = datasets.KINDS["points"].load("ring", datasets.points.PointsOptions(points=500), 0)
    assert hold_out(ring, 0.1, 0) is ring and len(ring.held_out) == 2000
    shared = set(map(tuple, ring.points.tolist())) & set(map(tuple, ring.held_out.points.tolist()))
    assert not shared and datasets.points.MIXTURES["ring"].coverage(ring.held_out.points)[0] == 8
    part = ring.part(np.arange(20))
    divided = hold_out(part, 0.25, 0)
    assert (len(divided), len(divided.held_out), len(divided.labels)) == (15, 5, 15)


def test_a_part_that_leaves_nothing_is_refused():
    data = datasets.convert(images(4), None, "images", datasets.ImageOptions())
    with pytest.raises(UserError, match=r"--hold-out 0\.9 leaves no samples of 4"):
        hold_out(data, 0.9, 0)


def test_data_that_cannot_be_divided_are_refused():
    class Other:
        kind, held_out = "others", None

        def __len__(self):
            return 10

    with pytest.raises(UserError, match="of the kind others cannot be divided"):
        hold_out(Other(), 0.5, 0)


def test_the_command_line_holds_out_and_resumes(tmp_path, capsys):
    np.save(tmp_path / "x.npy", images(100))
    line = ["train", "--preset", "mlp", "--batch", "8", "--backend", "numpy", "--quiet", "--data"]
    run = [str(tmp_path / "x.npy"), "--out", str(tmp_path / "r"), "--hold-out", "0.2"]
    assert main([*line, *run, "--steps", "3"]) == 0
    assert runs.info(tmp_path / "r")["samples"] == 80
    assert main(["train", "--resume", "--out", str(tmp_path / "r"), "--steps", "5", "--quiet"]) == 0
    assert main(["train", "--resume", "--out", str(tmp_path / "r"), "--steps", "6", "--hold-out", "0.3"]) == 2
    assert "cannot change" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "r"), "--count", "100", "--json", "--backend", "numpy"]) == 0
    assert json.loads(capsys.readouterr().out)["reference"] == 40, "the held-out images are no training images"


def test_python_holds_out_a_part_of_arrays_and_continues(tmp_path):
    x, labels = images(100), np.arange(100) % 4
    options = dict(batch=8, backend="numpy", verbose=0, hold_out=0.2, steps=3, conditional=True)
    gan = minigan.GAN("mlp", **options).fit(x, labels)
    assert (len(gan._training.data), len(gan._training.data.held_out)) == (80, 20)
    gan.fit(x, labels, steps=5)  # the same data, before the part was taken out
    gan.save(tmp_path / "r")
    assert minigan.load(tmp_path / "r").fit(x, labels, steps=6).n_steps_ == 6
    np.save(tmp_path / "x.npy", x)
    by_path = minigan.GAN("mlp", **options).fit(tmp_path / "x.npy", labels)
    assert by_path._training.data.fingerprint() == gan._training.data.fingerprint()


def test_labels_that_are_given_are_not_those_of_the_held_out_images():
    found = datasets.with_labels(loaded("shapes", data_options={"size": 8}), np.arange(20_000) % 3)
    assert found.held_out.labels is None and len(found.held_out) == 2000
