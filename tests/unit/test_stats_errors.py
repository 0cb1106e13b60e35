"""Errors of means over users and seeds: worked values, statsmodels and scipy as references."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from recbench.stats.bootstrap import bootstrap_means, cluster_totals
from recbench.stats.clustered import (
    SeedLevel,
    effective_users,
    errors_of_differences,
    errors_of_means,
    user_covariance,
    user_df,
)
from recbench.stats.paired import t_test
from recbench.stats.seeds import scaled_interval, two_level_means


def one_seed(n: int) -> SeedLevel:
    return SeedLevel(tuple(np.zeros(1) for _ in range(n)), tuple((f"run {entry}",) for entry in range(n)))


def test_users_of_one_example_give_the_usual_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    totals = rng.random((80, 2))
    sizes = np.ones(80, dtype=int)
    errors = errors_of_differences(user_covariance(totals, sizes), user_df(sizes), one_seed(2))
    difference = float(totals.mean(axis=0) @ [1, -1])
    p, t = t_test(difference, float(errors.standard_error[0, 1]), float(errors.df[0, 1]))
    theirs = stats.ttest_rel(totals[:, 0], totals[:, 1])
    assert (t, p) == pytest.approx((theirs.statistic, theirs.pvalue))
    assert errors.df[0, 1] == pytest.approx(79)


def test_users_of_equally_many_examples_give_statsmodels_cluster_robust_error() -> None:
    rng = np.random.default_rng(1)
    user = np.repeat(np.arange(40), 6)
    values = rng.normal(size=(240, 1)) + rng.normal(size=40)[user][:, None]
    sizes = np.bincount(user)
    errors = errors_of_means(user_covariance(cluster_totals(values, user, 40), sizes), user_df(sizes), one_seed(1))
    theirs = sm.OLS(values[:, 0], np.ones(240)).fit(cov_type="cluster", cov_kwds={"groups": user}, use_t=True)
    assert errors.standard_error[0] == pytest.approx(theirs.bse[0])
    p, t = t_test(float(values.mean()), float(errors.standard_error[0]), float(errors.df[0]))
    assert (t, p) == pytest.approx((theirs.tvalues[0], theirs.pvalues[0]))


def test_users_of_unequal_size_give_the_jackknife() -> None:
    rng = np.random.default_rng(2)
    sizes = rng.integers(1, 30, size=25)
    totals = rng.random((25, 2)) * sizes[:, None]
    left_out = [np.delete(totals, user, 0).sum(0) / np.delete(sizes, user).sum() for user in range(25)]
    changes = np.array(left_out) - totals.sum(0) / sizes.sum()
    assert user_covariance(totals, sizes) == pytest.approx(24 / 25 * changes.T @ changes)


def test_equal_entries_differ_without_error() -> None:
    column = np.random.default_rng(2).random((50, 1))
    errors = errors_of_differences(user_covariance(np.hstack([column, column]), np.ones(50)), 49, one_seed(2))
    assert errors.users[0, 1] == 0.0
    assert errors.standard_error[0, 1] == 0.0


def test_one_user_tells_nothing_about_others() -> None:
    assert user_covariance(np.array([[3.0, 1.0]]), np.array([4])).tolist() == [[0, 0], [0, 0]]


def test_seeds_alone_give_welchs_test() -> None:
    """Where users differ in nothing, the two-level test is Welch's t-test over the run means."""
    a, b = np.array([0.10, 0.12, 0.15, 0.11, 0.12]), np.array([0.09, 0.13, 0.10])
    seeds = SeedLevel((a, b), (tuple("abcde"), tuple("fgh")))
    errors = errors_of_differences(np.zeros((2, 2)), 1000, seeds)
    p, t = t_test(a.mean() - b.mean(), float(errors.standard_error[0, 1]), float(errors.df[0, 1]))
    theirs = stats.ttest_ind(a, b, equal_var=False)
    assert (t, p, errors.df[0, 1]) == pytest.approx((theirs.statistic, theirs.pvalue, theirs.df))
    assert bool(errors.known_seeds[0, 1])


