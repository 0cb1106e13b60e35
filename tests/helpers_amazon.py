"""Small raw files in the schema of the Amazon releases, and the rows that a data set's default split gives."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from recbench.contracts.dataset import Dataset
from recbench.contracts.protocol import Protocol
from recbench.data.split import make_split

DAY = 86_400


def day(year: int, month: int, number: int = 1) -> int:
    """Return the first second of a day in UTC."""
    return int(datetime(year, month, number, tzinfo=timezone.utc).timestamp())


def review(user: str, item: str, time: int, rating: float = 5.0, **more: Any) -> dict[str, Any]:
    """Return a review of 2014 or 2018 with the fields around the wanted ones that real files have."""
    return {
        "overall": rating,
        "verified": True,
        "reviewTime": "10 1, 2018",
        "reviewerID": user,
        "asin": item,
        "style": {"Format:": " Audio CD"},
        "reviewText": 'Grüße, "quoted" \\ and {braces}',
        "unixReviewTime": time,
        **more,
    }


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write JSON lines, gzip where the name says so."""
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@dataclass
class World:
    """Raw rows of a category of 2018."""

    reviews: list[dict[str, Any]] = field(default_factory=list)
    meta: list[dict[str, Any]] = field(default_factory=list)

    def write(self, folder: Path, suffix: str = "") -> tuple[Path, Path]:
        """Write the reviews and the metadata, with ``.gz`` as suffix packed."""
        folder.mkdir(parents=True, exist_ok=True)
        return (
            write_lines(folder / f"reviews.json{suffix}", self.reviews),
            write_lines(folder / f"meta.json{suffix}", self.meta),
        )


#: Titles with what can go wrong; which of them are good is the business of the rules.
TITLES: Sequence[str | None] = (
    None,
    "",
    "x",
    '"x"',
    " xy ",
    '"A title in quotes"',
    '" blank inside the quotes "',
    "double  blank",
    "&quot;Quoted&quot; &amp; joined",
    "&amp;quot;twice&amp;quot;",
    "D&eacute;j&agrave; vu",
    "Don&#39;t",
    '<span id="productTitle" class="x">',
    'ends with <span id="x',
    '<span class="a-size-medium',
    "I <3 it",
    " ".join(["w"] * 20),
    " ".join(["w"] * 21),
    " ".join(["w"] * 19) + "  w",
    "a, comma",
    "two\nlines",
    "Größe \U0001f3b5",
    "Greatest Hits",
    "Greatest Hits",
)


def random_world(seed: int, n_users: int, n_items: int, n_reviews: int, mean_days: float = 400.0) -> World:
    """Return a world with whole-day times that thin out into the past, popular and rare items, and bad titles.

    The last reviews fall on and after the first of November 2018, where the window of the paper ends.
    """
    rng = random.Random(seed)
    world = World()
    for number in range(n_items):
        title = rng.choice(TITLES) if rng.random() < 0.4 else f"Item {number}"
        row: dict[str, Any] = {"asin": f"B{number:03d}", "brand": "b", "also_buy": ["B1"]}
        world.meta.append(row if title is None else {**row, "title": title})
        if rng.random() < 0.1:
            world.meta.append({"asin": f"B{number:03d}", "title": rng.choice(TITLES[1:])})
    rng.shuffle(world.meta)
    for _ in range(n_reviews):
        time = max(day(2018, 11, 2) - DAY * int(rng.expovariate(1 / mean_days)), day(1996, 1))
        user, item = f"A{rng.randrange(n_users)}", f"B{int(rng.random() ** 2 * n_items * 1.1):03d}"
        row = review(user, item, time, float(rng.randint(1, 5)))
        world.reviews += [row] * (2 if rng.random() < 0.03 else 1)
    return world


def rows_of(dataset: Dataset) -> dict[str, list[list[Any]]]:
    """Return the rows of the default split, part by part, in the published order of columns."""
    split = make_split(dataset, Protocol())
    events, catalog = dataset.interactions, dataset.catalog
    found: dict[str, list[list[Any]]] = {}
    index = {}
    for event in range(len(events)):
        place = event - int((events.user[:event] < events.user[event]).sum())
        index[int(events.user[event]), place] = event
    seen: dict[int, int] = {}
    for part in ("train", "valid", "test"):
        rows = getattr(split, part)
        found[part] = []
        for row in range(len(rows)):
            user = int(rows.user[row])
            seen[user] = seen.get(user, 0) + 1
            target = index[user, seen[user]]
            past = range(target - len(rows.history(row)), target)
            items = rows.history(row).tolist()
            answer = int(rows.target[row])
            assert events.rating is not None
            assert [int(events.item[event]) for event in (*past, target)] == [*items, answer]
            found[part].append(
                [
                    dataset.users[user],
                    [catalog.ids[item] for item in items],
                    catalog.ids[answer],
                    items,
                    answer,
                    [catalog.titles[item] for item in items],
                    catalog.titles[answer],
                    [float(events.rating[event]) for event in past],
                    float(events.rating[target]),
                    [int(events.timestamp[event]) for event in past],
                    int(rows.timestamp[row]),
                ]
            )
    return found
