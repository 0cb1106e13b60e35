"""How small a difference can be found, and how many more users or seeds it would take."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

POWER = 0.8
_AT_MOST = 1000  # times as many users or seeds: more is no advice


@dataclass(frozen=True)
class Sample:
    """Where the error of a difference comes from.

    Attributes:
        n_users: U, at least 2.
        df_users: degrees of freedom of the error over users (:func:`recbench.stats.clustered.user_df`).
        user_variance: variance of the difference from users; it falls with their number.
        n_seeds: seeds of the entry that has most of them; 1 where there is nothing known about seeds.
        seed_variance: variance of the difference from seeds; it falls with their number.
    """

    n_users: int
    df_users: float
    user_variance: float
    n_seeds: int = 1
    seed_variance: float = 0.0

    def error(self, n_users: int, n_seeds: int) -> tuple[float, float]:
        """Return the standard error that other numbers of users and seeds would have, and its degrees of freedom."""
        from_users = self.user_variance * self.n_users / n_users
        from_seeds = self.seed_variance * self.n_seeds / n_seeds
        df_users = max((self.df_users + 1) * n_users / self.n_users - 1, 1.0)
        below = from_users**2 / df_users + from_seeds**2 / max(n_seeds - 1, 1)
        total = from_users + from_seeds
        return math.sqrt(total), total**2 / below if below > 0 else df_users


def detection_factor(df: float, alpha: float, power: float = POWER) -> float:
    """Return by how many standard errors a true difference must differ from 0 to be found.

    A two-sided test at ``alpha`` finds it with chance ``power``: t(1 - alpha / 2, df) + t(power, df) (Bloom 1995,
    "Minimum detectable effects"), 2.80 for many users, alpha 5% and power 80%.
    """
    from scipy import stats

    return float(stats.t.isf(alpha / 2, df) + stats.t.ppf(power, df))


def users_needed(difference: float, sample: Sample, alpha: float, power: float = POWER) -> int | None:
    """Return how many users would let a true difference of this size be found, the seeds staying as they are.

    Args:
        difference: the difference to be found, as observed.
        sample: the users and seeds at hand.
        alpha: level of the test.
        power: chance to find it.

    Returns:
        the number of users in all, at least those at hand; None where a thousand times as many would not do.
    """
    return _smallest(lambda users: _found(difference, sample, users, sample.n_seeds, alpha, power), sample.n_users)


def seeds_needed(difference: float, sample: Sample, alpha: float, power: float = POWER) -> int | None:
    """Return how many seeds per entry would do, the users staying as they are; as :func:`users_needed`."""
    return _smallest(
        lambda seeds: _found(difference, sample, sample.n_users, seeds, alpha, power), max(sample.n_seeds, 2)
    )


def multiple_needed(difference: float, sample: Sample, alpha: float, power: float = POWER) -> int | None:
    """Return how many times as many users and seeds together would do; as :func:`users_needed`."""
    return _smallest(
        lambda times: _found(difference, sample, times * sample.n_users, times * sample.n_seeds, alpha, power), 1
    )


def _found(difference: float, sample: Sample, n_users: int, n_seeds: int, alpha: float, power: float) -> bool:
    error, df = sample.error(n_users, n_seeds)
    return abs(difference) >= detection_factor(df, alpha, power) * error


def _smallest(found: Callable[[int], bool], n: int) -> int | None:
    """Return the smallest number from ``n`` on that finds the difference; more of them never find it less."""
    numbers = range(n, _AT_MOST * n + 1)
    place = bisect_left(numbers, True, key=found)
    return numbers[place] if place < len(numbers) else None
