"""Five tables as people have them, with mixed kinds, missing values and traps, are trained on or refused at once.

Each file is written here as another program would write it, trained on for a few steps from the shell, and sampled. The
tests look at what the user sees: the notes, the rows of the samples, and the sentence of a refusal.
"""

import csv
import datetime
import io
import zoneinfo

import numpy as np
import pytest

from minigan.cli import main
from minigan.report import tables as pictures

pd = pytest.importorskip("pandas", reason="pandas is not installed: pip install 'minigan[tables]'")

SMALL = [f"--network={name}=8" for name in ("g_width", "d_width", "noise_size")]
BACKEND = ["--backend", "numpy"]


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Other tests look at the pictures, which take most of the time."""
    monkeypatch.setattr(pictures, "view", lambda frame, scale=2: np.full((30 * scale, 40 * scale, 3), 200, np.uint8))


def train(path, *options: str) -> int:
    """Train for three steps, and return the exit code."""
    line = ["train", "--data", str(path), "--out", str(path.parent / "run"), "--steps", "3", "--batch", "30", *BACKEND]
    return main([*line, *SMALL, *options])


def sample(path, *options: str, **read) -> "pd.DataFrame":
    """Return 50 samples of the run, as another program reads them from a CSV file."""
    out = path.parent / "samples.csv"
    assert main(["sample", str(path.parent / "run"), "--count", "50", "--out", str(out), *BACKEND, *options]) == 0
    return pd.read_csv(out, keep_default_na=False, dtype=str, **read)


def evaluate(path) -> None:
    """Compare the samples with the data."""
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install 'minigan[tables]'")
    assert main(["evaluate", str(path.parent / "run"), "--count", "100", *BACKEND]) == 0


# ---------------------------------------------------------------- a clinic


@pytest.fixture
def clinic(tmp_path):
    """Excel in German: a byte order mark, semicolons, decimal commas, a currency, dates with points, line breaks.

    The numbers of the patients have leading zeros, one country is in all rows, some are not discharged, and "k.A."
    means that the weight is not known.
    """
    rng = np.random.default_rng(1)
    lines = ["Patient Nr;Aufnahme;Alter;Gewicht (kg);Raucher;Station;Befund;Land;Kosten;Entlassen"]
    for i in range(150):
        came = datetime.date(2021, 1, 1) + datetime.timedelta(days=int(rng.integers(700)))
        left = came + datetime.timedelta(days=int(rng.integers(1, 40)))
        weight = "k.A." if rng.random() < 0.2 else f"{rng.normal(75, 12):.1f}".replace(".", ",")
        smokes = rng.choice(["ja", "nein", ""], p=[0.3, 0.5, 0.2])
        ward = rng.choice(["Innere", "Chirurgie", "Gynäkologie"])
        found = rng.choice(['"o.B.; Kontrolle"', '"Fraktur\nlinks"', '"sog. ""Wanderniere"""'])
        cost = f"{int(rng.lognormal(7, 1)):,}".replace(",", ".") + ",50 €"
        gone = "" if rng.random() < 0.3 else f"{left:%d.%m.%Y}"
        lines.append(
            f"{i:06};{came:%d.%m.%Y};{rng.integers(99)};{weight};{smokes};{ward};{found};Schweiz;{cost};{gone}"
        )
    path = tmp_path / "clinic.csv"
    path.write_bytes(("\ufeff" + "\r\n".join(lines) + "\r\n").encode())
    return path


def test_a_table_of_a_clinic(clinic, capsys):
    assert train(clinic, "--label", "Station") == 0
    said = " ".join(capsys.readouterr().out.split())
    for line in (
        "150 rows of 10 columns",
        "Patient Nr: an identifier",
        "Land: always Schweiz",
        "3 classes",
        "'k.A.' in ",
        "without the symbol €, with decimal commas",
    ):
        assert line in said, line
    rows = sample(clinic, "--label", "Chirurgie", "--where", 'Befund=sog. "Wanderniere"')
    assert len(rows) == 50 and set(rows["Station"]) == {"Chirurgie"} and set(rows["Befund"]) == {'sog. "Wanderniere"'}
    rows = sample(clinic)
    assert set(rows["Befund"]) <= {"o.B.; Kontrolle", "Fraktur\nlinks", 'sog. "Wanderniere"'}
    assert set(rows["Land"]) == {"Schweiz"} and set(rows["Raucher"]) <= {"ja", "nein", ""}
    assert rows["Aufnahme"].str.fullmatch(r"\d\d\.\d\d\.202[12]").all(), "dates are written as in the file"
    assert (
        rows["Entlassen"].str.fullmatch(r"(\d\d\.\d\d\.202[123])?").all()
        and rows["Alter"].astype(int).between(0, 98).all()
    )
    assert rows["Kosten"].str.fullmatch(r"\d+\.\d").all() and rows["Gewicht (kg)"].str.fullmatch(r"(\d+\.\d)?").all()


# ---------------------------------------------------------------- a shop


