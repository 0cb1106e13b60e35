"""Cleaning titles and counting what is wrong with them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbench.contracts.dataset import ItemCatalog
from recbench.data.text import clean_title, guess_noun, title_facts


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("  plain  ", "plain"),
        ("two \r\n\t lines", "two lines"),
        ("a\u2028b\x85c\x0bd", "a b c d"),
        ("double  blanks stay", "double  blanks stay"),
        ("A &amp; B", "A &amp; B"),
        ("\n", ""),
    ],
)
def test_clean_title(title: str, expected: str) -> None:
    assert clean_title(title) == expected


def test_entities_are_turned_into_characters_on_request() -> None:
    assert clean_title("A &amp; B&nbsp;", unescape_html=True) == "A & B"
    assert clean_title("A&#10;B", unescape_html=True) == "A B"


@given(st.text())
def test_cleaning_twice_changes_nothing_more(title: str) -> None:
    cleaned = clean_title(title)
    assert clean_title(cleaned) == cleaned
    assert len(cleaned.splitlines()) <= 1


@pytest.mark.parametrize(
    ("names", "noun"),
    [
        (["CDs_and_Vinyl_5.csv"], "musics"),
        (["Toys_and_Games"], "toys and games"),
        (["steam_games"], "games"),
        (["x", "Video_Games"], "video games"),
        (["ml-1m"], "movies"),
        (["x"], None),
    ],
)
def test_guess_noun(names: list[str], noun: str | None) -> None:
    assert guess_noun(names) == noun


def test_title_facts_by_hand() -> None:
    titles = ("Hits", '"Hits" ', "Hits", "Other", "Other", "", "", "<b>x", "R&amp;B", "a < b & c")
    facts = title_facts(ItemCatalog(tuple(map(str, range(len(titles)))), titles))
    assert facts["untitled"] == 2
    assert facts["shared_groups"] == 2
    assert facts["items_sharing"] == 5
    assert facts["most_shared"] == [["Hits", 3], ["Other", 2]]
    assert facts["with_markup"] == 1
    assert facts["with_entities"] == 1
    assert facts["examples"] == ["<b>x", "R&amp;B"]
