"""Tables: files with traps are read or refused with what to do, and rows come back from their features."""

import bz2
import dataclasses
import gzip
import hashlib
import io
import json
import lzma
import sys
import zipfile

import numpy as np
import pytest

from minigan import backends
from minigan.datasets import held_out, tables
from minigan.datasets.data import Codec, Divisible
from minigan.datasets.files import DataError
from minigan.datasets.table_files import is_table
from minigan.datasets.tables import Table, TableCodec, TableOptions

pd = pytest.importorskip("pandas", reason="needs minigan[tables]")


def load(content: str | bytes, tmp_path, name: str = "people.csv", **options) -> Table:
    """The table in a file with this content."""
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return tables.load(str(path), TableOptions(**options), 0)


def lines(count: int, *columns) -> str:
    """CSV rows, given a function of the number of the row for each column."""
    return "".join(",".join(str(column(i)) for column in columns) + "\n" for i in range(count))


def described(table: Table, topic: str) -> list[str]:
    return [text for about, text in table.description() if about == topic]


def expect_exact(table: Table):
    """Check that the rows come back from their features, with a codec from a checkpoint, and return them."""
    codec = TableCodec(**json.loads(json.dumps(dataclasses.asdict(table.codec))))
    assert codec == table.codec
    index = np.random.default_rng(0).permutation(len(table))
    x = table.batch(index)
    assert x.dtype == np.float32 and x.shape == (len(table), *table.sample_shape) and np.abs(x).max() <= 1
    inside = np.zeros(x.shape[1], bool)
    for start, stop in codec.groups:
        assert stop - start >= 2 and not inside[start:stop].any()
        assert (np.sort(x[:, start:stop], axis=1)[:, :-1] == 0).all() and (x[:, start:stop].max(axis=1) == 1).all()
        inside[start:stop] = True
    assert codec.numbers == np.flatnonzero(~inside).tolist() and list(codec.groups) == sorted(codec.groups)
    got = codec.decode(x)
    pd.testing.assert_frame_equal(got, table.frame.iloc[index].reset_index(drop=True), check_exact=True)
    return table.frame


def frame(count: int = 300, seed: int = 0):
    """A data frame with every kind of column, and with missing values."""
    rng = np.random.default_rng(seed)
    city = rng.choice(["Bern", "Oslo", "Rome"], count, p=[0.6, 0.3, 0.1])
    income = np.where(rng.random(count) < 0.4, 0, np.round(rng.lognormal(7, 1, count), 2))
    found = pd.DataFrame(
        {
            "age": rng.integers(18, 80, count),
            "income": income,
            "height": rng.normal(170, 10, count),
            "city": city,
            "member": rng.random(count) < 0.5,
            "since": pd.Timestamp("2015-01-01") + pd.to_timedelta(rng.integers(0, 3000, count), unit="D"),
            "country": "X",
            "children": pd.array(rng.integers(0, 5, count), dtype="Int64"),
        }
    )
    for column, share in (("city", 0.1), ("income", 0.2), ("since", 0.05), ("children", 0.3)):
        found.loc[rng.random(count) < share, column] = np.nan
    return found


def table(count: int = 300, seed: int = 0, **options) -> Table:
    return tables.convert(frame(count, seed), None, TableOptions(**options))


# ---------------------------------------------------------------- rows and features


def test_rows_of_every_kind_come_back_from_their_features():
    original = frame()
    pd.testing.assert_frame_equal(expect_exact(table()), original, check_exact=True)
    assert table().codec.kinds == {
        "age": "integer",
        "income": "continuous",
        "height": "continuous",
        "city": "category",
        "member": "boolean",
        "since": "date",
        "children": "integer",
    }
    assert "country: always X, not modelled" in described(table(), "constant")


def test_missing_values_are_kept_jointly_with_the_other_columns():
    original, got = frame(), expect_exact(table())
    for column in original:
        assert (got[column].isna() == original[column].isna()).all()


