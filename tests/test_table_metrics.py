"""Test the comparison of tables: values by hand, SDMetrics and plain loops as oracles, and rows with one fault each."""

import json
import sys
import warnings

import numpy as np
import pytest

from minigan.datasets import table_values
from minigan.errors import UserError
from minigan.metrics import tables
from minigan.metrics.tables import baselines, models, nearest, scores

pd = pytest.importorskip("pandas", reason="tables need pandas: pip install 'minigan[tables]'")

KINDS = {
    "age": "integer",
    "pay": "continuous",
    "city": "category",
    "owner": "boolean",
    "since": "date",
    "job": "category",
}
NAN = float("nan")


def people(count: int, seed: int):
    """Return rows of six kinds, some with missing values. The job follows from age and pay, with some noise."""
    rng = np.random.default_rng(seed)
    age = rng.integers(18, 80, count)
    pay = np.round(rng.lognormal(3, 0.5, count) * (1 + age / 40), 2)
    old = age + rng.normal(0, 6, count) > 50
    frame = pd.DataFrame(
        {
            "age": age,
            "pay": pay,
            "city": rng.choice(["Rome", "Oslo", "Bern", "Nice"], count, p=[0.5, 0.3, 0.15, 0.05]),
            "owner": pd.array(old ^ (rng.random(count) < 0.2), dtype="boolean"),
            "since": pd.Timestamp("2010-01-01") + pd.to_timedelta(40 * age + rng.integers(0, 300, count), unit="D"),
            "job": np.where(old, np.where(pay > 60, "boss", "clerk"), "trainee"),
        }
    )
    frame.loc[rng.random(count) < 0.1, "pay"] = np.nan
    frame.loc[rng.random(count) < 0.15, "city"] = None
    frame.loc[rng.random(count) < 0.05, ["owner", "since"]] = pd.NA
    return frame


def frame_of(**columns):
    return pd.DataFrame({name: pd.Series(values) for name, values in columns.items()})


# Columns and pairs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "real", "fakes", "expected"),
    [
        ("integer", [1, 2, 3, 4], [3, 4, 5, 6], 0.5),
        ("integer", [1, 2, 3, 4], [4, 3, 2, 1], 1),
        ("integer", [1, 2], [3, 4, 5], 0),
        ("continuous", [0.0, 0.0, 0.0, 1.0], [0.0, 1.0], 0.75),  # ties
        ("continuous", [0.0, NAN, NAN, 1.0], [0.0, 1.0, NAN], 1),  # missing values are left out
        ("continuous", [-np.inf, 0.0, 1.0, np.inf], [0.0, 1.0, 2.0, np.inf], 0.75),
        ("continuous", [1e-300, 2e-300], [2e-300, 3e-300], 0.5),
        ("date", pd.to_datetime(["2020-01-01", "2020-01-03"]), pd.to_datetime(["2020-01-02", None]), 0.5),
        ("category", ["a", "a", "b"], ["a", "b", "c"], 2 / 3),
        ("category", ["a", "a", None], ["a", None, None], 1),
        ("category", ["a", "b"], ["c", "d"], 0),
        ("category", [1, 2, 2], [2.0, 2.0, 1.0], 1),
        ("boolean", [True, False], [True, True], 0.5),
        ("category", ["a", "b"], [None, None], NAN),
        ("continuous", [NAN, NAN], [1.0, 2.0], NAN),
    ],
)
def test_shapes_have_their_values(kind, real, fakes, expected):
    found = scores.shapes(frame_of(x=real), frame_of(x=fakes), {"x": kind})
    assert found["x"] == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_the_similarity_of_missing_shares_is_that_of_columns_that_have_any():
    real = frame_of(x=[1.0, NAN, NAN, 4.0], y=["a", "b", "c", "d"], z=[None, None, None, None])
    fakes = frame_of(x=[1.0, 2.0, 3.0, NAN], y=["a", "a", "a", "a"], z=["a", "b", "c", "d"])
    kinds = {"x": "continuous", "y": "category", "z": "category"}
    assert scores.missing(real, fakes, kinds) == {"x": 0.75, "z": 0}


def test_pairs_have_their_values():
    """Correlations -1 and 1, joint distributions that agree in 3 of 4 rows, and bins of numbers."""
    real = frame_of(x=[0.0, 1.0, 2.0, 10.0], y=[0.0, -2.0, -4.0, -20.0], a=["p", "p", "q", "q"], b=["u", "v", "u", "v"])
    fakes = frame_of(x=[0.0, 1.5, 1.0, 99.0], y=[0.0, 3.0, 2.0, 198.0], a=["p", "p", "q", "p"], b=["u", "v", "u", "v"])
    found = scores.pairs(real, fakes, {"x": "continuous", "y": "continuous", "a": "category", "b": "category"})
    assert found.names == ["x", "y", "a", "b"]
    assert found.similarity[0, 1] == pytest.approx(0)
    assert found.similarity[2, 3] == pytest.approx(0.75)  # (q, v) of the real rows became (p, v)
    # Bins of width 1 from 0 to 10: 2.0 became 1.0, and 99 counts in the last bin, as 10 does. Its a also differs.
    assert found.similarity[0, 2] == pytest.approx(0.5)
    assert found.similarity[0, 3] == pytest.approx(0.75)
    assert found.real[0, 1] == pytest.approx(-1) and found.fakes[0, 1] == pytest.approx(1)
    assert found.real[2, 3] == 0 and found.fakes[2, 3] == pytest.approx(np.sqrt(1 / 3))  # phi of counts 1 2 / 1 0
    for array in found[1:4]:
        np.testing.assert_array_equal(array, array.T)
        np.testing.assert_array_equal(np.diag(array), 1)
    assert found.mean() == pytest.approx((0 + 0.75 + 0.5 + 0.75 + found.similarity[1, 2] + found.similarity[1, 3]) / 6)
    assert found.strong[0, 1] and found.strong[0, 2]  # also a negative correlation and not found.strong[2, 3]


