"""Data sets small enough to audit by hand, and to try every order on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from hypothesis import strategies as st

from recbench.audit.subject import Subject
from recbench.contracts.audit import AuditReport, Finding
from recbench.contracts.dataset import Dataset, Interactions, ItemCatalog
from recbench.contracts.protocol import Protocol
from recbench.data.split import make_split

HOUR_S = 3_600
DAY_S = 86_400

Event = tuple[int, int, int]


def dataset_of(events: Sequence[Event], titles: Sequence[str] | None = None, n_items: int = 12) -> Dataset:
    """Build a data set from (user, item, time), sorted by user and time."""
    user, item, time = (np.array(column) for column in zip(*events, strict=True))
    names = tuple(titles or [f"Title {chr(97 + number)}" for number in range(n_items)])
    catalog = ItemCatalog(tuple(f"i{number}" for number in range(len(names))), names)
    interactions = Interactions(user.astype(np.int32), item.astype(np.int32), time.astype(np.int64))
    return Dataset("hand", tuple(f"u{number}" for number in range(int(user.max()) + 1)), catalog, interactions)


def subject_of(dataset: Dataset, **protocol: object) -> Subject:
    """Cut a data set for an audit."""
    rules = Protocol.model_validate(protocol)
    return Subject(dataset, make_split(dataset, rules), rules)


def finding_of(report: AuditReport, code: str) -> Finding:
    """Return the finding of one check."""
    (found,) = [finding for finding in report.findings if finding.code == code]
    return found


@st.composite
def events(draw: st.DrawFn, n_users: int = 3, n_items: int = 4, n_times: int = 3, step: int = 1) -> list[Event]:
    """A few users with a few events at few times, so that ties and repeats are frequent."""
    found = []
    for user in range(n_users):
        times = sorted(draw(st.lists(st.integers(0, n_times - 1), min_size=2, max_size=5)))
        found += [(user, draw(st.integers(0, n_items - 1)), time * step) for time in times]
    return found


def other_orders(dataset: Dataset, only: tuple[int, int] | None = None) -> Iterator[Dataset]:
    """Return the data set with the items of every (user, time), or of this one only, in every order."""
    moments = [
        list(group)
        for _, group in itertools.groupby(
            zip(dataset.interactions.user, dataset.interactions.timestamp, dataset.interactions.item, strict=True),
            key=lambda event: (event[0], event[1]),
        )
    ]
    choices = [
        set(itertools.permutations(group)) if only in (None, tuple(map(int, group[0][:2]))) else [tuple(group)]
        for group in moments
    ]
    for orders in itertools.product(*choices):
        yield dataset_of([(int(u), int(i), int(t)) for group in orders for u, t, i in group], dataset.catalog.titles)
