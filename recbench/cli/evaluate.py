"""`recbench evaluate`: metrics again from the stored rankings."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from recbench.cli.options import RUNS, RunsDirOption
from recbench.cli.output import JsonFlag, console, print_json, progress


def evaluate(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Run ids (or their beginnings) or run folders.")],
    runs_dir: RunsDirOption = RUNS,
    as_json: JsonFlag = False,
) -> None:
    """Recompute the metrics of complete runs from their stored rankings.

    Rewrites metrics.parquet and summary.json; nothing is trained or ranked again. It also adds what runs of an older
    recbench lack, such as the facts that `recbench slices` needs. Refused if the data set has changed since the run.

    Examples:

        recbench evaluate 3f2a91

        recbench evaluate runs/ml-100k/sasrec/3f2a91c07b1d --json
    """
    from recbench.artifacts.store import RunStore
    from recbench.experiment.evaluate import reevaluate

    store = RunStore(runs_dir)
    chosen = [store.get(run) for run in runs]
    results: list[dict[str, Any]] = []
    with progress().bar("Evaluating", total=len(chosen)) as bar:
        for run in chosen:
            results.append(reevaluate(run))
            bar.advance()
    if as_json:
        print_json({"runs": results})
        return
    _show(results)


def _show(results: list[dict[str, Any]]) -> None:
    from rich.table import Table

    from recbench.report.format import metric_text

    names = [name for name in results[0]["metrics"] if name in ("HR@5", "HR@10", "NDCG@5", "NDCG@10")]
    table = Table("run", "method", "data set", "truth", *names, "changed")
    for result in results:
        for truth, key in (("item", "metrics"), ("title", "metrics_title")):
            values = [metric_text(result[key][name]) for name in names]
            changed = "yes" if result["changed"] else "no"
            table.add_row(result["run_id"], result["method"], result["dataset"], truth, *values, changed)
    console().print(table)
