"""Series: files with traps are read or refused with what to do, and series come back from their features."""

import dataclasses
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigan
from minigan import backends, datasets, runs
from minigan.cli import main
from minigan.datasets import processes, sequences
from minigan.datasets.data import Divisible
from minigan.datasets.files import DataError
from minigan.datasets.held_out import hold_out
from minigan.datasets.sequence_codec import SequenceCodec
from minigan.datasets.sequences import SequenceOptions, Sequences
from minigan.errors import UserError
from minigan.training import Config

WALKS = np.cumsum(np.random.default_rng(0).standard_normal((30, 12, 2)), axis=1).astype(np.float32)


def convert(x, labels=None, **options) -> Sequences:
    return sequences.convert(x, labels, SequenceOptions(**options))


def load(content, tmp_path, name: str = "s.csv", **options) -> Sequences:
    """The series in a file with this text, array, or dictionary of arrays."""
    path = tmp_path / name
    if isinstance(content, str):
        path.write_text(content)
    elif isinstance(content, dict):
        np.savez(path, **content)
    else:
        np.save(path, content)
    return sequences.load(str(path), SequenceOptions(**options), 0)


def said(data: Sequences, topic: str = "note") -> str:
    return "; ".join(text for about, text in data.description() if about == topic)


def expect_back(data: Sequences, values, exact: bool = True) -> None:
    """Check that the series come back from their features, with a codec from a checkpoint."""
    codec = SequenceCodec(**json.loads(json.dumps(dataclasses.asdict(data.codec))))
    assert codec == data.codec and isinstance(data, Divisible)
    x = data.batch(np.arange(len(data)))
    assert x.dtype == np.float32 and x.shape == (len(data), *data.sample_shape) and np.isfinite(x).all()
    got = codec.decode(x)
    assert str(got.dtype) == codec.dtype
    if exact:
        np.testing.assert_array_equal(got, np.asarray(values, got.dtype))
    else:
        np.testing.assert_allclose(got, np.asarray(values), rtol=0, atol=1e-6 * np.nanmax(np.abs(values)))


# ---------------------------------------------------------------- arrays


@pytest.mark.parametrize(
    "x",
    [
        WALKS,
        WALKS.astype(np.float64),
        WALKS[..., 0],
        np.round(WALKS * 100).astype(np.int16),
        np.round(WALKS.astype(np.float64), 2),
        WALKS > 0,
        WALKS.astype(">f4"),
        1e9 + np.round(WALKS.astype(np.float64), 1),
        np.asfortranarray(WALKS),
    ],
    ids=["float32", "float64", "flat", "int16", "decimals", "bool", "big-endian", "offset", "fortran"],
)
def test_arrays_come_back(x):
    data = convert(x)
    exact = data.codec.parts[0].decimals is not None
    expect_back(data, x, exact)
    assert len(data) == 30 and data.codec.flat == (x.ndim == 2) and data.labels is None
    assert exact == (x.dtype.kind in "iub" or "offset" in said(data, "x") or np.array_equal(x, np.round(x, 2)))


def test_samples_beyond_the_data_are_clipped_to_its_grid():
    data = convert(np.round(WALKS.astype(np.float64), 1))
    decoded = data.codec.decode(3 * np.random.default_rng(0).standard_normal((5, 12, 2)).astype(np.float32))
    low, high = np.round(WALKS.astype(np.float64), 1).min(axis=(0, 1)), np.round(WALKS, 1).max(axis=(0, 1))
    assert (decoded >= low - 1e-9).all() and (decoded <= high + 1e-6).all() and decoded.min() == low.min()
    np.testing.assert_array_equal(decoded, np.round(decoded, 1))
    for wrong in (np.zeros((3, 12, 5)), np.zeros((3, 4)), np.full((2, 12, 2), np.nan)):
        with pytest.raises(DataError):
            data.codec.decode(wrong.astype(np.float32))