def test_the_features_are_those_of_the_columns_in_order():
    """A small table by hand."""
    rows = pd.DataFrame({"a": ["x", "y", None] * 10, "b": np.arange(30) * 1.5, "c": [True, False] * 15})
    found = tables.convert(rows, None, TableOptions())
    assert found.codec.groups == ((0, 3), (4, 6)) and found.codec.numbers == [3] and found.sample_shape == (6,)
    x = found.batch(np.arange(3))
    assert x[:, :3].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]] and x[:, 4:].tolist() == [[0, 1], [1, 0], [0, 1]]
    assert (np.abs(x[:, 3] - (2 * np.arange(3) + 1) / 30 + 1) < 0.5 / 30).all()


def test_features_outside_the_range_become_observed_values():
    """Samples of a generator have soft groups, and numbers beyond [-1, 1]."""
    data, original = table(), frame()
    samples = np.random.default_rng(1).standard_normal((2000, *data.sample_shape)).astype(np.float32) * 3
    got = data.codec.decode(samples)
    assert got.dtypes.to_dict() == original.dtypes.to_dict()
    assert set(got.city.dropna()) == set(original.city.dropna()) and (got.country == "X").all()
    for column in ("age", "income", "height", "since"):
        assert got[column].dropna().between(original[column].min(), original[column].max()).all()
    income, since = got.income.dropna(), got.since.dropna()
    assert (income == income.round(2)).all() and (since == since.dt.normalize()).all()
    assert not got[["age", "height", "member"]].isna().any().any() and got[["city", "income"]].isna().any().all()


@pytest.mark.parametrize(("samples", "says"), [(np.zeros((2, 3)), "expected samples"), (None, "got NaN")])
def test_samples_of_another_table_are_refused(samples, says):
    data = table()
    x = np.full((2, *data.sample_shape), np.nan, np.float32) if samples is None else samples
    with pytest.raises(DataError, match=says):
        data.codec.decode(x)


def test_no_samples_are_an_empty_data_frame():
    got = table().codec.decode(np.zeros((0, *table().sample_shape), np.float32))
    assert len(got) == 0 and got.dtypes.to_dict() == frame().dtypes.to_dict()


def test_a_batch_is_on_the_backend(backend):
    data = table().to(backend)
    x = data.batch(backend.asarray(np.array([3, 1, 3])))
    assert isinstance(x, backend.xp.ndarray)
    np.testing.assert_array_equal(backend.to_numpy(x), table().batch(np.array([3, 1, 3])))


@pytest.mark.parametrize("columns", [["age"], ["city"]])
def test_a_table_of_one_column_is_modelled(columns):
    data = tables.convert(
        frame()[columns].dropna(), None, TableOptions(columns="age:continuous" if "age" in columns else "")
    )
    expect_exact(data)
    assert data.to(backends.reference()).batch(np.arange(9)).shape == (9, *data.sample_shape)


def test_a_codec_is_a_codec_and_a_table_can_be_divided():
    codec: Codec = table().codec
    assert codec.view == "table" and isinstance(table(), Divisible)


def test_a_part_is_held_out():
    data = held_out.hold_out(table(), 0.2, 0)
    assert (len(data), len(data.held_out)) == (240, 60) and data.codec == data.held_out.codec == table().codec
    expect_exact(data)
    expect_exact(data.held_out)
    assert ("held out", "60 rows of the 60 that hold_out takes out") in data.description()
    both = pd.concat([data.frame, data.held_out.frame]).sort_values(["height"])
    pd.testing.assert_frame_equal(both.reset_index(drop=True), frame().sort_values("height").reset_index(drop=True))


# ---------------------------------------------------------------- what identifies data


def changed(**columns):
    return frame().assign(**columns)


@pytest.mark.parametrize(
    "other",
    [
        changed(age=frame().age + 1),
        changed(height=frame().height * 2),  # the ranks are the same
        changed(city=frame().city.replace("Bern", "Basel")),
        changed(country="Y"),
        frame().iloc[::-1].reset_index(drop=True),
        frame().iloc[:-1],
        frame()[frame().columns[::-1]],
    ],
)
def test_other_values_have_another_fingerprint(other):
    assert tables.convert(other, None, TableOptions()).fingerprint() != table().fingerprint()


