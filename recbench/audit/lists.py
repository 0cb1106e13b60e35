"""All checks of ranked lists from elsewhere, or of a stored run, against the rows that they answer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from recbench.audit import list_faults, list_order, list_scores
from recbench.audit.dataset import in_order
from recbench.audit.list_subject import ListSubject
from recbench.audit.listfile import Lines
from recbench.audit.subject import Subject
from recbench.contracts.audit import AuditReport, Finding, NotChecked

CHECKS: tuple[Callable[[ListSubject], Finding | NotChecked], ...] = (
    list_faults.check_unreadable,
    list_faults.check_unknown_examples,
    list_faults.check_unknown_items,
    list_faults.check_repeated_items,
    list_faults.check_missing,
    list_faults.check_short,
    list_scores.check_rising,
    list_scores.check_ties,
    list_scores.check_ranks,
    list_scores.check_truths,
    list_scores.check_history,
    list_order.check_time_order,
)


def audit_lists(lines: Lines, data: Subject, source: str, changed: tuple[str, ...] = ()) -> AuditReport:
    """Make all checks of lists. Pure.

    Args:
        lines: the lists.
        data: the data set and the rows that they should answer.
        source: where they come from, for the report.
        changed: what is known to have changed in a stored run since it was complete.
    """
    subject = ListSubject(lines, data)
    split = data.split
    outcomes = [check(subject) for check in CHECKS]
    if changed:
        outcomes.append(list_faults.report_changed(changed))
    return AuditReport(
        kind="lists",
        dataset=data.dataset.name,
        source=source,
        dataset_fingerprint=data.dataset.fingerprint,
        split_fingerprint=split.fingerprint,
        protocol_hash=data.protocol.hash,
        strategy=data.protocol.split,
        limited=data.protocol.limited,
        n_train=len(split.train),
        n_valid=len(split.valid),
        n_test=len(split.test),
        n_users=len(np.unique(split.test.user)),
        findings=in_order(outcome for outcome in outcomes if isinstance(outcome, Finding)),
        not_checked=tuple(outcome for outcome in outcomes if isinstance(outcome, NotChecked)),
    )
