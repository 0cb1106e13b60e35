"""Figures of a leaderboard group, from the same rows as its tables. Colours are told apart by colour-blind readers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

from recbench.artifacts.files import atomic_path
from recbench.report.format import metric_text
from recbench.report.model import LeaderboardGroup, LeaderboardRow, TrainingCurve

# Okabe and Ito (2008), "Color Universal Design", without yellow (too light on white).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
_DASHES = ("-", "--", ":", "-.")
_GREY = "#666666"
_TIMES = {
    0.001: "1 ms",
    0.01: "10 ms",
    0.1: "0.1 s",
    1: "1 s",
    10: "10 s",
    60: "1 min",
    600: "10 min",
    3_600: "1 h",
    36_000: "10 h",
    360_000: "100 h",
}
_TIMES_BETWEEN = {0.3: "0.3 s", 3: "3 s", 30: "30 s", 180: "3 min", 1_800: "30 min", 10_800: "3 h", 108_000: "30 h"}
_STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "legend.frameon": False,
    "svg.hashsalt": "recbench",
}


def draw_all(group: LeaderboardGroup, folder: Path) -> list[Path]:
    """Draw every figure that the group has data for, each as PNG and SVG.

    Returns:
        The PNG files, the leaderboard first.
    """
    drawn = [_draw_leaderboard(group, folder)]
    if any(row.total_s is not None for row in group.rows):
        drawn.append(_draw_cost(group, folder))
    panels = _panels(group)
    if panels:
        drawn.append(_draw_curves(group, panels, folder))
    return drawn


@contextmanager
def _figure(path: Path, width: float, height: float) -> Iterator[Any]:
    """Yield a figure; save it as ``path`` (PNG) and its SVG twin. Nothing of matplotlib's global state is changed."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            with atomic_path(path.with_suffix(f".{kind}")) as temporary:
                figure.savefig(temporary, format=kind, dpi=160, metadata=metadata)


def _draw_leaderboard(group: LeaderboardGroup, folder: Path) -> Path:
    """Dot plot of the ranking metric with intervals; the second truth beside it as a hollow dot."""
    metric = group.metrics[0]
    path = folder / f"{group.slug}-leaderboard.png"
    rows = list(reversed(group.rows))
    with _figure(path, 7.5, 1.7 + 0.38 * len(rows)) as figure:
        axes = figure.add_subplot()
        interval = f"{group.comparison.level:.0%} interval over users"
        heights = range(len(rows))
        means = [row.entry.mean for row in rows]
        for height, row in zip(heights, rows, strict=True):
            axes.plot([row.entry.interval.low, row.entry.interval.high], [height] * 2, color=COLOURS[0], lw=2)
        axes.plot(means, heights, "o", color=COLOURS[0], ms=7, clip_on=False, label=f"exact item, with {interval}")
        titles = [row.metrics[f"title/{metric}"] for row in rows]
        below = [height - 0.25 for height in heights]
        look = {"mfc": "white", "mec": COLOURS[1], "ms": 5, "mew": 1.3, "clip_on": False}
        axes.plot(titles, below, "D", **look, label="any item with its title")
        right = max([row.entry.interval.high for row in rows] + titles)
        for height, row in zip(heights, rows, strict=True):
            axes.annotate(
                metric_text(row.entry.mean),
                (1.01, height),
                xycoords=("axes fraction", "data"),
                va="center",
                color=_GREY,
            )
        axes.set_yticks(list(heights), [_with_seeds(row) for row in rows])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlim(0, right * 1.05 if right > 0 else 1)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(metric)
        axes.set_title(f"{metric} on {group.title}")
        figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    return path


def _draw_cost(group: LeaderboardGroup, folder: Path) -> Path:
    """Scatter of quality against training plus ranking time."""
    metric = group.metrics[0]
    path = folder / f"{group.slug}-cost.png"
    rows = [row for row in group.rows if row.total_s is not None]
    with _figure(path, 7.5, max(4.0, 1.6 + 0.3 * len(rows))) as figure:
        axes = figure.add_subplot()
        for number, row in enumerate(rows):
            colour, marker = _look(number)
            seconds = max(row.total_s or 0.0, 1e-3)
            low, high = row.entry.interval.low, row.entry.interval.high
            axes.plot([seconds] * 2, [low, high], color=colour, lw=1.5, alpha=0.6)
            look = {"color": colour, "ms": 8, "ls": "none", "clip_on": False, "zorder": 3}
            axes.plot(seconds, row.entry.mean, marker, **look, label=_with_seeds(row))
        axes.set_xscale("log")
        _widen_to_a_decade(axes)
        _time_ticks(axes)
        axes.set_ylim(bottom=0)
        devices = sorted({row.device for row in rows})
        axes.set_xlabel(f"training + ranking time on {' / '.join(devices)} (log scale)")
        axes.set_ylabel(f"{metric}, {group.comparison.level:.0%} interval over users")
        axes.set_title(f"Quality and cost on {group.title}")
        figure.legend(loc="outside lower center", ncols=min(3, len(rows)), fontsize=9)
    return path


