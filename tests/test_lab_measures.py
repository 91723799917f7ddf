"""Test the measures of the experiments latent, memorised and detect on data whose answer is known."""

import numpy as np
import pytest

from minigan import datasets
from minigan.lab.experiments import detect, latent, memorised
from minigan.metrics.comparison import to_nearest

# ---------------------------------------------------------------- latent


@pytest.mark.parametrize("t", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_a_spherical_walk_keeps_the_length_and_the_speed(t, rng):
    a, b = (latent.unit(rng.standard_normal((50, 16))) for _ in range(2))
    at = latent.spherical(a, b, t)
    assert np.allclose(np.linalg.norm(at, axis=1), 4, rtol=1e-5)
    whole, part = (np.arccos(np.clip((a * x).sum(axis=1) / 16, -1, 1)) for x in (b, at))
    assert np.allclose(part, t * whole, atol=2e-3)


def test_both_walks_go_from_one_vector_to_the_other(rng):
    a, b = (latent.unit(rng.standard_normal((50, 16))) for _ in range(2))
    for walk in (latent.linear, latent.spherical):
        assert np.allclose(walk(a, b, 0), a, atol=1e-5) and np.allclose(walk(a, b, 1), b, atol=1e-5)
    assert np.allclose(latent.linear(a, b, 0.5), (a + b) / 2, atol=1e-6)
    middle = np.linalg.norm(latent.linear(a, b, 0.5), axis=1)
    assert middle.mean() == pytest.approx(4 / np.sqrt(2), rel=0.1), "vectors at right angles, on average"


def test_noise_of_one_length_has_that_of_noise(rng):
    z = latent.unit(7 * rng.standard_normal((20, 9)))
    assert np.allclose(np.linalg.norm(z, axis=1), 3, rtol=1e-6) and z.dtype == np.float32
    assert np.isfinite(latent.unit(np.zeros((1, 9)))).all()


def test_the_mean_of_a_class_points_to_its_noise(rng):
    read = np.arange(200) % 10
    z = 5 * np.eye(12)[read] + 0.1 * rng.standard_normal((200, 12))
    means = latent.class_means(z, read)
    assert np.allclose(means, np.sqrt(12) * np.eye(10, 12), atol=0.2)


# ---------------------------------------------------------------- memorised


def test_copies_are_nearer_to_a_training_image_than_new_images(rng):
    train, new, fakes = (rng.integers(256, size=(300, 8, 8, 1)).astype(np.uint8) for _ in range(3))
    fakes[:120] = train[:120] ^ 1  # nearly the same
    expected = to_nearest(new, train)[1]
    found = memorised.compared(to_nearest(fakes, train)[1], expected)
    assert found["copies"] == pytest.approx(0.4 + 0.6 * 0.05, abs=0.03)
    only_new = memorised.compared(
        to_nearest(rng.integers(256, size=(300, 8, 8, 1)).astype(np.uint8), train)[1], expected
    )
    assert only_new["copies"] == pytest.approx(0.05, abs=0.04) and only_new["nearest"] == pytest.approx(1, abs=0.02)
    assert memorised.compared(expected / 2, expected)["nearest"] == pytest.approx(0.5)


def test_few_training_images_are_other_ones_than_those_held_out(rng):
    data = memorised.images_of(100, rng)
    assert len(data) == 100 and len(data.held_out) == 10_000 and len(np.unique(data.labels)) == 10
    known = {image.tobytes() for image in datasets.mnist("train").images}
    assert all(image.tobytes() in known for image in data.images)


# ---------------------------------------------------------------- detect


def test_the_accuracy_of_a_detector_is_the_mean_of_both_sides():
    def bright(images):
        return (images.mean(axis=(1, 2, 3)) > 128).astype(int)

    dark, light = np.zeros((30, 4, 4, 1)), np.full((10, 4, 4, 1), 255.0)
    assert detect.accuracy(bright, dark, light) == 1
    assert detect.accuracy(bright, light, dark) == 0
    assert detect.accuracy(bright, dark, dark[:5]) == 0.5
    assert detect.accuracy(bright, np.concatenate([dark, light]), light) == pytest.approx((0.75 + 1) / 2)
