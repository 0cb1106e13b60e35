"""Cuts of the test examples: each by hand at its boundaries, and all of them as partitions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbench.contracts.errors import UsageError
from recbench.evaluation.facts import FACTS
from recbench.evaluation.slices import CUTS, PAPER_CUTS, check_cut

DAY = 86_400.0


def keys(cut: str, n_items: int = 20, /, **facts: Sequence[float]) -> list[str | None]:
    """Return the key of each example's slice."""
    chosen = CUTS[cut]
    numbers = chosen.assign({name: np.array(values) for name, values in facts.items()}, n_items)
    return [chosen.slices[number].key if number >= 0 else None for number in numbers]


def test_popularity_is_cut_after_a_fifth_of_the_catalogue() -> None:
    facts = {"target_train_count": [9, 3, 3, 0], "popularity_rank": [1, 4, 5, 2]}
    assert keys("popularity", 20, **facts) == ["head", "head", "tail", "tail"]
    assert keys("popularity", 21, **facts) == ["head", "head", "head", "tail"]  # ceil(4.2) = 5
    seen = {"target_seen_count": [9, 3, 3, 0], "seen_rank": [1, 4, 5, 2]}
    assert keys("popularity-seen", 20, **seen) == ["head", "head", "tail", "tail"]


def test_tenths_keep_items_without_a_row_apart() -> None:
    facts = {"target_train_count": [5, 5, 1, 1, 0], "popularity_rank": [2, 3, 19, 18, 20]}
    assert keys("deciles", 20, **facts) == ["d1", "d2", "d10", "d9", "never"]


def test_cold_by_three_definitions() -> None:
    # A twin was seen; seen in histories only; a training target; nothing at all.
    facts = {"target_train_count": [0, 0, 2, 0], "target_seen_count": [0, 3, 5, 0], "title_seen_count": [4, 3, 5, 0]}
    assert keys("cold", 20, **facts) == ["cold", "warm", "warm", "cold"]
    assert keys("cold-strict", 20, **facts) == ["warm", "warm", "warm", "cold"]
    assert keys("cold-loose", 20, **facts) == ["cold", "cold", "warm", "cold"]


def test_history_activity_and_age_at_their_boundaries() -> None:
    lengths = [1, 2, 3, 4, 5, 9, 10, 11, 20, 21, 50, 51, 400]
    expected = ["1", "2", "3-to-4", "3-to-4", "5-to-9", "5-to-9", "10", "11-to-20", "11-to-20"]
    expected += ["21-to-50", "21-to-50", "51-and-more", "51-and-more"]
    assert keys("history", history_length=lengths) == expected
    rows = [0, 1, 4, 5, 19, 20, 99, 100]
    bins = ["0", "1-to-4", "1-to-4", "5-to-19", "5-to-19", "20-to-99", "20-to-99", "100-and-more"]
    assert keys("activity", user_train_rows=rows) == bins
    ages = [0.0, 1.0, 7 * DAY - 1, 7 * DAY, 30 * DAY, 180 * DAY, 365 * DAY, float("nan")]
    of_age = ["first", "week", "week", "month", "half-year", "year", "old", None]
    assert keys("age", item_age_s=ages) == of_age


@given(st.data())
def test_every_example_is_in_one_slice_and_a_strictly_cold_item_is_cold_by_all_definitions(data: st.DataObject) -> None:
    n_items = data.draw(st.integers(1, 50))
    n = data.draw(st.integers(1, 20))

    def whole(low: int, high: int) -> np.ndarray:
        return np.array(data.draw(st.lists(st.integers(low, high), min_size=n, max_size=n)))

    as_target, in_history, of_twins = whole(0, 3), whole(0, 3), whole(0, 3)
    facts = {
        "target_train_count": as_target,
        "target_seen_count": as_target + in_history,
        "title_seen_count": as_target + in_history + of_twins,
        "popularity_rank": whole(1, n_items),
        "seen_rank": whole(1, n_items),
        "history_length": whole(1, 100),
        "user_train_rows": whole(0, 500),
        "item_age_s": whole(0, 10**8).astype(float),
    }
    assert set(facts) == set(FACTS)
    numbers = {name: cut.assign(facts, n_items) for name, cut in CUTS.items()}
    for name, cut in CUTS.items():
        assert numbers[name].shape == (n,)
        assert ((numbers[name] >= 0) & (numbers[name] < len(cut.slices))).all()
    strict, seen, loose = (numbers[name] == 0 for name in ("cold-strict", "cold", "cold-loose"))
    assert (strict <= seen).all()
    assert (seen <= loose).all()
    # Two tenths are the popular fifth, and all other slices of the tenths are the tail.
    tail = [rule.key in CUTS["deciles"].focus for rule in CUTS["deciles"].slices]
    assert np.array_equal(np.array(tail)[numbers["deciles"]], numbers["popularity"] == 1)


def test_the_focus_of_every_cut_names_its_own_slices_and_not_all() -> None:
    for cut in CUTS.values():
        every = [rule.key for rule in cut.slices]
        assert len(set(every)) == len(every)
        assert set() < cut.focus < set(every)


def test_unknown_cuts_are_explained_and_those_of_the_paper_known() -> None:
    assert check_cut(" Popularity ") == "popularity"
    assert check_cut("table9") == "table9"
    with pytest.raises(UsageError, match=r"Unknown cut 'popularty'.*Did you mean 'popularity'"):
        check_cut("popularty")
    table9, table10 = PAPER_CUTS["table9"], PAPER_CUTS["table10"]
    assert (table9.cut, table9.metrics, table9.truth, table9.baseline) == (
        "popularity",
        ("NDCG@10",),
        "title",
        "sasrec",
    )
    assert (table10.cut, len(table10.metrics), table10.baseline) == ("cold", 4, "bigrec")
