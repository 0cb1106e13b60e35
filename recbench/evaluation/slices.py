"""Ways to cut the test examples: by the target's popularity, coldness and age, by history and by user activity.

Every cut is a pure function of the stored facts of the examples (:mod:`recbench.evaluation.facts`). No boundary is
chosen on test data: those of popularity come from training rows, all others are fixed here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recbench.contracts.errors import UsageError, did_you_mean
from recbench.evaluation.accuracy import Truth
from recbench.evaluation.popularity import N_DECILES, is_popular, popularity_decile

Facts = Mapping[str, np.ndarray]
Assign = Callable[[Facts, int], np.ndarray]

_UNKNOWN = -1


@dataclass(frozen=True)
class SliceRule:
    """One slice of a cut.

    Attributes:
        key: short name, unique within the cut.
        title: name for readers.
        rule: which examples belong to it, in words.
    """

    key: str
    title: str
    rule: str


@dataclass(frozen=True)
class Cut:
    """One way to divide examples into slices; every example is in one slice at most.

    Attributes:
        name: what users ask for.
        title: heading.
        slices: in their natural order.
        focus: keys of the slices that the cut is about; their gain is tested against that of all other examples.
        focus_title: the focus in words.
        assign: facts by name (arrays of N) and the size of the catalogue -> int (N,), the number of each example's
            slice, or -1 where it is not known.
    """

    name: str
    title: str
    slices: tuple[SliceRule, ...]
    focus: frozenset[str]
    focus_title: str
    assign: Assign


@dataclass(frozen=True)
class PaperCut:
    """A cut as a table of the LatentR3 paper uses it.

    Attributes:
        cut: name of the cut.
        metrics: metrics of the table.
        truth: what its published code counts as a hit.
        baseline: the method that others are compared with.
    """

    cut: str
    metrics: tuple[str, ...]
    truth: Truth
    baseline: str


def _by_popularity(name: str, title: str, count: str, rank: str, frequency: str) -> Cut:
    def assign(facts: Facts, n_items: int) -> np.ndarray:
        return np.where(is_popular(facts[count], facts[rank], n_items), 0, 1)

    top = f"the ceil(20%) items of the catalogue with the most {frequency} (equal counts by item id, never without any)"
    slices = (
        SliceRule("head", "popular", f"the target is among {top}"),
        SliceRule("tail", "long tail", "the target is any other item"),
    )
    return Cut(name, title, slices, frozenset({"tail"}), "the long tail", assign)


def _by_decile(name: str, title: str, count: str, rank: str, frequency: str) -> Cut:
    def assign(facts: Facts, n_items: int) -> np.ndarray:
        decile = popularity_decile(facts[count], facts[rank], n_items)
        return np.where(decile == 0, N_DECILES, decile - 1)

    tenths = [
        SliceRule(
            f"d{number}",
            f"tenth {number}",
            f"the target is in tenth {number} of the catalogue by {frequency} (1 = most; equal counts by item id)",
        )
        for number in range(1, N_DECILES + 1)
    ]
    never = SliceRule("never", "never", f"the target has no {frequency}, so popularity says nothing about it")
    focus = frozenset(rule.key for rule in [*tenths[2:], never])
    return Cut(name, title, (*tenths, never), focus, "tenths 3 to 10 and never", assign)


def _cold(name: str, title: str, count: str, cold: str) -> Cut:
    def assign(facts: Facts, n_items: int) -> np.ndarray:
        return np.where(facts[count] == 0, 0, 1)

    slices = (SliceRule("cold", "cold", cold), SliceRule("warm", "warm", "all other examples"))
    return Cut(name, title, slices, frozenset({"cold"}), "cold items", assign)


def _bins(fact: str, starts: Sequence[float]) -> Assign:
    """Return a function that puts a fact into bins, each from its start up to the next one's; NaN into none."""

    def assign(facts: Facts, n_items: int) -> np.ndarray:
        value = facts[fact]
        number = np.searchsorted(np.asarray(starts), value, side="right") - 1
        return np.where(np.isnan(value), _UNKNOWN, number)

    return assign


