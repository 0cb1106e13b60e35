"""`recbench runs log`: complete runs in an experiment tracker."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from recbench.cli.options import RUNS, RunsDirOption
from recbench.cli.output import JsonFlag, console, print_json, progress


class Tracker(str, Enum):
    """Where runs can be logged."""

    mlflow = "mlflow"


def log_runs(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Run ids (or their beginnings), run folders, or methods.")
    ],
    to: Annotated[Tracker, typer.Option(help="The tracker. mlflow: pip install 'recbench[mlflow]'.")],
    tracking_uri: Annotated[
        str | None,
        typer.Option(help="Where it is: http://HOST:PORT or sqlite:///FILE.db.  [default: MLFLOW_TRACKING_URI]"),
    ] = None,
    experiment: Annotated[str, typer.Option(help="Name of the tracker's experiment.")] = "recbench",
    runs_dir: RunsDirOption = RUNS,
    as_json: JsonFlag = False,
) -> None:
    """Log complete runs: settings, metrics of both truths, costs, training curves and files.

    A run that was logged to the experiment before is left as it is. In names '@' becomes '_at_' (item/NDCG_at_10).

    Examples:

        recbench runs log 3f2a91 --to mlflow --tracking-uri sqlite:///mlflow.db

        recbench runs log sasrec bigrec --to mlflow --experiment ml-100k
    """
    from recbench.artifacts.store import RunStore
    from recbench.experiment.tracking import log_to_mlflow, open_mlflow

    store = RunStore(runs_dir)
    chosen = {run.run_id: run for reference in runs for run in store.find(reference, status="complete")}
    client = open_mlflow(tracking_uri)
    results = []
    with progress().bar("Logging", total=len(chosen)) as bar:
        for run in chosen.values():
            results.append(log_to_mlflow(run, client, experiment))
            bar.advance()
    if as_json:
        print_json({"runs": results})
        return
    for result in results:
        words = "logged as" if result["fresh"] else "was logged before as"
        console().print(f"{result['run_id']} {words} {result['mlflow_run_id']}.", markup=False, soft_wrap=True)
