"""Generated raw files in the schema of Amazon 2018, of any size, for the benchmark ``prepare``.

Like the real ones: reviews go item by item, times are whole days that grow denser towards 2018, a few items and users
have most of the reviews, texts are long and hold escapes, some titles are bad, and the window has to move back a few
times (five times at 2 million lines; for the paper it did so eight times for CDs and three times for toys).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_DAY = 86_400
_LAST_DAY = 17_806  # 2018-10-02, days since 1970
_CHUNK_LINES = 100_000
_WORDS = ("the", "album", "caf\u00e9", '"classic"', "with", "music", "\\", "love", "it's", "track", "of", "and")


@dataclass(frozen=True)
class RawFiles:
    """Where they lie.

    Attributes:
        reviews, meta: the two files.
        least_items: items that a window should leave, in proportion to the size (5,000 for 2 million reviews).
    """

    reviews: Path
    meta: Path
    least_items: int


def write_raw_files(folder: Path, n_reviews: int, seed: int = 0) -> RawFiles:
    """Write ``reviews.json`` with that many lines and the ``meta.json`` that belongs to it, in chunks."""
    rng = np.random.default_rng(seed)
    n_items, n_users = max(n_reviews // 20, 50), max(n_reviews // 3, 50)
    files = RawFiles(folder / "reviews.json", folder / "meta.json", max(n_reviews // 400, 20))
    share = rng.pareto(1.2, n_items) + 0.2
    per_item = rng.multinomial(n_reviews, share / share.sum())
    with files.reviews.open("w", encoding="ascii") as stream:
        for lines in _review_chunks(rng, np.repeat(np.arange(n_items), per_item), n_users):
            stream.write(lines)
    with files.meta.open("w", encoding="ascii") as stream:
        stream.writelines(_meta_lines(rng, n_items))
    return files


def _review_chunks(rng: np.random.Generator, item: np.ndarray, n_users: int) -> Iterator[str]:
    texts = [json.dumps(" ".join(rng.choice(_WORDS, size))) for size in rng.integers(5, 150, 500)]
    summaries = [json.dumps(" ".join(rng.choice(_WORDS, 4))) for _ in range(500)]
    for start in range(0, len(item), _CHUNK_LINES):
        chunk = item[start : start + _CHUNK_LINES]
        size = len(chunk)
        # Active users have low numbers; ids are scattered so that they look like real ones.
        user = (n_users * rng.random(size) ** 2.5).astype(np.int64) * 7_919 % 10_000_000_019
        day = _LAST_DAY - rng.exponential(1_500, size).astype(np.int64).clip(0, 8_000)
        rating = rng.choice([1, 2, 3, 4, 5], size, p=[0.05, 0.05, 0.1, 0.2, 0.6])
        pick = rng.integers(0, 500, (2, size))
        columns = (rating, user, chunk, pick[0], pick[1], day * _DAY)
        yield "".join(
            f'{{"overall": {stars}.0, "verified": true, "reviewTime": "10 2, 2018", "reviewerID": "A{who:013d}", '
            f'"asin": "B{what:09d}", "style": {{"Format:": " Audio CD"}}, "reviewerName": "A customer", '
            f'"reviewText": {texts[text]}, "summary": {summaries[summary]}, "unixReviewTime": {time}}}\n'
            for stars, who, what, text, summary, time in zip(*(column.tolist() for column in columns), strict=True)
        )


def _meta_lines(rng: np.random.Generator, n_items: int) -> Iterator[str]:
    good = np.array(["title"] * 90 + ["span", "missing", "long", "short", "entity", "twice", "class"] + ["title"] * 3)
    kind = rng.choice(good, n_items)
    for item in rng.permutation(n_items).tolist():
        title = f"Album {item} &amp; friends"
        titles: dict[str, list[str | None]] = {
            "span": [f'<span id="{item}">'],
            "missing": [None],
            "long": ["w " * 20 + "w"],
            "short": ["x"],
            "entity": [f'"&quot;{title}&quot;" '],
            "twice": [title, f"{title}, again"],
            "class": ['<span class="a-size'],
        }
        for text in titles.get(str(kind[item]), [title]):
            row = {
                "category": ["CDs & Vinyl", "Pop"],
                "description": ["An album of songs. " * 12],
                **({} if text is None else {"title": text}),
                "also_buy": [f"B{item + other:09d}" for other in range(12)],
                "brand": "Somebody",
                "rank": f"{item:,} in CDs & Vinyl",
                "price": "$9.99",
                "asin": f"B{item:09d}",
            }
            yield json.dumps(row) + "\n"