def _counted(starts: Sequence[int], of: str) -> tuple[SliceRule, ...]:
    """Return the rules of bins of whole numbers: "1", "3 to 4", "51 and more"."""
    rules = []
    for start, following in zip(starts, [*starts[1:], None], strict=True):
        if following is None:
            text = f"{start} and more"
        else:
            text = str(start) if following == start + 1 else f"{start} to {following - 1}"
        rules.append(SliceRule(text.replace(" ", "-"), text, f"{text} {of}"))
    return tuple(rules)


_HISTORY_STARTS = (1, 2, 3, 5, 10, 11, 21, 51)
_ACTIVITY_STARTS = (0, 1, 5, 20, 100)
# The smallest time above 0 opens the second bin: age 0 is the item's first event.
_AGE_STARTS_S = (0.0, np.nextafter(0.0, 1.0), *(days * 86_400.0 for days in (7, 30, 180, 365)))
_AGES = (
    SliceRule("first", "first event", "the example is the first event of its item in the data (or at that instant)"),
    SliceRule("week", "under 7 days", "the item's first event in the data lies less than 7 days back"),
    SliceRule("month", "7 to 30 days", "the item's first event lies at least 7 and less than 30 days back"),
    SliceRule("half-year", "30 to 180 days", "the item's first event lies at least 30 and less than 180 days back"),
    SliceRule("year", "180 to 365 days", "the item's first event lies at least 180 and less than 365 days back"),
    SliceRule("old", "365 days and more", "the item's first event lies at least 365 days back"),
)
_HISTORY = _counted(_HISTORY_STARTS, "items in the history")
_ACTIVITY = _counted(_ACTIVITY_STARTS, "training rows of the user")
_AS_TARGET = "training rows as target"
_SEEN = "occurrences in training rows (as target or in a history)"

CUTS: dict[str, Cut] = {
    cut.name: cut
    for cut in (
        _by_popularity("popularity", "Popularity", "target_train_count", "popularity_rank", _AS_TARGET),
        _by_popularity("popularity-seen", "Popularity by all occurrences", "target_seen_count", "seen_rank", _SEEN),
        _by_decile("deciles", "Tenths of popularity", "target_train_count", "popularity_rank", _AS_TARGET),
        _by_decile("deciles-seen", "Tenths by all occurrences", "target_seen_count", "seen_rank", _SEEN),
        _cold("cold", "Cold items", "target_seen_count", "the target is in no training row, as target or in a history"),
        _cold(
            "cold-strict",
            "Cold items (strict)",
            "title_seen_count",
            "neither the target nor another item with its title is in any training row",
        ),
        _cold("cold-loose", "Cold items (loose)", "target_train_count", "the target is the target of no training row"),
        Cut(
            "history",
            "Length of the history",
            _HISTORY,
            frozenset(rule.key for rule in _HISTORY[:2]),
            "histories of 1 or 2 items",
            _bins("history_length", _HISTORY_STARTS),
        ),
        Cut(
            "activity",
            "User activity",
            _ACTIVITY,
            frozenset({_ACTIVITY[0].key}),
            "users without a training row",
            _bins("user_train_rows", _ACTIVITY_STARTS),
        ),
        Cut(
            "age",
            "Age of the item",
            _AGES,
            frozenset(rule.key for rule in _AGES[:3]),
            "items first seen less than 30 days before",
            _bins("item_age_s", _AGE_STARTS_S),
        ),
    )
}
"""Every cut by its name."""

PAPER_CUTS: dict[str, PaperCut] = {
    "table9": PaperCut("popularity", ("NDCG@10",), "title", "sasrec"),
    "table10": PaperCut("cold", ("HR@5", "HR@10", "NDCG@5", "NDCG@10"), "title", "bigrec"),
}
"""Tables of the LatentR3 paper that are cuts. Table 10 does not say which metric it shows: all four are given."""


def check_cut(name: str) -> str:
    """Return a name of :data:`CUTS` or :data:`PAPER_CUTS`; case does not matter.

    Raises:
        UsageError: there is no such cut.
    """
    known = [*CUTS, *PAPER_CUTS]
    lower = name.strip().lower()
    if lower in known:
        return lower
    raise UsageError(f"Unknown cut '{name}'.{did_you_mean(name, known)}", f"Known (--by): {', '.join(known)}.")
