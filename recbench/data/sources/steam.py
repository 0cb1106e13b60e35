"""Steam reviews of UCSD (W.-C. Kang and J. McAuley, "Self-attentive sequential recommendation", ICDM 2018).

Two gzip files with one *Python* literal per line (``{u'username': u'...', ...}``), not JSON. They are never evaluated:
one regular expression (RE2, linear time) reads a whole record of names, strings, numbers and words, so a text that
quotes another record cannot be mistaken for one; a line it does not match goes through ``ast.literal_eval``, and what
that refuses is an error that names the line. (``ast.literal_eval`` alone is slow on millions of lines.)

The LatentR3 paper does not say how it prepared Steam (about 108,000 users, 15,000 items, 314,000 interactions; fewer
than three each, so no 5-core). The rules here are recbench's own:

1. an event is a review with a user name: user ``username``, item ``product_id``, time 00:00 UTC of ``date``; every
   review counts as a positive one, none has a rating; reviews of one user and day keep the order of the file;
2. of several reviews of a game by one user name the earliest stays;
3. titles are ``title``, else ``app_name``, of the games file; reviews of games without title are left out;
4. users and items with fewer than five of the remaining events are left out, again and again (5-core).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from recbench.contracts.dataset import Dataset
from recbench.contracts.errors import DataError
from recbench.data.build import RawEvents, RawItems, Remarks, build_dataset
from recbench.data.sources.amazon.window import k_core
from recbench.data.tables import numbered_lines, open_binary, reading
from recbench.data.text import CATEGORY_SEPARATOR, clean_title

CORE = 5

_FIELDS = ("username", "product_id", "date")
_STRING = r"""u?'(?:[^'\\]|\\.)*'|u?"(?:[^"\\]|\\.)*\""""
_VALUE = rf"""(?:{_STRING}|[^'"\[\]{{}},]+)"""
_PAIR = "|".join([*(rf"u?'{field}': (?P<{field}>{_STRING})" for field in _FIELDS), rf"u?'[a-z_]+': {_VALUE}"])
_RECORD = rf"^\{{(?:(?:{_PAIR})(?:, |\}}))+\s*$"
_BLOCK_BYTES = 1 << 24
_BAD_LINE = "Each line holds one Python dictionary; the file may be cut off or not be the one of UCSD."


def steam(reviews: Path, games: Path) -> Dataset:
    """Make the Steam data set from its two raw files, plain or gzip.

    Raises:
        DataError: a file is damaged or a line of it wrong (names the line), or nothing is left.
    """
    titles, genres = _read_games(games)
    remarks = Remarks()
    columns = _read_reviews(reviews)
    named = pc.not_equal(pc.utf8_trim_whitespace(columns["username"]), "")
    nameless = len(columns) - pc.sum(named).as_py()
    if nameless:
        remarks.say(f"{nameless:,} reviews have no user name, left out")
        columns = columns.filter(named)
    n_reviews = len(columns)
    users = columns["username"].combine_chunks().dictionary_encode()
    items = columns["product_id"].combine_chunks().dictionary_encode()
    user, item = (codes.indices.to_numpy().astype(np.int64) for codes in (users, items))
    day = columns["date"].to_numpy()
    kept = _first_of_each_pair(user, item, day)
    remarks.say(f"{n_reviews - len(kept):,} of {n_reviews:,} reviews repeat a user and a game, left out")
    titled = np.array([bool(titles.get(game)) for game in items.dictionary.to_pylist()])
    n_before = len(kept)
    kept = kept[titled[item[kept]]]
    remarks.say(f"{n_before - len(kept):,} reviews are of games without title, left out")
    stays = k_core(user[kept].astype(np.int32), item[kept].astype(np.int32), CORE)
    kept = kept[stays if stays is not None else []]
    if not len(kept):
        raise DataError(
            f"{reviews}: no user and game with {CORE} reviews each is left.",
            "Check that both files are whole, and belong together.",
        )
    remarks.say(f"{len(kept):,} reviews remain in the {CORE}-core")
    rows = pa.array(kept)
    known = items.dictionary.take(pa.array(item[kept])).unique().to_pylist()
    return build_dataset(
        "steam",
        RawEvents(
            str(reviews),
            columns["username"].take(rows),
            columns["product_id"].take(rows),
            pa.chunked_array([pa.array(day[kept] * 86_400)]),
        ),
        RawItems(str(games), known, [titles[game] for game in known], [genres[game] for game in known]),
        source="Steam reviews of UCSD, by recbench's own rules: the paper's are not published",
        noun="games",
        remarks=remarks,
    )


def _first_of_each_pair(user: np.ndarray, item: np.ndarray, day: np.ndarray) -> np.ndarray:
    """Return the rows that are a user's earliest review of a game (equal days: the first of the file), in order."""
    order = np.lexsort((day, item, user))
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = (user[order][1:] != user[order][:-1]) | (item[order][1:] != item[order][:-1])
    return np.sort(order[is_first])


