"""Networks that start from earlier ones: classifiers, frozen and projected discriminators, fine-tuned generators."""

import json
import pickle
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import minigan
from minigan import backends, datasets, game, losses, models, optim, runs
from minigan.cli import main
from minigan.errors import UserError
from minigan.files import write_archive
from minigan.layers import Frozen, GaussianNoise, MultiDepth, Pack, Sequential, fuse
from minigan.metrics import classifier
from minigan.metrics.classifier import Classifier
from minigan.models import reuse
from minigan.runs import sources
from minigan.training import Config, Training, checkpoint, players

SIDE, CLASSES = 16, 3


def images(seed: int = 0, count: int = 90, side: int = SIDE) -> tuple[np.ndarray, np.ndarray]:
    """Grey images whose class is the position of a bright bar, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    x = rng.integers(0, 60, (count, side, side, 1))
    for image, label in zip(x, labels, strict=True):
        image[:, 2 + 5 * label : 5 + 5 * label] += 180
    return x.astype(np.uint8), labels


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with data.npz, other.npz (other images), a classifier c.npz, and the runs `plain` and `labelled`."""
    folder = tmp_path_factory.mktemp("players")
    for name, seed in (("data", 0), ("other", 1)):
        x, labels = images(seed)
        np.savez(folder / f"{name}.npz", images=x, labels=labels)
    assert classify(folder, folder / "c.npz", "--steps", "60") == 0
    for name, how in (("plain", "--unconditional"), ("labelled", "--conditional")):
        assert train(folder / name, folder, how, "--average", "0.9", "--steps", "6") == 0
    return folder


def classify(folder: Path, out: Path, *options: str) -> int:
    return main(["classify", "--data", str(folder / "data.npz"), "--out", str(out), "--backend", "numpy", *options])


def train(out: Path, folder: Path, *options: str, data: str = "data.npz", preset: str = "small") -> int:
    common = ["--preset", preset, "--batch", "8", "--backend", "numpy", "--quiet", "--out", str(out)]
    return main(["train", "--data", str(folder / data), *common, *options])


def contents(out: Path) -> dict[str, bytes]:
    """The arrays of a run's newest checkpoint, as bytes."""
    return {name: a.tobytes() for name, a in checkpoint.load(out / "checkpoint.npz")[0].items()}


def begin(folder: Path, data: str = "data.npz", **choices) -> Training:
    """A new training on data of the fixture, on the numpy backend."""
    given = {"preset": "small", "batch": 8, "steps": 3, "backend": "numpy", "data": str(folder / data)} | choices
    return runs.begin(Config.of(**given), None)


# ---------------------------------------------------------------- the classifier


def test_a_classifier_is_trained_tested_and_saved_in_one_file(place):
    found = Classifier.load(place / "c.npz")
    x, labels = images(seed=5)  # not seen in training
    assert (found(x) == labels).mean() > 0.95 and found.accuracy > 0.8
    facts = found.facts
    assert facts["class_names"] == ["0", "1", "2"] and facts["widths"] == [24, 48] and facts["tested"] == 9
    assert facts["sample_shape"] == [SIDE, SIDE, 1] and facts["data"]["shape"] == [90, SIDE, SIDE, 1]
    assert facts["accuracy"] == found.accuracy and (facts["seed"], facts["steps"]) == (0, 60)


def test_a_classifier_of_the_python_api_has_the_bits_of_the_command(place, tmp_path):
    x, labels = images()
    made = minigan.classify(x, labels, out=tmp_path / "c.npz", steps=60, backend="numpy", verbose=0)
    theirs = Classifier.load(place / "c.npz")
    for name, value in (theirs.network.params | theirs.network.buffers).items():
        assert value.tobytes() == (made.network.params | made.network.buffers)[name].tobytes(), name
    again = Classifier.load(tmp_path / "c.npz")
    assert (again(x) == made(x)).all() and again.accuracy == made.accuracy
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.npz"]


def test_class_names_are_kept(tmp_path):
    x, labels = images()
    names = np.array(["left", "middle", "right"])[labels]
    found = minigan.classify(x, names, out=tmp_path / "c.npz", steps=2, backend="numpy", verbose=0)
    assert found.facts["class_names"] == Classifier.load(tmp_path / "c.npz").facts["class_names"] == sorted(set(names))


def test_mnist_is_tested_on_its_test_images(monkeypatch):
    seen = {}

    def spy(x, labels, backend, seed, steps, progress, test):
        seen.update(trained=len(x), tested=len(test[0]), same=(test[1] == datasets.mnist("test").labels).all())
        raise UserError("enough")

    monkeypatch.setattr(classifier, "train", spy)
    with pytest.raises(UserError, match="enough"):
        minigan.classify(steps=1, backend="numpy")
    assert seen == {"trained": 60_000, "tested": 10_000, "same": True}


