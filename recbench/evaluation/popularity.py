"""How popular items are by the training rows: counts, a ranking of the catalogue, and its popular fifth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recbench.contracts.examples import Examples

N_DECILES = 10
_HEAD_DECILES = 2


def target_counts(train: Examples, n_items: int) -> np.ndarray:
    """Return int64 (n_items,): the number of training rows that have each item as target."""
    return np.bincount(train.target, minlength=n_items)


def seen_counts(train: Examples, n_items: int) -> np.ndarray:
    """Return int64 (n_items,): how often each item occurs in training rows, as target or in a history.

    An event counts once as target and once for every later row whose history still holds it.
    """
    return target_counts(train, n_items) + np.bincount(train.items, minlength=n_items)


def popularity_rank(counts: np.ndarray, item_ids: Sequence[str]) -> np.ndarray:
    """Return int32 (n_items,): the place of each item, from 1, by falling count; equal counts by item id, as text.

    Args:
        counts: int (n_items,), training frequency.
        item_ids: external ids.
    """
    place_of_id = np.argsort(np.argsort(np.asarray(item_ids, dtype=str), kind="stable"))
    order = np.lexsort((place_of_id, -counts))
    rank = np.empty(len(counts), dtype=np.int32)
    rank[order] = np.arange(1, len(counts) + 1)
    return rank


def decile_ends(n_items: int) -> np.ndarray:
    """Return int64 (10,): the last rank of each tenth of the catalogue, ceil(d n / 10) for d = 1..10."""
    return -(-np.arange(1, N_DECILES + 1) * n_items // N_DECILES)


def popularity_decile(counts: np.ndarray, rank: np.ndarray, n_items: int) -> np.ndarray:
    """Return int64: the tenth of the catalogue that each item is in, 1 = most popular; 0 where its count is 0.

    Items that training never shows cannot be told apart by popularity, so none of them is in a tenth: which one would
    be decided by their ids alone.

    Args:
        counts, rank: int (N,), of any N items.
        n_items: size of the catalogue.
    """
    decile = np.searchsorted(decile_ends(n_items), rank) + 1
    return np.where(counts > 0, decile, 0)


def is_popular(counts: np.ndarray, rank: np.ndarray, n_items: int) -> np.ndarray:
    """Return bool: whether each item is among the ceil(n / 5) most frequent ones (and occurs at all).

    This is the "top 20% of items" of the LatentR3 paper (section 4.3.1, appendix H), which leaves open what 20% of is
    meant and how ties fall: here of the whole catalogue, ties by item id. Arguments as in :func:`popularity_decile`.
    """
    decile = popularity_decile(counts, rank, n_items)
    return (decile >= 1) & (decile <= _HEAD_DECILES)


def self_information(counts: np.ndarray) -> np.ndarray:
    """Return float64 (n_items,): -log2 of the smoothed share of training rows with each item as target, in bits.

    The share is (count + 1) / (rows + items): every item is given one row more than it has, so that an item without
    any is surprising but not infinitely so.

    Args:
        counts: int (n_items,), :func:`target_counts` of the whole catalogue.
    """
    return -np.log2((counts + 1.0) / (counts.sum() + len(counts)))
