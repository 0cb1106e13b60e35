"""From the columns of a source to a :class:`Dataset`: numbers, order, units, and what had to be said on the way."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recbench.contracts.dataset import Dataset, Interactions, ItemCatalog, title_key
from recbench.contracts.errors import DataError
from recbench.data.text import clean_title
from recbench.data.window import position_in_user

logger = logging.getLogger(__name__)

# Seconds reach this in the year 5138, milliseconds in 1973: what is above is a finer unit.
_LARGEST_SECONDS = 1e11
_FINER_UNITS = (("milliseconds", 10**3), ("microseconds", 10**6), ("nanoseconds", 10**9))
# With fewer known items than this the two tables do not belong together, or a wrong column was chosen.
_LEAST_KNOWN_EVENTS = 0.5


@dataclass(frozen=True)
class RawEvents:
    """Events as a source has them, row by row.

    Attributes:
        where: path of the file, for messages.
        user_id, item_id: columns of ids (text or whole numbers).
        time: column of times since 1970 (numbers or text that holds them), or None.
        position: column with the order of the events of a user, or None: the order of the rows then counts.
        rating: column of ratings, or None.
    """

    where: str
    user_id: pa.ChunkedArray
    item_id: pa.ChunkedArray
    time: pa.ChunkedArray | None = None
    position: pa.ChunkedArray | None = None
    rating: pa.ChunkedArray | None = None


@dataclass(frozen=True)
class RawItems:
    """Items as a source has them.

    Attributes:
        where: path of the file, for messages.
        item_id: ids, one per row.
        title: titles, None or "" where there is none.
        categories: one text per item, or None.
    """

    where: str
    item_id: Sequence[str]
    title: Sequence[str | None]
    categories: Sequence[str | None] | None = None


@dataclass
class Remarks:
    """What a reader of numbers must know (notes) and what was done to the source (said once, kept in ``source``)."""

    notes: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)

    def say(self, sentence: str) -> None:
        """Log what was done or guessed, and keep it for the data set's ``source``."""
        logger.info("%s.", sentence)
        self.done.append(sentence)


def build_dataset(
    name: str,
    events: RawEvents,
    items: RawItems | None,
    *,
    source: str,
    noun: str = "items",
    remarks: Remarks | None = None,
    unescape_html: bool = False,
) -> Dataset:
    """Number users and items, bring the events in order and build the data set.

    Users are numbered by first appearance among the events, items by their row in the item table. Events are sorted
    by user, time and then position (where there is such a column) or row. Repeated events stay. Items that only the
    events know are appended to the catalogue without title, and that is said.

    Args:
        name: name of the data set.
        events: the events.
        items: the item table; without one the catalogue is the items of the events, all untitled.
        source: where the data come from, in words.
        noun: what the items are called in prompts, plural.
        remarks: what was said so far; more is added.
        unescape_html: turn HTML entities in titles into characters.

    Raises:
        DataError: an id is missing, a time or rating is no number, an item id has two different titles, or most
            events are on items that the item table does not know.
    """
    remarks = remarks or Remarks()
    users, user = _number_ids(events.user_id, "user id", events.where)
    event_items, event_item = _number_ids(events.item_id, "item id", events.where)
    catalog, number = _build_catalog(event_items, event_item, events, items, noun, remarks, unescape_html)
    item = number[event_item]
    rating = None if events.rating is None else as_numbers(events.rating, "rating", events.where).astype(np.float32)
    keys = [user]
    if events.position is not None:
        keys.insert(0, as_numbers(events.position, "position", events.where))
    timestamp = None
    if events.time is not None:
        raw_time = as_numbers(events.time, "time", events.where)
        keys.insert(len(keys) - 1, raw_time)
        timestamp = _to_seconds(raw_time, events.where, remarks)
    order = np.lexsort(keys)
    user = user[order]
    interactions = Interactions(
        user=user,
        item=item[order],
        timestamp=position_in_user(user) if timestamp is None else timestamp[order],
        rating=None if rating is None else rating[order],
    )
    return Dataset(
        name=name,
        users=users,
        catalog=catalog,
        interactions=interactions,
        has_time=timestamp is not None,
        source="; ".join([source, *remarks.done]),
        notes=tuple(remarks.notes),
    )


def build_titles(titles: Sequence[str | None], where: str, remarks: Remarks, unescape_html: bool) -> tuple[str, ...]:
    """Clean titles, and say how many items have none."""
    cleaned = tuple(clean_title(title or "", unescape_html) for title in titles)
    untitled = sum(not title_key(title) for title in cleaned)
    if untitled:
        remarks.say(f"{untitled:,} of {len(cleaned):,} items in {Path(where).name} have no title")
    if unescape_html:
        remarks.say("HTML entities in titles were turned into characters")
    return cleaned


