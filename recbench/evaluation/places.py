"""Where the target stands in each list, as the pair of places that its tied group spans.

Two truths are measured. ``item``: the target's exact id is sought in the list of items. ``title``: the list is read
as a list of distinct titles and the target's title is sought. A title's place is that of its best item, its score
that item's score; titles with equal scores are tied. (A method that writes a title owned by n items returns n tied
items: n places for the first truth, one for the second. With lists of written titles the second truth is what the
published LatentR3 code measures.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recbench.contracts.rankings import Rankings


@dataclass(frozen=True)
class RankedLists:
    """N lists of things (items or titles), best first; neighbours in a list with equal scores are tied.

    Attributes:
        offsets: int64 (N+1,); list ``i`` is ``things[offsets[i]:offsets[i+1]]``.
        things: int (P,), item numbers or title groups; nothing occurs twice in a list.
        scores: float64 (P,), never rising within a list.
    """

    offsets: np.ndarray
    things: np.ndarray
    scores: np.ndarray

    @property
    def row(self) -> np.ndarray:
        """int64 (P,): the list that each place belongs to."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))


def item_lists(rankings: Rankings) -> RankedLists:
    """Return the lists as they are."""
    return RankedLists(rankings.offsets, rankings.items, rankings.scores)


def title_lists(rankings: Rankings, title_group: np.ndarray) -> RankedLists:
    """Read each list as a list of distinct titles: the first item of a title stays, its later ones go.

    Args:
        rankings: lists of items.
        title_group: int32 (n_items,), the title of each item (``ItemCatalog.title_group``).
    """
    lists = item_lists(rankings)
    titles = title_group[rankings.items]
    # Only titles shared by several items can repeat; sorting those few places is all the work there is.
    shared = np.flatnonzero(np.bincount(title_group)[titles] > 1)
    key = lists.row[shared] * np.int64(len(title_group)) + titles[shared]
    _, first_of_title = np.unique(key, return_index=True)
    kept = np.ones(len(titles), dtype=bool)
    kept[shared] = False
    kept[shared[first_of_title]] = True
    kept_before = np.concatenate([[0], np.cumsum(kept)])
    return RankedLists(kept_before[rankings.offsets], titles[kept], rankings.scores[kept])


def tied_groups(lists: RankedLists) -> tuple[np.ndarray, np.ndarray]:
    """Return the first and last place (from 1, inclusive) of the tied group around every place.

    Returns:
        Two int64 arrays of shape (P,); they are equal where a place is tied with no other.
    """
    n_places = len(lists.things)
    if n_places == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    row = lists.row
    starts = np.ones(n_places, dtype=bool)
    starts[1:] = (row[1:] != row[:-1]) | (lists.scores[1:] != lists.scores[:-1])
    start = np.flatnonzero(starts)
    size = np.diff(np.append(start, n_places))
    first = np.repeat(start - lists.offsets[row[start]] + 1, size)
    return first, first + np.repeat(size, size) - 1


def target_places(lists: RankedLists, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first and last place of each target's tied group.

    Args:
        lists: N lists.
        target: int (N,), the thing sought in each list.

    Returns:
        Two int32 arrays of shape (N,), places from 1; 0 where the target is not listed.
    """
    row = lists.row
    hits = np.flatnonzero(lists.things == target[row])
    group_first, group_last = tied_groups(lists)
    first = np.zeros(len(target), dtype=np.int32)
    last = np.zeros(len(target), dtype=np.int32)
    first[row[hits]] = group_first[hits]
    last[row[hits]] = group_last[hits]
    return first, last
