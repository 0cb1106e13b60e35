"""Equivalence, power, t-tests over runs and ranges of ranks: known answers, scipy and statsmodels as references."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_paired

from recbench.contracts.errors import UsageError
from recbench.stats.bootstrap import bootstrap_means
from recbench.stats.clustered import Errors, SeedLevel, errors_of_differences, user_covariance, user_df
from recbench.stats.equivalence import parse_margin, tost_p
from recbench.stats.power import Sample, detection_factor, multiple_needed, seeds_needed, users_needed
from recbench.stats.ranks import rank_ranges
from recbench.stats.runs import runs_test
from recbench.stats.seeds import two_level_means


@pytest.mark.parametrize("shift", [0.0, 0.05, -0.12, 0.3])
def test_tost_equals_statsmodels(shift: float) -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(0, 0.4, 60)
    b = a + rng.normal(shift, 0.3, 60)
    differences = a - b
    error = differences.std(ddof=1) / np.sqrt(60)
    theirs = ttost_paired(a, b, -0.15, 0.15)[0]
    assert tost_p(differences.mean(), error, 59, 0.15, 60) == pytest.approx(theirs)


def test_tost_without_any_error_counts_users() -> None:
    # If 1 of 100 users differed by 1, the mean would differ by the margin; 60 users without any difference miss that
    # one user with chance 0.99^60.
    assert tost_p(0.0, 0.0, 59, 0.01, 60) == pytest.approx(0.99**60)
    assert tost_p(0.02, 0.0, 59, 0.01, 60) == 1.0


@pytest.mark.parametrize(
    ("text", "value", "relative"),
    [("0.002", 0.002, False), (" 2% ", 0.02, True), ("1e-3", 0.001, False), (".5 %", 0.005, True)],
)
def test_margins_are_read(text: str, value: float, relative: bool) -> None:
    margin = parse_margin(text)
    assert (margin.value, margin.relative) == (pytest.approx(value), relative)
    assert margin.absolute(0.5) == pytest.approx(value * 0.5 if relative else value)


@pytest.mark.parametrize("text", ["", "two", "-0.1", "0", "0%", "100%", "1", "nan", "inf", "2%%", "0.1 0.2", "1,5"])
def test_nonsense_margins_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a number above 0 and below 1"):
        parse_margin(text)


@pytest.mark.parametrize("n_users", [12, 60, 2_000])
@pytest.mark.parametrize("alpha", [0.05, 0.05 / 12])
def test_detectable_difference_is_statsmodels(n_users: int, alpha: float) -> None:
    theirs = TTestPower().solve_power(effect_size=None, nobs=n_users, alpha=alpha, power=0.8)
    ours = detection_factor(n_users - 1, alpha) / np.sqrt(n_users)
    assert ours == pytest.approx(theirs, rel=0.015 if n_users > 50 else 0.05)
    assert detection_factor(1e9, 0.05) == pytest.approx(2.802, abs=1e-3)


@pytest.mark.parametrize("effect", [0.08, 0.15, 0.3])
def test_users_needed_is_statsmodels(effect: float) -> None:
    theirs = TTestPower().solve_power(effect_size=effect, alpha=0.01, power=0.8)
    assert users_needed(effect, Sample(50, 49, 1 / 50), 0.01) == pytest.approx(theirs, rel=0.02)


def test_users_needed_is_the_first_number_that_does() -> None:
    needed = users_needed(0.1, Sample(400, 399, 1 / 400), 0.05)
    assert needed is not None
    assert detection_factor(needed - 1, 0.05) / np.sqrt(needed) <= 0.1
    assert detection_factor(needed - 2, 0.05) / np.sqrt(needed - 1) > 0.1


def test_users_cannot_mend_what_seeds_spoil() -> None:
    assert users_needed(0.1, Sample(400, 399, 1 / 400, 3, 0.01), 0.05) is None  # the seeds alone have an error of 0.1
    assert users_needed(1e-6, Sample(400, 399, 1 / 400), 0.05) is None


def test_seeds_needed_by_hand() -> None:
    # Without any error from users and with many degrees of freedom: 2.8 standard errors, so S = (2.8 sd / d)^2.
    needed = seeds_needed(0.1, Sample(10_000, 9_999, 0.0, 2, 0.2**2 / 2), 0.05)
    assert needed is not None
    for seeds, found in ((needed, True), (needed - 1, False)):
        assert (detection_factor(seeds - 1, 0.05) * 0.2 / np.sqrt(seeds) <= 0.1) == found
    assert needed == pytest.approx((2.8 * 2) ** 2, rel=0.1)
    assert (
        seeds_needed(0.1, Sample(10_000, 9_999, 0.1**2, 2, 0.01), 0.05) is None
    )  # the users alone have an error of 0.1


def test_users_and_seeds_together_can_do_what_neither_does_alone() -> None:
    sample = Sample(400, 399, 0.05**2, 3, 0.05**2)
    assert users_needed(0.1, sample, 0.05) is None
    assert seeds_needed(0.1, sample, 0.05) is None
    times = multiple_needed(0.1, sample, 0.05)
    assert times is not None
    for multiple, found in ((times, True), (times - 1, False)):
        error, df = sample.error(multiple * 400, multiple * 3)
        assert error == pytest.approx((0.005 / multiple) ** 0.5)
        assert (detection_factor(df, 0.05) * error <= 0.1) == found


def test_welch_and_paired_equal_scipy() -> None:
    a, b = np.array([0.031, 0.034, 0.036, 0.030, 0.033]), np.array([0.029, 0.031, 0.030, 0.028, 0.030])
    welch, theirs = runs_test(a, b, "welch"), stats.ttest_ind(a, b, equal_var=False)
    assert welch == pytest.approx((theirs.statistic, theirs.df, theirs.pvalue))
    paired, theirs = runs_test(a, b, "paired"), stats.ttest_rel(a, b)
    assert paired == pytest.approx((theirs.statistic, theirs.df, theirs.pvalue))
    assert runs_test(a, b[:3], "welch").p == pytest.approx(stats.ttest_ind(a, b[:3], equal_var=False).pvalue)


@pytest.mark.parametrize("kind", ["welch", "paired"])
def test_runs_that_never_vary_have_no_t(kind) -> None:
    assert runs_test(np.array([0.2, 0.2]), np.array([0.1, 0.1]), kind) == (None, None, None)


def ranks_of(totals: np.ndarray, alpha: float = 0.05, n_resamples: int = 2_000):
    n_users, n = totals.shape
    sizes = np.ones(n_users, dtype=int)
    seeds = SeedLevel(tuple(np.zeros(1) for _ in range(n)), tuple((str(entry),) for entry in range(n)))
    means = totals.mean(axis=0)
    resampled = two_level_means(bootstrap_means(totals, sizes, n_resamples, 0), seeds)
    errors = errors_of_differences(user_covariance(totals, sizes), user_df(sizes), seeds)
    return rank_ranges(means, resampled, errors, alpha)


def test_clear_differences_give_single_ranks() -> None:
    totals = np.random.default_rng(1).normal([3.0, 1.0, 2.0], 0.1, size=(100, 3))
    ranks = ranks_of(totals)
    assert ranks.low.tolist() == ranks.high.tolist() == [1, 3, 2]
    assert ranks.better.tolist() == [[False, True, True], [False, False, False], [False, True, False]]


def test_equal_entries_share_their_ranks() -> None:
    rng = np.random.default_rng(2)
    same = rng.random((80, 1))
    ranks = ranks_of(np.hstack([same, same, same + 1.0, rng.random((80, 1))]))
    assert ranks.low.tolist() == [2, 2, 1, 2]
    assert ranks.high.tolist() == [4, 4, 1, 4]


def test_one_entry_has_the_first_rank() -> None:
    ranks = ranks_of(np.random.default_rng(3).random((20, 1)))
    assert (ranks.low.tolist(), ranks.high.tolist()) == ([1], [1])


def test_step_down_finds_what_one_step_misses() -> None:
    """After the clear pairs are settled, the bound for the others falls."""
    rng = np.random.default_rng(4)
    n_users = 400
    totals = rng.normal(0, 1, size=(n_users, 8))
    totals -= totals.mean(axis=0)
    totals += np.array([0, 0.205, 3, 5, 7, 9, 11, 13])  # the first two: about 2.9 standard errors apart
    errors = errors_of_differences(
        user_covariance(totals, np.ones(n_users)),
        n_users - 1,
        SeedLevel(tuple(np.zeros(1) for _ in range(8)), tuple((str(entry),) for entry in range(8))),
    )
    t = 0.205 / errors.standard_error[0, 1]
    one_step = stats.studentized_range.isf(0.05, 8, 1e6) / np.sqrt(2)  # Tukey's bound for 8 entries: 3.03
    assert 2.5 < t < one_step
    assert ranks_of(totals).better[1, 0]


def test_few_seeds_make_ranks_cautious() -> None:
    means = np.array([0.2, 0.1])
    resampled = np.random.default_rng(5).normal(means, 0.02, size=(4_000, 2))
    matrix = np.array([[0.0, 0.02**2 * 2], [0.02**2 * 2, 0.0]])
    for df, expected in ((1e6, True), (1.0, False)):
        errors = Errors(np.zeros((2, 2)), matrix, np.full((2, 2), df), np.full((2, 2), True))
        assert rank_ranges(means, resampled, errors, 0.05).better[0, 1] == expected
