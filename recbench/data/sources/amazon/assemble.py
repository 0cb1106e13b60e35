"""Kept events into a :class:`Dataset`: numbers of users and items, and their order."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from recbench.contracts.dataset import Interactions
from recbench.data.sources.amazon.window import CodedEvents

#: The published program shuffles its items with this seed of Python's own generator.
ITEM_SEED = 42


def in_order_of_appearance(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number things anew by their first appearance.

    Args:
        numbers: int (n,), any numbers.

    Returns:
        The old numbers in order of first appearance, and int32 (n,): the new number per row.
    """
    old, first, inverse = np.unique(numbers, return_index=True, return_inverse=True)
    order = np.argsort(first)
    new = np.empty(len(old), dtype=np.int32)
    new[order] = np.arange(len(old), dtype=np.int32)
    return old[order], new[inverse]


def shuffled_places(n_items: int) -> np.ndarray:
    """Return int64 (n,): at item number ``i`` of the published numbering, the item's place in order of appearance."""
    places = list(range(n_items))
    random.Random(ITEM_SEED).shuffle(places)
    return np.array(places, dtype=np.int64)


def order_events(events: CodedEvents, user: np.ndarray, item: np.ndarray) -> Interactions:
    """Bring events into the order of a data set: by user, time, and then place in the source.

    Args:
        events: the events in the order of the source.
        user, item: int32 (n,), their numbers in the data set.
    """
    order = np.lexsort((events.time, user))
    return Interactions(
        user=user[order],
        item=item[order],
        timestamp=events.time[order] // events.per_second,
        rating=events.rating[order],
    )


def pick(values: Sequence[str], places: np.ndarray) -> tuple[str, ...]:
    """Return the values at the given places."""
    return tuple(values[place] for place in places.tolist())
