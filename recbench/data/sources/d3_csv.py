"""The csv files of the D3 and R3 (LatentR3) preprocessing: ready-made rows with history and target, and an item list.

A row has ``user_id``, ``history_item_id``, ``item_id``, ``history_timestamp``, ``timestamp`` (and ratings, titles and
asins); lists are Python literals. The item list has one line ``title<TAB>number`` per item. Item ids here are these
numbers; titles are those of the item list, scraped markup included.

Each user's rows are windows that slide over one sequence of events, so the events are put together again from them.
Where the training file is missing (the published CDs files), the training rows are recovered: every event of such a
sequence but its first, if it lies strictly before the first validation row.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from recbench.contracts.dataset import Dataset, Interactions, ItemCatalog, ProvidedSplit
from recbench.contracts.errors import DataError
from recbench.contracts.examples import Examples, build_examples, overlap
from recbench.data.build import Remarks, build_titles
from recbench.data.sources.options import ImportOptions
from recbench.data.tables import open_table, read_columns, read_lines
from recbench.data.window import position_in_user, rows_in_time_order, window_examples

#: Stands in ``Dataset.notes`` where the training file is missing.
RECOVERED_NOTE = "train part recovered from histories"

ROLES = ("train", "valid", "test", "info")
_COLUMNS = ("user_id", "history_item_id", "item_id", "history_timestamp", "timestamp")
_RATINGS = ("history_rating", "rating")
_HISTORY = 10


@dataclass(frozen=True)
class _Row:
    """One row of a csv file."""

    user: int
    items: list[int]
    times: list[int]
    ratings: list[float] | None
    target: int
    time: int
    rating: float | None


@dataclass
class _Sequence:
    """What the rows of one user show of their events, oldest first.

    Attributes:
        events: (item, time) each.
        ratings: one per event, None where the files have none.
        gaps: rows that do not go on where the earlier ones ended.
    """

    events: list[tuple[int, int]] = field(default_factory=list)
    ratings: list[float | None] = field(default_factory=list)
    gaps: int = 0

    def extend(self, row: _Row) -> None:
        """Add what a row shows beyond what is known already."""
        history = list(zip(row.items, row.times, strict=True))
        known = overlap(self.events, history)
        self.gaps += bool(self.events) and known == 0
        self.events += [*history[known:], (row.target, row.time)]
        ratings = row.ratings if row.ratings is not None else [None] * len(history)
        self.ratings += [*ratings[known:], row.rating]


def find_d3_files(paths: Sequence[Path]) -> dict[str, Path]:
    """Return role ("train", "valid", "test", "info") -> file; "train" may be missing.

    A file's role is seen from its name (``valid.csv.gz``) or its folder's (``valid/CDs_and_Vinyl_5.csv``).

    Raises:
        DataError: valid, test or info is missing, or a role has several files.
    """
    files = [file for path in paths for file in (_files_below(path) if path.is_dir() else [path])]
    found: dict[str, list[Path]] = {role: [file for file in files if _role(file) == role] for role in ROLES}
    where = ", ".join(map(str, paths))
    for role, candidates in found.items():
        if len(candidates) > 1:
            names = ", ".join(f"{file.parent.name}/{file.name}" for file in candidates)
            raise DataError(
                f"{where} has {len(candidates)} {role} files: {names}.",
                "Give the files themselves: recbench datasets import train/X.csv valid/X.csv test/X.csv info/X.txt",
            )
        if not candidates and role != "train":
            raise DataError(
                f"{where} has no {role} file of the D3/R3 csv format.",
                "Expected valid, test and info files (and train, if there is one), flat (valid.csv) or in folders of "
                "these names (valid/X.csv), each also with .gz.",
            )
    return {role: candidates[0] for role, candidates in found.items() if candidates}


def import_d3_csv(paths: Sequence[Path], options: ImportOptions, remarks: Remarks) -> Dataset:
    """Import a folder with the files, or the files themselves.

    With a training file the split is the rows as they are; without it the training rows are recovered, and the notes
    say so.

    Raises:
        DataError: a file is missing or wrong; names the file and the data row.
    """
    files = find_d3_files(paths)
    titles = _read_info(files["info"], options.encoding)
    users: dict[str, int] = {}
    rows = {role: _read_rows(files[role], options.encoding, users, len(titles)) for role in ROLES[:3] if role in files}
    sequences = _stitch(rows, len(users))
    gaps = sum(sequence.gaps for sequence in sequences)
    if gaps:
        remarks.notes.append(f"rows that do not go on where their user's earlier rows end: {gaps:,}")
    interactions = _interactions(sequences)
    train = _numbered(rows["train"], 0) if "train" in rows else _recover_train(interactions, rows["valid"])
    if "train" not in rows and RECOVERED_NOTE not in remarks.notes:
        remarks.notes.append(RECOVERED_NOTE)
        remarks.say(f"there is no train file: {len(train):,} training rows were recovered from histories")
    valid = _numbered(rows["valid"], len(train))
    provided = ProvidedSplit(train, valid, _numbered(rows["test"], len(train) + len(valid)))
    names = [file.name for file in files.values()]
    noun = options.choose_noun(names, remarks)
    cleaned = build_titles(titles, str(files["info"]), remarks, options.unescape_html)
    return Dataset(
        name=options.name,
        users=tuple(users),
        catalog=ItemCatalog(tuple(map(str, range(len(titles)))), cleaned, noun),
        interactions=interactions,
        provided=provided,
        source="; ".join([f"D3/R3 csv files {', '.join(names)}", *remarks.done]),
        notes=tuple(remarks.notes),
    )


def _files_below(folder: Path) -> list[Path]:
    children = sorted(folder.iterdir())
    nested = [file for child in children if child.is_dir() and child.name in ROLES for file in sorted(child.iterdir())]
    return [file for file in [*children, *nested] if file.is_file()]


def _role(file: Path) -> str | None:
    stem = file.name.split(".")[0].lower()
    if not {".csv", ".txt"} & set(file.suffixes):
        return None
    return next((role for role in ROLES if role in (stem, file.parent.name.lower())), None)


def _read_info(path: Path, encoding: str) -> list[str]:
    """Return the titles in the order of their numbers, which must be 0, 1, 2, ..."""
    titles = []
    for number, line in enumerate(read_lines(path, encoding)):
        title, tab, item = line.rpartition("\t")
        if not tab or item.strip() != str(number):
            raise DataError(
                f"{path}, line {number + 1}: {line[:80]!r}, expected a title, a tab and the item number {number}.",
                "The item list holds one line per item, numbered from 0 without gaps.",
            )
        titles.append(title)
    return titles


def _read_rows(path: Path, encoding: str, users: dict[str, int], n_items: int) -> list[_Row]:
    file = open_table(path, encoding)
    missing = [column for column in _COLUMNS if column not in file.columns]
    if missing:
        raise DataError(
            f"{path} lacks the column '{missing[0]}' of the D3/R3 csv format. Found: {', '.join(file.columns)}.",
            "If it is a table of interactions, give --format table.",
        )
    has_ratings = all(column in file.columns for column in _RATINGS)
    table = read_columns(file, [*_COLUMNS, *(_RATINGS if has_ratings else ())])
    columns = {name: table[name].to_pylist() for name in table.column_names}
    rows = []
    for number in range(table.num_rows):
        values = {name: column[number] for name, column in columns.items()}
        try:
            row = _parse_row(values, users)
        except (ValueError, SyntaxError, TypeError) as error:
            raise DataError(f"{path}: data row {number + 1} cannot be read: {error}.", "Check that row.") from None
        _check_row(row, f"{path}: data row {number + 1}", n_items)
        rows.append(row)
    return rows


def _parse_row(values: Mapping[str, str], users: dict[str, int]) -> _Row:
    items, times = _numbers(values["history_item_id"]), _numbers(values["history_timestamp"])
    ratings = _numbers(values["history_rating"]) if "rating" in values else None
    if not len(items) == len(times) == (len(items) if ratings is None else len(ratings)):
        raise ValueError("its history lists differ in length")
    return _Row(
        user=users.setdefault(values["user_id"].strip(), len(users)),
        items=[int(item) for item in items],
        times=[int(time) for time in times],
        ratings=None if ratings is None else [float(rating) for rating in ratings],
        target=int(values["item_id"]),
        time=int(float(values["timestamp"])),
        rating=float(values["rating"]) if "rating" in values else None,
    )


def _numbers(text: str) -> list[Any]:
    """Parse a list of numbers. JSON reads nearly all of them, much faster than Python's own parser."""
    try:
        values = json.loads(text)
    except json.JSONDecodeError:
        values = ast.literal_eval(text)
    if not isinstance(values, list):
        raise ValueError(f"expected a list, found {text[:40]!r}")
    return values


