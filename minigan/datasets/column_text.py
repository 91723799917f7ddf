"""Recognise numbers, dates and booleans that are written as text.

All functions take the different texts of a column, without missing ones, and return None if they do not fit.
"""

import datetime
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

MISSING = ("", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "Null", "null", "None", "?")
WORDS = 5  # a column of numbers or dates may have so many different words, which then count as missing ...
WORDS_SHARE = 0.05  # ... if this share of its values, or a smaller one, are words ...
PLACEHOLDERS = frozenset(  # words that stand for a missing number or date in any share of the rows
    "- -- . .. * na nan n/a n.a. k.a. none null nil missing unknown #n/a #value! #div/0! #ref! #num!".split()
)
NUMBERS = 10  # ... and it has more different numbers or dates; otherwise all texts are a category
UNITS = ("D", "h", "m", "s", "ms", "us", "ns")  # of dates, coarsest first

INTEGER = re.compile(r"[+-]?(0|[1-9]\d*)")
FLOAT = re.compile(r"[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|Inf|INF|infinity|Infinity)")
THOUSANDS = re.compile(r"[+-]?([1-9]\d{0,2}([ ,'\u00a0\u202f])\d{3}(\2\d{3})*|0|[1-9]\d*)(\.\d+)?")
COMMA = re.compile(r"[+-]?([1-9]\d{0,2}([. '\u00a0\u202f])\d{3}(\2\d{3})*|0|[1-9]\d*)(,\d+)?([eE][+-]?\d+)?")
NEGATIVE = re.compile(r"\(\s*([^()]*?)\s*\)")  # as in accounts
SYMBOL = re.compile(r"([+-]?)\s*([$\u20ac\u00a3\u00a5]?)\s*(.*?)\s*([%\u20ac\u00a3\u00a5]?)")
ISO = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(?P<f>\.\d{1,6})?)?)?(?P<z> ?Z| ?UTC| ?[+-]\d{2}:?\d{2})?")
DATES = (
    "%Y/%m/%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%m-%d-%Y", "%d-%m-%Y", "%d.%m.%y", "%m/%d/%y", "%d/%m/%y",
    "%d-%b-%Y", "%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%b %d %Y",
)  # fmt: skip
TIMES = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p")
SWAPPED = {"%m/%d": "%d/%m", "%m-%d": "%d-%m"}  # ambiguous if no day is above 12


class Found(NamedTuple):
    """The values of texts."""

    values: np.ndarray  # (K,) of int64, uint64, float64, bool or datetime64[us]
    note: str = ""  # what was assumed, as the end of a sentence "numbers ..."
    format: str | None = None  # of dates, as for strftime; None for ISO 8601
    zone: str | None = None  # of dates


def numbers(texts: list[str], decimal_comma: bool = False) -> Found | None:
    """Return the texts as numbers: plain ones, with separators of thousands, a decimal comma, or one symbol for all.

    (12.5) is -12.5 if other texts have no parentheses. `decimal_comma` says that other columns of the file have
    decimal commas, which decides how "1,234" and "1.234" are read. Texts with leading zeros, such as 00123, are codes
    and no numbers.
    """
    if not texts:
        return None
    notes = []
    texts = [text.replace("\u2212", "-") for text in texts]  # a minus sign that is no hyphen
    inside = [NEGATIVE.fullmatch(text) for text in texts]
    if any(inside) and not all(inside):
        texts = [f"-{match[1]}" if match else text for text, match in zip(texts, inside, strict=True)]
        notes.append("with parentheses around negative numbers")
    symbols = [match for text in texts if (match := SYMBOL.fullmatch(text))]
    if len(symbols) != len(texts):
        return None
    marks = {(match[2], match[4]) for match in symbols}
    if len(marks) == 1 and marks != {("", "")}:
        texts = [match[1] + match[3] for match in symbols]
        notes.append(f"without the symbol {''.join(*marks)}")
    for pattern, removed, what in _forms(decimal_comma):
        if all(map(pattern.fullmatch, texts)):
            table = str.maketrans({"," if what == "comma" else "\0": "."} | dict.fromkeys(removed))
            changed = [text.translate(table) for text in texts]
            said = notes[:]
            if changed != texts:
                commas = what == "comma" and any("," in text for text in texts)
                said.append("with decimal commas" if commas else "with separators of thousands")
            values = _converted(changed)
            return None if values is None else Found(values, ", ".join(said))
    return None


def _forms(decimal_comma: bool) -> list[tuple[re.Pattern, str, str]]:
    """Return (pattern of all texts, characters to remove, name) of the ways to write numbers, the likeliest first."""
    forms = [
        (FLOAT, "", "plain"),
        (THOUSANDS, " ,'\u00a0\u202f", "thousands"),
        (COMMA, ". '\u00a0\u202f", "comma"),
    ]
    return [forms[2], *forms[:2]] if decimal_comma else forms


def has_decimal_comma(texts: list[str]) -> bool:
    """Return whether the texts are numbers that must have decimal commas, such as 1,5."""
    return bool(texts) and all(map(COMMA.fullmatch, texts)) and not all(map(THOUSANDS.fullmatch, texts))


