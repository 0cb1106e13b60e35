"""Ranked lists as tables that any program can write: CSV or Parquet with ``example_id, rank, item_id, score``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from recbench.artifacts.asked import Asked, exact_numbers, lines_of
from recbench.artifacts.files import atomic_path
from recbench.artifacts.trec import Ties, exported_lists
from recbench.contracts.errors import DataError, did_you_mean
from recbench.contracts.rankings import Rankings

NEEDED = ("example_id", "rank", "item_id")
OPTIONAL = ("score",)

_FORMAT = (
    "Expected the columns example_id, rank (1, 2, 3, ... in each list), item_id and, if there are ties, score "
    "(never rising; equal scores are a tie)."
)


def write_list_csv(rankings: Path, out: Path, ties: Ties = "keep", tie_seed: int = 0) -> pd.DataFrame:
    """Write a ``rankings.parquet`` as CSV with a header, scores with all their digits; return the places as a table.

    Raises:
        ArtifactError: the rankings are missing or damaged.
    """
    frame = exported_lists(rankings, ties, tie_seed)
    with atomic_path(out) as temporary:
        frame.to_csv(temporary, index=False)
    return frame


def read_list_table(path: Path, asked: Asked) -> Rankings:
    """Read a CSV (also gzip) or Parquet file.

    Args:
        path: the file; a name that ends in ``.parquet`` is read as Parquet.
        asked: the queries; one without a row gets an empty list.

    Raises:
        DataError: the file cannot be read, has other columns, a cell is malformed, an example or item is unknown, the
            ranks of a list are not 1, 2, 3, ..., a score rises, or a list holds an item twice; names the row.
    """
    is_parquet = path.suffix == ".parquet"
    # A CSV file has a header on its first line; the rows of a Parquet file are counted from 1.
    place = (lambda number: f"{path}, row {number + 1}") if is_parquet else lines_of(path, first=2)
    frame = _read_parquet(path) if is_parquet else _read_csv(path)
    _check_columns(path, frame)
    if frame.empty:
        raise DataError(f"{path} holds no row.", _FORMAT)
    ids = exact_numbers(frame["example_id"], int, place, _FORMAT)
    ranks = exact_numbers(frame["rank"], int, place, _FORMAT)
    scores = -ranks.astype(np.float64)
    if "score" in frame.columns:
        scores = exact_numbers(frame["score"], float, place, _FORMAT)
    rows = asked.rows(ids, place)
    items = asked.items(frame["item_id"], place)
    _check_order(rows, ranks, scores, ids, place)
    return asked.rankings(rows, items, scores, ranks, place)


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[], encoding="utf-8", index_col=False)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.", "Check the path.") from None
    except pd.errors.EmptyDataError:
        raise DataError(f"{path} is empty.", _FORMAT) from None
    except (pd.errors.ParserError, UnicodeDecodeError, EOFError, OSError) as error:
        raise DataError(f"{path} cannot be read as CSV: {str(error).strip()}.", _FORMAT) from error


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        frame = pq.read_table(path).to_pandas()
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.", "Check the path.") from None
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {str(error).strip()}.", _FORMAT) from error
    for name in frame.columns.intersection([*NEEDED, *OPTIONAL]):
        holes = frame[name].isna()
        if holes.any():
            raise DataError(f"{path}, row {int(holes.argmax()) + 1}: {name} is empty.", _FORMAT)
    if "item_id" in frame.columns:
        frame["item_id"] = frame["item_id"].astype(str)
    return frame


def _check_columns(path: Path, frame: pd.DataFrame) -> None:
    found = ", ".join(map(str, frame.columns))
    missing = [name for name in NEEDED if name not in frame.columns]
    if missing:
        raise DataError(f"{path} lacks the columns {', '.join(missing)}. Found: {found}.", _FORMAT)
    known = [*NEEDED, *OPTIONAL]
    other = next((str(name) for name in frame.columns if name not in known), None)
    if other is not None:
        raise DataError(f"{path} has the column '{other}'.{did_you_mean(other, known)} Found: {found}.", _FORMAT)


def _check_order(
    rows: np.ndarray, ranks: np.ndarray, scores: np.ndarray, ids: np.ndarray, place: Callable[[int], str]
) -> None:
    """Check that ranks run 1, 2, 3, ... in each list, in whatever order the rows stand, and that no score rises."""
    order = np.lexsort((ranks, rows))
    starts = np.diff(rows[order], prepend=-1) != 0
    first = np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))
    wanted = np.arange(len(order)) - first + 1
    wrong = ranks[order] != wanted
    if wrong.any():
        at = int(np.argmax(wrong))
        raise DataError(
            f"{place(int(order[at]))}: example {ids[order[at]]} has rank {ranks[order[at]]} where rank {wanted[at]} is "
            "next.",
            _FORMAT,
        )
    rises = ~starts[1:] & (np.diff(scores[order]) > 0)
    if rises.any():
        at = int(order[int(np.argmax(rises)) + 1])
        raise DataError(
            f"{place(at)}: the score of rank {ranks[at]} of example {ids[at]} is higher than that of the rank before "
            "it.",
            _FORMAT,
        )
