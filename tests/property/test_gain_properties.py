"""The NDCG that choices are made by is the one that runs are measured with."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbench.contracts.gain import mean_ndcg
from recbench.contracts.rankings import rankings_from_scores
from recbench.evaluation.accuracy import expected_metric
from recbench.evaluation.places import item_lists, target_places
from recbench.llm.nearest import ndcg_of_scores

N_ITEMS = 9
# Few values, so that ties are common; -inf is an item that is never listed.
values = st.lists(st.sampled_from([-np.inf, 0.0, 1.0, 2.0, 3.0]), min_size=N_ITEMS, max_size=N_ITEMS)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(values, st.integers(0, N_ITEMS - 1)), min_size=1, max_size=5),
    st.integers(1, 10),
    st.integers(1, 9),
)
def test_equal_to_the_evaluation(rows: list[tuple[list[float], int]], k: int, places: int) -> None:
    scores = np.array([row[0] for row in rows])
    target = np.array([row[1] for row in rows], dtype=np.int32)
    rankings = rankings_from_scores(np.arange(len(rows)), scores, places)
    expected = expected_metric("NDCG", *target_places(item_lists(rankings), target), k)
    assert mean_ndcg(rankings, target, k) == pytest.approx(expected.mean(), abs=1e-12)
    if places == N_ITEMS:
        np.testing.assert_allclose(ndcg_of_scores(scores, target, k), expected, atol=1e-12)


def test_no_lists_give_0() -> None:
    assert mean_ndcg(rankings_from_scores(np.empty(0), np.empty((0, N_ITEMS)), 5), np.empty(0, np.int32)) == 0.0
