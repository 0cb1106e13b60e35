"""What every method and analysis shares about a data set: its items, its interactions, its origin."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from recbench.contracts.examples import Examples
from recbench.contracts.hashing import hash_arrays, hash_json, hash_strings


def title_key(title: str) -> str:
    """Return the form in which two titles are compared: without blanks, newlines and double quotes at its ends.

    This is what the published LatentR3 code strips before it compares titles.
    """
    return title.strip(' \t\r\n"')


@dataclass(frozen=True)
class ItemCatalog:
    """All items that can be recommended. Item number ``i`` is position ``i``; titles may repeat and are never keys.

    Attributes:
        ids: external item ids, unique, length n_items.
        titles: one title per item; an empty string means that the item has no title.
        noun: what the items are called in prompts, plural ("movies", "toys and games").
        categories: one string per item ("" where unknown), or None where the source has none.
    """

    ids: tuple[str, ...]
    titles: tuple[str, ...]
    noun: str = "items"
    categories: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def number_of(self) -> dict[str, int]:
        """External item id -> item number."""
        return {item_id: number for number, item_id in enumerate(self.ids)}

    @cached_property
    def title_group(self) -> np.ndarray:
        """int32 (n_items,): items with an equal non-empty title share a group; an untitled item is alone in its own.

        Groups are numbered from 0 in the order of first appearance.
        """
        groups: dict[str, int] = {}
        result = np.empty(len(self.ids), dtype=np.int32)
        n_groups = 0
        for number, title in enumerate(self.titles):
            key = title_key(title)
            if key and key in groups:
                result[number] = groups[key]
                continue
            if key:
                groups[key] = n_groups
            result[number] = n_groups
            n_groups += 1
        return result

    @cached_property
    def fingerprint(self) -> str:
        """Hash of ids, titles, categories and noun."""
        return hash_json(
            [hash_strings(self.ids), hash_strings(self.titles), hash_strings(self.categories or ()), self.noun]
        )


@dataclass(frozen=True)
class Interactions:
    """All events, sorted by user, then time, then source row.

    Attributes:
        user: int32 (n,), user numbers.
        item: int32 (n,), item numbers.
        timestamp: int64 (n,), seconds since 1970 UTC; where the source has only an order, the position in the
            user's sequence (``Dataset.has_time`` is then False).
        rating: float32 (n,) or None.
    """

    user: np.ndarray
    item: np.ndarray
    timestamp: np.ndarray
    rating: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True)
class ProvidedSplit:
    """Examples that the source fixes itself (the D3/R3 csv format), in place of a split that recbench computes."""

    train: Examples
    valid: Examples
    test: Examples


@dataclass(frozen=True)
class Dataset:
    """One data set. Equal content has an equal fingerprint, wherever and from whatever file it was prepared.

    Attributes:
        name: name under which it is asked for.
        users: external user ids; user number ``u`` is position ``u``.
        catalog: the items.
        interactions: the events.
        has_time: whether timestamps are real times (False: only the order within a user is known).
        provided: the source's own split, or None.
        source: where it came from, in words.
        notes: sentences that must stand under every table made from it.
    """

    name: str
    users: tuple[str, ...]
    catalog: ItemCatalog
    interactions: Interactions
    has_time: bool = True
    provided: ProvidedSplit | None = None
    source: str = ""
    notes: tuple[str, ...] = field(default=())

    @cached_property
    def fingerprint(self) -> str:
        """Hash of users, catalogue, interactions and provided split; name, source and notes do not count."""
        i = self.interactions
        arrays = [i.user, i.item, i.timestamp] + ([] if i.rating is None else [i.rating])
        provided = self.provided
        parts = [provided.train, provided.valid, provided.test] if provided else []
        return hash_json(
            [
                hash_strings(self.users),
                self.catalog.fingerprint,
                hash_arrays(arrays),
                self.has_time,
                [part.fingerprint for part in parts],
            ]
        )
