"""The look of all figures, and how one is drawn: colours for the colour-blind, legible in grey, light and dark.

A section builder makes a :class:`matplotlib.figure.Figure` with :func:`new_figure` and takes colours, markers, dashes
and hatches from here; nothing of matplotlib's global state changes. Whatever is told apart by colour must be told apart
by marker, dashes, hatch or place, too.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO, StringIO
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
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
_TAG = re.compile(r"<[^>]*>")
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_DECIMALS = re.compile(r"(\.\d\d)\d+")
_ID = re.compile(r' id="([^"]*)"')
_REFERENCE = re.compile(r'(?:href="|url\()#([^")]+)')
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
    # A fixed height spares the search for one, which takes as long as drawing the ticks.
    "axes.titley": 1.0,
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


# At most this many steps along an axis of metric values, whose numbers are wide.
_METRIC_TICKS = 5
# Of a legend of 9 points, in inches: the mark with the space around it, a letter (most are narrower), a line.
_LEGEND_MARK_IN, _LEGEND_LETTER_IN, _LEGEND_LINE_IN = 0.6, 0.075, 0.19


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


def legend_below(figure: MatplotlibFigure, most_columns: int) -> None:
    """Put one legend under all axes, in as many columns as its longest label leaves room for.

    The figure grows by the lines that this costs, so that the axes keep their size.
    """
    drawn = [axes.get_legend_handles_labels() for axes in figure.axes]
    handles = [handle for some, _ in drawn for handle in some]
    most_letters = int((figure.get_figwidth() - _LEGEND_MARK_IN) / _LEGEND_LETTER_IN)
    labels = [wrapped(label, most_letters) for _, some in drawn for label in some]
    if not labels:
        return
    lines = [label.split("\n") for label in labels]
    longest = max(len(line) for label in lines for line in label)
    columns = int(figure.get_figwidth() / (_LEGEND_MARK_IN + _LEGEND_LETTER_IN * longest))
    columns = max(1, min(columns, most_columns, len(labels)))
    n_lines = -(-len(labels) // columns) * max(map(len, lines))
    figure.set_figheight(figure.get_figheight() + _LEGEND_LINE_IN * (n_lines - -(-len(labels) // most_columns)))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=9)


def metric_along_x(axes: Axes, label: str) -> None:
    """Name a horizontal axis of metric values, with few enough ticks that numbers like 0.0025 stay apart."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=_METRIC_TICKS))
    axes.set_xlabel(label)


def colour_of(number: int) -> str:
    """Return the colour of the ``number``-th thing, from 0."""
    return COLOURS[number % len(COLOURS)]


def marker_of(number: int) -> str:
    """Return the marker of the ``number``-th thing; with :func:`colour_of` 24 things are told apart."""
    return MARKERS[number % len(MARKERS)]


def wrapped(label: str, width: int = 36) -> str:
    """Return a long label in several lines, so that names leave room for what they name."""
    return "\n".join(textwrap.wrap(label, width, break_on_hyphens=True)) or label


def row_height(labels: Sequence[str], least: float) -> float:
    """Return the inches of one row beside these labels.

    Args:
        labels: in lines, as :func:`wrapped` gives them.
        least: height of a row with a label of one line.
    """
    return least + 0.16 * max((label.count("\n") for label in labels), default=0)


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
    """Draw a figure as PNG and SVG; equal figures give equal bytes.

    Each format draws once. ``Figure.savefig`` would draw twice per format, the first time to learn how large all parts
    are, which the layout of the first drawing has settled already.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from PIL import Image

    with style():
        figure = make()
        figure.set_dpi(_PIXELS_PER_INCH)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        figure.set_layout_engine("none")
        pixels, text = BytesIO(), StringIO()
        # The paper is white and covers everything, so the fourth channel says nothing.
        Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").save(pixels, format="png")
        FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None, "Creator": None})
    return Drawn(pixels.getvalue(), compact_svg(text.getvalue()))


def compact_svg(svg: str) -> str:
    """Return the same picture in fewer bytes: hundredths of a point, no indents, no ids that nothing refers to."""
    referred = set(_REFERENCE.findall(svg))

    def shorten(tag: re.Match[str]) -> str:
        text = _DECIMALS.sub(r"\1", " ".join(tag.group().split()))
        return _ID.sub(lambda found: found.group() if found.group(1) in referred else "", text)

    return re.sub(r">\s+<", ">\n<", _TAG.sub(shorten, _COMMENT.sub("", svg)))
