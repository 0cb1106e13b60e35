"""The data sets that recbench can make by itself: which public files each needs, how it is made, on whose terms.

The addresses are those in common use for the projects' own servers; where a project has moved, all its known
addresses are listed and tried in turn. A mirror has the same files under their ``path``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from recbench.contracts.dataset import Dataset
from recbench.data.download import RemoteFile
from recbench.data.sources import movielens
from recbench.data.sources.amazon import (
    CATEGORIES,
    CATEGORIES_2014,
    CATEGORIES_2023,
    Category,
    amazon_2014,
    amazon_2018,
    amazon_2023,
)
from recbench.data.sources.steam import steam

Mode = Literal["reference", "strict"]
MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass(frozen=True)
class Need:
    """One raw file of a data set.

    Attributes:
        role: what it is for.
        options: the files that will do, the preferred one first.
        unpacked: names of files; a folder that holds them all does as well (a zip file that was unpacked).
    """

    role: str
    options: tuple[RemoteFile, ...]
    unpacked: tuple[str, ...] = ()


@dataclass(frozen=True)
class Materials:
    """What a recipe works on.

    Attributes:
        files: local path of each role's file.
        folder: the user's own folder of raw files, or None.
        scratch: folder that outlives a killed preparation, for work that need not be done twice.
        mode: which rules to use.
    """

    files: Mapping[str, Path]
    folder: Path | None
    scratch: Path
    mode: Mode = "reference"


@dataclass(frozen=True)
class Recipe:
    """How one data set is made.

    Attributes:
        name: name of the data set.
        title: what it is.
        needs: the raw files; none: it is made without a download.
        build: makes the data set.
        rules: what is done to the raw files, in words.
        page: address of the page that describes the source.
        terms: terms of use, in words.
        modes: rules that there are; a data set by ``strict`` rules is called NAME-strict.
        published_csv: whether there are published rows of it in the D3/R3 csv format, to import in its place.
    """

    name: str
    title: str
    needs: tuple[Need, ...]
    build: Callable[[Materials], Dataset]
    rules: str
    page: str
    terms: str
    modes: tuple[Mode, ...] = ("reference",)
    published_csv: bool = False

    def stored_name(self, mode: Mode) -> str:
        """Return the name under which a mode's data set is kept."""
        return self.name if mode == "reference" else f"{self.name}-{mode}"


_UCSD = (
    "https://mcauleylab.ucsd.edu/public_datasets/data/",
    "https://datarepo.eng.ucsd.edu/mcauley_group/data/",
    "https://jmcauley.ucsd.edu/data/",
)
_HUB = "https://huggingface.co/datasets/McAuley-Lab/Amazon-Reviews-2023/resolve/main/"
_SEE_PAGE = "no licence known to recbench: see the page of the source, and cite its paper; recbench passes no file on"
_GROUPLENS = "GroupLens' own terms: read the README of the release; recbench passes no file on"


def _amazon_2018_recipe(category: Category) -> Recipe:
    folders = {f"{category.raw_name}_5.json.gz": "categoryFilesSmall", f"{category.raw_name}.json.gz": "categoryFiles"}
    reviews = tuple(_at_ucsd(f"amazon_v2/{folders[name]}/{name}") for name in category.reviews)
    return Recipe(
        name=category.name,
        title=f"Amazon 2018 {_words(category)}",
        needs=(Need("reviews", reviews), Need("meta", (_at_ucsd(f"amazon_v2/metaFiles2/{category.meta}"),))),
        build=lambda materials: amazon_2018(
            category,
            materials.files["reviews"],
            materials.files["meta"],
            scratch=materials.scratch,
            mode=materials.mode,
        ),
        rules="D3/R3 preprocessing: title filter, window to 2018-11 with at least 5,000 items, 5-core, in UTC",
        page="https://cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2/",
        terms=_SEE_PAGE,
        modes=MODES,
        published_csv=category.paper is not None,
    )


def _amazon_2014_recipe(category: Category) -> Recipe:
    def build(materials: Materials) -> Dataset:
        return amazon_2014(category, materials.files["reviews"], materials.files["meta"], scratch=materials.scratch)

    def at(name: str) -> RemoteFile:
        path = f"amazon/categoryFiles/{name}"
        snap = f"https://snap.stanford.edu/data/amazon/productGraph/categoryFiles/{name}"
        return RemoteFile(path, (snap, _UCSD[0] + path))

    return Recipe(
        name=_with_hyphen(category),
        title=f"Amazon 2014 {_words(category)}, 5-core",
        needs=(Need("reviews", tuple(map(at, category.reviews))), Need("meta", (at(category.meta),))),
        build=build,
        rules="the release's own 5-core, all reviews, titles of the metadata",
        page="https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html",
        terms=_SEE_PAGE,
    )


