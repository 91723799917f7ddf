"""Test the networks of the presets: shapes, parameter counts, options, and error messages."""

import numpy as np
import pytest

from minigan import models
from minigan.errors import UserError
from minigan.layers import BatchNorm, SpectralNorm

# Parameter counts of (generator, discriminator) for 28 x 28 x 1, counted by hand, layer by layer.
COUNTS = {
    "small": (64 * 3136 + 2 * 64 + 64 * 32 * 16 + 2 * 32 + 32 * 16 + 1, 16 * 32 + 32 + 32 * 64 * 16 + 64 + 3136 + 1),
    "tutorial": (
        100 * 12544 + 2 * 12544 + 256 * 128 * 25 + 2 * 128 + 128 * 64 * 25 + 2 * 64 + 64 * 25,
        25 * 64 + 64 + 64 * 128 * 25 + 128 + 6272 + 1,
    ),
}


IMAGE_PRESETS = [name for name, preset in models.PRESETS.items() if preset.kind == "images"]


@pytest.mark.parametrize("preset", IMAGE_PRESETS)
@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3), (8, 8, 1)])
def test_generators_map_noise_to_images_and_discriminators_images_to_logits(preset, shape):
    rng = np.random.default_rng(0)
    G, D = models.build(preset, rng=rng, sample_shape=shape)
    z = rng.standard_normal((3, G.noise_shape[0]), dtype=np.float32)
    images, _ = G.forward(z)
    assert images.shape == (3, *shape) and images.dtype == np.float32
    assert np.abs(images).max() <= 1
    logits, _ = D.forward(images)
    assert logits.shape == (3, 1) and logits.dtype == np.float32


@pytest.mark.parametrize("preset", COUNTS)
def test_parameter_counts(preset):
    G, D = models.build(preset, rng=np.random.default_rng(0))
    for network, count in zip((G, D), COUNTS[preset], strict=True):
        assert network.n_params == sum(p.size for p in network.params.values()) == count
        assert f"{count:,}" in models.table(network, (G.noise_shape[0],) if network is G else (28, 28, 1))


@pytest.mark.parametrize("preset", [name for name in IMAGE_PRESETS if name != "upsample"])
def test_with_classes_both_networks_take_labels(preset):
    rng = np.random.default_rng(0)
    G, D = models.build(preset, rng=rng, sample_shape=(8, 8, 1), classes=3)
    assert G.classes == 3 and G.noise_shape[0] in (64, 100)
    z = np.repeat(rng.standard_normal((1, G.noise_shape[0]), dtype=np.float32), 3, axis=0)
    images, _ = G.forward(z, train=False, labels=np.arange(3))
    assert np.abs(images[0] - images[1]).max() > 0.1 * np.abs(images).max()  # the same noise, another label
    logits, _ = D.forward(np.repeat(images[:1], 3, axis=0), train=False, labels=np.arange(3))
    assert len(np.unique(logits)) == 3
    with pytest.raises(ValueError, match=r"expects labels \(3,\), one for each row of x, got none"):
        G.forward(z)
    assert "OneHot(3)" in models.table(G, (G.noise_shape[0],))


@pytest.mark.parametrize("classes", [0, 8])
def test_the_networks_of_points_map_noise_to_points_and_points_to_logits(classes):
    rng, labels = np.random.default_rng(0), np.arange(6) if classes else None
    G, D = models.build("points", rng=rng, sample_shape=(2,), classes=classes)
    assert (G.noise_shape, G.classes, D.classes) == ((2,), classes, classes)
    points, _ = G.forward(rng.standard_normal((6, 2), dtype=np.float32), labels=labels)
    assert points.shape == (6, 2) and D.forward(points, labels=labels)[0].shape == (6, 1)
    with pytest.raises(UserError, match="preset points needs rows of numbers, got samples of 28 x 28 x 1"):
        models.build("points", rng=rng)


