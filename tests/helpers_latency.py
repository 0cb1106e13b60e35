"""Made-up latency records for tests of everything that reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recbench.artifacts.latency import BatchTimes, LatencyRecord, MachineLoad, write_latency
from recbench.artifacts.paths import LatencyPaths
from recbench.artifacts.store import StoredRun


def make_record(
    run_id: str = "0123456789ab",
    call_s: Sequence[Sequence[float]] = ((0.4, 0.8),),
    stages_s: Sequence[Sequence[Mapping[str, float]]] | None = None,
    batch_rows: Sequence[int] = (4, 4),
    **fields: Any,
) -> LatencyRecord:
    """Return a record; ``call_s`` and ``stages_s`` hold one list of batches per repeat."""
    stages_s = stages_s or [[{} for _ in calls] for calls in call_s]
    times = [
        BatchTimes(call_s=tuple(calls), stages_s=tuple(map(dict, stages)), cpu_s=sum(calls) / 2)
        for calls, stages in zip(call_s, stages_s, strict=True)
    ]
    values: dict[str, Any] = {
        "run_id": run_id,
        "fit_id": "feed",
        "model_from": "kept",
        "method": "made-up",
        "dataset": "tiny",
        "seed": 0,
        "config": {},
        "protocol_hash": "p",
        "dataset_fingerprint": "d",
        "split_fingerprint": "s",
        "rows": sum(batch_rows),
        "batch_size": max(batch_rows),
        "repeats": len(times),
        "warm_up": 1,
        "depth": 50,
        "sample": "abcd",
        "batch_rows": tuple(batch_rows),
        "times": tuple(times),
        "inside": {"call": "everything"},
        "device": "cpu",
        "hardware": "Some Processor",
        "threads": 1,
        "scratch": "memory",
        "peak_memory_bytes": {"host": 1000},
        "peak_memory_of": "ranking",
        "load": MachineLoad(load_average=0.1, others=0.01),
        "created": "2026-01-01T00:00:00+00:00",
        "provenance": {},
    }
    return LatencyRecord(**(values | fields))


def store_record(run: StoredRun, **fields: Any) -> LatencyRecord:
    """Store a record of a run, as `recbench latency` leaves it."""
    record = make_record(run_id=run.run_id, **fields)
    write_latency(LatencyPaths(run.paths.folder.parent / ".latency"), record)
    return record
