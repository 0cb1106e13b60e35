"""Runs -> metrics on slices of the test examples: which entries, against which baseline, on which cuts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from recbench.artifacts.store import RunStore
from recbench.contracts.errors import UsageError
from recbench.contracts.slices import SliceTable
from recbench.evaluation.accuracy import Truth, check_metric, metric_column, parse_columns
from recbench.evaluation.slices import CUTS, PAPER_CUTS, check_cut
from recbench.experiment.align import align
from recbench.experiment.compare import check_truth
from recbench.experiment.entries import Entry
from recbench.experiment.select import select
from recbench.experiment.slice_tables import SUMMED_METRICS, slice_entries

DEFAULT_CUTS = ("popularity", "cold", "history")
REPORT_CUTS = ("popularity", "deciles", "cold", "cold-strict", "cold-loose", "history")

#: A report makes many intervals; the ends of one from 2,000 resamples move by a few hundredths of its length.
REPORT_RESAMPLES = 2_000


def slice_runs(
    store: RunStore,
    references: Sequence[str],
    *,
    by: Sequence[str] = DEFAULT_CUTS,
    baseline: str | None = None,
    metric: str | None = None,
    truth: str | None = None,
    dataset: str | None = None,
    protocol: str | None = None,
) -> tuple[SliceTable, ...]:
    """Measure runs or methods on slices of their test examples.

    Args:
        store: the runs.
        references: as in :func:`recbench.experiment.compare.compare`; one is enough.
        by: names of cuts (:data:`recbench.evaluation.slices.CUTS`), or of a table of the LatentR3 paper
            (:data:`recbench.evaluation.slices.PAPER_CUTS`), which then says metric, truth and baseline unless given.
        baseline: reference of the entry that all others are compared with; None: see
            :func:`recbench.experiment.slice_tables.usual_baseline`.
        metric: "NDCG@10" (default), "HR@5", ...
        truth: "item" (default) or "title".
        dataset: takes only runs on this data set.
        protocol: takes only runs whose protocol hash begins with this.

    Returns:
        One table per cut and metric.

    Raises:
        UsageError: mixed data or protocols, an unknown cut, metric or truth, or a cut by times where there are none.
        ArtifactError: a run's files are damaged, or no run has the facts that slices need.
    """
    tables: list[SliceTable] = []
    for request, cuts in _requests(by, metric, truth, baseline).items():
        base = request.baseline
        selection = select(store, [*references, *([base] if base else [])], dataset, protocol)
        entries = selection.entries
        base_entry = selection.one(base, "baseline") if base else None
        known = parse_columns(entries[0].runs[0].metrics_columns(), request.truth)
        names = [check_metric(one, known) for one in request.metrics]
        columns = dict.fromkeys([*names, *(one for one in SUMMED_METRICS if one in known)])
        aligned = align(entries, [metric_column(request.truth, one) for one in columns])
        for one in names:
            found = slice_entries(entries, aligned, [CUTS[cut] for cut in cuts], one, request.truth, base_entry)
            missing = set(cuts) - {table.cut for table in found}
            if missing:
                raise UsageError(
                    f"The examples cannot be cut by {', '.join(sorted(missing))}: the data set "
                    f"'{entries[0].manifest.dataset}' has no times.",
                    "Choose other cuts with --by.",
                )
            tables += found
    return tuple(tables)


@dataclass(frozen=True)
class _Request:
    """What the tables of several cuts have in common, so that they are computed together."""

    metrics: tuple[str, ...]
    truth: Truth
    baseline: str | None


def _requests(
    by: Sequence[str], metric: str | None, truth: str | None, baseline: str | None
) -> dict[_Request, list[str]]:
    requests: dict[_Request, list[str]] = {}
    for name in dict.fromkeys(map(check_cut, by)):
        paper = PAPER_CUTS.get(name)
        request = _Request(
            metrics=(metric,) if metric else paper.metrics if paper else ("NDCG@10",),
            truth=check_truth(truth or (paper.truth if paper else "item")),
            baseline=baseline or (paper.baseline if paper else None),
        )
        requests.setdefault(request, []).append(paper.cut if paper else name)
    return requests


def slices_of_group(
    entries: Sequence[Entry], metric: str = "NDCG@10", truth: Truth = "item", n_resamples: int = REPORT_RESAMPLES
) -> tuple[SliceTable, ...]:
    """Return the slices that a report shows of one group of comparable entries, against the usual baseline.

    Args:
        entries: labelled entries of one group.
        metric, truth: what is measured.
        n_resamples: of the bootstrap.

    Returns:
        One table per cut of :data:`REPORT_CUTS`.

    Raises:
        ArtifactError: the metrics of a run are damaged, or no run has the facts that slices need.
    """
    known = parse_columns(entries[0].runs[0].metrics_columns(), truth)
    columns = dict.fromkeys([metric, *(one for one in SUMMED_METRICS if one in known)])
    aligned = align(entries, [metric_column(truth, one) for one in columns])
    return slice_entries(entries, aligned, [CUTS[name] for name in REPORT_CUTS], metric, truth, None, n_resamples)
