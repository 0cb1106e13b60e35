"""What holds for all comparisons: swapping mirrors, the order of users and the unit of the metric change nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from recbench.stats.bootstrap import bootstrap_means
from recbench.stats.clustered import SeedLevel, errors_of_differences, user_covariance, user_df
from recbench.stats.equivalence import tost_p
from recbench.stats.multiple import benjamini_hochberg, holm
from recbench.stats.paired import sign_flip_p, t_test, user_counts
from recbench.stats.power import Sample, users_needed
from recbench.stats.ranks import rank_ranges
from recbench.stats.seeds import scaled_interval, two_level_means

# Values on a grid: sums of them are exact, so that "equal" means equal.
GRID = st.integers(0, 64).map(lambda value: value / 64)
PLAIN = settings(max_examples=40, deadline=None)


@st.composite
def worlds(draw, n_entries: int = 2):
    """Totals (U, E), sizes (U,) and run means of 1 to 3 seeds per entry, averaging to the totals' means."""
    n_users = draw(st.integers(2, 12))
    sizes = draw(arrays(np.int64, n_users, elements=st.integers(1, 5)))
    totals = draw(arrays(np.float64, (n_users, n_entries), elements=GRID)) * sizes[:, None]
    means = totals.sum(axis=0) / sizes.sum()
    runs = []
    for entry in range(n_entries):
        spread = draw(arrays(np.float64, draw(st.integers(1, 3)), elements=GRID))
        runs.append(means[entry] + 0.01 * (spread - spread.mean()))
    models = tuple(tuple(f"{entry}/{seed}" for seed in range(len(run))) for entry, run in enumerate(runs))
    return totals, sizes, SeedLevel(tuple(runs), models)


def interval(totals: np.ndarray, sizes: np.ndarray, seeds: SeedLevel, a: int = 0, b: int = 1) -> tuple[float, float]:
    means = totals.sum(axis=0) / sizes.sum()
    errors = errors_of_differences(user_covariance(totals, sizes), user_df(sizes), seeds)
    resampled = two_level_means(bootstrap_means(totals, sizes, 300, 3), seeds)
    error, df = float(errors.standard_error[a, b]), float(errors.df[a, b])
    return scaled_interval(resampled[:, a] - resampled[:, b], means[a] - means[b], error, df)


@PLAIN
@given(worlds())
def test_swapping_mirrors(world) -> None:
    totals, sizes, seeds = world
    low, high = interval(totals, sizes, seeds)
    assert interval(totals, sizes, seeds, 1, 0) == pytest.approx((-high, -low), abs=1e-12)
    difference = totals[:, :1] - totals[:, 1:]
    assert sign_flip_p(difference, 500) == sign_flip_p(-difference, 500)
    there, back = user_counts(difference, sizes)[0], user_counts(-difference, sizes)[0]
    assert (there.wins, there.ties, there.losses) == (back.losses, back.ties, back.wins)
    errors = errors_of_differences(user_covariance(totals, sizes), user_df(sizes), seeds)
    assert errors.standard_error[0, 1] == pytest.approx(errors.standard_error[1, 0])
    assert errors.df[0, 1] == pytest.approx(errors.df[1, 0])


@PLAIN
@given(worlds(), st.randoms(use_true_random=False))
def test_the_order_of_users_changes_nothing_but_the_draws(world, random) -> None:
    totals, sizes, seeds = world
    order = list(range(len(sizes)))
    random.shuffle(order)
    before = errors_of_differences(user_covariance(totals, sizes), user_df(sizes), seeds)
    after = errors_of_differences(user_covariance(totals[order], sizes[order]), user_df(sizes), seeds)
    assert after.standard_error == pytest.approx(before.standard_error)
    difference = totals[:, :1] - totals[:, 1:]
    # At most 12 users: all flips are taken, so there is no chance in it.
    assert sign_flip_p(difference[order]) == pytest.approx(sign_flip_p(difference))