def test_the_fingerprint_is_that_of_values_and_not_of_names_or_dtypes(tmp_path):
    own = table().fingerprint()
    assert own == table(seed=0).fingerprint()
    renamed = frame().rename(columns={"age": "years"}).astype({"years": "uint16", "city": "category"})
    assert tables.convert(renamed, None, TableOptions()).fingerprint() == own
    table().codec.save(frame(), tmp_path / "same.csv")
    assert tables.load(str(tmp_path / "same.csv"), TableOptions(), 5).fingerprint() == own


def test_labels_are_in_the_fingerprint():
    without, of_city, of_member = (table(label=label).fingerprint() for label in ("", "city", "member"))
    assert without["labels"] is None and of_city["labels"] not in (None, of_member["labels"])
    assert without["values"] == of_city["values"] == of_member["values"]


# ---------------------------------------------------------------- labels


@pytest.mark.parametrize(
    ("label", "names"),
    [
        ("city", ["Bern", "Oslo", "Rome", "missing"]),
        ("member", ["False", "True"]),
        ("children", ["0", "1", "2", "3", "4", "missing"]),
        ("age", [str(age) for age in sorted(frame().age.unique())]),
    ],
)
def test_the_label_is_the_group_of_its_column(label, names):
    data = table(label=label)
    assert data.class_names == names and data.codec.label == label and data.labels.max() == len(names) - 1
    start, stop = data.codec.groups[data.codec.label_group]
    x = data.batch(np.arange(len(data)))
    assert stop - start == len(names) and (x[:, start:stop].argmax(axis=1) == data.labels).all()
    shown = frame()[label].astype("string").fillna("missing")
    assert (np.array(names)[data.labels] == shown.to_numpy()).all()
    assert described(data, "labels")[0].startswith(f"{len(names)} classes of ")
    part = data.part(np.array([5, 2]))
    assert (part.labels == data.labels[[5, 2]]).all() and part.class_names == names


def test_a_value_called_missing_and_a_missing_one_are_two_classes():
    rows = pd.DataFrame({"a": ["missing", None, "x"] * 9})
    assert tables.convert(rows, "a", TableOptions()).class_names == ["missing", "x", "(missing)"]


def test_without_labels_the_option_has_no_effect(tmp_path):
    path = tmp_path / "a.csv"
    frame().to_csv(path, index=False)
    data = tables.load(str(path), TableOptions(label="city"), 0, labels=False)
    assert data.labels is data.class_names is data.codec.label is data.codec.label_group is None


@pytest.mark.parametrize(
    ("label", "says"),
    [
        ("citty", "there is no column 'citty': did you mean city?"),
        ("CITY", "there is no column 'CITY': did you mean city?"),
        ("zzz", "there is no column 'zzz': the columns are age, income, height"),
        ("height", "a label is a column with few different values, but height: continuous"),
        ("income", "but income: continuous, "),
        ("country", "but country: always X, not modelled: choose one of city, member, children"),
    ],
)
def test_a_column_that_is_no_label_is_refused(label, says):
    with pytest.raises(DataError) as error:
        table(label=label)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_labels_of_which_nearly_each_row_has_its_own_are_refused():
    rows = pd.DataFrame({"code": [f"k{i}" for i in range(60)], "a": ["x", "y"] * 30})
    with pytest.raises(DataError, match="but code: category, 60 values: choose one of a"):
        tables.convert(rows, "code", TableOptions())


# ---------------------------------------------------------------- options


