"""A report -> a folder: README.md with figures, CSV files, and report.json for machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from math import isnan
from pathlib import Path
from typing import Any

from recbench.artifacts.files import read_json, write_json, write_text
from recbench.contracts.errors import UsageError, did_you_mean
from recbench.report.csvfile import comparisons_csv, leaderboard_csv, regret_csv
from recbench.report.figures import draw_all, figure_names
from recbench.report.markdown import readme
from recbench.report.model import LeaderboardGroup, RegretRow, Report

FORMATS = ("md", "csv")
MARKER = "report.json"
_FIGURES = "figures"


def parse_formats(text: str) -> tuple[str, ...]:
    """Return the formats of a comma-separated list.

    Raises:
        UsageError: a format that is not known, or none at all.
    """
    chosen = tuple(dict.fromkeys(part.strip().lower() for part in text.split(",") if part.strip()))
    for name in chosen:
        if name not in FORMATS:
            raise UsageError(
                f"The report format '{name}' does not exist.{did_you_mean(name, FORMATS)}",
                f"Known: {', '.join(FORMATS)}. Give one or more of them, separated by commas.",
            )
    if not chosen:
        raise UsageError("No report format is given.", f"Known: {', '.join(FORMATS)}.")
    return chosen


def check_target(folder: Path) -> None:
    """Check that a report may be written to ``folder``: it is new, empty, or holds an earlier report.

    Raises:
        UsageError: it holds something else, which would be mixed up or overwritten.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file.", "Give a folder as --out.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARKER).is_file():
        raise UsageError(
            f"{folder} is not empty and holds no earlier report, so nothing was written.",
            "Give a new folder as --out.",
        )


def write_report(report: Report, folder: Path, formats: Sequence[str]) -> dict[str, Any]:
    """Write a report; files of an earlier report in the same folder that are no longer made are removed.

    Args:
        report: what to show.
        folder: where to.
        formats: some of :data:`FORMATS`.

    Returns:
        The content of ``report.json``: groups with entries and comparisons, inputs, and the files written.

    Raises:
        UsageError: the folder holds something else than a report.
        ArtifactError: a file cannot be written.
    """
    check_target(folder)
    earlier = read_json(folder / MARKER).get("files", []) if (folder / MARKER).is_file() else []
    files: list[str] = []
    if "md" in formats:
        drawn = {group.slug: draw_all(group, folder / _FIGURES) for group in report.groups}
        files += [f"{_FIGURES}/{name}" for paths in drawn.values() for name in figure_names(paths)]
        links = {slug: [f"{_FIGURES}/{path.name}" for path in paths] for slug, paths in drawn.items()}
        write_text(folder / "README.md", readme(report, links))
        files.append("README.md")
    if "csv" in formats:
        write_text(folder / "leaderboard.csv", leaderboard_csv(report))
        write_text(folder / "comparisons.csv", comparisons_csv(report))
        files += ["leaderboard.csv", "comparisons.csv"]
        if any(group.regret for group in report.groups):
            write_text(folder / "regret.csv", regret_csv(report))
            files.append("regret.csv")
    document = _document(report, sorted(files))
    write_json(folder / MARKER, document)
    for name in set(earlier) - set(files):
        (folder / name).unlink(missing_ok=True)
    return document


def _document(report: Report, files: list[str]) -> dict[str, Any]:
    return {
        "recbench": report.version,
        "groups": [_group(group) for group in report.groups],
        "unfinished": [vars(run) for run in report.unfinished],
        "damaged": list(report.damaged),
        "inputs": dict(report.inputs),
        "files": files,
    }


def _group(group: LeaderboardGroup) -> dict[str, Any]:
    return {
        "slug": group.slug,
        "dataset": group.dataset,
        "backbone": group.backbone,
        "limited": group.limited,
        "protocol": dict(group.protocol),
        "protocol_hash": group.protocol_hash,
        "split_fingerprint": group.split_fingerprint,
        "entries": [
            {
                "label": row.entry.label,
                "run_ids": list(row.entry.run_ids),
                "seeds": list(row.entry.seeds),
                "metrics": dict(row.metrics),
                "interval": vars(row.entry.interval),
                "fit_s": row.fit_s,
                "rank_s": row.rank_s,
            }
            for row in group.rows
        ],
        "comparison": group.comparison.to_json(),
        "beam_regret": [_regret(row) for row in group.regret],
        "notes": list(group.notes),
    }


def _regret(row: RegretRow) -> dict[str, Any]:
    values = {name: None if isnan(value) else value for name, value in row.values.items()}
    return {**asdict(row), "values": values}
