"""Rows of different lengths, split into groups that waste little on padding and cost few model calls."""

from __future__ import annotations

from collections.abc import Sequence


def length_groups(lengths: Sequence[int], call_cost: int) -> list[list[int]]:
    """Return the split of rows into groups that costs least to read.

    A group is padded to its longest row, so it costs (rows x longest row) tokens and one model call. Rows of like
    length belong together, so the best split cuts the rows in order of length; which cuts are best is found by dynamic
    programming over that order.

    Args:
        lengths: tokens of every row.
        call_cost: tokens that could be read in the time that a further model call costs.

    Returns:
        Numbers of the rows of each group, ascending within it.
    """
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    # The least cost of reading the first n rows of this order, and where the last of their groups begins.
    least, begins = [0], [0]
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        costs = [least[start] + (end - start) * longest + call_cost for start in range(end)]
        least.append(min(costs))
        begins.append(costs.index(least[end]))
    groups, end = [], len(order)
    while end > 0:
        groups.append(sorted(order[begins[end] : end]))
        end = begins[end]
    return groups[::-1]
