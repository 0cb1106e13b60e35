"""Errors of means and of differences of means: users as clusters, seeds as a second source of chance.

A mean over examples is a ratio of two sums over users. With T_u the sum over the n_u examples of user u, N examples and
U users, its variance over users is that of the jackknife that leaves out one user at a time,

    V_users = (U - 1) / U * sum over u of (T_u - mean * n_u)^2 / (N - n_u)^2,

also known as the cluster-robust variance CR3 (Bell and McCaffrey 2002; MacKinnon, Nielsen and Webb 2023 recommend it
where clusters differ in size). For users of one example each it is the square of the usual standard error. Where few
users have most of the examples it rests on fewer degrees of freedom than U - 1: on N^2 / (sum of n_u^2) - 1 (Kish's
effective number; Carter, Schnepel and Steigerwald 2017 give the theory).

The seeds of an entry are a second sample, crossed with the users: V_seeds = s^2 / S with s the standard deviation of
its S run means. Both add up. Because S is small, tests take the t distribution with Satterthwaite's degrees of freedom,

    df = V^2 / (V_users^2 / df_users + sum over entries of V_seeds^2 / (S - 1)),

as Welch's test does. What users and seeds have in common is counted twice, so the sum is rather too large than too
small (Owen 2007, "The pigeonhole bootstrap", on crossed samples).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# A difference whose variance is smaller than this share of its parts' is a rounding error of zero.
_ZERO = 1e-14


@dataclass(frozen=True)
class SeedLevel:
    """What the runs of E entries say about seeds.

    Attributes:
        run_means: one float64 (S,) per entry, the mean over examples of each of its runs.
        models: for each entry, what names the fitted models behind its runs in the order of the runs. Entries with
            equal names rank with the same models: their seeds vary together. Others vary independently, even where
            the numbers of their seeds are equal, since two methods do different things with a seed.
    """

    run_means: tuple[np.ndarray, ...]
    models: tuple[tuple[str, ...], ...]

    def paired(self, a: int, b: int) -> bool:
        """Say whether entries ``a`` and ``b`` are two ways of ranking with the same two or more fitted models."""
        return a != b and self.models[a] == self.models[b] and len(self.run_means[a]) > 1


@dataclass(frozen=True)
class Errors:
    """Variances of E means, or (E, E) of their differences (row minus column).

    Attributes:
        users: float64, variance from the choice of users.
        seeds: float64, variance from the choice of seeds, 0 where no entry has two.
        df: float64, degrees of freedom of the sum.
        known_seeds: bool, whether ``seeds`` rests on two or more runs of an entry.
    """

    users: np.ndarray
    seeds: np.ndarray
    df: np.ndarray
    known_seeds: np.ndarray

    @property
    def standard_error(self) -> np.ndarray:
        """Square root of the total variance."""
        return np.sqrt(self.users + self.seeds)


def user_covariance(totals: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return float64 (E, E): covariance of the means over examples, by leaving out one user at a time.

    Args:
        totals: float64 (U, E), sums over each user's examples.
        sizes: int (U,), examples of each user, at least 1.

    Returns:
        zeros for a single user, of whom nothing about other users can be learnt.
    """
    sizes = np.asarray(sizes, dtype=np.float64)
    n_users, n_examples = len(sizes), sizes.sum()
    if n_users < 2:
        return np.zeros((totals.shape[1], totals.shape[1]))
    changes = (totals - np.outer(sizes, totals.sum(axis=0) / n_examples)) / (n_examples - sizes)[:, None]
    return changes.T @ changes * ((n_users - 1) / n_users)


def effective_users(sizes: np.ndarray) -> float:
    """Return N^2 / sum of n_u^2, the number of users of one size that would tell about as much (Kish 1965)."""
    sizes = np.asarray(sizes, dtype=np.float64)
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def user_df(sizes: np.ndarray) -> float:
    """Return the degrees of freedom of errors over users: effective users - 1, at least 1."""
    return max(effective_users(sizes) - 1, 1.0)


def errors_of_means(covariance: np.ndarray, df_users: float, seeds: SeedLevel) -> Errors:
    """Return the errors (E,) of the entries' means."""
    variances, terms = _seed_variances(seeds.run_means)
    return _combine(np.diag(covariance), variances, terms, df_users, _many(seeds))


def errors_of_differences(covariance: np.ndarray, df_users: float, seeds: SeedLevel) -> Errors:
    """Return the errors (E, E) of all differences of means."""
    own = np.diag(covariance)
    users = own[:, None] + own[None, :] - 2 * covariance
    users = np.where(users > _ZERO * (own[:, None] + own[None, :]), users, 0.0)
    variances, terms = _seed_variances(seeds.run_means)
    between = variances[:, None] + variances[None, :]
    between_terms = terms[:, None] + terms[None, :]
    for a, b in _paired_entries(seeds):
        differences = seeds.run_means[a] - seeds.run_means[b]
        variance, term = _seed_variances([differences])
        between[a, b] = between[b, a] = variance[0]
        between_terms[a, b] = between_terms[b, a] = term[0]
    np.fill_diagonal(between, 0.0)
    np.fill_diagonal(between_terms, 0.0)
    many = _many(seeds)
    return _combine(users, between, between_terms, df_users, many[:, None] | many[None, :])


def _seed_variances(run_means: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return (E,) variances of the means over seeds, and their terms in Satterthwaite's formula."""
    counts = np.array([len(means) for means in run_means])
    variances = np.array([means.var(ddof=1) / len(means) if len(means) > 1 else 0.0 for means in run_means])
    return variances, variances**2 / np.maximum(counts - 1, 1)


def _many(seeds: SeedLevel) -> np.ndarray:
    return np.array([len(means) > 1 for means in seeds.run_means])


def _paired_entries(seeds: SeedLevel) -> list[tuple[int, int]]:
    n = len(seeds.run_means)
    return [(a, b) for a in range(n) for b in range(a + 1, n) if seeds.paired(a, b)]


def _combine(
    users: np.ndarray, seeds: np.ndarray, seed_terms: np.ndarray, df_users: float, known: np.ndarray
) -> Errors:
    below = users**2 / df_users + seed_terms
    total = (users + seeds) ** 2
    degrees = np.divide(total, below, out=np.full_like(total, df_users), where=below > 0)
    return Errors(users, seeds, degrees, known)
