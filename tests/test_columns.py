"""Columns of tables: kinds are inferred, and decoding inverts encoding exactly, for values of every kind."""

import datetime
import json
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minigan.datasets import column_text as text
from minigan.datasets.column_kinds import Column, Found, LeftOut, Texts, column_of
from minigan.datasets.columns import (
    KNOTS,
    LONG,
    Category,
    Decoded,
    Encoded,
    Number,
    Values,
    decimals_of,
    packed,
    sort,
    unpacked,
)
from minigan.datasets.files import DataError

pd = pytest.importorskip("pandas", reason="needs minigan[tables]")
FILE = Texts(from_file=True)
N = np.arange(600)


def modelled(values, kind=None, name="x", texts=FILE, **dtype) -> Found:
    """The column of these values, rebuilt from JSON as a checkpoint does."""
    found = column_of(pd.Series(values, **dtype), name, kind, texts)
    assert isinstance(found.column, Column), found.column
    column = Column.from_json(json.loads(json.dumps(found.column.to_json(), allow_nan=False)))
    assert column == found.column
    return found._replace(column=column)


def encoded(found: Found) -> Encoded:
    """The features of the column, after a check that they are of the right type and in their range."""
    result = found.column.encoding.encode(found.values)
    if result.number is not None:
        assert result.number.dtype == np.float32 and (np.abs(result.number) < 1).all()
    if result.choice is not None:
        assert ((result.choice >= 0) & (result.choice < found.column.encoding.choices)).all()
    assert found.column.width == (result.number is not None) + found.column.encoding.choices
    return result


def decoded(found: Found, features: Encoded | None = None):
    """The Series of the features, by default those of the column itself."""
    features = encoded(found) if features is None else features
    count = next((len(x) for x in features if x is not None), len(found.values.codes))
    return found.column.decode(features, np.random.default_rng(0).random(count))


def expect_inverse(values, kind=None, texts=FILE, **dtype) -> Found:
    """Check that decoding inverts encoding, with all dtypes."""
    series = pd.Series(values, **dtype)
    found = modelled(values, kind, texts=texts, **dtype)
    pd.testing.assert_series_equal(decoded(found), series.rename("x"), check_exact=True)
    return found


# ---------------------------------------------------------------- decode(encode(x)) = x


def tied(values, least: int = 2, missing: bool = True):
    """Lists of the values with many equal ones, and perhaps missing ones."""
    pools = st.lists(values, min_size=least, max_size=40, unique=True)
    extra = [None] if missing else []
    return pools.flatmap(lambda pool: st.lists(st.sampled_from(pool + extra), max_size=120).map(lambda x: pool + x))


FINITE = st.floats(allow_nan=False, allow_infinity=False)
ANY = st.floats(allow_nan=False)
PRICES = st.integers(-(10**11), 10**11).map(lambda x: x / 100)
WHOLE = st.integers(-(2**63), 2**63 - 1)
MOMENTS = st.datetimes(datetime.datetime(1700, 1, 1), datetime.datetime(2200, 1, 1))


@pytest.mark.parametrize("kind", [None, "continuous"])
@given(values=tied(FINITE) | tied(ANY) | tied(PRICES))
@settings(max_examples=60, deadline=None)
def test_numbers_come_back_exactly(values, kind):
    expect_inverse([0.0 if value == 0 else value for value in values], kind, dtype="float64")  # not -0.0


@pytest.mark.parametrize("kind", [None, "continuous"])
@given(values=tied(WHOLE, missing=False), dtype=st.sampled_from(["int64", "Int64"]))
@settings(max_examples=40, deadline=None)
def test_integers_come_back_exactly(values, kind, dtype):
    assume(kind or isinstance(column_of(pd.Series(values, dtype=dtype), "x").column, Column))  # not 0, 1, 2, ...
    expect_inverse(values, kind, dtype=dtype)


@given(values=tied(WHOLE) | tied(st.integers(-9, 9)), kind=st.sampled_from([None, "category"]))
@settings(max_examples=40, deadline=None)
def test_integers_with_missing_values_come_back_exactly(values, kind):
    assume(kind or isinstance(column_of(pd.Series(values, dtype="Int64"), "x").column, Column))
    expect_inverse(values, kind, dtype="Int64")


@given(values=tied(st.floats(width=32, allow_nan=False)), kind=st.sampled_from([None, "continuous"]))
@settings(max_examples=40, deadline=None)
def test_numbers_of_float32_come_back_exactly(values, kind):
    expect_inverse([0.0 if value == 0 else value for value in values], kind, dtype="float32")


