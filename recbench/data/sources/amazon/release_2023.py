"""Amazon review data 2023 by R2ec's preprocessing, from the rating-only 5-core files.

Items need a title and a price that is a number; the window slides back until there are enough items; there is no
k-core within it. The rules are written down in docs/datasets.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from recbench.contracts.dataset import Dataset, ItemCatalog
from recbench.contracts.errors import DataError
from recbench.data.sources.amazon.assemble import in_order_of_appearance, order_events, pick
from recbench.data.sources.amazon.categories import Category
from recbench.data.sources.amazon.coding import ReviewTable
from recbench.data.sources.amazon.engine import Resources, open_engine
from recbench.data.sources.amazon.fields import Field
from recbench.data.sources.amazon.staging import RawFile, stage
from recbench.data.sources.amazon.titles import published_title_2023
from recbench.data.sources.amazon.window import WindowRule, find_window, too_few

#: Items that R2ec wants in a data set.
LEAST_ITEMS_2023 = 10_000

_REVIEW_FIELDS = (
    Field("user_id", "user_id", "id"),
    Field("parent_asin", "item_id", "id"),
    Field("timestamp", "time", "milliseconds"),
    Field("rating", "rating", "number"),
)
_META_FIELDS = (
    Field("parent_asin", "item_id", "id"),
    Field("title", "title", "text"),
    Field("price", "price", "text"),
)


def amazon_2023(
    category: Category,
    reviews: Path,
    meta: Path,
    *,
    scratch: Path,
    name: str | None = None,
    least_items: int = LEAST_ITEMS_2023,
    resources: Resources | None = None,
    skip_bad_lines: int = 0,
) -> Dataset:
    """Make a data set of the 2023 release.

    Items are numbered in the order of the metadata. Times are milliseconds in the source: events are put in order by
    them, and kept as seconds. Give ``protocol.max_history=20`` for R2ec's own histories.

    Args:
        category: an entry of ``CATEGORIES_2023``.
        reviews: its rating-only 5-core file, csv with a header line, plain or gzip.
        meta: its metadata, JSON lines, plain or gzip.
        scratch: folder for staged tables and temporary files, as in :func:`amazon_2018`.
        name: of the data set; by default the category's.
        least_items: items wanted; R2ec wants 10,000.
        resources: memory and threads.
        skip_bad_lines: in each file, leave out up to this many bad lines, and say so.

    Raises:
        DataError: a file is missing, damaged, or a line of it wrong (names the line); or no item is left.
        ArtifactError: memory or disk does not suffice.
    """
    if category.start is None or category.end is None:
        raise ValueError(f"{category.name} has no window of time")
    rule = WindowRule(
        category.start, category.end, least_items, core=0, last_year=None, oldest_year=1970, end_included=False
    )
    with open_engine(scratch, resources or Resources()) as connection:
        staged_reviews = stage(connection, RawFile(reviews, _REVIEW_FIELDS, "csv", skip_bad_lines), scratch)
        staged_meta = stage(connection, RawFile(meta, _META_FIELDS, skip_bad_lines=skip_bad_lines), scratch)
        table = ReviewTable(connection, staged_reviews, rule.end.first_second * 1000)
        titles = _priced_titles(table.meta_rows(staged_meta, ("title", "price")))
        ids = list(titles)
        events = table.events(ids, per_second=1000)
        if not len(events):
            raise DataError(
                f"{reviews}: no rating is of an item with a title and a price that are used.",
                "Check that the review and metadata files are whole, and belong together.",
            )
        start, kept = find_window(events, rule, str(reviews))
        events = events.take(kept)
        user_codes, user = in_order_of_appearance(events.user)
        users = table.user_ids(user_codes)
    item_codes, item = np.unique(events.item, return_inverse=True)
    item_ids = pick(ids, item_codes)
    return Dataset(
        name=name or category.name,
        users=tuple(users),
        catalog=ItemCatalog(item_ids, tuple(titles[item_id] for item_id in item_ids), category.noun),
        interactions=order_events(events, user, item.astype(np.int32)),
        source=f"Amazon review data 2023, {category.raw_name}, rating-only 5-core, by R2ec's rules (docs/datasets.md); "
        f"window {start} to {rule.end} (UTC), no k-core",
        notes=(*staged_reviews.remarks, *staged_meta.remarks, *too_few(len(item_ids), rule)),
    )


def _priced_titles(rows: Iterable[tuple[Any, ...]]) -> dict[str, str]:
    """Return the titles of the items whose title is good and whose price is a number, in the order of their rows."""
    titles: dict[str, str] = {}
    for item_id, title, price in rows:
        cleaned = published_title_2023(title)
        if item_id is not None and cleaned is not None and _is_number(price):
            titles[item_id] = cleaned
    return titles


def _is_number(text: str | None) -> bool:
    try:
        float(text or "")
    except ValueError:
        return False
    return True
