"""Five files of series as people have them, with traps, are trained on or refused rightly at the first try.

Each file is written here as another program would write it. The tests look at what the user sees: the sentence of a
refusal, what was read, and the samples.
"""

import csv
import datetime

import numpy as np
import pytest

from minigan.cli import main
from minigan.report import sequences as pictures

SMALL = [f"--network={name}=8" for name in ("g_width", "d_width", "noise_size")]
BACKEND = ["--backend", "numpy"]


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Other tests look at the pictures, which take most of the time."""
    monkeypatch.setattr(pictures, "view", lambda x, codec, columns=10, scale=2: np.full((60, 80, 3), 200, np.uint8))


def train(path, *options: str) -> int:
    """Train for three steps, and return the exit code."""
    line = ["train", "--data", str(path), "--out", str(path.parent / "run"), "--steps", "3", "--batch", "8", *BACKEND]
    return main([*line, *SMALL, *options])


def refused(capsys, path, *options: str) -> str:
    """Return the one sentence with which the data are refused, before a run exists."""
    assert train(path, *options) == 2 and not (path.parent / "run").exists()
    error = capsys.readouterr().err
    assert error.startswith("minigan: ") and error.count("\n") == 1
    return error


def trained(capsys, path, *options: str) -> str:
    """Return what the training says it has read, on one line."""
    assert train(path, *options) == 0
    return " ".join(capsys.readouterr().out.split())


def sample(path, *options: str) -> list[dict[str, str]]:
    """Return the rows of 40 samples, as another program reads them from a CSV file."""
    out = path.parent / "samples.csv"
    assert main(["sample", str(path.parent / "run"), "--count", "40", "--out", str(out), *BACKEND, *options]) == 0
    with open(out, newline="") as file:
        return list(csv.DictReader(file))


# ---------------------------------------------------------------- a ward


@pytest.fixture
def ward(tmp_path):
    """Vital signs: a row for each measurement of each patient, in no order, with lengths from 5 to 12.

    Values are missing, "n/a" is one of their signs, one sensor has not moved, and the outcome is that of the patient.
    """
    pytest.importorskip("pandas", reason="pandas is not installed: pip install 'minigan[tables]'")
    rng, rows = np.random.default_rng(1), []
    for i in range(40):
        start = datetime.datetime(2024, 3, 1, 8) + datetime.timedelta(minutes=int(rng.integers(9999)))
        for t in range(5 + i % 8):
            when = start + datetime.timedelta(minutes=15 * t)
            pulse = "" if rng.random() < 0.1 else f"{rng.normal(75, 9):.0f}"
            oxygen = "n/a" if rng.random() < 0.05 else f"{rng.normal(97, 1):.1f}"
            rows.append(f"P{i:03},{when:%Y-%m-%d %H:%M},{pulse},{oxygen},37.0,{'home' if i % 3 else 'died'}")
    path = tmp_path / "ward.csv"
    header = "patient,measured at,pulse,SpO2 (%),sensor,outcome"
    path.write_text("\n".join([header, *(rows[i] for i in rng.permutation(len(rows)))]) + "\n")
    return path


def test_measurements_of_a_ward(ward, capsys):
    kind = ["--kind", "sequences"]
    says = refused(capsys, ward, *kind)
    assert "the rows do not say to which series they belong: name its column with --series (patient, " in says
    kind += ["--series", "patient", "--label", "outcome"]
    assert "different lengths, 5 to 12 steps: --pad pads them" in refused(capsys, ward, *kind)
    assert "values are missing, the first one in series P0" in refused(capsys, ward, *kind, "--pad")
    changing = [*kind[:-1], "pulse", "--values", "SpO2 (%)", "--pad"]
    assert "a series has one label, and series P0" in refused(capsys, ward, *changing)
    said = trained(capsys, ward, *kind, "--pad", "--missing", "keep")
    for line in (
        "40 series of 12 x 5",
        "column outcome: died, home",
        "5 to 12 steps; shorter series are padded",
        "is a gap, which samples have too",
        "sensor: always 37, not modelled",
        "not in the order of measured at, and were sorted",
    ):
        assert line in said, line
    rows = sample(ward, "--label", "died")
    lengths = np.unique([row["series"] for row in rows], return_counts=True)[1]
    assert len(lengths) == 40 and lengths.min() >= 5 and lengths.max() <= 12
    assert {row["sensor"] for row in rows} == {"37.0"} and any(row["pulse"] == "" for row in rows)
    assert all(row["pulse"] == "" or float(row["pulse"]).is_integer() for row in rows)


# ---------------------------------------------------------------- a station


def station(tmp_path, changed: bool):
    """One series of a year in German: a byte order mark, semicolons, decimal commas, four hours without a row.

    If `changed`, an hour occurs twice, because the clocks were set back.
    """
    rng, lines = np.random.default_rng(2), ["Zeit;Temperatur;Druck;Fehler"]
    for hour in range(300):
        if not 100 <= hour < 104:
            when = datetime.datetime(2023, 10, 28) + datetime.timedelta(hours=hour - (changed and hour >= 27))
            warm = f"{10 + 5 * np.sin(hour / 4) + rng.normal():.1f};{rng.normal(1013, 1):.1f}".replace(".", ",")
            lines.append(f"{when:%d.%m.%Y %H:%M};{warm};0")
    path = tmp_path / "station.csv"
    path.write_bytes(("\ufeff" + "\r\n".join(lines) + "\r\n").encode())
    return path


def test_measurements_of_a_station(tmp_path, capsys):
    pytest.importorskip("pandas", reason="pandas is not installed: pip install 'minigan[tables]'")
    kind = ["--kind", "sequences"]
    assert "or cut windows with --window N" in refused(capsys, station(tmp_path, False), *kind)
    kind += ["--window", "24", "--stride", "3"]
    says = refused(capsys, station(tmp_path, True), *kind)
    assert "there is the same time, column 'Zeit', in the rows 27 and 28: " in says
    path = station(tmp_path, False)
    assert "12 of 900 values are missing, the first one in series 0, step 100" in refused(capsys, path, *kind)
    assert "a window of 2,400 steps is longer than the data" in refused(capsys, path, *kind[:2], "--window", "2400")
    said = trained(capsys, path, *kind, "--missing", "fill", "--hold-out", "0.1")
    for line in (
        "of 24 steps, one every 3 steps, from one series of 300 steps",
        "with decimal commas",
        "missing: 4 of the steps, because the column Zeit leaves their times out",
        "Fehler: always 0, not modelled",
        "Temperatur: 3.",
        "with 1 decimal",
    ):
        assert line in said, line
    rows = sample(path)
    assert len(rows) == 40 * 24 and {row["Fehler"] for row in rows} == {"0.0"}
    assert all(len(row["Druck"].split(".")[1]) == 1 and 1000 < float(row["Druck"]) < 1030 for row in rows)


# ---------------------------------------------------------------- shares


@pytest.fixture
def shares(tmp_path):
    """Prices in the wide form: a row for each share, dates as names of columns, and shares that end before others."""
    pytest.importorskip("pandas", reason="pandas is not installed: pip install 'minigan[tables]'")
    rng = np.random.default_rng(3)
    lines = ["ticker,sector," + ",".join(f"2024-01-{day:02}" for day in range(1, 21))]
    for i in range(40):
        prices = np.exp(4 + np.cumsum(rng.normal(0, 0.02, 20 if i % 2 else 8 + i % 12)))
        cells = [f"{price:.2f}" for price in prices] + [""] * (20 - len(prices))
        lines.append(",".join([f"T{i}", ("tech", "oil")[i % 2], *cells]))
    path = tmp_path / "shares.csv"
    path.write_text("\n".join(lines))
    return path


def test_prices_of_shares(shares, capsys):
    kind = ["--kind", "sequences"]
    says = refused(capsys, shares, *kind)
    assert "the column 'sector' has text, such as 'tech' in row 1, and values are numbers" in says and "--label" in says
    assert "different lengths, 8 to 20 steps" in refused(capsys, shares, *kind, "--label", "sector")
    said = trained(capsys, shares, *kind, "--label", "sector", "--pad")
    for line in ("40 series of 20 x 2", "column ticker names the series", "read as wide: a row for each series"):
        assert line in said, line
    rows = sample(shares)
    assert len(rows) == 40 and list(rows[0])[::19] == ["2024-01-01", "2024-01-20"]
    for row in rows:
        filled = [cell != "" for cell in row.values()]
        assert filled == sorted(filled, reverse=True) and sum(filled) >= 8, "nothing follows the end of a series"
    shares.write_text(shares.read_text().replace("T3,oil,", "T3,oil,about ", 1))
    (shares.parent / "run").rename(shares.parent / "first")
    says = refused(capsys, shares, *kind, "--label", "sector", "--pad")
    assert "the column '2024-01-01' has text, such as 'about " in says and "in row 4" in says


# ---------------------------------------------------------------- walks


def test_walks_of_other_python_programs(tmp_path, capsys):
    """Series of different lengths as people save them: as objects, and padded with zeros next to their lengths."""
    rng, path = np.random.default_rng(4), tmp_path / "walks.npz"
    x, lengths = np.cumsum(rng.standard_normal((40, 15, 2)), axis=1).astype(np.float32), 4 + np.arange(40) % 12
    ragged = np.empty(40, object)
    for i, length in enumerate(lengths):
        x[i, length:], ragged[i] = 0, x[i, :length]
    np.save(tmp_path / "ragged.npy", ragged, allow_pickle=True)
    says = refused(capsys, tmp_path / "ragged.npy", "--kind", "sequences")
    assert "got Python objects, which are never unpickled: save series of different lengths as one array" in says
    rest = {"lengths": lengths, "y": np.array(["up", "down"])[np.arange(40) % 2], "fs": 50.0}
    broken = x.copy()
    broken[7, 2, 1] = np.inf
    for wrong, part in (
        (dict(x=broken, **rest), "got inf in series 7, step 2, feature feature 2"),
        (dict(x=x, **rest), "different lengths, 4 to 15 steps: --pad"),
        (dict(x=x, **rest | {"lengths": lengths[:-1]}), "39"),
        (dict(x=x, **rest | {"lengths": lengths * 2}), "30"),
        (dict(x=x[:, :1]), "a series has at least 2 steps, and series 0 has 1"),
    ):
        np.savez(path, **wrong)
        assert part in refused(capsys, path, "--kind", "sequences"), part
    np.savez(path, x=x, **rest)
    said = trained(capsys, path, "--pad")
    assert "40 series of 15 x 3" in said and "array 'y': down, up" in said
    rows = sample(path, "--label", "up")
    assert {int(row["time"]) for row in rows} <= set(range(15)) and set(rows[0]) == {
        "series",
        "time",
        "feature 1",
        "feature 2",
    }


# ---------------------------------------------------------------- motion


def test_motion_of_a_sensor(tmp_path, capsys):
    """Whole numbers (40, 12, 12), which could be pictures. An axis is broken, and one has a far outlier."""
    rng, path = np.random.default_rng(5), tmp_path / "motion.npy"
    x = np.cumsum(rng.integers(-50, 51, (40, 12, 12)), axis=1).astype(np.int16)
    x[..., 3], x[7, 5, 0] = 0, 30_000
    np.save(path, x)
    assert "expected pixels from 0 to 255" in refused(capsys, path), "it is taken for pictures, and not trained on"
    said = trained(capsys, path, "--kind", "sequences")
    for line in (
        "40 series of 12 x 11",
        "feature 4: always 0, not modelled",
        "feature 1: ",
        "to 30000, whole numbers",
        "most values of feature 1 are close to each other, because a few are far away: --scale deviation may help",
    ):
        assert line in said, line
    rows = sample(path)
    assert all(row["feature 4"] == "0" and row["feature 2"].lstrip("-").isdigit() for row in rows)
    (tmp_path / "run").rename(tmp_path / "first")
    for preset in ("waves-gru", "waves-conv"):
        assert train(path, "--preset", preset, "--penalty", "r1") == (2 if preset == "waves-gru" else 0)
    assert "choose the penalty r1-fd" in capsys.readouterr().err
    np.save(path, np.zeros((40, 12, 12)))
    (tmp_path / "run").rename(tmp_path / "second")
    assert "are constant, so there is nothing to learn" in refused(capsys, path, "--kind", "sequences")