@given(
    count=st.integers(2, 6),
    steps=st.integers(2, 9),
    features=st.integers(1, 3),
    gaps=st.floats(0, 0.6),
    uneven=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_gaps_and_lengths_come_back(count, steps, features, gaps, uneven, seed):
    rng = np.random.default_rng(seed)
    x = np.round(rng.standard_normal((count, steps, features)), 2)
    x[rng.random(x.shape) < gaps] = np.nan
    x[:, :2, 0] = rng.integers(0, 2, (count, 2)) + np.array([0, 2])  # at least two steps, and not constant
    x[:, -1, 0] = 5
    if uneven:
        for n in range(1, count):
            x[n, rng.integers(2, steps + 1) :] = np.nan
    expect_back(convert(x, missing="keep", pad=True), np.where(_constant(x), _filled(x), x))


def _constant(x: np.ndarray) -> np.ndarray:
    """Whether each feature (F,) has at most one value, so that neither its values nor its gaps are modelled."""
    return np.array([len(np.unique(c[~np.isnan(c)])) <= 1 for c in x.reshape(-1, x.shape[2]).T])


def _filled(x: np.ndarray) -> np.ndarray:
    """Series with the only value of a feature, or 0, before their ends."""
    only = np.array([np.nanmin(c) if not np.isnan(c).all() else 0.0 for c in x.reshape(-1, x.shape[2]).T])
    lasts = np.cumsum(~np.isnan(x[:, ::-1]).all(axis=2), axis=1)[:, ::-1] > 0
    return np.where(lasts[..., None], only, np.nan)


def test_series_of_different_lengths_need_pad():
    ragged = [walk[: 4 + n % 9] for n, walk in enumerate(WALKS)]
    padded = np.full_like(WALKS, np.nan)
    for n, walk in enumerate(ragged):
        padded[n, : len(walk)] = walk
    for x in (ragged, padded, np.array([*ragged, None], dtype=object)[:-1]):
        with pytest.raises(DataError, match=r"different lengths, 4 to 12 steps: --pad pads them, .*--window N"):
            convert(x)
        data = convert(x, pad=True)
        assert data.sample_shape == (12, 3) and "4 to 12 steps" in said(data, "lengths")
        expect_back(data, padded, exact=False)
    x = data.batch(np.array([0]))
    assert (x[0, 4:, :2] == 0).all() and x[0, :, 2].tolist() == [1] * 4 + [-1] * 8


def test_a_sample_is_at_least_as_long_as_the_shortest_series():
    codec = convert([walk[: 4 + n % 9] for n, walk in enumerate(WALKS)], pad=True).codec
    x = np.zeros((3, 12, 3), np.float32)
    x[0, :, 2], x[1, :, 2], x[2, :, 2] = -1, 1, [1] * 6 + [-1] + [1] * 5
    assert codec.lengths(x).tolist() == [4, 12, 6]
    assert (~np.isnan(codec.decode(x)[..., 0])).sum(axis=1).tolist() == [4, 12, 6]


def test_missing_values_are_refused_interpolated_or_kept():
    x = WALKS.copy()
    x[3, 5:7, 1], x[4, 0, 0] = np.nan, np.nan
    with pytest.raises(
        DataError, match=r"3 of 720 values are missing, the first one in series 3, step 5, feature feature 2"
    ):
        convert(x)
    filled = convert(x, missing="fill")
    third = x[3, 4, 1] + (x[3, 7, 1] - x[3, 4, 1]) / 3
    assert filled.series(slice(3, 4))[0, 5, 1] == pytest.approx(third, rel=1e-5)
    assert filled.series(slice(4, 5))[0, 0, 0] == pytest.approx(x[4, 1, 0], rel=1e-5), "the nearest value"
    assert filled.sample_shape == (12, 2) and "was interpolated" in said(filled, "missing")
    kept = convert(x, missing="keep")
    assert kept.sample_shape == (12, 4)
    np.testing.assert_array_equal(np.isnan(kept.series()), np.isnan(x))


def test_a_long_series_is_cut_into_windows():
    x = np.arange(100.0)[:, None] * [1, -2]
    data = convert(x, window=10, stride=3)
    assert len(data) == 31 and data.sample_shape == (10, 2) and data.steps.shape == (100, 2)
    expect_back(data, np.stack([x[s : s + 10] for s in range(0, 91, 3)]))
    assert "31 of 10 steps, one every 3 steps, from one series of 100 steps" in said(data, "windows")
    flat = convert(np.arange(50.0), window=5)
    expect_back(flat, np.stack([np.arange(s, s + 5.0) for s in range(46)]))
    several = convert([np.arange(8.0), np.arange(3.0), np.arange(20.0, 26)], ["a", "b", "c"], window=4)
    assert several.owners.tolist() == [0] * 5 + [1] * 3 and [several.class_names[i] for i in several.labels] == [
        *"aaaaaccc"
    ]
    assert "left out: 1 series shorter than a window" in said(several)


@pytest.mark.parametrize("lengths", [[400], [20] * 40])
def test_held_out_windows_share_no_step_with_others(lengths):
    ends = np.cumsum(lengths)
    values = np.split(np.arange(float(sum(lengths))), ends[:-1])
    data = convert(values[0] if len(lengths) == 1 else np.stack(values)[..., None], window=8)
    divided = hold_out(data, 0.2, 0)
    held = divided.held_out
    ours, theirs = set(divided.series().ravel().tolist()), set(held.series().ravel().tolist())
    assert not ours & theirs and 0.1 < len(held) / len(data) < 0.3 and len(divided) > 0.6 * len(data)
    assert hold_out(data, 0.2, 0).fingerprint() == divided.fingerprint() != data.fingerprint()


def test_series_that_are_not_windows_are_held_out_at_random():
    divided = hold_out(convert(WALKS, np.arange(30) % 3), 0.2, 0)
    assert (len(divided), len(divided.held_out)) == (24, 6) and len(divided.held_out.labels) == 6


def test_constant_features_are_not_modelled_and_come_back():
    x = np.concatenate([WALKS, np.full((30, 12, 1), 7.5, np.float32)], axis=2)
    data = convert(x)
    assert data.sample_shape == (12, 2) and "feature 3: always 7.5, not modelled" in said(data, "constant")
    np.testing.assert_array_equal(data.series()[..., 2], 7.5)


def test_outliers_are_reported_and_scale_deviation_keeps_them():
    x = WALKS.astype(np.float64)
    x[0, 0, 0] = 1e4
    data = convert(x)
    assert "most values of feature 1 are close to each other" in said(data)
    other = convert(x, scale="deviation")
    assert other.batch(np.arange(30))[..., 1].std() == pytest.approx(1 / 3, rel=1e-4)
    expect_back(other, x, exact=False)


def test_labels_of_any_kind_are_classes(tmp_path):
    names = np.array(["up", "down"])[np.arange(30) % 2]
    data = convert(WALKS, names)
    assert data.class_names == ["down", "up"] and data.labels.tolist() == [1, 0] * 15
    found = load({"x": WALKS, "y": names}, tmp_path, "a.npz")
    assert found.fingerprint() == data.fingerprint() and "array 'y'" in said(found, "labels")
    found = load({"recordings": WALKS, "kind": np.arange(30)}, tmp_path, "b.npz", keys="recordings,kind")
    assert len(found.class_names) == 30
    with pytest.raises(DataError, match="expected 30 labels, one for each series, got 29"):
        convert(WALKS, names[:-1])
    with pytest.raises(DataError, match="expected a label for each series, got None"):
        convert(WALKS, [None, *names[1:]])


def test_lengths_of_an_archive_are_read(tmp_path):
    lengths = np.arange(30) % 5 + 8
    data = load({"x": WALKS, "lengths": lengths}, tmp_path, "a.npz", pad=True)
    assert data.codec.lengths(data.batch(np.arange(30))).tolist() == lengths.tolist()
    with pytest.raises(DataError, match="expected 30 whole numbers from 1 to 12, the length of each series"):
        load({"x": WALKS, "lengths": lengths + 9}, tmp_path, "a.npz", pad=True)


def test_the_fingerprint_is_of_values_and_labels():
    prints = [
        convert(x, labels, **options).fingerprint()
        for x, labels, options in [
            (WALKS, None, {}),
            (WALKS + np.float32(0.25), None, {}),
            (WALKS[::-1], None, {}),
            (WALKS, np.arange(30) % 2, {}),
            (WALKS[..., :1], None, {}),
            (WALKS, None, {"scale": "deviation"}),
        ]
    ]
    assert len({json.dumps(p) for p in prints}) == len(prints)


def test_a_batch_is_computed_on_the_backend(backend):
    data = convert(np.arange(60.0), window=7)
    index = np.array([5, 0, 5])
    x = data.to(backend).batch(backend.asarray(index))
    assert isinstance(x, backend.xp.ndarray)
    np.testing.assert_array_equal(backend.to_numpy(x), data.batch(index))


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("x", "options", "says"),
    [
        (WALKS[:, :1], {}, "a series has at least 2 steps, and series 0 has 1"),
        (WALKS[0], {"window": 13}, "a window of 13 steps is longer than the data, because the series has 12 steps"),
        (WALKS, {"window": 99}, "because the longest series has 12 steps"),
        (WALKS[:1], {}, "one series of 12 steps, and a GAN needs many: --window N cuts windows"),
        (np.arange(9.0), {}, "one series of 9 steps"),
        (np.ones((5, 4)), {}, "value is constant, so there is nothing to learn"),
        (np.ones((5, 4, 2)), {}, "feature 1, feature 2 are constant"),
        (np.full((5, 4), np.nan), {}, "every value is missing"),
        (
            np.where(np.arange(12) == 3, np.inf, WALKS[..., 0]),
            {},
            "expected finite numbers, got inf in series 0, step 3",
        ),
        (np.zeros((0, 5, 2)), {}, "at least one series with a value, got shape (0, 5, 2)"),
        (
            np.zeros((2, 3, 4, 5)),
            {},
            "expected numbers (N, T) or (N, T, F), series of T steps, got float64 (2, 3, 4, 5)",
        ),
        (np.array([["a", "b"], ["c", "d"]]), {}, "expected numbers (N, T) or (N, T, F)"),
        ([WALKS[0], WALKS[0, :5, :1]], {"pad": True}, "all have the same features, got some with 1 and some with 2"),
    ],
)
def test_arrays_that_cannot_be_used_are_refused(x, options, says):
    with pytest.raises(DataError) as error:
        convert(x, **options)
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"window": 1}, "--window is at least 2 steps"),
        ({"stride": 3}, "--stride 3 is the distance of windows: give --window N, too"),
        ({"window": 5, "pad": True}, "there is nothing to pad"),
        ({"missing": "drop"}, "unknown missing 'drop': choose "),
        ({"scale": "rank"}, "unknown scale 'rank'"),
    ],
)
def test_options_that_cannot_work_are_refused(options, says):
    with pytest.raises(UserError, match=says):
        SequenceOptions(**options)


