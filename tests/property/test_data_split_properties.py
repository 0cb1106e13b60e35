"""Splits of random data: the fast code agrees with a slow one, and no row sees its future."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recbench.contracts.dataset import Dataset, Interactions, ItemCatalog
from recbench.contracts.examples import Examples
from recbench.contracts.protocol import Protocol
from recbench.contracts.split import Split
from recbench.data.locate import EventIndex
from recbench.data.split import make_split

N_ITEMS = 6
Row = tuple[int, int, int, tuple[int, ...], int]

# Few items and times, so that repeats and ties abound; one long user, so that no part is empty.
histories = st.lists(
    st.lists(st.tuples(st.integers(-3, 3), st.integers(0, N_ITEMS - 1)), min_size=1, max_size=8),
    min_size=1,
    max_size=6,
)


def build(histories: list[list[tuple[int, int]]]) -> Dataset:
    events = [(10, n % N_ITEMS, n) for n in range(14)]
    users = [[(time, item) for _, item, time in events], *(sorted(h, key=lambda e: e[0]) for h in histories)]
    flat = [(user, item, time) for user, sequence in enumerate(users) for time, item in sequence]
    columns = np.array(flat)
    interactions = Interactions(
        columns[:, 0].astype(np.int32), columns[:, 1].astype(np.int32), columns[:, 2].astype(np.int64)
    )
    catalog = ItemCatalog(tuple(map(str, range(N_ITEMS))), ("",) * N_ITEMS)
    return Dataset("random", tuple(map(str, range(len(users)))), catalog, interactions)


def slow_rows(dataset: Dataset, max_history: int) -> list[Row]:
    """All rows in time order, one by one: (id, user, time, history, target)."""
    i = dataset.interactions
    rows = []
    for event in range(len(i)):
        before = [e for e in range(event) if i.user[e] == i.user[event]]
        if before:
            history = tuple(int(i.item[e]) for e in before[-max_history:])
            rows.append((int(i.timestamp[event]), int(i.user[event]), event, history, int(i.item[event])))
    rows.sort(key=lambda row: row[:3])
    return [(number, row[1], row[0], row[3], row[4]) for number, row in enumerate(rows)]


def rows_of(part: Examples) -> list[Row]:
    return [
        (
            int(part.example_id[row]),
            int(part.user[row]),
            int(part.timestamp[row]),
            tuple(part.history(row).tolist()),
            int(part.target[row]),
        )
        for row in range(len(part))
    ]


def parts_of(split: Split) -> list[list[Row]]:
    return [rows_of(part) for part in (split.train, split.valid, split.test)]


@given(histories, st.integers(1, 4))
@settings(deadline=None, max_examples=60)
def test_global_time_equals_the_slow_way(histories: list[list[tuple[int, int]]], max_history: int) -> None:
    dataset = build(histories)
    expected = slow_rows(dataset, max_history)
    train, valid, test = parts_of(make_split(dataset, Protocol(max_history=max_history)))
    assert train + valid + test == expected
    assert len(train) == int(0.8 * len(expected))
    assert len(train) + len(valid) == int(0.9 * len(expected))


@given(histories, st.integers(1, 4))
@settings(deadline=None, max_examples=60)
def test_leave_one_out_is_complete_and_takes_the_last_events(
    histories: list[list[tuple[int, int]]], max_history: int
) -> None:
    dataset = build(histories)
    expected = slow_rows(dataset, max_history)
    train, valid, test = parts_of(make_split(dataset, Protocol(split="leave-one-out", max_history=max_history)))
    assert sorted(train + valid + test) == expected
    for user in range(len(dataset.users)):
        mine = [row for row in expected if row[1] == user]
        # Rows of one user and instant keep their order, so the last ones are the last ones of the table.
        assert [row for row in test if row[1] == user] == mine[-1:]
        assert [row for row in valid if row[1] == user] == mine[:-1][-1:]


@given(histories, st.integers(1, 30), st.integers(1, 5))
@settings(deadline=None, max_examples=60)
def test_limited_rows_are_rows_of_the_full_split(
    histories: list[list[tuple[int, int]]], limit_train: int, limit_test: int
) -> None:
    dataset = build(histories)
    full = parts_of(make_split(dataset, Protocol()))
    limited = parts_of(make_split(dataset, Protocol(limit_train=limit_train, limit_test=limit_test)))
    limits = (limit_train, limit_test, limit_test)
    for part, whole, limit in zip(limited, full, limits, strict=True):
        assert len(part) == min(limit, len(whole))
        assert [row for row in whole if row in part] == part


@given(histories, st.integers(1, 4), st.data())
@settings(deadline=None, max_examples=60)
def test_the_index_finds_true_rows_and_no_other(
    histories: list[list[tuple[int, int]]], max_history: int, data: st.DataObject
) -> None:
    dataset = build(histories)
    split = make_split(dataset, Protocol(max_history=max_history))
    index = EventIndex(dataset.interactions, N_ITEMS)
    found = index.locate(split.train)
    assert (dataset.interactions.user[found] == split.train.user).all()
    assert (dataset.interactions.item[found] == split.train.target).all()
    place = data.draw(st.integers(0, len(split.train.items) - 1))
    items = split.train.items.copy()
    items[place] = (items[place] + data.draw(st.integers(1, N_ITEMS - 1))) % N_ITEMS
    forged = Examples(
        split.train.example_id,
        split.train.user,
        split.train.timestamp,
        split.train.offsets,
        items,
        split.train.target,
    )
    row = int(np.searchsorted(forged.offsets, place, "right")) - 1
    true_rows = {true_row[1:] for true_row in slow_rows(dataset, max_history)}
    genuine = rows_of(forged)[row][1:] in true_rows
    # A history cut short is still genuine: what was changed may be what another row really shows.
    assert (index.locate(forged)[row] >= 0) == genuine or len(forged.history(row)) < max_history
