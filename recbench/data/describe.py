"""The statistics of a data set and its split: as plain values, and as rows of a table for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from recbench.contracts.dataset import Dataset
from recbench.contracts.split import Split
from recbench.data.facts import iso_time
from recbench.data.origin import Origin
from recbench.data.text import title_facts

_DAY_S = 86_400
#: Shares of the catalogue, the most popular items first, whose share of the events is told.
_TOP_SHARES = (0.01, 0.1, 0.2, 0.5)


def describe(dataset: Dataset, split: Split | None = None, origin: Origin | None = None) -> dict[str, Any]:
    """Count everything about a data set that can mislead a comparison on it.

    Args:
        dataset: the data set.
        split: its rows under some protocol, to be described too.
        origin: what it was made from, where that is recorded.

    Returns:
        Plain values: sizes, density (events per user and item), ``events_per_user``, ``time``, ``titles``, repeats,
        ``popularity`` (share of the events on the most popular items, by share of the catalogue, and the Gini
        coefficient of events over items), notes, source, fingerprint, ``origin``, and of the split its facts, its
        warnings and ``history_lengths`` (number of rows by items in the history).
    """
    events = dataset.interactions
    n_users, n_items, n_events = len(dataset.users), len(dataset.catalog), len(events)
    item_counts = np.bincount(events.item, minlength=n_items)
    result: dict[str, Any] = {
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        "source": dataset.source,
        "notes": list(dataset.notes),
        "noun": dataset.catalog.noun,
        "users": n_users,
        "items": n_items,
        "items_without_event": int((item_counts == 0).sum()),
        "interactions": n_events,
        "density": n_events / (n_users * n_items) if n_users and n_items else None,
        "repeated_user_item_events": _repeats(dataset),
        "top_tenth_items_share": _top_share(item_counts, 0.1),
        "popularity": {
            "top_shares": {f"{share:g}": _top_share(item_counts, share) for share in _TOP_SHARES},
            "gini": _gini(item_counts),
        },
        "events_per_user": _distribution(np.bincount(events.user, minlength=n_users)),
        "users_with_one_event": int((np.bincount(events.user, minlength=n_users) == 1).sum()),
        "has_ratings": events.rating is not None,
        "has_categories": dataset.catalog.categories is not None,
        "has_time": dataset.has_time,
        "time": _time_facts(dataset) if dataset.has_time and n_events else None,
        "titles": title_facts(dataset.catalog),
        "origin": None if origin is None else origin.model_dump(mode="json"),
    }
    if split is not None:
        lengths = history_lengths(split)
        result["split"] = {**split.facts, "fingerprint": split.fingerprint, "warnings": list(split.warnings)}
        result["split"]["history_lengths"] = {str(length): int(lengths[length]) for length in np.flatnonzero(lengths)}
    return result


def history_lengths(split: Split) -> np.ndarray:
    """Return int64: number of rows of all parts at each history length, from 0."""
    return np.bincount(np.concatenate([part.history_length for part in (split.train, split.valid, split.test)]))


def description_rows(description: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the description as (what, value) pairs, rounded for people."""
    titles, per_user, time = description["titles"], description["events_per_user"], description["time"]
    density = description["density"]
    shared = "; ".join(f"{title} ({count})" for title, count in titles["most_shared"])
    rows = [
        ("users", f"{description['users']:,}"),
        ("items", f"{description['items']:,} ({description['items_without_event']:,} without event)"),
        ("interactions", f"{description['interactions']:,}"),
        ("density", "-" if density is None else f"{100 * density:.4f}%"),
        ("events per user", "min {min:,}, median {median:g}, mean {mean:.2f}, max {max:,}".format(**per_user)),
        ("users with one event", f"{description['users_with_one_event']:,} (they give no row)"),
        ("events that repeat a user and item", f"{description['repeated_user_item_events']:,}"),
        ("events on the most popular items", _popularity_text(description["popularity"])),
        ("items without title", f"{titles['untitled']:,}"),
        ("titles of several items", f"{titles['shared_groups']:,}, shared by {titles['items_sharing']:,} items"),
        ("most shared titles", shared or "-"),
        ("titles with markup / HTML entities", f"{titles['with_markup']:,} / {titles['with_entities']:,}"),
        ("called in prompts", description["noun"]),
    ]
    if time:
        rows += [
            ("time", f"{time['from']} to {time['to']} (to the {time['resolution']})"),
            ("events tied with another of their user", f"{100 * time['tied_within_user_share']:.1f}%"),
        ]
    else:
        rows.append(("time", "order only"))
    rows += _split_rows(description.get("split"))
    rows += [("note", note) for note in description["notes"]]
    rows += [("source", description["source"]), ("fingerprint", description["fingerprint"])]
    return rows + _origin_rows(description["origin"])