def test_the_test_images_take_no_part_in_the_training(monkeypatch):
    x, labels = images(count=30)
    test = images(seed=9, count=12)
    batches = []
    monkeypatch.setattr(classifier, "shifted", lambda batch, most, rng: batches.append(batch) or batch)
    found = classifier.train(x, labels, backends.load("numpy"), steps=5, test=test)
    assert found.facts["tested"] == 12 and found.accuracy == (found(test[0]) == test[1]).mean()
    seen = {image.tobytes() for batch in batches for image in batch}
    assert seen == {image.tobytes() for image in x}  # all 30, because nothing is held out of them


def test_one_image_of_each_class_gives_no_accuracy(tmp_path, capsys):
    x, labels = images(count=3)
    np.savez(tmp_path / "data.npz", images=x, labels=labels)
    assert classify(tmp_path, tmp_path / "c.npz", "--steps", "1") == 0
    assert "the accuracy is unknown" in capsys.readouterr().out
    found = Classifier.load(tmp_path / "c.npz")
    assert np.isnan(found.accuracy) and found.facts["accuracy"] is None


@pytest.mark.parametrize(
    ("arrays", "options", "says"),
    [
        ({"images": images()[0]}, [], "a classifier needs labels"),
        ({"images": images()[0], "labels": np.zeros(90, int)}, [], "has only one, 0"),
        ({"images": images()[0], "labels": images()[1]}, ["--out", "c.txt"], "written to a .npz file, got c.txt"),
        ({"images": images()[0], "labels": images()[1]}, ["--out", "data.npz"], "data.npz already exists"),
        ({"images": images()[0], "labels": images()[1]}, ["--steps", "0"], "steps at least 1, got 0 and 0"),
        ({"images": images()[0], "labels": images()[1]}, ["--data", "ring"], "a classifier takes images, and ring"),
        ({"images": images()[0], "labels": images()[1]}, ["--data", "none.npz"], "none.npz"),
    ],
)
def test_bad_input_of_classify_ends_in_one_sentence(arrays, options, says, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("data.npz", **arrays)
    assert main(["classify", "--data", "data.npz", "--backend", "numpy", *options]) == 2
    error = capsys.readouterr().err
    assert says in error and error.startswith("minigan: ") and error.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.npz"]


def test_a_classifier_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    x, labels = images(count=12)
    with pytest.raises(UserError, match="cannot write"):
        minigan.classify(x, labels, out=tmp_path / "file" / "c.npz", steps=1, backend="numpy", verbose=0)


def test_other_files_are_no_classifiers(place, tmp_path):
    with pytest.raises(UserError, match="is not a classifier"):
        Classifier.load(place / "plain" / "checkpoint.npz")
    with pytest.raises(UserError, match="is not a classifier, or is damaged"):
        Classifier.load(place / "data.npz")
    with pytest.raises(UserError, match=r"none\.npz does not exist"):
        Classifier.load(tmp_path / "none.npz")
    kept = Classifier.load(place / "c.npz")
    arrays = kept.network.params | kept.network.buffers
    facts = {"format": 1, "kind": "classifier", **kept.facts}
    write_archive(tmp_path / "newer.npz", arrays, facts | {"format": 2})
    write_archive(tmp_path / "wider.npz", arrays, facts | {"widths": [24, 32]})
    write_archive(tmp_path / "less.npz", arrays, {k: v for k, v in facts.items() if k != "widths"})
    wrong = {"newer": "newer minigan", "wider": "other arrays than its network needs", "less": "does not describe"}
    for name, says in wrong.items():
        with pytest.raises(UserError, match=says):
            Classifier.load(tmp_path / f"{name}.npz")


# ---------------------------------------------------------------- architectures


def test_a_discriminator_from_a_classifier_has_its_convolutions_and_a_new_head(place):
    source, t = Classifier.load(place / "c.npz").network, begin(place, discriminator_from=str(place / "c.npz"))
    x = np.random.default_rng(0).standard_normal((4, SIDE, SIDE, 1)).astype(np.float32)
    features = Sequential(*source.layers[:6]).forward(x, train=False)[0]
    assert np.array_equal(Sequential(*t.D.layers[:6]).forward(x, train=False)[0], features)
    assert len(t.D.layers) == 9 and t.D.forward(x)[0].shape == (4, 1)
    assert set(t.D.params) == {f"{i}.{n}" for i in (0, 3) for n in ["w"]} | {
        f"{i}.{n}" for i in (1, 4) for n in ("gamma", "beta")
    } | {"8.w", "8.b"}


@pytest.mark.parametrize("classes", [0, CLASSES])
def test_a_projected_discriminator_adds_the_logits_of_each_depth(classes, place):
    """The features are those of the classifier, computed here from its own layers."""
    source = Classifier.load(place / "c.npz").network
    t = begin(place, discriminator_from=str(place / "c.npz"), projected=True, conditional=bool(classes))
    (layer,) = t.D.layers
    x = np.random.default_rng(0).standard_normal((4, SIDE, SIDE, 1)).astype(np.float32)
    labels = np.array([0, 2, 1, 1]) if classes else None
    y, features = np.zeros((4, 1), np.float32), x
    for depth, head in enumerate(layer.heads):
        stage = Sequential(*source.layers[3 * depth : 3 * depth + 3])
        features, _ = stage.forward(features, train=False)
        mix = head.layers[0]
        assert isinstance(mix, Frozen) and mix.layer.params["w"].shape == (1, 1, *[features.shape[3]] * 2)
        logits, _ = head.forward(features, train=False, labels=labels)
        assert logits.shape == (4, 1) and abs(logits).min() > 0
        y = y + logits
    np.testing.assert_allclose(t.D.forward(x, train=False, labels=labels)[0], y, rtol=1e-6)
    assert isinstance(layer, MultiDepth) and len(layer.stages) == 2
    assert all(".head." in name for name in t.D.params)
    assert t.D.classes == classes == t.G.classes


@pytest.mark.parametrize(
    ("freeze", "learn"), [("", "all"), ("2", {"2", "5"}), ("3", {"5"}), ("features", {"5"}), ("all", set())]
)
def test_freeze_says_which_layers_do_not_learn(freeze, learn, place):
    t = begin(place, discriminator_from=str(place / "plain"), freeze=freeze)  # layers 0, 2 and 5 have weights
    found = {name.split(".")[0] for name in t.D.params}
    assert found == ({"0", "2", "5"} if learn == "all" else learn)
    before = checkpoint.load(place / "plain" / "checkpoint.npz")[0]
    for name, value in (t.D.params | t.D.buffers).items():
        assert value.tobytes() == before[f"D.{name}"].tobytes(), name


def test_the_table_lists_the_layers_of_every_depth_and_counts_frozen_weights(place):
    t = begin(place, discriminator_from=str(place / "c.npz"), projected=True)
    text, lines = models.table(t.D, (SIDE, SIDE, 1)), models.table(t.D, (SIDE, SIDE, 1)).splitlines()
    assert text.count("SpectralNorm") == 2 and text.count("Frozen(BatchNorm") == 2
    frozen = 9 * 24 + 2 * 24 + 24 * 24 + 9 * 24 * 48 + 2 * 48 + 48 * 48
    assert lines[-1].split() == ["frozen", f"{frozen:,}"] and lines[-2].split() == ["parameters", f"{t.D.n_params:,}"]
    again = models.table(Sequential(Frozen(t.D)), (SIDE, SIDE, 1)).splitlines()
    assert again[-1].split() == ["frozen", f"{frozen + t.D.n_params:,}"] and again[-2].split() == ["parameters", "0"]


# ---------------------------------------------------------------- steps


class Spy:
    """Records the calls of the operations of a backend."""

    GRADIENTS = ("conv2d_grad_w", "bias_grad", "sum_rows", "batchnorm_grad")

    def __init__(self, backend, monkeypatch):
        self.calls: list[tuple[str, tuple]] = []
        for name in ("conv2d", "conv2d_grad_x", "conv2d_grad_w", "bias_grad", "sum_rows", "batchnorm_grad", "matmul"):
            monkeypatch.setattr(backend, name, partial(self._call, name, getattr(backend, name)))

    def _call(self, name, operation, *arguments, **options):
        self.calls.append((name, tuple(getattr(a, "shape", None) for a in arguments)))
        return operation(*arguments, **options)

    def count(self, *names: str) -> int:
        return sum(name in names for name, _ in self.calls)


def discriminator_step(D, monkeypatch, backend) -> tuple[Spy, dict]:
    """Run one discriminator step with fused networks, and return the operations of D and the report."""
    rng = np.random.default_rng(0)
    G, _ = models.build("small", rng=rng, sample_shape=(SIDE, SIDE, 1))
    G.to(backend), D.to(backend)
    real = backend.asarray(rng.standard_normal((4, SIDE, SIDE, 1)).astype(np.float32))
    fake = G.forward(backend.asarray(rng.standard_normal((4, 64)).astype(np.float32)), track=False)[0]
    G.forward = lambda *_, **__: (fake, None)  # so that all operations are those of D
    optimizer = optim.SGD(D, lr=0.1)
    with monkeypatch.context() as patch:
        spy = Spy(backend, patch)
        report = game.discriminator_step(G, fuse(D), optimizer, real, None, losses.non_saturating)
    return spy, report


@pytest.mark.parametrize("name", ["numpy", "numba"])
@pytest.mark.parametrize("normed", ["none", "batch", "spectral"])
def test_a_frozen_part_costs_no_weight_gradient_and_keeps_every_bit(normed, name, rng, monkeypatch):
    backend = backends.load(name, threads=1)
    _, plain = models.build("small", rng=rng, sample_shape=(SIDE, SIDE, 1), options={"d_norm": normed})
    D = reuse.frozen(plain, "features")
    frozen = [n for n in D.buffers if not n.startswith(f"{len(D.layers) - 1}.")]
    before = {n: D.buffers[n].tobytes() for n in frozen}
    assert len(frozen) >= 4
    whole, _ = discriminator_step(models.build("small", rng=rng, sample_shape=(SIDE, SIDE, 1))[1], monkeypatch, backend)
    assert whole.count("conv2d_grad_w") == 4 and whole.count("conv2d_grad_x") == 2  # of two convolutions and batches
    spy, report = discriminator_step(D, monkeypatch, backend)
    assert spy.count("conv2d") == whole.count("conv2d") and np.isfinite(float(report["d_loss"]))
    assert spy.count("conv2d_grad_w", "conv2d_grad_x", "bias_grad", "batchnorm_grad") == 0, spy.calls
    assert spy.count("sum_rows") == 2  # the bias of the head, for two batches
    assert {n: backend.to_numpy(D.buffers[n]).tobytes() for n in frozen} == before


@pytest.mark.parametrize("source", ["all", "projected"])
def test_all_frozen_and_projected_discriminators_keep_their_bits(source, rng, monkeypatch):
    backend = backends.load("numpy", threads=1)
    if source == "all":
        D = reuse.frozen(models.build("small", rng=rng, sample_shape=(SIDE, SIDE, 1))[1], "all")
    else:
        D = reuse.projected(rng, (SIDE, SIDE, 1), 0, [24, 48])
    learns = {name.rpartition(".")[0] for name in D.params}
    frozen = {n: a.tobytes() for n, a in D.buffers.items() if n.rpartition(".")[0] not in learns}
    params = {n: a.tobytes() for n, a in D.params.items()}
    spy, _ = discriminator_step(D, monkeypatch, backend)
    assert {n: a.tobytes() for n, a in D.buffers.items() if n in frozen} == frozen and len(frozen) > 3
    if source == "all":
        assert not params and spy.count("conv2d_grad_w", "conv2d_grad_x", "sum_rows", "bias_grad") == 0
        assert not any(shapes[0] == (4, 1) for name, shapes in spy.calls if name == "matmul")  # no backward pass
    else:
        assert all(D.params[n].tobytes() != value for n, value in params.items())
        # Two heads with one convolution that learns, for two batches; nothing goes back into the features.
        assert spy.count("conv2d_grad_w") == 4 and spy.count("conv2d_grad_x") == 0


def test_frozen_networks_stay_in_evaluation_mode_during_a_training(place):
    """Batch norm keeps its statistics, and only the head changes."""
    t = begin(place, discriminator_from=str(place / "c.npz"), freeze="features", steps=4)
    source = Classifier.load(place / "c.npz").network
    start = {n: a.copy() for n, a in (t.D.params | t.D.buffers).items()}
    list(t.records())
    for name, value in (source.params | source.buffers).items():
        if int(name.split(".")[0]) < 6:
            assert t.D.buffers[name].tobytes() == value.tobytes(), name
    moved = {n for n, a in (t.D.params | t.D.buffers).items() if a.tobytes() != start[n].tobytes()}
    assert moved == {"8.w", "8.b"}


# ---------------------------------------------------------------- runs

WAYS = {
    "classifier": ["--discriminator-from", "c.npz"],
    "features": ["--discriminator-from", "c.npz", "--freeze", "features"],
    "projected": ["--discriminator-from", "c.npz", "--projected"],
    "projected, labels": ["--discriminator-from", "c.npz", "--projected", "--conditional"],
    "run": ["--discriminator-from", "plain"],
    "run, 2 layers": ["--discriminator-from", "plain", "--freeze", "2", "--penalty", "r1"],
    "run, all": ["--discriminator-from", "plain", "--freeze", "all"],
    "both": ["--discriminator-from", "plain", "--generator-from", "plain", "--simultaneous"],
    "generator": ["--generator-from", "labelled", "--conditional"],
}


@pytest.mark.parametrize("way", WAYS)
def test_a_run_is_complete_without_its_sources(way, place, tmp_path, monkeypatch):
    """It resumes to the same bits, draws the same samples and is described after its sources were deleted."""
    folder = tmp_path / "sources"
    folder.mkdir()
    for name in ("c.npz", "plain", "labelled"):
        (shutil.copytree if (place / name).is_dir() else shutil.copy)(place / name, folder / name)
    monkeypatch.chdir(folder)
    options = WAYS[way] if "--conditional" in WAYS[way] else [*WAYS[way], "--unconditional"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert train(whole, place, *options, "--steps", "8", data="other.npz") == 0
    assert train(broken, place, *options, "--steps", "3", data="other.npz") == 0
    shutil.rmtree(folder)
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--resume", "--out", str(broken), "--steps", "8", "--quiet"]) == 0
    assert contents(whole) == contents(broken)
    for out in (whole, broken):
        assert main(["sample", str(out), "--backend", "numpy", "--count", "9", "--out", str(out / "s.npy")]) == 0
    assert (whole / "s.npy").read_bytes() == (broken / "s.npy").read_bytes()
    gan = minigan.load(broken)
    arrays, _ = checkpoint.load(broken / "checkpoint.npz")
    found = gan.discriminator_.params | gan.discriminator_.buffers
    assert all(value.tobytes() == arrays[f"D.{name}"].tobytes() for name, value in found.items())
    assert gan.fit(steps=9, verbose=0).n_steps_ == 9
    taken = [text for topic, text in runs.described(runs.info(broken)) if topic == "taken"]
    assert len(taken) == sum(option in WAYS[way] for option in ("--discriminator-from", "--generator-from"))


@pytest.mark.parametrize("way", WAYS)
def test_another_process_can_prepare_the_kernels(way, place, monkeypatch):
    """What `warm_up` sends is small, can be pickled, and trains networks of the same architecture."""
    options = dict(zip(("discriminator_from", "generator_from"), (None, None), strict=True))
    words = WAYS[way]
    for name in options:
        flag = "--" + name.replace("_", "-")
        options[name] = str(place / words[words.index(flag) + 1]) if flag in words else ""
    options["freeze"] = words[words.index("--freeze") + 1] if "--freeze" in words else ""
    t = begin(place, **options, projected="--projected" in words, conditional="--conditional" in words)
    sent, built = [], []
    monkeypatch.setattr(t.backend, "prepare", lambda function: sent.append(pickle.dumps(function)))
    t.warm_up()
    assert len(sent[0]) < 20_000
    original = Training.__init__
    monkeypatch.setattr(Training, "__init__", lambda self, *a, **k: original(self, *a, **k) or built.append(self))
    monkeypatch.setattr(sources, "taken", None)  # nothing is read
    pickle.loads(sent[0])(backends.load("numpy"))
    assert repr(built[0].D) == repr(t.D) and built[0].step == 1


def test_a_finetuned_generator_starts_with_the_pictures_of_its_source(place, tmp_path):
    """They are drawn with the moving average, which is what the source draws them with."""
    out = tmp_path / "tuned"
    assert train(out, place, "--generator-from", str(place / "plain"), "--unconditional", "--average", "0.9",
                 "--steps", "3", data="other.npz") == 0  # fmt: skip
    source, start = (
        runs.sampler(place / "plain", backends.load("numpy")),
        begin(place, "other.npz", generator_from=str(place / "plain"), average=0.9),
    )
    assert np.array_equal(source.of(start.fixed_noise), start.samples(100))
    last = Path(place / "plain" / "final.png").read_bytes()
    runs.save_pictures(start, tmp_path)
    assert (tmp_path / "final.png").read_bytes() == last
    average = {
        n: a for n, a in checkpoint.load(place / "plain" / "checkpoint.npz")[0].items() if n.startswith("average.")
    }
    assert all(start.G.params[n].tobytes() == average[f"average.{n}"].tobytes() for n in start.G.params)
    assert not np.array_equal(runs.sampler(out, backends.load("numpy")).of(start.fixed_noise), start.samples(100))


def test_a_generator_without_an_average_is_taken_as_it_is(place, tmp_path):
    assert train(tmp_path / "a", place, "--unconditional", "--steps", "4") == 0
    t = begin(place, generator_from=str(tmp_path / "a"), average=0.9)
    arrays, _ = checkpoint.load(tmp_path / "a" / "checkpoint.npz")
    found = t.G.params | t.G.buffers
    assert all(value.tobytes() == arrays[f"G.{name}"].tobytes() for name, value in found.items())
    assert t.opt_g.state["t"] == 0 and t.step == 0


def test_finetuning_adapts_the_generator_to_other_data(tmp_path):
    """A generator of dark images learns bright ones in fewer steps than a new generator."""
    rng = np.random.default_rng(0)
    grey = {name: rng.normal(mean, 10, (64, 8, 8, 1)).clip(0, 255).astype(np.uint8) for name, mean in
            (("dark", 60), ("bright", 90))}  # fmt: skip
    how = dict(batch=16, seed=1, backend="numpy", verbose=0, lr_g=2e-3, lr_d=2e-3)
    minigan.GAN("small", **how, steps=150, out=tmp_path / "dark").fit(grey["dark"])
    distances = []
    for source in ("", tmp_path / "dark"):
        gan = minigan.GAN("small", **how, steps=10, generator_from=source).fit(grey["bright"])
        distances.append(abs(float(gan.sample(64, seed=0).mean()) - 90))
    assert distances[1] < 0.5 * distances[0], distances


def test_a_taken_discriminator_can_be_taken_again(place, tmp_path):
    """Its architecture comes from the run, although it is not that of the preset. Freezing is not inherited."""
    for how, name in ((["--projected"], "projected"), (["--freeze", "features"], "features")):
        first = tmp_path / name
        assert (
            train(first, place, "--unconditional", "--discriminator-from", str(place / "c.npz"), *how, "--steps", "3")
            == 0
        )
        t = begin(place, preset="mlp", discriminator_from=str(first))  # its generator is another one
        arrays, facts = checkpoint.load(first / "checkpoint.npz")
        found = t.D.params | t.D.buffers
        assert all(value.tobytes() == arrays[f"D.{n}"].tobytes() for n, value in found.items())
        assert t.state()[1]["discriminator"] == facts["discriminator"]
        assert ("0.w" in t.D.params) == (name == "features")
        list(t.records())
    with pytest.raises(UserError, match="has 1 layer, so freeze is all, or left out, got features"):
        begin(place, discriminator_from=str(tmp_path / "projected"), freeze="features")
    all_frozen = begin(place, discriminator_from=str(tmp_path / "projected"), freeze="all")
    assert not all_frozen.D.params and len(list(all_frozen.records())) == 3


def test_the_start_says_what_was_taken(place, tmp_path, capsys):
    arguments = ["train", "--data", str(place / "data.npz"), "--preset", "small", "--batch", "8", "--backend", "numpy"]
    assert main([*arguments, "--steps", "1", "--out", str(tmp_path / "r"), "--discriminator-from", str(place / "plain"),
                 "--freeze", "1", "--generator-from", str(place / "plain"), "--unconditional"]) == 0  # fmt: skip
    text = " ".join(capsys.readouterr().out.split())
    assert f"taken discriminator from {place / 'plain'}: its first layer is frozen" in text
    assert f"taken generator from {place / 'plain'}" in text and "Frozen(Conv2d" in text


def test_other_class_names_are_mentioned(place):
    x, labels = images(seed=1)
    t = begin(place, generator_from=str(place / "labelled"), conditional=True)
    assert t.taken.notes == ()
    named = datasets.convert(x, np.array(["a", "b", "c"])[labels], "images", datasets.ImageOptions())
    config = Config.of("small", conditional=True, generator_from=str(place / "labelled"))
    (note,) = sources.taken(config, named).notes
    assert note == "the weights of the classes 0, 1, 2 start as those of a, b, c"


def test_a_run_without_these_options_has_the_bits_of_before(place):
    """The networks are those of models.build, from the same random numbers."""
    t = begin(place, seed=3)
    G, D = models.build("small", rng=np.random.default_rng([3, 0]), sample_shape=(SIDE, SIDE, 1))
    for network, expected in ((t.G, G), (t.D, D)):
        assert {n: a.tobytes() for n, a in network.params.items()} == {
            n: a.tobytes() for n, a in expected.params.items()
        }
    assert t.taken is None and t.state()[1]["discriminator"] is None


def test_the_python_api_gives_the_bits_of_the_command_line(place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    assert train(tmp_path / "cli", place, "--unconditional", "--discriminator-from", "plain", "--freeze", "2",
                 "--steps", "4") == 0  # fmt: skip
    gan = minigan.GAN("small", batch=8, steps=4, backend="numpy", verbose=0, conditional=False, data=place / "data.npz",
                      discriminator_from=Path("plain"), freeze=2)  # fmt: skip
    gan.fit().save(tmp_path / "api")
    assert contents(tmp_path / "cli") == contents(tmp_path / "api")
    assert json.loads((tmp_path / "cli" / "config.json").read_text()) == json.loads(
        (tmp_path / "api" / "config.json").read_text()
    )
    assert minigan.load(tmp_path / "api").get_params()["freeze"] == "2"


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("choices", "says"),
    [
        ({"freeze": "2"}, "freeze needs a discriminator that was trained before"),
        ({"projected": True}, "projected needs the features of a classifier"),
        ({"discriminator_from": "x", "freeze": "0"}, "freeze is a number of layers"),
        ({"discriminator_from": "x", "freeze": "-1"}, "freeze is a number of layers"),
        ({"discriminator_from": "x", "freeze": "most"}, "got 'most'"),
        ({"discriminator_from": "x", "freeze": "\u0663"}, "freeze is a number of layers"),
        ({"discriminator_from": "x", "freeze": "2", "projected": True}, "leave freeze out, got freeze 2"),
        ({"discriminator_from": "x", "freeze": "all", "penalty": "r1"}, "cannot be penalised: leave penalty out"),
        ({"discriminator_from": 3}, "discriminator_from is a text, got 3"),
    ],
)
def test_options_that_contradict_each_other_are_refused(choices, says):
    with pytest.raises(UserError, match=says):
        Config.of("small", **choices)
    with pytest.raises(UserError, match=says):
        minigan.GAN("small", **choices)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--discriminator-from", "none"], "none does not exist: discriminator_from is the folder of a run"),
        (["--generator-from", "none"], "none is not the folder of a run"),
        (["--generator-from", "c.npz"], "c.npz is not the folder of a run"),
        (["--discriminator-from", "data.npz"], "data.npz is not a classifier"),
        (["--discriminator-from", "c.npz", "--freeze", "all"], "use freeze features"),
        (
            ["--discriminator-from", "c.npz", "--freeze", "9"],
            "has 9 layers, so freeze is 1 to 8, features or all, got 9",
        ),
        (["--discriminator-from", "plain", "--projected"], "projected needs a file that `minigan classify` wrote"),
        (["--discriminator-from", "plain", "--conditional"], "see no labels, and those of this run 3 classes"),
        (["--generator-from", "labelled"], "see 3 classes, and those of this run no labels: use --conditional"),
        (
            ["--discriminator-from", "plain", "--preset", "mlp"],
            "plain is that of --preset small, and this run asks for",
        ),
        (["--generator-from", "plain", "--preset", "mlp"], "the generator of "),
        (["--discriminator-from", "plain", "--network", "d_norm=batch"], "this run asks for --preset small --network"),
        (["--discriminator-from", "c.npz", "--size", "8"], "is for samples of 16 x 16 x 1, and data has 8 x 8 x 1"),
        (["--generator-from", "plain", "--size", "8"], "is for samples of 16 x 16 x 1, and data has 8 x 8 x 1"),
    ],
)
def test_a_source_that_does_not_fit_is_refused_before_anything_is_written(options, says, place, tmp_path, capsys,
                                                                           monkeypatch):  # fmt: skip
    monkeypatch.chdir(place)
    monkeypatch.setattr(runs.run, "load_backend", lambda config: pytest.fail("a backend was started"))
    given = options if "--conditional" in options else [*options, "--unconditional"]
    assert train(tmp_path / "r", place, *given) == 2
    error = capsys.readouterr().err
    assert says in error and error.startswith("minigan: ") and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_generator_of_another_width_is_refused_and_one_of_an_equal_preset_taken(tmp_path):
    x, _ = images(count=20)
    how = dict(batch=8, steps=1, backend="numpy", verbose=0, conditional=False)
    minigan.GAN("digits", **how, out=tmp_path / "digits").fit(x)
    minigan.GAN("digits-unlabelled", **how, generator_from=tmp_path / "digits").fit(x)
    minigan.GAN("digits-wide", **how, discriminator_from=tmp_path / "digits").fit(x)  # the same discriminator
    with pytest.raises(
        UserError, match="is that of --preset digits, and this run asks for --preset digits-wide: use --preset digits"
    ):
        minigan.GAN("digits-wide", **how, generator_from=tmp_path / "digits").fit(x)