def test_a_missing_value_is_a_value_of_a_pair():
    real = frame_of(x=[1.0, NAN, 3.0, NAN], a=["p", None, "p", None])
    fakes = frame_of(x=[1.0, NAN, 3.0, NAN], a=["p", "p", None, None])
    assert scores.pairs(real, fakes, {"x": "continuous", "a": "category"}).similarity[0, 1] == pytest.approx(0.5)


@pytest.mark.parametrize("column", [[5.0] * 4, [NAN] * 4, [NAN, NAN, NAN, 1.0], [1.0, np.inf, -np.inf, NAN]])
def test_a_correlation_with_a_constant_is_not_defined_and_does_not_count(column):
    real = frame_of(x=[1.0, 2.0, 3.0, 5.0], y=[1.0, 2.0, 4.0, 3.0], z=column)
    kinds = dict.fromkeys("xyz", "continuous")
    for first, second in ((real, real.assign(z=real.x)), (real.assign(z=real.x), real)):
        found = scores.pairs(first, second, kinds)
        assert np.isnan(found.similarity[[0, 1], 2]).all() and found.mean() == 1
    assert np.isnan(scores.pairs(real[["z"]], real[["z"]], {"z": "continuous"}).mean())


def test_pairs_of_huge_numbers_and_of_many_values_are_defined():
    rng = np.random.default_rng(0)
    real = frame_of(
        huge=[1e308, -1e308, *rng.normal(0, 1e300, 9_998)],
        tiny=rng.normal(0, 1e-300, 10_000),
        wide=[f"value {i}" for i in range(10_000)],
        other=[f"value {i}" for i in rng.permutation(10_000)],
    )
    kinds = {"huge": "continuous", "tiny": "continuous", "wide": "category", "other": "category"}
    found = scores.pairs(real, real, kinds)
    np.testing.assert_allclose(found.similarity, 1)
    assert abs(found.real[0, 1]) < 0.05 and found.real[2, 3] == pytest.approx(1)
    mixed = scores.pairs(real, real.assign(other=real.other.sample(frac=1, random_state=0).array), kinds)
    assert mixed.similarity[2, 3] < 0.01  # hardly a pair of values occurs in both


@pytest.mark.parametrize("seed", range(3))
def test_associations_agree_with_scipy(seed):
    from scipy.stats.contingency import association

    rng = np.random.default_rng(seed)
    a = rng.integers(0, 4, 500)
    b = np.where(rng.random(500) < 0.5, a, rng.integers(0, 7, 500))
    expected = association(pd.crosstab(a, b).to_numpy(), "cramer")
    assert scores.association(a, b, 10 * a + b) == pytest.approx(expected, rel=1e-12)
    x, y = rng.lognormal(size=(2, 500)) + a
    assert scores.correlation(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1], rel=1e-12)


