"""The number that every choice on validation rows is made by: mean NDCG@k with one relevant item.

:mod:`recbench.evaluation` measures runs with all metrics and both truths; this is its item truth alone, for code that
chooses settings inside a method and may not look at the evaluation.
"""

from __future__ import annotations

import numpy as np

from recbench.contracts.rankings import Rankings


def expected_ndcg(first: np.ndarray, last: np.ndarray, k: int = 10) -> np.ndarray:
    """Return float64 (N,): NDCG@k of each target, as the expectation over the order of its tied group.

    Args:
        first: int (N,), first place of the group, from 1; 0 where the target is not listed.
        last: int (N,), its last place, inclusive.
        k: cutoff.
    """
    gain = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(2, k + 2)))])
    total = gain[np.minimum(last, k)] - gain[np.clip(first - 1, 0, k)]
    return np.where(first > 0, total / np.maximum(last - first + 1, 1), 0.0)


def mean_ndcg(rankings: Rankings, target: np.ndarray, k: int = 10) -> float:
    """Return the mean NDCG@k of N lists; a target that is not listed counts 0.

    Args:
        rankings: N lists.
        target: int (N,), the item sought in each.
        k: cutoff.
    """
    row = np.repeat(np.arange(len(rankings)), rankings.lengths)
    hit = rankings.items == target[row]
    sought = np.full(len(rankings), np.inf)
    sought[row[hit]] = rankings.scores[hit]
    higher = np.bincount(row[rankings.scores > sought[row]], minlength=len(rankings))
    not_lower = np.bincount(row[rankings.scores >= sought[row]], minlength=len(rankings))
    listed = not_lower > 0
    return float(expected_ndcg(np.where(listed, higher + 1, 0), not_lower, k).mean()) if len(rankings) else 0.0
