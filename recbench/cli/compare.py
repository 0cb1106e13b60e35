"""`recbench compare`: which of these is better, and is there evidence for it?"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from recbench.cli.options import RUNS, RunsDirOption
from recbench.cli.output import JsonFlag, console, print_json
from recbench.contracts.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from recbench.artifacts.store import RunStore
    from recbench.contracts.comparison import Comparison
    from recbench.experiment.pairs import CompareOptions
    from recbench.report.document import Column, Row, Table


_SIDE_BY_SIDE = 4
# A narrow terminal leaves these columns of the pairs to --details.
_WIDE = 120
_WIDE_ONLY = ("users", "detectable_adjusted")


class RunsTestName(str, Enum):
    """The t-tests over run means, as words of the command line."""

    welch = "welch"
    paired = "paired"


def compare(
    references: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN_OR_METHOD...",
            help="Run ids (or their beginnings), run folders, method names, or labels as tables print them. A run "
            "stands for itself, a method for all of its complete runs, averaged over seeds.",
            show_default=False,
        ),
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="Run or method that all others are compared with; without it: all pairs.")
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="HR@k, NDCG@k or MRR@k, with k one of the protocol's cutoffs; with --truth title also LL, the "
            "log-probability of the true titles.",
            show_default="NDCG@10",
        ),
    ] = None,
    truth: Annotated[
        str | None,
        typer.Option(help="item: the exact item counts; title: any item with its title.", show_default="item"),
    ] = None,
    margin: Annotated[
        str | None,
        typer.Option(
            metavar="M",
            help="Difference that does not matter: 0.002 in the metric's unit, or 2% of B's mean. With it, pairs can "
            "be found equivalent.",
        ),
    ] = None,
    family: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.yaml", help="Declared family of tests over pairs, metrics and data sets, adjusted together."
        ),
    ] = None,
    explore: Annotated[
        bool, typer.Option("--explore", help="Look for leads: Benjamini-Hochberg instead of Holm, marked exploratory.")
    ] = False,
    runs_test: Annotated[
        RunsTestName | None,
        typer.Option(help="Also the published protocol, a t-test over run means: welch, or paired by seed."),
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Takes only runs on this data set.")] = None,
    protocol: Annotated[
        str | None, typer.Option(help="Takes only runs whose protocol hash begins with this.", metavar="HASH")
    ] = None,
    details: Annotated[
        bool,
        typer.Option("--details", help="Show all columns: raw p-values, errors, effects."),
    ] = False,
    runs_dir: RunsDirOption = RUNS,
    as_json: JsonFlag = False,
) -> None:
    r"""Compare runs on exactly the same examples, with the user as the unit of every test.

    Refuses to mix data sets, splits or protocols. The p-values are adjusted (Holm) over the pairs that are printed, or
    over the family of a file.

    Examples:

        recbench compare sasrec bigrec latentr3 --dataset ml-100k

        recbench compare bigrec latentr3 --baseline popularity --metric HR@10 --truth title

        recbench compare bigrec d3 --margin 2%

        recbench compare bigrec latentr3 --truth title --metric LL

        recbench compare bigrec latentr3 --runs-test welch

        recbench compare --family claims.yaml --json

    A family file (YAML; docs/statistics.md has more):

        {name: main claims, tests: \[{pairs: \[\[latentr3, bigrec]], metrics: \[NDCG@10, HR@10], datasets: \[toys]}]}
    """
    from recbench.artifacts.store import RunStore
    from recbench.experiment.compare import compare as compare_runs

    options = _options(margin, explore, runs_test)
    store = RunStore(runs_dir)
    if family is not None:
        given = {"RUN_OR_METHOD": references, "--baseline": baseline, "--dataset": dataset}
        _refuse_beside_family(given | {"--metric": metric, "--truth": truth})
        _compare_family(store, family, protocol, options, as_json, details)
        return
    if not references:
        raise UsageError("Nothing to compare was named.", "Name methods or runs, or give --family FILE.yaml.")
    comparison = compare_runs(
        store,
        references,
        baseline=baseline,
        metric=metric or "NDCG@10",
        truth=truth or "item",
        dataset=dataset,
        protocol=protocol,
        options=options,
    )
    if as_json:
        print_json(comparison.to_json())
    else:
        _show([comparison], details)


def _options(margin: str | None, explore: bool, runs_test: RunsTestName | None) -> CompareOptions:
    from recbench.experiment.pairs import CompareOptions
    from recbench.stats.equivalence import parse_margin

    return CompareOptions(
        margin=None if margin is None else parse_margin(margin),
        correction="bh" if explore else "holm",
        runs_test=None if runs_test is None else runs_test.value,
    )


def _refuse_beside_family(given: Mapping[str, object]) -> None:
    """A declared family says itself what is compared; what it does not say must not be chosen afterwards."""
    surplus = [name for name, value in given.items() if value]
    if surplus:
        raise UsageError(
            f"{', '.join(surplus)} cannot be given beside --family: the file says what is compared.",
            "Write it into the file: tests with pairs, metrics, truths and datasets.",
        )


def _compare_family(
    store: RunStore, path: Path, protocol: str | None, options: CompareOptions, as_json: bool, details: bool
) -> None:
    from recbench.experiment.family import compare_family, read_family

    family = compare_family(store, read_family(path), protocol=protocol, options=options)
    if as_json:
        print_json(family.to_json())
        return
    if family.why:
        console().print(family.why, markup=False)
    _show(family.comparisons, details)


def _show(comparisons: Sequence[Comparison], details: bool) -> None:
    """Print the tables of all comparisons of a family, then once what their numbers mean."""
    from recbench.report.sections.comparison import entry_table, explanation, pair_table, warnings

    out = console()
    for comparison in comparisons:
        out.print(entry_table(comparison).title, style="bold", markup=False)
        _print_table(entry_table(comparison))
        (_print_details if details else _print_table)(pair_table(comparison))
        for note in comparison.notes:
            out.print(f"Note: {note}", markup=False)
    for text in explanation(*comparisons):
        out.print(text, markup=False)
    for warning in dict.fromkeys(one for comparison in comparisons for one in warnings(comparison)):
        out.print(f"Warning: {warning}", markup=False)


def _print_table(table: Table) -> None:
    """Print one line per row, without the columns that are details."""
    from rich.table import Table as RichTable

    narrow = console().width < _WIDE
    columns = [one for one in table.columns if not one.detail and not (narrow and one.key in _WIDE_ONLY)]
    drawn = RichTable()
    for column in columns:
        drawn.add_column(Text(column.title), justify="left" if column.kind in ("text", "code") else "right")
    for row in table.rows:
        drawn.add_row(*(_cell(row, column) for column in columns))
    console().print(drawn)
    for note in table.notes:
        console().print(note, markup=False)


def _print_details(table: Table) -> None:
    """Print one line per column of a table, and one column for each of its rows, a few rows at a time."""
    from rich.table import Table as RichTable

    for begin in range(0, len(table.rows), _SIDE_BY_SIDE):
        rows = table.rows[begin : begin + _SIDE_BY_SIDE]
        drawn = RichTable(show_header=False)
        for column in table.columns:
            drawn.add_row(Text(column.title), *(_cell(row, column) for row in rows), Text(column.help, "dim"))
        console().print(drawn)


def _cell(row: Row, column: Column) -> Text:
    from recbench.report.format import cell_text

    return Text(cell_text(row.values.get(column.key), column.kind), "bold" if column.key in row.bold else "")
