"""Ranking by scores of the whole catalogue, a batch of queries at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from recbench.contracts.examples import Queries
from recbench.contracts.rankings import Rankings, concat_rankings, rankings_from_scores

# Scores held at once: 4 million float64 are 32 MB, whatever the size of the catalogue.
_MAX_SCORES = 4_000_000


def rank_by_scores(
    queries: Queries,
    k: int,
    n_items: int,
    score: Callable[[Queries], np.ndarray],
    mask_history: bool = False,
    batch_size: int | None = None,
) -> Rankings:
    """Rank the whole catalogue for every query.

    Args:
        queries: N queries.
        k: places wanted; a list is longer where a tie runs on, and shorter where items are masked or few.
        n_items: size of the catalogue.
        score: gives float (B, n_items) for a batch of B queries, higher is better; it may depend on nothing but the
            query itself, so that the batch a query falls into changes nothing.
        mask_history: whether items of a query's history are left out of its list.
        batch_size: queries per batch; by default as many as fit in some 32 MB of scores.

    Raises:
        ArtifactError: a score is NaN.
    """
    size = batch_size or max(1, _MAX_SCORES // max(1, n_items))
    parts = []
    for start in range(0, len(queries), size):
        batch = queries.take(np.arange(start, min(start + size, len(queries))))
        scores = np.array(score(batch), dtype=np.float64)
        if mask_history:
            scores[np.repeat(np.arange(len(batch)), batch.history_length), batch.items] = -np.inf
        parts.append(rankings_from_scores(batch.example_id, scores, k))
    return concat_rankings(parts)