def test_scores_agree_with_sdmetrics():
    single = pytest.importorskip("sdmetrics.single_column", reason="the oracle needs sdmetrics: pip install sdmetrics")
    from sdmetrics.column_pairs import ContingencySimilarity, CorrelationSimilarity

    real, fakes = people(700, 0), people(400, 1)
    fakes["pay"] = fakes["pay"] * 1.2 + 5
    fakes.loc[::3, "city"] = "Oslo"
    for frame in (real, fakes):
        frame["owner"] = frame["owner"].astype(object)
    shapes, missing = scores.shapes(real, fakes, KINDS), scores.missing(real, fakes, KINDS)
    pairs = scores.pairs(real, fakes, KINDS)
    number = [table_values.is_number(kind) for kind in KINDS.values()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pandas, in sdmetrics
        for i, name in enumerate(KINDS):
            metric = single.KSComplement if number[i] else single.TVComplement
            assert shapes[name] == pytest.approx(metric.compute(real[name], fakes[name]), abs=1e-6)
            expected = single.MissingValueSimilarity.compute(real[name], fakes[name])
            assert missing.get(name, 1.0) == pytest.approx(expected)
        plain = [frame.assign(since=pd.to_numeric(frame.since).where(frame.since.notna())) for frame in (real, fakes)]
        for i, a in enumerate(KINDS):
            for j, b in list(enumerate(KINDS))[i + 1 :]:
                of_pair = [frame[[a, b]].copy() for frame in plain]
                if number[i] and number[j]:
                    expected = CorrelationSimilarity.compute(*of_pair)
                else:
                    binned = [name for name, k in ((a, i), (b, j)) if number[k]]
                    expected = ContingencySimilarity.compute(*of_pair, continuous_column_names=binned or None)
                assert pairs.similarity[i, j] == pytest.approx(expected, abs=1e-6), (a, b)


def test_the_order_of_rows_and_columns_does_not_matter():
    real, fakes = people(300, 0), people(250, 1)
    turned = {name: KINDS[name] for name in reversed(KINDS)}
    shuffled = [frame.sample(frac=1, random_state=3)[list(turned)] for frame in (real, fakes)]
    assert scores.shapes(real, fakes, KINDS) == pytest.approx(scores.shapes(*shuffled, turned))
    assert scores.missing(real, fakes, KINDS) == pytest.approx(scores.missing(*shuffled, turned))
    first, second = scores.pairs(real, fakes, KINDS), scores.pairs(*shuffled, turned)
    for a, b in zip(first[1:], second[1:], strict=True):
        np.testing.assert_allclose(a, b[::-1, ::-1], atol=1e-12)
    assert first.mean(strong=True) == pytest.approx(second.mean(strong=True)) != first.mean()
    distances = [
        np.sort(nearest.to_closest(space(b), space(a)))
        for a, b, space in (
            (real, fakes, nearest.Space(real, KINDS)),
            (*shuffled, nearest.Space(shuffled[0], turned)),
        )
    ]
    np.testing.assert_allclose(*distances, rtol=1e-5)


# The closest training row ---------------------------------------------------------------------------------------------


def plain_distance(a, b, real) -> float:
    """Return the distance of two rows, by its definition."""
    total = 0.0
    for name, kind in KINDS.items():
        x, y = a[name], b[name]
        if pd.isna(x) or pd.isna(y):
            total += bool(pd.isna(x)) != bool(pd.isna(y))
        elif kind in ("category", "boolean"):
            total += x != y
        else:
            values = real[name].dropna()
            if kind == "date":
                x, y, values = x.value, y.value, values.astype(np.int64)
            if np.isinf(x) or np.isinf(y):
                total += x != y
            else:
                values = np.array(values, float)
                total += ((x - y) / values[np.isfinite(values)].std()) ** 2
    return np.sqrt(total)


def test_the_closest_row_is_that_of_plain_loops(monkeypatch):
    real, fakes = people(40, 0), people(15, 1)
    real.loc[3, "pay"], fakes.loc[2, "pay"], fakes.loc[4, "pay"] = np.inf, np.inf, -np.inf
    fakes.loc[7, "city"] = "Paris"  # no training row has it
    rows, own = [row for _, row in real.iterrows()], np.arange(5, 9)
    expected = [min(plain_distance(a, b, real) for b in rows) for _, a in fakes.iterrows()]
    others = [min(plain_distance(rows[i], b, real) for j, b in enumerate(rows) if j != i) for i in own]
    space = nearest.Space(real, KINDS)
    for block in (1, 90, 100_000):
        monkeypatch.setattr(nearest, "BLOCK", block)
        np.testing.assert_allclose(nearest.to_closest(space(fakes), space(real)), expected, rtol=1e-5)
        np.testing.assert_allclose(nearest.to_closest(space(real).rows(own), space(real), own), others, rtol=1e-5)


def test_distances_do_not_depend_on_units_and_survive_extreme_numbers():
    real = frame_of(x=np.random.default_rng(0).normal(size=50), c=["a", "b"] * 25)
    kinds = {"x": "continuous", "c": "category"}
    found = []
    for unit in (1, 1e-200, 1e305):
        space = nearest.Space(real.assign(x=real.x * unit), kinds)
        found.append(nearest.to_closest(*(space(real.assign(x=shift * unit)) for shift in (real.x + 0.3, real.x))))
    np.testing.assert_allclose(found[1:], [found[0]] * 2, rtol=1e-4)
    far = nearest.to_closest(space(frame_of(x=[1e307, -1e-320], c=["a", "b"])), space(real * 1))
    assert np.isfinite(far).all()


def test_a_number_that_is_constant_in_training_counts_as_a_category():
    space = nearest.Space(frame_of(x=[5.0, 5.0]), {"x": "continuous"})
    found = nearest.to_closest(space(frame_of(x=[5.0, 900.0, NAN])), space(frame_of(x=[5.0, 5.0])))
    np.testing.assert_array_equal(found, [0, 1, 1])


def test_wide_categories_are_compared_exactly():
    """Codes from 256 on do not fit in a byte."""
    wide = frame_of(c=[f"value {i}" for i in range(600)])
    space = nearest.Space(wide, {"c": "category"})
    np.testing.assert_array_equal(nearest.to_closest(space(wide), space(wide)), 0)
    np.testing.assert_array_equal(nearest.to_closest(space(wide[:256]), space(wide[256:])), 1)
    assert nearest.to_closest(space(wide[:1]), space(wide[1:])) == 1


def test_copies_are_rows_that_agree_in_every_column():
    real = people(200, 0)
    fakes = pd.concat([real[:30], people(70, 1)], ignore_index=True)
    assert nearest.copies(fakes, real, KINDS) == pytest.approx(0.3)
    for name in KINDS:  # a change of one column is enough
        changed = fakes.copy()
        changed[name] = changed[name].shift(-1)
        assert nearest.copies(changed, real, KINDS) < 0.3
    assert nearest.copies(None, real, KINDS) == 0
    assert nearest.copies(None, pd.concat([real, real[:50]]), KINDS) == pytest.approx(0.4)  # 100 of 250
    near = real.assign(pay=real.pay * (1 + 1e-12))  # nearer than float32 can represent
    assert nearest.copies(near, real, KINDS) == pytest.approx(real.pay.isna().mean())


def test_distances_of_many_rows_are_those_of_some_at_random(monkeypatch):
    real, fakes = people(500, 0), people(400, 1)
    space, rng = nearest.Space(real, KINDS), np.random.default_rng(0)
    every = nearest.median_distance(space, fakes, real, rng)
    monkeypatch.setattr(nearest, "ROWS", 100)
    assert nearest.median_distance(space, fakes, real, rng) == pytest.approx(every, rel=0.15)
    monkeypatch.setattr(nearest, "PAIRS", 500 * 60)
    asked = []
    monkeypatch.setattr(nearest, "to_closest", lambda a, *_: asked.append(a.codes.shape[1]) or np.ones(1))
    nearest.median_distance(space, fakes, real, rng)
    assert asked == [60]


# Boosted trees --------------------------------------------------------------------------------------------------------


def test_the_figures_of_predictions_have_their_values():
    assert models.macro_f1(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])) == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert models.macro_f1(np.array([0, 0, 3]), np.array([0, 0, 0])) == pytest.approx((4 / 5 + 0) / 2)
    assert models.macro_f1(np.array([0, 0]), np.array([0, 2])) == pytest.approx((2 / 3 + 0) / 2)
    assert models.r_squared(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 2.0])) == pytest.approx(0.5)
    assert models.r_squared(np.array([1.0, 2.0, 3.0]), np.full(3, 2.0)) == 0
    assert models.r_squared(np.array([1e307, -1e307]), np.array([1e307, -1e307])) == 1
    assert np.isnan(models.r_squared(np.ones(3), np.ones(3)))
    assert models.area(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])) == pytest.approx(0.75)
    assert models.area(np.array([0, 1, 0, 1]), np.zeros(4)) == 0.5


