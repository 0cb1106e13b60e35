"""Anybody's tables: one of interactions and one of items, in any common format.

Columns are named by the user or guessed from the names in common use; every guess is logged and kept in
``Dataset.source``. Interactions may also come as sequences: one row per user, with item ids separated by blanks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from recbench.contracts.dataset import Dataset
from recbench.contracts.errors import DataError
from recbench.data.build import RawEvents, RawItems, Remarks, as_ids, build_dataset, is_numeric
from recbench.data.columns import Columns, Role, guess_column
from recbench.data.sources.options import ABOUT, ImportOptions
from recbench.data.tables import TableFile, open_table, read_columns, table_suffix
from recbench.data.text import CATEGORY_SEPARATOR

# Descriptions that lie beside tables and are no tables themselves.
_NOT_TABLES = (ABOUT, "SOURCE.json", "STATS.json", "dataset.json")


def import_table(paths: Sequence[Path], options: ImportOptions, remarks: Remarks) -> Dataset:
    """Import a folder that holds the tables, or the files themselves.

    Raises:
        DataError: a file, column or value is wrong; names it.
    """
    events, items = find_tables(paths, options)
    names = [file.path.name for file in (events, items) if file]
    return dataset_from_tables(events, items, options, remarks, source=f"tables {' and '.join(names)}")


def find_tables(paths: Sequence[Path], options: ImportOptions) -> tuple[TableFile, TableFile | None]:
    """Return the table of interactions and that of items (None where there is none), told apart by their columns.

    Raises:
        DataError: there is no table of interactions, or more than one of a kind.
    """
    files = [open_table(path, options.encoding) for path in _table_paths(paths)]
    where = ", ".join(map(str, paths))
    events = [file for file in files if _is_events(file, options.columns)]
    if not events:
        events = [file for file in files if _is_events(file, {})]
    if not events and files and not any(path.is_dir() for path in paths):
        events = files[:1]  # named by the user: what it lacks is said when it is read
    if not events:
        seen = "; ".join(f"{file.path.name}: {', '.join(file.columns)}" for file in files) or "no table at all"
        raise DataError(
            f"{where} has no table of interactions, that is, none with columns for user and item. Found: {seen}.",
            "Name the columns with --user-col and --item-col; the first line must be a header with column names.",
        )
    items = [file for file in files if file not in events]
    if any(path.is_dir() for path in paths):
        items = [file for file in items if _has(file, "item", options.columns) or _has(file, "item", {})]
    for kind, found in (("interactions", events), ("items", items)):
        if len(found) > 1:
            raise DataError(
                f"{where} has {len(found)} tables of {kind}: {', '.join(file.path.name for file in found)}.",
                "Give the two files themselves: recbench datasets import INTERACTIONS ITEMS --name NAME",
            )
    return events[0], items[0] if items else None


def dataset_from_tables(
    events: TableFile, items: TableFile | None, options: ImportOptions, remarks: Remarks, source: str
) -> Dataset:
    """Read two tables and build the data set.

    Args:
        events: table of interactions, or of sequences.
        items: table of items, or None; a title column among the interactions then names the items.
        options: settings of the import.
        remarks: what was said so far.
        source: where the tables come from, in words.

    Raises:
        DataError: a column or value is wrong.
    """
    columns = Columns(options.columns)
    raw_items = _read_items(items, options, columns) if items else None
    if _is_sequences(events, options.columns):
        raw_events = _read_sequences(events, columns)
        remarks.say(f"{events.path.name} holds one sequence of items per user, taken as their order in time")
    else:
        raw_events = _read_events(events, columns, remarks)
        if raw_events.time is None and raw_events.position is None:
            remarks.say(f"{events.path.name} has no column of times or positions: its rows are taken as in time order")
        if raw_items is None:
            raw_items = _items_of_events(events, columns)
    for sentence in columns.sentences():
        remarks.say(sentence)
    if "split" in events.columns:
        remarks.say(f"the column 'split' of {events.path.name} is not used: recbench makes the split itself")
    names = [file.path.name for file in (events, items) if file]
    return build_dataset(
        options.name,
        raw_events,
        raw_items,
        source=source,
        noun=options.choose_noun(names, remarks),
        remarks=remarks,
        unescape_html=options.unescape_html,
    )


def _table_paths(paths: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.is_file() and table_suffix(file))
            files += [file for file in inside if file.name not in _NOT_TABLES]
        else:
            files.append(path)
    return files


def _has(file: TableFile, role: Role, given: Mapping[Role, str]) -> bool:
    return given[role] in file.columns if role in given else guess_column(file, role) is not None


def _is_events(file: TableFile, given: Mapping[Role, str]) -> bool:
    return _has(file, "user", given) and (_has(file, "item", given) or _has(file, "items", given))


def _is_sequences(file: TableFile, given: Mapping[Role, str]) -> bool:
    return "items" in given or (not _has(file, "item", given) and _has(file, "items", given))


def _read_events(file: TableFile, columns: Columns, remarks: Remarks) -> RawEvents:
    names = {"user_id": columns.require(file, "user"), "item_id": columns.require(file, "item")}
    optional: tuple[Role, ...] = ("time", "position", "rating")
    for role in optional:
        column = columns.find(file, role)
        if column is not None:
            names[role] = column
    table = read_columns(file, list(dict.fromkeys(names.values())))
    values = {role: table[column] for role, column in names.items()}
    if "rating" in values and "rating" not in columns.given and not is_numeric(values["rating"]):
        remarks.say(f"the column '{names['rating']}' is not all numbers, so ratings were left out")
        del values["rating"]
    return RawEvents(str(file.path), **values)


def _read_sequences(file: TableFile, columns: Columns) -> RawEvents:
    user, items = columns.require(file, "user"), columns.require(file, "items")
    table = read_columns(file, [user, items])
    lists = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(table[items].combine_chunks().cast(pa.large_string())))
    users = table[user].combine_chunks().take(pc.list_parent_indices(lists))
    return RawEvents(str(file.path), pa.chunked_array([users]), pa.chunked_array([pc.list_flatten(lists)]))


def _read_items(file: TableFile, options: ImportOptions, columns: Columns) -> RawItems:
    # A column name given for the item may be meant for the interactions only.
    given = {role: name for role, name in options.columns.items() if role != "item" or name in file.columns}
    own = Columns(given, columns.guessed)
    return _items(file, own.require(file, "item"), own.require(file, "title"), own.find(file, "categories"))


def _items_of_events(file: TableFile, columns: Columns) -> RawItems | None:
    """Read the titles that stand beside the events, where there is no item table; None where there are none."""
    title = columns.find(file, "title")
    return _items(file, columns.require(file, "item"), title, columns.find(file, "categories")) if title else None


def _items(file: TableFile, item: str, title: str, categories: str | None) -> RawItems:
    table = read_columns(file, list(dict.fromkeys([item, title, *([categories] if categories else [])])))
    return RawItems(
        where=str(file.path),
        item_id=as_ids(table[item], "item id", str(file.path)).to_pylist(),
        title=_texts(table[title]),
        categories=_texts(table[categories]) if categories else None,
    )


def _texts(column: pa.ChunkedArray) -> list[str | None]:
    """Return texts; lists (as Parquet may hold them) are joined."""
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return [None if parts is None else CATEGORY_SEPARATOR.join(map(str, parts)) for parts in column.to_pylist()]
    return column.cast(pa.large_string()).to_pylist()
