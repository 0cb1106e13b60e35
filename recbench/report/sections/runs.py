"""Runs that are in no table: unfinished ones, and folders that cannot be read."""

from __future__ import annotations

from collections.abc import Sequence

from recbench.contracts.unfinished import UnfinishedRun
from recbench.report.document import Column, Row, Section, Table


def unfinished_section(runs: Sequence[UnfinishedRun]) -> Section | None:
    """Return the list of runs that failed, were cancelled or have not ended; None where there is none."""
    if not runs:
        return None
    columns = (
        Column("name", "Method"),
        Column("dataset", "Data set"),
        Column("seed", "Seed", "count"),
        Column("run_id", "Run", "code"),
        Column("status", "Status"),
        Column("reason", "Reason"),
        Column("tryout", "Try-out", "text", "rows were left out", True),
    )
    rows = tuple(
        Row(
            {
                "name": run.name,
                "dataset": run.dataset,
                "seed": run.seed,
                "run_id": run.run_id,
                "status": run.status,
                "reason": run.reason,
                "tryout": "yes" if run.limited else "no",
            }
        )
        for run in runs
    )
    table = Table("unfinished", "Runs that are not complete", columns, rows)
    return Section(
        "unfinished",
        "Runs that are not complete",
        ("They are in none of the tables above. Give a run's command again to complete it.",),
        tables=(table,),
    )


def damaged_section(problems: Sequence[str]) -> Section | None:
    """Return the list of folders that could not be used, each with its problem; None where there is none."""
    if not problems:
        return None
    table = Table(
        "damaged",
        "Folders that could not be read",
        (Column("problem", "What was found and what to do"),),
        tuple(Row({"problem": problem}) for problem in problems),
    )
    return Section(
        "damaged",
        "Folders that could not be read",
        warnings=(f"{len(problems)} run(s) are damaged or were changed, and left out.",),
        tables=(table,),
    )
