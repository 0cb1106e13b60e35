"""Facts of each pair -> verdicts of a whole family: what must be adjusted over all tests is decided here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from recbench.contracts.comparison import ComparedPair, Correction, Interval, RunsTest, RunsTestKind, Verdict
from recbench.stats.equivalence import Margin
from recbench.stats.multiple import benjamini_hochberg, holm
from recbench.stats.power import POWER, Sample, detection_factor, multiple_needed, seeds_needed, users_needed

ALPHA = 0.05


@dataclass(frozen=True)
class CompareOptions:
    """What is asked beside the differences.

    Attributes:
        margin: what counts as no difference; None: equivalence is not tested.
        correction: "holm" confirms, "bh" explores.
        runs_test: the t-test over run means to add; None: none.
        alpha: bound on wrong findings in the family.
    """

    margin: Margin | None = None
    correction: Correction = "holm"
    runs_test: RunsTestKind | None = None
    alpha: float = ALPHA


@dataclass(frozen=True)
class PairFacts:
    """One pair before the family is known; fields are those of :class:`ComparedPair`.

    Attributes:
        sample: users, seeds and the variances of the difference that come from each.
    """

    a: str
    b: str
    difference: float
    interval: Interval
    p_permutation: float
    p_t: float | None
    t: float | None
    p_seeds: float | None
    effect: float | None
    wins: int
    ties: int
    losses: int
    user_difference: float
    sample: Sample
    df: float
    seeds_paired: bool
    margin: float | None
    p_equivalence: float | None
    runs_test: RunsTest | None

    @property
    def p(self) -> float:
        """The p-value that decides: users alone, or users and seeds if that is larger."""
        return self.p_permutation if self.p_seeds is None else max(self.p_permutation, self.p_seeds)


def judge(family: Sequence[PairFacts], options: CompareOptions) -> list[ComparedPair]:
    """Adjust p-values over the whole family and give the verdicts, in order.

    Differences, equivalences and t-tests over runs are three questions, each adjusted by itself.
    """
    adjusted = _adjust([pair.p for pair in family], options)
    equivalence = _adjust([pair.p_equivalence for pair in family], options)
    runs = _adjust([pair.runs_test.p if pair.runs_test else None for pair in family], options)
    strictest = options.alpha / max(len(family), 1)
    return [
        _judge_one(pair, p, p_equal, p_runs, strictest, options)
        for pair, p, p_equal, p_runs in zip(family, adjusted, equivalence, runs, strict=True)
    ]


def _adjust(p_values: Sequence[float | None], options: CompareOptions) -> list[float | None]:
    """Adjust the known p-values; one that is not defined counts as a test that found nothing."""
    if all(p is None for p in p_values):
        return list(p_values)
    correct = holm if options.correction == "holm" else benjamini_hochberg
    adjusted = correct([1.0 if p is None else p for p in p_values])
    return [None if raw is None else p for raw, p in zip(p_values, adjusted, strict=True)]


def _judge_one(
    pair: PairFacts,
    p_adjusted: float | None,
    p_equivalence: float | None,
    p_runs: float | None,
    strictest: float,
    options: CompareOptions,
) -> ComparedPair:
    assert p_adjusted is not None
    alpha = options.alpha
    equivalent = p_equivalence is not None and p_equivalence < alpha
    verdict = _verdict(pair.difference, p_adjusted < alpha, equivalent)
    sample = pair.sample
    standard_error = (sample.user_variance + sample.seed_variance) ** 0.5
    knows_seeds = pair.p_seeds is not None
    users = seeds = multiple = None
    if verdict == "undecided" and sample.n_users > 1 and pair.difference != 0:
        users = users_needed(pair.difference, sample, strictest)
        seeds = seeds_needed(pair.difference, sample, strictest) if knows_seeds else None
        multiple = multiple_needed(pair.difference, sample, strictest) if knows_seeds else None
    return ComparedPair(
        a=pair.a,
        b=pair.b,
        difference=pair.difference,
        interval=pair.interval,
        p_permutation=pair.p_permutation,
        p_adjusted=p_adjusted,
        p_t=pair.p_t,
        t=pair.t,
        effect=pair.effect,
        wins=pair.wins,
        ties=pair.ties,
        losses=pair.losses,
        verdict=verdict,
        p=pair.p,
        p_seeds=pair.p_seeds,
        user_difference=pair.user_difference,
        standard_error=standard_error,
        df=pair.df,
        seed_error=sample.seed_variance**0.5 if knows_seeds else None,
        seeds_paired=pair.seeds_paired,
        margin=pair.margin,
        p_equivalence=pair.p_equivalence,
        p_equivalence_adjusted=p_equivalence,
        equivalent=equivalent,
        detectable=standard_error * detection_factor(pair.df, alpha, POWER),
        detectable_adjusted=standard_error * detection_factor(pair.df, strictest, POWER),
        users_needed=users,
        seeds_needed=seeds,
        multiple_needed=multiple,
        runs_test=replace(pair.runs_test, p_adjusted=p_runs) if pair.runs_test else None,
    )


def _verdict(difference: float, found: bool, equivalent: bool) -> Verdict:
    if found and difference != 0:
        return "better" if difference > 0 else "worse"
    return "equivalent" if equivalent else "undecided"
