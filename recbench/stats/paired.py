"""Paired tests over users: does method A rank better than method B?

Input is the difference A - B per example, summed over each user's examples. Users are the unit: they are independent
of each other, their examples are not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

N_FLIPS = 10_000
_CELLS_AT_ONCE = 8_000_000
NO_DIFFERENCE = 1e-12


@dataclass(frozen=True)
class UserCounts:
    """For how many users A is better, equal, worse, by their own mean."""

    wins: int
    ties: int
    losses: int


def user_counts(differences: np.ndarray, sizes: np.ndarray) -> list[UserCounts]:
    """Count users by the sign of their mean difference, for each pair.

    Args:
        differences: float64 (U, P); sum of A - B over the examples of each user, one column per pair.
        sizes: int (U,), examples of each user.
    """
    means = differences / np.asarray(sizes)[:, None]
    wins, losses = (means > NO_DIFFERENCE).sum(axis=0), (means < -NO_DIFFERENCE).sum(axis=0)
    return [
        UserCounts(int(w), len(means) - int(w) - int(lost), int(lost)) for w, lost in zip(wins, losses, strict=True)
    ]


def t_test(difference: float, standard_error: float, df: float) -> tuple[float | None, float | None]:
    """Return two-sided p and t of a difference; (1, 0) where there is none at all, (None, None) without an error."""
    from scipy import stats

    if standard_error == 0:
        return (1.0, 0.0) if abs(difference) <= NO_DIFFERENCE else (None, None)
    t = difference / standard_error
    return float(2 * stats.t.sf(abs(t), df)), t


def sign_flip_p(differences: np.ndarray, n_flips: int = N_FLIPS, seed: int = 0) -> np.ndarray:
    """Return two-sided p-values of the sign-flip permutation test.

    Under the null hypothesis that the two methods are exchangeable for every user, the sign of a user's difference is
    a fair coin. The statistic is the absolute sum over users, whose mean over examples is what tables print. With few
    users all 2^U flips are taken and p is exact; otherwise p = (1 + flips at least as extreme) / (1 + flips), which is
    never 0 (Phipson and Smyth 2010).

    Args:
        differences: float64 (U, P), one column per pair.
        n_flips: random flips; with 2^U <= n_flips all flips are enumerated instead.
        seed: seed of the flips.

    Returns:
        float64 (P,).
    """
    differences = np.asarray(differences, dtype=np.float64)
    n_users, n_pairs = differences.shape
    observed = np.abs(differences.sum(axis=0))
    # Sums in another order differ by rounding; without this allowance an equal sum may count as less extreme.
    threshold = observed - 1e-12 * np.abs(differences).sum(axis=0)
    if n_users <= math.log2(n_flips):
        bits = (np.arange(2**n_users)[:, None] >> np.arange(n_users)) & 1
        return _extreme(bits, differences, threshold) / 2**n_users
    rng = np.random.default_rng(seed)
    extreme = np.zeros(n_pairs, dtype=np.int64)
    at_once = max(1, _CELLS_AT_ONCE // n_users)
    for begin in range(0, n_flips, at_once):
        bits = rng.integers(0, 2, size=(min(at_once, n_flips - begin), n_users), dtype=np.int8)
        extreme += _extreme(bits, differences, threshold)
    return (1 + extreme) / (1 + n_flips)


def _extreme(bits: np.ndarray, differences: np.ndarray, threshold: np.ndarray) -> np.ndarray:
    """Return int64 (P,): how many rows of sign bits make the sum at least as extreme as the threshold."""
    signs = 2.0 * bits - 1.0
    return (np.abs(signs @ differences) >= threshold).sum(axis=0)
