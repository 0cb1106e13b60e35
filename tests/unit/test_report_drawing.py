"""Figures drawn by several processes: the same bytes, and no process is needed for them to be right."""

from __future__ import annotations

import os
import sys
from functools import partial

import pytest

from recbench.report.drawing import draw_all
from recbench.report.figures import draw, new_figure

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems draw in one process")


def make(number: int, parent: int | None = None):
    """Make a figure that tells its number; outside of ``parent`` it ends the process."""
    if parent is not None and os.getpid() != parent:
        os._exit(1)
    figure = new_figure(3, 2)
    figure.subplots().plot([0, number], label=f"line {number}")
    return figure


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_the_figures_are_the_same_for_any_number_of_processes(processes: int) -> None:
    makes = [partial(make, number) for number in range(5)]
    assert draw_all(makes, processes) == [draw(one) for one in makes]


def test_figures_of_a_process_that_is_lost_are_drawn_again() -> None:
    makes = [partial(make, number, os.getpid()) for number in range(4)]
    assert draw_all(makes, 2) == [draw(partial(make, number)) for number in range(4)]


def test_a_figure_that_fails_is_told_as_it_is() -> None:
    def fails():
        raise ValueError("no such line")

    with pytest.raises(ValueError, match="no such line"):
        draw_all([partial(make, 0), fails], 2)


def test_nothing_to_draw() -> None:
    assert draw_all([]) == []
