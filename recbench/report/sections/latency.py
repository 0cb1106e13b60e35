"""Cost and quality: how long the methods take to answer and to train, and which of them nothing else dominates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from recbench.contracts.latency import LatencyRow, LatencySetting
from recbench.report.document import Column, Figure, Row, Section, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MatplotlibFigure

_READING = (
    "**Answering** is the mean time per request when a few requests are answered at once, in the stages that a method "
    "times itself: reading the prompt, search or scoring, making the list. Loading and tokenising are not in it. "
    "**Whole call** is the same from queries in memory to lists in memory, with tokenising and, for RecBole's models, "
    "with the exchange with their worker process. Where a method times no stage, its answering time is the whole call. "
    "Batch times are what a request waits whose batch is answered at once."
)
_FRONT = (
    "Pareto front: no method of this table is better by {metric} at the same or a lower cost. Training in less than "
    "10 ms and answers in less than 10 µs count as these."
)
_NOT_MEASURED = "No latency was measured here; `recbench latency RUN` measures a run."

# Ticks of an axis of seconds.
_UNITS = ((1e-6, "µs"), (1e-3, "ms"), (1.0, "s"), (60.0, "min"), (3600.0, "h"))
_DECADES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 36_000.0, 360_000.0)
_BETWEEN = (3e-6, 3e-5, 3e-4, 3e-3, 3e-2, 0.3, 3.0, 30.0, 180.0, 1800.0, 10_800.0, 108_000.0)


def pareto_front(costs: Sequence[float], values: Sequence[float]) -> list[int]:
    """Return the positions of the points that no other point dominates, in order of cost.

    A point dominates another if it costs no more and is worth no less, and one of the two strictly. Equal points are
    both on the front.

    Args:
        costs: lower is better.
        values: higher is better, as many.

    Raises:
        ValueError: the two differ in length.
    """
    points = list(zip(costs, values, strict=True))
    front: list[int] = []
    for place in sorted(range(len(points)), key=lambda place: (points[place][0], -points[place][1], place)):
        last = points[front[-1]] if front else None
        if last is None or points[place] == last or points[place][1] > last[1]:
            front.append(place)
    return front


def latency_section(rows: Sequence[LatencyRow], metric: str = "NDCG@10") -> Section | None:
    """Return tables and figures of cost against quality, or None where neither latency nor training time is known.

    Args:
        rows: of one group, as :func:`recbench.experiment.latency.latency_of_group` returns them, best entry first.
        metric: printed name of the metric by the exact item that stands for quality.
    """
    rows = [row for row in rows if metric in row.metrics]
    settings = _settings(rows)
    entries = list({row.label: row for row in rows}.values())
    if not settings and not any(row.fit_s is not None for row in entries):
        return None
    tables = [
        _latency_table(setting, _rows_in(setting, rows, entries if number == 0 else ()), metric, number)
        for number, setting in enumerate(settings)
    ] or [_cost_table(entries, metric)]
    doubtful = list(dict.fromkeys(row.label for row in rows if row.warnings))
    warnings = (f"The times of {', '.join(doubtful)} are doubtful; the notes say why.",) if doubtful else ()
    return Section(
        slug="latency",
        title="Cost and quality",
        paragraphs=(_READING,) if settings else (_NOT_MEASURED,),
        warnings=warnings,
        tables=tuple(tables),
        figures=tuple(_figures(rows, entries, settings, metric)),
    )


def _settings(rows: Sequence[LatencyRow]) -> list[LatencySetting]:
    """Return the settings, the one that most entries were measured in first."""
    counts: dict[LatencySetting, int] = {}
    for row in rows:
        if row.setting is not None:
            counts[row.setting] = counts.get(row.setting, 0) + 1
    return sorted(counts, key=lambda setting: -counts[setting])


def _rows_in(setting: LatencySetting, rows: Sequence[LatencyRow], entries: Sequence[LatencyRow]) -> list[LatencyRow]:
    """Return the rows of one setting, and of ``entries`` those without any latency, in the order of ``rows``."""
    measured = {row.label for row in rows if row.setting is not None}
    return [row for row in rows if row.setting == setting or (row in entries and row.label not in measured)]


def _latency_table(setting: LatencySetting, rows: Sequence[LatencyRow], metric: str, number: int) -> Table:
    columns = (
        Column("label", "Method"),
        Column(metric, metric, "metric", "by the exact item, mean over all test examples"),
        Column("request_ms", "Answering (ms per request)", "number", "mean of the repeats"),
        Column("batch_p50_ms", "Batch p50 (ms)", "number", f"median of the batches of {setting.batch_size}"),
        Column("batch_p95_ms", "Batch p95 (ms)", "number", "95th percentile of the batches"),
        Column("call_ms", "Whole call (ms per request)", "number", "with tokenising and exchange with workers"),
        Column("cpu_ms", "Processor (ms per request)", "number", "processor time of all threads in the whole call"),
        Column("steps", "Search steps", "number", "model steps in a row that a batch takes to write its titles", True),
        Column("reasoning_tokens", "Tokens of reasoning", "number", "per request", True),
        Column("peak_memory", "Peak memory", "bytes", "of the process and its workers; on CUDA of the device"),
        Column("fit_s", "Training", "seconds", "wall-clock, mean over seeds, without a preset's pretraining"),
        Column("front", "Pareto front", "text", "undominated by answering time, by training time"),
        Column("rank_ms", "Whole test part (ms per row)", "number", "of the run, in its own batches", True),
        Column("spread", "Spread of repeats", "share", "largest minus smallest, of the mean", True),
        Column("dtype", "Weights", "code", "", True),
        Column("clock", "Clock", "text", "what answering time is: compute (own stages) or call", True),
        Column("n_measured", "Runs measured", "count", "", True),
        Column("run_ids", "Runs", "code", "", True),
    )  # fmt: skip
    fronts = _fronts(rows, metric)
    missing = [row.label for row in rows if row.figures is None]
    return Table(
        slug="latency" if number == 0 else f"latency-{number + 1}",
        title=f"Time to answer, {setting.text}",
        columns=columns,
        rows=tuple(Row({**_common(row, metric, fronts), **_times(row)}, _bold(row, fronts)) for row in rows),
        notes=(
            f"Measured on {setting.text}.",
            *((f"Not measured: {', '.join(missing)}.",) if missing else ()),
            _FRONT.format(metric=metric),
            *(f"{row.label}: {' '.join(row.warnings)}" for row in rows if row.warnings),
        ),
        headline=number == 0,
    )


def _cost_table(rows: Sequence[LatencyRow], metric: str) -> Table:
    columns = (
        Column("label", "Method"),
        Column(metric, metric, "metric", "by the exact item, mean over all test examples"),
        Column("fit_s", "Training", "seconds", "wall-clock, mean over seeds, without a preset's pretraining"),
        Column("rank_ms", "Whole test part (ms per row)", "number", "of the run, in its own batches"),
        Column("front", "Pareto front", "text", "undominated by training time"),
        Column("run_ids", "Runs", "code", "", True),
    )
    fronts = _fronts(rows, metric)
    return Table(
        "cost", "Time to train", columns, tuple(Row(_common(row, metric, fronts), _bold(row, fronts)) for row in rows),
        (_FRONT.format(metric=metric),),
    )  # fmt: skip


def _common(row: LatencyRow, metric: str, fronts: Mapping[str, set[str]]) -> dict[str, Any]:
    return {
        "label": row.label,
        metric: row.metrics[metric],
        "fit_s": row.fit_s,
        "rank_ms": row.rank_ms,
        "front": ", ".join(name for name, labels in fronts.items() if row.label in labels) or None,
        "run_ids": " ".join(row.run_ids),
    }


def _times(row: LatencyRow) -> dict[str, Any]:
    if row.figures is None:
        return {}
    timing, memory = row.figures.headline, row.peak_memory_bytes or {}
    return {
        "request_ms": timing.request_ms,
        "batch_p50_ms": timing.batch_p50_ms,
        "batch_p95_ms": timing.batch_p95_ms,
        "call_ms": row.figures.call.request_ms,
        "cpu_ms": row.figures.cpu_ms,
        "steps": row.steps,
        "reasoning_tokens": row.reasoning_tokens,
        "peak_memory": memory.get("device", memory.get("host")),
        "spread": timing.spread,
        "dtype": row.dtype,
        "clock": "compute" if row.figures.compute else "call",
        "n_measured": row.n_measured,
    }


def _answer_s(row: LatencyRow) -> float | None:
    return None if row.figures is None else row.figures.headline.request_ms / 1e3


@dataclass(frozen=True)
class Cost:
    """One cost in seconds.

    Attributes:
        name: short, for tables.
        what: in words, for figures.
        shortest_s: times below it count as it: they say nothing about methods.
        of: gives the seconds of a row, None where they are not known.
    """

    name: str
    what: str
    shortest_s: float
    of: Callable[[LatencyRow], float | None]

    def known(self, rows: Sequence[LatencyRow]) -> list[tuple[LatencyRow, float]]:
        """Return the rows whose cost is known, with it."""
        return [(row, max(cost, self.shortest_s)) for row in rows if (cost := self.of(row)) is not None]


_COSTS = (
    Cost("answering", "time to answer a request", 1e-5, _answer_s),
    Cost("training", "training time", 1e-2, lambda row: row.fit_s),
)


def _fronts(rows: Sequence[LatencyRow], metric: str) -> dict[str, set[str]]:
    """Return the labels on the front of each cost that is known for two rows at least."""
    fronts = {}
    for cost in _COSTS:
        known = cost.known(rows)
        places = pareto_front([seconds for _, seconds in known], [row.metrics[metric] for row, _ in known])
        if len(known) > 1:
            fronts[cost.name] = {known[place][0].label for place in places}
    return fronts


def _bold(row: LatencyRow, fronts: Mapping[str, set[str]]) -> frozenset[str]:
    return frozenset({"label"}) if any(row.label in labels for labels in fronts.values()) else frozenset()


def _figures(
    rows: Sequence[LatencyRow], entries: Sequence[LatencyRow], settings: Sequence[LatencySetting], metric: str
) -> list[Figure]:
    looks = {row.label: place for place, row in enumerate(entries)}
    measured = [row for row in rows if settings and row.setting == settings[0]]
    figures = []
    for cost, chosen in zip(_COSTS, (measured, entries), strict=True):
        n_known = len(cost.known(chosen))
        if n_known < 2:
            continue
        title = f"{metric} against {cost.what}"
        alt = f"{title}, one point for each of {n_known} methods; a line joins those that no other dominates."
        figures.append(Figure(f"{cost.name}-quality", title, alt, partial(draw_front, chosen, cost, looks, metric)))
    return figures


def draw_front(rows: Sequence[LatencyRow], cost: Cost, looks: Mapping[str, int], metric: str) -> MatplotlibFigure:
    """Draw quality against a cost, on a logarithmic axis, with the Pareto front.

    Args:
        rows: those whose cost is not known are left out.
        cost: the horizontal axis.
        looks: label -> number of its colour and marker, the same in all figures of the section.
        metric: the metric of the rows that stands for quality.
    """
    from recbench.report.figures import GREY, PAPER, colour_of, legend_below, marker_of, new_figure

    points = cost.known(rows)
    seconds = [time for _, time in points]
    values = [row.metrics[metric] for row, _ in points]
    figure = new_figure(7.5, 3.6 + 0.22 * ((len(points) + 2) // 3))
    axes = figure.add_subplot()
    axes.set_xscale("log")
    for (row, time), value in zip(points, values, strict=True):
        look = looks[row.label]
        axes.plot(
            time, value, marker_of(look), color=colour_of(look), mec=PAPER, ms=9, ls="none", clip_on=False, zorder=3,
            label=row.label,
        )  # fmt: skip
    axes.set_ylim(0, max(values) * 1.12 if max(values) > 0 else 1)
    _time_axis(axes)
    front = pareto_front(seconds, values)
    right = axes.get_xlim()[1]
    axes.plot(
        [*(seconds[place] for place in front), right], [*(values[place] for place in front), values[front[-1]]],
        ls="--", lw=1.2, color=GREY, drawstyle="steps-post", zorder=2, label="Pareto front",
    )  # fmt: skip
    shorter = f"; {_time_text(cost.shortest_s)} or less" if min(seconds) == cost.shortest_s else ""
    axes.set_xlabel(f"{cost.what} (log scale{shorter} at the left end)" if shorter else f"{cost.what} (log scale)")
    axes.set_ylabel(metric)
    legend_below(figure, 3)
    return figure


def _time_axis(axes: Axes) -> None:
    """Give a logarithmic axis of seconds at least a decade, and ticks in the units that people use."""
    low, high = axes.get_xlim()
    if high / low < 10:
        middle = (low * high) ** 0.5
        low, high = middle / 10**0.5, middle * 10**0.5
    ticks = [seconds for seconds in _DECADES if low <= seconds <= high]
    if len(ticks) < 4:
        ticks += [seconds for seconds in _BETWEEN if low <= seconds <= high]
    axes.set_xticks(ticks, [_time_text(seconds) for seconds in ticks])
    axes.set_xlim(low, high)
    axes.minorticks_off()


def _time_text(seconds: float) -> str:
    size, unit = next(pair for pair in reversed(_UNITS) if seconds >= pair[0])
    return f"{seconds / size:g} {unit}"
