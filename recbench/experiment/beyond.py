"""Summaries of runs -> what the lists of each entry look like beyond accuracy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from recbench.contracts.beyond import BeyondRow
from recbench.experiment.entries import Entry

_OF_LISTS = ("coverage", "gini", "average_popularity", "popular_share", "novelty")
_SIMILARITIES = ("similarity_title", "similarity_category")


def beyond_of_group(entries: Sequence[Entry]) -> tuple[BeyondRow, ...]:
    """Return one row per entry, from the summaries of its runs.

    Raises:
        ArtifactError: a summary is missing or damaged.
    """
    return tuple(_row(entry) for entry in entries)


def _row(entry: Entry) -> BeyondRow:
    summaries = {run.run_id: run.summary() for run in entry.runs}
    facts = [_facts(summary) for summary in summaries.values()]
    means = {name: _mean(one[name] for one in facts) for name in facts[0]}
    lacking = tuple(run_id for run_id, summary in summaries.items() if "novelty" not in summary["lists"])
    return BeyondRow(
        label=entry.label,
        run_ids=entry.run_ids,
        k=next(iter(summaries.values()))["lists"]["k"],
        lacking=lacking,
        **means,
    )


def _facts(summary: Mapping[str, Any]) -> dict[str, float | None]:
    lists, validity, n_lists = summary["lists"], summary["validity"], summary["n_test"]
    written = summary.get("generated") or {}
    return {
        **{name: lists.get(name) for name in (*_OF_LISTS, *_SIMILARITIES)},
        "empty_lists": _share(validity["empty"], n_lists),
        "short_lists": _share(validity["shorter_than_10"], n_lists),
        "tied_places": summary["tie_rate"]["places"],
        "invalid_titles": _share(written.get("invalid"), written.get("titles")),
        "repeated_titles": _share(written.get("repeated"), written.get("titles")),
        "texts_not_a_title": _share(written.get("texts_not_a_title"), written.get("texts")),
    }


def _share(part: int | None, of: int | None) -> float | None:
    return part / of if part is not None and of else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
