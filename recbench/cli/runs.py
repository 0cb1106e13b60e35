"""`recbench runs`: what has been run, whether it is intact, and runs from and for elsewhere."""

from __future__ import annotations

import logging
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recbench.cli.models import models, prune_models
from recbench.cli.options import RUNS, RunsDirOption
from recbench.cli.output import JsonFlag, console, print_json
from recbench.cli.tracking import log_runs
from recbench.contracts.errors import ArtifactError

if TYPE_CHECKING:
    from recbench.artifacts.store import StoredRun

log = logging.getLogger(__name__)

app = typer.Typer(
    help="List, show, verify, export, import and log runs; list and delete kept models.", no_args_is_help=True
)
app.command("models")(models)
app.command("prune-models")(prune_models)
app.command("log")(log_runs)

RunReference = Annotated[str, typer.Argument(metavar="RUN", help="Run id (or its beginning), run folder, or method.")]

_LISTED_METRICS = ("HR@10", "NDCG@10")


class State(str, Enum):
    """What a run can be."""

    pending = "pending"
    running = "running"
    interrupted = "interrupted"
    complete = "complete"
    failed = "failed"
    cancelled = "cancelled"


class ExportAs(str, Enum):
    """Formats of exported lists."""

    trec = "trec"
    csv = "csv"


class Ties(str, Enum):
    """How ties are exported."""

    keep = "keep"
    break_ = "break"


class ImportAs(str, Enum):
    """Formats of imported lists."""

    auto = "auto"
    trec = "trec"
    csv = "csv"
    parquet = "parquet"
    titles_json = "titles-json"


