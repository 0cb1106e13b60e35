"""The outcome of comparing runs: what `compare` prints, reports render and scripts read as JSON. Nothing is rounded."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Verdict = Literal["better", "worse", "undecided"]

VERDICT_TEXT: dict[Verdict, str] = {
    "better": "better",
    "worse": "worse",
    "undecided": "not enough evidence to decide",
}


@dataclass(frozen=True)
class Interval:
    """A confidence interval: ``low`` to ``high``."""

    low: float
    high: float


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
        interval: user-level bootstrap interval of ``mean``; it does not cover the variation between seeds.
        seed_means: mean of the metric for each seed.
    """

    label: str
    method: str
    backbone: str | None
    run_ids: tuple[str, ...]
    seeds: tuple[int, ...]
    mean: float
    interval: Interval
    seed_means: tuple[float, ...]


@dataclass(frozen=True)
class ComparedPair:
    """How entry ``a`` differs from entry ``b`` (or the baseline).

    Attributes:
        a, b: labels.
        difference: mean of a minus mean of b.
        interval: user-level bootstrap interval of ``difference``.
        p_permutation: two-sided sign-flip permutation test over users.
        p_adjusted: the same, Holm-adjusted within the family.
        p_t, t: two-sided paired t-test over user means, not adjusted; None where it is not defined.
        effect: Cohen's d_z over user means; None where no user differs.
        wins, ties, losses: users for whom a is better, equal, worse.
        verdict: of a against b, from ``p_adjusted`` and the sign of ``difference``.
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
        pairs: the family of tests; p-values are adjusted over exactly these.
        level: confidence level of the intervals.
        alpha: bound on the chance of any wrong verdict in the family.
        n_resamples, n_flips, random_seed: settings of bootstrap and permutation test.
        notes: sentences that must stand under every table made from this.
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
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)
