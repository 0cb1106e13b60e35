"""The D3/R3 csv format: rows stitched into events, the training part given or recovered."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recbench.contracts.dataset import Dataset
from recbench.contracts.errors import DataError
from recbench.contracts.examples import Examples
from recbench.contracts.protocol import Protocol
from recbench.data.importing import guess_format, import_dataset
from recbench.data.locate import EventIndex
from recbench.data.sources.d3_csv import RECOVERED_NOTE
from recbench.data.sources.options import ImportOptions
from recbench.data.split import make_split

TITLES = ["Zero", "Greatest Hits", "<span class=", "Greatest Hits", "Four", "", "Six\u2028seven"]
# (user, history as (item, time), target, time): u and v walk on from part to part, w comes only at the end.
TRAIN = [("u", [(0, 10)], 1, 20), ("v", [(4, 15)], 2, 20), ("u", [(0, 10), (1, 20)], 2, 30)]
VALID = [("u", [(0, 10), (1, 20), (2, 30)], 3, 40), ("w", [(3, 35)], 0, 40)]
TEST = [("v", [(4, 15), (2, 20)], 5, 50), ("w", [(3, 35), (0, 40)], 0, 60)]


def frame(rows: list[tuple[str, list[tuple[int, int]], int, int]]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "user_id": [row[0] for row in rows],
            "history_item_id": [[item for item, _ in row[1]] for row in rows],
            "item_id": [row[2] for row in rows],
            "history_item_title": [[TITLES[item] for item, _ in row[1]] for row in rows],
            "history_rating": [[5.0] * len(row[1]) for row in rows],
            "rating": 4.0,
            "history_timestamp": [[time for _, time in row[1]] for row in rows],
            "timestamp": [row[3] for row in rows],
        }
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, rows in (("train", TRAIN), ("valid", VALID), ("test", TEST)):
        frame(rows).to_csv(tmp_path / f"{name}.csv", index=False)
    info = "".join(f"{title}\t{number}\n" for number, title in enumerate(TITLES))
    (tmp_path / "info.txt").write_text(info, encoding="utf-8")
    return tmp_path


def read(*paths: Path, name: str = "mine") -> Dataset:
    return import_dataset(paths, ImportOptions(name))


def rows_of(part: Examples) -> list[tuple[int, int, list[int], int, int]]:
    return [
        (
            int(part.example_id[row]),
            int(part.user[row]),
            part.history(row).tolist(),
            int(part.target[row]),
            int(part.timestamp[row]),
        )
        for row in range(len(part))
    ]


def test_with_a_train_file_the_rows_are_the_split(folder: Path) -> None:
    dataset = read(folder)
    assert dataset.users == ("u", "v", "w")
    assert dataset.catalog.ids == ("0", "1", "2", "3", "4", "5", "6")
    assert dataset.catalog.titles == (*TITLES[:6], "Six seven")
    assert not dataset.notes
    assert dataset.provided is not None
    assert rows_of(dataset.provided.train) == [
        (0, 0, [0], 1, 20),
        (1, 1, [4], 2, 20),
        (2, 0, [0, 1], 2, 30),
    ]
    assert rows_of(dataset.provided.test) == [(5, 1, [4, 2], 5, 50), (6, 2, [3, 0], 0, 60)]
    events = dataset.interactions
    assert events.user.tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert events.item.tolist() == [0, 1, 2, 3, 4, 2, 5, 3, 0, 0]
    assert events.timestamp.tolist() == [10, 20, 30, 40, 15, 20, 50, 35, 40, 60]
    assert events.rating is not None
    assert events.rating.tolist() == [5, 4, 4, 4, 5, 4, 4, 5, 4, 4]


def test_without_a_train_file_it_is_recovered_and_said(folder: Path) -> None:
    whole = read(folder)
    (folder / "train.csv").unlink()
    dataset = read(folder)
    assert dataset.notes == (RECOVERED_NOTE,) == ("train part recovered from histories",)
    # Users are now numbered as they appear in valid: u, w, v. All three training rows can be recovered.
    assert dataset.users == ("u", "w", "v")
    assert dataset.provided is not None
    assert rows_of(dataset.provided.train) == [(0, 0, [0], 1, 20), (1, 2, [4], 2, 20), (2, 0, [0, 1], 2, 30)]
    assert [row[0] for row in rows_of(dataset.provided.valid)] == [3, 4]
    assert len(dataset.interactions) == len(whole.interactions)


def test_an_event_at_the_time_of_the_first_validation_row_is_no_training_row(folder: Path) -> None:
    (folder / "train.csv").unlink()
    frame([("w", [(3, 35), (1, 40)], 0, 40), *VALID[:1]]).to_csv(folder / "valid.csv", index=False)
    frame(TEST[:1]).to_csv(folder / "test.csv", index=False)
    provided = read(folder).provided
    assert provided is not None
    assert all(row[4] < 40 for row in rows_of(provided.train))
    assert (1, 40) not in {(row[3], row[4]) for row in rows_of(provided.train)}


def test_the_layout_of_r3_and_gzip(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    r3 = tmp_path_factory.mktemp("r3")
    for name in ("train", "valid", "test", "info"):
        suffix = "txt" if name == "info" else "csv"
        (r3 / name).mkdir()
        content = (folder / f"{name}.{suffix}").read_bytes()
        (r3 / name / f"CDs_and_Vinyl_5.{suffix}.gz").write_bytes(gzip.compress(content))
    dataset = read(r3)
    assert dataset.catalog.noun == "musics"
    assert dataset.interactions.timestamp.tolist() == read(folder).interactions.timestamp.tolist()
    (r3 / "test" / "Toys.csv").write_bytes(b"")
    assert guess_format([r3]) == "table"
    with pytest.raises(DataError, match="2 test files"):
        import_dataset([r3], ImportOptions("x"), "d3-csv")
    files = [
        r3 / name / f"CDs_and_Vinyl_5.{'txt' if name == 'info' else 'csv'}.gz" for name in ("valid", "test", "info")
    ]
    assert read(*files).notes == (RECOVERED_NOTE,)


@pytest.mark.parametrize(
    ("name", "noun"), [("cds", "musics"), ("toys", "toys and games"), ("steam", "games"), ("mine", "items")]
)
def test_the_name_tells_the_noun(folder: Path, name: str, noun: str) -> None:
    assert read(folder, name=name).catalog.noun == noun


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (("u", [(0, 10)], 7, 40), "data row 1 has the item 7, and the info file has the items 0 to 6"),
        (("u", [(0, 41)], 1, 40), "data row 1 has a history item that is later than its target"),
        (("u", [], 1, 40), "data row 1 has an empty history"),
    ],
)
def test_wrong_rows_are_named(folder: Path, row: tuple[str, list[tuple[int, int]], int, int], words: str) -> None:
    frame([row]).to_csv(folder / "valid.csv", index=False)
    with pytest.raises(DataError, match=words):
        read(folder)


def test_wrong_files_are_named(folder: Path) -> None:
    sound = frame(VALID)
    sound.assign(history_timestamp="[1]").to_csv(folder / "valid.csv", index=False)
    with pytest.raises(DataError, match="data row 1 cannot be read: its history lists differ"):
        read(folder)
    sound.assign(history_item_id="oops").to_csv(folder / "valid.csv", index=False)
    with pytest.raises(DataError, match="data row 1 cannot be read"):
        read(folder)
    sound.drop(columns="history_timestamp").to_csv(folder / "valid.csv", index=False)
    with pytest.raises(DataError, match="lacks the column 'history_timestamp'"):
        read(folder)
    sound.to_csv(folder / "valid.csv", index=False)
    (folder / "info.txt").write_text("Zero\t0\nTwo\t2\n")
    with pytest.raises(DataError, match=r"info.txt, line 2: 'Two.*item number 1"):
        read(folder)
    (folder / "info.txt").unlink()
    with pytest.raises(DataError, match="has no info file"):
        import_dataset([folder], ImportOptions("x"), "d3-csv")


def test_rows_that_do_not_go_on_are_noted(folder: Path) -> None:
    frame([("u", [(4, 60), (5, 61)], 6, 62)]).to_csv(folder / "test.csv", index=False)
    assert read(folder).notes == ("rows that do not go on where their user's earlier rows end: 1",)


@pytest.fixture(scope="module")
def cds(shared: Path) -> Dataset:
    return import_dataset([shared / "data" / "cds_2018_latentr3" / "orig"], ImportOptions("cds_2018_latentr3"))


def test_the_papers_cds(cds: Dataset) -> None:
    split = make_split(cds, Protocol(split="provided"))
    assert cds.catalog.noun == "musics"
    assert RECOVERED_NOTE in cds.notes
    assert (len(cds.users), len(cds.catalog), len(cds.interactions)) == (2_991, 5_841, 26_000)
    assert (len(split.valid), len(split.test)) == (6_156, 6_157)
    # 11,194 training targets are visible in the histories; 498 of them open what is visible of their user, so that no
    # history is known, and 24 fall on the day of the first validation row. The other rows are recovered whole.
    assert len(split.train) == 11_194 - 498 - 24
    assert split.train.timestamp.max() < split.valid.timestamp.min()
    assert sum(title.startswith("<span") for title in cds.catalog.titles) == 29


def test_the_papers_rows_are_windows_of_the_stitched_events(cds: Dataset) -> None:
    assert cds.provided is not None
    index = EventIndex(cds.interactions, len(cds.catalog))
    for part in (cds.provided.train, cds.provided.valid, cds.provided.test):
        assert (index.locate(part) >= 0).all()


def test_the_stitched_events_are_those_found_independently(cds: Dataset, shared: Path) -> None:
    path = shared / "data" / "cds_2018_latentr3" / "recovered_interactions.tsv.gz"
    expected = pd.read_csv(path, sep="\t", quoting=3)
    number = {user: n for n, user in enumerate(cds.users)}
    expected = expected.assign(user=expected["user_id"].map(number)).sort_values(["user", "position"], kind="stable")
    assert np.array_equal(cds.interactions.user, expected["user"])
    assert np.array_equal(cds.interactions.item, expected["item_id"])
    assert np.array_equal(cds.interactions.timestamp, expected["timestamp"])
