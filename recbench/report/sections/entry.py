"""What a reader sees who asks for more about one entry: its runs, its settings, the commands that rebuild it."""

from __future__ import annotations

import shlex

import yaml

from recbench.contracts.leaderboard import Leaderboard, LeaderboardRow
from recbench.report.document import Column, Row, Section, Table
from recbench.report.format import slug


def runs_table(board: Leaderboard, rows: tuple[LeaderboardRow, ...], with_label: bool = True) -> Table:
    """Return one line per run: which one it is, where it lies, what it was made by and how it did."""
    metric = board.metrics[0]
    columns = (
        *((Column("label", "Method"),) if with_label else ()),
        Column("seed", "Seed", "count"),
        Column("run_id", "Run", "code"),
        Column(f"item/{metric}", f"{metric} item", "metric", "mean over the examples of this run"),
        Column("settings", "Settings", "code", "a file of this report", True),
        Column("folder", "Folder", "code", "below the folder of runs"),
        Column("commit", "Commit", "code", "of recbench; + behind it: files had been changed"),
        Column("created", "Started", "text", "UTC", True),
        Column("device", "Device", "text", "", True),
        Column("fit_s", "Training", "seconds", "", True),
        Column("rank_s", "Ranking", "seconds", "", True),
        Column("memory_bytes", "Memory", "bytes", "largest resident memory of the process", True),
        Column("metrics_sha256", "SHA-256 of the metrics", "code", "of metrics.parquet, which the report read", True),
        Column("reused", "Model of", "code", "run whose kept model it ranked with", True),
        Column("tuning", "Settings chosen by", "text", "", True),
    )
    lines = [
        Row(
            {
                "label": row.entry.label,
                "seed": run.seed,
                "run_id": run.run_id,
                f"item/{metric}": run.metrics[f"item/{metric}"],
                "settings": settings_file(board, row),
                "folder": run.folder,
                "commit": run.commit,
                "created": run.created,
                "device": run.device,
                "fit_s": run.fit_s,
                "rank_s": run.rank_s,
                "memory_bytes": run.memory_bytes,
                "metrics_sha256": run.metrics_sha256,
                "reused": run.reused,
                "tuning": run.tuning,
            }
        )
        for row in rows
        for run in row.runs
    ]
    return Table("runs", "Runs", columns, tuple(lines))


def entry_details(board: Leaderboard, row: LeaderboardRow, runs_dir: str) -> Section:
    """Return the runs of one entry with its settings and the commands to make them again."""
    label = row.entry.label
    backbone = row.entry.backbone
    model = f" Language model: {backbone}" + (f", revision `{row.revision}`." if row.revision else ".")
    return Section(
        slug="entry",
        title=label,
        paragraphs=(f"Method `{row.entry.method}`, {len(row.runs)} run(s)." + (model if backbone else ""),),
        tables=(runs_table(board, (row,), with_label=False),),
        code=f"{again_command(board, row, runs_dir)}\n\n# {settings_file(board, row)}\n{settings_text(board, row)}",
    )


def again_command(board: Leaderboard, row: LeaderboardRow, runs_dir: str) -> str:
    """Return the commands that make the first run of an entry again, and compute its metrics from its stored lists."""
    first = row.runs[0]
    place = shlex.quote(runs_dir)
    return (
        "# one run again (equal data and versions: equal run id)\n"
        f"recbench run --config {shlex.quote(settings_file(board, row))} --seed {first.seed} --runs-dir {place}\n"
        "# its metrics again, from the stored lists\n"
        f"recbench evaluate {first.run_id} --runs-dir {place}"
    )


def settings_file(board: Leaderboard, row: LeaderboardRow) -> str:
    """Return the path of an entry's settings, relative to the report."""
    return f"configs/{slug(f'{board.dataset}-{board.protocol_hash[:6]}-{row.entry.label}')}.yaml"


def settings_text(board: Leaderboard, row: LeaderboardRow) -> str:
    """Return what ``recbench run --config`` needs to make the runs of an entry again; the seed is given beside it."""
    experiment = {
        "method": row.entry.method,
        "dataset": board.dataset,
        **({"backbone": row.entry.backbone} if row.entry.backbone else {}),
        "protocol": dict(board.protocol),
        "config": dict(row.config),
    }
    return yaml.safe_dump(experiment, sort_keys=False, allow_unicode=True)
