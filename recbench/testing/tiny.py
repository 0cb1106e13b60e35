"""A tiny data set with a planted answer, and all the awkward things that real data have."""

from __future__ import annotations

import numpy as np

from recbench.contracts.dataset import Dataset, Interactions, ItemCatalog
from recbench.contracts.examples import Examples, build_examples
from recbench.contracts.split import Split

N_USERS = 40
N_ITEMS = 60
#: Items that no event ever shows; the others lie on one cycle.
UNSEEN_ITEMS = (58, 59)
#: Users who only come at the very end, so that none of their rows is a training row.
COLD_USERS = (38, 39)
_EVENTS = 14
_COLD_EVENTS = 3
_STRIDE = 23
_DAY_S = 86_400

_ADJECTIVES = ("Silent", "Golden", "Broken", "Distant", "Electric", "Hidden")
_NOUNS = ("Harbour", "Garden", "Letter", "Mountain", "Winter", "Orchestra", "Train", "River", "Mirror", "Lantern")


def planted_next(item: int) -> int:
    """Return the item that always follows ``item``: the next one on a cycle through all items that are ever seen."""
    n_cycle = N_ITEMS - len(UNSEEN_ITEMS)
    return (item + _STRIDE) % n_cycle


def tiny_catalog() -> ItemCatalog:
    """Return 60 items: two share a title, one has none, one a long one, one markup, one quotes and accents."""
    titles = [f"{adjective} {noun}" for adjective in _ADJECTIVES for noun in _NOUNS]
    titles[17] = titles[5]
    titles[23] = ""
    titles[31] = "The Very Long Title " + " ".join(f"part {n}" for n in range(1, 13))
    titles[42] = '<span class="title">Sold &amp; Out</span>'
    titles[50] = 'Café "Zoë": été'
    categories = tuple("drama" if number % 2 else "comedy" for number in range(N_ITEMS))
    return ItemCatalog(tuple(f"i{number:02d}" for number in range(N_ITEMS)), tuple(titles), "films", categories)


def tiny_dataset() -> Dataset:
    """Return the data set: every user walks along the planted cycle, so the next item follows from the last one.

    Users come in turn, one event a day each, several of them at the same instant (ties in time).
    """
    users, items, times = [], [], []
    for user in range(N_USERS):
        cold = user in COLD_USERS
        item = (user * 7) % (N_ITEMS - len(UNSEEN_ITEMS))
        start = _EVENTS - _COLD_EVENTS if cold else 0
        for day in range(start, _EVENTS):
            users.append(user)
            items.append(item)
            times.append(day * _DAY_S + (user // 4) * 60)
            item = planted_next(item)
    interactions = Interactions(np.array(users, np.int32), np.array(items, np.int32), np.array(times, np.int64))
    return Dataset("tiny", tuple(f"u{n:02d}" for n in range(N_USERS)), tiny_catalog(), interactions, source="planted")


def tiny_split(max_history: int = 10) -> Split:
    """Return the tiny data set's rows in time order, 8:1:1, as the default protocol cuts them."""
    events = tiny_dataset().interactions
    first = np.searchsorted(events.user, np.arange(N_USERS))
    rows = [
        (int(events.timestamp[p]), int(events.user[p]), events.item[max(first[events.user[p]], p - max_history) : p], p)
        for p in range(len(events))
        if p > first[events.user[p]]
    ]
    rows.sort(key=lambda row: row[:2])
    ids = np.arange(len(rows))
    every = build_examples(
        ids, [r[1] for r in rows], [r[0] for r in rows], [r[2] for r in rows], [events.item[r[3]] for r in rows]
    )
    cuts = (int(0.8 * len(rows)), int(0.9 * len(rows)))
    train, valid, test = (every.take(part) for part in np.split(ids, cuts))
    return Split(train, valid, test)


def awkward_queries(split: Split) -> Examples:
    """Return queries that a method must answer too: unseen items in the history, cold users, one item, repeats.

    The targets are the planted ones; example ids go on after those of the split.
    """
    unseen = UNSEEN_ITEMS[0]
    histories = [[unseen], [unseen, 3], [3, unseen], [4], [5, 5, 5, 5], list(range(10)), [unseen, UNSEEN_ITEMS[1]]]
    users = [0, 1, COLD_USERS[0], COLD_USERS[1], 2, 3, COLD_USERS[1]]
    last_id = int(max(part.example_id.max() for part in (split.train, split.valid, split.test)))
    last_time = int(split.test.timestamp.max())
    return build_examples(
        range(last_id + 1, last_id + 1 + len(histories)),
        users,
        [last_time + 1] * len(histories),
        histories,
        [planted_next(history[-1]) for history in histories],
    )
