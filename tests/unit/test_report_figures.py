"""Figures: the numbers they draw, room for 25 methods with long names, shapes that are told apart without colour."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as MatplotlibFigure

from recbench.contracts.comparison import ComparedEntry, Comparison, Interval
from recbench.contracts.curves import TrainingCurve
from recbench.contracts.leaderboard import Leaderboard, LeaderboardRow
from recbench.report.figures import COLOURS, MARKERS, draw, legend_below, new_figure, style, wrapped
from recbench.report.sections.curves import curves_section, draw_curves, running_mean, thinned
from recbench.report.sections.leaderboard import draw_leaderboard
from recbench.report.sections.significance import draw_significance, significance_section

LONG = "plugin.of-some-laboratory.with-a-very-long-name (nano, exact search, decoding.length_penalty=1.0)"


def comparison_of(n: int) -> Comparison:
    """Return n entries with falling means; each is shown to be better than those three or more places below."""
    labels = [f"method-{number}" if number % 4 else f"{LONG} {number}" for number in range(n)]
    entries = tuple(
        ComparedEntry(
            label=label, method=label, backbone=None, run_ids=(f"r{number}",), seeds=(1, 2), mean=0.3 - 0.01 * number,
            interval=Interval(0.29 - 0.01 * number, 0.31 - 0.01 * number), seed_means=(0.1, 0.2), rank_low=1,
            rank_high=n, in_best_set=number < 3, better_than=tuple(labels[number + 3 :]),
        )
        for number, label in enumerate(labels)
    )  # fmt: skip
    return Comparison(
        dataset="d", split_fingerprint="s", protocol_hash="p", limited=False, truth="item", metric="NDCG@10",
        n_examples=100, n_users=10, entries=entries, baseline=labels[0], pairs=(), level=0.95, alpha=0.05,
        n_resamples=10, n_flips=10, random_seed=1, notes=(), effective_users=10.0, correction="holm", n_tests=0,
        family=None, margin=None, power=0.8,
    )  # fmt: skip


def board_of(n: int) -> Leaderboard:
    comparison = comparison_of(n)
    rows = tuple(
        LeaderboardRow(
            entry=entry, metrics={"item/NDCG@10": entry.mean, "title/NDCG@10": entry.mean + 0.005}, seed_sd=None,
            runs=(), config={}, revision=None, max_length=50, tied_targets=0.0, coverage=0.5, average_popularity=1.0,
        )
        for entry in comparison.entries
    )  # fmt: skip
    return Leaderboard(
        dataset="d", backbone=None, protocol={"split": "global-time"}, protocol_hash="p", dataset_fingerprint="f",
        split_fingerprint="s", split_facts={}, limited=False, metrics=("NDCG@10",), rows=rows, comparison=comparison,
        warnings=(), notes=(),
    )  # fmt: skip


def curves_of(n: int, n_seeds: int, n_points: int) -> list[TrainingCurve]:
    x = tuple(float(step) for step in range(1, n_points + 1))
    return [
        TrainingCurve(entry.label, seed, "sft", "loss", series, "step", x, tuple(1 / value for value in x))
        for entry in comparison_of(n).entries
        for seed in range(n_seeds)
        for series in ("loss", "eval_loss")
    ]


def text_boxes(figure: MatplotlibFigure) -> list[Any]:
    """Return the boxes of all texts that are seen, in pixels."""
    from matplotlib.text import Text

    renderer = FigureCanvasAgg(figure).get_renderer()
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    on_axes = {id(label) for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for label in _ticks(axis)}
    hidden = {id(label) for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for label in _all_ticks(axis)}
    return [text.get_window_extent(renderer) for text in texts if id(text) in on_axes or id(text) not in hidden]


def _ticks(axis: Any) -> list[Any]:
    low, high = sorted(axis.get_view_interval())
    ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    return [label for tick in ticks for label in (tick.label1, tick.label2)]


def _all_ticks(axis: Any) -> list[Any]:
    ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
    return [label for tick in ticks for label in (tick.label1, tick.label2)]


def overlaps(figure: MatplotlibFigure) -> int:
    """Return how many pairs of texts cover each other by more than a hair."""
    boxes = [box.padded(-1.0) for box in text_boxes(figure)]
    return sum(a.x0 < b.x1 and b.x0 < a.x1 and a.y0 < b.y1 and b.y0 < a.y1 for a, b in combinations(boxes, 2))


def drawn(make: Any) -> MatplotlibFigure:
    with style():
        figure: MatplotlibFigure = make()
        FigureCanvasAgg(figure).draw()
    return figure


@pytest.mark.parametrize("n", [2, 5, 25])
def test_no_text_covers_another_and_none_leaves_the_figure(n: int) -> None:
    panels = {curve.label: [] for curve in curves_of(n, 2, 30)}
    for curve in curves_of(n, 2, 30):
        panels[curve.label].append(curve)
    for make in (
        lambda: draw_leaderboard(board_of(n)),
        lambda: draw_significance(comparison_of(n)),
        lambda: draw_curves(panels),
    ):
        figure = drawn(make)
        assert overlaps(figure) == 0
        width, height = figure.get_size_inches() * figure.dpi
        for box in text_boxes(figure):
            assert min(box.x0, box.y0) >= -1
            assert max(box.x1 - width, box.y1 - height) <= 1


def test_the_leaderboard_draws_the_numbers_of_the_table() -> None:
    board = board_of(5)
    (axes,) = drawn(lambda: draw_leaderboard(board)).axes
    labels = [label.get_text() for label in reversed(axes.get_yticklabels())]
    assert labels == [wrapped(f"{row.entry.label}, 2 seeds") for row in board.rows]
    dots = next(line for line in axes.lines if line.get_marker() == "o")
    assert list(dots.get_xdata()) == [row.entry.mean for row in reversed(board.rows)]
    diamonds = next(line for line in axes.lines if line.get_marker() == "D")
    assert list(diamonds.get_xdata()) == [row.metrics["title/NDCG@10"] for row in reversed(board.rows)]
    weights = [label.get_fontweight() for label in reversed(axes.get_yticklabels())]
    assert weights == ["bold"] * 3 + ["normal"] * 2


def test_the_matrix_tells_better_from_worse_by_shape() -> None:
    comparison = comparison_of(5)
    (axes,) = drawn(lambda: draw_significance(comparison)).axes
    better = next(line for line in axes.lines if line.get_marker() == "^")
    worse = next(line for line in axes.lines if line.get_marker() == "v")
    claims = {(0, 3), (0, 4), (1, 4)}
    assert {(round(y), round(x)) for x, y in zip(*better.get_data(), strict=True)} == claims
    assert {(round(x), round(y)) for x, y in zip(*worse.get_data(), strict=True)} == claims
    section = significance_section(comparison)
    assert section
    rows = section.tables[0].rows
    assert rows[0].values["minus_4"] == pytest.approx(0.03)
    assert rows[0].marks == {"minus_4": "▲", "minus_5": "▲"}
    assert rows[4].marks == {"minus_1": "▽", "minus_2": "▽"}
    assert significance_section(replace(comparison, entries=comparison.entries[:2])) is None


def test_many_methods_are_told_apart_by_marker_and_colour() -> None:
    looks = {(COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]) for number in range(24)}
    assert len(looks) == 24


def test_figures_stay_small() -> None:
    section = curves_section(curves_of(8, 5, 5_000), [entry.label for entry in comparison_of(8).entries])
    assert section
    (figure,) = section.figures
    svg = draw(figure.draw).svg
    assert len(svg) < 150_000
    assert len(re.findall(r"\d\.\d{3,}", re.sub(r">[^<]*<", "><", svg))) == 0
    assert ">step<" in svg


def test_further_methods_than_can_be_drawn_are_named_as_missing() -> None:
    section = curves_section(curves_of(30, 1, 5), [entry.label for entry in comparison_of(30).entries])
    assert section
    assert section.paragraphs[1] == "Not drawn: loss of 6 methods further down the leaderboard."


def test_running_mean_and_thinning() -> None:
    y = np.array([1.0, 2.0, 6.0, 2.0, 1.0])
    assert running_mean(y, 3).tolist() == pytest.approx([1.5, 3.0, 10 / 3, 3.0, 1.5])
    assert running_mean(y, 1).tolist() == y.tolist()
    x = np.arange(100)
    kept, _ = thinned(x, x, 10)
    assert (len(kept), kept[0], kept[-1]) == (10, 0, 99)
    assert thinned(x[:5], x[:5], 10)[0].tolist() == [0, 1, 2, 3, 4]


def test_equal_figures_are_equal_bytes() -> None:
    def make() -> MatplotlibFigure:
        figure = new_figure(3, 2)
        figure.add_subplot().plot([0, 1], [0, 1], "o")
        return figure

    assert draw(make) == draw(make)


def test_long_labels_are_wrapped() -> None:
    assert wrapped("sasrec") == "sasrec"
    assert max(map(len, wrapped(LONG).split("\n"))) <= 36


@pytest.mark.parametrize("most", [0.5, 0.02, 0.0187, 0.0026])
def test_numbers_along_the_leaderboard_stay_apart(most: float) -> None:
    board = board_of(8)
    rows = tuple(replace(row, metrics={"item/NDCG@10": most / 2, "title/NDCG@10": most}) for row in board.rows)
    entries = [replace(row.entry, mean=most / 2, interval=Interval(0.0, most)) for row in rows]
    rows = tuple(replace(row, entry=entry) for row, entry in zip(rows, entries, strict=True))
    with style():
        figure = draw_leaderboard(replace(board, rows=rows))
        FigureCanvasAgg(figure).draw()
        (axes,) = figure.axes
        low, high = axes.get_xlim()
        ticks = [tick for tick in axes.xaxis.get_major_ticks() if low <= tick.get_loc() <= high]
        boxes = [tick.label1.get_window_extent() for tick in ticks]
        assert len(boxes) >= 3
        assert all(right.x0 - left.x1 >= 4 for left, right in pairwise(boxes))


@pytest.mark.parametrize("labels", [["a", "b", "c", "d"], [f"{LONG} {number}" for number in range(6)]])
def test_legend_below_has_every_label_inside_the_figure(labels: list[str]) -> None:
    with style():
        figure = new_figure(7.5, 4.2)
        axes = figure.add_subplot()
        for label in labels:
            axes.plot([0, 1], [0, 1], label=label)
        legend_below(figure, 3)
        FigureCanvasAgg(figure).draw()
        (legend,) = figure.legends
        assert [text.get_text().replace("\n", " ") for text in legend.get_texts()] == labels
        frame, room = legend.get_window_extent(), figure.bbox
        assert room.x0 <= frame.x0
        assert frame.x1 <= room.x1
        # The axes keep most of their height.
        assert axes.get_window_extent().height >= 2.5 * figure.dpi