@given(values=tied(st.integers(0, 2**64 - 1), missing=False))
@settings(max_examples=20, deadline=None)
def test_unsigned_integers_come_back_exactly(values):
    expect_inverse(values, "continuous", dtype="uint64")


@given(values=tied(MOMENTS) | tied(MOMENTS.map(lambda t: t.replace(hour=0, minute=0, second=0, microsecond=0))))
@settings(max_examples=40, deadline=None)
def test_dates_come_back_exactly(values):
    expect_inverse(values, dtype="datetime64[ns]")


@given(values=tied(st.text(max_size=9), least=1), dtype=st.sampled_from(["string", "category"]))
@settings(max_examples=60, deadline=None)
def test_texts_come_back_exactly(values, dtype):
    expect_inverse(values, "category", dtype=dtype) if dtype == "category" else check_texts(values)


def check_texts(values) -> None:
    """Texts that are no numbers, in a data frame: nothing is a missing value that pandas has as a value."""
    values = [None if value is None else f"<{value}>" for value in values]
    series = pd.Series(values, dtype="string")
    found = modelled(values, "category", texts=Texts(), dtype="string")
    pd.testing.assert_series_equal(decoded(found), series.rename("x"))


@given(values=st.lists(st.sampled_from([True, False, None])))
@settings(max_examples=30, deadline=None)
def test_booleans_come_back_exactly(values):
    expect_inverse([True, False, *values], dtype="boolean" if None in values else "bool")


def heavy(seed: int = 0, count: int = 6000) -> dict[str, np.ndarray]:
    """Columns that are hard to encode, by name."""
    rng = np.random.default_rng(seed)
    return {
        "heavy tails": rng.standard_cauchy(count) ** 3,
        "a huge range": 10.0 ** rng.uniform(-300, 300, count),
        "both signs": rng.choice([-1, 1], count) * 10.0 ** rng.uniform(-300, 300, count),
        "many zeros": np.where(rng.random(count) < 0.9, 0, rng.lognormal(0, 3, count)),
        "many ties": np.round(rng.gamma(2, 50, count)),
        "prices": np.round(rng.lognormal(3, 1, count), 2),
        "neighbours": np.nextafter(1.0, 2.0) + np.arange(count) * 2.0**-52,
        "infinite": np.where(
            rng.random(count) < 0.1, np.inf, np.where(rng.random(count) < 0.01, -np.inf, np.arange(count))
        ),
        "subnormal": rng.random(count) * 1e-310,
    }


@pytest.mark.parametrize("name", heavy())
def test_difficult_numbers_come_back_exactly(name):
    found = expect_inverse(heavy()[name], dtype="float64" if name != "many ties" else "int64")
    assert isinstance(found.column.encoding, Number)


@given(seed=st.integers(0, 2**32), scale=st.sampled_from([1e-3, 1.0, 1e9]), decimals=st.sampled_from([None, 0, 2]))
@settings(max_examples=6, deadline=None)
def test_more_than_20_000_different_numbers_come_back_exactly(seed, scale, decimals):
    """Adult has a column of 21,648 different integers, some of which occur more often."""
    rng = np.random.default_rng(seed)
    values = scale * rng.lognormal(0, 1, 40_000) - scale
    values = np.where(rng.random(40_000) < 0.3, rng.permutation(values), values)
    if decimals is not None:
        values = np.round(values * 10**7 / scale / 10**decimals, decimals)
    found = expect_inverse(values + 0.0, dtype="float64" if decimals != 0 else "int64")
    encoding = found.column.encoding
    assert len(encoding.values) > 20_000 and not encoding.between
    assert len(json.dumps(found.column.to_json())) < 14 * len(encoding.values), "a list of numbers takes more"


def test_float32_is_precise_enough_for_as_many_values_as_are_stored():
    """One value has half of a billion rows, so that the others share the rest of [-1, 1]."""
    different = np.arange(KNOTS)
    counts = np.where(different == 7, 10**9, 1).tolist()
    number = Number("int64", different.tolist(), counts, [], [], 0, 0)
    codes = np.concatenate([different, np.full(KNOTS, 7)])
    found = number.decode(number.encode(Values(different, codes)), np.zeros(2 * KNOTS))
    assert (found.values == codes).all()
    kept = Number.of(Values(different, np.arange(KNOTS)), "int64", 0)
    more = Number.of(Values(np.arange(KNOTS + 1), np.arange(KNOTS + 1)), "int64", 0)
    assert len(kept.values) == KNOTS and not kept.between and len(more.values) <= KNOTS and more.between


