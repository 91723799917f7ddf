"""The forms in which samples are written: one picture, separate files, arrays with labels."""

import numpy as np
import pytest
from PIL import Image

from minigan import datasets
from minigan.cli import main
from minigan.runs.samples import as_values, folder_names

IMAGES = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)


@pytest.fixture(scope="module", params=["numbers", "names", "none"])
def run(request, tmp_path_factory):
    """A run with labels that are numbers, or names, or without labels. Returns (folder, names of the classes)."""
    folder = tmp_path_factory.mktemp(request.param)
    names = {"numbers": ["3", "8"], "names": ["a/b", "Käfer"], "none": []}[request.param]
    arrays = {"images": IMAGES} | ({"labels": np.array(names * 12)} if names else {})
    np.savez(folder / "x.npz", **arrays)
    line = ["train", "--preset", "mlp", "--batch", "8", "--steps", "2", "--backend", "numpy", "--quiet"]
    line += ["--conditional"] if names else []
    assert main([*line, "--data", str(folder / "x.npz"), "--out", str(folder / "run")]) == 0
    return folder / "run", names


def sample(run, *arguments) -> int:
    return main(["sample", str(run), "--backend", "numpy", *map(str, arguments)])


def array_of(run, tmp_path, *arguments) -> np.ndarray:
    assert sample(run, "--out", tmp_path / "all.npy", *arguments) == 0
    return np.load(tmp_path / "all.npy")


def test_one_sample_is_a_plain_picture(run, tmp_path):
    folder, _ = run
    assert sample(folder, "--count", 1, "--seed", 4, "--out", tmp_path / "one.png") == 0
    picture = np.asarray(Image.open(tmp_path / "one.png"))
    assert np.array_equal(picture, array_of(folder, tmp_path, "--count", 1, "--seed", 4)[0])


@pytest.mark.parametrize("place", ["new", "empty", "made/with/parents"])
def test_a_folder_gets_separate_files(run, place, tmp_path):
    folder, names = run
    out = tmp_path / place
    if place == "empty":
        out.mkdir()
    assert sample(folder, "--count", 5, "--seed", 1, "--out", out) == 0
    found = {str(path.relative_to(out)) for path in out.rglob("*.png")}
    classes = [name.replace("/", "_") for name in names]
    assert found == {(f"{classes[i % 2]}/" if names else "") + f"{i:05}.png" for i in range(5)}
    expected = array_of(folder, tmp_path, "--count", 5, "--seed", 1)
    for path in out.rglob("*.png"):
        assert np.array_equal(np.asarray(Image.open(path)), expected[int(path.stem)])
    back = datasets.load(out)
    assert len(back) == 5 and back.class_names == (sorted(classes, key=str.casefold) if names else None)


def test_an_archive_has_images_and_labels(run, tmp_path):
    folder, names = run
    assert sample(folder, "--count", 5, "--seed", 1, "--out", tmp_path / "x.npz") == 0
    with np.load(tmp_path / "x.npz") as file:
        assert np.array_equal(file["images"], array_of(folder, tmp_path, "--count", 5, "--seed", 1))
        if names:
            labels = [int(name) if name.isdigit() else name for name in names]
            assert file["labels"].tolist() == [labels[i % 2] for i in range(5)]
        assert file.files == ["images", "labels"] if names else ["images"]
    assert datasets.load(tmp_path / "x.npz").class_names == (names or None)


def test_one_class_is_written_in_every_form(run, tmp_path):
    folder, names = run
    if not names:
        assert sample(folder, "--label", "3", "--out", tmp_path / "x.npz") == 2
        return
    assert sample(folder, "--count", 3, "--label", names[1], "--out", tmp_path / "x.npz") == 0
    with np.load(tmp_path / "x.npz") as file:
        assert {str(label) for label in file["labels"]} == {names[1]}
    assert sample(folder, "--count", 3, "--label", names[1], "--out", tmp_path / "folder") == 0
    assert [path.name for path in (tmp_path / "folder").iterdir()] == [names[1]]


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("x.jpg", "samples are written to a .png file (a picture), .npz (samples and labels), .npy"),
        ("x.csv", "or a folder (separate pictures), got"),
        ("full", "full exists and is not an empty folder"),
        ("file", "file exists and is not an empty folder"),
    ],
)
def test_other_places_are_refused_before_drawing(run, out, says, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    assert sample(run[0], "--out", tmp_path / out) == 2
    assert says in capsys.readouterr().err
    assert (tmp_path / "full" / "mine.txt").read_text() == (tmp_path / "file").read_text() == "mine"


def test_points_are_written_as_arrays_but_not_as_separate_files(tmp_path, capsys):
    line = [
        "train",
        "--data",
        "ring",
        "--points",
        "64",
        "--batch",
        "8",
        "--steps",
        "2",
        "--backend",
        "numpy",
        "--quiet",
    ]
    assert main([*line, "--out", str(tmp_path / "run")]) == 0
    assert sample(tmp_path / "run", "--count", 3, "--out", tmp_path / "x.npz") == 0
    with np.load(tmp_path / "x.npz") as file:
        assert file["points"].shape == (3, 2) and file.files == ["points"]
    assert sample(tmp_path / "run", "--out", tmp_path / "folder") == 2
    assert (
        "a folder takes one picture for each sample, which these are not: give a .npy file" in capsys.readouterr().err
    )
    assert sample(tmp_path / "run", "--count", 1, "--out", tmp_path / "one.png") == 0


def test_folders_of_classes_have_names_that_every_system_allows():
    assert folder_names(["a:b", "a/b", "..", "x.", "A", "a", ""]) == ["a_b_0", "a_b_1", "__2", "x", "A_4", "a_5", "__6"]
    assert as_values(["1", "-2"]).tolist() == [1, -2] and as_values(["01", "2"]).tolist() == ["01", "2"]
