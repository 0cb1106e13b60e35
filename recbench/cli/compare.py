"""`recbench compare`: which of these is better, and is there evidence for it?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recbench.cli.output import JsonFlag, console, print_json

if TYPE_CHECKING:
    from recbench.contracts.comparison import Comparison


def compare(
    references: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN_OR_METHOD...",
            help="Run ids (or their beginnings), run folders, or method names. A run stands for itself, a method for "
            "all of its complete runs, averaged over seeds.",
        ),
    ],
    baseline: Annotated[
        str | None, typer.Option(help="Run or method that all others are compared with; without it: all pairs.")
    ] = None,
    metric: Annotated[str, typer.Option(help="HR@k, NDCG@k or MRR@k, with k one of the protocol's cutoffs.")] = (
        "NDCG@10"
    ),
    truth: Annotated[str, typer.Option(help="item: the exact item counts; title: any item with its title.")] = "item",
    dataset: Annotated[str | None, typer.Option(help="Takes only runs on this data set.")] = None,
    protocol: Annotated[
        str | None, typer.Option(help="Takes only runs whose protocol hash begins with this.", metavar="HASH")
    ] = None,
    runs_dir: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs"),
    as_json: JsonFlag = False,
) -> None:
    """Compare runs on exactly the same examples, with the user as the unit of every test.

    Refuses to mix data sets, splits or protocols. The p-values are adjusted (Holm) over the pairs that are printed.

    Examples:

        recbench compare sasrec bigrec latentr3 --dataset ml-100k

        recbench compare bigrec latentr3 --baseline popularity --metric HR@10 --truth title

        recbench compare 3f2a91 77c0de --json
    """
    from recbench.artifacts.store import RunStore
    from recbench.experiment.compare import compare as compare_runs

    comparison = compare_runs(
        RunStore(runs_dir),
        references,
        baseline=baseline,
        metric=metric,
        truth=truth,
        dataset=dataset,
        protocol=protocol,
    )
    if as_json:
        print_json(comparison.to_json())
    else:
        _show(comparison)


def _show(comparison: Comparison) -> None:
    from rich.table import Table

    from recbench.report.format import interval_text, metric_text, pair_explanation, pair_table

    out = console()
    mark = "  [TRY-OUT: rows were left out]" if comparison.limited else ""
    out.print(f"{comparison.dataset}: {comparison.metric} by {comparison.truth}{mark}", style="bold", markup=False)
    entries = Table("entry", comparison.metric, f"{comparison.level:.0%} interval", "seeds", "runs")
    for entry in comparison.entries:
        seeds = " ".join(map(str, entry.seeds))
        entries.add_row(
            entry.label, metric_text(entry.mean), interval_text(entry.interval), seeds, " ".join(entry.run_ids)
        )
    out.print(entries)
    header, rows = pair_table(comparison, brief=True)
    pairs = Table(*header)
    for row in rows:
        pairs.add_row(*row)
    out.print(pairs)
    out.print(pair_explanation(comparison, brief=True), markup=False)
    for note in comparison.notes:
        out.print(f"Note: {note}", markup=False)