def as_ids(column: pa.ChunkedArray, what: str, where: str) -> pa.Array:
    """Return ids as text without blanks at their ends; whole numbers are written without a point.

    Raises:
        DataError: an id is missing; names the first such row.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_floating(array.type) and pc.all(pc.equal(array, pc.floor(array))).as_py():
        array = array.cast(pa.int64())
    text = pc.utf8_trim_whitespace(array.cast(pa.large_string()))
    missing = pc.fill_null(pc.equal(text, ""), True).to_numpy(zero_copy_only=False)
    if missing.any():
        raise DataError(
            f"{where}: data row {int(np.argmax(missing)) + 1} has no {what} ({int(missing.sum()):,} such rows).",
            "Fill it in or remove the row.",
        )
    return text


def as_numbers(column: pa.ChunkedArray, what: str, where: str) -> np.ndarray:
    """Return int64 where all values are whole numbers that fit, else float64.

    Raises:
        DataError: a value is missing or no finite number; names the first such row and its value.
    """
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        raise DataError(
            f"{where}: the {what} column has dates ({column.type}), expected numbers.",
            "Give seconds since 1970 (UTC); in pandas: column.astype('int64') // 10**9 for datetime64[ns].",
        )
    numbers = _parse_numbers(column)
    if numbers is None:
        rows = enumerate(column.to_pylist(), start=1)
        row, value = next((row, value) for row, value in rows if not _is_number(value))
        unit = "seconds since 1970 (UTC)" if what == "time" else "a number"
        raise DataError(
            f"{where}: data row {row} has the {what} {value!r}, expected {unit}.",
            "Correct the column, or choose another one" + (" with --time-col." if what == "time" else "."),
        )
    return numbers


def is_numeric(column: pa.ChunkedArray) -> bool:
    """Tell whether all values of a column are finite numbers or text that holds them."""
    return _parse_numbers(column) is not None


def _parse_numbers(column: pa.ChunkedArray) -> np.ndarray | None:
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        array = pc.utf8_trim_whitespace(array)
    for kind in (pa.int64(), pa.float64()):
        try:
            numbers = array.cast(kind)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            continue
        if numbers.null_count == 0:
            values = numbers.to_numpy(zero_copy_only=False)
            if np.isfinite(values).all():
                return values
    return None


def _is_number(value: object) -> bool:
    try:
        return math.isfinite(float(str(value)))
    except ValueError:
        return False


def _number_ids(column: pa.ChunkedArray, what: str, where: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the distinct ids in order of first appearance, and int32 numbers per row."""
    encoded = as_ids(column, what, where).dictionary_encode()
    return tuple(encoded.dictionary.to_pylist()), encoded.indices.to_numpy().astype(np.int32)


def _to_seconds(time: np.ndarray, where: str, remarks: Remarks) -> np.ndarray:
    """Return int64 seconds: finer units are seen from their size, fractions dropped downwards."""
    largest = float(np.abs(time).max()) if len(time) else 0.0
    per_second = 1
    if largest > _LARGEST_SECONDS:
        unit, per_second = next(
            (entry for entry in _FINER_UNITS if largest / entry[1] <= _LARGEST_SECONDS), _FINER_UNITS[-1]
        )
        smallest = float(np.abs(time).min())
        if smallest <= _LARGEST_SECONDS * per_second / 1000:
            raise DataError(
                f"{where}: times from {smallest:.0f} to {largest:.0f} cannot be of one unit.",
                "Give all times in seconds since 1970 (UTC).",
            )
        remarks.say(f"times were recognised as {unit} and divided by {per_second:,}")
    whole = np.floor_divide(time, per_second)
    if per_second == 1 and time.dtype.kind == "f" and np.any(whole != time):
        remarks.say("fractions of a second were dropped after sorting")
    return whole.astype(np.int64)


def _build_catalog(
    event_items: tuple[str, ...],
    event_item: np.ndarray,
    events: RawEvents,
    items: RawItems | None,
    noun: str,
    remarks: Remarks,
    unescape_html: bool,
) -> tuple[ItemCatalog, np.ndarray]:
    """Return the catalogue, and the item number for each number of ``event_items``."""
    if items is None:
        remarks.notes.append("the source has no item table: all items are untitled")
        items = RawItems(events.where, event_items, [None] * len(event_items))
    kept = _distinct_rows(items, remarks)
    ids = [items.item_id[row] for row in kept]
    titles = [items.title[row] for row in kept]
    categories = None if items.categories is None else [items.categories[row] or "" for row in kept]
    known = set(ids)
    unknown = [item_id for item_id in event_items if item_id not in known]
    if unknown:
        is_unknown = np.array([item_id not in known for item_id in event_items])
        n_events = int(is_unknown[event_item].sum())
        if n_events > (1 - _LEAST_KNOWN_EVENTS) * len(event_item):
            raise DataError(
                f"{n_events:,} of {len(event_item):,} events in {events.where} are on items that {items.where} does "
                f"not have (the first is '{unknown[0]}'; the first item there is '{ids[0]}').",
                "Check that the two tables belong together and that both item columns are right (--item-col).",
            )
        counts = f"{len(unknown):,} (in {n_events:,} events)"
        remarks.say(f"items of the events that {Path(items.where).name} lacks, added untitled: {counts}")
        remarks.notes.append(f"items without title because the item table lacks them: {counts}")
        ids += unknown
        titles += [None] * len(unknown)
        categories = None if categories is None else categories + [""] * len(unknown)
    catalog = ItemCatalog(
        ids=tuple(ids),
        titles=build_titles(titles, items.where, remarks, unescape_html),
        noun=noun,
        categories=None if categories is None else tuple(clean_title(text) for text in categories),
    )
    return catalog, np.array([catalog.number_of[item_id] for item_id in event_items], dtype=np.int32)


def _distinct_rows(items: RawItems, remarks: Remarks) -> list[int]:
    """Return the first row of every item. Rows that repeat an item must repeat its title."""
    first: dict[str, int] = {}
    for row, item_id in enumerate(items.item_id):
        earlier = first.setdefault(item_id, row)
        if earlier != row and clean_title(items.title[earlier] or "") != clean_title(items.title[row] or ""):
            raise DataError(
                f"{items.where}: data rows {earlier + 1} and {row + 1} both describe the item '{item_id}', with "
                f"different titles ({items.title[earlier]!r} and {items.title[row]!r}).",
                "Keep one row per item.",
            )
    repeated = len(items.item_id) - len(first)
    if repeated:
        remarks.say(f"rows of {Path(items.where).name} that repeat an item with the same title, left out: {repeated:,}")
    return list(first.values())