@pytest.mark.parametrize(
    "values",
    [
        st.integers(-(2**63), 2**63 - 1),
        st.integers(0, 2**64 - 1),
        st.integers(0, 300),
        st.floats(allow_nan=False, allow_infinity=False),
        st.integers(-(10**9), 10**9).map(lambda x: x / 100),
        st.integers(-(10**9), 10**9).map(float),
    ],
)
@pytest.mark.parametrize("in_order", [True, False])
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_long_lists_of_numbers_are_packed_exactly(values, in_order, data):
    drawn = data.draw(st.lists(values, min_size=1, max_size=30))
    drawn = [0.0 if value == 0 and isinstance(value, float) else value for value in drawn] * (LONG + 1)
    drawn = sorted(drawn[: LONG + 1]) if in_order else drawn[: LONG + 1]
    stored = packed(drawn)
    assert isinstance(stored, dict)
    again = unpacked(json.loads(json.dumps(stored)))
    assert again == drawn and {type(value) for value in again} == {type(drawn[0])}


@pytest.mark.parametrize("values", [[], [1, 2], ["a"] * 2000, ["inf", 1.5] * 1000, [True] * 2000])
def test_other_lists_are_stored_as_they_are(values):
    assert packed(values) == values == unpacked(values)


@pytest.mark.parametrize("frequent", [10**5, 10**9])
def test_float32_is_precise_enough_for_many_rows(frequent):
    """The rare values have one row each, and one has very many. Only a few of these are encoded here."""
    different = np.arange(1000)
    values = Values(different, np.concatenate([np.repeat(different, 20), np.full(5000, 500)]))
    counts = np.where(different == 500, frequent, 1).tolist()
    number = Number("int64", different.tolist(), counts, [], [], 0, 0)
    found = number.decode(number.encode(values), np.zeros(len(values.codes)))
    assert (found.values == values.codes).all()


def test_frequent_values_have_a_feature_if_others_remain_and_the_table_is_large():
    zeros = np.where(N % 3 == 0, 0, N)
    assert modelled(zeros).column.encoding.special == [0]
    assert modelled([*range(12)] * 3 + [*range(50, 60)]).column.encoding.special == [], "three rows, but 7% of 46"
    assert modelled([0.0] * 50 + [1.0] * 49 + [2.0], "continuous").column.encoding.special == [], "one would remain"


