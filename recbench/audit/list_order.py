"""What the order of a user's events of one instant gives to the metrics of given lists."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recbench.audit.build import EFFECT, exactly, make_finding, of
from recbench.audit.list_subject import ListSubject
from recbench.audit.subject import Subject
from recbench.audit.times import NO_TIMES, tied_events
from recbench.contracts.audit import EFFECT_CUTOFF, Finding, NotChecked
from recbench.contracts.rankings import Rankings
from recbench.evaluation.accuracy import expected_metric
from recbench.evaluation.places import item_lists, tied_groups


@dataclass(frozen=True)
class Openings:
    """Test rows that open an instant: the first of several events of their user at one time, on different items.

    Nothing of the instant stands in their history, so under another order of this one instant the same question has
    another target, and a trained model gives the same list.

    Attributes:
        rows: int64 (R,), the test rows.
        sizes: int64 (R,), events of each row's instant.
        targets: int32 (sum of sizes,), items of these events: the targets that the row could as well have.
    """

    rows: np.ndarray
    sizes: np.ndarray
    targets: np.ndarray


def find_openings(subject: Subject) -> Openings:
    """Find the test rows that open an instant."""
    events = subject.dataset.interactions
    starts = np.ones(len(events), dtype=bool)
    starts[1:] = (events.user[1:] != events.user[:-1]) | (events.timestamp[1:] != events.timestamp[:-1])
    opens = starts & tied_events(subject)
    event = subject.test_events
    rows = np.flatnonzero((event >= 0) & opens[event]) if len(opens) else np.empty(0, np.int64)
    start = np.flatnonzero(starts)
    size = np.diff(np.append(start, len(events)))
    sizes = size[np.searchsorted(start, event[rows])]
    before = np.cumsum(sizes) - sizes
    place = np.repeat(event[rows] - before, sizes) + np.arange(int(sizes.sum()))
    return Openings(rows, sizes, events.item[place])


@dataclass(frozen=True)
class Orders:
    """The mean of a metric over all test rows, while the rows that open an instant get other targets of it.

    Attributes:
        now: with the targets that they have.
        expected: on average over all orders of each row's instant, the others as they are.
        best, worst: with the best and with the worst target for each of them.
    """

    now: float
    expected: float
    best: float
    worst: float


def metric_under_orders(
    name: str, lists: Rankings, target: np.ndarray, openings: Openings, n_items: int, k: int = EFFECT_CUTOFF
) -> Orders:
    """Return a metric of given lists under other orders inside the instants; exact, nothing is sampled.

    Args:
        name: "HR" or "NDCG".
        lists: N lists.
        target: int (N,), the item sought in each.
        openings: the rows whose target may be another one.
        n_items: size of the catalogue.
        k: cutoff.
    """
    n = max(len(target), 1)
    values = expected_metric(name, *_places(lists, np.arange(len(target)), target, n_items), k)
    now = float(values.sum())
    if not len(openings.rows):
        return Orders(now / n, now / n, now / n, now / n)
    others = now - float(values[openings.rows].sum())
    row = np.repeat(openings.rows, openings.sizes)
    possible = expected_metric(name, *_places(lists, row, openings.targets, n_items), k)
    start = np.cumsum(openings.sizes) - openings.sizes
    expected = np.add.reduceat(possible, start) / openings.sizes
    best, worst = np.maximum.reduceat(possible, start), np.minimum.reduceat(possible, start)
    return Orders(now / n, *((others + float(part.sum())) / n for part in (expected, best, worst)))


def _places(lists: Rankings, row: np.ndarray, item: np.ndarray, n_items: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first and last place of the tied group of each item in the list of each row, 0 where it is not."""
    if not len(lists.items):
        return np.zeros(len(row), np.int64), np.zeros(len(row), np.int64)
    first, last = tied_groups(item_lists(lists))
    listed = np.repeat(np.arange(len(lists)), lists.lengths) * np.int64(n_items) + lists.items
    order = np.argsort(listed, kind="stable")
    asked = row * np.int64(n_items) + item
    place = order[np.minimum(np.searchsorted(listed[order], asked), len(order) - 1)]
    found = listed[place] == asked
    return np.where(found, first[place], 0), np.where(found, last[place], 0)


def check_time_order(subject: ListSubject) -> Finding | NotChecked:
    """Hold the metrics against those under a random order of every user's instants, as far as the lists tell."""
    code, title = "lists-time-order", "what the order inside instants gives"
    if not subject.data.dataset.has_time:
        return NotChecked(code=code, title=title, reason=NO_TIMES)
    test, n_items = subject.data.test, len(subject.data.dataset.catalog)
    openings = find_openings(subject.data)
    hr, ndcg = (metric_under_orders(name, subject.by_score, test.target, openings, n_items) for name in ("HR", "NDCG"))
    gains = [abs(one.now - one.expected) for one in (hr, ndcg)]
    count = len(openings.rows)
    rows = np.zeros(len(test), dtype=bool)
    rows[openings.rows] = True
    return make_finding(
        code,
        title,
        count=count,
        out_of=subject.n,
        rated=gains[0],
        limits=EFFECT,
        effect=exactly(
            gains[0],
            gains[1],
            "the order of the source file instead of a random one, through the rows that open an instant",
        ),
        short=f"the order of the source file moves HR@10 by {hr.now - hr.expected:+.4f} against a random order, "
        "through the first rows of instants alone",
        found=f"{of(count, subject.n, 'test rows')} are the first of several events of their user at one time: with "
        f"the same history, any of these could be the target. HR@10 is {hr.now:.4f} as the source orders them, "
        f"{hr.expected:.4f} on average over all orders, {hr.worst:.4f} at worst and {hr.best:.4f} at best. Later rows "
        "of an instant would get another history too; what their lists would be is not known.",
        advice="Differences between methods that are smaller than this may come from the order of a file."
        if count
        else "Nothing to do.",
        facts={
            f"{name}@10 {what}": value
            for name, orders in (("HR", hr), ("NDCG", ndcg))
            for what, value in (("now", orders.now), ("on average", orders.expected), ("at best", orders.best),
                                ("at worst", orders.worst))
        },
        examples=subject.rows_like(rows),
    )  # fmt: skip
