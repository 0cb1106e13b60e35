"""Item texts: how titles are cleaned, what is wrong with them, and what items are called in prompts."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from recbench.contracts.dataset import ItemCatalog, title_key

#: Stands between the categories of one item.
CATEGORY_SEPARATOR = " | "

_CONTROL_WHITESPACE = re.compile(r"\s*[\t\n\v\f\r\x1c-\x1f\x85\u2028\u2029]\s*")
_MARKUP = re.compile(r"<[a-zA-Z/!]")
_ENTITY = re.compile(r"&(#\d+|#[xX][0-9a-fA-F]+|[a-zA-Z][a-zA-Z0-9]*);")

# What the published LatentR3 code calls the items of its data sets, and the movies of MovieLens. The first pattern
# that a name contains decides, so "steam_games" are games and not video games.
_NOUNS = (
    ("steam", "games"),
    ("cds", "musics"),
    ("toys", "toys and games"),
    ("instruments", "music instruments"),
    ("games", "video games"),
    ("books", "books"),
    ("sports", "sports and outdoors"),
    ("office", "office products"),
    ("movie", "movies"),
    ("ml-", "movies"),
)


def clean_title(title: str, unescape_html: bool = False) -> str:
    """Return a title on one line: each run of control whitespace becomes one space, and the ends are stripped.

    HTML entities stay as they are unless ``unescape_html`` is set; markup always stays, as in the paper's catalogue.
    """
    if unescape_html:
        title = html.unescape(title)
    return _CONTROL_WHITESPACE.sub(" ", title).strip()


def guess_noun(names: Iterable[str]) -> str | None:
    """Return what items are called in prompts (plural), from the first name that tells; None where none does."""
    for name in names:
        for pattern, noun in _NOUNS:
            if pattern in name.lower():
                return noun
    return None


def title_facts(catalog: ItemCatalog, n_examples: int = 3) -> dict[str, Any]:
    """Count what makes titles a poor name for an item.

    Titles count as equal as in the published evaluation: without blanks and double quotes at their ends.

    Returns:
        ``untitled``; ``shared_groups`` (titles that several items have), ``items_sharing``, ``most_shared`` (the
        commonest such titles with their item counts); ``with_markup`` and ``with_entities`` with examples;
        ``mean_characters`` of the titles there are.
    """
    sizes = np.bincount(catalog.title_group) if len(catalog) else np.empty(0, np.int64)
    shared = np.flatnonzero(sizes > 1)
    first_item = np.unique(catalog.title_group, return_index=True)[1] if len(catalog) else np.empty(0, np.int64)
    top = shared[np.argsort(-sizes[shared], kind="stable")][:n_examples]
    titled = [title for title in catalog.titles if title_key(title)]
    markup = [title for title in titled if _MARKUP.search(title)]
    entities = [title for title in titled if _ENTITY.search(title)]
    return {
        "untitled": len(catalog) - len(titled),
        "shared_groups": len(shared),
        "items_sharing": int(sizes[shared].sum()),
        "most_shared": [[catalog.titles[first_item[group]], int(sizes[group])] for group in top],
        "with_markup": len(markup),
        "with_entities": len(entities),
        "examples": [*dict.fromkeys(markup), *dict.fromkeys(entities)][:n_examples],
        "mean_characters": sum(map(len, titled)) / len(titled) if titled else None,
    }
