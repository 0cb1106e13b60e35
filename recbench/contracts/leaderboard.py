"""A leaderboard as it is gathered from runs: entries with their metrics, costs and runs. Nothing is rounded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from recbench.contracts.comparison import ComparedEntry, Comparison


@dataclass(frozen=True)
class LeaderboardRun:
    """One run behind an entry.

    Attributes:
        run_id: its id.
        seed: its seed.
        folder: run folder relative to the folder of runs, with forward slashes.
        metrics: column of metrics.parquet ("item/NDCG@10") -> mean over the examples of this run.
        fit_s: training seconds, without a preset backbone's pretraining; None where the run recorded none.
        rank_s: seconds to rank the test part; None where the run recorded none.
        memory_bytes: largest resident memory of the process; None where unknown.
        device: "cpu" or "cuda".
        created: start, ISO 8601, UTC.
        commit: commit of recbench's repository, "+" behind it where files had been changed; "" where unknown.
        metrics_sha256: of the file of metrics that was read.
        reused: run or trial whose kept model it ranked with, or "".
        tuning: how its settings were chosen; "" where they were given.
    """

    run_id: str
    seed: int
    folder: str
    metrics: Mapping[str, float]
    fit_s: float | None
    rank_s: float | None
    memory_bytes: int | None
    device: str
    created: str
    commit: str
    metrics_sha256: str
    reused: str = ""
    tuning: str = ""


@dataclass(frozen=True)
class LeaderboardRow:
    """One entry of a leaderboard; numbers are means over its runs.

    Attributes:
        entry: label, runs, seeds, and the ranking metric with its interval.
        metrics: column of metrics.parquet ("item/NDCG@10") -> mean over examples and seeds.
        seed_sd: standard deviation of the ranking metric between seeds (n - 1 below); None with one seed.
        runs: one per seed, in the order of ``entry.run_ids``.
        config: the method's resolved configuration, equal in all runs.
        revision: revision of the language model, if any.
        max_length: places of the longest list.
        tied_targets: share of examples whose target is listed and tied.
        coverage: expected share of the catalogue in at least one top 10.
        average_popularity: mean training count of the items in the top 10; None if all lists are empty.
    """

    entry: ComparedEntry
    metrics: Mapping[str, float]
    seed_sd: float | None
    runs: tuple[LeaderboardRun, ...]
    config: Mapping[str, Any]
    revision: str | None
    max_length: int
    tied_targets: float
    coverage: float
    average_popularity: float | None

    @property
    def fit_s(self) -> float | None:
        """Training seconds, mean over the runs that recorded them."""
        return _mean(run.fit_s for run in self.runs)

    @property
    def rank_s(self) -> float | None:
        """Seconds to rank the test part, mean over the runs that recorded them."""
        return _mean(run.rank_s for run in self.runs)

    @property
    def device(self) -> str:
        """Where it ran; several are joined."""
        return "/".join(sorted({run.device for run in self.runs}))


@dataclass(frozen=True)
class Leaderboard:
    """Runs that may be compared: same data, split and protocol, and one language model at most.

    Attributes:
        dataset: data set name.
        backbone: the language model of the methods that use one, or None.
        protocol: the protocol's fields.
        protocol_hash, dataset_fingerprint, split_fingerprint: what the runs have in common.
        split_facts: what the data layer says about the cut.
        limited: a try-out, not a result.
        metrics: the metrics shown, in order ("NDCG@10", "HR@10", ...); the first one ranks.
        rows: best first.
        comparison: everything against the best row, by the ranking metric of the exact item.
        warnings: sentences that must be seen before the table.
        notes: sentences that must stand under it.
    """

    dataset: str
    backbone: str | None
    protocol: Mapping[str, Any]
    protocol_hash: str
    dataset_fingerprint: str
    split_fingerprint: str
    split_facts: Mapping[str, Any]
    limited: bool
    metrics: tuple[str, ...]
    rows: tuple[LeaderboardRow, ...]
    comparison: Comparison
    warnings: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def title(self) -> str:
        """Heading: data set, split, language model, and whether it is a try-out."""
        mark = " (TRY-OUT, rows left out)" if self.limited else ""
        backbone = f", backbone {self.backbone}" if self.backbone else ""
        return f"{self.dataset}, {self.protocol['split']} split{backbone}{mark}"


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
