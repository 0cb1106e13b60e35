"""How alike the items of one list are, by the words of their titles or by their categories."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from recbench.contracts.dataset import ItemCatalog
from recbench.evaluation.places import RankedLists, tied_groups

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_WORD = re.compile(r"[^\W_]+")


def title_vectors(catalog: ItemCatalog) -> csr_array:
    """Return float64 (n_items, V): TF-IDF vectors of titles, of length 1 (0 for an item without a word).

    Words are runs of letters and digits in lower case; the weight of a word is its count in the title times
    ln((1 + n) / (1 + df)) + 1, with df titles of n that hold it (scikit-learn's smooth idf).
    """
    return _vectors([_WORD.findall(title.lower()) for title in catalog.titles], weighted=True)


def category_vectors(catalog: ItemCatalog) -> csr_array | None:
    """Return float64 (n_items, V): categories as vectors of length 1 (0 where unknown), or None without any.

    A category string is a set of labels: ``Animation | Comedy`` are two, and the path ``Beauty > Makeup > Nails`` is
    three, one for every beginning of it. All labels weigh the same.
    """
    if catalog.categories is None or not any(catalog.categories):
        return None
    return _vectors([_labels(text) for text in catalog.categories], weighted=False)


def _labels(text: str) -> set[tuple[str, ...]]:
    paths = [[part.strip() for part in path.split(">")] for path in text.split("|") if path.strip()]
    return {tuple(path[:depth]) for path in paths for depth in range(1, len(path) + 1)}


def _vectors(documents: Sequence[Iterable[Hashable]], *, weighted: bool) -> csr_array:
    from scipy.sparse import coo_array, diags_array

    number: dict[Hashable, int] = {}
    row, column = [], []
    for document, words in enumerate(documents):
        for word in words:
            row.append(document)
            column.append(number.setdefault(word, len(number)))
    shape = (len(documents), max(len(number), 1))
    counts = coo_array((np.ones(len(row)), (row, column)), shape=shape).tocsr()
    counts.sum_duplicates()
    if weighted:
        in_documents = np.bincount(counts.indices, minlength=shape[1])
        counts = counts @ diags_array(np.log((1 + shape[0]) / (1 + in_documents)) + 1)
    lengths = np.sqrt(np.asarray(counts.multiply(counts).sum(axis=1)).ravel())
    return (diags_array(1 / np.where(lengths > 0, lengths, 1.0)) @ counts).tocsr()


def list_similarity(lists: RankedLists, vectors: csr_array, k: int) -> np.ndarray:
    """Return float64 (N,): expected mean similarity of all pairs in the first ``k`` places of each list.

    Intra-list similarity (Ziegler and others 2005, "Improving recommendation lists through topic diversification"),
    as a mean over pairs. Similarity is the dot product. Of a tie of g items of which m fit into the top k, every
    m are equally likely: one of them is in with chance m / g, two with chance m (m - 1) / (g (g - 1)); so sums of
    vectors give the exact expectation, and no pair is visited.

    Args:
        lists: N lists of items.
        vectors: (n_items, V), one row per item, of length 1 or 0.
        k: places that count.

    Returns:
        One value per list; NaN where fewer than two places count.
    """
    from scipy.sparse import csr_array

    n_lists = len(lists.offsets) - 1
    first, last = tied_groups(lists)
    row = lists.row
    norm = np.asarray(vectors.multiply(vectors).sum(axis=1)).ravel()[lists.things]
    group_size = last - first + 1
    inside, cut = last <= k, (first <= k) & (last > k)

    def summed(chosen: np.ndarray) -> tuple[csr_array, np.ndarray]:
        """Return the sum of the vectors of each list's chosen places, and the sum of their squared lengths."""
        shape = (n_lists, vectors.shape[0])
        pick = csr_array((np.ones(int(chosen.sum())), (row[chosen], lists.things[chosen])), shape=shape)
        return pick @ vectors, np.bincount(row[chosen], weights=norm[chosen], minlength=n_lists)

    whole, whole_norm = summed(inside)
    tie, tie_norm = summed(cut)
    in_tie = np.ones(n_lists)
    in_tie[row[cut]] = group_size[cut]
    fitting = np.zeros(n_lists)
    fitting[row[cut]] = k - first[cut] + 1
    one = fitting / in_tie
    two = one * (fitting - 1) / np.maximum(in_tie - 1, 1)
    total = (_dot(whole, whole) - whole_norm) / 2 + one * _dot(whole, tie) + two * (_dot(tie, tie) - tie_norm) / 2
    places = np.minimum(np.diff(lists.offsets), k)
    pairs = places * (places - 1) / 2
    return np.divide(total, pairs, out=np.full(n_lists, np.nan), where=pairs > 0)


def _dot(a: csr_array, b: csr_array) -> np.ndarray:
    return np.asarray(a.multiply(b).sum(axis=1)).ravel()
