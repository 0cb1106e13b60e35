"""Writing a data set for other tools: plain tables, RecBole's atomic files, or the D3/R3 csv format.

A folder written here can be imported again. Tables and RecBole files give back the same users, items and events, so
the same fingerprint; the D3/R3 format numbers the items, and holds rows instead of events. ``about.json`` keeps what
no such file has a place for: noun, notes, source.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from recbench.artifacts.files import atomic_folder, write_json
from recbench.contracts.dataset import Dataset
from recbench.contracts.errors import DataError, UsageError
from recbench.contracts.examples import Examples
from recbench.contracts.split import Split
from recbench.data.importing import Format
from recbench.data.locate import EventIndex
from recbench.data.sources.options import ABOUT

TableFormat = Literal["tsv", "parquet"]


def export_dataset(
    dataset: Dataset, out: Path, file_format: Format, split: Split | None = None, table_format: TableFormat = "tsv"
) -> list[str]:
    """Write a data set into a new folder, all at once.

    Args:
        dataset: the data set.
        out: folder to make; it must not exist yet, or be empty.
        file_format: "table", "recbole" or "d3-csv".
        split: its rows, for "d3-csv".
        table_format: how "table" is written.

    Returns:
        The files written, relative to ``out``.

    Raises:
        UsageError: ``out`` is not empty, or "d3-csv" is asked for without a split.
        DataError: the data set does not fit the format.
        ArtifactError: it cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists and is not an empty folder.", "Choose another --out.")
    with atomic_folder(out) as folder:
        if file_format == "d3-csv":
            if split is None:
                raise UsageError("The D3/R3 csv format holds rows, so it needs a split.", "Give a split.")
            _write_d3(dataset, split, folder)
        elif file_format == "recbole":
            _write_recbole(dataset, folder)
        else:
            _write_tables(dataset, folder, table_format)
        about = {"name": dataset.name, "noun": dataset.catalog.noun, "notes": list(dataset.notes)}
        about |= {"source": dataset.source, "fingerprint": dataset.fingerprint}
        write_json(folder / ABOUT, about)
        return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def _write_tables(dataset: Dataset, folder: Path, table_format: TableFormat) -> None:
    write: Callable[[pa.Table, Path], None] = pq.write_table if table_format == "parquet" else _write_tsv
    write(_events(dataset), folder / f"interactions.{table_format}")
    write(_items(dataset), folder / f"items.{table_format}")


def _write_recbole(dataset: Dataset, folder: Path) -> None:
    types = {"user_id": "token", "item_id": "token", "title": "token_seq", "categories": "token_seq"}
    for table, suffix in ((_events(dataset), "inter"), (_items(dataset), "item")):
        names = [f"{name}:{types.get(name, 'float')}" for name in table.column_names]
        _write_tsv(table.rename_columns(names), folder / f"{dataset.name}.{suffix}")


def _events(dataset: Dataset) -> pa.Table:
    events = dataset.interactions
    # Named for what it is, so that an order is never read back as a time.
    time = "timestamp" if dataset.has_time else "position"
    columns = {
        "user_id": pa.array(dataset.users, pa.string()).take(pa.array(events.user)),
        "item_id": pa.array(dataset.catalog.ids, pa.string()).take(pa.array(events.item)),
        time: pa.array(events.timestamp),
    }
    if events.rating is not None:
        columns["rating"] = pa.array(events.rating)
    return pa.table(columns)


def _items(dataset: Dataset) -> pa.Table:
    catalog = dataset.catalog
    columns = {"item_id": pa.array(catalog.ids, pa.string()), "title": pa.array(catalog.titles, pa.string())}
    if catalog.categories is not None:
        columns["categories"] = pa.array(catalog.categories, pa.string())
    return pa.table(columns)


def _write_tsv(table: pa.Table, path: Path) -> None:
    """Write tab-separated text without quoting. Titles hold no tab or line end; an id that does is refused."""
    columns = [_tsv_texts(table[name]) for name in table.column_names]
    for name, column in zip(table.column_names, columns, strict=True):
        bad = next((value for value in column if "\t" in value or "\n" in value or "\r" in value), None)
        if bad is not None:
            raise DataError(f"{name} {bad!r} holds a tab or a line end, which this format cannot hold.", "Use parquet.")
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write("\t".join(table.column_names) + "\n")
        stream.writelines("\t".join(row) + "\n" for row in zip(*columns, strict=True))


def _tsv_texts(column: pa.ChunkedArray) -> list[str]:
    if pa.types.is_floating(column.type):
        return [str(value) for value in column.to_numpy()]  # the shortest text that gives the same number again
    return column.cast(pa.string()).to_pylist()


def _write_d3(dataset: Dataset, split: Split, folder: Path) -> None:
    index = EventIndex(dataset.interactions, len(dataset.catalog))
    parts = {"train": split.train, "valid": split.valid, "test": split.test}
    for name, part in parts.items():
        (folder / name).mkdir()
        rows = _d3_rows(dataset, part, index, name)
        # Line ends as in the published files (those of RFC 4180).
        rows.to_csv(folder / name / f"{dataset.name}.csv", index=False, lineterminator="\r\n")
    (folder / "info").mkdir()
    lines = "".join(f"{title}\t{number}\n" for number, title in enumerate(dataset.catalog.titles))
    (folder / "info" / f"{dataset.name}.txt").write_text(lines, encoding="utf-8")


def _d3_rows(dataset: Dataset, part: Examples, index: EventIndex, name: str) -> pd.DataFrame:
    target = index.locate(part)
    if (target < 0).any():
        raise DataError(
            f"{int((target < 0).sum())} {name} rows of '{dataset.name}' are no windows of their user's events, so the "
            "times of their histories are not known.",
            "Export it as a table or for RecBole.",
        )
    events, catalog = dataset.interactions, dataset.catalog
    histories = [np.arange(event - length, event) for event, length in zip(target, part.history_length, strict=True)]
    ids, titles = np.array(catalog.ids, dtype=object), np.array(catalog.titles, dtype=object)
    columns = {
        "user_id": np.array(dataset.users, dtype=object)[part.user],
        "item_asins": [ids[events.item[history]].tolist() for history in histories],
        "item_asin": ids[part.target],
        "history_item_id": [events.item[history].tolist() for history in histories],
        "item_id": part.target,
        "history_item_title": [titles[events.item[history]].tolist() for history in histories],
        "item_title": titles[part.target],
    }
    if events.rating is not None:
        columns["history_rating"] = [events.rating[history].tolist() for history in histories]
        columns["rating"] = events.rating[target]
    columns["history_timestamp"] = [events.timestamp[history].tolist() for history in histories]
    columns["timestamp"] = part.timestamp
    return pd.DataFrame(columns)