def test_kinds_are_set_by_name(tmp_path):
    text = "a:b,c\\,d\n".replace("\\,", ";") + lines(40, lambda i: i, lambda i: i % 3)
    data = load(text.replace("c;d", '"c,d"'), tmp_path, columns="a\\:b:integer,c\\,d:category")
    assert data.codec.kinds == {"a:b": "integer", "c,d": "category"}
    assert TableOptions(columns={"a:b": "integer", "c,d": "category"}).columns == "a\\:b:integer,c\\,d:category"


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ("age", "--columns is NAME:KIND,... with a backslash before , and : in a name, got 'age'"),
        ("age:int", "unknown kind 'int' of column 'age': choose continuous, integer, category, boolean, date, "),
        ("a:b:integer", "got 'a:b:integer'"),
        ("Age:integer", "there is no column 'Age': did you mean age?"),
        ("height:integer", "column 'height' is set to integer, but row 1 has "),
    ],
)
def test_wrong_kinds_are_refused(columns, says):
    with pytest.raises(DataError) as error:
        table(columns=columns)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_column_is_dropped_as_asked():
    data = table(columns="age:drop,income:drop")
    assert "age" not in data.frame and described(data, "left out") == ["age: as asked", "income: as asked"]


# ---------------------------------------------------------------- files

PLAIN = "name,size\n" + lines(40, lambda i: "ab"[i % 2], lambda i: i * 1.5)
UNUSUAL = {
    "semicolons": (PLAIN.replace(",", ";"), []),
    "tabs": (PLAIN.replace(",", "\t"), []),
    "bars": (PLAIN.replace(",", "|"), []),
    "spaces": (PLAIN.replace(",", "   "), []),
    "tabs and spaces": (PLAIN.replace(",", " \t  ").replace("\nb", "\n b"), []),
    "spaces around": (PLAIN.replace(",", "  ,  "), []),
    "quotes": ("".join(f'"{line}"\n'.replace(",", '","') for line in PLAIN.splitlines()), []),
    "Windows": (PLAIN.replace("\n", "\r\n"), []),
    "old Mac": (PLAIN.replace("\n", "\r"), []),
    "no newline at the end": (PLAIN[:-1], []),
    "empty lines": (PLAIN.replace("\nb", "\n\nb"), []),
    "byte order mark": (PLAIN.encode("utf-8-sig"), []),
    "UTF-16": (PLAIN.encode("utf-16"), ["the encoding is UTF-16"]),
    "UTF-16 without a mark": (PLAIN.encode("utf-16-be"), ["the encoding is UTF-16"]),
    "Excel": ("sep=;\n" + PLAIN.replace(",", ";"), []),
    "comments": ("# by me\n# 2020\n" + PLAIN, ["2 lines of comments at the start were left out"]),
    "trailing": (
        PLAIN.replace(",", ",")[:10] + PLAIN[10:].replace("\n", ",\n"),
        ["each row ends with a delimiter, and"],
    ),
    "empty rows": (PLAIN + ",\n,\n", ["2 rows without any value were left out, the first in line 42"]),
    "decimal commas": (PLAIN.replace(",", ";").replace(".", ","), []),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_the_form_of_a_file_is_recognised(name, tmp_path):
    content, notes = UNUSUAL[name]
    data = load(content, tmp_path)
    found = expect_exact(data)
    assert found.name.tolist() == ["a", "b"] * 20 and found["size"].tolist() == [i * 1.5 for i in range(40)]
    assert [text[: len(note)] for text, note in zip(described(data, "note"), notes, strict=True)] == notes


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz", "zip"])
def test_compressed_files_are_read(suffix, tmp_path):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("inner.csv", PLAIN)
    pack = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zip": lambda _: packed.getvalue()}
    content = pack[suffix](PLAIN.encode())
    data = load(content, tmp_path, f"people.csv.{suffix}")
    assert data.name == "people" and len(expect_exact(data)) == 40
    if suffix != "zip":
        with pytest.raises(DataError, match="the compressed stream is damaged"):
            load(content[:-9], tmp_path, f"people.csv.{suffix}")


def test_text_that_is_not_utf8_is_read_as_that_of_windows(tmp_path):
    data = load(PLAIN.replace("a,", "K\u00f6ln,").replace("b,", "5 \u20ac,").encode("cp1252"), tmp_path)
    assert set(data.frame.name) == {"K\u00f6ln", "5 \u20ac"} and "read as cp1252" in described(data, "note")[0]


def test_fields_may_contain_delimiters_quotes_and_newlines(tmp_path):
    rows = "".join(f'"line one,\nline ""two"" {i % 2}",{i % 3}\n' for i in range(30))
    found = expect_exact(load("text,x\n" + rows, tmp_path))
    assert set(found.text) == {'line one,\nline "two" 0', 'line one,\nline "two" 1'}


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (lines(30, lambda i: i / 7, lambda i: i % 3), ["column 1", "column 2"]),
        (lines(30, lambda i: i / 7, lambda i: "xy"[i % 2]), ["column 1", "column 2"]),
        (
            "?,4,x\n" + lines(30, lambda i: i / 7, lambda i: i % 5, lambda i: "xy"[i % 2]),
            ["column 1", "column 2", "column 3"],
        ),
    ],
)
def test_a_file_without_a_header_is_recognised_and_said(content, names, tmp_path):
    data = load(content, tmp_path)
    assert list(data.frame) == names and len(data) == content.count("\n")
    assert "the file has no header" in described(data, "note")[0]


