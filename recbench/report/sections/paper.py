"""The paper's values beside ours, for the data sets, methods and settings that it reports."""

from __future__ import annotations

from collections.abc import Mapping

from recbench.contracts.leaderboard import Leaderboard
from recbench.report.document import Column, Row, Section, Table
from recbench.report.paper.values import Paper, PaperRow, load_paper, paper_values


def paper_section(board: Leaderboard) -> Section | None:
    """Return the table of the paper's values beside ours by the same truth, or None where the paper has none."""
    lines = paper_values(board)
    if not lines:
        return None
    paper = load_paper()
    metrics = [metric for metric in board.metrics if any(metric in line.values for line in lines.values())]
    truth = paper.truth
    columns = (
        Column("label", "Method"),
        Column("paper_label", "In the paper"),
        Column("table", "Its table", "count"),
        *(
            column
            for metric in metrics
            for column in (
                Column(f"{truth}/{metric}", f"{metric}, ours", "metric", f"hit: {truth}"),
                Column(f"paper/{metric}", f"{metric}, paper", "metric", "as printed"),
            )
        ),
        Column("flag", "Doubt", "text", "key of what is doubtful about the printed values", True),
    )
    rows = tuple(
        Row(
            {
                "label": row.entry.label,
                "paper_label": line.label,
                "table": line.table,
                "flag": line.flag,
                **{f"{truth}/{metric}": row.metrics[f"{truth}/{metric}"] for metric in metrics},
                **{f"paper/{metric}": line.values.get(metric) for metric in metrics},
            },
            marks={f"paper/{metric}": "†" for metric in metrics} if line.flag else None,
        )
        for row in board.rows
        if (line := lines.get(row.entry.label))
    )
    table = Table("paper", f"Ours and the {paper.paper} paper's", columns, rows, tuple(_notes(paper, lines)), True)
    return Section(
        "paper",
        f"Beside the {paper.paper} paper",
        (
            f"Values as printed in {paper.source}. It counts any item with the target's title as a hit, so ours are by "
            f"{truth} here.",
        ),
        warnings=(_warning(board, paper),),
        tables=(table,),
    )


def _warning(board: Leaderboard, paper: Paper) -> str:
    own = board.backbone or "none"
    return (
        f"The two columns are no measurement of each other: the paper's language model is {paper.backbone} (here: "
        f"{own}), its rows come from its own preprocessing of the data, its settings were chosen anew, and its "
        "numbers have no interval. Differences between methods may be compared in their direction, not values."
    )


def _notes(paper: Paper, lines: Mapping[str, PaperRow]) -> list[str]:
    flags = dict.fromkeys(line.flag for line in lines.values() if line.flag)
    tables = sorted({line.table for line in lines.values()})
    return [
        *(f"†: {paper.flags[flag]}" for flag in flags),
        *(f"Table {table}: {paper.notes[table]}" for table in tables if table in paper.notes),
    ]