def test_the_figures_of_predictions_agree_with_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics", reason="boosted trees need scikit-learn")
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 5, (2, 300))
    score = np.round(rng.normal(size=300) + (truth > 2), 1)
    assert models.macro_f1(truth, predicted) == pytest.approx(metrics.f1_score(truth, predicted, average="macro"))
    assert models.r_squared(truth + 0.0, score) == pytest.approx(metrics.r2_score(truth, score))
    assert models.area(truth > 2, score) == pytest.approx(metrics.roc_auc_score(truth > 2, score))


def test_features_are_numbers_and_ranks_of_categories():
    known = frame_of(x=[1.5, NAN, np.inf], c=["b", "b", "a"])
    new = frame_of(x=[2.0, 3.0, 4.0], c=["a", "new", None])
    (first, second), categorical = models.features((known, new), {"x": "continuous", "c": "category"})
    np.testing.assert_array_equal(first, [[1.5, 0], [NAN, 0], [np.inf, 1]])
    np.testing.assert_array_equal(second, [[2, 1], [3, NAN], [4, NAN]])
    np.testing.assert_array_equal(categorical, [False, True])
    both, _ = models.features((known, new), {"c": "category"}, known=2)
    np.testing.assert_array_equal(both[1][:, 0], [0, 2, NAN])  # a and b occur twice


