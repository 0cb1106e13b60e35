"""Facts about the lists that need no target: coverage, concentration, popularity, validity."""

from __future__ import annotations

from typing import Any

import numpy as np

from recbench.contracts.dataset import ItemCatalog
from recbench.contracts.examples import Examples
from recbench.contracts.rankings import Rankings
from recbench.evaluation.accuracy import expected_metric
from recbench.evaluation.places import RankedLists, item_lists, tied_groups, title_lists


def exposure(lists: RankedLists, k: int) -> np.ndarray:
    """Return float64 (P,): the chance of each place's item to be among the first ``k`` under a random order of ties."""
    first, last = tied_groups(lists)
    return expected_metric("HR", first, last, k)


def expected_coverage(items: np.ndarray, chance: np.ndarray, n_items: int) -> float:
    """Return the expected share of the catalogue that occurs in at least one top-k list.

    An item is missed if every list misses it; ties of different lists are broken independently.

    Args:
        items: int (P,), item numbers.
        chance: float64 (P,), chance of each place to be in its top k (:func:`exposure`).
        n_items: size of the catalogue.
    """
    with np.errstate(divide="ignore"):
        log_missed = np.log1p(-chance)
    return float(-np.expm1(np.bincount(items, weights=log_missed, minlength=n_items)).mean())


def gini(amounts: np.ndarray) -> float | None:
    """Return the Gini coefficient of amounts >= 0: 0 = all equal, towards 1 = one has all; None if all are 0."""
    total = amounts.sum()
    if total == 0:
        return None
    n = len(amounts)
    weight = 2 * np.arange(1, n + 1) - n - 1
    return float((weight * np.sort(amounts)).sum() / (n * total))


def describe_lists(rankings: Rankings, n_items: int, train: Examples, k: int = 10) -> dict[str, Any]:
    """Return what the top ``k`` of all lists looks like.

    Returns:
        ``k``; ``coverage``, expected share of the catalogue listed at least once; ``gini`` of how often items are
        listed, over the whole catalogue; ``average_popularity``, mean number of train rows that have a listed item
        as target. The last two are None if all lists are empty.
    """
    chance = exposure(item_lists(rankings), k)
    popularity = np.bincount(train.target, minlength=n_items)
    total = chance.sum()
    return {
        "k": k,
        "coverage": expected_coverage(rankings.items, chance, n_items),
        "gini": gini(np.bincount(rankings.items, weights=chance, minlength=n_items)),
        "average_popularity": float((chance * popularity[rankings.items]).sum() / total) if total else None,
    }


def describe_validity(rankings: Rankings, catalog: ItemCatalog, max_cutoff: int) -> dict[str, Any]:
    """Return how many lists are empty or too short to fill the cutoffs.

    Returns:
        Counts of lists: ``empty``, ``shorter_than_10``, ``shorter_than_20``; ``mean_length`` and ``max_length`` in
        places; ``titles_wanted``, the largest cutoff, and ``fewer_titles``, lists with fewer distinct titles.
    """
    lengths = rankings.lengths
    titles = np.diff(title_lists(rankings, catalog.title_group).offsets)
    return {
        "empty": int((lengths == 0).sum()),
        "shorter_than_10": int((lengths < 10).sum()),
        "shorter_than_20": int((lengths < 20).sum()),
        "mean_length": float(lengths.mean()) if len(lengths) else 0.0,
        "max_length": int(lengths.max(initial=0)),
        "titles_wanted": max_cutoff,
        "fewer_titles": int((titles < max_cutoff).sum()),
    }


def tied_share(rankings: Rankings) -> float:
    """Return the share of listed places that are tied with another place of their list; 0.0 without places."""
    first, last = tied_groups(item_lists(rankings))
    return float((last > first).mean()) if len(first) else 0.0
