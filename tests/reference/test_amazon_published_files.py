"""The published CDs files (validation, test, item list; the training file cannot be had) against our rules."""

from __future__ import annotations

import ast
import csv
import gzip
import io
import json
from dataclasses import replace
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np
import pytest

from recbench.contracts.protocol import Protocol
from recbench.data.export import export_dataset
from recbench.data.importing import import_dataset
from recbench.data.sources.amazon import CATEGORIES
from recbench.data.sources.amazon.assemble import shuffled_places
from recbench.data.sources.amazon.titles import published_title
from recbench.data.sources.options import ImportOptions
from recbench.data.split import make_split

N_ITEMS = 5_841


@pytest.fixture(scope="module")
def folder(shared: Path) -> Path:
    return shared / "data" / "cds_2018_latentr3" / "orig"


@pytest.fixture(scope="module")
def rows(folder: Path) -> dict[str, list[dict[str, str]]]:
    return {part: list(csv.DictReader(io.StringIO(unpack(folder / f"{part}.csv.gz")))) for part in ("valid", "test")}


@pytest.fixture(scope="module")
def asins(rows: dict[str, list[dict[str, str]]]) -> dict[int, str]:
    """Item number -> asin, as far as the rows show it; one number never has two."""
    found: dict[int, str] = {}
    for row in (*rows["valid"], *rows["test"]):
        numbers = [*json.loads(row["history_item_id"]), int(row["item_id"])]
        for number, asin in zip(numbers, [*ast.literal_eval(row["item_asins"]), row["item_asin"]], strict=True):
            assert found.setdefault(number, asin) == asin
    return found


def unpack(path: Path) -> str:
    return gzip.decompress(path.read_bytes()).decode()


def test_our_export_of_the_published_rows_is_the_published_file(
    folder: Path, asins: dict[int, str], tmp_path: Path
) -> None:
    """Columns, quoting, numbers, line ends: read, put together into events, and written again, byte for byte."""
    dataset = import_dataset([folder], ImportOptions("cds"))
    ids = tuple(asins.get(number, f"unseen {number}") for number in range(N_ITEMS))
    dataset = replace(dataset, catalog=replace(dataset.catalog, ids=ids))
    export_dataset(dataset, tmp_path / "out", "d3-csv", make_split(dataset, Protocol(split="provided")))
    for part in ("valid", "test"):
        assert (tmp_path / "out" / part / "cds.csv").read_bytes() == gzip.decompress(
            (folder / f"{part}.csv.gz").read_bytes()
        )
    assert (tmp_path / "out" / "info" / "cds.txt").read_text(encoding="utf-8") == unpack(folder / "info.txt.gz")


def test_the_cut_fits_the_rule(rows: dict[str, list[dict[str, str]]]) -> None:
    paper = CATEGORIES["cds"].paper
    assert paper is not None
    n_rows = paper.rows
    assert len(rows["valid"]) == int(0.9 * n_rows) - int(0.8 * n_rows)
    assert len(rows["test"]) == n_rows - int(0.9 * n_rows)
    assert paper.items == N_ITEMS
    # Our split cuts in whole numbers; it is the same cut for every size.
    sizes = np.arange(200_000)
    assert np.array_equal((0.8 * sizes).astype(int), sizes * 8 // 10)
    assert np.array_equal((0.9 * sizes).astype(int), sizes * 9 // 10)


def test_the_window_fits_the_rule(rows: dict[str, list[dict[str, str]]]) -> None:
    start, end = CATEGORIES["cds"].known_start, CATEGORIES["cds"].end
    assert start is not None
    assert end is not None
    times = [time for row in (*rows["valid"], *rows["test"]) for time in json.loads(row["history_timestamp"])]
    assert min(times) == start.first_second
    assert max(int(row["timestamp"]) for row in rows["test"]) <= end.first_second
    assert not any(time % 86_400 for time in times)


def test_rows_are_in_order_of_time_then_of_one_order_of_users(rows: dict[str, list[dict[str, str]]]) -> None:
    """Within one day, a user's rows stand together, and all days agree on one order of users."""
    table = [*rows["valid"], *rows["test"]]
    times = [int(row["timestamp"]) for row in table]
    assert times == sorted(times)
    before: dict[str, set[str]] = {}
    for _, day in groupby(table, key=lambda row: row["timestamp"]):
        users = [user for user, _ in groupby(day, key=lambda row: row["user_id"])]
        assert len(set(users)) == len(users)
        for earlier, later in pairwise(users):
            before.setdefault(later, set()).add(earlier)
            before.setdefault(earlier, set())
    while before:
        first = {user for user, earlier in before.items() if not earlier}
        assert first, "the days disagree on the order of users"
        before = {user: earlier - first for user, earlier in before.items() if user not in first}


def test_titles_are_what_the_rule_leaves(folder: Path) -> None:
    titles = [line.rpartition("\t")[0] for line in unpack(folder / "info.txt.gz").splitlines()]
    assert len(titles) == N_ITEMS
    assert [title for title in titles if published_title(title) != title] == []
    assert sum(title.startswith("<span class") for title in titles) == 29


def test_the_seeded_shuffle_undone_gives_the_order_of_the_raw_file(
    rows: dict[str, list[dict[str, str]]], asins: dict[int, str]
) -> None:
    """Raw files go item by item, roughly by asin, so in the order of first appearance the asins rise together.

    Published numbers themselves are in no order at all: a shuffle, and this one, must have been applied.
    """
    numbers = np.array(sorted(asins))
    names = np.array([asins[number] for number in numbers])
    rank_of_name = np.argsort(np.argsort(names))
    place = shuffled_places(N_ITEMS)[numbers]
    assert np.corrcoef(np.argsort(np.argsort(place)), rank_of_name)[0, 1] > 0.8
    assert abs(np.corrcoef(numbers, rank_of_name)[0, 1]) < 0.05
    # Events of one user and day keep the order of the raw file, so mostly that of its items.
    kept: list[bool] = []
    where = shuffled_places(N_ITEMS)
    for row in rows["test"]:
        history = [*zip(json.loads(row["history_timestamp"]), json.loads(row["history_item_id"]), strict=True)]
        for (time, item), (next_time, next_item) in pairwise(history):
            if time == next_time and item != next_item:
                kept.append(bool(where[item] < where[next_item]))
    assert np.mean(kept) > 0.8
