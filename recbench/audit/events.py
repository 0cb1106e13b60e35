"""Events that happen again: repeated interactions, and targets that the history already shows."""

from __future__ import annotations

import numpy as np

from recbench.audit.build import at_most, make_finding, of, percent
from recbench.audit.subject import Subject
from recbench.contracts.audit import EFFECT_CUTOFF, Finding
from recbench.evaluation.accuracy import expected_metric


def check_repeats(subject: Subject) -> Finding:
    """Find events whose user had the same item before, and the test rows that ask for such an event."""
    again = repeated_events(subject)
    events = subject.dataset.interactions
    rows = subject.target_in_history | (again[subject.test_events] & (subject.test_events >= 0))
    count, n = int(rows.sum()), len(rows)
    share = count / n if n else 0.0
    same_time = int(_same_as_the_one_before(events.user, events.item, events.timestamp).sum())
    facts = {"events": int(again.sum()), "of events": len(events)}
    if subject.dataset.has_time:
        facts["events at the very same time"] = same_time
    return make_finding(
        "events-repeated",
        "repeated interactions",
        count=count,
        out_of=n,
        effect=at_most(share, "leaving these test rows out, for lists that stay as they are"),
        short=f"{percent(share)} of test rows ask for an item that the user had before",
        found=f"{of(int(again.sum()), len(events), 'events')} are on an item that their user had before"
        + (f", {same_time:,} of them at the very same time" if subject.dataset.has_time else "")
        + f"; {of(count, n, 'test rows')} ask for such an event.",
        advice="Decide whether repeats are wanted (buying again) or faults (a review posted twice); drop faults before "
        "import, for all methods."
        if len(events) and again.any()
        else "Nothing to do.",
        facts=facts,
        examples=subject.examples(rows),
    )


def repeated_events(subject: Subject) -> np.ndarray:
    """Return bool (n_events,): events with an earlier event of the same user on the same item."""
    events = subject.dataset.interactions
    key = events.user.astype(np.int64) * max(len(subject.dataset.catalog), 1) + events.item
    again = np.ones(len(key), dtype=bool)
    again[np.unique(key, return_index=True)[1]] = False
    return again


def _same_as_the_one_before(*columns: np.ndarray) -> np.ndarray:
    """Return bool (n - 1,) of the sorted rows: equal to the row before in all columns."""
    order = np.lexsort(columns[::-1])
    equal = [column[order][1:] == column[order][:-1] for column in columns]
    return np.logical_and.reduce(equal)


def check_target_in_history(subject: Subject) -> Finding:
    """Find test rows whose target stands in the history that the method is shown."""
    rows = subject.target_in_history
    count, n = int(rows.sum()), len(rows)
    share = count / n if n else 0.0
    last = int((subject.test.items[subject.test.offsets[1:] - 1] == subject.test.target).sum()) if n else 0
    copied = copy_metrics(subject)
    masked = subject.protocol.mask_history
    valid = subject.split.valid
    valid_rows = valid.items == np.repeat(valid.target, valid.history_length)
    advice = (
        "Histories are masked here, so no method can rank these targets: read every metric against this ceiling."
        if masked
        else "Keep history items in the lists (the default), or mask them for every method alike "
        "(--set protocol.mask_history=true), never for some."
    )
    return make_finding(
        "target-in-history",
        "targets that the history shows",
        count=count,
        out_of=n,
        effect=at_most(share, "what masking the history takes away from every method: these targets cannot be ranked"),
        short=f"{percent(share)} of test targets stand in their own history"
        + (", which is masked: no method can rank them" if masked and count else ""),
        found=f"{of(count, n, 'test rows')} have their target in the history, {last:,} of them as its last item. A "
        f"list that copies the history, newest first, has HR@10 {copied['HR']:.4f} and NDCG@10 {copied['NDCG']:.4f}"
        + (" where histories are not masked." if masked else "."),
        advice=advice if count else "Nothing to do.",
        facts={
            "as the last item": last,
            "HR@10 of copying the history": copied["HR"],
            "NDCG@10 of copying the history": copied["NDCG"],
            "validation rows": len(np.unique(np.repeat(np.arange(len(valid)), valid.history_length)[valid_rows])),
        },
        examples=subject.examples(rows),
    )


def copy_metrics(subject: Subject, k: int = EFFECT_CUTOFF) -> dict[str, float]:
    """Return HR@k and NDCG@k of lists that hold the distinct items of the history, newest first."""
    test = subject.test
    places = np.zeros(len(test), dtype=np.int64)
    for row in np.flatnonzero(subject.target_in_history):
        newest_first = list(dict.fromkeys(test.history(int(row))[::-1].tolist()))
        places[row] = newest_first.index(int(test.target[row])) + 1
    return {
        name: float(expected_metric(name, places, places, k).mean()) if len(test) else 0.0 for name in ("HR", "NDCG")
    }
