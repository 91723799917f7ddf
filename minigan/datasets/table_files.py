"""Read tables from files: CSV with any delimiter and encoding, compressed or not, and Parquet.

The delimiter, the encoding and the presence of a header are recognised. Rows with a wrong number of fields are refused
with the numbers of their lines, because the columns of such a row are not known. Needs pandas.
"""

import bz2
import csv
import gzip
import importlib
import io
import itertools
import lzma
import os
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np

from minigan.datasets import column_text as text
from minigan.datasets.column_kinds import Texts
from minigan.datasets.files import CHUNK, DAMAGED, DataError, expect_room, explain, open_file

if TYPE_CHECKING:
    import pandas

SUFFIXES = (".csv", ".tsv", ".tab", ".txt", ".data")
COMPRESSED = (".gz", ".bz2", ".xz", ".zip")
PARQUET = (".parquet", ".pq")
DELIMITERS = ("\t", ";", "|", ",")  # the less a character occurs in texts, the earlier it is tried
NAMES = {"\t": "tabs", ";": "semicolons", "|": "vertical bars", ",": "commas", " ": "spaces"}
SAMPLE = 200  # rows from which the delimiter is recognised
ROOM = 12  # bytes of memory for a byte of text, about
SHOWN = 5  # bad rows that an error names
BINARY = {  # the first bytes of other kinds of files
    b"\xd0\xcf\x11\xe0": "is an old Excel file: save it as CSV",
    b"\x28\xb5\x2f\xfd": "is compressed with Zstandard: unpack it, or use gzip",
    b"7z\xbc\xaf": "is a 7z archive: unpack it",
    b"%PDF": "is a PDF file: export the table as CSV",
    b"\x89PNG": "is a picture: give a table",
    b"SQLite": "is a database: export the table as CSV",
    b"\x93NUM": "is a NumPy array: give --kind images or another kind, or save it as CSV",
}


class Frame(NamedTuple):
    """The columns of a file, before their kinds are known."""

    frame: "pandas.DataFrame"
    texts: Texts  # how texts are read
    origin: str  # what was read, for people
    notes: tuple[str, ...]  # what was assumed, changed or left out


def import_pandas() -> Any:
    """Return pandas. Raises DataError with the line that installs it, if it is missing."""
    return _imported("pandas", "tables need pandas")


