"""Test the pictures of tables: what is drawn where, and names and values of any kind."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minigan.report import plots, tables

pd = pytest.importorskip("pandas", reason="tables need pandas: pip install 'minigan[tables]'")


def rows(count: int, seed: int = 0):
    """Return rows with names and values that are difficult to draw."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "price $ in $": np.round(rng.lognormal(3, 2, count), 2),
            "when": pd.Timestamp("2019-01-01") + pd.to_timedelta(rng.integers(0, 900, count), unit="D"),
            "名前": rng.choice(["東京", "$x^2$ and a\nsecond line", "b"], count),
            "flag": pd.array(rng.random(count) < 0.3, dtype="boolean"),
            "count": pd.array(rng.poisson(2, count), dtype="Int64"),
            "zeros": np.where(rng.random(count) < 0.95, 0, rng.exponential(100, count)),
            "constant": 7.0,
            "gone": np.nan,
            "huge": rng.choice([1e-300, 1e300, -1e300, np.inf], count),
            3: rng.normal(size=count),
        }
    )
    frame.loc[rng.random(count) < 0.2, ["when", "flag", "count", "名前"]] = pd.NA
    return frame


KINDS = {name: tables.kind_of(column) for name, column in rows(5).items()}


def report(kinds, shape=0.9, detector=0.1):
    """Return what a report has about the columns, without computing it."""
    names, K = list(map(str, kinds)), len(kinds)
    matrix = np.where(np.eye(K) == 1, 1, 0.5).tolist()
    if K > 1:
        matrix[0][1] = matrix[1][0] = None  # a pair that is not defined
    return {
        "columns": {name: {"shape": shape, "missing": None, "detector": detector} for name in names},
        "pairs": {"names": names, "similarity": matrix, "real": matrix, "fakes": matrix},
        "fakes": {"detector": 0.75},
    }


def colours(picture, name):
    """Return where a picture (H, W, 3) has the colour of the real rows or of the fakes, also if it is light."""
    difference = picture[..., 0].astype(int) - picture[..., 2]
    return difference < -40 if name == "real" else difference > 80


@pytest.mark.parametrize(("count", "scale", "shape"), [(0, 2, (720, 960)), (1, 2, (720, 960)), (400, 3, (1080, 1440))])
def test_samples_of_any_number_are_drawn(count, scale, shape):
    picture = plots.VIEWS["table"](rows(count), None, 10, scale)
    assert picture.shape == (*shape, 3) and picture.dtype == np.uint8
    drawn = colours(picture, "fakes").sum()
    assert drawn > 10_000 if count else drawn == 0


def test_samples_of_one_column_or_of_many_are_drawn():
    wide = pd.DataFrame({f"a long name of column {i}": np.arange(30) for i in range(50)})
    assert tables.view(wide).shape == tables.view(wide.iloc[:, :1]).shape == (720, 960, 3)


def test_the_view_shows_the_shares_of_values():
    """Of two categories, the bar of the more frequent one is longer by their ratio."""
    picture = tables.view(pd.DataFrame({"c": ["a"] * 75 + ["b"] * 25}))
    lengths = colours(picture, "fakes").sum(axis=1)  # of each line of pixels, some of which have letters
    longest = lengths.max()
    assert longest == pytest.approx(3 * lengths[lengths < longest / 2].max(), rel=0.05)


def test_a_run_can_save_its_view(tmp_path):
    class Codec:
        view = "table"

    plots.save_samples(tmp_path / "a.png", rows(60), Codec)
    plots.save_samples(tmp_path / "b.png", rows(60, seed=1), Codec)
    plots.save_animation(tmp_path / "c.gif", [tmp_path / "a.png", tmp_path / "b.png"])
    with Image.open(tmp_path / "c.gif") as animation:
        assert animation.n_frames == 2 and animation.size == (480, 360)


def test_kinds_follow_from_types():
    kinds = {"price $ in $": "continuous", "when": "date", "名前": "category", "flag": "category", "count": "integer"}
    assert kinds.items() <= KINDS.items()
    assert tables.kind_of(pd.Series([True, False])) == tables.kind_of(pd.Series([1, 2], dtype="category")) == "category"


