"""Training curves: loss, reward and validation metrics while the methods trained, one small panel per method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from recbench.contracts.curves import TrainingCurve
from recbench.report.document import Figure, Section

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

_MOST_PANELS = 24
# Points of one figure, so that a page with many of them stays small.
_MOST_POINTS = 4_000
_LEAST_POINTS = 40
_SMOOTHED_FROM = 60

Panels = Mapping[str, Sequence[TrainingCurve]]


def curves_section(curves: Sequence[TrainingCurve], order: Sequence[str]) -> Section | None:
    """Return one figure per stage and kind of quantity, or None where no run logged a curve.

    Args:
        curves: of all runs of a group.
        order: labels of the entries, best first; panels follow it.
    """
    by_figure: dict[tuple[str, str], dict[str, list[TrainingCurve]]] = {}
    for curve in sorted(curves, key=lambda one: order.index(one.label)):
        by_figure.setdefault((curve.stage, curve.panel), {}).setdefault(curve.label, []).append(curve)
    figures, left_out = [], []
    for (stage, panel), found in by_figure.items():
        panels = {label: own for label, own in found.items() if any(len(curve.x) > 1 for curve in own)}
        drawn = dict(list(panels.items())[:_MOST_PANELS])
        if len(drawn) < len(panels):
            left_out.append(f"{panel} of {len(panels) - len(drawn)} methods further down the leaderboard")
        if drawn:
            figures.append(_figure(stage, panel, drawn))
    if not figures:
        return None
    sentence = (
        "One panel per method, best first, each with its own scale. Where a curve has many points, the thin line is "
        "what was logged and the thick one a running mean."
    )
    missing = (f"Not drawn: {'; '.join(left_out)}.",) if left_out else ()
    return Section("curves", "Training curves", (sentence, *missing), figures=tuple(figures))


def _figure(stage: str, panel: str, panels: Panels) -> Figure:
    title = f"Training: {panel}" + (f" in stage {stage}" if stage and stage != "train" else "")
    series = sorted({curve.series for own in panels.values() for curve in own})
    return Figure(
        slug="-".join(part for part in (stage, panel) if part),
        title=title,
        alt=f"{', '.join(series)} by training time, for {', '.join(panels)}.",
        draw=partial(draw_curves, panels),
    )


def draw_curves(panels: Panels) -> MatplotlibFigure:
    """Draw small panels, one per method; colour and dashes tell seeds and quantities apart.

    Args:
        panels: label -> its curves of one stage and kind, one per seed and quantity.
    """
    from recbench.report.figures import new_figure

    n_columns = min(3, len(panels))
    n_rows = -(-len(panels) // n_columns)
    n_curves = sum(len(own) for own in panels.values())
    most = max(_LEAST_POINTS, _MOST_POINTS // max(n_curves, 1))
    figure = new_figure(7.5 if n_columns > 1 else 4.5, 0.6 + 2.1 * n_rows)
    grid = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for axes, (label, curves) in zip(grid, panels.items(), strict=False):
        _draw_panel(axes, label, curves, most)
    for axes in grid[len(panels) :]:
        axes.remove()
    return figure


def _draw_panel(axes: Any, label: str, curves: Sequence[TrainingCurve], most: int) -> None:
    from matplotlib.ticker import MaxNLocator

    from recbench.report.figures import COLOURS, DASHES, GREY

    seeds = sorted({curve.seed for curve in curves})
    series = sorted({curve.series for curve in curves}, key=lambda name: (name.startswith("eval"), name))
    dashes = dict(zip(series, cycle(DASHES), strict=False))
    # Several seeds are told apart by colour; with one seed the colour is free to tell quantities apart, too.
    colours = dict(zip(seeds if len(seeds) > 1 else series, cycle(COLOURS), strict=False))
    for curve in curves:
        colour = colours[curve.seed] if len(seeds) > 1 else colours[curve.series]
        _draw_curve(axes, curve, colour, dashes[curve.series], most)
    axes.set_title(_wrapped(label), fontsize=9, pad=6)
    axes.set_xlabel(curves[0].unit, fontsize=8, labelpad=1)
    axes.set_ylabel(series[0] if len(series) == 1 else "", fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.tick_params(labelsize=8)
    keys = [] if len(series) == 1 else [(name, dashes[name], colours.get(name, GREY)) for name in series]
    keys += [] if len(seeds) == 1 else [(f"seed {seed}", "-", colours[seed]) for seed in seeds]
    for name, style, colour in keys:
        axes.plot([], [], style, color=colour, lw=1.5, label=name)
    if keys:
        axes.legend(fontsize=7, frameon=True, framealpha=0.7, edgecolor="none", handlelength=1.6, borderpad=0.2)


def _draw_curve(axes: Any, curve: TrainingCurve, colour: str, dashes: str, most: int) -> None:
    """Draw one curve: raw points faintly under a running mean where there are many, else a plain line."""
    x, y = np.asarray(curve.x), np.asarray(curve.y)
    marker = "o" if len(x) < 12 else None
    if len(x) >= _SMOOTHED_FROM:
        axes.plot(*thinned(x, y, most), color=colour, lw=0.6, alpha=0.35)
        x, y = thinned(x, running_mean(y, max(5, len(y) // 25)), most // 2)
    axes.plot(x, y, dashes, color=colour, lw=1.5, marker=marker, ms=3)


def running_mean(y: np.ndarray, window: int) -> np.ndarray:
    """Return float64 (N,): the mean of up to ``window`` values around each; fewer at the ends."""
    total = np.concatenate([[0.0], np.cumsum(y, dtype=np.float64)])
    places = np.arange(len(y))
    low = np.maximum(places - (window - 1) // 2, 0)
    high = np.minimum(places + window // 2 + 1, len(y))
    return (total[high] - total[low]) / (high - low)


def thinned(x: np.ndarray, y: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return at most ``most`` of the points, evenly spread, the first and the last among them."""
    if len(x) <= most:
        return x, y
    kept = np.unique(np.linspace(0, len(x) - 1, max(most, 2)).round().astype(int))
    return x[kept], y[kept]


def _wrapped(label: str, width: int = 30) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(label, width, break_long_words=True)) or label
