"""Tests of statistics: known answers, scipy and statsmodels as references, and calibration under the null."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from recbench.stats.bootstrap import bootstrap_means, cluster_totals
from recbench.stats.multiple import holm
from recbench.stats.paired import paired_tests, sign_flip_p


def column(*values: float) -> np.ndarray:
    return np.array(values, dtype=float)[:, None]


def test_cluster_totals_by_hand() -> None:
    totals = cluster_totals(np.array([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]]), np.array([1, 0, 1]), 3)
    assert totals.tolist() == [[2.0, 20.0], [5.0, 50.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ((1.0, 1.0, 1.0), 2 / 8),  # only +++ and --- reach |3|
        ((1.0, 2.0, 3.0, 4.0), 2 / 16),
        ((1.0, -1.0), 1.0),
        ((0.0, 0.0, 0.0), 1.0),
        ((3.0, -1.0), 4 / 4),  # |2| or more: all four flips give |2| or |4|
        ((5.0, 1.0, -1.0), 6 / 8),  # sums 5, 7, 3, 5 and their negatives; 3 is less extreme
    ],
)
def test_sign_flip_is_exact_with_few_users(differences: tuple[float, ...], expected: float) -> None:
    assert sign_flip_p(column(*differences)) == pytest.approx([expected])


def test_sign_flip_equals_scipy_when_exact() -> None:
    differences = np.random.default_rng(0).normal(0.4, 1.0, size=(11, 3))
    ours = sign_flip_p(differences)
    for pair in range(3):
        theirs = stats.permutation_test(
            (differences[:, pair],), lambda x, axis: x.sum(axis=axis), permutation_type="samples", n_resamples=10_000
        )
        assert ours[pair] == pytest.approx(theirs.pvalue, abs=1e-12)


def test_sign_flip_is_close_to_scipy_when_random() -> None:
    differences = np.random.default_rng(1).normal(0.15, 1.0, size=(150, 1))
    theirs = stats.permutation_test(
        (differences[:, 0],), lambda x, axis: x.sum(axis=axis), permutation_type="samples", n_resamples=9_999, rng=5
    )
    assert sign_flip_p(differences)[0] == pytest.approx(theirs.pvalue, abs=0.02)


def test_random_sign_flip_never_gives_zero_and_repeats() -> None:
    strong = np.full((200, 1), 1.0)
    assert sign_flip_p(strong, n_flips=999) == pytest.approx([1 / 1000])
    noisy = np.random.default_rng(2).normal(size=(200, 2))
    assert np.array_equal(sign_flip_p(noisy, seed=4), sign_flip_p(noisy, seed=4))


def test_sign_flip_works_for_many_users() -> None:
    # More users than a float can count flips for, and more than one chunk of random bits.
    differences = np.random.default_rng(3).normal(size=(9_000, 1))
    theirs = stats.ttest_1samp(differences[:, 0], 0).pvalue
    assert sign_flip_p(differences, n_flips=2_000)[0] == pytest.approx(theirs, abs=0.04)


def test_paired_tests_against_scipy_over_user_means() -> None:
    rng = np.random.default_rng(5)
    sizes = rng.integers(1, 6, size=80)
    sums = rng.normal(0.2, 1.0, size=(80, 1)) * sizes[:, None]
    result = paired_tests(sums, sizes)[0]
    means = sums[:, 0] / sizes
    theirs = stats.ttest_1samp(means, 0.0)
    assert result.p_t == pytest.approx(theirs.pvalue)
    assert result.t == pytest.approx(theirs.statistic)
    assert result.effect == pytest.approx(means.mean() / means.std(ddof=1))
    assert (result.wins, result.ties, result.losses) == ((means > 0).sum(), 0, (means < 0).sum())


def test_equal_methods_give_no_evidence() -> None:
    result = paired_tests(np.zeros((30, 1)), np.ones(30))[0]
    assert (result.p_permutation, result.p_t, result.t, result.effect) == (1.0, 1.0, 0.0, None)
    assert (result.wins, result.ties, result.losses) == (0, 30, 0)


def test_one_user_is_not_enough_for_a_t_test() -> None:
    result = paired_tests(column(0.5), np.array([3]))[0]
    assert result.p_t is None
    assert result.p_permutation == 1.0


def test_the_same_difference_for_everybody_has_no_t() -> None:
    result = paired_tests(np.full((40, 1), 0.1), np.ones(40))[0]
    assert (result.t, result.p_t) == (None, None)
    assert result.effect is None
    assert result.p_permutation == pytest.approx(1 / 10_001)


def test_bootstrap_interval_is_close_to_scipy() -> None:
    rng = np.random.default_rng(6)
    sizes = rng.integers(1, 8, size=300)
    totals = rng.binomial(sizes, 0.3)[:, None].astype(float)
    low, high = bootstrap_means(totals, sizes, seed=1).interval(0)
    theirs = stats.bootstrap(
        (totals[:, 0], sizes),
        lambda total, size, axis: total.sum(axis=axis) / size.sum(axis=axis),
        paired=True,
        method="percentile",
        n_resamples=10_000,
        rng=1,
    ).confidence_interval
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.002)


def test_bootstrap_columns_share_their_resamples() -> None:
    totals = np.random.default_rng(7).normal(size=(50, 1))
    means = bootstrap_means(np.hstack([totals, totals + 2.0]), np.ones(50), n_resamples=500)
    assert means.difference_interval(1, 0) == pytest.approx((2.0, 2.0))
    assert means.means.shape == (500, 2)


def test_bootstrap_of_equal_users_is_a_point_and_of_many_users_is_chunked() -> None:
    assert bootstrap_means(np.full((20, 1), 6.0), np.full(20, 3)).interval(0) == pytest.approx((2.0, 2.0))
    many = np.random.default_rng(8).normal(size=(50_000, 1))
    low, high = bootstrap_means(many, np.ones(50_000), n_resamples=200).interval(0)
    standard_error = many.std() / np.sqrt(50_000)
    assert (high - low) / 2 == pytest.approx(1.96 * standard_error, rel=0.2)


def test_holm_by_hand() -> None:
    # Smallest p times 3, next times 2, largest times 1, then never falling, at most 1.
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([0.2]) == pytest.approx([0.2])
    assert holm([]) == []


def clustered_null(rng: np.random.Generator, n_users: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Differences of two equal methods whose examples are strongly dependent within a user."""
    sizes = rng.integers(1, 10, size=n_users)
    taste = rng.normal(size=n_users)
    sums = sizes * taste + rng.normal(size=n_users) * np.sqrt(sizes)
    return sums[:, None], sizes


def test_user_level_test_keeps_its_level_where_a_row_level_test_does_not() -> None:
    rng = np.random.default_rng(9)
    n_worlds = 400
    by_user = by_row = covered = 0
    for world in range(n_worlds):
        sums, sizes = clustered_null(rng)
        by_user += sign_flip_p(sums, n_flips=400, seed=world)[0] < 0.05
        low, high = bootstrap_means(sums, sizes, n_resamples=300, seed=world).interval(0)
        covered += low <= 0 <= high
        rows = np.repeat(sums[:, 0] / sizes, sizes)
        by_row += stats.ttest_1samp(rows, 0).pvalue < 0.05
    # Binomial bounds of 400 worlds: 5% +- 3.3 standard errors; a bootstrap of 60 users is a little too narrow.
    assert 0.014 <= by_user / n_worlds <= 0.086
    assert covered / n_worlds >= 0.88
    assert by_row / n_worlds > 0.2


def test_a_real_difference_is_found() -> None:
    rng = np.random.default_rng(10)
    found = sum(sign_flip_p(rng.normal(0.5, 1.0, size=(60, 1)), n_flips=400)[0] < 0.05 for _ in range(50))
    assert found >= 45