class TestTrees:
    """What needs scikit-learn."""

    @pytest.fixture(autouse=True)
    def trees(self):
        pytest.importorskip("sklearn", reason="boosted trees need scikit-learn: pip install 'minigan[tables]'")

    @pytest.mark.parametrize(("target", "least", "most"), [("job", 0.6, 1), ("since", 0.9, 1), ("city", 0, 0.4)])
    def test_what_follows_from_the_other_columns_is_predicted(self, target, least, most):
        assert least < models.utility(people(600, 0), people(300, 1), KINDS, target) < most

    @pytest.mark.parametrize("asked", ["1", "2,1", "64", "", "many"])
    def test_other_packages_do_not_give_the_trees_more_threads_than_cores(self, asked, monkeypatch):
        import threadpoolctl
        from sklearn.utils._openmp_helpers import _openmp_effective_n_threads

        monkeypatch.setenv("OMP_NUM_THREADS", asked)
        monkeypatch.setattr(models, "cores", lambda: 3)
        with threadpoolctl.threadpool_limits(16, user_api="openmp"):  # as if Numba had asked for them
            with models.few_threads():
                assert all(
                    library["num_threads"] == {"1": 1, "2,1": 2}.get(asked, 3)
                    for library in threadpoolctl.threadpool_info()
                    if library["user_api"] == "openmp"
                )
                assert _openmp_effective_n_threads() <= 3
            assert {one["num_threads"] for one in threadpoolctl.threadpool_info() if one["user_api"] == "openmp"} == {
                16
            }

    def test_fakes_whose_target_is_exchanged_are_of_no_use(self):
        fakes = people(600, 0)
        fakes["since"] = fakes["since"].sample(frac=1, random_state=0).array
        assert models.utility(fakes, people(300, 1), KINDS, "since") < 0.1

    def test_one_class_or_one_number_is_the_prediction(self):
        fakes, real = people(50, 0), people(100, 1)
        share = (real["job"] == "boss").mean()
        constant = models.utility(fakes.assign(job="boss"), real, KINDS, "job")
        assert constant == pytest.approx(2 * share / (1 + share) / 3)  # one of three classes
        assert models.utility(fakes.assign(job="new"), real, KINDS, "job") == 0
        mean = models.utility(fakes.assign(age=int(real["age"].mean())), real, KINDS, "age")
        assert mean == pytest.approx(0, abs=0.02)
        assert np.isnan(models.utility(fakes.assign(job=None), real, KINDS, "job"))
        assert np.isnan(models.utility(fakes, real.assign(age=3), KINDS, "age"))
        only = {"job": "category"}  # no other column: the most frequent class
        expected = models.utility(fakes.assign(job=fakes["job"].mode()[0]), real, KINDS, "job")
        assert models.utility(fakes, real, only, "job") == pytest.approx(expected)

    def test_rows_without_a_target_are_left_out(self):
        fakes, real = people(300, 0), people(200, 1)
        expected = models.utility(fakes, real, KINDS, "age")
        for frame in (fakes, real):
            frame["age"] = frame["age"].astype(float)
        gone, infinite = (frame.assign(age=value) for frame, value in ((fakes[:50], NAN), (real[:50], np.inf)))
        found = models.utility(pd.concat([fakes, gone]), pd.concat([real, infinite]), KINDS, "age")
        assert found == pytest.approx(expected)

    def test_a_number_of_any_size_is_predicted(self):
        fakes, real = people(300, 0), people(200, 1)
        expected = models.utility(fakes, real, KINDS, "age")
        large = [frame.assign(age=frame["age"] * 1e300) for frame in (fakes, real)]
        assert models.utility(*large, KINDS, "age") == pytest.approx(expected, abs=0.02)

    def test_rare_classes_count_as_one(self, monkeypatch):
        monkeypatch.setattr(models, "CLASSES", 2)
        asked = []
        monkeypatch.setattr(models, "macro_f1", lambda truth, predicted: asked.append((truth, predicted)) or 0.0)
        models.utility(people(200, 0), people(100, 1), KINDS, "city")
        assert [set(each) for each in asked[0]] == [{0, 1, 2}, {0, 1, 2}]

    def test_columns_that_are_constant_or_missing_in_training_do_no_harm(self):
        fakes, real = people(200, 0), people(100, 1)
        empty = fakes.assign(pay=NAN, city=None, owner=True)
        assert models.utility(empty, real, KINDS, "job") > 0.3

    def test_more_values_than_the_trees_take(self):
        rng = np.random.default_rng(0)
        wide = frame_of(c=[f"value {i}" for i in range(400)] * 25)
        wide["y"] = wide["c"].str[-1].isin(list("01234"))
        kinds = {"c": "category", "y": "boolean"}
        test = wide.sample(frac=0.5, random_state=1).assign(
            c=lambda rows: rows.c.where(rng.random(len(rows)) < 0.9, "new")
        )
        assert 0.7 < models.utility(wide, test, kinds, "y") < 0.9  # values from the 255th on are one

    def test_the_detector_is_at_half_for_rows_of_the_same_source(self):
        found, columns = models.detector(people(900, 0), people(700, 1), KINDS)
        assert abs(found - 0.5) < 0.06 and set(columns) == set(KINDS)
        assert max(columns.values()) < 0.06

    @pytest.mark.parametrize("column", ["age", "city", "since"])
    def test_the_detector_names_the_column_that_gives_fakes_away(self, column):
        fakes = people(400, 1)
        fakes[column] = fakes[column].mode()[0]
        found, columns = models.detector(people(400, 0), fakes, KINDS)
        assert found > 0.75 and max(columns, key=columns.get) == column and columns[column] > 0.2

    def test_the_detector_sees_values_that_real_rows_do_not_have(self):
        found, _ = models.detector(people(200, 0), people(200, 1).assign(city="Paris"), {"city": "category"})
        assert found == 1

    def test_the_detector_needs_rows_in_every_fold(self):
        found, columns = models.detector(people(100, 0), people(5, 1), KINDS)
        assert np.isnan(found) and np.isnan(list(columns.values())).all()

    def test_the_detector_compares_equally_many_rows(self):
        """Otherwise the more frequent of the two would be guessed where the rows agree."""
        asked = []
        original = models.Trees

        def recorded(x, y, *rest):
            asked.append(np.bincount(y))
            return original(x, y, *rest)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(models, "Trees", recorded)
            models.detector(people(300, 0), people(90, 1), KINDS, explain=False)
        assert [each.tolist() for each in asked] == [[60, 60]] * 3


# Baselines ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("baseline", [baselines.gaussian_copula, baselines.smote])
@pytest.mark.parametrize("target", [None, "job", "age"])
def test_baselines_are_like_the_training_rows(baseline, target):
    real = people(500, 0)
    real["city"] = real["city"].astype("category")
    real["age"] = real["age"].astype("Int64")
    real["since"] = real["since"].dt.tz_localize("Asia/Tokyo")
    fakes = baseline(real, 900, KINDS, target, np.random.default_rng(0))
    assert len(fakes) == 900 and fakes.dtypes.to_dict() == real.dtypes.to_dict()
    assert fakes.index.equals(pd.RangeIndex(900))
    shapes, missing = scores.shapes(real, fakes, KINDS), scores.missing(real, fakes, KINDS)
    assert min(shapes.values()) > 0.85 and min(missing.values()) > 0.9
    for name in ("age", "pay", "since"):
        assert real[name].min() <= fakes[name].min() and fakes[name].max() <= real[name].max()
    np.testing.assert_array_equal(fakes["pay"].dropna().round(2), fakes["pay"].dropna())
    dates = fakes["since"].dropna()
    assert (dates.dt.tz_convert("UTC").astype("int64") - real["since"].min().value).mod(86_400 * 10**9).eq(0).all()
    assert scores.pairs(real, fakes, KINDS).similarity[0, 4] > 0.98  # age and since, which are correlated
    assert nearest.copies(fakes, real, KINDS) < 0.1


