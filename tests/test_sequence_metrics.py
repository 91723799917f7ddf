"""Figures of series have the values that white noise, autoregressive processes and copies must give."""

import json

import numpy as np
import pytest

from minigan.datasets import processes
from minigan.errors import UserError
from minigan.metrics.sequences import SCORES, Known, Labels, compare, nearest, networks, statistics, table
from minigan.report import sequences as pictures
from minigan.runs.evaluate_sequences import curves_of


@pytest.fixture(scope="module", autouse=True)
def quick():
    """The scores of GRUs have tests of their own, so they are trained for one step here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "steps_for", lambda count: 1)
        yield


def noise(count: int, steps: int = 40, features: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, steps, features))


def first_order(phi: float, count: int, steps: int = 40, seed: int = 0) -> np.ndarray:
    """Series of x_t = phi x_{t-1} + e_t, stationary from the first step on."""
    e = noise(count, steps, seed=seed)
    x = np.empty_like(e)
    x[:, 0] = e[:, 0] / np.sqrt(1 - phi**2)
    for t in range(1, steps):
        x[:, t] = phi * x[:, t - 1] + e[:, t]
    return x


# ---------------------------------------------------------------- autocorrelation


def plain_autocorrelation(x: np.ndarray, lags: int) -> list[float]:
    """The same by loops over pairs, for one feature (N, T)."""
    mean, variance = np.nanmean(x), np.nanvar(x)
    return [float(np.nanmean((x[:, h:] - mean) * (x[:, :-h] - mean)) / variance) for h in range(1, lags + 1)]


@pytest.mark.parametrize("gaps", [0, 0.2])
def test_the_autocorrelation_is_that_of_plain_loops(gaps):
    x = np.cumsum(noise(20, 11, 3), axis=1)
    x[np.random.default_rng(1).random(x.shape) < gaps] = np.nan
    found = statistics.autocorrelation(x, 10)
    for f in range(3):
        np.testing.assert_allclose(found[f], plain_autocorrelation(x[..., f], 10), atol=1e-12)
    assert np.isnan(statistics.autocorrelation(x, 14)[:, 10:]).all(), "no pairs of steps are so far apart"


@pytest.mark.parametrize("phi", [0.0, 0.5, -0.8])
def test_the_autocorrelation_of_a_first_order_process_is_a_power(phi):
    found = statistics.autocorrelation(first_order(phi, 4000), 6)[0]
    np.testing.assert_allclose(found, phi ** np.arange(1, 7), atol=0.02)
    white = statistics.autocorrelation(noise(4000, seed=1), 6)
    expected = np.mean(np.abs(phi) ** np.arange(1, 7)) if phi else 0
    assert statistics.autocorrelation_distance(found[None], white) == pytest.approx(expected, abs=0.02)


# ---------------------------------------------------------------- spectrum


def test_the_periodogram_of_a_wave_is_at_its_frequency():
    t = np.arange(32)
    x = 3 + 2 * np.cos(2 * np.pi * 5 * t / 32 + 0.4)[None, :, None]
    found = statistics.periodogram(x)[0, :, 0]
    expected = np.zeros(16)
    expected[4] = 2**2 / 4 * 32  # amplitude^2 / 4 * T, and the mean is left out
    np.testing.assert_allclose(found, expected, atol=1e-10)


@pytest.mark.parametrize("phi", [0.0, 0.6, -0.6])
def test_the_spectrum_of_a_first_order_process_is_the_formula(phi):
    """S(f) = 1 / |1 - phi e^{-2 pi i f}|^2, blurred by the length of the series."""
    x = first_order(phi, 6000, 64)
    true = statistics.of_periodogram(processes.ar_periodogram(64, (phi, 0.0)), 64)
    np.testing.assert_allclose(statistics.band_power(x)[0], true, rtol=0.04)
    k = np.arange(1, 501)
    blurred = processes.ar_periodogram(1000, (phi, 0.0))
    np.testing.assert_allclose(blurred, 1 / np.abs(1 - phi * np.exp(-2j * np.pi * k / 1000)) ** 2, rtol=0.02)


def test_the_tenths_divide_the_band():
    assert statistics.tenth_of(40).tolist() == [tenth for tenth in range(10) for _ in range(2)]
    assert statistics.tenth_of(24).tolist() == [0, 1, 2, 3, 4, 4, 5, 6, 7, 8, 9, 9]
    assert statistics.tenth_of(6).tolist() == [3, 6, 9], "short series do not have all of them"
    for steps in range(2, 60):
        exact = np.ceil(np.arange(1, steps // 2 + 1) * 10 / (steps // 2) - 1e-9) - 1
        assert statistics.tenth_of(steps).tolist() == exact.tolist()


def test_the_error_of_the_spectrum_is_relative_and_in_units_of_the_range():
    a = noise(50, 40, 2)
    a[..., 1] *= 1000
    power = statistics.band_power(a)
    widths = statistics.ranges(a)
    np.testing.assert_allclose(statistics.spectrum_distance(1.1 * power, power, widths), 0.1)
    changed = power.copy()
    changed[0, 3] *= 2
    errors = statistics.spectrum_distance(changed, power, widths)
    assert errors[3] == pytest.approx(0.5, abs=0.2) and errors[[0, 1, 2, *range(4, 10)]].max() == 0
    np.testing.assert_allclose(statistics.band_errors(changed, power)[:, 3], [1, 0], atol=1e-12)


def test_gaps_are_interpolated_and_lengths_may_differ():
    x = np.cumsum(noise(6, 30), axis=1)
    x[0, 10, 0], x[3, 20:, 0], x[5, :, 0] = np.nan, np.nan, np.nan
    groups = statistics.complete(x)
    assert sorted(map(np.shape, groups)) == [(1, 20, 1), (4, 30, 1)]
    assert groups[1][0, 10, 0] == pytest.approx((x[0, 9, 0] + x[0, 11, 0]) / 2)
    assert statistics.lengths(x).tolist() == [30, 30, 30, 20, 30, 0]
    assert statistics.missing(x).tolist() == pytest.approx([1 / 140])
    by_hand = sum(len(g) * statistics.band_power(g) for g in groups) / 5
    np.testing.assert_allclose(statistics.band_power(x), by_hand)


# ---------------------------------------------------------------- distributions


def test_marginals_are_those_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    a, b = noise(30, 9, 2), noise(20, 9, 2, seed=1) * 1.5 + 0.3
    b[..., 1] = np.round(b[..., 1])  # equal values
    b[0, 3, 0] = np.nan
    found = statistics.marginals(a, b)
    for f in range(2):
        y = b[..., f][~np.isnan(b[..., f])]
        assert found[f] == pytest.approx(1 - stats.ks_2samp(a[..., f].ravel(), y).statistic)
    assert statistics.marginals(a, a).tolist() == [1, 1] and statistics.marginals(a, a + 100).tolist() == [0, 0]
    assert np.isnan(statistics.marginals(a, np.full_like(a, np.nan))).all()


def test_of_many_values_quantiles_are_compared(monkeypatch):
    a, b = noise(300, 40), noise(300, 40, seed=1) + 0.2
    exact = statistics.marginals(a, b)
    monkeypatch.setattr(statistics, "MOST_VALUES", 2000)
    assert statistics.marginals(a, b) == pytest.approx(exact, abs=2e-3) and exact[0] < 0.95


# ---------------------------------------------------------------- nearest series


def test_the_nearest_series_and_its_distance_are_those_of_plain_loops():
    training, others = noise(15, 6, 2), noise(8, 6, 2, seed=1)
    training[3, 2, 0], others[1, 4:, :] = np.nan, np.nan
    found = nearest.to_training(nearest.Space(training), others, training, np.random.default_rng(0))
    std = np.nanstd(training, axis=(0, 1))
    for n, k, distance in zip(*found, strict=True):
        difference = (others[n] - training) / std
        one, both = np.isnan(others[n]) != np.isnan(training), np.isnan(others[n]) & np.isnan(training)
        mean = np.nanmean(training, axis=(0, 1))
        z = np.where(np.isnan(others[n]), 0, (others[n] - mean) / std) - np.where(
            np.isnan(training), 0, (training - mean) / std
        )
        squares = np.where(one, z**2 + 1, np.where(both, 0, difference**2)).mean(axis=(1, 2))
        assert k == squares.argmin() and distance == pytest.approx(np.sqrt(squares.min()))
    with pytest.raises(ValueError, match="at least 2 training series"):
        nearest.to_training(nearest.Space(training), others, training[:1], np.random.default_rng(0))


def test_copies_have_the_distance_0_and_are_not_compared_with_themselves():
    training = noise(40, 6, 2)
    space, rng = nearest.Space(training), np.random.default_rng(0)
    found = nearest.to_training(space, training[::4], training, rng)
    np.testing.assert_allclose(found.distance, 0, atol=1e-6)
    assert (found.closest == 4 * found.chosen).all()
    others = nearest.to_training(space, None, training, rng)
    assert (others.closest != others.chosen).all() and others.distance.min() > 0.1


def test_the_plane_is_that_of_the_largest_variance():
    x = 0.1 * noise(200, 8, 1)
    x[..., 0] += 3 * noise(200, 1, 1, seed=1)[..., 0]  # one direction: the level
    (a, b), share = nearest.embedding(nearest.Space(x), x, x[:5])
    np.testing.assert_allclose(a[:5], b)
    assert share > 0.98 and abs(np.corrcoef(a[:, 0], x.mean(axis=(1, 2)))[0, 1]) > 0.999


# ---------------------------------------------------------------- the report


@pytest.fixture(scope="module")
def report() -> dict:
    x = processes.autoregressive(900, np.random.default_rng(0))
    labels = np.arange(900) % 2
    given = Labels(labels[:400], labels[400:600], labels[600:])
    return compare(x[:400], x[400:600], x[600:], Known(["x"], given, ["a", "b"], processes.ar_periodogram(64)))


def test_series_of_the_same_process_are_as_good_as_real_ones(report):
    for which in ("fakes", "real"):
        found = report[which]
        assert found["autocorrelation"] < 0.05 and found["spectrum"] < 0.15 and found["marginals"] > 0.97
        assert found["known_spectrum"] < 0.3 and found["gaps"] is None and found["lengths"] is None
    assert 0.9 < report["fakes"]["nearness"] < 1.1 and report["warnings"] == [] == report["absent"]
    assert set(report["classes"]) == {"a", "b"} and report["classes"]["a"]["marginals"] > 0.95
    assert list(report["features"]) == ["x"] and len(report["features"]["x"]["errors"]) == 10
    json.dumps(report, allow_nan=False)
    text = table(report)
    assert "real series: 300 held-out series" in text and "class a: discriminative" in text
    assert "compared with the true spectrum" in text and SCORES["gaps"] not in text


@pytest.mark.parametrize(
    ("fault", "figure", "sign"),
    [
        ("order", "autocorrelation", 1),
        ("order", "worst_tenth", 1),
        ("order", "known_spectrum", 1),
        ("scale", "marginals", -1),
        ("scale", "spectrum", 1),
        ("copies", "nearness", -1),
    ],
)
def test_each_fault_is_detected(report, fault, figure, sign):
    x = processes.autoregressive(900, np.random.default_rng(0))
    fakes = x[400:600]
    if fault == "order":
        fakes = np.random.default_rng(0).permuted(fakes, axis=1)
    fakes = {"order": fakes, "scale": 1.3 * fakes, "copies": x[:200]}[fault]
    found = compare(x[:400], fakes, x[600:], Known(expected=processes.ar_periodogram(64)))
    assert sign * (found["fakes"][figure] - report["fakes"][figure]) > 0.03
    assert bool(found["warnings"]) == (fault == "copies")


def test_lengths_and_gaps_are_compared():
    x = noise(200, 30, 2)
    ragged = x.copy()
    for n, length in enumerate(np.random.default_rng(0).integers(5, 31, 200)):
        ragged[n, length:] = np.nan
    ragged[:, 2, 1] = np.nan
    found = compare(ragged[:100], ragged[100:], known=Known(["a", "b"]))
    assert found["fakes"]["lengths"] > 0.7 and found["fakes"]["gaps"] < 0.05
    assert "half of the training series are compared" in found["absent"][0] and found["series"]["held_out"] is None
    other = compare(ragged[:100], x[100:], known=Known(["a", "b"]))
    assert other["fakes"]["lengths"] < 0.2 and other["fakes"]["gaps"] > found["fakes"]["gaps"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (dict(real=noise(10)), "at least 20 training series, got 10"),
        (dict(fakes=noise(10)), "at least 20 fake series, got 10"),
        (dict(held_out=noise(10)), "at least 20 held-out series, got 10"),
        (dict(fakes=noise(30, 41)), r"all series have the shape \(40, 1\), got fake series of \(41, 1\)"),
    ],
)
def test_sets_that_cannot_be_compared_are_refused(change, says):
    with pytest.raises(UserError, match=says):
        compare(**dict(real=noise(30), fakes=noise(30)) | change)


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize("features", [1, 3, 6])
def test_the_evaluation_is_drawn(tmp_path, features):
    from PIL import Image

    x = np.cumsum(noise(80, 50, features), axis=1)
    x[0, 5:9, 0] = np.nan
    names = [f"$feature {i}" for i in range(features)]
    report = compare(x[:40], x[40:], known=Known(names))
    pictures.save_evaluation(
        tmp_path / "x.png", x[:40], x[40:], names, report, curves_of(x[:40], x[40:], None), x[:6].reshape(3, 2, 50, -1)
    )
    assert np.asarray(Image.open(tmp_path / "x.png")).std() > 20


@pytest.mark.parametrize(("features", "columns"), [(1, 10), (3, 2), (1, 20), (12, 10)])
def test_a_view_has_one_size_and_shows_every_series(features, columns):
    from minigan.datasets.sequences import SequenceOptions, convert

    x = np.cumsum(noise(60, 15, features), axis=1)
    codec = convert(x, None, SequenceOptions()).codec
    first, few = (pictures.view(each, codec, columns, 1) for each in (x, x[:7]))
    assert first.dtype == np.uint8 and first.shape[2] == (1 if features > pictures.LINES else 3)
    if features <= pictures.LINES:
        assert first.shape == few.shape and (few != 255).sum() < (first != 255).sum()
        changed = x.copy()
        changed[0] = x[1]
        assert not np.array_equal(pictures.view(changed, codec, columns, 1), first)
