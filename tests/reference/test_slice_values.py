"""The numbers of slices against plain loops over examples and resamples."""

from __future__ import annotations

import numpy as np
import pytest

from recbench.experiment.slice_values import MIN_USERS_FOR_INTERVAL, SliceValues, UserSums, slice_values
from recbench.stats.bootstrap import cluster_totals

N_USERS, N_ENTRIES, N_SLICES, N_RESAMPLES, SEED = 40, 3, 3, 60, 5
FOCUS = np.array([False, True, True])


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values (E, N) with many zeros, users, and slices; slice 2 is of few users, and some examples are in none."""
    rng = np.random.default_rng(1)
    user = np.repeat(np.arange(N_USERS), rng.integers(1, 7, N_USERS))
    label = rng.integers(-1, 2, len(user))
    label[user < 5] = 2
    values = (rng.random((N_ENTRIES, len(user))) < 0.4) * rng.random((N_ENTRIES, len(user)))
    return values, user, label


@pytest.fixture(scope="module")
def found(data: tuple[np.ndarray, np.ndarray, np.ndarray]) -> SliceValues:
    values, user, label = data
    sums = UserSums.of(values, user, label, N_USERS, FOCUS)
    return slice_values([sums], 0, N_RESAMPLES, 200, SEED)[0]


def resamples() -> list[np.ndarray]:
    """Return the users of every resample, as :func:`recbench.stats.bootstrap.bootstrap_means` draws them."""
    drawn = np.random.default_rng(SEED).integers(0, N_USERS, size=(N_RESAMPLES, N_USERS))
    return list(drawn)


def ratio(
    values: np.ndarray, user: np.ndarray, chosen: np.ndarray, e: int, over: int | None, users: np.ndarray
) -> float:
    """Sum an entry over the chosen examples of the given users, over their number or over another entry's sum."""
    top = bottom = 0.0
    for one in users:
        rows = np.flatnonzero((user == one) & chosen)
        top += values[e, rows].sum()
        bottom += len(rows) if over is None else values[over, rows].sum()
    return top / bottom if bottom else float("nan")


def test_means_and_gains_equal_plain_loops(data: tuple[np.ndarray, ...], found: SliceValues) -> None:
    values, user, label = data
    everyone = np.arange(N_USERS)
    assert found.difference is not None
    assert found.improvement is not None
    for place in range(N_SLICES):
        chosen = label == place
        for e in range(N_ENTRIES):
            mean, base = values[e, chosen].mean(), values[0, chosen].mean()
            assert found.mean.at(place, e) == pytest.approx(mean)
            assert found.difference.at(place, e) == pytest.approx(mean - base)
            expected = ratio(values, user, chosen, e, 0, everyone) - 1
            assert found.improvement.at(place, e) == pytest.approx(expected)
            assert expected == pytest.approx(mean / base - 1)


def test_intervals_equal_percentiles_of_plain_resamples(data: tuple[np.ndarray, ...], found: SliceValues) -> None:
    values, user, label = data
    draws = resamples()
    assert found.improvement is not None
    for place in (0, 1):
        chosen = label == place
        for e in (1, 2):
            for estimates, over, less in ((found.mean, None, 0.0), (found.improvement, 0, 1.0)):
                drawn = [ratio(values, user, chosen, e, over, users) - less for users in draws]
                interval = estimates.interval(place, e)
                assert interval is not None
                assert [interval.low, interval.high] == pytest.approx(np.percentile(drawn, [2.5, 97.5]).tolist())


def test_contrasts_equal_plain_loops(data: tuple[np.ndarray, ...], found: SliceValues) -> None:
    values, user, label = data
    inside, outside = (label == 1) | (label == 2), label == 0
    everyone = np.arange(N_USERS)
    assert found.absolute is not None
    assert found.relative is not None

    def relative(users: np.ndarray, e: int) -> float:
        return ratio(values, user, inside, e, 0, users) - ratio(values, user, outside, e, 0, users)

    def absolute(users: np.ndarray, e: int) -> float:
        sides = [
            ratio(values, user, s, e, None, users) - ratio(values, user, s, 0, None, users) for s in (inside, outside)
        ]
        return sides[0] - sides[1]

    for contrast, plain in ((found.relative, relative), (found.absolute, absolute)):
        for e in range(N_ENTRIES):
            assert contrast.value[e] == pytest.approx(plain(everyone, e), abs=1e-12)
        low, high = np.percentile([plain(users, 1) for users in resamples()], [2.5, 97.5])
        assert (contrast.low[1], contrast.high[1]) == pytest.approx((low, high))
        assert contrast.p[0] == 1.0  # the baseline against itself
        assert ((contrast.p > 0) & (contrast.p <= 1)).all()