def test_a_training_of_its_own_reads_no_files(place):
    config = Config.of("small", batch=8, discriminator_from=str(place / "plain"))
    data, backend = datasets.load(str(place / "data.npz")), backends.load("numpy")
    with pytest.raises(UserError, match=r"read by runs\.begin"):
        Training(config, data, backend)
    with pytest.raises(UserError, match="networks of your own"):
        Training(config, data, backend, models.build("small", rng=np.random.default_rng(0)))


def test_arrays_that_do_not_fit_are_refused(place):
    config, rng = Config.of("small", generator_from="here"), np.random.default_rng(0)
    taken = players.Taken(arrays={"G.9.w": np.zeros(3, np.float32)})
    with pytest.raises(UserError, match=r"here is from another architecture: G\.9\.w"):
        players.build(config, (SIDE, SIDE, 1), 0, rng, taken)


def test_a_resumed_run_cannot_change_what_was_taken(place, tmp_path, capsys):
    out = tmp_path / "r"
    assert train(out, place, "--unconditional", "--discriminator-from", str(place / "plain"), "--steps", "1") == 0
    for options in (["--freeze", "1"], ["--generator-from", str(place / "plain")]):
        assert main(["train", "--resume", "--out", str(out), *options]) == 2
        assert "which a resumed run cannot change" in capsys.readouterr().err


