"""Test the layers of table rows: softmax over groups, the head that draws categories, embeddings, residual blocks.

test_layers.py tests the interface of every layer, these included, and test_gradcheck.py their gradients.
"""

import copy
import math

import numpy as np
import pytest
import scipy.stats
from test_layers import splitmix64

from minigan import layers
from minigan.layers import (
    BatchNorm,
    Concatenate,
    Dense,
    Dropout,
    Embedding,
    LeakyReLU,
    OneHot,
    Pack,
    ReLU,
    Sequential,
    Softmax,
    TableHead,
    Tanh,
    fuse,
)
from minigan.layers.heads import expect_groups, gumbel, numbers_of, starts_of
from minigan.training import draw_samples
from minigan.training.sampling import CHUNK

GROUPS = ((0, 2), (3, 6), (6, 8))  # of 9 features: 2 and 8 are numbers
ONES = [[1.0 if i == value else 0.0 for i in range(3)] for value in range(3)]


def head(rng=None, **options) -> TableHead:
    return TableHead(GROUPS, 9, rng=np.random.default_rng(1) if rng is None else rng, **options)


# ---------------------------------------------------------------- groups


def test_the_features_outside_groups_are_numbers():
    assert numbers_of(GROUPS, 9) == ((2, 3), (8, 9)) and starts_of(GROUPS, 9) == (0, 2, 3, 6, 8)
    assert numbers_of((), 3) == ((0, 3),) and starts_of((), 3) == (0, 1, 2)
    assert numbers_of(((0, 3),), 3) == () and starts_of(((0, 3),), 3) == (0,)
    assert numbers_of(((2, 4),), 6) == ((0, 2), (4, 6)) and starts_of(((2, 4),), 6) == (0, 1, 2, 4, 5)
    assert expect_groups([[np.int64(1), 3], (3, 5)], 5) == ((1, 3), (3, 5))


@pytest.mark.parametrize(
    ("groups", "came"),
    [
        (((3, 5), (0, 2)), r"got \(0, 2\) where the features from 5 on are free"),
        (((0, 3), (2, 5)), r"got \(2, 5\) where the features from 3 on"),
        (((0, 3), (4, 5)), r"got \(4, 5\)"),
        (((7, 10),), r"sorted pairs \(start, stop\) of at least two of 9 features that do not overlap, got \(7, 10\)"),
        (((-2, 2),), r"got \(-2, 2\) where the features from 0 on"),
        (((5, 3),), r"got \(5, 3\)"),
    ],
)
def test_groups_that_overlap_or_do_not_fit_are_rejected(groups, came, rng):
    for make in (
        lambda: Softmax(groups, 9),
        lambda: TableHead(groups, 9, rng=rng),
        lambda: Embedding(groups, 9, 2, rng=rng),
    ):
        with pytest.raises(ValueError, match=came):
            make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda r: head(r, temperature=0.0), "the temperature of a TableHead is a finite number above 0, got 0.0"),
        (lambda r: head(r, temperature=math.nan), "a finite number above 0, got nan"),
        (lambda r: head(r, temperature=math.inf), "a finite number above 0, got inf"),
        (lambda r: head(r, label_group=3), "label_group is the index of one of 3 groups, got 3"),
        (lambda r: head(r, label_group=-1), "label_group is the index of one of 3 groups, got -1"),
        (lambda r: Embedding(GROUPS, 9, 0, rng=r), "the width of an embedding is at least 1, got 0"),
    ],
)
def test_invalid_arguments_are_rejected(make, message, rng):
    with pytest.raises(ValueError, match=message):
        make(rng)


@pytest.mark.parametrize("kind", ["Softmax", "TableHead", "Embedding"])
def test_rows_of_another_length_are_rejected(kind, rng):
    layer = {
        "Softmax": Softmax(GROUPS, 9),
        "TableHead": head(),
        "Embedding": Embedding(GROUPS, 9, 2, rng=rng),
    }[kind]
    with pytest.raises(ValueError, match=rf"{kind} expects x \(N, 9\), got \(4, 8\): its groups are those of rows"):
        layer.forward(np.ones((4, 8), np.float32))


# ---------------------------------------------------------------- softmax