@pytest.mark.parametrize("preset", ["small", "digits"])
@pytest.mark.parametrize(("norm", "kind"), [("spectral", SpectralNorm), ("batch", BatchNorm), ("none", type(None))])
@pytest.mark.parametrize("classes", [0, 3])
def test_the_normalisation_of_the_discriminator_is_an_option(preset, norm, kind, classes):
    options = {"d_norm": norm}
    _, D = models.build(preset, rng=np.random.default_rng(0), sample_shape=(8, 8, 1), classes=classes, options=options)
    found = {type(layer) for layer in D.layers} & {SpectralNorm, BatchNorm}
    assert found == {kind} - {type(None)}
    x, labels = np.zeros((3, 8, 8, 1), np.float32), np.arange(3) if classes else None
    assert D.forward(x, labels=labels)[0].shape == (3, 1)


def test_the_width_of_the_generator_is_an_option():
    default, wide, digits_wide = (
        models.build(preset, rng=np.random.default_rng(0), options=options)[0]
        for preset, options in (("digits", {}), ("digits", {"g_width": "2"}), ("digits-wide", None))
    )
    assert wide.params["0.w"].shape[1] == 2 * default.params["0.w"].shape[1]
    assert all(np.array_equal(wide.params[name], w) for name, w in digits_wide.params.items())


@pytest.mark.parametrize(
    ("preset", "options", "message"),
    [
        ("small", {"g_width": 2}, "the networks of preset small have no option g_width, only d_norm"),
        ("mlp", {"g_width": 2}, "the networks of preset mlp have no option g_width, only d_norm, d_minibatch_std"),
        ("digits", {"g_width": "wide"}, "g_width is a whole number, got 'wide'"),
        ("digits", {"g_width": 9}, "g_width is at least 1 and at most 8, got 9"),
    ],
)
def test_an_invalid_option_of_a_preset_is_rejected(preset, options, message):
    with pytest.raises(UserError, match=message):
        models.build(preset, rng=np.random.default_rng(0), options=options)


def test_upsample_takes_no_labels():
    with pytest.raises(UserError, match="takes no labels"):
        models.build("upsample", rng=np.random.default_rng(0), classes=10)


def test_the_seed_decides_the_weights():
    def weights(seed):
        G, D = models.build("tutorial", rng=np.random.default_rng(seed), sample_shape=(8, 8, 1))
        return {**G.params, **G.buffers, **{f"D{k}": v for k, v in (D.params | D.buffers).items()}}

    a, b, c = weights(1), weights(1), weights(2)
    assert all(np.array_equal(a[k], b[k]) for k in a)
    assert not np.array_equal(a["0.w"], c["0.w"]) and a["D2.key"] != c["D2.key"]


def test_small_starts_from_dcgan_weights_and_tutorial_from_glorot():
    G, _ = models.build("small", rng=np.random.default_rng(0))
    assert abs(G.params["0.w"].std() - 0.02) < 0.0005 and abs(G.params["0.w"].mean()) < 0.0005
    G, _ = models.build("tutorial", rng=np.random.default_rng(0))
    limit = np.sqrt(6 / (100 + 12544))
    assert 0.999 * limit < np.abs(G.params["0.w"]).max() <= limit
    assert G.layers[1].eps == 1e-3 and G.layers[1].momentum == 0.99


def test_tutorial_pads_as_tensorflow_does():
    """The total of TensorFlow's "same" padding is max((ceil(H/s) - 1) * s + K - H, 0), with the smaller half before."""
    G, D = models.build("tutorial", rng=np.random.default_rng(0))
    for layer, size in ((D.layers[0], 28), (D.layers[3], 14), (G.layers[4], 7), (G.layers[7], 14), (G.layers[10], 28)):
        total = max((-(-size // layer.stride) - 1) * layer.stride + layer.kernel - size, 0)
        assert layer.pad == (total // 2, total - total // 2), layer


@pytest.mark.parametrize(
    ("preset", "shape", "message"),
    [
        ("dcgan", (28, 28, 1), "unknown preset 'dcgan': choose digits"),
        ("digits", (28, 56, 1), "halved evenly, got 28 x 56"),
        ("small", (30, 30, 1), "multiples of 4"),
        ("tutorial", (4, 4, 1), "from 8 up, got 4 x 4"),
    ],
)
def test_an_invalid_preset_or_shape_is_rejected(preset, shape, message):
    with pytest.raises(UserError, match=message):
        models.build(preset, rng=np.random.default_rng(0), sample_shape=shape)
