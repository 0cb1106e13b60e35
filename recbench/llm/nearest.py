"""From distances between texts and titles to ranked items. Pure functions.

Dimensions: B queries, U distinct titles, H hidden.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from recbench.contracts.examples import Queries
from recbench.contracts.gain import expected_ndcg


def distances(texts: Tensor, titles: Tensor) -> np.ndarray:
    """Return float64 (B, U): the L2 distance of every text (B, H) to every title (U, H).

    Computed from differences, not from products, so that equal vectors are at distance 0 exactly.
    """
    return torch.cdist(texts.double(), titles.double(), compute_mode="donot_use_mm_for_euclid_dist").cpu().numpy()


def unit_range(values: np.ndarray) -> np.ndarray:
    """Return float64 values moved and scaled to [0, 1] along the last axis; zeros where all are equal."""
    values = values.astype(np.float64)
    low = values.min(axis=-1, keepdims=True)
    spread = values.max(axis=-1, keepdims=True) - low
    return (values - low) / np.where(spread > 0, spread, 1.0)


def reweighted(distance: np.ndarray, popularity: np.ndarray, gamma: float) -> np.ndarray:
    """Return float64 (B, U): distances made smaller for popular titles.

    BIGRec's injection of popularity: ``unit_range(distance) * (1 + unit_range(popularity)) ** -gamma``, where the
    distances are scaled per query. The nearest title gets 0, so it stays first whatever gamma is.

    Args:
        distance: float (B, U).
        popularity: (U,), how often a title was chosen in the training rows.
        gamma: strength; 0 keeps the order of the distances.
    """
    return unit_range(distance) * (1.0 + unit_range(popularity)) ** -gamma


def item_scores(
    queries: Queries, distance: np.ndarray, title_of_item: np.ndarray, answered: np.ndarray, mask_history: bool
) -> np.ndarray:
    """Return float64 (B, n_items): minus the distance of each item's title, -inf for items that must not be listed.

    Args:
        queries: B queries.
        distance: float64 (B, U).
        title_of_item: int (n_items,), the title of each item; an item without one has -1 and is never listed.
        answered: bool (B,); nothing is listed for the other queries.
        mask_history: leave out items of the query's history.
    """
    scores = -distance[:, title_of_item]
    scores[:, title_of_item < 0] = -np.inf
    scores[~answered] = -np.inf
    if mask_history:
        scores[np.repeat(np.arange(len(queries)), queries.history_length), queries.items] = -np.inf
    return scores


def ndcg_of_scores(scores: np.ndarray, target: np.ndarray, k: int = 10) -> np.ndarray:
    """Return float64 (B,): NDCG@k of each target under dense scores, ties in expectation.

    Args:
        scores: float64 (B, n_items); -inf is not listed.
        target: int (B,), item numbers.
        k: cutoff.
    """
    sought = scores[np.arange(len(target)), target]
    first = (scores > sought[:, None]).sum(axis=1) + 1
    last = (scores >= sought[:, None]).sum(axis=1)
    return expected_ndcg(np.where(np.isfinite(sought), first, 0), last, k)