def test_softmax_is_scipys_in_each_group(backend, rng):
    x = rng.standard_normal((5, 9))
    y = backend.to_numpy(Softmax(GROUPS, 9).to(backend).forward(backend.asarray(x))[0])
    for start, stop in GROUPS:
        np.testing.assert_allclose(y[:, start:stop], scipy.special.softmax(x[:, start:stop], axis=1), rtol=1e-12)
    np.testing.assert_array_equal(y[:, [2, 8]], x[:, [2, 8]])


# ---------------------------------------------------------------- the head


def documented_gumbel(key: int, draw: int, shape: tuple[int, int]) -> np.ndarray:
    """Compute the noise of one draw with Python numbers, as the docstrings of `TableHead` and `uniform` say."""
    golden = 0x9E3779B97F4A7C15
    stream, found = splitmix64((key + golden * draw) % 2**64), []
    for i in range(math.prod(shape)):
        b = splitmix64((stream + golden * (i // 2 + 1)) % 2**64) >> 32 * (i % 2) & 0xFFFFFFFF
        found.append(-math.log(-math.log((2 * (b // 512) + 1) / 2**24)))
    return np.array(found).reshape(shape)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_head_is_the_documented_formula_on_every_backend(dtype, backend, rng):
    layer = head(temperature=0.7).to(backend)
    key = int(np.random.default_rng(1).integers(2**64, dtype=np.uint64))
    assert int(layer.buffers["key"]) == key and repr(layer) == "TableHead(2 numbers, 3 groups, t=0.7)"
    x = rng.standard_normal((4, 9)).astype(dtype)
    for draw in range(2):
        y = backend.to_numpy(layer.forward(backend.asarray(x))[0])
        noisy = (x.astype(np.float64) + documented_gumbel(key, draw, (4, 9))) / 0.7
        assert y.dtype == dtype
        expected = np.tanh(x.astype(np.float64))
        for start, stop in GROUPS:
            expected[:, start:stop] = scipy.special.softmax(noisy[:, start:stop], axis=1)
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-6 if dtype == np.float32 else 1e-14)


def test_gumbel_noise_has_its_distribution(backend):
    """SciPy's test of Kolmogorov and Smirnov does not reject it, and all numbers are finite in float32."""
    g = backend.to_numpy(gumbel(backend, (40_000,), 5, np.float32))
    assert g.dtype == np.float32 and -2.9 < g.min() and g.max() < 16.7
    assert scipy.stats.kstest(g, "gumbel_r").pvalue > 1e-3
    assert scipy.stats.kstest(g, "gumbel_r", args=(0.03, 1)).pvalue < 1e-3, "a shift of 0.03 would be noticed"


def test_the_head_draws_categories_with_the_probabilities_of_the_softmax(backend):
    n, p = 30_000, np.array([0.6, 0.3, 0.1])
    x = np.zeros((n, 9))
    x[:, 3:6] = np.log(p) - 4
    y = backend.to_numpy(head().to(backend).forward(backend.asarray(x), train=False)[0])
    assert set(np.unique(y)) == {0.0, 1.0} and (y[:, 3:6].sum(axis=1) == 1).all()
    counts = y[:, 3:6].sum(axis=0)
    assert scipy.stats.chisquare(counts, n * p).pvalue > 1e-3
    table = np.array([[(y[:, i] * y[:, j]).sum() for j in range(3, 6)] for i in (0, 1)])
    assert scipy.stats.chi2_contingency(table).pvalue > 1e-3, "two groups are not independent"
    later = np.array([[(y[1:, i] * y[:-1, j]).sum() for j in range(3, 6)] for i in range(3, 6)])
    assert scipy.stats.chi2_contingency(later).pvalue > 1e-3, "neighbouring rows are not independent"


@pytest.mark.parametrize("temperature", [0.01, 0.2, 50.0])
def test_a_low_temperature_is_close_to_one_hot_and_a_high_one_to_uniform(temperature, backend, rng):
    x = backend.asarray(rng.standard_normal((500, 9)), dtype=np.float32)
    y = backend.to_numpy(head(temperature=np.float64(temperature)).to(backend).forward(x)[0])
    assert y.dtype == np.float32 and np.isfinite(y).all()
    largest = np.mean([y[:, start:stop].max(axis=1).mean() * (stop - start) for start, stop in GROUPS])
    bounds = {0.01: (2.2, 2.4), 0.2: (1.9, 2.3), 50.0: (1.0, 1.05)}[temperature]  # 7/3 is one-hot, 1 is uniform
    assert bounds[0] < largest < bounds[1]


def test_a_hard_head_is_one_hot_in_training_and_passes_on_the_gradient_of_the_soft_one(backend, rng):
    x, dy = (backend.asarray(rng.standard_normal((50, 9))) for _ in range(2))
    soft, hard = head().to(backend), head(hard=True).to(backend)
    assert repr(hard) == "TableHead(2 numbers, 3 groups, t=0.2, hard)"
    (y, cache), (exact, hard_cache) = soft.forward(x), hard.forward(x)
    y, exact = backend.to_numpy(y), backend.to_numpy(exact)
    for start, stop in GROUPS:
        one_hot = np.eye(stop - start)[y[:, start:stop].argmax(axis=1)]
        np.testing.assert_array_equal(exact[:, start:stop], one_hot)
    np.testing.assert_array_equal(exact[:, [2, 8]], y[:, [2, 8]])
    dx, straight = (backend.to_numpy(layer.backward(dy, c)[0]) for layer, c in ((soft, cache), (hard, hard_cache)))
    np.testing.assert_array_equal(dx, straight)
    assert np.abs(dx).max(axis=0).min() > 0


@pytest.mark.parametrize("mode", [{"train": True}, {"train": False}, {"train": True, "hard": True}], ids=str)
def test_the_label_is_written_into_its_group(mode, backend, rng):
    hard, labels = mode.get("hard", False), np.array([2, 0, 1, 1, 2])
    x = rng.standard_normal((5, 9)).astype(np.float32)
    layer, free = head(label_group=1, hard=hard).to(backend), head(hard=hard).to(backend)
    assert layer.takes_labels and not free.takes_labels
    y, cache = layer.forward(backend.asarray(x), mode["train"], labels=backend.asarray(labels))
    without = backend.to_numpy(free.forward(backend.asarray(x), mode["train"])[0])
    y, others = backend.to_numpy(y), [0, 1, 2, 6, 7, 8]
    assert y[:, 3:6].tolist() == [ONES[label] for label in labels]
    np.testing.assert_array_equal(y[:, others], without[:, others])
    dx = backend.to_numpy(layer.backward(backend.asarray(np.ones((5, 9), np.float32)), cache)[0])
    assert not dx[:, 3:6].any() and dx[:, [2, 8]].all()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, r"expects labels \(5,\), one for each row of x, got none"),
        (np.array([0, 1]), r"expects labels \(5,\), one for each row of x, got \(2,\)"),
        (np.array([0, 1, 2, 3, 0]), "3"),
    ],
)
def test_a_head_with_a_label_expects_labels(labels, message, rng):
    with pytest.raises(ValueError, match=message):
        head(label_group=1).forward(np.ones((5, 9), np.float32), labels=labels)


def test_only_passes_in_training_count_as_draws(backend):
    layer, x = head().to(backend), backend.asarray(np.ones((3, 9), np.float32))
    first, second = (backend.to_numpy(layer.forward(x, train=False)[0]) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    drawn = backend.to_numpy(layer.forward(x, track=False)[0])
    assert int(layer.buffers["draws"]) == 1
    for start, stop in GROUPS:
        np.testing.assert_array_equal(first[:, start:stop].argmax(axis=1), drawn[:, start:stop].argmax(axis=1))


def test_a_head_resumes_from_its_two_buffers(backend):
    first, second = (head(np.random.default_rng(seed)).to(backend) for seed in (3, 4))
    x = backend.asarray(np.ones((8, 9)))
    for _ in range(3):
        first.forward(x)
    for name, buffer in first.buffers.items():
        second.buffers[name][...] = buffer
    np.testing.assert_array_equal(*(backend.to_numpy(layer.forward(x)[0]) for layer in (first, second)))


def test_a_row_without_groups_is_only_numbers(backend, rng):
    x = rng.standard_normal((4, 3))
    layer = TableHead((), 3, rng=rng).to(backend)
    for train in (True, False):
        y = backend.to_numpy(layer.forward(backend.asarray(x), train)[0])
        np.testing.assert_allclose(y, np.tanh(x), rtol=1e-12)


# ---------------------------------------------------------------- samples


def generator(backend, dtype=np.float32, scale=1.0) -> Sequential:
    """Return a generator with two layers that draw, and a batch norm, whose noise has 5 numbers."""
    rng = np.random.default_rng(2)
    dense = Dense(12, 9, rng=rng)
    dense.params["w"] *= np.float32(scale)
    inner = Concatenate(Dense(5, 7, rng=rng), BatchNorm(7), ReLU())
    G = Sequential(inner, dense, head(rng), TableHead(((0, 2),), 9, rng=rng)).to(backend, dtype)
    G.noise_shape = (5,)
    return G


def noise(backend, count: int, seed=0):
    return backend.asarray(np.random.default_rng(seed).standard_normal((count, 5), dtype=np.float32))


def test_the_same_noise_gives_the_same_samples_on_every_backend(backend):
    x = draw_samples(generator(backend), noise(backend, 300))
    expected = draw_samples(generator(layers.Layer().backend), noise(layers.Layer().backend, 300))
    np.testing.assert_allclose(x, expected, atol=1e-5)
    assert set(np.unique(x[:, 3:8])) == {np.float32(np.tanh(0)), np.float32(np.tanh(1))}  # the second head: tanh


def test_samples_depend_on_the_noise_alone_and_change_no_state(backend):
    G = generator(backend)
    z, before = noise(backend, 300), {name: b.copy() for name, b in G.buffers.items()}
    first = draw_samples(G, z)
    assert all(np.array_equal(backend.to_numpy(b), backend.to_numpy(before[name])) for name, b in G.buffers.items())
    for _ in range(3):
        G.forward(z, track=False)
    assert {int(b) for name, b in G.buffers.items() if name.endswith("draws")} == {3}
    np.testing.assert_array_equal(draw_samples(G, z), first)
    other = generator(backend)
    other.layers[2].buffers["key"][...] = 12345
    np.testing.assert_array_equal(draw_samples(other, z), first)
    assert not np.array_equal(draw_samples(G, noise(backend, 300, seed=1)), first)


def test_the_first_samples_do_not_depend_on_how_many_there_are(backend):
    """Not even on the second chunk. Samples of other chunks have noise of their own."""
    G, z = generator(backend), noise(backend, CHUNK + 40)
    samples = draw_samples(G, z)
    np.testing.assert_allclose(draw_samples(G, z[:10]), samples[:10], atol=1e-5)
    np.testing.assert_allclose(draw_samples(G, z[CHUNK:]), samples[CHUNK:], atol=1e-5)
    flat = generator(backend, scale=0.0)  # every value has the same probability, whatever z is
    samples = draw_samples(flat, noise(backend, 2 * CHUNK))
    assert 0.3 < (samples[:CHUNK, 3:8] == samples[CHUNK:, 3:8]).mean() < 0.75
    first, second = samples[:, 3:5].argmax(axis=1), samples[:, 0]
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.2, "two layers draw the same numbers"


def test_the_state_is_restored_after_an_error(backend, monkeypatch):
    G = generator(backend)
    before = [int(b) for name, b in G.buffers.items() if name.endswith(("key", "draws"))]

    def fails(*_, **__):
        raise RuntimeError("no")

    monkeypatch.setattr(G.layers[3], "forward", fails)
    with pytest.raises(RuntimeError):
        draw_samples(G, noise(backend, 3))
    assert [int(b) for name, b in G.buffers.items() if name.endswith(("key", "draws"))] == before


# ---------------------------------------------------------------- embeddings


def test_an_embedding_replaces_a_value_by_its_row(backend, rng):
    layer = Embedding(((1, 4), (5, 7)), 8, 2, rng=rng).to(backend, np.float64)
    assert list(layer.params) == ["e0", "e1"] and layer.n_out == 7
    assert repr(layer) == "Embedding(8 -> 7, 2 groups x 2)"
    e0, e1 = (backend.to_numpy(layer.params[name]) for name in ("e0", "e1"))
    x = np.array([[0.1, 0, 1, 0, 0.2, 1, 0, 0.3], [0.4, 0.5, 0, 0.5, 0.5, 0, 1, 0.6]])
    y = backend.to_numpy(layer.forward(backend.asarray(x))[0])
    expected = [[0.1, *e0[1], 0.2, *e1[0], 0.3], [0.4, *((e0[0] + e0[2]) / 2), 0.5, *e1[1], 0.6]]
    np.testing.assert_allclose(y, expected, rtol=1e-12)


def test_the_scale_of_an_embedding_is_that_of_its_width():
    """A one-hot group then contributes to a Dense layer after it as much as without an embedding."""
    rng = np.random.default_rng(0)
    e = Embedding(((0, 4000),), 4000, 15, rng=rng).params["e0"]
    assert e.dtype == np.float32 and e.shape == (4000, 15)
    assert abs(e.std() - math.sqrt(2 / 16)) < 0.005
    fans = []
    Embedding(((0, 9),), 9, 5, rng=rng, init=lambda rng, shape, *fan: fans.append((shape, fan)) or np.zeros(shape))
    assert fans == [((9, 5), (1, 5))]


# ---------------------------------------------------------------- residual blocks


def test_a_block_joins_its_output_with_its_input(backend, rng):
    dense, tanh = Dense(3, 2, rng=rng), Tanh()
    block = Concatenate(dense, tanh).to(backend, np.float64)
    x = backend.asarray(rng.standard_normal((4, 3)))
    y, expected = (backend.to_numpy(network.forward(x)[0]) for network in (block, Sequential(dense, tanh)))
    np.testing.assert_array_equal(y, np.column_stack([expected, backend.to_numpy(x)]))
    assert list(block.params) == ["0.w", "0.b"] and block.inner() == (dense, tanh) and block.leaves() == [dense, tanh]
    assert repr(block) == "Concatenate(Dense(3 -> 2), Tanh())"


def test_a_block_passes_on_modes_and_labels(rng):
    block = Concatenate(OneHot(2), Dense(5, 4, rng=rng), BatchNorm(4), Dropout(0.5, rng=rng))
    assert block.takes_labels and not Concatenate(Tanh()).takes_labels
    x, labels = rng.standard_normal((6, 3)).astype(np.float32), np.array([0, 1, 0, 1, 1, 0])
    statistics = block.buffers["2.mean"].copy()
    block.forward(x, train=False, labels=labels)
    block.forward(x, track=False, labels=labels)
    assert np.array_equal(block.buffers["2.mean"], statistics) and int(block.buffers["3.draws"]) == 1
    block.forward(x, labels=labels)
    assert not np.array_equal(block.buffers["2.mean"], statistics)
    with pytest.raises(ValueError, match="expects labels"):
        block.forward(x)


def test_a_network_with_blocks_packs_its_parameters_and_computes_only_what_is_needed(backend, rng, monkeypatch):
    network = Sequential(Concatenate(Dense(3, 2, rng=rng), ReLU()), Dense(5, 1, rng=rng)).to(backend)
    flat = network.pack()
    assert network.n_params == flat.size == 8 + 6 and list(network.params) == ["0.0.w", "0.0.b", "1.w", "1.b"]
    flat[...] = 0
    assert not any(backend.to_numpy(p).any() for p in network.params.values())
    x = backend.asarray(np.ones((4, 3), np.float32))
    y, cache = network.forward(x)
    dx, grads = network.backward(y, cache, need_dx=False)
    assert dx is None and list(grads) == list(network.params)


def test_fuse_merges_layers_inside_a_block(backend, rng):
    """It computes the same, with the same parameters, buffers and random numbers."""
    plain = Sequential(
        Concatenate(Dense(4, 5, bias=False, rng=rng), BatchNorm(5), ReLU()),
        Concatenate(Dense(9, 3, rng=rng), LeakyReLU(0.2)),
        Dense(12, 9, rng=rng),
        head(rng),
    ).to(backend, np.float64)
    fused = fuse(copy.deepcopy(plain))
    assert [repr(layer) for layer in fused.layers[:2]] == [
        "Concatenate(Dense(4 -> 5), BatchNorm(5) + ReLU(), Identity())",
        "Concatenate(Dense(9 -> 3) + LeakyReLU(0.2), Identity())",
    ]
    assert fused.params.keys() == plain.params.keys() and fused.buffers.keys() == plain.buffers.keys()
    x, dy = backend.asarray(rng.standard_normal((6, 4))), backend.asarray(rng.standard_normal((6, 9)))
    results = []
    for network in (plain, fused):
        y, cache = network.forward(x)
        dx, grads = network.backward(dy, cache)
        results.append([*map(backend.to_numpy, (y, dx, *grads.values(), *network.buffers.values()))])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    assert fuse(plain).params["0.0.w"] is plain.params["0.0.w"]


def test_packed_rows_can_be_embedded(rng):
    """A discriminator of packs sees the groups of each row of a pack."""
    D = Sequential(Pack(2), Embedding(((1, 4), (5, 8)), 8, 3, rng=rng), Dense(8, 1, rng=rng))
    assert D.forward(np.ones((6, 4), np.float32))[0].shape == (3, 1)
