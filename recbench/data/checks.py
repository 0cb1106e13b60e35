"""Integrity of data sets and leakage of splits. Run on every load and on every split; they cost far less than a run."""

from __future__ import annotations

import numpy as np

from recbench.contracts.dataset import Dataset, Interactions
from recbench.contracts.errors import DataError
from recbench.contracts.examples import Examples
from recbench.contracts.protocol import Protocol
from recbench.contracts.split import Split
from recbench.data.locate import EventIndex
from recbench.data.window import position_in_user


def check_dataset(dataset: Dataset) -> None:
    """Check everything that the contract of :class:`~recbench.contracts.dataset.Dataset` promises.

    Raises:
        DataError: names the first promise that is broken, and where.
    """
    catalog, events = dataset.catalog, dataset.interactions
    _require(len(set(dataset.users)) == len(dataset.users), dataset, "a user id occurs twice")
    _require(len(set(catalog.ids)) == len(catalog.ids), dataset, "an item id occurs twice in the catalogue")
    _require(len(catalog.titles) == len(catalog.ids), dataset, "there is not one title per item")
    _require(
        catalog.categories is None or len(catalog.categories) == len(catalog.ids),
        dataset,
        "there is not one category text per item",
    )
    _check_columns(dataset, events)
    _check_numbers(dataset, "an event", "user", events.user, len(dataset.users))
    _check_numbers(dataset, "an event", "item", events.item, len(catalog))
    same_user = events.user[1:] == events.user[:-1]
    falls = (events.user[1:] < events.user[:-1]) | (same_user & (events.timestamp[1:] < events.timestamp[:-1]))
    _require(not falls.any(), dataset, f"event {_first(falls) + 1} is out of order (user, then time)")
    if not dataset.has_time:
        is_order = np.array_equal(events.timestamp, position_in_user(events.user))
        _require(is_order, dataset, "it has no times, but what stands in their place is not the order of the events")
    if dataset.provided is not None:
        parts = (dataset.provided.train, dataset.provided.valid, dataset.provided.test)
        for name, part in zip(("train", "valid", "test"), parts, strict=True):
            _check_part(dataset, name, part)
        _check_disjoint(dataset, parts)


def check_split(dataset: Dataset, split: Split, protocol: Protocol) -> None:
    """Check that no row shows what its method must not know.

    * example ids are unique over all parts, users and items exist, histories have 1 to ``max_history`` items;
    * for computed splits, every history is exactly what the user did right before the target, in the order of the
      data set (looked up by content, whatever code made the row);
    * for global-time, no training row is later than a validation row, and no validation row later than a test row;
      equal times at a boundary are allowed with ``boundary='row'`` only (``Split.facts`` counts them).

    Raises:
        DataError: names the rule and the first row that breaks it.
    """
    parts = (split.train, split.valid, split.test)
    index = None if protocol.split == "provided" else EventIndex(dataset.interactions, len(dataset.catalog))
    for name, part in zip(("train", "valid", "test"), parts, strict=True):
        _check_part(dataset, name, part)
        too_long = part.history_length > protocol.max_history
        _require_row(not too_long.any(), dataset, name, part, too_long, f"has more than {protocol.max_history} items")
        if index is not None:
            lost = index.locate(part) < 0
            _require_row(not lost.any(), dataset, name, part, lost, "is not what the user did right before the target")
    _check_disjoint(dataset, parts)
    if protocol.split == "global-time":
        _check_order(dataset, "training", split.train, "validation or test", (split.valid, split.test), protocol)
        _check_order(dataset, "validation", split.valid, "test", (split.test,), protocol)


def _check_order(
    dataset: Dataset, name: str, early: Examples, late_name: str, late: tuple[Examples, ...], protocol: Protocol
) -> None:
    later_times = np.concatenate([part.timestamp for part in late])
    if not len(early) or not len(later_times):
        return
    last, first = int(early.timestamp.max()), int(later_times.min())
    allowed = last <= first if protocol.boundary == "row" else last < first
    _require(allowed, dataset, f"the last {name} row (time {last}) is not before the first {late_name} row ({first})")


def _check_columns(dataset: Dataset, events: Interactions) -> None:
    expected: dict[str, type] = {"user": np.int32, "item": np.int32, "timestamp": np.int64}
    columns = {name: getattr(events, name) for name in expected}
    if events.rating is not None:
        expected["rating"], columns["rating"] = np.float32, events.rating
    for name, column in columns.items():
        fits = column.shape == events.user.shape and column.ndim == 1 and column.dtype == expected[name]
        wanted = f"{np.dtype(expected[name])} of length {len(events.user)}"
        _require(fits, dataset, f"the event column '{name}' is {column.dtype} {column.shape}, expected {wanted}")


def _check_part(dataset: Dataset, name: str, part: Examples) -> None:
    n_rows = len(part.example_id)
    lengths = {len(part.user), len(part.timestamp), len(part.target), len(part.offsets) - 1}
    _require(lengths == {n_rows}, dataset, f"the columns of the {name} rows differ in length")
    whole = part.offsets[0] == 0 and part.offsets[-1] == len(part.items)
    _require(bool(whole), dataset, f"the offsets of the {name} rows do not match their histories")
    empty = np.diff(part.offsets) < 1
    _require_row(not empty.any(), dataset, name, part, empty, "is empty")
    _check_numbers(dataset, f"a {name} row", "user", part.user, len(dataset.users))
    _check_numbers(dataset, f"a {name} row", "target", part.target, len(dataset.catalog))
    _check_numbers(dataset, f"a {name} row", "history item", part.items, len(dataset.catalog))


def _check_disjoint(dataset: Dataset, parts: tuple[Examples, ...]) -> None:
    ids = np.sort(np.concatenate([part.example_id for part in parts]))
    _require(bool((ids[1:] != ids[:-1]).all()), dataset, "an example id occurs twice, so its parts are not disjoint")


def _check_numbers(dataset: Dataset, where: str, what: str, numbers: np.ndarray, size: int) -> None:
    bad = (numbers < 0) | (numbers >= size)
    _require(not bad.any(), dataset, f"{where} has {what} number {_at(numbers, bad)}, expected 0 to {size - 1}")


def _require_row(fine: bool, dataset: Dataset, name: str, part: Examples, bad: np.ndarray, what: str) -> None:
    example = _at(part.example_id, bad)
    _require(fine, dataset, f"the history of {name} row {example} {what} ({int(bad.sum())} such rows)")


def _first(bad: np.ndarray) -> int:
    return int(np.argmax(bad)) if bad.any() else -1


def _at(values: np.ndarray, bad: np.ndarray) -> int | None:
    return int(values[_first(bad)]) if bad.any() else None


def _require(fine: bool, dataset: Dataset, problem: str) -> None:
    if not fine:
        raise DataError(
            f"The data set '{dataset.name}' is not sound: {problem}.",
            "Prepare or import it again (--again); if that does not help, the source or its reader is wrong.",
        )