def test_equal_columns_have_equal_features_and_others_are_spread_independently():
    a, b, other = (encoded(modelled(values, "continuous")).number for values in (N % 2, N % 2, N // 2 % 2))
    assert np.array_equal(a, b)
    inside = [number - np.where(number < 0, -0.5, 0.5) for number in (a, other)]  # equal values share half of [-1, 1]
    assert abs(np.corrcoef(inside)[0, 1]) < 0.15


def test_values_of_float32_are_stored_as_the_decimal_numbers_that_they_mean():
    values = np.arange(200, dtype="float32") / 10
    assert modelled(values).column.encoding.values == [i / 10 for i in range(200)]


def test_zero_has_no_sign():
    assert not np.signbit(decoded(modelled([-0.0, 0.0, 0.5] * 9))).any()


@pytest.mark.parametrize("name", ["many ties", "prices", "many zeros", "heavy tails"])
def test_the_ranks_of_all_rows_are_uniform(name):
    number = np.sort(encoded(modelled(heavy()[name])).number.astype(float))
    expected = (2 * np.arange(len(number)) + 1) / len(number) - 1
    assert np.abs(number - expected).max() < 0.05  # half of it is the Kolmogorov-Smirnov statistic


@pytest.mark.parametrize("frequent", [-1, 3000, np.nan])
def test_the_number_of_a_row_without_an_ordinary_value_is_uniform(frequent):
    rng = np.random.default_rng(0)
    found = modelled(np.where(rng.random(6000) < 0.5, frequent, rng.permutation(6000) + 0.5))
    features = encoded(found)
    assert found.column.encoding.choices == 2 and 2900 < features.choice.sum() < 3100
    for chosen in (features.choice == 0, features.choice == 1):
        number = np.sort(features.number[chosen].astype(float))
        assert np.abs(number - (2 * np.arange(len(number)) + 1) / len(number) + 1).max() < 0.06


# ---------------------------------------------------------------- what samples become


def samples(found: Found, count: int = 500, seed: int = 0) -> Encoded:
    """Features as no row has them."""
    rng, encoding = np.random.default_rng(seed), found.column.encoding
    number = (rng.standard_normal(count) * 10 ** rng.uniform(-9, 9, count)).astype(np.float32)
    choice = rng.integers(encoding.choices, size=count) if encoding.choices else None
    return Encoded(number if encoding.has_number else None, choice)


@pytest.mark.parametrize("name", heavy())
def test_any_sample_is_within_the_observed_values(name):
    values = heavy()[name]
    found = modelled(values)
    got = decoded(found, samples(found))
    assert got.notna().all() and got.between(values.min(), values.max()).all()


@given(values=tied(PRICES, least=12, missing=False), x=st.floats(-2, 2, width=32))
@settings(max_examples=100, deadline=None)
def test_a_sample_is_on_the_grid_of_the_column(values, x):
    found = modelled(values, "continuous")
    assume(found.column.encoding.has_number)
    choice = np.zeros(1, np.int64) if found.column.encoding.choices else None
    got = float(decoded(found, Encoded(np.array([x], np.float32), choice))[0])
    decimals = max(len(repr(value).partition(".")[2]) for value in values)
    assert got == round(got, decimals) and min(values) <= got <= max(values)


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [
        (-(2**63), 2**63 - 1, "int64"),
        (0, 2**64 - 1, "uint64"),
        (2**53, 2**53 + 9, "int64"),
        (-1.7e308, 1.7e308, "float64"),
    ],
)
def test_between_two_values_a_sample_is_interpolated(low, high, dtype):
    values = np.array([low, high] * 20, dtype)
    found = modelled(values, "continuous")
    x = np.linspace(-0.012, 0.012, 9).astype(np.float32)
    got = decoded(found, Encoded(x, None)).tolist()
    assert got == sorted(got) and (len(set(got)) == 9 or high - low < 10)
    assert got[0] >= low and got[-1] <= high
    middle = decoded(found, Encoded(np.zeros(1, np.float32), None)).tolist()[0]
    assert math.isclose(middle, low / 2 + high / 2, rel_tol=1e-6, abs_tol=abs(high) * 1e-6)


@pytest.mark.parametrize("name", ["prices", "heavy tails", "a huge range"])
def test_the_ends_of_the_range_are_the_extremes(name):
    values = heavy()[name]
    x = 1 - np.linspace(0, 0.4, 30) / len(values)  # the outermost quarter of a rank, and some of the next half
    for sign, extreme in ((-1, values.min()), (1, values.max())):
        assert (decoded(modelled(values), Encoded((sign * x).astype(np.float32), None)) == extreme).all()


def test_between_stored_values_nothing_overflows():
    values = sort(*np.unique(1.7e308 * np.random.default_rng(0).uniform(-1, 1, 500), return_inverse=True))
    number = Number.of(values, "float64", None, knots=2)
    got, want = number.decode(number.encode(values), np.zeros(500)).values, values.different[values.codes]
    assert len(number.values) == 2 and np.abs(got / 2 - want / 2).max() < 1e-6 * 1.7e308


def test_of_many_values_quantiles_are_stored():
    values = sort(*np.unique(np.round(np.random.default_rng(0).lognormal(3, 1, 30_000), 4), return_inverse=True))
    number = Number.of(values, "float64", 4, knots=500)
    assert len(number.values) <= 500
    assert sum(number.counts) + sum(number.between) == 30_000
    features = number.encode(values)
    got = number.decode(features, np.zeros(30_000)).values
    want = values.different[values.codes]
    assert (np.abs(got - want) <= 1e-5 * want.max()).all() and (got == np.round(got, 4)).all()
    stored = np.isin(want, number.values)
    assert (got[stored] == want[stored]).all() and stored.mean() > 1 / 60
    ranks = np.sort(features.number.astype(float))
    assert np.abs(ranks - np.linspace(-1, 1, 30_000)).max() < 0.02


def test_a_category_without_missing_values_never_gives_one():
    found = modelled(["a", "b"] * 30)
    assert found.column.width == 2 and set(decoded(found, samples(found))) == {"a", "b"}


@pytest.mark.parametrize("values", [["a", "b", None], [*np.arange(200) / 7, None], [True, False, None]])
def test_missing_values_keep_their_rate(values):
    found = modelled(values * 30)
    assert decoded(found).isna().sum() == 30
    missing = encoded(found).choice == found.column.encoding.choices - 1
    assert missing.sum() == 30 and decoded(found, samples(found)).isna().any()


# ---------------------------------------------------------------- categories with many values


def wide(different: int = 10_000, count: int = 60_000) -> np.ndarray:
    rng = np.random.default_rng(0)
    shares = 1 / np.arange(1, different + 1)
    drawn = np.concatenate([np.arange(different), rng.choice(different, count - different, p=shares / shares.sum())])
    return np.array([f"v{i}" for i in drawn], object)


def test_of_a_wide_category_the_frequent_values_come_back_and_others_are_drawn_in_their_shares():
    values = wide()
    found = modelled(values)
    encoding = found.column.encoding
    assert isinstance(encoding, Category) and (encoding.kept, encoding.rare, encoding.choices) == (999, 9001, 1000)
    got, rare = decoded(found).to_numpy(), encoded(found).choice == 999
    assert (got[~rare] == values[~rare]).all()
    assert set(got[rare]) <= set(values[rare]) and len(set(got[rare])) > 5000
    most = pd.Series(values).value_counts()
    assert set(most.index[:600]) <= set(values[~rare]), "the most frequent are kept"
    want, have = (pd.Series(x[rare]).value_counts() for x in (values, got))
    halves = [counts.reindex(want.index[:3000], fill_value=0).sum() / rare.sum() for counts in (want, have)]
    assert abs(halves[0] - halves[1]) < 0.02


def test_the_share_of_a_rare_value_decides_how_often_it_is_drawn():
    category = Category("text", ["a", "x", "y"], [90, 1, 3], 0, rare=2)
    draws = (np.arange(1000) + 0.5) / 1000
    got = category.decode(Encoded(None, np.ones(1000, np.int64)), draws).values
    assert (got == "x").sum() == 250 and (got == "y").sum() == 750


def test_values_are_in_natural_order():
    assert modelled(["x10", "x9", "X1"] * 9).column.encoding.values == ["X1", "x9", "x10"]
    assert modelled([10, 9, -1] * 9).column.encoding.values == [-1, 9, 10]


# ---------------------------------------------------------------- the kind is inferred

TEXTS = [f"{i} words that nobody has written before, number {i * i}" for i in N]


@pytest.mark.parametrize(
    ("values", "kind", "how"),
    [
        (N / 7, "continuous", "number"),
        (N * 3, "integer", "number"),
        (N % 100, "integer", "category"),
        ((N % 90).astype(float), "integer", "category"),
        (N % 121, "integer", "number"),
        (N[:50] * 3, "integer", "number"),  # 50 categories of one row would be copies
        (N[:30] % 10, "integer", "category"),
        ((N % 3 == 0), "boolean", "category"),
        ([f"v{i % 50}" for i in N], "category", "category"),
        (pd.date_range("2020-01-01", periods=600), "date", "number"),
        ([f"2020-01-{i % 28 + 1:02}" for i in N], "date", "category"),
        ([f"{i}.{i % 10}" for i in N], "continuous", "number"),
        (["true", "False"] * 300, "boolean", "category"),
        ([f"{i % 7:05}" for i in N], "category", "category"),  # codes with leading zeros are no numbers
        (["A1", "B2"] * 300, "category", "category"),
        (["yes", "no", ""] * 200, "category", "category"),
        ([7] * 600, "constant", "constant"),
        ([None] * 600, "constant", "constant"),
        (["", "NA"] * 300, "constant", "constant"),
        ([7, None] * 300, "integer", "category"),
    ],
)
def test_the_kind_is_inferred(values, kind, how):
    column = modelled(values).column
    assert (column.kind, column.encoding.how) == (kind, how)


@pytest.mark.parametrize(
    ("values", "name", "kind"),
    [
        (N, "x", "identifier"),
        (N + 1, "x", "identifier"),
        (N * 7 + 1000, "customer_id", "identifier"),
        (N * 7 + 1000, "customerID", "identifier"),
        ([f"K-{i}" for i in N], "x", "identifier"),
        ([f"K-{max(i, 5)}" for i in N], "x", "identifier"),
        (TEXTS, "x", "text"),
        ([f"{i:08x}-{i:04x}-4562-b3fc-2c963f66afa6" for i in N], "x", "identifier"),
    ],
)
def test_what_cannot_be_learned_is_left_out_with_how_to_keep_it(values, name, kind):
    found = column_of(pd.Series(values), name, None, FILE)
    assert isinstance(found.column, LeftOut) and found.column.kind == kind and found.values is None
    option = found.column.reason.partition("--columns ")[2]
    kept = column_of(pd.Series(values), name, option.rpartition(":")[2], FILE)
    assert isinstance(kept.column, Column) and option.rpartition(":")[0] == name


@pytest.mark.parametrize(
    ("values", "name"),
    [
        (N * 7 + 1000, "price"),  # all different, but not counted
        (N + 1950, "x"),
        (N[:9], "x"),  # few rows differ by chance
        (N[N != 300], "x"),
        (np.append(N, 5), "id"),
        (N / 2, "id"),
        (N.astype(float), "id"),
        ([f"K-{i % 300}" for i in N], "x"),
        (TEXTS[:4] * 150, "x"),
    ],
)
def test_what_can_be_learned_is_modelled(values, name):
    assert isinstance(column_of(pd.Series(values), name, None, FILE).column, Column)


@pytest.mark.parametrize(
    ("values", "kind", "how", "dtype"),
    [
        (N % 5, "continuous", "number", "int64"),
        (N % 5, "category", "category", "int64"),
        (N, "integer", "number", "int64"),
        (N / 2, "category", "category", "float64"),
        (N % 2, "boolean", "category", "bool"),
        (["yes", "no"] * 300, "boolean", "category", "bool"),
        (["y", "N", ""] * 200, "boolean", "category", "boolean"),
        ([f"202001{i % 28 + 1:02}" for i in N], "date", "category", "datetime64[ns]"),
        ([f"{i}" for i in N], "category", "category", "int64"),
        ([f"{i},5" for i in N], "category", "category", "object"),
    ],
)
def test_a_kind_can_be_set(values, kind, how, dtype):
    found = modelled(values, kind)
    assert (found.column.kind, found.column.encoding.how, str(decoded(found).dtype)) == (kind, how, dtype)


@pytest.mark.parametrize(
    ("values", "kind", "says"),
    [
        (["a", "b"], "integer", "column 'x' is set to integer, but row 1 has 'a': choose one of continuous, "),
        ([1.0, 2.5, 2], "integer", "row 2 has '2.5'"),
        (["1", "2", "3 kg"], "continuous", "row 3 has '3 kg'"),
        ([0, 1, 2], "boolean", "is set to boolean, but row 1 has '0'"),
        (["2020-01-01", "soon"], "date", "row 2 has 'soon'"),
        ([1.5, 2.5], "date", "is set to date"),
        ([True, False], "continuous", "is set to continuous"),
    ],
)
def test_a_kind_that_does_not_fit_is_refused(values, kind, says):
    with pytest.raises(DataError, match="column 'x' is set to") as error:
        column_of(pd.Series(values), "x", kind, FILE)
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "values", [[[1], [2]], [(1, 2), (3, 4)], [b"a", b"b"], [1j, 2j], pd.to_timedelta([1, 2], unit="s"), [{1: 2}, {}]]
)
def test_values_that_cannot_be_modelled_are_refused(values):
    with pytest.raises(
        DataError, match=r"which cannot be modelled: convert it to numbers or text.*--columns 'a b:drop'"
    ):
        column_of(pd.Series(values), "a b")
    assert column_of(pd.Series(values), "a b", "drop").column == LeftOut("a b", "drop", "as asked")