@pytest.fixture
def shop(tmp_path):
    """An export of an accountant: amounts with $ and thousands, negative ones in parentheses, offsets from UTC.

    Two columns have the same name, each line ends with a comma, spaces are around some values, the clocks change in the
    middle, and two exports were joined.
    """
    rng, zone = np.random.default_rng(2), zoneinfo.ZoneInfo("Europe/Zurich")
    header, lines = "Order ID,Date,Amount,Amount,Discount,Balance,Region,Paid,Currency,", []
    for i in range(150):
        noon = datetime.datetime(2023, 10, 28, 12, tzinfo=datetime.UTC)
        moment = (noon + datetime.timedelta(minutes=int(rng.integers(2880)))).astimezone(zone).isoformat()
        balance = rng.normal(0, 500)
        balance = f"({-balance:.2f})" if balance < 0 else f"{balance:.2f}"
        region, paid = rng.choice(["North", " North", "South", ""]), rng.choice(["TRUE", "FALSE", ""])
        amount = f'"${rng.lognormal(7, 1):,.2f}",{rng.integers(1, 9)},{rng.integers(40)}%'
        lines.append(f"{1000 + i},{moment},{amount},{balance},{region},{paid},USD,")
    path = tmp_path / "shop.csv"
    path.write_text("\n".join([header, *lines[:75], "", header, *lines[75:]]))
    return path


def test_a_table_of_a_shop(shop, capsys):
    assert train(shop) == 0
    said = " ".join(capsys.readouterr().out.split())
    for line in (
        "150 rows of 10 columns",
        "column 4, again called 'Amount', is called 'Amount 2'",
        "rows that repeat the header were left out (1, the first in line 78)",
        "in UTC, converted from the offsets",
        "with parentheses around negative numbers",
        "Order ID: an identifier",
    ):
        assert line in said, line
    rows = sample(shop, "--where", "Region=North", "--where", "Paid=True")
    assert set(rows["Region"]) == {"North"} and set(rows["Paid"]) == {"True"}
    rows = sample(shop)
    assert set(rows["Region"]) <= {"North", "South", ""} and set(rows["Paid"]) <= {"True", "False", ""}
    assert (rows["Balance"].astype(float) < 0).any() and rows["Amount 2"].astype(int).between(1, 8).all()
    moments = pd.to_datetime(rows["Date"])
    assert str(moments.dt.tz) == "UTC" and moments.between("2023-10-28T12:00Z", "2023-10-30T12:00Z").all()
    evaluate(shop)


# ---------------------------------------------------------------- a logger


@pytest.fixture
def logger(tmp_path):
    """UTF-16 with tabs, after lines of comments: inf, NaN, a sentinel, two equal columns, a column without a name.

    One column has a value in one row only, and one number does not fit into 64 bits with a sign.
    """
    rng = np.random.default_rng(3)
    lines = ["# logger v2.1", "# units: K, Pa", "\ttime\ttemp\tpressure\tflow\tstatus\tserial\tcount\trare\ttemp again"]
    for i in range(200):
        temp = "nan" if rng.random() < 0.05 else f"{rng.normal(290, 3):.3f}"
        pressure = "-999" if rng.random() < 0.1 else f"{rng.lognormal(11.5, 0.01):.6e}"
        flow = rng.choice(["inf", "-inf", "0", "0", f"{rng.normal():.2e}", f"{rng.normal():.2e}"])
        moment = f"2024-02-29T23:{i // 60:02}:{i % 60:02}.{rng.integers(1000):03}Z"
        rest = f"{rng.integers(2)}\t{2**64 - 1}\t{rng.integers(3) * 10**12}\t{'x' if i == 7 else ''}\t{temp}"
        lines.append(f"{i}\t{moment}\t{temp}\t{pressure}\t{flow}\t{rest}")
    path = tmp_path / "logger.txt"
    path.write_bytes("\n".join(lines).encode("utf-16"))
    return path


def test_a_table_of_a_logger(logger, capsys):
    assert train(logger, "--label", "status") == 0
    said = " ".join(capsys.readouterr().out.split())
    for line in (
        "fields separated by tabs",
        "the encoding is UTF-16",
        "2 lines of comments",
        "unnamed 1: an identifier",
        "-999 with a feature of their own",
        "rare: category, 1 value, 199 missing",
        f"serial: always {2**64 - 1}",
    ):
        assert line in said, line
    rows = sample(logger)
    assert list(rows.columns)[:2] == ["time", "temp"] and set(rows["status"]) == {"0", "1"}
    assert set(rows["serial"]) == {str(2**64 - 1)} and set(rows["rare"]) <= {"", "x"}
    pressure, flow = rows["pressure"].astype(float), rows["flow"].astype(float)
    assert ((pressure == -999) | pressure.between(9e4, 1.1e5)).all() and flow.notna().all()
    assert set(rows["count"].astype(int)) <= {0, 10**12, 2 * 10**12}
    assert pd.to_datetime(rows["time"]).between("2024-02-29T23:00Z", "2024-02-29T23:04Z").all()
    evaluate(logger)


# ---------------------------------------------------------------- a survey