def test_a_header_may_contain_numbers(tmp_path):
    data = load("country,2019,2020\n" + lines(30, lambda i: "xyz"[i % 3], lambda i: i / 2, lambda i: i * 7), tmp_path)
    assert list(data.frame) == ["country", "2019", "2020"] and len(data) == 30 and not described(data, "note")


def test_a_header_may_start_with_a_number_sign(tmp_path):
    assert list(load("# made\n#a,b\n" + lines(30, lambda i: i / 2, lambda i: i % 2), tmp_path).frame) == ["#a", "b"]


def test_names_of_rows_and_equal_or_empty_names(tmp_path):
    data = load("x y\n" + "".join(f'"r{i}" {i % 4} {i / 4}\n' for i in range(30)), tmp_path, "r.txt")
    assert list(data.frame) == ["x", "y"] and described(data, "left out")[0].startswith("row: an identifier")
    assert described(data, "note") == [
        "rows have one field more than the header: the first one is taken as the name of the row"
    ]
    data = load("a,a,,b\n" + lines(30, lambda i: i % 2, lambda i: i / 2, lambda i: i, lambda i: i % 4), tmp_path)
    assert list(data.frame) == ["a", "a 2", "b"] and "unnamed 3: an identifier" in described(data, "left out")[0]
    assert described(data, "note")[0] == "column 2, again called 'a', is called 'a 2'"


def test_headers_that_occur_again_are_left_out(tmp_path):
    part = "name,size\n" + lines(30, lambda i: "xyz"[i % 3], lambda i: i / 2)
    data = load(part * 3, tmp_path)
    assert list(data.frame) == ["name", "size"] and len(data) == 90 and set(data.frame.name) == set("xyz")
    assert described(data, "note") == ["rows that repeat the header were left out (2, the first in line 32)"]
    data = load("x\n" + "x\ny\n" * 30, tmp_path)
    assert len(data) == 61, "one column: it has no header"


def test_line_breaks_in_names_and_empty_lines_in_one_column_are_said(tmp_path):
    data = load('"length\nin mm",b\n' + lines(30, lambda i: i / 2, lambda i: i % 3), tmp_path)
    assert list(data.frame) == ["length in mm", "b"]
    assert "in the name of column 1 became spaces: 'length in mm'" in described(data, "note")[0]
    data = load("x\n" + '"1\n"\n\n2.5\n\n\n"2\n3"\n' * 10 + "\n\n", tmp_path)
    assert "30 empty lines between the rows were left out" in described(data, "note")[0] and len(data) == 30


def test_bad_rows_are_refused_by_the_numbers_of_their_lines(tmp_path):
    rows = ['"quoted\nline",2,3', "1,2", "1,2,3,4", *["1,2,3"] * 20, *["1,2"] * 7]
    with pytest.raises(DataError) as error:
        load("a,b,c\n" + "\n".join(rows) + "\n", tmp_path)
    assert str(error.value) == (
        f"{tmp_path / 'people.csv'}: expected 3 fields in each row, as in the first line, but line 4 has 2, "
        "line 5 has 4, line 26 has 2, line 27 has 2, line 28 has 2, and 4 more rows are wrong: repair these lines, or "
        "quote fields that contain the delimiter"
    )