def test_the_copula_keeps_each_class_apart():
    """x is far from 0 in class b, and the sign of the correlation of x and y is that of the class."""
    rng = np.random.default_rng(0)
    x, label = rng.normal(size=2000), np.repeat(["a", "b"], [1500, 500])
    y = np.where(label == "a", x, -x) + rng.normal(0, 0.3, 2000)
    real = frame_of(x=np.where(label == "a", x, x + 100), y=y, label=label)
    kinds = {"x": "continuous", "y": "continuous", "label": "category"}
    fakes = baselines.gaussian_copula(real, 2000, kinds, "label", rng)
    assert (fakes["label"] == "a").mean() == pytest.approx(0.75, abs=0.03)
    np.testing.assert_array_equal(fakes["x"] > 50, fakes["label"] == "b")
    assert set(fakes["x"]) <= set(real["x"]) and set(fakes["y"]) <= set(real["y"])
    for name, sign in (("a", 1), ("b", -1)):
        rows = [frame[frame["label"] == name] for frame in (real, fakes)]
        r = [np.corrcoef(each["x"], each["y"])[0, 1] for each in rows]
        assert sign * r[0] > 0.9 and r[1] == pytest.approx(r[0], abs=0.03)
    assert not fakes["label"][:100].eq("a").all()  # in random order


def test_correlations_of_the_copula_are_over_the_rows_with_both_values():
    rng = np.random.default_rng(0)
    z = rng.standard_normal((400, 4)) @ rng.standard_normal((4, 4))
    for k, share in enumerate((0, 0.3, 0.6)):
        z[rng.random(400) < share, k] = np.nan
    z[:, 3] = np.nan  # no row has a value
    root = baselines.root_of_correlations(z)
    expected = np.eye(4)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        both = np.isfinite(z[:, i]) & np.isfinite(z[:, j])
        x, y = z[both, i], z[both, j]
        expected[i, j] = expected[j, i] = (x * y).sum() / np.sqrt((x**2).sum() * (y**2).sum())
    np.testing.assert_allclose(root @ root.T, expected, atol=1e-12)


def test_the_copula_has_missing_values_with_other_columns():
    """x is missing where y is small."""
    rng = np.random.default_rng(0)
    y = rng.normal(size=2000)
    real = frame_of(x=np.where(y < -0.5, NAN, y), y=y, gone=[None] * 2000)
    kinds = {"x": "continuous", "y": "continuous", "gone": "category"}
    fakes = baselines.gaussian_copula(real, 2000, kinds, None, rng)
    assert fakes["gone"].isna().all() and np.corrcoef(*fakes[["x", "y"]].dropna().T.to_numpy())[0, 1] > 0.75
    gone = fakes["x"].isna()
    assert gone.mean() == pytest.approx(real["x"].isna().mean(), abs=0.03)
    assert (fakes["y"][gone] < 0).mean() > 0.75 > (fakes["y"] < 0).mean() + 0.2


def test_smote_lies_between_rows_of_one_class():
    """Two classes on two lines far from each other, x = (t, t) and (t, -t): all new rows are on their line."""
    rng = np.random.default_rng(0)
    t = rng.uniform(1, 2, 400)
    label = np.repeat(["up", "down"], 200)
    real = frame_of(x=t, y=np.where(label == "up", t, -t), label=label, same=np.where(label == "up", "u", "d"))
    kinds = {"x": "continuous", "y": "continuous", "label": "category", "same": "category"}
    fakes = baselines.smote(real, 800, kinds, "label", rng)
    np.testing.assert_allclose(fakes["y"], np.where(fakes["label"] == "up", fakes["x"], -fakes["x"]), rtol=1e-9)
    np.testing.assert_array_equal(fakes["same"], np.where(fakes["label"] == "up", "u", "d"))
    assert (fakes["label"] == "up").mean() == 0.5  # each row is a base twice
    step = np.sort(np.abs(fakes["x"].to_numpy()[:, None] - t).min(axis=1))
    assert step[0] > 0 and np.median(step) < 0.02, "new values, near to observed ones"


def test_smote_takes_the_category_of_most_neighbours():
    """The base has another category than its five neighbours, of which three agree."""
    real = frame_of(x=[0.0, 1.0, 1.1, 1.2, 1.3, 1.4], c=["base", "p", "q", "q", "q", "p"])
    kinds = {"x": "continuous", "c": "category"}
    fakes = baselines.smote(real, 300, kinds, None, np.random.default_rng(0))
    from_base = fakes[fakes["x"] < 0.9]
    assert len(from_base) > 20 and set(from_base["c"]) == {"q"}


