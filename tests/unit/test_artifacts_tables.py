"""Rankings on disk: round trips, damage, and the formats of TREC."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbench.artifacts.asked import Asked
from recbench.artifacts.list_tables import write_list_csv
from recbench.artifacts.tables import RANKINGS_SCHEMA, read_rankings, write_generations, write_rankings
from recbench.artifacts.trec import read_trec_run, write_qrels, write_trec_run
from recbench.contracts.dataset import ItemCatalog
from recbench.contracts.errors import ArtifactError, DataError
from recbench.contracts.examples import build_examples
from recbench.contracts.rankings import Rankings

CATALOG = ItemCatalog(tuple(f"é{n}" for n in range(20)), ("",) * 20)


def rankings_of(lists: list[list[tuple[int, float]]], first_id: int = 100) -> Rankings:
    places = [place for places in lists for place in places]
    return Rankings(
        np.arange(first_id, first_id + len(lists), dtype=np.int64),
        np.concatenate([[0], np.cumsum([len(places) for places in lists])]).astype(np.int64),
        np.array([item for item, _ in places], dtype=np.int32),
        np.array([score for _, score in places], dtype=np.float64),
    )


LISTS = st.lists(
    st.lists(st.tuples(st.integers(0, 19), st.floats(-1e9, 1e9)), max_size=6, unique_by=lambda place: place[0]).map(
        lambda places: sorted(places, key=lambda place: -place[1])
    ),
    max_size=8,
)


def assert_equal(ours: Rankings, theirs: Rankings) -> None:
    for name in ("example_id", "offsets", "items", "scores"):
        a, b = getattr(ours, name), getattr(theirs, name)
        assert a.dtype == b.dtype, name
        np.testing.assert_array_equal(a, b, err_msg=name)


@settings(max_examples=60, deadline=None)
@given(lists=LISTS)
def test_round_trip_keeps_everything(tmp_path_factory: pytest.TempPathFactory, lists: list) -> None:
    path = tmp_path_factory.mktemp("rankings") / "rankings.parquet"
    rankings = rankings_of(lists)
    write_rankings(path, rankings, CATALOG)
    assert_equal(read_rankings(path, CATALOG), rankings)


def test_columns_are_the_documented_ones(tmp_path: Path) -> None:
    path = tmp_path / "rankings.parquet"
    write_rankings(path, rankings_of([[(3, 2.0), (1, 2.0)], [], [(0, -1.5)]]), CATALOG)
    table = pq.read_table(path)
    assert [(field.name, str(field.type)) for field in table.schema] == [
        ("example_id", "int64"),
        ("rank", "int16"),
        ("item_id", "string"),
        ("score", "double"),
    ]
    assert table.to_pydict() == {
        "example_id": [100, 100, 102],
        "rank": [1, 2, 1],
        "item_id": ["é3", "é1", "é0"],
        "score": [2.0, 2.0, -1.5],
    }


def test_a_list_too_long_for_its_ranks_is_refused(tmp_path: Path) -> None:
    n = 40_000
    catalog = ItemCatalog(tuple(map(str, range(n))), ("",) * n)
    with pytest.raises(ArtifactError, match="example 100 has 40,000 places, more than the 32,767"):
        write_rankings(tmp_path / "r.parquet", rankings_of([[(item, 0.0) for item in range(n)]]), catalog)


def damaged(path: Path, change: str) -> None:
    write_rankings(path, rankings_of([[(3, 2.0), (1, 1.0)], [], [(0, 1.0)]]), CATALOG)
    table = pq.read_table(path)
    metadata = table.schema.metadata
    columns = table.to_pydict()
    if change == "truncated":
        path.write_bytes(path.read_bytes()[:-20])
        return
    if change == "unknown item":
        columns["item_id"][0] = "x"
    elif change == "no metadata":
        metadata = None
    elif change == "rank gap":
        columns["rank"] = [1, 3, 1]
    elif change == "lost list":
        columns = {name: values[:2] for name, values in columns.items()}
    elif change == "empty cell":
        columns["score"][1] = None
    schema = RANKINGS_SCHEMA.with_metadata(metadata)
    if change == "other column":
        columns["place"] = columns.pop("rank")
        schema = None
    pq.write_table(pa.table(columns, schema=schema), path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("truncated", "cannot be read as Parquet"),
        ("unknown item", "names 1 items that are not in the catalogue of 20, in 1 places: 'x'"),
        ("no metadata", "lacks the table metadata"),
        ("rank gap", "the ranks of a list do not run"),
        ("lost list", r"it holds 1 lists and 1 empty ones, not 3"),
        ("empty cell", "has empty cells in score"),
        ("other column", "has the columns .*place.*; expected example_id:int64, rank:int16"),
    ],
)
def test_damage_is_named(tmp_path: Path, change: str, message: str) -> None:
    path = tmp_path / "rankings.parquet"
    damaged(path, change)
    with pytest.raises(ArtifactError, match=message):
        read_rankings(path, CATALOG)


def test_missing_rankings(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist"):
        read_rankings(tmp_path / "none.parquet", CATALOG)


def test_generations_must_be_plain(tmp_path: Path) -> None:
    path = tmp_path / "generations.jsonl"
    write_generations(path, [{"text": "é\n"}, {"text": "b"}])
    assert path.read_text(encoding="utf-8") == '{"text": "é\\n"}\n{"text": "b"}\n'
    with pytest.raises(ArtifactError, match="Generation 1 cannot be written as JSON"):
        write_generations(path, [{"score": 1.0}, {"score": float("nan")}])
    assert path.read_text(encoding="utf-8").startswith('{"text": "é'), "the old file stays"


@settings(max_examples=20, deadline=None)
@given(lists=LISTS)
def test_trec_round_trip(tmp_path_factory: pytest.TempPathFactory, lists: list) -> None:
    folder = tmp_path_factory.mktemp("trec")
    rankings = rankings_of(lists)
    write_rankings(folder / "r.parquet", rankings, CATALOG)
    lines = write_trec_run(folder / "r.parquet", folder / "r.run", "tag")
    assert len(lines) == len(rankings.items)
    if len(lines):
        assert_equal(read_trec_run(folder / "r.run", Asked(rankings.example_id, CATALOG)), rankings)


def test_trec_lines_and_qrels(tmp_path: Path) -> None:
    write_rankings(tmp_path / "r.parquet", rankings_of([[(3, 0.1 + 0.2), (1, -1e-17)]]), CATALOG)
    write_trec_run(tmp_path / "r.parquet", tmp_path / "r.run", "tag")
    assert (tmp_path / "r.run").read_text() == "100 Q0 é3 1 0.30000000000000004 tag\n100 Q0 é1 2 -1e-17 tag\n"
    write_qrels(build_examples([100], [0], [0], [[1]], [7]), CATALOG, tmp_path / "q")
    assert (tmp_path / "q").read_text() == "100 0 é7 1\n"
    write_list_csv(tmp_path / "r.parquet", tmp_path / "r.csv")
    assert (tmp_path / "r.csv").read_text().splitlines()[:2] == [
        "example_id,rank,item_id,score",
        "100,1,é3,0.30000000000000004",
    ]


def test_ids_with_blanks_do_not_fit_trec(tmp_path: Path) -> None:
    catalog = ItemCatalog(("a b", "c"), ("", ""))
    write_rankings(tmp_path / "r.parquet", rankings_of([[(0, 1.0)]]), catalog)
    with pytest.raises(ArtifactError, match="'a b'"):
        write_trec_run(tmp_path / "r.parquet", tmp_path / "r.run", "tag")


def test_trec_order_is_by_score_and_file_rank_breaks_ties(tmp_path: Path) -> None:
    path = tmp_path / "other.run.gz"
    with gzip.open(path, "wt", encoding="utf-8") as stream:
        stream.write("101 Q0 é5 1 0.5 t\n101 Q0 é6 2 0.9 t\n101\tQ0\té2  4 0.5  t\n101 Q0 é7 3 0.5 t\n")
    rankings = read_trec_run(path, Asked(np.array([100, 101]), CATALOG))
    assert rankings.items.tolist() == [6, 5, 7, 2]
    assert rankings.lengths.tolist() == [0, 4]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("100 Q0 é1 1 0.5\n", "line 1: fewer than six fields"),
        ("100 Q0 é1 1 0.5 t\nx Q0 é2 2 0.4 t\n", "line 2: example_id is 'x', not a number"),
        ("100 Q0 é1 1 high t\n", "line 1: score is 'high'"),
        ("99999999999999999999 Q0 é1 1 0.5 t\n", "line 1: example_id is '99999999999999999999'"),
        ("100 Q0 é1 1 inf t\n", "line 1: the score is not finite"),
        ("7 Q0 é1 1 0.5 t\n", "line 1: example 7 is not among the 1 test rows"),
        ("100 Q0 é1 1 0.5 t\n100 Q0 é1 2 0.4 t\n", "line 2: example 100 lists item 'é1' twice"),
    ],
)
def test_wrong_trec_files(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "wrong.run"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_trec_run(path, Asked(np.array([100]), CATALOG))


def test_wrong_encoding_and_unknown_items_of_trec_files(tmp_path: Path) -> None:
    path = tmp_path / "wrong.run"
    path.write_bytes("100 Q0 é1 1 0.5 t\n".encode("latin-1"))
    with pytest.raises(DataError, match="cannot be read as a TREC run file"):
        read_trec_run(path, Asked(np.array([100]), CATALOG))
    path.write_text("100 Q0 zzz 1 0.5 t\n")
    with pytest.raises(DataError, match="line 1: item 'zzz' is not in the catalogue"):
        read_trec_run(path, Asked(np.array([100]), CATALOG))