def _check_row(row: _Row, where: str, n_items: int) -> None:
    if not row.items:
        raise DataError(f"{where} has an empty history.", "Every row needs at least one earlier item.")
    wrong = next((item for item in (*row.items, row.target) if not 0 <= item < n_items), None)
    if wrong is not None:
        raise DataError(
            f"{where} has the item {wrong}, and the info file has the items 0 to {n_items - 1}.",
            "Check that the info file belongs to these rows.",
        )
    if max(row.times) > row.time:
        raise DataError(f"{where} has a history item that is later than its target.", "Its times are wrong.")


def _stitch(rows: Mapping[str, list[_Row]], n_users: int) -> list[_Sequence]:
    sequences = [_Sequence() for _ in range(n_users)]
    for role in ROLES[:3]:
        for row in rows.get(role, ()):
            sequences[row.user].extend(row)
    return sequences


def _interactions(sequences: Sequence[_Sequence]) -> Interactions:
    """Lay all sequences one after the other; within a user by time, equal times as they were."""
    user = np.repeat(np.arange(len(sequences), dtype=np.int32), [len(sequence.events) for sequence in sequences])
    item, time = np.array([event for sequence in sequences for event in sequence.events], dtype=np.int64).T
    order = np.lexsort((time, user))
    ratings = [rating for sequence in sequences for rating in sequence.ratings]
    rating = None if None in ratings else np.array(ratings, dtype=np.float32)[order]
    return Interactions(user, item[order].astype(np.int32), time[order], rating)


def _recover_train(interactions: Interactions, valid: Sequence[_Row]) -> Examples:
    position = position_in_user(interactions.user)
    events = rows_in_time_order(interactions, position)
    first_valid = min(row.time for row in valid)
    events = events[interactions.timestamp[events] < first_valid]
    if not len(events):
        raise DataError(
            "No event before the first validation row can be recovered, so there are no training rows.",
            "Import a train file too.",
        )
    return window_examples(interactions, position, events, np.arange(len(events)), _HISTORY)


def _numbered(rows: Sequence[_Row], first_id: int) -> Examples:
    return build_examples(
        range(first_id, first_id + len(rows)),
        [row.user for row in rows],
        [row.time for row in rows],
        [row.items for row in rows],
        [row.target for row in rows],
    )