def test_files_that_cannot_be_used_are_refused(tmp_path):
    ragged = np.empty(2, object)
    ragged[:] = [np.zeros(3), np.zeros(4)]
    np.save(tmp_path / "o.npy", ragged, allow_pickle=True)
    with pytest.raises(DataError, match=r"o\.npy: expected an array of numbers, got Python objects, .* add --pad"):
        sequences.load(str(tmp_path / "o.npy"), SequenceOptions(), 0)
    with pytest.raises(
        DataError, match=r"cannot tell which array has the series: it has a .*, b .*--keys SERIES,LABELS"
    ):
        load({"a": WALKS, "b": WALKS}, tmp_path, "two.npz")
    with pytest.raises(DataError, match="there is no array 'c'"):
        load({"a": WALKS}, tmp_path, "one.npz", keys="c")
    for name, says in (("none.npy", "there is no such file"), ("", "is not a path"), (".", "got a folder")):
        with pytest.raises(DataError, match=says):
            sequences.load(str(tmp_path / name) if name else "", SequenceOptions(), 0)
    (tmp_path / "cut.npy").write_bytes((lambda b: (np.save(b, WALKS), b.getvalue()[:-9])[1])(io.BytesIO()))
    with pytest.raises(DataError, match="truncated"):
        sequences.load(str(tmp_path / "cut.npy"), SequenceOptions(), 0)


