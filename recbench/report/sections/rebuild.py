"""Where the numbers of a group come from, and the commands that rebuild every one of them."""

from __future__ import annotations

import shlex

from recbench.contracts.leaderboard import Leaderboard
from recbench.report.document import Section
from recbench.report.sections.entry import again_command, runs_table, settings_file, settings_text


def rebuild_section(board: Leaderboard, runs_dir: str) -> Section:
    """Return the runs of a group and the commands to make them, their metrics, the tests and the report again."""
    tuned = tuple(
        f"{row.entry.label}, seed {run.seed}: {run.tuning}." for row in board.rows for run in row.runs if run.tuning
    )
    chosen = ("Settings chosen on validation rows; all others were given:", *tuned) if tuned else ()
    return Section(
        slug="rebuild",
        title="Where the numbers come from",
        paragraphs=(
            "Every run of the tables above. The settings of each method lie in `configs/`; the whole table, with "
            "hashes, times and memory, is in `csv/rebuild-runs.csv`.",
            *chosen,
        ),
        tables=(runs_table(board, board.rows),),
        code=_commands(board, runs_dir),
    )


def settings_files(board: Leaderboard) -> dict[str, str]:
    """Return the settings of every entry as files of the report."""
    return {settings_file(board, row): settings_text(board, row) for row in board.rows}


def _commands(board: Leaderboard, runs_dir: str) -> str:
    place = shlex.quote(runs_dir)
    commands = [
        again_command(board, board.rows[0], runs_dir),
        "# this report",
        f"recbench report --runs-dir {place} --out DIR",
    ]
    run_ids = [run_id for row in board.rows for run_id in row.entry.run_ids]
    if len(run_ids) > 1:
        commands += [
            "# the best run against every other, each run for itself",
            f"recbench compare {' '.join(run_ids)} --metric {board.comparison.metric} --baseline {run_ids[0]} "
            f"--runs-dir {place}",
        ]
    return "\n".join(commands)
