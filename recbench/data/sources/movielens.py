"""MovieLens-100K from the two files that the RecBole package ships: no download.

RecBole splits MovieLens's title "Star Wars (1977)" into a title and a year. The year is put back: it is how the movie
is called in MovieLens, and it tells remakes apart. Of 1,682 movies, 45 share a bare title with another one; with the
year it is 36, in 18 pairs which MovieLens itself lists twice. Two movies keep the title
that RecBole has: 267, which has no year ("unkonwn" there), and 1412, whose title already holds it (the year reads "V").

Data: F. M. Harper and J. A. Konstan, "The MovieLens Datasets: History and Context", ACM TiiS 5(4), 2015.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from recbench.contracts.dataset import Dataset
from recbench.contracts.errors import DataError
from recbench.data.build import RawEvents, RawItems, build_dataset
from recbench.data.sources.recbole_atomic import find_atomic_files
from recbench.data.tables import TableFile, open_table, read_columns
from recbench.data.text import CATEGORY_SEPARATOR

_EVENT_COLUMNS = ("user_id", "item_id", "timestamp", "rating")
_ITEM_COLUMNS = ("item_id", "movie_title", "release_year", "class")
_HINT = (
    "recbench datasets prepare ml-100k --from-dir DIR takes any folder with RecBole's ml-100k.inter and ml-100k.item."
)


def ml_100k(from_dir: Path | None = None) -> Dataset:
    """Return MovieLens-100K: all ratings as events, titles with year, genres as categories.

    Args:
        from_dir: folder with ``ml-100k.inter`` and ``ml-100k.item``; by default that of the installed RecBole package,
            which is looked up without importing it.

    Raises:
        DataError: RecBole is not installed, or a file or column is missing.
    """
    folder = from_dir or _recbole_folder()
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder.", _HINT)
    inter, item = find_atomic_files([folder])
    if item is None:
        raise DataError(f"{folder} has no .item file.", _HINT)
    events = _read(open_table(inter), _EVENT_COLUMNS)
    items = _read(open_table(item), _ITEM_COLUMNS)
    years = items["release_year"].to_pylist()
    titles = [
        f"{title} ({year})" if len(year) == 4 and year.isdigit() else title
        for title, year in zip(items["movie_title"].to_pylist(), years, strict=True)
    ]
    genres = [CATEGORY_SEPARATOR.join(text.split()) for text in items["class"].to_pylist()]
    return build_dataset(
        "ml-100k",
        RawEvents(str(inter), events["user_id"], events["item_id"], events["timestamp"], rating=events["rating"]),
        RawItems(str(item), items["item_id"].to_pylist(), titles, genres),
        source="MovieLens-100K (GroupLens), files ml-100k.inter and ml-100k.item as shipped with RecBole; "
        "the release year is put back into the titles",
        noun="movies",
    )


def _recbole_folder() -> Path:
    spec = find_spec("recbole")
    for location in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(location) / "dataset_example" / "ml-100k"
        if folder.is_dir():
            return folder
    found = "RecBole is installed without its example data" if spec else "RecBole is not installed"
    raise DataError(
        f"ml-100k is read from the files of the RecBole package, and {found}.",
        "Install it: pip install 'recbench[recbole]' (Python 3.12 and later: pip install --no-deps recbole==1.2.1).\n"
        + _HINT,
    )


def _read(file: TableFile, columns: tuple[str, ...]) -> dict:
    missing = [column for column in columns if column not in file.columns]
    if missing:
        raise DataError(
            f"{file.path} lacks the column '{missing[0]}'. Found: {', '.join(file.columns)}.",
            _HINT,
        )
    table = read_columns(file, columns)
    return {column: table[column] for column in columns}
