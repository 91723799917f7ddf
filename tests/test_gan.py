"""The Python API: inputs, labels, seeds, continuing, saving, and the same bits as the command line."""

import copy
import enum
import os
import pickle
import signal
import threading

import numpy as np
import pytest
import threadpoolctl
from PIL import Image

import minigan
from minigan import datasets
from minigan.cli import main
from minigan.errors import UserError
from minigan.training import checkpoint

OPTIONS = dict(batch=16, backend="numpy", threads=1, verbose=0, seed=3)
IMAGES = np.random.default_rng(0).integers(0, 256, (48, 8, 8), dtype=np.uint8)
LABELS = np.arange(48) % 3


def gan(**options) -> minigan.GAN:
    return minigan.GAN("mlp", **(OPTIONS | dict(epochs=2, conditional=True) | options))


@pytest.fixture(scope="module")
def fitted() -> minigan.GAN:
    return gan().fit(IMAGES, LABELS)


def weights(of: minigan.GAN) -> dict[str, np.ndarray]:
    """All numbers that a training has learned, by name."""
    arrays, _ = of._training.state()
    return {name: array.copy() for name, array in arrays.items()}


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in a)


# ---- construction


def test_nothing_runs_before_fit():
    new = minigan.GAN("small", conditional=True, epochs=3, seed=0)
    assert not hasattr(new, "generator_") and repr(new) == "GAN(preset='small', conditional=True, epochs=3, seed=0)"
    for use in (lambda: new.sample(1), lambda: new.history_, lambda: new.save("x"), new.evaluate, new.picture):
        with pytest.raises(minigan.NotFittedError, match="fit"):
            use()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (dict(learning_rate=1), "unknown option learning_rate: choose from kind, data, network, conditional, "),
        (dict(batch=1), "batch is at least 2, got 1"),
        (dict(lr="fast"), "lr_g is a number, got 'fast'"),
        (dict(size=-1), "size is at least 0"),
        (dict(channels="middle"), "unknown channels 'middle': choose"),
        (dict(kind="points", size=8), "data of the kind points have no option size"),
        (dict(penalty="r3"), "unknown penalty 'r3': choose none, r1"),
    ],
)
def test_a_wrong_option_is_refused_at_construction(options, says):
    with pytest.raises(UserError, match=says):
        minigan.GAN(**options)


def test_an_unknown_preset_is_refused_at_construction():
    with pytest.raises(UserError, match="unknown preset 'huge': choose"):
        minigan.GAN("huge")


def test_parameters_can_be_read_and_set_as_in_scikit_learn():
    a = gan()
    b = minigan.GAN(**a.get_params())
    assert repr(a) == repr(b) and b.set_params(batch=8).options["batch"] == 8
    with pytest.raises(UserError, match="unknown option bach"):
        b.set_params(bach=9)
    assert "bach" not in b.options
    assert "data=array" in repr(gan(data=IMAGES)) and gan(data=IMAGES, conditional=False).fit().n_epochs_ == 2


# ---- inputs