def test_instance_noise_and_packing_are_no_layers_of_the_discriminator_that_is_taken(tmp_path):
    """They are layers before the first one, so freeze counts the others, and a run without noise takes the same D."""
    x, _ = images(count=40)
    how = dict(batch=8, steps=2, backend="numpy", verbose=0, conditional=False)
    noisy = minigan.GAN("small", **how, instance_noise=0.2, pack=2, out=tmp_path / "noisy").fit(x)
    taken = minigan.GAN("small", **how, pack=2, discriminator_from=tmp_path / "noisy", freeze="1").fit(x)
    assert [type(layer) for layer in noisy.discriminator_.layers[:2]] == [GaussianNoise, Pack]
    assert [type(layer) for layer in taken.discriminator_.layers[:2]] == [Pack, Frozen]
    source, same = noisy.discriminator_.layers[2], taken.discriminator_.layers[1].layer
    assert np.array_equal(source.params["w"], same.params["w"]) and source.params["w"].shape[2] == 2
    with pytest.raises(UserError, match="is that of --preset small --pack 2, and this run asks for --preset small"):
        minigan.GAN("small", **how, discriminator_from=tmp_path / "noisy").fit(x)


def test_networks_for_points_are_taken(tmp_path):
    """A generator of the ring learns the grid, judged by a discriminator of the ring whose features are frozen."""
    how = dict(steps=4, batch=16, backend="numpy", verbose=0)
    minigan.GAN(data="ring", **how, out=tmp_path / "ring").fit()
    taken = dict(generator_from=tmp_path / "ring", discriminator_from=tmp_path / "ring", freeze="features")
    gan = minigan.GAN(data="grid", **how, **taken, out=tmp_path / "grid").fit()
    ring, grid = (checkpoint.load(tmp_path / name / "checkpoint.npz")[0] for name in ("ring", "grid"))
    frozen = [n for n in ring if n.startswith("D.") and not n.startswith("D.7.")]
    assert len(frozen) == 6 and all(ring[n].tobytes() == grid[n].tobytes() for n in frozen)
    assert ring["D.7.w"].tobytes() != grid["D.7.w"].tobytes() and gan.sample(5).shape == (5, 2)


