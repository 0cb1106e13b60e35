"""The outcome of comparing runs: what `compare` prints, reports render and scripts read as JSON. Nothing is rounded."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Verdict = Literal["better", "worse", "equivalent", "undecided"]
Correction = Literal["holm", "bh"]
RunsTestKind = Literal["welch", "paired"]

CORRECTION_TEXT: dict[Correction, str] = {"holm": "Holm", "bh": "BH"}


@dataclass(frozen=True)
class Interval:
    """A confidence interval: ``low`` to ``high``."""

    low: float
    high: float


@dataclass(frozen=True)
class RunsTest:
    """A t-test over run means, as the LatentR3 paper's appendix E does it: the run is the unit, users are not seen.

    Attributes:
        kind: "welch" (two-sided, unequal variances) or "paired" (runs of equal seeds are pairs).
        n_a, n_b: runs of each side.
        t, df, p: statistic, degrees of freedom, two-sided p-value; None where no run differs from another.
        p_adjusted: p within the family, by the family's correction; None where p is.
    """

    kind: RunsTestKind
    n_a: int
    n_b: int
    t: float | None
    df: float | None
    p: float | None
    p_adjusted: float | None = None


@dataclass(frozen=True)
class ComparedEntry:
    """One competitor: a method with its backbone and configuration, averaged over its seeds.

    Attributes:
        label: unique name within the comparison ("bigrec (nano)").
        method: method name.
        backbone: language model, or None.
        run_ids: runs behind it, one per seed.
        seeds: their seeds, in the same order.
        mean: mean of the metric over all examples (and seeds).
        interval: bootstrap interval of ``mean`` over users, and over seeds where there are two or more.
        seed_means: mean of the metric for each seed.
        seed_sd: standard deviation of ``seed_means`` (n - 1 below); None with one seed.
        rank_low, rank_high: the ranks (1 is best) that the data allow, for all entries at once
            (:func:`recbench.stats.ranks.rank_ranges`); None where they were not computed.
        in_best_set: no other entry is significantly better, that is ``rank_low`` is 1: this may be the best one.
        better_than: labels of all entries that this one is significantly better than, when every entry is compared
            with every other; the ranks count these.
    """

    label: str
    method: str
    backbone: str | None
    run_ids: tuple[str, ...]
    seeds: tuple[int, ...]
    mean: float
    interval: Interval
    seed_means: tuple[float, ...]
    seed_sd: float | None = None
    rank_low: int | None = None
    rank_high: int | None = None
    in_best_set: bool | None = None
    better_than: tuple[str, ...] = ()

    @property
    def covers_seeds(self) -> bool:
        """Whether the interval covers the variation between seeds: there are two or more."""
        return len(self.seeds) > 1


@dataclass(frozen=True)
class ComparedPair:
    """How entry ``a`` differs from entry ``b`` (or the baseline). Differences are in the unit of the metric.

    Attributes:
        a, b: labels.
        difference: mean of a minus mean of b, over examples (and seeds).
        interval: bootstrap interval of ``difference`` over users, and over the seeds of entries with two or more.
        p_permutation: two-sided sign-flip permutation test over users, for the seeds at hand.
        p_adjusted: ``p`` within the family, by the family's correction.
        p_t, t: two-sided paired t-test over users with jackknife error, not adjusted; None where every user differs
            by the same amount.
        effect: ``difference`` in standard deviations of the users' contributions to it (Cohen's d_z); None where
            that deviation is 0.
        wins, ties, losses: users for whom a is better, equal, worse.
        verdict: of a against b. "better" and "worse" need ``p_adjusted`` below alpha, "equivalent" needs
            ``p_equivalence_adjusted`` below alpha and no difference found.
        p: what decides: the larger one of ``p_permutation`` and ``p_seeds``.
        p_seeds: two-sided t-test whose error covers users and seeds; None where both entries have one seed.
        user_difference: mean over users of each user's own mean difference: users count alike here, however many
            examples they have.
        standard_error: of ``difference``, over users and, where known, seeds.
        df: degrees of freedom of that error (effective users - 1, or Satterthwaite's with seeds).
        seed_error: the part of ``standard_error`` that comes from seeds; None where both entries have one seed.
        seeds_paired: both entries rank with the same fitted models, so their seeds were drawn together.
        margin: differences up to this count as equal; None where no margin was stated.
        p_equivalence, p_equivalence_adjusted: two one-sided tests (TOST) that the difference lies within the margin.
        equivalent: ``p_equivalence_adjusted`` is below alpha (also possible for a small but certain difference).
        detectable: smallest true difference that a test at alpha finds with the comparison's power.
        detectable_adjusted: the same at the strictest step of the family's correction (alpha / tests).
        users_needed: undecided pairs only: users that would decide if the difference stayed what it is; None where
            no number up to a thousand times as many would.
        seeds_needed: undecided pairs with seeds on record: seeds per entry that would decide with the users at hand.
        multiple_needed: undecided pairs with seeds on record: how many times as many users and seeds together would.
        runs_test: the t-test over run means, if asked for.
    """

    a: str
    b: str
    difference: float
    interval: Interval
    p_permutation: float
    p_adjusted: float
    p_t: float | None
    t: float | None
    effect: float | None
    wins: int
    ties: int
    losses: int
    verdict: Verdict
    p: float
    p_seeds: float | None
    user_difference: float
    standard_error: float
    df: float
    seed_error: float | None
    seeds_paired: bool
    margin: float | None
    p_equivalence: float | None
    p_equivalence_adjusted: float | None
    equivalent: bool
    detectable: float
    detectable_adjusted: float
    users_needed: int | None
    seeds_needed: int | None
    multiple_needed: int | None
    runs_test: RunsTest | None

    @property
    def covers_seeds(self) -> bool:
        """Whether interval and verdict cover the variation between the seeds of at least one of the two."""
        return self.seed_error is not None


@dataclass(frozen=True)
class Comparison:
    """Entries measured on the same examples, and tests of their pairs.

    Attributes:
        dataset, split_fingerprint, protocol_hash: what all runs have in common.
        limited: whether rows were left out to save time (a try-out, not a result).
        truth: "item" or "title".
        metric: "NDCG@10".
        n_examples, n_users: size of the test part.
        entries: best mean first.
        baseline: label that all others are compared with, or None for all pairs.
        pairs: tests of this metric on this data set; p-values are adjusted over ``n_tests`` tests, these among them.
        level: confidence level of the intervals.
        alpha: bound on the chance of any wrong "better" or "worse" in the family (for "bh": on the expected share of
            wrong ones).
        n_resamples, n_flips, random_seed: settings of bootstrap and permutation test.
        notes: sentences that must stand under every table made from this.
        effective_users: N^2 / (sum of squared examples per user): as many users with equally many examples would
            tell about as much.
        correction: "holm" for confirmation, "bh" (Benjamini-Hochberg) for exploration.
        n_tests: size of the family.
        family: name of the declared family, or None where it is the pairs of this comparison.
        margin: the margin of equivalence as it was stated ("0.002", "2%"), or None.
        power: chance of finding a difference as large as ``detectable``.
    """

    dataset: str
    split_fingerprint: str
    protocol_hash: str
    limited: bool
    truth: str
    metric: str
    n_examples: int
    n_users: int
    entries: tuple[ComparedEntry, ...]
    baseline: str | None
    pairs: tuple[ComparedPair, ...]
    level: float
    alpha: float
    n_resamples: int
    n_flips: int
    random_seed: int
    notes: tuple[str, ...]
    effective_users: float
    correction: Correction
    n_tests: int
    family: str | None
    margin: str | None
    power: float

    @property
    def exploratory(self) -> bool:
        """Whether findings are leads to follow, not confirmed results."""
        return self.correction == "bh"

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "exploratory": self.exploratory}


@dataclass(frozen=True)
class ComparedFamily:
    """A declared family of tests over several pairs, metrics and data sets, adjusted together.

    Attributes:
        name: as declared.
        why: what was to be shown, as declared; "" where nothing was said.
        comparisons: one per data set, truth and metric; every pair in them belongs to the family.
    """

    name: str
    why: str
    comparisons: tuple[Comparison, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"family": self.name, "why": self.why, "comparisons": [one.to_json() for one in self.comparisons]}
