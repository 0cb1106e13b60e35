"""Beam regret on lists worked out by hand, and its bounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbench.contracts.errors import ArtifactError
from recbench.contracts.rankings import Rankings, rankings_from_scores
from recbench.evaluation.regret import beam_regret


def lists(*rows: list[tuple[int, float]], first_id: int = 7) -> Rankings:
    return Rankings(
        example_id=np.arange(first_id, first_id + len(rows)),
        offsets=np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64),
        items=np.array([item for row in rows for item, _ in row], dtype=np.int32),
        scores=np.array([score for row in rows for _, score in row], dtype=np.float64),
    )


def test_by_hand() -> None:
    exact = lists([(1, -1.0), (2, -2.0), (3, -3.0)], [(4, -1.0), (5, -1.5), (6, -4.0)], [(1, -1.0)])
    beam = lists([(2, -2.0), (9, -5.0), (3, -3.0)], [(4, -1.0), (5, -1.5), (8, -9.0)], [])
    regret = beam_regret(beam, exact, 2)
    assert regret.wanted.tolist() == [2, 2, 1]
    assert regret.missed.tolist() == [1, 0, 1]
    assert regret.first_differs.tolist() == [True, False, True]
    assert regret.gap_first[:2].tolist() == [1.0, 0.0]
    assert regret.gap_mean[:2].tolist() == [(1.0 + 3.0) / 2, 0.0]
    assert np.isnan([regret.gap_first[2], regret.gap_mean[2]]).all()


def test_of_things_that_tie_over_the_last_place_any_will_do() -> None:
    exact = lists([(1, -1.0), (2, -2.0), (3, -2.0), (4, -2.0)])

    def missed(k: int, *beam: tuple[int, float]) -> tuple[int, int]:
        regret = beam_regret(lists(list(beam)), exact, k)
        return int(regret.missed[0]), int(regret.wanted[0])

    assert missed(2, (1, -1.0), (3, -2.0)) == (0, 2)
    assert missed(2, (2, -2.0), (3, -2.0)) == (1, 2)
    assert missed(3, (1, -1.0), (4, -2.0), (9, -3.0)) == (1, 3)
    assert missed(4, (1, -1.0), (4, -2.0), (9, -3.0)) == (2, 4)
    assert missed(9, (1, -1.0), (2, -2.0), (3, -2.0), (4, -2.0)) == (0, 4)


def test_lists_begin_alike_where_they_share_a_best_thing() -> None:
    tied, one, none = lists([(2, -1.0), (1, -1.0)]), lists([(1, -1.0), (2, -1.5)]), lists([])
    for beam, exact, differs in ((tied, one, False), (one, tied, False), (none, none, False), (none, one, True)):
        assert beam_regret(beam, exact, 1).first_differs.tolist() == [differs]
    assert beam_regret(lists([(3, -1.0)]), tied, 1).first_differs.tolist() == [True]


def test_lists_of_other_queries_are_refused() -> None:
    with pytest.raises(ArtifactError, match="different queries"):
        beam_regret(lists([(1, 0.0)]), lists([(1, 0.0)], first_id=8), 10)


@given(st.integers(0, 2**32 - 1), st.integers(1, 8))
def test_the_exact_list_loses_nothing_and_no_list_gains(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    scores = -rng.random((5, 30))
    ids = np.arange(5)
    exact = rankings_from_scores(ids, scores, k)
    own = beam_regret(exact, exact, k)
    assert not own.missed.any()
    assert not own.first_differs.any()
    np.testing.assert_array_equal(own.gap_mean, 0.0)
    seen_by_beam = np.where(rng.random(scores.shape) < 0.6, scores, -np.inf)
    beam = rankings_from_scores(ids, seen_by_beam, k)
    regret = beam_regret(beam, exact, k)
    for row in range(5):
        top, found = np.argsort(-scores[row])[:k], beam.items[beam.offsets[row] : beam.offsets[row + 1]]
        assert regret.missed[row] == len(set(top.tolist()) - set(found.tolist()))
    assert (regret.gap_mean[beam.lengths > 0] >= 0).all()