def test_entries_of_the_same_fitted_models_are_paired_by_seed() -> None:
    a, b = np.array([0.10, 0.12, 0.15]), np.array([0.09, 0.12, 0.13])
    same, own = ("m1", "m2", "m3"), ("n1", "n2", "n3")
    paired = errors_of_differences(np.zeros((2, 2)), 1000, SeedLevel((a, b), (same, same)))
    theirs = stats.ttest_rel(a, b)
    p, t = t_test(a.mean() - b.mean(), float(paired.standard_error[0, 1]), float(paired.df[0, 1]))
    assert (t, p, paired.df[0, 1]) == pytest.approx((theirs.statistic, theirs.pvalue, 2))
    apart = errors_of_differences(np.zeros((2, 2)), 1000, SeedLevel((a, b), (same, own)))
    assert apart.seeds[0, 1] == pytest.approx(a.var(ddof=1) / 3 + b.var(ddof=1) / 3)


def test_users_and_seeds_add_up() -> None:
    totals = np.random.default_rng(3).random((200, 1))
    run_means = np.array([0.4, 0.5, 0.6])
    covariance = user_covariance(totals, np.ones(200))
    errors = errors_of_means(covariance, 199, SeedLevel((run_means,), (("a", "b", "c"),)))
    users, seeds = totals.var(ddof=1) / 200, 0.01 / 3
    assert errors.standard_error[0] ** 2 == pytest.approx(users + seeds)
    assert errors.df[0] == pytest.approx((users + seeds) ** 2 / (users**2 / 199 + seeds**2 / 2))


def test_effective_users_by_hand() -> None:
    assert user_df(np.array([5])) == 1.0
    assert effective_users(np.array([3, 3, 3, 3])) == pytest.approx(4)
    assert effective_users(np.array([9, 1])) == pytest.approx(100 / 82)


def test_two_level_resamples_have_the_spread_of_the_error() -> None:
    rng = np.random.default_rng(4)
    totals, sizes = rng.random((60, 2)), np.ones(60, dtype=int)
    means = totals.mean(axis=0)
    seeds = SeedLevel((means[0] + np.array([-0.05, 0.02, 0.03]), means[1:]), (("a", "b", "c"), ("d",)))
    errors = errors_of_means(user_covariance(totals, sizes), 59, seeds)
    resampled = two_level_means(bootstrap_means(totals, sizes, 20_000, 5), seeds)
    assert resampled.mean(axis=0) == pytest.approx(means, abs=0.002)
    # 60 users drawn from themselves vary by 59/60 of what they should; that of seeds is mended in the draws.
    assert resampled.std(axis=0) == pytest.approx(errors.standard_error, rel=0.02)


def test_seeds_of_the_same_models_move_together() -> None:
    totals, sizes = np.zeros((30, 3)), np.ones(30, dtype=int)
    runs = np.array([-0.1, 0.0, 0.1])
    models = (("a", "b", "c"), ("a", "b", "c"), ("x", "y", "z"))
    boot = bootstrap_means(totals, sizes, 2_000, 1)
    resampled = two_level_means(boot, SeedLevel((runs, runs, runs), models))
    assert np.array_equal(resampled[:, 0], resampled[:, 1])
    assert abs(np.corrcoef(resampled[:, 0], resampled[:, 2])[0, 1]) < 0.1


def test_interval_has_the_spread_of_the_error() -> None:
    resampled = np.random.default_rng(6).normal(2.0, 0.5, size=50_000)
    for df in (3, 1e9):
        t = stats.t.ppf(0.975, df)
        assert scaled_interval(resampled, 2.0, 1.0, df) == pytest.approx((2 - t, 2 + t), abs=0.06)
    assert scaled_interval(np.full(100, 2.0), 2.0, 0.0, 3) == (2.0, 2.0)


def test_interval_keeps_the_skew_of_the_resamples() -> None:
    resampled = np.random.default_rng(7).exponential(1.0, size=50_000)
    low, high = scaled_interval(resampled, 1.0, 1.0, 1e9)
    assert (low, high) == pytest.approx((stats.expon.ppf(0.025), stats.expon.ppf(0.975)), abs=0.06)
