"""Prepared data sets on disk: one folder each, written at once or not at all, checked on every load.

A folder holds ``dataset.json`` (what it is, and the SHA-256 of every other file), ``users.parquet``, ``items.parquet``,
``interactions.parquet`` and, where the source brings its own split, ``train.parquet``, ``valid.parquet`` and
``test.parquet``. Equal content gives equal bytes.
"""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recbench.artifacts.files import atomic_folder, cannot_write, read_json, write_json
from recbench.artifacts.paths import datasets_folder
from recbench.contracts.config import StrictModel
from recbench.contracts.dataset import Dataset, Interactions, ItemCatalog, ProvidedSplit
from recbench.contracts.errors import ArtifactError, DataError, UsageError
from recbench.contracts.examples import Examples
from recbench.contracts.hashing import hash_file
from recbench.data.checks import check_dataset
from recbench.data.origin import Origin

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
RECORD = "dataset.json"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_PARTS = ("train", "valid", "test")


class DatasetRecord(StrictModel):
    """The file ``dataset.json``."""

    schema_version: int = SCHEMA_VERSION
    name: str
    noun: str
    has_time: bool
    source: str
    notes: tuple[str, ...]
    users: int
    items: int
    interactions: int
    provided_split: bool
    fingerprint: str
    files: dict[str, str]
    origin: Origin | None = None


def save_dataset(
    dataset: Dataset, folder: Path | None = None, replace_old: bool = False, origin: Origin | None = None
) -> Path:
    """Check a data set and write it, all at once.

    Args:
        dataset: the data set.
        folder: where to; by default the folder of its name among the prepared ones.
        replace_old: take the place of another data set of that name.
        origin: what it was made from, where recbench made it.

    Returns:
        The folder.

    Raises:
        DataError: the data set breaks its contract, or another one has its name.
        UsageError: its name cannot be a folder name.
        ArtifactError: it cannot be written; nothing half-written is left under its name.
    """
    check_name(dataset.name)
    check_dataset(dataset)
    folder = folder or datasets_folder() / dataset.name
    with atomic_folder(folder) as temporary:
        tables = _tables(dataset)
        for file_name, table in tables.items():
            pq.write_table(table, temporary / file_name, compression="zstd")
        hashes = {file_name: hash_file(temporary / file_name) for file_name in tables}
        record = _record(dataset, hashes, origin)
        write_json(temporary / RECORD, record.model_dump(mode="json"))
        if replace_old:
            _clear(folder)
    if replace_old:
        return folder
    stored = read_record(folder)
    if (stored.fingerprint, stored.notes) != (record.fingerprint, record.notes):
        raise DataError(
            f"There is another data set '{stored.name}' in {folder} (fingerprint {stored.fingerprint}, this one has "
            f"{record.fingerprint}); it was left as it is.",
            "Give --again to replace it, or another name.",
        )
    return folder


def check_name(name: str) -> None:
    """Check that a data set can be called this: the name becomes a folder's.

    Raises:
        UsageError: it cannot.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"'{name}' cannot be the name of a data set.",
            "Use letters, digits, '_', '.' and '-', and begin with a letter or digit.",
        )


def read_dataset(folder: Path) -> Dataset:
    """Load a data set from its folder and check it: file hashes, shapes, ranges, order, references, fingerprint.

    Raises:
        DataError: the folder is not a prepared data set, is damaged, or was written by another version.
    """
    record = read_record(folder)
    try:
        for name, digest in record.files.items():
            if not (folder / name).is_file():
                raise _damaged(folder, f"{name} is missing")
            if hash_file(folder / name) != digest:
                raise _damaged(folder, f"{name} is not what was written (its SHA-256 differs)")
        dataset = _from_tables(record, {name: pq.read_table(folder / name) for name in record.files})
    except (pa.ArrowException, OSError, KeyError) as error:
        raise _damaged(folder, f"{type(error).__name__}: {error}") from error
    check_dataset(dataset)
    if dataset.fingerprint != record.fingerprint:
        raise _damaged(folder, f"its content has fingerprint {dataset.fingerprint}, expected {record.fingerprint}")
    return dataset


def stored_records() -> tuple[list[DatasetRecord], list[str]]:
    """Return the records of all prepared data sets in order of name, and messages about the unreadable ones."""
    records, problems = [], []
    for name in sorted(stored_names()):
        try:
            records.append(read_record(datasets_folder() / name).model_copy(update={"name": name}))
        except DataError as error:
            problems.append(error.message)
    return records, problems


def stored_names() -> list[str]:
    """Return the names of all prepared data sets, sound or not."""
    folder = datasets_folder()
    if not folder.is_dir():
        return []
    return [entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")]


def _damaged(folder: Path, problem: str) -> DataError:
    return DataError(
        f"The prepared data set in {folder} is damaged: {problem}.",
        f"Make it again: recbench datasets prepare {folder.name} --again; your own data: recbench datasets import ... "
        f"--name {folder.name} --again.",
    )


def read_record(folder: Path) -> DatasetRecord:
    """Read what a prepared folder says about itself.

    Raises:
        DataError: the folder is not a prepared data set, is damaged, or was written by another version.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder with a prepared data set.", "Check the path.")
    if not (folder / RECORD).is_file():
        raise _damaged(folder, f"{RECORD} is missing")
    try:
        values = read_json(folder / RECORD)
    except ArtifactError as error:
        raise _damaged(folder, error.message.rstrip(".")) from error
    version = values.get("schema_version") if isinstance(values, dict) else None
    if version != SCHEMA_VERSION:
        raise _damaged(folder, f"{RECORD} has schema_version {version!r}, this recbench reads {SCHEMA_VERSION}")
    try:
        return DatasetRecord.model_validate(values)
    except ValueError as error:
        raise _damaged(folder, f"{RECORD} is not a data set's record: {error}") from error


