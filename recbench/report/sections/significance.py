"""Which method is shown to be better than which: all pairs at once, as a matrix and as a figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recbench.contracts.comparison import ComparedEntry, Comparison
from recbench.report.document import Column, Figure, Row, Section, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

_BETTER, _WORSE = "▲", "▽"
# Beyond this the differences do not fit into the cells of the figure.
_MOST_WITH_NUMBERS = 9


def significance_section(comparison: Comparison) -> Section | None:
    """Return the matrix of all pairs, or None where there are fewer than three entries.

    With two entries the comparison with the best one says it all.
    """
    entries = comparison.entries
    if len(entries) < 3:
        return None
    explanation = (
        f"Row minus column, in {comparison.metric} by {comparison.truth}. {_BETTER}: the row's method is shown to be "
        f"better; {_WORSE}: worse; no mark: undecided, which is not “equal”. All pairs are tested at once (step-down "
        f"with the largest studentised difference of the bootstrap), so the chance of any wrong mark is at most "
        f"{comparison.alpha:.0%}. Columns are the places of the rows."
    )
    columns = (
        Column("place", "#", "count"),
        Column("label", "Method"),
        *(Column(f"minus_{place}", str(place), "signed", entry.label) for place, entry in enumerate(entries, 1)),
    )
    rows = tuple(_row(place, entry, entries) for place, entry in enumerate(entries, start=1))
    table = Table("significance", f"Differences in {comparison.metric}, row minus column", columns, rows)
    figure = Figure(
        slug="significance",
        title=f"Who is shown to be better than whom, by {comparison.metric}",
        alt=f"Matrix of all pairs: {_BETTER} where the row's method is shown to be better than the column's, {_WORSE} "
        "where it is shown to be worse; the same as the table.",
        draw=lambda: draw_significance(comparison),
    )
    return Section("significance", "Who is better than whom", (explanation,), tables=(table,), figures=(figure,))


def _row(place: int, entry: ComparedEntry, entries: tuple[ComparedEntry, ...]) -> Row:
    values: dict[str, Any] = {"place": place, "label": entry.label}
    marks = {}
    for number, other in enumerate(entries, start=1):
        if number != place:
            values[f"minus_{number}"] = entry.mean - other.mean
            marks[f"minus_{number}"] = _mark(entry, other)
    return Row(values, marks={key: mark for key, mark in marks.items() if mark})


def _mark(entry: ComparedEntry, other: ComparedEntry) -> str:
    if other.label in entry.better_than:
        return _BETTER
    return _WORSE if entry.label in other.better_than else ""


def draw_significance(comparison: Comparison) -> MatplotlibFigure:
    """Draw the matrix: a filled triangle where the row is better, a hollow one where it is worse."""
    from recbench.report.figures import COLOURS, GREY, GRID, PAPER, legend_below, new_figure, row_height, wrapped

    entries = comparison.entries
    n = len(entries)
    with_numbers = n <= _MOST_WITH_NUMBERS
    width, height = (0.62, 0.42) if with_numbers else (0.27, 0.3)
    names = [f"{wrapped(entry.label)}  {place}" for place, entry in enumerate(entries, start=1)]
    figure = new_figure(3.0 + width * n, 1.2 + row_height(names, height) * n)
    axes = figure.add_subplot()
    marked: dict[str, list[tuple[float, float]]] = {_BETTER: [], _WORSE: []}
    for row, entry in enumerate(entries):
        for column, other in enumerate(entries):
            mark = _mark(entry, other) if row != column else ""
            if mark:
                marked[mark].append((column, row - (0.14 if with_numbers else 0.0)))
            if with_numbers and row != column:
                height = row + (0.26 if mark else 0.0)
                difference = f"{entry.mean - other.mean:+.3f}"
                axes.text(column, height, difference, fontsize=7, color=GREY, ha="center", va="center")
    looks: dict[str, dict[str, Any]] = {
        _BETTER: {"marker": "^", "color": COLOURS[0], "label": "row is better"},
        _WORSE: {"marker": "v", "mfc": PAPER, "mec": COLOURS[1], "mew": 1.3, "label": "row is worse"},
    }
    for mark, look in looks.items():
        axes.plot(*zip(*(marked[mark] or [(float("nan"), 0.0)]), strict=True), ls="none", ms=8, **look)
    for place in range(n):
        axes.fill_between([place - 0.5, place + 0.5], place - 0.5, place + 0.5, color=GRID, lw=0)
    axes.set_xlim(-0.5, n - 0.5)
    axes.set_ylim(n - 0.5, -0.5)
    axes.set_yticks(range(n), names)
    axes.set_xticks(range(n), [str(place) for place in range(1, n + 1)])
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.set_xticks([place + 0.5 for place in range(n - 1)], minor=True)
    axes.set_yticks([place + 0.5 for place in range(n - 1)], minor=True)
    axes.grid(visible=True, which="minor", color=GRID)
    axes.tick_params(which="minor", length=0)
    legend_below(figure, 2)
    return figure
