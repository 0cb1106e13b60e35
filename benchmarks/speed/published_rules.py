"""The D3/R3 preprocessing of Amazon 2018, stated word for word: one Python loop after another, nothing clever.

Written from the description of the rules (docs/datasets.md), as the baseline of the speed benchmark ``prepare`` and as
what the tests compare with. It holds all reviews in memory and goes through all of them again and again, as the
published program does. One thing differs from that program: months begin in UTC, not in this machine's time zone.
"""

from __future__ import annotations

import csv
import gzip
import json
import random
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

COLUMNS = (
    "user_id",
    "item_asins",
    "item_asin",
    "history_item_id",
    "item_id",
    "history_item_title",
    "item_title",
    "history_rating",
    "rating",
    "history_timestamp",
    "timestamp",
)


@dataclass
class Published:
    """What the preprocessing gives.

    Attributes:
        start: year and month at which the window begins.
        items: asins, in the order of their numbers.
        titles: their titles.
        rows: all rows in the order of time; values in the order of :data:`COLUMNS`.
    """

    start: tuple[int, int]
    items: list[str]
    titles: list[str]
    rows: list[list[Any]]

    @property
    def parts(self) -> dict[str, list[list[Any]]]:
        """Training, validation and test rows."""
        first, second = int(0.8 * len(self.rows)), int(0.9 * len(self.rows))
        return {"train": self.rows[:first], "valid": self.rows[first:second], "test": self.rows[second:]}

    def write(self, folder: Path, name: str) -> None:
        """Write the files of the published layout."""
        for part, rows in self.parts.items():
            (folder / part).mkdir(parents=True)
            with (folder / part / f"{name}.csv").open("w", encoding="utf-8", newline="") as stream:
                writer = csv.writer(stream)
                writer.writerow(COLUMNS)
                writer.writerows(rows)
        (folder / "info").mkdir()
        with (folder / "info" / f"{name}.txt").open("w", encoding="utf-8", newline="") as stream:
            for number, title in enumerate(self.titles):
                stream.write(f"{title}\t{number}\n")


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Read all lines of a plain or gzip file."""
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
        return [json.loads(line) for line in stream if line.strip()]


def prepare(
    reviews_path: Path,
    meta_path: Path,
    least_items: int = 5_000,
    core: int = 5,
    start: tuple[int, int] = (2017, 10),
    end: tuple[int, int] = (2018, 11),
) -> Published | None:
    """Apply the rules to raw files; None where the window would have to begin before 1996."""
    reviews, meta = read_json_lines(reviews_path), read_json_lines(meta_path)
    titles, dropped = good_titles(meta)
    for review in reviews:
        if review["asin"] not in titles:
            dropped.add(review["asin"])
    while start[0] >= 1996:
        kept = core_of_window(reviews, dropped, seconds(start), seconds(end), core, least_items, start[0])
        if start[0] == 1996 or count_items(kept) >= least_items:
            return rows_of(kept, titles, start)
        year, month = start[0], start[1] - 3
        if month < 1:
            year, month = year - 1, month + 12
        start = (year, month)
    return None


def seconds(month: tuple[int, int]) -> int:
    """Return the first second of a month."""
    return int(datetime(month[0], month[1], 1, tzinfo=timezone.utc).timestamp())


def good_titles(meta: list[dict[str, Any]]) -> tuple[dict[str, str], set[str]]:
    """Return the titles that are good, and the items with a bad row."""
    titles: dict[str, str] = {}
    dropped = set()
    for row in meta:
        if row.get("title") is None or "<span id" in row["title"]:
            dropped.add(row["asin"])
            continue
        title = row["title"].replace("&quot;", '"').replace("&amp;", "&").strip(" ").strip('"')
        if len(title) > 1 and len(title.split(" ")) <= 20:
            titles[row["asin"]] = title
        else:
            dropped.add(row["asin"])
    return titles, dropped


def core_of_window(
    reviews: list[dict[str, Any]], dropped: set[str], first: int, last: int, core: int, least_items: int, year: int
) -> list[dict[str, Any]]:
    """Go through all reviews until no user and no item has to be removed, or too few items are left."""
    removed_users: set[str] = set()
    removed_items = set(dropped)
    while True:
        kept = []
        users: dict[str, int] = {}
        items: dict[str, int] = {}
        for review in reviews:
            if int(review["unixReviewTime"]) < first or int(review["unixReviewTime"]) > last:
                continue
            if review["reviewerID"] in removed_users or review["asin"] in removed_items:
                continue
            users[review["reviewerID"]] = users.get(review["reviewerID"], 0) + 1
            items[review["asin"]] = items.get(review["asin"], 0) + 1
            kept.append(review)
        few_users = [user for user, count in users.items() if count < core]
        few_items = [item for item, count in items.items() if count < core]
        removed_users.update(few_users)
        removed_items.update(few_items)
        if not (few_users or few_items) or (year > 1996 and len(items) < least_items):
            return kept


def count_items(reviews: list[dict[str, Any]]) -> int:
    """Return how many different items are reviewed."""
    return len({review["asin"] for review in reviews})


def rows_of(reviews: list[dict[str, Any]], titles: dict[str, str], start: tuple[int, int]) -> Published:
    """Number the items and write down every next item with its history."""
    items = list(dict.fromkeys(review["asin"] for review in reviews))
    random.Random(42).shuffle(items)
    number = {item: place for place, item in enumerate(items)}
    of_user: dict[str, list[tuple[str, float, int]]] = {}
    for review in reviews:
        event = (review["asin"], review["overall"], review["unixReviewTime"])
        of_user.setdefault(review["reviewerID"], []).append(event)
    rows = []
    for user, events in of_user.items():
        events = sorted(events, key=lambda event: int(event[2]))
        for place in range(1, len(events)):
            history, target = events[max(place - 10, 0) : place], events[place]
            rows.append(
                [
                    user,
                    [event[0] for event in history],
                    target[0],
                    [number[event[0]] for event in history],
                    number[target[0]],
                    [titles[event[0]] for event in history],
                    titles[target[0]],
                    [event[1] for event in history],
                    target[1],
                    [event[2] for event in history],
                    target[2],
                ]
            )
    rows = sorted(rows, key=lambda row: int(row[-1]))
    return Published(start, items, [titles[item] for item in items], rows)
