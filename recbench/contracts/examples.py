"""Queries and examples as columns. A query is what a method sees at test time; an example adds the target."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from recbench.contracts.hashing import hash_arrays

QueriesT = TypeVar("QueriesT", bound="Queries")


@dataclass(frozen=True)
class Queries:
    """N next-item questions: given a user and the history so far, what comes next?

    Attributes:
        example_id: int64 (N,), unique within a split over all of its parts.
        user: int32 (N,), user numbers.
        timestamp: int64 (N,), time of the event asked for.
        offsets: int64 (N+1,); query ``i`` owns ``items[offsets[i]:offsets[i+1]]``.
        items: int32, all histories one after the other, each oldest first, never empty.
    """

    example_id: np.ndarray
    user: np.ndarray
    timestamp: np.ndarray
    offsets: np.ndarray
    items: np.ndarray

    def __len__(self) -> int:
        return len(self.example_id)

    def history(self, row: int) -> np.ndarray:
        """Return the item numbers of one history, oldest first."""
        return self.items[self.offsets[row] : self.offsets[row + 1]]

    @property
    def history_length(self) -> np.ndarray:
        """int64 (N,): number of items in each history."""
        return np.diff(self.offsets)

    def padded_histories(self, length: int, fill: int = -1) -> np.ndarray:
        """Return int32 (N, length): the last ``length`` items of each history, left-padded with ``fill``."""
        result = np.full((len(self), length), fill, dtype=np.int32)
        taken = np.minimum(self.history_length, length)
        column = np.arange(length)[None, :]
        used = column >= length - taken[:, None]
        source = self.offsets[1:, None] - length + column
        result[used] = self.items[source[used]]
        return result

    def _take_columns(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        rows = np.asarray(rows, dtype=np.int64)
        lengths = self.history_length[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        source = np.repeat(self.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return {
            "example_id": self.example_id[rows],
            "user": self.user[rows],
            "timestamp": self.timestamp[rows],
            "offsets": offsets,
            "items": self.items[source],
        }

    def take(self: QueriesT, rows: np.ndarray | Sequence[int]) -> QueriesT:
        """Return the given rows in the given order."""
        return type(self)(**self._take_columns(np.asarray(rows)))


@dataclass(frozen=True)
class Examples(Queries):
    """Queries with their answers.

    Attributes:
        target: int32 (N,), the item that came next.
    """

    target: np.ndarray

    def queries(self) -> Queries:
        """Return the same rows without targets."""
        return Queries(self.example_id, self.user, self.timestamp, self.offsets, self.items)

    def take(self, rows: np.ndarray | Sequence[int]) -> Examples:
        """Return the given rows in the given order."""
        rows = np.asarray(rows, dtype=np.int64)
        return Examples(**self._take_columns(rows), target=self.target[rows])

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all columns."""
        return hash_arrays([self.example_id, self.user, self.timestamp, self.offsets, self.items, self.target])

    def user_sequences(self) -> list[np.ndarray]:
        """Stitch the rows of each user back into one sequence of events, oldest first.

        The rows of a user are consecutive windows of one sequence, so it is the first row's history followed by all
        targets. Where rows are missing in between (a limited run), the history of the next row fills the gap as far
        as it reaches. Users come in ascending order; rows of a user in the order of this table.
        """
        order = np.argsort(self.user, kind="stable")
        sequences: list[np.ndarray] = []
        current: list[int] = []
        last_user = None
        for row in order:
            history = self.history(row).tolist()
            if self.user[row] != last_user:
                if current:
                    sequences.append(np.asarray(current, dtype=np.int32))
                current, last_user = [], self.user[row]
            current.extend(history[overlap(current, history) :])
            current.append(int(self.target[row]))
        if current:
            sequences.append(np.asarray(current, dtype=np.int32))
        return sequences


def overlap(sequence: list[Any], history: list[Any]) -> int:
    """Return how many leading items of ``history`` the end of ``sequence`` already holds."""
    for length in range(min(len(sequence), len(history)), 0, -1):
        if sequence[-length:] == history[:length]:
            return length
    return 0


def build_examples(
    example_id: Iterable[int],
    user: Iterable[int],
    timestamp: Iterable[int],
    histories: Sequence[Sequence[int] | np.ndarray],
    target: Iterable[int],
) -> Examples:
    """Build :class:`Examples` from Python sequences (for sources, tests and plugins; not for millions of rows)."""
    lengths = [len(history) for history in histories]
    items = np.concatenate([np.asarray(h, dtype=np.int32) for h in histories]) if histories else np.empty(0, np.int32)
    return Examples(
        example_id=np.asarray(list(example_id), dtype=np.int64),
        user=np.asarray(list(user), dtype=np.int32),
        timestamp=np.asarray(list(timestamp), dtype=np.int64),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        items=items.astype(np.int32),
        target=np.asarray(list(target), dtype=np.int32),
    )
