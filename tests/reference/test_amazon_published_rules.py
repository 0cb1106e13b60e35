"""Amazon 2018 in reference mode against the published rules stated word for word, row by row and byte by byte."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers_amazon import DAY, World, day, random_world, review, rows_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.speed.published_rules import Published, core_of_window, prepare, seconds
from recbench.contracts.dataset import Dataset
from recbench.contracts.errors import DataError
from recbench.contracts.protocol import Protocol
from recbench.data.export import export_dataset
from recbench.data.sources.amazon import CATEGORIES, Resources, amazon_2018
from recbench.data.sources.amazon.window import CodedEvents, Month, WindowRule, find_window
from recbench.data.split import make_split
from recbench.data.store import save_dataset

TOYS = CATEGORIES["toys"]


def ours(reviews: Path, meta: Path, scratch: Path, least_items: int, threads: int = 2) -> Dataset:
    resources = Resources(256 << 20, threads)
    return amazon_2018(TOYS, reviews, meta, scratch=scratch, least_items=least_items, resources=resources)


def assert_equal(dataset: Dataset, published: Published, folder: Path) -> None:
    """Compare items, titles and every row, and the exported files byte by byte."""
    assert list(dataset.catalog.ids) == published.items
    assert list(dataset.catalog.titles) == published.titles
    assert f"window {Month(*published.start)} to 2018-11" in dataset.source
    assert rows_of(dataset) == published.parts
    published.write(folder / "published", "toys")
    export_dataset(dataset, folder / "ours", "d3-csv", make_split(dataset, Protocol()))
    files = [file for file in (folder / "published").rglob("*") if file.is_file()]
    assert len(files) == 4
    for file in files:
        assert (folder / "ours" / file.relative_to(folder / "published")).read_bytes() == file.read_bytes(), file


def trap_world() -> World:
    """Return a world in which every trap decides about something, and the window starts in July 2016."""
    world = World()
    titles: dict[str, list[str | None]] = {
        "plain": ["A plain title"],
        "quoted": [' "&quot;Hits&quot; &amp; more" '],
        "twenty": [" ".join("w" * 20)],
        "class": ['<span class="a-size'],
        "last": ["First title", "Second title"],
        "lines": ["two\nlines, and a comma"],
        "same": ["A plain title"],
        # Not one of these is kept.
        "onechar": ['"x"'],
        "twentyone": [" ".join("w" * 21)],
        "doubled": [" ".join("w" * 19) + "  w"],
        "span": ['<span id="x">'],
        "untitled": [None],
        "good-bad": ["Good title", "x"],
        "bad-good": [None, "Good title"],
    }
    for asin, rows in titles.items():
        world.meta += [{"asin": asin} if title is None else {"asin": asin, "title": title} for title in rows]
    kept = list(titles)[:7]
    # Users whose five events reach back into July 2016: with fewer months there are too few items.
    for number in range(5):
        for place, item in enumerate(kept):
            world.reviews.append(review(f"early{number}", item, day(2016, 7) + DAY * (place % 3), 1.0 + number % 5))
    # On the very first and last second of the window, and one second outside it.
    for time_, user in ((day(2016, 7), "first"), (day(2018, 11), "end")):
        world.reviews += [review(user, item, time_) for item in reversed(kept[:5])]
    world.reviews += [review("late", item, day(2018, 11) + 1) for item in kept]
    world.reviews += [review("before", item, day(2016, 7) - 1) for item in kept]
    # Five events of one pair: enough for the user, because repeated events count.
    world.reviews += [review("repeats", "plain", day(2018, 1, 2), float(rating)) for rating in (1, 2, 3, 4, 5)]
    # Four kept events and one of a dropped item: not enough. Then one that fails only because this one fails.
    world.reviews += [review("edge", item, day(2018, 2)) for item in (*kept[:4], "span")]
    world.reviews += [review(f"u{n}", "chain", day(2018, 3)) for n in range(4)] + [
        review("edge", "chain", day(2018, 3))
    ]
    world.meta.append({"asin": "chain", "title": "Needs the user edge"})
    for item in list(titles)[7:]:
        world.reviews += [review(f"early{number}", item, day(2018, 1)) for number in range(5)]
    return world


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_every_trap(suffix: str, tmp_path: Path) -> None:
    reviews, meta = trap_world().write(tmp_path / "raw", suffix)
    published = prepare(reviews, meta, least_items=7)
    assert published is not None
    assert published.start == (2016, 7)
    assert sorted(published.items) == ["class", "last", "lines", "plain", "quoted", "same", "twenty"]
    users = {row[0] for row in published.rows}
    assert users == {"early0", "early1", "early2", "early3", "early4", "first", "end", "repeats"}
    assert "Second title" in published.titles
    assert 'Hits" & more' in published.titles
    assert_equal(ours(reviews, meta, tmp_path / "scratch", 7), published, tmp_path)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10**6),
    n_users=st.integers(20, 120),
    n_items=st.integers(15, 60),
    least_share=st.floats(0.2, 1.2),
    mean_days=st.sampled_from([60.0, 400.0, 2500.0]),
)
def test_small_worlds(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    n_users: int,
    n_items: int,
    least_share: float,
    mean_days: float,
) -> None:
    folder = tmp_path_factory.mktemp("world")
    world = random_world(seed, n_users, n_items, 12 * n_users, mean_days)
    reviews, meta = world.write(folder / "raw")
    least_items = int(least_share * n_items)
    published = prepare(reviews, meta, least_items=least_items)
    assert published is not None
    if not published.rows:
        with pytest.raises(DataError, match=r"no item is left|no user has 5 reviews"):
            ours(reviews, meta, folder / "scratch", least_items)
        return
    assert_equal(ours(reviews, meta, folder / "scratch", least_items), published, folder)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n_reviews=st.integers(1, 400),
    core=st.integers(1, 6),
    least_items=st.integers(1, 30),
    start=st.tuples(st.integers(1996, 2018), st.integers(1, 10)),
)
def test_windows_and_cores(seed: int, n_reviews: int, core: int, least_items: int, start: tuple[int, int]) -> None:
    """The same without files, so many more cases: any first month, any core, windows over the turn of many years."""
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, 25, n_reviews), rng.integers(0, 25, n_reviews)
    days = rng.integers(0, 365 * 24, n_reviews) * DAY + day(1995, 1)
    reviews = [
        {"reviewerID": f"{u}", "asin": f"{i}", "unixReviewTime": int(t)}
        for u, i, t in zip(user, item, days, strict=True)
    ]
    wanted, month = [], start
    while True:
        wanted = core_of_window(reviews, set(), seconds(month), seconds((2018, 11)), core, least_items, month[0])
        if month[0] == 1996 or len({review["asin"] for review in wanted}) >= least_items:
            break
        year, number = divmod(month[0] * 12 + month[1] - 1 - 3, 12)
        month = (year, number + 1)
    coded = CodedEvents(user.astype(np.int32), item.astype(np.int32), days, np.ones(n_reviews, np.float32))
    rule = WindowRule(Month(*start), Month(2018, 11), least_items, core)
    if not wanted:
        with pytest.raises(DataError, match="no item is left"):
            find_window(coded, rule, "reviews")
        return
    found, kept = find_window(coded, rule, "reviews")
    assert found == Month(*month)
    assert [reviews[place] for place in kept] == wanted


def test_the_same_in_every_time_zone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reviews, meta = trap_world().write(tmp_path)
    published = prepare(reviews, meta, least_items=7)
    assert published is not None
    try:
        for place, zone in enumerate(("UTC", "Asia/Tokyo", "America/Los_Angeles")):
            monkeypatch.setenv("TZ", zone)
            time.tzset()
            dataset = ours(reviews, meta, tmp_path / f"scratch{place}", 7)
            assert rows_of(dataset) == published.parts, zone
    finally:
        monkeypatch.undo()
        time.tzset()


def test_the_same_bytes_again_and_from_packed_files(tmp_path: Path) -> None:
    world = random_world(5, 80, 40, 1500)
    folders = []
    for number, (suffix, threads) in enumerate((("", 1), (".gz", 2))):
        reviews, meta = world.write(tmp_path / f"raw{number}", suffix)
        dataset = replace(ours(reviews, meta, tmp_path / f"scratch{number}", 10, threads), name="toys")
        folders.append(save_dataset(dataset, tmp_path / f"stored{number}"))
    files = sorted(file.name for file in folders[0].iterdir())
    assert files == ["dataset.json", "interactions.parquet", "items.parquet", "users.parquet"]
    for name in files:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name