def _clear(folder: Path) -> None:
    """Move an old folder out of the way and delete it; under its own name it is never seen half deleted."""
    if not folder.exists():
        return
    try:
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".old", dir=folder.parent))
        folder.rename(aside / folder.name)
    except FileNotFoundError:
        logger.debug("Another process has just removed %s.", folder)
    except OSError as error:
        raise cannot_write(folder, error) from error
    shutil.rmtree(aside, ignore_errors=True)


def _record(dataset: Dataset, files: dict[str, str], origin: Origin | None) -> DatasetRecord:
    return DatasetRecord(
        name=dataset.name,
        noun=dataset.catalog.noun,
        has_time=dataset.has_time,
        source=dataset.source,
        notes=dataset.notes,
        users=len(dataset.users),
        items=len(dataset.catalog),
        interactions=len(dataset.interactions),
        provided_split=dataset.provided is not None,
        fingerprint=dataset.fingerprint,
        files=files,
        origin=origin,
    )


def _tables(dataset: Dataset) -> dict[str, pa.Table]:
    catalog, events = dataset.catalog, dataset.interactions
    items = {"item_id": pa.array(catalog.ids, pa.string()), "title": pa.array(catalog.titles, pa.string())}
    if catalog.categories is not None:
        items["categories"] = pa.array(catalog.categories, pa.string())
    columns = {"user": events.user, "item": events.item, "timestamp": events.timestamp}
    if events.rating is not None:
        columns["rating"] = events.rating
    tables = {
        "users.parquet": pa.table({"user_id": pa.array(dataset.users, pa.string())}),
        "items.parquet": pa.table(items),
        "interactions.parquet": pa.table(columns),
    }
    if dataset.provided is not None:
        for name in _PARTS:
            tables[f"{name}.parquet"] = _part_table(getattr(dataset.provided, name))
    return tables


def _from_tables(record: DatasetRecord, tables: dict[str, pa.Table]) -> Dataset:
    items, events = tables["items.parquet"], tables["interactions.parquet"]
    provided = None
    if record.provided_split:
        provided = ProvidedSplit(*(_part_examples(tables[f"{name}.parquet"]) for name in _PARTS))
    return Dataset(
        name=record.name,
        users=tuple(tables["users.parquet"]["user_id"].to_pylist()),
        catalog=ItemCatalog(
            ids=tuple(items["item_id"].to_pylist()),
            titles=tuple(items["title"].to_pylist()),
            noun=record.noun,
            categories=tuple(items["categories"].to_pylist()) if "categories" in items.column_names else None,
        ),
        interactions=Interactions(
            user=_numbers(events, "user"),
            item=_numbers(events, "item"),
            timestamp=_numbers(events, "timestamp"),
            rating=_numbers(events, "rating") if "rating" in events.column_names else None,
        ),
        has_time=record.has_time,
        provided=provided,
        source=record.source,
        notes=record.notes,
    )


def _part_table(part: Examples) -> pa.Table:
    columns = {"example_id": part.example_id, "user": part.user, "timestamp": part.timestamp}
    history = pa.LargeListArray.from_arrays(part.offsets, pa.array(part.items))
    return pa.table({**columns, "history": history, "target": part.target})


def _part_examples(table: pa.Table) -> Examples:
    lengths = table["history"].combine_chunks().value_lengths().to_numpy(zero_copy_only=False)
    return Examples(
        example_id=_numbers(table, "example_id"),
        user=_numbers(table, "user"),
        timestamp=_numbers(table, "timestamp"),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        items=table["history"].combine_chunks().flatten().to_numpy(zero_copy_only=False),
        target=_numbers(table, "target"),
    )


def _numbers(table: pa.Table, name: str) -> np.ndarray:
    return table[name].to_numpy()
