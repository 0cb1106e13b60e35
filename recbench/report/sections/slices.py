"""Slices: who gains where? Metrics by popularity, coldness and history, as tables and figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from recbench.contracts.slices import WARNING_TEXT, Contrast, SlicedEntry, SliceFacts, SliceTable, SliceValue
from recbench.report.document import Column, Figure, Row, Section, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

_COLD = ("cold", "cold-strict", "cold-loose")
_DRAWN_ENTRIES = 5
_MARK = "†"


def slices_section(tables: Sequence[SliceTable]) -> Section | None:
    """Return the section about slices, or None where there is no table.

    Args:
        tables: of one group of entries, by one metric, one per cut.
    """
    if not tables:
        return None
    by_cut = {table.cut: table for table in tables}
    first = tables[0]
    made, figures = [], []
    if "popularity" in by_cut:
        made.append(cut_table(by_cut["popularity"], headline=True))
        figures.append(_popularity_figure(by_cut["popularity"]))
    if "deciles" in by_cut:
        # Its contrast is the one of popularity: two tenths are the popular fifth.
        made.append(cut_table(by_cut["deciles"], gains=False, contrast=False))
        if first.baseline is not None:
            figures.append(_deciles_figure(by_cut["deciles"]))
    cold = [by_cut[name] for name in _COLD if name in by_cut and len(by_cut[name].slices) > 1]
    if cold:
        made.append(_cold_table(cold))
    made += [cut_table(table, gains=False) for table in tables if table.cut not in ("popularity", "deciles", *_COLD)]
    made.append(sizes_table(tables))
    return Section("slices", "Slices", _paragraphs(first, bool(cold)), tables=tuple(made), figures=tuple(figures))


def _paragraphs(table: SliceTable, any_cold: bool) -> tuple[str, ...]:
    reading = f"{table.metric} by {table.truth} on parts of the test examples, which no boundary was chosen on."
    cold = "" if any_cold else "No test target is cold by any definition."
    return tuple(text for text in (reading, explanation(table), cold) if text)


def explanation(table: SliceTable) -> str:
    """Return what the numbers of slices mean, in words."""
    intervals = (
        f"Intervals ({table.level:.0%}) are bootstraps over users ({table.n_resamples:,} resamples); neither they nor "
        "the tests cover the variation between seeds."
    )
    if table.baseline is None:
        return intervals
    return (
        f"Gains are relative to **{table.baseline}** ({table.baseline_rule}). “Gain inside − outside” is the relative "
        "gain in the slices that a table is about, minus that on all other examples; p: two-sided sign-flip test over "
        f"users ({table.n_flips:,} flips), Holm-adjusted over the methods of the table. The same on the absolute scale "
        "is another question with a test of its own: a method that gains 10% everywhere gains more where metrics are "
        f"high. {intervals}"
    )


def sizes_table(tables: Sequence[SliceTable]) -> Table:
    """Return how large every slice is, by which rule it is cut, and what warns of it."""
    columns = (
        Column("cut", "Cut"),
        Column("slice", "Slice"),
        Column("n_examples", "Examples", "count"),
        Column("share", "Share", "share", "of all test examples"),
        Column("n_users", "Users", "count"),
        Column("n_items", "Items", "count", "distinct targets"),
        Column("warning", "Warning"),
        Column("rule", "Rule", "text", "which examples belong to it", True),
    )
    rows = [
        Row(
            {
                "cut": table.title,
                "slice": one.title,
                "n_examples": one.n_rows,
                "share": one.share,
                "n_users": one.n_users,
                "n_items": one.n_items,
                "warning": ", ".join(one.warnings),
                "rule": one.rule,
            }
        )
        for table in tables
        for one in table.slices
    ]
    rules = [
        f"{table.title}, {one.title}: {one.rule}."
        for table in tables
        for place, one in enumerate(table.slices)
        # One side of a cut in two says what the other one is.
        if len(table.slices) == 2 and place == 0
    ]
    unknown = [f"{table.title}: {table.n_unknown:,} examples are in no slice." for table in tables if table.n_unknown]
    notes = (*rules, *unknown, *_warning_notes([one for table in tables for one in table.slices]))
    return Table("sizes", "Sizes and rules of the slices", columns, tuple(rows), notes)


def _warning_notes(slices: Sequence[SliceFacts]) -> list[str]:
    """Return what the warnings of some slices mean, each once."""
    warnings = dict.fromkeys(warning for one in slices for warning in one.warnings)
    return [f"{warning.capitalize()}: {WARNING_TEXT[warning]}." for warning in warnings]


def cut_table(table: SliceTable, *, gains: bool = True, contrast: bool = True, headline: bool = False) -> Table:
    """Return one line per entry with its metric on every slice of one cut; slices with warnings are marked.

    Args:
        table: what to show.
        gains: whether the gains over the baseline are shown where space is scarce, too.
        contrast: whether the contrast is shown there.
        headline: whether it is the main table of its section.
    """
    has_baseline = table.baseline is not None
    columns = [Column("label", "Method")]
    values: dict[str, dict[str, Any]] = {entry.label: {"label": entry.label} for entry in table.entries}
    for place, one in enumerate(table.slices):
        columns += _slice_columns(one, table, gains)
        for entry in table.entries:
            values[entry.label] |= _slice_cells(one.key, entry.values[place])
    if has_baseline:
        columns += _contrast_columns(table, contrast)
        for entry in table.entries:
            values[entry.label] |= _contrast_cells(entry)
    columns += [Column("baseline", "Baseline", "text", "", True), Column("run_ids", "Runs", "code", "", True)]
    rows = [
        Row({**values[entry.label], "baseline": table.baseline, "run_ids": " ".join(entry.run_ids)})
        for entry in table.entries
    ]
    notes = [f"Inside: {table.focus_title}. Outside: all other examples."] if has_baseline and contrast else []
    notes += [f"{_MARK} {note}" for note in _warning_notes(table.slices)]
    title = f"{table.metric} by {table.title.lower()}"
    return Table(table.cut, title, tuple(columns), tuple(rows), tuple(notes), headline)


def _slice_columns(one: SliceFacts, table: SliceTable, gains: bool) -> list[Column]:
    key, title = one.key, one.title.capitalize()
    mark = f" {_MARK}" if one.warnings else ""
    columns = [
        Column(key, title + mark, "metric", f"{table.metric} where {one.rule}"),
        Column(f"{key}/interval", f"{title}, interval", "interval", "", True),
    ]
    if table.baseline is None:
        return columns
    against = f"against {table.baseline}"
    several = ", ".join(table.summed_metrics)
    return [
        *columns,
        Column(f"{key}/gain", f"{title}, gain", "change", f"relative improvement {against}", not gains),
        Column(f"{key}/gain_interval", f"{title}, gain, interval", "change_interval", "", True),
        Column(f"{key}/difference", f"{title}, difference", "signed", against, True),
        Column(f"{key}/difference_interval", f"{title}, difference, interval", "signed_interval", "", True),
        Column(f"{key}/gain_of_sums", f"{title}, gain of sums", "change", f"of the sum of {several}", True),
        Column(f"{key}/mean_gain", f"{title}, mean gain", "change", f"mean over {several}", True),
    ]


def _slice_cells(key: str, value: SliceValue) -> dict[str, Any]:
    return {
        key: value.mean,
        f"{key}/interval": value.interval,
        f"{key}/gain": value.improvement,
        f"{key}/gain_interval": value.improvement_interval,
        f"{key}/difference": value.difference,
        f"{key}/difference_interval": value.difference_interval,
        f"{key}/gain_of_sums": value.improvement_of_sums,
        f"{key}/mean_gain": value.mean_improvement,
    }


def _contrast_columns(table: SliceTable, shown: bool) -> list[Column]:
    of = f"{table.focus_title} against all other examples"
    return [
        Column("relative", "Gain inside − outside", "change", of, not shown),
        Column("relative/interval", "Gain inside − outside, interval", "change_interval", "", True),
        Column("relative/p", "Gain inside − outside, p", "p", "not adjusted", True),
        Column("relative/p_adjusted", "p (Holm)", "p", "", not shown),
        Column("absolute", "Difference inside − outside", "signed", of, True),
        Column("absolute/interval", "Difference inside − outside, interval", "signed_interval", "", True),
        Column("absolute/p", "Difference inside − outside, p", "p", "not adjusted", True),
        Column("absolute/p_adjusted", "Difference inside − outside, p (Holm)", "p", "", True),
    ]


def _contrast_cells(entry: SlicedEntry) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for scale, contrast in (("relative", entry.relative), ("absolute", entry.absolute)):
        cells |= _one_contrast(scale, contrast)
    return cells


def _one_contrast(scale: str, contrast: Contrast | None) -> dict[str, Any]:
    if contrast is None:
        return {}
    return {
        scale: contrast.value,
        f"{scale}/interval": contrast.interval,
        f"{scale}/p": contrast.p,
        f"{scale}/p_adjusted": contrast.p_adjusted,
    }


def _cold_table(tables: Sequence[SliceTable]) -> Table:
    """Return the cold slice by every definition, and the gains by the first of them."""
    main = cut_table(tables[0])
    columns, rows = list(main.columns), [dict(row.values) for row in main.rows]
    by_label = {row["label"]: row for row in rows}
    at = next(place for place, column in enumerate(columns) if column.key == "warm")
    for table in tables[1:]:
        place = next(number for number, one in enumerate(table.slices) if one.key == "cold")
        word = table.cut.partition("-")[2]
        mark = f" {_MARK}" if table.slices[place].warnings else ""
        help_text = f"{table.metric} where {table.slices[place].rule}"
        columns.insert(at, Column(word, f"Cold, {word}{mark}", "metric", help_text))
        columns.append(Column(f"{word}/interval", f"Cold, {word}, interval", "interval", "", True))
        at += 1
        for entry in table.entries:
            value = entry.values[place]
            by_label[entry.label] |= {word: value.mean, f"{word}/interval": value.interval}
    return Table(
        main.slug, f"{main.title}, by {len(tables)} definitions", tuple(columns), tuple(map(Row, rows)), main.notes
    )


def _popularity_figure(table: SliceTable) -> Figure:
    return Figure(
        slug="popularity",
        title=f"{table.metric} on popular items and on the long tail",
        alt=f"{table.metric} of every method on examples with popular and with long-tail targets, with intervals; the "
        "same numbers as the table by popularity.",
        draw=lambda: draw_popularity(table),
    )


def draw_popularity(table: SliceTable) -> MatplotlibFigure:
    """Draw every entry's metric on the slices of a cut in two, with intervals, one line per entry."""
    from recbench.report.figures import COLOURS, MARKERS, PAPER, legend_below, metric_along_x, new_figure

    entries = list(reversed(table.entries))
    figure = new_figure(7.5, 1.5 + 0.42 * len(entries))
    axes = figure.add_subplot()
    for place, one in enumerate(table.slices):
        heights = [number + 0.15 - 0.3 * place for number in range(len(entries))]
        values = [entry.values[place] for entry in entries]
        colour, marker = COLOURS[place], MARKERS[place]
        for height, value in zip(heights, values, strict=True):
            if value.interval:
                axes.plot([value.interval.low, value.interval.high], [height] * 2, color=colour, lw=2)
        look: dict[str, Any] = {
            "color": colour,
            "mfc": colour if place == 0 else PAPER,
            "ms": 6,
            "mew": 1.4,
            "ls": "none",
        }
        label = f"{one.title} ({one.n_rows:,} examples)"
        axes.plot([value.mean for value in values], heights, marker, **look, clip_on=False, label=label)
    axes.set_yticks(range(len(entries)), [entry.label for entry in entries])
    axes.set_ylim(-0.6, len(entries) - 0.4)
    axes.set_xlim(left=0)
    axes.grid(visible=False, axis="y")
    metric_along_x(axes, f"{table.metric} by {table.truth}, {table.level:.0%} interval over users")
    legend_below(figure, 2)
    return figure


