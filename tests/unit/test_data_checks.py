"""Damage of every kind that a data set or split can have is found and named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from recbench.contracts.dataset import Dataset, Interactions
from recbench.contracts.errors import DataError
from recbench.contracts.examples import Examples
from recbench.contracts.protocol import Protocol
from recbench.contracts.split import Split
from recbench.data.checks import check_dataset, check_split
from recbench.data.split import make_split
from recbench.testing.tiny import tiny_dataset


def with_events(change: Callable[[Interactions], Interactions]) -> Dataset:
    dataset = tiny_dataset()
    return replace(dataset, interactions=change(dataset.interactions))


def test_sound_data_pass() -> None:
    check_dataset(tiny_dataset())


@pytest.mark.parametrize(
    ("damaged", "words"),
    [
        (with_events(lambda e: replace(e, item=e.item + 3)), "item number 60"),
        (with_events(lambda e: replace(e, user=e.user - 1)), "user number -1"),
        (with_events(lambda e: replace(e, timestamp=e.timestamp[::-1].copy())), "out of order"),
        (with_events(lambda e: replace(e, user=e.user[::-1].copy())), "out of order"),
        (with_events(lambda e: replace(e, item=e.item.astype(np.int64))), "'item' is int64"),
        (with_events(lambda e: replace(e, timestamp=e.timestamp[:-1])), "'timestamp' is int64"),
        (replace(tiny_dataset(), users=("u00",) * 40), "user id occurs twice"),
        (replace(tiny_dataset(), has_time=False), "not the order"),
        (
            replace(tiny_dataset(), catalog=replace(tiny_dataset().catalog, titles=("one",))),
            "not one title per item",
        ),
    ],
)
def test_damaged_data_are_refused(damaged: Dataset, words: str) -> None:
    with pytest.raises(DataError, match=words):
        check_dataset(damaged)


def swap_history(part: Examples) -> Examples:
    items = part.items.copy()
    items[0] = (items[0] + 1) % 58
    return replace(part, items=items)


def leak_target(part: Examples) -> Examples:
    """Put the target itself at the end of the last row's history."""
    items = part.items.copy()
    items[-1] = part.target[-1]
    return replace(part, items=items)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: replace(s, train=swap_history(s.train)), "not what the user did"),
        (lambda s: replace(s, test=leak_target(s.test)), "not what the user did"),
        (lambda s: replace(s, valid=s.train.take([0]), train=s.valid), "last training row"),
        (lambda s: replace(s, valid=s.test), "occurs twice"),
        (lambda s: replace(s, train=replace(s.train, target=s.train.target + 60)), "target number"),
        (lambda s: replace(s, train=replace(s.train, timestamp=s.train.timestamp + 1)), "not what the user did"),
    ],
)
def test_leaks_are_found(change: Callable[[Split], Split], words: str) -> None:
    dataset = tiny_dataset()
    split = make_split(dataset, Protocol())
    with pytest.raises(DataError, match=words):
        check_split(dataset, change(split), Protocol())


def test_too_long_histories_are_refused() -> None:
    dataset = tiny_dataset()
    split = make_split(dataset, Protocol(max_history=5))
    with pytest.raises(DataError, match="more than 4 items"):
        check_split(dataset, split, Protocol(max_history=4))
