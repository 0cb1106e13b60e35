"""The look of all figures, and how one is drawn: colours for the colour-blind, legible in grey, light and dark.

A section builder makes a :class:`matplotlib.figure.Figure` with :func:`new_figure` and takes colours, markers, dashes
and hatches from here; nothing of matplotlib's global state changes. Whatever is told apart by colour must be told apart
by marker, dashes, hatch or place, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

# Okabe and Ito (2008), "Color Universal Design", without yellow (too light on white) and black (the ink).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
DASHES = ("-", "--", ":", "-.")
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "++", "oo")

# The page that shows a figure replaces these by its own colours, so that figures suit light and dark pages.
INK = "#1f2328"
GREY = "#5f6873"
GRID = "#e1e4e8"
PAPER = "#ffffff"

_PIXELS_PER_INCH = 110
_STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "sans-serif"],
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.grid": True,
    "axes.axisbelow": True,
    "figure.facecolor": PAPER,
    "grid.color": GRID,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "path.simplify": True,
    "xtick.color": INK,
    "ytick.color": INK,
    # Texts stay texts: small files, and readers can search and copy them.
    "svg.fonttype": "none",
    # Ids in SVG files are hashes of this and the content: equal figures are equal bytes.
    "svg.hashsalt": "recbench",
}


@contextmanager
def style() -> Iterator[None]:
    """Apply the shared look to everything that matplotlib makes inside."""
    from matplotlib import rc_context

    with rc_context(_STYLE):
        yield


def new_figure(width: float, height: float) -> MatplotlibFigure:
    """Return an empty figure that keeps its labels apart and inside.

    Args:
        width, height: inches; 7.5 is the width of a page.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def colour_of(number: int) -> str:
    """Return the colour of the ``number``-th thing, from 0."""
    return COLOURS[number % len(COLOURS)]


def marker_of(number: int) -> str:
    """Return the marker of the ``number``-th thing; with :func:`colour_of` 24 things are told apart."""
    return MARKERS[number % len(MARKERS)]


@dataclass(frozen=True)
class Drawn:
    """A figure in both formats.

    Attributes:
        png: pixels.
        svg: text, UTF-8.
    """

    png: bytes
    svg: str


def draw(make: Callable[[], MatplotlibFigure]) -> Drawn:
    """Draw a figure as PNG and SVG; equal figures give equal bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with style():
        figure = make()
        canvas = FigureCanvasAgg(figure)
        figure.set_dpi(_PIXELS_PER_INCH)
        canvas.draw()
        # The places of all parts are computed once; the second format takes them as they are.
        figure.set_layout_engine("none")
        pixels, text = BytesIO(), BytesIO()
        figure.savefig(pixels, format="png", dpi=_PIXELS_PER_INCH, metadata={"Software": None})
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return Drawn(pixels.getvalue(), text.getvalue().decode("utf-8"))