# ---------------------------------------------------------------- the dtype of decoded values


@pytest.mark.parametrize(
    ("series", "dtype"),
    [
        (pd.Series([1, 2, 3] * 9, dtype="int8"), "int8"),
        (pd.Series([1, 2, None] * 9, dtype="UInt8"), "UInt8"),
        (pd.Series([1, 2, None] * 9), "float64"),
        (pd.Series([1, 2, None] * 9, dtype=object), "Int64"),
        (pd.Series(["1", "2", None] * 9), "Int64"),
        (pd.Series(["1", "2"] * 9), "int64"),
        (pd.Series(["1.5", None] * 9), "float64"),
        (pd.Series([True, None] * 9), "boolean"),
        (pd.Series([0.5, None] * 9, dtype="Float32"), "Float32"),
        (pd.Series([datetime.date(2020, 1, 1), datetime.date(2020, 1, 2)]), "datetime64[ns]"),
        (pd.Series([datetime.datetime(1, 1, 1), datetime.datetime(9999, 12, 31)]), "datetime64[us]"),
        (pd.Series(pd.date_range("2020", periods=3, tz="Asia/Tokyo")), "datetime64[ns, Asia/Tokyo]"),
        (pd.Series(["a", 1] * 9), "object"),
        (pd.Series([2**70, 2**70 + 1] * 9), "object"),
        (pd.Series([None] * 9, dtype="Int64"), "Int64"),
    ],
)
def test_decoded_values_have_the_dtype_of_the_column(series, dtype):
    got = decoded(modelled(series, texts=Texts()))
    assert str(got.dtype) == dtype
    convert = {"Int64": int, "int64": int, "float64": float, "object": str, "datetime64[ns]": pd.Timestamp}
    want = series.map(convert.get(dtype, lambda value: value), na_action="ignore")
    assert (got.isna() == want.isna()).all() and got.dropna().tolist() == want.dropna().tolist()


