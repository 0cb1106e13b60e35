"""Amazon review data 2018 by the preprocessing of D3 and R3 (LatentR3), from the raw files.

The rules, their oddities and what ``strict`` mends are written down in one place: docs/datasets.md.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import duckdb
import numpy as np

from recbench.contracts.dataset import Dataset, ItemCatalog, ProvidedSplit
from recbench.contracts.errors import DataError
from recbench.contracts.protocol import Protocol
from recbench.data.sources.amazon.assemble import in_order_of_appearance, order_events, pick, shuffled_places
from recbench.data.sources.amazon.categories import Category
from recbench.data.sources.amazon.coding import ReviewTable
from recbench.data.sources.amazon.engine import Resources, open_engine
from recbench.data.sources.amazon.fields import Field
from recbench.data.sources.amazon.staging import RawFile, Staged, stage
from recbench.data.sources.amazon.titles import published_title, strict_title
from recbench.data.sources.amazon.window import Month, WindowRule, find_window, too_few
from recbench.data.split import make_split

logger = logging.getLogger(__name__)

Mode = Literal["reference", "strict"]

#: Items that the published program wants in a data set.
LEAST_ITEMS = 5_000

REVIEW_FIELDS = (
    Field("reviewerID", "user_id", "id"),
    Field("asin", "item_id", "id"),
    Field("unixReviewTime", "time", "seconds"),
    Field("overall", "rating", "number"),
)
META_FIELDS = (Field("asin", "item_id", "id"), Field("title", "title", "text"))


@dataclass(frozen=True)
class Rules:
    """All choices of a preparation.

    Attributes:
        mode: their name.
        window: window and k-core.
        title: cleans a title, or drops it.
        one_bad_row_drops: whether one bad metadata row drops an item that has a good one too.
        whole_days: keep the rows of one day on one side of a boundary, by a split that the data set brings with it.
    """

    mode: Mode
    window: WindowRule
    title: Callable[[str | None], str | None]
    one_bad_row_drops: bool
    whole_days: bool


def rules_of(category: Category, mode: Mode, least_items: int = LEAST_ITEMS) -> Rules:
    """Return the rules of a mode for a category.

    Raises:
        ValueError: the category has no window, so it is not of this release.
    """
    if category.start is None or category.end is None:
        raise ValueError(f"{category.name} has no window of time")
    window = WindowRule(category.start, category.end, least_items)
    if mode == "reference":
        return Rules(mode, window, published_title, one_bad_row_drops=True, whole_days=False)
    strict = replace(window, end_included=False, distinct=True)
    return Rules(mode, strict, strict_title, one_bad_row_drops=False, whole_days=True)


def amazon_2018(
    category: Category,
    reviews: Path,
    meta: Path,
    *,
    scratch: Path,
    mode: Mode = "reference",
    name: str | None = None,
    least_items: int = LEAST_ITEMS,
    resources: Resources | None = None,
    skip_bad_lines: int = 0,
) -> Dataset:
    """Make a data set of the 2018 release from its raw files.

    In ``reference`` mode the global-time split of the default protocol gives exactly the published rows, and the item
    numbers are the published ones. In ``strict`` mode the data set brings a split whose boundaries fall between days.

    Args:
        category: an entry of ``CATEGORIES``.
        reviews: its reviews, JSON lines, plain or gzip: all of them, or the release's own 5-core.
        meta: its metadata, JSON lines, plain or gzip.
        scratch: folder for staged tables and temporary files. The tables stay there and are used again as long as
            the raw files do not change; deleting the folder is the caller's business.
        mode: ``reference`` (the published rules, oddities included) or ``strict``.
        name: of the data set; by default the category's, with ``-strict`` in strict mode.
        least_items: items wanted; the published program wants 5,000.
        resources: memory and threads.
        skip_bad_lines: in each file, leave out up to this many lines that are damaged or lack a value, and say so.

    Raises:
        DataError: a file is missing, damaged, or a line of it wrong (names the line); or no item is left.
        ArtifactError: memory or disk does not suffice.
    """
    rules = rules_of(category, mode, least_items)
    with open_engine(scratch, resources or Resources()) as connection:
        staged = [
            stage(connection, RawFile(path, fields, skip_bad_lines=skip_bad_lines), scratch)
            for path, fields in ((reviews, REVIEW_FIELDS), (meta, META_FIELDS))
        ]
        dataset, start = _build(connection, staged[0], staged[1], category, rules, str(reviews))
    notes = [remark for table in staged for remark in table.remarks]
    notes += too_few(len(dataset.catalog), rules.window)
    source = [
        f"Amazon review data 2018, {category.raw_name}, by the {mode} rules of recbench (docs/datasets.md)",
        f"window {start} to {rules.window.end} (UTC), {rules.window.core}-core",
    ]
    if mode == "reference" and least_items == LEAST_ITEMS:
        _compare_with_paper(dataset, category, source, notes)
    if rules.whole_days:
        dataset = replace(dataset, provided=_split_between_days(dataset))
        source.append("its split is 8:1:1 by time, cut between days")
    default_name = category.name if mode == "reference" else f"{category.name}-strict"
    return replace(dataset, name=name or default_name, source="; ".join(source), notes=tuple(notes))


def _build(
    connection: duckdb.DuckDBPyConnection, reviews: Staged, meta: Staged, category: Category, rules: Rules, where: str
) -> tuple[Dataset, Month]:
    window = rules.window
    table = ReviewTable(connection, reviews, window.end.first_second, window.core)
    titles = good_titles(table.meta_rows(meta, ("title",)), rules)
    ids = list(titles)
    events = table.events(ids)
    if not len(events):
        raise DataError(
            f"{where}: no user has {window.core} reviews of items with a title that is used.",
            "Check that the review and metadata files are whole, and belong together.",
        )
    start, kept = find_window(events, window, where)
    events = events.take(kept)
    user_codes, user = in_order_of_appearance(events.user)
    item_codes, appearance = in_order_of_appearance(events.item)
    places = shuffled_places(len(item_codes))
    number = np.empty(len(places), dtype=np.int32)
    number[places] = np.arange(len(places), dtype=np.int32)
    item_ids = pick(ids, item_codes[places])
    dataset = Dataset(
        name=category.name,
        users=tuple(table.user_ids(user_codes)),
        catalog=ItemCatalog(item_ids, tuple(titles[item_id] for item_id in item_ids), category.noun),
        interactions=order_events(events, user, number[appearance]),
    )
    logger.info("%s: window from %s, %s items.", category.raw_name, start, f"{len(item_ids):,}")
    return dataset, start


def good_titles(rows: Iterable[tuple[Any, ...]], rules: Rules) -> dict[str, str]:
    """Return item id -> title of the items to keep. Of several good rows of an item the last one wins."""
    good: dict[str, str] = {}
    bad = set()
    for item_id, title in rows:
        cleaned = rules.title(title)
        if cleaned is None:
            bad.add(item_id)
        elif item_id is not None:
            good[item_id] = cleaned
    return {item_id: title for item_id, title in good.items() if not (rules.one_bad_row_drops and item_id in bad)}


def _split_between_days(dataset: Dataset) -> ProvidedSplit:
    """Return the rows of the global-time split with the boundary between instants, which are whole days in 2018."""
    split = make_split(dataset, Protocol(boundary="time"))
    return ProvidedSplit(split.train, split.valid, split.test)


def _compare_with_paper(dataset: Dataset, category: Category, source: list[str], notes: list[str]) -> None:
    paper = category.paper
    if paper is None:
        return
    found = (len(dataset.catalog), len(dataset.interactions) - len(dataset.users))
    if found == (paper.items, paper.rows):
        source.append("as many items and rows as in table 3 of the LatentR3 paper")
        return
    notes.append(
        f"{found[0]:,} items and {found[1]:,} rows, where table 3 of the LatentR3 paper has {paper.items:,} and "
        f"{paper.rows:,}"
    )
