"""Between our item and user numbers and RecBole's, which start at 1 and know only what occurs in its rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from baselines.recbole.isolate import ITEM, USER
from recbench.contracts.examples import Examples, Queries


@dataclass(frozen=True)
class Vocabulary:
    """What a model knows. RecBole's number of ``items[i]`` is ``i + 1``; 0 is padding and stands for the unknown.

    Attributes:
        items: int32 (V,), our item numbers.
        users: int32 (U,), our user numbers.
    """

    items: np.ndarray
    users: np.ndarray

    @classmethod
    def of(cls, dataset: Any) -> Vocabulary:
        """Return the vocabulary of a RecBole data set built from our rows."""
        items, users = (np.array(dataset.field2id_token[field][1:], dtype=np.int32) for field in (ITEM, USER))
        return cls(items, users)

    @cached_property
    def _recbole_item(self) -> np.ndarray:
        return _inverse(self.items)

    @cached_property
    def _recbole_user(self) -> np.ndarray:
        return _inverse(self.users)

    def histories(self, queries: Queries, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Return histories as RecBole wants them.

        Unknown items are left out; a history without any known item is one place of padding.

        Args:
            queries: N queries.
            length: L, places of a history; the most recent items are kept.

        Returns:
            int64 (N, L), oldest first, padded with 0 on the right, and int64 (N,), the lengths, at least 1.
        """
        number = _look_up(self._recbole_item, queries.items)
        row = np.repeat(np.arange(len(queries)), queries.history_length)[number > 0]
        number = number[number > 0]
        known = np.bincount(row, minlength=len(queries))
        first = np.cumsum(known) - known
        # Place within the kept part: histories that are too long lose their oldest items.
        place = np.arange(len(row)) - (first + np.maximum(known - length, 0))[row]
        result = np.zeros((len(queries), length), dtype=np.int64)
        result[row[place >= 0], place[place >= 0]] = number[place >= 0]
        return result, np.clip(known, 1, length)

    def user_numbers(self, users: np.ndarray) -> np.ndarray:
        """Return RecBole's numbers of our users, int64, 0 for those who have no training row."""
        return _look_up(self._recbole_user, users)

    def item_numbers(self, items: np.ndarray) -> np.ndarray:
        """Return RecBole's numbers of our items, int64, 0 for unknown ones."""
        return _look_up(self._recbole_item, items)

    def rows(self, max_history: int) -> list[str]:
        """Return the fewest rows that give RecBole this vocabulary, in this order, and this history length."""
        n_rows = max(len(self.items), len(self.users))
        items = np.resize(self.items, n_rows).tolist()
        users = np.resize(self.users, n_rows).tolist()
        lengths = [max_history] + [1] * (n_rows - 1)
        return [
            f"{user}\t{' '.join([str(item)] * n)}\t{item}" for user, item, n in zip(users, items, lengths, strict=True)
        ]


def example_rows(examples: Examples) -> list[str]:
    """Return one line "user, history, target" per example."""
    items = examples.items.astype(str).tolist()
    bounds = examples.offsets.tolist()
    return [
        f"{user}\t{' '.join(items[bounds[row] : bounds[row + 1]])}\t{target}"
        for row, (user, target) in enumerate(zip(examples.user.tolist(), examples.target.tolist(), strict=True))
    ]


def _inverse(numbers: np.ndarray) -> np.ndarray:
    result = np.zeros(int(numbers.max(initial=-1)) + 1, dtype=np.int64)
    result[numbers] = np.arange(1, len(numbers) + 1)
    return result


def _look_up(table: np.ndarray, keys: np.ndarray) -> np.ndarray:
    known = keys < len(table)
    return np.where(known, table[np.where(known, keys, 0)], 0) if len(table) else np.zeros(len(keys), np.int64)
