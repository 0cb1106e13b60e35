"""What is exported can be imported again, without loss where the format allows it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recbench.contracts.dataset import Dataset
from recbench.contracts.errors import DataError, UsageError
from recbench.contracts.protocol import Protocol
from recbench.data.export import export_dataset
from recbench.data.importing import import_dataset
from recbench.data.sources.options import ImportOptions
from recbench.data.split import make_split
from recbench.data.window import position_in_user
from recbench.testing.tiny import tiny_dataset


def rated() -> Dataset:
    dataset = tiny_dataset()
    rating = np.linspace(0, 1, len(dataset.interactions)).astype(np.float32)
    return replace(dataset, interactions=replace(dataset.interactions, rating=rating), notes=("keep me",))


def order_only() -> Dataset:
    dataset = tiny_dataset()
    order = position_in_user(dataset.interactions.user)
    return replace(dataset, has_time=False, interactions=replace(dataset.interactions, timestamp=order))


@pytest.mark.parametrize("dataset", [tiny_dataset(), rated(), order_only()], ids=["plain", "rated", "order"])
@pytest.mark.parametrize(("file_format", "table_format"), [("table", "tsv"), ("table", "parquet"), ("recbole", "tsv")])
def test_round_trip(dataset: Dataset, file_format: str, table_format: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    files = export_dataset(dataset, out, file_format, table_format=table_format)  # type: ignore[arg-type]
    assert files == sorted(str(path.relative_to(out)) for path in out.iterdir())
    again = import_dataset([out], ImportOptions("again"))
    assert again.fingerprint == dataset.fingerprint
    assert again.notes == dataset.notes
    assert again.catalog.noun == "films"


@pytest.mark.parametrize("dataset", [tiny_dataset(), rated()], ids=["plain", "rated"])
def test_d3_round_trip_keeps_the_rows(dataset: Dataset, tmp_path: Path) -> None:
    split = make_split(dataset, Protocol())
    export_dataset(dataset, tmp_path / "out", "d3-csv", split)
    again = import_dataset([tmp_path / "out"], ImportOptions("again"))
    assert again.provided is not None
    other = make_split(again, Protocol(split="provided"))
    users = np.array([dataset.users.index(user) for user in again.users])
    for part, expected in ((other.train, split.train), (other.valid, split.valid), (other.test, split.test)):
        assert np.array_equal(users[part.user], expected.user)
        assert np.array_equal(part.items, expected.items)
        assert np.array_equal(part.target, expected.target)
        assert np.array_equal(part.timestamp, expected.timestamp)
        assert np.array_equal(part.example_id, expected.example_id)
    assert again.catalog.titles == dataset.catalog.titles
    assert again.notes == dataset.notes
    row = pd.read_csv(tmp_path / "out" / "test" / "tiny.csv").iloc[0]
    assert row["item_asin"] == dataset.catalog.ids[row["item_id"]]
    assert row["item_title"] == dataset.catalog.titles[row["item_id"]]
    # What comes back is a data set with its own rows, and exporting these gives the same data set once more.
    export_dataset(again, tmp_path / "twice", "d3-csv", other)
    assert import_dataset([tmp_path / "twice"], ImportOptions("twice")).fingerprint == again.fingerprint


def test_recovered_training_rows_are_not_forgotten(tmp_path: Path) -> None:
    dataset = replace(tiny_dataset(), notes=("train part recovered from histories",))
    export_dataset(dataset, tmp_path / "out", "d3-csv", make_split(dataset, Protocol()))
    assert import_dataset([tmp_path / "out"], ImportOptions("again")).notes == dataset.notes


def test_wrong_use(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    with pytest.raises(UsageError, match="not an empty folder"):
        export_dataset(tiny_dataset(), tmp_path / "full", "table")
    with pytest.raises(UsageError, match="needs a split"):
        export_dataset(tiny_dataset(), tmp_path / "d3", "d3-csv")
    odd = replace(tiny_dataset(), users=("a\tb", *tiny_dataset().users[1:]))
    with pytest.raises(DataError, match="holds a tab"):
        export_dataset(odd, tmp_path / "tsv", "table")
    assert not (tmp_path / "tsv").exists()
    assert not (tmp_path / "d3").exists()
