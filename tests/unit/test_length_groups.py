"""Rows are split into the groups that cost least to read."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from recbench.llm.length_groups import length_groups


def cost(groups: list[list[int]], lengths: list[int], call_cost: int) -> int:
    return sum(len(group) * max(lengths[row] for row in group) + call_cost for group in groups)


def all_splits(rows: list[int]) -> Iterator[list[list[int]]]:
    """Every way to split rows into groups."""
    if not rows:
        yield []
        return
    first, *others = rows
    for split in all_splits(others):
        yield [[first], *split]
        for number, group in enumerate(split):
            yield [*split[:number], [first, *group], *split[number + 1 :]]


def test_by_hand() -> None:
    # Together 3 x 100 + 5; the long row apart: 2 x 11 + 5 + 100 + 5 = 132; each for itself: 121 + 15.
    assert length_groups([10, 100, 11], call_cost=5) == [[0, 2], [1]]
    assert length_groups([10, 100, 11], call_cost=0) == [[0], [2], [1]]
    assert length_groups([10, 100, 11], call_cost=1000) == [[0, 1, 2]]
    assert length_groups([7, 7, 7, 7], call_cost=1) == [[0, 1, 2, 3]]


@given(st.lists(st.integers(1, 60), max_size=6), st.integers(0, 80))
def test_no_split_costs_less(lengths: list[int], call_cost: int) -> None:
    groups = length_groups(lengths, call_cost)
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    assert all(group == sorted(group) for group in groups)
    assert cost(groups, lengths, call_cost) == min(
        cost(split, lengths, call_cost) for split in all_splits(list(range(len(lengths))))
    )
