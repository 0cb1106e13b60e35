"""Finding the event behind a row: which event of the data set is its target."""

from __future__ import annotations

import numpy as np

from recbench.contracts.dataset import Interactions
from recbench.contracts.examples import Examples
from recbench.data.window import position_in_user

_CHUNK_ROWS = 1_000_000


class EventIndex:
    """Finds events by user, time and item, and compares what came right before them.

    It looks rows up by content and knows nothing about how they were made, so it can check them.

    Args:
        interactions: events sorted by user, then time, then source row.
        n_items: size of the catalogue.
    """

    def __init__(self, interactions: Interactions, n_items: int) -> None:
        self._events = interactions
        self._n_items = n_items
        self._position = position_in_user(interactions.user)
        self._times = _sorted_distinct(np.sort(interactions.timestamp))
        # Events are sorted by user and time, so the keys of their instants (user, time) never fall.
        instant_key = self._instant_key(interactions.user, interactions.timestamp)
        self._instants = _sorted_distinct(instant_key)
        instant = np.cumsum(np.diff(instant_key, prepend=instant_key[:1]) > 0)
        key = instant * n_items + interactions.item
        self._order = np.argsort(key, kind="stable")
        self._key = key[self._order]

    def locate(self, examples: Examples) -> np.ndarray:
        """Return int64 (N,): for each row, an event with its user, time and target, right after its history; or -1."""
        result = np.full(len(examples), -1, dtype=np.int64)
        for start in range(0, len(examples), _CHUNK_ROWS):
            rows = np.arange(start, min(start + _CHUNK_ROWS, len(examples)))
            # In the order of the events, neighbours are looked up together, which is far kinder to the memory cache.
            rows = rows[np.argsort(examples.user[rows], kind="stable")]
            low, high = self._candidates(examples, rows)
            while len(rows):
                is_open = low < high
                rows, low, high = rows[is_open], low[is_open], high[is_open]
                event = self._order[low]
                fits = self._history_fits(event, examples, rows)
                result[rows[fits]] = event[fits]
                rows, low, high = rows[~fits], low[~fits] + 1, high[~fits]
        return result

    def _candidates(self, examples: Examples, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the range within ``_order`` of the events with each row's user, time and target."""
        instant = _find(self._instants, self._instant_key(examples.user[rows], examples.timestamp[rows]))
        key = np.where(instant < 0, -1, instant * self._n_items + examples.target[rows])
        return np.searchsorted(self._key, key, "left"), np.searchsorted(self._key, key, "right")

    def _instant_key(self, user: np.ndarray, timestamp: np.ndarray) -> np.ndarray:
        """One number per (user, time); -1 where no event at all has that time."""
        place = _find(self._times, timestamp)
        return np.where(place < 0, -1, user.astype(np.int64) * len(self._times) + place)

    def _history_fits(self, event: np.ndarray, examples: Examples, rows: np.ndarray) -> np.ndarray:
        """bool (n,): whether a row's history is what its user did right before the event."""
        lengths = examples.offsets[rows + 1] - examples.offsets[rows]
        fits = lengths <= self._position[event]
        for back in range(1, int(lengths.max(initial=0)) + 1):
            long_enough = np.flatnonzero(fits & (lengths >= back))
            said = examples.items[examples.offsets[rows[long_enough] + 1] - back]
            fits[long_enough] = self._events.item[event[long_enough] - back] == said
        return fits


def _sorted_distinct(values: np.ndarray) -> np.ndarray:
    """Return the distinct ones of values that never fall."""
    return values[np.concatenate([[True], values[1:] != values[:-1]])] if len(values) else values


def _find(sorted_values: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the place of each value among the sorted ones, -1 where it is not there."""
    if not len(sorted_values):
        return np.full(len(values), -1)
    place = np.minimum(np.searchsorted(sorted_values, values), len(sorted_values) - 1)
    return np.where(sorted_values[place] == values, place, -1)
