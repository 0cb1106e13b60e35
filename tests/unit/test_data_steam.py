"""Steam: Python literals read without evaluating them, recbench's own rules, and lines that are wrong."""

from __future__ import annotations

import ast
import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recbench.contracts.errors import DataError
from recbench.data.sources import steam as module
from recbench.data.sources.steam import steam


def literal(record: dict[str, Any]) -> str:
    """Write a record as Python 2 writes it: ``u`` before texts, escapes for all that is not ASCII."""
    return "{" + ", ".join(f"u'{key}': {_value(value)}" for key, value in record.items()) + "}"


def _value(value: Any) -> str:
    if isinstance(value, str):
        return "u" + repr(value).encode("ascii", "backslashreplace").decode()
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return repr(value)


def review(user: str, game: str, date: str = "2017-03-01", **more: Any) -> dict[str, Any]:
    return {"username": user, "hours": 1.5, "product_id": game, "page_order": 0, "date": date, "text": "fine", **more}


def five_core() -> list[dict[str, Any]]:
    """Five users with five games each."""
    return [review(f"user {u}", str(100 + g), f"2017-03-{10 + g:02d}") for g in range(5) for u in range(5)]


GAMES = [{"id": str(100 + n), "title": f"Game {n}", "genres": ["Action", "Indie"]} for n in range(8)]


@pytest.fixture
def files(tmp_path: Path):
    def write(reviews: list[dict[str, Any]], games: list[dict[str, Any]] = GAMES) -> tuple[Path, Path]:
        paths = tmp_path / "steam_reviews.json.gz", tmp_path / "steam_games.json"
        paths[0].write_bytes(gzip.compress("".join(literal(record) + "\n" for record in reviews).encode()))
        paths[1].write_text("".join(literal(record) + "\n" for record in games))
        return paths

    return write


def test_by_hand(files) -> None:
    reviews = five_core()
    reviews += [review("user 0", "100", "2016-01-01"), review("user 1", "100", "2018-01-01")]  # repeats
    reviews += [review("user 2", "999"), review("rare", "100"), review("user 3", "105"), review(" ", "100")]
    dataset = steam(*files(reviews, [*GAMES[:6], {"id": "999", "title": ""}, {"title": "no id"}]))
    # Numbered by the first review that stays; the first one of "user 0" has an earlier one further down.
    assert dataset.users == ("user 1", "user 2", "user 3", "user 4", "user 0")
    assert sorted(dataset.catalog.ids) == ["100", "101", "102", "103", "104"]
    assert dataset.catalog.titles[dataset.catalog.number_of["103"]] == "Game 3"
    assert dataset.catalog.categories is not None
    assert set(dataset.catalog.categories) == {"Action | Indie"}
    assert dataset.catalog.noun == "games"
    assert len(dataset.interactions) == 25
    assert dataset.interactions.rating is None
    of_user_0 = dataset.interactions.timestamp[dataset.interactions.user == 4]
    assert np.datetime64(int(of_user_0[0]), "s") == np.datetime64("2016-01-01")
    assert dataset.interactions.timestamp.max() == np.datetime64("2017-03-14", "s").astype(int)
    for words in ("1 reviews have no user name", "2 of 30 reviews repeat", "1 reviews are of games without title"):
        assert words in dataset.source


def test_the_name_of_the_shop_stands_in_for_a_title(files) -> None:
    games = [{"id": 100 + n, "app_name": f"App {n}"} for n in range(5)]
    assert sorted(steam(*files(five_core(), games)).catalog.titles) == [f"App {n}" for n in range(5)]


TEXTS = st.text(max_size=20) | st.sampled_from(
    [
        "u'product_id': u'7'",
        "', u'product_id': u'7",
        "\", u'date': u'2001-01-01', u'x': \"",
        "\\",
        "\\'",
        "}\n{",
        "ü☺😀",
        "'\"",
    ]
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(TEXTS, TEXTS, st.permutations(range(6)), st.booleans()), min_size=1, max_size=20))
def test_the_fast_reader_agrees_with_python(rows: list[tuple[str, str, list[int], bool]], tmp_path: Path) -> None:
    """Whatever a user wrote into name or text, also what looks like another record's fields."""
    path = tmp_path / "reviews.json"
    lines = []
    for name, text, order, early in rows:
        pairs = list(review(name, "42", "2017-05-31", text=text, early_access=early).items())
        lines.append(literal(dict(pairs[at] for at in order if at < len(pairs)) | dict(pairs)))
    path.write_text("\n".join(lines) + "\n")
    expected = [ast.literal_eval(line) for line in lines]
    table = module._read_reviews(path)
    assert table["username"].to_pylist() == [record["username"] for record in expected]
    assert set(table["product_id"].to_pylist()) == {"42"}
    assert set(table["date"].to_pylist()) == {int(np.datetime64("2017-05-31").astype(int))}


def test_the_fast_reader_is_used(files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_read_reviews_by_line", None)
    odd = [review("O'Neil", "100", text="he said \"no\" and 'yes' \\ {x}, [y]: \u263a", user_id="7656", found_funny=3)]
    assert len(steam(*files(five_core() + odd)).interactions) == 25


def test_odd_records_are_read_one_by_one_among_the_others(files, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = steam(*files(five_core())).fingerprint
    monkeypatch.setattr(module, "_read_reviews_by_line", None)
    reviews = [{**record, "tags": ["a", "b"]} if at % 3 else record for at, record in enumerate(five_core())]
    assert steam(*files(reviews)).fingerprint == expected


WRONG = [
    ("{u'username': u'cut off", "line 26: not a Python dictionary"),
    ("[1, 2]", "line 26: not a Python dictionary"),
    ("__import__('os').system('true')", "line 26: not a Python dictionary"),
    (literal({"username": "a", "date": "2017-01-01"}), "line 26: no text under 'product_id'"),
    (literal(review("a", "100", "last May")), "line 26: the date 'last May' is none"),
    (literal(review("a", "100", "2017-02-30")), "line 26: the date '2017-02-30' is none"),
    ("{u'username': u'a', u'product_id': 7, u'date': u'2017-01-01'}", "line 26: no text under 'product_id'"),
]


@pytest.mark.parametrize(("line", "words"), WRONG, ids=[words for _, words in WRONG])
def test_wrong_lines_are_named(files, line: str, words: str) -> None:
    paths = files(five_core())
    paths[0].write_text("\n".join([*map(literal, five_core()), line, literal(review("b", "100"))]) + "\n")
    with pytest.raises(DataError, match=words) as error:
        steam(*paths)
    assert "steam_reviews" in error.value.message


def test_damaged_files_are_named(files) -> None:
    reviews, games = files(five_core())
    content = reviews.read_bytes()
    reviews.write_bytes(content[:-20])
    with pytest.raises(DataError, match="damaged gzip"):
        steam(reviews, games)
    reviews.write_bytes(gzip.compress(b"{u'username': u'\xff'}\n"))
    with pytest.raises(DataError, match="line 1: 0xff"):
        steam(reviews, games)
    reviews.write_bytes(content)
    games.write_text("{u'id': u'100', u'title'")
    with pytest.raises(DataError, match=r"steam_games.json, line 1: not a Python dictionary"):
        steam(reviews, games)
    games.write_text(literal({"id": "100", "title": "alone"}) + "\n")
    with pytest.raises(DataError, match="no user and game with 5 reviews each is left"):
        steam(reviews, games)
