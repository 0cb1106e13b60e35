"""Ranked lists in the formats of TREC, which ir_measures, ranx and trec_eval read: run files and qrels.

A run file has lines ``example_id Q0 item_id rank score tag``; a qrels file ``example_id 0 item_id relevance``. As
TREC's tools do, the order of a list is taken from the scores; recbench takes equal scores as a tie.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd

from recbench.artifacts.files import atomic_path
from recbench.artifacts.tables import item_numbers, read_rankings_table
from recbench.contracts.dataset import ItemCatalog
from recbench.contracts.errors import ArtifactError, DataError
from recbench.contracts.examples import Examples
from recbench.contracts.rankings import Rankings

RUN_COLUMNS = ("example_id", "q0", "item_id", "rank", "score", "tag")


def write_trec_run(rankings: Path, out: Path, tag: str) -> int:
    """Write a ``rankings.parquet`` as a run file; scores keep all their digits. Returns the number of lines.

    Raises:
        ArtifactError: the rankings are missing or damaged, or an item id holds a blank, which the format cannot carry.
    """
    table = read_rankings_table(rankings)
    _refuse_blanks(table["item_id"].to_pandas())
    frame = table.select(["example_id", "item_id", "rank", "score"]).to_pandas()
    frame.insert(1, "q0", "Q0")
    frame["tag"] = tag
    _write(frame, out)
    return len(frame)


def write_qrels(examples: Examples, catalog: ItemCatalog, out: Path) -> int:
    """Write the targets as qrels: one relevant item per example. Returns the number of lines.

    Raises:
        ArtifactError: an item id holds a blank, which the format cannot carry.
    """
    items = pd.Series(np.asarray(catalog.ids, dtype=object)[examples.target])
    _refuse_blanks(items)
    _write(pd.DataFrame({"example_id": examples.example_id, "q0": 0, "item_id": items, "relevance": 1}), out)
    return len(items)


def write_csv(rankings: Path, out: Path) -> int:
    """Write a ``rankings.parquet`` as CSV with a header; scores keep all their digits. Returns the number of rows."""
    frame = read_rankings_table(rankings).to_pandas()
    with atomic_path(out) as temporary:
        frame.to_csv(temporary, index=False)
    return len(frame)


def _write(frame: pd.DataFrame, out: Path) -> None:
    with atomic_path(out) as temporary:
        frame.to_csv(temporary, sep=" ", header=False, index=False, quoting=csv.QUOTE_NONE)


def _refuse_blanks(items: pd.Series) -> None:
    blank = items[items.str.contains(r"\s") | (items == "")]
    if len(blank):
        raise ArtifactError(
            f"{blank.nunique()} item ids hold blanks or are empty ({blank.iloc[0]!r}), which TREC files cannot carry.",
            "Use --format csv.",
        )


def read_trec_run(path: Path, example_ids: np.ndarray, catalog: ItemCatalog) -> tuple[Rankings, int]:
    """Read a run file (also gzip) for given queries.

    Args:
        path: the file.
        example_ids: int64 (N,), the queries; a query without a line gets an empty list.
        catalog: the items.

    Returns:
        One list per query, in their order, and how many of them are empty.

    Raises:
        DataError: the file cannot be read, a line is malformed, an example is unknown, or a list holds an item twice.
        ArtifactError: an item is not in the catalogue.
    """
    frame = _read_frame(path)
    row_of = pd.Index(example_ids)
    row = row_of.get_indexer(pd.Index(frame["example_id"]))
    unknown = frame["example_id"][row < 0].drop_duplicates()
    if len(unknown):
        raise DataError(
            f"{path} answers {len(unknown):,} examples that are not among the {len(example_ids):,} test rows: "
            f"{', '.join(map(str, unknown[:5]))}{', ...' if len(unknown) > 5 else ''}.",
            "Export the qrels of a run under the same protocol to see the right example ids.",
        )
    items = item_numbers(frame["item_id"], catalog, str(path))
    scores = frame["score"].to_numpy()
    # By score, as TREC's tools order; within a tie as the file has it.
    order = np.lexsort((frame["rank"].to_numpy(), -scores, row))
    lengths = np.bincount(row, minlength=len(example_ids))
    rankings = Rankings(
        np.asarray(example_ids, np.int64),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        items[order],
        scores[order],
    )
    _refuse_repeats(path, row, frame)
    return rankings, int((lengths == 0).sum())


def _read_frame(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_csv(
            path,
            sep=r"\s+",
            header=None,
            names=list(RUN_COLUMNS),
            index_col=False,
            dtype=str,
            quoting=csv.QUOTE_NONE,
            keep_default_na=False,
            na_values=[],
            encoding="utf-8",
        )
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.", "Check the path.") from None
    except (pd.errors.ParserError, UnicodeDecodeError, EOFError, OSError) as error:
        raise DataError(f"{path} cannot be read as a TREC run file: {str(error).strip()}.", _FORMAT) from error
    if frame.empty:
        raise DataError(f"{path} is empty.", _FORMAT)
    short = frame["tag"].isna() | (frame["tag"] == "")
    if short.any():
        raise DataError(f"{path}, line {short.argmax() + 1}: fewer than six fields.", _FORMAT)
    frame["example_id"] = _numbers(path, frame["example_id"], int)
    frame["rank"] = _numbers(path, frame["rank"], int)
    frame["score"] = _numbers(path, frame["score"], float)
    bad = ~np.isfinite(frame["score"])
    if bad.any():
        raise DataError(f"{path}, line {bad.argmax() + 1}: the score is not finite.", _FORMAT)
    return frame


_FORMAT = "Expected lines of the form: example_id Q0 item_id rank score tag."


def _numbers(path: Path, column: pd.Series, kind: type[int] | type[float]) -> np.ndarray:
    """Parse a column exactly: pandas' own parser of numbers gives up the last digits for speed."""
    texts = column.to_numpy(dtype=object)
    try:
        return texts.astype(np.int64 if kind is int else np.float64)
    except (ValueError, OverflowError):
        line = next(number for number, text in enumerate(texts, start=1) if not _parses(text, kind))
        raise DataError(f"{path}, line {line}: {column.name} is {texts[line - 1]!r}, not a number.", _FORMAT) from None


def _parses(text: str, kind: type[int] | type[float]) -> bool:
    try:
        number = kind(text)
    except ValueError:
        return False
    return kind is float or -(2**63) <= number < 2**63


def _refuse_repeats(path: Path, row: np.ndarray, frame: pd.DataFrame) -> None:
    repeated = pd.DataFrame({"row": row, "item": frame["item_id"]}).duplicated()
    if repeated.any():
        line = int(repeated.argmax())
        raise DataError(
            f"{path}, line {line + 1}: example {frame['example_id'][line]} lists item {frame['item_id'][line]!r} twice "
            f"({int(repeated.sum())} repeats in all).",
            "A list holds an item once.",
        )