def draw(path: Path, real, fakes, kinds, figures):
    tables.save_evaluation(path, real, fakes, kinds, figures)
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.mark.parametrize("columns", [1, 10])
def test_an_evaluation_has_a_panel_for_each_column(columns, tmp_path):
    kinds = dict(list(KINDS.items())[:columns])
    picture = draw(tmp_path / "e.png", rows(200), rows(150, seed=1), kinds, report(kinds))
    assert picture.shape == (490 + 230 * -(-columns // 4), 1400, 3)
    above = picture[: picture.shape[0] - 440]
    assert colours(above, "real").sum() > 2000 * min(columns, 5) and colours(above, "fakes").sum() > 300


def test_of_many_columns_the_worst_are_drawn(tmp_path, monkeypatch):
    kinds = {f"column {i}": "integer" for i in range(16)}
    frame = pd.DataFrame({name: np.arange(50) for name in kinds})
    figures = report(kinds)
    for i in (3, 14):
        figures["columns"][f"column {i}"]["shape"] = 0.2
    figures["columns"]["column 15"]["shape"] = None  # not defined
    drawn = []
    original = tables.draw_column
    monkeypatch.setattr(
        tables,
        "draw_column",
        lambda axis, columns, kind: drawn.append(columns[0].name) or original(axis, columns, kind),
    )
    draw(tmp_path / "e.png", frame, frame, kinds, figures)
    assert len(drawn) == tables.MARGINALS and {"column 3", "column 14", "column 15"} < set(drawn)
    assert drawn == sorted(drawn, key=lambda name: int(name.split()[1]))


def test_without_a_detector_its_panel_is_empty(tmp_path):
    kinds = {"count": "integer", "flag": "category"}
    found = [
        draw(tmp_path / "e.png", rows(9), rows(9), kinds, report(kinds, shape=None, detector=loss))[-430:, 1050:]
        for loss in (0.1, None)
    ]
    assert colours(found[0], "fakes").sum() > 1000 and colours(found[1], "fakes").sum() == 0


def drawn_heights(values: list, kind: str) -> list:
    """Return the shares in a panel, real rows first: the data of its histograms or of its bars."""
    from matplotlib.figure import Figure

    axis = Figure().subplots()
    tables.draw_column(axis, [pd.Series(x) for x in values], kind)
    if kind == "category":
        lengths = [bar.get_width() for bar in axis.patches], [line.get_xdata()[0] for line in axis.lines]
        return [[label.get_text() for label in axis.get_yticklabels()], *map(list, lengths)]
    return [patch.get_data().values for patch in axis.patches]


def test_bars_are_shares_with_others_and_missing_values():
    labels, real, fakes = drawn_heights([["a", "a", "b", None], ["b", "c", "c", "c"]], "category")
    assert labels == ["a", "b", "c", "missing"]
    assert real == [0.5, 0.25, 0, 0.25] and fakes == [0, 0.25, 0.75, 0]
    many = [f"value {i:03}" for i in range(100)]
    labels, real, fakes = drawn_heights([[*many, "value 007"], many[:50]], "category")
    assert len(labels) == tables.VALUES + 1 and labels[0] == "value 007" and labels[-1] == "92 others"
    assert sum(real) == pytest.approx(1) and sum(fakes) == pytest.approx(1)


def test_histograms_are_shares_and_their_outer_bins_contain_the_rest():
    real, fakes = drawn_heights([np.arange(1000.0), [-1e9, 500.0, 1e9, np.inf, np.nan]], "continuous")
    assert real.sum() == pytest.approx(1) and len(real) == tables.BINS
    assert fakes[0] == fakes[-1] == fakes[len(fakes) // 2] == pytest.approx(0.2)  # of five rows
    real, _ = drawn_heights([[1, 1, 2, 4], [1]], "integer")
    np.testing.assert_allclose(real, [0.5, 0.25, 0, 0.25])


@pytest.mark.parametrize("days", [1, 300, 3000, 3_600_000])
def test_dates_of_any_range_have_ticks(days):
    from matplotlib.figure import Figure

    axis = Figure().subplots()
    first = np.datetime64("0001-01-01" if days > 1e6 else "2020-03-01", "s")
    tables.draw_column(axis, [pd.Series(first + np.linspace(0, days * 86_400, 50).astype("timedelta64[s]"))], "date")
    axis.figure.canvas.draw()
    texts = [label.get_text() for label in axis.get_xticklabels()]
    assert len(texts) >= 2 and len(set(texts)) == len(texts), texts


def test_rows_as_text_are_aligned_and_fit():
    frame = pd.DataFrame({"name": ["a", None], "x": [0.1 + 0.2, 1e-9], "when": pd.to_datetime(["2020-01-01", None])})
    assert tables.rows_as_text(frame).splitlines() == [
        "name      x        when",
        "   a    0.3  2020-01-01",
        "      1e-09            ",
    ]
    wide = pd.DataFrame({f"a long name of column {i}": ["a long text\nof two lines"] for i in range(50)})
    lines = tables.rows_as_text(wide).splitlines()
    assert len(lines) == 2 and len(set(map(len, lines))) == 1 and 130 < len(lines[0]) <= 148
    assert tables.spread(list(range(20)), 4) == [0, 6, 12, 19]
