"""`recbench run`: one method on one data set, from data to metrics."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recbench.cli.options import (
    RUNS,
    BackboneOption,
    ConfigOption,
    DatasetOption,
    Device,
    DeviceOption,
    LimitTestOption,
    LimitTrainOption,
    MethodOption,
    RunsDirOption,
    SeedOption,
    SetOption,
)
from recbench.cli.output import JsonFlag, console, print_json, progress
from recbench.contracts.errors import RecbenchError

if TYPE_CHECKING:
    from recbench.experiment.plan import RunPlan
    from recbench.experiment.ranks import Team
    from recbench.experiment.run import RunResult
    from recbench.experiment.tune import Tuned

log = logging.getLogger(__name__)

HEADLINE = ("HR@5", "HR@10", "NDCG@5", "NDCG@10")


def run(
    method: MethodOption = None,
    dataset: DatasetOption = None,
    backbone: BackboneOption = None,
    seed: SeedOption = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    limit_train: LimitTrainOption = None,
    limit_test: LimitTestOption = None,
    tune_file: Annotated[
        Path | None,
        typer.Option(
            "--tune",
            metavar="GRID.yaml",
            help="Try settings on validation rows first, then run the best: search (grid, random, optuna), budget, "
            "metric, rows, and space with values per key. Its keys win over --set.",
        ),
    ] = None,
    runs_dir: RunsDirOption = RUNS,
    device: DeviceOption = Device.auto,
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

        recbench run --method sasrec --dataset ml-100k --tune benchmarks/methods/sasrec/grid.yaml

        torchrun --nproc-per-node 2 -m recbench run --method bigrec --dataset ml-100k

        recbench run --config runs/ml-100k/sasrec/3f2a91c07b1d/config.yaml --again
    """
    flags: dict[str, Any] = {
        "method": method,
        "dataset": dataset,
        "backbone": backbone,
        "seed": seed,
        "protocol": {"limit_train": limit_train, "limit_test": limit_test},
    }
    # Packages that print while they are imported or used must not end up among the results.
    with redirect_stdout(sys.stderr):
        from recbench.experiment.config import build_experiment
        from recbench.experiment.plan import make_plan
        from recbench.experiment.ranks import Team

        team = Team.of_environment()
        with _silent_unless(team.leads):
            plan = make_plan(build_experiment(config, flags, assignments or []), device.value)
            team.check(plan.asked.method, plan.method)
            with team.joined(plan.device):
                if team.leads:
                    options = _Options(runs_dir, tune_file, again=again, keep_model=keep_model, no_reuse=no_reuse)
                    result, tuned = _lead(plan, team, options)
                else:
                    followed = team.follow(plan.fit)
    if not team.leads:
        raise typer.Exit(0 if followed else 1)
    document = describe(result, tuned)
    if as_json:
        print_json(document)
    else:
        _show(document)


@dataclass(frozen=True)
class _Options:
    """What was asked about the run that does not determine its result."""

    runs_dir: Path
    tune_file: Path | None
    again: bool
    keep_model: bool
    no_reuse: bool


def _lead(plan: RunPlan, team: Team, options: _Options) -> tuple[RunResult, Tuned | None]:
    """Tune if asked to, then run."""
    from recbench.artifacts.models import ModelStore
    from recbench.artifacts.paths import models_folder
    from recbench.experiment.fit import Fitter
    from recbench.experiment.run import run_plan
    from recbench.experiment.tune import tune

    for note in (*plan.dataset.notes, *plan.split.warnings):
        log.warning(note)
    if plan.protocol.limited:
        log.warning("Rows are left out to save time: this is a try-out, not a result.")
    runs_dir = options.runs_dir
    stores = [] if options.no_reuse else [ModelStore(models_folder(runs_dir))]
    fitter = Fitter(stores, ["recbench", *sys.argv[1:]], team.order_fit)
    tuned = tune(plan, options.tune_file, runs_dir, fitter, progress()) if options.tune_file else None
    result = run_plan(
        tuned.plan if tuned else plan,
        runs_dir,
        again=options.again,
        keep_model=options.keep_model,
        fitter=fitter,
        progress=progress(),
        tuned=tuned,
    )
    return result, tuned


@contextmanager
def _silent_unless(leads: bool) -> Iterator[None]:
    """Keep a process quiet that only helps another: that one meets the same errors and tells them."""
    if leads:
        yield
        return
    logging.disable(logging.WARNING)
    try:
        yield
    except RecbenchError as error:
        raise typer.Exit(error.exit_code) from error


def describe(result: RunResult, tuned: Tuned | None = None) -> dict[str, Any]:
    """Return what `--json` prints about a complete run, and about the tuning that chose it."""
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
        "fit_started_from": manifest.fit_started_from,
        "protocol_hash": manifest.protocol_hash,
        "split_fingerprint": manifest.split_fingerprint,
        "notes": list(manifest.notes),
        "tuning": _describe_tuning(tuned) if tuned else None,
    }


def _describe_tuning(tuned: Tuned) -> dict[str, Any]:
    shown = ("number", "status", "chosen", "value", "repeats", "error", "timings_s")
    trials = [trial.model_dump(mode="json", include=set(shown)) for trial in tuned.trials]
    return {
        **tuned.record.model_dump(mode="json"),
        "path": str(tuned.paths.folder),
        "all_trials": [{name: trial[name] for name in shown} for trial in trials],
    }


def _origin_of_fit(document: dict[str, Any]) -> str:
    if document["fit_reused_from"]:
        return f" The fit is that of {document['fit_reused_from']}, and so is its time."
    if document["fit_started_from"]:
        return f" The fit went on from the model of {document['fit_started_from']}, whose time is in it."
    return ""


def _show(document: dict[str, Any]) -> None:
    from rich.table import Table

    from recbench.report.format import metric_text

    out = console()
    if document["tuning"]:
        _show_tuning(document["tuning"])
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
    out.print(f"Time: {stages}.{_origin_of_fit(document)}", markup=False)
    out.print(f"Run: {document['path']}", markup=False, soft_wrap=True)
    out.print(f"Next: recbench compare {document['method']} OTHER_METHOD --dataset {document['dataset']}", markup=False)


def _show_tuning(tuning: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from recbench.report.format import metric_text

    table = Table("trial", *tuning["chosen"], f"validation {tuning['metric']}", "time", "note")
    for trial in tuning["all_trials"]:
        note = (trial["error"] or "").partition(": ")[2].partition("\n")[0][:60]
        if trial["number"] == tuning["best_trial"]:
            note = "chosen"
        elif trial["repeats"]:
            note = f"as trial {trial['repeats']}"
        value = "failed" if trial["value"] is None else metric_text(trial["value"])
        table.add_row(
            str(trial["number"]), *map(str, trial["chosen"].values()), value,
            f"{trial['timings_s']['total']:.1f} s", escape(note),
        )  # fmt: skip
    console().print(table)
    console().print(
        f"Chosen on {tuning['rows']:,} validation rows. Trials: {tuning['path']}", markup=False, soft_wrap=True
    )