def to_markdown(description: Mapping[str, Any]) -> str:
    """Return the description as a Markdown table."""
    cells = [(what, value.replace("|", "\\|").replace("\n", " ")) for what, value in description_rows(description)]
    lines = [f"| {description['name']} | |", "|---|---|", *(f"| {what} | {value} |" for what, value in cells)]
    return "\n".join(lines) + "\n"


def _popularity_text(popularity: Mapping[str, Any]) -> str:
    shares = popularity["top_shares"].items()
    texts = [f"{100 * events:.1f}% on {100 * float(items):g}% of the items" for items, events in shares]
    return ", ".join([*texts, f"Gini {popularity['gini']:.3f}"])


def _origin_rows(origin: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    if origin is None:
        return []
    rows = [("rules", f"{origin['mode']}: {origin['rules']}"), ("described at", origin["page"])]
    rows.append(("terms", origin["terms"]))
    for file in origin["files"]:
        where = file["url"] or "given with --from-dir"
        rows.append((f"raw file {file['name']}", f"{file['size_bytes']:,} bytes, SHA-256 {file['sha256']}, {where}"))
    return rows


def _split_rows(split: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    if split is None:
        return []
    rows = [("split", f"{split['strategy']}, histories up to {split['max_history']}")]
    for name, part in split["parts"].items():
        text = f"{part['rows']:,} rows of {part['users']:,} users"
        if part["rows"]:
            text += f", mean history {part['mean_history']:.2f}"
        if "from" in part:
            text += f", {part['from']} to {part['to']}"
        rows.append((name, text))
        if "unseen_users" in part:
            unseen = f"{part['rows_of_unseen_users']:,} rows of {part['unseen_users']:,} users, "
            unseen += f"{part['rows_on_unseen_items']:,} rows on {part['unseen_items']:,} items"
            rows.append((f"{name}: unseen in training", unseen))
    for name, boundary in split.get("boundaries", {}).items():
        tied = f"{boundary['tied_before']:,} rows of that instant before it, {boundary['tied_after']:,} behind"
        rows.append((f"boundary to {name}", f"row {boundary['row']:,}, {boundary['time']}, {tied}"))
    for name, limit in split.get("limits", {}).items():
        if isinstance(limit, Mapping):
            rows.append((f"limit on {name}", f"{limit['kept']:,} of {limit['of']:,} rows kept"))
    lengths = ", ".join(f"{length}: {count:,}" for length, count in split["history_lengths"].items())
    rows.append(("rows by history length", lengths))
    rows += [("warning", warning) for warning in split["warnings"]]
    rows.append(("split fingerprint", split["fingerprint"]))
    return rows


def _distribution(counts: np.ndarray) -> dict[str, Any]:
    if not len(counts):
        return {"min": 0, "median": 0.0, "mean": 0.0, "max": 0}
    return {
        "min": int(counts.min()),
        "median": float(np.median(counts)),
        "mean": float(counts.mean()),
        "max": int(counts.max()),
    }


def _top_share(item_counts: np.ndarray, share: float) -> float:
    """Return the share of the events on a share of the items (their number rounded up), the most popular ones."""
    # A product such as 0.1 * 30 lies a little above the whole number it means.
    n_top = int(np.ceil(round(share * len(item_counts), 6)))
    total = int(item_counts.sum())
    return float(np.sort(item_counts)[::-1][:n_top].sum() / total) if total else 0.0


def _gini(item_counts: np.ndarray) -> float:
    """Return the Gini coefficient of events over all items: 0 if all are equally popular, near 1 if one has all."""
    total, n_items = int(item_counts.sum()), len(item_counts)
    if not total:
        return 0.0
    rank = np.arange(1, n_items + 1)
    return float((2 * rank - n_items - 1) @ np.sort(item_counts) / (n_items * total))


def _repeats(dataset: Dataset) -> int:
    """Count the events whose user had the same item before."""
    events = dataset.interactions
    key = np.sort(events.user.astype(np.int64) * max(len(dataset.catalog), 1) + events.item)
    return int((key[1:] == key[:-1]).sum())


def _time_facts(dataset: Dataset) -> dict[str, Any]:
    user, time = dataset.interactions.user, dataset.interactions.timestamp
    same = (user[1:] == user[:-1]) & (time[1:] == time[:-1])
    tied = np.zeros(len(time), dtype=bool)
    tied[1:] |= same
    tied[:-1] |= same
    return {
        "from": iso_time(time.min()),
        "to": iso_time(time.max()),
        "resolution": "day" if not (time % _DAY_S).any() else "second",
        "distinct_times": int((np.diff(np.sort(time)) > 0).sum()) + 1,
        "tied_within_user_share": float(tied.mean()),
    }
