"""The rules for titles, case by case: what the published ones keep, and what strict ones mend."""

from __future__ import annotations

import pytest

from recbench.data.sources.amazon.titles import published_title, published_title_2023, strict_title

TWENTY = " ".join("w" * 20)

# title, published, strict
CASES = [
    (None, None, None),
    ("", None, None),
    ("x", None, None),
    ("xy", "xy", "xy"),
    ('"x"', None, None),
    (' "xy" ', "xy", "xy"),
    ('" xy "', " xy ", "xy"),
    ('"" xy', " xy", "xy"),
    ("&quot;xy&quot;", "xy", "xy"),
    ("a &amp; b", "a & b", "a & b"),
    ("&amp;quot;a&amp;quot;", "&quot;a&quot;", "&quot;a&quot;"),
    ("D&eacute;j&agrave; vu", "D&eacute;j&agrave; vu", "Déjà vu"),
    ('<span id="x">', None, None),
    ('A <span id="x">', None, None),
    ('<span class="a-size', '<span class="a-size', None),
    ("&lt;b&gt;bold", "&lt;b&gt;bold", None),
    ("I <3 it", "I <3 it", "I <3 it"),
    (TWENTY, TWENTY, TWENTY),
    (TWENTY + " w", None, None),
    ("w  " + TWENTY[2:], None, "w  " + TWENTY[2:]),
    ("two\nlines", "two\nlines", "two lines"),
    ("\txy\n", "\txy\n", "xy"),
]


@pytest.mark.parametrize(("title", "published", "strict"), CASES)
def test_titles(title: str | None, published: str | None, strict: str | None) -> None:
    assert published_title(title) == published
    assert strict_title(title) == strict


def test_titles_of_2023_become_plain_ascii_on_one_line() -> None:
    assert published_title_2023("Caf&eacute;  <i>del</i>\nMar") == "Caf  del Mar"
    assert published_title_2023("x") is None
    assert published_title_2023(TWENTY + " w") is None
