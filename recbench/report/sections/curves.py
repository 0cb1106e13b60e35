"""Training curves: loss, reward and validation metrics while the methods trained, one small panel per method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
_TITLE_WIDTH = 26
# Inches that a name in the legend takes: the line before it with its spaces, and each letter.
_LEGEND_HANDLE, _LETTER = 0.5, 0.07
_LEGEND_COLUMNS = 5
# Inches of one more line in a title.
_LINE = 0.15

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
        "One panel per method, best first, each with its own scale. A curve with many points is drawn as a running "
        "mean, with what was logged as a thin line where there is one seed."
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
    from recbench.report.figures import new_figure, wrapped

    n_columns = min(3, len(panels))
    n_rows = -(-len(panels) // n_columns)
    n_curves = sum(len(own) for own in panels.values())
    most = max(_LEAST_POINTS, _MOST_POINTS // max(n_curves, 1))
    keys = _Keys.of([curve for own in panels.values() for curve in own])
    titles = [wrapped(label, _TITLE_WIDTH) for label in panels]
    cell = (2.5 if n_columns > 1 else 4.5, 1.75 + _LINE * max(title.count("\n") for title in titles))
    longest = max((len(name) for name, _, _ in keys.legend), default=0)
    n_legend_columns = max(1, min(_LEGEND_COLUMNS, int(cell[0] * n_columns / (_LEGEND_HANDLE + _LETTER * longest))))
    n_legend_rows = -(-len(keys.legend) // n_legend_columns)
    height = cell[1] * n_rows + 0.25 * n_legend_rows
    figure = new_figure(cell[0] * n_columns, height)
    # Panels of one size need no search for a layout, which takes longer than drawing them.
    figure.set_layout_engine("none")
    for place, (title, curves) in enumerate(zip(titles, panels.values(), strict=True)):
        left, top = cell[0] * (place % n_columns) + 0.6, height - cell[1] * (place // n_columns)
        across, up = cell[0] - 0.72, cell[1] - 0.75 - _LINE * title.count("\n")
        width = cell[0] * n_columns
        axes = figure.add_axes((left / width, (top - cell[1] + 0.45) / height, across / width, up / height))
        _draw_panel(axes, title, curves, keys, most)
    if keys.legend:
        from matplotlib.lines import Line2D

        handles = [Line2D([], [], ls=style, color=colour, lw=1.5, label=name) for name, style, colour in keys.legend]
        columns = min(n_legend_columns, len(handles))
        figure.legend(handles=handles, loc="lower center", ncols=columns, fontsize=8, borderaxespad=0.1)
    return figure


@dataclass(frozen=True)
class _Keys:
    """How seeds and quantities are told apart, alike in all panels of a figure.

    Attributes:
        colour_of: (seed, series) -> colour.
        dashes_of: (seed, series) -> line style.
        legend: (name, line style, colour); empty where there is one seed and one quantity.
        series: the quantities.
    """

    colour_of: Mapping[tuple[int, str], str]
    dashes_of: Mapping[tuple[int, str], str]
    legend: Sequence[tuple[str, str, str]]
    series: Sequence[str]

    @classmethod
    def of(cls, curves: Sequence[TrainingCurve]) -> _Keys:
        """Tell several seeds apart by colour and quantities by dashes; where one of them is alone, by both."""
        from recbench.report.figures import COLOURS, DASHES, GREY

        seeds = sorted({curve.seed for curve in curves})
        series = sorted({curve.series for curve in curves}, key=lambda name: (name.startswith("eval"), name))
        several = len(seeds) > 1
        first: dict[int | str, str] = dict(zip(seeds if several else series, cycle(COLOURS), strict=False))
        second: dict[int | str, str] = dict(zip(series if len(series) > 1 else seeds, cycle(DASHES), strict=False))
        pairs = [(seed, name) for seed in seeds for name in series]
        colours = {pair: first[pair[0] if several else pair[1]] for pair in pairs}
        dashes = {pair: second[pair[1] if len(series) > 1 else pair[0]] for pair in pairs}
        legend = [(name, second[name], GREY if several else first[name]) for name in series if len(series) > 1]
        legend += [(f"seed {seed}", "-" if len(series) > 1 else second[seed], first[seed]) for seed in seeds if several]
        return cls(colours, dashes, legend, series)


def _draw_panel(axes: Any, title: str, curves: Sequence[TrainingCurve], keys: _Keys, most: int) -> None:
    from matplotlib.ticker import MaxNLocator

    for curve in curves:
        pair = curve.seed, curve.series
        colour, dashes = keys.colour_of[pair], keys.dashes_of[pair]
        _draw_curve(axes, curve, colour, dashes, most, alone=len(keys.legend) < 3)
    axes.set_title(title, fontsize=9, pad=5)
    axes.set_xlabel(curves[0].unit, fontsize=8, labelpad=1)
    axes.set_ylabel(curves[0].series if len(keys.series) == 1 else "", fontsize=8, labelpad=1)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.tick_params(labelsize=8)


def _draw_curve(axes: Any, curve: TrainingCurve, colour: str, dashes: str, most: int, alone: bool) -> None:
    """Draw one curve; one with many points as a running mean, with the points faintly below it where it is alone."""
    x, y = np.asarray(curve.x), np.asarray(curve.y)
    marker = "o" if len(x) < (12 if alone else 3) else None
    if len(x) >= _SMOOTHED_FROM:
        if alone:
            axes.plot(*thinned(x, y, most), color=colour, lw=0.6, alpha=0.35)
        x, y = thinned(x, running_mean(y, max(5, len(y) // 25)), most // 2)
    axes.plot(x, y, dashes, color=colour, lw=1.5 if alone else 1.1, marker=marker, ms=3)


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
