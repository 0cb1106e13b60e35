"""Lists of titles, as the D3 and R3 (LatentR3) code writes them: a JSON list with one object per test row.

``predict`` holds the written titles, best first, in quotes and with a newline; ``output`` the target's title. Rows have
no ids: they are the rows of the test file in its order, so their number and every target are checked.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recbench.artifacts.asked import Asked
from recbench.contracts.dataset import title_key
from recbench.contracts.errors import DataError
from recbench.contracts.rankings import Rankings

_FORMAT = (
    "Expected a JSON list with an object for each test row, in the order of the test file: 'output' is the target's "
    "title, 'predict' the list of written titles, best first."
)
_ORDER = (
    "The rows must be those of this data set's test part, in its order. For the files of the D3/R3 preprocessing: "
    "recbench datasets import FOLDER --format d3-csv."
)


@dataclass(frozen=True)
class TitleLists:
    """What a file holds.

    Attributes:
        rankings: a written title stands for all items that have it, which are tied. Titles of no item and repeated
            titles are left out, so what follows them moves up.
        written: the written titles of each query as they are compared (:func:`title_key`), nothing left out.
        targets: the target's title of each query, likewise.
        facts: ``titles``, ``invalid_titles``, ``repeated_titles``, ``lists_with_invalid_titles``.
    """

    rankings: Rankings
    written: tuple[tuple[str, ...], ...]
    targets: tuple[str, ...]
    facts: Mapping[str, int]


def read_title_lists(path: Path, asked: Asked, target: np.ndarray) -> TitleLists:
    """Read a file (also gzip).

    Args:
        path: the file.
        asked: the queries, in the order of the file.
        target: int (N,), the item that came next.

    Raises:
        DataError: the file is no JSON of this form, has another number of rows, or a row has another target; names the
            row, counted from 1.
    """
    rows = _read_json(path)
    if len(rows) != len(target):
        raise DataError(f"{path} has {len(rows):,} rows; the test part has {len(target):,}.", _ORDER)
    written, targets = [], []
    titles = [title_key(title) for title in asked.catalog.titles]
    for number, (row, item) in enumerate(zip(rows, target, strict=True), start=1):
        where = f"{path}, row {number}"
        given = title_key(_target(row, where))
        if given != titles[item]:
            raise DataError(
                f"{where}: the target is {given[:80]!r}; test row {number} (example {asked.example_id[number - 1]}) "
                f"has {titles[item][:80]!r}.",
                _ORDER,
            )
        targets.append(given)
        written.append(tuple(title_key(title) for title in _predicted(row, where)))
    rankings, facts = _to_items(written, titles, asked)
    return TitleLists(rankings, tuple(written), tuple(targets), facts)


def _read_json(path: Path) -> list[Any]:
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        rows = json.loads(raw.decode("utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.", "Check the path.") from None
    except json.JSONDecodeError as error:
        whole = "" if raw.rstrip().endswith(b"]") else " It does not end with ']': it may have been cut off."
        raise DataError(f"{path} is not valid JSON: {error}.{whole}", _FORMAT) from None
    except (UnicodeDecodeError, EOFError, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}.", _FORMAT) from error
    if not isinstance(rows, list):
        raise DataError(f"{path} holds a {type(rows).__name__}, not a list.", _FORMAT)
    return rows


def _target(row: Any, where: str) -> str:
    if not isinstance(row, Mapping):
        raise DataError(f"{where} is no object.", _FORMAT)
    output = row.get("output")
    if isinstance(output, list) and len(output) == 1:  # as BIGRec's files have it
        (output,) = output
    if not isinstance(output, str):
        raise DataError(f"{where}: 'output' is {_short(output)}, not a title.", _FORMAT)
    return output


def _predicted(row: Mapping[str, Any], where: str) -> list[str]:
    predicted = row.get("predict")
    if not isinstance(predicted, list) or not all(isinstance(title, str) for title in predicted):
        raise DataError(f"{where}: 'predict' is {_short(predicted)}, not a list of titles.", _FORMAT)
    return predicted


def _short(value: Any) -> str:
    return "missing" if value is None else repr(value)[:60]


def _to_items(written: Sequence[Sequence[str]], titles: Sequence[str], asked: Asked) -> tuple[Rankings, dict[str, int]]:
    items_of: dict[str, list[int]] = {}
    for item, title in enumerate(titles):
        if title:
            items_of.setdefault(title, []).append(item)
    items: list[int] = []
    scores: list[float] = []
    lengths, invalid, repeated, spoiled = [], 0, 0, 0
    for listed in written:
        before = len(items)
        distinct = dict.fromkeys(listed)
        known = [title for title in distinct if title in items_of]
        for place, title in enumerate(known, start=1):
            items += items_of[title]
            scores += [-float(place)] * len(items_of[title])
        lengths.append(len(items) - before)
        unknown = sum(title not in items_of for title in listed)
        invalid += unknown
        spoiled += unknown > 0
        repeated += len(listed) - unknown - len(known)
    rankings = Rankings(
        np.asarray(asked.example_id, np.int64),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.array(items, dtype=np.int32),
        np.array(scores, dtype=np.float64),
    )
    return rankings, {
        "titles": sum(map(len, written)),
        "invalid_titles": invalid,
        "repeated_titles": repeated,
        "lists_with_invalid_titles": spoiled,
    }
