"""What is known about each test example before any method ranks: the columns that slices are cut by.

They are stored beside the metrics, so that slices need stored files only. Everything but the age of an item is about
training rows or the example itself; nothing depends on what a method did.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from recbench.contracts.dataset import Dataset, Interactions
from recbench.contracts.examples import Examples
from recbench.evaluation.popularity import popularity_rank, seen_counts, target_counts

PREFIX = "fact/"

FACTS = (
    "target_train_count",
    "target_seen_count",
    "title_seen_count",
    "popularity_rank",
    "seen_rank",
    "history_length",
    "user_train_rows",
    "item_age_s",
)
"""Names of the facts; their columns in ``metrics.parquet`` have :data:`PREFIX` before them."""


def fact_column(name: str) -> str:
    """Return the column of ``metrics.parquet`` that holds a fact, e.g. ``fact/history_length``."""
    return PREFIX + name


def missing_facts(columns: Sequence[str]) -> list[str]:
    """Return the fact columns that a table with these columns lacks."""
    present = set(columns)
    return [fact_column(name) for name in FACTS if fact_column(name) not in present]


def example_facts(test: Examples, train: Examples, dataset: Dataset) -> pd.DataFrame:
    """Return the facts of N test examples.

    Args:
        test: the examples.
        train: the training rows of the same split.
        dataset: items, their ids and titles, and the events.

    Returns:
        N rows, columns named by :func:`fact_column`: ``target_train_count`` int32, training rows with the target as
        target; ``target_seen_count`` int32, its occurrences in training rows as target or in a history;
        ``title_seen_count`` int32, the same over all items that share the target's title; ``popularity_rank`` and
        ``seen_rank`` int32, the target's place in the catalogue by either count (see
        :func:`recbench.evaluation.popularity.popularity_rank`); ``history_length`` int32; ``user_train_rows`` int32,
        training rows of the user; ``item_age_s`` float64, seconds from the first event of the target item in the data
        to this one, NaN where the data have no times.
    """
    catalog, n_items = dataset.catalog, len(dataset.catalog)
    as_target, seen = target_counts(train, n_items), seen_counts(train, n_items)
    group = catalog.title_group
    title_seen = np.bincount(group, weights=seen)[group]
    age = _item_age(test, dataset.interactions, n_items) if dataset.has_time else np.full(len(test), np.nan)
    columns = {
        "target_train_count": as_target[test.target].astype(np.int32),
        "target_seen_count": seen[test.target].astype(np.int32),
        "title_seen_count": title_seen[test.target].astype(np.int32),
        "popularity_rank": popularity_rank(as_target, catalog.ids)[test.target],
        "seen_rank": popularity_rank(seen, catalog.ids)[test.target],
        "history_length": test.history_length.astype(np.int32),
        "user_train_rows": np.bincount(train.user, minlength=len(dataset.users))[test.user].astype(np.int32),
        "item_age_s": age,
    }
    return pd.DataFrame({fact_column(name): columns[name] for name in FACTS})


def _item_age(test: Examples, events: Interactions, n_items: int) -> np.ndarray:
    """Return float64 (N,): seconds since the first event of each target; the asked event itself is one of them."""
    first = np.full(n_items, np.iinfo(np.int64).max)
    np.minimum.at(first, events.item, events.timestamp)
    return (test.timestamp - np.minimum(first[test.target], test.timestamp)).astype(np.float64)
