"""Ranked lists of exact items, one per query: what every method returns and every number is computed from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recbench.contracts.errors import ArtifactError, TrainingError


@dataclass(frozen=True)
class Rankings:
    """One list per query. Items with equal scores are tied; a list never ends inside a tie.

    Attributes:
        example_id: int64 (N,), one entry per query, also for empty lists.
        offsets: int64 (N+1,); list ``i`` is ``items[offsets[i]:offsets[i+1]]``, best first.
        items: int32, item numbers.
        scores: float64, never rising within a list. Higher is better.
        generations: for methods that write text, one record per query for ``generations.jsonl``, else None.
    """

    example_id: np.ndarray
    offsets: np.ndarray
    items: np.ndarray
    scores: np.ndarray
    generations: Sequence[Mapping[str, Any]] | None = None

    def __len__(self) -> int:
        return len(self.example_id)

    @property
    def lengths(self) -> np.ndarray:
        """int64 (N,): places in each list."""
        return np.diff(self.offsets)

    def check(self, example_ids: np.ndarray, n_items: int) -> None:
        """Check all invariants.

        Args:
            example_ids: int64 (N,), the queries that had to be answered, in this order.
            n_items: size of the catalogue.

        Raises:
            ArtifactError: names the first example that breaks a rule, and the rule.
        """
        if not np.array_equal(self.example_id, example_ids):
            raise ArtifactError(
                f"The rankings answer {len(self)} queries, not exactly the {len(example_ids)} asked, in their order.",
                "A method must return one list per query (an empty one if it has nothing to say).",
            )
        if self.offsets[0] != 0 or self.offsets[-1] != len(self.items) or len(self.items) != len(self.scores):
            raise ArtifactError("The offsets of the rankings do not match their items and scores.")
        if np.any(self.lengths < 0):
            raise ArtifactError("The offsets of the rankings fall.")
        row = np.repeat(np.arange(len(self)), self.lengths)
        self._refuse(row, (self.items < 0) | (self.items >= n_items), f"an item outside 0..{n_items - 1}")
        self._refuse(row, ~np.isfinite(self.scores), "a score that is not finite")
        rises = np.zeros(len(self.items), dtype=bool)
        rises[1:] = (row[1:] == row[:-1]) & (self.scores[1:] > self.scores[:-1])
        self._refuse(row, rises, "a score that is higher than the one before it")
        key = row * np.int64(n_items) + self.items
        order = np.argsort(key, kind="stable")
        repeated = np.zeros(len(key), dtype=bool)
        repeated[order[1:]] = key[order[1:]] == key[order[:-1]]
        self._refuse(row, repeated, "an item twice")

    def _refuse(self, row: np.ndarray, bad: np.ndarray, what: str) -> None:
        if bad.any():
            example = int(self.example_id[row[int(np.argmax(bad))]])
            raise ArtifactError(f"The ranking of example {example} holds {what} ({int(bad.sum())} places in all).")


def rankings_from_scores(example_id: np.ndarray, scores: np.ndarray, k: int) -> Rankings:
    """Rank the whole catalogue by dense scores and keep ``k`` places.

    A list goes on past place ``k`` to the end of the tie at place ``k``; within a tie items come by number. Items
    with a score of -inf are never listed.

    Args:
        example_id: int64 (N,).
        scores: float (N, n_items).
        k: places wanted.

    Raises:
        TrainingError: a score is NaN.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if np.isnan(scores).any():
        raise TrainingError("The scores of a ranking hold NaN.", "The model diverged: try a lower learning rate.")
    n_items = scores.shape[1]
    k = min(k, n_items)
    threshold = np.partition(scores, n_items - k, axis=1)[:, n_items - k]
    kept = (scores >= threshold[:, None]) & np.isfinite(scores)
    row, item = np.nonzero(kept)
    score = scores[row, item]
    order = np.lexsort((item, -score, row))
    offsets = np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.int64)
    return Rankings(np.asarray(example_id, np.int64), offsets, item[order].astype(np.int32), score[order])


def concat_rankings(parts: Sequence[Rankings]) -> Rankings:
    """Join the rankings of consecutive batches of queries."""
    offsets = [np.zeros(1, dtype=np.int64)]
    for part in parts:
        offsets.append(part.offsets[1:] + offsets[-1][-1])
    generations: list[Mapping[str, Any]] | None = None
    if parts and all(part.generations is not None for part in parts):
        generations = [record for part in parts for record in part.generations or ()]
    return Rankings(
        np.concatenate([np.empty(0, np.int64), *(p.example_id for p in parts)]),
        np.concatenate(offsets),
        np.concatenate([np.empty(0, np.int32), *(p.items for p in parts)]),
        np.concatenate([np.empty(0, np.float64), *(p.scores for p in parts)]),
        generations,
    )
