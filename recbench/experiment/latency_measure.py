"""The latency protocol: how long a fitted method takes to answer a few requests at a time.

Appendix G of the LatentR3 paper: 100 random test rows, batches of 4, three passes, mean. What it leaves open is settled
here: the rows are the same for every method and seed, batches that are not timed come first, the device is
synchronised, and two clocks run, whose content :data:`INSIDE` tells.
"""

from __future__ import annotations

import gc
import logging
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
from pydantic import Field

from recbench.artifacts.files import cannot_write
from recbench.artifacts.latency import BatchTimes, LatencyRecord, MachineLoad, write_latency
from recbench.artifacts.lock import exclusive
from recbench.artifacts.manifest import utc_now
from recbench.artifacts.paths import LatencyPaths
from recbench.artifacts.provenance import collect_provenance
from recbench.contracts.config import StrictModel
from recbench.contracts.errors import DataError
from recbench.contracts.examples import Queries
from recbench.contracts.hashing import hash_arrays
from recbench.contracts.method import Method, RunContext
from recbench.contracts.progress import Progress
from recbench.contracts.seeding import numpy_rng
from recbench.experiment.latency import figures_of
from recbench.experiment.latency_subject import LatencySubject, fitted_method
from recbench.experiment.machine import CpuUse, MemoryPeak, clock_s, torch_threads, worker_seconds

log = logging.getLogger(__name__)

#: Seed of the drawn rows: the same for all methods and runs, so that all answer the same requests.
SAMPLE_SEED = 0

#: What lies inside the two clocks.
INSIDE = {
    "call": "from the queries in memory (item numbers) to the ranked lists in memory: prompts and tokenising, search "
    "or scoring, mapping to items, and for RecBole's models the exchange with the worker process, which sets up its "
    "model for every call; not: loading data, catalogue and model, and choices on validation rows",
    "compute": "the stages that the method itself times while it ranks (decode, generate, ground, score): reading the "
    "prompt, search or scoring, mapping to items; not: loading, tokenising, exchange with a worker process",
}

_SHM = Path("/dev/shm")
_SHM_NEEDED = 1 << 28
# Above these the times say as much about the machine as about the method.
_LARGE_SPREAD = 0.10
_LARGE_LOAD = 0.10


class LatencyOptions(StrictModel):
    """How latency is measured."""

    rows: int = Field(100, ge=1, description="random test rows, the same for every method")
    batch_size: int = Field(4, ge=1, description="rows answered at once")
    repeats: int = Field(3, ge=1, description="passes over all rows")
    warm_up: int = Field(1, ge=0, description="batches before them that are not timed")


@dataclass(frozen=True)
class _Clocked:
    """What the clock saw."""

    batch_rows: tuple[int, ...]
    times: tuple[BatchTimes, ...]
    memory: MemoryPeak
    load: MachineLoad
    steps: float | None
    reasoning_tokens: float | None


