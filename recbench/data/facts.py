"""Facts about a cut, as plain values for manifests and reports."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np

from recbench.contracts.dataset import Dataset
from recbench.contracts.examples import Examples

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def iso_time(seconds: int) -> str:
    """Return seconds since 1970 as ISO 8601 in UTC, whatever this machine's time zone is."""
    try:
        return (_EPOCH + timedelta(seconds=int(seconds))).strftime("%Y-%m-%dT%H:%M:%SZ")
    except OverflowError:
        return f"{seconds} s"


def boundary_facts(times: np.ndarray, cut: int) -> dict[str, Any]:
    """Describe one boundary of rows in time order.

    Args:
        times: int64 (n,), times of all rows, never falling.
        cut: number of rows before the boundary.

    Returns:
        ``row`` (the cut), time of the first row behind it, and how many rows of that same instant lie before and
        behind it. Rows before it mean that the order of equal times decided on which side a row fell.
    """
    if not 0 < cut < len(times):
        return {"row": cut, "timestamp": None, "time": None, "tied_before": 0, "tied_after": 0}
    instant = int(times[cut])
    return {
        "row": cut,
        "timestamp": instant,
        "time": iso_time(instant),
        "tied_before": int((times[:cut] == instant).sum()),
        "tied_after": int((times[cut:] == instant).sum()),
    }


def part_facts(train: Examples, valid: Examples, test: Examples, dataset: Dataset) -> dict[str, Any]:
    """Describe the three parts: sizes, times, and what validation and test hold that training does not.

    An item is unseen in training if no training row has it as target or in its history; a user, if no training row
    is theirs.
    """
    seen_items = np.zeros(len(dataset.catalog), dtype=bool)
    seen_items[train.items] = True
    seen_items[train.target] = True
    trained_items = np.zeros(len(dataset.catalog), dtype=bool)
    trained_items[train.target] = True
    seen_users = np.zeros(len(dataset.users), dtype=bool)
    seen_users[train.user] = True
    result: dict[str, Any] = {}
    for name, part in (("train", train), ("valid", valid), ("test", test)):
        facts: dict[str, Any] = {
            "rows": len(part),
            "users": _distinct(part.user),
            "target_items": _distinct(part.target),
            "mean_history": float(part.history_length.mean()) if len(part) else None,
            "full_history_rows": int((part.history_length == part.history_length.max()).sum()) if len(part) else 0,
            "target_in_history_rows": _repeated_targets(part),
        }
        if dataset.has_time and len(part):
            facts["from"] = iso_time(part.timestamp.min())
            facts["to"] = iso_time(part.timestamp.max())
        if name != "train":
            facts["rows_of_unseen_users"] = int((~seen_users[part.user]).sum())
            facts["unseen_users"] = _distinct(part.user[~seen_users[part.user]])
            facts["rows_on_unseen_items"] = int((~seen_items[part.target]).sum())
            facts["unseen_items"] = _distinct(part.target[~seen_items[part.target]])
            facts["rows_on_items_never_a_training_target"] = int((~trained_items[part.target]).sum())
        result[name] = facts
    return result


def _distinct(numbers: np.ndarray) -> int:
    return int((np.bincount(numbers) > 0).sum()) if len(numbers) else 0


def _repeated_targets(part: Examples) -> int:
    """Count the rows whose target is already in their history."""
    if not len(part):
        return 0
    same = part.items == np.repeat(part.target, part.history_length)
    return int(np.logical_or.reduceat(same, part.offsets[:-1]).sum())