@app.command("list")
def list_runs(
    runs_dir: RunsDirOption = RUNS,
    dataset: Annotated[str | None, typer.Option(help="Only runs on this data set.")] = None,
    method: Annotated[str | None, typer.Option(help="Only runs of this method.")] = None,
    status: Annotated[State | None, typer.Option(help="Only runs in this state.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """List all runs, those that failed or were cancelled too.

    Examples:

        recbench runs list

        recbench runs list --dataset ml-100k --status complete --json
    """
    from recbench.artifacts.store import RunStore

    store = RunStore(runs_dir)
    chosen = [
        _row(run) for run in store.select(dataset=dataset, method=method) if status is None or run.state == status.value
    ]
    damaged = [{"path": str(run.folder), "problem": run.problem} for run in store.damaged()]
    if as_json:
        print_json({"runs": chosen, "damaged": damaged})
        return
    if not chosen:
        console().print(f"No runs in {runs_dir}. Start with: recbench run --method popularity --dataset ml-100k")
        return
    _show_rows(chosen)


def _row(run: StoredRun) -> dict[str, Any]:
    manifest = run.manifest
    complete = manifest.status == "complete"
    return {
        "run_id": run.run_id,
        "path": str(run.paths.folder),
        "dataset": manifest.dataset,
        "method": manifest.method,
        "backbone": manifest.backbone.name if manifest.backbone else None,
        "seed": manifest.seed,
        "status": run.state,
        "limited": manifest.limited,
        "created": manifest.created,
        "finished": manifest.finished,
        "metrics": run.summary()["metrics"] if complete and run.paths.summary.exists() else None,
        "error": manifest.error,
    }


def _show_rows(rows: list[dict[str, Any]]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from recbench.report.format import metric_text

    table = Table("run", "data set", "method", "backbone", "seed", "state", *_LISTED_METRICS, "started", "note")
    for row in rows:
        metrics = row["metrics"] or {}
        values = [metric_text(metrics[name]) if name in metrics else "" for name in _LISTED_METRICS]
        note = (row["error"] or "").partition("\n")[0][:60] or ("try-out" if row["limited"] else "")
        started = row["created"][:16].replace("T", " ")
        table.add_row(
            row["run_id"], row["dataset"], row["method"], row["backbone"] or "", str(row["seed"]), row["status"],
            *values, started, escape(note),
        )  # fmt: skip
    console().print(table)


@app.command()
def show(run: RunReference, runs_dir: RunsDirOption = RUNS, as_json: JsonFlag = False) -> None:
    """Show everything about one run: manifest, summary, files.

    Examples:

        recbench runs show 3f2a91

        recbench runs show sasrec --json
    """
    from recbench.artifacts.store import RunStore

    stored = RunStore(runs_dir).get(run)
    document = {
        "path": str(stored.paths.folder),
        "state": stored.state,
        "manifest": stored.manifest.model_dump(mode="json"),
        "summary": stored.summary() if stored.paths.summary.exists() else None,
    }
    if as_json:
        print_json(document)
        return
    import yaml

    console().print(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), markup=False, soft_wrap=True)


@app.command()
def verify(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]...", help="Runs to verify; without any, all complete ones.")
    ] = None,
    runs_dir: RunsDirOption = RUNS,
    as_json: JsonFlag = False,
) -> None:
    """Check that the files of complete runs are as they were when the runs were completed.

    Ends with exit code 3 if a run was changed or its manifest cannot be read.

    Examples:

        recbench runs verify

        recbench runs verify 3f2a91 --json
    """
    from recbench.artifacts.store import RunStore

    store = RunStore(runs_dir)
    chosen = [store.get(reference) for reference in runs] if runs else store.select(status="complete")
    results: list[dict[str, Any]] = [
        {"run_id": run.run_id, "path": str(run.paths.folder), "ok": not problems, "problems": problems}
        for run, problems in ((run, run.verify()) for run in chosen)
    ]
    if not runs:
        results += [
            {"run_id": broken.folder.name, "path": str(broken.folder), "ok": False, "problems": [broken.problem]}
            for broken in store.damaged()
        ]
    n_bad = sum(not result["ok"] for result in results)
    if as_json:
        print_json({"ok": n_bad == 0, "runs": results})
    else:
        for result in results:
            words = "intact" if result["ok"] else "; ".join(result["problems"])
            console().print(f"{result['path']}: {words}", markup=False, soft_wrap=True)
        console().print(f"{len(results) - n_bad} of {len(results)} runs are intact.")
    if n_bad:
        raise typer.Exit(ArtifactError.exit_code)


@app.command("export")
def export_lists(
    run: RunReference,
    out: Annotated[Path, typer.Option(help="File to write.")],
    file_format: Annotated[
        ExportAs, typer.Option("--format", help="trec: 'example_id Q0 item_id rank score tag'; csv: with a header.")
    ] = ExportAs.trec,
    qrels: Annotated[Path | None, typer.Option(help="Also write the targets as TREC qrels here.")] = None,
    ties: Annotated[
        Ties,
        typer.Option(
            help="keep: scores as they are, equal ones stay equal; break: a score of its own for every place, with "
            "the order inside a tie drawn at random, so that every engine keeps the order."
        ),
    ] = Ties.keep,
    tie_seed: Annotated[int, typer.Option(help="Seed of the order inside broken ties.", min=0)] = 0,
    runs_dir: RunsDirOption = RUNS,
    as_json: JsonFlag = False,
) -> None:
    """Write the ranked lists of a complete run for other programs.

    Engines such as trec_eval order a list by its scores alone, break ties by item id, and may read scores in single
    precision. Where that would matter the command says so; --ties break avoids it. Files with kept ties can be
    imported again and then measure exactly the same.

    Examples:

        recbench runs export 3f2a91 --out sasrec.run --qrels targets.qrels

        recbench runs export 3f2a91 --out bigrec.run --qrels targets.qrels --ties break

        recbench runs export 3f2a91 --format csv --out lists.csv
    """
    from recbench.artifacts.store import RunStore
    from recbench.experiment.exchange import export_run

    result = export_run(RunStore(runs_dir).get(run), out, file_format.value, qrels, ties.value, tie_seed)
    blurred = result["tied_lists"] + result["merged_lists"]
    if file_format is ExportAs.trec and blurred:
        log.warning(
            "%s of %s lists hold ties, and %s more scores that are equal in single precision: other engines order them "
            "by item id or at random, recbench takes the expectation. --ties break gives every place its own score.",
            f"{result['tied_lists']:,}", f"{result['lists']:,}", f"{result['merged_lists']:,}",
        )  # fmt: skip
    if as_json:
        print_json(result)
        return
    console().print(f"{result['lines']:,} lines written to {out}.", markup=False, soft_wrap=True)
    if qrels:
        console().print(f"{result['qrels_lines']:,} targets written to {qrels}.", markup=False, soft_wrap=True)


@app.command("import")
def import_lists(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File with ranked lists; trec, csv and json also gzip.")],
    method: Annotated[str, typer.Option(help="Name of the method in tables; it need not be known here.")],
    dataset: Annotated[str, typer.Option(help="Data set whose test rows the lists answer.")],
    file_format: Annotated[
        ImportAs,
        typer.Option(
            "--format",
            help="trec: 'example_id Q0 item_id rank score tag'; csv, parquet: columns example_id, rank, item_id, "
            "score; titles-json: result file of the D3/R3 (LatentR3) code; auto: by the name.",
        ),
    ] = ImportAs.auto,
    seed: Annotated[int, typer.Option(help="Seed it was made with; several are averaged.", min=0)] = 0,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="protocol.a=b", help="A field of the protocol.")
    ] = None,
    runs_dir: RunsDirOption = RUNS,
    as_json: JsonFlag = False,
) -> None:
    """Make a complete run of lists that another program ranked, measured like every other run.

    Example ids are those of the data set's test rows; 'recbench runs export ... --qrels' of any run under the same
    protocol shows them. Test rows without a list count as misses and are reported. A file of titles has all test rows
    in their order, and every target is checked; a title stands for all items that have it.

    Examples:

        recbench runs import other.run --method other --dataset ml-100k

        recbench runs import lists.csv.gz --method other --dataset ml-100k --set protocol.split=leave-one-out

        recbench runs import result.json --format titles-json --method latentr3-published --dataset cds
    """
    from recbench.experiment.config import protocol_assignments
    from recbench.experiment.exchange import guess_format, import_run

    chosen = guess_format(file) if file_format is ImportAs.auto else file_format.value
    protocol = protocol_assignments(assignments or [])
    stored = import_run(file, chosen, method, dataset, protocol, seed, runs_dir)
    facts = stored.summary()["method"]
    if as_json:
        print_json({**_row(stored), "format": chosen, "facts": facts, "notes": list(stored.manifest.notes)})
        return
    for note in stored.manifest.notes:
        console().print(note, markup=False, soft_wrap=True)
    _show_rows([_row(stored)])
    if "published_rule" in facts:
        from recbench.report.format import metric_text

        values = ", ".join(f"{name} {metric_text(value)}" for name, value in facts["published_rule"].items())
        console().print(f"As the published code counts, by title: {values}.", markup=False, soft_wrap=True)
    console().print(f"Run: {stored.paths.folder}", markup=False, soft_wrap=True)
