"""Beyond accuracy: how much of the catalogue is recommended, how popular, how novel, how alike, how valid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from recbench.contracts.beyond import BeyondRow
from recbench.report.document import Column, Figure, Row, Section, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure


def beyond_section(rows: Sequence[BeyondRow]) -> Section | None:
    """Return the section, or None without entries."""
    if not rows:
        return None
    k = rows[0].k
    table = Table(
        "beyond",
        f"The first {k} places of the lists",
        _columns(rows),
        tuple(Row({**asdict(row), "run_ids": " ".join(row.run_ids)}) for row in rows),
        tuple(_lacking(rows)),
        headline=True,
    )
    figure = Figure(
        slug="beyond",
        title=f"What the first {k} places hold",
        alt="Share of the catalogue that is recommended, and share of places that hold popular items, for every "
        "method; the same numbers as the table.",
        draw=lambda: draw_beyond(rows),
    )
    text = (
        f"Of the first {k} places of all test lists, as expectations over the order of ties. There is no better or "
        "worse here without the leaderboard beside it: random lists cover everything."
    )
    return Section("beyond", "Beyond accuracy", (text,), tables=(table,), figures=(figure,))


def _columns(rows: Sequence[BeyondRow]) -> tuple[Column, ...]:
    def unknown(name: str) -> bool:
        return all(getattr(row, name) is None for row in rows)

    writes = not (unknown("invalid_titles") and unknown("texts_not_a_title"))
    popular = "one of the 20% of items with most training rows as target"
    return (
        Column("label", "Method"),
        Column("coverage", "Coverage", "share", "expected share of the catalogue in at least one list"),
        Column("gini", "Gini", "metric", "of how often items are listed, over the whole catalogue; 0 = equally often"),
        Column("popular_share", "From the popular 20%", "share", f"places that hold {popular}"),
        Column("average_popularity", "Popularity", "number", "mean training rows (as target) of a listed item"),
        Column("novelty", "Novelty, bits", "metric", "mean of -log2 of an item's smoothed share of the training rows"),
        Column("similarity_title", "Alike by title", "metric", "mean TF-IDF cosine of two titles of one list"),
        Column(
            "similarity_category", "Alike by category", "metric", "mean cosine of the category labels of two items of "
            "one list", unknown("similarity_category"),
        ),
        Column("short_lists", "Short lists", "share", "lists with fewer than 10 places"),
        Column("empty_lists", "Empty lists", "share", "", True),
        Column("tied_places", "Tied places", "share", "places whose score equals another's in the list", True),
        Column("invalid_titles", "Invalid titles", "share", "written titles that no item has", not writes),
        Column("repeated_titles", "Repeated titles", "share", "written titles that stand earlier in the list", True),
        Column(
            "texts_not_a_title", "Text is no title", "share", "freely written texts that are no title word for word",
            unknown("texts_not_a_title"),
        ),
        Column("run_ids", "Runs", "code", "", True),
    )  # fmt: skip


def _lacking(rows: Sequence[BeyondRow]) -> list[str]:
    lacking = [run_id for row in rows for run_id in row.lacking]
    if not lacking:
        return []
    shown = " ".join(lacking[:6]) + (" ..." if len(lacking) > 6 else "")
    return [
        f"{len(lacking)} run(s) were measured by an older recbench; `recbench evaluate {shown}` adds what is missing."
    ]


def draw_beyond(rows: Sequence[BeyondRow]) -> MatplotlibFigure:
    """Draw coverage and the share of popular items of every entry, one line each."""
    from matplotlib.ticker import PercentFormatter

    from recbench.report.figures import COLOURS, GRID, MARKERS, PAPER, legend_below, new_figure

    entries = list(reversed(rows))
    figure = new_figure(7.5, 1.5 + 0.34 * len(entries))
    axes = figure.add_subplot()
    series = (("coverage", "catalogue that is listed"), ("popular_share", "places with a popular item (top 20%)"))
    for number, (name, title) in enumerate(series):
        known = [(getattr(row, name), height) for height, row in enumerate(entries) if getattr(row, name) is not None]
        x, y = [share for share, _ in known], [height for _, height in known]
        colour = COLOURS[number]
        inside = colour if number == 0 else PAPER
        axes.plot(x, y, MARKERS[number], ls="none", color=colour, mfc=inside, ms=7, mew=1.4, clip_on=False, label=title)
    axes.hlines(range(len(entries)), 0, 1, color=GRID, lw=1, zorder=0)
    axes.set_yticks(range(len(entries)), [row.label for row in entries])
    axes.set_ylim(-0.6, len(entries) - 0.4)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(f"share, first {rows[0].k} places")
    legend_below(figure, 2)
    return figure