def measure_latency(
    subject: LatencySubject,
    options: LatencyOptions,
    runs_dir: Path,
    command: Sequence[str],
    progress: Progress,
) -> tuple[LatencyRecord, Path]:
    """Measure one method and store the record; nothing is stored before the whole of it is measured.

    Args:
        subject: the configured method, its data, and the run that it belongs to.
        options: of the protocol.
        runs_dir: folder of all runs, with the kept models; a model that has to be fitted first is kept there.
        command: the command line, for the record.
        progress: shows bars.

    Returns:
        The record and its file.

    Raises:
        DataError: there is no test row.
        ArtifactError: the model of a stored run is gone and cannot be fitted again, or something cannot be written.
    """
    plan = subject.plan
    queries = sample_queries(plan.split.test.queries(), options.rows)
    paths = LatencyPaths.of(runs_dir, plan.dataset.name, plan.asked.method)
    try:
        paths.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(paths.folder, error) from error
    with exclusive(paths.lock(subject.run_id)), _scratch() as (scratch, kind):
        ctx = plan.fit.context(scratch, _drop, progress)
        method, model_from = fitted_method(subject, paths, runs_dir, ctx, command)
        clocked = _run_clock(method, queries, plan.protocol.depth, ctx, options, subject.first_free_id)
        gpu = plan.device.startswith("cuda")
        provenance = collect_provenance(command, plan.packages, plan.device)
        record = LatencyRecord(
            run_id=subject.run_id,
            fit_id=subject.fit_id,
            model_from=model_from,
            method=plan.asked.method,
            dataset=plan.dataset.name,
            backbone=plan.backbone,
            seed=plan.asked.seed,
            config=plan.method_config,
            protocol_hash=plan.protocol.hash,
            dataset_fingerprint=plan.dataset.fingerprint,
            split_fingerprint=plan.split.fingerprint,
            **{**options.model_dump(), "rows": len(queries)},
            depth=plan.protocol.depth,
            sample=hash_arrays([queries.example_id]),
            batch_rows=clocked.batch_rows,
            times=clocked.times,
            inside=INSIDE,
            steps=clocked.steps,
            reasoning_tokens=clocked.reasoning_tokens,
            dtype=_dtype(plan.method_config, plan.device),
            device=plan.device,
            hardware=provenance["gpu"] if gpu else provenance["cpu"],
            threads=torch_threads(),
            scratch=kind,
            peak_memory_bytes=clocked.memory.bytes(),
            peak_memory_of=clocked.memory.since,
            load=clocked.load,
            created=utc_now(),
            provenance=provenance,
        )
        record = record.model_copy(update={"warnings": tuple(_warnings(record, options, subject))})
        return record, write_latency(paths, record)


def sample_queries(queries: Queries, rows: int) -> Queries:
    """Return ``rows`` queries drawn at random, in random order; all of them where there are no more.

    Raises:
        DataError: there is none.
    """
    if not len(queries):
        raise DataError("There is no test row to ask.", "Choose another data set or protocol.")
    chosen = numpy_rng(SAMPLE_SEED, "latency").permutation(len(queries))[:rows]
    return queries.take(chosen)


def _run_clock(
    method: Method, queries: Queries, k: int, ctx: RunContext, options: LatencyOptions, first_free_id: int
) -> _Clocked:
    """Warm up, then time every batch of every pass."""
    starts = range(0, len(queries), options.batch_size)
    batches = [queries.take(np.arange(start, min(start + options.batch_size, len(queries)))) for start in starts]
    asked = _FreshQueries(first_free_id)
    memory = MemoryPeak(ctx.device)
    passes: list[BatchTimes] = []
    counts: list[tuple[int, Mapping[str, float]]] = []
    with ctx.progress.bar("timing", total=options.warm_up + options.repeats * len(batches)) as bar, _quiet_stages():
        for number in range(options.warm_up):
            _ask(method, asked.of(batches[number % len(batches)]), k, ctx)
            bar.advance()
        gc.collect()
        memory.reset()
        load_average, before = psutil.getloadavg()[0], CpuUse.now()
        for _ in range(options.repeats):
            calls, stages, cpu_s = [], [], -worker_seconds()
            for batch in batches:
                answered = _ask(method, asked.of(batch), k, ctx)
                calls.append(answered.call_s)
                stages.append(answered.stages_s)
                cpu_s += answered.cpu_s
                counts.append((len(batch), written_tokens(method.summary())))
                bar.advance()
            cpu_s += worker_seconds()
            passes.append(BatchTimes(call_s=tuple(calls), stages_s=tuple(stages), cpu_s=cpu_s))
        others = CpuUse.now().others_since(before)
    return _Clocked(
        batch_rows=tuple(map(len, batches)),
        times=tuple(passes),
        memory=memory,
        load=MachineLoad(load_average=load_average, others=others),
        steps=_weighted_mean(counts, "steps"),
        reasoning_tokens=_weighted_mean(counts, "reasoning_tokens"),
    )


