"""What times leave open: orders inside one instant, rows at a cut, and the zone that days are counted in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recbench.audit.build import EFFECT, Limits, at_most, change_of_rows, make_finding, of, percent
from recbench.audit.subject import Subject
from recbench.contracts.audit import Finding, NotChecked, Plain
from recbench.contracts.examples import Examples
from recbench.data.facts import iso_time

_DAY_S = 86_400
_HOUR_S = 3_600
#: Clocks on Earth run from 12 hours behind UTC to 14 hours ahead of it.
ZONE_HOURS = 14

NO_TIMES = "The data set has no times, only the order of each user's events."


def check_ties(subject: Subject) -> Finding | NotChecked:
    """Find test rows that another order of a user's events of one instant could change."""
    code, title = "time-ties", "events of a user at the same time"
    if not subject.dataset.has_time:
        return NotChecked(code=code, title=title, reason=NO_TIMES)
    tied = tied_events(subject)
    known = subject.test_events >= 0
    event = subject.test_events[known]
    before = np.concatenate([[0], np.cumsum(tied)])
    affected = np.zeros(len(subject.test), dtype=bool)
    affected[known] = before[event + 1] > before[event - subject.test.history_length[known]]
    on_target = np.zeros(len(subject.test), dtype=bool)
    on_target[known] = tied[event]
    count, n, unknown = int(affected.sum()), len(affected), int((~known).sum())
    n_target = int(on_target.sum())
    bound = (count + unknown) / n if n else 0.0
    doubt = f" {unknown:,} rows cannot be traced to an event and count as changed in the bound." if unknown else ""
    return make_finding(
        code,
        title,
        count=count,
        out_of=n,
        rated=bound,
        limits=EFFECT,
        effect=at_most(
            bound,
            "another order of the events inside each instant, for a trained model that is asked again: all other rows "
            "keep history and target",
        ),
        short=f"{percent(count / n if n else 0.0)} of test rows depend on an arbitrary order inside one instant",
        found=f"{of(int(tied.sum()), len(tied), 'events')} share user and time with an event on another item, so their "
        f"order is that of the source file. {of(count, n, 'test rows')} could have another target or history under "
        f"another order ({n_target:,} another target).{doubt}",
        advice="Do not read small differences as better use of the order. Finer times, or methods that ignore the "
        "order as a check, tell how much of a gain hangs on it."
        if count
        else "Nothing to do.",
        facts={"events": int(tied.sum()), "test rows with a tied target": n_target, "rows not traced": unknown},
        examples=subject.examples(on_target if n_target else affected),
    )


def tied_events(subject: Subject) -> np.ndarray:
    """Return bool (n_events,): events whose user has another item at the same time."""
    events = subject.dataset.interactions
    if not len(events):
        return np.empty(0, dtype=bool)
    starts = np.ones(len(events), dtype=bool)
    starts[1:] = (events.user[1:] != events.user[:-1]) | (events.timestamp[1:] != events.timestamp[:-1])
    start = np.flatnonzero(starts)
    mixed = np.minimum.reduceat(events.item, start) != np.maximum.reduceat(events.item, start)
    return np.repeat(mixed, np.diff(np.append(start, len(events))))


@dataclass(frozen=True)
class Cut:
    """Where the later of two neighbouring parts begins.

    Attributes:
        instant: time of its first row.
        before: rows of that instant in the earlier parts.
        behind: rows of that instant in the later part.
    """

    instant: int
    before: int
    behind: int

    @property
    def exchangeable(self) -> int:
        """How many rows of the later part another order of the instant could exchange."""
        return min(self.before, self.behind)


def cut_between(early: Sequence[Examples], late: Examples) -> Cut | None:
    """Return the cut between parts in time order; None if one side is empty."""
    times = np.concatenate([part.timestamp for part in early])
    if not len(times) or not len(late):
        return None
    instant = int(late.timestamp.min())
    return Cut(instant, int((times == instant).sum()), int((late.timestamp == instant).sum()))


