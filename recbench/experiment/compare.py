"""Which of these runs is better? Selection, alignment and user-level tests of every pair."""

from __future__ import annotations

from collections.abc import Sequence

from recbench.artifacts.store import RunStore
from recbench.contracts.comparison import Comparison
from recbench.contracts.errors import UsageError, did_you_mean
from recbench.evaluation.accuracy import TRUTHS, Truth, check_metric, metric_column, parse_columns
from recbench.experiment.align import align
from recbench.experiment.entries import Entry, group_by_identity, label_entries, refuse_mixed
from recbench.experiment.pairs import CompareOptions
from recbench.experiment.statistics import compare_entries

__all__ = ["compare", "compare_entries", "one_entry", "select_entries"]


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
        references: run ids (or prefixes), run folders, or method names. A run stands for itself; a method name for
            all complete runs of that method, those that differ in their seed only as one entry.
        baseline: reference or label of the entry that all others are compared with; None: all pairs.
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
    entries = select_entries(store, references if baseline is None else [*references, baseline], dataset, protocol)
    if len(entries) < 2:
        raise UsageError(
            f"There is only {entries[0].label} [{', '.join(entries[0].run_ids)}] and nothing to compare it with.",
            "Name at least two methods or runs; runs that differ in their seed only count as one where a method is "
            "named.",
        )
    baseline_entry = None if baseline is None else one_entry(store, baseline, entries, dataset, protocol, "baseline")
    metric = check_metric(metric, parse_columns(entries[0].runs[0].metrics().columns, chosen))
    aligned = align(entries, [metric_column(chosen, metric)])
    label = baseline_entry.label if baseline_entry else None
    return compare_entries(entries, aligned, metric, chosen, label, options)


def select_entries(
    store: RunStore, references: Sequence[str], dataset: str | None = None, protocol: str | None = None
) -> list[Entry]:
    """Return the labelled entries that the references stand for; all may stand in one table.

    Raises:
        UsageError: a reference has no complete run, or the runs are of mixed data or protocols.
        ArtifactError: the results of a run were changed.
    """
    bags: dict[tuple[str, ...], Entry] = {}
    for reference in references:
        for entry in _resolve(store, reference, dataset, protocol):
            bags.setdefault(entry.run_ids, entry)
    runs = [run for entry in bags.values() for run in entry.runs]
    refuse_mixed(runs)
    for run in runs:
        run.require_intact(run.paths.results)
    return label_entries(list(bags.values()))


def _resolve(store: RunStore, reference: str, dataset: str | None, protocol: str | None) -> list[Entry]:
    """Return the entries of one reference: a run stands for itself, a method for all of its complete runs."""
    found = store.find(reference, dataset=dataset, status="complete")
    manifest = found[0].manifest
    if manifest.method != reference:
        if manifest.status != "complete":
            raise UsageError(
                f"Run {manifest.run_id} ({manifest.method}) is {manifest.status}; only complete runs are compared.",
                "Give its command again to complete it.",
            )
        if dataset not in (None, manifest.dataset):
            raise UsageError(f"Run {manifest.run_id} ({manifest.method}) is on {manifest.dataset}, not on {dataset}.")
        return [Entry((found[0],))]
    fitting = [run for run in found if run.manifest.protocol_hash.startswith(protocol or "")]
    if not fitting:
        hashes = ", ".join(sorted({run.manifest.protocol_hash[:8] for run in found}))
        raise UsageError(
            f"No complete run of '{reference}' has a protocol hash that begins with '{protocol}'; there are: {hashes}."
        )
    return group_by_identity(fitting)


def check_truth(truth: str) -> Truth:
    """Return the truth of that name.

    Raises:
        UsageError: there is none.
    """
    for known in TRUTHS:
        if truth == known:
            return known
    raise UsageError(f"Unknown truth '{truth}'.{did_you_mean(truth, TRUTHS)} Known: {', '.join(TRUTHS)}.")


def one_entry(
    store: RunStore,
    reference: str,
    entries: Sequence[Entry],
    dataset: str | None,
    protocol: str | None,
    role: str,
) -> Entry:
    """Return the one of ``entries`` that a reference stands for.

    Args:
        store, dataset, protocol: as in :func:`compare`.
        reference: of one entry.
        entries: labelled, as :func:`select_entries` returned them for this reference among others.
        role: what the reference is, for the message ("baseline").

    Raises:
        UsageError: it stands for several entries.
    """
    wanted = {entry.run_ids for entry in _resolve(store, reference, dataset, protocol)}
    found = [entry for entry in entries if entry.run_ids in wanted]
    if len(found) == 1:
        return found[0]
    labels = "; ".join(f"{entry.label} [{', '.join(entry.run_ids)}]" for entry in found)
    raise UsageError(
        f"The {role} '{reference}' stands for {len(found)} entries: {labels}.", f"Give a run id as {role}."
    )
