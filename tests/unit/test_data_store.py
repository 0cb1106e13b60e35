"""Prepared folders: what is written comes back, and what was damaged is never loaded."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recbench.contracts.dataset import Dataset, ProvidedSplit
from recbench.contracts.errors import DataError, UsageError
from recbench.contracts.hashing import hash_file
from recbench.contracts.protocol import Protocol
from recbench.data import folders
from recbench.data.folders import RECORD, read_dataset, save_dataset, stored_records
from recbench.data.split import make_split
from recbench.data.store import load_dataset
from recbench.testing.tiny import tiny_dataset


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RECBENCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def full_dataset() -> Dataset:
    """Return a data set with everything a data set can have."""
    dataset = tiny_dataset()
    split = make_split(dataset, Protocol())
    rating = np.linspace(0, 5, len(dataset.interactions), dtype=np.float32)
    return replace(
        dataset,
        interactions=replace(dataset.interactions, rating=rating),
        provided=ProvidedSplit(split.train, split.valid, split.test),
        notes=("a note",),
    )


@pytest.mark.parametrize("dataset", [tiny_dataset(), full_dataset()], ids=["plain", "full"])
def test_what_is_saved_comes_back(dataset: Dataset) -> None:
    save_dataset(dataset)
    loaded = load_dataset("tiny")
    assert loaded.fingerprint == dataset.fingerprint
    assert (loaded.name, loaded.notes, loaded.source) == (dataset.name, dataset.notes, dataset.source)
    assert loaded.catalog == dataset.catalog
    assert loaded.users == dataset.users
    assert loaded.interactions.user.dtype == np.int32
    if dataset.provided and loaded.provided:
        assert loaded.provided.valid.fingerprint == dataset.provided.valid.fingerprint
    assert stored_records()[0][0].interactions == len(dataset.interactions)


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    folders = [save_dataset(full_dataset(), tmp_path / name) for name in ("a", "b")]
    for file in folders[0].iterdir():
        assert hash_file(file) == hash_file(folders[1] / file.name), file.name


def test_a_folder_can_be_loaded_by_its_path(tmp_path: Path) -> None:
    folder = save_dataset(tiny_dataset(), tmp_path / "elsewhere")
    assert load_dataset(str(folder)).fingerprint == tiny_dataset().fingerprint


def test_another_data_set_of_that_name_is_replaced_only_on_request() -> None:
    save_dataset(tiny_dataset())
    save_dataset(tiny_dataset())  # the same again is fine
    with pytest.raises(DataError, match="another data set 'tiny'") as error:
        save_dataset(full_dataset())
    assert "--again" in str(error.value)
    assert load_dataset("tiny").fingerprint == tiny_dataset().fingerprint
    folder = save_dataset(full_dataset(), replace_old=True)
    assert load_dataset("tiny").fingerprint == full_dataset().fingerprint
    assert [entry.name for entry in folder.parent.iterdir()] == ["tiny"]


FILES = ["dataset.json", "interactions.parquet", "items.parquet", "test.parquet", "users.parquet"]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["missing", "cut", "changed"])
def test_damage_is_found_on_load(file: str, damage: str) -> None:
    path = save_dataset(full_dataset()) / file
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        place = content.index(b'"fingerprint": "') + 17 if file == RECORD else len(content) // 2
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    with pytest.raises(DataError) as error:
        load_dataset("tiny")
    assert "damaged" in error.value.message
    assert "Make it again" in str(error.value)


def test_changed_content_with_a_matching_hash_is_found_too() -> None:
    folder = save_dataset(tiny_dataset())
    table = pq.read_table(folder / "interactions.parquet")
    item = table["item"].to_numpy().copy()
    item[3] += 1
    pq.write_table(table.set_column(1, "item", pa.array(item)), folder / "interactions.parquet")
    record = json.loads((folder / RECORD).read_text())
    record["files"]["interactions.parquet"] = hash_file(folder / "interactions.parquet")
    (folder / RECORD).write_text(json.dumps(record))
    with pytest.raises(DataError, match="fingerprint"):
        load_dataset("tiny")


def test_a_newer_format_is_refused() -> None:
    folder = save_dataset(tiny_dataset())
    record = json.loads((folder / RECORD).read_text())
    (folder / RECORD).write_text(json.dumps({**record, "schema_version": 99}))
    with pytest.raises(DataError, match="schema_version 99"):
        read_dataset(folder)
    assert "schema_version 99" in stored_records()[1][0]


def test_unknown_names() -> None:
    save_dataset(tiny_dataset())
    with pytest.raises(DataError, match="Did you mean 'tiny'") as error:
        load_dataset("tinny")
    assert "ml-100k" in error.value.message
    with pytest.raises(DataError, match="CDs and Vinyl") as error:
        load_dataset("cds")
    assert "recbench datasets prepare cds" in str(error.value)
    assert "/meta_CDs_and_Vinyl.json.gz" in str(error.value)
    assert "recbench datasets import DIR --name cds --format d3-csv" in str(error.value)
    with pytest.raises(DataError, match="not a folder"):
        load_dataset("./nowhere")
    with pytest.raises(UsageError):
        save_dataset(replace(tiny_dataset(), name="../tiny"))


def _save(start: multiprocessing.synchronize.Barrier, replace_old: bool) -> None:
    start.wait()
    for _ in range(5):
        save_dataset(full_dataset(), replace_old=replace_old)


@pytest.mark.parametrize("replace_old", [False, True])
def test_processes_that_save_at_once_do_no_harm(replace_old: bool, home: Path) -> None:
    context = multiprocessing.get_context("fork")
    start = context.Barrier(3)
    processes = [context.Process(target=_save, args=(start, replace_old)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert load_dataset("tiny").fingerprint == full_dataset().fingerprint
    assert [entry.name for entry in (home / "datasets").iterdir()] == ["tiny"]


def test_what_breaks_off_leaves_nothing_that_looks_complete(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    def break_off(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(folders, "write_json", break_off)
    with pytest.raises(KeyboardInterrupt):
        save_dataset(tiny_dataset())
    with pytest.raises(DataError, match="Unknown data set 'tiny'"):
        load_dataset("tiny")
    assert not list((home / "datasets").iterdir())


def test_left_over_temporary_folders_are_no_data_sets(home: Path) -> None:
    (home / "datasets" / ".tiny.abc.tmp").mkdir(parents=True)
    assert stored_records() == ([], [])
