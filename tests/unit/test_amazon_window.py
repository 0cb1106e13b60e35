"""Months, k-core, window and numbering on arrays, with worked values."""

from __future__ import annotations

import random

import numpy as np
import pytest
from helpers_amazon import DAY, day

from recbench.contracts.errors import DataError
from recbench.data.sources.amazon.assemble import in_order_of_appearance, order_events, shuffled_places
from recbench.data.sources.amazon.window import CodedEvents, Month, WindowRule, find_window, first_of_each_pair, k_core


def events(user: list[int], item: list[int], time: list[int], per_second: int = 1) -> CodedEvents:
    rating = np.arange(len(user), dtype=np.float32)
    return CodedEvents(np.array(user, np.int32), np.array(item, np.int32), np.array(time), rating, per_second)


def test_months() -> None:
    assert Month(2017, 10).first_second == 1506816000
    assert Month(1970, 1).first_second == 0
    assert Month(2017, 10).earlier(3) == Month(2017, 7)
    assert Month(2017, 1).earlier(3) == Month(2016, 10)
    assert Month(2017, 3).earlier(3) == Month(2016, 12)
    assert Month(2017, 3).earlier(27) == Month(2014, 12)
    assert Month(2016, 12) < Month(2017, 1) < Month(2017, 2)
    assert str(Month(2017, 1)) == "2017-01"
    with pytest.raises(ValueError, match="month 0"):
        Month(2017, 0)


def test_core_removes_users_and_items_at_once() -> None:
    # Item 2 has one event, so user 2 falls below two, and item 1 with it; 0 and 1 hold each other.
    user, item = [0, 0, 1, 1, 2, 2], [0, 3, 0, 3, 1, 2]
    kept = k_core(np.array(user), np.array(item), 2)
    assert kept is not None
    assert kept.tolist() == [0, 1, 2, 3]


def test_core_counts_repeated_events() -> None:
    kept = k_core(np.array([0, 0, 0]), np.array([7, 7, 7]), 3)
    assert kept is not None
    assert kept.tolist() == [0, 1, 2]


def test_core_gives_up_below_the_wanted_items_but_not_at_them() -> None:
    user, item = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 0, 1, 2])
    assert k_core(user, item, 2, least_items=3) is None
    kept = k_core(user, item, 2, least_items=2)
    assert kept is not None
    assert kept.tolist() == [0, 1, 2, 3]


def test_core_zero_keeps_everything_and_nothing_is_nothing() -> None:
    kept = k_core(np.array([0, 1]), np.array([0, 1]), 0)
    assert kept is not None
    assert kept.tolist() == [0, 1]
    empty = k_core(np.empty(0, np.int32), np.empty(0, np.int32), 5)
    assert empty is not None
    assert not len(empty)


def test_the_window_slides_over_the_turn_of_a_year_and_holds_both_its_ends() -> None:
    start, end = day(2016, 10), day(2017, 2)
    found = events([0, 0, 0, 0], [0, 1, 2, 3], [start - 1, start, end, end + 1])
    rule = WindowRule(Month(2017, 1), Month(2017, 2), least_items=2, core=1)
    month, kept = find_window(found, rule, "reviews")
    assert (month, kept.tolist()) == (Month(2016, 10), [1, 2])
    without_end = WindowRule(Month(2017, 1), Month(2017, 2), least_items=2, core=1, end_included=False)
    month, kept = find_window(found, without_end, "reviews")
    assert (month, kept.tolist()) == (Month(2016, 7), [0, 1])


def test_in_the_last_year_any_number_of_items_will_do() -> None:
    found = events([0, 0], [0, 1], [day(1996, 11), day(2000, 1)])
    month, kept = find_window(found, WindowRule(Month(2017, 10), Month(2018, 11), 5_000, core=1), "reviews")
    assert (month, kept.tolist()) == (Month(1996, 10), [0, 1])


def test_no_window_will_do() -> None:
    found = events([0, 0], [0, 1], [day(2000, 1)] * 2)
    with pytest.raises(DataError, match=r"reviews: no item is left, even in the window from 1996-10 .* 2 events"):
        find_window(found, WindowRule(Month(2017, 10), Month(2018, 11), 1, core=2), "reviews")
    with pytest.raises(DataError, match="from 1995-12 to 2018-11 cannot be used"):
        find_window(found, WindowRule(Month(1995, 12), Month(2018, 11), 1), "reviews")
    with pytest.raises(DataError, match="cannot be used"):
        find_window(found, WindowRule(Month(2018, 11), Month(2018, 11), 1), "reviews")


def test_milliseconds_and_the_year_of_the_first_event() -> None:
    times = [(day(2021, 5) + 1) * 1000, day(2022, 12) * 1000, day(2023, 10) * 1000 - 1, day(2023, 10) * 1000]
    rule = WindowRule(
        Month(2022, 10), Month(2023, 10), 99, core=0, last_year=None, oldest_year=1970, end_included=False
    )
    month, kept = find_window(events([0, 1, 2, 3], [0, 1, 2, 3], times, 1000), rule, "ratings")
    assert (month, kept.tolist()) == (Month(2021, 10), [1, 2])


def test_of_each_pair_the_earliest_event_stays() -> None:
    found = events([0, 0, 1, 0, 0], [5, 5, 5, 6, 5], [3, 2, 9, 1, 2])
    assert first_of_each_pair(found).tolist() == [1, 2, 3]


def test_numbers_by_first_appearance() -> None:
    old, new = in_order_of_appearance(np.array([7, 3, 7, 9, 3]))
    assert old.tolist() == [7, 3, 9]
    assert new.tolist() == [0, 1, 0, 2, 1]
    assert new.dtype == np.int32


def test_places_are_those_of_pythons_shuffle() -> None:
    letters = list("abcdefghij")
    places = shuffled_places(len(letters))
    random.seed(42)
    expected = list(letters)
    random.shuffle(expected)
    assert [letters[place] for place in places] == expected
    # Pinned: numbers of published data sets must not change with a Python version.
    assert places.tolist() == [7, 3, 2, 8, 5, 6, 9, 4, 0, 1]


def test_events_in_order_of_user_time_and_source() -> None:
    found = events([1, 0, 1, 1], [4, 5, 6, 7], [2000 + DAY, 5000, 1999, 2000 + DAY], per_second=1000)
    ordered = order_events(found, found.user, found.item)
    assert ordered.item.tolist() == [5, 6, 4, 7]
    assert ordered.timestamp.tolist() == [5, 1, 88, 88]
    assert ordered.rating is not None
    assert ordered.rating.tolist() == [1, 2, 0, 3]
