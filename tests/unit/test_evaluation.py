"""evaluate and summarise: against ir_measures, on the tiny data set, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest

from recbench.contracts.errors import ArtifactError
from recbench.contracts.rankings import Rankings, rankings_from_scores
from recbench.evaluation.evaluate import DEFAULT_CUTOFFS, evaluate, summarise
from recbench.testing.tiny import tiny_dataset, tiny_split


@pytest.fixture(scope="module")
def tie_free() -> tuple:
    """Lists of 50 of the tiny catalogue's 60 items, all scores different."""
    dataset, split = tiny_dataset(), tiny_split()
    scores = np.random.default_rng(3).permuted(
        np.tile(np.arange(len(dataset.catalog), dtype=float), (len(split.test), 1)), axis=1
    )
    return dataset, split, rankings_from_scores(split.test.example_id, scores, 50)


def test_equal_to_ir_measures_on_lists_without_ties(tie_free: tuple) -> None:
    ir_measures = pytest.importorskip("ir_measures")
    pytest.importorskip("pytrec_eval")
    dataset, split, rankings = tie_free
    table = evaluate(rankings, split.test, dataset.catalog, dataset.users)
    # An item's title group as document id and only the best item per title: the second truth as qrels.
    group = dataset.catalog.title_group
    for truth, name in (("item", lambda item: f"i{item}"), ("title", lambda item: f"t{group[item]}")):
        run, qrels = [], []
        for row, example in enumerate(split.test.example_id):
            listed = slice(rankings.offsets[row], rankings.offsets[row + 1])
            best: dict[str, float] = {}
            for item, score in zip(rankings.items[listed], rankings.scores[listed], strict=True):
                best.setdefault(name(item), float(score))
            run += [ir_measures.ScoredDoc(str(example), doc, score) for doc, score in best.items()]
            qrels.append(ir_measures.Qrel(str(example), name(split.test.target[row]), 1))
        for k in DEFAULT_CUTOFFS:
            theirs = {
                "HR": ir_measures.Success @ k,
                "NDCG": ir_measures.nDCG @ k,
            }
            for ours_name, measure in theirs.items():
                values = {m.query_id: m.value for m in ir_measures.pytrec_eval.iter_calc([measure], qrels, run)}
                expected = [values[str(example)] for example in split.test.example_id]
                np.testing.assert_allclose(table[f"{truth}/{ours_name}@{k}"], expected, rtol=0, atol=1e-9)
        reciprocal = {m.query_id: m.value for m in ir_measures.pytrec_eval.iter_calc([ir_measures.RR], qrels, run)}
        expected = np.array([reciprocal[str(example)] for example in split.test.example_id])
        for k in DEFAULT_CUTOFFS:
            cut = np.where(expected >= 1 / k - 1e-12, expected, 0.0)
            np.testing.assert_allclose(table[f"{truth}/MRR@{k}"], cut, rtol=0, atol=1e-9)


def test_table_has_the_promised_columns(tie_free: tuple) -> None:
    dataset, split, rankings = tie_free
    table = evaluate(rankings, split.test, dataset.catalog, dataset.users, cutoffs=(1, 5))
    assert list(table.columns) == [
        *("example_id", "user_id", "target_item_id", "item_first", "item_last", "title_first", "title_last"),
        *(f"{truth}/{name}@{k}" for truth in ("item", "title") for name in ("HR", "NDCG", "MRR") for k in (1, 5)),
    ]
    assert table["example_id"].dtype == np.int64
    assert table["item_first"].dtype == np.int32
    row = 4
    assert table["user_id"][row] == dataset.users[split.test.user[row]]
    assert table["target_item_id"][row] == dataset.catalog.ids[split.test.target[row]]


def test_summary_holds_the_means_unrounded(tie_free: tuple) -> None:
    dataset, split, rankings = tie_free
    table = evaluate(rankings, split.test, dataset.catalog, dataset.users)
    summary = summarise(table, rankings, dataset.catalog, split.train)
    assert summary["n_test"] == len(split.test)
    assert summary["n_users"] == len(np.unique(split.test.user))
    assert summary["metrics"]["NDCG@10"] == table["item/NDCG@10"].mean()
    assert summary["metrics_title"]["HR@5"] == table["title/HR@5"].mean()
    assert summary["tie_rate"] == {"targets": 0.0, "places": 0.0}


def test_everything_tied_gives_the_chance_level() -> None:
    dataset, split = tiny_dataset(), tiny_split()
    n_items = len(dataset.catalog)
    rankings = rankings_from_scores(split.test.example_id, np.zeros((len(split.test), n_items)), 20)
    summary = summarise(
        evaluate(rankings, split.test, dataset.catalog, dataset.users), rankings, dataset.catalog, split.train
    )
    assert summary["metrics"]["HR@10"] == pytest.approx(10 / n_items)
    assert summary["metrics_title"]["HR@10"] == pytest.approx(10 / (dataset.catalog.title_group.max() + 1))
    assert summary["tie_rate"] == {"targets": 1.0, "places": 1.0}


def test_empty_lists_count_as_misses() -> None:
    dataset, split = tiny_dataset(), tiny_split()
    n = len(split.test)
    empty = Rankings(split.test.example_id, np.zeros(n + 1, np.int64), np.empty(0, np.int32), np.empty(0))
    table = evaluate(empty, split.test, dataset.catalog, dataset.users)
    summary = summarise(table, empty, dataset.catalog, split.train)
    assert set(summary["metrics"].values()) == {0.0}
    assert summary["validity"]["empty"] == n
    assert summary["validity"]["fewer_titles"] == n


def test_rankings_of_other_examples_are_refused(tie_free: tuple) -> None:
    dataset, split, rankings = tie_free
    with pytest.raises(ArtifactError, match="do not belong"):
        evaluate(rankings, split.valid, dataset.catalog, dataset.users)


def test_speed_benchmark_agrees_with_its_baseline() -> None:
    from benchmarks.speed.bench_metrics import run

    result = run(n_examples=60, n_items=120, k=20, repeats=1)
    assert result["equal"]
    assert result["sizes"]["columns"] == 30
