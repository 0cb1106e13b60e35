"""The leaderboard: every entry with its metrics by both truths, interval, rank and cost, best first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from recbench.contracts.comparison import ComparedPair
from recbench.contracts.leaderboard import Leaderboard, LeaderboardRow
from recbench.report.document import Column, Figure, Row, Section, Table
from recbench.report.format import metric_text
from recbench.report.paper.values import paper_values
from recbench.report.sections.entry import entry_details

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

_TRUTHS = {"item": "exact item", "title": "any item with the target's title"}
_MARKS = ((0.001, "***"), (0.01, "**"), (0.05, "*"))


def leaderboard_section(board: Leaderboard, facts: tuple[str, ...] = (), runs_dir: str = "runs") -> Section:
    """Return the leaderboard.

    Args:
        board: what to show.
        facts: sentences that must stand under it beside its own notes, such as the headline of the audit.
        runs_dir: folder of the runs, for the commands in the details of an entry.
    """
    ranking_metric = board.metrics[0]
    table = Table(
        slug="leaderboard",
        title=f"Leaderboard of {board.title}",
        columns=_columns(board),
        rows=tuple(_row(board, row, place, runs_dir) for place, row in enumerate(board.rows, start=1)),
        notes=(*_reading_notes(board), *board.notes, *facts),
        headline=True,
        searched=len(board.rows) > 3,
    )
    figure = Figure(
        slug="leaderboard",
        title=f"{ranking_metric} on {board.title}",
        alt=f"{ranking_metric} of every method with its interval, on {board.title}; the same numbers as the table.",
        draw=lambda: draw_leaderboard(board),
    )
    return Section(
        slug="leaderboard",
        title="Leaderboard",
        paragraphs=(_facts(board), f"Ranked by {ranking_metric} of the exact item."),
        warnings=tuple(f"{warning} These numbers say nothing about the methods." for warning in board.warnings),
        tables=(table,),
        figures=(figure,),
    )


def _facts(board: Leaderboard) -> str:
    protocol, comparison = board.protocol, board.comparison
    masked = "taken out of" if protocol["mask_history"] else "kept in"
    return (
        f"{comparison.n_examples:,} test examples of {comparison.n_users:,} users. Histories of up to "
        f"{protocol['max_history']} items; items of the history are {masked} the lists; the whole catalogue is "
        f"ranked. Protocol `{board.protocol_hash}`, split `{board.split_fingerprint}`."
    )


def _columns(board: Leaderboard) -> tuple[Column, ...]:
    level = f"{board.comparison.level:.0%} interval"
    ranking = f"item/{board.metrics[0]}"
    shown = [f"item/{metric}" for metric in board.metrics] + [f"title/{metric}" for metric in board.metrics[:2]]
    paper = (Column("paper", f"{board.metrics[0]} paper", "metric", "as the paper prints it; by title"),)
    others = [name for name in (board.rows[0].metrics if board.rows else ()) if name not in shown]
    return (
        Column("place", "#", "count", "place by the mean alone"),
        Column("label", "Method"),
        _metric_column(ranking),
        Column("interval", level, "interval", "bootstrap over users, and over seeds where there are several"),
        Column("ranks", "Ranks", "range", "the ranks that the data allow, for all methods at once"),
        *(_metric_column(name) for name in shown if name != ranking),
        *(paper if paper_values(board) else ()),
        Column("n_seeds", "Seeds", "count", "runs, averaged per example"),
        Column("seed_sd", "SD of seeds", "metric", "standard deviation of the ranking metric between seeds", True),
        Column("fit_s", "Training", "seconds", "wall-clock, mean over seeds, without a preset's pretraining"),
        Column("rank_s", "Ranking", "seconds", "wall-clock for the whole test part, mean over seeds"),
        Column("device", "Device", "text", "", True),
        *(_metric_column(name, detail=True) for name in others),
        Column("method", "Name", "code", "name of the method in commands", True),
        Column("backbone", "Backbone", "code", "language model", True),
        Column("backbone_revision", "Revision", "code", "revision of the language model", True),
        Column("seeds", "Seed numbers", "code", "", True),
        Column("run_ids", "Runs", "code", "", True),
    )


def _metric_column(name: str, detail: bool = False) -> Column:
    truth, _, metric = name.partition("/")
    return Column(name, f"{metric} {truth}", "metric", f"mean {metric}; hit: {_TRUTHS[truth]}", detail)


def _row(board: Leaderboard, row: LeaderboardRow, place: int, runs_dir: str) -> Row:
    entry = row.entry
    ranking = f"item/{board.metrics[0]}"
    line = paper_values(board).get(entry.label)
    values: dict[str, Any] = {
        "place": place,
        "label": entry.label,
        "interval": entry.interval,
        "ranks": None if entry.rank_low is None else (entry.rank_low, entry.rank_high),
        **row.metrics,
        "paper": line.values.get(board.metrics[0]) if line else None,
        "n_seeds": len(entry.seeds),
        "seed_sd": row.seed_sd,
        "fit_s": row.fit_s,
        "rank_s": row.rank_s,
        "device": row.device,
        "method": entry.method,
        "backbone": entry.backbone,
        "backbone_revision": row.revision,
        "seeds": " ".join(map(str, entry.seeds)),
        "run_ids": " ".join(entry.run_ids),
    }
    pair = _pairs_with_best(board).get(entry.label)
    marks = {ranking: significance_mark(pair.p_adjusted)} if pair else {}
    marks |= {"paper": "†"} if line and line.flag else {}
    return Row(
        values=values,
        bold=frozenset({"label", ranking}) if entry.in_best_set and len(board.rows) > 1 else frozenset(),
        marks=marks,
        details=entry_details(board, row, runs_dir),
    )


def _pairs_with_best(board: Leaderboard) -> Mapping[str, ComparedPair]:
    """Return, by label, how each other entry compares with the best one."""
    return {pair.a: pair for pair in board.comparison.pairs if pair.b == board.comparison.baseline}


def significance_mark(p: float) -> str:
    """Return "*", "**" or "***" for an adjusted p-value below 0.05, 0.01 or 0.001, else ""."""
    return next((mark for bound, mark in _MARKS if p < bound), "")


def _reading_notes(board: Leaderboard) -> list[str]:
    if len(board.rows) < 2:
        return []
    notes = [
        f"**Bold**: may be the best one by {board.metrics[0]}, since no other is shown to be better when all pairs are "
        "tested at once. Ranks: 1 + the methods shown to be better, up to all but those shown to be worse.",
        "`*`, `**`, `***`: worse than the first one with p (Holm over this table) below 0.05, 0.01, 0.001.",
    ]
    if paper_values(board):
        notes.append(
            "Paper: as printed, by title, with another language model and other preprocessing; see “Beside the paper”."
        )
    return notes


def draw_leaderboard(board: Leaderboard) -> MatplotlibFigure:
    """Draw the ranking metric of every entry with its interval; the second truth beside it as a hollow diamond.

    Bold names may be the best one, as in the table.
    """
    from recbench.report.figures import (
        COLOURS,
        GREY,
        PAPER,
        legend_below,
        metric_along_x,
        new_figure,
        row_height,
        wrapped,
    )

    metric = board.metrics[0]
    rows = list(reversed(board.rows))
    names = [wrapped(with_seeds(row)) for row in rows]
    figure = new_figure(7.5, 1.5 + row_height(names, 0.36) * len(rows))
    axes = figure.add_subplot()
    heights = list(range(len(rows)))
    lows, highs = [row.entry.interval.low for row in rows], [row.entry.interval.high for row in rows]
    titles = [row.metrics[f"title/{metric}"] for row in rows]
    axes.hlines(heights, lows, highs, color=COLOURS[0], lw=2)
    means = [row.entry.mean for row in rows]
    axes.plot(
        means, heights, "o", color=COLOURS[0], ms=7, clip_on=False,
        label=f"exact item, with {board.comparison.level:.0%} interval over users",
    )  # fmt: skip
    below = [height - 0.26 for height in heights]
    look: dict[str, Any] = {"mfc": PAPER, "mec": COLOURS[1], "ms": 5, "mew": 1.3, "clip_on": False}
    axes.plot(titles, below, "D", **look, label="any item with its title")
    for height, row in zip(heights, rows, strict=True):
        place: dict[str, Any] = {"xy": (1.01, height), "xycoords": ("axes fraction", "data"), "va": "center_baseline"}
        axes.annotate(metric_text(row.entry.mean), **place, color=GREY)
    labels = axes.set_yticks(heights, names)
    for tick, row in zip(labels, rows, strict=True):
        tick.label1.set_fontweight("bold" if row.entry.in_best_set and len(rows) > 1 else "normal")
    axes.set_ylim(-0.6, len(rows) - 0.4)
    right = max(highs + titles)
    axes.set_xlim(0, right * 1.05 if right > 0 else 1)
    axes.grid(visible=False, axis="y")
    metric_along_x(axes, metric)
    legend_below(figure, 2)
    return figure


def with_seeds(row: LeaderboardRow) -> str:
    """Return the label, with the number of seeds where there are several."""
    n_seeds = len(row.entry.seeds)
    return row.entry.label + (f", {n_seeds} seeds" if n_seeds > 1 else "")