def check_boundary(subject: Subject) -> Finding | NotChecked:
    """Find test rows that are test rows only because of the order inside the instant of a cut."""
    code, title = "boundary-ties", "ties at the cuts"
    if not subject.dataset.has_time:
        return NotChecked(code=code, title=title, reason=NO_TIMES)
    if subject.protocol.limited:
        return NotChecked(code=code, title=title, reason="Rows were left out, so the rows at a cut are not all known.")
    if subject.protocol.split == "leave-one-out":
        return _boundary_of_users(subject, code, title)
    split = subject.split
    cut = cut_between([split.train, split.valid], split.test)
    if cut is None:
        return NotChecked(code=code, title=title, reason="A part is empty, so there is no cut.")
    n = len(split.test)
    valid = cut_between([split.train], split.valid)
    as_time = change_of_rows(n, leaving=0, joining=cut.before)
    facts: dict[str, Plain] = {
        "instant": iso_time(cut.instant),
        "rows before the cut": cut.before,
        "rows behind the cut": cut.behind,
        "effect of boundary=time, at most": as_time,
    }
    if valid:
        facts |= {"validation: rows before the cut": valid.before, "validation: rows behind the cut": valid.behind}
    advice = "Nothing to do."
    if cut.before:
        advice = "The source fixes this split; say so."
    if cut.before and subject.protocol.split == "global-time":
        advice = (
            "Use --set protocol.boundary=time, which puts the whole instant into the later part (HR@10 and NDCG@10 of "
            f"given lists then change by at most {as_time:.4f})."
        )
    return make_finding(
        code,
        title,
        count=cut.exchangeable,
        out_of=n,
        effect=at_most(
            cut.exchangeable / n, "another order of the rows of the instant of the cut, for lists that stay as they are"
        ),
        short=f"the cut before the test rows runs through one instant: another order exchanges up to "
        f"{cut.exchangeable:,} of {n:,} rows",
        found=f"The test rows begin at {iso_time(cut.instant)}: {cut.before:,} rows of that very instant lie before "
        f"the cut and {cut.behind:,} behind it. Another order would exchange up to "
        f"{of(cut.exchangeable, n, 'test rows')}."
        + (f" The validation rows begin likewise with {valid.before:,} and {valid.behind:,}." if valid else ""),
        advice=advice,
        facts=facts,
        examples=subject.examples(split.test.timestamp == cut.instant) if cut.exchangeable else (),
    )


def _boundary_of_users(subject: Subject, code: str, title: str) -> Finding:
    """Each user has a cut of its own: the test row may have happened at the same time as the row before it."""
    test = subject.test
    rows = tied_events(subject)[subject.test_events]  # a computed split: every row has its event
    count, n = int(rows.sum()), len(test)
    return make_finding(
        code,
        title,
        count=count,
        out_of=n,
        effect=at_most(count / n if n else 0.0, "another order of each user's last instant, for a trained model"),
        short=f"{percent(count / n if n else 0.0)} of test rows are their user's last one by an arbitrary order only",
        found=f"The last event of a user is the test row; {of(count, n, 'test rows')} share user and time with an "
        "event on another item, which could as well be the last.",
        advice="Read with time-ties, of which this is a part." if count else "Nothing to do.",
        examples=subject.examples(rows),
    )


def check_resolution(subject: Subject) -> Finding | NotChecked:
    """Tell whether times are whole days, and on which clock."""
    code, title = "time-whole-days", "times that are whole days"
    if not subject.dataset.has_time or not len(subject.dataset.interactions):
        return NotChecked(code=code, title=title, reason=NO_TIMES)
    of_day, counts = np.unique(subject.dataset.interactions.timestamp % _DAY_S, return_counts=True)
    top = int(of_day[counts.argmax()])
    # Midnight of a place with summer time has two values in UTC, an hour apart.
    gap = np.abs(of_day - top)
    other = int(counts[(gap == _HOUR_S) | (gap == _DAY_S - _HOUR_S)].max(initial=0))
    total = len(subject.dataset.interactions)
    is_clock = top % 900 == 0  # zones differ by quarters of an hour
    count = int(counts.max()) + other if is_clock else 0
    whole = count / total >= _WHOLE_DAYS.note
    clock = "00:00 UTC" if top == 0 else f"{top // _HOUR_S:02d}:{top % _HOUR_S // 60:02d} UTC, midnight of another zone"
    if other:
        clock += ", or an hour beside it"
    found = f"{of(count, total, 'events')} happened at {clock}: they are days, not times."
    return make_finding(
        code,
        title,
        count=count if whole else 0,
        out_of=total,
        unit="events",
        limits=_WHOLE_DAYS,
        effect="It changes no metric by itself; time-ties and boundary-ties bound what follows from it.",
        short="times are whole days" if whole else "times are finer than days",
        found=found if whole else f"Times are finer than days: {len(of_day):,} different times of day.",
        advice="Treat the order inside a day as unknown." if whole else "Nothing to do.",
        facts={"distinct times of day": len(of_day), "commonest, seconds after 00:00 UTC": top},
    )


