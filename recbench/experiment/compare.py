"""Which of these runs is better? Selection, alignment and user-level tests of every pair."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from recbench.artifacts.store import RunStore
from recbench.contracts.comparison import ComparedEntry, ComparedPair, Comparison, Interval, Verdict
from recbench.contracts.errors import UsageError, did_you_mean
from recbench.evaluation.accuracy import TRUTHS, Truth, check_metric, metric_column, parse_columns
from recbench.experiment.align import AlignedMetrics, align
from recbench.experiment.entries import (
    Entry,
    depth_notes,
    group_by_identity,
    label_entries,
    refuse_mixed,
    shared_notes,
)
from recbench.stats.bootstrap import LEVEL, N_RESAMPLES, bootstrap_means, cluster_totals
from recbench.stats.multiple import holm
from recbench.stats.paired import N_FLIPS, PairedTest, paired_tests

ALPHA = 0.05
RANDOM_SEED = 20_260_101
MAX_ENTRIES_FOR_ALL_PAIRS = 6


def compare(
    store: RunStore,
    references: Sequence[str],
    *,
    baseline: str | None = None,
    metric: str = "NDCG@10",
    truth: str = "item",
    dataset: str | None = None,
    protocol: str | None = None,
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

    Raises:
        UsageError: fewer than two entries, mixed data or protocols, an unknown metric or truth, too many pairs.
        ArtifactError: a run's metrics are damaged or cover other examples.
    """
    chosen = _check_truth(truth)
    entries = select_entries(store, references if baseline is None else [*references, baseline], dataset, protocol)
    if len(entries) < 2:
        raise UsageError(
            f"There is only {entries[0].label} [{', '.join(entries[0].run_ids)}] and nothing to compare it with.",
            "Name at least two methods or runs; runs that differ in their seed only count as one where a method is "
            "named.",
        )
    baseline_entry = None
    if baseline is not None:
        wanted = {entry.run_ids for entry in _resolve(store, baseline, dataset, protocol)}
        baseline_entry = _one_baseline(baseline, [entry for entry in entries if entry.run_ids in wanted])
    metric = check_metric(metric, parse_columns(entries[0].runs[0].metrics().columns, chosen))
    aligned = align(entries, [metric_column(chosen, metric)])
    return compare_entries(entries, aligned, metric, chosen, baseline_entry.label if baseline_entry else None)


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


def compare_entries(
    entries: Sequence[Entry], aligned: AlignedMetrics, metric: str, truth: Truth, baseline: str | None
) -> Comparison:
    """Compare aligned entries: intervals for all, tests for every pair (or all against the baseline).

    Raises:
        UsageError: without a baseline there are too many pairs to be read.
    """
    column = metric_column(truth, metric)
    totals = cluster_totals(aligned.column(column).T, aligned.user, aligned.n_users)
    sizes = np.bincount(aligned.user, minlength=aligned.n_users)
    means = totals.sum(axis=0) / sizes.sum()
    ranked = sorted(range(len(entries)), key=lambda e: (-means[e], entries[e].label))
    pairs = _pairs([entries[e].label for e in ranked], ranked, baseline)
    boot = bootstrap_means(totals, sizes, N_RESAMPLES, RANDOM_SEED)
    tests: list[PairedTest] = []
    if pairs:
        differences = np.stack([totals[:, a] - totals[:, b] for a, b in pairs], axis=1)
        tests = paired_tests(differences, sizes, N_FLIPS, RANDOM_SEED)
    adjusted = holm([test.p_permutation for test in tests])
    manifest = entries[0].manifest
    return Comparison(
        dataset=manifest.dataset,
        split_fingerprint=manifest.split_fingerprint,
        protocol_hash=manifest.protocol_hash,
        limited=manifest.limited,
        truth=truth,
        metric=metric,
        n_examples=aligned.values.shape[1],
        n_users=aligned.n_users,
        entries=tuple(
            ComparedEntry(
                label=entries[e].label,
                method=entries[e].manifest.method,
                backbone=entries[e].backbone,
                run_ids=entries[e].run_ids,
                seeds=tuple(run.manifest.seed for run in entries[e].runs),
                mean=float(means[e]),
                interval=Interval(*boot.interval(e)),
                seed_means=tuple(aligned.run_means[e][:, aligned.columns.index(column)].tolist()),
            )
            for e in ranked
        ),
        baseline=baseline,
        pairs=tuple(
            ComparedPair(
                a=entries[a].label,
                b=entries[b].label,
                difference=float(means[a] - means[b]),
                interval=Interval(*boot.difference_interval(a, b)),
                p_permutation=test.p_permutation,
                p_adjusted=p_adjusted,
                p_t=test.p_t,
                t=test.t,
                effect=test.effect,
                wins=test.wins,
                ties=test.ties,
                losses=test.losses,
                verdict=_verdict(p_adjusted, float(means[a] - means[b])),
            )
            for (a, b), test, p_adjusted in zip(pairs, tests, adjusted, strict=True)
        ),
        level=LEVEL,
        alpha=ALPHA,
        n_resamples=N_RESAMPLES,
        n_flips=N_FLIPS,
        random_seed=RANDOM_SEED,
        notes=tuple(shared_notes(entries) + depth_notes(entries, int(metric.partition("@")[2]))),
    )


def _check_truth(truth: str) -> Truth:
    for known in TRUTHS:
        if truth == known:
            return known
    raise UsageError(f"Unknown truth '{truth}'.{did_you_mean(truth, TRUTHS)} Known: {', '.join(TRUTHS)}.")


def _one_baseline(reference: str, found: Sequence[Entry]) -> Entry:
    if len(found) == 1:
        return found[0]
    labels = "; ".join(f"{entry.label} [{', '.join(entry.run_ids)}]" for entry in found)
    raise UsageError(
        f"The baseline '{reference}' stands for {len(found)} entries: {labels}.", "Give a run id as --baseline."
    )


def _pairs(labels: Sequence[str], ranked: Sequence[int], baseline: str | None) -> list[tuple[int, int]]:
    """Return pairs of entry numbers (a, b); entries come best first."""
    if len(ranked) < 2:
        return []
    if baseline is not None:
        base = ranked[labels.index(baseline)]
        return [(entry, base) for entry in ranked if entry != base]
    if len(ranked) > MAX_ENTRIES_FOR_ALL_PAIRS:
        n_pairs = len(ranked) * (len(ranked) - 1) // 2
        raise UsageError(
            f"{len(ranked)} entries make {n_pairs} pairs, too many to read and to test at once.",
            f"Choose one to compare with, --baseline X, from: {', '.join(labels)}.",
        )
    return list(combinations(ranked, 2))


def _verdict(p_adjusted: float, difference: float) -> Verdict:
    if p_adjusted >= ALPHA or difference == 0:
        return "undecided"
    return "better" if difference > 0 else "worse"
