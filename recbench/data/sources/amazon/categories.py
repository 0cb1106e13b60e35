"""The categories of the Amazon review data sets, as plain facts: file names, nouns, windows, known sizes.

Releases: 2014 and 2018 (J. Ni, J. Li, J. McAuley, "Justifying recommendations using distantly-labeled reviews and
fine-grained aspects", EMNLP 2019, and the earlier corpus of R. He and J. McAuley), and 2023 (Y. Hou et al., "Bridging
language and items for retrieval and recommendation", 2024).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from recbench.data.sources.amazon.window import Month

#: What prompts call the items: the words of the published LatentR3 code. Others: the category's own name.
_NOUNS = {
    "Books": "books",
    "CDs_and_Vinyl": "musics",
    "Musical_Instruments": "music instruments",
    "Office_Products": "office products",
    "Sports_and_Outdoors": "sports and outdoors",
    "Toys_and_Games": "toys and games",
    "Video_Games": "video games",
}


@dataclass(frozen=True)
class PaperSizes:
    """What the LatentR3 paper's table 3 states.

    Attributes:
        items: size of the catalogue.
        rows: training, validation and test rows together.
    """

    items: int
    rows: int


@dataclass(frozen=True)
class Category:
    """One category of one release.

    Attributes:
        name: name of the data set made from it.
        raw_name: the release's own name of the category, which its file names contain.
        noun: what prompts call the items, plural.
        reviews: names of its review files, the preferred one first; any of them will do.
        meta: name of its metadata file.
        start, end: months whose first instants (UTC) bound the window of reviews; None: all reviews.
        paper: sizes in the LatentR3 paper, where it has them.
        known_start: the month at which the published program is known to have ended up.
    """

    name: str
    raw_name: str
    noun: str
    reviews: tuple[str, ...]
    meta: str
    start: Month | None = None
    end: Month | None = None
    paper: PaperSizes | None = None
    known_start: Month | None = None


def noun_of(raw_name: str) -> str:
    """Return what prompts call the items of a category, plural."""
    return _NOUNS.get(raw_name, raw_name.replace("_", " ").lower())


_SHORT_2018 = {
    "fashion": "AMAZON_FASHION",
    "all-beauty": "All_Beauty",
    "appliances": "Appliances",
    "arts": "Arts_Crafts_and_Sewing",
    "automotive": "Automotive",
    "books": "Books",
    "cds": "CDs_and_Vinyl",
    "cell-phones": "Cell_Phones_and_Accessories",
    "clothing": "Clothing_Shoes_and_Jewelry",
    "digital-music": "Digital_Music",
    "electronics": "Electronics",
    "gift-cards": "Gift_Cards",
    "grocery": "Grocery_and_Gourmet_Food",
    "home": "Home_and_Kitchen",
    "industrial": "Industrial_and_Scientific",
    "kindle": "Kindle_Store",
    "luxury-beauty": "Luxury_Beauty",
    "magazines": "Magazine_Subscriptions",
    "movies": "Movies_and_TV",
    "instruments": "Musical_Instruments",
    "office": "Office_Products",
    "garden": "Patio_Lawn_and_Garden",
    "pets": "Pet_Supplies",
    "pantry": "Prime_Pantry",
    "software": "Software",
    "sports": "Sports_and_Outdoors",
    "tools": "Tools_and_Home_Improvement",
    "toys": "Toys_and_Games",
    "games": "Video_Games",
}
# Rows of table 3 added up. For CDs the table's own parts differ from its rule by one row, not in their sum.
_PAPER = {
    "toys": PaperSizes(items=6_299, rows=67_373),
    "cds": PaperSizes(items=5_841, rows=61_565),
    "games": PaperSizes(items=5_308, rows=93_969),
    "instruments": PaperSizes(items=5_030, rows=83_125),
}
_KNOWN_START = {"cds": Month(2015, 10), "toys": Month(2017, 1)}

_SHORT_2014 = {
    "baby": "Baby",
    "beauty": "Beauty",
    "automotive": "Automotive",
    "cds": "CDs_and_Vinyl",
    "digital-music": "Digital_Music",
    "games": "Video_Games",
    "grocery": "Grocery_and_Gourmet_Food",
    "instruments": "Musical_Instruments",
    "office": "Office_Products",
    "pets": "Pet_Supplies",
    "sports": "Sports_and_Outdoors",
    "tools": "Tools_and_Home_Improvement",
    "toys": "Toys_and_Games",
}
_SHORT_2023 = {
    "books": "Books",
    "cds": "CDs_and_Vinyl",
    "games": "Video_Games",
    "instruments": "Musical_Instruments",
    "movies": "Movies_and_TV",
    "office": "Office_Products",
    "sports": "Sports_and_Outdoors",
    "toys": "Toys_and_Games",
}


def _category_2018(name: str, raw: str) -> Category:
    return Category(
        name=name,
        raw_name=raw,
        noun=noun_of(raw),
        # The published program tries the release's own 5-core file first; the window's 5-core lies within it.
        reviews=(f"{raw}_5.json.gz", f"{raw}.json.gz"),
        meta=f"meta_{raw}.json.gz",
        start=Month(2017, 10),
        end=Month(2018, 11),
        paper=_PAPER.get(name),
        known_start=_KNOWN_START.get(name),
    )


def _category_2014(name: str, raw: str) -> Category:
    return Category(f"{name}-2014", raw, noun_of(raw), (f"reviews_{raw}_5.json.gz",), f"meta_{raw}.json.gz")


def _category_2023(name: str, raw: str) -> Category:
    return Category(
        name=f"{name}-2023",
        raw_name=raw,
        noun=noun_of(raw),
        reviews=(f"{raw}.csv.gz",),
        meta=f"meta_{raw}.jsonl.gz",
        start=Month(2022, 10),
        end=Month(2023, 10),
    )


#: Amazon 2018 by data set name; the paper's four are ``toys``, ``cds``, ``games`` and ``instruments``.
CATEGORIES: Mapping[str, Category] = {name: _category_2018(name, raw) for name, raw in _SHORT_2018.items()}

#: Amazon 2014, 5-core, by data set name (``beauty-2014``).
CATEGORIES_2014: Mapping[str, Category] = {
    category.name: category for category in (_category_2014(name, raw) for name, raw in _SHORT_2014.items())
}

#: Amazon 2023, the rating-only 5-core files, by data set name (``games-2023``).
CATEGORIES_2023: Mapping[str, Category] = {
    category.name: category for category in (_category_2023(name, raw) for name, raw in _SHORT_2023.items())
}