def test_a_categorical_keeps_its_categories_and_their_order():
    series = pd.Series(pd.Categorical(["low", "high", None] * 9, ["low", "middle", "high"], ordered=True))
    found = expect_inverse(series)
    assert found.column.width == 3, "a category without rows has no feature"
    assert decoded(modelled(pd.cut(pd.Series(N), 3))).tolist()[0] == "(-0.599, 199.667]"


# ---------------------------------------------------------------- numbers and dates as text


@pytest.mark.parametrize(
    ("texts", "comma", "values", "note"),
    [
        (["1", "-2", "+3"], False, [1, -2, 3], ""),
        (["1.5", ".5", "2.", "1e3", "-1E-2"], False, [1.5, 0.5, 2, 1000, -0.01], ""),
        (["inf", "-inf", "Infinity", "1"], False, [math.inf, -math.inf, math.inf, 1], ""),
        (["1,234", "12", "1,234,567.5"], False, [1234, 12, 1234567.5], "with separators of thousands"),
        (["1 234", "1'234"], False, [1234, 1234], "with separators of thousands"),
        (["1,5", "1.234,5", "2"], False, [1.5, 1234.5, 2], "with decimal commas"),
        (["1,234", "12"], True, [1.234, 12], "with decimal commas"),
        (["1.234", "12"], True, [1234, 12], "with separators of thousands"),
        (["1.5", "12"], True, [1.5, 12], ""),
        (["$5", "$1,234.50", "-$3"], False, [5, 1234.5, -3], "without the symbol $, with separators of thousands"),
        (["5 %", "7%"], False, [5, 7], "without the symbol %"),
        ([str(2**63), "0"], False, [2**63, 0], ""),
        (
            ["(5.5)", "7", "( 1,000 )"],
            False,
            [-5.5, 7, -1000],
            "with parentheses around negative numbers, with separators of thousands",
        ),
        (["($5)", "$7"], False, [-5, 7], "with parentheses around negative numbers, without the symbol $"),
        (["\u22125", "7"], False, [-5, 7], ""),
    ],
)
def test_numbers_are_read_from_texts(texts, comma, values, note):
    found = text.numbers(texts, comma)
    assert found is not None and found.values.tolist() == values and found.note == note
    assert (found.values.dtype.kind in "iu") == all(type(value) is int for value in values)


