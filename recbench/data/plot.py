"""One figure of a data set: how popular its items are, how long the histories are, and when its events happened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from recbench.artifacts.files import atomic_path
from recbench.contracts.dataset import Dataset
from recbench.contracts.errors import UsageError
from recbench.contracts.split import Split
from recbench.data.describe import history_lengths

_SUFFIXES = (".png", ".pdf", ".svg")
# Okabe and Ito's colours, which people with any colour vision tell apart.
_BLUE, _ORANGE, _GREEN = "#0072B2", "#E69F00", "#009E73"
_BINS = 60
_DAY_S = 86_400


def plot_dataset(dataset: Dataset, split: Split, path: Path) -> None:
    """Draw events per item by rank (both axes logarithmic), rows by history length, and events over time.

    Args:
        dataset: the data set.
        split: its rows; where they are cut is marked in time.
        path: file to write, ``.png``, ``.pdf`` or ``.svg``.

    Raises:
        UsageError: the file has another suffix.
        ArtifactError: it cannot be written.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise UsageError(f"{path} is no kind of picture known here.", f"Suffixes: {', '.join(_SUFFIXES)}.")
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(13, 3.6), layout=ConstrainedLayoutEngine(wspace=0.06))
    FigureCanvasAgg(figure)
    popularity, lengths, time = figure.subplots(1, 3)
    _draw_popularity(popularity, dataset)
    _draw_lengths(lengths, split)
    _draw_time(time, dataset, split)
    for axes in (popularity, lengths, time):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(True, axis="y", color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
    sizes = f"{len(dataset.users):,} users, {len(dataset.catalog):,} items, {len(dataset.interactions):,} interactions"
    figure.suptitle(f"{dataset.name}: {sizes}", fontsize=11)
    # No date and no random names in the file: the same data set gives the same bytes.
    with atomic_path(path) as temporary, rc_context({"svg.hashsalt": "recbench"}):
        metadata = {} if path.suffix.lower() == ".png" else {"CreationDate" if path.suffix == ".pdf" else "Date": None}
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=150, metadata=metadata)


def _draw_popularity(axes: Any, dataset: Dataset) -> None:
    from matplotlib.ticker import NullFormatter

    counts = np.sort(np.bincount(dataset.interactions.item, minlength=len(dataset.catalog)))[::-1]
    counts = counts[counts > 0]
    axes.loglog(np.arange(1, len(counts) + 1), counts, color=_BLUE, linewidth=2)
    axes.set(title="Popularity", xlabel="item, by rank", ylabel="events", xlim=(1, None))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(_thousands())
        axis.set_minor_formatter(NullFormatter())
    if counts.size and counts[-1] * 10 > counts[0]:  # less than a decade: its only power of ten says too little
        axes.set_yticks(sorted({int(counts[0]), int(counts[-1])}))


def _draw_lengths(axes: Any, split: Split) -> None:
    from matplotlib.ticker import MaxNLocator

    lengths = history_lengths(split)
    at = np.arange(1, len(lengths))
    axes.bar(at, lengths[1:], color=_BLUE, width=0.8)
    longest = split.facts["max_history"]
    cut = f" ({longest}: that many or more)" if len(at) == longest else ""
    axes.set(title="Histories", xlabel=f"items in the history{cut}", ylabel="rows")
    axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    axes.yaxis.set_major_formatter(_thousands())


def _draw_time(axes: Any, dataset: Dataset, split: Split) -> None:
    axes.set(title="Events over time")
    if not dataset.has_time or not len(dataset.interactions):
        axes.text(0.5, 0.5, "the source has only an order", ha="center", va="center", color="0.4")
        axes.set_axis_off()
        return
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    time = dataset.interactions.timestamp
    counts, edges = np.histogram(time, bins=_BINS)
    # Plain dates without a time zone: the axis reads the same everywhere.
    axes.stairs(counts, edges.astype("datetime64[s]"), color=_BLUE, fill=True)
    for name, colour in (("valid", _ORANGE), ("test", _GREEN)):
        start = split.facts.get("boundaries", {}).get(name, {}).get("timestamp")
        if start is not None:
            moment = np.datetime64(int(start), "s")
            axes.axvline(moment, color=colour, linewidth=2, linestyle="--", label=f"{name} begins")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(edgecolor="none", framealpha=0.9, fontsize=8, loc="upper left")
    locator = AutoDateLocator(minticks=3, maxticks=8)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.yaxis.set_major_formatter(_thousands())
    axes.set_ylabel(f"events per {(edges[1] - edges[0]) / _DAY_S:.1f} days")


def _thousands() -> Any:
    from matplotlib.ticker import StrMethodFormatter

    return StrMethodFormatter("{x:,.0f}")
