"""Examples and rankings as columns."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbench.contracts.errors import ArtifactError, TrainingError
from recbench.contracts.examples import Examples, build_examples
from recbench.contracts.rankings import Rankings, concat_rankings, rankings_from_scores


def windows(sequences: list[list[int]], length: int) -> Examples:
    """All rows of some users' sequences, in the order of users."""
    rows = [
        (user, position, sequence[max(0, position - length) : position], sequence[position])
        for user, sequence in enumerate(sequences)
        for position in range(1, len(sequence))
    ]
    users, times, histories, targets = zip(*rows, strict=True)
    return build_examples(range(len(rows)), users, times, histories, targets)


def test_taking_rows_keeps_each_row_whole() -> None:
    examples = windows([[1, 2, 3, 4], [5, 6]], 2)
    taken = examples.take([3, 0, 2])
    assert [taken.history(row).tolist() for row in range(3)] == [[5], [1], [2, 3]]
    assert taken.target.tolist() == [6, 2, 4]
    assert not hasattr(taken.queries(), "target")


def test_padded_histories_keep_the_most_recent_items() -> None:
    examples = windows([[1, 2, 3, 4]], 3)
    assert examples.padded_histories(2).tolist() == [[-1, 1], [1, 2], [2, 3]]


@given(st.lists(st.lists(st.integers(0, 50), min_size=2, max_size=15, unique=True), min_size=1, max_size=5))
def test_sequences_are_stitched_back_from_their_windows(sequences: list[list[int]]) -> None:
    examples = windows(sequences, 4)
    shuffled_users = examples.take(np.argsort(examples.timestamp, kind="stable"))
    assert [s.tolist() for s in shuffled_users.user_sequences()] == sequences


def test_a_missing_row_is_filled_from_the_next_history() -> None:
    examples = windows([[1, 2, 3, 4, 5, 6]], 3)
    assert examples.take([0, 3, 4]).user_sequences()[0].tolist() == [1, 2, 3, 4, 5, 6]


@given(
    st.integers(1, 12),
    st.lists(st.lists(st.integers(-2, 2), min_size=8, max_size=8), min_size=1, max_size=4),
)
def test_lists_from_scores_hold_the_best_items_and_whole_ties(k: int, scores: list[list[int]]) -> None:
    table = np.array(scores, dtype=np.float64)
    rankings = rankings_from_scores(np.arange(len(table)), table, k)
    rankings.check(np.arange(len(table)), 8)
    for row, values in enumerate(table):
        items = rankings.items[rankings.offsets[row] : rankings.offsets[row + 1]]
        threshold = np.sort(values)[::-1][min(k, 8) - 1]
        assert sorted(items.tolist()) == np.flatnonzero(values >= threshold).tolist()


def test_items_scored_minus_infinity_are_never_listed_and_nan_is_refused() -> None:
    scores = np.array([[0.5, -np.inf, 0.1]])
    assert rankings_from_scores(np.array([7]), scores, 3).items.tolist() == [0, 2]
    with pytest.raises(TrainingError, match="NaN"):
        rankings_from_scores(np.array([7]), np.array([[np.nan, 1.0]]), 1)


@pytest.mark.parametrize(
    ("items", "scores", "message"),
    [
        ([0, 0], [2.0, 1.0], "an item twice"),
        ([0, 1], [1.0, 2.0], "higher than the one before"),
        ([0, 9], [2.0, 1.0], "outside 0..3"),
        ([0, 1], [np.inf, 1.0], "not finite"),
    ],
)
def test_broken_lists_are_refused_by_example(items: list[int], scores: list[float], message: str) -> None:
    good = Rankings(np.array([3]), np.array([0, 1]), np.array([0], np.int32), np.array([1.0]))
    bad = Rankings(np.array([8]), np.array([0, 2]), np.array(items, np.int32), np.array(scores))
    with pytest.raises(ArtifactError, match=rf"example 8 holds .*{message}"):
        concat_rankings([good, bad]).check(np.array([3, 8]), 4)


def test_a_list_per_query_is_demanded() -> None:
    rankings = Rankings(np.array([3]), np.array([0, 0]), np.empty(0, np.int32), np.empty(0))
    rankings.check(np.array([3]), 4)
    with pytest.raises(ArtifactError, match="exactly the 2 asked"):
        rankings.check(np.array([3, 4]), 4)
