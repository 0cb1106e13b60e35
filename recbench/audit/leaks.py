"""What a test row shares with rows that a method learns from, or shows of what came later."""

from __future__ import annotations

import numpy as np

from recbench.audit.build import LEAK, at_most, make_finding, of, percent
from recbench.audit.subject import Subject, any_in_row
from recbench.contracts.audit import Finding, NotChecked
from recbench.contracts.examples import Examples
from recbench.data.facts import iso_time

_UNKNOWN_TIME = np.iinfo(np.int64).min


def check_overlap(subject: Subject) -> Finding | NotChecked:
    """Find test rows from before the end of training."""
    code, title = "leak-time", "test rows before training ends"
    split = subject.split
    if not subject.dataset.has_time:
        reason = "The data set has no times, so how much of training lies after a test row cannot be said"
        known = subject.protocol.split == "leave-one-out"
        reason += "; that leave-one-out trains on the future is known." if known else "."
        return NotChecked(code=code, title=title, reason=reason)
    if not len(split.train) or not len(split.test):
        return NotChecked(code=code, title=title, reason="A part is empty.")
    end = int(split.train.timestamp.max())
    rows = split.test.timestamp < end
    count, n = int(rows.sum()), len(rows)
    valid = int((split.valid.timestamp < end).sum())
    later = int((split.train.timestamp > split.test.timestamp.min()).sum())
    loo = subject.protocol.split == "leave-one-out"
    return make_finding(
        code,
        title,
        count=count,
        out_of=n,
        limits=LEAK,
        effect="Training has seen what happened after these rows (which items became popular, say). What that is worth "
        "depends on the method; only a split by time shows it.",
        short=f"{percent(count / n)} of test rows lie before the end of training, which so knows the future"
        if count
        else "no test row lies before the end of training",
        found=f"Training ends at {iso_time(end)}; {of(count, n, 'test rows')} and {valid:,} of {len(split.valid):,} "
        f"validation rows lie before that. {later:,} of {len(split.train):,} training rows are later than the first "
        "test row.",
        advice=("leave-one-out does this by its nature. " if loo else "") + "Use --set protocol.split=global-time, and "
        "never put both kinds of numbers into one table."
        if count
        else "Nothing to do.",
        facts={
            "end of training": iso_time(end),
            "validation rows": valid,
            "training rows after the first test row": later,
        },
        examples=subject.examples(rows),
    )


def check_future(subject: Subject) -> Finding | NotChecked:
    """Find test rows whose history shows an item that the user came to only after the row's time."""
    code, title = "leak-history", "histories that show the future"
    if not subject.dataset.has_time:
        return NotChecked(code=code, title=title, reason="The data set has no times.")
    first = first_times(subject, subject.test)
    ahead = first > np.repeat(subject.test.timestamp, subject.test.history_length)
    unknown = int((first == _UNKNOWN_TIME).sum())
    rows = any_in_row(ahead, subject.test)
    count, n = int(rows.sum()), len(rows)
    unplaced = f" {unknown:,} places show items that are no event of their user." if unknown else ""
    return make_finding(
        code,
        title,
        count=count,
        out_of=n,
        limits=LEAK,
        effect=at_most(count / n if n else 0.0, "leaving these test rows out, for lists that stay as they are"),
        short=f"{percent(count / n if n else 0.0)} of test histories show items from later than the row",
        found=f"{of(count, n, 'test rows')} show an item in their history that the user first had after the row's time."
        + unplaced,
        advice="The source's own histories are wrong: build the rows from the events (import them as a table)."
        if count
        else "Nothing to do.",
        facts={"history places": int(ahead.sum()), "places that are no event of the user": unknown},
        examples=subject.examples(rows),
    )


def first_times(subject: Subject, rows: Examples) -> np.ndarray:
    """Return int64, one per history place: when the row's user first had that item; the least int64 if never."""
    events = subject.dataset.interactions
    n_items = max(len(subject.dataset.catalog), 1)
    pairs, first = np.unique(events.user.astype(np.int64) * n_items + events.item, return_index=True)
    asked = np.repeat(rows.user.astype(np.int64), rows.history_length) * n_items + rows.items
    if not len(pairs):
        return np.full(len(asked), _UNKNOWN_TIME)
    place = np.minimum(np.searchsorted(pairs, asked), len(pairs) - 1)
    # Events of a user come in the order of time, so the first one of a pair is the earliest.
    return np.where(pairs[place] == asked, events.timestamp[first[place]], _UNKNOWN_TIME)


def check_identical(subject: Subject) -> Finding:
    """Find test rows that training or validation has too: same user, same history, same target."""
    split = subject.split
    in_train, in_valid = occurs_in(split.test, split.train), occurs_in(split.test, split.valid)
    rows = in_train | in_valid
    count, n = int(rows.sum()), len(rows)
    valid = int(occurs_in(split.valid, split.train).sum())
    return make_finding(
        "leak-rows",
        "rows in several parts",
        count=count,
        out_of=n,
        limits=LEAK,
        effect=at_most(count / n if n else 0.0, "leaving these test rows out, for lists that stay as they are"),
        short=f"{percent(count / n if n else 0.0)} of test rows are training or validation rows too",
        found=f"{of(count, n, 'test rows')} have a twin (same user, history and target) in training "
        f"({int(in_train.sum()):,}) or validation ({int(in_valid.sum()):,}); {valid:,} validation rows have one in "
        "training.",
        advice="Drop repeated events before import: a method may have learned these answers by heart."
        if count
        else "Nothing to do.",
        facts={"in training": int(in_train.sum()), "in validation": int(in_valid.sum()), "validation rows": valid},
        examples=subject.examples(rows),
    )


def occurs_in(rows: Examples, others: Examples) -> np.ndarray:
    """Return bool (N,): rows with the same user, history and target as some row of the other part."""
    # Only rows whose user and target occur in both parts are worth comparing in full.
    n_items = 1 + max(int(part.target.max(initial=0)) for part in (rows, others))
    keys = [part.user.astype(np.int64) * n_items + part.target for part in (rows, others)]
    mine, theirs = np.flatnonzero(np.isin(keys[0], keys[1])), np.flatnonzero(np.isin(keys[1], keys[0]))
    found = np.zeros(len(rows), dtype=bool)
    known = {_whole(others, int(row)) for row in theirs}
    found[mine] = [_whole(rows, int(row)) in known for row in mine]
    return found


def _whole(part: Examples, row: int) -> tuple[int, ...]:
    return int(part.user[row]), int(part.target[row]), *part.history(row).tolist()
