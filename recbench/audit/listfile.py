"""Ranked lists as a file or a run has them, line by line and with all their faults.

Importing a file refuses the first fault (:mod:`recbench.artifacts.trec`); an audit reads on and counts them.
"""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import numpy as np
import pyarrow as pa

from recbench.contracts.errors import DataError

ListFormat = Literal["trec", "csv"]

_NEEDED = ("example_id", "item_id", "rank")
_EXPECTED = {
    "trec": "Expected lines of the form: example_id Q0 item_id rank score tag.",
    "csv": f"Expected a header with the columns {', '.join(_NEEDED)} and, if there are ties, score.",
}


@dataclass(frozen=True)
class Lines:
    """The lines that can be read, in their order, and those that cannot.

    Attributes:
        number: int64 (L,), line in the file, from 1.
        example_id: int64 (L,).
        item_id: object (L,), external item ids.
        rank: int64 (L,).
        score: float64 (L,), finite; minus the rank in a CSV file without scores.
        unreadable: number and fault of each other line.
        strict_order: whether an import takes the order from ranks and scores alike, so that they must agree (CSV);
            in TREC files the scores alone tell it.
    """

    number: np.ndarray
    example_id: np.ndarray
    item_id: np.ndarray
    rank: np.ndarray
    score: np.ndarray
    unreadable: tuple[tuple[int, str], ...] = ()
    strict_order: bool = False

    def __len__(self) -> int:
        return len(self.number)


def lines_of_table(table: pa.Table) -> Lines:
    """Return the rows of a ``rankings.parquet``."""
    return Lines(
        np.arange(1, table.num_rows + 1),
        table["example_id"].to_numpy(),
        table["item_id"].to_pandas().to_numpy(dtype=object),
        table["rank"].to_numpy().astype(np.int64),
        table["score"].to_numpy(),
    )


def guess_format(path: Path) -> ListFormat:
    """Return the format that a file's name tells."""
    return "csv" if ".csv" in [suffix.lower() for suffix in path.suffixes] else "trec"


def read_lines(path: Path, file_format: ListFormat) -> Lines:
    """Read a file of lists (also gzip), faults included.

    Args:
        path: the file.
        file_format: "trec" (``example_id Q0 item_id rank score tag``) or "csv" (with a header that names
            example_id, item_id, rank and, if there are ties, score).

    Raises:
        DataError: there is no such file, it is no text, is empty, lacks a column, or not one line can be read.
    """
    try:
        with _open(path) as stream:
            fields = _trec_fields(stream) if file_format == "trec" else _csv_fields(path, stream)
            lines = _parse(fields, strict_order=file_format == "csv")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.", "Check the path.") from None
    except (OSError, UnicodeDecodeError, EOFError, csv.Error) as error:
        problem = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DataError(f"{path} cannot be read as text: {problem}.", _EXPECTED[file_format]) from error
    if not len(lines):
        first = f" Line {lines.unreadable[0][0]}: {lines.unreadable[0][1]}." if lines.unreadable else ""
        what = "not one line can be read" if lines.unreadable else "it holds no lines"
        other = "csv" if file_format == "trec" else "trec"
        raise DataError(
            f"{path} holds no lists in the format {file_format}: {what}.{first}",
            f"{_EXPECTED[file_format]} For the other format give --format {other}.",
        )
    return lines


def _open(path: Path) -> IO[str]:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def _trec_fields(stream: IO[str]) -> Iterator[tuple[int, list[str] | None, str]]:
    """Yield line number and the four fields of each line that is not blank, or None and the fault."""
    for number, line in enumerate(stream, 1):
        parts = line.split()
        if len(parts) >= 6:
            yield number, [parts[0], parts[2], parts[3], parts[4]], ""
        elif parts:
            yield number, None, f"{len(parts)} fields, expected six"


def _csv_fields(path: Path, stream: IO[str]) -> Iterator[tuple[int, list[str] | None, str]]:
    reader = csv.reader(stream)
    header = [name.strip() for name in next(reader, [])]
    missing = [name for name in _NEEDED if name not in header]
    if missing:
        raise DataError(f"{path} lacks the columns {', '.join(missing)}.", _EXPECTED["csv"])
    other = [name for name in header if name not in (*_NEEDED, "score")]
    if other:
        yield 1, None, f"unknown columns {', '.join(map(repr, other))}"
    places = [header.index(name) for name in _NEEDED]
    scores = header.index("score") if "score" in header else None
    for row in reader:
        if len(row) >= len(header):
            score = f"-{row[places[2]]}" if scores is None else row[scores]
            yield reader.line_num, [*(row[place] for place in places), score], ""
        elif row:
            yield reader.line_num, None, f"{len(row)} fields, expected {len(header)}"


def _parse(fields: Iterable[tuple[int, list[str] | None, str]], strict_order: bool) -> Lines:
    numbers, examples, items, ranks, scores = [], [], [], [], []
    unreadable = []
    for number, parts, fault in fields:
        try:
            if parts is None:
                raise ValueError(fault)
            example, item, rank, score = _whole(parts[0], "example_id"), parts[1], _whole(parts[2], "rank"), parts[3]
            value = _finite(score)
        except ValueError as error:
            unreadable.append((number, str(error)))
            continue
        numbers.append(number)
        examples.append(example)
        items.append(item)
        ranks.append(rank)
        scores.append(value)
    return Lines(
        np.array(numbers, np.int64),
        np.array(examples, np.int64),
        np.array(items, dtype=object),
        np.array(ranks, np.int64),
        np.array(scores, np.float64),
        tuple(unreadable),
        strict_order,
    )


def _whole(text: str, what: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise ValueError(f"{what} is {text!r}, not a whole number") from None
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{what} is {text!r}, which has too many digits")
    return number


def _finite(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"score is {text!r}, not a number") from None
    if not math.isfinite(number):
        raise ValueError(f"score is {text!r}, not finite")
    return number
