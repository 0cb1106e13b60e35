"""Lists as tables, TREC files and title files: what is written, what is read, and what wrong files are told."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbench.artifacts.asked import Asked
from recbench.artifacts.list_tables import read_list_table, write_list_csv
from recbench.artifacts.tables import write_rankings
from recbench.artifacts.title_lists import TitleLists, read_title_lists
from recbench.artifacts.trec import blurred_lists, break_ties, read_trec_run, write_trec_run
from recbench.contracts.dataset import ItemCatalog
from recbench.contracts.errors import DataError
from recbench.contracts.rankings import Rankings, rankings_from_scores
from recbench.evaluation.accuracy import expected_metric
from recbench.evaluation.places import item_lists, target_places
from recbench.evaluation.published import published_metrics

IDS = ("x,1", 'y"2', "é3", "4", "5", "6 z")
CATALOG = ItemCatalog(IDS, ("Blue", "Red", "Blue", "", '"Quoted"', "Long, long title"))
ASKED = Asked(np.array([100, 101]), CATALOG, {"validation": np.array([7])})


def table_file(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


SCORES = st.lists(
    st.lists(st.sampled_from([-np.inf, 0.0, 0.1, 0.1 + 1e-9, 0.3, -2.5e8]), min_size=6, max_size=6), max_size=5
)


def lists_of(scores: list[list[float]]) -> Rankings:
    table = np.array(scores, dtype=np.float64).reshape(-1, 6)
    return rankings_from_scores(np.arange(50, 50 + len(table)), table, 4)


@settings(max_examples=15, deadline=None)
@given(scores=SCORES)
def test_tables_and_trec_files_read_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, scores: list[list[float]]
) -> None:
    folder, rankings = tmp_path_factory.mktemp("lists"), lists_of(scores)
    catalog = ItemCatalog(tuple(f"i{n}" for n in range(6)), ("",) * 6)
    asked = Asked(rankings.example_id, catalog)
    write_rankings(folder / "r.parquet", rankings, catalog)
    table = write_list_csv(folder / "r.parquet", folder / "lists.csv")
    if table.empty:
        with pytest.raises(DataError, match="holds no row"):
            read_list_table(folder / "lists.csv", asked)
        return
    table.sample(frac=1, random_state=0).to_parquet(folder / "lists.parquet", index=False)
    write_trec_run(folder / "r.parquet", folder / "lists.run", "t")
    for read in (
        read_list_table(folder / "lists.csv", asked),
        read_list_table(folder / "lists.parquet", asked),
        read_trec_run(folder / "lists.run", asked),
    ):
        for name in ("example_id", "offsets", "scores"):
            np.testing.assert_array_equal(getattr(read, name), getattr(rankings, name))
        np.testing.assert_array_equal(read.items, rankings.items)


@settings(max_examples=25, deadline=None)
@given(scores=SCORES, seed=st.integers(0, 5))
def test_broken_ties_keep_the_order_of_different_scores(scores: list[list[float]], seed: int) -> None:
    rankings = lists_of(scores)
    lists = pd.DataFrame(
        {
            "example_id": np.repeat(rankings.example_id, rankings.lengths),
            "rank": np.concatenate([np.arange(1, n + 1) for n in rankings.lengths] or [[]]).astype(np.int16),
            "item_id": rankings.items.astype(str),
            "score": rankings.scores,
        }
    )
    broken = break_ties(lists, seed)
    pd.testing.assert_frame_equal(broken, break_ties(lists, seed))
    assert blurred_lists(broken) == (0, 0)
    pd.testing.assert_series_equal(broken["example_id"], lists["example_id"])
    pd.testing.assert_series_equal(broken["rank"], lists["rank"])
    true_score = lists.set_index(["example_id", "item_id"])["score"]
    for example, places in broken.groupby("example_id"):
        assert np.all(np.diff(places["score"]) == -1)
        assert places["score"].iloc[-1] == 1
        scores_before = true_score.loc[[(example, item) for item in places["item_id"]]]
        np.testing.assert_array_equal(scores_before, lists.loc[places.index, "score"])


def test_broken_ties_average_to_the_expectation() -> None:
    """The place of a tied target is uniform over its tie, so the mean of any engine's metric is the expected one."""
    n_lists, scores = 2000, np.array([3.0, 2.0, 2.0, 2.0, 2.0, 1.0])
    lists = pd.DataFrame(
        {
            "example_id": np.repeat(np.arange(n_lists), 6),
            "rank": np.tile(np.arange(1, 7), n_lists),
            "item_id": list("012345") * n_lists,
            "score": np.tile(scores, n_lists),
        }
    )
    broken = break_ties(lists, 0)
    place = broken.loc[broken["item_id"] == "2", "rank"].to_numpy()
    first, last = target_places(item_lists(rankings_from_scores(np.array([9]), scores[None], 6)), np.array([2]))
    for name, k in (("NDCG", 3), ("HR", 3), ("MRR", 5)):
        values = expected_metric(name, place, place, k)
        error = np.std(values) / np.sqrt(n_lists)
        assert np.mean(values) == pytest.approx(expected_metric(name, first, last, k)[0], abs=4 * error)