class _FreshQueries:
    """Gives every call example ids of its own: methods find finished work of a query again, by its id."""

    def __init__(self, first_free_id: int) -> None:
        self._next = first_free_id

    def of(self, batch: Queries) -> Queries:
        ids = np.arange(self._next, self._next + len(batch), dtype=np.int64)
        self._next += len(batch)
        return replace(batch, example_id=ids)


@dataclass(frozen=True)
class _Answered:
    """Seconds of one call, of the stages that the method timed in it, and of this process's processor time."""

    call_s: float
    stages_s: dict[str, float]
    cpu_s: float


def _ask(method: Method, queries: Queries, k: int, ctx: RunContext) -> _Answered:
    """Time one call, and check what it returns."""
    inner = replace(ctx, timings_s={})
    cpu, start = time.process_time(), clock_s(ctx.device)
    rankings = method.rank(queries, k, inner)
    answered = _Answered(clock_s(ctx.device) - start, inner.timings_s, time.process_time() - cpu)
    rankings.check(queries.example_id, len(ctx.catalog))
    return answered


def written_tokens(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return what a method's summary tells about the tokens of its last call.

    ``decoding.mean_steps`` (steps of the search that writes titles) and ``mean_reasoning_tokens``; a method that has no
    such facts is not asked for them.
    """
    decoding = summary.get("decoding")
    found = {
        "steps": decoding.get("mean_steps") if isinstance(decoding, Mapping) else None,
        "reasoning_tokens": summary.get("mean_reasoning_tokens"),
    }
    return {name: float(value) for name, value in found.items() if value is not None}


def _weighted_mean(counts: Sequence[tuple[int, Mapping[str, float]]], name: str) -> float | None:
    """Return the mean per row, or None if some call did not tell."""
    if not all(name in facts for _, facts in counts):
        return None
    return sum(rows * facts[name] for rows, facts in counts) / sum(rows for rows, _ in counts)


def _warnings(record: LatencyRecord, options: LatencyOptions, subject: LatencySubject) -> Iterator[str]:
    """Tell what makes the times doubtful."""
    if record.rows < options.rows:
        yield f"Only {record.rows} test rows are there; {options.rows} were asked for."
    spread = figures_of(record).headline.spread
    if spread > _LARGE_SPREAD:
        yield f"The repeats differ by {spread:.0%} of their mean: the times are noisy."
    others = record.load.others
    if others is not None and others > _LARGE_LOAD:
        yield f"Other processes used {others:.0%} of the machine meanwhile: the times are too long by an unknown part."
    if subject.software_changed:
        yield f"recbench or a package that can change results is not that of run {subject.run_id}."


def _dtype(config: Mapping[str, Any], device: str) -> str | None:
    """Return the dtype of the weights of methods on a language model, from their setting ``precision``."""
    precision = config.get("precision")
    if precision != "auto":
        return precision if isinstance(precision, str) else None
    return "bfloat16" if device.startswith("cuda") else "float32"


def _drop(record: Mapping[str, Any]) -> None:
    """Log nowhere."""


@contextmanager
def _scratch() -> Iterator[tuple[Path, Literal["memory", "disk"]]]:
    """Yield an empty folder, in memory where there is such a place: waiting for a disk is no part of an answer."""
    in_memory = _SHM.is_dir() and shutil.disk_usage(_SHM).free >= _SHM_NEEDED
    with tempfile.TemporaryDirectory(prefix="recbench-latency-", dir=_SHM if in_memory else None) as name:
        yield Path(name), "memory" if in_memory else "disk"


@contextmanager
def _quiet_stages() -> Iterator[None]:
    """Keep methods from saying at every call which stage begins."""
    loggers = [logging.getLogger(name) for name in ("recbench", "baselines", "latent")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
