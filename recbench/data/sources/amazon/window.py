"""Which events of a category stay: the time window that slides back until there are enough items, and the k-core.

Pure functions on arrays; nothing is read or written.
"""

from __future__ import annotations

import calendar
import logging
from dataclasses import dataclass
from functools import total_ordering

import numpy as np

from recbench.contracts.errors import DataError

logger = logging.getLogger(__name__)


@total_ordering
@dataclass(frozen=True)
class Month:
    """A calendar month in UTC.

    Attributes:
        year: four digits.
        month: 1 to 12.
    """

    year: int
    month: int

    def __post_init__(self) -> None:
        if not 1 <= self.month <= 12:
            raise ValueError(f"month {self.month} is not one of 1 to 12")

    def __lt__(self, other: Month) -> bool:
        return (self.year, self.month) < (other.year, other.month)

    def __str__(self) -> str:
        return f"{self.year:04d}-{self.month:02d}"

    @property
    def first_second(self) -> int:
        """Seconds since 1970 at which it begins in UTC, whatever this machine's time zone is."""
        return calendar.timegm((self.year, self.month, 1, 0, 0, 0))

    def earlier(self, months: int) -> Month:
        """Return the month that lies ``months`` before."""
        year, month = divmod(self.year * 12 + self.month - 1 - months, 12)
        return Month(year, month + 1)


@dataclass(frozen=True)
class WindowRule:
    """How the window is found.

    Attributes:
        start, end: the first window tried; ``end`` is fixed.
        least_items: items that must remain.
        core: events that each user and item needs within the window; 0: any.
        step_months: how far ``start`` moves back at a time.
        last_year: in this year and before it any number of items is enough; None: the year of the first event.
        oldest_year: a start before this year is refused.
        end_included: whether an event exactly at ``end`` counts.
        distinct: keep only a user's first event with each item of the window.
    """

    start: Month
    end: Month
    least_items: int
    core: int = 5
    step_months: int = 3
    last_year: int | None = 1996
    oldest_year: int = 1996
    end_included: bool = True
    distinct: bool = False


@dataclass(frozen=True)
class CodedEvents:
    """Events in the order of the source, as numbers.

    Attributes:
        user: int32 (n,), any numbers from 0.
        item: int32 (n,), any numbers from 0.
        time: int64 (n,), in units of ``per_second``.
        rating: float32 (n,).
        per_second: units of ``time`` in a second.
    """

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    rating: np.ndarray
    per_second: int = 1

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: np.ndarray) -> CodedEvents:
        """Return the given events in the given order."""
        return CodedEvents(self.user[rows], self.item[rows], self.time[rows], self.rating[rows], self.per_second)


def k_core(user: np.ndarray, item: np.ndarray, core: int, least_items: int = 0) -> np.ndarray | None:
    """Remove users and items with fewer than ``core`` events, again and again, until none is left to remove.

    Both are removed at once, from the same counts. Repeated events of a pair all count.

    Args:
        user: int32 (n,).
        item: int32 (n,).
        core: events that each needs.
        least_items: give up as soon as fewer items than this are left.

    Returns:
        int64: the events that stay, in their order; None where it gave up.
    """
    kept = np.arange(len(user))
    while True:
        users, items = np.bincount(user), np.bincount(item)
        if np.count_nonzero(items) < least_items:
            return None
        stays = (users[user] >= core) & (items[item] >= core)
        if stays.all():
            return kept
        kept, user, item = kept[stays], user[stays], item[stays]


def first_of_each_pair(events: CodedEvents) -> np.ndarray:
    """Return int64: of each user and item, the earliest event (equal times: the first of the source), in order."""
    order = np.lexsort((events.time, events.item, events.user))
    user, item = events.user[order], events.item[order]
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = (user[1:] != user[:-1]) | (item[1:] != item[:-1])
    return np.sort(order[is_first])


def find_window(events: CodedEvents, rule: WindowRule, where: str) -> tuple[Month, np.ndarray]:
    """Slide the window back until enough items remain (facts and their source: docs/datasets.md).

    Args:
        events: all events that may matter.
        rule: the rule.
        where: name of the source, for messages.

    Returns:
        The month at which the window starts, and int64: the events that stay, in their order.

    Raises:
        DataError: the start lies before the oldest year, or no item is left in the widest window.
    """
    start = rule.start
    if start.year < rule.oldest_year or not start < rule.end:
        raise DataError(
            f"{where}: a window from {start} to {rule.end} cannot be used.",
            f"It must start in {rule.oldest_year} or later and before its end.",
        )
    last_year = rule.last_year if rule.last_year is not None else _first_year(events)
    while True:
        is_last = start.year <= last_year
        kept = _within(events, rule, start, 0 if is_last else rule.least_items)
        if kept is not None and (len(kept) or not is_last):
            return start, kept
        if is_last:
            raise DataError(
                f"{where}: no item is left, even in the window from {start} to {rule.end}"
                + (f" (each user and item needs {rule.core} events there)." if rule.core else "."),
                "Check that the review and metadata files are whole, and belong together.",
            )
        logger.debug("From %s fewer than %s items remain: the window is widened.", start, f"{rule.least_items:,}")
        start = start.earlier(rule.step_months)


def too_few(n_items: int, rule: WindowRule) -> list[str]:
    """Return what must be said of a catalogue that the widest window leaves smaller than wanted; else nothing."""
    if n_items >= rule.least_items:
        return []
    return [f"even the widest window leaves {n_items:,} items, where the rules want {rule.least_items:,}"]


def _within(events: CodedEvents, rule: WindowRule, start: Month, least_items: int) -> np.ndarray | None:
    first, last = start.first_second * events.per_second, rule.end.first_second * events.per_second
    before_end = events.time <= last if rule.end_included else events.time < last
    kept = np.flatnonzero((events.time >= first) & before_end)
    if rule.distinct:
        kept = kept[first_of_each_pair(events.take(kept))]
    stays = k_core(events.user[kept], events.item[kept], rule.core, least_items)
    return None if stays is None else kept[stays]


def _first_year(events: CodedEvents) -> int:
    if not len(events):
        return 0
    first = int(events.time.min()) // events.per_second
    return int(np.datetime64(first, "s").astype("datetime64[Y]").astype(int)) + 1970
