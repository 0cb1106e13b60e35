"""What a report shows, with every number in full precision. Tables, figures and CSV are made from these alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recbench.contracts.comparison import ComparedEntry, Comparison


@dataclass(frozen=True)
class LeaderboardRow:
    """One entry of a leaderboard; numbers are means over its runs.

    Attributes:
        entry: label, runs, seeds, and the ranking metric with its interval.
        metrics: column of metrics.parquet ("item/NDCG@10") -> mean over examples.
        fit_s: training seconds, without a preset backbone's pretraining; None where no run recorded them.
        rank_s: seconds to rank the test part; None where no run recorded them.
        max_length: places of the longest list.
        tied_targets: share of examples whose target is listed and tied.
        coverage: expected share of the catalogue in at least one top 10.
        average_popularity: mean training count of the items in the top 10; None if all lists are empty.
        device: where it ran ("cpu", "cuda"; several are joined).
        folders: run folders relative to the runs folder, in the order of ``entry.run_ids``.
        revision: revision of the language model, if any.
        tuning: for each run, how its settings were chosen; "" where they were given.
    """

    entry: ComparedEntry
    metrics: Mapping[str, float]
    fit_s: float | None
    rank_s: float | None
    max_length: int
    tied_targets: float
    coverage: float
    average_popularity: float | None
    device: str
    folders: tuple[str, ...]
    revision: str | None = None
    tuning: tuple[str, ...] = ()

    @property
    def total_s(self) -> float | None:
        """Training and ranking seconds together; None if either is unknown."""
        return None if self.fit_s is None or self.rank_s is None else self.fit_s + self.rank_s


@dataclass(frozen=True)
class TrainingCurve:
    """One logged quantity of one run.

    Attributes:
        label: entry it belongs to.
        seed: the run's seed.
        stage: stage of training ("sft", "rl"), or "" where the log names none.
        panel: "loss", "reward" or "validation"; quantities of one panel are drawn together.
        series: the logged quantity ("eval_loss", "reward_perturbed").
        unit: what ``x`` counts, "step" or "epoch".
        x, y: the points, by rising x.
    """

    label: str
    seed: int
    stage: str
    panel: str
    series: str
    unit: str
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class RegretRow:
    """What a beam search lost against the true best titles of the same model, as means over seeds.

    Attributes:
        label: method and backbone.
        length_penalty: of the score that both searches look for the best of.
        beams: beams, and titles in a list.
        seeds, beam_runs, exact_runs: the pairs of runs.
        same_fit: both runs of every pair are recorded as lists of one fitted model; False: of one configuration and
            seed, fitted twice.
        n_examples: test examples.
        proven: share of them whose exact list is proven; ``values`` are over these alone.
        values: "missed", "wanted", "first_differs", "gap_first", "gap_mean" (see
            :class:`recbench.evaluation.regret.BeamRegret`), and "beam item/HR@10", "exact item/HR@10", ...; NaN where
            no example is proven.
    """

    label: str
    length_penalty: float
    beams: int
    seeds: tuple[int, ...]
    beam_runs: tuple[str, ...]
    exact_runs: tuple[str, ...]
    same_fit: bool
    n_examples: int
    proven: float
    values: Mapping[str, float]


@dataclass(frozen=True)
class LeaderboardGroup:
    """Runs that may be compared: same data, split and protocol, and one language model at most.

    Attributes:
        slug: short name for files.
        dataset: data set name.
        backbone: the language model of the methods that use one, or None.
        protocol: the protocol's fields.
        protocol_hash, split_fingerprint: what the runs have in common.
        split_facts: what the data layer says about the cut.
        limited: a try-out, not a result.
        metrics: the metrics shown, in order ("NDCG@10", "HR@10", ...); the first one ranks.
        rows: best first.
        comparison: everything against the best row.
        notes: sentences that must stand under the table.
        curves: training curves.
        regret: what beam searches lost, for methods that were searched both ways.
    """

    slug: str
    dataset: str
    backbone: str | None
    protocol: Mapping[str, Any]
    protocol_hash: str
    split_fingerprint: str
    split_facts: Mapping[str, Any]
    limited: bool
    metrics: tuple[str, ...]
    rows: tuple[LeaderboardRow, ...]
    comparison: Comparison
    notes: tuple[str, ...]
    curves: tuple[TrainingCurve, ...]
    regret: tuple[RegretRow, ...] = ()

    @property
    def title(self) -> str:
        """Heading: data set, split, language model, and whether it is a try-out."""
        mark = " (TRY-OUT, rows left out)" if self.limited else ""
        backbone = f", backbone {self.backbone}" if self.backbone else ""
        return f"{self.dataset}, {self.protocol['split']} split{backbone}{mark}"


@dataclass(frozen=True)
class UnfinishedRun:
    """A run that is listed but never averaged.

    Attributes:
        name: method, with its backbone.
        dataset, run_id, seed: as in its manifest.
        status: as in its manifest, or "interrupted" where no process works on it any more.
        reason: first line of its error, or "".
    """

    name: str
    dataset: str
    run_id: str
    seed: int
    status: str
    reason: str


@dataclass(frozen=True)
class Report:
    """Everything that one report folder shows.

    Attributes:
        version: version of recbench.
        runs_dir: folder of the runs, as it was given.
        groups: leaderboards, results before try-outs.
        unfinished: runs that failed, were cancelled or have not ended.
        damaged: one text for each run folder that could not be read, or whose results were changed.
        inputs: run id -> SHA-256 of its metrics.parquet.
    """

    version: str
    runs_dir: str
    groups: tuple[LeaderboardGroup, ...]
    unfinished: tuple[UnfinishedRun, ...]
    damaged: tuple[str, ...]
    inputs: Mapping[str, str]
