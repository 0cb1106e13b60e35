"""`recbench run`: one method on one data set, from data to metrics."""

from __future__ import annotations

import logging
import sys
from contextlib import redirect_stdout
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recbench.cli.output import JsonFlag, console, print_json, progress

if TYPE_CHECKING:
    from recbench.experiment.run import RunResult

log = logging.getLogger(__name__)

HEADLINE = ("HR@5", "HR@10", "NDCG@5", "NDCG@10")


class Device(str, Enum):
    """Where torch computes."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


def run(
    method: Annotated[str | None, typer.Option(help="Method, see 'recbench methods list'.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Data set, see 'recbench datasets list'.")] = None,
    backbone: Annotated[
        str | None,
        typer.Option(help="Language model: auto (default), nano, micro, a Hugging Face id, or a local folder."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.  [default: 42]")] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file with the keys of a run folder's config.yaml.", metavar="F.yaml")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="a.b=c",
            help="Set one value of the method's configuration, or of the protocol (protocol.split=leave-one-out). "
            "May be given many times; wins over the file.",
        ),
    ] = None,
    limit_train: Annotated[
        int | None, typer.Option(help="Keep at most N training rows. A try-out, marked as such.", metavar="N")
    ] = None,
    limit_test: Annotated[
        int | None, typer.Option(help="Keep at most N test rows. A try-out, marked as such.", metavar="N")
    ] = None,
    runs_dir: Annotated[Path, typer.Option(help="Folder of all runs.")] = Path("runs"),
    device: Annotated[Device, typer.Option(help="Where torch computes.")] = Device.auto,
    again: Annotated[
        bool, typer.Option("--again", help="Make one more run, with a fit of its own, even if this one is complete.")
    ] = False,
    keep_model: Annotated[
        bool,
        typer.Option("--keep-model", help="Keep the fitted model: runs that differ in decoding only load it."),
    ] = False,
    no_reuse: Annotated[
        bool, typer.Option("--no-reuse", help="Fit afresh even if a kept model has the same fit.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Run one method on one data set: fit, rank, measure.

    Everything is written to RUNS_DIR/<dataset>/<method>/<run id>/. The id is a hash of all that determines the
    result: a complete run is never repeated, and the same command after a crash, a kill or Ctrl-C goes on from the
    last checkpoint.

    Examples:

        recbench run --method popularity --dataset ml-100k

        recbench run --method sasrec --dataset ml-100k --seed 7 --set epochs=5

        recbench run --method bigrec --dataset ml-100k --backbone nano --set decoding.beams=20 --limit-test 200

        recbench run --method bigrec --dataset ml-100k --keep-model

        recbench run --method bigrec --dataset ml-100k --set decoding.search=exact

        recbench run --config runs/ml-100k/sasrec/3f2a91c07b1d/config.yaml --again
    """
    # Packages that print while they are imported or used must not end up among the results.
    with redirect_stdout(sys.stderr):
        from recbench.experiment.config import build_experiment
        from recbench.experiment.plan import make_plan
        from recbench.experiment.run import run_plan

        flags: dict[str, Any] = {
            "method": method,
            "dataset": dataset,
            "backbone": backbone,
            "seed": seed,
            "protocol": {"limit_train": limit_train, "limit_test": limit_test},
        }
        plan = make_plan(build_experiment(config, flags, assignments or []), device.value)
        for note in (*plan.dataset.notes, *plan.split.warnings):
            log.warning(note)
        if plan.protocol.limited:
            log.warning("Rows are left out to save time: this is a try-out, not a result.")
        command = ["recbench", *sys.argv[1:]]
        result = run_plan(
            plan,
            runs_dir,
            again=again,
            keep_model=keep_model,
            reuse=not no_reuse,
            command=command,
            progress=progress(),
        )
    document = describe(result)
    if as_json:
        print_json(document)
    else:
        _show(document)


def describe(result: RunResult) -> dict[str, Any]:
    """Return what `--json` prints about a complete run."""
    manifest, summary = result.run.manifest, result.run.summary()
    backbone = manifest.backbone
    return {
        "run_id": manifest.run_id,
        "path": str(result.run.paths.folder),
        "status": manifest.status,
        "fresh": result.fresh,
        "method": manifest.method,
        "dataset": manifest.dataset,
        "backbone": backbone.name if backbone else None,
        "backbone_revision": backbone.revision if backbone else None,
        "seed": manifest.seed,
        "device": manifest.device,
        "limited": manifest.limited,
        "n_test": summary["n_test"],
        "n_users": summary["n_users"],
        "metrics": summary["metrics"],
        "metrics_title": summary["metrics_title"],
        "timings_s": manifest.timings_s,
        "peak_memory_bytes": manifest.peak_memory_bytes,
        "attempts": manifest.attempts,
        "fit_id": manifest.fit_id,
        "fit_reused_from": manifest.fit_reused_from,
        "protocol_hash": manifest.protocol_hash,
        "split_fingerprint": manifest.split_fingerprint,
        "notes": list(manifest.notes),
    }


def _show(document: dict[str, Any]) -> None:
    from rich.table import Table

    from recbench.report.format import metric_text

    out = console()
    backbone = f" ({document['backbone']})" if document["backbone"] else ""
    what = f"{document['method']}{backbone} on {document['dataset']}, seed {document['seed']}"
    state = "complete" if document["fresh"] else "was complete already; nothing was run"
    out.print(f"{what}: {state}.", markup=False)
    names = [name for name in HEADLINE if name in document["metrics"]]
    table = Table("truth", *names)
    for truth, key in (("item", "metrics"), ("title", "metrics_title")):
        table.add_row(truth, *(metric_text(document[key][name]) for name in names))
    out.print(table)
    tryout = " A try-out: rows were left out." if document["limited"] else ""
    out.print(f"{document['n_test']:,} test rows of {document['n_users']:,} users.{tryout}")
    times = document["timings_s"]
    stages = ", ".join(f"{stage} {times[stage]:.1f} s" for stage in ("fit", "rank", "evaluate") if stage in times)
    reused = (
        f" The fit is that of {document['fit_reused_from']}, and so is its time." if document["fit_reused_from"] else ""
    )
    out.print(f"Time: {stages}.{reused}", markup=False)
    out.print(f"Run: {document['path']}", markup=False, soft_wrap=True)
    out.print(f"Next: recbench compare {document['method']} OTHER_METHOD --dataset {document['dataset']}", markup=False)