def _converted(texts: list[str]) -> np.ndarray | None:
    """Convert plain numbers to int64, uint64 or float64. Returns None if one is too large."""
    if all(map(INTEGER.fullmatch, texts)):
        whole = [int(text) for text in texts]
        for dtype in (np.int64, np.uint64):
            if np.iinfo(dtype).min <= min(whole) and max(whole) <= np.iinfo(dtype).max:
                return np.array(whole, dtype)
        return None  # a text, because float64 would change it
    values = np.array([float(text) for text in texts])
    written = np.array(["inf" in text.casefold() for text in texts])
    return None if (np.isinf(values) != written).any() else values


def mostly(
    texts: list[str], counts: np.ndarray, read: Callable[[list[str]], Found | None]
) -> tuple[Found, list[int]] | None:
    """Return (the texts as numbers or dates, the indices of words among them), given the rows (K,) of each text.

    `read` is what all others must fit. The value of a word has no meaning. Returns None if there is no word, or if
    there are too many: see WORDS and PLACEHOLDERS.
    """
    usual = [text.casefold() in PLACEHOLDERS for text in texts]
    words = [i for i, text in enumerate(texts) if usual[i] or not (re.search(r"\d", text) or FLOAT.fullmatch(text))]
    unusual = sum(counts[i] for i in words if not usual[i])
    if not 0 < len(words) <= WORDS or unusual > WORDS_SHARE * counts.sum():
        return None
    rest = [i for i in range(len(texts)) if i not in words]
    found = None if len(rest) <= NUMBERS else read([texts[i] for i in rest])
    if found is None:
        return None
    values = np.zeros(len(texts), found.values.dtype)
    values[rest] = found.values
    return found._replace(values=values), words


def booleans(texts: list[str], more: bool = False) -> Found | None:
    """Return the texts as booleans if they are true and false, in any case. `more` also accepts yes, no, 1, 0, ..."""
    words = {"true": True, "false": False}
    if more:
        words |= dict.fromkeys(("yes", "y", "t", "1", "on"), True) | dict.fromkeys(("no", "n", "f", "0", "off"), False)
    if not texts or not all(text.casefold() in words for text in texts):
        return None
    return Found(np.array([words[text.casefold()] for text in texts]))


def dates(texts: list[str], more: bool = False) -> Found | None:
    """Return the texts as dates if all have one format: ISO 8601, or one of DATES with one of TIMES.

    `more` also accepts 20200131. Dates with an offset from UTC are converted to UTC.
    """
    if not texts or not all(re.search(r"\d", text) and 6 <= len(text) <= 40 for text in texts[:20]):
        return None
    matches = [ISO.fullmatch(text) for text in texts]
    if all(matches):
        return _iso(texts, [bool(match and match["z"]) for match in matches])
    formats = [date + time for date in DATES for time in TIMES] + (["%Y%m%d"] if more else [])
    for form in formats:
        found = _parsed(texts, form)
        if found is None:
            continue
        note, swapped = "", SWAPPED.get(form[:5])
        if swapped and _parsed(texts, swapped + form[5:]) is not None:
            note = f"as month and day, because no date shows their order ({texts[0]}, ...): write 2020-01-31 if not"
        return Found(found, note, form)
    return None


def _iso(texts: list[str], zoned: list[bool]) -> Found | None:
    """Return texts that match ISO as dates, or None if one is impossible or only some of them have a zone."""
    if any(zoned) != all(zoned):
        return None
    try:
        read = [datetime.datetime.fromisoformat(re.sub(r" ?(Z|UTC)$", "+00:00", text)) for text in texts]
        if any(zoned):
            read = [moment.astimezone(datetime.UTC).replace(tzinfo=None) for moment in read]
    except (ValueError, OverflowError):
        return None
    away = any(zoned) and not all(re.search(r"(Z|UTC|[+-]00:?00)$", text) for text in texts)
    return Found(
        np.array(read, "datetime64[us]"),
        note="in UTC, converted from the offsets in the file" if away else "",
        format=_iso_format(texts),
        zone="UTC" if any(zoned) else None,
    )


def _iso_format(texts: list[str]) -> str | None:
    """Return the format that all texts have, without fractions of a second and with no zone but Z, or None."""
    for form in ("%Y-%m-%d", "%Y-%m-%d{}%H:%M", "%Y-%m-%d{}%H:%M:%S"):
        shape = re.sub("%.", "00", form.replace("%Y", "0000"))
        for mark, end in ((mark, end) for mark in " T" for end in ("", "Z")):
            if {re.sub(r"\d", "0", text) for text in texts} == {shape.format(mark) + end}:
                return form.format(mark) + end
    return None


def _parsed(texts: list[str], form: str) -> np.ndarray | None:
    """Return texts of one format as dates, or None."""
    read: list[datetime.datetime] = []
    parse: Callable[[str, str], datetime.datetime] = datetime.datetime.strptime
    try:
        for text in texts:
            read.append(parse(text, form))
    except ValueError:
        return None
    return np.array(read, "datetime64[us]")