@pytest.mark.parametrize(
    "texts",
    [["01", "2"], ["1", "a"], ["1,2,3"], ["1,23", "1.5"], ["$5", "7"], ["1e400"], [str(2**64)], ["1-2"], ["12,34,567"],
     ["nan"], ["0x10"], ["1_000"], ["1\n2"], [], ["(1)", "(2)"], ["(a)", "1"], ["(-1)", "1"], ["()", "1"]],
)  # fmt: skip
def test_other_texts_are_no_numbers(texts):
    assert text.numbers(texts) is None


@pytest.mark.parametrize(
    ("texts", "first", "form"),
    [
        (["2020-01-31", "1999-12-01"], "2020-01-31", "%Y-%m-%d"),
        (["2020-01-31 10:20", "2020-01-31 10:21"], "2020-01-31T10:20", "%Y-%m-%d %H:%M"),
        (["2020-01-31T10:20:30.5", "2020-01-31"], "2020-01-31T10:20:30.5", None),
        (["2020-01-31T10:20:30+02:00"], "2020-01-31T08:20:30", None),
        (["2020-01-31T10:20:30Z"], "2020-01-31T10:20:30", "%Y-%m-%dT%H:%M:%SZ"),
        (["31.1.2020", "1.2.2020"], "2020-01-31", "%d.%m.%Y"),
        (["1/31/2020"], "2020-01-31", "%m/%d/%Y"),
        (["31/1/2020", "2/1/2020"], "2020-01-31", "%d/%m/%Y"),
        (["31-Jan-2020 11:05 PM"], "2020-01-31T23:05", "%d-%b-%Y %I:%M %p"),
    ],
)
def test_dates_are_read_from_texts(texts, first, form):
    found = text.dates(texts)
    assert found is not None and found.values[0] == np.datetime64(first) and found.format == form
    assert found.note == ("in UTC, converted from the offsets in the file" if "+02:00" in texts[0] else "")