def test_a_slice_of_few_users_has_a_mean_and_no_interval(found: SliceValues) -> None:
    assert MIN_USERS_FOR_INTERVAL > 5
    assert found.mean.at(2, 1) is not None
    assert found.mean.interval(2, 1) is None
    assert found.mean.interval(0, 1) is not None


def test_without_a_hit_there_is_no_interval(data: tuple[np.ndarray, ...]) -> None:
    values, user, label = data
    values = values.copy()
    values[1, label == 0] = 0
    found = slice_values([UserSums.of(values, user, label, N_USERS, FOCUS)], 0, N_RESAMPLES, 200, SEED)[0]
    assert found.difference is not None
    assert found.improvement is not None
    assert (found.mean.at(0, 1), found.mean.interval(0, 1)) == (0.0, None)
    assert (found.improvement.at(0, 1), found.improvement.interval(0, 1)) == (-1.0, None)
    assert found.difference.interval(0, 1) is not None


def test_cuts_computed_together_are_those_computed_alone(data: tuple[np.ndarray, ...], found: SliceValues) -> None:
    values, user, label = data
    one = UserSums.of(values, user, label, N_USERS, FOCUS)
    other = UserSums.of(values, user, np.zeros_like(label), N_USERS, np.array([False]))
    whole, again = slice_values([other, one], 0, N_RESAMPLES, 200, SEED)
    assert found.improvement is not None
    assert again.improvement is not None
    np.testing.assert_allclose(again.improvement.low, found.improvement.low)
    assert whole.absolute is None
    assert whole.mean.value[0] == pytest.approx(values.mean(axis=1))


def test_a_baseline_of_zeros_has_no_relative_gain(data: tuple[np.ndarray, ...]) -> None:
    values, user, label = data
    values = values.copy()
    values[0, label == 1] = 0
    sums = UserSums.of(values, user, label, N_USERS, np.array([False, True, False]))
    found = slice_values([sums], 0, N_RESAMPLES, 200, SEED)[0]
    assert found.improvement is not None
    assert found.relative is not None
    assert found.absolute is not None
    assert found.improvement.at(1, 1) is None
    assert found.improvement.at(0, 1) is not None
    assert np.isnan(found.relative.value).all()
    assert np.isnan(found.relative.p).all()
    assert not np.isnan(found.absolute.p).any()


def test_a_gain_over_one_hit_has_no_interval(data: tuple[np.ndarray, ...]) -> None:
    # A third of all resamples lacks the one user whom the baseline hits: there the gain is not defined.
    values, user, label = data
    values = values.copy()
    values[0, label == 1] = 0
    values[0, np.flatnonzero(label == 1)[0]] = 1
    sums = UserSums.of(values, user, label, N_USERS, np.array([False, True, False]))
    found = slice_values([sums], 0, N_RESAMPLES, 200, SEED)[0]
    assert found.improvement is not None
    assert found.improvement.at(1, 1) is not None
    assert found.improvement.interval(1, 1) is None
    assert found.mean.interval(1, 1) is not None


def test_user_sums_are_cluster_totals_of_each_slice(data: tuple[np.ndarray, ...]) -> None:
    values, user, label = data
    sums = UserSums.of(values, user, label, N_USERS, FOCUS)
    for place in range(N_SLICES):
        expected = cluster_totals((values * (label == place)).T, user, N_USERS)
        np.testing.assert_allclose(sums.totals[:, place], expected)
        assert np.array_equal(sums.counts[:, place], np.bincount(user[label == place], minlength=N_USERS))
