"""Ranked lists in the formats of TREC, which ir_measures, ranx and trec_eval read: run files and qrels.

A run file has lines ``example_id Q0 item_id rank score tag``; a qrels file ``example_id 0 item_id relevance``. TREC's
tools take the order of a list from the scores alone, and those that read single precision (trec_eval, and ir_measures
through it) lose the order of scores that agree in seven digits. recbench takes equal scores as a tie.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from recbench.artifacts.asked import Asked, exact_numbers, lines_of
from recbench.artifacts.files import atomic_path
from recbench.artifacts.tables import read_rankings_table
from recbench.contracts.dataset import ItemCatalog
from recbench.contracts.errors import ArtifactError, DataError
from recbench.contracts.examples import Examples
from recbench.contracts.rankings import Rankings
from recbench.contracts.seeding import numpy_rng

RUN_COLUMNS = ("example_id", "q0", "item_id", "rank", "score", "tag")

#: How ties are written. ``keep``: scores as they are, so equal ones stay equal. ``break``: whole numbers that fall by
#: one from place to place, with the order inside a tie drawn at random.
Ties = Literal["keep", "break"]


def write_trec_run(rankings: Path, out: Path, tag: str, ties: Ties = "keep", tie_seed: int = 0) -> pd.DataFrame:
    """Write a ``rankings.parquet`` as a run file; kept scores keep all their digits.

    Args:
        rankings: the file to read.
        out: the file to write.
        tag: names the run on every line.
        ties: how ties are written.
        tie_seed: of the order inside broken ties.

    Returns:
        The lines as a table, with the columns ``example_id``, ``rank``, ``item_id``, ``score``.

    Raises:
        ArtifactError: the rankings are missing or damaged, or an item id holds a blank, which the format cannot carry.
    """
    lists = exported_lists(rankings, ties, tie_seed)
    _refuse_blanks(lists["item_id"])
    frame = lists[["example_id", "item_id", "rank", "score"]].copy()
    frame.insert(1, "q0", "Q0")
    frame["tag"] = tag
    _write(frame, out)
    return lists


def exported_lists(rankings: Path, ties: Ties, tie_seed: int) -> pd.DataFrame:
    """Return the places of all lists: ``example_id``, ``rank``, ``item_id``, ``score``, with ties as wanted.

    Raises:
        ArtifactError: the rankings are missing or damaged.
    """
    frame = read_rankings_table(rankings).to_pandas()
    return break_ties(frame, tie_seed) if ties == "break" else frame


def break_ties(lists: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return the same lists with the order inside every tie drawn at random, and scores that fall from place to place.

    Averaged over seeds, any engine's metric of these lists is recbench's expectation over the order of ties. Scores are
    whole numbers, the length of the list at its first place and 1 at its last: every engine keeps their order, also one
    that reads them in single precision.

    Args:
        lists: ``example_id``, ``rank``, ``item_id``, ``score``; the places of a list stand together, best first.
        seed: of the order.
    """
    example = lists["example_id"].to_numpy()
    start = np.flatnonzero(np.diff(example, prepend=example[:1] - 1))
    lengths = np.diff(np.append(start, len(example)))
    number = np.repeat(np.arange(len(start)), lengths)
    draw = numpy_rng(seed, "ties").random(len(lists))
    broken = lists.iloc[np.lexsort((draw, -lists["score"].to_numpy(), number))].copy()
    place = np.arange(len(lists)) - np.repeat(start, lengths)
    broken["rank"] = (place + 1).astype(lists["rank"].to_numpy().dtype)
    broken["score"] = (np.repeat(lengths, lengths) - place).astype(np.float64)
    return broken.reset_index(drop=True)


def blurred_lists(lists: pd.DataFrame) -> tuple[int, int]:
    """Return how many lists hold a tie, and how many hold different scores that are equal in single precision."""
    score, single = lists["score"].to_numpy(), lists["score"].to_numpy().astype(np.float32)
    example = lists["example_id"].to_numpy()
    together = example[1:] == example[:-1]
    tied = together & (score[1:] == score[:-1])
    merged = together & ~tied & (single[1:] == single[:-1])
    return len(np.unique(example[1:][tied])), len(np.unique(example[1:][merged]))


def write_qrels(examples: Examples, catalog: ItemCatalog, out: Path) -> int:
    """Write the targets as qrels: one relevant item per example. Returns the number of lines.

    Raises:
        ArtifactError: an item id holds a blank, which the format cannot carry.
    """
    items = pd.Series(np.asarray(catalog.ids, dtype=object)[examples.target])
    _refuse_blanks(items)
    _write(pd.DataFrame({"example_id": examples.example_id, "q0": 0, "item_id": items, "relevance": 1}), out)
    return len(items)


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


def read_trec_run(path: Path, asked: Asked) -> Rankings:
    """Read a run file (also gzip).

    Args:
        path: the file.
        asked: the queries; one without a line gets an empty list.

    Raises:
        DataError: the file cannot be read, a line is malformed, an example or item is unknown, or a list holds an item
            twice; names the line.
    """
    line = lines_of(path)
    frame = _read_frame(path)
    short = frame["tag"].isna() | (frame["tag"] == "")
    if short.any():
        raise DataError(f"{line(int(short.argmax()))}: fewer than six fields.", _FORMAT)
    rows = asked.rows(exact_numbers(frame["example_id"], int, line, _FORMAT), line)
    ranks = exact_numbers(frame["rank"], int, line, _FORMAT)
    scores = exact_numbers(frame["score"], float, line, _FORMAT)
    return asked.rankings(rows, asked.items(frame["item_id"], line), scores, ranks, line)


_FORMAT = "Expected lines of the form: example_id Q0 item_id rank score tag."


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
    return frame