@pytest.mark.parametrize(
    "choices",
    [
        dict(freeze="all", feature_matching=1.0, g_steps=2),
        dict(freeze="features", instance_noise=0.1, pack=2, optimizer="momentum", clip_norm=0.1, penalty="r1"),
        dict(freeze="2", loss="r3gan", real_share=0.5, average=0.9),
    ],
)
def test_taken_discriminators_train_with_every_other_option(choices, tmp_path):
    """And a run that is resumed in between has the same bits, although its source is gone."""
    x, _ = images(count=40)
    how = dict(batch=8, backend="numpy", verbose=0, conditional=False)
    source = dict(pack=choices.get("pack", 1))
    minigan.GAN("small", **how, **source, steps=2, out=tmp_path / "source").fit(x)
    ends = []
    for name in ("whole", "halves"):
        run = dict(**how, **choices, discriminator_from=tmp_path / "source", out=tmp_path / name)
        gan = minigan.GAN("small", **run, steps=4 if name == "whole" else 2).fit(x)
        if name == "halves":
            shutil.rmtree(tmp_path / "source")
            gan = minigan.load(tmp_path / name).fit(x, steps=4, verbose=0)
        ends.append(gan.sample(3, seed=0))
    assert gan.n_steps_ == 4 and np.isfinite(gan.history_[-1]["d_loss"])
    assert np.array_equal(*ends)
