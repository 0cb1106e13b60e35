"""`recbench suite`: a named set of methods x data sets x seeds as one resumable piece of work."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recbench.cli.options import RUNS, Device, DeviceOption, RunsDirOption
from recbench.cli.output import JsonFlag, console, print_json, progress
from recbench.contracts.errors import RecbenchError

if TYPE_CHECKING:
    from recbench.experiment.suite import Suite
    from recbench.experiment.suite_run import JobOutcome
    from recbench.experiment.suite_state import EntryCost, JobState, Planner

log = logging.getLogger(__name__)

app = typer.Typer(help="Run a declared set of methods x data sets x seeds; see its cost first.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Suite, see 'recbench suite list', or path of its file.")]
SuitesDir = Annotated[Path, typer.Option(help="Folder with the files of suites.")]

_SUITES = Path("benchmarks/suites")


@app.command("list")
def list_suites(suites_dir: SuitesDir = _SUITES, as_json: JsonFlag = False) -> None:
    """List the suites of a folder.

    Examples:

        recbench suite list

        recbench suite list --suites-dir my/suites --json
    """
    from recbench.experiment.suite import read_suite, suite_files

    rows: list[dict[str, Any]] = []
    for path in suite_files(suites_dir):
        try:
            declared = read_suite(path).declared
        except RecbenchError as error:
            rows.append({"name": path.stem, "path": str(path), "error": error.message})
            continue
        rows.append(
            {
                "name": path.stem,
                "path": str(path),
                "why": declared.why,
                "datasets": list(declared.datasets),
                "backbones": list(declared.backbones),
                "seeds": list(declared.seeds),
                "entries": [entry.name for entry in declared.entries],
            }
        )
    if as_json:
        print_json({"suites": rows})
        return
    out = console()
    if not rows:
        out.print(f"No suites in {suites_dir}.", markup=False)
    for row in rows:
        out.print(row["name"], style="bold", markup=False)
        if "error" in row:
            out.print(f"  cannot be read: {row['error']}", markup=False)
            continue
        seeds = f"{len(row['seeds'])} {'seed' if len(row['seeds']) == 1 else 'seeds'}"
        out.print(f"  {row['why']}", markup=False)
        out.print(f"  {', '.join(row['entries'])}; {', '.join(row['datasets'])}; {seeds}", markup=False)


@app.command()
def plan(
    name: Name,
    suites_dir: SuitesDir = _SUITES,
    runs_dir: RunsDirOption = RUNS,
    device: DeviceOption = Device.auto,
    as_json: JsonFlag = False,
) -> None:
    """Check every setting of a suite, and tell what is left to run and how long it may take. Nothing is run.

    Times are those of complete runs in RUNS_DIR with the same settings, or else of the same method on the same data.

    Examples:

        recbench suite plan latentr3-ablation

        recbench suite plan my/suites/try.yaml --runs-dir elsewhere --json
    """
    with redirect_stdout(sys.stderr):
        from recbench.experiment.suite_state import costs, job_states

        planner = _planner(name, suites_dir, device)
        rows = costs(planner, job_states(planner, runs_dir), runs_dir)
    if as_json:
        print_json({"suite": planner.suite.declared.name, "entries": [asdict(row) for row in rows], **_total(rows)})
    else:
        _show_plan(planner.suite, rows)


@app.command()
def run(
    name: Name,
    suites_dir: SuitesDir = _SUITES,
    runs_dir: RunsDirOption = RUNS,
    device: DeviceOption = Device.auto,
    as_json: JsonFlag = False,
) -> None:
    """Complete all runs of a suite: tune, fit, rank, measure. Complete runs are skipped, interrupted ones go on.

    Runs of one data set, backbone and seed are done in order by one process. Start the same command several times (on
    several machines too, if they share RUNS_DIR) and each process takes parts that nobody works on. A run that fails is
    told at the end and does not keep the others from running; the command then ends with its exit code.

    Examples:

        recbench suite run latentr3-ablation

        recbench suite run latentr3-ablation & recbench suite run latentr3-ablation
    """
    with redirect_stdout(sys.stderr):
        from recbench.experiment.suite_run import SuiteRunner
        from recbench.experiment.suite_state import costs, job_states

        planner = _planner(name, suites_dir, device)
        total = _total(costs(planner, job_states(planner, runs_dir), runs_dir))
        log.info("%d of %d runs are complete. %s", total["complete"], total["runs"], _time_text(total))
        outcomes = SuiteRunner(planner, runs_dir, ["recbench", *sys.argv[1:]], progress()).run()
    if as_json:
        print_json({"suite": planner.suite.declared.name, "runs": [_outcome(one) for one in outcomes]})
    else:
        _show_outcomes(outcomes, planner.suite, runs_dir)
    failed = [one.exit_code for one in outcomes if one.outcome == "failed"]
    if failed:
        raise typer.Exit(min(failed))  # 1, a bug, before all others


@app.command()
def status(
    name: Name,
    suites_dir: SuitesDir = _SUITES,
    runs_dir: RunsDirOption = RUNS,
    device: DeviceOption = Device.auto,
    as_json: JsonFlag = False,
) -> None:
    """Show where every run of a suite stands.

    Examples:

        recbench suite status latentr3-ablation

        recbench suite status latentr3-ablation --json
    """
    with redirect_stdout(sys.stderr):
        from recbench.experiment.suite_state import job_states

        planner = _planner(name, suites_dir, device)
        rows = [_state(one) for one in job_states(planner, runs_dir)]
    if as_json:
        print_json({"suite": planner.suite.declared.name, "runs": rows})
    else:
        _show_states(rows)


def _planner(name: str, suites_dir: Path, device: Device) -> Planner:
    from recbench.experiment.suite import find_suite, read_suite
    from recbench.experiment.suite_state import Planner

    return Planner(read_suite(find_suite(name, suites_dir)), device.value)


def _total(rows: Sequence[EntryCost]) -> dict[str, Any]:
    known = [row.seconds_left for row in rows if row.seconds_left is not None]
    return {
        "runs": sum(row.runs for row in rows),
        "complete": sum(row.complete for row in rows),
        "seconds_left": sum(known),
        "entries_of_unknown_time": len(rows) - len(known),
    }


def _time_text(total: dict[str, Any]) -> str:
    unknown = total["entries_of_unknown_time"]
    if total["runs"] == total["complete"]:
        return "Nothing is left to run."
    if unknown and not total["seconds_left"]:
        return "How long the others take is not known: no run like them is there."
    more = f", and {unknown} entries of unknown time" if unknown else ""
    return f"By earlier runs the others take about {_duration(total['seconds_left'])}{more}."


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _show_plan(suite: Suite, rows: Sequence[EntryCost]) -> None:
    from rich.table import Table

    out = console()
    if suite.declared.why:
        out.print(suite.declared.why, markup=False)
    table = Table("entry", "data set", "backbone", "runs", "complete", "trials to tune", "each", "left", "by")
    for row in rows:
        table.add_row(
            row.entry, row.dataset, row.backbone or "", str(row.runs), str(row.complete),
            {None: "unknown", 0: ""}.get(row.trials, str(row.trials)),
            "unknown" if row.seconds_each is None else _duration(row.seconds_each),
            "unknown" if row.seconds_left is None else _duration(row.seconds_left), row.alike,
        )  # fmt: skip
    out.print(table)
    total = _total(rows)
    out.print(f"{total['complete']} of {total['runs']} runs are complete. {_time_text(total)}", markup=False)


def _outcome(one: JobOutcome) -> dict[str, Any]:
    return {**asdict(one.job), "outcome": one.outcome, "run_id": one.run_id, "error": one.error}


def _show_outcomes(outcomes: Sequence[JobOutcome], suite: Suite, runs_dir: Path) -> None:
    out = console()
    counts = Counter(one.outcome for one in outcomes)
    words = (
        ("run now", counts["run"]),
        ("complete already", counts["was there"]),
        ("failed", counts["failed"]),
        ("left to another process", counts["elsewhere"]),
    )
    told = ", ".join(f"{number} {text}" for text, number in words if number)
    out.print(f"{suite.declared.name}: {told}.", markup=False)
    for one in outcomes:
        if one.outcome == "failed":
            out.print(f"failed: {one.job}: {(one.error or '').partition(chr(10))[0]}", markup=False)
    out.print(f"Next: recbench report --runs-dir {runs_dir} --out report", markup=False)


def _state(one: JobState) -> dict[str, Any]:
    complete = one.run is not None and one.state == "complete"
    metrics = one.run.summary()["metrics"] if complete and one.run is not None else None
    return {
        **asdict(one.job),
        "state": one.state,
        "run_id": one.run.run_id if one.run else None,
        "chosen": {entry: dict(values) for entry, values in one.chosen.items()},
        "metrics": metrics,
        "error": one.run.manifest.error if one.run else None,
    }


def _show_states(rows: Sequence[dict[str, Any]]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from recbench.report.format import metric_text

    table = Table("entry", "data set", "backbone", "seed", "state", "run", "NDCG@10", "note")
    for row in rows:
        value = (row["metrics"] or {}).get("NDCG@10")
        table.add_row(
            row["entry"], row["dataset"], row["backbone"] or "", str(row["seed"]), row["state"], row["run_id"] or "",
            "" if value is None else metric_text(value), escape((row["error"] or "").partition("\n")[0][:60]),
        )  # fmt: skip
    console().print(table)
    counts = Counter(row["state"] for row in rows)
    console().print(", ".join(f"{number} {state}" for state, number in counts.items()), markup=False)
