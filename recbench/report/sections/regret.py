"""Beam regret: what ten beams lost against the true best titles under the model's own score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recbench.contracts.regret import RegretRow
from recbench.report.document import Column, Row, Section, Table

_METRICS = ("HR", "NDCG")
_EXPLANATION = (
    "The same fitted model and score, searched two ways: the beam search of the tables above, and a search that finds "
    "the true best titles of the catalogue. All columns but “Proven” are over the examples whose true list is proven. "
    "A gain of the beam over the true list means that its errors hide what the score really prefers. HR and NDCG are "
    "by exact item."
)


def regret_section(rows: Sequence[RegretRow]) -> Section | None:
    """Return the table of beam regret, or None where no method was searched both ways."""
    if not rows:
        return None
    columns = (
        Column("label", "Method"),
        Column("length_penalty", "Length penalty", "number"),
        Column("beams", "Beams", "count", "", True),
        Column("n_seeds", "Seeds", "count"),
        Column("proven_share", "Proven", "share", "examples whose true list is proven"),
        Column("missed", "True top titles missed", "number", "by the beams, per example"),
        Column("wanted", "of", "number", "titles in the true list"),
        Column("first_differs", "Best title differs", "share"),
        Column("gap_mean", "Score gap", "number", "mean difference of the scores, place by place"),
        *(
            Column(f"{search} item/{metric}@10", f"{metric}@10 {search}", "metric")
            for metric in _METRICS
            for search in ("beam", "exact")
        ),
        Column("gap_first", "Score gap of the first", "number", "", True),
        *(
            Column(f"{search} title/{metric}@10", f"{metric}@10 {search}, by title", "metric", "", True)
            for metric in _METRICS
            for search in ("beam", "exact")
        ),
        Column("seeds", "Seed numbers", "code", "", True),
        Column("beam_runs", "Runs with beams", "code", "", True),
        Column("exact_runs", "Runs with exact search", "code", "", True),
        Column("same_fit", "One fit", "text", "both runs of a pair are lists of one stored model", True),
    )
    refitted = ", ".join(dict.fromkeys(row.label for row in rows if not row.same_fit))
    notes = (
        (
            f"{refitted}: the two runs of a pair have equal configuration and seed, but are not recorded as lists of "
            "one stored model, so small differences may come from fitting twice.",
        )
        if refitted
        else ()
    )
    table = Table("regret", "Beam regret", columns, tuple(Row(_values(row)) for row in rows), notes, headline=True)
    return Section("regret", "Beam regret", (_EXPLANATION,), tables=(table,))


def _values(row: RegretRow) -> dict[str, Any]:
    return {
        "label": row.label,
        "length_penalty": row.length_penalty,
        "beams": row.beams,
        "n_seeds": len(row.seeds),
        "proven_share": row.proven,
        **row.values,
        "seeds": " ".join(map(str, row.seeds)),
        "beam_runs": " ".join(row.beam_runs),
        "exact_runs": " ".join(row.exact_runs),
        "same_fit": "yes" if row.same_fit else "no",
    }
