"""Splits on data small enough to work out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from recbench.contracts.dataset import Dataset, Interactions, ItemCatalog, ProvidedSplit
from recbench.contracts.errors import ConfigError, DataError
from recbench.contracts.examples import Examples, build_examples
from recbench.contracts.protocol import Protocol
from recbench.data.split import default_strategy, make_split
from recbench.testing.tiny import tiny_dataset, tiny_split


def dataset_of(events: list[tuple[int, int, int]], n_items: int = 50, has_time: bool = True) -> Dataset:
    """Build a data set from (user, item, time), already sorted by user and time."""
    user, item, time = (np.array(column) for column in zip(*events, strict=True))
    catalog = ItemCatalog(tuple(f"i{n}" for n in range(n_items)), tuple(f"Title {n}" for n in range(n_items)))
    interactions = Interactions(user.astype(np.int32), item.astype(np.int32), time.astype(np.int64))
    return Dataset("hand", tuple(f"u{n}" for n in range(user.max() + 1)), catalog, interactions, has_time)


def rows_of(part: Examples) -> list[tuple[int, int, list[int], int]]:
    """Return (example_id, user, history, target) per row."""
    return [
        (int(part.example_id[row]), int(part.user[row]), part.history(row).tolist(), int(part.target[row]))
        for row in range(len(part))
    ]


# Eleven events of three users give 10 - 2 = 8 rows; user 1 and 2 have events in the same instants.
HAND = [
    *[(0, 1, 10), (0, 2, 20), (0, 3, 30), (0, 4, 90)],
    *[(1, 5, 20), (1, 6, 30), (1, 7, 30), (1, 8, 40)],
    *[(2, 9, 30), (2, 10, 40), (2, 11, 40)],
]


def test_global_time_by_hand() -> None:
    split = make_split(dataset_of(HAND), Protocol(max_history=2))
    # In time order: (20: u0 2), (30: u0 3), (30: u1 6), (30: u1 7), (40: u1 8), (40: u2 10), (40: u2 11), (90: u0 4).
    assert rows_of(split.train) == [
        (0, 0, [1], 2),
        (1, 0, [1, 2], 3),
        (2, 1, [5], 6),
        (3, 1, [5, 6], 7),
        (4, 1, [6, 7], 8),
        (5, 2, [9], 10),
    ]
    assert rows_of(split.valid) == [(6, 2, [9, 10], 11)]
    assert rows_of(split.test) == [(7, 0, [2, 3], 4)]
    assert split.facts["boundaries"]["valid"] == {
        "row": 6,
        "timestamp": 40,
        "time": "1970-01-01T00:00:40Z",
        "tied_before": 2,
        "tied_after": 1,
    }
    assert split.facts["parts"]["test"]["unseen_items"] == 1
    assert split.facts["parts"]["test"]["rows_of_unseen_users"] == 0
    assert not split.warnings


def test_boundary_at_a_time_moves_the_whole_instant_to_the_later_part() -> None:
    split = make_split(dataset_of(HAND), Protocol(max_history=2, boundary="time"))
    assert [part.example_id.tolist() for part in (split.train, split.valid, split.test)] == [
        [0, 1, 2, 3],
        [4, 5, 6],
        [7],
    ]
    assert split.facts["boundaries"]["valid"]["tied_before"] == 0


def test_cuts_are_those_of_the_paper() -> None:
    """Table 3: 61,565 rows of CDs give 49,252 / 6,156 / 6,157 by int(0.8 n) and int(0.9 n)."""
    n_rows = 61_565
    events = [(0, 0, time) for time in range(n_rows + 1)]
    split = make_split(dataset_of(events), Protocol(max_history=1))
    assert [len(split.train), len(split.valid), len(split.test)] == [49_252, 6_156, 6_157]


def test_leave_one_out_by_hand() -> None:
    events = [*HAND, (3, 20, 50), (3, 21, 60), (4, 22, 5)]
    split = make_split(dataset_of(events), Protocol(split="leave-one-out"))
    by_user = {row[1]: row for row in rows_of(split.test)}
    assert {user: row[3] for user, row in by_user.items()} == {0: 4, 1: 8, 2: 11, 3: 21}
    assert by_user[3][2] == [20]
    assert {row[1]: row[3] for row in rows_of(split.valid)} == {0: 3, 1: 7, 2: 10}
    assert sorted(row[3] for row in rows_of(split.train)) == [2, 6]
    assert split.facts["users_without_row"] == 1
    assert split.facts["users_with_test_row_only"] == 1
    assert len(split.warnings) == 1
    assert "future" in split.warnings[0]


def test_leave_one_out_keeps_the_row_numbers_of_the_full_table() -> None:
    full = make_split(dataset_of(HAND), Protocol())
    other = make_split(dataset_of(HAND), Protocol(split="leave-one-out"))
    by_id = {row[0]: row for part in (full.train, full.valid, full.test) for row in rows_of(part)}
    for part in (other.train, other.valid, other.test):
        assert all(by_id[row[0]] == row for row in rows_of(part))
        assert (np.diff(part.example_id) > 0).all()


def test_agrees_with_the_tiny_data_set_cut_by_hand() -> None:
    assert make_split(tiny_dataset(), Protocol()).fingerprint == tiny_split().fingerprint


def test_limits_keep_ids_users_and_order() -> None:
    dataset = tiny_dataset()
    full = make_split(dataset, Protocol())
    small = make_split(dataset, Protocol(limit_train=50, limit_test=7))
    assert [len(small.train), len(small.valid), len(small.test)] == [50, 7, 7]
    for part, whole in ((small.train, full.train), (small.valid, full.valid), (small.test, full.test)):
        rows = np.searchsorted(whole.example_id, part.example_id)
        assert whole.take(rows).fingerprint == part.fingerprint
    counts = np.bincount(small.train.user, minlength=40)
    whole_counts = np.bincount(full.train.user, minlength=40)
    kept = counts > 0
    assert (counts[kept] != whole_counts[kept]).sum() <= 1
    cut = np.flatnonzero(kept & (counts != whole_counts))
    for user in cut:  # of the last user, the earliest rows
        assert small.train.example_id[small.train.user == user].tolist() == (
            full.train.example_id[full.train.user == user][: counts[user]].tolist()
        )
    smaller = make_split(dataset, Protocol(limit_train=20, limit_test=3))
    assert set(smaller.train.example_id) <= set(small.train.example_id)
    assert set(smaller.test.example_id) <= set(small.test.example_id)
    assert small.facts["limits"]["train"] == {"limit": 50, "kept": 50, "of": len(full.train)}


def test_limits_beyond_the_data_change_nothing_but_say_so() -> None:
    full = make_split(tiny_dataset(), Protocol())
    limited = make_split(tiny_dataset(), Protocol(limit_train=10**6, limit_test=10**6))
    assert limited.fingerprint == full.fingerprint
    assert "hash" in limited.facts["limits"]["remark"]


def provided_dataset() -> Dataset:
    base = dataset_of(HAND)
    parts = [
        build_examples([0], [0], [20], [[1]], [2]),
        build_examples([1], [0], [30], [[1, 2]], [3]),
        build_examples([2], [0], [90], [[1, 2, 3]], [4]),
    ]
    return Dataset("given", base.users, base.catalog, base.interactions, provided=ProvidedSplit(*parts))


def test_provided_rows_are_kept_with_shortened_histories() -> None:
    split = make_split(provided_dataset(), Protocol(split="provided", max_history=2))
    assert rows_of(split.test) == [(2, 0, [2, 3], 4)]
    assert rows_of(split.train) == [(0, 0, [1], 2)]
    assert split.facts["longest_history_in_source"] == 3


def test_default_strategy() -> None:
    assert default_strategy(dataset_of(HAND)) == "global-time"
    assert default_strategy(dataset_of(HAND, has_time=False)) == "leave-one-out"
    assert default_strategy(provided_dataset()) == "provided"


@pytest.mark.parametrize(
    ("dataset", "values", "error", "words"),
    [
        (dataset_of(HAND, has_time=False), {}, ConfigError, "leave-one-out"),
        (dataset_of(HAND), {"split": "provided"}, ConfigError, "global-time"),
        (dataset_of([(0, 1, 5), (1, 2, 6)]), {}, DataError, "no user with two events"),
        (dataset_of([(0, 1, 5), (0, 2, 6)]), {}, DataError, "training part is empty"),
        (dataset_of([(0, n, 5) for n in range(20)]), {"boundary": "time"}, DataError, "1 instants"),
        (dataset_of([(0, 1, 5), (0, 2, 6)]), {"split": "leave-one-out"}, DataError, "four events"),
    ],
)
def test_what_does_not_fit_is_said(
    dataset: Dataset, values: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        make_split(dataset, Protocol(**values))
