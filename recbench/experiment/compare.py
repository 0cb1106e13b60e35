"""Which of these runs is better? Selection, alignment and user-level tests of every pair."""

from __future__ import annotations

from collections.abc import Sequence

from recbench.artifacts.store import RunStore
from recbench.contracts.comparison import Comparison
from recbench.contracts.errors import UsageError, did_you_mean
from recbench.evaluation.accuracy import TRUTHS, Truth, check_metric, comparable_metrics, metric_column
from recbench.experiment.align import align
from recbench.experiment.pairs import CompareOptions
from recbench.experiment.select import select
from recbench.experiment.statistics import compare_entries

__all__ = ["check_truth", "compare", "compare_entries"]


def compare(
    store: RunStore,
    references: Sequence[str],
    *,
    baseline: str | None = None,
    metric: str = "NDCG@10",
    truth: str = "item",
    dataset: str | None = None,
    protocol: str | None = None,
    options: CompareOptions | None = None,
) -> Comparison:
    """Compare runs or methods on one metric.

    Args:
        store: the runs.
        references: run ids (or prefixes), run folders, method names or labels. A run stands for itself; a method name
            for all complete runs of that method, those that differ in their seed only as one entry.
        baseline: reference of the entry that all others are compared with; None: all pairs.
        metric: "NDCG@10", "HR@5", ...
        truth: "item" or "title".
        dataset: takes only runs on this data set.
        protocol: takes only runs whose protocol hash begins with this.
        options: margin of equivalence, correction, further tests.

    Raises:
        UsageError: fewer than two entries, mixed data or protocols, an unknown metric or truth, too many pairs, a
            t-test over runs without runs.
        ArtifactError: a run's metrics are damaged or cover other examples.
    """
    chosen = check_truth(truth)
    selection = select(store, references if baseline is None else [*references, baseline], dataset, protocol)
    entries = selection.entries
    if len(entries) < 2:
        raise UsageError(
            f"There is only {entries[0].label} [{', '.join(entries[0].run_ids)}] and nothing to compare it with.",
            "Name at least two methods or runs; runs that differ in their seed only count as one where a method is "
            "named.",
        )
    label = None if baseline is None else selection.one(baseline, "baseline").label
    metric = check_metric(metric, comparable_metrics(entries[0].runs[0].metrics().columns, chosen))
    aligned = align(entries, [metric_column(chosen, metric)])
    return compare_entries(entries, aligned, metric, chosen, label, options)


def check_truth(truth: str) -> Truth:
    """Return the truth of that name.

    Raises:
        UsageError: there is none.
    """
    for known in TRUTHS:
        if truth == known:
            return known
    raise UsageError(f"Unknown truth '{truth}'.{did_you_mean(truth, TRUTHS)} Known: {', '.join(TRUTHS)}.")
