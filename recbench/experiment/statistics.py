"""Aligned metrics of entries -> a comparison: errors, intervals, ranks and tests of one metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from recbench.contracts.comparison import ComparedEntry, ComparedPair, Comparison, Interval, RunsTest
from recbench.contracts.errors import UsageError
from recbench.evaluation.accuracy import Truth, cutoff_of, metric_column
from recbench.experiment.align import AlignedMetrics
from recbench.experiment.entries import Entry, depth_notes, shared_notes
from recbench.experiment.pairs import CompareOptions, PairFacts, judge
from recbench.stats.bootstrap import LEVEL, N_RESAMPLES, bootstrap_means, cluster_totals
from recbench.stats.clustered import (
    Errors,
    SeedLevel,
    effective_users,
    errors_of_differences,
    errors_of_means,
    user_covariance,
    user_df,
)
from recbench.stats.equivalence import tost_p
from recbench.stats.paired import N_FLIPS, sign_flip_p, t_test, user_counts
from recbench.stats.power import POWER, Sample
from recbench.stats.ranks import RankRanges, rank_ranges
from recbench.stats.runs import runs_test
from recbench.stats.seeds import scaled_interval, two_level_means

RANDOM_SEED = 20_260_101
MAX_ENTRIES_FOR_ALL_PAIRS = 6
_FEW_USERS = 30

Pair = tuple[int, int]


@dataclass(frozen=True)
class MeasuredMetric:
    """One metric of E entries with everything that intervals and tests need.

    Attributes:
        entries: in any order; numbers of entries refer to it.
        metric, truth: what was measured.
        totals: float64 (U, E), sums over each user's examples.
        sizes: int (U,), examples of each user.
        means: float64 (E,), over all examples.
        order: numbers of the entries, best mean first.
        resampled: float64 (R, E), bootstrap over users and seeds.
        seeds: run means and fitted models of each entry.
        mean_errors, difference_errors: errors (E,) and (E, E).
    """

    entries: tuple[Entry, ...]
    metric: str
    truth: Truth
    totals: np.ndarray
    sizes: np.ndarray
    means: np.ndarray
    order: tuple[int, ...]
    resampled: np.ndarray
    seeds: SeedLevel
    mean_errors: Errors
    difference_errors: Errors

    @property
    def labels(self) -> list[str]:
        """Labels of the entries, best mean first."""
        return [self.entries[entry].label for entry in self.order]


def compare_entries(
    entries: Sequence[Entry],
    aligned: AlignedMetrics,
    metric: str,
    truth: Truth,
    baseline: str | None,
    options: CompareOptions | None = None,
) -> Comparison:
    """Compare aligned entries: intervals and ranks for all, tests for every pair (or all against the baseline).

    Args:
        entries: labelled; one is enough for an interval.
        aligned: their metrics, among them ``metric``.
        metric: "NDCG@10".
        truth: "item" or "title".
        baseline: label of the entry that all others are compared with; None: all pairs, which are the family then.
        options: margin of equivalence, correction, further tests.

    Raises:
        UsageError: without a baseline there are too many pairs to be read, or a t-test over runs lacks runs.
    """
    options = options or CompareOptions()
    measured = measure(entries, aligned, metric, truth)
    pairs = judge(pair_facts(measured, _pairs(measured, baseline), options), options)
    return comparison_of(measured, pairs, options, baseline=baseline, n_tests=len(pairs))


def measure(entries: Sequence[Entry], aligned: AlignedMetrics, metric: str, truth: Truth) -> MeasuredMetric:
    """Return means, resamples and errors of one metric."""
    column = metric_column(truth, metric)
    totals = cluster_totals(aligned.column(column).T, aligned.user, aligned.n_users)
    sizes = np.bincount(aligned.user, minlength=aligned.n_users)
    means = totals.sum(axis=0) / sizes.sum()
    seeds = SeedLevel(
        run_means=tuple(one[:, aligned.columns.index(column)] for one in aligned.run_means),
        models=tuple(_models(entry) for entry in entries),
    )
    boot = bootstrap_means(totals, sizes, N_RESAMPLES, RANDOM_SEED)
    covariance, df_users = user_covariance(totals, sizes), user_df(sizes)
    return MeasuredMetric(
        entries=tuple(entries),
        metric=metric,
        truth=truth,
        totals=totals,
        sizes=sizes,
        means=means,
        order=tuple(sorted(range(len(entries)), key=lambda entry: (-means[entry], entries[entry].label))),
        resampled=two_level_means(boot, seeds),
        seeds=seeds,
        mean_errors=errors_of_means(covariance, df_users, seeds),
        difference_errors=errors_of_differences(covariance, df_users, seeds),
    )


def _models(entry: Entry) -> tuple[str, ...]:
    """Return what names the fitted models of an entry; a run that is not recorded as sharing one has its own."""
    return tuple(run.manifest.fit_id or run.manifest.run_id for run in entry.runs)


def pair_facts(measured: MeasuredMetric, pairs: Sequence[Pair], options: CompareOptions) -> list[PairFacts]:
    """Return what is known of each pair before the family's correction.

    Raises:
        UsageError: a t-test over runs is asked for and a pair lacks runs or common seeds; a margin for a metric that
            is not bounded.
    """
    if not pairs:
        return []
    if options.margin and not cutoff_of(measured.metric):
        raise UsageError(
            f"The test of equivalence is for metrics between 0 and 1, and {measured.metric} has no such bounds.",
            "Leave out the margin.",
        )
    differences = np.stack([measured.totals[:, a] - measured.totals[:, b] for a, b in pairs], axis=1)
    p_permutation = sign_flip_p(differences, N_FLIPS, RANDOM_SEED)
    counts = user_counts(differences, measured.sizes)
    by_user = (differences / measured.sizes[:, None]).mean(axis=0)
    telling, df_users, n_users = effective_users(measured.sizes), user_df(measured.sizes), len(measured.sizes)
    facts = []
    for number, (a, b) in enumerate(pairs):
        errors = measured.difference_errors
        user_variance, seed_variance = float(errors.users[a, b]), float(errors.seeds[a, b])
        df = float(errors.df[a, b])
        knows_seeds = bool(errors.known_seeds[a, b])
        error = float(errors.standard_error[a, b])
        difference = float(measured.means[a] - measured.means[b])
        p_t, t = t_test(difference, user_variance**0.5, df_users)
        margin = options.margin.absolute(float(measured.means[b])) if options.margin else None
        facts.append(
            PairFacts(
                a=measured.entries[a].label,
                b=measured.entries[b].label,
                difference=difference,
                interval=_interval(measured.resampled[:, a] - measured.resampled[:, b], difference, error, df),
                p_permutation=float(p_permutation[number]),
                p_t=p_t,
                t=t,
                p_seeds=t_test(difference, error, df)[0] if knows_seeds else None,
                effect=difference / (user_variance * n_users) ** 0.5 if user_variance else None,
                wins=counts[number].wins,
                ties=counts[number].ties,
                losses=counts[number].losses,
                user_difference=float(by_user[number]),
                sample=Sample(
                    n_users=n_users,
                    df_users=df_users,
                    user_variance=user_variance,
                    n_seeds=max(len(measured.seeds.run_means[entry]) for entry in (a, b)),
                    seed_variance=seed_variance,
                ),
                df=df,
                seeds_paired=measured.seeds.paired(a, b),
                margin=margin,
                p_equivalence=None if margin is None else tost_p(difference, error, df, margin, telling),
                runs_test=_runs_test(measured, a, b, options),
            )
        )
    return facts


def comparison_of(
    measured: MeasuredMetric,
    pairs: Sequence[ComparedPair],
    options: CompareOptions,
    *,
    n_tests: int,
    baseline: str | None = None,
    family: str | None = None,
) -> Comparison:
    """Put the judged pairs of one metric together with its entries.

    Args:
        measured: the metric.
        pairs: its pairs, adjusted over the family.
        options: those they were judged with.
        n_tests: size of the family.
        baseline: label that all others are compared with, or None.
        family: name of the declared family, or None.
    """
    manifest = measured.entries[0].manifest
    ranks = rank_ranges(measured.means, measured.resampled, measured.difference_errors, options.alpha)
    return Comparison(
        dataset=manifest.dataset,
        split_fingerprint=manifest.split_fingerprint,
        protocol_hash=manifest.protocol_hash,
        limited=manifest.limited,
        truth=measured.truth,
        metric=measured.metric,
        n_examples=int(measured.sizes.sum()),
        n_users=len(measured.sizes),
        entries=tuple(_entry(measured, entry, ranks) for entry in measured.order),
        baseline=baseline,
        pairs=tuple(pairs),
        level=LEVEL,
        alpha=options.alpha,
        n_resamples=N_RESAMPLES,
        n_flips=N_FLIPS,
        random_seed=RANDOM_SEED,
        notes=tuple(_notes(measured, pairs)),
        effective_users=effective_users(measured.sizes),
        correction=options.correction,
        n_tests=n_tests,
        family=family,
        margin=options.margin.text if options.margin else None,
        power=POWER,
    )


def _entry(measured: MeasuredMetric, number: int, ranks: RankRanges) -> ComparedEntry:
    entry, run_means = measured.entries[number], measured.seeds.run_means[number]
    mean, errors = float(measured.means[number]), measured.mean_errors
    standard_error, df = float(errors.standard_error[number]), float(errors.df[number])
    return ComparedEntry(
        label=entry.label,
        method=entry.manifest.method,
        backbone=entry.backbone,
        run_ids=entry.run_ids,
        seeds=tuple(run.manifest.seed for run in entry.runs),
        mean=mean,
        interval=_interval(measured.resampled[:, number], mean, standard_error, df),
        seed_means=tuple(run_means.tolist()),
        seed_sd=float(run_means.std(ddof=1)) if len(run_means) > 1 else None,
        rank_low=int(ranks.low[number]),
        rank_high=int(ranks.high[number]),
        in_best_set=bool(ranks.low[number] == 1),
        better_than=tuple(measured.entries[other].label for other in measured.order if ranks.better[number, other]),
    )


def _interval(resampled: np.ndarray, centre: float, standard_error: float, df: float) -> Interval:
    return Interval(*scaled_interval(resampled, centre, standard_error, df))


def _runs_test(measured: MeasuredMetric, a: int, b: int, options: CompareOptions) -> RunsTest | None:
    kind = options.runs_test
    if kind is None:
        return None
    means_a, means_b = measured.seeds.run_means[a], measured.seeds.run_means[b]
    single = [measured.entries[one].label for one, means in ((a, means_a), (b, means_b)) if len(means) < 2]
    if single:
        raise UsageError(
            "A t-test over run means needs two or more runs of each entry; there is one run of "
            f"{' and of '.join(single)}.",
            "Run more seeds (recbench run --seed N), or leave out --runs-test: the tests over users need one run each.",
        )
    seeds_a, seeds_b = ([run.manifest.seed for run in measured.entries[one].runs] for one in (a, b))
    if kind == "paired" and seeds_a != seeds_b:
        raise UsageError(
            f"A t-test paired by seed needs the same seeds on both sides; {measured.entries[a].label} has "
            f"{', '.join(map(str, seeds_a))} and {measured.entries[b].label} has {', '.join(map(str, seeds_b))}.",
            "Run the missing seeds, or take --runs-test welch.",
        )
    return RunsTest(kind, len(means_a), len(means_b), *runs_test(means_a, means_b, kind))


def _pairs(measured: MeasuredMetric, baseline: str | None) -> list[Pair]:
    """Return pairs of entry numbers (a, b), best ones first."""
    ranked, labels = measured.order, measured.labels
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


def _notes(measured: MeasuredMetric, pairs: Sequence[ComparedPair]) -> list[str]:
    entries = measured.entries
    notes = shared_notes(entries) + depth_notes(entries, cutoff_of(measured.metric))
    single = [measured.entries[entry].label for entry in measured.order if len(entries[entry].runs) == 1]
    if single:
        notes.append(
            f"One seed only: {', '.join(single)}. How much another seed would change these is not covered by intervals "
            "and tests (nothing, where a method leaves nothing to chance)."
        )
    telling = effective_users(measured.sizes)
    if telling < _FEW_USERS:
        notes.append(
            f"The examples come from {len(measured.sizes):,} users and tell as much as {telling:.0f} users of equal "
            "size would: with so few, intervals and tests are rough."
        )
    notes += [
        f"{pair.a} against {pair.b}: the mean over examples and the mean over users ({pair.user_difference:+.4f}) "
        "point in opposite directions, so users with many examples decide."
        for pair in pairs
        if pair.verdict in ("better", "worse") and pair.difference * pair.user_difference < 0
    ]
    return notes