def _amazon_2023_recipe(category: Category) -> Recipe:
    def build(materials: Materials) -> Dataset:
        return amazon_2023(category, materials.files["reviews"], materials.files["meta"], scratch=materials.scratch)

    def need(role: str, path: str) -> Need:
        plain = path.removesuffix(".gz")
        # The hub has the files unpacked, so they are other files there.
        hub = RemoteFile(f"amazon_2023/{plain}", (_HUB + plain,))
        return Need(role, (_at_ucsd(f"amazon_2023/{path}", _UCSD[:2]), hub))

    return Recipe(
        name=_with_hyphen(category),
        title=f"Amazon 2023 {_words(category)}",
        needs=(
            need("reviews", f"benchmark/5core/rating_only/{category.reviews[0]}"),
            need("meta", f"raw/meta_categories/{category.meta}"),
        ),
        build=build,
        rules="R2ec preprocessing: items with title and price, window to 2023-10 with at least 10,000 items, no k-core",
        page="https://amazon-reviews-2023.github.io/",
        terms=_SEE_PAGE,
    )


def _movielens_recipe(name: str, md5: str) -> Recipe:
    files = movielens.RELEASES[name]
    remote = RemoteFile(f"movielens/{name}.zip", (f"https://files.grouplens.org/datasets/movielens/{name}.zip",), md5)
    return Recipe(
        name=name,
        title=files.title,
        needs=(Need("zip", (remote,), (files.ratings, files.movies)),),
        build=lambda materials: movielens.movielens(name, materials.files["zip"]),
        rules="all ratings are events, also low ones; all movies are items, also those without a rating",
        page=f"https://grouplens.org/datasets/movielens/{name.removeprefix('ml-')}/",
        terms=_GROUPLENS,
    )


def _all() -> Iterator[Recipe]:
    yield Recipe(
        name="ml-100k",
        title="MovieLens-100K, from the RecBole package",
        needs=(),
        build=lambda materials: movielens.ml_100k(materials.folder),
        rules="all ratings are events; the release year is put back into the titles",
        page="https://grouplens.org/datasets/movielens/100k/",
        terms=_GROUPLENS,
    )
    # MD5 sums that GroupLens is quoted with in public code; not compared with its own pages yet.
    yield _movielens_recipe("ml-1m", "c4d9eecfca2ab87c1945afe126590906")
    yield _movielens_recipe("ml-20m", "cd245b17a1ae2cc31bb14903e1204af3")
    yield _movielens_recipe("ml-25m", "6b51fb2759a8657d3bfcbfc42b592ada")
    files = {role: f"steam/steam_{role}.json.gz" for role in ("reviews", "games")}
    yield Recipe(
        name="steam",
        title="Steam reviews",
        needs=tuple(
            Need(role, (RemoteFile(path, (f"https://cseweb.ucsd.edu/~wckang/steam_{role}.json.gz", _UCSD[0] + path)),))
            for role, path in files.items()
        ),
        build=lambda materials: steam(materials.files["reviews"], materials.files["games"]),
        rules="recbench's own: first review of each game by a user, games with a title, 5-core (the paper names none)",
        page="https://cseweb.ucsd.edu/~jmcauley/datasets.html#steam_data",
        terms=_SEE_PAGE,
        published_csv=True,
    )
    yield from map(_amazon_2018_recipe, CATEGORIES.values())
    yield from map(_amazon_2014_recipe, CATEGORIES_2014.values())
    yield from map(_amazon_2023_recipe, CATEGORIES_2023.values())


def _at_ucsd(path: str, servers: tuple[str, ...] = _UCSD) -> RemoteFile:
    return RemoteFile(path, tuple(server + path for server in servers))


def _words(category: Category) -> str:
    return category.raw_name.replace("_", " ")


def _with_hyphen(category: Category) -> str:
    return category.name.replace("_", "-")


#: All recipes by name, in the order in which they are listed.
RECIPES: Mapping[str, Recipe] = {recipe.name: recipe for recipe in _all()}


def find_recipe(name: str) -> tuple[Recipe, Mode] | None:
    """Return the recipe and mode of a stored data set's name (``toys``, ``toys-strict``), or None."""
    for mode in MODES:
        recipe = RECIPES.get(name if mode == "reference" else name.removesuffix(f"-{mode}"))
        if recipe is not None and mode in recipe.modes and recipe.stored_name(mode) == name:
            return recipe, mode
    return None
