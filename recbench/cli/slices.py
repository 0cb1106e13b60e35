"""`recbench slices`: who gains where?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from recbench.cli.options import RUNS, RunsDirOption
from recbench.cli.output import JsonFlag, console, print_json

if TYPE_CHECKING:
    from recbench.contracts.slices import SlicedEntry, SliceTable, SliceValue


def slices(
    references: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN_OR_METHOD...",
            help="Run ids (or their beginnings), run folders, or method names. A run stands for itself, a method for "
            "all of its complete runs, averaged over seeds.",
        ),
    ],
    by: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="How to cut the test examples; may be given several times: popularity, deciles (-seen behind either: "
            "by all occurrences, not as target alone), cold, cold-strict, cold-loose, history, activity, age; or a "
            "table of the LatentR3 paper: table9, table10. Without it: popularity, cold and history.",
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(help="Run or method that all others are compared with; without it: sasrec, or else the best."),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="HR@k, NDCG@k or MRR@k, with k one of the protocol's cutoffs; else NDCG@10.")
    ] = None,
    truth: Annotated[
        str | None,
        typer.Option(help="item: the exact item counts (the default); title: any item with its title."),
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Takes only runs on this data set.")] = None,
    protocol: Annotated[
        str | None, typer.Option(help="Takes only runs whose protocol hash begins with this.", metavar="HASH")
    ] = None,
    runs_dir: RunsDirOption = RUNS,
    as_json: JsonFlag = False,
) -> None:
    """Measure runs on parts of the test examples, and test whether a gain is larger on one part than on the rest.

    Parts are cut by the target's popularity, by whether training ever shows it, by the history's length, by how active
    the user is, or by the item's age. No boundary is chosen on test data. The user is the unit of every interval and
    test.

    Examples:

        recbench slices sasrec bigrec latentr3 --dataset ml-100k

        recbench slices bigrec latentr3 --by popularity --by deciles --baseline bigrec --metric HR@10

        recbench slices bigrec latentr3 --dataset toys --by table9 --json
    """
    from recbench.artifacts.store import RunStore
    from recbench.experiment.slices import DEFAULT_CUTS, slice_runs
    from recbench.report.sections.slices import explanation

    tables = slice_runs(
        RunStore(runs_dir),
        references,
        by=by or DEFAULT_CUTS,
        baseline=baseline,
        metric=metric,
        truth=truth,
        dataset=dataset,
        protocol=protocol,
    )
    if as_json:
        print_json({"tables": [table.to_json() for table in tables]})
        return
    for table in tables:
        _show(table)
    console().print(explanation(tables[0]).replace("**", ""), markup=False)
    for note in dict.fromkeys(note for table in tables for note in table.notes):
        console().print(f"Note: {note}", markup=False)


def _show(table: SliceTable) -> None:
    from rich.table import Table

    from recbench.contracts.slices import WARNING_TEXT

    out = console()
    mark = "  [TRY-OUT: rows were left out]" if table.limited else ""
    out.print(f"{table.dataset}: {table.metric} by {table.truth}, {table.title}{mark}", style="bold", markup=False)
    against = [] if table.baseline is None else ["gain", "interval", "gain of sums", "mean gain"]
    lines = Table("slice", "examples", "users", "items", "entry", table.metric, f"{table.level:.0%} interval", *against)
    for place, one in enumerate(table.slices):
        facts = [one.title, f"{one.n_rows:,} ({one.share:.1%})", f"{one.n_users:,}", f"{one.n_items:,}"]
        for number, entry in enumerate(table.entries):
            lines.add_row(*(facts if number == 0 else [""] * 4), entry.label, *_cells(table, entry.values[place]))
        lines.add_section()
    for number, entry in enumerate(table.entries):
        first = ["all", f"{table.n_examples:,}", "", ""] if number == 0 else [""] * 4
        lines.add_row(*first, entry.label, *_cells(table, entry.whole))
    out.print(lines)
    for warning, text in WARNING_TEXT.items():
        titles = [one.title for one in table.slices if warning in one.warnings]
        if titles:
            out.print(f"Warning: {warning} ({'; '.join(titles)}): {text}.", markup=False)
    if table.n_unknown:
        out.print(f"{table.n_unknown:,} examples are in no slice.", markup=False)
    if table.baseline is None:
        return
    out.print(f"Gains are over {table.baseline} ({table.baseline_rule}).", markup=False)
    tested = [entry for entry in table.entries if entry.absolute or entry.relative]
    if tested:
        _show_contrasts(table, tested)
    out.print()


def _show_contrasts(table: SliceTable, entries: list[SlicedEntry]) -> None:
    from rich.table import Table

    from recbench.report.format import cell_text

    out = console()
    out.print(f"Is the gain larger on {table.focus_title} than on all other examples?", markup=False)
    lines = Table("entry", "gain inside − outside", "interval", "p (Holm)", "difference inside − outside", "p (Holm)")
    for entry in entries:
        relative, absolute = entry.relative, entry.absolute
        lines.add_row(
            entry.label,
            cell_text(relative.value if relative else None, "change"),
            cell_text(relative.interval if relative else None, "change_interval"),
            cell_text(relative.p_adjusted if relative else None, "p"),
            cell_text(absolute.value if absolute else None, "signed"),
            cell_text(absolute.p_adjusted if absolute else None, "p"),
        )
    out.print(lines)


def _cells(table: SliceTable, value: SliceValue) -> list[str]:
    from recbench.report.format import cell_text

    cells = [cell_text(value.mean, "metric"), cell_text(value.interval, "interval")]
    if table.baseline is not None:
        cells += [
            cell_text(value.improvement, "change"),
            cell_text(value.improvement_interval, "change_interval"),
            cell_text(value.improvement_of_sums, "change"),
            cell_text(value.mean_improvement, "change"),
        ]
    return cells