def test_smote_repeats_a_class_of_one_row_and_small_classes_stay_apart():
    real = frame_of(x=[0.0, 10.0, 20.0, 100.0], c=["a", "a", "a", "b"])
    fakes = baselines.smote(real, 40, {"x": "continuous", "c": "category"}, "c", np.random.default_rng(0))
    assert (fakes["x"][fakes["c"] == "b"] == 100).all() and (fakes["x"][fakes["c"] == "a"] <= 20).all()
    assert (fakes["c"] == "b").mean() == 0.25


@pytest.mark.parametrize(("x", "expected"), [([1, 2], 0), ([0.5, 2], 1), ([1e-3, 1e6], 3), ([1 / 3], 15), ([1e300], 0)])
def test_decimals_are_those_of_the_column(x, expected):
    assert baselines.decimals(np.array(x, float)) == expected


# The report -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report():
    """Return the report of rows from the same source, which is as good as fakes can be."""
    pytest.importorskip("sklearn", reason="boosted trees need scikit-learn: pip install 'minigan[tables]'")
    return tables.compare(people(400, 0), people(400, 1), people(300, 2), KINDS, "job")


def test_good_fakes_have_the_figures_of_real_rows(report):
    fakes, real = report["fakes"], report["real"]
    for name, slack in {"shapes": 0.03, "pairs": 0.03, "strong": 0.04, "missing": 0.03, "utility": 0.1}.items():
        assert fakes[name] == pytest.approx(real[name], abs=slack) and fakes[name] > 0.6, name
    assert abs(fakes["detector"] - 0.5) < 0.1
    assert fakes["nearness"] == pytest.approx(1, abs=0.1) and real["nearness"] == 1
    assert fakes["nearness"] == pytest.approx(fakes["distance"] / real["distance"])
    assert real["utility"] == models.utility(people(400, 0), people(300, 2), KINDS, "job") != fakes["utility"]
    assert fakes["copies"] == real["copies"] == 0 and report["warnings"] == report["absent"] == []
    assert report["smote"]["nearness"] < 0.8 < report["copula"]["nearness"]


def test_the_report_can_be_stored_and_names_columns_and_pairs(report):
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert list(report["columns"]) == report["pairs"]["names"] == list(KINDS)
    assert report["rows"] == {"training": 400, "fakes": 400, "held_out": 300}
    assert report["columns"]["age"]["missing"] is None and report["columns"]["pay"]["missing"] > 0.9
    assert np.shape(report["pairs"]["similarity"]) == (6, 6)


def test_the_table_has_a_line_for_each_figure(report):
    lines = tables.table(report).splitlines()
    assert lines[0].split() == ["fakes", "copula", "SMOTE", "real", "rows"]
    for name, text in (tables.SCORES | {"utility": "macro F1 of job (1 is best)"}).items():
        (line,) = [line for line in lines if line.startswith(text)]
        assert line.split()[-4:] == [f"{report[which][name]:.3f}" for which in ("fakes", "copula", "smote", "real")]
    assert max(map(len, lines[:10])) <= 90


def exchanged(frame, names):
    """Return rows in which the values of some columns are exchanged at random, each column by itself."""
    rng = np.random.default_rng(5)
    return frame.assign(**{name: frame[name].take(rng.permutation(len(frame))).array for name in names})