Panels = dict[tuple[str, str, str], list[TrainingCurve]]


def _panels(group: LeaderboardGroup) -> Panels:
    """Return the curves by label, stage and panel, best entry first; panels without any line are left out."""
    order = {row.entry.label: number for number, row in enumerate(group.rows)}
    panels: Panels = {}
    for curve in sorted(group.curves, key=lambda curve: order[curve.label]):
        panels.setdefault((curve.label, curve.stage, curve.panel), []).append(curve)
    return {key: curves for key, curves in panels.items() if any(len(curve.x) > 1 for curve in curves)}


def _draw_curves(group: LeaderboardGroup, panels: Panels, folder: Path) -> Path:
    """Training curves, one small panel per entry, stage and kind; colour for the seed, dashes for the quantity."""
    path = folder / f"{group.slug}-training.png"
    n_columns = min(3, len(panels))
    n_rows = -(-len(panels) // n_columns)
    with _figure(path, 1.0 + 3.0 * n_columns, 0.8 + 2.3 * n_rows) as figure:
        grid = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
        for axes, (key, members) in zip(grid, panels.items(), strict=False):
            _draw_panel(axes, key, members)
        for axes in grid[len(panels) :]:
            axes.remove()
        figure.suptitle(f"Training on {group.title}", x=0.01, ha="left", fontsize=11)
    return path


def _draw_panel(axes: Any, key: tuple[str, str, str], curves: Sequence[TrainingCurve]) -> None:
    from matplotlib.ticker import MaxNLocator

    label, stage, panel = key
    seeds = sorted({curve.seed for curve in curves})
    series = sorted({curve.series for curve in curves}, key=lambda name: (name.startswith("eval"), name))
    dashes = dict(zip(series, cycle(_DASHES), strict=False))
    # Several seeds are told apart by colour; with one seed the colour is free to tell quantities apart, too.
    colours = dict(zip(seeds if len(seeds) > 1 else series, cycle(COLOURS), strict=False))
    for curve in curves:
        colour = colours[curve.seed] if len(seeds) > 1 else colours[curve.series]
        _draw_curve(axes, curve, colour, dashes[curve.series])
    quantity = series[0] if len(series) == 1 else panel
    axes.set_title(f"{label}\n{f'{stage}: ' if stage else ''}{quantity}", fontsize=9)
    axes.set_xlabel(curves[0].unit, fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    axes.tick_params(labelsize=8)
    keys = [] if len(series) == 1 else [(name, dashes[name], colours.get(name, _GREY)) for name in series]
    keys += [] if len(seeds) == 1 else [(f"seed {seed}", "-", colours[seed]) for seed in seeds]
    for name, style, colour in keys:
        axes.plot([], [], style, color=colour, lw=1.5, label=name)
    if keys:
        axes.legend(fontsize=7, frameon=True, framealpha=0.7, edgecolor="none")


def _draw_curve(axes: Any, curve: TrainingCurve, colour: str, dashes: str) -> None:
    """Draw one curve: raw points faintly under a running mean where there are many, else a plain line."""
    import pandas as pd

    marker = "o" if len(curve.x) < 12 else None
    y: Any = curve.y
    if len(curve.x) >= 60:
        axes.plot(curve.x, curve.y, color=colour, lw=0.6, alpha=0.3)
        y = pd.Series(curve.y).rolling(max(5, len(curve.y) // 25), min_periods=1, center=True).mean()
    axes.plot(curve.x, y, dashes, color=colour, lw=1.5, marker=marker, ms=3)


def _look(number: int) -> tuple[str, str]:
    return COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]


def _with_seeds(row: LeaderboardRow) -> str:
    n_seeds = len(row.entry.seeds)
    return row.entry.label + (f", {n_seeds} seeds" if n_seeds > 1 else "")


def _widen_to_a_decade(axes: Any) -> None:
    """Give the log axis at least a decade, so that near-equal times do not look far apart."""
    low, high = axes.get_xlim()
    if high / low < 10:
        middle = (low * high) ** 0.5
        axes.set_xlim(middle / 10**0.5, middle * 10**0.5)


def _time_ticks(axes: Any) -> None:
    """Put ticks at round times in the units that people use."""
    low, high = axes.get_xlim()
    times = _TIMES if high / low > 10_000 else _TIMES | _TIMES_BETWEEN
    inside = {seconds: text for seconds, text in times.items() if low <= seconds <= high}
    axes.set_xticks(list(inside), list(inside.values()))
    axes.minorticks_off()


def figure_names(paths: Sequence[Path]) -> list[str]:
    """Return the file names of figures: PNG and SVG."""
    return [path.with_suffix(kind).name for path in paths for kind in (".png", ".svg")]
