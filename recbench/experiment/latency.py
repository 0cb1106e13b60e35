"""Stored latency measurements -> what reports show of them: figures of one measurement, rows of a leaderboard."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from recbench.artifacts.latency import BatchTimes, LatencyRecord, read_latencies
from recbench.artifacts.store import StoredRun
from recbench.contracts.latency import LatencyFigures, LatencyRow, LatencySetting, Timing
from recbench.experiment.entries import Entry

# Stages with such names choose a setting on validation rows, which is done once and not for every request.
_CHOICES = "choose-"
_TRUTH = "metrics"


def call_seconds(times: BatchTimes) -> np.ndarray:
    """Return float64 (n_batches,): seconds of each call, less what choices on validation rows took of it."""
    choices = [sum(s for name, s in stages.items() if name.startswith(_CHOICES)) for stages in times.stages_s]
    return np.maximum(np.array(times.call_s) - np.array(choices), 0.0)


def compute_seconds(times: BatchTimes) -> np.ndarray | None:
    """Return float64 (n_batches,): seconds of each batch in the method's own stages; None where it times none."""
    stages = [[s for name, s in one.items() if not name.startswith(_CHOICES)] for one in times.stages_s]
    return np.array([sum(seconds) for seconds in stages]) if all(stages) else None


def timing(seconds: np.ndarray, batch_rows: Sequence[int]) -> Timing:
    """Summarise one clock.

    Args:
        seconds: float64 (repeats, n_batches).
        batch_rows: rows of each batch.
    """
    repeats = 1e3 * seconds.sum(axis=1) / sum(batch_rows)
    p50, p95 = np.percentile(1e3 * seconds, [50, 95])
    return Timing(float(repeats.mean()), float(p50), float(p95), tuple(repeats.tolist()))


def figures_of(record: LatencyRecord) -> LatencyFigures:
    """Return the figures of one measurement."""
    computed = [compute_seconds(times) for times in record.times]
    known = [seconds for seconds in computed if seconds is not None]
    return LatencyFigures(
        call=timing(np.stack([call_seconds(times) for times in record.times]), record.batch_rows),
        compute=timing(np.stack(known), record.batch_rows) if len(known) == len(computed) else None,
        cpu_ms=1e3 * float(np.mean([times.cpu_s for times in record.times])) / sum(record.batch_rows),
    )


def setting_of(record: LatencyRecord) -> LatencySetting:
    """Return how a record was measured."""
    names = ("rows", "batch_size", "repeats", "warm_up", "sample", "depth", "hardware", "threads")
    return LatencySetting(**{name: getattr(record, name) for name in names}, device=record.device.partition(":")[0])


def latency_of_group(entries: Sequence[Entry]) -> tuple[LatencyRow, ...]:
    """Return quality and cost of every entry: one row for each setting that it was measured in, or one without any.

    Args:
        entries: of one leaderboard, labelled.
    """
    return tuple(row for entry in entries for row in _rows(entry))


def _rows(entry: Entry) -> list[LatencyRow]:
    measured: dict[LatencySetting, list[LatencyRecord]] = {}
    for run in entry.runs:
        for record in read_latencies(run.paths.folder):
            measured.setdefault(setting_of(record), []).append(record)
    plain = _unmeasured(entry)
    return [_with_times(plain, setting, records) for setting, records in measured.items()] or [plain]


def _unmeasured(entry: Entry) -> LatencyRow:
    summaries = [run.summary() for run in entry.runs]
    names = [name for name in summaries[0][_TRUTH] if all(one[_TRUTH].get(name) is not None for one in summaries)]
    rank = [_rank_ms(run, summary["n_test"]) for run, summary in zip(entry.runs, summaries, strict=True)]
    return LatencyRow(
        label=entry.label,
        run_ids=entry.run_ids,
        metrics={name: float(np.mean([one[_TRUTH][name] for one in summaries])) for name in names},
        fit_s=_mean(_fit_s(run) for run in entry.runs),
        rank_ms=_mean(rank),
    )


def _fit_s(run: StoredRun) -> float | None:
    """Return the seconds of fitting, without those of a preset backbone, which all of its users share."""
    times = run.manifest.timings_s
    return times["fit"] - times.get("pretrain", 0.0) if "fit" in times else None


def _rank_ms(run: StoredRun, n_test: int) -> float | None:
    seconds = run.manifest.timings_s.get("rank")
    return None if seconds is None or not n_test else 1e3 * seconds / n_test


def _with_times(plain: LatencyRow, setting: LatencySetting, records: Sequence[LatencyRecord]) -> LatencyRow:
    figures = [figures_of(record) for record in records]
    computed = [one.compute for one in figures if one.compute is not None]
    whole = len(computed) == len(figures)
    memory = [record.peak_memory_bytes for record in records]
    return LatencyRow(
        label=plain.label,
        run_ids=plain.run_ids,
        metrics=plain.metrics,
        fit_s=plain.fit_s,
        rank_ms=plain.rank_ms,
        setting=setting,
        figures=LatencyFigures(
            call=_average([one.call for one in figures]),
            compute=_average(computed) if whole else None,
            cpu_ms=float(np.mean([one.cpu_ms for one in figures])),
        ),
        n_measured=len(records),
        steps=_mean(record.steps for record in records),
        reasoning_tokens=_mean(record.reasoning_tokens for record in records),
        dtype="/".join(sorted({record.dtype for record in records if record.dtype})) or None,
        peak_memory_bytes={name: max(one.get(name, 0) for one in memory) for name in memory[0]},
        warnings=tuple(dict.fromkeys(warning for record in records for warning in record.warnings)),
    )


def _average(timings: Sequence[Timing]) -> Timing:
    """Average over runs: several seeds of one entry were measured."""
    if len(timings) == 1:
        return timings[0]
    return Timing(
        request_ms=float(np.mean([one.request_ms for one in timings])),
        batch_p50_ms=float(np.mean([one.batch_p50_ms for one in timings])),
        batch_p95_ms=float(np.mean([one.batch_p95_ms for one in timings])),
        repeats_ms=tuple(float(values) for values in np.mean([one.repeats_ms for one in timings], axis=0)),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the known values, or None if none is known."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
