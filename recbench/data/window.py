"""From events to rows: every event but a user's first becomes one row with the events just before it as history."""

from __future__ import annotations

import numpy as np

from recbench.contracts.dataset import Interactions
from recbench.contracts.examples import Examples


def position_in_user(user: np.ndarray) -> np.ndarray:
    """Return int64 (n,): how many events the same user has before each event; ``user`` is sorted."""
    n_events = len(user)
    if not n_events:
        return np.empty(0, dtype=np.int64)
    is_first = np.empty(n_events, dtype=bool)
    is_first[0] = True
    np.not_equal(user[1:], user[:-1], out=is_first[1:])
    first = np.flatnonzero(is_first)
    return np.arange(n_events) - np.repeat(first, np.diff(np.append(first, n_events)))


def rows_in_time_order(interactions: Interactions, position: np.ndarray) -> np.ndarray:
    """Return int64 (n_rows,): the events that are targets, ordered by time, then user number, then position.

    Args:
        interactions: events sorted by user, then time, then source row.
        position: int64 (n,), :func:`position_in_user` of them.
    """
    targets = np.flatnonzero(position > 0)
    return targets[np.argsort(interactions.timestamp[targets], kind="stable")]


def window_examples(
    interactions: Interactions, position: np.ndarray, events: np.ndarray, example_id: np.ndarray, max_history: int
) -> Examples:
    """Build one row per given event: it is the target, and the user's last events before it are the history.

    Args:
        interactions: events sorted by user, then time, then source row.
        position: int64 (n,), :func:`position_in_user` of them.
        events: int64 (N,), indices of target events; none is its user's first.
        example_id: int64 (N,).
        max_history: items kept of each history.
    """
    lengths = np.minimum(position[events], max_history)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    items = np.empty(offsets[-1], dtype=np.int32)
    for back in range(1, int(lengths.max(initial=0)) + 1):
        rows = np.flatnonzero(lengths >= back)
        items[offsets[rows + 1] - back] = interactions.item[events[rows] - back]
    return Examples(
        example_id=np.asarray(example_id, dtype=np.int64),
        user=interactions.user[events],
        timestamp=interactions.timestamp[events],
        offsets=offsets,
        items=items,
        target=interactions.item[events],
    )


def shorten_histories(examples: Examples, max_history: int) -> Examples:
    """Return the same rows with the last ``max_history`` items of each history."""
    lengths = np.minimum(examples.history_length, max_history)
    if np.array_equal(lengths, examples.history_length):
        return examples
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    source = np.repeat(examples.offsets[1:] - offsets[1:], lengths) + np.arange(offsets[-1])
    return Examples(
        examples.example_id, examples.user, examples.timestamp, offsets, examples.items[source], examples.target
    )
