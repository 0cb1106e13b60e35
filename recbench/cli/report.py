"""`recbench report`: leaderboards, tests and figures of all runs, as a folder to read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recbench.cli.options import RUNS, RunsDirOption
from recbench.cli.output import JsonFlag, console, print_json


def report(
    out: Annotated[Path, typer.Option(help="Folder to write: new, empty, or an earlier report.")],
    runs_dir: RunsDirOption = RUNS,
    formats: Annotated[
        str,
        typer.Option(
            "--format",
            help="Some of: md (README.md with figures), html (one page that needs nothing else), latex (tables with "
            "booktabs, and a file that compiles), csv (full precision).",
        ),
    ] = "md,html,latex,csv",
    as_json: JsonFlag = False,
) -> None:
    """Write leaderboards, tests, slices, costs and figures of all complete runs into a folder.

    Runs on the same data, split and protocol share a leaderboard; others never do. Failed and cancelled runs are
    listed but never averaged. The folder stands on its own; an earlier report in it is replaced.

    Examples:

        recbench report --out reports/today

        recbench report --runs-dir runs --out reports/today --format html

        recbench report --out reports/today --json > report.json
    """
    from recbench.experiment.report import make_report
    from recbench.report.render import parse_formats

    document = make_report(runs_dir, out, parse_formats(formats))
    if as_json:
        print_json({"path": str(out), **document})
        return
    boards = [group["sections"]["leaderboard"]["tables"]["leaderboard"] for group in document["groups"]]
    unfinished = document["sections"].get("unfinished", {"tables": {"unfinished": []}})["tables"]["unfinished"]
    count = {"entry": sum(map(len, boards)), "leaderboard": len(boards), "run": len(unfinished)}
    entries, leaderboards, runs = (f"{n} {_plural(noun) if n != 1 else noun}" for noun, n in count.items())
    first = next((name for name in ("README.md", "index.html") if name in document["files"]), "report.json")
    console().print(f"{entries} in {leaderboards}, {runs} not complete.\nRead {out / first}", markup=False)


def _plural(noun: str) -> str:
    return noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
