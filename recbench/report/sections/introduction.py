"""What stands before the groups of a report: all of them at a glance, and how to read them."""

from __future__ import annotations

from collections.abc import Mapping

from recbench.contracts.leaderboard import Leaderboard
from recbench.report.document import Column, Row, Section, Table

_READING = (
    "Every method got the same examples and returned one ranked list of exact items per example; all numbers are "
    "computed from those stored lists. Only runs on the same data, split and protocol share a table, and no two "
    "language models do.",
    "**item**: the exact item must be listed (the headline). **title**: any item with the target's title counts; the "
    "list is read as a list of distinct titles. The published LLM code measures the second.",
    "**HR@k**: share of examples whose target is among the first k. **NDCG@k**: 1 / log2(place + 1) if it is, else 0. "
    "If the target is tied with other items, the value is the expectation over their random order.",
    "**Interval**: from a bootstrap over users. **Seeds**: runs averaged per example. **Training**, **ranking**: "
    "wall-clock seconds, mean over seeds, without the pretraining of a shared preset backbone.",
)


def introduction(version: str, runs_dir: str, n_groups: int) -> Section:
    """Return the sentences that stand before all groups.

    Args:
        version: of recbench.
        runs_dir: folder of the runs, as it was given.
        n_groups: how many leaderboards follow.
    """
    made = f"Made by recbench {version} from the runs in `{runs_dir}`."
    nothing = (
        "There is no complete run yet.",
        "Make one, for example with `recbench run --method popularity --dataset ml-100k`, then this report again.",
    )
    return Section("introduction", "How to read this", (made, *(_READING if n_groups else nothing)))


def overview(boards: Mapping[str, Leaderboard]) -> Section | None:
    """Return one line per leaderboard: what it is about, who leads, and who else may be the best.

    Args:
        boards: slug of the group -> its leaderboard, in order.
    """
    if not boards:
        return None
    columns = (
        Column("group", "Leaderboard"),
        Column("entries", "Methods", "count"),
        Column("n_examples", "Test rows", "count"),
        Column("n_users", "Users", "count"),
        Column("best", "First"),
        Column("metric", "By"),
        Column("mean", "Value", "metric", "of the exact item"),
        Column("interval", "Interval", "interval"),
        Column("also", "May be the best, too", "text", "no other method is shown to be better"),
    )
    rows = []
    for slug, board in boards.items():
        first, *others = board.comparison.entries
        rows.append(
            Row(
                {
                    "group": board.title,
                    "entries": len(board.rows),
                    "n_examples": board.comparison.n_examples,
                    "n_users": board.comparison.n_users,
                    "best": first.label,
                    "metric": board.metrics[0],
                    "mean": first.mean,
                    "interval": first.interval,
                    "also": ", ".join(entry.label for entry in others if entry.in_best_set) or "none",
                },
                link=slug,
            )
        )
    table = Table("overview", "All leaderboards", columns, tuple(rows), headline=True)
    return Section("overview", "At a glance", tables=(table,))