@PLAIN
@given(worlds(), st.sampled_from([0.25, 2.0, 8.0]))
def test_the_unit_of_the_metric_changes_nothing(world, unit) -> None:
    totals, sizes, seeds = world
    scaled = SeedLevel(tuple(run * unit for run in seeds.run_means), seeds.models)
    low, high = interval(totals, sizes, seeds)
    assert interval(totals * unit, sizes, scaled) == pytest.approx((low * unit, high * unit), abs=1e-9)
    difference = totals[:, :1] - totals[:, 1:]
    assert sign_flip_p(difference * unit) == pytest.approx(sign_flip_p(difference))
    one = errors_of_differences(user_covariance(totals, sizes), user_df(sizes), seeds)
    other = errors_of_differences(user_covariance(totals * unit, sizes), user_df(sizes), scaled)
    assert other.df[0, 1] == pytest.approx(one.df[0, 1])
    found = float(difference.sum() / sizes.sum())
    p, _ = t_test(found, float(one.standard_error[0, 1]), float(one.df[0, 1]))
    p_scaled, _ = t_test(found * unit, float(other.standard_error[0, 1]), float(other.df[0, 1]))
    assert (p is None) == (p_scaled is None)
    assert p is None or p_scaled == pytest.approx(p, abs=1e-9)


@PLAIN
@given(worlds())
def test_seeds_only_add_to_the_error(world) -> None:
    totals, sizes, seeds = world
    single = SeedLevel(tuple(run[:1] for run in seeds.run_means), tuple(one[:1] for one in seeds.models))
    covariance = user_covariance(totals, sizes)
    with_seeds = errors_of_differences(covariance, user_df(sizes), seeds)
    without = errors_of_differences(covariance, user_df(sizes), single)
    assert np.all(with_seeds.standard_error >= without.standard_error - 1e-15)


@PLAIN
@given(worlds(n_entries=4))
def test_ranks_are_consistent(world) -> None:
    totals, sizes, seeds = world
    means = totals.sum(axis=0) / sizes.sum()
    resampled = two_level_means(bootstrap_means(totals, sizes, 300, 3), seeds)
    errors = errors_of_differences(user_covariance(totals, sizes), user_df(sizes), seeds)
    ranks = rank_ranges(means, resampled, errors, 0.05)
    for entry in range(4):
        strictly_better = int((means > means[entry] + 1e-12).sum())
        at_least_as_good = int((means >= means[entry] - 1e-12).sum())
        assert ranks.low[entry] <= 1 + strictly_better
        assert ranks.high[entry] >= at_least_as_good
    assert not np.any(ranks.better & ranks.better.T)
    assert ranks.low[int(means.argmax())] == 1


@PLAIN
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_corrections_keep_order_and_never_help(p_values) -> None:
    for correct in (holm, benjamini_hochberg):
        adjusted = correct(p_values)
        assert all(raw <= p + 1e-15 <= 1 + 1e-12 for raw, p in zip(p_values, adjusted, strict=True))
        by_raw = [p for _, p in sorted(zip(p_values, adjusted, strict=True))]
        assert by_raw == sorted(by_raw)


@PLAIN
@given(st.floats(-0.2, 0.2), st.floats(0.001, 0.1), st.integers(2, 500))
def test_a_wider_margin_makes_equivalence_easier(difference, error, df) -> None:
    p_values = [tost_p(difference, error, df, margin, df + 1) for margin in (0.01, 0.05, 0.2, 0.5)]
    assert p_values == sorted(p_values, reverse=True)
    assert tost_p(difference, error, df, 0.05, df + 1) == tost_p(-difference, error, df, 0.05, df + 1)


@PLAIN
@given(st.floats(0.01, 1), st.floats(0.01, 1), st.integers(2, 300))
def test_a_larger_difference_needs_no_more_users(small, more, n_users) -> None:
    sample = Sample(n_users, n_users - 1, 1.0)
    few = users_needed(small + more, sample, 0.05)
    many = users_needed(small, sample, 0.05)
    assert many is None or (few is not None and n_users <= few <= many)
