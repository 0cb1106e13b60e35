"""MovieLens: 100K from the two files that the RecBole package ships (no download); 1M, 20M and 25M as published.

1M, 20M and 25M are read right from their zip files: nothing is unpacked to disk, and only the two members that are
needed are opened, by name. A folder with these two files does as well. Every rating is an event, also a low one, as
in the works that compare sequential recommenders on MovieLens; the ratings are kept. The catalogue is the whole list
of movies, also those that nobody rated.

RecBole splits MovieLens's title "Star Wars (1977)" into a title and a year. The year is put back: it is how the movie
is called in MovieLens, and it tells remakes apart. Of 1,682 movies, 45 share a bare title with another one; with the
year it is 36, in 18 pairs which MovieLens itself lists twice. Two movies keep the title
that RecBole has: 267, which has no year ("unkonwn" there), and 1412, whose title already holds it (the year reads "V").

Data: F. M. Harper and J. A. Konstan, "The MovieLens Datasets: History and Context", ACM TiiS 5(4), 2015.
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.csv

from recbench.contracts.dataset import Dataset
from recbench.contracts.errors import DataError
from recbench.data.build import RawEvents, RawItems, build_dataset
from recbench.data.sources.recbole_atomic import find_atomic_files
from recbench.data.tables import TableFile, open_table, read_columns, reading
from recbench.data.text import CATEGORY_SEPARATOR

_EVENT_COLUMNS = ("user_id", "item_id", "timestamp", "rating")
_ITEM_COLUMNS = ("item_id", "movie_title", "release_year", "class")
_HINT = (
    "recbench datasets prepare ml-100k --from-dir DIR takes any folder with RecBole's ml-100k.inter and ml-100k.item."
)


_BLOCK_BYTES = 1 << 24


@dataclass(frozen=True)
class MovieLensFiles:
    """How the files of one release are written.

    Attributes:
        title: what the release is called.
        ratings, movies: names of the two files, in a folder called after the data set in the zip file.
        encoding: of both.
        delimited_by_colons: columns are separated by ``::`` and there is no header line; else RFC 4180 with a header.
    """

    title: str
    ratings: str = "ratings.csv"
    movies: str = "movies.csv"
    encoding: str = "utf-8"
    delimited_by_colons: bool = False


#: The releases that are downloaded, by data set name.
RELEASES: dict[str, MovieLensFiles] = {
    "ml-1m": MovieLensFiles("MovieLens-1M", "ratings.dat", "movies.dat", "latin-1", delimited_by_colons=True),
    "ml-20m": MovieLensFiles("MovieLens-20M"),
    "ml-25m": MovieLensFiles("MovieLens-25M"),
}


def movielens(name: str, path: Path) -> Dataset:
    """Return MovieLens-1M, 20M or 25M: all ratings as events, titles with year, genres as categories.

    Args:
        name: a key of :data:`RELEASES`.
        path: the release's zip file, or a folder with its two files.

    Raises:
        DataError: a file is missing or damaged.
    """
    files = RELEASES[name]
    where = f"{path}/{files.ratings}"
    with _open(path, name, files.ratings, files.encoding) as stream:
        ratings = _read_ratings(stream, files)
    with _open(path, name, files.movies, files.encoding) as stream:
        movies = list(_movies(stream, files, f"{path}/{files.movies}"))
    return build_dataset(
        name,
        RawEvents(where, ratings["user"], ratings["item"], ratings["time"], rating=ratings["rating"]),
        RawItems(
            f"{path}/{files.movies}",
            [item for item, _, _ in movies],
            [title for _, title, _ in movies],
            [CATEGORY_SEPARATOR.join(genres.split("|")) for _, _, genres in movies],
        ),
        source=f"{files.title} (GroupLens), all ratings as events",
        noun="movies",
    )


@contextmanager
def _open(path: Path, name: str, member: str, encoding: str) -> Iterator[IO[bytes]]:
    """Open one of the two files, in the zip file or in the folder.

    Raises:
        DataError: it is not there, or what is read of it is damaged.
    """
    with reading(path, encoding):
        if path.is_dir():
            with (path / member).open("rb") as stream:
                yield stream
            return
        try:
            with zipfile.ZipFile(path) as archive, archive.open(f"{name}/{member}") as stream:
                yield stream
        except KeyError:
            raise DataError(f"{path} holds no {name}/{member}.", "Check that it is the right zip file.") from None
        except zipfile.BadZipFile as error:
            raise DataError(
                f"{path} is a damaged zip file ({error}).", f"Delete it, then: recbench datasets prepare {name}"
            ) from error


def _read_ratings(stream: IO[bytes], files: MovieLensFiles) -> pa.Table:
    names = ["user", "item", "rating", "time"]
    # The columns hold numbers only, so each "::" is an empty column between two single colons.
    every_other = [part for name in names for part in (name, f"{name}_gap")][:-1]
    columns = every_other if files.delimited_by_colons else names
    return pa.csv.read_csv(
        stream,
        pa.csv.ReadOptions(
            column_names=columns, skip_rows=0 if files.delimited_by_colons else 1, block_size=_BLOCK_BYTES
        ),
        pa.csv.ParseOptions(delimiter=":" if files.delimited_by_colons else ","),
        pa.csv.ConvertOptions(include_columns=names),
    )


def _movies(stream: IO[bytes], files: MovieLensFiles, where: str) -> Iterator[tuple[str, str, str]]:
    """Yield id, title and genres of every movie."""
    text = io.TextIOWrapper(stream, encoding=files.encoding, newline="")
    rows: Iterator[list[str]]
    if files.delimited_by_colons:
        rows = (line.rstrip("\r\n").split("::") for line in text)
    else:
        rows = csv.reader(text)
        next(rows, None)
    for number, row in enumerate(rows, start=1):
        if len(row) != 3:
            raise DataError(
                f"{where}: data row {number} has {len(row)} columns, expected id, title and genres.",
                "Check that the file is whole.",
            )
        yield row[0], row[1], row[2]


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