@pytest.fixture
def survey(tmp_path):
    """Answers with commas, quotes, line breaks and emoji; names of columns with every separator; a column "missing".

    Values begin with = or < and contain them, postal codes have leading zeros, and "None" is an answer.
    """
    rng, file = np.random.default_rng(4), io.StringIO()
    rows = csv.writer(file)
    names = [
        "zip",
        "Q1: how, now?",
        "a=b",
        "languages",
        "comment",
        "missing",
        "label",
        "agree",
        "born",
        "class",
        "wide",
    ]
    rows.writerow(["id", *names])
    for i in range(200):
        languages = ";".join(rng.choice(["de", "fr", "it"], rng.integers(3), replace=False))
        comment = f'I said "no",\nthen {"very " * rng.integers(9)}well {i}'
        row = [
            f"{rng.integers(40) * 7:05}",
            rng.choice(["good \U0001f642", "so, so", "None"]),
            rng.choice([1, 2, 3, ""]),
        ]
        row += [languages, comment, rng.choice(["missing", "there", ""]), rng.choice(["a=b", "<=50K", ">50K", "=1+2"])]
        row += [rng.choice(["yes", "no", "Yes"]), rng.choice(["1980", "1990-05"]), "A", f"street {rng.integers(90)}"]
        rows.writerow([f"r-{i}", *row])
    path = tmp_path / "survey.csv"
    path.write_bytes(file.getvalue().encode())
    return path


def test_a_table_of_a_survey(survey, capsys):
    assert train(survey, "--label", "label", "--columns", r"Q1\: how\, now?:category,a=b:category") == 0
    said = " ".join(capsys.readouterr().out.split())
    for line in (
        "4 classes",
        "column label: <=50K, =1+2, >50K, a=b",
        "id: an identifier",
        "comment: free text",
        "None in ",
        "keep it with --columns comment:category",
    ):
        assert line in said, line
    rows = sample(survey, "--where", "label=<=50K", "--where", "missing=missing")
    assert set(rows["label"]) == {"<=50K"} and set(rows["missing"]) == {"missing"}
    assert set(sample(survey, "--where", "missing=(missing)")["missing"]) == {""}, "where the answer is missing"
    rows = sample(survey)
    assert set(rows["label"]) == {"<=50K", "=1+2", ">50K", "a=b"} and set(rows["agree"]) <= {"yes", "no", "Yes"}
    assert rows["zip"].str.fullmatch(r"\d{5}").all() and set(rows["born"]) <= {"1980", "1990-05"}
    assert set(rows["Q1: how, now?"]) <= {"good \U0001f642", "so, so", ""} and set(rows["a=b"]) <= {"1", "2", "3", ""}
    line = ["sample", str(survey.parent / "run"), *BACKEND, "--where"]
    for where, says in (
        ("a=b=1", "there is no column 'a': "),
        ("label=>=50K", "did you mean >50K or <=50K?"),
        ("comment=x", "there is no column 'comment'"),
        ("class=A", "class is always A, not modelled"),
    ):
        assert main([*line, where]) == 2
        error = capsys.readouterr().err
        assert says in error and error.count("\n") == 1


# ---------------------------------------------------------------- a list that is broken


def test_a_table_with_broken_rows_is_refused_until_they_are_repaired(tmp_path, capsys):
    """Names with commas that are not quoted, a row without its end, a table without enough rows for a batch."""
    rng, path = np.random.default_rng(5), tmp_path / "list.csv"
    rows = [f"p{i % 7},{rng.normal(170, 9):.1f},{rng.choice(['Bern', 'Basel'])}" for i in range(60)]
    good, header = list(rows), "name,height,city"
    rows[19], rows[39] = "Smith, John,180.2,Bern", "p3,170"

    def refused(lines: list[str], *options: str) -> str:
        path.write_text("\n".join([header, *lines]) + "\n")
        assert train(path, *options) == 2 and not (tmp_path / "run").exists()
        error = capsys.readouterr().err
        assert error.startswith("minigan: ") and error.count("\n") == 1
        return error

    assert "expected 3 fields in each row, as in the first line, but line 21 has 4, line 41 has 2: " in refused(rows)
    assert "line 21 cannot be read as CSV: a quotation mark is not closed" in refused([*good[:19], '"p1,1,Bern', *good])
    assert "a step takes 30 rows and list has 20: choose a smaller --batch" in refused(good[:20])
    assert "it has one row" in refused(good[:1])
    assert "a header (name, height, city), but no rows" in refused([])
    assert "height: continuous" in refused(good, "--label", "height")
    assert "column 'height' is set to integer, but row 1 has" in refused(good, "--columns", "height:integer")
    assert "column 'city' is set to boolean, but row 1 has" in refused(good, "--columns", "city:boolean")
    rows[19], rows[39] = '"Smith, John",180.2,Bern', "p3,170,"
    path.write_text("\n".join([header, *rows]) + "\n")
    assert train(path, "--label", "city") == 0
    found = sample(path)
    assert set(found["city"]) <= {"Bern", "Basel", ""} and set(found["name"]) <= {f"p{i}" for i in range(7)} | {
        "Smith, John"
    }
