"""What is audited: a data set and its rows under one protocol, with what several checks need of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from recbench.contracts.audit import Plain
from recbench.contracts.dataset import Dataset
from recbench.contracts.examples import Examples
from recbench.contracts.protocol import Protocol
from recbench.contracts.split import Split
from recbench.data.locate import EventIndex

MAX_EXAMPLES = 5


@dataclass(frozen=True)
class Subject:
    """A data set, its rows, and the protocol that made them.

    Attributes:
        dataset: the data set.
        split: its rows under ``protocol``.
        protocol: the rules.
    """

    dataset: Dataset
    split: Split
    protocol: Protocol

    @property
    def test(self) -> Examples:
        """The test rows."""
        return self.split.test

    @cached_property
    def test_events(self) -> np.ndarray:
        """int64 (N,): the event behind each test row, -1 where the data set shows none with this history."""
        return EventIndex(self.dataset.interactions, len(self.dataset.catalog)).locate(self.test)

    @cached_property
    def target_in_history(self) -> np.ndarray:
        """bool (N,): test rows whose target stands in their history, as far as the protocol shows it."""
        return any_in_row(self.test.items == np.repeat(self.test.target, self.test.history_length), self.test)

    @cached_property
    def trained_targets(self) -> np.ndarray:
        """int64 (n_items,): training rows that have each item as target."""
        return np.bincount(self.split.train.target, minlength=len(self.dataset.catalog))

    def examples(self, chosen: np.ndarray, rows: Examples | None = None) -> tuple[dict[str, Plain], ...]:
        """Return the first few of the chosen rows (bool mask), of the test part by default, with their ids."""
        rows = self.test if rows is None else rows
        return tuple(
            {"example_id": int(rows.example_id[row]), "user_id": self.dataset.users[rows.user[row]]}
            | self.item(int(rows.target[row]))
            for row in np.flatnonzero(chosen)[:MAX_EXAMPLES]
        )

    def item(self, number: int) -> dict[str, Plain]:
        """Return id and title of an item."""
        catalog = self.dataset.catalog
        return {"item_id": catalog.ids[number], "title": catalog.titles[number]}

    def item_examples(self, numbers: Iterable[int]) -> tuple[dict[str, Plain], ...]:
        """Return the first few of the given items."""
        return tuple(self.item(int(number)) for number in list(numbers)[:MAX_EXAMPLES])


def any_in_row(flags: np.ndarray, rows: Examples) -> np.ndarray:
    """Return bool (N,): whether any history place of each row is flagged; ``flags`` is bool, one per history place."""
    before = np.concatenate([[0], np.cumsum(flags)])
    return np.asarray(before[rows.offsets[1:]] > before[rows.offsets[:-1]])
