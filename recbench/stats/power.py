"""How small a difference can be found, and how many more users or seeds it would take."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable

POWER = 0.8
_AT_MOST = 1000  # times as many users or seeds: more is no advice


def detection_factor(df: float, alpha: float, power: float = POWER) -> float:
    """Return by how many standard errors a true difference must differ from 0 to be found.

    A two-sided test at ``alpha`` finds it with chance ``power``: t(1 - alpha / 2, df) + t(power, df) (Bloom 1995,
    "Minimum detectable effects"), 2.80 for many users, alpha 5% and power 80%.
    """
    from scipy import stats

    return float(stats.t.isf(alpha / 2, df) + stats.t.ppf(power, df))


def users_needed(
    difference: float, user_variance: float, seed_variance: float, n_users: int, alpha: float, power: float = POWER
) -> int | None:
    """Return how many users would let a true difference of this size be found, the seeds staying as they are.

    Args:
        difference: the difference to be found, as observed.
        user_variance: variance of the observed difference from ``n_users`` users; it falls with their number.
        seed_variance: variance from seeds, which more users do not change.
        n_users: users at hand, at least 2.
        alpha: level of the test.
        power: chance to find it.

    Returns:
        the number of users in all, at least ``n_users``; None where a thousand times as many would not do.
    """

    def found(users: int) -> bool:
        error = math.sqrt(user_variance * n_users / users + seed_variance)
        return abs(difference) >= detection_factor(users - 1, alpha, power) * error

    return _smallest(found, max(n_users, 2))


def seeds_needed(
    difference: float,
    user_variance: float,
    seed_variance: float,
    n_seeds: int,
    n_users: int,
    alpha: float,
    power: float = POWER,
) -> int | None:
    """Return how many seeds per entry would let a true difference of this size be found, with the users at hand.

    Args:
        difference, user_variance, alpha, power: as in :func:`users_needed`.
        seed_variance: variance of the difference from the seeds at hand; it falls with their number.
        n_seeds: seeds of the entry that has most of them, at least 2.
        n_users: users at hand.

    Returns:
        the number of seeds in all, at least ``n_seeds``; None where a thousand times as many would not do.
    """

    def found(seeds: int) -> bool:
        from_seeds = seed_variance * n_seeds / seeds
        total = user_variance + from_seeds
        below = user_variance**2 / max(n_users - 1, 1) + from_seeds**2 / (seeds - 1)
        df = total**2 / below if below > 0 else float(max(n_users - 1, 1))
        return abs(difference) >= detection_factor(df, alpha, power) * math.sqrt(total)

    return _smallest(found, max(n_seeds, 2))


def _smallest(found: Callable[[int], bool], n: int) -> int | None:
    """Return the smallest number from ``n`` on that finds the difference; more of them never find it less."""
    numbers = range(n, _AT_MOST * n + 1)
    place = bisect_left(numbers, True, key=found)
    return numbers[place] if place < len(numbers) else None