def _read_reviews(path: Path) -> pa.Table:
    """Return ``username`` and ``product_id`` (text) and ``date`` (days since 1970), review by review."""
    options = pa.csv.ReadOptions(column_names=["line"], block_size=_BLOCK_BYTES, use_threads=False)
    # Anything but a character that ends lines: the file has none of these.
    whole_lines = pa.csv.ParseOptions(delimiter="\x1f", quote_char=False, escape_char=False)
    text = pa.csv.ConvertOptions(column_types={"line": pa.string()}, strings_can_be_null=False)
    columns: list[pa.Table] = []
    with reading(path, "utf-8"), open_binary(path) as stream:
        for batch in pa.csv.open_csv(stream, options, whole_lines, text):
            values = _fields_of(batch["line"])
            if values is None:
                return _read_reviews_by_line(path)
            columns.append(pa.table(values))
    if not columns:
        raise DataError(f"{path} is empty.", "Download or copy it again.")
    table = pa.concat_tables(columns)
    days = _days(table["date"])
    return _read_reviews_by_line(path) if days is None else table.set_column(2, "date", days)


def _fields_of(lines: pa.Array) -> dict[str, pa.Array] | None:
    """Return the wanted fields of every line; None where a line has not all of them."""
    found = pc.extract_regex(lines, _RECORD)
    # Groups that took no part in a match are empty; a literal has its quotes at least.
    literals = {name: pc.fill_null(pc.struct_field(found, name), "") for name in _FIELDS}
    odd = pc.equal(pc.min_element_wise(*(pc.utf8_length(column) for column in literals.values())), 0)
    values = {name: _unquoted(column) for name, column in literals.items()}
    if not pc.any(odd).as_py():
        return values
    records = [_record(line) for line in lines.filter(odd).to_pylist()]
    if any(record is None or not all(isinstance(record.get(name), str) for name in _FIELDS) for record in records):
        return None
    for name in _FIELDS:
        parsed = pa.array([record[name] for record in records if record], pa.string())
        values[name] = pc.replace_with_mask(values[name], odd, parsed)
    return values


def _unquoted(literals: pa.Array) -> pa.Array:
    """Return the values of Python string literals; only those with an escape need more than a cut."""
    values = pc.utf8_slice_codeunits(pc.utf8_ltrim(literals, "u"), 1, -1)
    escaped = pc.match_substring(literals, "\\")
    if not pc.any(escaped).as_py():
        return values
    rewritten = pa.array([ast.literal_eval(text) for text in literals.filter(escaped).to_pylist()], pa.string())
    return pc.replace_with_mask(values, escaped, rewritten)


def _days(dates: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """Return int64 days since 1970 of dates such as 2017-05-31; None where one is no such date."""
    try:
        return dates.cast(pa.date32()).cast(pa.int32()).cast(pa.int64())
    except pa.ArrowInvalid:
        return None


def _read_reviews_by_line(path: Path) -> pa.Table:
    """Read like :func:`_read_reviews`, slowly: a line that is not to be read is named."""
    values: dict[str, list[Any]] = {name: [] for name in _FIELDS}
    for number, record in _records(path):
        for name in _FIELDS:
            value = record.get(name)
            if not isinstance(value, str):
                raise DataError(f"{path}, line {number}: no text under '{name}'.", _BAD_LINE)
            values[name].append(value)
        try:
            values["date"][-1] = int(np.datetime64(values["date"][-1], "D").astype(int))
        except ValueError:
            raise DataError(
                f"{path}, line {number}: the date {record['date']!r} is none.", "Dates are written 2017-05-31."
            ) from None
    types = (pa.string(), pa.string(), pa.int64())
    return pa.table({name: pa.array(values[name], kind) for name, kind in zip(_FIELDS, types, strict=True)})


def _read_games(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return title and genres by game id; a game described twice keeps its first description."""
    titles: dict[str, str] = {}
    genres: dict[str, str] = {}
    for number, record in _records(path):
        game = record.get("id")
        if game is None:
            continue  # a few games have neither id nor reviews
        if not isinstance(game, str | int):
            raise DataError(f"{path}, line {number}: the id {game!r} is neither text nor a number.", _BAD_LINE)
        if str(game) not in titles:
            titles[str(game)] = clean_title(str(record.get("title") or record.get("app_name") or ""))
            genres[str(game)] = CATEGORY_SEPARATOR.join(map(str, record.get("genres") or ()))
    return titles, genres


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with reading(path, "utf-8"):
        for number, line in numbered_lines(path):
            record = _record(line)
            if record is None:
                raise DataError(f"{path}, line {number}: not a Python dictionary ({line[:60]!r}...).", _BAD_LINE)
            yield number, record


def _record(line: str) -> dict[str, Any] | None:
    """Return the dictionary that a line writes as a Python literal, or None where it writes something else."""
    try:
        record = ast.literal_eval(line.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
