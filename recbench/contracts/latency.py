"""How long a fitted method takes to answer, as reports and ``recbench latency`` show it. Nothing is rounded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """One clock over all batches of all repeats.

    Attributes:
        request_ms: milliseconds per request: for each repeat the time of all batches over the number of rows, then
            the mean of the repeats (appendix G of the LatentR3 paper).
        batch_p50_ms, batch_p95_ms: median and 95th percentile of the milliseconds of a batch, over the batches of all
            repeats: what a request waits whose batch is answered at once.
        repeats_ms: milliseconds per request of each repeat.
    """

    request_ms: float
    batch_p50_ms: float
    batch_p95_ms: float
    repeats_ms: tuple[float, ...]

    @property
    def spread(self) -> float:
        """Largest minus smallest repeat, as a share of the mean; 0 with one repeat or no time at all."""
        if not self.request_ms:
            return 0.0
        return (max(self.repeats_ms) - min(self.repeats_ms)) / self.request_ms


@dataclass(frozen=True)
class LatencyFigures:
    """Times of one method.

    Attributes:
        call: the whole call, from queries in memory to ranked lists in memory.
        compute: the stages that the method itself times while it ranks, so without loading, tokenising and the
            exchange with a worker process; None for a method that times no stage.
        cpu_ms: processor milliseconds per request, of all threads: other processes on the machine change it less than
            the clocks, but it leaves out what a GPU does.
    """

    call: Timing
    compute: Timing | None
    cpu_ms: float

    @property
    def headline(self) -> Timing:
        """``compute`` where there is one, else ``call``."""
        return self.compute or self.call


@dataclass(frozen=True)
class LatencySetting:
    """What must be equal before two latencies may stand in one table.

    Attributes:
        rows: test rows asked for, and how many of them there were.
        batch_size: requests answered at once.
        repeats, warm_up: passes over all rows, and batches before them that are not timed.
        sample: hash of the rows.
        depth: places asked for.
        device: "cpu" or "cuda".
        hardware: name of the processor, or of the GPU.
        threads: of torch.
    """

    rows: int
    batch_size: int
    repeats: int
    warm_up: int
    sample: str
    depth: int
    device: str
    hardware: str
    threads: int

    @property
    def text(self) -> str:
        """The setting in words."""
        threads = f"{self.threads} thread{_s(self.threads)}"
        where = f"{self.hardware}, {threads}" if self.device == "cpu" else self.hardware
        passes = f"{self.repeats} repeat{_s(self.repeats)}"
        return f"{self.rows} row{_s(self.rows)} in batches of {self.batch_size}, {passes}, on {where}"


def _s(count: int) -> str:
    return "" if count == 1 else "s"


@dataclass(frozen=True)
class LatencyRow:
    """Quality and cost of one entry of a leaderboard, in one setting.

    Attributes:
        label: the entry's name in all tables of its group.
        run_ids: its runs.
        metrics: printed name -> mean over all examples and runs, by the exact item ("NDCG@10").
        fit_s: mean seconds of fitting, without pretraining a preset; None where it is not known (an imported run).
        rank_ms: mean milliseconds per row of ranking the whole test part in one go; None where it is not known.
        setting: how the latency was measured; None: it was not.
        figures: mean over the measured runs; None: it was not measured.
        n_measured: measured runs.
        steps: model steps in a row that a batch takes to write its titles (beam search: tokens of the longest title;
            exact search: rounds); None where nothing is searched.
        reasoning_tokens: mean tokens of reasoning per request, None where there is none.
        dtype: of the weights, None where it is not known.
        peak_memory_bytes: "host" and "device", the largest of the measured runs.
        warnings: what makes the times doubtful.
    """

    label: str
    run_ids: tuple[str, ...]
    metrics: Mapping[str, float]
    fit_s: float | None
    rank_ms: float | None
    setting: LatencySetting | None = None
    figures: LatencyFigures | None = None
    n_measured: int = 0
    steps: float | None = None
    reasoning_tokens: float | None = None
    dtype: str | None = None
    peak_memory_bytes: Mapping[str, int] | None = None
    warnings: tuple[str, ...] = ()
