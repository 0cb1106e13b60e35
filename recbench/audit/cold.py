"""Test rows about users and items that training has never seen."""

from __future__ import annotations

import numpy as np

from recbench.audit.build import Limits, at_most, make_finding, of, percent
from recbench.audit.subject import Subject
from recbench.contracts.audit import Finding
from recbench.contracts.examples import Examples

#: A tenth of the rows out of reach is more than what separates most methods.
_COLD = Limits(0.001, 0.1)


def check_cold_items(subject: Subject) -> Finding:
    """Find test rows whose target occurs in no training row, neither as target nor in a history."""
    n_items = len(subject.dataset.catalog)
    seen = np.zeros(n_items, dtype=bool)
    seen[subject.split.train.items] = True
    seen[subject.split.train.target] = True
    rows = ~seen[subject.test.target]
    loose = subject.trained_targets[subject.test.target] == 0
    blind = _no_history_place(seen[subject.test.items], subject.test)
    count, n = int(rows.sum()), len(rows)
    share = count / n if n else 0.0
    valid = int((~seen[subject.split.valid.target]).sum())
    n_cold = len(np.unique(subject.test.target[rows]))
    return make_finding(
        "cold-items",
        "targets unseen in training",
        count=count,
        out_of=n,
        limits=_COLD,
        effect=at_most(
            share, "what a method that never lists unseen items misses: its HR@10 and NDCG@10 end so far below 1"
        ),
        short=f"{percent(share)} of test targets were never seen in training",
        found=f"{of(count, n, 'test rows')} ask for {n_cold:,} items that no training row shows; {int(loose.sum()):,} "
        f"for items that are no training target. Validation: {of(valid, len(subject.split.valid), 'rows')}. Of the "
        f"{n_items:,} items {int((~seen).sum()):,} are unseen in training. {int(blind.sum()):,} test rows have only "
        "unseen items in their history.",
        advice="Report the rows on seen and unseen items apart (recbench slices); a method that reads texts competes "
        "on both, a method of ids on the first only."
        if count
        else "Nothing to do.",
        facts={
            "items": n_cold,
            "test rows on items that are no training target": int(loose.sum()),
            "validation rows": valid,
            "items of the catalogue": int((~seen).sum()),
            "test rows with no seen item in the history": int(blind.sum()),
        },
        examples=subject.examples(rows),
    )


def _no_history_place(flags: np.ndarray, rows: Examples) -> np.ndarray:
    """Return bool (N,): rows with no flagged place in their history."""
    before = np.concatenate([[0], np.cumsum(flags)])
    return np.asarray(before[rows.offsets[1:]] == before[rows.offsets[:-1]])


def check_cold_users(subject: Subject) -> Finding:
    """Find test rows of users without any training row."""
    seen = np.zeros(len(subject.dataset.users), dtype=bool)
    seen[subject.split.train.user] = True
    rows = ~seen[subject.test.user]
    count, n = int(rows.sum()), len(rows)
    share = count / n if n else 0.0
    valid = int((~seen[subject.split.valid.user]).sum())
    n_users = len(np.unique(subject.test.user[rows]))
    all_users = len(np.unique(subject.test.user))
    return make_finding(
        "cold-users",
        "users unseen in training",
        count=count,
        out_of=n,
        limits=Limits(0.001, 0.5),
        effect=at_most(share, "what these rows contribute: whatever a method does for new users cannot move more"),
        short=f"{percent(share)} of test rows are of users without a training row",
        found=f"{of(count, n, 'test rows')} are of users without a training row ({n_users:,} of {all_users:,} test "
        f"users). Validation: {of(valid, len(subject.split.valid), 'rows')}.",
        advice="Methods that learn a vector per user have none for them; methods that read the history are not hurt. "
        "Say which kind is compared."
        if count
        else "Nothing to do.",
        facts={"users": n_users, "of test users": all_users, "validation rows": valid},
        examples=subject.examples(rows),
    )
