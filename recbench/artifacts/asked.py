"""What a file with lists from elsewhere must answer, and the checks that all such files have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from recbench.contracts.dataset import ItemCatalog
from recbench.contracts.errors import DataError
from recbench.contracts.rankings import Rankings


@dataclass(frozen=True)
class Asked:
    """The test rows that lists are wanted for.

    Attributes:
        example_id: int64 (N,), the queries.
        catalog: the items.
        elsewhere: name of another part ("training", "validation") -> its example ids, for a clear message.
    """

    example_id: np.ndarray
    catalog: ItemCatalog
    elsewhere: Mapping[str, np.ndarray] = field(default_factory=dict)

    def rows(self, example_ids: np.ndarray, place: Callable[[int], str]) -> np.ndarray:
        """Return the row number of each example id.

        Args:
            example_ids: int64 (P,), as the file has them.
            place: gives the place of the i-th of them in the file ("other.run, line 3"), for the message.

        Raises:
            DataError: an example is not among the queries; names the first one, and the part that it belongs to.
        """
        rows = pd.Index(self.example_id).get_indexer(pd.Index(example_ids))
        unknown = rows < 0
        if unknown.any():
            first = int(np.argmax(unknown))
            distinct = np.unique(example_ids[unknown])
            raise DataError(
                f"{place(first)}: example {example_ids[first]} is not among the {len(self.example_id):,} test rows"
                f"{self._belongs_to(example_ids[first])}; {len(distinct):,} examples of the file are not.",
                "Export the qrels of a run under the same protocol to see the right example ids, and give the file's "
                "own protocol with --set protocol.KEY=VALUE.",
            )
        return rows

    def _belongs_to(self, example: int) -> str:
        part = next((name for name, ids in self.elsewhere.items() if example in ids), None)
        return f", but a {part} row" if part else ""

    def items(self, item_ids: pd.Series, place: Callable[[int], str]) -> np.ndarray:
        """Return int32 item numbers of external ids.

        Raises:
            DataError: an item is not in the catalogue; names the first one and its place.
        """
        numbers = pd.Index(self.catalog.ids).get_indexer(pd.Index(item_ids))
        unknown = numbers < 0
        if unknown.any():
            first = int(np.argmax(unknown))
            names = item_ids[unknown].drop_duplicates()
            raise DataError(
                f"{place(first)}: item {item_ids.iloc[first]!r} is not in the catalogue of {len(self.catalog):,} items "
                f"({len(names):,} unknown items in {int(unknown.sum()):,} places).",
                "The lists belong to another data set, or to another preparation of it.",
            )
        return numbers.astype(np.int32)

    def rankings(
        self, rows: np.ndarray, items: np.ndarray, scores: np.ndarray, ranks: np.ndarray, place: Callable[[int], str]
    ) -> Rankings:
        """Put places into lists: by score, within a tie by rank; a query without any has an empty list.

        Args:
            rows: int (P,), the query of each place.
            items: int32 (P,).
            scores: float64 (P,).
            ranks: int (P,).
            place: gives the place in the file.

        Raises:
            DataError: a list holds an item twice.
        """
        repeated = pd.DataFrame({"row": rows, "item": items}).duplicated().to_numpy()
        if repeated.any():
            first = int(np.argmax(repeated))
            raise DataError(
                f"{place(first)}: example {self.example_id[rows[first]]} lists item "
                f"{self.catalog.ids[items[first]]!r} twice ({int(repeated.sum()):,} repeats in all).",
                "A list holds an item once.",
            )
        order = np.lexsort((ranks, -scores, rows))
        lengths = np.bincount(rows, minlength=len(self.example_id))
        return Rankings(
            np.asarray(self.example_id, np.int64),
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            items[order],
            scores[order],
        )


def exact_numbers(
    column: pd.Series, kind: type[int] | type[float], place: Callable[[int], str], hint: str
) -> np.ndarray:
    """Parse a column of texts exactly: pandas' own parser of numbers gives up the last digits for speed.

    Raises:
        DataError: a text is no number, or no finite one; names its place.
    """
    if kind is int and column.dtype.kind == "f":  # of a Parquet file; casting would cut digits off
        raise DataError(f"{place(0)}: {column.name} is a column of floating-point numbers.", hint)
    texts = column.to_numpy(dtype=object)
    try:
        numbers = texts.astype(np.int64 if kind is int else np.float64)
    except (ValueError, OverflowError):
        first = next(number for number, text in enumerate(texts) if not _parses(text, kind))
        raise DataError(f"{place(first)}: {column.name} is {texts[first]!r}, not a number.", hint) from None
    bad = ~np.isfinite(numbers)
    if bad.any():
        raise DataError(f"{place(int(np.argmax(bad)))}: the {column.name} is not finite.", hint)
    return numbers


def _parses(text: str, kind: type[int] | type[float]) -> bool:
    try:
        number = kind(text)
    except ValueError:
        return False
    return kind is float or -(2**63) <= number < 2**63


def lines_of(path: Path, first: int = 1) -> Callable[[int], str]:
    """Return what names the line of a file's i-th record, whose first one stands on line ``first``."""
    return lambda number: f"{path}, line {number + first}"