def test_scores_that_only_double_precision_tells_apart() -> None:
    lists = pd.DataFrame({"example_id": [1, 1, 2, 2, 3, 3], "score": [0.5, 0.5, 0.1 + 1e-10, 0.1, 0.2, 0.1]})
    assert blurred_lists(lists) == (1, 1)


def test_a_table_without_scores_has_no_ties(tmp_path: Path) -> None:
    path = table_file(tmp_path / "l.csv", 'rank,item_id,example_id\n2,é3,101\n1,"x,1",101\n')
    read = read_list_table(path, ASKED)
    assert read.lengths.tolist() == [0, 2]
    assert read.items.tolist() == [0, 2]
    assert read.scores.tolist() == [-1.0, -2.0]


HEADER = "example_id,rank,item_id,score\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        (HEADER, "holds no row"),
        ("example_id,item_id\n100,4\n", "lacks the columns rank. Found: example_id, item_id"),
        ("example_id,rank,item_id,scores\n100,1,4,1\n", "has the column 'scores'. Did you mean 'score'"),
        (HEADER + "100,1,4,high\n", "line 2: score is 'high', not a number"),
        (HEADER + "100,1,4,1\n100,2,5,nan\n", "line 3: the score is not finite"),
        (HEADER + "100,1.5,4,1\n", "line 2: rank is '1.5'"),
        (HEADER + "100,1,4,1\n55,1,4,1\n", "line 3: example 55 is not among the 2 test rows; 1 examples"),
        (HEADER + "7,1,4,1\n", "line 2: example 7 is not among the 2 test rows, but a validation row"),
        (HEADER + "100,1,4,1\n100,2,zz,0\n", "line 3: item 'zz' is not in the catalogue of 6 items"),
        (HEADER + "100,1,4,1\n100,3,5,0\n", "line 3: example 100 has rank 3 where rank 2 is next"),
        (HEADER + "100,1,4,1\n101,2,5,0\n", "line 3: example 101 has rank 2 where rank 1 is next"),
        (HEADER + "100,1,4,1\n100,2,5,2\n", "line 3: the score of rank 2 of example 100 is higher"),
        (HEADER + "100,1,4,1\n100,2,4,0\n", "line 3: example 100 lists item '4' twice"),
        (HEADER + '100,1,"4,1\n', "cannot be read as CSV"),
    ],
)
def test_wrong_tables(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read_list_table(table_file(tmp_path / "l.csv", content), ASKED)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"example_id": [100.5], "rank": [1], "item_id": ["4"]}, "row 1: example_id is a column of floating-point"),
        ({"example_id": [100, None], "rank": [1, 2], "item_id": ["4", "5"]}, "row 2: example_id is empty"),
        ({"example_id": [100], "rank": [1], "item": ["4"]}, "lacks the columns item_id"),
        ({"example_id": [100, 100], "rank": [1, 2], "item_id": ["4", "q"]}, "row 2: item 'q'"),
    ],
)
def test_wrong_parquet(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    pd.DataFrame(columns).to_parquet(tmp_path / "l.parquet")
    with pytest.raises(DataError, match=message):
        read_list_table(tmp_path / "l.parquet", ASKED)


def test_parquet_with_numbers_as_item_ids_and_damage(tmp_path: Path) -> None:
    pd.DataFrame({"example_id": [100, 100], "rank": [1, 2], "item_id": [5, 4]}).to_parquet(tmp_path / "l.parquet")
    assert read_list_table(tmp_path / "l.parquet", ASKED).items.tolist() == [4, 3]
    (tmp_path / "l.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_list_table(tmp_path / "l.parquet", ASKED)
    with pytest.raises(DataError, match="does not exist"):
        read_list_table(tmp_path / "none.csv", ASKED)


TARGET = np.array([2, 4])  # "Blue" (shared with item 0) and '"Quoted"'


def titles_file(path: Path, rows: Any) -> Path:
    text = rows if isinstance(rows, str) else json.dumps(rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def read_titles(tmp_path: Path, rows: Any, name: str = "result.json") -> TitleLists:
    return read_title_lists(titles_file(tmp_path / name, rows), ASKED, TARGET)


def test_titles_become_tied_items(tmp_path: Path) -> None:
    rows = [
        {"input": "...", "output": '"Blue"\n', "predict": ['"Red"\n', ' "Nowhere" \n', '"Blue"\n', '"Red"\n']},
        {"input": "...", "output": ["Quoted"], "predict": ['"Long, long title"\n', "Quoted"], "predict_score": [0, -1]},
    ]
    for name in ("result.json", "result.json.gz"):
        lists = read_titles(tmp_path, rows, name)
        assert lists.rankings.example_id.tolist() == [100, 101]
        assert lists.rankings.lengths.tolist() == [3, 2]
        assert lists.rankings.items.tolist() == [1, 0, 2, 5, 4]
        assert lists.rankings.scores.tolist() == [-1.0, -2.0, -2.0, -1.0, -2.0]
        assert lists.facts == {
            "titles": 6, "invalid_titles": 1, "repeated_titles": 1, "lists_with_invalid_titles": 1,
        }  # fmt: skip
        assert lists.written == (("Red", "Nowhere", "Blue", "Red"), ("Long, long title", "Quoted"))
        assert lists.targets == ("Blue", "Quoted")


def test_items_without_a_title_are_never_meant(tmp_path: Path) -> None:
    rows = [{"output": "Blue", "predict": ["", '""\n']}, {"output": "Quoted", "predict": []}]
    lists = read_titles(tmp_path, rows)
    assert lists.rankings.lengths.tolist() == [0, 0]
    assert lists.facts["invalid_titles"] == 2


GOOD = {"output": "Blue", "predict": ["Red"]}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([GOOD], "has 1 rows; the test part has 2"),
        ([GOOD, GOOD], "row 2: the target is 'Blue'; test row 2 (example 101) has 'Quoted'"),
        ({"rows": []}, "holds a dict, not a list"),
        ('[{"output": "Blue", "predict": ["R', "may have been cut off"),
        ('[{"output": "Blue",, }]', "is not valid JSON"),
        ([GOOD, "x"], "row 2 is no object"),
        ([GOOD, {"output": "Quoted"}], "row 2: 'predict' is missing, not a list of titles"),
        ([GOOD, {"output": "Quoted", "predict": ["a", 3]}], "row 2: 'predict' is ['a', 3], not a list of titles"),
        ([{"output": ["a", "b"], "predict": []}, GOOD], "row 1: 'output' is ['a', 'b'], not a title"),
    ],
)
def test_wrong_title_files(tmp_path: Path, rows: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read_titles(tmp_path, rows)
    assert message in str(caught.value)


def test_published_metrics_by_hand() -> None:
    # Places 1, 3 (an unknown title takes one), the last of a repeated title, and none.
    written = [["a", "b"], ["x", "y", "c"], ["d", "e", "d"], ["q"]]
    found = published_metrics(written, ["a", "c", "d", "r"], (1, 3))
    assert found["HR@1"] == 0.25
    assert found["HR@3"] == 0.75
    assert found["NDCG@1"] == 0.25
    assert found["NDCG@3"] == pytest.approx((1 + 0.5 + 0.5) / 4)
    assert published_metrics([], [], (5,)) == {"HR@5": 0.0, "NDCG@5": 0.0}
