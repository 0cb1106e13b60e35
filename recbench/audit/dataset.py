"""All checks of a data set under one protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from recbench.audit import cold, events, leaks, popularity, times, titles
from recbench.audit.subject import Subject
from recbench.contracts.audit import RATINGS, AuditReport, Finding, NotChecked
from recbench.contracts.dataset import Dataset
from recbench.contracts.protocol import Protocol
from recbench.contracts.split import Split

CHECKS: tuple[Callable[[Subject], Finding | NotChecked], ...] = (
    titles.check_shared,
    titles.check_junk,
    titles.check_untidy,
    titles.check_untitled,
    events.check_repeats,
    events.check_target_in_history,
    times.check_ties,
    times.check_boundary,
    times.check_resolution,
    times.check_zone,
    cold.check_cold_items,
    cold.check_cold_users,
    leaks.check_overlap,
    leaks.check_future,
    leaks.check_identical,
    popularity.check_popularity,
)
"""A new check is one function and one line here (and a new ``AUDIT_VERSION``)."""


def audit_dataset(dataset: Dataset, split: Split, protocol: Protocol) -> AuditReport:
    """Make all checks. Pure: the same content and rules give the same report.

    Args:
        dataset: the data set.
        split: its rows under ``protocol``.
        protocol: the rules.
    """
    subject = Subject(dataset, split, protocol)
    outcomes = [check(subject) for check in CHECKS]
    return AuditReport(
        kind="data",
        dataset=dataset.name,
        dataset_fingerprint=dataset.fingerprint,
        split_fingerprint=split.fingerprint,
        protocol_hash=protocol.hash,
        strategy=protocol.split,
        limited=protocol.limited,
        n_train=len(split.train),
        n_valid=len(split.valid),
        n_test=len(split.test),
        n_users=len(np.unique(split.test.user)),
        findings=in_order(outcome for outcome in outcomes if isinstance(outcome, Finding)),
        not_checked=tuple(outcome for outcome in outcomes if isinstance(outcome, NotChecked)),
    )


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return findings with dangers first, then notes; within a rating the largest effect on HR@10 first."""

    def key(finding: Finding) -> tuple[int, float]:
        effect = finding.effect
        # An effect without a bound may be of any size; one that is exact is known and no reason to worry.
        return RATINGS.index(finding.rating), -(1.0 if effect is None else effect.hr)

    return tuple(sorted(findings, key=key))
