"""From a data set and a protocol to train, validation and test rows. Pure: nothing is read or written.

The full table of rows holds every event but each user's first, in time order (ties: user number, which is the order
of first appearance in the source, then position). ``example_id`` is the position in that table, so the rows of a
limited split are rows of the full one, under the same ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from recbench.contracts.dataset import Dataset
from recbench.contracts.errors import ConfigError, DataError
from recbench.contracts.examples import Examples
from recbench.contracts.protocol import Protocol, SplitStrategy
from recbench.contracts.seeding import numpy_rng
from recbench.contracts.split import Split
from recbench.data.checks import check_split
from recbench.data.facts import boundary_facts, iso_time, part_facts
from recbench.data.window import position_in_user, rows_in_time_order, shorten_histories, window_examples

#: Rows left out to save time are drawn with this seed, never with a run's: runs of all seeds see the same rows.
LIMIT_SEED = 0

TIE_RULE = "rows of one instant: by user number (order of first appearance in the source), then position"


def default_strategy(dataset: Dataset) -> SplitStrategy:
    """Return the split that a data set gets unless another is asked for.

    'provided' where the source brings its own split, else 'global-time' where real times are known, else
    'leave-one-out'.
    """
    if dataset.provided is not None:
        return "provided"
    return "global-time" if dataset.has_time else "leave-one-out"


def make_split(dataset: Dataset, protocol: Protocol) -> Split:
    """Divide a data set into train, validation and test rows.

    Strategies:
        global-time: all rows in time order, cut by ``protocol.ratios`` at ``n * 8 // 10`` and ``n * 9 // 10`` rows
            (section 4.1 of the LatentR3 paper and its published preprocessing). With ``boundary='time'`` all rows of
            a boundary's instant go to the later part.
        leave-one-out: each user's last event is a test row, the one before it a validation row, all earlier ones
            training rows. A user with two events has a test row only.
        provided: the rows that the source fixes itself.

    Histories hold the last ``protocol.max_history`` events. ``limit_train`` keeps whole users in a fixed random order
    until that many rows are reached (of the last user, the earliest rows); ``limit_test`` keeps that many random test
    rows and at most as many random validation rows. Kept rows stay in time order.

    Raises:
        ConfigError: the strategy does not fit the data (no times, no split in the source).
        DataError: there are too few rows for the parts.
    """
    cut = {"global-time": _global_time, "leave-one-out": _leave_one_out, "provided": _provided}[protocol.split]
    full = cut(dataset, protocol)
    limited, limit_facts = _limit(full, protocol, len(dataset.users))
    facts: dict[str, Any] = {
        "strategy": protocol.split,
        "max_history": protocol.max_history,
        **full.facts,
        **limit_facts,
        "parts": part_facts(limited.train, limited.valid, limited.test, dataset),
    }
    split = Split(limited.train, limited.valid, limited.test, facts, full.warnings)
    check_split(dataset, split, protocol)
    return split


@dataclass(frozen=True)
class _Rows:
    """The full table of rows, before it is cut: index of the target event per row."""

    dataset: Dataset
    position: np.ndarray
    events: np.ndarray
    max_history: int

    @classmethod
    def of(cls, dataset: Dataset, max_history: int) -> _Rows:
        position = position_in_user(dataset.interactions.user)
        events = rows_in_time_order(dataset.interactions, position)
        if not len(events):
            raise DataError(
                f"The data set '{dataset.name}' has no user with two events, so there is no next item to predict.",
                "Check that the user column holds users and that no event was lost on import.",
            )
        return cls(dataset, position, events, max_history)

    def examples(self, rows: np.ndarray) -> Examples:
        return window_examples(self.dataset.interactions, self.position, self.events[rows], rows, self.max_history)


def _global_time(dataset: Dataset, protocol: Protocol) -> Split:
    if not dataset.has_time:
        raise ConfigError(
            f"The split 'global-time' needs times, and the data set '{dataset.name}' only has the order of each "
            "user's events.",
            "Use the split 'leave-one-out' for it.",
        )
    table = _Rows.of(dataset, protocol.max_history)
    times = dataset.interactions.timestamp[table.events]
    n_rows, total = len(times), sum(protocol.ratios)
    cuts = [n_rows * protocol.ratios[0] // total, n_rows * (protocol.ratios[0] + protocol.ratios[1]) // total]
    if protocol.boundary == "time":
        cuts = [int(np.searchsorted(times, times[cut], "left")) if cut < n_rows else cut for cut in cuts]
    sizes = np.diff([0, *cuts, n_rows])
    for name, size, ratio in zip(("training", "validation", "test"), sizes, protocol.ratios, strict=True):
        if ratio and not size:
            raise DataError(
                f"The data set '{dataset.name}' has {n_rows} rows in {len(np.unique(times))} instants: cut "
                f"{':'.join(map(str, protocol.ratios))} with boundary '{protocol.boundary}', the {name} part is empty.",
                "Use more data, other ratios, boundary 'row' or the split 'leave-one-out'.",
            )
    train, valid, test = (table.examples(rows) for rows in np.split(np.arange(n_rows), cuts))
    facts = {
        "ratios": list(protocol.ratios),
        "boundary_rule": protocol.boundary,
        "tie_rule": TIE_RULE,
        "n_rows": n_rows,
        "boundaries": {"valid": boundary_facts(times, cuts[0]), "test": boundary_facts(times, cuts[1])},
    }
    return Split(train, valid, test, facts)


def _leave_one_out(dataset: Dataset, protocol: Protocol) -> Split:
    table = _Rows.of(dataset, protocol.max_history)
    position = table.position[table.events]
    n_events = np.bincount(dataset.interactions.user, minlength=len(dataset.users))
    from_end = n_events[dataset.interactions.user[table.events]] - position
    test, valid, train = (table.examples(np.flatnonzero(part)) for part in (from_end == 1, from_end == 2, from_end > 2))
    if not len(train):
        raise DataError(
            f"The data set '{dataset.name}' has no user with four events, so leave-one-out leaves no training row.",
            "Use more data or the split 'global-time'.",
        )
    facts: dict[str, Any] = {
        "tie_rule": TIE_RULE,
        "n_rows": len(table.events),
        "users_without_row": int((n_events < 2).sum()),
        "users_with_test_row_only": int((n_events == 2).sum()),
    }
    warning = (
        "leave-one-out leaks the future: training rows of some users are later in time than test rows of others, "
        "which no recommender in use could know"
    )
    if dataset.has_time:
        first_test = int(test.timestamp.min())
        facts["first_test_time"] = iso_time(first_test)
        facts["train_rows_after_first_test_row"] = int((train.timestamp > first_test).sum())
        warning += f" ({facts['train_rows_after_first_test_row']:,} of {len(train):,} training rows here)."
    else:
        warning += "; without times, how often cannot be said."
    return Split(train, valid, test, facts, (warning,))


def _provided(dataset: Dataset, protocol: Protocol) -> Split:
    provided = dataset.provided
    if provided is None:
        other = default_strategy(dataset)
        raise ConfigError(
            f"The data set '{dataset.name}' brings no split of its own, so the split 'provided' does not fit.",
            f"Use the split '{other}' for it.",
        )
    source = (provided.train, provided.valid, provided.test)
    train, valid, test = (shorten_histories(part, protocol.max_history) for part in source)
    longest = max((int(part.history_length.max()) for part in source if len(part)), default=0)
    facts: dict[str, Any] = {
        "n_rows": len(train) + len(valid) + len(test),
        "tie_rule": "rows, order and boundaries are the source's own",
        "longest_history_in_source": longest,
    }
    if dataset.has_time:
        times = np.concatenate([part.timestamp for part in source])
        cuts = np.cumsum([len(train), len(valid)])
        facts["boundaries"] = {
            name: boundary_facts(times, int(cut)) for name, cut in zip(("valid", "test"), cuts, strict=True)
        }
    return Split(train, valid, test, facts)


def _limit(split: Split, protocol: Protocol, n_users: int) -> tuple[Split, dict[str, Any]]:
    """Leave out rows as the protocol asks for, and say what was left out."""
    if not protocol.limited:
        return split, {}
    train, valid, test = split.train, split.valid, split.test
    if protocol.limit_train is not None:
        train = _some_users(train, protocol.limit_train, n_users)
    if protocol.limit_test is not None:
        valid = _some_rows(valid, protocol.limit_test, "valid")
        test = _some_rows(test, protocol.limit_test, "test")
    asked = {"train": protocol.limit_train, "valid": protocol.limit_test, "test": protocol.limit_test}
    facts: dict[str, Any] = {
        name: {"limit": asked[name], "kept": len(kept), "of": len(whole)}
        for name, kept, whole in zip(asked, (train, valid, test), (split.train, split.valid, split.test), strict=True)
        if asked[name] is not None
    }
    facts["drawn_with_seed"] = LIMIT_SEED
    if all(fact["kept"] == fact["of"] for fact in facts.values() if isinstance(fact, dict)):
        facts["remark"] = (
            "no limit is smaller than the data, so no row was left out; the protocol's hash is still that of a "
            "limited one"
        )
    return Split(train, valid, test), {"limits": facts}


def _some_users(rows: Examples, limit: int, n_users: int) -> Examples:
    place_of_user = numpy_rng(LIMIT_SEED, "limit", "train").permutation(n_users)
    order = np.argsort(place_of_user[rows.user], kind="stable")
    return rows.take(np.sort(order[:limit]))


def _some_rows(rows: Examples, limit: int, part: str) -> Examples:
    order = numpy_rng(LIMIT_SEED, "limit", part).permutation(len(rows))
    return rows.take(np.sort(order[:limit]))
