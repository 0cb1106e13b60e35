"""Metrics of one list: hand-worked values for places, ties, titles, and facts about the lists."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recbench.contracts.dataset import ItemCatalog
from recbench.contracts.errors import UsageError
from recbench.contracts.examples import Examples, build_examples
from recbench.contracts.rankings import Rankings
from recbench.evaluation.accuracy import check_metric, expected_metric, expected_metrics, parse_columns
from recbench.evaluation.lists import (
    describe_generations,
    describe_lists,
    describe_validity,
    expected_coverage,
    gini,
    tied_share,
)
from recbench.evaluation.places import item_lists, target_places, tied_groups, title_lists

THIRD = 1 / 3


def make_rankings(lists: list[list[tuple[int, float]]]) -> Rankings:
    places = [place for one in lists for place in one]
    return Rankings(
        np.arange(len(lists), dtype=np.int64),
        np.concatenate([[0], np.cumsum([len(one) for one in lists])]).astype(np.int64),
        np.array([item for item, _ in places], dtype=np.int32),
        np.array([score for _, score in places], dtype=np.float64),
    )


def train_rows(targets: list[int]) -> Examples:
    n = len(targets)
    return build_examples(range(n), [0] * n, range(n), [[0]] * n, targets)


def letters(n: int) -> ItemCatalog:
    """Return n items called a, b, c, ... and titled alike."""
    names = tuple("abcdefghijklmnopqrstuvwxyz"[:n])
    return ItemCatalog(names, names)


@pytest.mark.parametrize(
    ("name", "first", "last", "k", "expected"),
    [
        ("HR", 1, 1, 1, 1.0),
        ("HR", 2, 2, 1, 0.0),
        ("HR", 0, 0, 10, 0.0),
        ("HR", 3, 5, 4, 2 * THIRD),  # places 3 and 4 of 3..5 are inside
        ("HR", 3, 5, 2, 0.0),
        ("HR", 3, 5, 5, 1.0),
        ("HR", 1, 1000, 10, 0.01),
        ("NDCG", 1, 1, 10, 1.0),
        ("NDCG", 2, 2, 10, 1 / math.log2(3)),
        ("NDCG", 3, 3, 10, 0.5),
        ("NDCG", 11, 11, 10, 0.0),
        ("NDCG", 1, 3, 10, (1 + 1 / math.log2(3) + 0.5) / 3),
        ("NDCG", 1, 3, 1, THIRD),
        ("NDCG", 9, 12, 10, (1 / math.log2(10) + 1 / math.log2(11)) / 4),
        ("NDCG", 0, 0, 10, 0.0),
        ("MRR", 4, 4, 5, 0.25),
        ("MRR", 1, 2, 10, 0.75),
        ("MRR", 2, 4, 3, (1 / 2 + 1 / 3) / 3),
    ],
)
def test_expected_metric_by_hand(name: str, first: int, last: int, k: int, expected: float) -> None:
    value = expected_metric(name, np.array([first]), np.array([last]), k)
    assert value == pytest.approx([expected], abs=1e-12)


def test_all_cutoffs_agree_with_single_ones() -> None:
    first, last = np.array([0, 1, 2, 7, 15]), np.array([0, 1, 6, 30, 15])
    every = expected_metrics(first, last, (1, 5, 20))
    assert list(every) == ["HR@1", "HR@5", "HR@20", "NDCG@1", "NDCG@5", "NDCG@20", "MRR@1", "MRR@5", "MRR@20"]
    for label, values in every.items():
        name, _, k = label.partition("@")
        np.testing.assert_allclose(values, expected_metric(name, first, last, int(k)), rtol=0, atol=1e-15)


def test_tied_groups_stop_at_the_end_of_a_list() -> None:
    # Both lists hold the score 1.0; the tie does not reach from one list into the next.
    rankings = make_rankings([[(0, 2.0), (1, 1.0), (2, 1.0)], [], [(3, 1.0), (4, 1.0), (5, 0.5)]])
    first, last = tied_groups(item_lists(rankings))
    assert first.tolist() == [1, 2, 2, 1, 1, 3]
    assert last.tolist() == [1, 3, 3, 2, 2, 3]
    assert tied_share(rankings) == pytest.approx(4 / 6)


def test_target_places_of_listed_tied_and_absent_targets() -> None:
    rankings = make_rankings([[(0, 2.0), (1, 1.0), (2, 1.0)], [], [(3, 3.0), (0, 1.0)]])
    first, last = target_places(item_lists(rankings), np.array([2, 2, 4]))
    assert first.tolist() == [2, 0, 0]
    assert last.tolist() == [3, 0, 0]
    assert first.dtype == np.int32


def test_title_list_keeps_the_best_item_of_each_title() -> None:
    # Items 0 and 2 share title 0; item 2 is better here. Items 1 and 3 have titles of their own.
    title_group = np.array([0, 1, 0, 2], dtype=np.int32)
    rankings = make_rankings([[(2, 0.9), (1, 0.5), (0, 0.4), (3, 0.4)], [(0, 1.0), (2, 1.0), (3, 0.1)]])
    lists = title_lists(rankings, title_group)
    assert lists.offsets.tolist() == [0, 3, 5]
    assert lists.things.tolist() == [0, 1, 2, 0, 2]
    assert lists.scores.tolist() == [0.9, 0.5, 0.4, 1.0, 0.1]


def test_a_written_title_of_n_items_is_n_tied_places_and_one_title_place() -> None:
    title_group = np.array([0, 0, 0, 1], dtype=np.int32)
    rankings = make_rankings([[(0, -1.0), (1, -1.0), (2, -1.0), (3, -2.0)]])
    assert [p.tolist() for p in target_places(item_lists(rankings), np.array([1]))] == [[1], [3]]
    assert [p.tolist() for p in target_places(title_lists(rankings, title_group), np.array([0]))] == [[1], [1]]
    assert [p.tolist() for p in target_places(title_lists(rankings, title_group), np.array([1]))] == [[2], [2]]


def test_two_titles_with_one_score_are_tied() -> None:
    title_group = np.array([0, 0, 1], dtype=np.int32)
    rankings = make_rankings([[(0, 1.0), (1, 1.0), (2, 1.0)]])
    assert [p.tolist() for p in target_places(title_lists(rankings, title_group), np.array([1]))] == [[1], [2]]


def test_gini_by_hand() -> None:
    assert gini(np.array([1.0, 1.0, 1.0])) == pytest.approx(0)
    assert gini(np.array([0.0, 0.0, 0.0, 4.0])) == pytest.approx(0.75)  # (n - 1) / n
    assert gini(np.array([1.0, 3.0])) == pytest.approx(0.25)
    assert gini(np.zeros(3)) is None


def test_expected_coverage_by_hand() -> None:
    # Item 0 is certain; item 1 is listed twice with chance 1/2 each, so missed with 1/4; item 2 never.
    coverage = expected_coverage(np.array([0, 1, 1]), np.array([1.0, 0.5, 0.5]), 3)
    assert coverage == pytest.approx((1 + 0.75 + 0) / 3)


def test_describe_lists_counts_only_the_top_and_shares_a_tie_at_the_cutoff() -> None:
    # k = 2: item 0 is in, items 1 and 2 share one place.
    rankings = make_rankings([[(0, 2.0), (1, 1.0), (2, 1.0), (3, 0.0)]])
    facts = describe_lists(rankings, letters(4), train_rows([0, 0, 0, 1]), k=2)
    assert facts["coverage"] == pytest.approx((1 + 0.5 + 0.5) / 4)
    assert facts["average_popularity"] == pytest.approx((3 * 1 + 1 * 0.5 + 0 * 0.5) / 2)
    assert facts["gini"] == pytest.approx(gini(np.array([1.0, 0.5, 0.5, 0.0])))
    # One popular item of four (ceil(0.8)); smoothed shares of the four rows: 4/8, 2/8, 1/8, 1/8.
    assert facts["popular_share"] == pytest.approx(1 / 2)
    assert facts["novelty"] == pytest.approx((1 * 1 + 2 * 0.5 + 3 * 0.5) / 2)
    assert facts["similarity_title"] == 0.0  # no word in common
    assert facts["similarity_category"] is None


def test_describe_lists_without_any_place() -> None:
    facts = describe_lists(make_rankings([[], []]), letters(4), train_rows([0]))
    assert facts.pop("k") == 10
    assert facts.pop("coverage") == 0.0
    assert set(facts.values()) == {None}


def test_validity_counts_empty_short_and_repeated() -> None:
    catalog = ItemCatalog(tuple("abcd"), ("one", "one", "two", ""))
    rankings = make_rankings([[], [(0, 2.0), (1, 1.0)], [(0, 3.0), (2, 2.0), (3, 1.0)]])
    facts = describe_validity(rankings, catalog, max_cutoff=2)
    assert facts["empty"] == 1
    assert facts["shorter_than_10"] == 3
    assert facts["mean_length"] == pytest.approx(5 / 3)
    assert facts["max_length"] == 3
    assert facts["fewer_titles"] == 2  # the empty list and the one with one title twice


def test_generations_are_counted_by_title() -> None:
    catalog = ItemCatalog(tuple("abc"), ("One", '"Two"', ""))
    records = [
        {"titles": ["One", " Two\n", "Three", "one"]},
        {"titles": ["One", '"One"', ""], "text": "One"},
        {"titles": [], "text": "something else"},
        {"thought": "no titles at all"},
    ]
    assert describe_generations(records, catalog) == {
        "titles": 7,
        "invalid": 3,  # Three, one and the empty title
        "repeated": 1,
        "texts": 2,
        "texts_not_a_title": 1,
    }


def test_metric_names_are_found_in_any_case_and_unknown_ones_explained() -> None:
    assert check_metric("ndcg@10", ["HR@10", "NDCG@10"]) == "NDCG@10"
    with pytest.raises(UsageError, match=r"Unknown metric 'NDGC@10'.*Did you mean 'ndcg@10'.*HR@10, NDCG@10"):
        check_metric("NDGC@10", ["HR@10", "NDCG@10"])


def test_parse_columns_takes_one_truth_only() -> None:
    assert parse_columns(["example_id", "item/HR@1", "title/HR@1", "item_first"], "item") == ["HR@1"]