ID = lines(30, lambda i: i + 1, lambda i: f"k{i}")
REFUSED = {
    "no rows": ("", "the file has no rows"),
    "only a header": ("a,b\n", "the file has a header (a, b), but no rows"),
    "one row": ("a,b\n1,x\n", "it has one row, and a column needs at least two different values"),
    "all missing": ("a,b\n" + "NA,?\n" * 30, "no column can be modelled: a: always missing"),
    "only delimiters": ("a,b\n" + ",\n" * 30, "no row has a value"),
    "constant": ("a,b\n" + "1,x\n" * 30, "no column can be modelled: a: always 1, not modelled; b: always x"),
    "identifiers": ("id,code\n" + ID, "keep it with --columns id:integer; code: an identifier"),
    "open quote": (PLAIN + '"a,1\nb,2\n', "line 42 cannot be read as CSV: a quotation mark is not closed"),
    "page": ("\n <!DOCTYPE html>\n<html>", "this is a web page or XML"),
    "zeros": ("a,b\n1,\0\n", "got a zero byte at offset 6"),
    "a zero far away": (PLAIN + "a,1\n" * 2000 + "b,\0\n", "got a zero character in line 2042"),
    "Excel": (b"PK\x03\x04", "the zip archive cannot be read"),
    "old Excel": (b"\xd0\xcf\x11\xe0\xa1", "this is an old Excel file: save it as CSV"),
    "Parquet": (b"PAR1 and nothing else", "the Parquet file is damaged"),
    "UTF-16": ("a,b".encode("utf-16") + b"\xd8\x00\xd8", "the text is no valid UTF-16"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_without_a_usable_table_is_refused_with_what_to_do(name, tmp_path):
    content, says = REFUSED[name]
    with pytest.raises(DataError) as error:
        load(content, tmp_path)
    text = str(error.value)
    assert text.startswith(f"{tmp_path / 'people.csv'}: ") and says in text and "\n" not in text


def test_spreadsheets_and_archives_of_several_files_are_refused(tmp_path):
    for names, says in (
        (["xl/workbook.xml"], "this is a spreadsheet"),
        (["a.csv", "b.csv"], "got a.csv, b.csv: unpack"),
    ):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for name in names:
                archive.writestr(name, PLAIN)
        with pytest.raises(DataError, match=says):
            load(packed.getvalue(), tmp_path)


@pytest.mark.parametrize(
    ("spec", "says"),
    [("nothing.csv", "there is no such file"), ("", "is not a path"), ("a\0b", "is not a path"), (".", "got a folder")],
)
def test_a_path_that_is_no_file_is_refused(spec, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=says):
        tables.load(spec, TableOptions(), 0)


@pytest.mark.parametrize(("missing", "path"), [("pandas", "a.csv"), ("pyarrow", "a.parquet")])
def test_without_a_package_one_sentence_gives_the_install_line(missing, path, tmp_path, monkeypatch):
    (tmp_path / path).write_bytes(b"PAR1" if missing == "pyarrow" else b"a,b\n")
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(DataError, match=rf"need {missing}, which is not installed: pip install 'minigan\[tables\]'"):
        tables.load(str(tmp_path / path), TableOptions(), 0)


def test_a_table_that_does_not_fit_in_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("minigan.datasets.files.memory", lambda: 20_000)
    with pytest.raises(DataError, match=r"the table would take .* GiB, more than 50% of"):
        load(PLAIN * 20, tmp_path)


def test_difficult_tables_are_trained_on_as_they_are(tmp_path):
    """10,000 categories, many zeros, inf, numbers stored as text, identical columns, a column of missing values."""
    rng = np.random.default_rng(0)
    category = rng.integers(0, 10_000, 20_000)
    amount = np.where(rng.random(20_000) < 0.8, 0, rng.standard_cauchy(20_000))
    level = np.where(rng.random(20_000) < 0.01, np.inf, rng.normal(size=20_000))
    rows = {
        "shop": [f"s{i}" for i in category],
        "amount": amount,
        "level": level,
        "again": level,
        "text": amount.astype(str),
    }
    data = tables.convert(pd.DataFrame(rows | {"gone": None}), None, TableOptions())
    got = data.codec.decode(data.batch(np.arange(len(data))))
    for name in ("amount", "level", "again"):
        assert (got[name] == rows[name]).all(), name
    assert (got.text == amount).all() and got.gone.isna().all()
    own = data.codec.groups[0][1] - data.codec.groups[0][0]
    assert own == 1000 and (got.shop == rows["shop"]).mean() > 0.1 and set(got.shop) <= set(rows["shop"])
    assert "of which the" in described(data, "column")[0] and "rarest share one feature" in described(data, "column")[0]
    index = {column.name: start for column, start in data.codec.parts}
    x = data.batch(np.arange(100))
    assert (x[:, index["level"]] == x[:, index["again"]]).all()


def test_rare_values_are_a_function_of_the_samples():
    rows = pd.DataFrame({"v": [f"v{i % 3000}" for i in range(9000)], "x": np.arange(9000) / 7})
    codec = tables.convert(rows, None, TableOptions()).codec
    rng = np.random.default_rng(0)
    samples = np.zeros((3000, codec.width), np.float32)
    samples[:, 999], samples[:, codec.numbers[0]] = 1, rng.uniform(-1, 1, 3000)
    got = codec.decode(samples)
    pd.testing.assert_frame_equal(got, codec.decode(samples.copy()))
    assert 1100 < got.v.nunique() < 1700, "drawn from 2,001 values, each with the same share"
    assert codec.decode(samples[5:6]).v[0] == got.v[5], "a row decides, not its place"
    almost = codec.decode(samples * np.float32(1 + 2**-22))
    assert (almost.v == got.v).mean() > 0.99, "nor does the last bit"
    same = codec.decode(np.repeat(samples[:1], 500, axis=0))
    assert same.v.nunique() > 350, "equal rows get different values"


def test_each_feature_decides_the_rare_value():
    rows = {"v": [f"v{i % 3000}" for i in range(9000)], "x": np.arange(9000) / 7, "y": np.arange(9000)[::-1] / 7}
    codec = tables.convert(rows, None, TableOptions()).codec
    samples = np.zeros((3000, codec.width), np.float32)
    samples[:, 999], samples[:, codec.numbers] = 1, np.random.default_rng(0).uniform(-1, 1, (3000, 2))
    swapped = samples.copy()
    swapped[:, codec.numbers] = samples[:, codec.numbers[::-1]]
    assert (codec.decode(samples).v == codec.decode(swapped).v).mean() < 0.01


# ---------------------------------------------------------------- saving, and data frames


@pytest.mark.parametrize("suffix", TableCodec.suffixes)
def test_saved_rows_can_be_read_again(suffix, tmp_path):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="needs minigan[tables]")
    data, path = table(), tmp_path / f"out{suffix}"
    data.codec.save(data.frame, path)
    again = tables.load(str(path), TableOptions(), 0)
    assert again.fingerprint() == data.fingerprint() and again.name == "out"
    assert path.read_bytes() == (data.codec.save(data.frame, path), path.read_bytes())[1]
    if suffix == ".parquet":
        pd.testing.assert_frame_equal(again.frame, data.frame)


def test_dates_are_written_as_they_were_read(tmp_path):
    rows = "day,at,x\n" + lines(
        30, lambda i: f"{i % 28 + 1:02}.03.2020", lambda i: f"2020-03-01 {i % 24:02}:30", lambda i: i / 2
    )
    data = load(rows, tmp_path)
    data.codec.save(data.frame, tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == rows.replace(".0\n", ".0\n")
    assert data.codec.kinds == {"day": "date", "at": "date", "x": "continuous"}


def test_every_form_of_a_data_frame_is_converted():
    original = frame()[["age", "height", "member"]]
    own = tables.convert(original, None, TableOptions()).fingerprint()

    class Polars:
        def to_pandas(self):
            return original

    forms = [
        {name: original[name].to_numpy() for name in original},
        {name: original[name].tolist() for name in original},
        original.to_records(index=False),
        Polars(),
        original.set_index(np.arange(300)[::-1]),
    ]
    for form in forms:
        assert tables.is_frame(form) and tables.convert(form, None, TableOptions()).fingerprint() == own
    assert (
        "the index of the data frame was left out"
        in described(tables.convert(forms[-1], None, TableOptions()), "note")[0]
    )


def test_names_of_columns_may_be_numbers_or_have_levels():
    data = tables.convert(pd.DataFrame({0: [1, 2] * 9, 1: ["a", "b"] * 9}), "1", TableOptions(columns="0:category"))
    assert list(expect_exact(data)) == [0, 1] and data.codec.label == 1 and data.codec.kinds[0] == "category"
    levels = pd.DataFrame({("a", "x"): [1, 2] * 9, ("a", "y"): [3, 4] * 9})
    assert list(tables.convert(levels, None, TableOptions()).frame) == ["a x", "a y"]


@pytest.mark.parametrize(
    ("x", "labels", "says"),
    [
        (np.zeros((3, 3)), None, "expected a data frame, a dictionary of columns or a structured array, got ndarray"),
        ({"a": [1], "b": [1, 2]}, None, "the columns do not form a table"),
        (pd.DataFrame({"a": []}), None, "the table has no rows"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), None, "several columns are called 'a'"),
        ({"a": [1, 2]}, [0, 1], "the labels of a table are one of its columns"),
        ({"a": [1, 2]}, "b", "there is no column 'b'"),
    ],
)
def test_other_objects_are_refused(x, labels, says):
    with pytest.raises(DataError) as error:
        tables.convert(x, labels, TableOptions())
    assert says in str(error.value) and "\n" not in str(error.value)


def test_of_many_columns_some_are_described_but_nothing_that_was_assumed_is_left_out():
    columns = {f"c{i}": np.arange(60) % (i + 2) for i in range(50)} | {"text": ["1", "2"] * 30, "same": 1}
    found = described(tables.convert(columns, None, TableOptions()), "column")
    assert len(found) == 42 and found[-1] == "and 10 more" and "they are stored as text" in found[-2]


# ---------------------------------------------------------------- the kind


def test_the_penguins_are_complete_and_unchanged():
    content = tables.PENGUINS.read_bytes()
    readme = (tables.PENGUINS.parent / "README").read_text()
    assert hashlib.md5(content).hexdigest() in readme and "CC0" in readme
    data = tables.load("penguins", TableOptions(label="species"), 0)
    found = expect_exact(data)
    assert data.class_names == ["Adelie", "Chinstrap", "Gentoo"] and np.bincount(data.labels).tolist() == [152, 68, 124]
    assert found.isna().sum().sum() == 19 and found.shape == (344, 8)
    assert set(data.codec.kinds.values()) == {"category", "continuous", "integer"}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("people.csv", "a CSV file"),
        ("PEOPLE.TSV", "a CSV file"),
        ("a.b/people.csv.gz", "a CSV file"),
        ("x.txt.xz", "a CSV file"),
        ("x.parquet", "a Parquet file"),
        ("x.gz", None),
        ("images.npz", None),
        ("folder.csv/inner", None),
        ("mnist", None),
    ],
)
def test_the_name_of_a_file_says_whether_it_is_a_table(name, kind):
    assert is_table(name) == kind
    assert tables.claims(name) == (None if kind is None else f"{name} is {kind}")


def test_only_tables_are_claimed_in_memory():
    assert tables.is_frame(np.zeros((3, 4))) is tables.is_frame([1, 2]) is None
    assert tables.is_frame(frame()) == "a data frame" and tables.claims("penguins")