def _deciles_figure(table: SliceTable) -> Figure:
    return Figure(
        slug="deciles",
        title=f"Relative gain over {table.baseline} by popularity of the target",
        alt=f"Relative gain in {table.metric} over {table.baseline} on each tenth of the catalogue, from popular to "
        "rare, with intervals, for the best methods; hollow where a slice is small.",
        draw=lambda: draw_gains(table),
    )


def draw_gains(table: SliceTable) -> MatplotlibFigure:
    """Draw the relative gains of the best entries over the slices of a cut; hollow points where a slice warns."""
    from matplotlib.ticker import PercentFormatter

    from recbench.report.figures import DASHES, GREY, PAPER, colour_of, legend_below, marker_of, new_figure

    entries = [entry for entry in table.entries if entry.label != table.baseline][:_DRAWN_ENTRIES]
    figure = new_figure(7.5, 4.2)
    axes = figure.add_subplot()
    axes.axhline(0, color=GREY, lw=1)
    top = max((value.improvement or 0.0 for entry in entries for value in entry.values), default=0.0)
    for number, entry in enumerate(entries):
        shift = 0.12 * (number - (len(entries) - 1) / 2)
        gains = [
            (place, value.improvement) for place, value in enumerate(entry.values) if value.improvement is not None
        ]
        colour, marker = colour_of(number), marker_of(number)
        dashes = DASHES[number % len(DASHES)]
        axes.plot([place + shift for place, _ in gains], [gain for _, gain in gains], dashes, color=colour, lw=1.2)
        axes.plot([], [], marker, ls=dashes, color=colour, ms=6, label=entry.label)
        for place, gain in gains:
            inside = PAPER if table.slices[place].warnings else colour
            axes.plot(place + shift, gain, marker, color=colour, mfc=inside, ms=6, zorder=3)
            interval = entry.values[place].improvement_interval
            if interval:
                axes.plot([place + shift] * 2, [interval.low, interval.high], color=colour, lw=1.5, alpha=0.6)
    ticks = [f"{one.title.removeprefix('tenth ')}\n{one.n_rows:,}" for one in table.slices]
    axes.set_xticks(range(len(ticks)), ticks, fontsize=9)
    axes.set_xlim(-0.6, len(ticks) - 0.4)
    # Intervals of rare items reach far; what matters is where they lie around 0.
    axes.set_ylim(-1.08, max(0.25, 1.5 * top + 0.1))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(visible=False, axis="x")
    axes.set_xlabel(
        "target's popularity (1 = most popular tenth of the catalogue), and examples\n"
        "hollow: few users or hits; no point: the baseline has 0"
    )
    axes.set_ylabel(f"gain in {table.metric} over {table.baseline}")
    legend_below(figure, 3)
    return figure
