"""The three releases end to end on small raw files: what each keeps, how it numbers, and what it says."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_amazon import DAY, World, day, random_world, review, write_lines

from recbench.contracts.errors import DataError
from recbench.contracts.protocol import Protocol
from recbench.data.build import RawEvents, RawItems, build_dataset
from recbench.data.checks import check_dataset
from recbench.data.sources.amazon import (
    CATEGORIES,
    CATEGORIES_2014,
    CATEGORIES_2023,
    Resources,
    amazon_2014,
    amazon_2018,
    amazon_2023,
)
from recbench.data.sources.amazon.categories import PaperSizes
from recbench.data.split import default_strategy, make_split
from recbench.data.tables import open_table, read_columns

SMALL = Resources(256 << 20, 1)


def test_the_table_of_categories() -> None:
    toys = CATEGORIES["toys"]
    assert (toys.raw_name, toys.noun) == ("Toys_and_Games", "toys and games")
    assert toys.reviews == ("Toys_and_Games_5.json.gz", "Toys_and_Games.json.gz")
    assert toys.meta == "meta_Toys_and_Games.json.gz"
    assert (str(toys.start), str(toys.end), str(toys.known_start)) == ("2017-10", "2018-11", "2017-01")
    assert toys.paper == PaperSizes(items=6_299, rows=53_898 + 6_737 + 6_738)
    assert {name for name, category in CATEGORIES.items() if category.paper} == {"toys", "cds", "games", "instruments"}
    assert [CATEGORIES[name].noun for name in ("cds", "games", "instruments", "grocery")] == [
        "musics",
        "video games",
        "music instruments",
        "grocery and gourmet food",
    ]
    for table in (CATEGORIES, CATEGORIES_2014, CATEGORIES_2023):
        assert all(name == category.name for name, category in table.items())


def test_strict_rules_mend_what_the_published_ones_do(tmp_path: Path) -> None:
    world = World()
    titles = {"a": "D&eacute;j&agrave;", "b": "Bee", "c": "Sea", "d": "Dee", "e": "Eee", "junk": '<span class="x'}
    world.meta = [{"asin": asin, "title": title} for asin, title in titles.items()]
    world.meta.append({"asin": "b"})  # one bad row beside a good one
    for number in range(6):
        for place, item in enumerate(titles):
            world.reviews.append(review(f"u{number}", item, day(2018, 1) + DAY * (number + place)))
        world.reviews.append(review(f"u{number}", "a", day(2018, 2), 1.0))  # a again
    world.reviews += [review("end", item, day(2018, 11)) for item in titles]
    reviews, meta = world.write(tmp_path)
    made = {
        mode: amazon_2018(
            CATEGORIES["cds"],
            reviews,
            meta,
            scratch=tmp_path / "s",
            mode=mode,
            least_items=5,
            resources=SMALL,
        )
        for mode in ("reference", "strict")
    }
    published, strict = made["reference"], made["strict"]
    assert (published.name, strict.name) == ("cds", "cds-strict")
    assert sorted(published.catalog.titles) == ['<span class="x', "D&eacute;j&agrave;", "Dee", "Eee", "Sea"]
    assert sorted(strict.catalog.titles) == ["Bee", "Dee", "Déjà", "Eee", "Sea"]
    assert "end" in published.users
    assert "end" not in strict.users
    assert len(published.interactions) == 6 * 6 + 5
    assert len(strict.interactions) == 6 * 5
    pairs = list(zip(strict.interactions.user.tolist(), strict.interactions.item.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    check_dataset(strict)
    assert default_strategy(published) == "global-time"
    assert default_strategy(strict) == "provided"
    split = make_split(strict, Protocol(split="provided"))
    assert split.train.timestamp.max() < split.valid.timestamp.min()
    assert split.valid.timestamp.max() < split.test.timestamp.min()


def test_sizes_are_compared_with_the_paper_under_the_papers_rules_only(tmp_path: Path) -> None:
    reviews, meta = random_world(3, 60, 25, 900).write(tmp_path)
    few = amazon_2018(CATEGORIES["toys"], reviews, meta, scratch=tmp_path / "s", least_items=5, resources=SMALL)
    assert not few.notes
    # With 5,000 items wanted the window goes back to 1996, where any number will do.
    made = amazon_2018(CATEGORIES["toys"], reviews, meta, scratch=tmp_path / "s", resources=SMALL)
    items, rows = len(made.catalog), len(made.interactions) - len(made.users)
    assert made.notes == (
        f"even the widest window leaves {items} items, where the rules want 5,000",
        f"{items:,} items and {rows:,} rows, where table 3 of the LatentR3 paper has 6,299 and 67,373",
    )
    as_known = replace(CATEGORIES["toys"], paper=PaperSizes(items, rows))
    right = amazon_2018(as_known, reviews, meta, scratch=tmp_path / "s", resources=SMALL)
    assert right.notes == made.notes[:1]
    assert "as many items and rows as in table 3" in right.source
    assert right.fingerprint == made.fingerprint


def test_left_out_lines_are_noted(tmp_path: Path) -> None:
    reviews, meta = random_world(3, 60, 25, 900).write(tmp_path)
    reviews.write_bytes(reviews.read_bytes() + b"not a line\n")
    with pytest.raises(DataError, match=r"reviews\.json, line \d+: it is not valid JSON"):
        amazon_2018(CATEGORIES["toys"], reviews, meta, scratch=tmp_path / "s", least_items=5, resources=SMALL)
    dataset = amazon_2018(
        CATEGORIES["toys"],
        reviews,
        meta,
        scratch=tmp_path / "s",
        least_items=5,
        resources=SMALL,
        skip_bad_lines=1,
    )
    assert dataset.notes[0].startswith("bad lines of reviews.json left out: 1 (line ")


def test_metadata_of_another_category(tmp_path: Path) -> None:
    reviews, _ = random_world(3, 60, 25, 900).write(tmp_path)
    meta = write_lines(tmp_path / "other.json", [{"asin": "X1", "title": "Unknown"}])
    with pytest.raises(DataError, match=r"no user has 5 reviews of items with a title") as caught:
        amazon_2018(CATEGORIES["toys"], reviews, meta, scratch=tmp_path / "s", resources=SMALL)
    assert "belong together" in str(caught.value.hint)


def test_a_preparation_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    reviews, meta = random_world(3, 60, 25, 900).write(tmp_path)
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    with pytest.raises(DataError, match="cut in half"):
        amazon_2018(CATEGORIES["toys"], reviews, broken, scratch=tmp_path / "s", least_items=5, resources=SMALL)
    (staged,) = (tmp_path / "s").glob("*.parquet")
    before = staged.stat().st_mtime_ns
    amazon_2018(CATEGORIES["toys"], reviews, meta, scratch=tmp_path / "s", least_items=5, resources=SMALL)
    assert staged.stat().st_mtime_ns == before
    left = sorted(file.suffix for file in (tmp_path / "s").iterdir())
    assert left == [".json", ".json", ".parquet", ".parquet"]


def test_two_at_once_do_not_harm_each_other(tmp_path: Path) -> None:
    reviews, meta = random_world(3, 60, 25, 900).write(tmp_path)

    def make(_: int) -> str:
        category = CATEGORIES["toys"]
        return amazon_2018(category, reviews, meta, scratch=tmp_path / "s", least_items=5, resources=SMALL).fingerprint

    with ThreadPoolExecutor(3) as pool:
        assert len(set(pool.map(make, range(3)))) == 1
    assert len(list((tmp_path / "s").iterdir())) == 4


def python_lines(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(f"{row!r}\n" for row in rows), encoding="utf-8")
    return path


def test_2014(tmp_path: Path) -> None:
    rows = [
        review("u2", "b", 300, 4.0),
        review("u1", "c", 200, 1.0),
        review("u1", "b", 100, 2.0),
        review("u2", "a", 300, 5.0),
        review("u2", "a", 300, 5.0),
    ]
    meta = [
        {"asin": "unused", "title": "Never reviewed"},
        {"asin": "a", "title": "An old title"},
        {"asin": "a", "title": "A &amp; B\n", "categories": [["Beauty", "Makeup"], ["Gifts"]], "price": 1.5},
        {"asin": "b", "title": "It's", "imUrl": "http://x"},
    ]
    dataset = amazon_2014(
        CATEGORIES_2014["beauty-2014"],
        write_lines(tmp_path / "reviews.json.gz", rows),
        python_lines(tmp_path / "meta.json", meta),
        scratch=tmp_path / "s",
        resources=SMALL,
    )
    check_dataset(dataset)
    assert dataset.name == "beauty-2014"
    assert dataset.users == ("u2", "u1")
    assert dataset.catalog.ids == ("b", "c", "a")
    assert dataset.catalog.titles == ("It's", "", "A &amp; B")
    assert dataset.catalog.categories == ("", "", "Beauty > Makeup | Gifts")
    assert dataset.catalog.noun == "beauty"
    events = dataset.interactions
    assert events.user.tolist() == [0, 0, 0, 1, 1]
    assert events.item.tolist() == [0, 2, 2, 0, 1]
    assert events.timestamp.tolist() == [300, 300, 300, 100, 200]
    assert events.rating is not None
    assert events.rating.tolist() == [4, 5, 5, 2, 1]
    assert "1 of 3 items in meta.json have no title" in dataset.source


def test_2014_on_real_reviews(shared: Path, tmp_path: Path) -> None:
    """Beauty, written back into the form of its raw files: the same data set as from its tables."""
    folder = shared / "data" / "beauty_2014"
    table = read_columns(open_table(folder / "interactions.tsv.gz"), ("user_id", "item_id", "timestamp"))
    users, items, times = (table[name].to_pylist() for name in ("user_id", "item_id", "timestamp"))
    catalog = read_columns(open_table(folder / "items.jsonl.gz"), ("item_id", "title"))
    known = dict(zip(catalog["item_id"].to_pylist(), catalog["title"].to_pylist(), strict=True))
    order = list(dict.fromkeys(items))
    rows = (review(user, item, int(time)) for user, item, time in zip(users, items, times, strict=True))
    dataset = amazon_2014(
        CATEGORIES_2014["beauty-2014"],
        write_lines(tmp_path / "reviews.json", rows),
        python_lines(tmp_path / "meta.json", ({"asin": item, "title": title} for item, title in known.items())),
        scratch=tmp_path / "s",
        resources=SMALL,
    )
    expected = build_dataset(
        "beauty",
        RawEvents("interactions.tsv.gz", table["user_id"], table["item_id"], table["timestamp"]),
        RawItems("items.jsonl.gz", order, [known[item] for item in order]),
        source="",
    )
    assert len(dataset.interactions) == 198_502
    assert dataset.users == expected.users
    assert dataset.catalog.ids == expected.catalog.ids
    assert dataset.catalog.titles == expected.catalog.titles
    for column in ("user", "item", "timestamp"):
        assert np.array_equal(getattr(dataset.interactions, column), getattr(expected.interactions, column)), column


def test_2023(tmp_path: Path) -> None:
    header = "user_id,parent_asin,rating,timestamp"
    ratings = [
        ("u1", "b", 5.0, day(2023, 1) * 1000 + 2),
        ("u2", "a", 4.0, day(2022, 11) * 1000),
        ("u1", "a", 3.0, day(2023, 1) * 1000 + 1),
        ("u1", "free", 3.0, day(2023, 1) * 1000),
        ("u1", "long", 3.0, day(2023, 1) * 1000),
        ("u1", "c", 2.0, day(2022, 8) * 1000),
        ("u3", "a", 2.0, day(2023, 10) * 1000),
        ("u3", "c", 2.0, day(2021, 1) * 1000),
    ]
    lines = [",".join(map(str, row)) for row in ratings]
    path = tmp_path / "Video_Games.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    meta = write_lines(
        tmp_path / "meta.jsonl",
        [
            {"parent_asin": "c", "title": "Sea", "price": 3},
            {"parent_asin": "a", "title": "Caf&eacute; <b>bar</b>", "price": 12.99},
            {"parent_asin": "b", "title": "Bee", "price": "7.5"},
            {"parent_asin": "free", "title": "No price", "price": None},
            {"parent_asin": "long", "title": " ".join("w" * 21), "price": 1.0},
            {"parent_asin": "dash", "title": "Dash", "price": "—"},
        ],
    )

    def make(least_items: int) -> Any:
        category = CATEGORIES_2023["games-2023"]
        return amazon_2023(category, path, meta, scratch=tmp_path / "s", least_items=least_items, resources=SMALL)

    two = make(2)
    check_dataset(two)
    assert "window 2022-10 to 2023-10" in two.source
    assert two.catalog.ids == ("a", "b")
    assert two.catalog.titles == ("Caf  bar", "Bee")
    assert two.users == ("u1", "u2")
    assert two.interactions.item.tolist() == [0, 1, 0]  # by milliseconds
    assert two.interactions.timestamp.tolist() == [day(2023, 1), day(2023, 1), day(2022, 11)]
    three = make(3)
    assert "window 2022-07 to 2023-10" in three.source
    assert three.catalog.ids == ("c", "a", "b")
    # The first rating is of 2021, where the window stops whatever it holds.
    nine = make(9)
    assert "window 2021-10 to 2023-10" in nine.source
    assert nine.notes == ("even the widest window leaves 3 items, where the rules want 9",)
    assert not three.notes
