"""Amazon review data 2014: the release's own 5-core reviews, all of them, with the titles of its metadata.

No window and no further filter: this is the usual academic form (Beauty, Toys, Sports). The metadata of 2014 is not
JSON: each line is a Python literal.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbench.contracts.dataset import Dataset, ItemCatalog
from recbench.data.build import Remarks, build_titles
from recbench.data.sources.amazon.assemble import in_order_of_appearance, order_events, pick
from recbench.data.sources.amazon.categories import Category
from recbench.data.sources.amazon.coding import ReviewTable
from recbench.data.sources.amazon.engine import Resources, open_engine
from recbench.data.sources.amazon.fields import Field
from recbench.data.sources.amazon.release_2018 import REVIEW_FIELDS
from recbench.data.sources.amazon.staging import RawFile, stage
from recbench.data.text import CATEGORY_SEPARATOR, clean_title

_META_FIELDS = (
    Field("asin", "item_id", "id"),
    Field("title", "title", "text"),
    Field("categories", "categories", "text"),
)


def amazon_2014(
    category: Category,
    reviews: Path,
    meta: Path,
    *,
    scratch: Path,
    name: str | None = None,
    unescape_html: bool = False,
    resources: Resources | None = None,
    skip_bad_lines: int = 0,
) -> Dataset:
    """Make a data set of the 2014 release from its 5-core reviews.

    Every review is an event. Users and items are numbered in the order of their first review; an item without a
    title stays, untitled. Of several metadata rows of an item the last one counts.

    Args:
        category: an entry of ``CATEGORIES_2014``.
        reviews: its 5-core reviews, JSON lines, plain or gzip.
        meta: its metadata, a Python literal (or JSON) per line, plain or gzip.
        scratch: folder for staged tables and temporary files, as in :func:`amazon_2018`.
        name: of the data set; by default the category's.
        unescape_html: turn HTML entities in titles into characters.
        resources: memory and threads.
        skip_bad_lines: in each file, leave out up to this many bad lines, and say so.

    Raises:
        DataError: a file is missing, damaged, or a line of it is wrong; names the line.
        ArtifactError: memory or disk does not suffice.
    """
    raw_reviews = RawFile(reviews, REVIEW_FIELDS, skip_bad_lines=skip_bad_lines)
    raw_meta = RawFile(meta, _META_FIELDS, "python", skip_bad_lines, _join_categories)
    with open_engine(scratch, resources or Resources()) as connection:
        staged_reviews = stage(connection, raw_reviews, scratch)
        staged_meta = stage(connection, raw_meta, scratch)
        table = ReviewTable(connection, staged_reviews)
        texts = {row[0]: row[1:] for row in table.meta_rows(staged_meta, ("title", "categories"))}
        ids = table.item_ids()
        events = table.events(ids)
        user_codes, user = in_order_of_appearance(events.user)
        item_codes, item = in_order_of_appearance(events.item)
        users = table.user_ids(user_codes)
    remarks = Remarks(notes=[*staged_reviews.remarks, *staged_meta.remarks])
    item_ids = pick(ids, item_codes)
    found = [texts.get(item_id, (None, None)) for item_id in item_ids]
    catalog = ItemCatalog(
        ids=item_ids,
        titles=build_titles([title for title, _ in found], str(meta), remarks, unescape_html),
        noun=category.noun,
        categories=tuple(clean_title(text or "") for _, text in found),
    )
    return Dataset(
        name=name or category.name,
        users=tuple(users),
        catalog=catalog,
        interactions=order_events(events, user, item),
        source="; ".join([f"Amazon review data 2014, {category.raw_name}, 5-core", *remarks.done]),
        notes=tuple(remarks.notes),
    )


def _join_categories(record: dict[str, Any]) -> dict[str, Any]:
    """Write paths of categories as one text: ``Beauty > Makeup | Gifts``."""
    paths = record.get("categories")
    if isinstance(paths, list):
        lists = [path if isinstance(path, list) else [path] for path in paths]
        record["categories"] = CATEGORY_SEPARATOR.join(" > ".join(map(str, path)) for path in lists)
    return record
