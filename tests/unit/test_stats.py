"""Permutation test, bootstrap over users and corrections: known answers, and scipy as reference."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from recbench.stats.bootstrap import bootstrap_means, cluster_totals
from recbench.stats.multiple import benjamini_hochberg, holm
from recbench.stats.paired import UserCounts, sign_flip_p, t_test, user_counts


def column(*values: float) -> np.ndarray:
    return np.array(values, dtype=float)[:, None]


def percentiles(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


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


def test_users_are_counted_by_their_own_mean() -> None:
    counts = user_counts(np.array([[1.0, 0.0], [-2.0, 0.0], [0.0, 1e-15], [0.5, 3.0]]), np.array([1, 2, 3, 4]))
    assert counts == [UserCounts(2, 1, 1), UserCounts(1, 3, 0)]


def test_t_test_edges() -> None:
    assert t_test(0.0, 0.0, 30) == (1.0, 0.0)
    assert t_test(0.1, 0.0, 30) == (None, None)
    assert t_test(2.0, 1.0, 10) == pytest.approx((2 * stats.t.sf(2, 10), 2.0))


def test_bootstrap_interval_is_close_to_scipy() -> None:
    rng = np.random.default_rng(6)
    sizes = rng.integers(1, 8, size=300)
    totals = rng.binomial(sizes, 0.3)[:, None].astype(float)
    low, high = percentiles(bootstrap_means(totals, sizes, seed=1).means[:, 0])
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
    assert means.means[:, 1] - means.means[:, 0] == pytest.approx(2.0)
    assert means.means.shape == (500, 2)


def test_bootstrap_of_equal_users_is_a_point_and_of_many_users_is_chunked() -> None:
    assert bootstrap_means(np.full((20, 1), 6.0), np.full(20, 3)).means == pytest.approx(2.0)
    many = np.random.default_rng(8).normal(size=(50_000, 1))
    low, high = percentiles(bootstrap_means(many, np.ones(50_000), n_resamples=200).means[:, 0])
    standard_error = many.std() / np.sqrt(50_000)
    assert (high - low) / 2 == pytest.approx(1.96 * standard_error, rel=0.2)


def test_holm_by_hand() -> None:
    # Smallest p times 3, next times 2, largest times 1, then never falling, at most 1.
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([0.2]) == pytest.approx([0.2])
    assert holm([]) == []


def test_benjamini_hochberg_by_hand() -> None:
    # p * 4 / rank, then the smallest of it and all later ones.
    assert benjamini_hochberg([0.01, 0.02, 0.03, 0.5]) == pytest.approx([0.04, 0.04, 0.04, 0.5])
    assert benjamini_hochberg([]) == []
    p = [0.001, 0.2, 0.04, 0.011, 0.8]
    assert benjamini_hochberg(p) == pytest.approx(stats.false_discovery_control(p))
    assert all(bh <= fwer for bh, fwer in zip(benjamini_hochberg(p), holm(p), strict=True))
