"""Which titles are good enough, and how they are cleaned. One function per rule; None: the item is dropped."""

from __future__ import annotations

import html
import re

from recbench.data.text import clean_title

#: A title has at most this many words, and more than one character.
MOST_WORDS = 20

_MARKUP = re.compile(r"<[a-zA-Z/!]")
_TAG = re.compile(r"<[^>]+>")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")


def published_title(title: str | None) -> str | None:
    """Clean a title as the D3 and R3 preprocessing does, oddities included.

    Only ``<span id`` is seen as scraped junk; only two HTML entities are turned into characters; only blanks and then
    double quotes are stripped; words are the pieces between single blanks, so a double blank makes an empty word.
    """
    if title is None or "<span id" in title:
        return None
    title = title.replace("&quot;", '"').replace("&amp;", "&").strip(" ").strip('"')
    return title if len(title) > 1 and len(title.split(" ")) <= MOST_WORDS else None


def strict_title(title: str | None) -> str | None:
    """Clean a title as it should be: all entities, one line, any markup is junk, words between any blanks."""
    if title is None:
        return None
    title = clean_title(title, unescape_html=True).strip('" ')
    if _MARKUP.search(title):
        return None
    return title if len(title) > 1 and len(title.split()) <= MOST_WORDS else None


def published_title_2023(title: str | None) -> str | None:
    """Clean a title as R2ec's preprocessing of Amazon 2023 does: :func:`published_title`, then plain ASCII text."""
    title = published_title(title)
    if title is None:
        return None
    title = _TAG.sub("", html.unescape(title).strip())
    title = re.sub(" +", " ", re.sub(r"[\n\t]", " ", title))
    return _NOT_ASCII.sub(" ", title)
