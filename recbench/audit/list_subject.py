"""What is audited: ranked lists line by line, and the rows that they should answer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from recbench.audit.listfile import Lines
from recbench.audit.subject import MAX_EXAMPLES, Subject
from recbench.contracts.audit import Plain
from recbench.contracts.rankings import Rankings
from recbench.evaluation.places import item_lists, target_places


@dataclass(frozen=True)
class ListSubject:
    """Lists, and the rows they should answer.

    Attributes:
        lines: the lists, line by line.
        data: the data set and its rows.
    """

    lines: Lines
    data: Subject

    @property
    def n(self) -> int:
        """Number of test rows."""
        return len(self.data.test)

    @cached_property
    def row(self) -> np.ndarray:
        """int64 (L,): place of each line's example among the test rows, -1 where it is none."""
        return pd.Index(self.data.test.example_id).get_indexer(pd.Index(self.lines.example_id))

    @cached_property
    def item(self) -> np.ndarray:
        """int64 (L,): item number of each line, -1 where the catalogue has no such item."""
        return pd.Index(self.data.dataset.catalog.ids).get_indexer(pd.Index(self.lines.item_id))

    @cached_property
    def repeated(self) -> np.ndarray:
        """bool (L,): an earlier line has the same example and item."""
        return np.asarray(pd.DataFrame({"e": self.lines.example_id, "i": self.lines.item_id}).duplicated())

    @cached_property
    def usable(self) -> np.ndarray:
        """int64: the lines that name a test row, an item, and it for the first time."""
        return np.flatnonzero((self.row >= 0) & (self.item >= 0) & ~self.repeated)

    @cached_property
    def by_score(self) -> Rankings:
        """The usable lines as recbench reads them: by score, equal scores tied."""
        return self._read(self.lines.score)

    @cached_property
    def by_rank(self) -> Rankings:
        """The usable lines as their ranks order them."""
        return self._read(-self.lines.rank.astype(np.float64))

    def _read(self, scores: np.ndarray) -> Rankings:
        row, score = self.row[self.usable], scores[self.usable]
        order = np.lexsort((self.lines.rank[self.usable], -score, row))
        offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=self.n))]).astype(np.int64)
        return Rankings(
            self.data.test.example_id, offsets, self.item[self.usable][order].astype(np.int32), score[order]
        )

    def places(self, lists: Rankings) -> tuple[np.ndarray, np.ndarray]:
        """Return the first and last place of each target's tied group, 0 where it is not listed."""
        return target_places(item_lists(lists), self.data.test.target)

    def rows_of(self, flags: np.ndarray) -> np.ndarray:
        """Return bool (N,): test rows with a flagged line (bool, one per line)."""
        rows = np.zeros(self.n, dtype=bool)
        rows[self.row[flags & (self.row >= 0)]] = True
        return rows

    def lines_like(self, chosen: np.ndarray) -> tuple[dict[str, Plain], ...]:
        """Return the first few of the chosen lines (bool mask)."""
        lines = self.lines
        return tuple(
            {
                "line": int(lines.number[at]),
                "example_id": int(lines.example_id[at]),
                "item_id": str(lines.item_id[at]),
                "rank": int(lines.rank[at]),
                "score": float(lines.score[at]),
            }
            for at in np.flatnonzero(chosen)[:MAX_EXAMPLES]
        )

    def rows_like(self, chosen: np.ndarray) -> tuple[dict[str, Plain], ...]:
        """Return the first few of the chosen test rows (bool mask)."""
        return self.data.examples(chosen)