# ---------------------------------------------------------------- tables


def long_form(count: int = 5, steps: int = 6, first: str = "series,time,x,y\n", order=None) -> str:
    rows = [f"s{n},{t},{n + t / 10:.1f},{(n * t) % 7}\n" for n in range(count) for t in range(steps)]
    return first + "".join(rows if order is None else [rows[i] for i in order])


@pytest.fixture
def pandas():
    return pytest.importorskip("pandas", reason="needs minigan[tables]")


EXPECTED = np.array([[[n + t / 10, (n * t) % 7] for t in range(6)] for n in range(5)])


def test_the_long_form_is_read(pandas, tmp_path):
    data = load(long_form(), tmp_path)
    expect_back(data, EXPECTED)
    assert data.codec.names == ["x", "y"] and data.codec.times == [0, 1, 2, 3, 4, 5]
    assert "5 series, 30 rows" in said(data, "read") and "a row for each step" in said(data, "read")
    by_name = load(long_form(first="who,when,x,y\n"), tmp_path, series="who", time="when")
    assert by_name.fingerprint() == data.fingerprint()
    some = load(long_form(), tmp_path, values="y")
    assert some.codec.names == ["y"] and some.sample_shape == (6, 1)


def test_rows_in_another_order_are_sorted_by_time(pandas, tmp_path):
    order = np.random.default_rng(0).permutation(30)
    data = load(long_form(order=order), tmp_path)
    assert "rows were not in the order of time, and were sorted" in said(data)
    where = {series: k for k, series in enumerate(dict.fromkeys(int(i) // 6 for i in order))}
    expect_back(data, EXPECTED[sorted(range(5), key=lambda n: where[n])])
    assert "sorted" not in said(load(long_form(), tmp_path))


def test_a_time_that_occurs_twice_is_refused(pandas, tmp_path):
    with pytest.raises(DataError, match=r"series s1 has the same time, column 'time', in the rows 8 and 31"):
        load(long_form() + "s1,1,9,9\n", tmp_path)
    with pytest.raises(
        DataError, match=r"there is the same time, .*name the column that tells series apart with --series"
    ):
        load(long_form(first="name,time,x,y\n"), tmp_path, window=3, values="x")


def test_missing_times_are_gaps_and_uneven_ones_are_reported(pandas, tmp_path):
    rows = long_form().splitlines(keepends=True)
    without = "".join(row for row in rows if not row.startswith("s2,3,"))
    with pytest.raises(DataError, match="2 of 60 values are missing, the first one in series s2, step 3"):
        load(without, tmp_path)
    data = load(without, tmp_path, missing="keep")
    assert "missing: 1 of the steps" in said(data) and data.sample_shape == (6, 4)
    np.testing.assert_array_equal(np.isnan(data.series())[2, :, 0], np.arange(6) == 3)
    uneven = "series,time,x\n" + "".join(f"{n},{t**1.5:.3f},{n + t}\n" for n in range(3) for t in range(4))
    assert "the time between steps, column time, differs, and is not modelled" in said(load(uneven, tmp_path))


def test_dates_are_times(pandas, tmp_path):
    days = ["2024-02-27", "2024-02-28", "2024-02-29", "2024-03-02"]
    text = "id,date,price\n" + "".join(f"{n},{day},{n * i}.5\n" for n in range(3) for i, day in enumerate(days))
    data = load(text, tmp_path, missing="fill")
    assert data.sample_shape == (5, 1) and "missing: 3 of the steps" in said(data)
    assert data.series()[2, :, 0].tolist() == [0.5, 2.5, 4.5, 5.5, 6.5]
    one = "date;value\n" + "".join(f"{i % 28 + 1:02d}.{i // 28 + 1:02d}.2023;{i},5\n" for i in range(28))
    assert len(load(one, tmp_path, window=7)) == 22, "decimal commas and German dates"


def test_the_wide_form_is_read(pandas, tmp_path):
    text = "id,0,1,2,3\n" + "".join(f"p{n},{n},{n + 1},{n * 2},{n - 1}\n" for n in range(6))
    data = load(text, tmp_path)
    expect_back(data, [[n, n + 1, n * 2, n - 1] for n in range(6)])
    assert data.codec.flat and data.codec.times == ["0", "1", "2", "3"] and data.codec.dtype == "int64"
    assert "column id names the series, and was left out" in said(data)
    labelled = text.replace("id,", "label,")
    assert "--label label makes it the class" in said(load(labelled, tmp_path))
    assert load(labelled, tmp_path, label="label").class_names == [f"p{n}" for n in range(6)]
    short = text.replace("p2,2,3,4,1", "p2,2,3,,")
    with pytest.raises(DataError, match="different lengths, 2 to 4 steps"):
        load(short, tmp_path)
    assert np.isnan(load(short, tmp_path, pad=True).series()[2]).tolist() == [False, False, True, True]


def test_labels_of_the_long_form_are_constant_in_a_series(pandas, tmp_path):
    text = "series,time,x,class\n" + "".join(f"{n},{t},{n * t},c{n % 2}\n" for n in range(6) for t in range(4))
    data = load(text, tmp_path, label="class")
    assert data.class_names == ["c0", "c1"] and data.labels.tolist() == [0, 1] * 3 and data.codec.names == ["x"]
    with pytest.raises(DataError, match="a series has one label, and series 3 has 'c1' and 'c0'"):
        load(text.replace("3,2,6,c1", "3,2,6,c0"), tmp_path, label="class")
    unseen = sequences.load(str(tmp_path / "s.csv"), SequenceOptions(label="class", values="x"), 0, labels=False)
    assert unseen.labels is None and said(unseen, "labels") == "not read"


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        (long_form().replace("s2,3,2.3", "s2,3,broken"), {}, "the column 'x' has text, such as 'broken' in row 16"),
        (
            long_form().replace("s2,3,2.3", "s2,3,inf"),
            {},
            "expected finite numbers, got inf in series s2, step 3, feature x",
        ),
        (
            long_form().replace("s2,3,2.3", "s2,3,"),
            {},
            "1 of 60 values are missing, the first one in series s2, step 3",
        ),
        (long_form().replace("s2,3,", ",3,"), {}, "row 16 does not say to which series it belongs"),
        (long_form().replace("s2,3,", "s2,,"), {}, "the time in row 16, column 'time', is missing"),
        (long_form().replace("s2,3,", "s2,noon,"), {}, "'noon' in row 16 is neither"),
        (long_form(order=range(29)), {}, "different lengths, 5 to 6 steps"),
        (long_form(first="name,step,x,y\n"), {}, "the rows do not say to which series they belong: name its column"),
        (long_form(), {"series": "sery"}, "there is no column 'sery': did you mean series?"),
        (long_form(), {"values": "z"}, "there is no column 'z'"),
        (long_form(first="series,time,x,x\n"), {"values": "x 3"}, "there is no column 'x 3'"),
        (
            "series,time,x\n" + "".join(f"{n},0,{n}\n" for n in range(5)),
            {},
            "a series has at least 2 steps, and series 0",
        ),
        ("series,time,x\n" + "".join(f"{n},{t},3\n" for n in range(5) for t in range(3)), {}, "x is constant"),
        ("time,x\n" + "".join(f"{t},{t % 5}\n" for t in range(9)), {"window": 12}, "a window of 12 steps is longer"),
        ("time,x\n" + "".join(f"{t},{t % 5}\n" for t in range(9)), {}, "or cut windows with --window N"),
        ("name,a\nx,1\ny,2\n", {}, "a row for each series needs a column for each of at least 2 steps"),
        (
            "a,name,b\n1,x,2\n2,y,3\n",
            {},
            "the column 'name' has text, such as 'x' in row 1, and values are numbers: repair it, or name it",
        ),
        ("series,time,x\n", {}, "but no rows"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(pandas, tmp_path, text, options, says):
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(DataError) as error:
        sequences.load(str(tmp_path / "s.csv"), SequenceOptions(**options), 0)
    assert says in str(error.value) and "\n" not in str(error.value) and "s.csv" in str(error.value)


def test_data_frames_are_series(pandas):
    frame = pandas.read_csv(io.StringIO(long_form()))
    expect_back(convert(frame), EXPECTED)
    with pytest.raises(DataError, match="the labels of a table are one of its columns"):
        convert(frame, np.arange(5))


def test_without_pandas_one_sentence_says_how_to_install_it(tmp_path, monkeypatch):
    import importlib

    def missing(name):
        raise ImportError(name)

    (tmp_path / "s.csv").write_text(long_form())
    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(DataError, match=r"needs? pandas, which is not installed: pip install 'minigan\[tables\]'"):
        sequences.load(str(tmp_path / "s.csv"), SequenceOptions(), 0)


@pytest.mark.parametrize("form", ["long", "wide", "array", "gaps"])
def test_samples_are_written_and_read_again(pandas, tmp_path, form):
    if form == "array":
        data = convert(WALKS)
    elif form == "gaps":
        x = np.round(WALKS.astype(np.float64), 2)
        x[2, 3, 0], x[4, 9:] = np.nan, np.nan
        data = convert(x, missing="keep", pad=True)
    else:
        text = long_form() if form == "long" else "0,1,2\n" + "".join(f"{n},{n / 4},{n * n}\n" for n in range(9))
        data = load(text, tmp_path)
    options = dict(missing="keep", pad=True) if form == "gaps" else {}
    series = data.series()
    data.codec.save(series, tmp_path / "x.csv")
    again = sequences.load(str(tmp_path / "x.csv"), SequenceOptions(**options), 0)
    np.testing.assert_allclose(again.series(), series, rtol=0, atol=1e-6 if form == "array" else 0)
    data.codec.save(series, tmp_path / "x.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), series)


# ---------------------------------------------------------------- built in


def test_the_sine_mixtures_are_those_of_the_published_code():
    x = processes.sines(2000, np.random.default_rng(0))
    assert x.shape == (2000, 24, 5) and x.min() >= 0.5 and x.max() <= 1
    angle = np.arcsin(2 * x[:, :2].astype(np.float64) - 1)  # below pi / 2 at the first two steps
    phase, frequency = angle[:, 0], angle[:, 1] - angle[:, 0]
    for found in (phase, frequency):
        assert found.mean() == pytest.approx(0.05, abs=0.003) and 0 <= found.min() + 1e-3 and found.max() < 0.101
    expected = (np.sin(frequency[:, None] * np.arange(24)[:, None] + phase[:, None]) + 1) / 2
    np.testing.assert_allclose(x, expected, atol=2e-5)


def test_the_autoregressive_process_has_the_spectrum_that_it_states():
    x = processes.autoregressive(20_000, np.random.default_rng(0)).astype(np.float64)
    gamma = processes.ar_covariance(6)
    for h in range(6):
        assert (x[:, h] * x[:, 0]).mean() == pytest.approx(gamma[h], abs=0.12)
    found = (np.abs(np.fft.rfft(x, axis=1)[:, 1:]) ** 2).mean(axis=0) / 64
    np.testing.assert_allclose(found, processes.ar_periodogram(64), rtol=0.04)
    k = np.arange(1, 2001)
    np.testing.assert_allclose(processes.ar_periodogram(4000), processes.ar_spectrum(k / 4000), rtol=0.01)
    # white noise has the spectrum 1, and an AR(1) with 0.5 the variance 1 / (1 - 0.25)
    np.testing.assert_allclose(processes.ar_periodogram(32, (0.0, 0.0)), 1)
    np.testing.assert_allclose(processes.ar_covariance(4, (0.5, 0.0)), [4 / 3, 2 / 3, 1 / 3, 1 / 6])


def test_synthetic_heartbeats_have_two_rhythms_and_enough_beats():
    x, rhythm, beats = processes.heartbeats(600, np.random.default_rng(0))
    assert x.shape == (600, 128) and beats * processes.BEAT_SERIES / 600 >= 5000
    assert np.array_equal(x, np.round(x, 3)) and set(rhythm.tolist()) == {0, 1}
    peaks = (x[:, 1:-1] > 0.4) & (x[:, 1:-1] >= x[:, :-2]) & (x[:, 1:-1] > x[:, 2:])
    variation = [np.std(np.diff(np.flatnonzero(p))) for p in peaks if p.sum() >= 3]
    kind = [r for p, r in zip(peaks, rhythm, strict=True) if p.sum() >= 3]
    steady, irregular = (np.mean([v for v, r in zip(variation, kind, strict=True) if r == k]) for k in (0, 1))
    assert steady < 2 < 4 < irregular, "in steps"
    data = sequences.load("heartbeats", SequenceOptions(), 0)
    assert (
        data.name == "synthetic heartbeats" and "synthetic" in said(data, "read") and data.codec.parts[0].decimals == 3
    )
    assert data.class_names == ["irregular", "steady"] and len(data.held_out) == 800


def test_the_seed_decides_what_is_drawn():
    prints = [sequences.load("sines", SequenceOptions(), seed).fingerprint() for seed in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]
    data = sequences.load("ar", SequenceOptions(), 0)
    assert not set(map(tuple, data.series()[:, :3].tolist())) & set(map(tuple, data.held_out.series()[:, :3].tolist()))
    assert data.held_out.codec == data.codec and len(data) == 10_000 and len(data.held_out) == 2000


@pytest.mark.slow
def test_digits_as_rows_are_the_digits():
    data = sequences.load("mnist-rows", SequenceOptions(), 0)
    mnist = datasets.mnist()
    index = np.arange(0, 60_000, 97)
    np.testing.assert_array_equal(data.series(index), mnist.images[index, ..., 0])
    want = datasets.scale(mnist.images[index, ..., 0])
    np.testing.assert_allclose(data.batch(index), want, rtol=0, atol=2**-23)  # the scales of series are float64
    assert data.labels.tolist() == mnist.labels.tolist() and len(data.held_out) == 2000


# ---------------------------------------------------------------- which kind an array is


@pytest.mark.parametrize(
    ("x", "kind"),
    [
        (WALKS, "sequences"),
        (np.zeros((9, 24)), "sequences"),
        (np.zeros(9), "sequences"),
        (np.zeros((9, 25)), "images"),
        (np.zeros((9, 8, 8)), "images"),
        (np.zeros((9, 8, 6), np.uint8), "images"),
        (np.zeros((9, 24), int), "images"),
        (np.zeros((9, 8, 6, 1)), "images"),
        ([np.zeros(3), np.zeros(4)], "sequences"),
        ([np.zeros((3, 2)), np.zeros((4, 2))], "sequences"),
        ([[1.0, 2.0], [1.0, 2.0, 3.0]], "sequences"),
    ],
)
def test_the_kind_of_an_array_follows_from_its_type_and_shape(x, kind, tmp_path):
    assert datasets.kind_of_array(x)[0] == kind
    if isinstance(x, np.ndarray):
        np.save(tmp_path / "x.npy", x)
        np.savez(tmp_path / "x.npz", x=x, labels=np.zeros(len(x)))
        for name in ("x.npy", "x.npz"):
            assert datasets.kind_of(str(tmp_path / name))[0] == kind
            assert Config.of(data=str(tmp_path / name)).preset == {"sequences": "waves", "images": "digits"}[kind]


def test_a_preset_or_a_kind_decides_before_the_shape(tmp_path):
    np.save(tmp_path / "x.npy", WALKS)
    np.save(tmp_path / "y.npy", np.zeros((9, 24), int))
    assert Config.of("small", data=str(tmp_path / "x.npy")).kind == "images"
    assert Config.of(kind="images", data=str(tmp_path / "x.npy")).preset == "digits"
    assert Config.of("waves", data=str(tmp_path / "y.npy")).kind == "sequences"
    assert Config.of("waves", data="people.csv").kind == "sequences" and Config.of(data="people.csv").kind == "tables"
    with pytest.raises(UserError, match="preset waves is for sequences, and mnist is a set of images"):
        Config.of("waves", data="mnist")
    with pytest.raises(UserError, match=r"data of the kind tables have no option window.*; --kind sequences has it"):
        Config.of(data="people.csv", data_options={"window": 5})


# ---------------------------------------------------------------- runs

QUICK = ["--backend", "numpy", "--batch", "8", "--quiet", "--network", "g_width=8", "--network", "d_width=4"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    x = np.concatenate([WALKS, WALKS[::-1]])
    np.savez(folder / "walks.npz", series=x, labels=np.array(["a", "b"])[np.arange(60) % 2])
    line = ["train", "--data", str(folder / "walks.npz"), "--steps", "4", "--hold-out", "0.4", *QUICK]
    assert main([*line, "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.mark.parametrize("name", ["x.npy", "x.csv", "x.png", "x.npz"])
def test_samples_of_a_run_are_written(run, tmp_path, name):
    path = tmp_path / name
    assert main(["sample", str(run), "--count", "6", "--out", str(path), "--backend", "numpy"]) == 0
    if name == "x.npy":
        x = np.load(path)
        assert x.shape == (6, 12, 2) and x.dtype == np.float32 and np.isfinite(x).all()
    elif name == "x.csv":
        lines = path.read_text().splitlines()
        assert lines[0] == "series,time,feature 1,feature 2" and len(lines) == 73
    elif name == "x.npz":
        found = np.load(path)
        assert found["series"].shape == (6, 12, 2) and found["labels"].tolist() == [*"ababab"]
    else:
        assert path.read_bytes().startswith(b"\x89PNG")


def test_a_run_is_evaluated_and_described(run, capsys):
    assert main(["evaluate", str(run), "--count", "100", "--backend", "numpy"]) == 0
    assert "difference of the autocorrelations" in capsys.readouterr().out
    report = json.loads((run / "evaluate.json").read_text())
    assert report["series"] == {"training": 36, "fakes": 100, "held_out": 24}
    assert (run / "evaluate.png").stat().st_size > 10_000
    assert main(["info", str(run)]) == 0
    text = capsys.readouterr().out
    assert "36 series of 12 x 2" in text and "2 classes: a, b" in text
    assert main(["evaluate", str(run), "--target", "x", "--backend", "numpy"]) == 2


def test_a_resumed_run_has_the_same_bits(tmp_path):
    np.save(tmp_path / "x.npy", np.cumsum(np.random.default_rng(1).standard_normal((90, 2)), axis=0))
    line = ["train", "--data", str(tmp_path / "x.npy"), "--kind", "sequences", "--window", "10", "--hold-out", "0.1"]
    line += ["--stride", "2", *QUICK]
    for name, steps in (("whole", "6"), ("run", "3")):
        assert main([*line, "--steps", steps, "--out", str(tmp_path / name)]) == 0
    assert runs.read_config(tmp_path / "run").data_options["window"] == 10
    assert main(["train", "--resume", "--steps", "6", "--quiet", "--out", str(tmp_path / "run")]) == 0
    a, b = (runs.resume(tmp_path / name).state()[0] for name in ("whole", "run"))
    assert all(np.array_equal(a[name], b[name]) for name in a)


def test_arrays_in_and_arrays_out():
    network = {"g_width": 8, "d_width": 4}
    gan = minigan.GAN(steps=3, batch=8, backend="numpy", verbose=0, network=network)
    gan.fit(WALKS.astype(np.float64), np.arange(30) % 3)
    assert gan.config_.kind == "sequences" and gan.config_.preset == "waves"
    x = gan.sample(7, seed=0, label=2)
    assert x.shape == (7, 12, 2) and x.dtype == np.float64
    assert gan.evaluate(100)["fakes"]["marginals"] > 0
    padded = minigan.GAN(steps=3, batch=8, backend="numpy", verbose=0, network=network, pad=True)
    lengths = (~np.isnan(padded.fit([w[: 4 + n % 9, 0] for n, w in enumerate(WALKS)]).sample(9))).sum(axis=1)
    assert lengths.min() >= 4 and lengths.max() <= 12
    long = minigan.GAN(steps=3, batch=8, backend="numpy", verbose=0, network=network, window=4, kind="sequences")
    assert long.fit(WALKS[0]).sample(2).shape == (2, 4, 2)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--window", "5"], "data of the kind images have no option window"),
        (["--data", "sines", "--preset", "digits"], "and sines is a set of series: leave --preset out"),
        (["--data", "sines", "--split", "test"], "data of the kind sequences have no option split"),
        (["--data", "sines", "--missing", "drop"], "unknown missing 'drop'"),
        (["--kind", "sequences", "--data", "x.npy"], "x.npy: there is no such file or folder"),
        (["--data", "sines", "--window", "25"], "a window of 25 steps is longer than the data"),
    ],
)
def test_a_command_that_cannot_work_gets_one_sentence(words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *words, "--backend", "numpy", "--out", "run"]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_the_options_are_in_the_help(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = capsys.readouterr().out
    for flag in ("--window", "--stride", "--pad", "--missing", "--scale", "--form", "--series", "--time", "--values"):
        assert flag in text
    assert text.count("--label COLUMN") == 2 and text.count("--keys") == 2, "in the usage and in the list, once each"


def test_the_networks_take_any_shape():
    for shape, classes in (((2, 1), 0), ((7, 3), 2), ((128, 1), 0)):
        G, D = minigan.models.build("waves", rng=np.random.default_rng(0), sample_shape=shape, classes=classes)
        labels = {"labels": np.zeros(4, int)} if classes else {}
        x, _ = G.forward(np.zeros((4, *G.noise_shape), np.float32), **labels)
        assert x.shape == (4, *shape) and D.forward(x, **labels)[0].shape == (4, 1)
    with pytest.raises(UserError, match="preset waves needs series of steps and features"):
        minigan.models.build("waves", rng=np.random.default_rng(0), sample_shape=(8, 8, 1))


def test_the_reference_backend_is_the_default():
    assert isinstance(convert(WALKS).batch(np.array([0])), backends.reference().xp.ndarray)