def test_an_ambiguous_date_is_said():
    found = text.dates(["2/1/2020", "12/11/2020"])
    assert found is not None and found.values[0] == np.datetime64("2020-02-01") and "as month and day" in found.note


@pytest.mark.parametrize(
    "texts", [["2020-02-30"], ["2020-01-01", "x"], ["2020-01-01Z", "2020-01-01"], ["1/2"], ["20200131"]]
)
def test_other_texts_are_no_dates(texts):
    assert text.dates(texts) is None


def test_what_stands_for_a_missing_value_is_said():
    found = modelled(["NA", "?", "", "null", "7", "8"] * 30)
    assert decoded(found).isna().sum() == 120 and decoded(found).dropna().isin([7, 8]).all()
    assert found.notes == ("NA in 30 rows means missing", "? in 30 rows means missing", "null in 30 rows means missing")
    assert modelled(["NA", "x"] * 30, texts=Texts()).column.encoding.values == ["NA", "x"], "in a data frame, a value"
    assert modelled(["NA", "7"] * 30, texts=Texts()).column.encoding.missing == 30, "but not among numbers"


def test_a_few_words_among_numbers_are_missing_values():
    values = ["unknown", *map(str, N), "unknown", "n.a."]
    found = modelled(values)
    assert found.column.kind == "integer" and decoded(found)[1:-2].tolist() == N.tolist()
    assert decoded(found)[[0, len(N) + 1, len(N) + 2]].isna().all()
    assert found.notes[:2] == (
        "'unknown' in 2 rows counts as missing, because the rest are numbers",
        "'n.a.' in 1 row counts as missing, because the rest are numbers",
    )
    assert modelled(values, "category").column.encoding.missing == 0
    dates = modelled([*(f"2020-01-{i + 10}" for i in range(20)), "unknown"])
    assert dates.column.kind == "date" and "because the rest are dates" in dates.notes[0]
    assert modelled([*["1", "2"] * 30, "unknown"]).column.kind == "category", "few numbers are categories anyway"
    assert modelled([*map(str, N), *["a"] * 100]).column.kind == "category", "more than a few"


@pytest.mark.parametrize("word", ["-", "none", "NAN", "k.A.", "#DIV/0!"])
def test_words_that_often_stand_for_a_missing_number_do_so_in_any_share_of_the_rows(word):
    found = modelled([*map(str, N), *[word] * 500])
    assert found.column.kind == "integer" and decoded(found).isna().sum() == 500
    assert found.notes[0].startswith(f"{word!r} in 500 rows counts as missing, because")
    assert modelled(["yes", "no", word] * 30).column.encoding.missing == 0, "but not among other words"
    assert modelled(["1", "2", word] * 30).column.encoding.missing == 0, "nor among few numbers"


def test_a_column_with_a_few_values_is_no_identifier():
    found = modelled([None] * 500 + [f"note {i}" for i in range(9)])
    assert (found.column.encoding.choices, found.column.encoding.missing) == (10, 500)
    assert isinstance(column_of(pd.Series([None] * 500 + [f"note {i}" for i in range(10)]), "x").column, LeftOut)


@pytest.mark.parametrize(
    ("values", "dtype", "decimals"),
    [
        ([0.1, 0.25], "float64", 2),
        ([100.0, 3], "float64", 0),
        ([1 / 3], "float64", None),
        ([0.1], "float32", 1),
        ([1 / 3], "float32", None),
        ([1e300, 1], "float64", None),
        ([1e-20, 3e-20], "float64", 20),
        ([1e-23], "float64", None),
        ([123456789012.34], "float64", 2),
        ([12345678901234.56], "float64", None),  # 16 digits
        ([math.inf, 0.5], "float64", 1),
    ],
)
def test_decimals_are_the_fewest_that_represent_all_values(values, dtype, decimals):
    assert decimals_of(np.array(values, dtype).astype(float), np.dtype(dtype)) == decimals


def test_a_missing_value_has_no_value_of_its_own():
    got = Decoded(np.array([1, 2]), np.array([False, True]))
    series = Column(
        "x", "integer", modelled([1, None] * 9, dtype="Int64").column.encoding, {"dtype": "Int64"}
    ).to_series(got)
    assert series[0] == 1 and series[1] is pd.NA


def test_texts_with_zero_characters_are_different():
    expect_inverse(["a\0b", "a\0c", "a"] * 9, texts=Texts())