@pytest.mark.parametrize(
    ("fault", "change"),
    [
        ("shapes", lambda frame: frame.assign(age=frame.age // 2, city=frame.city.where(frame.city != "Rome", "Nice"))),
        ("strong", lambda frame: exchanged(frame, ["age", "since", "job"])),
        ("missing", lambda frame: frame.assign(city=frame.city.fillna("Rome"), pay=frame.pay.fillna(40.0))),
        ("utility", lambda frame: exchanged(frame, ["job"])),
        ("detector", lambda frame: frame.assign(pay=frame.pay * 1.4)),
    ],
)
def test_each_fault_lowers_its_figure(fault, change, report):
    target = "job" if fault == "utility" else None
    found = tables.comparison.Reference(people(400, 0), people(300, 2), KINDS, target, fault == "detector", 0)
    wrong = found.figures(change(people(400, 1)), explain=False)[0][fault]
    if fault == "detector":
        assert wrong > report["fakes"][fault] + 0.1
    else:
        assert wrong < report["fakes"][fault] - 0.04


def test_copies_are_reported(monkeypatch):
    monkeypatch.setattr(models, "load", lambda: (_ for _ in ()).throw(models.MissingPackage("no trees")))
    real, held_out = people(300, 0), people(200, 2)
    fakes = pd.concat([real[:60], people(240, 1)], ignore_index=True)
    found = tables.compare(real, fakes, held_out, KINDS)
    assert found["fakes"]["copies"] == pytest.approx(0.2) and len(found["warnings"]) == 1
    assert found["warnings"][0].startswith("20.0% of the fakes are exact copies of training rows, but only 0.0% of the")
    assert "warning: 20.0%" in tables.table(found)
    memorised = tables.compare(real, real.assign(pay=real.pay + 0.01), held_out, KINDS)
    assert ["memorised" in text for text in memorised["warnings"]] == [False, True]  # copies without pay, and near ones
    # A table of few different rows has copies by chance, which are no reason to warn.
    few = {"city": "category", "owner": "boolean"}
    assert tables.compare(real, people(300, 1), held_out, few)["fakes"]["copies"] > 0.95
    assert tables.compare(real, people(300, 1), held_out, few)["warnings"] == []


def test_without_held_out_rows_training_rows_are_compared_with_each_other():
    pytest.importorskip("sklearn", reason="boosted trees need scikit-learn: pip install 'minigan[tables]'")
    real = people(200, 0)
    found = tables.compare(real, people(150, 1), None, KINDS, "job")
    assert found["fakes"]["nearness"] == pytest.approx(1, abs=0.15)
    assert found["real"]["shapes"] is None and found["fakes"]["utility"] is None
    assert found["absent"] == [
        "job is not predicted, because there are no held-out rows",
        "there are no held-out rows, with which the fakes could be compared",
    ]
    text = tables.table(found)
    assert "macro F1" not in text and text.splitlines()[1].endswith(" -")


def test_without_scikit_learn_the_other_figures_are_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    found = tables.compare(people(100, 0), people(100, 1), people(100, 2), KINDS, "job")
    assert found["fakes"]["shapes"] > 0.8 and found["fakes"]["nearness"] > 0.5
    assert found["fakes"]["detector"] is found["fakes"]["utility"] is None
    assert len(found["absent"]) == 1 and "pip install 'minigan[tables]'" in found["absent"][0]
    assert "AUC" not in tables.table(found)
    with pytest.raises(models.MissingPackage, match=r"scikit-learn.*pip install 'minigan\[tables\]'"):
        models.utility(people(50, 0), people(50, 1), KINDS, "job")


@pytest.mark.parametrize("column", ["age", "city"])
def test_one_column_is_enough(column, monkeypatch):
    pytest.importorskip("sklearn", reason="boosted trees need scikit-learn: pip install 'minigan[tables]'")
    found = tables.compare(people(60, 0), people(60, 1), people(60, 2), {column: KINDS[column]}, column)
    assert found["fakes"]["pairs"] is None and found["fakes"]["shapes"] > 0.7
    assert found["absent"] == [f"{column} is not predicted, because there is no other column"]


def test_difficult_columns_have_figures_and_what_is_not_defined_is_named():
    """Values that are missing, constant, infinite, identical or all different, and names that are no texts."""
    pytest.importorskip("sklearn", reason="boosted trees need scikit-learn: pip install 'minigan[tables]'")

    def rows(seed):
        rng = np.random.default_rng(seed)
        x = np.where(rng.random(80) < 0.7, 0, rng.standard_cauchy(80) * 1e30)
        return pd.DataFrame(
            {
                "gone": pd.Series([NAN] * 80),
                "empty": pd.Series([None] * 80, dtype=object),
                "constant": 5.0,
                "infinite": np.where(rng.random(80) < 0.3, -np.inf, rng.normal(size=80)),
                0: x,
                1: x,
                "wide": [f"value {i}" for i in rng.integers(0, 10_000, 80)],
            }
        )

    kinds = dict.fromkeys(["gone", "constant", "infinite", 0, 1], "continuous") | dict.fromkeys(
        ["empty", "wide"], "category"
    )
    found = tables.compare(rows(0), rows(1), rows(2), kinds, 1)
    json.dumps(found, allow_nan=False)
    assert all(found[which][name] is not None for which in tables.comparison.SETS for name in tables.SCORES)
    assert found["columns"]["gone"]["shape"] is None
    assert len(found["absent"]) == 1
    assert found["absent"][0].startswith(
        "a column is constant or missing, so the means are without the shape of gone, "
    )
    assert found["absent"][0].endswith(" more")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(kinds={}), "needs at least one column"),
        (dict(kinds={"age": "number"}), "column 'age' has the kind 'number': expected continuous, integer"),
        (dict(kinds={"agee": "integer"}), "the training rows have no column 'agee': its nearest names are age"),
        (dict(target="jobs"), "the target 'jobs' is none of the compared columns: age, pay"),
        (dict(real=people(19, 0)), "at least 20 training rows, got 19"),
        (dict(fakes=people(3, 0)), "at least 20 fake rows, got 3"),
        (dict(held_out=people(0, 0)), "at least 20 held-out rows, got 0"),
        (dict(held_out=people(50, 0)[["age"]]), "the held-out rows have no column 'pay'"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_what_to_do(change, message):
    given = dict(real=people(30, 0), fakes=people(30, 1), held_out=people(30, 2), kinds=KINDS) | change
    with pytest.raises(UserError, match=message):
        tables.compare(**given)


def test_dates_of_any_year_and_zone_are_numbers():
    far = pd.Series(np.array(["0001-01-01", "9999-12-31"], "datetime64[s]"))
    assert np.diff(table_values.numbers(far, "date")) == (
        np.datetime64("9999-12-31") - np.datetime64("0001-01-01")
    ).astype("timedelta64[us]").astype(float)
    zone = pd.Series(pd.to_datetime(["2020-01-01 00:00", None])).dt.tz_localize("Europe/Berlin")
    np.testing.assert_array_equal(table_values.numbers(zone, "date"), [1_577_833_200e6, NAN])
    np.testing.assert_array_equal(table_values.numbers(pd.Series([1, None], dtype="Int64"), "integer"), [1, NAN])
    np.testing.assert_array_equal(table_values.numbers(pd.Series(["1.5", "x"]), "continuous"), [1.5, NAN])