class Wrapped:
    """An object that NumPy converts to an array, as tensors and data frames are."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array


COLOURS = np.random.default_rng(1).integers(0, 256, (48, 8, 8, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("images", "options", "shape"),
    [
        (IMAGES, {}, (8, 8, 1)),
        (IMAGES[..., None], {}, (8, 8, 1)),
        (IMAGES.reshape(48, 64), {}, (8, 8, 1)),
        (IMAGES / 255.0, {}, (8, 8, 1)),
        (IMAGES.tolist(), {}, (8, 8, 1)),
        (Wrapped(IMAGES), {}, (8, 8, 1)),
        (COLOURS, {}, (8, 8, 3)),
        (COLOURS.transpose(0, 3, 1, 2), dict(channels="first"), (8, 8, 3)),
        (COLOURS.transpose(0, 3, 1, 2), {}, (8, 8, 3)),
        (COLOURS, dict(size=4, channels="last"), (4, 4, 3)),
    ],
    ids=["NHW", "NHW1", "rows", "floats", "list", "__array__", "NHWC", "first", "first, unsaid", "resized"],
)
def test_images_of_every_form_are_taken(images, options, shape):
    of = gan(epochs=None, steps=1, conditional=False, **options).fit(images)
    assert of.sample(2).shape == (2, *shape) and of.sample(2).dtype == np.uint8
    if shape == (8, 8, 3):
        assert np.array_equal(of._training.data.images, COLOURS)


def test_channels_first_of_an_ambiguous_shape():
    x = np.random.default_rng(0).integers(0, 256, (48, 4, 4, 4), dtype=np.uint8)[:, :3]  # (N, 3, 4, 4)
    assert gan(channels="first", conditional=False, steps=1).fit(x).sample(1).shape == (1, 4, 4, 3)
    with pytest.raises(UserError, match="with channels first"):
        gan(channels="first").fit(COLOURS[:, :, :, :])


class Animal(enum.Enum):
    CAT = 1
    DOG = 2


@pytest.mark.parametrize(
    ("labels", "classes", "ask", "index"),
    [
        ([3, 8] * 24, [3, 8], 8, 1),
        (np.array([1.0, 0.0] * 24), [0, 1], 1.0, 1),
        ([True, False] * 24, ["False", "True"], True, 1),
        (["dog", "cat"] * 24, ["cat", "dog"], "dog", 1),
        (np.array(["dog", "cat"] * 24, dtype=object), ["cat", "dog"], "CAT", 0),
        (np.array([b"dog", b"cat"] * 24), ["cat", "dog"], b"dog", 1),
        ([Animal.CAT, Animal.DOG] * 24, ["Animal.CAT", "Animal.DOG"], Animal.DOG, 1),
        (np.array(["2020-01-01", "2021-01-01"] * 24, "M8[D]"), ["2020-01-01", "2021-01-01"], "2020-01-01", 0),
        (np.eye(2)[[0, 1] * 24], [0, 1], 0, 0),
        (np.array([7, 9] * 24).reshape(48, 1), [7, 9], np.int64(7), 0),
    ],
    ids=["int", "float", "bool", "str", "object", "bytes", "enum", "dates", "one-hot", "column"],
)
def test_labels_of_every_kind_are_taken(labels, classes, ask, index):
    of = gan(epochs=None, steps=1).fit(IMAGES, labels)
    assert of.classes_.tolist() == classes
    assert of.sample(3, label=ask).shape == (3, 8, 8, 1)
    assert (of._sampler().labels_for(3, ask) == index).all()


@pytest.mark.parametrize(
    ("images", "labels", "says"),
    [
        (IMAGES, LABELS[:40], "the labels: expected 48 labels, one for each image, got 40"),
        (IMAGES, [None, *LABELS[1:]], "expected a label for each image, got None at index 0"),
        (IMAGES, [0.5] * 48, "expected whole numbers or text for labels, got 0.5"),
        (IMAGES[:, 0, 0], None, "expected an array of images"),
        (np.array(["a", "b"]), None, "expected an array of images"),
        ([[1, 2], [3]], None, "the images cannot be converted to one array"),
        (np.zeros_like(IMAGES), None, "every pixel of these 48 images is 0"),
        (IMAGES[:3], None, "a step takes 16 images and array has 3"),
        ("no/such/folder", None, "no/such/folder"),
    ],
)
def test_wrong_data_are_refused_in_one_sentence(images, labels, says):
    with pytest.raises(UserError, match=says) as error:
        gan(conditional=labels is not None).fit(images, labels)
    assert "\n" not in str(error.value)


def test_later_changes_of_the_array_have_no_effect():
    images = IMAGES.copy()
    of = gan().fit(images, LABELS)
    images[:] = 0
    assert np.array_equal(of._training.data.images[..., 0], IMAGES)


def test_paths_names_and_data_objects_are_taken(tmp_path):
    np.savez(tmp_path / "x.npz", images=IMAGES, labels=LABELS)
    bits = weights(gan().fit(IMAGES, LABELS))
    assert same(weights(gan().fit(str(tmp_path / "x.npz"))), bits)
    assert same(weights(gan(data=tmp_path / "x.npz").fit()), bits)
    assert same(weights(gan().fit(datasets.load(tmp_path / "x.npz"))), bits)
    np.save(tmp_path / "z.npy", IMAGES)
    assert same(weights(gan().fit(tmp_path / "z.npy", LABELS)), bits)
    points = minigan.GAN(batch=16, backend="numpy", steps=2, points=64, verbose=0).fit("ring")
    assert points.sample(5).shape == (5, 2) and len(points.classes_) == 0
    with pytest.raises(UserError, match="data of the kind points are not arrays: give 'ring' or 'grid'"):
        minigan.GAN("points", verbose=0).fit(np.zeros((9, 2)))


def test_fit_without_data_takes_mnist():
    of = minigan.GAN("mlp", steps=1, batch=4, backend="numpy", verbose=0).fit()
    assert len(of._training.data) == 60_000 and of.config_.data == "mnist"


# ---- the same bits


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_the_bits_are_those_of_the_command_line(backend, tmp_path):
    np.savez(tmp_path / "x.npz", images=IMAGES, labels=LABELS)
    line = f"train --preset mlp --conditional --batch 16 --epochs 3 --seed 3 --threads 2 --backend {backend} --quiet"
    assert main([*line.split(), "--data", str(tmp_path / "x.npz"), "--out", str(tmp_path / "run")]) == 0
    of = gan(backend=backend, threads=2, epochs=3).fit(IMAGES, LABELS)
    arrays, facts = checkpoint.load(tmp_path / "run" / "checkpoint.npz")
    assert same(weights(of), arrays) and of.n_steps_ == facts["step"] == 9
    main(["sample", str(tmp_path / "run"), "--count", "7", "--seed", "5", "--out", str(tmp_path / "s.npy"),
          "--backend", backend])  # fmt: skip
    assert np.array_equal(of.sample(7, seed=5)[..., 0], np.load(tmp_path / "s.npy"))


def test_one_seed_gives_the_same_bits_every_time(fitted):
    assert same(weights(gan().fit(IMAGES, LABELS)), weights(fitted))
    assert not same(weights(gan(seed=4).fit(IMAGES, LABELS)), weights(fitted))
    again = gan().fit(IMAGES, LABELS)
    assert same(weights(again.fit(IMAGES, LABELS)), weights(fitted)), "fit(data, labels) starts over"


def test_a_seed_may_be_a_random_generator():
    a, b = (gan(seed=np.random.default_rng(7)).fit(IMAGES, LABELS) for _ in range(2))
    assert same(weights(a), weights(b)) and a.config_.seed == b.config_.seed
    first = a.config_.seed
    assert a.fit(IMAGES, LABELS).config_.seed != first, "the generator draws a new seed for each training"


def test_samples_have_their_own_seed(fitted):
    assert np.array_equal(fitted.sample(4, seed=1), fitted.sample(4, seed=1))
    assert np.array_equal(fitted.sample(4, seed=np.random.default_rng(1)), fitted.sample(4, seed=1))
    assert not np.array_equal(fitted.sample(4), fitted.sample(4)), "without a seed, samples are new"
    assert np.array_equal(fitted.sample(6, seed=1), fitted.sample(6, label=[0, 1, 2, 0, 1, 2], seed=1))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (dict(n=0), "whole number from 1, got 0"),
        (dict(n=2.5), "whole number from 1, got 2.5"),
        (dict(n=1, label=9), "there is no label '9': the labels are 0, 1, 2"),
        (dict(n=3, label=[0, 1]), "expected one label or 3, one for each sample, got 2"),
        (dict(n=1, seed=-1), "seed is a whole number from 0"),
    ],
)
def test_wrong_arguments_of_sample_are_refused(fitted, arguments, says):
    with pytest.raises(UserError, match=says):
        fitted.sample(**arguments)


# ---- continuing


@pytest.mark.parametrize("again", [{}, dict(data=IMAGES, labels=LABELS)], ids=["its data", "the data again"])
def test_continuing_gives_the_bits_of_one_training(again):
    of = gan(average=0.9).fit(IMAGES, LABELS).fit(epochs=3).fit(**again, steps=14)
    assert same(weights(of), weights(gan(average=0.9, epochs=None, steps=14).fit(IMAGES, LABELS)))
    assert [row["epoch"] for row in of.history_] == [1, 2, 3, 4, 5]


def test_a_saved_gan_continues_to_the_same_bits(tmp_path):
    gan(average=0.9).fit(IMAGES, LABELS).save(tmp_path / "a")
    loaded = minigan.load(tmp_path / "a")
    assert loaded.n_steps_ == 6 and loaded.classes_.tolist() == [0, 1, 2] and len(loaded.history_) == 2
    with pytest.raises(UserError, match="trained on arrays in memory: give them again"):
        loaded.fit(epochs=4)
    loaded.fit(IMAGES, LABELS, epochs=4, verbose=0)
    assert same(weights(loaded), weights(gan(average=0.9, epochs=4).fit(IMAGES, LABELS)))


def test_a_saved_gan_knows_everything_without_its_data(tmp_path, fitted):
    fitted.save(tmp_path / "a")
    loaded = minigan.load(tmp_path / "a")
    assert np.array_equal(loaded.sample(5, seed=2), fitted.sample(5, seed=2))
    assert loaded.history_ == fitted.history_ and loaded.config_ == fitted.config_
    for name, value in fitted.discriminator_.params.items():
        assert np.array_equal(loaded.discriminator_.params[name], value)
    for name, value in fitted.generator_.buffers.items():
        assert np.array_equal(loaded.generator_.buffers[name], value)
    assert minigan.GAN(**loaded.get_params()).fit(IMAGES, LABELS, verbose=0).config_ == fitted.config_
    gan(size=4, fit="stretch").fit(IMAGES, LABELS).save(tmp_path / "b")
    assert minigan.load(tmp_path / "b").options["size"] == 4
    assert main(["sample", str(tmp_path / "a"), "--count", "4"]) == 0
    assert main(["info", str(tmp_path / "a")]) == 0


def test_the_command_line_continues_what_python_saved(tmp_path):
    np.savez(tmp_path / "x.npz", images=IMAGES, labels=LABELS)
    gan().fit(tmp_path / "x.npz").save(tmp_path / "a")
    assert main(["train", "--resume", "--out", str(tmp_path / "a"), "--epochs", "3", "--quiet"]) == 0
    arrays, _ = checkpoint.load(tmp_path / "a" / "checkpoint.npz")
    assert same(arrays, weights(gan(epochs=3).fit(IMAGES, LABELS)))
    of = minigan.load(tmp_path / "a").fit(tmp_path / "x.npz", steps=10, verbose=0)
    assert same(weights(of), weights(gan(epochs=None, steps=10).fit(IMAGES, LABELS)))


@pytest.mark.parametrize("loaded", [False, True])
def test_other_data_are_refused_when_continuing(loaded, tmp_path):
    of = gan().fit(IMAGES, LABELS)
    of.save(tmp_path / "a")
    of = minigan.load(tmp_path / "a") if loaded else of
    for images, labels in ((IMAGES[:32], LABELS[:32]), (IMAGES, LABELS[::-1].copy()), (255 - IMAGES, LABELS)):
        with pytest.raises(UserError, match=r"other data|other contents") as error:
            of.fit(images, labels, epochs=5)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="labels need the data"):
        of.fit(labels=LABELS, epochs=5)


def test_a_total_that_is_reached_is_said(fitted):
    with pytest.warns(UserWarning, match="has already reached its total"):
        fitted.fit()
    with pytest.warns(UserWarning, match="1 epochs; it has 2 epochs, 6 steps"):
        copy.copy(fitted).fit(epochs=1)


def test_beyond_a_decay_nothing_changes_unless_it_is_extended(capsys):
    of = gan(decay=True).fit(IMAGES, LABELS)
    end = weights(of)
    of.fit(epochs=3, verbose=1)
    assert capsys.readouterr().out.count("has decayed to 0, so further steps change nothing: --extend") == 1
    name = next(iter(of.generator_.params))
    assert np.array_equal(of.generator_.params[name], end[f"G.{name}"])
    of.fit(epochs=5, extend=True)
    assert not np.array_equal(of.generator_.params[name], end[f"G.{name}"])
    assert of._training.opt_g.lr == pytest.approx(of.config_.lr_g / 6), "the last of 6 steps"
    with pytest.raises(UserError, match="needs a larger total"):
        of.fit(extend=True)
    with pytest.raises(UserError, match="does not decay"):
        gan(conditional=False).fit(IMAGES).fit(epochs=3, extend=True)
    with pytest.raises(UserError, match="call fit without extend"):
        gan(conditional=False).fit(IMAGES, extend=True)


def test_an_extended_decay_resumes_to_the_same_bits(tmp_path):
    whole = gan(decay=True).fit(IMAGES, LABELS).fit(epochs=6, extend=True)
    part = gan(decay=True).fit(IMAGES, LABELS)
    part.callback = lambda record: record["step"] == 11
    part.fit(epochs=6, extend=True).save(tmp_path / "a")
    assert minigan.load(tmp_path / "a").n_steps_ == 11
    assert same(weights(minigan.load(tmp_path / "a").fit(IMAGES, LABELS, epochs=6, verbose=0)), weights(whole))


def test_the_command_line_extends_a_decay(tmp_path, capsys):
    np.save(tmp_path / "x.npy", IMAGES)
    run = ["--out", str(tmp_path / "r")]
    line = ["train", "--preset", "mlp", "--batch", "16", "--backend", "numpy", "--decay", "--epochs", "1"]
    assert main([*line, "--data", str(tmp_path / "x.npy"), *run]) == 0
    assert main(["train", "--extend", *run]) == 2
    assert main(["train", "--resume", "--epochs", "2", *run]) == 0
    out = capsys.readouterr().out
    assert "--extend (extend=True in Python) starts a new decay" in out
    before, _ = checkpoint.load(tmp_path / "r" / "checkpoint.npz")
    assert main(["train", "--resume", "--extend", "--epochs", "4", *run]) == 0
    assert "starts a new decay" not in capsys.readouterr().out
    after, facts = checkpoint.load(tmp_path / "r" / "checkpoint.npz")
    name = next(name for name in before if name.startswith("G."))
    assert not np.array_equal(before[name], after[name]) and facts["decay_start"][0] == 6


# ---- saving


def test_save_overwrites_only_earlier_states_of_itself(tmp_path, fitted):
    of = gan().fit(IMAGES, LABELS)
    of.save(tmp_path / "a")
    of.fit(epochs=3).save(tmp_path / "a")
    assert minigan.load(tmp_path / "a").n_epochs_ == 3
    with pytest.raises(UserError, match="holds another training"):
        fitted.save(tmp_path / "a")  # an earlier state than the saved one
    with pytest.raises(UserError, match="holds another training"):
        gan(seed=9, epochs=5).fit(IMAGES, LABELS).save(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty and is not the folder of a run"):
        fitted.save(tmp_path / "b")
    with pytest.raises(UserError, match="is a file"):
        fitted.save(tmp_path / "b" / "thesis.txt")
    assert (tmp_path / "b" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("folder", ["nothing", "empty", "damaged"])
def test_load_refuses_what_is_no_run(folder, tmp_path):
    path = tmp_path / folder
    if folder != "nothing":
        path.mkdir()
    if folder == "damaged":
        gan(conditional=False).fit(IMAGES).save(path)
        (path / "checkpoint.npz").write_bytes(b"PK")
    with pytest.raises(UserError) as error:
        minigan.load(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_out_writes_the_folder_of_a_run(tmp_path):
    of = gan(out=tmp_path / "r").fit(IMAGES, LABELS)
    assert {"final.png", "losses.png", "training.gif", "history.csv", "checkpoint.npz"} <= set(
        os.listdir(tmp_path / "r")
    )
    of.fit(epochs=3)
    assert minigan.load(tmp_path / "r").n_epochs_ == 3
    with pytest.raises(UserError, match="already exists"):
        gan(out=tmp_path / "r").fit(IMAGES, LABELS)


def test_copies_and_pickles(fitted):
    twin = copy.deepcopy(fitted)
    assert np.array_equal(twin.sample(2, seed=0), fitted.sample(2, seed=0))
    unfitted = pickle.loads(pickle.dumps(gan()))
    assert repr(unfitted) == repr(gan())


# ---- records, silence and the process


def test_verbose_0_is_silent_and_callback_gets_every_record(capsys):
    seen, later = [], []
    of = gan(callback=seen.append).fit(IMAGES, LABELS)
    of.fit(epochs=3, callback=later.append)
    assert [record["step"] for record in seen + later] == list(range(1, 10))
    assert len(seen) == 6 and all(np.isfinite(record["d_loss"]) for record in seen)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
    gan().fit(IMAGES, LABELS, verbose=1)
    captured = capsys.readouterr()
    assert "48 images of 8 x 8 x 1" in captured.out and "D(real)" in captured.out + captured.err


def test_two_fits_of_one_gan_at_once_are_refused():
    of = gan()
    with pytest.raises(UserError, match="is being fitted already"):
        of.fit(IMAGES, LABELS, callback=lambda record: of.fit(epochs=9))
    assert of.fit(epochs=3).n_epochs_ == 3, "afterwards it can be fitted"


def test_a_callback_may_end_the_training():
    of = gan(epochs=9).fit(IMAGES, LABELS, callback=lambda record: record["step"] == 4)
    assert of.n_steps_ == 4
    assert same(weights(of.fit(steps=6)), weights(gan().fit(IMAGES, LABELS)))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_step_and_reaches_the_user(number):
    before = signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(SystemExit(3)))
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores SIGINT
    try:
        of = gan()
        with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit):
            of.fit(IMAGES, LABELS, callback=lambda record: record["step"] == 4 and os.kill(os.getpid(), number))
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, interrupt)
    assert of.n_steps_ == 4 and same(weights(of.fit()), weights(gan().fit(IMAGES, LABELS)))


def test_an_exception_in_a_callback_keeps_what_was_learned():
    def fail(record):
        if record["step"] == 4:
            raise OSError("the user's own disk")

    of = gan()
    with pytest.raises(OSError, match="the user's own disk"):
        of.fit(IMAGES, LABELS, callback=fail)
    assert of.n_steps_ == 4 and same(weights(of.fit()), weights(gan().fit(IMAGES, LABELS)))


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_blas_threads_and_environment_are_as_before(backend):
    def state():
        return [(lib["internal_api"], lib["num_threads"]) for lib in threadpoolctl.threadpool_info()], dict(os.environ)

    with threadpoolctl.threadpool_limits(2, "blas"):
        gan(backend=backend).fit(IMAGES, LABELS)  # loads the backend
        before = state()
        of = gan(backend=backend).fit(IMAGES, LABELS)
        of.sample(3)
        of.evaluate(100)
        assert state() == before
        assert all(n == 2 for api, n in before[0] if api in ("openblas", "mkl", "blis"))


def test_fit_and_sample_work_in_a_thread(fitted):
    results = []

    def work():
        results.append(gan().fit(IMAGES, LABELS))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert same(weights(results[0]), weights(fitted))


# ---- pictures and scores


def test_pictures_are_pillow_images(fitted, tmp_path):
    assert isinstance(fitted.picture(), Image.Image) and isinstance(fitted.picture_of_losses(), Image.Image)
    assert fitted.picture(10, label=1, seed=0).size == (10 * 18 + 2, 20)
    fitted.save_samples(tmp_path / "x.npz", 6, seed=4)
    with np.load(tmp_path / "x.npz") as file:
        assert np.array_equal(file["images"], fitted.sample(6, seed=4)) and file["labels"].tolist() == [0, 1, 2] * 2


def test_scores_are_those_of_the_command_line(tmp_path):
    np.savez(tmp_path / "x.npz", images=IMAGES, labels=LABELS)
    of = gan().fit(tmp_path / "x.npz")
    of.save(tmp_path / "a")
    import json

    assert main(["evaluate", str(tmp_path / "a"), "--count", "120", "--backend", "numpy"]) == 0
    report = json.loads((tmp_path / "a" / "evaluate.json").read_text())
    assert of.evaluate(120) == report and minigan.load(tmp_path / "a").evaluate(120) == report
    gan(conditional=False).fit(IMAGES).save(tmp_path / "b")
    assert "call fit with the data first" in minigan.load(tmp_path / "b").evaluate(100)["missing"][0]
    with pytest.raises(UserError, match="count is at least 100"):
        of.evaluate(9)
