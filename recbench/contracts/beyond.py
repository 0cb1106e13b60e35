"""What the lists of several entries look like beyond accuracy: what reports render, unrounded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BeyondRow:
    """One entry; numbers are means over its runs, None where no run has them.

    Attributes:
        label: unique name within the group.
        run_ids: runs behind it.
        k: places of a list that count.
        coverage: expected share of the catalogue in at least one list.
        gini: of how often items are listed, over the whole catalogue; 0 = equally often.
        average_popularity: mean training rows (as target) of a listed item.
        popular_share: share of the places that hold one of the popular 20% of items.
        novelty: mean self-information of a listed item, bits.
        similarity_title, similarity_category: mean similarity of two items of one list.
        empty_lists, short_lists: share of lists with no place, and with fewer than 10.
        tied_places: share of places tied with another of their list.
        invalid_titles, repeated_titles: share of written titles that no item has, that stand twice in a list; None for
            methods that write no titles.
        texts_not_a_title: share of freely written texts that are no title; None for methods that write none.
        lacking: runs whose summary lacks some of this, because an older recbench wrote it.
    """

    label: str
    run_ids: tuple[str, ...]
    k: int
    coverage: float | None
    gini: float | None
    average_popularity: float | None
    popular_share: float | None
    novelty: float | None
    similarity_title: float | None
    similarity_category: float | None
    empty_lists: float | None
    short_lists: float | None
    tied_places: float | None
    invalid_titles: float | None
    repeated_titles: float | None
    texts_not_a_title: float | None
    lacking: tuple[str, ...] = ()
