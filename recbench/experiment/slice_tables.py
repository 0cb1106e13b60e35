"""Aligned entries -> tables of slices: the examples' facts, the baseline, the numbers of every cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan

import numpy as np
import pandas as pd

from recbench.artifacts.store import StoredRun
from recbench.contracts.comparison import Interval
from recbench.contracts.errors import ArtifactError
from recbench.contracts.slices import (
    MIN_HITS,
    MIN_USERS,
    Contrast,
    SlicedEntry,
    SliceFacts,
    SliceTable,
    SliceValue,
    SliceWarning,
)
from recbench.evaluation.accuracy import Truth, cutoff_of, metric_column
from recbench.evaluation.facts import FACTS, fact_column, missing_facts
from recbench.evaluation.slices import Cut
from recbench.experiment.align import AlignedMetrics
from recbench.experiment.entries import Entry, depth_notes, shared_notes
from recbench.experiment.slice_values import ContrastEstimates, SliceValues, UserSums, slice_values
from recbench.stats.bootstrap import LEVEL, N_RESAMPLES
from recbench.stats.multiple import holm
from recbench.stats.paired import N_FLIPS

RANDOM_SEED = 20_260_102

#: The four metrics of the LatentR3 paper's tables, over which it computes relative improvements.
SUMMED_METRICS = ("HR@5", "HR@10", "NDCG@5", "NDCG@10")
#: The baseline of the paper's comparison by popularity (table 9).
USUAL_BASELINE = "sasrec"


def usual_baseline(entries: Sequence[Entry], means: np.ndarray) -> tuple[int, str]:
    """Return the number of the entry to compare with where none is named, and the rule in words.

    SASRec, the baseline of the paper's comparison by popularity, where it is there (the best of several); else the
    best entry: against popularity itself, gains on the tail would be over nothing.

    Args:
        entries: the entries.
        means: float64 (E,), their means.
    """
    usual = [number for number, entry in enumerate(entries) if entry.manifest.method == USUAL_BASELINE]
    if usual:
        return max(usual, key=lambda number: means[number]), f"{USUAL_BASELINE}, as in table 9 of the LatentR3 paper"
    return int(means.argmax()), f"the best entry, as there is no {USUAL_BASELINE}"


@dataclass(frozen=True)
class _Examples:
    """Facts of N test examples, in the order of their ids.

    Attributes:
        facts: name -> array (N,).
        item: int (N,), a number for each distinct target.
        n_items: size of the catalogue.
    """

    facts: Mapping[str, np.ndarray]
    item: np.ndarray
    n_items: int


def _run_with_facts(entries: Sequence[Entry]) -> StoredRun | None:
    """Return a run that has all facts. They are the same in all runs of a group: the split fixes them."""
    for entry in entries:
        for run in entry.runs:
            if not missing_facts(run.metrics_columns()):
                return run
    return None


def _read_examples(entries: Sequence[Entry]) -> _Examples:
    run = _run_with_facts(entries)
    if run is None:
        run_id = entries[0].run_ids[0]
        raise ArtifactError(
            f"No run here has facts about its test examples in metrics.parquet ({fact_column(FACTS[0])}, ...): they "
            "were measured by an older recbench.",
            f"Add them to one of the runs: recbench evaluate {run_id}",
        )
    columns = ["example_id", "target_item_id", *map(fact_column, FACTS)]
    table = run.metrics(columns).sort_values("example_id", ignore_index=True)
    facts = {name: table[fact_column(name)].to_numpy() for name in FACTS}
    return _Examples(facts, pd.factorize(table["target_item_id"])[0], int(run.summary()["n_items"]))


def slice_entries(
    entries: Sequence[Entry],
    aligned: AlignedMetrics,
    cuts: Sequence[Cut],
    metric: str,
    truth: Truth,
    baseline: Entry | None,
    n_resamples: int = N_RESAMPLES,
) -> tuple[SliceTable, ...]:
    """Measure aligned entries on the slices of several cuts.

    Args:
        entries: labelled entries.
        aligned: their metrics.
        cuts: how to divide the examples; one that knows no example is left out.
        metric, truth: what is measured.
        baseline: one of the entries; None: :func:`usual_baseline`, and none at all for a single entry.
        n_resamples: of the bootstrap.

    Raises:
        ArtifactError: no run has the facts that slices need, or a run is damaged.
    """
    examples = _read_examples(entries)
    values = aligned.column(metric_column(truth, metric))
    means = values.mean(axis=1)
    if baseline is not None:
        base: int | None = list(entries).index(baseline)
        rule = "as asked for"
    else:
        base, rule = usual_baseline(entries, means) if len(entries) > 1 else (None, "")
    summed = tuple(one for one in SUMMED_METRICS if metric_column(truth, one) in aligned.columns) or (metric,)
    material = _Material(entries, aligned, examples, truth, metric, summed, base, rule, values)
    divisions = [one for one in (material.divide(cut) for cut in cuts) if one.rules]
    everything = np.zeros(len(examples.item), dtype=np.int64)
    sums = [material.sums(everything, np.array([False]))]
    sums += [material.sums(one.label, one.focus) for one in divisions]
    whole, *computed = slice_values(sums, base, n_resamples, N_FLIPS, RANDOM_SEED)
    ranked = sorted(range(len(entries)), key=lambda e: (-means[e], entries[e].label))
    return tuple(
        material.table(division, numbers, whole, ranked, n_resamples)
        for division, numbers in zip(divisions, computed, strict=True)
    )


@dataclass(frozen=True)
class _Division:
    """A cut of these examples: only its slices with examples are left.

    Attributes:
        cut: the cut.
        rules: numbers of the remaining slices in the cut.
        label: int (N,), place in ``rules``, or -1.
        focus: bool, which of ``rules`` are in the focus.
    """

    cut: Cut
    rules: tuple[int, ...]
    label: np.ndarray
    focus: np.ndarray


@dataclass(frozen=True)
class _Material:
    """What the tables of one metric are made from."""

    entries: Sequence[Entry]
    aligned: AlignedMetrics
    examples: _Examples
    truth: Truth
    metric: str
    summed: tuple[str, ...]
    baseline: int | None
    baseline_rule: str
    values: np.ndarray

    def divide(self, cut: Cut) -> _Division:
        assigned = cut.assign(self.examples.facts, self.examples.n_items)
        present = np.unique(assigned[assigned >= 0])
        label = np.where(assigned >= 0, np.searchsorted(present, assigned), -1)
        focus = np.array([cut.slices[number].key in cut.focus for number in present], dtype=bool)
        return _Division(cut, tuple(present.tolist()), label, focus)

    def sums(self, label: np.ndarray, focus: np.ndarray) -> UserSums:
        return UserSums.of(self.values, self.aligned.user, label, self.aligned.n_users, focus)

    def table(
        self, division: _Division, numbers: SliceValues, whole: SliceValues, ranked: Sequence[int], n_resamples: int
    ) -> SliceTable:
        manifest = self.entries[0].manifest
        label, cut = division.label, division.cut
        everything = np.zeros_like(label)
        of_all, of_slices = self.several(everything, 1), self.several(label, len(division.rules))
        absolute = self.contrasts(numbers.absolute)
        relative = self.contrasts(numbers.relative)
        return SliceTable(
            cut=cut.name,
            title=cut.title,
            focus_title=cut.focus_title,
            dataset=manifest.dataset,
            protocol_hash=manifest.protocol_hash,
            split_fingerprint=manifest.split_fingerprint,
            limited=manifest.limited,
            truth=self.truth,
            metric=self.metric,
            summed_metrics=self.summed,
            baseline=None if self.baseline is None else self.entries[self.baseline].label,
            baseline_rule=self.baseline_rule,
            n_examples=len(label),
            n_unknown=int((label < 0).sum()),
            slices=tuple(self.facts(division, place) for place in range(len(division.rules))),
            entries=tuple(
                SlicedEntry(
                    label=self.entries[e].label,
                    method=self.entries[e].manifest.method,
                    run_ids=self.entries[e].run_ids,
                    seeds=tuple(run.manifest.seed for run in self.entries[e].runs),
                    whole=self.value(whole, of_all, 0, e),
                    values=tuple(self.value(numbers, of_slices, place, e) for place in range(len(division.rules))),
                    absolute=absolute[e],
                    relative=relative[e],
                )
                for e in ranked
            ),
            level=LEVEL,
            n_resamples=n_resamples,
            n_flips=N_FLIPS,
            random_seed=RANDOM_SEED,
            notes=tuple(shared_notes(self.entries) + depth_notes(self.entries, cutoff_of(self.metric))),
        )

    def facts(self, division: _Division, place: int) -> SliceFacts:
        rows = division.label == place
        rule = division.cut.slices[division.rules[place]]
        n_users = len(np.unique(self.aligned.user[rows]))
        hits = (self.values[:, rows] > 0).sum(axis=1)
        warnings: list[SliceWarning] = ["few users"] if n_users < MIN_USERS else []
        if hits.max() < MIN_HITS:
            warnings.append("few hits")
        elif self.baseline is not None and hits[self.baseline] < MIN_HITS:
            warnings.append("few baseline hits")
        return SliceFacts(
            key=rule.key,
            title=rule.title,
            rule=rule.rule,
            n_rows=int(rows.sum()),
            n_users=n_users,
            n_items=len(np.unique(self.examples.item[rows])),
            share=float(rows.mean()),
            focus=bool(division.focus[place]),
            warnings=tuple(warnings),
        )

    def several(self, label: np.ndarray, n_slices: int) -> np.ndarray:
        """Return float64 (M, S, E): sums of the M summed metrics over the examples of each slice."""
        known = label >= 0
        columns = [self.aligned.column(metric_column(self.truth, one)) for one in self.summed]
        return np.stack(
            [[np.bincount(label[known], weights=v[known], minlength=n_slices) for v in column] for column in columns]
        ).swapaxes(1, 2)

    def value(self, numbers: SliceValues, several: np.ndarray, place: int, e: int) -> SliceValue:
        mean = numbers.mean.at(place, e)
        assert mean is not None  # a slice without examples is left out
        interval = numbers.mean.interval(place, e)
        if e == self.baseline or self.baseline is None or numbers.difference is None or numbers.improvement is None:
            return SliceValue(mean, interval)
        own, base = several[:, place, e], several[:, place, self.baseline]
        ratios = own[base > 0] / base[base > 0]
        return SliceValue(
            mean=mean,
            interval=interval,
            difference=numbers.difference.at(place, e),
            difference_interval=numbers.difference.interval(place, e),
            improvement=numbers.improvement.at(place, e),
            improvement_interval=numbers.improvement.interval(place, e),
            improvement_of_sums=float(own.sum() / base.sum() - 1) if base.sum() > 0 else None,
            mean_improvement=float(ratios.mean() - 1) if len(ratios) else None,
            n_improvements=len(ratios),
        )

    def contrasts(self, found: ContrastEstimates | None) -> dict[int, Contrast | None]:
        """Return the contrast of every entry but the baseline, with p-values adjusted over all of them."""
        result: dict[int, Contrast | None] = dict.fromkeys(range(len(self.entries)))
        if found is None:
            return result
        tested = [e for e in range(len(self.entries)) if e != self.baseline and not isnan(found.p[e])]
        adjusted = holm([float(found.p[e]) for e in tested])
        for e, p_adjusted in zip(tested, adjusted, strict=True):
            known = not isnan(found.low[e])
            interval = Interval(float(found.low[e]), float(found.high[e])) if known else None
            result[e] = Contrast(float(found.value[e]), interval, float(found.p[e]), p_adjusted)
        return result