_WHOLE_DAYS = Limits(0.5, None)
#: recbench itself cuts by rows or by UTC, so a zone only matters beside numbers from elsewhere.
_ZONE = Limits(0.001, None, "its effect")


def check_zone(subject: Subject) -> Finding | NotChecked:
    """Count the rows that would change their part if the instant of a cut were read on another clock."""
    code, title = "time-zone", "rows that hang on a time zone"
    if not subject.dataset.has_time:
        return NotChecked(code=code, title=title, reason=NO_TIMES)
    if subject.protocol.split == "leave-one-out":
        return make_finding(
            code,
            title,
            count=0,
            out_of=len(subject.test),
            effect=at_most(0.0, "reading all times on another clock: the order of each user's events stays"),
            short="no test row hangs on a time zone",
            found="leave-one-out uses the order of each user's events only, which no clock changes.",
            advice="Nothing to do.",
        )
    split = subject.split
    moved = rows_within(np.concatenate([split.train.timestamp, split.valid.timestamp]), split.test.timestamp)
    if moved is None:
        return NotChecked(code=code, title=title, reason="A part is empty, so there is no cut.")
    entering, leaving = moved
    n = len(split.test)
    valid = rows_within(split.train.timestamp, split.valid.timestamp)
    # Rows leave if the cut moves one way and join if it moves the other; both at once only if the parts overlap.
    overlap = (
        max(int(part.timestamp.max(initial=0)) for part in (split.train, split.valid)) > split.test.timestamp.min()
    )
    bound = max(change_of_rows(n, leaving, entering if overlap else 0), change_of_rows(n, 0, entering))
    facts: dict[str, Plain] = {"rows that would leave the test part": leaving, "that would join it": entering}
    if valid is not None:
        facts |= {"validation: rows that would leave": valid[1], "validation: that would join": valid[0]}
    return make_finding(
        code,
        title,
        count=leaving,
        out_of=n,
        rated=bound,
        limits=_ZONE,
        effect=at_most(
            bound, f"moving the instant of the cut by up to {ZONE_HOURS} hours, for lists that stay as they are"
        ),
        short=f"a cut read in another time zone moves up to {max(moved):,} rows in or out of the test part",
        found=f"Where the instant of the cut is read on another clock (up to {ZONE_HOURS} hours off), up to "
        f"{leaving:,} rows leave the test part or {entering:,} join it ({n:,} test rows).",
        advice="recbench cuts in UTC and by rows, the same everywhere; code that cuts by local midnight (the published "
        "preprocessing does) gets these rows on the other side. Name the zone when you compare with such numbers."
        if max(moved)
        else "Nothing to do.",
        facts=facts,
    )


def rows_within(early: np.ndarray, late: np.ndarray, hours: int = ZONE_HOURS) -> tuple[int, int] | None:
    """Return how many earlier rows would join the later part, and how many would leave it, if the cut moved.

    Args:
        early: int64, times of the rows before the cut.
        late: int64, times of the rows behind it; the cut is the first of them.
        hours: how far the cut may move either way; rows at or after it are behind it.
    """
    if not len(early) or not len(late):
        return None
    cut = int(late.min())
    return int((early >= cut - hours * _HOUR_S).sum()), int((late < cut + hours * _HOUR_S).sum())
