"""The two marks of report sentences, `` `code` `` and ``**bold**``, taken apart for renderers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal, get_args

Style = Literal["plain", "code", "bold"]
Markup = Mapping[Style, Callable[[str], str]]

_MARKS = re.compile(r"`(?P<code>[^`]+)`|\*\*(?P<bold>[^*]+)\*\*")


def spans(text: str) -> list[tuple[Style, str]]:
    """Return a sentence as pieces of one style each, in order, without the marks."""
    pieces: list[tuple[Style, str]] = []
    end = 0
    for found in _MARKS.finditer(text):
        pieces.append(("plain", text[end : found.start()]))
        style: Style = "code" if found["code"] is not None else "bold"
        pieces.append((style, found[style]))
        end = found.end()
    pieces.append(("plain", text[end:]))
    return [(style, piece) for style, piece in pieces if piece]


def render(text: str, markup: Markup) -> str:
    """Return a sentence in some format.

    Args:
        text: with the marks.
        markup: for every style, what turns a plain piece into that format, escapes included.
    """
    missing = set(get_args(Style)) - set(markup)
    if missing:
        raise ValueError(f"markup lacks {', '.join(sorted(missing))}")
    return "".join(markup[style](piece) for style, piece in spans(text))
