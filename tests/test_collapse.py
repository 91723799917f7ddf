"""The figures of a check have the values that constructed samples and networks must give."""

import numpy as np
import pytest
from scipy.cluster.vq import kmeans2
from scipy.spatial.distance import cdist

from minigan import backends, game, losses, optim
from minigan.layers import (
    BatchNorm,
    Concatenate,
    Dense,
    Dropout,
    Flatten,
    OneHot,
    ReLU,
    Sequential,
    SpectralNorm,
    Tanh,
    fuse,
)
from minigan.metrics import collapse, features
from minigan.metrics.collapse import FIGURES, Cells, Classes, Reference
from minigan.metrics.players import dead_units, gradient_norms, logits_of, right_answers, unchanged

CENTRES = 10 * np.array([[0, 0], [1, 0], [0, 1], [1, 1]])


def blobs(each: int, seed: int, classes=(0, 1, 2, 3), spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return points (N, 2) around some of four centres, equally many of each in random order, and their classes."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(classes, each))
    return CENTRES[labels] + spread * rng.normal(size=(len(labels), 2)), labels


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(*blobs(400, 0), np.random.default_rng(0))


def test_other_real_samples_are_as_real_samples_are(reference):
    found = reference.compare(*blobs(80, 1))
    assert found["modes"] == found["modes_covered"] == 4
    assert found["near"] > 0.98 and found["evenness"] > 0.95 and found["coverage"] > 0.95
    assert found["labels_followed"] == found["labels_known"] == 1
    assert abs(found["variety"] - 1) < 0.06 and abs(found["nearest_fake"] - 1) < 0.2 and found["copies"] < 0.1


@pytest.mark.parametrize("classes", [(0,), (1, 3), (0, 1, 2)])
def test_the_covered_modes_are_counted(reference, classes):
    found = reference.compare(blobs(320 // len(classes), 1, classes)[0])
    assert found["modes_covered"] == len(classes)
    assert found["evenness"] == pytest.approx(len(classes) / 4, abs=0.03)
    assert found["coverage"] == pytest.approx(len(classes) / 4, abs=0.08)
    assert abs(found["variety"] - 1) < 0.08, "the variety within modes does not depend on their number"


def test_the_evenness_is_one_minus_the_distance_of_the_shares(reference):
    parts = [blobs(n, seed, (k,), spread=0.5)[0] for seed, (k, n) in enumerate(((0, 160), (1, 80), (2, 60), (3, 20)))]
    shares = np.array([160, 80, 60, 20]) / 320
    expected = 1 - np.abs(shares - reference.share).sum() / 2
    assert reference.compare(np.concatenate(parts))["evenness"] == pytest.approx(expected)


def test_a_mode_with_less_than_a_tenth_of_its_share_is_not_covered(reference):
    few, most = blobs(7, 1, (0,), 0.1)[0], blobs(313, 2, (1,), 0.1)[0]  # a tenth of the share are 8
    assert reference.compare(np.concatenate([few, most]))["modes_covered"] == 1
    few, most = blobs(9, 1, (0,), 0.1)[0], blobs(311, 2, (1,), 0.1)[0]
    assert reference.compare(np.concatenate([few, most]))["modes_covered"] == 2


def test_fakes_far_from_every_mode_cover_none(reference):
    far = np.random.default_rng(0).normal(size=(320, 2)) * 0.3 + [5, 40]
    found = reference.compare(far)
    assert found["near"] == found["modes_covered"] == found["evenness"] == found["coverage"] == 0
    assert "variety" not in found
    between = reference.compare(np.tile([5.0, 5.0], (320, 1)))
    assert between["near"] == 0, "between the modes is not near one"


@pytest.mark.parametrize("spread", [0.01, 0.3, 0.7])
def test_the_variety_is_the_spread_within_modes(reference, spread):
    found = reference.compare(blobs(80, 1, spread=spread)[0])
    assert found["variety"] == pytest.approx(spread, rel=0.1) and found["modes_covered"] == 4
    assert found["nearest_fake"] == pytest.approx(spread, rel=0.25)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_copies_are_counted(reference, share):
    fakes = blobs(80, 1)[0]
    count = int(share * len(fakes))
    fakes[:count] = fakes[:4].repeat(count // 4, axis=0) if count else fakes[:0]
    found = reference.compare(fakes)
    assert found["copies"] == pytest.approx(share, abs=0.02)
    near = reference.compare(fakes + 0.005 * np.random.default_rng(0).normal(size=fakes.shape))
    apart = reference.compare(fakes + 1.0 * np.random.default_rng(0).normal(size=fakes.shape))
    assert near["copies"] >= 0.7 * share and apart["copies"] < 0.1
    assert (found["nearest_fake"] < 1e-6) == (share == 1)


def test_labels_that_are_not_followed_are_counted(reference):
    fakes, labels = blobs(80, 1)
    assert reference.compare(fakes, (labels + 1) % 4)["labels_followed"] == pytest.approx(-1 / 3), (
        "fewer than by chance"
    )
    some = np.where(np.arange(320) < 80, (labels + 1) % 4, labels)
    assert reference.compare(fakes, some)["labels_followed"] == pytest.approx((0.75 - 0.25) / 0.75)
    random = np.random.default_rng(2).permutation(labels)
    assert abs(reference.compare(fakes, random)["labels_followed"]) < 0.1
    assert "labels_followed" not in reference.compare(fakes)


def test_without_labels_the_modes_are_cells():
    real, _ = blobs(400, 0)
    reference = Reference(real, None, np.random.default_rng(0))
    found = reference.compare(blobs(80, 1)[0])
    assert found["modes"] == collapse.CELLS and found["modes_covered"] >= collapse.CELLS - 2
    one = reference.compare(blobs(320, 1, (0,))[0])
    assert 0 < one["modes_covered"] < 0.4 * collapse.CELLS and "labels_known" not in one


def test_labels_that_the_features_do_not_show_are_not_the_modes():
    real, _ = blobs(400, 0)
    labels = np.random.default_rng(0).integers(4, size=len(real))
    reference = Reference(real, labels, np.random.default_rng(0))
    found = reference.compare(*blobs(80, 1))
    assert found["modes"] == collapse.CELLS and abs(found["labels_known"]) < 0.1


def test_few_real_samples_give_no_reference():
    with pytest.raises(ValueError, match="at least 40 real samples, got 39"):
        Reference(np.zeros((39, 2)), None, np.random.default_rng(0))


@pytest.mark.parametrize("labels", [None, np.zeros(50, int)])
def test_constant_samples_are_compared_without_errors(labels):
    reference = Reference(np.ones((50, 3)), labels, np.random.default_rng(0))
    found = reference.compare(np.ones((10, 3)))
    assert found["modes"] == found["modes_covered"] == 1 and found["near"] == 1


def test_a_class_that_is_not_among_the_real_samples_is_never_found():
    real, labels = blobs(400, 0, (0, 1, 3))
    found = Reference(real, labels, np.random.default_rng(0)).compare(*blobs(80, 1, (0, 1, 3)))
    assert found["modes"] == found["modes_covered"] == 3 and found["labels_followed"] == 1


# ---------------------------------------------------------------- its parts


def test_classes_are_those_of_linear_discriminant_analysis(rng):
    x = rng.normal(size=(300, 5)) @ rng.normal(size=(5, 5))
    labels = rng.integers(3, size=300)
    x += 2 * rng.normal(size=(3, 5))[labels]
    means = np.stack([x[labels == k].mean(axis=0) for k in range(3)])
    rest = x - means[labels]
    S = rest.T @ rest / 300
    S += collapse.SHRINKAGE * np.trace(S) / 5 * np.eye(5)
    scores = x @ np.linalg.solve(S, means.T) - np.einsum("kf,fk->k", means, np.linalg.solve(S, means.T)) / 2
    index, distance = Classes(x, labels)(x)
    assert np.array_equal(index, scores.argmax(axis=1))
    mahalanobis = cdist(x, means, "mahalanobis", VI=np.linalg.inv(S)).min(axis=1)
    np.testing.assert_allclose(distance, mahalanobis)


def test_cells_are_those_of_k_means(rng):
    x = np.concatenate([rng.normal(size=(60, 3)) + 8 * rng.normal(size=3) for _ in range(10)])
    cells = Cells(x, np.random.default_rng(0), steps=100)
    index, distance = cells(x)
    np.testing.assert_allclose(distance, cdist(x, cells.centres).min(axis=1))
    for k in range(len(cells.centres)):
        np.testing.assert_allclose(cells.centres[k], x[index == k].mean(axis=0))
    others = [kmeans2(x, collapse.CELLS, seed=seed, minit="++") for seed in range(5)]
    errors = [((x - centres[of]) ** 2).sum() for centres, of in others]
    assert (distance**2).sum() < 1.2 * min(errors)


def test_nearest_other_agrees_with_all_distances(rng):
    x = rng.normal(size=(50, 4))
    x[7] = x[30]
    distances = cdist(x, x) + np.diag(np.full(50, np.inf))
    np.testing.assert_allclose(collapse.nearest_other(x), distances.min(axis=1), atol=1e-12)


def test_images_are_described_by_their_texture_and_by_a_small_picture(rng):
    images = rng.uniform(-1, 1, (4, 10, 12, 3)).astype(np.float32)
    small = features.shrunk(images, 7).reshape(4, 7, 7, 3)
    np.testing.assert_allclose(small[1, 1, 0], images[1, 1:2, 0:1].mean(axis=(0, 1)), rtol=1e-5)
    np.testing.assert_allclose(small[2, 6, 6], images[2, 8:, 10:].mean(axis=(0, 1)), rtol=1e-5)
    assert np.array_equal(features.describe(images)[:, -147:], small.reshape(4, -1))
    assert np.array_equal(features.shrunk(images, 50).reshape(images.shape), images)
    points = rng.normal(size=(5, 2)).astype(np.float32)
    assert np.array_equal(features.describe(points), points)


# ---------------------------------------------------------------- the networks


def networks(rng, classes: int = 0):
    label_input = [OneHot(classes)] if classes else []
    G = Sequential(*label_input, Dense(4 + classes, 10, rng=rng), BatchNorm(10), ReLU(), Dense(10, 6, rng=rng), Tanh())
    first = SpectralNorm(Dense(6, 8, rng=rng), rng=rng)
    D = Sequential(Flatten(), first, BatchNorm(8), Dropout(0.5, rng=rng), Dense(8, 1, rng=rng))
    return G, D


@pytest.mark.parametrize("name", sorted(losses.LOSSES))
def test_the_norms_of_the_gradients_are_those_of_a_step(name, rng):
    """A step of SGD with the learning rate 1 changes each weight by its gradient."""
    (G, D), loss = networks(rng), losses.LOSSES[name]
    real, z = rng.normal(size=(16, 6)).astype(np.float32), rng.normal(size=(16, 4)).astype(np.float32)
    with unchanged(G, D):
        measured = gradient_norms(G, D, real, z, loss)
    for player, norm in zip((D, G), measured, strict=True):
        before = {name: value.copy() for name, value in player.params.items()}
        opt_d, opt_g = (optim.SGD(n, lr=1.0 if n is player else 1e-12, momentum=0.0) for n in (D, G))
        with unchanged(G, D):
            game.simultaneous_step(G, D, opt_d, opt_g, real, z, loss)
        change = {name: before[name] - value for name, value in player.params.items()}
        assert norm == pytest.approx(sum(float((d * d).sum()) for d in change.values()) ** 0.5, rel=0.02) and norm > 0
        for name, value in before.items():
            player.params[name][...] = value


def test_what_is_measured_leaves_the_networks_unchanged(rng):
    G, D = networks(rng, classes=3)
    before = [{k: v.copy() for k, v in (n.params | n.buffers).items()} for n in (G, D)]
    real, z = rng.normal(size=(16, 6)).astype(np.float32), rng.normal(size=(16, 4)).astype(np.float32)
    labels = rng.integers(3, size=16)
    with unchanged(G, D):
        gradient_norms(fuse(G), fuse(D), real, z, losses.hinge, labels)
        logits_of(fuse(D), real, None, 4)
        dead_units(fuse(G), z, labels)
        assert D.buffers["3.draws"] == 4 + 2, "dropout counts the passes, so the test would see a change"
    for saved, network in zip(before, (G, D), strict=True):
        for name, value in (network.params | network.buffers).items():
            assert np.array_equal(value, saved[name]), name


def test_logits_are_computed_in_whole_batches(rng):
    D = Sequential(Dense(1, 1, rng=rng), BatchNorm(1))
    samples = rng.normal(size=(7, 1)).astype(np.float32)
    found = logits_of(D, samples, None, 3)
    expected = [D.forward(samples[i : i + 3], track=False)[0].ravel() for i in (0, 3)]
    assert np.array_equal(found, np.concatenate(expected))


@pytest.mark.parametrize("shift", [0, 100])
def test_the_right_answers_of_d_are_counted(shift):
    train, fakes, held_out = (np.array(x, float) + shift for x in ([1, 2, 3, -2], [-1, -2, 3, -4], [0, -5]))
    assert right_answers(train, fakes, held_out) == {
        "d_right_train": 3 / 4,  # the middle is 0
        "d_right_fakes": 3 / 4,
        "d_right_held_out": 1 / 4,
    }
    assert right_answers(train, train) == {"d_right_train": 5 / 8, "d_right_fakes": 3 / 8}, "the middle counts half"
    assert set(right_answers(0 * train, 0 * fakes, 0 * held_out).values()) == {0.5}


@pytest.mark.parametrize("merged", [False, True])
def test_dead_units_are_counted(merged, rng):
    G = Sequential(Dense(4, 10, rng=rng), ReLU(), Dense(10, 5, rng=rng), ReLU(), Dense(5, 2, rng=rng))
    G.params["0.b"][:3] = -100  # 3 of 10 are always 0
    G.params["2.w"][:, 0] = 0  # 1 of 5 is a constant
    G.params["2.b"][0] = 1
    z = rng.normal(size=(64, 4)).astype(np.float32)
    assert dead_units(fuse(G) if merged else G, z) == pytest.approx(4 / 15)
    assert dead_units(Sequential(Dense(4, 2, rng=rng)), z) is None


@pytest.mark.parametrize("merged", [False, True])
def test_dead_units_inside_blocks_that_keep_their_input_are_counted_once(merged, rng):
    G = Sequential(
        OneHot(3),
        Concatenate(Dense(7, 10, rng=rng), ReLU()),
        Concatenate(BatchNorm(17), Sequential(Dense(17, 5, rng=rng), ReLU())),
        Dense(22, 2, rng=rng),
    )
    G.params["1.0.b"][:3] = -100  # 3 of 10 are always 0
    G.params["2.1.0.w"][:, 0] = 0  # 1 of 5 is a constant
    z, labels = rng.normal(size=(64, 4)).astype(np.float32), rng.integers(3, size=64)
    assert dead_units(fuse(G) if merged else G, z, labels) == pytest.approx(4 / 15)
    without = Sequential(Dense(4, 10, rng=rng), Concatenate(ReLU()), Dense(20, 2, rng=rng))
    without.params["0.b"][:3] = -100
    assert dead_units(without, z) == pytest.approx(3 / 20), "nothing in the block has weights"


def test_a_channel_is_dead_only_if_it_is_constant_at_every_place(rng):
    from minigan.layers import Conv2d, Reshape

    G = Sequential(Dense(4, 48, rng=rng), Reshape(4, 4, 3), Conv2d(3, 1, 3, pad=1, rng=rng))
    w = G.params["0.w"].reshape(4, 4, 4, 3)
    w[..., 1] = 0
    w[:, 1:, :, 2] = 0  # channel 2 depends on the noise in one row
    assert dead_units(G, rng.normal(size=(32, 4)).astype(np.float32)) == pytest.approx(1 / 3)


def test_every_figure_is_described():
    rows = [line.split() for line in collapse.__doc__.splitlines()]
    assert [row[0] for row in rows if row and row[0] in FIGURES] == list(FIGURES)


def test_the_figures_of_networks_work_on_every_backend(backend, rng):
    G, D = (network.to(backend) for network in networks(rng))
    real, z = (backend.asarray(rng.normal(size=(16, n)).astype(np.float32)) for n in (6, 4))
    with unchanged(G, D):
        found = gradient_norms(G, D, real, z, losses.hinge)
        logits, dead = logits_of(D, real, None, 16), dead_units(fuse(G), z)
    reference = backends.reference()
    G, D = G.to(reference), D.to(reference)
    with unchanged(G, D):
        expected = gradient_norms(G, D, *(backend.to_numpy(x) for x in (real, z)), losses.hinge)
        np.testing.assert_allclose(logits, logits_of(D, backend.to_numpy(real), None, 16), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert dead == dead_units(fuse(G), backend.to_numpy(z))
