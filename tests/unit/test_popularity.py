"""Popularity of items by training rows: ranks, tenths, the popular fifth, self-information, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbench.contracts.examples import build_examples
from recbench.evaluation.popularity import (
    decile_ends,
    is_popular,
    popularity_decile,
    popularity_rank,
    seen_counts,
    self_information,
    target_counts,
)


def test_counts_by_hand() -> None:
    train = build_examples([0, 1], [0, 0], [0, 1], [[2], [2, 1]], [1, 3])
    assert target_counts(train, 5).tolist() == [0, 1, 0, 1, 0]
    # Item 2 stands in two histories, item 1 is a target once and in a history once.
    assert seen_counts(train, 5).tolist() == [0, 2, 2, 1, 0]


def test_equal_counts_are_ranked_by_item_id_as_text() -> None:
    counts = np.array([1, 3, 1, 1])
    assert popularity_rank(counts, ["10", "7", "9", "08"]).tolist() == [3, 1, 4, 2]


def test_renumbering_the_items_changes_no_rank() -> None:
    counts, ids = np.array([2, 0, 2, 5, 0]), np.array(["e", "a", "b", "c", "d"])
    order = np.array([3, 1, 4, 0, 2])
    ranks = dict(zip(ids, popularity_rank(counts, ids.tolist()), strict=True))
    renumbered = dict(zip(ids[order], popularity_rank(counts[order], ids[order].tolist()), strict=True))
    assert ranks == renumbered == {"c": 1, "b": 2, "e": 3, "a": 4, "d": 5}


def test_tenths_end_where_the_ceiling_says() -> None:
    assert decile_ends(12).tolist() == [2, 3, 4, 5, 6, 8, 9, 10, 11, 12]
    assert decile_ends(3).tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 3, 3]


def test_the_popular_fifth_is_rounded_up_and_holds_no_item_without_a_row() -> None:
    counts = np.array([9, 5, 4, 1, 0, 0])
    rank = popularity_rank(counts, list("abcdef"))
    assert is_popular(counts, rank, 6).tolist() == [True, True, False, False, False, False]  # ceil(1.2) = 2
    few = np.array([9, 0, 0, 0, 0, 0])
    assert is_popular(few, popularity_rank(few, list("abcdef")), 6).tolist() == [True] + [False] * 5
    assert popularity_decile(few, popularity_rank(few, list("abcdef")), 6).tolist() == [1, 0, 0, 0, 0, 0]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60))
def test_the_popular_fifth_is_the_first_two_tenths(counts: list[int]) -> None:
    n = len(counts)
    array = np.array(counts)
    rank = popularity_rank(array, [f"{number:03d}" for number in range(n)])
    assert sorted(rank) == list(range(1, n + 1))
    popular = is_popular(array, rank, n)
    assert popular.tolist() == [count > 0 and place <= -(-n // 5) for count, place in zip(counts, rank, strict=True)]
    assert np.array_equal(popular, np.isin(popularity_decile(array, rank, n), (1, 2)))
    # Nothing outside is more frequent than anything inside.
    if popular.any() and not popular.all():
        assert array[popular].min() >= array[~popular].max()


def test_self_information_by_hand() -> None:
    # 5 rows, 3 items: shares (3+1)/8, (2+1)/8, (0+1)/8.
    assert self_information(np.array([3, 2, 0])) == pytest.approx([1.0, -np.log2(3 / 8), 3.0])
