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
_NO_DIFFERENCE = 1e-12


@dataclass(frozen=True)
class PairedTest:
    """The outcome of comparing one pair of methods.

    Attributes:
        p_permutation: two-sided sign-flip permutation test of the users' summed differences.
        p_t, t: two-sided paired t-test over user means and its statistic; None where it is not defined (fewer than
            two users, or all of them differ by the same amount).
        effect: mean of the user means over their standard deviation (Cohen's d_z); None where that is 0.
        wins, ties, losses: users for whom A is better, equal, worse.
    """

    p_permutation: float
    p_t: float | None
    t: float | None
    effect: float | None
    wins: int
    ties: int
    losses: int


def paired_tests(differences: np.ndarray, sizes: np.ndarray, n_flips: int = N_FLIPS, seed: int = 0) -> list[PairedTest]:
    """Test several pairs over the same users.

    Args:
        differences: float64 (U, P); sum of A - B over the examples of each user, one column per pair.
        sizes: int (U,), examples of each user.
        n_flips: random sign flips of the permutation test.
        seed: seed of the flips, shared by all pairs.
    """
    p_permutation = sign_flip_p(differences, n_flips, seed)
    means = differences / np.asarray(sizes)[:, None]
    return [_one_pair(means[:, pair], float(p_permutation[pair])) for pair in range(differences.shape[1])]


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


def _one_pair(means: np.ndarray, p_permutation: float) -> PairedTest:
    spread = float(means.std(ddof=1)) if len(means) > 1 else 0.0
    spread = spread if spread > _NO_DIFFERENCE else 0.0
    p_t, t = _paired_t(means, spread)
    return PairedTest(
        p_permutation=p_permutation,
        p_t=p_t,
        t=t,
        effect=float(means.mean()) / spread if spread else None,
        wins=int((means > _NO_DIFFERENCE).sum()),
        ties=int((np.abs(means) <= _NO_DIFFERENCE).sum()),
        losses=int((means < -_NO_DIFFERENCE).sum()),
    )


def _paired_t(means: np.ndarray, spread: float) -> tuple[float | None, float | None]:
    """Return p and t of the one-sample t-test of user means: (1, 0) if no user differs, else None without spread."""
    from scipy import stats

    if not spread:
        unanimous_tie = len(means) > 1 and bool(np.all(np.abs(means) <= _NO_DIFFERENCE))
        return (1.0, 0.0) if unanimous_tie else (None, None)
    result = stats.ttest_1samp(means, 0.0)
    return float(result.pvalue), float(result.statistic)