def _imported(name: str, why: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise DataError(f"{why}, which is not installed: pip install 'minigan[tables]'") from None


def is_table(spec: str) -> str | None:
    """Return what kind of table the name of a file says it is, or None."""
    suffixes = [suffix.lower() for suffix in Path(spec).suffixes[-2:]]
    if suffixes[-1:] and suffixes[-1] in COMPRESSED:
        suffixes = suffixes[:-1]
    last = suffixes[-1] if suffixes else ""
    return "a Parquet file" if last in PARQUET else "a CSV file" if last in SUFFIXES else None


def read(path: Path) -> Frame:
    """Read a table. Raises DataError, which says in one sentence what is wrong, where, and what to do."""
    pd = import_pandas()
    try:
        if path.is_dir():
            raise DataError(f"{path}: expected a file with a table, got a folder: give a CSV or Parquet file inside it")
        with open_file(path) as file:
            head = file.read(8)
            if head[:4] == b"PAR1":
                return _parquet(path, pd)
            file.seek(0)
            content, inner = _unpacked(file, head, path)
    except OSError as error:
        raise explain(path, error) from None
    except MemoryError:
        raise DataError(f"{path}: the table does not fit in memory: use fewer rows or columns") from None
    return _csv(content, path, inner, pd)


# ---------------------------------------------------------------- bytes


def _unpacked(file: IO[bytes], head: bytes, path: Path) -> tuple[bytes, str]:
    """Return the bytes of a file, decompressed, and the name of the format that it is compressed with, or ""."""
    if head[:2] == b"\x1f\x8b":
        return _all_of(gzip.GzipFile(fileobj=file), path), "gzip"
    if head[:3] == b"BZh":
        return _all_of(bz2.BZ2File(file), path), "bzip2"
    if head[:6] == b"\xfd7zXZ\x00":
        return _all_of(lzma.LZMAFile(file), path), "xz"
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return _unzipped(file, path), "zip"
    return _all_of(file, path), ""


def _all_of(stream: Any, path: Path) -> bytes:
    """Return all bytes of a stream. Raises DataError if it is damaged, or if the table would not fit in memory."""
    data = bytearray()
    try:
        while chunk := stream.read(16 * CHUNK):
            data += chunk
            expect_room(ROOM * len(data), f"{path}: the table", "use fewer rows or columns")
    except (*DAMAGED, lzma.LZMAError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError(
            f"{path}: the compressed stream is damaged, somewhere after offset {len(data)} of its uncompressed bytes "
            f"({error}): download or copy the file again"
        ) from None
    return bytes(data)


def _unzipped(file: IO[bytes], path: Path) -> bytes:
    """Return the only file in a zip archive. Raises DataError if there are several, or if it is an Excel file."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/") and "__MACOSX" not in name]
            if any(name.startswith(("xl/", "content.xml")) for name in names):
                raise DataError(f"{path}: this is a spreadsheet: save the sheet as CSV, and give that file")
            if len(names) != 1:
                shown = ", ".join(names[:SHOWN]) or "nothing"
                raise DataError(f"{path}: expected one file in the archive, got {shown}: unpack the one you need")
            with archive.open(names[0]) as stream:
                return _all_of(stream, path)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:  # RuntimeError: a password is needed
        raise DataError(f"{path}: the zip archive cannot be read ({error}): unpack it") from None


def _decoded(content: bytes, path: Path) -> tuple[str, str]:
    """Return the text of a file, and a note on its encoding, or "" if it is UTF-8.

    A byte order mark decides. UTF-16 without one is recognised by its zero bytes. Text that is not UTF-8 is cp1252.
    """
    for start, message in BINARY.items():
        if content.startswith(start):
            raise DataError(f"{path}: this {message}")
    if re.match(rb"\s*<(!doctype|html|\?xml)", content[:100], re.IGNORECASE):
        raise DataError(f"{path}: this is a web page or XML, saved in place of the data: download the table itself")
    zeros = [content[i:4096:2].count(0) for i in (0, 1)]
    wide = ""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        wide = "utf-16"
    elif max(zeros) > len(content[:4096]) / 4 and min(zeros) == 0:
        wide = "utf-16-le" if zeros[1] else "utf-16-be"
    elif sum(zeros):
        at = content.index(0)
        raise DataError(f"{path}: expected text, got a zero byte at offset {at}: is this a table? save it as CSV")
    try:
        if wide:
            return content.decode(wide).removeprefix("\ufeff"), "the encoding is UTF-16"
        return content.decode("utf-8-sig"), ""
    except UnicodeDecodeError as error:
        if wide:
            raise DataError(f"{path}: the text is no valid UTF-16 ({error.reason}): save it as UTF-8") from None
    try:
        return content.decode("cp1252"), "the text is not UTF-8 and was read as cp1252 (Windows, western Europe)"
    except UnicodeDecodeError:
        return content.decode("latin-1"), "the text is not UTF-8 and was read as Latin-1 (western Europe)"


# ---------------------------------------------------------------- CSV


class Row(NamedTuple):
    """A row of a file."""

    line: int  # the number of its first line, from 1
    fields: list[str]


def _rows(content: str, delimiter: str, first: int = 1) -> Iterator[Row]:
    """Yield the rows of a CSV text whose first line has the number `first`.

    Empty lines are left out. A delimiter " " stands for any number of spaces and tabs. Raises DataError if a
    quotation mark is not closed, because the rest of the file would become one field.
    """
    current: list[str] = []  # the lines of the current row

    def lines() -> Iterator[str]:
        for line in io.StringIO(content, newline=""):
            current.append(line if delimiter != " " else line.strip().replace("\t", " ") + "\n")
            yield current[-1]

    format: Any = dict(delimiter=delimiter, skipinitialspace=True)
    reader, line, last = csv.reader(lines(), **format), first, [""]
    try:
        for fields in reader:
            if fields:
                yield Row(line, fields)
            line += len(current)
            last, current = current, []
        if len(list(csv.reader([*last, "\n", "another row"], **format))) < 2 and last != [""]:
            line -= len(last)
            raise csv.Error("a quotation mark is not closed before the end of the file")
    except csv.Error as error:
        raise DataError(f"line {line} cannot be read as CSV: {error}") from None


def _csv(content: bytes, path: Path, packed: str, pd: Any) -> Frame:
    """Return the columns of a CSV file as texts."""
    csv.field_size_limit(1 << 24)
    whole, note = _decoded(content, path)
    if "\0" in whole:
        line = whole[: whole.index("\0")].count("\n") + 1
        raise DataError(f"{path}: expected text, got a zero character in line {line}: is the file damaged?")
    notes = [note] if note else []
    try:
        body, first, delimiter = _start(whole, notes)
        if delimiter is None:
            delimiter = _delimiter(body)
        rows = list(_rows(body, delimiter, first))
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    if not rows:
        raise DataError(f"{path}: the file has no rows: is this the right one?")
    names, rows = _header(rows, notes)
    names, rows = _fitted(names, rows, path, notes)
    if not rows:
        raise DataError(f"{path}: the file has a header ({', '.join(names)[:60]}), but no rows: is this the right one?")
    rows = _without_headers(names, rows, notes)
    if len(names) == 1 and (blank := sum(itertools.starmap(_lines_between, itertools.pairwise(rows)))):
        notes.append(f"{blank:,} empty lines between the rows were left out: write NA where a value is missing")
    empty = [i for i, row in enumerate(rows) if not any(row.fields)]
    if empty and len(names) > 1:
        notes.append(f"{len(empty):,} rows without any value were left out, the first in line {rows[empty[0]].line}")
        rows = [row for row in rows if any(row.fields)]
    if not rows:
        raise DataError(f"{path}: no row has a value: is this the right file?")
    columns = zip(*(row.fields for row in rows), strict=True)
    data = {name: _stripped(column, pd) for name, column in zip(_different(names, notes), columns, strict=True)}
    comma = any(_has_decimal_comma(column) for column in data.values())
    origin = f"CSV file {path.name}, fields separated by {NAMES.get(delimiter, repr(delimiter))}"
    return Frame(
        pd.DataFrame(data), Texts(True, comma), origin + (f", compressed with {packed}" if packed else ""), tuple(notes)
    )


def _without_headers(names: list[str], rows: list[Row], notes: list[str]) -> list[Row]:
    """Return the rows without those that repeat the names of several columns, as in files that were joined."""
    if len(names) == 1:
        return rows
    again = {row.line for row in rows if row.fields[0].strip() == names[0] and [f.strip() for f in row.fields] == names}
    if again:
        notes.append(f"rows that repeat the header were left out ({len(again):,}, the first in line {min(again)})")
    return [row for row in rows if row.line not in again]


def _lines_between(row: Row, after: Row) -> int:
    """Return the number of lines between two rows."""
    return after.line - row.line - 1 - sum(field.count("\n") for field in row.fields)


def _stripped(column: Any, pd: Any) -> np.ndarray:
    """Return the texts (N,) of a column without spaces around them. Equal texts share memory."""
    texts = np.empty(len(column), object)
    texts[:] = column
    codes, different = pd.factorize(texts)
    different[:] = [value.strip() for value in different]
    return different[codes]


def _has_decimal_comma(column: np.ndarray) -> bool:
    return text.has_decimal_comma([value for value in set(column) if value not in text.MISSING])


def _start(content: str, notes: list[str]) -> tuple[str, int, str | None]:
    """Return the text from the header on, the number of its first line, and the delimiter if Excel wrote it there.

    Lines of comments that begin with # are left out before a header. A header may begin with # itself.
    """
    if match := re.match(r"sep=(.)\r?\n", content, re.IGNORECASE):
        return content[match.end() :], 2, match[1]
    comments = re.match(r"(?:#[^\r\n]*(?:\r\n|\n|\r))+", content)
    if comments is None:
        return content, 1, None
    lines = comments[0].splitlines(keepends=True)
    delimiter = _delimiter(content[len(comments[0]) :])
    width = len(next(iter(_rows(content[len(comments[0]) :], delimiter)), Row(0, [])).fields)
    if len(next(_rows(lines[-1], delimiter)).fields) == width > 1:  # the header
        lines = lines[:-1]
    if lines:
        notes.append(f"{len(lines):,} line{'s' if len(lines) > 1 else ''} of comments at the start were left out")
    return content[sum(map(len, lines)) :], 1 + len(lines), None


def _delimiter(content: str) -> str:
    """Return the delimiter with which the most rows of the beginning have the same number of fields, at least two."""
    best, score = ",", 0.0
    for delimiter in DELIMITERS:
        counts = _widths(content, delimiter)
        width, rows = Counter(counts).most_common(1)[0] if counts else (1, 0)
        if width > 1 and rows / len(counts) > score:
            best, score = delimiter, rows / len(counts)
    aligned = best == "\t" and all(re.search(r"\S {2,}\S", line) for line in content[:5000].splitlines()[1:-1])
    if score > 0.5 and not aligned:
        return best
    counts = _widths(content, " ")
    same = len(set(counts[1:])) == 1 and counts[-1] > 1 and counts[0] in (counts[-1], counts[-1] - 1)
    digits = any(re.search(r"\d", line) for line in content[:5000].splitlines()[1:])
    return " " if same and digits and len(counts) > 1 else best


def _widths(content: str, delimiter: str) -> list[int]:
    """Return the number of fields of each of the first rows. A row that cannot be read ends them."""
    counts = []
    try:
        for row, _ in zip(_rows(content, delimiter), range(SAMPLE), strict=False):
            counts.append(len(row.fields))
    except DataError:
        pass
    return counts


def _header(rows: list[Row], notes: list[str]) -> tuple[list[str], list[Row]]:
    """Return the names of the columns and the other rows.

    A first row whose fields are all numbers, missing, or values that occur again in their column, is no header. But it
    is one if it has no numbers, and one of its words occurs again among numbers: then the file repeats its header.
    """
    first, rest = rows[0].fields, rows[1:]
    width = len(first)
    others = [row.fields for row in rest[:1000] if len(row.fields) == width]
    plain = [field.strip() for field in first]
    numeric = [text.numbers([field]) is not None and field not in text.MISSING for field in plain]
    if all(numeric):
        missing_header = bool(others) or width > 1
    else:
        again = [any(row[i].strip() == field for row in others) for i, field in enumerate(plain)]
        fits = [field in text.MISSING or numeric[i] or again[i] for i, field in enumerate(plain)]
        missing_header = all(fits) and any(field not in text.MISSING for field in plain)
        if missing_header and not any(numeric):
            missing_header = not any(_is_numeric([row[i].strip() for row in others]) for i in range(width) if again[i])
    if not missing_header:
        return plain, rest
    notes.append("the file has no header, because its first row has values like the others: columns are numbered")
    return [f"column {i + 1}" for i in range(width)], rows


def _is_numeric(fields: list[str]) -> bool:
    """Return whether more than half of the fields that are not missing are numbers."""
    there = [field for field in fields if field not in text.MISSING]
    return sum(text.numbers([field]) is not None for field in there) > len(there) / 2


def _fitted(names: list[str], rows: list[Row], path: Path, notes: list[str]) -> tuple[list[str], list[Row]]:
    """Return names and rows of the same length.

    If every row has one field more than the header, it is empty, from a delimiter at the end of each line, and is left
    out, or else the first field is the name of the row. Raises DataError for other rows of a wrong length.
    """
    if rows and all(len(row.fields) == len(names) + 1 for row in rows):
        if not any(row.fields[-1].strip() for row in rows):
            notes.append("each row ends with a delimiter, and the empty field after it was left out")
            return names, [Row(row.line, row.fields[:-1]) for row in rows]
        notes.append("rows have one field more than the header: the first one is taken as the name of the row")
        names = ["row", *names]
    bad = [row for row in rows if len(row.fields) != len(names)]
    if bad:
        shown = ", ".join(f"line {row.line} has {len(row.fields)}" for row in bad[:SHOWN])
        more = f", and {len(bad) - SHOWN:,} more rows are wrong" if len(bad) > SHOWN else ""
        raise DataError(
            f"{path}: expected {len(names)} fields in each row, as in the first line, but {shown}{more}: repair these "
            "lines, or quote fields that contain the delimiter"
        )
    return names, rows


def _different(names: list[str], notes: list[str]) -> list[str]:
    """Return the names, with numbers where a name is empty or occurs again."""
    result: list[str] = []
    for i, name in enumerate(names):
        if re.search(r"[\r\n\t]", name):
            name = " ".join(name.split())
            notes.append(f"line breaks and tabs in the name of column {i + 1} became spaces: {name!r}")
        new, count = name or f"unnamed {i + 1}", 1
        while new in result:
            new, count = f"{name or 'unnamed'} {count + 1}", count + 1
        if new != name:
            notes.append(
                f"column {i + 1}, {'without a name' if not name else f'again called {name!r}'}, is called {new!r}"
            )
        result.append(new)
    return result


# ---------------------------------------------------------------- Parquet


def _parquet(path: Path, pd: Any) -> Frame:
    """Return the columns of a Parquet file."""
    _imported("pyarrow", "Parquet files need pyarrow")
    try:
        expect_room(ROOM * os.stat(path).st_size, f"{path}: the table", "use fewer rows or columns")
        frame = pd.read_parquet(path)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # a damaged file can raise many kinds of errors in pyarrow
        reason = " ".join(str(error).split())[:100]
        raise DataError(f"{path}: the Parquet file is damaged ({reason}): copy or save it again") from None
    return Frame(frame, Texts(), f"Parquet file {path.name}", ())
