"""Facts about the lists that need no target: coverage, concentration, popularity, novelty, similarity, validity."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from recbench.contracts.dataset import ItemCatalog, title_key
from recbench.contracts.examples import Examples
from recbench.contracts.rankings import Rankings
from recbench.evaluation.accuracy import expected_metric
from recbench.evaluation.places import RankedLists, item_lists, tied_groups, title_lists
from recbench.evaluation.popularity import is_popular, popularity_rank, self_information, target_counts
from recbench.evaluation.similarity import category_vectors, list_similarity, title_vectors

if TYPE_CHECKING:
    from scipy.sparse import csr_array


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


def describe_lists(rankings: Rankings, catalog: ItemCatalog, train: Examples, k: int = 10) -> dict[str, Any]:
    """Return what the top ``k`` of all lists looks like, as expectations over the order of ties.

    Returns:
        ``k``; ``coverage``, expected share of the catalogue listed at least once; ``gini`` of how often items are
        listed, over the whole catalogue; ``average_popularity``, mean number of train rows that have a listed item
        as target; ``popular_share``, share of places that hold one of the popular 20% of items
        (:func:`recbench.evaluation.popularity.is_popular`); ``novelty``, mean self-information of the listed items in
        bits (:func:`recbench.evaluation.popularity.self_information`; after Zhou and others 2010); ``similarity_title``
        and ``similarity_category``, mean over lists of :func:`recbench.evaluation.similarity.list_similarity`, the
        latter None where the data set has no categories. All but ``k`` and ``coverage`` are None where no list has a
        place (or, for a similarity, two).
    """
    lists = item_lists(rankings)
    chance = exposure(lists, k)
    listed = np.bincount(rankings.items, weights=chance, minlength=len(catalog))
    counts = target_counts(train, len(catalog))
    popular = is_popular(counts, popularity_rank(counts, catalog.ids), len(catalog))
    return {
        "k": k,
        "coverage": expected_coverage(rankings.items, chance, len(catalog)),
        "gini": gini(listed),
        "average_popularity": _mean_over_places(listed, counts),
        "popular_share": _mean_over_places(listed, popular),
        "novelty": _mean_over_places(listed, self_information(counts)),
        "similarity_title": _mean_similarity(lists, title_vectors(catalog), k),
        "similarity_category": _mean_similarity(lists, category_vectors(catalog), k),
    }


def _mean_over_places(listed: np.ndarray, value: np.ndarray) -> float | None:
    """Return the mean of an item's value over all places, given how often each item is expected to be listed."""
    total = listed.sum()
    return float(listed @ value / total) if total else None


def _mean_similarity(lists: RankedLists, vectors: csr_array | None, k: int) -> float | None:
    if vectors is None:
        return None
    similarity = list_similarity(lists, vectors, k)
    known = ~np.isnan(similarity)
    return float(similarity[known].mean()) if known.any() else None


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


def describe_generations(records: Iterable[Mapping[str, Any]], catalog: ItemCatalog) -> dict[str, Any]:
    """Return how much of what a method wrote is a title of the catalogue.

    Args:
        records: lines of ``generations.jsonl``; ``titles``, where there, is the list of titles read from the answer,
            and ``text`` what was written freely before it was grounded.
        catalog: the items.

    Returns:
        Counts: ``titles``; ``invalid``, those that no item has; ``repeated``, those that stand earlier in their list;
        ``texts``; ``texts_not_a_title``, those that are no title of the catalogue word for word. Titles are compared
        as :func:`recbench.contracts.dataset.title_key` says.
    """
    known = {title_key(title) for title in catalog.titles} - {""}
    counts = dict.fromkeys(("titles", "invalid", "repeated", "texts", "texts_not_a_title"), 0)
    for record in records:
        titles = [title_key(title) for title in record.get("titles") or ()]
        counts["titles"] += len(titles)
        counts["invalid"] += sum(title not in known for title in titles)
        counts["repeated"] += len(titles) - len(set(titles))
        if "text" in record:
            counts["texts"] += 1
            counts["texts_not_a_title"] += title_key(record["text"]) not in known
    return counts


def tied_share(rankings: Rankings) -> float:
    """Return the share of listed places that are tied with another place of their list; 0.0 without places."""
    first, last = tied_groups(item_lists(rankings))
    return float((last > first).mean()) if len(first) else 0.0
