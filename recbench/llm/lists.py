"""From written titles to lists of exact items, and to the records of ``generations.jsonl``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from recbench.contracts.examples import Queries
from recbench.contracts.rankings import Rankings, concat_rankings
from recbench.llm.codec import TitleCodec


@dataclass(frozen=True)
class Written:
    """Lists of N queries, with what the search says about each.

    Attributes:
        rankings: the lists.
        facts: name -> array (N,), one value per query.
    """

    rankings: Rankings
    facts: Mapping[str, np.ndarray]

    @classmethod
    def join(cls, parts: list[Written]) -> Written:
        """Return the lists of consecutive batches as one."""
        names = parts[0].facts if parts else ()
        facts = {name: np.concatenate([part.facts[name] for part in parts]) for name in names}
        return cls(concat_rankings([part.rankings for part in parts]), facts)

    def in_order_of(self, queries: Queries) -> Written:
        """Return the same lists in the order of the queries."""
        lists = self.rankings
        position = {int(example): place for place, example in enumerate(lists.example_id)}
        places = np.array([position[int(example)] for example in queries.example_id], dtype=np.int64)
        lengths = lists.lengths[places]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        source = np.repeat(lists.offsets[places] - offsets[:-1], lengths) + np.arange(offsets[-1])
        ordered = Rankings(queries.example_id, offsets, lists.items[source], lists.scores[source])
        return Written(ordered, {name: values[places] for name, values in self.facts.items()})


def titles_to_items(
    sequence: np.ndarray, score: np.ndarray, codec: TitleCodec, queries: Queries, n_titles: int, mask_history: bool
) -> Rankings:
    """Return the items of the written titles; a title that n items share gives n tied places.

    Args:
        sequence: int (B, W), numbers of the codec's answers, best first; -1 where there is none.
        score: float64 (B, W).
        queries: the B queries.
        n_titles: titles kept of each row, the best ones, and those that tie with the last of them.
        mask_history: leave out items of the query's history, and titles that have no other item.
    """
    answers = codec.answers
    row, column = np.nonzero(sequence >= 0)
    answer = sequence[row, column]
    count = answers.item_offsets[answer + 1] - answers.item_offsets[answer]
    starts = np.repeat(answers.item_offsets[answer] - (np.cumsum(count) - count), count)
    items = answers.items[starts + np.arange(count.sum())]
    rows, places, scores = (np.repeat(values, count) for values in (row, column, score[row, column]))
    if mask_history:
        n_items = len(codec.catalog)
        owner = np.repeat(np.arange(len(queries)), queries.history_length)
        kept = ~np.isin(rows * n_items + items, owner * n_items + queries.items)
        rows, places, items, scores = rows[kept], places[kept], items[kept], scores[kept]
    number = _title_number(rows, places)
    lowest = np.full(len(queries), -np.inf)
    last = number == n_titles - 1
    lowest[rows[last]] = scores[last]
    kept = (number < n_titles) | (scores == lowest[rows])
    rows, items, scores = rows[kept], items[kept], scores[kept]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(queries)))]).astype(np.int64)
    return Rankings(queries.example_id, offsets, items.astype(np.int32), scores)


def _title_number(rows: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Number the titles of each row from 0, given the row and place of every item's title, both ascending."""
    opens_row = np.diff(rows, prepend=-1) != 0
    opens_title = opens_row | (np.diff(places, prepend=-1) != 0)
    number = np.cumsum(opens_title)
    first = np.maximum.accumulate(np.where(opens_row, number, 0))
    return number - first


def titles_of_history(codec: TitleCodec, queries: Queries) -> np.ndarray:
    """Return int64 (B, X), answers of each query that stand for items of its history alone; -1 fills the rows up."""
    n_answers, n_items = len(codec.answers.tokens), len(codec.catalog)
    owner = np.repeat(np.arange(len(queries)), queries.history_length)
    row, item = np.divmod(np.unique(owner * n_items + queries.items), n_items)
    answer = codec.answers.of_item[item].astype(np.int64)
    key, seen = np.unique((row * n_answers + answer)[answer >= 0], return_counts=True)
    row, answer = np.divmod(key, n_answers)
    whole = seen == np.diff(codec.answers.item_offsets)[answer]
    row, answer = row[whole], answer[whole]
    count = np.bincount(row, minlength=len(queries))
    table = np.full((len(queries), int(count.max(initial=0))), -1, dtype=np.int64)
    table[row, np.arange(len(row)) - (np.cumsum(count) - count)[row]] = answer
    return table


def title_records(written: Written, codec: TitleCodec) -> list[dict[str, Any]]:
    """Return one record per query: its titles with their scores, best first, and what the search says of it.

    After an exact search these are ``proven``, ``expansions`` and ``bound``, above which no missing title scores; null
    where nothing is missing that could score as high as a listed title.
    """
    lists = written.rankings
    answer = codec.answers.of_item[lists.items]
    # Steps are those of a query's batch, so they are no fact about the query.
    columns = {name: values.tolist() for name, values in written.facts.items() if name != "steps"}
    if "bound" in columns:
        columns["bound"] = [bound if np.isfinite(bound) else None for bound in columns["bound"]]
    records: list[dict[str, Any]] = []
    for row, example in enumerate(lists.example_id):
        titles: dict[int, float] = {}
        for place in range(lists.offsets[row], lists.offsets[row + 1]):
            titles.setdefault(int(answer[place]), float(lists.scores[place]))
        names = [codec.catalog.titles[codec.answers.items[codec.answers.item_offsets[a]]] for a in titles]
        facts = {name: values[row] for name, values in columns.items()}
        records.append({"example_id": int(example), "titles": names, "scores": list(titles.values()), **facts})
    return records
